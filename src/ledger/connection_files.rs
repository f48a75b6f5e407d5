//! The files that belong in a connection, with all that a run of them is judged by.

use std::path::PathBuf;

use jiff::Timestamp;

use super::clock::has_come;
use super::row::join;
use super::sets::{newest_companion, set_open};
use super::{
    Absence, ConnectionId, Error, FailureKind, FileId, JobState, Ledger, Outcome, Withdrawal,
    count_value, sql, timestamp,
};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;

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
    pub storage_file_id: StorageFileId,
    /// The connector type that it should have.
    pub connector: ConnectorType,
    /// Its source file, as last read from the connection that it belongs to.
    pub source_file_id: Option<String>,
    /// The connector type of that source file; None while a change of it is not confirmed.
    pub mapped_connector: Option<ConnectorType>,
    /// Its open job, if it has one.
    pub job: Option<OpenJob>,
    /// What was recorded when its content was completed in storage.
    pub stored: StoredState,
    /// The outcome of that content; None while a run for it is owed.
    pub outcome: Option<Outcome>,
    /// Its local file is gone or no longer selected, and the operator has not restored it.
    pub absent: bool,
    /// How far it was withdrawn.
    pub withdrawal: Option<Withdrawal>,
}

/// The open job of a [`ConnectionFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenJob {
    /// Its state.
    pub state: JobState,
    /// It waits for a run, it is due, and no companion of it is on its way.
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
    /// How often someone else changed the storage file since the local file last changed.
    pub overwrites: u32,
    /// `lastModifiedDateTime` of the newest of its companions, if it has any.
    pub companions_modified: Option<String>,
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

sql::row! {
    pub(super) struct ConnectionFileRow {
        id: FileId,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        storage_file_id: Option<StorageFileId>,
        connector: ConnectorType,
        target_connection_id: ConnectionId,
        mapped_here: bool,
        source_file_id: Option<String>,
        mapped_connector: Option<ConnectorType>,
        stored_size: Option<i64>,
        stored_modified: Option<String>,
        stored_modified_by: Option<String>,
        storage_folder_id: Option<String>,
        stored_generation: i64,
        processed: i64,
        overwrites: i64,
        absence: Option<Absence>,
        withdrawal: Option<Withdrawal>,
        outcome: Option<Outcome>,
        state: Option<JobState>,
        kind: Option<FailureKind>,
        due_at: Option<i64>,
        pause: Option<i64>,
        run_attempts: Option<i64>,
        attempts: Option<i64>,
        failing_since: Option<i64>,
        set_open: bool,
        companions_modified: Option<String>,
    }
}

pub(super) const CONNECTION_FILE: &str = concat!(
    "SELECT f.id, w.name AS watch, f.dir, f.name, f.storage_file_id, f.connector, \
     f.target_connection_id, (f.connection_id = f.target_connection_id) IS TRUE AS mapped_here, f.source_file_id, \
     f.mapped_connector, f.stored_size, f.stored_modified, f.stored_modified_by, \
     f.storage_folder_id, f.stored_generation, f.processed, f.overwrites, f.absence, f.withdrawal, f.outcome, \
     j.state, j.kind, j.due_at, j.pause, j.run_attempts, j.attempts, j.failing_since, ",
    set_open!("'due', 'uploading', 'failed'"),
    " AS set_open, ",
    newest_companion!(),
    " AS companions_modified FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j \
     ON j.file_id = f.id "
);

impl ConnectionFile {
    /// Whether it waits for a run now.
    #[must_use]
    pub fn awaits_run(&self) -> bool {
        self.job.is_some_and(|job| job.awaits_run)
    }
}

impl ConnectionFileRow {
    /// The connection that it belongs in.
    pub(super) fn connection(&self) -> ConnectionId {
        self.target_connection_id
    }

    pub(super) fn into_file(self, now: Timestamp) -> ConnectionFile {
        let count = |column: i64| u32::try_from(column).unwrap_or(u32::MAX);
        let job = self.state.map(|state| OpenJob {
            state,
            awaits_run: state == JobState::Stored
                && !self.set_open
                && self
                    .due_at
                    .is_some_and(|due| has_come(due, self.pause.unwrap_or(0), now)),
            kind: self.kind,
            run_attempts: self.run_attempts.map_or(0, count),
            attempts: self.attempts.map_or(0, count),
            failing_since: self.failing_since.map(timestamp),
        });
        ConnectionFile {
            file: self.id,
            watch: self.watch,
            path: join(self.dir, self.name),
            storage_file_id: self.storage_file_id.unwrap_or_default(),
            connector: self.connector,
            source_file_id: self.source_file_id.filter(|_| self.mapped_here),
            mapped_connector: self.mapped_connector.filter(|_| self.mapped_here),
            job,
            stored: StoredState {
                bytes: count_value(self.stored_size.unwrap_or(0)),
                stamp: StorageStamp {
                    modified: self.stored_modified,
                    modified_by: self.stored_modified_by,
                    folder_id: self.storage_folder_id,
                },
                generation: self.stored_generation,
                processed: self.processed != 0,
                overwrites: count(self.overwrites),
                companions_modified: self.companions_modified,
            },
            outcome: self.outcome,
            absent: match self.absence {
                Some(Absence::Gone) => self.withdrawal != Some(Withdrawal::Restored),
                Some(Absence::Deselected) => true,
                Some(Absence::Missing) | None => false,
            },
            withdrawal: self.withdrawal,
        }
    }
}

impl Ledger {
    /// The files whose content is in storage and that belong in a connection, in a stable order.
    pub async fn connection_files(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<ConnectionFile>, Error> {
        let sql = format!(
            "{CONNECTION_FILE} WHERE f.target_connection_id = $1 AND w.configured = 1 \
             AND f.storage_file_id IS NOT NULL AND f.stored_version IS NOT NULL ORDER BY \
             w.name, f.dir, f.name"
        );
        let rows: Vec<ConnectionFileRow> = self
            .db
            .read("list the files of a connection", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(connection.0)
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(rows.into_iter().map(|row| row.into_file(now)).collect())
    }
}
