//! Notices when the system's clock jumps, and moves everything that is planned with it.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::clock;
use crate::ledger::{self, Ledger};

/// How often the system's clock is compared with the steady one.
const LOOK: Duration = Duration::from_secs(1);

/// A difference below this is followed at once and without a word: the clock was adjusted.
const JUMP: SignedDuration = SignedDuration::from_secs(5);

/// After a start: corrects what the last process stored by a clock that was ahead of this one.
pub(super) async fn correct(ledger: &Ledger) -> Result<(), ledger::Error> {
    let times = ledger.correct_times(clock::now()).await?;
    if times > 0 {
        warn!(
            times,
            hint = "if this is seen again, check this machine's time synchronization",
            "the ledger has times that are ahead of the system clock, which was wrong or is; what waited for them is due now"
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
                "the system clock was set back; scheduled times were moved with it"
            );
        } else {
            // A machine that slept comes here too.
            warn!(
                seconds = lead.as_secs(),
                "the system clock jumped forward; scheduled times were moved with it"
            );
        }
        uploads.notify_one();
        synchronizers.send_modify(|_asked| ());
    }
}
