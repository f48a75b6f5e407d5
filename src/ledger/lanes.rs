//! What a lane needs: what an iModel has in the cloud, which files await a run, and the runs themselves.

use std::path::PathBuf;

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::files::join;
use super::uploads::{delete_job, forget_storage_file, insert_result, refuse};
use super::{
    During as _, Error, FileId, Ledger, Outcome, Refusal, bytes_column, bytes_value, millis,
    new_id, timestamp,
};

/// The ledger's id of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(i64);

/// The ledger's id of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(i64);

/// What is known of an iModel for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImodelRecord {
    /// The iTwin that it belongs to.
    pub itwin_id: String,
    /// The root folder of that iTwin's storage.
    pub root_folder_id: String,
}

/// A connection of an iModel that has watches.
#[derive(Debug, Clone)]
pub struct ConnectionRecord {
    /// The ledger's id.
    pub id: ConnectionId,
    /// Its display name.
    pub name: String,
    /// The platform's id, once it exists there.
    pub platform_id: Option<String>,
    /// When something was completed last that no run has covered, if there is such a thing.
    pub moved_on: Option<Timestamp>,
}

/// What waits for a run of one iModel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Files whose turn for a run has come.
    pub waiting: u64,
    /// When the first of them came.
    pub first: Option<Timestamp>,
    /// When the last of them came.
    pub last: Option<Timestamp>,
    /// Whether a file of the iModel is being uploaded or could be at once.
    pub in_hand: bool,
    /// When the next file becomes due for a run that is not due yet.
    pub next_due: Option<Timestamp>,
}

/// A file that awaits a run.
#[derive(Debug, Clone)]
pub struct BatchFile {
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// Its storage file.
    pub storage_file_id: String,
    /// The connector type that it should have.
    pub connector: String,
    /// Source file id and connector type, if it is mapped in the connection that it belongs to.
    pub mapped: Option<(String, String)>,
    /// Runs that this version has been in without success.
    pub run_attempts: u32,
    /// Attempts that did not get as far as a run.
    pub attempts: u32,
    /// When the first of an unbroken row of failures happened.
    pub failing_since: Option<Timestamp>,
}

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
}

/// What a run made of one file.
#[derive(Debug, Clone)]
pub struct FileOutcome {
    /// The file.
    pub file: FileId,
    /// The outcome.
    pub verdict: Verdict,
}

/// The outcome of a run for one file.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is in the iModel.
    Synchronized,
    /// It is not; the refusal says why and when to run it again.
    Refused(Refusal),
}

/// The end of a run for one file, for the log.
#[derive(Debug, Clone)]
pub struct RunReport {
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

#[derive(sqlx::FromRow)]
struct BatchRow {
    id: i64,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    storage_file_id: Option<String>,
    connector: Option<String>,
    mapped_here: bool,
    source_file_id: Option<String>,
    mapped_connector: Option<String>,
    run_attempts: i64,
    attempts: i64,
    failing_since: Option<i64>,
}

const BATCH_COLUMNS: &str = "SELECT f.id, w.name AS watch, f.dir, f.name, f.storage_file_id, f.connector, \
     (f.connection_id = w.connection_id) IS TRUE AS mapped_here, f.source_file_id, f.mapped_connector, \
     j.run_attempts, j.attempts, j.failing_since \
     FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id ";

impl Ledger {
    /// What is known of an iModel.
    pub async fn imodel(&self, imodel_id: &str) -> Result<Option<ImodelRecord>, Error> {
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT itwin_id, root_folder_id FROM imodels WHERE id = $1")
                .bind(imodel_id)
                .fetch_optional(&self.reads)
                .await
                .during("look up an iModel")?;
        Ok(row.map(|(itwin_id, root_folder_id)| ImodelRecord {
            itwin_id,
            root_folder_id,
        }))
    }

    /// Keeps what is known of an iModel.
    pub async fn remember_imodel(
        &self,
        imodel_id: &str,
        record: &ImodelRecord,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO imodels (id, itwin_id, root_folder_id) VALUES ($1, $2, $3) \
             ON CONFLICT (id) DO UPDATE SET itwin_id = excluded.itwin_id, root_folder_id = excluded.root_folder_id",
        )
        .bind(imodel_id)
        .bind(&record.itwin_id)
        .bind(&record.root_folder_id)
        .execute(&self.pool)
        .await
        .during("remember an iModel")?;
        Ok(())
    }

    /// The storage folder at `path` below a root folder, if it is known.
    pub async fn folder(&self, root_folder_id: &str, path: &str) -> Result<Option<String>, Error> {
        sqlx::query_scalar("SELECT folder_id FROM folders WHERE root_folder_id = $1 AND path = $2")
            .bind(root_folder_id)
            .bind(path)
            .fetch_optional(&self.reads)
            .await
            .during("look up a storage folder")
    }

    /// Keeps the id of a storage folder.
    pub async fn remember_folder(
        &self,
        root_folder_id: &str,
        path: &str,
        folder_id: &str,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO folders (root_folder_id, path, folder_id) VALUES ($1, $2, $3) \
             ON CONFLICT (root_folder_id, path) DO UPDATE SET folder_id = excluded.folder_id",
        )
        .bind(root_folder_id)
        .bind(path)
        .bind(folder_id)
        .execute(&self.pool)
        .await
        .during("remember a storage folder")?;
        Ok(())
    }

    /// Forgets all folders below a root folder, because one of them turned out to be gone.
    pub async fn forget_folders(&self, root_folder_id: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM folders WHERE root_folder_id = $1")
            .bind(root_folder_id)
            .execute(&self.pool)
            .await
            .during("forget storage folders")?;
        Ok(())
    }

    /// The connections of an iModel that watches use.
    pub async fn connections(&self, imodel_id: &str) -> Result<Vec<ConnectionRecord>, Error> {
        let rows: Vec<(i64, String, Option<String>, bool, i64)> = sqlx::query_as(
            "SELECT id, name, platform_id, generation > covered, moved_at FROM connections c WHERE imodel_id = $1 \
             AND EXISTS (SELECT 1 FROM watches w WHERE w.connection_id = c.id) ORDER BY id",
        )
        .bind(imodel_id)
        .fetch_all(&self.reads)
        .await
        .during("list the connections of an iModel")?;
        Ok(rows
            .into_iter()
            .map(
                |(id, name, platform_id, moved_on, moved_at)| ConnectionRecord {
                    id: ConnectionId(id),
                    name,
                    platform_id,
                    moved_on: moved_on.then(|| timestamp(moved_at)),
                },
            )
            .collect())
    }

    /// Keeps the platform's id of a connection, or forgets a connection that is gone together with its mappings.
    pub async fn set_connection(
        &self,
        connection: ConnectionId,
        platform_id: Option<&str>,
    ) -> Result<(), Error> {
        const ACTION: &str = "record a connection";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("UPDATE connections SET platform_id = $2 WHERE id = $1")
            .bind(connection.0)
            .bind(platform_id)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        if platform_id.is_none() {
            sqlx::query(
                "UPDATE files SET connection_id = NULL, source_file_id = NULL, mapped_connector = NULL \
                 WHERE connection_id = $1",
            )
            .bind(connection.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }

    /// What waits for a run of this iModel.
    pub async fn backlog(&self, imodel_id: &str, now: Timestamp) -> Result<Backlog, Error> {
        #[derive(sqlx::FromRow)]
        struct Row {
            waiting: i64,
            first: Option<i64>,
            last: Option<i64>,
            next_due: Option<i64>,
            in_hand: bool,
        }
        // Asked after every upload, so it must not look at all that is still to be uploaded.
        let row: Row = sqlx::query_as(
            "SELECT COUNT(CASE WHEN j.due_at <= $2 THEN 1 END) AS waiting, \
             MIN(CASE WHEN j.due_at <= $2 THEN j.due_at END) AS first, \
             MAX(CASE WHEN j.due_at <= $2 THEN j.due_at END) AS last, \
             MIN(CASE WHEN j.due_at > $2 THEN j.due_at END) AS next_due, \
             (EXISTS (SELECT 1 FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                 WHERE j.state = 'uploading' AND w.imodel_id = $1) \
              OR EXISTS (SELECT 1 FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                 WHERE j.state = 'due' AND j.due_at <= $2 AND w.imodel_id = $1 AND w.held_until <= $2)) AS in_hand \
             FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
             WHERE j.state = 'stored' AND w.imodel_id = $1",
        )
        .bind(imodel_id)
        .bind(millis(now))
        .fetch_one(&self.reads)
        .await
        .during("look at the backlog of an iModel")?;
        Ok(Backlog {
            waiting: bytes_value(row.waiting),
            first: row.first.map(timestamp),
            last: row.last.map(timestamp),
            in_hand: row.in_hand,
            next_due: row.next_due.map(timestamp),
        })
    }

    /// The files of a connection whose turn for a run has come.
    pub async fn batch(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<BatchFile>, Error> {
        let sql = format!(
            "{BATCH_COLUMNS} WHERE w.connection_id = $1 AND j.state = 'stored' AND j.due_at <= $2 ORDER BY f.id"
        );
        let rows: Vec<BatchRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(connection.0)
            .bind(millis(now))
            .fetch_all(&self.reads)
            .await
            .during("list the files that await a run")?;
        Ok(rows.into_iter().filter_map(BatchRow::into_file).collect())
    }

    /// Whether the connection holds any source file of ours, so that a run of it makes sense.
    pub async fn holds_source_files(&self, connection: ConnectionId) -> Result<bool, Error> {
        let one: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM files WHERE connection_id = $1 AND source_file_id IS NOT NULL LIMIT 1",
        )
        .bind(connection.0)
        .fetch_optional(&self.reads)
        .await
        .during("look for source files")?;
        Ok(one.is_some())
    }

    /// Records that files are source files of a connection: (file, source file id, connector type).
    pub async fn record_mappings(
        &self,
        connection: ConnectionId,
        mappings: &[(FileId, String, String)],
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "record source files";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        for (file, source_file_id, connector) in mappings {
            sqlx::query(
                "UPDATE files SET connection_id = $2, source_file_id = $3, mapped_connector = $4 WHERE id = $1",
            )
            .bind(file.0)
            .bind(connection.0)
            .bind(source_file_id)
            .bind(connector)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        }
        sqlx::query(
            "UPDATE connections SET generation = generation + 1, moved_at = $2 WHERE id = $1",
        )
        .bind(connection.0)
        .bind(millis(now))
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        self.commit(tx, ACTION).await
    }

    /// Writes the intent to request a run, for every file of the connection that is stored, due and mapped.
    pub async fn begin_run(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<RunId, Error> {
        const ACTION: &str = "record that a run is about to be requested";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let id = new_id(now);
        sqlx::query(
            "INSERT INTO runs (id, connection_id, generation, phase, requested_at) \
             SELECT $1, id, generation, 'requested', $3 FROM connections WHERE id = $2",
        )
        .bind(id)
        .bind(connection.0)
        .bind(millis(now))
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        let files = sqlx::query(
            "UPDATE jobs SET state = 'running', run_id = $1 WHERE state = 'stored' AND due_at <= $3 AND file_id IN \
             (SELECT f.id FROM files f JOIN watches w ON w.id = f.watch_id WHERE w.connection_id = $2 \
              AND f.connection_id = $2 AND f.source_file_id IS NOT NULL AND f.mapped_connector = f.connector)",
        )
        .bind(id)
        .bind(connection.0)
        .bind(millis(now))
        .execute(&mut *tx)
        .await
        .during(ACTION)?
        .rows_affected();
        sqlx::query("UPDATE runs SET files = $2 WHERE id = $1")
            .bind(id)
            .bind(bytes_column(files))
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        self.commit(tx, ACTION).await?;
        Ok(RunId(id))
    }

    /// The platform accepted the run.
    pub async fn record_run(&self, run: RunId, platform_id: &str) -> Result<(), Error> {
        sqlx::query("UPDATE runs SET phase = 'active', platform_id = $2 WHERE id = $1")
            .bind(run.0)
            .bind(platform_id)
            .execute(&self.pool)
            .await
            .during("record a run")?;
        self.durable("record a run").await
    }

    /// Whether a run with this id of the platform is in the ledger already.
    pub async fn knows_run(&self, platform_id: &str) -> Result<bool, Error> {
        let one: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM runs WHERE platform_id = $1 LIMIT 1")
                .bind(platform_id)
                .fetch_optional(&self.reads)
                .await
                .during("look up a run")?;
        Ok(one.is_some())
    }

    /// The run does not exist: its files await another one.
    pub async fn abandon_run(&self, run: RunId) -> Result<(), Error> {
        const ACTION: &str = "give a run up";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("UPDATE jobs SET state = 'stored', run_id = NULL WHERE run_id = $1")
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        sqlx::query("DELETE FROM runs WHERE id = $1")
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        self.commit(tx, ACTION).await
    }

    /// The oldest run of an iModel that is not over.
    pub async fn open_run(&self, imodel_id: &str) -> Result<Option<OpenRun>, Error> {
        type Row = (i64, i64, Option<String>, Option<String>, i64);
        let row: Option<Row> = sqlx::query_as(
            "SELECT r.id, r.connection_id, c.platform_id, r.platform_id, r.requested_at FROM runs r \
             JOIN connections c ON c.id = r.connection_id \
             WHERE c.imodel_id = $1 AND r.phase <> 'ended' ORDER BY r.id LIMIT 1",
        )
        .bind(imodel_id)
        .fetch_optional(&self.reads)
        .await
        .during("look for a run under way")?;
        Ok(row.map(
            |(id, connection, connection_platform_id, platform_id, requested_at)| OpenRun {
                id: RunId(id),
                connection: ConnectionId(connection),
                connection_platform_id,
                platform_id,
                requested_at: timestamp(requested_at),
            },
        ))
    }

    /// The files that a run covers and that have not moved on since.
    pub async fn run_files(&self, run: RunId) -> Result<Vec<BatchFile>, Error> {
        let sql = format!("{BATCH_COLUMNS} WHERE j.run_id = $1 ORDER BY f.id");
        let rows: Vec<BatchRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(run.0)
            .fetch_all(&self.reads)
            .await
            .during("list the files of a run")?;
        Ok(rows.into_iter().filter_map(BatchRow::into_file).collect())
    }

    /// Keeps the last state that was seen of a run, for status.
    pub async fn note_run_state(&self, run: RunId, state: &str) -> Result<(), Error> {
        sqlx::query("UPDATE runs SET state = $2 WHERE id = $1")
            .bind(run.0)
            .bind(state)
            .execute(&self.pool)
            .await
            .during("note the state of a run")?;
        Ok(())
    }

    /// The run is over: gives every file that it covers its outcome, and returns them for the log.
    ///
    /// A file that has moved on meanwhile is left alone; its newer version gets a run of its own.
    pub async fn finish_run(
        &self,
        run: RunId,
        state: &str,
        result: &str,
        outcomes: &[FileOutcome],
        now: Timestamp,
    ) -> Result<Vec<RunReport>, Error> {
        const ACTION: &str = "record the end of a run";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query(
            "UPDATE runs SET phase = 'ended', state = $2, result = $3, ended_at = $4 WHERE id = $1",
        )
        .bind(run.0)
        .bind(state)
        .bind(result)
        .bind(millis(now))
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        sqlx::query(
            "UPDATE connections SET covered = (SELECT CASE WHEN r.generation > connections.covered \
             THEN r.generation ELSE connections.covered END FROM runs r WHERE r.id = $1) \
             WHERE id = (SELECT connection_id FROM runs WHERE id = $1)",
        )
        .bind(run.0)
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        let platform_id: Option<String> =
            sqlx::query_scalar("SELECT platform_id FROM runs WHERE id = $1")
                .bind(run.0)
                .fetch_one(&mut *tx)
                .await
                .during(ACTION)?;
        let mut reports = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            if let Some(report) = conclude(&mut tx, run, platform_id.as_deref(), outcome, now)
                .await
                .during(ACTION)?
            {
                reports.push(report);
            }
        }
        // What the platform did not speak of at all awaits another run.
        sqlx::query("UPDATE jobs SET state = 'stored', run_id = NULL WHERE run_id = $1")
            .bind(run.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        self.commit(tx, ACTION).await?;
        Ok(reports)
    }

    /// Files that await a run could not get one: each is put off or failed by itself.
    pub async fn put_off_stored(
        &self,
        refusals: &[(FileId, Refusal)],
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "put files off that await a run";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        for (file, refusal) in refusals {
            let stored: Option<i64> =
                sqlx::query_scalar("SELECT 1 FROM jobs WHERE file_id = $1 AND state = 'stored'")
                    .bind(file.0)
                    .fetch_optional(&mut *tx)
                    .await
                    .during(ACTION)?;
            if stored.is_some() {
                refuse(&mut tx, file.0, "stored", refusal, now)
                    .await
                    .during(ACTION)?;
            }
        }
        self.commit(tx, ACTION).await
    }

    /// A file that awaits a run is gone from storage: it has to be uploaded again.
    pub async fn upload_again(&self, file: FileId, now: Timestamp) -> Result<(), Error> {
        const ACTION: &str = "send a file back to the upload";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        forget_storage_file(&mut tx, file.0).await.during(ACTION)?;
        sqlx::query("UPDATE jobs SET state = 'due', due_at = $2, run_id = NULL WHERE file_id = $1 AND state = 'stored'")
            .bind(file.0)
            .bind(millis(now))
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        self.commit(tx, ACTION).await
    }
}

impl BatchRow {
    fn into_file(self) -> Option<BatchFile> {
        let mapped = self
            .source_file_id
            .zip(self.mapped_connector)
            .filter(|_| self.mapped_here);
        Some(BatchFile {
            file: FileId(self.id),
            watch: self.watch,
            path: join(self.dir, self.name),
            storage_file_id: self.storage_file_id?,
            connector: self.connector?,
            mapped,
            run_attempts: u32::try_from(self.run_attempts).unwrap_or(u32::MAX),
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            failing_since: self.failing_since.map(timestamp),
        })
    }
}

async fn conclude(
    tx: &mut Transaction<'_, Sqlite>,
    run: RunId,
    platform_id: Option<&str>,
    outcome: &FileOutcome,
    now: Timestamp,
) -> Result<Option<RunReport>, sqlx::Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        connector: Option<String>,
        stored_size: Option<i64>,
        enqueued_at: i64,
    }
    let file_id = outcome.file.0;
    let row: Option<Row> = sqlx::query_as(
        "SELECT w.name AS watch, f.dir, f.name, f.connector, f.stored_size, j.enqueued_at \
         FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
         WHERE j.file_id = $1 AND j.run_id = $2",
    )
    .bind(file_id)
    .bind(run.0)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    match &outcome.verdict {
        Verdict::Synchronized => {
            sqlx::query("UPDATE files SET outcome = 'synchronized', outcome_at = $2 WHERE id = $1")
                .bind(file_id)
                .bind(millis(now))
                .execute(&mut **tx)
                .await?;
            insert_result(
                tx,
                file_id,
                Outcome::Synchronized,
                platform_id,
                None,
                None,
                now,
            )
            .await?;
            delete_job(tx, file_id).await?;
        }
        Verdict::Refused(refusal) => {
            sqlx::query("UPDATE jobs SET run_attempts = run_attempts + 1 WHERE file_id = $1")
                .bind(file_id)
                .execute(&mut **tx)
                .await?;
            refuse(tx, file_id, "stored", refusal, now).await?;
        }
    }
    Ok(Some(RunReport {
        watch: row.watch,
        path: join(row.dir, row.name),
        connector: row.connector.unwrap_or_default(),
        bytes: bytes_value(row.stored_size.unwrap_or(0)),
        millis: bytes_value(millis(now).saturating_sub(row.enqueued_at)),
        verdict: outcome.verdict.clone(),
    }))
}
