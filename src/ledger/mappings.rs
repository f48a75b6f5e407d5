//! The files that belong in a connection, and what the platform was last seen to hold of them.
//!
//! The mapping columns of a file repeat what was read from the platform before the last run. They decide nothing by
//! themselves: before every run they are read again.

use std::path::PathBuf;

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::clock::{has_come, pause};
use super::files::join;
use super::history::{Step, note};
use super::uploads::{forget_storage_file, insert_stored_job, refuse};
use super::watches::RETIRED;
use super::{
    Absence, ConnectionId, During as _, Error, FailureKind, FileId, JobState, Ledger, Outcome,
    Refusal, bytes_value, millis, timestamp,
};

/// A file that is, or belongs, in a connection, with all that a run of it is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFile {
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
    /// Its source file, as last read from the connection that it belongs to.
    pub source_file_id: Option<String>,
    /// The connector type of that source file; None while a change of it is not confirmed.
    pub mapped_connector: Option<String>,
    /// Its open job, if it has one.
    pub job: Option<OpenJob>,
    /// What was recorded when its content was completed in storage.
    pub stored: StoredState,
    /// The outcome of that content; None while a run for it is owed.
    pub outcome: Option<Outcome>,
    /// No local file stands for it any more.
    pub absent: bool,
}

/// The open job of a [`ConnectionFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenJob {
    /// Where it stands.
    pub state: JobState,
    /// It waits for a run, and its time has come.
    pub awaits_run: bool,
    /// Why it failed last, if it did.
    pub kind: Option<FailureKind>,
    /// Runs that this version has been in without success.
    pub run_attempts: u32,
    /// Attempts that did not get as far as a run.
    pub attempts: u32,
    /// When the first of an unbroken row of failures happened.
    pub failing_since: Option<Timestamp>,
}

/// What is known of the content in storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredState {
    /// Bytes.
    pub bytes: u64,
    /// What the platform said of the storage file.
    pub stamp: StorageStamp,
    /// The generation of the connection at which it was completed.
    pub generation: i64,
    /// A task of a run has read it and succeeded.
    pub processed: bool,
    /// How often somebody else changed the storage file since the local file last changed.
    pub overwrites: u32,
}

/// What the platform says of a storage file, verbatim; None where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageStamp {
    /// `lastModifiedDateTime`.
    pub modified: Option<String>,
    /// `lastModifiedByDisplayName`.
    pub modified_by: Option<String>,
    /// `parentFolderId`.
    pub folder_id: Option<String>,
}

/// A mapping as it is on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The file.
    pub file: FileId,
    /// The id of the source file.
    pub source_file_id: String,
    /// The connector type.
    pub connector: String,
    /// It was made or corrected since it was recorded last, so the next run has to bring the file.
    pub renewed: bool,
    /// Another connector than this one may have read the content last.
    pub other_connector: bool,
}

#[derive(sqlx::FromRow)]
pub(super) struct ConnectionFileRow {
    id: i64,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    storage_file_id: Option<String>,
    connector: Option<String>,
    mapped_here: bool,
    source_file_id: Option<String>,
    mapped_connector: Option<String>,
    stored_size: Option<i64>,
    stored_modified: Option<String>,
    stored_modified_by: Option<String>,
    storage_folder_id: Option<String>,
    stored_generation: i64,
    processed: i64,
    overwrites: i64,
    absence: Option<String>,
    outcome: Option<String>,
    state: Option<String>,
    kind: Option<String>,
    due_at: Option<i64>,
    pause: Option<i64>,
    run_attempts: Option<i64>,
    attempts: Option<i64>,
    failing_since: Option<i64>,
}

pub(super) const CONNECTION_FILE: &str = "SELECT f.id, w.name AS watch, f.dir, f.name, f.storage_file_id, f.connector, \
     (f.connection_id = w.connection_id) IS TRUE AS mapped_here, f.source_file_id, f.mapped_connector, \
     f.stored_size, f.stored_modified, f.stored_modified_by, f.storage_folder_id, f.stored_generation, f.processed, \
     f.overwrites, f.absence, f.outcome, j.state, j.kind, j.due_at, j.pause, j.run_attempts, j.attempts, j.failing_since \
     FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id ";

impl ConnectionFile {
    /// Whether it waits for a run now.
    #[must_use]
    pub fn awaits_run(&self) -> bool {
        self.job.is_some_and(|job| job.awaits_run)
    }
}

impl Ledger {
    /// The files whose content is in storage and that belong in a connection, in a stable order.
    pub async fn connection_files(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<ConnectionFile>, Error> {
        const ACTION: &str = "list the files of a connection";
        let sql = format!(
            "{CONNECTION_FILE} WHERE w.connection_id = $1 AND w.held_until < $2 AND f.connector IS NOT NULL \
             AND f.storage_file_id IS NOT NULL AND f.stored_version > 0 ORDER BY w.name, f.dir, f.name"
        );
        let rows: Vec<ConnectionFileRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(connection.0)
            .bind(millis(RETIRED))
            .fetch_all(&self.reads)
            .await
            .during(ACTION)?;
        rows.into_iter()
            .map(|row| row.into_file(now))
            .collect::<Result<_, _>>()
            .during(ACTION)
    }

    /// Source files of a connection whose storage file is gone and whose local file is gone too: nothing will ever
    /// be read through them.
    pub async fn dead_mappings(&self, connection: ConnectionId) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(
            "SELECT source_file_id FROM files WHERE connection_id = $1 AND source_file_id IS NOT NULL \
             AND storage_file_id IS NULL AND absence IN ('gone', 'deselected')",
        )
        .bind(connection.0)
        .fetch_all(&self.reads)
        .await
        .during("look for source files without a storage file")
    }

    /// A dead mapping was removed from the connection.
    pub async fn forget_mapping(&self, source_file_id: &str) -> Result<(), Error> {
        sqlx::query(
            "UPDATE files SET connection_id = NULL, source_file_id = NULL, mapped_connector = NULL \
             WHERE source_file_id = $1 AND storage_file_id IS NULL",
        )
        .bind(source_file_id)
        .execute(&self.pool)
        .await
        .during("forget a source file")?;
        Ok(())
    }

    /// Source files of these files are about to be changed: until [`Ledger::record_mappings`] their connector is unknown,
    /// so that a change whose record is lost still leads to a run.
    pub async fn expect_mappings(&self, files: &[FileId]) -> Result<(), Error> {
        const ACTION: &str = "record that source files are about to be changed";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        for file in files {
            sqlx::query("UPDATE files SET mapped_connector = NULL WHERE id = $1")
                .bind(file.0)
                .execute(&mut *tx)
                .await
                .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }

    /// Records the source files of a connection as they are on the platform now.
    ///
    /// A file whose mapping was made or corrected waits for a run afterwards, unless a newer version of it is on its
    /// way anyway.
    pub async fn record_mappings(
        &self,
        connection: ConnectionId,
        mappings: &[Mapping],
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "record source files";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let mut renewed = false;
        for mapping in mappings {
            record_mapping(&mut tx, connection, mapping, now)
                .await
                .during(ACTION)?;
            renewed |= mapping.renewed;
        }
        if renewed {
            sqlx::query(
                "UPDATE connections SET generation = generation + 1, moved_at = $2 WHERE id = $1",
            )
            .bind(connection.0)
            .bind(millis(now))
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }

    /// Files could not get a run, each for its own reason: they wait for another attempt, or fail.
    ///
    /// A file that has no job gets one, unless a newer version of it is on its way.
    pub async fn put_off_stored(
        &self,
        refusals: &[(FileId, Refusal)],
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "put files off that wait for a run";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        for (file, refusal) in refusals {
            if await_run(&mut tx, file.0, now).await.during(ACTION)? {
                refuse(&mut tx, file.0, "stored", refusal, now)
                    .await
                    .during(ACTION)?;
                end_if_absent(&mut tx, file.0).await.during(ACTION)?;
            }
        }
        self.commit(tx, ACTION).await
    }

    /// The storage file is gone: its content has to be uploaded again. The source file is kept, to be pointed at the
    /// new storage file.
    ///
    /// Not before `due`, so that somebody who deletes it again and again does not keep us busy.
    pub async fn upload_again(
        &self,
        file: &ConnectionFile,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "send a file back to the upload";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        if is_current(&mut tx, file).await.during(ACTION)? {
            lost_in_storage(&mut tx, file.file.0, due, now)
                .await
                .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }

    /// Somebody else changed the storage file: its content is compared, and uploaded again if it differs.
    ///
    /// Not before `due`, so that two programs that overwrite each other do not do it without a pause.
    pub async fn compare_again(
        &self,
        file: &ConnectionFile,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "send a file back to be compared";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        if is_current(&mut tx, file).await.during(ACTION)? {
            overwritten_in_storage(&mut tx, file.file.0, due, now)
                .await
                .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }
}

/// Ends the wait of a file that was just refused, if its local file is gone: no failure outlives its file.
async fn end_if_absent(tx: &mut Transaction<'_, Sqlite>, file: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM jobs WHERE file_id = $1 AND EXISTS \
         (SELECT 1 FROM files WHERE id = $1 AND absence IN ('gone', 'deselected'))",
    )
    .bind(file)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl ConnectionFileRow {
    pub(super) fn into_file(self, now: Timestamp) -> Result<ConnectionFile, sqlx::Error> {
        let decode = |error: super::state::UnknownWord| sqlx::Error::Decode(Box::new(error));
        let count = |column: i64| u32::try_from(column).unwrap_or(u32::MAX);
        let state = self.state.map(JobState::try_from).transpose();
        let kind = self.kind.map(FailureKind::try_from).transpose();
        let (state, kind) = (state.map_err(decode)?, kind.map_err(decode)?);
        let job = state.map(|state| OpenJob {
            state,
            awaits_run: state == JobState::Stored
                && self
                    .due_at
                    .is_some_and(|due| has_come(due, self.pause.unwrap_or(0), now)),
            kind,
            run_attempts: self.run_attempts.map_or(0, count),
            attempts: self.attempts.map_or(0, count),
            failing_since: self.failing_since.map(timestamp),
        });
        let absence = self.absence.map(Absence::try_from).transpose();
        let outcome = self.outcome.map(Outcome::try_from).transpose();
        Ok(ConnectionFile {
            file: FileId(self.id),
            watch: self.watch,
            path: join(self.dir, self.name),
            storage_file_id: self.storage_file_id.unwrap_or_default(),
            connector: self.connector.unwrap_or_default(),
            source_file_id: self.source_file_id.filter(|_| self.mapped_here),
            mapped_connector: self.mapped_connector.filter(|_| self.mapped_here),
            job,
            stored: StoredState {
                bytes: bytes_value(self.stored_size.unwrap_or(0)),
                stamp: StorageStamp {
                    modified: self.stored_modified,
                    modified_by: self.stored_modified_by,
                    folder_id: self.storage_folder_id,
                },
                generation: self.stored_generation,
                processed: self.processed != 0,
                overwrites: count(self.overwrites),
            },
            outcome: outcome.map_err(decode)?,
            absent: matches!(
                absence.map_err(decode)?,
                Some(Absence::Gone | Absence::Deselected)
            ),
        })
    }
}

async fn record_mapping(
    tx: &mut Transaction<'_, Sqlite>,
    connection: ConnectionId,
    mapping: &Mapping,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // Another connector has not read the content yet.
    sqlx::query(
        "UPDATE files SET connection_id = $2, source_file_id = $3, mapped_connector = $4, \
         processed = CASE WHEN $5 THEN 0 ELSE processed END WHERE id = $1",
    )
    .bind(mapping.file.0)
    .bind(connection.0)
    .bind(&mapping.source_file_id)
    .bind(&mapping.connector)
    .bind(mapping.other_connector)
    .execute(&mut **tx)
    .await?;
    if mapping.renewed {
        await_run(tx, mapping.file.0, now).await?;
    }
    Ok(())
}

/// Makes a file wait for a run. False: a newer version of it is on its way, or it is in a run.
async fn await_run(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let job: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT state, kind FROM jobs WHERE file_id = $1")
            .bind(file_id)
            .fetch_optional(&mut **tx)
            .await?;
    let decode = |error: super::state::UnknownWord| sqlx::Error::Decode(Box::new(error));
    let Some((state, kind)) = job else {
        insert_stored_job(tx, file_id, now).await?;
        sqlx::query("UPDATE files SET outcome = NULL, outcome_at = NULL WHERE id = $1")
            .bind(file_id)
            .execute(&mut **tx)
            .await?;
        return Ok(true);
    };
    let kind = kind
        .map(FailureKind::try_from)
        .transpose()
        .map_err(decode)?;
    match JobState::try_from(state).map_err(decode)? {
        JobState::Stored => Ok(true),
        JobState::Failed if kind.is_some_and(FailureKind::is_ended_by_a_run) => {
            sqlx::query(
                "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0, kind = NULL, reason = NULL, hint = NULL \
                 WHERE file_id = $1",
            )
            .bind(file_id)
            .bind(millis(now))
            .execute(&mut **tx)
            .await?;
            Ok(true)
        }
        JobState::Due | JobState::Uploading | JobState::Running | JobState::Failed => Ok(false),
    }
}

/// Whether the file's content in storage is still the one that was looked at: an upload may have replaced it meanwhile.
async fn is_current(
    tx: &mut Transaction<'_, Sqlite>,
    file: &ConnectionFile,
) -> Result<bool, sqlx::Error> {
    let current: Option<(Option<String>, i64)> =
        sqlx::query_as("SELECT storage_file_id, stored_generation FROM files WHERE id = $1")
            .bind(file.file.0)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(current.is_some_and(|(id, generation)| {
        id.as_deref() == Some(&file.storage_file_id) && generation == file.stored.generation
    }))
}

/// See [`Ledger::upload_again`].
pub(super) async fn lost_in_storage(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    forget_storage_file(tx, file_id).await?;
    sqlx::query("UPDATE files SET overwrites = overwrites + 1 WHERE id = $1")
        .bind(file_id)
        .execute(&mut **tx)
        .await?;
    upload_job(tx, file_id, due, now).await
}

/// See [`Ledger::compare_again`].
pub(super) async fn overwritten_in_storage(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE files SET unverified = 1, overwrites = overwrites + 1, processed = 0, outcome = NULL, outcome_at = NULL \
         WHERE id = $1",
    )
    .bind(file_id)
    .execute(&mut **tx)
    .await?;
    upload_job(tx, file_id, due, now).await
}

/// Makes the file due for the upload stage, whatever its job was about. An upload in hand is left alone: its worker
/// looks at the storage file by itself.
async fn upload_job(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    insert_stored_job(tx, file_id, now).await?;
    sqlx::query(
        "UPDATE jobs SET state = 'due', due_at = $2, pause = $3, run_id = NULL, kind = NULL, reason = NULL, hint = NULL \
         WHERE file_id = $1 AND state IN ('stored', 'running', 'failed')",
    )
    .bind(file_id)
    .bind(millis(due))
    .bind(pause(now, due))
    .execute(&mut **tx)
    .await?;
    let version: i64 = sqlx::query_scalar("SELECT version FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .fetch_one(&mut **tx)
        .await?;
    note(tx, file_id, version, Step::Overwritten, None, now).await
}
