//! A configuration between TOML and checked values.
//!
//! Input: text, environment and mode. Output: a [`RawConfig`], everything that could be read. It becomes a
//! configuration only when the report has no errors. Reading it touches no watched folder.

use std::time::Duration;

use super::document::{self, Place, Report, Section};
use super::environment::Mode;
use super::folders::{self, Own};
use super::hooks;
use super::imodels;
use super::new_imodels;
use super::notifications;
use super::sections::{self, KEYS, Times};
use super::values::InvalidValue;
use super::watches::{self, Placed};
use super::{
    Alert, BulkChange, Config, ConnectionSettings, Environment, Heartbeat, Hook, Imodel, Itwin,
    Log, Network, ReadOnlyConfig, Retry, RunSchedules, Source, State, Sync, Upload, Web, itwin,
    network, web,
};

/// Everything that could be read, with the places that errors about folders refer to.
pub(super) struct RawConfig {
    /// `None` when a required key is missing, or in [`Mode::Inspect`].
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
    bulk_change: BulkChange,
    shutdown_grace: Duration,
    web: Web,
    alerts: Vec<Alert>,
    hooks: Vec<Hook>,
    heartbeat: Heartbeat,
    watches: Vec<Placed>,
    imodels: Vec<Imodel>,
    run_schedules: RunSchedules,
    connection_settings: Vec<ConnectionSettings>,
}

impl RawConfig {
    /// `None` when `text` is not TOML.
    pub(super) fn read(
        text: &str,
        environment: &Environment,
        mode: Mode,
        report: &mut Report,
    ) -> Option<Self> {
        let root = document::parse(text, KEYS, report)?;
        let mut top = Section::top(&root, KEYS, report);
        let times = Times::default().read(&mut top);
        let shutdown_grace = sections::shutdown_grace(&mut top);

        let network = network::read(
            &mut Section::open(&root, "network", KEYS, report),
            environment,
            mode,
        );
        let mut section = Section::open(&root, "state", KEYS, report);
        let (state, at_state) = (
            sections::state(&mut section, environment),
            section.place("path"),
        );
        let itwin = itwin::read(
            &mut Section::open(&root, "itwin", KEYS, report),
            &state.path,
            environment,
            mode,
        );
        let mut section = Section::open(&root, "log", KEYS, report);
        let (log, at_log) = (sections::log(&mut section), section.place("directory"));
        let upload = sections::upload(&mut Section::open(&root, "upload", KEYS, report));
        let sync = sections::sync(&mut Section::open(&root, "sync", KEYS, report));
        let retry = sections::retry(&mut Section::open(&root, "retry", KEYS, report));
        let bulk_change =
            sections::bulk_change(&mut Section::open(&root, "bulk_change", KEYS, report));

        let web = web::read(
            &mut Section::open(&root, "web", KEYS, report),
            environment,
            mode,
        );
        let alerts = Section::each(&root, "alert", report);
        let alerts = notifications::alerts(&alerts, environment, mode, report);
        let heartbeat = notifications::heartbeat(
            &mut Section::open(&root, "heartbeat", KEYS, report),
            environment,
            mode,
        );

        let imodel_tables = Section::each(&root, "imodel", report);
        let created = new_imodels::keys_by_name(&imodel_tables);
        let tables = Section::each(&root, "watch", report);
        let mut watches = watches::read(&tables, times, &sync, &created, report);
        let tables = Section::each(&root, "hook", report);
        let hooks = hooks::read(&tables, &watches, environment, mode, report);
        let (imodels, run_schedules) = imodels::read(&imodel_tables, &mut watches, report);
        let connection_settings = imodels::connection_settings(&watches, report);
        if !root.contains_key("watch") {
            report.add(
                Place::default(),
                InvalidValue::new(
                    "no [[watch]] table found",
                    "add one with name, path and imodel_id",
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
            bulk_change,
            shutdown_grace,
            web,
            alerts,
            hooks,
            heartbeat,
            watches,
            imodels,
            run_schedules,
            connection_settings,
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
            source: Source::default(),
            itwin: self.itwin?,
            network: self.network?,
            state: self.state,
            log: self.log,
            upload: self.upload,
            sync: self.sync,
            retry: self.retry,
            bulk_change: self.bulk_change,
            shutdown_grace: self.shutdown_grace,
            web: self.web,
            alerts: self.alerts,
            hooks: self.hooks,
            heartbeat: self.heartbeat,
            imodels: self.imodels,
            run_schedules: self.run_schedules,
            connection_settings: self.connection_settings,
            watches: self
                .watches
                .into_iter()
                .map(|placed| placed.watch)
                .collect(),
        })
    }

    pub(super) fn into_read_only(self) -> ReadOnlyConfig {
        ReadOnlyConfig {
            state: self.state,
            watches: self
                .watches
                .into_iter()
                .map(|placed| placed.watch)
                .collect(),
            imodels: self.imodels,
            run_schedules: self.run_schedules,
            connection_settings: self.connection_settings,
        }
    }
}
