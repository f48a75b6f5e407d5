//! Windows for runs and uploads, by a clock that the tests move.

use std::path::PathBuf;

use itwin_syncd::emulator::DEFAULT_IMODEL_ID;
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::support::{Daemon, PATIENCE, Site, eventually, platform, write};

const BERLIN: &str = "Europe/Berlin";

/// A daemon in Berlin whose clock is set to a time of day.
pub(super) struct Clock(PathBuf);

impl Clock {
    pub(super) fn new(site: &Site) -> Self {
        Self(site.path("clock"))
    }

    /// Sets the clock to this local time of the day after tomorrow.
    pub(super) fn set(&self, hour: i8) {
        let zone = TimeZone::get(BERLIN).unwrap();
        let now = Timestamp::now();
        let date = now.to_zoned_datetime(zone.clone()).date();
        let date = date.checked_add(jiff::Span::new().days(2)).unwrap();
        let time = Time::new(hour, 0, 0, 0).unwrap();
        let at = date.to_datetime(time).in_tz(BERLIN).unwrap().timestamp();
        let ahead = at.duration_since(now).as_secs();
        // Never read half written.
        let new = self.0.with_extension("new");
        std::fs::write(&new, ahead.to_string()).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }

    /// What a daemon needs in its environment to have it.
    pub(super) fn environment(&self) -> [(&str, &str); 2] {
        [
            ("ITWIN_SYNCD_CLOCK", self.0.to_str().unwrap()),
            ("TZ", BERLIN),
        ]
    }

    /// By how many seconds it is ahead.
    pub(super) fn ahead(&self) -> i64 {
        std::fs::read_to_string(&self.0).unwrap().parse().unwrap()
    }

    pub(super) fn start(&self, site: &Site) -> Daemon {
        site.start_with(&self.environment())
    }
}

fn runs(site: &Site) -> usize {
    site.emulator.state().runs.len()
}

fn uploads(site: &Site) -> usize {
    let requests = site.emulator.requests();
    let complete = requests
        .iter()
        .filter(|one| one.path.ends_with("/complete"));
    complete.count()
}

async fn site(tables: &str) -> (Site, PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += &tables.replace("IMODEL", DEFAULT_IMODEL_ID);
    (site, folder)
}

const RUN_AT_NIGHT: &str = "[[imodel]]\nid = \"IMODEL\"\nrun_window = [\"19:00-06:00\"]\n";

#[tokio::test]
async fn files_are_uploaded_by_day_and_run_at_night() {
    let (site, folder) = site(RUN_AT_NIGHT).await;
    let clock = Clock::new(&site);
    clock.set(12);
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = clock.start(&site);
    site.shows("2 files wait until", &daemon).await;
    assert_eq!((uploads(&site), runs(&site)), (2, 0));
    let path = folder.join("a.ifc");
    let explained = site.run(&["explain", path.to_str().unwrap()]).await.out;
    assert!(explained.contains("waiting for: run_window"), "{explained}");
    let json = site.run(&["status", "--json"]).await.out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["watches"][0]["waits"][0]["stage"], "run", "{json:#}");
    assert_eq!(json["watches"][0]["waits"][0]["files"], 2, "{json:#}");

    // Also over a restart.
    daemon.stop().await;
    let daemon = clock.start(&site);
    site.shows("2 files wait until", &daemon).await;
    assert_eq!(runs(&site), 0);
    clock.set(19);
    site.synchronized(2, &daemon).await;
    assert_eq!(runs(&site), 1);
    let shown = site.run(&["status"]).await.out;
    assert!(!shown.contains("until"), "{shown}");
    daemon.stop().await;
}

#[tokio::test]
async fn sync_runs_at_once_what_waits_for_the_night_and_nothing_that_comes_later() {
    let (site, folder) = site(RUN_AT_NIGHT).await;
    let clock = Clock::new(&site);
    clock.set(12);
    write(&folder.join("a.ifc"), "a");
    let daemon = clock.start(&site);
    site.shows("1 file waits until", &daemon).await;
    let asked = site.run(&["sync", "north"]).await;
    assert!(asked.out.contains("synchronized now"), "{asked:?}");
    site.synchronized(1, &daemon).await;
    write(&folder.join("b.ifc"), "b");
    site.shows("1 file waits until", &daemon).await;
    assert_eq!(runs(&site), 1);
    // A request without a daemon applies at the next start.
    daemon.kill().await;
    let asked = site.run(&["sync"]).await;
    assert!(asked.out.contains("when the daemon starts"), "{asked:?}");
    let daemon = clock.start(&site);
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn uploads_wait_for_their_window_and_sync_overrules_it() {
    let (mut site, folder) = site("").await;
    site.replace_in_watches("imodel_id", "upload_window = [\"19:00-06:00\"]\nimodel_id");
    let clock = Clock::new(&site);
    clock.set(12);
    write(&folder.join("a.ifc"), "a");
    let daemon = clock.start(&site);
    site.shows("1 file waits until", &daemon).await;
    assert_eq!(uploads(&site), 0);
    site.run(&["sync"]).await;
    site.synchronized(1, &daemon).await;

    write(&folder.join("b.ifc"), "b");
    site.shows("1 file waits until", &daemon).await;
    assert_eq!(uploads(&site), 1);
    clock.set(19);
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_bandwidth_limit_of_zero_pauses_uploads_also_despite_sync() {
    let (mut site, folder) = site("").await;
    site.tables += "[upload]\nrate = [{ from = \"07:00\", to = \"19:00\", limit = \"0\" }]\n";
    let clock = Clock::new(&site);
    clock.set(12);
    write(&folder.join("a.ifc"), "a");
    let daemon = clock.start(&site);
    site.shows("1 file waits until", &daemon).await;
    site.run(&["sync"]).await;
    site.shows("1 file waits until", &daemon).await;
    assert_eq!(uploads(&site), 0);
    clock.set(19);
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_waits_longer_than_window_stale_is_reported() {
    let tables = RUN_AT_NIGHT.to_owned() + "window_stale = \"1h\"\n";
    let (mut site, folder) = site(&tables).await;
    let out = site.path("alert.txt");
    site.tables += &format!(
        "[[alert]]\nname = \"team\"\ngroup = \"0s\"\ncommand = [\"/bin/sh\", \"-c\", \"cat >> {}\"]\n",
        out.display()
    );
    let clock = Clock::new(&site);
    clock.set(12);
    write(&folder.join("a.ifc"), "a");
    let daemon = clock.start(&site);
    site.shows("1 file waits until", &daemon).await;
    daemon.stop().await;
    clock.set(14);
    let daemon = clock.start(&site);
    daemon.says("for longer than window_stale").await;
    let sent = || {
        std::fs::read_to_string(&out).is_ok_and(|text| text.contains("longer than window_stale"))
    };
    eventually(sent, || daemon.log()).await;
    assert_eq!(runs(&site), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_in_progress_is_not_interrupted_when_its_window_closes() {
    let duration = std::time::Duration::from_secs(5);
    let (mut site, folder) = Site::with_folder(platform().run_duration(duration)).await;
    site.tables += &RUN_AT_NIGHT.replace("IMODEL", DEFAULT_IMODEL_ID);
    let clock = Clock::new(&site);
    clock.set(5);
    write(&folder.join("a.ifc"), "a");
    let daemon = clock.start(&site);
    eventually(|| runs(&site) == 1, || daemon.log()).await;
    clock.set(7);
    daemon.says("system clock jumped forward").await;
    site.synchronized(1, &daemon).await;
    assert_eq!(runs(&site), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn deletions_wait_for_the_night_and_sync_does_them_at_once() {
    let (mut site, folder) = site(RUN_AT_NIGHT).await;
    let keys = "on_delete = \"remove\"\ndelete_after = \"1s\"\nimodel_id";
    site.replace_in_watches("imodel_id", keys);
    site.top += "rescan_interval = \"500ms\"\n";
    let clock = Clock::new(&site);
    clock.set(22);
    for name in ["a.ifc", "b.ifc"] {
        write(&folder.join(name), name);
    }
    let daemon = clock.start(&site);
    site.synchronized(2, &daemon).await;
    daemon.stop().await;

    clock.set(12);
    let daemon = clock.start(&site);
    std::fs::remove_file(folder.join("a.ifc")).unwrap();
    daemon.says("known files were deleted").await;
    write(&folder.join("b.ifc"), "b changed");
    site.shows("1 file waits until", &daemon).await;
    // The connection is checked several times after the file is due.
    let checks = || site.requests("GET", "/sourceFiles").len();
    let before = checks();
    eventually(|| checks() > before + 6, || daemon.log()).await;
    assert!(site.requests("DELETE", "").is_empty());
    // The time of the deletion may not have come yet.
    let deadline = std::time::Instant::now() + PATIENCE;
    while site.requests("DELETE", "").len() < 2 {
        assert!(std::time::Instant::now() < deadline, "{}", daemon.log());
        site.run(&["sync", "north"]).await;
    }
    // The storage file comes back at once, the run that maps it waits.
    let a = folder.join("a.ifc");
    site.run(&["restore", a.to_str().unwrap()]).await;
    daemon.says("storage file restored").await;
    site.shows("1 file waits until", &daemon).await;
    let before = runs(&site);
    site.run(&["sync", "north"]).await;
    eventually(|| runs(&site) > before, || daemon.log()).await;
    daemon.stop().await;
}
