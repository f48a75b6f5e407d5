//! Runs: the intent to request one, and its state until it ends.
use jiff::Timestamp;

use super::history::{Step, note};
use super::run_progress::usual_ms;
use super::sets::set_open;
use super::{
    ConnectionId, Error, FileId, Ledger, RunId, Tx, count_column, count_value, millis, sql,
    timestamp,
};
use crate::ids::ImodelId;

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

impl Ledger {
    /// Writes the intent to request a run, for every file of the connection that is stored, due and mapped. `there` is
    /// the time by the platform's clock.
    pub async fn begin_run(
        &self,
        connection: ConnectionId,
        there: Timestamp,
        now: Timestamp,
    ) -> Result<RunId, Error> {
        self.db
            .write_durably("record that a run is about to be requested", async |tx| {
                let id = tx.new_id(now);
                let usual = usual_ms(tx, connection).await?;
                sql::query(
                    "INSERT INTO runs (id, connection_id, generation, phase, requested_at, \
                     requested_there, usual_ms) SELECT $1, id, generation, 'requested', $3, $4, \
                     $5 FROM connections WHERE id = $2",
                )
                .bind(id)
                .bind(connection.0)
                .bind(millis(now))
                .bind(millis(there))
                .bind(usual)
                .execute(tx)
                .await?;
                let files = sql::query(concat!(
                    "UPDATE jobs SET state = 'running', run_id = $1, kind = NULL, \
             previous_reason = COALESCE(reason, previous_reason), reason = NULL, hint = NULL \
             WHERE state = 'stored' AND (due_at <= $3 OR due_at - pause > $3 + 5000) \
             AND file_id IN (SELECT f.id FROM files f \
             WHERE f.target_connection_id = $2 AND f.connection_id = $2 \
             AND f.source_file_id IS NOT NULL AND f.mapped_connector = f.connector AND NOT ",
                    set_open!("'due', 'uploading', 'failed'"),
                    ")",
                ))
                .bind(id)
                .bind(connection.0)
                .bind(millis(now))
                .execute(tx)
                .await?;
                sql::query("UPDATE runs SET files = $2 WHERE id = $1")
                    .bind(id)
                    .bind(count_column(files))
                    .execute(tx)
                    .await?;
                Ok(RunId(id))
            })
            .await
    }

    /// The platform accepted the run.
    pub async fn record_run(&self, run: RunId, platform_id: &str) -> Result<(), Error> {
        self.db
            .write_durably("record a run", async |tx| {
                sql::query("UPDATE runs SET phase = 'active', platform_id = $2 WHERE id = $1")
                    .bind(run.0)
                    .bind(platform_id)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// The run does not exist: its files await another one.
    pub async fn abandon_run(&self, run: RunId, now: Timestamp) -> Result<(), Error> {
        self.db
            .write_durably("abandon a run", async |tx| {
                release_files(tx, run, Step::RunLost, now).await?;
                sql::query("DELETE FROM runs WHERE id = $1")
                    .bind(run)
                    .execute(tx)
                    .await?;
                Ok(())
            })
            .await
    }

    /// The platform's ids of the connection's runs that are in the ledger, newest first.
    pub async fn known_runs(&self, connection: ConnectionId) -> Result<Vec<String>, Error> {
        self.db
            .read("read the runs of a connection", async |db| {
                sql::query_scalar(
                    "SELECT platform_id FROM runs WHERE connection_id = $1 AND platform_id IS NOT NULL ORDER BY id DESC",
                )
                .bind(connection)
                .fetch_all(db)
                .await
            })
            .await
    }

    /// The oldest run of an iModel that is not over.
    pub async fn open_run(&self, imodel_id: &ImodelId) -> Result<Option<OpenRun>, Error> {
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
        let row: Option<Row> =
            self.db
                .read("look up the open run", async |db| {
                    sql::query_as(
            "SELECT r.id, r.connection_id, c.platform_id, r.platform_id, r.requested_at, \
             r.requested_there, r.generation, r.overdue <> 0 FROM runs r JOIN connections c \
             ON c.id = r.connection_id WHERE c.imodel_id = $1 AND r.phase <> 'ended' \
             ORDER BY r.id LIMIT 1",
        )
        .bind(imodel_id)
        .fetch_optional(db).await
                })
                .await?;
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

    /// Records that a run takes longer than it should. False: that was recorded before.
    pub async fn record_overdue(&self, run: RunId) -> Result<bool, Error> {
        let recorded = self
            .db
            .write("record that a run is overdue", async |tx| {
                sql::query("UPDATE runs SET overdue = 1 WHERE id = $1 AND overdue = 0")
                    .bind(run.0)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(recorded > 0)
    }

    /// How many files a run is to bring.
    pub async fn run_size(&self, run: RunId) -> Result<u64, Error> {
        let files: i64 = self
            .db
            .read("look up a run", async |db| {
                sql::query_scalar("SELECT files FROM runs WHERE id = $1")
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
                sql::query_scalar("SELECT file_id FROM jobs WHERE run_id = $1")
                    .bind(run.0)
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(ids.into_iter().map(FileId).collect())
    }
}

/// Makes the files that are still in a run wait for another one; `step` says why in their histories.
pub(super) async fn release_files(
    tx: &mut Tx,
    run: RunId,
    step: Step,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let files: Vec<(i64, i64)> = sql::query_as(
        "UPDATE jobs SET state = 'stored', run_id = NULL WHERE run_id = $1 RETURNING file_id, version",
    )
    .bind(run)
    .fetch_all(tx)
    .await?;
    if files.is_empty() {
        return Ok(());
    }
    let platform_id: Option<String> =
        sql::query_scalar("SELECT platform_id FROM runs WHERE id = $1")
            .bind(run)
            .fetch_one(tx)
            .await?;
    for (file, version) in files {
        note(tx, file, version, step, platform_id.as_deref(), now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_run_request_without_an_answer_is_found_again_with_its_files() {
        let f = Fixture::new().await;
        f.running("a.dgn").await;
        let f = f.restart().await;
        let open = f.ledger.open_run(&"imodel".into()).await.unwrap().unwrap();
        assert_eq!((open.platform_id, open.requested_at), (None, at(2)));
        assert_eq!(f.ledger.files_in_run(open.id).await.unwrap().len(), 1);
        f.ledger.abandon_run(open.id, at(3)).await.unwrap();
        assert!(f.ledger.open_run(&"imodel".into()).await.unwrap().is_none());
        assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
    }
}
