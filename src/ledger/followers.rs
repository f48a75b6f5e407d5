//! Files of a watch that follows another one: both have the same folder and the same storage files, but their iModels
//! differ. Only the watch that is followed uploads.
//!
//! Input: a claimed job of the following watch. Output: the file takes over what its counterpart, the file at the same
//! path in the other watch, has in storage, or waits until that has the same version there. It waits without a time:
//! the transaction that completes the counterpart's upload makes it due. Nothing is sent here.

use std::path::PathBuf;

use jiff::Timestamp;

use super::history::Step;
use super::renames::move_to_path;
use super::row::join;
use super::scan_digests::forget_listing;
use super::transitions::{in_storage, make_due, unchanged};
use super::{
    Content, Error, FileId, JobState, Ledger, StorageStamp, StoredContent, Tx, UploadJob,
    UploadResult, WatchId, count_value, sql,
};
use crate::ids::StorageFileId;

/// What came of following the counterpart of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Following {
    /// The file has what its counterpart has in storage.
    InStorage(UploadResult),
    /// It is a known file under a new name, as its counterpart is. That record has a job now; this was its path.
    Renamed(PathBuf),
    /// The known file of which it is the new name is in a run.
    AtWork(PathBuf),
    /// The counterpart is not in storage yet: the job is due when it is.
    Waiting,
    /// The watch follows none: its files are uploaded.
    Independent,
}

sql::row! {
    /// The counterpart of a file, of which the same version is in storage.
    struct Counterpart {
        storage_file_id: StorageFileId,
        stored_digest: Vec<u8>,
        stored_size: i64,
        stored_modified: Option<String>,
        stored_modified_by: Option<String>,
        storage_folder_id: Option<String>,
        place: Option<Vec<u8>>,
    }
}

impl Counterpart {
    /// Its content in storage; None if the record of it is not one of ours.
    fn content(&self) -> Option<Content> {
        Some(Content {
            digest: self.stored_digest.as_slice().try_into().ok()?,
            bytes: count_value(self.stored_size),
        })
    }
}

/// The record of the following watch that has the storage file of the counterpart already.
type Predecessor = (FileId, Vec<u8>, Vec<u8>, Option<JobState>);

impl Ledger {
    /// Gives the file of a claimed job what its counterpart has in storage.
    pub async fn follow(&self, job: &UploadJob, now: Timestamp) -> Result<Following, Error> {
        self.db
            .write_durably("follow the file of another watch", async |tx| {
                let (version, leader): (i64, Option<String>) = sql::query_as(
                    "SELECT f.version, o.name FROM files f JOIN watches w ON w.id = f.watch_id \
                     LEFT JOIN watches o ON o.id = w.follows WHERE f.id = $1",
                )
                .bind(job.file)
                .fetch_one(tx)
                .await?;
                let Some(leader) = leader else {
                    return Ok(Following::Independent);
                };
                if version != job.version {
                    make_due(tx, job.file.0, now).await?;
                    return Ok(Following::Waiting);
                }
                let found = counterpart(tx, job).await?;
                let content = found.as_ref().and_then(Counterpart::content);
                let (Some(counterpart), Some(content)) = (found, content) else {
                    wait(tx, job, &leader).await?;
                    return Ok(Following::Waiting);
                };
                take_over(tx, job, counterpart, content, now).await
            })
            .await
    }

    /// The watches do not share storage after all: their iModels belong to different iTwins. Both upload.
    ///
    /// Returns whether that was not known.
    pub async fn stop_following(&self, watch: WatchId) -> Result<bool, Error> {
        let stopped = self
            .db
            .write("record that a watch follows none", async |tx| {
                let sql = "UPDATE watches SET follows = NULL WHERE id = $1 AND follows IS NOT NULL";
                sql::query(sql).bind(watch).execute(tx).await
            })
            .await?;
        Ok(stopped > 0)
    }
}

/// The counterpart of the job's file, if the version of the job is in storage and nothing else is on its way there.
async fn counterpart(tx: &mut Tx, job: &UploadJob) -> Result<Option<Counterpart>, sqlx::Error> {
    sql::query_as(
        "SELECT p.storage_file_id, p.stored_digest, p.stored_size, p.stored_modified, \
         p.stored_modified_by, p.storage_folder_id, p.place FROM files f JOIN watches w \
         ON w.id = f.watch_id JOIN files p ON p.watch_id = w.follows AND p.dir = f.dir \
         AND p.name = f.name WHERE f.id = $1 AND f.known = 1 AND p.known = 1 AND p.size = f.size \
         AND p.mtime_ns = f.mtime_ns AND p.ctime_ns = f.ctime_ns \
         AND p.storage_file_id IS NOT NULL AND p.stored_digest IS NOT NULL \
         AND p.stored_size IS NOT NULL AND p.stored_version = p.version AND p.unverified = 0 \
         AND p.send_again = 0 AND p.relocation IS NULL AND NOT EXISTS (SELECT 1 FROM jobs q \
         WHERE q.file_id = p.id AND (q.state IN ('due', 'uploading') OR q.stage <> 'planned'))",
    )
    .bind(job.file)
    .fetch_optional(tx)
    .await
}

async fn take_over(
    tx: &mut Tx,
    job: &UploadJob,
    from: Counterpart,
    content: Content,
    now: Timestamp,
) -> Result<Following, sqlx::Error> {
    let predecessor: Option<Predecessor> = sql::query_as(
        "SELECT o.id, o.dir, o.name, j.state FROM files o LEFT JOIN jobs j ON j.file_id = o.id \
         WHERE o.watch_id = $1 AND o.storage_file_id = $2 AND o.id <> $3",
    )
    .bind(job.watch)
    .bind(&from.storage_file_id)
    .bind(job.file)
    .fetch_optional(tx)
    .await?;
    // The place belongs to the path, of which the counterpart is the only one by now.
    sql::query("UPDATE files SET place = NULL WHERE watch_id = $1 AND place = $2 AND id <> $3")
        .bind(job.watch)
        .bind(&from.place)
        .bind(job.file)
        .execute(tx)
        .await?;
    if let Some((origin, dir, name, state)) = predecessor {
        if matches!(state, Some(JobState::Uploading | JobState::Running)) {
            return Ok(Following::AtWork(join(dir, name)));
        }
        if job.storage_file_id.is_none() {
            move_to_path(tx, job, origin, from.place.as_deref(), now).await?;
            return Ok(Following::Renamed(join(dir, name)));
        }
        release(tx, job.watch, origin, &dir).await?;
    }
    let stamp = StorageStamp {
        modified: from.stored_modified,
        modified_by: from.stored_modified_by,
        folder_id: from.storage_folder_id,
    };
    sql::query("UPDATE files SET place = $2 WHERE id = $1")
        .bind(job.file)
        .bind(&from.place)
        .execute(tx)
        .await?;
    // The time matters as well: content that was replaced and put back may have been read in between.
    let has_it = job.storage_file_id.as_ref() == Some(&from.storage_file_id)
        && job.stored.as_ref().map(|stored| &stored.content) == Some(&content)
        && job.stamp.modified == stamp.modified
        && !job.unverified
        && !job.send_again;
    let result = if has_it {
        unchanged(tx, job, now).await?
    } else {
        let mut job = job.clone();
        job.storage_file_id = Some(from.storage_file_id);
        let version = job.version;
        let stored = StoredContent { version, content };
        in_storage(tx, &job, &stored, &stamp, Step::SameContent, now).await?
    };
    Ok(Following::InStorage(result))
}

/// Takes the storage file from a record whose counterpart does not have it any more. If its local file is there, the
/// next scan hands it over as new.
async fn release(tx: &mut Tx, watch: WatchId, file: FileId, dir: &[u8]) -> Result<(), sqlx::Error> {
    super::checkpoints::forget_storage_file(tx, file.0).await?;
    sql::query(
        "UPDATE files SET place = NULL, known = 0, size = 0, connection_id = NULL, \
         source_file_id = NULL, mapped_connector = NULL WHERE id = $1",
    )
    .bind(file)
    .execute(tx)
    .await?;
    forget_listing(tx, watch.0, dir).await
}

/// Lets the job wait until its counterpart makes it due.
async fn wait(tx: &mut Tx, job: &UploadJob, leader: &str) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE jobs SET state = 'due', due_at = NULL, pause = 0, kind = NULL, reason = $2, \
         hint = NULL WHERE file_id = $1",
    )
    .bind(job.file)
    .bind(format!("waits for its upload by watch {leader:?}"))
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
