//! Which step of an upload comes next. Pure.
//!
//! An attempt asks [`next_step`], does that step, adds what it found to [`Findings`], and asks again. The order of the
//! rules below is the order of the checks: cheap before expensive, and nothing is sent before it is known to be needed.

use jiff::Timestamp;

use super::error::Unfit;
use crate::ledger::{self, Fingerprint, Stage, StoredContent, UploadJob};
use crate::next_attempt::after;
use crate::stored_content::Content;

/// After a *create file* without an answer, storage may take this long to list the file.
pub(super) const LISTED_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

/// What this attempt has found out so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// The local file as it was opened.
    pub(super) opened: Fingerprint,
    /// What storage says about the content that was completed last.
    pub(super) storage: Option<Content>,
    /// What the local file holds, once it was hashed.
    pub(super) local: Option<ledger::Content>,
    /// Completing the interrupted upload was refused.
    pub(super) completion_refused: bool,
    /// The storage file was read and holds other content.
    pub(super) storage_differs: bool,
    /// No other file has the place in storage.
    pub(super) place_taken: bool,
}

impl Findings {
    pub(super) fn new(opened: Fingerprint) -> Self {
        Self {
            opened,
            storage: None,
            local: None,
            completion_refused: false,
            storage_differs: false,
            place_taken: false,
        }
    }
}

/// The next step of an attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Ask storage whether it still holds what was completed last.
    CheckStorage,
    /// Send the *complete* of an upload whose bytes all arrived.
    Complete(StoredContent),
    /// Fail: the file is not uploaded as it is.
    Reject(Unfit),
    /// Hash the local file.
    Hash,
    /// Record that storage holds this content.
    FinishUnchanged,
    /// Read the storage file and compare.
    CompareWith {
        /// The storage file.
        storage_file_id: String,
    },
    /// Reserve the place in storage.
    TakePlace,
    /// Find a destination, send the bytes, complete.
    Transfer,
}

/// Decides from the job and what is known by now. `limit`: the largest file that can be stored, in bytes.
pub(super) fn next_step(job: &UploadJob, findings: &Findings, limit: u64) -> Step {
    let opened = findings.opened;
    if findings.place_taken {
        return Step::Transfer;
    }
    if is_known_version(job) {
        match findings.storage {
            None => return Step::CheckStorage,
            Some(Content::Ours) => return Step::FinishUnchanged,
            Some(Content::Changed { .. } | Content::Missing) => {}
        }
    } else if let Some(written) = interrupted(job).filter(|_| !findings.completion_refused) {
        return Step::Complete(written.clone());
    }
    if let Some(unfit) = unfit(job, opened, limit) {
        return Step::Reject(unfit);
    }
    if let Some(stored) = comparable_content(job, opened) {
        match (&findings.local, &findings.storage) {
            (None, _) => return Step::Hash,
            (Some(local), None) if local == stored => return Step::CheckStorage,
            (Some(local), Some(Content::Ours)) if local == stored => return Step::FinishUnchanged,
            _ => {}
        }
    }
    match &job.storage_file_id {
        Some(id) if needs_comparison(job) && !findings.storage_differs => Step::CompareWith {
            storage_file_id: id.clone(),
        },
        Some(_) => Step::Transfer,
        None => Step::TakePlace,
    }
}

/// Whether this very version was completed before: the job asks only whether storage still holds it.
fn is_known_version(job: &UploadJob) -> bool {
    let stored = job.stored.as_ref();
    !job.send_again && stored.is_some_and(|stored| stored.version == job.version)
}

/// The content of an upload of this version that was interrupted between its last byte and the answer to *complete*.
fn interrupted(job: &UploadJob) -> Option<&StoredContent> {
    job.written
        .as_ref()
        .filter(|written| job.stage.0 == Stage::BlobWritten && written.version == job.version)
}

fn unfit(job: &UploadJob, opened: Fingerprint, limit: u64) -> Option<Unfit> {
    let bytes = opened.size;
    if job.fingerprint != Some(opened) {
        Some(Unfit::NotSettled)
    } else if bytes == 0 {
        Some(Unfit::Empty)
    } else if bytes > limit {
        Some(Unfit::TooLarge { bytes, limit })
    } else {
        None
    }
}

/// What was completed last, if the local file may hold just that and nothing has been sent since.
fn comparable_content(job: &UploadJob, opened: Fingerprint) -> Option<&ledger::Content> {
    let stored = job.stored.as_ref().filter(|_| {
        job.stage.0 == Stage::Planned
            && !job.send_again
            && !job.unverified
            && job.storage_file_id.is_some()
    })?;
    (stored.content.bytes == opened.size).then_some(&stored.content)
}

/// Whether only storage itself can say what it holds, because somebody else changed it.
fn needs_comparison(job: &UploadJob) -> bool {
    job.unverified && !job.send_again && job.stage.0 == Stage::Planned
}

/// What happens to a file that has no storage file yet.
#[derive(Debug, PartialEq)]
pub(super) enum NewFile {
    /// Create a storage file.
    Create,
    /// Upload to this one: an earlier *create file* made it.
    UploadTo(String),
    /// Compare with this one, which nothing is known about: after a lost ledger nothing is uploaded twice.
    CompareWith(String),
    /// Wait: an earlier *create file* got no answer, and storage may not list its file yet.
    AwaitListing {
        /// Until then.
        until: Timestamp,
    },
}

/// Decides from the stage of the job and the untracked storage file of the same name, if there is one.
///
/// `unusable`: the storage file that was refused in this attempt.
pub(super) fn new_file(
    (stage, sent): (Stage, Timestamp),
    found: Option<String>,
    unusable: Option<&str>,
    now: Timestamp,
) -> NewFile {
    let unanswered = stage == Stage::CreateSent;
    match found {
        // It would be refused again: only a new file can help.
        Some(id) if unusable == Some(&id) => NewFile::Create,
        Some(id) if unanswered => NewFile::UploadTo(id),
        Some(id) => NewFile::CompareWith(id),
        None => {
            let until = after(sent, LISTED_AFTER);
            // A time further ahead came from a clock that was ahead; nothing waits for it.
            let sent_ahead = sent > after(now, LISTED_AFTER);
            if unanswered && now < until && !sent_ahead {
                NewFile::AwaitListing { until }
            } else {
                NewFile::Create
            }
        }
    }
}

/// A storage file, read after it refused new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Locked,
    Empty,
    Filled,
    /// Storage says that there is no such file.
    Hidden,
    Unreadable,
}

/// What follows when a storage file refuses new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusedUpdate {
    /// Wait for whoever locked it.
    Locked,
    /// It was never completed and never can be: create a new one.
    Replace,
    /// Fail with the refusal.
    Fail,
}

/// Decides from the refusal's HTTP status and what storage shows of the file. `completed`: it held our content once.
pub(super) fn refused_update(
    status: Option<u16>,
    shown: Shown,
    completed: Option<&StoredContent>,
) -> RefusedUpdate {
    match shown {
        Shown::Locked => RefusedUpdate::Locked,
        Shown::Empty | Shown::Hidden if completed.is_none() && status != Some(403) => {
            RefusedUpdate::Replace
        }
        _ => RefusedUpdate::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{FileId, StorageStamp, WatchId};

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
            written: None,
        }
    }

    /// The same with a storage file that holds version `version`.
    fn known(version: i64) -> UploadJob {
        UploadJob {
            storage_file_id: Some("f".to_owned()),
            stored: Some(stored(version)),
            ..new_job()
        }
    }

    fn opened() -> Findings {
        Findings::new(fingerprint(SIZE))
    }

    fn changed() -> Option<Content> {
        Some(Content::Changed { by: None, at: None })
    }

    fn compare() -> Step {
        Step::CompareWith {
            storage_file_id: "f".to_owned(),
        }
    }

    #[test]
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
        for (what, job, findings, expected) in [
            ("a new file", new_job(), opened(), Step::TakePlace),
            (
                "a new file with its place",
                new_job(),
                Findings {
                    place_taken: true,
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
                "a stored version that somebody changed",
                UploadJob {
                    unverified: true,
                    ..known(2)
                },
                Findings {
                    storage: changed(),
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
            let findings = Findings::new(fingerprint(opened));
            let step = next_step(&job, &findings, LIMIT);
            assert_eq!(step, Step::Reject(expected));
        }
    }

    #[test]
    fn a_new_file_goes_to_what_an_unanswered_request_made_and_is_compared_with_what_was_there() {
        let sent = Timestamp::from_second(1_000_000).unwrap();
        let second = |second: u64| after(sent, std::time::Duration::from_secs(second));
        let until = second(10);
        let f = || Some("f".to_owned());
        for (stage, found, unusable, now, expected) in [
            (Stage::Planned, None, None, 0, NewFile::Create),
            (
                Stage::Planned,
                f(),
                None,
                0,
                NewFile::CompareWith("f".to_owned()),
            ),
            (Stage::Planned, f(), Some("f"), 0, NewFile::Create),
            (
                Stage::CreateSent,
                f(),
                None,
                3,
                NewFile::UploadTo("f".to_owned()),
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
}
