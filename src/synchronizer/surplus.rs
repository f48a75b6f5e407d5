//! Removes the source files of files that should have none: the configuration has made them references, or they are
//! gone from their folder and are withdrawn.
//!
//! Input: what the ledger knows with a source file, and what the platform has. A change of `masters` or `upload_only`
//! that leaves a watch without any source file removes none: more likely it is a mistake, and removing source files may
//! remove elements of the iModel. Storage files are never touched.

use tracing::{debug, info, warn};

use super::connection::concerns_a_file;
use super::reconcile::is_wanted;
use super::{SyncError, Synchronizer};
use crate::failpoint::failpoint;
use crate::itwin::{self, SourceFile};
use crate::ledger::{ConnectionFile, ConnectionRecord, Surplus, SurplusCause};
use crate::names::QuotedPath;

/// What to do with a file that should have no source file.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Remove this source file.
    Remove(&'a str),
    /// It has none any more.
    Forget,
    /// No source file of its watch would be left.
    Keep,
}

/// Decides for one file. Pure.
fn step<'a>(surplus: &Surplus, files: &[ConnectionFile], there: &'a [SourceFile]) -> Step<'a> {
    let mapped = there
        .iter()
        .find(|one| one.storage_file_id == surplus.storage_file_id);
    let Some(mapped) = mapped else {
        return Step::Forget;
    };
    let is_last = || {
        let mut wanted = files.iter().filter(|file| is_wanted(file));
        !wanted.any(|file| file.watch == surplus.watch)
    };
    if surplus.cause == SurplusCause::Reference && is_last() {
        Step::Keep
    } else {
        Step::Remove(&mapped.id)
    }
}

impl Synchronizer {
    /// Removes what should not be a source file from the connection, and returns how many that were. `files` are all
    /// source files that it should have, `there` those that it has.
    pub(super) async fn remove_surplus(
        &self,
        connection: &ConnectionRecord,
        platform_id: &str,
        files: &[ConnectionFile],
        there: &[SourceFile],
    ) -> Result<u64, SyncError> {
        let mut surplus = self.ledger.demoted(connection.id).await?;
        surplus.extend(self.begin_unmapping(connection).await?);
        let (mut removed, mut kept) = (0_u64, 0_u64);
        for one in &surplus {
            match step(one, files, there) {
                Step::Remove(source_file_id) => {
                    let answer = self
                        .client
                        .remove_source_file(platform_id, source_file_id)
                        .await;
                    match answer {
                        Ok(()) => removed += 1,
                        Err(error) => {
                            self.not_removed(one, error).await?;
                            continue;
                        }
                    }
                    report_removed(connection, one);
                }
                Step::Forget => {}
                Step::Keep => {
                    kept += 1;
                    continue;
                }
            }
            self.ledger
                .record_unmapped(one, crate::clock::now())
                .await?;
            if one.cause == SurplusCause::Gone {
                failpoint("unmapping finished");
            }
        }
        if removed > 0 {
            self.ledger
                .retry_blocked(connection.id, crate::clock::now())
                .await?;
            self.uploads.notify_one();
        }
        if kept > 0 {
            warn!(
                imodel = %self.imodel_id, connection = connection.name, files = kept,
                hint = "correct masters or upload_only of the watch, or remove the source files in the iTwin portal",
                "source files kept although the configuration makes them references: no source file of their watch is left"
            );
        }
        Ok(removed)
    }

    /// The platform did not remove a source file.
    async fn not_removed(&self, surplus: &Surplus, error: itwin::Error) -> Result<(), SyncError> {
        let path = QuotedPath(&surplus.path);
        match surplus.cause {
            SurplusCause::Reference if concerns_a_file(&error) => {
                // The next check finds out whether it is still there.
                debug!(watch = surplus.watch, %path, %error, "source file not removed");
                Ok(())
            }
            SurplusCause::Reference => Err(error.into()),
            SurplusCause::Gone => {
                let what = format!("cannot remove {path} from the iModel");
                self.refused_withdrawal(&surplus.watch, surplus.file, &what, error)
                    .await
            }
        }
    }
}

fn report_removed(connection: &ConnectionRecord, surplus: &Surplus) {
    let (watch, path) = (&surplus.watch, QuotedPath(&surplus.path));
    match surplus.cause {
        SurplusCause::Reference => {
            failpoint("source file of a reference removed");
            info!(
                watch, %path, connection = connection.name,
                "source file removed: the configuration makes it a reference"
            );
        }
        SurplusCause::Gone => {
            failpoint("source file of a deleted file removed");
            info!(
                watch, %path, connection = connection.name,
                "source file removed: the file is gone from the folder"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector_type::ConnectorType;
    use crate::ledger::{FileId, StoredState};

    #[test]
    fn a_source_file_is_removed_unless_a_change_of_masters_leaves_none_of_its_watch() {
        let file = |watch: &str, absent| ConnectionFile {
            file: FileId::default(),
            watch: watch.to_owned(),
            path: "master.dgn".into(),
            storage_file_id: "master".into(),
            connector: ConnectorType::new("MSTN"),
            source_file_id: None,
            mapped_connector: None,
            job: None,
            stored: StoredState::default(),
            outcome: None,
            absent,
            withdrawal: None,
        };
        let source = |storage: &str| -> SourceFile {
            let value = serde_json::json!({ "id": "s", "storageFileId": storage });
            serde_json::from_value(value).unwrap()
        };
        let surplus = |cause| Surplus {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: "ref.dgn".into(),
            storage_file_id: "ref".into(),
            cause,
            elsewhere: None,
        };
        let (reference, gone) = (
            surplus(SurplusCause::Reference),
            surplus(SurplusCause::Gone),
        );
        for (surplus, files, there, expected) in [
            (
                &reference,
                vec![file("north", false)],
                "ref",
                Step::Remove("s"),
            ),
            (
                &reference,
                vec![file("north", false)],
                "other",
                Step::Forget,
            ),
            (&reference, vec![file("north", true)], "ref", Step::Keep),
            (&reference, vec![file("south", false)], "ref", Step::Keep),
            (&reference, vec![], "ref", Step::Keep),
            (&reference, vec![], "other", Step::Forget),
            (&gone, vec![file("north", false)], "ref", Step::Remove("s")),
            (&gone, vec![], "ref", Step::Remove("s")),
            (&gone, vec![], "other", Step::Forget),
        ] {
            let there = [source(there)];
            assert_eq!(step(surplus, &files, &there), expected, "{files:?}");
        }
    }
}
