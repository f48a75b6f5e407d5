//! The tasks of the service: starts each by name, notices when one ends unexpectedly, and stops them in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::new_imodels::{IMODEL, ImodelTask, imodel_wait};
use super::once::InPass;
use super::watchdog::Watchdog;
use super::{Error, clock, host_backoffs, systemd};
use crate::config::{Config, OnDelete, Source, Watch};
use crate::failpoint::{failpoint, slowpoint};
use crate::ids::ImodelId;
use crate::itwin::{self, Client};
use crate::ledger::{self, BulkChangeLimits, Ledger, WatchId, WatchSpec, WithdrawalPolicy};
use crate::runtime_status::{LedgerOutage, Outage, StatusTracker};
use crate::selection::Scope;
use crate::synchronizer::{self, Synchronizer};
use crate::upload::{self, UploadPool};
use crate::watch::{self as watching, Progress, ReadySink};

/// How the names of watches' tasks begin.
const WATCH: &str = "watch ";

/// Requests that may wait for the task of a watch; more would only repeat the same.
const ORDERS: usize = 16;

/// Every task of the service, by name.
pub(super) struct Tasks {
    pub(super) set: JoinSet<(String, Result<(), Error>)>,
    pub(super) stop: CancellationToken,
    pub(super) roots: HashMap<String, Root>,
    pub(super) synchronizers: BTreeMap<ImodelId, watch::Receiver<synchronizer::Progress>>,
    pub(super) wake_uploads: Arc<Notify>,
    /// The iModels that the configuration names, by key.
    pub(super) imodels: BTreeMap<ImodelId, ImodelTask>,
    /// Its change makes them look again.
    pub(super) wake_imodels: watch::Sender<u64>,
    /// Receives a message when the id of one can be used.
    pub(super) known: mpsc::Sender<()>,
    /// The kernel's file events, for all watches together.
    pub(super) events: watching::Events,
    /// Incremented when an operator wants synchronizers to act now.
    pub(super) wake_synchronizers: watch::Sender<u64>,
    pub(super) live: StatusTracker,
    pub(super) upload_settings: watch::Sender<upload::Settings>,
    /// Held from a change of the watches in the ledger until `upload_settings` say the same.
    pub(super) claiming: Arc<Mutex<()>>,
    pub(super) synchronizer_settings: watch::Sender<synchronizer::Settings>,
    /// When the upload queue was checked last.
    pub(super) queue: watch::Receiver<Instant>,
    /// The file of the configuration in effect, for commands.
    pub(super) configuration: watch::Sender<Source>,
    /// For the status line.
    pub(super) note: watch::Sender<Option<String>>,
    /// Tasks of watches and iModels that were stopped and are still running.
    pub(super) ending: usize,
}

/// The task of one watch.
pub(super) struct Root {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) stop: CancellationToken,
}

impl Tasks {
    pub(super) async fn start(
        config: &Config,
        ledger: &Ledger,
        client: &Client,
        known: mpsc::Sender<()>,
    ) -> Result<Self, Error> {
        if ledger.is_shared() {
            let planned = ledger.planned_watches(&watch_specs(config)).await?;
            let mut watches = planned.watches.iter();
            if !planned.removed.is_empty() || watches.any(|watch| !watch.changes.is_empty()) {
                // They would continue to upload to where the files were before.
                systemd::extending_timeout(ledger.dismiss_others()).await?;
            }
        }
        let watches = register(config, ledger).await?;
        let (turned, queue) = watch::channel(Instant::now());
        let mut tasks = Self {
            set: JoinSet::new(),
            stop: CancellationToken::new(),
            roots: HashMap::new(),
            synchronizers: BTreeMap::new(),
            wake_uploads: Arc::default(),
            imodels: BTreeMap::new(),
            wake_imodels: watch::Sender::new(0),
            known,
            events: watching::Events::default(),
            wake_synchronizers: watch::Sender::new(0),
            live: StatusTracker::new(),
            claiming: Arc::default(),
            upload_settings: watch::Sender::new(upload::Settings {
                limits: config.upload.clone(),
                retry: config.retry.clone(),
                watches: watches.iter().cloned().collect(),
            }),
            synchronizer_settings: watch::Sender::new(synchronizer_settings(config)),
            queue,
            configuration: watch::Sender::new(config.source.clone()),
            note: watch::Sender::new(None),
            ending: 0,
        };
        let platform = client.clone();
        tasks.live.read_outage_by(move || {
            let itwin::Outage { since, reason } = platform.outage()?;
            Some(Outage { since, reason })
        });
        show_outages(&tasks.live, ledger);
        tasks.start_synchronizers(config, ledger, client);
        tasks.start_imodels(config, ledger, client);
        let uploads = UploadPool::new(upload::Deps {
            ledger: ledger.clone(),
            client: client.clone(),
            unfinished: config.state.path.join("unfinished"),
            settings: tasks.upload_settings.subscribe(),
            claiming: Arc::clone(&tasks.claiming),
            wake: Arc::clone(&tasks.wake_uploads),
            synchronizers: tasks.wake_synchronizers.clone(),
            turned,
            live: tasks.live.clone(),
            is_standby: false,
        });
        let stop = tasks.stop.clone();
        tasks.spawn(
            "uploads".to_owned(),
            async move { Ok(uploads.run(stop).await?) },
        );
        if let Some(others) = ledger.others() {
            let (uploads, synchronizers) = (
                Arc::clone(&tasks.wake_uploads),
                tasks.wake_synchronizers.clone(),
            );
            let stop = tasks.stop.clone();
            tasks.spawn("other hosts".to_owned(), async move {
                tokio::select! {
                    () = follow_others(others, uploads, synchronizers) => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            });
        }
        let pauses = host_backoffs::record(client.clone(), ledger.clone());
        let stop = tasks.stop.clone();
        tasks.spawn("pauses".to_owned(), async move {
            tokio::select! {
                error = pauses => Err(error.into()),
                () = stop.cancelled() => Ok(()),
            }
        });
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
    pub(super) fn watchdog(&mut self, ledger: &Ledger) {
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

    /// Starts the synchronizer of each iModel that has none yet and whose id is known.
    pub(super) fn start_synchronizers(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        client: &Client,
    ) {
        for watch in &config.watches {
            if imodel_wait(config, watch).is_none() {
                self.synchronizer(&watch.imodel_id, ledger, client);
            }
        }
    }

    /// Starts the synchronizer of an iModel, if there is none yet.
    fn synchronizer(&mut self, imodel_id: &ImodelId, ledger: &Ledger, client: &Client) {
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
    pub(super) fn watch(&mut self, id: WatchId, watch: Watch, ledger: &Ledger) {
        info!(
            watch = watch.name, path = ?watch.path, imodel = watch.imodel_id.as_str(), settle = ?watch.settle_policy.settle,
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
    pub(super) fn unwatch(&mut self, name: &str) {
        if let Some(root) = self.roots.remove(name) {
            root.stop.cancel();
            self.ending += 1;
        }
    }

    pub(super) fn spawn(
        &mut self,
        name: String,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits for a task to end unexpectedly.
    pub(super) async fn unasked_end(&mut self) -> Error {
        loop {
            return match self.set.join_next().await {
                Some(Ok((_, Err(error)))) => error,
                // Only stopped tasks of watches and iModels end without an error.
                Some(Ok((name, Ok(()))))
                    if self.ending > 0 && (name.starts_with(WATCH) || name.starts_with(IMODEL)) =>
                {
                    self.ending -= 1;
                    continue;
                }
                Some(Ok((name, Ok(())))) => Error::Ended(name),
                Some(Err(panic)) => Error::Panicked(panic.to_string()),
                None => Error::Ended("all".to_owned()),
            };
        }
    }

    pub(super) fn pass(&self) -> InPass {
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
    pub(super) fn troubles(
        &self,
        of: impl Fn(&Progress) -> Option<String>,
    ) -> Vec<(String, String)> {
        self.roots
            .iter()
            .filter_map(|(name, root)| Some((name.clone(), of(&root.progress.borrow())?)))
            .collect()
    }

    /// Stops everything: watches and synchronizers at once, uploads within the grace period.
    pub(super) async fn stop(mut self, grace: Duration) {
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

/// Lets status, page and alerts show why the service waits for the database of its ledger.
pub(super) fn show_outages(live: &StatusTracker, ledger: &Ledger) {
    if let Some(outage) = ledger.outage() {
        live.read_ledger_outage_by(move || {
            let outage = outage()?;
            Some(LedgerOutage {
                since: outage.since,
                reason: outage.reason,
                hint: outage.hint.to_owned(),
            })
        });
    }
}

/// Wakes uploads and synchronizers when another host has written, until it is dropped.
async fn follow_others(
    mut others: watch::Receiver<u64>,
    uploads: Arc<Notify>,
    synchronizers: watch::Sender<u64>,
) {
    while others.changed().await.is_ok() {
        uploads.notify_one();
        synchronizers.send_modify(|_asked| ());
    }
    // The ledger is closed.
    std::future::pending::<()>().await;
}

/// The settings of synchronizers in a configuration.
pub(super) fn synchronizer_settings(config: &Config) -> synchronizer::Settings {
    let roots = config.imodels.iter().filter_map(|imodel| {
        let root = imodel.spatial_root.clone()?;
        Some((imodel.id.clone(), root))
    });
    let versions = config.imodels.iter().filter_map(|imodel| {
        let version = imodel.named_version.clone()?;
        Some((imodel.id.clone(), version))
    });
    let settings = config.imodels.iter().filter_map(|imodel| {
        let settings = imodel.settings.clone()?;
        Some((imodel.id.clone(), settings))
    });
    synchronizer::Settings {
        user: config.itwin.user().cloned(),
        named_versions: versions.collect(),
        imodel_settings: settings.collect(),
        connection_settings: config.connection_settings.clone(),
        sync: config.sync.clone(),
        retry: config.retry.clone(),
        check_interval: check_interval(&config.watches),
        scopes: scopes(&config.watches),
        spatial_roots: roots.collect(),
        schedules: config.run_schedules.clone(),
    }
}

/// How often the state of the platform is compared: as often as the folders are scanned in full.
pub(super) fn check_interval(watches: &[Watch]) -> Duration {
    let intervals = watches.iter().map(|watch| watch.rescan_interval);
    intervals.min().unwrap_or(Duration::MAX)
}

pub(super) fn scopes(watches: &[Watch]) -> HashMap<String, Scope> {
    let scopes = watches.iter();
    scopes
        .map(|watch| (watch.name.clone(), watch.scope.clone()))
        .collect()
}

/// The watches of a configuration, for the ledger.
pub(crate) fn watch_specs(config: &Config) -> Vec<WatchSpec> {
    let watches = config.watches.iter();
    watches
        .map(|watch| WatchSpec {
            name: watch.name.clone(),
            formerly: watch.formerly.clone(),
            path: watch.path.clone(),
            imodel_id: watch.imodel_id.clone(),
            imodel_wait: imodel_wait(config, watch),
            storage_folder: watch.storage_folder.join("/"),
            connection: watch.connection.clone(),
            withdrawal: WithdrawalPolicy {
                on_delete: match watch.on_delete {
                    OnDelete::Keep => ledger::OnDelete::Keep,
                    OnDelete::Unmap => ledger::OnDelete::Unmap,
                    OnDelete::Remove => ledger::OnDelete::Remove,
                },
                after: watch.delete_after,
                limit: config.bulk_change.max_deletes,
            },
            bulk_change_limits: BulkChangeLimits {
                changed_files: config.bulk_change.max_files,
                new_files: config.bulk_change.max_new_files,
            },
            follows: watch.follows.as_ref().map(|leader| leader.watch.clone()),
            settings: watch.digest(),
        })
        .collect()
}

pub(super) async fn register(
    config: &Config,
    ledger: &Ledger,
) -> Result<Vec<(WatchId, Watch)>, Error> {
    let specs = watch_specs(config);
    let registered = ledger.register_watches(&specs, crate::clock::now()).await?;
    failpoint("watches registered");
    slowpoint("watches registered").await;
    let mut watches = Vec::with_capacity(registered.len());
    for (registered, watch) in registered.into_iter().zip(&config.watches) {
        for change in &registered.changes {
            let text = change.text(&watch.name);
            match change.hint(&watch.name) {
                Some(hint) => warn!(watch = watch.name, hint, "{text}"),
                None => info!(watch = watch.name, "{text}"),
            }
        }
        if let Some(change) = registered.bulk_change {
            change.log(&watch.name);
        }
        watches.push((registered.id, watch.clone()));
    }
    Ok(watches)
}
