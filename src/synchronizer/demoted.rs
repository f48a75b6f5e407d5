//! Removes the source files of files that the configuration has made references.
//!
//! Input: the references of a connection that the ledger knows with a source file, and what the platform has. A change
//! of `masters` or `upload_only` that leaves a watch without any source file removes none: more likely it is a mistake,
//! and removing source files may remove elements of the iModel. Storage files are never touched.

use tracing::{debug, info, warn};

use super::connection::concerns_a_file;
use super::reconcile::is_wanted;
use super::{SyncError, Synchronizer};
use crate::failpoint::failpoint;
use crate::itwin::SourceFile;
use crate::ledger::{ConnectionFile, ConnectionRecord, Demoted};
use crate::names::QuotedPath;

/// What to do with a reference that had a source file.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Remove this source file.
    Remove(&'a str),
    /// It has none any more.
    Forget,
    /// No source file of its watch would be left.
    Keep,
}

/// Decides for one reference. Pure.
fn step<'a>(demoted: &Demoted, files: &[ConnectionFile], there: &'a [SourceFile]) -> Step<'a> {
    let mapped = there
        .iter()
        .find(|one| one.storage_file_id == demoted.storage_file_id);
    let Some(mapped) = mapped else {
        return Step::Forget;
    };
    if files
        .iter()
        .any(|file| file.watch == demoted.watch && is_wanted(file))
    {
        Step::Remove(&mapped.id)
    } else {
        Step::Keep
    }
}

impl Synchronizer {
    /// Removes what is no source file any more from the connection, and returns how many that were. `files` are all
    /// source files that it should have, `there` those that it has.
    pub(super) async fn remove_demoted(
        &self,
        connection: &ConnectionRecord,
        platform_id: &str,
        files: &[ConnectionFile],
        there: &[SourceFile],
    ) -> Result<u64, SyncError> {
        let demoted = self.ledger.demoted(connection.id).await?;
        let (mut removed, mut kept) = (0_u64, 0_u64);
        for one in &demoted {
            match step(one, files, there) {
                Step::Remove(source_file_id) => {
                    let path = QuotedPath(&one.path);
                    let answer = self
                        .client
                        .remove_source_file(platform_id, source_file_id)
                        .await;
                    match answer {
                        Ok(()) => removed += 1,
                        Err(error) if concerns_a_file(&error) => {
                            // The next check finds out whether it is still there.
                            debug!(watch = one.watch, %path, %error, "source file not removed");
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    }
                    failpoint("source file of a reference removed");
                    info!(
                        watch = one.watch, %path, connection = connection.name,
                        "source file removed: the configuration makes it a reference"
                    );
                }
                Step::Forget => {}
                Step::Keep => {
                    kept += 1;
                    continue;
                }
            }
            let now = crate::clock::now();
            self.ledger.record_unmapped(one.file, now).await?;
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector_type::ConnectorType;
    use crate::ledger::{FileId, StoredState};

    #[test]
    fn a_source_file_is_removed_unless_it_is_the_last_of_its_watch() {
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
        };
        let source = |storage: &str| -> SourceFile {
            let value = serde_json::json!({ "id": "s", "storageFileId": storage });
            serde_json::from_value(value).unwrap()
        };
        let demoted = Demoted {
            file: FileId::default(),
            watch: "north".to_owned(),
            path: "ref.dgn".into(),
            storage_file_id: "ref".into(),
        };
        for (files, there, expected) in [
            (vec![file("north", false)], "ref", Step::Remove("s")),
            (vec![file("north", false)], "other", Step::Forget),
            (vec![file("north", true)], "ref", Step::Keep),
            (vec![file("south", false)], "ref", Step::Keep),
            (vec![], "ref", Step::Keep),
            (vec![], "other", Step::Forget),
        ] {
            let there = [source(there)];
            assert_eq!(step(&demoted, &files, &there), expected, "{files:?}");
        }
    }
}
