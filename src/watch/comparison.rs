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
use super::trust::{Overlap, Trust};
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ledger::{
    self, Absence, Absent, Changes, Difference, Known, Ledger, ListingPart, Ready, RootIdentity,
    WatchId,
};

/// What a scan has found, as far as the root itself is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScannedRoot {
    /// The folder that is watched.
    Watched,
    /// An empty folder, and not the one in which files were found.
    EmptyReplacement,
    /// A folder in another place, which is the watched one: nothing was compared yet.
    Proven,
    /// A folder in another place, with hardly any of the known files.
    Other {
        /// Where the watched one was.
        before: String,
        /// Where this one is.
        now: String,
        overlap: Overlap,
    },
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
    trust: Trust,
    /// Where the folder is, and where it was before.
    share: Option<String>,
    share_before: Option<String>,
    /// Another folder was found there since.
    is_refused: bool,
    /// No scan of this process has compared all files.
    is_first: bool,
    /// Known files that the running scan has found, while it proves that the folder is the known one.
    found: u64,
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
            // Until the first scan knows it.
            trust: if ledger.is_shared() {
                Trust::Unproven
            } else {
                Trust::SameView
            },
            share: None,
            share_before: None,
            is_refused: false,
            is_first: true,
            found: 0,
        }
    }

    /// A scan of the whole root begins.
    pub(super) fn begin_scan(&mut self) {
        self.listed.begin_scan();
        self.found = 0;
    }

    /// The folder that it walks was opened there, if that is known.
    pub(super) async fn begin_walk(&mut self, share: Option<String>) -> Result<(), ledger::Error> {
        (self.share_before, self.is_refused) = self.ledger.share(self.id).await?;
        self.trust = Trust::of_scan(
            self.ledger.is_shared(),
            self.is_first,
            self.share_before.as_deref(),
            share.as_deref(),
        );
        self.share = share;
        Ok(())
    }

    /// Whether the folder is the known one, so that what happens in it counts.
    pub(super) fn is_proven(&self) -> bool {
        self.trust != Trust::Unproven
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
        if !self.is_proven() {
            self.found += if is_unchanged {
                listing.files.len() as u64
            } else {
                self.count_same(listing, changes).await?
            };
            return Ok(Vec::new());
        }
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
        let trust = self.trust;
        let settle = self.watch.settle_policy.settle;
        let known = self.known_folder(&listing.dir, changes).await?;
        let compared = known.changes;
        let (mut new, mut found, mut seen_otherwise) = (Vec::new(), Vec::new(), Vec::new());
        for file in &listing.files {
            let name = file.path.file_name().unwrap_or_default();
            let known = known.files.get(name);
            let difference = known.map(|known| known.difference(&Ready::from(file), settle));
            match (known, difference) {
                (Some(known), Some(Difference::None)) => {
                    if known.absence == Some(Absence::Missing) {
                        found.push(name.to_owned());
                    }
                }
                (Some(known), Some(Difference::View)) if trust == Trust::OtherView => {
                    if known.absence == Some(Absence::Missing) {
                        found.push(name.to_owned());
                    }
                    seen_otherwise.push((name.to_owned(), file.fingerprint));
                }
                _ => new.push(file.path.clone()),
            }
        }
        if new.is_empty() {
            self.unchanged.push(UnchangedPart {
                part: listing.part,
                digest,
                changes: compared,
            });
        }
        if !found.is_empty() {
            self.ledger
                .record_found(self.id, &listing.dir, &found)
                .await?;
        }
        if !seen_otherwise.is_empty() {
            self.ledger
                .record_times(self.id, &listing.dir, &seen_otherwise)
                .await?;
        }
        Ok(new)
    }

    /// What is known of the folder that is being listed, read once for all its parts.
    async fn known_folder(
        &mut self,
        dir: &Path,
        changes: Changes,
    ) -> Result<&KnownFolder, ledger::Error> {
        let known = match self.known.take() {
            Some(known) => known,
            None => KnownFolder {
                changes,
                files: self.known_files(dir).await?,
            },
        };
        Ok(self.known.insert(known))
    }

    /// How many files of a listing are known ones.
    async fn count_same(
        &mut self,
        listing: &Listing,
        changes: Changes,
    ) -> Result<u64, ledger::Error> {
        let settle = self.watch.settle_policy.settle;
        let known = self.known_folder(&listing.dir, changes).await?;
        let same = listing.files.iter().filter(|file| {
            let known = file.path.file_name().and_then(|name| known.files.get(name));
            let known = known.and_then(|known| known.fingerprint);
            known.is_some_and(|known| Overlap::is_same_file(known, file.fingerprint, settle))
        });
        Ok(same.count() as u64)
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
        if !self.is_proven() {
            return self.end_proof(summary).await;
        }
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
            return Ok(if self.ledger.files_present(self.id).await? > 0 {
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
        if let Some(share) = &self.share
            && (self.is_refused || self.share_before.as_ref() != Some(share))
            && summary.files > 0
        {
            self.ledger.record_share(self.id, share).await?;
        }
        self.is_first &= !summary.problems.none_unread();
        Ok(ScannedRoot::Watched)
    }

    /// The folder is in another place than the watched one was: decides whether it is that all the same.
    async fn end_proof(&self, summary: &Summary) -> Result<ScannedRoot, ledger::Error> {
        let (Some(before), Some(now)) = (&self.share_before, &self.share) else {
            return Ok(ScannedRoot::Proven);
        };
        let overlap = Overlap {
            known: self.ledger.files_present(self.id).await?,
            found: self.found,
        };
        if overlap.proves_folder() {
            self.ledger.record_share(self.id, now).await?;
            info!(watch = %self.watch.name, before, now, "the folder is in another place than before");
            return Ok(ScannedRoot::Proven);
        }
        self.ledger.record_other_share(self.id, now).await?;
        Ok(if summary.files == 0 {
            ScannedRoot::EmptyReplacement
        } else {
            ScannedRoot::Other {
                before: before.clone(),
                now: now.clone(),
                overlap,
            }
        })
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
