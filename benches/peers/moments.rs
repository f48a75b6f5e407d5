//! From a save to its run, and what many watches cost, at rest as well.

use std::path::Path;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::{DEFAULT_ITWIN_ID, Emulator};

use crate::measure::{self, Daemon, Site, median};
use crate::platform::Platform;
use crate::{MIB, Row, fill, rounds, row, scaled};

/// What is dropped into the folder: how many files of how many bytes, and whether each is saved under another name
/// first.
const DROPS: [(&str, u64, u64, bool); 5] = [
    ("a file of 50 KiB, written in place", 1, 50 * 1024, false),
    (
        "a file of 50 KiB, renamed at the end of its save",
        1,
        50 * 1024,
        true,
    ),
    ("a file of 2 GiB, written in place", 1, 2048 * MIB, false),
    ("200 files of 5 MiB, written in place", 200, 5 * MIB, false),
    (
        "2000 files of 50 KiB, written in place",
        2000,
        50 * 1024,
        false,
    ),
];

/// Default settings, nothing else to do: from the end of the last save to the end of the last upload, and to its run.
pub fn drops(platform: &Platform, rows: &mut Vec<Row>) {
    let tables = "[bulk_change]\nmax_new_files = 1000000000\n";
    for (what, files, bytes, renamed) in DROPS {
        let files = if files > 1 { scaled(files) } else { 1 };
        let bytes = if files > 1 {
            bytes
        } else {
            bytes.min(scaled(bytes / MIB).max(1) * MIB)
        };
        let (mut complete, mut run) = (Vec::new(), Vec::new());
        for _ in 0..rounds().min(3) {
            platform.reset();
            let site = Site::new(platform.url(), "", tables);
            let mut daemon = site.start();
            daemon.says("scan finished", 1);
            for number in 0..files {
                save(
                    &site.watched().join(format!("{number}.dgn")),
                    bytes,
                    renamed,
                );
            }
            let saved = Instant::now();
            daemon.says("file synchronized", files as usize);
            let seen = platform.seen();
            let since = |at: Option<Instant>| at.unwrap().duration_since(saved).as_secs_f64();
            complete.push(since(seen.completed));
            run.push(since(seen.run));
        }
        rows.push(row(
            &format!("drop of {what}: to complete; to its run"),
            format!("{:.2} s; {:.2} s", median(complete), median(run)),
            "–".to_owned(),
            f64::NAN,
            "settle + upload; + 2 s",
        ));
    }
}

fn save(path: &Path, bytes: u64, renamed: bool) {
    if renamed {
        let before = path.with_extension("tmp");
        fill(&before, bytes);
        std::fs::rename(before, path).unwrap();
    } else {
        fill(path, bytes);
    }
}

const IMODELS: usize = 50;

/// 200 watches over 50 iModels, one file each, at rest: threads and descriptors.
pub fn watches(_: &Platform, rows: &mut Vec<Row>) {
    let many = Many::start(200);
    // Threads of a watch end some time after their last work.
    std::thread::sleep(Duration::from_secs(60));
    let (threads, descriptors) = measure::threads_and_descriptors(many.daemon.pid());
    let resident = measure::resident_mib(many.daemon.pid()).unwrap();
    rows.push(row(
        "200 watches over 50 iModels at rest: threads, descriptors",
        format!("{threads}, {descriptors}, {resident:.0} MiB"),
        "–".to_owned(),
        f64::NAN,
        "≤ 60, ≤ 250",
    ));
}

/// 50 iModels with a watch and a file each, at rest for an hour: requests.
pub fn hour(_: &Platform, rows: &mut Vec<Row>) {
    let many = Many::start(IMODELS);
    // Past the first checks, which follow the runs.
    std::thread::sleep(Duration::from_secs(120));
    let before = many.emulator.requests().len();
    std::thread::sleep(Duration::from_secs(3600));
    let requests = many.emulator.requests();
    let mut kinds = std::collections::BTreeMap::new();
    for request in &requests[before..] {
        let path = request.path.split('?').next().unwrap_or_default();
        let words = path
            .split('/')
            .map(|word| if word.len() > 20 { "*" } else { word });
        let kind = format!("{} {}", request.method, words.collect::<Vec<_>>().join("/"));
        *kinds.entry(kind).or_insert(0) += 1;
    }
    println!("{kinds:#?}");
    let per_imodel = (requests.len() - before) as f64 / IMODELS as f64;
    rows.push(row(
        "requests in an hour of rest, 50 iModels, per iModel",
        format!("{per_imodel:.2}"),
        "–".to_owned(),
        f64::NAN,
        "≤ 1",
    ));
}

/// A daemon whose files are synchronized, and the emulator that it works with.
struct Many {
    daemon: Daemon,
    emulator: Emulator,
    _site: Site,
    _runtime: tokio::runtime::Runtime,
}

impl Many {
    /// Watches of one file each, evenly over the iModels.
    fn start(watches: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let id = |number: usize| format!("aaaaaaaa-0000-4000-8000-{number:012}");
        let mut builder = Emulator::builder().client("service-bench", "bench");
        for number in 0..IMODELS {
            builder = builder.imodel(&id(number), DEFAULT_ITWIN_ID, &format!("Imodel {number}"));
        }
        let emulator = runtime.block_on(builder.start()).unwrap();
        let site = Site::new(emulator.api_url(), "", "");
        let mut tables = String::new();
        for number in 0..watches {
            let folder = site.watched().join(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("drawing.dgn"), number.to_string()).unwrap();
            tables += &format!(
                "[[watch]]\nname = \"watch{number}\"\npath = {folder:?}\nimodel_id = \"{}\"\nstorage_folder = \"Folder {number}\"\n",
                id(number % IMODELS)
            );
        }
        site.configure(emulator.api_url(), "", &tables);
        let mut daemon = site.start();
        daemon.says("file synchronized", watches);
        Self {
            daemon,
            emulator,
            _site: site,
            _runtime: runtime,
        }
    }
}
