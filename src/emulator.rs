//! A stand-in of the iTwin Platform, to try everything on without an account: in the demo, in tests, as a server.
//!
//! In come HTTP requests on two origins, one of the API with its identity provider and one of the blob storage; out go
//! the platform's statuses, headers and bodies. State is in memory, and in a folder if one is given; content is always
//! on disk. What arrived can be asked for: [`Emulator::state`], [`Emulator::requests`], and by HTTP below `/_emulator`.
//!
//! It uses no other room, the client least of all: it would share its mistakes.

mod blob;
mod control;
mod faults;
mod identity;
mod model;
mod reply;
mod runs;
mod server;
mod storage;
mod store;
mod synchronization;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use faults::{Effect, Fault, TaskFault};
pub use model::{Completed, Connection, Covered, File, Folder, Imodel, Run, SourceFile, State};
pub use server::RequestRecord;

use faults::Faults;
use identity::Tokens;
use store::Store;

/// The iTwin that is there unless others are named.
pub const DEFAULT_ITWIN_ID: &str = "11111111-2222-4333-8444-555555555555";
/// The iModel that is there unless others are named.
pub const DEFAULT_IMODEL_ID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/// The client id that is good unless others are named.
pub const DEFAULT_CLIENT_ID: &str = "service-emulator";
/// Its secret.
pub const DEFAULT_CLIENT_SECRET: &str = "emulator-secret";

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
    itwins: Vec<(String, String)>,
    imodels: Vec<Imodel>,
    options: Options,
}

/// How the emulated platform behaves.
#[derive(Debug, Clone)]
struct Options {
    clients: Vec<(String, String)>,
    run_duration: Duration,
    sas_lifetime: Duration,
    token_lifetime: Duration,
    max_source_files: usize,
    max_connections: usize,
    forbidden_imodels: Vec<String>,
    forbidden_storage: Vec<String>,
    refused_connectors: Vec<String>,
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
    store: Store,
    state: Mutex<State>,
    tokens: Mutex<Tokens>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<RequestRecord>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
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

    /// An iTwin.
    pub fn itwin(mut self, id: &str, name: &str) -> Self {
        self.itwins.push((id.to_owned(), name.to_owned()));
        self
    }

    /// An iModel of an iTwin.
    pub fn imodel(mut self, id: &str, itwin_id: &str, name: &str) -> Self {
        let (id, itwin_id, display_name) = (id.to_owned(), itwin_id.to_owned(), name.to_owned());
        self.imodels.push(Imodel {
            id,
            itwin_id,
            display_name,
        });
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

    /// Starts both origins.
    ///
    /// # Errors
    /// When an address cannot be listened on or the data folder cannot be used.
    pub async fn start(mut self) -> Result<Emulator, Error> {
        if self.options.clients.is_empty() {
            self = self.client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET);
        }
        if self.itwins.is_empty() {
            self = self.itwin(DEFAULT_ITWIN_ID, "Emulated project");
        }
        if self.imodels.is_empty() {
            let itwin_id = self
                .itwins
                .first()
                .map(|(id, _)| id.clone())
                .unwrap_or_default();
            self = self.imodel(DEFAULT_IMODEL_ID, &itwin_id, "Emulated iModel");
        }
        let store = Store::open(self.data_dir).await?;
        let mut state = store.load().await?;
        state.set_up(&self.itwins, &self.imodels);
        let (api, api_url) = listen(self.listen).await?;
        let (blob, blob_url) = listen(self.blob_listen).await?;
        let shared = Arc::new(Shared {
            options: self.options,
            api_url,
            blob_url,
            store,
            state: Mutex::new(state),
            tokens: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
        });
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

async fn listen(address: SocketAddr) -> Result<(TcpListener, String), Error> {
    let refused = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, format!("http://{bound}")))
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
            itwins: Vec::new(),
            imodels: Vec::new(),
            options: Options {
                clients: Vec::new(),
                run_duration: Duration::from_secs(2),
                sas_lifetime: hour,
                token_lifetime: hour,
                max_source_files: 250,
                max_connections: 100,
                forbidden_imodels: Vec::new(),
                forbidden_storage: Vec::new(),
                refused_connectors: Vec::new(),
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

    /// All that the platform holds now.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state().at(Timestamp::now())
    }

    /// All requests so far, in the order of their answers.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shared.requests).clone()
    }

    /// Makes something go wrong from now on.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(fault);
    }

    /// Makes a file's task in the next runs end otherwise than it would.
    pub fn fail_task(&self, fault: TaskFault) {
        lock(&self.shared.faults).add_task(fault);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        *lock(&self.shared.faults) = Faults::default();
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
