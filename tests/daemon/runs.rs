//! Runs that end in every way a run can end, or never do.

use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, RunFault};

use crate::support::{Site, eventually, platform, write};

const SECOND_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";

fn fault(result: Option<&str>) -> RunFault {
    RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        result: result.map(str::to_owned),
        error: None,
        duration_ms: None,
        lost: false,
        count: Some(1),
    }
}

/// A site with a folder for each of two iModels.
async fn two_imodels() -> (Site, std::path::PathBuf, std::path::PathBuf) {
    let builder = platform()
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "One")
        .imodel(SECOND_IMODEL, DEFAULT_ITWIN_ID, "Two");
    let mut site = Site::new(builder).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"north\"");
    let south = site.watch("south", SECOND_IMODEL, "storage_folder = \"south\"");
    (site, north, south)
}

#[tokio::test]
async fn a_failed_run_fails_its_files_with_its_message_or_is_repeated() {
    for (result, repeated) in [
        ("Error", true),
        ("Cancelled", true),
        ("TimedOut", true),
        ("Skipped", false),
        ("Postponed", false),
    ] {
        let (site, folder) = Site::with_folder(platform()).await;
        site.emulator.fail_run(fault(Some(result)));
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        if repeated {
            site.synchronized(1, &daemon).await;
            assert_eq!(site.emulator.state().runs.len(), 2, "{result}");
        } else {
            daemon
                .says("synchronization failed; it is tried again when the file changes")
                .await;
            let file = site.status().await.remove("north/house.ifc").unwrap();
            assert_eq!(file["state"], "failed", "{result}");
            assert!(file["reason"].as_str().unwrap().contains(result), "{file}");
            write(&folder.join("house.ifc"), "house, mended");
            site.synchronized(1, &daemon).await;
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_was_accepted_and_is_lost_is_requested_again() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator.fail_run(RunFault {
        lost: true,
        ..fault(None)
    });
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let (_, log) = daemon.stop().await;
    assert!(log.contains("run was deleted"), "{log}");
}

#[tokio::test]
async fn a_run_that_does_not_end_is_reported_and_delays_no_other_imodel() {
    let (mut site, north, south) = two_imodels().await;
    site.tables = site
        .tables
        .replace("[sync]\n", "[sync]\nrun_deadline = \"1s\"\n");
    site.emulator.fail_run(RunFault {
        duration_ms: Some(8000),
        ..fault(None)
    });
    write(&north.join("stuck.ifc"), "stuck");
    let daemon = site.start();
    daemon.says("run requested").await;
    write(&south.join("free.ifc"), "free");
    let free = || {
        let runs = site.emulator.state().runs;
        runs.values()
            .any(|run| run.imodel_id == SECOND_IMODEL && run.state == "Completed")
    };
    eventually(free, || daemon.log()).await;
    daemon.says("run exceeded sync.run_deadline").await;
    let stuck = &site.status().await["north/stuck.ifc"];
    assert_eq!(stuck["state"], "running", "{stuck}");
    // It is followed all the same, and no second one is started beside it.
    site.synchronized(2, &daemon).await;
    assert_eq!(site.emulator.state().runs.len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_full_imodel_takes_what_fits_and_the_rest_fails_with_the_reason() {
    let (site, folder) = Site::with_folder(platform()).await;
    for number in 0..252 {
        write(&folder.join(format!("{number}.ifc")), &number.to_string());
    }
    let daemon = site.start();
    let last_run = || {
        let runs = site.emulator.state().runs;
        runs.values()
            .any(|run| run.state == "Completed" && run.covered.len() == 250)
    };
    eventually(last_run, || daemon.log()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let files = site.status().await;
        let with = |key: &str, word: &str| files.values().filter(|file| file[key] == word).count();
        let full = files.values().filter(|file| {
            let has = |key: &str, words: &str| {
                file[key].as_str().is_some_and(|text| text.contains(words))
            };
            has("reason", "as many source files as it accepts, 250") && has("hint", "masters")
        });
        if (
            with("result", "synchronized"),
            with("state", "failed"),
            full.count(),
        ) == (250, 2, 2)
        {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{files:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
    daemon.stop().await;
}
