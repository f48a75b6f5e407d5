//! Renamed and moved files: the storage file follows, nothing is uploaded, no run starts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{Fault, MoveNameTaken, Switches};

use crate::other_client::{OtherClient, shared_platform};
use crate::support::{Daemon, Site, eventually, platform, write};

/// Storage files by path with their ids, and the source files of all connections.
pub(super) fn held(site: &Site) -> (BTreeMap<String, String>, Vec<String>) {
    let state = site.emulator.state();
    let files = state.files.values().filter(|file| !file.deleted);
    let files = files
        .map(|file| (file.path.clone(), file.id.clone()))
        .collect();
    let connections = state.connections.values();
    let mut sources: Vec<String> = connections
        .flat_map(|connection| &connection.source_files)
        .map(|source| format!("{} of {}", source.id, source.storage_file_id))
        .collect();
    sources.sort();
    (files, sources)
}

/// A synchronized site, and what the platform has of it.
pub(super) struct Before {
    pub(super) files: BTreeMap<String, String>,
    pub(super) sources: Vec<String>,
    pub(super) uploads: usize,
    pub(super) runs: usize,
}

impl Before {
    pub(super) async fn of(site: &Site, count: usize, daemon: &Daemon) -> Self {
        site.synchronized(count, daemon).await;
        let (files, sources) = held(site);
        Self {
            files,
            sources,
            uploads: uploads(site),
            runs: site.emulator.state().runs.len(),
        }
    }

    /// Waits until storage has just these paths instead, each with the id that another had before, and checks that
    /// nothing was uploaded, mapped or run.
    pub(super) async fn becomes(&self, site: &Site, renamed: &[(&str, &str)], daemon: &Daemon) {
        let mut expected = self.files.clone();
        for (old, _) in renamed {
            expected.remove(*old).unwrap();
        }
        for (old, new) in renamed {
            expected.insert((*new).to_owned(), self.files[*old].clone());
        }
        eventually(
            || held(site).0 == expected,
            || format!("{expected:#?}\n{:#?}\n{}", held(site).0, daemon.log()),
        )
        .await;
        at_rest(site, expected.len(), daemon).await;
        assert_eq!(held(site).1, self.sources, "{}", daemon.log());
        assert_eq!(uploads(site), self.uploads, "{}", daemon.log());
        let runs = site.emulator.state().runs.len();
        assert_eq!(runs, self.runs, "{}", daemon.log());
    }
}

/// Waits until no file is in progress.
pub(super) async fn at_rest(site: &Site, count: usize, daemon: &Daemon) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let status = site.status().await;
        let done = |file: &serde_json::Value| file["state"] == "done";
        if status.len() == count && status.values().all(done) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{status:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

/// Requests that store bytes.
pub(super) fn uploads(site: &Site) -> usize {
    let requests = site.emulator.requests();
    let stores = |path: &str| path.starts_with("/emulated/");
    requests
        .iter()
        .filter(|request| request.method == "PUT" && stores(&request.path))
        .count()
}

pub(super) fn move_to(folder: &Path, from: &str, to: &str) {
    let to = folder.join(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(folder.join(from), to).unwrap();
}

#[tokio::test]
async fn renamed_and_moved_files_and_folders_keep_storage_files_and_source_files() {
    let (site, folder) = Site::with_folder(platform()).await;
    for name in ["a", "b", "c"] {
        write(&folder.join(format!("{name}.ifc")), name);
    }
    for name in ["1", "2", "3", "4", "5", "6"] {
        write(&folder.join(format!("set/deep/{name}.ifc")), name);
    }
    let daemon = site.start();
    let before = Before::of(&site, 9, &daemon).await;
    move_to(&folder, "a.ifc", "renamed.ifc");
    move_to(&folder, "b.ifc", "elsewhere/moved.ifc");
    move_to(&folder, "set", "other set");
    let mut renamed = vec![
        ("a.ifc".to_owned(), "renamed.ifc".to_owned()),
        ("b.ifc".to_owned(), "elsewhere/moved.ifc".to_owned()),
    ];
    for name in ["1", "2", "3", "4", "5", "6"] {
        let (old, new) = (
            format!("set/deep/{name}.ifc"),
            format!("other set/deep/{name}.ifc"),
        );
        renamed.push((old, new));
    }
    let renamed: Vec<(&str, &str)> = renamed
        .iter()
        .map(|(old, new)| (old.as_str(), new.as_str()))
        .collect();
    before.becomes(&site, &renamed, &daemon).await;
    let history = site.run(&["status", "renamed.ifc"]).await;
    assert!(
        history.out.contains("renamed from \"a.ifc\""),
        "{history:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn files_renamed_while_no_daemon_ran_are_followed_by_the_next_one() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("Case.ifc"), "case");
    let daemon = site.start();
    let before = Before::of(&site, 2, &daemon).await;
    daemon.stop().await;
    move_to(&folder, "a.ifc", "in/b.ifc");
    move_to(&folder, "Case.ifc", "CASE.ifc");
    let plan = site.run(&["run", "--dry-run"]).await;
    assert!(
        plan.out
            .contains("renamed       \"in/b.ifc\"  1 B  rename the storage file of \"a.ifc\"")
            && plan.out.contains("2 to process, up to 0 B to upload"),
        "{plan:?}"
    );
    let daemon = site.start();
    let renamed = [("a.ifc", "in/b.ifc"), ("Case.ifc", "CASE.ifc")];
    before.becomes(&site, &renamed, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_renamed_file_that_then_changes_updates_the_same_storage_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    move_to(&folder, "a.ifc", "b.ifc");
    before.becomes(&site, &[("a.ifc", "b.ifc")], &daemon).await;
    write(&folder.join("b.ifc"), "another");
    let files = BTreeMap::from([("b.ifc".to_owned(), "another".to_owned())]);
    eventually(|| site.holds(&files), || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    assert_eq!(site.stored("b.ifc").id, before.files["a.ifc"]);
    assert_eq!(held(&site).1, before.sources);
    daemon.stop().await;
}

#[tokio::test]
async fn copies_swaps_and_programs_that_save_by_renaming_are_no_renames() {
    let (site, folder) = Site::with_folder(platform()).await;
    for name in ["copied", "one", "other", "saved", "first", "second"] {
        write(&folder.join(format!("{name}.dwg")), name);
    }
    let daemon = site.start();
    let before = Before::of(&site, 6, &daemon).await;
    std::fs::copy(folder.join("copied.dwg"), folder.join("copy.dwg")).unwrap();
    move_to(&folder, "one.dwg", "aside.tmp");
    move_to(&folder, "other.dwg", "one.dwg");
    move_to(&folder, "aside.tmp", "other.dwg");
    // The backup is selected as well here: its extension is that of a design.
    write(&folder.join("new.tmp"), "saved again");
    move_to(&folder, "saved.dwg", "saved backup.dwg");
    move_to(&folder, "new.tmp", "saved.dwg");
    move_to(&folder, "second.dwg", "third.dwg");
    move_to(&folder, "first.dwg", "second.dwg");
    let expected: BTreeMap<String, String> = [
        ("copied", "copied"),
        ("copy", "copied"),
        ("one", "other"),
        ("other", "one"),
        ("saved", "saved again"),
        ("saved backup", "saved"),
        ("second", "first"),
        ("third", "second"),
    ]
    .into_iter()
    .map(|(name, content)| (format!("{name}.dwg"), content.to_owned()))
    .collect();
    eventually(|| site.holds(&expected), || daemon.log()).await;
    let (after, _) = held(&site);
    for (path, id) in &before.files {
        assert_eq!(after.get(path), Some(id), "{path}\n{}", daemon.log());
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_watch_that_does_not_follow_renames_uploads_again() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch(
        "north",
        itwin_syncd::emulator::DEFAULT_IMODEL_ID,
        "rename = \"new\"",
    );
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    move_to(&folder, "a.ifc", "b.ifc");
    let both = || held(&site).0.len() == 2;
    eventually(both, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_name_that_storage_refuses_is_noted_and_the_file_stays_synchronized() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    site.emulator
        .fault(Fault::on("PATCH /storage/files/*").status(409));
    move_to(&folder, "a.ifc", "b.ifc");
    daemon.says("cannot be renamed to match").await;
    at_rest(&site, 1, &daemon).await;
    assert_eq!(held(&site), (before.files, before.sources));
    let status = site.status().await;
    assert_eq!(
        status["north/b.ifc"]["storage_file_id"],
        site.stored("a.ifc").id.as_str()
    );
    let history = site.run(&["status", "b.ifc"]).await;
    assert!(
        history.out.contains("in storage still called \"a.ifc\""),
        "{history:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_storage_folder_that_has_the_name_already_keeps_the_file_where_it_is_or_has_two() {
    for taken in [
        MoveNameTaken::Twin,
        MoveNameTaken::Conflict,
        MoveNameTaken::Refused,
    ] {
        let mut switches = Switches::default();
        switches.move_name_taken = taken;
        let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
        site.top += "rescan_interval = \"1s\"\n";
        write(&folder.join("a.ifc"), "a");
        write(&folder.join("in/a.ifc"), "deleted later");
        let daemon = site.start();
        let before = Before::of(&site, 2, &daemon).await;
        // Its storage file stays.
        std::fs::remove_file(folder.join("in/a.ifc")).unwrap();
        daemon.says("known files were deleted").await;
        let forgotten = site.run(&["forget", "--yes", "in/a.ifc"]).await;
        assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
        move_to(&folder, "a.ifc", "in/a.ifc");
        let said = match taken {
            MoveNameTaken::Twin => "moved to the new name and folder",
            MoveNameTaken::Conflict | MoveNameTaken::Refused => "cannot be renamed to match",
        };
        daemon.says(said).await;
        at_rest(&site, 1, &daemon).await;
        let status = site.status().await;
        let id = status["north/in/a.ifc"]["storage_file_id"].clone();
        assert_eq!(id, before.files["a.ifc"].as_str(), "{taken:?}");
        assert_eq!(uploads(&site), before.uploads, "{taken:?}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_renamed_file_whose_storage_file_was_deleted_is_uploaded_again() {
    let (site, folder) = Site::with_folder(shared_platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    assert!(
        other_client
            .deletes_the_storage_file(&before.files["a.ifc"])
            .await
    );
    move_to(&folder, "a.ifc", "b.ifc");
    let files = BTreeMap::from([("b.ifc".to_owned(), "a".to_owned())]);
    eventually(|| site.holds(&files), || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn more_renames_than_the_guard_permits_wait_for_resume() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[bulk_change]\nmax_files = 3\n";
    for index in 0..12 {
        write(&folder.join(format!("set/{index}.ifc")), &index.to_string());
    }
    let daemon = site.start();
    let before = Before::of(&site, 12, &daemon).await;
    move_to(&folder, "set", "moved");
    daemon.says("watch suspended").await;
    let resumed = site.run(&["resume", "north"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    let renamed: Vec<(String, String)> = (0..12)
        .map(|index| (format!("set/{index}.ifc"), format!("moved/{index}.ifc")))
        .collect();
    let renamed: Vec<(&str, &str)> = renamed
        .iter()
        .map(|(old, new)| (old.as_str(), new.as_str()))
        .collect();
    before.becomes(&site, &renamed, &daemon).await;
    daemon.stop().await;
}

/// Where a process can die between the new name of a local file and that of its storage file.
#[cfg(feature = "failpoints")]
pub(super) const POINTS: [&str; 5] = [
    "rename followed",
    "relocation recorded",
    "storage file renamed",
    "storage file moved",
    "relocation finished",
];

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_at_any_step_of_a_rename_uploads_maps_and_runs_nothing() {
    for point in POINTS {
        let (site, folder) = Site::with_folder(platform()).await;
        write(&folder.join("a.ifc"), "a");
        let daemon = site.start();
        let before = Before::of(&site, 1, &daemon).await;
        daemon.stop().await;
        move_to(&folder, "a.ifc", "in/b.ifc");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        before
            .becomes(&site, &[("a.ifc", "in/b.ifc")], &daemon)
            .await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn an_answer_to_a_rename_that_is_lost_changes_nothing() {
    for route in ["PATCH /storage/files/*", "POST /storage/files/*/move"] {
        let (site, folder) = Site::with_folder(platform()).await;
        write(&folder.join("a.ifc"), "a");
        let daemon = site.start();
        let before = Before::of(&site, 1, &daemon).await;
        site.emulator
            .fault(Fault::on(route).reset().after_effect().times(4));
        move_to(&folder, "a.ifc", "in/b.ifc");
        before
            .becomes(&site, &[("a.ifc", "in/b.ifc")], &daemon)
            .await;
        daemon.stop().await;
    }
}
