//! The hosts that were contacted: the pauses they requested, their responses by status, and whether their connections
//! are reused.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use super::network::Route;
use super::urls::authority;
use crate::retry::Gate;

/// How long connections to a host are not reused after a response was lost on an open one.
const DISTRUST: Duration = Duration::from_secs(10 * 60);

/// All hosts, by host and port.
#[derive(Debug)]
pub(super) struct Hosts {
    route: Arc<Route>,
    /// By host and port.
    by_authority: Mutex<HashMap<String, Arc<Host>>>,
    pause_requested: Arc<Notify>,
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) gate: Gate,
    /// The host for messages, with the proxy on the way to it.
    pub(super) label: String,
    /// Number of requests by status; None for those without a response.
    responses: Mutex<BTreeMap<Option<u16>, u64>>,
    /// Until then no connection is reused: something on the way drops idle ones silently.
    distrusted: Mutex<Option<Instant>>,
}

impl Hosts {
    pub(super) fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            by_authority: Mutex::default(),
            pause_requested: Arc::default(),
        }
    }

    pub(super) fn of(&self, url: &Url) -> Arc<Host> {
        let mut hosts = self.hosts();
        let host = hosts.entry(authority(url));
        Arc::clone(host.or_insert_with(|| {
            Arc::new(Host {
                gate: Gate::new(Arc::clone(&self.pause_requested)),
                label: self.route.describe(url),
                responses: Mutex::default(),
                distrusted: Mutex::default(),
            })
        }))
    }

    /// Hosts with a pause that is not over, and what is left of it.
    pub(super) fn paused(&self) -> Vec<(String, Duration)> {
        let hosts = self.hosts();
        let paused = hosts
            .iter()
            .map(|(name, host)| (name.clone(), host.gate.remaining()));
        paused.filter(|(_, left)| !left.is_zero()).collect()
    }

    /// Sends a host no request for this time.
    pub(super) fn pause(&self, host: &str, left: Duration) {
        // The route does not depend on what follows the host.
        if let Ok(url) = Url::parse(&format!("https://{host}/")) {
            self.of(&url).gate.close(left);
        }
    }

    /// Waits until a host requests a pause.
    pub(super) async fn pause_requested(&self) {
        self.pause_requested.notified().await;
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Arc<Host>>> {
        self.by_authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of requests so far, by host and status.
    pub(super) fn traffic(&self) -> Vec<(String, Option<u16>, u64)> {
        let mut all = Vec::new();
        for (name, host) in self.hosts().iter() {
            let responses = host
                .responses
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.extend(
                responses
                    .iter()
                    .map(|(status, count)| (name.clone(), *status, *count)),
            );
        }
        all.sort();
        all
    }
}

impl Host {
    /// Stops reusing connections for a while: a response was lost on an open one.
    pub(super) fn distrust(&self) {
        let mut until = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + DISTRUST);
    }

    /// Whether every request needs a new connection.
    pub(super) fn is_distrusted(&self) -> bool {
        let until = *self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn count(&self, status: Option<StatusCode>) {
        let mut responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *responses
            .entry(status.map(|status| status.as_u16()))
            .or_default() += 1;
    }
}
