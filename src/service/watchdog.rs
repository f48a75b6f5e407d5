//! The status line for systemd, and the pings of its watchdog.
//!
//! A ping requires three proofs: this task is scheduled, so the runtime works; the ledger accepts a change; and the
//! upload queue was checked recently. A hanging share affects none of them, because a restart would not help: its watch
//! shows as degraded.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use super::systemd;
use crate::control;
use crate::ledger::{self, Health, Ledger, RootState};
use crate::next_attempt::{after, clock_time};

/// How often the status line is updated.
const STATUS: Duration = Duration::from_secs(5);

/// Updating it takes at most this share of the time.
const SHARE: u32 = 20;

/// Pings per watchdog timeout: one may be late.
const PINGS: u32 = 3;

/// A job that is due later than this counts as waiting for later.
const SOON: Duration = Duration::from_secs(60);

/// Updates the status line and pings systemd.
pub(super) struct Watchdog {
    pub(super) ledger: Ledger,
    /// When the upload queue was checked last.
    pub(super) queue: watch::Receiver<Instant>,
    /// A note in front of the status line, such as a rejected reload.
    pub(super) note: watch::Receiver<Option<String>>,
}

impl Watchdog {
    /// Runs until it is dropped.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(super) async fn run(self) -> Result<(), ledger::Error> {
        tokio::select! {
            ended = self.update_status() => ended,
            never = self.ping() => never,
        }
    }

    async fn update_status(&self) -> Result<(), ledger::Error> {
        let mut note = self.note.clone();
        let mut shown = String::new();
        loop {
            let began = Instant::now();
            let noted = note.borrow_and_update().clone();
            let line = line(&self.ledger, noted.as_deref()).await?;
            if line != shown {
                systemd::status(&line);
                shown = line;
            }
            let pause = STATUS.max(began.elapsed() * SHARE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = note.changed() => {}
            }
        }
    }

    async fn ping<T>(&self) -> T {
        let Some(allowed) = systemd::watchdog() else {
            return std::future::pending().await;
        };
        let pause = allowed / PINGS;
        let mut healthy = true;
        loop {
            match control::prove(&self.ledger, &self.queue, pause).await {
                Ok(()) => {
                    systemd::alive();
                    if !healthy {
                        info!("health check recovered");
                    }
                    healthy = true;
                }
                Err(reason) => {
                    if healthy {
                        error!(
                            hint = "systemd restarts the service if this persists; check the disk of state.path",
                            "health check failed: {reason}"
                        );
                    }
                    healthy = false;
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// The current status line.
pub(super) async fn line(ledger: &Ledger, note: Option<&str>) -> Result<String, ledger::Error> {
    let standing = ledger.health(after(crate::clock::now(), SOON)).await?;
    Ok(status_line(&standing, note))
}

/// The status line.
fn status_line(standing: &Health, note: Option<&str>) -> String {
    let mut line = String::new();
    if let Some(note) = note {
        line = format!("{note}; ");
    }
    if let Some(reason) = &standing.sign_in_wait {
        write!(line, "waiting for a sign-in: {reason}; ").ok();
    }
    let roots = &standing.roots;
    let ok = |state: RootState| matches!(state, RootState::Ok | RootState::Polled);
    let good = roots.iter().filter(|(_, state)| ok(*state)).count();
    // Writing into a text does not fail.
    write!(line, "{good} of {} folders ok", roots.len()).ok();
    for (name, state) in roots.iter().filter(|(_, state)| !ok(*state)) {
        write!(line, ", {name:?} {}", state.as_str()).ok();
    }
    let jobs = standing.jobs;
    write!(line, "; queue {}", jobs.pending + jobs.later).ok();
    if jobs.failed > 0 {
        write!(line, ", {} failed", jobs.failed).ok();
    }
    match &standing.last_run {
        None => line.push_str("; no run yet"),
        Some((at, result)) => {
            let result = result.as_deref().unwrap_or("(unknown result)");
            write!(line, "; last run {result} {}", clock_time(*at)).ok();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::ledger::Summary;

    #[test]
    fn the_status_line_shows_note_sign_in_folders_queue_failures_and_last_run() {
        let mut standing = Health {
            roots: vec![("north".to_owned(), RootState::Ok)],
            jobs: Summary::default(),
            last_run: None,
            sign_in_wait: None,
        };
        assert_eq!(
            status_line(&standing, None),
            "1 of 1 folders ok; queue 0; no run yet"
        );
        standing.roots.extend([
            ("east".to_owned(), RootState::Polled),
            ("south".to_owned(), RootState::Unavailable),
            ("west".to_owned(), RootState::Degraded),
        ]);
        standing.jobs = Summary {
            pending: 3,
            failed: 2,
            later: 9,
        };
        let at = Timestamp::UNIX_EPOCH;
        standing.last_run = Some((at, Some("PartialSuccess".to_owned())));
        assert_eq!(
            status_line(&standing, Some("reload rejected")),
            format!(
                "reload rejected; 2 of 4 folders ok, \"south\" unavailable, \"west\" degraded; \
                 queue 12, 2 failed; last run PartialSuccess {}",
                clock_time(at)
            )
        );
        standing.sign_in_wait = Some("no user is signed in".to_owned());
        let line = status_line(&standing, None);
        let wait = "waiting for a sign-in: no user is signed in; 2 of 4 folders ok, ";
        assert!(line.starts_with(wait), "{line}");
    }
}
