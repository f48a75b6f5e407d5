//! A folder that goes into several iModels: each file is uploaded once, and synchronized into each of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, RunFault, State};

use crate::support::{Daemon, Site, eventually, platform, sha256, write};

/// The second iModel.
const OTHER: &str = "0b0b0b0b-1111-4222-8333-444444444444";

/// The watch of the second iModel.
const FOLLOWER: &str = "north@0b0b0b0b";

const OTHER_ITWIN: &str = "77777777-1111-4222-8333-444444444444";

fn two_imodels() -> Builder {
    platform()
        .itwin(DEFAULT_ITWIN_ID, "Project")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "One")
        .imodel(OTHER, DEFAULT_ITWIN_ID, "Two")
}

/// A site with a watch for both iModels, and `count` files `0.ifc`, `1.ifc`, …
async fn site(builder: Builder, keys: &str, count: usize) -> (Site, PathBuf) {
    let mut site = Site::new(builder).await;
    "settle = \"300ms\"\nrescan_interval = \"500ms\"\npoll_interval = \"500ms\"\n"
        .clone_into(&mut site.top);
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    into_both(&mut site);
    for index in 0..count {
        let name = format!("{index}.ifc");
        write(&folder.join(&name), &format!("content of {name}"));
    }
    (site, folder)
}

fn into_both(site: &mut Site) {
    site.replace_in_watches(
        &format!("imodel_id = {DEFAULT_IMODEL_ID:?}"),
        &format!("imodel_id = [{DEFAULT_IMODEL_ID:?}, {OTHER:?}]"),
    );
}

/// The content that an iModel has from files that are mapped, by the path in storage.
fn contents(state: &State, imodel: &str) -> BTreeMap<String, String> {
    let contents = state.imodels[imodel]
        .contents
        .iter()
        .filter(|one| one.mapped);
    contents
        .map(|one| {
            let path = state.files[&one.storage_file_id].path.clone();
            (path, one.sha256.clone())
        })
        .collect()
}

/// What both iModels should have: each path with its content.
fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    let hashed = |(path, content): &(&str, &str)| {
        let path = (*path).to_owned();
        (path, sha256(content.as_bytes()))
    };
    files.iter().map(hashed).collect()
}

/// Waits until both iModels have just this, and the daemon says so.
async fn in_both(site: &Site, files: &[(&str, &str)], daemon: &Daemon) {
    let expected = expected(files);
    let has = || {
        let state = site.emulator.state();
        [DEFAULT_IMODEL_ID, OTHER]
            .iter()
            .all(|imodel| contents(&state, imodel) == expected)
    };
    eventually(has, || {
        let state = site.emulator.state();
        let found = [DEFAULT_IMODEL_ID, OTHER].map(|imodel| contents(&state, imodel));
        format!("{found:#?}\n{}", daemon.log())
    })
    .await;
}

/// How often bytes of any file arrived.
fn uploads(site: &Site) -> u32 {
    let state = site.emulator.state();
    state.files.values().map(|file| file.completions).sum()
}

fn runs(site: &Site) -> usize {
    site.emulator.state().runs.len()
}

#[tokio::test]
async fn a_file_is_uploaded_once_and_synchronized_into_each_imodel() {
    let (site, folder) = site(two_imodels(), "", 3).await;
    let daemon = site.start();
    site.synchronized(6, &daemon).await;
    let all = [
        ("0.ifc", "content of 0.ifc"),
        ("1.ifc", "content of 1.ifc"),
        ("2.ifc", "content of 2.ifc"),
    ];
    in_both(&site, &all, &daemon).await;
    assert_eq!((uploads(&site), runs(&site)), (3, 2), "{}", daemon.log());

    write(&folder.join("1.ifc"), "changed");
    let all = [all[0], ("1.ifc", "changed"), all[2]];
    in_both(&site, &all, &daemon).await;
    site.synchronized(6, &daemon).await;
    assert_eq!((uploads(&site), runs(&site)), (4, 4), "{}", daemon.log());

    let path = folder.join("1.ifc");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    for line in [
        format!("in iModel {OTHER}: synchronized"),
        "synchronized in 2 of 2 iModels".to_owned(),
    ] {
        assert!(explained.contains(&line), "no {line}: {explained}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_imodel_that_is_added_later_costs_no_upload() {
    let mut site = Site::new(two_imodels()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, "");
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;

    into_both(&mut site);
    let daemon = site.start();
    in_both(&site, &[("a.ifc", "a")], &daemon).await;
    site.synchronized(2, &daemon).await;
    assert_eq!((uploads(&site), runs(&site)), (1, 2), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn the_order_of_the_imodels_may_change_without_an_upload_or_a_run() {
    let (mut site, folder) = site(two_imodels(), "", 1).await;
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    site.replace_in_watches(
        &format!("[{DEFAULT_IMODEL_ID:?}, {OTHER:?}]"),
        &format!("[{OTHER:?}, {DEFAULT_IMODEL_ID:?}]"),
    );
    let daemon = site.start();
    write(&folder.join("new.ifc"), "new");
    in_both(
        &site,
        &[("0.ifc", "content of 0.ifc"), ("new.ifc", "new")],
        &daemon,
    )
    .await;
    site.synchronized(4, &daemon).await;
    assert_eq!((uploads(&site), runs(&site)), (2, 4), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn the_result_is_that_of_each_imodel() {
    let (site, folder) = site(two_imodels(), "", 1).await;
    site.emulator.fail_run(RunFault {
        imodel_id: OTHER.to_owned(),
        result: Some("Error".to_owned()),
        ..RunFault::default()
    });
    let daemon = site.start();
    let file = folder.join("0.ifc");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let files = site.status().await;
        let result = |watch: &str| {
            files
                .get(&format!("{watch}/0.ifc"))
                .map(|file| file["result"].clone())
        };
        let explained = site.run(&["explain", file.to_str().unwrap()]).await.out;
        if result("north").is_some_and(|result| result == "synchronized")
            && explained.contains("synchronized in 1 of 2 iModels")
            && daemon
                .log()
                .contains("it is tried again when the file changes")
        {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{files:#?}\n{explained}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
    assert_eq!(uploads(&site), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn imodels_of_different_itwins_get_an_upload_each() {
    let builder = platform()
        .itwin(DEFAULT_ITWIN_ID, "Project")
        .itwin(OTHER_ITWIN, "Other project")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "One")
        .imodel(OTHER, OTHER_ITWIN, "Two");
    let (site, folder) = site(builder, "", 2).await;
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    write(&folder.join("0.ifc"), "changed");
    in_both(
        &site,
        &[("0.ifc", "changed"), ("1.ifc", "content of 1.ifc")],
        &daemon,
    )
    .await;
    assert_eq!(uploads(&site), 6, "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_renamed_file_keeps_its_source_files_in_both_imodels() {
    let (site, folder) = site(two_imodels(), "", 2).await;
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    let sources = |site: &Site| {
        let state = site.emulator.state();
        let sources = state.connections.values().flat_map(|one| &one.source_files);
        let mut ids: Vec<String> = sources.map(|source| source.id.clone()).collect();
        ids.sort();
        ids
    };
    let before = sources(&site);
    std::fs::create_dir(folder.join("in")).unwrap();
    std::fs::rename(folder.join("0.ifc"), folder.join("in/new.ifc")).unwrap();
    let renamed = || {
        let state = site.emulator.state();
        state.files.values().any(|file| file.path == "in/new.ifc")
    };
    eventually(renamed, || daemon.log()).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let files = site.status().await;
        let results: Vec<_> = ["north", FOLLOWER]
            .iter()
            .map(|watch| {
                files
                    .get(&format!("{watch}/in/new.ifc"))
                    .map(|file| file["result"].clone())
            })
            .collect();
        if results
            .iter()
            .all(|result| result.as_ref().is_some_and(|result| result == "renamed"))
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
    assert_eq!(sources(&site), before);
    assert_eq!((uploads(&site), runs(&site)), (2, 2), "{}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_deleted_file_leaves_storage_when_no_imodel_has_it() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (site, folder) = site(two_imodels(), keys, 2).await;
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    std::fs::remove_file(folder.join("0.ifc")).unwrap();
    in_both(&site, &[("1.ifc", "content of 1.ifc")], &daemon).await;
    let deleted = || {
        let state = site.emulator.state();
        state
            .files
            .values()
            .any(|file| file.path == "0.ifc" && file.deleted)
    };
    eventually(deleted, || daemon.log()).await;
    let removals = site.requests("DELETE", "");
    let at = |words: &str| {
        let position =
            |request: &itwin_syncd::emulator::RequestRecord| request.path.contains(words);
        removals.iter().rposition(position)
    };
    assert!(at("sourcefiles") < at("/storage/files"), "{removals:#?}");
    write(&folder.join("0.ifc"), "back");
    in_both(
        &site,
        &[("0.ifc", "back"), ("1.ifc", "content of 1.ifc")],
        &daemon,
    )
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_deleted_file_leaves_storage_also_when_another_imodel_comes_first_meanwhile() {
    const THIRD: &str = "0c0c0c0c-1111-4222-8333-444444444444";
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let builder = two_imodels().imodel(THIRD, DEFAULT_ITWIN_ID, "Three");
    let (mut site, folder) = site(builder, keys, 2).await;
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    daemon.stop().await;
    std::fs::remove_file(folder.join("0.ifc")).unwrap();
    site.replace_in_watches(
        &format!("[{DEFAULT_IMODEL_ID:?}, {OTHER:?}]"),
        &format!("[{THIRD:?}, {DEFAULT_IMODEL_ID:?}, {OTHER:?}]"),
    );
    let daemon = site.start();
    let deleted = || {
        let state = site.emulator.state();
        let mut files = state.files.values();
        files.any(|file| file.path == "0.ifc" && file.deleted)
            && state.connections.len() == 3
            && state
                .connections
                .values()
                .all(|one| one.source_files.len() == 1)
    };
    eventually(deleted, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_storage_file_stays_until_it_is_detached_from_an_imodel_that_left_the_list() {
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"";
    let (mut site, folder) = site(two_imodels(), keys, 2).await;
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    daemon.stop().await;
    site.replace_in_watches(
        &format!("[{DEFAULT_IMODEL_ID:?}, {OTHER:?}]"),
        &format!("[{DEFAULT_IMODEL_ID:?}]"),
    );
    let daemon = site.start();
    std::fs::remove_file(folder.join("0.ifc")).unwrap();
    daemon.says("source file removed").await;
    daemon.says("synchronized=0").await;
    // The run has seen it: the storage file would be deleted within five seconds, or ten scans.
    let scans = || daemon.log().matches("scan finished").count();
    let before = scans();
    eventually(|| scans() > before + 20, || daemon.log()).await;
    let is_deleted = |site: &Site| {
        let state = site.emulator.state();
        state
            .files
            .values()
            .any(|file| file.path == "0.ifc" && file.deleted)
    };
    assert!(!is_deleted(&site), "{}", daemon.log());
    let detached = site
        .run(&["detach", "north", "--imodel", OTHER, "--yes"])
        .await;
    assert_eq!(detached.code, Some(0), "{detached:?}");
    eventually(|| is_deleted(&site), || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_name_of_a_watch_means_all_of_its_imodels() {
    let (site, folder) = site(two_imodels(), "", 1).await;
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let paused = site.run(&["pause", "north"]).await;
    assert!(paused.out.contains(FOLLOWER), "{paused:?}");
    let retried = site
        .run(&["retry", "--dry-run", folder.join("0.ifc").to_str().unwrap()])
        .await;
    assert!(retried.out.contains(FOLLOWER), "{retried:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn kills_at_any_time_neither_upload_nor_lose_anything_twice() {
    let (site, folder) = site(two_imodels(), "", 4).await;
    let mut changes = 4;
    for round in 0..8u64 {
        let daemon = site.start();
        write(
            &folder.join(format!("{}.ifc", round % 4)),
            &format!("round {round}"),
        );
        changes += 1;
        let requests = site.emulator.requests().len();
        let more = 10 + usize::try_from(round).unwrap() * 6;
        eventually(
            || {
                site.emulator.requests().len() > requests + more
                    || daemon.log().matches("run finished").count() > 1
            },
            || daemon.log(),
        )
        .await;
        daemon.kill().await;
    }
    let daemon = site.start();
    let all = [
        ("0.ifc", "round 4"),
        ("1.ifc", "round 5"),
        ("2.ifc", "round 6"),
        ("3.ifc", "round 7"),
    ];
    in_both(&site, &all, &daemon).await;
    site.synchronized(8, &daemon).await;
    let state = site.emulator.state();
    assert_eq!(state.files.len(), 4, "{:#?}", state.files);
    assert!(uploads(&site) <= changes + 8, "{}", daemon.log());
    for connection in state.connections.values() {
        assert_eq!(connection.source_files.len(), 4);
    }
    daemon.stop().await;
}
