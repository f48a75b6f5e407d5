//! What the ledger tells people: the state of every watch and every file, and sums of it.
//!
//! Those who look again and again open a second ledger for reading ([`Ledger::read`]), so that they hold up nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::clock::{due, free, is_ahead};
use super::files::{join, split};
use super::watches::RETIRED;
use super::{
    Absence, BlockingRun, Error, FailureKind, FileId, JobState, Ledger, Outcome, RootState, Tx,
    WatchId, count_value, millis, timestamp,
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
    /// Since when a person has paused it.
    pub paused_at: Option<Timestamp>,
    /// It is in the configuration that the daemon was started with last.
    pub configured: bool,
    /// Held until a person lets it go on: paused, or by the brake.
    pub waits_for_person: bool,
    /// The last run of its connection.
    pub last_run: Option<RunSummary>,
    /// A run of somebody else that keeps runs of its iModel from starting.
    pub blocked: Option<BlockingRun>,
    /// Its files by how they stand.
    pub counts: Counts,
}

/// Files by how they stand; each is counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In the iModel, and nothing is to be done.
    pub synchronized: u64,
    /// In the iModel, with errors or warnings of the connector.
    pub with_issues: u64,
    /// No longer in the folder or no longer selected; what was synchronized of them is still in the iModel.
    pub gone: u64,
    /// In storage, and meant to be there only.
    pub uploaded: u64,
    /// They wait for their upload.
    pub due: u64,
    /// They are being uploaded.
    pub uploading: u64,
    /// In storage, waiting for a run.
    pub stored: u64,
    /// In a run.
    pub running: u64,
    /// They failed.
    pub failed: u64,
    /// Gone from the folder before they could be read, or known without a result.
    pub other: u64,
}

impl Counts {
    /// Files that wait for an upload or a run.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.due + self.stored
    }

    /// Files in an upload or a run.
    #[must_use]
    pub fn working(&self) -> u64 {
        self.uploading + self.running
    }

    fn add(&mut self, row: &CountRow) {
        let count = match (row.job, row.outcome) {
            (Some(JobState::Due), _) => &mut self.due,
            (Some(JobState::Uploading), _) => &mut self.uploading,
            (Some(JobState::Stored), _) => &mut self.stored,
            (Some(JobState::Running), _) => &mut self.running,
            (Some(JobState::Failed), _) => &mut self.failed,
            (None, _) if row.absent => &mut self.gone,
            (None, _) if row.vanished => &mut self.other,
            (None, Some(Outcome::Synchronized)) => &mut self.synchronized,
            (None, Some(Outcome::SynchronizedWithIssues)) => &mut self.with_issues,
            (None, Some(Outcome::Uploaded)) => &mut self.uploaded,
            (None, _) => &mut self.other,
        };
        *count += count_value(row.files);
    }
}

/// How many rows of each list an [`Overview`] has at most.
#[derive(Debug, Clone, Copy)]
pub struct Lists {
    /// Files that failed, and files that are under way.
    pub files: u32,
    /// Results.
    pub results: u32,
    /// Runs.
    pub runs: u32,
}

/// The ledger at one moment, without the files that rest.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Every watch, by name.
    pub watches: Vec<WatchReport>,
    /// Files that failed, the latest first.
    pub failed: Vec<FileReport>,
    /// Files that wait or are under way, the furthest first.
    pub open: Vec<FileReport>,
    /// The latest results, newest first.
    pub results: Vec<ResultReport>,
    /// The latest runs, newest first.
    pub runs: Vec<RunEntry>,
    /// When the file that has waited longest was handed over.
    pub oldest: Option<Timestamp>,
    /// When a file was synchronized last.
    pub last_success: Option<Timestamp>,
}

/// What became of one version of a file.
#[derive(Debug, Clone)]
pub struct ResultReport {
    /// Rises from result to result.
    pub id: i64,
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The outcome.
    pub outcome: Outcome,
    /// When it was written.
    pub at: Timestamp,
    /// From hand-over to outcome, in milliseconds.
    pub millis: u64,
    /// Bytes in storage.
    pub bytes: u64,
    /// The connector type, if it has one.
    pub connector: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// A run, for the history.
#[derive(Debug, Clone)]
pub struct RunEntry {
    /// The ledger's id, which rises from run to run.
    pub number: i64,
    /// Its iModel.
    pub imodel_id: String,
    /// What is known of it.
    pub run: RunSummary,
    /// How many files it was to bring.
    pub files: u64,
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
    /// It takes longer than `sync.run_deadline`.
    pub overdue: bool,
}

/// A file in a snapshot.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The file.
    pub id: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The state of its open job; None when nothing is to be done.
    pub job: Option<JobState>,
    /// When the version that the job is about was handed over.
    pub seen_at: Option<Timestamp>,
    /// Why no local file stands for it, and since when.
    pub absence: Option<(Absence, Timestamp)>,
    /// The last recorded outcome.
    pub outcome: Option<Outcome>,
    /// The outcome of the content in storage; None while a run for it is owed.
    pub stored_outcome: Option<Outcome>,
    /// What the connector reported of the last result: errors, warnings, others.
    pub issues: Option<[u64; 3]>,
    /// What kind of failure it has.
    pub kind: Option<FailureKind>,
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

/// A file that failed.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The file.
    pub file: FileId,
    /// Its newest version.
    pub version: i64,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// Why it failed.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind of failure it is; None for a file that is synchronized with issues.
    pub kind: Option<FailureKind>,
}

#[derive(sqlx::FromRow)]
struct ProblemRow {
    id: FileId,
    version: i64,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    reason: String,
    hint: Option<String>,
    kind: Option<FailureKind>,
    failed: bool,
}

impl ProblemRow {
    fn into_problem(self) -> Problem {
        // While it is tried again the kind is not known; it has failed nevertheless.
        Problem {
            kind: self
                .failed
                .then(|| self.kind.unwrap_or(FailureKind::Transient)),
            file: self.id,
            version: self.version,
            watch: self.watch,
            path: join(self.dir, self.name),
            reason: self.reason,
            hint: self.hint,
        }
    }
}

impl FileReport {
    /// When the state that it is in began, as far as that is kept.
    #[must_use]
    pub fn result_time(&self) -> Option<Timestamp> {
        if self.job.is_some() {
            self.seen_at
        } else {
            self.outcome_at
        }
    }
}

#[derive(sqlx::FromRow)]
struct WatchRow {
    id: WatchId,
    name: String,
    imodel_id: String,
    root_state: RootState,
    root_note: Option<String>,
    scanned_at: Option<i64>,
    held_until: i64,
    held_since: i64,
    held_reason: Option<String>,
    paused_at: Option<i64>,
    braked: i64,
    run: Option<String>,
    requested_at: Option<i64>,
    ended_at: Option<i64>,
    state: Option<String>,
    result: Option<String>,
    run_overdue: bool,
    blocking_run: Option<String>,
    blocking_connection: Option<String>,
    blocked_since: Option<i64>,
    blocked_overdue: bool,
}

#[derive(sqlx::FromRow)]
struct FileRow {
    id: FileId,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    job: Option<JobState>,
    enqueued_at: Option<i64>,
    absence: Option<Absence>,
    absent_since: Option<i64>,
    stored_outcome: Option<Outcome>,
    errors: Option<i64>,
    warnings: Option<i64>,
    others: Option<i64>,
    kind: Option<FailureKind>,
    result_reason: Option<String>,
    result_hint: Option<String>,
    outcome: Option<Outcome>,
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

#[derive(sqlx::FromRow)]
struct ResultRow {
    id: i64,
    file_id: FileId,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    outcome: Outcome,
    at: i64,
    millis: i64,
    bytes: i64,
    connector: Option<String>,
    reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct RunRow {
    id: i64,
    imodel_id: String,
    platform_id: Option<String>,
    requested_at: i64,
    ended_at: Option<i64>,
    state: Option<String>,
    result: Option<String>,
    overdue: bool,
    files: i64,
}

const ACTION: &str = "be read for a report";

/// The columns of a [`FileRow`].
macro_rules! file_columns {
    () => {
        "SELECT f.id, w.name AS watch, f.dir, f.name, j.state AS job, j.enqueued_at, f.absence, f.absent_since, \
         f.outcome AS stored_outcome, r.errors, r.warnings, r.others, j.kind, r.reason AS result_reason, \
         r.hint AS result_hint, r.outcome, r.at AS outcome_at, f.connector, f.storage_file_id, f.stored_size, r.run, r.millis, j.reason, j.hint, \
         j.due_at, j.attempts "
    };
}

/// The last result of a file.
macro_rules! last_result {
    () => {
        " LEFT JOIN results r ON r.id = (SELECT MAX(id) FROM results WHERE file_id = f.id) "
    };
}

const FILES: &str = concat!(
    file_columns!(),
    "FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id",
    last_result!()
);

/// The same for files with a job, which are looked up in the order of the jobs.
const FILES_OF_JOBS: &str = concat!(
    file_columns!(),
    "FROM jobs j CROSS JOIN files f CROSS JOIN watches w",
    last_result!(),
    "WHERE f.id = j.file_id AND w.id = f.watch_id"
);

const RESULTS: &str = "SELECT r.id, r.file_id, w.name AS watch, f.dir, f.name, r.outcome, r.at, r.millis, r.bytes, \
     r.connector, r.reason \
     FROM results r JOIN files f ON f.id = r.file_id JOIN watches w ON w.id = f.watch_id";

const RUNS: &str = "SELECT r.id, c.imodel_id, r.platform_id, r.requested_at, r.ended_at, r.state, r.result, \
     r.overdue <> 0 AS overdue, r.files FROM runs r JOIN connections c ON c.id = r.connection_id";

impl Ledger {
    /// The state of everything, as of `now`.
    pub async fn snapshot(&self, now: Timestamp) -> Result<Snapshot, Error> {
        self.db
            .read_at_once(ACTION, async |tx| {
                let watches = counted_watches(tx, now).await?;
                let sql = format!("{FILES} ORDER BY w.name, f.dir, f.name");
                let files: Vec<FileRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                    .fetch_all(&mut **tx)
                    .await?;
                Ok(Snapshot {
                    watches,
                    files: reports(files),
                })
            })
            .await
    }

    /// The state of everything that does not rest, as of `now`.
    pub async fn overview(&self, lists: Lists, now: Timestamp) -> Result<Overview, Error> {
        self.db.read_at_once(ACTION, async |tx| {
        let watches = counted_watches(tx, now).await?;
        let last_success: Option<i64> = sqlx::query_scalar("SELECT at FROM last_success")
            .fetch_optional(&mut **tx)
            .await?;
        let failed = files_of_jobs(
            tx,
            "AND j.state = 'failed' ORDER BY j.failing_since DESC, j.file_id",
            lists.files,
        )
        .await?;
        // One state after the other, each by its index.
        let mut open = Vec::new();
        for state in ["uploading", "running", "stored", "due"] {
            let left = lists
                .files
                .saturating_sub(u32::try_from(open.len()).unwrap_or(u32::MAX));
            if left > 0 {
                let rest = format!("AND j.state = '{state}' ORDER BY j.due_at, j.file_id");
                open.extend(files_of_jobs(tx, &rest, left).await?);
            }
        }
        let results: Vec<ResultRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{RESULTS} ORDER BY r.id DESC LIMIT $1"
        )))
        .bind(i64::from(lists.results))
        .fetch_all(&mut **tx)
        .await?;
        let runs: Vec<RunRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{RUNS} ORDER BY r.id DESC LIMIT $1"
        )))
        .bind(i64::from(lists.runs))
        .fetch_all(&mut **tx)
        .await?;
        let oldest: Option<i64> = sqlx::query_scalar(
            "SELECT j.enqueued_at FROM jobs j CROSS JOIN files f CROSS JOIN watches w \
             WHERE f.id = j.file_id AND w.id = f.watch_id AND j.state <> 'failed' AND w.held_until < $1 \
             ORDER BY j.enqueued_at LIMIT 1",
        )
        .bind(millis(RETIRED))
        .fetch_optional(&mut **tx)
        .await?;
        Ok(Overview {
            watches,
            failed,
            open,
            results: results.into_iter().map(ResultRow::into_report).collect(),
            runs: runs.into_iter().map(RunRow::into_entry).collect(),
            oldest: oldest.map(timestamp),
            last_success: last_success.map(timestamp),
        })
        }).await
    }

    /// Watches of the configuration without their counts, files whose failure was written down and that have not got over it, even while
    /// they are tried again, and how many such files there are in all.
    pub async fn problems(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<(Vec<WatchReport>, Vec<Problem>, u64), Error> {
        self.db.read_at_once(ACTION, async |tx| {
        let watches = watches(tx, now).await?.into_iter();
        let watches = watches
            .map(|(_, watch)| watch)
            .filter(|watch| watch.configured);
        let mut rows: Vec<ProblemRow> = sqlx::query_as(
            "SELECT f.id AS id, f.version, w.name AS watch, f.dir, f.name, j.reported AS reason, j.hint, j.kind, 1 AS failed \
             FROM jobs j CROSS JOIN files f CROSS JOIN watches w \
             WHERE f.id = j.file_id AND w.id = f.watch_id AND j.reported IS NOT NULL AND w.held_until < $1 \
             ORDER BY j.failing_since, j.file_id LIMIT $2",
        )
        .bind(millis(RETIRED))
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
        let left = limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        // The word is in the text of the query because the index is for this word.
        let with_issues: Vec<ProblemRow> = sqlx::query_as(
            "SELECT f.id, f.version, w.name AS watch, f.dir, f.name, COALESCE(r.reason, '') AS reason, r.hint, NULL AS kind, 0 AS failed \
             FROM files f CROSS JOIN watches w LEFT JOIN results r ON r.id = \
                (SELECT MAX(id) FROM results WHERE file_id = f.id AND outcome = 'synchronized_with_issues') \
             WHERE w.id = f.watch_id AND f.outcome = 'synchronized_with_issues' AND f.absence IS NULL AND w.held_until < $1 \
             AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.file_id = f.id) \
             ORDER BY f.outcome_at, f.id LIMIT $2",
        )
        .bind(millis(RETIRED))
        .bind(i64::from(left))
        .fetch_all(&mut **tx)
        .await?;
        rows.extend(with_issues);
        let all: i64 = sqlx::query_scalar(
            "SELECT COALESCE(SUM(c.files), 0) FROM counts c JOIN watches w ON w.id = c.watch_id \
             WHERE c.reported = 1 AND w.held_until < $1",
        )
        .bind(millis(RETIRED))
        .fetch_one(&mut **tx)
        .await?;
        let problems = rows.into_iter().map(ProblemRow::into_problem).collect();
        Ok((watches.collect(), problems, count_value(all)))
        }).await
    }

    /// What an alert has kept.
    pub async fn alert_memo(&self, name: &str) -> Result<Option<String>, Error> {
        self.db
            .read("look up what was told", async |db| {
                sqlx::query_scalar("SELECT memo FROM alerts WHERE name = $1")
                    .bind(name)
                    .fetch_optional(db)
                    .await
            })
            .await
    }

    /// Keeps something for an alert.
    pub async fn keep_alert_memo(&self, name: &str, memo: &str) -> Result<(), Error> {
        self.db.write("write down what was told", async |tx| { sqlx::query(
            "INSERT INTO alerts (name, memo) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET memo = excluded.memo",
        )
        .bind(name)
        .bind(memo)
        .execute(&mut **tx).await }).await?;
        Ok(())
    }

    /// All watches with their counts, by name.
    pub async fn watch_reports(&self, now: Timestamp) -> Result<Vec<WatchReport>, Error> {
        self.db
            .read_at_once(ACTION, async |tx| {
                let watches = counted_watches(tx, now).await?;
                Ok(watches)
            })
            .await
    }

    /// The next files of a watch after this path, by folder and name; at most `limit`. None begins with the first one.
    ///
    /// Each page is a look of its own: a file that is there all the time is in exactly one of them.
    pub async fn files_page(
        &self,
        watch: &str,
        after: Option<&Path>,
        limit: u32,
    ) -> Result<Vec<FileReport>, Error> {
        // No file has an empty name.
        let (dir, name) = after.map_or((&b""[..], &b""[..]), split);
        let sql = format!(
            "{FILES} WHERE f.watch_id = (SELECT id FROM watches WHERE name = $1) AND (f.dir, f.name) > ($2, $3) \
             ORDER BY f.dir, f.name LIMIT $4"
        );
        let rows: Vec<FileRow> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(watch)
                    .bind(dir)
                    .bind(name)
                    .bind(i64::from(limit))
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(reports(rows))
    }

    /// The file of this path, relative to the folder of the watch of this name.
    pub async fn file_at(&self, watch: &str, path: &Path) -> Result<Option<FileReport>, Error> {
        let (dir, name) = split(path);
        let sql = format!(
            "{FILES} WHERE f.watch_id = (SELECT id FROM watches WHERE name = $1) AND f.dir = $2 AND f.name = $3"
        );
        let row: Option<FileRow> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(watch)
                    .bind(dir)
                    .bind(name)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(row.map(FileRow::into_report))
    }

    /// One file.
    pub async fn file_report(&self, file: FileId) -> Result<Option<FileReport>, Error> {
        let row: Option<FileRow> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(sqlx::AssertSqlSafe(format!("{FILES} WHERE f.id = $1")))
                    .bind(file.0)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(row.map(FileRow::into_report))
    }

    /// The results after the one with this id, oldest first.
    pub async fn results_after(&self, id: i64, limit: u32) -> Result<Vec<ResultReport>, Error> {
        let rows: Vec<ResultRow> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(sqlx::AssertSqlSafe(format!(
                    "{RESULTS} WHERE r.id > $1 ORDER BY r.id LIMIT $2"
                )))
                .bind(id)
                .bind(i64::from(limit))
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(ResultRow::into_report).collect())
    }

    /// The id of the last result, to begin [`Ledger::results_after`] with; 0 when there is none.
    pub async fn last_result(&self) -> Result<i64, Error> {
        let id: Option<i64> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_scalar("SELECT MAX(id) FROM results")
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(id.unwrap_or(0))
    }

    /// The runs from the one with this number on, oldest first.
    pub async fn runs_from(&self, number: i64) -> Result<Vec<RunEntry>, Error> {
        let rows: Vec<RunRow> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(sqlx::AssertSqlSafe(format!(
                    "{RUNS} WHERE r.id >= $1 ORDER BY r.id"
                )))
                .bind(number)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(RunRow::into_entry).collect())
    }

    /// Counts the open jobs of configured watches; those whose next attempt is due before `soon` are pending.
    pub async fn summary(&self, soon: Timestamp) -> Result<Summary, Error> {
        let (pending, failed, later): (i64, i64, i64) = self
            .db
            .read("count its jobs", async |db| {
                sqlx::query_as(concat!(
                    "SELECT COUNT(CASE WHEN j.state IN ('uploading', 'running') \
                 OR (j.state IN ('due', 'stored') AND ",
                    due!("$1"),
                    " AND ",
                    free!("$1"),
                    ") THEN 1 END), \
             COUNT(CASE WHEN j.state = 'failed' THEN 1 END), \
             COUNT(CASE WHEN j.state IN ('due', 'stored') AND NOT (",
                    due!("$1"),
                    " AND ",
                    free!("$1"),
                    ") THEN 1 END) \
             FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
             WHERE w.held_until < $2",
                ))
                .bind(millis(soon))
                .bind(millis(RETIRED))
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(Summary {
            pending: count_value(pending),
            failed: count_value(failed),
            later: count_value(later),
        })
    }

    /// How many results of each kind were written since `since`.
    pub async fn results_since(&self, since: Timestamp) -> Result<Vec<(Outcome, u64)>, Error> {
        let rows: Vec<(Outcome, i64)> = self
            .db
            .read("count its results", async |db| {
                sqlx::query_as(
                    "SELECT outcome, COUNT(*) FROM results WHERE at >= $1 GROUP BY outcome ORDER BY outcome",
                )
                .bind(millis(since))
                .fetch_all(db)
                .await
            })
            .await?;
        let counts = rows.into_iter();
        Ok(counts
            .map(|(outcome, count)| (outcome, count_value(count)))
            .collect())
    }
}

/// The first files that have a job, by the rest of the query: a condition and an order.
async fn files_of_jobs(
    tx: &mut Tx,
    rest: &str,
    limit: u32,
) -> Result<Vec<FileReport>, sqlx::Error> {
    let sql = format!("{FILES_OF_JOBS} {rest} LIMIT $1");
    let rows: Vec<FileRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    Ok(reports(rows))
}

/// All watches, without counts.
async fn watches(tx: &mut Tx, now: Timestamp) -> Result<Vec<(WatchId, WatchReport)>, sqlx::Error> {
    let rows: Vec<WatchRow> = sqlx::query_as(
        "SELECT w.id, w.name, w.imodel_id, w.root_state, w.root_note, w.scanned_at, w.held_until, w.held_since, w.held_reason, \
         w.paused_at, w.braked, r.platform_id AS run, r.requested_at, r.ended_at, r.state, r.result, \
         COALESCE(r.overdue, 0) <> 0 AS run_overdue, b.run AS blocking_run, b.connection AS blocking_connection, \
         b.since AS blocked_since, COALESCE(b.overdue, 0) <> 0 AS blocked_overdue \
         FROM watches w LEFT JOIN blocking_runs b ON b.imodel_id = w.imodel_id \
         LEFT JOIN runs r ON r.id = (SELECT MAX(id) FROM runs WHERE connection_id = w.connection_id) \
         ORDER BY w.name",
    )
    .fetch_all(&mut **tx)
    .await?;
    let reports = rows.into_iter();
    Ok(reports.map(|row| (row.id, row.into_report(now))).collect())
}

/// A row of the counts that triggers keep.
#[derive(sqlx::FromRow)]
struct CountRow {
    watch_id: WatchId,
    job: Option<JobState>,
    outcome: Option<Outcome>,
    absent: bool,
    vanished: bool,
    files: i64,
}

/// All watches with their counts, which are kept and not counted.
async fn counted_watches(tx: &mut Tx, now: Timestamp) -> Result<Vec<WatchReport>, sqlx::Error> {
    let rows: Vec<CountRow> = sqlx::query_as(
        "SELECT watch_id, NULLIF(job, '') AS job, NULLIF(outcome, '') AS outcome, absent <> 0 AS absent, \
         vanished <> 0 AS vanished, files FROM counts WHERE files > 0",
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut counts: HashMap<WatchId, Counts> = HashMap::new();
    for row in rows {
        counts.entry(row.watch_id).or_default().add(&row);
    }
    let watches = watches(tx, now).await?.into_iter().map(|(id, watch)| {
        let counts = counts.remove(&id).unwrap_or_default();
        WatchReport { counts, ..watch }
    });
    Ok(watches.collect())
}

fn reports(rows: impl IntoIterator<Item = FileRow>) -> Vec<FileReport> {
    rows.into_iter().map(FileRow::into_report).collect()
}

impl ResultRow {
    fn into_report(self) -> ResultReport {
        ResultReport {
            id: self.id,
            file: self.file_id,
            watch: self.watch,
            path: join(self.dir, self.name),
            outcome: self.outcome,
            at: timestamp(self.at),
            millis: count_value(self.millis),
            bytes: count_value(self.bytes),
            connector: self.connector,
            reason: self.reason,
        }
    }
}

impl RunRow {
    fn into_entry(self) -> RunEntry {
        RunEntry {
            number: self.id,
            imodel_id: self.imodel_id,
            run: RunSummary {
                id: self.platform_id,
                requested_at: timestamp(self.requested_at),
                ended_at: self.ended_at.map(timestamp),
                state: self.state,
                result: self.result,
                overdue: self.overdue,
            },
            files: count_value(self.files),
        }
    }
}

impl WatchRow {
    fn into_report(self, now: Timestamp) -> WatchReport {
        let held_until = timestamp(self.held_until);
        WatchReport {
            paused_at: self.paused_at.map(timestamp),
            configured: self.held_until < millis(RETIRED),
            waits_for_person: self.paused_at.is_some() || self.braked > 0,
            counts: Counts::default(),
            name: self.name,
            imodel_id: self.imodel_id,
            root: self.root_state,
            note: self.root_note,
            scanned_at: self.scanned_at.map(timestamp),
            held: self
                .held_reason
                .filter(|_| held_until > now && !is_ahead(self.held_since, now))
                .map(|reason| (held_until, reason)),
            last_run: self.requested_at.map(|requested_at| RunSummary {
                id: self.run,
                requested_at: timestamp(requested_at),
                ended_at: self.ended_at.map(timestamp),
                state: self.state,
                result: self.result,
                overdue: self.run_overdue,
            }),
            blocked: match (
                self.blocking_run,
                self.blocking_connection,
                self.blocked_since,
            ) {
                (Some(run), Some(connection), Some(since)) => Some(BlockingRun {
                    run,
                    connection,
                    since: timestamp(since),
                    overdue: self.blocked_overdue,
                }),
                _ => None,
            },
        }
    }
}

impl FileRow {
    fn into_report(self) -> FileReport {
        FileReport {
            id: self.id,
            seen_at: self.enqueued_at.map(timestamp),
            absence: self.absence.zip(self.absent_since.map(timestamp)),
            stored_outcome: self.stored_outcome,
            issues: match (self.errors, self.warnings, self.others) {
                (None, None, None) => None,
                (errors, warnings, others) => {
                    Some([errors, warnings, others].map(|count| count_value(count.unwrap_or(0))))
                }
            },
            kind: self.kind,
            watch: self.watch,
            path: join(self.dir, self.name),
            // A result with issues has its reason in the result, as there is no job.
            reason: match (&self.job, self.errors) {
                (None, Some(_)) => self.result_reason,
                _ => self.reason,
            },
            hint: match (&self.job, self.errors) {
                (None, Some(_)) => self.result_hint,
                _ => self.hint,
            },
            job: self.job,
            outcome: self.outcome,
            outcome_at: self.outcome_at.map(timestamp),
            connector: self.connector,
            storage_file_id: self.storage_file_id,
            bytes: self.stored_size.map(count_value),
            run: self.run,
            millis: self.millis.map(count_value),
            next_attempt: self.due_at.map(timestamp),
            attempts: self.attempts.map_or(0, count_value),
        }
    }
}
