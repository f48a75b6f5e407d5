//! Masters and references: few files of a folder become source files, the others are stored for them to refer to.

use std::path::Path;

use super::support::{Daemon, Site, eventually, platform, write};
use itwin_syncd::emulator::DEFAULT_IMODEL_ID;

const MASTERS: &str = "masters = [\"*_MASTER.dgn\"]\n";

/// Writes masters and references, the references in a folder of their own.
fn tree(folder: &Path, masters: usize, references: usize) {
    for number in 0..masters {
        write(&folder.join(format!("{number}_MASTER.dgn")), "master");
    }
    for number in 0..references {
        write(&folder.join(format!("Refs/{number}.dgn")), "reference");
    }
}

/// The names of the source files of all connections, in order.
fn mapped(site: &Site) -> Vec<String> {
    let state = site.emulator.state();
    let connections = state.connections.values();
    let mut names: Vec<String> = connections
        .flat_map(|connection| &connection.source_files)
        .map(|source| state.files[&source.storage_file_id].path.clone())
        .collect();
    names.sort();
    names
}

fn stored(site: &Site) -> usize {
    let state = site.emulator.state();
    let files = state.files.values();
    files.filter(|file| file.completed.is_some()).count()
}

/// How often content was sent.
fn uploads(site: &Site) -> usize {
    site.requests("PUT", "").len()
}

fn ended_runs(site: &Site) -> usize {
    let state = site.emulator.state();
    let runs = state.runs.values();
    runs.filter(|run| run.state == "Completed").count()
}

/// Waits until everything is stored and every source file synchronized, and returns the number of runs.
async fn at_rest(site: &Site, daemon: &Daemon, files: usize, masters: usize) -> usize {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let status = site.status().await;
        let with = |word: &str| {
            status
                .values()
                .filter(|file| file["result"] == word)
                .count()
        };
        let open = status
            .values()
            .filter(|file| file["state"] != "done")
            .count();
        if open == 0
            && with("synchronized") == masters
            && stored(site) == files
            && site.emulator.state().runs.len() == ended_runs(site)
        {
            return ended_runs(site);
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{open} open, {} stored: {status:#?}\n{}",
            stored(site),
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

#[tokio::test]
async fn of_three_hundred_files_only_the_masters_become_source_files() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, MASTERS);
    tree(&folder, 3, 297);
    let daemon = site.start();
    at_rest(&site, &daemon, 300, 3).await;
    assert_eq!(
        mapped(&site),
        ["0_MASTER.dgn", "1_MASTER.dgn", "2_MASTER.dgn"]
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_changed_reference_leads_to_one_run_that_the_history_of_the_masters_names() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, MASTERS);
    tree(&folder, 2, 2);
    let daemon = site.start();
    let before = at_rest(&site, &daemon, 4, 2).await;
    write(&folder.join("Refs/1.dgn"), "another reference");
    let entry = "a reference changed: \"Refs/1.dgn\"";
    for master in ["0_MASTER.dgn", "1_MASTER.dgn"] {
        let path = folder.join(master);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let history = site.run(&["status", path.to_str().unwrap()]).await;
            if history.out.matches(entry).count() == 1 {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{history:?}");
        }
    }
    assert_eq!(at_rest(&site, &daemon, 4, 2).await, before + 1);
    daemon.stop().await;
}

#[tokio::test]
async fn masters_can_change_without_another_upload_and_without_stale_source_files() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    tree(&folder, 2, 2);
    let daemon = site.start();
    at_rest(&site, &daemon, 4, 4).await;
    let before = uploads(&site);

    // Fewer source files.
    site.replace_in_watches("imodel_id", "masters = [\"0_MASTER.dgn\"]\nimodel_id");
    site.config();
    daemon.signal("HUP");
    eventually(|| mapped(&site) == ["0_MASTER.dgn"], || daemon.log()).await;
    daemon.says("the configuration makes it a reference").await;

    // A reference becomes a master.
    site.replace_in_watches("0_MASTER.dgn", "?_MASTER.dgn");
    site.config();
    daemon.signal("HUP");
    let both = || mapped(&site) == ["0_MASTER.dgn", "1_MASTER.dgn"];
    eventually(both, || daemon.log()).await;
    at_rest(&site, &daemon, 4, 2).await;
    assert_eq!(uploads(&site), before, "nothing is uploaded again");

    // A mistake that leaves none.
    site.replace_in_watches("?_MASTER.dgn", "MASTER_?.dgn");
    site.config();
    daemon.signal("HUP");
    daemon.says("no source file of their watch is left").await;
    assert_eq!(mapped(&site), ["0_MASTER.dgn", "1_MASTER.dgn"]);
    daemon.stop().await;
}

#[tokio::test]
async fn the_advice_of_a_full_imodel_ends_the_failure() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables = site.tables.replace("\"2s\"", "\"1h\"");
    tree(&folder, 0, 250);
    write(&folder.join("z_MASTER.dgn"), "master");
    let daemon = site.start();
    let full = || mapped(&site).len() == 250;
    eventually(full, || daemon.log()).await;
    daemon.says("as many source files as it accepts, 250").await;
    let counted = async || {
        let shown = site.run(&["status"]).await.out;
        shown.contains("251 source files needed, but an iModel accepts 250")
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !counted().await {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
    }
    let status = site.status().await;
    let failed = status.values().filter(|file| file["state"] == "failed");
    assert_eq!(failed.count(), 1, "{status:#?}");

    site.replace_in_watches("imodel_id", &format!("{MASTERS}imodel_id"));
    site.config();
    daemon.signal("HUP");
    eventually(|| mapped(&site) == ["z_MASTER.dgn"], || daemon.log()).await;
    at_rest(&site, &daemon, 251, 1).await;
    let shown = site.run(&["status"]).await.out;
    assert!(shown.contains("iModel  1 source file\n"), "{shown}");
    daemon.stop().await;
}

#[tokio::test]
async fn check_and_dry_run_count_source_files_of_all_watches() {
    let mut site = Site::new(platform()).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"north\"");
    let south = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"south\"");
    tree(&north, 200, 0);
    write(&north.join("list.xlsx"), "list");
    tree(&south, 3, 96);
    let too_many = "300 source files needed, but an iModel accepts 250";
    for command in [&["check"][..], &["run", "--dry-run"]] {
        let ended = site.run(command).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.out.contains(too_many), "{ended:?}");
        assert!(
            ended.out.contains("hint: list the master files in masters"),
            "{ended:?}"
        );
    }
    site.replace_in_watches(
        "storage_folder = \"south\"",
        &format!("storage_folder = \"south\"\n{MASTERS}"),
    );
    let ended = site.run(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "ok      watch \"south\": 3 source files, 96 only stored\n",
        "note    watch \"north\": 1 xlsx file uses PSEXCEL, which is retired\n",
        "204 source files, of 250 that an iModel accepts\n",
    ] {
        assert!(ended.out.contains(line), "{line}: {ended:?}");
    }
    site.replace_in_watches("*_MASTER", "*_MASTR");
    let ended = site.run(&["check"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let none = "FAILED  watch \"south\": 0 source files, 99 only stored: no file matches masters\n";
    assert!(ended.out.contains(none), "{ended:?}");
}
