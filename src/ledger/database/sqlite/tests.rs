//! The database as a file: older and newer versions, damage, nonsense in its rows, power cuts.

use super::super::super::fixture::*;
use super::super::super::*;
use super::{Database, MIGRATIONS, SqlitePool};
use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;
use crate::ledger::database::Database as Engine;
use sqlx::migrate::Migrator;

fn sqlite(ledger: &Ledger) -> &Database {
    let Engine::Sqlite(database) = &ledger.db else {
        panic!("not on SQLite");
    };
    database
}

fn writer(ledger: &Ledger) -> &SqlitePool {
    sqlite(ledger).writer()
}

#[tokio::test]
async fn a_reader_sees_the_ledger_beside_its_daemon_and_cannot_write() {
    let f = Fixture::on_sqlite().await;
    f.hand_over("a.dgn", 1, 0).await;
    let reader = Ledger::read(f.dir.path()).await.unwrap();
    assert_eq!(reader.snapshot(at(0)).await.unwrap().files.len(), 1);
    assert!(reader.claim_upload(None, at(0)).await.is_err());
    assert!(matches!(
        Ledger::read(Path::new("/nowhere")).await,
        Err(Error::Missing { .. })
    ));
}

#[tokio::test]
async fn each_connection_keeps_500_kib_of_pages_in_memory() {
    let f = Fixture::on_sqlite().await;
    let database = sqlite(&f.ledger);
    let mut connections = [
        database.begin().await.unwrap(),
        database.begin_reading().await.unwrap(),
        database.begin_reading().await.unwrap(),
    ];
    for connection in &mut connections {
        let size: i64 = sqlx::query_scalar("PRAGMA cache_size")
            .fetch_one(&mut **connection)
            .await
            .unwrap();
        assert_eq!(size, -500);
    }
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_is_refused_and_kept() {
    let f = Fixture::on_sqlite().await;
    sqlx::query("UPDATE _sqlx_migrations SET version = 999 WHERE version = 1")
        .execute(writer(&f.ledger))
        .await
        .unwrap();
    let Fixture { dir, ledger, .. } = f;
    ledger.close().await;
    assert!(matches!(
        Ledger::open(dir.path()).await,
        Err(Error::Newer { .. })
    ));
}

#[tokio::test]
async fn a_ledger_of_every_older_version_is_migrated() {
    for versions in 1..MIGRATIONS.iter().count() {
        let dir = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(dir.path()).unwrap();
        let older_db = Database::open_unchecked(directory).await;
        let pool = older_db.writer();
        let older = MIGRATIONS.iter().take(versions).cloned().collect();
        Migrator::with_migrations(older).run(pool).await.unwrap();
        for row in [
            "INSERT INTO connections (id, imodel_id, name) VALUES (1, 'imodel', 'itwin-syncd')",
            "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES (2, 'north', 'imodel', '', 1)",
            "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version) \
             VALUES (3, 2, x'', x'612e64676e', 10, 7, 7, 'MSTN', 4)",
            "INSERT INTO jobs (file_id, state, version, enqueued_at, due_at) VALUES (3, 'uploading', 4, 5, 5)",
        ] {
            sqlx::query(row).execute(pool).await.unwrap();
        }
        // Refused by the versions whose jobs have no watch.
        drop(
            sqlx::query("UPDATE jobs SET watch_id = 2")
                .execute(pool)
                .await,
        );
        older_db.close().await;
        let early = Ledger::read(dir.path()).await;
        assert!(matches!(early, Err(Error::Older { .. })), "{early:?}");
        let ledger = Ledger::open(dir.path()).await.unwrap();
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .id;
        let f = Fixture { dir, ledger, watch };
        let job = f.claim(1).await.unwrap();
        assert_eq!((job.path.to_str(), job.version), (Some("a.dgn"), 4));
        f.store(&job, 1, 2).await;
        let run = f.begin_run(3).await;
        assert_eq!(
            f.finish_run(run, Verdict::Synchronized(None), 4)
                .await
                .len(),
            1
        );
    }
}

#[tokio::test]
async fn files_of_an_older_version_belong_in_the_connection_of_their_watch() {
    let dir = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(dir.path()).unwrap();
    let older_db = Database::open_unchecked(directory).await;
    let pool = older_db.writer();
    let older = MIGRATIONS.iter().filter(|one| one.version < 260).cloned();
    let older = Migrator::with_migrations(older.collect());
    older.run(pool).await.unwrap();
    for row in [
        "INSERT INTO connections (id, imodel_id, name, platform_id, generation, covered) VALUES \
         (1, 'imodel', 'itwin-syncd', 'c', 7, 6), (2, 'imodel', 'south', 'd', 3, 3)",
        "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id, path) VALUES \
         (3, 'north', 'imodel', '', 1, '/srv/north'), (4, 'south', 'imodel', 'South', 2, '/srv/south')",
        "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version, \
         storage_file_id, stored_version, stored_generation, connection_id, source_file_id, \
         mapped_connector, outcome) VALUES \
         (5, 3, x'', 'a.dgn', 10, 7, 7, 'MSTN', 4, 'fa', 4, 6, 1, 'sa', 'MSTN', 'synchronized'), \
         (6, 3, x'', 'r.pdf', 10, 7, 7, NULL, 4, 'fr', 4, 7, NULL, NULL, NULL, 'uploaded'), \
         (7, 4, x'', 'b.dgn', 10, 7, 7, 'MSTN', 4, 'fb', 4, 3, 2, 'sb', 'MSTN', 'synchronized')",
    ] {
        sqlx::query(row).execute(pool).await.unwrap();
    }
    older_db.close().await;
    let ledger = Ledger::open(dir.path()).await.unwrap();
    let south = WatchSpec {
        storage_folder: "South".to_owned(),
        connection: "south".to_owned().into(),
        ..spec("south")
    };
    // Before and after the first start with the same configuration.
    for _ in 0..2 {
        let connections = ledger.connections(&"imodel".into()).await.unwrap();
        let mut found = Vec::new();
        for connection in connections {
            let files = ledger.connection_files(connection.id, at(0)).await.unwrap();
            let files: Vec<String> = files
                .into_iter()
                .map(|file| format!("{} {:?}", file.path.display(), file.source_file_id))
                .collect();
            assert!(ledger.displaced(connection.id).await.unwrap().is_empty());
            found.push((connection.name, connection.moved_on.is_some(), files));
        }
        let expected = [
            (
                "itwin-syncd".to_owned(),
                true,
                vec!["a.dgn Some(\"sa\")".to_owned()],
            ),
            (
                "south".to_owned(),
                false,
                vec!["b.dgn Some(\"sb\")".to_owned()],
            ),
        ];
        assert_eq!(found, expected);
        let specs = [spec("north"), south.clone()];
        ledger.register_watches(&specs, at(0)).await.unwrap();
    }
}

fn whole_listing(watch: WatchId) -> ListingPart<'static> {
    ListingPart {
        watch,
        dir: Path::new(""),
        part: 0,
        digest: &[7; 32],
    }
}

/// Calls what reads rows, and counts the refusals.
async fn read_everything(f: &Fixture) -> u32 {
    fn note<T>(refused: &mut u32, result: Result<T, Error>) -> Option<T> {
        *refused += u32::from(result.is_err());
        result.ok()
    }
    let mut refused = 0;
    let (now, ledger) = (at(100_000), &f.ledger);
    note(&mut refused, ledger.snapshot(now).await);
    note(&mut refused, ledger.summary(now).await);
    note(&mut refused, ledger.results_since(at(0)).await);
    note(&mut refused, ledger.known_in(f.watch, Path::new("")).await);
    let listing = whole_listing(f.watch);
    if let Some((_, changes)) = note(&mut refused, ledger.is_listing_unchanged(&listing).await) {
        note(&mut refused, ledger.record_listing(&listing, changes).await);
    }
    let changed = [ready("a.dgn", 77)];
    note(&mut refused, ledger.hand_over(f.watch, &changed, now).await);
    note(&mut refused, ledger.next_upload_due(now).await);
    while let Some(Some(job)) = note(&mut refused, ledger.claim_upload(None, now).await) {
        let again = refusal(Again::Never);
        note(&mut refused, ledger.put_off(&job, &again, now).await);
    }
    note(&mut refused, ledger.imodel(&"imodel".into()).await);
    note(&mut refused, ledger.backlog(&"imodel".into(), now).await);
    if let Some(Some(open)) = note(&mut refused, ledger.open_run(&"imodel".into()).await) {
        let files = note(&mut refused, ledger.files_in_run(open.id).await).unwrap_or_default();
        let outcomes: Vec<_> = files
            .into_iter()
            .map(|file| FileOutcome {
                file,
                storage_file_id: StorageFileId::default(),
                stored_generation: 0,
                verdict: Verdict::Synchronized(None),
            })
            .collect();
        let end = ledger.finish_run(open.id, "Completed", "Success", &outcomes, now);
        note(&mut refused, end.await);
    }
    let connections = note(&mut refused, ledger.connections(&"imodel".into()).await);
    for connection in connections.unwrap_or_default() {
        note(
            &mut refused,
            ledger.connection_files(connection.id, now).await,
        );
        note(
            &mut refused,
            ledger.begin_run(connection.id, now, now).await,
        );
    }
    refused
}

#[tokio::test]
async fn rows_that_hold_nonsense_are_errors_and_never_panics() {
    const TABLES: [&str; 8] = [
        "connections",
        "watches",
        "imodels",
        "folders",
        "runs",
        "files",
        "listings",
        "jobs",
    ];
    let nonsense = [
        "NULL",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5e300",
        "'napping'",
        "x'ff00'",
        "''",
    ];
    let f = Fixture::on_sqlite().await;
    f.hand_over("a.dgn", 1, 0).await;
    f.hand_over("b.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    f.store(&job, 1, 2).await;
    f.begin_run(3).await;
    let listing = whole_listing(f.watch);
    let (_, changes) = f.ledger.is_listing_unchanged(&listing).await.unwrap();
    f.ledger.record_listing(&listing, changes).await.unwrap();
    let Fixture { dir, ledger, watch } = f;
    let mut columns = Vec::new();
    for table in TABLES {
        let named: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(table)
            .fetch_all(writer(&ledger))
            .await
            .unwrap();
        columns.extend(named.into_iter().map(|column| (table, column)));
    }
    ledger.close().await;
    let mut refused = 0;
    for (table, column) in columns {
        for value in nonsense {
            let copy = tempfile::tempdir().unwrap();
            let file = copy.path().join("ledger.db");
            std::fs::copy(dir.path().join("ledger.db"), &file).unwrap();
            let directory = StateDirectory::open(copy.path()).unwrap();
            let ledger = Ledger {
                db: Engine::Sqlite(Database::open_unchecked(directory).await),
                lock: None,
                forgotten: Arc::default(),
                moved_aside: None,
            };
            let sql = format!("UPDATE {table} SET {column} = {value}");
            // Some values break a constraint: those cannot be there.
            drop(
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .execute(writer(&ledger))
                    .await,
            );
            let f = Fixture {
                dir: copy,
                ledger,
                watch,
            };
            refused += read_everything(&f).await;
        }
    }
    assert!(
        refused > 100,
        "the nonsense was noticed {refused} times only"
    );
}

#[tokio::test]
async fn a_ledger_with_a_word_that_nobody_wrote_is_moved_aside_at_the_next_start() {
    let f = Fixture::on_sqlite().await;
    f.hand_over("a.dgn", 1, 0).await;
    sqlx::query("UPDATE jobs SET stage = 'napping'")
        .execute(writer(&f.ledger))
        .await
        .unwrap();
    let error = f.ledger.claim_upload(None, at(1)).await.unwrap_err();
    f.ledger.mark_corrupt(&error);
    let Fixture { dir, ledger, .. } = f;
    drop(ledger);
    let next = Ledger::open(dir.path()).await.unwrap();
    let (path, what) = next.moved_aside().unwrap();
    assert!(path.join("ledger.db").exists());
    assert!(what.contains("claim a job"), "{what}");
    next.close().await;
    assert!(
        Ledger::open(dir.path())
            .await
            .unwrap()
            .moved_aside()
            .is_none()
    );
}

#[tokio::test]
async fn damage_where_no_start_looks_is_found_by_the_check_after_a_crash() {
    let Fixture { dir, ledger, .. } = Fixture::on_sqlite().await;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(writer(&ledger))
        .await
        .unwrap();
    let (page, size): (i64, i64) = sqlx::query_as(
        "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'folders'",
    )
    .fetch_one(writer(&ledger))
    .await
    .unwrap();
    // As a kill leaves it: the lock file is not emptied.
    let Ledger { db, lock, .. } = ledger;
    db.close().await;
    drop(lock);
    let mut file = std::fs::File::options()
        .write(true)
        .open(dir.path().join("ledger.db"))
        .unwrap();
    let at = count_value((page - 1) * size);
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
    std::io::Write::write_all(&mut file, &[0x5A; 100]).unwrap();
    drop(file);
    let next = Ledger::open(dir.path()).await.unwrap();
    assert!(next.moved_aside().is_some());
}

#[tokio::test]
async fn what_something_outside_follows_from_does_not_count_before_it_is_on_the_disk() {
    let mut f = Fixture::on_sqlite().await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = f.claim(1).await.unwrap();
    let stored = StoredContent {
        version: job.version,
        content: content(1),
    };
    let connection = f.connection().await.id;
    // A log that cannot be written to the disk: it is a folder.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("ledger.db-wal")).unwrap();
    let unusable = StateDirectory::open(elsewhere.path()).unwrap();
    let broken = sqlite(&f.ledger).with_log_of(unusable);
    let good = std::mem::replace(&mut f.ledger.db, Engine::Sqlite(broken));
    let (ledger, now) = (&f.ledger, at(2));
    let mut refused = Vec::new();
    refused.push(ledger.record_create_sent(&job, "m", now).await.is_err());
    refused.push(
        ledger
            .record_blob_written(&job, &stored.content, now)
            .await
            .is_err(),
    );
    refused.push(ledger.record_restart(&job, now).await.is_err());
    ledger
        .record_storage_file(&job, &"s".into(), now)
        .await
        .unwrap();
    let stamp = StorageStamp::default();
    ledger
        .finish_stored(&job, &stored, &stamp, now)
        .await
        .unwrap();
    let mappings = [Mapping {
        file: job.file,
        source_file_id: "source".to_owned(),
        connector: ConnectorType::new("MSTN"),
        last_reader: LastReader::Same,
    }];
    refused.push(
        ledger
            .record_mappings(connection, &mappings, now)
            .await
            .is_err(),
    );
    refused.push(ledger.begin_run(connection, now, now).await.is_err());
    let run = ledger.open_run(&"imodel".into()).await.unwrap().unwrap().id;
    refused.push(ledger.record_run(run, "r").await.is_err());
    refused.push(
        ledger
            .finish_run(run, "Completed", "Success", &[], now)
            .await
            .is_err(),
    );
    refused.push(ledger.record_pauses(&[], at(0)).await.is_err());
    assert_eq!(refused, [true; 8]);
    f.ledger.db = good;
    f.ledger.record_pauses(&[], at(0)).await.unwrap();
}
