//! The service's sign of life: the status line, and the watchdog's pings.
//!
//! A ping is sent only when three things are proved: this task gets its turn, so the scheduler moves; the ledger takes a change; and the queue of uploads
//! was looked at a short while ago. A share that hangs stops none of the three, because a restart would not mend it: it shows as degraded.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};

use super::systemd;
use crate::ledger::{self, Ledger, RootState, Standing};
use crate::next_attempt::{after, clock_time};

/// How often the status line is written anew.
const STATUS: Duration = Duration::from_secs(5);

/// Writing it may take this part of the time.
const SHARE: u32 = 20;

/// Pings in the time that systemd allows: one may come late.
const PINGS: u32 = 3;

/// The queue of uploads looks at itself at least every half minute.
const QUEUE_MAX: Duration = Duration::from_secs(120);

/// A job that is due later than this is not under way.
const SOON: Duration = Duration::from_secs(60);

/// What the sign of life is taken from.
pub(super) struct Pulse {
    pub(super) ledger: Ledger,
    /// When the queue of uploads was looked at last.
    pub(super) queue: watch::Receiver<Instant>,
    /// What a person should know beside the rest, such as a configuration that was not taken.
    pub(super) note: watch::Receiver<Option<String>>,
}

impl Pulse {
    /// Goes on until it is dropped.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(super) async fn run(self) -> Result<(), ledger::Error> {
        tokio::select! {
            ended = self.tell() => ended,
            never = self.ping() => never,
        }
    }

    async fn tell(&self) -> Result<(), ledger::Error> {
        let mut note = self.note.clone();
        let mut told = String::new();
        loop {
            let began = Instant::now();
            let noted = note.borrow_and_update().clone();
            let line = line(&self.ledger, noted.as_deref()).await?;
            if line != told {
                systemd::status(&line);
                told = line;
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
        let mut well = true;
        loop {
            match self.prove(pause).await {
                Ok(()) => {
                    systemd::alive();
                    if !well {
                        info!("all moves again");
                    }
                    well = true;
                }
                Err(reason) => {
                    if well {
                        error!(
                            reason,
                            hint = "systemd starts the service again unless that passes; see whether the disk of state.path is well",
                            "the service does not move"
                        );
                    }
                    well = false;
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// That all moves, or what does not.
    async fn prove(&self, patience: Duration) -> Result<(), String> {
        match tokio::time::timeout(patience, self.ledger.prove_alive()).await {
            Ok(Ok(())) if self.queue.borrow().elapsed() < QUEUE_MAX => Ok(()),
            Ok(Ok(())) => Err("the queue of uploads does not move".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the ledger does not answer".to_owned()),
        }
    }
}

/// The line of this moment.
pub(super) async fn line(ledger: &Ledger, note: Option<&str>) -> Result<String, ledger::Error> {
    let standing = ledger.standing(after(crate::clock::now(), SOON)).await?;
    Ok(words(&standing, note))
}

/// How things stand, in one line.
fn words(standing: &Standing, note: Option<&str>) -> String {
    let mut line = String::new();
    if let Some(note) = note {
        line = format!("{note}; ");
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
            let result = result.as_deref().unwrap_or("without a result");
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

    #[tokio::test]
    async fn a_queue_of_uploads_that_nobody_looked_at_for_long_is_no_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let (turned, queue) = watch::channel(now);
        let pulse = Pulse {
            ledger: Ledger::open(dir.path()).await.unwrap(),
            queue,
            note: watch::channel(None).1,
        };
        let patience = Duration::from_secs(60);
        assert_eq!(pulse.prove(patience).await, Ok(()));
        turned.send_replace(now.checked_sub(QUEUE_MAX).unwrap());
        let told = pulse.prove(patience).await.unwrap_err();
        assert!(told.contains("queue"), "{told}");
    }

    #[test]
    fn the_line_tells_folders_queue_failures_last_run_and_what_a_person_should_know() {
        let mut standing = Standing {
            roots: vec![("north".to_owned(), RootState::Ok)],
            jobs: Summary::default(),
            last_run: None,
        };
        assert_eq!(
            words(&standing, None),
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
            words(&standing, Some("the configuration was not taken")),
            format!(
                "the configuration was not taken; 2 of 4 folders ok, \"south\" unavailable, \"west\" degraded; \
                 queue 12, 2 failed; last run PartialSuccess {}",
                clock_time(at)
            )
        );
    }
}
