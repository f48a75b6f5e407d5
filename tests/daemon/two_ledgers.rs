//! Two daemons with two ledgers on one iModel and storage folder: one uploads, and the other one says why it waits.
//!
//! The daemon "on another host" has a state directory of its own, and so a ledger of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Folder};
use serde_json::Value;

use crate::support::{Daemon, Finished, PATIENCE, Site, eventually, platform, write};

/// Where the daemon that takes a storage folder over may be killed.
pub const POINTS: [&str; 2] = ["take-over recorded", "claim taken over"];

/// Times of claims are a twentieth.
const HASTE: [(&str, &str); 1] = [("ITWIN_SYNCD_LEASE_HASTE", "20")];

/// What a daemon says that does not get the storage folder.
const WAITS: &str =
    "uploads of this watch wait: another itwin-syncd, with a ledger of its own on host";

/// What the other one says, when it has seen that.
const RIVAL: &str =
    "has a watch with the same iModel and storage folder; it waits, and uploads nothing";

/// The folders that are claims.
fn claims(site: &Site) -> Vec<Folder> {
    let folders = site.emulator.state().folders;
    let name = format!("itwin-syncd {DEFAULT_IMODEL_ID}");
    let mut claims: Vec<Folder> = folders.into_values().collect();
    claims.retain(|folder| folder.display_name == name && !folder.deleted);
    claims
}

/// The names of all storage files, sorted.
fn stored(site: &Site) -> Vec<String> {
    let state = site.emulator.state();
    let files = state.files.values().filter(|file| !file.deleted);
    let mut names: Vec<String> = files.map(|file| file.path.clone()).collect();
    names.sort();
    names
}

/// What `status` of a host says of the watch.
async fn watch(site: &Site, host: &str) -> Value {
    let printed = site.run_on(host, &["status", "--json"]).await;
    // There is no ledger before the daemon has made it.
    let printed: Value = serde_json::from_str(&printed.out).unwrap_or_default();
    printed["watches"][0].clone()
}

/// Waits until a host has no file that waits.
async fn done(site: &Site, host: &str, files: u64, daemon: &Daemon) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let watch = watch(site, host).await;
        if watch["files"]["synchronized"] == files {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{watch:#}\n{}",
            daemon.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// The command that a hint names, run on that host.
async fn follow_hint(site: &Site, host: &str, hint: &str) -> Finished {
    let (_, command) = hint.split_once("run `itwin-syncd ").expect(hint);
    let (words, _) = command.split_once(" --config ").expect(hint);
    let words: Vec<&str> = words.split(' ').collect();
    site.run_on(host, &words).await
}

fn lose(state: &Path) {
    std::fs::remove_dir_all(state).unwrap();
}

#[tokio::test]
async fn forty_files_of_two_daemons_that_start_together_are_forty_storage_files() {
    let (site, folder) = Site::with_folder(platform()).await;
    let names: Vec<String> = (0..40).map(|number| format!("{number:02}.ifc")).collect();
    for name in &names {
        write(&folder.join(name), name);
    }
    let (one, two) = (site.start_on("one", &HASTE), site.start_on("two", &HASTE));
    eventually(
        || one.log().contains(WAITS) != two.log().contains(WAITS),
        || format!("{}\n{}", one.log(), two.log()),
    )
    .await;
    let (first, waiting) = if one.log().contains(WAITS) {
        ("two", "one")
    } else {
        ("one", "two")
    };
    done(&site, first, 40, if first == "one" { &one } else { &two }).await;
    assert_eq!(stored(&site), names);
    assert_eq!(watch(&site, waiting).await["files"]["waiting"], 40);

    // What the one that waits says ends its failure, and makes no second files either.
    let reason = watch(&site, waiting).await["suspended_reason"].clone();
    let resumed = follow_hint(&site, waiting, reason.as_str().unwrap()).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    done(
        &site,
        waiting,
        40,
        if waiting == "one" { &one } else { &two },
    )
    .await;
    assert_eq!(stored(&site), names);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_second_daemon_waits_says_so_everywhere_and_takes_over_when_it_is_resumed() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let one = site.start_on("one", &HASTE);
    done(&site, "one", 1, &one).await;
    let two = site.start_on("two", &HASTE);
    two.says(WAITS).await;
    let shown = site.run_on("two", &["status"]).await;
    assert!(
        shown.out.contains("with a ledger of its own on host")
            && shown.out.contains("resume north")
            && shown.out.contains("1 watch suspended"),
        "{shown:?}"
    );
    let checked = site.run_on("two", &["check"]).await;
    assert!(
        checked.code == Some(1) && checked.out.contains("with a ledger of its own on host"),
        "{checked:?}"
    );
    let checked = site.run_on("one", &["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");

    // Both see the new file; the first one uploads it, and says that the other one waits.
    write(&folder.join("b.ifc"), "b");
    done(&site, "one", 2, &one).await;
    one.says(RIVAL).await;
    let seen = watch(&site, "one").await;
    assert!(
        seen["rival"]["reason"].as_str().unwrap().contains(RIVAL),
        "{seen:#}"
    );
    let shown = site.run_on("one", &["status"]).await;
    assert!(shown.out.contains(RIVAL), "{shown:?}");

    let resumed = site.run_on("two", &["resume", "north"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    two.says("storage folder taken over").await;
    done(&site, "two", 2, &two).await;
    write(&folder.join("c.ifc"), "c");
    one.says(WAITS).await;
    done(&site, "two", 3, &two).await;
    assert_eq!(stored(&site), ["a.ifc", "b.ifc", "c.ifc"]);
    assert_eq!(claims(&site).len(), 1);
    assert_eq!(watch(&site, "one").await["rival"], Value::Null);
    one.stop().await;
    two.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_take_over_that_was_killed_is_finished_and_doubles_nothing() {
    for point in POINTS {
        let (site, folder) = Site::with_folder(platform()).await;
        write(&folder.join("a.ifc"), "a");
        let one = site.start_on("one", &HASTE);
        done(&site, "one", 1, &one).await;
        let two = site.start_on("two", &HASTE);
        two.says(WAITS).await;
        two.stop().await;
        let resumed = site.run_on("two", &["resume", "north"]).await;
        assert_eq!(resumed.code, Some(0), "{resumed:?}");
        let two = site.start_on("two", &[HASTE[0], ("ITWIN_SYNCD_FAILPOINT", point)]);
        assert!(two.ended_by_itself_within(PATIENCE).await, "{point}");
        let two = site.start_on("two", &HASTE);
        done(&site, "two", 1, &two).await;
        write(&folder.join("b.ifc"), "b");
        one.says(WAITS).await;
        done(&site, "two", 2, &two).await;
        assert_eq!(stored(&site), ["a.ifc", "b.ifc"], "{point}");
        assert_eq!(claims(&site).len(), 1, "{point}");
        one.stop().await;
        two.stop().await;
    }
}

#[tokio::test]
async fn a_daemon_that_waits_continues_when_it_has_another_storage_folder() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let one = site.start_on("one", &HASTE);
    done(&site, "one", 1, &one).await;
    let two = site.start_on("two", &HASTE);
    two.says(WAITS).await;
    two.stop().await;
    site.add_to_watches("storage_folder = \"Two\"\n");
    let two = site.start_on("two", &HASTE);
    done(&site, "two", 1, &two).await;
    assert_eq!(watch(&site, "two").await["suspended_reason"], Value::Null);
    assert_eq!(stored(&site), ["Two/a.ifc", "a.ifc"]);
    one.stop().await;
    two.stop().await;
}

/// A host with a share, a storage folder and a connection of its own.
struct Office {
    host: &'static str,
    watches: String,
    folder: PathBuf,
}

impl Office {
    fn new(site: &mut Site, host: &'static str) -> Self {
        let keys = format!("storage_folder = {host:?}\nconnection = {host:?}\n");
        site.watches.clear();
        let folder = site.watch(&format!("share of {host}"), DEFAULT_IMODEL_ID, &keys);
        Self {
            host,
            watches: site.watches.clone(),
            folder,
        }
    }

    fn start(&self, site: &mut Site) -> Daemon {
        site.watches.clone_from(&self.watches);
        site.start_on(self.host, &HASTE)
    }

    async fn done(&self, site: &mut Site, files: u64, daemon: &Daemon) {
        site.watches.clone_from(&self.watches);
        done(site, self.host, files, daemon).await;
    }
}

#[tokio::test]
async fn two_offices_with_a_share_and_a_ledger_each_fill_one_imodel_one_run_at_a_time() {
    let mut site = Site::new(platform()).await;
    let offices = ["Oslo", "Rome"].map(|host| Office::new(&mut site, host));
    let mut files = BTreeMap::new();
    let mut save = |office: &Office, number: usize, content: String| {
        let name = format!("plan {number}.dgn");
        write(&office.folder.join(&name), &content);
        files.insert(format!("{}/{name}", office.host), content);
    };
    for office in &offices {
        for number in 0..10 {
            save(office, number, format!("{} {number}", office.host));
        }
    }
    let daemons = [0, 1].map(|at| offices[at].start(&mut site));
    for (office, daemon) in offices.iter().zip(&daemons) {
        office.done(&mut site, 10, daemon).await;
    }
    // Both again, with the same names.
    for office in &offices {
        for number in 5..15 {
            save(office, number, format!("{} new {number}", office.host));
        }
    }
    for (office, daemon) in offices.iter().zip(&daemons) {
        eventually(|| site.holds(&files), || daemon.log()).await;
        office.done(&mut site, 15, daemon).await;
    }
    let state = site.emulator.state();
    assert_eq!(state.files.len(), files.len(), "twins in storage");
    assert!(site.holds(&files));
    for connection in state.connections.values() {
        assert_eq!(connection.source_files.len(), 15, "{connection:#?}");
    }
    assert_eq!(state.connections.len(), 2);
    let mut runs: Vec<_> = state.runs.values().collect();
    runs.sort_by_key(|run| run.requested_at);
    assert!(runs.len() >= 4, "{runs:#?}");
    for two in runs.windows(2) {
        let end = two[0].requested_at + Duration::from_millis(two[0].duration_ms);
        assert!(two[1].requested_at >= end, "two runs at a time: {two:#?}");
    }
    for daemon in daemons {
        let (status, log) = daemon.stop().await;
        assert!(status.success(), "{log}");
        assert!(!log.contains("another itwin-syncd"), "{log}");
    }
}

#[tokio::test]
async fn a_ledger_that_was_lost_at_its_place_or_moved_continues_without_the_operator() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start_on("one", &[]);
    done(&site, "one", 1, &daemon).await;
    daemon.stop().await;

    lose(&site.path("one"));
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start_on("one", &[]);
    daemon.says("storage holds this content already").await;
    done(&site, "one", 2, &daemon).await;
    daemon.stop().await;

    std::fs::rename(site.path("one"), site.path("moved")).unwrap();
    write(&folder.join("c.ifc"), "c");
    let daemon = site.start_on("moved", &[]);
    done(&site, "moved", 3, &daemon).await;
    let log = daemon.log();
    assert!(!log.contains("ledger of its own"), "{log}");
    daemon.stop().await;
    assert_eq!(stored(&site), ["a.ifc", "b.ifc", "c.ifc"]);
    assert_eq!(claims(&site).len(), 1);
}

#[tokio::test]
async fn of_a_ledger_and_its_copy_on_another_host_one_uploads() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let on = |host: &'static str| [HASTE[0], ("ITWIN_SYNCD_MACHINE", host)];
    let one = site.start_on("one", &on("cad1"));
    done(&site, "one", 1, &one).await;
    one.stop().await;
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([site.path("one"), site.path("two")])
        .status();
    assert!(copied.unwrap().success());
    let one = site.start_on("one", &on("cad1"));
    write(&folder.join("b.ifc"), "b");
    done(&site, "one", 2, &one).await;
    // A ledger that was moved looks like this one: the copy takes the folder over, and the original notices.
    let two = site.start_on("two", &on("cad2"));
    two.says("storage folder taken over").await;
    done(&site, "two", 2, &two).await;
    write(&folder.join("c.ifc"), "c");
    one.says(&format!("{WAITS} cad2")).await;
    done(&site, "two", 3, &two).await;
    one.stop().await;
    let one = site.start_on("one", &on("cad1"));
    write(&folder.join("d.ifc"), "d");
    done(&site, "two", 4, &two).await;
    let seen = watch(&site, "one").await;
    let reason = seen["suspended_reason"].as_str().unwrap();
    assert!(reason.contains("on host cad2"), "{seen:#}");
    assert_eq!(stored(&site), ["a.ifc", "b.ifc", "c.ifc", "d.ifc"]);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn files_of_another_ledger_are_removed_only_if_they_are_named() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let one = site.start_on("one", &HASTE);
    done(&site, "one", 2, &one).await;
    one.stop().await;
    std::fs::remove_file(folder.join("b.ifc")).unwrap();
    let two = site.start_on("two", &HASTE);
    two.says(WAITS).await;
    site.run_on("two", &["resume", "north"]).await;
    done(&site, "two", 1, &two).await;
    let listed = site.run_on("two", &["orphans"]).await;
    assert!(
        listed
            .out
            .contains("\"b.ifc\": created by an itwin-syncd with another ledger"),
        "{listed:?}"
    );
    let removed = site.run_on("two", &["orphans", "--remove", "--yes"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(stored(&site), ["a.ifc", "b.ifc"]);
    let removed = site
        .run_on("two", &["orphans", "--remove", "--yes", "b.ifc"])
        .await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(stored(&site), ["a.ifc"]);
    two.stop().await;
}
