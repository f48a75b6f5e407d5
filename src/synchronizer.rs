//! Runs the synchronizations of iModels: one synchronizer per iModel, because the platform runs one at a time.
//!
//! Input, from the ledger: files whose content is complete in storage. A synchronizer batches them, reads the iModel's
//! connection and corrects it, requests one run for all of them, follows it to its end and records the outcome of every
//! file in the ledger. It never uploads.
//!
//! Other clients may change connection and storage at any time, so neither is assumed: the source files are read before
//! each run (`connection`, `reconcile`), the storage files after it (`storage_check`), and both once in every
//! `rescan_interval` (`periodic_check`). A run counts for a file only if it was requested after the file's upload was
//! completed and storage still holds that content. The intent to request a run is in the ledger before the request:
//! after a crash the synchronizer first looks for the run. A run of another client is waited for (`blocking`) and never
//! counted as ours. A master is run only with its whole set (`sets`). Files that are gone from their folder are taken
//! out of the connection and of storage, if their watch says so (`withdrawal`, `surplus`).
//! Connections that act for a user wait for that user's consent (`owner`).
//! `named_versions` names what runs have brought; `platform_settings` sets how they read files.
//!
//! Longer than most files because all that a synchronizer remembers is here.

mod batching;
mod blocking;
mod connection;
mod displaced;
mod file_reports;
mod named_versions;
mod other_runs;
mod outcome;
mod owner;
mod periodic_check;
mod platform_settings;
mod progress;
mod reconcile;
mod refusals;
mod run;
mod sets;
mod spatial_root;
mod storage_check;
mod surplus;
mod version_rules;
mod window;
mod withdrawal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::config;
use crate::ids::ImodelId;
use crate::itwin::{self, Client, Takeover};
use crate::ledger::{
    self, Again, ConnectionFile, ConnectionId, ConnectionRecord, FileId, Ledger, Refusal,
    SpatialRootWait, WindowWait,
};
use crate::names::QuotedPath;
use crate::next_attempt::{self, Failure, History, clock_time};
use crate::retry::{Class, Policy};
use crate::selection::{Guess, Scope};
use batching::Batch;
use blocking::Blocking;
use connection::Read;
use file_reports::{report_failure, report_foreign_change};
use owner::Owner;
use platform_settings::Applied;
use run::Requested;
use sets::Sets;
use spatial_root::{Extent, Gate};
use window::Window;
use withdrawal::Withdrawals;

/// An idle synchronizer reads the ledger again after this time, even if nothing woke it.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// However often it is woken, it reads the ledger no more often than this: many uploads end at once.
const STEP_GAP: Duration = Duration::from_millis(200);

/// What a synchronizer needs.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The iModel of the synchronizer.
    pub imodel_id: ImodelId,
    /// Where work comes from and outcomes go.
    pub ledger: Ledger,
    /// The platform.
    pub client: Client,
    /// The current configuration.
    pub settings: watch::Receiver<Settings>,
    /// Wakes the synchronizer; the number rises when the operator asks not to wait for backoffs.
    pub wake: watch::Receiver<u64>,
    /// Wakes the upload pool: a file has to be uploaded again.
    pub uploads: Arc<Notify>,
    /// Where the synchronizer publishes its progress.
    pub progress: watch::Sender<Progress>,
}

/// What may change while a synchronizer works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The user for whom connections act, if the account is one.
    pub user: Option<config::UserAccount>,
    /// Batches, polling, deadlines.
    pub sync: config::Sync,
    /// Pauses between attempts.
    pub retry: config::Retry,
    /// How often the platform is checked when nothing runs.
    pub check_interval: Duration,
    /// The spatial root of each iModel that has one.
    pub spatial_roots: BTreeMap<ImodelId, config::SpatialRoot>,
    /// The windows of runs of each iModel that has any.
    pub schedules: config::RunSchedules,
    /// The named versions of each iModel that has any.
    pub named_versions: BTreeMap<ImodelId, config::NamedVersion>,
    /// The settings of each iModel that has any.
    pub imodel_settings: BTreeMap<ImodelId, config::PlatformSettings>,
    /// The settings of connections that have any.
    pub connection_settings: Vec<config::ConnectionSettings>,
    /// The selection of each watch, by its name.
    pub scopes: HashMap<String, Scope>,
}

impl Settings {
    fn policy(&self) -> Policy {
        Policy {
            first: self.retry.first_delay,
            max: self.retry.max_delay,
        }
    }
}

fn takeover(user: Option<&config::UserAccount>) -> Takeover {
    if user.is_some_and(|user| user.takeover) {
        Takeover::Yes
    } else {
        Takeover::No
    }
}

/// How far a synchronizer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How often it has read the ledger.
    pub looks: u64,
    /// At its latest look there was nothing to do, or nothing that it could do before a long pause.
    pub at_rest: bool,
}

/// The synchronizer of one iModel.
#[derive(Debug)]
pub struct Synchronizer {
    imodel_id: ImodelId,
    ledger: Ledger,
    client: Client,
    settings: watch::Receiver<Settings>,
    sync: config::Sync,
    policy: Policy,
    give_up: Duration,
    check_interval: Duration,
    scopes: HashMap<String, Scope>,
    /// Guessed connectors that were logged with a result, by watch.
    logged_guesses: HashSet<(String, Guess)>,
    wake: watch::Receiver<u64>,
    uploads: Arc<Notify>,
    progress: watch::Sender<Progress>,
    at_rest: bool,
    /// Failures in a row that concern the synchronizer rather than a file.
    failures: u32,
    not_before: Instant,
    /// Checks that failed in a row, and when the next one may begin.
    check_failures: u32,
    check_not_before: Instant,
    /// Which part of each connection the next check reads.
    check_turns: HashMap<ConnectionId, usize>,
    /// The run of another client that ours waits for.
    blocking: Option<Blocking>,
    /// The ledger may name such a run.
    blocking_recorded: bool,
    /// How often in a row the connection was not there although it was known.
    connection_losses: u32,
    /// When the latest run ended, and how long it took.
    last_run: Option<(Instant, Duration)>,
    /// Held from the record of results to their log lines: a stop leaves none of them out.
    concluding: Arc<Mutex<()>>,
    /// Runs in a row that were requested and then not found.
    lost_runs: u32,
    /// The last seen number of `wake`.
    asked: u64,
    /// What files wait for, as recorded in the ledger; None if that was not recorded by this process.
    root_wait: Option<Option<SpatialRootWait>>,
    /// What runs wait for, as recorded in the ledger; None if that was not recorded by this process.
    run_wait: Option<Option<WindowWait>>,
    /// Whether deleted files may be withdrawn now.
    withdrawals: Withdrawals,
    /// When the iModel was last found without changesets.
    found_empty: Option<Instant>,
    takeover: Takeover,
    owner: Owner,
    naming: named_versions::Attempts,
    applied: platform_settings::Attempts,
    /// When deleted files are looked for again, and how often in a row that failed.
    withdraw_not_before: Instant,
    withdrawal_failures: u32,
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Platform(#[from] itwin::Error),
}

impl Synchronizer {
    /// Builds a synchronizer; nothing runs yet.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let settings = deps.settings.borrow().clone();
        Self {
            imodel_id: deps.imodel_id,
            ledger: deps.ledger,
            client: deps.client,
            settings: deps.settings,
            policy: settings.policy(),
            give_up: settings.retry.give_up,
            check_interval: settings.check_interval,
            scopes: settings.scopes,
            logged_guesses: HashSet::new(),
            sync: settings.sync,
            wake: deps.wake,
            uploads: deps.uploads,
            progress: deps.progress,
            at_rest: false,
            failures: 0,
            not_before: Instant::now(),
            check_failures: 0,
            check_not_before: Instant::now(),
            check_turns: HashMap::new(),
            blocking: None,
            blocking_recorded: true,
            connection_losses: 0,
            last_run: None,
            concluding: Arc::default(),
            lost_runs: 0,
            asked: 0,
            root_wait: None,
            run_wait: None,
            withdrawals: Withdrawals::Allowed,
            found_empty: None,
            takeover: takeover(settings.user.as_ref()),
            owner: Owner::default(),
            naming: named_versions::Attempts::new(),
            applied: platform_settings::Attempts::default(),
            withdraw_not_before: Instant::now(),
            withdrawal_failures: 0,
        }
    }

    /// Synchronizes until `stop`. An open run continues on the platform; the next start finds it in the ledger.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ledger::Error> {
        let mut wake = self.wake.clone();
        let concluding = Arc::clone(&self.concluding);
        let work = async {
            loop {
                // Seen before the look at the ledger: what comes after it wakes the wait below.
                let asked = *wake.borrow_and_update();
                if asked != self.asked {
                    self.asked = asked;
                    self.failures = 0;
                    self.not_before = Instant::now();
                    self.check_not_before = Instant::now();
                    self.withdraw_not_before = Instant::now();
                    self.poll_blocking_soon();
                    self.naming.at_once();
                    self.applied.at_once();
                    self.owner.at_once();
                }
                let pause = self.step().await?;
                let at_rest = self.at_rest && !pause.is_zero();
                self.progress.send_modify(|progress| {
                    progress.looks += 1;
                    progress.at_rest = at_rest;
                });
                if pause.is_zero() {
                    continue;
                }
                tokio::select! {
                    // When the service ends, the sender goes; the wait for `stop` below takes over.
                    _ = wake.changed() => tokio::time::sleep(STEP_GAP.min(pause)).await,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        tokio::select! {
            ended = work => ended,
            _ = async { stop.cancelled().await; concluding.lock().await } => Ok(()),
        }
    }

    /// Does one step. Returns the pause before the next one; zero when there may be more to do.
    async fn step(&mut self) -> Result<Duration, ledger::Error> {
        if self.settings.has_changed().is_ok_and(|changed| changed) {
            let settings = self.settings.borrow_and_update().clone();
            self.policy = settings.policy();
            self.give_up = settings.retry.give_up;
            self.check_interval = settings.check_interval;
            self.sync = settings.sync;
            self.scopes = settings.scopes;
            self.applied.at_once();
            let takeover = takeover(settings.user.as_ref());
            if takeover != self.takeover {
                self.takeover = takeover;
                self.failures = 0;
                self.not_before = Instant::now();
                self.check_not_before = Instant::now();
            }
        }
        if self.client.signed_out().borrow().is_some() {
            // The service wakes it when a user is signed in.
            self.at_rest = true;
            return Ok(IDLE_MAX);
        }
        if let Some(open) = self.ledger.open_run(&self.imodel_id).await? {
            return self.follow(&open).await;
        }
        if let Some(pause) = self.await_owner().await? {
            self.at_rest = true;
            return Ok(pause.min(IDLE_MAX));
        }
        let naming = self.name_version().await?;
        let settings = self.check_settings().await?;
        if settings.is_zero() {
            return Ok(settings);
        }
        Ok(self.next_run().await?.min(naming).min(settings))
    }

    /// Starts a run if one is due, or checks the platform.
    async fn next_run(&mut self) -> Result<Duration, ledger::Error> {
        let left = self.not_before.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(left);
        }
        self.at_rest = false;
        let now = crate::clock::now();
        let mut backlog = self.ledger.backlog(&self.imodel_id, now).await?;
        let connections = self.ledger.connections(&self.imodel_id).await?;
        let mut references_since: Option<Timestamp> = None;
        for connection in &connections {
            // A reference file has no waiting job, but the files that refer to it need a run.
            if let Some(at) = connection.moved_on
                && self.ledger.holds_source_files(connection.id).await?
            {
                references_since = Some(references_since.map_or(at, |since| since.min(at)));
                backlog = batching::with_references(backlog, at);
            }
        }
        let mut sync = self.sync.clone();
        self.withdrawals = Withdrawals::Allowed;
        match self.window(&backlog, references_since, now).await? {
            Window::Open => {}
            Window::Requested => sync.batch_window = sync.batch_window.min(window::BATCH_WINDOW),
            Window::ClosedUntil(until) => {
                self.withdrawals = Withdrawals::Wait;
                let next = self.withdraw(&connections, now).await?;
                if next.is_zero() {
                    return Ok(next);
                }
                let opens = until.duration_since(now).unsigned_abs();
                return self.rest(&connections, opens.min(next), now).await;
            }
        }
        match self.gate(&backlog, now).await? {
            Gate::Open(Extent::All) => {}
            Gate::Open(root) => {
                return match self.poll_blocking().await? {
                    Some(pause) => Ok(pause),
                    None => self.start_run(&connections, root, now).await,
                };
            }
            Gate::Closed => {
                self.at_rest = true;
                return Ok(batching::until_due(&backlog, now).min(IDLE_MAX));
            }
        }
        let next_withdrawal = self.withdraw(&connections, now).await?;
        if next_withdrawal.is_zero() {
            return Ok(Duration::ZERO);
        }
        match batching::decide(&backlog, now, &sync, self.last_run()) {
            Batch::WaitFor(pause) => {
                // What waits for a run is read when the run is requested.
                if backlog.first.is_some() {
                    return Ok(pause.min(IDLE_MAX));
                }
                let pause = pause.min(next_withdrawal);
                self.rest(&connections, pause, now).await
            }
            Batch::Ready => match self.poll_blocking().await? {
                Some(pause) => Ok(pause),
                None => self.start_run(&connections, Extent::All, now).await,
            },
        }
    }

    /// Requests a run for the first connection that has something to run; the others follow after it.
    async fn start_run(
        &mut self,
        connections: &[ConnectionRecord],
        extent: Extent,
        now: Timestamp,
    ) -> Result<Duration, ledger::Error> {
        let concerned = connections
            .iter()
            .filter(|connection| extent.has_connection(connection.id));
        let mut waits = false;
        for connection in concerned {
            if self.applied.pause(connection.id).is_some() {
                waits = true;
                continue;
            }
            // The others may have to wait for a set that is already in the connection.
            if self.check_sets(connection, now).await? == Sets::Refused {
                return Ok(Duration::ZERO);
            }
            let mut files = self.ledger.connection_files(connection.id, now).await?;
            files.retain(|file| file.awaits_run() && extent.has_file(file));
            let references = extent == Extent::All
                && connection.moved_on.is_some()
                && self.ledger.holds_source_files(connection.id).await?;
            if files.is_empty() && !references {
                continue;
            }
            let requested = match self.reconcile(connection, extent, Read::Everything).await {
                Ok(Some(platform_id)) => {
                    self.claim_refused(None).await?;
                    if self.apply_settings(connection, &platform_id).await? == Applied::No {
                        waits = true;
                        continue;
                    }
                    self.request(connection, &platform_id, references).await
                }
                Ok(None) => continue,
                Err(trouble) => Err(trouble),
            };
            match requested {
                Ok(Requested::Open) => {
                    self.failures = 0;
                    self.connection_losses = 0;
                    return Ok(Duration::ZERO);
                }
                Ok(Requested::Nothing) => {}
                Ok(Requested::Wait(pause)) => {
                    self.not_before = Instant::now() + pause;
                    return Ok(pause);
                }
                Err(SyncError::Ledger(error)) => return Err(error),
                Err(SyncError::Platform(error)) => {
                    return self.reschedule(connection, &files, &error).await;
                }
            }
        }
        let pause = IDLE_MAX.min(self.sync.batch_window);
        if waits {
            // Without a run, the other checks go by their own times.
            return self.rest(connections, pause, now).await;
        }
        self.at_rest = true;
        Ok(pause)
    }

    /// The platform refused a request that concerns all files of the batch.
    async fn reschedule(
        &mut self,
        connection: &ConnectionRecord,
        files: &[ConnectionFile],
        error: &itwin::Error,
    ) -> Result<Duration, ledger::Error> {
        let now = crate::clock::now();
        if error.class() == Class::AwaitsUser {
            self.claim_refused(Some(error)).await?;
        }
        if error.is_not_found() {
            self.connection_losses = self.connection_losses.saturating_add(1);
            self.ledger.set_connection(connection.id, None).await?;
            if self.connection_losses > 1 {
                error!(
                    imodel = %self.imodel_id, connection = connection.name, times = self.connection_losses, %error,
                    hint = "check in the iTwin portal whether another client deletes it or the iModel was deleted",
                    "connection was deleted again after it was created"
                );
            } else {
                warn!(imodel = %self.imodel_id, connection = connection.name, %error, "connection was deleted; looking for it again");
            }
        }
        let files: Vec<&ConnectionFile> = files.iter().collect();
        self.refuse_all(&files, error, now).await?;
        self.failures = self.failures.saturating_add(1);
        let pause = self.policy.delay(self.failures, None);
        self.not_before = Instant::now() + pause;
        self.at_rest = true;
        let hint = error.hint();
        let next = clock_time(next_attempt::after(now, pause));
        warn!(
            imodel = %self.imodel_id, connection = connection.name, files = files.len(), %error, hint, next,
            "cannot request a run; trying again"
        );
        Ok(pause)
    }

    /// Reschedules or fails all these files for one reason.
    async fn refuse_all(
        &self,
        files: &[&ConnectionFile],
        error: &itwin::Error,
        now: Timestamp,
    ) -> Result<(), ledger::Error> {
        let mut refusals: Vec<(FileId, Refusal)> = Vec::with_capacity(files.len());
        for file in files {
            let failure = Failure {
                class: error.class(),
                reason: format!("cannot synchronize {}: {error}", QuotedPath(&file.path)),
                hint: error.hint(),
            };
            let history = History {
                attempt: file.job.map_or(0, |job| job.attempts).saturating_add(1),
                failing_since: file.job.and_then(|job| job.failing_since),
            };
            let refusal = next_attempt::refusal(failure, history, &self.policy, self.give_up, now);
            if matches!(refusal.again, Again::FailedUntil(_) | Again::Never) {
                report_failure(file, &refusal);
            }
            refusals.push((file.file, refusal));
        }
        self.ledger.put_off_stored(&refusals, now).await?;
        // A file that failed until a time is tried by the upload stage, which has to know that time.
        self.uploads.notify_one();
        Ok(())
    }
}
