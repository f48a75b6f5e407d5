//! The interfaces of the service: control socket, web page, alerts and heartbeat; and the retention of history.
//!
//! Synchronization depends on none of them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use super::tasks::Tasks;
use super::{Error, Until};
use crate::config::Config;
use crate::control::{self, Operator};
use crate::itwin::Client;
use crate::ledger::Ledger;
use crate::{alert, web};

/// How often old history is deleted: all of the history is read for that.
const HISTORY_LOOK: Duration = Duration::from_hours(24);

/// The pause before another attempt if that fails.
const HISTORY_RETRY: Duration = Duration::from_hours(1);

/// How often the platform's clock is read until it is known.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// Time limit of a request to the receiver of an alert or a heartbeat.
const REQUEST: Duration = Duration::from_secs(20);

/// The server of the control socket; None, with a warning, if it cannot be created: the daemon works without it.
pub(super) fn control_server(config: &Config) -> Option<control::Server> {
    let bound = control::Server::bind(&config.state.path);
    let warned = bound.inspect_err(|error| {
        warn!(
            %error,
            hint = "check the permissions of state.path; commands talk to the daemon through control.sock in it",
            "cannot create the control socket: commands cannot reach this daemon"
        );
    });
    warned.ok()
}

impl Tasks {
    /// Starts all interfaces. Synchronization does not depend on any of them.
    pub(super) async fn start_interfaces(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        client: &Client,
        until: Until,
    ) -> Result<(), Error> {
        let operator = Operator {
            ledger: ledger.clone(),
            live: self.live.clone(),
            wake_uploads: Arc::clone(&self.wake_uploads),
            wake_synchronizers: self.wake_synchronizers.clone(),
            queue: self.queue.clone(),
            configuration: self.configuration.subscribe(),
        };
        if let Some(server) = control_server(config) {
            let (operator, stop) = (operator.clone(), self.stop.clone());
            self.spawn("control".to_owned(), async move {
                server.run(operator, stop).await;
                Ok(())
            });
        }
        let reader = Ledger::read_beside(&config.state.path).await?;
        // A single pass ends before a page would be of use, and the address may be that of the service.
        let listen = config.web.listen.filter(|_| until == Until::Stopped);
        if let Some(listen) = listen {
            let parts = web::Parts {
                config: config.web.clone(),
                operator,
                reader: reader.clone(),
                client: client.clone(),
            };
            let stop = self.stop.clone();
            self.spawn("web".to_owned(), async move {
                Ok(web::run(listen, parts, stop).await?)
            });
        }
        let http = config.network.client(REQUEST).map_err(Error::Client)?;
        let ledgers = alert::Ledgers {
            ledger: ledger.clone(),
            reader: reader.clone(),
        };
        for alert in config.alerts.clone() {
            let (ledgers, status) = (ledgers.clone(), self.live.clone());
            let receivers = alert::Receivers {
                http: http.clone(),
                certificates: config.network.extra_certificates.clone(),
                dialog: config.network.total_timeout,
            };
            let stop = self.stop.clone();
            let name = format!("alert {}", alert.name);
            self.spawn(name, async move {
                Ok(alert::run(alert, receivers, ledgers, status, stop).await?)
            });
        }
        for hook in config.hooks.clone() {
            let (http, ledgers) = (http.clone(), ledgers.clone());
            let status = self.live.clone();
            let stop = self.stop.clone();
            self.spawn(format!("hook {}", hook.name), async move {
                Ok(alert::run_hook(hook, http, ledgers, status, stop).await?)
            });
        }
        if config.heartbeat.url.is_some() {
            let (heartbeat, reader) = (config.heartbeat.clone(), reader.clone());
            let live = self.live.clone();
            let stop = self.stop.clone();
            self.spawn("heartbeat".to_owned(), async move {
                alert::beat(heartbeat, http, reader, live, stop).await;
                Ok(())
            });
        }
        let (ledger, client) = (ledger.clone(), client.clone());
        let (keep, stop) = (config.state.keep_history, self.stop.clone());
        self.spawn("history".to_owned(), async move {
            tokio::select! {
                () = forget_history(ledger, client, keep) => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        });
        Ok(())
    }
}

/// Deletes history that is older than configured.
async fn forget_history(ledger: Ledger, client: Client, keep: Duration) {
    loop {
        // Never delete by the local clock alone: it may be years ahead.
        let Some(there) = client.platform_clock() else {
            tokio::time::sleep(CLOCK_LOOK).await;
            continue;
        };
        let before = crate::clock::now()
            .min(there)
            .checked_sub(keep)
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let pause = match ledger.forget_history(before).await {
            Ok(rows) => {
                if rows > 0 {
                    info!(rows, "deleted history older than state.keep_history");
                }
                HISTORY_LOOK
            }
            Err(error) => {
                warn!(%error, "cannot delete old history: retrying in an hour");
                HISTORY_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
