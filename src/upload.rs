//! Brings the bytes of finished files to storage.
//!
//! In come due jobs from the ledger, one per worker; out goes, to the ledger, what storage holds afterwards. Every
//! step is written down before its request and after its answer, so a process that is killed at any point goes on at
//! the next start without a second storage file. The room never starts a run and never decides when a file is
//! finished: a file that does not look as it was handed over goes back to wait.
//!
//! A job is claimed only when there is a worker for it, so links that expire are only asked for when there is
//! room to use them.

mod destination;
mod error;
mod folders;
mod guard;
mod hash;
mod plan;
mod pool;
mod slots;
mod source;
mod steps;
mod tracked_job;
mod transfer;
mod unfinished;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::config;
use crate::itwin::Client;
use crate::ledger::{self, Again, Ledger, Outcome, Refusal, UploadJob, WatchId};
use crate::names::QuotedPath;
use crate::next_attempt::{self, Failure, History, clock_time};
use crate::retry::{Class, Policy};
use crate::runtime_status::StatusTracker;
use folders::Folders;
use guard::ClaimGuard;
use pool::Pool;
use slots::{Slot, Slots};
use steps::JobOutcome;
use unfinished::Unfinished;

/// How long an idle worker sleeps at most before it looks at the ledger again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// A watch whose share does not answer is held for so long at a time; that ends when it answers.
const SILENT_HOLD: std::time::Duration = std::time::Duration::from_secs(120);

/// A file above this is a large one, in bytes.
const LARGE: u64 = 64 * 1024 * 1024;

/// Everything that the upload room works with.
#[derive(Debug, Clone)]
pub struct UploadPool {
    shared: Arc<Shared>,
    settings: watch::Receiver<Settings>,
    turned: watch::Sender<Instant>,
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    client: Client,
    limits: config::Upload,
    policy: Policy,
    give_up: std::time::Duration,
    watches: HashMap<WatchId, config::Watch>,
    folders: Arc<Folders>,
    pool: Pool,
    slots: Slots,
    unfinished: Arc<Unfinished>,
    /// Whether storage takes CRC64 as a checksum, as far as is known.
    crc64: Arc<AtomicBool>,
    wake: Arc<Notify>,
    synchronizers: watch::Sender<u64>,
    live: StatusTracker,
}

/// What the room is made of.
#[derive(Debug)]
pub struct Deps {
    /// Where jobs come from and results go.
    pub ledger: Ledger,
    /// The platform.
    pub client: Client,
    /// The folder for uploads that are not finished, with their addresses.
    pub unfinished: PathBuf,
    /// What the configuration says at the moment.
    pub settings: watch::Receiver<Settings>,
    /// Told when there may be a job to claim.
    pub wake: Arc<Notify>,
    /// To be told when a file may await a run.
    pub synchronizers: watch::Sender<u64>,
    /// Where uploads on their way are shown.
    pub live: StatusTracker,
    /// Shows when the queue was looked at last: half a minute ago at most, as long as all is well.
    pub turned: watch::Sender<Instant>,
}

/// What may change while the room works. An upload in hand ends by what held when it began.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sizes and limits.
    pub limits: config::Upload,
    /// Pauses between attempts.
    pub retry: config::Retry,
    /// The configured watches.
    pub watches: HashMap<WatchId, config::Watch>,
}

impl Settings {
    fn policy(&self) -> Policy {
        Policy {
            first: self.retry.first_delay,
            max: self.retry.max_delay,
        }
    }

    fn pool(&self) -> Pool {
        Pool::new(self.limits.memory, self.limits.block_size)
    }
}

impl UploadPool {
    /// Puts the room together; nothing runs yet.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let settings = deps.settings.borrow().clone();
        Self {
            shared: Arc::new(Shared {
                folders: Arc::new(Folders::new(deps.client.clone(), deps.ledger.clone())),
                ledger: deps.ledger,
                client: deps.client,
                pool: settings.pool(),
                slots: Slots::default(),
                crc64: Arc::new(AtomicBool::new(true)),
                unfinished: Arc::new(Unfinished::new(deps.unfinished)),
                policy: settings.policy(),
                limits: settings.limits,
                give_up: settings.retry.give_up,
                watches: settings.watches,
                wake: deps.wake,
                synchronizers: deps.synchronizers,
                live: deps.live,
            }),
            settings: deps.settings,
            turned: deps.turned,
        }
    }

    /// Works until `stop`, then lets the uploads in hand finish. Dropping the future leaves them to the next start.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), ledger::Error> {
        let mut at_work = JoinSet::new();
        let mut shared = Arc::clone(&self.shared);
        let mut settings = self.settings.clone();
        let mut guard = ClaimGuard::default();
        let working = async {
            loop {
                self.turned.send_replace(Instant::now());
                while let Some(ended) = at_work.try_join_next() {
                    join_worker(ended)?;
                }
                if settings.has_changed().is_ok_and(|changed| changed) {
                    shared = Arc::new(shared.with(settings.borrow_and_update().clone()));
                }
                let mut pause = if shared.hold_silent_shares().await? {
                    slots::STALL
                } else {
                    LOOK_AGAIN
                };
                let now = crate::clock::now();
                if let Some((job, slot)) = shared.claim(now).await? {
                    if !guard.allows(job.file, Instant::now()) {
                        shared.reschedule_restless(&job).await?;
                        continue;
                    }
                    let shared = Arc::clone(&shared);
                    at_work.spawn(async move { shared.process(job, slot).await });
                    continue;
                }
                if shared.slots.busy().all < shared.limits.workers
                    && let Some(at) = shared.ledger.next_upload_due(now).await?
                {
                    pause = at.duration_since(now).unsigned_abs().min(pause);
                }
                if at_work.is_empty() {
                    shared.pool.shrink();
                }
                tokio::select! {
                    Some(ended) = at_work.join_next() => join_worker(ended)?,
                    Ok(()) = settings.changed() => settings.mark_changed(),
                    () = shared.wake.notified() => {}
                    () = shared.slots.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        tokio::select! {
            ended = working => return ended,
            () = stop.cancelled() => {}
        }
        if !at_work.is_empty() {
            info!(
                uploads = at_work.len(),
                "stopping; letting uploads in hand finish"
            );
        }
        while let Some(ended) = at_work.join_next().await {
            join_worker(ended)?;
        }
        Ok(())
    }
}

/// What a worker ended with. One that panicked must not pass for one that succeeded.
fn join_worker(
    ended: Result<Result<(), ledger::Error>, tokio::task::JoinError>,
) -> Result<(), ledger::Error> {
    match ended {
        Ok(result) => result,
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Ok(()),
    }
}

impl Shared {
    /// The same room with other settings.
    fn with(&self, settings: Settings) -> Self {
        let same_memory = settings.limits.memory == self.limits.memory
            && settings.limits.block_size == self.limits.block_size;
        // A folder may belong to another watch now.
        self.folders.forget_owners();
        Self {
            ledger: self.ledger.clone(),
            client: self.client.clone(),
            folders: Arc::clone(&self.folders),
            pool: if same_memory {
                self.pool.clone()
            } else {
                settings.pool()
            },
            slots: self.slots.clone(),
            unfinished: Arc::clone(&self.unfinished),
            crc64: Arc::clone(&self.crc64),
            policy: settings.policy(),
            give_up: settings.retry.give_up,
            limits: settings.limits,
            watches: settings.watches,
            wake: Arc::clone(&self.wake),
            synchronizers: self.synchronizers.clone(),
            live: self.live.clone(),
        }
    }

    /// A job came back at once too often. That is a fault of ours, and must neither spin nor stay unseen.
    async fn reschedule_restless(&self, job: &UploadJob) -> Result<(), ledger::Error> {
        let watch = self.watches.get(&job.watch);
        let watch = watch.map_or("", |watch| watch.name.as_str());
        error!(
            watch, path = %QuotedPath(&job.path),
            hint = "report it with the log of the last minute; the file is tried again later",
            "job became due again and again without a pause; putting it off"
        );
        let failure = Failure {
            class: Class::Transient { floor: None },
            reason: format!(
                "cannot upload {}: its job did not make progress",
                QuotedPath(&job.path)
            ),
            hint: None,
        };
        let history = History {
            // Not the first pause, which is short.
            attempt: job.attempt.saturating_add(3),
            failing_since: job.failing_since,
        };
        let now = crate::clock::now();
        let refusal = next_attempt::refusal(failure, history, &self.policy, self.give_up, now);
        self.ledger.put_off(job, &refusal, now).await
    }

    /// Takes the next job, and a slot for it, if both are free.
    async fn claim(&self, now: Timestamp) -> Result<Option<(UploadJob, Slot)>, ledger::Error> {
        let workers = self.limits.workers;
        let busy = self.slots.busy();
        if busy.all >= workers {
            return Ok(None);
        }
        // The last free worker takes no large file: small ones must not wait behind large ones only.
        let most = (workers > 1 && busy.large + 1 >= workers).then_some(LARGE);
        if self.watches.len() < 2 || self.slots.is_idle() {
            let job = self.ledger.claim_upload(most, now).await?;
            return Ok(job.map(|job| self.with_slot(job)));
        }
        for watch in self.slots.order(self.ledger.due_watches(now).await?) {
            if let Some(job) = self.ledger.claim_upload_of(watch, most, now).await? {
                return Ok(Some(self.with_slot(job)));
            }
        }
        Ok(None)
    }

    fn with_slot(&self, job: UploadJob) -> (UploadJob, Slot) {
        let large = job.fingerprint.is_some_and(|print| print.size > LARGE);
        let slot = self.slots.take(job.watch, large);
        (job, slot)
    }

    /// Holds watches whose share does not answer, and says so. Returns whether there are any.
    async fn hold_silent_shares(&self) -> Result<bool, ledger::Error> {
        let name = |id| self.watches.get(&id).map_or("", |watch| &watch.name);
        for (watch, reason) in self.slots.released() {
            self.ledger.end_backoff(watch, &reason).await?;
        }
        for watch in self.slots.recovered() {
            info!(watch = name(watch), "the share answers again");
        }
        let silent = self.slots.silent();
        for share in &silent {
            if share.is_new {
                warn!(
                    watch = name(share.watch),
                    reason = share.what,
                    hint = "check the file server and the mount; other watches are not affected",
                    "no upload of this watch begins while its share does not answer"
                );
            }
            let now = crate::clock::now();
            let until = next_attempt::after(now, SILENT_HOLD);
            self.ledger
                .back_off_watch(share.watch, until, &share.what, now)
                .await?;
        }
        Ok(!silent.is_empty())
    }

    async fn process(&self, job: UploadJob, slot: Slot) -> Result<(), ledger::Error> {
        let Some(watch) = self.watches.get(&job.watch) else {
            return self.ledger.unclaim(&job).await;
        };
        let began = std::time::Instant::now();
        debug!(watch = %watch.name, path = %QuotedPath(&job.path), attempt = job.attempt, "upload begins");
        let end = self.run_job(watch, &job, &slot).await?;
        drop(slot);
        let seconds = began.elapsed().as_secs_f64();
        let path = QuotedPath(&job.path);
        match end {
            JobOutcome::Stored { bytes, result } => {
                info!(watch = %watch.name, %path, bytes, seconds, "uploaded");
                if job.connector.is_none() && result == ledger::UploadResult::Done {
                    info!(watch = %watch.name, %path, result = %Outcome::Uploaded, bytes, seconds, "file stored; it is no source file");
                }
            }
            JobOutcome::Unchanged(result) => {
                debug!(watch = %watch.name, %path, seconds, "same content as before: not uploaded again");
                if result == ledger::UploadResult::Done {
                    info!(watch = %watch.name, %path, result = %Outcome::Unchanged, bytes = 0, seconds, "file unchanged");
                }
            }
            JobOutcome::Vanished => {
                info!(watch = %watch.name, %path, "the file is gone; nothing to upload");
            }
            JobOutcome::Deselected => {
                info!(watch = %watch.name, %path, "file is no longer selected; nothing to upload");
            }
            JobOutcome::Adopted { bulk_change } => {
                info!(watch = %watch.name, %path, "storage has the file already, with other content; updating it");
                if let Some(change) = bulk_change {
                    change.log(&watch.name);
                }
            }
            JobOutcome::Refused(refusal) => report(&watch.name, &job, &refusal),
        }
        self.synchronizers.send_modify(|_asked| ());
        Ok(())
    }
}

fn report(watch: &str, job: &UploadJob, refusal: &Refusal) {
    let path = QuotedPath(&job.path);
    let (reason, hint) = (&refusal.reason, refusal.hint.as_deref().unwrap_or_default());
    match refusal.again {
        Again::BusyUntil(at) if job.last_reason.as_ref() == Some(reason) => {
            debug!(%watch, %path, reason, next = clock_time(at), "not uploaded yet");
        }
        Again::BusyUntil(at) => {
            info!(%watch, %path, reason, next = clock_time(at), "not uploaded yet; looking again until it can be");
        }
        Again::At(at) => {
            warn!(%watch, %path, reason, hint, attempt = job.attempt, next = clock_time(at), "upload failed; trying again");
        }
        Again::FailedUntil(at) => {
            error!(%watch, %path, result = %Outcome::Failed, reason, hint, next = clock_time(at), "upload failed");
        }
        Again::Never => {
            error!(%watch, %path, result = %Outcome::Failed, reason, hint, "upload failed; not tried again before the file changes");
        }
    }
}
