//! The commands' side of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{Answer, Request, socket};
use crate::permission;

/// The daemon responds at once, unless its disk is slow.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest response in bytes: the runtime status of many watches.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be used.
    #[error("cannot reach the daemon at {path:?}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The response has another format.
    #[error("unexpected response from the daemon: {0}")]
    Unreadable(serde_json::Error),
    /// The daemon rejected the request.
    #[error("the daemon rejected the command: {0}")]
    Refused(String),
}

impl Error {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Socket { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(permission::advice(path))
            }
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                Some("check the daemon's log".to_owned())
            }
            Self::Socket { .. } | Self::Refused(_) => None,
            Self::Unreadable(_) => {
                Some("restart the daemon: its version differs from this command".to_owned())
            }
        }
    }
}

/// Sends a request to the daemon of a state directory. None: no daemon is running.
///
/// # Errors
/// When a daemon is running that cannot be reached, or that rejects the request.
pub async fn ask(state: &Path, request: &Request) -> Result<Option<Answer>, Error> {
    let path = socket(state);
    let talked = tokio::time::timeout(PATIENCE, talk(&path, request)).await;
    let line = match talked.unwrap_or_else(|late| Err(late.into())) {
        Ok(line) => line,
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                .contains(&error.kind()) =>
        {
            return Ok(None);
        }
        Err(source) => return Err(Error::Socket { path, source }),
    };
    match serde_json::from_str(&line).map_err(Error::Unreadable)? {
        Answer::Refused { why } => Err(Error::Refused(why)),
        answer => Ok(Some(answer)),
    }
}

async fn talk(path: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX))
        .read_line(&mut line)
        .await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let socket = |kind: io::ErrorKind| Error::Socket {
            path: "/nonexistent/itwin-syncd/control.sock".into(),
            source: kind.into(),
        };
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Socket { .. } => socket(io::ErrorKind::PermissionDenied),
            Error::Socket { .. } => socket(io::ErrorKind::TimedOut),
            Error::Unreadable(_) => Error::Unreadable(serde_json::from_str::<u8>("{").unwrap_err()),
            Error::Refused(_) => Error::Refused("ledger: cannot pause watches".to_owned()),
        }));
    }
}
