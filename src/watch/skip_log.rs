//! Logs each file that is skipped, with the reason: once, at debug level.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tracing::debug;

use crate::selection::Verdict;

/// What was mentioned already. Kept as hashes, so that a folder full of other things costs little; a collision
/// costs one line of debug output.
#[derive(Debug)]
pub(super) struct SkipLog {
    watch: String,
    hasher: RandomState,
    mentioned: Mutex<HashSet<u64>>,
}

impl SkipLog {
    pub(super) fn new(watch: &str) -> Self {
        Self {
            watch: watch.to_owned(),
            hasher: RandomState::new(),
            mentioned: Mutex::default(),
        }
    }

    /// Mentions a file that is not wanted, the first time.
    pub(super) fn mention(&self, path: &Path, verdict: &Verdict) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let reason = match verdict {
            Verdict::Source { .. }
            | Verdict::UploadOnly { .. }
            | Verdict::Reference
            | Verdict::Companion(_) => return,
            Verdict::NoConnector => "no connector for its extension".to_owned(),
            Verdict::Ignored(reason) => reason.to_string(),
        };
        let hash = self.hasher.hash_one(path);
        if self
            .mentioned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(hash)
        {
            debug!(watch = %self.watch, ?path, reason, "file skipped");
        }
    }
}
