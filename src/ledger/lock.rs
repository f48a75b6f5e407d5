//! The lock of the state directory: one process at a time may write the ledger.
//!
//! The lock belongs to the process and ends with it, also after a kill. The lock file has the id of the process that
//! has the lock; a process that ends in order empties it. That is how the next start knows whether to check the
//! database.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::Error;
use crate::state_directory::StateDirectory;

/// The file that is locked.
const LOCK_FILE: &str = "lock";

/// The lock file of a process that found the ledger damaged begins with this.
const DAMAGED: &str = "damaged: ";

/// The exclusive lock of a state directory. Clones share it; the last one to be dropped releases it.
#[derive(Debug, Clone)]
pub(super) struct Lock(Arc<File>);

/// How the previous process left the ledger.
#[derive(Debug)]
pub(super) enum PreviousExit {
    /// It emptied the lock file, as a process does that ends in order.
    Clean,
    /// Its id is still there: it was killed, or the machine stopped.
    Killed,
    /// It found damage.
    FoundDamage(String),
}

/// The properties of the lock file of a state directory, which is there.
pub(super) fn metadata(dir: &Path) -> Result<std::fs::Metadata, Error> {
    let path = dir.join(LOCK_FILE);
    std::fs::symlink_metadata(&path).map_err(|source| Error::Io { path, source })
}

impl Lock {
    /// Takes the lock, and waits for another process that has it no longer than `patience`.
    ///
    /// # Errors
    /// [`Error::InUse`] when the other process still has it then.
    pub(super) async fn acquire(
        dir: &Path,
        directory: &StateDirectory,
        patience: Duration,
    ) -> Result<(Self, PreviousExit), Error> {
        let deadline = Instant::now() + patience;
        let mut waiting = false;
        loop {
            match try_lock(dir, directory) {
                Err(Error::InUse { pid, .. }) if Instant::now() < deadline => {
                    if !waiting {
                        tracing::info!(
                            process = pid.unwrap_or_default(),
                            seconds = patience.as_secs_f64(),
                            "waiting for another itwin-syncd that uses the state directory"
                        );
                    }
                    waiting = true;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                locked => return locked,
            }
        }
    }

    /// The properties of the locked file, which no other file of this machine shares as long as this process lives.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn metadata(&self, dir: &Path) -> Result<std::fs::Metadata, Error> {
        self.0.metadata().map_err(|source| Error::Io {
            path: dir.join(LOCK_FILE),
            source,
        })
    }

    /// Lets the next start know that the database is damaged, in a way that its check may not find.
    pub(super) fn mark_damaged(&self, error: &Error) {
        let mut file = self.0.as_ref();
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{DAMAGED}{error}"));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write the lock file");
        }
    }

    /// Lets the next start know that the database was closed in order.
    pub(super) fn mark_clean(&self) {
        if let Err(error) = self.0.set_len(0) {
            tracing::debug!(%error, "cannot empty the lock file");
        }
    }
}

/// Takes the lock and writes our process id into the file, for the message of a second process.
fn try_lock(dir: &Path, directory: &StateDirectory) -> Result<(Lock, PreviousExit), Error> {
    let path = directory.path_of(LOCK_FILE);
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    let mut file = directory.file(LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .is_ok()
                .then(|| text.trim().to_owned());
            return Err(Error::InUse {
                path: dir.to_owned(),
                pid: pid.filter(|p| !p.is_empty()),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(io)?;
    let previous = match text.strip_prefix(DAMAGED.as_bytes()) {
        Some(what) => PreviousExit::FoundDamage(String::from_utf8_lossy(what).into_owned()),
        None if text.is_empty() => PreviousExit::Clean,
        None => PreviousExit::Killed,
    };
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok((Lock(Arc::new(file)), previous))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_second_daemon_is_refused_by_name() {
        let f = Fixture::new().await;
        let error = Ledger::open(location(f.dir.path()).await)
            .await
            .unwrap_err();
        let expected = format!(
            "another itwin-syncd (process {}) already uses {:?}",
            std::process::id(),
            f.dir.path()
        );
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().contains("state.path"));
        f.restart().await;
    }
}
