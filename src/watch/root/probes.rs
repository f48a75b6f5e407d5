//! What follows from a probe of single paths: a file settles or is handed over, a folder is scanned, a missing file
//! asks for a scan.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{debug, warn};

use super::{BYTES_MAX, Task};
use crate::connector_type::ConnectorType;
use crate::failpoint::failpoint;
use crate::ledger::Ready;
use crate::names::QuotedPath;
use crate::watch::Error;
use crate::watch::probe::{Probe, ProbeReply};
use crate::watch::problems::Problems;
use crate::watch::settle::{Observation, Step};

/// Unreadable files that are probed again and again; the others are left to the next scan.
const BUSY_FILES_MAX: usize = 10_000;

impl Task {
    pub(super) async fn on_probe(&mut self, reply: ProbeReply) -> Result<(), Error> {
        self.threads.probe_sent = None;
        self.on_root_probe(&reply.root).await?;
        let mut ready = Vec::new();
        for (path, probe) in reply.paths {
            if !matches!(probe, Probe::Busy(_)) {
                self.unreadable.remove(&path);
            }
            match probe {
                Probe::File(seen) => ready.extend(self.on_file(path, seen).await?),
                Probe::Folder => {
                    self.settling.forget(&path);
                    if self.watch.scope.enters(&path) {
                        self.scan_folder(path);
                    }
                }
                Probe::Other | Probe::Gone => self.on_gone(&path).await?,
                Probe::Busy(error) => {
                    if self.wanted(&path).is_some() {
                        self.on_busy(&path, &error);
                    }
                }
            }
        }
        if self.unreadable.is_empty() {
            self.unreadable_counts = Problems::default();
        }
        if self.lasting_files > 0 || !self.unreadable.is_empty() {
            self.record_health(None).await?;
        }
        self.hand_over(ready).await
    }

    /// The connector for a path. None: it is not wanted; `Some(None)`: it is only stored.
    fn wanted(&self, path: &Path) -> Option<Option<ConnectorType>> {
        let verdict = self.watch.scope.decide(path);
        self.skip_log.mention(path, &verdict);
        verdict.connector()
    }

    /// Returns the file when it is complete and not known yet.
    async fn on_file(&mut self, path: PathBuf, seen: Observation) -> Result<Option<Ready>, Error> {
        let Some(connector) = self.wanted(&path) else {
            self.settling.forget(&path);
            return Ok(None);
        };
        let fingerprint = seen.fingerprint;
        let known = self.out.ledger.known(self.id, &path).await?;
        let is_known = known.is_some_and(|known| known.is_version(fingerprint, connector.as_ref()));
        if is_known {
            self.settling.forget(&path);
            return Ok(None);
        }
        let is_ready = self.settling.observe(&path, seen) == Step::Ready;
        Ok(is_ready.then_some(Ready {
            path,
            fingerprint,
            connector,
        }))
    }

    async fn on_gone(&mut self, path: &Path) -> Result<(), Error> {
        self.settling.forget(path);
        let known = self.out.ledger.known(self.id, path).await?;
        if known.is_some_and(|known| known.absence.is_none()) {
            // An event proves nothing; a scan does. Programs that save by rename must not cause many.
            let now = Instant::now();
            let settled = now + self.watch.settle_policy.settle;
            self.schedule.request_scan_later(settled, now);
        }
        Ok(())
    }

    /// A file that cannot be opened now is probed again. The log gets a line for the 1st of a kind, the 10th, the
    /// 100th, and so on.
    fn on_busy(&mut self, path: &Path, error: &io::Error) {
        let now = Instant::now();
        let is_new = self.settling.busy(path, now);
        if self.settling.busy_count() > BUSY_FILES_MAX || self.settling.bytes() > BYTES_MAX / 2 {
            self.settling.forget(path);
        } else {
            self.unreadable.add(path, error, now);
        }
        if !is_new {
            return;
        }
        let count = self
            .unreadable_counts
            .add(&format!("cannot be opened: {error}"), path);
        if 10_u64.pow(count.ilog10()) == count {
            warn!(
                watch = %self.watch.name, path = %QuotedPath(path), files = count, %error,
                "cannot open file; trying again until it can be read"
            );
        }
    }

    async fn hand_over(&mut self, ready: Vec<Ready>) -> Result<(), Error> {
        if ready.is_empty() {
            return Ok(());
        }
        for file in &ready {
            debug!(watch = %self.watch.name, path = ?file.path, bytes = file.fingerprint.size, "file is complete");
        }
        failpoint("file is finished");
        let now = crate::clock::now();
        let handed_over = self.out.ledger.hand_over(self.id, &ready, now).await?;
        if let Some(change) = handed_over.bulk_change {
            change.log(&self.watch.name);
        }
        failpoint("file handed over");
        self.out.wake.notify_one();
        Ok(())
    }
}
