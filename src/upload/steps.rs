//! The steps that bring one version of one file to storage, in their order, each with its checkpoint.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::Shared;
use super::folders::{Listing, Place};
use super::slots::Slot;
use super::source::{self, Source};
use super::transfer::{self, Way};
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::itwin::{self, UploadLinks};
use crate::ledger::{
    self, FailureKind, Refusal, Stage, StorageStamp, StoredContent, UploadJob, UploadResult,
};
use crate::names::{self, Shown, Unstorable};
use crate::next_attempt::{self, Failure, History};
use crate::retry::Class;
use crate::stored_content::{self, Content};

/// After a *create file* without an answer, storage may take this long to list the file.
const LISTED_AFTER: Duration = Duration::from_secs(10);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    Stored {
        bytes: u64,
        result: UploadResult,
    },
    Unchanged(UploadResult),
    Vanished,
    /// The configuration no longer selects the file.
    Deselected,
    /// Storage has a file of this name with other content, which is updated when all others were compared.
    Adopted {
        braked: Option<ledger::BulkChange>,
    },
    Refused(Refusal),
}

/// Where an upload goes.
enum Target {
    Upload(Way),
    /// To this storage file, which was there before and holds something else; but first all other files are compared,
    /// so that the brake sees how many of them differ.
    LaterOf(String),
    /// Nowhere: storage holds the content already.
    Held(Held),
}

/// Content of the local file that storage holds already.
struct Held {
    stored: StoredContent,
    stamp: StorageStamp,
}

/// What got in the way of an attempt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error("{0}")]
    Source(#[from] source::Error),
    #[error("{0}")]
    Name(#[from] Unstorable),
    #[error(transparent)]
    TooSlow(#[from] transfer::TooSlow),
    #[error("it is not as it was when it was finished")]
    NotSettled,
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes, and iTwin Storage takes {limit} at most")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("watch {other:?} stores into the same folder of the same iTwin")]
    SharedFolder { other: String },
    #[error("the iModel {imodel} is not ready (state {state:?})")]
    NotInitialized { imodel: String, state: String },
    #[error("whether storage created the file is not known yet{}", after_colon(error.as_ref()))]
    CreateUnknown {
        until: Timestamp,
        /// What came instead of an answer; none when that was before a restart.
        error: Option<itwin::Error>,
    },
    #[error("its folder is gone from storage")]
    FolderGone(#[source] itwin::Error),
    #[error("storage reports {stored} bytes after {sent} were sent")]
    SizeDiffers { sent: u64, stored: u64 },
    #[error("storage may not tell its name from that of {}", Shown(other))]
    Twin { other: PathBuf },
    #[error(
        "what storage has under its name still belongs to {}, which is gone",
        Shown(other)
    )]
    Predecessor { other: PathBuf },
    #[error("somebody has locked the file in iTwin Storage")]
    Locked,
    #[error("storage did not complete the upload, which starts over")]
    NotCompleted(#[source] itwin::Error),
}

fn after_colon(error: Option<&itwin::Error>) -> String {
    error.map_or_else(String::new, |error| format!(": {error}"))
}

impl From<UploadLinks> for Way {
    fn from(links: UploadLinks) -> Self {
        Self {
            file_id: links.file_id,
            url: links.upload_url,
            generation: None,
        }
    }
}

/// Whether the watch, as it is configured now, takes the file.
fn selects(watch: &Watch, path: &std::path::Path) -> bool {
    let inside = path.parent().is_some_and(|dir| !dir.as_os_str().is_empty());
    (watch.recursive || !inside) && watch.selection.decide(path).connector().is_some()
}

impl Shared {
    /// Brings the job as far as it goes and records where that is.
    pub(super) async fn bring(
        &self,
        watch: &Watch,
        job: &UploadJob,
        slot: &Slot,
    ) -> Result<End, ledger::Error> {
        let trouble = match self.attempt(watch, job, slot).await {
            Ok(end) => return Ok(end),
            Err(Trouble::Ledger(error)) => return Err(error),
            Err(Trouble::Source(source::Error::Gone)) => {
                self.ledger
                    .finish_vanished(job, crate::clock::now())
                    .await?;
                return Ok(End::Vanished);
            }
            Err(trouble) => trouble,
        };
        let now = crate::clock::now();
        if matches!(trouble, Trouble::Source(source::Error::Hangs)) {
            let until = next_attempt::after(now, watch.poll_interval);
            self.ledger
                .hold_watch(job.watch, until, &trouble.to_string(), now)
                .await?;
        }
        let refusal = self.refusal(watch, job, &trouble, now);
        if refusal.kind == FailureKind::Credentials {
            // Every other job would fail in the same way: one of them tries again after the pause, for all.
            let until = next_attempt::after(now, self.policy.max);
            self.ledger
                .hold_watch(job.watch, until, &refusal.reason, now)
                .await?;
        }
        self.ledger.put_off(job, &refusal, now).await?;
        Ok(End::Refused(refusal))
    }

    fn refusal(
        &self,
        watch: &Watch,
        job: &UploadJob,
        trouble: &Trouble,
        now: Timestamp,
    ) -> Refusal {
        let class = match trouble {
            Trouble::Platform(error) => error.class(),
            Trouble::Source(source::Error::Hangs) => Class::Transient {
                floor: Some(watch.poll_interval),
            },
            Trouble::Source(_) | Trouble::NotSettled | Trouble::Predecessor { .. } => Class::Busy,
            Trouble::Name(_) | Trouble::Empty | Trouble::TooLarge { .. } => {
                Class::RefusedForContent
            }
            Trouble::SharedFolder { .. } | Trouble::Twin { .. } | Trouble::Locked => {
                Class::RefusedForAll
            }
            Trouble::CreateUnknown { until, .. } => Class::Transient {
                floor: Some(until.duration_since(now).unsigned_abs()),
            },
            Trouble::NotInitialized { .. }
            | Trouble::TooSlow(_)
            | Trouble::FolderGone(_)
            | Trouble::SizeDiffers { .. }
            | Trouble::NotCompleted(_)
            | Trouble::Ledger(_) => Class::Transient { floor: None },
        };
        let hint = match trouble {
            Trouble::Platform(error)
            | Trouble::CreateUnknown {
                error: Some(error), ..
            } => error.hint(),
            Trouble::Name(_) => Some("rename the file or folder".to_owned()),
            Trouble::Empty => Some("save the file again with content, or exclude it".to_owned()),
            Trouble::TooLarge { .. } => Some("split the file, or exclude it".to_owned()),
            Trouble::SharedFolder { .. } => {
                Some("give each of the two watches its own storage_folder".to_owned())
            }
            Trouble::Twin { .. } => Some("rename one of the two".to_owned()),
            Trouble::Locked => Some("unlock it there".to_owned()),
            Trouble::TooSlow(_) => Some(transfer::TooSlow::hint()),
            _ => None,
        };
        let failure = Failure {
            class,
            reason: format!("cannot upload {}: {trouble}", Shown(&job.path)),
            hint,
        };
        let history = History {
            attempt: job.attempt,
            failing_since: job.failing_since,
        };
        next_attempt::refusal(failure, history, &self.policy, self.give_up, now)
    }

    async fn attempt(&self, watch: &Watch, job: &UploadJob, slot: &Slot) -> Result<End, Trouble> {
        // A failure must not outlive its cause: first whether there is still something to do.
        if !selects(watch, &job.path) {
            self.ledger
                .finish_deselected(job, crate::clock::now())
                .await?;
            return Ok(End::Deselected);
        }
        let source = Source::open(slot, &watch.path, &job.path).await?;
        let (below, name) = names::storage_path(&job.path)?;
        let mut job = job.clone();
        let nothing_new = !job.send_again
            && job
                .stored
                .as_ref()
                .is_some_and(|stored| stored.version == job.version);
        if nothing_new {
            match self.look_in_storage(watch, &mut job).await? {
                Content::Ours => {
                    return Ok(End::Unchanged(
                        self.ledger
                            .finish_unchanged(&job, crate::clock::now())
                            .await?,
                    ));
                }
                Content::Changed { .. } => job.unverified = true,
                Content::Missing => {}
            }
        } else if let Some(end) = self.complete_interrupted(&job).await? {
            return Ok(end);
        }
        let bytes = source.fingerprint().size;
        if job.fingerprint != Some(source.fingerprint()) {
            return Err(Trouble::NotSettled);
        }
        if bytes == 0 {
            return Err(Trouble::Empty);
        }
        let limit = transfer::size_limit(&self.limits);
        if bytes > limit {
            return Err(Trouble::TooLarge { bytes, limit });
        }
        if self.is_unchanged(watch, &mut job, &source).await? {
            return Ok(End::Unchanged(
                self.ledger
                    .finish_unchanged(&job, crate::clock::now())
                    .await?,
            ));
        }
        if job.unverified
            && !job.send_again
            && job.stage.0 == Stage::Planned
            && let Some(id) = job.storage_file_id.clone()
            && let Some(held) = self.held(&mut job, &id, &source).await?
        {
            return self.finish_held(&job, held).await;
        }
        if job.storage_file_id.is_none() {
            self.take_place(watch, &mut job, &names::place(&below, &name), slot)
                .await?;
        }
        let place = self.folders.place(watch, &below).await?;
        let way = match self.way(&mut job, &place, &name, &source).await? {
            Target::Upload(way) => way,
            Target::LaterOf(id) => {
                let now = crate::clock::now();
                let due = match job.attempt {
                    1 => now,
                    attempt => next_attempt::after(now, self.policy.delay(attempt, None)),
                };
                let braked = self.ledger.adopt(&job, &id, due, now).await?;
                return Ok(End::Adopted { braked });
            }
            Target::Held(held) => return self.finish_held(&job, held).await,
        };
        let progress = self.live.upload(&watch.name, &job.path, bytes, job.attempt);
        let content = transfer::send(self, &job, &source, way, &progress).await?;
        progress.done();
        failpoint("bytes sent");
        // What fits into one request is sent again as soon as this is written down.
        if bytes > self.limits.block_size {
            self.ledger
                .record_blob_written(&job, &content, crate::clock::now())
                .await?;
        }
        failpoint("bytes recorded");
        self.complete(
            &job,
            StoredContent {
                version: job.version,
                content,
            },
        )
        .await
    }

    /// Goes on where a process was killed between the last byte and the answer to *complete*.
    ///
    /// None: there is nothing to go on with, or it turned out not to hold; the upload starts over.
    async fn complete_interrupted(&self, job: &UploadJob) -> Result<Option<End>, Trouble> {
        let Some(written) = job
            .written
            .clone()
            .filter(|_| job.stage.0 == Stage::BlobWritten)
        else {
            return Ok(None);
        };
        if written.version != job.version {
            return Ok(None);
        }
        match self.complete(job, written).await {
            Ok(end) => Ok(Some(end)),
            Err(Trouble::SizeDiffers { .. } | Trouble::NotCompleted(_)) => Ok(None),
            Err(Trouble::Platform(error))
                if error
                    .status()
                    .is_some_and(|status| (400..500).contains(&status)) =>
            {
                debug!(path = %Shown(&job.path), %error, "the interrupted upload cannot be completed; starting over");
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Makes sure that no other local file belongs to the same place in storage. One that is gone by now, as after a
    /// rename that changed nothing but case, leaves its storage file to this one.
    async fn take_place(
        &self,
        watch: &Watch,
        job: &mut UploadJob,
        place: &[u8; 32],
        slot: &Slot,
    ) -> Result<(), Trouble> {
        let Some(other) = self.ledger.take_place(job, place).await? else {
            return Ok(());
        };
        match Source::open(slot, &watch.path, &other.path).await {
            Err(source::Error::Gone) => {}
            Err(error @ (source::Error::Hangs | source::Error::Stuck)) => return Err(error.into()),
            _ => return Err(Trouble::Twin { other: other.path }),
        }
        if !self.ledger.inherit(job, &other).await? {
            return Err(Trouble::Predecessor { other: other.path });
        }
        info!(path = %Shown(&job.path), gone = %Shown(&other.path), "takes the place of a file that is gone");
        Ok(())
    }

    /// Whether the file holds just what storage holds. Reads it only if its size says that it might.
    async fn is_unchanged(
        &self,
        watch: &Watch,
        job: &mut UploadJob,
        source: &Source<'_>,
    ) -> Result<bool, Trouble> {
        // An upload that was begun may have replaced what storage held.
        if job.stage.0 != Stage::Planned || job.send_again {
            return Ok(false);
        }
        let (Some(stored), Some(id)) = (job.stored.clone(), job.storage_file_id.clone()) else {
            return Ok(false);
        };
        if stored.content.bytes != source.fingerprint().size {
            return Ok(false);
        }
        let content = source.hash().await?;
        source.rewind().await?;
        if content != stored.content {
            return Ok(false);
        }
        if job.unverified {
            return Ok(false);
        }
        job.storage_file_id = Some(id);
        match self.look_in_storage(watch, job).await? {
            Content::Ours => Ok(true),
            Content::Changed { .. } => {
                job.unverified = true;
                Ok(false)
            }
            Content::Missing => Ok(false),
        }
    }

    /// What storage holds of the content that was completed last; a storage file that is gone is forgotten.
    async fn look_in_storage(
        &self,
        watch: &Watch,
        job: &mut UploadJob,
    ) -> Result<Content, Trouble> {
        let (Some(stored), Some(id)) = (&job.stored, &job.storage_file_id) else {
            return Ok(Content::Missing);
        };
        match self.client.file(id).await {
            Ok(_) if job.unverified => Ok(Content::Changed { by: None, at: None }),
            Ok(file) => {
                let found = stored_content::compare(stored.content.bytes, &job.stamp, &file);
                if let Content::Changed { by, at } = &found {
                    stored_content::warn_changed(
                        &watch.name,
                        &job.path,
                        by.as_deref(),
                        at.as_deref(),
                    );
                }
                Ok(found)
            }
            Err(error) if error.is_not_found() => {
                self.forget(job).await?;
                Ok(Content::Missing)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn finish_held(&self, job: &UploadJob, held: Held) -> Result<End, Trouble> {
        let now = crate::clock::now();
        let result = self
            .ledger
            .finish_stored(job, &held.stored, &held.stamp, now)
            .await?;
        Ok(End::Unchanged(result))
    }

    /// Where to upload to: on with what an earlier attempt began, or to the known storage file, to one that is there by
    /// this name, or to a new one.
    async fn way(
        &self,
        job: &mut UploadJob,
        place: &Place,
        name: &str,
        source: &Source<'_>,
    ) -> Result<Target, Trouble> {
        let mut unusable = None;
        if let Some(id) = job.storage_file_id.clone() {
            if job.stage.0 == Stage::LinksReceived
                && let Some(begun) = self.unfinished.find(
                    job,
                    transfer::block_size(self.limits.block_size, source.fingerprint().size),
                )
            {
                return Ok(Target::Upload(Way {
                    file_id: id,
                    url: begun.url,
                    generation: Some(begun.generation),
                }));
            }
            if let Some(links) = self.update(job, &id).await? {
                return Ok(Target::Upload(links.into()));
            }
            self.forget(job).await?;
            unusable = Some(id);
        }
        let (stage, sent) = job.stage;
        let unanswered = stage == Stage::CreateSent;
        let mut listing = if unanswered {
            Listing::Fresh
        } else {
            Listing::Cached
        };
        loop {
            let Some(id) = self.untracked(job, place, name, listing).await? else {
                break;
            };
            // One that was refused just now is refused again: only a new file can help.
            if unusable.as_ref() == Some(&id) {
                break;
            }
            if unanswered {
                let links = match self.adopt(job, &id).await? {
                    Some(links) => links,
                    None => self.create(job, place, name).await?,
                };
                return Ok(Target::Upload(links.into()));
            }
            // Nothing is known of it: a ledger that got lost must not make everything be uploaded anew.
            match self.held(job, &id, source).await {
                Ok(Some(held)) => return Ok(Target::Held(held)),
                Ok(None) => return Ok(Target::LaterOf(id)),
                // It was deleted since the folder was listed.
                Err(Trouble::Platform(error))
                    if error.is_not_found() && listing == Listing::Cached =>
                {
                    listing = Listing::Fresh;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let now = crate::clock::now();
        let until = next_attempt::after(sent, LISTED_AFTER);
        // Further ahead it was sent by a clock that was ahead: nobody waits for that to come.
        let sent_ahead = sent > next_attempt::after(now, LISTED_AFTER);
        if unanswered && unusable.is_none() && now < until && !sent_ahead {
            return Err(Trouble::CreateUnknown { until, error: None });
        }
        Ok(Target::Upload(self.create(job, place, name).await?.into()))
    }

    /// What a storage file holds that was there before, if it is just what the local file holds.
    async fn held(
        &self,
        job: &mut UploadJob,
        id: &str,
        source: &Source<'_>,
    ) -> Result<Option<Held>, Trouble> {
        let bytes = source.fingerprint().size;
        let file = self.client.file(id).await?;
        if file.size != Some(bytes) {
            return Ok(None);
        }
        let (mut hash, mut read) = (blake3::Hasher::new(), 0);
        let each = |piece: &[u8]| {
            hash.update(piece);
            read += piece.len() as u64;
        };
        if let Err(error) = self.client.download(id, each).await {
            debug!(path = %Shown(&job.path), %error, "cannot compare with what storage holds");
            return Ok(None);
        }
        let content = source.hash().await?;
        source.rewind().await?;
        if read != bytes || *hash.finalize().as_bytes() != content.digest {
            return Ok(None);
        }
        info!(path = %Shown(&job.path), storage_file = id, "storage holds this content already");
        self.ledger
            .record_storage_file(job, id, crate::clock::now())
            .await?;
        job.storage_file_id = Some(id.to_owned());
        Ok(Some(Held {
            stored: StoredContent {
                version: job.version,
                content,
            },
            stamp: stored_content::stamp(&file),
        }))
    }

    async fn create(
        &self,
        job: &mut UploadJob,
        place: &Place,
        name: &str,
    ) -> Result<UploadLinks, Trouble> {
        let marker = uuid::Uuid::new_v4().simple().to_string();
        let now = crate::clock::now();
        self.ledger.record_create_sent(job, &marker, now).await?;
        job.stage = (Stage::CreateSent, now);
        failpoint("create intended");
        let description = format!("{DESCRIPTION} {marker}");
        job.marker = Some(marker);
        match self
            .client
            .create_file(&place.folder_id, name, &description)
            .await
        {
            Ok(links) => {
                failpoint("file created");
                self.ledger
                    .record_storage_file(job, &links.file_id, crate::clock::now())
                    .await?;
                job.storage_file_id = Some(links.file_id.clone());
                failpoint("file recorded");
                Ok(links)
            }
            Err(error) if error.may_have_taken_effect() => Err(Trouble::CreateUnknown {
                until: next_attempt::after(now, LISTED_AFTER),
                error: Some(error),
            }),
            Err(error) => {
                self.ledger.forget_storage_file(job.file).await?;
                if error.is_not_found() {
                    self.folders.forget(place).await?;
                    return Err(Trouble::FolderGone(error));
                }
                // Storage takes a second file of the same name, but nothing promises that it always will.
                if matches!(error.status(), Some(409 | 422))
                    && let Some(id) = self.untracked(job, place, name, Listing::Fresh).await?
                    && let Some(links) = self.adopt(job, &id).await?
                {
                    return Ok(links);
                }
                Err(error.into())
            }
        }
    }

    /// A storage file of this name that is nobody's: ours if a *create file* was executed without an answer, else one
    /// that was there before. Either way the file is known by name, and its content is updated.
    async fn untracked(
        &self,
        job: &UploadJob,
        place: &Place,
        name: &str,
        listing: Listing,
    ) -> Result<Option<String>, Trouble> {
        let named = self
            .folders
            .untracked(&place.folder_id, name, listing)
            .await?;
        if named.len() < 2 {
            return Ok(named.into_iter().next());
        }
        warn!(path = %Shown(&job.path), count = named.len(), "storage has several files of this name; using one of them");
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

    /// Takes a file that is there already for ours. None: it cannot be given content.
    async fn adopt(&self, job: &mut UploadJob, id: &str) -> Result<Option<UploadLinks>, Trouble> {
        info!(path = %Shown(&job.path), storage_file = id, "storage has the file already; updating its content");
        self.ledger
            .record_storage_file(job, id, crate::clock::now())
            .await?;
        job.storage_file_id = Some(id.to_owned());
        let links = self.update(job, id).await?;
        if links.is_none() {
            self.forget(job).await?;
        }
        Ok(links)
    }

    /// Links to new content of a known storage file. None: it is gone, or was never completed and never can be.
    async fn update(&self, job: &UploadJob, id: &str) -> Result<Option<UploadLinks>, Trouble> {
        // From here on storage may hold something else than what is known.
        self.ledger.record_restart(job, crate::clock::now()).await?;
        let error = match self.client.update_content(id).await {
            Ok(links) => {
                failpoint("update answered");
                return Ok(Some(links));
            }
            Err(error) if error.is_not_found() => {
                info!(path = %Shown(&job.path), "the file is gone from storage; storing it as a new one");
                return Ok(None);
            }
            Err(error) if matches!(error.status(), Some(403 | 409 | 422)) => error,
            Err(error) => return Err(error.into()),
        };
        // The file itself tells why.
        match self.client.file(id).await {
            Ok(file) if file.is_locked == Some(true) => Err(Trouble::Locked),
            Ok(file)
                if job.stored.is_none()
                    && file.size.unwrap_or(0) == 0
                    && error.status() != Some(403) =>
            {
                info!(path = %Shown(&job.path), storage_file = id, "the file was never completed and takes no content; storing a new one");
                Ok(None)
            }
            // Storage does not show it before it was completed, and takes no content for it.
            Err(hidden)
                if job.stored.is_none() && hidden.is_not_found() && error.status() != Some(403) =>
            {
                info!(path = %Shown(&job.path), storage_file = id, "the file was never completed and takes no content; storing a new one");
                Ok(None)
            }
            _ => Err(error.into()),
        }
    }

    async fn forget(&self, job: &mut UploadJob) -> Result<(), Trouble> {
        self.ledger.forget_storage_file(job.file).await?;
        job.storage_file_id = None;
        job.stored = None;
        job.stage = (Stage::Planned, Timestamp::UNIX_EPOCH);
        Ok(())
    }

    /// The confirmation that makes the new content count, and the check of what storage then says it holds.
    async fn complete(&self, job: &UploadJob, stored: StoredContent) -> Result<End, Trouble> {
        let Some(id) = &job.storage_file_id else {
            return Err(Trouble::NotSettled);
        };
        let sent = stored.content.bytes;
        let file = match self.client.complete(id).await {
            Ok(file) => file,
            // A repeat of a *complete* whose answer was lost may be refused: the file itself tells, unless it had this
            // size before.
            Err(error) if matches!(error.status(), Some(400 | 409 | 422)) => {
                let before = job.stored.as_ref().map(|stored| stored.content.bytes);
                let file = self.client.file(id).await?;
                if file.size != Some(sent) || before == Some(sent) {
                    self.ledger.record_restart(job, crate::clock::now()).await?;
                    return Err(Trouble::NotCompleted(error));
                }
                file
            }
            Err(error) => return Err(error.into()),
        };
        if file.size != Some(sent) {
            self.ledger.record_restart(job, crate::clock::now()).await?;
            return Err(Trouble::SizeDiffers {
                sent,
                stored: file.size.unwrap_or(0),
            });
        }
        failpoint("completed");
        let result = self
            .ledger
            .finish_stored(
                job,
                &stored,
                &stored_content::stamp(&file),
                crate::clock::now(),
            )
            .await?;
        failpoint("stored");
        Ok(End::Stored {
            bytes: sent,
            result,
        })
    }
}

/// Begins the description of every storage file that we create, followed by a marker of its own.
const DESCRIPTION: &str = "itwin-syncd";
