//! The windows of runs: outside of them, what is stored waits; a run in progress is never interrupted.
//!
//! Input: the schedule of the iModel, the backlog and the clock. Output: whether a run may be requested, and a record
//! of what waits for reports. The operator overrules a window with a request, which also ends the wait for more files.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{info, warn};

use super::Synchronizer;
use crate::config::Schedule;
use crate::ledger::{self, Backlog, WindowWait};
use crate::local_time::{self, Opening};
use crate::shell;

/// The batch window while the operator wants everything synchronized now.
pub(super) const BATCH_WINDOW: Duration = Duration::from_secs(1);

/// Whether runs may be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    Open,
    /// The operator wants everything that waits to be synchronized now.
    Requested,
    ClosedUntil(Timestamp),
}

/// What the backlog waits for. Pure.
fn wait(
    backlog: &Backlog,
    until: Timestamp,
    stale: Duration,
    now: Timestamp,
) -> Option<WindowWait> {
    let since = now.duration_since(backlog.first?);
    Some(WindowWait {
        until,
        overdue: Duration::try_from(since).is_ok_and(|since| since > stale),
    })
}

impl Synchronizer {
    /// Decides whether a run may be requested now, and records what waits.
    ///
    /// `references_since`: reference files wait for a run since then.
    pub(super) async fn window(
        &mut self,
        backlog: &Backlog,
        references_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Window, ledger::Error> {
        let requested = self
            .ledger
            .sync_requested(&self.imodel_id, references_since, now)
            .await?;
        let schedule = self
            .settings
            .borrow()
            .schedules
            .get(&self.imodel_id)
            .cloned();
        let window = match &schedule {
            _ if requested => Window::Requested,
            None => Window::Open,
            Some(schedule) => match schedule.windows.at(now, &TimeZone::system()) {
                Opening::Open => Window::Open,
                Opening::ClosedUntil(until) => Window::ClosedUntil(until),
            },
        };
        let wait = match (window, &schedule) {
            (Window::ClosedUntil(until), Some(schedule)) => {
                wait(backlog, until, schedule.stale, now)
            }
            _ => None,
        };
        self.record_window(wait, schedule.as_ref(), now).await?;
        Ok(window)
    }

    async fn record_window(
        &mut self,
        wait: Option<WindowWait>,
        schedule: Option<&Schedule>,
        now: Timestamp,
    ) -> Result<(), ledger::Error> {
        if self.run_wait == Some(wait) {
            return Ok(());
        }
        let before = self.run_wait.replace(wait);
        self.ledger.record_run_wait(&self.imodel_id, wait).await?;
        let window = schedule.map(|schedule| schedule.windows.text());
        match wait {
            None if before.is_some() => {
                info!(imodel = %self.imodel_id, window, "a run may start");
            }
            None => {}
            Some(wait) => {
                let until = local_time::label(wait.until, now, &TimeZone::system());
                if wait.overdue {
                    warn!(
                        imodel = %self.imodel_id, window, until,
                        hint = format!("run `{}`, or correct run_window", shell::command(["sync"])),
                        "files have waited for run_window for longer than window_stale"
                    );
                } else {
                    info!(imodel = %self.imodel_id, window, until, "files wait for the window of runs");
                }
            }
        }
        Ok(())
    }
}
