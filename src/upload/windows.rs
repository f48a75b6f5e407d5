//! Keeps uploads from starting outside their windows, and while the bandwidth limit is zero.
//!
//! Input: the schedules of watches, the bandwidth limits and the clock. Output: the ledger's record of watches whose
//! uploads wait, which no claim passes; the active host writes it, and a standby checks its own windows as well. An
//! upload in progress continues.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{info, warn};

use super::Shared;
use crate::bandwidth;
use crate::config;
use crate::ledger::{self, WatchId, WatchWindow, WindowWait};
use crate::local_time::{self, Opening};
use crate::shell;

/// How often a wait that lasts is compared with the time that a file may wait.
const LOOK: Duration = Duration::from_secs(30);

impl Shared {
    /// Whether uploads of any watch may have to wait for a time of day.
    pub(super) fn has_windows(&self) -> bool {
        let pauses = self.limits.rate.iter().any(|period| period.limit == 0);
        let mut watches = self.watches.values();
        pauses || watches.any(|watch| watch.upload_schedule.is_some())
    }

    /// Records which watches wait for their window. Returns the longest pause before the next call.
    pub(super) async fn follow_windows(&self, now: Timestamp) -> Result<Duration, ledger::Error> {
        let zone = TimeZone::system();
        let paused = bandwidth::pause_end(&self.limits.rate, now, &zone);
        let mut pause = Duration::MAX;
        for recorded in self.ledger.upload_windows(now).await? {
            let Some(watch) = self.watches.get(&recorded.watch) else {
                continue;
            };
            let wait = wait(watch, &recorded, paused, now, &zone);
            if let Some(WindowWait { until, .. }) = wait {
                let left = until.duration_since(now).unsigned_abs();
                pause = pause.min(left).min(LOOK);
            }
            if wait == recorded.wait {
                continue;
            }
            self.ledger.record_upload_wait(recorded.watch, wait).await?;
            report(watch, &recorded, wait, now, &zone);
        }
        Ok(if self.has_windows() {
            pause
        } else {
            Duration::MAX
        })
    }

    /// The watches whose window is closed. A standby does not rely on the record: no host updates it while none is
    /// active.
    pub(super) async fn closed_windows(
        &self,
        now: Timestamp,
    ) -> Result<HashSet<WatchId>, ledger::Error> {
        let zone = TimeZone::system();
        let watches = self.watches.iter();
        let mut closed: HashSet<WatchId> = watches
            .filter(|(_, watch)| closed_until(watch, now, &zone).is_some())
            .map(|(id, _)| *id)
            .collect();
        if closed.is_empty() {
            return Ok(closed);
        }
        for recorded in self.ledger.upload_windows(now).await? {
            if recorded.sync_requested {
                closed.remove(&recorded.watch);
            }
        }
        Ok(closed)
    }
}

/// When the window of a watch opens, if it is closed. Pure.
fn closed_until(watch: &config::Watch, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    match watch.upload_schedule.as_ref()?.windows.at(now, zone) {
        Opening::Open => None,
        Opening::ClosedUntil(until) => Some(until),
    }
}

/// What the uploads of a watch wait for now. Pure.
fn wait(
    watch: &config::Watch,
    recorded: &WatchWindow,
    paused: Option<Timestamp>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<WindowWait> {
    let schedule = watch.upload_schedule.as_ref();
    // The operator may overrule the window, not the bandwidth limit.
    let closed = closed_until(watch, now, zone).filter(|_| !recorded.sync_requested);
    let until = closed.into_iter().chain(paused).max()?;
    let stale = schedule.map_or(config::STALE, |schedule| schedule.stale);
    let waits = recorded.oldest_due.map(|oldest| now.duration_since(oldest));
    let overdue = waits
        .and_then(|waits| Duration::try_from(waits).ok())
        .is_some_and(|waits| waits > stale);
    Some(WindowWait { until, overdue })
}

fn report(
    watch: &config::Watch,
    recorded: &WatchWindow,
    wait: Option<WindowWait>,
    now: Timestamp,
    zone: &TimeZone,
) {
    let name = &watch.name;
    match wait {
        None => info!(watch = name, "uploads may start"),
        Some(WindowWait {
            until,
            overdue: true,
        }) => warn!(
            watch = name,
            until = local_time::label(until, now, zone),
            hint = format!(
                "run `{}`, or correct upload_window or upload.rate",
                shell::command(["sync", name])
            ),
            "files have waited for their upload for longer than window_stale"
        ),
        Some(WindowWait { until, .. }) if recorded.wait.is_none() => info!(
            watch = name,
            until = local_time::label(until, now, zone),
            "uploads wait"
        ),
        Some(_) => {}
    }
}
