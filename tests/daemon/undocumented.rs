//! What the platform's documentation leaves open: the daemon comes to the same end whichever way the platform leans.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault, Switches};
use itwin_syncd::emulator::{LockedFile, UpdateBlob};

use super::common::Azurite;
use super::support::{Site, assert_in_imodel, eventually, platform, sha256, write};

/// New files, a new folder, an answer that gets lost at each step that creates something, a run of another client,
/// new content, a restart: everything that what is open could change.
async fn whole_story(switches: Switches, what: &str) {
    let (site, folder) = Site::with_folder(platform().switches(switches)).await;
    for route in [
        "POST /storage/folders/*/files",
        "POST /storage/folders/*/folders",
        "POST /storage/files/*/complete",
        "POST /synchronization/imodels/storageConnections",
        "POST */run",
    ] {
        site.emulator
            .fault(Fault::on(route).reset().after_effect().times(1));
    }
    let foreign = Duration::from_millis(800);
    drop(site.emulator.start_foreign_run(DEFAULT_IMODEL_ID, foreign));
    write(&folder.join("first.ifc"), "first");
    write(&folder.join("inner/second.ifc"), "second");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    write(&folder.join("first.ifc"), "first, changed");
    let daemon = site.start();
    let changed = sha256(b"first, changed");
    let stored = || {
        let state = site.emulator.state();
        let mut completed = state
            .files
            .values()
            .filter_map(|file| file.completed.as_ref());
        completed.any(|completed| completed.sha256 == changed)
    };
    eventually(stored, || format!("{what}: {}", daemon.log())).await;
    site.synchronized(2, &daemon).await;
    let (_, log) = daemon.stop().await;
    let mut state = site.emulator.state();
    // A lost answer may leave a file that nobody can find again, and that has no content.
    state.files.retain(|_, file| file.completed.is_some());
    let expected = [
        ("first.ifc", "first, changed"),
        ("inner/second.ifc", "second"),
    ];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.to_owned()));
    // Says which one, if it fails.
    let judged = std::panic::catch_unwind(|| assert_in_imodel(&state, &BTreeMap::from(expected)));
    assert!(judged.is_ok(), "{what}: {log}");
    assert!(!log.contains("panicked"), "{what}: {log}");
}

#[tokio::test]
async fn every_undocumented_behavior_of_the_platform_is_handled() {
    let mut leanings = Vec::new();
    for (name, words) in Switches::ALL {
        for word in words.iter().skip(1) {
            let mut switches = Switches::default();
            switches.set(name, word).unwrap();
            leanings.push((switches, format!("{name}={word}")));
        }
    }
    let stories = leanings.into_iter().map(|(switches, what)| async move {
        whole_story(switches, &what).await;
    });
    futures_util::stream::iter(stories)
        .buffer_unordered(12)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn a_locked_file_is_reported_and_uploaded_when_it_is_unlocked() {
    for leaning in [LockedFile::Conflict, LockedFile::Forbidden] {
        let mut switches = Switches::default();
        switches.locked_file = leaning;
        switches.update_blob = UpdateBlob::Same;
        let (site, folder) = Site::with_folder(platform().switches(switches)).await;
        write(&folder.join("house.ifc"), "one");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let id = site.stored("house.ifc").id;
        let lock = format!("{}/_emulator/lock?file={id}", site.emulator.api_url());
        let http = reqwest::Client::new();
        assert!(http.post(&lock).send().await.unwrap().status().is_success());
        write(&folder.join("house.ifc"), "two, longer");
        daemon.says("upload failed").await;
        assert!(daemon.log().contains("locked"), "{}", daemon.log());
        assert!(
            http.post(format!("{lock}&locked=false"))
                .send()
                .await
                .unwrap()
                .status()
                .is_success()
        );
        let taken = || site.stored("house.ifc").completions == 2;
        eventually(taken, || daemon.log()).await;
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs Azurite: run tests/all"]
async fn the_main_workflow_works_with_azurite_as_blob_storage() {
    let azurite = Azurite::start().await;
    let (mut site, folder) = Site::with_folder(platform().azurite(&azurite.url)).await;
    site.tables += "[upload]\nblock_size = \"256KiB\"\nmemory = \"2MiB\"\n";
    let large = "0123456789abcdef".repeat(200_000);
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("inner/large.ifc"), &large);
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let larger = large.clone() + "more";
    write(&folder.join("inner/large.ifc"), &larger);
    let current = || site.stored("inner/large.ifc").completions == 2;
    eventually(current, || daemon.log()).await;
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    let expected = [("house.ifc", "house"), ("inner/large.ifc", larger.as_str())];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_in_imodel(&site.emulator.state(), &BTreeMap::from(expected));
}
