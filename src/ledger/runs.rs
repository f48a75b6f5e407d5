//! Runs: the intent to request one, what becomes of it, and what it means for each file.

use std::path::PathBuf;

use jiff::Timestamp;

use super::files::join;
use super::mappings::{lost_in_storage, overwritten_in_storage};
use super::uploads::{delete_job, insert_result, insert_stored_job, refuse};
use super::{
    Again, ConnectionId, Error, FailureKind, FileId, JobState, Ledger, Outcome, Refusal, Tx,
    count_column, count_value, millis, new_id, timestamp,
};

/// The ledger's id of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct RunId(i64);

/// A run that is not over, as far as we know.
#[derive(Debug, Clone)]
pub struct OpenRun {
    /// The ledger's id.
    pub id: RunId,
    /// Its connection.
    pub connection: ConnectionId,
    /// The platform's id of the connection.
    pub connection_platform_id: Option<String>,
    /// The platform's id of the run; None when the answer to the request never came.
    pub platform_id: Option<String>,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// The same by the platform's clock, as far as that was known.
    pub requested_there: Option<Timestamp>,
    /// It covers what was completed up to this generation of the connection.
    pub generation: i64,
    /// That it takes longer than it should was reported.
    pub overdue: bool,
}

/// What a run made of one file.
#[derive(Debug, Clone)]
pub struct FileOutcome {
    /// The file.
    pub file: FileId,
    /// Its storage file, as it was when it was judged.
    pub storage_file_id: String,
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
    /// It is not, and more runs alone will not help: the next attempt uploads it again, even if storage holds the same
    /// bytes.
    SendAgain(Refusal),
    /// Its storage file is gone: it has to be uploaded again, not before this time.
    LostInStorage(Timestamp),
    /// Its storage file was changed by somebody else: it has to be compared, not before this time.
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
    /// The connector type that it was run with.
    pub connector: String,
    /// Its size in storage.
    pub bytes: u64,
    /// From hand-over to result, in milliseconds.
    pub millis: u64,
    /// The outcome.
    pub verdict: Verdict,
}

/// A run of somebody else that keeps ours from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockingRun {
    /// The platform's id of the run.
    pub run: String,
    /// The name of its connection, or its id if the name is not known.
    pub connection: String,
    /// When it started, or was first seen.
    pub since: Timestamp,
    /// It takes longer than `sync.run_deadline`, and that was reported.
    pub overdue: bool,
}

impl Ledger {
    /// Writes the intent to request a run, for every file of the connection that is stored, due and mapped. `there` is
    /// the time by the platform's clock.
    pub async fn begin_run(
        &self,
        connection: ConnectionId,
        there: Timestamp,
        now: Timestamp,
    ) -> Result<RunId, Error> {
        self.db.write_durably("record that a run is about to be requested", async |tx| {
        let id = new_id(now);
        sqlx::query(
            "INSERT INTO runs (id, connection_id, generation, phase, requested_at, requested_there) \
             SELECT $1, id, generation, 'requested', $3, $4 FROM connections WHERE id = $2",
        )
        .bind(id)
        .bind(connection.0)
        .bind(millis(now))
        .bind(millis(there))
        .execute(&mut **tx)
        .await?;
        let files = sqlx::query(
            "UPDATE jobs SET state = 'running', run_id = $1, kind = NULL, previous_reason = COALESCE(reason, previous_reason), \
             reason = NULL, hint = NULL WHERE state = 'stored' AND (due_at <= $3 OR due_at - pause > $3 + 5000) AND file_id IN \
             (SELECT f.id FROM files f JOIN watches w ON w.id = f.watch_id WHERE w.connection_id = $2 \
              AND f.connection_id = $2 AND f.source_file_id IS NOT NULL AND f.mapped_connector = f.connector)",
        )
        .bind(id)
        .bind(connection.0)
        .bind(millis(now))
        .execute(&mut **tx)
        .await?
        .rows_affected();
        sqlx::query("UPDATE runs SET files = $2 WHERE id = $1")
            .bind(id)
            .bind(count_column(files))
            .execute(&mut **tx)
            .await?;
        Ok(RunId(id))
        }).await
    }

    /// The platform accepted the run.
    pub async fn record_run(&self, run: RunId, platform_id: &str) -> Result<(), Error> {
        self.db
            .write_durably("record a run", async |tx| {
                sqlx::query("UPDATE runs SET phase = 'active', platform_id = $2 WHERE id = $1")
                    .bind(run.0)
                    .bind(platform_id)
                    .execute(&mut **tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// Whether a run with this id of the platform is in the ledger already.
    pub async fn knows_run(&self, platform_id: &str) -> Result<bool, Error> {
        let known: bool = self
            .db
            .read("look up a run", async |db| {
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM runs WHERE platform_id = $1)")
                    .bind(platform_id)
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(known)
    }

    /// The run does not exist: its files await another one.
    pub async fn abandon_run(&self, run: RunId) -> Result<(), Error> {
        self.db
            .write_durably("give a run up", async |tx| {
                sqlx::query("UPDATE jobs SET state = 'stored', run_id = NULL WHERE run_id = $1")
                    .bind(run.0)
                    .execute(&mut **tx)
                    .await?;
                sqlx::query("DELETE FROM runs WHERE id = $1")
                    .bind(run.0)
                    .execute(&mut **tx)
                    .await?;
                Ok(())
            })
            .await
    }

    /// The oldest run of an iModel that is not over.
    pub async fn open_run(&self, imodel_id: &str) -> Result<Option<OpenRun>, Error> {
        type Row = (
            i64,
            i64,
            Option<String>,
            Option<String>,
            i64,
            Option<i64>,
            i64,
            bool,
        );
        let row: Option<Row> = self.db.read("look for a run under way", async |db| { sqlx::query_as(
            "SELECT r.id, r.connection_id, c.platform_id, r.platform_id, r.requested_at, r.requested_there, r.generation, \
             r.overdue <> 0 FROM runs r JOIN connections c ON c.id = r.connection_id \
             WHERE c.imodel_id = $1 AND r.phase <> 'ended' ORDER BY r.id LIMIT 1",
        )
        .bind(imodel_id)
        .fetch_optional(db).await }).await?;
        Ok(row.map(
            |(
                id,
                connection,
                connection_platform_id,
                platform_id,
                requested_at,
                requested_there,
                generation,
                overdue,
            )| OpenRun {
                id: RunId(id),
                connection: ConnectionId(connection),
                connection_platform_id,
                platform_id,
                requested_at: timestamp(requested_at),
                requested_there: requested_there.map(timestamp),
                generation,
                overdue,
            },
        ))
    }

    /// Keeps the last state that was seen of a run, for status.
    pub async fn note_run_state(&self, run: RunId, state: &str) -> Result<(), Error> {
        self.db
            .write("note the state of a run", async |tx| {
                sqlx::query("UPDATE runs SET state = $2 WHERE id = $1")
                    .bind(run.0)
                    .bind(state)
                    .execute(&mut **tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// Records that a run takes longer than it should. False: that was recorded before.
    pub async fn record_overdue(&self, run: RunId) -> Result<bool, Error> {
        let recorded = self
            .db
            .write("record that a run is overdue", async |tx| {
                sqlx::query("UPDATE runs SET overdue = 1 WHERE id = $1 AND overdue = 0")
                    .bind(run.0)
                    .execute(&mut **tx)
                    .await
            })
            .await?;
        Ok(recorded.rows_affected() > 0)
    }

    /// The run of somebody else that keeps a run of this iModel from starting, as last seen.
    pub async fn blocking_run(&self, imodel_id: &str) -> Result<Option<BlockingRun>, Error> {
        type Row = (String, String, i64, i64);
        let row: Option<Row> = self
            .db
            .read("look for a run that blocks an iModel", async |db| {
                sqlx::query_as(
            "SELECT run, connection, since, overdue FROM blocking_runs WHERE imodel_id = $1",
        )
        .bind(imodel_id)
        .fetch_optional(db).await
            })
            .await?;
        Ok(row.map(|(run, connection, since, overdue)| BlockingRun {
            run,
            connection,
            since: timestamp(since),
            overdue: overdue != 0,
        }))
    }

    /// Records what keeps a run of this iModel from starting, or that nothing does.
    pub async fn record_blocking_run(
        &self,
        imodel_id: &str,
        blocking: Option<&BlockingRun>,
    ) -> Result<(), Error> {
        const ACTION: &str = "record what blocks an iModel";
        let Some(blocking) = blocking else {
            self.db
                .write(ACTION, async |tx| {
                    sqlx::query("DELETE FROM blocking_runs WHERE imodel_id = $1")
                        .bind(imodel_id)
                        .execute(&mut **tx)
                        .await
                })
                .await?;
            return Ok(());
        };
        self.db.write(ACTION, async |tx| { sqlx::query(
            "INSERT INTO blocking_runs (imodel_id, run, connection, since, overdue) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (imodel_id) DO UPDATE SET run = excluded.run, connection = excluded.connection, \
             since = excluded.since, overdue = excluded.overdue",
        )
        .bind(imodel_id)
        .bind(&blocking.run)
        .bind(&blocking.connection)
        .bind(millis(blocking.since))
        .bind(i64::from(blocking.overdue))
        .execute(&mut **tx).await }).await?;
        Ok(())
    }

    /// How many files a run is to bring.
    pub async fn run_size(&self, run: RunId) -> Result<u64, Error> {
        let files: i64 = self
            .db
            .read("look up a run", async |db| {
                sqlx::query_scalar("SELECT files FROM runs WHERE id = $1")
                    .bind(run.0)
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(count_value(files))
    }

    /// The files that were in a run and still wait for its end.
    pub async fn files_in_run(&self, run: RunId) -> Result<Vec<FileId>, Error> {
        let ids: Vec<i64> = self
            .db
            .read("list the files of a run", async |db| {
                sqlx::query_scalar("SELECT file_id FROM jobs WHERE run_id = $1")
                    .bind(run.0)
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(ids.into_iter().map(FileId).collect())
    }

    /// The run is over: gives every file that it judged its outcome, and returns what changed, for the log.
    ///
    /// A file with a newer version on its way is left alone. What the run did not judge waits for another run.
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
                sqlx::query(
            "UPDATE runs SET phase = 'ended', state = $2, result = $3, ended_at = $4 WHERE id = $1",
        )
        .bind(run.0)
        .bind(state)
        .bind(result)
        .bind(millis(now))
        .execute(&mut **tx)
        .await?;
                sqlx::query(
            "UPDATE connections SET covered = (SELECT CASE WHEN r.generation > connections.covered \
             THEN r.generation ELSE connections.covered END FROM runs r WHERE r.id = $1) \
             WHERE id = (SELECT connection_id FROM runs WHERE id = $1)",
        )
        .bind(run.0)
        .execute(&mut **tx)
        .await?;
                let platform_id: Option<String> =
                    sqlx::query_scalar("SELECT platform_id FROM runs WHERE id = $1")
                        .bind(run.0)
                        .fetch_one(&mut **tx)
                        .await?;
                let mut reports = Vec::with_capacity(outcomes.len());
                for outcome in outcomes {
                    if let Some(report) =
                        conclude(tx, run, platform_id.as_deref(), outcome, now).await?
                    {
                        reports.push(report);
                    }
                }
                sqlx::query("UPDATE jobs SET state = 'stored', run_id = NULL WHERE run_id = $1")
                    .bind(run.0)
                    .execute(&mut **tx)
                    .await?;
                Ok(reports)
            })
            .await
    }
}

#[derive(sqlx::FromRow)]
struct ConcludedRow {
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    connector: Option<String>,
    stored_size: Option<i64>,
    storage_file_id: Option<String>,
    stored_generation: i64,
    state: Option<JobState>,
    kind: Option<FailureKind>,
    run_id: Option<RunId>,
    enqueued_at: Option<i64>,
}

/// Whether the verdict of a run applies to the file: its content is still the one that was judged, and it was in the
/// run, or the run covers that content and nothing newer is on its way.
fn applies(row: &ConcludedRow, outcome: &FileOutcome, run: RunId, generation: i64) -> bool {
    if row.storage_file_id.as_deref() != Some(&outcome.storage_file_id)
        || row.stored_generation != outcome.stored_generation
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
    run: RunId,
    platform_id: Option<&str>,
    outcome: &FileOutcome,
    now: Timestamp,
) -> Result<Option<RunReport>, sqlx::Error> {
    let file_id = outcome.file.0;
    let row: Option<ConcludedRow> = sqlx::query_as(
        "SELECT w.name AS watch, f.dir, f.name, f.connector, f.stored_size, f.storage_file_id, f.stored_generation, j.state, j.kind, \
         j.run_id, j.enqueued_at FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id \
         WHERE f.id = $1",
    )
    .bind(file_id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let generation: i64 = sqlx::query_scalar("SELECT generation FROM runs WHERE id = $1")
        .bind(run.0)
        .fetch_one(&mut **tx)
        .await?;
    if !applies(&row, outcome, run, generation) {
        return Ok(None);
    }
    insert_stored_job(tx, file_id, now).await?;
    match &outcome.verdict {
        Verdict::Synchronized(issues) => {
            let done = match issues {
                None => Outcome::Synchronized,
                Some(_) => Outcome::SynchronizedWithIssues,
            };
            sqlx::query(
                "UPDATE files SET outcome = $2, outcome_at = $3, processed = 1 WHERE id = $1",
            )
            .bind(file_id)
            .bind(done)
            .bind(millis(now))
            .execute(&mut **tx)
            .await?;
            let (reason, hint) = match issues {
                Some(issues) => (Some(issues.reason.as_str()), issues.hint.as_deref()),
                None => (None, None),
            };
            let result = insert_result(tx, file_id, done, platform_id, reason, hint, now).await?;
            if let Some(issues) = issues {
                sqlx::query(
                    "UPDATE results SET errors = $2, warnings = $3, others = $4 WHERE id = $1",
                )
                .bind(result)
                .bind(count_column(issues.errors))
                .bind(count_column(issues.warnings))
                .bind(count_column(issues.others))
                .execute(&mut **tx)
                .await?;
            }
            delete_job(tx, file_id).await?;
        }
        Verdict::Refused(refusal) => {
            refuse_in_run(tx, file_id, run, "stored", refusal, now).await?;
        }
        Verdict::SendAgain(refusal) => {
            sqlx::query("UPDATE files SET send_again = 1 WHERE id = $1")
                .bind(file_id)
                .execute(&mut **tx)
                .await?;
            let waiting = match refusal.again {
                Again::Never => "stored",
                _ => "due",
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
        connector: row.connector.unwrap_or_default(),
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
    waiting: &'static str,
    refusal: &Refusal,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // The failure is the run's, also of a file that was in it without a job.
    sqlx::query(
        "UPDATE jobs SET run_attempts = run_attempts + 1, run_id = $2, state = 'running' WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(run.0)
    .execute(&mut **tx)
    .await?;
    refuse(tx, file_id, waiting, refusal, now).await
}
