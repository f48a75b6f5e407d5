//! Statements of the ledger.
//!
//! Takes SQL text and its arguments, and returns decoded rows or the number of changed ones. The functions have the
//! names and the use of sqlx's own; but no type of the engine is seen outside of `database`, and each statement runs
//! on a [`Tx`](super::Tx) or a [`Connection`](super::Connection) of it. The text is in the SQL that PostgreSQL and
//! SQLite have in common, with `$1`, `$2` … for its arguments.

use std::borrow::Cow;
use std::marker::PhantomData;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Error, FromRow, SqlSafeStr, SqlStr};

use super::super::ids::{ConnectionId, FileId, RunId, WatchId};
use crate::connector_type::ConnectorType;
use crate::ids::{ImodelId, StorageFileId};

/// What statements run on: a transaction, or a connection.
pub(in crate::ledger) trait Executor: Send {
    /// The connection below.
    fn on(&mut self) -> On<'_>;
}

/// A connection of either engine.
pub(in crate::ledger) enum On<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// A value of an argument. NULL has a type as well.
#[derive(Clone)]
pub(in crate::ledger) enum Value<'q> {
    Integer(Option<i64>),
    Flag(Option<bool>),
    Text(Option<Cow<'q, str>>),
    Bytes(Option<Cow<'q, [u8]>>),
}

/// What can be an argument.
pub(in crate::ledger) trait Argument<'q> {
    /// NULL in place of it.
    const NULL: Value<'q>;

    fn value(self) -> Value<'q>;
}

impl<'q, T: Argument<'q>> Argument<'q> for Option<T> {
    const NULL: Value<'q> = T::NULL;

    fn value(self) -> Value<'q> {
        self.map_or(T::NULL, T::value)
    }
}

impl<'q, T> Argument<'q> for &'q Option<T>
where
    &'q T: Argument<'q>,
{
    const NULL: Value<'q> = <&'q T>::NULL;

    fn value(self) -> Value<'q> {
        self.as_ref().value()
    }
}

/// Makes types arguments.
macro_rules! arguments {
    ($($type:ty, $kind:ident, $this:ident => $value:expr;)+) => {$(
        impl<'q> $crate::ledger::sql::Argument<'q> for $type {
            const NULL: $crate::ledger::sql::Value<'q> = $crate::ledger::sql::Value::$kind(None);

            fn value(self) -> $crate::ledger::sql::Value<'q> {
                let $this = self;
                $crate::ledger::sql::Value::$kind(Some($value))
            }
        }
    )+};
}
pub(in crate::ledger) use arguments;

arguments!(
    i64, Integer, number => number;
    &'q i64, Integer, number => *number;
    bool, Flag, flag => flag;
    &'q str, Text, text => Cow::Borrowed(text);
    &'q String, Text, text => Cow::Borrowed(text);
    String, Text, text => Cow::Owned(text);
    ConnectorType, Text, connector => Cow::Owned(connector.as_str().to_owned());
    &'q ConnectorType, Text, connector => Cow::Borrowed(connector.as_str());
    &'q ImodelId, Text, id => Cow::Borrowed(id.as_str());
    &'q StorageFileId, Text, id => Cow::Borrowed(id.as_str());
    &'q [u8], Bytes, bytes => Cow::Borrowed(bytes);
    &'q Vec<u8>, Bytes, bytes => Cow::Borrowed(bytes);
    Vec<u8>, Bytes, bytes => Cow::Owned(bytes);
    ConnectionId, Integer, id => id.0;
    FileId, Integer, id => id.0;
    &'q FileId, Integer, id => id.0;
    RunId, Integer, id => id.0;
    WatchId, Integer, id => id.0;
);

/// Decodes columns as these types: for each, the type that the database stores, and the conversion from it.
///
/// Done here and not with `sqlx::Type`: the macros of sqlx have every engine compiled a second time, for themselves.
macro_rules! columns {
    ($($type:ty, $stored:ty, $value:ident => $made:expr;)+) => {$(
        impl<DB: sqlx::Database> sqlx::Type<DB> for $type
        where
            $stored: sqlx::Type<DB>,
        {
            fn type_info() -> DB::TypeInfo {
                <$stored as sqlx::Type<DB>>::type_info()
            }

            fn compatible(ty: &DB::TypeInfo) -> bool {
                <$stored as sqlx::Type<DB>>::compatible(ty)
            }
        }

        impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for $type
        where
            $stored: sqlx::Decode<'r, DB>,
        {
            fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                let $value = <$stored as sqlx::Decode<DB>>::decode(value)?;
                Ok($made)
            }
        }
    )+};
}
pub(in crate::ledger) use columns;

columns!(
    ConnectorType, String, name => Self::from(name);
    ImodelId, String, id => Self::from(id);
    StorageFileId, String, id => Self::from(id);
    ConnectionId, i64, id => Self(id);
    FileId, i64, id => Self(id);
    RunId, i64, id => Self(id);
    WatchId, i64, id => Self(id);
);

/// A struct that is decoded from a row, in place of `#[derive(sqlx::FromRow)]`. The column has the name of the field,
/// or what follows as in `limit: i64 = "bulk_change_limit"`; `found: VersionColumns = ..` is a struct of further
/// columns.
macro_rules! row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$of_field:meta])* $shown:vis $field:ident: $type:ty $(= $from:tt)?),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$of_field])* $shown $field: $type),+
        }

        $crate::ledger::sql::row!(@for sqlx::sqlite::SqliteRow, $name { $($field $(= $from)?),+ });
        $crate::ledger::sql::row!(@for sqlx::postgres::PgRow, $name { $($field $(= $from)?),+ });
    };
    (@for $engine:ty, $name:ident { $($field:ident $(= $from:tt)?),+ }) => {
        impl sqlx::FromRow<'_, $engine> for $name {
            fn from_row(row: &$engine) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($field: $crate::ledger::sql::row!(@read row, $field $($from)?)?),+
                })
            }
        }
    };
    (@read $row:ident, $field:ident) => {
        sqlx::Row::try_get($row, stringify!($field))
    };
    (@read $row:ident, $field:ident ..) => {
        sqlx::FromRow::from_row($row)
    };
    (@read $row:ident, $field:ident $column:literal) => {
        sqlx::Row::try_get($row, $column)
    };
}
pub(in crate::ledger) use row;

/// A row, as [`row`] and tuples decode it.
pub(in crate::ledger) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Row for T {}

/// A statement whose rows are not read.
pub(in crate::ledger) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q> {
    Query {
        sql: sql.into_sql_str(),
        values: Vec::new(),
    }
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
pub(in crate::ledger) struct Query<'q> {
    sql: SqlStr,
    values: Vec<Value<'q>>,
}

/// A statement with its arguments, and the type of its rows.
#[must_use = "a query does nothing until it is executed"]
pub(in crate::ledger) struct QueryAs<'q, T> {
    query: Query<'q>,
    row: PhantomData<fn() -> T>,
}

/// A statement with its arguments, and the type of its only column.
#[must_use = "a query does nothing until it is executed"]
pub(in crate::ledger) struct QueryScalar<'q, T>(QueryAs<'q, (T,)>);

/// Rows as an engine returns them. What does not depend on their type is done with these, and compiled once.
enum Rows {
    Sqlite(Vec<SqliteRow>),
    Postgres(Vec<PgRow>),
}

/// The same for one.
enum OneRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

fn decode<R: sqlx::Row, T: for<'r> FromRow<'r, R>>(rows: &[R]) -> Result<Vec<T>, Error> {
    let mut decoded = Vec::with_capacity(rows.len());
    for row in rows {
        decoded.push(T::from_row(row)?);
    }
    Ok(decoded)
}

impl<'q> Query<'q> {
    /// The value of the next `$n`.
    pub(in crate::ledger) fn bind(mut self, value: impl Argument<'q>) -> Self {
        self.values.push(value.value());
        self
    }

    /// The same for a value whose type is known at run time.
    pub(in crate::ledger) fn bind_value(mut self, value: Value<'q>) -> Self {
        self.values.push(value);
        self
    }

    /// Runs it; returns the number of rows that it changed.
    pub(in crate::ledger) async fn execute(self, on: &mut impl Executor) -> Result<u64, Error> {
        Box::pin(self.changed(on.on())).await
    }

    async fn changed(self, on: On<'_>) -> Result<u64, Error> {
        match on {
            On::Sqlite(connection) => {
                let arguments = self.for_sqlite()?;
                let done = sqlx::query_with(self.sql, arguments).execute(connection);
                Ok(done.await?.rows_affected())
            }
            On::Postgres(connection) => {
                let arguments = self.for_postgres()?;
                let done = sqlx::query_with(self.sql, arguments).execute(connection);
                Ok(done.await?.rows_affected())
            }
        }
    }

    async fn rows(self, on: On<'_>) -> Result<Rows, Error> {
        match on {
            On::Sqlite(connection) => {
                let arguments = self.for_sqlite()?;
                let rows = sqlx::query_with(self.sql, arguments).fetch_all(connection);
                Ok(Rows::Sqlite(rows.await?))
            }
            On::Postgres(connection) => {
                let arguments = self.for_postgres()?;
                let rows = sqlx::query_with(self.sql, arguments).fetch_all(connection);
                Ok(Rows::Postgres(rows.await?))
            }
        }
    }

    async fn first_row(self, on: On<'_>) -> Result<Option<OneRow>, Error> {
        match on {
            On::Sqlite(connection) => {
                let arguments = self.for_sqlite()?;
                let row = sqlx::query_with(self.sql, arguments).fetch_optional(connection);
                Ok(row.await?.map(OneRow::Sqlite))
            }
            On::Postgres(connection) => {
                let arguments = self.for_postgres()?;
                let row = sqlx::query_with(self.sql, arguments).fetch_optional(connection);
                Ok(row.await?.map(OneRow::Postgres))
            }
        }
    }

    fn for_sqlite(&self) -> Result<SqliteArguments, Error> {
        #[cfg(test)]
        executed::note(self.sql.as_str());
        let mut arguments = SqliteArguments::default();
        for value in &self.values {
            match value {
                Value::Integer(number) => arguments.add(*number),
                Value::Flag(flag) => arguments.add(*flag),
                Value::Text(text) => arguments.add(text.as_deref()),
                Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
            }
            .map_err(Error::Encode)?;
        }
        Ok(arguments)
    }

    fn for_postgres(&self) -> Result<PgArguments, Error> {
        let mut arguments = PgArguments::default();
        for value in &self.values {
            match value {
                Value::Integer(number) => arguments.add(*number),
                Value::Flag(flag) => arguments.add(*flag),
                // PostgreSQL has no text with a NUL, which the platform's answers may have.
                Value::Text(Some(text)) if text.contains('\0') => {
                    arguments.add(text.replace('\0', "\u{FFFD}"))
                }
                Value::Text(text) => arguments.add(text.as_deref()),
                Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
            }
            .map_err(Error::Encode)?;
        }
        Ok(arguments)
    }
}

impl<'q, T: Row> QueryAs<'q, T> {
    /// The value of the next `$n`.
    pub(in crate::ledger) fn bind(mut self, value: impl Argument<'q>) -> Self {
        self.query = self.query.bind(value);
        self
    }

    /// The same for a value whose type is known at run time.
    pub(in crate::ledger) fn bind_value(mut self, value: Value<'q>) -> Self {
        self.query = self.query.bind_value(value);
        self
    }

    /// Its rows, which the statement limits.
    pub(in crate::ledger) async fn fetch_all(
        self,
        on: &mut impl Executor,
    ) -> Result<Vec<T>, Error> {
        match Box::pin(self.query.rows(on.on())).await? {
            Rows::Sqlite(rows) => decode(&rows),
            Rows::Postgres(rows) => decode(&rows),
        }
    }

    /// Its row, if there is one.
    pub(in crate::ledger) async fn fetch_optional(
        self,
        on: &mut impl Executor,
    ) -> Result<Option<T>, Error> {
        match Box::pin(self.query.first_row(on.on())).await? {
            Some(OneRow::Sqlite(row)) => T::from_row(&row).map(Some),
            Some(OneRow::Postgres(row)) => T::from_row(&row).map(Some),
            None => Ok(None),
        }
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

/// The statements that a thread has run on SQLite, for tests of what they cost.
#[cfg(test)]
pub(in crate::ledger) mod executed {
    use std::cell::RefCell;

    thread_local! {
        static STATEMENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(sql: &str) {
        STATEMENTS.with_borrow_mut(|statements| statements.push(sql.to_owned()));
    }

    /// Those since the last call.
    pub(in crate::ledger) fn take() -> Vec<String> {
        STATEMENTS.take()
    }
}
