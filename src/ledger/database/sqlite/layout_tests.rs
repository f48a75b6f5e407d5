//! The layout of the ledger: what a ledger of the layout before has is there afterwards, and what is not stored twice
//! is reported as if it was.

use super::super::super::fixture::*;
use super::super::super::*;
use super::{Database, MIGRATIONS, SqlitePool};
use crate::ids::StorageFileId;
use crate::ledger::database::Database as Engine;
use sqlx::migrate::Migrator;

fn writer(ledger: &Ledger) -> &SqlitePool {
    let Engine::Sqlite(database) = &ledger.db else {
        panic!("not on SQLite");
    };
    database.writer()
}

/// What a ledger says of its files, jobs and history, row by row.
async fn rows(pool: &SqlitePool, select: &str) -> Vec<String> {
    let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(select.to_owned()))
        .fetch_all(pool)
        .await
        .unwrap();
    assert!(!rows.is_empty(), "{select}");
    rows
}

const FILES: &str = "SELECT json_array(id, watch_id, hex(dir), hex(name), size, mtime_ns, ctime_ns, connector, version, \
     stored_version, hex(stored_digest), stored_size, stored_at, connection_id, source_file_id, mapped_connector, outcome, \
     outcome_at, hex(substr(place, 1, 16)), stored_modified, stored_modified_by, storage_folder_id, stored_generation, \
     processed, unverified, overwrites, absence, absent_since, send_again, known, adopted, hex(set_stem), relocation, \
     withdrawal, withdrawal_generation, withdrawal_reason, withdrawal_hint, withdrawal_due, target_connection_id, \
     storage_file_id) FROM files ORDER BY id";
const JOBS: &str = "SELECT json_array(file_id, state, version, enqueued_at, due_at, attempts, run_attempts, failing_since, \
     stage, stage_at, marker, content_version, hex(content_digest), content_size, run_id, kind, reason, hint, reported, \
     previous_reason, watch_id, pause, failure_group, touched) FROM jobs ORDER BY file_id";
const RESULTS: &str = "SELECT json_array(id, file_id, version, outcome, at, millis, bytes, connector, storage_file_id, run, \
     reason, hint, errors, warnings, others) FROM results ORDER BY id";
const COUNTS: &str = "SELECT json_array(watch_id, job, outcome, absent, vanished, reported, files) FROM counts \
     ORDER BY watch_id, job, outcome, absent, vanished, reported";

/// A ledger of the version before the layout of 0320, with `files` files of three versions, some with rare values.
async fn with_old_layout(dir: &Path, files: u32) -> Database {
    let directory = StateDirectory::open(dir).unwrap();
    let database = Database::open_unchecked(directory).await;
    let older = MIGRATIONS.iter().filter(|one| one.version < 320).cloned();
    let older = Migrator::with_migrations(older.collect());
    older.run(database.writer()).await.unwrap();
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {files}), \
         versions (v) AS (VALUES (1), (2), (3)) "
    );
    // Ids as that version makes them: the time in milliseconds, and a count.
    let id = "((1700000000000 + v * 100000) << 20) + n";
    for row in [
        "INSERT INTO connections (id, imodel_id, name) VALUES (1 << 40, 'imodel', 'itwin-syncd')".to_owned(),
        "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES (2 << 40, 'north', 'imodel', '', 1 << 40)"
            .to_owned(),
        "INSERT INTO watch_connections (watch_id, connector, connection_id) VALUES (2 << 40, '', 1 << 40)".to_owned(),
        "INSERT INTO runs (id, connection_id, generation, phase, platform_id, requested_at, ended_at) VALUES \
         (5, 1 << 40, 1, 'ended', 'run 2', 5, 6), (6, 1 << 40, 2, 'ended', 'run 3', 7, 8)"
            .to_owned(),
        format!(
            "{numbers} INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version, \
             storage_file_id, stored_version, stored_digest, stored_size, stored_at, place, stored_modified, \
             stored_modified_by, storage_folder_id, outcome, outcome_at, target_connection_id, absence, absent_since) \
             SELECT (1600000000000 << 20) + n, 2 << 40, CAST('folder ' || (n % 10) AS BLOB), CAST(n || '.dgn' AS BLOB), n, n + 1, \
             n + 2, CASE WHEN n % 3 > 0 THEN 'MSTN' END, 3, CASE WHEN n % 5 > 0 THEN 'storage file ' || n END, 3, randomblob(32), n, \
             n + 3, CASE WHEN n % 7 > 0 THEN randomblob(32) END, 'then', 'another user', 'folder', 'synchronized', n + 4, \
             CASE WHEN n % 3 > 0 THEN 1 << 40 END, CASE WHEN n % 11 = 0 THEN 'gone' END, CASE WHEN n % 11 = 0 THEN 9 END FROM numbers"
        ),
        format!(
            "{numbers} INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at, kind, reason, reported, run_id, failure_group) \
             SELECT (1600000000000 << 20) + n, 2 << 40, 'failed', 3, n, n, 'run', 'because', 'because', 5, 'group' FROM numbers WHERE n % 13 = 0"
        ),
        // Of another storage file, of a run that is forgotten, without any, at a time that differs from that in the id.
        format!(
            "{numbers} INSERT INTO results (id, file_id, version, outcome, at, millis, bytes, connector, storage_file_id, run, \
             reason, hint, errors, warnings, others) SELECT {id} + 500000, (1600000000000 << 20) + n, v, \
             CASE n % 4 WHEN 0 THEN 'failed' WHEN 1 THEN 'synchronized_with_issues' ELSE 'synchronized' END, \
             1700000000000 + v * 100000 - (n % 17 = 0), 4000, n, 'MSTN', \
             CASE WHEN n % 19 = 0 THEN 'another' WHEN n % 5 > 0 THEN 'storage file ' || n END, \
             CASE WHEN v < 3 OR n % 2 = 0 THEN 'run ' || v END, CASE WHEN n % 4 < 2 THEN 'why' END, NULL, \
             CASE WHEN n % 4 = 1 THEN 7 END, NULL, NULL FROM numbers, versions"
        ),
        // Of some, not the step that the result reports; of some, two; of some, one with a note.
        format!(
            "{numbers} INSERT INTO steps (id, file_id, version, at, step, note) SELECT {id}, (1600000000000 << 20) + n, v, \
             1700000000000 + v * 100000 - 4000 - (n % 17 = 0) - (n % 23 = 0), 'seen', CASE WHEN n % 29 = 0 THEN 'note' END \
             FROM numbers, versions"
        ),
        format!(
            "{numbers} INSERT INTO steps (id, file_id, version, at, step) SELECT {id} + 200000 + k, (1600000000000 << 20) + n, v, \
             1700000000000 + v * 100000 - 2000 + k, 'uploaded' FROM numbers, versions, (SELECT 0 AS k UNION ALL SELECT 100000) \
             WHERE k = 0 OR n % 31 = 0"
        ),
        format!(
            "{numbers} INSERT INTO steps (id, file_id, version, at, step) SELECT {id} + 600000, (1600000000000 << 20) + n, v + 1, \
             1700000000000 + v * 100000 + 1, 'seen' FROM numbers, versions WHERE v = 3 AND n % 37 = 0"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(row))
            .execute(database.writer())
            .await
            .unwrap();
    }
    database
}

#[tokio::test]
async fn the_smaller_layout_has_all_that_the_one_before_it_had() {
    const OLD_STEPS: &str = "SELECT json_array(file_id, version, at, step, note) FROM steps ORDER BY file_id, at, step, id";
    const NEW_STEPS: &str = "SELECT json_array(file_id, version, at, step, note) FROM (SELECT file_id, version, at, step, note, \
         id FROM steps UNION ALL SELECT file_id, version, at - millis, 'seen', NULL, id - 2 FROM results WHERE seen = 1 \
         UNION ALL SELECT file_id, version, at - uploaded_millis, 'uploaded', NULL, id - 1 FROM results \
         WHERE uploaded_millis IS NOT NULL) ORDER BY file_id, at, step, id";
    let dir = tempfile::tempdir().unwrap();
    let old = with_old_layout(dir.path(), 2000).await;
    let mut expected = Vec::new();
    for select in [FILES, JOBS, RESULTS, COUNTS, OLD_STEPS] {
        expected.push(rows(old.writer(), select).await);
    }
    old.close().await;
    let ledger = Ledger::open(dir.path()).await.unwrap();
    let pool = writer(&ledger);
    for (select, expected) in [FILES, JOBS, RESULTS, COUNTS, NEW_STEPS]
        .iter()
        .zip(&expected)
    {
        let found = rows(pool, select).await;
        let differs = found
            .iter()
            .zip(expected)
            .find(|(found, expected)| found != expected);
        assert_eq!((found.len(), differs), (expected.len(), None), "{select}");
    }
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM steps")
        .fetch_one(pool)
        .await
        .unwrap();
    assert!(
        (1..2000).contains(&kept),
        "of 12,000 steps, {kept} have rows of their own"
    );
    let broken: Vec<String> = sqlx::query_scalar("SELECT \"table\" FROM pragma_foreign_key_check")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(broken, Vec::<String>::new());
    assert_counts_are_right(&mut ledger.db.connection().await).await;
    // Ids continue after those that are there.
    let registered = ledger.register_watches(&[spec("north")], at(0)).await;
    let watch = registered.unwrap()[0].id;
    let handed_over = ledger.hand_over(watch, &[ready("new.dgn", 1)], at(0)).await;
    assert_eq!(handed_over.unwrap().changed, 1);
    ledger.close().await;
    Ledger::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_result_keeps_its_storage_file_when_its_file_gets_another_one() {
    let f = Fixture::on_sqlite().await;
    f.synchronized("a.dgn").await;
    let storage_files = async || {
        let results = f.ledger.hook_results(0, 10).await.unwrap();
        let ids = results.into_iter().map(|result| result.storage_file_id);
        ids.collect::<Vec<_>>()
    };
    let first = Some("storage a.dgn".to_owned());
    assert_eq!(storage_files().await, std::slice::from_ref(&first));
    let file = f.file("a.dgn").await.id;
    f.ledger.forget_storage_file(file).await.unwrap();
    assert_eq!(storage_files().await, std::slice::from_ref(&first));
    f.hand_over("a.dgn", 2, 5).await;
    let mut job = f.claim(5).await.unwrap();
    f.ledger
        .put_off(&job, &refusal(Again::Never), at(6))
        .await
        .unwrap();
    assert_eq!(storage_files().await, [first.clone(), None]);
    f.hand_over("a.dgn", 3, 7).await;
    job = f.claim(7).await.unwrap();
    let next = StorageFileId::from("another");
    f.ledger
        .record_storage_file(&job, &next, at(7))
        .await
        .unwrap();
    assert_eq!(storage_files().await, [first, None]);
}
