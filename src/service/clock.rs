//! Detects jumps of the system clock, and adjusts all scheduled times.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::clock;
use crate::ledger::{self, Ledger};

/// How often the system's clock is compared with the steady one.
const LOOK: Duration = Duration::from_secs(1);

/// Smaller differences are normal clock adjustments, which are followed silently.
const JUMP: SignedDuration = SignedDuration::from_secs(5);

/// At a start: corrects times that the previous process stored with a clock ahead of this one.
pub(super) async fn correct(ledger: &Ledger) -> Result<(), ledger::Error> {
    let times = ledger.correct_times(clock::now()).await?;
    if times > 0 {
        warn!(
            times,
            hint = "if this repeats, check the time synchronization of this machine",
            "the ledger contains times ahead of the system clock: treating them as due now"
        );
    }
    Ok(())
}

/// Follows the system's clock until it is dropped.
///
/// # Errors
/// When the ledger fails.
pub(super) async fn follow(
    ledger: Ledger,
    uploads: Arc<Notify>,
    synchronizers: watch::Sender<u64>,
) -> Result<(), ledger::Error> {
    loop {
        tokio::time::sleep(LOOK).await;
        let lead = clock::lead();
        if lead.abs() < JUMP {
            clock::follow(lead);
            continue;
        }
        ledger.follow_clock(lead).await?;
        clock::follow(lead);
        if lead.is_negative() {
            warn!(
                seconds = lead.as_secs(),
                "system clock was set back: adjusted all scheduled times"
            );
        } else {
            // Also after the machine was suspended.
            warn!(
                seconds = lead.as_secs(),
                "system clock jumped forward: adjusted all scheduled times"
            );
        }
        uploads.notify_one();
        synchronizers.send_modify(|_asked| ());
    }
}
