//! Where a ledger is: in a file of its state directory, or in a database of a PostgreSQL server.

use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use crate::secret::Secret;

/// Where a ledger is. Used as a path, it is the state directory, which has what belongs to the host in either case: the
/// lock, the control socket, unfinished uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLocation {
    directory: PathBuf,
    /// None: the ledger is in the state directory.
    pub server: Option<Server>,
}

/// A database of a PostgreSQL server, and how to log in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host, database and user.
    pub url: Url,
    /// The user's password; None: the server does not ask for one.
    pub password: Option<Secret>,
    /// Certificates of the authority that has issued the server's, as PEM.
    pub ca_file: Option<PathBuf>,
}

impl LedgerLocation {
    /// A ledger on a server.
    #[must_use]
    pub fn on(server: Server, directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            server: Some(server),
        }
    }

    pub(crate) fn set_directory(&mut self, directory: &Path) {
        directory.clone_into(&mut self.directory);
    }

    /// File or database, as the log names it.
    pub(crate) fn shown(&self) -> String {
        match &self.server {
            Some(server) => format!("PostgreSQL {server}"),
            None => self.join("ledger.db").display().to_string(),
        }
    }
}

impl Deref for LedgerLocation {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.directory
    }
}

impl AsRef<Path> for LedgerLocation {
    fn as_ref(&self) -> &Path {
        &self.directory
    }
}

impl From<PathBuf> for LedgerLocation {
    fn from(directory: PathBuf) -> Self {
        Self {
            directory,
            server: None,
        }
    }
}

impl From<&Path> for LedgerLocation {
    fn from(directory: &Path) -> Self {
        Self::from(directory.to_owned())
    }
}

impl From<&PathBuf> for LedgerLocation {
    fn from(directory: &PathBuf) -> Self {
        Self::from(directory.clone())
    }
}

impl From<&Self> for LedgerLocation {
    fn from(location: &Self) -> Self {
        location.clone()
    }
}

impl Server {
    /// Whether the connection does not leave this host, so that it needs no encryption.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self.url.host() {
            // A URL of this scheme has IPv4 addresses as names.
            Some(Host::Domain(name)) => {
                let address = name.parse::<IpAddr>();
                name == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => true,
        }
    }
}

/// Host, port and database, as messages name it.
impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.url.host_str().unwrap_or("localhost");
        let port = self.url.port().unwrap_or(5432);
        write!(f, "{host}:{port}{}", self.url.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_to_this_host_needs_no_encryption() {
        for (host, local) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.0.0.1:5433", true),
            ("[::1]", true),
            ("db.example.com", false),
            ("localhost.example.com", false),
            ("192.168.1.4", false),
            ("[fd00::1]", false),
        ] {
            let server = Server {
                url: format!("postgres://u@{host}/d").parse().unwrap(),
                password: None,
                ca_file: None,
            };
            assert_eq!(server.is_local(), local, "{host}");
        }
    }
}
