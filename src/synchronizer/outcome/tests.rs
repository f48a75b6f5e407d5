#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;
use crate::connector_type::ConnectorType;
use crate::ledger::{JobState, OpenJob, StoredState};

/// The file `f`, which has been in `run_attempts` runs before.
fn file(run_attempts: u32) -> ConnectionFile {
    ConnectionFile {
        file: FileId::default(),
        watch: "north".to_owned(),
        path: "a.dgn".into(),
        storage_file_id: "f".into(),
        connector: ConnectorType::new("MSTN"),
        source_file_id: Some("s".to_owned()),
        mapped_connector: Some(ConnectorType::new("MSTN")),
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
        withdrawal: None,
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

fn judged(run: &Value, file: &ConnectionFile, in_run: bool, content: &Content) -> Option<Verdict> {
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
            "an error that the user must fix",
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
    let output = |run: &Value, file: &ConnectionFile, in_run| {
        judged(run, file, in_run, &Content::Ours).map(|verdict| word(&verdict))
    };
    assert_eq!(output(&silent, &processed, true), Some("good"));
    assert_eq!(output(&silent, &file(0), true), Some("again"));
    assert_eq!(output(&silent, &file(2), true), Some("failed"));
    assert_eq!(
        output(&run("Error", &json!([])), &processed, true),
        Some("again")
    );
    // Another file failed, and the run with it.
    let other = run(
        "Error",
        &json!([{ "storageFileId": "other", "result": "Error" }]),
    );
    assert_eq!(output(&other, &processed, true), Some("good"));
    assert_eq!(output(&other, &file(0), true), Some("again"));
    let cut_short = run(
        "TimedOut",
        &json!([{ "storageFileId": "other", "result": "Error" }]),
    );
    assert_eq!(output(&cut_short, &processed, true), Some("again"));
    assert_eq!(output(&silent, &processed, false), None);
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
        let output = judged(&task(result), file, false, &Content::Ours);
        assert_eq!(output.as_ref().map(word), expected, "{what}");
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
        let output = judged(&good, &file, in_run, content);
        assert_eq!(output.as_ref().map(word), expected, "{content:?} {in_run}");
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
