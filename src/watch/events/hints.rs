//! The channel of hints to one root: bounded, and never lossy, because an overflow becomes one hint for the whole root.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

/// Hints that may be queued; beyond that the root is scanned instead.
pub(super) const CHANNEL: usize = 8192;

/// The receiving end of one root's hints.
#[derive(Debug)]
pub(in crate::watch) struct Hints {
    pub(super) paths: mpsc::Receiver<Hint>,
    pub(super) overflow: Arc<Overflow>,
    /// How many of the next hints are older than the last loss of events.
    pub(super) older: usize,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(in crate::watch) struct Sender {
    paths: mpsc::Sender<Hint>,
    pub(super) overflow: Arc<Overflow>,
}

#[derive(Debug, Default)]
pub(super) struct Overflow {
    pub(super) happened: AtomicBool,
    /// The thread that receives the kernel's events has ended.
    watcher_died: AtomicBool,
    wake: Notify,
}

/// A hint: probe this path (relative to the root), or scan everything.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::watch) enum Hint {
    Path(PathBuf),
    /// The same, and the path got its file just now, by a rename, after whoever wrote the file had closed it.
    Arrived(PathBuf),
    /// Events were lost.
    Everything,
    /// No events arrive until a scan has set new watches.
    WatcherDied,
}

pub(in crate::watch) fn channel() -> (Sender, Hints) {
    let (sender, paths) = mpsc::channel(CHANNEL);
    let overflow = Arc::new(Overflow::default());
    (
        Sender {
            paths: sender,
            overflow: Arc::clone(&overflow),
        },
        Hints {
            paths,
            overflow,
            older: 0,
        },
    )
}

impl Hints {
    /// The next hint. Never ends; may be dropped and called again at any time.
    pub(in crate::watch) async fn next(&mut self) -> Hint {
        loop {
            if let Some(hint) = self.of_root() {
                return hint;
            }
            tokio::select! {
                () = self.overflow.wake.notified() => {}
                Some(hint) = self.paths.recv() => return self.doubted(hint),
            }
        }
    }

    /// A hint that waits already.
    pub(in crate::watch) fn try_next(&mut self) -> Option<Hint> {
        if let Some(hint) = self.of_root() {
            return Some(hint);
        }
        let hint = self.paths.try_recv().ok()?;
        Some(self.doubted(hint))
    }

    fn of_root(&mut self) -> Option<Hint> {
        let hint = if self.overflow.watcher_died.swap(false, Ordering::AcqRel) {
            Hint::WatcherDied
        } else if self.overflow.happened.swap(false, Ordering::AcqRel) {
            Hint::Everything
        } else {
            return None;
        };
        self.older = self.paths.len();
        Some(hint)
    }

    /// What was queued before events were lost: one of these may have been a change of the file that arrived.
    fn doubted(&mut self, hint: Hint) -> Hint {
        let is_older = self.older > 0;
        self.older = self.older.saturating_sub(1);
        match hint {
            Hint::Arrived(path) if is_older => Hint::Path(path),
            hint => hint,
        }
    }
}

impl Sender {
    pub(super) fn send(&self, hint: Hint) {
        let flag = match hint {
            Hint::Path(_) | Hint::Arrived(_) => match self.paths.try_send(hint) {
                Err(TrySendError::Full(_)) => &self.overflow.happened,
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            },
            Hint::Everything => &self.overflow.happened,
            Hint::WatcherDied => &self.overflow.watcher_died,
        };
        if !flag.swap(true, Ordering::AcqRel) {
            self.overflow.wake.notify_one();
        }
    }
}
