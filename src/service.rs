//! Starts every task of the service by name, sees that they live, and stops them in order.
//!
//! A task that ends unasked, by an error or a panic, stops the service with an error: systemd starts it again, and the
//! ledger knows where everything was. On the stop signal no new work is taken; uploads in hand may finish within the
//! grace period; what is left goes on at the next start.

mod pauses;
pub mod signals;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::alert;
use crate::config::{Config, Watch};
use crate::control::{self, Desk};
use crate::itwin::{self, Client, Settings};
use crate::lane::{self, Lane};
use crate::ledger::{self, Ledger, Outcome, Summary, WatchId, WatchSpec};
use crate::live::Live;
use crate::upload::{self, Uploads};
use crate::watch::{self as watching, Handover, Progress};
use crate::web;

/// In a single pass a job whose next attempt is further away than this is left to the next pass.
const PASS_PATIENCE: Duration = Duration::from_secs(60);

/// How often a single pass looks whether it is done.
const PASS_LOOK: Duration = Duration::from_millis(100);

/// Orders that may wait for a folder's task; more would only ask for the same again.
const ORDERS: usize = 16;

/// How often old history is looked for.
const HISTORY_LOOK: Duration = Duration::from_secs(3600);

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
    /// An alert failed.
    #[error(transparent)]
    Alert(#[from] alert::Error),
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
        self.open == Summary::default() && self.unreachable.is_empty()
    }
}

/// Runs the whole service until `stop` is cancelled, or until it is done.
///
/// # Errors
/// When the ledger cannot be opened or fails, or a task ends unasked.
pub async fn run(config: Config, until: Until, stop: CancellationToken) -> Result<Pass, Error> {
    let began = Timestamp::now();
    let ledger = Ledger::open(&config.state.path).await?;
    if let Some((path, what)) = ledger.moved_aside() {
        error!(
            ?path,
            what,
            hint = "nothing is lost: all folders are scanned, and compared with what storage holds",
            "the ledger was damaged and has been moved aside; a new one begins"
        );
    }
    let client = client(&config).map_err(Error::Client)?;
    pauses::resume(&client, &ledger).await?;
    let live = Live::new();
    let mut tasks = Tasks::start(&config, &ledger, &client, &live).await?;
    tasks
        .open_to_people(&config, &ledger, &client, &live)
        .await?;
    tell_systemd(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("watching {} folders", config.watches.len())),
    ]);
    let pass = tasks.pass();
    let ended = tokio::select! {
        ended = tasks.unasked_end() => Err(ended),
        () = stop.cancelled() => Ok(()),
        done = done(pass, ledger.clone()), if until == Until::Done => done,
    };
    tell_systemd(&[NotifyState::Stopping]);
    let unreachable = tasks.unreachable();
    tasks.stop(config.shutdown_grace).await;
    if let Err(error) = &ended
        && let Some(error) = error.of_ledger()
    {
        ledger.condemn(error);
    }
    let results = ledger.results_since(began).await?;
    let open = ledger.summary(Timestamp::now()).await?;
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
    })
}

struct Tasks {
    set: JoinSet<(String, Result<(), Error>)>,
    stop: CancellationToken,
    roots: Vec<(String, watch::Receiver<Progress>)>,
    lanes: Vec<watch::Receiver<lane::Progress>>,
    wake_uploads: Arc<Notify>,
    wake_lanes: watch::Sender<u64>,
}

/// What a single pass needs to see in order to know that it is done.
struct InPass {
    roots: Vec<watch::Receiver<Progress>>,
    lanes: Vec<watch::Receiver<lane::Progress>>,
    wake_lanes: watch::Sender<u64>,
}

impl Tasks {
    async fn start(
        config: &Config,
        ledger: &Ledger,
        client: &Client,
        live: &Live,
    ) -> Result<Self, Error> {
        let wake_uploads = Arc::new(Notify::new());
        let (wake_lanes, lanes_woken) = watch::channel(0);
        let mut tasks = Self {
            set: JoinSet::new(),
            stop: CancellationToken::new(),
            roots: Vec::new(),
            lanes: Vec::new(),
            wake_uploads: Arc::clone(&wake_uploads),
            wake_lanes: wake_lanes.clone(),
        };
        let watches = register(config, ledger).await?;
        let imodels: BTreeSet<&str> = config
            .watches
            .iter()
            .map(|watch| watch.imodel_id.as_str())
            .collect();
        for imodel_id in imodels {
            let (progress, seen) = watch::channel(lane::Progress::default());
            tasks.lanes.push(seen);
            let lane = Lane::new(lane::Parts {
                imodel_id: imodel_id.to_owned(),
                ledger: ledger.clone(),
                client: client.clone(),
                sync: config.sync.clone(),
                retry: config.retry.clone(),
                wake: lanes_woken.clone(),
                progress,
            });
            let stop = tasks.stop.clone();
            tasks.spawn(format!("lane {imodel_id}"), async move {
                Ok(lane.run(stop).await?)
            });
        }
        let uploads = Uploads::new(upload::Parts {
            ledger: ledger.clone(),
            client: client.clone(),
            limits: config.upload.clone(),
            unfinished: config.state.path.join("unfinished"),
            retry: config.retry.clone(),
            watches: watches
                .iter()
                .map(|(id, watch)| (*id, watch.clone()))
                .collect::<HashMap<_, _>>(),
            wake: Arc::clone(&wake_uploads),
            lanes: wake_lanes,
            live: live.clone(),
        });
        let stop = tasks.stop.clone();
        tasks.spawn(
            "uploads".to_owned(),
            async move { Ok(uploads.run(stop).await?) },
        );
        let pauses = pauses::record(client.clone(), ledger.clone(), tasks.stop.clone());
        tasks.spawn("pauses".to_owned(), async move { Ok(pauses.await?) });
        for (id, watch) in watches {
            let (progress, seen) = watch::channel(Progress::default());
            tasks.roots.push((watch.name.clone(), seen));
            let out = Handover {
                ledger: ledger.clone(),
                wake: Arc::clone(&wake_uploads),
            };
            let (orders, taken) = mpsc::channel(ORDERS);
            live.watch_root(&watch.name, progress.subscribe(), orders);
            let stop = tasks.stop.clone();
            let name = format!("watch {}", watch.name);
            tasks.spawn(name, async move {
                Ok(watching::run(watch, id, out, progress, taken, stop).await?)
            });
        }
        Ok(tasks)
    }

    /// Starts what people see it by, and reach it with. Without that the daemon works all the same.
    async fn open_to_people(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        client: &Client,
        live: &Live,
    ) -> Result<(), Error> {
        let desk = Desk {
            ledger: ledger.clone(),
            live: live.clone(),
            wake_uploads: Arc::clone(&self.wake_uploads),
            wake_lanes: self.wake_lanes.clone(),
        };
        match control::Server::bind(&config.state.path) {
            Ok(server) => {
                let (desk, stop) = (desk.clone(), self.stop.clone());
                self.spawn("control".to_owned(), async move {
                    server.run(desk, stop).await;
                    Ok(())
                });
            }
            Err(error) => warn!(
                %error,
                hint = "the commands that ask the daemon need the socket control.sock in state.path",
                "no control socket can be made"
            ),
        }
        let reader = Ledger::read(&config.state.path).await?;
        if let Some(listen) = config.web.listen {
            match web::Server::bind(listen).await {
                Ok(server) => {
                    let parts = web::Parts {
                        config: config.web.clone(),
                        desk,
                        reader: reader.clone(),
                        client: client.clone(),
                    };
                    let stop = self.stop.clone();
                    self.spawn("web".to_owned(), async move {
                        Ok(server.run(parts, stop).await?)
                    });
                }
                Err(error) => error!(
                    %listen, %error,
                    hint = "choose another address in web.listen, or stop who has it",
                    "the page cannot be served; all else goes on"
                ),
            }
        }
        for alert in config.alerts.clone() {
            let (ledger, reader) = (ledger.clone(), reader.clone());
            let stop = self.stop.clone();
            let name = format!("alert {}", alert.name);
            self.spawn(name, async move {
                Ok(alert::run(alert, ledger, reader, stop).await?)
            });
        }
        if config.heartbeat.url.is_some() {
            let (heartbeat, reader) = (config.heartbeat.clone(), reader.clone());
            let stop = self.stop.clone();
            self.spawn("heartbeat".to_owned(), async move {
                Ok(alert::beat(heartbeat, reader, stop).await?)
            });
        }
        let (ledger, keep, stop) = (ledger.clone(), config.state.keep_history, self.stop.clone());
        self.spawn("history".to_owned(), async move {
            tokio::select! {
                () = forget_history(ledger, reader, keep) => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        });
        Ok(())
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
        match self.set.join_next().await {
            Some(Ok((_, Err(error)))) => error,
            Some(Ok((name, Ok(())))) => Error::Ended(name),
            Some(Err(panic)) => Error::Panicked(panic.to_string()),
            None => Error::Ended("all of them".to_owned()),
        }
    }

    fn pass(&self) -> InPass {
        InPass {
            roots: self.roots.iter().map(|(_, seen)| seen.clone()).collect(),
            lanes: self.lanes.clone(),
            wake_lanes: self.wake_lanes.clone(),
        }
    }

    fn unreachable(&self) -> Vec<(String, String)> {
        self.roots
            .iter()
            .filter_map(|(name, seen)| {
                seen.borrow()
                    .problem
                    .clone()
                    .map(|problem| (name.clone(), problem))
            })
            .collect()
    }

    /// Stops everything: watches and lanes at once, uploads within the grace period.
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

/// Keeps the history as long as configured.
async fn forget_history(ledger: Ledger, reader: Ledger, keep: Duration) {
    loop {
        let before = Timestamp::now()
            .checked_sub(keep)
            .unwrap_or(Timestamp::UNIX_EPOCH);
        match ledger.forget_history(&reader, before).await {
            Ok(0) => {}
            Ok(rows) => info!(rows, "old history is forgotten (state.keep_history)"),
            Err(error) => warn!(%error, "old history could not be forgotten; trying again"),
        }
        tokio::time::sleep(HISTORY_LOOK).await;
    }
}

/// Waits until every folder is scanned, every file found is handed over, and every job is at an end.
async fn done(pass: InPass, ledger: Ledger) -> Result<(), Error> {
    loop {
        let soon = crate::attempt::after(Timestamp::now(), PASS_PATIENCE);
        // The lanes last: a reference file that was uploaded leaves no job, yet asks for a run.
        if pass.roots_at_rest()
            && ledger.summary(soon).await?.pending == 0
            && pass.lanes_at_rest().await
            && ledger.summary(soon).await?.pending == 0
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

    /// Whether every lane finds nothing to do when it looks once more.
    async fn lanes_at_rest(&self) -> bool {
        let before: Vec<u64> = self.lanes.iter().map(|lane| lane.borrow().looks).collect();
        self.wake_lanes.send_modify(|_asked| ());
        for (lane, before) in self.lanes.iter().zip(before) {
            let mut lane = lane.clone();
            // A lane that is gone ends the service by itself.
            let looked = lane.wait_for(|progress| progress.looks > before).await;
            if looked.is_ok_and(|progress| !progress.at_rest) {
                return false;
            }
        }
        true
    }
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
    let registered = ledger.register_watches(&specs, Timestamp::now()).await?;
    let mut watches = Vec::with_capacity(registered.len());
    for ((id, forgotten), watch) in registered.into_iter().zip(&config.watches) {
        info!(
            watch = watch.name, path = ?watch.path, imodel = watch.imodel_id, settle = ?watch.patience.settle,
            storage_folder = watch.storage_folder.join("/"), "watching"
        );
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

/// Tells systemd, when it listens. Nothing depends on it, so a failure is only worth a word.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd could not be told");
    }
}
