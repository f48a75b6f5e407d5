//! The content of a database as rows of values, for a copy from one engine to the other.
//!
//! Takes a connection, and returns the tables with their columns, pages of their rows and digests of those; fills the
//! tables of another database. Tables and columns are found in the database itself: what a migration adds is copied
//! without a change here. A page follows from the last key of the one before, so memory does not grow with the ledger.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Error, FromRow, Row as _, TypeInfo as _, ValueRef as _};

use super::sql::{self, Executor, On, Value};

/// Rows that are read and written together.
const PAGE: usize = 500;

/// Tables of an engine or of one place, which are not part of what is copied.
const LEFT_OUT: [&str; 8] = [
    "_sqlx_migrations",
    "cluster",
    "created_folders",
    "drawn_requests",
    "lease",
    "moved",
    "nodes",
    "seen_shares",
];

/// The table that has a row from the beginning.
const SEEDED: &str = "last_number";

/// A table, as both engines have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Table {
    pub(in crate::ledger) name: String,
    /// By name: the engines have them in different orders.
    columns: Vec<Column>,
    /// The primary key. Empty: a table with a few rows.
    key: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    kind: Kind,
}

/// What a column is declared to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Text,
    Bytes,
}

/// A row, in the order of the columns.
#[derive(Debug)]
pub(in crate::ledger) struct Cells(Vec<Cell>);

#[derive(Debug)]
enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The number of rows of a table, and a digest of all their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDigest {
    /// Rows.
    pub rows: u64,
    /// Hexadecimal.
    pub digest: String,
}

/// Digests a table page by page.
pub(in crate::ledger) struct Digesting {
    rows: u64,
    hash: blake3::Hasher,
}

impl Digesting {
    pub(in crate::ledger) fn new() -> Self {
        Self {
            rows: 0,
            hash: blake3::Hasher::new(),
        }
    }

    pub(in crate::ledger) fn add(&mut self, rows: &[Cells]) {
        self.rows += rows.len() as u64;
        for cell in rows.iter().flat_map(|row| &row.0) {
            let (kind, bytes) = match cell {
                Cell::Null => (0, Cow::Borrowed(&[][..])),
                Cell::Integer(number) => (1, Cow::Owned(number.to_be_bytes().to_vec())),
                Cell::Text(text) => (2, Cow::Borrowed(text.as_bytes())),
                Cell::Bytes(bytes) => (3, Cow::Borrowed(&bytes[..])),
            };
            self.hash.update(&[kind]);
            self.hash.update(&(bytes.len() as u64).to_be_bytes());
            self.hash.update(&bytes);
        }
    }

    pub(in crate::ledger) fn finish(self) -> TableDigest {
        TableDigest {
            rows: self.rows,
            digest: self.hash.finalize().to_hex().to_string(),
        }
    }
}

/// The tables with the content of a ledger, by name. None before the first migration.
pub(in crate::ledger) async fn tables(on: &mut impl Executor) -> Result<Vec<Table>, Error> {
    // Table, column, type, place in the primary key or 0.
    type Found = (String, String, String, i64);
    const OF_SQLITE: &str = "SELECT t.name, c.name, c.type, c.pk FROM sqlite_master t JOIN pragma_table_info(t.name) c \
                             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite~_%' ESCAPE '~'";
    const OF_POSTGRES: &str = "SELECT t.relname::TEXT, a.attname::TEXT, upper(format_type(a.atttypid, NULL)), \
                               COALESCE(array_position(string_to_array(i.indkey::TEXT, ' '), a.attnum::TEXT), 0)::BIGINT \
                               FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
                               LEFT JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary \
                               WHERE t.relkind = 'r' AND t.relnamespace = quote_ident(current_schema())::regnamespace";
    let found: Vec<Found> = match on.on() {
        On::Sqlite(connection) => sqlx::query_as(OF_SQLITE).fetch_all(connection).await?,
        On::Postgres(connection) => sqlx::query_as(OF_POSTGRES).fetch_all(connection).await?,
    };
    let mut tables: BTreeMap<String, BTreeMap<String, (Kind, i64)>> = BTreeMap::new();
    for (table, column, declared, place) in found {
        if LEFT_OUT.contains(&table.as_str()) {
            continue;
        }
        let kind = match declared.as_str() {
            "INTEGER" | "BIGINT" => Kind::Integer,
            "TEXT" => Kind::Text,
            "BYTEA" => Kind::Bytes,
            other => {
                let text = format!("column {column} of table {table} has the type {other}");
                return Err(Error::Decode(text.into()));
            }
        };
        let columns = tables.entry(table).or_default();
        columns.insert(column, (kind, place));
    }
    Ok(tables.into_iter().map(Table::new).collect())
}

/// Whether a ledger with these tables has no content.
pub(in crate::ledger) async fn is_empty(
    on: &mut impl Executor,
    tables: &[Table],
) -> Result<bool, Error> {
    for table in tables.iter().filter(|table| table.name != SEEDED) {
        let any = format!("SELECT CAST(1 AS BIGINT) FROM {} LIMIT 1", table.name);
        let any = sql::query_scalar::<i64>(AssertSqlSafe(any));
        if any.fetch_optional(on).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Table {
    fn new((name, found): (String, BTreeMap<String, (Kind, i64)>)) -> Self {
        let mut key: Vec<(i64, usize)> = Vec::new();
        let mut columns = Vec::new();
        for (index, (name, (kind, place))) in found.into_iter().enumerate() {
            if place > 0 {
                key.push((place, index));
            }
            columns.push(Column { name, kind });
        }
        key.sort_unstable();
        Self {
            name,
            columns,
            key: key.into_iter().map(|(_, index)| index).collect(),
        }
    }

    /// The next rows in the order of the key, after this one; whether there may be more.
    pub(in crate::ledger) async fn page(
        &self,
        on: &mut impl Executor,
        after: Option<&Cells>,
    ) -> Result<(Vec<Cells>, bool), Error> {
        let every: Vec<usize> = (0..self.columns.len()).collect();
        let (columns, table) = (self.names(&every), &self.name);
        let mut sql = format!("SELECT {columns} FROM {table}");
        if self.key.is_empty() {
            sql += &format!(" ORDER BY {columns}");
        } else {
            let key = self.names(&self.key);
            if after.is_some() {
                sql += &format!(" WHERE ({key}) > ({})", parameters(1, self.key.len()));
            }
            sql += &format!(" ORDER BY {key} LIMIT {PAGE}");
        }
        let mut query = sql::query_as::<Cells>(AssertSqlSafe(sql));
        if let Some(row) = after {
            for &index in &self.key {
                query = query.bind_value(self.value(row, index)?);
            }
        }
        let rows = query.fetch_all(on).await?;
        let more = rows.len() == PAGE && !self.key.is_empty();
        Ok((rows, more))
    }

    /// Adds rows.
    pub(in crate::ledger) async fn insert(
        &self,
        on: &mut impl Executor,
        rows: &[Cells],
    ) -> Result<(), Error> {
        let values_max = match on.on() {
            // SQLite looks through the names of all arguments for each of them.
            On::Sqlite(_) => 120,
            // The protocol has 65,535.
            On::Postgres(_) => 30_000,
        };
        let width = self.columns.len();
        let every: Vec<usize> = (0..width).collect();
        for rows in rows.chunks((values_max / width).max(1)) {
            let values: Vec<String> = (0..rows.len())
                .map(|row| format!("({})", parameters(row * width + 1, width)))
                .collect();
            let sql = format!(
                "INSERT INTO {} ({}) VALUES {}",
                self.name,
                self.names(&every),
                values.join(", ")
            );
            let mut query = sql::query(AssertSqlSafe(sql));
            for row in rows {
                for index in 0..width {
                    query = query.bind_value(self.value(row, index)?);
                }
            }
            query.execute(on).await?;
        }
        Ok(())
    }

    fn names(&self, columns: &[usize]) -> String {
        let names = columns.iter().filter_map(|&index| self.columns.get(index));
        let names: Vec<&str> = names.map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    /// A value of a row, as an argument.
    fn value<'r>(&self, row: &'r Cells, index: usize) -> Result<Value<'r>, Error> {
        let (Some(column), Some(cell)) = (self.columns.get(index), row.0.get(index)) else {
            return Err(Error::ColumnIndexOutOfBounds {
                index,
                len: row.0.len(),
            });
        };
        match (column.kind, cell) {
            (Kind::Integer, Cell::Null) => Ok(Value::Integer(None)),
            (Kind::Text, Cell::Null) => Ok(Value::Text(None)),
            (Kind::Bytes, Cell::Null) => Ok(Value::Bytes(None)),
            (Kind::Integer, Cell::Integer(number)) => Ok(Value::Integer(Some(*number))),
            (Kind::Text, Cell::Text(text)) => Ok(Value::Text(Some(Cow::Borrowed(text)))),
            (Kind::Bytes, Cell::Bytes(bytes)) => Ok(Value::Bytes(Some(Cow::Borrowed(bytes)))),
            // SQLite stores any value in any column.
            _ => Err(self.unexpected(&column.name)),
        }
    }

    fn unexpected(&self, column: &str) -> Error {
        let text = format!(
            "column {column} of table {} has a value of another type",
            self.name
        );
        Error::Decode(text.into())
    }
}

/// `$first, …`
fn parameters(first: usize, count: usize) -> String {
    let all: Vec<String> = (first..first + count).map(|n| format!("${n}")).collect();
    all.join(", ")
}

/// Decodes rows by the types of their values.
macro_rules! cells {
    ($row:ty, $integer:literal, $text:literal, $bytes:literal) => {
        impl FromRow<'_, $row> for Cells {
            fn from_row(row: &$row) -> Result<Self, Error> {
                let cell = |index| {
                    let value = row.try_get_raw(index)?;
                    if value.is_null() {
                        return Ok(Cell::Null);
                    }
                    match value.type_info().name() {
                        $integer => Ok(Cell::Integer(row.try_get(index)?)),
                        // PostgreSQL has no text with a NUL, which the platform's answers may have: the ledger
                        // replaces it there, and so that both sides are equal, here.
                        $text => Ok(Cell::Text(without_nul(row.try_get(index)?))),
                        $bytes => Ok(Cell::Bytes(row.try_get(index)?)),
                        other => Err(Error::Decode(
                            format!("a value has the type {other}").into(),
                        )),
                    }
                };
                (0..row.len())
                    .map(cell)
                    .collect::<Result<_, Error>>()
                    .map(Self)
            }
        }
    };
}
cells!(SqliteRow, "INTEGER", "TEXT", "BLOB");
cells!(PgRow, "INT8", "TEXT", "BYTEA");

fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{FFFD}")
    } else {
        text
    }
}

/// What a database does by itself when rows change, and that has to wait while it is filled.
pub(in crate::ledger) struct Suspended(Vec<String>);

/// Empties these tables, and has triggers and foreign keys wait.
pub(in crate::ledger) async fn begin_filling(
    on: &mut impl Executor,
    tables: &[Table],
) -> Result<Suspended, Error> {
    match on.on() {
        On::Sqlite(connection) => begin_on_sqlite(connection, tables).await,
        On::Postgres(connection) => begin_on_postgres(connection, tables).await,
    }
}

/// Triggers and foreign keys work again, and new ids follow those of the rows.
pub(in crate::ledger) async fn end_filling(
    on: &mut impl Executor,
    tables: &[Table],
    suspended: Suspended,
) -> Result<(), Error> {
    match on.on() {
        On::Sqlite(connection) => {
            for sql in suspended.0 {
                execute(connection, sql).await?;
            }
            Ok(())
        }
        On::Postgres(connection) => end_on_postgres(connection, tables, suspended).await,
    }
}

async fn begin_on_sqlite(
    connection: &mut SqliteConnection,
    tables: &[Table],
) -> Result<Suspended, Error> {
    // Until the commit.
    execute(connection, "PRAGMA defer_foreign_keys = ON".to_owned()).await?;
    let triggers: Vec<(String, String)> =
        sqlx::query_as("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
            .fetch_all(&mut *connection)
            .await?;
    let mut suspended = Vec::new();
    for (name, sql) in triggers {
        execute(connection, format!("DROP TRIGGER {name}")).await?;
        suspended.push(sql);
    }
    for table in tables {
        execute(connection, format!("DELETE FROM {}", table.name)).await?;
    }
    Ok(Suspended(suspended))
}

async fn begin_on_postgres(
    connection: &mut PgConnection,
    tables: &[Table],
) -> Result<Suspended, Error> {
    const KEYS: &str = "SELECT conrelid::regclass::TEXT, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint \
                        WHERE contype = 'f' AND connamespace = quote_ident(current_schema())::regnamespace ORDER BY oid";
    // To check a foreign key takes longer than any other statement of a ledger.
    execute_on_server(connection, "SET LOCAL statement_timeout = 0".to_owned()).await?;
    let keys: Vec<(String, String, String)> =
        sqlx::query_as(KEYS).fetch_all(&mut *connection).await?;
    let mut suspended = Vec::new();
    for (table, name, definition) in keys {
        execute_on_server(
            connection,
            format!("ALTER TABLE {table} DROP CONSTRAINT {name}"),
        )
        .await?;
        suspended.push(format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"
        ));
    }
    for table in tables {
        let name = &table.name;
        execute_on_server(
            connection,
            format!("ALTER TABLE {name} DISABLE TRIGGER USER"),
        )
        .await?;
    }
    execute_on_server(connection, format!("TRUNCATE {}", names(tables))).await?;
    Ok(Suspended(suspended))
}

async fn end_on_postgres(
    connection: &mut PgConnection,
    tables: &[Table],
    suspended: Suspended,
) -> Result<(), Error> {
    for table in tables {
        let name = &table.name;
        execute_on_server(
            connection,
            format!("ALTER TABLE {name} ENABLE TRIGGER USER"),
        )
        .await?;
    }
    for sql in suspended.0 {
        execute_on_server(connection, sql).await?;
    }
    for table in tables {
        let is_id = |column: &Column| column.name == "id" && column.kind == Kind::Integer;
        if table.columns.iter().any(is_id) {
            let sql = format!(
                "UPDATE cluster SET last_id = GREATEST(last_id, (SELECT MAX(id) FROM {}))",
                table.name
            );
            execute_on_server(connection, sql).await?;
        }
    }
    // Otherwise the server plans for empty tables until it finds out.
    execute_on_server(connection, format!("ANALYZE {}", names(tables))).await
}

fn names(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    names.join(", ")
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

async fn execute_on_server(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}
