//! The view of the state that `status`, `status --json` and the page share.
//!
//! Input: reports of the ledger and the runtime status. Output: values for JSON. It decides only wording;
//! `docs/status.md` documents the fields.
//!
//! Longer than most files because it is one list of views with the conversion of each.

mod progress;

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::connector_type::ConnectorType;
use crate::ledger::{
    Absence, BlockingRun, Counts, DeletionState, FailureKind, FileHistory, FileReport,
    HistoryEntry, HistoryEvent, Inactive, JobState, NamedVersionReport, Outcome, Overview,
    ResultReport, RootState, RunEntry, RunEvent, RunSummary, Step, WatchReport, Withdrawal,
};
use crate::local_time;
use crate::runtime_status::{Outage, PageProblem, RootStatus, RuntimeStatus, Undelivered};
use crate::source_file_limit::{self, Load, SourceFiles};
use crate::text::plural;
use crate::watch::Unfinished;
use progress::Batch;
pub(crate) use progress::{BatchView, RunProgressView};

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
    /// Suspended until then; null until `resume`.
    pub(crate) suspended_until: Option<Timestamp>,
    pub(crate) suspended_reason: Option<String>,
    pub(crate) files: FilesView,
    pub(crate) last_run: Option<RunView>,
    /// The run of another connection that runs of its iModel wait for.
    pub(crate) blocked_by: Option<BlockingView>,
    /// The spatial root that files of its iModel wait for.
    pub(crate) spatial_root: Option<SpatialRootView>,
    /// Files that wait for a time of day.
    pub(crate) waits: Vec<WaitView>,
    /// Why the platform does not have the settings of its connection or its iModel.
    pub(crate) settings: Option<SettingsView>,
    /// The named versions of its iModel; None if the configuration requests none.
    pub(crate) named_version: Option<NamedVersionView>,
    /// Deleted files that are not handled as configured.
    pub(crate) deletions: Vec<DeletionsView>,
    /// The source files of its iModel.
    pub(crate) source_files: Option<SourceFilesView>,
    /// What stayed in iModels that it went to before.
    pub(crate) former_imodels: Vec<FormerImodelView>,
    pub(crate) unfinished: Vec<UnfinishedView>,
}

/// Files of a watch by state.
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
    /// Still being written; null without a daemon.
    pub(crate) settling: Option<u64>,
    /// They could not be opened for long; null without a daemon.
    pub(crate) unreadable: Option<u64>,
    /// Ignored; null without a daemon.
    pub(crate) ignored: Option<u64>,
}

/// A run of another connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BlockingView {
    pub(crate) run: String,
    pub(crate) connection: String,
    pub(crate) since: Timestamp,
    pub(crate) overdue: bool,
}

/// A spatial root that other files wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SpatialRootView {
    pub(crate) path: String,
    /// `pending`, `missing` or `failed`.
    pub(crate) state: &'static str,
    /// Both as text.
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
}

/// Settings that the platform does not have as configured; runs wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SettingsView {
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// Files that wait for a time of day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WaitView {
    /// `upload` or `run`.
    pub(crate) stage: &'static str,
    pub(crate) files: u64,
    pub(crate) until: Timestamp,
    /// They wait for longer than `window_stale`.
    pub(crate) overdue: bool,
    /// The same as text.
    pub(crate) text: String,
}

/// The last named version of an iModel, and how the last attempt to create one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NamedVersionView {
    pub(crate) name: Option<String>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) files: Option<u64>,
    /// All of it as text.
    pub(crate) text: String,
    /// Why the last attempt failed.
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
}

/// Deleted files that are not handled as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DeletionsView {
    /// `deletions suspended` or `deletions refused`.
    pub(crate) state: &'static str,
    pub(crate) files: u64,
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// The source files of an iModel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SourceFilesView {
    /// Of watched files.
    pub(crate) watched: u64,
    /// Of others, or of files that are gone.
    pub(crate) others: u64,
    /// What the platform accepts.
    pub(crate) limit: u64,
    /// The count as text.
    pub(crate) text: String,
    /// What to do about too many.
    pub(crate) hint: Option<&'static str>,
}

/// Source files in an iModel that the watch went to before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FormerImodelView {
    pub(crate) imodel_id: String,
    pub(crate) files: u64,
    /// Both as text.
    pub(crate) text: String,
    /// How to take them out.
    pub(crate) hint: String,
}

/// Issues that a connector reported for a file.
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
    /// Why it cannot be opened.
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
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
    /// How far an active run has got; null before the platform reported it.
    pub(crate) progress: Option<RunProgressView>,
    /// How long an active run has taken so far.
    pub(crate) elapsed_seconds: Option<u64>,
    /// How long runs of its iModel usually took when it was requested.
    pub(crate) usual_seconds: Option<f64>,
    /// What is left of an active run, if it takes as long as usual.
    pub(crate) seconds_left: Option<u64>,
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
    /// The state as text.
    pub(crate) status: &'static str,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) result: Option<&'static str>,
    pub(crate) result_at: Option<Timestamp>,
    pub(crate) connector: Option<ConnectorType>,
    pub(crate) storage_file_id: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) run: Option<String>,
    pub(crate) seconds: Option<f64>,
    /// Issues that the connector reported.
    pub(crate) issues: Option<IssuesView>,
    /// Why it has no local file: `missing`, `gone` or `deselected`.
    pub(crate) absence: Option<&'static str>,
    pub(crate) absent_since: Option<Timestamp>,
    /// How far it is withdrawn from the platform.
    pub(crate) withdrawal: Option<&'static str>,
    pub(crate) failure: Option<&'static str>,
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) attempts: u64,
    pub(crate) next_attempt: Option<Timestamp>,
}

/// An upload in progress.
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
    pub(crate) connector: Option<ConnectorType>,
    pub(crate) reason: Option<String>,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DaemonView {
    pub(crate) pid: u32,
    pub(crate) since: Timestamp,
    pub(crate) version: String,
}

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StatusView {
    pub(crate) daemon: Option<DaemonView>,
    /// All requests to the platform fail.
    pub(crate) platform_outage: Option<Outage>,
    /// Alerts and hooks whose messages are not delivered.
    pub(crate) undelivered: Vec<Undelivered>,
    /// The page is configured and cannot be served.
    pub(crate) page_problem: Option<PageProblem>,
    pub(crate) watches: Vec<WatchView>,
    pub(crate) uploads: Vec<UploadView>,
    /// All files that are on their way; None if there are none.
    pub(crate) batch: Option<BatchView>,
    pub(crate) failed: Vec<FileView>,
    pub(crate) open: Vec<FileView>,
    pub(crate) results: Vec<ResultView>,
    pub(crate) runs: Vec<RunView>,
}

/// What a command observes about the daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Why a running daemon does not respond.
    pub(crate) unreachable: Option<String>,
    /// Bytes left on the disk of the ledger, if too few to write it.
    pub(crate) disk_full: Option<u64>,
}

/// The overall state, as the first line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Nothing needs attention.
    pub(crate) ok: bool,
    /// The same as text: problems first, then work in progress.
    pub(crate) text: String,
}

/// The history of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HistoryView {
    pub(crate) file: FileView,
    pub(crate) history: Vec<LineView>,
}

/// One event in the history of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LineView {
    pub(crate) at: Timestamp,
    pub(crate) version: Option<u64>,
    /// The event, for programs.
    pub(crate) what: HistoryEvent,
    /// The event as text.
    pub(crate) text: String,
    pub(crate) note: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) seconds: Option<f64>,
}

impl StatusView {
    pub(crate) fn new(overview: &Overview, now: Option<&RuntimeStatus>) -> Self {
        Self {
            daemon: now.map(daemon),
            platform_outage: now.and_then(|now| now.outage.clone()),
            undelivered: now.map(|now| now.undelivered.clone()).unwrap_or_default(),
            page_problem: now.and_then(|now| now.page_problem.clone()),
            watches: overview
                .watches
                .iter()
                .map(|watch| watch_view(watch, now))
                .collect(),
            uploads: now.map(uploads).unwrap_or_default(),
            batch: batch(&overview.watches, now),
            failed: overview.failed.iter().map(file_view).collect(),
            open: overview.open.iter().map(file_view).collect(),
            results: overview.results.iter().map(result_view).collect(),
            runs: overview.runs.iter().map(run_entry).collect(),
        }
    }
}

impl StatusView {
    /// Whether the other view differs from this one only in what changes with every second of a run or a batch.
    pub(crate) fn differs_in_time_only(&self, other: &Self) -> bool {
        self.at_no_time() == other.at_no_time()
    }

    fn at_no_time(&self) -> Self {
        let mut view = self.clone();
        let of_watches = view.watches.iter_mut();
        let of_watches = of_watches.filter_map(|watch| watch.last_run.as_mut());
        for run in of_watches.chain(&mut view.runs) {
            (run.elapsed_seconds, run.seconds_left) = (None, None);
        }
        if let Some(batch) = &mut view.batch {
            (batch.upload_seconds_left, batch.run_seconds_left) = (None, None);
            batch.text.clear();
        }
        view
    }
}

/// Summarizes the state: what needs attention first, then what is in progress.
pub(crate) fn summary(view: &StatusView, surroundings: &Surroundings) -> Summary {
    let problems = problems(view, surroundings);
    let progress = progress(view).join(", ");
    let ok = problems.is_empty();
    let text = if ok {
        format!("OK: nothing needs attention; {progress}")
    } else {
        format!("ATTENTION: {}; {progress}", problems.join(", "))
    };
    Summary { ok, text }
}

fn problems(view: &StatusView, surroundings: &Surroundings) -> Vec<String> {
    let mut problems = Vec::new();
    if surroundings.disk_full.is_some() {
        problems.push("disk of the state directory full".to_owned());
    }
    if surroundings.unreachable.is_some() {
        problems.push("daemon not responding".to_owned());
    } else if view.daemon.is_none() {
        problems.push("daemon not running".to_owned());
    }
    if view.platform_outage.is_some() {
        problems.push("platform not available".to_owned());
    }
    let undelivered = view.undelivered.iter();
    problems.extend(undelivered.map(|one| format!("messages of {} not delivered", one.receiver)));
    if view.page_problem.is_some() {
        problems.push("page not available".to_owned());
    }
    let watches = |is: fn(&WatchView) -> bool| {
        let configured = view.watches.iter().filter(|watch| watch.configured);
        configured.filter(|watch| is(watch)).count() as u64
    };
    let files = |count: fn(&WatchView) -> u64| view.watches.iter().map(count).sum::<u64>();
    for (count, one, many) in [
        (
            files(|watch| watch.files.failed),
            "file failed",
            "files failed",
        ),
        (
            watches(|watch| watch.root == "unavailable"),
            "folder unavailable",
            "folders unavailable",
        ),
        (
            files(|watch| watch.files.unreadable.unwrap_or(0)),
            "file cannot be opened",
            "files cannot be opened",
        ),
        (
            watches(|watch| watch.root == "degraded"),
            "folder degraded",
            "folders degraded",
        ),
        (
            watches(|watch| watch.paused_at.is_some()),
            "watch paused",
            "watches paused",
        ),
        (
            watches(|watch| watch.suspended_reason.is_some() && watch.paused_at.is_none()),
            "watch suspended",
            "watches suspended",
        ),
        (
            watches(|watch| watch.has_deletions(DeletionState::Suspended)),
            "watch with suspended deletions",
            "watches with suspended deletions",
        ),
        (
            watches(|watch| watch.has_deletions(DeletionState::Refused)),
            "watch with refused deletions",
            "watches with refused deletions",
        ),
        (
            watches(|watch| watch.settings.is_some()),
            "watch with settings not applied",
            "watches with settings not applied",
        ),
        (
            watches(WatchView::waits_for_overdue_run),
            "watch waiting for an overdue run",
            "watches waiting for an overdue run",
        ),
        (
            files(|watch| watch.files.synchronized_with_issues),
            "file synchronized with issues",
            "files synchronized with issues",
        ),
    ] {
        if count > 0 {
            problems.push(plural(count, one, many));
        }
    }
    problems
}

fn progress(view: &StatusView) -> Vec<String> {
    let sum = |count: fn(&WatchView) -> u64| view.watches.iter().map(count).sum::<u64>();
    let mut parts = Vec::new();
    for (count, what) in [
        (sum(|watch| watch.files.working), "in progress"),
        (sum(|watch| watch.files.waiting), "waiting"),
        (
            sum(|watch| watch.files.settling.unwrap_or(0)),
            "being written",
        ),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", plural(count, "file", "files")));
        }
    }
    parts.push(match sum(|watch| watch.files.synchronized) {
        0 => "no file synchronized yet".to_owned(),
        files => format!("{} synchronized", plural(files, "file", "files")),
    });
    parts
}

impl WatchView {
    fn has_deletions(&self, state: DeletionState) -> bool {
        self.deletions.iter().any(|one| one.state == state.as_str())
    }

    fn waits_for_overdue_run(&self) -> bool {
        let own = self.last_run.as_ref().is_some_and(|run| run.overdue);
        own || self.blocked_by.as_ref().is_some_and(|run| run.overdue)
    }
}

pub(crate) fn daemon(now: &RuntimeStatus) -> DaemonView {
    DaemonView {
        pid: now.pid,
        since: now.since,
        version: now.version.clone(),
    }
}

pub(crate) fn uploads(now: &RuntimeStatus) -> Vec<UploadView> {
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

fn named_version_view(version: &NamedVersionReport) -> NamedVersionView {
    let last = version.last.as_ref();
    NamedVersionView {
        name: last.map(|(name, _, _)| name.clone()),
        created_at: last.map(|(_, at, _)| *at),
        files: last.map(|(_, _, files)| *files),
        text: version.text(),
        reason: version.reason.clone(),
        hint: version.hint.clone(),
    }
}

pub(crate) fn watch_view(watch: &WatchReport, now: Option<&RuntimeStatus>) -> WatchView {
    let live: Option<&RootStatus> = now.and_then(|now| now.roots.get(&watch.name));
    let inactive = watch.inactive.as_ref().filter(|_| watch.configured);
    WatchView {
        name: watch.name.clone(),
        imodel_id: watch.imodel_id.to_string(),
        configured: watch.configured,
        root: watch.root.as_str(),
        note: watch.note.clone(),
        scanned_at: watch.scanned_at,
        next_scan: live.and_then(|root| root.next_scan),
        scanning: live.is_some_and(|root| root.scanning),
        paused_at: match inactive {
            Some(Inactive::Paused { since }) => Some(*since),
            _ => None,
        },
        suspended_until: inactive.and_then(Inactive::until),
        suspended_reason: inactive.map(|inactive| inactive.reason(&watch.name)),
        files: files_view(&watch.counts, live),
        last_run: watch.last_run.as_ref().map(run_view),
        blocked_by: watch.blocked.as_ref().map(blocking_view),
        spatial_root: watch.spatial_root.as_ref().map(|wait| SpatialRootView {
            path: wait.path.clone(),
            state: wait.state.as_str(),
            text: wait.text(),
            hint: wait.hint(&watch.name),
        }),
        waits: waits(watch, crate::clock::now()),
        settings: watch.settings_fault.as_ref().map(|fault| SettingsView {
            reason: fault.reason.clone(),
            hint: fault.hint.clone(),
        }),
        named_version: watch.named_version.as_ref().map(named_version_view),
        deletions: watch
            .deletions
            .troubles(&watch.name)
            .into_iter()
            .map(|trouble| DeletionsView {
                state: trouble.state.as_str(),
                files: trouble.files,
                reason: trouble.reason,
                hint: trouble.hint,
            })
            .collect(),
        source_files: watch.source_files.map(source_files_view),
        former_imodels: watch
            .former_imodels
            .iter()
            .map(|former| FormerImodelView {
                imodel_id: former.imodel_id.to_string(),
                files: former.files,
                text: former.text(),
                hint: former.hint(),
            })
            .collect(),
        unfinished: live
            .map(|root| {
                let files = root.unfinished.iter();
                files.map(unfinished_view).collect()
            })
            .unwrap_or_default(),
    }
}

pub(crate) fn unfinished_view(file: &Unfinished) -> UnfinishedView {
    UnfinishedView {
        path: file.path.clone(),
        busy: file.busy,
        reason: file.reason.clone(),
        hint: file.hint.clone(),
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

/// Files of a watch that wait for a time of day.
pub(crate) fn waits(watch: &WatchReport, now: Timestamp) -> Vec<WaitView> {
    let stages = [
        ("upload", "the upload", watch.upload_wait, watch.counts.due),
        ("run", "a run", watch.run_wait, watch.counts.stored),
    ];
    let waits = stages.into_iter().filter_map(|(stage, what, wait, files)| {
        let wait = wait.filter(|_| watch.configured && files > 0)?;
        let until = local_time::label(wait.until, now, &TimeZone::system());
        let files_wait = plural(files, "file waits", "files wait");
        let overdue = if wait.overdue { ", overdue" } else { "" };
        Some(WaitView {
            stage,
            files,
            until: wait.until,
            overdue: wait.overdue,
            text: format!("{files_wait} until {until} for {what}{overdue}"),
        })
    });
    waits.collect()
}

fn source_files_view(found: SourceFiles) -> SourceFilesView {
    SourceFilesView {
        watched: found.watched,
        others: found.others,
        limit: source_file_limit::MAX,
        text: found.text(),
        hint: (found.load() != Load::Fits).then_some(source_file_limit::ADVICE),
    }
}

fn files_view(counts: &Counts, live: Option<&RootStatus>) -> FilesView {
    FilesView {
        synchronized: counts.synchronized,
        synchronized_with_issues: counts.with_issues,
        uploaded: counts.uploaded,
        gone: counts.gone,
        waiting: counts.waiting(),
        working: counts.working(),
        failed: counts.failed,
        settling: live.map(|root| root.settling),
        unreadable: live.map(|root| root.unreadable),
        ignored: live.and_then(|root| root.ignored),
    }
}

pub(crate) fn run_view(run: &RunSummary) -> RunView {
    let now = crate::clock::now();
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
        progress: progress::progress(run),
        elapsed_seconds: progress::elapsed(run, now),
        usual_seconds: run.usual.map(|usual| usual.as_secs_f64()),
        seconds_left: progress::seconds_left(run, now),
    }
}

/// All files that are on their way. Those of watches that are stopped or wait for a time of day are not.
fn batch(watches: &[WatchReport], now: Option<&RuntimeStatus>) -> Option<BatchView> {
    let clock = crate::clock::now();
    let uploads = now.map(|now| now.uploads.as_slice()).unwrap_or_default();
    let moving = watches.iter().filter(|watch| {
        watch.configured && watch.inactive.is_none() && waits(watch, clock).is_empty()
    });
    let mut batch = Batch {
        bytes_left: Some(0),
        bytes_per_second: uploads.iter().map(|upload| upload.rate).sum(),
        ..Batch::default()
    };
    for watch in moving {
        let counts = &watch.counts;
        batch.to_upload += counts.due + counts.uploading;
        batch.uploaded += counts.stored + counts.running;
        batch.bytes_left = match (batch.bytes_left, watch.upload_bytes) {
            (Some(left), Some(bytes)) => left.checked_add(bytes),
            _ => None,
        };
        let left = watch.last_run.as_ref();
        let left = left.and_then(|run| progress::seconds_left(run, clock));
        batch.run_seconds_left = batch.run_seconds_left.max(left);
    }
    let sent: u64 = uploads.iter().map(|upload| upload.sent).sum();
    batch.bytes_left = batch.bytes_left.map(|left| left.saturating_sub(sent));
    batch.view()
}

fn run_entry(entry: &RunEntry) -> RunView {
    RunView {
        imodel_id: Some(entry.imodel_id.to_string()),
        files: Some(entry.files),
        ..run_view(&entry.run)
    }
}

pub(crate) fn file_view(file: &FileReport) -> FileView {
    let refused = file.withdrawal_refusal.as_ref();
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
        storage_file_id: file.storage_file_id.as_ref().map(ToString::to_string),
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
        withdrawal: file.withdrawal.map(Withdrawal::as_str),
        failure: file.kind.map(FailureKind::as_str),
        reason: file
            .reason
            .as_ref()
            .or(refused.map(|(reason, _)| reason))
            .cloned(),
        hint: match (&file.reason, refused) {
            (None, Some((_, hint))) => hint.clone(),
            _ => file.hint.clone(),
        },
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

pub(crate) fn history_view(story: &FileHistory) -> HistoryView {
    HistoryView {
        file: file_view(&story.file),
        history: story.entries.iter().map(line_view).collect(),
    }
}

fn line_view(line: &HistoryEntry) -> LineView {
    LineView {
        at: line.at,
        version: line.version,
        what: line.what,
        text: line_text(line),
        note: line.note.clone(),
        hint: line.hint.clone(),
        run: line.run.clone(),
        bytes: line.bytes,
        seconds: line.millis.map(seconds),
    }
}

fn line_text(line: &HistoryEntry) -> String {
    let text = match line.what {
        HistoryEvent::Step(step) => match step {
            Step::Seen => return format!("version {} queued", line.version.unwrap_or(0)),
            Step::Uploaded => "uploaded to storage",
            Step::PutOff => "attempt failed, will be retried",
            Step::Asked => "retry requested",
            Step::SameContent => "same content in storage: not uploaded",
            Step::Overwritten => "storage file changed by another client: comparing its content",
            Step::LostInStorage => "storage file deleted by someone else: uploading again",
            Step::CompanionChanged => {
                "a file that belongs to it has new content: waiting for a run"
            }
            Step::Remapped => "source file in the connection corrected: waiting for a run",
            Step::ReferenceChanged => "a reference changed",
            Step::Displaced => {
                "removed from another connection, because it does not belong there any more"
            }
            Step::Unmapped => "removed from the connection: it is a reference now",
            Step::Withdrawn => "removed from the connection: it is gone from the folder",
            Step::Deleted => "storage file moved to the recycle bin, which keeps it for 30 days",
            Step::WithdrawalRefused => "the platform refused, will be tried again",
            Step::RestoreAsked => "restore requested",
            Step::Restored => "storage file restored from the recycle bin",
            Step::NotRestored => "storage file not restored",
            Step::SourceFileRemoved => "source file removed by the operator",
            Step::StorageFileRemoved => "storage file moved to the recycle bin by the operator",
            Step::RunLost => "run not found on the platform: waiting for another run",
            Step::NotJudged => "run ended without a result for this file: waiting for another run",
            Step::Renamed => {
                return format!("renamed from {}", line.note.as_deref().unwrap_or_default());
            }
            Step::Relocated => "storage file moved to the new name and folder",
            Step::NameKept => "storage refused the new name or folder",
            Step::Gone => "gone from the folder",
            Step::Deselected => "no longer selected by the configuration",
        },
        HistoryEvent::Run(RunEvent::Requested) => "run requested",
        HistoryEvent::Run(RunEvent::Ended) => "run ended",
        HistoryEvent::Result(outcome) => match outcome {
            Outcome::Uploaded => "uploaded (upload only)",
            Outcome::Synchronized => "synchronized",
            Outcome::SynchronizedWithIssues => "synchronized with issues",
            Outcome::Unchanged => "unchanged content: not uploaded",
            Outcome::Renamed => "renamed: storage file and source file kept",
            Outcome::Vanished => "file deleted before the upload",
            Outcome::Failed => "failed",
        },
    };
    text.to_owned()
}

/// The state of a file as text: that of its open job, else the last outcome.
pub(crate) fn word(file: &FileReport) -> &'static str {
    match (file.job, file.outcome) {
        (Some(JobState::Due), _) => "waiting for upload",
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

/// The state of a file without a local file.
fn absent_word(file: &FileReport) -> &'static str {
    let in_imodel = matches!(
        file.stored_outcome,
        Some(Outcome::Synchronized | Outcome::SynchronizedWithIssues)
    );
    let deselected = matches!(file.absence, Some((Absence::Deselected, _)));
    match file.withdrawal.filter(|_| !deselected) {
        Some(Withdrawal::Unmapping) => {
            return "gone from the folder; being removed from the connection";
        }
        Some(Withdrawal::Unmapped) => return "gone from the folder; removed from the connection",
        Some(Withdrawal::Deleting) => return "gone from the folder; storage file being deleted",
        Some(Withdrawal::Deleted) => {
            return "gone from the folder; storage file in the recycle bin";
        }
        Some(Withdrawal::Restoring) => return "gone from the folder; waiting to be restored",
        Some(Withdrawal::Restored) if !in_imodel => return "gone from the folder; restored",
        Some(Withdrawal::Restored) => {
            return "gone from the folder; restored, still in the iModel";
        }
        None => {}
    }
    match (deselected, in_imodel, file.storage_file_id.is_some()) {
        (false, true, _) => "gone from the folder; still in the iModel",
        (false, false, true) => "gone from the folder; still in storage",
        (false, false, false) => "gone from the folder",
        (true, true, _) => "no longer selected; still in the iModel",
        (true, false, true) => "no longer selected; still in storage",
        (true, false, false) => "no longer selected",
    }
}

/// The state of a folder as text.
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
