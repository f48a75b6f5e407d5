use super::*;
use crate::ledger::{FileId, Relocation, StorageStamp, WatchId};

const LIMIT: u64 = 1000;
const SIZE: u64 = 10;

fn fingerprint(size: u64) -> Fingerprint {
    Fingerprint {
        size,
        mtime_ns: 1,
        ctime_ns: 1,
    }
}

fn content(digest: u8) -> ledger::Content {
    ledger::Content {
        digest: [digest; 32],
        bytes: SIZE,
    }
}

fn stored(version: i64) -> StoredContent {
    StoredContent {
        version,
        content: content(1),
    }
}

/// A job for version 2 of a file that was never uploaded.
fn new_job() -> UploadJob {
    UploadJob {
        file: FileId::default(),
        watch: WatchId::for_test(1),
        path: "a.dgn".into(),
        fingerprint: Some(fingerprint(SIZE)),
        version: 2,
        attempt: 1,
        enqueued_at: Timestamp::UNIX_EPOCH,
        failing_since: None,
        connector: None,
        storage_file_id: None,
        stored: None,
        stage: (Stage::Planned, Timestamp::UNIX_EPOCH),
        marker: None,
        last_reason: None,
        unverified: false,
        send_again: false,
        stamp: StorageStamp::default(),
        relocation: None,
        withdrawal: None,
        written: None,
    }
}

/// The same with a storage file that holds version `version`.
fn known(version: i64) -> UploadJob {
    UploadJob {
        storage_file_id: Some("f".into()),
        stored: Some(stored(version)),
        ..new_job()
    }
}

fn opened() -> Findings {
    Findings::new(fingerprint(SIZE), OnRename::Follow)
}

#[test]
fn a_file_that_another_host_handed_over_may_have_other_times_but_not_another_size() {
    const SECOND: i64 = 1_000_000_000;
    let handed_over = Fingerprint {
        size: SIZE,
        mtime_ns: 100 * SECOND,
        ctime_ns: 200 * SECOND,
    };
    let job = UploadJob {
        fingerprint: Some(handed_over),
        ..new_job()
    };
    let print = |size, mtime_ns, ctime_ns| Fingerprint {
        size,
        mtime_ns,
        ctime_ns,
    };
    for (opened, by_active, by_standby) in [
        (handed_over, true, true),
        (print(SIZE, 100 * SECOND, 0), false, true),
        (print(SIZE, 102 * SECOND, 0), false, true),
        (print(SIZE, 98 * SECOND, 0), false, true),
        (print(SIZE, 102 * SECOND + 1, 0), false, false),
        (print(SIZE + 1, 100 * SECOND, 200 * SECOND), false, false),
    ] {
        for (is_standby, fits) in [(false, by_active), (true, by_standby)] {
            let mut findings = Findings::new(opened, OnRename::UploadAgain);
            if is_standby {
                findings.compare_roughly(std::time::Duration::from_mins(1));
            }
            let step = next_step(&job, &findings, u64::MAX);
            let expected = if fits {
                Step::TakePlace
            } else {
                Step::Reject(Unfit::NotSettled)
            };
            assert_eq!(step, expected, "{opened:?} {is_standby}");
        }
    }
    // A file may change again after a shorter time than that of coarse times.
    let mut findings = Findings::new(print(SIZE, 101 * SECOND, 0), OnRename::UploadAgain);
    findings.compare_roughly(std::time::Duration::from_millis(500));
    let step = next_step(&job, &findings, u64::MAX);
    assert_eq!(step, Step::Reject(Unfit::NotSettled));
}

fn changed() -> Content {
    Content::Changed { by: None, at: None }
}

fn compare() -> Step {
    Step::CompareWith {
        storage_file_id: "f".into(),
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn each_finding_leads_to_the_next_step() {
    let at = |stage| (stage, Timestamp::UNIX_EPOCH);
    let written = UploadJob {
        stage: at(Stage::BlobWritten),
        written: Some(stored(2)),
        ..known(1)
    };
    let unverified = UploadJob {
        unverified: true,
        ..known(1)
    };
    let renamed = UploadJob {
        relocation: Some(Relocation::Intended),
        ..known(2)
    };
    for (what, job, findings, expected) in [
        ("a new file", new_job(), opened(), Step::FindOrigin),
        (
            "a new file that is no known one",
            new_job(),
            Findings {
                new_file: NewFileIs::New,
                ..opened()
            },
            Step::TakePlace,
        ),
        (
            "a new file, where renames are not followed",
            new_job(),
            Findings::new(fingerprint(SIZE), OnRename::UploadAgain),
            Step::TakePlace,
        ),
        (
            "a new file that may have been created",
            UploadJob {
                stage: at(Stage::CreateSent),
                ..new_job()
            },
            opened(),
            Step::TakePlace,
        ),
        ("a renamed file", renamed.clone(), opened(), Step::Relocate),
        (
            "a renamed file whose storage file followed",
            renamed,
            Findings {
                relocated: true,
                ..opened()
            },
            Step::CheckStorage,
        ),
        (
            "a new file with its place",
            new_job(),
            Findings {
                new_file: NewFileIs::Placed,
                ..opened()
            },
            Step::Transfer,
        ),
        ("a stored version", known(2), opened(), Step::CheckStorage),
        (
            "a stored version that is there",
            known(2),
            Findings {
                storage: Some(Content::Ours),
                ..opened()
            },
            Step::FinishUnchanged,
        ),
        (
            "a stored version that another client changed",
            UploadJob {
                unverified: true,
                ..known(2)
            },
            Findings {
                storage: Some(changed()),
                ..opened()
            },
            compare(),
        ),
        (
            "a stored version to send again",
            UploadJob {
                send_again: true,
                ..known(2)
            },
            opened(),
            Step::Transfer,
        ),
        ("the same size", known(1), opened(), Step::Hash),
        (
            "the same content",
            known(1),
            Findings {
                local: Some(content(1)),
                ..opened()
            },
            Step::CheckStorage,
        ),
        (
            "the same content, there",
            known(1),
            Findings {
                local: Some(content(1)),
                storage: Some(Content::Ours),
                ..opened()
            },
            Step::FinishUnchanged,
        ),
        (
            "other content",
            known(1),
            Findings {
                local: Some(content(2)),
                ..opened()
            },
            Step::Transfer,
        ),
        ("unverified", unverified.clone(), opened(), compare()),
        (
            "unverified and different",
            unverified,
            Findings {
                storage_differs: true,
                ..opened()
            },
            Step::Transfer,
        ),
        (
            "interrupted before complete",
            written.clone(),
            opened(),
            Step::Complete(stored(2)),
        ),
        (
            "complete refused",
            written.clone(),
            Findings {
                completion_refused: true,
                ..opened()
            },
            Step::Transfer,
        ),
        (
            "an older version was interrupted",
            UploadJob {
                written: Some(stored(1)),
                ..written
            },
            opened(),
            Step::Transfer,
        ),
        (
            "interrupted earlier",
            UploadJob {
                stage: at(Stage::LinksReceived),
                ..known(1)
            },
            opened(),
            Step::Transfer,
        ),
    ] {
        assert_eq!(next_step(&job, &findings, LIMIT), expected, "{what}");
    }
}

#[test]
fn a_file_that_changed_is_empty_or_too_large_is_rejected() {
    for (handed_over, opened, expected) in [
        (Some(10), 11, Unfit::NotSettled),
        (None, 10, Unfit::NotSettled),
        (Some(0), 0, Unfit::Empty),
        (
            Some(1001),
            1001,
            Unfit::TooLarge {
                bytes: 1001,
                limit: LIMIT,
            },
        ),
    ] {
        let job = UploadJob {
            fingerprint: handed_over.map(fingerprint),
            ..new_job()
        };
        let findings = Findings::new(fingerprint(opened), OnRename::Follow);
        let step = next_step(&job, &findings, LIMIT);
        assert_eq!(step, Step::Reject(expected));
    }
}

#[test]
fn a_new_file_goes_to_what_an_unanswered_request_made_and_is_compared_with_what_was_there() {
    let sent = Timestamp::from_second(1_000_000).unwrap();
    let second = |second: u64| after(sent, std::time::Duration::from_secs(second));
    let until = second(10);
    let f = || Some(StorageFileId::from("f"));
    let unusable_f = f();
    for (stage, found, unusable, now, expected) in [
        (Stage::Planned, None, None, 0, NewFile::Create),
        (
            Stage::Planned,
            f(),
            None,
            0,
            NewFile::CompareWith("f".into()),
        ),
        (Stage::Planned, f(), unusable_f.as_ref(), 0, NewFile::Create),
        (
            Stage::CreateSent,
            f(),
            None,
            3,
            NewFile::UploadTo("f".into()),
        ),
        (
            Stage::CreateSent,
            None,
            None,
            3,
            NewFile::AwaitListing { until },
        ),
        (Stage::CreateSent, None, None, 10, NewFile::Create),
    ] {
        let decided = new_file((stage, sent), found, unusable, second(now));
        assert_eq!(decided, expected, "{stage:?} at {now}");
    }
    // Sent by a clock that was an hour ahead.
    let decided = new_file((Stage::CreateSent, second(3600)), None, None, sent);
    assert_eq!(decided, NewFile::Create);
}

#[test]
fn only_a_file_that_was_never_completed_is_replaced_after_a_refusal() {
    use RefusedUpdate::{Fail, Locked, Replace};
    let ours = stored(1);
    for (status, shown, completed, expected) in [
        (409, Shown::Locked, None, Locked),
        (403, Shown::Locked, Some(&ours), Locked),
        (409, Shown::Empty, None, Replace),
        (422, Shown::Hidden, None, Replace),
        (403, Shown::Empty, None, Fail),
        (403, Shown::Hidden, None, Fail),
        (409, Shown::Empty, Some(&ours), Fail),
        (409, Shown::Filled, None, Fail),
        (409, Shown::Unreadable, None, Fail),
    ] {
        let decided = refused_update(Some(status), shown, completed);
        assert_eq!(decided, expected, "{status} {shown:?}");
    }
}
