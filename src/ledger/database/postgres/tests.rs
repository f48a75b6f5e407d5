//! What differs on a server: several writers, lost connections, a schema of its own.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Connection as _;

use super::MIGRATIONS;
use crate::ledger::database::Database as Engine;
use crate::ledger::fixture::*;
use crate::ledger::*;
use crate::ledger_location::Server;

/// The URL of a fixture's schema, for a connection with this name.
pub(super) fn named(location: &LedgerLocation, name: &str) -> Server {
    let mut server = location.server.clone().unwrap();
    server
        .url
        .query_pairs_mut()
        .append_pair("application_name", name);
    server
}

/// The same ledger with another connection that writes.
fn beside(ledger: &Ledger) -> Ledger {
    let mut other = ledger.clone();
    if let Engine::Postgres(database) = &mut other.db {
        database.writer = Arc::default();
    }
    other
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_second_daemon_is_refused_until_the_first_has_ended() {
    let f = Fixture::new().await;
    let dir = tempfile::tempdir().unwrap();
    let server = location(f.dir.path()).await.server.unwrap();
    let location = LedgerLocation::on(server, dir.path());
    let refused = Ledger::open(&location).await.unwrap_err();
    let message = refused.to_string();
    assert!(
        message.contains("is in use by another itwin-syncd: host "),
        "{message}"
    );
    let Fixture {
        ledger,
        dir: _first,
        ..
    } = f;
    ledger.close().await;
    Ledger::open(&location).await.unwrap();
}

#[tokio::test]
async fn a_further_reader_of_an_open_ledger_needs_the_server_only_when_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server {
        // Nobody listens there.
        url: "postgres://u@127.0.0.1:1/ledger".parse().unwrap(),
        password: None,
        ca_file: None,
    };
    let location = LedgerLocation::on(server, dir.path());
    let reader = Ledger::read_beside(&location).await.unwrap();
    let failed = reader.last_result().await.unwrap_err().to_string();
    assert!(failed.contains("127.0.0.1:1"), "{failed}");
    assert!(Ledger::read(&location).await.is_err());
}

pub(super) async fn admin() -> sqlx::PgConnection {
    let url = std::env::var("ITWIN_SYNCD_TEST_POSTGRES").unwrap();
    sqlx::PgConnection::connect(&url).await.unwrap()
}

pub(super) async fn raise_generation(ledger: &Ledger) {
    let raised = ledger.db.write("raise a generation", async |tx| {
        sql::query("UPDATE connections SET generation = generation + 1")
            .execute(tx)
            .await
    });
    assert_eq!(raised.await.unwrap(), 1);
}

pub(super) async fn generation(ledger: &Ledger) -> i64 {
    let read = ledger.db.read("read the generation", async |db| {
        sql::query_scalar("SELECT generation FROM connections")
            .fetch_one(db)
            .await
    });
    read.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn of_several_writers_each_job_is_claimed_by_one() {
    let f = Fixture::new().await;
    let (second, third) = (beside(&f.ledger), beside(&f.ledger));
    let files: Vec<_> = (0..300).map(|n| ready(&format!("{n}.dgn"), 1)).collect();
    f.ledger.hand_over(f.watch, &files, at(0)).await.unwrap();
    let mut claimants = Vec::new();
    for ledger in [f.ledger.clone(), second, third] {
        claimants.push(tokio::spawn(async move {
            let mut claimed = Vec::new();
            while let Some(job) = ledger.claim_upload(None, at(1)).await.unwrap() {
                claimed.push(job.file);
            }
            claimed
        }));
    }
    let mut claimed = Vec::new();
    for claimant in claimants {
        claimed.extend(claimant.await.unwrap());
    }
    let different: BTreeSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), different.len()), (300, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn a_change_of_one_writer_is_seen_by_the_next() {
    let f = Fixture::new().await;
    let second = beside(&f.ledger);
    let raise = async |ledger: Ledger| {
        for _ in 0..200 {
            // Read in one statement and written in another: lost by writers that do not wait for each other.
            let raised = ledger.db.write("raise a generation", async |tx| {
                let generation: i64 = sql::query_scalar("SELECT generation FROM connections")
                    .fetch_one(tx)
                    .await?;
                sql::query("UPDATE connections SET generation = $1")
                    .bind(generation + 1)
                    .execute(tx)
                    .await
            });
            raised.await.unwrap();
        }
    };
    let before = generation(&f.ledger).await;
    tokio::join!(raise(f.ledger.clone()), raise(second));
    assert_eq!(generation(&f.ledger).await, before + 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn whatever_connection_is_lost_each_transaction_happens_once() {
    const NAME: &str = "a test that loses connections";
    let f = Fixture::new().await;
    let server = named(&location(f.dir.path()).await, NAME);
    let dir = tempfile::tempdir().unwrap();
    let location = LedgerLocation::on(server, dir.path());
    f.ledger.clone().close().await;
    let ledger = Ledger::open(location).await.unwrap();
    let before = generation(&ledger).await;
    let killer = tokio::spawn(async {
        let (mut admin, mut killed) = (admin().await, 0);
        loop {
            let gone: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = $1",
            )
            .bind(NAME)
            .fetch_one(&mut admin)
            .await
            .unwrap();
            killed += gone;
            if killed >= 50 {
                return killed;
            }
            tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(1..30))).await;
        }
    });
    let mut raised = 0;
    while !killer.is_finished() || raised < 100 {
        raise_generation(&ledger).await;
        raised += 1;
    }
    assert!(killer.await.unwrap() >= 50);
    assert_eq!(generation(&ledger).await, before + raised);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn the_end_of_a_commit_without_answer_is_known_before_the_next_transaction() {
    let f = Fixture::new().await;
    let Engine::Postgres(database) = &f.ledger.db else {
        panic!("not on PostgreSQL");
    };
    let mut answers = Vec::new();
    for is_committed in [true, false] {
        let super::Tx::Writing(mut tx) = database.begin().await.unwrap() else {
            panic!("it only reads");
        };
        let number = tx.number;
        let end = if is_committed { "COMMIT" } else { "ROLLBACK" };
        let sql = format!("UPDATE cluster SET last_commit = {number}; {end}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut tx.connection)
            .await
            .unwrap();
        let unanswered = super::Unanswered {
            writer: tx.writer,
            number,
            error: sqlx::Error::PoolTimedOut,
        };
        // Its number would hide the one that is asked for.
        let mut next = Box::pin(raise_generation(&f.ledger));
        assert!(futures_util::FutureExt::now_or_never(&mut next).is_none());
        let mut outage = super::Outage::new(database, "test");
        answers.push(outage.was_committed(unanswered).await.unwrap());
        next.await;
    }
    assert_eq!(answers, [true, false]);
}

/// A server for one test, which ends with its standard input; and its URL.
fn own_server() -> (std::process::Child, String) {
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/with-server");
    let mut process = Command::new(script)
        .args(["sh", "-c", "echo \"$ITWIN_SYNCD_TEST_POSTGRES\"; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut lines = std::io::BufReader::new(process.stdout.take().unwrap());
    lines.read_line(&mut url).unwrap();
    (process, url.trim_end().to_owned())
}

/// A process of the server, and a connection to it.
async fn victim(url: &str) -> Result<(sqlx::PgConnection, i32), sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    let process = sqlx::query_scalar("SELECT pg_backend_pid()");
    let process = process.fetch_one(&mut connection).await?;
    Ok((connection, process))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn whenever_the_server_crashes_each_transaction_happens_once() {
    let (mut process, url) = own_server();
    let dir = tempfile::tempdir().unwrap();
    let server = Server {
        url: url.parse().unwrap(),
        password: None,
        ca_file: None,
    };
    let ledger = Ledger::open(LedgerLocation::on(server, dir.path()))
        .await
        .unwrap();
    ledger
        .register_watches(&[spec("north")], at(0))
        .await
        .unwrap();
    let before = generation(&ledger).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (ledger, is_over) = (ledger.clone(), Arc::clone(&is_over));
        writers.spawn(async move {
            let mut raised = 0;
            while !is_over.load(Ordering::Relaxed) {
                raise_generation(&ledger).await;
                raised += 1;
            }
            raised
        });
    }
    let mut raised = 0;
    for _ in 0..30 {
        raise_generation(&ledger).await;
        raised += 1;
        let (mut connection, process) = loop {
            // It may be recovering still: a transaction was committed just before the crash.
            if let Ok(victim) = victim(&url).await {
                break victim;
            }
        };
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(1..60))).await;
        // The server ends all its processes when one of them is killed, and recovers what it has on disk.
        let process = rustix::process::Pid::from_raw(process).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        connection.ping().await.unwrap_err();
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(of_one) = writers.join_next().await {
        raised += of_one.unwrap();
    }
    assert_eq!(generation(&ledger).await, before + raised);
    ledger.close().await;
    drop(process.stdin.take());
    process.wait().unwrap();
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn ids_of_rows_follow_those_of_every_other_process() {
    let f = Fixture::new().await;
    let far = row::first_id(at(100_000_000));
    sqlx::query("UPDATE cluster SET last_id = $1")
        .bind(far)
        .execute(&mut connection(&f).await)
        .await
        .unwrap();
    f.hand_over("a.dgn", 1, 0).await;
    let (id, last): (i64, i64) =
        sqlx::query_as("SELECT (SELECT MAX(id) FROM steps), (SELECT last_id FROM cluster)")
            .fetch_one(&mut connection(&f).await)
            .await
            .unwrap();
    assert!(far < id && id <= last, "{far} {id} {last}");
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn the_smaller_layout_has_the_history_that_the_one_before_it_had() {
    const STEPS: &str = "SELECT version, step, at FROM steps ORDER BY at, id";
    const RESULTS: &str = "SELECT (r.id, r.version, r.outcome, r.at, r.millis, r.storage_file_id, r.run, r.errors)::TEXT FROM results r ORDER BY r.id";
    let dir = tempfile::tempdir().unwrap();
    let location = location(dir.path()).await;
    let url = location.server.clone().unwrap().url;
    let mut old = sqlx::PgConnection::connect(url.as_str()).await.unwrap();
    let older = MIGRATIONS.iter().filter(|one| one.version < 320).cloned();
    let older = sqlx::migrate::Migrator::with_migrations(older.collect());
    older.run(&mut old).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO connections (id, imodel_id, name) VALUES (1, 'imodel', 'itwin-syncd'); \
         INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES (2, 'north', 'imodel', '', 1); \
         INSERT INTO runs (id, connection_id, generation, phase, platform_id, requested_at) VALUES (5, 1, 1, 'ended', 'run', 5); \
         INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version, storage_file_id, place) \
         VALUES (3, 2, '', 'a.dgn', 1, 1, 1, 'MSTN', 2, 'storage file', sha256('a')); \
         INSERT INTO steps (id, file_id, version, at, step, note) VALUES (10, 3, 1, 100, 'seen', NULL), \
         (11, 3, 1, 150, 'put_off', 'busy'), (12, 3, 1, 200, 'uploaded', NULL), (14, 3, 2, 400, 'seen', NULL); \
         INSERT INTO results (id, file_id, version, outcome, at, millis, bytes, storage_file_id, run, errors) VALUES \
         (13, 3, 1, 'synchronized_with_issues', 300, 200, 7, 'another', 'run', 4), \
         (15, 3, 2, 'failed', 500, 50, 7, 'storage file', 'forgotten', NULL), (16, 3, 2, 'failed', 600, 50, 7, NULL, NULL, NULL)",
    )
    .execute(&mut old)
    .await
    .unwrap();
    let results: Vec<String> = sqlx::query_scalar(RESULTS)
        .fetch_all(&mut old)
        .await
        .unwrap();
    let ledger = Ledger::open(&location).await.unwrap();
    let found: Vec<String> = sqlx::query_scalar(RESULTS)
        .fetch_all(&mut old)
        .await
        .unwrap();
    assert_eq!(found, results);
    let steps: Vec<(i64, String, i64)> = sqlx::query_as(STEPS).fetch_all(&mut old).await.unwrap();
    let left = [(1, "put_off".to_owned(), 150), (2, "seen".to_owned(), 400)];
    assert_eq!(steps, left);
    let file = ledger.snapshot(at(1)).await.unwrap().files.remove(0).id;
    let history = ledger.file_history(file).await.unwrap().unwrap();
    let history: Vec<_> = history
        .entries
        .iter()
        .map(|entry| (entry.what.as_str(), entry.at.as_millisecond()))
        .collect();
    let expected = [
        ("run_requested", 5),
        ("seen", 100),
        ("put_off", 150),
        ("uploaded", 200),
        ("synchronized_with_issues", 300),
        ("seen", 400),
        ("failed", 500),
        ("failed", 600),
    ];
    assert_eq!(history, expected);
    let next = ledger.register_watches(&[spec("south")], at(1)).await;
    assert_eq!(next.unwrap().len(), 1);
}

pub(super) async fn connection(f: &Fixture) -> sqlx::PgConnection {
    let server = location(f.dir.path()).await.server.unwrap();
    sqlx::PgConnection::connect(server.url.as_str())
        .await
        .unwrap()
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_text_with_a_nul_is_kept_without_it() {
    let f = Fixture::new().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(0).await.unwrap();
    let refusal = Refusal {
        reason: "the platform says: \0".to_owned(),
        ..refusal(Again::Never)
    };
    f.ledger.put_off(&job, &refusal, at(1)).await.unwrap();
    let files = f.ledger.snapshot(at(1)).await.unwrap().files;
    assert_eq!(
        files[0].reason.as_deref(),
        Some("the platform says: \u{FFFD}")
    );
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn the_schema_has_the_tables_columns_and_indexes_of_sqlite() {
    type Columns = BTreeSet<(String, String, bool)>;
    let (server, file) = (Fixture::new().await, Fixture::on_sqlite().await);
    let Engine::Sqlite(sqlite) = &file.ledger.db else {
        panic!("not on SQLite");
    };
    let expected: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT t.name, c.name, c.\"notnull\" <> 0 OR c.pk > 0 FROM sqlite_master t \
         JOIN pragma_table_info(t.name) c WHERE t.type IN ('table', 'view')",
    )
    .fetch_all(sqlite.writer())
    .await
    .unwrap();
    let mut expected: Columns = expected.into_iter().collect();
    expected.retain(|(table, ..)| table != "_sqlx_migrations");
    let mut connection = connection(&server).await;
    let found: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT table_name::TEXT, column_name::TEXT, is_nullable = 'NO' FROM information_schema.columns \
         WHERE table_schema = current_schema()",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut found: Columns = found.into_iter().collect();
    // These are for several processes.
    let own = [
        "_sqlx_migrations",
        "cluster",
        "created_folders",
        "drawn_requests",
        "lease",
        "nodes",
        "seen_shares",
    ];
    found.retain(|(table, ..)| !own.contains(&table.as_str()));
    let difference: Vec<_> = expected.symmetric_difference(&found).collect();
    assert!(difference.is_empty(), "{difference:#?}");

    let expected: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'index' AND sql <> ''")
            .fetch_all(sqlite.writer())
            .await
            .unwrap();
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT indexname::TEXT FROM pg_indexes WHERE schemaname = current_schema() \
         AND indexname NOT LIKE '%_pkey' AND indexname NOT LIKE '%_key'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let (expected, found): (BTreeSet<_>, BTreeSet<_>) =
        (expected.into_iter().collect(), found.into_iter().collect());
    let difference: Vec<_> = expected.symmetric_difference(&found).collect();
    assert!(difference.is_empty(), "{difference:#?}");
}
