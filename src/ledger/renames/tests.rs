use std::path::Path;

use super::super::fixture::*;
use super::super::*;
use super::*;

const PLACE: [u8; 16] = [7; 16];
const WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// A synchronized `a.dgn` with content 1 that a scan did not find, and the job of a new file.
async fn renamed_to(f: &Fixture, path: &str) -> UploadJob {
    f.synchronized("a.dgn").await;
    missed(f, 4).await;
    f.hand_over(path, 1, 5).await;
    f.claim(5).await.unwrap()
}

async fn missed(f: &Fixture, second: i64) {
    let missing = [("a.dgn".into(), Absence::Missing)];
    f.ledger
        .record_absent(f.watch, Path::new(""), &missing, at(second - 1), at(second))
        .await
        .unwrap();
}

async fn follow(f: &Fixture, job: &UploadJob, origin: FileId) -> Followed {
    f.ledger
        .follow_rename(job, origin, &content(1), &PLACE, at(6))
        .await
        .unwrap()
}

#[tokio::test]
async fn the_record_moves_with_its_storage_file_source_file_and_history() {
    let f = Fixture::new().await;
    let job = renamed_to(&f, "plans/b.dgn").await;
    let origin = f.file("a.dgn").await.id;
    assert!(
        f.ledger
            .may_be_renamed(&job, content(1).bytes)
            .await
            .unwrap()
    );
    assert!(!f.ledger.may_be_renamed(&job, 1).await.unwrap());
    let found = f.ledger.origins(&job, &content(1), WINDOW).await.unwrap();
    let expected = Origin {
        file: origin,
        watch: f.watch,
        path: "a.dgn".into(),
        absent_since: Some(at(4)),
    };
    assert_eq!(found, [expected]);
    let other = f.ledger.origins(&job, &content(2), WINDOW).await.unwrap();
    assert_eq!(other, []);

    assert_eq!(follow(&f, &job, origin).await, Followed::Moved(None));
    let all = f.ledger.snapshot(at(6)).await.unwrap().files;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].id, origin);
    let moved = f.claim(7).await.unwrap();
    assert_eq!(moved.path, Path::new("plans/b.dgn"));
    assert_eq!(moved.relocation, Some(Relocation::Intended));
    assert_eq!(moved.fingerprint, Some(print(1)));
    f.ledger
        .record_relocation_sent(&moved, false)
        .await
        .unwrap();
    let stamp = StorageStamp {
        modified: Some("later".to_owned()),
        ..StorageStamp::default()
    };
    f.ledger
        .finish_relocation(&moved, &stamp, None, at(7))
        .await
        .unwrap();
    // The content is in the iModel already.
    let finished = f.ledger.finish_unchanged(&moved, at(8)).await.unwrap();
    assert_eq!(finished, UploadResult::Done);
    assert!(f.batch(9).await.is_empty());
    let history = f.ledger.file_history(origin).await.unwrap().unwrap();
    let what: Vec<&str> = history
        .entries
        .iter()
        .map(|entry| entry.what.as_str())
        .collect();
    let before = ["seen", "uploaded", "synchronized"];
    assert_eq!(what[..3], before);
    assert_eq!(what[3..], ["renamed", "relocated", "renamed"]);
    assert_eq!(history.entries[3].note.as_deref(), Some("\"a.dgn\""));
}

#[tokio::test]
async fn a_file_that_is_there_in_a_run_or_gone_for_long_is_not_moved() {
    let f = Fixture::new().await;
    f.synchronized("a.dgn").await;
    f.hand_over("b.dgn", 1, 5).await;
    let job = f.claim(5).await.unwrap();
    let origin = f.file("a.dgn").await.id;
    assert_eq!(follow(&f, &job, origin).await, Followed::Declined);
    assert_eq!(f.file("a.dgn").await.id, origin);

    let f = Fixture::new().await;
    f.running("a.dgn").await;
    missed(&f, 4).await;
    f.hand_over("b.dgn", 1, 5).await;
    let job = f.claim(5).await.unwrap();
    let origin = f.file("a.dgn").await.id;
    assert_eq!(follow(&f, &job, origin).await, Followed::AtWork);

    let f = Fixture::new().await;
    f.synchronized("a.dgn").await;
    missed(&f, 4).await;
    f.hand_over("b.dgn", 1, 2 * 3600).await;
    let job = f.claim(2 * 3600).await.unwrap();
    let found = f.ledger.origins(&job, &content(1), WINDOW).await.unwrap();
    assert_eq!(found, []);
}

#[tokio::test]
async fn nothing_moves_when_the_new_file_changed_or_a_third_one_has_its_place() {
    let f = Fixture::new().await;
    let job = renamed_to(&f, "b.dgn").await;
    let origin = f.file("a.dgn").await.id;
    f.hand_over("b.dgn", 2, 6).await;
    assert_eq!(follow(&f, &job, origin).await, Followed::Declined);

    let f = Fixture::new().await;
    f.hand_over("B.dgn", 1, 0).await;
    let third = f.claim(0).await.unwrap();
    f.ledger.take_place(&third, &PLACE).await.unwrap();
    f.store(&third, 3, 1).await;
    let job = renamed_to(&f, "b.dgn").await;
    let origin = f.file("a.dgn").await.id;
    assert_eq!(follow(&f, &job, origin).await, Followed::Declined);
}

#[tokio::test]
async fn a_change_by_others_found_before_a_rename_is_not_taken_for_one_after_it() {
    let f = Fixture::new().await;
    f.stored("a.dgn").await;
    let before = f.batch(2).await.remove(0);
    let run = f.begin_run(2).await;
    f.finish_run(run, Verdict::Synchronized(None), 3).await;
    missed(&f, 4).await;
    f.hand_over("b.dgn", 1, 5).await;
    let job = f.claim(5).await.unwrap();
    assert_eq!(follow(&f, &job, before.file).await, Followed::Moved(None));
    f.ledger.compare_again(&before, at(6), at(6)).await.unwrap();
    let moved = f.claim(7).await.unwrap();
    assert!(!moved.unverified);
    let stamp = StorageStamp {
        modified: Some("later".to_owned()),
        ..StorageStamp::default()
    };
    f.ledger
        .finish_relocation(&moved, &stamp, None, at(7))
        .await
        .unwrap();
    f.ledger.finish_unchanged(&moved, at(8)).await.unwrap();
    f.ledger.compare_again(&before, at(9), at(9)).await.unwrap();
    assert_eq!(f.claim(9).await.map(|job| job.path), None);
}
