//! Notifications to systemd. Nothing depends on them: a failure is only logged.
//!
//! Uses what systemd 249 knows, and newer messages where older versions ignore them. Source: `sd_notify(3)`

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// While it starts, the service asks systemd for this much more time…
const MORE: Duration = Duration::from_secs(60);

/// …this often…
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// …for at most this long: a start that takes longer is stuck, and a restart may help.
const START_MAX: Duration = Duration::from_secs(3600);

/// Time to close the ledger after the grace period of a stop.
const CLOSING: Duration = Duration::from_secs(15);

/// The service is ready. `status` is the line that `systemctl status` shows.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// The configuration is being reloaded; [`ready`] ends that.
pub(super) fn reloading() {
    // Since version 253 the time must be in the same message, or the reload never ends.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reloading the configuration"),
        ]),
        Err(error) => {
            warn!(%error, "cannot read the monotonic clock: systemd does not know about the reload");
        }
    }
}

/// Pings the watchdog.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// The service stops, and asks for the grace period.
pub(super) fn stopping(grace: Duration) {
    notify(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros(grace + CLOSING)),
        NotifyState::Status("stopping: waiting for running uploads"),
    ]);
}

/// Awaits a part of the start that may take long, such as migrating a large ledger, and asks systemd for the time.
pub(super) async fn extending_timeout<T>(start: impl Future<Output = T>) -> T {
    let asking = async {
        let mut asked = Duration::ZERO;
        while asked < START_MAX {
            notify(&[
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

/// The watchdog timeout of the unit; `None` without a watchdog.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot notify systemd");
    }
}
