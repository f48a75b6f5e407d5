//! Settings of an emulator, and its start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::azurite::Azurite;
use super::faults::{ActiveFaults, AnyFault};
use super::guard::Guard;
use super::model::{Imodel, Itwin};
use super::recorder::Recorder;
use super::shared::{Options, Shared};
use super::signer::Signer;
use super::store::Store;
use super::switches::Switches;
use super::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID,
    DEFAULT_NATIVE_CLIENT_ID, Emulator, Error, access, persist, server,
};

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

impl Builder {
    pub(super) fn new() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let hour = Duration::from_secs(3600);
        Self {
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
                owner_token_lifetime: None,
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
}

impl Builder {
    /// Sets the address of the API and the identity provider; by default a free port of the loopback address.
    pub fn listen(self, address: SocketAddr) -> Self {
        Self {
            listen: address,
            ..self
        }
    }

    /// Sets the address of the blob storage; by default a free port of the loopback address.
    pub fn blob_listen(self, address: SocketAddr) -> Self {
        Self {
            blob_listen: address,
            ..self
        }
    }

    /// Keeps state and content in this folder, created if missing; by default they are deleted when the emulator stops.
    pub fn data_dir(self, path: PathBuf) -> Self {
        Self {
            data_dir: Some(path),
            ..self
        }
    }

    /// Adds a service application.
    pub fn client(mut self, id: &str, secret: &str) -> Self {
        self.options
            .clients
            .push((id.to_owned(), secret.to_owned()));
        self
    }

    /// Adds a service application that has only the permissions of its roles, instead of all.
    pub fn outsider(mut self, id: &str, secret: &str) -> Self {
        self.options.outsiders.push(id.to_owned());
        self.client(id, secret)
    }

    /// Sets the display name of a client, as in `lastModifiedByDisplayName`; by default its id.
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

    /// Adds an iModel to an iTwin.
    pub fn imodel(mut self, id: &str, itwin_id: &str, name: &str) -> Self {
        let imodel = Imodel::new(id, itwin_id, name, Timestamp::now());
        self.imodels.push(imodel);
        self
    }

    /// Adds an application for user sign-in.
    pub fn native_client(mut self, id: &str) -> Self {
        self.options.native_clients.push(id.to_owned());
        self
    }

    /// Allows a redirect address after sign-in and sign-out, beside addresses on this machine.
    pub fn redirect(mut self, url: &str) -> Self {
        self.options.redirects.push(url.to_owned());
        self
    }

    /// Allows cross-origin requests from pages of this origin, such as `https://app.example.com`, beside those on this
    /// machine.
    pub fn origin(mut self, origin: &str) -> Self {
        self.guard.origins.push(origin.to_owned());
        self
    }

    /// Accepts this Host header beside `localhost` and IP addresses.
    pub fn host(mut self, name: &str) -> Self {
        self.guard.hosts.push(name.to_owned());
        self
    }

    /// Sets the host name in all addresses that the emulator returns, such as that of its container, and accepts it as
    /// Host header.
    pub fn public_host(self, name: &str) -> Self {
        Self {
            public_host: Some(name.to_owned()),
            ..self
        }
    }

    /// Stores content in the Azurite at this address.
    pub fn azurite(self, url: &str) -> Self {
        Self {
            azurite: Some(url.to_owned()),
            ..self
        }
    }

    /// Records all exchanges, without secrets, to this HAR file.
    pub fn record(self, path: PathBuf) -> Self {
        Self {
            record: Some(path),
            ..self
        }
    }

    /// Sets the behaviors that the documentation leaves open.
    pub fn switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// Injects a fault from the start.
    pub fn fault(mut self, fault: AnyFault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Sets the seed for random delays of faults; by default 0.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Limits pages of storage to this number of items, whatever a client requests; by default 1000.
    pub fn page_size(mut self, items: usize) -> Self {
        self.options.page_size = Some(items.max(1));
        self
    }

    /// Limits the API to this number of requests per minute; unlimited by default.
    pub fn requests_per_minute(mut self, count: u32) -> Self {
        self.options.requests_per_minute = Some(count);
        self
    }

    /// Sets the duration of a run; by default 2 s.
    pub fn run_duration(mut self, duration: Duration) -> Self {
        self.options.run_duration = duration;
        self
    }

    /// Sets the lifetime of an upload address; by default an hour.
    pub fn sas_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.sas_lifetime = lifetime;
        self
    }

    /// Sets the lifetime of a token; by default an hour.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.token_lifetime = lifetime;
        self
    }

    /// Sets how long connections may act for a user after the last consent; by default without end.
    pub fn owner_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.options.owner_token_lifetime = Some(lifetime);
        self
    }

    /// Limits the source files per iModel, over all connections; by default 250.
    pub fn max_source_files(mut self, count: usize) -> Self {
        self.options.max_source_files = count;
        self
    }

    /// Limits the connections per iModel; by default 100.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.options.max_connections = count;
        self
    }

    /// Denies all permissions on an iModel.
    pub fn forbidden_imodel(mut self, id: &str) -> Self {
        self.options.forbidden_imodels.push(id.to_owned());
        self
    }

    /// Denies all permissions on the storage of an iTwin.
    pub fn forbidden_storage(mut self, itwin_id: &str) -> Self {
        self.options.forbidden_storage.push(itwin_id.to_owned());
        self
    }

    /// Rejects a connector type (422).
    pub fn refused_connector(mut self, connector: &str) -> Self {
        self.options.refused_connectors.push(connector.to_owned());
        self
    }

    /// Fails the task of a file whose first bytes do not match the format of its name. By default only the name is
    /// checked: tests need files of a few bytes. Later damage and formats without a check pass.
    pub fn file_check(mut self, on: bool) -> Self {
        self.options.file_check = on;
        self
    }

    /// Starts both origins.
    ///
    /// # Errors
    /// When an address is in use or the data folder cannot be used.
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
        own_itwins(&shared);
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
            tokio::spawn(persist::persist_loop(Arc::clone(&shared), stop.clone())),
        ];
        Ok(Emulator {
            shared,
            stop,
            tasks,
        })
    }
}

/// Makes the configured applications the owners of the configured iTwins.
fn own_itwins(shared: &Shared) {
    let services = shared.options.clients.iter().map(|(id, _)| id);
    for itwin in shared.state().itwins.values_mut() {
        for id in services
            .clone()
            .filter(|id| !shared.options.outsiders.contains(id))
        {
            if itwin.roles.is_empty() || !itwin.members.is_empty() {
                access::add_owner(shared, itwin, id);
            }
        }
    }
}

/// Starts to listen; also returns the URL for clients, with `host` if there is one.
async fn listen(address: SocketAddr, host: Option<&str>) -> Result<(TcpListener, String), Error> {
    let refused = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let mut bound = listener.local_addr().map_err(refused)?;
    // Clients cannot connect to the unspecified address.
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
