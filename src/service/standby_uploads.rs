//! The uploads of a standby: it takes part in those of the active host.
//!
//! In: the configuration. Out: uploads, for watches whose settings are just those of the active host. It begins again
//! after the database gave its uploads to other hosts, and after the active host or a reload has changed watches:
//! nothing is remembered from before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::tasks::show_outages;
use super::{Error, client, host_backoffs, shares};
use crate::config::Config;
use crate::failpoint::lease_time;
use crate::itwin::Client;
use crate::ledger::{self, Ledger};
use crate::runtime_status::StatusTracker;
use crate::upload::{self, UploadPool};

/// How often the watches are compared with those of the active host, and the pause before another attempt to begin.
const LOOK: Duration = Duration::from_secs(1);

/// The pause after uploads that were cut off: until the active host has given them to others, because their last
/// request may still be executed.
const CUT_OFF_PAUSE: Duration = Duration::from_secs(50);

/// What these uploads do, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// They can take jobs.
    pub(super) is_uploading: bool,
    /// Watches that the active host has with other settings, by name.
    pub(super) different_watches: Vec<String>,
}

/// What they need.
pub(super) struct StandbyUploads {
    pub(super) config: watch::Receiver<Config>,
    pub(super) live: StatusTracker,
    pub(super) state: watch::Sender<State>,
}

impl StandbyUploads {
    /// Uploads until `stop`, then lets running uploads finish within the grace period. Dropped, it leaves everything as
    /// a kill would.
    ///
    /// # Errors
    /// When the ledger fails, or the client cannot be set up.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let location = self.config.borrow().state.path.clone();
            let joined = tokio::select! {
                joined = Ledger::join(&location) => joined?,
                () = stop.cancelled() => return Ok(()),
            };
            let mut pause = LOOK;
            if let Some(ledger) = joined {
                let uploaded = self.upload(ledger, &stop).await;
                self.state.send_replace(State::default());
                if !uploaded? {
                    pause = lease_time(CUT_OFF_PAUSE);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Uploads until this host has to end that. False: some were cut off.
    async fn upload(&mut self, ledger: Ledger, stop: &CancellationToken) -> Result<bool, Error> {
        let config = self.config.borrow_and_update().clone();
        let client = client(&config, Some(&ledger)).map_err(Error::Client)?;
        let ended = self.upload_as(&config, &ledger, &client, stop).await;
        match ended {
            Ok(true) => ledger.close().await,
            // Its row is not renewed any more, and ends by itself.
            Ok(false) => {
                warn!(
                    "grace period expired: other hosts continue the running uploads within a minute"
                );
                return Ok(false);
            }
            Err(ledger::Error::TakenOver) => info!("uploads of this host were given back"),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Whether all uploads have ended.
    async fn upload_as(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<bool, ledger::Error> {
        show_outages(&self.live, ledger);
        host_backoffs::resume(client, ledger).await?;
        let (found, different) = settings(config, ledger).await?;
        let settings_now = watch::Sender::new(found);
        self.show(different);
        let uploads = UploadPool::new(upload::Deps {
            ledger: ledger.clone(),
            client: client.clone(),
            unfinished: config.state.path.join("unfinished"),
            settings: settings_now.subscribe(),
            claiming: Arc::default(),
            wake: Arc::default(),
            synchronizers: watch::Sender::new(0),
            turned: watch::Sender::new(Instant::now()),
            live: self.live.clone(),
            is_standby: true,
        });
        // On a task of its own: a share may not answer.
        let mut seen = JoinSet::new();
        seen.spawn(shares::record_seen(
            ledger.clone(),
            settings_now.subscribe(),
        ));
        let ending = CancellationToken::new();
        let running = uploads.run(ending.clone());
        tokio::pin!(running);
        let pauses = host_backoffs::record(client.clone(), ledger.clone());
        tokio::pin!(pauses);
        let mut deadline = None;
        loop {
            let is_ending = deadline.is_some();
            let must_end = tokio::select! {
                biased;
                ended = &mut running => return ended.map(|()| true),
                error = &mut pauses => return Err(error),
                // Uploads that wait for a valid lease would not notice.
                lost = ledger.taken_over() => return Err(lost),
                Some(Ok(error)) = seen.join_next() => return Err(error),
                () = ledger.dismissed(), if !is_ending => {
                    info!("ending the uploads of this host: the active one changes its watches");
                    true
                }
                () = stop.cancelled(), if !is_ending => true,
                Ok(()) = self.config.changed(), if !is_ending => true,
                () = expired(deadline) => return Ok(false),
                () = tokio::time::sleep(LOOK), if !is_ending => false,
            };
            if must_end {
                ending.cancel();
                deadline = Some(Instant::now() + config.shutdown_grace);
                continue;
            }
            let (found, different) = settings(config, ledger).await?;
            settings_now.send_if_modified(|known| {
                let is_new = known.watches != found.watches;
                if is_new {
                    *known = found;
                }
                is_new
            });
            self.show(different);
        }
    }

    fn show(&self, different_watches: Vec<String>) {
        let state = State {
            is_uploading: true,
            different_watches,
        };
        self.state.send_if_modified(|shown| {
            let is_new = *shown != state;
            *shown = state;
            is_new
        });
    }
}

async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The watches that this host and the active one have with the same settings, and the names of those that differ.
async fn settings(
    config: &Config,
    ledger: &Ledger,
) -> Result<(upload::Settings, Vec<String>), ledger::Error> {
    let mut config = config.clone();
    config.know_imodels(&ledger.created_imodels().await?);
    let mut settings = upload::Settings {
        limits: config.upload.clone(),
        retry: config.retry.clone(),
        watches: std::collections::HashMap::new(),
    };
    let mut different = Vec::new();
    for registered in ledger.registered_watches().await? {
        let own = config
            .watches
            .iter()
            .find(|watch| watch.name == registered.name);
        match (own, registered.settings) {
            (Some(watch), Some(digest)) if watch.digest() == digest => {
                settings.watches.insert(registered.id, watch.clone());
            }
            (_, Some(_)) => different.push(registered.name),
            // They change just now.
            (_, None) => {}
        }
    }
    different.sort();
    Ok((settings, different))
}
