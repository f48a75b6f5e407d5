//! Reloading the configuration at SIGHUP.
//!
//! Watches, limits, schedules and the log level change at once: tasks of watches are started or stopped, running work
//! continues. A file with errors changes nothing. Keys that need a restart keep their old value, and are logged.

use std::collections::HashMap;
use std::path::PathBuf;

use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::new_imodels::imodel_wait;
use super::tasks::{Tasks, register, synchronizer_settings, watch_specs};
use super::{Error, signals, systemd, watchdog};
use crate::config::{Account, Config, ConfigErrors, Watch};
use crate::itwin::Client;
use crate::ledger::{self, Ledger, Recognized, WatchSpec};
use crate::next_attempt::clock_time;
use crate::telemetry::Levels;
use crate::upload;

/// The source of new configurations.
#[derive(Debug)]
pub struct Reloads {
    path: PathBuf,
    levels: Levels,
    hangups: Signal,
}

impl Reloads {
    /// Reads `path` again at each SIGHUP, which no longer ends the process.
    ///
    /// # Errors
    /// When the operating system gives no handler.
    pub fn on_hangup(path: PathBuf, levels: Levels) -> std::io::Result<Self> {
        Ok(Self {
            path,
            levels,
            hangups: signals::hangups()?,
        })
    }

    /// Waits for the next reload, and reads the file.
    async fn next(&mut self) -> Result<Config, ConfigErrors> {
        if self.hangups.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        info!(path = ?self.path, "reloading the configuration");
        systemd::reloading();
        let path = self.path.clone();
        // It checks folders, which may take seconds.
        match tokio::task::spawn_blocking(move || Config::load(&path)).await {
            Ok(loaded) => loaded,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// The next configuration, and the handle on the log level. Never returns without reloads.
pub(super) async fn next(reloads: &mut Option<Reloads>) -> (Result<Config, ConfigErrors>, &Levels) {
    match reloads {
        Some(reloads) => (reloads.next().await, &reloads.levels),
        None => std::future::pending().await,
    }
}

/// Logs the errors of a rejected configuration; returns a note for the status line.
pub(super) fn refuse(errors: &ConfigErrors) -> String {
    for error in errors.iter() {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default();
        let hint = error.hint.as_deref();
        error!(hint, "{what}");
    }
    let count = errors.iter().count();
    error!(
        errors = count,
        "reload rejected: keeping the previous configuration"
    );
    format!(
        "reload rejected at {} (errors: {count}), keeping the previous configuration",
        clock_time(crate::clock::now())
    )
}

/// `new` as far as it can apply now, with `old` values for the rest; and the keys that need a restart.
fn live(old: &Config, new: Config) -> (Config, Vec<String>) {
    let mut waiting = Vec::new();
    let mut keep = |key: &str, changed: bool| {
        if changed {
            waiting.push(key.to_owned());
        }
    };
    let (was, is) = (&old.itwin, &new.itwin);
    keep("itwin.api_url", was.api_url != is.api_url);
    keep("itwin.issuer_url", was.issuer_url != is.issuer_url);
    keep("itwin.client_id", was.client_id != is.client_id);
    keep("itwin.scope", was.scope != is.scope);
    let other_account = was.user().is_some() != is.user().is_some();
    keep("itwin.sign_in", other_account);
    keep("[network]", old.network != new.network);
    keep("state.path", *old.state.path != *new.state.path);
    keep("state.url", old.state.path.server != new.state.path.server);
    keep(
        "state.keep_history",
        old.state.keep_history != new.state.keep_history,
    );
    keep("[web]", old.web != new.web);
    keep("[[alert]]", old.alerts != new.alerts);
    keep("[[hook]]", old.hooks != new.hooks);
    keep("[heartbeat]", old.heartbeat != new.heartbeat);
    keep("log.format", old.log.format != new.log.format);
    keep("log.directory", old.log.directory != new.log.directory);
    keep("log.keep_files", old.log.keep_files != new.log.keep_files);
    let mut config = Config {
        itwin: crate::config::Itwin {
            limits: new.itwin.limits,
            account: if other_account {
                old.itwin.account.clone()
            } else {
                new.itwin.account
            },
            ..old.itwin.clone()
        },
        network: old.network.clone(),
        state: old.state.clone(),
        web: old.web.clone(),
        alerts: old.alerts.clone(),
        hooks: old.hooks.clone(),
        heartbeat: old.heartbeat.clone(),
        log: crate::config::Log {
            level: new.log.level,
            ..old.log.clone()
        },
        ..new
    };
    // Files in progress belong to the old place: their results must not be recorded for the new one.
    let found = recognized(old, &config);
    // While its iModel is not there, nothing of it is in progress.
    let is_free = |was: &Watch| imodel_wait(old, was).is_some();
    for (watch, was) in config.watches.iter_mut().zip(found) {
        let Some(was) = was else { continue };
        for (key, moved) in [
            (
                "imodel_id",
                was.imodel_id != watch.imodel_id && !is_free(was),
            ),
            ("storage_folder", was.storage_folder != watch.storage_folder),
            ("connection", was.connection != watch.connection),
        ] {
            keep(&format!("{key} of watch {:?}", watch.name), moved);
        }
        if !is_free(was) {
            watch.imodel_id.clone_from(&was.imodel_id);
        }
        watch.storage_folder.clone_from(&was.storage_folder);
        watch.connection.clone_from(&was.connection);
    }
    (config, waiting)
}

/// Which watch of the old configuration each of the new one is.
fn recognized<'o>(old: &'o Config, new: &Config) -> Vec<Option<&'o Watch>> {
    let (known, specs) = (watch_specs(old), watch_specs(new));
    let known: Vec<_> = known.iter().map(WatchSpec::identity).collect();
    let specs: Vec<_> = specs.iter().map(WatchSpec::identity).collect();
    let found = ledger::recognize(&known, &specs).into_iter();
    found
        .map(|found| match found {
            Recognized::As(at) => old.watches.get(at),
            Recognized::New | Recognized::Ambiguous(_) => None,
        })
        .collect()
}

impl Tasks {
    /// Applies what [`next`] returned to `config`, and shows that in the status line.
    pub(super) async fn take_up(
        &mut self,
        (loaded, levels): (Result<Config, ConfigErrors>, &Levels),
        config: &mut Config,
        ledger: &Ledger,
        client: &Client,
    ) -> Result<(), Error> {
        let note = match loaded {
            Ok(new) => {
                *config = self.reload(config, new, ledger, client, levels).await?;
                None
            }
            Err(mistakes) => Some(refuse(&mistakes)),
        };
        systemd::ready(&watchdog::line(ledger, note.as_deref()).await?);
        self.note.send_replace(note);
        Ok(())
    }

    /// Applies `new` as far as it needs no restart; returns the effective configuration.
    async fn reload(
        &mut self,
        old: &Config,
        new: Config,
        ledger: &Ledger,
        client: &Client,
        levels: &Levels,
    ) -> Result<Config, Error> {
        let mut new = new;
        new.know_imodels(&ledger.created_imodels().await?);
        let (config, waiting) = live(old, new);
        levels.set(config.log.level);
        client.set_limits(config.itwin.limits);
        if let Account::Service(secret) = &config.itwin.account
            && config.itwin.account != old.itwin.account
        {
            info!("using the new client secret");
            client.set_client_secret(secret.clone());
        }
        client.set_rate(config.upload.rate.clone());
        let kept: Vec<&Watch> = recognized(old, &config).into_iter().flatten().collect();
        let gone = |watch: &&Watch| !config.watches.contains(watch);
        for watch in old.watches.iter().filter(gone) {
            self.unwatch(&watch.name);
            if !kept.contains(&watch) {
                info!(
                    watch = watch.name,
                    "watch removed: its files stay in storage and in the iModel"
                );
            }
        }
        let claiming = self.claiming.lock().await;
        let watches = register(&config, ledger).await?;
        self.upload_settings.send_replace(upload::Settings {
            limits: config.upload.clone(),
            retry: config.retry.clone(),
            watches: watches.iter().cloned().collect::<HashMap<_, _>>(),
        });
        drop(claiming);
        self.synchronizer_settings
            .send_replace(synchronizer_settings(&config));
        self.configuration.send_replace(config.source.clone());
        // What failed because of the configuration may succeed now.
        ledger.retry_corrected().await?;
        self.wake_uploads.notify_one();
        self.start_synchronizers(&config, ledger, client);
        self.start_imodels(&config, ledger, client);
        self.wake_imodels.send_modify(|_asked| ());
        let is_new = |watch: &Watch| !old.watches.contains(watch);
        for (id, watch) in watches.into_iter().filter(|(_, watch)| is_new(watch)) {
            self.watch(id, watch, ledger);
        }
        self.wake_uploads.notify_one();
        self.wake_synchronizers.send_modify(|_asked| ());
        for key in &waiting {
            warn!(
                key,
                hint = "restart the service to apply it",
                "this change needs a restart"
            );
        }
        info!(
            watches = config.watches.len(),
            needs_restart = (!waiting.is_empty()).then(|| waiting.join(", ")),
            "configuration reloaded"
        );
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::{Environment, Level};
    use crate::secret::Secret;

    fn parse(text: &str, secret: &str) -> Config {
        let environment = Environment {
            client_secret: Some(Secret::new(secret)),
            ..Environment::default()
        };
        Config::parse(text, "config.toml", &environment).unwrap()
    }

    const OLD: &str = r#"
[itwin]
client_id = "one"
[[watch]]
name = "north"
path = "/srv/north"
imodel_id = "c0ffee00-1234-4abc-8def-0123456789ab"
"#;

    #[test]
    fn limits_schedules_and_log_level_apply_at_once() {
        let new = format!(
            "settle = \"1m\"\n{}[log]\nlevel = \"debug\"\n[upload]\nworkers = 9\n[sync]\nbatch_window = \"1s\"\n",
            OLD.replace(
                "client_id",
                "requests_per_minute = 7\nrequests_per_hour = 70\nclient_id"
            )
        );
        let (config, waiting) = live(&parse(OLD, "a"), parse(&new, "a"));
        assert_eq!(waiting, Vec::<String>::new());
        assert_eq!(config.log.level, Level::Debug);
        assert_eq!(config.upload.workers, 9);
        assert_eq!(
            (config.itwin.limits.per_minute, config.itwin.limits.per_hour),
            (7, Some(70))
        );
        assert_eq!(config.watches, parse(&new, "a").watches);
    }

    #[test]
    fn keys_that_need_a_restart_keep_their_value_and_are_listed() {
        let new = OLD
            .replace("\"one\"", "\"two\"\nscope = \"other\"\napi_url = \"https://a.example\"\nissuer_url = \"https://b.example\"")
            .replace("c0ffee00", "c0ffee01")
            + "storage_folder = \"North\"\nconnection = \"mine\"\n[state]\npath = \"/elsewhere\"\n\
               [log]\nformat = \"json\"\ndirectory = \"/log\"\nkeep_files = 3\n[network]\nidle_timeout = \"5s\"\n";
        let old = parse(OLD, "a");
        let (config, waiting) = live(&old, parse(&new, "b"));
        assert_eq!(
            waiting,
            [
                "itwin.api_url",
                "itwin.issuer_url",
                "itwin.client_id",
                "itwin.scope",
                "[network]",
                "state.path",
                "log.format",
                "log.directory",
                "log.keep_files",
                "imodel_id of watch \"north\"",
                "storage_folder of watch \"north\"",
                "connection of watch \"north\"",
            ]
        );
        assert_eq!(format!("{config:?}"), format!("{old:?}"));
        let Account::Service(secret) = config.itwin.account else {
            unreachable!("the configuration has a secret");
        };
        assert_eq!(secret.text.expose(), "b");
    }

    #[test]
    fn a_watch_with_a_new_name_keeps_its_place_until_a_restart() {
        let new = OLD
            .replace("\"north\"", "\"site\"")
            .replace("c0ffee00", "c0ffee01");
        let old = parse(OLD, "a");
        let (config, waiting) = live(&old, parse(&new, "a"));
        assert_eq!(waiting, ["imodel_id of watch \"site\""]);
        assert_eq!(config.watches[0].name, "site");
        assert_eq!(config.watches[0].imodel_id, old.watches[0].imodel_id);
    }
}
