//! A server that is away or whose disk is full: everything waits, says so, and can be stopped.

use std::path::Path;
use std::time::{Duration, Instant};

use super::server_settings::give;
use super::{
    Server, admin, database, ends_well, execute, files, name_of, shared_server, use_database,
    write_all,
};
use crate::ledger::SmallDisk;
use crate::page::address;
use crate::support::{Daemon, PATIENCE, Site, eventually, platform, write};

const HINT: &str = "free space on the disk of the database server";

/// Waits until `status` has this exit code; what it prints then.
async fn status(site: &Site, arguments: &[&str], code: i32, daemon: &Daemon) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = site.run(arguments).await;
        if shown.code == Some(code) {
            return shown.out;
        }
        assert!(Instant::now() < deadline, "{shown:?}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and root: run tests/all"]
async fn a_full_disk_of_the_server_is_waited_for_and_named_and_loses_nothing() {
    let server = Server::start().await;
    let (folder_of_server, _) = server.data.rsplit_once('/').unwrap();
    let small = Path::new(folder_of_server).join("small");
    let disk = SmallDisk::mount(&small);
    give(&small, &server.data);
    let (mut site, folder) = Site::with_folder(platform()).await;
    let url = database(&server.url).await;
    let mut admin = admin(&server.url).await;
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", small.display());
    execute(&mut admin, create).await;
    let put = format!("ALTER DATABASE {} SET TABLESPACE small", name_of(&url));
    execute(&mut admin, put).await;
    use_database(&mut site, &url);
    let mail = site.path("mail");
    let script = format!("cat >> {}", mail.display());
    site.tables += &format!(
        "[web]\nlisten = \"127.0.0.1:0\"\n[[alert]]\nname = \"mail\"\ncommand = [\"sh\", \"-c\", {script:?}]\ngroup = \"0s\"\n"
    );
    let daemon = site.start();
    daemon.says("scan finished").await;
    let page = address(&daemon).await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{page}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    disk.fill();
    let files = files(150);
    write_all(&folder, &files);
    daemon.says("waiting for it").await;
    let log = daemon.log();
    assert!(
        log.contains("No space left on device") && log.contains(HINT),
        "{log}"
    );
    let shown = status(&site, &["status"], 1, &daemon).await;
    assert!(
        shown.starts_with("ATTENTION: ledger not available") && shown.contains(HINT),
        "{shown}"
    );
    let shown = status(&site, &["status", "--json"], 1, &daemon).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let outage = &shown["ledger_outage"];
    assert_eq!(
        (&shown["ok"], &outage["hint"]),
        (&false.into(), &HINT.into())
    );
    let reason = outage["reason"].as_str().unwrap();
    assert!(reason.contains("No space left on device"), "{reason}");
    let (_, of_page) = get("api/v1/status").await;
    let of_page: serde_json::Value = serde_json::from_str(&of_page).unwrap();
    assert_eq!(of_page["ledger_outage"]["hint"], HINT, "{of_page:#}");
    let not_ready = format!("ledger not available: {HINT}\n");
    assert_eq!(get("readyz").await, (503, not_ready));
    let alerts = || std::fs::read_to_string(&mail).unwrap_or_default();
    eventually(|| alerts().contains(HINT), || daemon.log()).await;
    assert!(
        alerts().contains("the ledger is not available"),
        "{}",
        alerts()
    );
    disk.make_room();
    let shown = status(&site, &["status"], 0, &daemon).await;
    assert!(!shown.contains("ledger not available"), "{shown}");
    eventually(|| alerts().contains("resolved"), || daemon.log()).await;
    let log = ends_well(&site, daemon, &files).await;
    assert!(log.contains("can be used again"), "{log}");
    execute(&mut admin, format!("DROP DATABASE {}", name_of(&url))).await;
    execute(&mut admin, "DROP TABLESPACE small".to_owned()).await;
    drop(disk);
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn an_alert_says_that_the_server_is_away_and_later_that_it_is_back() {
    let server = Server::start().await;
    let (mut site, _) = Site::with_folder(platform()).await;
    let url = database(&server.url).await;
    use_database(&mut site, &url);
    let first = site.start();
    first.says("scan finished").await;
    first.stop().await;
    let mail = site.path("mail");
    let script = format!("cat >> {}", mail.display());
    site.tables += &format!(
        "[web]\nlisten = \"127.0.0.1:0\"\n[[alert]]\nname = \"mail\"\ncommand = [\"sh\", \"-c\", {script:?}]\ngroup = \"0s\"\n"
    );
    // The server goes away before it has answered which alerts were sent.
    let (_, place) = url.rsplit_once('@').unwrap();
    let mut other = admin(&format!("postgres://postgres@{place}")).await;
    for statement in ["BEGIN", "LOCK TABLE alerts IN ACCESS EXCLUSIVE MODE"] {
        execute(&mut other, statement.to_owned()).await;
    }
    let daemon = site.start();
    daemon.says("scan finished").await;
    let page = address(&daemon).await;
    server.control(&["-m", "fast", "stop"]).await;
    let alerts = || std::fs::read_to_string(&mail).unwrap_or_default();
    let is_said = || alerts().contains("ledger: not available");
    eventually(is_said, || format!("{}\n{}", alerts(), daemon.log())).await;
    let ready = reqwest::get(format!("{page}readyz")).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let why = ready.text().await.unwrap();
    assert!(why.starts_with("ledger not available: "), "{why}");
    server.start_again().await;
    eventually(|| alerts().contains("resolved"), || daemon.log()).await;
    let (ended, log) = daemon.stop().await;
    assert!(ended.success(), "{log}");
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_single_pass_that_waits_for_the_server_ends_at_a_signal() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    // Nobody listens there.
    use_database(&mut site, "postgres://u@127.0.0.1:1/ledger");
    for signal in ["TERM", "INT"] {
        let once = Site::started(site.command(&["run", "--once"]));
        once.says("waiting for it").await;
        once.signal(signal);
        let (ended, log) = once.ended().await;
        assert_eq!(ended.code(), Some(1), "{signal}: {log}");
        assert!(
            log.contains("stopped while waiting for the ledger"),
            "{log}"
        );
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn whatever_runs_while_the_server_is_away_ends_at_a_signal() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&server.url).await);
    site.top += "shutdown_grace = \"1s\"\n";
    write_all(&folder, &files(4));
    let active = site.start_on("one", &[]);
    active.says("scan finished").await;
    let standby = site.start_on("two", &[]);
    standby.says("this host uploads as well").await;
    let (mut other, folder) = Site::with_folder(platform()).await;
    use_database(&mut other, &database(&server.url).await);
    other.top += "shutdown_grace = \"1s\"\n";
    // A file that is never whole keeps the pass from its end.
    let slow = itwin_syncd::emulator::Fault::on("PUT /emulated/*").latency(PATIENCE);
    other.emulator.fault(slow);
    write(&folder.join("a.ifc"), "a");
    let once = Site::started(other.command(&["run", "--once"]));
    let is_sent = || other.emulator.state().files.len() == 1;
    eventually(is_sent, || once.log()).await;
    server.control(&["-m", "fast", "stop"]).await;
    active.says("waiting for it").await;
    once.says("waiting for it").await;
    for (process, code) in [(active, 0), (standby, 0), (once, 1)] {
        process.signal("TERM");
        let (ended, log) = process.ended().await;
        assert_eq!(ended.code(), Some(code), "{log}");
        assert!(!log.contains("can be used again"), "{log}");
    }
    server.start_again().await;
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_request_that_waits_for_its_portion_delays_no_stop() {
    let server = Server::start().await;
    let run = Duration::from_secs(3600);
    let (mut site, folder) = Site::with_folder(platform().run_duration(run)).await;
    use_database(&mut site, &database(&server.url).await);
    site.top += "shutdown_grace = \"1s\"\n";
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    daemon.says("run requested").await;
    // All that is left to do is to poll the run.
    let polled = || {
        let requests = site.emulator.requests();
        let polls = requests.iter().filter(|one| one.path.contains("/runs/"));
        polls.count() > 1
    };
    eventually(polled, || daemon.log()).await;
    server.control(&["-m", "fast", "stop"]).await;
    daemon.says("waiting for it").await;
    let began = Instant::now();
    daemon.signal("TERM");
    let (ended, log) = daemon.ended().await;
    assert!(ended.success(), "{log}");
    assert!(began.elapsed() < Duration::from_secs(30), "{log}");
    server.start_again().await;
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_is_there_is_no_outage() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&shared_server()).await);
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let shown = status(&site, &["status", "--json"], 0, &daemon).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["ledger_outage"].is_null(), "{shown:#}");
    daemon.stop().await;
}
