//! `itwin-syncd status`

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, complain, complain_of_config};
use crate::attempt::clock_time;
use crate::config::Offline;
use crate::ledger::{FileReport, JobState, Ledger, Snapshot, WatchReport};
use crate::names::Shown;

/// Files that are done which the text form lists for each watch; the JSON form has all.
const DONE_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print all watches and files as one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(arguments: &Arguments) -> u8 {
    let config = match Offline::load(&arguments.config.config) {
        Ok(config) => config,
        Err(mistakes) => {
            complain_of_config(&mistakes);
            return EXIT_CONFIG;
        }
    };
    let now = Timestamp::now();
    let snapshot = async { Ledger::read(&config.state.path).await?.snapshot(now).await };
    match snapshot.await {
        Ok(snapshot) => {
            print(&if arguments.json {
                json(&snapshot)
            } else {
                text(&snapshot)
            });
            EXIT_GOOD
        }
        Err(error) => {
            let hint = error.hint();
            complain(&error, hint);
            EXIT_FAILED
        }
    }
}

#[allow(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(report: &str) {
    println!("{}", report.trim_end());
}

/// What a file's state is called: the open job's, else the last outcome's.
pub(super) fn word(file: &FileReport) -> &'static str {
    match (file.job, file.outcome) {
        (Some(JobState::Due), _) => "waiting for its upload",
        (Some(JobState::Uploading), _) => "uploading",
        (Some(JobState::Stored), _) => "uploaded, waiting for a run",
        (Some(JobState::Running), _) => "in a run",
        (Some(JobState::Failed), _) => "failed",
        (None, Some(outcome)) => outcome.as_str(),
        (None, None) => "known",
    }
}

fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for watch in &snapshot.watches {
        let files: Vec<&FileReport> = snapshot
            .files
            .iter()
            .filter(|file| file.watch == watch.name)
            .collect();
        watch_text(&mut out, watch, &files);
        let open = files.iter().filter(|file| file.job.is_some());
        for file in open {
            open_file_text(&mut out, file);
        }
        let mut done: Vec<&&FileReport> = files.iter().filter(|file| file.job.is_none()).collect();
        done.sort_by_key(|file| std::cmp::Reverse(file.outcome_at));
        for file in done.iter().take(DONE_SHOWN) {
            done_file_text(&mut out, file);
        }
        if done.len() > DONE_SHOWN {
            line(
                &mut out,
                &format!(
                    "  … and {} more that are done (--json lists all)",
                    done.len() - DONE_SHOWN
                ),
            );
        }
        out.push('\n');
    }
    out
}

fn watch_text(out: &mut String, watch: &WatchReport, files: &[&FileReport]) {
    let note = watch
        .note
        .as_ref()
        .map(|note| format!(": {note}"))
        .unwrap_or_default();
    line(
        out,
        &format!(
            "watch {:?} → iModel {}: folder {}{note}",
            watch.name, watch.imodel_id, watch.root
        ),
    );
    let failed = files
        .iter()
        .filter(|file| file.job == Some(JobState::Failed))
        .count();
    let open = files.iter().filter(|file| file.job.is_some()).count() - failed;
    let done = files.len() - failed - open;
    let scanned = watch.scanned_at.map_or("not scanned yet".to_owned(), |at| {
        format!("scanned {}", clock_time(at))
    });
    line(
        out,
        &format!("  {done} done, {open} under way, {failed} failed; {scanned}"),
    );
    if let Some((until, reason)) = &watch.held {
        line(
            out,
            &format!("  held until {}: {reason}", clock_time(*until)),
        );
    }
    if let Some(run) = &watch.last_run {
        let id = run.id.as_deref().unwrap_or("not answered yet");
        let state = run
            .result
            .as_deref()
            .or(run.state.as_deref())
            .unwrap_or("requested");
        let at = run.ended_at.unwrap_or(run.requested_at);
        line(
            out,
            &format!("  last run {id}: {state}, {}", clock_time(at)),
        );
    }
}

fn open_file_text(out: &mut String, file: &FileReport) {
    line(out, &format!("  {}  {}", Shown(&file.path), word(file)));
    if let Some(reason) = &file.reason {
        line(out, &format!("      why: {reason}"));
    }
    if let Some(hint) = &file.hint {
        line(out, &format!("      hint: {hint}"));
    }
    let next = match (file.job, file.next_attempt) {
        (Some(JobState::Failed), None) => "when the file changes".to_owned(),
        (_, Some(at)) if file.reason.is_some() => clock_time(at),
        _ => return,
    };
    line(out, &format!("      next attempt: {next}"));
}

fn done_file_text(out: &mut String, file: &FileReport) {
    let mut text = format!("  {}  {}", Shown(&file.path), word(file));
    if let Some(connector) = &file.connector {
        // Writing to a String cannot fail.
        let _infallible = write!(text, " ({connector})");
    }
    if let Some(at) = file.outcome_at {
        let _infallible = write!(text, ", {}", clock_time(at));
    }
    line(out, &text);
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// The JSON form. `version` rises when a field changes its meaning or goes.
#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    watches: Vec<JsonWatch<'a>>,
    files: Vec<JsonFile<'a>>,
}

#[derive(Serialize)]
struct JsonWatch<'a> {
    name: &'a str,
    imodel_id: &'a str,
    root: &'static str,
    note: Option<&'a str>,
    scanned_at: Option<Timestamp>,
    held_until: Option<Timestamp>,
    held_reason: Option<&'a str>,
    last_run: Option<JsonRun<'a>>,
}

#[derive(Serialize)]
struct JsonRun<'a> {
    id: Option<&'a str>,
    requested_at: Timestamp,
    ended_at: Option<Timestamp>,
    state: Option<&'a str>,
    result: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonFile<'a> {
    watch: &'a str,
    path: String,
    /// The exact bytes in hexadecimal, when `path` is not all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    state: &'static str,
    result: Option<&'static str>,
    result_at: Option<Timestamp>,
    connector: Option<&'a str>,
    storage_file_id: Option<&'a str>,
    bytes: Option<u64>,
    run: Option<&'a str>,
    seconds: Option<f64>,
    reason: Option<&'a str>,
    hint: Option<&'a str>,
    attempts: u64,
    next_attempt: Option<Timestamp>,
}

fn json(snapshot: &Snapshot) -> String {
    let report = Json {
        version: 1,
        watches: snapshot.watches.iter().map(json_watch).collect(),
        files: snapshot.files.iter().map(json_file).collect(),
    };
    serde_json::to_string_pretty(&report).unwrap_or_default()
}

fn json_watch(watch: &WatchReport) -> JsonWatch<'_> {
    JsonWatch {
        name: &watch.name,
        imodel_id: &watch.imodel_id,
        root: watch.root.as_str(),
        note: watch.note.as_deref(),
        scanned_at: watch.scanned_at,
        held_until: watch.held.as_ref().map(|(until, _)| *until),
        held_reason: watch.held.as_ref().map(|(_, reason)| reason.as_str()),
        last_run: watch.last_run.as_ref().map(|run| JsonRun {
            id: run.id.as_deref(),
            requested_at: run.requested_at,
            ended_at: run.ended_at,
            state: run.state.as_deref(),
            result: run.result.as_deref(),
        }),
    }
}

fn json_file(file: &FileReport) -> JsonFile<'_> {
    JsonFile {
        watch: &file.watch,
        path: file.path.to_string_lossy().into_owned(),
        path_bytes: file.path.to_str().is_none().then(|| hex(&file.path)),
        state: file.job.map_or("done", JobState::as_str),
        result: file.outcome.map(crate::ledger::Outcome::as_str),
        result_at: file.outcome_at,
        connector: file.connector.as_deref(),
        storage_file_id: file.storage_file_id.as_deref(),
        bytes: file.bytes,
        run: file.run.as_deref(),
        #[allow(clippy::cast_precision_loss, reason = "seconds for a report")]
        seconds: file.millis.map(|millis| millis as f64 / 1000.0),
        reason: file.reason.as_deref(),
        hint: file.hint.as_deref(),
        attempts: file.attempts,
        next_attempt: file.next_attempt,
    }
}

fn hex(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}
