//! Attempts of one action: on SQLite there is one, on PostgreSQL as many as an outage needs.
//!
//! Everything that does not depend on the action is here, and compiled once: `Database` has a copy of its own code for
//! each of some hundred actions.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use super::{Committed, Connection, Database, Error, Tx, postgres, sqlite};

/// The attempts of one action.
pub(super) struct Attempts<'d> {
    database: &'d Database,
    action: &'static str,
    outage: Option<postgres::Outage<'d>>,
}

impl<'d> Attempts<'d> {
    pub(super) fn of(database: &'d Database, action: &'static str) -> Self {
        let outage = match database {
            Database::Sqlite(_) => None,
            Database::Postgres(database) => Some(postgres::Outage::new(database, action)),
        };
        Self {
            database,
            action,
            outage,
        }
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&mut self) -> Result<Tx, Error> {
        loop {
            match self.database.begin().await {
                Ok(tx) => return Ok(tx),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Begins a transaction that reads.
    pub(super) async fn begin_reading(&mut self) -> Result<Tx, Error> {
        loop {
            match self.database.begin_reading().await {
                Ok(tx) => return Ok(tx),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// A connection that reads.
    pub(super) async fn reader(&mut self) -> Result<Connection, Error> {
        loop {
            match self.database.reader().await {
                Ok(connection) => return Ok(connection),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// What the statements of one attempt return: an error if a server takes too long.
    pub(super) fn limit<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, sqlx::Error>> {
        // Otherwise each caller's future holds them several times.
        let mut statements = Box::pin(statements);
        let mut limit = Limit(self.outage.is_some().then(|| Box::pin(postgres::limit())));
        poll_fn(move |context| match statements.as_mut().poll(context) {
            Poll::Pending => limit.poll(context).map(Err),
            Poll::Ready(done) => Poll::Ready(done),
        })
    }

    /// Commits a transaction. False: it was not, and the action has to be done again.
    ///
    /// # Errors
    /// As [`Self::wait_after`].
    pub(super) async fn commit(&mut self, tx: Tx) -> Result<bool, Error> {
        let committed = match (tx.commit().await, &mut self.outage) {
            (Committed::Yes, _) => true,
            (Committed::No(error), _) => {
                self.wait_after(error).await?;
                false
            }
            (Committed::Unknown(commit), Some(outage)) => outage.was_committed(commit).await?,
            // Only a server can lose an answer.
            (Committed::Unknown(_), None) => false,
        };
        if committed {
            self.done();
        }
        Ok(committed)
    }

    /// Undoes a transaction that failed, and returns when the action may be repeated.
    ///
    /// # Errors
    /// As [`Self::wait_after`].
    pub(super) async fn roll_back(&mut self, tx: Tx, error: sqlx::Error) -> Result<(), Error> {
        tx.roll_back().await;
        self.wait_after(error).await
    }

    /// Returns when the action may be repeated.
    ///
    /// # Errors
    /// It would fail again.
    pub(super) async fn wait_after(&mut self, error: sqlx::Error) -> Result<(), Error> {
        match &mut self.outage {
            Some(outage) => Box::pin(outage.wait_after(error)).await,
            None => Err(sqlite::classify(self.action, error)),
        }
    }

    /// The last attempt succeeded.
    pub(super) fn done(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.over();
        }
    }
}

/// The time that a server has for the statements of one attempt.
struct Limit(Option<Pin<Box<Sleep>>>);

impl Limit {
    /// Ready when the time is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<sqlx::Error> {
        match &mut self.0 {
            Some(limit) => limit
                .as_mut()
                .poll(context)
                .map(|()| sqlx::Error::Io(ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}
