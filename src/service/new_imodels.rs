//! Creates the iModels that the configuration names, and keeps the files of their watches waiting until each is there.
//!
//! One task per iModel, so that one that cannot be created delays no other. Input: what to create, the ledger and the
//! platform. Output: the id in the ledger, a signal to use it, and the reason why the watches wait. It looks for the
//! name first, and creates an iModel only if there is none: after a kill or a lost response the iModel is found by its
//! name. Once the id is recorded, it never creates another one, even if the platform does not know the id any more.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Error;
use crate::config::{Config, NewImodel, Watch};
use crate::failpoint::failpoint;
use crate::ids::ImodelId;
use crate::itwin::{self, Client, Corners, ImodelAnswer, ListedImodel};
use crate::ledger::{self, CreatedImodel, Ledger};
use crate::retry::{Class, Policy};

/// `run --once` waits for no more attempts than this.
const ATTEMPTS: u32 = 3;

/// How the names of iModels' tasks begin.
pub(super) const IMODEL: &str = "imodel ";

/// The task of an iModel that the configuration names.
pub(super) struct ImodelTask {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) stop: CancellationToken,
}

/// What the task of an iModel shares with the service.
pub(super) struct Creation {
    pub(super) new: NewImodel,
    pub(super) ledger: Ledger,
    pub(super) client: Client,
    /// Pauses after failures.
    pub(super) retry: Policy,
    /// Pauses while the platform initializes it.
    pub(super) poll: Policy,
    /// How often one that is ready is compared with the platform.
    pub(super) check_interval: Duration,
    /// Its change ends a pause.
    pub(super) wake: watch::Receiver<u64>,
    /// Receives a message when the id can be used.
    pub(super) known: mpsc::Sender<()>,
    pub(super) progress: watch::Sender<Progress>,
}

/// How far an iModel is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// It may be there in a moment.
    #[default]
    Working,
    /// It is there.
    Ready,
    /// It waits for longer, or for someone.
    Waits,
}

/// How the iModels of an iTwin that have the name are used. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    One(ImodelId),
    /// Their ids.
    Several(Vec<String>),
}

/// Why an iModel is not there. `Display` completes the sentence "iModel NAME in iTwin ID: …".
#[derive(Debug, thiserror::Error)]
pub(super) enum Unready {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error("the platform is still initializing it (id {id}, state {state:?})")]
    Initializing { id: String, state: String },
    #[error("the platform failed to initialize it (id {0})")]
    Failed(String),
    #[error("it is not there any more (id {0})")]
    Gone(String),
    #[error("the iTwin has several iModels with this name: {}", .0.join(", "))]
    Several(Vec<String>),
    #[error("the platform refuses this name as taken, but lists no iModel with it")]
    TakenUnseen,
}

impl Unready {
    fn class(&self) -> Class {
        match self {
            Self::Platform(error) => error.class(),
            Self::Ledger(_) | Self::Initializing { .. } => Class::Transient { floor: None },
            Self::Failed(_) | Self::Gone(_) | Self::Several(_) | Self::TakenUnseen => {
                Class::RefusedForAll
            }
        }
    }

    /// What the reader can do about it. None if the next attempt may succeed without anyone's help.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Platform(error) => return error.hint(),
            Self::Ledger(_) | Self::Initializing { .. } => return None,
            Self::Failed(_) => {
                "delete this iModel in the iTwin portal, set another name in create, and restart the service"
            }
            Self::Gone(_) => {
                "no other one is created in its place: set another name in create, or imodel_id instead of imodel, \
                 and restart the service"
            }
            Self::Several(_) => {
                "set imodel_id to one of these ids instead of imodel, and restart the service"
            }
            Self::TakenUnseen => {
                "set another name in create, or give the service user a role in which it sees all iModels of the iTwin; \
                 names may also be equal if only their case differs"
            }
        };
        Some(hint.to_owned())
    }
}

/// Which of the iModels with the name is used.
fn choose(found: &[ListedImodel]) -> Found {
    match found {
        [] => Found::None,
        [one] => Found::One(one.id.as_str().into()),
        several => Found::Several(several.iter().map(|one| one.id.clone()).collect()),
    }
}

impl Creation {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let key = self.new.key();
        let mut failures = 0;
        let mut shown = String::new();
        loop {
            let was_ready = *self.progress.borrow() == Progress::Ready;
            let pause = match self.attempt(&key).await {
                Ok(id) => {
                    if !shown.is_empty() {
                        info!(imodel = key.as_str(), id = id.as_str(), "iModel is ready");
                        shown.clear();
                    }
                    failures = 0;
                    self.ledger.wait_for_imodel(&id, None).await?;
                    self.progress.send_replace(Progress::Ready);
                    if !was_ready {
                        // A message that was not received yet says the same.
                        self.known.try_send(()).ok();
                    }
                    self.check_interval
                }
                Err(Unready::Ledger(error)) => return Err(error.into()),
                Err(unready) => {
                    failures += 1;
                    self.show(&key, &unready, &mut shown).await?;
                    self.pause(&unready, failures)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.wake.changed() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Records why the watches wait, and logs it once.
    async fn show(
        &self,
        key: &ImodelId,
        unready: &Unready,
        shown: &mut String,
    ) -> Result<(), ledger::Error> {
        let (text, hint) = (unready.to_string(), unready.hint());
        // One that was ready and cannot be read for a while is still there.
        let lost = matches!(unready, Unready::Gone(_));
        let known = self.ledger.created_imodel(key).await?;
        let id = known
            .filter(|known| known.ready)
            .map(|known| known.imodel_id);
        if id.is_none() || lost {
            let reason = format!("iModel {key}: {text}");
            let wait = Some((reason.as_str(), hint.as_deref()));
            self.ledger
                .wait_for_imodel(id.as_ref().unwrap_or(key), wait)
                .await?;
        }
        if *shown != text {
            match unready {
                Unready::Initializing { id, state } => {
                    info!(imodel = key.as_str(), id, state, "waiting for the iModel");
                }
                _ => warn!(imodel = key.as_str(), hint, "cannot use the iModel: {text}"),
            }
            shown.clone_from(&text);
        }
        Ok(())
    }

    /// When to try again after a failure; says so to whoever waits.
    fn pause(&self, unready: &Unready, failures: u32) -> Duration {
        if matches!(unready, Unready::Initializing { .. }) {
            return self.poll.delay(failures, None);
        }
        let (progress, pause) = match unready.class() {
            Class::Transient { floor } => {
                let pause = self.retry.delay(failures, floor);
                let is_long = failures >= ATTEMPTS || pause > super::once::PASS_PATIENCE;
                let progress = if is_long {
                    Progress::Waits
                } else {
                    Progress::Working
                };
                (progress, pause)
            }
            // Fixed elsewhere, which the next attempt notices without a restart.
            _ => (Progress::Waits, self.retry.max),
        };
        self.progress.send_replace(progress);
        pause
    }

    /// The id of the iModel once it is ready.
    async fn attempt(&self, key: &ImodelId) -> Result<ImodelId, Unready> {
        let recorded = self.ledger.created_imodel(key).await?;
        let (id, was_ready) = match recorded {
            Some(created) => (created.imodel_id, created.ready),
            None => (self.find_or_create(key).await?, false),
        };
        let imodel = match self.client.imodel(&id).await {
            Err(error) if error.is_not_found() => return Err(Unready::Gone(id.to_string())),
            imodel => imodel?,
        };
        if !imodel.initialized() {
            if self.client.has_creation_failed(&id).await? {
                return Err(Unready::Failed(id.to_string()));
            }
            return Err(Unready::Initializing {
                id: id.to_string(),
                state: imodel.state,
            });
        }
        if !was_ready {
            self.record(key, &id, true).await?;
            failpoint("imodel ready");
        }
        Ok(id)
    }

    async fn find_or_create(&self, key: &ImodelId) -> Result<ImodelId, Unready> {
        if let Some(id) = self.find(key).await? {
            return Ok(id);
        }
        let NewImodel {
            itwin_id,
            name,
            extent,
        } = &self.new;
        let extent = extent.map(|extent| Corners {
            south_west: (extent.south_west.latitude, extent.south_west.longitude),
            north_east: (extent.north_east.latitude, extent.north_east.longitude),
        });
        match self.client.create_imodel(itwin_id, name, extent).await? {
            ImodelAnswer::Created(imodel) => {
                failpoint("imodel created");
                let id = ImodelId::from(imodel.id);
                self.record(key, &id, false).await?;
                failpoint("imodel recorded");
                info!(imodel = key.as_str(), id = id.as_str(), "iModel created");
                Ok(id)
            }
            ImodelAnswer::NameTaken => self.find(key).await?.ok_or(Unready::TakenUnseen),
        }
    }

    /// The only iModel with the name, recorded.
    async fn find(&self, key: &ImodelId) -> Result<Option<ImodelId>, Unready> {
        let NewImodel { itwin_id, name, .. } = &self.new;
        match choose(&self.client.imodels_named(itwin_id, name).await?) {
            Found::None => Ok(None),
            Found::Several(ids) => Err(Unready::Several(ids)),
            Found::One(id) => {
                self.record(key, &id, false).await?;
                info!(
                    imodel = key.as_str(),
                    id = id.as_str(),
                    "iModel found by its name: using it"
                );
                Ok(Some(id))
            }
        }
    }

    async fn record(
        &self,
        key: &ImodelId,
        id: &ImodelId,
        ready: bool,
    ) -> Result<(), ledger::Error> {
        let created = CreatedImodel {
            imodel_id: id.clone(),
            ready,
        };
        self.ledger.record_created_imodel(key, &created).await
    }
}

/// Why the files of a watch wait for its iModel, if its id is not known.
pub(super) fn imodel_wait(config: &Config, watch: &Watch) -> Option<String> {
    let key = &watch.imodel_id;
    let mut unknown = config.unknown_imodels();
    unknown
        .any(|new| new.key() == *key)
        .then(|| not_known_yet(key))
}

/// Why the watches of an iModel wait before it was looked for.
fn not_known_yet(key: &ImodelId) -> String {
    format!("iModel {key}: looking for it")
}

/// The iModels that the watches of a configuration name.
pub(super) fn named(config: &Config) -> Vec<NewImodel> {
    let used = config.imodels.iter().filter(|imodel| {
        let mut watches = config.watches.iter();
        watches.any(|watch| watch.imodel_id == imodel.id)
    });
    used.filter_map(|imodel| imodel.create.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let id = || "c0ffee00-1234-4abc-8def-0123456789ab".to_owned();
        insta::assert_snapshot!(crate::text::render_variants!(Unready, Unready::hint, {
            Unready::Ledger(_) => Unready::Ledger(ledger::Error::Missing {
                path: "/var/lib/itwin-syncd".into(),
            }),
            Unready::Platform(_) => Unready::Platform(itwin::unreachable_platform()),
            Unready::Initializing { .. } => Unready::Initializing {
                id: id(),
                state: "notInitialized".to_owned(),
            },
            Unready::Failed(_) => Unready::Failed(id()),
            Unready::Gone(_) => Unready::Gone(id()),
            Unready::Several(_) => Unready::Several(vec!["one".to_owned(), "other".to_owned()]),
            Unready::TakenUnseen => Unready::TakenUnseen,
        }));
    }
}
