//! Files that the platform refuses as source files: why, and when they are tried again.

use tracing::warn;

use super::{SyncError, Synchronizer};
use crate::ids::StorageFileId;
use crate::itwin;
use crate::ledger::{ConnectionFile, FileId, Refusal};
use crate::names::QuotedPath;
use crate::next_attempt::{self, Failure, History};
use crate::retry::Class;
use crate::source_file_limit;

/// Files that could not be mapped.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// And why.
    pub(super) files: Vec<(ConnectionFile, Refusal)>,
    /// Files whose storage file is gone: they are uploaded again.
    pub(super) lost: Vec<FileId>,
    /// Whether the iModel has as many source files as it accepts; read at the first refusal that may be due to that.
    is_full: Option<bool>,
}

impl Refused {
    pub(super) fn has(&self, file: &ConnectionFile) -> bool {
        self.lost.contains(&file.file)
            || self
                .files
                .iter()
                .any(|(refused, _)| refused.file == file.file)
    }
}

impl Synchronizer {
    /// Finds out why the platform refused one file, and when it is tried again.
    pub(super) async fn refused(
        &self,
        file: &ConnectionFile,
        error: itwin::Error,
        refused: &mut Refused,
    ) -> Result<(), SyncError> {
        let path = QuotedPath(&file.path);
        if error.status() == Some(404) {
            match self.client.file(&file.storage_file_id).await {
                Err(gone) if gone.is_not_found() => {
                    warn!(watch = file.watch, %path, "file was deleted from iTwin Storage by another client; uploading it again");
                    let now = crate::clock::now();
                    let before = file.stored.overwrites;
                    let due = next_attempt::after_foreign_change(before, &self.policy, now);
                    self.ledger.upload_again(file, due, now).await?;
                    refused.lost.push(file.file);
                    self.uploads.notify_one();
                    return Ok(());
                }
                Err(other) => return Err(other.into()),
                // The file is there, so it is the connection that is not.
                Ok(_) => return Err(error.into()),
            }
        }
        let mut failure = Failure {
            class: Class::Transient {
                floor: error.floor(),
            },
            reason: format!(
                "cannot synchronize {path}: the platform refused it as a source file of type {}: {error}",
                file.connector
            ),
            hint: None,
        };
        if error.status() == Some(409)
            && let Some(other) = self.connection_containing(&file.storage_file_id).await?
        {
            failure.class = Class::RefusedForAll;
            failure.reason = format!(
                "cannot synchronize {path}: connection {other:?} of the same iModel has it already"
            );
            failure.hint = Some(format!(
                "remove it there, or set connection = {other:?} in the watch"
            ));
        }
        // Only the platform itself refuses a file for good, and it says so by a code. Anything else passes.
        if error.status() == Some(422) && error.code().is_some() {
            let is_full = match refused.is_full {
                Some(known) => known,
                None => self.is_full().await?,
            };
            refused.is_full = Some(is_full);
            if is_full {
                failure.class = Class::RefusedForAll;
                failure.reason = format!(
                    "cannot synchronize {path}: the iModel has as many source files as it accepts, {}",
                    source_file_limit::MAX
                );
                failure.hint = Some(source_file_limit::ADVICE.to_owned());
            } else {
                failure.class = Class::RefusedForContent;
                failure.hint = Some(
                    "set another connector for this file in the watch's connectors, or exclude it"
                        .to_owned(),
                );
            }
        }
        let history = History {
            attempt: file.job.map_or(0, |job| job.attempts).saturating_add(1),
            failing_since: file.job.and_then(|job| job.failing_since),
        };
        let refusal = next_attempt::refusal(
            failure,
            history,
            &self.policy,
            self.give_up,
            crate::clock::now(),
        );
        refused.files.push((file.clone(), refusal));
        Ok(())
    }

    /// Fails or reschedules single files, each for its own reason.
    pub(super) async fn refuse(&self, refused: Refused) -> Result<(), SyncError> {
        let mut refusals: Vec<(FileId, Refusal)> = Vec::with_capacity(refused.files.len());
        for (file, refusal) in refused.files {
            super::report_failure(&file, &refusal);
            refusals.push((file.file, refusal));
        }
        if refusals.is_empty() {
            return Ok(());
        }
        self.ledger
            .put_off_stored(&refusals, crate::clock::now())
            .await?;
        // A file that failed until a time is tried by the upload stage, which has to know that time.
        self.uploads.notify_one();
        Ok(())
    }

    /// Whether the connections of our iModel contain as many source files as the platform accepts.
    async fn is_full(&self) -> Result<bool, itwin::Error> {
        let mut count = 0;
        for connection in self.client.connections(&self.imodel_id).await? {
            count += self.client.source_files(&connection.id).await?.len() as u64;
        }
        Ok(count >= source_file_limit::MAX)
    }

    /// The name of the connection of our iModel that contains a storage file.
    async fn connection_containing(
        &self,
        storage_file_id: &StorageFileId,
    ) -> Result<Option<String>, itwin::Error> {
        for connection in self.client.connections(&self.imodel_id).await? {
            let source_files = self.client.source_files(&connection.id).await?;
            if source_files
                .iter()
                .any(|one| one.storage_file_id == *storage_file_id)
            {
                return Ok(Some(connection.display_name.unwrap_or(connection.id)));
            }
        }
        Ok(None)
    }
}
