//! Files that were withdrawn and come back: the storage file from the recycle bin, the source file with the next run.
//! Either the operator wants it, or the file is in its folder again.

use jiff::Timestamp;

use super::checkpoints::{forget_storage_file, set_stamp};
use super::history::{Step, note};
use super::stored_job::insert_stored_job;
use super::withdrawals::{AT_ONCE, WITHDRAWN, WithdrawnRow};
use super::{Error, FileId, Ledger, StorageStamp, Tx, Withdrawal, Withdrawn, millis, sql};
use crate::ids::ImodelId;

impl Ledger {
    /// Files of an iModel that the operator wants back, and that are not in their folder.
    pub async fn restorable(
        &self,
        imodel_id: &ImodelId,
        now: Timestamp,
    ) -> Result<Vec<Withdrawn>, Error> {
        let sql = format!(
            "{WITHDRAWN} w.imodel_id = $1 AND w.configured = 1 AND f.absence = 'gone' \
             AND f.withdrawal = 'restoring' AND f.storage_file_id IS NOT NULL \
             AND f.withdrawal_due <= $2 ORDER BY w.name, f.dir, f.name LIMIT $3"
        );
        let rows: Vec<WithdrawnRow> = self
            .db
            .read("list the files to restore", async |db| {
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

    /// The storage file is back from the recycle bin, and the platform describes it as `stamp` says. A file that is not
    /// in its folder waits for a run.
    pub async fn record_restored(
        &self,
        file: FileId,
        stamp: &StorageStamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a restored storage file", async |tx| {
                let version: Option<i64> = sql::query_scalar(
                    "UPDATE files SET withdrawal = CASE WHEN absence = 'gone' THEN $2 END, \
                     withdrawal_reason = NULL, withdrawal_hint = NULL, withdrawal_due = 0 \
                     WHERE id = $1 AND withdrawal IN ('deleting', 'deleted', 'restoring') \
                     RETURNING version",
                )
                .bind(file)
                .bind(Withdrawal::Restored)
                .fetch_optional(tx)
                .await?;
                if let Some(version) = version {
                    set_stamp(tx, file, stamp).await?;
                    note(tx, file.0, version, Step::Restored, None, now).await?;
                    await_run(tx, file, now).await?;
                }
                Ok(())
            })
            .await
    }

    /// The storage file is not in the recycle bin any more: it is gone for good.
    pub async fn record_not_restored(
        &self,
        file: FileId,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a storage file that is gone", async |tx| {
                let version: Option<i64> = sql::query_scalar(
                    "UPDATE files SET withdrawal = NULL, withdrawal_reason = NULL, \
                     withdrawal_hint = NULL, withdrawal_due = 0 WHERE id = $1 RETURNING version",
                )
                .bind(file)
                .fetch_optional(tx)
                .await?;
                forget_storage_file(tx, file.0).await?;
                if let Some(version) = version {
                    note(tx, file.0, version, Step::NotRestored, Some(reason), now).await?;
                }
                Ok(())
            })
            .await
    }

    /// Brings back files that are gone from their folder and were, or would be, withdrawn: on the platform at the next
    /// opportunity. They are not withdrawn again until they were in their folder. Returns how many that are.
    pub async fn restore_files(&self, files: &[FileId], now: Timestamp) -> Result<u64, Error> {
        self.db
            .write_durably("restore files", async |tx| {
                let mut restored = 0;
                for file in files {
                    restored += u64::from(restore_one(tx, *file, now).await?);
                }
                Ok(restored)
            })
            .await
    }
}

async fn restore_one(tx: &mut Tx, file: FileId, now: Timestamp) -> Result<bool, sqlx::Error> {
    let known: Option<(i64, Option<Withdrawal>)> = sql::query_as(
        "SELECT version, withdrawal FROM files WHERE id = $1 AND absence = 'gone' \
         AND storage_file_id IS NOT NULL",
    )
    .bind(file)
    .fetch_optional(tx)
    .await?;
    let (version, next) = match known {
        None | Some((_, Some(Withdrawal::Restoring | Withdrawal::Restored))) => return Ok(false),
        Some((version, Some(Withdrawal::Deleting | Withdrawal::Deleted))) => {
            (version, Withdrawal::Restoring)
        }
        Some((version, _)) => (version, Withdrawal::Restored),
    };
    sql::query(
        "UPDATE files SET withdrawal = $2, withdrawal_reason = NULL, withdrawal_hint = NULL, \
         withdrawal_due = 0 WHERE id = $1",
    )
    .bind(file)
    .bind(next)
    .execute(tx)
    .await?;
    note(tx, file.0, version, Step::RestoreAsked, None, now).await?;
    if next == Withdrawal::Restored {
        await_run(tx, file, now).await?;
    }
    Ok(true)
}

/// A restored source file that is not in its folder, and no longer mapped, waits for a run.
async fn await_run(tx: &mut Tx, file: FileId, now: Timestamp) -> Result<(), sqlx::Error> {
    let waits: Option<i64> = sql::query_scalar(
        "SELECT id FROM files WHERE id = $1 AND absence = 'gone' AND connector IS NOT NULL \
         AND outcome IS NULL",
    )
    .bind(file)
    .fetch_optional(tx)
    .await?;
    match waits {
        Some(id) => insert_stored_job(tx, id, now).await,
        None => Ok(()),
    }
}
