//! Why an attempt to upload a file failed: the message, the class that decides about the next attempt, and the hint.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::source;
use crate::itwin;
use crate::ledger;
use crate::names::{QuotedPath, Unstorable};
use crate::retry::Class;

/// What ended an attempt. `Display` completes the sentence "cannot upload FILE: …".
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error(transparent)]
    Name(#[from] Unstorable),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    TooSlow(#[from] TooSlow),
    #[error("watch {other:?} uploads to the same storage folder of the same iTwin")]
    SharedFolder { other: String },
    #[error("iModel {imodel} is not initialized (state {state:?})")]
    NotInitialized { imodel: String, state: String },
    #[error("it is not known whether storage created it{}; waiting until storage lists the file, else creating it again", after_colon(error.as_ref()))]
    CreateUnknown {
        until: Timestamp,
        /// What came instead of an answer; None when the request was sent before a restart.
        error: Option<itwin::Error>,
    },
    #[error("its storage folder was deleted")]
    FolderGone(#[source] itwin::Error),
    #[error("storage reports {stored} bytes, but {sent} bytes were sent")]
    SizeDiffers { sent: u64, stored: u64 },
    #[error(
        "iTwin Storage may not distinguish its name from {}",
        QuotedPath(other)
    )]
    NameConflict { other: PathBuf },
    #[error(
        "its storage file still belongs to the deleted file {}, whose upload or run has not ended",
        QuotedPath(other)
    )]
    Predecessor { other: PathBuf },
    #[error(
        "it may be {} under a new name; waiting for a scan to confirm that the old file is gone",
        QuotedPath(other)
    )]
    OriginUnconfirmed { other: PathBuf, until: Timestamp },
    #[error("{}", .0.reason())]
    OtherLedger(ledger::OtherLedger),
    #[error(
        "its storage folder was taken over; waiting until the other itwin-syncd must have noticed"
    )]
    TakingOver { until: Timestamp },
    #[error("the active host has to do this")]
    LeftToActive,
    #[error("the file is locked in iTwin Storage")]
    Locked,
    #[error("storage refused to complete the upload; it starts again")]
    NotCompleted(#[source] itwin::Error),
}

/// Why the local file, as it was opened, is not uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it changed after it had settled")]
    NotSettled,
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes; iTwin Storage accepts at most {limit}")]
    TooLarge { bytes: u64, limit: u64 },
}

/// A file that cannot arrive: its upload URL expires first, and a new URL starts with an empty blob.
#[derive(Debug, thiserror::Error)]
#[error(
    "the upload URL expired after {sent} of {bytes} bytes ({} s, no bandwidth limit), and a new URL starts from zero; {needed} bytes/s are needed",
    took.as_secs()
)]
pub(super) struct TooSlow {
    pub(super) bytes: u64,
    pub(super) sent: u64,
    pub(super) took: Duration,
    /// Bytes a second.
    pub(super) needed: u64,
}

fn after_colon(error: Option<&itwin::Error>) -> String {
    error.map_or_else(String::new, |error| format!(" ({error})"))
}

impl UploadError {
    /// Decides, with the attempts so far, when the file is tried again.
    ///
    /// `poll_interval` is that of the file's watch: a share that hangs is not tried more often.
    pub(super) fn class(&self, poll_interval: Duration, now: Timestamp) -> Class {
        match self {
            Self::Platform(error) => error.class(),
            Self::Source(source::Error::Hangs) => Class::Transient {
                floor: Some(poll_interval),
            },
            Self::Source(_)
            | Self::Unfit(Unfit::NotSettled)
            | Self::Predecessor { .. }
            | Self::OriginUnconfirmed { .. }
            | Self::OtherLedger(_)
            | Self::TakingOver { .. }
            | Self::LeftToActive => Class::Busy,
            Self::Name(_) | Self::Unfit(Unfit::Empty | Unfit::TooLarge { .. }) => {
                Class::RefusedForContent
            }
            Self::SharedFolder { .. } | Self::NameConflict { .. } | Self::Locked => {
                Class::RefusedForAll
            }
            Self::CreateUnknown { until, .. } => Class::Transient {
                floor: Some(until.duration_since(now).unsigned_abs()),
            },
            Self::NotInitialized { .. }
            | Self::TooSlow(_)
            | Self::FolderGone(_)
            | Self::SizeDiffers { .. }
            | Self::NotCompleted(_)
            | Self::Ledger(_) => Class::Transient { floor: None },
        }
    }

    /// What the reader can do about it. None when the next attempt may succeed without anyone's help.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Platform(error)
            | Self::CreateUnknown {
                error: Some(error), ..
            } => return error.hint(),
            Self::Name(_) => "rename the file or folder",
            Self::Unfit(Unfit::Empty) => "save the file with content, or add it to exclude",
            Self::Unfit(Unfit::TooLarge { .. }) => "split the file, or add it to exclude",
            Self::SharedFolder { .. } => "set a different storage_folder in one of the two watches",
            Self::NameConflict { .. } => "rename one of the two files",
            Self::Locked => "unlock the file in the iTwin portal",
            Self::TooSlow(_) => {
                "use a faster connection, or set upload.workers = 1 so that no other upload shares the bandwidth"
            }
            Self::NotInitialized { .. } => {
                "wait until the iModel is created; if its creation failed, delete it and set imodel_id to a new one"
            }
            Self::Ledger(_)
            | Self::Source(_)
            | Self::Unfit(Unfit::NotSettled)
            | Self::CreateUnknown { error: None, .. }
            | Self::FolderGone(_)
            | Self::SizeDiffers { .. }
            | Self::Predecessor { .. }
            | Self::OriginUnconfirmed { .. }
            | Self::OtherLedger(_)
            | Self::TakingOver { .. }
            | Self::LeftToActive
            | Self::NotCompleted(_) => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::storage_name;

    #[test]
    fn messages() {
        let ledger = || ledger::Error::Missing {
            path: "/var/lib/itwin-syncd".into(),
        };
        let platform = crate::itwin::unreachable_platform;
        insta::assert_snapshot!(
            crate::text::render_variants!(UploadError, UploadError::hint, {
                UploadError::Ledger(_) => UploadError::Ledger(ledger()),
                UploadError::Platform(_) => UploadError::Platform(platform()),
                UploadError::Source(_) => UploadError::Source(source::Error::Changed),
                UploadError::Name(_) => UploadError::Name(Unstorable::Edge("a.dgn ".to_owned())),
                UploadError::Unfit(_) => UploadError::Unfit(Unfit::NotSettled),
                UploadError::Unfit(_) => UploadError::Unfit(Unfit::Empty),
                UploadError::Unfit(_) => UploadError::Unfit(Unfit::TooLarge { bytes: 9, limit: 7 }),
                UploadError::TooSlow(_) => UploadError::TooSlow(TooSlow {
                    bytes: 1_000_000,
                    sent: 250_000,
                    took: Duration::from_secs(3600),
                    needed: 278,
                }),
                UploadError::SharedFolder { .. } => UploadError::SharedFolder { other: "south".to_owned() },
                UploadError::NotInitialized { .. } => UploadError::NotInitialized {
                    imodel: "c0ffee00".to_owned(),
                    state: "notInitialized".to_owned(),
                },
                UploadError::CreateUnknown { .. } => UploadError::CreateUnknown {
                    until: Timestamp::UNIX_EPOCH,
                    error: None,
                },
                UploadError::CreateUnknown { .. } => UploadError::CreateUnknown {
                    until: Timestamp::UNIX_EPOCH,
                    error: Some(platform()),
                },
                UploadError::FolderGone(_) => UploadError::FolderGone(platform()),
                UploadError::SizeDiffers { .. } => UploadError::SizeDiffers { sent: 5, stored: 1 },
                UploadError::NameConflict { .. } => UploadError::NameConflict { other: "deck.dgn".into() },
                UploadError::Predecessor { .. } => UploadError::Predecessor { other: "Deck.dgn".into() },
                UploadError::OriginUnconfirmed { .. } => UploadError::OriginUnconfirmed {
                    other: "plans/Deck.dgn".into(),
                    until: Timestamp::UNIX_EPOCH,
                },
                UploadError::OtherLedger(_) => UploadError::OtherLedger(ledger::OtherLedger {
                    id: "0a".repeat(16),
                    host: "cad1".to_owned(),
                }),
                UploadError::TakingOver { .. } => UploadError::TakingOver {
                    until: Timestamp::UNIX_EPOCH,
                },
                UploadError::LeftToActive => UploadError::LeftToActive,
                UploadError::Locked => UploadError::Locked,
                UploadError::NotCompleted(_) => UploadError::NotCompleted(platform()),
            })
        );
    }

    #[test]
    fn each_error_has_its_class_and_a_hint_only_if_someone_can_act() {
        let poll = Duration::from_secs(60);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let other = PathBuf::from("Plan.ifc");
        let transient = |floor: Option<u64>| Class::Transient {
            floor: floor.map(Duration::from_secs),
        };
        let unstorable = storage_name("a:b".as_ref()).unwrap_err();
        for (error, class, hint) in [
            (source::Error::Hangs.into(), transient(Some(60)), None),
            (source::Error::Changed.into(), Class::Busy, None),
            (Unfit::NotSettled.into(), Class::Busy, None),
            (
                Unfit::Empty.into(),
                Class::RefusedForContent,
                Some("exclude"),
            ),
            (
                Unfit::TooLarge { bytes: 2, limit: 1 }.into(),
                Class::RefusedForContent,
                Some("split"),
            ),
            (unstorable.into(), Class::RefusedForContent, Some("rename")),
            (
                UploadError::NameConflict {
                    other: other.clone(),
                },
                Class::RefusedForAll,
                Some("rename one of the two files"),
            ),
            (
                UploadError::Predecessor {
                    other: other.clone(),
                },
                Class::Busy,
                None,
            ),
            (
                UploadError::OriginUnconfirmed { other, until: now },
                Class::Busy,
                None,
            ),
            (UploadError::Locked, Class::RefusedForAll, Some("unlock")),
            (
                UploadError::CreateUnknown {
                    until: now + jiff::SignedDuration::from_secs(7),
                    error: None,
                },
                transient(Some(7)),
                None,
            ),
            (
                UploadError::SizeDiffers { sent: 2, stored: 1 },
                transient(None),
                None,
            ),
        ] {
            let error: UploadError = error;
            assert_eq!(error.class(poll, now), class, "{error}");
            let found = error.hint();
            assert_eq!(found.is_some(), hint.is_some(), "{error}: {found:?}");
            assert!(found.unwrap_or_default().contains(hint.unwrap_or_default()));
        }
    }
}
