//! When is `run --once` done?
//!
//! When every folder is scanned, every readable file is queued, and every job is finished or waits for longer than the
//! pass does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Error;
use crate::ledger::Ledger;
use crate::synchronizer;
use crate::watch::Progress;

/// `run --once` does not wait for jobs whose next attempt is later than this.
pub(super) const PASS_PATIENCE: Duration = Duration::from_secs(60);

/// `run --once` does not wait for jobs that failed this often.
const PASS_ATTEMPTS: u32 = 6;

/// How long `run --once` waits when only unreadable files are left.
const PASS_BUSY: Duration = Duration::from_secs(20);

/// How often `run --once` checks whether it is done.
const PASS_LOOK: Duration = Duration::from_millis(100);

/// The pause between two checks as a multiple of what one takes: with many files, the checks would delay the work.
const PASS_SHARE: u32 = 10;

/// What `run --once` watches to know that it is done.
pub(super) struct InPass {
    pub(super) roots: Vec<watch::Receiver<Progress>>,
    pub(super) synchronizers: Vec<watch::Receiver<synchronizer::Progress>>,
    pub(super) wake_synchronizers: watch::Sender<u64>,
}

/// Waits until every folder is scanned, every readable file is queued, and every job is finished or has to wait.
pub(super) async fn done(pass: InPass, ledger: Ledger) -> Result<(), Error> {
    // Since when only unreadable files are left.
    let mut only_busy: Option<Instant> = None;
    // When other jobs were seen last.
    let mut others = Instant::now();
    loop {
        let soon = crate::next_attempt::after(crate::clock::now(), PASS_PATIENCE);
        let began = Instant::now();
        let awaited = ledger.awaited(PASS_ATTEMPTS, soon).await?;
        let now = Instant::now();
        let took = now.duration_since(began);
        // An unreadable file is shortly in progress at each attempt.
        if awaited.0 == 0 {
            others = now;
        }
        if awaited == (0, 0) || others.elapsed() >= PASS_PATIENCE / 10 {
            only_busy = None;
        } else if awaited.0 == 0 {
            only_busy = only_busy.or(Some(now));
        }
        let left = |awaited: (u64, u64)| {
            let patient = only_busy.is_some_and(|since| since.elapsed() >= PASS_BUSY);
            awaited == (0, 0) || (awaited.0 == 0 && patient)
        };
        // The synchronizers last: an uploaded reference file leaves no job, but requires a run.
        if pass.roots_at_rest()
            && left(awaited)
            && pass.synchronizers_at_rest().await
            && left(ledger.awaited(PASS_ATTEMPTS, soon).await?)
        {
            return Ok(());
        }
        tokio::time::sleep(PASS_LOOK.max(took * PASS_SHARE)).await;
    }
}

impl InPass {
    fn roots_at_rest(&self) -> bool {
        self.roots.iter().all(|root| {
            let progress = root.borrow();
            progress.at_rest || progress.problem.is_some()
        })
    }

    /// Whether every synchronizer finds nothing to do when it checks once more.
    async fn synchronizers_at_rest(&self) -> bool {
        let before: Vec<u64> = self
            .synchronizers
            .iter()
            .map(|synchronizer| synchronizer.borrow().looks)
            .collect();
        self.wake_synchronizers.send_modify(|_asked| ());
        for (synchronizer, before) in self.synchronizers.iter().zip(before) {
            let mut synchronizer = synchronizer.clone();
            // A synchronizer that ended stops the service elsewhere.
            let looked = synchronizer
                .wait_for(|progress| progress.looks > before)
                .await;
            if looked.is_ok_and(|progress| !progress.at_rest) {
                return false;
            }
        }
        true
    }
}
