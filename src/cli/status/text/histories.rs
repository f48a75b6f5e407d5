//! The histories of files as text.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{line, named, shown, size};
use crate::cli::status::times::{moment_at, span};
use crate::cli::status::unfinished::UnfinishedFile;
use crate::ledger::{HistoryEvent, RunEvent, Step};
use crate::next_attempt::clock_time;
use crate::status_view::{HistoryView, LineView};
use crate::text::plural;

/// The histories of files, separated by blank lines, and after them files that have none yet.
pub(in crate::cli::status) fn histories(
    histories: &[HistoryView],
    unfinished: &[UnfinishedFile],
    now: Timestamp,
) -> String {
    let mut out = known_histories(histories);
    for file in unfinished {
        if !out.is_empty() {
            out.push('\n');
        }
        let state = match file.unreadable_since {
            Some(since) => format!("unreadable, first seen {}", moment_at(since, now)),
            None => "still being written".to_owned(),
        };
        let path = shown(&file.view.path);
        line(&mut out, &format!("{}: {path}  {state}", file.watch));
        if let Some(reason) = &file.view.reason {
            line(&mut out, &format!("  reason: {reason}; retrying"));
        }
        if let Some(hint) = &file.view.hint {
            line(&mut out, &format!("  hint:   {hint}"));
        }
    }
    out
}

fn known_histories(histories: &[HistoryView]) -> String {
    let mut out = String::new();
    for (index, history) in histories.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let file = &history.file;
        line(&mut out, &format!("{}  {}", named(file), file.status));
        if let Some(connector) = &file.connector {
            line(&mut out, &format!("  connector     {connector}"));
        }
        if let Some(id) = &file.storage_file_id {
            line(&mut out, &format!("  storage file  {id}"));
        }
        if let Some(bytes) = file.bytes {
            line(&mut out, &format!("  in storage    {}", size(bytes)));
        }
        if let Some(since) = file
            .absent_since
            .filter(|_| file.absence != Some("missing"))
        {
            line(&mut out, &format!("  absent since  {}", clock_time(since)));
        }
        if let Some(issues) = file.issues {
            line(
                &mut out,
                &format!(
                    "  issues        {}, {}, {}",
                    plural(issues.errors, "error", "errors"),
                    plural(issues.warnings, "warning", "warnings"),
                    plural(issues.others, "other", "others")
                ),
            );
        }
        if history.history.is_empty() {
            line(&mut out, "  no history");
        }
        for entry in &history.history {
            history_line(&mut out, entry);
        }
        // The reason is in the last line, unless that is older than the history.
        if let Some(at) = file.next_attempt.filter(|_| file.reason.is_some()) {
            line(&mut out, &format!("  {}  next attempt", clock_time(at)));
        }
    }
    out
}

fn history_line(out: &mut String, entry: &LineView) {
    let is_reason = !matches!(
        entry.what,
        HistoryEvent::Run(RunEvent::Ended) | HistoryEvent::Step(Step::ReferenceChanged)
    );
    let mut text = format!("  {}  {}", clock_time(entry.at), entry.text);
    if !is_reason && let Some(note) = &entry.note {
        let _infallible = write!(text, ": {note}");
    }
    if let Some(run) = entry.run.as_ref().filter(|_| entry.version.is_none()) {
        let _infallible = write!(text, " (run {run})");
    }
    if let Some(seconds) = entry.seconds {
        let _infallible = write!(text, ", {} after it was queued", span(seconds));
    }
    line(out, &text);
    // The text of a rename contains the old path.
    let is_renamed = entry.what == HistoryEvent::Step(Step::Renamed);
    if is_reason
        && !is_renamed
        && let Some(note) = &entry.note
    {
        line(out, &format!("                       reason: {note}"));
    }
    if let Some(hint) = &entry.hint {
        line(out, &format!("                       hint:   {hint}"));
    }
}
