//! The configuration: from one TOML file, the environment and systemd's credentials to checked values.
//!
//! Input: the path of the file. Output: a [`Config`] that the other modules can rely on, or [`ConfigErrors`]: every
//! error of the file at once, each with line, watch, cause and what to write instead. It reads the file, its secrets,
//! the environment and the location of the folders it names; it never writes, never calls the platform, and never
//! quotes a value that could be a secret. It keeps no state.
//!
//! `raw` collects what was read, `document` knows TOML and line numbers, `syntax` explains errors of TOML; `itwin`,
//! `sections`, `network`, `notifications`, `web` and `watches` know the keys with their defaults and limits; `values`
//! parses durations, sizes and URLs, `credentials` finds secrets, `folders` compares the paths on this machine.
//!
//! Longer than most files because it has the type of every table.

mod certificates;
mod credentials;
mod document;
mod environment;
mod errors;
mod folders;
mod hooks;
mod imodels;
mod itwin;
mod ledger_location;
mod mail;
mod named_versions;
mod network;
mod new_imodels;
mod notifications;
mod platform_settings;
mod raw;
mod schedule;
mod secret_files;
mod sections;
mod source;
mod syntax;
mod values;
mod watches;
mod web;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use url::Url;

pub(crate) use credentials::HINT as SECRET_HINT;
use document::{Place, Report};
use environment::Mode;
pub use environment::{CLIENT_SECRET_VARIABLE, Environment};
pub use errors::{ConfigError, ConfigErrors};
pub use hooks::{Hook, HookEvent, HookOutcome};
pub use mail::{Mail, MailTls};
pub use new_imodels::{Extent, KnownImodels, NewImodel, Position};
pub use notifications::{Address, Alert, Format, Heartbeat};
pub use platform_settings::{ConnectionSettings, PlatformSetting, PlatformSettings};
use raw::RawConfig;
pub(crate) use schedule::STALE;
pub use schedule::{RunSchedules, Schedule};
pub use source::{Source, state_path};
use values::InvalidValue;
pub use web::Web;

pub(crate) use values::show_duration;

use crate::bandwidth::Period;
use crate::connection_name::ConnectionName;
use crate::ids::ImodelId;
use crate::itwin::{Network, RequestLimits};
use crate::ledger_location::LedgerLocation;
use crate::permission;
use crate::secret::ClientSecret;
use crate::selection::Scope;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it comes from.
    pub source: Source,
    /// `[itwin]`: the platform and the service application.
    pub itwin: Itwin,
    /// `[network]`: proxy, certificates and timeouts.
    pub network: Network,
    /// `[state]`: the directory of the ledger.
    pub state: State,
    /// `[log]`.
    pub log: Log,
    /// `[upload]`.
    pub upload: Upload,
    /// `[sync]`: connections and runs.
    pub sync: Sync,
    /// `[retry]`: a job's own next attempts.
    pub retry: Retry,
    /// `[bulk_change]`: how many files may change, arrive or go at once.
    pub bulk_change: BulkChange,
    /// How long requests in flight may take to finish after the first stop signal; zero means not at all.
    pub shutdown_grace: Duration,
    /// `[web]`: the local page.
    pub web: Web,
    /// Every `[[alert]]`.
    pub alerts: Vec<Alert>,
    /// Every `[[hook]]`.
    pub hooks: Vec<Hook>,
    /// `[heartbeat]`.
    pub heartbeat: Heartbeat,
    /// Every `[[watch]]`, in the order of the file; at least one.
    pub watches: Vec<Watch>,
    /// Every `[[imodel]]`.
    pub imodels: Vec<Imodel>,
    /// The windows of runs, of watches and `[[imodel]]` tables.
    pub run_schedules: RunSchedules,
    /// The settings of connections, of their watches.
    pub connection_settings: Vec<ConnectionSettings>,
}

/// What concerns an iModel rather than one of its watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Imodel {
    /// UUID in lower case with hyphens; that of at least one watch. [`NewImodel::key`] while the id of an iModel to
    /// create is not known.
    pub id: ImodelId,
    /// Found by its name, or created; None if the configuration has its id.
    pub create: Option<NewImodel>,
    /// The file that an empty iModel gets first and alone.
    pub spatial_root: Option<SpatialRoot>,
    /// When and how the service creates named versions of it; None if never.
    pub named_version: Option<NamedVersion>,
    /// Its settings on the platform, as far as the configuration has any.
    pub settings: Option<PlatformSettings>,
}

/// The named versions that the service creates of an iModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVersion {
    /// When.
    pub when: NamedVersionTime,
    /// With placeholders, all of which are in [`NamedVersion::PLACEHOLDERS`].
    pub name: String,
    /// The same.
    pub description: String,
    /// Also after a run that left files that were not synchronized.
    pub when_partial: bool,
}

/// When a named version is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedVersionTime {
    /// After each run.
    EachRun,
    /// At this time of day, by the clock of this machine.
    DailyAt(jiff::civil::Time),
}

impl NamedVersion {
    /// What a name or a description may have in braces.
    pub const PLACEHOLDERS: [&'static str; 6] = ["date", "time", "run", "count", "watch", "files"];

    /// When it is created, as text.
    #[must_use]
    pub fn when_text(&self) -> String {
        match self.when {
            NamedVersionTime::EachRun => "after each run".to_owned(),
            NamedVersionTime::DailyAt(time) => format!("every day at {}", time.strftime("%H:%M")),
        }
    }
}

/// A file of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpatialRoot {
    /// The name of the watch.
    pub watch: String,
    /// Relative to its root; the watch selects it as a source file.
    pub path: PathBuf,
}

/// The platform, and the account to use it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Itwin {
    /// Base address of the API, without query; https, or a loopback host.
    pub api_url: Url,
    /// Base address of the identity provider, without query; https, or a loopback host.
    pub issuer_url: Url,
    /// Client id of the application.
    pub client_id: String,
    /// Who uses it.
    pub account: Account,
    /// Scope asked for with each token.
    pub scope: String,
    /// Requests to the API, at most.
    pub limits: RequestLimits,
}

/// Who uses the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A service application, with its secret: from a file, a program, systemd's credentials or the environment; never
    /// from the config file.
    Service(ClientSecret),
    /// A user who signs in through a native application, which has no secret.
    User(UserAccount),
}

/// How a user signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAccount {
    /// Where the browser returns to, on this machine; the first that can be used is. At least one.
    pub redirect_urls: Vec<Url>,
    /// Whether connections of service applications become connections of the user.
    pub takeover: bool,
    /// The state directory with the sign-in.
    pub state: PathBuf,
}

impl Itwin {
    /// How the user signs in, if it is one.
    #[must_use]
    pub fn user(&self) -> Option<&UserAccount> {
        match &self.account {
            Account::User(user) => Some(user),
            Account::Service(_) => None,
        }
    }
}

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Absolute path of the directory with the lock, and the ledger unless it is on a server. It need not exist yet.
    pub path: LedgerLocation,
    /// How long results, steps and runs are kept; the last result of each file is always kept.
    pub keep_history: Duration,
}

/// How many files of a watch may change, arrive or go at once without the operator's approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    /// Known files that may change at once; at least 1.
    pub max_files: u64,
    /// New files that may arrive within an hour; at least 1.
    pub max_new_files: u64,
    /// Deleted files that may be taken out of the iModel at once; at least 1.
    pub max_deletes: u64,
}

/// What is logged and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is shown.
    pub level: Level,
    /// The format of standard error; `None`: the one that its reader understands.
    pub format: Option<LogFormat>,
    /// Absolute path of the directory for JSON log files; `None` writes none.
    pub directory: Option<PathBuf>,
    /// How many daily files are kept; at least 1.
    pub keep_files: usize,
}

/// The format of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines to read, in color on a terminal.
    Plain,
    /// One JSON object per line.
    Json,
    /// For systemd's journal.
    Journal,
}

/// How important a log line must be to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Someone must act.
    Error,
    /// Degraded, but working.
    Warn,
    /// Normal operation.
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
    /// Up to this many bytes a file is sent as one request, above it in blocks of this size, or of a quarter of
    /// `memory` if that is less; 1 byte to 100 MiB, and no more than `memory`.
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
    pub connection: ConnectionName,
    /// A run starts when no further file was uploaded for this long.
    pub batch_window: Duration,
    /// …but waits no longer than this; not below `batch_window`.
    pub batch_max: Duration,
    /// First pause between two polls of a run.
    pub poll_interval: Duration,
    /// The pause grows to this; not below `poll_interval`.
    pub poll_max: Duration,
    /// A run that takes longer is reported as overdue.
    pub run_deadline: Duration,
    /// Whether source files that someone else removed from a connection are added again.
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

/// When a file counts as completely written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettlePolicy {
    /// After it was seen unchanged for this long.
    pub settle: Duration,
    /// After this long of continuous changes, one second without a change is enough.
    pub max_wait: Option<Duration>,
    /// But not sooner than this after the last time.
    pub upload_interval: Duration,
}

/// One watched folder and its iModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// 1 to 64 ASCII letters, digits, `.`, `_`, `-` and inner spaces; unique, also when case is ignored.
    pub name: String,
    /// A name that it had in an earlier configuration, if it is not recognized by its folder or storage folder.
    pub formerly: Option<String>,
    /// Absolute path of the root, as written.
    pub path: PathBuf,
    /// UUID in lower case with hyphens. [`NewImodel::key`] while the id of an iModel to create is not known.
    pub imodel_id: ImodelId,
    /// For the second and each further iModel of a table with several: the watch of the first one, which uploads.
    pub follows: Option<Followed>,
    /// When a file counts as completely written.
    pub settle_policy: SettlePolicy,
    /// Pause between two full scans of a root whose file system reports changes.
    pub rescan_interval: Duration,
    /// Pause between two full scans of a root whose file system does not: network, FUSE.
    pub poll_interval: Duration,
    /// Folder in iTwin Storage that mirrors the root, as segments from the storage root; empty means the storage root
    /// itself.
    pub storage_folder: Vec<String>,
    /// Only one ledger may upload to its storage folder. Not so for pushes, of which each host has a ledger of its own.
    pub is_exclusive: bool,
    /// What a new name or folder of a file does in storage.
    pub on_rename: OnRename,
    /// What happens on the platform to a file that is gone.
    pub on_delete: OnDelete,
    /// How long it has to be gone before that.
    pub delete_after: Duration,
    /// Name of the storage connection of this watch's files, or of those of their connector types.
    pub connection: ConnectionName,
    /// When its files may be uploaded; None: at any time.
    pub upload_schedule: Option<Schedule>,
    /// Which files, how deep, and with which connector.
    pub scope: Scope,
}

/// The watch whose uploads another watch of the same folder uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Its name.
    pub watch: String,
    /// Its iModel.
    pub imodel_id: ImodelId,
}

/// What happens in storage when a local file is renamed or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRename {
    /// Its storage file is renamed and moved as well.
    #[default]
    Follow,
    /// It is uploaded as a new file; the old storage file stays.
    UploadAgain,
}

/// What happens on the platform to a file that is gone from its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Keep,
    /// Its source file is removed from the connection.
    Unmap,
    /// So is its storage file, after a run.
    Remove,
}

/// The part of a configuration that commands need which only read the ledger: no secrets, no check of folders.
#[derive(Debug, Clone)]
pub struct ReadOnlyConfig {
    /// `[state]`.
    pub state: State,
    /// Every `[[watch]]`.
    pub watches: Vec<Watch>,
    /// Every `[[imodel]]`.
    pub imodels: Vec<Imodel>,
    /// The windows of runs, of watches and `[[imodel]]` tables.
    pub run_schedules: RunSchedules,
    /// The settings of connections, of their watches.
    pub connection_settings: Vec<ConnectionSettings>,
}

impl Config {
    /// Reads the file, the environment and the secrets, and checks the folders.
    ///
    /// Waits a few seconds for a slow file server; a folder that does not answer in time is not checked.
    ///
    /// # Errors
    /// Every error, including those that depend on this machine, such as nested folders. An unreachable folder is not
    /// an error: its file server may come back at any time.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &Environment::for_file(path))
    }

    /// The same with another environment than that of the process.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let (file, text) = read(path)?;
        let mut report = Report::new(&file, &text);
        let raw = RawConfig::read(&text, environment, Mode::Daemon, &mut report);
        if let Some(raw) = &raw {
            raw.check_folders(&mut report);
        }
        let mut config = report.finish(raw.and_then(RawConfig::into_config))?;
        config.source = Source::new(path, &text);
        Ok(config)
    }

    /// Checks `text` as the content of `file`, without checking watched folders. A secret file is read nevertheless.
    ///
    /// # Errors
    /// Every error that does not depend on the folders.
    pub fn parse(text: &str, file: &str, environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(file, text);
        let raw = RawConfig::read(text, environment, Mode::Daemon, &mut report);
        report.finish(raw.and_then(RawConfig::into_config))
    }
}

impl ReadOnlyConfig {
    /// Reads only the file and the environment: it works for users who may not read the secret, and while a share is
    /// down.
    ///
    /// # Errors
    /// Every error of the file itself.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &Environment::for_file(path))
    }

    /// The same in another environment than that of the process.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let (file, text) = read(path)?;
        Self::parse(&text, &file, environment)
    }

    /// Reads the file and compares its folders, as far as this machine has them; secrets are not read.
    ///
    /// # Errors
    /// Every error of the file, and of folders that exclude each other.
    pub fn load_with_folders(path: &Path) -> Result<Self, ConfigErrors> {
        let (file, text) = read(path)?;
        let mut report = Report::new(&file, &text);
        let environment = Environment::of_process();
        let raw = RawConfig::read(&text, &environment, Mode::Inspect, &mut report);
        if let Some(raw) = &raw {
            raw.check_folders(&mut report);
        }
        report.finish(raw.map(RawConfig::into_read_only))
    }

    /// What can be read of a file with errors; None when it is not TOML.
    #[must_use]
    pub fn load_despite_errors(path: &Path) -> Option<Self> {
        let (file, text) = read(path).ok()?;
        let mut report = Report::new(&file, &text);
        let environment = Environment::for_file(path);
        let raw = RawConfig::read(&text, &environment, Mode::Inspect, &mut report);
        raw.map(RawConfig::into_read_only)
    }

    /// The configuration that the daemon works with, as it read it from `path`. `state` is where it has its ledger.
    ///
    /// # Errors
    /// Every error: this program does not understand what the daemon, of another version, does.
    pub fn of_daemon(text: &str, path: &Path, state: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        let mut config = Self::parse(text, &file, &Environment::for_file(path))?;
        config.state.path.set_directory(state);
        Ok(config)
    }

    /// Checks `text` as the content of `file`.
    pub(crate) fn parse(
        text: &str,
        file: &str,
        environment: &Environment,
    ) -> Result<Self, ConfigErrors> {
        let mut report = Report::new(file, text);
        let raw = RawConfig::read(text, environment, Mode::Inspect, &mut report);
        report.finish(raw.map(RawConfig::into_read_only))
    }
}

impl Watch {
    /// A digest of all settings, the same in every process with the same version and configuration.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = blake3::hash(format!("{self:?}").as_bytes());
        digest.to_hex().to_string()
    }

    /// Whether files of both watches could end up in the same storage folder: one `storage_folder` equals or contains
    /// the other.
    ///
    /// `load` refuses this for watches of one iModel. iModels of the same iTwin share its storage too, which only the
    /// platform knows: check again when the iTwins are known. Case is ignored, because it is undocumented whether
    /// storage respects it.
    #[must_use]
    pub fn storage_overlaps(&self, other: &Self) -> bool {
        if self.is_same_table(other) {
            return false;
        }
        self.storage_folder
            .iter()
            .zip(&other.storage_folder)
            .all(|(one, other)| one.to_lowercase() == other.to_lowercase())
    }

    /// Whether both are of one table with several iModels, so that one of them uploads for the other.
    #[must_use]
    pub fn is_same_table(&self, other: &Self) -> bool {
        let leader = |watch: &'_ Self| match &watch.follows {
            Some(leader) => leader.watch.clone(),
            None => watch.name.clone(),
        };
        (self.follows.is_some() || other.follows.is_some()) && leader(self) == leader(other)
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
fn read(path: &Path) -> Result<(String, String), ConfigErrors> {
    let file = path.display().to_string();
    fs::read_to_string(path)
        .map(|text| (file.clone(), text))
        .map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::InvalidData => "save it as UTF-8",
                io::ErrorKind::NotFound if path.starts_with("/etc") => {
                    "run `sudo itwin-syncd init` to write one, or pass its path with --config"
                }
                io::ErrorKind::NotFound => {
                    "run `itwin-syncd init` to write one, or pass its path with --config"
                }
                io::ErrorKind::PermissionDenied => &format!(
                    "{}; the service's user needs read access to it",
                    permission::advice_for_both(
                        path,
                        &Environment::for_file(path).default_state_path()
                    )
                ),
                _ => "give the service's user read access to it",
            };
            let mut report = Report::new(&file, "");
            report.add(
                Place::default(),
                InvalidValue::new(format!("cannot read the config file: {error}"), hint),
            );
            report.into_errors()
        })
}

#[cfg(test)]
mod tests;
