//! Gives the storage file of a renamed or moved file its new name and folder.
//!
//! In: a job whose record moved to a new path. Out: storage and record agree again, or the reason why storage keeps the
//! old name. The state of storage is read first, and only what differs is changed, so an attempt that was interrupted
//! anywhere is repeated as it is. Id, content and source file stay, so nothing is uploaded and no run is needed.
//!
//! Both requests change the time of the storage file, by which changes by others are found. So it is compared before
//! the first request, and recorded anew after the last.

use tracing::{info, warn};

use super::Shared;
use super::error::UploadError;
use super::folders::Place;
use super::tracked_job::TrackedJob;
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::itwin::{self, File};
use crate::ledger::{Relocation, StorageStamp};
use crate::names::QuotedPath;
use crate::retry::Class;
use crate::stored_content::{self, Content};

/// After this many attempts, a conflict is about the name.
const CONFLICTS: u32 = 3;

impl Shared {
    /// Renames and moves the storage file of the job, as far as it differs from `name` in the folder `below` that of
    /// the watch.
    pub(super) async fn relocate(
        &self,
        watch: &Watch,
        job: &mut TrackedJob<'_>,
        below: &[String],
        name: &str,
    ) -> Result<(), UploadError> {
        let (Some(id), Some(relocation)) = (job.storage_file_id.clone(), job.relocation) else {
            return Ok(());
        };
        let place = self.folders.place(watch, below).await?;
        let before = match self.client.file(&id).await {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(job.forget_storage_file().await?),
            Err(error) => return Err(error.into()),
        };
        let bytes = job.stored.as_ref().map_or(0, |stored| stored.content.bytes);
        let content = content(relocation, bytes, &job.stamp, &before);
        if let Content::Changed { by, at } = &content {
            stored_content::warn_changed(&watch.name, &job.path, by.as_deref(), at.as_deref());
        }
        job.record_relocation_sent(&content).await?;
        failpoint("relocation recorded");
        let mut refused = None;
        if before.display_name != name {
            match self.client.rename_file(&id, name).await {
                Ok(_) => failpoint("storage file renamed"),
                Err(error) => refused = Some(refusal(error, job.attempt)?),
            }
        }
        if !is_in(&before, &place) {
            match self.client.move_file(&id, &place.folder_id).await {
                Ok(_) => failpoint("storage file moved"),
                Err(error) if error.is_not_found() => {
                    self.folders.forget(&place).await?;
                    return Err(UploadError::FolderGone(error));
                }
                Err(error) => refused = Some(refusal(error, job.attempt)?),
            }
        }
        // What storage says now counts, not what the answers said.
        let now = self.client.file(&id).await?;
        let kept = kept(&now, name, &place, refused.as_ref());
        let path = QuotedPath(&job.path);
        match &kept {
            None => {
                info!(watch = %watch.name, %path, storage_file = id.as_str(), "storage file moved to the new name and folder; nothing was uploaded");
            }
            Some(kept) => {
                warn!(watch = %watch.name, %path, storage_file = id.as_str(), reason = kept, "storage file cannot be renamed to match; content and iModel are not affected");
            }
        }
        let stamp = stored_content::stamp(&now);
        job.finish_relocation(stamp, kept.as_deref()).await?;
        failpoint("relocation finished");
        Ok(())
    }
}

/// Whether storage has our content. After a request of ours, its time says nothing, and its author must be the same.
fn content(relocation: Relocation, bytes: u64, stamp: &StorageStamp, seen: &File) -> Content {
    let found = stored_content::compare(bytes, stamp, seen);
    let same_author = seen.modified_by.is_some() && seen.modified_by == stamp.modified_by;
    match relocation {
        Relocation::Sent if same_author && seen.size == Some(bytes) => Content::Ours,
        Relocation::Intended | Relocation::Sent => found,
    }
}

/// Storage does not accept this name here: the file keeps what it has. Other errors are tried again, and so are the
/// first conflicts, as they may be about something that passes.
fn refusal(error: itwin::Error, attempt: u32) -> Result<itwin::Error, UploadError> {
    let is_final = match error.status() {
        Some(400 | 422) => error.class() == Class::RefusedForContent,
        Some(409) => attempt >= CONFLICTS,
        _ => false,
    };
    if is_final {
        Ok(error)
    } else {
        Err(error.into())
    }
}

/// Whether the file is in this folder; false if storage does not say it.
fn is_in(file: &File, place: &Place) -> bool {
    file.parent_folder_id.as_deref() == Some(&place.folder_id)
}

/// What differs from what the file should have, and why.
fn kept(now: &File, name: &str, place: &Place, refused: Option<&itwin::Error>) -> Option<String> {
    let what = if now.display_name != name {
        format!("in storage still called {:?}", now.display_name)
    } else if now.parent_folder_id.is_some() && !is_in(now, place) {
        "in storage still in its old folder".to_owned()
    } else {
        return None;
    };
    Some(match refused {
        Some(error) => format!("{what}: {error}"),
        None => what,
    })
}
