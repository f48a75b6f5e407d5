//! Does the steps of an upload that `plan` decides, each with its checkpoint.
//!
//! In: a claimed job. Out: its outcome, recorded in the ledger. A checkpoint is written before each request whose
//! effect could be lost with its answer, so a process that is killed anywhere continues at its next start.

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::Shared;
use super::destination::{Route, SameContent, UploadPlan};
use super::error::{Unfit, UploadError};
use super::plan::{self, Findings, NewFileIs, Step};
use super::renames::Rename;
use super::slots::Slot;
use super::source::{self, Source};
use super::tracked_job::TrackedJob;
use super::transfer;
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ledger::{self, Again, FailureKind, Refusal, StoredContent, UploadJob, UploadResult};
use crate::names::{self, QuotedPath};
use crate::next_attempt::{self, Failure, History};
use crate::stored_content::{self, Content};

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum JobOutcome {
    Stored {
        bytes: u64,
        result: UploadResult,
    },
    Unchanged(UploadResult),
    /// Another ledger has the storage folder of its watch.
    Yields,
    /// Another host does it: this one cannot.
    LeftToOthers,
    /// Another watch uploads it, and has not done so yet.
    AwaitsOther,
    /// It is a known file under a new name, whose record has a job now.
    Renamed(Rename),
    Vanished,
    /// The configuration no longer selects the file.
    Deselected,
    /// Storage has a file of this name with other content. It is updated after all others were compared.
    Adopted {
        bulk_change: Option<ledger::BulkChange>,
    },
    Refused(Refusal),
}

/// One attempt: the job, and what it has found out.
struct Attempt<'a> {
    watch: &'a Watch,
    slot: &'a Slot,
    job: TrackedJob<'a>,
    findings: Findings,
}

impl Shared {
    /// Makes one attempt at a job and records how it ended.
    pub(super) async fn run_job(
        &self,
        watch: &Watch,
        job: &UploadJob,
        slot: &Slot,
    ) -> Result<JobOutcome, ledger::Error> {
        let attempt = self.upload_once(watch, job, slot).await;
        if let (Some(aside), Err(error)) = (&self.standby, &attempt)
            && self.leave_to_others(aside, watch, job, error).await?
        {
            return Ok(JobOutcome::LeftToOthers);
        }
        let error = match attempt {
            Ok(outcome) => {
                self.note_success(job);
                return Ok(outcome);
            }
            Err(UploadError::Ledger(error)) => return Err(error),
            Err(UploadError::OtherLedger(_)) => {
                self.ledger.unclaim(job).await?;
                return Ok(JobOutcome::Yields);
            }
            Err(UploadError::Source(source::Error::Gone)) => {
                self.ledger
                    .finish_vanished(job, crate::clock::now())
                    .await?;
                return Ok(JobOutcome::Vanished);
            }
            Err(error) => error,
        };
        let now = crate::clock::now();
        if matches!(error, UploadError::Source(source::Error::Hangs)) {
            let until = next_attempt::after(now, watch.poll_interval);
            self.ledger
                .back_off_watch(job.watch, until, &error.to_string(), now)
                .await?;
        }
        let mut refusal = self.refusal(watch, job, &error, now);
        if let UploadError::OriginUnconfirmed { until, .. } | UploadError::TakingOver { until } =
            &error
        {
            refusal.again = Again::BusyUntil(*until);
        }
        if refusal.kind == FailureKind::Credentials
            && matches!(refusal.again, Again::FailedUntil(_))
        {
            // Every other job would fail in the same way: one of them tries again after the pause, for all.
            let until = next_attempt::after(now, self.policy.max);
            self.ledger
                .back_off_watch(job.watch, until, &refusal.reason, now)
                .await?;
        }
        self.ledger.put_off(job, &refusal, now).await?;
        Ok(JobOutcome::Refused(refusal))
    }

    fn refusal(
        &self,
        watch: &Watch,
        job: &UploadJob,
        error: &UploadError,
        now: Timestamp,
    ) -> Refusal {
        let failure = Failure {
            class: error.class(watch.poll_interval, now),
            reason: format!("cannot upload {}: {error}", QuotedPath(&job.path)),
            hint: error.hint(),
        };
        let history = History {
            attempt: job.attempt,
            failing_since: job.failing_since,
        };
        next_attempt::refusal(failure, history, &self.policy, self.give_up, now)
    }

    async fn upload_once(
        &self,
        watch: &Watch,
        job: &UploadJob,
        slot: &Slot,
    ) -> Result<JobOutcome, UploadError> {
        let job = TrackedJob::new(&self.ledger, job.clone());
        // A failure must not outlive its cause: first whether there is still something to do.
        if !watch.scope.selects(&job.path) {
            job.finish_deselected().await?;
            return Ok(JobOutcome::Deselected);
        }
        let source = Source::open(slot, &watch.path, &job.path).await?;
        if let Some(leader) = &watch.follows
            && let Some(outcome) = self.follow(watch, leader, &job).await?
        {
            return Ok(outcome);
        }
        let (below, name) = names::storage_path(&job.path)?;
        let mut attempt = Attempt {
            watch,
            slot,
            job,
            findings: Findings::new(source.fingerprint(), watch.on_rename),
        };
        // Another host may have handed it over: the active one, or the one before it.
        if self.ledger.is_shared() {
            attempt.findings.compare_roughly(watch.settle_policy.settle);
        }
        let limit = transfer::size_limit(&self.limits);
        loop {
            let Attempt { job, findings, .. } = &mut attempt;
            let step = plan::next_step(job, findings, limit);
            if matches!(step, Step::Restore | Step::Relocate | Step::Transfer) {
                self.hold_place(job.watch, watch).await?;
            }
            match step {
                Step::Restore => self.restore(watch, job).await?,
                Step::Relocate => {
                    self.relocate(watch, job, &below, &name).await?;
                    findings.relocated = true;
                }
                Step::CheckStorage => {
                    findings.storage = Some(self.check_storage(watch, job).await?);
                }
                Step::Complete(written) => match self.complete_interrupted(job, written).await? {
                    Some(outcome) => return Ok(outcome),
                    None => findings.completion_refused = true,
                },
                Step::Reject(unfit) => return Err(unfit.into()),
                Step::Hash => {
                    findings.local = Some(source.hash().await?);
                    source.rewind().await?;
                }
                Step::FinishUnchanged => {
                    return Ok(JobOutcome::Unchanged(job.finish_unchanged().await?));
                }
                Step::CompareWith { storage_file_id } => {
                    let id = &storage_file_id;
                    if let Some(same) = self.same_content_in_storage(job, id, &source).await? {
                        return finish_with_same_content(job, &same).await;
                    }
                    findings.storage_differs = true;
                }
                Step::FindOrigin => {
                    let place = names::path_key(&below, &name);
                    let rename = self.follow_rename(watch, slot, job, &source, &place);
                    if let Some(rename) = rename.await? {
                        return Ok(JobOutcome::Renamed(rename));
                    }
                    findings.new_file = NewFileIs::New;
                }
                Step::TakePlace => {
                    self.take_place(&mut attempt, &names::path_key(&below, &name))
                        .await?;
                }
                Step::Transfer => {
                    return self.transfer(&mut attempt, &below, &name, &source).await;
                }
            }
        }
    }

    /// Gets the storage file back from the recycle bin. If that is not possible, the file is uploaded as a new one.
    async fn restore(&self, watch: &Watch, job: &mut TrackedJob<'_>) -> Result<(), UploadError> {
        let path = QuotedPath(&job.path);
        let restored = match &job.storage_file_id {
            Some(id) => match self.client.restore_file(id).await {
                Ok(()) => {
                    failpoint("storage file of a returned file restored");
                    self.client.file(id).await
                }
                Err(error) => Err(error),
            }
            .map(Some),
            None => Ok(None),
        };
        match restored {
            Ok(Some(file)) => {
                info!(watch = %watch.name, %path, storage_file = file.id.as_str(), "storage file restored: the file is back");
                job.record_restored(stored_content::stamp(&file)).await?;
            }
            Ok(None) => job.record_not_restored("it has no storage file").await?,
            Err(error) if matches!(error.status(), Some(400 | 403 | 404 | 409 | 422)) => {
                warn!(watch = %watch.name, %path, %error, hint = error.hint(), "storage file cannot be restored; uploading the file as a new one");
                job.record_not_restored(&error.to_string()).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Finds a destination, sends the bytes and completes the upload.
    async fn transfer(
        &self,
        attempt: &mut Attempt<'_>,
        below: &[String],
        name: &str,
        source: &Source<'_>,
    ) -> Result<JobOutcome, UploadError> {
        let Attempt {
            watch, slot, job, ..
        } = attempt;
        let route = Route {
            watch,
            slot,
            place: &self.folders.place(watch, below).await?,
            name,
            source,
        };
        let target = match self.upload_plan(job, &route).await? {
            UploadPlan::Upload(target) => target,
            UploadPlan::AdoptLater(id) => {
                let now = crate::clock::now();
                let due = match job.attempt {
                    1 => now,
                    attempt => next_attempt::after(now, self.policy.delay(attempt, None)),
                };
                let bulk_change = job.adopt(&id, due).await?;
                return Ok(JobOutcome::Adopted { bulk_change });
            }
            UploadPlan::Same(same) => return finish_with_same_content(job, &same).await,
        };
        let bytes = source.fingerprint().size;
        let progress = self.live.upload(&watch.name, &job.path, bytes, job.attempt);
        let content = transfer::send(self, job, source, target, &progress).await?;
        progress.done();
        failpoint("bytes sent");
        // What fits into one request is cheaper to send again than to write down.
        if bytes > self.limits.block_size {
            job.record_blob_written(&content).await?;
        }
        failpoint("bytes recorded");
        let version = job.version;
        self.complete(job, StoredContent { version, content }).await
    }

    /// Continues where a process was killed between the last byte and the answer to *complete*.
    ///
    /// None: storage refused it, so the upload starts again.
    async fn complete_interrupted(
        &self,
        job: &mut TrackedJob<'_>,
        written: StoredContent,
    ) -> Result<Option<JobOutcome>, UploadError> {
        match self.complete(job, written).await {
            Ok(outcome) => Ok(Some(outcome)),
            Err(UploadError::SizeDiffers { .. } | UploadError::NotCompleted(_)) => Ok(None),
            Err(UploadError::Platform(error))
                if error
                    .status()
                    .is_some_and(|status| (400..500).contains(&status)) =>
            {
                debug!(path = %QuotedPath(&job.path), %error, "the interrupted upload cannot be completed; starting again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that no other local file has the same place in storage. A deleted file, as after a rename in case
    /// only, leaves its storage file to this one.
    async fn take_place(
        &self,
        attempt: &mut Attempt<'_>,
        key: &[u8; 16],
    ) -> Result<(), UploadError> {
        let Attempt {
            watch,
            slot,
            job,
            findings,
        } = attempt;
        if let Some(other) = job.take_place(key).await? {
            // It may not be gone, but only not visible here.
            if self.standby.is_some() {
                return Err(UploadError::LeftToActive);
            }
            let gone = source::gone(slot, &watch.path, vec![other.path.clone()]).await?;
            if gone.contains(&false) {
                return Err(UploadError::NameConflict { other: other.path });
            }
            if !job.inherit(&other).await? {
                return Err(UploadError::Predecessor { other: other.path });
            }
            info!(
                watch = %watch.name, path = %QuotedPath(&job.path), deleted = %QuotedPath(&other.path),
                "file takes over the storage file of a deleted one"
            );
        }
        findings.new_file = NewFileIs::Placed;
        Ok(())
    }

    /// What storage holds of the content that was completed last. A storage file that is gone is forgotten.
    async fn check_storage(
        &self,
        watch: &Watch,
        job: &mut TrackedJob<'_>,
    ) -> Result<Content, UploadError> {
        let (Some(stored), Some(id)) = (&job.stored, &job.storage_file_id) else {
            return Ok(Content::Missing);
        };
        let file = match self.client.file(id).await {
            Ok(_) if job.unverified => return Ok(Content::Changed { by: None, at: None }),
            Ok(file) => file,
            Err(error) if error.is_not_found() => {
                job.forget_storage_file().await?;
                return Ok(Content::Missing);
            }
            Err(error) => return Err(error.into()),
        };
        let found = stored_content::compare(stored.content.bytes, &job.stamp, &file);
        if let Content::Changed { by, at } = &found {
            stored_content::warn_changed(&watch.name, &job.path, by.as_deref(), at.as_deref());
            job.mark_unverified();
        }
        Ok(found)
    }

    /// Sends the confirmation that makes the new content count, and checks what storage then says it holds.
    async fn complete(
        &self,
        job: &mut TrackedJob<'_>,
        stored: StoredContent,
    ) -> Result<JobOutcome, UploadError> {
        let Some(id) = job.storage_file_id.clone() else {
            return Err(Unfit::NotSettled.into());
        };
        let sent = stored.content.bytes;
        let file = match self.client.complete(&id).await {
            Ok(file) => file,
            // A repeat of a *complete* whose answer was lost may be refused. The file's size shows whether the first
            // one worked, unless it had this size before.
            Err(error) if matches!(error.status(), Some(400 | 409 | 422)) => {
                let before = job.stored.as_ref().map(|stored| stored.content.bytes);
                let file = self.client.file(&id).await?;
                if file.size != Some(sent) || before == Some(sent) {
                    job.record_restart().await?;
                    return Err(UploadError::NotCompleted(error));
                }
                file
            }
            Err(error) => return Err(error.into()),
        };
        if file.size != Some(sent) {
            job.record_restart().await?;
            return Err(UploadError::SizeDiffers {
                sent,
                stored: file.size.unwrap_or(0),
            });
        }
        failpoint("completed");
        let result = job
            .finish_stored(&stored, &stored_content::stamp(&file))
            .await?;
        failpoint("stored");
        Ok(JobOutcome::Stored {
            bytes: sent,
            result,
        })
    }
}

async fn finish_with_same_content(
    job: &TrackedJob<'_>,
    same: &SameContent,
) -> Result<JobOutcome, UploadError> {
    let result = job.finish_same_content(&same.stored, &same.stamp).await?;
    Ok(JobOutcome::Unchanged(result))
}
