//! Nothing spins: every way back to *due* counts an attempt or follows from progress, whatever storage says.

use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault, RunFault, TaskFault};
use itwin_syncd::emulator::{IncompleteFiles, NameCase, Switches, UpdateIncomplete};

use super::other_client::{OtherClient, shared_platform};
use super::support::{Site, eventually, platform, sha256, write};

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_never_completed_storage_file_that_refuses_content_is_replaced_without_a_loop() {
    for leaning in [
        (UpdateIncomplete::Conflict, IncompleteFiles::Listed),
        (UpdateIncomplete::NotFound, IncompleteFiles::Listed),
        // It can't be read either, so only the refusal shows that it is there.
        (UpdateIncomplete::Conflict, IncompleteFiles::Hidden),
    ] {
        let mut switches = Switches::default();
        (switches.update_incomplete, switches.incomplete_files) = leaning;
        let (site, folder) = Site::with_folder(platform().switches(switches)).await;
        write(&folder.join("first.ifc"), "first");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        write(&folder.join("second.ifc"), "second");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", "file recorded")]);
        assert!(daemon.ended_by_itself_within(Duration::from_secs(20)).await);
        let before = site.emulator.requests().len();
        let daemon = site.start();
        site.synchronized(2, &daemon).await;
        let requests = site.emulator.requests().len() - before;
        assert!(requests < 60, "{leaning:?}: {requests} requests");
        let updates = site.requests("POST", "/updatecontent").len();
        assert!(updates <= 3, "{leaning:?}: {updates} updates");
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("without a pause"), "{log}");
    }
}

#[tokio::test]
async fn a_file_that_was_listed_and_then_deleted_in_storage_does_not_stop_ours_of_its_name() {
    let (site, folder) = Site::with_folder(shared_platform()).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let theirs = other_client.stores("theirs").await;
    let name = site.emulator.state().files[&theirs].display_name.clone();
    let daemon = site.start();
    // The folder is listed before the first file is created in it.
    write(&folder.join("a.ifc"), "a");
    site.synchronized(1, &daemon).await;
    assert!(other_client.deletes_the_storage_file(&theirs).await);
    write(&folder.join(&name), "ours");
    site.synchronized(2, &daemon).await;
    assert_ne!(site.stored(&name).id, theirs);
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("trying again"), "{log}");
}

#[tokio::test]
async fn a_case_only_rename_of_a_file_whose_run_failed_is_synchronized() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator.fail_task(TaskFault {
        file: "Plan.ifc".to_owned(),
        result: "Error".to_owned(),
        error: Some(serde_json::json!({ "canUserFix": true, "message": "damaged" })),
        count: Some(1),
        ..TaskFault::default()
    });
    write(&folder.join("Plan.ifc"), "content");
    let daemon = site.start();
    daemon.says("it is tried again when the file changes").await;
    let before = site.stored("Plan.ifc");
    std::fs::rename(folder.join("Plan.ifc"), folder.join("plan.ifc")).unwrap();
    let done = || {
        let log = daemon.log();
        log.contains("file synchronized")
    };
    eventually(done, || daemon.log()).await;
    assert_eq!(
        site.status().await["north/plan.ifc"]["result"],
        "synchronized"
    );
    let state = site.emulator.state();
    let live = state.files.values().filter(|file| !file.deleted).count();
    assert_eq!(live, 1);
    assert!(state.files.contains_key(&before.id));
    daemon.stop().await;
}

#[tokio::test]
async fn a_case_only_rename_after_a_lost_ledger_creates_no_second_storage_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("Plan.ifc"), "content");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    std::fs::rename(folder.join("Plan.ifc"), folder.join("plan.ifc")).unwrap();
    let daemon = site.start();
    daemon.says("storage holds this content already").await;
    let done =
        || daemon.log().contains("file synchronized") || daemon.log().contains("file unchanged");
    eventually(done, || daemon.log()).await;
    let state = site.emulator.state();
    assert_eq!(state.files.len(), 1, "{:#?}", state.files);
    daemon.stop().await;
}

/// Storage treats the two spellings as two files, or may; each local file keeps the storage file of its own spelling.
#[tokio::test]
async fn a_storage_file_of_another_spelling_stays_with_the_local_file_of_that_spelling() {
    for (old, new) in [("Plan.ifc", "plan.ifc"), ("plan.ifc", "Plan.ifc")] {
        let mut switches = Switches::default();
        switches.name_case = NameCase::Sensitive;
        let (site, folder) = Site::with_folder(platform().switches(switches)).await;
        write(&folder.join(old), "old");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let first = site.stored(old).id;
        daemon.stop().await;
        std::fs::remove_dir_all(site.path("state")).unwrap();
        write(&folder.join(new), "new content");
        let daemon = site.start();
        daemon
            .says("iTwin Storage may not distinguish its name from")
            .await;
        // Which of the two waits depends on the order of the folder's listing.
        let done = || {
            let state = site.emulator.state();
            let mut files = state.files.values();
            let added = files.any(|file| file.display_name == new && file.completed.is_some());
            added || daemon.log().contains("storage holds this content already")
        };
        eventually(done, || daemon.log()).await;
        let state = site.emulator.state();
        let kept = state.files[&first].completed.as_ref().unwrap();
        assert_eq!(kept.sha256, sha256(b"old"), "{:#?}", state.files);
        for file in state.files.values() {
            let content = if file.display_name == old {
                &b"old"[..]
            } else {
                b"new content"
            };
            assert_eq!(file.completed.as_ref().unwrap().sha256, sha256(content));
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_root_folder_is_looked_up_again_when_it_is_refused() {
    let (site, folder) = Site::with_folder(platform()).await;
    let wrong = "bm90IGEgcm9vdCBmb2xkZXI";
    let link = format!("{}/storage/folders/{wrong}", site.emulator.api_url());
    let body = serde_json::json!({ "items": [], "_links": { "folder": { "href": link } } });
    site.emulator.fault(
        Fault::on("GET /storage/*")
            .status(200)
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .times(1),
    );
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(site.emulator.state().files.len(), 1);
    let requests = site.emulator.requests();
    assert!(requests.iter().any(|request| request.path.contains(wrong)));
    daemon.stop().await;
    // The right one is in the ledger: it is not looked up again.
    let lookups = || {
        let requests = site.emulator.requests();
        let root = |path: &str| path.trim_end_matches('/').ends_with("/storage");
        requests
            .iter()
            .filter(|request| root(&request.path))
            .count()
    };
    assert_eq!(lookups(), 2);
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    assert_eq!(lookups(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_case_only_folder_rename_after_a_lost_ledger_creates_no_second_storage_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("Plans/a.ifc"), "content");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    std::fs::rename(folder.join("Plans"), folder.join("plans")).unwrap();
    let daemon = site.start();
    let done =
        || daemon.log().contains("file synchronized") || daemon.log().contains("file unchanged");
    eventually(done, || daemon.log()).await;
    let state = site.emulator.state();
    assert_eq!(state.files.len(), 1, "{:#?}", state.files);
    daemon.stop().await;
}

#[tokio::test]
async fn a_storage_folder_deleted_by_another_client_is_created_again_for_a_new_subfolder() {
    let (site, folder) = Site::with_folder(shared_platform()).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    write(&folder.join("plans/a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let plans = site.stored("plans/a.ifc").parent_folder_id;
    assert!(other_client.deletes_the_storage_folder(&plans).await);
    write(&folder.join("plans/new/b.ifc"), "b");
    let stored = || {
        let state = site.emulator.state();
        let mut live = state.files.values();
        live.any(|file| file.path == "plans/new/b.ifc" && file.completed.is_some())
    };
    eventually(stored, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_that_is_never_found_is_requested_with_growing_backoff() {
    for lost in [true, false] {
        let (mut site, folder) = Site::with_folder(platform()).await;
        site.tables = site
            .tables
            .replace("first_delay = \"200ms\"", "first_delay = \"1s\"");
        if lost {
            site.emulator.fail_run(RunFault {
                imodel_id: DEFAULT_IMODEL_ID.to_owned(),
                lost: true,
                ..RunFault::default()
            });
        } else {
            site.emulator.fault(Fault::on("POST */run").reset());
        }
        write(&folder.join("a.ifc"), "a");
        let daemon = site.start();
        let requested = || site.requests("POST", "/run").len() >= 6;
        let began = tokio::time::Instant::now();
        eventually(requested, || daemon.log()).await;
        // The pauses grow from 1 s to 2 s, and half of each is chance.
        assert!(began.elapsed() > Duration::from_secs(4), "{lost}");
        daemon.stop().await;
    }
}
