//! Reports of runs.

use super::run_progress::{duration, recorded};
use super::{Error, Ledger, RunSummary, Tx, count_value, sql, timestamp};
use crate::ids::ImodelId;

/// A run, for the history.
#[derive(Debug, Clone)]
pub struct RunEntry {
    /// The ledger's id, which rises from run to run.
    pub number: i64,
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// What is known of it.
    pub run: RunSummary,
    /// How many files it was to bring.
    pub files: u64,
}

sql::row! {
    struct RunRow {
        id: i64,
        imodel_id: ImodelId,
        platform_id: Option<String>,
        requested_at: i64,
        ended_at: Option<i64>,
        state: Option<String>,
        result: Option<String>,
        overdue: bool,
        progress: Option<String>,
        usual_ms: Option<i64>,
        files: i64,
    }
}

const RUNS: &str = "SELECT r.id, c.imodel_id, r.platform_id, r.requested_at, r.ended_at, \
                    r.state, r.result, r.overdue <> 0 AS overdue, r.progress, r.usual_ms, r.files FROM runs r \
                    JOIN connections c ON c.id = r.connection_id";

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
                progress: recorded(self.progress.as_deref()),
                usual: self.usual_ms.map(duration),
            },
            files: count_value(self.files),
        }
    }
}

impl Ledger {
    /// The runs from the one with this number on, oldest first.
    pub async fn runs_from(&self, number: i64) -> Result<Vec<RunEntry>, Error> {
        let rows: Vec<RunRow> = self
            .db
            .read("report runs", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(format!(
                    "{RUNS} WHERE r.id >= $1 ORDER BY r.id"
                )))
                .bind(number)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(RunRow::into_entry).collect())
    }
}

/// The latest runs, newest first.
pub(super) async fn latest_runs(tx: &mut Tx, limit: u32) -> Result<Vec<RunEntry>, sqlx::Error> {
    let sql = format!("{RUNS} ORDER BY r.id DESC LIMIT $1");
    let rows: Vec<RunRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .bind(i64::from(limit))
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(RunRow::into_entry).collect())
}
