//! What people are shown, in one shape for `status --json`, the page and the metrics.
//!
//! In come the ledger's reports and the live record, out go values for JSON. It decides nothing but words; the fields are
//! told of in `docs/status.md`.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{
    Absence, BlockingRun, Counts, FailureKind, FileReport, JobState, Outcome, Overview,
    ResultReport, RootState, RunEntry, RunSummary, Story, StoryLine, WatchReport,
};
use crate::runtime_status::{Now, RootNow};

/// A watch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WatchView {
    pub(crate) name: String,
    pub(crate) imodel_id: String,
    /// It is in the configuration.
    pub(crate) configured: bool,
    pub(crate) root: &'static str,
    pub(crate) note: Option<String>,
    pub(crate) scanned_at: Option<Timestamp>,
    pub(crate) next_scan: Option<Timestamp>,
    pub(crate) scanning: bool,
    pub(crate) paused_at: Option<Timestamp>,
    /// Held until then; null while it waits for a person.
    pub(crate) held_until: Option<Timestamp>,
    pub(crate) held_reason: Option<String>,
    pub(crate) files: FilesView,
    pub(crate) last_run: Option<RunView>,
    /// The run of somebody else that runs of its iModel wait for.
    pub(crate) blocked_by: Option<BlockingView>,
    pub(crate) unfinished: Vec<UnfinishedView>,
}

/// Files of a watch by how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct FilesView {
    pub(crate) synchronized: u64,
    pub(crate) synchronized_with_issues: u64,
    pub(crate) uploaded: u64,
    /// Gone from the folder, or no longer selected.
    pub(crate) gone: u64,
    pub(crate) waiting: u64,
    pub(crate) working: u64,
    pub(crate) failed: u64,
    /// Not finished being written; null without a daemon.
    pub(crate) settling: Option<u64>,
    /// Left alone; null without a daemon.
    pub(crate) ignored: Option<u64>,
}

/// A run of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BlockingView {
    pub(crate) run: String,
    pub(crate) connection: String,
    pub(crate) since: Timestamp,
    pub(crate) overdue: bool,
}

/// What a connector reported of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct IssuesView {
    pub(crate) errors: u64,
    pub(crate) warnings: u64,
    pub(crate) others: u64,
}

/// A file that is still being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UnfinishedView {
    pub(crate) path: String,
    pub(crate) busy: bool,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunView {
    pub(crate) id: Option<String>,
    pub(crate) imodel_id: Option<String>,
    pub(crate) requested_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) seconds: Option<f64>,
    pub(crate) state: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) files: Option<u64>,
    /// It takes longer than `sync.run_deadline`.
    pub(crate) overdue: bool,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FileView {
    pub(crate) id: String,
    pub(crate) watch: String,
    pub(crate) path: String,
    /// The exact bytes in hexadecimal, when `path` is not all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_bytes: Option<String>,
    pub(crate) state: &'static str,
    /// The state in words.
    pub(crate) status: &'static str,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) result: Option<&'static str>,
    pub(crate) result_at: Option<Timestamp>,
    pub(crate) connector: Option<String>,
    pub(crate) storage_file_id: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) run: Option<String>,
    pub(crate) seconds: Option<f64>,
    /// What the connector reported beside the result.
    pub(crate) issues: Option<IssuesView>,
    /// Why no local file stands for it: `missing`, `gone` or `deselected`.
    pub(crate) absence: Option<&'static str>,
    pub(crate) absent_since: Option<Timestamp>,
    pub(crate) failure: Option<&'static str>,
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) attempts: u64,
    pub(crate) next_attempt: Option<Timestamp>,
}

/// An upload on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct UploadView {
    pub(crate) watch: String,
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sent: u64,
    pub(crate) percent: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) since: Timestamp,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ResultView {
    pub(crate) file: String,
    pub(crate) watch: String,
    pub(crate) path: String,
    pub(crate) result: &'static str,
    pub(crate) at: Timestamp,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) connector: Option<String>,
    pub(crate) reason: Option<String>,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DaemonView {
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) version: String,
}

/// Everything that does not rest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct View {
    pub(crate) daemon: Option<DaemonView>,
    pub(crate) watches: Vec<WatchView>,
    pub(crate) uploads: Vec<UploadView>,
    pub(crate) failed: Vec<FileView>,
    pub(crate) open: Vec<FileView>,
    pub(crate) results: Vec<ResultView>,
    pub(crate) runs: Vec<RunView>,
}

/// What a command sees of the daemon from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Around {
    /// Why a daemon that is there does not answer.
    pub(crate) unreachable: Option<String>,
    /// Bytes that are left on the disk of the ledger, if it cannot be written with so few.
    pub(crate) disk_full: Option<u64>,
}

/// The answer to the first question: is everything all right?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Nothing needs attention.
    pub(crate) well: bool,
    /// The same in one line, the worst first.
    pub(crate) text: String,
}

/// The story of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StoryView {
    pub(crate) file: FileView,
    pub(crate) story: Vec<LineView>,
}

/// One thing that happened to a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LineView {
    pub(crate) at: Timestamp,
    pub(crate) version: Option<u64>,
    /// A word for programs.
    pub(crate) what: String,
    /// The same in words for people.
    pub(crate) text: String,
    pub(crate) note: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) seconds: Option<f64>,
}

impl View {
    pub(crate) fn new(overview: &Overview, now: Option<&Now>) -> Self {
        Self {
            daemon: now.map(daemon),
            watches: overview
                .watches
                .iter()
                .map(|watch| watch_view(watch, now))
                .collect(),
            uploads: now.map(uploads).unwrap_or_default(),
            failed: overview.failed.iter().map(file_view).collect(),
            open: overview.open.iter().map(file_view).collect(),
            results: overview.results.iter().map(result_view).collect(),
            runs: overview.runs.iter().map(run_entry).collect(),
        }
    }
}

/// Judges what a command shows. What stops everything comes first, then what needs attention, then what is under way.
pub(crate) fn verdict(view: &View, around: &Around) -> Verdict {
    let sum = |count: fn(&WatchView) -> u64| view.watches.iter().map(count).sum::<u64>();
    let configured = || view.watches.iter().filter(|watch| watch.configured);
    let roots = |state: &str| configured().filter(|watch| watch.root == state).count() as u64;
    let held = configured()
        .filter(|watch| watch.held_reason.is_some())
        .count() as u64;
    let overdue = configured()
        .filter(|watch| {
            let own = watch.last_run.as_ref().is_some_and(|run| run.overdue);
            own || watch.blocked_by.as_ref().is_some_and(|run| run.overdue)
        })
        .count() as u64;
    let mut parts = Vec::new();
    if around.disk_full.is_some() {
        parts.push("the disk of the state directory is FULL".to_owned());
    }
    if around.unreachable.is_some() {
        parts.push("the daemon DOES NOT ANSWER".to_owned());
    } else if view.daemon.is_none() {
        parts.push("the daemon is NOT RUNNING".to_owned());
    }
    let counted = |counts: &[(u64, &str, &str)]| -> Vec<String> {
        let told = counts.iter().filter(|(count, ..)| *count > 0);
        told.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
            .collect()
    };
    parts.extend(counted(&[
        (
            sum(|watch| watch.files.failed),
            "file FAILED",
            "files FAILED",
        ),
        (
            roots("unavailable"),
            "folder cannot be reached",
            "folders cannot be reached",
        ),
        (
            roots("degraded"),
            "folder is only partly watched",
            "folders are only partly watched",
        ),
        (held, "watch is held", "watches are held"),
        (
            overdue,
            "watch waits for an overdue run",
            "watches wait for an overdue run",
        ),
        (
            sum(|watch| watch.files.synchronized_with_issues),
            "file is synchronized with issues",
            "files are synchronized with issues",
        ),
    ]));
    let well = parts.is_empty();
    parts.extend(counted(&[
        (
            sum(|watch| watch.files.working),
            "file is on its way",
            "files are on their way",
        ),
        (sum(|watch| watch.files.waiting), "file waits", "files wait"),
        (
            sum(|watch| watch.files.settling.unwrap_or(0)),
            "file is being written",
            "files are being written",
        ),
    ]));
    let rests = parts.is_empty();
    parts.push(match sum(|watch| watch.files.synchronized) {
        0 => "no file is synchronized yet".to_owned(),
        1 => "1 file is synchronized".to_owned(),
        files => format!("{files} files are synchronized"),
    });
    let text = format!(
        "{}{}",
        if rests { "All well: " } else { "" },
        parts.join(", ")
    );
    let mut letters = text.chars();
    Verdict {
        well,
        // A sentence may begin with the word for a fault.
        text: letters
            .next()
            .map(|first| first.to_uppercase().chain(letters).collect())
            .unwrap_or_default(),
    }
}

pub(crate) fn daemon(now: &Now) -> DaemonView {
    DaemonView {
        pid: now.pid,
        since: now.since,
        version: now.version.clone(),
    }
}

pub(crate) fn uploads(now: &Now) -> Vec<UploadView> {
    now.uploads
        .iter()
        .map(|upload| UploadView {
            watch: upload.watch.clone(),
            path: upload.path.clone(),
            bytes: upload.bytes,
            sent: upload.sent,
            percent: (upload.sent * 100).checked_div(upload.bytes).unwrap_or(100),
            bytes_per_second: upload.rate,
            since: upload.since,
        })
        .collect()
}

pub(crate) fn watch_view(watch: &WatchReport, now: Option<&Now>) -> WatchView {
    let live: Option<&RootNow> = now.and_then(|now| now.roots.get(&watch.name));
    let held = watch.held.as_ref().filter(|_| watch.configured);
    WatchView {
        name: watch.name.clone(),
        imodel_id: watch.imodel_id.clone(),
        configured: watch.configured,
        root: watch.root.as_str(),
        note: watch.note.clone(),
        scanned_at: watch.scanned_at,
        next_scan: live.and_then(|root| root.next_scan),
        scanning: live.is_some_and(|root| root.scanning),
        paused_at: watch.paused_at,
        held_until: held
            .filter(|_| !watch.waits_for_person)
            .map(|(until, _)| *until),
        held_reason: held.map(|(_, reason)| reason.clone()),
        files: files_view(&watch.counts, live),
        last_run: watch.last_run.as_ref().map(run_view),
        blocked_by: watch.blocked.as_ref().map(blocking_view),
        unfinished: live
            .map(|root| {
                root.unfinished
                    .iter()
                    .map(|file| UnfinishedView {
                        path: file.path.clone(),
                        busy: file.busy,
                    })
                    .collect()
            })
            .unwrap_or_default(),
    }
}

fn blocking_view(blocking: &BlockingRun) -> BlockingView {
    BlockingView {
        run: blocking.run.clone(),
        connection: blocking.connection.clone(),
        since: blocking.since,
        overdue: blocking.overdue,
    }
}

fn files_view(counts: &Counts, live: Option<&RootNow>) -> FilesView {
    FilesView {
        synchronized: counts.synchronized,
        synchronized_with_issues: counts.with_issues,
        uploaded: counts.uploaded,
        gone: counts.gone,
        waiting: counts.waiting(),
        working: counts.working(),
        failed: counts.failed,
        settling: live.map(|root| root.settling),
        ignored: live.and_then(|root| root.ignored),
    }
}

pub(crate) fn run_view(run: &RunSummary) -> RunView {
    RunView {
        id: run.id.clone(),
        imodel_id: None,
        requested_at: run.requested_at,
        ended_at: run.ended_at,
        seconds: run
            .ended_at
            .map(|ended| ended.duration_since(run.requested_at).as_secs_f64()),
        state: run.state.clone(),
        result: run.result.clone(),
        files: None,
        overdue: run.overdue && run.ended_at.is_none(),
    }
}

fn run_entry(entry: &RunEntry) -> RunView {
    RunView {
        imodel_id: Some(entry.imodel_id.clone()),
        files: Some(entry.files),
        ..run_view(&entry.run)
    }
}

pub(crate) fn file_view(file: &FileReport) -> FileView {
    FileView {
        id: file.id.to_string(),
        watch: file.watch.clone(),
        path: file.path.to_string_lossy().into_owned(),
        path_bytes: file.path.to_str().is_none().then(|| hex(&file.path)),
        state: file.job.map_or("done", JobState::as_str),
        status: word(file),
        seen_at: file.seen_at,
        result: file.outcome.map(Outcome::as_str),
        result_at: file.outcome_at,
        connector: file.connector.clone(),
        storage_file_id: file.storage_file_id.clone(),
        bytes: file.bytes,
        run: file.run.clone(),
        seconds: file.millis.map(seconds),
        issues: file
            .issues
            .filter(|_| file.outcome == Some(Outcome::SynchronizedWithIssues))
            .map(|[errors, warnings, others]| IssuesView {
                errors,
                warnings,
                others,
            }),
        absence: file.absence.map(|(absence, _)| absence.as_str()),
        absent_since: file.absence.map(|(_, since)| since),
        failure: file.kind.map(FailureKind::as_str),
        reason: file.reason.clone(),
        hint: file.hint.clone(),
        attempts: file.attempts,
        next_attempt: file.next_attempt,
    }
}

fn result_view(result: &ResultReport) -> ResultView {
    ResultView {
        file: result.file.to_string(),
        watch: result.watch.clone(),
        path: result.path.to_string_lossy().into_owned(),
        result: result.outcome.as_str(),
        at: result.at,
        seconds: seconds(result.millis),
        bytes: result.bytes,
        connector: result.connector.clone(),
        reason: result.reason.clone(),
    }
}

pub(crate) fn story_view(story: &Story) -> StoryView {
    StoryView {
        file: file_view(&story.file),
        story: story.lines.iter().map(line_view).collect(),
    }
}

fn line_view(line: &StoryLine) -> LineView {
    LineView {
        at: line.at,
        version: line.version,
        what: line.what.clone(),
        text: story_words(line),
        note: line.note.clone(),
        hint: line.hint.clone(),
        run: line.run.clone(),
        bytes: line.bytes,
        seconds: line.millis.map(seconds),
    }
}

fn story_words(line: &StoryLine) -> String {
    match line.what.as_str() {
        "seen" => format!(
            "version {} was finished being written",
            line.version.unwrap_or(0)
        ),
        "uploaded" if line.millis.is_none() => "uploaded to storage".to_owned(),
        "uploaded" => "uploaded; it is meant to be in storage only".to_owned(),
        "put_off" => "an attempt did not succeed; trying again".to_owned(),
        "asked" => "retry requested".to_owned(),
        "overwritten" => {
            "storage file was changed or deleted by somebody else; compared and uploaded again"
                .to_owned()
        }
        "gone" => "gone from the folder".to_owned(),
        "deselected" => "no longer selected by the configuration".to_owned(),
        "run_requested" => "a run was requested".to_owned(),
        "run_ended" => "the run ended".to_owned(),
        "synchronized" => "synchronized: it is in the iModel".to_owned(),
        "synchronized_with_issues" => {
            "synchronized with issues: it is in the iModel, see the report".to_owned()
        }
        "unchanged" => "same content as before: nothing was sent".to_owned(),
        "vanished" => "the file was gone from the folder".to_owned(),
        word => word.to_owned(),
    }
}

/// What a file's state is called: the open job's, else the last outcome's.
pub(crate) fn word(file: &FileReport) -> &'static str {
    match (file.job, file.outcome) {
        (Some(JobState::Due), _) => "waiting for its upload",
        (Some(JobState::Uploading), _) => "uploading",
        (Some(JobState::Stored), _) => "uploaded, waiting for a run",
        (Some(JobState::Running), _) => "in a run",
        (Some(JobState::Failed), _) => "failed",
        (None, _) if is_absent(file) => absent_word(file),
        (None, Some(Outcome::SynchronizedWithIssues)) => "synchronized with issues",
        (None, Some(outcome)) => outcome.as_str(),
        (None, None) => "known",
    }
}

fn is_absent(file: &FileReport) -> bool {
    matches!(file.absence, Some((Absence::Gone | Absence::Deselected, _)))
}

/// What is left of a file that no local file stands for.
fn absent_word(file: &FileReport) -> &'static str {
    let in_imodel = matches!(
        file.stored_outcome,
        Some(Outcome::Synchronized | Outcome::SynchronizedWithIssues)
    );
    let deselected = matches!(file.absence, Some((Absence::Deselected, _)));
    match (deselected, in_imodel, file.storage_file_id.is_some()) {
        (false, true, _) => "gone from the folder; still in the iModel",
        (false, false, true) => "gone from the folder; still in storage",
        (false, false, false) => "gone from the folder",
        (true, true, _) => "no longer selected; still in the iModel",
        (true, false, true) => "no longer selected; still in storage",
        (true, false, false) => "no longer selected",
    }
}

/// What the state of a folder is called.
pub(crate) fn root_word(root: RootState) -> &'static str {
    match root {
        RootState::Ok => "ok",
        RootState::Polled => "polled",
        RootState::Degraded => "degraded",
        RootState::Unavailable => "unavailable",
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds for a report")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn hex(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}
