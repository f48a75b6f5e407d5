//! Which step of an upload comes next. Pure.
//!
//! An attempt asks [`next_step`], does that step, adds what it found to [`Findings`], and asks again. The order of the
//! rules below is the order of the checks: cheap before expensive, and nothing is sent before it is known to be needed.

use std::time::Duration;

use jiff::Timestamp;

use super::error::Unfit;
use crate::config::OnRename;
use crate::ids::StorageFileId;
use crate::ledger::{self, Fingerprint, Stage, StoredContent, UploadJob, Withdrawal};
use crate::next_attempt::after;
use crate::stored_content::Content;

/// The coarsest modification times that file systems have.
const COARSE: Duration = Duration::from_secs(2);

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
    /// Name and folder of the storage file are as they should be.
    pub(super) relocated: bool,
    /// What is known of a file without a storage file.
    pub(super) new_file: NewFileIs,
    /// By how much the modification time may differ from the one that was handed over; None: the whole fingerprint must
    /// be the same.
    pub(super) tolerance: Option<Duration>,
}

/// What is known of a file without a storage file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewFileIs {
    /// Maybe a known file under a new name.
    Unknown,
    /// No known file, or renames are not followed.
    New,
    /// The owner of its place in storage.
    Placed,
}

impl Findings {
    pub(super) fn new(opened: Fingerprint, on_rename: OnRename) -> Self {
        Self {
            opened,
            storage: None,
            local: None,
            completion_refused: false,
            storage_differs: false,
            relocated: false,
            new_file: match on_rename {
                OnRename::Follow => NewFileIs::Unknown,
                OnRename::UploadAgain => NewFileIs::New,
            },
            tolerance: None,
        }
    }

    /// Another host has handed the file over, and may see other times of it: its file server may give it a coarser
    /// modification time, and another time of the last status change. A change after the file had settled is as far
    /// away as the settle time at least, so it is noticed all the same.
    pub(super) fn compare_roughly(&mut self, settle: Duration) {
        self.tolerance = Some(settle.min(COARSE));
    }

    /// Whether the file is the one that was handed over.
    fn is_as_handed_over(&self, handed_over: Option<Fingerprint>) -> bool {
        let (Some(before), now) = (handed_over, self.opened) else {
            return false;
        };
        match self.tolerance {
            None => before == now,
            Some(tolerance) => {
                let apart = u128::from(before.mtime_ns.abs_diff(now.mtime_ns));
                before.size == now.size && apart <= tolerance.as_nanos()
            }
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
        storage_file_id: StorageFileId,
    },
    /// Restore the storage file, which may be in the recycle bin because the local file was gone.
    Restore,
    /// Give the storage file the name and folder that belong to the path.
    Relocate,
    /// Look for the known file that this one was before.
    FindOrigin,
    /// Reserve the place in storage.
    TakePlace,
    /// Find a destination, send the bytes, complete.
    Transfer,
}

/// Decides from the job and what is known by now. `limit`: the largest file that can be stored, in bytes.
pub(super) fn next_step(job: &UploadJob, findings: &Findings, limit: u64) -> Step {
    let opened = findings.opened;
    if findings.new_file == NewFileIs::Placed {
        return Step::Transfer;
    }
    if job.withdrawal.is_some_and(Withdrawal::may_be_deleted) {
        return Step::Restore;
    }
    if job.relocation.is_some() && !findings.relocated {
        return Step::Relocate;
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
    if let Some(unfit) = unfit(job, findings, limit) {
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
        // What was sent before is looked for under the new name.
        None if findings.new_file == NewFileIs::Unknown && job.stage.0 == Stage::Planned => {
            Step::FindOrigin
        }
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

fn unfit(job: &UploadJob, findings: &Findings, limit: u64) -> Option<Unfit> {
    let bytes = findings.opened.size;
    if !findings.is_as_handed_over(job.fingerprint) {
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

/// Whether the storage file has to be read, because another client changed it.
fn needs_comparison(job: &UploadJob) -> bool {
    job.unverified && !job.send_again && job.stage.0 == Stage::Planned
}

/// What happens to a file that has no storage file yet.
#[derive(Debug, PartialEq)]
pub(super) enum NewFile {
    /// Create a storage file.
    Create,
    /// Upload to this one: an earlier *create file* made it.
    UploadTo(StorageFileId),
    /// Compare with this one, which nothing is known about: after a lost ledger nothing is uploaded twice.
    CompareWith(StorageFileId),
    /// Wait: an earlier *create file* has no response that confirms it, and storage may not list its file yet.
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
    found: Option<StorageFileId>,
    unusable: Option<&StorageFileId>,
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
mod tests;
