//! What a server or what is before it can have wrong: it is refused or waited for, and the message says what to do.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::process::{Child, Command};

use super::{
    Server, admin, database, execute, name_of, refused_and_found, shared_server, use_database,
};
use crate::support::{Site, eventually, platform, write};

/// Gives a new file to the user of the server.
pub(super) fn give(file: &Path, data: &str) {
    let owner = std::fs::metadata(data).unwrap();
    chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    let mode = std::fs::Permissions::from_mode(if file.is_dir() { 0o700 } else { 0o600 });
    std::fs::set_permissions(file, mode).unwrap();
}

/// Gives the server a certificate for this address, which ends in that year; the authority's, as PEM.
async fn encrypt(server: &Server, address: &str, year: i32) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![address.to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    for (name, content) in [
        ("server.crt", certificate),
        ("server.key", key.serialize_pem()),
    ] {
        let file = Path::new(&server.data).join(name);
        std::fs::write(&file, content).unwrap();
        give(&file, &server.data);
    }
    execute(
        &mut admin(&server.url).await,
        "ALTER SYSTEM SET ssl = on".to_owned(),
    )
    .await;
    server.control(&["-m", "fast", "restart"]).await;
    authority
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_certificate_that_is_not_valid_is_refused_and_the_message_says_why() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    // Another address of this host, which does not count as one: only there is no encryption needed.
    let url = database(&server.url).await.replace("127.0.0.1", "0.0.0.0");
    use_database(&mut site, &url);
    let tables = site.tables.clone();
    let file = site.path("authority.pem");
    let with_authority = |site: &mut Site, pem: &str| {
        std::fs::write(&file, pem).unwrap();
        site.tables = format!("ca_file = {file:?}\n{tables}");
    };

    let printed = refused_and_found(&site).await;
    assert!(printed.contains("needs ssl = on"), "{printed}");

    let authority = encrypt(&server, "0.0.0.0", 4000).await;
    let printed = refused_and_found(&site).await;
    assert!(printed.contains("set state.ca_file"), "{printed}");
    with_authority(&mut site, &authority);
    for arguments in [&["run", "--once"][..], &["check"]] {
        let done = site.run(arguments).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }

    for (address, year, hint) in [
        (
            "db.example.com",
            4000,
            "write the host in state.url as the server's certificate names it",
        ),
        (
            "0.0.0.0",
            2020,
            "renew the certificate of the database server",
        ),
    ] {
        let authority = encrypt(&server, address, year).await;
        with_authority(&mut site, &authority);
        let printed = refused_and_found(&site).await;
        assert!(printed.contains(hint), "{printed}");
        let status = site.run(&["status"]).await;
        assert!(
            status.code == Some(1) && status.err.contains(hint),
            "{status:?}"
        );
    }
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_does_not_wait_for_its_disk_is_refused() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    use_database(&mut site, &database(&server.url).await);
    let set = "ALTER SYSTEM SET fsync = off".to_owned();
    execute(&mut admin(&server.url).await, set).await;
    server.control(&["-m", "fast", "restart"]).await;
    let printed = refused_and_found(&site).await;
    assert!(
        printed.contains("has fsync = off") && printed.contains("set fsync = on"),
        "{printed}"
    );
    assert!(site.emulator.state().files.is_empty());
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_cannot_be_found_is_waited_for_and_the_message_says_where_to_look() {
    let (mut site, _) = Site::with_folder(platform()).await;
    use_database(&mut site, "postgres://u@nowhere.invalid/ledger");
    let hint =
        "check that the server runs and that this host reaches it; and host and port in state.url";
    for arguments in [&["status"][..], &["check"]] {
        let done = site.run(arguments).await;
        let printed = format!("{}{}", done.out, done.err);
        assert!(
            done.code == Some(1) && printed.contains(hint),
            "{arguments:?}: {done:?}"
        );
    }
    let daemon = site.start();
    daemon.says("waiting for it").await;
    assert!(daemon.log().contains(hint), "{}", daemon.log());
    daemon.kill().await;
}

/// A pooler before the server, which ends with this.
struct Pooler {
    process: Child,
    /// The URL, by way of the pooler.
    url: String,
}

impl Pooler {
    async fn start(server: &Server, url: &str, mode: &str, ignored: &str) -> Self {
        let (_, place) = server.url.split_once('@').unwrap();
        let (place, _) = place.split_once('/').unwrap();
        let (_, port) = place.split_once(':').unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = free.local_addr().unwrap().port();
        drop(free);
        let (folder, _) = server.data.rsplit_once('/').unwrap();
        let name = name_of(url);
        let users = Path::new(folder).join("users");
        std::fs::write(&users, format!("\"{name}\" \"\"\n")).unwrap();
        let file = Path::new(folder).join("pooler.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\nignore_startup_parameters = {ignored}\n",
            users.display()
        );
        std::fs::write(&file, text).unwrap();
        for file in [&users, &file] {
            give(file, &server.data);
        }
        // It refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres"]);
        command.args(["--clear-groups", "/usr/sbin/pgbouncer", "-q"]);
        let process = command
            .arg(&file)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let is_there = || std::net::TcpStream::connect(("127.0.0.1", own)).is_ok();
        eventually(is_there, || "the pooler should start".to_owned()).await;
        Self {
            process,
            url: url.replace(&format!(":{port}/"), &format!(":{own}/")),
        }
    }

    async fn end(mut self) {
        self.process.kill().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL, PgBouncer and root: run tests/all"]
async fn a_pooler_before_the_server_is_refused_because_a_session_is_not_one() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let tables = site.tables.clone();
    let url = database(&server.url).await;
    let hint = "write the server itself in state.url, not a pooler such as PgBouncer";
    for (mode, ignored) in [
        ("transaction", ""),
        ("transaction", "extra_float_digits, options"),
        ("session", "extra_float_digits, options"),
    ] {
        let pooler = Pooler::start(&server, &url, mode, ignored).await;
        site.tables.clone_from(&tables);
        use_database(&mut site, &pooler.url);
        let printed = refused_and_found(&site).await;
        assert!(printed.contains(hint), "{mode} {ignored:?}: {printed}");
        pooler.end().await;
    }
    assert!(site.emulator.state().files.is_empty());
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_role_that_does_not_wait_for_the_disk_does_so_for_the_ledger() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let server = shared_server();
    let url = database(&server).await;
    let set = format!("ALTER ROLE {} SET synchronous_commit = off", name_of(&url));
    execute(&mut admin(&server).await, set).await;
    use_database(&mut site, &url);
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    let mut own = admin(&url).await;
    // Each transaction that adds a file notes its setting.
    execute(
        &mut own,
        "CREATE TABLE seen (setting TEXT); \
         CREATE FUNCTION note() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER INSERT ON files EXECUTE FUNCTION note()"
            .to_owned(),
    )
    .await;
    write(&folder.join("b.ifc"), "b");
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    let seen: Vec<String> = sqlx::query_scalar("SELECT DISTINCT setting FROM seen")
        .fetch_all(&mut own)
        .await
        .unwrap();
    assert_eq!(seen, ["on"]);
}
