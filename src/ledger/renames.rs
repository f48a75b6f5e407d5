//! Renamed and moved files: the record of a file moves to its new path, and its storage file is renamed afterwards.
//!
//! In: a new file with the content of one that is gone, as `upload` found it. Out: one record with the new path, the
//! history, the storage file and the source file of the old one. The same transaction records that name and folder in
//! storage have to follow; `upload` executes it, and a process that is killed in between continues there.
//!
//! It never decides which file was renamed, and never moves the record of a file that is there or being processed.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

use super::bulk_change::{Arrived, guard};
use super::checkpoints::set_stamp;
use super::hand_over::{check_connection_soon, open_job};
use super::history::{Step, note};
use super::row::{join, split};
use super::scan_digests::forget_listing;
use super::target_connections::set_target;
use super::{
    Absence, BulkChange, Content, Error, FileId, JobState, Ledger, Relocation, Stage, StorageStamp,
    Tx, UploadJob, WatchId, count_column, millis, sql, timestamp,
};
use crate::connector_type::ConnectorType;

/// SQL: the watches whose files may turn up in the watch `$1`: the configured ones of the same iModel. The storage
/// files of a watch that follows another one are not its own.
macro_rules! neighbors {
    () => {
        "(SELECT o.id FROM watches o JOIN watches w ON w.imodel_id = o.imodel_id WHERE w.id = $1 \
         AND o.configured = 1 AND o.follows IS NULL)"
    };
}

/// Origins that are checked for one new file. With more files of the same content, none of them is a safe choice.
const ORIGINS_MAX: i64 = 64;

/// Files of one size that a dry run compares with a new file.
const SAME_SIZE_MAX: i64 = 10_000;

/// A known file with the content of a new one, which may be that file under its old name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: FileId,
    /// Its watch, which may be another one of the same iModel.
    pub watch: WatchId,
    /// Its path relative to the root.
    pub path: PathBuf,
    /// Since when scans do not find it; None if the last one did.
    pub absent_since: Option<Timestamp>,
}

/// What came of moving the record of a file to its new path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// The record has the new path and a job; the new file's own record and job are deleted.
    Moved(Option<BulkChange>),
    /// The file is being uploaded or in a run: nothing has changed.
    AtWork,
    /// One of both files has changed since they were compared: nothing has changed.
    Declined,
}

sql::row! {
    struct NewRow {
        dir: Vec<u8>,
        name: Vec<u8>,
        version: i64,
        size: i64,
        mtime_ns: i64,
        ctime_ns: i64,
        connector: Option<ConnectorType>,
    }
}

sql::row! {
    struct OriginRow {
        watch_id: i64,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        version: i64,
        stored_digest: Option<Vec<u8>>,
        has_storage_file: bool,
        absence: Option<Absence>,
        absent_since: Option<i64>,
        state: Option<JobState>,
        stage: Option<Stage>,
    }
}

impl Ledger {
    /// Whether storage has content of this size of another file of the watch, or of another watch of its iModel, that
    /// is there, or was until lately.
    pub async fn may_be_renamed(&self, job: &UploadJob, bytes: u64) -> Result<bool, Error> {
        self.db
            .read("look for the origin of a file", async |db| {
                sql::query_scalar(concat!(
                    "SELECT EXISTS (SELECT 1 FROM files WHERE watch_id IN ",
                    neighbors!(),
                    " AND stored_size = $2 AND storage_file_id IS NOT NULL AND id <> $3)",
                ))
                .bind(job.watch)
                .bind(count_column(bytes))
                .bind(job.file)
                .fetch_one(db)
                .await
            })
            .await
    }

    /// The files of the job's watch, and of other watches of its iModel, with this content in storage that were there
    /// at most `window` before the job was enqueued.
    pub async fn origins(
        &self,
        job: &UploadJob,
        content: &Content,
        window: SignedDuration,
    ) -> Result<Vec<Origin>, Error> {
        type Row = (FileId, WatchId, Vec<u8>, Vec<u8>, Option<i64>);
        let since = job.enqueued_at.checked_sub(window);
        let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
        let rows: Vec<Row> = self
            .db
            .read("look for the origin of a file", async |db| {
                sql::query_as(concat!(
                    "SELECT id, watch_id, dir, name, absent_since FROM files WHERE watch_id IN ",
                    neighbors!(),
                    " AND stored_size = $2 AND storage_file_id IS NOT NULL AND stored_digest = $3 \
                     AND id <> $4 AND (absence IS NULL OR (absence <> $5 AND absent_since >= $6)) \
                     ORDER BY absence IS NULL, id LIMIT $7",
                ))
                .bind(job.watch)
                .bind(count_column(content.bytes))
                .bind(&content.digest[..])
                .bind(job.file)
                .bind(Absence::Deselected)
                .bind(millis(since))
                .bind(ORIGINS_MAX)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(file, watch, dir, name, absent)| Origin {
                file,
                watch,
                path: join(dir, name),
                absent_since: absent.map(timestamp),
            })
            .collect())
    }

    /// The files of a watch, by its name, and of the others of its iModel, with this many bytes in storage, that are
    /// there or were until `since`: watch, path, and the digest of those bytes.
    pub async fn stored_with_size(
        &self,
        watch: &str,
        bytes: u64,
        since: Timestamp,
    ) -> Result<Vec<(String, PathBuf, Vec<u8>)>, Error> {
        type Row = (String, Vec<u8>, Vec<u8>, Vec<u8>);
        let rows: Vec<Row> = self
            .db
            .read("look for the origin of a file", async |db| {
                sql::query_as(
                    "SELECT o.name, f.dir, f.name, f.stored_digest FROM watches w JOIN watches o \
                     ON o.imodel_id = w.imodel_id AND (o.id = w.id OR (w.follows IS NULL \
                     AND o.follows IS NULL)) JOIN files f \
                     ON f.watch_id = o.id WHERE w.name = $1 AND f.stored_size = $2 \
                     AND f.storage_file_id IS NOT NULL AND f.stored_digest IS NOT NULL \
                     AND (f.absence IS NULL OR (f.absence <> $3 AND f.absent_since >= $4)) \
                     ORDER BY o.id <> w.id, f.absence IS NULL, f.id LIMIT $5",
                )
                .bind(watch)
                .bind(count_column(bytes))
                .bind(Absence::Deselected)
                .bind(millis(since))
                .bind(SAME_SIZE_MAX)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(watch, dir, name, digest)| (watch, join(dir, name), digest))
            .collect())
    }

    /// Moves the record of `origin` to the path of the job's file, which is new and holds `content`: that is the
    /// content of `origin` in storage. The job ends with its file; the moved record gets a job of its own.
    ///
    /// `place` is the place in storage that belongs to the new path, see [`Ledger::take_place`].
    pub async fn follow_rename(
        &self,
        job: &UploadJob,
        origin: FileId,
        content: &Content,
        place: &[u8; 16],
        now: Timestamp,
    ) -> Result<Followed, Error> {
        self.db
            .write_durably("follow a renamed file", async |tx| {
                let (Some(new), Some(old)) = (
                    new_file(tx, job, origin, place).await?,
                    origin_file(tx, origin).await?,
                ) else {
                    return Ok(Followed::Declined);
                };
                if matches!(old.state, Some(JobState::Uploading | JobState::Running)) {
                    return Ok(Followed::AtWork);
                }
                let is_gone = matches!(old.absence, Some(Absence::Missing | Absence::Gone));
                let same = old.stored_digest.as_deref() == Some(&content.digest[..]);
                if new.version != job.version || !is_gone || !same || !old.has_storage_file {
                    return Ok(Followed::Declined);
                }
                let target = (Some(&place[..]), Some(Relocation::Intended));
                move_record(tx, job, origin, (&new, &old), target, now).await?;
                Ok(Followed::Moved(
                    guard(tx, job.watch.0, Arrived::KNOWN_AFTER_ALL, now).await?,
                ))
            })
            .await
    }

    /// Checkpoint before a request that changes name or folder of the storage file. It also changes the time by which
    /// storage shows changes by others; `unverified`: there was one before, so the content has to be compared.
    pub async fn record_relocation_sent(
        &self,
        job: &UploadJob,
        unverified: bool,
    ) -> Result<(), Error> {
        self.db
            .write_durably(
                "record that a storage file is about to be renamed",
                async |tx| {
                    sql::query(
                        "UPDATE files SET relocation = $2, \
                         unverified = CASE WHEN $3 = 1 THEN 1 ELSE unverified END \
                         WHERE id = $1",
                    )
                    .bind(job.file)
                    .bind(Relocation::Sent)
                    .bind(i64::from(unverified))
                    .execute(tx)
                    .await
                },
            )
            .await?;
        Ok(())
    }

    /// Storage shows the file as `stamp` says, with the name and folder that it should have; `kept` says what storage
    /// refused to change.
    pub async fn finish_relocation(
        &self,
        job: &UploadJob,
        stamp: &StorageStamp,
        kept: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("record that a storage file was renamed", async |tx| {
                // Its content is the same: that concerns the followers too.
                sql::query(
                    "UPDATE files SET stored_modified = $2, stored_modified_by = $3, \
                     storage_folder_id = $4 FROM files p JOIN watches w ON w.follows = p.watch_id \
                     WHERE p.id = $1 AND files.watch_id = w.id \
                     AND files.storage_file_id = p.storage_file_id \
                     AND files.stored_digest IS NOT DISTINCT FROM p.stored_digest \
                     AND files.stored_modified IS NOT DISTINCT FROM p.stored_modified",
                )
                .bind(job.file)
                .bind(&stamp.modified)
                .bind(&stamp.modified_by)
                .bind(&stamp.folder_id)
                .execute(tx)
                .await?;
                sql::query("UPDATE files SET relocation = NULL WHERE id = $1")
                    .bind(job.file)
                    .execute(tx)
                    .await?;
                set_stamp(tx, job.file, stamp).await?;
                let step = match kept {
                    Some(_) => Step::NameKept,
                    None => Step::Relocated,
                };
                note(tx, job.file.0, job.version, step, kept, now).await
            })
            .await
    }
}

/// The job's file, unless it changed or its place in storage belongs to a third file.
async fn new_file(
    tx: &mut Tx,
    job: &UploadJob,
    origin: FileId,
    place: &[u8; 16],
) -> Result<Option<NewRow>, sqlx::Error> {
    sql::query_as(
        "SELECT dir, name, version, size, mtime_ns, ctime_ns, connector FROM files f \
         WHERE id = $1 AND known = 1 AND storage_file_id IS NULL AND NOT EXISTS (SELECT 1 \
         FROM files o WHERE o.watch_id = f.watch_id AND o.place = $2 AND o.id NOT IN ($1, $3))",
    )
    .bind(job.file)
    .bind(&place[..])
    .bind(origin)
    .fetch_optional(tx)
    .await
}

async fn origin_file(tx: &mut Tx, origin: FileId) -> Result<Option<OriginRow>, sqlx::Error> {
    sql::query_as(
        "SELECT f.watch_id, w.name AS watch, f.dir, f.name, f.version, f.stored_digest, \
         f.storage_file_id IS NOT NULL AS has_storage_file, f.absence, f.absent_since, j.state, \
         j.stage FROM files f JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id WHERE f.id = $1",
    )
    .bind(origin)
    .fetch_optional(tx)
    .await
}

/// Moves the record of `origin` to the path of the job's file, whatever scans have found of it, for a storage file that
/// has the new name and folder already.
pub(super) async fn move_to_path(
    tx: &mut Tx,
    job: &UploadJob,
    origin: FileId,
    place: Option<&[u8]>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let new: Option<NewRow> = sql::query_as(
        "SELECT dir, name, version, size, mtime_ns, ctime_ns, connector FROM files WHERE id = $1",
    )
    .bind(job.file)
    .fetch_optional(tx)
    .await?;
    if let (Some(new), Some(old)) = (new, origin_file(tx, origin).await?) {
        move_record(tx, job, origin, (&new, &old), (place, None), now).await?;
    }
    Ok(())
}

async fn move_record(
    tx: &mut Tx,
    job: &UploadJob,
    origin: FileId,
    (new, old): (&NewRow, &OriginRow),
    (place, relocation): (Option<&[u8]>, Option<Relocation>),
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM jobs WHERE file_id = $1",
        "DELETE FROM kept_results WHERE file_id = $1",
        "DELETE FROM steps WHERE file_id = $1",
        "DELETE FROM files WHERE id = $1",
    ] {
        sql::query(sql).bind(job.file).execute(tx).await?;
    }
    if old.watch_id != job.watch.0 {
        move_to_watch(tx, origin, job.watch).await?;
    }
    let version = old.version.saturating_add(1);
    // An upload that was interrupted may have left other content in storage than what was completed last.
    let is_stored = old.stage.is_none_or(|stage| stage == Stage::Planned);
    sql::query(
        "UPDATE files SET dir = $2, name = $3, known = 1, size = $4, mtime_ns = $5, \
         ctime_ns = $6, connector = $7, version = $8, stored_version = CASE WHEN $9 THEN $8 \
         ELSE stored_version END, overwrites = 0, absence = NULL, absent_since = NULL, \
         place = $10, relocation = $11 WHERE id = $1",
    )
    .bind(origin)
    .bind(&new.dir)
    .bind(&new.name)
    .bind(new.size)
    .bind(new.mtime_ns)
    .bind(new.ctime_ns)
    .bind(&new.connector)
    .bind(version)
    .bind(is_stored)
    .bind(place)
    .bind(relocation)
    .execute(tx)
    .await?;
    set_target(tx, origin.0).await?;
    open_job(tx, origin.0, version, now).await?;
    if new.connector.is_none() {
        check_connection_soon(tx, origin.0).await?;
    }
    // It was not deleted after all.
    sql::query("DELETE FROM steps WHERE file_id = $1 AND step = $2 AND at >= $3")
        .bind(origin)
        .bind(Step::Gone.as_str())
        .bind(old.absent_since)
        .execute(tx)
        .await?;
    let mut from = format!("{:?}", join(old.dir.clone(), old.name.clone()));
    if old.watch_id != job.watch.0 {
        from += &format!(" of watch {:?}", old.watch);
    }
    note(tx, origin.0, version, Step::Renamed, Some(&from), now).await?;
    forget_listing(tx, old.watch_id, &old.dir).await?;
    forget_listing(tx, job.watch.0, split(&job.path).0).await
}

/// Moves the record of a file to another watch of the same iModel.
async fn move_to_watch(tx: &mut Tx, origin: FileId, watch: WatchId) -> Result<(), sqlx::Error> {
    // Its place in storage and its path may be taken in the new watch: both are set with the new path.
    sql::query("UPDATE files SET watch_id = $2, place = NULL, dir = $3, name = $4 WHERE id = $1")
        .bind(origin)
        .bind(watch)
        .bind(&b"\0"[..])
        .bind(origin.0.to_be_bytes().to_vec())
        .execute(tx)
        .await?;
    sql::query("UPDATE jobs SET watch_id = $2 WHERE file_id = $1")
        .bind(origin)
        .bind(watch)
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
