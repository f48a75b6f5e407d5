//! Files that are gone from their folder: what stays on the platform, what is taken away, and how it comes back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use itwin_syncd::emulator::{
    Builder, DEFAULT_IMODEL_ID, Fault, RemovedSourceFile, RestoredTime, RunFault, State, Switches,
    UnchangedTask,
};
use tokio::time::Instant;

use crate::other_client::{OtherClient, shared_platform};
use crate::support::{Daemon, Site, eventually, platform, write};

const PATIENCE: Duration = Duration::from_secs(60);

/// The times in this file are short: a deletion is confirmed within a few seconds.
const TIMES: &str = "settle = \"100ms\"\nrescan_interval = \"500ms\"\npoll_interval = \"500ms\"\n";

/// A watch with these keys, and `count` synchronized files `0.ifc`, `1.ifc`, …
async fn synchronized(builder: Builder, keys: &str, count: usize) -> (Site, PathBuf, Daemon) {
    let mut site = Site::new(builder).await;
    TIMES.clone_into(&mut site.top);
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    for index in 0..count {
        write(
            &folder.join(format!("{index}.ifc")),
            &format!("content {index}"),
        );
    }
    let daemon = site.start();
    site.synchronized(count, &daemon).await;
    (site, folder, daemon)
}

fn delete(folder: &Path, name: &str) {
    std::fs::remove_file(folder.join(name)).unwrap();
}

/// Names of the storage files that source files refer to.
fn mapped(state: &State) -> Vec<String> {
    let sources = state.connections.values().flat_map(|one| &one.source_files);
    let mut names: Vec<String> = sources
        .map(|source| state.files[&source.storage_file_id].display_name.clone())
        .collect();
    names.sort();
    names
}

/// Names of the files of which the iModel has elements.
fn elements(site: &Site) -> Vec<String> {
    let state = site.emulator.state();
    let contents = &state.imodels[DEFAULT_IMODEL_ID].contents;
    let mut names: Vec<String> = contents
        .iter()
        .map(|content| state.files[&content.storage_file_id].display_name.clone())
        .collect();
    names.sort();
    names
}

/// Whether the only storage file of this name is in the recycle bin.
fn is_deleted(site: &Site, name: &str) -> bool {
    let state = site.emulator.state();
    let mut named = state
        .files
        .values()
        .filter(|file| file.display_name == name);
    let file = named.next().unwrap();
    assert!(named.next().is_none(), "{name} is in storage twice");
    file.deleted
}

/// Waits until `status` shows the file like this.
async fn shown(site: &Site, name: &str, text: &str, daemon: &Daemon) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = site.status().await;
        if let Some(file) = files.get(&format!("north/{name}"))
            && file["status"] == text
        {
            return file.clone();
        }
        assert!(
            Instant::now() < deadline,
            "{name} is not {text:?}: {files:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

/// The history of a file.
async fn history(site: &Site, folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    site.run(&["status", path.to_str().unwrap()]).await.out
}

const STAYS: &str = "gone from the folder; still in the iModel";
const UNMAPPED: &str = "gone from the folder; removed from the connection";
const DELETED: &str = "gone from the folder; storage file in the recycle bin";

#[tokio::test]
async fn a_deleted_file_stays_on_the_platform_by_default_and_is_counted_apart() {
    let (site, folder, daemon) = synchronized(platform(), "", 3).await;
    delete(&folder, "1.ifc");
    let file = shown(&site, "1.ifc", STAYS, &daemon).await;
    assert_eq!(file["absence"], "gone");
    let status = site.run(&["status"]).await.out;
    assert!(status.contains("2 synchronized, 1 gone"), "{status}");
    let story = history(&site, &folder, "1.ifc").await;
    assert!(story.contains("absent since"), "{story}");
    assert_eq!(mapped(&site.emulator.state()).len(), 3);
    assert!(site.requests("DELETE", "").is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn an_unmapped_file_keeps_its_storage_file_and_is_mapped_again_without_an_upload() {
    for unchanged in [UnchangedTask::Listed, UnchangedTask::Absent] {
        for elements_are in [RemovedSourceFile::Kept, RemovedSourceFile::ElementsDeleted] {
            let mut switches = Switches::default();
            switches.unchanged_task = unchanged;
            switches.removed_source_file = elements_are;
            let keys = "on_delete = \"unmap\"\ndelete_after = \"1s\"";
            let (site, folder, daemon) = synchronized(platform().switches(switches), keys, 3).await;
            let stored = site.stored("1.ifc");
            delete(&folder, "1.ifc");
            shown(&site, "1.ifc", UNMAPPED, &daemon).await;
            assert_eq!(mapped(&site.emulator.state()), ["0.ifc", "2.ifc"]);
            assert!(!is_deleted(&site, "1.ifc"));
            let story = history(&site, &folder, "1.ifc").await;
            assert!(
                story.contains("removed from the connection: it is gone from the folder"),
                "{story}"
            );
            // The next run may take its elements away.
            write(&folder.join("0.ifc"), "changed");
            let runs = site.emulator.state().runs.len();
            let ran = || site.emulator.state().runs.len() > runs;
            eventually(ran, || daemon.log()).await;
            write(&folder.join("1.ifc"), "content 1");
            let back = || mapped(&site.emulator.state()).len() == 3;
            eventually(back, || daemon.log()).await;
            site.synchronized(3, &daemon).await;
            assert_eq!(elements(&site), ["0.ifc", "1.ifc", "2.ifc"]);
            let now = site.stored("1.ifc");
            assert_eq!((now.id, now.completions), (stored.id, 1));
            daemon.stop().await;
        }
    }
}

#[tokio::test]
async fn a_removed_file_is_unmapped_run_and_deleted_and_comes_back_with_its_storage_file() {
    for elements_are in [RemovedSourceFile::Kept, RemovedSourceFile::ElementsDeleted] {
        let mut switches = Switches::default();
        switches.removed_source_file = elements_are;
        if elements_are == RemovedSourceFile::ElementsDeleted {
            switches.restored_time = RestoredTime::Changed;
        }
        let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
        let (site, folder, daemon) = synchronized(platform().switches(switches), keys, 3).await;
        let stored = site.stored("1.ifc");
        let runs = site.emulator.state().runs.len();
        delete(&folder, "1.ifc");
        shown(&site, "1.ifc", DELETED, &daemon).await;
        assert!(is_deleted(&site, "1.ifc"));
        assert_eq!(mapped(&site.emulator.state()), ["0.ifc", "2.ifc"]);
        assert_eq!(site.emulator.state().runs.len(), runs + 1);
        // First the source file, then a run, then the storage file.
        let requests = site.emulator.requests();
        let order: Vec<&str> = requests
            .iter()
            .filter(|request| request.method == "DELETE" || request.path.ends_with("/run"))
            .map(|request| match request.path.as_str() {
                path if path.ends_with("/run") => "run",
                path if path.contains("/sourceFiles/") => "unmap",
                _ => "delete",
            })
            .skip(runs)
            .collect();
        assert_eq!(order, ["unmap", "run", "delete"]);
        let expected: &[&str] = match elements_are {
            RemovedSourceFile::ElementsDeleted => &["0.ifc", "2.ifc"],
            RemovedSourceFile::Kept => &["0.ifc", "1.ifc", "2.ifc"],
        };
        assert_eq!(elements(&site), expected);

        write(&folder.join("1.ifc"), "content 1");
        let back = || mapped(&site.emulator.state()).len() == 3;
        eventually(back, || daemon.log()).await;
        site.synchronized(3, &daemon).await;
        assert_eq!(elements(&site), ["0.ifc", "1.ifc", "2.ifc"]);
        let now = site.stored("1.ifc");
        assert_eq!(
            (now.id, now.completions),
            (stored.id, 1),
            "{}",
            daemon.log()
        );
        let story = history(&site, &folder, "1.ifc").await;
        for step in [
            "gone from the folder",
            "removed from the connection",
            "storage file moved to the recycle bin",
            "storage file restored from the recycle bin",
        ] {
            assert!(story.contains(step), "{step}: {story}");
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_restored_file_stays_in_the_imodel_although_it_is_not_in_its_folder() {
    let mut switches = Switches::default();
    switches.removed_source_file = RemovedSourceFile::ElementsDeleted;
    switches.restored_time = RestoredTime::Changed;
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(platform().switches(switches), keys, 3).await;
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", DELETED, &daemon).await;
    let path = folder.join("1.ifc");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    let text = "removed from the connection and from storage after being gone for 1s";
    assert!(explained.contains(text), "{explained}");
    let restored = site.run(&["restore", path.to_str().unwrap()]).await;
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert!(restored.out.contains("restoring 1 file"), "{restored:?}");
    let text = "gone from the folder; restored, still in the iModel";
    shown(&site, "1.ifc", text, &daemon).await;
    assert_eq!(elements(&site), ["0.ifc", "1.ifc", "2.ifc"]);
    assert!(!is_deleted(&site, "1.ifc"));
    // Nor is it removed again when more time has passed and more scans have missed it.
    delete(&folder, "0.ifc");
    shown(&site, "0.ifc", DELETED, &daemon).await;
    shown(&site, "1.ifc", text, &daemon).await;
    // But when it was there and is deleted once more.
    write(&path, "content 1, new");
    shown(&site, "1.ifc", "synchronized", &daemon).await;
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", DELETED, &daemon).await;
    daemon.stop().await;
}

/// Between these steps of a withdrawal, or of its end, a process can be killed.
#[cfg(feature = "failpoints")]
pub const POINTS: [&str; 9] = [
    "unmapping recorded",
    "source file of a deleted file removed",
    "unmapping finished",
    "deletion recorded",
    "storage file deleted",
    "deletion finished",
    "storage file restored",
    "restoring finished",
    "storage file of a returned file restored",
];

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_between_any_two_steps_of_a_withdrawal_removes_or_restores_just_that_file() {
    use futures_util::StreamExt as _;
    let cases = POINTS.into_iter().map(|point| async move {
        let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
        let (site, folder, daemon) = synchronized(platform(), keys, 3).await;
        let stored = site.stored("1.ifc");
        let path = folder.join("1.ifc");
        let killed = [("ITWIN_SYNCD_FAILPOINT", point)];
        let mut reached = 0;
        daemon.stop().await;
        delete(&folder, "1.ifc");
        let daemon = site.start_with(&killed);
        if daemon.ended_by_itself_within(Duration::from_secs(12)).await {
            reached += 1;
        }
        let daemon = site.start();
        shown(&site, "1.ifc", DELETED, &daemon).await;
        assert!(is_deleted(&site, "1.ifc"), "{point}");
        assert_eq!(
            mapped(&site.emulator.state()),
            ["0.ifc", "2.ifc"],
            "{point}"
        );
        daemon.stop().await;

        // The operator brings it back.
        let restored = site.run(&["restore", path.to_str().unwrap()]).await;
        assert!(
            restored.out.contains("when the daemon starts"),
            "{restored:?}"
        );
        let daemon = site.start_with(&killed);
        if daemon.ended_by_itself_within(Duration::from_secs(4)).await {
            reached += 1;
        }
        let daemon = site.start();
        let text = "gone from the folder; restored, still in the iModel";
        shown(&site, "1.ifc", text, &daemon).await;
        assert_eq!(mapped(&site.emulator.state()).len(), 3, "{point}");
        daemon.stop().await;

        // It is there, is deleted again, and comes back by itself.
        write(&path, "content 1");
        let daemon = site.start();
        shown(&site, "1.ifc", "unchanged", &daemon).await;
        delete(&folder, "1.ifc");
        shown(&site, "1.ifc", DELETED, &daemon).await;
        daemon.stop().await;
        write(&path, "content 1");
        let daemon = site.start_with(&killed);
        if daemon.ended_by_itself_within(Duration::from_secs(4)).await {
            reached += 1;
        }
        let daemon = site.start();
        site.synchronized(3, &daemon).await;
        assert_eq!(mapped(&site.emulator.state()).len(), 3, "{point}");
        let now = site.stored("1.ifc");
        assert_eq!((now.id, now.completions), (stored.id, 1), "{point}");
        assert_eq!(site.emulator.state().files.len(), 3, "{point}");
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("another client"), "{point}: {log}");
        assert!(reached > 0, "{point} was never reached");
    });
    futures_util::stream::iter(cases)
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn too_many_deletions_wait_for_the_operator_and_end_by_themselves_when_the_files_are_back() {
    let keys = "on_delete = \"unmap\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(platform(), keys, 6).await;
    let names = ["1.ifc", "2.ifc"];
    for name in names {
        delete(&folder, name);
    }
    daemon.says("2 files are gone at once (limit 1)").await;
    let status = site.run(&["status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    for text in [
        "ATTENTION: 1 watch with suspended deletions",
        "deletions suspended: 2 files are gone at once (limit 1); what was synchronized of them stays in the iModel",
        &format!(
            "or run `{}` to take the deleted files out of the iModel",
            site.hinted("resume north")
        ),
    ] {
        assert!(status.out.contains(text), "{text}: {status:?}");
    }
    // Uploads continue.
    write(&folder.join("0.ifc"), "changed");
    let stored = || site.stored("0.ifc").completions == 2;
    eventually(stored, || daemon.log()).await;
    for name in names {
        shown(&site, name, STAYS, &daemon).await;
        write(&folder.join(name), "back");
    }
    let deadline = Instant::now() + PATIENCE;
    while site.run(&["status"]).await.out.contains("deletions") {
        assert!(Instant::now() < deadline, "{}", daemon.log());
    }
    site.synchronized(6, &daemon).await;
    assert!(site.requests("DELETE", "").is_empty());

    for name in names {
        delete(&folder, name);
    }
    let deadline = Instant::now() + PATIENCE;
    while !site.run(&["status"]).await.out.contains("deletions") {
        assert!(Instant::now() < deadline, "{}", daemon.log());
    }
    let planned = site.run(&["run", "--dry-run"]).await.out;
    for text in [
        "gone          \"1.ifc\"  unmap from connection \"itwin-syncd\"",
        "2 files will be unmapped from connection \"itwin-syncd\" after being gone for 1s",
        &format!(
            "too many at once (limit 1): they wait for `{}`",
            site.hinted("resume north")
        ),
    ] {
        assert!(planned.contains(text), "{text}: {planned}");
    }
    let resumed = site.run(&["resume", "north"]).await;
    assert!(resumed.out.contains("north: resumed"), "{resumed:?}");
    for name in names {
        shown(&site, name, UNMAPPED, &daemon).await;
    }
    assert_eq!(mapped(&site.emulator.state()).len(), 4);
    daemon.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_empty_replaced_or_not_there_deletes_nothing() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(platform(), keys, 1).await;
    // The only file: an empty folder.
    delete(&folder, "0.ifc");
    daemon.says("1 file is gone, and none is left").await;
    // Another folder with most of the files, such as an older copy.
    let aside = site.path("aside");
    std::fs::rename(&folder, &aside).unwrap();
    daemon.says("folder is unavailable").await;
    for index in 0..30 {
        write(
            &aside.join(format!("{index}.ifc")),
            &format!("another {index}"),
        );
    }
    std::fs::rename(&aside, &folder).unwrap();
    site.synchronized(30, &daemon).await;
    let copy = site.path("copy");
    for index in 0..29 {
        write(
            &copy.join(format!("{index}.ifc")),
            &format!("another {index}"),
        );
    }
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::rename(&copy, &folder).unwrap();
    daemon
        .says("1 file is gone since the folder was replaced by another one")
        .await;
    shown(&site, "29.ifc", STAYS, &daemon).await;
    assert!(site.requests("DELETE", "").is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn files_that_may_have_been_renamed_are_not_taken_away_while_their_new_names_wait() {
    let mut site = Site::new(platform()).await;
    TIMES.clone_into(&mut site.top);
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    site.tables += "[bulk_change]\nmax_files = 3\n";
    for index in 0..12 {
        write(
            &folder.join(format!("set/{index:02}.ifc")),
            &format!("{index:02}"),
        );
    }
    write(&folder.join("other.ifc"), "a file of another size");
    let daemon = site.start();
    site.synchronized(13, &daemon).await;
    let stored = site.emulator.state().files;
    std::fs::rename(folder.join("set"), folder.join("moved")).unwrap();
    daemon.says("watch suspended").await;
    delete(&folder, "other.ifc");
    let gone = || daemon.log().contains("known files were deleted");
    eventually(gone, || daemon.log()).await;
    // The time of all deletions has come when the operator resumes.
    let scans = || daemon.log().matches("scan finished").count();
    let before = scans();
    eventually(|| scans() > before + 4, || daemon.log()).await;
    site.run(&["resume", "north"]).await;
    daemon.says("storage file moved to the recycle bin").await;
    site.shows("OK: nothing needs attention; 12 files", &daemon)
        .await;
    let log = daemon.log();
    assert!(!log.contains("deleted files stay"), "{log}");
    assert_eq!(log.matches("moved to the recycle bin").count(), 1, "{log}");
    assert_eq!(site.requests("DELETE", "").len(), 2, "{log}");
    let ids = |moved: &str| -> Vec<String> {
        let files = site.emulator.state().files.into_values();
        let mut files: Vec<_> = files.filter(|file| file.path.starts_with(moved)).collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files.into_iter().map(|file| file.id).collect()
    };
    let mut before: Vec<_> = stored.into_values().collect();
    before.retain(|file| file.path.starts_with("set/"));
    before.sort_by(|one, other| one.path.cmp(&other.path));
    let before: Vec<String> = before.into_iter().map(|file| file.id).collect();
    assert_eq!(ids("moved/"), before);
    daemon.stop().await;
}

#[tokio::test]
async fn nothing_is_taken_away_while_a_part_of_the_folder_is_not_read() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(platform(), keys, 3).await;
    let deep: PathBuf = std::iter::repeat_n("d", 300).collect();
    std::fs::create_dir_all(folder.join(&deep)).unwrap();
    daemon.says("folder nested deeper than").await;
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", STAYS, &daemon).await;
    // It would have been done by now.
    tokio::time::sleep(Duration::from_secs(8)).await;
    shown(&site, "1.ifc", STAYS, &daemon).await;
    let planned = site.run(&["run", "--dry-run"]).await.out;
    let text = "nothing is removed from the platform while parts of the folder cannot be read";
    assert!(planned.contains(text), "{planned}");
    assert!(site.requests("DELETE", "").is_empty());
    std::fs::remove_dir_all(folder.join("d")).unwrap();
    shown(&site, "1.ifc", DELETED, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_the_platform_refuses_is_reported_kept_and_tried_again() {
    for (route, status, code, what, text, hint) in [
        (
            "DELETE /synchronization/imodels/storageConnections/*/sourceFiles/*",
            403,
            "InsufficientPermissions",
            "remove source file",
            "cannot remove \"1.ifc\" from the iModel: remove source file: 403",
            "imodels_write",
        ),
        (
            "DELETE /synchronization/imodels/storageConnections/*/sourceFiles/*",
            409,
            "ConnectionAlreadyInUse",
            "remove source file",
            "cannot remove \"1.ifc\" from the iModel: remove source file: 409",
            "",
        ),
        (
            "DELETE /storage/files/*",
            403,
            "InsufficientPermissions",
            "delete file",
            "cannot delete the storage file of \"1.ifc\": delete file: 403",
            "storage_delete",
        ),
        (
            "DELETE /storage/files/*",
            422,
            "InvalidStorageRequest",
            "delete file",
            "cannot delete the storage file of \"1.ifc\": delete file: 422",
            "",
        ),
    ] {
        let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
        let (site, folder, daemon) = synchronized(platform(), keys, 3).await;
        let body = format!(r#"{{"error":{{"code":"{code}","message":"no"}}}}"#);
        site.emulator
            .fault(Fault::on(route).status(status).body(body));
        delete(&folder, "1.ifc");
        daemon.says(&format!("{what}: {status}")).await;
        let shown_status = site.run(&["status"]).await;
        assert_eq!(shown_status.code, Some(1), "{shown_status:?}");
        for text in ["deletions refused", text, hint] {
            assert!(shown_status.out.contains(text), "{text}: {shown_status:?}");
        }
        let story = history(&site, &folder, "1.ifc").await;
        assert!(story.contains("the platform refused"), "{story}");
        // The other files are not affected.
        write(&folder.join("0.ifc"), "changed");
        let stored = || site.stored("0.ifc").completions == 2;
        eventually(stored, || daemon.log()).await;
        assert!(!is_deleted(&site, "1.ifc"));
        site.emulator.clear_faults();
        shown(&site, "1.ifc", DELETED, &daemon).await;
        let log = daemon.log();
        assert_eq!(log.matches(&format!("{what}: ")).count(), 1, "{log}");
        let after = site.run(&["status"]).await.out;
        assert!(!after.contains("deletions refused"), "{after}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_source_file_is_removed_only_while_no_run_of_the_imodel_is_active() {
    let keys = "on_delete = \"unmap\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(shared_platform(), keys, 3).await;
    let active = Duration::from_secs(12);
    let other = OtherClient::signs_in(&site.emulator).await;
    let theirs = other.stores("theirs").await;
    let connection = other.connects("theirs", &theirs).await.unwrap();
    site.emulator.fail_run(RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(12_000),
        count: Some(1),
        ..RunFault::default()
    });
    assert!(other.runs(&connection).await);
    let began = Instant::now();
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", UNMAPPED, &daemon).await;
    assert!(began.elapsed() >= active, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_storage_file_that_another_client_changed_is_not_deleted() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"\nupload_only = [\"1.ifc\"]";
    let mut site = Site::new(shared_platform()).await;
    TIMES.clone_into(&mut site.top);
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    for name in ["0.ifc", "1.ifc"] {
        write(&folder.join(name), name);
    }
    let daemon = site.start();
    shown(&site, "0.ifc", "synchronized", &daemon).await;
    shown(&site, "1.ifc", "uploaded", &daemon).await;
    daemon.stop().await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let id = site.stored("1.ifc").id;
    other.overwrites(&id, "theirs").await;
    delete(&folder, "1.ifc");
    let daemon = site.start();
    daemon.says("another client changed it").await;
    assert!(!is_deleted(&site, "1.ifc"));
    let status = site.run(&["status"]).await.out;
    let hint = "check it in the iTwin portal, and delete it there if it is not needed";
    assert!(status.contains(hint), "{status}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_spatial_root_stays_in_the_connection() {
    let keys = "on_delete = \"unmap\"\ndelete_after = \"1s\"";
    let mut site = Site::new(platform()).await;
    TIMES.clone_into(&mut site.top);
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    site.tables += &format!(
        "[[imodel]]\nid = {DEFAULT_IMODEL_ID:?}\nspatial_root = {{ watch = \"north\", path = \"0.ifc\" }}\n"
    );
    for index in 0..30 {
        write(&folder.join(format!("{index}.ifc")), &index.to_string());
    }
    let daemon = site.start();
    site.synchronized(30, &daemon).await;
    delete(&folder, "0.ifc");
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", UNMAPPED, &daemon).await;
    shown(&site, "0.ifc", STAYS, &daemon).await;
    assert!(mapped(&site.emulator.state()).contains(&"0.ifc".to_owned()));
    daemon.stop().await;
}

#[tokio::test]
async fn a_lost_answer_removes_nothing_else_and_is_no_change_by_others() {
    for route in [
        "DELETE /synchronization/imodels/storageConnections/*/sourceFiles/*",
        "DELETE /storage/files/*",
        "POST /storage/recyclebin/files/*/restore",
    ] {
        let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
        let (site, folder, daemon) = synchronized(platform(), keys, 3).await;
        let stored = site.stored("1.ifc");
        site.emulator
            .fault(Fault::on(route).reset().after_effect().times(1));
        delete(&folder, "1.ifc");
        shown(&site, "1.ifc", DELETED, &daemon).await;
        write(&folder.join("1.ifc"), "content 1");
        let back = || mapped(&site.emulator.state()).len() == 3;
        eventually(back, || daemon.log()).await;
        site.synchronized(3, &daemon).await;
        let now = site.stored("1.ifc");
        assert_eq!((now.id, now.completions), (stored.id, 1), "{route}");
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("another client"), "{route}: {log}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_restored_is_uploaded_as_a_new_one() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (site, folder, daemon) = synchronized(platform(), keys, 3).await;
    let stored = site.stored("1.ifc");
    delete(&folder, "1.ifc");
    shown(&site, "1.ifc", DELETED, &daemon).await;
    let route = "POST /storage/recyclebin/files/*/restore";
    let body = r#"{"error":{"code":"FileNotFound","message":"no"}}"#;
    site.emulator.fault(Fault::on(route).status(404).body(body));
    // The operator learns it, and the file that is back is in the iModel nevertheless.
    let path = folder.join("1.ifc");
    site.run(&["restore", path.to_str().unwrap()]).await;
    daemon
        .says("it is not in the recycle bin of iTwin Storage")
        .await;
    write(&path, "content 1");
    let back = || mapped(&site.emulator.state()).len() == 3;
    eventually(back, || daemon.log()).await;
    site.synchronized(3, &daemon).await;
    assert_ne!(site.stored("1.ifc").id, stored.id);
    daemon.stop().await;
}
