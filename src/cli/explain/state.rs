//! What `explain` says about the state of a file: its last result, and what it waits for.

use std::ffi::OsString;
use std::path::Path;

use super::{Explanation, Knowledge, OnDisk};
use crate::cli::status::{moment, upcoming};
use crate::cli::unfinished_file;
use crate::config::{self, OnDelete, ReadOnlyConfig, Watch};
use crate::ledger::{Absence, FileReport, JobState, Known, SetPart, WatchReport};
use crate::names::QuotedPath;
use crate::selection;
use crate::status_view::{self, WaitView};
use crate::watch::Unfinished;

/// The window that a file waits for.
fn window_wait(file: &FileReport, report: Option<&WatchReport>) -> Option<WaitView> {
    let stage = match file.job? {
        JobState::Due => "upload",
        JobState::Stored => "run",
        JobState::Uploading | JobState::Running | JobState::Failed => return None,
    };
    let waits = status_view::waits(report?, crate::clock::now());
    waits.into_iter().find(|wait| wait.stage == stage)
}

/// Adds the last result of the file.
fn last_result(explanation: &mut Explanation, file: Option<&FileReport>, known: &Knowledge) {
    if known.ledger.is_none() {
        let state = format!("state: {}", known.no_ledger);
        explanation.lines.push(state);
    } else if let Some(file) = file {
        let at = file
            .result_time()
            .map(|at| format!(", {}", moment(at)))
            .unwrap_or_default();
        explanation
            .lines
            .push(format!("state: {}{at}", status_view::word(file)));
        if let Some(reason) = &file.reason {
            // Its cause may be over before the next attempt notices it.
            let label = match file.next_attempt {
                Some(_) => "last failure",
                None => "reason",
            };
            explanation.lines.push(format!("{label}: {reason}"));
        }
        if let Some(hint) = &file.hint {
            explanation.lines.push(format!("hint: {hint}"));
        }
        if let Some(at) = file.next_attempt.filter(|_| file.reason.is_some()) {
            let attempt = file.attempts + 1;
            let at = upcoming(at, crate::clock::now());
            let next = format!("next attempt: {at} (attempt {attempt})");
            explanation.lines.push(next);
        }
    } else {
        explanation
            .lines
            .push("state: not queued for upload yet".to_owned());
    }
}

/// What happens to a deleted file, by the configuration.
fn on_delete(watch: &Watch) -> String {
    let after = config::show_duration(&watch.delete_after);
    match watch.on_delete {
        OnDelete::Keep => "deleted files stay on the platform: on_delete = \"keep\"".to_owned(),
        OnDelete::Unmap => format!(
            "removed from the connection after being gone for {after}: on_delete = \"unmap\""
        ),
        OnDelete::Remove => format!(
            "removed from the connection and from storage after being gone for {after}: on_delete = \"remove\""
        ),
    }
}

/// Adds the state of the file, and what it waits for.
pub(super) async fn state(
    explanation: &mut Explanation,
    watch: &Watch,
    below: &Path,
    on_disk: &OnDisk,
    config: &ReadOnlyConfig,
    known: &Knowledge,
) {
    let file = known.file(&watch.name, below).await;
    let file = file.as_ref();
    last_result(explanation, file, known);
    if file.is_some_and(|file| matches!(file.absence, Some((Absence::Gone, _)))) {
        explanation.lines.push(on_delete(watch));
    }
    let set = known.companions(file).await;
    if !set.is_empty() {
        let names: Vec<String> = set.iter().map(companion).collect();
        explanation
            .lines
            .push(format!("companions: {}", names.join(", ")));
        let present = set.iter().map(|part| part.name.as_os_str());
        let name = below.file_name().unwrap_or_default();
        if let Some(lacking) = selection::lacking_projection(name, present) {
            let quoted = |name: &OsString| QuotedPath(name.as_ref()).to_string();
            let names: Vec<String> = lacking.names.iter().map(quoted).collect();
            explanation.lines.push(format!(
                "note: {} is missing: the coordinate system of the {} is unknown to the connector",
                names.join(" and "),
                lacking.format
            ));
        }
    }
    let unfinished = unfinished_file::ask(&config.state.path, &watch.name, below).await;
    if let Some(waits) = waits_for(watch, below, on_disk, unfinished.as_ref(), known).await {
        explanation.lines.push(format!("waiting for: {waits}"));
    }
    if let Some(hint) = unfinished.and_then(|file| file.hint) {
        explanation.lines.push(format!("hint: {hint}"));
    }
    let report = known.watch(&watch.name);
    let suspended = report
        .filter(|report| report.configured)
        .and_then(|report| Some((report.inactive.as_ref()?, &report.name)));
    let blocked = report.and_then(|report| report.blocked.as_ref());
    let waits = report.and_then(|report| report.spatial_root.as_ref());
    match (file, blocked) {
        (Some(file), Some(run)) if file.job == Some(JobState::Stored) => {
            explanation.lines.push(format!(
                "waiting for: run {} of connection {:?}, first seen active {}",
                run.run,
                run.connection,
                moment(run.since)
            ));
        }
        (Some(file), None)
            if file.job == Some(JobState::Stored)
                && waits.is_some_and(|wait| Path::new(&wait.path) != below) =>
        {
            if let Some(wait) = waits {
                explanation.lines.push(wait.text());
                let hint = wait.hint(&watch.name);
                explanation
                    .lines
                    .extend(hint.map(|hint| format!("hint: {hint}")));
            }
        }
        (Some(file), None) if window_wait(file, report).is_some() => {
            let wait = window_wait(file, report);
            explanation.lines.extend(
                wait.map(|wait| {
                    format!("waiting for: {}_window, {}", wait.stage, moment(wait.until))
                }),
            );
        }
        // Nothing else starts before the watch is resumed.
        _ if suspended.is_some() => {}
        _ => {
            let on_its_way = set.iter().find(|part| part.job.is_some());
            let stored = file.is_some_and(|file| file.job == Some(JobState::Stored));
            if let Some(part) = on_its_way.filter(|_| stored) {
                let name = QuotedPath(part.name.as_ref());
                explanation
                    .lines
                    .push(format!("waiting for: the upload of its companion {name}"));
            } else if let Some(next) = file.and_then(next_step) {
                explanation.lines.push(format!("waiting for: {next}"));
            }
        }
    }
    if let Some((inactive, name)) = suspended {
        let state = inactive.state();
        let reason = inactive.reason(name);
        explanation.lines.push(format!("watch {state}: {reason}"));
    }
    if let Some(report) = report.filter(|report| report.note.is_some()) {
        explanation.lines.push(format!(
            "folder {}: {}",
            status_view::root_word(report.root),
            report.note.as_deref().unwrap_or_default()
        ));
    }
}

/// A companion with its state, if it is not stored.
fn companion(part: &SetPart) -> String {
    let name = QuotedPath(part.name.as_ref());
    match part.job {
        None => name.to_string(),
        Some(JobState::Failed) => format!("{name} (failed)"),
        Some(_) => format!("{name} (pending)"),
    }
}

/// What a pending file without a failure waits for.
fn next_step(file: &FileReport) -> Option<&'static str> {
    match file.job.filter(|_| file.reason.is_none())? {
        JobState::Due => Some("a free upload worker (upload.workers)"),
        JobState::Stored => Some("the next run of its iModel (sync.batch_window)"),
        JobState::Running => Some("the run of its iModel to finish"),
        JobState::Uploading | JobState::Failed => None,
    }
}

async fn waits_for(
    watch: &Watch,
    below: &Path,
    on_disk: &OnDisk,
    unfinished: Option<&Unfinished>,
    known: &Knowledge,
) -> Option<String> {
    if let Some(file) = unfinished {
        let settle = watch.settle_policy.settle;
        return Some(if let Some(reason) = &file.reason {
            let since = moment(unfinished_file::since(file));
            format!("the file to become readable: it {reason} (first seen {since})")
        } else {
            format!(
                "the file to settle: unchanged for {:.0} s of {:.0} s",
                std::time::Duration::from_millis(file.unchanged_ms).as_secs_f64(),
                settle.as_secs_f64()
            )
        });
    }
    let OnDisk::File(fingerprint) = on_disk else {
        return None;
    };
    let last: Option<Known> = match &known.ledger {
        Some(ledger) => ledger
            .known_by_name(&watch.name, below)
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let verdict = watch.scope.decide(below);
    let connector = verdict.connector()?;
    if last.is_some_and(|last| last.is_version(*fingerprint, connector.as_ref())) {
        return None;
    }
    Some(match &known.daemon {
        None => match &known.no_daemon {
            Some(why) => format!("the daemon, which cannot be asked: {why}"),
            None => "the daemon, which is not running".to_owned(),
        },
        Some(now) => match now.roots.get(&watch.name).and_then(|root| root.next_scan) {
            Some(at) => format!(
                "the daemon to detect the newest version, by an event or by the next scan {}",
                moment(at)
            ),
            None => "the daemon to detect the newest version".to_owned(),
        },
    })
}
