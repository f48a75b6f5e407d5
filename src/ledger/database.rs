//! The database engine of the ledger: only this module and the migrations know SQLite and PostgreSQL.
//!
//! Takes closures that run statements (`sql`), and returns what they return, or an [`Error`] that names the action. It
//! begins and commits transactions, and repeats one that the connection to a server was lost in: a closure changes
//! nothing but the database. It knows no table but those of the migrations.
//!
//! Transactions that write follow each other, in either engine: none sees what another changes meanwhile. One that
//! returned survives a kill of the process; one that was written durably survives a power cut as well.

mod attempts;
pub(super) mod content;
mod migrations;
mod postgres;
pub(super) mod sql;
mod sqlite;

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::Error;
use crate::lease::Lease;
use crate::ledger_location::Server;
use crate::state_directory::StateDirectory;
use attempts::Attempts;
pub use postgres::{ActiveHost, LedgerOutage};
pub(super) use postgres::{SERVER_TIME, SharedRequests, Turn};
use sql::{Executor, On};
pub(super) use sqlite::{ContentCheck, is_there, move_aside};

/// A reader waits this long for a daemon that is migrating the database.
const MIGRATION_WAIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// A copy waits this long for a server that is away, or that another process uses.
const COPY_PATIENCE: Duration = Duration::from_secs(10);

/// The database of a ledger. Cheap to clone.
#[derive(Clone)]
pub(super) enum Database {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

/// A connection to the database, for reading.
pub(super) enum Connection {
    Sqlite(sqlite::Connection),
    Postgres(postgres::Connection),
}

/// A transaction.
pub(super) enum Tx {
    Sqlite(sqlite::Tx),
    Postgres(postgres::Tx),
}

impl Executor for Connection {
    fn on(&mut self) -> On<'_> {
        match self {
            Self::Sqlite(connection) => On::Sqlite(connection),
            Self::Postgres(connection) => On::Postgres(connection),
        }
    }
}

impl Executor for Tx {
    fn on(&mut self) -> On<'_> {
        match self {
            Self::Sqlite(tx) => On::Sqlite(tx),
            Self::Postgres(tx) => On::Postgres(tx.connection()),
        }
    }
}

impl Tx {
    /// Whether several processes may use the database at a time.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// The first of `count` new ids of watches, connections or files that follow each other, all greater than all
    /// before them. They are small, because many rows name them.
    pub(super) async fn new_numbers(&mut self, count: u32) -> Result<i64, sqlx::Error> {
        let count = i64::from(count);
        let sql = "UPDATE last_number SET last = last + $1 RETURNING last";
        let last: i64 = sql::query_scalar(sql).bind(count).fetch_one(self).await?;
        Ok(last - count + 1)
    }

    /// A new id of a row of history, greater than all before it.
    pub(super) fn new_id(&mut self, now: Timestamp) -> i64 {
        self.new_ids(1, now)
    }

    /// The first of `count` new ids of rows of history that follow each other, all greater than all before them.
    pub(super) fn new_ids(&mut self, count: u32, now: Timestamp) -> i64 {
        match self {
            Self::Sqlite(_) => super::row::new_ids(count, now),
            Self::Postgres(tx) => tx.new_ids(count, now),
        }
    }
}

impl Database {
    /// Opens the SQLite database of a state directory for reading and writing. The caller has the directory's lock.
    pub(super) async fn open_sqlite(
        directory: &StateDirectory,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        Ok(Self::Sqlite(
            sqlite::Database::open(directory, check).await?,
        ))
    }

    /// Opens the SQLite database of a state directory for reading only.
    pub(super) async fn read_sqlite(directory: &StateDirectory) -> Result<Self, Error> {
        Ok(Self::Sqlite(
            sqlite::Database::open_reader(directory).await?,
        ))
    }

    /// Connects to a PostgreSQL database for reading and writing.
    pub(super) async fn open_postgres(
        server: &Server,
        lock: &std::fs::Metadata,
        turn: Turn,
    ) -> Result<Self, Error> {
        Ok(Self::Postgres(
            Box::pin(postgres::Database::open(server, lock, turn)).await?,
        ))
    }

    /// Connects to a PostgreSQL database for reading and writing beside the active process. None: not now.
    pub(super) async fn join_postgres(
        server: &Server,
        lock: &std::fs::Metadata,
    ) -> Result<Option<Self>, Error> {
        let joined = Box::pin(postgres::Database::join(server, lock)).await?;
        Ok(joined.map(Self::Postgres))
    }

    /// Whether several processes may use it at a time.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Reads why actions of this process wait for the database, without keeping it; None: they never do.
    pub(super) fn outage(&self) -> Option<impl Fn() -> Option<LedgerOutage> + Send + Sync + use<>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => Some(database.outage()),
        }
    }

    /// By what a job names this process; None: it is the only one, or the active one.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => database.node(),
        }
    }

    /// Rises when another process has written; None except on the active one of several.
    pub(super) fn others(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => database.others(),
        }
    }

    /// True when this process is asked to leave; None except beside the active one.
    pub(super) fn dismissed(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => database.dismissed(),
        }
    }

    /// Opens the SQLite database of a state directory for a copy: its tables are those of any version, or there are
    /// none. The caller has the directory's lock.
    pub(super) async fn open_sqlite_as_it_is(
        directory: &StateDirectory,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        Ok(Self::Sqlite(
            sqlite::Database::open_as_it_is(directory, check).await?,
        ))
    }

    /// The same for a PostgreSQL database. Does not wait for ever, as nobody would see that.
    pub(super) async fn open_postgres_as_it_is(
        server: &Server,
        lock: &std::fs::Metadata,
    ) -> Result<Self, Error> {
        let opened = postgres::Database::open_alone(server, lock, COPY_PATIENCE);
        Ok(Self::Postgres(Box::pin(opened).await?))
    }

    /// How the version of the tables compares with that of this program; less if there are none.
    pub(super) async fn compare_version(&self) -> Result<Ordering, Error> {
        let compared = match self {
            Self::Sqlite(database) => database.compare_version().await,
            Self::Postgres(database) => database.compare_version().await,
        };
        compared.map_err(|error| self.error("read its version", error))
    }

    /// Creates or migrates the tables.
    pub(super) async fn migrate(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(database) => database.migrate().await,
            Self::Postgres(database) => database.migrate().await,
        }
    }

    /// The lease of this process; None for SQLite, and for a reader.
    pub(super) fn lease(&self) -> Option<Lease> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => database.lease(),
        }
    }

    /// The requests that all processes have in common; None: there is only one.
    pub(super) fn shared_requests(&self) -> Option<SharedRequests> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => Some(database.shared_requests()),
        }
    }

    /// Connects to a PostgreSQL database for reading only.
    pub(super) async fn read_postgres(server: &Server) -> Result<Self, Error> {
        Ok(Self::Postgres(
            Box::pin(postgres::Database::open_reader(server)).await?,
        ))
    }

    /// Connects to a PostgreSQL database for reading only, with the first statement. Its tables must be known to be
    /// those of this version.
    pub(super) fn read_postgres_later(server: &Server) -> Result<Self, Error> {
        Ok(Self::Postgres(postgres::Database::reader_later(server)?))
    }

    /// What a start would find wrong with a server. Changes nothing.
    pub(super) async fn check_postgres(server: &Server) -> Result<(), Error> {
        postgres::Database::check(server).await
    }

    /// Runs `work` in one transaction and commits it. An error of `work` rolls it back.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::of(self, action);
        loop {
            let mut tx = Box::pin(attempts.begin()).await?;
            match attempts.limit(work.clone()(&mut tx)).await {
                Ok(value) => {
                    if Box::pin(attempts.commit(tx)).await? {
                        return Ok(value);
                    }
                }
                Err(error) => Box::pin(attempts.roll_back(tx, error)).await?,
            }
        }
    }

    /// The same; afterwards this transaction, and everything before it, survives a power cut.
    pub(super) async fn write_durably<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, Error> {
        let value = self.write(action, work).await?;
        self.sync(action).await?;
        Ok(value)
    }

    /// Afterwards everything that was committed survives a power cut.
    pub(super) async fn sync(&self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::Sqlite(database) => database.sync(action).await,
            // Each commit has waited for the disk: a server may crash without this process, which continues from there.
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Runs `work`, which reads with one statement.
    pub(super) async fn read<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::of(self, action);
        loop {
            let mut connection = Box::pin(attempts.reader()).await?;
            match attempts.limit(work.clone()(&mut connection)).await {
                Ok(value) => {
                    attempts.done();
                    return Ok(value);
                }
                Err(error) => {
                    drop(connection);
                    Box::pin(attempts.wait_after(error)).await?;
                }
            }
        }
    }

    /// Runs `work`, whose statements all see the database at the same moment.
    pub(super) async fn read_at_once<T>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::of(self, action);
        loop {
            let mut tx = Box::pin(attempts.begin_reading()).await?;
            match attempts.limit(work.clone()(&mut tx)).await {
                Ok(value) => {
                    Box::pin(tx.roll_back()).await;
                    attempts.done();
                    return Ok(value);
                }
                Err(error) => Box::pin(attempts.roll_back(tx, error)).await?,
            }
        }
    }

    /// Runs `work` in one transaction of any length and commits it: once. An error of `work` rolls it back.
    pub(super) async fn write_once<T, E: From<Error>>(
        &self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |error| E::from(self.error(action, error));
        let mut tx = self.begin().await.map_err(failed)?;
        match work(&mut tx).await {
            Ok(value) => match tx.commit().await {
                Committed::Yes => Ok(value),
                Committed::No(error) => Err(failed(error)),
                Committed::Unknown(commit) => Err(failed(commit.into_error())),
            },
            Err(error) => {
                tx.roll_back().await;
                Err(error)
            }
        }
    }

    /// What statements within [`Self::write_once`] return. A server that takes longer than this has failed: the network
    /// may have lost the connection without a word.
    pub(super) async fn answer<T>(
        &self,
        action: &'static str,
        limit: Duration,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        let answer = match self {
            Self::Sqlite(_) => statements.await,
            Self::Postgres(_) => postgres::within(limit, statements).await,
        };
        answer.map_err(|error| self.error(action, error))
    }

    /// The error of an action, by what the caller can do about it.
    pub(super) fn error(&self, action: &'static str, error: sqlx::Error) -> Error {
        match self {
            Self::Sqlite(_) => sqlite::classify(action, error),
            Self::Postgres(database) => database.error(action, error),
        }
    }

    async fn begin(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Tx::Sqlite(database.begin().await?),
            Self::Postgres(database) => Tx::Postgres(Box::pin(database.begin()).await?),
        })
    }

    async fn begin_reading(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Tx::Sqlite(database.begin_reading().await?),
            Self::Postgres(database) => Tx::Postgres(Box::pin(database.begin_reading()).await?),
        })
    }

    async fn reader(&self) -> Result<Connection, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Connection::Sqlite(database.reader().await?),
            Self::Postgres(database) => Connection::Postgres(Box::pin(database.reader()).await?),
        })
    }

    /// Returns once the database accepts changes, and changes nothing.
    pub(super) async fn check_writable(&self, action: &'static str) -> Result<(), Error> {
        match self {
            Self::Sqlite(database) => database.check_writable(action).await,
            Self::Postgres(_) => self.write(action, async |_| Ok(())).await,
        }
    }

    /// Closes the connections.
    pub(super) async fn close(self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close().await,
        }
    }
}

/// What became of a commit.
enum Committed {
    Yes,
    No(sqlx::Error),
    /// The answer was lost.
    Unknown(postgres::Unanswered),
}

impl Tx {
    async fn commit(self) -> Committed {
        match self {
            Self::Sqlite(tx) => match tx.commit().await {
                Ok(()) => Committed::Yes,
                Err(error) => Committed::No(error),
            },
            Self::Postgres(tx) => Box::pin(tx.commit()).await,
        }
    }

    /// Undoes it. Should that fail, the connection is closed, which undoes it as well.
    async fn roll_back(self) {
        match self {
            Self::Sqlite(tx) => tx.rollback().await,
            Self::Postgres(tx) => Box::pin(tx.roll_back()).await,
        }
    }
}

/// Whether a row has a value that this program never writes.
fn is_undecodable(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
    )
}

#[cfg(test)]
impl Database {
    /// A connection for statements of a test.
    pub(super) async fn connection(&self) -> Connection {
        match self {
            Self::Sqlite(database) => Connection::Sqlite(database.writer_connection().await),
            Self::Postgres(database) => Connection::Postgres(database.reader().await.unwrap()),
        }
    }
}
