//! Commands and queries of operators.
//!
//! Requests arrive over a Unix socket beside the ledger (or from the page), one JSON line each, and get one line back.
//! Who may open the socket may use it: its user and its group. Lasting effects are written to the ledger, so the same
//! [`Command`] works without a daemon too and applies at the next start. The socket is never reachable over a network.

mod client;
mod health;
mod server;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::info;

use crate::config::Source;
use crate::ledger::{self, FileId, Ledger, Removal, Removed, Requeue};
use crate::runtime_status::{RuntimeStatus, Standby, StatusTracker};
use crate::watch::Unfinished;

pub use client::{Error, ask};
pub(crate) use health::prove;
pub use server::Server;

/// How long the ledger may take to prove that it works.
const PROOF: Duration = Duration::from_secs(4);

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Retry these files now.
    Retry {
        /// Their ids in the ledger.
        files: Vec<String>,
    },
    /// Retry all failed files now.
    RetryFailed,
    /// Retry all files of a group of failures now.
    RetryGroup {
        /// Its key.
        group: String,
    },
    /// Delete these files from the ledger.
    Forget {
        /// Their ids in the ledger.
        files: Vec<String>,
    },
    /// Bring these files back that are gone from their folder.
    Restore {
        /// Their ids in the ledger.
        files: Vec<String>,
    },
    /// Scan the folders of these watches now.
    Rescan {
        /// Their names.
        watches: Vec<String>,
    },
    /// Start no new work of these watches until they are resumed.
    Pause {
        /// Their names.
        watches: Vec<String>,
    },
    /// Synchronize what waits in these watches now, whatever their windows.
    Sync {
        /// Their names.
        watches: Vec<String>,
    },
    /// Resume these watches, whether paused or suspended.
    Resume {
        /// Their names.
        watches: Vec<String>,
    },
}

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Execute a command.
    Execute(Command),
    /// Record what a command removed from the platform.
    RecordRemovals {
        /// What it was.
        removals: Vec<Removal>,
    },
    /// The runtime status.
    Status,
    /// Whether it works.
    Health,
    /// The configuration that it works with.
    Configuration,
    /// Whether it waits until a file is completely written.
    Unfinished {
        /// The name of the watch.
        watch: String,
        /// The path relative to its folder, as bytes.
        path: Vec<u8>,
    },
}

/// The response of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Executed.
    Done {
        /// Number of affected files or watches.
        count: u64,
    },
    /// The runtime status.
    Status(Box<RuntimeStatus>),
    /// Whether it works.
    Health {
        /// What does not work.
        problem: Option<String>,
    },
    /// The configuration that it works with.
    Configuration {
        /// The file that it was read from, as bytes.
        file: Vec<u8>,
        /// Its text at that time.
        text: String,
    },
    /// The state of the file; `None` when it does not wait for it.
    Unfinished {
        /// See above.
        file: Option<Unfinished>,
    },
    /// It failed.
    Refused {
        /// Why not.
        why: String,
    },
}

/// Executes commands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Where lasting effects are recorded.
    pub ledger: Ledger,
    /// The runtime status of the process.
    pub live: StatusTracker,
    /// Notified when a job may be due.
    pub wake_uploads: Arc<Notify>,
    /// Changed when a run may be due; incremented by operators.
    pub wake_synchronizers: watch::Sender<u64>,
    /// When the upload queue was checked last.
    pub queue: watch::Receiver<Instant>,
    /// The file of the configuration in effect.
    pub configuration: watch::Receiver<Source>,
}

impl Operator {
    /// For a ledger without a daemon: commands apply at the next start.
    #[must_use]
    pub fn without_daemon(ledger: Ledger) -> Self {
        Self {
            ledger,
            live: StatusTracker::new(),
            wake_uploads: Arc::default(),
            wake_synchronizers: watch::channel(0).0,
            queue: watch::channel(Instant::now()).1,
            configuration: watch::channel(Source::default()).1,
        }
    }

    /// Executes a command; returns the number of affected files or watches.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn execute(&self, command: &Command) -> Result<u64, ledger::Error> {
        let now = crate::clock::now();
        let (name, count) = match command {
            Command::Retry { files } => {
                let files = files.iter().filter_map(|id| id.parse::<FileId>().ok());
                let which = Requeue::Files(files.collect());
                ("retry", self.ledger.requeue(&which, now).await?)
            }
            Command::Forget { files } => {
                let files: Vec<FileId> = files.iter().filter_map(|id| id.parse().ok()).collect();
                ("forget", self.ledger.forget_files(&files).await?)
            }
            Command::Restore { files } => {
                let files: Vec<FileId> = files.iter().filter_map(|id| id.parse().ok()).collect();
                ("restore", self.ledger.restore_files(&files, now).await?)
            }
            Command::RetryFailed => ("retry", self.ledger.requeue(&Requeue::Failed, now).await?),
            Command::RetryGroup { group } => {
                let which = Requeue::Group(group.clone());
                ("retry", self.ledger.requeue(&which, now).await?)
            }
            Command::Rescan { watches } => ("rescan", self.live.rescan(watches)),
            Command::Pause { watches } => ("pause", self.ledger.pause_watches(watches, now).await?),
            Command::Sync { watches } => ("sync", self.ledger.request_sync(watches, now).await?),
            Command::Resume { watches } => {
                ("resume", self.ledger.resume_watches(watches, now).await?)
            }
        };
        info!(command = name, count, "operator command");
        self.wake_uploads.notify_one();
        self.wake_synchronizers.send_modify(|asked| *asked += 1);
        Ok(count)
    }

    /// Records what a command removed from the platform; returns how much of it the ledger knew.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn record_removals(&self, removals: &[Removal]) -> Result<u64, ledger::Error> {
        let now = crate::clock::now();
        let mut known = 0;
        for removal in removals {
            known += u64::from(self.ledger.record_removal(removal, now).await?);
            let (path, file) = (&removal.path, removal.storage_file_id.as_str());
            let imodel = removal.imodel_id.as_str();
            match removal.what {
                Removed::SourceFile | Removed::FormerSourceFile => info!(
                    imodel,
                    ?path,
                    storage_file = file,
                    source_file = removal.source_file_id,
                    "source file removed by the operator"
                ),
                Removed::StorageFile => info!(
                    imodel,
                    ?path,
                    storage_file = file,
                    "storage file moved to the recycle bin by the operator"
                ),
            }
        }
        Ok(known)
    }

    async fn answer(&self, request: Request) -> Answer {
        if let Some(standby) = self.live.standby() {
            return self.answer_as_standby(request, &standby).await;
        }
        match request {
            Request::Execute(command) => done(self.execute(&command).await),
            Request::RecordRemovals { removals } => done(self.record_removals(&removals).await),
            Request::Status => Answer::Status(Box::new(self.live.now().await)),
            Request::Health => Answer::Health {
                problem: prove(&self.ledger, &self.queue, PROOF).await.err(),
            },
            Request::Configuration => self.configured(),
            Request::Unfinished { watch, path } => Answer::Unfinished {
                file: self.live.unfinished(&watch, &path_of(path)).await,
            },
        }
    }
}

impl Operator {
    /// What changes the ledger is up to the active host.
    async fn answer_as_standby(&self, request: Request, standby: &Standby) -> Answer {
        match request {
            Request::Execute(_) | Request::RecordRemovals { .. } => Answer::Refused {
                why: format!(
                    "this host is standby: run the command on the active host, {}",
                    standby.active
                ),
            },
            Request::Status => Answer::Status(Box::new(self.live.now().await)),
            Request::Health => Answer::Health { problem: None },
            Request::Configuration => self.configured(),
            Request::Unfinished { .. } => Answer::Unfinished { file: None },
        }
    }

    fn configured(&self) -> Answer {
        let source = self.configuration.borrow();
        Answer::Configuration {
            file: source.file.as_os_str().as_bytes().to_owned(),
            text: source.text.to_string(),
        }
    }
}

/// A path from its bytes.
pub(crate) fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn done(executed: Result<u64, ledger::Error>) -> Answer {
    match executed {
        Ok(count) => Answer::Done { count },
        Err(error) => Answer::Refused {
            why: error.to_string(),
        },
    }
}

/// The name of the socket in a state directory.
const SOCKET: &str = "control.sock";

/// Where the socket of a state directory is.
fn socket(state: &Path) -> PathBuf {
    state.join(SOCKET)
}
