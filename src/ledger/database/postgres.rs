//! The ledger in a database of a PostgreSQL server.
//!
//! Connects, checks the server and migrates the database, begins transactions, and says what to do after an error: what
//! passes by itself is waited for, and the transaction repeated. If the answer to a commit is lost, the server is asked
//! what became of the transaction.
//!
//! One connection writes. Each of its transactions begins with a lock that all writers of the database have in common,
//! so they follow each other as in SQLite, whatever number of processes there is. Other connections read beside it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, FromRow, Postgres, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::super::row;
use super::location::Server;
use super::{Committed, Error, is_undecodable};

/// A connection that reads.
pub(super) type Connection = PoolConnection<Postgres>;

/// Every version of the schema, in order.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/ledger/migrations/postgres");

/// A server that does not answer a connection attempt for so long is away.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A transaction that takes longer is given up: the network may have lost its connection without a word.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// Pauses between attempts while the server is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Settings of each connection, whatever the role or the database have.
const SETTINGS: [(&str, &str); 7] = [
    // A process continues after the server crashed: what was committed must be there.
    ("synchronous_commit", "on"),
    ("statement_timeout", "50s"),
    ("lock_timeout", "40s"),
    // A host that stands still must not hold the lock.
    ("idle_in_transaction_session_timeout", "10s"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// The database of a server. Clones share their connections.
#[derive(Clone)]
pub(in crate::ledger) struct Database {
    options: Arc<PgConnectOptions>,
    /// The connection that writes, once it is needed, and until it is lost.
    writer: Arc<Mutex<Option<PgConnection>>>,
    /// Connections that only read.
    readers: PgPool,
    availability: Arc<Availability>,
    /// How long an outage is waited for; None: for ever.
    patience: Option<Duration>,
}

/// Since when the server does not answer.
#[derive(Default)]
struct Availability(std::sync::Mutex<Option<Instant>>);

impl Database {
    /// Connects for reading and writing, and creates or migrates the tables.
    pub(super) async fn open(server: &Server) -> Result<Self, Error> {
        let database = Self::of(server, None);
        let connection = connect(&database.options).await;
        let connection = connection.map_err(|error| classify("connect to its database", error))?;
        *database.writer.lock().await = Some(connection);
        match Box::pin(MIGRATIONS.run(&database.readers)).await {
            Ok(()) => Ok(database),
            Err(
                sqlx::migrate::MigrateError::VersionMissing(_)
                | sqlx::migrate::MigrateError::VersionTooNew(..),
            ) => Err(Error::ServerNewer {
                server: server.to_string(),
            }),
            Err(error) => Err(classify("migrate to this version", error)),
        }
    }

    /// Connects for reading only.
    pub(super) async fn open_reader(server: &Server) -> Result<Self, Error> {
        let database = Self::of(server, Some(CONNECT_MAX));
        let unreadable = |error| classify("read its version", error);
        let tables: bool = sqlx::query_scalar("SELECT to_regclass('jobs') IS NOT NULL")
            .fetch_one(&database.readers)
            .await
            .map_err(unreadable)?;
        if !tables {
            return Err(Error::ServerEmpty {
                server: server.to_string(),
            });
        }
        let applied: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                .fetch_one(&database.readers)
                .await
                .map_err(unreadable)?;
        if usize::try_from(applied).unwrap_or(0) < MIGRATIONS.iter().count() {
            return Err(Error::ServerOlder {
                server: server.to_string(),
            });
        }
        Ok(database)
    }

    fn of(server: &Server, patience: Option<Duration>) -> Self {
        let mut options = server
            .options
            .clone()
            .options(SETTINGS)
            .disable_statement_logging();
        if options.get_application_name().is_none() {
            options = options.application_name("itwin-syncd");
        }
        let readers = PgPoolOptions::new()
            .max_connections(3)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(CONNECT_MAX)
            // A lost connection is found by its statement, which is repeated.
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        Self {
            options: Arc::new(options),
            writer: Arc::default(),
            readers,
            availability: Arc::default(),
            patience,
        }
    }

    /// Begins a transaction that writes, after all others of any process.
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        if self.patience.is_some() {
            // As a reader of SQLite answers.
            let error = "the ledger was opened for reading only";
            return Err(sqlx::Error::Configuration(error.into()));
        }
        let mut writer = self.writer.clone().lock_owned().await;
        let mut connection = match writer.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let begun = sqlx::raw_sql("BEGIN; SELECT transaction_id, last_id FROM begin_write()")
            .fetch_one(&mut connection);
        let (id, last_id) = FromRow::from_row(&within(TRANSACTION_MAX, begun).await?)?;
        row::continue_ids_after(last_id);
        Ok(Tx::Writing(Writing {
            writer,
            connection,
            id,
            new_id: None,
        }))
    }

    /// Begins a transaction that reads.
    pub(super) async fn begin_reading(&self) -> Result<Tx, sqlx::Error> {
        let begun = self
            .readers
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        Ok(Tx::Reading(begun.await?))
    }

    /// A connection that reads.
    pub(super) async fn reader(&self) -> Result<Connection, sqlx::Error> {
        self.readers.acquire().await
    }

    /// Closes the connections.
    pub(super) async fn close(self) {
        self.readers.close().await;
        if let Some(connection) = self.writer.lock().await.take() {
            drop(connection.close().await);
        }
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    within(CONNECT_MAX, Box::pin(PgConnection::connect_with(options))).await
}

/// What the server answers within that time.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// A transaction.
pub(in crate::ledger) enum Tx {
    Writing(Writing),
    Reading(Transaction<'static, Postgres>),
}

/// A transaction that writes. Dropped before its end, it closes its connection, which undoes it.
pub(in crate::ledger) struct Writing {
    /// Where the connection is between transactions.
    writer: OwnedMutexGuard<Option<PgConnection>>,
    connection: PgConnection,
    /// By which the server knows it.
    id: String,
    /// The last row id that it gave out.
    new_id: Option<i64>,
}

impl Tx {
    /// The connection below.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Writing(tx) => &mut tx.connection,
            Self::Reading(tx) => tx,
        }
    }

    /// A new row id, greater than all before it of any process.
    pub(super) fn new_id(&mut self, now: Timestamp) -> i64 {
        let id = row::new_id(now);
        if let Self::Writing(tx) = self {
            tx.new_id = Some(id);
        }
        id
    }

    pub(super) async fn commit(self) -> Committed {
        match self {
            Self::Writing(tx) => tx.commit().await,
            Self::Reading(tx) => match tx.commit().await {
                Ok(()) => Committed::Yes,
                Err(error) => Committed::No(error),
            },
        }
    }

    /// Undoes it. Should that fail, the connection is closed, which undoes it as well.
    pub(super) async fn roll_back(self) {
        match self {
            Self::Writing(mut tx) => {
                let undone = sqlx::raw_sql("ROLLBACK").execute(&mut tx.connection);
                if within(CONNECT_MAX, undone).await.is_ok() {
                    *tx.writer = Some(tx.connection);
                }
            }
            Self::Reading(tx) => drop(within(CONNECT_MAX, tx.rollback()).await),
        }
    }
}

impl Writing {
    async fn commit(mut self) -> Committed {
        let commit = match self.new_id {
            // In one message, as the others wait.
            Some(id) => format!("UPDATE cluster SET last_id = {id}; COMMIT"),
            None => "COMMIT".to_owned(),
        };
        let committed = sqlx::raw_sql(sqlx::AssertSqlSafe(commit)).execute(&mut self.connection);
        match within(TRANSACTION_MAX, committed).await {
            Ok(_) => {
                *self.writer = Some(self.connection);
                Committed::Yes
            }
            Err(error) => Committed::Unknown { id: self.id, error },
        }
    }
}

/// Waits while the server is away, for one action.
pub(super) struct Outage<'d> {
    database: &'d Database,
    action: &'static str,
    began: Option<Instant>,
    pause: Duration,
}

impl<'d> Outage<'d> {
    pub(super) fn new(database: &'d Database, action: &'static str) -> Self {
        Self {
            database,
            action,
            began: None,
            pause: PAUSE_MIN,
        }
    }

    /// Returns when the action may be repeated.
    ///
    /// # Errors
    /// It would fail again, or the server is away for too long.
    pub(super) async fn wait_after(&mut self, error: sqlx::Error) -> Result<(), Error> {
        let database = self.database;
        let began = *self.began.get_or_insert_with(Instant::now);
        if !passes(&error) || database.patience.is_some_and(|max| began.elapsed() >= max) {
            return Err(classify(self.action, error));
        }
        database.availability.lost(&error);
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64())).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Whether a transaction was committed, after the answer to that was lost.
    ///
    /// # Errors
    /// As [`Self::wait_after`].
    pub(super) async fn was_committed(
        &mut self,
        id: &str,
        error: sqlx::Error,
    ) -> Result<bool, Error> {
        self.wait_after(error).await?;
        loop {
            let asked = async {
                sqlx::query_scalar::<_, Option<String>>("SELECT pg_xact_status($1::TEXT::xid8)")
                    .bind(id)
                    .fetch_one(&mut *self.database.reader().await?)
                    .await
            };
            match asked.await {
                // Its end is not there yet: the server has not noticed that the connection was lost.
                Ok(Some(status)) if status == "in progress" => {
                    self.wait_after(sqlx::Error::PoolTimedOut).await?;
                }
                Ok(status) => return Ok(status.is_some_and(|status| status == "committed")),
                // The server was set back to a time before it.
                Err(error) if state_of(&error).as_deref() == Some("22023") => return Ok(false),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// The server has answered.
    pub(super) fn over(&self) {
        if self.began.is_some() {
            self.database.availability.found();
        }
    }
}

impl Availability {
    fn lost(&self, error: &sqlx::Error) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the database of the ledger does not answer: waiting for it"
            );
        }
    }

    fn found(&self) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, "the database of the ledger answers again");
        }
    }
}

/// SQLSTATE: postgresql.org/docs/current/errcodes-appendix.html
fn state_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the same action may succeed later, without anybody's doing or after the server was mended.
fn passes(error: &sqlx::Error) -> bool {
    let Some(state) = state_of(error) else {
        return matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_)
        );
    };
    match state.as_bytes() {
        // Connection, out of resources, operator intervention and a slow server, system error.
        [b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] => true,
        // A deadlock, a standby, a lock that was not available, a transaction that was idle for too long.
        b"40001" | b"40P01" | b"25006" | b"55P03" | b"25P03" => true,
        _ => false,
    }
}

/// The error of an action, by what the caller can do about it.
fn classify(action: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let undecodable = is_undecodable(&error);
    let source = Box::new(error);
    if undecodable {
        Error::Corrupt { action, source }
    } else {
        Error::Database { action, source }
    }
}

#[cfg(test)]
mod tests;
