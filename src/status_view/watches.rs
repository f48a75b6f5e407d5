//! Watches, as the reports show them.
//!
//! Input: reports of watches in the ledger, and what the daemon does in their folders. Output: values for JSON.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{RunView, run_view};
use crate::ledger::{
    BlockingRun, Counts, DeletionState, Inactive, NamedVersionReport, RootState, WatchReport,
};
use crate::local_time;
use crate::runtime_status::{RootStatus, RuntimeStatus};
use crate::source_file_limit::{self, Load, SourceFiles};
use crate::text::plural;
use crate::watch::Unfinished;

/// A watch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct WatchView {
    pub(crate) name: String,
    pub(crate) imodel_id: String,
    /// It is in the configuration.
    pub(crate) configured: bool,
    pub(crate) root: &'static str,
    pub(crate) note: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) scanned_at: Option<Timestamp>,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) next_scan: Option<Timestamp>,
    pub(crate) scanning: bool,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) paused_at: Option<Timestamp>,
    /// Suspended until then; null until `resume`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
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
    /// What the user for whom its connections act has to do.
    pub(crate) owner: Option<OwnerView>,
    /// Another daemon that wants its storage folder and waits.
    pub(crate) rival: Option<RivalView>,
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BlockingView {
    pub(crate) run: String,
    pub(crate) connection: String,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) since: Timestamp,
    pub(crate) overdue: bool,
}

/// A spatial root that other files wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SettingsView {
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// The user for whom connections act has to do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OwnerView {
    /// Runs wait until then; else they will soon.
    pub(crate) waits: bool,
    pub(crate) reason: String,
    pub(crate) hint: String,
}

/// Another daemon, with a ledger of its own, that is configured for the same iModel and storage folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RivalView {
    pub(crate) reason: String,
    pub(crate) hint: &'static str,
}

/// Files that wait for a time of day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct WaitView {
    /// `upload` or `run`.
    pub(crate) stage: &'static str,
    pub(crate) files: u64,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) until: Timestamp,
    /// They wait for longer than `window_stale`.
    pub(crate) overdue: bool,
    /// The same as text.
    pub(crate) text: String,
}

/// The last named version of an iModel, and how the last attempt to create one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NamedVersionView {
    pub(crate) name: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DeletionsView {
    /// `deletions suspended` or `deletions refused`.
    pub(crate) state: &'static str,
    pub(crate) files: u64,
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// The source files of an iModel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FormerImodelView {
    pub(crate) imodel_id: String,
    pub(crate) files: u64,
    /// Both as text.
    pub(crate) text: String,
    /// How to take them out.
    pub(crate) hint: String,
}

/// A file that is still being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct UnfinishedView {
    pub(crate) path: String,
    pub(crate) busy: bool,
    /// Why it cannot be opened.
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
}

impl WatchView {
    pub(super) fn has_deletions(&self, state: DeletionState) -> bool {
        self.deletions.iter().any(|one| one.state == state.as_str())
    }

    pub(super) fn waits_for_overdue_run(&self) -> bool {
        let own = self.last_run.as_ref().is_some_and(|run| run.overdue);
        own || self.blocked_by.as_ref().is_some_and(|run| run.overdue)
    }
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
        owner: watch.owner.as_ref().map(|note| OwnerView {
            waits: note.waits,
            reason: note.reason.clone(),
            hint: note.hint.clone(),
        }),
        rival: watch.rival.as_ref().map(|rival| RivalView {
            reason: rival.reason(),
            hint: rival.hint(),
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

/// The state of a folder as text.
pub(crate) fn root_word(root: RootState) -> &'static str {
    match root {
        RootState::Ok => "ok",
        RootState::Polled => "polled",
        RootState::Degraded => "degraded",
        RootState::Unavailable => "unavailable",
    }
}
