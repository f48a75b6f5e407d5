//! The ledger in a database of a PostgreSQL server: the same promises, also while the server is away.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets.

#[cfg(feature = "failpoints")]
pub mod ledger_copy;
mod outages;
mod server_settings;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use itwin_syncd::emulator::Fault;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Daemon, Finished, Site, assert_in_imodel, eventually, platform, write};

/// The server that all tests share.
pub fn shared_server() -> String {
    std::env::var("ITWIN_SYNCD_TEST_POSTGRES").expect("tests/postgres/with-server sets it")
}

async fn admin(server: &str) -> PgConnection {
    PgConnection::connect(server).await.unwrap()
}

async fn execute(connection: &mut PgConnection, sql: String) {
    let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    sql.execute(connection).await.unwrap();
}

/// A database of its own, whose name is its owner's; its URL.
pub async fn database(server: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("daemon_{}_{number}", std::process::id());
    let mut admin = admin(server).await;
    execute(&mut admin, format!("CREATE ROLE {name} LOGIN")).await;
    execute(&mut admin, format!("CREATE DATABASE {name} OWNER {name}")).await;
    let (_, place) = server.split_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    format!("postgres://{name}@{place}/{name}")
}

pub fn use_database(site: &mut Site, url: &str) {
    site.tables = format!("url = {url:?}\n{}", site.tables);
}

fn name_of(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

pub fn files(count: usize) -> BTreeMap<String, String> {
    let file = |index| {
        let path = format!("{}/plan {index}.dgn", index % 4);
        (path, format!("content {index}"))
    };
    (0..count).map(file).collect()
}

pub fn write_all(folder: &std::path::Path, files: &BTreeMap<String, String>) {
    for (path, content) in files {
        write(&folder.join(path), content);
    }
}

async fn ends_well(site: &Site, daemon: Daemon, files: &BTreeMap<String, String>) -> String {
    site.synchronized(files.len(), &daemon).await;
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    assert_in_imodel(&site.emulator.state(), files);
    log
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn files_are_synchronized_and_their_changes_as_well() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&shared_server()).await);
    let mut files = files(12);
    write_all(&folder, &files);
    let daemon = site.start();
    site.synchronized(12, &daemon).await;
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let explain = site
        .run(&["explain", folder.join("0/plan 0.dgn").to_str().unwrap()])
        .await;
    assert_eq!(explain.code, Some(0), "{explain:?}");
    let path = "0/plan 0.dgn";
    write(&folder.join(path), "changed");
    files.insert(path.to_owned(), "changed".to_owned());
    eventually(|| site.holds(&files), || daemon.log()).await;
    let log = ends_well(&site, daemon, &files).await;
    assert!(!site.path("state/ledger.db").exists(), "{log}");
    // The next start knows everything.
    let before = site.requests("POST", "/complete").len();
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(site.requests("POST", "/complete").len(), before);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn before_the_first_start_an_empty_database_is_no_problem() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&shared_server()).await);
    write(&folder.join("a.ifc"), "a");
    let file = folder.join("a.ifc");
    let explain = ["explain", file.to_str().unwrap()];
    for arguments in [
        &["check"][..],
        &["run", "--dry-run"],
        &["orphans"],
        &explain,
    ] {
        let done = site.run(arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_daemon_killed_in_mid_work_loses_and_doubles_nothing() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&shared_server()).await);
    let files = files(30);
    write_all(&folder, &files);
    site.emulator
        .fault(Fault::on("*").latency(Duration::from_millis(15)));
    for more in [3, 14, 30, 45, 22] {
        let seen = site.emulator.requests().len();
        let daemon = site.start();
        let all_covered = || {
            let state = site.emulator.state();
            state.runs.values().any(|run| run.covered.len() == 30)
        };
        let met = || site.emulator.requests().len() >= seen + more || all_covered();
        eventually(met, || daemon.log()).await;
        daemon.kill().await;
    }
    ends_well(&site, site.start(), &files).await;
}

/// A server for one test. It ends with its standard input.
pub struct Server {
    process: Child,
    pub url: String,
    data: String,
    programs: String,
}

impl Server {
    pub async fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/with-server");
        let mut process = Command::new(script)
            .args(["sh", "-c", "echo \"$ITWIN_SYNCD_TEST_POSTGRES\"; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().unwrap();
        let mut admin = admin(&url).await;
        let (data, programs): (String, String) = sqlx::query_as(
            "SELECT current_setting('data_directory'), (SELECT setting FROM pg_config WHERE name = 'BINDIR')",
        )
        .fetch_one(&mut admin)
        .await
        .unwrap();
        Self {
            process,
            url,
            data,
            programs,
        }
    }

    pub async fn control(&self, words: &[&str]) {
        let program = format!("{}/pg_ctl", self.programs);
        let is_root = std::fs::metadata("/proc/self/fd").is_ok_and(|folder| {
            use std::os::unix::fs::MetadataExt as _;
            folder.uid() == 0
        });
        let mut command = if is_root {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let log = format!("{}/log", self.data);
        let done = command
            .args(["-D", &self.data, "-l", &log, "-w"])
            .args(words)
            .stdout(Stdio::null())
            .status()
            .await;
        assert!(done.unwrap().success(), "{words:?}");
    }

    /// With the options of before: only a restart keeps them by itself.
    pub async fn start_again(&self) {
        let (_, port) = self.url.rsplit_once(':').unwrap();
        let (port, _) = port.split_once('/').unwrap();
        let (folder, _) = self.data.rsplit_once('/').unwrap();
        let options =
            format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}");
        self.control(&["-o", &options, "start"]).await;
    }

    pub async fn end(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_crashes_during_uploads_costs_no_file_and_doubles_none() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&server.url).await);
    let files = files(40);
    write_all(&folder, &files);
    site.emulator
        .fault(Fault::on("*").latency(Duration::from_millis(30)));
    let daemon = site.start();
    for more in [20, 40] {
        let seen = site.emulator.requests().len();
        let met = || site.emulator.requests().len() >= seen + more;
        eventually(met, || daemon.log()).await;
        server.control(&["-m", "immediate", "restart"]).await;
    }
    // An outage that lasts: it is said, by the daemon and by a command.
    server.control(&["-m", "fast", "stop"]).await;
    daemon.says("cannot use the database of the ledger").await;
    let status = site.run(&["status"]).await;
    assert_ne!(status.code, Some(0), "{status:?}");
    assert!(
        status.err.contains("hint: check that the server runs"),
        "{status:?}"
    );
    server.start_again().await;
    let log = ends_well(&site, daemon, &files).await;
    assert!(log.contains("can be used again"), "{log}");
    server.end().await;
}

/// What a start says that must fail, in the journal.
async fn refused(site: &Site) -> String {
    let once = site
        .command(&["run", "--once"])
        .env("ITWIN_SYNCD_LEASE_HASTE", "10")
        .output()
        .await;
    let once = Finished::from(once.unwrap());
    assert_eq!(once.code, Some(1), "{once:?}");
    once.err
}

/// The same if `check` finds it as well.
async fn refused_and_found(site: &Site) -> String {
    let printed = refused(site).await;
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    let (_, found) = check.out.split_once("ledger: ").expect(&check.out);
    let (_, hint) = found.split_once("hint: ").expect(&check.out);
    let hint = hint.lines().next().unwrap_or_default();
    assert!(printed.contains(hint), "{check:?}\n{printed}");
    printed
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_wrong_password_is_named() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    let url = database(&server.url).await;
    write(&folder.join("a.ifc"), "a");
    let name = name_of(&url);
    let mut admin = admin(&server.url).await;
    let alter = format!("ALTER ROLE {name} PASSWORD 'the right one'");
    execute(&mut admin, alter).await;
    let hba = format!("{}/pg_hba.conf", server.data);
    let rule = format!("host {name} {name} 127.0.0.1/32 scram-sha-256\n");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, rule + &rules).unwrap();
    server.control(&["reload"]).await;
    let file = site.path("password");
    std::fs::write(&file, "tiger of paper\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    use_database(&mut site, &url);
    site.tables = format!("password_file = {file:?}\n{}", site.tables);
    let printed = refused_and_found(&site).await;
    assert!(printed.contains("state.password_file"), "{printed}");
    assert!(!printed.contains("tiger of paper"), "{printed}");
    std::fs::write(&file, "the right one\n").unwrap();
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_makes_a_database_unusable_is_named() {
    let server = shared_server();
    let mut admin = admin(&server).await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let tables = site.tables.clone();

    // A role that may not create tables.
    let url = database(&server).await;
    use_database(&mut site, &url);
    let name = name_of(&url);
    let owner = format!("ALTER DATABASE {name} OWNER TO postgres");
    execute(&mut admin, owner).await;
    let printed = refused_and_found(&site).await;
    assert!(printed.contains("own the database"), "{printed}");

    // A role that may only read.
    site.tables.clone_from(&tables);
    let url = database(&server).await;
    use_database(&mut site, &url);
    let name = name_of(&url);
    let read_only = format!("ALTER ROLE {name} SET default_transaction_read_only = on");
    execute(&mut admin, read_only).await;
    let printed = refused_and_found(&site).await;
    assert!(
        printed.contains("default_transaction_read_only must be off"),
        "{printed}"
    );

    // No such database.
    site.tables = tables;
    use_database(&mut site, &format!("{url}_missing"));
    let printed = refused_and_found(&site).await;
    assert!(printed.contains("CREATE DATABASE"), "{printed}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_second_daemon_of_a_database_is_refused_until_the_first_has_ended() {
    let url = database(&shared_server()).await;
    let (mut first, _) = Site::with_folder(platform()).await;
    let (mut second, folder) = Site::with_folder(platform()).await;
    use_database(&mut first, &url);
    use_database(&mut second, &url);
    write(&folder.join("a.ifc"), "a");
    let quick = ("ITWIN_SYNCD_LEASE_HASTE", "10");
    let daemon = first.start_with(&[quick]);
    daemon.says("scan finished").await;
    let printed = refused(&second).await;
    assert!(
        printed.contains("in use by another itwin-syncd"),
        "{printed}"
    );
    assert!(second.emulator.state().files.is_empty());
    daemon.kill().await;
    // Its lease is over soon.
    let once = second
        .command(&["run", "--once"])
        .envs([quick])
        .output()
        .await;
    let once = Finished::from(once.unwrap());
    assert_eq!(once.code, Some(0), "{once:?}");
}
