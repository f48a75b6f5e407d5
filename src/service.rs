//! Starts every task of the service by name, sees that they live, and stops them in order.
//!
//! A task that ends unasked, by an error or a panic, stops the service with an error: systemd starts it again, and the
//! ledger knows where everything was. On the stop signal no new work is taken; uploads in hand may finish within the
//! grace period; what is left goes on at the next start.
//!
//! The service is ready when configuration, ledger and client stand, not when every share does: one that is away shows as such (`pulse`). At SIGHUP the
//! configuration is read again (`reload`). systemd is told of all of it (`systemd`).

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
use crate::runtime_status::Live;
use crate::synchronizer::{self, Synchronizer};
use crate::upload::{self, Uploads};
use crate::watch::{self as watching, Handover, Progress};
pub use reload::Reloads;
use watchdog::Pulse;

/// In a single pass a job whose next attempt is further away than this is left to the next pass.
const PASS_PATIENCE: Duration = Duration::from_secs(60);

/// A single pass leaves a job that failed so often to the next pass.
const PASS_ATTEMPTS: u32 = 6;

/// How long a single pass waits when all that is left are files that cannot be read.
const PASS_BUSY: Duration = Duration::from_secs(20);

/// How the names of watches' tasks begin.
const WATCH: &str = "watch ";

/// How often a single pass looks whether it is done.
const PASS_LOOK: Duration = Duration::from_millis(100);

/// Orders that may wait for a folder's task; more would only ask for the same again.
const ORDERS: usize = 16;

/// When the service ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never: it waits for the stop signal.
    Stopped,
    /// When all that was found is at an end.
    Done,
}

/// What a single pass came to.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Results that were written in this pass, by kind.
    pub results: Vec<(Outcome, u64)>,
    /// What is left.
    pub open: Summary,
    /// Watches whose folder cannot be reached, with the reason.
    pub unreachable: Vec<(String, String)>,
    /// Watches of which a part cannot be read, with what and why.
    pub left_out: Vec<(String, String)>,
}

/// Why the service ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The client could not be set up.
    #[error("the client of the iTwin Platform could not be set up")]
    Client(#[source] itwin::Error),
    /// A watch failed.
    #[error(transparent)]
    Watch(#[from] watching::Error),
    /// A task ended that never should.
    #[error("the task {0:?} ended by itself")]
    Ended(String),
    /// A task panicked.
    #[error("a task of the service panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// What the reader can do about it, when there is something specific.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.of_ledger().and_then(ledger::Error::hint)
    }

    fn of_ledger(&self) -> Option<&ledger::Error> {
        match self {
            Self::Ledger(error) | Self::Watch(watching::Error::Ledger(error)) => Some(error),
            _ => None,
        }
    }
}

impl Pass {
    /// Whether everything that was found is where it belongs.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.open == Summary::default() && self.unreachable.is_empty() && self.left_out.is_empty()
    }
}

/// Runs the whole service until `stop` is cancelled, or until it is done. `reloads` brings other configurations meanwhile.
///
/// # Errors
/// When the ledger cannot be opened or fails, or a task ends unasked.
pub async fn run(
    mut config: Config,
    until: Until,
    stop: CancellationToken,
    mut reloads: Option<Reloads>,
) -> Result<Pass, Error> {
    crate::clock::hold();
    let began = crate::clock::now();
    descriptors::raise();
    let ledger = systemd::patient(Ledger::open(&config.state.path)).await?;
    if let Some((path, what)) = ledger.moved_aside() {
        error!(
            ?path,
            what,
            hint = "nothing is lost: all folders are scanned, and compared with what storage holds",
            "the ledger was damaged and has been moved aside; a new one begins"
        );
    }
    clock::correct(&ledger).await?;
    let client = client(&config).map_err(Error::Client)?;
    host_backoffs::resume(&client, &ledger).await?;
    if let Some(proxy) = &config.network.proxy {
        let no_proxy = config.network.no_proxy.join(", ");
        info!(
            proxy = proxy.url.authority(),
            no_proxy, "the platform is reached through a proxy"
        );
    }
    let mut tasks = Tasks::start(&config, &ledger, &client).await?;
    tasks.open_to_people(&config, &ledger, &client).await?;
    systemd::ready(&watchdog::line(&ledger, None).await?);
    tasks.pulse(&ledger);
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
        ledger.condemn(error);
    }
    let results = ledger.results_since(began).await?;
    let open = ledger.summary(crate::clock::now()).await?;
    ended?;
    // Not after an error, which may be the ledger's: the next start is to check it.
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
    /// Rises when a person asks a synchronizer not to wait any longer.
    wake_synchronizers: watch::Sender<u64>,
    live: Live,
    upload_settings: watch::Sender<upload::Settings>,
    synchronizer_settings: watch::Sender<synchronizer::Settings>,
    /// When the queue of uploads was looked at last.
    queue: watch::Receiver<Instant>,
    /// For the status line.
    note: watch::Sender<Option<String>>,
    /// Tasks of watches that were asked to end and have not yet.
    ending: usize,
}

/// The task of one watch.
struct Root {
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
}

/// What a single pass needs to see in order to know that it is done.
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
            live: Live::new(),
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
        let uploads = Uploads::new(upload::Parts {
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

    /// Starts the sign of life.
    fn pulse(&mut self, ledger: &Ledger) {
        let pulse = Pulse {
            ledger: ledger.clone(),
            queue: self.queue.clone(),
            note: self.note.subscribe(),
        };
        let stop = self.stop.clone();
        self.spawn("pulse".to_owned(), async move {
            tokio::select! {
                ended = pulse.run() => Ok(ended?),
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
        let synchronizer = Synchronizer::new(synchronizer::Parts {
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
            watch = watch.name, path = ?watch.path, imodel = watch.imodel_id, settle = ?watch.patience.settle,
            storage_folder = watch.storage_folder.join("/"), "watching"
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
        let out = Handover {
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

    /// Waits for a task to end although it was not asked to.
    async fn unasked_end(&mut self) -> Error {
        loop {
            return match self.set.join_next().await {
                Some(Ok((_, Err(error)))) => error,
                // Of watches only those end well that were asked to.
                Some(Ok((name, Ok(())))) if self.ending > 0 && name.starts_with(WATCH) => {
                    self.ending -= 1;
                    continue;
                }
                Some(Ok((name, Ok(())))) => Error::Ended(name),
                Some(Err(panic)) => Error::Panicked(panic.to_string()),
                None => Error::Ended("all of them".to_owned()),
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

    /// What the watches say of themselves, by name.
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
                    warn!(task = name, %error, "ended with an error while stopping");
                }
            }
        });
        if drained.await.is_err() {
            warn!(
                seconds = grace.as_secs_f64(),
                "uploads did not end within the grace period; they go on at the next start"
            );
        }
        self.set.shutdown().await;
    }
}

/// Waits until every folder is scanned, every file found that can be opened is handed over, and every job is at an end or
/// has to wait.
async fn done(pass: InPass, ledger: Ledger) -> Result<(), Error> {
    // Since when nothing but files that cannot be read is waited for.
    let mut only_busy: Option<Instant> = None;
    // When there was nothing else the last time.
    let mut others = Instant::now();
    loop {
        let soon = crate::next_attempt::after(crate::clock::now(), PASS_PATIENCE);
        let awaited = ledger.awaited(PASS_ATTEMPTS, soon).await?;
        let now = Instant::now();
        // Such a file is under way for a moment now and then.
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
        // The synchronizers last: a reference file that was uploaded leaves no job, yet asks for a run.
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

    /// Whether every synchronizer finds nothing to do when it looks once more.
    async fn synchronizers_at_rest(&self) -> bool {
        let before: Vec<u64> = self
            .synchronizers
            .iter()
            .map(|synchronizer| synchronizer.borrow().looks)
            .collect();
        self.wake_synchronizers.send_modify(|_asked| ());
        for (synchronizer, before) in self.synchronizers.iter().zip(before) {
            let mut synchronizer = synchronizer.clone();
            // A synchronizer that is gone ends the service by itself.
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

/// How often the platform is asked what it holds: as often as the folders are scanned in full.
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
            brake: config.brake_files,
        })
        .collect();
    let registered = ledger.register_watches(&specs, crate::clock::now()).await?;
    let mut watches = Vec::with_capacity(registered.len());
    for ((id, forgotten), watch) in registered.into_iter().zip(&config.watches) {
        if forgotten > 0 {
            warn!(
                watch = watch.name,
                files = forgotten,
                "iModel or storage folder changed: all files are uploaded anew"
            );
        }
        watches.push((id, watch.clone()));
    }
    Ok(watches)
}
