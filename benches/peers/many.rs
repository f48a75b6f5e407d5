//! Folders with many files: how long a start takes, what rest costs, and how long answers take.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::measure::{self, Cost, Daemon, Site, median, number};
use crate::platform::Platform;
use crate::{Row, rounds, row, scaled, seconds_and_memory, seconds_of};

/// A folder tree of many files that the ledger knows as done.
fn known(platform: &Platform, files: u64) -> Site {
    let site = Site::new(platform.url(), "rescan_interval = \"1d\"", "");
    let mut ready = Vec::new();
    for number in 0..files {
        let path = PathBuf::from(format!("{}/{number}.dgn", number / 1000));
        let whole = site.watched().join(&path);
        if number.is_multiple_of(1000) {
            std::fs::create_dir(whole.parent().unwrap()).unwrap();
        }
        std::fs::write(&whole, "x").unwrap();
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(&whole).unwrap();
        let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
        ready.push(itwin_syncd::ledger::Ready {
            path,
            fingerprint: itwin_syncd::ledger::Fingerprint {
                size: 1,
                mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
                ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            },
            connector: Some(itwin_syncd::connector_type::ConnectorType::new("MSTN")),
            set_stem: None,
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        use itwin_syncd::ledger::{BulkChangeLimits, Ledger, WatchSpec};
        let ledger = Ledger::open(&site.state()).await.unwrap();
        let spec = WatchSpec {
            settings: String::new(),
            follows: None,
            name: "bench".to_owned(),
            formerly: None,
            path: "/bench".into(),
            imodel_wait: None,
            imodel_id: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee".into(),
            storage_folder: String::new(),
            connection: "itwin-syncd".to_owned().into(),
            withdrawal: itwin_syncd::ledger::WithdrawalPolicy::default(),
            bulk_change_limits: BulkChangeLimits {
                changed_files: 1_000_000_000,
                new_files: 1_000_000_000,
            },
        };
        let now = jiff::Timestamp::now();
        let watch = ledger.register_watches(&[spec], now).await.unwrap()[0].id;
        for some in ready.chunks(10_000) {
            ledger.hand_over(watch, some, now).await.unwrap();
        }
        ledger.close().await;
        let database = format!("sqlite://{}", site.state().join("ledger.db").display());
        let pool = sqlx::SqlitePool::connect(&database).await.unwrap();
        for change in [
            "DELETE FROM jobs",
            "UPDATE files SET stored_version = version, outcome = 'synchronized'",
            "PRAGMA wal_checkpoint(TRUNCATE)",
        ] {
            sqlx::query(change).execute(&pool).await.unwrap();
        }
        pool.close().await;
    });
    site
}

pub fn start_up(platform: &Platform, rows: &mut Vec<Row>) {
    let site = known(platform, scaled(1_000_000));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        theirs.push(find(&site));
        let began = Instant::now();
        let mut daemon = site.start();
        let line = daemon.says("scan finished", 1);
        assert_eq!(number(&line, "changed"), 0.0, "{line}");
        ours.push(Cost {
            seconds: began.elapsed().as_secs_f64(),
            peak_mib: measure::peak_mib(daemon.pid()).unwrap(),
            processor: measure::processor_seconds(daemon.pid()),
        });
    }
    let ratio = seconds_of(&ours) / seconds_of(&theirs);
    rows.push(row(
        "start-up scan, 1 000 000 files, find",
        seconds_and_memory(&ours),
        seconds_and_memory(&theirs),
        ratio,
        "≤ 1.5, ≤ 64 MiB",
    ));
}

/// With many files watched: what it needs when nothing happens, and how soon it acts when something does.
pub fn idle(platform: &Platform, rows: &mut Vec<Row>) {
    let settle = Duration::from_millis(500);
    let site = known(platform, scaled(100_000));
    let config = site.dir.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("settle = \"500ms\"\n{text}")).unwrap();
    let mut daemon = site.start();
    daemon.says("scan finished", 1);
    std::thread::sleep(Duration::from_secs(3));
    let before = measure::processor_seconds(daemon.pid());
    std::thread::sleep(Duration::from_secs(60));
    let share = (measure::processor_seconds(daemon.pid()) - before) / 60.0 * 100.0;
    let resident = measure::resident_mib(daemon.pid()).unwrap();
    rows.push(row(
        "idle, 100 000 files watched, one minute",
        format!("{share:.2} % of a core, {resident:.0} MiB"),
        "–".to_owned(),
        f64::NAN,
        "< 0.1 %, ≤ 40 MiB",
    ));
    let delays = delays(platform, &site, &mut daemon, settle);
    rows.push(row(
        "close of a file to its first request, without settle",
        format!("{:.1} ms", median(delays) * 1000.0),
        "–".to_owned(),
        f64::NAN,
        "≤ 20 ms",
    ));
}

fn delays(platform: &Platform, site: &Site, daemon: &mut Daemon, settle: Duration) -> Vec<f64> {
    let mut delays = Vec::new();
    for number in 0..30 {
        platform.reset();
        std::fs::write(
            site.watched().join(format!("0/new {number}.dgn")),
            number.to_string(),
        )
        .unwrap();
        let closed = Instant::now();
        daemon.says(" uploaded ", number + 1);
        let created = platform.seen().created[0];
        delays.push((created.duration_since(closed).saturating_sub(settle)).as_secs_f64());
    }
    delays
}

/// How long operators, monitoring and the page wait with a million files.
pub fn answers(platform: &Platform, rows: &mut Vec<Row>) {
    let site = known(platform, scaled(1_000_000));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let web = free.local_addr().unwrap();
    drop(free);
    let config = site.dir.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}[web]\nlisten = \"{web}\"\n")).unwrap();
    let mut daemon = site.start();
    daemon.says("scan finished", 1);
    let file = site.watched().join("7/7007.dgn");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"));
        command.args(arguments).arg("--config").arg(&config);
        measure::run(&mut command).seconds
    };
    let works: [(&str, &dyn Fn() -> f64); 8] = [
        ("`status --json`", &|| command(&["status", "--json"])),
        ("`explain` of a file", &|| {
            command(&["explain", file.to_str().unwrap()])
        }),
        ("`/metrics`", &|| measure::get(web, "/metrics")),
        ("`/readyz`", &|| measure::get(web, "/readyz")),
        ("`/api/v1/status`", &|| measure::get(web, "/api/v1/status")),
        ("first page of files", &|| {
            measure::get(web, "/api/v1/files?limit=50")
        }),
        ("files by a part of their name", &|| {
            measure::get(web, "/api/v1/files?limit=50&search=777777")
        }),
        ("`/api/v1/history`", &|| {
            measure::get(web, "/api/v1/history")
        }),
    ];
    for (name, work) in works {
        let all = (0..rounds()).map(|_| work()).collect();
        rows.push(row(
            &format!("{name}, 1 000 000 files"),
            format!("{:.1} ms", median(all) * 1000.0),
            "–".to_owned(),
            f64::NAN,
            "≤ 20 ms",
        ));
    }
    rows.push(row(
        "peak memory after these",
        format!("{:.0} MiB", measure::peak_mib(daemon.pid()).unwrap()),
        "–".to_owned(),
        f64::NAN,
        "≤ 64 MiB",
    ));
}

/// The first start with files that nothing knows, until all of them are in the ledger.
pub fn first_start(platform: &Platform, rows: &mut Vec<Row>) {
    const LONGEST: Duration = Duration::from_secs(900);
    let files = scaled(1_000_000);
    platform.reset();
    let site = Site::new(
        platform.url(),
        "settle = \"1s\"",
        "[bulk_change]\nmax_new_files = 1000000000\n",
    );
    for number in 0..files {
        let folder = site.watched().join((number / 1000).to_string());
        if number.is_multiple_of(1000) {
            std::fs::create_dir(&folder).unwrap();
        }
        std::fs::write(folder.join(format!("{number}.dgn")), "x").unwrap();
    }
    let find = find(&site);
    let began = Instant::now();
    let daemon = site.start();
    let mut recorded = 0;
    while recorded < files && began.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_secs(1));
        recorded = recorded_files(&site);
    }
    let seconds = began.elapsed().as_secs_f64();
    let first = platform.seen().created[0]
        .duration_since(began)
        .as_secs_f64();
    let peak = measure::peak_mib(daemon.pid()).unwrap();
    rows.push(row(
        "first start with 1 000 000 new files: all in the ledger, find",
        format!("{recorded} files in {seconds:.0} s, {peak:.0} MiB"),
        seconds_and_memory(&[find]),
        seconds / find.seconds,
        "≤ 3, ≤ 64 MiB",
    ));
    rows.push(row(
        "the same: first upload",
        format!("{first:.1} s"),
        "–".to_owned(),
        f64::NAN,
        "≤ 5 s",
    ));
}

/// How many files the ledger has, by its kept counts.
fn recorded_files(site: &Site) -> u64 {
    use sqlx::Connection as _;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = format!(
        "sqlite://{}?mode=ro",
        site.state().join("ledger.db").display()
    );
    runtime.block_on(async {
        let mut connection = sqlx::SqliteConnection::connect(&database).await.unwrap();
        let counted = sqlx::query_scalar("SELECT COALESCE(SUM(files), 0) FROM counts");
        let files: i64 = counted.fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        files as u64
    })
}

/// Lists the watched folder with all that a scan reads.
fn find(site: &Site) -> Cost {
    let mut find = Command::new("sh");
    find.arg("-c")
        .arg("find \"$0\" -type f -printf '%p %s %T@ %C@\\n' > \"$1\"")
        .arg(site.watched())
        .arg(site.dir.path().join("listing"));
    measure::run(&mut find)
}
