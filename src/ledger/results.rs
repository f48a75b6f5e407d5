//! Results: what became of each version of a file.

use std::path::PathBuf;

use jiff::Timestamp;

use super::row::{first_id, join};
use super::state::Step;
use super::{
    Error, FileId, Issues, Ledger, Outcome, RunId, Tx, count_column, count_value, millis, sql,
    timestamp,
};
use crate::connector_type::ConnectorType;

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
    pub connector: Option<ConnectorType>,
    /// Why it failed.
    pub reason: Option<String>,
}

sql::row! {
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
        connector: Option<ConnectorType>,
        reason: Option<String>,
    }
}

const RESULTS: &str = "SELECT r.id, r.file_id, w.name AS watch, f.dir, f.name, r.outcome, r.at, \
                       r.millis, r.bytes, r.connector, r.reason FROM results r JOIN files f \
                       ON f.id = r.file_id JOIN watches w ON w.id = f.watch_id";

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

impl Ledger {
    /// The results after the one with this id, oldest first.
    pub async fn results_after(&self, id: i64, limit: u32) -> Result<Vec<ResultReport>, Error> {
        let rows: Vec<ResultRow> = self
            .db
            .read("report results", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(format!(
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
            .read("report results", async |db| {
                sql::query_scalar("SELECT MAX(id) FROM results")
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(id.unwrap_or(0))
    }

    /// How many results of each kind were written since `since`.
    pub async fn results_since(&self, since: Timestamp) -> Result<Vec<(Outcome, u64)>, Error> {
        let rows: Vec<(Outcome, i64)> = self
            .db
            .read("count its results", async |db| {
                // No result has an id from before it was written.
                sql::query_as(
                    "SELECT outcome, COUNT(*) FROM results WHERE id >= $1 AND at >= $2 \
                     GROUP BY outcome ORDER BY outcome",
                )
                .bind(first_id(since))
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

/// The latest results, newest first.
pub(super) async fn latest_results(
    tx: &mut Tx,
    limit: u32,
) -> Result<Vec<ResultReport>, sqlx::Error> {
    let sql = format!("{RESULTS} ORDER BY r.id DESC LIMIT $1");
    let rows: Vec<ResultRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .bind(i64::from(limit))
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(ResultRow::into_report).collect())
}

/// What became of a version.
#[derive(Default)]
pub(super) struct NewResult<'r> {
    /// The run that it is a result of.
    pub(super) run: Option<RunId>,
    pub(super) reason: Option<&'r str>,
    pub(super) hint: Option<&'r str>,
    /// What the connector reported.
    pub(super) issues: Option<&'r Issues>,
}

/// The number of an outcome in the table. The view `results` has its word.
fn number(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Synchronized => 0,
        Outcome::SynchronizedWithIssues => 1,
        Outcome::Uploaded => 2,
        Outcome::Unchanged => 3,
        Outcome::Renamed => 4,
        Outcome::Failed => 5,
        Outcome::Vanished => 6,
    }
}

/// Records what became of the version that the job of this file is about. The job must still be there.
///
/// The steps that almost every version has, its hand-over and its upload, become part of the result.
pub(super) async fn insert_result(
    tx: &mut Tx,
    file_id: i64,
    outcome: Outcome,
    result: NewResult<'_>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let id = tx.new_id(now);
    let steps: Vec<(String, i64)> = sql::query_as(
        "DELETE FROM steps WHERE file_id = $1 AND id IN (SELECT MAX(s.id) FROM steps s \
         JOIN jobs j ON j.file_id = s.file_id AND j.version = s.version WHERE s.file_id = $1 \
         AND s.note IS NULL AND ((s.step = $3 AND s.at = CASE WHEN j.enqueued_at < $2 \
         THEN j.enqueued_at ELSE $2 END) OR (s.step = $4 AND s.at <= $2)) GROUP BY s.step) \
         RETURNING step, at",
    )
    .bind(file_id)
    .bind(millis(now))
    .bind(Step::Seen.as_str())
    .bind(Step::Uploaded.as_str())
    .fetch_all(tx)
    .await?;
    let at = |step: Step| {
        let found = steps.iter().find(|(word, _)| word == step.as_str());
        found.map(|(_, at)| *at)
    };
    let uploaded = at(Step::Uploaded).map(|at| millis(now).saturating_sub(at));
    let count = |of: fn(&Issues) -> u64| result.issues.map(|issues| count_column(of(issues)));
    sql::query(
        "INSERT INTO kept_results (id, file_id, version, outcome, at, millis, bytes, connector, \
         storage_file_id, run_id, reason, hint, errors, warnings, others, seen, uploaded_millis) \
         SELECT $1, f.id, j.version, $3, CASE WHEN $4 <> ($1 >> 20) THEN $4 END, CASE \
         WHEN $4 > j.enqueued_at THEN $4 - j.enqueued_at ELSE 0 END, COALESCE(f.stored_size, 0), \
         f.connector, CASE WHEN f.storage_file_id IS NULL THEN '' END, $5, $6, $7, $8, $9, $10, \
         $11, $12 FROM files f JOIN jobs j ON j.file_id = f.id WHERE f.id = $2",
    )
    .bind(id)
    .bind(file_id)
    .bind(number(outcome))
    .bind(millis(now))
    .bind(result.run.map(|run| run.0))
    .bind(result.reason)
    .bind(result.hint)
    .bind(count(|issues| issues.errors))
    .bind(count(|issues| issues.warnings))
    .bind(count(|issues| issues.others))
    .bind(i64::from(at(Step::Seen).is_some()))
    .bind(uploaded)
    .execute(tx)
    .await?;
    Ok(())
}
