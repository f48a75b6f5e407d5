//! Copies between SQLite and PostgreSQL: each table, both ways, and what is refused.
//!
//! Longer than most files because it has one test for each way to be refused.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets.

use std::os::unix::ffi::OsStrExt as _;

use sqlx::Connection as _;

use super::super::content;
use super::MIGRATIONS;
use crate::ledger::database::migrations::OF_SQLITE;
use crate::ledger::fixture::*;
use crate::ledger::*;
use crate::ledger_location::Server;

/// More than fit into one page.
const FILES: usize = 1200;

/// A ledger in SQLite, closed, and a schema of the server.
struct Site {
    dir: tempfile::TempDir,
    server: Server,
}

impl Site {
    /// Each table has rows, some with rare values.
    async fn new() -> Self {
        let f = Fixture::on_sqlite().await;
        let names = (0..FILES).map(|n| format!("{}/{n}.dgn", n % 7));
        let mut files: Vec<_> = names.map(|name| ready(&name, 1)).collect();
        files.push(Ready {
            path: std::ffi::OsStr::from_bytes(b"no \xFF text.dgn").into(),
            ..ready("", 1)
        });
        f.ledger.hand_over(f.watch, &files, at(0)).await.unwrap();
        let failed = f.claim(0).await.unwrap();
        let refusal = Refusal {
            reason: "the platform says: \0".to_owned(),
            ..refusal(Again::Never)
        };
        f.ledger.put_off(&failed, &refusal, at(1)).await.unwrap();
        for n in 0..10 {
            let job = f.claim(1).await.unwrap();
            f.store(&job, n, 2).await;
        }
        let run = f.begin_run(3).await;
        f.finish_run(run, Verdict::Synchronized(None), 4).await;
        // In progress when the process ends.
        f.claim(5).await.unwrap();
        let Fixture { dir, ledger, .. } = f;
        let mut connection = ledger.db.connection().await;
        fill_empty_tables(&mut connection).await;
        drop(connection);
        ledger.close().await;
        let server = location(dir.path()).await.server.unwrap();
        Self { dir, server }
    }

    async fn copy(&self, direction: CopyDirection) -> Result<Vec<CopiedTable>, CopyError> {
        let copied = copy(self.dir.path(), &self.server, direction).await?;
        Ok(copied.expect("nothing had been interrupted"))
    }

    fn in_directory(&self) -> LedgerLocation {
        self.dir.path().into()
    }

    fn on_server(&self) -> LedgerLocation {
        LedgerLocation::on(self.server.clone(), self.dir.path())
    }

    async fn connection(&self) -> sqlx::PgConnection {
        let url = self.server.url.as_str();
        sqlx::PgConnection::connect(url).await.unwrap()
    }

    /// Statements on the SQLite file, as another program runs them.
    async fn on_file(&self, sql: &str) {
        let file = self.dir.path().join("ledger.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        sql.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn is_empty_on_server(&self) -> bool {
        let mut connection = crate::ledger::database::Connection::Postgres(
            sqlx::PgPool::connect(self.server.url.as_str())
                .await
                .unwrap()
                .acquire()
                .await
                .unwrap(),
        );
        let tables = content::tables(&mut connection).await.unwrap();
        content::is_empty(&mut connection, &tables).await.unwrap()
    }
}

/// A row for each table that has none: a seven in every column, or what it refers to.
async fn fill_empty_tables(connection: &mut crate::ledger::database::Connection) {
    let sql::On::Sqlite(connection) = sql::Executor::on(connection) else {
        panic!("not on SQLite");
    };
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('moved', '_sqlx_migrations')",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    for table in tables {
        let columns: Vec<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT c.name, c.type, k.\"table\" FROM pragma_table_info($1) c \
             LEFT JOIN pragma_foreign_key_list($1) k ON k.\"from\" = c.name",
        )
        .bind(&table)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let names: Vec<&str> = columns.iter().map(|(name, ..)| name.as_str()).collect();
        let values: Vec<String> = columns
            .iter()
            .map(|(_, kind, target)| match target {
                Some(target) => format!("(SELECT MIN(id) FROM {target})"),
                None if kind == "BYTEA" => "X'07FF'".to_owned(),
                None => "7".to_owned(),
            })
            .collect();
        let fill = format!(
            "INSERT INTO {table} ({}) SELECT {} WHERE NOT EXISTS (SELECT 1 FROM {table})",
            names.join(", "),
            values.join(", ")
        );
        let fill = sqlx::query(sqlx::AssertSqlSafe(fill));
        fill.execute(&mut *connection).await.unwrap();
    }
}

/// All rows are there, and equal.
fn assert_whole(copied: &[CopiedTable]) {
    for table in copied {
        assert_eq!(table.source, table.target, "{}", table.name);
        assert!(table.source.rows > 0, "{} is not tested", table.name);
    }
    let files = copied.iter().find(|table| table.name == "files").unwrap();
    assert_eq!(files.source.rows, FILES as u64 + 1);
}

/// The ledger works: counts, ids and claims follow from what was copied.
async fn assert_works(ledger: &Ledger, name: &str) {
    let watch = ledger
        .register_watches(&[spec("north")], at(10))
        .await
        .unwrap()[0]
        .id;
    assert_counts_are_right(&mut ledger.db.connection().await).await;
    let last = |table: &'static str| async move {
        let sql = format!("SELECT MAX(id) FROM {table}");
        let read = ledger.db.read("read an id", async |db| {
            sql::query_scalar::<i64>(sqlx::AssertSqlSafe(sql.clone()))
                .fetch_one(db)
                .await
        });
        read.await.unwrap()
    };
    let before = (last("files").await, last("steps").await);
    let added = ledger.hand_over(watch, &[ready(name, 1)], at(10)).await;
    assert_eq!(added.unwrap().changed, 1);
    let after = (last("files").await, last("steps").await);
    assert!(
        before.0 < after.0 && before.1 < after.1,
        "{before:?} {after:?}"
    );
    assert_counts_are_right(&mut ledger.db.connection().await).await;
    let uploading = ledger.watch_reports(at(10)).await.unwrap();
    assert_eq!(
        uploading[0].counts.uploading, 0,
        "a claim of a dead process"
    );
}

fn moved(opened: Result<Ledger, Error>) -> String {
    match opened {
        Err(error @ Error::Moved { .. }) => format!("{error}; {}", error.hint().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn every_table_is_equal_and_the_ledger_works_on_the_server_and_back_in_its_directory() {
    let site = Site::new().await;
    let id = {
        let ledger = Ledger::read(site.in_directory()).await.unwrap();
        ledger.id().await.unwrap()
    };
    assert_whole(&site.copy(CopyDirection::ToServer).await.unwrap());

    let text = moved(Ledger::open(site.in_directory()).await);
    let expected = format!("was copied to the database {}", site.server);
    assert!(
        text.contains(&expected) && text.contains("set state.url"),
        "{text}"
    );
    moved(Ledger::read(site.in_directory()).await);

    let ledger = Ledger::open(site.on_server()).await.unwrap();
    assert_eq!(ledger.id().await.unwrap(), id);
    assert_works(&ledger, "of the server.dgn").await;
    ledger.close().await;

    let back = site.copy(CopyDirection::ToDirectory).await.unwrap();
    let files = back.iter().find(|table| table.name == "files").unwrap();
    assert_eq!(files.target.rows, FILES as u64 + 2);
    let text = moved(Ledger::open(site.on_server()).await);
    assert!(text.contains("without state.url"), "{text}");
    let ledger = Ledger::open(site.in_directory()).await.unwrap();
    assert_eq!(ledger.id().await.unwrap(), id);
    assert_works(&ledger, "of the directory.dgn").await;
    ledger.close().await;

    // What was copied before is replaced.
    let again = site.copy(CopyDirection::ToServer).await.unwrap();
    let files = again.iter().find(|table| table.name == "files").unwrap();
    assert_eq!(files.target.rows, FILES as u64 + 3);
    Ledger::open(site.on_server()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_copy_there_and_back_is_equal_to_the_original() {
    let site = Site::new().await;
    // Otherwise the claim in it is dropped.
    Ledger::open(site.in_directory())
        .await
        .unwrap()
        .close()
        .await;
    let there = site.copy(CopyDirection::ToServer).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let back = copy(other.path(), &site.server, CopyDirection::ToDirectory)
        .await
        .unwrap()
        .unwrap();
    for (there, back) in there.iter().zip(&back) {
        assert_eq!(there.source, back.target, "{}", there.name);
    }
    let (there, back) = (CopiedTable::total(&there), CopiedTable::total(&back));
    assert_eq!(there.source, back.target);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_copied_database_has_the_triggers_and_foreign_keys_of_any_other() {
    const FILE: &str = "SELECT name || sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name";
    const STRUCTURE: &str = "SELECT conrelid::regclass::TEXT || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE connamespace = quote_ident(current_schema())::regnamespace \
         UNION SELECT tgrelid::regclass::TEXT || ' ' || tgname || ' ' || tgenabled::TEXT FROM pg_trigger t \
         JOIN pg_class c ON c.oid = tgrelid WHERE NOT tgisinternal AND c.relnamespace = quote_ident(current_schema())::regnamespace ORDER BY 1";
    let (site, other) = (Site::new().await, Fixture::new().await);
    site.copy(CopyDirection::ToServer).await.unwrap();
    let server = location(other.dir.path()).await.server.unwrap();
    let mut fresh = sqlx::PgConnection::connect(server.url.as_str())
        .await
        .unwrap();
    let expected: Vec<String> = sqlx::query_scalar(STRUCTURE)
        .fetch_all(&mut fresh)
        .await
        .unwrap();
    let found: Vec<String> = sqlx::query_scalar(STRUCTURE)
        .fetch_all(&mut site.connection().await)
        .await
        .unwrap();
    assert!(found.len() > 30, "{found:#?}");
    assert_eq!(found, expected);
    let (greatest, last): (i64, i64) =
        sqlx::query_as("SELECT (SELECT MAX(id) FROM kept_results), (SELECT last_id FROM cluster)")
            .fetch_one(&mut site.connection().await)
            .await
            .unwrap();
    assert!(greatest <= last, "{greatest} {last}");

    // And so has a file.
    site.copy(CopyDirection::ToDirectory).await.unwrap();
    let ledger = Ledger::open(site.in_directory()).await.unwrap();
    let fresh = Fixture::on_sqlite().await;
    let mut triggers = Vec::new();
    for ledger in [&ledger, &fresh.ledger] {
        let read = ledger.db.read("list triggers", async |db| {
            sql::query_scalar::<String>(FILE).fetch_all(db).await
        });
        triggers.push(read.await.unwrap());
    }
    assert!(triggers[0].len() > 5, "{triggers:#?}");
    assert_eq!(triggers[0], triggers[1]);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn only_tables_with_one_row_have_no_key_by_which_they_are_read_in_pages() {
    let f = Fixture::new().await;
    let without: Vec<String> = sqlx::query_scalar(
        "SELECT relname::TEXT FROM pg_class c WHERE relkind = 'r' AND relnamespace = quote_ident(current_schema())::regnamespace \
         AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) ORDER BY 1",
    )
    .fetch_all(&mut super::tests::connection(&f).await)
    .await
    .unwrap();
    assert_eq!(
        without,
        ["identity", "last_number", "moved", "sign_in_wait"]
    );
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_database_with_a_ledger_or_tables_of_others_is_not_overwritten() {
    let site = Site::new().await;
    // A daemon has used it.
    Ledger::open(site.on_server()).await.unwrap().close().await;
    let refused = site.copy(CopyDirection::ToServer).await.unwrap_err();
    assert!(
        matches!(
            refused,
            CopyError::Occupied {
                is_server: true,
                ..
            }
        ),
        "{refused:?}"
    );
    // The ledger of another directory, which was copied from there.
    let other = Site::new().await;
    other.on_file("UPDATE identity SET id = 'another'").await;
    other.copy(CopyDirection::ToServer).await.unwrap();
    let refused = copy(site.dir.path(), &other.server, CopyDirection::ToServer).await;
    assert!(
        matches!(refused, Err(CopyError::Occupied { .. })),
        "{refused:?}"
    );
    let refused = copy(site.dir.path(), &other.server, CopyDirection::ToDirectory).await;
    assert!(
        matches!(
            refused,
            Err(CopyError::Occupied {
                is_server: false,
                ..
            })
        ),
        "{refused:?}"
    );
    // Nor is a table that belongs to another program.
    let third = Site::new().await;
    let create = sqlx::raw_sql("CREATE TABLE theirs (id BIGINT PRIMARY KEY)");
    create.execute(&mut third.connection().await).await.unwrap();
    let refused = third.copy(CopyDirection::ToServer).await.unwrap_err();
    assert!(matches!(refused, CopyError::Tables { .. }), "{refused:?}");
    // All of them still work.
    for site in [&site, &third] {
        Ledger::open(site.in_directory())
            .await
            .unwrap()
            .close()
            .await;
    }
    Ledger::open(other.on_server()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_ledger_of_another_version_is_not_copied() {
    const NEWER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, '', 0)";
    // In a file.
    let site = Site::new().await;
    site.on_file(&NEWER.replace("TRUE, ''", "TRUE, X''")).await;
    let refused = site.copy(CopyDirection::ToServer).await.unwrap_err();
    assert!(
        matches!(refused, CopyError::Ledger(Error::Newer { .. })),
        "{refused:?}"
    );
    site.on_file("DELETE FROM _sqlx_migrations WHERE version >= 360")
        .await;
    let refused = site.copy(CopyDirection::ToServer).await.unwrap_err();
    assert!(
        matches!(refused, CopyError::Ledger(Error::Older { .. })),
        "{refused:?}"
    );

    // On a server, as source and as target.
    let site = Site::new().await;
    let older = MIGRATIONS.iter().filter(|one| one.version < 360).cloned();
    let older = sqlx::migrate::Migrator::with_migrations(older.collect());
    older.run(&mut site.connection().await).await.unwrap();
    let refused = site.copy(CopyDirection::ToDirectory).await.unwrap_err();
    assert!(
        matches!(refused, CopyError::Ledger(Error::ServerOlder { .. })),
        "{refused:?}"
    );
    // Without content it is as good as an empty one.
    site.copy(CopyDirection::ToServer).await.unwrap();
    let newer = sqlx::raw_sql(NEWER);
    newer.execute(&mut site.connection().await).await.unwrap();
    for direction in [CopyDirection::ToServer, CopyDirection::ToDirectory] {
        let refused = site.copy(direction).await.unwrap_err();
        assert!(
            matches!(refused, CopyError::Ledger(Error::ServerNewer { .. })),
            "{refused:?}"
        );
    }

    // In an older file as the target.
    let site = Site::new().await;
    site.copy(CopyDirection::ToServer).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let state = crate::state_directory::StateDirectory::open(other.path()).unwrap();
    let older = OF_SQLITE.iter().filter(|one| one.version < 360).cloned();
    let older = sqlx::migrate::Migrator::with_migrations(older.collect());
    let file = super::super::sqlite::Database::open_unchecked(state).await;
    older.run(file.writer()).await.unwrap();
    file.close().await;
    copy(other.path(), &site.server, CopyDirection::ToDirectory)
        .await
        .unwrap();
    Ledger::open(other.path()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn without_a_ledger_nothing_is_copied() {
    let site = Site::new().await;
    let other = tempfile::tempdir().unwrap();
    for directory in [other.path().to_owned(), other.path().join("missing")] {
        let refused = copy(&directory, &site.server, CopyDirection::ToServer).await;
        assert!(
            matches!(refused, Err(CopyError::Ledger(Error::Missing { .. }))),
            "{refused:?}"
        );
        assert!(!directory.join("ledger.db").exists());
    }
    let refused = copy(other.path(), &site.server, CopyDirection::ToDirectory).await;
    assert!(
        matches!(refused, Err(CopyError::Ledger(Error::ServerEmpty { .. }))),
        "{refused:?}"
    );
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_copy_that_fails_leaves_an_empty_target_and_a_source_that_works() {
    // A value that no version writes.
    let site = Site::new().await;
    site.on_file("UPDATE kept_results SET reason = X'FF'").await;
    let refused = site.copy(CopyDirection::ToServer).await.unwrap_err();
    assert!(
        matches!(refused, CopyError::Ledger(Error::Corrupt { .. })),
        "{refused:?}"
    );
    assert!(site.is_empty_on_server().await);
    site.on_file("UPDATE kept_results SET reason = NULL").await;

    // A row that does not arrive.
    let lose = "CREATE RULE lose AS ON INSERT TO kept_results DO INSTEAD NOTHING";
    let mut connection = site.connection().await;
    sqlx::raw_sql(lose).execute(&mut connection).await.unwrap();
    let CopyError::Differs(tables) = site.copy(CopyDirection::ToServer).await.unwrap_err() else {
        panic!("no difference");
    };
    let differ: Vec<&str> = tables
        .iter()
        .filter(|table| table.source != table.target)
        .map(|table| table.name.as_str())
        .collect();
    assert_eq!(differ, ["kept_results"]);
    assert!(site.is_empty_on_server().await);
    Ledger::open(site.in_directory())
        .await
        .unwrap()
        .close()
        .await;
    let keep = sqlx::raw_sql("DROP RULE lose ON kept_results");
    keep.execute(&mut connection).await.unwrap();
    assert_whole(&site.copy(CopyDirection::ToServer).await.unwrap());
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_ledger_whose_copy_is_lost_can_be_used_again() {
    let site = Site::new().await;
    site.copy(CopyDirection::ToServer).await.unwrap();
    for (location, is_moved) in [
        (site.in_directory(), true),
        (site.in_directory(), false),
        (site.on_server(), false),
    ] {
        let changed = Ledger::reactivate(&location).await.unwrap();
        assert_eq!(changed, is_moved, "{location:?}");
    }
    let ledger = Ledger::open(site.in_directory()).await.unwrap();
    assert_works(&ledger, "again.dgn").await;
    ledger.close().await;
    // Two ledgers: neither is overwritten.
    for direction in [CopyDirection::ToServer, CopyDirection::ToDirectory] {
        let refused = site.copy(direction).await.unwrap_err();
        assert!(matches!(refused, CopyError::Occupied { .. }), "{refused:?}");
    }
}
