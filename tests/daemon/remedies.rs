//! No failure outlives its cause: each hint, once it is followed, ends the failure that it belongs to.

use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault};
use tokio::time::Instant;

use super::other_client::{OtherClient, shared_platform};
use super::support::{Daemon, PATIENCE, Site, write};

async fn site() -> (Site, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(shared_platform()).await;
    site.top += "rescan_interval = \"1s\"\n";
    site.tables = site
        .tables
        .replace("max_delay = \"2s\"", "max_delay = \"500ms\"");
    (site, folder)
}

/// Waits until status says this of a file; None: until it knows no such file.
async fn status_is(site: &Site, daemon: &Daemon, path: &str, word: Option<&str>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let files = site.status().await;
        let file = files.get(&format!("north/{path}"));
        if file.map(|file| file["status"].as_str().unwrap_or_default()) == word {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{path} is not {word:?}: {files:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

/// Waits until a file has failed and its hint contains these words. It may have failed for another reason before, and
/// has no hint while it is tried again.
async fn fails_with_hint(site: &Site, daemon: &Daemon, path: &str, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = site.status().await;
        let file = files.get(&format!("north/{path}"));
        let shown = |key| file.and_then(|file| file[key].as_str()).unwrap_or_default();
        if shown("status") == "failed" && shown("hint").contains(words) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{path} has not failed with {words:?}: {file:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

fn remove(folder: &Path, name: &str) {
    std::fs::remove_file(folder.join(name)).unwrap();
}

#[tokio::test]
async fn a_refused_name_stops_failing_when_the_file_is_renamed_deleted_or_excluded() {
    for what in ["rename", "delete", "exclude"] {
        let (mut site, folder) = site().await;
        write(&folder.join("a:b.ifc"), "content");
        write(&folder.join("other.ifc"), "other");
        let daemon = site.start();
        fails_with_hint(&site, &daemon, "a:b.ifc", "rename").await;
        match what {
            "rename" => {
                std::fs::rename(folder.join("a:b.ifc"), folder.join("ab.ifc")).unwrap();
                status_is(&site, &daemon, "ab.ifc", Some("synchronized")).await;
            }
            "delete" => remove(&folder, "a:b.ifc"),
            _ => {
                site.replace_in_watches("name =", "exclude = [\"a:b.ifc\"]\nname =");
                site.config();
                daemon.signal("HUP");
            }
        }
        let expected = match what {
            "exclude" => "no longer selected",
            _ => "gone from the folder",
        };
        status_is(&site, &daemon, "a:b.ifc", Some(expected)).await;
        daemon.stop().await;
        let once = site.run(&["run", "--once"]).await;
        assert_eq!(once.code, Some(0), "{what}: {once:?}");
    }
}

#[tokio::test]
async fn an_empty_file_stops_failing_when_it_gets_content_or_is_deleted() {
    let (site, folder) = site().await;
    write(&folder.join("saved.ifc"), "");
    write(&folder.join("deleted.ifc"), "");
    let daemon = site.start();
    for name in ["saved.ifc", "deleted.ifc"] {
        fails_with_hint(&site, &daemon, name, "save the file with content").await;
    }
    write(&folder.join("saved.ifc"), "content");
    remove(&folder, "deleted.ifc");
    status_is(&site, &daemon, "saved.ifc", Some("synchronized")).await;
    status_is(&site, &daemon, "deleted.ifc", Some("gone from the folder")).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_last_file_of_a_folder_stops_failing_when_it_is_deleted() {
    let (site, folder) = site().await;
    write(&folder.join("a.ifc"), "");
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(1), "{once:?}");
    remove(&folder, "a.ifc");
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
}

#[tokio::test]
async fn a_file_that_is_too_large_stops_failing_when_it_is_excluded() {
    let (mut site, folder) = site().await;
    // A hole of 6 TiB.
    let file = std::fs::File::create(folder.join("a.ifc")).unwrap();
    file.set_len(6 << 40).unwrap();
    let daemon = site.start();
    let words = "split the file, or add it to exclude";
    fails_with_hint(&site, &daemon, "a.ifc", words).await;
    site.replace_in_watches("name =", "exclude = [\"a.ifc\"]\nname =");
    site.config();
    daemon.signal("HUP");
    status_is(&site, &daemon, "a.ifc", Some("no longer selected")).await;
    daemon.stop().await;
}

#[tokio::test]
async fn of_two_names_that_differ_in_case_only_the_second_is_uploaded_when_one_is_renamed() {
    let (site, folder) = site().await;
    write(&folder.join("plan.ifc"), "lower");
    let daemon = site.start();
    status_is(&site, &daemon, "plan.ifc", Some("synchronized")).await;
    write(&folder.join("PLAN.ifc"), "upper");
    fails_with_hint(&site, &daemon, "PLAN.ifc", "rename one of the two").await;
    std::fs::rename(folder.join("plan.ifc"), folder.join("other.ifc")).unwrap();
    status_is(&site, &daemon, "PLAN.ifc", Some("synchronized")).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_connector_that_the_platform_refuses_is_replaced_or_its_files_are_excluded() {
    for what in ["replaced", "excluded"] {
        let (mut site, folder) =
            Site::with_folder(shared_platform().refused_connector("PSEXCEL")).await;
        site.top += "rescan_interval = \"1s\"\n";
        write(&folder.join("first.ifc"), "first");
        write(&folder.join("a.xlsx"), "cells");
        let daemon = site.start();
        fails_with_hint(&site, &daemon, "a.xlsx", "set another connector").await;
        let (key, expected) = match what {
            "replaced" => ("connectors = { xlsx = \"SHELLEDWCSV\" }", "failed"),
            _ => (
                "exclude = [\"*.xlsx\"]",
                "no longer selected; still in storage",
            ),
        };
        site.replace_in_watches("name =", &format!("{key}\nname ="));
        site.config();
        daemon.signal("HUP");
        if what == "replaced" {
            // The emulated platform takes this one, whose connector then reads no such file.
            daemon.says("SHELLEDWCSV does not read").await;
        }
        status_is(&site, &daemon, "a.xlsx", Some(expected)).await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_file_mapped_by_another_connection_is_mapped_once_it_is_removed_there() {
    let (site, folder) = site().await;
    let other_client = OtherClient::signs_in(&site.emulator).await;
    write(&folder.join("first.ifc"), "first");
    let daemon = site.start();
    status_is(&site, &daemon, "first.ifc", Some("synchronized")).await;
    // Another client maps the new file first, into a connection of its own.
    site.emulator.fault(
        Fault::on("POST /synchronization/imodels/storageConnections/*/sourceFiles")
            .status(503)
            .times(1),
    );
    write(&folder.join("a.ifc"), "a");
    daemon.says("cannot request a run").await;
    let file = site.stored("a.ifc");
    let theirs = other_client.connects("theirs", &file.id).await.unwrap();
    fails_with_hint(&site, &daemon, "a.ifc", "remove it there").await;
    assert_eq!(other_client.source_file(&file.id).unwrap().0, theirs);
    assert!(other_client.unmaps(&file.id).await);
    status_is(&site, &daemon, "a.ifc", Some("synchronized")).await;
    daemon.stop().await;
}

#[tokio::test]
async fn retry_of_a_file_that_is_gone_or_no_longer_selected_ends_its_failure() {
    let (mut site, folder) = site().await;
    site.top = site
        .top
        .replace("rescan_interval = \"1s\"", "rescan_interval = \"1h\"")
        .replace("poll_interval = \"1s\"", "poll_interval = \"1h\"");
    write(&folder.join("gone:.ifc"), "gone");
    write(&folder.join("excluded:.ifc"), "excluded");
    write(&folder.join("kept.ifc"), "kept");
    let daemon = site.start();
    for name in ["gone:.ifc", "excluded:.ifc"] {
        status_is(&site, &daemon, name, Some("failed")).await;
    }
    daemon.stop().await;
    remove(&folder, "gone:.ifc");
    site.replace_in_watches("name =", "exclude = [\"excluded*\"]\nname =");
    // Without a daemon, so that no scan is faster than the command.
    let retried = site.run(&["retry", "--failed"]).await;
    assert_eq!(retried.code, Some(0), "{retried:?}");
    let explained = folder.join("gone:.ifc");
    let explained = site.run(&["explain", explained.to_str().unwrap()]).await;
    assert!(explained.out.contains("does not exist"), "{explained:?}");
    let daemon = site.start();
    status_is(&site, &daemon, "excluded:.ifc", Some("no longer selected")).await;
    let ended = || async {
        let files = site.status().await;
        files["north/gone:.ifc"]["state"] == "done"
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ended().await {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        daemon.logs_more().await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_deleted_file_or_folder_counts_as_gone_and_status_says_it_is_still_in_the_imodel() {
    let (site, folder) = site().await;
    for name in ["kept.ifc", "deleted.ifc", "inner/a.ifc", "inner/deep/b.ifc"] {
        write(&folder.join(name), name);
    }
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    let runs = site.emulator.state().runs.len();
    remove(&folder, "deleted.ifc");
    std::fs::remove_dir_all(folder.join("inner")).unwrap();
    for name in ["deleted.ifc", "inner/a.ifc", "inner/deep/b.ifc"] {
        let word = Some("gone from the folder; still in the iModel");
        status_is(&site, &daemon, name, word).await;
    }
    let output = site.run(&["status"]).await.out;
    assert!(output.contains("1 synchronized, 3 gone"), "{output}");
    let history = site.run(&["status", "deleted.ifc"]).await.out;
    assert!(history.contains("gone from the folder"), "{history}");
    assert!(history.contains("absent since"), "{history}");
    // One that comes back with the same content is neither uploaded nor run again.
    write(&folder.join("deleted.ifc"), "deleted.ifc");
    status_is(&site, &daemon, "deleted.ifc", Some("unchanged")).await;
    assert_eq!(site.stored("deleted.ifc").completions, 1);
    assert_eq!(site.emulator.state().runs.len(), runs);
    let output = site.run(&["status"]).await.out;
    assert!(output.contains("2 synchronized, 2 gone"), "{output}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_is_missing_for_a_moment_is_never_gone() {
    let (mut site, folder) = Site::with_folder(shared_platform()).await;
    site.top = site.top.replace("settle = \"300ms\"", "settle = \"5s\"");
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let away = site.path("away.ifc");
    std::fs::rename(folder.join("a.ifc"), &away).unwrap();
    let rescanned = site.run(&["rescan"]).await;
    assert_eq!(rescanned.code, Some(0), "{rescanned:?}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while site.status().await["north/a.ifc"]["absence"] != "missing" {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        daemon.logs_more().await;
    }
    status_is(&site, &daemon, "a.ifc", Some("synchronized")).await;
    std::fs::rename(&away, folder.join("a.ifc")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !site.status().await["north/a.ifc"]["absence"].is_null() {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        daemon.logs_more().await;
    }
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("known files were deleted"), "{log}");
}

#[tokio::test]
async fn forget_deletes_what_is_known_and_says_what_stays_on_the_platform() {
    let (site, folder) = site().await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b:.ifc"), "b");
    let daemon = site.start();
    status_is(&site, &daemon, "a.ifc", Some("synchronized")).await;
    status_is(&site, &daemon, "b:.ifc", Some("failed")).await;
    let asked = site.run(&["forget", "a.ifc"]).await;
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.err.contains("add --yes"), "{asked:?}");
    let plan = site.run(&["forget", "--dry-run", "a.ifc"]).await;
    let stored = site.stored("a.ifc");
    assert!(plan.out.contains(&stored.id), "{plan:?}");
    assert!(plan.out.contains("still in the folder"), "{plan:?}");
    daemon.stop().await;
    remove(&folder, "a.ifc");
    remove(&folder, "b:.ifc");
    write(&folder.join("c.ifc"), "c");
    let forgotten = site.run(&["forget", "--yes", "a.ifc", "b:.ifc"]).await;
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert!(forgotten.out.contains("forgot 2 files"), "{forgotten:?}");
    assert!(site.status().await.is_empty());
    assert_eq!(
        site.stored("a.ifc").id,
        stored.id,
        "nothing changes on the platform"
    );
    let once = site.run(&["run", "--once"]).await;
    assert_eq!(once.code, Some(0), "{once:?}");
    assert_eq!(site.status().await.len(), 1);
}

#[tokio::test]
async fn a_file_that_is_forgotten_and_still_there_finds_its_storage_file_again() {
    let (site, folder) = site().await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    status_is(&site, &daemon, "a.ifc", Some("synchronized")).await;
    let forgotten = site.run(&["forget", "--yes", "a.ifc"]).await;
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    daemon.says("storage holds this content already").await;
    status_is(&site, &daemon, "a.ifc", Some("synchronized")).await;
    let state = site.emulator.state();
    assert_eq!(state.files.len(), 1, "{:#?}", state.files);
    let connections = state.connections.values();
    let held: usize = connections.map(|one| one.source_files.len()).sum();
    assert_eq!(held, 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_reason_is_cleared_by_the_step_that_succeeds() {
    let (site, folder) = site().await;
    site.emulator.fault(
        Fault::on("POST /storage/folders/*/files")
            .status(503)
            .times(1),
    );
    site.emulator.fail_run(itwin_syncd::emulator::RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(5000),
        ..Default::default()
    });
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    daemon.says("upload failed; trying again").await;
    status_is(&site, &daemon, "a.ifc", Some("in a run")).await;
    let file = site.status().await["north/a.ifc"].clone();
    assert!(
        file["reason"].is_null() && file["failure"].is_null(),
        "{file}"
    );
    daemon.stop().await;
}
