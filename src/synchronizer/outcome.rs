//! Decides what a finished run means for each file. Pure.
//!
//! `Completed` is not success: the results of the file's own tasks count. A run without a task for a file says nothing
//! about it, whatever the run's result. States and results are the platform's terms; an unknown one is kept verbatim
//! and counts as a failure. Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::itwin::{Run, RunTask};
use crate::ledger::{
    Again, ConnectionFile, FailureKind, FileId, FileOutcome, Issues, Outcome, Refusal, Verdict,
};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::retry::Policy;
use crate::shell;
use crate::stored_content::Content;

/// How often a failed run of a file is repeated, unless the platform says that only the user can fix it.
const REPEATS: u32 = 2;

/// After this many runs that left a file out, it is uploaded again before the next one: to the platform the same bytes
/// are a new version then.
const RUNS_BEFORE_UPLOAD: u32 = 2;

/// How often a run that the platform cut short is repeated.
const REPEATS_CUT_SHORT: u32 = 1;

/// The results of a task, from the best to the worst: of several tasks of a file the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Success,
    Skipped,
    Partial,
    Unknown,
    Cancelled,
    TimedOut,
    Error,
}

fn grade(result: &str) -> Grade {
    match result.to_ascii_lowercase().as_str() {
        "success" => Grade::Success,
        "skipped" => Grade::Skipped,
        "partialsuccess" => Grade::Partial,
        "cancelled" => Grade::Cancelled,
        "timedout" => Grade::TimedOut,
        "error" => Grade::Error,
        _ => Grade::Unknown,
    }
}

/// What a run is judged by, beside itself.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// The run covers content that was completed up to this generation.
    pub(super) generation: i64,
    /// The files that were to be brought by it.
    pub(super) in_run: &'a HashSet<FileId>,
    /// What storage holds, of every file that is judged.
    pub(super) contents: &'a HashMap<FileId, Content>,
    /// Files whose content another run has processed with success.
    pub(super) processed_elsewhere: &'a HashSet<FileId>,
}

/// Gives every file that the run says something about its outcome: those that it was to bring, and all others of ours
/// that it has a task for.
pub(super) fn outcomes(
    run: &Run,
    files: &[ConnectionFile],
    evidence: &Evidence<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Vec<FileOutcome> {
    files
        .iter()
        .filter_map(|file| {
            Some(FileOutcome {
                file: file.file,
                storage_file_id: file.storage_file_id.clone(),
                stored_generation: file.stored.generation,
                verdict: verdict(run, file, evidence, policy, now)?,
            })
        })
        .collect()
}

/// The files of ours that the run has a task for.
pub(super) fn has_task(run: &Run, file: &ConnectionFile) -> bool {
    worst_task(run, file).is_some()
}

/// The worst of the file's tasks.
fn worst_task<'r>(run: &'r Run, file: &ConnectionFile) -> Option<&'r RunTask> {
    run.jobs
        .iter()
        .flat_map(|job| &job.tasks)
        .filter(|task| task.storage_file_id.as_deref() == Some(file.storage_file_id.as_str()))
        .max_by_key(|task| grade(&task.result))
}

/// Whether the run has processed the file with success.
pub(super) fn succeeded(run: &Run, file: &ConnectionFile) -> bool {
    worst_task(run, file).is_some_and(|task| grade(&task.result) == Grade::Success)
}

/// The outcome of one file; None: the run changes nothing for it.
fn verdict(
    run: &Run,
    file: &ConnectionFile,
    evidence: &Evidence<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Option<Verdict> {
    let in_run = evidence.in_run.contains(&file.file);
    match evidence.contents.get(&file.file) {
        Some(Content::Missing) => {
            let due = next_attempt::after_foreign_change(file.stored.overwrites, policy, now);
            return Some(Verdict::LostInStorage(due));
        }
        // With no local file there is nothing to replace it with.
        Some(Content::Changed { .. }) if file.absent && !in_run => return None,
        Some(Content::Changed { .. }) => {
            let due = next_attempt::after_foreign_change(file.stored.overwrites, policy, now);
            return Some(Verdict::Overwritten(due));
        }
        Some(Content::Ours) => {}
        None => return None,
    }
    if !in_run && (file.absent || file.stored.generation > evidence.generation) {
        return None;
    }
    let Some(task) = worst_task(run, file) else {
        return in_run.then(|| without_task(run, file, evidence, policy, now));
    };
    let issues = issues(run, file, task);
    let repeats = match grade(&task.result) {
        // It was in the iModel before, with the same report.
        Grade::Success | Grade::Partial if !in_run && is_old(file, issues.is_some()) => {
            return None;
        }
        Grade::Success | Grade::Partial => return Some(Verdict::Synchronized(issues)),
        // For a file that was not in the batch these results say nothing new.
        Grade::Skipped | Grade::Unknown if !in_run => return None,
        Grade::Error if user_must_act(task) => 0,
        Grade::Error => REPEATS,
        Grade::Cancelled | Grade::TimedOut => REPEATS_CUT_SHORT,
        Grade::Skipped | Grade::Unknown => 0,
    };
    Some(refused(
        FailureKind::Run,
        reason(run, file, Some(task), &task.result),
        hint(Some(task)).or_else(|| Some(failed_run_hint(run))),
        again(file, repeats, policy, now),
    ))
}

/// A run without a task for a file says nothing about it, unless its content was processed before.
fn without_task(
    run: &Run,
    file: &ConnectionFile,
    evidence: &Evidence<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Verdict {
    let processed = file.stored.processed || evidence.processed_elsewhere.contains(&file.file);
    let ended = grade_for_others(run);
    // What was processed before is in the iModel, even if the run failed for other files.
    if processed && matches!(ended, Grade::Success | Grade::Partial) {
        return Verdict::Synchronized(None);
    }
    let (kind, repeats) = match ended {
        Grade::Cancelled | Grade::TimedOut => (FailureKind::Run, REPEATS_CUT_SHORT),
        Grade::Success | Grade::Partial => (FailureKind::NotProcessed, REPEATS),
        Grade::Skipped | Grade::Unknown | Grade::Error => (FailureKind::Run, REPEATS),
    };
    let again = again(file, repeats, policy, now);
    let reason = reason(run, file, None, &run.result);
    if kind != FailureKind::NotProcessed {
        return refused(kind, reason, Some(failed_run_hint(run)), again);
    }
    let refusal = Refusal {
        kind,
        reason,
        hint: Some(format!(
            "run `{}` to upload the file again; if that does not help, check the run in the iTwin portal",
            shell::command(["retry", "--failed"])
        )),
        again,
    };
    let runs = file.job.map_or(0, |job| job.run_attempts) + 1;
    if runs >= RUNS_BEFORE_UPLOAD {
        Verdict::SendAgain(refusal)
    } else {
        Verdict::Refused(refusal)
    }
}

/// The result of a run for files without a task in it: a file that failed can fail the run, and says nothing about the
/// others.
fn grade_for_others(run: &Run) -> Grade {
    let is_error = |result: &str| grade(result) == Grade::Error;
    let mut tasks = run.jobs.iter().flat_map(|job| &job.tasks);
    if is_error(&run.result) && tasks.any(|task| is_error(&task.result)) {
        Grade::Partial
    } else {
        grade(&run.result)
    }
}

/// Whether this is how the file stands already.
fn is_old(file: &ConnectionFile, with_issues: bool) -> bool {
    file.job.is_none()
        && file.outcome
            == Some(if with_issues {
                Outcome::SynchronizedWithIssues
            } else {
                Outcome::Synchronized
            })
}

fn refused(kind: FailureKind, reason: String, hint: Option<String>, again: Again) -> Verdict {
    Verdict::Refused(Refusal {
        kind,
        reason,
        hint,
        again,
    })
}

fn user_must_act(task: &RunTask) -> bool {
    task.error.as_ref().and_then(|error| error.can_user_fix) == Some(true)
}

/// When a failed run of the file is repeated: longer than the pauses between requests, as a run takes minutes and
/// connectors rarely recover by themselves.
fn again(file: &ConnectionFile, repeats: u32, policy: &Policy, now: Timestamp) -> Again {
    let attempts = file.job.map_or(0, |job| job.run_attempts);
    if attempts < repeats {
        Again::At(next_attempt::after(now, policy.delay(attempts + 4, None)))
    } else {
        Again::Never
    }
}

/// What the connector reported of a file that it brought into the iModel. Issues that are neither errors nor warnings
/// are no reason to look at the file.
fn issues(run: &Run, file: &ConnectionFile, task: &RunTask) -> Option<Issues> {
    let report = &task.report;
    let partial = grade(&task.result) == Grade::Partial;
    if !partial && report.errors == 0 && report.warnings == 0 {
        return None;
    }
    let counted = |count: u64, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {one}s")),
    };
    let counts: Vec<String> = [
        counted(report.errors, "error"),
        counted(report.warnings, "warning"),
        counted(report.others, "other issue"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let what = if counts.is_empty() {
        format!("{} ended with {}", file.connector, task.result)
    } else {
        format!("{} reported {}", file.connector, counts.join(", "))
    };
    let text = task.error.as_ref().map(ToString::to_string);
    let text = text
        .filter(|text| !text.is_empty())
        .or_else(|| report.message.clone())
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    Some(Issues {
        errors: report.errors,
        warnings: report.warnings,
        others: report.others,
        reason: format!("{what} in run {}{text}", run.id),
        hint: hint(Some(task)),
    })
}

fn reason(run: &Run, file: &ConnectionFile, task: Option<&RunTask>, result: &str) -> String {
    let path = QuotedPath(&file.path);
    let cause = match task {
        Some(task) => task.error.as_ref().map(ToString::to_string),
        None => run.error.as_ref().map(ToString::to_string),
    };
    let cause = cause
        .filter(|text| !text.is_empty())
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    match task {
        Some(_) => format!(
            "cannot synchronize {path}: {} ended with {result} in run {}{cause}",
            file.connector, run.id
        ),
        None => format!(
            "cannot synchronize {path}: run {} ended with {result} and did not process it{cause}",
            run.id
        ),
    }
}

/// The hint for a failure about which the platform gives no advice.
fn failed_run_hint(run: &Run) -> String {
    format!(
        "check run {} in the iTwin portal; if the file is at fault, correct it and save it again",
        run.id
    )
}

/// The platform's advice.
fn hint(task: Option<&RunTask>) -> Option<String> {
    let task = task?;
    let written = |text: &String| !text.trim().is_empty();
    let link = task
        .error
        .as_ref()
        .and_then(|error| error.kb_article_link.clone())
        .filter(written);
    let action = task.report.suggested_action.clone().filter(written);
    match (action, link) {
        (Some(action), Some(link)) => Some(format!("{action}; see {link}")),
        (Some(action), None) => Some(action),
        (None, Some(link)) => Some(format!("see {link}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests;
