//! `status` with many failures: groups, lists, exit codes; and `explain` of a folder.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Site, platform, write};

/// A site with files that failed for two reasons, without a daemon.
async fn site_with_failures() -> (Site, std::path::PathBuf) {
    let (site, folder) = Site::with_folder(platform()).await;
    for name in ["a.ifc", "b.ifc", "plans/c.ifc"] {
        write(&folder.join(name), "");
    }
    write(&folder.join("odd:1.ifc"), "odd");
    write(&folder.join("good.ifc"), "good");
    site.run(&["run", "--once"]).await;
    (site, folder)
}

async fn json(site: &Site, arguments: &[&str]) -> Value {
    let mut all = vec!["status", "--json"];
    all.extend(arguments);
    let printed = site.run(&all).await.out;
    serde_json::from_str(&printed).unwrap()
}

#[tokio::test]
async fn failures_are_grouped_by_their_reason_and_one_command_retries_a_group() {
    let (site, folder) = site_with_failures().await;
    let status = json(&site, &[]).await;
    let group = &status["failure_groups"][0];
    assert_eq!(group["text"], "3 files: it is empty", "{status:#}");
    assert_eq!(status["failure_groups"][1]["files"], 1, "{status:#}");
    let key = group["key"].as_str().unwrap();
    let of_group = |file: &&Value| file["failure_group"] == key;
    let files = status["files"].as_array().unwrap();
    assert_eq!(files.iter().filter(of_group).count(), 3, "{files:#?}");
    let preview = site.run(&["retry", "--group", key, "--dry-run"]).await;
    assert!(preview.out.contains("would retry 3 files"), "{preview:?}");
    let daemon = site.start();
    daemon.says("scan finished").await;
    for name in ["a.ifc", "b.ifc", "plans/c.ifc"] {
        write(&folder.join(name), "content");
    }
    // Only the other group is left.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let other = loop {
        let status = json(&site, &[]).await;
        let groups = status["failure_groups"].as_array().unwrap();
        if let [other] = groups.as_slice() {
            break other["key"].as_str().unwrap().to_owned();
        }
        assert!(tokio::time::Instant::now() < deadline, "{status:#}");
    };
    let other = other.as_str();
    let retried = site.run(&["retry", "--group", other]).await;
    assert!(retried.out.contains("retrying 1 file"), "{retried:?}");
    let over = site.run(&["retry", "--group", key]).await;
    assert_eq!(over.code, Some(1), "{over:?}");
    assert!(over.err.contains("no failures have the group"), "{over:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn status_lists_files_by_watch_state_and_text_page_by_page() {
    let (site, _folder) = site_with_failures().await;
    let listed = async |arguments: &[&str]| {
        let status = json(&site, arguments).await;
        let files = status["files"].as_array().unwrap().iter();
        let paths: Vec<_> = files.map(|file| file["path"].as_str().unwrap()).collect();
        format!("{} of {}", paths.join(" "), status["files_found"])
    };
    for (arguments, expected) in [
        (&["--failed", "--limit", "2"][..], "a.ifc b.ifc of 4"),
        (
            &["--failed", "--limit", "2", "--offset", "2"],
            "odd:1.ifc plans/c.ifc of 4",
        ),
        (
            &["north", "--failed", "--search", "PLANS/"],
            "plans/c.ifc of 1",
        ),
        (&["--search", "it is empty", "--limit", "1"], "a.ifc of 3"),
        (&["--search", "good"], "good.ifc of 1"),
        (
            &["--all", "--failed"],
            "a.ifc b.ifc odd:1.ifc plans/c.ifc of null",
        ),
    ] {
        assert_eq!(listed(arguments).await, expected, "{arguments:?}");
    }
    let text = site
        .run(&["status", "north", "--failed", "--limit", "1"])
        .await
        .out;
    assert!(
        text.contains("1 to 1 of 4; continue with --offset 1"),
        "{text}"
    );
    let of_watch = site.run(&["status", "north"]).await.out;
    assert!(of_watch.contains("3 files: it is empty"), "{of_watch}");
    let unknown = site.run(&["status", "nroth", "--failed"]).await;
    assert!(
        unknown.err.contains("configured watches: north"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn exit_codes_of_status_tell_a_failure_from_a_daemon_that_is_not_running() {
    let (site, folder) = Site::with_folder(platform()).await;
    let code = async |arguments: &[&str]| site.run(arguments).await.code;
    let exit_code = &["status", "--exit-code"][..];
    assert_eq!(code(exit_code).await, Some(4), "without a ledger");
    write(&folder.join("good.ifc"), "good");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(code(exit_code).await, Some(0));
    write(&folder.join("empty.ifc"), "");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while code(exit_code).await != Some(1) {
        assert!(tokio::time::Instant::now() < deadline);
    }
    daemon.stop().await;
    assert_eq!(code(exit_code).await, Some(3));
    assert_eq!(code(&["status"]).await, Some(1));
}

#[tokio::test]
async fn explain_counts_the_files_of_a_folder_and_lists_what_is_ignored() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.add_to_watches("exclude = [\"/Old/\"]\n");
    for name in [
        "a.ifc",
        "notes.txt",
        "Old/b.ifc",
        "plans/c.ifc",
        "plans/d.dwl",
    ] {
        write(&folder.join(name), name);
    }
    write(&folder.join("plans/empty.ifc"), "");
    site.run(&["run", "--once"]).await;
    let all = site.run(&["explain", folder.to_str().unwrap()]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    for part in [
        "folder with 3 selected files",
        "on disk: 3 files for synchronization, 0 for upload only, 2 ignored",
        "state: 2 synchronized, 1 failed",
        "ignored, no connector for its extension: 1 file\n    \"notes.txt\"",
        "ignored, exclude has \"/Old/\": 1 folder with all files in it\n    \"Old\"",
        "\"plans/d.dwl\"",
    ] {
        assert!(all.out.contains(part), "no {part}: {}", all.out);
    }
    let plans = folder.join("plans");
    let part = site.run(&["explain", plans.to_str().unwrap()]).await.out;
    assert!(part.contains("state: 1 failed, 1 synchronized"), "{part}");
    assert!(!part.contains("notes.txt"), "{part}");
    let old = folder.join("Old");
    let old = site.run(&["explain", old.to_str().unwrap()]).await;
    assert!(
        old.out.contains("not selected: ignored, exclude has"),
        "{old:?}"
    );
    assert_eq!(old.code, Some(1), "{old:?}");
}
