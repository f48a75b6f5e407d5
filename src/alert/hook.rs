//! Hooks: a message for results of files, after each run, for each named version, or once a day.
//!
//! Input: the results and named versions in the ledger, which have rising numbers. Output: requests to one receiver, in
//! their order, at least once: the number of the last result that was sent is recorded after its delivery, so a process
//! that dies in between sends that message again, with the same delivery id. A message that cannot be delivered is sent
//! again with growing pauses, and holds back those after it; after three days it is dropped.

mod message;
mod signature;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::problems::Problems;
use super::{Ledgers, PAUSES, UNDELIVERED, send};
use crate::config::{Format, Hook, HookEvent, Level};
use crate::error_chain::chain;
use crate::failpoint::failpoint;
use crate::ledger::{self, CreatedVersion, HookResult, Ledger};
use crate::local_time;
use crate::runtime_status::StatusTracker;
use crate::shell;
use message::{Content, Message};

/// How often the ledger is read.
const LOOK: Duration = Duration::from_secs(1);

/// Results that are read at once.
const PAGE: u32 = 1000;

/// A message that is older is dropped when it cannot be delivered.
const DROP_AFTER: SignedDuration = SignedDuration::from_hours(3 * 24);

/// The header of the signature.
const SIGNATURE: &str = "ITwin-Syncd-Signature";

/// The header of the delivery id.
const DELIVERY: &str = "ITwin-Syncd-Delivery";

/// What was sent, kept across a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// The number of the last result.
    result: i64,
    /// The number of the last named version.
    #[serde(default)]
    version: i64,
    /// When the last message of a day was sent, or the hook was new.
    day: Timestamp,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Delivered, or dropped.
    Done,
    Stopped,
}

/// One hook at work.
struct Worker {
    hook: Hook,
    http: reqwest::Client,
    ledger: Ledger,
    reader: Ledger,
    status: StatusTracker,
    /// What status calls it.
    receiver: String,
    host: String,
    stop: CancellationToken,
}

/// Runs one hook until `stop`. A new hook begins with what comes.
///
/// # Errors
/// When the ledger cannot be read at the start.
pub async fn run(
    hook: Hook,
    http: reqwest::Client,
    ledgers: Ledgers,
    status: StatusTracker,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    let Ledgers { ledger, reader } = ledgers;
    let host = rustix::system::uname();
    let memo = ledger.hook_memo(&hook.name).await?;
    let known: Option<Sent> = memo.and_then(|memo| serde_json::from_str(&memo).ok());
    let mut sent = match known {
        Some(sent) => sent,
        None => Sent {
            result: reader.last_result().await?,
            version: reader.last_created_version().await?,
            day: crate::clock::now(),
        },
    };
    let worker = Worker {
        receiver: format!("hook {:?}", hook.name),
        status,
        hook,
        http,
        ledger,
        reader,
        host: host.nodename().to_string_lossy().into_owned(),
        stop,
    };
    if known.is_none() {
        worker.keep(sent).await;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = worker.stop.cancelled() => return Ok(()),
        }
        match worker.turn(&mut sent).await {
            Ok(Ended::Done) => {}
            Ok(Ended::Stopped) => return Ok(()),
            Err(error) => warn!(
                hook = worker.hook.name,
                error = chain(&error),
                "cannot read results from the ledger: retrying"
            ),
        }
    }
}

/// Results of one run, or one result without a run; in their order. What is cut off at the end of a full page is left
/// for the next one.
fn groups(results: &[HookResult], is_full: bool) -> Vec<&[HookResult]> {
    let same = |one: &HookResult, other: &HookResult| one.run.is_some() && one.run == other.run;
    let mut groups: Vec<&[HookResult]> = results.chunk_by(same).collect();
    if is_full && groups.len() > 1 {
        groups.pop();
    }
    groups
}

impl Worker {
    /// Sends what has come since.
    async fn turn(&self, sent: &mut Sent) -> Result<Ended, ledger::Error> {
        let results = self.reader.hook_results(sent.result, PAGE).await?;
        for group in groups(&results, results.len() == PAGE as usize) {
            for content in self.contents(group) {
                let at = group.last().map_or(sent.day, |last| last.at);
                if self.deliver(content, at).await == Ended::Stopped {
                    return Ok(Ended::Stopped);
                }
            }
            if let Some(last) = group.last() {
                sent.result = last.number;
            }
            failpoint("hook message delivered");
            self.keep(*sent).await;
        }
        while let Some(version) = self.reader.created_version(sent.version).await? {
            if self.wants_version(&version)
                && self.deliver(Content::Version(&version), version.at).await == Ended::Stopped
            {
                return Ok(Ended::Stopped);
            }
            sent.version = version.number;
            failpoint("hook message delivered");
            self.keep(*sent).await;
        }
        let now = crate::clock::now();
        // Only a clock that was set back makes it later than now.
        sent.day = sent.day.min(now);
        let due = local_time::next_at(self.hook.digest_at, sent.day, &TimeZone::system());
        if let Some(due) = due.filter(|due| *due <= now)
            && self.hook.on.contains(&HookEvent::Day)
        {
            let counts = self.reader.results_since(sent.day).await?;
            let problems =
                Problems::read(&self.reader, self.status.page_problem(), Level::Warn).await?;
            let content = Content::Day {
                since: sent.day,
                until: now,
                counts: &counts,
                problems: &problems,
            };
            if self.deliver(content, due).await == Ended::Stopped {
                return Ok(Ended::Stopped);
            }
            sent.day = now;
            self.keep(*sent).await;
        }
        Ok(Ended::Done)
    }

    /// The messages of a group of results.
    fn contents<'r>(&self, group: &'r [HookResult]) -> Vec<Content<'r>> {
        let wanted: Vec<&HookResult> = group.iter().filter(|one| self.wants(one)).collect();
        let events: &BTreeSet<HookEvent> = &self.hook.on;
        let mut contents = Vec::new();
        if events.contains(&HookEvent::File) {
            contents.extend(wanted.iter().map(|one| Content::File(one)));
        }
        let has_run = wanted.first().is_some_and(|first| first.run.is_some());
        if events.contains(&HookEvent::Run) && has_run {
            contents.push(Content::Run(wanted));
        }
        contents
    }

    fn wants(&self, result: &HookResult) -> bool {
        let mut results = self.hook.results.iter();
        let watches = self.hook.watches.as_ref();
        results.any(|one| one.as_str() == result.outcome.as_str())
            && watches.is_none_or(|watches| watches.contains(&result.watch))
    }

    fn wants_version(&self, version: &CreatedVersion) -> bool {
        let watches = self.hook.watches.as_ref();
        self.hook.on.contains(&HookEvent::Version)
            && watches.is_none_or(|watches| version.watches.iter().any(|one| watches.contains(one)))
    }

    /// Sends a message until it is delivered or too old. `at` is when it came to be.
    async fn deliver(&self, content: Content<'_>, at: Timestamp) -> Ended {
        let name = &self.hook.name;
        let message = Message {
            hook: name,
            host: &self.host,
            content,
        };
        let (delivery, event) = (message.delivery(), message.event());
        let mut failures = 0;
        loop {
            let sent = tokio::select! {
                sent = self.send(&message) => sent,
                () = self.stop.cancelled() => return Ended::Stopped,
            };
            if sent.is_ok() {
                self.status.delivered(&self.receiver);
            }
            let failed = match sent {
                Ok(()) if failures > 0 => {
                    info!(
                        hook = name,
                        delivery, event, failures, "message of the hook delivered"
                    );
                    return Ended::Done;
                }
                Ok(()) => {
                    debug!(
                        hook = name,
                        delivery, event, "message of the hook delivered"
                    );
                    return Ended::Done;
                }
                Err(failed) => chain(&failed),
            };
            if crate::clock::now().duration_since(at) > DROP_AFTER {
                error!(
                    hook = name,
                    delivery,
                    event,
                    error = failed,
                    hint = format!(
                        "check the receiver; `{}` shows the results",
                        shell::command(["status"])
                    ),
                    "message of the hook dropped: it could not be delivered for three days"
                );
                return Ended::Done;
            }
            failures += 1;
            if failures >= UNDELIVERED {
                self.status.not_delivered(&self.receiver, failed.clone());
            }
            let pause = PAUSES.delay(failures, None);
            warn!(
                hook = name,
                delivery,
                event,
                error = failed,
                retry_seconds = pause.as_secs(),
                "cannot deliver the message of the hook: retrying"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return Ended::Stopped,
            }
        }
    }

    async fn send(&self, message: &Message<'_>) -> Result<(), send::Error> {
        let body = match self.hook.format {
            Format::Json => message.json(),
            Format::Teams => super::message::teams(&message.title(), &message.lines()),
            Format::Slack => super::message::slack(&message.title(), &message.text()),
        };
        if let Some(command) = &self.hook.command {
            let text = match self.hook.format {
                Format::Json => body.to_string(),
                Format::Teams | Format::Slack => message.text(),
            };
            return send::run(command, message.event(), text).await;
        }
        let Some(url) = &self.hook.url else {
            return Ok(());
        };
        let body = body.to_string();
        let mut request = self
            .http
            .post(url.expose().clone())
            .header("Content-Type", "application/json")
            .header(DELIVERY, message.delivery());
        if let Some(secret) = &self.hook.secret {
            let signed = signature::sha256(secret.expose().as_bytes(), body.as_bytes());
            request = request.header(SIGNATURE, format!("sha256={signed}"));
        }
        send::answer(url, request.body(body)).await
    }

    async fn keep(&self, sent: Sent) {
        let memo = serde_json::to_string(&sent).unwrap_or_default();
        if let Err(error) = self.ledger.keep_hook_memo(&self.hook.name, &memo).await {
            warn!(hook = self.hook.name, %error, "cannot record what the hook has sent: it may be repeated after a restart");
        }
    }
}
