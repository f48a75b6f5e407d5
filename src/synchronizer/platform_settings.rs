//! Keeps the settings of the iModel and of its connections on the platform as configured.
//!
//! Input: the configuration, and what the platform has. It is read before each run, at intervals and after each change
//! of the configuration, and written only where it differs; what it was is never remembered. A change is followed by
//! one run, which the ledger has before the change. While the platform refuses a setting, the connection is not run:
//! a run would read the files in another way than configured. A setting that the configuration does not have is never
//! touched.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tracing::{error, info, warn};

use super::{IDLE_MAX, SyncError, Synchronizer};
use crate::config::{ConnectionSettings, PlatformSetting, PlatformSettings};
use crate::failpoint::failpoint;
use crate::itwin::{self, SettingsScope};
use crate::ledger::{self, ConnectionId, ConnectionRecord, SettingsFault};
use crate::next_attempt::{self, clock_time};
use crate::retry::Class;

/// Temporary failures in a row after which they are shown as a fault of the watch.
const FAILURES_SHOWN: u32 = 3;

/// Whether the platform has the settings of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// It had them already.
    Unchanged,
    /// It has them now.
    Changed,
    /// It has not.
    No,
}

/// What a synchronizer remembers between two attempts, by connection.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    connections: HashMap<ConnectionId, Attempt>,
    /// The configuration of the last look had settings, or the ledger may name a fault.
    any: Option<bool>,
}

#[derive(Debug, Default)]
struct Attempt {
    /// When the platform was last found to have the settings.
    confirmed: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    /// The fault in the ledger; None before one was recorded by this process.
    recorded: Option<Option<SettingsFault>>,
}

/// A table of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// For the iModel.
    Imodel,
    /// For the connection of a watch.
    Watch,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Imodel => "imodel.settings",
            Self::Watch => "watch.settings",
        }
    }
}

/// What to send.
#[derive(Debug, PartialEq)]
enum Request {
    Nothing,
    /// Only what differs: other settings of the scope are not ours.
    Change(Map<String, Value>),
    /// The scope has no settings at all.
    Create(Map<String, Value>),
}

/// Why the settings were not applied.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error("the platform accepted the request, but does not have {0}")]
    Ignored(String),
}

impl From<itwin::Error> for Trouble {
    fn from(error: itwin::Error) -> Self {
        Self::Sync(error.into())
    }
}

impl Attempts {
    /// The configuration changed, or the operator asks not to wait.
    pub(super) fn at_once(&mut self) {
        for attempt in self.connections.values_mut() {
            attempt.confirmed = None;
            attempt.failures = 0;
            attempt.not_before = None;
        }
    }

    /// Whether the settings of a connection wait for another attempt, and how long.
    pub(super) fn pause(&self, connection: ConnectionId) -> Option<Duration> {
        let until = self.connections.get(&connection)?.not_before?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// What to send so that the platform has the wanted settings. Pure.
fn request(wanted: &PlatformSettings, there: Option<&Map<String, Value>>) -> Request {
    match there {
        None => Request::Create(body(wanted.0.iter())),
        Some(there) => match wanted.differing(there) {
            differing if differing.is_empty() => Request::Nothing,
            differing => Request::Change(body(differing.into_iter())),
        },
    }
}

fn body<'s>(settings: impl Iterator<Item = &'s PlatformSetting>) -> Map<String, Value> {
    settings
        .map(|one| (one.name.clone(), one.value.clone()))
        .collect()
}

/// What to do about settings that are not applied.
fn hint(trouble: &Trouble, wanted: &PlatformSettings, table: Table) -> Option<String> {
    let error = match trouble {
        Trouble::Ignored(_) => return Some(correct(&trouble.to_string(), wanted, table)),
        Trouble::Sync(SyncError::Platform(error)) => error,
        Trouble::Sync(SyncError::Ledger(_)) => return None,
    };
    let name = table.name();
    let is_missing = |code: &str| {
        [
            "ConnectionNotFound",
            "StorageConnectionNotFound",
            "iModelNotFound",
        ]
        .iter()
        .any(|known| code.eq_ignore_ascii_case(known))
    };
    match error.status() {
        Some(400 | 422) => Some(correct(&error.to_string(), wanted, table)),
        Some(403) => {
            let role = error
                .hint()
                .map(|hint| format!("{hint}; "))
                .unwrap_or_default();
            Some(format!(
                "{role}settings are a technology preview: ask Bentley whether it is enabled for this iTwin, or remove [{name}]"
            ))
        }
        Some(404) if !error.code().is_some_and(is_missing) => Some(format!(
            "settings are a technology preview that this platform does not offer: correct itwin.api_url, or remove [{name}]"
        )),
        _ => error.hint(),
    }
}

/// The settings that a message names, or all of them.
fn correct(message: &str, wanted: &PlatformSettings, table: Table) -> String {
    let named = |one: &&PlatformSetting| {
        let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word.eq_ignore_ascii_case(&one.name))
    };
    let mut concerned: Vec<&PlatformSetting> = wanted.0.iter().filter(named).collect();
    if concerned.is_empty() {
        concerned = wanted.0.iter().collect();
    }
    let places: Vec<String> = concerned.into_iter().map(PlatformSetting::place).collect();
    let table = table.name();
    format!("correct or remove {} in [{table}]", places.join(", "))
}

impl Synchronizer {
    /// Compares the settings of all connections that are due for it. Returns the pause before the next look; zero if a
    /// run has to follow.
    pub(super) async fn check_settings(&mut self) -> Result<Duration, ledger::Error> {
        let any = {
            let settings = self.settings.borrow();
            settings.imodel_settings.contains_key(&self.imodel_id)
                || settings
                    .connection_settings
                    .iter()
                    .any(|one| one.imodel_id == self.imodel_id)
        };
        if !any && self.applied.any == Some(false) {
            return Ok(IDLE_MAX);
        }
        let mut next = IDLE_MAX;
        for connection in self.ledger.connections(&self.imodel_id).await? {
            if self.wanted_settings(&connection).is_empty() {
                self.record_fault(connection.id, None).await?;
                continue;
            }
            // Before its first run, the run itself applies them.
            let Some(platform_id) = connection.platform_id.clone() else {
                continue;
            };
            if let Some(pause) = self.applied.pause(connection.id) {
                next = next.min(pause);
                continue;
            }
            let attempt = self.applied.connections.get(&connection.id);
            let confirmed = attempt.and_then(|attempt| attempt.confirmed);
            let left = confirmed.map_or(Duration::ZERO, |at| {
                self.check_interval.saturating_sub(at.elapsed())
            });
            if !left.is_zero() {
                next = next.min(left);
                continue;
            }
            if self.apply_settings(&connection, &platform_id).await? == Applied::Changed {
                next = Duration::ZERO;
            }
        }
        self.applied.any = Some(any);
        Ok(next)
    }

    /// Makes the settings of the iModel and of the connection those of the configuration.
    pub(super) async fn apply_settings(
        &mut self,
        connection: &ConnectionRecord,
        platform_id: &str,
    ) -> Result<Applied, ledger::Error> {
        let mut applied = Applied::Unchanged;
        for (table, wanted) in self.wanted_settings(connection) {
            match self
                .apply_table(connection, platform_id, table, &wanted)
                .await
            {
                Ok(Applied::Changed) => applied = Applied::Changed,
                Ok(_) => {}
                Err(Trouble::Sync(SyncError::Ledger(error))) => return Err(error),
                Err(trouble) => {
                    self.not_applied(connection, table, &wanted, &trouble)
                        .await?;
                    return Ok(Applied::No);
                }
            }
        }
        let attempt = self.applied.connections.entry(connection.id).or_default();
        attempt.confirmed = Some(Instant::now());
        attempt.failures = 0;
        attempt.not_before = None;
        self.record_fault(connection.id, None).await?;
        Ok(applied)
    }

    /// The settings of the iModel, then those of the connection, each with the table of the configuration.
    fn wanted_settings(&self, connection: &ConnectionRecord) -> Vec<(Table, PlatformSettings)> {
        let settings = self.settings.borrow();
        let imodel = settings.imodel_settings.get(&self.imodel_id);
        let all = &settings.connection_settings;
        let own = ConnectionSettings::find(all, &self.imodel_id, &connection.name);
        let both = [(Table::Imodel, imodel), (Table::Watch, own)].into_iter();
        both.filter_map(|(table, wanted)| Some((table, wanted?.clone())))
            .collect()
    }

    async fn apply_table(
        &self,
        connection: &ConnectionRecord,
        platform_id: &str,
        table: Table,
        wanted: &PlatformSettings,
    ) -> Result<Applied, Trouble> {
        let scope = match table {
            Table::Imodel => SettingsScope::Imodel(&self.imodel_id),
            Table::Watch => SettingsScope::Connection(platform_id),
        };
        let there = self.client.platform_settings(scope).await?;
        let request = request(wanted, there.as_ref());
        if request == Request::Nothing {
            return Ok(Applied::Unchanged);
        }
        let concerned = match scope {
            SettingsScope::Connection(_) => vec![connection.id],
            SettingsScope::Imodel(_) => {
                let all = self.ledger.connections(&self.imodel_id).await;
                let all = all.map_err(SyncError::from)?.into_iter();
                all.map(|connection| connection.id).collect()
            }
        };
        let expected = self.ledger.expect_settings(&concerned, crate::clock::now());
        expected.await.map_err(SyncError::from)?;
        failpoint("settings about to change");
        let there = match request {
            Request::Nothing => return Ok(Applied::Unchanged),
            Request::Create(all) => self.client.create_settings(scope, all).await?,
            Request::Change(changed) => match self.client.change_settings(scope, changed).await? {
                Some(there) => there,
                // They were deleted since they were read.
                None => {
                    let all = body(wanted.0.iter());
                    self.client.create_settings(scope, all).await?
                }
            },
        };
        failpoint("settings changed");
        let missing: Vec<String> = wanted
            .differing(&there)
            .into_iter()
            .map(PlatformSetting::text)
            .collect();
        if !missing.is_empty() {
            return Err(Trouble::Ignored(missing.join(", ")));
        }
        info!(
            imodel = %self.imodel_id, connection = connection.name, scope = table.name(), settings = wanted.text(),
            "settings changed on the platform; a run follows"
        );
        Ok(Applied::Changed)
    }

    /// The settings are not applied: runs of the connection wait for the next attempt.
    async fn not_applied(
        &mut self,
        connection: &ConnectionRecord,
        table: Table,
        wanted: &PlatformSettings,
        trouble: &Trouble,
    ) -> Result<(), ledger::Error> {
        let (class, floor) = match trouble {
            Trouble::Sync(SyncError::Platform(error)) => (Some(error.class()), error.floor()),
            Trouble::Sync(SyncError::Ledger(_)) | Trouble::Ignored(_) => (None, None),
        };
        let is_temporary = matches!(class, Some(Class::Transient { .. } | Class::Busy));
        let attempt = self.applied.connections.entry(connection.id).or_default();
        attempt.confirmed = None;
        attempt.failures = attempt.failures.saturating_add(1);
        let failures = attempt.failures;
        let pause = self.policy.delay(failures, floor);
        attempt.not_before = Some(Instant::now() + pause);
        let of = match table {
            Table::Imodel => format!("iModel {}", self.imodel_id),
            Table::Watch => format!("connection {:?}", connection.name),
        };
        let fault = SettingsFault {
            reason: format!("settings of {of} not applied, runs wait: {trouble}"),
            hint: hint(trouble, wanted, table),
        };
        let next = clock_time(next_attempt::after(crate::clock::now(), pause));
        let (imodel, name, hint) = (&self.imodel_id, &connection.name, &fault.hint);
        if is_temporary && failures < FAILURES_SHOWN {
            warn!(%imodel, connection = name, hint, next, "{}; trying again", fault.reason);
            return Ok(());
        }
        error!(%imodel, connection = name, hint, next, "{}; trying again", fault.reason);
        self.record_fault(connection.id, Some(fault)).await
    }

    async fn record_fault(
        &mut self,
        connection: ConnectionId,
        fault: Option<SettingsFault>,
    ) -> Result<(), ledger::Error> {
        let attempt = self.applied.connections.entry(connection).or_default();
        if attempt.recorded.as_ref() == Some(&fault) {
            return Ok(());
        }
        self.ledger
            .record_settings_fault(connection, fault.as_ref())
            .await?;
        attempt.recorded = Some(fault);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn settings(pairs: &[(&str, Value)]) -> PlatformSettings {
        let pairs = pairs.iter().zip(7..);
        let all = pairs.map(|((name, value), line)| PlatformSetting {
            key: format!("key_of_{name}"),
            name: (*name).to_owned(),
            value: value.clone(),
            line: Some(line),
        });
        PlatformSettings(all.collect())
    }

    #[test]
    fn only_what_differs_is_sent_and_everything_if_there_is_nothing() {
        let wanted = settings(&[("one", json!(true)), ("two", json!(2))]);
        let map = |value: Value| value.as_object().cloned().unwrap();
        for (there, expected) in [
            (None, Request::Create(map(json!({ "one": true, "two": 2 })))),
            (
                Some(json!({})),
                Request::Change(map(json!({ "one": true, "two": 2 }))),
            ),
            (
                Some(json!({ "one": true, "two": 3 })),
                Request::Change(map(json!({ "two": 2 }))),
            ),
            (Some(json!({ "one": true, "two": 2 })), Request::Nothing),
            (
                Some(json!({ "one": true, "two": 2, "three": false })),
                Request::Nothing,
            ),
        ] {
            let found = request(&wanted, there.clone().map(map).as_ref());
            assert_eq!(found, expected, "{there:?}");
        }
    }

    #[test]
    fn the_hint_names_the_setting_that_the_platform_names_with_its_line() {
        let wanted = settings(&[("levitate", json!(true)), ("lod", json!(2))]);
        for (message, expected) in [
            (
                "The setting levitate is unknown.",
                "key_of_levitate (line 7)",
            ),
            ("'LOD' must be 1, 2 or 3", "key_of_lod (line 8)"),
            (
                "invalid request",
                "key_of_levitate (line 7), key_of_lod (line 8)",
            ),
        ] {
            assert_eq!(
                correct(message, &wanted, Table::Watch),
                format!("correct or remove {expected} in [watch.settings]")
            );
        }
    }
}
