//! The ledger in a database of a PostgreSQL server.
//!
//! Connects, checks the server and migrates the database, begins transactions, and says what to do after an error: what
//! passes by itself is waited for, and the transaction repeated. If the answer to a commit is lost, the server is asked
//! what became of the transaction.
//!
//! One connection writes. Each of its transactions begins with a lock that all writers of the database have in common,
//! so they follow each other as in SQLite, whatever number of processes there is. Other connections read beside it.
//!
//! Longer than most files because connections, transactions and outages share the state of one writer.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::migrate::MigrateError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, FromRow, Postgres, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::super::row;
use super::{Committed, Error, is_undecodable};
use crate::ledger_location::Server;

/// A connection that reads.
pub(super) type Connection = PoolConnection<Postgres>;

/// Every version of the schema, in order.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/ledger/migrations/postgres");

/// A server that does not answer a connection attempt for so long is away.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A transaction that takes longer is given up: the network may have lost its connection without a word.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// A reader waits for so long for a server that restarts.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// The oldest supported version: 15.
const VERSION_MIN: i64 = 150_000;

/// A start waits for so long for the end of another daemon: the server may be late to notice the end of a connection.
const CLAIM_MAX: Duration = Duration::from_secs(10);

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
    /// Host, port and database.
    server: String,
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
        let database = Self::of(server, None)?;
        let mut outage = Outage::new(&database, "connect");
        let started = Instant::now();
        let mut connection = loop {
            match claim(&database.options).await {
                Ok(Claimed::Alone(connection)) => break connection,
                Ok(Claimed::Taken(holder)) if started.elapsed() >= CLAIM_MAX => {
                    return Err(Error::ServerInUse {
                        server: server.to_string(),
                        holder,
                    });
                }
                Ok(Claimed::Taken(_)) => tokio::time::sleep(PAUSE_MIN).await,
                Err(error) => outage.wait_after(error).await?,
            }
        };
        outage.over();
        let unfit = |what: String, hint| Error::UnfitServer {
            server: server.to_string(),
            what,
            hint,
        };
        let (version, fsync, read_only): (i64, String, String) = sqlx::query_as(
            "SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('fsync'), \
             current_setting('transaction_read_only')",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(|error| database.error("read the server's version", error))?;
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
        if read_only != "off" {
            return Err(unfit("accepts no changes".to_owned(), READ_ONLY_HINT));
        }
        *database.writer.lock().await = Some(connection);
        match Box::pin(MIGRATIONS.run(&database.readers)).await {
            Ok(()) => Ok(database),
            Err(MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..)) => {
                Err(Error::ServerNewer {
                    server: server.to_string(),
                })
            }
            Err(error) => Err(database.error("migrate to this version", unwrapped(error))),
        }
    }

    /// Connects for reading only.
    pub(super) async fn open_reader(server: &Server) -> Result<Self, Error> {
        let database = Self::of(server, Some(READER_PATIENCE))?;
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
        let applied: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations WHERE success")
                .fetch_one(&database.readers)
                .await
                .map_err(unreadable)?;
        let server = server.to_string();
        match usize::try_from(applied)
            .unwrap_or(0)
            .cmp(&MIGRATIONS.iter().count())
        {
            Ordering::Less => Err(Error::ServerOlder { server }),
            Ordering::Equal => Ok(database),
            Ordering::Greater => Err(Error::ServerNewer { server }),
        }
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
            availability: Arc::default(),
            patience,
        })
    }

    fn error(&self, action: &'static str, error: sqlx::Error) -> Error {
        error_of(&self.server, action, error)
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
            None => match claim(&self.options).await? {
                Claimed::Alone(connection) => connection,
                // Its own lost connection, until the server notices that, or another daemon.
                Claimed::Taken(holder) => {
                    let taken = format!("it is used by another itwin-syncd: {holder}");
                    return Err(std::io::Error::new(ErrorKind::ResourceBusy, taken).into());
                }
            },
        };
        let begun = sqlx::raw_sql("BEGIN; SELECT transaction_id, last_id FROM begin_write()")
            .fetch_one(&mut connection);
        let (id, last_id) = FromRow::from_row(&within(TRANSACTION_MAX, begun).await?)?;
        row::continue_ids_after(last_id);
        Ok(Tx::Writing(Writing {
            writer,
            connection,
            id,
            last_id: None,
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

/// How to connect. Beyond this host only with TLS, to the server that the certificate names.
fn options(server: &Server) -> Result<PgConnectOptions, sqlx::Error> {
    let mut options = PgConnectOptions::from_url(&server.url)?
        .ssl_mode(if server.is_local() {
            PgSslMode::Prefer
        } else {
            PgSslMode::VerifyFull
        })
        .options(SETTINGS)
        .disable_statement_logging();
    if let Some(password) = &server.password {
        options = options.password(password.expose());
    }
    if let Some(ca_file) = &server.ca_file {
        options = options.ssl_root_cert(ca_file);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("itwin-syncd");
    }
    Ok(options)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    within(CONNECT_MAX, Box::pin(PgConnection::connect_with(options))).await
}

/// A connection that writes, or who has the only one.
enum Claimed {
    Alone(PgConnection),
    Taken(String),
}

/// Connects for writing. The connection has a lock of the server until its end, so there is no other one of any host.
async fn claim(options: &PgConnectOptions) -> Result<Claimed, sqlx::Error> {
    let mut connection = connect(options).await?;
    let taken = sqlx::query_scalar::<_, String>(
        "WITH key AS (SELECT hashtextextended('itwin-syncd ' || COALESCE(current_schema(), ''), 0) AS key), \
         tried AS MATERIALIZED (SELECT pg_try_advisory_lock(key) AS claimed, key FROM key) \
         SELECT COALESCE((SELECT 'address ' || COALESCE(host(a.client_addr), 'local') || ', since ' \
         || date_trunc('second', a.backend_start) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND (l.classid::BIGINT << 32 | l.objid::BIGINT) = tried.key LIMIT 1), 'unknown address') \
         FROM tried WHERE NOT claimed",
    )
    .fetch_optional(&mut connection);
    Ok(match within(CONNECT_MAX, taken).await? {
        None => Claimed::Alone(connection),
        Some(holder) => Claimed::Taken(holder),
    })
}

/// What the server answers within that time.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))
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
    last_id: Option<i64>,
}

impl Tx {
    /// The connection below.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Writing(tx) => &mut tx.connection,
            Self::Reading(tx) => tx,
        }
    }

    /// The first of `count` new row ids that follow each other, all greater than all before them of any process.
    pub(super) fn new_ids(&mut self, count: u32, now: Timestamp) -> i64 {
        let first = row::new_ids(count, now);
        if let Self::Writing(tx) = self {
            tx.last_id = Some(first + i64::from(count) - 1);
        }
        first
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
        let commit = match self.last_id {
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
            return Err(database.error(self.action, error));
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
                "cannot use the database of the ledger: waiting for it"
            );
        }
    }

    fn found(&self) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, "the database of the ledger can be used again");
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

/// The error of a statement in a migration.
fn unwrapped(error: MigrateError) -> sqlx::Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        error => sqlx::Error::Migrate(Box::new(error)),
    }
}

/// The error of an action, by what the caller can do about it.
fn error_of(server: &str, action: &'static str, error: sqlx::Error) -> Error {
    if is_undecodable(&error) {
        return Error::Corrupt {
            action,
            source: Box::new(error),
        };
    }
    Error::Server {
        server: server.to_owned(),
        action,
        hint: advice(&error),
        source: Box::new(error),
    }
}

const READ_ONLY_HINT: &str = "write the primary server in state.url, not a standby; its setting default_transaction_read_only must be off for the user";

/// What the reader can do about an error.
fn advice(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
            return "check that the server runs and that this host reaches it; and host and port in state.url";
        }
        sqlx::Error::Tls(_) => {
            return "set state.ca_file to the certificate of the authority that issued the server's, and write the host in state.url as that certificate names it; the server needs ssl = on";
        }
        _ => {}
    }
    match state_of(error).as_deref() {
        Some("28P01" | "28000") => {
            "check the user in state.url, the password in state.password_file, and pg_hba.conf of the server"
        }
        Some("3D000") => {
            "create the database, owned by the user in state.url: CREATE DATABASE itwin_syncd OWNER itwin_syncd"
        }
        Some("42501") => {
            "let the user in state.url own the database, so that it may create tables in its schema public"
        }
        Some("25006") => READ_ONLY_HINT,
        Some("53100") => "free space on the disk of the database server",
        Some("53300") => "raise max_connections of the server: each daemon uses up to 10",
        _ => "see the log of the database server",
    }
}

#[cfg(test)]
mod tests;
