//! The client of the iTwin Platform: typed calls, and errors that tell what to do about them.
//!
//! In come ids, names and bytes; out go what the platform says, in its own words. Only this room knows addresses,
//! headers and JSON. It never follows a redirect, never repeats a request that makes something new, and never shows
//! the token, the client secret or the query of an upload address. It knows nothing of watches, jobs or the ledger,
//! and keeps nothing that a crash could lose: a token, the clock's offset and the pauses that hosts asked for.
//!
//! Two HTTP clients: one for the platform, with the token, and one for blobs, which must never see the token.
//!
//! Source of the calls: developer.bentley.com/apis/{imodels-v2,storage,synchronization}/operations/, and
//! learn.microsoft.com/rest/api/storageservices/ for blobs.

mod answer;
mod auth;
mod blob;
mod error;
mod http;
mod imodels;
mod network;
mod probe;
mod said;
mod storage;
mod synchronization;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use crate::bandwidth::{Pace, Period};
use crate::retry::Budget;
use crate::secret::Secret;

pub use blob::{Checksum, Speed, UploadUrl};
pub use error::Error;
pub use imodels::Imodel;
pub use network::{Network, Proxy};
pub use probe::{Broken, Reached};
pub use storage::{File, Folder, UploadLinks};
pub use synchronization::{
    ActiveRun, Connection, NewConnection, Run, RunAnswer, RunError, RunJob, RunTask, SourceFile,
    TaskError,
};

use auth::Tokens;
use blob::Blobs;
use http::{Api, Gates};
use network::Route;

/// Where the platform is and who asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base address of the API.
    pub api_url: Url,
    /// Base address of the identity provider.
    pub issuer_url: Url,
    /// The service application's client id.
    pub client_id: String,
    /// The service application's secret.
    pub client_secret: Secret,
    /// Scope to ask for.
    pub scope: String,
    /// Requests to the API in any minute, at most.
    pub requests_per_minute: usize,
    /// How fast content may go.
    pub rate: Vec<Period>,
    /// The way to both, and to the storage of content.
    pub network: Network,
}

/// The platform, as one service application sees it. Clones share the token, the sockets and the pauses.
#[derive(Debug, Clone)]
pub struct Client {
    api: Arc<Api>,
    blobs: Arc<Blobs>,
    gates: Arc<Gates>,
    route: Arc<Route>,
}

/// A host that asked to be left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The host, with its port if that is not the usual one.
    pub host: String,
    /// No request goes there before this time.
    pub until: Timestamp,
}

impl Client {
    /// Sets up both HTTP clients; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up on this machine, or a certificate of the network is none.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let route = Arc::new(Route::new(settings.network.clone()));
        let gates = Arc::new(Gates::new(Arc::clone(&route)));
        let platform = http::platform_client(&route)?;
        let api_url = settings.api_url.clone();
        let budget = Budget::new(settings.requests_per_minute);
        let pace = Pace::new(settings.rate.clone());
        let tokens = Tokens::new(platform.clone(), settings, Arc::clone(&gates));
        let blobs = Blobs::new(&route, Arc::clone(&gates), pace)?;
        Ok(Self {
            api: Arc::new(Api::new(platform, api_url, tokens, &gates, budget)),
            blobs: Arc::new(blobs),
            gates,
            route,
        })
    }

    /// The pauses that hosts have asked for and that are not over.
    #[must_use]
    pub fn pauses(&self) -> Vec<Pause> {
        let now = crate::clock::now();
        let closed = self.gates.closed().into_iter();
        closed
            .map(|(host, left)| Pause {
                host,
                until: now.checked_add(left).unwrap_or(now),
            })
            .collect()
    }

    /// Keeps pauses that were asked of an earlier client, such as one of a process before this one.
    pub fn keep(&self, pauses: &[Pause]) {
        for pause in pauses {
            let left = pause.until.duration_since(crate::clock::now());
            if let Ok(left) = Duration::try_from(left) {
                self.gates.hold(&pause.host, left);
            }
        }
    }

    /// Waits until a host asks for a pause.
    pub async fn asked_to_pause(&self) {
        self.gates.news().await;
    }

    /// Lets content go this fast from now on.
    pub fn set_rate(&self, periods: Vec<Period>) {
        self.blobs.pace.set(periods);
    }

    /// How fast content may go at the moment, in bytes a second, if there is a limit.
    #[must_use]
    pub fn rate_limit(&self) -> Option<u64> {
        self.blobs.pace.limit()
    }

    /// Allows so many requests to the API in any minute from now on.
    pub fn set_requests_per_minute(&self, count: usize) {
        self.api.budget().set(count);
    }

    /// Makes sure that there is a token, asking for one if need be.
    ///
    /// # Errors
    /// When the identity provider cannot be reached or refuses the credentials.
    pub async fn check_token(&self) -> Result<(), Error> {
        self.api.tokens().get().await.map(drop)
    }

    /// Requests since the client was set up, by host and status; no status for those without an answer.
    #[must_use]
    pub fn traffic(&self) -> Vec<(String, Option<u16>, u64)> {
        self.gates.traffic()
    }

    /// The time by the platform's clock, to the second, as its latest answer said it; by ours before the first answer.
    #[must_use]
    pub fn platform_time(&self) -> Timestamp {
        self.platform_clock().unwrap_or_else(crate::clock::now)
    }

    /// The time by the platform's clock, once it has answered.
    #[must_use]
    pub fn platform_clock(&self) -> Option<Timestamp> {
        self.api.platform_clock()
    }
}
