//! Gauges with one value for each watch, from its report.

use crate::ledger::{RunProgress, WatchReport};

/// A gauge with one value for each watch: its name, what it means, and its value.
pub(super) type WatchGauge = (&'static str, &'static str, fn(&WatchReport) -> u64);

pub(super) const WATCH_GAUGES: [WatchGauge; 14] = [
    (
        "files_synchronized",
        "Files synchronized in their current version.",
        |watch| watch.counts.synchronized,
    ),
    (
        "files_synchronized_with_issues",
        "Files synchronized with errors or warnings of the connector.",
        |watch| watch.counts.with_issues,
    ),
    (
        "files_gone",
        "Known files that are gone from the folder or no longer selected.",
        |watch| watch.counts.gone,
    ),
    (
        "deletions_suspended",
        "Deleted files that stay in the iModel until the operator decides.",
        |watch| watch.deletions.suspended.map_or(0, |one| one.files),
    ),
    (
        "deletions_refused",
        "Deleted files that the platform refuses to remove or to restore.",
        |watch| watch.deletions.refused,
    ),
    (
        "watch_suspended",
        "1 while the watch starts no new work: paused, suspended by the bulk change guard or after rejected credentials, or no user is signed in.",
        |watch| u64::from(watch.inactive.is_some()),
    ),
    (
        "settings_not_applied",
        "1 while the platform does not have the settings of the configuration, so that runs wait.",
        |watch| u64::from(watch.settings_fault.is_some()),
    ),
    (
        "owner_consent_missing",
        "1 while runs wait for the consent of the user for whom the connection acts.",
        |watch| u64::from(watch.owner.as_ref().is_some_and(|note| note.waits)),
    ),
    (
        "owner_consent_ends",
        "1 while the consent of the user for whom the connection acts ends within a week, or may have ended.",
        |watch| u64::from(watch.owner.as_ref().is_some_and(|note| !note.waits)),
    ),
    (
        "named_version_failed",
        "1 while the last attempt to create a named version of the iModel of the watch failed.",
        |watch| {
            let version = watch.named_version.as_ref();
            u64::from(version.is_some_and(|version| version.reason.is_some()))
        },
    ),
    (
        "run_overdue",
        "1 while the run that the watch waits for, its own or another one of the iModel, takes longer than sync.run_deadline.",
        |watch| {
            let own = watch.last_run.as_ref();
            let own = own.is_some_and(|run| run.overdue && run.ended_at.is_none());
            u64::from(own || watch.blocked.as_ref().is_some_and(|run| run.overdue))
        },
    ),
    (
        "run_tasks",
        "Tasks of the active run of the watch; 0 without one.",
        |watch| active_run(watch).map_or(0, |run| run.tasks),
    ),
    (
        "run_tasks_done",
        "Tasks of the active run of the watch that have ended.",
        |watch| active_run(watch).map_or(0, |run| run.tasks_done),
    ),
    (
        "run_usual_seconds",
        "How long runs of the iModel usually took when the last run of the watch was requested: the median of ten; 0 before.",
        |watch| {
            let usual = watch.last_run.as_ref().and_then(|run| run.usual);
            usual.map_or(0, |usual| usual.as_secs())
        },
    ),
];

/// The progress of the run of a watch that has not ended.
fn active_run(watch: &WatchReport) -> Option<&RunProgress> {
    let run = watch.last_run.as_ref()?;
    run.progress.as_ref().filter(|_| run.ended_at.is_none())
}
