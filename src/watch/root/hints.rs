//! What follows from hints and orders: a path is probed, the root is scanned.

use std::path::Path;
use std::time::Instant;

use tracing::warn;

use super::{BYTES_MAX, FILES_MAX, Task};
use crate::watch::events::{Hint, Hints};
use crate::watch::{Order, Unfinished, scan};

impl Task {
    pub(super) fn on_hints(&mut self, hints: &mut Hints) {
        while let Some(hint) = hints.try_next() {
            self.on_hint(hint);
        }
    }

    pub(super) fn on_hint(&mut self, hint: Hint) {
        match hint {
            Hint::Everything => {
                self.distrust_arrivals();
                self.request_scan(Instant::now());
            }
            Hint::WatcherDied => {
                self.distrust_arrivals();
                warn!(
                    watch = %self.watch.name,
                    "the thread that receives file events ended unexpectedly; scanning the folder and watching it again"
                );
                // Should it end again and again, the folder is polled instead.
                let now = Instant::now();
                self.schedule.request_scan_later(now, now);
            }
            Hint::Path(path) => {
                self.on_path(&path);
            }
            Hint::Arrived(path) => {
                if self.on_path(&path) && self.last_scan.sees_writers_of(&path) {
                    self.settling.arrive(&path);
                }
            }
        }
    }

    /// Until a scan has set new watches, no events say that a file is complete.
    fn distrust_arrivals(&mut self) {
        self.settling.distrust_arrivals();
        self.last_scan.watched = false;
    }

    /// Returns whether the path is probed.
    pub(super) fn on_path(&mut self, path: &Path) -> bool {
        if self.settling.touch(path, Instant::now()) {
            return true;
        }
        if scan::too_long(path).is_some() || !self.watch.scope.may_concern(path) {
            return false;
        }
        let has_capacity = self.has_capacity();
        if has_capacity {
            self.queue.push(path);
        } else {
            // The scan finds it when there is space again.
            self.request_scan(Instant::now());
        }
        has_capacity
    }

    /// Whether there is space for more files in memory.
    pub(super) fn has_capacity(&self) -> bool {
        self.queue.len() + self.settling.len() < FILES_MAX
            && self.queue.bytes() + self.settling.bytes() < BYTES_MAX
    }

    /// Files that are not handed over yet: one, or some of them, those first that cannot be opened.
    fn unfinished(&self, path: Option<&Path>, most: usize) -> Vec<Unfinished> {
        let now = Instant::now();
        let Some(path) = path else {
            let mut files = self.unreadable.some_shown(most, now);
            let rest = self.settling.unfinished(None, most, now).into_iter();
            let left = most.saturating_sub(files.len());
            files.extend(rest.filter(|file| !file.busy).take(left));
            return files;
        };
        match self.unreadable.shown(path, now) {
            Some(file) => vec![file],
            None => self.settling.unfinished(Some(path), most, now),
        }
    }

    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Scan => self.request_scan(Instant::now()),
            Order::Unfinished { path, most, answer } => {
                let files = self.unfinished(path.as_deref(), most);
                // The receiver may have been dropped.
                let _dropped = answer.send(files);
            }
        }
    }
}
