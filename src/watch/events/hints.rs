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
    pub(super) paths: mpsc::Receiver<PathBuf>,
    pub(super) overflow: Arc<Overflow>,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(in crate::watch) struct Sender {
    paths: mpsc::Sender<PathBuf>,
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
        Hints { paths, overflow },
    )
}

impl Hints {
    /// The next hint. Never ends; may be dropped and called again at any time.
    pub(in crate::watch) async fn next(&mut self) -> Hint {
        loop {
            if self.overflow.watcher_died.swap(false, Ordering::AcqRel) {
                return Hint::WatcherDied;
            }
            if self.overflow.happened.swap(false, Ordering::AcqRel) {
                return Hint::Everything;
            }
            tokio::select! {
                () = self.overflow.wake.notified() => {}
                Some(path) = self.paths.recv() => return Hint::Path(path),
            }
        }
    }

    /// A hint that waits already.
    pub(in crate::watch) fn try_next(&mut self) -> Option<PathBuf> {
        self.paths.try_recv().ok()
    }
}

impl Sender {
    pub(super) fn send(&self, hint: Hint) {
        let flag = match hint {
            Hint::Path(path) => match self.paths.try_send(path) {
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
