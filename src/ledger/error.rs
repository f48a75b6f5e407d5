//! What can go wrong with the ledger, by what a caller or an operator can do about it.

use std::path::PathBuf;

use crate::shell;
use crate::state_directory;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the lock of this state directory.
    #[error("another itwin-syncd{} already uses {path:?}", pid.as_ref().map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The process id that the other one wrote into the lock file, when it can be read.
        pid: Option<String>,
    },
    /// There is no ledger to read yet.
    #[error("no ledger in {path:?}")]
    Missing {
        /// The state directory.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error("cannot use {path:?}")]
    Io {
        /// The path that could not be used.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The directory, or a file in it, cannot be trusted.
    #[error(transparent)]
    Directory(state_directory::Error),
    /// The directory is on a network file system, where the database is not safe.
    #[error("{path:?} is on a network file system, where the ledger is not safe")]
    Network {
        /// The state directory.
        path: PathBuf,
    },
    /// The check of the database found damage, or the previous process did.
    #[error("the ledger is damaged: {what}")]
    Damaged {
        /// The database's description.
        what: String,
    },
    /// The database is damaged, or holds a value that this program never writes.
    #[error("the ledger is damaged: cannot {action}")]
    Corrupt {
        /// What was being done, as the rest of "cannot …".
        action: &'static str,
        /// The database's reason.
        source: Source,
    },
    /// A newer itwin-syncd wrote this ledger.
    #[error("the ledger in {path:?} was written by a newer itwin-syncd")]
    Newer {
        /// The state directory.
        path: PathBuf,
    },
    /// An older itwin-syncd wrote this ledger, and no daemon of this version has migrated it yet.
    #[error("the ledger in {path:?} was written by an older itwin-syncd")]
    Older {
        /// The state directory.
        path: PathBuf,
    },
    /// No daemon has used this database of a server yet.
    #[error("there is no ledger in the database {server}")]
    ServerEmpty {
        /// Its host, port and name.
        server: String,
    },
    /// The server of the database refused or failed.
    #[error("ledger in the database {server}: cannot {action}")]
    Server {
        /// Host, port and name of the database.
        server: String,
        /// What was being done, as the rest of "cannot …".
        action: &'static str,
        /// What to do about it.
        hint: &'static str,
        /// The server's or the connection's reason.
        source: Source,
    },
    /// Another daemon, of any host, has the database.
    #[error("the ledger in the database {server} is in use by another itwin-syncd: {holder}")]
    ServerInUse {
        /// Host, port and name of the database.
        server: String,
        /// From where, and since when.
        holder: String,
    },
    /// Another host is the active one now.
    #[error("another host has taken over the ledger")]
    TakenOver,
    /// The server must not be used.
    #[error("the server of the database {server} {what}")]
    UnfitServer {
        /// Host, port and name of the database.
        server: String,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A newer itwin-syncd wrote the ledger on a server.
    #[error("the ledger in the database {server} was written by a newer itwin-syncd")]
    ServerNewer {
        /// Its host, port and name.
        server: String,
    },
    /// An older itwin-syncd wrote the ledger on a server, and no daemon of this version has migrated it yet.
    #[error("the ledger in the database {server} was written by an older itwin-syncd")]
    ServerOlder {
        /// Its host, port and name.
        server: String,
    },
    /// The ledger was copied, and continues in the copy.
    #[error("the ledger in {here} is not used any more: it was copied to {there} at {at}")]
    Moved {
        /// Where it was.
        here: String,
        /// Where it is.
        there: String,
        /// Since when.
        at: String,
        /// Whether it is on a server now.
        is_on_server: bool,
    },
    /// A copy of a ledger that was interrupted.
    #[error("the copy of the ledger from {there} to {here} is not finished")]
    Unfinished {
        /// Where the copy is.
        here: String,
        /// Where the ledger is.
        there: String,
    },
    /// The program was linked with an SQLite that must not be used.
    #[error("SQLite {found} is too old for a safe ledger: 3.51.3 or newer is required")]
    OldSqlite {
        /// The version in use.
        found: String,
    },
    /// The disk of the state directory is full.
    #[error("ledger: cannot {action}: disk full")]
    DiskFull {
        /// What was being done, as the rest of "cannot …".
        action: &'static str,
        /// The database's reason.
        source: Source,
    },
    /// The database refused or failed otherwise.
    #[error("ledger: cannot {action}")]
    Database {
        /// What was being done, as the rest of "cannot …".
        action: &'static str,
        /// The database's reason.
        source: Source,
    },
}

const FREE_SPACE: &str = "free space on the disk of state.path";

fn created_by_run(key: &str) -> String {
    let run = shell::command(["run"]);
    format!("the first `{run}` creates it; check {key} in the configuration")
}

impl Error {
    /// Whether no daemon has created the ledger yet.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::ServerEmpty { .. })
    }

    /// Whether the next start of the daemon migrates the ledger.
    #[must_use]
    pub fn is_older(&self) -> bool {
        matches!(self, Self::Older { .. } | Self::ServerOlder { .. })
    }

    /// What the reader can do about it, when there is something specific.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::InUse { .. } => "stop the other one, or give this one its own state.path",
            Self::Missing { .. } => {
                return Some(created_by_run("state.path"));
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                FREE_SPACE
            }
            Self::Io { path, .. } => {
                return Some(format!(
                    "let the service's user write {}, in a directory of its own",
                    path.display()
                ));
            }
            Self::Directory(error) => return Some(error.hint()),
            Self::Network { .. } => "put state.path on a local disk",
            Self::Damaged { .. } | Self::Corrupt { .. } => {
                "start the daemon: it moves a damaged ledger aside and rebuilds it"
            }
            Self::Server { hint, .. } | Self::UnfitServer { hint, .. } => hint,
            Self::ServerInUse { .. } => {
                "run the command on that host, or stop the daemon there; the lease of a host that was killed is over within a minute"
            }
            Self::TakenOver => {
                "no action needed: systemd restarts this host's service, and it waits as standby"
            }
            Self::ServerEmpty { .. } => {
                return Some(created_by_run("state.url"));
            }
            Self::Newer { .. } | Self::ServerNewer { .. } => {
                "install that version again, or restore a backup of the ledger from before the upgrade"
            }
            Self::Older { .. } | Self::ServerOlder { .. } => {
                "restart the daemon with this version: it migrates the ledger"
            }
            Self::Moved { is_on_server, .. } => {
                let how = if *is_on_server {
                    "set state.url to that database"
                } else {
                    "run the service on that host, without state.url"
                };
                return Some(format!(
                    "{how}; if that ledger is lost, `{}` makes this one valid again",
                    shell::command(["ledger", "reactivate"])
                ));
            }
            Self::Unfinished { .. } => {
                return Some(format!(
                    "run `{}` with the same options again",
                    shell::command(["ledger", "copy"])
                ));
            }
            Self::OldSqlite { .. } => "build with the bundled SQLite of Cargo.lock",
            Self::DiskFull { .. } => FREE_SPACE,
            Self::Database { .. } => {
                "check the owner, the mode and the disk of state.path; if they are right, restart the daemon"
            }
        };
        Some(hint.to_owned())
    }

    /// Whether the database is damaged, or no database at all: the next start moves it aside and begins a new one.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Corrupt { .. })
    }
}

impl From<state_directory::Error> for Error {
    fn from(error: state_directory::Error) -> Self {
        match error {
            state_directory::Error::Io { path, source } => Self::Io { path, source },
            error => Self::Directory(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let path = || PathBuf::from("/var/lib/itwin-syncd");
        let io = |kind: std::io::ErrorKind| Error::Io {
            path: path(),
            source: kind.into(),
        };
        let server = || "db.example.com:5432/itwin_syncd".to_owned();
        let action = "claim an upload";
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::InUse { .. } => Error::InUse { path: path(), pid: Some("812".to_owned()) },
            Error::InUse { .. } => Error::InUse { path: path(), pid: None },
            Error::Missing { .. } => Error::Missing { path: path() },
            Error::Io { .. } => io(std::io::ErrorKind::PermissionDenied),
            Error::Io { .. } => io(std::io::ErrorKind::StorageFull),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable { path: path(), mode: 0o777 }),
            Error::Network { .. } => Error::Network { path: path() },
            Error::Damaged { .. } => Error::Damaged { what: "wrong # of entries in index jobs_due".to_owned() },
            Error::Corrupt { .. } => Error::Corrupt { action, source: "database disk image is malformed".into() },
            Error::Newer { .. } => Error::Newer { path: path() },
            Error::Older { .. } => Error::Older { path: path() },
            Error::Server { .. } => Error::Server {
                server: server(),
                action,
                hint: "check that the server runs",
                source: "connection refused".into(),
            },
            Error::ServerInUse { .. } => Error::ServerInUse {
                server: server(),
                holder: "host cad1, since 2026-11-27 12:00:00Z".to_owned(),
            },
            Error::TakenOver => Error::TakenOver,
            Error::UnfitServer { .. } => Error::UnfitServer {
                server: server(),
                what: "has fsync = off".to_owned(),
                hint: "set fsync = on",
            },
            Error::ServerEmpty { .. } => Error::ServerEmpty { server: server() },
            Error::ServerNewer { .. } => Error::ServerNewer { server: server() },
            Error::ServerOlder { .. } => Error::ServerOlder { server: server() },
            Error::Moved { .. } => Error::Moved {
                here: "/var/lib/itwin-syncd on host cad1".to_owned(),
                there: format!("the database {}", server()),
                at: "2026-11-27 12:00:00Z".to_owned(),
                is_on_server: true,
            },
            Error::Moved { .. } => Error::Moved {
                here: format!("the database {}", server()),
                there: "/var/lib/itwin-syncd on host cad1".to_owned(),
                at: "2026-11-27 12:00:00Z".to_owned(),
                is_on_server: false,
            },
            Error::Unfinished { .. } => Error::Unfinished {
                here: format!("the database {}", server()),
                there: "/var/lib/itwin-syncd on host cad1".to_owned(),
            },
            Error::OldSqlite { .. } => Error::OldSqlite { found: "3.40.1".to_owned() },
            Error::DiskFull { .. } => Error::DiskFull { action, source: "database or disk is full".into() },
            Error::Database { .. } => Error::Database { action, source: "database is locked".into() },
        }));
    }
}
