use std::path::Path;

use super::super::fixture::*;
use super::super::*;

/// A ledger in which "north@b" follows "north".
struct Pair {
    ledger: Ledger,
    north: WatchId,
    follower: WatchId,
    _dir: tempfile::TempDir,
}

fn specs() -> [WatchSpec; 2] {
    let follower = WatchSpec {
        name: "north@b".to_owned(),
        imodel_id: "b".into(),
        follows: Some("north".to_owned()),
        ..spec("north")
    };
    [spec("north"), follower]
}

fn stamp(modified: &str) -> StorageStamp {
    StorageStamp {
        modified: Some(modified.to_owned()),
        ..StorageStamp::default()
    }
}

impl Pair {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path()).await.unwrap();
        let registered = ledger.register_watches(&specs(), at(0)).await.unwrap();
        Self {
            ledger,
            north: registered[0].id,
            follower: registered[1].id,
            _dir: dir,
        }
    }

    async fn hand_over(&self, watch: WatchId, path: &str, n: i64, second: i64) {
        let ready = [ready(path, n)];
        self.ledger
            .hand_over(watch, &ready, at(second))
            .await
            .unwrap();
    }

    async fn claim(&self, watch: WatchId, second: i64) -> Option<UploadJob> {
        let claimed = self.ledger.claim_upload_of(watch, None, at(second)).await;
        claimed.unwrap()
    }

    async fn follow(&self, second: i64) -> Following {
        let job = self.claim(self.follower, second).await.unwrap();
        self.ledger.follow(&job, at(second)).await.unwrap()
    }

    /// Uploads what is due of "north", and returns the job. `n` is the content, `modified` the time that storage shows.
    async fn upload(&self, n: u8, modified: &str, second: i64) -> UploadJob {
        let mut job = self.claim(self.north, second).await.unwrap();
        self.finish(&mut job, n, modified, second).await;
        job
    }

    async fn finish(&self, job: &mut UploadJob, n: u8, modified: &str, second: i64) {
        if job.storage_file_id.is_none() {
            let id = format!("storage {}", job.path.display()).as_str().into();
            self.ledger
                .record_storage_file(job, &id, at(second))
                .await
                .unwrap();
            job.storage_file_id = Some(id);
        }
        let stored = StoredContent {
            version: job.version,
            content: content(n),
        };
        self.ledger
            .finish_stored(job, &stored, &stamp(modified), at(second))
            .await
            .unwrap();
    }

    async fn connection(&self) -> ConnectionId {
        let connections = self.ledger.connections(&"b".into()).await.unwrap();
        connections[0].id
    }

    async fn files(&self, second: i64) -> Vec<ConnectionFile> {
        let connection = self.connection().await;
        let files = self.ledger.connection_files(connection, at(second)).await;
        files.unwrap()
    }

    async fn begin_run(&self, second: i64) -> RunId {
        let mappings: Vec<Mapping> = self
            .files(second)
            .await
            .into_iter()
            .map(|file| Mapping {
                file: file.file,
                source_file_id: "source".to_owned(),
                connector: file.connector,
                last_reader: LastReader::Same,
            })
            .collect();
        let connection = self.connection().await;
        self.ledger
            .record_mappings(connection, &mappings, at(second))
            .await
            .unwrap();
        let run = self
            .ledger
            .begin_run(connection, at(second), at(second))
            .await;
        run.unwrap()
    }

    async fn finish_run(&self, run: RunId, verdict: Verdict, second: i64) -> usize {
        let files = self.files(second).await.into_iter();
        let outcomes: Vec<FileOutcome> = files
            .map(|file| FileOutcome {
                file: file.file,
                storage_file_id: file.storage_file_id,
                stored_generation: file.stored.generation,
                verdict: verdict.clone(),
            })
            .collect();
        let reports = self
            .ledger
            .finish_run(run, "Completed", "Success", &outcomes, at(second));
        reports.await.unwrap().len()
    }

    /// "a.dgn" in both iModels.
    async fn synchronized(&self) {
        self.hand_over(self.north, "a.dgn", 1, 0).await;
        self.hand_over(self.follower, "a.dgn", 1, 0).await;
        self.upload(1, "1", 1).await;
        self.follow(1).await;
        let run = self.begin_run(2).await;
        assert_eq!(
            self.finish_run(run, Verdict::Synchronized(None), 3).await,
            1
        );
    }

    async fn file(&self, watch: &str, path: &str) -> FileReport {
        let files = self.ledger.snapshot(at(0)).await.unwrap().files;
        files
            .into_iter()
            .find(|file| file.watch == watch && file.path == Path::new(path))
            .unwrap()
    }
}

#[tokio::test]
async fn a_file_waits_for_the_upload_by_the_other_watch_and_takes_it_over() {
    let f = Pair::new().await;
    f.hand_over(f.follower, "a.dgn", 1, 0).await;
    assert_eq!(f.follow(0).await, Following::Waiting);
    f.hand_over(f.north, "a.dgn", 1, 1).await;
    let mut job = f.claim(f.north, 1).await.unwrap();
    assert!(f.claim(f.follower, 1000).await.is_none(), "it is not due");
    f.finish(&mut job, 1, "1", 2).await;
    assert_eq!(
        f.follow(2).await,
        Following::InStorage(UploadResult::AwaitsRun)
    );
    let files = f.files(3).await;
    assert_eq!(
        (files[0].storage_file_id.as_str(), files[0].awaits_run()),
        ("storage a.dgn", true)
    );
}

#[tokio::test]
async fn another_version_than_the_one_in_storage_waits() {
    let f = Pair::new().await;
    f.synchronized().await;
    f.hand_over(f.follower, "a.dgn", 2, 4).await;
    assert_eq!(f.follow(4).await, Following::Waiting);
    f.hand_over(f.north, "a.dgn", 2, 5).await;
    f.upload(2, "2", 5).await;
    assert_eq!(
        f.follow(5).await,
        Following::InStorage(UploadResult::AwaitsRun)
    );
}

#[tokio::test]
async fn a_touched_file_needs_no_run() {
    let f = Pair::new().await;
    f.synchronized().await;
    f.hand_over(f.north, "a.dgn", 2, 4).await;
    f.hand_over(f.follower, "a.dgn", 2, 4).await;
    let job = f.claim(f.north, 4).await.unwrap();
    f.ledger.finish_unchanged(&job, at(4)).await.unwrap();
    assert_eq!(f.follow(4).await, Following::InStorage(UploadResult::Done));
    assert_eq!(
        f.file("north@b", "a.dgn").await.outcome,
        Some(Outcome::Unchanged)
    );
}

#[tokio::test]
async fn content_that_was_replaced_and_put_back_needs_a_run() {
    let f = Pair::new().await;
    f.synchronized().await;
    for (n, modified, second) in [(2, "2", 4), (1, "3", 5)] {
        f.hand_over(f.north, "a.dgn", second, second).await;
        f.upload(n, modified, second).await;
    }
    f.hand_over(f.follower, "a.dgn", 5, 6).await;
    assert_eq!(
        f.follow(6).await,
        Following::InStorage(UploadResult::AwaitsRun)
    );
}

#[tokio::test]
async fn a_run_during_which_the_other_watch_uploads_synchronizes_nothing() {
    for is_complete in [false, true] {
        let f = Pair::new().await;
        f.hand_over(f.north, "a.dgn", 1, 0).await;
        f.hand_over(f.follower, "a.dgn", 1, 0).await;
        f.upload(1, "1", 1).await;
        f.follow(1).await;
        let run = f.begin_run(2).await;
        f.hand_over(f.north, "a.dgn", 2, 3).await;
        let mut job = f.claim(f.north, 3).await.unwrap();
        if is_complete {
            f.finish(&mut job, 2, "2", 3).await;
        }
        assert_eq!(f.finish_run(run, Verdict::Synchronized(None), 4).await, 0);
        let file = f.file("north@b", "a.dgn").await;
        assert_eq!((file.outcome, file.job), (None, Some(JobState::Due)));
        assert_eq!(f.follow(5).await, Following::Waiting, "its version is 1");
        f.hand_over(f.follower, "a.dgn", 2, 6).await;
        if !is_complete {
            f.finish(&mut job, 2, "2", 6).await;
        }
        assert_eq!(
            f.follow(7).await,
            Following::InStorage(UploadResult::AwaitsRun)
        );
    }
}

#[tokio::test]
async fn a_renamed_file_keeps_its_record_and_needs_no_run() {
    let f = Pair::new().await;
    f.synchronized().await;
    // Renamed in storage as well.
    sql::query("UPDATE files SET name = $2 WHERE watch_id = $1")
        .bind(f.north)
        .bind(&b"b.dgn"[..])
        .execute(&mut f.ledger.db.connection().await)
        .await
        .unwrap();
    f.hand_over(f.follower, "b.dgn", 1, 4).await;
    assert_eq!(
        f.follow(4).await,
        Following::Renamed(Path::new("a.dgn").to_owned())
    );
    assert_eq!(f.follow(5).await, Following::InStorage(UploadResult::Done));
    let file = f.file("north@b", "b.dgn").await;
    assert_eq!(file.outcome, Some(Outcome::Renamed));
    assert_eq!(f.files(6).await.len(), 1);
}

#[tokio::test]
async fn what_others_did_to_a_storage_file_concerns_the_watch_that_uploads_it() {
    let f = Pair::new().await;
    f.synchronized().await;
    let file = f.files(4).await.remove(0);
    f.ledger.compare_again(&file, at(4), at(4)).await.unwrap();
    let job = f.claim(f.north, 4).await.unwrap();
    assert!(job.unverified);
    assert_eq!(f.follow(4).await, Following::Waiting);

    let f = Pair::new().await;
    f.synchronized().await;
    let file = f.files(4).await.remove(0);
    f.ledger.upload_again(&file, at(4), at(4)).await.unwrap();
    let job = f.claim(f.north, 4).await.unwrap();
    assert_eq!(job.storage_file_id, None);
}

#[tokio::test]
async fn content_that_runs_of_the_follower_leave_out_is_sent_again() {
    let f = Pair::new().await;
    f.synchronized().await;
    let run = f.begin_run(4).await;
    let again = Verdict::SendAgain(refusal(Again::At(at(9))));
    f.finish_run(run, again, 4).await;
    let job = f.claim(f.north, 5).await.unwrap();
    assert!(job.send_again);
    assert!(f.claim(f.follower, 5).await.is_none());
    assert_eq!(f.follow(10).await, Following::Waiting);
    f.finish(&mut job.clone(), 1, "2", 11).await;
    assert_eq!(
        f.follow(11).await,
        Following::InStorage(UploadResult::AwaitsRun)
    );
}

#[tokio::test]
async fn a_storage_file_belongs_to_the_watch_that_uploads_it() {
    let f = Pair::new().await;
    f.synchronized().await;
    let north: FileId = sql::query_scalar("SELECT id FROM files WHERE watch_id = $1")
        .bind(f.north)
        .fetch_one(&mut f.ledger.db.connection().await)
        .await
        .unwrap();
    assert_eq!(
        f.ledger
            .owns_storage_file(&"storage a.dgn".into())
            .await
            .unwrap(),
        Some(north)
    );
}

#[tokio::test]
async fn imodels_of_different_itwins_follow_nothing() {
    let f = Pair::new().await;
    for (imodel, root) in [("imodel", "root"), ("b", "other root")] {
        let record = ImodelRecord {
            itwin_id: root.into(),
            root_folder_id: root.to_owned(),
        };
        f.ledger
            .remember_imodel(&imodel.into(), &record)
            .await
            .unwrap();
    }
    f.hand_over(f.follower, "a.dgn", 1, 0).await;
    assert_eq!(f.follow(0).await, Following::Waiting, "not yet registered");
    f.ledger.register_watches(&specs(), at(1)).await.unwrap();
    assert_eq!(f.follow(1).await, Following::Independent);
}

#[tokio::test]
async fn the_order_of_the_imodels_may_change() {
    let f = Pair::new().await;
    f.synchronized().await;
    let [first, second] = specs();
    let first = WatchSpec {
        imodel_id: second.imodel_id.clone(),
        ..first
    };
    let second = WatchSpec {
        name: "north@imodel".to_owned(),
        imodel_id: "imodel".into(),
        ..second
    };
    let registered = f.ledger.register_watches(&[first, second], at(4)).await;
    let registered: Vec<WatchId> = registered.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(registered, [f.follower, f.north]);
    f.hand_over(f.follower, "a.dgn", 2, 5).await;
    let job = f.claim(f.follower, 5).await.unwrap();
    assert_eq!(
        f.ledger.follow(&job, at(5)).await.unwrap(),
        Following::Independent
    );
}
