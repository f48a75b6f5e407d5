//! The configuration: from one TOML file, the environment and systemd's credentials to checked values.
//!
//! In comes the path of the file; out goes a [`Config`] that every other room can trust, or [`Mistakes`]: all of them at once, each with line, watch, what is
//! wrong and what to write instead. It reads nothing but that file, its secret, its environment and the whereabouts of the folders it names; it never
//! writes, never asks the platform, and never quotes a value that could be the secret. Nothing survives a crash, because nothing is kept.
//!
//! `document` knows TOML and lines, `sections` and `watches` know the keys with their defaults and limits, `values` how durations, sizes and addresses are written,
//! `credentials` where the secret comes from, and `folders` how the paths lie to one another on this machine.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::secret::Secret;
use crate::selection::Selection;

/// Everything a run needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[itwin]`: the platform and who we are there.
    pub itwin: Itwin,
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
    /// How long requests in flight may take to finish after the first stop signal; zero means not at all.
    pub shutdown_grace: Duration,
    /// Every `[[watch]]`, in the order of the file; at least one.
    pub watches: Vec<Watch>,
}

/// The platform and who we are there.
#[derive(Debug, Clone)]
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
}

/// Where the state lives.
#[derive(Debug, Clone)]
pub struct State {
    /// Absolute path of a folder; the ledger and its lock live in it. It need not exist yet.
    pub path: PathBuf,
}

/// What is logged and where.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
pub struct Upload {
    /// Files uploaded at the same time; at least 1.
    pub workers: usize,
    /// Up to this many bytes a file is sent as one request, above it in blocks; at most 256 MiB.
    pub single_put_max: u64,
    /// Bytes of one block; 1 byte to 100 MiB, and no more than `memory`.
    pub block_size: u64,
    /// Bytes of all blocks in flight, for the whole process.
    pub memory: u64,
}

/// Connections and their runs.
#[derive(Debug, Clone)]
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
}

/// When a job is tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Pause after the first attempt.
    pub first_delay: Duration,
    /// The pause grows to this; not below `first_delay`.
    pub max_delay: Duration,
    /// A job is given up this long after its first attempt; not below `max_delay`.
    pub give_up: Duration,
}

/// One watched folder and its iModel.
#[derive(Debug, Clone)]
pub struct Watch {
    /// 1 to 64 ASCII letters, digits, `.`, `_`, `-` and inner spaces; unique, also when case is ignored. Part of a file's identity in the ledger.
    pub name: String,
    /// Absolute path of the root, as written.
    pub path: PathBuf,
    /// UUID in lower case with hyphens.
    pub imodel_id: String,
    /// Whether folders below the root belong to the watch.
    pub recursive: bool,
    /// A file is finished when it was seen unchanged for this long.
    pub settle: Duration,
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
