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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;
    use crate::ledger::FileId;

    /// What becomes of the file `f`, which has been in `run_attempts` runs before.
    fn judge(run: &Value, run_attempts: u32) -> Verdict {
        let run: Run = serde_json::from_value(run.clone()).unwrap();
        let file = BatchFile {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: "a.dgn".into(),
            storage_file_id: "f".to_owned(),
            connector: "MSTN".to_owned(),
            mapped: None,
            run_attempts,
            attempts: 0,
            failing_since: None,
        };
        let policy = Policy {
            first: std::time::Duration::from_secs(5),
            max: std::time::Duration::from_secs(900),
        };
        verdict(&run, &file, &policy, Timestamp::UNIX_EPOCH)
    }

    fn run(result: &str, tasks: &Value) -> Value {
        json!({ "id": "r", "state": "Completed", "result": result, "jobs": [{ "tasks": tasks }] })
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Synchronized => "good",
            Verdict::Refused(refusal) => match refusal.again {
                Again::At(_) => "again",
                Again::Never => "failed",
                Again::BusyUntil(_) | Again::FailedUntil(_) => "waits",
            },
        }
    }

    #[test]
    fn completed_is_not_success_and_the_files_own_tasks_decide() {
        let task = |result: &str| json!([{ "storageFileId": "f", "result": result }]);
        let other = json!([{ "storageFileId": "other", "result": "Error" }]);
        let good_with_error =
            json!([{ "storageFileId": "f", "result": "Success", "error": { "errorCode": "x" } }]);
        let two = json!([{ "storageFileId": "f", "result": "Success" }, { "storageFileId": "f", "result": "Error" }]);
        let users =
            json!([{ "storageFileId": "f", "result": "Error", "error": { "canUserFix": true } }]);
        for (what, run, expected) in [
            (
                "success",
                run("Success", &task("Success")),
                ["good", "good", "good"],
            ),
            (
                "success without a task",
                run("Success", &json!([])),
                ["good"; 3],
            ),
            (
                "an error beside a success",
                run("Success", &good_with_error),
                ["good"; 3],
            ),
            (
                "the other file's error",
                run("PartialSuccess", &other),
                ["again", "again", "failed"],
            ),
            (
                "good among bad ones",
                run("PartialSuccess", &task("Success")),
                ["good"; 3],
            ),
            (
                "a good task in a bad run",
                run("Error", &task("success")),
                ["good"; 3],
            ),
            (
                "the worst of two tasks",
                run("PartialSuccess", &two),
                ["again", "again", "failed"],
            ),
            (
                "error",
                run("Error", &task("Error")),
                ["again", "again", "failed"],
            ),
            (
                "an error that the user must mend",
                run("Error", &users),
                ["failed"; 3],
            ),
            (
                "partial",
                run("PartialSuccess", &task("PartialSuccess")),
                ["failed"; 3],
            ),
            ("skipped", run("Success", &task("Skipped")), ["failed"; 3]),
            (
                "cancelled",
                run("Cancelled", &task("Cancelled")),
                ["again", "failed", "failed"],
            ),
            (
                "timed out",
                run("TimedOut", &task("TimedOut")),
                ["again", "failed", "failed"],
            ),
            (
                "a word of tomorrow",
                run("Success", &task("Postponed")),
                ["failed"; 3],
            ),
            (
                "all of it failed",
                run("Error", &json!([])),
                ["again", "again", "failed"],
            ),
            (
                "all of it timed out",
                run("TimedOut", &json!([])),
                ["again", "failed", "failed"],
            ),
            (
                "no word at all",
                run("", &json!([])),
                ["again", "again", "failed"],
            ),
        ] {
            let words: Vec<_> = (0..3)
                .map(|attempts| word(&judge(&run, attempts)))
                .collect();
            assert_eq!(words, expected, "{what}");
        }
    }

    #[test]
    fn a_reason_names_file_connector_run_and_the_connectors_words() {
        let tasks = json!([{ "storageFileId": "f", "result": "Error", "error": {
            "errorCode": "E7", "description": "the drawing is damaged", "kbArticleLink": "https://kb.example/7" } }]);
        let Verdict::Refused(refusal) = judge(&run("Error", &tasks), 9) else {
            unreachable!("an error is no success");
        };
        for part in ["a.dgn", "MSTN", "run r", "E7", "the drawing is damaged"] {
            assert!(refusal.reason.contains(part), "{}", refusal.reason);
        }
        assert_eq!(refusal.hint.as_deref(), Some("see https://kb.example/7"));
    }
}
