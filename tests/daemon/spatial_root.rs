//! The spatial root: an empty iModel gets one file first and alone.

use std::path::PathBuf;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, TaskFault};

use super::support::{Site, eventually, platform, write};

/// A site whose spatial root is `Site/GCS.dgn`, and its folder.
async fn site() -> (Site, PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\n\
         spatial_root = {{ watch = \"north\", path = \"Site/GCS.dgn\" }}\n"
    );
    (site, folder)
}

/// The paths that each run covered, in the order of the runs.
fn runs(site: &Site) -> Vec<Vec<String>> {
    let state = site.emulator.state();
    let mut runs: Vec<_> = state.runs.values().collect();
    runs.sort_by_key(|run| run.requested_at);
    let covered = |run: &itwin_syncd::emulator::Run| {
        let files = run.covered.iter();
        files
            .map(|file| state.files[&file.storage_file_id].path.clone())
            .collect()
    };
    runs.into_iter().map(covered).collect()
}

/// The path of the file that defines the coordinate system of the iModel.
fn gcs_from(site: &Site) -> Option<String> {
    let state = site.emulator.state();
    let id = state.imodels[DEFAULT_IMODEL_ID].gcs_from.as_ref()?;
    Some(state.files[id].path.clone())
}

#[tokio::test]
async fn the_spatial_root_is_run_first_and_alone() {
    let (site, folder) = site().await;
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let missing = "spatial root \"Site/GCS.dgn\" is not in the folder of watch \"north\"";
    assert!(checked.out.contains(missing), "{checked:?}");
    write(&folder.join("a.dgn"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    site.shows("which is not in the folder", &daemon).await;
    let path = folder.join("a.dgn");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    assert!(
        explained.contains("waits for the spatial root \"Site/GCS.dgn\""),
        "{explained}"
    );
    let path = folder.join("Site/GCS.dgn");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    assert!(
        explained.contains("spatial root of the iModel"),
        "{explained}"
    );
    assert!(site.emulator.state().connections.is_empty());

    write(&folder.join("Site/GCS.dgn"), "root");
    site.synchronized(3, &daemon).await;
    let runs = runs(&site);
    assert_eq!(runs[0], ["Site/GCS.dgn"]);
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!(gcs_from(&site).unwrap(), "Site/GCS.dgn");
    let shown = site.run(&["status"]).await.out;
    assert!(!shown.contains("spatial root"), "{shown}");
    daemon.stop().await;
}

#[tokio::test]
async fn files_wait_for_a_failed_spatial_root_until_resume_also_over_a_restart() {
    let (site, folder) = site().await;
    site.emulator.fail_task(TaskFault {
        file: "GCS.dgn".to_owned(),
        result: "Error".to_owned(),
        error: None,
        report: None,
        count: None,
    });
    write(&folder.join("a.dgn"), "a");
    write(&folder.join("Site/GCS.dgn"), "root");
    let daemon = site.start();
    site.shows("spatial root \"Site/GCS.dgn\", which failed", &daemon)
        .await;
    daemon.says("itwin-syncd resume north").await;
    daemon.stop().await;
    let daemon = site.start();
    site.shows("spatial root \"Site/GCS.dgn\", which failed", &daemon)
        .await;
    assert!(runs(&site).iter().all(|run| *run == ["Site/GCS.dgn"]));

    let resumed = site.run(&["resume"]).await;
    assert!(resumed.out.contains("resumed"), "{resumed:?}");
    let a = || {
        runs(&site)
            .iter()
            .any(|run| run.contains(&"a.dgn".to_owned()))
    };
    eventually(a, || daemon.log()).await;
    daemon.stop().await;
    // The decision is for good.
    write(&folder.join("c.dgn"), "c");
    let daemon = site.start();
    let c = || {
        runs(&site)
            .iter()
            .any(|run| run.contains(&"c.dgn".to_owned()))
    };
    eventually(c, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_imodel_with_changesets_does_not_wait() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\n\
         spatial_root = {{ watch = \"north\", path = \"Site/GCS.dgn\" }}\n"
    );
    let checked = site.run(&["check"]).await.out;
    assert!(checked.contains("spatial_root has no effect"), "{checked}");
    write(&folder.join("b.dgn"), "b");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.says("has changesets already").await;
    daemon.stop().await;
}

#[tokio::test]
async fn without_a_spatial_root_the_first_file_by_path_defines_the_coordinate_system() {
    let (site, folder) = Site::with_folder(platform()).await;
    for name in ["z.dgn", "b/x.dgn", "b.dgn", "a/y.dgn"] {
        write(&folder.join(name), name);
    }
    let checked = site.run(&["check"]).await.out;
    assert!(
        checked.contains("in order of path, defines that of the iModel"),
        "{checked}"
    );
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    assert_eq!(gcs_from(&site).unwrap(), "a/y.dgn");
    daemon.stop().await;
}
