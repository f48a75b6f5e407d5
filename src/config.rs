//! The configuration: from one TOML file, the environment and systemd's credentials to checked values.
//!
//! In comes the path of the file; out goes a [`Config`] that every other room can trust, or [`Mistakes`]: all of them at once, each with line, watch, what is
//! wrong and what to write instead. It reads nothing but that file, its secret, its environment and the whereabouts of the folders it names; it never
//! writes, never asks the platform, and never quotes a value that could be the secret. Nothing survives a crash, because nothing is kept.
//!
//! `draft` holds what was read so far, `document` knows TOML and lines, `sections`, `outward` and `watches` know the keys with their defaults and limits, `values` how durations, sizes and addresses are written,
//! `credentials` where the secret comes from, and `folders` how the paths lie to one another on this machine.

mod credentials;
mod document;
mod errors;
mod folders;
mod network;
mod notifications;
mod raw;
mod sections;
mod values;
mod watches;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use url::Url;

use document::{Place, Report};
pub use errors::{Mistake, Mistakes};
pub use notifications::{Address, Alert, Format, Heartbeat, Web};
use raw::{Draft, Purpose};
use values::Bad;

use crate::bandwidth::Period;
use crate::secret::Secret;
use crate::selection::Selection;

/// Everything a run needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[itwin]`: the platform and who we are there.
    pub itwin: Itwin,
    /// `[network]`: the way to the platform.
    pub network: Network,
    /// `[state]`: where the ledger lives.
    pub state: State,
    /// `[log]`.
    pub log: Log,
    /// `[upload]`.
    pub upload: Upload,
    /// `[sync]`: connections and runs.
    pub sync: Sync,
    /// `[retry]`: a job's own next attempts.
    pub retry: Retry,
    /// So many files that storage has already may be uploaded anew at once; more hold their watch.
    pub brake_files: u64,
    /// How long requests in flight may take to finish after the first stop signal; zero means not at all.
    pub shutdown_grace: Duration,
    /// `[web]`: the local page.
    pub web: Web,
    /// Every `[[alert]]`.
    pub alerts: Vec<Alert>,
    /// `[heartbeat]`: the dead man's ping.
    pub heartbeat: Heartbeat,
    /// Every `[[watch]]`, in the order of the file; at least one.
    pub watches: Vec<Watch>,
}

/// The platform and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Itwin {
    /// Base address of the API, without query; https, or a loopback host.
    pub api_url: Url,
    /// Base address of the identity provider, without query; https, or a loopback host.
    pub issuer_url: Url,
    /// The service application's client id.
    pub client_id: String,
    /// Its secret, from a file, systemd's credentials or the environment; never from the config file.
    pub client_secret: Secret,
    /// Scope asked for with each token.
    pub scope: String,
    /// Requests to the API in any minute, at most.
    pub requests_per_minute: usize,
}

/// The way to the platform and to its storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The proxy that everything goes through; `None`: straight to the hosts.
    pub proxy: Option<Proxy>,
    /// Hosts, domains and networks that are reached without the proxy. This machine always is.
    pub no_proxy: Vec<String>,
    /// Certificates (DER) that are trusted beside those of the system.
    pub extra_certificates: Vec<Vec<u8>>,
    /// To connect to a host, through the proxy if there is one.
    pub connect_timeout: Duration,
    /// A transfer of which no byte moves for this long is given up.
    pub idle_timeout: Duration,
    /// For one request to the platform with its answer; transfers of content are not limited.
    pub total_timeout: Duration,
}

/// A proxy that takes CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// http or https, without user, path and query.
    pub url: Url,
    /// Name and password that it asks for.
    pub login: Option<(String, Secret)>,
}

/// Where the state lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Absolute path of a folder; the ledger and its lock live in it. It need not exist yet.
    pub path: PathBuf,
    /// How long results, steps and runs are kept, beside the last of each file.
    pub keep_history: Duration,
}

/// What is logged and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is shown.
    pub level: Level,
    /// Absolute path of the folder for JSON log files; `None` writes none.
    pub directory: Option<PathBuf>,
    /// How many daily files are kept; at least 1.
    pub keep_files: usize,
}

/// How important a log line must be to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Someone must act.
    Error,
    /// Degraded, but working.
    Warn,
    /// A person may care tomorrow.
    Info,
    /// For finding out why.
    Debug,
    /// Everything.
    Trace,
}

/// The upload workers and their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Files uploaded at the same time; at least 1.
    pub workers: usize,
    /// Up to this many bytes a file is sent as one request, above it in blocks of this size; 1 byte to 100 MiB, and no more than `memory`.
    pub block_size: u64,
    /// Bytes of all blocks in flight, for the whole process.
    pub memory: u64,
    /// How fast content may go, by the time of day.
    pub rate: Vec<Period>,
}

/// Connections and their runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Name of our storage connections.
    pub connection: String,
    /// A run starts when no further file was uploaded for this long.
    pub batch_window: Duration,
    /// …but waits no longer than this; not below `batch_window`.
    pub batch_max: Duration,
    /// First pause between two looks at a run.
    pub poll_interval: Duration,
    /// The pause grows to this; not below `poll_interval`.
    pub poll_max: Duration,
    /// A run that takes longer is given up.
    pub run_deadline: Duration,
    /// Source files that somebody else removed from a connection are added again.
    pub remap: bool,
}

/// When a job is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Pause after the first attempt.
    pub first_delay: Duration,
    /// The pause grows to this; not below `first_delay`.
    pub max_delay: Duration,
    /// A job is given up this long after its first attempt; not below `max_delay`.
    pub give_up: Duration,
}

/// When a file counts as finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// When it was seen unchanged for this long.
    pub settle: Duration,
    /// After so long of changes a rest of a second is enough.
    pub max_wait: Option<Duration>,
    /// But not sooner than this after it was finished the last time.
    pub upload_interval: Duration,
}

/// One watched folder and its iModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// 1 to 64 ASCII letters, digits, `.`, `_`, `-` and inner spaces; unique, also when case is ignored. Part of a file's identity in the ledger.
    pub name: String,
    /// Absolute path of the root, as written.
    pub path: PathBuf,
    /// UUID in lower case with hyphens.
    pub imodel_id: String,
    /// Whether folders below the root belong to the watch.
    pub recursive: bool,
    /// When a file is finished.
    pub patience: Patience,
    /// Pause between two full scans of a root whose file system reports changes.
    pub rescan_interval: Duration,
    /// Pause between two full scans of a root whose file system does not: network, FUSE.
    pub poll_interval: Duration,
    /// Folder in iTwin Storage that mirrors the root, from the storage root down; empty means the storage root itself.
    pub storage_folder: Vec<String>,
    /// Name of the storage connection of this watch's files.
    pub connection: String,
    /// Which files, with which connector.
    pub selection: Selection,
}

/// The part of a configuration that tells where to look when nothing is to be done: no secret, no word on whether folders are there.
#[derive(Debug, Clone)]
pub struct Offline {
    /// `[state]`.
    pub state: State,
    /// Every `[[watch]]`.
    pub watches: Vec<Watch>,
}

/// What the process's environment says.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`: the folder that systemd made for the ledger.
    pub state_directory: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: systemd's folder of secrets; the file `itwin-client-secret` in it is ours.
    pub credentials_directory: Option<PathBuf>,
    /// `$ITWIN_SYNCD_CLIENT_SECRET`.
    pub client_secret: Option<Secret>,
}

impl Config {
    /// Reads the file, the environment and the secrets, and looks at the folders.
    ///
    /// Waits some seconds for a file server that is slow to answer, and starts without the word of one that does not answer at all.
    ///
    /// # Errors
    /// Every mistake, also those that only this machine shows: folders that lie in each other, or are none. A folder that cannot be reached is none: a
    /// file server may come back any time.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let (file, text) = read(path)?;
        let mut report = Report::new(&file, &text);
        let draft = Draft::read(
            &text,
            &Environment::of_process(),
            Purpose::Work,
            &mut report,
        );
        if let Some(draft) = &draft {
            draft.check_folders(&mut report);
        }
        report.finish(draft.and_then(Draft::into_config))
    }

    /// Checks `text` as the content of `file`, without looking at watched folders. A secret file is read all the same.
    ///
    /// # Errors
    /// Every mistake that shows without the folders.
    pub fn parse(text: &str, file: &str, environment: &Environment) -> Result<Self, Mistakes> {
        let mut report = Report::new(file, text);
        let draft = Draft::read(text, environment, Purpose::Work, &mut report);
        report.finish(draft.and_then(Draft::into_config))
    }
}

impl Offline {
    /// Reads the file and the environment only, so that the ledger can be shown by someone who may not read the secret, or while a share is away.
    ///
    /// # Errors
    /// Every mistake of the file itself.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let (file, text) = read(path)?;
        Self::parse(&text, &file, &Environment::of_process())
    }

    fn parse(text: &str, file: &str, environment: &Environment) -> Result<Self, Mistakes> {
        let mut report = Report::new(file, text);
        let draft = Draft::read(text, environment, Purpose::Look, &mut report);
        report.finish(draft.map(Draft::into_offline))
    }
}

impl Environment {
    /// The environment of this process. Variables that are set but empty count as not set.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            // systemd separates several folders by colons; the first is the one that the unit names first.
            state_directory: variable("STATE_DIRECTORY")
                .and_then(|all| env::split_paths(&all).next()),
            credentials_directory: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            client_secret: variable(credentials::VARIABLE)
                .map(|secret| Secret::new(secret.to_string_lossy())),
        }
    }
}

impl Watch {
    /// Whether files of both watches could meet in one folder of one iTwin's storage: one `storage_folder` is, or lies in, the other.
    ///
    /// `load` refuses this for watches of one iModel. Two iModels of one iTwin share its storage too, which only the platform can tell: ask again when
    /// the iTwins are known. Case is ignored, because it is not documented whether storage tells names apart by it.
    #[must_use]
    pub fn storage_overlaps(&self, other: &Self) -> bool {
        self.storage_folder
            .iter()
            .zip(&other.storage_folder)
            .all(|(one, other)| one.to_lowercase() == other.to_lowercase())
    }
}

impl Level {
    /// The level as the config file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The file's name for messages, and its text.
fn read(path: &Path) -> Result<(String, String), Mistakes> {
    let file = path.display().to_string();
    fs::read_to_string(path)
        .map(|text| (file.clone(), text))
        .map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::InvalidData => "save it as UTF-8",
                io::ErrorKind::NotFound => {
                    "name the file with --config, or copy config.example.toml there"
                }
                _ => "let the service's user read it",
            };
            let mut report = Report::new(&file, "");
            report.add(
                Place::default(),
                Bad::new(format!("cannot be read: {error}"), hint),
            );
            report.into_mistakes()
        })
}

#[cfg(test)]
mod tests;
