//! Stops a job that is claimed again and again without a pause.
//!
//! Every way back to *due* counts an attempt or follows from progress, so this should never happen. If it does, the job
//! is rescheduled like after a failure, instead of keeping a core and the platform busy.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::FileId;

/// Claims of one job within [`WINDOW`] that are still in order: an adopted storage file and a few newer versions.
const CLAIMS_MAX: u32 = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// The latest claims.
#[derive(Debug, Default)]
pub(super) struct ClaimGuard {
    since: Option<Instant>,
    claims: HashMap<FileId, u32>,
}

impl ClaimGuard {
    /// Counts a claim. False: the job was claimed too often within the window.
    pub(super) fn allows(&mut self, file: FileId, now: Instant) -> bool {
        let current = self
            .since
            .is_some_and(|since| now.duration_since(since) < WINDOW);
        if !current {
            self.claims.clear();
            self.since = Some(now);
        }
        let claims = self.claims.entry(file).or_default();
        *claims += 1;
        *claims <= CLAIMS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_claimed_without_a_pause_is_stopped_and_others_are_not() {
        let mut guard = ClaimGuard::default();
        let (restless, other): (FileId, FileId) = ("1".parse().unwrap(), "2".parse().unwrap());
        let start = Instant::now();
        for _ in 0..CLAIMS_MAX {
            assert!(guard.allows(restless, start));
        }
        assert!(!guard.allows(restless, start + WINDOW / 2));
        assert!(guard.allows(other, start + WINDOW / 2));
        assert!(guard.allows(restless, start + WINDOW));
    }
}
