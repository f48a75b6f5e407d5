//! Finds the storage file that an upload goes to: the one of an interrupted attempt, the known one, one that is there
//! under the same name, or a new one.

use tracing::{debug, info, warn};

use super::Shared;
use super::error::UploadError;
use super::folders::{Listing, Place};
use super::plan::{self, LISTED_AFTER, NewFile, RefusedUpdate, Shown};
use super::slots::Slot;
use super::source::{self, Source};
use super::tracked_job::TrackedJob;
use super::transfer::{self, UploadTarget};
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ids::StorageFileId;
use crate::itwin::UploadLinks;
use crate::ledger::{Stage, StorageStamp, StoredContent};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::stored_content;

/// Where an upload comes from and where it goes.
pub(super) struct Route<'a> {
    pub(super) watch: &'a Watch,
    pub(super) slot: &'a Slot,
    /// The storage folder.
    pub(super) place: &'a Place,
    /// The name in it.
    pub(super) name: &'a str,
    pub(super) source: &'a Source<'a>,
}

/// Begins the description of every storage file that we create, followed by the id of the ledger, unless it is one of a
/// push, and by a marker of its own.
pub(super) const DESCRIPTION: &str = "itwin-syncd";

/// What an upload does with storage.
pub(super) enum UploadPlan {
    /// Sends the bytes.
    Upload(UploadTarget),
    /// Adopts this storage file, which was there before and holds other content, and updates it later: all other files
    /// are compared first, so that the bulk change guard sees how many differ.
    AdoptLater(StorageFileId),
    /// Sends nothing: storage holds the content already.
    Same(SameContent),
}

/// Content of the local file that storage holds already.
pub(super) struct SameContent {
    pub(super) stored: StoredContent,
    pub(super) stamp: StorageStamp,
}

impl Shared {
    /// Decides where the bytes go. May create a storage file.
    pub(super) async fn upload_plan(
        &self,
        job: &mut TrackedJob<'_>,
        route: &Route<'_>,
    ) -> Result<UploadPlan, UploadError> {
        let mut unusable = None;
        if let Some(id) = job.storage_file_id.clone() {
            if let Some(target) = self.interrupted_upload(job, &id, route.source) {
                return Ok(UploadPlan::Upload(target));
            }
            if let Some(links) = self.request_update(job, &id).await? {
                return Ok(UploadPlan::Upload(links.into()));
            }
            job.forget_storage_file().await?;
            unusable = Some(id);
        }
        let mut listing = match job.stage.0 {
            Stage::CreateSent => Listing::Fresh,
            Stage::Planned | Stage::LinksReceived | Stage::BlobWritten => Listing::Cached,
        };
        loop {
            let found = self.untracked(job, route, listing).await?;
            let now = crate::clock::now();
            let links = match plan::new_file(job.stage, found, unusable.as_ref(), now) {
                NewFile::Create => self.create(job, route).await?,
                NewFile::UploadTo(id) => match self.adopt(job, &id).await? {
                    Some(links) => links,
                    None => self.create(job, route).await?,
                },
                NewFile::AwaitListing { until } => {
                    return Err(UploadError::CreateUnknown { until, error: None });
                }
                NewFile::CompareWith(id) => {
                    match self.same_content_in_storage(job, &id, route.source).await {
                        Ok(Some(same)) => return Ok(UploadPlan::Same(same)),
                        Ok(None) => return Ok(UploadPlan::AdoptLater(id)),
                        // It was deleted since the folder was listed.
                        Err(UploadError::Platform(error))
                            if error.is_not_found() && listing == Listing::Cached =>
                        {
                            listing = Listing::Fresh;
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            return Ok(UploadPlan::Upload(links.into()));
        }
    }

    /// The URL of an upload in blocks that an earlier attempt began.
    fn interrupted_upload(
        &self,
        job: &TrackedJob<'_>,
        id: &StorageFileId,
        source: &Source<'_>,
    ) -> Option<UploadTarget> {
        if job.stage.0 != Stage::LinksReceived {
            return None;
        }
        let block_size = transfer::block_size(&self.limits, source.fingerprint().size);
        let begun = self.unfinished.find(job, block_size)?;
        Some(UploadTarget {
            file_id: id.to_owned(),
            url: begun.url,
            generation: Some(begun.generation),
        })
    }

    /// Reads a storage file and compares it with the local one. Equal: the storage file is recorded as the job's.
    pub(super) async fn same_content_in_storage(
        &self,
        job: &mut TrackedJob<'_>,
        id: &StorageFileId,
        source: &Source<'_>,
    ) -> Result<Option<SameContent>, UploadError> {
        let bytes = source.fingerprint().size;
        let file = self.client.file(id).await?;
        if file.size != Some(bytes) {
            return Ok(None);
        }
        let (mut hash, mut read) = (blake3::Hasher::new(), 0);
        let each = |chunk: &[u8]| {
            hash.update(chunk);
            read += chunk.len() as u64;
        };
        if let Err(error) = self.client.download(id, each).await {
            debug!(path = %QuotedPath(&job.path), %error, "cannot read the storage file to compare it");
            return Ok(None);
        }
        let content = source.hash().await?;
        source.rewind().await?;
        if read != bytes || *hash.finalize().as_bytes() != content.digest {
            return Ok(None);
        }
        info!(path = %QuotedPath(&job.path), storage_file = id.as_str(), "storage holds this content already");
        job.record_storage_file(id).await?;
        let version = job.version;
        Ok(Some(SameContent {
            stored: StoredContent { version, content },
            stamp: stored_content::stamp(&file),
        }))
    }

    async fn create(
        &self,
        job: &mut TrackedJob<'_>,
        route: &Route<'_>,
    ) -> Result<UploadLinks, UploadError> {
        let marker = uuid::Uuid::new_v4().simple().to_string();
        let claims = &self.claims;
        let description = claims.description(&self.ledger, route.watch, &marker);
        let description = description.await?;
        let sent = job.record_create_sent(marker).await?;
        failpoint("create intended");
        match self
            .client
            .create_file(&route.place.folder_id, route.name, &description)
            .await
        {
            Ok(links) => {
                failpoint("file created");
                job.record_storage_file(&links.file_id).await?;
                failpoint("file recorded");
                Ok(links)
            }
            Err(error) if error.may_have_taken_effect() => Err(UploadError::CreateUnknown {
                until: next_attempt::after(sent, LISTED_AFTER),
                error: Some(error),
            }),
            Err(error) => {
                job.forget_storage_file().await?;
                self.folders.refused_in(route.place, &error);
                if error.is_not_found() {
                    self.folders.forget(route.place).await?;
                    return Err(UploadError::FolderGone(error));
                }
                // Storage takes a second file of the same name, but nothing promises that it always will.
                if matches!(error.status(), Some(409 | 422))
                    && let Some(id) = self.untracked(job, route, Listing::Fresh).await?
                    && let Some(links) = self.adopt(job, &id).await?
                {
                    return Ok(links);
                }
                Err(error.into())
            }
        }
    }

    /// A storage file of this name that belongs to no other file: ours if a *create file* was executed without an
    /// answer, else one that was there before. Either way the file is known by name, and its content is updated.
    async fn untracked(
        &self,
        job: &TrackedJob<'_>,
        route: &Route<'_>,
        listing: Listing,
    ) -> Result<Option<StorageFileId>, UploadError> {
        let mut named = Vec::new();
        let found = self.folders.untracked(route.place, route.name, listing);
        for file in found.await? {
            // Another spelling belongs to the local file of that spelling, if there is one.
            if file.name == route.name {
                named.push(file.id);
            } else if !other_file_exists(job, route, &file.name).await? {
                // It may not be gone, but only not visible here.
                if self.standby.is_some() {
                    return Err(UploadError::LeftToActive);
                }
                named.push(file.id);
            }
        }
        if named.len() < 2 {
            return Ok(named.into_iter().next());
        }
        warn!(path = %QuotedPath(&job.path), count = named.len(), "storage has several files with this name; using one of them");
        if let Some(marker) = &job.marker {
            for id in &named {
                let described = self.client.file(id).await?.description;
                if described.is_some_and(|text| text.contains(marker.as_str())) {
                    return Ok(Some(id.clone()));
                }
            }
        }
        Ok(named.into_iter().next())
    }

    /// Makes an untracked storage file the job's. None: it accepts no content.
    async fn adopt(
        &self,
        job: &mut TrackedJob<'_>,
        id: &StorageFileId,
    ) -> Result<Option<UploadLinks>, UploadError> {
        info!(path = %QuotedPath(&job.path), storage_file = id.as_str(), "storage has the file already; updating its content");
        job.record_storage_file(id).await?;
        let links = self.request_update(job, id).await?;
        if links.is_none() {
            job.forget_storage_file().await?;
        }
        Ok(links)
    }

    /// Requests links to new content of a storage file. None: it is gone, or was never completed and never can be.
    async fn request_update(
        &self,
        job: &mut TrackedJob<'_>,
        id: &StorageFileId,
    ) -> Result<Option<UploadLinks>, UploadError> {
        // From here on storage may hold something else than what is known.
        job.record_restart().await?;
        let error = match self.client.update_content(id).await {
            Ok(links) => {
                failpoint("update answered");
                return Ok(Some(links));
            }
            Err(error) if error.is_not_found() => {
                info!(path = %QuotedPath(&job.path), storage_file = id.as_str(), "storage file was deleted; creating a new one");
                return Ok(None);
            }
            Err(error) if matches!(error.status(), Some(403 | 409 | 422)) => error,
            Err(error) => return Err(error.into()),
        };
        let shown = match self.client.file(id).await {
            Ok(file) if file.is_locked == Some(true) => Shown::Locked,
            Ok(file) if file.size.unwrap_or(0) == 0 => Shown::Empty,
            Ok(_) => Shown::Filled,
            Err(hidden) if hidden.is_not_found() => Shown::Hidden,
            Err(_) => Shown::Unreadable,
        };
        match plan::refused_update(error.status(), shown, job.stored.as_ref()) {
            RefusedUpdate::Locked => Err(UploadError::Locked),
            RefusedUpdate::Replace => {
                info!(
                    path = %QuotedPath(&job.path), storage_file = id.as_str(),
                    "storage file was never completed and accepts no content; creating a new one"
                );
                Ok(None)
            }
            RefusedUpdate::Fail => Err(error.into()),
        }
    }
}

/// Whether the folder of the local file holds another file named `name`. A share that ignores case shows the same file.
async fn other_file_exists(
    job: &TrackedJob<'_>,
    route: &Route<'_>,
    name: &str,
) -> Result<bool, UploadError> {
    let path = job.path.with_file_name(name);
    match Source::open(route.slot, &route.watch.path, &path).await {
        Ok(other) => Ok(other.fingerprint() != route.source.fingerprint()),
        Err(source::Error::Gone) => Ok(false),
        Err(error @ (source::Error::Hangs | source::Error::Stuck)) => Err(error.into()),
        Err(source::Error::Changed | source::Error::Unreadable(_)) => Ok(true),
    }
}
