//! Which known files a scan did not find.
//!
//! Only what was listed to its end counts: the names of a folder are gathered part by part and compared with what the
//! ledger knows when its listing ends; folders that were not listed at all are found when the scan ends.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use super::problems::Problems;
use crate::ledger::{Absence, Known};
use crate::selection::Scope;

/// The folders and names of the current scan. Only hashes are kept, so that a million names stay small.
#[derive(Debug, Default)]
pub(super) struct Listed {
    hasher: RandomState,
    /// Folders that were listed to their end.
    folders: HashSet<u64>,
    /// Names of the folder whose listing comes now.
    names: HashSet<u64>,
    /// Some of it differs from what was kept of the last scan.
    differs: bool,
}

impl Listed {
    /// A scan of the whole root begins.
    pub(super) fn begin_scan(&mut self) {
        self.folders.clear();
    }

    /// The listing of a folder begins.
    pub(super) fn begin_folder(&mut self) {
        self.names.clear();
        self.differs = false;
    }

    /// A part of the folder holds these names; `differs`: it is not as it was in the last scan.
    pub(super) fn take_part<'n>(&mut self, names: impl Iterator<Item = &'n OsStr>, differs: bool) {
        let hasher = &self.hasher;
        self.names.extend(names.map(|name| hasher.hash_one(name)));
        self.differs |= differs;
    }

    /// The folder was listed to its end. False: it is just as it was, so every known file is there.
    pub(super) fn end_folder(&mut self, dir: &Path) -> bool {
        self.folders.insert(self.hasher.hash_one(dir));
        self.differs
    }

    /// Known files of the folder that ended that were not listed.
    pub(super) fn unlisted(
        &self,
        scope: &Scope,
        dir: &Path,
        known: &HashMap<OsString, Known>,
    ) -> Vec<(OsString, Absence)> {
        let unlisted = known
            .iter()
            .filter(|(name, _)| !self.names.contains(&self.hasher.hash_one(name.as_os_str())));
        absent(scope, dir, unlisted)
    }

    /// Known folders that were neither listed to their end nor lie where nothing could be read.
    pub(super) fn unlisted_folders(
        &self,
        known: Vec<PathBuf>,
        problems: &Problems,
    ) -> Vec<PathBuf> {
        known
            .into_iter()
            .filter(|dir| !self.folders.contains(&self.hasher.hash_one(dir.as_path())))
            .filter(|dir| !problems.hides(dir))
            .collect()
    }
}

/// What files of a folder that were not found are: missing, or no longer selected. Those of which that is known are
/// left out.
pub(super) fn absent<'k>(
    scope: &Scope,
    dir: &Path,
    files: impl Iterator<Item = (&'k OsString, &'k Known)>,
) -> Vec<(OsString, Absence)> {
    files
        .filter(|(_, known)| !matches!(known.absence, Some(Absence::Gone | Absence::Deselected)))
        .map(|(name, _)| {
            let absence = if scope.selects(&dir.join(name)) {
                Absence::Missing
            } else {
                Absence::Deselected
            };
            (name.clone(), absence)
        })
        .collect()
}
