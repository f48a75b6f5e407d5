//! What the ledger tells people: the state of every watch and every file, and sums of it.

use std::path::PathBuf;

use jiff::Timestamp;

use super::files::join;
use super::watches::RETIRED;
use super::{
    During as _, Error, JobState, Ledger, Outcome, RootState, bytes_value, millis, timestamp,
};

/// The ledger at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every watch that was ever configured, by name.
    pub watches: Vec<WatchReport>,
    /// Every file, by watch and path.
    pub files: Vec<FileReport>,
}

/// A watch in a snapshot.
#[derive(Debug, Clone)]
pub struct WatchReport {
    /// Its name.
    pub name: String,
    /// Its iModel.
    pub imodel_id: String,
    /// How its root was found last.
    pub root: RootState,
    /// What is wrong with the root, if something is.
    pub note: Option<String>,
    /// The end of the last complete scan.
    pub scanned_at: Option<Timestamp>,
    /// Until when its jobs are held, and why.
    pub held: Option<(Timestamp, String)>,
    /// The last run of its connection.
    pub last_run: Option<RunSummary>,
}

/// A run in a snapshot.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// The platform's id.
    pub id: Option<String>,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When its end was seen.
    pub ended_at: Option<Timestamp>,
    /// The platform's words for state and result.
    pub state: Option<String>,
    /// See `state`.
    pub result: Option<String>,
}

/// A file in a snapshot.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The state of its open job; None when nothing is to be done.
    pub job: Option<JobState>,
    /// The last recorded outcome.
    pub outcome: Option<Outcome>,
    /// When that was.
    pub outcome_at: Option<Timestamp>,
    /// Connector type, or None for a file that is stored only.
    pub connector: Option<String>,
    /// The storage file.
    pub storage_file_id: Option<String>,
    /// Bytes in storage.
    pub bytes: Option<u64>,
    /// The platform's id of the last run that it was in.
    pub run: Option<String>,
    /// From hand-over to outcome, in milliseconds.
    pub millis: Option<u64>,
    /// Why the job does not go on, and what to do about it.
    pub reason: Option<String>,
    /// See `reason`.
    pub hint: Option<String>,
    /// When the job is tried next.
    pub next_attempt: Option<Timestamp>,
    /// Attempts that have failed so far.
    pub attempts: u64,
}

/// Sums over open jobs and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Jobs that are being worked on or will be within `soon`.
    pub pending: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs whose next attempt is later than that.
    pub later: u64,
}

#[derive(sqlx::FromRow)]
struct WatchRow {
    name: String,
    imodel_id: String,
    root_state: String,
    root_note: Option<String>,
    scanned_at: Option<i64>,
    held_until: i64,
    held_reason: Option<String>,
    run: Option<String>,
    requested_at: Option<i64>,
    ended_at: Option<i64>,
    state: Option<String>,
    result: Option<String>,
}

#[derive(sqlx::FromRow)]
struct FileRow {
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    job: Option<String>,
    outcome: Option<String>,
    outcome_at: Option<i64>,
    connector: Option<String>,
    storage_file_id: Option<String>,
    stored_size: Option<i64>,
    run: Option<String>,
    millis: Option<i64>,
    reason: Option<String>,
    hint: Option<String>,
    due_at: Option<i64>,
    attempts: Option<i64>,
}

impl Ledger {
    /// The state of everything, as of `now`.
    pub async fn snapshot(&self, now: Timestamp) -> Result<Snapshot, Error> {
        const ACTION: &str = "be read for a report";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let watches: Vec<WatchRow> = sqlx::query_as(
            "SELECT w.name, w.imodel_id, w.root_state, w.root_note, w.scanned_at, w.held_until, w.held_reason, \
             r.platform_id AS run, r.requested_at, r.ended_at, r.state, r.result \
             FROM watches w LEFT JOIN runs r ON r.id = (SELECT MAX(id) FROM runs WHERE connection_id = w.connection_id) \
             ORDER BY w.name",
        )
        .fetch_all(&mut *tx)
        .await
        .during(ACTION)?;
        let files: Vec<FileRow> = sqlx::query_as(
            "SELECT w.name AS watch, f.dir, f.name, j.state AS job, r.outcome, r.at AS outcome_at, f.connector, \
             f.storage_file_id, f.stored_size, r.run, r.millis, j.reason, j.hint, j.due_at, j.attempts \
             FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id \
             LEFT JOIN results r ON r.id = (SELECT MAX(id) FROM results WHERE file_id = f.id) \
             ORDER BY w.name, f.dir, f.name",
        )
        .fetch_all(&mut *tx)
        .await
        .during(ACTION)?;
        tx.rollback().await.during(ACTION)?;
        let decode = |error| Error::Database {
            action: ACTION,
            source: Box::new(error),
        };
        Ok(Snapshot {
            watches: watches
                .into_iter()
                .map(|row| row.into_report(now))
                .collect::<Result<_, _>>()
                .map_err(decode)?,
            files: files
                .into_iter()
                .map(FileRow::into_report)
                .collect::<Result<_, _>>()
                .map_err(decode)?,
        })
    }

    /// Counts the open jobs of configured watches; those whose next attempt is due before `soon` are pending.
    pub async fn summary(&self, soon: Timestamp) -> Result<Summary, Error> {
        let (pending, failed, later): (i64, i64, i64) = sqlx::query_as(
            "SELECT COUNT(CASE WHEN j.state IN ('uploading', 'running') \
                 OR (j.state IN ('due', 'stored') AND j.due_at <= $1 AND w.held_until <= $1) THEN 1 END), \
             COUNT(CASE WHEN j.state = 'failed' THEN 1 END), \
             COUNT(CASE WHEN j.state IN ('due', 'stored') AND (j.due_at > $1 OR w.held_until > $1) THEN 1 END) \
             FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
             WHERE w.held_until < $2",
        )
        .bind(millis(soon))
        .bind(millis(RETIRED))
        .fetch_one(&self.pool)
        .await
        .during("count its jobs")?;
        Ok(Summary {
            pending: bytes_value(pending),
            failed: bytes_value(failed),
            later: bytes_value(later),
        })
    }

    /// How many results of each kind were written since `since`.
    pub async fn results_since(&self, since: Timestamp) -> Result<Vec<(Outcome, u64)>, Error> {
        const ACTION: &str = "count its results";
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT outcome, COUNT(*) FROM results WHERE at >= $1 GROUP BY outcome ORDER BY outcome")
                .bind(millis(since))
                .fetch_all(&self.pool)
                .await
                .during(ACTION)?;
        rows.into_iter()
            .map(|(word, count)| Ok((Outcome::try_from(word)?, bytes_value(count))))
            .collect::<Result<_, super::state::UnknownWord>>()
            .map_err(|error| Error::Database {
                action: ACTION,
                source: Box::new(error),
            })
    }
}

impl WatchRow {
    fn into_report(self, now: Timestamp) -> Result<WatchReport, super::state::UnknownWord> {
        let held_until = timestamp(self.held_until);
        Ok(WatchReport {
            name: self.name,
            imodel_id: self.imodel_id,
            root: RootState::try_from(self.root_state)?,
            note: self.root_note,
            scanned_at: self.scanned_at.map(timestamp),
            held: self
                .held_reason
                .filter(|_| held_until > now)
                .map(|reason| (held_until, reason)),
            last_run: self.requested_at.map(|requested_at| RunSummary {
                id: self.run,
                requested_at: timestamp(requested_at),
                ended_at: self.ended_at.map(timestamp),
                state: self.state,
                result: self.result,
            }),
        })
    }
}

impl FileRow {
    fn into_report(self) -> Result<FileReport, super::state::UnknownWord> {
        Ok(FileReport {
            watch: self.watch,
            path: join(self.dir, self.name),
            job: self.job.map(JobState::try_from).transpose()?,
            outcome: self.outcome.map(Outcome::try_from).transpose()?,
            outcome_at: self.outcome_at.map(timestamp),
            connector: self.connector,
            storage_file_id: self.storage_file_id,
            bytes: self.stored_size.map(bytes_value),
            run: self.run,
            millis: self.millis.map(bytes_value),
            reason: self.reason,
            hint: self.hint,
            next_attempt: self.due_at.map(timestamp),
            attempts: self.attempts.map_or(0, bytes_value),
        })
    }
}
