//! The report as a person reads it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::Timestamp;

use crate::names::Shown;
use crate::next_attempt::clock_time;
use crate::status_view::{
    Around, FileView, LineView, ResultView, StoryView, UploadView, View, WatchView, verdict,
};

/// Cells of a progress bar.
const BAR: u64 = 20;

/// A day and a half is told as a date.
const RECENT: u64 = 36 * 3600;

/// The whole report.
pub(super) fn report(view: &View, around: &Around, now: Timestamp) -> String {
    let mut out = String::new();
    line(&mut out, &verdict(view, around).text);
    line(&mut out, &daemon(view, around.unreachable.as_deref(), now));
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
            trouble(&mut out, file, now);
        }
    }
    if !view.open.is_empty() {
        out.push('\n');
        heading(
            &mut out,
            "UNDER WAY",
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
        line(&mut out, "LATELY");
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
    view: &View,
) {
    let all: u64 = view.watches.iter().map(count).sum();
    let more = if all > shown as u64 {
        format!(", {shown} of {all} are shown; --json lists all")
    } else {
        String::new()
    };
    line(out, &format!("{title}{more}"));
}

fn daemon(view: &View, unreachable: Option<&str>, now: Timestamp) -> String {
    match (&view.daemon, unreachable) {
        (Some(daemon), _) => format!(
            "itwin-syncd {} is running, started {} (process {})",
            daemon.version,
            moment_at(daemon.since, now),
            daemon.pid
        ),
        (None, Some(why)) => format!("itwin-syncd runs but does not answer: {why}"),
        (None, None) => "itwin-syncd is NOT RUNNING; this is the state at its end".to_owned(),
    }
}

fn watch_text(out: &mut String, watch: &WatchView, now: Timestamp) {
    if !watch.configured {
        line(
            out,
            &format!(
                "watch {:?}: not in the configuration any more, {} files known",
                watch.name,
                watch.files.synchronized
                    + watch.files.synchronized_with_issues
                    + watch.files.uploaded
                    + watch.files.gone
            ),
        );
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
        counts.push(format!("{} stored only", files.uploaded));
    }
    if let Some(settling) = files.settling.filter(|settling| *settling > 0) {
        counts.push(format!("{settling} being written"));
    }
    counts.push(format!("{} waiting", files.waiting));
    counts.push(format!("{} working", files.working));
    counts.push(if files.failed > 0 {
        format!("{} FAILED", files.failed)
    } else {
        "0 failed".to_owned()
    });
    if let Some(ignored) = files.ignored {
        counts.push(format!("{ignored} ignored"));
    }
    line(out, &format!("  files   {}", counts.join(", ")));
    line(out, &format!("  folder  {}", folder(watch, now)));
    if let Some(reason) = &watch.held_reason {
        let until = match (watch.paused_at, watch.held_until) {
            (Some(at), _) => format!("PAUSED {}", moment_at(at, now)),
            (None, Some(until)) => format!("held until {}", moment_at(until, now)),
            (None, None) => "HELD".to_owned(),
        };
        line(out, &format!("  {until}: {reason}"));
    }
    if let Some(run) = &watch.last_run {
        let told = match (run.ended_at, run.seconds) {
            (Some(ended), Some(seconds)) => format!(
                "{}, {}, took {}",
                run.result.as_deref().unwrap_or("ended"),
                moment_at(ended, now),
                span(seconds)
            ),
            _ => format!(
                "under way ({}), requested {}",
                run.state.as_deref().unwrap_or("not answered yet"),
                moment_at(run.requested_at, now)
            ),
        };
        let overdue = if run.overdue { ", OVERDUE" } else { "" };
        line(out, &format!("  run     {told}{overdue}"));
    }
    if let Some(blocking) = &watch.blocked_by {
        let overdue = if blocking.overdue { ", OVERDUE" } else { "" };
        line(
            out,
            &format!(
                "  waits   for run {} of connection {:?}, active since {}{overdue}",
                blocking.run,
                blocking.connection,
                moment_at(blocking.since, now)
            ),
        );
    }
    for file in &watch.unfinished {
        let why = if file.busy {
            "cannot be opened now; looked at again until it can"
        } else {
            "still being written"
        };
        line(out, &format!("  new     {}  {why}", shown(&file.path)));
    }
}

fn folder(watch: &WatchView, now: Timestamp) -> String {
    let mut text = match watch.root {
        "ok" => "ok".to_owned(),
        "polled" => "polled".to_owned(),
        "degraded" => "degraded, only partly watched".to_owned(),
        _ => "UNAVAILABLE, cannot be reached".to_owned(),
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
        text.push_str(", being scanned now");
    } else if let Some(at) = watch.next_scan {
        let _infallible = write!(text, ", next {}", moment_at(at, now));
    }
    text
}

fn trouble(out: &mut String, file: &FileView, now: Timestamp) {
    line(out, &format!("  {}  failed", named(file)));
    if let Some(reason) = &file.reason {
        line(out, &format!("      why:    {reason}"));
    }
    if let Some(hint) = &file.hint {
        line(out, &format!("      to do:  {hint}"));
    }
    let next = file.next_attempt.map_or_else(
        || "when the file changes, or at once with `itwin-syncd retry`".to_owned(),
        |at| {
            format!(
                "{}, or at once with `itwin-syncd retry`",
                moment_at(at, now)
            )
        },
    );
    line(out, &format!("      again:  {next}"));
}

fn open_file(out: &mut String, file: &FileView, uploads: &[UploadView], now: Timestamp) {
    let since = file
        .seen_at
        .map(|at| format!(", seen {}", moment_at(at, now)))
        .unwrap_or_default();
    let upload = uploads
        .iter()
        .find(|upload| upload.watch == file.watch && upload.path == file.path);
    let told = match upload {
        Some(upload) => progress(upload),
        None => format!("{}{since}", file.status),
    };
    line(out, &format!("  {}  {told}", named(file)));
    if let Some(reason) = &file.reason {
        line(out, &format!("      why:    {reason}"));
        if let Some(hint) = &file.hint {
            line(out, &format!("      to do:  {hint}"));
        }
        if let Some(at) = file.next_attempt {
            line(
                out,
                &format!(
                    "      again:  {} (attempt {})",
                    moment_at(at, now),
                    file.attempts + 1
                ),
            );
        }
    }
}

/// A bar, and how fast it grows.
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

/// Stories one below the other.
pub(super) fn stories(stories: &[StoryView]) -> String {
    let mut out = String::new();
    for (index, story) in stories.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let file = &story.file;
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
                    "  issues        {} errors, {} warnings, {} others",
                    issues.errors, issues.warnings, issues.others
                ),
            );
        }
        if story.story.is_empty() {
            line(&mut out, "  nothing is kept of its history");
        }
        for entry in &story.story {
            story_line(&mut out, entry);
        }
        // The last line has told why, unless it is older than the history.
        if let Some(at) = file.next_attempt.filter(|_| file.reason.is_some()) {
            line(&mut out, &format!("  {}  next attempt", clock_time(at)));
        }
    }
    out
}

fn story_line(out: &mut String, entry: &LineView) {
    let mut text = format!("  {}  {}", clock_time(entry.at), entry.text);
    if entry.what == "run_ended"
        && let Some(note) = &entry.note
    {
        let _infallible = write!(text, ": {note}");
    }
    if let Some(run) = entry.run.as_ref().filter(|_| entry.version.is_none()) {
        let _infallible = write!(text, " (run {run})");
    }
    if let Some(seconds) = entry.seconds {
        let _infallible = write!(text, ", {} after it was finished", span(seconds));
    }
    line(out, &text);
    if entry.what != "run_ended"
        && let Some(note) = &entry.note
    {
        line(out, &format!("                       why:   {note}"));
    }
    if let Some(hint) = &entry.hint {
        line(out, &format!("                       to do: {hint}"));
    }
}

fn named(file: &FileView) -> String {
    format!("{}: {}", file.watch, shown(&file.path))
}

fn shown(path: &str) -> String {
    Shown(Path::new(path)).to_string()
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A time as a person says it.
pub(in crate::cli) fn moment(at: Timestamp) -> String {
    moment_at(at, crate::clock::now())
}

fn moment_at(at: Timestamp, now: Timestamp) -> String {
    let away = now.duration_since(at);
    let seconds = away.unsigned_abs().as_secs();
    if seconds >= RECENT {
        return clock_time(at);
    }
    match (away.is_negative(), seconds) {
        (_, 0..2) => "just now".to_owned(),
        (true, _) => format!("in {}", span_of(seconds)),
        (false, _) => format!("{} ago", span_of(seconds)),
    }
}

fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    span_of(Duration::try_from_secs_f64(seconds).map_or(0, |span| span.as_secs()))
}

fn span_of(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for (seconds, expected) in [
            (0, "just now"),
            (-42, "42 s ago"),
            (-300, "5 min ago"),
            (-3 * 3600, "3 h ago"),
            (59 * 60, "in 59 min"),
        ] {
            let at = Timestamp::from_second(1_800_000_000 + seconds).unwrap();
            assert_eq!(moment_at(at, now), expected);
        }
    }

    #[test]
    fn an_upload_is_a_bar_with_percent_rate_and_time_left() {
        let upload = UploadView {
            watch: "north".to_owned(),
            path: "a.dgn".to_owned(),
            bytes: 200 * 1024 * 1024,
            sent: 50 * 1024 * 1024,
            percent: 25,
            bytes_per_second: 10 * 1024 * 1024,
            since: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            progress(&upload),
            "█████░░░░░░░░░░░░░░░  25 % of 200.0 MiB, 10.0 MiB/s, 15 s left"
        );
        let stalled = UploadView {
            bytes_per_second: 0,
            ..upload
        };
        assert!(
            progress(&stalled).ends_with("0 B/s"),
            "{}",
            progress(&stalled)
        );
    }
}
