//! Why the emulator did not start.

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// The file that exchanges are written to cannot be made.
    #[error("cannot write the recording {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key that signs tokens cannot be made or read.
    #[error("cannot sign tokens")]
    Key(#[source] std::io::Error),
    /// The Azurite that is to be used does not answer as one.
    #[error("cannot use the Azurite at {url}")]
    Azurite {
        /// Its address.
        url: String,
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
