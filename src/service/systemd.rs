//! What systemd is told, when it listens. Nothing depends on it, so a failure is only worth a word.
//!
//! Only words that systemd 249 knows already, and newer ones where an older one ignores them. Source: `sd_notify(3)`

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// While it starts, systemd is asked for this much more time…
const MORE: Duration = Duration::from_secs(60);

/// …this often…
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// …for at most so long: a start that takes longer is stuck, and a new one may not be.
const START_MAX: Duration = Duration::from_secs(3600);

/// After the grace period of a stop: to close the ledger.
const CLOSING: Duration = Duration::from_secs(15);

/// The service works. `status` is the line that `systemctl status` shows.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The configuration is read anew; [`ready`] ends that.
pub(super) fn reloading() {
    // Since version 253 the time must be in the same message, or a reload is never over.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reading the configuration again"),
        ]),
        Err(error) => {
            warn!(%error, "there is no monotonic clock; systemd is not told of the reload");
        }
    }
}

/// All is well for another while.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// It ends, and may take the grace period for that whatever the unit says.
pub(super) fn stopping(grace: Duration) {
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros(grace + CLOSING)),
        NotifyState::Status("stopping; uploads in hand may finish"),
    ]);
}

/// Waits for a part of the start that may take long, such as bringing a large ledger to a new version, and asks systemd for the time.
pub(super) async fn patient<T>(start: impl Future<Output = T>) -> T {
    let asking = async {
        let mut asked = Duration::ZERO;
        while asked < START_MAX {
            tell(&[
                NotifyState::ExtendTimeoutUsec(micros(MORE)),
                NotifyState::Status("opening the ledger"),
            ]);
            tokio::time::sleep(ASK_AGAIN).await;
            asked += ASK_AGAIN;
        }
        std::future::pending::<T>().await
    };
    tokio::select! {
        biased;
        started = start => started,
        never = asking => never,
    }
}

/// The longest time without a sign of life that systemd allows; none without a watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd could not be told");
    }
}
