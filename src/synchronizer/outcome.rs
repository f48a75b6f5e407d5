//! What a finished run means for each file. Pure.
//!
//! `Completed` is not success: what counts is the result of the file's own tasks. A run without a task for a file says
//! nothing about it, whatever the run's result. The words for states and results are the platform's; one that we do
//! not know is kept as it is and counts as a failure.
//! Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::itwin::{Run, RunTask};
use crate::ledger::{
    Again, ConnectionFile, FailureKind, FileId, FileOutcome, Issues, Outcome, Refusal, Verdict,
};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::retry::Policy;
use crate::stored_content::Content;

/// A failed run of a file is repeated so often, unless the platform says that only the user can mend it.
const REPEATS: u32 = 2;

/// After this many runs that left a file out, it is uploaded again before the next one: to the platform the same bytes
/// are a new version then.
const RUNS_BEFORE_UPLOAD: u32 = 2;

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
        // Of a file that was not to be brought these words say nothing new.
        Grade::Skipped | Grade::Unknown if !in_run => return None,
        Grade::Error if user_must_act(task) => 0,
        Grade::Error => REPEATS,
        Grade::Cancelled | Grade::TimedOut => REPEATS_CUT_SHORT,
        Grade::Skipped | Grade::Unknown => 0,
    };
    Some(refused(
        FailureKind::Run,
        reason(run, file, Some(task), &task.result),
        hint(Some(task)),
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
    // What was processed before is in the iModel, even if the run failed for other files.
    let ended_well = matches!(grade(&run.result), Grade::Success | Grade::Partial);
    if ended_well && processed {
        return Verdict::Synchronized(None);
    }
    let (kind, repeats) = match grade(&run.result) {
        Grade::Cancelled | Grade::TimedOut => (FailureKind::Run, REPEATS_CUT_SHORT),
        Grade::Success | Grade::Partial => (FailureKind::NotProcessed, REPEATS),
        Grade::Skipped | Grade::Unknown | Grade::Error => (FailureKind::Run, REPEATS),
    };
    let again = again(file, repeats, policy, now);
    let reason = reason(run, file, None, &run.result);
    if kind != FailureKind::NotProcessed {
        return refused(kind, reason, None, again);
    }
    let refusal = Refusal {
        kind,
        reason,
        hint: Some(
            "`itwin-syncd retry` uploads the file again; if that does not help, look at the run in the iTwin portal"
                .to_owned(),
        ),
        again,
    };
    let runs = file.job.map_or(0, |job| job.run_attempts) + 1;
    if runs >= RUNS_BEFORE_UPLOAD {
        Verdict::SendAgain(refusal)
    } else {
        Verdict::Refused(refusal)
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
    let words = task.error.as_ref().map(ToString::to_string);
    let words = words
        .filter(|text| !text.is_empty())
        .or_else(|| report.message.clone())
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    Some(Issues {
        errors: report.errors,
        warnings: report.warnings,
        others: report.others,
        reason: format!("{what} in run {}{words}", run.id),
        hint: hint(Some(task)),
    })
}

fn reason(run: &Run, file: &ConnectionFile, task: Option<&RunTask>, result: &str) -> String {
    let path = QuotedPath(&file.path);
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
        .and_then(|error| error.kb_article_link.clone())
        .filter(|link| !link.is_empty());
    match (task.report.suggested_action.clone(), link) {
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
    use crate::ledger::{JobState, OpenJob, StoredState};

    /// The file `f`, which has been in `run_attempts` runs before.
    fn file(run_attempts: u32) -> ConnectionFile {
        ConnectionFile {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: "a.dgn".into(),
            storage_file_id: "f".to_owned(),
            connector: "MSTN".to_owned(),
            source_file_id: Some("s".to_owned()),
            mapped_connector: Some("MSTN".to_owned()),
            job: Some(OpenJob {
                state: JobState::Running,
                awaits_run: false,
                kind: None,
                run_attempts,
                attempts: 0,
                failing_since: None,
            }),
            stored: StoredState {
                generation: 3,
                ..StoredState::default()
            },
            outcome: None,
            absent: false,
        }
    }

    /// A file that is in the iModel and was not to be brought by the run.
    fn resting(outcome: Outcome) -> ConnectionFile {
        ConnectionFile {
            job: None,
            outcome: Some(outcome),
            stored: StoredState {
                processed: true,
                ..file(0).stored
            },
            ..file(0)
        }
    }

    fn judged(
        run: &Value,
        file: &ConnectionFile,
        in_run: bool,
        content: &Content,
    ) -> Option<Verdict> {
        let run: Run = serde_json::from_value(run.clone()).unwrap();
        let ids = HashSet::from([file.file]);
        let evidence = Evidence {
            generation: 3,
            in_run: if in_run { &ids } else { &HashSet::new() },
            contents: &HashMap::from([(file.file, content.clone())]),
            processed_elsewhere: &HashSet::new(),
        };
        let policy = Policy {
            first: std::time::Duration::from_secs(5),
            max: std::time::Duration::from_secs(900),
        };
        verdict(&run, file, &evidence, &policy, Timestamp::UNIX_EPOCH)
    }

    /// What becomes of a file that was to be brought.
    fn judge(run: &Value, run_attempts: u32) -> Verdict {
        judged(run, &file(run_attempts), true, &Content::Ours).unwrap()
    }

    fn run(result: &str, tasks: &Value) -> Value {
        json!({ "id": "r", "state": "Completed", "result": result, "jobs": [{ "tasks": tasks }] })
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Synchronized(None) => "good",
            Verdict::Synchronized(Some(_)) => "issues",
            Verdict::LostInStorage(_) => "upload",
            Verdict::Overwritten(_) => "compare",
            Verdict::Refused(refusal) => match refusal.again {
                Again::At(_) => "again",
                Again::Never => "failed",
                Again::BusyUntil(_) | Again::FailedUntil(_) => "waits",
            },
            Verdict::SendAgain(refusal) => match refusal.again {
                Again::Never => "failed",
                _ => "upload again",
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
                ["again", "upload again", "failed"],
            ),
            (
                "an error beside a success",
                run("Success", &good_with_error),
                ["good"; 3],
            ),
            (
                "the other file's error",
                run("PartialSuccess", &other),
                ["again", "upload again", "failed"],
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
                ["issues"; 3],
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

    #[test]
    fn a_file_without_a_task_is_in_the_imodel_only_if_its_content_was_processed_before() {
        let silent = run("Success", &json!([]));
        let processed = ConnectionFile {
            stored: StoredState {
                processed: true,
                ..file(0).stored
            },
            ..file(0)
        };
        let told = |run: &Value, file: &ConnectionFile, in_run| {
            judged(run, file, in_run, &Content::Ours).map(|verdict| word(&verdict))
        };
        assert_eq!(told(&silent, &processed, true), Some("good"));
        assert_eq!(told(&silent, &file(0), true), Some("again"));
        assert_eq!(told(&silent, &file(2), true), Some("failed"));
        assert_eq!(
            told(&run("Error", &json!([])), &processed, true),
            Some("again")
        );
        assert_eq!(told(&silent, &processed, false), None);
    }

    #[test]
    fn a_task_of_a_file_that_was_not_to_be_brought_is_judged_too() {
        let task = |result: &str| {
            run(
                "PartialSuccess",
                &json!([{ "storageFileId": "f", "result": result }]),
            )
        };
        let good = resting(Outcome::Synchronized);
        let issues = resting(Outcome::SynchronizedWithIssues);
        let failed = ConnectionFile {
            job: Some(OpenJob {
                state: JobState::Failed,
                kind: Some(FailureKind::Run),
                run_attempts: 3,
                ..file(0).job.unwrap()
            }),
            ..resting(Outcome::Failed)
        };
        let newer = ConnectionFile {
            stored: StoredState {
                generation: 4,
                ..good.stored.clone()
            },
            ..good.clone()
        };
        let gone = ConnectionFile {
            absent: true,
            ..good.clone()
        };
        for (what, file, result, expected) in [
            ("it turned bad", &good, "Error", Some("again")),
            ("it was cut short", &good, "TimedOut", Some("again")),
            ("as it was", &good, "Success", None),
            ("it was skipped", &good, "Skipped", None),
            ("a word of tomorrow", &good, "Postponed", None),
            ("issues now", &good, "PartialSuccess", Some("issues")),
            ("issues as before", &issues, "PartialSuccess", None),
            ("no issues any more", &issues, "Success", Some("good")),
            ("it recovered", &failed, "Success", Some("good")),
            ("it failed again", &failed, "Error", Some("failed")),
            (
                "completed after the run was requested",
                &newer,
                "Error",
                None,
            ),
            ("gone from the folder", &gone, "Error", None),
        ] {
            let told = judged(&task(result), file, false, &Content::Ours);
            assert_eq!(told.as_ref().map(word), expected, "{what}");
        }
    }

    #[test]
    fn a_run_counts_for_nothing_when_storage_does_not_hold_our_content() {
        let good = run(
            "Success",
            &json!([{ "storageFileId": "f", "result": "Success" }]),
        );
        let changed = Content::Changed { by: None, at: None };
        for (file, in_run, content, expected) in [
            (file(0), true, &Content::Missing, Some("upload")),
            (file(0), true, &changed, Some("compare")),
            (
                resting(Outcome::Synchronized),
                false,
                &Content::Missing,
                Some("upload"),
            ),
            (
                resting(Outcome::Synchronized),
                false,
                &changed,
                Some("compare"),
            ),
        ] {
            let told = judged(&good, &file, in_run, content);
            assert_eq!(told.as_ref().map(word), expected, "{content:?} {in_run}");
        }
    }

    #[test]
    fn issues_name_their_counts_and_what_to_do() {
        let tasks = json!([{ "storageFileId": "f", "result": "Success", "details": { "synchronizationReport": {
            "totalErrorsCount": 1, "totalWarningsCount": 12, "totalOtherIssuesCount": 3, "suggestedAction": "check the levels" } } }]);
        let Verdict::Synchronized(Some(issues)) = judge(&run("Success", &tasks), 0) else {
            unreachable!("warnings are issues");
        };
        assert_eq!(
            issues.reason,
            "MSTN reported 1 error, 12 warnings, 3 other issues in run r"
        );
        assert_eq!(issues.hint.as_deref(), Some("check the levels"));
        let only_others = json!([{ "storageFileId": "f", "result": "Success", "details": { "synchronizationReport": {
            "totalOtherIssuesCount": 3 } } }]);
        assert_eq!(word(&judge(&run("Success", &only_others), 0)), "good");
    }
}
