//! Distributes the upload slots over the watches, and takes them back from uploads whose share hangs.
//!
//! A free slot goes to the watch that uses the fewest, so a watch without work lends its slots out. An upload that
//! waits for its share longer than [`STALL`] gives its slot back until the share answers. One that waits longer than
//! [`ANSWER_MAX`](super::source) is abandoned, and only its thread stays behind. A watch with several such threads gets
//! no new ones before one of them has returned.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::reading_threads::ReadingThreads;
use crate::ledger::WatchId;
use crate::names::QuotedPath;

/// An upload that has waited this long for its share gives its slot and its buffer back until the share answers.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// Threads of one watch that may wait for a share after their upload gave up; with more, uploads of the watch wait.
const STUCK_MAX: usize = 4;

/// The same for all watches together: from here on one such thread is enough.
const STUCK_MAX_ALL: usize = 64;

/// The slots. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    changed: Notify,
    reading_threads: ReadingThreads,
}

#[derive(Debug, Default)]
struct Table {
    watches: HashMap<WatchId, Use>,
    next: u64,
}

/// What one watch uses.
#[derive(Debug, Default)]
struct Use {
    /// Uploads in hand.
    uploads: usize,
    /// Of them, those that wait for the share, by a number of their own.
    waiting: HashMap<u64, Waiting>,
    /// Threads that read for this watch.
    threads: HashMap<u64, Reading>,
    /// Uploads in hand of large files that do not wait for the share.
    large: usize,
    /// The log says that the share does not answer.
    reported: bool,
    /// The uploads of the watch are paused for this reason.
    paused: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    since: Instant,
}

#[derive(Debug)]
struct Reading {
    path: PathBuf,
    /// Since when its upload has given up.
    stuck: Option<Instant>,
}

/// The slot of one upload; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    watch: WatchId,
    large: bool,
}

/// A slot is lent out while its upload waits for the share.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    slot: &'a Slot,
    key: u64,
}

/// Belongs to a thread that reads, and ends with it.
#[derive(Debug)]
pub(super) struct Thread {
    slots: Slots,
    watch: WatchId,
    key: u64,
}

/// A thread as its asker sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadKey(u64);

/// No thread may be started: earlier ones still wait for the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck;

/// Slots in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) all: usize,
    pub(super) large: usize,
}

/// A share that does not answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) watch: WatchId,
    pub(super) what: String,
    /// The log does not say it yet.
    pub(super) is_new: bool,
}

impl Slots {
    /// Takes a slot for an upload.
    pub(super) fn take(&self, watch: WatchId, large: bool) -> Slot {
        let mut table = self.table();
        let used = table.watches.entry(watch).or_default();
        used.uploads += 1;
        used.large += usize::from(large);
        Slot {
            slots: self.clone(),
            watch,
            large,
        }
    }

    /// How many slots are in use, without those of uploads that wait for their share.
    pub(super) fn busy(&self) -> Busy {
        let table = self.table();
        let each = table.watches.values();
        Busy {
            all: each
                .clone()
                .map(|used| used.uploads - used.waiting.len())
                .sum(),
            large: each.map(|used| used.large).sum(),
        }
    }

    /// Watches whose turn it is, in this order: those that use the fewest slots first, then by how long they wait.
    pub(super) fn order(&self, mut due: Vec<(WatchId, Timestamp)>) -> Vec<WatchId> {
        let table = self.table();
        let limit = table.stuck_max();
        let used = |watch: WatchId| {
            let used = table.watches.get(&watch);
            used.map_or((0, 0), |used| (used.uploads, used.stuck()))
        };
        // What is in hand may get stuck as well.
        due.retain(|(watch, _)| match used(*watch) {
            (_, 0) => true,
            (uploads, stuck) => uploads + stuck < limit,
        });
        due.sort_by_key(|(watch, since)| (used(*watch).0, *since));
        due.into_iter().map(|(watch, _)| watch).collect()
    }

    /// Whether no watch uses a slot or has a thread that is stuck, so that there is nothing to share out.
    pub(super) fn is_idle(&self) -> bool {
        let table = self.table();
        let mut used = table.watches.values();
        used.all(|used| used.uploads == 0 && used.stuck() == 0)
    }

    /// Shares that do not answer now.
    pub(super) fn silent(&self) -> Vec<Silent> {
        let mut table = self.table();
        let limit = table.stuck_max();
        let mut silent = Vec::new();
        for (watch, used) in &mut table.watches {
            let Some(what) = used.silence(limit) else {
                continue;
            };
            let is_new = !std::mem::replace(&mut used.reported, true);
            used.paused = Some(what.clone());
            silent.push(Silent {
                watch: *watch,
                what,
                is_new,
            });
        }
        silent
    }

    /// Watches that need not be paused any more, and the reason for which they were; each is named once.
    pub(super) fn released(&self) -> Vec<(WatchId, String)> {
        let mut table = self.table();
        let limit = table.stuck_max();
        let mut released = Vec::new();
        for (watch, used) in &mut table.watches {
            if used.paused.is_some() && used.silence(limit).is_none() {
                released.extend(used.paused.take().map(|reason| (*watch, reason)));
            }
        }
        released
    }

    /// Watches whose share answers again; each is named once.
    pub(super) fn recovered(&self) -> Vec<WatchId> {
        let mut table = self.table();
        let mut recovered = Vec::new();
        for (watch, used) in &mut table.watches {
            if used.reported && used.waiting.is_empty() && used.stuck() == 0 {
                used.reported = false;
                recovered.push(*watch);
            }
        }
        recovered
    }

    /// Waits until a slot is given back, lent out or taken up again, or a thread ends that was stuck.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// How many threads of a watch may be stuck before its uploads wait.
    fn stuck_max(&self) -> usize {
        let all: usize = self.watches.values().map(Use::stuck).sum();
        if all >= STUCK_MAX_ALL { 1 } else { STUCK_MAX }
    }

    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Use {
    fn stuck(&self) -> usize {
        let stuck = self.threads.values().filter(|one| one.stuck.is_some());
        stuck.count()
    }

    /// Why uploads of this watch wait; None if they need not.
    fn silence(&self, limit: usize) -> Option<String> {
        let longest = self.waiting.values().min_by_key(|one| one.since);
        if let Some(Waiting { path, since }) = longest {
            let seconds = (since.elapsed() + STALL).as_secs();
            return Some(format!(
                "the share has not answered a read of {} for {seconds} s",
                QuotedPath(path)
            ));
        }
        let stuck = self.stuck();
        if stuck < limit {
            return None;
        }
        let first = self
            .threads
            .values()
            .filter_map(|one| Some((one.stuck?, &one.path)))
            .min();
        let (since, path) = first?;
        Some(format!(
            "the share has not answered {stuck} reads, of {} for {} s; uploads of this watch wait until it does",
            QuotedPath(path),
            since.elapsed().as_secs()
        ))
    }
}

impl Slot {
    pub(super) fn watch(&self) -> WatchId {
        self.watch
    }

    /// Whether no other watch uses a slot.
    pub(super) fn is_alone(&self) -> bool {
        let table = self.slots.table();
        let mut others = table
            .watches
            .iter()
            .filter(|(watch, _)| **watch != self.watch);
        others.all(|(_, used)| used.uploads == 0)
    }

    /// Lends the slot out: its upload waits for the share.
    pub(super) fn lend(&self, path: &Path) -> Lent<'_> {
        let mut table = self.slots.table();
        let key = table.key();
        if let Some(used) = table.watches.get_mut(&self.watch) {
            let waiting = Waiting {
                path: path.to_owned(),
                since: Instant::now(),
            };
            used.waiting.insert(key, waiting);
            used.large -= usize::from(self.large);
        }
        drop(table);
        self.slots.0.changed.notify_one();
        Lent { slot: self, key }
    }

    /// The threads that read.
    pub(super) fn reading_threads(&self) -> &ReadingThreads {
        &self.slots.0.reading_threads
    }

    /// Counts a thread that is about to read this file.
    pub(super) fn thread(&self, path: &Path) -> Result<(Thread, ThreadKey), Stuck> {
        let mut table = self.slots.table();
        let limit = table.stuck_max();
        let key = table.key();
        let used = table.watches.entry(self.watch).or_default();
        let mut threads = used.threads.values();
        if used.stuck() >= limit || threads.any(|one| one.stuck.is_some() && one.path == path) {
            return Err(Stuck);
        }
        let reading = Reading {
            path: path.to_owned(),
            stuck: None,
        };
        used.threads.insert(key, reading);
        let thread = Thread {
            slots: self.slots.clone(),
            watch: self.watch,
            key,
        };
        Ok((thread, ThreadKey(key)))
    }

    /// The upload has given up waiting for this thread.
    pub(super) fn abandon(&self, thread: ThreadKey) {
        let mut table = self.slots.table();
        if let Some(used) = table.watches.get_mut(&self.watch)
            && let Some(reading) = used.threads.get_mut(&thread.0)
        {
            reading.stuck = Some(Instant::now());
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(used) = self.slots.table().watches.get_mut(&self.watch) {
            used.uploads -= 1;
            used.large -= usize::from(self.large);
        }
        self.slots.0.changed.notify_one();
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(used) = self.slot.slots.table().watches.get_mut(&self.slot.watch) {
            used.waiting.remove(&self.key);
            used.large += usize::from(self.slot.large);
        }
        self.slot.slots.0.changed.notify_one();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let ended = match self.slots.table().watches.get_mut(&self.watch) {
            Some(used) => used.threads.remove(&self.key),
            None => None,
        };
        if ended.is_some_and(|reading| reading.stuck.is_some()) {
            self.slots.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(watches: &[WatchId]) -> Vec<(WatchId, Timestamp)> {
        let at = |second: usize| {
            Timestamp::from_second(i64::try_from(second).unwrap_or(0)).unwrap_or_default()
        };
        let each = watches.iter().enumerate();
        each.map(|(second, watch)| (*watch, at(second))).collect()
    }

    fn ids<const N: usize>() -> [WatchId; N] {
        std::array::from_fn(|id| WatchId::for_test(i64::try_from(id).unwrap_or(0)))
    }

    #[tokio::test]
    async fn a_free_slot_goes_to_the_watch_that_uses_the_fewest() {
        let slots = Slots::default();
        let [a, b, c] = ids();
        assert_eq!(slots.order(due(&[a, b, c])), [a, b, c]);
        let one = slots.take(a, false);
        assert_eq!(slots.order(due(&[a, b, c])), [b, c, a]);
        let _two = slots.take(b, false);
        assert_eq!(slots.order(due(&[a, b, c])), [c, a, b]);
        // Without work elsewhere one watch may have all of them.
        assert_eq!(slots.order(due(&[b])), [b]);
        assert!(!one.is_alone());
        drop(one);
        assert_eq!(slots.order(due(&[a, b, c])), [a, c, b]);
    }

    #[tokio::test]
    async fn an_upload_that_waits_for_its_share_uses_no_slot_until_it_is_answered() {
        let slots = Slots::default();
        let [a] = ids();
        let slot = slots.take(a, true);
        assert_eq!(slots.busy(), Busy { all: 1, large: 1 });
        let lent = slot.lend(Path::new("a.dgn"));
        assert_eq!(slots.busy(), Busy { all: 0, large: 0 });
        let silent = slots.silent();
        assert!(silent[0].what.contains("a.dgn"), "{silent:?}");
        assert!(silent[0].is_new && !slots.silent()[0].is_new);
        assert!(slots.recovered().is_empty());
        drop(lent);
        assert_eq!(slots.busy(), Busy { all: 1, large: 1 });
        assert!(slots.silent().is_empty());
        assert_eq!(slots.released()[0].0, a);
        assert!(slots.released().is_empty());
        assert_eq!((slots.recovered(), slots.recovered()), (vec![a], vec![]));
        drop(slot);
        assert_eq!(slots.busy(), Busy { all: 0, large: 0 });
    }

    #[tokio::test]
    async fn a_share_gets_no_more_threads_while_several_are_stuck_and_no_file_a_second_one() {
        let slots = Slots::default();
        let [a, b] = ids();
        let slot = slots.take(a, false);
        let path = |number: usize| PathBuf::from(number.to_string());
        let mut threads = Vec::new();
        for number in 0..STUCK_MAX {
            let may_begin = number == 0 || number + 1 < STUCK_MAX;
            assert_eq!(slots.order(due(&[a, b])).contains(&a), may_begin);
            let (thread, key) = slot.thread(&path(number)).unwrap();
            slot.abandon(key);
            assert_eq!(slot.thread(&path(number)).unwrap_err(), Stuck);
            threads.push(thread);
        }
        assert_eq!(slots.order(due(&[a, b])), [b]);
        assert_eq!(slot.thread(&path(99)).unwrap_err(), Stuck);
        assert!(slots.silent()[0].what.contains("4 reads"));
        assert!(slots.take(b, false).thread(&path(0)).is_ok());
        drop(slot);
        threads.pop();
        assert_eq!(slots.order(due(&[a, b])), [a, b]);
        assert!(slots.recovered().is_empty());
        threads.clear();
        assert_eq!(slots.recovered(), [a]);
    }

    #[tokio::test]
    async fn many_shares_that_hang_leave_one_stuck_thread_to_each() {
        let slots = Slots::default();
        let watches: [WatchId; 100] = ids();
        let mut threads = Vec::new();
        for watch in watches {
            let slot = slots.take(watch, false);
            for number in 0..STUCK_MAX {
                if let Ok((thread, key)) = slot.thread(&PathBuf::from(number.to_string())) {
                    slot.abandon(key);
                    threads.push(thread);
                }
            }
        }
        assert_eq!(
            threads.len(),
            STUCK_MAX_ALL + 100 - STUCK_MAX_ALL / STUCK_MAX
        );
    }
}
