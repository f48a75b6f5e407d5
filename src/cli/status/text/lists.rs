//! Lists of files as text: failures by reason, files with their state, results.

use jiff::Timestamp;

use super::{line, named, shown, size};
use crate::cli::status::times::{moment_at, upcoming};
use crate::shell;
use crate::status_view::{
    FailureGroupView, FileView, ResultView, StatusView, UploadView, WatchView,
};
use crate::text::{plural, span_of};

/// Cells of a progress bar.
const BAR: u64 = 20;

/// Failed files that are shown beside the groups.
const NEWEST: usize = 3;

/// How a failed file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// With its hint.
    All,
    /// Its group shows the hint.
    InGroup,
}

/// Failures by reason.
pub(super) fn groups(out: &mut String, view: &StatusView, now: Timestamp) {
    if view.failure_groups.is_empty() {
        return;
    }
    out.push('\n');
    line(out, "FAILURES BY REASON");
    for group in &view.failure_groups {
        group_text(out, group, now);
    }
    if view.more_failure_groups > 0 {
        let more = plural(view.more_failure_groups, "more reason", "more reasons");
        line(
            out,
            &format!(
                "  … and {more}; `{}` lists up to 100",
                shell::command(["status", "--json"])
            ),
        );
    }
}

fn group_text(out: &mut String, group: &FailureGroupView, now: Timestamp) {
    line(out, &format!("  {}", group.text));
    if let Some(hint) = &group.hint {
        line(out, &format!("      hint:   {hint}"));
    }
    let examples = group.examples.iter();
    let mut files: Vec<String> = examples
        .map(|file| format!("{}: {}", file.watch, shown(&file.path)))
        .collect();
    let more = group.files.saturating_sub(files.len() as u64);
    if more > 0 {
        files.push(format!("{more} more"));
    }
    line(out, &format!("      files:  {}", files.join(", ")));
    let state = match (group.failed, group.retrying) {
        (_, 0) => "failed, ".to_owned(),
        (0, _) => "waiting for another attempt, ".to_owned(),
        (failed, retrying) => format!("{failed} failed, {retrying} waiting for another attempt, "),
    };
    let since = group
        .since
        .map(|at| format!("first failure {}, ", moment_at(at, now)))
        .unwrap_or_default();
    let next = match group.next_attempt {
        Some(at) => format!("next attempt {}", upcoming(at, now)),
        None => "next attempt when a file changes".to_owned(),
    };
    line(out, &format!("      state:  {state}{since}{next}"));
    line(
        out,
        &format!(
            "      retry:  {}",
            shell::command(["retry", "--group", &group.key])
        ),
    );
}

/// A few failed files, if the groups do not show them all.
pub(super) fn newest_failures(out: &mut String, view: &StatusView, now: Timestamp) {
    let in_groups = |file: &FileView| {
        let examples = view.failure_groups.iter().flat_map(|group| &group.examples);
        examples.into_iter().any(|example| example.id == file.id)
    };
    let all: u64 = view.watches.iter().map(|watch| watch.files.failed).sum();
    if view.failed.iter().all(in_groups) && all == view.failed.len() as u64 {
        return;
    }
    let newest = view.failed.iter().take(NEWEST);
    out.push('\n');
    heading(out, "NEWEST FAILURES", newest.len(), all, "--failed");
    for file in newest {
        failed_file(out, file, Detail::InGroup, now);
    }
}

/// Files that wait or are in progress.
pub(super) fn in_progress(out: &mut String, view: &StatusView, now: Timestamp) {
    if view.open.is_empty() {
        return;
    }
    let count = |watch: &WatchView| watch.files.waiting + watch.files.working;
    let all = view.watches.iter().map(count).sum();
    out.push('\n');
    heading(out, "IN PROGRESS", view.open.len(), all, "--all");
    for file in &view.open {
        open_file(out, file, &view.uploads, Detail::InGroup, now);
    }
}

fn heading(out: &mut String, title: &str, shown: usize, all: u64, option: &str) {
    let more = if all > shown as u64 {
        format!(
            " (showing {shown} of {all}; `{}` lists more)",
            shell::command(["status", option])
        )
    } else {
        String::new()
    };
    line(out, &format!("{title}{more}"));
}

/// Files of a list.
pub(in crate::cli::status) fn files(
    files: &[FileView],
    uploads: &[UploadView],
    now: Timestamp,
) -> String {
    let mut out = String::new();
    for file in files {
        if file.state == "failed" {
            failed_file(&mut out, file, Detail::All, now);
        } else {
            open_file(&mut out, file, uploads, Detail::All, now);
        }
    }
    out
}

/// A part of a list, and how to get the next one.
pub(in crate::cli::status) fn page(
    shown: &[FileView],
    all: u64,
    offset: u64,
    uploads: &[UploadView],
    now: Timestamp,
) -> String {
    let mut out = files(shown, uploads, now);
    let end = offset.saturating_add(shown.len() as u64);
    line(
        &mut out,
        &match (shown.len(), all) {
            (_, 0) => "  none".to_owned(),
            (0, _) => format!("  none after the first {}", plural(all, "file", "files")),
            _ if offset == 0 && end >= all => format!("  {}", plural(all, "file", "files")),
            _ if end >= all => format!("  {} to {end} of {all}", offset + 1),
            _ => format!(
                "  {} to {end} of {all}; continue with --offset {end}, or list them with --all",
                offset + 1
            ),
        },
    );
    out
}

fn failed_file(out: &mut String, file: &FileView, detail: Detail, now: Timestamp) {
    line(out, &format!("  {}  failed", named(file)));
    reason(out, file, detail);
    let next = match file.next_attempt {
        Some(at) => format!("{} (attempt {})", upcoming(at, now), file.attempts + 1),
        None => "when the file changes".to_owned(),
    };
    line(out, &format!("      retry:  {next}"));
}

fn open_file(
    out: &mut String,
    file: &FileView,
    uploads: &[UploadView],
    detail: Detail,
    now: Timestamp,
) {
    let since = match (file.seen_at, file.result_at) {
        (Some(at), _) => format!(", detected {}", moment_at(at, now)),
        (None, Some(at)) => format!(", {}", moment_at(at, now)),
        (None, None) => String::new(),
    };
    let upload = uploads
        .iter()
        .find(|upload| upload.watch == file.watch && upload.path == file.path);
    let shown = match upload {
        Some(upload) => progress(upload),
        None => format!("{}{since}", file.status),
    };
    line(out, &format!("  {}  {shown}", named(file)));
    reason(out, file, detail);
    if let Some(at) = file.next_attempt.filter(|_| file.reason.is_some()) {
        let attempt = file.attempts + 1;
        line(
            out,
            &format!("      retry:  {} (attempt {attempt})", upcoming(at, now)),
        );
    }
}

/// Why a file failed or waits. A cause may be over before the next attempt notices it.
fn reason(out: &mut String, file: &FileView, detail: Detail) {
    let Some(reason) = &file.reason else { return };
    let is_last = file.next_attempt.is_some();
    let label = if is_last { "last failure:" } else { "reason:" };
    line(out, &format!("      {label} {reason}"));
    let is_in_group = detail == Detail::InGroup && file.failure_group.is_some();
    if let Some(hint) = file.hint.as_ref().filter(|_| !is_in_group) {
        line(out, &format!("      hint:   {hint}"));
    }
}

/// A progress bar with size, rate and remaining time.
pub(super) fn progress(upload: &UploadView) -> String {
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

pub(super) fn done(out: &mut String, result: &ResultView, now: Timestamp) {
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
