//! Watches that are renamed, mounted elsewhere, or get another storage folder or iModel: what is known of their files
//! stays, and follows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID};

use crate::renames::{Before, at_rest, held};
use crate::support::{Daemon, Site, eventually, platform, write};

/// A synchronized watch "north" with three files.
async fn synchronized() -> (Site, PathBuf, Before) {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("in/b.ifc"), "b");
    write(&folder.join("in/c.ifc"), "c");
    let daemon = site.start();
    let before = Before::of(&site, 3, &daemon).await;
    daemon.stop().await;
    (site, folder, before)
}

const FILES: [&str; 3] = ["a.ifc", "in/b.ifc", "in/c.ifc"];

/// The files in the storage folder "North/Site".
const MOVED: [(&str, &str); 3] = [
    ("a.ifc", "North/Site/a.ifc"),
    ("in/b.ifc", "North/Site/in/b.ifc"),
    ("in/c.ifc", "North/Site/in/c.ifc"),
];

/// What `check` and `run --dry-run` say before a start.
async fn announced(site: &Site, lines: &[&str]) {
    for command in [&["run", "--dry-run"][..], &["check"]] {
        let said = site.run(command).await;
        assert_eq!(said.code, Some(0), "{command:?}: {said:?}");
        for line in lines {
            assert!(said.out.contains(line), "{command:?}, {line}: {said:?}");
        }
    }
    let plan = site.run(&["run", "--dry-run"]).await;
    assert!(plan.out.contains("0 to process"), "{plan:?}");
}

/// Waits until a scan has found all files of the watch, then checks that nothing was sent.
async fn keeps(site: &Site, before: &Before, watch: &str, daemon: &Daemon) {
    daemon.says("scan finished").await;
    before.becomes(site, &[], daemon).await;
    let status = site.status().await;
    let names: Vec<String> = FILES.iter().map(|file| format!("{watch}/{file}")).collect();
    assert!(status.keys().eq(names.iter()), "{status:#?}");
}

#[tokio::test]
async fn a_watch_with_another_name_keeps_its_files() {
    let (mut site, _folder, before) = synchronized().await;
    site.replace_in_watches("name = \"north\"", "name = \"north site\"");
    announced(
        &site,
        &["watch \"north\" is now called \"north site\": keeps 3 files"],
    )
    .await;
    let daemon = site.start();
    keeps(&site, &before, "north site", &daemon).await;
    let history = site.run(&["status", "a.ifc"]).await;
    assert!(history.out.contains("synchronized"), "{history:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_watch_with_another_folder_keeps_its_files_also_with_another_name() {
    for name in ["north", "site"] {
        let (mut site, folder, before) = synchronized().await;
        let elsewhere = site.path("elsewhere");
        std::fs::rename(&folder, &elsewhere).unwrap();
        site.replace_in_watches(folder.to_str().unwrap(), elsewhere.to_str().unwrap());
        site.replace_in_watches("name = \"north\"", &format!("name = {name:?}"));
        announced(
            &site,
            &[&format!(
                "watch {name:?} had the folder {folder:?} before: keeps 3 files"
            )],
        )
        .await;
        let daemon = site.start();
        keeps(&site, &before, name, &daemon).await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_watch_that_is_renamed_by_a_reload_keeps_its_files() {
    let (mut site, folder, before) = synchronized().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    site.replace_in_watches("name = \"north\"", "name = \"site\"");
    site.config();
    daemon.signal("HUP");
    daemon.says("is now called \"site\"").await;
    keeps(&site, &before, "site", &daemon).await;
    write(&folder.join("in/b.ifc"), "changed");
    site.synchronized(3, &daemon).await;
    assert_eq!(held(&site).0, before.files);
    daemon.stop().await;
}

#[tokio::test]
async fn names_that_two_watches_swap_keep_their_files() {
    let mut site = Site::new(platform()).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"North\"");
    let south = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"");
    write(&north.join("a.ifc"), "north");
    write(&south.join("a.ifc"), "south");
    let daemon = site.start();
    let before = Before::of(&site, 2, &daemon).await;
    daemon.stop().await;
    site.replace_in_watches("name = \"north\"", "name = \"x\"");
    site.replace_in_watches("name = \"south\"", "name = \"north\"");
    site.replace_in_watches("name = \"x\"", "name = \"south\"");
    announced(
        &site,
        &["watch \"north\" is now called \"south\": keeps 1 file"],
    )
    .await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    before.becomes(&site, &[], &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn files_move_to_another_storage_folder_and_back() {
    let (mut site, _folder, before) = synchronized().await;
    site.replace_in_watches("imodel_id", "storage_folder = \"North/Site\"\nimodel_id");
    announced(
        &site,
        &["watch \"north\": 3 files move to North/Site/ in storage; nothing is uploaded"],
    )
    .await;
    let daemon = site.start();
    before.becomes(&site, &MOVED, &daemon).await;
    let history = site.run(&["status", "a.ifc"]).await;
    assert!(
        history
            .out
            .contains("storage file moved to the new name and folder"),
        "{history:?}"
    );
    daemon.stop().await;
    site.replace_in_watches("storage_folder = \"North/Site\"\n", "");
    announced(
        &site,
        &["watch \"north\": 3 files move to the root folder in storage; nothing is uploaded"],
    )
    .await;
    let daemon = site.start();
    before.becomes(&site, &[], &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_changes_while_it_moves_updates_the_same_storage_file() {
    let (mut site, folder, before) = synchronized().await;
    site.replace_in_watches("imodel_id", "storage_folder = \"North/Site\"\nimodel_id");
    write(&folder.join("a.ifc"), "changed");
    let daemon = site.start();
    let changed = BTreeMap::from([("North/Site/a.ifc".to_owned(), "changed".to_owned())]);
    eventually(|| site.holds(&changed), || daemon.log()).await;
    let expected: BTreeMap<String, String> = MOVED
        .iter()
        .map(|(old, new)| ((*new).to_owned(), before.files[*old].clone()))
        .collect();
    eventually(|| held(&site).0 == expected, || daemon.log()).await;
    at_rest(&site, 3, &daemon).await;
    assert_eq!(held(&site).1, before.sources);
    daemon.stop().await;
}

#[tokio::test]
async fn more_moves_than_the_guard_permits_wait_for_resume() {
    let (mut site, _folder, before) = synchronized().await;
    site.tables += "[bulk_change]\nmax_files = 2\n";
    site.replace_in_watches("imodel_id", "storage_folder = \"North/Site\"\nimodel_id");
    announced(
        &site,
        &[&format!(
            "more than bulk_change.max_files (2): the watch waits for `{}`",
            site.hinted("resume north")
        )],
    )
    .await;
    let daemon = site.start();
    daemon.says("watch suspended").await;
    let status = site.run(&["status"]).await;
    assert!(
        status
            .out
            .contains("3 known files must be renamed or moved in storage at once (limit 2)"),
        "{status:?}"
    );
    let plan = site.run(&["run", "--dry-run"]).await;
    assert!(
        plan.out
            .contains("moved         \"a.ifc\"  1 B  rename or move its storage file")
            && plan.out.contains("3 to process, up to 0 B to upload"),
        "{plan:?}"
    );
    assert_eq!(held(&site).0, before.files);
    let resumed = site.run(&["resume", "north"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    before.becomes(&site, &MOVED, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn name_folder_and_storage_folder_may_change_at_once_if_the_configuration_says_so() {
    let (mut site, folder, before) = synchronized().await;
    let elsewhere = site.path("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    site.replace_in_watches(folder.to_str().unwrap(), elsewhere.to_str().unwrap());
    site.replace_in_watches(
        "name = \"north\"",
        "name = \"site\"\nstorage_folder = \"North/Site\"",
    );
    let plan = site.run(&["run", "--dry-run"]).await;
    assert!(
        plan.out
            .contains("watch \"north\" is no longer configured: 3 files stay"),
        "{plan:?}"
    );
    site.replace_in_watches("name = \"site\"", "name = \"site\"\nformerly = \"north\"");
    announced(
        &site,
        &["watch \"north\" is now called \"site\": keeps 3 files"],
    )
    .await;
    let daemon = site.start();
    before.becomes(&site, &MOVED, &daemon).await;
    daemon.stop().await;
}

/// Where a process can die while the files of a watch move to another storage folder.
#[cfg(feature = "failpoints")]
pub(super) const POINTS: [&str; 5] = [
    "watches registered",
    "relocation recorded",
    "folder created",
    "storage file moved",
    "relocation finished",
];

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_at_any_step_of_a_move_to_another_storage_folder_uploads_maps_and_runs_nothing() {
    for point in POINTS {
        let (mut site, _folder, before) = synchronized().await;
        site.replace_in_watches(
            "name = \"north\"",
            "name = \"site\"\nstorage_folder = \"North/Site\"",
        );
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        before.becomes(&site, &MOVED, &daemon).await;
        daemon.stop().await;
    }
}

fn two_imodels(other: &str) -> Builder {
    platform()
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Emulated iModel")
        .imodel(other, DEFAULT_ITWIN_ID, "Other")
}

#[tokio::test]
async fn another_imodel_leaves_the_old_one_as_it_is_and_says_so() {
    const OTHER: &str = "0ddba11c-1234-4abc-8def-0123456789ab";
    let (mut site, folder) = Site::with_folder(two_imodels(OTHER)).await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    let before = Before::of(&site, 2, &daemon).await;
    daemon.stop().await;
    site.replace_in_watches(DEFAULT_IMODEL_ID, OTHER);
    let stays = format!("2 files stay in iModel {DEFAULT_IMODEL_ID}");
    let detach = site.hinted(&format!("detach north --imodel {DEFAULT_IMODEL_ID}"));
    let hint = format!("`{detach}` takes them out");
    for command in [&["run", "--dry-run"][..], &["check"]] {
        let said = site.run(command).await;
        assert!(
            said.out.contains(&stays) && said.out.contains(&hint),
            "{said:?}"
        );
    }
    let plan = site.run(&["run", "--dry-run"]).await;
    assert!(plan.out.contains("2 to process"), "{plan:?}");
    let daemon = site.start();
    daemon.says("goes into another iModel now").await;
    eventually(|| held(&site).1.len() == 4, || daemon.log()).await;
    site.synchronized(2, &daemon).await;
    let sources = held(&site).1;
    assert!(
        before.sources.iter().all(|source| sources.contains(source)),
        "{sources:?}"
    );
    for command in [&["run", "--dry-run"][..], &["check"], &["status"]] {
        let said = site.run(command).await;
        assert!(
            said.out.contains(&stays) && said.out.contains(&hint),
            "{said:?}"
        );
    }
    daemon.stop().await;
}
