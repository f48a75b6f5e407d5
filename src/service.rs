//! The supervisor: starts every task of the service by name, watches that none of them ends, and stops them in order.
//!
//! A task that ends unexpectedly, by an error or a panic, stops the service with an error: systemd restarts it, and the ledger
//! knows the state of all work. At the stop signal no new work is started; running uploads may finish within the grace period;
//! the rest continues at the next start.
//!
//! The service is ready when configuration, ledger and client are, not when every share is: an unreachable one is reported
//! (`watchdog`). SIGHUP reloads the configuration (`reload`). `systemd` receives all of it.

mod clock;
mod descriptors;
mod host_backoffs;
mod interfaces;
mod reload;
pub mod signals;
mod systemd;
mod watchdog;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Config, Watch};
use crate::itwin::{self, Client, Settings};
use crate::ledger::{self, Ledger, Outcome, Summary, WatchId, WatchSpec};
use crate::runtime_status::StatusTracker;
use crate::synchronizer::{self, Synchronizer};
use crate::upload::{self, UploadPool};
use crate::watch::{self as watching, Progress, ReadySink};
pub use reload::Reloads;
use watchdog::Watchdog;

/// `run --once` does not wait for jobs whose next attempt is later than this.
const PASS_PATIENCE: Duration = Duration::from_secs(60);

/// `run --once` does not wait for jobs that failed this often.
const PASS_ATTEMPTS: u32 = 6;

/// How long `run --once` waits when only unreadable files are left.
const PASS_BUSY: Duration = Duration::from_secs(20);

/// How the names of watches' tasks begin.
const WATCH: &str = "watch ";

/// How often `run --once` checks whether it is done.
const PASS_LOOK: Duration = Duration::from_millis(100);

/// Requests that may wait for the task of a watch; more would only repeat the same.
const ORDERS: usize = 16;

/// When the service ends without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the stop signal.
    Stopped,
    /// When all files that were found are processed (`run --once`).
    Done,
}

/// The result of `run --once`.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Results of this run, by kind.
    pub results: Vec<(Outcome, u64)>,
    /// Jobs that are left.
    pub open: Summary,
    /// Watches whose folder cannot be reached, with the reason.
    pub unreachable: Vec<(String, String)>,
    /// Watches that are only partly readable, with the reason.
    pub left_out: Vec<(String, String)>,
}

/// Why the service failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The client could not be set up.
    #[error("cannot set up the client for the iTwin Platform")]
    Client(#[source] itwin::Error),
    /// A watch failed.
    #[error(transparent)]
    Watch(#[from] watching::Error),
    /// A task ended that should run until the stop.
    #[error("task {0:?} ended unexpectedly")]
    Ended(String),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// What the reader can do about it, when there is something specific.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.of_ledger().and_then(ledger::Error::hint)
    }

    /// Whether another process uses the state directory.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self.of_ledger(), Some(ledger::Error::InUse { .. }))
    }

    fn of_ledger(&self) -> Option<&ledger::Error> {
        match self {
            Self::Ledger(error) | Self::Watch(watching::Error::Ledger(error)) => Some(error),
            _ => None,
        }
    }
}

impl Pass {
    /// Whether every file that was found is synchronized.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.open == Summary::default() && self.unreachable.is_empty() && self.left_out.is_empty()
    }
}

/// Runs the whole service until `stop` is cancelled, or until it is done. `reloads` provides new configurations meanwhile.
///
/// # Errors
/// When the ledger cannot be opened or fails, or a task ends unexpectedly.
pub async fn run(
    mut config: Config,
    until: Until,
    stop: CancellationToken,
    mut reloads: Option<Reloads>,
) -> Result<Pass, Error> {
    crate::clock::make_steady();
    let began = crate::clock::now();
    descriptors::raise();
    let ledger = systemd::extending_timeout(Ledger::open(&config.state.path)).await?;
    if let Some((path, what)) = ledger.moved_aside() {
        error!(
            ?path,
            what,
            hint = "no action needed: all folders are scanned and compared with storage",
            "ledger damaged: moved it aside and started a new one"
        );
    }
    clock::correct(&ledger).await?;
    let client = client(&config).map_err(Error::Client)?;
    host_backoffs::resume(&client, &ledger).await?;
    if let Some(proxy) = &config.network.proxy {
        let no_proxy = config.network.no_proxy.join(", ");
        info!(
            proxy = proxy.url.authority(),
            no_proxy, "connecting to the platform through a proxy"
        );
    }
    let mut tasks = Tasks::start(&config, &ledger, &client).await?;
    tasks.start_interfaces(&config, &ledger, &client).await?;
    systemd::ready(&watchdog::line(&ledger, None).await?);
    tasks.watchdog(&ledger);
    let pass = tasks.pass();
    let looked_at = ledger.clone();
    let done = async move {
        match until {
            Until::Done => done(pass, looked_at).await,
            Until::Stopped => std::future::pending().await,
        }
    };
    tokio::pin!(done);
    let ended = loop {
        tokio::select! {
            ended = tasks.unasked_end() => break Err(ended),
            () = stop.cancelled() => break Ok(()),
            done = &mut done => break done,
            (loaded, levels) = reload::next(&mut reloads) => {
                let note = match loaded {
                    Ok(new) => match tasks.reload(&config, new, &ledger, &client, levels).await {
                        Ok(taken) => {
                            config = taken;
                            None
                        }
                        Err(error) => break Err(error),
                    },
                    Err(mistakes) => Some(reload::refuse(&mistakes)),
                };
                match watchdog::line(&ledger, note.as_deref()).await {
                    Ok(line) => systemd::ready(&line),
                    Err(error) => break Err(error.into()),
                }
                tasks.note.send_replace(note);
            }
        }
    };
    systemd::stopping(config.shutdown_grace);
    let unreachable = tasks.troubles(|progress| progress.problem.clone());
    let left_out = tasks.troubles(|progress| progress.left_out.clone());
    tasks.stop(config.shutdown_grace).await;
    if let Err(error) = &ended
        && let Some(error) = error.of_ledger()
    {
        ledger.mark_corrupt(error);
    }
    let results = ledger.results_since(began).await?;
    let open = ledger.summary(crate::clock::now()).await?;
    ended?;
    // Not after an error, which may be the ledger's: then the next start checks the ledger.
    ledger.close().await;
    info!(
        pending = open.pending + open.later,
        failed = open.failed,
        "stopped"
    );
    Ok(Pass {
        results,
        open,
        unreachable,
        left_out,
    })
}

/// The platform's client as configured.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(config: &Config) -> Result<Client, itwin::Error> {
    Client::new(Settings {
        api_url: config.itwin.api_url.clone(),
        issuer_url: config.itwin.issuer_url.clone(),
        client_id: config.itwin.client_id.clone(),
        client_secret: config.itwin.client_secret.clone(),
        scope: config.itwin.scope.clone(),
        requests_per_minute: config.itwin.requests_per_minute,
        rate: config.upload.rate.clone(),
        network: network(&config.network),
    })
}

fn network(config: &config::Network) -> itwin::Network {
    let proxy = config.proxy.as_ref().map(|proxy| itwin::Proxy {
        url: proxy.url.clone(),
        login: proxy.login.clone(),
    });
    itwin::Network {
        proxy,
        no_proxy: config.no_proxy.clone(),
        extra_certificates: config.extra_certificates.clone(),
        connect_timeout: config.connect_timeout,
        idle_timeout: config.idle_timeout,
        total_timeout: config.total_timeout,
    }
}

struct Tasks {
    set: JoinSet<(String, Result<(), Error>)>,
    stop: CancellationToken,
    roots: HashMap<String, Root>,
    synchronizers: BTreeMap<String, watch::Receiver<synchronizer::Progress>>,
    wake_uploads: Arc<Notify>,
    /// The kernel's file events, for all watches together.
    events: watching::Events,
    /// Incremented when an operator wants synchronizers to act now.
    wake_synchronizers: watch::Sender<u64>,
    live: StatusTracker,
    upload_settings: watch::Sender<upload::Settings>,
    synchronizer_settings: watch::Sender<synchronizer::Settings>,
    /// When the upload queue was checked last.
    queue: watch::Receiver<Instant>,
    /// For the status line.
    note: watch::Sender<Option<String>>,
    /// Watch tasks that were told to stop and are still running.
    ending: usize,
}

/// The task of one watch.
struct Root {
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
}

/// What `run --once` watches to know that it is done.
struct InPass {
    roots: Vec<watch::Receiver<Progress>>,
    synchronizers: Vec<watch::Receiver<synchronizer::Progress>>,
    wake_synchronizers: watch::Sender<u64>,
}

impl Tasks {
    async fn start(config: &Config, ledger: &Ledger, client: &Client) -> Result<Self, Error> {
        let watches = register(config, ledger).await?;
        let (turned, queue) = watch::channel(Instant::now());
        let mut tasks = Self {
            set: JoinSet::new(),
            stop: CancellationToken::new(),
            roots: HashMap::new(),
            synchronizers: BTreeMap::new(),
            wake_uploads: Arc::default(),
            events: watching::Events::default(),
            wake_synchronizers: watch::Sender::new(0),
            live: StatusTracker::new(),
            upload_settings: watch::Sender::new(upload::Settings {
                limits: config.upload.clone(),
                retry: config.retry.clone(),
                watches: watches.iter().cloned().collect(),
            }),
            synchronizer_settings: watch::Sender::new(synchronizer::Settings {
                sync: config.sync.clone(),
                retry: config.retry.clone(),
                check_interval: check_interval(&config.watches),
            }),
            queue,
            note: watch::Sender::new(None),
            ending: 0,
        };
        for watch in &config.watches {
            tasks.synchronizer(&watch.imodel_id, ledger, client);
        }
        let uploads = UploadPool::new(upload::Deps {
            ledger: ledger.clone(),
            client: client.clone(),
            unfinished: config.state.path.join("unfinished"),
            settings: tasks.upload_settings.subscribe(),
            wake: Arc::clone(&tasks.wake_uploads),
            synchronizers: tasks.wake_synchronizers.clone(),
            turned,
            live: tasks.live.clone(),
        });
        let stop = tasks.stop.clone();
        tasks.spawn(
            "uploads".to_owned(),
            async move { Ok(uploads.run(stop).await?) },
        );
        let pauses = host_backoffs::record(client.clone(), ledger.clone(), tasks.stop.clone());
        tasks.spawn("pauses".to_owned(), async move { Ok(pauses.await?) });
        let clock = clock::follow(
            ledger.clone(),
            Arc::clone(&tasks.wake_uploads),
            tasks.wake_synchronizers.clone(),
        );
        let stop = tasks.stop.clone();
        tasks.spawn("clock".to_owned(), async move {
            tokio::select! {
                ended = clock => Ok(ended?),
                () = stop.cancelled() => Ok(()),
            }
        });
        for (id, watch) in watches {
            tasks.watch(id, watch, ledger);
        }
        Ok(tasks)
    }

    /// Starts the watchdog.
    fn watchdog(&mut self, ledger: &Ledger) {
        let watchdog = Watchdog {
            ledger: ledger.clone(),
            queue: self.queue.clone(),
            note: self.note.subscribe(),
        };
        let stop = self.stop.clone();
        self.spawn("watchdog".to_owned(), async move {
            tokio::select! {
                ended = watchdog.run() => Ok(ended?),
                () = stop.cancelled() => Ok(()),
            }
        });
    }

    /// Starts the synchronizer of an iModel, if there is none yet.
    fn synchronizer(&mut self, imodel_id: &str, ledger: &Ledger, client: &Client) {
        if self.synchronizers.contains_key(imodel_id) {
            return;
        }
        let (progress, seen) = watch::channel(synchronizer::Progress::default());
        self.synchronizers.insert(imodel_id.to_owned(), seen);
        let synchronizer = Synchronizer::new(synchronizer::Deps {
            imodel_id: imodel_id.to_owned(),
            ledger: ledger.clone(),
            client: client.clone(),
            settings: self.synchronizer_settings.subscribe(),
            wake: self.wake_synchronizers.subscribe(),
            uploads: Arc::clone(&self.wake_uploads),
            progress,
        });
        let stop = self.stop.clone();
        self.spawn(format!("synchronizer {imodel_id}"), async move {
            Ok(synchronizer.run(stop).await?)
        });
    }

    /// Starts the task of a watch.
    fn watch(&mut self, id: WatchId, watch: Watch, ledger: &Ledger) {
        info!(
            watch = watch.name, path = ?watch.path, imodel = watch.imodel_id, settle = ?watch.settle_policy.settle,
            storage_folder = watch.storage_folder.join("/"), "watch started"
        );
        let (progress, seen) = watch::channel(Progress::default());
        let (orders, taken) = mpsc::channel(ORDERS);
        self.live
            .watch_root(&watch.name, progress.subscribe(), orders);
        let stop = self.stop.child_token();
        let root = Root {
            progress: seen,
            stop: stop.clone(),
        };
        self.roots.insert(watch.name.clone(), root);
        let out = ReadySink {
            ledger: ledger.clone(),
            wake: Arc::clone(&self.wake_uploads),
            events: self.events.clone(),
        };
        let name = format!("{WATCH}{}", watch.name);
        self.spawn(name, async move {
            Ok(watching::run(watch, id, out, progress, taken, stop).await?)
        });
    }

    /// Ends the task of a watch.
    fn unwatch(&mut self, name: &str) {
        if let Some(root) = self.roots.remove(name) {
            root.stop.cancel();
            self.ending += 1;
        }
    }

    fn spawn(
        &mut self,
        name: String,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits for a task to end unexpectedly.
    async fn unasked_end(&mut self) -> Error {
        loop {
            return match self.set.join_next().await {
                Some(Ok((_, Err(error)))) => error,
                // Only watch tasks that were told to stop end without an error.
                Some(Ok((name, Ok(())))) if self.ending > 0 && name.starts_with(WATCH) => {
                    self.ending -= 1;
                    continue;
                }
                Some(Ok((name, Ok(())))) => Error::Ended(name),
                Some(Err(panic)) => Error::Panicked(panic.to_string()),
                None => Error::Ended("all".to_owned()),
            };
        }
    }

    fn pass(&self) -> InPass {
        InPass {
            roots: self
                .roots
                .values()
                .map(|root| root.progress.clone())
                .collect(),
            synchronizers: self.synchronizers.values().cloned().collect(),
            wake_synchronizers: self.wake_synchronizers.clone(),
        }
    }

    /// One property of each watch that has it, by name.
    fn troubles(&self, of: impl Fn(&Progress) -> Option<String>) -> Vec<(String, String)> {
        self.roots
            .iter()
            .filter_map(|(name, root)| Some((name.clone(), of(&root.progress.borrow())?)))
            .collect()
    }

    /// Stops everything: watches and synchronizers at once, uploads within the grace period.
    async fn stop(mut self, grace: Duration) {
        self.stop.cancel();
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    warn!(task = name, %error, "task failed during shutdown");
                }
            }
        });
        if drained.await.is_err() {
            warn!(
                grace_seconds = grace.as_secs_f64(),
                "shutdown grace period expired: running uploads continue at the next start"
            );
        }
        self.set.shutdown().await;
    }
}

/// Waits until every folder is scanned, every readable file is queued, and every job is finished or has to wait.
async fn done(pass: InPass, ledger: Ledger) -> Result<(), Error> {
    // Since when only unreadable files are left.
    let mut only_busy: Option<Instant> = None;
    // When other jobs were seen last.
    let mut others = Instant::now();
    loop {
        let soon = crate::next_attempt::after(crate::clock::now(), PASS_PATIENCE);
        let awaited = ledger.awaited(PASS_ATTEMPTS, soon).await?;
        let now = Instant::now();
        // An unreadable file is shortly in progress at each attempt.
        if awaited.0 == 0 {
            others = now;
        }
        if awaited == (0, 0) || others.elapsed() >= PASS_PATIENCE / 10 {
            only_busy = None;
        } else if awaited.0 == 0 {
            only_busy = only_busy.or(Some(now));
        }
        let left = |awaited: (u64, u64)| {
            let patient = only_busy.is_some_and(|since| since.elapsed() >= PASS_BUSY);
            awaited == (0, 0) || (awaited.0 == 0 && patient)
        };
        // The synchronizers last: an uploaded reference file leaves no job, but requires a run.
        if pass.roots_at_rest()
            && left(awaited)
            && pass.synchronizers_at_rest().await
            && left(ledger.awaited(PASS_ATTEMPTS, soon).await?)
        {
            return Ok(());
        }
        tokio::time::sleep(PASS_LOOK).await;
    }
}

impl InPass {
    fn roots_at_rest(&self) -> bool {
        self.roots.iter().all(|root| {
            let progress = root.borrow();
            progress.at_rest || progress.problem.is_some()
        })
    }

    /// Whether every synchronizer finds nothing to do when it checks once more.
    async fn synchronizers_at_rest(&self) -> bool {
        let before: Vec<u64> = self
            .synchronizers
            .iter()
            .map(|synchronizer| synchronizer.borrow().looks)
            .collect();
        self.wake_synchronizers.send_modify(|_asked| ());
        for (synchronizer, before) in self.synchronizers.iter().zip(before) {
            let mut synchronizer = synchronizer.clone();
            // A synchronizer that ended stops the service elsewhere.
            let looked = synchronizer
                .wait_for(|progress| progress.looks > before)
                .await;
            if looked.is_ok_and(|progress| !progress.at_rest) {
                return false;
            }
        }
        true
    }
}

/// How often the state of the platform is compared: as often as the folders are scanned in full.
fn check_interval(watches: &[Watch]) -> Duration {
    let intervals = watches.iter().map(|watch| watch.rescan_interval);
    intervals.min().unwrap_or(Duration::MAX)
}

async fn register(config: &Config, ledger: &Ledger) -> Result<Vec<(WatchId, Watch)>, Error> {
    let specs: Vec<WatchSpec> = config
        .watches
        .iter()
        .map(|watch| WatchSpec {
            name: watch.name.clone(),
            imodel_id: watch.imodel_id.clone(),
            storage_folder: watch.storage_folder.join("/"),
            connection: watch.connection.clone(),
            bulk_change_limit: config.bulk_change_limit,
        })
        .collect();
    let registered = ledger.register_watches(&specs, crate::clock::now()).await?;
    let mut watches = Vec::with_capacity(registered.len());
    for ((id, forgotten), watch) in registered.into_iter().zip(&config.watches) {
        if forgotten > 0 {
            warn!(
                watch = watch.name,
                files = forgotten,
                "iModel or storage folder changed: all files will be uploaded again"
            );
        }
        watches.push((id, watch.clone()));
    }
    Ok(watches)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client with a certificate that is none.
    fn unusable_client() -> itwin::Error {
        let environment = config::Environment {
            client_secret: Some(crate::secret::Secret::new("tiger")),
            ..config::Environment::default()
        };
        let text = "[itwin]\nclient_id = \"one\"\n[[watch]]\nname = \"north\"\npath = \"/srv/north\"\n\
                    imodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n";
        let mut config = Config::parse(text, "config.toml", &environment).unwrap();
        config.network.extra_certificates = vec![b"no certificate".to_vec()];
        client(&config).unwrap_err()
    }

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Ledger(_) => Error::Ledger(ledger::Error::InUse {
                path: "/var/lib/itwin-syncd".into(),
                pid: Some("812".to_owned()),
            }),
            Error::Client(_) => Error::Client(unusable_client()),
            Error::Watch(_) => Error::Watch(watching::Error::Ledger(ledger::Error::Missing {
                path: "/var/lib/itwin-syncd".into(),
            })),
            Error::Ended(_) => Error::Ended("uploads".to_owned()),
            Error::Panicked(_) => Error::Panicked("task 7 panicked".to_owned()),
        }));
    }
}
