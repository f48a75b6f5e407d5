//! The commands of an operator in the terminal.

use std::os::unix::fs::PermissionsExt as _;

use itwin_syncd::emulator::{Fault, TaskFault};

use crate::support::{Site, eventually, platform, write};

/// The connector refuses this file once.
fn refused_once(site: &Site, file: &str) {
    site.emulator.fail_task(TaskFault {
        file: file.to_owned(),
        result: "Failed".to_owned(),
        error: None,
        report: None,
        count: Some(1),
    });
}

async fn fails(site: &Site, path: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let output = site.status().await;
        if output
            .get(path)
            .is_some_and(|file| file["state"] == "failed")
        {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{output:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn retry_starts_a_failed_file_at_once() {
    let (site, folder) = Site::with_folder(platform()).await;
    refused_once(&site, "house.ifc");
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    fails(&site, "north/house.ifc").await;
    fails(&site, "north/empty.ifc").await;
    let puts = site.requests("PUT", "").len();
    let shown = site.run(&["retry", "--dry-run", "house.*"]).await;
    assert!(shown.out.contains("would retry 1 file"), "{shown:?}");
    assert_eq!(site.status().await["north/house.ifc"]["state"], "failed");
    let asked = site.run(&["retry", "house.*"]).await;
    assert!(asked.out.contains("retrying 1 file"), "{asked:?}");
    write(&folder.join("empty.ifc"), "not any more");
    site.synchronized(2, &daemon).await;
    assert_eq!(
        site.requests("PUT", "").len(),
        puts + 1,
        "what storage has is not sent again"
    );
    let story = site.run(&["status", "house.ifc"]).await.out;
    let output: Vec<usize> = [
        "version 1 queued",
        "uploaded to storage",
        "run requested",
        "run ended",
        "  failed",
        "reason:",
        "retry requested",
        "  synchronized,",
    ]
    .iter()
    .map(|part| {
        story
            .rfind(part)
            .unwrap_or_else(|| panic!("no {part}: {story}"))
    })
    .collect();
    // The second run is reported after the request.
    assert!(
        output[4] < output[6] && output[6] < output[3] && output[3] < output[7],
        "{story}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn commands_without_a_daemon_take_effect_at_the_next_start() {
    let (site, folder) = Site::with_folder(platform()).await;
    refused_once(&site, "house.ifc");
    write(&folder.join("house.ifc"), "house");
    let missing = site.run(&["retry", "--failed"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(!site.path("state").exists(), "an act begins no ledger");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(1));
    let asked = site.run(&["retry", "--failed"]).await;
    assert!(asked.out.contains("when the daemon starts"), "{asked:?}");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
}

#[tokio::test]
async fn status_of_several_files_shows_the_known_ones_and_fails_for_failed_and_unknown_ones() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(1));
    let known = site.run(&["status", "house.ifc"]).await;
    assert_eq!(known.code, Some(0), "{known:?}");
    let failed = site.run(&["status", "house.ifc", "empty.ifc"]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let some = site.run(&["status", "absent.ifc", "house.ifc"]).await;
    assert_eq!(some.code, Some(1), "{some:?}");
    assert!(some.out.contains("\"house.ifc\"  synchronized"), "{some:?}");
    assert!(some.err.contains("\"absent.ifc\""), "{some:?}");
}

#[tokio::test]
async fn status_shows_the_running_daemon_although_the_configuration_has_errors() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    site.top += "setle = \"1s\"\n";
    let status = site.run(&["status"]).await;
    assert_eq!(status.code, Some(78), "{status:?}");
    assert!(status.err.contains("setle"), "{status:?}");
    assert!(status.out.contains(" is running, started "), "{status:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_paused_watch_takes_no_new_work_over_a_restart_until_it_is_resumed() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    let paused = site.run(&["pause", "nor*"]).await;
    assert!(paused.out.contains("north: paused"), "{paused:?}");
    write(&folder.join("house.ifc"), "house");
    let waits = || async { site.status().await.contains_key("north/house.ifc") };
    while !waits().await {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    daemon.stop().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    write(&folder.join("other.ifc"), "other");
    while site.status().await.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let status = site.run(&["status"]).await.out;
    assert!(
        status.contains("  paused ") && status.contains("2 waiting"),
        "{status}"
    );
    assert!(site.requests("PUT", "").is_empty(), "nothing was sent");
    let resumed = site.run(&["resume"]).await;
    assert!(resumed.out.contains("north: resumed"), "{resumed:?}");
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_suspended_watch_continues_after_resume() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[bulk_change]\nmax_files = 3\n";
    for n in 0..5 {
        write(&folder.join(format!("{n}.ifc")), "first");
    }
    let daemon = site.start();
    site.synchronized(5, &daemon).await;
    daemon.stop().await;
    for n in 0..5 {
        write(&folder.join(format!("{n}.ifc")), "second");
    }
    let daemon = site.start();
    daemon.says("watch suspended").await;
    let resumed = site.run(&["resume", "north"]).await;
    assert!(resumed.out.contains("resumed"), "{resumed:?}");
    let all_again = || (0..5).all(|n| site.stored(&format!("{n}.ifc")).completions == 2);
    eventually(all_again, || daemon.log()).await;
    site.synchronized(5, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn too_many_new_files_suspend_a_watch_that_has_its_first_files() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[bulk_change]\nmax_new_files = 3\n";
    for n in 0..5 {
        write(&folder.join(format!("{n}.ifc")), &format!("first {n}"));
    }
    let daemon = site.start();
    site.synchronized(5, &daemon).await;
    let scans = || daemon.log().matches("scan finished").count();
    let before = scans();
    site.run(&["rescan"]).await;
    eventually(|| scans() > before, || daemon.log()).await;
    for n in 5..10 {
        write(&folder.join(format!("{n}.ifc")), &format!("copied {n}"));
    }
    daemon.says("too many new files within an hour").await;
    let status = site.run(&["status"]).await.out;
    assert!(
        status.contains("new files arrived within an hour (limit 3)"),
        "{status}"
    );
    let resumed = site.run(&["resume", "north"]).await;
    assert!(resumed.out.contains("resumed"), "{resumed:?}");
    site.synchronized(10, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn rescan_scans_the_whole_folder_at_once() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += "rescan_interval = \"1h\"\n";
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let scans = || daemon.log().matches("scan finished").count();
    let before = scans();
    let asked = site.run(&["rescan"]).await;
    assert!(asked.out.contains("scan started"), "{asked:?}");
    eventually(|| scans() > before, || daemon.log()).await;
    let unknown = site.run(&["rescan", "south"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.contains("configured watches: north"),
        "{unknown:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn the_control_socket_is_for_user_and_group_and_removed_at_a_graceful_stop() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let socket = site.path("state/control.sock");
    let daemon = site.start();
    // It is there a moment after the start.
    site.shows("is running", &daemon).await;
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    daemon.kill().await;
    assert!(socket.exists(), "a killed one leaves it");
    let output = site.run(&["status"]).await.out;
    assert!(output.contains("not running"), "{output}");
    let daemon = site.start();
    site.shows("is running", &daemon).await;
    daemon.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_upload_in_progress_is_shown_with_percent_and_rate() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator.fault(Fault::on("PUT *").slow(300_000));
    std::fs::write(folder.join("large.rvt"), vec![7; 30_000_000]).unwrap();
    let daemon = site.start();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut output = String::new();
    while !(output.contains("░") && output.contains("% of 28.6 MiB")) {
        assert!(tokio::time::Instant::now() < deadline, "{output}");
        output = site.run(&["status"]).await.out;
    }
    daemon.kill().await;
}

#[tokio::test]
async fn explain_names_the_rule_and_what_to_do_with_the_daemon_or_without() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.replace_in_watches("\n\n", "\nexclude = [\"/Archive/\"]\n\n");
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("Archive/old.ifc"), "old");
    write(&folder.join("bundle.zip"), "bundle");
    write(&folder.join("list.xlsx"), "list");
    let check = async |path: &str, code: i32, parts: &[&str]| {
        let path = folder.join(path).display().to_string();
        let output = site.run(&["explain", &path]).await;
        assert_eq!(output.code, Some(code), "{output:?}");
        for part in parts {
            assert!(output.out.contains(part), "no {part}: {output:?}");
        }
    };
    check(
        "house.ifc",
        0,
        &[
            "selected for synchronization",
            "connector IFC: usual for \"ifc\"",
            "which is not running",
        ],
    )
    .await;
    check(
        "bundle.zip",
        0,
        &[
            "connector SPPID: a guess for \"zip\": any archive",
            "confirm it with connectors = { zip = \"SPPID\" }",
        ],
    )
    .await;
    check("list.xlsx", 0, &["warning: PSEXCEL is retired"]).await;
    check("Archive/old.ifc", 1, &["exclude has \"/Archive/\""]).await;
    check("house.ifc.bak", 1, &["not selected: ignored", "built-in"]).await;
    check("notes.txt", 1, &["no connector"]).await;
    check("../elsewhere.ifc", 1, &["not in a watched folder"]).await;
    check("a:b.ifc", 1, &["not synchronized now", "reason: the name"]).await;
    let daemon = site.start();
    site.synchronized(3, &daemon).await;
    check("house.ifc", 0, &["state: synchronized"]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_done_and_changes_nothing() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("notes.txt"), "notes");
    let planned = site.run(&["run", "--dry-run"]).await;
    assert_eq!(planned.code, Some(0), "{planned:?}");
    assert!(
        planned
            .out
            .contains("\"house.ifc\"  5 B  upload, then synchronize with IFC"),
        "{planned:?}"
    );
    assert!(planned.out.contains("1 ignored"), "{planned:?}");
    assert!(site.emulator.requests().is_empty());
    assert!(!site.path("state").exists());
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    write(&folder.join("house.ifc"), "another house");
    write(&folder.join("empty.ifc"), "");
    let planned = site.run(&["run", "--dry-run"]).await;
    assert_eq!(planned.code, Some(1), "one would fail: {planned:?}");
    assert!(planned.out.contains("changed "), "{planned:?}");
    assert!(
        planned.out.contains("will fail: the file is empty"),
        "{planned:?}"
    );
}

/// The keys of the object, and of all objects in it, without its files' own.
fn keys(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_field_of_the_json_output_is_documented() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    fails(&site, "north/empty.ifc").await;
    daemon.says("file synchronized").await;
    let output = site.run(&["status", "--json"]).await;
    let failed: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    let listed = failed["files"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{failed:#}");
    assert_eq!(listed[0]["path"], "empty.ifc");
    let output = site.run(&["status", "--json", "--all"]).await;
    let status: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(status["files"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!(status["version"], 1);
    assert!(status["daemon"]["pid"].is_u64(), "{status:#}");
    let output = site.run(&["status", "--json", "*.ifc"]).await;
    let stories: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(stories["files"].as_array().unwrap().len(), 2, "{stories:#}");
    daemon.stop().await;
    let mut found = std::collections::BTreeSet::new();
    keys(&status, &mut found);
    keys(&stories, &mut found);
    let documentation = include_str!("../../docs/status.md");
    let missing: Vec<_> = found
        .iter()
        .filter(|key| !documentation.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "not in docs/status.md: {missing:?}");
}

#[tokio::test]
async fn retry_ends_the_backoff_of_the_synchronizer_as_well() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables = site.tables.replace(
        "first_delay = \"200ms\"\nmax_delay = \"2s\"",
        "first_delay = \"1h\"\nmax_delay = \"1h\"",
    );
    site.emulator.fault(
        Fault::on("POST /synchronization/imodels/storageConnections/*/run")
            .status(403)
            .times(1),
    );
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("cannot request a run").await;
    fails(&site, "north/house.ifc").await;
    let asked = site.run(&["retry", "house.ifc"]).await;
    assert!(asked.out.contains("retrying 1 file"), "{asked:?}");
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}
