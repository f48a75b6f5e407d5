//! Removes source files from other connections of the iModel, of files that belong in this one: they moved here from
//! another watch, their watch got another connection, or their connector type changed and has a connection of its own.
//!
//! The platform has no request that moves a source file, so it is removed there before it is added here: a file in two
//! connections would be in the iModel twice. Storage files are never touched.

use std::collections::HashSet;

use tracing::{debug, info};

use super::connection::concerns_a_file;
use super::{SyncError, Synchronizer};
use crate::failpoint::failpoint;
use crate::ledger::{ConnectionRecord, FileId};
use crate::names::QuotedPath;

impl Synchronizer {
    /// Removes them, and returns the files for which that was refused: they stay where they are for now.
    pub(super) async fn remove_displaced(
        &self,
        connection: &ConnectionRecord,
    ) -> Result<HashSet<FileId>, SyncError> {
        let mut refused = HashSet::new();
        for one in self.ledger.displaced(connection.id).await? {
            let path = QuotedPath(&one.path);
            if let Some(other) = &one.connection {
                let removed = self.client.remove_source_file(other, &one.source_file_id);
                match removed.await {
                    Ok(()) => {
                        failpoint("displaced source file removed");
                        info!(
                            watch = one.watch, %path, connection = connection.name,
                            "source file removed from another connection: the file belongs in this one now"
                        );
                    }
                    Err(error) if concerns_a_file(&error) => {
                        debug!(watch = one.watch, %path, %error, "source file not removed from another connection");
                        refused.insert(one.file);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let now = crate::clock::now();
            self.ledger.record_displaced_removed(one.file, now).await?;
        }
        Ok(refused)
    }
}
