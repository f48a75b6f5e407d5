//! Files that move from one watch to another: within an iModel they keep their storage files and source files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Fault};

use crate::renames::{Before, at_rest, held, move_to, uploads};
use crate::support::{Daemon, Site, eventually, platform, write};

/// Watches "north" and "south" of one iModel, each with its own storage folder; `keys` are more keys of "south".
async fn two_watches(keys: &str) -> (Site, PathBuf) {
    let mut site = Site::new(platform()).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"North\"");
    let keys = format!("storage_folder = \"South\"\n{keys}");
    let south = site.watch("south", DEFAULT_IMODEL_ID, &keys);
    write(&north.join("a.ifc"), "a");
    write(&north.join("set/deep/b.ifc"), "b");
    write(&north.join("set/c.ifc"), "c");
    write(&south.join("d.ifc"), "d");
    let root = north.parent().unwrap().to_owned();
    (site, root)
}

const MOVED: [(&str, &str); 3] = [
    ("North/a.ifc", "South/in/a.ifc"),
    ("North/set/deep/b.ifc", "South/moved/deep/b.ifc"),
    ("North/set/c.ifc", "South/moved/c.ifc"),
];

#[tokio::test]
async fn files_and_folders_that_move_to_another_watch_of_the_imodel_are_followed() {
    let (site, root) = two_watches("").await;
    let daemon = site.start();
    let before = Before::of(&site, 4, &daemon).await;
    move_to(&root, "north/a.ifc", "south/in/a.ifc");
    move_to(&root, "north/set", "south/moved");
    before.becomes(&site, &MOVED, &daemon).await;
    let history = site.run(&["status", "in/a.ifc"]).await;
    assert!(
        history
            .out
            .contains("renamed from \"a.ifc\" of watch \"north\""),
        "{history:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_dry_run_shows_what_moves_to_another_watch_and_deletes_nothing_of_it() {
    let (mut site, root) = two_watches("").await;
    let keys = "on_delete = \"remove\"\nstorage_folder = \"North\"";
    site.replace_in_watches("storage_folder = \"North\"", keys);
    let daemon = site.start();
    let before = Before::of(&site, 4, &daemon).await;
    daemon.stop().await;
    move_to(&root, "north/a.ifc", "south/in/a.ifc");
    move_to(&root, "north/set", "south/moved");
    write(&root.join("north/e.ifc"), "e");
    let plan = site.run(&["run", "--dry-run"]).await.out;
    for line in [
        "\"in/a.ifc\"  1 B  rename the storage file of \"a.ifc\" of watch \"north\"",
        "\"moved/c.ifc\"  1 B  rename the storage file of \"set/c.ifc\" of watch \"north\"",
        "3 to process, up to 0 B to upload; 1 unchanged",
        "\"e.ifc\"  1 B  upload, then synchronize with IFC",
    ] {
        assert!(plan.contains(line), "no {line}: {plan}");
    }
    assert!(!plan.contains("gone"), "{plan}");
    std::fs::remove_file(root.join("north/e.ifc")).unwrap();
    let daemon = site.start();
    before.becomes(&site, &MOVED, &daemon).await;
    let shown = site.run(&["status"]).await.out;
    assert!(
        shown.contains("renamed       south: \"in/a.ifc\""),
        "{shown}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_copy_in_another_watch_is_a_new_file() {
    let (site, root) = two_watches("").await;
    let daemon = site.start();
    let before = Before::of(&site, 4, &daemon).await;
    std::fs::copy(root.join("north/a.ifc"), root.join("south/a.ifc")).unwrap();
    let both = || held(&site).0.contains_key("South/a.ifc");
    eventually(both, || daemon.log()).await;
    site.synchronized(5, &daemon).await;
    let (files, _) = held(&site);
    assert_eq!(files["North/a.ifc"], before.files["North/a.ifc"]);
    assert_ne!(files["South/a.ifc"], before.files["North/a.ifc"]);
    daemon.stop().await;
}

/// The connections by name, each with the storage files of its source files.
fn connections(site: &Site) -> BTreeMap<String, Vec<String>> {
    let state = site.emulator.state();
    let connections = state.connections.values();
    connections
        .map(|connection| {
            let sources = connection.source_files.iter();
            let mut files: Vec<String> = sources
                .filter_map(|source| state.files.get(&source.storage_file_id))
                .map(|file| file.path.clone())
                .collect();
            files.sort();
            (connection.display_name.clone().unwrap_or_default(), files)
        })
        .collect()
}

/// Waits until the connection "south" has just these files.
async fn mapped_in_south(site: &Site, paths: &[&str], daemon: &Daemon) {
    let mapped = || {
        connections(site)
            .get("south")
            .is_some_and(|files| files == paths)
    };
    eventually(mapped, || {
        format!("{:#?}\n{}", connections(site), daemon.log())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_moves_to_a_watch_with_another_connection_gets_its_source_file_there() {
    let (site, root) = two_watches("connection = \"south\"").await;
    let daemon = site.start();
    let before = Before::of(&site, 4, &daemon).await;
    move_to(&root, "north/a.ifc", "south/in/a.ifc");
    mapped_in_south(&site, &["South/d.ifc", "South/in/a.ifc"], &daemon).await;
    site.synchronized(4, &daemon).await;
    let (files, _) = held(&site);
    assert_eq!(files["South/in/a.ifc"], before.files["North/a.ifc"]);
    assert_eq!(uploads(&site), before.uploads, "{}", daemon.log());
    let others = ["North/set/c.ifc", "North/set/deep/b.ifc"];
    assert_eq!(connections(&site)["itwin-syncd"], others);
    daemon.stop().await;
}

#[tokio::test]
async fn the_source_files_of_a_watch_move_to_its_new_connection() {
    let (mut site, _root) = two_watches("").await;
    let daemon = site.start();
    let before = Before::of(&site, 4, &daemon).await;
    daemon.stop().await;
    site.replace_in_watches(
        "storage_folder = \"South\"",
        "storage_folder = \"South\"\nconnection = \"south\"",
    );
    let daemon = site.start();
    mapped_in_south(&site, &["South/d.ifc"], &daemon).await;
    at_rest(&site, 4, &daemon).await;
    assert_eq!(connections(&site)["itwin-syncd"].len(), 3);
    assert_eq!(held(&site).0, before.files);
    assert_eq!(uploads(&site), before.uploads, "{}", daemon.log());
    daemon.stop().await;
}

fn two_imodels(other: &str) -> Builder {
    platform()
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Emulated iModel")
        .imodel(other, DEFAULT_ITWIN_ID, "Other")
}

#[tokio::test]
async fn a_file_that_moves_to_a_watch_of_another_imodel_is_new_there() {
    const OTHER: &str = "0ddba11c-1234-4abc-8def-0123456789ab";
    let mut site = Site::new(two_imodels(OTHER)).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"North\"");
    site.watch("south", OTHER, "storage_folder = \"South\"");
    write(&north.join("a.ifc"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    move_to(north.parent().unwrap(), "north/a.ifc", "south/a.ifc");
    eventually(|| held(&site).1.len() == 2, || daemon.log()).await;
    let (files, sources) = held(&site);
    assert_eq!(files.len(), 2, "{files:?}");
    assert_eq!(files["North/a.ifc"], before.files["North/a.ifc"]);
    assert!(sources.contains(&before.sources[0]), "{sources:?}");
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_at_any_step_of_a_move_between_watches_uploads_maps_and_runs_nothing() {
    for point in crate::renames::POINTS {
        let (site, root) = two_watches("").await;
        let daemon = site.start();
        let before = Before::of(&site, 4, &daemon).await;
        daemon.stop().await;
        move_to(&root, "north/a.ifc", "south/b.ifc");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        before
            .becomes(&site, &[("North/a.ifc", "South/b.ifc")], &daemon)
            .await;
        daemon.stop().await;
    }
}

/// Where a process can die that only a change of the connection reaches.
#[cfg(feature = "failpoints")]
pub(super) const POINTS: [&str; 1] = ["displaced source file removed"];

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_while_a_source_file_changes_its_connection_leaves_it_in_one() {
    for point in [POINTS[0], "source file added", "source files recorded"] {
        let (site, root) = two_watches("connection = \"south\"").await;
        let daemon = site.start();
        let before = Before::of(&site, 4, &daemon).await;
        daemon.stop().await;
        move_to(&root, "north/a.ifc", "south/a.ifc");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        mapped_in_south(&site, &["South/a.ifc", "South/d.ifc"], &daemon).await;
        site.synchronized(4, &daemon).await;
        assert_eq!(connections(&site)["itwin-syncd"].len(), 2, "{point}");
        assert_eq!(uploads(&site), before.uploads, "{point}: {}", daemon.log());
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_move_that_storage_forbids_waits_and_names_the_permission() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    let fault = Fault::on("PATCH /storage/files/*").status(403).times(2);
    site.emulator.fault(fault);
    move_to(&folder, "a.ifc", "b.ifc");
    daemon.says("storage_write").await;
    before.becomes(&site, &[("a.ifc", "b.ifc")], &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_new_extension_changes_the_connector_of_the_same_source_file_and_runs_it() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    let before = Before::of(&site, 1, &daemon).await;
    move_to(&folder, "a.dgn", "a.ifc");
    eventually(
        || site.emulator.state().runs.len() > before.runs,
        || daemon.log(),
    )
    .await;
    site.synchronized(1, &daemon).await;
    let (files, sources) = held(&site);
    assert_eq!(files["a.ifc"], before.files["a.dgn"]);
    assert_eq!(files.len(), 1);
    assert_eq!(sources, before.sources);
    assert_eq!(uploads(&site), before.uploads, "{}", daemon.log());
    let status = site.status().await;
    assert_eq!(status["north/a.ifc"]["connector"], "IFC", "{status:#?}");
    let state = site.emulator.state();
    let source = &state.connections.values().next().unwrap().source_files[0];
    assert_eq!(source.connector_type, "IFC");
    daemon.stop().await;
}
