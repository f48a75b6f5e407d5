//! Connections to the file that stay open, each used by one caller at a time, and their transactions.
//!
//! In place of sqlx's pool and transactions. A pool asks a connection twice per use whether it still answers, and each
//! begin and end of a transaction waits for the thread of the connection in both directions. That costs as much as the
//! short statements between them, and a file does not hang up.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// A caller waits this long for its turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connections with the same options, each opened when it is first needed. Cheap to clone; all clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    options: Arc<SqliteConnectOptions>,
    slots: Arc<[Slot]>,
    /// As many permits as there are slots that nobody uses.
    free: Arc<Semaphore>,
}

type Slot = Arc<Mutex<Option<Opened>>>;

struct Opened {
    connection: SqliteConnection,
    /// A transaction was begun, and it is not known that it was committed or undone.
    in_transaction: bool,
}

/// A connection that nobody else uses.
pub(in crate::ledger) struct Connection {
    // Returned before the permit, so that whoever gets the permit finds it.
    opened: OwnedMappedMutexGuard<Option<Opened>, Opened>,
    _turn: OwnedSemaphorePermit,
}

/// A transaction. Undone when it is dropped.
pub(in crate::ledger) struct Tx(Connection);

impl Connections {
    pub(super) fn new(count: usize, options: SqliteConnectOptions) -> Self {
        Self {
            options: Arc::new(options),
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: Arc::new(Semaphore::new(count)),
        }
    }

    /// The options of each.
    pub(super) fn options(&self) -> &SqliteConnectOptions {
        &self.options
    }

    /// A connection, once one is free.
    ///
    /// # Errors
    /// It cannot be opened; none is free within a minute; they are closed.
    pub(super) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let turn = tokio::time::timeout(PATIENCE, self.free.clone().acquire_owned())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        for slot in self.slots.iter() {
            let Ok(mut slot) = slot.clone().try_lock_owned() else {
                continue;
            };
            if let Some(opened) = &mut *slot
                && !opened.undo().await
            {
                *slot = None;
            }
            if slot.is_none() {
                *slot = Some(Opened {
                    connection: self.options.connect().await?,
                    in_transaction: false,
                });
            }
            if let Ok(opened) = OwnedMutexGuard::try_map(slot, Option::as_mut) {
                return Ok(Connection {
                    opened,
                    _turn: turn,
                });
            }
        }
        // Cannot happen: there is a slot for each permit.
        Err(sqlx::Error::PoolTimedOut)
    }

    /// Begins a transaction, once a connection is free.
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        let mut tx = Tx(self.acquire().await?);
        let Opened {
            connection,
            in_transaction,
        } = &mut *tx.0.opened;
        *in_transaction = true;
        sqlx::query("BEGIN").execute(connection).await?;
        Ok(tx)
    }

    /// Closes all of them, once their callers have returned them.
    pub(super) async fn close(&self) {
        self.free.close();
        for slot in self.slots.iter() {
            let opened = slot.lock().await.take();
            if let Some(opened) = opened {
                drop(opened.connection.close().await);
            }
        }
    }
}

impl Opened {
    /// Undoes the transaction whose caller has dropped it. False if the connection no longer works.
    async fn undo(&mut self) -> bool {
        if self.in_transaction {
            let undone = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
            // SQLite undoes it by itself after some errors, and then there is none.
            self.in_transaction =
                matches!(undone, Err(error) if error.as_database_error().is_none());
        }
        !self.in_transaction
    }
}

impl Tx {
    pub(in crate::ledger) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let opened = &mut *self.0.opened;
        let committing = sqlx::query("COMMIT").execute(&mut opened.connection);
        committing.await?;
        opened.in_transaction = false;
        Ok(())
    }

    /// Undoes it, and waits for that.
    pub(in crate::ledger) async fn rollback(mut self) {
        self.0.opened.undo().await;
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let opened = &mut *self.0.opened;
        if opened.in_transaction {
            // Sent to the thread of the connection, whose answer nobody waits for.
            let undoing = sqlx::query("ROLLBACK").execute(&mut opened.connection);
            drop(undoing.now_or_never());
        }
    }
}

impl Deref for Connection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.opened.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.opened.connection
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    async fn connections(count: usize) -> (tempfile::TempDir, Connections) {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(dir.path().join("a.db"))
            .create_if_missing(true);
        let connections = Connections::new(count, options);
        let mut connection = connections.acquire().await.unwrap();
        let table = sqlx::query("CREATE TABLE numbers (number)");
        table.execute(&mut *connection).await.unwrap();
        drop(connection);
        (dir, connections)
    }

    async fn insert(tx: &mut Tx) {
        let row = sqlx::query("INSERT INTO numbers VALUES (1)");
        row.execute(&mut **tx).await.unwrap();
    }

    async fn count(connections: &Connections) -> i64 {
        let mut connection = connections.acquire().await.unwrap();
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM numbers");
        count.fetch_one(&mut *connection).await.unwrap()
    }

    #[tokio::test]
    async fn a_transaction_is_undone_when_it_is_dropped_or_rolled_back_and_kept_when_it_is_committed()
     {
        for slots in [1, 2] {
            let (_dir, connections) = connections(slots).await;
            let mut tx = connections.begin().await.unwrap();
            insert(&mut tx).await;
            drop(tx);
            assert_eq!(count(&connections).await, 0);
            let mut tx = connections.begin().await.unwrap();
            insert(&mut tx).await;
            tx.rollback().await;
            assert_eq!(count(&connections).await, 0);
            let mut tx = connections.begin().await.unwrap();
            insert(&mut tx).await;
            tx.commit().await.unwrap();
            assert_eq!(count(&connections).await, 1);
            connections.close().await;
        }
    }

    #[tokio::test]
    async fn a_dropped_transaction_holds_no_lock_even_if_its_connection_is_not_used_again() {
        let (_dir, connections) = connections(2).await;
        let mut tx = connections.begin().await.unwrap();
        insert(&mut tx).await;
        drop(tx);
        let mut others = SqliteConnection::connect_with(&connections.options.as_ref().clone())
            .await
            .unwrap();
        let row = sqlx::query("INSERT INTO numbers VALUES (2)");
        row.execute(&mut others).await.unwrap();
        assert_eq!(count(&connections).await, 1);
    }

    #[tokio::test]
    async fn a_caller_waits_for_a_free_connection_and_none_gets_one_that_is_closed() {
        let (_dir, connections) = connections(1).await;
        let tx = connections.begin().await.unwrap();
        let waits = connections.acquire();
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        tx.commit().await.unwrap();
        drop(waits.await.unwrap());
        connections.close().await;
        let closed = connections.acquire().await.err().unwrap();
        assert!(matches!(closed, sqlx::Error::PoolClosed), "{closed}");
    }
}
