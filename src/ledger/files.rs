//! Files as the watch room knows them: what was handed over last, and handing over what is newer.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::history::{Step, note};
use super::scan_digests::forget_listing;
use super::state::on_new_version;
use super::uploads::forget_storage_file;
use super::watches::{BulkChange, brake};
use super::{
    Absence, During as _, Error, FileId, JobState, Ledger, UploadJob, WatchId, bytes_column,
    bytes_value, millis, new_id,
};

/// What tells two states of a file apart without reading it. Compared with `!=` only: times may go backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time in nanoseconds since the epoch; no program can set it.
    pub ctime_ns: i64,
}

/// A file of a folder as the ledger last saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name in the folder.
    pub name: OsString,
    /// None when any content counts as new.
    pub fingerprint: Option<Fingerprint>,
    /// The connector type it was handed over with; None for a reference file.
    pub connector: Option<String>,
    /// Scans did not find it lately, or it is not selected.
    pub absence: Option<Absence>,
}

/// A finished file, ready to become a job.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Path relative to the root.
    pub path: PathBuf,
    /// As seen unchanged for the settle time.
    pub fingerprint: Fingerprint,
    /// The connector type, or None to store the file only.
    pub connector: Option<String>,
}

#[derive(sqlx::FromRow)]
struct KnownRow {
    name: Vec<u8>,
    size: i64,
    mtime_ns: i64,
    ctime_ns: i64,
    connector: Option<String>,
    absence: Option<String>,
}

impl From<KnownRow> for Known {
    fn from(row: KnownRow) -> Self {
        Self {
            absence: row.absence.and_then(|word| Absence::try_from(word).ok()),
            name: OsString::from_vec(row.name),
            fingerprint: fingerprint(row.size, row.mtime_ns, row.ctime_ns),
            connector: row.connector,
        }
    }
}

impl Ledger {
    /// All files of one folder (`dir` relative to the root, empty for the root itself), in no order.
    pub async fn known_in(&self, watch: WatchId, dir: &Path) -> Result<Vec<Known>, Error> {
        let rows: Vec<KnownRow> = sqlx::query_as(
            "SELECT name, size, mtime_ns, ctime_ns, connector, absence FROM files WHERE watch_id = $1 AND dir = $2",
        )
        .bind(watch.0)
        .bind(dir.as_os_str().as_bytes())
        .fetch_all(&self.reads)
        .await
        .during("list the known files of a folder")?;
        Ok(rows.into_iter().map(Known::from).collect())
    }

    /// One file by its path relative to the root.
    pub async fn known(&self, watch: WatchId, path: &Path) -> Result<Option<Known>, Error> {
        let (dir, name) = split(path);
        let row: Option<KnownRow> = sqlx::query_as(
            "SELECT name, size, mtime_ns, ctime_ns, connector, absence FROM files \
             WHERE watch_id = $1 AND dir = $2 AND name = $3",
        )
        .bind(watch.0)
        .bind(dir)
        .bind(name)
        .fetch_optional(&self.reads)
        .await
        .during("look up a file")?;
        Ok(row.map(Known::from))
    }

    /// One file by the name of its watch and its path relative to the root.
    pub async fn known_by_name(&self, watch: &str, path: &Path) -> Result<Option<Known>, Error> {
        let id: Option<i64> = sqlx::query_scalar("SELECT id FROM watches WHERE name = $1")
            .bind(watch)
            .fetch_optional(&self.reads)
            .await
            .during("look up a watch")?;
        match id {
            Some(id) => self.known(WatchId(id), path).await,
            None => Ok(None),
        }
    }

    /// Hands finished files over: each has exactly one open job for its newest version afterwards.
    ///
    /// A file that is handed over just as it is known keeps what it has, so handing over twice is harmless.
    /// When too many of them are files that storage knows, the watch is held: a lost folder that is back, a clock that
    /// jumped, or a copied tree must not upload everything anew unasked.
    pub async fn hand_over(
        &self,
        watch: WatchId,
        files: &[Ready],
        now: Timestamp,
    ) -> Result<HandedOver, Error> {
        const ACTION: &str = "take over finished files";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let mut changed = 0;
        let mut folders = BTreeSet::new();
        for file in files {
            if hand_over_one(&mut tx, watch, file, now)
                .await
                .during(ACTION)?
            {
                changed += 1;
                folders.insert(split(&file.path).0);
            }
        }
        for dir in folders {
            forget_listing(&mut tx, watch.0, dir).await.during(ACTION)?;
        }
        let braked = match changed {
            0 => None,
            _ => brake(&mut tx, watch.0).await.during(ACTION)?,
        };
        tx.commit().await.during(ACTION)?;
        Ok(HandedOver { changed, braked })
    }

    /// Takes the place in storage that belongs to a file, unless another file has it.
    ///
    /// `place` is the same for all paths that storage may not tell apart.
    pub async fn take_place(
        &self,
        job: &UploadJob,
        place: &[u8; 32],
    ) -> Result<Option<Occupant>, Error> {
        const ACTION: &str = "take a place in storage";
        let taken = sqlx::query("UPDATE files SET place = $2 WHERE id = $1")
            .bind(job.file.0)
            .bind(&place[..])
            .execute(&self.pool)
            .await;
        match taken {
            Ok(_) => return Ok(None),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
            Err(error) => return Err(error).during(ACTION),
        }
        let other: Option<(i64, Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT id, dir, name FROM files WHERE watch_id = $1 AND place = $2")
                .bind(job.watch.0)
                .bind(&place[..])
                .fetch_optional(&self.reads)
                .await
                .during(ACTION)?;
        Ok(other.map(|(id, dir, name)| Occupant {
            file: FileId(id),
            path: join(dir, name),
        }))
    }

    /// Gives a job's file what belongs to a file that is gone from its folder: the place, the storage file and the
    /// source file. Its job ends with it; false: that is being uploaded or in a run.
    pub async fn inherit(&self, job: &mut UploadJob, gone: &Occupant) -> Result<bool, Error> {
        const ACTION: &str = "let a file take the place of another one";
        type Row = (
            Option<Vec<u8>>,
            Option<String>,
            Option<i64>,
            Option<String>,
            Option<String>,
        );
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let at_work: Option<String> = sqlx::query_scalar(
            "SELECT state FROM jobs WHERE file_id = $1 AND state IN ('uploading', 'running')",
        )
        .bind(gone.file.0)
        .fetch_optional(&mut *tx)
        .await
        .during(ACTION)?;
        if at_work.is_some() {
            return Ok(false);
        }
        sqlx::query("DELETE FROM jobs WHERE file_id = $1")
            .bind(gone.file.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        let (place, storage_file_id, connection_id, source_file_id, mapped_connector): Row =
            sqlx::query_as(
                "SELECT place, storage_file_id, connection_id, source_file_id, mapped_connector \
                 FROM files WHERE id = $1",
            )
            .bind(gone.file.0)
            .fetch_one(&mut *tx)
            .await
            .during(ACTION)?;
        forget_storage_file(&mut tx, gone.file.0)
            .await
            .during(ACTION)?;
        sqlx::query(
            "UPDATE files SET place = NULL, size = -1, connection_id = NULL, source_file_id = NULL, \
             mapped_connector = NULL WHERE id = $1",
        )
            .bind(gone.file.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        forget_listing(&mut tx, job.watch.0, split(&gone.path).0)
            .await
            .during(ACTION)?;
        sqlx::query(
            "UPDATE files SET place = $2, storage_file_id = $3, connection_id = $4, source_file_id = $5, \
             mapped_connector = $6 WHERE id = $1",
        )
        .bind(job.file.0)
        .bind(place)
        .bind(&storage_file_id)
        .bind(connection_id)
        .bind(source_file_id)
        .bind(mapped_connector)
        .execute(&mut *tx)
        .await
        .during(ACTION)?;
        tx.commit().await.during(ACTION)?;
        job.storage_file_id = storage_file_id;
        Ok(true)
    }
}

/// The file that has a place in storage which another one asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// The file.
    pub file: FileId,
    /// Its path relative to the root.
    pub path: PathBuf,
}

/// What came of handing files over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Files that were new or changed.
    pub changed: usize,
    /// The watch is held from now on, because of so many files that storage knows.
    pub braked: Option<BulkChange>,
}

async fn hand_over_one(
    tx: &mut Transaction<'_, Sqlite>,
    watch: WatchId,
    file: &Ready,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let (dir, name) = split(&file.path);
    let print = file.fingerprint;
    let known: Option<(i64, i64, i64, i64, i64, Option<String>)> = sqlx::query_as(
        "SELECT id, version, size, mtime_ns, ctime_ns, connector FROM files \
         WHERE watch_id = $1 AND dir = $2 AND name = $3",
    )
    .bind(watch.0)
    .bind(dir)
    .bind(name)
    .fetch_optional(&mut **tx)
    .await?;
    let (id, version) = match known {
        Some((_, _, size, mtime_ns, ctime_ns, connector))
            if fingerprint(size, mtime_ns, ctime_ns) == Some(print)
                && connector == file.connector =>
        {
            return Ok(false);
        }
        Some((id, version, ..)) => {
            sqlx::query(
                "UPDATE files SET size = $2, mtime_ns = $3, ctime_ns = $4, connector = $5, version = $6, overwrites = 0, \
                 absence = NULL, absent_since = NULL WHERE id = $1",
            )
            .bind(id)
            .bind(bytes_column(print.size))
            .bind(print.mtime_ns)
            .bind(print.ctime_ns)
            .bind(&file.connector)
            .bind(version.saturating_add(1))
            .execute(&mut **tx)
            .await?;
            open_job(tx, id, version.saturating_add(1), now).await?;
            (id, version.saturating_add(1))
        }
        None => {
            let id = new_id(now);
            sqlx::query(
                "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)",
            )
            .bind(id)
            .bind(watch.0)
            .bind(dir)
            .bind(name)
            .bind(bytes_column(print.size))
            .bind(print.mtime_ns)
            .bind(print.ctime_ns)
            .bind(&file.connector)
            .execute(&mut **tx)
            .await?;
            insert_job(tx, id, 1, now).await?;
            (id, 1)
        }
    };
    note(tx, id, version, Step::Seen, None, now).await?;
    Ok(true)
}

/// Gives the file its one open job. The stage of an interrupted upload stays: it tells what may have been sent.
async fn open_job(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    version: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(state) = state else {
        return insert_job(tx, file_id, version, now).await;
    };
    let state = JobState::try_from(state).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    if on_new_version(state) == JobState::Due {
        sqlx::query(
            "UPDATE jobs SET state = 'due', version = $2, enqueued_at = $3, due_at = $3, pause = 0, attempts = 0, \
             run_attempts = 0, failing_since = NULL, run_id = NULL, kind = NULL, previous_reason = NULL, reason = NULL, \
             hint = NULL, reported = NULL \
             WHERE file_id = $1",
        )
        .bind(file_id)
        .bind(version)
        .bind(millis(now))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

async fn insert_job(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    version: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at) \
         SELECT id, watch_id, 'due', $2, $3, $3 FROM files WHERE id = $1",
    )
    .bind(file_id)
    .bind(version)
    .bind(millis(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The folder and the name of a relative path, as the ledger's bytes.
pub(super) fn split(path: &Path) -> (&[u8], &[u8]) {
    let dir = path
        .parent()
        .map_or(&b""[..], |dir| dir.as_os_str().as_bytes());
    let name = path.file_name().map_or(&b""[..], |name| name.as_bytes());
    (dir, name)
}

/// The relative path of a folder and a name.
pub(super) fn join(dir: Vec<u8>, name: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(dir)).join(OsString::from_vec(name))
}

pub(super) fn fingerprint(size: i64, mtime_ns: i64, ctime_ns: i64) -> Option<Fingerprint> {
    (size >= 0).then(|| Fingerprint {
        size: bytes_value(size),
        mtime_ns,
        ctime_ns,
    })
}
