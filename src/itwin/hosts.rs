//! The hosts that were contacted: the pauses they requested, their responses by status, and whether their connections
//! are reused.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use super::network::Route;
use super::urls::authority;
use crate::lease::Lease;
use crate::retry::{Drawing, Gate, Order, Portions};

/// How long connections to a host are not reused after a response was lost on an open one.
const DISTRUST: Duration = Duration::from_secs(10 * 60);

/// When requests have failed for this long without one that succeeded, the host is unreachable.
const OUTAGE_MIN: Duration = Duration::from_secs(60);

/// All hosts, by host and port.
#[derive(Debug)]
pub(super) struct Hosts {
    route: Arc<Route>,
    /// By host and port.
    by_authority: Mutex<HashMap<String, Arc<Host>>>,
    pause_requested: Arc<Notify>,
    lease: Option<Lease>,
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
    /// The failed requests since the last one that succeeded.
    failing: Mutex<Option<Failing>>,
    /// Until when requests may change something there; None: for ever.
    lease: Option<Lease>,
}

/// Consecutive failed requests to a host.
#[derive(Debug, Clone)]
struct Failing {
    since: Timestamp,
    first: Instant,
    last: Instant,
    reason: String,
}

impl Hosts {
    pub(super) fn new(route: Arc<Route>, lease: Option<Lease>) -> Self {
        Self {
            route,
            lease,
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
                failing: Mutex::default(),
                lease: self.lease.clone(),
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

    /// Sends a host no request for this time, because of a pause that is known already.
    pub(super) fn pause(&self, host: &str, left: Duration) {
        // The route does not depend on what follows the host.
        if let Ok(url) = Url::parse(&format!("https://{host}/")) {
            self.of(&url).gate.keep_closed(left);
        }
    }

    /// Waits until a host requests a pause.
    pub(super) async fn pause_requested(&self) {
        self.pause_requested.notified().await;
    }

    /// Since when all requests to these hosts have failed, and why; None unless that has lasted for [`OUTAGE_MIN`].
    pub(super) fn outage(&self, authorities: &[String]) -> Option<(Timestamp, String)> {
        let hosts = self.hosts();
        let failing = authorities
            .iter()
            .filter_map(|name| hosts.get(name)?.outage());
        failing.min_by_key(|(since, _)| *since)
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

/// Portions that bring the pauses of hosts with them.
pub(super) struct PausingPortions {
    pub(super) portions: Arc<dyn Portions>,
    pub(super) hosts: Arc<Hosts>,
}

impl Portions for PausingPortions {
    fn draw<'a>(&'a self, order: Order<'a>) -> Pin<Box<dyn Future<Output = Drawing> + Send + 'a>> {
        Box::pin(async move {
            let drawing = self.portions.draw(order).await;
            for (host, left) in &drawing.pauses {
                self.hosts.pause(host, *left);
            }
            drawing
        })
    }
}

impl Host {
    /// Until when requests may change something there; None: for ever.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

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

    /// Records how a request ended: with a failure, or None.
    pub(super) fn record(&self, failure: Option<String>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = failure else {
            *failing = None;
            return;
        };
        let now = Instant::now();
        let first = failing.take();
        *failing = Some(Failing {
            since: first
                .as_ref()
                .map_or_else(crate::clock::now, |first| first.since),
            first: first.map_or(now, |first| first.first),
            last: now,
            reason,
        });
    }

    fn outage(&self) -> Option<(Timestamp, String)> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = failing.as_ref()?;
        let lasts = failing.last.duration_since(failing.first) >= OUTAGE_MIN;
        lasts.then(|| (failing.since, failing.reason.clone()))
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

#[cfg(test)]
mod tests {
    use super::super::network::Network;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_is_unreachable_when_all_requests_of_a_minute_failed() {
        let network = Network {
            proxy: None,
            no_proxy: Vec::new(),
            extra_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(1),
        };
        let hosts = Hosts::new(Arc::new(Route::new(network)), None);
        let url = Url::parse("https://api.bentley.com/storage").unwrap();
        let host = hosts.of(&url);
        let outage = || hosts.outage(&[authority(&url)]).map(|(_, reason)| reason);
        host.record(Some("first".to_owned()));
        tokio::time::advance(OUTAGE_MIN).await;
        assert_eq!(outage(), None, "a single failure");
        host.record(Some("second".to_owned()));
        assert_eq!(outage().as_deref(), Some("second"));
        assert_eq!(hosts.outage(&["other".to_owned()]), None);
        host.record(None);
        host.record(Some("third".to_owned()));
        assert_eq!(outage(), None, "one request succeeded");
    }
}
