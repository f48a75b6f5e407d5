//! What the daemon needs, beside the usual alternatives: in one run, on one machine, to the same sink.
//!
//! `cargo bench` prints the table; `cargo bench -- NAME` one row. `BENCH_SCALE=0.1` makes everything smaller,
//! `BENCH_DIR` is where files are made (4 GiB are needed), `BENCH_ROUNDS` how often each is measured.
//!
//! A program that is not there is skipped, and said so; one that fails ends the measurement. Debian has curl, find,
//! b3sum and rclone. `AZCOPY` and `AZURE_PYTHON` name the others:
//!
//! ```sh
//! npm install --prefix peers @azure-tools/azcopy-linux && chmod +x peers/node_modules/@azure-tools/azcopy-linux/dist/bin/*
//! apt-get install libsecret-1-0 # AzCopy does not start without it
//! python3 -m venv peers/python && peers/python/bin/pip install azure-storage-blob
//! export AZCOPY=$PWD/peers/node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64
//! export AZURE_PYTHON=$PWD/peers/python/bin/python
//! ```
//!
//! Other programs are measured from their start to their end, and how much of that was content is printed. What the
//! daemon does before and after is not of its uploads alone, so it is measured from the first byte of content to the
//! last.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::doc_markdown,
    clippy::float_cmp,
    clippy::items_after_statements,
    clippy::too_many_lines,
    clippy::type_complexity,
    missing_docs,
    unreachable_pub,
    reason = "a measurement that cannot continue stops"
)]

mod measure;
mod platform;
mod programs;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::{Cost, Daemon, Site, installed, median, number};
use platform::Platform;
use programs::Program;

const MIB: u64 = 1024 * 1024;

fn scale() -> f64 {
    std::env::var("BENCH_SCALE").map_or(1.0, |scale| scale.parse().unwrap())
}

fn scaled(count: u64) -> u64 {
    ((count as f64 * scale()) as u64).max(1)
}

fn rounds() -> usize {
    std::env::var("BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

/// Where files are made.
pub fn scratch() -> PathBuf {
    std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A file of bytes that no compression makes smaller.
fn fill(path: &Path, bytes: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut random = fastrand::Rng::with_seed(bytes);
    let mut piece = vec![0; MIB as usize];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(MIB) as usize;
        random.fill(&mut piece[..most]);
        file.write_all(&piece[..most]).unwrap();
        left -= most as u64;
    }
    file.into_inner().unwrap().sync_all().unwrap();
}

/// Brings files into the page cache: idle pages get dropped on some machines.
fn warm(folder: &Path) {
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            let mut file = std::fs::File::open(path).unwrap();
            std::io::copy(&mut file, &mut std::io::sink()).unwrap();
        }
    }
}

struct Row {
    work: String,
    ours: String,
    theirs: String,
    ratio: String,
    bar: &'static str,
}

fn row(work: &str, ours: String, theirs: String, ratio: f64, bar: &'static str) -> Row {
    let ratio = if ratio.is_nan() {
        "–".to_owned()
    } else {
        format!("{ratio:.2}")
    };
    Row {
        work: work.to_owned(),
        ours,
        theirs,
        ratio,
        bar,
    }
}

fn seconds_and_memory(costs: &[Cost]) -> String {
    let seconds = median(costs.iter().map(|cost| cost.seconds).collect());
    let peak = median(costs.iter().map(|cost| cost.peak_mib).collect());
    format!("{seconds:.2} s, {peak:.0} MiB")
}

fn seconds_of(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.seconds).collect())
}

/// From the first byte of content to the last.
fn content_seconds(platform: &Platform) -> f64 {
    let (first, last) = platform.seen().content.unwrap();
    last.duration_since(first).as_secs_f64()
}

/// Uploads what lies in the folder of a site that is new each time, and measures from the first request to the last
/// answer.
fn upload(platform: &Platform, source: &Path, files: usize, tables: &str) -> Cost {
    platform.reset();
    let site = Site::new(platform.url(), "settle = \"200ms\"", tables);
    std::fs::remove_dir(site.watched()).unwrap();
    let linked = Command::new("cp")
        .args(["-rl"])
        .arg(source)
        .arg(site.watched())
        .status();
    assert!(linked.unwrap().success());
    warm(&site.watched());
    let mut daemon = site.start();
    daemon.says(" uploaded ", files);
    Cost {
        seconds: content_seconds(platform),
        peak_mib: measure::peak_mib(daemon.pid()).unwrap(),
    }
}

/// Files of one size: the daemon and every other program that is there.
fn send(
    platform: &Platform,
    rows: &mut Vec<Row>,
    work: &str,
    files: u64,
    bytes: u64,
    bar: &'static str,
) {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let (folder, home) = (dir.path().join("files"), dir.path().join("home"));
    std::fs::create_dir(&home).unwrap();
    for number in 0..files {
        fill(&folder.join(format!("{number}.dgn")), bytes);
    }
    let took_all = |name: &str| assert_eq!(platform.seen().bytes, files * bytes, "{name}");
    let mut programs = programs::all(platform, &folder, &home);
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<(Cost, f64)>> = vec![Vec::new(); programs.len()];
    for _ in 0..rounds() {
        for (Program { name, command }, costs) in programs.iter_mut().zip(&mut theirs) {
            platform.reset();
            warm(&folder);
            let cost = measure::run(command);
            took_all(name);
            costs.push((cost, content_seconds(platform)));
        }
        ours.push(upload(platform, &folder, files as usize, ""));
        took_all("itwin-syncd");
    }
    for (Program { name, .. }, costs) in programs.iter().zip(theirs) {
        let (costs, content): (Vec<Cost>, Vec<f64>) = costs.into_iter().unzip();
        let (whole, content) = (seconds_and_memory(&costs), median(content));
        rows.push(row(
            &format!("{work}, {name}"),
            seconds_and_memory(&ours),
            format!("{whole}, {content:.2} s of it content"),
            seconds_of(&ours) / seconds_of(&costs),
            bar,
        ));
    }
}

fn large(platform: &Platform, rows: &mut Vec<Row>) {
    let bytes = scaled(2048) * MIB;
    send(platform, rows, "2 GiB", 1, bytes, "≤ 1.15 of curl");
}

/// Their content only.
fn middle(platform: &Platform, rows: &mut Vec<Row>) {
    let files = scaled(200);
    send(
        platform,
        rows,
        "200 × 5 MiB",
        files,
        5 * MIB,
        "≤ 1.3 of curl",
    );
}

/// Many small files, each call to the API takes 20 ms.
fn small(platform: &Platform, rows: &mut Vec<Row>) {
    const WORKERS: f64 = 8.0;
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let files = scaled(2000);
    for number in 0..files {
        fill(&folder.path().join(format!("{number}.dgn")), 50 * 1024);
    }
    platform.set_latency(Duration::from_millis(20));
    let mut seconds = Vec::new();
    let mut lists = 0;
    for _ in 0..rounds().min(3) {
        seconds.push(upload(platform, folder.path(), files as usize, "").seconds);
        let seen = platform.seen().requests;
        assert_eq!(
            (seen["create"], seen["content"], seen["complete"]),
            (files, files, files)
        );
        lists = seen.get("list").copied().unwrap_or(0);
    }
    platform.set_latency(Duration::ZERO);
    let (ours, ideal) = (median(seconds), files as f64 * 2.0 * 0.02 / WORKERS);
    let told = format!("{ideal:.1} s ideal, {lists} listings");
    rows.push(row(
        "2000 × 50 KiB, 20 ms a call",
        format!("{ours:.1} s"),
        told,
        ideal / ours,
        "≥ 0.9 of ideal",
    ));
}

/// Files that are dropped at once share runs.
fn batch(platform: &Platform, rows: &mut Vec<Row>) {
    let files = scaled(1000);
    platform.reset();
    let site = Site::new(platform.url(), "", "");
    let mut daemon = site.start();
    daemon.says("scan finished", 1);
    for number in 0..files {
        std::fs::write(
            site.watched().join(format!("{number}.ifc")),
            number.to_string(),
        )
        .unwrap();
    }
    daemon.says("file synchronized", files as usize);
    let runs = platform.seen().requests["run"];
    rows.push(row(
        "1000 files at once, runs",
        runs.to_string(),
        "–".to_owned(),
        f64::NAN,
        "≤ 3",
    ));
}

/// Memory does not grow with the file.
fn memory(platform: &Platform, rows: &mut Vec<Row>) {
    let mut peaks = Vec::new();
    for bytes in [100 * MIB, scaled(1024) * MIB, scaled(10 * 1024) * MIB] {
        let folder = tempfile::tempdir_in(scratch()).unwrap();
        let file = std::fs::File::create(folder.path().join("sparse.dgn")).unwrap();
        file.set_len(bytes).unwrap();
        platform.reset();
        let site = Site::new(platform.url(), "settle = \"200ms\"", "");
        std::fs::rename(
            folder.path().join("sparse.dgn"),
            site.watched().join("sparse.dgn"),
        )
        .unwrap();
        let mut daemon = site.start();
        daemon.says(" uploaded ", 1);
        peaks.push(measure::peak_mib(daemon.pid()).unwrap());
    }
    rows.push(row(
        "peak memory, 10 GiB; 1 GiB and 100 MiB",
        format!("{:.0} MiB", peaks[2]),
        format!("{:.0} MiB; {:.0} MiB", peaks[1], peaks[0]),
        peaks[2] / peaks[0],
        "≤ 64 MiB, within 1.1",
    ));
}

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

fn start_up(platform: &Platform, rows: &mut Vec<Row>) {
    let site = known(platform, scaled(1_000_000));
    let listing = site.dir.path().join("listing");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let mut find = Command::new("sh");
        find.arg("-c")
            .arg("find \"$0\" -type f -printf '%p %s %T@ %C@\\n' > \"$1\"")
            .arg(site.watched())
            .arg(&listing);
        theirs.push(measure::run(&mut find));
        let began = Instant::now();
        let mut daemon = site.start();
        let line = daemon.says("scan finished", 1);
        assert_eq!(number(&line, "changed"), 0.0, "{line}");
        ours.push(Cost {
            seconds: began.elapsed().as_secs_f64(),
            peak_mib: measure::peak_mib(daemon.pid()).unwrap(),
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
fn idle(platform: &Platform, rows: &mut Vec<Row>) {
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
fn answers(platform: &Platform, rows: &mut Vec<Row>) {
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

/// A large file with new times and the same content.
fn touched(platform: &Platform, rows: &mut Vec<Row>) {
    platform.reset();
    let site = Site::new(
        platform.url(),
        "settle = \"200ms\"\nupload_interval = \"0s\"",
        "",
    );
    let file = site.watched().join("large.dgn");
    fill(&file, scaled(2048) * MIB);
    let mut daemon = site.start();
    daemon.says("file synchronized", 1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds() {
        if installed("b3sum") {
            warm(&site.watched());
            theirs.push(measure::run(Command::new("b3sum").arg(&file)));
        }
        warm(&site.watched());
        std::fs::File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        let line = daemon.says("file unchanged", round);
        ours.push(number(&line, "seconds"));
    }
    assert_eq!(platform.seen().requests.get("update"), None);
    let ours = median(ours);
    let theirs = if theirs.is_empty() {
        f64::NAN
    } else {
        seconds_of(&theirs)
    };
    rows.push(row(
        "touched file of 2 GiB, b3sum",
        format!("{ours:.2} s"),
        format!("{theirs:.2} s"),
        ours / theirs,
        "≤ 1.2, no upload",
    ));
}

fn main() {
    let platform: Arc<Platform> = Platform::start();
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    type Measurement = fn(&Platform, &mut Vec<Row>);
    let measurements: [(&str, Measurement); 9] = [
        ("large", large),
        ("middle", middle),
        ("small", small),
        ("batch", batch),
        ("memory", memory),
        ("start-up", start_up),
        ("answers", answers),
        ("idle", idle),
        ("touched", touched),
    ];
    let mut rows = Vec::new();
    for (name, measurement) in measurements {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("measuring: {name}");
            measurement(&platform, &mut rows);
        }
    }
    println!("\n| work | itwin-syncd | against | ratio | bar |\n|---|---|---|---|---|");
    for Row {
        work,
        ours,
        theirs,
        ratio,
        bar,
    } in rows
    {
        println!("| {work} | {ours} | {theirs} | {ratio} | {bar} |");
    }
}
