//! Files that have no history yet.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::unfinished_file;
use crate::status_view::{self, UnfinishedView};
use crate::watch::Unfinished;

/// A file that is not in the ledger yet, because it is being written or cannot be opened.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct UnfinishedFile {
    pub(super) watch: String,
    #[serde(flatten)]
    pub(super) view: UnfinishedView,
    /// Since when it cannot be opened.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(super) unreadable_since: Option<Timestamp>,
}

impl UnfinishedFile {
    pub(super) fn new(watch: &str, file: &Unfinished) -> Self {
        Self {
            watch: watch.to_owned(),
            view: status_view::unfinished_view(file),
            unreadable_since: file.busy.then(|| unfinished_file::since(file)),
        }
    }
}
