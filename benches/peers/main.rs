//! What the daemon needs, beside the usual alternatives: in one run, on one machine, to the same sink.
//!
//! `cargo bench` prints the table; `cargo bench -- NAME` one row. `BENCH_SCALE=0.1` makes everything smaller,
//! `BENCH_DIR` is where files are made (4 GiB are needed), `BENCH_ROUNDS` how often each is measured.
//!
//! `cargo bench -- hour` takes an hour, and is measured only if it is named.
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

mod many;
mod measure;
mod moments;
mod platform;
mod programs;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use measure::{Cost, Site, installed, median, number};
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

/// The size of the file of this number, and the seed of its content: no two files are equal, as files of users are not.
fn size_of(number: u64, bytes: u64) -> u64 {
    bytes - number
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
        processor: measure::processor_seconds(daemon.pid()),
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
        fill(
            &folder.join(format!("{number}.dgn")),
            size_of(number, bytes),
        );
    }
    let all: u64 = (0..files).map(|number| size_of(number, bytes)).sum();
    let took_all = |name: &str| assert_eq!(platform.seen().bytes, all, "{name}");
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
        "≤ 1.1 of curl",
    );
}

/// Many small files, each call to the API takes 20 ms.
fn small(platform: &Platform, rows: &mut Vec<Row>) {
    const WORKERS: f64 = 8.0;
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let files = scaled(2000);
    for number in 0..files {
        let path = folder.path().join(format!("{number}.dgn"));
        fill(&path, size_of(number, 50 * 1024));
    }
    platform.set_latency(Duration::from_millis(20));
    let (mut seconds, mut processor) = (Vec::new(), Vec::new());
    let mut lists = 0;
    for _ in 0..rounds().min(3) {
        let cost = upload(platform, folder.path(), files as usize, "");
        seconds.push(cost.seconds);
        processor.push(cost.processor / files as f64 * 1000.0);
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
    rows.push(row(
        "the same: processor time per file",
        format!("{:.2} ms", median(processor)),
        "–".to_owned(),
        f64::NAN,
        "≤ 0.7 ms",
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
        "≤ 40 MiB, within 1.05",
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
        "≤ 1.1, no upload",
    ));
}

fn main() {
    let platform: Arc<Platform> = Platform::start();
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    type Measurement = fn(&Platform, &mut Vec<Row>);
    let measurements: [(&str, Measurement); 13] = [
        ("large", large),
        ("middle", middle),
        ("small", small),
        ("batch", batch),
        ("memory", memory),
        ("drop", moments::drops),
        ("start-up", many::start_up),
        ("first-start", many::first_start),
        ("answers", many::answers),
        ("idle", many::idle),
        ("watches", moments::watches),
        ("touched", touched),
        ("hour", moments::hour),
    ];
    let mut rows = Vec::new();
    for (name, measurement) in measurements {
        let is_wanted = wanted.iter().any(|word| word == name);
        if is_wanted || (wanted.is_empty() && name != "hour") {
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
