//! A system clock that is wrong, jumps, and is corrected: nothing waits for it, and nothing is given up because of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use itwin_syncd::emulator::{Effect, Fault};
use itwin_syncd::ledger::{Ledger, Outcome};
use jiff::Timestamp;

use crate::support::{Daemon, Site, assert_in_imodel, eventually, platform, write};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// The system clock of a daemon, as far as it is wrong.
struct Clock(PathBuf);

impl Clock {
    fn new(site: &Site, seconds: i64) -> Self {
        let clock = Self(site.path("clock"));
        clock.set(seconds);
        clock
    }

    /// Sets it this many seconds ahead of the true time.
    fn set(&self, seconds: i64) {
        // Never read half written.
        let new = self.0.with_extension("new");
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    fn start(&self, site: &Site) -> Daemon {
        site.start_with(&[("ITWIN_SYNCD_CLOCK", self.0.to_str().unwrap())])
    }
}

/// The route fails from now on.
fn fails(site: &Site, route: &str) {
    site.emulator.fault(Fault::on(route).status(503));
}

async fn refused(site: &Site, daemon: &Daemon, times: usize) {
    let before = site.emulator.requests().len();
    let met = || {
        let requests = site.emulator.requests();
        let refused = requests[before..].iter().filter(|one| one.status == 503);
        refused.count() >= times
    };
    eventually(met, || daemon.log()).await;
}

#[tokio::test]
async fn a_retry_scheduled_while_the_clock_was_ahead_comes_after_its_own_backoff() {
    let (site, folder) = Site::with_folder(platform()).await;
    let clock = Clock::new(&site, 10 * DAY);
    fails(&site, "POST /storage/folders/*/files");
    write(&folder.join("house.ifc"), "house");
    let daemon = clock.start(&site);
    daemon.says("upload failed; trying again").await;
    daemon.kill().await;
    site.emulator.clear_faults();
    clock.set(0);
    let daemon = clock.start(&site);
    daemon.says("ahead of the system clock").await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_clock_jump_while_files_fail_neither_fails_nor_delays_any() {
    let (site, folder) = Site::with_folder(platform()).await;
    let clock = Clock::new(&site, 0);
    fails(&site, "PUT /emulated/*");
    write(&folder.join("house.ifc"), "house");
    let daemon = clock.start(&site);
    daemon.says("upload failed; trying again").await;
    clock.set(10 * DAY);
    daemon.says("system clock jumped forward").await;
    refused(&site, &daemon, 6).await;
    // It is still retried, and not given up.
    let files = site.status().await;
    assert_ne!(files["north/house.ifc"]["state"], "failed", "{files:#?}");
    clock.set(0);
    daemon.says("system clock was set back").await;
    refused(&site, &daemon, 6).await;
    site.emulator.clear_faults();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_kill_between_two_clock_jumps_fails_no_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    let clock = Clock::new(&site, 0);
    fails(&site, "PUT /emulated/*");
    write(&folder.join("house.ifc"), "house");
    for days in [0, 10, 20, 5] {
        clock.set(days * DAY);
        let daemon = clock.start(&site);
        refused(&site, &daemon, 3).await;
        let files = site.status().await;
        assert_ne!(files["north/house.ifc"]["state"], "failed", "{files:#?}");
        daemon.kill().await;
    }
    site.emulator.clear_faults();
    let daemon = clock.start(&site);
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn files_that_were_uploaded_before_the_clock_was_set_back_are_in_the_next_run() {
    for restart in [false, true] {
        let (site, folder) = Site::with_folder(platform()).await;
        let clock = Clock::new(&site, 0);
        fails(&site, "POST */run");
        write(&folder.join("house.ifc"), "house");
        let mut daemon = clock.start(&site);
        refused(&site, &daemon, 1).await;
        if restart {
            daemon.kill().await;
            clock.set(-DAY);
            daemon = clock.start(&site);
        } else {
            clock.set(-DAY);
            daemon.says("system clock was set back").await;
        }
        site.emulator.clear_faults();
        // No run for another file may help it.
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        let files = [("house.ifc".to_owned(), "house".to_owned())];
        assert_in_imodel(&site.emulator.state(), &files.into());
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_deletes_no_history() {
    let (site, folder) = Site::with_folder(platform()).await;
    let clock = Clock::new(&site, 0);
    for (runs, content) in [(1, "first"), (2, "second")] {
        write(&folder.join("house.ifc"), content);
        let daemon = clock.start(&site);
        let requested = || site.emulator.state().runs.len() == runs;
        eventually(requested, || daemon.log()).await;
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
    }
    clock.set(2000 * DAY);
    let daemon = clock.start(&site);
    write(&folder.join("other.ifc"), "other");
    site.synchronized(2, &daemon).await;
    // History is checked once a second until the platform has answered, which it has.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let ledger = Ledger::read(&site.path("state")).await.unwrap();
    let results = ledger.results_since(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(results, [(Outcome::Synchronized, 3)]);
    daemon.stop().await;
}

fn rounds() -> u32 {
    std::env::var("CLOCK_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("CLOCK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap())
}

#[tokio::test]
async fn random_clock_jumps_and_kills_lose_nothing() {
    let seed = seed();
    #[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
    {
        println!("CLOCK_SEED={seed}");
    }
    let mut random = Rng::with_seed(seed);
    let (mut site, folder) = Site::with_folder(platform().seed(seed)).await;
    site.tables += "[upload]\nblock_size = \"4B\"\n";
    let clock = Clock::new(&site, 0);
    let mut files = BTreeMap::new();
    let mut daemon = clock.start(&site);
    for round in 0..rounds() {
        let jump = [0, 4, 90, 20 * 60, HOUR, 3 * DAY, 400 * DAY];
        let jump = *random.choice(&jump).unwrap();
        clock.set(if random.bool() { jump } else { -jump });
        if random.bool() {
            let routes = [
                "POST /storage/folders/*/files",
                "PUT /emulated/*",
                "POST /storage/files/*/complete",
                "POST */run",
                "GET *",
            ];
            site.emulator.fault(
                Fault::on(*random.choice(&routes).unwrap())
                    .effect(if random.bool() {
                        Effect::Reset {
                            after_effect: random.bool(),
                        }
                    } else {
                        Effect::Status {
                            status: 503,
                            body: String::new(),
                            headers: Vec::new(),
                            after_effect: false,
                        }
                    })
                    .skip(random.u32(0..2))
                    .times(random.u32(1..4)),
            );
        }
        let (path, content) = (
            format!("{}.ifc", random.u8(0..6)),
            format!("content of round {round}"),
        );
        write(&folder.join(&path), &content);
        files.insert(path, content);
        tokio::time::sleep(Duration::from_millis(random.u64(50..1800))).await;
        let log = daemon.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("result=\"failed\""), "{log}");
        if random.bool() {
            daemon.kill().await;
            daemon = clock.start(&site);
        }
    }
    site.emulator.clear_faults();
    eventually(|| site.holds(&files), || daemon.log()).await;
    site.synchronized(files.len(), &daemon).await;
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    assert_in_imodel(&site.emulator.state(), &files);
}
