//! Decides when a file is complete: when it was seen unchanged for the settle time.
//!
//! Pure: every call is given the time. Only what was *seen* counts, never the times in a fingerprint, so neither a
//! clock that jumps nor a file with an old date can make a file look settled. Files of a set are complete together.
//!
//! A file that arrived by a rename, closed by whoever wrote it, rests for a moment only. Any event after the rename
//! ends that, and so does a loss of events: then it rests like any other.

mod sets;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Unfinished;
use crate::config::SettlePolicy;
use crate::ledger::Fingerprint;
use sets::{Member, Sets};

/// However many events come for a file, it is not probed more often than this while it settles.
const PROBE_GAP: Duration = Duration::from_secs(1);

/// How long a file rests that arrived by a rename: a program that writes on after it does so at once.
const ARRIVAL_REST: Duration = Duration::from_millis(1500);

/// More of them are forgotten: they rest like any other.
const ARRIVED_MAX: usize = 4096;

/// More of them are forgotten: should they change again at once, they wait for no more than the settle time.
const FINISHED_MAX: usize = 20_000;

/// A file that cannot be opened now is probed again after this time, doubling up to [`BUSY_MAX`].
const BUSY_FIRST: Duration = Duration::from_secs(2);
const BUSY_MAX: Duration = Duration::from_secs(30);

/// Files for which memory is kept while none settles.
const KEPT: usize = 1024;

/// The files of one root that are being written, or were until a moment ago.
#[derive(Debug)]
pub(super) struct Settling {
    policy: SettlePolicy,
    files: HashMap<Arc<Path>, Entry>,
    sets: Sets,
    /// Files that arrived by a rename after they were closed, and of which no event came since.
    arrived: HashSet<PathBuf>,
    /// When files were finished the last time, as long as that keeps them from being so again.
    finished: HashMap<PathBuf, Instant>,
    /// Times at which files are probed. May contain outdated times: an entry's own `probe_at` decides.
    queue: BinaryHeap<Reverse<(Instant, Arc<Path>)>>,
    /// Of all paths in `files`.
    bytes: usize,
    /// How many of `files` cannot be read.
    busy: usize,
}

/// Hundreds of thousands of these wait at a first start: no larger than necessary.
#[derive(Debug)]
struct Entry {
    seen: Seen,
    /// When it was seen for the first time since it was finished.
    first: Instant,
    probed: Instant,
    /// None while a probe is running, unless an event came meanwhile.
    probe_at: Option<Instant>,
}

/// The last look at a file.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// What was seen, and since when.
    File(Fingerprint, Instant),
    /// It could not be read; the pause after the next look that cannot.
    Busy(Duration),
}

impl Entry {
    fn is_busy(&self) -> bool {
        matches!(self.seen, Seen::Busy(_))
    }
}

/// One look at a file: when it began and ended, and what it saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observation {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) fingerprint: Fingerprint,
}

/// What follows from an observation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is probed again later.
    Wait,
    /// It is finished, just as this look saw it.
    Ready,
}

impl Settling {
    pub(super) fn new(policy: SettlePolicy) -> Self {
        Self {
            policy,
            files: HashMap::new(),
            sets: Sets::default(),
            arrived: HashSet::new(),
            finished: HashMap::new(),
            queue: BinaryHeap::new(),
            bytes: 0,
            busy: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all their paths.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them cannot be read.
    pub(super) fn busy_count(&self) -> usize {
        self.busy
    }

    /// Whether all that is left are files that could not be read for so long that waiting for them makes no sense, and
    /// complete files that wait for one of these.
    pub(super) fn is_stuck(&self) -> bool {
        let is_stuck = |(path, entry): (&Arc<Path>, &Entry)| {
            matches!(entry.seen, Seen::Busy(pause) if pause >= BUSY_MAX) || self.sets.waits(path)
        };
        self.files.iter().all(is_stuck)
    }

    /// The file at `path`, which is observed next, belongs to the set `key`: it is finished together with the others.
    pub(super) fn join_set(&mut self, path: &Path, key: PathBuf) {
        self.sets.join(path, key);
    }

    /// Files that are settling, for status: one, or some of them.
    pub(super) fn unfinished(
        &self,
        only: Option<&Path>,
        most: usize,
        now: Instant,
    ) -> Vec<Unfinished> {
        let shown = |(path, entry): (&Arc<Path>, &Entry)| Unfinished {
            path: path.to_string_lossy().into_owned(),
            busy: entry.is_busy(),
            reason: None,
            hint: None,
            unreadable_ms: 0,
            unchanged_ms: match entry.seen {
                Seen::File(_, since) => whole_millis(now, since),
                Seen::Busy(_) => 0,
            },
            next_look_ms: entry.probe_at.map_or(0, |at| whole_millis(at, now)),
        };
        match only {
            Some(path) => self
                .files
                .get_key_value(path)
                .map(shown)
                .into_iter()
                .collect(),
            None => self.files.iter().take(most).map(shown).collect(),
        }
    }

    /// Takes in an observation. The first and the last of an unbroken row of equal observations must be the settle time
    /// apart.
    pub(super) fn observe(&mut self, path: &Path, observation: Observation) -> Step {
        let since = match self.files.get(path).map(|entry| entry.seen) {
            Some(Seen::File(fingerprint, since)) if fingerprint == observation.fingerprint => since,
            _ => observation.ended,
        };
        let seen = Seen::File(observation.fingerprint, since);
        let rest = self.rest(path, observation.began);
        let mut next = since + rest;
        if observation.began.saturating_duration_since(since) >= rest && since != observation.ended
        {
            next = match self.finished.get(path) {
                Some(last) => *last + self.policy.upload_interval,
                None => observation.began,
            };
            if next <= observation.began && self.sets.is_awaited(path) {
                self.sets.mark(path, Member::Complete);
                let next = observation.began + PROBE_GAP.min(self.policy.settle);
                self.wait(path, seen, observation.ended, next);
                return Step::Wait;
            }
            if next <= observation.began {
                self.probe_rest_of_set(path, observation.ended);
                self.forget(path);
                self.arrived.remove(path);
                self.finish(path, observation.ended);
                return Step::Ready;
            }
        }
        self.sets.mark(path, Member::Settling);
        self.wait(path, seen, observation.ended, next);
        Step::Wait
    }

    /// The last file of a set is complete: the others are finished by the next look at them.
    fn probe_rest_of_set(&mut self, path: &Path, now: Instant) {
        let others = self.sets.others(path).map(|(other, _)| other.to_owned());
        for other in others.collect::<Vec<_>>() {
            self.probe_at(&other, now);
        }
    }

    /// How long a file must rest to count as finished.
    fn rest(&self, path: &Path, now: Instant) -> Duration {
        let changing = self
            .files
            .get(path)
            .map(|entry| now.saturating_duration_since(entry.first));
        match (self.policy.max_wait, changing) {
            (Some(max), Some(changing)) if changing >= max => self.policy.settle.min(PROBE_GAP),
            // The other files of a set may arrive later.
            _ if self.arrived.contains(path) && !self.sets.has(path) => {
                self.policy.settle.min(ARRIVAL_REST)
            }
            _ => self.policy.settle,
        }
    }

    fn finish(&mut self, path: &Path, now: Instant) {
        let interval = self.policy.upload_interval;
        if interval.is_zero() {
            return;
        }
        if self.finished.len().is_multiple_of(1024) {
            self.finished
                .retain(|_, last| now.saturating_duration_since(*last) < interval);
        }
        if self.finished.len() >= FINISHED_MAX {
            self.finished.clear();
        }
        self.finished.insert(path.to_owned(), now);
    }

    /// The file exists but cannot be read now. Returns whether that is new.
    pub(super) fn busy(&mut self, path: &Path, now: Instant) -> bool {
        let known = match self.files.get(path).map(|entry| entry.seen) {
            Some(Seen::Busy(pause)) => Some(pause),
            _ => None,
        };
        let pause = known.unwrap_or(BUSY_FIRST);
        self.sets.mark(path, Member::Settling);
        let seen = Seen::Busy((pause * 2).min(BUSY_MAX));
        self.wait(path, seen, now, now + pause);
        known.is_none()
    }

    /// An event reported a change of the file. Returns false when the file is not known here, so that
    /// it has to be probed for the first time.
    pub(super) fn touch(&mut self, path: &Path, now: Instant) -> bool {
        self.arrived.remove(path);
        let Some(entry) = self.files.get(path) else {
            return false;
        };
        let soonest = now.max(entry.probed + PROBE_GAP.min(self.policy.settle));
        self.probe_at(path, soonest);
        true
    }

    /// When the reply of a probe arrives: whether an event came for the file meanwhile. The probe may have been before
    /// that change.
    pub(super) fn is_touched(&self, path: &Path) -> bool {
        self.files
            .get(path)
            .is_some_and(|entry| entry.probe_at.is_some())
    }

    /// The path, which is probed next, got its file by a rename after the file was closed. That is so until an event
    /// says otherwise: a look that began before may still find nothing.
    pub(super) fn arrive(&mut self, path: &Path) {
        if self.arrived.len() >= ARRIVED_MAX {
            self.arrived.clear();
        }
        self.arrived.insert(path.to_owned());
    }

    /// Events were lost: any file that arrived may be written again.
    pub(super) fn distrust_arrivals(&mut self) {
        self.arrived.clear();
    }

    /// The file is gone, or turned out to be as it is known.
    pub(super) fn forget(&mut self, path: &Path) {
        self.sets.leave(path);
        if let Some(entry) = self.files.remove(path) {
            self.bytes -= path.as_os_str().len();
            self.busy -= usize::from(entry.is_busy());
            if self.files.is_empty() {
                // What the files of a first start needed.
                self.files.shrink_to(KEPT);
                self.queue.shrink_to(KEPT);
            }
        }
    }

    /// Takes up to `most` files whose time to be probed has come.
    pub(super) fn take_due(&mut self, now: Instant, most: usize) -> Vec<PathBuf> {
        let mut due = Vec::new();
        while due.len() < most && self.queue.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, path))) = self.queue.pop() else {
                break;
            };
            if let Some(entry) = self
                .files
                .get_mut(&path)
                .filter(|entry| entry.probe_at == Some(at))
            {
                entry.probe_at = None;
                due.push(path.to_path_buf());
            }
        }
        due
    }

    /// When the next file is probed. May be too early, never too late.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Probes a file at this time, if that is sooner than it would be. The running probe does not count.
    fn probe_at(&mut self, path: &Path, at: Instant) {
        let Some((known, entry)) = self.files.get_key_value(path) else {
            return;
        };
        if entry.probe_at.is_none_or(|planned| planned > at) {
            self.queue.push(Reverse((at, Arc::clone(known))));
            if let Some(entry) = self.files.get_mut(path) {
                entry.probe_at = Some(at);
            }
        }
    }

    fn wait(&mut self, path: &Path, seen: Seen, probed: Instant, probe_at: Instant) {
        let known = self.files.get_key_value(path);
        let entry = Entry {
            seen,
            first: known.map_or(probed, |(_, known)| known.first),
            probed,
            probe_at: Some(probe_at),
        };
        let path = match known {
            Some((path, known)) => {
                self.busy -= usize::from(known.is_busy());
                Arc::clone(path)
            }
            None => {
                self.bytes += path.as_os_str().len();
                path.into()
            }
        };
        self.busy += usize::from(entry.is_busy());
        self.queue.push(Reverse((probe_at, Arc::clone(&path))));
        self.files.insert(path, entry);
    }
}

fn whole_millis(later: Instant, earlier: Instant) -> u64 {
    u64::try_from(later.saturating_duration_since(earlier).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
