//! Statements of the ledger.
//!
//! Takes SQL text and its arguments, and returns decoded rows or the number of changed ones. The functions have the
//! names and the use of sqlx's own; but no type of the engine is seen outside of `database`, and each statement runs
//! on a [`Tx`](super::Tx) or a [`Connection`](super::Connection) of it. The text is in the SQL that PostgreSQL and
//! SQLite have in common.

use std::marker::PhantomData;

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Encode, Error, FromRow, SqlSafeStr, Sqlite, Type};

/// What statements run on: a transaction, or a connection.
pub(in crate::ledger) trait Executor: Send {
    /// The connection below.
    fn connection(&mut self) -> &mut SqliteConnection;
}

/// A value of an argument.
pub(in crate::ledger) trait Argument<'q>:
    Encode<'q, Sqlite> + Type<Sqlite> + 'q
{
}

impl<'q, T: Encode<'q, Sqlite> + Type<Sqlite> + 'q> Argument<'q> for T {}

/// A row, as `#[derive(sqlx::FromRow)]` and tuples decode it.
pub(in crate::ledger) trait Row:
    for<'r> FromRow<'r, SqliteRow> + Send + Unpin
{
}

impl<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin> Row for T {}

/// A statement whose rows are not read.
pub(in crate::ledger) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q> {
    Query(sqlx::query(sql))
}

/// A statement whose rows are decoded as `T`.
pub(in crate::ledger) fn query_as<'q, T>(sql: impl SqlSafeStr) -> QueryAs<'q, T> {
    QueryAs {
        query: query(sql),
        row: PhantomData,
    }
}

/// A statement whose rows have one column, decoded as `T`.
pub(in crate::ledger) fn query_scalar<'q, T>(sql: impl SqlSafeStr) -> QueryScalar<'q, T> {
    QueryScalar(query_as(sql))
}

/// A statement with its arguments.
#[must_use = "a query does nothing until it is executed"]
pub(in crate::ledger) struct Query<'q>(sqlx::query::Query<'q, Sqlite, SqliteArguments>);

/// A statement with its arguments, and the type of its rows.
#[must_use = "a query does nothing until it is executed"]
pub(in crate::ledger) struct QueryAs<'q, T> {
    query: Query<'q>,
    row: PhantomData<fn() -> T>,
}

/// A statement with its arguments, and the type of its only column.
#[must_use = "a query does nothing until it is executed"]
pub(in crate::ledger) struct QueryScalar<'q, T>(QueryAs<'q, (T,)>);

impl<'q> Query<'q> {
    /// The value of the next `$n`.
    pub(in crate::ledger) fn bind(self, value: impl Argument<'q>) -> Self {
        Self(self.0.bind(value))
    }

    /// Runs it; returns the number of rows that it changed.
    pub(in crate::ledger) async fn execute(self, on: &mut impl Executor) -> Result<u64, Error> {
        let done = self.0.execute(on.connection()).await?;
        Ok(done.rows_affected())
    }
}

impl<'q, T: Row> QueryAs<'q, T> {
    /// The value of the next `$n`.
    pub(in crate::ledger) fn bind(mut self, value: impl Argument<'q>) -> Self {
        self.query = self.query.bind(value);
        self
    }

    /// Its rows, which the statement limits.
    pub(in crate::ledger) async fn fetch_all(
        self,
        on: &mut impl Executor,
    ) -> Result<Vec<T>, Error> {
        let rows = self.query.0.fetch_all(on.connection()).await?;
        rows.iter().map(T::from_row).collect()
    }

    /// Its row, if there is one.
    pub(in crate::ledger) async fn fetch_optional(
        self,
        on: &mut impl Executor,
    ) -> Result<Option<T>, Error> {
        let row = self.query.0.fetch_optional(on.connection()).await?;
        row.map(|row| T::from_row(&row)).transpose()
    }

    /// Its row.
    ///
    /// # Errors
    /// [`Error::RowNotFound`] when there is none.
    pub(in crate::ledger) async fn fetch_one(self, on: &mut impl Executor) -> Result<T, Error> {
        self.fetch_optional(on).await?.ok_or(Error::RowNotFound)
    }
}

impl<'q, T> QueryScalar<'q, T>
where
    (T,): Row,
{
    /// The value of the next `$n`.
    pub(in crate::ledger) fn bind(self, value: impl Argument<'q>) -> Self {
        Self(self.0.bind(value))
    }

    /// The values of its rows, which the statement limits.
    pub(in crate::ledger) async fn fetch_all(
        self,
        on: &mut impl Executor,
    ) -> Result<Vec<T>, Error> {
        let rows = self.0.fetch_all(on).await?;
        Ok(rows.into_iter().map(|(value,)| value).collect())
    }

    /// The value of its row, if there is one.
    pub(in crate::ledger) async fn fetch_optional(
        self,
        on: &mut impl Executor,
    ) -> Result<Option<T>, Error> {
        Ok(self.0.fetch_optional(on).await?.map(|(value,)| value))
    }

    /// The value of its row.
    ///
    /// # Errors
    /// [`Error::RowNotFound`] when there is none.
    pub(in crate::ledger) async fn fetch_one(self, on: &mut impl Executor) -> Result<T, Error> {
        self.fetch_optional(on).await?.ok_or(Error::RowNotFound)
    }
}
