//! Files that are gone from their folder, on their way out of the platform and back.
//!
//! A file is withdrawn if its watch says so, after its time, once a complete scan of a healthy root has missed it after
//! that time, and unless the guard has suspended it. Each request is recorded before it is sent. The record of the file
//! keeps its storage file, so that the same one is used when the file is back.

use std::path::PathBuf;

use jiff::Timestamp;

use super::clock::not_suspended;
use super::deletion_guard::{is_not_renamed, owns_storage, withdrawable};
use super::history::{Step, note};
use super::row::join;
use super::stored_job::insert_stored_job;
use super::target_connections::watches_of_connection;
use super::{
    ConnectionId, Error, FileId, Ledger, MappedElsewhere, StorageStamp, Surplus, SurplusCause, Tx,
    Withdrawal, count_value, millis, sql, timestamp,
};
use crate::ids::{ImodelId, StorageFileId};

/// Files that are withdrawn in one pass.
pub(super) const AT_ONCE: i64 = 500;

/// A file whose storage file is deleted, or restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// Its storage file.
    pub storage_file_id: StorageFileId,
    /// Bytes of the content that was completed there last, if any was.
    pub bytes: Option<u64>,
    /// What the platform said of it then.
    pub stamp: StorageStamp,
}

sql::row! {
    pub(super) struct WithdrawnRow {
        id: FileId,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        storage_file_id: StorageFileId,
        stored_size: Option<i64>,
        stored_modified: Option<String>,
        stored_modified_by: Option<String>,
        storage_folder_id: Option<String>,
    }
}

impl WithdrawnRow {
    pub(super) fn into_file(self) -> Withdrawn {
        Withdrawn {
            file: self.id,
            watch: self.watch,
            path: join(self.dir, self.name),
            storage_file_id: self.storage_file_id,
            bytes: self.stored_size.map(count_value),
            stamp: StorageStamp {
                modified: self.stored_modified,
                modified_by: self.stored_modified_by,
                folder_id: self.storage_folder_id,
            },
        }
    }
}

/// SQL: the file `f` of the watch `w` may be withdrawn at `$2`: it is gone for long enough, by a complete scan of a
/// healthy root that ended after that, and nothing else is done to it or keeps it.
macro_rules! may_be_withdrawn {
    () => {
        concat!(
            not_suspended!("$2"),
            " AND w.deletions_suspended = 0 AND w.root_state IN ('ok', 'polled') \
             AND f.watch_id = w.id AND f.absence = 'gone' AND f.storage_file_id IS NOT NULL \
             AND f.absent_since + w.delete_after <= w.scanned_at \
             AND f.absent_since + w.delete_after <= $2 AND f.withdrawal_due <= $2 \
             AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.file_id = f.id) AND ",
            is_not_renamed!()
        )
    };
}

/// SQL: no run of the connection `k` has seen yet that the source file of a file was removed, and there can be one.
macro_rules! owes_a_run {
    ($file:literal) => {
        concat!(
            "k.covered < ",
            $file,
            ".withdrawal_generation AND EXISTS (SELECT 1 FROM files r WHERE r.connection_id = k.id \
             AND r.source_file_id IS NOT NULL)"
        )
    };
}

/// SQL: the storage file of `f` is deleted next: no source file refers to it, and a run has seen that, if there can be
/// one. That includes the source files of the watches that follow `w`.
macro_rules! is_deletable {
    () => {
        concat!(
            owns_storage!(),
            " AND NOT EXISTS (SELECT 1 FROM watches v JOIN files o \
             ON o.watch_id = v.id AND o.storage_file_id = f.storage_file_id \
             LEFT JOIN connections k ON k.id = o.target_connection_id \
             WHERE v.follows = COALESCE(w.follows, w.id) AND v.id <> w.id \
             AND v.configured = 1 AND (o.source_file_id IS NOT NULL OR (o.withdrawal = 'unmapped' AND ",
            owes_a_run!("o"),
            "))) AND w.on_delete = 'remove' AND f.source_file_id IS NULL AND (f.withdrawal = 'deleting' \
         OR (f.connector IS NULL AND f.withdrawal IS NULL) OR (f.withdrawal = 'unmapped' \
         AND (c.covered >= f.withdrawal_generation OR NOT EXISTS (SELECT 1 FROM files o \
         WHERE o.connection_id = c.id AND o.source_file_id IS NOT NULL))))"
        )
    };
}

pub(super) use may_be_withdrawn;

pub(super) const WITHDRAWN: &str = "SELECT f.id, w.name AS watch, f.dir, f.name, f.storage_file_id, \
    f.stored_size, f.stored_modified, f.stored_modified_by, f.storage_folder_id FROM files f \
    JOIN watches w ON w.id = f.watch_id LEFT JOIN connections c ON c.id = f.target_connection_id \
    WHERE ";

impl Ledger {
    /// The files of a connection that are gone and whose source file has to be removed now.
    pub async fn gone_source_files(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<Surplus>, Error> {
        type Row = (
            FileId,
            String,
            Vec<u8>,
            Vec<u8>,
            StorageFileId,
            Option<String>,
            Option<String>,
        );
        let rows: Vec<Row> = self
            .db
            .read("list the deleted files of a connection", async |db| {
                sql::query_as(concat!(
                    "SELECT f.id, w.name, f.dir, f.name, f.storage_file_id, o.platform_id, \
                     f.source_file_id FROM watches w JOIN files f ON f.watch_id = w.id \
                     LEFT JOIN connections o ON o.id = f.connection_id \
                     AND o.id <> f.target_connection_id WHERE w.id IN ",
                    watches_of_connection!("$1"),
                    " AND f.target_connection_id = $1 AND w.on_delete IN ('unmap', 'remove') \
                     AND (f.withdrawal IS NULL OR f.withdrawal = 'unmapping') AND ",
                    may_be_withdrawn!(),
                    " ORDER BY w.name, f.dir, f.name LIMIT $3"
                ))
                .bind(connection.0)
                .bind(millis(now))
                .bind(AT_ONCE)
                .fetch_all(db)
                .await
            })
            .await?;
        let gone = rows.into_iter().map(
            |(file, watch, dir, name, storage_file_id, connection, source_file_id)| Surplus {
                file,
                watch,
                path: join(dir, name),
                storage_file_id,
                cause: SurplusCause::Gone,
                elsewhere: connection
                    .zip(source_file_id)
                    .map(|(connection, source_file_id)| MappedElsewhere {
                        connection,
                        source_file_id,
                    }),
            },
        );
        Ok(gone.collect())
    }

    /// The next time at which a file of an iModel may have to be withdrawn; None if none waits for that.
    pub async fn next_withdrawal(&self, imodel_id: &ImodelId) -> Result<Option<Timestamp>, Error> {
        let at: Option<i64> = self
            .db
            .read("look for deleted files", async |db| {
                sql::query_scalar(concat!(
                    "SELECT MIN(CASE WHEN f.absent_since + w.delete_after > f.withdrawal_due \
                     THEN f.absent_since + w.delete_after ELSE f.withdrawal_due END) \
                     FROM watches w JOIN files f ON f.watch_id = w.id WHERE w.imodel_id = $1 \
                     AND w.configured = 1 AND w.on_delete <> 'keep' AND w.deletions_suspended = 0 \
                     AND f.absence = 'gone' AND ((",
                    withdrawable!(),
                    ") OR f.withdrawal IN ('unmapping', 'deleting') \
                     OR (f.withdrawal = 'unmapped' AND w.on_delete = 'remove' \
                     AND (",
                    owns_storage!(),
                    " OR EXISTS (SELECT 1 FROM connections k WHERE k.id = f.target_connection_id AND ",
                    owes_a_run!("f"),
                    "))))"
                ))
                .bind(imodel_id)
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(at.map(timestamp))
    }

    /// Checkpoint before the source files of these files are removed. Those that are back since are left out.
    pub async fn begin_unmapping(&self, files: &[FileId]) -> Result<Vec<FileId>, Error> {
        self.db
            .write_durably(
                "record that source files are about to be removed",
                async |tx| {
                    let mut begun = Vec::with_capacity(files.len());
                    for file in files {
                        let gone = sql::query(
                            "UPDATE files SET withdrawal = $2 WHERE id = $1 AND absence = 'gone' \
                             AND (withdrawal IS NULL OR withdrawal = $2)",
                        )
                        .bind(file)
                        .bind(Withdrawal::Unmapping)
                        .execute(tx)
                        .await?;
                        if gone > 0 {
                            begun.push(*file);
                        }
                    }
                    Ok(begun)
                },
            )
            .await
    }

    /// Storage files of an iModel that have to be deleted now.
    pub async fn deletable(
        &self,
        imodel_id: &ImodelId,
        now: Timestamp,
    ) -> Result<Vec<Withdrawn>, Error> {
        let sql = format!(
            "{WITHDRAWN} w.imodel_id = $1 AND {} AND {} ORDER BY w.name, f.dir, f.name LIMIT $3",
            may_be_withdrawn!(),
            is_deletable!()
        );
        let rows: Vec<WithdrawnRow> = self
            .db
            .read("list the storage files of deleted files", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(imodel_id)
                    .bind(millis(now))
                    .bind(AT_ONCE)
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(rows.into_iter().map(WithdrawnRow::into_file).collect())
    }

    /// If the storage files of an iModel have to be deleted whose source files were removed, its connection needs a run
    /// that sees that.
    pub async fn run_without_withdrawn(
        &self,
        imodel_id: &ImodelId,
        now: Timestamp,
    ) -> Result<(), Error> {
        const OWED: &str = "SELECT MAX(f.withdrawal_generation) FROM watches w JOIN files f \
            ON f.watch_id = w.id WHERE w.imodel_id = connections.imodel_id \
            AND f.target_connection_id = connections.id AND w.configured = 1 \
            AND w.on_delete = 'remove' AND w.deletions_suspended = 0 AND f.absence = 'gone' \
            AND f.withdrawal = 'unmapped'";
        let owed =
            format!("SELECT id FROM connections WHERE imodel_id = $1 AND generation < ({OWED})");
        let connections: Vec<i64> = self
            .db
            .read("look for runs that deleted files need", async |db| {
                sql::query_scalar(sqlx::AssertSqlSafe(owed))
                    .bind(imodel_id)
                    .fetch_all(db)
                    .await
            })
            .await?;
        for connection in connections {
            self.db
                .write_durably("record that a run is needed", async |tx| {
                    // If the operator requested it, the run is part of the request.
                    sql::query(concat!(
                        "UPDATE connections SET generation = generation + 1, moved_at = \
                         COALESCE((SELECT MIN(w.sync_requested_at) FROM watches w WHERE w.id IN ",
                        watches_of_connection!("$1"),
                        "), $2) WHERE id = $1",
                    ))
                    .bind(connection)
                    .bind(millis(now))
                    .execute(tx)
                    .await
                })
                .await?;
        }
        Ok(())
    }

    /// Checkpoint before the storage file is deleted. False: the file is back.
    pub async fn begin_deleting(&self, file: FileId) -> Result<bool, Error> {
        let begun = self
            .db
            .write_durably(
                "record that a storage file is about to be deleted",
                async |tx| {
                    sql::query(
                        "UPDATE files SET withdrawal = $2 WHERE id = $1 AND absence = 'gone' \
                         AND source_file_id IS NULL AND (withdrawal IS NULL \
                         OR withdrawal IN ('unmapped', $2))",
                    )
                    .bind(file)
                    .bind(Withdrawal::Deleting)
                    .execute(tx)
                    .await
                },
            )
            .await?;
        Ok(begun > 0)
    }

    /// The storage file is in the recycle bin. False: the file is back, and its upload relies on the storage file.
    pub async fn record_deleted(&self, file: FileId, now: Timestamp) -> Result<bool, Error> {
        self.db
            .write_durably("record a deleted storage file", async |tx| {
                let version: Option<i64> = sql::query_scalar(
                    "UPDATE files SET withdrawal = $2, withdrawal_reason = NULL, \
                     withdrawal_hint = NULL, withdrawal_due = 0, outcome = NULL, outcome_at = NULL, \
                     processed = 0 WHERE id = $1 AND withdrawal = $3 RETURNING version",
                )
                .bind(file)
                .bind(Withdrawal::Deleted)
                .bind(Withdrawal::Deleting)
                .fetch_optional(tx)
                .await?;
                if let Some(version) = version {
                    note(tx, file.0, version, Step::Deleted, None, now).await?;
                }
                Ok(version.is_some())
            })
            .await
    }

    /// The platform refused to withdraw or to restore a file: it is tried again at `due`. Whether the reason is new.
    pub async fn refuse_withdrawal(
        &self,
        file: FileId,
        reason: &str,
        hint: Option<&str>,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.db
            .write("record that a file cannot be withdrawn", async |tx| {
                let known: Option<(i64, Option<String>)> =
                    sql::query_as("SELECT version, withdrawal_reason FROM files WHERE id = $1")
                        .bind(file)
                        .fetch_optional(tx)
                        .await?;
                let Some((version, before)) = known else {
                    return Ok(false);
                };
                sql::query(
                    "UPDATE files SET withdrawal_reason = $2, withdrawal_hint = $3, \
                     withdrawal_due = $4 WHERE id = $1",
                )
                .bind(file)
                .bind(reason)
                .bind(hint)
                .bind(millis(due))
                .execute(tx)
                .await?;
                let is_new =
                    before.is_none_or(|before| without_request(&before) != without_request(reason));
                if is_new {
                    note(
                        tx,
                        file.0,
                        version,
                        Step::WithdrawalRefused,
                        Some(reason),
                        now,
                    )
                    .await?;
                }
                Ok(is_new)
            })
            .await
    }
}

/// A reason without the id of the request, which differs each time.
fn without_request(reason: &str) -> &str {
    reason
        .split_once(" (request id ")
        .map_or(reason, |(before, _)| before)
}

/// Records that the source file of a file that is gone is removed from the connection.
pub(super) async fn record_gone_unmapped(
    tx: &mut Tx,
    file: FileId,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let unmapped: Option<(i64, bool)> = sql::query_as(
        "UPDATE files SET connection_id = NULL, source_file_id = NULL, mapped_connector = NULL, \
         processed = 0, outcome = NULL, outcome_at = NULL, withdrawal_reason = NULL, \
         withdrawal_hint = NULL, withdrawal_due = 0, withdrawal = CASE WHEN absence = 'gone' \
         THEN $2 END, withdrawal_generation = 1 + COALESCE((SELECT c.generation FROM connections c \
         WHERE c.id = files.target_connection_id), 0) WHERE id = $1 \
         AND withdrawal = $3 RETURNING version, withdrawal IS NULL",
    )
    .bind(file)
    .bind(Withdrawal::Unmapped)
    .bind(Withdrawal::Unmapping)
    .fetch_optional(tx)
    .await?;
    let Some((version, is_back)) = unmapped else {
        return Ok(());
    };
    note(tx, file.0, version, Step::Withdrawn, None, now).await?;
    if is_back {
        // Its upload may have ended before, by what was in the connection until now.
        insert_stored_job(tx, file.0, now).await?;
    }
    Ok(())
}

/// The local file is there. What has to be undone on the platform stays recorded: the upload and the next comparison of
/// the connection do it.
pub(super) async fn end_withdrawal(tx: &mut Tx, file_id: i64) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET withdrawal = CASE WHEN withdrawal IN ('unmapped', 'restored') THEN NULL \
         ELSE withdrawal END, withdrawal_reason = NULL, withdrawal_hint = NULL, withdrawal_due = 0 \
         WHERE id = $1",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    Ok(())
}
