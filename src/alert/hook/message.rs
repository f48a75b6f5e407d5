//! The text of a message of a hook. File names are always plain text in it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::Problems;
use crate::ledger::{CreatedVersion, HookResult, Outcome};
use crate::names::QuotedPath;
use crate::shell;
use crate::text::plural;

/// Lines of one message as text.
const SHOWN: usize = 20;

/// What a message is about.
#[derive(Debug)]
pub(super) enum Content<'r> {
    /// A result.
    File(&'r HookResult),
    /// Results of one run; at least one.
    Run(Vec<&'r HookResult>),
    /// A named version.
    Version(&'r CreatedVersion),
    /// A day.
    Day {
        since: Timestamp,
        until: Timestamp,
        counts: &'r [(Outcome, u64)],
        problems: &'r Problems,
    },
}

/// A message, independent of its format.
#[derive(Debug)]
pub(super) struct Message<'r> {
    pub(super) hook: &'r str,
    pub(super) host: &'r str,
    pub(super) content: Content<'r>,
}

impl Message<'_> {
    pub(super) fn event(&self) -> &'static str {
        match &self.content {
            Content::File(_) => "file",
            Content::Run(_) => "run",
            Content::Version(_) => "version",
            Content::Day { .. } => "day",
        }
    }

    /// The same whenever this message is sent, and for no other.
    pub(super) fn delivery(&self) -> String {
        let event = self.event();
        match &self.content {
            Content::File(result) => format!("{event}-{}", result.number),
            Content::Run(results) => {
                let last = results.last().map_or(0, |last| last.number);
                format!("{event}-{last}")
            }
            Content::Version(version) => format!("{event}-{}", version.number),
            Content::Day { since, .. } => format!("{event}-{}", since.as_millisecond()),
        }
    }

    /// One line.
    pub(super) fn title(&self) -> String {
        let what = match &self.content {
            Content::File(result) => line(result),
            Content::Run(results) => {
                let mut counts: Vec<(Outcome, u64)> = Vec::new();
                for result in results {
                    match counts.iter_mut().find(|(one, _)| *one == result.outcome) {
                        Some((_, count)) => *count += 1,
                        None => counts.push((result.outcome, 1)),
                    }
                }
                format!("run ended: {}", counted(&counts))
            }
            Content::Version(version) => format!(
                "named version {:?} created, {}",
                version.name,
                plural(version.files, "file", "files")
            ),
            Content::Day { counts, .. } => format!("last day: {}", counted(counts)),
        };
        format!("itwin-syncd on {}: {what}", self.host)
    }

    /// A line for each file or problem, up to a limit.
    pub(super) fn lines(&self) -> Vec<String> {
        let (mut lines, more): (Vec<String>, u64) = match &self.content {
            Content::File(result) => (details(result), 0),
            Content::Run(results) => {
                let shown = results.iter().take(SHOWN).map(|result| line(result));
                let more = results.len().saturating_sub(SHOWN);
                (shown.collect(), more as u64)
            }
            Content::Version(version) => {
                let place = format!(
                    "iModel {}, changeset {}",
                    version.imodel_id, version.changeset_id
                );
                let texts = [version.description.clone(), place];
                (
                    texts.into_iter().filter(|text| !text.is_empty()).collect(),
                    0,
                )
            }
            Content::Day { problems, .. } => {
                let shown = problems.list.iter().take(SHOWN);
                let shown = shown.map(|one| format!("{}: {}", one.place(), one.reason));
                let more = problems.list.len().saturating_sub(SHOWN) as u64 + problems.more;
                (shown.collect(), more)
            }
        };
        if more > 0 {
            lines.push(format!(
                "and {more} more; run `{}` for all of them",
                shell::command(["status"])
            ));
        }
        lines
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.title();
        for line in self.lines() {
            text.push('\n');
            text.push_str(&line);
        }
        text.push('\n');
        text
    }

    /// The JSON format. `version` is incremented when a field changes its meaning or is removed.
    pub(super) fn json(&self) -> Value {
        let mut message = json!({
            "version": 1,
            "event": self.event(),
            "delivery": self.delivery(),
            "hook": self.hook,
            "host": self.host,
            "title": self.title(),
        });
        let more = match &self.content {
            Content::File(result) => json!({ "files": [file(result)] }),
            Content::Run(results) => {
                let files: Vec<Value> = results.iter().map(|result| file(result)).collect();
                let run = results.first().and_then(|first| first.run.as_deref());
                json!({ "run_id": run, "files": files })
            }
            Content::Version(version) => json!({
                "run_id": version.run,
                "named_version": {
                    "id": version.id,
                    "name": version.name,
                    "description": version.description,
                    "changeset_id": version.changeset_id,
                    "imodel_id": version.imodel_id.to_string(),
                    "itwin_id": version.itwin_id,
                    "watches": version.watches,
                    "files": version.files,
                    "at": version.at,
                },
            }),
            Content::Day {
                since,
                until,
                counts,
                problems,
            } => {
                let counts = counts.iter();
                let counts = counts.map(|(one, count)| (one.as_str().to_owned(), json!(count)));
                json!({
                    "since": since,
                    "until": until,
                    "results": counts.collect::<serde_json::Map<_, _>>(),
                    "problems": problems.list.iter().take(SHOWN).collect::<Vec<_>>(),
                    "total_problems": problems.list.len() as u64 + problems.more,
                })
            }
        };
        if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
            message.extend(more);
        }
        message
    }
}

fn counted(counts: &[(Outcome, u64)]) -> String {
    let counts: Vec<String> = counts
        .iter()
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    if counts.is_empty() {
        "no results".to_owned()
    } else {
        counts.join(", ")
    }
}

fn line(result: &HookResult) -> String {
    let path = QuotedPath(result.path.as_ref());
    let reason = result.reason.as_deref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{}: {path} {}{reason}", result.watch, result.outcome)
}

fn details(result: &HookResult) -> Vec<String> {
    let hint = result.hint.as_ref();
    hint.map(|hint| format!("hint: {hint}"))
        .into_iter()
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "seconds for a report")]
fn file(result: &HookResult) -> Value {
    json!({
        "watch": result.watch,
        "path": result.path,
        "result": result.outcome.as_str(),
        "connector": result.connector,
        "at": result.at,
        "seconds": result.millis as f64 / 1000.0,
        "bytes": result.bytes,
        "imodel_id": result.imodel_id.to_string(),
        "itwin_id": result.itwin_id,
        "connection_id": result.connection_id,
        "storage_file_id": result.storage_file_id,
        "source_file_id": result.source_file_id,
        "run_id": result.run,
        "reason": result.reason,
        "hint": result.hint,
    })
}
