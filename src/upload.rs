//! Brings the bytes of finished files to storage.
//!
//! In come due jobs from the ledger, one per worker; out goes, to the ledger, what storage holds afterwards. Every
//! step is written down before its request and after its answer, so a process that is killed at any point goes on at
//! the next start without a second storage file. The room never starts a run and never decides when a file is
//! finished: a file that does not look as it was handed over goes back to wait.
//!
//! A worker takes its permit first and claims a job then, so links that expire are only asked for when there is room
//! to use them.

mod folders;
mod pool;
mod source;
mod steps;
mod transfer;
mod unfinished;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::attempt::clock_time;
use crate::config;
use crate::itwin::Client;
use crate::ledger::{self, Again, Ledger, Outcome, Refusal, UploadJob, WatchId};
use crate::live::Live;
use crate::names::Shown;
use crate::retry::Policy;
use folders::Folders;
use pool::Pool;
use steps::End;
use unfinished::Unfinished;

/// How long an idle worker sleeps at most before it looks at the ledger again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Everything that the upload room works with.
#[derive(Debug, Clone)]
pub struct Uploads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    client: Client,
    limits: config::Upload,
    policy: Policy,
    give_up: std::time::Duration,
    watches: HashMap<WatchId, config::Watch>,
    folders: Folders,
    pool: Pool,
    unfinished: Unfinished,
    wake: Arc<Notify>,
    lanes: watch::Sender<u64>,
    live: Live,
}

/// What the room is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where jobs come from and results go.
    pub ledger: Ledger,
    /// The platform.
    pub client: Client,
    /// Sizes and limits.
    pub limits: config::Upload,
    /// Pauses between attempts.
    pub retry: config::Retry,
    /// Where uploads that are not finished are kept, with their addresses.
    pub unfinished: PathBuf,
    /// The configured watches.
    pub watches: HashMap<WatchId, config::Watch>,
    /// Told when there may be a job to claim.
    pub wake: Arc<Notify>,
    /// To be told when a file may await a run.
    pub lanes: watch::Sender<u64>,
    /// Where uploads on their way are shown.
    pub live: Live,
}

impl Uploads {
    /// Puts the room together; nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let policy = Policy {
            first: parts.retry.first_delay,
            max: parts.retry.max_delay,
        };
        Self {
            shared: Arc::new(Shared {
                folders: Folders::new(parts.client.clone(), parts.ledger.clone()),
                ledger: parts.ledger,
                client: parts.client,
                pool: Pool::new(parts.limits.memory, parts.limits.block_size),
                unfinished: Unfinished::new(parts.unfinished),
                limits: parts.limits,
                policy,
                give_up: parts.retry.give_up,
                watches: parts.watches,
                wake: parts.wake,
                lanes: parts.lanes,
                live: parts.live,
            }),
        }
    }

    /// Works until `stop`, then lets the uploads in hand finish. Dropping the future leaves them to the next start.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), ledger::Error> {
        let workers = Arc::new(Semaphore::new(self.shared.limits.workers));
        let mut at_work = JoinSet::new();
        let working = async {
            loop {
                while let Some(ended) = at_work.try_join_next() {
                    survive(ended)?;
                }
                let Ok(permit) = Arc::clone(&workers).acquire_owned().await else {
                    return Ok(());
                };
                let now = Timestamp::now();
                if let Some(job) = self.shared.ledger.claim_upload(now).await? {
                    let shared = Arc::clone(&self.shared);
                    at_work.spawn(async move {
                        let result = shared.work(job).await;
                        drop(permit);
                        result
                    });
                    continue;
                }
                drop(permit);
                if at_work.is_empty() {
                    self.shared.pool.shrink();
                }
                let due = self.shared.ledger.next_upload_due(now).await?;
                let pause = due.map_or(LOOK_AGAIN, |at| {
                    at.duration_since(now).unsigned_abs().min(LOOK_AGAIN)
                });
                tokio::select! {
                    () = self.shared.wake.notified() => {}
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
            survive(ended)?;
        }
        Ok(())
    }
}

/// A worker that panicked must not pass for one that succeeded.
fn survive(
    ended: Result<Result<(), ledger::Error>, tokio::task::JoinError>,
) -> Result<(), ledger::Error> {
    match ended {
        Ok(result) => result,
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Ok(()),
    }
}

impl Shared {
    async fn work(&self, job: UploadJob) -> Result<(), ledger::Error> {
        let Some(watch) = self.watches.get(&job.watch) else {
            return self.ledger.unclaim(&job).await;
        };
        let began = std::time::Instant::now();
        debug!(watch = %watch.name, path = %Shown(&job.path), attempt = job.attempt, "upload begins");
        let end = self.bring(watch, &job).await?;
        let seconds = began.elapsed().as_secs_f64();
        let path = Shown(&job.path);
        match end {
            End::Stored { bytes, result } => {
                info!(watch = %watch.name, %path, bytes, seconds, "uploaded");
                if job.connector.is_none() && result == ledger::UploadResult::Done {
                    info!(watch = %watch.name, %path, result = %Outcome::Uploaded, bytes, seconds, "file stored; it is no source file");
                }
            }
            End::Unchanged(result) => {
                debug!(watch = %watch.name, %path, seconds, "same content as before: not uploaded again");
                if result == ledger::UploadResult::Done {
                    info!(watch = %watch.name, %path, result = %Outcome::Unchanged, bytes = 0, seconds, "file unchanged");
                }
            }
            End::Vanished => {
                info!(watch = %watch.name, %path, "the file is gone; nothing to upload");
            }
            End::Adopted { braked } => {
                info!(watch = %watch.name, %path, "storage has the file already, with other content; updating it");
                if let Some(braked) = braked {
                    braked.tell(&watch.name);
                }
            }
            End::Refused(refusal) => report(&watch.name, &job, &refusal),
        }
        self.lanes.send_modify(|_asked| ());
        self.wake.notify_one();
        Ok(())
    }
}

fn report(watch: &str, job: &UploadJob, refusal: &Refusal) {
    let path = Shown(&job.path);
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
