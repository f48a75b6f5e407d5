//! What a person can make the running daemon do, and ask it.
//!
//! In come requests over a Unix socket beside the ledger (or from the page), one JSON line each; out goes one line. Who
//! may open the socket may use it: its user and its group. Everything lasting goes through the ledger, so the same
//! [`Act`] takes effect without a daemon too, at the next start. It is never reachable over a network.

mod client;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::ledger::{self, FileId, Ledger, Requeue};
use crate::runtime_status::{Live, Now};
use crate::watch::Unfinished;

pub use client::{Error, ask};
pub use server::Server;

/// Something a person wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// Try these files again at once.
    Retry {
        /// Their ids in the ledger.
        files: Vec<String>,
    },
    /// Try all files again that failed.
    RetryFailed,
    /// Delete all that is known of these files.
    Forget {
        /// Their ids in the ledger.
        files: Vec<String>,
    },
    /// Scan the folders of these watches now.
    Rescan {
        /// Their names.
        watches: Vec<String>,
    },
    /// Take no new work from these watches until they are resumed.
    Pause {
        /// Their names.
        watches: Vec<String>,
    },
    /// Let these watches go on, whatever held them.
    Resume {
        /// Their names.
        watches: Vec<String>,
    },
}

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// To do something.
    Do(Act),
    /// What it does at this moment.
    Now,
    /// Whether it waits for a file to be finished.
    Unfinished {
        /// The name of the watch.
        watch: String,
        /// The path relative to its folder, as bytes.
        path: Vec<u8>,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is done; it concerned so many files or watches.
    Done {
        /// How many.
        count: u64,
    },
    /// The live record.
    Now(Box<Now>),
    /// What it knows of the file; nothing when it does not wait for it.
    Unfinished {
        /// See above.
        file: Option<Unfinished>,
    },
    /// It could not be done.
    Refused {
        /// Why not.
        why: String,
    },
}

/// Where acts are carried out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Where they are written down.
    pub ledger: Ledger,
    /// What the process does.
    pub live: Live,
    /// Told when a job may be due.
    pub wake_uploads: Arc<Notify>,
    /// Told when a run may be due; rises for a person.
    pub wake_synchronizers: watch::Sender<u64>,
}

impl Desk {
    /// For a ledger that no daemon works on: what is done takes effect at the next start.
    #[must_use]
    pub fn without_daemon(ledger: Ledger) -> Self {
        Self {
            ledger,
            live: Live::new(),
            wake_uploads: Arc::default(),
            wake_synchronizers: watch::channel(0).0,
        }
    }

    /// Carries an act out, and returns how many files or watches it concerned.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn carry_out(&self, act: &Act) -> Result<u64, ledger::Error> {
        let now = crate::clock::now();
        let (what, count) = match act {
            Act::Retry { files } => {
                let files = files.iter().filter_map(|id| id.parse::<FileId>().ok());
                let which = Requeue::Files(files.collect());
                ("retry", self.ledger.requeue(&which, now).await?)
            }
            Act::Forget { files } => {
                let files: Vec<FileId> = files.iter().filter_map(|id| id.parse().ok()).collect();
                ("forget", self.ledger.forget_files(&files).await?)
            }
            Act::RetryFailed => ("retry", self.ledger.requeue(&Requeue::Failed, now).await?),
            Act::Rescan { watches } => ("rescan", self.live.rescan(watches)),
            Act::Pause { watches } => ("pause", self.ledger.pause_watches(watches, now).await?),
            Act::Resume { watches } => ("resume", self.ledger.resume_watches(watches, now).await?),
        };
        info!(act = what, count, "asked by a person");
        self.wake_uploads.notify_one();
        self.wake_synchronizers.send_modify(|asked| *asked += 1);
        Ok(count)
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Do(act) => match self.carry_out(&act).await {
                Ok(count) => Answer::Done { count },
                Err(error) => Answer::Refused {
                    why: error.to_string(),
                },
            },
            Request::Now => Answer::Now(Box::new(self.live.now().await)),
            Request::Unfinished { watch, path } => {
                use std::os::unix::ffi::OsStringExt as _;
                let path = PathBuf::from(std::ffi::OsString::from_vec(path));
                Answer::Unfinished {
                    file: self.live.unfinished(&watch, &path).await,
                }
            }
        }
    }
}

/// The name of the socket in a state directory.
const SOCKET: &str = "control.sock";

/// Where the socket of a state directory is.
fn socket(state: &Path) -> PathBuf {
    state.join(SOCKET)
}
