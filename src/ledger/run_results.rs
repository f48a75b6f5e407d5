//! The end of a run: the outcome of each of its files.
use std::path::PathBuf;

use jiff::Timestamp;

use super::counterparts::{follow_again, is_replaced, leader};
use super::failures::refuse;
use super::foreign_changes::{lost_in_storage, overwritten_in_storage, send_again};
use super::history::Step;
use super::relocations::relocate_next;
use super::results::{NewResult, insert_result};
use super::row::join;
use super::runs::release_files;
use super::sets::set_open;
use super::stored_job::insert_stored_job;
use super::transitions::delete_job;
use super::{
    Again, Error, FailureKind, FileId, JobState, Ledger, Outcome, Refusal, RunId, Tx, count_value,
    millis, sql,
};
use super::{named_versions, references};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;

/// What a run made of one file.
#[derive(Debug, Clone)]
pub struct FileOutcome {
    /// The file.
    pub file: FileId,
    /// Its storage file, as it was when it was judged.
    pub storage_file_id: StorageFileId,
    /// The generation of its content, as it was when it was judged.
    pub stored_generation: i64,
    /// The outcome.
    pub verdict: Verdict,
}

/// The outcome of a run for one file.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is in the iModel; with what the connector reported beside that, if it reported anything.
    Synchronized(Option<Issues>),
    /// It is not; the refusal says why and when to run it again.
    Refused(Refusal),
    /// It is not, and more runs alone will not help: the next attempt uploads it again, even if storage has the same
    /// bytes.
    SendAgain(Refusal),
    /// Its storage file is gone: it has to be uploaded again, not before this time.
    LostInStorage(Timestamp),
    /// Its storage file was changed by someone else: it has to be compared, not before this time.
    Overwritten(Timestamp),
}

/// What a connector reported of a file that it brought into the iModel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Issues {
    /// Errors.
    pub errors: u64,
    /// Warnings.
    pub warnings: u64,
    /// Issues of other kinds.
    pub others: u64,
    /// The report in one sentence.
    pub reason: String,
    /// What the connector suggests.
    pub hint: Option<String>,
}

/// The end of a run for one file, for the log.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The connector type that it was run with; None if it is stored only by now.
    pub connector: Option<ConnectorType>,
    /// Its size in storage.
    pub bytes: u64,
    /// From hand-over to result, in milliseconds.
    pub millis: u64,
    /// The outcome.
    pub verdict: Verdict,
}

sql::row! {
    struct ConcludedRow {
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        connector: Option<ConnectorType>,
        stored_size: Option<i64>,
        storage_file_id: Option<StorageFileId>,
        stored_generation: i64,
        state: Option<JobState>,
        kind: Option<FailureKind>,
        run_id: Option<RunId>,
        enqueued_at: Option<i64>,
        set_open: bool,
        is_replaced: bool,
        /// Its storage file has to follow it.
        moves: bool,
    }
}

impl Ledger {
    /// The run is over: gives every file that it judged its outcome, and returns what changed, for the log.
    ///
    /// A file with a newer version on its way does not change. What the run did not judge waits for another run.
    pub async fn finish_run(
        &self,
        run: RunId,
        state: &str,
        result: &str,
        outcomes: &[FileOutcome],
        now: Timestamp,
    ) -> Result<Vec<RunReport>, Error> {
        self.db
            .write_durably("record the end of a run", async |tx| {
                sql::query(
                    "UPDATE runs SET phase = 'ended', state = $2, result = $3, ended_at = $4 \
             WHERE id = $1",
                )
                .bind(run.0)
                .bind(state)
                .bind(result)
                .bind(millis(now))
                .execute(tx)
                .await?;
                references::note_changed(tx, run, now).await?;
                sql::query(
                    "UPDATE connections SET covered = (SELECT CASE \
                     WHEN r.generation > connections.covered THEN r.generation \
                     ELSE connections.covered END FROM runs r WHERE r.id = $1) \
                     WHERE id = (SELECT connection_id FROM runs WHERE id = $1)",
                )
                .bind(run.0)
                .execute(tx)
                .await?;
                let generation = sql::query_scalar("SELECT generation FROM runs WHERE id = $1")
                    .bind(run.0)
                    .fetch_one(tx)
                    .await?;
                let mut reports = Vec::with_capacity(outcomes.len());
                for outcome in outcomes {
                    if let Some(report) = conclude(tx, (run, generation), outcome, now).await? {
                        reports.push(report);
                    }
                }
                named_versions::note_synchronized(tx, run, &reports, now).await?;
                release_files(tx, run, Step::NotJudged, now).await?;
                Ok(reports)
            })
            .await
    }
}

/// Whether the verdict of a run applies to the file: its content is still the one that was judged, no companion of it
/// is on its way, and it was in the run, or the run covers that content and nothing newer is on its way.
fn applies(row: &ConcludedRow, outcome: &FileOutcome, run: RunId, generation: i64) -> bool {
    if row.storage_file_id.as_deref() != Some(&outcome.storage_file_id)
        || row.stored_generation != outcome.stored_generation
        || row.set_open
        // It has become a reference since.
        || row.connector.is_none()
    {
        return false;
    }
    if row.run_id == Some(run) {
        return true;
    }
    row.stored_generation <= generation
        && match row.state {
            None | Some(JobState::Stored) => true,
            Some(JobState::Failed) => row.kind.is_some_and(FailureKind::is_ended_by_a_run),
            Some(JobState::Due | JobState::Uploading | JobState::Running) => false,
        }
}

async fn conclude(
    tx: &mut Tx,
    (run, generation): (RunId, i64),
    outcome: &FileOutcome,
    now: Timestamp,
) -> Result<Option<RunReport>, sqlx::Error> {
    let file_id = outcome.file.0;
    let row: Option<ConcludedRow> = sql::query_as(concat!(
        "SELECT w.name AS watch, f.dir, f.name, f.connector, f.stored_size, f.storage_file_id, \
         f.stored_generation, j.state, j.kind, j.run_id, j.enqueued_at, ",
        set_open!("'due', 'uploading', 'failed'"),
        " AS set_open, ",
        is_replaced!(),
        " AS is_replaced, f.relocation IS NOT NULL AS moves FROM files f JOIN watches \
         w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id WHERE f.id = $1"
    ))
    .bind(file_id)
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if !applies(&row, outcome, run, generation) {
        return Ok(None);
    }
    if row.is_replaced {
        follow_again(tx, file_id, now).await?;
        return Ok(None);
    }
    if row.state.is_none() {
        insert_stored_job(tx, file_id, now).await?;
    }
    match &outcome.verdict {
        Verdict::Synchronized(issues) => {
            let done = match issues {
                None => Outcome::Synchronized,
                Some(_) => Outcome::SynchronizedWithIssues,
            };
            sql::query(
                "UPDATE files SET outcome = $2, outcome_at = $3, processed = 1 WHERE id = $1",
            )
            .bind(file_id)
            .bind(done)
            .bind(millis(now))
            .execute(tx)
            .await?;
            let issues = issues.as_ref();
            let result = NewResult {
                run: Some(run),
                reason: issues.map(|issues| issues.reason.as_str()),
                hint: issues.and_then(|issues| issues.hint.as_deref()),
                issues,
            };
            insert_result(tx, file_id, done, result, now).await?;
            delete_job(tx, file_id).await?;
            if row.moves {
                relocate_next(tx, file_id, now).await?;
            }
        }
        Verdict::Refused(refusal) => {
            refuse_in_run(tx, file_id, run, JobState::Stored, refusal, now).await?;
        }
        Verdict::SendAgain(refusal) => {
            sql::query("UPDATE files SET send_again = 1 WHERE id = $1")
                .bind(file_id)
                .execute(tx)
                .await?;
            if let Some(leader) = leader(tx, file_id).await? {
                send_again(tx, leader, now).await?;
            }
            let waiting = match refusal.again {
                Again::Never => JobState::Stored,
                _ => JobState::Due,
            };
            refuse_in_run(tx, file_id, run, waiting, refusal, now).await?;
        }
        Verdict::LostInStorage(due) => lost_in_storage(tx, file_id, *due, now).await?,
        Verdict::Overwritten(due) => overwritten_in_storage(tx, file_id, *due, now).await?,
    }
    let waited = millis(now).saturating_sub(row.enqueued_at.unwrap_or_else(|| millis(now)));
    Ok(Some(RunReport {
        file: outcome.file,
        watch: row.watch,
        path: join(row.dir, row.name),
        connector: row.connector,
        bytes: count_value(row.stored_size.unwrap_or(0)),
        millis: count_value(waited),
        verdict: outcome.verdict.clone(),
    }))
}

/// Counts a failed run of a file. `waiting` is the state in which its job waits for the next attempt.
async fn refuse_in_run(
    tx: &mut Tx,
    file_id: i64,
    run: RunId,
    waiting: JobState,
    refusal: &Refusal,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // The failure is the run's, also of a file that was in it without a job.
    sql::query(
        "UPDATE jobs SET run_attempts = run_attempts + 1, run_id = $2, state = 'running' \
         WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(run.0)
    .execute(tx)
    .await?;
    refuse(tx, file_id, waiting, refusal, now).await
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

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
    async fn a_file_that_changes_during_its_run_gets_no_outcome_from_that_run() {
        let f = Fixture::new().await;
        let run = f.running("a.dgn").await;
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
    async fn a_failed_run_of_a_file_is_repeated_at_its_time() {
        let f = Fixture::new().await;
        let run = f.running("a.dgn").await;
        f.finish_run(run, Verdict::Refused(refusal(Again::At(at(80)))), 3)
            .await;
        let backlog = f.ledger.backlog(&"imodel".into(), at(4)).await.unwrap();
        assert_eq!((backlog.waiting, backlog.next_due), (0, Some(at(80))));
        let batch = f.batch(80).await;
        assert_eq!(batch[0].job.unwrap().run_attempts, 1);
    }

    #[tokio::test]
    async fn a_run_says_nothing_about_a_file_that_became_a_reference_meanwhile() {
        let f = Fixture::new().await;
        let run = f.running("a.dgn").await;
        let connection = f.connection().await.id;
        let files = f.ledger.connection_files(connection, at(3)).await.unwrap();
        let judged = FileOutcome {
            file: files[0].file,
            storage_file_id: files[0].storage_file_id.clone(),
            stored_generation: files[0].stored.generation,
            verdict: Verdict::Synchronized(None),
        };
        f.ledger
            .hand_over(f.watch, &[reference("a.dgn", 1)], at(3))
            .await
            .unwrap();
        let job = f.claim(4).await.unwrap();
        f.ledger.finish_unchanged(&job, at(5)).await.unwrap();
        let judged = [judged];
        let ended = f
            .ledger
            .finish_run(run, "Completed", "Success", &judged, at(6));
        assert!(ended.await.unwrap().is_empty());
        assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Unchanged));
    }
}
