#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop here"
)]

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn print(n: i64) -> Fingerprint {
    Fingerprint {
        size: 10,
        mtime_ns: n,
        ctime_ns: n,
    }
}

fn ready(path: &str, n: i64) -> Ready {
    Ready {
        path: PathBuf::from(path),
        fingerprint: print(n),
        connector: Some("MSTN".to_owned()),
    }
}

fn content(n: u8) -> Content {
    Content {
        digest: [n; 32],
        bytes: 10,
    }
}

fn spec(name: &str) -> WatchSpec {
    WatchSpec {
        name: name.to_owned(),
        imodel_id: "imodel".to_owned(),
        storage_folder: String::new(),
        brake: 1000,
        connection: "itwin-syncd".to_owned(),
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    ledger: Ledger,
    watch: WatchId,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).await.unwrap();
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .0;
        Self { dir, ledger, watch }
    }

    async fn restart(self) -> Self {
        self.ledger.close().await;
        let ledger = Ledger::open(self.dir.path()).await.unwrap();
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .0;
        Self {
            dir: self.dir,
            ledger,
            watch,
        }
    }

    async fn hand_over(&self, path: &str, n: i64, second: i64) -> usize {
        self.ledger
            .hand_over(self.watch, &[ready(path, n)], at(second))
            .await
            .unwrap()
            .changed
    }

    async fn claim(&self, second: i64) -> Option<UploadJob> {
        self.ledger.claim_upload(None, at(second)).await.unwrap()
    }

    async fn store(&self, job: &UploadJob, n: u8, second: i64) -> UploadResult {
        if job.storage_file_id.is_none() {
            let id = format!("storage {}", job.path.display());
            self.ledger
                .record_storage_file(job, &id, at(second))
                .await
                .unwrap();
        }
        let stored = StoredContent {
            version: job.version,
            content: content(n),
        };
        self.ledger
            .record_blob_written(job, &stored.content, at(second))
            .await
            .unwrap();
        self.ledger
            .finish_stored(job, &stored, &StorageStamp::default(), at(second))
            .await
            .unwrap()
    }

    async fn connection(&self) -> ConnectionRecord {
        self.ledger.connections("imodel").await.unwrap().remove(0)
    }

    /// The files that wait for a run.
    async fn batch(&self, second: i64) -> Vec<ConnectionFile> {
        let connection = self.connection().await.id;
        let files = self.ledger.connection_files(connection, at(second)).await;
        let mut files = files.unwrap();
        files.retain(ConnectionFile::awaits_run);
        files
    }

    /// Maps everything that waits and begins a run of it.
    async fn begin_run(&self, second: i64) -> RunId {
        let connection = self.connection().await.id;
        let mappings: Vec<_> = self
            .batch(second)
            .await
            .into_iter()
            .map(|file| Mapping {
                file: file.file,
                source_file_id: format!("source {}", file.path.display()),
                connector: file.connector,
                renewed: true,
                other_connector: false,
            })
            .collect();
        self.ledger
            .record_mappings(connection, &mappings, at(second))
            .await
            .unwrap();
        self.ledger
            .begin_run(connection, at(second), at(second))
            .await
            .unwrap()
    }

    async fn finish_run(&self, run: RunId, verdict: Verdict, second: i64) -> Vec<RunReport> {
        let outcomes = outcomes(&self.ledger, run, &verdict, second).await;
        self.ledger
            .finish_run(run, "Completed", "Success", &outcomes, at(second))
            .await
            .unwrap()
    }

    async fn file(&self, path: &str) -> FileReport {
        let files = self.ledger.snapshot(at(0)).await.unwrap().files;
        files
            .into_iter()
            .find(|file| file.path == Path::new(path))
            .unwrap()
    }
}

fn refusal(again: Again) -> Refusal {
    Refusal {
        kind: FailureKind::Transient,
        reason: "no".to_owned(),
        hint: None,
        again,
    }
}

/// One verdict for every file of a run.
async fn outcomes(ledger: &Ledger, run: RunId, verdict: &Verdict, second: i64) -> Vec<FileOutcome> {
    let in_run = ledger.files_in_run(run).await.unwrap();
    let connection = ledger.connections("imodel").await.unwrap()[0].id;
    let files = ledger.connection_files(connection, at(second)).await;
    let mut files = files.unwrap();
    files.retain(|file| in_run.contains(&file.file));
    let outcome = |file: ConnectionFile| FileOutcome {
        file: file.file,
        storage_file_id: file.storage_file_id,
        stored_generation: file.stored.generation,
        verdict: verdict.clone(),
    };
    files.into_iter().map(outcome).collect()
}

#[tokio::test]
async fn a_file_goes_from_hand_over_to_synchronized_and_leaves_no_job() {
    let f = Fixture::new().await;
    assert_eq!(f.hand_over("a/b.dgn", 1, 0).await, 1);
    let job = f.claim(1).await.unwrap();
    assert_eq!(
        (job.path.as_path(), job.version, job.attempt),
        (Path::new("a/b.dgn"), 1, 1)
    );
    assert_eq!(
        f.claim(1).await.map(|job| job.path),
        None,
        "one worker, one job"
    );
    assert_eq!(f.store(&job, 1, 2).await, UploadResult::AwaitsRun);
    let run = f.begin_run(3).await;
    f.ledger.record_run(run, "run-1").await.unwrap();
    let reports = f.finish_run(run, Verdict::Synchronized(None), 9).await;
    assert_eq!(reports[0].millis, 9000, "from hand-over to result");
    let file = f.file("a/b.dgn").await;
    assert_eq!(
        (file.job, file.outcome, file.run.as_deref()),
        (None, Some(Outcome::Synchronized), Some("run-1"))
    );
    assert_eq!(
        f.ledger.summary(at(1000)).await.unwrap(),
        Summary::default()
    );
}

#[tokio::test]
async fn handing_over_what_is_known_makes_no_job() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    f.store(&job, 1, 1).await;
    assert_eq!(f.hand_over("a.dgn", 1, 2).await, 0);
    assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
}

#[tokio::test]
async fn a_file_that_is_gone_still_awaits_its_run_until_its_mapping_is_refused() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    f.store(&job, 1, 1).await;
    let gone = [(std::ffi::OsString::from("a.dgn"), Absence::Missing)];
    for second in [10, 20] {
        f.ledger
            .record_absent(f.watch, Path::new(""), &gone, at(second), at(second))
            .await
            .unwrap();
    }
    let waiting = f.batch(21).await;
    assert!(waiting[0].absent);
    let refusals = [(waiting[0].file, refusal(Again::At(at(30))))];
    f.ledger.put_off_stored(&refusals, at(22)).await.unwrap();
    assert_eq!(f.batch(40).await, []);
    assert_eq!(f.ledger.summary(at(40)).await.unwrap(), Summary::default());
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_uploaded_gets_one_further_job() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    f.hand_over("a.dgn", 2, 2).await;
    f.hand_over("a.dgn", 3, 3).await;
    assert!(
        f.claim(3).await.is_none(),
        "the upload in hand keeps its claim"
    );
    assert_eq!(f.store(&job, 1, 4).await, UploadResult::DueAgain);
    let job = f.claim(5).await.unwrap();
    assert_eq!((job.version, job.fingerprint), (3, Some(print(3))));
    assert_eq!(f.store(&job, 2, 6).await, UploadResult::AwaitsRun);
    assert!(f.claim(7).await.is_none());
}

#[tokio::test]
async fn a_file_that_changes_during_its_run_gets_no_outcome_from_that_run() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let run = f.begin_run(2).await;
    f.hand_over("a.dgn", 2, 3).await;
    assert!(
        f.finish_run(run, Verdict::Synchronized(None), 4)
            .await
            .is_empty()
    );
    let job = f.claim(5).await.unwrap();
    f.store(&job, 2, 6).await;
    assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
}

#[tokio::test]
async fn the_same_content_again_is_done_without_a_run() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let run = f.begin_run(2).await;
    f.finish_run(run, Verdict::Synchronized(None), 3).await;
    f.hand_over("a.dgn", 2, 4).await;
    let job = f.claim(5).await.unwrap();
    assert_eq!(
        job.stored.as_ref().map(|stored| stored.content.clone()),
        Some(content(1))
    );
    assert_eq!(
        f.ledger.finish_unchanged(&job, at(6)).await.unwrap(),
        UploadResult::Done
    );
    assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Unchanged));
}

#[tokio::test]
async fn the_same_content_with_a_run_still_owed_awaits_it() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    f.hand_over("a.dgn", 2, 2).await;
    let job = f.claim(3).await.unwrap();
    assert_eq!(
        f.ledger.finish_unchanged(&job, at(4)).await.unwrap(),
        UploadResult::AwaitsRun
    );
}

#[tokio::test]
async fn another_connector_for_the_same_content_is_owed_a_run() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let run = f.begin_run(2).await;
    f.finish_run(run, Verdict::Synchronized(None), 3).await;
    let civil = Ready {
        connector: Some("CIVIL".to_owned()),
        ..ready("a.dgn", 1)
    };
    assert_eq!(
        f.ledger
            .hand_over(f.watch, &[civil], at(4))
            .await
            .unwrap()
            .changed,
        1
    );
    let job = f.claim(5).await.unwrap();
    assert_eq!(
        f.ledger.finish_unchanged(&job, at(6)).await.unwrap(),
        UploadResult::AwaitsRun
    );
    let batch = f.batch(7).await;
    assert_eq!(
        (
            batch[0].source_file_id.as_deref(),
            batch[0].mapped_connector.as_deref()
        ),
        (Some("source a.dgn"), Some("MSTN"))
    );
    assert_eq!(batch[0].connector, "CIVIL");
}

#[tokio::test]
async fn a_run_covers_what_was_complete_before_its_request_and_nothing_later() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    f.hand_over("b.dgn", 1, 0).await;
    let (a, b) = (f.claim(0).await.unwrap(), f.claim(0).await.unwrap());
    f.store(&a, 1, 1).await;
    let run = f.begin_run(2).await;
    f.store(&b, 2, 3).await;
    let reports = f.finish_run(run, Verdict::Synchronized(None), 4).await;
    assert_eq!(reports.len(), 1);
    assert_eq!(f.file("b.dgn").await.job, Some(JobState::Stored));
    assert!(f.connection().await.moved_on.is_some());
    let run = f.begin_run(5).await;
    f.finish_run(run, Verdict::Synchronized(None), 6).await;
    assert_eq!(f.connection().await.moved_on, None);
}

#[tokio::test]
async fn a_killed_process_leaves_its_stage_for_the_next_start() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.ledger
        .record_create_sent(&job, "marker", at(1))
        .await
        .unwrap();
    let f = f.restart().await;
    let job = f.claim(2).await.unwrap();
    assert_eq!(
        (job.stage.0, job.marker.as_deref()),
        (Stage::CreateSent, Some("marker"))
    );
    f.ledger
        .record_storage_file(&job, "id", at(3))
        .await
        .unwrap();
    f.ledger
        .record_blob_written(&job, &content(1), at(4))
        .await
        .unwrap();
    let f = f.restart().await;
    let job = f.claim(5).await.unwrap();
    assert_eq!(
        (job.stage.0, job.storage_file_id.as_deref()),
        (Stage::BlobWritten, Some("id"))
    );
    assert_eq!(
        job.written,
        Some(StoredContent {
            version: 1,
            content: content(1)
        })
    );
}

#[tokio::test]
async fn a_run_request_without_an_answer_is_found_again_with_its_files() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    f.begin_run(2).await;
    let f = f.restart().await;
    let open = f.ledger.open_run("imodel").await.unwrap().unwrap();
    assert_eq!((open.platform_id, open.requested_at), (None, at(2)));
    assert_eq!(f.ledger.files_in_run(open.id).await.unwrap().len(), 1);
    f.ledger.abandon_run(open.id).await.unwrap();
    assert!(f.ledger.open_run("imodel").await.unwrap().is_none());
    assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
}

#[tokio::test]
async fn a_job_that_was_put_off_is_claimed_at_its_time_also_after_a_restart() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.ledger
        .put_off(&job, &refusal(Again::At(at(60))), at(1))
        .await
        .unwrap();
    let f = f.restart().await;
    assert!(f.claim(59).await.is_none());
    assert_eq!(f.ledger.next_upload_due(at(1)).await.unwrap(), Some(at(60)));
    let job = f.claim(60).await.unwrap();
    assert_eq!((job.attempt, job.failing_since), (2, Some(at(1))));
}

#[tokio::test]
async fn looking_again_at_a_busy_file_is_no_attempt() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    for second in 0..5 {
        let job = f.claim(second).await.unwrap();
        assert_eq!((job.attempt, job.failing_since), (1, None));
        f.ledger
            .put_off(&job, &refusal(Again::BusyUntil(at(second + 1))), at(second))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_final_failure_stays_until_the_file_changes() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.ledger
        .put_off(&job, &refusal(Again::Never), at(1))
        .await
        .unwrap();
    let f = f.restart().await;
    assert!(f.claim(1_000_000).await.is_none());
    let file = f.file("a.dgn").await;
    assert_eq!(
        (file.job, file.outcome, file.reason.as_deref()),
        (Some(JobState::Failed), Some(Outcome::Failed), Some("no"))
    );
    f.hand_over("a.dgn", 2, 5).await;
    assert_eq!(f.claim(5).await.unwrap().attempt, 1);
}

#[tokio::test]
async fn a_failure_of_an_old_version_does_not_fail_the_new_one() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.hand_over("a.dgn", 2, 1).await;
    f.ledger
        .put_off(&job, &refusal(Again::Never), at(2))
        .await
        .unwrap();
    assert_eq!(f.claim(2).await.unwrap().version, 2);
}

#[tokio::test]
async fn a_failure_that_is_tried_slowly_is_reported_once_for_each_reason() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    for (second, reason) in [(0, "no access"), (10, "no access"), (20, "not found")] {
        let job = f.claim(second).await.unwrap();
        let refusal = Refusal {
            reason: reason.to_owned(),
            ..refusal(Again::FailedUntil(at(second + 10)))
        };
        f.ledger.put_off(&job, &refusal, at(second)).await.unwrap();
    }
    assert_eq!(
        f.ledger.results_since(at(0)).await.unwrap(),
        vec![(Outcome::Failed, 2)]
    );
}

#[tokio::test]
async fn a_file_that_vanished_counts_as_new_when_it_is_back() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.ledger.finish_vanished(&job, at(1)).await.unwrap();
    assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Vanished));
    assert_eq!(
        f.ledger
            .known(f.watch, Path::new("a.dgn"))
            .await
            .unwrap()
            .unwrap()
            .fingerprint,
        None
    );
    assert_eq!(f.hand_over("a.dgn", 1, 2).await, 1);
    assert!(f.claim(2).await.is_some());
}

/// Every way in which what is known of a file changes.
#[derive(Debug, Clone, Copy)]
enum Change {
    NewFile,
    NewVersion,
    Vanished,
    Inherited,
    Moved,
}

impl Change {
    async fn happen(self, f: &Fixture) {
        match self {
            Self::NewFile => assert_eq!(f.hand_over("plans/new.dgn", 1, 1).await, 1),
            Self::NewVersion => assert_eq!(f.hand_over("plans/a.dgn", 2, 1).await, 1),
            Self::Vanished => {
                let job = f.claim(1).await.unwrap();
                assert_eq!(job.path, Path::new("plans/a.dgn"));
                f.ledger.finish_vanished(&job, at(1)).await.unwrap();
            }
            Self::Inherited => {
                let job = f.claim(1).await.unwrap();
                f.ledger.take_place(&job, &[1; 32]).await.unwrap();
                f.store(&job, 1, 1).await;
                let run = f.begin_run(1).await;
                f.finish_run(run, Verdict::Synchronized(None), 1).await;
                f.hand_over("A.dgn", 1, 1).await;
                let mut job = f.claim(2).await.unwrap();
                let gone = f.ledger.take_place(&job, &[1; 32]).await.unwrap().unwrap();
                assert_eq!(gone.path, Path::new("plans/a.dgn"));
                assert!(f.ledger.inherit(&mut job, &gone).await.unwrap());
            }
            Self::Moved => {
                let elsewhere = WatchSpec {
                    storage_folder: "elsewhere".to_owned(),
                    ..spec("north")
                };
                let moved = f.ledger.register_watches(&[elsewhere], at(1)).await;
                assert_eq!(moved.unwrap()[0].1, 1);
            }
        }
    }
}

#[tokio::test]
async fn a_listing_is_old_news_until_anything_that_is_known_of_its_files_changes() {
    for change in [
        Change::NewFile,
        Change::NewVersion,
        Change::Vanished,
        Change::Inherited,
        Change::Moved,
    ] {
        let f = Fixture::new().await;
        f.hand_over("plans/a.dgn", 1, 0).await;
        let part = |part, digest| ListingPart {
            watch: f.watch,
            dir: Path::new("plans"),
            part,
            digest,
        };
        let whole = part(0, &[7; 32]);
        let (old_news, changes) = f.ledger.is_old_news(&whole).await.unwrap();
        assert!(!old_news);
        f.ledger.keep_listing(&whole, changes).await.unwrap();
        assert!(f.ledger.is_old_news(&whole).await.unwrap().0);
        for other in [part(0, &[8; 32]), part(1, &[7; 32])] {
            assert!(!f.ledger.is_old_news(&other).await.unwrap().0);
        }

        change.happen(&f).await;
        let (old_news, now) = f.ledger.is_old_news(&whole).await.unwrap();
        assert!(!old_news, "{change:?}");
        // What was compared before the change is not kept after it.
        f.ledger.keep_listing(&whole, changes).await.unwrap();
        assert!(!f.ledger.is_old_news(&whole).await.unwrap().0, "{change:?}");
        f.ledger.keep_listing(&whole, now).await.unwrap();
        assert!(f.ledger.is_old_news(&whole).await.unwrap().0);
    }
}

#[tokio::test]
async fn a_held_watch_holds_up_no_other() {
    let f = Fixture::new().await;
    let ids = f
        .ledger
        .register_watches(&[spec("north"), spec("south")], at(0))
        .await
        .unwrap();
    f.ledger
        .hand_over(ids[0].0, &[ready("n.dgn", 1)], at(0))
        .await
        .unwrap();
    f.ledger
        .hand_over(ids[1].0, &[ready("s.dgn", 1)], at(1))
        .await
        .unwrap();
    f.ledger
        .hold_watch(ids[0].0, at(100), "hangs", at(1))
        .await
        .unwrap();
    assert_eq!(f.claim(2).await.unwrap().path, Path::new("s.dgn"));
    assert!(f.claim(99).await.is_none());
    assert_eq!(
        f.ledger.next_upload_due(at(2)).await.unwrap(),
        Some(at(100))
    );
    assert_eq!(f.claim(100).await.unwrap().path, Path::new("n.dgn"));
}

#[tokio::test]
async fn jobs_of_a_watch_that_is_not_configured_rest_until_it_is_again() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    f.ledger
        .register_watches(&[spec("south")], at(0))
        .await
        .unwrap();
    assert!(f.claim(1).await.is_none());
    assert_eq!(f.ledger.summary(at(1)).await.unwrap(), Summary::default());
    f.ledger
        .register_watches(&[spec("north")], at(0))
        .await
        .unwrap();
    assert!(f.claim(1).await.is_some());
}

#[tokio::test]
async fn a_watch_that_moves_to_another_imodel_begins_anew() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let elsewhere = WatchSpec {
        imodel_id: "other".to_owned(),
        ..spec("north")
    };
    let registered = f
        .ledger
        .register_watches(&[elsewhere], at(2))
        .await
        .unwrap();
    assert_eq!(registered, vec![(f.watch, 1)]);
    let file = f.file("a.dgn").await;
    assert_eq!((file.job, file.storage_file_id), (None, None));
    assert_eq!(f.hand_over("a.dgn", 1, 3).await, 1);
}

#[tokio::test]
async fn reference_files_are_done_with_the_upload_and_move_their_connection_on() {
    let f = Fixture::new().await;
    let reference = Ready {
        connector: None,
        ..ready("a.pdf", 1)
    };
    f.ledger
        .hand_over(f.watch, &[reference], at(0))
        .await
        .unwrap();
    let job = f.claim(0).await.unwrap();
    assert_eq!(f.store(&job, 1, 1).await, UploadResult::Done);
    assert_eq!(f.file("a.pdf").await.outcome, Some(Outcome::Uploaded));
    assert_eq!(f.connection().await.moved_on, Some(at(1)));
    assert!(
        !f.ledger
            .holds_source_files(f.connection().await.id)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_failed_run_of_a_file_is_repeated_at_its_time() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let run = f.begin_run(2).await;
    f.finish_run(run, Verdict::Refused(refusal(Again::At(at(80)))), 3)
        .await;
    let backlog = f.ledger.backlog("imodel", at(4)).await.unwrap();
    assert_eq!((backlog.waiting, backlog.next_due), (0, Some(at(80))));
    let batch = f.batch(80).await;
    assert_eq!(batch[0].job.unwrap().run_attempts, 1);
}

#[tokio::test]
async fn a_file_that_is_gone_from_storage_is_uploaded_as_a_new_one() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let stored = f.batch(2).await.remove(0);
    f.ledger.upload_again(&stored, at(2), at(2)).await.unwrap();
    let job = f.claim(2).await.unwrap();
    assert_eq!((job.storage_file_id, job.stored), (None, None));
}

#[tokio::test]
async fn a_synchronized_file_that_is_uploaded_again_is_found_by_its_watch() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let stored = f.batch(2).await.remove(0);
    let run = f.begin_run(2).await;
    f.finish_run(run, Verdict::Synchronized(None), 3).await;
    f.ledger.upload_again(&stored, at(4), at(4)).await.unwrap();
    let due = f.ledger.due_watches(at(4)).await.unwrap();
    assert_eq!(due, [(f.watch, at(4))]);
    let job = f.ledger.claim_upload_of(f.watch, None, at(4)).await;
    assert_eq!(job.unwrap().unwrap().path, Path::new("a.dgn"));
}

#[tokio::test]
async fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt as _;
    let f = Fixture::new().await;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"d\xFF/a\xFE\n.dgn"));
    let odd = Ready {
        path: path.to_owned(),
        ..ready("x", 1)
    };
    f.ledger.hand_over(f.watch, &[odd], at(0)).await.unwrap();
    assert_eq!(f.claim(0).await.unwrap().path, path);
    let known = f
        .ledger
        .known_in(f.watch, path.parent().unwrap())
        .await
        .unwrap();
    assert_eq!(known[0].name, path.file_name().unwrap());
}

#[tokio::test]
async fn a_second_daemon_is_refused_by_name() {
    let f = Fixture::new().await;
    let error = Ledger::open(f.dir.path()).await.unwrap_err();
    let expected = format!(
        "another itwin-syncd (process {}) already uses {:?}",
        std::process::id(),
        f.dir.path()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().unwrap().contains("state.path"));
    f.restart().await;
}

#[tokio::test]
async fn a_reader_sees_the_ledger_beside_its_daemon_and_cannot_write() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let reader = Ledger::read(f.dir.path()).await.unwrap();
    assert_eq!(reader.snapshot(at(0)).await.unwrap().files.len(), 1);
    assert!(reader.claim_upload(None, at(0)).await.is_err());
    assert!(matches!(
        Ledger::read(Path::new("/nowhere")).await,
        Err(Error::Missing { .. })
    ));
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_is_refused_and_kept() {
    let f = Fixture::new().await;
    sqlx::query("UPDATE _sqlx_migrations SET version = 999 WHERE version = 1")
        .execute(f.ledger.db.writer())
        .await
        .unwrap();
    let Fixture { dir, ledger, .. } = f;
    ledger.close().await;
    assert!(matches!(
        Ledger::open(dir.path()).await,
        Err(Error::Newer { .. })
    ));
}

#[tokio::test]
async fn a_ledger_of_every_older_version_goes_on_in_this_one() {
    let all = sqlx::migrate!("src/ledger/migrations");
    for versions in 1..all.migrations.len() {
        let dir = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(dir.path()).unwrap();
        let older_db = Database::open_unchecked(directory).await;
        let pool = older_db.writer();
        let mut older = sqlx::migrate!("src/ledger/migrations");
        older.migrations.to_mut().truncate(versions);
        older.run(pool).await.unwrap();
        for row in [
            "INSERT INTO connections (id, imodel_id, name) VALUES (1, 'imodel', 'itwin-syncd')",
            "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES (2, 'north', 'imodel', '', 1)",
            "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version) \
             VALUES (3, 2, x'', x'612e64676e', 10, 7, 7, 'MSTN', 4)",
            "INSERT INTO jobs (file_id, state, version, enqueued_at, due_at) VALUES (3, 'uploading', 4, 5, 5)",
        ] {
            sqlx::query(row).execute(pool).await.unwrap();
        }
        older_db.close().await;
        let early = Ledger::read(dir.path()).await;
        assert!(matches!(early, Err(Error::Older { .. })), "{early:?}");
        let ledger = Ledger::open(dir.path()).await.unwrap();
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .0;
        let f = Fixture { dir, ledger, watch };
        let job = f.claim(1).await.unwrap();
        assert_eq!((job.path.to_str(), job.version), (Some("a.dgn"), 4));
        f.store(&job, 1, 2).await;
        let run = f.begin_run(3).await;
        assert_eq!(
            f.finish_run(run, Verdict::Synchronized(None), 4)
                .await
                .len(),
            1
        );
    }
}

fn whole_listing(watch: WatchId) -> ListingPart<'static> {
    ListingPart {
        watch,
        dir: Path::new(""),
        part: 0,
        digest: &[7; 32],
    }
}

/// Calls what reads rows, and counts the refusals.
async fn read_everything(f: &Fixture) -> u32 {
    fn note<T>(refused: &mut u32, result: Result<T, Error>) -> Option<T> {
        *refused += u32::from(result.is_err());
        result.ok()
    }
    let mut refused = 0;
    let (now, ledger) = (at(100_000), &f.ledger);
    note(&mut refused, ledger.snapshot(now).await);
    note(&mut refused, ledger.summary(now).await);
    note(&mut refused, ledger.results_since(at(0)).await);
    note(&mut refused, ledger.known_in(f.watch, Path::new("")).await);
    let listing = whole_listing(f.watch);
    if let Some((_, changes)) = note(&mut refused, ledger.is_old_news(&listing).await) {
        note(&mut refused, ledger.keep_listing(&listing, changes).await);
    }
    let changed = [ready("a.dgn", 77)];
    note(&mut refused, ledger.hand_over(f.watch, &changed, now).await);
    note(&mut refused, ledger.next_upload_due(now).await);
    while let Some(Some(job)) = note(&mut refused, ledger.claim_upload(None, now).await) {
        let again = refusal(Again::Never);
        note(&mut refused, ledger.put_off(&job, &again, now).await);
    }
    note(&mut refused, ledger.imodel("imodel").await);
    note(&mut refused, ledger.backlog("imodel", now).await);
    if let Some(Some(open)) = note(&mut refused, ledger.open_run("imodel").await) {
        let files = note(&mut refused, ledger.files_in_run(open.id).await).unwrap_or_default();
        let outcomes: Vec<_> = files
            .into_iter()
            .map(|file| FileOutcome {
                file,
                storage_file_id: String::new(),
                stored_generation: 0,
                verdict: Verdict::Synchronized(None),
            })
            .collect();
        let end = ledger.finish_run(open.id, "Completed", "Success", &outcomes, now);
        note(&mut refused, end.await);
    }
    let connections = note(&mut refused, ledger.connections("imodel").await);
    for connection in connections.unwrap_or_default() {
        note(
            &mut refused,
            ledger.connection_files(connection.id, now).await,
        );
        note(
            &mut refused,
            ledger.begin_run(connection.id, now, now).await,
        );
    }
    refused
}

#[tokio::test]
async fn rows_that_hold_nonsense_are_errors_and_never_panics() {
    const TABLES: [&str; 8] = [
        "connections",
        "watches",
        "imodels",
        "folders",
        "runs",
        "files",
        "listings",
        "jobs",
    ];
    let nonsense = [
        "NULL",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5e300",
        "'napping'",
        "x'ff00'",
        "''",
    ];
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    f.hand_over("b.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    f.store(&job, 1, 2).await;
    f.begin_run(3).await;
    let listing = whole_listing(f.watch);
    let (_, changes) = f.ledger.is_old_news(&listing).await.unwrap();
    f.ledger.keep_listing(&listing, changes).await.unwrap();
    let Fixture { dir, ledger, watch } = f;
    let mut columns = Vec::new();
    for table in TABLES {
        let named: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(table)
            .fetch_all(ledger.db.writer())
            .await
            .unwrap();
        columns.extend(named.into_iter().map(|column| (table, column)));
    }
    ledger.close().await;
    let mut refused = 0;
    for (table, column) in columns {
        for value in nonsense {
            let copy = tempfile::tempdir().unwrap();
            let file = copy.path().join("ledger.db");
            std::fs::copy(dir.path().join("ledger.db"), &file).unwrap();
            let directory = StateDirectory::open(copy.path()).unwrap();
            let ledger = Ledger {
                db: Database::open_unchecked(directory).await,
                lock: None,
                forgotten: Arc::default(),
                moved_aside: None,
            };
            let sql = format!("UPDATE {table} SET {column} = {value}");
            // Some values break a constraint: those cannot be there.
            drop(
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .execute(ledger.db.writer())
                    .await,
            );
            let f = Fixture {
                dir: copy,
                ledger,
                watch,
            };
            refused += read_everything(&f).await;
        }
    }
    assert!(
        refused > 100,
        "the nonsense was noticed {refused} times only"
    );
}

#[tokio::test]
async fn a_ledger_with_a_word_that_nobody_wrote_is_moved_aside_at_the_next_start() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    sqlx::query("UPDATE jobs SET stage = 'napping'")
        .execute(f.ledger.db.writer())
        .await
        .unwrap();
    let error = f.ledger.claim_upload(None, at(1)).await.unwrap_err();
    f.ledger.mark_corrupt(&error);
    let Fixture { dir, ledger, .. } = f;
    drop(ledger);
    let next = Ledger::open(dir.path()).await.unwrap();
    let (path, what) = next.moved_aside().unwrap();
    assert!(path.join("ledger.db").exists());
    assert!(what.contains("claim a job"), "{what}");
    next.close().await;
    assert!(
        Ledger::open(dir.path())
            .await
            .unwrap()
            .moved_aside()
            .is_none()
    );
}

#[tokio::test]
async fn damage_where_no_start_looks_is_found_by_the_check_after_a_crash() {
    let Fixture { dir, ledger, .. } = Fixture::new().await;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(ledger.db.writer())
        .await
        .unwrap();
    let (page, size): (i64, i64) = sqlx::query_as(
        "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'folders'",
    )
    .fetch_one(ledger.db.writer())
    .await
    .unwrap();
    // As a kill leaves it: the lock file is not emptied.
    let Ledger { db, lock, .. } = ledger;
    db.close().await;
    drop(lock);
    let mut file = std::fs::File::options()
        .write(true)
        .open(dir.path().join("ledger.db"))
        .unwrap();
    let at = count_value((page - 1) * size);
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
    std::io::Write::write_all(&mut file, &[0x5A; 100]).unwrap();
    drop(file);
    let next = Ledger::open(dir.path()).await.unwrap();
    assert!(next.moved_aside().is_some());
}

#[tokio::test]
async fn what_something_outside_follows_from_does_not_count_before_it_is_on_the_disk() {
    let mut f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    let stored = StoredContent {
        version: job.version,
        content: content(1),
    };
    let connection = f.connection().await.id;
    // A log that cannot be written to the disk: it is a folder.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("ledger.db-wal")).unwrap();
    let unusable = StateDirectory::open(elsewhere.path()).unwrap();
    let broken = f.ledger.db.with_log_of(unusable);
    let good = std::mem::replace(&mut f.ledger.db, broken);
    let (ledger, now) = (&f.ledger, at(2));
    let mut refused = Vec::new();
    refused.push(ledger.record_create_sent(&job, "m", now).await.is_err());
    refused.push(
        ledger
            .record_blob_written(&job, &stored.content, now)
            .await
            .is_err(),
    );
    refused.push(ledger.record_restart(&job, now).await.is_err());
    ledger.record_storage_file(&job, "s", now).await.unwrap();
    let stamp = StorageStamp::default();
    ledger
        .finish_stored(&job, &stored, &stamp, now)
        .await
        .unwrap();
    let mappings = [Mapping {
        file: job.file,
        source_file_id: "source".to_owned(),
        connector: "MSTN".to_owned(),
        renewed: true,
        other_connector: false,
    }];
    refused.push(
        ledger
            .record_mappings(connection, &mappings, now)
            .await
            .is_err(),
    );
    refused.push(ledger.begin_run(connection, now, now).await.is_err());
    let run = ledger.open_run("imodel").await.unwrap().unwrap().id;
    refused.push(ledger.record_run(run, "r").await.is_err());
    refused.push(
        ledger
            .finish_run(run, "Completed", "Success", &[], now)
            .await
            .is_err(),
    );
    refused.push(ledger.record_pauses(&[], at(0)).await.is_err());
    assert_eq!(refused, [true; 8]);
    f.ledger.db = good;
    f.ledger.record_pauses(&[], at(0)).await.unwrap();
}

#[test]
fn ids_rise_even_if_the_clock_does_not() {
    let first = new_id(at(100));
    let later = new_id(at(100));
    let earlier_clock = new_id(at(100) - SignedDuration::from_hours(1));
    assert!(first < later && later < earlier_clock);
}

#[tokio::test]
async fn old_history_goes_but_what_became_of_each_file_last_stays() {
    let fixture = Fixture::new().await;
    for version in 1..=4 {
        let now = 1000 * version;
        fixture.hand_over("a.dgn", version, now).await;
        let job = fixture.claim(now).await.unwrap();
        fixture.ledger.finish_vanished(&job, at(now)).await.unwrap();
    }
    let reader = Ledger::read(fixture.dir.path()).await.unwrap();
    let file = reader.snapshot(at(5000)).await.unwrap().files.remove(0).id;
    let lines = async || {
        let story = reader.file_history(file).await.unwrap().unwrap();
        story.entries.iter().map(|line| line.at).collect::<Vec<_>>()
    };
    assert_eq!(lines().await.len(), 8);
    let gone = fixture.ledger.forget_history(at(3000)).await;
    assert_eq!(gone.unwrap(), 4);
    assert_eq!(lines().await, [at(3000), at(3000), at(4000), at(4000)]);
    fixture.ledger.forget_history(at(9000)).await.unwrap();
    assert_eq!(lines().await, [at(4000), at(4000)], "the last of the file");
}

/// The clock of a job that was put off by `at(0)` plus a minute, or the like, then jumps.
const JUMPS: [i64; 6] = [-400 * 86_400, -86_400, -3_600, -90, 86_400, 400 * 86_400];

fn transient(again: Again) -> Refusal {
    Refusal {
        kind: FailureKind::Transient,
        reason: "no answer".to_owned(),
        hint: None,
        again,
    }
}

#[tokio::test]
async fn whatever_the_clock_was_no_upload_waits_longer_than_its_own_pause() {
    for again in [
        Again::At(at(60)),
        Again::BusyUntil(at(60)),
        Again::FailedUntil(at(60)),
    ] {
        for jump in JUMPS {
            let f = Fixture::new().await;
            f.hand_over("a.dgn", 1, 0).await;
            let job = f.claim(0).await.unwrap();
            f.ledger
                .put_off(&job, &transient(again), at(0))
                .await
                .unwrap();
            assert!(f.claim(59).await.is_none(), "{again:?}");
            // Nobody noticed the jump.
            let claimed = f.claim(jump + 60).await;
            assert!(claimed.is_some(), "{again:?}, the clock jumped by {jump} s");
        }
    }
}

#[tokio::test]
async fn a_file_that_was_handed_over_or_stored_before_the_clock_was_set_back_does_not_wait() {
    for jump in JUMPS {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(jump).await.unwrap();
        f.store(&job, 1, 0).await;
        let now = at(jump);
        let backlog = f.ledger.backlog("imodel", now).await.unwrap();
        assert_eq!(backlog.waiting, 1, "{jump}");
        assert_eq!(f.batch(jump).await.len(), 1, "{jump}");
        let summary = f.ledger.summary(now).await.unwrap();
        assert_eq!((summary.pending, summary.later), (1, 0), "{jump}");
        let run = f.begin_run(jump).await;
        assert_eq!(f.ledger.run_size(run).await.unwrap(), 1, "{jump}");
    }
}

#[tokio::test]
async fn whatever_the_clock_was_a_watch_is_held_no_longer_than_was_meant_but_a_pause_stays() {
    for jump in JUMPS {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let hold = f.ledger.hold_watch(f.watch, at(60), "hangs", at(0));
        hold.await.unwrap();
        assert!(f.claim(59).await.is_none());
        let job = f.claim(jump + 60).await;
        f.ledger.unclaim(&job.unwrap()).await.unwrap();
        // A hold of the clock as it is now takes the place of the void one.
        let hold = f
            .ledger
            .hold_watch(f.watch, at(jump + 20), "hangs", at(jump));
        hold.await.unwrap();
        if jump < 0 {
            assert!(f.claim(jump + 10).await.is_none(), "{jump}");
        }
        let names = ["north".to_owned()];
        f.ledger.pause_watches(&names, at(0)).await.unwrap();
        assert!(f.claim(jump).await.is_none(), "{jump}: it is paused");
    }
}

#[tokio::test]
async fn a_jump_that_is_noticed_moves_every_pause_with_it() {
    for jump in JUMPS {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        f.hand_over("b.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        let again = transient(Again::At(at(60)));
        f.ledger.put_off(&job, &again, at(0)).await.unwrap();
        let hold = f.ledger.hold_watch(f.watch, at(30), "hangs", at(0));
        hold.await.unwrap();
        let moved = SignedDuration::from_secs(jump);
        f.ledger.follow_clock(moved).await.unwrap();
        assert!(f.claim(jump + 29).await.is_none(), "{jump}");
        assert_eq!(f.claim(jump + 30).await.unwrap().path, Path::new("b.dgn"));
        assert!(f.claim(jump + 59).await.is_none(), "{jump}");
        let job = f.claim(jump + 60).await.unwrap();
        assert_eq!(job.failing_since, Some(at(jump)));
    }
}

#[tokio::test]
async fn what_a_clock_that_was_ahead_has_left_is_corrected_once() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    let again = transient(Again::At(at(60)));
    f.ledger.put_off(&job, &again, at(0)).await.unwrap();
    assert_eq!(f.ledger.correct_times(at(30)).await.unwrap(), 0);
    let now = at(-86_400);
    assert!(f.ledger.correct_times(now).await.unwrap() > 0);
    assert_eq!(f.ledger.correct_times(now).await.unwrap(), 0);
    let job = f.claim(-86_400).await.unwrap();
    assert_eq!(job.failing_since, Some(now));
}

#[tokio::test]
async fn a_host_is_left_alone_no_longer_than_it_asked_for() {
    let f = Fixture::new().await;
    let pause = ("host".to_owned(), at(60));
    f.ledger.record_pauses(&[pause], at(0)).await.unwrap();
    for (now, until) in [(10, 60), (100, 60), (-86_400, -86_400 + 60)] {
        let pauses = f.ledger.pauses(at(now)).await.unwrap();
        assert_eq!(pauses, [("host".to_owned(), at(until))], "at {now}");
    }
}

#[tokio::test]
async fn the_search_for_times_that_are_ahead_of_the_clock_reads_no_other_job() {
    let f = Fixture::new().await;
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "EXPLAIN QUERY PLAN SELECT j.file_id, j.due_at FROM jobs j \
         JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
         WHERE j.due_at - j.pause > 1 + 5000 AND COALESCE(j.state, '') IN ('due', 'failed') \
         AND (w.held_until <= 1 OR w.held_since > 1 + 5000) AND f.size <= 10 LIMIT 1",
    )
    .fetch_all(f.ledger.db.writer())
    .await
    .unwrap();
    let plan: Vec<String> = plan.into_iter().map(|row| row.3).collect();
    assert!(plan[0].contains("USING INDEX jobs_set"), "{plan:#?}");
    assert!(plan.iter().all(|step| !step.contains("SCAN")), "{plan:#?}");
}

#[tokio::test]
async fn what_was_seen_in_storage_before_a_newer_upload_changes_nothing_after_it() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    f.store(&job, 1, 1).await;
    let before = f.batch(2).await.remove(0);
    f.hand_over("a.dgn", 2, 3).await;
    let job = f.claim(4).await.unwrap();
    f.store(&job, 2, 5).await;
    f.ledger.upload_again(&before, at(6), at(6)).await.unwrap();
    f.ledger.compare_again(&before, at(6), at(6)).await.unwrap();
    let file = f.file("a.dgn").await;
    assert_eq!(file.job, Some(JobState::Stored));
    assert!(file.storage_file_id.is_some());
    // Nor does the end of a run that was judged by it.
    let run = f.begin_run(7).await;
    let old = FileOutcome {
        file: before.file,
        storage_file_id: before.storage_file_id,
        stored_generation: before.stored.generation,
        verdict: Verdict::Synchronized(None),
    };
    let reports = f
        .ledger
        .finish_run(run, "Completed", "Success", &[old], at(8))
        .await
        .unwrap();
    assert!(reports.is_empty());
    assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
}
