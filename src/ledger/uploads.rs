//! Jobs as the upload workers see them: claim one, leave checkpoints, hand it on or put it off.

use std::path::PathBuf;

use jiff::Timestamp;
use sqlx::query::QueryScalar;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, Transaction};

use super::clock::{due, free, pause};
use super::files::{fingerprint, join, split};
use super::history::{Step, note};
use super::scan_digests::forget_listing;
use super::state::{AfterUpload, after_upload};
use super::watches::{BulkChange, RETIRED, brake};
use super::{
    Absence, During as _, Error, FailureKind, FileId, Fingerprint, Ledger, Outcome, Stage,
    StorageStamp, WatchId, bytes_column, bytes_value, millis, new_id, timestamp,
};

/// Content of a file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// BLAKE3 of all bytes.
    pub digest: [u8; 32],
    /// Number of bytes.
    pub bytes: u64,
}

/// Content that storage is known to hold, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// The version of the file that was stored.
    pub version: i64,
    /// What was stored.
    pub content: Content,
}

/// A job in the hands of an upload worker.
#[derive(Debug, Clone)]
pub struct UploadJob {
    /// The file it is about.
    pub file: FileId,
    /// The watch of the file.
    pub watch: WatchId,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The fingerprint that was handed over; None asks for a fresh look by the watch room.
    pub fingerprint: Option<Fingerprint>,
    /// The version that this attempt is about.
    pub version: i64,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When the first of an unbroken row of failures happened.
    pub failing_since: Option<Timestamp>,
    /// Connector type, or None for a file that is stored only.
    pub connector: Option<String>,
    /// The storage file, once known.
    pub storage_file_id: Option<String>,
    /// What storage holds, once it holds something.
    pub stored: Option<StoredContent>,
    /// How far an interrupted attempt came, and when.
    pub stage: (Stage, Timestamp),
    /// The marker of an interrupted *create file*.
    pub marker: Option<String>,
    /// Why the attempt before did not succeed.
    pub last_reason: Option<String>,
    /// Storage may hold other content than what is known.
    pub unverified: bool,
    /// The bytes are sent even if storage holds the same: runs left out what is there.
    pub send_again: bool,
    /// What the platform said of the storage file when its content was completed.
    pub stamp: StorageStamp,
    /// What an interrupted attempt had fully sent (stage [`Stage::BlobWritten`]).
    pub written: Option<StoredContent>,
}

/// What follows after an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadResult {
    /// The file has changed meanwhile; the job is due again.
    DueAgain,
    /// The job waits for a run of its iModel.
    AwaitsRun,
    /// The job is done.
    Done,
}

/// Why an attempt did not succeed and what comes next.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What failed and why, in one sentence.
    pub reason: String,
    /// What the reader can do, when there is something specific.
    pub hint: Option<String>,
    /// When to try again.
    pub again: Again,
}

/// When a job that was refused is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Not an error of the platform's or the file's: look again then.
    BusyUntil(Timestamp),
    /// At this time, as the next attempt.
    At(Timestamp),
    /// It counts as failed, but is tried again at this time in case somebody mended the cause elsewhere.
    FailedUntil(Timestamp),
    /// Not before the file or the configuration changes, or a person asks.
    Never,
}

#[derive(sqlx::FromRow)]
struct JobRow {
    file_id: i64,
    watch_id: i64,
    dir: Vec<u8>,
    name: Vec<u8>,
    size: i64,
    mtime_ns: i64,
    ctime_ns: i64,
    connector: Option<String>,
    storage_file_id: Option<String>,
    stored_version: Option<i64>,
    stored_digest: Option<Vec<u8>>,
    stored_size: Option<i64>,
    version: i64,
    attempts: i64,
    failing_since: Option<i64>,
    stage: String,
    stage_at: i64,
    marker: Option<String>,
    content_version: Option<i64>,
    content_digest: Option<Vec<u8>>,
    content_size: Option<i64>,
    previous_reason: Option<String>,
    unverified: i64,
    send_again: i64,
    stored_modified: Option<String>,
    stored_modified_by: Option<String>,
    storage_folder_id: Option<String>,
}

impl Ledger {
    /// Takes the job that has been due longest, if there is one, out of the watches that are not held.
    ///
    /// `most` is the size in bytes up to which a file is taken.
    pub async fn claim_upload(
        &self,
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        // Each state by itself, so that the index gives the first without a look at all the others.
        let claim = sqlx::query_scalar(concat!(
            "UPDATE jobs SET state = 'uploading', kind = NULL, previous_reason = COALESCE(reason, previous_reason), \
             reason = NULL, hint = NULL, version = (SELECT version FROM files WHERE files.id = jobs.file_id) \
             WHERE file_id = (SELECT file_id FROM ( \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                    WHERE j.state = 'due' AND j.due_at <= $1 AND ",
            free!("$1"),
            " AND f.size <= $2 \
                    ORDER BY j.due_at LIMIT 1) AS due \
                UNION ALL \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                    WHERE j.state = 'failed' AND j.due_at <= $1 AND ",
            free!("$1"),
            " AND f.size <= $2 \
                    ORDER BY j.due_at LIMIT 1) AS failed \
                UNION ALL \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                    WHERE j.due_at - j.pause > $1 + 5000 AND COALESCE(j.state, '') IN ('due', 'failed') AND ",
            free!("$1"),
            " AND f.size <= $2 LIMIT 1) AS ahead) AS either \
                ORDER BY due_at LIMIT 1) \
             RETURNING file_id",
        ));
        let claim = claim
            .bind(millis(now))
            .bind(most.map_or(i64::MAX, bytes_column));
        self.claimed(claim).await
    }

    /// Takes the job of this watch that has been due longest, if there is one and the watch is not held.
    ///
    /// `most` is the size in bytes up to which a file is taken.
    pub async fn claim_upload_of(
        &self,
        watch: WatchId,
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        let claim = sqlx::query_scalar(concat!(
            "UPDATE jobs SET state = 'uploading', kind = NULL, previous_reason = COALESCE(reason, previous_reason), \
             reason = NULL, hint = NULL, version = (SELECT version FROM files WHERE files.id = jobs.file_id) \
             WHERE file_id = (SELECT file_id FROM ( \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = j.watch_id \
                    WHERE j.watch_id = $3 AND j.state = 'due' AND j.due_at <= $1 AND ",
            free!("$1"),
            " AND f.size <= $2 ORDER BY j.due_at LIMIT 1) AS due \
                UNION ALL \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = j.watch_id \
                    WHERE j.watch_id = $3 AND j.state = 'failed' AND j.due_at <= $1 AND ",
            free!("$1"),
            " AND f.size <= $2 ORDER BY j.due_at LIMIT 1) AS failed \
                UNION ALL \
                SELECT * FROM (SELECT j.file_id, j.due_at FROM jobs j \
                    JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = j.watch_id \
                    WHERE j.due_at - j.pause > $1 + 5000 AND COALESCE(j.watch_id, 0) = $3 \
                    AND COALESCE(j.state, '') IN ('due', 'failed') AND ",
            free!("$1"),
            " AND f.size <= $2 LIMIT 1) AS ahead) AS either \
                ORDER BY due_at LIMIT 1) \
             RETURNING file_id",
        ));
        let claim = claim
            .bind(millis(now))
            .bind(most.map_or(i64::MAX, bytes_column))
            .bind(watch.0);
        self.claimed(claim).await
    }

    /// The watches that have a job due and are not held, and since when.
    pub async fn due_watches(&self, now: Timestamp) -> Result<Vec<(WatchId, Timestamp)>, Error> {
        // What was set by a clock that was ahead is due too.
        let rows: Vec<(i64, Option<i64>, Option<i64>, bool)> = sqlx::query_as(concat!(
            "SELECT w.id, \
             (SELECT MIN(due_at) FROM jobs j WHERE j.watch_id = w.id AND j.state = 'due'), \
             (SELECT MIN(due_at) FROM jobs j WHERE j.watch_id = w.id AND j.state = 'failed'), \
             EXISTS (SELECT 1 FROM jobs j WHERE j.due_at - j.pause > $1 + 5000 \
                 AND COALESCE(j.watch_id, 0) = w.id AND COALESCE(j.state, '') IN ('due', 'failed')) \
             FROM watches w WHERE ",
            free!("$1"),
        ))
        .bind(millis(now))
        .fetch_all(&self.reads)
        .await
        .during("look for watches with work")?;
        let due = rows.into_iter().filter_map(|(watch, due, failed, ahead)| {
            let ahead = ahead.then(|| millis(now));
            let first = due.into_iter().chain(failed).chain(ahead).min()?;
            (first <= millis(now)).then(|| (WatchId(watch), timestamp(first)))
        });
        Ok(due.collect())
    }

    async fn claimed(
        &self,
        claim: QueryScalar<'_, Sqlite, i64, SqliteArguments>,
    ) -> Result<Option<UploadJob>, Error> {
        const ACTION: &str = "claim a job";
        let claimed: Option<i64> = claim.fetch_optional(&self.pool).await.during(ACTION)?;
        let Some(file_id) = claimed else {
            return Ok(None);
        };
        let row: JobRow = sqlx::query_as(
            "SELECT j.file_id, f.watch_id, f.dir, f.name, f.size, f.mtime_ns, f.ctime_ns, f.connector, \
             f.storage_file_id, f.stored_version, f.stored_digest, f.stored_size, j.version, j.attempts, \
             j.failing_since, j.stage, j.stage_at, j.marker, j.content_version, j.content_digest, j.content_size, j.previous_reason, \
             f.unverified, f.send_again, f.stored_modified, f.stored_modified_by, f.storage_folder_id \
             FROM jobs j JOIN files f ON f.id = j.file_id WHERE j.file_id = $1",
        )
        .bind(file_id)
        .fetch_one(&self.reads)
        .await
        .during(ACTION)?;
        row.into_job().during(ACTION).map(Some)
    }

    /// How many jobs a single pass still waits for: those under way, and those of which the next attempt is due before
    /// `soon` and that failed fewer than `attempts` times. The second number counts those whose file cannot be read.
    pub async fn awaited(&self, attempts: u32, soon: Timestamp) -> Result<(u64, u64), Error> {
        let (all, busy): (i64, i64) = sqlx::query_as(concat!(
            "SELECT COUNT(*), COUNT(CASE WHEN j.kind = 'busy' THEN 1 END) \
             FROM jobs j JOIN watches w ON w.id = j.watch_id \
             WHERE w.held_until < $3 AND (j.state IN ('uploading', 'running') \
                OR (j.state IN ('due', 'stored') AND ",
            due!("$1"),
            " AND ",
            free!("$1"),
            " AND j.attempts + j.run_attempts < $2))",
        ))
        .bind(millis(soon))
        .bind(i64::from(attempts))
        .bind(millis(RETIRED))
        .fetch_one(&self.reads)
        .await
        .during("count the jobs that are waited for")?;
        Ok((bytes_value(all - busy), bytes_value(busy)))
    }

    /// The time at which the next job may become due that is not due yet.
    pub async fn next_upload_due(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let at: Option<i64> = sqlx::query_scalar(
            "SELECT MIN(at) FROM ( \
             SELECT MIN(due_at) AS at FROM jobs WHERE state = 'due' AND due_at > $1 \
             UNION ALL SELECT MIN(due_at) FROM jobs WHERE state = 'failed' AND due_at > $1 \
             UNION ALL SELECT MIN(held_until) FROM watches WHERE held_until > $1) AS next",
        )
        .bind(millis(now))
        .fetch_one(&self.reads)
        .await
        .during("look for the next due job")?;
        Ok(at.map(timestamp))
    }

    /// Gives every claim back, as the last process left them, and tries again what the operator may have corrected.
    pub(super) async fn release_claims(&self) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET state = 'due' WHERE state = 'uploading'")
            .execute(&self.pool)
            .await
            .during("take up the work of the last process")?;
        self.retry_corrected().await
    }

    /// Makes jobs due whose failure the operator may have corrected, by another configuration or elsewhere.
    pub async fn retry_corrected(&self) -> Result<(), Error> {
        const ACTION: &str = "try failed files again";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let kinds = FailureKind::ALL.into_iter();
        for kind in kinds.filter(|kind| kind.is_retried_at_start()) {
            sqlx::query(
                "UPDATE jobs SET state = 'due', due_at = enqueued_at, pause = 0, attempts = 0, failing_since = NULL, \
                 kind = NULL, previous_reason = reason, reason = NULL, hint = NULL \
                 WHERE state = 'failed' AND kind = $1",
            )
            .bind(kind.as_str())
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        }
        tx.commit().await.during(ACTION)
    }

    /// Checkpoint before *create file* is sent with `marker` in its description.
    pub async fn record_create_sent(
        &self,
        job: &UploadJob,
        marker: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE jobs SET stage = 'create_sent', stage_at = $2, marker = $3 WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(now))
        .bind(marker)
        .execute(&self.pool)
        .await
        .during("record that a file is about to be created")?;
        self.durable("record that a file is about to be created")
            .await
    }

    /// Checkpoint after the storage file is known, before any byte is sent to it.
    pub async fn record_storage_file(
        &self,
        job: &UploadJob,
        storage_file_id: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "record a storage file";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("UPDATE files SET storage_file_id = $2 WHERE id = $1")
            .bind(job.file.0)
            .bind(storage_file_id)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        sqlx::query("UPDATE jobs SET stage = 'links_received', stage_at = $2, marker = NULL WHERE file_id = $1")
            .bind(job.file.0)
            .bind(millis(now))
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        tx.commit().await.during(ACTION)
    }

    /// Takes over a storage file that was there before and holds other content than the local file. The job is due at
    /// `due`, behind all that are due now, and the attempt counts: whatever makes it start over does not do so for ever.
    pub async fn adopt(
        &self,
        job: &UploadJob,
        storage_file_id: &str,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<Option<BulkChange>, Error> {
        const ACTION: &str = "adopt a storage file";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        // A version before the first: storage has something, and nobody knows what.
        sqlx::query("UPDATE files SET storage_file_id = $2, stored_version = 0 WHERE id = $1")
            .bind(job.file.0)
            .bind(storage_file_id)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        sqlx::query(
            "UPDATE jobs SET state = 'due', due_at = $2, pause = $3, attempts = attempts + 1 WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(due))
        .bind(pause(now, due))
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        let braked = brake(&mut tx, job.watch.0).await.during(ACTION)?;
        tx.commit().await.during(ACTION)?;
        Ok(braked)
    }

    /// Whether another file of ours owns this storage file already.
    pub async fn owns_storage_file(&self, storage_file_id: &str) -> Result<Option<FileId>, Error> {
        let owner: Option<i64> =
            sqlx::query_scalar("SELECT id FROM files WHERE storage_file_id = $1")
                .bind(storage_file_id)
                .fetch_optional(&self.reads)
                .await
                .during("look up the owner of a storage file")?;
        Ok(owner.map(FileId))
    }

    /// Forgets the storage file of a job: it is gone from storage, so nothing that was known of it holds.
    pub async fn forget_storage_file(&self, file: FileId) -> Result<(), Error> {
        const ACTION: &str = "forget a storage file";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        forget_storage_file(&mut tx, file.0).await.during(ACTION)?;
        tx.commit().await.during(ACTION)
    }

    /// Checkpoint after storage acknowledged all bytes of `content`, before *complete* is sent.
    pub async fn record_blob_written(
        &self,
        job: &UploadJob,
        content: &Content,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE jobs SET stage = 'blob_written', stage_at = $2, content_version = $3, content_digest = $4, \
             content_size = $5 WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(now))
        .bind(job.version)
        .bind(&content.digest[..])
        .bind(bytes_column(content.bytes))
        .execute(&self.pool)
        .await
        .during("record that a file's bytes are in storage")?;
        self.durable("record that a file's bytes are in storage")
            .await
    }

    /// Checkpoint back to the start of an upload: what was written before it counts for nothing any more.
    pub async fn record_restart(&self, job: &UploadJob, now: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "UPDATE jobs SET stage = 'links_received', stage_at = $2, content_version = NULL, content_digest = NULL, \
             content_size = NULL WHERE file_id = $1",
        )
        .bind(job.file.0)
        .bind(millis(now))
        .execute(&self.pool)
        .await
        .during("record that an upload starts over")?;
        self.durable("record that an upload starts over").await
    }

    /// The content is complete in storage, which described the file as `stamp` says: hands the job on and raises the
    /// generation of its connection.
    pub async fn finish_stored(
        &self,
        job: &UploadJob,
        stored: &StoredContent,
        stamp: &StorageStamp,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        const ACTION: &str = "record a completed upload";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let generation: i64 = sqlx::query_scalar(
            "UPDATE connections SET generation = generation + 1, moved_at = $2 \
             WHERE id = (SELECT connection_id FROM watches WHERE id = $1) RETURNING generation",
        )
        .bind(job.watch.0)
        .bind(millis(now))
        .fetch_one(&mut *tx)
        .await
        .during(ACTION)?;
        let file: StoredRow = sqlx::query_as(
            "UPDATE files SET stored_version = $2, stored_digest = $3, stored_size = $4, stored_at = $5, \
             stored_generation = $6, stored_modified = $7, stored_modified_by = $8, storage_folder_id = $9, \
             storage_file_id = COALESCE($10, storage_file_id), processed = 0, unverified = 0, send_again = 0, outcome = NULL, outcome_at = NULL WHERE id = $1 \
             RETURNING version, connector, mapped_connector, outcome",
        )
        .bind(job.file.0)
        .bind(stored.version)
        .bind(&stored.content.digest[..])
        .bind(bytes_column(stored.content.bytes))
        .bind(millis(now))
        .bind(generation)
        .bind(&stamp.modified)
        .bind(&stamp.modified_by)
        .bind(&stamp.folder_id)
        .bind(&job.storage_file_id)
        .fetch_one(&mut *tx)
        .await
        .during(ACTION)?;
        note(
            &mut tx,
            job.file.0,
            stored.version,
            Step::Uploaded,
            None,
            now,
        )
        .await
        .during(ACTION)?;
        let result = hand_on(&mut tx, job, stored.version, &file, Outcome::Uploaded, now)
            .await
            .during(ACTION)?;
        tx.commit().await.during(ACTION)?;
        Ok(result)
    }

    /// The file holds what storage holds already: no upload, and no run unless one is still owed.
    pub async fn finish_unchanged(
        &self,
        job: &UploadJob,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        const ACTION: &str = "record an unchanged file";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let file: StoredRow = sqlx::query_as(
            "UPDATE files SET stored_version = $2 WHERE id = $1 RETURNING version, connector, mapped_connector, outcome",
        )
        .bind(job.file.0)
        .bind(job.version)
        .fetch_one(&mut *tx)
        .await
        .during(ACTION)?;
        let result = hand_on(&mut tx, job, job.version, &file, Outcome::Unchanged, now)
            .await
            .during(ACTION)?;
        tx.commit().await.during(ACTION)?;
        Ok(result)
    }

    /// The file is not there any more. Its job goes; whatever appears under its name later counts as new.
    pub async fn finish_vanished(&self, job: &UploadJob, now: Timestamp) -> Result<(), Error> {
        const ACTION: &str = "record that a file is gone";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let newest: i64 = newest_version(&mut tx, job.file.0).await.during(ACTION)?;
        sqlx::query(
            "UPDATE files SET size = -1, absence = COALESCE(absence, $3), absent_since = COALESCE(absent_since, $4) \
             WHERE id = $1 AND version = $2",
        )
        .bind(job.file.0)
        .bind(job.version)
        .bind(Absence::Missing.as_str())
        .bind(millis(now))
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        forget_listing(&mut tx, job.watch.0, split(&job.path).0)
            .await
            .during(ACTION)?;
        if newest == job.version {
            insert_result(
                &mut tx,
                job.file.0,
                Outcome::Vanished,
                None,
                None,
                None,
                now,
            )
            .await
            .during(ACTION)?;
            delete_job(&mut tx, job.file.0).await.during(ACTION)?;
        } else {
            make_due(&mut tx, job.file.0, now).await.during(ACTION)?;
        }
        tx.commit().await.during(ACTION)
    }

    /// The attempt did not succeed. A file that has changed meanwhile is due at once instead of failed.
    pub async fn put_off(
        &self,
        job: &UploadJob,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "put a job off";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let newest = newest_version(&mut tx, job.file.0).await.during(ACTION)?;
        if newest > job.version && matches!(refusal.again, Again::FailedUntil(_) | Again::Never) {
            make_due(&mut tx, job.file.0, now).await.during(ACTION)?;
        } else {
            refuse(&mut tx, job.file.0, "due", refusal, now)
                .await
                .during(ACTION)?;
        }
        tx.commit().await.during(ACTION)
    }

    /// Gives a claimed job back untouched, because the service stops.
    pub async fn unclaim(&self, job: &UploadJob) -> Result<(), Error> {
        sqlx::query("UPDATE jobs SET state = 'due' WHERE file_id = $1 AND state = 'uploading'")
            .bind(job.file.0)
            .execute(&self.pool)
            .await
            .during("give a job back")?;
        Ok(())
    }
}

impl JobRow {
    fn into_job(self) -> Result<UploadJob, sqlx::Error> {
        let decode = |error: super::state::UnknownWord| sqlx::Error::Decode(Box::new(error));
        Ok(UploadJob {
            file: FileId(self.file_id),
            watch: WatchId(self.watch_id),
            path: join(self.dir, self.name),
            fingerprint: fingerprint(self.size, self.mtime_ns, self.ctime_ns),
            version: self.version,
            attempt: u32::try_from(self.attempts)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            failing_since: self.failing_since.map(timestamp),
            connector: self.connector,
            storage_file_id: self.storage_file_id,
            stored: content(self.stored_version, self.stored_digest, self.stored_size),
            stage: (
                Stage::try_from(self.stage).map_err(decode)?,
                timestamp(self.stage_at),
            ),
            marker: self.marker,
            last_reason: self.previous_reason,
            unverified: self.unverified != 0,
            send_again: self.send_again != 0,
            stamp: StorageStamp {
                modified: self.stored_modified,
                modified_by: self.stored_modified_by,
                folder_id: self.storage_folder_id,
            },
            written: content(self.content_version, self.content_digest, self.content_size),
        })
    }
}

/// A digest of another length than ours is no digest of ours: the content counts as unknown.
fn content(
    version: Option<i64>,
    digest: Option<Vec<u8>>,
    size: Option<i64>,
) -> Option<StoredContent> {
    let digest = digest?.try_into().ok()?;
    Some(StoredContent {
        version: version?,
        content: Content {
            digest,
            bytes: bytes_value(size?),
        },
    })
}

/// A file whose content is in storage.
#[derive(sqlx::FromRow)]
struct StoredRow {
    version: i64,
    connector: Option<String>,
    mapped_connector: Option<String>,
    outcome: Option<String>,
}

/// Moves a job whose version `stored` is in storage to what follows; `done` is the outcome if nothing is owed.
async fn hand_on(
    tx: &mut Transaction<'_, Sqlite>,
    job: &UploadJob,
    stored: i64,
    file: &StoredRow,
    done: Outcome,
    now: Timestamp,
) -> Result<UploadResult, sqlx::Error> {
    let in_imodel = [Outcome::Synchronized, Outcome::SynchronizedWithIssues];
    let synchronized = in_imodel
        .iter()
        .any(|outcome| file.outcome.as_deref() == Some(outcome.as_str()))
        && file.mapped_connector == file.connector;
    match after_upload(stored, file.version, file.connector.is_some(), synchronized) {
        AfterUpload::DueAgain => {
            make_due(tx, job.file.0, now).await?;
            // What storage holds is known for sure.
            sqlx::query("UPDATE jobs SET stage = 'planned' WHERE file_id = $1")
                .bind(job.file.0)
                .execute(&mut **tx)
                .await?;
            Ok(UploadResult::DueAgain)
        }
        AfterUpload::AwaitRun => {
            sqlx::query(
                "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0, attempts = 0, \
                 run_attempts = CASE WHEN $3 THEN run_attempts ELSE 0 END, failing_since = NULL, \
                 stage = 'planned', content_version = NULL, content_digest = NULL, content_size = NULL, \
                 kind = NULL, previous_reason = NULL, reason = NULL, hint = NULL WHERE file_id = $1",
            )
            .bind(job.file.0)
            .bind(millis(now))
            // The runs that left it out still count: otherwise it would be sent for ever.
            .bind(job.send_again)
            .execute(&mut **tx)
            .await?;
            Ok(UploadResult::AwaitsRun)
        }
        AfterUpload::Done => {
            if file.connector.is_none() {
                sqlx::query("UPDATE files SET outcome = 'uploaded', outcome_at = $2 WHERE id = $1")
                    .bind(job.file.0)
                    .bind(millis(now))
                    .execute(&mut **tx)
                    .await?;
            }
            insert_result(tx, job.file.0, done, None, None, None, now).await?;
            delete_job(tx, job.file.0).await?;
            Ok(UploadResult::Done)
        }
    }
}

pub(super) async fn make_due(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE jobs SET state = 'due', due_at = $2, pause = 0, enqueued_at = $2, attempts = 0, run_attempts = 0, \
         failing_since = NULL, stage = CASE WHEN stage = 'blob_written' THEN 'links_received' ELSE stage END, \
         content_version = NULL, content_digest = NULL, content_size = NULL, run_id = NULL, \
         kind = NULL, previous_reason = NULL, reason = NULL, hint = NULL, reported = NULL WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn newest_version(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT version FROM files WHERE id = $1")
        .bind(file_id)
        .fetch_one(&mut **tx)
        .await
}

/// Forgets the storage file. The source file stays known: it still points there, until it is pointed elsewhere.
pub(super) async fn forget_storage_file(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE files SET storage_file_id = NULL, stored_version = NULL, stored_digest = NULL, stored_size = NULL, \
         stored_at = NULL, stored_modified = NULL, stored_modified_by = NULL, storage_folder_id = NULL, \
         processed = 0, unverified = 0, send_again = 0, outcome = NULL, outcome_at = NULL WHERE id = $1",
    )
    .bind(file_id)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE jobs SET stage = 'planned', marker = NULL, content_version = NULL, content_digest = NULL, \
         content_size = NULL WHERE file_id = $1",
    )
    .bind(file_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes a refusal into a job. `waiting` is the state in which it waits for another attempt: 'due' or 'stored'.
pub(super) async fn refuse(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    waiting: &'static str,
    refusal: &Refusal,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (state, due_at, counts) = match refusal.again {
        Again::BusyUntil(at) => (waiting, Some(at), 0),
        Again::At(at) => (waiting, Some(at), 1),
        Again::FailedUntil(at) => ("failed", Some(at), 1),
        Again::Never => ("failed", None, 1),
    };
    let before: Option<(i64, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT j.version, COALESCE(j.reason, j.previous_reason), r.platform_id FROM jobs j LEFT JOIN runs r ON r.id = j.run_id WHERE j.file_id = $1",
    )
    .bind(file_id)
    .fetch_optional(&mut **tx)
    .await?;
    let (version, last_reason, run) = before.unwrap_or_default();
    sqlx::query(
        "UPDATE jobs SET state = $2, due_at = $3, attempts = attempts + $4, run_id = NULL, \
         failing_since = CASE WHEN $4 = 0 THEN failing_since ELSE COALESCE(failing_since, $5) END, \
         kind = $6, reason = $7, hint = $8, pause = $9 WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(state)
    .bind(due_at.map(millis))
    .bind(counts)
    .bind(millis(now))
    .bind(refusal.kind.as_str())
    .bind(&refusal.reason)
    .bind(&refusal.hint)
    .bind(due_at.map_or(0, |at| pause(now, at)))
    .execute(&mut **tx)
    .await?;
    if state == "failed" {
        report_failure(tx, file_id, waiting, refusal, run.as_deref(), now).await?;
    } else if last_reason.as_ref() != Some(&refusal.reason) {
        note(
            tx,
            file_id,
            version,
            Step::PutOff,
            Some(&refusal.reason),
            now,
        )
        .await?;
    }
    Ok(())
}

/// Writes a failure into the history, once for each reason.
async fn report_failure(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    waiting: &str,
    refusal: &Refusal,
    run: Option<&str>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if waiting == "stored" {
        sqlx::query("UPDATE files SET outcome = 'failed', outcome_at = $2 WHERE id = $1")
            .bind(file_id)
            .bind(millis(now))
            .execute(&mut **tx)
            .await?;
    }
    let news = sqlx::query(
        "UPDATE jobs SET reported = $2 WHERE file_id = $1 AND (reported IS NULL OR reported <> $2)",
    )
    .bind(file_id)
    .bind(&refusal.reason)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if news > 0 {
        let reason = Some(refusal.reason.as_str());
        insert_result(
            tx,
            file_id,
            Outcome::Failed,
            run,
            reason,
            refusal.hint.as_deref(),
            now,
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn delete_job(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Gives a file whose content is in storage a job that waits for a run, unless it has a job.
pub(super) async fn insert_stored_job(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO jobs (file_id, state, version, enqueued_at, due_at) \
         SELECT id, 'stored', version, $2, $2 FROM files WHERE id = $1 ON CONFLICT (file_id) DO NOTHING",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Records what became of the version that the job of this file is about, and returns the id of that record. The job
/// must still be there.
pub(super) async fn insert_result(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    outcome: Outcome,
    run: Option<&str>,
    reason: Option<&str>,
    hint: Option<&str>,
    now: Timestamp,
) -> Result<i64, sqlx::Error> {
    let id = new_id(now);
    sqlx::query(
        "INSERT INTO results (id, file_id, version, outcome, at, millis, bytes, connector, storage_file_id, run, reason, hint) \
         SELECT $1, f.id, j.version, $3, $4, CASE WHEN $4 > j.enqueued_at THEN $4 - j.enqueued_at ELSE 0 END, COALESCE(f.stored_size, 0), f.connector, \
         f.storage_file_id, $5, $6, $7 FROM files f JOIN jobs j ON j.file_id = f.id WHERE f.id = $2",
    )
    .bind(id)
    .bind(file_id)
    .bind(outcome.as_str())
    .bind(millis(now))
    .bind(run)
    .bind(reason)
    .bind(hint)
    .execute(&mut **tx)
    .await?;
    Ok(id)
}
