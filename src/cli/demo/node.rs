//! A node of the demo of several hosts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::{CONFIG, Error, tail};
use crate::config::CLIENT_SECRET_VARIABLE;
use crate::ledger::DEMO_HOST;

/// A host: a process with a configuration and a state directory of its own.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) page: SocketAddr,
    pub(super) process: Option<Child>,
    /// What it was, and what became of it, for the table.
    pub(super) role: &'static str,
    pub(super) killed: String,
}

impl Node {
    /// Starts its process.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let process = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(self.folder.join(CONFIG))
            .env(DEMO_HOST, &self.name)
            // The terminal and systemd are those of the demo.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("JOURNAL_STREAM")
            .env_remove("CREDENTIALS_DIRECTORY")
            .env_remove("STATE_DIRECTORY")
            .env_remove(CLIENT_SECRET_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which ends the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    /// A process that ends by itself is a failure.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process
            && process.try_wait()?.is_some()
        {
            return Err(Error::Node {
                name: self.name.clone(),
                log: tail(&self.folder.join("log")),
            });
        }
        Ok(())
    }
}
