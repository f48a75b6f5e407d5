//! The view of the state that `status`, `status --json` and the page share.
//!
//! Input: reports of the ledger and the runtime status. Output: values for JSON. It decides only wording;
//! `docs/status.md` documents the fields.

mod failure_groups;
mod files;
mod progress;
mod summary;
mod watches;

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{NodeReport, Overview, RunEntry, RunSummary, WatchReport};
use crate::runtime_status::{
    LedgerOutage, Outage, PageProblem, RuntimeStatus, Standby, Undelivered,
};
#[cfg(test)]
pub(crate) use failure_groups::ExampleView;
pub(crate) use failure_groups::{FailureGroupView, view as failure_group};
#[cfg(test)]
pub(crate) use files::IssuesView;
use files::result_view;
pub(crate) use files::{
    FileView, HistoryView, LineView, ResultView, file_view, history_view, word,
};
use progress::Batch;
pub(crate) use progress::{BatchView, RunProgressView};
pub(crate) use summary::{Summary, Surroundings, summary};
#[cfg(test)]
pub(crate) use watches::{BlockingView, FilesView};
pub(crate) use watches::{
    UnfinishedView, WaitView, WatchView, root_word, unfinished_view, waits, watch_view,
};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RunView {
    pub(crate) id: Option<String>,
    pub(crate) imodel_id: Option<String>,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) requested_at: Timestamp,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
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

/// An upload in progress.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct UploadView {
    pub(crate) watch: String,
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sent: u64,
    pub(crate) percent: u64,
    pub(crate) bytes_per_second: u64,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) since: Timestamp,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DaemonView {
    pub(crate) pid: u32,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) since: Timestamp,
    pub(crate) version: String,
}

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct StatusView {
    pub(crate) daemon: Option<DaemonView>,
    /// All requests to the platform fail.
    pub(crate) platform_outage: Option<Outage>,
    /// The service waits for the database of its ledger.
    pub(crate) ledger_outage: Option<LedgerOutage>,
    /// Alerts and hooks whose messages are not delivered.
    pub(crate) undelivered: Vec<Undelivered>,
    /// The page is configured and cannot be served.
    pub(crate) page_problem: Option<PageProblem>,
    /// Another host is active.
    pub(crate) standby: Option<Standby>,
    /// The hosts that share the ledger.
    pub(crate) nodes: Vec<NodeReport>,
    pub(crate) watches: Vec<WatchView>,
    pub(crate) uploads: Vec<UploadView>,
    /// All files that are on their way; None if there are none.
    pub(crate) batch: Option<BatchView>,
    /// Failures by their reason, those with most files first.
    pub(crate) failure_groups: Vec<FailureGroupView>,
    /// How many groups there are beyond those.
    pub(crate) more_failure_groups: u64,
    pub(crate) failed: Vec<FileView>,
    pub(crate) open: Vec<FileView>,
    pub(crate) results: Vec<ResultView>,
    pub(crate) runs: Vec<RunView>,
}

impl StatusView {
    pub(crate) fn new(overview: &Overview, now: Option<&RuntimeStatus>) -> Self {
        let (failure_groups, more_failure_groups) = failure_groups::views(&overview.failure_groups);
        Self {
            daemon: now.map(daemon),
            platform_outage: now.and_then(|now| now.outage.clone()),
            ledger_outage: now.and_then(|now| now.ledger_outage.clone()),
            undelivered: now.map(|now| now.undelivered.clone()).unwrap_or_default(),
            page_problem: now.and_then(|now| now.page_problem.clone()),
            standby: now.and_then(|now| now.standby.clone()),
            nodes: overview.nodes.clone(),
            watches: overview
                .watches
                .iter()
                .map(|watch| watch_view(watch, now))
                .collect(),
            uploads: now.map(uploads).unwrap_or_default(),
            batch: batch(&overview.watches, now),
            failure_groups,
            more_failure_groups,
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
