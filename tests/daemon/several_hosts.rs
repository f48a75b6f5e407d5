//! Several hosts with one ledger in a PostgreSQL server: one is active, the others are standby and take over.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets. A host is a daemon with a state
//! directory of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::Fault;

use crate::postgres::{Server, database, files, shared_server, use_database, write_all};
use crate::support::{Daemon, Site, assert_in_imodel, eventually, platform, write};

/// Leases of a tenth: 1.5 s, and 3 s more until another host takes over.
const QUICK: (&str, &str) = ("ITWIN_SYNCD_LEASE_HASTE", "10");

/// Leases of half a second.
const QUICKER: (&str, &str) = ("ITWIN_SYNCD_LEASE_HASTE", "30");

const ACTIVE: &str = "this host is active now";
const STANDBY: &str = "standby: another host is active";

async fn site() -> (Site, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&shared_server()).await);
    (site, folder)
}

/// An active host and a standby.
async fn pair(site: &Site, environment: &[(&str, &str)]) -> (Daemon, Daemon) {
    let active = site.start_on("one", environment);
    active.says("scan finished").await;
    let standby = site.start_on("two", environment);
    standby.says(STANDBY).await;
    (active, standby)
}

fn changes(site: &Site) -> usize {
    let requests = site.emulator.requests();
    requests.iter().filter(|one| one.method != "GET").count()
}

/// Waits until a host has synchronized these files, once each.
async fn all_in_imodel(site: &Site, host: &str, daemon: &Daemon, files: &BTreeMap<String, String>) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let done = |shown: &serde_json::Value| {
        let shown = shown["files"].as_array().unwrap();
        shown.len() == files.len()
            && shown
                .iter()
                .all(|file| file["result"] == "synchronized" && file["state"] == "done")
    };
    loop {
        let printed = site.run_on(host, &["status", "--json", "--all"]).await;
        let shown: serde_json::Value =
            serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?}"));
        if done(&shown) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{}\n{}",
            printed.out,
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_once(site, files);
}

/// Nothing is lost, and nothing was done twice.
fn assert_once(site: &Site, files: &BTreeMap<String, String>) {
    let state = site.emulator.state();
    assert_in_imodel(&state, files);
    assert_eq!(state.files.len(), files.len(), "twins in storage");
    let mut runs: Vec<_> = state.runs.values().collect();
    runs.sort_by_key(|run| run.requested_at);
    for two in runs.windows(2) {
        let end = two[0].requested_at + Duration::from_millis(two[0].duration_ms);
        assert!(two[1].requested_at >= end, "two runs at a time: {two:#?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_shows_itself_and_does_nothing_until_the_active_host_is_killed() {
    let (site, folder) = site().await;
    let mut files = files(12);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[QUICK]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    let status = site.run_on("two", &["status"]).await;
    assert!(status.out.contains("standby; active: "), "{status:?}");
    let json = site.run_on("two", &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(
        json["standby"]["different_watches"],
        serde_json::json!([]),
        "{json:#}"
    );
    assert_ne!(json["standby"]["active"], "", "{json:#}");
    let retry = site.run_on("two", &["pause", "north"]).await;
    assert!(retry.err.contains("this host is standby"), "{retry:?}");
    let healthy = site.run_on("two", &["healthcheck"]).await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
    let killed = Instant::now();
    active.kill().await;
    standby.says(ACTIVE).await;
    let took = killed.elapsed();
    assert!(
        took > Duration::from_millis(3000),
        "before the end of the lease: {took:?}"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    write(&folder.join("later.dgn"), "later");
    files.insert("later.dgn".to_owned(), "later".to_owned());
    all_in_imodel(&site, "two", &standby, &files).await;
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_takes_over_at_once_from_a_host_that_stops() {
    let (site, folder) = site().await;
    let files = files(4);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    let (status, log) = active.stop().await;
    let stopped = Instant::now();
    assert!(status.success(), "{log}");
    standby.says(ACTIVE).await;
    let took = stopped.elapsed();
    println!("taken over after an orderly stop: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The first is standby when it comes back, and stops as such.
    let back = site.start_on("one", &[]);
    back.says(STANDBY).await;
    let (status, log) = back.stop().await;
    assert!(status.success(), "{log}");
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_is_restarted_after_a_kill_continues_at_once() {
    let (site, folder) = site().await;
    let files = files(4);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[]).await;
    active.kill().await;
    let started = Instant::now();
    let again = site.start_on("one", &[]);
    again.says("watch started").await;
    let took = started.elapsed();
    println!("restarted on its host: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    all_in_imodel(&site, "one", &again, &files).await;
    assert!(!standby.log().contains(ACTIVE), "{}", standby.log());
    standby.stop().await;
    again.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_wakes_after_another_has_taken_over_changes_nothing() {
    // Operations of the client, directly before they are sent.
    for stopped_before in ["create file", "upload", "complete", "run"] {
        let (mut site, folder) = site().await;
        // A second one may be between its look and its system call at that moment.
        site.tables += "[upload]\nworkers = 1\n";
        let files = files(3);
        write_all(&folder, &files);
        let sleeper = site.start_on("one", &[QUICK, ("ITWIN_SYNCD_STOPPOINT", stopped_before)]);
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.pid())).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        eventually(state, || {
            format!("never reached {stopped_before:?}: {}", sleeper.log())
        })
        .await;
        let other = site.start_on("two", &[QUICK]);
        other.says(ACTIVE).await;
        all_in_imodel(&site, "two", &other, &files).await;
        let before = changes(&site);
        sleeper.signal("CONT");
        let (status, log) = sleeper.ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("another host has taken over"), "{log}");
        assert_eq!(changes(&site), before, "{stopped_before}: {log}");
        assert_once(&site, &files);
        other.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn nobody_takes_over_because_the_database_was_away() {
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform()).await;
    use_database(&mut site, &database(&server.url).await);
    let mut files = files(8);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[QUICK]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    server.control(&["-m", "immediate", "restart"]).await;
    write(&folder.join("short.dgn"), "short");
    files.insert("short.dgn".to_owned(), "short".to_owned());
    all_in_imodel(&site, "one", &active, &files).await;
    // For longer than lease and grace.
    server.control(&["-m", "fast", "stop"]).await;
    active.says("requests to the platform wait").await;
    let before = changes(&site);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(changes(&site), before);
    server.start_again().await;
    write(&folder.join("long.dgn"), "long");
    files.insert("long.dgn".to_owned(), "long".to_owned());
    all_in_imodel(&site, "one", &active, &files).await;
    assert!(!standby.log().contains(ACTIVE), "{}", standby.log());
    active.stop().await;
    standby.says(ACTIVE).await;
    standby.stop().await;
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn nothing_is_lost_or_doubled_by_forty_kills_of_the_active_host() {
    let (site, folder) = site().await;
    site.emulator
        .fault(Fault::on("*").latency(Duration::from_millis(10)));
    let mut files = BTreeMap::new();
    let add = |number: usize, files: &mut BTreeMap<String, String>| {
        let (path, content) = (
            format!("{}/plan {number}.dgn", number % 4),
            format!("content {number}"),
        );
        write(&folder.join(&path), &content);
        files.insert(path, content);
    };
    let names = ["one", "two"];
    let mut active = 0;
    let mut hosts = [Some(site.start_on(names[0], &[QUICKER])), None];
    hosts[0].as_ref().unwrap().says("watch started").await;
    for kill in 0..40 {
        add(kill * 2, &mut files);
        add(kill * 2 + 1, &mut files);
        let other = 1 - active;
        if hosts[other].is_none() {
            hosts[other] = Some(site.start_on(names[other], &[QUICKER]));
        }
        let (seen, more) = (site.emulator.requests().len(), fastrand::usize(1..40));
        let deadline = Instant::now() + Duration::from_secs(3);
        while site.emulator.requests().len() < seen + more && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hosts[active].take().unwrap().kill().await;
        if kill % 2 == 0 {
            // The other host takes over.
            let standby = hosts[other].as_ref().unwrap();
            standby.says("watch started").await;
            active = other;
        } else {
            let again = site.start_on(names[active], &[QUICKER]);
            let taken = || {
                let log = again.log();
                log.contains("watch started") || log.contains(STANDBY)
            };
            eventually(taken, || again.log()).await;
            if !again.log().contains("watch started") {
                active = other;
                hosts[other].as_ref().unwrap().says("watch started").await;
                hosts[1 - other] = Some(again);
            } else {
                hosts[active] = Some(again);
            }
        }
    }
    let daemon = hosts[active].take().unwrap();
    all_in_imodel(&site, names[active], &daemon, &files).await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn watches_that_differ_from_those_of_the_active_host_are_said() {
    let (mut site, folder) = site().await;
    write(&folder.join("a.ifc"), "a");
    let active = site.start_on("one", &[QUICK]);
    active.says("scan finished").await;
    site.add_to_watches("storage_folder = \"elsewhere\"\n");
    let standby = site.start_on("two", &[QUICK]);
    standby
        .says("watches of this host differ from those of the active one")
        .await;
    let status = site.run_on("two", &["status"]).await;
    assert!(
        status.out.contains("watches of this host differ: north"),
        "{status:?}"
    );
    standby.stop().await;
    active.stop().await;
}

/// Copies a folder, with the times of its files that can be set.
fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_sees_other_inodes_and_change_times_uploads_nothing_again() {
    let (mut site, folder) = site().await;
    site.tables += "[bulk_change]\nmax_files = 5\n";
    let files = files(20);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    let before = site.requests("POST", "/complete").len();
    standby.kill().await;
    active.stop().await;
    let other_view = site.path("other view");
    copy(&folder, &other_view);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&other_view, &folder).unwrap();
    let standby = site.start_on("two", &[QUICKER]);
    standby.says("scan finished").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = site.run_on("two", &["status"]).await;
        if shown
            .out
            .starts_with("OK: nothing needs attention; 20 files synchronized")
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{}\n{}",
            shown.out,
            standby.log()
        );
    }
    assert_once(&site, &files);
    assert_eq!(site.requests("POST", "/complete").len(), before);
    let log = standby.log();
    assert!(!log.contains("watch suspended"), "{log}");
    standby.stop().await;
}
