//! Claims: an upload worker takes a due job, and gives it back.
//!
//! A claim names the process that has it, if that is not the active one, and needs no expiry: a start gives back what
//! the previous process had, and the active process what another one had that is dead (`database`).

use std::path::PathBuf;

use jiff::Timestamp;

use super::clock::{active, due};
use super::known_files::VersionColumns;
use super::row::join;
use super::{
    Error, FailureKind, FileId, Fingerprint, Ledger, Relocation, Stage, StorageStamp, Tx, WatchId,
    Withdrawal, count_column, count_value, millis, sql, timestamp,
};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;

/// Content of a file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// BLAKE3 of all bytes.
    pub digest: [u8; 32],
    /// Number of bytes.
    pub bytes: u64,
}

/// Content that is complete in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// The version of the file that was stored.
    pub version: i64,
    /// What was stored.
    pub content: Content,
}

/// A job that an upload worker has claimed.
#[derive(Debug, Clone)]
pub struct UploadJob {
    /// The file it is about.
    pub file: FileId,
    /// The watch of the file.
    pub watch: WatchId,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The fingerprint that was handed over; None when it has to be handed over again.
    pub fingerprint: Option<Fingerprint>,
    /// The version that this attempt is about.
    pub version: i64,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When the file was handed over.
    pub enqueued_at: Timestamp,
    /// When the first of the failures in a row happened.
    pub failing_since: Option<Timestamp>,
    /// Connector type, or None for a file that is stored only.
    pub connector: Option<ConnectorType>,
    /// The storage file, once known.
    pub storage_file_id: Option<StorageFileId>,
    /// What storage has, once something is complete there.
    pub stored: Option<StoredContent>,
    /// How far an interrupted attempt came, and when.
    pub stage: (Stage, Timestamp),
    /// The marker of an interrupted *create file*.
    pub marker: Option<String>,
    /// Why the attempt before did not succeed.
    pub last_reason: Option<String>,
    /// Storage may have other content than the recorded one.
    pub unverified: bool,
    /// The bytes are sent even if storage has the same: runs have left out what is there.
    pub send_again: bool,
    /// What the platform said of the storage file when its content was completed.
    pub stamp: StorageStamp,
    /// Name and folder of the storage file still have to follow the local file.
    pub relocation: Option<Relocation>,
    /// How far the file was withdrawn while it was gone.
    pub withdrawal: Option<Withdrawal>,
    /// What an interrupted attempt had fully sent (stage [`Stage::BlobWritten`]).
    pub written: Option<StoredContent>,
}

sql::row! {
    struct JobRow {
        file_id: FileId,
        watch_id: WatchId,
        dir: Vec<u8>,
        name: Vec<u8>,
        found: VersionColumns = ..,
        connector: Option<ConnectorType>,
        storage_file_id: Option<StorageFileId>,
        stored_version: Option<i64>,
        stored_digest: Option<Vec<u8>>,
        stored_size: Option<i64>,
        version: i64,
        attempts: i64,
        enqueued_at: i64,
        failing_since: Option<i64>,
        stage: Stage,
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
        relocation: Option<Relocation>,
        withdrawal: Option<Withdrawal>,
    }
}

/// SQL: jobs `j` of files that are small enough, in active watches.
macro_rules! due_jobs {
    () => {
        concat!(
            "SELECT j.file_id, j.due_at FROM jobs j JOIN files f ON f.id = j.file_id \
             JOIN watches w ON w.id = j.watch_id WHERE f.size <= $2 AND ",
            active!("$1"),
            " AND "
        )
    };
}

/// SQL: claims the job that has been due longest. `$1` is the time, `$2` the largest size, `$3` the process.
macro_rules! claim {
    // Conditions on the job `j`, for the searches by index and for the one by `jobs_set`.
    ($of:expr, $set_of:expr) => {
        concat!(
            "UPDATE jobs SET state = 'uploading', node = $3, kind = NULL, \
             previous_reason = COALESCE(reason, previous_reason), reason = NULL, hint = NULL, \
             version = (SELECT version FROM files WHERE files.id = jobs.file_id) \
             WHERE file_id = (SELECT file_id FROM (",
            // Each state by itself, so that an index gives the first without reading the others.
            "SELECT * FROM (",
            due_jobs!(),
            $of,
            "j.state = 'due' AND j.due_at <= $1 ORDER BY j.due_at LIMIT 1) AS due \
             UNION ALL SELECT * FROM (",
            due_jobs!(),
            $of,
            "j.state = 'failed' AND j.due_at <= $1 ORDER BY j.due_at LIMIT 1) AS failed \
             UNION ALL SELECT * FROM (",
            due_jobs!(),
            $set_of,
            "j.due_at - j.pause > $1 + 5000 AND COALESCE(j.state, '') IN ('due', 'failed') \
             LIMIT 1) AS ahead) AS either ORDER BY due_at LIMIT 1) RETURNING file_id"
        )
    };
}

/// SQL: a job `j` of none of the files `$5`: their ids between commas.
macro_rules! not_excepted {
    () => {
        "$5 NOT LIKE '%,' || CAST(j.file_id AS TEXT) || ',%' AND "
    };
}

/// As [`claim`] of a watch (`$4`), without some files (`$5`).
const CLAIM_OF: &str = claim!(
    concat!("j.watch_id = $4 AND ", not_excepted!()),
    concat!("COALESCE(j.watch_id, 0) = $4 AND ", not_excepted!())
);

impl JobRow {
    fn into_job(self) -> UploadJob {
        UploadJob {
            file: self.file_id,
            watch: self.watch_id,
            path: join(self.dir, self.name),
            fingerprint: self.found.fingerprint(),
            version: self.version,
            attempt: u32::try_from(self.attempts)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            enqueued_at: timestamp(self.enqueued_at),
            failing_since: self.failing_since.map(timestamp),
            connector: self.connector,
            storage_file_id: self.storage_file_id,
            stored: content(self.stored_version, self.stored_digest, self.stored_size),
            stage: (self.stage, timestamp(self.stage_at)),
            marker: self.marker,
            last_reason: self.previous_reason,
            unverified: self.unverified != 0,
            send_again: self.send_again != 0,
            stamp: StorageStamp {
                modified: self.stored_modified,
                modified_by: self.stored_modified_by,
                folder_id: self.storage_folder_id,
            },
            relocation: self.relocation,
            withdrawal: self.withdrawal,
            written: content(self.content_version, self.content_digest, self.content_size),
        }
    }
}

impl Ledger {
    /// Takes the job that has been due longest, if there is one, of the active watches.
    ///
    /// `most` is the size in bytes up to which a file is taken.
    pub async fn claim_upload(
        &self,
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        self.db
            .write("claim a job", async |tx| {
                let claimed = sql::query_scalar(claim!("", ""))
                    .bind(millis(now))
                    .bind(most.map_or(i64::MAX, count_column))
                    .bind(self.db.node())
                    .fetch_optional(tx)
                    .await?;
                claimed_job(tx, claimed).await
            })
            .await
    }

    /// Takes the job of this watch that has been due longest, if there is one and the watch is active.
    ///
    /// `most` is the size in bytes up to which a file is taken.
    pub async fn claim_upload_of(
        &self,
        watch: WatchId,
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        self.claim_of(watch, None, &[], most, now).await
    }

    /// The same for a process beside the active one, if that has just these settings for the watch. Leaves out some
    /// files.
    pub async fn claim_upload_beside(
        &self,
        watch: WatchId,
        settings: &str,
        except: &[FileId],
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        self.claim_of(watch, Some(settings), except, most, now)
            .await
    }

    async fn claim_of(
        &self,
        watch: WatchId,
        settings: Option<&str>,
        except: &[FileId],
        most: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<UploadJob>, Error> {
        let mut excepted = String::from(",");
        for file in except {
            excepted += &format!("{file},");
        }
        self.db
            .write("claim a job", async |tx| {
                if let Some(settings) = settings {
                    let agreed: bool = sql::query_scalar(
                        "SELECT EXISTS (SELECT 1 FROM watches WHERE id = $1 AND settings = $2)",
                    )
                    .bind(watch)
                    .bind(settings)
                    .fetch_one(tx)
                    .await?;
                    if !agreed {
                        return Ok(None);
                    }
                }
                let claimed = sql::query_scalar(CLAIM_OF)
                    .bind(millis(now))
                    .bind(most.map_or(i64::MAX, count_column))
                    .bind(self.db.node())
                    .bind(watch)
                    .bind(&excepted)
                    .fetch_optional(tx)
                    .await?;
                claimed_job(tx, claimed).await
            })
            .await
    }

    /// The active watches that have a job due, and since when.
    pub async fn due_watches(&self, now: Timestamp) -> Result<Vec<(WatchId, Timestamp)>, Error> {
        // What was set by a clock that was ahead is due too.
        type Row = (WatchId, Option<i64>, Option<i64>, bool);
        let rows: Vec<Row> = self
            .db
            .read("look for watches with work", async |db| {
                sql::query_as(concat!(
                    "SELECT w.id, (SELECT MIN(due_at) FROM jobs j WHERE j.watch_id = w.id \
                     AND j.state = 'due'), (SELECT MIN(due_at) FROM jobs j \
                     WHERE j.watch_id = w.id AND j.state = 'failed'), EXISTS (SELECT 1 FROM jobs \
                     j WHERE j.due_at - j.pause > $1 + 5000 AND COALESCE(j.watch_id, 0) = w.id \
                     AND COALESCE(j.state, '') IN ('due', 'failed')) FROM watches w WHERE ",
                    active!("$1"),
                ))
                .bind(millis(now))
                .fetch_all(db)
                .await
            })
            .await?;
        let due = rows.into_iter().filter_map(|(watch, due, failed, ahead)| {
            let ahead = ahead.then(|| millis(now));
            let first = due.into_iter().chain(failed).chain(ahead).min()?;
            (first <= millis(now)).then(|| (watch, timestamp(first)))
        });
        Ok(due.collect())
    }

    /// The time at which the next job may become due that is not due yet.
    pub async fn next_upload_due(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let at: Option<i64> = self
            .db
            .read("look for the next due job", async |db| {
                sql::query_scalar(
                    "SELECT MIN(at) FROM ( SELECT MIN(due_at) AS at FROM jobs \
                     WHERE state = 'due' AND due_at > $1 UNION ALL SELECT MIN(due_at) FROM jobs \
                     WHERE state = 'failed' AND due_at > $1 UNION ALL SELECT MIN(backoff_until) \
                     FROM watches WHERE backoff_until > $1) AS next",
                )
                .bind(millis(now))
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(at.map(timestamp))
    }

    /// How many jobs a single pass still waits for: those in progress, and those of which the next attempt is due
    /// before `soon` and that failed fewer than `attempts` times, unless the settings of their connection are refused.
    /// The second number counts those whose file cannot be read.
    pub async fn awaited(&self, attempts: u32, soon: Timestamp) -> Result<(u64, u64), Error> {
        let (all, busy): (i64, i64) = self
            .db
            .read("count the jobs that are waited for", async |db| {
                sql::query_as(concat!(
                    "SELECT COUNT(*), COUNT(CASE WHEN j.kind = 'busy' THEN 1 END) FROM jobs j \
                     JOIN watches w ON w.id = j.watch_id WHERE w.configured = 1 \
                     AND (j.state IN ('uploading', 'running') OR (j.state IN ('due', 'stored') \
                     AND ",
                    due!("$1"),
                    " AND ",
                    active!("$1"),
                    " AND j.attempts + j.run_attempts < $2 AND NOT (j.state = 'stored' \
                     AND EXISTS (SELECT 1 FROM settings_faults s JOIN files f \
                     ON f.target_connection_id = s.connection_id WHERE f.id = j.file_id))))",
                ))
                .bind(millis(soon))
                .bind(i64::from(attempts))
                .fetch_one(db)
                .await
            })
            .await?;
        Ok((count_value(all - busy), count_value(busy)))
    }

    /// Gives a claimed job back untouched, because the service stops.
    pub async fn unclaim(&self, job: &UploadJob) -> Result<(), Error> {
        self.db
            .write("give a job back", async |tx| {
                sql::query(
                    "UPDATE jobs SET state = 'due' WHERE file_id = $1 AND state = 'uploading' \
                     AND COALESCE(node, '') = $2",
                )
                .bind(job.file.0)
                .bind(self.db.node().unwrap_or_default())
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Gives every claim back, as the last active process left them.
    pub(super) async fn release_claims(&self) -> Result<(), Error> {
        self.db
            .write("take up the work of the last process", async |tx| {
                sql::query(
                    "UPDATE jobs SET state = 'due' WHERE state = 'uploading' AND node IS NULL",
                )
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Makes jobs due whose failure the operator may have corrected, by another configuration or elsewhere: at a start
    /// and at a reload of the daemon. A command that changes the ledger without a daemon does not.
    pub async fn retry_corrected(&self) -> Result<(), Error> {
        self.db
            .write("try failed files again", async |tx| {
                let kinds = FailureKind::ALL.into_iter();
                for kind in kinds.filter(|kind| kind.is_retried_at_start()) {
                    sql::query(
                "UPDATE jobs SET state = 'due', due_at = enqueued_at, pause = 0, attempts = 0, \
                 failing_since = NULL, kind = NULL, previous_reason = reason, reason = NULL, \
                 hint = NULL WHERE state = 'failed' AND kind = $1",
            )
            .bind(kind)
            .execute(tx)
            .await?;
                }
                sql::query(
                    "UPDATE files SET withdrawal_due = 0 WHERE withdrawal_reason IS NOT NULL",
                )
                .execute(tx)
                .await?;
                // Its reason may be over as well; the next attempt finds out.
                sql::query(
                    "UPDATE watches SET backoff_until = 0, backoff_since = 0, backoff_reason = NULL \
                     WHERE backoff_reason IS NOT NULL",
                )
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }
}

/// Makes all claimed uploads due, at the stage they had reached: nobody works on them.
pub(super) async fn release_claims(tx: &mut Tx) -> Result<(), sqlx::Error> {
    sql::query("UPDATE jobs SET state = 'due', node = NULL WHERE state = 'uploading'")
        .execute(tx)
        .await?;
    Ok(())
}

/// The job that was just claimed, if one was.
async fn claimed_job(
    tx: &mut Tx,
    claimed: Option<FileId>,
) -> Result<Option<UploadJob>, sqlx::Error> {
    let Some(file) = claimed else {
        return Ok(None);
    };
    let row: JobRow = sql::query_as(
        "SELECT j.file_id, f.watch_id, f.dir, f.name, f.known, f.size, f.mtime_ns, f.ctime_ns, \
         f.connector, f.storage_file_id, f.stored_version, f.stored_digest, f.stored_size, \
         j.version, j.attempts, j.enqueued_at, j.failing_since, j.stage, j.stage_at, j.marker, \
         j.content_version, j.content_digest, j.content_size, j.previous_reason, f.unverified, \
         f.send_again, f.stored_modified, f.stored_modified_by, f.storage_folder_id, f.relocation, f.withdrawal FROM jobs j \
         JOIN files f ON f.id = j.file_id WHERE j.file_id = $1",
    )
    .bind(file)
    .fetch_one(tx)
    .await?;
    Ok(Some(row.into_job()))
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
            bytes: count_value(size?),
        },
    })
}
