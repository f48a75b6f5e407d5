//! Starts and stops the tasks of iModels that the configuration names, and uses their ids once they are known.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::new_imodels::{Creation, IMODEL, ImodelTask, Progress, named};
use super::tasks::{Tasks, check_interval, register, synchronizer_settings};
use crate::config::{Config, NewImodel};
use crate::ids::ImodelId;
use crate::itwin::Client;
use crate::ledger::Ledger;
use crate::retry::Policy;

/// The first pause while an iModel is initialized: an empty one is ready soon.
const POLL: Duration = Duration::from_secs(2);

/// `run --once` does not wait for an iModel for longer.
const IMODELS_PATIENCE: Duration = Duration::from_mins(5);

impl Tasks {
    /// Starts the tasks of iModels that the configuration names, and stops those of others.
    pub(super) fn start_imodels(&mut self, config: &Config, ledger: &Ledger, client: &Client) {
        let named = named(config);
        let keys: Vec<ImodelId> = named.iter().map(NewImodel::key).collect();
        self.imodels.retain(|key, task| {
            let is_named = keys.contains(key);
            if !is_named {
                task.stop.cancel();
                self.ending += 1;
            }
            is_named
        });
        for new in named {
            let key = new.key();
            if self.imodels.contains_key(&key) {
                continue;
            }
            let stop = self.stop.child_token();
            let sender = watch::Sender::new(Progress::default());
            let task = ImodelTask {
                progress: sender.subscribe(),
                stop: stop.clone(),
            };
            self.imodels.insert(key.clone(), task);
            let creation = Creation {
                new,
                ledger: ledger.clone(),
                client: client.clone(),
                retry: Policy {
                    first: config.retry.first_delay,
                    max: config.retry.max_delay,
                },
                poll: Policy {
                    first: config.sync.poll_interval.min(POLL),
                    max: config.sync.poll_max,
                },
                check_interval: check_interval(&config.watches),
                wake: self.wake_imodels.subscribe(),
                known: self.known.clone(),
                progress: sender,
            };
            self.spawn(format!("{IMODEL}{key}"), creation.run(stop));
        }
    }

    /// Uses the ids that the ledger has of created iModels.
    pub(super) async fn use_created(
        &mut self,
        config: &mut Config,
        ledger: &Ledger,
        client: &Client,
    ) -> Result<(), Error> {
        config.know_imodels(&ledger.created_imodels().await?);
        let claiming = self.claiming.lock().await;
        let watches = register(config, ledger).await?;
        self.upload_settings
            .send_modify(|settings| settings.watches = watches.into_iter().collect());
        drop(claiming);
        self.synchronizer_settings
            .send_replace(synchronizer_settings(config));
        self.start_synchronizers(config, ledger, client);
        self.wake_uploads.notify_one();
        self.wake_synchronizers.send_modify(|_asked| ());
        self.wake_imodels.send_modify(|_asked| ());
        Ok(())
    }

    /// Before a pass: waits for iModels that may be there within moments, so that the pass includes their files.
    pub(super) async fn await_imodels(
        &mut self,
        config: &mut Config,
        ledger: &Ledger,
        client: &Client,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        if self.imodels.is_empty() {
            return Ok(());
        }
        let at_rest = self.imodels_at_rest();
        tokio::select! {
            ended = self.unasked_end() => return Err(ended),
            () = stop.cancelled() => {}
            () = at_rest => {}
        }
        self.use_created(config, ledger, client).await
    }

    /// Returns when no iModel is expected to be there within moments.
    fn imodels_at_rest(&self) -> impl Future<Output = ()> + use<> {
        let tasks = self.imodels.values();
        let progress: Vec<_> = tasks.map(|task| task.progress.clone()).collect();
        let all = async move {
            for mut one in progress {
                // A task that ended stops the service elsewhere.
                one.wait_for(|progress| *progress != Progress::Working)
                    .await
                    .ok();
            }
        };
        async move {
            tokio::time::timeout(IMODELS_PATIENCE, all).await.ok();
        }
    }
}
