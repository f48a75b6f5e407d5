//! What follows from a probe of single paths: a file settles or is handed over, a folder is scanned, a missing file
//! asks for a scan.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{debug, warn};

use super::{BYTES_MAX, Task};
use crate::connector_type::ConnectorType;
use crate::failpoint::failpoint;
use crate::ledger::{Absence, Known, Ready};
use crate::names::QuotedPath;
use crate::watch::Error;
use crate::watch::probe::{Probe, ProbeReply};
use crate::watch::problems::Problems;
use crate::watch::settle::{Observation, Step};

/// Unreadable files that are probed again and again; the others are left to the next scan.
const BUSY_FILES_MAX: usize = 10_000;

/// A file that the watch takes.
struct Wanted {
    /// None: it is only stored.
    connector: Option<ConnectorType>,
    /// The stem of the set that it belongs to, if it belongs to one.
    set_stem: Option<Vec<u8>>,
}

impl Task {
    pub(super) async fn on_probe(&mut self, reply: ProbeReply) -> Result<(), Error> {
        self.threads.probe_sent = None;
        self.on_root_probe(&reply.root).await?;
        if !self.comparison.is_proven() {
            // A scan finds them if this is the folder of the watch.
            for (path, _) in &reply.paths {
                self.settling.forget(path);
            }
            return Ok(());
        }
        let files = reply
            .paths
            .iter()
            .filter_map(|(path, probe)| matches!(probe, Probe::File(_)).then_some(path.as_path()));
        let mut known = self.out.ledger.known_of(self.id, files).await?;
        let mut ready = Vec::new();
        for (path, probe) in reply.paths {
            if !matches!(probe, Probe::Busy(_)) {
                self.unreadable.remove(&path);
            }
            let touched = self.settling.is_touched(&path).then(|| path.clone());
            match probe {
                Probe::File(seen) => {
                    let known = known.remove(&path);
                    ready.extend(self.on_file(path, seen, known).await?);
                }
                Probe::Folder => {
                    self.settling.forget(&path);
                    if self.watch.scope.enters(&path) {
                        self.scan_folder(path);
                    }
                }
                Probe::Other | Probe::Gone => self.on_gone(&path).await?,
                Probe::Busy(error) => {
                    if let Some(wanted) = self.wanted(&path) {
                        self.join_set(&path, wanted.set_stem.as_deref());
                        self.on_busy(&path, &error);
                    }
                }
            }
            // What is settled no longer may have changed after the probe.
            if let Some(path) = touched.filter(|path| !self.settling.is_touched(path)) {
                self.on_path(&path);
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

    /// What the watch does with the file at a path; None: nothing.
    fn wanted(&self, path: &Path) -> Option<Wanted> {
        let verdict = self.watch.scope.decide(path);
        self.skip_log.mention(path, &verdict);
        let set_stem = self.watch.scope.set_stem(path, &verdict);
        let connector = verdict.connector()?;
        Some(Wanted {
            connector,
            set_stem,
        })
    }

    fn join_set(&mut self, path: &Path, set_stem: Option<&[u8]>) {
        if let (Some(dir), Some(stem)) = (path.parent(), set_stem) {
            self.settling
                .join_set(path, dir.join(OsStr::from_bytes(stem)));
        }
    }

    /// Returns the file when it is complete and not known yet.
    async fn on_file(
        &mut self,
        path: PathBuf,
        seen: Observation,
        known: Option<Known>,
    ) -> Result<Option<Ready>, Error> {
        let Some(wanted) = self.wanted(&path) else {
            self.settling.forget(&path);
            return Ok(None);
        };
        let ready = Ready {
            path,
            fingerprint: seen.fingerprint,
            connector: wanted.connector,
            set_stem: wanted.set_stem,
        };
        if let Some(known) = known.filter(|known| known.is_handed_over(&ready)) {
            self.settling.forget(&ready.path);
            if known.set_stem.is_some() && known.absence == Some(Absence::Missing) {
                self.find_part(&ready.path).await?;
            }
            return Ok(None);
        }
        self.join_set(&ready.path, ready.set_stem.as_deref());
        let is_ready = self.settling.observe(&ready.path, seen) == Step::Ready;
        Ok(is_ready.then_some(ready))
    }

    async fn on_gone(&mut self, path: &Path) -> Result<(), Error> {
        self.settling.forget(path);
        let known = self.out.ledger.known(self.id, path).await?;
        if let Some(known) = known.as_ref().filter(|known| known.absence.is_none()) {
            if known.set_stem.is_some() {
                self.miss_part(path).await?;
            }
            // An event proves nothing; a scan does. Programs that save by rename must not cause many.
            let now = Instant::now();
            let settled = now + self.watch.settle_policy.settle;
            self.schedule.request_scan_later(settled, now);
        } else if known.is_none() {
            self.folder_may_be_gone = true;
        }
        Ok(())
    }

    /// A file of a set is not there. Programs that export a set delete it first: a run must not read the new files
    /// together with the old ones in storage, so this does not wait for the scan that confirms it.
    async fn miss_part(&self, path: &Path) -> Result<(), Error> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let missing = [(name.to_owned(), Absence::Missing)];
        let now = crate::clock::now();
        let absent = self
            .out
            .ledger
            .record_absent(self.id, dir, &missing, now, now);
        absent.await?;
        Ok(())
    }

    /// A file of a set that was missing is there again, unchanged.
    async fn find_part(&self, path: &Path) -> Result<(), Error> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let found = [name.to_owned()];
        self.out.ledger.record_found(self.id, dir, &found).await?;
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
        if handed_over.suspects_rename && self.folder_may_be_gone {
            // Events do not name the files of a folder that was moved; a scan finds that they are missing.
            let now = Instant::now();
            self.schedule.request_scan_later(now, now);
        }
        failpoint("file handed over");
        self.out.wake.notify_one();
        Ok(())
    }
}
