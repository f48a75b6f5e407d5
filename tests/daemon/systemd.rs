//! The notifications to systemd, received on a socket of the test's own; `tests/systemd` does the rest with a booted
//! one.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault};
use sqlx::Connection as _;

use crate::support::{Daemon, Site, eventually, platform, write};

/// Stands in for systemd.
pub struct Supervisor {
    path: PathBuf,
    output: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    pub fn new(site: &Site) -> Self {
        let path = site.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let output = Arc::<Mutex<Vec<String>>>::default();
        let listening = Arc::clone(&output);
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = socket.recv(&mut buffer) {
                let message = String::from_utf8_lossy(&buffer[..len]);
                listening.lock().unwrap().push(message.trim().to_owned());
            }
        });
        Self { path, output }
    }

    /// Starts the daemon with a watchdog that wants a ping every three seconds.
    pub fn start(&self, site: &Site) -> Daemon {
        site.start_with(&[
            ("NOTIFY_SOCKET", self.path.to_str().unwrap()),
            ("WATCHDOG_USEC", "3000000"),
        ])
    }

    pub fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.output.lock().unwrap().clear();
    }

    pub async fn hears(&self, words: &str, daemon: &Daemon) {
        eventually(
            || self.output().iter().any(|message| message.contains(words)),
            || format!("{words:?} is not in {:#?}\n{}", self.output(), daemon.log()),
        )
        .await;
    }
}

#[tokio::test]
async fn systemd_is_notified_of_start_reload_and_stop() {
    let (site, folder) = Site::with_folder(platform()).await;
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    systemd.hears("WATCHDOG=1", &daemon).await;
    write(&folder.join("house.ifc"), "house");
    systemd
        .hears(
            "STATUS=1 of 1 folders ok; queue 0; last run Success",
            &daemon,
        )
        .await;
    let (status, _) = daemon.stop().await;
    assert!(status.success());
    let output = systemd.output();
    let first = output.first().unwrap();
    assert!(
        first.starts_with("EXTEND_TIMEOUT_USEC=60000000"),
        "{output:#?}"
    );
    let at = |words: &str| output.iter().position(|message| message.starts_with(words));
    let (ready, ping, stopping) = (at("READY=1"), at("WATCHDOG=1"), at("STOPPING=1"));
    assert!(
        ready.is_some() && ready < ping && ping < stopping,
        "{output:#?}"
    );
    let stopping = &output[stopping.unwrap()];
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=45000000"),
        "{output:#?}"
    );
}

#[tokio::test]
async fn an_unmounted_share_does_not_block_the_start() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let away = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"");
    site.replace_in_watches(
        "imodel_id = \"aaaa",
        "storage_folder = \"North\"\nimodel_id = \"aaaa",
    );
    site.replace_in_watches("storage_folder = \"North\"\nimodel_id = \"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee\"\nstorage_folder = \"South\"", "imodel_id = \"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee\"\nstorage_folder = \"South\"");
    std::fs::remove_dir(&away).unwrap();
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    systemd.hears("READY=1", &daemon).await;
    systemd
        .hears("STATUS=1 of 2 folders ok, \"south\" unavailable", &daemon)
        .await;
    write(&folder.join("house.ifc"), "house");
    site.synchronized(1, &daemon).await;
    write(&away.join("bridge.ifc"), "bridge");
    site.synchronized(2, &daemon).await;
    systemd.hears("STATUS=2 of 2 folders ok", &daemon).await;
    daemon.stop().await;
}

/// Takes the writer's lock of the ledger, as a disk that hangs would.
async fn lock_ledger(site: &Site) -> sqlx::SqliteConnection {
    let path = site.path("state/ledger.db");
    let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

#[tokio::test]
async fn a_blocked_ledger_stops_the_watchdog_pings_until_it_responds() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    systemd.hears("WATCHDOG=1", &daemon).await;
    daemon.says("scan finished").await;
    let lock = lock_ledger(&site).await;
    daemon.says("health check failed: ").await;
    systemd.forget();
    assert!(!daemon.log().contains("health check recovered"));
    lock.close().await.unwrap();
    daemon.says("health check recovered").await;
    systemd.hears("WATCHDOG=1", &daemon).await;
    let (status, _) = daemon.stop().await;
    assert!(status.success());
}

#[tokio::test]
async fn a_start_that_waits_for_the_ledger_asks_for_more_time() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let first = site.start();
    first.says("scan finished").await;
    first.stop().await;
    let lock = lock_ledger(&site).await;
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    systemd.hears("EXTEND_TIMEOUT_USEC", &daemon).await;
    assert!(
        !systemd.output().iter().any(|one| one.contains("READY=1")),
        "{:#?}",
        systemd.output()
    );
    lock.close().await.unwrap();
    systemd.hears("READY=1", &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_reload_changes_watches_and_limits_and_drops_nothing_in_progress() {
    let (mut site, north) = Site::with_folder(platform()).await;
    site.replace_in_watches(
        "name = \"north\"",
        "name = \"north\"\nstorage_folder = \"North\"",
    );
    // The first upload is slow: in progress when the configuration changes.
    site.emulator.fault(
        Fault::on("PUT *")
            .latency(std::time::Duration::from_millis(3000))
            .times(1),
    );
    let systemd = Supervisor::new(&site);
    write(&north.join("slow.ifc"), "slow");
    let daemon = systemd.start(&site);
    eventually(
        || {
            let state = site.emulator.state();
            state.files.values().any(|file| file.path.contains("slow"))
        },
        || daemon.log(),
    )
    .await;

    let south = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"");
    site.top += "[log]\nlevel = \"debug\"\n[upload]\nworkers = 1\n";
    site.config();
    daemon.signal("HUP");
    daemon.says("configuration reloaded").await;
    write(&south.join("new.ifc"), "new");
    site.synchronized(2, &daemon).await;
    let log = daemon.log();
    assert!(log.contains("DEBUG"), "{log}");
    assert_eq!(
        log.matches("upload started").count(),
        1,
        "slow.ifc began before: {log}"
    );
    assert_eq!(site.requests("POST", "/files").len(), 2);
    let output = systemd.output();
    let at = output
        .iter()
        .position(|message| message.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    let again = output
        .iter()
        .skip(at.unwrap())
        .any(|message| message.starts_with("READY=1\nSTATUS="));
    assert!(again, "{output:#?}");

    // One folder less, and other times for the other.
    site.replace_in_watches("name = \"south\"", "name = \"south\"\nsettle = \"1s\"");
    let text = std::fs::read_to_string(site.config()).unwrap();
    let (before, after) = text.split_once("[[watch]]").unwrap();
    let south_only = after.split_once("[[watch]]").unwrap().1;
    std::fs::write(
        site.path("config.toml"),
        format!("{before}[[watch]]{south_only}"),
    )
    .unwrap();
    systemd.forget();
    daemon.signal("HUP");
    systemd.hears("STATUS=1 of 1 folders ok", &daemon).await;
    assert!(daemon.log().contains("watch removed"), "{}", daemon.log());
    write(&north.join("unwatched.ifc"), "unwatched");
    write(&south.join("newer.ifc"), "newer");
    eventually(
        || {
            let state = site.emulator.state();
            state
                .files
                .values()
                .any(|file| file.path == "South/newer.ifc" && file.completed.is_some())
        },
        || daemon.log(),
    )
    .await;
    let (status, _) = daemon.stop().await;
    assert!(status.success());
    let state = site.emulator.state();
    assert!(
        !state
            .files
            .values()
            .any(|file| file.path.contains("unwatched"))
    );
}

#[tokio::test]
async fn a_broken_configuration_is_rejected_and_changes_that_need_a_restart_are_named() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    daemon.says("scan finished").await;
    let good = site.top.clone();
    site.top = "settle = \"5\"\nsettel = 1\n".to_owned();
    site.config();
    daemon.signal("HUP");
    systemd
        .hears(
            "(errors: 2), keeping the previous configuration; 1 of 1 folders ok",
            &daemon,
        )
        .await;
    daemon.says("reload rejected").await;
    let log = daemon.log();
    for part in [
        "config.toml line 1, settle: \"5\" has no unit",
        "settel",
        "reload rejected: keeping the previous configuration",
    ] {
        assert!(log.contains(part), "no {part}: {log}");
    }
    site.top = good;
    write(&folder.join("house.ifc"), "house");
    site.synchronized(1, &daemon).await;

    systemd.forget();
    site.itwin = "scope = \"other\"\n".to_owned();
    site.config();
    daemon.signal("HUP");
    daemon
        .says("this change needs a restart key=\"itwin.scope\"")
        .await;
    systemd.hears("STATUS=1 of 1 folders ok", &daemon).await;
    let (status, _) = daemon.stop().await;
    assert!(status.success());
}

#[tokio::test]
async fn a_scan_of_a_hundred_thousand_files_is_one_line() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top = "settle = \"1h\"\n".to_owned();
    for number in 0..100 {
        let below = folder.join(number.to_string());
        std::fs::create_dir(&below).unwrap();
        for number in 0..1000 {
            std::fs::write(below.join(format!("{number}.ifc")), "").unwrap();
        }
    }
    let daemon = site.start();
    daemon.says("scan finished").await;
    let (_, log) = daemon.stop().await;
    assert!(log.contains("files=100000 changed=100000"), "{log}");
    assert!(log.lines().count() < 10, "{log}");
}
