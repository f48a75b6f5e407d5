//! Alerts by mail: to a server that refuses, delays, hangs or lies, and to a real one.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::support::{Site, eventually, platform, write};

const USER: &str = "alerts@example.com";
const PASSWORD: &str = "swordfish+7";

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behavior {
    Accepts,
    OffersNoTls,
    RejectsTheLogin,
    /// The first message for each recipient is to come again.
    Greylists,
    RejectsTheRecipient,
    Hangs,
    Floods,
    AnswersInTerminalCodes,
}

/// A message that a server took.
#[derive(Debug, Clone)]
struct Taken {
    encrypted: bool,
    login: Option<String>,
    to: Vec<String>,
    content: String,
}

/// A mail server.
struct Server {
    address: String,
    taken: Arc<Mutex<Vec<Taken>>>,
    authority_pem: String,
}

struct Inner {
    behavior: Behavior,
    taken: Arc<Mutex<Vec<Taken>>>,
    seen: Mutex<bool>,
    tls: TlsAcceptor,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A certificate for `localhost`, its key, and the certificate of the authority, as PEM.
fn certificate() -> (rcgen::Certificate, KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate, key, authority_pem)
}

impl Server {
    async fn start(behavior: Behavior) -> Self {
        Self::encrypted(behavior, false).await
    }

    async fn encrypted(behavior: Behavior, from_the_start: bool) -> Self {
        let (certificate, key, authority_pem) = certificate();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let taken = Arc::default();
        let inner = Arc::new(Inner {
            behavior,
            taken: Arc::clone(&taken),
            seen: Mutex::new(false),
            tls: TlsAcceptor::from(Arc::new(config)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move { inner.serve(stream, from_the_start).await });
            }
        });
        Self {
            address,
            taken,
            authority_pem,
        }
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

impl Inner {
    /// Ends when the client hangs up.
    async fn serve(&self, stream: TcpStream, from_the_start: bool) -> Option<()> {
        let mut wire: BufReader<Box<dyn Wire>> = if from_the_start {
            BufReader::new(Box::new(self.tls.accept(stream).await.ok()?))
        } else {
            BufReader::new(Box::new(stream))
        };
        let mut mail = Taken {
            encrypted: from_the_start,
            login: None,
            to: Vec::new(),
            content: String::new(),
        };
        match self.behavior {
            Behavior::Hangs => std::future::pending().await,
            Behavior::Floods => {
                let piece = vec![b'x'; 64 * 1024];
                loop {
                    wire.write_all(&piece).await.ok()?;
                }
            }
            _ => {}
        }
        let mut answer = "220 mail.example.com ESMTP\r\n".to_owned();
        loop {
            wire.write_all(answer.as_bytes()).await.ok()?;
            wire.flush().await.ok()?;
            let line = line(&mut wire).await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            answer = match verb {
                "EHLO" => {
                    let tls = !mail.encrypted && self.behavior != Behavior::OffersNoTls;
                    let tls = if tls { "250-STARTTLS\r\n" } else { "" };
                    format!("250-mail.example.com\r\n{tls}250 AUTH PLAIN LOGIN\r\n")
                }
                "STARTTLS" => {
                    wire.write_all(b"220 ready\r\n").await.ok()?;
                    let stream = self.tls.accept(wire.into_inner()).await.ok()?;
                    wire = BufReader::new(Box::new(stream));
                    mail.encrypted = true;
                    answer = String::new();
                    continue;
                }
                "AUTH" => {
                    let given = line.rsplit(' ').next().unwrap_or_default();
                    let given = BASE64_STANDARD.decode(given).unwrap();
                    let expected = format!("\0{USER}\0{PASSWORD}");
                    if given == expected.as_bytes() && self.behavior != Behavior::RejectsTheLogin {
                        mail.login = Some(USER.to_owned());
                        "235 2.7.0 welcome\r\n".to_owned()
                    } else {
                        // A server may repeat what it got.
                        let given = BASE64_STANDARD.encode(given);
                        format!("535 5.7.8 bad login {PASSWORD} {given}\r\n")
                    }
                }
                "RCPT" => {
                    let greylisted = self.behavior == Behavior::Greylists
                        && !std::mem::replace(&mut *self.seen.lock().unwrap(), true);
                    if greylisted {
                        "451 4.7.1 greylisted, come again\r\n".to_owned()
                    } else if self.behavior == Behavior::RejectsTheRecipient {
                        "550 5.1.1 no such user\r\n".to_owned()
                    } else if self.behavior == Behavior::AnswersInTerminalCodes {
                        "550 \u{1b}[2J\u{202e}gone\r\n".to_owned()
                    } else {
                        mail.to.push(line.clone());
                        "250 2.1.5 fine\r\n".to_owned()
                    }
                }
                "DATA" => {
                    wire.write_all(b"354 go ahead\r\n").await.ok()?;
                    wire.flush().await.ok()?;
                    loop {
                        let line = self::line(&mut wire).await?;
                        if line == "." {
                            break;
                        }
                        mail.content += &format!("{line}\n");
                    }
                    self.taken.lock().unwrap().push(mail.clone());
                    "250 2.0.0 queued\r\n".to_owned()
                }
                "QUIT" => "221 2.0.0 bye\r\n".to_owned(),
                _ => "250 2.0.0 fine\r\n".to_owned(),
            };
        }
    }
}

async fn line(wire: &mut BufReader<Box<dyn Wire>>) -> Option<String> {
    let mut line = String::new();
    let count = wire.read_line(&mut line).await.ok()?;
    (count > 0).then(|| line.trim_end().to_owned())
}

/// A site whose alert `team` sends mail by way of a server.
async fn site(address: &str, authority_pem: &str, keys: &str) -> (Site, PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let (authority, password) = (site.path("authority.pem"), site.path("password"));
    std::fs::write(&authority, authority_pem).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file.open(&password).unwrap();
    std::io::Write::write_all(&mut file, format!("{PASSWORD}\n").as_bytes()).unwrap();
    site.tables += &format!(
        "[network]\nca_file = {authority:?}\ntotal_timeout = \"2s\"\n\
         [[alert]]\nname = \"team\"\nsmtp = {address:?}\ngroup = \"0s\"\n\
         from = \"itwin-syncd <alerts@example.com>\"\nto = [\"cad@example.com\", \"Büro <b@example.com>\"]\n{keys}"
    );
    if !keys.contains("\"none\"") {
        site.tables += &format!("smtp_user = {USER:?}\nsmtp_password_file = {password:?}\n");
    }
    (site, folder)
}

#[tokio::test]
async fn a_failure_is_mailed_encrypted_and_with_a_login() {
    for from_the_start in [false, true] {
        let server = Server::encrypted(Behavior::Accepts, from_the_start).await;
        let keys = if from_the_start {
            "smtp_tls = \"tls\"\n"
        } else {
            ""
        };
        let (site, folder) = site(&server.address, &server.authority_pem, keys).await;
        write(&folder.join("empty.ifc"), "");
        let daemon = site.start();
        eventually(|| !server.taken().is_empty(), || daemon.log()).await;
        let mail = server.taken().remove(0);
        assert!(mail.encrypted);
        assert_eq!(mail.login.as_deref(), Some(USER));
        assert_eq!(mail.to.len(), 2, "{mail:?}");
        for text in [
            "Subject: itwin-syncd on ",
            "1 file failed",
            "Auto-Submitted: auto-generated",
            "north: \"empty.ifc\": cannot upload",
            "Message-ID: <",
            "Date: ",
        ] {
            assert!(mail.content.contains(text), "{text}: {}", mail.content);
        }
        daemon.says("alert sent").await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_greylisted_message_is_sent_again() {
    let server = Server::start(Behavior::Greylists).await;
    let (site, folder) = site(&server.address, &server.authority_pem, "").await;
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    daemon.says("451").await;
    eventually(|| server.taken().len() == 1, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_test_message_says_why_it_was_not_delivered() {
    for (behavior, text, hint) in [
        (Behavior::OffersNoTls, "offers no STARTTLS", "587"),
        (
            Behavior::RejectsTheLogin,
            "rejected the login",
            "smtp_password_file",
        ),
        (Behavior::Greylists, "greylisted, come again", ""),
        (
            Behavior::RejectsTheRecipient,
            "rejected the message: permanent error (550): 5.1.1 no such user",
            "check from and to",
        ),
        (Behavior::Hangs, "did not finish within 2 s", "firewall"),
        (Behavior::Floods, "sent more than 262144 bytes", ""),
        (Behavior::AnswersInTerminalCodes, "gone", ""),
    ] {
        let server = Server::start(behavior).await;
        let (site, _folder) = site(&server.address, &server.authority_pem, "").await;
        let ended = site.run(&["alert", "test", "team"]).await;
        assert_eq!(ended.code, Some(1), "{behavior:?}: {ended:?}");
        assert!(ended.err.contains(text), "{behavior:?}: {ended:?}");
        assert!(ended.err.contains(hint), "{behavior:?}: {ended:?}");
        for secret in ["swordfish", "c3dvcmRmaXNo", "\u{1b}", "\u{202e}"] {
            assert!(!ended.err.contains(secret), "{behavior:?}: {ended:?}");
        }
        assert!(server.taken().is_empty(), "{behavior:?}");
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_of_someone_else_gets_nothing() {
    let server = Server::start(Behavior::Accepts).await;
    let (_, _, other_authority) = certificate();
    for keys in ["", "smtp_tls = \"tls\"\n"] {
        let (site, _folder) = site(&server.address, &other_authority, keys).await;
        let ended = site.run(&["alert", "test", "team"]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("cannot encrypt"), "{ended:?}");
        assert!(server.taken().is_empty());
    }
}

#[tokio::test]
async fn an_alert_is_tested_and_an_unknown_one_is_named() {
    let server = Server::start(Behavior::Accepts).await;
    let (site, _folder) = site(
        &server.address,
        &server.authority_pem,
        "smtp_tls = \"none\"\n",
    )
    .await;
    let ended = site.run(&["alert", "test", "team"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mail = server.taken().remove(0);
    assert!(mail.content.contains("nothing is wrong"), "{mail:?}");
    let ended = site.run(&["alert", "test", "tema"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("names: \"team\""), "{ended:?}");
}

#[tokio::test]
async fn the_log_has_what_a_failed_program_printed() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[[alert]]\nname = \"team\"\ngroup = \"0s\"\n\
        command = [\"sh\", \"-c\", \"echo 'postdrop: permission denied' >&2; sleep 60 & exit 3\"]\n";
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    daemon.says("postdrop: permission denied").await;
    daemon.says("exit status: 3").await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs a mail server (Debian: python3-aiosmtpd)"]
async fn a_real_mail_server_takes_the_message() {
    let (certificate, key, authority_pem) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let [cert, key_file] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let script = "import ssl, sys, time\n\
        from aiosmtpd.controller import Controller\n\
        from aiosmtpd.handlers import Mailbox\n\
        from aiosmtpd.smtp import AuthResult\n\
        cert, key, box, user, password = sys.argv[1:6]\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(cert, key)\n\
        def login(server, session, envelope, mechanism, data):\n\
        \x20   good = (data.login, data.password) == (user.encode(), password.encode())\n\
        \x20   return AuthResult(success=good)\n\
        import socket\n\
        free = socket.socket(); free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]; free.close()\n\
        server = Controller(Mailbox(box), hostname='127.0.0.1', port=port, tls_context=context,\n\
        \x20   require_starttls=True, authenticator=login, auth_required=True)\n\
        server.start()\n\
        print(port, flush=True)\n\
        time.sleep(600)\n";
    let mut server = tokio::process::Command::new("/usr/bin/python3")
        .args(["-c", script])
        .args([&cert, &key_file, &folder.path().join("box")])
        .args([USER, PASSWORD])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut printed = BufReader::new(server.stdout.take().unwrap());
    printed.read_line(&mut port).await.unwrap();
    let address = format!("localhost:{}", port.trim());
    let (site, watched) = site(&address, &authority_pem, "").await;
    let ended = site.run(&["alert", "test", "team"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    write(&watched.join("empty.ifc"), "");
    let daemon = site.start();
    let mails = || {
        let new = std::fs::read_dir(folder.path().join("box/new"));
        let mails = new.into_iter().flatten();
        mails
            .map(|mail| std::fs::read_to_string(mail.unwrap().path()).unwrap())
            .collect::<Vec<_>>()
    };
    eventually(|| mails().len() == 2, || daemon.log()).await;
    daemon.stop().await;
    let all = mails().join("\n");
    for text in [
        "test of alert",
        "1 file failed",
        "X-RcptTo: cad@example.com",
    ] {
        assert!(all.contains(text), "{text}: {all}");
    }
}
