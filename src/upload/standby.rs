//! What a standby leaves to the other hosts.
//!
//! A standby uploads as the active host does, for watches whose settings are the same there. Some failures are those of
//! the host, not of the file: it does not see a file as it was handed over, its share does not answer, or it cannot
//! reach the platform. Such a job goes back untouched, so that another host takes it, and this one skips the file, the
//! watch or all work for a while: no job is passed around without end. What needs one host that decides is left
//! to the active one: claims on storage folders, files that take over the place of deleted ones, scans that confirm
//! that a file was renamed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::LARGE;
use super::Shared;
use super::error::{Unfit, UploadError};
use super::slots::Slot;
use super::source;
use crate::bandwidth;
use crate::config::Watch;
use crate::ledger::{self, FileId, UploadJob, WatchId};
use crate::names::QuotedPath;
use crate::retry::{Class, Policy};

/// For how long a file is left to other hosts that this one does not see as it was handed over.
const FILE_PAUSE: Duration = Duration::from_mins(5);

/// For how long a watch is: its share does not answer, or several files in a row were not as they were handed over.
const WATCH_PAUSE: Duration = Duration::from_mins(1);

/// For how long a watch is for which the active host has to do something first.
const TURN_PAUSE: Duration = Duration::from_secs(1);

/// Three files in a row that are not as they were handed over are no coincidence.
const IN_A_ROW: u32 = 3;

/// What is skipped for a while.
#[derive(Debug, Default)]
pub(super) struct Aside(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    files: HashMap<FileId, (WatchId, Instant)>,
    watches: HashMap<WatchId, Instant>,
    /// Files that could not be read, in a row.
    misses: HashMap<WatchId, u32>,
    /// All work, until then.
    host: Option<Instant>,
    /// Failures of this host in a row.
    failures: u32,
}

/// Whom a failure concerns, if it is not the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// The file as this host sees it.
    File,
    /// The watch on this host.
    Watch,
    /// The watch, until the active host has done something.
    Turn,
    /// The way of this host to the platform.
    Host,
}

/// Whether a failure of a standby says nothing about the file. Pure.
pub(super) fn concern(error: &UploadError) -> Option<Concern> {
    let of_platform = |error: &crate::itwin::Error| match error.class() {
        Class::Credentials | Class::AwaitsUser => Some(Concern::Host),
        Class::Transient { .. } if error.status().is_none() => Some(Concern::Host),
        _ => None,
    };
    match error {
        UploadError::Source(
            source::Error::Gone | source::Error::Changed | source::Error::Unreadable(_),
        )
        | UploadError::Unfit(Unfit::NotSettled) => Some(Concern::File),
        UploadError::Source(source::Error::Hangs | source::Error::Stuck) => Some(Concern::Watch),
        UploadError::LeftToActive
        | UploadError::OtherLedger(_)
        | UploadError::TakingOver { .. }
        | UploadError::SharedFolder { .. } => Some(Concern::Turn),
        UploadError::Platform(error)
        | UploadError::CreateUnknown {
            error: Some(error), ..
        } => of_platform(error),
        _ => None,
    }
}

impl Aside {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job to other hosts. Returns for how long its watch or all work is skipped.
    fn leave(&self, job: &UploadJob, concern: Concern, policy: &Policy) -> Option<Duration> {
        let now = Instant::now();
        let mut table = self.table();
        if concern != Concern::Host {
            table.files.insert(job.file, (job.watch, now + FILE_PAUSE));
        }
        match concern {
            Concern::File => {
                let misses = table.misses.entry(job.watch).or_default();
                *misses += 1;
                if *misses < IN_A_ROW {
                    return None;
                }
                table.watches.insert(job.watch, now + WATCH_PAUSE);
                Some(WATCH_PAUSE)
            }
            Concern::Watch | Concern::Turn => {
                let pause = if concern == Concern::Watch {
                    WATCH_PAUSE
                } else {
                    TURN_PAUSE
                };
                table.watches.insert(job.watch, now + pause);
                Some(pause)
            }
            Concern::Host => {
                table.failures = table.failures.saturating_add(1);
                let pause = policy.delay(table.failures, None);
                table.host = Some(now + pause);
                Some(pause)
            }
        }
    }

    /// A job ended as it would on any host.
    fn done(&self, watch: WatchId) {
        let mut table = self.table();
        table.misses.remove(&watch);
        table.failures = 0;
    }

    fn is_paused(&self) -> bool {
        self.table()
            .host
            .is_some_and(|until| Instant::now() < until)
    }

    /// The watches that are skipped now.
    fn watches(&self) -> HashSet<WatchId> {
        let now = Instant::now();
        let mut table = self.table();
        table.watches.retain(|_, until| now < *until);
        table.files.retain(|_, (_, until)| now < *until);
        table.watches.keys().copied().collect()
    }

    /// The files of a watch that are skipped.
    fn files(&self, watch: WatchId) -> Vec<FileId> {
        let table = self.table();
        let files = table.files.iter().filter(|(_, (of, _))| *of == watch);
        files.map(|(file, _)| *file).collect()
    }
}

impl Shared {
    /// Takes the next job that a standby may upload, and a slot for it, if both are free.
    pub(super) async fn claim_as_standby(
        &self,
        aside: &Aside,
        now: jiff::Timestamp,
    ) -> Result<Option<(UploadJob, Slot)>, ledger::Error> {
        let workers = self.limits.workers;
        let busy = self.slots.busy();
        let paused = bandwidth::pause_end(&self.limits.rate, now, &TimeZone::system());
        if busy.all >= workers || aside.is_paused() || paused.is_some() {
            return Ok(None);
        }
        let most = (workers > 1 && busy.large + 1 >= workers).then_some(LARGE);
        let left: HashSet<WatchId> = aside.watches();
        let silent: HashSet<WatchId> = self.note_silent_shares().into_iter().collect();
        let due = self.ledger.due_watches(now).await?;
        if due.is_empty() {
            return Ok(None);
        }
        let closed = self.closed_windows(now).await?;
        for id in self.slots.order(due) {
            let Some(watch) = self.watches.get(&id) else {
                continue;
            };
            if left.contains(&id) || silent.contains(&id) || closed.contains(&id) {
                continue;
            }
            let (settings, except) = (watch.digest(), aside.files(id));
            let claimed = self
                .ledger
                .claim_upload_beside(id, &settings, &except, most, now);
            if let Some(job) = claimed.await? {
                return Ok(Some(self.with_slot(job)));
            }
        }
        Ok(None)
    }

    /// The watches whose share does not answer this host. Others may see it.
    fn note_silent_shares(&self) -> Vec<WatchId> {
        let name = |id| self.watches.get(&id).map_or("", |watch| &watch.name);
        self.slots.released();
        for watch in self.slots.recovered() {
            info!(watch = name(watch), "the share answers again");
        }
        let silent = self.slots.silent().into_iter();
        let silent = silent.inspect(|share| {
            if share.is_new {
                warn!(
                    watch = name(share.watch),
                    reason = share.what,
                    hint = "check the file server and the mount; other hosts and watches are not affected",
                    "this host uploads nothing of this watch: its share does not answer"
                );
            }
        });
        silent.map(|share| share.watch).collect()
    }

    /// Gives a job back if its failure is one of this host.
    pub(super) async fn leave_to_others(
        &self,
        aside: &Aside,
        watch: &Watch,
        job: &UploadJob,
        error: &UploadError,
    ) -> Result<bool, ledger::Error> {
        let Some(concern) = concern(error) else {
            aside.done(job.watch);
            return Ok(false);
        };
        self.ledger.unclaim(job).await?;
        let pause = aside.leave(job, concern, &self.policy);
        let (path, reason) = (QuotedPath(&job.path), error.to_string());
        match pause {
            Some(pause) if concern != Concern::Turn => warn!(
                watch = %watch.name, %path, reason, seconds = pause.as_secs(), hint = error.hint(),
                "left to other hosts; this one pauses"
            ),
            _ => debug!(watch = %watch.name, %path, reason, "left to other hosts"),
        }
        Ok(true)
    }

    /// A job ended.
    pub(super) fn note_success(&self, job: &UploadJob) {
        if let Some(aside) = &self.standby {
            aside.done(job.watch);
        }
    }

    /// Makes sure that the storage folder of a watch belongs to this ledger and to this watch. If something has to be
    /// done for that, the active host does it.
    pub(super) async fn check_place(&self, id: WatchId, watch: &Watch) -> Result<(), UploadError> {
        for other in self.watches.values() {
            let same = other.name != watch.name
                && other.follows.is_none()
                && other.storage_folder == watch.storage_folder;
            if same
                && self
                    .folders
                    .share_storage(&watch.imodel_id, &other.imodel_id)
                    .await?
            {
                let other = other.name.clone();
                return Err(UploadError::SharedFolder { other });
            }
        }
        if watch.is_exclusive && !self.is_claimed(id, watch).await? {
            return Err(UploadError::LeftToActive);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_another_host_may_see_otherwise_says_nothing_about_the_file() {
        let unreadable = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        for (error, expected) in [
            (source::Error::Gone.into(), Some(Concern::File)),
            (source::Error::Changed.into(), Some(Concern::File)),
            (
                source::Error::Unreadable(Arc::new(unreadable)).into(),
                Some(Concern::File),
            ),
            (Unfit::NotSettled.into(), Some(Concern::File)),
            (source::Error::Hangs.into(), Some(Concern::Watch)),
            (source::Error::Stuck.into(), Some(Concern::Watch)),
            (UploadError::LeftToActive, Some(Concern::Turn)),
            (
                crate::itwin::unreachable_platform().into(),
                Some(Concern::Host),
            ),
            (Unfit::Empty.into(), None),
            (UploadError::Locked, None),
            (
                UploadError::NameConflict {
                    other: PathBuf::from("a"),
                },
                None,
            ),
        ] {
            let error: UploadError = error;
            assert_eq!(concern(&error), expected, "{error}");
        }
    }
}
