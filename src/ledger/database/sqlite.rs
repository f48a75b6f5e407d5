//! The ledger in SQLite, a file of the state directory.
//!
//! Opens, checks and migrates it, begins transactions, waits for the disk where the caller asks for it (`durable`), and
//! classifies SQLite's errors.
//!
//! One connection writes and two read beside it, in WAL mode: no report waits for a transaction. A transaction that
//! returned survives a kill of the process; one that was written durably survives a power cut as well.

mod durable;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::OFlags;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Sqlite, Transaction};

use super::migrations::OF_SQLITE as MIGRATIONS;
use super::{Error, MIGRATION_WAIT, is_undecodable};
use crate::state_directory::StateDirectory;
use durable::Log;

/// A connection to the database.
pub(in crate::ledger) type Connection = PoolConnection<Sqlite>;

/// A transaction.
pub(in crate::ledger) type Tx = Transaction<'static, Sqlite>;

/// The database of one state directory. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub(in crate::ledger) struct Database {
    /// One connection, so that transactions never conflict.
    writer: SqlitePool,
    /// Connections that only read.
    readers: SqlitePool,
    log: Log,
}

/// Whether the content is checked when the database is opened. That reads all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) enum ContentCheck {
    /// The previous process did not close it.
    Full,
    /// The previous process closed it.
    Skip,
}

/// The oldest SQLite that is safe here: older ones can corrupt a database in WAL mode when two connections
/// checkpoint at once.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);

/// The database, and the files that SQLite keeps beside it.
const DATABASE: &str = "ledger.db";
const DATABASE_FILES: [&str; 4] = [
    "ledger.db",
    "ledger.db-wal",
    "ledger.db-shm",
    "ledger.db-journal",
];

impl Database {
    /// Opens the database for reading and writing, creating or migrating it as needed. The caller has the lock.
    ///
    /// # Errors
    /// [`Error::Newer`] when a later version has migrated it, [`Error::Damaged`] when the check finds damage.
    pub(in crate::ledger) async fn open(
        directory: &StateDirectory,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        let database = checked_path(directory)?;
        if !directory.check_file(DATABASE)? {
            // SQLite gives the files beside it the same mode.
            directory.file(DATABASE, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // `durable` waits for the disk, for several transactions at once.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30))
            .disable_statement_logging();
        let opened = Self {
            writer: connect(options).await?,
            readers: readers(&database),
            log: Log::of(directory.clone()),
        };
        opened.check_version().await?;
        if check == ContentCheck::Full {
            opened.check_content().await?;
        }
        match MIGRATIONS.run(&opened.writer).await {
            Ok(()) => Ok(opened),
            Err(
                sqlx::migrate::MigrateError::VersionMissing(_)
                | sqlx::migrate::MigrateError::VersionTooNew(..),
            ) => Err(Error::Newer {
                path: directory.path().to_owned(),
            }),
            Err(error) => Err(classify("migrate to this version", error)),
        }
    }

    /// Opens the database for reading only, beside a running daemon or without one.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no database, [`Error::Older`] when no daemon of this version has migrated it.
    pub(in crate::ledger) async fn open_reader(directory: &StateDirectory) -> Result<Self, Error> {
        let missing = || Error::Missing {
            path: directory.path().to_owned(),
        };
        let file = checked_path(directory)?;
        if !directory.check_file(DATABASE)? {
            return Err(missing());
        }
        directory.check_readable(DATABASE)?;
        let pool = readers(&file);
        // A daemon that starts may be about to create the tables, or to migrate them.
        let deadline = Instant::now() + MIGRATION_WAIT;
        loop {
            let tables: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = 'jobs'")
                    .fetch_one(&pool)
                    .await
                    .map_err(|error| classify("look for its tables", error))?;
            if tables == 0 {
                return Err(missing());
            }
            let applied: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                    .fetch_one(&pool)
                    .await
                    .map_err(|error| classify("read its version", error))?;
            if usize::try_from(applied).unwrap_or(0) >= MIGRATIONS.iter().count() {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::Older {
                    path: directory.path().to_owned(),
                });
            }
            tokio::time::sleep(MIGRATION_WAIT / 100).await;
        }
        Ok(Self {
            writer: pool.clone(),
            readers: pool,
            log: Log::of(directory.clone()),
        })
    }

    /// Begins a transaction that writes, after all others.
    pub(in crate::ledger) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.writer.begin().await
    }

    /// Begins a transaction that reads.
    pub(in crate::ledger) async fn begin_reading(&self) -> Result<Tx, sqlx::Error> {
        self.readers.begin().await
    }

    /// A connection that reads.
    pub(in crate::ledger) async fn reader(&self) -> Result<Connection, sqlx::Error> {
        self.readers.acquire().await
    }

    /// Waits until everything that was committed survives a power cut.
    pub(in crate::ledger) async fn sync(&self, action: &'static str) -> Result<(), Error> {
        self.log.sync().await.map_err(|source| Error::Database {
            action,
            source: Box::new(source),
        })
    }

    /// Returns once the database accepts changes: takes the writer's lock, and changes nothing.
    pub(in crate::ledger) async fn check_writable(
        &self,
        action: &'static str,
    ) -> Result<(), Error> {
        let checked = async {
            let mut tx = self.writer.begin().await?;
            // Matches no row, but takes the lock.
            sqlx::query("UPDATE watches SET name = name WHERE id IS NULL")
                .execute(&mut *tx)
                .await?;
            tx.rollback().await
        };
        checked.await.map_err(|error| classify(action, error))
    }

    /// Closes the database, which merges the write-ahead log into the one file.
    pub(in crate::ledger) async fn close(self) {
        // The last connection to be closed merges the log.
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn check_content(&self) -> Result<(), Error> {
        let answer: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.writer)
            .await
            .map_err(|error| classify("check its content", error))?;
        if answer == "ok" {
            Ok(())
        } else {
            Err(Error::Damaged { what: answer })
        }
    }

    async fn check_version(&self) -> Result<(), Error> {
        let found: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&self.writer)
            .await
            .map_err(|error| classify("read the version of SQLite", error))?;
        let mut parts = found.split('.').map_while(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().unwrap_or(0);
        if (next(), next(), next()) < SQLITE_MIN {
            return Err(Error::OldSqlite { found });
        }
        Ok(())
    }
}

/// Moves a damaged database into a folder beside it, where it is kept for an examination.
pub(in crate::ledger) fn move_aside(
    directory: &StateDirectory,
    now: Timestamp,
) -> Result<PathBuf, Error> {
    let folder = format!("damaged-{}", now.as_second());
    Ok(directory.move_into(&folder, &DATABASE_FILES)?)
}

/// The path of the database, for SQLite, which opens its files by their paths: none of them is a link.
fn checked_path(directory: &StateDirectory) -> Result<PathBuf, Error> {
    for name in DATABASE_FILES {
        directory.check_file(name)?;
    }
    Ok(directory.path_of(DATABASE))
}

async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, Error> {
    pool(1)
        .connect_with(options)
        .await
        .map_err(|error| classify("open", error))
}

/// Connections that read, each opened when it is first needed.
fn readers(database: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        // Also while a daemon that starts or ends has the file for itself.
        .busy_timeout(Duration::from_secs(30))
        .disable_statement_logging();
    // A long report uses one; the stages use the other.
    pool(2).connect_lazy_with(options)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(60))
}

/// Result codes of SQLite: sqlite.org/rescode.html
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

/// The error of an action, by what the caller can do about it.
pub(in crate::ledger) fn classify(
    action: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let (code, undecodable) = (primary_code(&error), is_undecodable(&error));
    let source = Box::new(error);
    match code {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Error::Corrupt { action, source },
        Some(SQLITE_FULL) => Error::DiskFull { action, source },
        _ if undecodable => Error::Corrupt { action, source },
        _ => Error::Database { action, source },
    }
}

/// The primary result code in an error of SQLite; the upper bits are an extended code.
fn primary_code(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(sqlx::Error::Database(database)) = error.downcast_ref() {
            let code: i32 = database.code()?.parse().ok()?;
            return Some(code & 0xFF);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
impl Database {
    /// The connection that writes, for statements of a test.
    pub(in crate::ledger) fn writer(&self) -> &SqlitePool {
        &self.writer
    }

    /// The same, for statements of the ledger.
    pub(in crate::ledger) async fn writer_connection(&self) -> Connection {
        self.writer.acquire().await.unwrap()
    }

    /// Opens a copy of a database as it is, without checks and without waiting for the disk.
    pub(in crate::ledger) async fn open_unchecked(directory: StateDirectory) -> Self {
        let file = directory.path_of(DATABASE);
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Off)
            .foreign_keys(false);
        Self {
            writer: connect(options).await.unwrap(),
            readers: readers(&file),
            log: Log::of(directory),
        }
    }

    /// The same database, with the write-ahead log of another directory.
    pub(in crate::ledger) fn with_log_of(&self, directory: StateDirectory) -> Self {
        Self {
            log: Log::of(directory),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod tests;
