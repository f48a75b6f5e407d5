//! An upgrade node by node: an older program beside this one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{ACTIVE, STANDBY, all_in_imodel};
use crate::postgres::{database, shared_server, use_database};
use crate::support::{Daemon, PATIENCE, Site, eventually, platform, write};

/// What an older program says of a ledger that a newer one has migrated.
const NEWER: &str = "was written by a newer itwin-syncd";

/// Where the older program runs.
const OLD: &str = "one";
/// Where this program runs.
const NEW: &str = "two";

fn start_old(site: &Site) -> Daemon {
    let old = "exec \"$OLD_PROGRAM\" \"$@\"";
    site.start_on_under(OLD, &["sh", "-c", old])
}

async fn start_new(site: &Site) -> Daemon {
    let daemon = site.start_on(NEW, &[]);
    daemon.says("starting").await;
    daemon
}

/// Saves a file each second, new or known, for as long as this.
async fn save(folder: &std::path::Path, files: &mut BTreeMap<String, String>, how_long: Duration) {
    let end = Instant::now() + how_long;
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        let path = format!("{}/plan {}.dgn", fastrand::u32(..5), fastrand::u32(..100));
        let content = format!("{path} {number} {}", fastrand::u64(..));
        write(&folder.join(&path), &content);
        files.insert(path, content);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and an older program (OLD_PROGRAM), and takes an hour: by hand"]
async fn an_hour_of_an_older_program_beside_this_one_loses_nothing() {
    const ROUNDS: u32 = 12;
    assert!(
        std::env::var_os("OLD_PROGRAM").is_some(),
        "OLD_PROGRAM is missing"
    );
    let (mut site, folder) = Site::with_folder(platform().max_source_files(1_000)).await;
    use_database(&mut site, &database(&shared_server()).await);
    let mut files = BTreeMap::new();
    let mut old = start_old(&site);
    old.says("watch started").await;
    let mut new = start_new(&site).await;
    new.says(STANDBY).await;
    let round = Duration::from_secs(3600) / ROUNDS;
    // The older program is active; both are killed in turn, and start again as systemd would start them.
    for number in 0..ROUNDS / 2 {
        save(&folder, &mut files, round).await;
        if number % 2 == 0 {
            new.kill().await;
            new = start_new(&site).await;
            new.says(STANDBY).await;
        } else {
            old.kill().await;
            old = start_old(&site);
            old.says("watch started").await;
        }
        assert!(!new.log().contains(ACTIVE), "{}", new.log());
    }
    // The older one stops for its upgrade, which does not happen at once.
    let (status, log) = old.stop().await;
    assert!(status.success(), "{log}");
    new.says("watch started").await;
    for number in 0..ROUNDS / 2 {
        let mut old = start_old(&site);
        let beside = if old.ends_within(PATIENCE).await {
            let (_, log) = old.ended().await;
            assert!(log.contains(NEWER), "{log}");
            None
        } else {
            // Both have the same layout of the ledger.
            old.says(STANDBY).await;
            Some(old)
        };
        save(&folder, &mut files, round).await;
        if number % 2 == 0 {
            new.kill().await;
            new = start_new(&site).await;
            let works = || {
                ["watch started", STANDBY]
                    .iter()
                    .any(|text| new.log().contains(text))
            };
            eventually(works, || new.log()).await;
        }
        drop(beside);
    }
    all_in_imodel(&site, NEW, &new, &files).await;
    new.stop().await;
}
