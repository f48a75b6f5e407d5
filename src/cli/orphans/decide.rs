//! Decides whether a local file stands for a storage file. Pure.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::ledger::{Absence, FileReport};

/// What the ledger knows of a storage file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownFile {
    /// The name of its watch.
    pub(super) watch: String,
    /// The path relative to the root.
    pub(super) path: PathBuf,
    /// Why it has no local file, and since when.
    pub(super) absence: Option<(Absence, Timestamp)>,
    /// Something is still being done with it.
    pub(super) has_job: bool,
    /// Whether its watch is configured.
    pub(super) watch_is_configured: bool,
    /// It defines the coordinate system of its iModel.
    pub(super) is_spatial_root: bool,
}

impl KnownFile {
    pub(super) fn new(file: &FileReport, watch_is_configured: bool, is_spatial_root: bool) -> Self {
        Self {
            watch: file.watch.clone(),
            path: file.path.clone(),
            absence: file.absence,
            has_job: file.job.is_some(),
            watch_is_configured,
            is_spatial_root,
        }
    }
}

/// The local file whose place in storage a storage file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalFile {
    /// There is none.
    None,
    /// It has no storage file yet, and may get this one.
    WithoutStorageFile,
    /// It has another storage file.
    WithAnother,
}

/// Where a storage file is, and who created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// In a storage folder of a watch, created by itwin-syncd.
    Ours,
    /// In a storage folder of a watch, created by the itwin-syncd of another ledger.
    OtherLedger,
    /// In a storage folder of a watch, created by something else.
    Others,
    /// In no storage folder of a watch.
    OutsideOurFolders,
    /// It does not exist any more.
    Deleted,
}

/// Why no local file stands for a storage file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Orphan {
    /// Its local file was deleted.
    Gone { since: Timestamp },
    /// The configuration no longer selects its local file.
    Deselected { since: Timestamp },
    /// Its watch is not configured any more.
    WatchRemoved { watch: String },
    /// Its local file has another storage file.
    Duplicate,
    /// No local file has this path.
    NoLocalFile,
    /// A source file whose storage file does not exist any more.
    StorageFileDeleted,
    /// Its local file was deleted, but it defines the coordinate system of the iModel.
    SpatialRoot { since: Timestamp },
    /// Created by the itwin-syncd of another ledger in a storage folder of a watch.
    OtherLedger,
    /// Created by something else in a storage folder of a watch.
    Others,
    /// In a connection of ours, but in no storage folder of a watch.
    OutsideOurFolders,
}

impl Orphan {
    /// Whether it is only removed if the operator names it.
    pub(super) fn must_be_named(&self) -> bool {
        match self {
            Self::SpatialRoot { .. }
            | Self::OtherLedger
            | Self::Others
            | Self::OutsideOurFolders => true,
            Self::Gone { .. }
            | Self::Deselected { .. }
            | Self::WatchRemoved { .. }
            | Self::Duplicate
            | Self::NoLocalFile
            | Self::StorageFileDeleted => false,
        }
    }

    /// A word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Deselected { .. } => "deselected",
            Self::WatchRemoved { .. } => "watch_removed",
            Self::Duplicate => "duplicate",
            Self::NoLocalFile => "no_local_file",
            Self::StorageFileDeleted => "storage_file_deleted",
            Self::SpatialRoot { .. } => "spatial_root",
            Self::OtherLedger => "other_ledger",
            Self::Others => "others",
            Self::OutsideOurFolders => "outside_our_folders",
        }
    }

    /// Why, as the list shows it.
    pub(super) fn text(&self) -> String {
        let day = |since: &Timestamp| since.strftime("%Y-%m-%d %H:%M UTC").to_string();
        match self {
            Self::Gone { since } => format!("gone since {}, subject to on_delete", day(since)),
            Self::Deselected { since } => format!("not selected since {}", day(since)),
            Self::WatchRemoved { watch } => format!("watch {watch:?} is not configured any more"),
            Self::Duplicate => "its local file has another storage file".to_owned(),
            Self::NoLocalFile => "no local file".to_owned(),
            Self::StorageFileDeleted => "its storage file does not exist any more".to_owned(),
            Self::SpatialRoot { since } => format!(
                "gone since {}, but the spatial root; only removed if named",
                day(since)
            ),
            Self::OtherLedger => {
                "created by an itwin-syncd with another ledger; only removed if named".to_owned()
            }
            Self::Others => "created by another client; only removed if named".to_owned(),
            Self::OutsideOurFolders => {
                "in no storage folder of a watch; only removed if named".to_owned()
            }
        }
    }
}

/// Why no local file stands for a storage file; None if one does, or may.
pub(super) fn orphan(
    known: Option<&KnownFile>,
    local: LocalFile,
    origin: Origin,
) -> Option<Orphan> {
    if let Some(known) = known {
        return known_orphan(known);
    }
    match (local, origin) {
        (_, Origin::Deleted) => Some(Orphan::StorageFileDeleted),
        (_, Origin::OutsideOurFolders) => Some(Orphan::OutsideOurFolders),
        (LocalFile::WithoutStorageFile, Origin::Ours | Origin::OtherLedger | Origin::Others) => {
            None
        }
        (LocalFile::WithAnother | LocalFile::None, Origin::OtherLedger) => {
            Some(Orphan::OtherLedger)
        }
        (LocalFile::WithAnother | LocalFile::None, Origin::Others) => Some(Orphan::Others),
        (LocalFile::WithAnother, Origin::Ours) => Some(Orphan::Duplicate),
        (LocalFile::None, Origin::Ours) => Some(Orphan::NoLocalFile),
    }
}

fn known_orphan(known: &KnownFile) -> Option<Orphan> {
    if !known.watch_is_configured {
        return Some(Orphan::WatchRemoved {
            watch: known.watch.clone(),
        });
    }
    if known.has_job {
        return None;
    }
    match known.absence {
        Some((Absence::Gone | Absence::Deselected, since)) if known.is_spatial_root => {
            Some(Orphan::SpatialRoot { since })
        }
        Some((Absence::Gone, since)) => Some(Orphan::Gone { since }),
        Some((Absence::Deselected, since)) => Some(Orphan::Deselected { since }),
        Some((Absence::Missing, _)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(absence: Option<Absence>) -> KnownFile {
        KnownFile {
            watch: "north".to_owned(),
            path: "a.dgn".into(),
            absence: absence.map(|absence| (absence, Timestamp::UNIX_EPOCH)),
            has_job: false,
            watch_is_configured: true,
            is_spatial_root: false,
        }
    }

    #[test]
    fn a_known_file_is_an_orphan_once_its_local_file_is_confirmed_to_be_gone() {
        let since = Timestamp::UNIX_EPOCH;
        let gone = known(Some(Absence::Gone));
        for (known, expected) in [
            (known(None), None),
            (known(Some(Absence::Missing)), None),
            (gone.clone(), Some(Orphan::Gone { since })),
            (
                known(Some(Absence::Deselected)),
                Some(Orphan::Deselected { since }),
            ),
            (
                KnownFile {
                    has_job: true,
                    ..gone.clone()
                },
                None,
            ),
            (
                KnownFile {
                    is_spatial_root: true,
                    ..gone
                },
                Some(Orphan::SpatialRoot { since }),
            ),
            (
                KnownFile {
                    watch_is_configured: false,
                    ..known(None)
                },
                Some(Orphan::WatchRemoved {
                    watch: "north".to_owned(),
                }),
            ),
        ] {
            let found = orphan(Some(&known), LocalFile::None, Origin::Ours);
            assert_eq!(found, expected, "{known:?}");
        }
    }

    #[test]
    fn an_unknown_storage_file_is_an_orphan_unless_a_local_file_may_get_it() {
        use LocalFile::{None as Nothing, WithAnother, WithoutStorageFile};
        for (local, origin, expected) in [
            (Nothing, Origin::Ours, Some(Orphan::NoLocalFile)),
            (Nothing, Origin::Others, Some(Orphan::Others)),
            (WithAnother, Origin::Ours, Some(Orphan::Duplicate)),
            (WithAnother, Origin::Others, Some(Orphan::Others)),
            (Nothing, Origin::OtherLedger, Some(Orphan::OtherLedger)),
            (WithAnother, Origin::OtherLedger, Some(Orphan::OtherLedger)),
            (WithoutStorageFile, Origin::OtherLedger, None),
            (WithoutStorageFile, Origin::Ours, None),
            (WithoutStorageFile, Origin::Others, None),
            (
                Nothing,
                Origin::OutsideOurFolders,
                Some(Orphan::OutsideOurFolders),
            ),
            (Nothing, Origin::Deleted, Some(Orphan::StorageFileDeleted)),
        ] {
            assert_eq!(
                orphan(None, local, origin),
                expected,
                "{local:?} {origin:?}"
            );
        }
    }
}
