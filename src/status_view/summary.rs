//! The overall state in one line.

use super::{StatusView, WatchView};
use crate::ledger::DeletionState;
use crate::text::plural;

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

/// Problems of the service as a whole.
fn problems_of_service(view: &StatusView, surroundings: &Surroundings) -> Vec<String> {
    let mut problems = Vec::new();
    if surroundings.disk_full.is_some() {
        problems.push("disk of the state directory full".to_owned());
    }
    if surroundings.unreachable.is_some() {
        problems.push("daemon not responding".to_owned());
    } else if view.daemon.is_none() {
        problems.push("daemon not running".to_owned());
    }
    if view.ledger_outage.is_some() {
        problems.push("ledger not available".to_owned());
    }
    if view.platform_outage.is_some() {
        problems.push("platform not available".to_owned());
    }
    let undelivered = view.undelivered.iter();
    problems.extend(undelivered.map(|one| format!("messages of {} not delivered", one.receiver)));
    if view.page_problem.is_some() {
        problems.push("page not available".to_owned());
    }
    problems
}

fn problems(view: &StatusView, surroundings: &Surroundings) -> Vec<String> {
    let mut problems = problems_of_service(view, surroundings);
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
            watches(|watch| watch.rival.is_some()),
            "watch wanted by another itwin-syncd",
            "watches wanted by another itwin-syncd",
        ),
        (
            watches(|watch| watch.settings.is_some()),
            "watch with settings not applied",
            "watches with settings not applied",
        ),
        (
            watches(|watch| watch.owner.as_ref().is_some_and(|owner| owner.waits)),
            "watch waiting for the consent of the user",
            "watches waiting for the consent of the user",
        ),
        (
            watches(|watch| watch.owner.as_ref().is_some_and(|owner| !owner.waits)),
            "watch with a consent that ends soon",
            "watches with a consent that ends soon",
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
