//! Waits while another host is active: this one is *standby*.
//!
//! A standby uploads as well (`standby_uploads`), and does nothing else. It answers commands, page and systemd, says
//! which host is active, and does not even wait if its watches are not those of the active host.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::interfaces::control_server;
use super::reload::{self, Reloads};
use super::standby_uploads::{StandbyUploads, State};
use super::tasks::watch_specs;
use super::{Error, LEDGER_GRACE, client, systemd};
use crate::config::{Config, Source};
use crate::control::Operator;
use crate::ledger::{self, ActiveHost, Ledger};
use crate::runtime_status::{Standby, StatusTracker};
use crate::web;

/// Pings per watchdog timeout: one may be late.
const PINGS: u32 = 3;

/// Opens the ledger, and waits for that while another host is active. None: the service was stopped meanwhile.
pub(super) async fn open_ledger(
    config: &mut Config,
    stop: &CancellationToken,
    reloads: &mut Option<Reloads>,
) -> Result<Option<Ledger>, Error> {
    let (seen, mut active) = watch::channel(None);
    let location = config.state.path.clone();
    let opening = Ledger::open_when_free(&location, seen);
    tokio::pin!(opening);
    // A start that may take long, until it turns out that it has to wait.
    let opened = systemd::extending_timeout(async {
        tokio::select! {
            opened = &mut opening => Some(opened),
            () = is_known(&mut active) => None,
            () = stop.cancelled() => None,
        }
    });
    if let Some(opened) = opened.await {
        return Ok(Some(opened?));
    }
    let mut waiting = Waiting {
        live: StatusTracker::new(),
        configuration: watch::Sender::new(config.source.clone()),
        stop: CancellationToken::new(),
        tasks: JoinSet::new(),
        ledger: None,
        config: watch::Sender::new(config.clone()),
        state: watch::Sender::default(),
        uploads: None,
    };
    let mut state = waiting.state.subscribe();
    let ended = loop {
        let host = active.borrow_and_update().clone();
        if let Some(host) = host
            && let Err(error) = waiting.note(config, &host).await
        {
            break Err(error);
        }
        tokio::select! {
            opened = &mut opening => break opened.map(Some).map_err(Error::from),
            () = stop.cancelled() => {
                systemd::stopping(config.shutdown_grace);
                let grace = config.shutdown_grace + LEDGER_GRACE;
                let ended = tokio::time::timeout(grace, waiting.end_uploads()).await;
                // Otherwise the database is away: the row of this host ends by itself.
                break ended.unwrap_or(Ok(())).map(|()| None);
            }
            ended = uploads_end(&mut waiting.uploads) => break Err(ended),
            Ok(()) = active.changed() => {}
            Ok(()) = state.changed() => {}
            () = ping() => {}
            (loaded, levels) = reload::next(reloads) => match loaded {
                Ok(new) => {
                    levels.set(new.log.level);
                    // What is in use already needs a restart.
                    *config = Config { state: config.state.clone(), log: config.log.clone(), ..new };
                    waiting.configuration.send_replace(config.source.clone());
                    waiting.config.send_replace(config.clone());
                    info!("configuration reloaded: it applies when this host becomes active, to uploads at once");
                }
                Err(mistakes) => drop(reload::refuse(&mistakes)),
            },
        }
    };
    waiting.end().await;
    let ledger = ended?;
    if ledger.is_some() {
        info!("this host is active now");
    }
    Ok(ledger)
}

async fn is_known(active: &mut watch::Receiver<Option<ActiveHost>>) {
    if active.wait_for(Option::is_some).await.is_err() {
        // The ledger is open, or never will be.
        std::future::pending::<()>().await;
    }
}

/// Why the uploads ended that should not.
async fn uploads_end(uploads: &mut Option<JoinHandle<Result<(), Error>>>) -> Error {
    let Some(uploads) = uploads else {
        return std::future::pending().await;
    };
    match uploads.await {
        Ok(Ok(())) => Error::Ended("uploads".to_owned()),
        Ok(Err(error)) => error,
        Err(panic) => Error::Panicked(panic.to_string()),
    }
}

/// Tells the watchdog of systemd that this task runs.
async fn ping() {
    match systemd::watchdog() {
        Some(allowed) => {
            systemd::alive();
            tokio::time::sleep(allowed / PINGS).await;
        }
        None => std::future::pending().await,
    }
}

/// What a standby shows.
struct Waiting {
    live: StatusTracker,
    configuration: watch::Sender<Source>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), ledger::Error>>,
    /// None until it could be read: another version may be active.
    ledger: Option<Ledger>,
    config: watch::Sender<Config>,
    /// What the uploads do.
    state: watch::Sender<State>,
    uploads: Option<JoinHandle<Result<(), Error>>>,
}

impl Waiting {
    /// Says who is active, and starts the interfaces the first time.
    ///
    /// # Errors
    /// [`Error::DifferentWatches`], the first time: later, the active host may have got another configuration first.
    async fn note(&mut self, config: &Config, active: &ActiveHost) -> Result<(), Error> {
        let before = self.live.standby();
        if self.ledger.is_none() {
            self.start(config).await;
        }
        let mut different = match &self.ledger {
            Some(ledger) => different_watches(config, ledger).await,
            None => Vec::new(),
        };
        if before.is_none() && !different.is_empty() {
            return Err(Error::DifferentWatches {
                active: active.host.clone(),
                watches: different,
            });
        }
        if self.uploads.is_none() {
            let uploads = StandbyUploads {
                config: self.config.subscribe(),
                live: self.live.clone(),
                state: self.state.clone(),
            };
            self.uploads = Some(tokio::spawn(uploads.run(self.stop.clone())));
        }
        let state = self.state.borrow().clone();
        different.extend(state.different_watches);
        different.sort();
        different.dedup();
        let standby = Standby {
            active: active.host.clone(),
            since: active.since,
            uploads: state.is_uploading,
            different_watches: different,
        };
        let text = standby.text();
        systemd::ready(&text);
        if before.as_ref() == Some(&standby) {
            return Ok(());
        }
        let is_same_host = before.as_ref().is_some_and(|before| {
            (&before.active, before.since) == (&standby.active, standby.since)
        });
        if !is_same_host {
            info!(active = standby.active, since = %standby.since, "standby: another host is active");
        }
        if before.as_ref().is_some_and(|before| before.uploads) != standby.uploads {
            if standby.uploads {
                info!("this host uploads as well");
            } else {
                info!("this host does not upload at the moment");
            }
        }
        let is_known =
            before.is_some_and(|before| before.different_watches == standby.different_watches);
        if !is_known && !standby.different_watches.is_empty() {
            warn!(
                watches = standby.different_watches.join(", "),
                hint = "give all hosts the same [[watch]] sections: when this host becomes active, its own apply",
                "standby: the watches of this host differ from those of the active one"
            );
        }
        self.live.set_standby(Some(standby));
        Ok(())
    }

    async fn start(&mut self, config: &Config) {
        let reader = match Ledger::read(&config.state.path).await {
            Ok(reader) => reader,
            Err(error) => {
                warn!(%error, "standby: cannot read the ledger: no page and no status until this host becomes active");
                return;
            }
        };
        self.ledger = Some(reader.clone());
        let operator = Operator {
            ledger: reader.clone(),
            live: self.live.clone(),
            wake_uploads: Arc::default(),
            wake_synchronizers: watch::Sender::new(0),
            queue: watch::channel(Instant::now()).1,
            configuration: self.configuration.subscribe(),
        };
        if let Some(server) = control_server(config) {
            let (operator, stop) = (operator.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                server.run(operator, stop).await;
                Ok(())
            });
        }
        if let (Some(listen), Ok(client)) = (config.web.listen, client(config, None)) {
            let parts = web::Parts {
                config: config.web.clone(),
                operator,
                reader,
                client,
            };
            self.tasks.spawn(web::run(listen, parts, self.stop.clone()));
        }
    }

    /// Lets running uploads finish, and gives the others back.
    async fn end_uploads(&mut self) -> Result<(), Error> {
        self.stop.cancel();
        let Some(uploads) = &mut self.uploads else {
            return Ok(());
        };
        let ended = uploads.await;
        self.uploads = None;
        ended.unwrap_or_else(|panic| Err(Error::Panicked(panic.to_string())))
    }

    /// Ends what is left: uploads as a kill would.
    async fn end(mut self) {
        self.stop.cancel();
        if let Some(uploads) = self.uploads.take() {
            uploads.abort();
            // Nothing of it must run beside the uploads of an active host.
            drop(uploads.await);
        }
        self.tasks.shutdown().await;
    }
}

/// Watches that the ledger has otherwise, by name.
async fn different_watches(config: &Config, ledger: &Ledger) -> Vec<String> {
    let mut config = config.clone();
    if let Ok(created) = ledger.created_imodels().await {
        config.know_imodels(&created);
    }
    match ledger.planned_watches(&watch_specs(&config)).await {
        // The active host has not registered its own yet.
        Ok(planned)
            if planned.removed.is_empty()
                && planned.watches.iter().all(|plan| plan.known_as.is_none()) =>
        {
            Vec::new()
        }
        Ok(planned) => {
            let watches = config.watches.iter().zip(planned.watches);
            let changed =
                watches.filter(|(_, plan)| plan.known_as.is_none() || !plan.changes.is_empty());
            let changed = changed.map(|(watch, _)| watch.name.clone());
            let mut names: Vec<String> = changed
                .chain(planned.removed.into_iter().map(|(name, _)| name))
                .collect();
            names.sort();
            names.dedup();
            names
        }
        Err(error) => {
            warn!(%error, "standby: cannot compare the watches with those of the active host");
            Vec::new()
        }
    }
}
