//! Several hosts with one ledger in a PostgreSQL server: one is active, the others are standby and take over.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets. A host is a daemon with a state
//! directory of its own.

mod differences;
mod requests;
mod troubles;
mod upgrade;
mod uploads;
mod views;
mod windows;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::{Fault, RequestRecord, Switches, UpdateBlob};

use crate::postgres::{Server, database, files, shared_server, use_database, write_all};
use crate::support::{Daemon, Site, assert_in_imodel, eventually, is_stopped, platform, write};

/// Leases of a fifth: 3 s, and 6 s more until another host takes over. Shorter ones end on a busy machine.
const QUICK: (&str, &str) = ("ITWIN_SYNCD_LEASE_HASTE", "5");

/// Leases of half a second, for hosts that may lose theirs.
const QUICKER: (&str, &str) = ("ITWIN_SYNCD_LEASE_HASTE", "30");

/// With leases of full length, another host takes over 45 s after a kill at the earliest.
const BEFORE_A_LEASE_ENDS: Duration = Duration::from_secs(40);

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
    while let Err(shown) = shows_all_synchronized(site, host, files).await {
        assert!(Instant::now() < deadline, "{shown}\n{}", daemon.log());
        daemon.logs_more().await;
    }
    assert_once(site, files);
}

/// Whether a host shows these files, and that all are synchronized; otherwise what it shows.
async fn shows_all_synchronized(
    site: &Site,
    host: &str,
    files: &BTreeMap<String, String>,
) -> Result<(), String> {
    let printed = site.run_on(host, &["status", "--json", "--all"]).await;
    let shown: serde_json::Value =
        serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?}"));
    let shown = shown["files"].as_array().unwrap();
    let is_done =
        |file: &serde_json::Value| file["result"] == "synchronized" && file["state"] == "done";
    if shown.len() == files.len() && shown.iter().all(is_done) {
        Ok(())
    } else {
        Err(printed.out)
    }
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
        took > Duration::from_secs(6),
        "before the end of the lease: {took:?}"
    );
    write(&folder.join("later.dgn"), "later");
    files.insert("later.dgn".to_owned(), "later".to_owned());
    all_in_imodel(&site, "two", &standby, &files).await;
    standby.stop().await;
}

/// An active host and a standby that have nothing left to do.
async fn pair_at_rest() -> (Site, Daemon, Daemon) {
    let (site, folder) = site().await;
    let files = files(4);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    (site, active, standby)
}

async fn stops(host: Daemon) -> String {
    let (status, log) = host.stop().await;
    assert!(status.success(), "{log}");
    log
}

/// Returns the log of the standby.
async fn takes_over_at_once(standby: &Daemon, log_of_active: &str) -> String {
    let stopped = Instant::now();
    standby.says(ACTIVE).await;
    let (took, log) = (stopped.elapsed(), standby.log());
    assert!(
        took < BEFORE_A_LEASE_ENDS,
        "{took:?}\n{log_of_active}\n{log}"
    );
    log
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_takes_over_at_once_from_a_host_that_stops() {
    let (site, active, standby) = pair_at_rest().await;
    takes_over_at_once(&standby, &stops(active).await).await;
    // The first is standby when it comes back, and stops as such.
    let back = site.start_on("one", &[]);
    back.says(STANDBY).await;
    stops(back).await;
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_whose_connections_were_closed_gives_its_lease_up_when_it_stops() {
    let (site, active, standby) = pair_at_rest().await;
    // As by a firewall between them, or a restart of a connection pooler.
    let close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
    differences::sql(&site, &[close]).await;
    let log = stops(active).await;
    let logs = takes_over_at_once(&standby, &log).await + &log;
    assert!(!logs.contains("on-release"), "{logs}");
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_stops_while_its_tables_are_locked_gives_its_lease_up() {
    let (site, active, standby) = pair_at_rest().await;
    let mut owner = differences::owner(&site).await;
    let lock = "BEGIN; LOCK TABLE files, jobs, results IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut owner).await.unwrap();
    let log = stops(active).await;
    sqlx::raw_sql("COMMIT").execute(&mut owner).await.unwrap();
    takes_over_at_once(&standby, &log).await;
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
    assert!(took < BEFORE_A_LEASE_ENDS, "{took:?}");
    all_in_imodel(&site, "one", &again, &files).await;
    assert!(!standby.log().contains(ACTIVE), "{}", standby.log());
    standby.stop().await;
    again.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_wakes_after_another_has_taken_over_changes_nothing() {
    let new = [
        "create file",
        "upload",
        "upload block",
        "commit blocks",
        "complete",
        "create connection",
        "run",
    ];
    let changed = [
        "update content",
        "upload",
        "upload block",
        "commit blocks",
        "complete",
    ];
    let new = new.map(|operation| (operation, false));
    let changed = changed.map(|operation| (operation, true));
    let all: Vec<_> = new.into_iter().chain(changed).collect();
    // As many hosts at once as the machine can take.
    for some in all.chunks(4) {
        let some = some
            .iter()
            .map(|&(operation, is_known)| stopped_before(operation, is_known));
        futures_util::future::join_all(some).await;
    }
}

/// Waits until a host has stopped before it sends this.
async fn reaches(host: &Daemon, operation: &str) {
    let never = || format!("never reached {operation:?}: {}", host.log());
    eventually(|| is_stopped(host.pid()), never).await;
}

/// The active host stops when its connection is about to send this, of new files or of those that the platform has.
async fn stopped_before(operation: &str, is_known: bool) {
    // What is written to the blob of a file is its content at once: the worst case for bytes that come late.
    let mut switches = Switches::default();
    switches.update_blob = UpdateBlob::Same;
    let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
    use_database(&mut site, &database(&shared_server()).await);
    site.tables += "[upload]\nworkers = 8\n";
    if operation.contains("block") {
        site.tables += "block_size = \"4B\"\n";
    }
    let mut files = files(24);
    write_all(&folder, &files);
    if is_known {
        let first = site.start_on("one", &[QUICK]);
        first.says("scan finished").await;
        all_in_imodel(&site, "one", &first, &files).await;
        first.stop().await;
        write_anew(&folder, &mut files, "CONTENT");
    }
    let sleeper = site.start_on("one", &[QUICK, ("ITWIN_SYNCD_STOPPOINT", operation)]);
    reaches(&sleeper, operation).await;
    let other = site.start_on("two", &[QUICK]);
    other.says(ACTIVE).await;
    // What the first one has in its hands is old now.
    write_anew(&folder, &mut files, "newness");
    all_in_imodel(&site, "two", &other, &files).await;
    let before = site.emulator.requests().len();
    sleeper.signal("CONT");
    let (status, log) = sleeper.ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another host has taken over"), "{log}");
    let late = site.emulator.requests().split_off(before);
    // Another thread may have been stopped in the middle of sending a block, which nobody commits. Blocks count where
    // the process was stopped before one.
    let is_other =
        |one: &RequestRecord| operation != "upload block" && one.query.contains("comp=block&");
    let changes = |one: &&RequestRecord| one.method != "GET" && !is_other(one);
    let late: Vec<_> = late.iter().filter(changes).collect();
    assert!(late.is_empty(), "{operation}: {late:#?}\n{log}");
    assert_once(&site, &files);
    other.stop().await;
}

/// Gives all files other contents of the same length.
fn write_anew(folder: &Path, files: &mut BTreeMap<String, String>, word: &str) {
    for content in files.values_mut() {
        let (_, number) = content.split_once(' ').unwrap();
        *content = format!("{word} {number}");
    }
    write_all(folder, files);
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
async fn nothing_is_lost_or_doubled_by_kills_of_the_active_host() {
    let kills = std::env::var("HOST_KILLS").map_or(15, |kills| kills.parse().unwrap());
    let (mut site, folder) = Site::with_folder(platform().max_source_files(10_000)).await;
    use_database(&mut site, &database(&shared_server()).await);
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
    for kill in 0..kills {
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
            if again.log().contains("watch started") {
                hosts[active] = Some(again);
            } else {
                active = other;
                hosts[other].as_ref().unwrap().says("watch started").await;
                hosts[1 - other] = Some(again);
            }
        }
    }
    let daemon = hosts[active].take().unwrap();
    all_in_imodel(&site, names[active], &daemon, &files).await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_large_file_that_is_on_its_way_is_sent_anew_and_never_seen_in_part() {
    const SIZE: usize = 1 << 20;
    let mut switches = Switches::default();
    switches.update_blob = UpdateBlob::Same;
    let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
    use_database(&mut site, &database(&shared_server()).await);
    site.tables += "[upload]\nblock_size = \"64KiB\"\n";
    let mut files = BTreeMap::from([("large.dgn".to_owned(), "1".repeat(SIZE))]);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[QUICK]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    let old = site.stored("large.dgn").completed.unwrap();
    site.emulator
        .fault(Fault::on("PUT /emulated/*").latency(Duration::from_millis(500)));
    let content = "2".repeat(SIZE);
    files.insert("large.dgn".to_owned(), content.clone());
    write_all(&folder, &files);
    let before = site.requests("PUT", "").len();
    let blocks = || site.requests("PUT", "").len() >= before + 6;
    eventually(blocks, || active.log()).await;
    active.kill().await;
    site.emulator.clear_faults();
    let new = crate::support::sha256(content.as_bytes());
    let seen = std::cell::Cell::new(0);
    let whole = || {
        let now = site.stored("large.dgn").completed.unwrap();
        assert_eq!(now.size, SIZE as u64);
        // Without a digest: committed, not completed yet.
        assert!(
            now.sha256.is_empty() || now.sha256 == old.sha256 || now.sha256 == new,
            "{now:?}"
        );
        seen.set(seen.get() + 1);
        now.sha256 == new
    };
    eventually(whole, || standby.log()).await;
    assert!(seen.get() > 10, "{}", seen.get());
    all_in_imodel(&site, "two", &standby, &files).await;
    standby.stop().await;
}
