//! Checkpoints of an upload: what has been sent to storage, written before the next request.

use jiff::Timestamp;

use super::bulk_change::{Arrived, guard};
use super::clock::pause;
use super::{
    BulkChange, Content, Error, FileId, Ledger, StorageStamp, Tx, UploadJob, count_column, millis,
    sql,
};
use crate::ids::StorageFileId;

impl Ledger {
    /// Checkpoint before *create file* is sent with `marker` in its description.
    pub async fn record_create_sent(
        &self,
        job: &UploadJob,
        marker: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record that a file is about to be created", async |tx| {
                sql::query(
                    "UPDATE jobs SET stage = 'create_sent', stage_at = $2, marker = $3 \
             WHERE file_id = $1",
                )
                .bind(job.file.0)
                .bind(millis(now))
                .bind(marker)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Checkpoint after the storage file is known, before any byte is sent to it.
    pub async fn record_storage_file(
        &self,
        job: &UploadJob,
        storage_file_id: &StorageFileId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("record a storage file", async |tx| {
                sql::query("UPDATE files SET storage_file_id = $2 WHERE id = $1")
                    .bind(job.file.0)
                    .bind(storage_file_id)
                    .execute(tx)
                    .await?;
                sql::query(
                    "UPDATE jobs SET stage = 'links_received', stage_at = $2, marker = NULL \
                     WHERE file_id = $1",
                )
                .bind(job.file.0)
                .bind(millis(now))
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }

    /// Checkpoint after storage acknowledged all bytes of `content`, before *complete* is sent.
    pub async fn record_blob_written(
        &self,
        job: &UploadJob,
        content: &Content,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record that a file's bytes are in storage", async |tx| {
                sql::query(
                    "UPDATE jobs SET stage = 'blob_written', stage_at = $2, \
                     content_version = $3, content_digest = $4, content_size = $5 \
                     WHERE file_id = $1",
                )
                .bind(job.file.0)
                .bind(millis(now))
                .bind(job.version)
                .bind(&content.digest[..])
                .bind(count_column(content.bytes))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Checkpoint back to the start of an upload: what was written before it counts for nothing any more.
    pub async fn record_restart(&self, job: &UploadJob, now: Timestamp) -> Result<(), Error> {
        self.db
            .write_durably("record that an upload starts over", async |tx| {
                sql::query(
            "UPDATE jobs SET stage = 'links_received', stage_at = $2, content_version = NULL, \
             content_digest = NULL, content_size = NULL WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(now))
        .execute(tx).await
            })
            .await?;
        Ok(())
    }

    /// Takes over a storage file that was there before and has other content than the local file. The job is due at
    /// `due`, behind all that are due now, and the attempt counts: whatever makes it start over does not do so without
    /// end.
    pub async fn adopt(
        &self,
        job: &UploadJob,
        storage_file_id: &StorageFileId,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<Option<BulkChange>, Error> {
        self.db
            .write("adopt a storage file", async |tx| {
                sql::query(
                    "UPDATE files SET storage_file_id = $2, adopted = 1, stored_version = NULL \
                     WHERE id = $1",
                )
                .bind(job.file.0)
                .bind(storage_file_id)
                .execute(tx)
                .await?;
                sql::query(
            "UPDATE jobs SET state = 'due', due_at = $2, pause = $3, attempts = attempts + 1 \
             WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(due))
        .bind(pause(now, due))
        .execute(tx)
        .await?;
                guard(tx, job.watch.0, Arrived::KNOWN_AFTER_ALL, now).await
            })
            .await
    }

    /// Forgets the storage file of a job: it is gone from storage, so nothing recorded of it is valid.
    pub async fn forget_storage_file(&self, file: FileId) -> Result<(), Error> {
        self.db
            .write("forget a storage file", async |tx| {
                forget_storage_file(tx, file.0).await?;
                Ok(())
            })
            .await
    }
}

/// Records what the platform says of a storage file that has our content.
pub(super) async fn set_stamp(
    tx: &mut Tx,
    file: FileId,
    stamp: &StorageStamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET stored_modified = $2, stored_modified_by = $3, storage_folder_id = $4 \
         WHERE id = $1",
    )
    .bind(file)
    .bind(&stamp.modified)
    .bind(&stamp.modified_by)
    .bind(&stamp.folder_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets the storage file. The source file stays known: it still points there, until it is pointed elsewhere.
pub(super) async fn forget_storage_file(tx: &mut Tx, file_id: i64) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET storage_file_id = NULL, adopted = 0, stored_version = NULL, \
         stored_digest = NULL, stored_size = NULL, stored_at = NULL, stored_modified = NULL, \
         stored_modified_by = NULL, storage_folder_id = NULL, processed = 0, unverified = 0, \
         send_again = 0, relocation = NULL, outcome = NULL, outcome_at = NULL WHERE id = $1",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    sql::query(
        "UPDATE jobs SET stage = 'planned', marker = NULL, content_version = NULL, \
         content_digest = NULL, content_size = NULL WHERE file_id = $1",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_killed_process_leaves_its_stage_for_the_next_start() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        f.ledger
            .record_create_sent(&job, "marker", at(1))
            .await
            .unwrap();
        let f = f.restart().await;
        let job = f.claim(2).await.unwrap();
        assert_eq!(
            (job.stage.0, job.marker.as_deref()),
            (Stage::CreateSent, Some("marker"))
        );
        f.ledger
            .record_storage_file(&job, &"id".into(), at(3))
            .await
            .unwrap();
        f.ledger
            .record_blob_written(&job, &content(1), at(4))
            .await
            .unwrap();
        let f = f.restart().await;
        let job = f.claim(5).await.unwrap();
        assert_eq!(
            (job.stage.0, job.storage_file_id.as_deref()),
            (Stage::BlobWritten, Some("id"))
        );
        assert_eq!(
            job.written,
            Some(StoredContent {
                version: 1,
                content: content(1)
            })
        );
    }
}
