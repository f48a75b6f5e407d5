//! The states of a job and the decisions between them, without a database.
//!
//! Longer than most files because it is one list of all words that the ledger stores.

/// The state of a job.
///
/// `Due → Uploading → Stored → Running → (gone)`; every state but the last may go back to `Due`, and
/// any to `Failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits for an upload worker, not before its due time.
    Due,
    /// An upload worker has it.
    Uploading,
    /// Its content is complete in storage; it waits for a run.
    Stored,
    /// A run that was requested after its upload was completed is in progress.
    Running,
    /// The attempt went wrong and needs the operator, or at least a long backoff.
    Failed,
}

/// How far the current upload has come, written before the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was sent.
    Planned,
    /// *Create file* may have been sent; the marker in its description identifies our file.
    CreateSent,
    /// The storage file id is known.
    LinksReceived,
    /// Storage acknowledged all bytes; *complete* may have been sent.
    BlobWritten,
}

/// What became of one version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// In the iModel.
    Synchronized,
    /// In the iModel, but the connector reported errors or warnings.
    SynchronizedWithIssues,
    /// In storage, and meant to be there only (a reference file).
    Uploaded,
    /// The same content as before: nothing was sent.
    Unchanged,
    /// The same content as before under another path: nothing was sent, and its storage file follows.
    Renamed,
    /// Not in the iModel; the reason is recorded with it.
    Failed,
    /// The file went away before it could be read.
    Vanished,
}

/// Something that happens to a version before its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was handed over.
    Seen,
    /// Its bytes were sent, and are complete in storage.
    Uploaded,
    /// Storage has this content already, so no byte was sent.
    SameContent,
    /// An attempt failed, and there will be another.
    PutOff,
    /// The operator asked for another attempt.
    Asked,
    /// Its storage file was changed by someone else, so its content is compared.
    Overwritten,
    /// Its storage file was deleted by someone else, so it is uploaded again.
    LostInStorage,
    /// A companion of it has new content, so it is run again.
    CompanionChanged,
    /// Its source file in the connection was missing or different, and was corrected.
    Remapped,
    /// Its source file was removed from the connection, because it is a reference now.
    Unmapped,
    /// Its source file was removed from the connection, because it is gone.
    Withdrawn,
    /// Its storage file was moved to the recycle bin, because it is gone.
    Deleted,
    /// The platform refused to withdraw or to restore it.
    WithdrawalRefused,
    /// The operator wants it back.
    RestoreAsked,
    /// Its storage file was restored from the recycle bin.
    Restored,
    /// Its storage file is no longer in the recycle bin.
    NotRestored,
    /// The operator removed its source file from an iModel.
    SourceFileRemoved,
    /// The operator moved its storage file to the recycle bin.
    StorageFileRemoved,
    /// Its source file was removed from another connection, where it does not belong any more.
    Displaced,
    /// A run has read references that changed.
    ReferenceChanged,
    /// The run that it was in does not exist: it waits for another one.
    RunLost,
    /// The run that it was in ended without a result for it: it waits for another one.
    NotJudged,
    /// It has a new path.
    Renamed,
    /// Its storage file has the new name and folder.
    Relocated,
    /// Storage did not accept its new name or folder.
    NameKept,
    /// It is gone from the folder.
    Gone,
    /// The configuration no longer selects it.
    Deselected,
}

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEvent {
    /// It was requested.
    Requested,
    /// Its end was seen.
    Ended,
}

/// Why an attempt failed. Decides whether a restart or a retry can help, and is shown in status, log and alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The local file cannot be read at the moment.
    Busy,
    /// Likely to pass by itself; another attempt is scheduled.
    Transient,
    /// Transient failures lasted longer than `retry.give_up`.
    GaveUp,
    /// The platform does not accept our credentials.
    Credentials,
    /// Something outside the file must change: a permission, a lock, a mapping in another connection.
    Blocked,
    /// The file's name, content or connector is refused.
    Refused,
    /// The connector failed on the file.
    Run,
    /// The run ended without processing the file.
    NotProcessed,
    /// Someone removed the file from the connection, and `sync.remap` is off.
    Unmapped,
    /// Files that belong to it are missing, or cannot be uploaded.
    Incomplete,
}

impl FailureKind {
    /// Every kind, for those who look up words.
    pub const ALL: [Self; 10] = [
        Self::Busy,
        Self::Transient,
        Self::GaveUp,
        Self::Credentials,
        Self::Blocked,
        Self::Refused,
        Self::Run,
        Self::NotProcessed,
        Self::Unmapped,
        Self::Incomplete,
    ];

    /// Whether the next start of the service tries again: the operator may have fixed the cause.
    #[must_use]
    pub fn is_retried_at_start(self) -> bool {
        match self {
            Self::GaveUp | Self::Blocked | Self::Unmapped => true,
            Self::Busy
            | Self::Transient
            | Self::Credentials
            | Self::Refused
            | Self::Run
            | Self::NotProcessed
            | Self::Incomplete => false,
        }
    }

    /// Whether a later run that processes the file ends the failure.
    #[must_use]
    pub fn is_ended_by_a_run(self) -> bool {
        matches!(self, Self::Run | Self::NotProcessed)
    }
}

/// Why no local file stands for a known file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absence {
    /// The last scan did not find it; another scan has to confirm that.
    Missing,
    /// It was deleted, moved or renamed.
    Gone,
    /// The configuration no longer selects it.
    Deselected,
}

/// What happens on the platform to a file that is gone from its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Keep,
    /// Its source file is removed from the connection.
    Unmap,
    /// So is its storage file, after a run.
    Remove,
}

/// How far a file that is gone from its folder is withdrawn from the platform, written before the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// The request that removes its source file may have been sent.
    Unmapping,
    /// Its source file is removed; the storage file is there.
    Unmapped,
    /// The request that deletes its storage file may have been sent.
    Deleting,
    /// Its storage file is in the recycle bin.
    Deleted,
    /// The operator wants it back; the request that restores the storage file may have been sent.
    Restoring,
    /// The operator wanted it back: it is not withdrawn again until its local file was there.
    Restored,
}

impl Withdrawal {
    /// Whether its storage file may be in the recycle bin.
    #[must_use]
    pub fn may_be_deleted(self) -> bool {
        match self {
            Self::Deleting | Self::Deleted | Self::Restoring => true,
            Self::Unmapping | Self::Unmapped | Self::Restored => false,
        }
    }
}

/// Why the withdrawal of files of a watch waits for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionCause {
    /// Too many files are gone at once.
    Bulk,
    /// No file is left in the folder.
    Empty,
    /// The folder was replaced by another one, and files are gone since then.
    Replaced,
}

/// How far the storage file of a renamed or moved file has followed it, written before the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relocation {
    /// Nothing was sent.
    Intended,
    /// Storage had our content, and a request that changes name or folder may have been sent.
    Sent,
}

/// The state of a root, as its watch found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootState {
    /// Events and scans work.
    Ok,
    /// Scans only, because the file system reports no events.
    Polled,
    /// Part of it cannot be watched or read.
    Degraded,
    /// It cannot be reached.
    Unavailable,
}

/// What the bulk change guard suspended a watch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkChangeKind {
    /// Known files that changed at once.
    Changed,
    /// New files that arrived within an hour.
    New,
}

/// Why no file of an iModel waits for its spatial root any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpatialRootEnd {
    /// It is in the iModel.
    Synchronized,
    /// The iModel had changesets before.
    Changesets,
    /// The operator decided to synchronize the others without it.
    Released,
}

/// The state of a spatial root that is not in its iModel yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpatialRootState {
    /// It is on its way.
    Pending,
    /// No such file was found in the folder.
    Missing,
    /// It failed.
    Failed,
}

/// Stores an enum as a word. A word that is none of these was not written by this program.
macro_rules! words {
    ($name:ident, $($variant:ident = $word:literal),+ $(,)?) => {
        impl $name {
            /// The word for this value in the ledger and in reports.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnknownWord;

            fn try_from(word: String) -> Result<Self, UnknownWord> {
                match word.as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { kind: stringify!($name), word }),
                }
            }
        }

        super::sql::columns!($name, String, word => Self::try_from(word)?;);
        super::sql::arguments!($name, Text, word => word.as_str().into(););
    };
}

words!(
    JobState,
    Due = "due",
    Uploading = "uploading",
    Stored = "stored",
    Running = "running",
    Failed = "failed"
);
words!(
    Stage,
    Planned = "planned",
    CreateSent = "create_sent",
    LinksReceived = "links_received",
    BlobWritten = "blob_written"
);
words!(BulkChangeKind, Changed = "changed", New = "new");
words!(
    Outcome,
    Synchronized = "synchronized",
    SynchronizedWithIssues = "synchronized_with_issues",
    Uploaded = "uploaded",
    Unchanged = "unchanged",
    Renamed = "renamed",
    Failed = "failed",
    Vanished = "vanished",
);
words!(
    Step,
    Seen = "seen",
    Uploaded = "uploaded",
    PutOff = "put_off",
    Asked = "asked",
    SameContent = "same_content",
    Overwritten = "overwritten",
    LostInStorage = "lost_in_storage",
    CompanionChanged = "companion_changed",
    Remapped = "remapped",
    Unmapped = "unmapped",
    Withdrawn = "withdrawn",
    Deleted = "deleted",
    WithdrawalRefused = "withdrawal_refused",
    RestoreAsked = "restore_asked",
    Restored = "restored",
    NotRestored = "not_restored",
    SourceFileRemoved = "source_file_removed",
    StorageFileRemoved = "storage_file_removed",
    Displaced = "displaced",
    ReferenceChanged = "reference_changed",
    RunLost = "run_lost",
    NotJudged = "not_judged",
    Renamed = "renamed",
    Relocated = "relocated",
    NameKept = "name_kept",
    Gone = "gone",
    Deselected = "deselected",
);
words!(RunEvent, Requested = "run_requested", Ended = "run_ended");
words!(
    FailureKind,
    Busy = "busy",
    Transient = "transient",
    GaveUp = "gave_up",
    Credentials = "credentials",
    Blocked = "blocked",
    Refused = "refused",
    Run = "run",
    NotProcessed = "not_processed",
    Unmapped = "unmapped",
    Incomplete = "incomplete",
);
words!(
    Absence,
    Missing = "missing",
    Gone = "gone",
    Deselected = "deselected",
);
words!(OnDelete, Keep = "keep", Unmap = "unmap", Remove = "remove");
words!(
    Withdrawal,
    Unmapping = "unmapping",
    Unmapped = "unmapped",
    Deleting = "deleting",
    Deleted = "deleted",
    Restoring = "restoring",
    Restored = "restored",
);
words!(
    DeletionCause,
    Bulk = "bulk",
    Empty = "empty",
    Replaced = "replaced"
);
words!(Relocation, Intended = "intended", Sent = "sent");
words!(
    SpatialRootEnd,
    Synchronized = "synchronized",
    Changesets = "changesets",
    Released = "released",
);
words!(
    SpatialRootState,
    Pending = "pending",
    Missing = "missing",
    Failed = "failed",
);
words!(
    RootState,
    Ok = "ok",
    Polled = "polled",
    Degraded = "degraded",
    Unavailable = "unavailable"
);

/// A word in the ledger that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("{kind} has no value {word:?}")]
pub struct UnknownWord {
    kind: &'static str,
    word: String,
}

/// Where a job goes when a newer version of its file is handed over.
///
/// A claimed job stays claimed: its worker compares versions at the end and makes the job due again.
pub(super) fn on_new_version(state: JobState) -> JobState {
    match state {
        JobState::Uploading => JobState::Uploading,
        JobState::Due | JobState::Stored | JobState::Running | JobState::Failed => JobState::Due,
    }
}

/// What follows after an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadResult {
    /// The file has changed meanwhile; the job is due again.
    DueAgain,
    /// The job waits for a run of its iModel.
    AwaitsRun,
    /// The job is done.
    Done,
}

/// What the iModel has of content that is complete in storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InImodel {
    /// It is a reference file.
    NotWanted,
    /// A run has to read it.
    RunOwed,
    /// A run has brought this very content, mapped in the same way.
    Synchronized,
}

/// Decides what follows when version `stored` of a file is in storage and `newest` was handed over.
pub(super) fn after_upload(stored: i64, newest: i64, in_imodel: InImodel) -> UploadResult {
    match in_imodel {
        _ if stored < newest => UploadResult::DueAgain,
        InImodel::RunOwed => UploadResult::AwaitsRun,
        InImodel::NotWanted | InImodel::Synchronized => UploadResult::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_interrupts_everything_but_an_upload_in_hand() {
        for (state, expected) in [
            (JobState::Due, JobState::Due),
            (JobState::Uploading, JobState::Uploading),
            (JobState::Stored, JobState::Due),
            (JobState::Running, JobState::Due),
            (JobState::Failed, JobState::Due),
        ] {
            assert_eq!(on_new_version(state), expected, "{state}");
        }
    }

    #[test]
    fn a_job_is_due_again_for_a_newer_version_and_else_waits_for_a_run_that_is_owed() {
        for (stored, newest, in_imodel, expected) in [
            (3, 4, InImodel::NotWanted, UploadResult::DueAgain),
            (3, 4, InImodel::RunOwed, UploadResult::DueAgain),
            (3, 4, InImodel::Synchronized, UploadResult::DueAgain),
            (4, 4, InImodel::NotWanted, UploadResult::Done),
            (4, 4, InImodel::RunOwed, UploadResult::AwaitsRun),
            (4, 4, InImodel::Synchronized, UploadResult::Done),
        ] {
            assert_eq!(
                after_upload(stored, newest, in_imodel),
                expected,
                "{stored} of {newest}, {in_imodel:?}"
            );
        }
    }

    #[test]
    fn every_word_reads_back_and_a_foreign_one_is_refused() {
        for state in [
            JobState::Due,
            JobState::Uploading,
            JobState::Stored,
            JobState::Running,
            JobState::Failed,
        ] {
            assert_eq!(
                JobState::try_from(state.as_str().to_owned()).unwrap(),
                state
            );
        }
        let error = JobState::try_from("napping".to_owned()).unwrap_err();
        assert_eq!(error.to_string(), "JobState has no value \"napping\"");
    }
}
