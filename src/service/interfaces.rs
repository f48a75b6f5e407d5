//! What people see the service by, and reach it with: the control socket, the page, alerts, the heartbeat; and the end of
//! history. Without any of it the daemon works all the same.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::{Error, Tasks};
use crate::config::Config;
use crate::control::{self, Desk};
use crate::itwin::Client;
use crate::ledger::Ledger;
use crate::{alert, web};

/// How often old history is looked for.
const HISTORY_LOOK: Duration = Duration::from_secs(3600);

/// How often the platform's clock is looked at until it is known.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// For one request to the receiver of an alert or a heartbeat.
const REQUEST: Duration = Duration::from_secs(20);

impl Tasks {
    /// Starts what people see it by, and reach it with. Without that the daemon works all the same.
    pub(super) async fn open_to_people(
        &mut self,
        config: &Config,
        ledger: &Ledger,
        client: &Client,
    ) -> Result<(), Error> {
        let desk = Desk {
            ledger: ledger.clone(),
            live: self.live.clone(),
            wake_uploads: Arc::clone(&self.wake_uploads),
            wake_synchronizers: self.wake_synchronizers.clone(),
        };
        match control::Server::bind(&config.state.path) {
            Ok(server) => {
                let (desk, stop) = (desk.clone(), self.stop.clone());
                self.spawn("control".to_owned(), async move {
                    server.run(desk, stop).await;
                    Ok(())
                });
            }
            Err(error) => warn!(
                %error,
                hint = "the commands that ask the daemon need the socket control.sock in state.path",
                "no control socket can be made"
            ),
        }
        let reader = Ledger::read(&config.state.path).await?;
        if let Some(listen) = config.web.listen {
            match web::Server::bind(listen).await {
                Ok(server) => {
                    let parts = web::Parts {
                        config: config.web.clone(),
                        desk,
                        reader: reader.clone(),
                        client: client.clone(),
                    };
                    let stop = self.stop.clone();
                    self.spawn("web".to_owned(), async move {
                        Ok(server.run(parts, stop).await?)
                    });
                }
                Err(error) => error!(
                    %listen, %error,
                    hint = "choose another address in web.listen, or stop who has it",
                    "the page cannot be served; all else goes on"
                ),
            }
        }
        let http = super::network(&config.network)
            .client(REQUEST)
            .map_err(Error::Client)?;
        for alert in config.alerts.clone() {
            let (http, ledger, reader) = (http.clone(), ledger.clone(), reader.clone());
            let stop = self.stop.clone();
            let name = format!("alert {}", alert.name);
            self.spawn(name, async move {
                Ok(alert::run(alert, http, ledger, reader, stop).await?)
            });
        }
        if config.heartbeat.url.is_some() {
            let (heartbeat, reader) = (config.heartbeat.clone(), reader.clone());
            let stop = self.stop.clone();
            self.spawn("heartbeat".to_owned(), async move {
                alert::beat(heartbeat, http, reader, stop).await;
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

/// Keeps the history as long as configured.
async fn forget_history(ledger: Ledger, client: Client, keep: Duration) {
    loop {
        // Our clock alone must not delete anything: it may be ahead by years.
        let Some(there) = client.platform_clock() else {
            tokio::time::sleep(CLOCK_LOOK).await;
            continue;
        };
        let before = crate::clock::now()
            .min(there)
            .checked_sub(keep)
            .unwrap_or(Timestamp::UNIX_EPOCH);
        match ledger.forget_history(before).await {
            Ok(0) => {}
            Ok(rows) => info!(rows, "old history is forgotten (state.keep_history)"),
            Err(error) => warn!(%error, "old history could not be forgotten; trying again"),
        }
        tokio::time::sleep(HISTORY_LOOK).await;
    }
}
