//! Hosts that are killed or suspended, and a database that is stopped, again and again, while answers of the platform
//! are late or lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::{Effect, Fault};

use super::uploads::{assert_no_folder_twice, uploads};
use super::{QUICKER, STANDBY, assert_once, shows_all_synchronized};
use crate::postgres::{Server, database, use_database};
use crate::support::{Daemon, PATIENCE, Site, eventually, platform, write};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// What happens next.
enum Trouble {
    /// SIGKILL of a host.
    Kill,
    /// SIGSTOP of a host until others have what it had.
    Suspend,
    /// A crash of the database server.
    Database,
}

/// Half kills, a third suspensions, and the rest crashes of the database server.
fn trouble(number: usize) -> Trouble {
    match number % 6 {
        0 | 2 | 4 => Trouble::Kill,
        1 | 3 => Trouble::Suspend,
        _ => Trouble::Database,
    }
}

/// The answer of the platform that is lost: the request is executed.
fn lost_answer() -> Fault {
    let routes = [
        "POST /storage/folders/*/files",
        "POST /storage/folders/*/folders",
        "POST /storage/files/*/complete",
        "PUT /emulated/*",
        "POST */sourceFiles",
        "POST */run",
        "GET *",
    ];
    let route = routes[fastrand::usize(..routes.len())];
    Fault::on(route).reset().after_effect().times(1)
}

struct Hosts<'s> {
    site: &'s Site,
    daemons: Vec<Daemon>,
}

impl Hosts<'_> {
    async fn start(&self, at: usize) -> Daemon {
        let daemon = self.site.start_on(NAMES[at], &[QUICKER]);
        let takes_part = || {
            let log = daemon.log();
            log.contains("watch started") || log.contains(STANDBY)
        };
        eventually(takes_part, || daemon.log()).await;
        daemon
    }

    /// Starts those again that have ended because another host had taken over, as systemd does.
    async fn start_ended(&mut self) {
        for at in 0..NAMES.len() {
            if self.daemons[at].ends_within(Duration::ZERO).await {
                let again = self.start(at).await;
                let (_, log) = std::mem::replace(&mut self.daemons[at], again)
                    .ended()
                    .await;
                assert!(log.contains("another host has taken over"), "{log}");
            }
        }
    }

    async fn kill(&mut self, at: usize, others_continue: bool) {
        self.daemons[at].signal("KILL");
        if others_continue {
            let other = &self.daemons[(at + 1) % NAMES.len()];
            let before = uploads(other);
            let deadline = Instant::now() + Duration::from_secs(4);
            while uploads(other) < before + 2 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let back = self.start(at).await;
        self.daemons[at] = back;
    }

    /// Longer than lease and grace, half a second and a second, and the wait of others for both.
    async fn suspend(&self, at: usize) {
        self.daemons[at].signal("STOP");
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1_800..3_000))).await;
        self.daemons[at].signal("CONT");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn nothing_is_lost_or_doubled_by_troubles_of_three_hosts_and_their_database() {
    let troubles: usize = std::env::var("HOST_KILLS").map_or(18, |kills| kills.parse().unwrap());
    let server = Server::start().await;
    let (mut site, folder) = Site::with_folder(platform().max_source_files(10_000)).await;
    use_database(&mut site, &database(&server.url).await);
    let late = Effect::Latency {
        ms: 10,
        jitter_ms: 50,
    };
    site.emulator.fault(Fault::on("*").effect(late));
    let mut hosts = Hosts {
        site: &site,
        daemons: Vec::new(),
    };
    for at in 0..NAMES.len() {
        let daemon = hosts.start(at).await;
        hosts.daemons.push(daemon);
    }
    let mut files = BTreeMap::new();
    for number in 0..troubles {
        for number in [number * 3, number * 3 + 1, number * 3 + 2] {
            let path = format!("{}/plan {number}.dgn", number % 7);
            let content = format!("content {number}");
            write(&folder.join(&path), &content);
            files.insert(path, content);
        }
        site.emulator.fault(lost_answer());
        let (seen, more) = (site.emulator.requests().len(), fastrand::usize(1..60));
        let deadline = Instant::now() + Duration::from_secs(3);
        while site.emulator.requests().len() < seen + more && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let victim = fastrand::usize(..NAMES.len());
        match trouble(number) {
            Trouble::Kill => hosts.kill(victim, number % 4 == 0).await,
            Trouble::Suspend => hosts.suspend(victim).await,
            Trouble::Database => server.control(&["-m", "immediate", "restart"]).await,
        }
        hosts.start_ended().await;
    }
    let deadline = Instant::now() + PATIENCE + Duration::from_secs(troubles as u64);
    while let Err(shown) = shows_all_synchronized(&site, NAMES[0], &files).await {
        let logs: Vec<String> = hosts.daemons.iter().map(Daemon::log).collect();
        assert!(
            Instant::now() < deadline,
            "{shown}\n{}",
            logs.join("\n---\n")
        );
        hosts.daemons[0].logs_more().await;
        hosts.start_ended().await;
    }
    assert_once(&site, &files);
    assert_no_folder_twice(&site);
    for daemon in hosts.daemons {
        daemon.stop().await;
    }
    server.end().await;
}
