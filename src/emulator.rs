//! A stand-in for the iTwin Platform, to try everything without an account: in the demo, in tests, as a server.
//!
//! Input: HTTP requests on two origins, one for the API with its identity provider and one for the blob storage. Output: the platform's
//! statuses, headers and bodies. State is in memory, and in a folder if one is given; content is always on disk. What arrived can be read: [`Emulator::state`], [`Emulator::requests`], and by HTTP below `/_emulator`.
//!
//! It uses no other module of this program, above all not the client: it would share the client's mistakes.
//!
//! Where no source says anything, the list at the end of `docs/emulator.md` says so.
//!
//! # What is emulated
//!
//! Each operation with the statuses that it answers with, and the switches ([`Switches`]) that decide what the
//! documentation leaves open. A test brings every operation to every status here, and sets every switch to every word.
//!
//! | operation | statuses | switches |
//! |---|---|---|
//! | `any operation` | 401 404 413 429 | accept-missing, media-type, oversized-page |
//! | `GET /.well-known/jwks` | 200 | |
//! | `GET /.well-known/openid-configuration` | 200 | |
//! | `GET /connect/authorize` | 302 400 | |
//! | `GET /connect/consent` | 302 400 | |
//! | `GET /connect/endsession` | 200 302 400 | |
//! | `POST /connect/introspect` | 200 400 | |
//! | `POST /connect/revocation` | 200 400 | |
//! | `POST /connect/token` | 200 400 401 | refresh-token |
//! | `GET /users/me` | 200 | |
//! | `GET /accesscontrol/permissions` | 200 | |
//! | `GET /accesscontrol/itwins/{id}/permissions` | 200 404 | |
//! | `GET /accesscontrol/itwins/{id}/roles` | 200 404 | |
//! | `POST /accesscontrol/itwins/{id}/roles` | 201 403 404 422 | |
//! | `GET /accesscontrol/itwins/{id}/roles/{id}` | 200 404 | |
//! | `PATCH /accesscontrol/itwins/{id}/roles/{id}` | 200 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/roles/{id}` | 204 403 404 | |
//! | `GET /accesscontrol/itwins/{id}/members/users` | 200 404 422 | |
//! | `POST /accesscontrol/itwins/{id}/members/users` | 201 403 404 422 | |
//! | `GET /accesscontrol/itwins/{id}/members/users/{id}` | 200 404 | |
//! | `PATCH /accesscontrol/itwins/{id}/members/users/{id}` | 200 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/members/users/{id}` | 204 403 404 | |
//! | `GET /accesscontrol/itwins/{id}/members/owners` | 200 404 422 | |
//! | `POST /accesscontrol/itwins/{id}/members/owners` | 201 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/members/owners/{id}` | 204 403 404 | |
//! | `GET /itwins` | 200 422 | |
//! | `POST /itwins` | 201 409 422 | |
//! | `GET /itwins/myprimaryaccount` | 200 | |
//! | `GET /itwins/favorites` | 200 422 | |
//! | `POST /itwins/favorites/{id}` | 204 404 422 | |
//! | `DELETE /itwins/favorites/{id}` | 204 404 422 | |
//! | `GET /itwins/recents` | 200 422 | |
//! | `POST /itwins/recents/{id}` | 204 404 422 | |
//! | `GET /itwins/{id}` | 200 404 422 | |
//! | `PATCH /itwins/{id}` | 200 404 422 | |
//! | `DELETE /itwins/{id}` | 204 404 | |
//! | `GET /itwins/{id}/account` | 200 404 422 | |
//! | `GET /imodels` | 200 403 404 422 | |
//! | `POST /imodels` | 201 403 404 409 422 | |
//! | `GET /imodels/{id}` | 200 403 404 422 | |
//! | `PATCH /imodels/{id}` | 200 403 404 422 | |
//! | `DELETE /imodels/{id}` | 204 403 404 | |
//! | `POST /imodels/{id}/complete` | 200 403 404 422 | |
//! | `GET /imodels/{id}/operations/create` | 200 403 404 422 | |
//! | `GET /imodels/{id}/changesets` | 200 403 404 422 | |
//! | `GET /imodels/{id}/changesets/{id}` | 200 403 404 422 | |
//! | `GET /imodels/{id}/namedversions` | 200 403 404 422 | |
//! | `POST /imodels/{id}/namedversions` | 201 403 404 409 422 | |
//! | `GET /imodels/{id}/namedversions/{id}` | 200 403 404 422 | |
//! | `PATCH /imodels/{id}/namedversions/{id}` | 200 403 404 409 422 | |
//! | `GET /imodels/{id}/users` | 200 403 404 422 | |
//! | `GET /imodels/{id}/users/{id}` | 200 403 404 422 | |
//! | `GET /storage` | 200 403 404 422 | storage-forbidden, itwin-unknown |
//! | `GET /storage/files/{id}` | 200 403 404 | incomplete-files |
//! | `PATCH /storage/files/{id}` | 200 403 404 422 | |
//! | `DELETE /storage/files/{id}` | 204 403 404 | |
//! | `POST /storage/files/{id}/complete` | 200 403 404 409 422 | complete-without-content, complete-again, complete-empty, complete-expired |
//! | `GET /storage/files/{id}/download` | 302 403 404 | |
//! | `POST /storage/files/{id}/move` | 200 403 404 409 422 | move-name-taken |
//! | `POST /storage/files/{id}/updatecontent` | 202 403 404 409 | update-incomplete, update-blob, locked-file, sas-permissions |
//! | `GET /storage/folders/{id}` | 200 403 404 | |
//! | `PATCH /storage/folders/{id}` | 200 403 404 422 | |
//! | `DELETE /storage/folders/{id}` | 204 403 404 422 | |
//! | `GET /storage/folders/{id}/files` | 200 403 404 422 | incomplete-files, listed-description |
//! | `POST /storage/folders/{id}/files` | 202 403 404 409 422 | duplicate-file, name-case, recycled-name, name-error, sas-permissions |
//! | `GET /storage/folders/{id}/folders` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/folders` | 201 403 404 409 422 | duplicate-folder, name-case, name-error |
//! | `GET /storage/folders/{id}/list` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/lock` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/move` | 200 403 404 409 422 | move-name-taken |
//! | `GET /storage/folders/{id}/search` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/unlock` | 200 403 404 422 | |
//! | `GET /storage/recyclebin` | 200 403 404 422 | |
//! | `DELETE /storage/recyclebin/files/{id}` | 204 403 404 | |
//! | `POST /storage/recyclebin/files/{id}/restore` | 204 403 404 | |
//! | `DELETE /storage/recyclebin/folders/{id}` | 204 403 404 | |
//! | `POST /storage/recyclebin/folders/{id}/restore` | 204 403 404 | |
//! | `GET /emulated/{id}` | 200 206 404 416 | |
//! | `HEAD /emulated/{id}` | 200 | |
//! | `PUT /emulated/{id}` | 201 400 403 411 413 | |
//! | `PUT /emulated/{id}?comp=block` | 201 400 413 | |
//! | `GET /emulated/{id}?comp=blocklist` | 200 400 403 404 | |
//! | `PUT /emulated/{id}?comp=blocklist` | 201 400 | |
//! | `PUT /emulated/{id}?comp=lease` | 400 | |
//! | `GET /synchronization/configurations/connections/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/connections/{id}` | 200 201 403 404 422 | |
//! | `PATCH /synchronization/configurations/connections/{id}` | 200 403 404 422 | |
//! | `DELETE /synchronization/configurations/connections/{id}` | 204 403 404 | |
//! | `GET /synchronization/configurations/imodels/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/imodels/{id}` | 200 201 403 404 422 | |
//! | `PATCH /synchronization/configurations/imodels/{id}` | 200 403 404 422 | |
//! | `DELETE /synchronization/configurations/imodels/{id}` | 204 403 404 | |
//! | `GET /synchronization/configurations/itwins/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/itwins/{id}` | 200 201 403 404 422 | |
//! | `PATCH /synchronization/configurations/itwins/{id}` | 200 403 404 422 | |
//! | `DELETE /synchronization/configurations/itwins/{id}` | 204 403 404 | |
//! | `GET /synchronization/imodels/connections` | 200 403 404 422 | |
//! | `GET /synchronization/imodels/connections/authorizationinformation` | 200 422 | |
//! | `GET /synchronization/imodels/storageconnections` | 200 403 404 422 | |
//! | `POST /synchronization/imodels/storageconnections` | 201 403 404 409 422 | empty-connection, retired-connector, unknown-connector, limit |
//! | `GET /synchronization/imodels/storageconnections/{id}` | 200 403 404 | last-run |
//! | `PUT /synchronization/imodels/storageconnections/{id}` | 200 403 404 422 | omitted-authentication |
//! | `DELETE /synchronization/imodels/storageconnections/{id}` | 204 403 404 409 | delete-in-run, removed-source-file |
//! | `POST /synchronization/imodels/storageconnections/{id}/run` | 202 303 403 404 409 422 | run-scope, simultaneous-run, empty-run, location, run-body, unchanged-task |
//! | `GET /synchronization/imodels/storageconnections/{id}/runs` | 200 403 404 422 | |
//! | `GET /synchronization/imodels/storageconnections/{id}/runs/{id}` | 200 403 404 | |
//! | `GET /synchronization/imodels/storageconnections/{id}/sourcefiles` | 200 403 404 422 | |
//! | `POST /synchronization/imodels/storageconnections/{id}/sourcefiles` | 201 403 404 409 422 | retired-connector, unknown-connector, limit |
//! | `GET /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 200 403 404 | |
//! | `PUT /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 200 403 404 409 422 | |
//! | `DELETE /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 204 403 404 | removed-source-file |
//! | `GET /synchronization/reports` | 200 403 422 | |

mod access;
mod api;
mod azurite;
mod blob;
mod compare;
mod configurations;
mod control;
mod faults;
mod guard;
mod identity;
mod imodels;
mod itwins;
mod look;
mod model;
mod recorder;
mod recycle_bin;
mod relocate;
mod reply;
mod reports;
mod runs;
mod sas;
mod server;
mod signer;
mod storage;
mod store;
mod switches;
mod synchronization;
mod versions;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use compare::{CompareError, Comparison, compare};
pub use faults::{AnyFault, Effect, Fault, InvalidFault, Report, Route, RunFault, TaskFault};
pub use model::{
    Changeset, Completed, Connection, Covered, File, Folder, Imodel, ImodelContent, Itwin, Member,
    NamedVersion, Role, Run, SourceFile, State,
};
pub use server::RequestRecord;
pub use switches::*;

use azurite::Azurite;
use faults::ActiveFaults;
use guard::Guard;
use identity::Tokens;
use recorder::Recorder;
use server::Quota;
use signer::Signer;
use store::Store;

/// The iTwin that is there unless others are named.
pub const DEFAULT_ITWIN_ID: &str = "11111111-2222-4333-8444-555555555555";
/// The iModel that is there unless others are named.
pub const DEFAULT_IMODEL_ID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/// The client id that is good unless others are named.
pub const DEFAULT_CLIENT_ID: &str = "service-emulator";
/// Its secret.
pub const DEFAULT_CLIENT_SECRET: &str = "emulator-secret";
/// The client id of an application that people sign in with, which has no secret.
pub const DEFAULT_NATIVE_CLIENT_ID: &str = "native-emulator";

/// Why the emulator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The file that exchanges are written to cannot be made.
    #[error("cannot write the recording {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key that signs tokens cannot be made or read.
    #[error("cannot sign tokens")]
    Key(#[source] std::io::Error),
    /// The Azurite that is to be used does not answer as one.
    #[error("cannot use the Azurite at {url}")]
    Azurite {
        /// Its address.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path:?}")]
    Data {
        /// The folder or the file in it.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An emulator before it starts.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    listen: SocketAddr,
    blob_listen: SocketAddr,
    data_dir: Option<PathBuf>,
    azurite: Option<String>,
    itwins: Vec<Itwin>,
    imodels: Vec<Imodel>,
    switches: Switches,
    faults: Vec<AnyFault>,
    seed: u64,
    guard: Guard,
    public_host: Option<String>,
    record: Option<PathBuf>,
    options: Options,
}

/// How the emulated platform behaves.
#[derive(Debug, Clone)]
struct Options {
    clients: Vec<(String, String)>,
    display_names: Vec<(String, String)>,
    /// Clients that may do only what their roles allow.
    outsiders: Vec<String>,
    native_clients: Vec<String>,
    /// Where browsers may be sent beside this machine.
    redirects: Vec<String>,
    run_duration: Duration,
    sas_lifetime: Duration,
    token_lifetime: Duration,
    max_source_files: usize,
    max_connections: usize,
    page_size: Option<usize>,
    requests_per_minute: Option<u32>,
    forbidden_imodels: Vec<String>,
    forbidden_storage: Vec<String>,
    refused_connectors: Vec<String>,
    /// Whether runs look at the first bytes of files.
    file_check: bool,
}

/// A running emulator; it ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// What both origins work on.
#[derive(Debug)]
struct Shared {
    options: Options,
    api_url: String,
    blob_url: String,
    azurite: Option<Azurite>,
    guard: Guard,
    recorder: Option<Recorder>,
    signer: Signer,
    store: Store,
    state: Mutex<State>,
    tokens: Mutex<Tokens>,
    switches: Mutex<Switches>,
    faults: Mutex<ActiveFaults>,
    quota: Mutex<Quota>,
    requests: Mutex<Vec<RequestRecord>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes the applications that were set up beforehand the owners of the iTwins that were.
    fn own_itwins(&self) {
        let services = self.options.clients.iter().map(|(id, _)| id);
        for itwin in self.state().itwins.values_mut() {
            for id in services
                .clone()
                .filter(|id| !self.options.outsiders.contains(id))
            {
                if itwin.roles.is_empty() || !itwin.members.is_empty() {
                    access::add_owner(self, itwin, id);
                }
            }
        }
    }

    /// How a client is named to others.
    fn display_name<'s>(&'s self, client_id: &'s str) -> &'s str {
        let mut names = self.options.display_names.iter();
        names
            .find(|(id, _)| id == client_id)
            .map_or(client_id, |(_, name)| name)
    }

    /// Works out the digest of all content that has none yet. Reads that content.
    fn digest_now(&self) {
        let undigested = self.state().undigested();
        for content in undigested {
            // Content may be replaced at any moment; its digest is worked out before it is removed.
            if let Ok(sha256) = self.store.digest(&content) {
                self.state().digested(&content.id, &sha256);
            }
        }
    }

    async fn digest_all(self: &Arc<Self>) {
        let worker = Arc::clone(self);
        if let Err(panic) = tokio::task::spawn_blocking(move || worker.digest_now()).await {
            tracing::error!(%panic, "digests could not be worked out");
        }
    }

    /// Forgets all that was done; what was there at the start is there again.
    fn reset(&self) {
        let mut state = self.state();
        let blobs = std::mem::take(&mut state.blobs);
        state
            .retired
            .extend(blobs.into_values().filter_map(|blob| blob.content));
        state.files.clear();
        state.folders.retain(|_, folder| folder.parent_id.is_none());
        state.connections.clear();
        state.runs.clear();
        state.authorized_users.clear();
        state.configurations.clear();
        state.favorites.clear();
        state.recents.clear();
        for imodel in state.imodels.values_mut() {
            imodel.changesets.clear();
            imodel.named_versions.clear();
            imodel.contents.clear();
            imodel.gcs_from = None;
        }
        drop(state);
        lock(&self.requests).clear();
        lock(&self.faults).clear();
        *lock(&self.quota) = Quota::default();
        lock(&self.tokens).revoke_all();
        self.store.changed();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Builder {
    /// Where the API and the identity provider listen; by default a free port of the loopback address.
    pub fn listen(self, address: SocketAddr) -> Self {
        Self {
            listen: address,
            ..self
        }
    }

    /// Where the blob storage listens; by default a free port of the loopback address.
    pub fn blob_listen(self, address: SocketAddr) -> Self {
        Self {
            blob_listen: address,
            ..self
        }
    }

    /// Keeps state and content in this folder, made if need be; otherwise they go when the emulator does.
    pub fn data_dir(self, path: PathBuf) -> Self {
        Self {
            data_dir: Some(path),
            ..self
        }
    }

    /// A service application that gets tokens.
    pub fn client(mut self, id: &str, secret: &str) -> Self {
        self.options
            .clients
            .push((id.to_owned(), secret.to_owned()));
        self
    }

    /// A service application that is no administrator of the organization: it may do only what the roles allow that it is given in an iTwin.
    pub fn outsider(mut self, id: &str, secret: &str) -> Self {
        self.options.outsiders.push(id.to_owned());
        self.client(id, secret)
    }

    /// How a client is named in `lastModifiedByDisplayName`; by default by its id.
    pub fn display_name(mut self, client_id: &str, name: &str) -> Self {
        self.options
            .display_names
            .push((client_id.to_owned(), name.to_owned()));
        self
    }

    /// An iTwin.
    pub fn itwin(mut self, id: &str, name: &str) -> Self {
        self.itwins.push(Itwin::new(id, name, Timestamp::now()));
        self
    }

    /// An iModel of an iTwin.
    pub fn imodel(mut self, id: &str, itwin_id: &str, name: &str) -> Self {
        let imodel = Imodel::new(id, itwin_id, name, Timestamp::now());
        self.imodels.push(imodel);
        self
    }

    /// An application that people sign in with.
    pub fn native_client(mut self, id: &str) -> Self {
        self.options.native_clients.push(id.to_owned());
        self
    }

    /// Where browsers may be sent after signing in or out, beside addresses of this machine.
    pub fn redirect(mut self, url: &str) -> Self {
        self.options.redirects.push(url.to_owned());
        self
    }

    /// Pages of this origin, such as `https://app.example.com`, may use the API, beside those of this machine.
    pub fn origin(mut self, origin: &str) -> Self {
        self.guard.origins.push(origin.to_owned());
        self
    }

    /// Requests may call the emulator by this name, beside `localhost` and addresses.
    pub fn host(mut self, name: &str) -> Self {
        self.guard.hosts.push(name.to_owned());
        self
    }

    /// The name that is in all addresses that the emulator gives, such as that of a container; it may be called by it.
    pub fn public_host(self, name: &str) -> Self {
        Self {
            public_host: Some(name.to_owned()),
            ..self
        }
    }

    /// Content goes to the Azurite at this address, and nothing is kept here.
    pub fn azurite(self, url: &str) -> Self {
        Self {
            azurite: Some(url.to_owned()),
            ..self
        }
    }

    /// Writes all exchanges to this file, without secrets, as HAR.
    pub fn record(self, path: PathBuf) -> Self {
        Self {
            record: Some(path),
            ..self
        }
    }

    /// What the documentation leaves open.
    pub fn switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// Something that goes wrong from the start.
    pub fn fault(mut self, fault: AnyFault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Settles what faults leave to chance; by default 0.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The most items on a page of storage, whatever a client asks for; by default it gets up to 1000.
    pub fn page_size(mut self, items: usize) -> Self {
        self.options.page_size = Some(items.max(1));
        self
    }

    /// Requests to the API that a minute has; by default as many as come.
    pub fn requests_per_minute(mut self, count: u32) -> Self {
        self.options.requests_per_minute = Some(count);
        self
    }

    /// How long a run takes; by default 2 s.
    pub fn run_duration(mut self, duration: Duration) -> Self {
        self.options.run_duration = duration;
        self
    }

    /// How long an upload address is good; by default an hour.
    pub fn sas_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.sas_lifetime = lifetime;
        self
    }

    /// How long a token is good; by default an hour.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.token_lifetime = lifetime;
        self
    }

    /// Source files per iModel, over all connections; by default 250.
    pub fn max_source_files(mut self, count: usize) -> Self {
        self.options.max_source_files = count;
        self
    }

    /// Connections per iModel; by default 100.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.options.max_connections = count;
        self
    }

    /// Withholds the permissions on an iModel.
    pub fn forbidden_imodel(mut self, id: &str) -> Self {
        self.options.forbidden_imodels.push(id.to_owned());
        self
    }

    /// Withholds the permissions on the storage of an iTwin.
    pub fn forbidden_storage(mut self, itwin_id: &str) -> Self {
        self.options.forbidden_storage.push(itwin_id.to_owned());
        self
    }

    /// A connector type that is no longer taken (422).
    pub fn refused_connector(mut self, connector: &str) -> Self {
        self.options.refused_connectors.push(connector.to_owned());
        self
    }

    /// Fails the task of a file whose first bytes are not those of the format that its name promises. By default a file is judged by its
    /// name only, so that tests can make files of a few bytes. It is a light look: damage further on passes, and so do formats that it
    /// does not know.
    pub fn file_check(mut self, on: bool) -> Self {
        self.options.file_check = on;
        self
    }

    /// Starts both origins.
    ///
    /// # Errors
    /// When an address cannot be listened on or the data folder cannot be used.
    pub async fn start(mut self) -> Result<Emulator, Error> {
        if self.options.clients.is_empty() {
            self = self.client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET);
        }
        if self.options.native_clients.is_empty() {
            self = self.native_client(DEFAULT_NATIVE_CLIENT_ID);
        }
        if self.itwins.is_empty() {
            self = self.itwin(DEFAULT_ITWIN_ID, "Emulated project");
        }
        if self.imodels.is_empty() {
            let itwin_id = self
                .itwins
                .first()
                .map(|itwin| itwin.id.clone())
                .unwrap_or_default();
            self = self.imodel(DEFAULT_IMODEL_ID, &itwin_id, "Emulated iModel");
        }
        let store = Store::open(self.data_dir).await?;
        let mut state = store.load().await?;
        state.set_up(&self.itwins, &self.imodels);
        let azurite = match self.azurite {
            Some(url) => Some(
                Azurite::connect(&url)
                    .await
                    .map_err(|source| Error::Azurite { url, source })?,
            ),
            None => None,
        };
        let mut faults = ActiveFaults::new(self.seed);
        for fault in self.faults {
            faults.add(fault);
        }
        let recorder = match self.record {
            Some(path) => {
                Some(Recorder::create(&path).map_err(|source| Error::Record { path, source })?)
            }
            None => None,
        };
        let kept = state.signing_key.clone();
        let signer = tokio::task::spawn_blocking(move || Signer::new(&kept)).await;
        let signer = signer.map_err(std::io::Error::other).and_then(|made| made);
        let (signer, kept) = signer.map_err(Error::Key)?;
        state.signing_key = kept;
        let mut guard = self.guard;
        guard.hosts.extend(self.public_host.clone());
        guard.short_hosts = !self.listen.ip().is_loopback();
        let host = self.public_host.as_deref();
        let (api, api_url) = listen(self.listen, host).await?;
        let (blob, blob_url) = listen(self.blob_listen, host).await?;
        let shared = Arc::new(Shared {
            options: self.options,
            api_url,
            blob_url,
            azurite,
            guard,
            recorder,
            signer,
            store,
            state: Mutex::new(state),
            tokens: Mutex::default(),
            switches: Mutex::new(self.switches),
            faults: Mutex::new(faults),
            quota: Mutex::default(),
            requests: Mutex::default(),
        });
        shared.own_itwins();
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(server::serve(
                api,
                Arc::clone(&shared),
                server::Origin::Api,
                stop.clone(),
            )),
            tokio::spawn(server::serve(
                blob,
                Arc::clone(&shared),
                server::Origin::Blob,
                stop.clone(),
            )),
            tokio::spawn(store::keep(Arc::clone(&shared), stop.clone())),
        ];
        Ok(Emulator {
            shared,
            stop,
            tasks,
        })
    }
}

/// Listens; returns the address for others too, which has this name if there is one.
async fn listen(address: SocketAddr, host: Option<&str>) -> Result<(TcpListener, String), Error> {
    let refused = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let mut bound = listener.local_addr().map_err(refused)?;
    // "All addresses" is none that a client can connect to.
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let url = match host {
        Some(host) => format!("http://{host}:{}", bound.port()),
        None => format!("http://{bound}"),
    };
    Ok((listener, url))
}

impl Emulator {
    /// An emulator with one client, one iTwin and one iModel unless others are named.
    pub fn builder() -> Builder {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let hour = Duration::from_secs(3600);
        Builder {
            listen: anywhere,
            blob_listen: anywhere,
            data_dir: None,
            azurite: None,
            itwins: Vec::new(),
            imodels: Vec::new(),
            switches: Switches::default(),
            faults: Vec::new(),
            seed: 0,
            guard: Guard::default(),
            public_host: None,
            record: None,
            options: Options {
                clients: Vec::new(),
                display_names: Vec::new(),
                outsiders: Vec::new(),
                native_clients: Vec::new(),
                redirects: Vec::new(),
                run_duration: Duration::from_secs(2),
                sas_lifetime: hour,
                token_lifetime: hour,
                max_source_files: 250,
                max_connections: 100,
                page_size: None,
                requests_per_minute: None,
                forbidden_imodels: Vec::new(),
                forbidden_storage: Vec::new(),
                refused_connectors: Vec::new(),
                file_check: false,
            },
        }
    }

    /// Base address of the API.
    #[must_use]
    pub fn api_url(&self) -> &str {
        &self.shared.api_url
    }

    /// Base address of the identity provider.
    #[must_use]
    pub fn issuer_url(&self) -> &str {
        &self.shared.api_url
    }

    /// Base address of the blob storage.
    #[must_use]
    pub fn blob_url(&self) -> &str {
        &self.shared.blob_url
    }

    /// All that the platform holds now. Reads content whose digest is not known yet.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.digest_now();
        self.shared.state().at(Timestamp::now())
    }

    /// All requests so far, in the order of their answers.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shared.requests).clone()
    }

    /// Makes something go wrong from now on.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(AnyFault::Request(fault));
    }

    /// Makes a file's task in the next runs end otherwise than it would.
    pub fn fail_task(&self, fault: TaskFault) {
        lock(&self.shared.faults).add(AnyFault::Task(fault));
    }

    /// Makes the next runs end otherwise than they would.
    pub fn fail_run(&self, fault: RunFault) {
        lock(&self.shared.faults).add(AnyFault::Run(fault));
    }

    /// Changes what the documentation leaves open.
    pub fn set_switches(&self, switches: Switches) {
        *lock(&self.shared.switches) = switches;
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Starts a run of somebody else's connection of the iModel, and returns its id.
    #[must_use]
    pub fn start_foreign_run(&self, imodel_id: &str, duration: Duration) -> String {
        self.shared
            .state()
            .start_foreign_run(imodel_id, duration, Timestamp::now())
    }

    /// Ends the emulator, its state written.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            // A task that panicked has said so already.
            drop(task.await);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
