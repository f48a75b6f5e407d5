//! The durable state of the service, and the only place where its stages meet.
//!
//! In comes what each stage found out: *watch* hands over files that are finished, *upload* the checkpoints of
//! an upload, *synchronizer* what a run made of the files. Out goes work: jobs to claim, batches to run, rows to show.
//! Every public function is one transaction, so a process that is killed anywhere leaves a state that the next
//! start can go on from. The ledger never calls another room and never lets an SQL type out.
//!
//! It is one SQLite file in WAL mode. A transaction that returned survives the end of the process; whoever is about to
//! do something outside that the ledger must know of waits for the disk first, so that it survives a power cut too
//! (`durable`).
//! One connection writes, others read beside it. A lock file beside it keeps a second daemon out; the lock goes with the process that holds it.
//! The SQL is plain enough for Postgres: ids come from the program, times are milliseconds since the epoch.

#![allow(
    clippy::missing_errors_doc,
    reason = "whatever it is about, it fails when the database does"
)]

mod absence;
mod clock;
mod connections;
mod durable;
mod files;
mod health;
mod history;
mod host_backoffs;
mod mappings;
mod report;
mod requeue;
mod retention;
mod runs;
mod scan_digests;
mod state;
mod uploads;
mod watches;

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::OFlags;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};

use crate::filesystem;
use crate::state_directory::{self, StateDirectory};
use durable::Log;

pub use absence::Absent;
pub use connections::{Backlog, ConnectionId, ConnectionRecord, ImodelRecord};
pub use files::{Fingerprint, HandedOver, Known, Occupant, Ready};
pub use health::Standing;
pub use history::{Story, StoryLine};
pub use mappings::{ConnectionFile, Mapping, OpenJob, StorageStamp, StoredState};
pub use report::{
    Counts, FileReport, Lists, Overview, Problem, ResultReport, RunEntry, RunSummary, Snapshot,
    Summary, WatchReport,
};
pub use requeue::Requeue;
pub use runs::{BlockingRun, FileOutcome, Issues, OpenRun, RunId, RunReport, Verdict};
pub use scan_digests::{Changes, ListingPart};
pub use state::{Absence, FailureKind, JobState, Outcome, RootState, Stage};
pub use uploads::{Again, Content, Refusal, StoredContent, UploadJob, UploadResult};
pub use watches::{BulkChange, FileId, WatchId, WatchSpec};

/// The oldest SQLite that is safe here: older ones can corrupt a database in WAL mode when two connections
/// checkpoint at once.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);

/// Every shape that the ledger has had, one after the other.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/ledger/migrations");

/// A reader waits this long for a daemon that is changing the shape.
const UPGRADE: Duration = Duration::from_secs(10);

/// A start waits this long for the lock: a command that works without the daemon holds it for a moment.
const LOCK: Duration = Duration::from_secs(5);

/// The file that is locked.
const LOCK_FILE: &str = "lock";

/// The database, and the files that SQLite has beside it.
const DATABASE: &str = "ledger.db";
const DATABASE_FILES: [&str; 4] = [
    "ledger.db",
    "ledger.db-wal",
    "ledger.db-shm",
    "ledger.db-journal",
];

/// The ledger of one state directory. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub struct Ledger {
    /// The one that writes.
    pool: SqlitePool,
    /// Those that only read: nobody who looks something up waits for a transaction.
    reads: SqlitePool,
    log: Log,
    /// The exclusive lock on the state directory. None for a reader.
    lock: Option<Arc<File>>,
    /// Where a damaged ledger went, and what was wrong with it.
    moved_aside: Option<(PathBuf, String)>,
    /// How often files were forgotten: what storage holds of them belongs to nobody any more.
    forgotten: Arc<AtomicU64>,
}

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process works on this state directory.
    #[error("another itwin-syncd{} already works on {path:?}", pid.as_ref().map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The process id that the other one wrote into the lock file, when it can be read.
        pid: Option<String>,
    },
    /// There is no ledger to read yet.
    #[error("there is no ledger in {path:?} yet")]
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
    #[error("{path:?} is on a network file system, where the ledger would not be safe")]
    Network {
        /// The state directory.
        path: PathBuf,
    },
    /// What the database holds is damaged.
    #[error("the ledger is damaged: {what}")]
    Damaged {
        /// The database's words.
        what: String,
    },
    /// A newer itwin-syncd wrote this ledger.
    #[error("the ledger in {path:?} was written by a newer itwin-syncd")]
    Newer {
        /// The state directory.
        path: PathBuf,
    },
    /// An older itwin-syncd wrote this ledger, and no newer one has worked on it yet.
    #[error("the ledger in {path:?} was written by an older itwin-syncd")]
    Older {
        /// The state directory.
        path: PathBuf,
    },
    /// The program was linked with an SQLite that must not be used.
    #[error("SQLite {found} is too old for a safe ledger, 3.51.3 or newer is needed")]
    OldSqlite {
        /// The version in use.
        found: String,
    },
    /// The database refused or failed.
    #[error("the ledger could not {action}")]
    Database {
        /// What was being done, as the rest of "could not …".
        action: &'static str,
        /// The database's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What the reader can do about it, when there is something specific.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if self.is_damage() {
            return Some(
                "start the daemon: it moves a damaged ledger aside and rebuilds it".to_owned(),
            );
        }
        match self {
            Self::InUse { .. } => {
                Some("stop the other one, or give this one a state.path of its own".to_owned())
            }
            Self::Missing { .. } => {
                Some("it is made by the first `itwin-syncd run`; check state.path".to_owned())
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some(MAKE_ROOM.to_owned())
            }
            Self::Io { path, .. } => Some(format!(
                "let the service's user write {}, in a directory of its own",
                path.display()
            )),
            Self::Directory(error) => Some(error.hint()),
            Self::Network { .. } => Some("put state.path on a local disk".to_owned()),
            Self::Newer { .. } => {
                Some("install that version again, or restore the ledger from before it".to_owned())
            }
            Self::Older { .. } => Some(
                "start the daemon of this version again: it brings the ledger up to date"
                    .to_owned(),
            ),
            Self::OldSqlite { .. } => {
                Some("build with the bundled SQLite of Cargo.lock".to_owned())
            }
            Self::Damaged { .. } => None,
            Self::Database { source, .. } => {
                (sqlite_code(source.as_ref()) == Some(SQLITE_FULL)).then(|| MAKE_ROOM.to_owned())
            }
        }
    }

    /// Whether the database is damaged, or no database at all.
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Database { source, .. } => {
                let code = sqlite_code(source.as_ref());
                code.is_some_and(|code| [SQLITE_CORRUPT, SQLITE_NOTADB].contains(&code))
                    || is_nonsense(source.as_ref())
            }
            _ => false,
        }
    }
}

const MAKE_ROOM: &str = "make room on the disk of state.path";

/// Result codes of SQLite: sqlite.org/rescode.html
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

/// The primary result code in an error of the database.
fn sqlite_code(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
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

/// Whether a row holds what this program never writes.
fn is_nonsense(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
    )
}

impl From<state_directory::Error> for Error {
    fn from(error: state_directory::Error) -> Self {
        match error {
            state_directory::Error::Io { path, source } => Self::Io { path, source },
            error => Self::Directory(error),
        }
    }
}

/// Moves a damaged ledger out of the way; it may still be of use to a person.
fn move_aside(directory: &StateDirectory, now: Timestamp) -> Result<PathBuf, Error> {
    let folder = format!("damaged-{}", now.as_second());
    Ok(directory.move_into(&folder, &DATABASE_FILES)?)
}

/// Names what a database call was for, so that its error says more than the database knows.
trait During<T> {
    fn during(self, action: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, action: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Database {
            action,
            source: Box::new(source),
        })
    }
}

impl Ledger {
    /// Opens the ledger in `dir` for the one daemon that may write it, making directory and tables as needed. Waits a
    /// moment for a command that has the ledger.
    ///
    /// Uploads that the last process had in hand are due again afterwards, at the stage they had reached.
    ///
    /// # Errors
    /// [`Error::InUse`] when another daemon holds the directory, [`Error::Newer`] for a ledger of a later
    /// version, [`Error::Directory`] when the directory cannot be trusted, [`Error::Io`] and [`Error::Database`] for the rest.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_within(dir, LOCK).await
    }

    /// The same, waiting for the lock no longer than `patience`.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_within(dir: &Path, patience: Duration) -> Result<Self, Error> {
        StateDirectory::make(dir)?;
        if filesystem::is_network(dir).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })? {
            return Err(Error::Network {
                path: dir.to_owned(),
            });
        }
        let directory = StateDirectory::open(dir)?;
        let (lock, left) = wait_for_lock(dir, &directory, patience).await?;
        let lock = Arc::new(lock);
        let opened = match left {
            Left::Damaged(what) => Err(Error::Damaged { what }),
            Left::Unfinished => Self::open_locked(&directory, &lock, false).await,
            Left::Closed => Self::open_locked(&directory, &lock, true).await,
        };
        match opened {
            Err(error) if error.is_damage() => {
                let moved = move_aside(&directory, crate::clock::now())?;
                let mut ledger = Self::open_locked(&directory, &lock, true).await?;
                ledger.moved_aside = Some((moved, error.to_string()));
                Ok(ledger)
            }
            opened => opened,
        }
    }

    /// After an error: leaves word for the next start when the ledger is damaged in a way that its check cannot see.
    pub fn condemn(&self, error: &Error) {
        if !error.is_damage() {
            return;
        }
        let Some(lock) = &self.lock else { return };
        let mut file = lock.as_ref();
        let written = lock
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{DAMAGED}{error}"));
        if let Err(error) = written {
            tracing::warn!(%error, "the lock file could not be written");
        }
    }

    /// `clean`: the last process closed it, so that it needs no check.
    async fn open_locked(
        directory: &StateDirectory,
        lock: &Arc<File>,
        clean: bool,
    ) -> Result<Self, Error> {
        let database = checked_database(directory)?;
        if !directory.check_file(DATABASE)? {
            // With the rights that SQLite then gives to the files beside it.
            directory.file(DATABASE, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The wait for the disk is in `durable`, together with others.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30));
        let ledger = Self {
            pool: connect(options).await?,
            reads: readers(&database),
            log: Log::of(directory.clone()),
            lock: Some(Arc::clone(lock)),
            moved_aside: None,
            forgotten: Arc::default(),
        };
        ledger.check_sqlite().await?;
        if !clean {
            ledger.check_content().await?;
        }
        match MIGRATIONS.run(&ledger.pool).await {
            Ok(()) => {}
            Err(
                sqlx::migrate::MigrateError::VersionMissing(_)
                | sqlx::migrate::MigrateError::VersionTooNew(..),
            ) => {
                return Err(Error::Newer {
                    path: directory.path().to_owned(),
                });
            }
            Err(source) => {
                return Err(Error::Database {
                    action: "be brought to this version",
                    source: Box::new(source),
                });
            }
        }
        ledger.resume_ids().await?;
        ledger.release_claims().await?;
        Ok(ledger)
    }

    /// Opens the ledger in `dir` for reading only, beside a running daemon or without one.
    ///
    /// # Errors
    /// [`Error::Missing`] when no daemon has run yet, [`Error::Database`] for the rest.
    pub async fn read(dir: &Path) -> Result<Self, Error> {
        let missing = || Error::Missing {
            path: dir.to_owned(),
        };
        let directory = match StateDirectory::open(dir) {
            Err(state_directory::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Err(missing());
            }
            directory => directory?,
        };
        let file = checked_database(&directory)?;
        if !directory.check_file(DATABASE)? {
            return Err(missing());
        }
        let pool = readers(&file);
        // A daemon that starts may be about to make the tables, or to bring them to this version.
        let deadline = Instant::now() + UPGRADE;
        loop {
            let made: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = 'jobs'")
                    .fetch_one(&pool)
                    .await
                    .during("look for its tables")?;
            if made == 0 {
                return Err(missing());
            }
            let applied: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                    .fetch_one(&pool)
                    .await
                    .during("tell its version")?;
            if bytes_value(applied) >= MIGRATIONS.iter().count() as u64 {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::Older {
                    path: dir.to_owned(),
                });
            }
            tokio::time::sleep(UPGRADE / 100).await;
        }
        Ok(Self {
            reads: pool.clone(),
            pool,
            log: Log::of(directory),
            lock: None,
            moved_aside: None,
            forgotten: Arc::default(),
        })
    }

    /// Closes the database, which folds the write-ahead log back into the one file.
    pub async fn close(self) {
        // The last one to be closed folds the log.
        self.reads.close().await;
        self.pool.close().await;
        // The next start knows by the empty lock file that nothing has to be checked.
        if let Some(lock) = &self.lock
            && let Err(error) = lock.set_len(0)
        {
            tracing::debug!(%error, "the lock file could not be emptied");
        }
    }

    /// Ends a transaction; afterwards it, and everything before it, survives a power cut.
    async fn commit(&self, tx: Transaction<'_, Sqlite>, action: &'static str) -> Result<(), Error> {
        tx.commit().await.during(action)?;
        self.durable(action).await
    }

    /// Waits until everything that was written before survives a power cut.
    async fn durable(&self, action: &'static str) -> Result<(), Error> {
        self.log.sync().await.map_err(|source| Error::Database {
            action,
            source: Box::new(source),
        })
    }

    /// Where a damaged ledger was moved to when this one was opened, and what was wrong with it.
    #[must_use]
    pub fn moved_aside(&self) -> Option<&(PathBuf, String)> {
        self.moved_aside.as_ref()
    }

    /// After an end that was not in order.
    async fn check_content(&self) -> Result<(), Error> {
        let told: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await
            .during("check its content")?;
        if told == "ok" {
            Ok(())
        } else {
            Err(Error::Damaged { what: told })
        }
    }

    /// New ids come after all that are there, even when the clock was set back: readers go by their order.
    async fn resume_ids(&self) -> Result<(), Error> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(id) FROM (SELECT MAX(id) AS id FROM results UNION ALL SELECT MAX(id) FROM steps \
             UNION ALL SELECT MAX(id) FROM runs UNION ALL SELECT MAX(id) FROM files \
             UNION ALL SELECT MAX(id) FROM watches UNION ALL SELECT MAX(id) FROM connections) AS last",
        )
        .fetch_one(&self.pool)
        .await
        .during("look for its last id")?;
        LAST_ID.fetch_max(last.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    async fn check_sqlite(&self) -> Result<(), Error> {
        let found: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&self.pool)
            .await
            .during("say which SQLite it is")?;
        let mut parts = found.split('.').map_while(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().unwrap_or(0);
        if (next(), next(), next()) < SQLITE_MIN {
            return Err(Error::OldSqlite { found });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, Error> {
    pool(1).connect_with(options).await.during("be opened")
}

/// Connections that read, each opened when it is needed first.
fn readers(database: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .busy_timeout(Duration::from_secs(5));
    // A report may take its time; the stages go on meanwhile.
    pool(2).connect_lazy_with(options)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(60))
}

/// Begins the lock file of a process that ended because the ledger is damaged.
const DAMAGED: &str = "damaged: ";

/// How the last process left the ledger.
#[derive(Debug)]
enum Left {
    /// It emptied the lock file, as one does that ends in order.
    Closed,
    /// Its id is still there.
    Unfinished,
    /// It found it damaged.
    Damaged(String),
}

/// The path of the database, for SQLite, which opens its files by their paths: none of them is a link.
fn checked_database(directory: &StateDirectory) -> Result<PathBuf, Error> {
    for name in DATABASE_FILES {
        directory.check_file(name)?;
    }
    Ok(directory.path_of(DATABASE))
}

/// Takes the lock as soon as it is free.
async fn wait_for_lock(
    dir: &Path,
    directory: &StateDirectory,
    patience: Duration,
) -> Result<(File, Left), Error> {
    let deadline = Instant::now() + patience;
    let mut waiting = false;
    loop {
        match lock(dir, directory) {
            Err(Error::InUse { pid, .. }) if Instant::now() < deadline => {
                if !waiting {
                    tracing::info!(
                        process = pid.unwrap_or_default(),
                        seconds = patience.as_secs_f64(),
                        "another itwin-syncd uses the state directory; waiting for it"
                    );
                }
                waiting = true;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            locked => return locked,
        }
    }
}

/// Takes the exclusive lock of the state directory and leaves our process id in it for the one who comes second.
fn lock(dir: &Path, directory: &StateDirectory) -> Result<(File, Left), Error> {
    let path = directory.path_of(LOCK_FILE);
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    let mut file = directory.file(LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .is_ok()
                .then(|| text.trim().to_owned());
            return Err(Error::InUse {
                path: dir.to_owned(),
                pid: pid.filter(|p| !p.is_empty()),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(io)?;
    let left = match text.strip_prefix(DAMAGED.as_bytes()) {
        Some(what) => Left::Damaged(String::from_utf8_lossy(what).into_owned()),
        None if text.is_empty() => Left::Closed,
        None => Left::Unfinished,
    };
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok((file, left))
}

/// The id that was given out last.
static LAST_ID: AtomicI64 = AtomicI64::new(0);

/// A new row id: milliseconds in the upper bits, so that rows lie in the order they came, and a count below.
fn new_id(now: Timestamp) -> i64 {
    let floor = now.as_millisecond() << 20;
    let last = LAST_ID.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(floor.max(last + 1))
    });
    // The closure always answers Some, so both arms hold the value before the update.
    let (Ok(last) | Err(last)) = last;
    floor.max(last + 1)
}

fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn bytes_column(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn bytes_value(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// Counts every file, and compares with the kept counts.
#[cfg(test)]
async fn assert_counts_are_right(pool: &SqlitePool) {
    type Row = (i64, String, String, i64, i64, i64, i64);
    let kept: Vec<Row> = sqlx::query_as(
        "SELECT watch_id, job, outcome, absent, vanished, reported, files FROM counts WHERE files <> 0 ORDER BY 1, 2, 3, 4, 5, 6",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let counted: Vec<Row> = sqlx::query_as(
        "SELECT f.watch_id, COALESCE(j.state, ''), COALESCE(f.outcome, ''), COALESCE(f.absence, 'missing') <> 'missing', f.size < 0, \
         j.reported IS NOT NULL, COUNT(*) FROM files f LEFT JOIN jobs j ON j.file_id = f.id \
         GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(kept, counted, "kept counts and counted ones");
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
