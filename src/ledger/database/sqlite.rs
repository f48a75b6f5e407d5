//! The ledger in SQLite, a file of the state directory.
//!
//! Opens, checks and migrates it, begins transactions, waits for the disk where the caller asks for it (`durable`), and
//! classifies SQLite's errors.
//!
//! One connection writes and two read beside it, in WAL mode: no report waits for a transaction. A transaction that
//! returned survives a kill of the process; one that was written durably survives a power cut as well.

mod connections;
mod durable;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::OFlags;
use sqlx::ConnectOptions as _;
#[cfg(test)]
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::migrations::OF_SQLITE as MIGRATIONS;
use super::{Error, MIGRATION_WAIT, is_undecodable};
use crate::state_directory::StateDirectory;
use connections::Connections;
pub(in crate::ledger) use connections::{Connection, Tx};
use durable::Log;

/// The database of one state directory. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub(in crate::ledger) struct Database {
    /// One connection, so that transactions never conflict.
    writer: Connections,
    /// Connections that only read: a long report uses one, the stages use the other.
    readers: Connections,
    log: Log,
    /// Another connection that writes, for statements of tests.
    #[cfg(test)]
    pool: SqlitePool,
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
        let opened = Self::open_as_it_is(directory, check).await?;
        opened.migrate().await?;
        Ok(opened)
    }

    /// The same without a migration: its tables are those of any version, or there are none.
    pub(in crate::ledger) async fn open_as_it_is(
        directory: &StateDirectory,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        let database = checked_path(directory)?;
        if !directory.check_file(DATABASE)? {
            // SQLite gives the files beside it the same mode.
            directory.file(DATABASE, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        }
        let options = options(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // `durable` waits for the disk, for several transactions at once.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true);
        let opened = Self::of(
            Connections::new(1, options),
            readers(&database),
            Log::of(directory.clone()),
        );
        let opening = opened.writer.acquire().await;
        drop(opening.map_err(|error| classify("open", error))?);
        opened.check_version().await?;
        if check == ContentCheck::Full {
            opened.check_content().await?;
        }
        Ok(opened)
    }

    /// Creates or migrates the tables.
    pub(in crate::ledger) async fn migrate(&self) -> Result<(), Error> {
        // sqlx migrates through a pool: with a connection as it is, the future would not be `Send`.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(self.writer.options().clone());
        let migrated = MIGRATIONS.run(&pool).await;
        pool.close().await;
        match migrated {
            Ok(()) => Ok(()),
            Err(
                sqlx::migrate::MigrateError::VersionMissing(_)
                | sqlx::migrate::MigrateError::VersionTooNew(..),
            ) => Err(Error::Newer {
                path: self.log.directory().to_owned(),
            }),
            Err(error) => Err(classify("migrate to this version", error)),
        }
    }

    /// How the version of the tables compares with that of this program.
    pub(in crate::ledger) async fn compare_version(&self) -> Result<Ordering, sqlx::Error> {
        let mut writer = self.writer.acquire().await?;
        let tables: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'",
        )
        .fetch_one(&mut *writer)
        .await?;
        if tables == 0 {
            return Ok(Ordering::Less);
        }
        let applied: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                .fetch_one(&mut *writer)
                .await?;
        let applied = usize::try_from(applied).unwrap_or(0);
        Ok(applied.cmp(&MIGRATIONS.iter().count()))
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
        let readers = readers(&file);
        // A daemon that starts may be about to create the tables, or to migrate them.
        let deadline = Instant::now() + MIGRATION_WAIT;
        loop {
            let reader = readers.acquire().await;
            let mut reader = reader.map_err(|error| classify("look for its tables", error))?;
            let tables: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = 'jobs'")
                    .fetch_one(&mut *reader)
                    .await
                    .map_err(|error| classify("look for its tables", error))?;
            if tables == 0 {
                return Err(missing());
            }
            let applied: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                    .fetch_one(&mut *reader)
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
        // What writes fails: the connections are for reading.
        let log = Log::of(directory.clone());
        Ok(Self::of(readers.clone(), readers, log))
    }

    fn of(writer: Connections, readers: Connections, log: Log) -> Self {
        Self {
            #[cfg(test)]
            pool: SqlitePool::connect_lazy_with(writer.options().clone()),
            writer,
            readers,
            log,
        }
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
            let mut tx = self.begin().await?;
            // Matches no row, but takes the lock.
            sqlx::query("UPDATE watches SET name = name WHERE id IS NULL")
                .execute(&mut *tx)
                .await?;
            tx.rollback().await;
            Ok(())
        };
        let checked: Result<(), sqlx::Error> = checked.await;
        checked.map_err(|error| classify(action, error))
    }

    /// Closes the database, which merges the write-ahead log into the one file.
    pub(in crate::ledger) async fn close(self) {
        // The last connection to be closed merges the log.
        #[cfg(test)]
        self.pool.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn check_content(&self) -> Result<(), Error> {
        let answer = self
            .ask("check its content", "PRAGMA quick_check(1)")
            .await?;
        if answer == "ok" {
            Ok(())
        } else {
            Err(Error::Damaged { what: answer })
        }
    }

    /// The text that a statement returns.
    async fn ask(&self, action: &'static str, sql: &'static str) -> Result<String, Error> {
        let asked = async {
            let mut writer = self.writer.acquire().await?;
            sqlx::query_scalar(sql).fetch_one(&mut *writer).await
        };
        asked.await.map_err(|error| classify(action, error))
    }

    async fn check_version(&self) -> Result<(), Error> {
        let action = "read the version of SQLite";
        let found = self.ask(action, "SELECT sqlite_version()").await?;
        let mut parts = found.split('.').map_while(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().unwrap_or(0);
        if (next(), next(), next()) < SQLITE_MIN {
            return Err(Error::OldSqlite { found });
        }
        Ok(())
    }
}

/// Whether there is a database in a state directory.
pub(in crate::ledger) fn is_there(directory: &StateDirectory) -> Result<bool, Error> {
    Ok(directory.check_file(DATABASE)?)
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

/// Connections that read.
fn readers(database: &Path) -> Connections {
    Connections::new(2, options(database).read_only(true))
}

/// The options that all connections share.
fn options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        // Also while a daemon that starts or ends has the file for itself.
        .busy_timeout(Duration::from_secs(30))
        // In KiB. SQLite's default is 2,000, but the kernel caches the file as well.
        .pragma("cache_size", "-500")
        .disable_statement_logging()
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
    /// A connection that writes, for statements of a test.
    pub(in crate::ledger) fn writer(&self) -> &SqlitePool {
        &self.pool
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
        let opened = Self::of(
            Connections::new(1, options),
            readers(&file),
            Log::of(directory),
        );
        drop(opened.writer.acquire().await.unwrap());
        opened
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
