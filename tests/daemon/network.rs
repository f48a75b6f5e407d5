//! Company networks: a proxy that opens TLS with an authority of its own, one that asks for a password, one that never
//! answers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use itwin_syncd::emulator::Fault;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Site, platform, write};

/// The platform's name behind the proxy, and that of its storage of content. Neither has an address.
const API: &str = "api.itwin.test";
const BLOBS: &str = "blobs.itwin.test";

const AUTHORITY: &str = "Example Company Inspection CA";

const PASSWORD: &str = "swordfish+7";

/// How the proxy is at the moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    AsksForPassword,
    Refuses,
    NeverAnswers,
}

/// A CONNECT proxy that shows certificates of its own and passes everything on to the emulator.
struct Proxy {
    address: String,
    authority_pem: String,
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mutex<Mode>,
    /// Hosts that a way was asked for.
    asked: Mutex<Vec<String>>,
    issuer: Issuer<'static, KeyPair>,
    /// What the emulator calls itself, and what it is called outside.
    names: [(String, String); 2],
    client: reqwest::Client,
    /// Whether upload addresses are those outside.
    hides_blobs: std::sync::atomic::AtomicBool,
}

impl Proxy {
    async fn start(site: &Site, mode: Mode) -> Self {
        Self::speaking("http", site, mode).await
    }

    /// One that is spoken to by `scheme`.
    async fn speaking(scheme: &str, site: &Site, mode: Mode) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, AUTHORITY);
        let authority_pem = params.self_signed(&key).unwrap().pem();
        let inner = Arc::new(Inner {
            mode: Mutex::new(mode),
            asked: Mutex::default(),
            issuer: Issuer::new(params, key),
            names: [
                (site.emulator.api_url().to_owned(), format!("https://{API}")),
                (
                    site.emulator.blob_url().to_owned(),
                    format!("https://{BLOBS}"),
                ),
            ],
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            hides_blobs: true.into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let served = Arc::clone(&inner);
        let tls = (scheme == "https").then(|| inner.as_host("127.0.0.1"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, tls) = (Arc::clone(&served), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => served.serve(stream).await,
                        Some(tls) => {
                            // A client that does not trust it hangs up.
                            if let Ok(stream) = tls.accept(stream).await {
                                served.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            authority_pem,
            inner,
        }
    }

    fn set(&self, mode: Mode) {
        *self.inner.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> Vec<String> {
        self.inner.asked.lock().unwrap().clone()
    }

    fn keys(&self) -> String {
        format!("[network]\nproxy = {:?}\n", self.address)
    }

    /// The authority's certificate, in a file of the site.
    fn authority(&self, site: &Site) -> String {
        let path = site.path("company-ca.pem");
        std::fs::write(&path, &self.authority_pem).unwrap();
        format!("ca_file = {path:?}\n")
    }
}

impl Inner {
    async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| Arc::clone(&self).way(request));
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .ok();
    }

    /// Answers a CONNECT.
    async fn way(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answer = |status| {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = status;
            answer
        };
        let target = request.uri().authority().unwrap().clone();
        self.asked.lock().unwrap().push(target.to_string());
        let login = request.headers().get("proxy-authorization").cloned();
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Open => {}
            // "me" and the password
            Mode::AsksForPassword
                if login.is_some_and(|login| login == "Basic bWU6c3dvcmRmaXNoKzc=") => {}
            Mode::AsksForPassword => {
                return Ok(answer(StatusCode::PROXY_AUTHENTICATION_REQUIRED));
            }
            Mode::Refuses => return Ok(answer(StatusCode::FORBIDDEN)),
            Mode::NeverAnswers => std::future::pending().await,
        }
        tokio::spawn(async move {
            let wire = hyper::upgrade::on(&mut request).await.unwrap();
            self.open(TokioIo::new(wire), target.host()).await;
        });
        Ok(answer(StatusCode::OK))
    }

    /// Can speak as `host`, with a certificate that the company's authority issued a moment ago.
    fn as_host(&self, host: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Serves what comes through the tunnel to `host`.
    async fn open(self: Arc<Self>, wire: TokioIo<hyper::upgrade::Upgraded>, host: &str) {
        // A client that does not trust it hangs up.
        let Ok(stream) = self.as_host(host).accept(wire).await else {
            return;
        };
        let target = usize::from(host == BLOBS);
        let service = service_fn(move |request| Arc::clone(&self).pass_on(request, target));
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    }

    async fn pass_on(
        self: Arc<Self>,
        request: Request<Incoming>,
        target: usize,
    ) -> Result<Response<Full<Bytes>>, reqwest::Error> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let mut headers = parts.headers;
        headers.remove("host");
        let answer = self
            .client
            .request(
                parts.method,
                format!("{}{}", self.names[target].0, parts.uri),
            )
            .headers(headers)
            .body(body.unwrap_or_default())
            .send()
            .await?;
        let mut answered = Response::new(Full::default());
        *answered.status_mut() = answer.status();
        for (name, value) in answer.headers() {
            if name != "content-length" && name != "transfer-encoding" {
                let value = self.outside(value.to_str().unwrap());
                answered.headers_mut().append(name, value.parse().unwrap());
            }
        }
        let body = answer.bytes().await?;
        *answered.body_mut() = match std::str::from_utf8(&body) {
            Ok(text) => Full::from(self.outside(text)),
            Err(_) => Full::from(body),
        };
        Ok(answered)
    }

    fn outside(&self, text: &str) -> String {
        let [api, blobs] = &self.names;
        let text = text.replace(&api.0, &api.1);
        if self.hides_blobs.load(std::sync::atomic::Ordering::Relaxed) {
            text.replace(&blobs.0, &blobs.1)
        } else {
            text
        }
    }
}

/// A site whose platform is behind a proxy.
async fn behind_a_proxy(mode: Mode) -> (Site, std::path::PathBuf, Proxy) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let proxy = Proxy::start(&site, mode).await;
    site.platform = Some(format!("https://{API}"));
    site.tables += &proxy.keys();
    (site, folder, proxy)
}

#[tokio::test]
async fn a_tls_inspecting_proxy_needs_its_ca_and_check_names_it() {
    let (mut site, folder, proxy) = behind_a_proxy(Mode::Open).await;
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    for part in [
        "FAILED  connection to https://api.itwin.test: host api.itwin.test:443: untrusted certificate",
        "issued by \"CN=Example Company Inspection CA\"",
        "network.ca_file",
    ] {
        assert!(check.out.contains(part), "no {part}: {}", check.out);
    }
    assert!(site.emulator.requests().is_empty());

    site.tables += &proxy.authority(&site);
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let way = format!(
        "ok      https://api.itwin.test: reachable through proxy {}, certificate issued by \"CN=Example Company Inspection CA\"",
        proxy.address.trim_start_matches("http://")
    );
    assert!(check.out.contains(&way), "{}", check.out);

    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    for host in [API, BLOBS] {
        let host = format!("{host}:443");
        assert!(proxy.asked().contains(&host), "{:?}", proxy.asked());
    }
}

#[tokio::test]
async fn hosts_in_no_proxy_are_reached_directly() {
    let (mut site, _folder, proxy) = behind_a_proxy(Mode::Open).await;
    site.tables += "no_proxy = [\".itwin.test\"]\n";
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(
        check
            .out
            .contains("host api.itwin.test:443: cannot resolve the name"),
        "{}",
        check.out
    );
    assert!(proxy.asked().is_empty(), "{:?}", proxy.asked());
}

#[tokio::test]
async fn a_proxy_password_is_sent_to_the_proxy_only() {
    let (mut site, folder, proxy) = behind_a_proxy(Mode::AsksForPassword).await;
    site.tables += &proxy.authority(&site);
    let hop = format!("proxy {}", proxy.address.trim_start_matches("http://"));
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    let asks = format!("{hop}: authentication required (407");
    assert!(check.out.contains(&asks), "{}", check.out);
    assert!(check.out.contains("network.proxy_user"), "{}", check.out);

    let login = |password: &str| {
        let path = site.path("proxy-password");
        std::fs::write(&path, password).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        format!("proxy_user = \"me\"\nproxy_password_file = {path:?}\n")
    };
    let keys = login("marlin");
    site.tables += &keys;
    let check = site.run(&["check"]).await;
    let refused = format!("{hop}: wrong user name or password (407");
    assert!(check.out.contains(&refused), "{}", check.out);
    assert!(!check.out.contains("marlin"), "{}", check.out);

    std::fs::write(site.path("proxy-password"), PASSWORD).unwrap();
    site.top += "[log]\nlevel = \"trace\"\n";
    write(&folder.join("house.ifc"), "house");
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let (_, log) = daemon.stop().await;
    for secret in [PASSWORD, "bWU6"] {
        assert!(!log.contains(secret), "{log}");
        assert!(!check.out.contains(secret), "{}", check.out);
    }
}

#[tokio::test]
async fn a_proxy_that_never_answers_or_refuses_is_named_and_retried() {
    let (mut site, folder, proxy) = behind_a_proxy(Mode::NeverAnswers).await;
    site.tables += &proxy.authority(&site);
    site.tables += "connect_timeout = \"500ms\"\n";
    let hop = format!("proxy {}", proxy.address.trim_start_matches("http://"));
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    let silent = format!("{hop}: no response to CONNECT");
    assert!(check.out.contains(&silent), "{}", check.out);

    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    let output = format!("cannot reach {API} (through {hop})");
    daemon.says(&output).await;
    proxy.set(Mode::Refuses);
    let check = site.run(&["check"]).await;
    let refuses = format!("{hop}: connection to api.itwin.test:443 rejected (403");
    assert!(check.out.contains(&refuses), "{}", check.out);
    proxy.set(Mode::Open);
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_unreachable_proxy_is_named() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    site.platform = Some(format!("https://{API}"));
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    site.tables += &format!("[network]\nproxy = \"http://{address}\"\n");
    let check = site.run(&["check"]).await;
    let refused = format!("proxy {address}: cannot connect: Connection refused");
    assert!(check.out.contains(&refused), "{}", check.out);
}

#[tokio::test]
async fn a_request_without_a_response_times_out_and_is_retried() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[network]\ntotal_timeout = \"500ms\"\n";
    site.emulator.fault(
        Fault::on("GET /imodels/*")
            .latency(std::time::Duration::from_millis(3_600_000))
            // More than are tried in place.
            .times(4),
    );
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("timed out").await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_stalled_upload_times_out_and_is_retried() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[network]\nidle_timeout = \"1s\"\n[upload]\nblock_size = \"16MiB\"\n";
    site.emulator.fault(
        Fault::on("PUT *")
            .slow(1)
            // As often as it is tried in place.
            .times(3),
    );
    // More than the buffers on the way hold.
    std::fs::write(folder.join("large.ifc"), vec![b'x'; 16 * 1024 * 1024]).unwrap();
    let daemon = site.start();
    daemon.says("transfer stalled").await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_https_proxy_must_be_trusted_too() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let proxy = Proxy::speaking("https", &site, Mode::Open).await;
    site.platform = Some(format!("https://{API}"));
    site.tables += &proxy.keys();
    let check = site.run(&["check"]).await;
    let hop = format!(
        "proxy {}: untrusted certificate, issued by \"CN=Example Company Inspection CA\"",
        proxy.address.trim_start_matches("https://")
    );
    assert!(check.out.contains(&hop), "{}", check.out);
    site.tables += &proxy.authority(&site);
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_upload_address_without_tls_is_refused_by_a_platform_with_tls() {
    let (mut site, folder, proxy) = behind_a_proxy(Mode::Open).await;
    site.tables += &proxy.authority(&site);
    // The platform has TLS, and its storage of content stays at a plain address of this machine.
    proxy
        .inner
        .hides_blobs
        .store(false, std::sync::atomic::Ordering::Relaxed);
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon
        .says("invalid upload address, or one without TLS")
        .await;
    assert!(site.requests("PUT", "").is_empty());
    proxy
        .inner
        .hides_blobs
        .store(true, std::sync::atomic::Ordering::Relaxed);
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}
