//! The report as text.

mod histories;
mod lists;

use std::fmt::Write as _;
use std::path::Path;

use bytesize::ByteSize;
use jiff::Timestamp;

use crate::ledger::NodeReport;
use crate::names::QuotedPath;
use crate::shell;
use crate::status_view::{FileView, RunProgressView, StatusView, Surroundings, WatchView, summary};
use crate::text::plural;

use super::Search;
use super::times::{moment_at, span, upcoming};
pub(super) use histories::histories;
use lists::{done, groups, in_progress, newest_failures};
pub(super) use lists::{files, page};

/// The whole report: state and progress first, then failures by reason, and a few files.
pub(super) fn report(view: &StatusView, surroundings: &Surroundings, now: Timestamp) -> String {
    let mut out = head(view, surroundings, now);
    groups(&mut out, view, now);
    newest_failures(&mut out, view, now);
    in_progress(&mut out, view, now);
    if !view.results.is_empty() {
        out.push('\n');
        line(&mut out, "RECENT");
        for result in &view.results {
            done(&mut out, result, now);
        }
    }
    out
}

/// What comes before a list of files: the whole report without files. Failures by reason only where they are not
/// searched for.
pub(super) fn head_of_list(
    view: &StatusView,
    surroundings: &Surroundings,
    now: Timestamp,
    search: &Search,
) -> String {
    let mut out = head(view, surroundings, now);
    if search.filter.text.is_none() {
        groups(&mut out, view, now);
    }
    let which = if search.failed {
        "FAILED FILES"
    } else {
        "FILES"
    };
    out.push('\n');
    match &search.filter.text {
        Some(text) => line(&mut out, &format!("{which} WITH {text:?}")),
        None => line(&mut out, which),
    }
    out
}

/// The state of the service and of its watches.
pub(super) fn head(view: &StatusView, surroundings: &Surroundings, now: Timestamp) -> String {
    let mut out = String::new();
    line(&mut out, &summary(view, surroundings).text);
    line(
        &mut out,
        &daemon(view, surroundings.unreachable.as_deref(), now),
    );
    if let Some(standby) = &view.standby {
        line(&mut out, &standby.text());
    }
    if view.nodes.len() > 1 {
        line(&mut out, &hosts(&view.nodes, now));
    }
    if let Some(outage) = &view.ledger_outage {
        let (since, reason) = (moment_at(outage.since, now), &outage.reason);
        line(
            &mut out,
            &format!("ledger not available, first failed request {since}: {reason}"),
        );
        line(&mut out, &format!("  hint: {}", outage.hint));
    }
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
    out
}

/// The hosts that share the ledger.
fn hosts(nodes: &[NodeReport], now: Timestamp) -> String {
    let nodes = nodes.iter().map(|node| {
        let role = if node.active { "active" } else { "standby" };
        let since = moment_at(node.since, now);
        let uploads = plural(node.uploads, "upload", "uploads");
        let silent = if node.responds {
            ""
        } else {
            ", does not respond"
        };
        format!("{} {role} since {since} ({uploads}{silent})", node.host)
    });
    let nodes: Vec<String> = nodes.collect();
    format!("hosts: {}", nodes.join(", "))
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
        counts.push(format!("{ignored} ignored by the last scan"));
    }
    line(out, &format!("  files   {}", counts.join(", ")));
    line(out, &format!("  folder  {}", folder(watch, now)));
    if let Some(at) = watch.paused_at {
        let text = format!(
            "  paused {}; run `{}` to continue",
            moment_at(at, now),
            shell::command(["resume", &watch.name])
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
    if let Some(owner) = &watch.owner {
        hinted(out, &owner.reason, Some(&owner.hint));
    }
    if let Some(rival) = &watch.rival {
        hinted(out, &rival.reason, Some(rival.hint));
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
