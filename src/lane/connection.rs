//! Makes sure that an iModel's connection exists and holds the files of a batch as source files.
//!
//! Nothing here is repeated blindly: what the platform holds is looked up by our name and our files before anything
//! is created, so an answer that got lost does not make a second connection. A file that the platform refuses fails
//! by itself.

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{Lane, Trouble};
use crate::attempt::{self, Failure, History};
use crate::failpoint::failpoint;
use crate::itwin::{self, NewConnection, SourceFile};
use crate::ledger::{BatchFile, ConnectionRecord, FileId, Refusal};
use crate::names::Shown;
use crate::retry::Class;

/// Source files that were found or made: file, source file id, connector type.
type Mappings = Vec<(FileId, String, String)>;

/// Source files of an iModel, over all its connections.
/// Source: bentleysystems.service-now.com, article KB0098316
const SOURCE_FILES_MAX: usize = 250;

impl Lane {
    /// Readies the connection for a run with `files`, and returns the platform's id of it.
    ///
    /// None: no file of the batch can be run, each for a reason of its own that is recorded.
    pub(super) async fn prepare(
        &self,
        connection: &ConnectionRecord,
        files: &[BatchFile],
    ) -> Result<Option<String>, Trouble> {
        let unready: Vec<&BatchFile> = files
            .iter()
            .filter(|file| {
                file.mapped
                    .as_ref()
                    .is_none_or(|(_, connector)| *connector != file.connector)
            })
            .collect();
        let known = connection.platform_id.clone();
        if let (Some(platform_id), true) = (&known, unready.is_empty()) {
            return Ok(Some(platform_id.clone()));
        }
        let mut refused = Vec::new();
        let platform_id = match known {
            Some(platform_id) => Some(platform_id),
            None => {
                self.find_or_create(connection, &unready, &mut refused)
                    .await?
            }
        };
        let Some(platform_id) = platform_id else {
            self.refuse(refused).await?;
            return Ok(None);
        };
        self.hold(connection, &platform_id, unready, &mut refused)
            .await?;
        let all_refused = !files.is_empty() && refused.len() == files.len();
        self.refuse(refused).await?;
        Ok((!all_refused).then_some(platform_id))
    }

    async fn find_or_create(
        &self,
        connection: &ConnectionRecord,
        files: &[&BatchFile],
        refused: &mut Vec<(BatchFile, Refusal)>,
    ) -> Result<Option<String>, Trouble> {
        let platform_id = match self.find(connection, files).await? {
            Some(found) => Some(found),
            None => self.create(connection, files, refused).await?,
        };
        if let Some(platform_id) = &platform_id {
            self.ledger
                .set_connection(connection.id, Some(platform_id))
                .await?;
            failpoint("connection recorded");
        }
        Ok(platform_id)
    }

    /// The connection of our name. Names are not unique: of several it is the one that holds a file of ours.
    async fn find(
        &self,
        connection: &ConnectionRecord,
        files: &[&BatchFile],
    ) -> Result<Option<String>, Trouble> {
        let mut named = self.client.connections(&self.imodel_id).await?;
        named.retain(|found| found.display_name.as_deref() == Some(connection.name.as_str()));
        named.sort_by(|a, b| a.id.cmp(&b.id));
        let mut chosen = 0;
        if named.len() > 1 {
            warn!(imodel = %self.imodel_id, connection = connection.name, count = named.len(), "several connections have this name; using one of them");
            for (index, found) in named.iter().enumerate() {
                let held = self.client.source_files(&found.id).await?;
                if files.iter().any(|file| {
                    held.iter()
                        .any(|held| held.storage_file_id == file.storage_file_id)
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
        if !found.authenticates_as_service() {
            info!(imodel = %self.imodel_id, connection = connection.name, "connection set to service authentication");
            self.client.set_service_authentication(&found).await?;
        }
        Ok(Some(found.id))
    }

    /// Creates the connection with all files, or, when one of them is refused, with the first that is not.
    async fn create(
        &self,
        connection: &ConnectionRecord,
        files: &[&BatchFile],
        refused: &mut Vec<(BatchFile, Refusal)>,
    ) -> Result<Option<String>, Trouble> {
        if files.is_empty() {
            return Ok(None);
        }
        match self.create_with(connection, files).await {
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
        files: &[&BatchFile],
    ) -> Result<String, itwin::Error> {
        let source_files: Vec<(&str, &str)> = files
            .iter()
            .map(|file| (file.storage_file_id.as_str(), file.connector.as_str()))
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

    /// Makes every file a source file of the connection, with the connector that it should have.
    async fn hold(
        &self,
        connection: &ConnectionRecord,
        platform_id: &str,
        files: Vec<&BatchFile>,
        refused: &mut Vec<(BatchFile, Refusal)>,
    ) -> Result<(), Trouble> {
        let held = self.client.source_files(platform_id).await?;
        let mut mappings = Mappings::new();
        let mut outcome = Ok(());
        for file in files {
            if refused.iter().any(|(refused, _)| refused.file == file.file) {
                continue;
            }
            let known = held
                .iter()
                .find(|held| held.storage_file_id == file.storage_file_id);
            match self.hold_one(platform_id, file, known).await {
                Ok(source_file_id) => {
                    mappings.push((file.file, source_file_id, file.connector.clone()));
                }
                Err(error) if concerns_a_file(&error) => self.refused(file, error, refused).await?,
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        if !mappings.is_empty() {
            self.ledger
                .record_mappings(connection.id, &mappings, Timestamp::now())
                .await?;
            failpoint("source files recorded");
        }
        outcome
    }

    async fn hold_one(
        &self,
        platform_id: &str,
        file: &BatchFile,
        known: Option<&SourceFile>,
    ) -> Result<String, itwin::Error> {
        match known {
            None => {
                let added = self
                    .client
                    .add_source_file(platform_id, &file.storage_file_id, &file.connector)
                    .await?;
                failpoint("source file added");
                debug!(watch = file.watch, path = %Shown(&file.path), connector = file.connector, "source file added");
                Ok(added.id)
            }
            Some(held)
                if held
                    .connector_type
                    .as_ref()
                    .is_some_and(|connector| *connector != file.connector) =>
            {
                let id = &held.id;
                self.client
                    .update_source_file(platform_id, id, &file.storage_file_id, &file.connector)
                    .await?;
                info!(watch = file.watch, path = %Shown(&file.path), connector = file.connector, "connector type changed");
                Ok(held.id.clone())
            }
            Some(held) => Ok(held.id.clone()),
        }
    }

    /// Finds out why the platform does not take one file, and what follows for it.
    async fn refused(
        &self,
        file: &BatchFile,
        error: itwin::Error,
        refused: &mut Vec<(BatchFile, Refusal)>,
    ) -> Result<(), Trouble> {
        let path = Shown(&file.path);
        let mut failure = Failure {
            class: Class::RefusedForContent,
            reason: format!(
                "cannot synchronize {path}: the platform refuses it as a source file of type {}: {error}",
                file.connector
            ),
            hint: Some(
                "choose another connector for this file in the watch's connectors".to_owned(),
            ),
        };
        if error.status() == Some(404) {
            match self.client.file(&file.storage_file_id).await {
                Err(gone) if gone.is_not_found() => {
                    warn!(watch = file.watch, %path, "the file is gone from storage; uploading it again");
                    self.ledger
                        .upload_again(file.file, Timestamp::now())
                        .await?;
                    self.uploads.notify_one();
                    return Ok(());
                }
                Err(other) => return Err(other.into()),
                // The file is there, so it is the connection that is not.
                Ok(_) => return Err(error.into()),
            }
        }
        if error.status() == Some(409)
            && let Some(other) = self.holder(&file.storage_file_id).await?
        {
            failure.class = Class::RefusedForAll;
            failure.reason = format!(
                "cannot synchronize {path}: connection {other:?} of the same iModel holds it already"
            );
            failure.hint = Some(format!(
                "remove it there, or write connection = {other:?} in the watch"
            ));
        }
        if error.status() == Some(422) && self.is_full().await? {
            failure.class = Class::RefusedForAll;
            failure.hint = Some(format!(
                "an iModel takes {SOURCE_FILES_MAX} source files: remove some there, exclude this one, or list it in \
                 upload_only if others only refer to it"
            ));
        }
        let history = History {
            attempt: file.attempts.saturating_add(1),
            failing_since: file.failing_since,
        };
        let refusal = attempt::refusal(
            failure,
            history,
            &self.policy,
            self.give_up,
            Timestamp::now(),
        );
        refused.push((file.clone(), refusal));
        Ok(())
    }

    /// Whether the connections of our iModel hold as many source files as the platform takes.
    async fn is_full(&self) -> Result<bool, itwin::Error> {
        let mut held = 0;
        for connection in self.client.connections(&self.imodel_id).await? {
            held += self.client.source_files(&connection.id).await?.len();
        }
        Ok(held >= SOURCE_FILES_MAX)
    }

    /// The name of the connection of our iModel that holds a storage file.
    async fn holder(&self, storage_file_id: &str) -> Result<Option<String>, itwin::Error> {
        for connection in self.client.connections(&self.imodel_id).await? {
            let held = self.client.source_files(&connection.id).await?;
            if held
                .iter()
                .any(|held| held.storage_file_id == storage_file_id)
            {
                return Ok(Some(connection.display_name.unwrap_or(connection.id)));
            }
        }
        Ok(None)
    }
}

/// Whether the platform refuses one of the files named in a request, rather than the request itself.
fn concerns_a_file(error: &itwin::Error) -> bool {
    matches!(error.status(), Some(400 | 404 | 409 | 422))
}
