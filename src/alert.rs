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
mod scheduler;
mod send;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{self, Heartbeat, Level};
use crate::error_chain::chain;
use crate::ledger::{
    self, FailureKind, Inactive, Ledger, Problem, RootState, SpatialRootState, WatchReport,
};
use crate::local_time;
use crate::names::QuotedPath;
use crate::retry::Policy;
use crate::runtime_status::{PageProblem, StatusTracker};
use crate::shell;
use scheduler::{Event, NotifiedState, Scheduler};
use send::Sender;

pub use hook::run as run_hook;

/// Problems that are read one by one; beyond that, only their number is reported.
const PROBLEMS_MAX: u32 = 1000;

/// Longest pause between two checks of the ledger.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Shortest pause.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// Between two attempts to deliver a message.
const PAUSES: Policy = Policy {
    first: Duration::from_secs(2),
    max: Duration::from_secs(600),
};

/// After this many failures in a row, status shows that messages are not delivered.
const UNDELIVERED: u32 = 3;

/// A current problem.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct AlertProblem {
    /// Identifies it as long as it lasts.
    #[serde(skip)]
    key: String,
    /// `file`, `issues`, `folder`, `watch`, `run`, `imodel` or `page`.
    kind: &'static str,
    #[serde(skip)]
    severe: bool,
    watch: String,
    /// Of a file: relative to its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Of a file that failed: what kind of failure it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// All current problems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Problems {
    list: Vec<AlertProblem>,
    /// Failed files beyond those in the list.
    more: u64,
}

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
    let notified = ledger.alert_memo(&alert.name).await?;
    let notified = notified.map_or_else(NotifiedState::default, |text| NotifiedState::read(&text));
    let mut scheduler = Scheduler::new(alert.group, alert.remind, notified);
    let pause = (alert.group / 4).clamp(LOOK_MIN, LOOK_MAX);
    let mut failures = 0;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let page = status.page_problem();
        let problems = match problems(&reader, page, alert.level).await {
            Ok(problems) => problems,
            Err(error) => {
                warn!(
                    alert = alert.name,
                    error = chain(&error),
                    "cannot read problems from the ledger: retrying"
                );
                continue;
            }
        };
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
        if let Some(notified) = scheduler.changed_state()
            && let Err(error) = ledger.keep_alert_memo(&alert.name, &notified).await
        {
            warn!(alert = alert.name, %error, "cannot record the sent alert: it may be repeated after a restart");
        }
    }
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

/// Calls the heartbeat URL until `stop`, as long as the ledger responds.
pub async fn beat(
    heartbeat: Heartbeat,
    http: reqwest::Client,
    reader: Ledger,
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

async fn problems(
    reader: &Ledger,
    page: Option<PageProblem>,
    level: Level,
) -> Result<Problems, ledger::Error> {
    let (watches, files, all) = reader.problems(PROBLEMS_MAX, crate::clock::now()).await?;
    let mut list: Vec<AlertProblem> = watches.iter().flat_map(of_watch).collect();
    list.extend(page.map(of_page));
    let more = all.saturating_sub(files.len() as u64);
    list.extend(files.into_iter().map(of_file));
    if level == Level::Error {
        list.retain(|problem| problem.severe);
    }
    Ok(Problems { list, more })
}

fn of_file(problem: Problem) -> AlertProblem {
    let (kind, severe) = match problem.kind {
        Some(_) => ("file", true),
        None => ("issues", false),
    };
    AlertProblem {
        key: format!("{kind} {} {}", problem.file, problem.version),
        kind,
        severe,
        failure: problem.kind.map(FailureKind::as_str),
        path: Some(problem.path.to_string_lossy().into_owned()),
        watch: problem.watch,
        reason: problem.reason,
        hint: problem.hint,
    }
}

/// Whoever relies on the page sees nothing of it: the message says so.
fn of_page(problem: PageProblem) -> AlertProblem {
    AlertProblem {
        key: "page".to_owned(),
        kind: "page",
        severe: true,
        watch: String::new(),
        path: None,
        failure: None,
        reason: problem.reason,
        hint: Some(
            "stop the program that uses the address of web.listen, or set another one and restart"
                .to_owned(),
        ),
    }
}

fn of_watch(watch: &WatchReport) -> Vec<AlertProblem> {
    let mut all = Vec::new();
    let note = || watch.note.clone().unwrap_or_default();
    let folder = |word: &str, severe, reason: String| AlertProblem {
        key: format!("{word} {}", watch.name),
        kind: "folder",
        severe,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: None,
    };
    let root = match watch.root {
        RootState::Unavailable => Some(("unavailable", true)),
        RootState::Degraded => Some(("degraded", false)),
        RootState::Ok | RootState::Polled => None,
    };
    if let Some((word, severe)) = root {
        let reason = format!("folder {word}: {}", note());
        all.push(folder(word, severe, reason));
    }
    if let Some(inactive) = &watch.inactive {
        let (severe, reason) = of_inactive(watch, inactive);
        all.push(AlertProblem {
            kind: "watch",
            ..folder("held", severe, reason)
        });
    }
    if let Some(wait) = &watch.spatial_root
        && wait.state != SpatialRootState::Pending
    {
        all.push(AlertProblem {
            kind: "watch",
            hint: wait.hint(&watch.name),
            ..folder(
                "spatial root",
                wait.state == SpatialRootState::Failed,
                wait.text(),
            )
        });
    }
    for (stage, what, keys, wait) in [
        (
            "upload",
            "the upload",
            "upload_window or upload.rate",
            watch.upload_wait,
        ),
        ("run", "a run", "run_window", watch.run_wait),
    ] {
        if let Some(wait) = wait.filter(|wait| wait.overdue) {
            let until = local_time::label(wait.until, crate::clock::now(), &TimeZone::system());
            let sync = shell::command(["sync", &watch.name]);
            let reason = format!("files wait until {until} for {what}, longer than window_stale");
            all.push(AlertProblem {
                kind: "watch",
                hint: Some(format!("run `{sync}`, or correct {keys}")),
                ..folder(&format!("{stage} window"), true, reason)
            });
        }
    }
    if let Some(rival) = &watch.rival {
        all.push(AlertProblem {
            kind: "watch",
            hint: Some(rival.hint().to_owned()),
            ..folder("rival", true, rival.reason())
        });
    }
    if let Some(fault) = &watch.settings_fault {
        all.push(AlertProblem {
            kind: "watch",
            hint: fault.hint.clone(),
            ..folder("settings", true, fault.reason.clone())
        });
    }
    if let Some(version) = &watch.named_version
        && version.severe
        && let Some(reason) = &version.reason
    {
        all.push(AlertProblem {
            kind: "imodel",
            hint: version.hint.clone(),
            ..folder(
                "named version",
                true,
                format!("iModel {}: {reason}", watch.imodel_id),
            )
        });
    }
    for trouble in watch.deletions.troubles(&watch.name) {
        all.push(AlertProblem {
            kind: "watch",
            hint: trouble.hint,
            ..folder(trouble.state.as_str(), true, trouble.reason)
        });
    }
    all.extend(of_runs(watch));
    all
}

/// Whether what keeps a watch from work is an error, and what it is.
fn of_inactive(watch: &WatchReport, inactive: &Inactive) -> (bool, String) {
    let severe = matches!(
        inactive,
        Inactive::Suspended(_) | Inactive::AwaitsSignIn(_) | Inactive::OtherLedger(_)
    );
    let state = match inactive {
        Inactive::Paused { .. } => "paused",
        Inactive::AwaitsImodel { .. } => "waits for its iModel",
        Inactive::AwaitsSignIn(_) => "waits for a user to sign in",
        Inactive::OtherLedger(_) => "waits",
        Inactive::Suspended(_) | Inactive::BackingOff { .. } => "suspended",
    };
    (severe, format!("{state}: {}", inactive.reason(&watch.name)))
}

/// Runs of its iModel that take too long, or that wait for the user for whom they act.
fn of_runs(watch: &WatchReport) -> Vec<AlertProblem> {
    let mut all = Vec::new();
    if let Some(note) = &watch.owner {
        all.push(AlertProblem {
            key: format!("owner {}", watch.name),
            kind: "watch",
            severe: note.waits,
            watch: watch.name.clone(),
            path: None,
            failure: None,
            reason: note.reason.clone(),
            hint: Some(note.hint.clone()),
        });
    }
    let own = watch.last_run.as_ref();
    if let Some(run) = own.filter(|run| run.overdue && run.ended_at.is_none()) {
        let id = run.id.as_deref().unwrap_or("of ours");
        all.push(overdue(
            watch,
            id,
            format!("run {id} takes longer than sync.run_deadline"),
        ));
    }
    if let Some(run) = watch.blocked.as_ref().filter(|run| run.overdue) {
        let reason = format!(
            "waiting for run {} of connection {:?}, which takes longer than sync.run_deadline",
            run.run, run.connection
        );
        all.push(overdue(watch, &run.run, reason));
    }
    all
}

fn overdue(watch: &WatchReport, run: &str, reason: String) -> AlertProblem {
    AlertProblem {
        key: format!("run {run} {}", watch.name),
        kind: "run",
        severe: true,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: Some("check the run in the iTwin portal".to_owned()),
    }
}

impl AlertProblem {
    /// Where it is, on one line.
    fn place(&self) -> String {
        match &self.path {
            Some(path) => format!("{}: {}", self.watch, QuotedPath(path.as_ref())),
            None if self.kind == "page" => "status page".to_owned(),
            None => format!("watch {:?}", self.watch),
        }
    }
}

#[cfg(test)]
mod tests;
