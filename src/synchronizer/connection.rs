//! Corrects an iModel's connection, before each run and at intervals.
//!
//! The platform is asked each time what the connection contains; `reconcile` decides what to change. Nothing is
//! repeated blindly: the connection is looked up by our name before it is created, so a lost answer never makes a
//! second one. A file that the platform refuses fails alone.

use std::collections::HashSet;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::reconcile::{Change, Remap, Wrong, differences, is_wanted, waits_after_refusal};
use super::refusals::Refused;
use super::spatial_root::Extent;
use super::{SyncError, Synchronizer};
use crate::failpoint::failpoint;
use crate::ids::StorageFileId;
use crate::itwin::{self, NewConnection, SourceFile};
use crate::ledger::{
    Again, ConnectionFile, ConnectionRecord, FailureKind, FileId, LastReader, Mapping, Refusal,
};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::source_file_limit::SourceFiles;

/// The connection as it is on the platform.
struct Found {
    id: String,
    source_files: Vec<SourceFile>,
    /// It was created just now, with all that it holds.
    created: bool,
}

/// How much of a known connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Its settings as well.
    Everything,
    /// Its source files only.
    SourceFiles,
}

impl Synchronizer {
    /// Compares the connection with what it should hold, corrects what differs, and returns the platform's id of it.
    ///
    /// None: there is nothing to hold, or every file is refused for a reason of its own that is recorded.
    pub(super) async fn reconcile(
        &self,
        connection: &ConnectionRecord,
        extent: Extent,
        read: Read,
    ) -> Result<Option<String>, SyncError> {
        let now = crate::clock::now();
        let mut files = self.ledger.connection_files(connection.id, now).await?;
        files.retain(|file| extent.has_file(file));
        let elsewhere = self.remove_displaced(connection).await?;
        files.retain(|file| !elsewhere.contains(&file.file));
        // The first file with a coordinate system defines that of the iModel: the order is the same everywhere.
        files.sort_by(|one, other| (&one.path, &one.watch).cmp(&(&other.path, &other.watch)));
        let mut refused = Refused::default();
        let Some(found) = self
            .find_or_create(connection, &files, read, &mut refused)
            .await?
        else {
            self.refuse(refused).await?;
            return Ok(None);
        };
        // Before files are added: the number of source files is limited.
        let removed = self
            .remove_surplus(connection, &found.id, &files, &found.source_files)
            .await?;
        let counted = counted(&files, &found.source_files, removed);
        let dead = self.ledger.dead_mappings(connection.id).await?;
        let remap = if self.sync.remap {
            Remap::Yes
        } else {
            Remap::No
        };
        let differences = differences(&files, &dead, &found.source_files, remap);
        let mut mappings: Vec<Mapping> = differences
            .kept
            .iter()
            .filter(|(file, id)| {
                found.created
                    || file.source_file_id.as_deref() != Some(id)
                    || file.mapped_connector.as_ref() != Some(&file.connector)
            })
            .map(|(file, id)| renewed(file, (*id).to_owned()))
            .collect();
        let changed: Vec<FileId> = differences
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Add(file) | Change::Correct { file, .. } => Some(file.file),
                Change::Remove(_) => None,
            })
            .collect();
        if !changed.is_empty() {
            self.ledger.expect_mappings(&changed).await?;
            failpoint("source files about to change");
        }
        for file in differences.removed {
            let refusal = self.left_out(connection, file, now);
            refused.files.push((file.clone(), refusal));
        }
        let mut outcome = Ok(());
        for change in differences.changes {
            if let Change::Add(file) | Change::Correct { file, .. } = &change
                && refused.has(file)
            {
                continue;
            }
            match self.apply(connection, &found.id, &change).await {
                Ok(Some(mapping)) => mappings.push(mapping),
                Ok(None) => {}
                Err(SyncError::Platform(error)) if concerns_a_file(&error) => {
                    if let Change::Add(file) | Change::Correct { file, .. } = change {
                        self.refused(file, error, &mut refused).await?;
                    }
                }
                Err(trouble) => {
                    outcome = Err(trouble);
                    break;
                }
            }
        }
        if !mappings.is_empty() {
            self.ledger
                .record_mappings(connection.id, &mappings, now)
                .await?;
            failpoint("source files recorded");
        }
        self.refuse(refused).await?;
        outcome?;
        self.ledger.record_check(connection, counted, now).await?;
        Ok(Some(found.id))
    }

    async fn find_or_create(
        &self,
        connection: &ConnectionRecord,
        files: &[ConnectionFile],
        read: Read,
        refused: &mut Refused,
    ) -> Result<Option<Found>, SyncError> {
        if let Some(id) = &connection.platform_id {
            match self.look_up(connection, id, read).await {
                Ok(source_files) => {
                    return Ok(Some(Found {
                        id: id.clone(),
                        source_files,
                        created: false,
                    }));
                }
                Err(error) if error.is_not_found() => {
                    warn!(
                        imodel = %self.imodel_id, connection = connection.name, %error,
                        "connection was deleted; creating it again with all stored files"
                    );
                    self.ledger.set_connection(connection.id, None).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (id, created) = match self.find(connection, files).await? {
            Some(found) => (found, false),
            None => match self.create(connection, files, refused).await? {
                Some(created) => (created, true),
                None => return Ok(None),
            },
        };
        self.ledger.set_connection(connection.id, Some(&id)).await?;
        failpoint("connection recorded");
        let source_files = self.client.source_files(&id).await?;
        Ok(Some(Found {
            id,
            source_files,
            created,
        }))
    }

    /// What a known connection holds; its authentication type is corrected on the way, if that is read.
    async fn look_up(
        &self,
        connection: &ConnectionRecord,
        id: &str,
        read: Read,
    ) -> Result<Vec<SourceFile>, itwin::Error> {
        if read == Read::Everything {
            let found = self.client.connection(id).await?;
            self.correct_authentication(connection, &found).await?;
        }
        self.client.source_files(id).await
    }

    async fn correct_authentication(
        &self,
        connection: &ConnectionRecord,
        found: &itwin::Connection,
    ) -> Result<(), itwin::Error> {
        if found.authenticates_as_service() {
            return Ok(());
        }
        self.client.set_service_authentication(found).await?;
        warn!(
            imodel = %self.imodel_id, connection = connection.name,
            "connection was not set to service authentication; corrected"
        );
        Ok(())
    }

    /// The connection of our name. Names are not unique: of several it is the one that holds a file of ours.
    async fn find(
        &self,
        connection: &ConnectionRecord,
        files: &[ConnectionFile],
    ) -> Result<Option<String>, SyncError> {
        let mut named = self.client.connections(&self.imodel_id).await?;
        named.retain(|found| found.display_name.as_deref() == Some(connection.name.as_str()));
        named.sort_by(|a, b| a.id.cmp(&b.id));
        let mut chosen = 0;
        if named.len() > 1 {
            warn!(imodel = %self.imodel_id, connection = connection.name, count = named.len(), "several connections have this name; using one of them");
            for (index, found) in named.iter().enumerate() {
                let source_files = self.client.source_files(&found.id).await?;
                if files.iter().any(|file| {
                    source_files
                        .iter()
                        .any(|one| one.storage_file_id == file.storage_file_id)
                }) {
                    chosen = index;
                    break;
                }
            }
        }
        let Some(found) = named.into_iter().nth(chosen) else {
            return Ok(None);
        };
        debug!(imodel = %self.imodel_id, connection = connection.name, "connection found");
        self.correct_authentication(connection, &found).await?;
        Ok(Some(found.id))
    }

    /// Creates the connection with all stored files or, if one of them is refused, with the first that is not.
    async fn create(
        &self,
        connection: &ConnectionRecord,
        files: &[ConnectionFile],
        refused: &mut Refused,
    ) -> Result<Option<String>, SyncError> {
        let files: Vec<&ConnectionFile> = files
            .iter()
            .filter(|file| is_wanted(file) && !waits_after_refusal(file))
            .collect();
        if files.is_empty() {
            return Ok(None);
        }
        match self.create_with(connection, &files).await {
            Ok(created) => return Ok(Some(created)),
            Err(error) if !concerns_a_file(&error) => return Err(error.into()),
            Err(error) => debug!(%error, "connection refused; trying its files one by one"),
        }
        for file in files {
            match self.create_with(connection, &[file]).await {
                Ok(created) => return Ok(Some(created)),
                Err(error) if concerns_a_file(&error) => self.refused(file, error, refused).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    async fn create_with(
        &self,
        connection: &ConnectionRecord,
        files: &[&ConnectionFile],
    ) -> Result<String, itwin::Error> {
        let source_files: Vec<_> = files
            .iter()
            .map(|file| (&file.storage_file_id, &file.connector))
            .collect();
        let created = self
            .client
            .create_connection(&NewConnection {
                imodel_id: &self.imodel_id,
                display_name: &connection.name,
                source_files: &source_files,
            })
            .await?;
        failpoint("connection created");
        info!(imodel = %self.imodel_id, connection = connection.name, files = files.len(), "connection created");
        Ok(created.id)
    }

    /// Makes one change on the platform, and returns the mapping that is there now.
    async fn apply(
        &self,
        connection: &ConnectionRecord,
        platform_id: &str,
        change: &Change<'_>,
    ) -> Result<Option<Mapping>, SyncError> {
        match change {
            Change::Add(file) => {
                let added = self
                    .client
                    .add_source_file(platform_id, &file.storage_file_id, &file.connector)
                    .await?;
                failpoint("source file added");
                if file.source_file_id.is_some() && file.withdrawal.is_none() {
                    warn!(
                        watch = file.watch, path = %QuotedPath(&file.path), connection = connection.name,
                        "file was removed from the connection by another client; added again"
                    );
                } else {
                    debug!(watch = file.watch, path = %QuotedPath(&file.path), connector = file.connector.as_str(), "source file added");
                }
                Ok(Some(renewed(file, added.id)))
            }
            Change::Correct {
                source_file_id,
                file,
                wrong,
            } => {
                self.client
                    .update_source_file(
                        platform_id,
                        source_file_id,
                        &file.storage_file_id,
                        &file.connector,
                    )
                    .await?;
                failpoint("source file corrected");
                let changed_by_us = file.mapped_connector.as_ref() != Some(&file.connector);
                match wrong {
                    Wrong::Connector if changed_by_us => {
                        info!(watch = file.watch, path = %QuotedPath(&file.path), connector = file.connector.as_str(), "connector type changed");
                    }
                    Wrong::Connector => warn!(
                        watch = file.watch, path = %QuotedPath(&file.path), connector = file.connector.as_str(),
                        "connector type was changed by another client; corrected"
                    ),
                    Wrong::StorageFile => warn!(
                        watch = file.watch, path = %QuotedPath(&file.path), connection = connection.name,
                        "source file referred to another storage file; corrected"
                    ),
                }
                Ok(Some(renewed(file, (*source_file_id).to_owned())))
            }
            Change::Remove(source_file_id) => {
                self.client
                    .remove_source_file(platform_id, source_file_id)
                    .await?;
                info!(
                    imodel = %self.imodel_id, connection = connection.name, source_file = source_file_id,
                    "source file removed: its storage file and its local file were deleted"
                );
                self.ledger.forget_mapping(source_file_id).await?;
                Ok(None)
            }
        }
    }

    /// A file that another client removed, and that stays removed (`sync.remap = false`).
    fn left_out(
        &self,
        connection: &ConnectionRecord,
        file: &ConnectionFile,
        now: Timestamp,
    ) -> Refusal {
        Refusal {
            kind: FailureKind::Unmapped,
            reason: format!(
                "cannot synchronize {}: another client removed it from connection {:?}, and sync.remap is off",
                QuotedPath(&file.path),
                connection.name
            ),
            hint: Some("add it there again, set sync.remap = true, or exclude the file".to_owned()),
            again: Again::FailedUntil(next_attempt::after(now, self.policy.max)),
        }
    }
}

/// A mapping that was made or corrected.
fn renewed(file: &ConnectionFile, source_file_id: String) -> Mapping {
    let known = file.mapped_connector.as_ref();
    Mapping {
        file: file.file,
        source_file_id,
        connector: file.connector.clone(),
        // One that is not known was not confirmed: the content may have been read with any.
        last_reader: if file.source_file_id.is_some() && known != Some(&file.connector) {
            LastReader::Other
        } else {
            LastReader::Same
        },
    }
}

/// How many source files there are once all changes are made. `removed` of those that are there have been removed.
fn counted(files: &[ConnectionFile], there: &[SourceFile], removed: u64) -> SourceFiles {
    let wanted: HashSet<&StorageFileId> = files
        .iter()
        .filter(|file| is_wanted(file))
        .map(|file| &file.storage_file_id)
        .collect();
    let others = there
        .iter()
        .filter(|one| !wanted.contains(&one.storage_file_id));
    SourceFiles {
        watched: wanted.len() as u64,
        others: (others.count() as u64).saturating_sub(removed),
    }
}

/// Whether the platform refuses one of the files named in a request, rather than the request itself.
pub(super) fn concerns_a_file(error: &itwin::Error) -> bool {
    matches!(error.status(), Some(400 | 404 | 409 | 422))
}
