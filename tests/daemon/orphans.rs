//! What no local file stands for any more: `orphans` lists it and cleans it up, `detach` takes it out of a former
//! iModel.

use std::path::Path;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID};
use serde_json::Value;

use crate::other_client::{OtherClient, shared_platform};
use crate::renames::held;
use crate::support::{Daemon, Site, eventually, platform, write};

/// A synchronized watch "north" with two files.
async fn synchronized(site: &Site, folder: &Path) -> Daemon {
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("in/b.ifc"), "b");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon
}

/// Deletes a file, and waits until that is confirmed.
async fn delete(site: &Site, folder: &Path, name: &str) {
    std::fs::remove_file(folder.join(name)).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while site.status().await[&format!("north/{name}")]["absence"] != "gone" {
        assert!(tokio::time::Instant::now() < deadline, "{name} is not gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The paths and states that `orphans --json` prints.
async fn listed(site: &Site, more: &[&str]) -> Vec<(String, String)> {
    let printed = site.run(&[&["orphans", "--json"], more].concat()).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let printed: Value = serde_json::from_str(&printed.out).unwrap();
    let orphans = printed["orphans"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    orphans
        .iter()
        .map(|orphan| (text(&orphan["path"]), text(&orphan["state"])))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let expected = expected.iter();
    expected
        .map(|(path, state)| ((*path).to_owned(), (*state).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_kept_file_is_cleaned_up_on_request_with_and_without_a_daemon() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = synchronized(&site, &folder).await;
    assert_eq!(listed(&site, &[]).await, []);
    delete(&site, &folder, "in/b.ifc").await;
    let shown = site.run(&["orphans"]).await;
    assert!(
        shown.out.contains("\"in/b.ifc\": gone since")
            && shown.out.contains("subject to on_delete; mapped in iModel")
            && shown.out.contains("1 orphan, 1 of them mapped"),
        "{shown:?}"
    );
    let before = held(&site);
    let refused = site.run(&["orphans", "--unmap"]).await;
    assert!(
        refused.code == Some(1) && refused.err.contains("--yes"),
        "{refused:?}"
    );
    assert_eq!(held(&site), before);

    let done = site.run(&["orphans", "--unmap", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let unmapped = held(&site);
    assert_eq!((unmapped.0.len(), unmapped.1.len()), (2, 1), "{done:?}");
    daemon.says("source file removed by the operator").await;
    daemon.stop().await;

    let done = site.run(&["orphans", "--remove", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(held(&site).0.keys().collect::<Vec<_>>(), ["a.ifc"]);
    assert_eq!(listed(&site, &[]).await, []);
    let history = site.run(&["status", "in/b.ifc"]).await.out;
    for line in [
        "source file removed by the operator",
        "storage file moved to the recycle bin by the operator",
    ] {
        assert!(history.contains(line), "{line}: {history}");
    }

    // The operator wants it back.
    let daemon = site.start();
    let restored = site.run(&["restore", "in/b.ifc"]).await;
    assert!(
        restored.out.contains("from the recycle bin"),
        "{restored:?}"
    );
    eventually(|| held(&site).1.len() == 2, || daemon.log()).await;
    assert_eq!(held(&site).0, before.0, "{}", daemon.log());
    daemon.says("run finished").await;
    daemon.stop().await;

    // It is removed again, and returns to its folder.
    let done = site.run(&["orphans", "--remove", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(held(&site).0.keys().collect::<Vec<_>>(), ["a.ifc"]);
    let daemon = site.start();
    write(&folder.join("in/b.ifc"), "b");
    eventually(|| held(&site).1.len() == 2, || daemon.log()).await;
    assert_eq!(held(&site).0, before.0, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn after_a_lost_ledger_and_a_removed_watch_what_is_left_is_found_by_the_folders() {
    let mut site = Site::new(platform()).await;
    let north = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"North\"");
    let south = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"");
    write(&north.join("a.ifc"), "a");
    write(&north.join("b.ifc"), "b");
    write(&south.join("c.ifc"), "c");
    let daemon = site.start();
    site.synchronized(3, &daemon).await;
    daemon.stop().await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    std::fs::remove_file(north.join("b.ifc")).unwrap();
    let refused = site.run(&["orphans", "--remove", "--yes"]).await;
    assert!(
        refused.code == Some(1)
            && refused
                .err
                .contains("2 watched files are not in storage yet"),
        "{refused:?}"
    );
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    assert_eq!(
        listed(&site, &[]).await,
        pairs(&[("North/b.ifc", "no_local_file")])
    );

    site.replace_in_watches("name = \"south\"", "name = \"east\"");
    let east = site.path("east");
    std::fs::create_dir(&east).unwrap();
    write(&east.join("d.ifc"), "d");
    site.replace_in_watches(south.to_str().unwrap(), east.to_str().unwrap());
    site.replace_in_watches("\"South\"", "\"East\"");
    let daemon = site.start();
    daemon.says("run finished").await;
    let expected = pairs(&[
        ("North/b.ifc", "no_local_file"),
        ("South/c.ifc", "watch_removed"),
    ]);
    assert_eq!(listed(&site, &["--remove", "--yes"]).await, expected);
    let (files, sources) = held(&site);
    let files: Vec<String> = files.into_keys().collect();
    assert_eq!(files, ["East/d.ifc", "North/a.ifc"]);
    assert_eq!(sources.len(), 2, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn what_others_put_into_our_folder_is_only_removed_if_it_is_named() {
    let (site, folder) = Site::with_folder(shared_platform()).await;
    let daemon = synchronized(&site, &folder).await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let theirs = other.stores("theirs").await;
    other.connects("theirs", &theirs).await.unwrap();
    let name = site.emulator.state().files[&theirs].path.clone();
    let done = site.run(&["orphans", "--remove", "--yes"]).await;
    assert!(
        done.code == Some(0)
            && done.out.contains("created by another client")
            && done.out.contains("not mapped")
            && done.out.contains("nothing to remove"),
        "{done:?}"
    );
    assert_eq!(held(&site).0.len(), 3);
    let done = site.run(&["orphans", "--remove", "--yes", &name]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(held(&site).0.len(), 2);
    // The connection of the other client is none of ours.
    assert_eq!(held(&site).1.len(), 3);
    daemon.stop().await;
}

#[tokio::test]
async fn an_empty_or_missing_folder_makes_no_orphans() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = synchronized(&site, &folder).await;
    daemon.stop().await;
    let elsewhere = site.path("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    let before = held(&site);
    for expected in ["unavailable", "there is no file in it"] {
        let refused = site.run(&["orphans", "--remove", "--yes"]).await;
        assert!(
            refused.code == Some(1)
                && refused.err.contains("folder of watch \"north\"")
                && refused.err.contains(expected),
            "{refused:?}"
        );
        assert_eq!(held(&site), before);
        let _exists_from_now_on = std::fs::create_dir(&folder);
    }
}

#[tokio::test]
async fn source_files_stay_while_a_run_of_the_imodel_is_active() {
    let builder = shared_platform().run_duration(Duration::from_secs(3));
    let (site, folder) = Site::with_folder(builder).await;
    let daemon = synchronized(&site, &folder).await;
    delete(&site, &folder, "a.ifc").await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let theirs = other.stores("theirs").await;
    let connection = other.connects("theirs", &theirs).await.unwrap();
    assert!(other.runs(&connection).await);
    let done = site.run(&["orphans", "--unmap", "--yes", "a.ifc"]).await;
    assert!(
        done.code == Some(0) && done.out.contains("waiting for the active run"),
        "{done:?}"
    );
    let state = site.emulator.state();
    let mut runs = state.runs.values();
    let run = runs.find(|run| run.connection_id == connection).unwrap();
    assert_eq!(run.state, "Completed", "{done:?}");
    assert_eq!(held(&site).1.len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn detach_takes_the_files_of_a_watch_out_of_its_former_imodel() {
    const OTHER: &str = "0ddba11c-1234-4abc-8def-0123456789ab";
    let builder = platform()
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "First")
        .imodel(OTHER, DEFAULT_ITWIN_ID, "Other");
    let (mut site, folder) = Site::with_folder(builder).await;
    let daemon = synchronized(&site, &folder).await;
    let detach = ["detach", "north", "--imodel", DEFAULT_IMODEL_ID];
    let in_use = site.run(&detach).await;
    assert!(
        in_use.code == Some(1) && in_use.err.contains("goes into"),
        "{in_use:?}"
    );
    daemon.stop().await;
    site.replace_in_watches(DEFAULT_IMODEL_ID, OTHER);
    let early = site.run(&detach).await;
    assert!(
        early.code == Some(1) && early.err.contains("has left no"),
        "{early:?}"
    );
    let daemon = site.start();
    eventually(|| held(&site).1.len() == 4, || daemon.log()).await;
    site.synchronized(2, &daemon).await;
    let plan = site.run(&[&detach[..], &["--dry-run"]].concat()).await;
    assert!(plan.out.contains("would remove 2 source files"), "{plan:?}");
    let done = site.run(&[&detach[..], &["--yes"]].concat()).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let state = site.emulator.state();
    for connection in state.connections.values() {
        let expected = if connection.imodel_id == OTHER { 2 } else { 0 };
        assert_eq!(connection.source_files.len(), expected, "{connection:?}");
    }
    assert_eq!(held(&site).0.len(), 2);
    eventually(
        || {
            daemon
                .log()
                .matches("source file removed by the operator")
                .count()
                == 2
        },
        || daemon.log(),
    )
    .await;
    let status = site.run(&["status"]).await;
    assert!(!status.out.contains("detach"), "{status:?}");
    let history = site.run(&["status", "a.ifc"]).await.out;
    assert!(
        history.contains("source file removed by the operator"),
        "{history}"
    );
    daemon.stop().await;
}
