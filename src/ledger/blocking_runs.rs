//! Runs of others that keep ours from starting.

use jiff::Timestamp;

use super::{Error, Ledger, millis, sql, timestamp};
use crate::ids::ImodelId;

/// A run of someone else that keeps ours from starting.
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
    /// The run of someone else that keeps a run of this iModel from starting, as last seen.
    pub async fn blocking_run(&self, imodel_id: &ImodelId) -> Result<Option<BlockingRun>, Error> {
        type Row = (String, String, i64, i64);
        let row: Option<Row> = self
            .db
            .read("look for a run that blocks an iModel", async |db| {
                sql::query_as(
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
        imodel_id: &ImodelId,
        blocking: Option<&BlockingRun>,
    ) -> Result<(), Error> {
        const ACTION: &str = "record what blocks an iModel";
        let Some(blocking) = blocking else {
            self.db
                .write(ACTION, async |tx| {
                    sql::query("DELETE FROM blocking_runs WHERE imodel_id = $1")
                        .bind(imodel_id)
                        .execute(tx)
                        .await
                })
                .await?;
            return Ok(());
        };
        self.db
            .write(ACTION, async |tx| {
                sql::query(
                    "INSERT INTO blocking_runs (imodel_id, run, connection, since, overdue) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (imodel_id) DO UPDATE \
                     SET run = excluded.run, connection = excluded.connection, \
                     since = excluded.since, overdue = excluded.overdue",
                )
                .bind(imodel_id)
                .bind(&blocking.run)
                .bind(&blocking.connection)
                .bind(millis(blocking.since))
                .bind(i64::from(blocking.overdue))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}
