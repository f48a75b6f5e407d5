//! Files, their results and their histories, as the reports show them.
//!
//! Input: reports of files in the ledger. Output: values for JSON, with each state and event as text.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::connector_type::ConnectorType;
use crate::ledger::{
    Absence, FailureKind, FileHistory, FileReport, HistoryEntry, HistoryEvent, JobState, Outcome,
    ResultReport, RunEvent, Step, Withdrawal,
};

/// Issues that a connector reported for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct IssuesView {
    pub(crate) errors: u64,
    pub(crate) warnings: u64,
    pub(crate) others: u64,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) result: Option<&'static str>,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
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
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) absent_since: Option<Timestamp>,
    /// How far it is withdrawn from the platform.
    pub(crate) withdrawal: Option<&'static str>,
    pub(crate) failure: Option<&'static str>,
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    /// The key of its group of failures.
    pub(crate) failure_group: Option<String>,
    pub(crate) attempts: u64,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) next_attempt: Option<Timestamp>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ResultView {
    pub(crate) file: String,
    pub(crate) watch: String,
    pub(crate) path: String,
    pub(crate) result: &'static str,
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) at: Timestamp,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) connector: Option<ConnectorType>,
    pub(crate) reason: Option<String>,
}

/// The history of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HistoryView {
    pub(crate) file: FileView,
    pub(crate) history: Vec<LineView>,
}

/// One event in the history of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LineView {
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) at: Timestamp,
    pub(crate) version: Option<u64>,
    /// The event, for programs.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) what: HistoryEvent,
    /// The event as text.
    pub(crate) text: String,
    pub(crate) note: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) seconds: Option<f64>,
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
        failure_group: file.failure_group.clone(),
        attempts: file.attempts,
        next_attempt: file.next_attempt,
    }
}

pub(super) fn result_view(result: &ResultReport) -> ResultView {
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
