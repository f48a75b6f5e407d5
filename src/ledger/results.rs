//! Results: what became of each version of a file.

use std::path::PathBuf;

use jiff::Timestamp;

use super::row::join;
use super::{Error, FileId, Ledger, Outcome, Tx, count_value, millis, sql, timestamp};
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
                sql::query_as(
                    "SELECT outcome, COUNT(*) FROM results WHERE at >= $1 GROUP BY outcome \
                     ORDER BY outcome",
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

/// Records what became of the version that the job of this file is about, and returns the id of that record. The job
/// must still be there.
pub(super) async fn insert_result(
    tx: &mut Tx,
    file_id: i64,
    outcome: Outcome,
    run: Option<&str>,
    reason: Option<&str>,
    hint: Option<&str>,
    now: Timestamp,
) -> Result<i64, sqlx::Error> {
    let id = tx.new_id(now);
    sql::query(
        "INSERT INTO results (id, file_id, version, outcome, at, millis, bytes, connector, \
         storage_file_id, run, reason, hint) SELECT $1, f.id, j.version, $3, $4, CASE \
         WHEN $4 > j.enqueued_at THEN $4 - j.enqueued_at ELSE 0 END, COALESCE(f.stored_size, 0), \
         f.connector, f.storage_file_id, $5, $6, $7 FROM files f JOIN jobs j ON j.file_id = f.id \
         WHERE f.id = $2",
    )
    .bind(id)
    .bind(file_id)
    .bind(outcome)
    .bind(millis(now))
    .bind(run)
    .bind(reason)
    .bind(hint)
    .execute(tx)
    .await?;
    Ok(id)
}
