//! Tells people when something fails, reminds them while it lasts, and tells them when it is over.
//!
//! In come, from a ledger that is open for reading, the problems that there are; out go messages to webhooks and
//! programs. Each `[[alert]]` is a task of its own that waits for nobody but its receiver: what cannot be delivered is
//! tried again with growing pauses, as the state of things is then. What was told stands in the ledger, so a restart
//! tells nothing twice and forgets no all-clear. A heartbeat calls a dead man's switch beside that.

mod message;
mod scheduler;
mod send;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::{self, Heartbeat, Level};
use crate::error_chain::chain;
use crate::ledger::{self, FailureKind, Ledger, Problem, RootState, WatchReport};
use crate::names::Shown;
use crate::retry::Policy;
use scheduler::{Desk, Memo};
use send::Sender;

/// Problems that are looked at one by one; of more, only their number is told.
const PROBLEMS_MAX: u32 = 1000;

/// Between two looks at the ledger at most.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// And at least.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// Between two attempts to deliver a message.
const PAUSES: Policy = Policy {
    first: Duration::from_secs(2),
    max: Duration::from_secs(600),
};

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Trouble {
    /// Tells it from all others, for as long as it lasts.
    #[serde(skip)]
    key: String,
    /// `file`, `issues`, `folder`, `watch` or `run`.
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

/// All that is wrong now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Troubles {
    list: Vec<Trouble>,
    /// Failed files beyond those in the list.
    more: u64,
}

/// Runs one alert until `stop`. `reader` is a second ledger on the same directory.
///
/// # Errors
/// When what was told cannot be read from the ledger at the start.
pub async fn run(
    alert: config::Alert,
    http: reqwest::Client,
    ledger: Ledger,
    reader: Ledger,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    let sender = Sender::new(&alert, http);
    let memo = ledger.alert_memo(&alert.name).await?;
    let memo = memo.map_or_else(Memo::default, |text| Memo::read(&text));
    let mut desk = Desk::new(alert.group, alert.remind, memo);
    let pause = (alert.group / 4).clamp(LOOK_MIN, LOOK_MAX);
    let mut failures = 0;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let troubles = match troubles(&reader, alert.level).await {
            Ok(troubles) => troubles,
            Err(error) => {
                warn!(
                    alert = alert.name,
                    error = chain(&error),
                    "cannot look up problems in the ledger; trying again"
                );
                continue;
            }
        };
        let now = crate::clock::now();
        let due = desk.look(&troubles, now);
        if let Some(event) = due.filter(|_| Instant::now() >= not_before) {
            let sent = tokio::select! {
                sent = sender.send(event, &troubles, desk.told(), now) => sent,
                () = stop.cancelled() => return Ok(()),
            };
            match sent {
                Ok(()) => {
                    info!(alert = alert.name, event = event.as_str(), "alert sent");
                    failures = 0;
                    desk.delivered(event, &troubles, now);
                }
                Err(error) => {
                    failures += 1;
                    let pause = PAUSES.delay(failures, None);
                    not_before = Instant::now() + pause;
                    warn!(
                        alert = alert.name,
                        event = event.as_str(),
                        error = chain(&error),
                        seconds = pause.as_secs(),
                        "an alert could not be delivered; trying again"
                    );
                }
            }
        }
        if let Some(memo) = desk.news()
            && let Err(error) = ledger.keep_alert_memo(&alert.name, &memo).await
        {
            warn!(alert = alert.name, %error, "what was told could not be written down");
        }
    }
}

/// Calls the dead man's switch until `stop`, as long as the ledger answers.
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
                    info!(%url, "the heartbeat arrives again");
                }
                Ok(()) => debug!(%url, "heartbeat"),
                Err(error) => {
                    missed = true;
                    warn!(%url, error, "the heartbeat did not arrive");
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

async fn troubles(reader: &Ledger, level: Level) -> Result<Troubles, ledger::Error> {
    let (watches, files, all) = reader.problems(PROBLEMS_MAX, crate::clock::now()).await?;
    let mut list: Vec<Trouble> = watches.iter().flat_map(of_watch).collect();
    let more = all.saturating_sub(files.len() as u64);
    list.extend(files.into_iter().map(of_file));
    if level == Level::Error {
        list.retain(|trouble| trouble.severe);
    }
    Ok(Troubles { list, more })
}

fn of_file(problem: Problem) -> Trouble {
    let (kind, severe) = match problem.kind {
        Some(_) => ("file", true),
        None => ("issues", false),
    };
    Trouble {
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

fn of_watch(watch: &WatchReport) -> Vec<Trouble> {
    let mut all = Vec::new();
    let note = || watch.note.clone().unwrap_or_default();
    let folder = |word: &str, severe, reason: String| Trouble {
        key: format!("{word} {}", watch.name),
        kind: "folder",
        severe,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: None,
    };
    match watch.root {
        RootState::Unavailable => all.push(folder(
            "unavailable",
            true,
            format!("its folder cannot be reached: {}", note()),
        )),
        RootState::Degraded => all.push(folder(
            "degraded",
            false,
            format!("its folder is only partly watched: {}", note()),
        )),
        RootState::Ok | RootState::Polled => {}
    }
    if let Some((_, reason)) = &watch.held {
        let braked = watch.waits_for_person && watch.paused_at.is_none();
        all.push(Trouble {
            kind: "watch",
            ..folder("held", braked, format!("it is held: {reason}"))
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
            "waits for run {} of connection {:?}, which takes longer than sync.run_deadline",
            run.run, run.connection
        );
        all.push(overdue(watch, &run.run, reason));
    }
    all
}

fn overdue(watch: &WatchReport, run: &str, reason: String) -> Trouble {
    Trouble {
        key: format!("run {run} {}", watch.name),
        kind: "run",
        severe: true,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: Some("look at the run in the iTwin portal".to_owned()),
    }
}

impl Trouble {
    /// Where it is, on one line.
    fn place(&self) -> String {
        match &self.path {
            Some(path) => format!("{}: {}", self.watch, Shown(path.as_ref())),
            None => format!("watch {:?}", self.watch),
        }
    }
}
