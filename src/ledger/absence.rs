//! Files that a scan no longer finds: first missing, then gone; and what a user tells the ledger to forget.
//!
//! Only scans that listed a folder to its end come here, never an event. What storage and the iModel hold of such a
//! file stays as it is; what ends is its open job, so that no failure outlives its file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::history::{Step, note};
use super::scan_digests::forget_listing;
use super::{Absence, During as _, Error, FileId, Ledger, WatchId, millis};

/// Rows that are changed in one transaction, so that many of them do not hold up the work.
const AT_ONCE: usize = 500;

/// What came of recording that files were not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Absent {
    /// Files that are gone from now on.
    pub gone: u64,
    /// Files that the configuration no longer selects, from now on.
    pub deselected: u64,
    /// Files that were not found, which another scan has to confirm.
    pub missing: u64,
}

impl std::ops::AddAssign for Absent {
    fn add_assign(&mut self, other: Self) {
        self.gone += other.gone;
        self.deselected += other.deselected;
        self.missing += other.missing;
    }
}

impl Ledger {
    /// Every folder of a watch in which a file is known, in no order.
    pub async fn known_folders(&self, watch: WatchId) -> Result<Vec<PathBuf>, Error> {
        // Steps from folder to folder in the index, instead of reading the row of each file.
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "WITH RECURSIVE folder(dir) AS ( \
                SELECT MIN(dir) FROM files WHERE watch_id = $1 \
                UNION ALL \
                SELECT (SELECT MIN(dir) FROM files WHERE watch_id = $1 AND dir > folder.dir) FROM folder \
                WHERE folder.dir IS NOT NULL) \
             SELECT dir FROM folder WHERE dir IS NOT NULL",
        )
        .bind(watch.0)
        .fetch_all(&self.reads)
        .await
        .during("list the known folders of a watch")?;
        Ok(rows
            .into_iter()
            .map(|dir| PathBuf::from(OsString::from_vec(dir)))
            .collect())
    }

    /// Records that files of a folder were not found by a scan, or are no longer selected.
    ///
    /// A file that was missing already before `settled` is gone. Whatever is found under its name later counts as new.
    pub async fn record_absent(
        &self,
        watch: WatchId,
        dir: &Path,
        files: &[(OsString, Absence)],
        settled: Timestamp,
        now: Timestamp,
    ) -> Result<Absent, Error> {
        const ACTION: &str = "record files that are gone";
        let mut absent = Absent::default();
        for chunk in files.chunks(AT_ONCE) {
            let mut tx = self.pool.begin().await.during(ACTION)?;
            for (name, absence) in chunk {
                absent += record_one(&mut tx, (watch, dir, name), *absence, settled, now)
                    .await
                    .during(ACTION)?;
            }
            if absent != Absent::default() {
                forget_listing(&mut tx, watch.0, dir.as_os_str().as_bytes())
                    .await
                    .during(ACTION)?;
            }
            tx.commit().await.during(ACTION)?;
        }
        Ok(absent)
    }

    /// Records that files of a folder that were missing are there, unchanged.
    pub async fn record_found(
        &self,
        watch: WatchId,
        dir: &Path,
        names: &[OsString],
    ) -> Result<(), Error> {
        const ACTION: &str = "record files that are back";
        for chunk in names.chunks(AT_ONCE) {
            let mut tx = self.pool.begin().await.during(ACTION)?;
            for name in chunk {
                sqlx::query(
                    "UPDATE files SET absence = NULL, absent_since = NULL \
                     WHERE watch_id = $1 AND dir = $2 AND name = $3 AND absence = $4",
                )
                .bind(watch.0)
                .bind(dir.as_os_str().as_bytes())
                .bind(name.as_bytes())
                .bind(Absence::Missing.as_str())
                .execute(&mut *tx)
                .await
                .during(ACTION)?;
            }
            forget_listing(&mut tx, watch.0, dir.as_os_str().as_bytes())
                .await
                .during(ACTION)?;
            tx.commit().await.during(ACTION)?;
        }
        Ok(())
    }

    /// An upload worker found that the configuration no longer selects the file of its job.
    pub async fn finish_deselected(
        &self,
        job: &super::UploadJob,
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "record a file that is no longer selected";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        end(&mut tx, job.file.0, Absence::Deselected, now)
            .await
            .during(ACTION)?;
        sqlx::query("DELETE FROM jobs WHERE file_id = $1")
            .bind(job.file.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        forget_listing(&mut tx, job.watch.0, super::files::split(&job.path).0)
            .await
            .during(ACTION)?;
        tx.commit().await.during(ACTION)
    }

    /// Deletes all that is known of files, except of those that are being uploaded or in a run. Returns how many.
    ///
    /// Nothing changes on the platform. A file that is still in its folder counts as new to the next scan.
    pub async fn forget_files(&self, files: &[FileId]) -> Result<u64, Error> {
        const ACTION: &str = "forget files";
        let mut forgotten = 0;
        for chunk in files.chunks(AT_ONCE) {
            let mut tx = self.pool.begin().await.during(ACTION)?;
            for file in chunk {
                forgotten += forget_one(&mut tx, *file).await.during(ACTION)?;
            }
            self.commit(tx, ACTION).await?;
        }
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        Ok(forgotten)
    }

    /// Rises whenever files are forgotten. A list of storage files that belong to nobody is out of date then.
    #[must_use]
    pub fn times_forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }
}

async fn record_one(
    tx: &mut Transaction<'_, Sqlite>,
    (watch, dir, name): (WatchId, &Path, &OsStr),
    absence: Absence,
    settled: Timestamp,
    now: Timestamp,
) -> Result<Absent, sqlx::Error> {
    let known: Option<(i64, Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT id, absence, absent_since FROM files WHERE watch_id = $1 AND dir = $2 AND name = $3",
    )
    .bind(watch.0)
    .bind(dir.as_os_str().as_bytes())
    .bind(name.as_bytes())
    .fetch_optional(&mut **tx)
    .await?;
    let Some((file_id, before, since)) = known else {
        return Ok(Absent::default());
    };
    let before = before
        .map(Absence::try_from)
        .transpose()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    match next_absence(before, since, absence, settled, now) {
        Some(Absence::Missing) => {
            if before.is_none() {
                sqlx::query("UPDATE files SET absence = $2, absent_since = $3 WHERE id = $1")
                    .bind(file_id)
                    .bind(Absence::Missing.as_str())
                    .bind(millis(now))
                    .execute(&mut **tx)
                    .await?;
            }
            Ok(Absent {
                missing: 1,
                ..Absent::default()
            })
        }
        Some(ended) => {
            end(tx, file_id, ended, now).await?;
            Ok(Absent {
                gone: u64::from(ended == Absence::Gone),
                deselected: u64::from(ended == Absence::Deselected),
                missing: 0,
            })
        }
        None => Ok(Absent::default()),
    }
}

/// What follows for a file that a scan did not find (`Missing`) or that is no longer selected (`Deselected`); None:
/// nothing new.
fn next_absence(
    before: Option<Absence>,
    since: Option<i64>,
    seen: Absence,
    settled: Timestamp,
    now: Timestamp,
) -> Option<Absence> {
    match (before, seen) {
        (Some(Absence::Gone), _) | (Some(Absence::Deselected), Absence::Deselected) => None,
        (_, Absence::Deselected) => Some(Absence::Deselected),
        (Some(Absence::Deselected), _) => Some(Absence::Gone),
        (Some(Absence::Missing), _) => {
            // A clock that was set back must not keep a file missing for ever.
            let confirmed = since.is_none_or(|at| at <= millis(settled) || at > millis(now));
            Some(if confirmed {
                Absence::Gone
            } else {
                Absence::Missing
            })
        }
        (None, _) => Some(Absence::Missing),
    }
}

/// Ends the file's failure or wait, but no upload or run that is under way.
async fn end(
    tx: &mut Transaction<'_, Sqlite>,
    file_id: i64,
    absence: Absence,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // A negative size equals no file, so whatever is found here later is new.
    let version: i64 = sqlx::query_scalar(
        "UPDATE files SET absence = $2, absent_since = COALESCE(absent_since, $3), size = -1 WHERE id = $1 \
         RETURNING version",
    )
    .bind(file_id)
    .bind(absence.as_str())
    .bind(millis(now))
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM jobs WHERE file_id = $1 AND (state IN ('due', 'failed') \
         OR (state = 'stored' AND (attempts > 0 OR run_attempts > 0 OR reason IS NOT NULL)))",
    )
    .bind(file_id)
    .execute(&mut **tx)
    .await?;
    let step = match absence {
        Absence::Deselected => Step::Deselected,
        Absence::Missing | Absence::Gone => Step::Gone,
    };
    note(tx, file_id, version, step, None, now).await
}

async fn forget_one(tx: &mut Transaction<'_, Sqlite>, file: FileId) -> Result<u64, sqlx::Error> {
    let row: Option<(i64, Vec<u8>, Option<String>)> = sqlx::query_as(
        "SELECT f.watch_id, f.dir, j.state FROM files f LEFT JOIN jobs j ON j.file_id = f.id WHERE f.id = $1",
    )
    .bind(file.0)
    .fetch_optional(&mut **tx)
    .await?;
    let Some((watch, dir, state)) = row else {
        return Ok(0);
    };
    if matches!(state.as_deref(), Some("uploading" | "running")) {
        return Ok(0);
    }
    for sql in [
        "DELETE FROM jobs WHERE file_id = $1",
        "DELETE FROM results WHERE file_id = $1",
        "DELETE FROM steps WHERE file_id = $1",
        "DELETE FROM files WHERE id = $1",
    ] {
        sqlx::query(sql).bind(file.0).execute(&mut **tx).await?;
    }
    forget_listing(tx, watch, &dir).await?;
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::Absence::{Deselected, Gone, Missing};
    use super::*;

    #[test]
    fn a_file_is_gone_when_two_scans_a_settle_time_apart_did_not_find_it() {
        let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
        let missed = |second: i64| Some(millis(at(second)));
        let (settled, now) = (at(50), at(60));
        for (before, since, seen, expected) in [
            (None, None, Missing, Some(Missing)),
            (Some(Missing), missed(55), Missing, Some(Missing)),
            (Some(Missing), missed(50), Missing, Some(Gone)),
            (Some(Missing), missed(10), Missing, Some(Gone)),
            // The clock was set back in between.
            (Some(Missing), missed(500), Missing, Some(Gone)),
            (Some(Gone), missed(10), Missing, None),
            (Some(Gone), missed(10), Deselected, None),
            (None, None, Deselected, Some(Deselected)),
            (Some(Missing), missed(55), Deselected, Some(Deselected)),
            (Some(Deselected), missed(10), Deselected, None),
            (Some(Deselected), missed(10), Missing, Some(Gone)),
        ] {
            assert_eq!(
                next_absence(before, since, seen, settled, now),
                expected,
                "{before:?} since {since:?}, seen {seen:?}"
            );
        }
    }
}
