//! Compares what a scan lists with what the ledger knows: which files are new or changed, and which are gone.
//!
//! A part of a listing that equals the digest of the last scan costs one row to read. Files that are not listed become
//! *missing*, and *gone* when another scan does not list them either. Digests are kept only after all files of a folder
//! were compared: after a kill in between, the next scan compares them again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tracing::{debug, info};

use super::absence::{self, Listed};
use super::scan::{Listing, Summary};
use super::schedule::Confirmation;
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ledger::{
    self, Absence, Absent, Changes, Known, Ledger, ListingPart, Ready, RootIdentity, WatchId,
};

/// What a scan has found, as far as the root itself is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScannedRoot {
    /// The folder that is watched.
    Watched,
    /// An empty folder, and not the one in which files were found.
    EmptyReplacement,
}

/// The comparison of one root's scans.
#[derive(Debug)]
pub(super) struct Comparison {
    watch: Watch,
    id: WatchId,
    ledger: Ledger,
    /// The folder that is being listed, once a part of it had to be compared; a large one comes in several parts.
    known: Option<KnownFolder>,
    /// Parts of that folder that hold nothing new.
    unchanged: Vec<UnchangedPart>,
    /// What the running scan has listed.
    listed: Listed,
    /// What it did not find.
    absent: Absent,
    confirmation: Confirmation,
}

/// What the ledger knows of the files of a folder, and as of which change.
#[derive(Debug)]
struct KnownFolder {
    changes: Changes,
    files: HashMap<OsString, Known>,
}

#[derive(Debug)]
struct UnchangedPart {
    part: u32,
    digest: [u8; 32],
    changes: Changes,
}

impl Comparison {
    pub(super) fn new(watch: &Watch, id: WatchId, ledger: &Ledger) -> Self {
        Self {
            watch: watch.clone(),
            id,
            ledger: ledger.clone(),
            known: None,
            unchanged: Vec::new(),
            listed: Listed::default(),
            absent: Absent::default(),
            confirmation: Confirmation::NotNeeded,
        }
    }

    /// A scan of the whole root begins.
    pub(super) fn begin_scan(&mut self) {
        self.listed.begin_scan();
    }

    /// Whether files that were not found wait for a scan that confirms it.
    pub(super) fn confirmation(&self) -> Confirmation {
        self.confirmation
    }

    /// Whether anything was not found since the last full scan ended.
    pub(super) fn has_missing(&self) -> bool {
        self.absent.missing > 0
    }

    /// Takes in a part of a folder's listing. Returns the files that are new or changed.
    pub(super) async fn compare(
        &mut self,
        listing: &Listing,
    ) -> Result<Vec<PathBuf>, ledger::Error> {
        if listing.part == 0 {
            self.known = None;
            self.unchanged.clear();
            self.listed.begin_folder();
        }
        let digest = listing.digest();
        let part = self.part(&listing.dir, listing.part, &digest);
        let (is_unchanged, changes) = self.ledger.is_listing_unchanged(&part).await?;
        let names = listing
            .files
            .iter()
            .filter_map(|file| file.path.file_name());
        self.listed.take_part(names, !is_unchanged);
        let mut new = Vec::new();
        if !is_unchanged {
            new = self.compare_files(listing, digest, changes).await?;
        }
        if listing.last {
            self.end_folder(&listing.dir).await?;
        }
        Ok(new)
    }

    async fn compare_files(
        &mut self,
        listing: &Listing,
        digest: [u8; 32],
        changes: Changes,
    ) -> Result<Vec<PathBuf>, ledger::Error> {
        let known = match self.known.take() {
            Some(known) => known,
            None => KnownFolder {
                changes,
                files: self.known_files(&listing.dir).await?,
            },
        };
        let known = self.known.insert(known);
        let (mut new, mut found) = (Vec::new(), Vec::new());
        for file in &listing.files {
            let name = file.path.file_name().unwrap_or_default();
            match known.files.get(name) {
                Some(known) if known.is_handed_over(&Ready::from(file)) => {
                    if known.absence == Some(Absence::Missing) {
                        found.push(name.to_owned());
                    }
                }
                _ => new.push(file.path.clone()),
            }
        }
        if new.is_empty() {
            self.unchanged.push(UnchangedPart {
                part: listing.part,
                digest,
                changes: known.changes,
            });
        }
        if !found.is_empty() {
            self.ledger
                .record_found(self.id, &listing.dir, &found)
                .await?;
        }
        Ok(new)
    }

    /// A folder was listed to its end: records its known files that were not there.
    async fn end_folder(&mut self, dir: &Path) -> Result<(), ledger::Error> {
        if !self.listed.end_folder(dir) {
            return Ok(());
        }
        let files = match self.known.take() {
            Some(known) => known.files,
            None => self.known_files(dir).await?,
        };
        let absent = self.listed.unlisted(&self.watch.scope, dir, &files);
        if absent.is_empty() {
            for unchanged in std::mem::take(&mut self.unchanged) {
                let part = self.part(dir, unchanged.part, &unchanged.digest);
                self.ledger.record_listing(&part, unchanged.changes).await?;
            }
            return Ok(());
        }
        failpoint("files about to be missing");
        self.record_absent(dir, &absent).await
    }

    /// The whole root was scanned: records the files of known folders that were not there.
    pub(super) async fn end_scan(
        &mut self,
        summary: &Summary,
    ) -> Result<ScannedRoot, ledger::Error> {
        self.confirmation = Confirmation::NotNeeded;
        let Ok(identity) = &summary.root else {
            return Ok(ScannedRoot::Watched);
        };
        let identity = identity.to_string();
        let before = self.ledger.root_identity(self.id).await?;
        if summary.files > 0 {
            self.missing_in_known_folders(summary).await?;
            if before.as_deref() != Some(&identity) {
                let found = match (&before, self.absent.missing + self.absent.gone) {
                    (None, _) | (_, 0) => RootIdentity::Complete,
                    (Some(_), _) => RootIdentity::Incomplete,
                };
                self.ledger
                    .record_root_identity(self.id, &identity, found)
                    .await?;
            }
        } else if before.is_some_and(|before| before != identity) {
            // An unmounted share, not a deletion.
            return Ok(if self.ledger.has_files_present(self.id).await? {
                ScannedRoot::EmptyReplacement
            } else {
                ScannedRoot::Watched
            });
        } else {
            self.missing_in_known_folders(summary).await?;
        }
        let Absent {
            gone,
            deselected,
            missing,
        } = std::mem::take(&mut self.absent);
        if gone > 0 || deselected > 0 {
            info!(watch = %self.watch.name, gone, deselected, "known files were deleted or are no longer selected");
        }
        if missing > 0 {
            self.confirmation = Confirmation::Needed;
            debug!(watch = %self.watch.name, missing, "known files were not found; scanning again to confirm");
        }
        Ok(ScannedRoot::Watched)
    }

    /// Records the files of known folders that were not there.
    async fn missing_in_known_folders(&mut self, summary: &Summary) -> Result<(), ledger::Error> {
        let known = self.ledger.known_folders(self.id).await?;
        for dir in self.listed.unlisted_folders(known, &summary.problems) {
            let files = self.known_files(&dir).await?;
            let absent = absence::absent(&self.watch.scope, &dir, files.iter());
            self.record_absent(&dir, &absent).await?;
        }
        Ok(())
    }

    async fn record_absent(
        &mut self,
        dir: &Path,
        files: &[(OsString, Absence)],
    ) -> Result<(), ledger::Error> {
        if files.is_empty() {
            return Ok(());
        }
        let now = crate::clock::now();
        let settled = now
            .checked_sub(self.watch.settle_policy.settle)
            .unwrap_or(now);
        self.absent += self
            .ledger
            .record_absent(self.id, dir, files, settled, now)
            .await?;
        Ok(())
    }

    fn part<'p>(&self, dir: &'p Path, part: u32, digest: &'p [u8; 32]) -> ListingPart<'p> {
        ListingPart {
            watch: self.id,
            dir,
            part,
            digest,
        }
    }

    async fn known_files(&self, dir: &Path) -> Result<HashMap<OsString, Known>, ledger::Error> {
        let files = self.ledger.known_in(self.id, dir).await?;
        Ok(files.into_iter().collect())
    }
}
