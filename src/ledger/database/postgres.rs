//! The ledger in a database of a PostgreSQL server.
//!
//! Connects, checks the server and migrates the database. What passes by itself is waited for (`outage`), and the
//! `transaction` repeated; `errors` has what to do about the rest. If the answer to a commit is lost, the database says
//! what became of the transaction before the next one begins.
//!
//! One connection writes. Each of its transactions begins with a lock that all writers of the database have in common,
//! so they follow each other as in SQLite, whatever number of processes there is; and fails if this process is neither
//! the active one (`lease`) nor one that writes beside it (`nodes`) any more. Other connections read beside it.

mod connect;
mod errors;
mod held;
mod lease;
mod nodes;
mod outage;
mod requests;
mod transaction;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Postgres;
use sqlx::migrate::MigrateError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::sync::{Mutex, watch};

use super::migrations::OF_POSTGRES as MIGRATIONS;
use super::{Error, MIGRATION_WAIT};
use crate::lease::Lease;
use crate::ledger_location::Server;
pub(super) use connect::within;
use connect::{CONNECT_MAX, connect, options};
use errors::{OWNER_HINT, POOLER_HINT, READ_ONLY_HINT, error_of, passes, taken, unwrapped};
use held::{Held, Role};
pub use lease::ActiveHost;
use lease::{Holder, Waiting};
pub(in crate::ledger) use lease::{NOW as SERVER_TIME, Turn};
use outage::Availability;
pub use outage::LedgerOutage;
pub(super) use outage::Outage;
use requests::RequestsConnection;
pub(in crate::ledger) use requests::SharedRequests;
pub(super) use transaction::limit;
pub(in crate::ledger) use transaction::{Tx, Unanswered};

/// A connection that reads.
pub(super) type Connection = PoolConnection<Postgres>;

/// A reader waits for so long for a server that restarts.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// After this time, the lease is given up on a new connection: the one that writes may be lost.
const GIVE_UP_MAX: Duration = Duration::from_secs(3);

/// The oldest supported version: 15.
const VERSION_MIN: i64 = 150_000;

/// The database of a server. Clones share their connections.
#[derive(Clone)]
pub(in crate::ledger) struct Database {
    /// Host, port and database.
    server: String,
    options: Arc<PgConnectOptions>,
    /// The connection that writes, once it is needed, and until it is lost.
    writer: Arc<Mutex<Option<PgConnection>>>,
    /// Connections that only read.
    readers: PgPool,
    requests: RequestsConnection,
    availability: Arc<Availability>,
    /// How long an outage is waited for; None: for ever.
    patience: Option<Duration>,
    /// None for a reader.
    held: Option<Arc<Held>>,
}

impl Database {
    /// Connects for reading and writing, and creates or migrates the tables. `lock` is the file that this process has
    /// locked.
    pub(super) async fn open(
        server: &Server,
        lock: &std::fs::Metadata,
        turn: Turn,
    ) -> Result<Self, Error> {
        let mut database = Self::with_lease(server, lock, turn, None).await?;
        let begun = match database.migrate().await {
            Ok(()) => database.succeed().await,
            failed => failed,
        };
        match begun {
            Ok(()) => Ok(database),
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// Connects for a copy, beside which no process writes. Its tables are those of any version, or there are none.
    /// Other processes and outages are waited for as long as `patience` says.
    pub(super) async fn open_alone(
        server: &Server,
        lock: &std::fs::Metadata,
        patience: Duration,
    ) -> Result<Self, Error> {
        let turn = Turn::Within(patience);
        let database = Self::with_lease(server, lock, turn, Some(patience)).await?;
        match database.exclude_others(patience).await {
            Ok(()) => Ok(database),
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    async fn with_lease(
        server: &Server,
        lock: &std::fs::Metadata,
        turn: Turn,
        patience: Option<Duration>,
    ) -> Result<Self, Error> {
        let mut database = Self::of(server, patience)?;
        database.check_server().await?;
        let mut outage = Outage::new(&database, "connect");
        let mut waiting = Waiting::new(Holder::new(lock));
        let started = Instant::now();
        let lease = loop {
            match waiting.look(&database.options).await {
                Ok(Ok(lease)) => break lease,
                Ok(Err(active)) => {
                    outage.over();
                    match &turn {
                        Turn::Within(patience) if started.elapsed() >= *patience => {
                            return Err(taken(&database.server, &active));
                        }
                        Turn::Within(_) => {}
                        Turn::Waiting(seen) if seen.borrow().as_ref() != Some(&active) => {
                            match database.compare_version().await {
                                // Found out before the take-over: the one that works continues.
                                Ok(Ordering::Greater) => {
                                    let server = database.server.clone();
                                    return Err(Error::ServerNewer { server });
                                }
                                Ok(Ordering::Less | Ordering::Equal) => {
                                    seen.send_replace(Some(active));
                                }
                                Err(error) => outage.wait_after(error).await?,
                            }
                        }
                        Turn::Waiting(_) => {}
                    }
                    Waiting::pause().await;
                }
                Err(error) => outage.wait_after(error).await?,
            }
        };
        outage.over();
        drop(outage);
        let holder = waiting.into_holder();
        let renewal = lease::keep((*database.options).clone(), holder.clone(), lease.clone());
        database.held = Some(Arc::new(Held {
            holder,
            lease,
            role: Role::Active(watch::Sender::new(0)),
            tasks: vec![tokio::spawn(renewal)],
        }));
        Ok(database)
    }

    /// Gives back what processes had that are dead because this one is active, and lets others write beside it.
    async fn succeed(&mut self) -> Result<(), Error> {
        // It is not shared before it is open.
        let Some(held) = self.held.as_mut().and_then(Arc::get_mut) else {
            return Ok(());
        };
        let (holder, options) = (held.holder.clone(), (*self.options).clone());
        if let Role::Active(changed) = &held.role {
            let others = nodes::watch_over(options, holder.clone(), changed.clone());
            held.tasks.push(tokio::spawn(others));
        }
        let mut outage = Outage::new(self, "take up the work of the last process");
        while let Err(error) = nodes::succeed(&self.options, &holder).await {
            outage.wait_after(error).await?;
        }
        outage.over();
        Ok(())
    }

    /// Returns when no other process writes beside this one, and none can.
    async fn exclude_others(&self, patience: Duration) -> Result<(), Error> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let mut outage = Outage::new(self, "take up the work of the last process");
        let started = Instant::now();
        loop {
            match nodes::exclude(&self.options, &held.holder).await {
                Ok(None) => {
                    outage.over();
                    return Ok(());
                }
                Ok(Some(other)) if started.elapsed() >= patience => {
                    return Err(taken(&self.server, &other));
                }
                Ok(Some(_)) => Waiting::pause().await,
                Err(error) => outage.wait_after(error).await?,
            }
        }
    }

    /// Connects for reading and writing beside the active process. None: that is not possible now.
    pub(super) async fn join(
        server: &Server,
        lock: &std::fs::Metadata,
    ) -> Result<Option<Self>, Error> {
        let mut database = Self::of(server, None)?;
        let holder = Holder::new(lock);
        let joined = async {
            if database.compare_version().await? != Ordering::Equal {
                return Ok(None);
            }
            nodes::join(&database.options, &holder).await
        };
        let lease = match joined.await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Ok(None),
            Err(error) if passes(&error) => return Ok(None),
            Err(error) => return Err(database.error("join the active process", error)),
        };
        let dismissed = watch::Sender::new(false);
        let options = (*database.options).clone();
        let renewal = nodes::keep(options, holder.clone(), lease.clone(), dismissed.clone());
        database.held = Some(Arc::new(Held {
            holder,
            lease,
            role: Role::Beside(dismissed),
            tasks: vec![tokio::spawn(renewal)],
        }));
        Ok(Some(database))
    }

    /// Checks that the server may be used.
    async fn check_server(&self) -> Result<(), Error> {
        type Settings = (i64, String, String, bool, bool, bool);
        const SQL: &str = "SELECT CAST(current_setting('server_version_num') AS BIGINT), \
                           current_setting('fsync'), current_setting('transaction_read_only'), \
                           current_setting('synchronous_commit') = 'on' \
                           AND current_setting('idle_in_transaction_session_timeout') = '10s', \
                           COALESCE((SELECT pg_has_role(relowner, 'USAGE') FROM pg_class \
                           WHERE oid = to_regclass('lease')), TRUE), to_regclass('lease') IS NOT NULL \
                           OR COALESCE(has_schema_privilege(current_schema(), 'CREATE'), FALSE)";
        let mut outage = Outage::new(self, "connect");
        let (version, fsync, read_only, are_kept, is_owner, may_create): Settings = loop {
            let asked = async {
                let mut connection = connect(&self.options).await?;
                let settings = sqlx::query_as(SQL).fetch_one(&mut connection);
                within(CONNECT_MAX, settings).await
            };
            match asked.await {
                Ok(settings) => break settings,
                Err(error) => outage.wait_after(error).await?,
            }
        };
        outage.over();
        let unfit = |what: String, hint| Error::UnfitServer {
            server: self.server.clone(),
            what,
            hint,
        };
        if version < VERSION_MIN {
            let what = format!("is PostgreSQL {}, which is too old", version / 10_000);
            return Err(unfit(what, "upgrade it to PostgreSQL 15 or newer"));
        }
        if fsync != "on" {
            let what = "has fsync = off and loses what it has confirmed when it stops".to_owned();
            return Err(unfit(
                what,
                "set fsync = on in the server's postgresql.conf",
            ));
        }
        if !are_kept {
            let what = "does not keep the settings of a session".to_owned();
            return Err(unfit(what, POOLER_HINT));
        }
        if read_only != "off" {
            return Err(unfit("accepts no changes".to_owned(), READ_ONLY_HINT));
        }
        if !is_owner {
            // Found out before a take-over.
            let what = "gives the tables of the ledger to another user".to_owned();
            return Err(unfit(what, OWNER_HINT));
        }
        if !may_create {
            let what = "does not let the user in state.url create tables".to_owned();
            return Err(unfit(what, OWNER_HINT));
        }
        Ok(())
    }

    /// What a start would find wrong with the server. Changes nothing.
    pub(super) async fn check(server: &Server) -> Result<(), Error> {
        Box::pin(Self::of(server, Some(READER_PATIENCE))?.check_server()).await
    }

    /// Creates or migrates the tables.
    pub(super) async fn migrate(&self) -> Result<(), Error> {
        const ACTION: &str = "migrate to this version";
        let mut outage = Outage::new(self, ACTION);
        loop {
            let error = match Box::pin(MIGRATIONS.run(&self.readers)).await {
                Ok(()) => break,
                Err(MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..)) => {
                    return Err(Error::ServerNewer {
                        server: self.server.clone(),
                    });
                }
                Err(error) => unwrapped(error),
            };
            outage.wait_after(error).await?;
        }
        outage.over();
        Ok(())
    }

    /// For reading only, without a check of the tables.
    pub(super) fn reader_later(server: &Server) -> Result<Self, Error> {
        Self::of(server, Some(READER_PATIENCE))
    }

    /// Connects for reading only.
    pub(super) async fn open_reader(server: &Server) -> Result<Self, Error> {
        let database = Self::reader_later(server)?;
        let unreadable = |error| database.error("read its version", error);
        let tables: bool = sqlx::query_scalar("SELECT to_regclass('jobs') IS NOT NULL")
            .fetch_one(&database.readers)
            .await
            .map_err(unreadable)?;
        if !tables {
            return Err(Error::ServerEmpty {
                server: server.to_string(),
            });
        }
        let server = server.to_string();
        // A daemon that starts may be about to migrate them.
        let deadline = Instant::now() + MIGRATION_WAIT;
        loop {
            match database.compare_version().await.map_err(unreadable)? {
                Ordering::Equal => return Ok(database),
                Ordering::Greater => return Err(Error::ServerNewer { server }),
                Ordering::Less if Instant::now() > deadline => {
                    return Err(Error::ServerOlder { server });
                }
                Ordering::Less => tokio::time::sleep(MIGRATION_WAIT / 100).await,
            }
        }
    }

    /// How the version of the tables compares with that of this program.
    pub(super) async fn compare_version(&self) -> Result<Ordering, sqlx::Error> {
        let tables: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&self.readers)
            .await?;
        if !tables {
            return Ok(Ordering::Less);
        }
        let applied: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                .fetch_one(&self.readers)
                .await?;
        let applied = usize::try_from(applied).unwrap_or(0);
        Ok(applied.cmp(&MIGRATIONS.iter().count()))
    }

    fn of(server: &Server, patience: Option<Duration>) -> Result<Self, Error> {
        let name = server.to_string();
        let options = options(server).map_err(|error| error_of(&name, "use state.url", error))?;
        let readers = PgPoolOptions::new()
            .max_connections(3)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(patience.unwrap_or(CONNECT_MAX))
            // A lost connection is found by its statement, which is repeated.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        Ok(Self {
            server: name,
            options: Arc::new(options),
            writer: Arc::default(),
            readers,
            requests: Arc::default(),
            availability: Arc::default(),
            patience,
            held: None,
        })
    }

    pub(super) fn error(&self, action: &'static str, error: sqlx::Error) -> Error {
        error_of(&self.server, action, error)
    }

    /// Reads why actions of this process wait, without keeping its connections or its lease.
    pub(super) fn outage(&self) -> impl Fn() -> Option<LedgerOutage> + Send + Sync + use<> {
        let availability = Arc::clone(&self.availability);
        move || availability.outage()
    }

    /// The lease of this process; None for a reader.
    pub(super) fn lease(&self) -> Option<Lease> {
        Some(self.held.as_ref()?.lease.clone())
    }

    /// The id of this process, if it writes beside the active one.
    pub(super) fn node(&self) -> Option<&str> {
        self.held.as_ref()?.node()
    }

    /// Rises when another process has written; None except on the active one.
    pub(super) fn others(&self) -> Option<watch::Receiver<u64>> {
        match &self.held.as_ref()?.role {
            Role::Active(changed) => Some(changed.subscribe()),
            Role::Beside(_) => None,
        }
    }

    /// True when this process is asked to leave; None except beside the active one.
    pub(super) fn dismissed(&self) -> Option<watch::Receiver<bool>> {
        match &self.held.as_ref()?.role {
            Role::Active(_) => None,
            Role::Beside(dismissed) => Some(dismissed.subscribe()),
        }
    }

    /// A connection that reads.
    pub(super) async fn reader(&self) -> Result<Connection, sqlx::Error> {
        self.readers.acquire().await
    }

    /// Gives up the lease or its row, and closes the connections.
    pub(super) async fn close(self) {
        let mut writer = self.writer.lock().await;
        if let Some(held) = &self.held {
            for task in &held.tasks {
                task.abort();
            }
            held.lease.lose();
            // Otherwise the lease ends by itself.
            let given_up = within(CONNECT_MAX, self.give_up(held, writer.take()));
            if let Err(error) = given_up.await {
                tracing::warn!(%error, "cannot give up the lease: another host takes over when it is over");
            }
        }
        self.readers.close().await;
    }

    async fn give_up(&self, held: &Held, writer: Option<PgConnection>) -> Result<(), sqlx::Error> {
        // The server or the network may have closed the connection since its last transaction.
        if let Some(connection) = writer
            && within(GIVE_UP_MAX, held.give_up(connection)).await.is_ok()
        {
            return Ok(());
        }
        held.give_up(connect(&self.options).await?).await
    }
}

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod tests;
