//! The report as text.

use std::fmt::Write as _;
use std::path::Path;

use bytesize::ByteSize;
use jiff::Timestamp;

use crate::ledger::{HistoryEvent, RunEvent, Step};
use crate::names::QuotedPath;
use crate::next_attempt::clock_time;
use crate::status_view::{
    FileView, HistoryView, LineView, ResultView, RunProgressView, StatusView, Surroundings,
    UploadView, WatchView, summary,
};
use crate::text::{plural, span_of};

use super::UnfinishedFile;
use super::times::{moment_at, span, upcoming};

/// Cells of a progress bar.
const BAR: u64 = 20;

/// The whole report.
pub(super) fn report(view: &StatusView, surroundings: &Surroundings, now: Timestamp) -> String {
    let mut out = String::new();
    line(&mut out, &summary(view, surroundings).text);
    line(
        &mut out,
        &daemon(view, surroundings.unreachable.as_deref(), now),
    );
    if let Some(outage) = &view.platform_outage {
        let since = moment_at(outage.since, now);
        let reason = &outage.reason;
        line(
            &mut out,
            &format!("platform not available, first failed request {since}: {reason}"),
        );
    }
    for one in &view.undelivered {
        let (receiver, reason) = (&one.receiver, &one.reason);
        let since = moment_at(one.since, now);
        line(
            &mut out,
            &format!(
                "messages of {receiver} not delivered, first failed attempt {since}: {reason}"
            ),
        );
    }
    if let Some(problem) = &view.page_problem {
        let (since, reason) = (moment_at(problem.since, now), &problem.reason);
        line(
            &mut out,
            &format!("page not available, first failed attempt {since}: {reason}"),
        );
    }
    if let Some(batch) = &view.batch {
        line(&mut out, &batch.text);
    }
    for watch in &view.watches {
        out.push('\n');
        watch_text(&mut out, watch, now);
    }
    if !view.failed.is_empty() {
        out.push('\n');
        heading(
            &mut out,
            "FAILED",
            view.failed.len(),
            |watch| watch.files.failed,
            view,
        );
        for file in &view.failed {
            failed_file(&mut out, file, now);
        }
    }
    if !view.open.is_empty() {
        out.push('\n');
        heading(
            &mut out,
            "IN PROGRESS",
            view.open.len(),
            |watch| watch.files.waiting + watch.files.working,
            view,
        );
        for file in &view.open {
            open_file(&mut out, file, &view.uploads, now);
        }
    }
    if !view.results.is_empty() {
        out.push('\n');
        line(&mut out, "RECENT");
        for result in &view.results {
            done(&mut out, result, now);
        }
    }
    out
}

fn heading(
    out: &mut String,
    title: &str,
    shown: usize,
    count: impl Fn(&WatchView) -> u64,
    view: &StatusView,
) {
    let all: u64 = view.watches.iter().map(count).sum();
    let more = if all > shown as u64 {
        format!(" (showing {shown} of {all}; --json lists all)")
    } else {
        String::new()
    };
    line(out, &format!("{title}{more}"));
}

fn daemon(view: &StatusView, unreachable: Option<&str>, now: Timestamp) -> String {
    match (&view.daemon, unreachable) {
        (Some(daemon), _) => format!(
            "itwin-syncd {} is running, started {} (pid {})",
            daemon.version,
            moment_at(daemon.since, now),
            daemon.pid
        ),
        (None, Some(why)) => format!("itwin-syncd is running but does not respond: {why}"),
        (None, None) => "itwin-syncd is not running; showing the last known state".to_owned(),
    }
}

fn watch_text(out: &mut String, watch: &WatchView, now: Timestamp) {
    if !watch.configured {
        let known = watch.files.synchronized
            + watch.files.synchronized_with_issues
            + watch.files.uploaded
            + watch.files.gone;
        if known > 0 {
            let name = &watch.name;
            line(
                out,
                &format!("watch {name:?}: no longer configured; known files: {known}"),
            );
        }
        return;
    }
    line(
        out,
        &format!("watch {:?} → iModel {}", watch.name, watch.imodel_id),
    );
    let files = &watch.files;
    let mut counts = vec![format!("{} synchronized", files.synchronized)];
    if files.synchronized_with_issues > 0 {
        counts.push(format!("{} with issues", files.synchronized_with_issues));
    }
    if files.gone > 0 {
        counts.push(format!("{} gone", files.gone));
    }
    if files.uploaded > 0 {
        counts.push(format!("{} uploaded only", files.uploaded));
    }
    if let Some(settling) = files.settling.filter(|settling| *settling > 0) {
        counts.push(format!("{settling} being written"));
    }
    if let Some(unreadable) = files.unreadable.filter(|unreadable| *unreadable > 0) {
        counts.push(format!("{unreadable} unreadable"));
    }
    counts.push(format!("{} waiting", files.waiting));
    counts.push(format!("{} in progress", files.working));
    counts.push(format!("{} failed", files.failed));
    if let Some(ignored) = files.ignored {
        counts.push(format!("{ignored} ignored"));
    }
    line(out, &format!("  files   {}", counts.join(", ")));
    line(out, &format!("  folder  {}", folder(watch, now)));
    if let Some(at) = watch.paused_at {
        let text = format!(
            "  paused {}; run `itwin-syncd resume {}` to continue",
            moment_at(at, now),
            watch.name
        );
        line(out, &text);
    } else if let Some(reason) = &watch.suspended_reason {
        let retry = watch
            .suspended_until
            .map(|until| format!(", retrying {}", upcoming(until, now)))
            .unwrap_or_default();
        line(out, &format!("  suspended{retry}: {reason}"));
    }
    for deletions in &watch.deletions {
        let text = format!("{}: {}", deletions.state, deletions.reason);
        hinted(out, &text, deletions.hint.as_deref());
    }
    imodel_text(out, watch, now);
    for file in &watch.unfinished {
        let why = match &file.reason {
            Some(reason) => format!("{reason}; retrying"),
            None => "still being written".to_owned(),
        };
        let text = format!("new     {}  {why}", shown(&file.path));
        hinted(out, &text, file.hint.as_deref());
    }
}

/// What happens to the iModel of a watch.
fn imodel_text(out: &mut String, watch: &WatchView, now: Timestamp) {
    if let Some(run) = &watch.last_run {
        let shown = match (run.ended_at, run.seconds) {
            (Some(ended), Some(seconds)) => format!(
                "{}, ended {}, took {}",
                run.result.as_deref().unwrap_or("unknown result"),
                moment_at(ended, now),
                span(seconds)
            ),
            _ => format!(
                "in progress ({}), requested {}{}",
                run.state.as_deref().unwrap_or("state unknown"),
                moment_at(run.requested_at, now),
                run.usual_seconds
                    .map(|usual| format!(", usually takes {}", span(usual)))
                    .unwrap_or_default()
            ),
        };
        let overdue = if run.overdue { ", overdue" } else { "" };
        line(out, &format!("  run     {shown}{overdue}"));
        if let Some(progress) = &run.progress {
            line(out, &format!("          {}", run_progress(progress)));
        }
    }
    if let Some(blocking) = &watch.blocked_by {
        let overdue = if blocking.overdue { ", overdue" } else { "" };
        line(
            out,
            &format!(
                "  blocked by run {} of connection {:?}, first seen active {}{overdue}",
                blocking.run,
                blocking.connection,
                moment_at(blocking.since, now)
            ),
        );
    }
    if let Some(root) = &watch.spatial_root {
        hinted(out, &root.text, root.hint.as_deref());
    }
    let waits = watch.waits.iter();
    waits.for_each(|wait| line(out, &format!("  {}", wait.text)));
    if let Some(fault) = &watch.settings {
        hinted(out, &fault.reason, fault.hint.as_deref());
    }
    if let Some(version) = &watch.named_version {
        let text = format!("iModel  {}", version.text);
        hinted(out, &text, version.hint.as_deref());
    }
    if let Some(found) = &watch.source_files {
        hinted(out, &format!("iModel  {}", found.text), found.hint);
    }
    for former in &watch.former_imodels {
        let text = format!("iModel  {}", former.text);
        hinted(out, &text, Some(&former.hint));
    }
}

/// How far a run has got, with the files that it reads now.
pub(in crate::cli) fn run_progress(progress: &RunProgressView) -> String {
    let current: Vec<String> = progress.current.iter().map(|path| shown(path)).collect();
    if current.is_empty() {
        return progress.text.clone();
    }
    format!("{}, now {}", progress.text, current.join(", "))
}

fn hinted(out: &mut String, text: &str, hint: Option<&str>) {
    line(out, &format!("  {text}"));
    if let Some(hint) = hint {
        line(out, &format!("          hint: {hint}"));
    }
}

fn folder(watch: &WatchView, now: Timestamp) -> String {
    let mut text = match watch.root {
        known @ ("ok" | "polled" | "degraded") => known.to_owned(),
        _ => "unavailable".to_owned(),
    };
    if let Some(note) = watch.note.as_ref().filter(|_| watch.root != "polled") {
        let _infallible = write!(text, ": {note}");
    }
    let scanned = watch.scanned_at.map_or_else(
        || "not scanned yet".to_owned(),
        |at| format!("scanned {}", moment_at(at, now)),
    );
    let _infallible = write!(text, "; {scanned}");
    if watch.scanning {
        text.push_str(", scan in progress");
    } else if let Some(at) = watch.next_scan {
        let _infallible = write!(text, ", next scan {}", upcoming(at, now));
    }
    text
}

fn failed_file(out: &mut String, file: &FileView, now: Timestamp) {
    line(out, &format!("  {}  failed", named(file)));
    if let Some(reason) = &file.reason {
        line(out, &format!("      reason: {reason}"));
    }
    if let Some(hint) = &file.hint {
        line(out, &format!("      hint:   {hint}"));
    }
    let next = file.next_attempt.map_or_else(
        || "when the file changes, or now with `itwin-syncd retry --failed`".to_owned(),
        |at| {
            format!(
                "{}, or now with `itwin-syncd retry --failed`",
                upcoming(at, now)
            )
        },
    );
    line(out, &format!("      retry:  {next}"));
}

fn open_file(out: &mut String, file: &FileView, uploads: &[UploadView], now: Timestamp) {
    let since = file
        .seen_at
        .map(|at| format!(", detected {}", moment_at(at, now)))
        .unwrap_or_default();
    let upload = uploads
        .iter()
        .find(|upload| upload.watch == file.watch && upload.path == file.path);
    let shown = match upload {
        Some(upload) => progress(upload),
        None => format!("{}{since}", file.status),
    };
    line(out, &format!("  {}  {shown}", named(file)));
    if let Some(reason) = &file.reason {
        line(out, &format!("      reason: {reason}"));
        if let Some(hint) = &file.hint {
            line(out, &format!("      hint:   {hint}"));
        }
        if let Some(at) = file.next_attempt {
            line(
                out,
                &format!(
                    "      retry:  {} (attempt {})",
                    upcoming(at, now),
                    file.attempts + 1
                ),
            );
        }
    }
}

/// A progress bar with size, rate and remaining time.
fn progress(upload: &UploadView) -> String {
    let full = upload.percent.min(100) * BAR / 100;
    let bar: String = (0..BAR)
        .map(|cell| if cell < full { '█' } else { '░' })
        .collect();
    let rate = upload.bytes_per_second;
    let left = (upload.bytes.saturating_sub(upload.sent))
        .checked_div(rate)
        .map(|seconds| format!(", {} left", span_of(seconds)))
        .unwrap_or_default();
    format!(
        "{bar} {:>3} % of {}, {}/s{left}",
        upload.percent,
        size(upload.bytes),
        size(rate)
    )
}

fn done(out: &mut String, result: &ResultView, now: Timestamp) {
    let connector = result
        .connector
        .as_ref()
        .map(|connector| format!(" ({connector})"))
        .unwrap_or_default();
    line(
        out,
        &format!(
            "  {:<13} {}: {}{connector}, {}",
            result.result.replace('_', " "),
            result.watch,
            shown(&result.path),
            moment_at(result.at, now)
        ),
    );
}

/// The histories of files, separated by blank lines, and after them files that have none yet.
pub(super) fn histories(
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

fn named(file: &FileView) -> String {
    format!("{}: {}", file.watch, shown(&file.path))
}

fn shown(path: &str) -> String {
    QuotedPath(Path::new(path)).to_string()
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests;
