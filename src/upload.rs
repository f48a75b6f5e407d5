//! Uploads complete files to iTwin Storage.
//!
//! Input: due jobs of the ledger, one per worker. Output, into the ledger: what storage holds afterwards. A checkpoint
//! is written before each request and after its answer, so a process that is killed at any point continues at the next
//! start without a second storage file. This module never starts a run and never decides when a file is complete: a
//! file whose fingerprint changed since the watch handed it over waits until it has settled again.
//!
//! A job is claimed only when a worker is free, so upload URLs, which expire, are requested only when they can be used.
//!
//! If hosts share the ledger, those that are standby upload as well (`standby`).

mod claims;
mod destination;
mod error;
mod folders;
mod followers;
mod guard;
mod hash;
mod plan;
mod pool;
mod reading_threads;
mod relocation;
mod renames;
mod slots;
mod source;
mod standby;
mod steps;
mod tracked_job;
mod transfer;
mod unfinished;
mod windows;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};
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
use claims::Claims;
pub(crate) use claims::{creator, read_claim};
use folders::Folders;
use guard::ClaimGuard;
use pool::Pool;
use renames::Rename;
pub(crate) use renames::{WINDOW as RENAME_WINDOW, most_similar};
use slots::{Slot, Slots};
use standby::Aside;
use steps::JobOutcome;
use unfinished::Unfinished;

/// The longest sleep of an idle pool before it reads the ledger again.
const IDLE_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// The same if other hosts may make a job due: nothing wakes the pool then.
const IDLE_MAX_SHARED: std::time::Duration = std::time::Duration::from_millis(500);

/// How long the uploads of a watch wait when its share does not answer; they continue when it does.
const SILENT_PAUSE: std::time::Duration = std::time::Duration::from_secs(120);

/// A file above this is a large one, in bytes.
const LARGE: u64 = 64 * 1024 * 1024;

/// The workers that upload files.
#[derive(Debug, Clone)]
pub struct UploadPool {
    shared: Arc<Shared>,
    settings: watch::Receiver<Settings>,
    claiming: Arc<Mutex<()>>,
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
    claims: Arc<Claims>,
    pool: Pool,
    slots: Slots,
    unfinished: Arc<Unfinished>,
    /// Whether storage takes CRC64 as a checksum, as far as is known.
    crc64: Arc<AtomicBool>,
    wake: Arc<Notify>,
    synchronizers: watch::Sender<u64>,
    live: StatusTracker,
    /// What is left to other hosts; None on the active host.
    standby: Option<Arc<Aside>>,
}

/// What the workers need.
#[derive(Debug)]
pub struct Deps {
    /// Where jobs come from and results go.
    pub ledger: Ledger,
    /// The platform.
    pub client: Client,
    /// The folder for uploads that are not finished, with their addresses.
    pub unfinished: PathBuf,
    /// The current configuration.
    pub settings: watch::Receiver<Settings>,
    /// Held while a job is claimed. Whoever changes the watches in the ledger holds it until the settings say the same:
    /// no job is claimed for a watch and uploaded as the watch was before.
    pub claiming: Arc<Mutex<()>>,
    /// Wakes the pool: there may be a job to claim.
    pub wake: Arc<Notify>,
    /// Wakes the synchronizers: a file may wait for a run.
    pub synchronizers: watch::Sender<u64>,
    /// Shows the uploads in progress.
    pub live: StatusTracker,
    /// When the queue was read last; at most half a minute ago in a healthy pool.
    pub turned: watch::Sender<Instant>,
    /// Another host is the active one.
    pub is_standby: bool,
}

/// Settings that may change at runtime. A running upload keeps those it began with.
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
    /// Builds the pool; nothing runs yet.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let settings = deps.settings.borrow().clone();
        let is_shared = deps.ledger.is_shared();
        Self {
            shared: Arc::new(Shared {
                claims: Arc::default(),
                folders: Arc::new(Folders::new(deps.client.clone(), deps.ledger.clone())),
                ledger: deps.ledger,
                client: deps.client,
                pool: settings.pool(),
                slots: Slots::default(),
                crc64: Arc::new(AtomicBool::new(true)),
                unfinished: Arc::new(Unfinished::new(deps.unfinished, is_shared)),
                policy: settings.policy(),
                limits: settings.limits,
                give_up: settings.retry.give_up,
                watches: settings.watches,
                wake: deps.wake,
                synchronizers: deps.synchronizers,
                live: deps.live,
                standby: deps.is_standby.then(Arc::default),
            }),
            settings: deps.settings,
            claiming: deps.claiming,
            turned: deps.turned,
        }
    }

    /// Uploads until `stop`, then lets running uploads finish. Dropping the future leaves them to the next start.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), ledger::Error> {
        let mut at_work = JoinSet::new();
        let mut shared = Arc::clone(&self.shared);
        let mut settings = self.settings.clone();
        let mut guard = ClaimGuard::default();
        let mut windows_known = false;
        let is_active = shared.standby.is_none();
        if is_active {
            let contested = shared.ledger.contested_watches().await?;
            shared.claims.contest(contested);
        }
        let working = async {
            loop {
                self.turned.send_replace(Instant::now());
                while let Some(ended) = at_work.try_join_next() {
                    join_worker(ended)?;
                }
                let claiming = self.claiming.lock().await;
                if settings.has_changed().is_ok_and(|changed| changed) {
                    shared = Arc::new(shared.with(settings.borrow_and_update().clone()));
                    windows_known = false;
                }
                for watch in shared.claims.due() {
                    let shared = Arc::clone(&shared);
                    at_work.spawn(async move { shared.recheck_claim(watch).await });
                }
                let mut pause = if is_active && shared.pause_silent_shares().await? {
                    slots::STALL
                } else {
                    IDLE_MAX
                };
                let now = crate::clock::now();
                // Also without windows at the first turn and after a reload: there may have been some before.
                if is_active && (!windows_known || shared.has_windows()) {
                    pause = pause.min(shared.follow_windows(now).await?);
                    windows_known = true;
                }
                let claimed = shared.claim(now).await?;
                drop(claiming);
                if let Some((job, slot)) = claimed {
                    if !guard.allows(job.file, Instant::now()) {
                        shared.reschedule_restless(&job).await?;
                        continue;
                    }
                    let shared = Arc::clone(&shared);
                    at_work.spawn(async move { shared.process(job, slot).await });
                    continue;
                }
                if shared.slots.busy().all < shared.limits.workers {
                    if shared.ledger.is_shared() {
                        pause = pause.min(IDLE_MAX_SHARED);
                    }
                    if let Some(at) = shared.ledger.next_upload_due(now).await? {
                        pause = at.duration_since(now).unsigned_abs().min(pause);
                    }
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
                "stopping; waiting for running uploads"
            );
        }
        while let Some(ended) = at_work.join_next().await {
            join_worker(ended)?;
        }
        Ok(())
    }
}

/// The result of a worker. A panic continues here, so it never passes for a success.
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
    /// The same with other settings.
    fn with(&self, settings: Settings) -> Self {
        let same_memory = settings.limits.memory == self.limits.memory
            && settings.limits.block_size == self.limits.block_size;
        // A folder may belong to another watch now.
        self.folders.forget_owners();
        Self {
            ledger: self.ledger.clone(),
            client: self.client.clone(),
            folders: Arc::clone(&self.folders),
            claims: Arc::clone(&self.claims),
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
            standby: self.standby.clone(),
        }
    }

    /// A job came back at once too often: a bug, which must neither spin nor stay unseen.
    async fn reschedule_restless(&self, job: &UploadJob) -> Result<(), ledger::Error> {
        let watch = self.watches.get(&job.watch);
        let watch = watch.map_or("", |watch| watch.name.as_str());
        error!(
            watch, path = %QuotedPath(&job.path),
            hint = "report this as a bug, with the log of the last minute",
            "job became due repeatedly without a pause; trying again later"
        );
        let failure = Failure {
            class: Class::Transient { floor: None },
            reason: format!(
                "cannot upload {}: its job made no progress",
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
        if let Some(aside) = &self.standby {
            return self.claim_as_standby(aside, now).await;
        }
        let workers = self.limits.workers;
        let busy = self.slots.busy();
        if busy.all >= workers {
            return Ok(None);
        }
        // The last free worker takes no large file: small ones must not wait behind large ones only.
        let most = (workers > 1 && busy.large + 1 >= workers).then_some(LARGE);
        // A pool that looks often must not write each time.
        let is_simple = self.watches.len() < 2 || self.slots.is_idle();
        if is_simple && !self.ledger.is_shared() {
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

    /// Pauses the uploads of watches whose share does not answer. Returns whether there are any.
    async fn pause_silent_shares(&self) -> Result<bool, ledger::Error> {
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
                    "uploads of this watch wait: its share does not answer"
                );
            }
            let now = crate::clock::now();
            let until = next_attempt::after(now, SILENT_PAUSE);
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
        debug!(watch = %watch.name, path = %QuotedPath(&job.path), attempt = job.attempt, "upload started");
        let end = self.run_job(watch, &job, &slot).await?;
        drop(slot);
        let seconds = began.elapsed().as_secs_f64();
        let path = QuotedPath(&job.path);
        match end {
            JobOutcome::Stored { bytes, result } => {
                info!(watch = %watch.name, %path, bytes, seconds, "uploaded");
                if job.connector.is_none() && result == ledger::UploadResult::Done {
                    info!(watch = %watch.name, %path, result = %Outcome::Uploaded, bytes, seconds, "file stored; it is not a source file");
                }
            }
            JobOutcome::Unchanged(result) => {
                debug!(watch = %watch.name, %path, seconds, "content unchanged; not uploaded");
                // The storage file of a renamed file has followed before, which has a message of its own.
                if result == ledger::UploadResult::Done && job.relocation.is_none() {
                    info!(watch = %watch.name, %path, result = %Outcome::Unchanged, bytes = 0, seconds, "file unchanged");
                }
            }
            JobOutcome::Renamed(Rename { from, bulk_change }) => {
                info!(watch = %watch.name, %path, from = %QuotedPath(&from), "file was renamed; its storage file follows");
                if let Some(change) = bulk_change {
                    change.log(&watch.name);
                }
            }
            JobOutcome::Yields => {
                debug!(watch = %watch.name, %path, "waits: another ledger has the storage folder");
            }
            JobOutcome::LeftToOthers => {}
            JobOutcome::AwaitsOther => {
                debug!(watch = %watch.name, %path, "waits for its upload by the watch that it follows");
            }
            JobOutcome::Vanished => {
                info!(watch = %watch.name, %path, "file was deleted before it was uploaded");
            }
            JobOutcome::Deselected => {
                info!(watch = %watch.name, %path, "file is no longer selected; not uploaded");
            }
            JobOutcome::Adopted { bulk_change } => {
                info!(watch = %watch.name, %path, "storage has a file of this name with other content; updating it");
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
    let (reason, hint) = (&refusal.reason, refusal.hint.as_deref());
    match refusal.again {
        Again::BusyUntil(at) if job.last_reason.as_ref() == Some(reason) => {
            debug!(%watch, %path, reason, next = clock_time(at), "not uploaded yet");
        }
        Again::BusyUntil(at) => {
            info!(%watch, %path, reason, next = clock_time(at), "not uploaded yet; trying again");
        }
        Again::At(at) => {
            warn!(%watch, %path, reason, hint, attempt = job.attempt, next = clock_time(at), "upload failed; trying again");
        }
        Again::FailedUntil(at) => {
            error!(%watch, %path, result = %Outcome::Failed, reason, hint, next = clock_time(at), "upload failed");
        }
        Again::Never => {
            error!(%watch, %path, result = %Outcome::Failed, reason, hint, "upload failed; it is tried again when the file changes");
        }
    }
}
