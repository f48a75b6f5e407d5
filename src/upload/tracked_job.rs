//! The job of one attempt, kept equal to its rows in the ledger.
//!
//! Every checkpoint of an attempt is a method here: it writes the ledger first and then applies the same change to the
//! copy in memory, so no other place has to know which columns a checkpoint touches.

use std::ops::Deref;

use jiff::Timestamp;

use crate::clock;
use crate::ids::StorageFileId;
use crate::ledger::{
    BulkChange, Content, Error, Ledger, Occupant, Relocation, Stage, StorageStamp, StoredContent,
    UploadJob, UploadResult,
};
use crate::stored_content;

/// A claimed job and the ledger that holds it.
pub(super) struct TrackedJob<'a> {
    ledger: &'a Ledger,
    job: UploadJob,
}

impl Deref for TrackedJob<'_> {
    type Target = UploadJob;

    fn deref(&self) -> &UploadJob {
        &self.job
    }
}

impl<'a> TrackedJob<'a> {
    pub(super) fn new(ledger: &'a Ledger, job: UploadJob) -> Self {
        Self { ledger, job }
    }

    /// Before *create file* is sent with `marker` in the description. Returns the time of the checkpoint.
    pub(super) async fn record_create_sent(&mut self, marker: String) -> Result<Timestamp, Error> {
        let now = clock::now();
        self.ledger
            .record_create_sent(&self.job, &marker, now)
            .await?;
        self.job.stage = (Stage::CreateSent, now);
        self.job.marker = Some(marker);
        Ok(now)
    }

    /// The storage file is known; no byte has been sent to it yet.
    pub(super) async fn record_storage_file(&mut self, id: &StorageFileId) -> Result<(), Error> {
        let now = clock::now();
        self.ledger.record_storage_file(&self.job, id, now).await?;
        self.job.storage_file_id = Some(id.to_owned());
        self.job.stage = (Stage::LinksReceived, now);
        self.job.marker = None;
        Ok(())
    }

    /// The storage file is gone or unusable: everything known of it is void.
    pub(super) async fn forget_storage_file(&mut self) -> Result<(), Error> {
        self.ledger.forget_storage_file(self.job.file).await?;
        self.void_storage_file();
        Ok(())
    }

    fn void_storage_file(&mut self) {
        self.job.storage_file_id = None;
        self.job.stored = None;
        self.job.stamp = StorageStamp::default();
        self.job.unverified = false;
        self.job.relocation = None;
        self.job.send_again = false;
        self.job.stage = (Stage::Planned, Timestamp::UNIX_EPOCH);
        self.job.marker = None;
        self.job.written = None;
    }

    /// The storage file is back from the recycle bin, and has this stamp.
    pub(super) async fn record_restored(&mut self, stamp: StorageStamp) -> Result<(), Error> {
        self.ledger
            .record_restored(self.job.file, &stamp, clock::now())
            .await?;
        self.job.withdrawal = None;
        self.job.stamp = stamp;
        Ok(())
    }

    /// The storage file cannot be had back: everything known of it is void.
    pub(super) async fn record_not_restored(&mut self, reason: &str) -> Result<(), Error> {
        self.ledger
            .record_not_restored(self.job.file, reason, clock::now())
            .await?;
        self.job.withdrawal = None;
        self.void_storage_file();
        Ok(())
    }

    /// The upload starts again: bytes written before no longer count, and storage may hold anything from here on.
    pub(super) async fn record_restart(&mut self) -> Result<(), Error> {
        let now = clock::now();
        self.ledger.record_restart(&self.job, now).await?;
        self.job.stage = (Stage::LinksReceived, now);
        self.job.written = None;
        Ok(())
    }

    /// Storage has acknowledged all bytes of `content`; *complete* has not been sent.
    pub(super) async fn record_blob_written(&mut self, content: &Content) -> Result<(), Error> {
        let now = clock::now();
        self.ledger
            .record_blob_written(&self.job, content, now)
            .await?;
        self.job.stage = (Stage::BlobWritten, now);
        self.job.written = Some(StoredContent {
            version: self.job.version,
            content: content.clone(),
        });
        Ok(())
    }

    /// Storage holds other content than what was completed. Only this attempt needs to know: the next one finds out
    /// again.
    pub(super) fn mark_unverified(&mut self) {
        self.job.unverified = true;
    }

    /// Reserves the file's place in storage. Returns the file that has it already, if there is one.
    pub(super) async fn take_place(&self, key: &[u8; 16]) -> Result<Option<Occupant>, Error> {
        self.ledger.take_place(&self.job, key).await
    }

    /// Takes over place, storage file and source file of a deleted file. False: that file's upload or run has not
    /// ended.
    pub(super) async fn inherit(&mut self, gone: &Occupant) -> Result<bool, Error> {
        self.ledger.inherit(&mut self.job, gone).await
    }

    /// Before a request that changes name or folder of the storage file. `has` is what storage has until then.
    pub(super) async fn record_relocation_sent(
        &mut self,
        has: &stored_content::Content,
    ) -> Result<(), Error> {
        let is_ours = *has == stored_content::Content::Ours;
        self.ledger
            .record_relocation_sent(&self.job, !is_ours)
            .await?;
        self.job.relocation = Some(Relocation::Sent);
        self.job.unverified |= !is_ours;
        Ok(())
    }

    /// The storage file is where it should be, and now has this stamp; `kept` says what storage refused to change.
    pub(super) async fn finish_relocation(
        &mut self,
        stamp: StorageStamp,
        kept: Option<&str>,
    ) -> Result<(), Error> {
        self.ledger
            .finish_relocation(&self.job, &stamp, kept, clock::now())
            .await?;
        self.job.relocation = None;
        self.job.stamp = stamp;
        Ok(())
    }

    /// Ends the attempt: `stored` is complete in storage.
    pub(super) async fn finish_stored(
        &self,
        stored: &StoredContent,
        stamp: &StorageStamp,
    ) -> Result<UploadResult, Error> {
        self.ledger
            .finish_stored(&self.job, stored, stamp, clock::now())
            .await
    }

    /// Ends the attempt: storage has `stored` already, though not as our version.
    pub(super) async fn finish_same_content(
        &self,
        stored: &StoredContent,
        stamp: &StorageStamp,
    ) -> Result<UploadResult, Error> {
        self.ledger
            .finish_same_content(&self.job, stored, stamp, clock::now())
            .await
    }

    /// Ends the attempt: storage holds this content already.
    pub(super) async fn finish_unchanged(&self) -> Result<UploadResult, Error> {
        self.ledger.finish_unchanged(&self.job, clock::now()).await
    }

    /// Ends the attempt: the configuration no longer selects the file.
    pub(super) async fn finish_deselected(&self) -> Result<(), Error> {
        self.ledger.finish_deselected(&self.job, clock::now()).await
    }

    /// Ends the attempt: the job is due again at `due`, with a storage file that holds other content.
    pub(super) async fn adopt(
        &self,
        storage_file_id: &StorageFileId,
        due: Timestamp,
    ) -> Result<Option<BulkChange>, Error> {
        self.ledger
            .adopt(&self.job, storage_file_id, due, clock::now())
            .await
    }
}
