use std::path::Path;

use super::super::fixture::*;
use super::super::*;
use crate::ids::ImodelId;

#[tokio::test]
async fn jobs_of_a_watch_that_is_not_configured_rest_until_it_is_again() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let south = WatchSpec {
        storage_folder: "South".to_owned(),
        ..spec("south")
    };
    f.register(&south, 0).await;
    assert!(f.claim(1).await.is_none());
    assert_eq!(f.ledger.summary(at(1)).await.unwrap(), Summary::default());
    f.ledger
        .register_watches(&[spec("north")], at(0))
        .await
        .unwrap();
    assert!(f.claim(1).await.is_some());
}

#[tokio::test]
async fn a_start_tries_files_again_that_failed_because_of_credentials() {
    let f = Fixture::new().await;
    for (path, kind) in [
        ("a.dgn", FailureKind::Credentials),
        ("b.dgn", FailureKind::Transient),
    ] {
        f.hand_over(path, 1, 0).await;
        let job = f.claim(0).await.unwrap();
        let failed = Refusal {
            kind,
            ..refusal(Again::FailedUntil(at(900)))
        };
        f.ledger.put_off(&job, &failed, at(1)).await.unwrap();
    }
    assert!(f.claim(2).await.is_none());
    f.ledger
        .register_watches(&[spec("north")], at(2))
        .await
        .unwrap();
    assert_eq!(f.claim(2).await.unwrap().path, Path::new("a.dgn"));
    assert!(f.claim(2).await.is_none());
}

#[tokio::test]
async fn names_are_swapped_and_passed_on_with_their_files() {
    let f = Fixture::new().await;
    let in_folder = |name: &str, folder: &str| WatchSpec {
        path: format!("/srv/{folder}").into(),
        storage_folder: folder.to_owned(),
        ..spec(name)
    };
    let register = async |specs: &[WatchSpec]| {
        let registered = f.ledger.register_watches(specs, at(1)).await.unwrap();
        registered.iter().map(|one| one.id).collect::<Vec<_>>()
    };
    let first = register(&[in_folder("a", "1"), in_folder("b", "2")]).await;
    for watch in &first {
        let files = [ready("x.dgn", 1)];
        f.ledger.hand_over(*watch, &files, at(1)).await.unwrap();
    }
    let swapped = register(&[in_folder("b", "1"), in_folder("a", "2")]).await;
    assert_eq!(swapped, first);
    let passed_on = register(&[in_folder("a", "1"), in_folder("c", "2")]).await;
    assert_eq!(passed_on, first);
    // The other one is not configured any more, but keeps its files.
    let one = register(&[in_folder("c", "1")]).await;
    assert_eq!(one, first[..1]);
    let names = f.ledger.watch_reports(at(1)).await.unwrap();
    let names: Vec<&str> = names.iter().map(|watch| watch.name.as_str()).collect();
    assert_eq!(names, ["c", "c (former)", "north"]);
    let back = register(&[in_folder("c", "1"), in_folder("d", "2")]).await;
    assert_eq!(back, first);
}

#[tokio::test]
async fn source_files_in_a_former_imodel_stay_known_until_the_watch_goes_back() {
    let f = Fixture::new().await;
    f.synchronized("a.dgn").await;
    f.ledger
        .set_connection(f.connection().await.id, Some("platform"))
        .await
        .unwrap();
    let elsewhere = WatchSpec {
        imodel_id: "other".into(),
        ..spec("north")
    };
    let specs = [elsewhere.clone()];
    let planned = f.ledger.planned_watches(&specs).await.unwrap();
    let change = WatchChange::Imodel {
        from: "imodel".into(),
        mapped: 1,
    };
    assert_eq!(planned.watches[0].changes, [change]);
    f.register(&elsewhere, 4).await;
    let before = ImodelId::from("imodel");
    let former = f.ledger.former_source_files("north", &before);
    let former = former.await.unwrap();
    assert_eq!(former.len(), 1);
    assert_eq!(former[0].path, Path::new("a.dgn"));
    assert_eq!(former[0].source_file_id, "source a.dgn");
    assert_eq!(former[0].connection, "platform");
    let reports = f.ledger.watch_reports(at(5)).await.unwrap();
    assert_eq!(reports[0].former_imodels[0].files, 1);
    f.register(&spec("north"), 6).await;
    let reports = f.ledger.watch_reports(at(7)).await.unwrap();
    assert_eq!(reports[0].former_imodels, []);
}

#[tokio::test]
async fn a_watch_that_moves_to_another_imodel_begins_anew() {
    let f = Fixture::new().await;
    f.stored("a.dgn").await;
    let elsewhere = WatchSpec {
        imodel_id: "other".into(),
        ..spec("north")
    };
    let registered = f.register(&elsewhere, 2).await;
    let change = WatchChange::Imodel {
        from: "imodel".into(),
        mapped: 0,
    };
    assert_eq!(registered.id, f.watch);
    assert_eq!(registered.changes, [change]);
    let file = f.file("a.dgn").await;
    assert_eq!((file.job, file.storage_file_id), (None, None));
    assert_eq!(f.hand_over("a.dgn", 1, 3).await, 1);
}
