//! Finds out whether a new file is a known one under a new name, so that its storage file and source file are kept.
//!
//! In: a new file, as it was opened. Out: the record of the old file with the new path and a job of its own, or
//! nothing.
//! Content decides: the old file has the same in storage, and is not there any more. That is no rename:
//!
//! - the old file is still there: a copy, or a program that saves by renaming the last version and writing a new one
//! - no scan has listed its folder without it: an event, or one look, proves nothing
//! - several files with this content are gone, and no path fits best
//!
//! The old file may be one of another watch, if that goes into the same iModel.
//!
//! It sends nothing: `relocation` gives the storage file its new name and folder, in the job of the moved record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::debug;

use super::Shared;
use super::error::UploadError;
use super::slots::Slot;
use super::source::{self, Source};
use super::tracked_job::TrackedJob;
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ledger::{BulkChange, Followed, Origin, WatchId};
use crate::next_attempt::after;

/// A file that was gone this long before the new one was complete was deleted, not renamed. Also the longest wait for
/// a scan that confirms a rename.
pub(crate) const WINDOW: Duration = Duration::from_hours(1);

/// The pause between two looks whether a scan has confirmed a rename is the settle time, within these limits.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A rename that was followed.
#[derive(Debug)]
pub(super) struct Rename {
    /// The path before.
    pub(super) from: PathBuf,
    pub(super) bulk_change: Option<BulkChange>,
}

/// What a new file is.
#[derive(Debug, PartialEq)]
enum Decision<'o> {
    /// None of the known ones.
    New,
    /// This one, under a new name.
    Renamed(&'o Origin),
    /// Probably this one; a scan has to confirm that it is gone.
    AwaitScan {
        origin: &'o Origin,
        until: Timestamp,
    },
}

/// When a decision is made.
#[derive(Debug, Clone, Copy)]
struct Times {
    settle: Duration,
    /// When the new file was handed over.
    enqueued: Timestamp,
    now: Timestamp,
}

impl Shared {
    /// Moves the record of the file that the job's file was before, if it was renamed. The job ends with that.
    ///
    /// `place` is the place in storage that belongs to the new path.
    ///
    /// # Errors
    /// [`UploadError::OriginUnconfirmed`] while a scan has to confirm that the old file is gone,
    /// [`UploadError::Predecessor`] while that is being uploaded or in a run.
    pub(super) async fn follow_rename(
        &self,
        watch: &Watch,
        slot: &Slot,
        job: &TrackedJob<'_>,
        source: &Source<'_>,
        place: &[u8; 16],
    ) -> Result<Option<Rename>, UploadError> {
        let bytes = source.fingerprint().size;
        if !self.ledger.may_be_renamed(job, bytes).await? {
            return Ok(None);
        }
        let content = source.hash().await?;
        source.rewind().await?;
        let window = SignedDuration::try_from(WINDOW + watch.settle_policy.settle);
        let window = window.unwrap_or(SignedDuration::MAX);
        let origins = self.ledger.origins(job, &content, window).await?;
        let gone = self.gone(slot, job, source, origins).await?;
        let now = crate::clock::now();
        let times = Times {
            settle: watch.settle_policy.settle,
            enqueued: job.enqueued_at,
            now,
        };
        let origin = match decide(&job.path, &gone, times) {
            Decision::New => return Ok(None),
            Decision::Renamed(origin) => origin,
            // Only the active host scans.
            Decision::AwaitScan { .. } if self.standby.is_some() => {
                return Err(UploadError::LeftToActive);
            }
            Decision::AwaitScan { origin, until } => {
                if origin.watch != job.watch
                    && origin.absent_since.is_none()
                    && job.last_reason.is_none()
                    && let Some(other) = self.watches.get(&origin.watch)
                {
                    // Its events may not have said that the file is gone.
                    let asked = self.live.rescan(std::slice::from_ref(&other.name));
                    debug!(watch = %watch.name, other = other.name, asked, "a file may have moved here from another watch");
                }
                return Err(UploadError::OriginUnconfirmed {
                    other: origin.path.clone(),
                    until,
                });
            }
        };
        let followed = self
            .ledger
            .follow_rename(job, origin.file, &content, place, now);
        match followed.await? {
            Followed::Moved(bulk_change) => {
                failpoint("rename followed");
                Ok(Some(Rename {
                    from: origin.path.clone(),
                    bulk_change,
                }))
            }
            Followed::AtWork => Err(UploadError::Predecessor {
                other: origin.path.clone(),
            }),
            Followed::Declined => Ok(None),
        }
    }
}

impl Shared {
    /// Those of the known files with the content of a new one that are not there. There may be many copies of a file:
    /// all of a watch are looked for in one request to the share.
    async fn gone(
        &self,
        slot: &Slot,
        job: &TrackedJob<'_>,
        source: &Source<'_>,
        origins: Vec<Origin>,
    ) -> Result<Vec<Origin>, UploadError> {
        let mut by_watch: BTreeMap<WatchId, Vec<Origin>> = BTreeMap::new();
        for origin in origins {
            by_watch.entry(origin.watch).or_default().push(origin);
        }
        let mut gone = Vec::new();
        for (watch, origins) in by_watch {
            let Some(root) = self.watches.get(&watch).map(|watch| &watch.path) else {
                continue;
            };
            let paths = origins.iter().map(|origin| origin.path.clone());
            let found = match source::gone(slot, root, paths.collect()).await {
                Ok(found) => found,
                // The share of another watch must not hold this one up: a scan there decides.
                Err(source::Error::Hangs | source::Error::Stuck) if watch != job.watch => {
                    vec![true; origins.len()]
                }
                Err(error) => return Err(error.into()),
            };
            for (origin, is_gone) in origins.into_iter().zip(found) {
                // A share that ignores case finds the file under both names.
                if is_gone
                    || (watch == job.watch
                        && origin.absent_since.is_some()
                        && differ_in_case_only(&origin.path, &job.path)
                        && is_same_file(slot, root, &origin.path, source).await?)
                {
                    gone.push(origin);
                }
            }
        }
        Ok(gone)
    }
}

/// Whether this path leads to the file that was opened.
async fn is_same_file(
    slot: &Slot,
    root: &Path,
    path: &Path,
    source: &Source<'_>,
) -> Result<bool, UploadError> {
    match Source::open(slot, root, path).await {
        Ok(other) => Ok(other.fingerprint() == source.fingerprint()),
        Err(error @ (source::Error::Hangs | source::Error::Stuck)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// Decides from the known files with the content of the new one that were not there when they were looked for.
fn decide<'o>(path: &Path, gone: &'o [Origin], times: Times) -> Decision<'o> {
    let Times {
        settle,
        enqueued,
        now,
    } = times;
    let latest = latest(gone, settle);
    let paths: Vec<&Path> = latest.iter().map(|origin| origin.path.as_path()).collect();
    let Some(origin) = most_similar(path, &paths).and_then(|at| latest.get(at).copied()) else {
        return Decision::New;
    };
    let confirmed = origin.absent_since.map(|since| after(since, settle));
    // A clock that was set back must not keep the file waiting.
    let is_ahead = origin.absent_since.is_some_and(|since| since > now);
    if is_ahead || confirmed.is_some_and(|at| at <= now) {
        return Decision::Renamed(origin);
    }
    if enqueued > now || now >= after(enqueued, WINDOW) {
        return Decision::New;
    }
    let until = confirmed.unwrap_or_else(|| after(now, settle.clamp(LOOK_MIN, LOOK_MAX)));
    Decision::AwaitScan { origin, until }
}

/// The files that went last, and those that went up to the settle time before: files that are moved together are missed
/// by one scan. One that went earlier was deleted, or a new file would have taken its record already.
fn latest(gone: &[Origin], settle: Duration) -> Vec<&Origin> {
    // The next scan misses a file that the last one found: nothing went later.
    let found_last = |origin: &&Origin| origin.absent_since.is_none();
    let last = match gone.iter().find(found_last) {
        Some(_) => None,
        None => gone.iter().filter_map(|origin| origin.absent_since).max(),
    };
    let is_latest = |origin: &&Origin| match (last, origin.absent_since) {
        (None, since) => since.is_none(),
        (Some(last), since) => since.is_none_or(|since| after(since, settle) >= last),
    };
    gone.iter().filter(is_latest).collect()
}

/// Which of several gone files with the content of a new one that was before: the one whose path ends like the new one
/// for most segments. If the name of none is the same, the one in the same folder. None if more than one fits.
pub(crate) fn most_similar(path: &Path, gone: &[&Path]) -> Option<usize> {
    let common = |other: &Path| {
        let segments = path.components().rev().zip(other.components().rev());
        segments.take_while(|(one, other)| one == other).count()
    };
    let most = gone.iter().map(|other| common(other)).max()?;
    let best = |other: &&Path| common(other) == most;
    if gone.iter().filter(|other| best(other)).count() == 1 {
        return gone.iter().position(best);
    }
    let near = |other: &&Path| most == 0 && other.parent() == path.parent();
    if gone.iter().filter(|other| near(other)).count() == 1 {
        return gone.iter().position(near);
    }
    None
}

fn differ_in_case_only(one: &Path, other: &Path) -> bool {
    one.to_string_lossy().to_lowercase() == other.to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{FileId, WatchId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn origin(path: &str, absent_since: Option<i64>) -> Origin {
        Origin {
            file: FileId::default(),
            watch: WatchId::for_test(1),
            path: path.into(),
            absent_since: absent_since.map(at),
        }
    }

    #[test]
    fn of_several_gone_files_the_one_with_the_most_similar_path_is_the_origin() {
        for (path, gone, expected) in [
            ("b.dgn", &["a.dgn"][..], Some("a.dgn")),
            ("b.dgn", &[], None),
            // The same name wins.
            ("new/a.dgn", &["old/a.dgn", "new/b.dgn"], Some("old/a.dgn")),
            // And of those, the one in a folder of the same name.
            (
                "new/x/a.dgn",
                &["old/x/a.dgn", "old/y/a.dgn"],
                Some("old/x/a.dgn"),
            ),
            ("new/a.dgn", &["old/a.dgn", "older/a.dgn"], None),
            // Else the same folder.
            ("x/c.dgn", &["x/a.dgn", "y/b.dgn"], Some("x/a.dgn")),
            ("x/c.dgn", &["x/a.dgn", "x/b.dgn"], None),
            ("x/c.dgn", &["y/a.dgn", "y/b.dgn"], None),
        ] {
            let paths: Vec<&Path> = gone.iter().map(Path::new).collect();
            let found = most_similar(Path::new(path), &paths).map(|at| gone[at]);
            assert_eq!(found, expected, "{path} of {gone:?}");
        }
    }

    #[test]
    fn a_file_that_went_earlier_is_not_the_origin() {
        // The settle time is 5 s.
        for (gone, expected) in [
            (
                &[("a.dgn", Some(0)), ("x/b.dgn", Some(60))][..],
                &["x/b.dgn"][..],
            ),
            // One scan may miss files of several folders over some time.
            (
                &[("a.dgn", Some(55)), ("x/b.dgn", Some(60))],
                &["a.dgn", "x/b.dgn"],
            ),
            (&[("a.dgn", Some(54)), ("x/b.dgn", Some(60))], &["x/b.dgn"]),
            // The next scan misses it.
            (&[("a.dgn", Some(60)), ("x/b.dgn", None)], &["x/b.dgn"]),
            (&[], &[]),
        ] {
            let gone: Vec<Origin> = gone
                .iter()
                .map(|(path, since)| origin(path, *since))
                .collect();
            let found = latest(&gone, Duration::from_secs(5));
            let found: Vec<_> = found
                .iter()
                .filter_map(|origin| origin.path.to_str())
                .collect();
            assert_eq!(found, expected, "{gone:?}");
        }
    }

    #[test]
    fn a_rename_counts_when_the_old_file_was_missing_for_the_settle_time() {
        let hour = 3600;
        // (absent since, enqueued, now): the settle time is 5 s.
        for (absent, enqueued, now, expected) in [
            (Some(0), 0, 5, Ok("renamed")),
            (Some(0), 0, 4, Err(5)),
            // No scan has missed it.
            (None, 0, 1, Err(6)),
            (None, 0, hour - 1, Err(hour + 4)),
            // And none does.
            (None, 0, hour, Ok("new")),
            // Missed long ago counts, whenever the new file came.
            (Some(0), hour, 2 * hour, Ok("renamed")),
            // The clock was set back.
            (Some(9), 9, 0, Ok("renamed")),
            (None, 9, 0, Ok("new")),
        ] {
            let gone = [origin("a.dgn", absent)];
            let times = Times {
                settle: Duration::from_secs(5),
                enqueued: at(enqueued),
                now: at(now),
            };
            let decision = match decide(Path::new("b.dgn"), &gone, times) {
                Decision::New => Ok("new"),
                Decision::Renamed(_) => Ok("renamed"),
                Decision::AwaitScan { until, .. } => Err(until),
            };
            assert_eq!(
                decision,
                expected.map_err(at),
                "{absent:?}, {enqueued}, {now}"
            );
        }
    }
}
