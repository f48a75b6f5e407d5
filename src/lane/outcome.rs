//! What a finished run means for each file. Pure.
//!
//! `Completed` is not success: what counts is the result of the file's own tasks. The words for states and results
//! are the platform's; one that we do not know is kept as it is and counts as a failure.
//! Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/

use jiff::Timestamp;

use crate::attempt;
use crate::itwin::{Run, RunTask};
use crate::ledger::{Again, BatchFile, FileOutcome, Refusal, Verdict};
use crate::names::Shown;
use crate::retry::Policy;

/// A failed run of a file is repeated so often, unless the platform says that only the user can mend it.
const REPEATS: u32 = 2;

/// A run that was cut short by the platform is repeated so often.
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

/// Gives every file that the run covers its outcome.
pub(super) fn outcomes(
    run: &Run,
    files: &[BatchFile],
    policy: &Policy,
    now: Timestamp,
) -> Vec<FileOutcome> {
    files
        .iter()
        .map(|file| FileOutcome {
            file: file.file,
            verdict: verdict(run, file, policy, now),
        })
        .collect()
}

fn verdict(run: &Run, file: &BatchFile, policy: &Policy, now: Timestamp) -> Verdict {
    let worst = run
        .jobs
        .iter()
        .flat_map(|job| &job.tasks)
        .filter(|task| task.storage_file_id.as_deref() == Some(file.storage_file_id.as_str()))
        .max_by_key(|task| grade(&task.result));
    let result = worst.map_or(run.result.as_str(), |task| task.result.as_str());
    let grade = grade(result);
    // A run that succeeded without a task for a file had nothing to do for it.
    if grade == Grade::Success {
        return Verdict::Synchronized;
    }
    let user_must_act = worst
        .and_then(|task| task.error.as_ref())
        .and_then(|error| error.can_user_fix)
        == Some(true);
    let repeats = match grade {
        Grade::Error if !user_must_act => REPEATS,
        Grade::Cancelled | Grade::TimedOut => REPEATS_CUT_SHORT,
        // Of a run that failed as a whole nothing is known about this file.
        Grade::Partial | Grade::Skipped | Grade::Unknown if worst.is_none() => REPEATS,
        _ => 0,
    };
    let again = if file.run_attempts < repeats {
        // Longer than the pauses between requests: a run takes minutes, and connectors rarely mend themselves.
        Again::At(attempt::after(
            now,
            policy.delay(file.run_attempts + 4, None),
        ))
    } else {
        Again::Never
    };
    Verdict::Refused(Refusal {
        class: "run",
        reason: reason(run, file, worst, result),
        hint: hint(worst),
        again,
    })
}

fn reason(run: &Run, file: &BatchFile, task: Option<&RunTask>, result: &str) -> String {
    let path = Shown(&file.path);
    let told = match task {
        Some(task) => task.error.as_ref().map(ToString::to_string),
        None => run.error.as_ref().map(ToString::to_string),
    };
    let told = told
        .filter(|text| !text.is_empty())
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    match task {
        Some(_) => format!(
            "cannot synchronize {path}: {} ended with {result} in run {}{told}",
            file.connector, run.id
        ),
        None => format!(
            "cannot synchronize {path}: run {} ended with {result} and did not process it{told}",
            run.id
        ),
    }
}

fn hint(task: Option<&RunTask>) -> Option<String> {
    let task = task?;
    let link = task
        .error
        .as_ref()
        .and_then(|error| error.kb_article_link.clone());
    match (task.suggested_action.clone(), link) {
        (Some(action), Some(link)) => Some(format!("{action}; see {link}")),
        (Some(action), None) => Some(action),
        (None, Some(link)) => Some(format!("see {link}")),
        (None, None) => None,
    }
}
