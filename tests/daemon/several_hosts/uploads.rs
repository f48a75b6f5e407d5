//! Uploads of a standby, beside those of the active host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{Fault, Switches, UpdateBlob};

use super::{ACTIVE, QUICK, all_in_imodel, assert_once, reaches, site, write_anew};
use crate::postgres::{database, files, shared_server, use_database, write_all};
use crate::support::{Daemon, Site, eventually, platform, sha256};

pub(super) const UPLOADS: &str = "this host uploads as well";

/// How many files a host has uploaded.
pub(super) fn uploads(host: &Daemon) -> usize {
    host.log().matches(" INFO uploaded watch=").count()
}

/// A file that is synchronized before others are uploaded: then the storage folder belongs to the ledger.
fn first() -> BTreeMap<String, String> {
    BTreeMap::from([("first.dgn".to_owned(), "first".to_owned())])
}

/// An active host with that file.
pub(super) async fn active(site: &Site, folder: &Path, environment: &[(&str, &str)]) -> Daemon {
    write_all(folder, &first());
    let active = site.start_on("one", environment);
    active.says("scan finished").await;
    all_in_imodel(site, "one", &active, &first()).await;
    active
}

/// The same and a standby that uploads.
async fn uploading_pair(
    site: &Site,
    folder: &Path,
    environment: &[(&str, &str)],
) -> (Daemon, Daemon) {
    let active = active(site, folder, environment).await;
    let standby = site.start_on("two", environment);
    standby.says(UPLOADS).await;
    (active, standby)
}

/// That file and others.
fn and_first(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    files.into_iter().chain(first()).collect()
}

/// Each request takes as long as one over a network.
pub(super) fn slow(site: &Site, millis: u64) {
    let latency = Duration::from_millis(millis);
    site.emulator.fault(Fault::on("*").latency(latency));
}

async fn nodes(site: &Site, host: &str) -> Vec<serde_json::Value> {
    let shown = site.run_on(host, &["status", "--json"]).await;
    let shown: serde_json::Value =
        serde_json::from_str(&shown.out).unwrap_or_else(|_| panic!("{shown:?}"));
    shown["nodes"].as_array().unwrap().clone()
}

/// No folder is in storage twice.
pub(super) fn assert_no_folder_twice(site: &Site) {
    let state = site.emulator.state();
    let mut seen = BTreeSet::new();
    for folder in state.folders.values() {
        let key = (folder.parent_id.clone(), folder.path.clone());
        assert!(seen.insert(key), "twice: {folder:#?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn the_files_of_one_watch_are_uploaded_by_both_hosts_each_file_once() {
    let (mut site, folder) = site().await;
    site.tables += "[upload]\nworkers = 2\n";
    // One host alone would need 9 s.
    slow(&site, 100);
    let (active, standby) = uploading_pair(&site, &folder, &[]).await;
    let files = files(60);
    write_all(&folder, &files);
    let files = and_first(files);
    all_in_imodel(&site, "one", &active, &files).await;
    let (one, two) = (uploads(&active), uploads(&standby));
    assert_eq!(one + two, 61);
    assert!(one >= 5 && two >= 5, "{one} and {two}");
    assert_eq!(site.requests("POST", "/complete").len(), 61);
    for host in ["one", "two"] {
        let nodes = nodes(&site, host).await;
        assert_eq!(nodes.len(), 2, "{nodes:#?}");
        assert_eq!(nodes[0]["active"], true, "{nodes:#?}");
        assert_eq!(nodes[1]["active"], false, "{nodes:#?}");
        assert_eq!(nodes[1]["responds"], true, "{nodes:#?}");
    }
    let shown = site.run_on("two", &["status"]).await;
    assert!(shown.out.contains("; uploads as well"), "{shown:?}");
    assert!(shown.out.contains("hosts: "), "{shown:?}");
    let (status, log) = standby.stop().await;
    assert!(status.success(), "{log}");
    assert_eq!(nodes(&site, "one").await.len(), 1);
    active.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_a_standby_had_in_hand_when_it_died_is_continued_and_nothing_is_done_twice() {
    for point in [
        "create intended",
        "file created",
        "bytes sent",
        "completed",
        "folder created",
    ] {
        let (site, folder) = site().await;
        slow(&site, 20);
        let active = active(&site, &folder, &[QUICK]).await;
        let standby = site.start_on("two", &[QUICK, ("ITWIN_SYNCD_FAILPOINT", point)]);
        standby.says(UPLOADS).await;
        let mut files = BTreeMap::new();
        for number in 0..40 {
            files.insert(
                format!("{number}/plan {number}.dgn"),
                format!("content {number}"),
            );
        }
        write_all(&folder, &files);
        let files = and_first(files);
        let (status, log) = standby.ended().await;
        assert!(!status.success(), "{point}: {log}");
        all_in_imodel(&site, "one", &active, &files).await;
        assert_no_folder_twice(&site);
        active
            .says("host does not respond: other hosts continue its uploads")
            .await;
        active.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_that_is_started_again_after_a_kill_continues_at_once() {
    let (site, folder) = site().await;
    slow(&site, 20);
    // Leases of full length: nothing is given back by the end of one.
    let active = active(&site, &folder, &[]).await;
    let standby = site.start_on("two", &[("ITWIN_SYNCD_FAILPOINT", "file created")]);
    standby.says(UPLOADS).await;
    let files = files(20);
    write_all(&folder, &files);
    let files = and_first(files);
    let (status, log) = standby.ended().await;
    assert!(!status.success(), "{log}");
    let again = site.start_on("two", &[]);
    all_in_imodel(&site, "one", &active, &files).await;
    // Nobody has waited for the end of its lease.
    assert!(
        !active.log().contains("host does not respond"),
        "{}",
        active.log()
    );
    again.stop().await;
    active.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_that_wakes_after_its_uploads_were_given_back_changes_nothing() {
    let new = [
        "create file",
        "upload",
        "upload block",
        "commit blocks",
        "complete",
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
    for some in all.chunks(3) {
        let some = some
            .iter()
            .map(|&(operation, is_known)| stopped_before(operation, is_known));
        futures_util::future::join_all(some).await;
    }
}

/// A standby stops when its connection is about to send this, of new files or of those that the platform has.
async fn stopped_before(operation: &str, is_known: bool) {
    let mut switches = Switches::default();
    switches.update_blob = UpdateBlob::Same;
    let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
    use_database(&mut site, &database(&shared_server()).await);
    site.tables += "[upload]\nworkers = 4\n";
    if operation.contains("block") {
        site.tables += "block_size = \"4B\"\n";
    }
    slow(&site, 20);
    let mut files = files(40);
    let active = active(&site, &folder, &[QUICK]).await;
    if is_known {
        write_all(&folder, &files);
        all_in_imodel(&site, "one", &active, &and_first(files.clone())).await;
    }
    let sleeper = site.start_on("two", &[QUICK, ("ITWIN_SYNCD_STOPPOINT", operation)]);
    sleeper.says(UPLOADS).await;
    if is_known {
        write_anew(&folder, &mut files, "CONTENT");
    } else {
        write_all(&folder, &files);
    }
    reaches(&sleeper, operation).await;
    // What the sleeper has in its hands is old now.
    write_anew(&folder, &mut files, "newness");
    let files = and_first(files);
    all_in_imodel(&site, "one", &active, &files).await;
    let before = site.emulator.requests().len();
    sleeper.signal("CONT");
    sleeper.says("uploads of this host were given back").await;
    // It takes part again.
    let again = || sleeper.log().matches(UPLOADS).count() == 2;
    eventually(again, || sleeper.log()).await;
    let late = site.emulator.requests().split_off(before);
    let late: Vec<_> = late.iter().filter(|one| one.method != "GET").collect();
    let is_token = |path: &str| path.contains("token");
    let late: Vec<_> = late
        .into_iter()
        .filter(|one| !is_token(&one.path))
        .collect();
    assert!(late.is_empty(), "{operation}: {late:#?}\n{}", sleeper.log());
    assert_once(&site, &files);
    sleeper.stop().await;
    active.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn three_hosts_that_need_many_new_folders_at_once_create_each_once() {
    let (site, folder) = site().await;
    slow(&site, 20);
    let (active, standby) = uploading_pair(&site, &folder, &[]).await;
    let third = site.start_on("three", &[]);
    third.says(UPLOADS).await;
    let mut files = BTreeMap::new();
    for number in 0..90 {
        // Siblings in few parents, so that all hosts need the parents at the same time.
        let path = format!("parent {}/folder {}/{number}.dgn", number % 3, number % 30);
        files.insert(path, format!("content {number}"));
    }
    write_all(&folder, &files);
    let files = and_first(files);
    all_in_imodel(&site, "one", &active, &files).await;
    assert_no_folder_twice(&site);
    for host in [&active, &standby, &third] {
        assert!(uploads(host) > 0, "{}", host.log());
    }
    third.stop().await;
    standby.stop().await;
    active.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_file_that_a_standby_cannot_read_is_uploaded_by_another_host_without_a_failure() {
    let (mut site, folder) = site().await;
    site.tables += "[upload]\nworkers = 1\n";
    slow(&site, 20);
    let active = active(&site, &folder, &[]).await;
    let standby = start_without_share(&site, &folder);
    standby.says(UPLOADS).await;
    let files = files(40);
    write_all(&folder, &files);
    let files = and_first(files);
    all_in_imodel(&site, "one", &active, &files).await;
    assert_eq!(uploads(&standby), 0);
    standby.says("left to other hosts; this one pauses").await;
    let log = active.log() + &standby.log();
    assert!(!log.contains("upload failed"), "{log}");
    assert!(!log.contains("file was deleted"), "{log}");
    standby.stop().await;
    active.stop().await;
}

/// A standby in a mount namespace in which an empty folder covers the share.
fn start_without_share(site: &Site, folder: &Path) -> Daemon {
    let empty = site.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let script = format!(
        "mount --bind {} {} && exec \"$0\" \"$@\"",
        empty.display(),
        folder.display()
    );
    site.start_on_under("two", &["unshare", "-rm", "sh", "-c", &script])
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_ends_its_uploads_before_the_active_host_starts_with_other_folders() {
    let (mut site, folder) = site().await;
    site.tables += "[upload]\nworkers = 2\n";
    slow(&site, 50);
    let (active, standby) = uploading_pair(&site, &folder, &[QUICK]).await;
    let files = files(40);
    write_all(&folder, &files);
    let files = and_first(files);
    eventually(|| uploads(&standby) > 2, || standby.log()).await;
    active.kill().await;
    site.add_to_watches("storage_folder = \"elsewhere\"\n");
    let active = site.start_on("one", &[QUICK]);
    active.says("watch started").await;
    standby
        .says("ending the uploads of this host: the active one changes its watches")
        .await;
    let moved = || {
        let state = site.emulator.state();
        let whole = |(path, content): (&String, &String)| {
            let path = format!("elsewhere/{path}");
            let mut files = state.files.values();
            let file = files.find(|file| file.path == path);
            let completed = file.and_then(|file| file.completed.as_ref());
            completed.is_some_and(|completed| completed.sha256 == sha256(content.as_bytes()))
        };
        files.iter().all(whole)
    };
    eventually(moved, || format!("{}\n{}", standby.log(), active.log())).await;
    for file in site.emulator.state().files.values() {
        // The host that was killed may have created one just before.
        let is_left = file.completed.is_none() && !file.path.starts_with("elsewhere/");
        assert!(file.path.starts_with("elsewhere/") || is_left, "{file:#?}");
    }
    let says = || standby.log().contains("watches of this host differ");
    eventually(says, || format!("{}\n{}", standby.log(), active.log())).await;
    assert!(!standby.log().contains(ACTIVE), "{}", standby.log());
    standby.stop().await;
    active.stop().await;
}
