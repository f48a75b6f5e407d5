//! Compares the source files that a connection should have with those that it has. Pure.
//!
//! Everyone with access to the iModel can change a connection, in the portal or with another client. So the list is
//! read from the platform before each run, and differences are corrected.

use std::collections::{HashMap, HashSet};

use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;
use crate::itwin::SourceFile;
use crate::ledger::{ConnectionFile, FailureKind, JobState};

/// What has to be done to one source file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// Add the file.
    Add(&'a ConnectionFile),
    /// Point the source file at the file's storage file, with the file's connector.
    Correct {
        /// The source file.
        source_file_id: &'a str,
        /// The file that it belongs to.
        file: &'a ConnectionFile,
        /// What is wrong with it.
        wrong: Wrong,
    },
    /// Remove a source file whose storage file is gone for good.
    Remove(&'a str),
}

/// What is wrong with a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Its connector type.
    Connector,
    /// Its storage file.
    StorageFile,
}

/// How the source files of a connection differ from what they should be.
#[derive(Debug, Default)]
pub(super) struct Differences<'a> {
    /// Files that are as they should be, with the id of their source file.
    pub(super) kept: Vec<(&'a ConnectionFile, &'a str)>,
    /// What has to be done.
    pub(super) changes: Vec<Change<'a>>,
    /// Files that another client removed, and that stay removed.
    pub(super) removed: Vec<&'a ConnectionFile>,
}

/// Whether removed source files are added again (`sync.remap`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remap {
    Yes,
    No,
}

/// Compares what should be there with what is there.
///
/// `files` are all files of the connection, `dead` the source files that nothing will ever be read through. A source
/// file in the minimal shape, without a connector type, is compared by its storage file only.
pub(super) fn differences<'a>(
    files: &'a [ConnectionFile],
    dead: &'a [String],
    there: &'a [SourceFile],
    remap: Remap,
) -> Differences<'a> {
    let mut result = Differences::default();
    let wanted: HashSet<&str> = files
        .iter()
        .map(|file| file.storage_file_id.as_str())
        .collect();
    for file in files.iter().filter(|file| is_wanted(file)) {
        let mapped = there
            .iter()
            .find(|one| one.storage_file_id == file.storage_file_id);
        if let Some(mapped) = mapped {
            let connector = mapped.connector_type.as_ref();
            if connector.is_none_or(|connector| *connector == file.connector) {
                result.kept.push((file, &mapped.id));
            } else if may_change(file) {
                result.changes.push(Change::Correct {
                    source_file_id: &mapped.id,
                    file,
                    wrong: Wrong::Connector,
                });
            }
            continue;
        }
        if !may_change(file) {
            continue;
        }
        // Its source file, changed by another client, or still with the storage file that the file had before.
        let ours = file.source_file_id.as_ref().and_then(|id| {
            there
                .iter()
                .find(|held| held.id == *id && !wanted.contains(held.storage_file_id.as_str()))
        });
        match ours {
            Some(held) => result.changes.push(Change::Correct {
                source_file_id: &held.id,
                file,
                wrong: Wrong::StorageFile,
            }),
            None if remap == Remap::No
                && file.source_file_id.is_some()
                && file.withdrawal.is_none() =>
            {
                result.removed.push(file);
            }
            None => result.changes.push(Change::Add(file)),
        }
    }
    let of_dead = there
        .iter()
        .filter(|held| dead.contains(&held.id) && !wanted.contains(held.storage_file_id.as_str()));
    result
        .changes
        .extend(of_dead.map(|held| Change::Remove(&held.id)));
    result
}

/// What the connection holds if nothing has changed there: storage file and connector of each source file. None:
/// something has to be changed.
pub(super) fn expected(
    files: &[ConnectionFile],
) -> Option<HashMap<&StorageFileId, &ConnectorType>> {
    let wanted = files.iter().filter(|file| is_wanted(file));
    wanted
        .map(|file| {
            let is_mapped = file.source_file_id.is_some()
                && file.mapped_connector.as_ref() == Some(&file.connector);
            is_mapped.then_some((&file.storage_file_id, &file.connector))
        })
        .collect()
}

/// Takes a source file that the connection holds out of what is expected. Returns whether nothing more is.
pub(super) fn confirm(
    expected: &mut HashMap<&StorageFileId, &ConnectorType>,
    there: &SourceFile,
) -> bool {
    let wanted = expected.get(&there.storage_file_id);
    let connector = there.connector_type.as_ref();
    if wanted.is_some_and(|wanted| connector.is_none_or(|connector| connector == *wanted)) {
        expected.remove(&there.storage_file_id);
    }
    expected.is_empty()
}

/// Whether the connection should hold the file: not once the local file is gone, unless its last content was uploaded
/// before and still waits for a run.
pub(super) fn is_wanted(file: &ConnectionFile) -> bool {
    !file.absent || file.awaits_run()
}

/// Whether a run of the file as it is in storage is wanted now: not while a refusal of its mapping waits for its next
/// attempt, nor while newer content is on its way.
fn may_change(file: &ConnectionFile) -> bool {
    let newer = file.job.is_some_and(|job| {
        matches!(
            job.state,
            JobState::Due | JobState::Uploading | JobState::Running
        )
    });
    !newer && !waits_after_refusal(file)
}

/// Whether the file's mapping was refused, and waits for its next attempt.
pub(super) fn waits_after_refusal(file: &ConnectionFile) -> bool {
    file.job.is_some_and(|job| match job.state {
        JobState::Stored => !job.awaits_run,
        JobState::Failed => !job.kind.is_some_and(FailureKind::is_ended_by_a_run),
        JobState::Due | JobState::Uploading | JobState::Running => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{FileId, OpenJob, StoredState};

    fn file(storage: &str, mapped: Option<(&str, &str)>) -> ConnectionFile {
        ConnectionFile {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: storage.into(),
            storage_file_id: storage.into(),
            connector: ConnectorType::new("MSTN"),
            source_file_id: mapped.map(|(id, _)| id.to_owned()),
            mapped_connector: mapped.map(|(_, connector)| ConnectorType::new(connector)),
            job: None,
            stored: StoredState::default(),
            outcome: None,
            absent: false,
            withdrawal: None,
        }
    }

    fn with_job(state: JobState, awaits_run: bool, kind: Option<FailureKind>) -> ConnectionFile {
        ConnectionFile {
            job: Some(OpenJob {
                state,
                awaits_run,
                kind,
                run_attempts: 0,
                attempts: 0,
                failing_since: None,
            }),
            ..file("f", None)
        }
    }

    fn source(id: &str, storage: &str, connector: Option<&str>) -> SourceFile {
        let mut value = serde_json::json!({ "id": id, "storageFileId": storage });
        if let Some(connector) = connector {
            value["connectorType"] = connector.into();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_connection_is_as_expected_if_it_holds_each_file_with_its_connector() {
        let files = [
            file("one", Some(("1", "MSTN"))),
            file("two", Some(("2", "MSTN"))),
        ];
        for (there, is_complete) in [
            (vec![("one", Some("MSTN")), ("two", Some("MSTN"))], true),
            (
                vec![("other", None), ("two", None), ("one", Some("MSTN"))],
                true,
            ),
            (vec![("one", Some("MSTN"))], false),
            (vec![("one", Some("MSTN")), ("two", Some("DWG"))], false),
            (vec![], false),
        ] {
            let mut expected = expected(&files).unwrap();
            let mut confirmed = there.iter().map(|(storage, connector)| {
                confirm(&mut expected, &source("s", storage, *connector))
            });
            assert_eq!(confirmed.any(|all| all), is_complete, "{there:?}");
        }
        let gone = ConnectionFile {
            absent: true,
            ..file("gone", None)
        };
        assert!(expected(&[gone]).is_some_and(|none| none.is_empty()));
        assert!(expected(&[file("new", None)]).is_none());
        assert!(expected(&[file("changed", Some(("1", "DWG")))]).is_none());
    }

    /// The differences as text.
    fn summary(
        files: &[ConnectionFile],
        dead: &[&str],
        there: &[SourceFile],
        remap: Remap,
    ) -> Vec<String> {
        let dead: Vec<String> = dead.iter().map(|id| (*id).to_owned()).collect();
        let found = differences(files, &dead, there, remap);
        let mut lines: Vec<String> = found
            .kept
            .iter()
            .map(|(file, id)| format!("keep {} as {id}", file.storage_file_id))
            .collect();
        lines.extend(found.changes.iter().map(|change| match change {
            Change::Add(file) => format!("add {}", file.storage_file_id),
            Change::Correct {
                source_file_id,
                file,
                wrong,
            } => {
                format!(
                    "correct {wrong:?} of {source_file_id} for {}",
                    file.storage_file_id
                )
            }
            Change::Remove(id) => format!("remove {id}"),
        }));
        let removed = found.removed.iter();
        lines.extend(removed.map(|file| format!("leave {} out", file.storage_file_id)));
        lines
    }

    #[test]
    fn what_another_client_changed_in_a_connection_is_corrected() {
        let known = || vec![file("f", Some(("s", "MSTN")))];
        let mstn = Some("MSTN");
        for (what, files, there, expected) in [
            (
                "as it should be",
                known(),
                vec![source("s", "f", mstn)],
                "keep f as s",
            ),
            (
                "the minimal shape",
                known(),
                vec![source("s", "f", None)],
                "keep f as s",
            ),
            ("removed", known(), vec![], "add f"),
            (
                "removed and added again by another client",
                known(),
                vec![source("s2", "f", mstn)],
                "keep f as s2",
            ),
            (
                "another connector",
                known(),
                vec![source("s", "f", Some("CIVIL"))],
                "correct Connector of s for f",
            ),
            (
                "another storage file",
                known(),
                vec![source("s", "foreign", mstn)],
                "correct StorageFile of s for f",
            ),
            (
                "a file of another client beside ours",
                known(),
                vec![source("s", "f", mstn), source("x", "foreign", mstn)],
                "keep f as s",
            ),
            ("never mapped", vec![file("f", None)], vec![], "add f"),
        ] {
            assert_eq!(
                summary(&files, &[], &there, Remap::Yes),
                [expected],
                "{what}"
            );
        }
    }

    #[test]
    fn a_source_file_that_was_pointed_at_another_file_of_ours_is_not_taken_from_it() {
        let files = [
            file("f", Some(("s", "MSTN"))),
            file("g", Some(("t", "MSTN"))),
        ];
        let there = [source("s", "g", Some("MSTN"))];
        assert_eq!(
            summary(&files, &[], &there, Remap::Yes),
            ["keep g as s", "add f"]
        );
    }

    #[test]
    fn a_removed_file_stays_removed_if_that_is_configured() {
        let files = [file("f", Some(("s", "MSTN"))), file("new", None)];
        assert_eq!(
            summary(&files, &[], &[], Remap::No),
            ["add new", "leave f out"]
        );
    }

    #[test]
    fn the_source_file_of_a_lost_storage_file_is_pointed_at_the_new_one_or_removed() {
        let files = [file("new", Some(("s", "MSTN")))];
        let there = [
            source("s", "lost", Some("MSTN")),
            source("t", "also lost", Some("MSTN")),
        ];
        assert_eq!(
            summary(&files, &["t"], &there, Remap::Yes),
            ["correct StorageFile of s for new", "remove t"]
        );
    }

    #[test]
    fn files_are_mapped_when_a_run_of_them_is_wanted_and_unchanged_when_they_are_gone() {
        let gone = ConnectionFile {
            absent: true,
            ..file("f", Some(("s", "MSTN")))
        };
        let gone_after_upload = ConnectionFile {
            absent: true,
            ..with_job(JobState::Stored, true, None)
        };
        for (file, expected) in [
            (gone, vec![]),
            (gone_after_upload, vec!["add f"]),
            (with_job(JobState::Stored, true, None), vec!["add f"]),
            (with_job(JobState::Stored, false, None), vec![]),
            (with_job(JobState::Due, false, None), vec![]),
            (with_job(JobState::Uploading, false, None), vec![]),
            (
                with_job(JobState::Failed, false, Some(FailureKind::Run)),
                vec!["add f"],
            ),
            (
                with_job(JobState::Failed, false, Some(FailureKind::Blocked)),
                vec![],
            ),
        ] {
            let job = file.job;
            assert_eq!(summary(&[file], &[], &[], Remap::Yes), expected, "{job:?}");
        }
    }
}
