//! Files that a scan no longer finds: first missing, then gone.
//!
//! Only complete listings of a folder lead here, never an event. What storage and the iModel have of such a file stays;
//! its open job ends, so that no failure outlives its file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::history::{Step, note};
use super::row::split;
use super::scan_digests::forget_listing;
use super::sets::judge_main_files_again;
use super::{Absence, Error, Ledger, Tx, UploadJob, WatchId, millis, sql};

/// Rows that are changed in one transaction, so that many of them do not delay other transactions.
pub(super) const AT_ONCE: usize = 500;

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
        let mut absent = Absent::default();
        for chunk in files.chunks(AT_ONCE) {
            absent += self
                .db
                .write("record files that are gone", async |tx| {
                    let mut absent = Absent::default();
                    for (name, absence) in chunk {
                        absent +=
                            record_one(tx, (watch, dir, name), *absence, settled, now).await?;
                    }
                    if absent != Absent::default() {
                        forget_listing(tx, watch.0, dir.as_os_str().as_bytes()).await?;
                    }
                    Ok(absent)
                })
                .await?;
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
        for chunk in names.chunks(AT_ONCE) {
            self.db
                .write("record files that are back", async |tx| {
                    for name in chunk {
                        let found: Option<i64> = sql::query_scalar(
                            "UPDATE files SET absence = NULL, absent_since = NULL \
                             WHERE watch_id = $1 AND dir = $2 AND name = $3 AND absence = $4 \
                             RETURNING id",
                        )
                        .bind(watch.0)
                        .bind(dir.as_os_str().as_bytes())
                        .bind(name.as_bytes())
                        .bind(Absence::Missing)
                        .fetch_optional(tx)
                        .await?;
                        if let Some(file) = found {
                            judge_main_files_again(tx, file, crate::clock::now()).await?;
                        }
                    }
                    forget_listing(tx, watch.0, dir.as_os_str().as_bytes()).await?;
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    /// An upload worker found that the configuration no longer selects the file of its job.
    pub async fn finish_deselected(&self, job: &UploadJob, now: Timestamp) -> Result<(), Error> {
        self.db
            .write("record a file that is no longer selected", async |tx| {
                end(tx, job.file.0, Absence::Deselected, now).await?;
                sql::query("DELETE FROM jobs WHERE file_id = $1")
                    .bind(job.file.0)
                    .execute(tx)
                    .await?;
                forget_listing(tx, job.watch.0, split(&job.path).0).await?;
                Ok(())
            })
            .await
    }
}

async fn record_one(
    tx: &mut Tx,
    (watch, dir, name): (WatchId, &Path, &OsStr),
    absence: Absence,
    settled: Timestamp,
    now: Timestamp,
) -> Result<Absent, sqlx::Error> {
    let known: Option<(i64, Option<Absence>, Option<i64>)> = sql::query_as(
        "SELECT id, absence, absent_since FROM files WHERE watch_id = $1 AND dir = $2 \
         AND name = $3",
    )
    .bind(watch.0)
    .bind(dir.as_os_str().as_bytes())
    .bind(name.as_bytes())
    .fetch_optional(tx)
    .await?;
    let Some((file_id, before, since)) = known else {
        return Ok(Absent::default());
    };
    match next_absence(before, since, absence, settled, now) {
        Some(Absence::Missing) => {
            if before.is_none() {
                sql::query("UPDATE files SET absence = $2, absent_since = $3 WHERE id = $1")
                    .bind(file_id)
                    .bind(Absence::Missing)
                    .bind(millis(now))
                    .execute(tx)
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
            // A clock that was set back must not keep a file missing without end.
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

/// Ends the file's failure or wait, but no upload or run in progress.
async fn end(
    tx: &mut Tx,
    file_id: i64,
    absence: Absence,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // Whatever is found under its name later is new.
    let version: i64 = sql::query_scalar(
        "UPDATE files SET absence = $2, absent_since = COALESCE(absent_since, $3), known = 0, \
         size = 0, withdrawal = NULLIF(withdrawal, 'unmapping') WHERE id = $1 RETURNING version",
    )
    .bind(file_id)
    .bind(absence)
    .bind(millis(now))
    .fetch_one(tx)
    .await?;
    sql::query(
        "DELETE FROM jobs WHERE file_id = $1 AND (state IN ('due', 'failed') \
         OR (state = 'stored' AND (attempts > 0 OR run_attempts > 0 OR reason IS NOT NULL)))",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    judge_main_files_again(tx, file_id, now).await?;
    let step = match absence {
        Absence::Deselected => Step::Deselected,
        Absence::Missing | Absence::Gone => Step::Gone,
    };
    note(tx, file_id, version, step, None, now).await
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
