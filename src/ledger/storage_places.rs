//! Which file owns a place in storage, and which one a storage file.
//!
//! Storage may treat two paths that differ in case only as the same; one of such files owns the path.

use std::path::PathBuf;

use super::checkpoints::forget_storage_file;
use super::row::{join, split};
use super::scan_digests::forget_listing;
use super::{Error, FileId, Ledger, Relocation, UploadJob, sql};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;

/// The file that has a place in storage which another one asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// The file.
    pub file: FileId,
    /// Its path relative to the root.
    pub path: PathBuf,
}

impl Ledger {
    /// Takes the place in storage that belongs to a file, unless another file has it.
    ///
    /// `place` is the same for all paths that storage may treat as the same.
    pub async fn take_place(
        &self,
        job: &UploadJob,
        place: &[u8; 16],
    ) -> Result<Option<Occupant>, Error> {
        let occupant: Option<(FileId, Vec<u8>, Vec<u8>)> = self
            .db
            .write("take a place in storage", async |tx| {
                let taken = sql::query(
                    "UPDATE files SET place = $2 WHERE id = $1 AND NOT EXISTS (SELECT 1 \
                     FROM files o WHERE o.watch_id = $3 AND o.place = $2 AND o.id <> $1)",
                )
                .bind(job.file)
                .bind(&place[..])
                .bind(job.watch)
                .execute(tx)
                .await?;
                if taken > 0 {
                    return Ok(None);
                }
                sql::query_as(
                    "SELECT id, dir, name FROM files WHERE watch_id = $1 AND place = $2 \
                     AND id <> $3",
                )
                .bind(job.watch)
                .bind(&place[..])
                .bind(job.file)
                .fetch_optional(tx)
                .await
            })
            .await?;
        Ok(occupant.map(|(file, dir, name)| Occupant {
            file,
            path: join(dir, name),
        }))
    }

    /// Gives a job's file what belongs to a file that is gone from its folder: the place, the storage file and the
    /// source file. Its job ends with it; false: that is being uploaded or in a run.
    pub async fn inherit(&self, job: &mut UploadJob, gone: &Occupant) -> Result<bool, Error> {
        type Row = (
            Option<Vec<u8>>,
            Option<StorageFileId>,
            Option<i64>,
            Option<String>,
            Option<ConnectorType>,
            Option<Relocation>,
        );
        let file = job.file;
        let watch = job.watch;
        let inherited = self
            .db
            .write("let a file take the place of another one", async |tx| {
                let at_work: Option<String> = sql::query_scalar(
            "SELECT state FROM jobs WHERE file_id = $1 AND state IN ('uploading', 'running')",
        )
        .bind(gone.file.0)
        .fetch_optional(tx)
        .await?;
                if at_work.is_some() {
                    return Ok(None);
                }
                sql::query("DELETE FROM jobs WHERE file_id = $1")
                    .bind(gone.file.0)
                    .execute(tx)
                    .await?;
                let (
                    place,
                    storage_file_id,
                    connection_id,
                    source_file_id,
                    mapped_connector,
                    relocation,
                ): Row =
            sql::query_as(
                "SELECT place, CASE WHEN withdrawal IN ('deleting', 'deleted', 'restoring') \
                 THEN NULL ELSE storage_file_id END, connection_id, source_file_id, mapped_connector, \
                 relocation FROM files WHERE id = $1",
            )
            .bind(gone.file.0)
            .fetch_one(tx)
            .await?;
                forget_storage_file(tx, gone.file.0).await?;
                sql::query(
                    "UPDATE files SET place = NULL, known = 0, size = 0, withdrawal = NULL, connection_id = NULL, \
                     source_file_id = NULL, mapped_connector = NULL WHERE id = $1",
                )
                .bind(gone.file.0)
                .execute(tx)
                .await?;
                forget_listing(tx, watch.0, split(&gone.path).0).await?;
                sql::query(
                    "UPDATE files SET place = $2, storage_file_id = $3, connection_id = $4, \
                     source_file_id = $5, mapped_connector = $6, relocation = $7 WHERE id = $1",
                )
                .bind(file.0)
                .bind(place)
                .bind(&storage_file_id)
                .bind(connection_id)
                .bind(source_file_id)
                .bind(mapped_connector)
                .bind(relocation)
                .execute(tx)
                .await?;
                Ok(Some(storage_file_id))
            })
            .await?;
        let Some(storage_file_id) = inherited else {
            return Ok(false);
        };
        job.storage_file_id = storage_file_id;
        Ok(true)
    }

    /// The file of ours that owns this storage file, if one does. A watch that follows another one owns none.
    pub async fn owns_storage_file(
        &self,
        storage_file_id: &StorageFileId,
    ) -> Result<Option<FileId>, Error> {
        let owner: Option<i64> = self
            .db
            .read("look up the owner of a storage file", async |db| {
                sql::query_scalar(
                    "SELECT f.id FROM files f JOIN watches w ON w.id = f.watch_id \
                     WHERE f.storage_file_id = $1 AND w.follows IS NULL",
                )
                .bind(storage_file_id)
                .fetch_optional(db)
                .await
            })
            .await?;
        Ok(owner.map(FileId))
    }
}
