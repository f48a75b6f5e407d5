//! Deleting all that is known of files, on the operator's request. Nothing changes on the platform.

use std::sync::atomic::Ordering;

use super::absence::AT_ONCE;
use super::scan_digests::{forget_listing, forget_listings};
use super::{Error, FileId, JobState, Ledger, Tx, count_value, sql};

impl Ledger {
    /// Deletes all that is known of files, except of those that are being uploaded or in a run. Returns how many.
    ///
    /// Nothing changes on the platform. A file that is still in its folder counts as new to the next scan.
    pub async fn forget_files(&self, files: &[FileId]) -> Result<u64, Error> {
        let mut forgotten = 0;
        for chunk in files.chunks(AT_ONCE) {
            forgotten += self
                .db
                .write_durably("forget files", async |tx| {
                    let mut forgotten = 0;
                    for file in chunk {
                        forgotten += forget_one(tx, *file).await?;
                    }
                    if tx.is_shared() {
                        let sql = "UPDATE cluster SET forgotten = forgotten + 1";
                        sql::query(sql).execute(tx).await?;
                    }
                    Ok(forgotten)
                })
                .await?;
        }
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        Ok(forgotten)
    }

    /// Rises whenever files are forgotten, by any process. A list of untracked storage files is out of date then.
    pub async fn times_forgotten(&self) -> Result<u64, Error> {
        if !self.is_shared() {
            return Ok(self.forgotten.load(Ordering::Relaxed));
        }
        let forgotten = self
            .db
            .read("look for forgotten files", async |db| {
                sql::query_scalar("SELECT forgotten FROM cluster")
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(count_value(forgotten))
    }
}

async fn forget_one(tx: &mut Tx, file: FileId) -> Result<u64, sqlx::Error> {
    let row: Option<(i64, Vec<u8>, Option<JobState>)> = sql::query_as(
        "SELECT f.watch_id, f.dir, j.state FROM files f LEFT JOIN jobs j ON j.file_id = f.id \
         WHERE f.id = $1",
    )
    .bind(file.0)
    .fetch_optional(tx)
    .await?;
    let Some((watch, dir, state)) = row else {
        return Ok(0);
    };
    if matches!(state, Some(JobState::Uploading | JobState::Running)) {
        return Ok(0);
    }
    for sql in [
        "DELETE FROM jobs WHERE file_id = $1",
        "DELETE FROM kept_results WHERE file_id = $1",
        "DELETE FROM steps WHERE file_id = $1",
        "DELETE FROM files WHERE id = $1",
    ] {
        sql::query(sql).bind(file.0).execute(tx).await?;
    }
    forget_listing(tx, watch, &dir).await?;
    Ok(1)
}

/// Forgets all that the platform has of the files of a watch: the next scan hands every file over as new.
pub(super) async fn forget_cloud_side(tx: &mut Tx, watch_id: i64) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET storage_file_id = NULL, stored_version = NULL, stored_digest = NULL, \
         stored_size = NULL, stored_at = NULL, stored_modified = NULL, \
         stored_modified_by = NULL, storage_folder_id = NULL, processed = 0, unverified = 0, \
         send_again = 0, relocation = NULL, withdrawal = NULL, withdrawal_reason = NULL, \
         withdrawal_hint = NULL, withdrawal_due = 0, connection_id = NULL, source_file_id = NULL, mapped_connector = NULL, \
         outcome = NULL, outcome_at = NULL, known = 0, size = 0, adopted = 0 WHERE watch_id = $1",
    )
    .bind(watch_id)
    .execute(tx)
    .await?;
    forget_listings(tx, watch_id).await?;
    sql::query("DELETE FROM jobs WHERE file_id IN (SELECT id FROM files WHERE watch_id = $1)")
        .bind(watch_id)
        .execute(tx)
        .await?;
    Ok(())
}
