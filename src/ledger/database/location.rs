//! Where a ledger is.

use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

/// Where a ledger is: in a file of its state directory, or on a server. The state directory has what belongs to the
/// host in either case.
#[derive(Debug, Clone)]
pub struct Location {
    pub(in crate::ledger) directory: PathBuf,
    pub(in crate::ledger) server: Option<Server>,
}

impl Location {
    /// A ledger on a server.
    #[must_use]
    pub fn on(server: Server, directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            server: Some(server),
        }
    }
}

impl From<&Path> for Location {
    fn from(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            server: None,
        }
    }
}

impl From<&PathBuf> for Location {
    fn from(directory: &PathBuf) -> Self {
        Self::from(directory.as_path())
    }
}

/// A database of a PostgreSQL server, and how to log in there.
#[derive(Clone)]
pub struct Server {
    pub(in crate::ledger) options: PgConnectOptions,
}

impl Server {
    /// From a URL as PostgreSQL's programs take it.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn parse(url: &str) -> Result<Self, sqlx::Error> {
        Ok(Self {
            options: url.parse()?,
        })
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.to_string()).finish()
    }
}

/// Host, port and database, as messages name it: without user and password.
impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = &self.options;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None => write!(f, "{}:{}", options.get_host(), options.get_port())?,
        }
        let database = options.get_database();
        write!(f, "/{}", database.unwrap_or(options.get_username()))
    }
}
