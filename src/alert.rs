//! Alerts: a message when something fails, reminders while it lasts, and a message when it is resolved.
//!
//! Input: the current problems, from a read-only ledger. Output: messages to webhooks, mail servers and programs. Each
//! `[[alert]]` is a task of its own, so a slow receiver delays no other. A message that cannot be delivered is sent
//! again with growing pauses, with the problems of that time. What was sent is recorded in the ledger, so that a
//! restart sends nothing twice and forgets no resolution. A heartbeat calls an external monitor that reports when the
//! calls stop.

mod hook;
mod mail;
mod message;
mod problems;
mod scheduler;
mod send;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{self, Heartbeat};
use crate::error_chain::chain;
use crate::ledger::{self, Ledger};
use crate::retry::Policy;
use crate::runtime_status::StatusTracker;
use problems::Problems;
use scheduler::{Event, NotifiedState, Scheduler};
use send::Sender;

pub use hook::run as run_hook;

/// Longest pause between two checks of the ledger.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Shortest pause.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// Between two attempts to deliver a message.
const PAUSES: Policy = Policy {
    first: Duration::from_secs(2),
    max: Duration::from_secs(600),
};

/// How long recording what was sent may take; longer, it is tried again.
const KEEP_MAX: Duration = Duration::from_secs(10);

/// After this many failures in a row, status shows that messages are not delivered.
const UNDELIVERED: u32 = 3;

/// How to reach receivers.
#[derive(Debug, Clone)]
pub struct Receivers {
    /// For webhooks.
    pub http: reqwest::Client,
    /// Certificates (DER) that mail servers may have, beside those that the system trusts.
    pub certificates: Vec<Vec<u8>>,
    /// Time limit for the dialog with a mail server.
    pub dialog: Duration,
}

/// Two ledgers on one directory: reports are read from the second, so that they delay no other work.
#[derive(Debug, Clone)]
pub struct Ledgers {
    /// To record what was sent.
    pub ledger: Ledger,
    /// To read what to send.
    pub reader: Ledger,
}

/// Runs one alert until `stop`.
///
/// # Errors
/// When the sent alerts cannot be read from the ledger at the start.
pub async fn run(
    alert: config::Alert,
    receivers: Receivers,
    ledgers: Ledgers,
    status: StatusTracker,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    let Ledgers { ledger, reader } = ledgers;
    let receiver = format!("alert {:?}", alert.name);
    let sender = Sender::new(&alert, receivers);
    let Some(notified) = notified(&ledger, &alert.name, &status, &stop).await? else {
        return Ok(());
    };
    let mut scheduler = Scheduler::new(alert.group, alert.remind, notified);
    let pause = (alert.group / 4).clamp(LOOK_MIN, LOOK_MAX);
    let mut failures = 0;
    let mut not_before = Instant::now();
    let mut last = Problems::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let (page, outage) = (status.page_problem(), status.ledger_outage());
        let problems = match Problems::read(&reader, page, alert.level).await {
            Ok(problems) => problems,
            // What was read last is not resolved.
            Err(_) if outage.is_some() => last,
            Err(error) => {
                warn!(
                    alert = alert.name,
                    error = chain(&error),
                    "cannot read problems from the ledger: retrying"
                );
                continue;
            }
        };
        last = problems.clone();
        let problems = problems.with(outage);
        let now = crate::clock::now();
        let due = scheduler.check(&problems, now);
        if let Some(event) = due.filter(|_| Instant::now() >= not_before) {
            let sent = tokio::select! {
                sent = sender.send(event, &problems, scheduler.sent_keys(), now) => sent,
                () = stop.cancelled() => return Ok(()),
            };
            match sent {
                Ok(()) => {
                    info!(alert = alert.name, event = event.as_str(), "alert sent");
                    failures = 0;
                    status.delivered(&receiver);
                    scheduler.delivered(event, &problems, now);
                }
                Err(error) => {
                    failures += 1;
                    let pause = PAUSES.delay(failures, None);
                    not_before = Instant::now() + pause;
                    if failures >= UNDELIVERED {
                        status.not_delivered(&receiver, chain(&error));
                    }
                    warn!(
                        alert = alert.name,
                        event = event.as_str(),
                        error = chain(&error),
                        hint = error.hint(),
                        retry_seconds = pause.as_secs(),
                        "cannot deliver the alert: retrying"
                    );
                }
            }
        }
        if let Some(notified) = scheduler.changed_state() {
            let kept = ledger.keep_alert_memo(&alert.name, &notified);
            // A ledger whose database is away must not delay alerts about that.
            match tokio::time::timeout(KEEP_MAX, kept).await {
                Ok(Ok(())) => scheduler.saved(),
                Ok(Err(error)) => {
                    scheduler.saved();
                    warn!(alert = alert.name, %error, "cannot record the sent alert: it may be repeated after a restart");
                }
                Err(_) => {}
            }
        }
    }
}

/// What was sent before this start; None: to stop. Nothing if the database of the ledger is away: an alert about that
/// must not wait for its end. Then earlier problems are reported again, and the end of those that are gone is not.
async fn notified(
    ledger: &Ledger,
    alert: &str,
    status: &StatusTracker,
    stop: &CancellationToken,
) -> Result<Option<NotifiedState>, ledger::Error> {
    let is_away = async {
        while status.ledger_outage().is_none() {
            tokio::time::sleep(LOOK_MIN).await;
        }
    };
    let memo = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(None),
        memo = ledger.alert_memo(alert) => memo?,
        () = is_away => None,
    };
    let notified = memo.map_or_else(NotifiedState::default, |text| NotifiedState::read(&text));
    Ok(Some(notified))
}

/// Sends one message that says it is a test.
///
/// # Errors
/// Why it was not delivered, and what can be done about it.
pub(crate) async fn test(
    alert: &config::Alert,
    receivers: Receivers,
) -> Result<(), (String, Option<String>)> {
    let sender = Sender::new(alert, receivers);
    let (nothing, sent, now) = (Problems::default(), BTreeSet::new(), crate::clock::now());
    let delivered = sender.send(Event::Test, &nothing, &sent, now).await;
    delivered.map_err(|error| (chain(&error), error.hint()))
}

/// Calls the heartbeat URL until `stop`, as long as the ledger can be used.
pub async fn beat(
    heartbeat: Heartbeat,
    http: reqwest::Client,
    reader: Ledger,
    status: StatusTracker,
    stop: CancellationToken,
) {
    let Some(url) = heartbeat.url else {
        stop.cancelled().await;
        return;
    };
    let work = async {
        let mut missed = false;
        loop {
            let called = match reader.last_result().await {
                Ok(_) if status.ledger_outage().is_some() => Err("ledger not available".to_owned()),
                Ok(_) => send::call(&http, &url).await.map_err(|error| chain(&error)),
                Err(error) => Err(error.to_string()),
            };
            match called {
                Ok(()) if missed => {
                    missed = false;
                    info!(%url, "heartbeat recovered");
                }
                Ok(()) => debug!(%url, "heartbeat"),
                Err(error) => {
                    missed = true;
                    warn!(%url, error, "heartbeat failed");
                }
            }
            tokio::time::sleep(heartbeat.interval).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}
