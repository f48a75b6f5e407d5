//! Any order of changes, uploads, runs, failures and restarts, against a model of folder, storage and iModel.
//!
//! The model plays the stages around the ledger: the watch that hands over what it sees, workers that take their steps
//! one at a time and may be lost between any two of them, and a synchronizer. What it checks is what the ledger
//! promises.
//!
//! Longer than most files because the model, its operations and the two properties are read together.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot continue should stop here"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use proptest::prelude::*;

use super::fixture::*;
use super::*;
use crate::connector_type::ConnectorType;
use crate::next_attempt::{after, after_foreign_change};
use crate::retry::Policy;

const FILES: [&str; 4] = ["a.dgn", "b.dgn", "in/c.dgn", "in/d.dgn"];

/// What happens next.
#[derive(Debug, Clone)]
enum Op {
    /// A user saves a file; `content` may be what it held before.
    Save {
        file: usize,
        content: u8,
    },
    Remove {
        file: usize,
    },
    /// The watch sees a file settled.
    HandOver {
        file: usize,
    },
    Claim,
    /// The worker of a claimed job takes its next step.
    Step {
        worker: usize,
    },
    /// The worker's request fails.
    Fail {
        worker: usize,
        final_: bool,
    },
    RequestRun,
    /// Bits say which files of the run succeed.
    EndRun {
        good: u8,
    },
    LoseRun,
    /// Kill and start.
    Restart,
    Wait {
        seconds: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES.len();
    prop_oneof![
        4 => (file.clone(), 0..3_u8).prop_map(|(file, content)| Op::Save { file, content }),
        1 => file.clone().prop_map(|file| Op::Remove { file }),
        6 => file.prop_map(|file| Op::HandOver { file }),
        5 => Just(Op::Claim),
        12 => (0..2_usize).prop_map(|worker| Op::Step { worker }),
        2 => (0..2_usize, any::<bool>()).prop_map(|(worker, final_)| Op::Fail { worker, final_ }),
        3 => Just(Op::RequestRun),
        3 => any::<u8>().prop_map(|good| Op::EndRun { good }),
        1 => Just(Op::LoseRun),
        2 => Just(Op::Restart),
        2 => (1..5000_i64).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

/// A file on disk: its fingerprint and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Local {
    print: i64,
    content: u8,
}

/// A worker with its job, and the step that it takes next.
#[derive(Debug)]
struct Worker {
    job: UploadJob,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Look,
    Send(Local),
    Complete(StoredContent),
    Record(StoredContent),
}

struct World {
    dir: tempfile::TempDir,
    ledger: Option<Ledger>,
    watch: WatchId,
    second: i64,
    prints: i64,
    local: BTreeMap<PathBuf, Local>,
    /// Bytes that were sent and not completed.
    sent: BTreeMap<PathBuf, u8>,
    storage: BTreeMap<PathBuf, u8>,
    imodel: BTreeMap<PathBuf, u8>,
    workers: Vec<Worker>,
    /// The current run, and what storage had when it was requested.
    run: Option<(RunId, BTreeMap<PathBuf, u8>)>,
}

fn content_of(byte: u8) -> Content {
    Content {
        digest: [byte; 32],
        bytes: 10,
    }
}

fn refusal(again: Again) -> Refusal {
    Refusal {
        kind: FailureKind::Transient,
        reason: "injected by the test".to_owned(),
        hint: None,
        again,
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self {
            ledger: None,
            watch: WatchId(0),
            dir,
            second: 0,
            prints: 0,
            local: BTreeMap::new(),
            sent: BTreeMap::new(),
            storage: BTreeMap::new(),
            imodel: BTreeMap::new(),
            workers: Vec::new(),
            run: None,
        };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let ledger = open(self.dir.path()).await.unwrap();
        let spec = WatchSpec {
            settings: String::new(),
            name: "north".to_owned(),
            follows: None,
            formerly: None,
            path: "/srv/north".into(),
            imodel_wait: None,
            imodel_id: "imodel".into(),
            storage_folder: String::new(),
            withdrawal: crate::ledger::WithdrawalPolicy::default(),
            bulk_change_limits: BulkChangeLimits {
                changed_files: 1000,
                new_files: 1000,
            },
            connection: "itwin-syncd".to_owned().into(),
        };
        let now = self.now();
        self.watch = ledger.register_watches(&[spec], now).await.unwrap()[0].id;
        self.ledger = Some(ledger);
    }

    fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.second).unwrap()
    }

    async fn apply(&mut self, op: &Op) {
        self.second += 1;
        match op {
            Op::Save { file, content } => {
                self.prints += 1;
                let (print, content) = (self.prints, *content);
                let path = PathBuf::from(FILES[*file]);
                self.local.insert(path, Local { print, content });
            }
            Op::Remove { file } => drop(self.local.remove(&PathBuf::from(FILES[*file]))),
            Op::HandOver { file } => self.hand_over(PathBuf::from(FILES[*file])).await,
            Op::Claim => drop(self.workers.len() < 2 && self.claim().await),
            Op::Step { worker } => self.step(*worker).await,
            Op::Fail { worker, final_ } => self.fail(*worker, *final_).await,
            Op::RequestRun => self.request_run().await,
            Op::EndRun { good } => self.end_run(*good).await,
            Op::LoseRun => {
                if let Some((run, _)) = self.run.take() {
                    self.ledger().abandon_run(run, self.now()).await.unwrap();
                }
            }
            Op::Restart => {
                self.workers.clear();
                // As a kill: nothing is closed in order.
                self.ledger = None;
                self.start().await;
            }
            Op::Wait { seconds } => self.second += seconds,
        }
    }

    async fn hand_over(&mut self, path: PathBuf) {
        let Some(local) = self.local.get(&path) else {
            return;
        };
        let ready = Ready {
            path,
            fingerprint: print(local.print),
            connector: Some(ConnectorType::new("MSTN")),
            set_stem: None,
        };
        let now = self.now();
        self.ledger()
            .hand_over(self.watch, &[ready], now)
            .await
            .unwrap();
    }

    async fn claim(&mut self) -> bool {
        let now = self.now();
        let Some(job) = self.ledger().claim_upload(None, now).await.unwrap() else {
            return false;
        };
        assert!(
            self.workers.iter().all(|other| other.job.file != job.file),
            "one file, two workers"
        );
        self.workers.push(Worker {
            job,
            next: Next::Look,
        });
        true
    }

    /// The worker's next step: each ends with at most one transaction or one effect in the cloud.
    async fn step(&mut self, worker: usize) {
        if worker >= self.workers.len() {
            return;
        }
        let Worker { mut job, next } = self.workers.remove(worker);
        let now = self.now();
        let path = job.path.clone();
        let next = match next {
            Next::Look => match job.written.clone() {
                Some(written)
                    if job.stage.0 == Stage::BlobWritten && written.version == job.version =>
                {
                    Some(Next::Complete(written))
                }
                _ => self.look(&mut job).await,
            },
            Next::Send(seen) => {
                self.sent.insert(path.clone(), seen.content);
                let content = content_of(seen.content);
                // It is probed once more before it counts.
                if self.local.get(&path) == Some(&seen) {
                    self.ledger()
                        .record_blob_written(&job, &content, now)
                        .await
                        .unwrap();
                    let version = job.version;
                    Some(Next::Complete(StoredContent { version, content }))
                } else {
                    self.put_off(&job, Again::BusyUntil(now)).await;
                    None
                }
            }
            Next::Complete(stored) => {
                self.storage.insert(path.clone(), self.sent[&path]);
                Some(Next::Record(stored))
            }
            Next::Record(stored) => {
                self.ledger()
                    .finish_stored(&job, &stored, &StorageStamp::default(), now)
                    .await
                    .unwrap();
                None
            }
        };
        if let Some(next) = next {
            self.workers.push(Worker { job, next });
        }
    }

    async fn look(&mut self, job: &mut UploadJob) -> Option<Next> {
        let now = self.now();
        let Some(local) = self.local.get(&job.path).copied() else {
            self.ledger().finish_vanished(job, now).await.unwrap();
            return None;
        };
        if job.fingerprint != Some(print(local.print)) {
            self.put_off(job, Again::BusyUntil(now)).await;
            return None;
        }
        let same = job
            .stored
            .as_ref()
            .is_some_and(|stored| stored.content == content_of(local.content));
        if same && !job.send_again && job.stage.0 == Stage::Planned {
            self.ledger().finish_unchanged(job, now).await.unwrap();
            return None;
        }
        if job.storage_file_id.is_none() {
            let id = format!("storage {}", job.path.display());
            self.ledger()
                .record_storage_file(job, &id.as_str().into(), now)
                .await
                .unwrap();
            job.storage_file_id = Some(id.into());
        } else {
            self.ledger().record_restart(job, now).await.unwrap();
        }
        Some(Next::Send(local))
    }

    async fn put_off(&self, job: &UploadJob, again: Again) {
        self.ledger()
            .put_off(job, &refusal(again), self.now())
            .await
            .unwrap();
    }

    async fn fail(&mut self, worker: usize, final_: bool) {
        // An answer that came is not taken back.
        if worker >= self.workers.len() || matches!(self.workers[worker].next, Next::Record(_)) {
            return;
        }
        let worker = self.workers.remove(worker);
        let again = if final_ {
            Again::Never
        } else {
            Again::At(self.now())
        };
        self.put_off(&worker.job, again).await;
    }

    async fn request_run(&mut self) {
        if self.run.is_some() {
            return;
        }
        let now = self.now();
        let connection = self.ledger().connections(&"imodel".into()).await.unwrap()[0].id;
        let files = self.ledger().connection_files(connection, now).await;
        let mut batch = files.unwrap();
        batch.retain(ConnectionFile::awaits_run);
        if batch.is_empty() {
            return;
        }
        let mappings: Vec<_> = batch
            .into_iter()
            .filter(|file| file.mapped_connector.is_none())
            .map(|file| Mapping {
                file: file.file,
                source_file_id: format!("source {}", file.path.display()),
                connector: file.connector,
                last_reader: LastReader::Same,
            })
            .collect();
        if !mappings.is_empty() {
            let ledger = self.ledger();
            ledger
                .record_mappings(connection, &mappings, now)
                .await
                .unwrap();
        }
        let run = self.ledger().begin_run(connection, now, now).await.unwrap();
        self.run = Some((run, self.storage.clone()));
    }

    async fn end_run(&mut self, good: u8) {
        let Some((run, seen)) = self.run.take() else {
            return;
        };
        let now = self.now();
        let in_run = self.ledger().files_in_run(run).await.unwrap();
        let connection = self.ledger().connections(&"imodel".into()).await.unwrap()[0].id;
        let files = self.ledger().connection_files(connection, now).await;
        let mut files = files.unwrap();
        files.retain(|file| in_run.contains(&file.file));
        let mut outcomes = Vec::new();
        for (bit, file) in files.iter().enumerate() {
            let verdict = if good >> bit & 1 == 1 {
                self.imodel.insert(file.path.clone(), seen[&file.path]);
                Verdict::Synchronized(None)
            } else if good >> 7 & 1 == 1 {
                Verdict::Refused(refusal(Again::At(self.now())))
            } else {
                Verdict::SendAgain(refusal(Again::At(self.now())))
            };
            outcomes.push(FileOutcome {
                file: file.file,
                storage_file_id: file.storage_file_id.clone(),
                stored_generation: file.stored.generation,
                verdict,
            });
        }
        let now = self.now();
        self.ledger()
            .finish_run(run, "Completed", "PartialSuccess", &outcomes, now)
            .await
            .unwrap();
    }

    /// True at every moment: a file that counts as done is in the iModel as it was handed over last.
    async fn check(&self) {
        assert_counts_are_right(&mut self.ledger().db.connection().await).await;
        for file in self.ledger().snapshot(self.now()).await.unwrap().files {
            if file.job.is_some() || !is_done(&file) {
                continue;
            }
            let known = self.ledger().known(self.watch, &file.path).await.unwrap();
            let handed_over = known.and_then(|known| known.fingerprint);
            let local = self.local.get(&file.path);
            if let Some(local) = local
                && handed_over == Some(print(local.print))
            {
                let there = self.imodel.get(&file.path);
                assert_eq!(
                    there,
                    Some(&local.content),
                    "{} is not done",
                    file.path.display()
                );
            }
        }
    }

    /// Once nothing goes wrong any more, everything comes to its end.
    async fn settle_all(&mut self) {
        for path in FILES {
            self.hand_over(PathBuf::from(path)).await;
        }
        for _ in 0..20 {
            self.second += 10_000;
            while !self.workers.is_empty() || self.claim().await {
                self.step(0).await;
            }
            self.request_run().await;
            self.end_run(0xFF).await;
        }
        let files = self.ledger().snapshot(self.now()).await.unwrap().files;
        for (path, local) in &self.local {
            let file = files.iter().find(|file| file.path == *path).unwrap();
            if file.job == Some(JobState::Failed) {
                assert!(file.reason.is_some(), "{file:?}");
                continue;
            }
            assert_eq!(file.job, None, "{file:?}");
            assert!(is_done(file), "{file:?}");
            assert_eq!(self.storage.get(path), Some(&local.content), "{file:?}");
            assert_eq!(self.imodel.get(path), Some(&local.content), "{file:?}");
        }
    }
}

fn is_done(file: &FileReport) -> bool {
    matches!(
        file.outcome,
        Some(Outcome::Synchronized | Outcome::Unchanged)
    )
}

fn print(n: i64) -> Fingerprint {
    Fingerprint {
        size: 10,
        mtime_ns: n,
        ctime_ns: n,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_ends_with_every_file_in_the_imodel(ops in proptest::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in &ops {
                world.apply(op).await;
                world.check().await;
            }
            world.settle_all().await;
        });
    }
}

/// How an attempt may end for a job in hand, or a run for a file in it, while the clock stands still.
#[derive(Debug, Clone, Copy)]
enum End {
    Stored,
    Unchanged,
    Adopted,
    StorageFileGone,
    PutOff,
    RunGood,
    RunBad,
    LeftOut,
    LostInStorage,
    Overwritten,
    Restarted,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Stored),
        Just(End::Unchanged),
        Just(End::Adopted),
        Just(End::StorageFileGone),
        Just(End::PutOff),
        Just(End::RunGood),
        Just(End::RunBad),
        Just(End::LeftOut),
        Just(End::LostInStorage),
        Just(End::Overwritten),
        Just(End::Restarted),
    ]
}

/// Claims of one job without any change of its file and without a pause: each of the ways back that are free once.
const CLAIMS_WITHOUT_PAUSE: u32 = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_outcomes_makes_a_job_due_again_and_again_without_a_pause(ends in proptest::collection::vec(end(), 20..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let path = PathBuf::from(FILES[0]);
            world.local.insert(path.clone(), Local { print: 1, content: 1 });
            world.hand_over(path).await;
            let mut claims = 0;
            for end in ends {
                claims += u32::from(world.end_attempt(end).await);
            }
            assert!(claims <= CLAIMS_WITHOUT_PAUSE, "{claims} claims");
        });
    }
}

impl World {
    /// Claims the job if it is due and ends the attempt, or ends a run of what waits for one. True: it was claimed.
    async fn end_attempt(&mut self, end: End) -> bool {
        let policy = Policy {
            first: std::time::Duration::from_secs(5),
            max: std::time::Duration::from_secs(900),
        };
        let now = self.now();
        let connection = self.ledger().connections(&"imodel".into()).await.unwrap()[0].id;
        let files = self.ledger().connection_files(connection, now).await;
        let waiting = files.unwrap().pop().filter(ConnectionFile::awaits_run);
        if let Some(file) = waiting {
            let due = after_foreign_change(file.stored.overwrites, &policy, now);
            let verdict = match end {
                End::RunGood => Verdict::Synchronized(None),
                End::RunBad => Verdict::Refused(refusal(Again::At(after(now, policy.first)))),
                End::LeftOut => Verdict::SendAgain(refusal(Again::At(after(now, policy.first)))),
                End::LostInStorage => Verdict::LostInStorage(due),
                End::Overwritten => Verdict::Overwritten(due),
                _ => return false,
            };
            self.request_run().await;
            let (run, _) = self.run.take().unwrap();
            let outcome = FileOutcome {
                file: file.file,
                storage_file_id: file.storage_file_id,
                stored_generation: file.stored.generation,
                verdict,
            };
            let outcomes = [outcome];
            let ledger = self.ledger();
            let ended = ledger.finish_run(run, "Completed", "Success", &outcomes, now);
            ended.await.unwrap();
            return false;
        }
        let Some(mut job) = self.ledger().claim_upload(None, now).await.unwrap() else {
            return false;
        };
        match end {
            End::Unchanged if job.stored.is_some() && !job.send_again => {
                self.ledger().finish_unchanged(&job, now).await.unwrap();
            }
            End::Adopted => {
                let due = match job.attempt {
                    1 => now,
                    attempt => after(now, policy.delay(attempt, None)),
                };
                self.ledger()
                    .adopt(&job, &"storage".into(), due, now)
                    .await
                    .unwrap();
            }
            // A new storage file is made in the same attempt.
            End::StorageFileGone | End::Stored | End::Unchanged => {
                if matches!(end, End::StorageFileGone) {
                    self.ledger().forget_storage_file(job.file).await.unwrap();
                }
                let ledger = self.ledger();
                ledger
                    .record_storage_file(&job, &"storage".into(), now)
                    .await
                    .unwrap();
                job.storage_file_id = Some("storage".into());
                let stored = StoredContent {
                    version: job.version,
                    content: content_of(1),
                };
                let stamp = StorageStamp::default();
                ledger
                    .finish_stored(&job, &stored, &stamp, now)
                    .await
                    .unwrap();
            }
            End::Restarted => {
                self.ledger = None;
                self.start().await;
            }
            _ => {
                let pause = policy.delay(job.attempt, None);
                self.put_off(&job, Again::At(after(now, pause))).await;
            }
        }
        // A start is no loop of ours.
        !matches!(end, End::Restarted)
    }
}
