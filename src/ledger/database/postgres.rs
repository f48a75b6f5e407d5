//! The ledger in a database of a PostgreSQL server.
//!
//! Connects, checks the server and migrates the database, begins transactions, and says what to do after an error: what
//! passes by itself is waited for, and the transaction repeated. If the answer to a commit is lost, the database says
//! what became of the transaction before the next one begins.
//!
//! One connection writes. Each of its transactions begins with a lock that all writers of the database have in common,
//! so they follow each other as in SQLite, whatever number of processes there is; and fails if this process is neither
//! the active one (`lease`) nor one that writes beside it (`nodes`) any more. Other connections read beside it.
//!
//! Longer than most files because connections, transactions and outages share the state of one writer.

mod connect;
mod lease;
mod nodes;
mod requests;

use std::cmp::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::migrate::MigrateError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, FromRow, Postgres, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use super::super::row;
use super::migrations::OF_POSTGRES as MIGRATIONS;
use super::{Committed, Error, MIGRATION_WAIT, is_undecodable};
use crate::lease::Lease;
use crate::ledger_location::Server;
pub(super) use connect::within;
use connect::{CONNECT_MAX, connect, options};
pub use lease::ActiveHost;
use lease::{Holder, Waiting};
pub(in crate::ledger) use lease::{NOW as SERVER_TIME, Turn};
use requests::RequestsConnection;
pub(in crate::ledger) use requests::SharedRequests;

/// A connection that reads.
pub(super) type Connection = PoolConnection<Postgres>;

/// The begin or the end of a transaction that takes longer has failed: the network may have lost its connection without
/// a word.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// The same for all statements between them, of which there can be thousands.
const STATEMENTS_MAX: Duration = Duration::from_secs(600);

/// A reader waits for so long for a server that restarts.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// The oldest supported version: 15.
const VERSION_MIN: i64 = 150_000;

/// Pauses between attempts while the server is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

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

/// The lease of this process, or its row beside that. It is renewed as long as this exists.
struct Held {
    holder: Holder,
    lease: Lease,
    role: Role,
    tasks: Vec<JoinHandle<()>>,
}

enum Role {
    /// It has the lease. What others write raises the number.
    Active(watch::Sender<u64>),
    /// It has a row of its own. True: it is asked to leave.
    Beside(watch::Sender<bool>),
}

impl Held {
    /// Its id, if it has a row of its own.
    fn node(&self) -> Option<&str> {
        match self.role {
            Role::Active(_) => None,
            Role::Beside(_) => Some(self.holder.id()),
        }
    }

    /// The number of its last transaction, if it may write.
    fn permission(&self) -> String {
        match self.node() {
            None => format!(
                "SELECT c.last_commit FROM lease l, cluster c WHERE l.holder = '{}'",
                self.holder.id()
            ),
            // Whoever is active may have migrated the tables.
            Some(id) => format!(
                "SELECT last_commit FROM nodes WHERE id = '{id}' \
                 AND (SELECT COUNT(*) FROM _sqlx_migrations WHERE success) = {}",
                MIGRATIONS.iter().count()
            ),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Why the database cannot be used, while actions wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerOutage {
    /// When the first of them failed.
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// Whether the database can be used.
#[derive(Default)]
struct Availability(std::sync::Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// Actions that wait. The database can be used again when none does: while its disk is full, some succeed and
    /// others do not.
    actions: u32,
    outage: Option<(Instant, LedgerOutage)>,
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

    /// Begins a transaction that writes, after all others of any process.
    ///
    /// # Errors
    /// [`FENCED`] when this process may not write any more.
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        let Some(held) = &self.held else {
            // As a reader of SQLite answers.
            let error = "the ledger was opened for reading only";
            return Err(sqlx::Error::Configuration(error.into()));
        };
        let mut writer = self.writer.clone().lock_owned().await;
        let connection = match writer.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let (connection, begun) = begin_on(connection, held).await?;
        row::continue_ids_after(begun.last_id);
        Ok(Tx::Writing(Writing {
            writer,
            connection,
            node: held.node().map(str::to_owned),
            number: fastrand::i64(..),
            last_id: None,
        }))
    }

    /// Whether the transaction with this number, the last one of this process, was committed. Waits for its end.
    ///
    /// # Errors
    /// As [`Self::begin`].
    async fn has_committed(
        &self,
        writer: &mut Option<PgConnection>,
        number: i64,
    ) -> Result<bool, sqlx::Error> {
        let Some(held) = &self.held else {
            return Ok(false);
        };
        let connection = connect(&self.options).await?;
        let (mut connection, begun) = begin_on(connection, held).await?;
        let undone = sqlx::raw_sql("ROLLBACK").execute(&mut connection);
        within(CONNECT_MAX, undone).await?;
        *writer = Some(connection);
        Ok(begun.last_commit == number)
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

    /// Gives up the lease or its row, and closes the connections.
    pub(super) async fn close(self) {
        self.readers.close().await;
        let mut writer = self.writer.lock().await;
        if let Some(held) = &self.held {
            for task in &held.tasks {
                task.abort();
            }
            held.lease.lose();
            let released = async {
                let mut connection = match writer.take() {
                    Some(connection) => connection,
                    None => connect(&self.options).await?,
                };
                match held.role {
                    Role::Active(_) => lease::release(&mut connection, &held.holder).await?,
                    Role::Beside(_) => nodes::leave(&mut connection, &held.holder).await?,
                }
                connection.close().await
            };
            // Otherwise the lease ends by itself.
            if let Err(error) = within(CONNECT_MAX, released).await {
                tracing::warn!(%error, "cannot give up the lease: another host takes over when it is over");
            }
        }
    }
}

/// What a transaction that writes finds at its begin.
struct Begun {
    /// The greatest row id of any process.
    last_id: i64,
    /// The number of the transaction of this process that was committed last.
    last_commit: i64,
}

/// Begins a transaction that writes on this connection, unless this process may not write any more.
async fn begin_on(
    mut connection: PgConnection,
    held: &Held,
) -> Result<(PgConnection, Begun), sqlx::Error> {
    // The last statement sees what was committed before the lock was there.
    let begin = format!(
        "BEGIN; SELECT last_id FROM begin_write(); {}",
        held.permission()
    );
    let begun = sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).fetch_all(&mut connection);
    let rows = within(TRANSACTION_MAX, begun).await?;
    let [last_id, last_commit] = &rows[..] else {
        held.lease.lose();
        return Err(sqlx::Error::Configuration(FENCED.into()));
    };
    let ((last_id,), (last_commit,)) =
        (FromRow::from_row(last_id)?, FromRow::from_row(last_commit)?);
    let begun = Begun {
        last_id,
        last_commit,
    };
    Ok((connection, begun))
}

/// What the statements of a transaction return within [`STATEMENTS_MAX`].
pub(super) async fn limit<T>(
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    within(STATEMENTS_MAX, statements).await
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
    /// The row of the process, if it is not the active one.
    node: Option<String>,
    /// By which the database knows it afterwards: random.
    number: i64,
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
        // In one message, as the others wait.
        let number = self.number;
        let id = self.last_id.map(|id| format!("last_id = {id}"));
        let commit = match (&self.node, id) {
            (None, None) => format!("UPDATE cluster SET last_commit = {number}"),
            (None, Some(id)) => format!("UPDATE cluster SET last_commit = {number}, {id}"),
            (Some(node), id) => {
                let id = id.map(|id| format!("; UPDATE cluster SET {id}"));
                let id = id.unwrap_or_default();
                format!("UPDATE nodes SET last_commit = {number} WHERE id = '{node}'{id}")
            }
        } + "; COMMIT";
        let committed = sqlx::raw_sql(sqlx::AssertSqlSafe(commit)).execute(&mut self.connection);
        match within(TRANSACTION_MAX, committed).await {
            Ok(_) => {
                *self.writer = Some(self.connection);
                Committed::Yes
            }
            Err(error) => Committed::Unknown(Unanswered {
                writer: self.writer,
                number,
                error,
            }),
        }
    }
}

/// A commit whose answer was lost. While this exists, this process begins no other transaction, so the number of the
/// last one says what became of it.
pub(in crate::ledger) struct Unanswered {
    writer: OwnedMutexGuard<Option<PgConnection>>,
    number: i64,
    error: sqlx::Error,
}

impl Unanswered {
    /// For those who find out in another way: why there was no answer.
    pub(super) fn into_error(self) -> sqlx::Error {
        self.error
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
        let began = self.began.unwrap_or_else(Instant::now);
        if !passes(&error) || database.patience.is_some_and(|max| began.elapsed() >= max) {
            return Err(database.error(self.action, error));
        }
        database.availability.lost(&error, self.began.is_none());
        self.began = Some(began);
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64())).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Whether a transaction was committed, after the answer to that was lost.
    ///
    /// # Errors
    /// As [`Self::wait_after`].
    pub(super) async fn was_committed(&mut self, commit: Unanswered) -> Result<bool, Error> {
        let Unanswered {
            mut writer,
            number,
            mut error,
        } = commit;
        loop {
            self.wait_after(error).await?;
            match self.database.has_committed(&mut writer, number).await {
                Ok(committed) => return Ok(committed),
                Err(failed) => error = failed,
            }
        }
    }

    /// The server has answered.
    pub(super) fn over(&mut self) {
        let has_waited = self.began.take().is_some();
        self.database.availability.found(has_waited);
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if self.began.is_some() {
            self.database.availability.given_up();
        }
    }
}

impl Availability {
    fn waits(&self) -> std::sync::MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outage(&self) -> Option<LedgerOutage> {
        Some(self.waits().outage.as_ref()?.1.clone())
    }

    /// An action failed, and waits now.
    fn lost(&self, error: &sqlx::Error, is_new: bool) {
        let mut waits = self.waits();
        waits.actions += u32::from(is_new);
        let (reason, hint) = (error.to_string(), advice(error));
        if let Some((_, outage)) = &mut waits.outage {
            (outage.reason, outage.hint) = (reason, hint);
            return;
        }
        let since = crate::clock::now();
        let outage = LedgerOutage {
            since,
            reason,
            hint,
        };
        waits.outage = Some((Instant::now(), outage));
        tracing::warn!(
            error = error as &dyn std::error::Error,
            hint,
            "cannot use the database of the ledger: waiting for it"
        );
    }

    /// An action ended without success. That says nothing about the database.
    fn given_up(&self) {
        let mut waits = self.waits();
        waits.actions = waits.actions.saturating_sub(1);
    }

    /// An action has succeeded.
    fn found(&self, has_waited: bool) {
        let mut waits = self.waits();
        waits.actions = waits.actions.saturating_sub(u32::from(has_waited));
        if waits.actions == 0
            && let Some((since, _)) = waits.outage.take()
        {
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
        return match error {
            sqlx::Error::Io(_) => of_tls(error).is_none(),
            sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            _ => false,
        };
    };
    match state.as_bytes() {
        // A setting that is not understood at the begin of a session.
        b"08P01" => false,
        // Connection, out of resources, operator intervention and a slow server, system error.
        [b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] => true,
        // A deadlock, a standby, a lock that was not available, a transaction that was idle for too long.
        b"40001" | b"40P01" | b"25006" | b"55P03" | b"25P03" => true,
        _ => false,
    }
}

/// What is wrong with the encryption, if that is why a connection failed.
fn of_tls(error: &sqlx::Error) -> Option<&rustls::Error> {
    let sqlx::Error::Io(error) = error else {
        return None;
    };
    error.get_ref()?.downcast_ref()
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
    if let sqlx::Error::Configuration(text) = &error
        && text.to_string() == FENCED
    {
        return Error::TakenOver;
    }
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

/// The error of whoever does not want to wait.
fn taken(server: &str, active: &ActiveHost) -> Error {
    Error::ServerInUse {
        server: server.to_owned(),
        holder: format!(
            "host {}, since {}",
            active.host,
            active.since.strftime("%F %TZ")
        ),
    }
}

/// The text of the error of a transaction of a process that may not write any more.
const FENCED: &str = "another host has taken over";

const REACH_HINT: &str =
    "check that the server runs and that this host reaches it; and host and port in state.url";

const OWNER_HINT: &str =
    "let the user in state.url own the database, so that it may create tables in its schema public";

const READ_ONLY_HINT: &str = "write the primary server in state.url, not a standby; its setting default_transaction_read_only must be off for the user";

const POOLER_HINT: &str = "write the server itself in state.url, not a pooler such as PgBouncer";

/// What the reader can do about an error.
fn advice(error: &sqlx::Error) -> &'static str {
    use rustls::{CertificateError, Error::InvalidCertificate};
    match of_tls(error) {
        Some(InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {
            return "renew the certificate of the database server, and check the clocks of the server and of this host";
        }
        Some(InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => return "write the host in state.url as the server's certificate names it",
        Some(InvalidCertificate(CertificateError::UnknownIssuer)) => {
            return "set state.ca_file to the certificate of the authority that issued the server's";
        }
        Some(_) => return "check the TLS settings and the certificate of the database server",
        None => {}
    }
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => return REACH_HINT,
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
        Some("42501") => OWNER_HINT,
        // A prepared statement of another session.
        Some("08P01" | "26000" | "42P05") => POOLER_HINT,
        Some("25006") => READ_ONLY_HINT,
        // It stops, has crashed, or starts.
        Some("57P01" | "57P02" | "57P03") => REACH_HINT,
        Some("53100") => "free space on the disk of the database server",
        Some("53300") => "raise max_connections of the server: each daemon uses up to 11",
        _ => "see the log of the database server",
    }
}

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod tests;
