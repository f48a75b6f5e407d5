//! *Synchronized* means that a run read that very content: whatever another client does to connection and storage.
//!
//! Judged by what the emulator recorded: which content each run covered.

use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{
    DEFAULT_IMODEL_ID, Fault, File, Report, Run, Switches, TaskFault, UnchangedTask,
};

use super::other_client::{NAME, OtherClient, shared_platform};
use super::support::{Daemon, Site, eventually, platform, sha256, write};

/// The platform is asked what it holds as often as the folder is scanned; most tests want to see a run do it.
const SELDOM: &str = "rescan_interval = \"1h\"\n";

/// ... and some want to see it without one.
const OFTEN: &str = "rescan_interval = \"1s\"\n";

async fn site(interval: &str) -> (Site, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(shared_platform()).await;
    site.top += interval;
    (site, folder)
}

/// Writes a file and waits until a run has covered it.
async fn bring(site: &Site, daemon: &Daemon, folder: &Path, name: &str, content: &str) -> File {
    write(&folder.join(name), content);
    covered(site, daemon, name, content).await;
    site.stored(name)
}

/// The runs that read this content of this storage path with success.
fn runs_of(site: &Site, path: &str, content: &str) -> Vec<Run> {
    let state = site.emulator.state();
    let sha256 = sha256(content.as_bytes());
    let live = state.files.values();
    let ids: Vec<&str> = live
        .filter(|file| file.path == path && !file.deleted)
        .map(|file| file.id.as_str())
        .collect();
    let mut runs: Vec<Run> = state.runs.into_values().collect();
    runs.retain(|run| {
        run.state == "Completed"
            && run.covered.iter().any(|file| {
                ids.contains(&file.storage_file_id.as_str())
                    && file.sha256 == sha256
                    && file.result == "Success"
            })
    });
    runs
}

/// Waits until a run has read this content and status says so.
async fn covered(site: &Site, daemon: &Daemon, path: &str, content: &str) {
    eventually(
        || !runs_of(site, path, content).is_empty(),
        || {
            format!(
                "no run read {path}: {:#?}\n{}",
                site.emulator.state().runs,
                daemon.log()
            )
        },
    )
    .await;
    status_is(site, daemon, path, "done", "synchronized").await;
}

/// Waits until status says this of a file: the state of its job and the word for it.
async fn status_is(site: &Site, daemon: &Daemon, path: &str, state: &str, word: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let files = site.status().await;
        let file = files.get(&format!("north/{path}"));
        let found = file.is_some_and(|file| file["state"] == state && file["status"] == word);
        if found {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{path} is not {state}, {word}: {files:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

/// The connections of the iModel, each with the storage files that it maps and their connectors.
fn mapped(site: &Site) -> Vec<Vec<(String, String)>> {
    let state = site.emulator.state();
    let connections = state.connections.values();
    connections
        .map(|connection| {
            let mut held: Vec<_> = connection
                .source_files
                .iter()
                .map(|held| (held.storage_file_id.clone(), held.connector_type.clone()))
                .collect();
            held.sort();
            held
        })
        .collect()
}

fn ifc(files: &[&File]) -> Vec<(String, String)> {
    let mut held: Vec<_> = files
        .iter()
        .map(|file| (file.id.clone(), "IFC".to_owned()))
        .collect();
    held.sort();
    held
}

fn lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn a_file_unmapped_by_another_client_is_mapped_again_and_its_new_content_is_run() {
    let (site, folder) = site(SELDOM).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let file = bring(&site, &daemon, &folder, "a.ifc", "first").await;
    assert!(other_client.unmaps(&file.id).await);
    bring(&site, &daemon, &folder, "a.ifc", "second").await;
    assert_eq!(mapped(&site), [ifc(&[&file])]);
    assert_eq!(lines(&daemon.log(), "added again"), 1, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_unmapped_by_another_client_is_mapped_again_without_a_local_change() {
    let (site, folder) = site(OFTEN).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let file = bring(&site, &daemon, &folder, "a.ifc", "first").await;
    let before = runs_of(&site, "a.ifc", "first").len();
    assert!(other_client.unmaps(&file.id).await);
    eventually(
        || mapped(&site) == [ifc(&[&file])] && runs_of(&site, "a.ifc", "first").len() > before,
        || daemon.log(),
    )
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_remap_an_unmapped_file_stays_out_and_is_reported_as_failed() {
    let (mut site, folder) = site(SELDOM).await;
    site.tables = site.tables.replace("[sync]\n", "[sync]\nremap = false\n");
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let file = bring(&site, &daemon, &folder, "a.ifc", "first").await;
    assert!(other_client.unmaps(&file.id).await);
    write(&folder.join("a.ifc"), "second");
    status_is(&site, &daemon, "a.ifc", "failed", "failed").await;
    assert_eq!(site.status().await["north/a.ifc"]["failure"], "unmapped");
    // What the hint says ends the failure.
    site.tables = site.tables.replace("remap = false\n", "");
    site.config();
    daemon.signal("HUP");
    covered(&site, &daemon, "a.ifc", "second").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_deleted_by_another_client_is_created_again_with_all_stored_files() {
    let (site, folder) = site(SELDOM).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let a = bring(&site, &daemon, &folder, "a.ifc", "a").await;
    let b = bring(&site, &daemon, &folder, "b.ifc", "b").await;
    assert!(other_client.deletes_the_connection().await);
    bring(&site, &daemon, &folder, "a.ifc", "a, changed").await;
    assert_eq!(mapped(&site), [ifc(&[&a, &b])]);
    let last = runs_of(&site, "a.ifc", "a, changed");
    assert!(
        runs_of(&site, "b.ifc", "b")
            .iter()
            .any(|run| last.iter().any(|last| last.id == run.id)),
        "the new connection's run covers the other file too"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_deleted_by_another_client_is_created_again_without_a_local_change() {
    let (site, folder) = site(OFTEN).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let a = bring(&site, &daemon, &folder, "a.ifc", "a").await;
    let b = bring(&site, &daemon, &folder, "b.ifc", "b").await;
    assert!(other_client.deletes_the_connection().await);
    eventually(|| mapped(&site) == [ifc(&[&a, &b])], || daemon.log()).await;
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn another_connector_storage_file_or_authentication_is_corrected_before_the_next_run() {
    for what in ["connector", "storage file", "authentication"] {
        let (site, folder) = site(SELDOM).await;
        let other_client = OtherClient::signs_in(&site.emulator).await;
        let daemon = site.start();
        let file = bring(&site, &daemon, &folder, "a.ifc", "first").await;
        let source = other_client.source_file(&file.id).unwrap().1.id;
        let words = match what {
            "connector" => {
                assert!(other_client.remaps(&file.id, &file.id, "DWG").await);
                "connector type was changed by another client"
            }
            "storage file" => {
                let theirs = other_client.stores("theirs").await;
                assert!(other_client.remaps(&file.id, &theirs, "IFC").await);
                "referred to another storage file"
            }
            _ => {
                assert!(other_client.changes_the_authentication().await);
                "was not set to service authentication"
            }
        };
        bring(&site, &daemon, &folder, "a.ifc", "second").await;
        assert_eq!(mapped(&site), [ifc(&[&file])], "{what}");
        assert_eq!(
            other_client.source_file(&file.id).unwrap().1.id,
            source,
            "{what}"
        );
        assert_eq!(lines(&daemon.log(), words), 1, "{what}: {}", daemon.log());
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("synchronization failed"), "{what}: {log}");
    }
}

#[tokio::test]
async fn content_of_another_client_in_our_storage_file_is_replaced_before_it_counts() {
    // Before the run, of equal size and of another one; and long after it, with and without a run.
    for (interval, theirs, early) in [
        (SELDOM, "theirs", true),
        (SELDOM, "something else", true),
        (SELDOM, "theirs", false),
        (OFTEN, "theirs", false),
    ] {
        let (mut site, folder) = site(interval).await;
        let what = format!("{interval} {theirs} {early}");
        if early {
            // Time to interfere between the upload and the run.
            site.tables = site
                .tables
                .replace("batch_window = \"300ms\"", "batch_window = \"2s\"");
        }
        let other_client = OtherClient::signs_in(&site.emulator).await;
        let daemon = site.start();
        if early {
            write(&folder.join("a.ifc"), "ours!!");
            daemon.says("uploaded").await;
        } else {
            bring(&site, &daemon, &folder, "a.ifc", "ours!!").await;
        }
        let file = site.stored("a.ifc");
        assert!(other_client.overwrites(&file.id, theirs).await, "{what}");
        if !early && interval == SELDOM {
            bring(&site, &daemon, &folder, "b.ifc", "another file, for a run").await;
        }
        let ours = sha256(b"ours!!");
        let replaced = || {
            let file = site.stored("a.ifc");
            let completed = file.completed.unwrap();
            completed.version >= 3
                && completed.sha256 == ours
                && runs_of(&site, "a.ifc", "ours!!")
                    .iter()
                    .any(|run| run.requested_at >= completed.completed_at)
        };
        eventually(replaced, || format!("{what}: {}", daemon.log())).await;
        covered(&site, &daemon, "a.ifc", "ours!!").await;
        let (_, log) = daemon.stop().await;
        assert_eq!(
            lines(&log, "storage file changed by another client"),
            1,
            "{what}: {log}"
        );
        assert!(log.contains(NAME), "{what}: {log}");
    }
}

#[tokio::test]
async fn a_storage_file_that_was_only_renamed_is_not_uploaded_again() {
    let (site, folder) = site(OFTEN).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let file = bring(&site, &daemon, &folder, "a.ifc", "ours").await;
    assert!(other_client.renames(&file.id, "renamed.ifc").await);
    daemon.says("storage holds this content already").await;
    status_is(&site, &daemon, "a.ifc", "done", "synchronized").await;
    let state = site.emulator.state();
    let completed = state.files[&file.id].completed.as_ref().unwrap();
    assert_eq!(completed.version, 1, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_storage_file_deleted_before_its_run_is_uploaded_and_mapped_again() {
    let (mut site, folder) = site(SELDOM).await;
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"2s\"");
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let first = bring(&site, &daemon, &folder, "a.ifc", "first").await;
    write(&folder.join("a.ifc"), "second");
    let stored = || {
        let completed = site.stored("a.ifc").completed;
        completed.is_some_and(|completed| completed.version == 2)
    };
    eventually(stored, || daemon.log()).await;
    assert!(other_client.deletes_the_storage_file(&first.id).await);
    covered(&site, &daemon, "a.ifc", "second").await;
    let second = site.stored("a.ifc");
    assert_ne!(second.id, first.id);
    assert_eq!(mapped(&site), [ifc(&[&second])], "no dead mapping is left");
    let last = site.emulator.state().runs.into_values();
    let last = last.max_by_key(|run| run.requested_at).unwrap();
    assert_eq!(last.result, "Success");
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_is_deleted_between_its_upload_and_its_run_is_still_mapped_and_run() {
    let (mut site, folder) = site(OFTEN).await;
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"5s\"");
    let daemon = site.start();
    let kept = bring(&site, &daemon, &folder, "kept.ifc", "kept").await;
    write(&folder.join("deleted.ifc"), "last");
    let stored = || {
        let state = site.emulator.state();
        let mut files = state.files.values();
        files.any(|file| file.path == "deleted.ifc" && file.completed.is_some())
    };
    eventually(stored, || daemon.log()).await;
    std::fs::remove_file(folder.join("deleted.ifc")).unwrap();
    daemon.says("known files were deleted").await;
    let run = || !runs_of(&site, "deleted.ifc", "last").is_empty();
    eventually(run, || daemon.log()).await;
    let deleted = site.stored("deleted.ifc");
    assert_eq!(mapped(&site), [ifc(&[&kept, &deleted])]);
    daemon.stop().await;
}

#[tokio::test]
async fn retry_uploads_a_file_whose_storage_file_is_gone() {
    let (site, folder) = site(SELDOM).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    site.emulator.fail_task(TaskFault {
        file: "a.ifc".to_owned(),
        result: "Error".to_owned(),
        error: Some(serde_json::json!({ "canUserFix": true, "message": "damaged" })),
        count: Some(1),
        ..TaskFault::default()
    });
    write(&folder.join("a.ifc"), "ours");
    status_is(&site, &daemon, "a.ifc", "failed", "failed").await;
    let first = site.stored("a.ifc");
    assert!(other_client.deletes_the_storage_file(&first.id).await);
    let retried = site.run(&["retry", "a.ifc"]).await;
    assert_eq!(retried.code, Some(0), "{retried:?}");
    covered(&site, &daemon, "a.ifc", "ours").await;
    assert_ne!(site.stored("a.ifc").id, first.id);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_fails_in_the_run_of_another_file_is_failed_and_recovers_with_the_next_run() {
    let (site, folder) = site(SELDOM).await;
    let daemon = site.start();
    bring(&site, &daemon, &folder, "a.ifc", "a").await;
    site.emulator.fail_task(TaskFault {
        file: "a.ifc".to_owned(),
        result: "Error".to_owned(),
        error: Some(serde_json::json!({ "canUserFix": true, "message": "reference not found" })),
        count: Some(1),
        ..TaskFault::default()
    });
    bring(&site, &daemon, &folder, "b.ifc", "b").await;
    status_is(&site, &daemon, "a.ifc", "failed", "failed").await;
    let file = site.status().await["north/a.ifc"].clone();
    assert_eq!(file["failure"], "run");
    let reason = file["reason"].as_str().unwrap();
    assert!(reason.contains("reference not found"), "{reason}");
    assert!(daemon.log().contains("reference not found"));
    bring(&site, &daemon, &folder, "b.ifc", "b, changed").await;
    status_is(&site, &daemon, "a.ifc", "done", "synchronized").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_without_a_task_for_a_file_is_no_success() {
    // A run that was started by another client reads the content first, so that ours has no task for it.
    let mut switches = Switches::default();
    switches.unchanged_task = UnchangedTask::Absent;
    let builder = shared_platform().switches(switches);
    let (mut site, folder) = Site::with_folder(builder).await;
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"2s\"");
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    bring(&site, &daemon, &folder, "a.ifc", "first").await;
    write(&folder.join("a.ifc"), "second");
    let stored = || site.stored("a.ifc").completions == 2;
    eventually(stored, || daemon.log()).await;
    assert!(other_client.runs(&other_client.connection().unwrap()).await);
    covered(&site, &daemon, "a.ifc", "second").await;
    // And a mapping that goes between our look and the run: no run has a task for the content.
    site.emulator.fault(
        Fault::on("POST */run")
            .latency(Duration::from_millis(1500))
            .times(1),
    );
    let before = site.requests("POST", "/run").len();
    write(&folder.join("a.ifc"), "third");
    let listed = || {
        let lists = site.requests("GET", "/sourceFiles");
        let stored = site.stored("a.ifc").completions == 3;
        stored
            && lists.last().is_some_and(|list| {
                let file = site.stored("a.ifc");
                list.time > file.completed.unwrap().completed_at
            })
    };
    eventually(listed, || daemon.log()).await;
    let file = site.stored("a.ifc");
    assert!(other_client.unmaps(&file.id).await);
    covered(&site, &daemon, "a.ifc", "third").await;
    assert!(site.requests("POST", "/run").len() >= before + 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_without_a_task_in_every_run_is_uploaded_again_and_synchronized() {
    // The platform makes no task for content that it has processed, and the ledger that knew so is lost.
    let mut switches = Switches::default();
    switches.unchanged_task = UnchangedTask::Absent;
    let (site, folder) = Site::with_folder(shared_platform().switches(switches)).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    bring(&site, &daemon, &folder, "a.ifc", "content").await;
    daemon.stop().await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    // The platform has forgotten the run that processed it.
    let run = site.emulator.state().runs.keys().next().unwrap().clone();
    site.emulator.fault(
        Fault::on(format!("GET */runs/{run}")).status(404).body(
            r#"{"error":{"code":"RunNotFound","message":"Requested run is not available."}}"#,
        ),
    );
    let connection = other_client.connection().unwrap();
    assert!(other_client.runs(&connection).await);
    let ended = || {
        let state = site.emulator.state();
        state.runs.len() == 2 && state.runs.values().all(|run| run.state == "Completed")
    };
    eventually(ended, String::new).await;
    let daemon = site.start();
    daemon.says("did not process it").await;
    let again = || site.stored("a.ifc").completions == 2;
    eventually(again, || daemon.log()).await;
    covered(&site, &daemon, "a.ifc", "content").await;
    status_is(&site, &daemon, "a.ifc", "done", "synchronized").await;
    assert_eq!(site.stored("a.ifc").completions, 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_whose_source_file_was_corrected_needs_no_task_for_content_that_a_run_of_ours_has_read()
 {
    let mut switches = Switches::default();
    switches.unchanged_task = UnchangedTask::Absent;
    let (mut site, folder) = Site::with_folder(shared_platform().switches(switches)).await;
    site.top += OFTEN;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let daemon = site.start();
    let file = bring(&site, &daemon, &folder, "a.ifc", "content").await;
    // From now on each run fails.
    site.emulator.fail_task(TaskFault {
        file: "b.ifc".to_owned(),
        result: "Error".to_owned(),
        ..TaskFault::default()
    });
    write(&folder.join("b.ifc"), "no model");
    status_is(&site, &daemon, "b.ifc", "failed", "failed").await;
    let before = site.emulator.state().runs.len();
    let theirs = other_client.stores("content of another client").await;
    assert!(other_client.remaps(&file.id, &theirs, "IFC").await);
    daemon
        .says("source file referred to another storage file; corrected")
        .await;
    let ended = || {
        let state = site.emulator.state();
        state.runs.len() > before && state.runs.values().all(|run| run.state == "Completed")
    };
    eventually(ended, || daemon.log()).await;
    status_is(&site, &daemon, "a.ifc", "done", "synchronized").await;
    assert_eq!(site.stored("a.ifc").completions, 1);
    let (_, log) = daemon.stop().await;
    let unprocessed = |line: &str| line.contains("a.ifc") && line.contains("did not process it");
    assert!(!log.lines().any(unprocessed), "{log}");
}

#[tokio::test]
async fn a_file_with_warnings_is_synchronized_with_issues_everywhere() {
    let (mut site, folder) = site(SELDOM).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    site.tables += &format!("[web]\nlisten = \"{address}\"\n");
    let daemon = site.start();
    site.emulator.fail_task(TaskFault {
        file: "a.ifc".to_owned(),
        result: "PartialSuccess".to_owned(),
        report: Some(Report {
            suggested_action: "check the levels".to_owned(),
            total_errors_count: 2,
            total_warnings_count: 5,
            ..Report::default()
        }),
        count: Some(1),
        ..TaskFault::default()
    });
    write(&folder.join("a.ifc"), "a");
    status_is(&site, &daemon, "a.ifc", "done", "synchronized with issues").await;
    let file = site.status().await["north/a.ifc"].clone();
    assert_eq!(file["result"], "synchronized_with_issues");
    assert_eq!(file["issues"]["errors"], 2);
    assert_eq!(file["issues"]["warnings"], 5);
    assert_eq!(file["hint"], "check the levels");
    let output = site.run(&["status", "a.ifc"]).await.out;
    assert!(output.contains("2 errors, 5 warnings"), "{output}");
    assert!(output.contains("check the levels"), "{output}");
    let first = site.run(&["status"]).await.out;
    assert!(first.contains("1 file synchronized with issues"), "{first}");
    daemon.says("file synchronized with issues").await;
    let metrics = reqwest::get(format!("http://{address}/metrics"))
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "itwin_syncd_files_synchronized_with_issues{watch=\"north\"} 1",
        "itwin_syncd_file_results_total{watch=\"north\",result=\"synchronized_with_issues\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_of_another_client_is_named_by_status_and_explain_and_reported_once() {
    let (mut site, folder) = site(SELDOM).await;
    site.tables = site
        .tables
        .replace("[sync]\n", "[sync]\nrun_deadline = \"1s\"\n");
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let theirs = other_client.stores("theirs").await;
    let connection = other_client
        .connects("their connection", &theirs)
        .await
        .unwrap();
    site.emulator.fail_run(itwin_syncd::emulator::RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(30_000),
        count: Some(1),
        ..Default::default()
    });
    assert!(other_client.runs(&connection).await);
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a");
    daemon.says("another run of the iModel exceeded").await;
    let status = site.run(&["status"]).await.out;
    assert!(
        status.contains("\"their connection\", first seen active"),
        "{status}"
    );
    assert!(status.contains("overdue"), "{status}");
    let path = folder.join("a.ifc");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    assert!(
        explained.contains("of connection \"their connection\""),
        "{explained}"
    );
    covered(&site, &daemon, "a.ifc", "a").await;
    let status = site.run(&["status"]).await.out;
    assert!(!status.contains("their connection"), "{status}");
    let (_, log) = daemon.stop().await;
    assert_eq!(
        lines(&log, "another run of the iModel is active"),
        1,
        "{log}"
    );
    let overdue = "another run of the iModel exceeded sync.run_deadline";
    assert_eq!(lines(&log, overdue), 1, "{log}");
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_reported_once_across_a_restart() {
    let (mut site, folder) = site(SELDOM).await;
    site.tables = site
        .tables
        .replace("[sync]\n", "[sync]\nrun_deadline = \"1s\"\n");
    site.emulator.fail_run(itwin_syncd::emulator::RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(8000),
        count: Some(1),
        ..Default::default()
    });
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a");
    daemon.says("exceeded sync.run_deadline").await;
    let status = site.run(&["status"]).await.out;
    assert!(status.contains("overdue"), "{status}");
    let (_, first) = daemon.stop().await;
    let daemon = site.start();
    covered(&site, &daemon, "a.ifc", "a").await;
    let (_, second) = daemon.stop().await;
    let log = first + &second;
    assert_eq!(lines(&log, "exceeded sync.run_deadline"), 1, "{log}");
}

#[tokio::test]
async fn one_odd_response_to_add_source_file_fails_no_file_for_good() {
    for (status, body) in [
        (400, "<html>proxy</html>"),
        (409, ""),
        (422, "<html>proxy</html>"),
    ] {
        let (site, folder) = Site::with_folder(platform()).await;
        let daemon = site.start();
        bring(&site, &daemon, &folder, "a.ifc", "a").await;
        site.emulator.fault(
            Fault::on("POST /synchronization/imodels/storageConnections/*/sourceFiles")
                .status(status)
                .body(body)
                .times(1),
        );
        bring(&site, &daemon, &folder, "b.ifc", "b").await;
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("result=\"failed\""), "{status}: {log}");
    }
}
