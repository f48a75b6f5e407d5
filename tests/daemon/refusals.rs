//! What is final stops that file, that folder or that iModel only, and says what to do.

use std::collections::BTreeMap;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, TaskFault};

use crate::support::{Site, assert_in_imodel, eventually, platform, sha256, write};

#[tokio::test]
async fn a_wrong_secret_is_reported_without_being_shown_and_nothing_is_lost() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.secret = "wrong+secret/lion=".to_owned();
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("invalid_client").await;
    let (status, log) = daemon.stop().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        log.contains("client secret") && !log.contains("lion"),
        "{log}"
    );
    let output = site.status().await;
    let file = &output["north/house.ifc"];
    assert_eq!(file["state"], "failed", "{file:#?}");
    assert!(
        file["reason"].as_str().unwrap().contains("invalid_client"),
        "{file:#?}"
    );
    assert!(file["next_attempt"].is_string(), "{file:#?}");
    assert!(site.requests("POST", "/files").is_empty());

    crate::support::SECRET.clone_into(&mut site.secret);
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_missing_permission_names_the_user_to_add_and_delays_no_other_imodel() {
    const CLOSED: &str = "dddddddd-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let builder = platform()
        .itwin(DEFAULT_ITWIN_ID, "Project")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Open")
        .imodel(CLOSED, DEFAULT_ITWIN_ID, "Closed")
        .forbidden_imodel(CLOSED);
    let mut site = Site::new(builder).await;
    let open = site.watch("open", DEFAULT_IMODEL_ID, "storage_folder = \"open\"");
    let closed = site.watch("closed", CLOSED, "storage_folder = \"closed\"");
    write(&open.join("a.ifc"), "a");
    write(&closed.join("b.ifc"), "b");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let output = site.status().await;
    assert_eq!(
        output["open/a.ifc"]["result"], "synchronized",
        "{output:#?}"
    );
    let refused = &output["closed/b.ifc"];
    assert_eq!(refused["state"], "failed", "{refused:#?}");
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("InsufficientPermissions"),
        "{refused:#?}"
    );
    let hint = refused["hint"].as_str().unwrap();
    assert!(
        hint.contains("service-test@apps.imsoidc.bentley.com"),
        "{hint}"
    );
    assert!(
        refused["next_attempt"].is_string(),
        "roles can be granted later: {refused:#?}"
    );
}

#[tokio::test]
async fn denied_storage_access_names_the_missing_permission() {
    let (site, folder) = Site::with_folder(platform().forbidden_storage(DEFAULT_ITWIN_ID)).await;
    write(&folder.join("a.ifc"), "a");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("storage_read"), "{done:?}");
}

#[tokio::test]
async fn an_unknown_imodel_is_reported_with_the_fix() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", "99999999-bbbb-4ccc-8ddd-eeeeeeeeeeee", "");
    write(&folder.join("a.ifc"), "a");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.err.contains("iModelNotFound") && done.err.contains("imodel_id"),
        "{done:?}"
    );
}

#[tokio::test]
async fn one_bad_file_of_a_run_fails_alone_with_the_connectors_message() {
    let (site, folder) = Site::with_folder(platform()).await;
    let error = serde_json::json!({
        "errorCode": "TAE_BRG_7", "description": "the drawing is damaged", "canUserFix": true,
        "kbArticleLink": "https://kb.example/7", "bridgeExitCode": 4_294_967_295_u32,
    });
    let (file, result) = ("bad.ifc".to_owned(), "Error".to_owned());
    site.emulator.fail_task(TaskFault {
        file,
        result,
        error: Some(error),
        report: None,
        count: Some(1),
    });
    write(&folder.join("bad.ifc"), "bad");
    write(&folder.join("good.dgn"), "good");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.out.contains("1 synchronized") && done.out.contains("1 failed"),
        "{done:?}"
    );
    assert_eq!(site.emulator.state().runs.len(), 1);
    let run = site.emulator.state().runs.into_values().next().unwrap();
    assert_eq!(run.result, "PartialSuccess");
    let output = site.status().await;
    assert_eq!(output["north/good.dgn"]["result"], "synchronized");
    let bad = &output["north/bad.ifc"];
    let reason = bad["reason"].as_str().unwrap();
    for part in [
        "bad.ifc",
        "IFC",
        &run.id,
        "TAE_BRG_7",
        "the drawing is damaged",
    ] {
        assert!(reason.contains(part), "no {part} in {reason}");
    }
    assert!(
        bad["hint"]
            .as_str()
            .unwrap()
            .contains("https://kb.example/7"),
        "{bad:#?}"
    );

    write(&folder.join("bad.ifc"), "mended");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    let files = [("bad.ifc", "mended"), ("good.dgn", "good")];
    let files = files.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_in_imodel(&site.emulator.state(), &BTreeMap::from(files));
}

#[tokio::test]
async fn a_connector_that_the_platform_retired_fails_its_file_and_never_its_batch() {
    let (site, folder) = Site::with_folder(platform().refused_connector("PSEXCEL")).await;
    write(&folder.join("pipes.xlsx"), "pipes");
    write(&folder.join("house.ifc"), "house");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let output = site.status().await;
    assert_eq!(
        output["north/house.ifc"]["result"], "synchronized",
        "{output:#?}"
    );
    let refused = &output["north/pipes.xlsx"];
    assert_eq!(refused["state"], "failed", "{refused:#?}");
    let reason = refused["reason"].as_str().unwrap();
    assert!(
        reason.contains("PSEXCEL") && reason.contains("422"),
        "{reason}"
    );
    assert!(
        refused["hint"].as_str().unwrap().contains("connectors"),
        "{refused:#?}"
    );
}

#[tokio::test]
async fn names_that_storage_cannot_hold_and_empty_files_fail_alone() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a<b>.ifc"), "name");
    write(&folder.join("two\nlines.ifc"), "name");
    write(&folder.join("dot./in folder.ifc"), "name");
    write(&folder.join(OsStr::from_bytes(b"latin \xfc.ifc")), "name");
    // As long as the file system allows.
    write(&folder.join(format!("{}.ifc", "x".repeat(251))), "long");
    write(&folder.join("empty.ifc"), "");
    write(&folder.join("good.ifc"), "good");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let output = site.status().await;
    assert_eq!(
        output["north/good.ifc"]["result"], "synchronized",
        "{output:#?}"
    );
    let long = format!("north/{}.ifc", "x".repeat(251));
    assert_eq!(output[&long]["result"], "synchronized", "{output:#?}");
    for (file, hint) in [
        ("north/a<b>.ifc", "rename"),
        ("north/two\nlines.ifc", "rename"),
        ("north/dot./in folder.ifc", "rename"),
        ("north/latin \u{fffd}.ifc", "rename"),
        ("north/empty.ifc", "save the file with content"),
    ] {
        assert_eq!(output[file]["state"], "failed", "{output:#?}");
        assert!(
            output[file]["hint"].as_str().unwrap().contains(hint),
            "{output:#?}"
        );
    }
    assert_eq!(site.emulator.state().files.len(), 2);
    assert!(
        !done.err.contains("two\nlines"),
        "one line for each: {done:?}"
    );
}

#[tokio::test]
async fn a_file_mapped_by_another_connection_is_reported_with_that_connection() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, "");
    write(&folder.join("a.ifc"), "a");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    // The same file once more, from a ledger that knows nothing, for another connection.
    std::fs::remove_dir_all(site.path("state")).unwrap();
    site.tables = site
        .tables
        .replace("[sync]\n", "[sync]\nconnection = \"second\"\n");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.err.contains("itwin-syncd") && done.err.contains("has it already"),
        "{done:?}"
    );
    assert_eq!(site.emulator.state().files.len(), 1);
}

#[tokio::test]
async fn of_two_names_that_differ_in_case_only_one_waits_until_the_other_is_gone() {
    for (one, other) in [
        ("House.ifc", "house.IFC"),
        ("Br\u{fc}cke/Deck.ifc", "Bru\u{308}cke/Deck.ifc"),
    ] {
        let (site, folder) = Site::with_folder(platform()).await;
        write(&folder.join(one), "one");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let first = site.emulator.state().files.into_keys().next().unwrap();
        write(&folder.join(other), "other");
        daemon
            .says("iTwin Storage may not distinguish its name from")
            .await;
        let output = site.status().await;
        let refused = &output[&format!("north/{other}")];
        assert_eq!(refused["hint"], "rename one of the two files", "{refused}");
        assert_eq!(site.emulator.state().files.len(), 1);

        std::fs::remove_file(folder.join(one)).unwrap();
        let taken = || {
            let state = site.emulator.state();
            let content = state.files[&first].completed.as_ref().unwrap();
            content.sha256 == sha256(b"other")
        };
        eventually(taken, || daemon.log()).await;
        let state = site.emulator.state();
        assert_eq!(state.files.len(), 1, "no second storage file");
        let sources = state.connections.values().map(|one| one.source_files.len());
        assert_eq!(sources.sum::<usize>(), 1, "no second source file");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_rename_that_changes_only_case_and_content_keeps_the_storage_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("House.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    std::fs::remove_file(folder.join("House.ifc")).unwrap();
    write(&folder.join("HOUSE.ifc"), "another house");
    daemon
        .says("takes over the storage file of a deleted one")
        .await;
    let again = || site.emulator.state().runs.len() == 2;
    eventually(again, || daemon.log()).await;
    daemon.stop().await;
    assert_eq!(site.emulator.state().files.len(), 1);
}
