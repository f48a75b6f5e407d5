//! A configuration on its way from TOML to checked values.
//!
//! In come the text, the environment and the purpose of reading; out goes a [`Draft`]: everything that could be read, with the places that the mistakes of
//! folders belong to. Whoever asks must look at the report before taking the draft for a configuration. Its own reading touches no folder.

use std::time::Duration;

use super::document::{self, Place, Report, Section};
use super::folders::{self, Own};
use super::notifications;
use super::sections::{self, KEYS, Times};
use super::values::Bad;
use super::watches::{self, Placed};
use super::{
    Alert, Config, Environment, Heartbeat, Itwin, Log, Network, Offline, Retry, State, Sync,
    Upload, Web, network,
};

/// What a configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To work with it: the secret must be there.
    Work,
    /// To look at the ledger.
    Look,
}

/// A configuration as far as it could be read, with the places that the folders' mistakes belong to.
pub(super) struct Draft {
    /// `None` when something required is missing, or the secret is not wanted.
    itwin: Option<Itwin>,
    /// `None` under the same conditions.
    network: Option<Network>,
    state: State,
    at_state: Place,
    log: Log,
    at_log: Place,
    upload: Upload,
    sync: Sync,
    retry: Retry,
    brake_files: u64,
    shutdown_grace: Duration,
    web: Web,
    alerts: Vec<Alert>,
    heartbeat: Heartbeat,
    watches: Vec<Placed>,
}

impl Draft {
    /// `None` when `text` is no TOML.
    pub(super) fn read(
        text: &str,
        environment: &Environment,
        purpose: Purpose,
        report: &mut Report,
    ) -> Option<Self> {
        let root = document::parse(text, report)?;
        let mut top = Section::top(&root, KEYS, report);
        let times = Times::default().read(&mut top);
        let shutdown_grace = sections::shutdown_grace(&mut top);

        let itwin = sections::itwin(
            &mut Section::open(&root, "itwin", KEYS, report),
            environment,
            purpose,
        );
        let network = network::read(
            &mut Section::open(&root, "network", KEYS, report),
            environment,
            purpose,
        );
        let mut section = Section::open(&root, "state", KEYS, report);
        let (state, at_state) = (
            sections::state(&mut section, environment),
            section.place("path"),
        );
        let mut section = Section::open(&root, "log", KEYS, report);
        let (log, at_log) = (sections::log(&mut section), section.place("directory"));
        let upload = sections::upload(&mut Section::open(&root, "upload", KEYS, report));
        let sync = sections::sync(&mut Section::open(&root, "sync", KEYS, report));
        let retry = sections::retry(&mut Section::open(&root, "retry", KEYS, report));
        let brake_files = sections::brake(&mut Section::open(&root, "brake", KEYS, report));

        let web = notifications::web(&mut Section::open(&root, "web", KEYS, report), purpose);
        let alerts = Section::each(&root, "alert", report);
        let alerts = notifications::alerts(&alerts, purpose, report);
        let heartbeat = notifications::heartbeat(
            &mut Section::open(&root, "heartbeat", KEYS, report),
            purpose,
        );

        let tables = Section::each(&root, "watch", report);
        let watches = watches::read(&tables, times, &sync, report);
        if !root.contains_key("watch") {
            report.add(
                Place::default(),
                Bad::new(
                    "no folder is watched",
                    "add a [[watch]] table with name, path and imodel_id",
                ),
            );
        }
        Some(Self {
            itwin,
            network,
            state,
            at_state,
            log,
            at_log,
            upload,
            sync,
            retry,
            brake_files,
            shutdown_grace,
            web,
            alerts,
            heartbeat,
            watches,
        })
    }

    pub(super) fn check_folders(&self, report: &mut Report) {
        let state = Own {
            what: "the ledger",
            path: &self.state.path,
            place: self.at_state.clone(),
        };
        let log = self.log.directory.as_deref().map(|path| Own {
            what: "the log",
            path,
            place: self.at_log.clone(),
        });
        folders::check(&self.watches, &state, log.as_ref(), report);
    }

    pub(super) fn into_config(self) -> Option<Config> {
        Some(Config {
            itwin: self.itwin?,
            network: self.network?,
            state: self.state,
            log: self.log,
            upload: self.upload,
            sync: self.sync,
            retry: self.retry,
            brake_files: self.brake_files,
            shutdown_grace: self.shutdown_grace,
            web: self.web,
            alerts: self.alerts,
            heartbeat: self.heartbeat,
            watches: self
                .watches
                .into_iter()
                .map(|placed| placed.watch)
                .collect(),
        })
    }

    pub(super) fn into_offline(self) -> Offline {
        Offline {
            state: self.state,
            watches: self
                .watches
                .into_iter()
                .map(|placed| placed.watch)
                .collect(),
        }
    }
}
