//! What a changed configuration means for the files of a watch that are known already, and how it is said.

use std::path::PathBuf;

use crate::ids::ImodelId;
use crate::shell;
use crate::text::plural;

/// What differs between a configured watch and the ledger's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchChange {
    /// It has another name: what is known of its files stays.
    Renamed {
        /// Its name before.
        from: String,
        /// Its files in storage.
        files: u64,
    },
    /// It has another folder: what is known of its files stays.
    Moved {
        /// Its folder before.
        from: PathBuf,
        /// Its files in storage.
        files: u64,
    },
    /// It has another storage folder: its files in storage move there.
    StorageFolder {
        /// The storage folder before.
        from: String,
        /// The new one.
        to: String,
        /// Its files in storage.
        files: u64,
    },
    /// It has another iModel: all its files are new there.
    Imodel {
        /// The iModel before.
        from: ImodelId,
        /// Files that have a source file there.
        mapped: u64,
    },
    /// It has one iModel less: its files stay there.
    LeavesImodel {
        /// The iModel.
        imodel_id: ImodelId,
        /// Files that have a source file there.
        mapped: u64,
    },
    /// It is new, but may be one of these, which the configuration no longer has.
    Ambiguous {
        /// Their names.
        candidates: Vec<String>,
    },
    /// The configuration no longer has it.
    Removed {
        /// The iModel that its files stay in.
        imodel_id: ImodelId,
        /// Its files in storage.
        files: u64,
    },
}

impl WatchChange {
    /// What follows from it, for the watch of this name.
    #[must_use]
    pub fn text(&self, watch: &str) -> String {
        let in_storage = |files: &u64| plural(*files, "file", "files");
        match self {
            Self::Renamed { from, files } => format!(
                "watch {from:?} is now called {watch:?}: keeps {}",
                in_storage(files)
            ),
            Self::Moved { from, files } => format!(
                "watch {watch:?} had the folder {from:?} before: keeps {}",
                in_storage(files)
            ),
            Self::StorageFolder { to, files, .. } => {
                let to = match to.as_str() {
                    "" => "the root folder".to_owned(),
                    to => format!("{to}/"),
                };
                let files = plural(*files, "file moves", "files move");
                format!("watch {watch:?}: {files} to {to} in storage; nothing is uploaded")
            }
            Self::Imodel { mapped: 0, .. } => {
                format!("watch {watch:?}: goes into another iModel now, with all its files")
            }
            Self::Imodel { from, mapped } => format!(
                "watch {watch:?}: goes into another iModel now; {} in iModel {from}",
                plural(*mapped, "file stays", "files stay")
            ),
            Self::LeavesImodel { imodel_id, mapped } => format!(
                "watch {watch:?}: no longer goes into iModel {imodel_id}; {} there",
                plural(*mapped, "file stays", "files stay")
            ),
            Self::Ambiguous { candidates } => {
                let names: Vec<String> =
                    candidates.iter().map(|name| format!("{name:?}")).collect();
                format!(
                    "watch {watch:?} is new, but may be one of those that are no longer configured: {}",
                    names.join(", ")
                )
            }
            Self::Removed { imodel_id, files } => format!(
                "watch {watch:?} is no longer configured: {} in storage and in iModel {imodel_id}",
                plural(*files, "file stays", "files stay")
            ),
        }
    }

    /// What the operator may want to do about it.
    #[must_use]
    pub fn hint(&self, watch: &str) -> Option<String> {
        match self {
            Self::Imodel {
                from: imodel_id,
                mapped,
            }
            | Self::LeavesImodel { imodel_id, mapped }
                if *mapped > 0 =>
            {
                Some(detach(watch, imodel_id))
            }
            Self::Ambiguous { candidates } => candidates.first().map(|name| {
                format!(
                    "to keep the files of one of them, write formerly = {name:?} in the table of the new watch; \
                     otherwise all files are uploaded again"
                )
            }),
            Self::Removed { .. } => Some(format!(
                "if a new watch replaces it, write formerly = {watch:?} in the table of that watch \
                 before the next start, and it keeps the files"
            )),
            Self::Renamed { .. }
            | Self::Moved { .. }
            | Self::StorageFolder { .. }
            | Self::Imodel { .. }
            | Self::LeavesImodel { .. } => None,
        }
    }
}

/// How source files of a watch are taken out of an iModel that it went to before.
pub(super) fn detach(watch: &str, imodel_id: &ImodelId) -> String {
    let command = shell::command(["detach", watch, "--imodel", imodel_id.as_str()]);
    format!("`{command}` takes them out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let from = || "north".to_owned();
        let imodel_id = ImodelId::from("c0ffee00-1234-4abc-8def-0123456789ab");
        let changes = [
            WatchChange::Renamed {
                from: from(),
                files: 412,
            },
            WatchChange::Moved {
                from: "/srv/north".into(),
                files: 1,
            },
            WatchChange::StorageFolder {
                from: from(),
                to: "Site/North".to_owned(),
                files: 412,
            },
            WatchChange::StorageFolder {
                from: from(),
                to: String::new(),
                files: 1,
            },
            WatchChange::Imodel {
                from: imodel_id.clone(),
                mapped: 37,
            },
            WatchChange::Imodel {
                from: imodel_id.clone(),
                mapped: 0,
            },
            WatchChange::Ambiguous {
                candidates: vec![from(), "site".to_owned()],
            },
            WatchChange::Removed {
                imodel_id: imodel_id.clone(),
                files: 412,
            },
            WatchChange::LeavesImodel {
                imodel_id,
                mapped: 411,
            },
        ];
        let mut lines = String::new();
        for change in &changes {
            lines += &format!("{}\n", change.text("north site"));
            if let Some(hint) = change.hint("north site") {
                lines += &format!("  hint: {hint}\n");
            }
        }
        insta::assert_snapshot!(lines);
    }
}
