//! Answers of a ledger with many files, half of which have failed. `SCALE_FILES=1000000` asks one of that size.

use std::time::Duration;

use sqlx::Connection as _;
use tokio::time::Instant;

use crate::support::{Site, platform, write};

/// Looks of each kind. The shortest one counts: what else the machine does can only make one longer.
const LOOKS: usize = 15;

/// Adds files to the ledger as the service would have them: one job, one result and one step each.
async fn fill(site: &Site, files: u32) {
    let path = site.path("state/ledger.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut ledger = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {files}) "
    );
    for statement in [
        "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, connector, version, storage_file_id, stored_version, \
         stored_digest, stored_size, stored_at, outcome, outcome_at) \
         SELECT n, (SELECT id FROM watches), CAST('folder ' || (n % 1000) AS BLOB), CAST('drawing ' || n || '.dgn' AS BLOB), 10, 1, 1, \
         'MSTN', 1, 's' || n, 1, x'00', 10, 1700000000000, CASE n % 2 WHEN 0 THEN 'synchronized' END, \
         CASE n % 2 WHEN 0 THEN 1700000000000 + n END FROM numbers",
        "INSERT INTO jobs (file_id, state, version, enqueued_at, attempts, failing_since, kind, reason, hint, reported) \
         SELECT n, 'failed', 1, 1700000000000 + n, 1, 1700000000000 + n, 'run', 'cannot synchronize it: the file is damaged', \
         'save it again', 'cannot synchronize it: the file is damaged' FROM numbers WHERE n % 2 = 1",
        "INSERT INTO kept_results (id, file_id, version, outcome, at, millis, bytes, connector, seen) \
         SELECT n, n, 1, CASE n % 2 WHEN 0 THEN 0 ELSE 5 END, 1700000000000 + n, 5, 10, 'MSTN', 0 FROM numbers",
        "INSERT INTO steps (id, file_id, version, at, step) SELECT n, n, 1, 1700000000000 + n, 'seen' FROM numbers",
    ] {
        let sql = match statement.split_once("SELECT") {
            // The numbers belong to the first SELECT.
            Some((insert, select)) => format!("{insert}{numbers}SELECT{select}"),
            None => unreachable!("{statement}"),
        };
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    ledger.close().await.unwrap();
}

/// The shortest of some looks.
async fn shortest(mut look: impl AsyncFnMut()) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..LOOKS {
        let began = Instant::now();
        look().await;
        shortest = shortest.min(began.elapsed());
    }
    shortest
}

/// How long each surface takes to answer.
async fn answers(files: u32) -> Vec<(&'static str, Duration)> {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[web]\nlisten = \"127.0.0.1:0\"\n";
    let made = site.run(&["run", "--once"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    fill(&site, files).await;
    let last = folder.join("folder 1/drawing 1.dgn");
    write(&last, "drawing");
    let last = last.to_str().unwrap().to_owned();
    let mut took = Vec::new();
    let nothing = shortest(async || {
        site.run(&["status", "--help"]).await;
    });
    took.push(("a command that does nothing", nothing.await));
    for (name, command) in [
        ("status", &["status"][..]),
        ("status --json", &["status", "--json"]),
        ("explain", &["explain", &last]),
        ("status FILE", &["status", &last]),
        ("retry FILE", &["retry", "--dry-run", &last]),
        ("retry --failed", &["retry", "--dry-run", "--failed"]),
    ] {
        let one = shortest(async || {
            let output = site.run(command).await;
            assert!(!output.out.is_empty(), "{name}: {output:?}");
        });
        took.push((name, one.await));
    }
    // A folder that is away is not scanned, so that the files stay what they are.
    std::fs::rename(&folder, site.path("away")).unwrap();
    let daemon = site.start();
    daemon.says("serving the web page").await;
    let log = daemon.log();
    let (_, address) = log.split_once("address=\"").unwrap();
    let address = address.split('"').next().unwrap();
    let http = reqwest::Client::new();
    for path in [
        "api/v1/status",
        "api/v1/files?state=failed",
        "api/v1/history",
        "metrics",
        "readyz",
        "api/v1/files/1",
    ] {
        let one = shortest(async || {
            let answer = http.get(format!("{address}{path}")).send().await.unwrap();
            let text = answer.text().await.unwrap();
            assert!(!text.is_empty(), "{path}");
        });
        took.push((path, one.await));
    }
    let metrics = reqwest::get(format!("{address}metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let failed = format!(
        "itwin_syncd_jobs{{watch=\"north\",state=\"failed\"}} {}",
        files.div_ceil(2)
    );
    assert!(metrics.contains(&failed), "{metrics}");
    let began = Instant::now();
    let output = site.status().await;
    assert_eq!(output.len(), files as usize);
    took.push(("status --json --all", began.elapsed()));
    daemon.stop().await;
    took
}

#[tokio::test]
#[allow(
    clippy::print_stdout,
    reason = "the measured times are worth reading with --nocapture"
)]
async fn answers_take_no_longer_with_many_files_than_with_few() {
    let files = std::env::var("SCALE_FILES").map_or(50_000, |files| files.parse().unwrap());
    let few = answers(500).await;
    let many = answers(files).await;
    for ((name, few), (_, many)) in few.iter().zip(&many) {
        println!("{name}: {few:?} with 500 files, {many:?} with {files}");
        if *name != "status --json --all" {
            // What reads every file takes a hundred times as long.
            assert!(
                *many < *few * 3 + Duration::from_millis(50),
                "{name}: {few:?} with 500 files, {many:?} with {files}"
            );
        }
    }
}
