//! Why the emulator did not start.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the emulator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address is in use or not available.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The recording cannot be written.
    #[error("cannot write the recording {path:?}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The key that signs tokens cannot be generated or read.
    #[error("cannot sign tokens")]
    Key(#[source] std::io::Error),
    /// Azurite does not respond as expected.
    #[error("cannot use Azurite at {url}")]
    Azurite {
        /// Its URL.
        url: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path:?}")]
    Data {
        /// The folder, or a file in it.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}
