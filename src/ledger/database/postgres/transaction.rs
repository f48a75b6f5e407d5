//! Transactions: each that writes begins with the lock that all writers have in common, and ends with a number by which
//! the database knows it afterwards.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::{FromRow, Postgres, Transaction};
use tokio::sync::OwnedMutexGuard;

use super::super::super::row;
use super::super::Committed;
use super::Database;
use super::connect::{CONNECT_MAX, connect, within};
use super::errors::FENCED;
use super::held::Held;

/// The begin or the end of a transaction that takes longer has failed: the network may have lost its connection without
/// a word.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// The same for all statements between them, of which there can be thousands.
const STATEMENTS_MAX: Duration = Duration::from_secs(600);

impl Database {
    /// Begins a transaction that writes, after all others of any process.
    ///
    /// # Errors
    /// [`FENCED`] when this process may not write any more.
    pub(in crate::ledger::database) async fn begin(&self) -> Result<Tx, sqlx::Error> {
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
    pub(super) async fn has_committed(
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

    /// Begins a transaction that reads.
    pub(in crate::ledger::database) async fn begin_reading(&self) -> Result<Tx, sqlx::Error> {
        let begun = self
            .readers
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        Ok(Tx::Reading(begun.await?))
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

/// Ends when the statements of a transaction have taken [`STATEMENTS_MAX`].
pub(in crate::ledger::database) fn limit() -> tokio::time::Sleep {
    tokio::time::sleep(STATEMENTS_MAX)
}

/// A transaction.
pub(in crate::ledger) enum Tx {
    Writing(Writing),
    Reading(Transaction<'static, Postgres>),
}

/// A transaction that writes. Dropped before its end, it closes its connection, which undoes it.
pub(in crate::ledger) struct Writing {
    /// Where the connection is between transactions.
    pub(super) writer: OwnedMutexGuard<Option<PgConnection>>,
    pub(super) connection: PgConnection,
    /// The row of the process, if it is not the active one.
    node: Option<String>,
    /// By which the database knows it afterwards: random.
    pub(super) number: i64,
    /// The last row id that it gave out.
    last_id: Option<i64>,
}

impl Tx {
    /// The connection below.
    pub(in crate::ledger::database) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Writing(tx) => &mut tx.connection,
            Self::Reading(tx) => tx,
        }
    }

    /// The first of `count` new row ids that follow each other, all greater than all before them of any process.
    pub(in crate::ledger::database) fn new_ids(&mut self, count: u32, now: Timestamp) -> i64 {
        let first = row::new_ids(count, now);
        if let Self::Writing(tx) = self {
            tx.last_id = Some(first + i64::from(count) - 1);
        }
        first
    }

    pub(in crate::ledger::database) async fn commit(self) -> Committed {
        match self {
            Self::Writing(tx) => tx.commit().await,
            Self::Reading(tx) => match tx.commit().await {
                Ok(()) => Committed::Yes,
                Err(error) => Committed::No(error),
            },
        }
    }

    /// Undoes it. Should that fail, the connection is closed, which undoes it as well.
    pub(in crate::ledger::database) async fn roll_back(self) {
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
    pub(super) writer: OwnedMutexGuard<Option<PgConnection>>,
    pub(super) number: i64,
    pub(super) error: sqlx::Error,
}

impl Unanswered {
    /// For those who find out in another way: why there was no answer.
    pub(in crate::ledger::database) fn into_error(self) -> sqlx::Error {
        self.error
    }
}
