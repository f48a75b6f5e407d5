//! The current problems, as alerts name them.

use jiff::tz::TimeZone;

use crate::config::Level;
use crate::ledger::{
    self, FailureKind, Inactive, Ledger, Problem, RootState, SpatialRootState, WatchReport,
};
use crate::local_time;
use crate::names::QuotedPath;
use crate::runtime_status::{LedgerOutage, PageProblem};
use crate::shell;

/// Problems that are read one by one; beyond that, only their number is reported.
const PROBLEMS_MAX: u32 = 1000;

/// A current problem.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct AlertProblem {
    /// Identifies it as long as it lasts.
    #[serde(skip)]
    pub(super) key: String,
    /// `file`, `issues`, `folder`, `watch`, `run`, `imodel`, `page` or `ledger`.
    pub(super) kind: &'static str,
    #[serde(skip)]
    pub(super) severe: bool,
    pub(super) watch: String,
    /// Of a file: relative to its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// Of a file that failed: what kind of failure it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<&'static str>,
    pub(super) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}

/// All current problems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems {
    pub(super) list: Vec<AlertProblem>,
    /// Failed files beyond those in the list.
    pub(super) more: u64,
}

impl Problems {
    /// All that the ledger and the page have.
    pub(super) async fn read(
        reader: &Ledger,
        page: Option<PageProblem>,
        level: Level,
    ) -> Result<Self, ledger::Error> {
        let (watches, files, all) = reader.problems(PROBLEMS_MAX, crate::clock::now()).await?;
        let mut list: Vec<AlertProblem> = watches.iter().flat_map(of_watch).collect();
        list.extend(page.map(of_page));
        let more = all.saturating_sub(files.len() as u64);
        list.extend(files.into_iter().map(of_file));
        if level == Level::Error {
            list.retain(|problem| problem.severe);
        }
        Ok(Self { list, more })
    }

    /// These, and that the database of the ledger cannot be used.
    pub(super) fn with(mut self, outage: Option<LedgerOutage>) -> Self {
        self.list.extend(outage.map(of_ledger));
        self
    }
}

fn of_file(problem: Problem) -> AlertProblem {
    let (kind, severe) = match problem.kind {
        Some(_) => ("file", true),
        None => ("issues", false),
    };
    AlertProblem {
        key: format!("{kind} {} {}", problem.file, problem.version),
        kind,
        severe,
        failure: problem.kind.map(FailureKind::as_str),
        path: Some(problem.path.to_string_lossy().into_owned()),
        watch: problem.watch,
        reason: problem.reason,
        hint: problem.hint,
    }
}

fn of_ledger(outage: LedgerOutage) -> AlertProblem {
    AlertProblem {
        key: "ledger".to_owned(),
        kind: "ledger",
        severe: true,
        watch: String::new(),
        path: None,
        failure: None,
        reason: format!("not available: {}", outage.reason),
        hint: Some(outage.hint),
    }
}

/// Whoever relies on the page sees nothing of it: the message says so.
fn of_page(problem: PageProblem) -> AlertProblem {
    AlertProblem {
        key: "page".to_owned(),
        kind: "page",
        severe: true,
        watch: String::new(),
        path: None,
        failure: None,
        reason: problem.reason,
        hint: Some(
            "stop the program that uses the address of web.listen, or set another one and restart"
                .to_owned(),
        ),
    }
}

fn of_watch(watch: &WatchReport) -> Vec<AlertProblem> {
    let mut all = Vec::new();
    let note = || watch.note.clone().unwrap_or_default();
    let folder = |word: &str, severe, reason: String| AlertProblem {
        key: format!("{word} {}", watch.name),
        kind: "folder",
        severe,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: None,
    };
    let root = match watch.root {
        RootState::Unavailable => Some(("unavailable", true)),
        RootState::Degraded => Some(("degraded", false)),
        RootState::Ok | RootState::Polled => None,
    };
    if let Some((word, severe)) = root {
        let reason = format!("folder {word}: {}", note());
        all.push(folder(word, severe, reason));
    }
    if let Some(inactive) = &watch.inactive {
        let (severe, reason) = of_inactive(watch, inactive);
        all.push(AlertProblem {
            kind: "watch",
            ..folder("held", severe, reason)
        });
    }
    if let Some(wait) = &watch.spatial_root
        && wait.state != SpatialRootState::Pending
    {
        all.push(AlertProblem {
            kind: "watch",
            hint: wait.hint(&watch.name),
            ..folder(
                "spatial root",
                wait.state == SpatialRootState::Failed,
                wait.text(),
            )
        });
    }
    for (stage, what, keys, wait) in [
        (
            "upload",
            "the upload",
            "upload_window or upload.rate",
            watch.upload_wait,
        ),
        ("run", "a run", "run_window", watch.run_wait),
    ] {
        if let Some(wait) = wait.filter(|wait| wait.overdue) {
            let until = local_time::label(wait.until, crate::clock::now(), &TimeZone::system());
            let sync = shell::command(["sync", &watch.name]);
            let reason = format!("files wait until {until} for {what}, longer than window_stale");
            all.push(AlertProblem {
                kind: "watch",
                hint: Some(format!("run `{sync}`, or correct {keys}")),
                ..folder(&format!("{stage} window"), true, reason)
            });
        }
    }
    if let Some(rival) = &watch.rival {
        all.push(AlertProblem {
            kind: "watch",
            hint: Some(rival.hint().to_owned()),
            ..folder("rival", true, rival.reason())
        });
    }
    if let Some(fault) = &watch.settings_fault {
        all.push(AlertProblem {
            kind: "watch",
            hint: fault.hint.clone(),
            ..folder("settings", true, fault.reason.clone())
        });
    }
    if let Some(version) = &watch.named_version
        && version.severe
        && let Some(reason) = &version.reason
    {
        all.push(AlertProblem {
            kind: "imodel",
            hint: version.hint.clone(),
            ..folder(
                "named version",
                true,
                format!("iModel {}: {reason}", watch.imodel_id),
            )
        });
    }
    for trouble in watch.deletions.troubles(&watch.name) {
        all.push(AlertProblem {
            kind: "watch",
            hint: trouble.hint,
            ..folder(trouble.state.as_str(), true, trouble.reason)
        });
    }
    all.extend(of_runs(watch));
    all
}

/// Whether what keeps a watch from work is an error, and what it is.
fn of_inactive(watch: &WatchReport, inactive: &Inactive) -> (bool, String) {
    let severe = matches!(
        inactive,
        Inactive::Suspended(_) | Inactive::AwaitsSignIn(_) | Inactive::OtherLedger(_)
    );
    let state = inactive.state();
    (severe, format!("{state}: {}", inactive.reason(&watch.name)))
}

/// Runs of its iModel that take too long, or that wait for the user for whom they act.
fn of_runs(watch: &WatchReport) -> Vec<AlertProblem> {
    let mut all = Vec::new();
    if let Some(note) = &watch.owner {
        all.push(AlertProblem {
            key: format!("owner {}", watch.name),
            kind: "watch",
            severe: note.waits,
            watch: watch.name.clone(),
            path: None,
            failure: None,
            reason: note.reason.clone(),
            hint: Some(note.hint.clone()),
        });
    }
    let own = watch.last_run.as_ref();
    if let Some(run) = own.filter(|run| run.overdue && run.ended_at.is_none()) {
        let id = run.id.as_deref().unwrap_or("of ours");
        all.push(overdue(
            watch,
            id,
            format!("run {id} takes longer than sync.run_deadline"),
        ));
    }
    if let Some(run) = watch.blocked.as_ref().filter(|run| run.overdue) {
        let reason = format!(
            "waiting for run {} of connection {:?}, which takes longer than sync.run_deadline",
            run.run, run.connection
        );
        all.push(overdue(watch, &run.run, reason));
    }
    all
}

fn overdue(watch: &WatchReport, run: &str, reason: String) -> AlertProblem {
    AlertProblem {
        key: format!("run {run} {}", watch.name),
        kind: "run",
        severe: true,
        watch: watch.name.clone(),
        path: None,
        failure: None,
        reason,
        hint: Some("check the run in the iTwin portal".to_owned()),
    }
}

impl AlertProblem {
    /// Where it is, on one line.
    pub(super) fn place(&self) -> String {
        match &self.path {
            Some(path) => format!("{}: {}", self.watch, QuotedPath(path.as_ref())),
            None if self.kind == "page" => "status page".to_owned(),
            None if self.kind == "ledger" => "ledger".to_owned(),
            None => format!("watch {:?}", self.watch),
        }
    }
}

#[cfg(test)]
mod tests;
