//! What the last full scan found, for status, log and the decision how far events can be trusted.

use std::path::{Path, PathBuf};

use crate::watch::problems::Problems;

/// What the last full scan found.
#[derive(Default)]
pub(super) struct LastScan {
    /// Files that are not selected.
    pub(super) ignored: Option<u64>,
    /// Of the scan, and of scans of single folders since.
    pub(super) problems: Problems,
    /// New or changed files of the running scan.
    pub(super) changed: usize,
    /// Whether each folder is watched that this machine alone can write to, and those that others can.
    pub(super) watched: bool,
    pub(super) remote_folders: Vec<PathBuf>,
}

impl LastScan {
    /// Whether every program that writes to a file raises events here: on a share, those of other machines do not.
    pub(super) fn sees_writers_of(&self, path: &Path) -> bool {
        self.watched
            && !self
                .remote_folders
                .iter()
                .any(|folder| path.starts_with(folder))
    }
}
