//! Watches folders and finds the files that are completely written.
//!
//! Input: the watched roots of the configuration. Output: complete files, handed over to the ledger; nothing else. The
//! scan is the truth: it runs at the start, at intervals, and for each folder as soon as its inotify watch is set.
//! Events are hints that make the next probe come sooner, so a lost one costs time, never a file. Network and FUSE file
//! systems raise no events; they are scanned at the poll interval.
//!
//! Files that are settling are in memory only. After a restart the first scan finds them again, because the ledger
//! knows only what was handed over.
//!
//! Each root has up to two threads for all calls that touch its share (`probe` and `scan`), none of them while it is at
//! rest, and one task (`root`) that waits for them with a deadline: a share that hangs delays only its own watch.

mod absence;
mod comparison;
mod events;
mod health;
mod mounts;
mod probe;
mod probe_queue;
mod problems;
mod root;
mod scan;
mod schedule;
mod settle;
mod share;
mod skip_log;
mod thread_on_demand;
mod threads;
mod trust;
mod unreadable;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use events::Events;
pub use share::ShareLook;

use crate::config::Watch;
use crate::ledger::{self, Ledger, Ready, WatchId};

/// How far the watch of one root is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The root was scanned, and every file found is handed over, but for those that cannot be opened.
    pub at_rest: bool,
    /// Files that are settling.
    pub settling: usize,
    /// Files that could not be opened for so long that it is a problem.
    pub unreadable: u64,
    /// A full scan is running.
    pub scanning: bool,
    /// When the next full scan begins.
    pub next_scan: Option<Timestamp>,
    /// Files that the last full scan ignored.
    pub ignored: Option<u64>,
    /// What of the root cannot be read, if there is something.
    pub left_out: Option<String>,
    /// Why the root cannot be reached, if it cannot.
    pub problem: Option<String>,
}

/// What a root can be asked while it is watched.
#[derive(Debug)]
pub enum Order {
    /// To be scanned now.
    Scan,
    /// Which files it waits for.
    Unfinished {
        /// Only this one, relative to the root.
        path: Option<PathBuf>,
        /// At most this many.
        most: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<Unfinished>>,
    },
}

/// A file that is not finished being written, as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Path relative to the root; odd bytes are replaced.
    pub path: String,
    /// It cannot be opened now.
    pub busy: bool,
    /// Why it cannot be opened.
    pub reason: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// How long it could not be opened, in milliseconds.
    pub unreadable_ms: u64,
    /// How long it has been unchanged, in milliseconds.
    pub unchanged_ms: u64,
    /// When it is probed next, in milliseconds from now.
    pub next_look_ms: u64,
}

/// Where finished files go.
#[derive(Debug, Clone)]
pub struct ReadySink {
    /// The ledger that takes them.
    pub ledger: Ledger,
    /// Notified after each hand-over. A hint: who misses it finds the files in the ledger.
    pub wake: Arc<Notify>,
    /// The kernel's events, for all watches together.
    pub events: Events,
}

/// Why a watch ended without being stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A thread that touches the share ended, which it never should.
    #[error("the thread {thread:?} of watch {watch:?} ended unexpectedly")]
    Ended {
        /// The watch.
        watch: String,
        /// Which of its threads.
        thread: &'static str,
    },
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// What a walk found beside the selected files.
#[derive(Debug, Default)]
pub struct Survey {
    /// Files that are ignored.
    pub ignored: u64,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// Walks a root once, as a watch of it would, passes each selected file to `each`, and hands nothing over.
///
/// # Errors
/// When it cannot be reached, or no thread can be had.
pub async fn survey(watch: &Watch, each: impl FnMut(Ready)) -> std::io::Result<Survey> {
    scan::survey(watch, each).await
}

/// Watches one root until `stop`, reports its progress through `progress`, and executes `orders`.
///
/// # Errors
/// Only when the ledger fails or no thread can be had: problems of the root itself are shown in status and retried
/// by looking again.
pub async fn run(
    watch: Watch,
    id: WatchId,
    out: ReadySink,
    progress: watch::Sender<Progress>,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Result<(), Error> {
    root::run(watch, id, out, progress, orders, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Ended { .. } => Error::Ended { watch: "north".to_owned(), thread: "scan" },
            Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
        }));
    }
}
