//! The durable state of the service, and the only place where its stages hand work to each other.
//!
//! *watch* hands over finished files, *upload* writes the checkpoints of an upload, *synchronizer* what a run did with
//! the files. They claim jobs, collect batches for a run and read reports from it. Every public function is one
//! transaction, so a process that is killed anywhere leaves a state that the next start can continue from. The ledger
//! calls no other stage and returns no SQL type.
//!
//! In the order of a file's life: `known_files`, `hand_over`, `absence`; `claims`, `checkpoints`, `storage_places`,
//! `renames`, `transitions`, `failures`, `failure_groups`; `connections`, `connection_files`, `mappings`, `sets`,
//! `foreign_changes`;
//! `runs`, `references`, `spatial_roots`, `run_results`, `results`, `named_versions`; `withdrawals`, `restorations`.
//! For the operator: `watches`, `inactive`, `windows`, `bulk_change`, `deletion_guard`, `requeue`, `forget`. For
//! reports: `overview`, `watch_reports`, `file_reports`, `file_pages`, `activity`, `watch_places`,
//! `run_entries`, `run_progress`, `problems`, `health`, `history`, `hook_results`, `retention`. For another
//! engine: `copy`.
//!
//! One process at a time may write it (`lock`); on a server, others upload beside it (`nodes`). A transaction that
//! returned survives the end of the process; those that something outside depends on also survive a power cut
//! (`database`). The SQL is plain enough for PostgreSQL: ids come from the program, times are milliseconds since the
//! epoch. Only `database` knows the engine.

#![allow(
    clippy::missing_errors_doc,
    reason = "every function here fails when the database does"
)]

mod absence;
mod activity;
mod blocking_runs;
mod bulk_change;
mod checkpoints;
mod claims;
mod clock;
mod connection_files;
mod connections;
mod copy;
mod counterparts;
mod created_imodels;
mod database;
mod deletion_guard;
mod error;
mod failing_jobs;
mod failure_groups;
mod failure_pattern;
mod failures;
mod file_pages;
mod file_reports;
mod followers;
mod foreign_changes;
mod forget;
mod former_source_files;
mod hand_over;
mod health;
mod history;
mod hook_results;
mod host_backoffs;
mod identity;
mod ids;
mod inactive;
mod known_files;
mod lock;
mod mappings;
mod named_versions;
mod new_files;
mod nodes;
mod other_ledgers;
mod other_views;
mod overview;
mod problems;
mod references;
mod relocations;
mod removals;
mod renames;
mod requeue;
mod restorations;
mod results;
mod retention;
mod roots;
mod row;
mod run_entries;
mod run_progress;
mod run_results;
mod runs;
mod scan_digests;
mod seen_shares;
mod sets;
mod settings_faults;
mod shared_requests;
mod sign_in;
mod spatial_roots;
mod state;
mod storage_folders;
mod storage_places;
mod stored_job;
mod target_connections;
mod transitions;
mod watch_changes;
mod watch_followers;
mod watch_identity;
mod watch_places;
mod watch_reports;
mod watches;
mod windows;
mod withdrawals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::filesystem;
use crate::lease::Lease;
use crate::ledger_location::{LedgerLocation, Server};
use crate::state_directory::{self, StateDirectory};
use database::{ContentCheck, Database, Turn, Tx, sql};
use lock::{Lock, PreviousExit};
use row::{count_column, count_value, millis, timestamp};
use tokio::sync::watch;

pub use absence::Absent;
pub use activity::{Activity, Durations};
pub use blocking_runs::BlockingRun;
pub use bulk_change::{BulkChange, BulkChangeLimits};
pub use claims::{Content, StoredContent, UploadJob};
pub use connection_files::{ConnectionFile, OpenJob, StorageStamp, StoredState};
pub use connections::{Backlog, ConnectionRecord, Partial};
pub use copy::{CopiedTable, CopyDirection, CopyError, copy};
pub use created_imodels::CreatedImodel;
pub use database::content::TableDigest;
pub use database::{ActiveHost, LedgerOutage};
pub use deletion_guard::Deletions;
pub use error::Error;
pub use failure_groups::{FailureGroup, FailureGroups};
pub use failures::{Again, Refusal};
pub use file_pages::{FileFilter, FileList, FilePage, FilePosition, FoundFiles, InvalidPosition};
pub use file_reports::FileReport;
pub use followers::Following;
pub use former_source_files::{FormerImodel, FormerSourceFile};
pub use hand_over::{HandedOver, Ready};
pub use health::{Health, Summary};
pub use history::{FileHistory, HistoryEntry, HistoryEvent};
pub use hook_results::{CreatedVersion, HookResult};
pub(crate) use identity::{DEMO_HOST, host_name, id_of_place};
pub use ids::{ConnectionId, FileId, RunId, WatchId};
pub use inactive::Inactive;
pub use known_files::{Fingerprint, Known};
pub use mappings::{LastReader, Mapping};
pub use named_versions::{
    NamedVersionReport, Naming, NamingFailure, Unnamed, VersionFiles, VersionIntent,
};
pub use nodes::{NodeReport, RegisteredWatch};
pub use other_ledgers::{Contest, OtherLedger, Rival};
pub use other_views::Difference;
pub use overview::{Lists, Overview, Snapshot};
pub use problems::Problem;
pub use references::{Displaced, MappedElsewhere, Surplus, SurplusCause};
pub use removals::{Removal, Removed, StoragePlace, UsedConnection};
pub use renames::{Followed, Origin};
pub use requeue::Requeue;
pub use results::ResultReport;
pub use roots::RootIdentity;
pub use run_entries::RunEntry;
pub use run_progress::RunProgress;
pub use run_results::{FileOutcome, Issues, RunReport, Verdict};
pub use runs::OpenRun;
pub use scan_digests::{Changes, ListingPart};
pub use sets::{SetPart, WaitingSet};
pub use settings_faults::SettingsFault;
pub use sign_in::{OwnerNote, SignInWait};
pub use spatial_roots::SpatialRootWait;
pub use state::{
    Absence, BulkChangeKind, DeletionCause, FailureKind, JobState, OnDelete, Outcome, Relocation,
    RootState, RunEvent, SpatialRootEnd, SpatialRootState, Stage, Step, UploadResult, Withdrawal,
};
pub use storage_folders::{FolderHold, ImodelRecord};
pub use storage_places::Occupant;
pub use watch_changes::WatchChange;
pub use watch_identity::{Recognized, WatchIdentity, recognize};
pub use watch_places::WatchPlace;
pub use watch_reports::{
    Counts, DeletionReport, DeletionState, DeletionTrouble, RunSummary, WatchReport,
};
pub use watches::{PlannedWatch, PlannedWatches, Registered, WatchSpec, WithdrawalPolicy};
pub use windows::{WatchWindow, WindowWait};
pub use withdrawals::Withdrawn;

/// A start waits this long for the lock: a command that works without the daemon has it for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A start waits this long for the end of another daemon or command that uses the same server.
const SERVER_WAIT: Duration = Duration::from_secs(10);

/// The ledger of one state directory. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub struct Ledger {
    db: Database,
    /// None for a reader.
    lock: Option<Lock>,
    /// Where a damaged ledger went, and what was wrong with it.
    moved_aside: Option<(PathBuf, String)>,
    /// How often files were forgotten.
    forgotten: Arc<AtomicU64>,
}

impl Ledger {
    /// Opens a ledger for the one daemon that may write it, creating directory and tables as needed. Waits a moment for
    /// a command that uses the ledger.
    ///
    /// Uploads that the previous process had claimed are due again afterwards, at the stage they had reached.
    ///
    /// # Errors
    /// [`Error::InUse`] when another daemon has the directory, [`Error::Newer`] for a ledger of a later version,
    /// [`Error::Directory`] when the directory cannot be trusted, [`Error::Moved`] when the ledger continues elsewhere,
    /// [`Error::Io`] and [`Error::Database`] for the rest.
    pub async fn open(location: impl Into<LedgerLocation>) -> Result<Self, Error> {
        Self::open_within(location, LOCK_WAIT).await
    }

    /// The same, waiting for the lock no longer than `patience`.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_within(
        location: impl Into<LedgerLocation>,
        patience: Duration,
    ) -> Result<Self, Error> {
        Self::open_in_turn(location.into(), patience, Turn::Within(SERVER_WAIT)).await
    }

    /// As [`Ledger::open`]; while another host is active, waits and says in `active` which.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_when_free(
        location: impl Into<LedgerLocation>,
        active: watch::Sender<Option<ActiveHost>>,
    ) -> Result<Self, Error> {
        Self::open_in_turn(location.into(), LOCK_WAIT, Turn::Waiting(active)).await
    }

    async fn open_in_turn(
        location: LedgerLocation,
        patience: Duration,
        turn: Turn,
    ) -> Result<Self, Error> {
        let dir: &Path = &location;
        StateDirectory::make(dir)?;
        refuse_network(dir)?;
        let directory = StateDirectory::open(dir)?;
        let (lock, previous) = Lock::acquire(dir, &directory, patience).await?;
        if let Some(server) = &location.server {
            let file = lock.metadata(dir)?;
            let db = Database::open_postgres(server, &file, turn).await?;
            return Self::begin(db, lock, &location).await;
        }
        let opened = match previous {
            PreviousExit::FoundDamage(what) => Err(Error::Damaged { what }),
            PreviousExit::Killed => {
                Self::open_locked(&location, &directory, &lock, ContentCheck::Full).await
            }
            PreviousExit::Clean => {
                Self::open_locked(&location, &directory, &lock, ContentCheck::Skip).await
            }
        };
        match opened {
            Err(error) if error.is_damage() => {
                let moved = database::move_aside(&directory, crate::clock::now())?;
                let fresh = Self::open_locked(&location, &directory, &lock, ContentCheck::Skip);
                let mut ledger = fresh.await?;
                ledger.moved_aside = Some((moved, error.to_string()));
                Ok(ledger)
            }
            opened => opened,
        }
    }

    async fn open_locked(
        location: &LedgerLocation,
        directory: &StateDirectory,
        lock: &Lock,
        check: ContentCheck,
    ) -> Result<Self, Error> {
        let db = Database::open_sqlite(directory, check).await?;
        Self::begin(db, lock.clone(), location).await
    }

    async fn begin(db: Database, lock: Lock, location: &LedgerLocation) -> Result<Self, Error> {
        let ledger = Self {
            db,
            lock: Some(lock),
            moved_aside: None,
            forgotten: Arc::default(),
        };
        if let Err(error) = ledger.refuse_moved(location).await {
            // Its lease is given up as well.
            ledger.close().await;
            return Err(error);
        }
        if ledger.identify(location).await? {
            copy::mention_left_behind(location).await;
        }
        ledger.continue_ids().await?;
        ledger.release_claims().await?;
        ledger.group_earlier_failures().await?;
        Ok(ledger)
    }

    /// Opens a ledger on a server for the uploads of a process that is not the active one. None: not now. The process
    /// has the lock of the state directory.
    ///
    /// # Errors
    /// [`Error::Server`] when the server refuses it.
    pub async fn join(location: &LedgerLocation) -> Result<Option<Self>, Error> {
        let Some(server) = &location.server else {
            return Ok(None);
        };
        let file = lock::metadata(location)?;
        let joined = Database::join_postgres(server, &file).await?;
        Ok(joined.map(|db| Self {
            db,
            lock: None,
            moved_aside: None,
            forgotten: Arc::default(),
        }))
    }

    /// Opens a ledger for reading only, beside a running daemon or without one.
    ///
    /// # Errors
    /// [`Error::Missing`] when no daemon has run yet, [`Error::Older`] when none of this version has, [`Error::Moved`]
    /// when the ledger continues elsewhere, [`Error::Database`] for the rest.
    pub async fn read(location: impl Into<LedgerLocation>) -> Result<Self, Error> {
        let location = location.into();
        let db = match &location.server {
            Some(server) => Database::read_postgres(server).await?,
            None => Database::read_sqlite(&existing(&location)?).await?,
        };
        let ledger = Self {
            db,
            lock: None,
            moved_aside: None,
            forgotten: Arc::default(),
        };
        ledger.refuse_moved(&location).await?;
        Ok(ledger)
    }

    /// Another view for reading only, in a process that has this ledger open. A server that is away just now is no
    /// error: the first read connects.
    ///
    /// # Errors
    /// [`Error::Database`] when the file cannot be opened.
    pub(crate) async fn read_beside(location: &LedgerLocation) -> Result<Self, Error> {
        match &location.server {
            Some(server) => Ok(Self {
                db: Database::read_postgres_later(server)?,
                lock: None,
                moved_aside: None,
                forgotten: Arc::default(),
            }),
            None => Self::read(location).await,
        }
    }

    /// Whether a start could use this server. Changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check_server(server: &Server) -> Result<(), Error> {
        Database::check_postgres(server).await
    }

    /// Until when this host may act on the platform; None: it is the only one.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.db.lease()
    }

    /// Reads why this process waits for the database, if it does, without keeping the ledger; None: it never does.
    #[must_use]
    pub fn outage(&self) -> Option<impl Fn() -> Option<LedgerOutage> + Send + Sync + use<>> {
        self.db.outage()
    }

    /// Returns when this process may not write any more: another host has taken over.
    pub async fn taken_over(&self) -> Error {
        match self.lease() {
            Some(lease) => {
                lease.lost().await;
                Error::TakenOver
            }
            None => std::future::pending().await,
        }
    }

    /// After an error: if it is damage, the next start moves the ledger aside.
    pub fn mark_corrupt(&self, error: &Error) {
        if let Some(lock) = self.lock.as_ref().filter(|_| error.is_damage()) {
            lock.mark_damaged(error);
        }
    }

    /// Closes the database, so that the next start need not check it.
    pub async fn close(self) {
        self.db.close().await;
        if let Some(lock) = &self.lock {
            lock.mark_clean();
        }
    }

    /// Where a damaged ledger was moved to when this one was opened, and what was wrong with it.
    #[must_use]
    pub fn moved_aside(&self) -> Option<&(PathBuf, String)> {
        self.moved_aside.as_ref()
    }

    /// New ids are greater than all that are there.
    async fn continue_ids(&self) -> Result<(), Error> {
        let last: Option<i64> = self
            .db
            .read("look up its last id", async |db| {
                sql::query_scalar(
                    "SELECT MAX(id) FROM (SELECT MAX(id) AS id FROM results UNION ALL SELECT MAX(id) FROM steps \
                     UNION ALL SELECT MAX(id) FROM runs UNION ALL SELECT MAX(id) FROM files \
                     UNION ALL SELECT MAX(id) FROM watches UNION ALL SELECT MAX(id) FROM connections) AS last",
                )
                .fetch_one(db)
                .await
            })
            .await?;
        row::continue_ids_after(last.unwrap_or(0));
        Ok(())
    }
}

/// # Errors
/// [`Error::Network`] for a directory where SQLite's locks are not safe.
fn refuse_network(dir: &Path) -> Result<(), Error> {
    let is_network = filesystem::is_network(dir).map_err(|source| Error::Io {
        path: dir.to_owned(),
        source,
    })?;
    if is_network {
        return Err(Error::Network {
            path: dir.to_owned(),
        });
    }
    Ok(())
}

/// A state directory that a daemon has made.
fn existing(dir: &Path) -> Result<StateDirectory, Error> {
    match StateDirectory::open(dir) {
        Err(state_directory::Error::Io { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Err(Error::Missing {
                path: dir.to_owned(),
            })
        }
        directory => Ok(directory?),
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod property_test;
#[cfg(test)]
mod statement_costs;
