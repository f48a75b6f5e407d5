//! The client of the iTwin Platform: typed calls, and errors that know their retry class and a hint.
//!
//! In: ids, names and bytes. Out: what the platform returns. Only this module knows URLs, headers and JSON. It never
//! follows a redirect, never repeats a request that creates something, and never shows the token, the client secret or
//! the query of an upload address. It knows nothing of watches, jobs or the ledger. A crash loses the token, the clock
//! offset and the pauses that hosts requested; the service stores the pauses ([`Client::pauses`]).
//!
//! From bottom to top: `transport` exchanges one request with a host of `hosts`; `auth` gets tokens, for a user by
//! `user_grant`; `api` sends a
//! [`call::Call`] with a token and repeats it where that is safe; `storage`, `synchronization`, `imodels` and `itwins`
//! are the calls. `blob` has an HTTP client of its own, which never gets the token.
//!
//! Source of the calls: developer.bentley.com/apis/{itwins,imodels-v2,storage,synchronization}/operations/, and
//! learn.microsoft.com/rest/api/storageservices/ for blobs.

mod api;
mod auth;
mod blob;
mod body;
mod call;
mod callback;
mod client_secret;
mod discovery;
mod envelope;
mod error;
mod granted;
mod guarded_body;
mod headers;
mod hosts;
mod imodels;
mod itwins;
mod limits;
mod list;
mod network;
mod oauth_transport;
mod page;
mod probe;
mod reply;
mod signed_out;
mod storage;
mod storage_folders;
mod synchronization;
mod transport;
mod untrusted_text;
mod urls;
mod user;
mod user_grant;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use crate::bandwidth::{BandwidthLimiter, Period};
use crate::lease::Lease;
use crate::login_file::LoginFile;
use crate::retry::{Budget, Portions};
use crate::secret::ClientSecret;

pub use crate::retry::RequestLimits;
pub use blob::{Checksum, Speed, UploadUrl};
pub use callback::CallbackError;
pub(crate) use callback::RETURNED_MAX;
pub use error::Error;
#[cfg(test)]
pub(crate) use error::unreachable_platform;
pub use imodels::{Corners, Imodel, ImodelAnswer, ListedImodel, NamedVersion, VersionAnswer};
pub use itwins::{Listed, ListedItwin};
pub use network::{Network, Proxy};
pub use probe::{ProbeError, ProbeReport};
pub use signed_out::SignedOut;
pub use storage::{File, UploadLinks};
pub use storage_folders::Folder;
pub use synchronization::{
    ActiveRun, Authentication, Connection, ListedRun, NewConnection, Run, RunAnswer, RunError,
    RunJob, RunTask, SettingsScope, SourceFile, Takeover, TaskError,
};
pub(crate) use urls::is_loopback;
pub use user::{Authorization, AuthorizationNote};
pub use user_grant::{PendingSignIn, SignOut};

use api::Api;
use auth::Tokens;
use blob::Blobs;
use hosts::{Hosts, PausingPortions};
use network::Route;
use transport::platform_client;

/// Longest time for a request that changes something, if another host may take over afterwards.
const CHANGE_MAX: Duration = Duration::from_secs(20);

/// URLs of the platform and the credentials.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base address of the API.
    pub api_url: Url,
    /// Base address of the identity provider.
    pub issuer_url: Url,
    /// The application's client id.
    pub client_id: String,
    /// What tokens are requested with.
    pub credentials: Credentials,
    /// OAuth scope to request.
    pub scope: String,
    /// Maximum number of API requests.
    pub limits: RequestLimits,
    /// Bandwidth limits for content.
    pub rate: Vec<Period>,
    /// Proxy, certificates and timeouts for all hosts.
    pub network: Network,
}

/// What tokens are requested with.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The secret of a service application.
    Service(ClientSecret),
    /// The sign-in of a user.
    User(LoginFile),
}

/// The platform, as one service application or user sees it. Clones share token, connections and pauses.
#[derive(Debug, Clone)]
pub struct Client {
    api: Arc<Api>,
    blobs: Arc<Blobs>,
    hosts: Arc<Hosts>,
    route: Arc<Route>,
    /// Host and port of the API and the identity provider.
    platform: Arc<[String]>,
}

/// All requests to the platform fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// When the first of these requests failed.
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
}

/// A host that requested a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The host, with its port if that is not the default.
    pub host: String,
    /// No request is sent before this time.
    pub until: Timestamp,
}

impl Client {
    /// Creates both HTTP clients; sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up on this machine, or a configured certificate is invalid.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Self::within(settings, None, None)
    }

    /// The same. Requests that change something are sent while the lease is valid, and wait otherwise. All requests to
    /// the API are drawn from the portions, and hosts paused as these say.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn within(
        settings: Settings,
        lease: Option<Lease>,
        portions: Option<Arc<dyn Portions>>,
    ) -> Result<Self, Error> {
        let route = Arc::new(Route::new(settings.network.clone()));
        let total_timeout = settings.network.total_timeout;
        let change_timeout = lease.as_ref().map(|_| total_timeout.min(CHANGE_MAX));
        let hosts = Arc::new(Hosts::new(Arc::clone(&route), lease));
        let authorities = [&settings.api_url, &settings.issuer_url].map(urls::authority);
        let authority = authorities[0].clone();
        let platform = platform_client(&route)?;
        let api_url = settings.api_url.clone();
        let budget = match portions {
            Some(portions) => {
                let hosts = Arc::clone(&hosts);
                let portions = PausingPortions { portions, hosts };
                Budget::shared(settings.limits, authority, Arc::new(portions))
            }
            None => Budget::new(settings.limits),
        };
        let limiter = BandwidthLimiter::new(settings.rate.clone());
        let tokens = Tokens::new(platform.clone(), settings, Arc::clone(&hosts));
        let blobs = Blobs::new(&route, Arc::clone(&hosts), limiter)?;
        Ok(Self {
            api: Arc::new(Api::new(
                platform,
                api_url,
                tokens,
                &hosts,
                budget,
                change_timeout,
            )),
            blobs: Arc::new(blobs),
            hosts,
            route,
            platform: authorities.into(),
        })
    }

    /// Since when all requests to the API or the identity provider have failed, if that has lasted for a minute.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        let (since, reason) = self.hosts.outage(&self.platform)?;
        Some(Outage { since, reason })
    }

    /// The pauses that hosts requested and that are not over.
    #[must_use]
    pub fn pauses(&self) -> Vec<Pause> {
        let now = crate::clock::now();
        let paused = self.hosts.paused().into_iter();
        paused
            .map(|(host, left)| Pause {
                host,
                until: now.checked_add(left).unwrap_or(now),
            })
            .collect()
    }

    /// Restores pauses that an earlier client was asked for, such as that of the previous process.
    pub fn restore_pauses(&self, pauses: &[Pause]) {
        for pause in pauses {
            let left = pause.until.duration_since(crate::clock::now());
            if let Ok(left) = Duration::try_from(left) {
                self.hosts.pause(&pause.host, left);
            }
        }
    }

    /// Waits until a host requests a pause.
    pub async fn pause_requested(&self) {
        self.hosts.pause_requested().await;
    }

    /// Sets the bandwidth limits for content.
    pub fn set_rate(&self, periods: Vec<Period>) {
        self.blobs.limiter.set(periods);
    }

    /// The current bandwidth limit in bytes per second, if there is one.
    #[must_use]
    pub fn rate_limit(&self) -> Option<u64> {
        self.blobs.limiter.limit()
    }

    /// Whether the bandwidth limits pause all uploads now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.blobs.limiter.is_paused()
    }

    /// Sets the maximum number of API requests.
    pub fn set_limits(&self, limits: RequestLimits) {
        self.api.budget().set(limits);
    }

    /// Replaces the client secret, for the next token.
    pub fn set_client_secret(&self, secret: ClientSecret) {
        self.api.tokens().set_client_secret(secret);
    }

    /// Gets a token, unless there is a valid one.
    ///
    /// # Errors
    /// When the identity provider cannot be reached or rejects the credentials.
    pub async fn check_token(&self) -> Result<(), Error> {
        self.api.tokens().get().await.map(drop)
    }

    /// Who has to be a member of iTwins: the e-mail address of the service application, or the user.
    #[must_use]
    pub fn member(&self) -> String {
        self.api.tokens().member()
    }

    /// Number of requests since the client was created, by host and status; no status for those without a response.
    #[must_use]
    pub fn traffic(&self) -> Vec<(String, Option<u16>, u64)> {
        self.hosts.traffic()
    }

    /// The time of the platform's clock, to the second, from its latest response; our time before the first response.
    #[must_use]
    pub fn platform_time(&self) -> Timestamp {
        self.platform_clock().unwrap_or_else(crate::clock::now)
    }

    /// The time of the platform's clock, once it has responded.
    #[must_use]
    pub fn platform_clock(&self) -> Option<Timestamp> {
        self.api.platform_clock()
    }
}
