//! Reports of files: the open job, the last result, and what storage has.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::failing_jobs::fails;
use super::row::{join, split};
use super::{
    Absence, Error, FailureKind, FileId, JobState, Ledger, Outcome, Tx, Withdrawal, count_value,
    sql, timestamp,
};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;

/// A file in a snapshot.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The file.
    pub id: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The state of its open job; None when there is nothing to do.
    pub job: Option<JobState>,
    /// When the version that the job is about was handed over.
    pub seen_at: Option<Timestamp>,
    /// Why it has no local file, and since when.
    pub absence: Option<(Absence, Timestamp)>,
    /// How far it is withdrawn.
    pub withdrawal: Option<Withdrawal>,
    /// Why the platform refuses that, and what to do about it.
    pub withdrawal_refusal: Option<(String, Option<String>)>,
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
    pub connector: Option<ConnectorType>,
    /// The storage file.
    pub storage_file_id: Option<StorageFileId>,
    /// The source file in its connection.
    pub source_file_id: Option<String>,
    /// Its content is in storage, and its storage file only needs another name or folder.
    pub moves: bool,
    /// Bytes in storage.
    pub bytes: Option<u64>,
    /// The platform's id of the last run that it was in.
    pub run: Option<String>,
    /// From hand-over to outcome, in milliseconds.
    pub millis: Option<u64>,
    /// Why the job waits or failed, and what to do about it.
    pub reason: Option<String>,
    /// See `reason`.
    pub hint: Option<String>,
    /// The key of its group of failures.
    pub failure_group: Option<String>,
    /// When the job is tried next.
    pub next_attempt: Option<Timestamp>,
    /// Attempts that have failed so far.
    pub attempts: u64,
}

sql::row! {
    struct FileRow {
        id: FileId,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        job: Option<JobState>,
        enqueued_at: Option<i64>,
        absence: Option<Absence>,
        absent_since: Option<i64>,
        withdrawal: Option<Withdrawal>,
        withdrawal_reason: Option<String>,
        withdrawal_hint: Option<String>,
        stored_outcome: Option<Outcome>,
        errors: Option<i64>,
        warnings: Option<i64>,
        others: Option<i64>,
        kind: Option<FailureKind>,
        result_reason: Option<String>,
        result_hint: Option<String>,
        outcome: Option<Outcome>,
        outcome_at: Option<i64>,
        connector: Option<ConnectorType>,
        storage_file_id: Option<StorageFileId>,
        source_file_id: Option<String>,
        moves: bool,
        stored_size: Option<i64>,
        run: Option<String>,
        millis: Option<i64>,
        reason: Option<String>,
        hint: Option<String>,
        failure_group: Option<String>,
        due_at: Option<i64>,
        attempts: Option<i64>,
    }
}

/// The columns of a [`FileRow`].
macro_rules! file_columns {
    () => {
        concat!(
            "SELECT f.id, w.name AS watch, f.dir, f.name, j.state AS job, j.enqueued_at, f.absence, \
         f.absent_since, f.withdrawal, f.withdrawal_reason, f.withdrawal_hint, f.outcome AS stored_outcome, r.errors, r.warnings, r.others, j.kind, \
         r.reason AS result_reason, r.hint AS result_hint, r.outcome, r.at AS outcome_at, \
         f.connector, f.storage_file_id, f.source_file_id, (f.relocation IS NOT NULL \
         AND f.stored_version = f.version) IS TRUE AS moves, f.stored_size, r.run, r.millis, j.reason, j.hint, \
         CASE WHEN ",
            fails!(),
            " THEN j.failure_group END AS failure_group, j.due_at, j.attempts "
        )
    };
}

/// The last result of a file.
macro_rules! last_result {
    () => {
        " LEFT JOIN results r ON r.id = (SELECT MAX(id) FROM results WHERE file_id = f.id) "
    };
}

/// See there.
const FAILS: &str = fails!();

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

impl FileRow {
    fn into_report(self) -> FileReport {
        FileReport {
            id: self.id,
            seen_at: self.enqueued_at.map(timestamp),
            absence: self.absence.zip(self.absent_since.map(timestamp)),
            withdrawal: self.withdrawal,
            withdrawal_refusal: self
                .withdrawal_reason
                .map(|reason| (reason, self.withdrawal_hint)),
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
            source_file_id: self.source_file_id,
            moves: self.moves,
            bytes: self.stored_size.map(count_value),
            run: self.run,
            millis: self.millis.map(count_value),
            failure_group: self.failure_group,
            next_attempt: self.due_at.map(timestamp),
            attempts: self.attempts.map_or(0, count_value),
        }
    }
}

impl Ledger {
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
            "{FILES} WHERE f.watch_id = (SELECT id FROM watches WHERE name = $1) AND (f.dir, \
            f.name) > ($2, $3) \
             ORDER BY f.dir, f.name LIMIT $4"
        );
        let rows: Vec<FileRow> = self
            .db
            .read("report a file", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
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
            "{FILES} WHERE f.watch_id = (SELECT id FROM watches WHERE name = $1) AND f.dir = \
            $2 AND f.name = $3"
        );
        let row: Option<FileRow> = self
            .db
            .read("report a file", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
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
            .read("report a file", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(format!("{FILES} WHERE f.id = $1")))
                    .bind(file.0)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(row.map(FileRow::into_report))
    }
}

/// All files, by watch and path.
pub(super) async fn all_files(tx: &mut Tx) -> Result<Vec<FileReport>, sqlx::Error> {
    let sql = format!("{FILES} ORDER BY w.name, f.dir, f.name");
    let rows: Vec<FileRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(tx)
        .await?;
    Ok(reports(rows))
}

/// The first files that have a job, by the rest of the query: a condition and an order.
pub(super) async fn files_of_jobs(
    tx: &mut Tx,
    rest: &str,
    limit: u32,
) -> Result<Vec<FileReport>, sqlx::Error> {
    let sql = format!("{FILES_OF_JOBS} {rest} LIMIT $1");
    let rows: Vec<FileRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .bind(i64::from(limit))
        .fetch_all(tx)
        .await?;
    Ok(reports(rows))
}

/// A few files of a group of failures, in the order of its index.
pub(super) async fn files_of_group(
    tx: &mut Tx,
    group: &str,
    condition: &str,
    limit: u32,
) -> Result<Vec<FileReport>, sqlx::Error> {
    let sql = format!(
        "{FILES_OF_JOBS} AND j.failure_group = $1 AND {FAILS} {condition} ORDER BY j.watch_id, j.state, j.failing_since, j.due_at, j.file_id LIMIT $2"
    );
    let rows: Vec<FileRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .bind(group)
        .bind(i64::from(limit))
        .fetch_all(tx)
        .await?;
    Ok(reports(rows))
}

fn reports(rows: impl IntoIterator<Item = FileRow>) -> Vec<FileReport> {
    rows.into_iter().map(FileRow::into_report).collect()
}
