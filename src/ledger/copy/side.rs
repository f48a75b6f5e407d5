//! The two ends of a copy: a state directory and a server, with nobody else at work in them.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::super::database::content::{self, Table};
use super::super::lock::{Lock, PreviousExit};
use super::super::{
    ContentCheck, Database, Error, LOCK_WAIT, database, existing, refuse_network, sql,
};
use super::CopyDirection;
use crate::ledger_location::{LedgerLocation, Server};
use crate::state_directory::StateDirectory;

/// One end of the copy.
pub(super) struct Side {
    pub(super) db: Database,
    pub(super) location: LedgerLocation,
    /// That of the directory, for both ends.
    lock: Lock,
}

/// Opens both ends.
pub(super) async fn open(
    directory: &Path,
    server: &Server,
    direction: CopyDirection,
) -> Result<(Side, Side), Error> {
    let state = match direction {
        CopyDirection::ToServer => with_ledger(directory)?,
        CopyDirection::ToDirectory => {
            StateDirectory::make(directory)?;
            StateDirectory::open(directory)?
        }
    };
    let (lock, check) = lock(directory, &state).await?;
    let in_directory = Side::in_directory(&state, lock.clone(), check).await?;
    match Side::on_server(server, directory, lock).await {
        Ok(on_server) => Ok((in_directory, on_server)),
        Err(error) => {
            in_directory.close().await;
            Err(error)
        }
    }
}

/// A state directory that has a database.
pub(super) fn with_ledger(directory: &Path) -> Result<StateDirectory, Error> {
    let state = existing(directory)?;
    if database::is_there(&state)? {
        Ok(state)
    } else {
        let path = directory.to_owned();
        Err(Error::Missing { path })
    }
}

/// Takes the lock of a state directory, and says whether its database has to be checked.
pub(super) async fn lock(
    directory: &Path,
    state: &StateDirectory,
) -> Result<(Lock, ContentCheck), Error> {
    refuse_network(directory)?;
    let (lock, previous) = Lock::acquire(directory, state, LOCK_WAIT).await?;
    match previous {
        PreviousExit::FoundDamage(what) => {
            let error = Error::Damaged { what };
            lock.mark_damaged(&error);
            Err(error)
        }
        PreviousExit::Killed => Ok((lock, ContentCheck::Full)),
        PreviousExit::Clean => Ok((lock, ContentCheck::Skip)),
    }
}

impl Side {
    pub(super) async fn in_directory(
        state: &StateDirectory,
        lock: Lock,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        Ok(Self {
            db: Database::open_sqlite_as_it_is(state, check).await?,
            location: state.path().into(),
            lock,
        })
    }

    pub(super) async fn on_server(
        server: &Server,
        directory: &Path,
        lock: Lock,
    ) -> Result<Self, Error> {
        // With it, the lease of a dead process before this one is free at once.
        let file = lock.metadata(directory)?;
        Ok(Self {
            db: Database::open_postgres_as_it_is(server, &file).await?,
            location: LedgerLocation::on(server.clone(), directory),
            lock,
        })
    }

    /// # Errors
    /// Its tables are not those of this version.
    pub(super) async fn check_version(&self) -> Result<(), Error> {
        match self.db.compare_version().await? {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(self.newer()),
            Ordering::Less if self.tables().await?.is_empty() => Err(self.missing()),
            Ordering::Less => Err(self.older()),
        }
    }

    pub(super) async fn close(self) {
        self.db.close().await;
        if self.location.server.is_none() {
            self.lock.mark_clean();
        }
    }

    pub(super) async fn tables(&self) -> Result<Vec<Table>, Error> {
        let read = self
            .db
            .read("list its tables", async |db| content::tables(db).await);
        read.await
    }

    /// Whether it has no content, in tables of any version.
    pub(super) async fn is_empty(&self) -> Result<bool, Error> {
        let tables = self.tables().await?;
        self.db
            .read("look for its content", async |db| {
                content::is_empty(db, &tables).await
            })
            .await
    }

    async fn id(&self) -> Result<Option<String>, Error> {
        let read = self.db.read("look up its id", async |db| {
            sql::query_scalar("SELECT id FROM identity LIMIT 1")
                .fetch_optional(db)
                .await
        });
        read.await
    }

    pub(super) fn newer(&self) -> Error {
        match &self.location.server {
            Some(server) => Error::ServerNewer {
                server: server.to_string(),
            },
            None => Error::Newer { path: self.path() },
        }
    }

    fn older(&self) -> Error {
        match &self.location.server {
            Some(server) => Error::ServerOlder {
                server: server.to_string(),
            },
            None => Error::Older { path: self.path() },
        }
    }

    fn missing(&self) -> Error {
        match &self.location.server {
            Some(server) => Error::ServerEmpty {
                server: server.to_string(),
            },
            None => Error::Missing { path: self.path() },
        }
    }

    fn path(&self) -> PathBuf {
        self.location.to_path_buf()
    }
}

/// Whether both are the same ledger at different times: what is in the target was in the source.
pub(super) async fn is_same(source: &Side, target: &Side) -> Result<bool, Error> {
    Ok(source.id().await? == target.id().await?)
}
