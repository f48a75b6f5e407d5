//! A connection for each connector type: which files each connection has, and which content each of its runs covers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use itwin_syncd::emulator::DEFAULT_IMODEL_ID;

use crate::renames::{at_rest, uploads};
use crate::support::{Daemon, Site, eventually, platform, sha256, write};

const PER_TYPE: &str = "connection = \"ours {connector}\"";

/// What the tests write into files.
const CONTENTS: [&str; 4] = ["one", "two", "three", "four"];

/// A watch "north" with these keys, whose folder has `a.ifc` and `b.dgn`, each with content "one".
async fn two_types(keys: &str) -> (Site, PathBuf) {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    write(&folder.join("a.ifc"), "one");
    write(&folder.join("b.dgn"), "one");
    (site, folder)
}

/// The connections by name, each with the paths of its source files.
fn connections(site: &Site) -> BTreeMap<String, Vec<String>> {
    let state = site.emulator.state();
    let connections = state.connections.values();
    connections
        .map(|connection| {
            let sources = connection.source_files.iter();
            let mut paths: Vec<String> = sources
                .map(|source| {
                    let path = &state.files[&source.storage_file_id].path;
                    format!("{path} {}", source.connector_type)
                })
                .collect();
            paths.sort();
            (connection.display_name.clone().unwrap_or_default(), paths)
        })
        .collect()
}

/// The runs in their order: the name of the connection, and `path content` of each file that the run covered.
fn runs(site: &Site) -> Vec<(String, Vec<String>)> {
    let state = site.emulator.state();
    let mut runs: Vec<_> = state.runs.values().collect();
    runs.sort_by_key(|run| run.requested_at);
    let content = |hash: &str| CONTENTS.iter().find(|one| sha256(one.as_bytes()) == hash);
    runs.into_iter()
        .map(|run| {
            let covered = run.covered.iter();
            let mut covered: Vec<String> = covered
                .map(|file| {
                    let path = &state.files[&file.storage_file_id].path;
                    format!("{path} {}", content(&file.sha256).unwrap_or(&"?"))
                })
                .collect();
            covered.sort();
            let connection = &state.connections[&run.connection_id].display_name;
            (connection.clone().unwrap_or_default(), covered)
        })
        .collect()
}

/// A run as [`runs`] has it.
fn run(connection: &str, covered: &[&str]) -> (String, Vec<String>) {
    let covered = covered.iter().map(|file| (*file).to_owned()).collect();
    (connection.to_owned(), covered)
}

/// Connections as [`connections`] has them.
fn held(connections: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let connections = connections.iter();
    connections
        .map(|(name, files)| {
            let files = files.iter().map(|file| (*file).to_owned()).collect();
            ((*name).to_owned(), files)
        })
        .collect()
}

/// Waits until storage has this content of a file, and nothing is in progress.
async fn brought(site: &Site, files: &[(&str, &str)], count: usize, daemon: &Daemon) {
    let files = files.iter();
    let files = files
        .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
        .collect();
    eventually(|| site.holds(&files), || daemon.log()).await;
    at_rest(site, count, daemon).await;
}

/// Waits until the daemon has seen the end of this many runs.
async fn runs_ended(count: usize, daemon: &Daemon) {
    let ended = || daemon.log().matches("run finished").count() == count;
    eventually(ended, || daemon.log()).await;
}

/// Waits until the connections have just these source files, and nothing is in progress.
async fn moved(site: &Site, expected: &[(&str, &[&str])], count: usize, daemon: &Daemon) {
    let expected = held(expected);
    eventually(
        || connections(site) == expected,
        || format!("{:#?}\n{}", connections(site), daemon.log()),
    )
    .await;
    at_rest(site, count, daemon).await;
    assert_eq!(connections(site), expected, "{}", daemon.log());
}

const IFC_ONE: (&str, &[&str]) = ("ours IFC", &["a.ifc IFC"]);
const DGN_ONE: (&str, &[&str]) = ("ours MSTN", &["b.dgn MSTN"]);

#[tokio::test]
async fn each_type_has_a_connection_and_a_change_runs_only_its_own() {
    let (site, folder) = two_types(PER_TYPE).await;
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    assert_eq!(connections(&site), held(&[IFC_ONE, DGN_ONE]));
    let mut first = runs(&site);
    first.sort();
    let expected = [
        run("ours IFC", &["a.ifc one"]),
        run("ours MSTN", &["b.dgn one"]),
    ];
    assert_eq!(first, expected, "{}", daemon.log());
    write(&folder.join("a.ifc"), "two");
    brought(&site, &[("a.ifc", "two")], 2, &daemon).await;
    assert_eq!(runs(&site)[2..], [run("ours IFC", &["a.ifc two"])]);
    write(&folder.join("b.dgn"), "three");
    brought(&site, &[("b.dgn", "three")], 2, &daemon).await;
    assert_eq!(runs(&site)[3..], [run("ours MSTN", &["b.dgn three"])]);
    // Nothing is owed after a restart.
    daemon.stop().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    at_rest(&site, 2, &daemon).await;
    daemon.stop().await;
    assert_eq!(runs(&site).len(), 4);
    assert_eq!(connections(&site), held(&[IFC_ONE, DGN_ONE]));
}

#[tokio::test]
async fn a_changed_reference_runs_every_connection_of_its_watch() {
    let keys = format!("{PER_TYPE}\nupload_only = [\"*.pdf\"]\nstorage_folder = \"North\"");
    let (mut site, folder) = two_types(&keys).await;
    let south = site.watch(
        "south",
        DEFAULT_IMODEL_ID,
        "storage_folder = \"South\"\nconnection = \"south\"",
    );
    write(&south.join("c.ifc"), "one");
    let daemon = site.start();
    site.synchronized(3, &daemon).await;
    assert_eq!(runs(&site).len(), 3);
    for (round, content) in [(0, "two"), (1, "three")] {
        write(&folder.join("r.pdf"), content);
        brought(&site, &[("North/r.pdf", content)], 4, &daemon).await;
        runs_ended(5 + 2 * round, &daemon).await;
        let mut both = runs(&site).split_off(3 + 2 * round);
        both.sort();
        let expected = [
            run("ours IFC", &["North/a.ifc one"]),
            run("ours MSTN", &["North/b.dgn one"]),
        ];
        assert_eq!(both, expected, "{}", daemon.log());
    }
    // Each run is in the history of the files that it read again.
    for path in ["a.ifc", "b.dgn"] {
        let history = site.run(&["status", path]).await.out;
        let read_again = history.matches("\"r.pdf\"").count();
        assert_eq!(read_again, 2, "{history}");
    }
    // A change of one type afterwards is that of one connection again.
    write(&folder.join("b.dgn"), "four");
    brought(&site, &[("North/b.dgn", "four")], 4, &daemon).await;
    assert_eq!(runs(&site)[7..], [run("ours MSTN", &["North/b.dgn four"])]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_changed_companion_runs_only_the_connection_of_its_main_file() {
    let (site, folder) = two_types(PER_TYPE).await;
    std::fs::write(folder.join("lots.shp"), [0, 0, 0x27, 0x0A, 1]).unwrap();
    for name in ["lots.dbf", "lots.shx", "lots.prj"] {
        write(&folder.join(name), "one");
    }
    let daemon = site.start();
    site.shows("3 synchronized, 3 uploaded only", &daemon).await;
    brought(&site, &[("lots.prj", "one")], 6, &daemon).await;
    let before = runs(&site);
    write(&folder.join("lots.dbf"), "two");
    brought(&site, &[("lots.dbf", "two")], 6, &daemon).await;
    runs_ended(before.len() + 1, &daemon).await;
    assert_eq!(runs(&site)[before.len()].0, "ours GEOSPATIAL");
    daemon.stop().await;
}

#[tokio::test]
async fn a_type_that_is_new_later_gets_its_connection_then() {
    let keys = format!("{PER_TYPE}\nupload_only = [\"*.pdf\"]");
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, &keys);
    write(&folder.join("r.pdf"), "one");
    let daemon = site.start();
    brought(&site, &[("r.pdf", "one")], 1, &daemon).await;
    write(&folder.join("a.ifc"), "one");
    brought(&site, &[("a.ifc", "one")], 2, &daemon).await;
    assert_eq!(connections(&site), held(&[IFC_ONE]));
    write(&folder.join("r.pdf"), "two");
    brought(&site, &[("r.pdf", "two")], 2, &daemon).await;
    runs_ended(2, &daemon).await;
    write(&folder.join("b.dgn"), "one");
    brought(&site, &[("b.dgn", "one")], 3, &daemon).await;
    assert_eq!(connections(&site), held(&[IFC_ONE, DGN_ONE]));
    let expected = [
        run("ours IFC", &["a.ifc one"]),
        run("ours IFC", &["a.ifc one"]),
        run("ours MSTN", &["b.dgn one"]),
    ];
    assert_eq!(runs(&site), expected, "{}", daemon.log());
    daemon.stop().await;
}

/// Which files CIVIL reads.
const CIVIL: &str = "connectors = { \"/d.dgn\" = \"CIVIL\" }";
const MORE_CIVIL: &str = "connectors = { \"/[cd].dgn\" = \"CIVIL\" }";
const C_MSTN: [(&str, &[&str]); 3] = [
    ("ours CIVIL", &["d.dgn CIVIL"]),
    IFC_ONE,
    ("ours MSTN", &["b.dgn MSTN", "c.dgn MSTN"]),
];
const C_CIVIL: [(&str, &[&str]); 3] = [
    ("ours CIVIL", &["c.dgn CIVIL", "d.dgn CIVIL"]),
    IFC_ONE,
    DGN_ONE,
];

/// Four synchronized files of three types; the daemon has stopped.
async fn three_types() -> Site {
    let (site, folder) = two_types(&format!("{PER_TYPE}\n{CIVIL}")).await;
    write(&folder.join("c.dgn"), "one");
    write(&folder.join("d.dgn"), "one");
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    assert_eq!(connections(&site), held(&C_MSTN));
    daemon.stop().await;
    site
}

#[tokio::test]
async fn a_file_whose_connector_changes_moves_to_the_other_connection() {
    let mut site = three_types().await;
    let (sent, before) = (uploads(&site), runs(&site).len());
    site.replace_in_watches(CIVIL, MORE_CIVIL);
    let daemon = site.start();
    moved(&site, &C_CIVIL, 4, &daemon).await;
    site.synchronized(4, &daemon).await;
    let expected = [run("ours CIVIL", &["c.dgn one", "d.dgn one"])];
    assert_eq!(runs(&site)[before..], expected, "{}", daemon.log());
    daemon.stop().await;
    // And back.
    site.replace_in_watches(MORE_CIVIL, CIVIL);
    let daemon = site.start();
    moved(&site, &C_MSTN, 4, &daemon).await;
    site.synchronized(4, &daemon).await;
    let expected = [run("ours MSTN", &["b.dgn one", "c.dgn one"])];
    assert_eq!(runs(&site)[before + 1..], expected, "{}", daemon.log());
    assert_eq!(uploads(&site), sent, "{}", daemon.log());
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_while_a_file_moves_to_the_connection_of_its_new_type_leaves_it_in_one() {
    for point in [
        crate::moves_between_watches::POINTS[0],
        "source file added",
        "source files recorded",
        "run intended",
    ] {
        let mut site = three_types().await;
        let sent = uploads(&site);
        site.replace_in_watches(CIVIL, MORE_CIVIL);
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        moved(&site, &C_CIVIL, 4, &daemon).await;
        site.synchronized(4, &daemon).await;
        let last = runs(&site).pop();
        let expected = run("ours CIVIL", &["c.dgn one", "d.dgn one"]);
        assert_eq!(last, Some(expected), "{point}: {}", daemon.log());
        assert_eq!(uploads(&site), sent, "{point}: {}", daemon.log());
        daemon.stop().await;
    }
}

const FIXED: &str = "connection = \"fixed\"";

#[tokio::test]
async fn a_watch_changes_from_one_connection_to_one_per_type_and_back() {
    let (mut site, folder) = two_types(FIXED).await;
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let sent = uploads(&site);
    let all: &[&str] = &["a.ifc IFC", "b.dgn MSTN"];
    assert_eq!(connections(&site), held(&[("fixed", all)]));
    daemon.stop().await;

    site.replace_in_watches(FIXED, PER_TYPE);
    let daemon = site.start();
    moved(&site, &[("fixed", &[]), IFC_ONE, DGN_ONE], 2, &daemon).await;
    site.synchronized(2, &daemon).await;
    let mut second = runs(&site).split_off(1);
    second.sort();
    let expected = [
        run("ours IFC", &["a.ifc one"]),
        run("ours MSTN", &["b.dgn one"]),
    ];
    assert_eq!(second, expected, "{}", daemon.log());
    daemon.stop().await;

    site.replace_in_watches(PER_TYPE, FIXED);
    let daemon = site.start();
    moved(
        &site,
        &[("fixed", all), ("ours IFC", &[]), ("ours MSTN", &[])],
        2,
        &daemon,
    )
    .await;
    site.synchronized(2, &daemon).await;
    let expected = [run("fixed", &["a.ifc one", "b.dgn one"])];
    assert_eq!(runs(&site)[3..], expected, "{}", daemon.log());
    assert_eq!(uploads(&site), sent, "{}", daemon.log());
    write(&folder.join("a.ifc"), "two");
    brought(&site, &[("a.ifc", "two")], 2, &daemon).await;
    assert_eq!(
        runs(&site)[4..],
        [run("fixed", &["a.ifc two", "b.dgn one"])]
    );
    let shown = site.run(&["status"]).await.out;
    assert!(shown.contains("iModel  2 source files\n"), "{shown}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_deleted_file_is_taken_out_of_the_connection_of_its_type() {
    for on_delete in ["unmap", "remove"] {
        let keys = format!("{PER_TYPE}\non_delete = {on_delete:?}\ndelete_after = \"1s\"");
        let (mut site, folder) = two_types(&keys).await;
        "settle = \"100ms\"\nrescan_interval = \"500ms\"\npoll_interval = \"500ms\"\n"
            .clone_into(&mut site.top);
        write(&folder.join("c.ifc"), "one");
        let daemon = site.start();
        site.synchronized(3, &daemon).await;
        let before = runs(&site).len();
        std::fs::remove_file(folder.join("c.ifc")).unwrap();
        let plan = site.run(&["run", "--dry-run"]).await.out;
        let line = "\"c.ifc\"  unmap from connection \"ours IFC\"";
        assert!(plan.contains(line), "{plan}");
        moved(&site, &[IFC_ONE, DGN_ONE], 3, &daemon).await;
        if on_delete == "remove" {
            let deleted = || {
                let files = site.emulator.state().files;
                files
                    .values()
                    .any(|file| file.path == "c.ifc" && file.deleted)
            };
            eventually(deleted, || daemon.log()).await;
            assert_eq!(runs(&site)[before..], [run("ours IFC", &["a.ifc one"])]);
        } else {
            assert_eq!(runs(&site).len(), before, "{}", daemon.log());
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_was_deleted_before_its_connection_changed_is_taken_out_of_the_old_one() {
    let keys = format!("{FIXED}\non_delete = \"unmap\"\ndelete_after = \"1h\"");
    let (mut site, folder) = two_types(&keys).await;
    "settle = \"100ms\"\nrescan_interval = \"500ms\"\npoll_interval = \"500ms\"\n"
        .clone_into(&mut site.top);
    write(&folder.join("c.nwd"), "one");
    write(&folder.join("d.ifc"), "one");
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    // No other file of the one type is left, but one of the other type.
    std::fs::remove_file(folder.join("c.nwd")).unwrap();
    std::fs::remove_file(folder.join("d.ifc")).unwrap();
    site.shows("2 gone", &daemon).await;
    daemon.stop().await;
    site.replace_in_watches(FIXED, PER_TYPE);
    site.replace_in_watches("\"1h\"", "\"1s\"");
    let daemon = site.start();
    site.shows("2 files are gone at once", &daemon).await;
    let resumed = site.run(&["resume", "north"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    moved(&site, &[("fixed", &[]), IFC_ONE, DGN_ONE], 4, &daemon).await;
    for name in ["c.nwd", "d.ifc"] {
        let shown = site.run(&["status", name]).await.out;
        assert!(shown.contains("removed from the connection"), "{shown}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_spatial_root_is_run_alone_before_the_connections_of_other_types() {
    let (mut site, folder) = two_types(PER_TYPE).await;
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\n\
         spatial_root = {{ watch = \"north\", path = \"gcs.dgn\" }}\n"
    );
    write(&folder.join("gcs.dgn"), "one");
    let daemon = site.start();
    site.synchronized(3, &daemon).await;
    let all = runs(&site);
    assert_eq!(all[0], run("ours MSTN", &["gcs.dgn one"]), "{all:?}");
    assert_eq!(all.len(), 3, "{all:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_named_version_follows_the_run_of_each_connection() {
    let (mut site, _folder) = two_types(PER_TYPE).await;
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\n\
         named_version = {{ when = \"each\", name = \"with {{files}}\" }}\n"
    );
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let names = || {
        let state = site.emulator.state();
        let versions = state.imodels[DEFAULT_IMODEL_ID].named_versions.iter();
        let mut names: Vec<String> = versions.map(|version| version.name.clone()).collect();
        names.sort();
        names
    };
    let both = || names() == ["with a.ifc", "with b.dgn"];
    eventually(both, || format!("{:?}\n{}", names(), daemon.log())).await;
    daemon.stop().await;
}

#[tokio::test]
async fn explain_names_the_connection_and_check_counts_its_source_files() {
    let (site, folder) = two_types(PER_TYPE).await;
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    let path = folder.join("b.dgn").display().to_string();
    let explained = site.run(&["explain", &path]).await.out;
    assert!(
        explained.contains("connection \"ours MSTN\""),
        "{explained}"
    );
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("2 source files"), "{checked:?}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_while_files_move_to_connections_of_their_types_leaves_each_file_in_one_connection()
{
    for point in [
        crate::moves_between_watches::POINTS[0],
        "connection created",
        "connection recorded",
        "source files recorded",
        "run intended",
    ] {
        let (mut site, folder) = two_types(FIXED).await;
        write(&folder.join("c.ifc"), "one");
        let daemon = site.start();
        site.synchronized(3, &daemon).await;
        let sent = uploads(&site);
        daemon.stop().await;
        site.replace_in_watches(FIXED, PER_TYPE);
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        let log = daemon.ended().await;
        assert!(!log.0.success(), "{point}: {}", log.1);
        let daemon = site.start();
        let two: (&str, &[&str]) = ("ours IFC", &["a.ifc IFC", "c.ifc IFC"]);
        moved(&site, &[("fixed", &[]), two, DGN_ONE], 3, &daemon).await;
        site.synchronized(3, &daemon).await;
        assert_eq!(uploads(&site), sent, "{point}: {}", daemon.log());
        let all = runs(&site);
        for last in [
            run("ours IFC", &["a.ifc one", "c.ifc one"]),
            run("ours MSTN", &["b.dgn one"]),
        ] {
            assert!(all[1..].contains(&last), "{point}: {all:?}");
        }
        daemon.stop().await;
    }
}
