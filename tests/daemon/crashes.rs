//! Kill -9 at any moment, start again: nothing lost, nothing doubled.

use std::collections::BTreeMap;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault};

use crate::support::{Site, assert_in_imodel, eventually, platform, write};

/// Makes every request take a while, so that a kill meets some of them.
fn slow(site: &Site, route: &str, ms: u64) {
    site.emulator
        .fault(Fault::on(route).latency(Duration::from_millis(ms)));
}

#[tokio::test]
async fn a_daemon_killed_repeatedly_in_mid_work_loses_and_doubles_nothing() {
    let (site, folder) = Site::with_folder(platform()).await;
    let mut files = BTreeMap::new();
    for index in 0..40 {
        let (path, content) = (
            format!("{}/plan {index}.dgn", index % 4),
            format!("content {index}"),
        );
        write(&folder.join(&path), &content);
        files.insert(path, content);
    }
    slow(&site, "*", 15);
    // Each life ends when the platform has seen this many requests more: in look-ups, creates, uploads, and runs.
    for (life, more) in [3, 9, 14, 22, 30, 45, 7, 60, 18, 33]
        .into_iter()
        .enumerate()
    {
        let seen = site.emulator.requests().len();
        let daemon = site.start();
        let met = || {
            let all_done = site
                .emulator
                .state()
                .runs
                .values()
                .any(|run| run.covered.len() == 40);
            site.emulator.requests().len() >= seen + more || all_done
        };
        eventually(met, || format!("life {life}: {}", daemon.log())).await;
        daemon.kill().await;
    }
    let daemon = site.start();
    site.synchronized(40, &daemon).await;
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    assert_in_imodel(&site.emulator.state(), &files);
}

#[tokio::test]
async fn a_kill_right_after_each_request_creates_no_second_file_connection_or_run() {
    // The answer comes late, so the kill falls between the effect and its record in the ledger.
    for route in [
        "POST /storage/folders/*/files",
        "PUT /emulated/*",
        "POST /storage/files/*/complete",
        "POST /synchronization/imodels/storageConnections",
        "POST /synchronization/imodels/storageConnections/*/run",
    ] {
        let (mut site, folder) = Site::with_folder(platform()).await;
        site.tables += "[upload]\nblock_size = \"4B\"\n";
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        site.emulator
            .fault(Fault::on(route).reset().after_effect().times(1));
        let struck = || {
            site.emulator
                .requests()
                .iter()
                .any(|request| request.status == 0)
        };
        eventually(struck, || format!("{route}: {}", daemon.log())).await;
        daemon.kill().await;

        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let files = BTreeMap::from([("house.ifc".to_owned(), "house".to_owned())]);
        let state = site.emulator.state();
        assert_in_imodel(&state, &files);
        assert_eq!(state.runs.len(), 1, "{route}: {:#?}", state.runs);
        // Where it stands in the ledger that storage has all blocks, they are not sent again.
        if !route.starts_with("PUT") {
            assert_eq!(site.stored("house.ifc").blob_writes, 1, "{route}");
        }
        daemon.stop().await;
    }
}

/// All points that the source names.
#[cfg(feature = "failpoints")]
pub(super) fn failpoints() -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.split("failpoint(\"").skip(1);
            found.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    found
}

/// A scan knows which files it did not find, and has not written it down.
#[cfg(feature = "failpoints")]
const MISSING: &str = "files about to be missing";

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_deleted_file_is_gone_even_if_the_scan_that_missed_it_was_killed() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += "rescan_interval = \"1s\"\n";
    write(&folder.join("kept.ifc"), "kept");
    write(&folder.join("deleted.ifc"), "deleted");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    std::fs::remove_file(folder.join("deleted.ifc")).unwrap();
    let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", MISSING)]);
    assert!(daemon.ended_by_itself_within(Duration::from_secs(60)).await);
    let daemon = site.start();
    daemon.says("known files were deleted").await;
    daemon.stop().await;
}

/// A file that is no longer a master is removed from the connection, and that is not recorded.
#[cfg(feature = "failpoints")]
const UNMAPPED: &str = "source file of a reference removed";

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_file_that_is_no_master_any_more_stays_unmapped_after_a_kill() {
    for cut in [Cut::Kill, Cut::Power] {
        let (mut site, folder) = Site::with_folder(platform()).await;
        write(&folder.join("master.dgn"), "master");
        write(&folder.join("reference.dgn"), "reference");
        let daemon = site.start();
        site.synchronized(2, &daemon).await;
        daemon.stop().await;
        site.replace_in_watches("imodel_id", "masters = [\"master.dgn\"]\nimodel_id");
        site.config();
        let mut switches = vec![("ITWIN_SYNCD_FAILPOINT", UNMAPPED)];
        if cut == Cut::Power {
            switches.push(("ITWIN_SYNCD_POWER_CUT", "1"));
        }
        let daemon = site.start_with(&switches);
        assert!(daemon.ended_by_itself_within(Duration::from_secs(60)).await);
        cut.strike(&site.path("state"));
        let daemon = site.start();
        let path = folder.join("reference.dgn");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let history = site.run(&["status", path.to_str().unwrap()]).await;
            if history.out.matches("removed from the connection").count() == 1 {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{history:?}");
            daemon.logs_more().await;
        }
        daemon.stop().await;
        let state = site.emulator.state();
        let mapped = state.connections.values().flat_map(|c| &c.source_files);
        let mapped: Vec<_> = mapped.map(|source| &source.storage_file_id).collect();
        assert_eq!(mapped, [&site.stored("master.dgn").id], "{cut:?}");
        assert_eq!(state.files.len(), 2, "{cut:?}");
    }
}

/// What takes the process away.
#[cfg(feature = "failpoints")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Of the process: what it has written is there.
    Kill,
    /// Of the power: the ledger is what it waited for to be on the disk, and nothing that it wrote later.
    Power,
}

#[cfg(feature = "failpoints")]
impl Cut {
    fn strike(self, state: &std::path::Path) {
        if self == Self::Kill {
            return;
        }
        let copies = state.join("on-disk");
        let numbers = std::fs::read_dir(&copies).into_iter().flatten();
        let last = numbers
            .filter_map(|copy| copy.unwrap().file_name().to_str()?.parse::<u64>().ok())
            .max();
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            drop(std::fs::remove_file(state.join(name)));
            if let Some(last) = last {
                let copy = copies.join(last.to_string()).join(name);
                drop(std::fs::rename(copy, state.join(name)));
            }
        }
        drop(std::fs::remove_dir_all(copies));
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing() {
    between_any_two_steps(Cut::Kill).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_power_cut_between_any_two_steps_loses_nothing_and_doubles_nothing() {
    between_any_two_steps(Cut::Power).await;
}

#[cfg(feature = "failpoints")]
async fn between_any_two_steps(cut: Cut) {
    use super::other_client::{OtherClient, shared_platform};
    use futures_util::StreamExt as _;
    let mut points = failpoints();
    // These have tests of their own: they need more than new and changed files.
    let tested_elsewhere = [
        &[MISSING, UNMAPPED, super::hooks::DELIVERED][..],
        &super::renames::POINTS,
        &super::named_versions::POINTS,
        &super::withdrawal::POINTS,
        &super::moves_between_watches::POINTS,
        &super::create_imodel::POINTS,
        &super::settings::POINTS,
        &super::sign_in::POINTS,
        &super::two_ledgers::POINTS,
        &super::postgres::ledger_copy::POINTS,
    ]
    .concat();
    points.retain(|point| !tested_elsewhere.contains(&point.as_str()));
    assert!(points.len() >= 18, "{points:?}");
    let cases = points.into_iter().map(|point| async move {
        let (site, folder) = Site::with_folder(shared_platform()).await;
        let other_client = OtherClient::signs_in(&site.emulator).await;
        let mut reached = 0;
        let rounds = [
            [("first.ifc", "first"), ("inner/second.ifc", "second")],
            [
                ("first.ifc", "first, changed"),
                ("inner/third.ifc", "third"),
            ],
        ];
        let mut files = BTreeMap::new();
        for round in rounds {
            // Another client changes the connection in between.
            if files.contains_key("first.ifc") {
                let first = site.stored("first.ifc").id;
                assert!(other_client.remaps(&first, &first, "DWG").await);
            }
            for (path, content) in round {
                write(&folder.join(path), content);
                files.insert(path.to_owned(), content.to_owned());
            }
            let mut switches = vec![("ITWIN_SYNCD_FAILPOINT", point.as_str())];
            if cut == Cut::Power {
                switches.push(("ITWIN_SYNCD_POWER_CUT", "1"));
            }
            let daemon = site.start_with(&switches);
            let is_done = async || {
                let is_synchronized = |file: &serde_json::Value| {
                    file["state"] == "done" && file["result"] == "synchronized"
                };
                site.holds(&files) && site.status().await.values().all(is_synchronized)
            };
            let at_least = Duration::from_secs(8);
            if daemon.ended_by_itself_before(at_least, is_done).await {
                reached += 1;
            }
            cut.strike(&site.path("state"));
            let daemon = site.start();
            eventually(
                || site.holds(&files),
                || format!("{point}: {}", daemon.log()),
            )
            .await;
            site.synchronized(files.len(), &daemon).await;
            daemon.stop().await;
            assert_in_imodel(&site.emulator.state(), &files);
        }
        assert!(reached > 0, "{point} was never reached");
    });
    futures_util::stream::iter(cases)
        .buffer_unordered(8)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn a_lost_response_doubles_nothing() {
    let routes = [
        "POST /connect/token",
        "GET /imodels/*",
        "POST /storage/folders/*/folders",
        "POST /storage/folders/*/files",
        "POST /storage/files/*/complete",
        "POST /storage/files/*/updateContent",
        "PUT /emulated/*",
        "POST /synchronization/imodels/storageConnections",
        "POST /synchronization/imodels/storageConnections/*/sourceFiles",
        "POST /synchronization/imodels/storageConnections/*/run",
        "GET /synchronization/imodels/storageConnections/*/runs/*",
    ];
    let cases = routes.map(|route| async move {
        let (site, folder) = Site::with_folder(platform()).await;
        // One file before, so that the next is added to the connection rather than created with it.
        write(&folder.join("first.ifc"), "first");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let runs = site.emulator.state().runs.len();
        site.emulator
            .fault(Fault::on(route).reset().after_effect().times(1));
        write(&folder.join("new/second.ifc"), "second");
        write(&folder.join("first.ifc"), "first, changed");
        site.synchronized(2, &daemon).await;
        let current = || {
            let first = site.stored("first.ifc");
            first.completions == 2
        };
        eventually(current, || format!("{route}: {}", daemon.log())).await;
        site.synchronized(2, &daemon).await;
        let files = [
            ("first.ifc", "first, changed"),
            ("new/second.ifc", "second"),
        ];
        let files = files.map(|(path, content)| (path.to_owned(), content.to_owned()));
        let state = site.emulator.state();
        assert_in_imodel(&state, &BTreeMap::from(files));
        assert!(state.runs.len() <= runs + 2, "{route}: {:#?}", state.runs);
        // The root, "new", and the claim of the ledger.
        assert_eq!(state.folders.len(), 3, "{route}: {:#?}", state.folders);
        daemon.stop().await;
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_run_whose_response_was_lost_is_followed_and_not_requested_again() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator
        .fault(Fault::on("POST */run").reset().after_effect().times(1));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(site.emulator.state().runs.len(), 1);
    assert_eq!(site.requests("POST", "/run").len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_restart_follows_the_run_that_it_finds() {
    let (site, folder) = Site::with_folder(platform().run_duration(Duration::from_secs(3))).await;
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("run requested").await;
    daemon.kill().await;
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(site.emulator.state().runs.len(), 1);
    assert_eq!(site.requests("POST", "/run").len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn what_changed_while_the_daemon_was_down_is_found_at_the_start() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("kept.ifc"), "kept");
    write(&folder.join("changed.ifc"), "before");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    write(&folder.join("changed.ifc"), "after!");
    write(&folder.join("new.ifc"), "new");
    let daemon = site.start();
    let all = || {
        let state = site.emulator.state();
        state.files.len() == 3 && state.files.values().all(|file| file.completed.is_some())
    };
    eventually(all, || daemon.log()).await;
    site.synchronized(3, &daemon).await;
    let files = [
        ("kept.ifc", "kept"),
        ("changed.ifc", "after!"),
        ("new.ifc", "new"),
    ];
    let files = files.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_in_imodel(&site.emulator.state(), &BTreeMap::from(files));
    assert_eq!(site.stored("kept.ifc").blob_writes, 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_daemon_on_the_same_ledger_refuses_to_start_and_says_why() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("watch started").await;
    let second = site.run(&["run"]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.err.contains("state") && second.err.contains("another"),
        "{second:?}"
    );
    let (status, _) = daemon.stop().await;
    assert!(status.success());
}

#[tokio::test]
async fn the_first_signal_stops_the_daemon_gracefully_and_the_second_at_once() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("watch started").await;
    let (status, log) = daemon.stop().await;
    assert_eq!(status.code(), Some(0), "{log}");

    slow(&site, "PUT *", 60_000);
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    // Requests are recorded with their answers; this one has none yet.
    let created = || !site.requests("POST", "/files").is_empty();
    eventually(created, || daemon.log()).await;
    daemon.signal("TERM");
    daemon.says("a second signal exits immediately").await;
    daemon.signal("INT");
    let (status, log) = daemon.ended().await;
    assert_eq!(status.code(), Some(130), "{log}");
}

#[tokio::test]
async fn an_upload_in_progress_may_finish_within_the_grace_period() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += "shutdown_grace = \"20s\"\n";
    slow(&site, "PUT *", 1000);
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    let created = || !site.requests("POST", "/files").is_empty();
    eventually(created, || daemon.log()).await;
    let (status, log) = daemon.stop().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(site.stored("house.ifc").completions, 1, "{log}");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    assert_eq!(site.stored("house.ifc").blob_writes, 1);
    assert_eq!(
        site.emulator
            .state()
            .connections
            .values()
            .next()
            .unwrap()
            .imodel_id,
        DEFAULT_IMODEL_ID
    );
}
