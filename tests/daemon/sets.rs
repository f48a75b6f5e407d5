//! Files that belong together, such as a shapefile and its companions: stored without configuration, run only as a
//! whole.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{
    DEFAULT_IMODEL_ID, Fault, GeospatialCompanions, Run, Switches, UnchangedTask,
};

use crate::support::{Daemon, Site, eventually, platform, sha256, write};

const SET: [&str; 5] = ["lots.shp", "lots.dbf", "lots.shx", "lots.prj", "lots.cpg"];

/// The first bytes of a shapefile, followed by `content`.
fn shape(content: &str) -> Vec<u8> {
    [&[0, 0, 0x27, 0x0A], content.as_bytes()].concat()
}

fn write_part(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    if name.to_lowercase().ends_with(".shp") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, shape(content)).unwrap();
    } else {
        write(&path, content);
    }
}

fn write_set(folder: &Path, names: &[&str], content: &str) {
    for name in names {
        write_part(folder, name, &format!("{name} {content}"));
    }
}

/// The runs, from the first to the last.
fn runs(site: &Site) -> Vec<Run> {
    let mut runs: Vec<Run> = site.emulator.state().runs.into_values().collect();
    runs.sort_by_key(|run| run.requested_at);
    runs
}

/// Of each run, the result of the storage file at this path.
fn results(site: &Site, path: &str) -> Vec<String> {
    let id = site.stored(path).id;
    let covered = runs(site).into_iter().flat_map(|run| run.covered);
    covered
        .filter(|file| file.storage_file_id == id)
        .map(|file| file.result)
        .collect()
}

fn stored_paths(site: &Site) -> BTreeSet<String> {
    let files = site.emulator.state().files.into_values();
    let complete = files.filter(|file| file.completed.is_some() && !file.deleted);
    complete.map(|file| file.path).collect()
}

fn source_files(site: &Site) -> usize {
    let connections = site.emulator.state().connections;
    connections.values().map(|one| one.source_files.len()).sum()
}

/// Waits until the file has this result in `status`, and every file is done.
async fn settled(site: &Site, daemon: &Daemon, path: &str, result: &str) {
    for _ in 0..900 {
        let files = site.status().await;
        let has_result = files
            .get(&format!("north/{path}"))
            .is_some_and(|file| file["result"] == result);
        let at_rest = files
            .values()
            .all(|file| file["state"] == "done" || file["state"] == "failed");
        if has_result && at_rest {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!(
        "{path} is not {result}: {:#?}\n{}",
        site.status().await,
        daemon.log()
    );
}

/// A site where a set waits for its missing parts longer than any test runs.
async fn patient_site() -> (Site, std::path::PathBuf) {
    Site::with_folder(platform()).await
}

/// A site where a set that lacks a part fails after a second.
async fn impatient_site() -> (Site, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables = site
        .tables
        .replace("[sync]\n", "[sync]\nbatch_max = \"1s\"\n");
    (site, folder)
}

#[tokio::test]
async fn a_shapefile_is_stored_with_its_companions_and_synchronized_in_one_run() {
    let (site, folder) = patient_site().await;
    let daemon = site.start();
    daemon.says("watch started").await;
    write_set(&folder, &SET, "one");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    assert_eq!(stored_paths(&site), SET.map(str::to_owned).into());
    assert_eq!(source_files(&site), 1);
    assert_eq!(results(&site, "lots.shp"), ["Success"]);
    assert_eq!(runs(&site).len(), 1);
    let files = site.status().await;
    for companion in &SET[1..] {
        assert_eq!(files[&format!("north/{companion}")]["result"], "uploaded");
    }
    let explained = site
        .run(&["explain", folder.join("lots.dbf").to_str().unwrap()])
        .await;
    assert!(
        explained.out.contains("companion of \"lots.shp\""),
        "{explained:?}"
    );
    let explained = site
        .run(&["explain", folder.join("lots.shp").to_str().unwrap()])
        .await;
    let companions = "companions: \"lots.cpg\", \"lots.dbf\", \"lots.prj\", \"lots.shx\"";
    assert!(explained.out.contains(companions), "{explained:?}");
    let status = site.run(&["status"]).await;
    let counts = "1 synchronized, 4 uploaded only";
    assert!(status.out.contains(counts), "{status:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_set_whose_parts_come_one_by_one_is_run_only_when_it_is_whole() {
    let (site, folder) = patient_site().await;
    // Another source file of the connection, which a run reads at any time.
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    for part in ["lots.shp", "lots.prj", "lots.dbf"] {
        write_set(&folder, &[part], "one");
        eventually(|| stored_paths(&site).contains(part), || daemon.log()).await;
        // Long enough for a run of what is there, if one were requested.
        write(&folder.join("house.ifc"), &format!("house, and {part}"));
        let ran = |count| runs(&site).len() >= count;
        let expected = runs(&site).len() + 1;
        eventually(|| ran(expected), || daemon.log()).await;
        assert_eq!(results(&site, "lots.shp"), [""; 0], "{part}");
    }
    assert_eq!(source_files(&site), 1, "only the house is mapped");
    write_set(&folder, &["lots.shx"], "one");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    assert_eq!(results(&site, "lots.shp"), ["Success"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_shapefile_that_lacks_a_part_fails_with_the_reason_until_the_part_appears() {
    let (site, folder) = impatient_site().await;
    write_set(&folder, &["lots.shp", "lots.dbf"], "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "failed").await;
    let file = &site.status().await["north/lots.shp"];
    assert_eq!(
        file["reason"],
        "cannot synchronize \"lots.shp\": the shapefile lacks \"lots.shx\""
    );
    assert!(
        file["hint"].as_str().unwrap().contains("lots.shx"),
        "{file}"
    );
    assert_eq!((runs(&site).len(), source_files(&site)), (0, 0));

    write_set(&folder, &["lots.shx"], "one");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    assert_eq!(results(&site, "lots.shp"), ["Success"]);
    daemon.says("has no \"lots.prj\"").await;
    let explained = site
        .run(&["explain", folder.join("lots.shp").to_str().unwrap()])
        .await;
    let note = "note: \"lots.prj\" is missing";
    assert!(explained.out.contains(note), "{explained:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_companion_that_changes_alone_leads_to_one_run_of_its_set() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &SET, "one");
    write_set(&folder, &["roads.shp", "roads.dbf", "roads.shx"], "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "roads.shp", "synchronized").await;
    assert_eq!(source_files(&site), 2);
    let before = runs(&site).len();

    write_set(&folder, &["lots.dbf"], "two");
    eventually(|| site.stored("lots.dbf").completions == 2, || daemon.log()).await;
    eventually(|| runs(&site).len() > before, || daemon.log()).await;
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "roads.shp", "synchronized").await;
    assert_eq!(runs(&site).len(), before + 1);
    assert_eq!(site.stored("lots.shp").completions, 1);
    let completed = site.stored("lots.dbf").completed.unwrap().completed_at;
    assert!(runs(&site)[before].requested_at >= completed);
    daemon.stop().await;
}

#[tokio::test]
async fn a_set_that_is_saved_again_is_run_after_its_last_part_is_written() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &SET, "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;

    let mut table = std::fs::File::create(folder.join("lots.dbf")).unwrap();
    let mut content = String::new();
    // The pauses are part of what is tested: each is shorter than the settle time, all together are longer than the
    // settle time and the batch window.
    for part in 0..15 {
        let text = format!("part {part}\n");
        table.write_all(text.as_bytes()).unwrap();
        content += &text;
        if part == 0 {
            write_set(&folder, &["lots.shp", "lots.shx"], "two");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(table);
    eventually(|| site.stored("lots.shp").completions == 2, || daemon.log()).await;
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    let stored = site.stored("lots.dbf");
    assert_eq!(stored.completions, 2);
    assert_eq!(stored.completed.unwrap().sha256, sha256(content.as_bytes()));
    assert_eq!(runs(&site).len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_set_that_is_deleted_and_written_again_is_run_when_it_is_whole_again() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &SET, "one");
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    let before = runs(&site).len();

    for part in &SET[1..] {
        std::fs::remove_file(folder.join(part)).unwrap();
    }
    write_set(&folder, &["lots.shp"], "two");
    write(&folder.join("house.ifc"), "two");
    let waits = async || {
        let files = site.status().await;
        let reason = files["north/lots.shp"]["reason"].as_str();
        reason.is_some_and(|reason| reason.contains("waits for \"lots.dbf\" and \"lots.shx\""))
    };
    while !waits().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(runs(&site).len(), before);
    let explained = site
        .run(&["explain", folder.join("lots.shp").to_str().unwrap()])
        .await;
    assert!(explained.out.contains("waits for"), "{explained:?}");

    write_set(&folder, &SET[1..], "two");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    assert_eq!(site.stored("lots.dbf").completions, 2);
    assert_eq!(runs(&site).len(), before + 1);
    daemon.stop().await;
}

#[tokio::test]
async fn no_run_of_the_connection_reads_a_set_of_which_only_a_part_is_stored() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &SET, "one");
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    let before = runs(&site).len();

    let table = site.stored("lots.dbf").id;
    let route = format!("POST /storage/files/{table}/updateContent");
    site.emulator.fault(Fault::on(&route).status(503));
    write_set(&folder, &["lots.shp", "lots.dbf"], "two");
    write(&folder.join("house.ifc"), "two");
    let stored = |path: &str| site.stored(path).completions == 2;
    eventually(
        || stored("lots.shp") && stored("house.ifc"),
        || daemon.log(),
    )
    .await;
    // Long after the batch window.
    let refused = || {
        site.requests("POST", &format!("{table}/updateContent"))
            .len()
    };
    eventually(|| refused() > 12, || daemon.log()).await;
    assert_eq!(runs(&site).len(), before);

    site.emulator.clear_faults();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    settled(&site, &daemon, "house.ifc", "synchronized").await;
    assert!(stored("lots.dbf"));
    assert_eq!(runs(&site).len(), before + 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_companion_that_changes_is_read_even_if_the_platform_runs_only_changed_source_files() {
    let mut switches = Switches::default();
    switches.unchanged_task = UnchangedTask::Absent;
    let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
    site.tables = site
        .tables
        .replace("max_delay = \"2s\"", "max_delay = \"300ms\"");
    write_set(&folder, &SET, "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    write_set(&folder, &["lots.dbf"], "two");
    eventually(|| site.stored("lots.dbf").completions == 2, || daemon.log()).await;
    // The same bytes are a new version to the platform.
    eventually(|| site.stored("lots.shp").completions == 2, || daemon.log()).await;
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    let last = runs(&site).pop().unwrap();
    assert!(last.covered.iter().all(|file| file.has_task), "{last:#?}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_names_of_a_set_may_differ_in_case() {
    let (site, folder) = patient_site().await;
    write_set(
        &folder.join("gis"),
        &["LOTS.SHP", "lots.dbf", "Lots.Shx"],
        "one",
    );
    let daemon = site.start();
    settled(&site, &daemon, "gis/LOTS.SHP", "synchronized").await;
    assert_eq!((runs(&site).len(), source_files(&site)), (1, 1));
    assert_eq!(stored_paths(&site).len(), 3);
    daemon.stop().await;
}

#[tokio::test]
async fn a_set_that_is_killed_between_its_parts_is_run_once_it_is_whole() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &["lots.shp", "lots.shx"], "one");
    let daemon = site.start();
    eventually(|| stored_paths(&site).len() == 2, || daemon.log()).await;
    daemon.kill().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    daemon.kill().await;
    write_set(&folder, &["lots.dbf"], "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    assert_eq!(results(&site, "lots.shp"), ["Success"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_companion_that_is_deleted_fails_the_shapefile_only_when_it_changes() {
    let (mut site, folder) = impatient_site().await;
    site.top = site
        .top
        .replace("poll_interval", "rescan_interval = \"1s\"\npoll_interval");
    write_set(&folder, &SET, "one");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    std::fs::remove_file(folder.join("lots.dbf")).unwrap();
    daemon.says("known files were deleted").await;
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    assert_eq!(runs(&site).len(), 1);

    write_set(&folder, &["lots.shp"], "two");
    settled(&site, &daemon, "lots.shp", "failed").await;
    let reason = &site.status().await["north/lots.shp"]["reason"];
    assert!(
        reason.as_str().unwrap().contains("lacks \"lots.dbf\""),
        "{reason}"
    );
    assert_eq!(runs(&site).len(), 1);

    write_set(&folder, &["lots.dbf"], "one");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    assert_eq!(runs(&site).len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_companion_without_its_main_file_is_stored_and_never_an_error() {
    let (site, folder) = impatient_site().await;
    write_set(&folder, &["lots.dbf", "lots.shx"], "one");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(stored_paths(&site).len(), 2);
    assert_eq!(runs(&site).len(), 0);

    write_set(&folder, &["lots.shp"], "one");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(results(&site, "lots.shp"), ["Success"]);
}

#[tokio::test]
async fn a_single_pass_reports_a_shapefile_that_lacks_a_part() {
    let (site, folder) = patient_site().await;
    write_set(&folder, &["lots.shp", "lots.dbf"], "one");
    write(&folder.join("house.ifc"), "one");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let reason = "\"lots.shp\" waits for \"lots.shx\"";
    let reason = reason.escape_default().to_string();
    assert!(done.err.contains(&reason), "{done:?}");
    assert_eq!(results(&site, "house.ifc"), ["Success"]);
}

#[tokio::test]
async fn a_companion_that_cannot_be_stored_fails_its_shapefile_with_the_reason() {
    let (site, folder) = impatient_site().await;
    write_set(&folder, &["lots.shp", "lots.dbf", "lots.shx"], "one");
    write(&folder.join("lots.cpg"), "");
    let daemon = site.start();
    settled(&site, &daemon, "lots.shp", "failed").await;
    let reason = &site.status().await["north/lots.shp"]["reason"];
    assert!(reason.as_str().unwrap().contains("lots.cpg"), "{reason}");
    assert_eq!(runs(&site).len(), 0);
    write(&folder.join("lots.cpg"), "UTF-8");
    settled(&site, &daemon, "lots.shp", "synchronized").await;
    daemon.stop().await;
}

#[tokio::test]
async fn companions_of_the_configuration_are_stored_beside_their_main_file() {
    let mut switches = Switches::default();
    switches.geospatial_companions = GeospatialCompanions::Ignored;
    let mut site = Site::new(platform().switches(switches)).await;
    let folder = site.watch(
        "north",
        DEFAULT_IMODEL_ID,
        "include = [\"*.shp\", \"*.ifc\"]\ncompanions = { ifc = [\"ids\"] }",
    );
    write_set(
        &folder,
        &[
            "house.ifc",
            "house.ids",
            "other.txt",
            "lots.shp",
            "lots.dbf",
            "lots.shx",
        ],
        "one",
    );
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!((stored_paths(&site).len(), source_files(&site)), (5, 2));
}
