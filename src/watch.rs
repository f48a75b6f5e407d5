//! From a folder to "this file, this version, is finished".
//!
//! In come the watched roots of the configuration. Out go finished files, handed over to the ledger; nothing else
//! leaves the room. Our own scan is the truth: at the start, at intervals, and of each folder as soon as its
//! inotify watch is set. Events are hints that make the next look come at once, so a lost one costs time, never a
//! file. Roots on network and FUSE file systems tell no events and are scanned at the poll interval instead.
//!
//! What is seen and settling lives in memory: after a restart the first scan finds it again, because the ledger only
//! knows what was handed over.
//!
//! Each root has two threads of its own for every call that touches the share ([`look`] and [`scan`]), and one task
//! ([`root`]) that never waits for them without a way out: a share that hangs holds up nothing but itself.

mod events;
mod left_alone;
mod look;
mod root;
mod scan;
mod settle;

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Watch;
use crate::ledger::{self, Ledger, WatchId};

/// How far the watch of one root is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The root was scanned, and every file found is handed over.
    pub at_rest: bool,
    /// Files that are settling.
    pub settling: usize,
    /// Why the root cannot be reached, if it cannot.
    pub problem: Option<String>,
}

/// Where finished files go.
#[derive(Debug, Clone)]
pub struct Handover {
    /// The ledger that takes them.
    pub ledger: Ledger,
    /// Told after each hand-over. A hint: whoever misses it finds the files by looking.
    pub wake: Arc<Notify>,
}

/// Why a watch ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system gave no thread.
    #[error("cannot start a thread for watch {watch:?}")]
    Thread {
        /// The watch.
        watch: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A thread that touches the share ended, which it never should.
    #[error("the thread {thread:?} of watch {watch:?} ended by itself")]
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

/// Watches one root until `stop`, and tells through `progress` how far it is.
///
/// # Errors
/// Only when the ledger fails or no thread can be had: trouble with the root itself is shown in status and mended
/// by looking again.
pub async fn run(
    watch: Watch,
    id: WatchId,
    out: Handover,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
) -> Result<(), Error> {
    root::run(watch, id, out, progress, stop).await
}
