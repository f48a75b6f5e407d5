//! Makes transactions survive a power cut: the write-ahead log must be on the disk.
//!
//! Waiting for the disk costs more than a transaction, so only those wait that something outside depends on: a file is
//! created, content is completed, a run is requested, a result is reported. What a power cut can take otherwise is
//! found, or done, once more. The log is written in one order, so a transaction on the disk has all earlier ones with
//! it.
//!
//! With `synchronous=FULL` SQLite would wait within each transaction, and every other one behind it. Here transactions
//! follow each other without waiting, and those that wait share one call to the disk, which covers all that were
//! committed before it began.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use tokio::sync::Mutex;

use crate::failpoint;
use crate::state_directory::{self, StateDirectory};

/// The write-ahead log beside the database.
const LOG: &str = "ledger.db-wal";

/// The write-ahead log, as far as it is on the disk. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Log {
    directory: StateDirectory,
    /// Committed transactions that waited or wait here.
    committed: Arc<AtomicU64>,
    /// Of them, those that are on the disk.
    on_disk: Arc<Mutex<u64>>,
}

impl Log {
    pub(super) fn of(directory: StateDirectory) -> Self {
        Self {
            directory,
            committed: Arc::default(),
            on_disk: Arc::default(),
        }
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until everything that was committed before the call is on the disk.
    ///
    /// # Errors
    /// When the disk fails. Not repeated, as the kernel may have dropped what it could not write: the next start reads
    /// what is there.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let mine = self.committed.fetch_add(1, Ordering::AcqRel) + 1;
        let mut on_disk = self.on_disk.lock().await;
        if *on_disk >= mine {
            return Ok(());
        }
        let covered = self.committed.load(Ordering::Acquire);
        let (directory, first) = (self.directory.clone(), *on_disk == 0);
        let synced = tokio::task::spawn_blocking(move || {
            match directory.file(LOG, OFlags::RDONLY) {
                Ok(log) => log.sync_data()?,
                // Merged into the database; SQLite has waited for the disk.
                Err(state_directory::Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(state_directory::Error::Io { source, .. }) => return Err(source),
                Err(error) => return Err(io::Error::other(error)),
            }
            // A new file is lost with its folder's entry.
            if first {
                File::from(directory.as_fd().try_clone_to_owned()?).sync_all()?;
            }
            failpoint::on_disk(&directory.path_of(LOG))
        });
        synced.await.map_err(io::Error::other)??;
        *on_disk = covered;
        Ok(())
    }
}
