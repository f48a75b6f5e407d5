//! The socket's side of the daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Answer, Operator, Request, SOCKET, socket};
use crate::state_directory::StateDirectory;

/// The longest request: a retry of a hundred thousand files.
const REQUEST_MAX: u64 = 4 * 1024 * 1024;

/// Time limit for a request and its response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients that are served at the same time, with a descriptor each. Others wait in the kernel's queue, which takes
/// none of ours.
const TALKS_MAX: usize = 16;

/// Clients that wait in that queue.
const BACKLOG: u32 = 128;

/// A socket that is ready to be served. It is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Creates the socket of a state directory. The caller has the ledger's lock, so an existing socket is a leftover.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn bind(state: &Path) -> io::Result<Self> {
        let directory = StateDirectory::open(state).map_err(io::Error::other)?;
        directory.remove_socket(SOCKET)?;
        // User and group may use it. A socket gets the mode of its descriptor, less the umask, in the moment that it
        // gets its name: no one else can connect before the mode is set.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        let unnamed = UnixSocket::new_stream()?;
        rustix::fs::fchmod(&unnamed, mode)?;
        let path = socket(state);
        unnamed.bind(&path)?;
        let server = Self {
            listener: unnamed.listen(BACKLOG)?,
            path,
        };
        // What the umask took away.
        if directory.mode_of(SOCKET)? != mode {
            directory.set_mode(SOCKET, mode)?;
        }
        Ok(server)
    }

    /// Answers until `stop`.
    pub async fn run(self, operator: Operator, stop: CancellationToken) {
        let talks = Arc::new(Semaphore::new(TALKS_MAX));
        let mut all = JoinSet::new();
        loop {
            while all.try_join_next().is_some() {}
            let next = async {
                let permit = Arc::clone(&talks).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let operator = operator.clone();
                    all.spawn(async move {
                        if let Ok(Err(error)) | Err(error) =
                            tokio::time::timeout(PATIENCE, talk(stream, &operator))
                                .await
                                .map_err(io::Error::from)
                                .map(|talked| talked.map_err(io::Error::other))
                        {
                            debug!(%error, "control connection failed");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a control connection: retrying in 1 s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The next start removes what stays.
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "cannot remove the control socket");
        }
    }
}

async fn talk(mut stream: UnixStream, operator: &Operator) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_MAX));
    reader.read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => operator.answer(request).await,
        Err(error) => Answer::Refused {
            why: format!("invalid request: {error}"),
        },
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}
