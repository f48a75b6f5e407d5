//! What hosts share of their requests to the platform: the limits, and the pauses that it requests.

use std::path::Path;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::{Fault, RequestRecord};
use jiff::{SignedDuration, Timestamp};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::site;
use super::uploads::{UPLOADS, active, slow, uploads};
use crate::postgres::{database, files, shared_server, use_database, write_all};
use crate::support::{Daemon, PATIENCE, Site, eventually, platform};

/// Those that count: tokens come from another service.
fn counted(site: &Site) -> Vec<RequestRecord> {
    let requests = site.emulator.requests().into_iter();
    let mut counted: Vec<_> = requests
        .filter(|request| request.origin == "api")
        .filter(|request| {
            !request.path.starts_with("/.well-known") && !request.path.starts_with("/connect")
        })
        .collect();
    counted.sort_by_key(|request| request.time);
    counted
}

/// Three hosts that upload.
async fn three(site: &Site, folder: &Path) -> [Daemon; 3] {
    let one = active(site, folder, &[]).await;
    let others = [site.start_on("two", &[]), site.start_on("three", &[])];
    for host in &others {
        host.says(UPLOADS).await;
    }
    let [two, three] = others;
    [one, two, three]
}

fn logs(hosts: &[Daemon]) -> String {
    let logs: Vec<_> = hosts.iter().map(Daemon::log).collect();
    logs.join("\n---\n")
}

async fn stop(hosts: [Daemon; 3]) {
    let [one, two, three] = hosts;
    // Uploads that wait for their turn are left.
    for host in [three, two, one] {
        let (status, log) = host.stop().await;
        assert!(status.success(), "{log}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn three_hosts_together_stay_within_the_limit_of_a_minute_and_use_most_of_it() {
    const PER_MINUTE: usize = 120;
    let (mut site, folder) = site().await;
    site.itwin = format!("requests_per_minute = {PER_MINUTE}\n");
    site.top += "shutdown_grace = \"1s\"\n";
    site.tables += "[upload]\nworkers = 2\n";
    // As over a network: otherwise one host alone would use it all up before the others look for work.
    slow(&site, 200);
    let hosts = three(&site, &folder).await;
    // More than two minutes are enough for.
    write_all(&folder, &files(150));
    // Two for each file, and a few more.
    let enough = || counted(&site).len() > PER_MINUTE * 13 / 10;
    eventually(enough, || logs(&hosts)).await;
    let counted = counted(&site);
    let minute = SignedDuration::from_secs(59);
    for (first, later) in counted.iter().zip(counted.iter().skip(PER_MINUTE)) {
        let passed = later.time.duration_since(first.time);
        assert!(passed >= minute, "{passed:?}\n{}", logs(&hosts));
    }
    let within = |first: &RequestRecord| {
        let passed = |request: &&RequestRecord| {
            let passed = request.time.duration_since(first.time);
            passed >= SignedDuration::ZERO && passed <= minute
        };
        counted.iter().filter(passed).count()
    };
    let most = counted.iter().map(within).max().unwrap();
    assert!(most >= PER_MINUTE * 8 / 10, "{most}\n{}", logs(&hosts));
    for host in &hosts {
        assert!(uploads(host) > 0, "{}", logs(&hosts));
    }
    let refused = counted.iter().filter(|request| request.status == 429);
    assert_eq!(refused.count(), 0);
    stop(hosts).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_pause_that_one_host_is_asked_for_stops_all_hosts() {
    const PAUSE: u64 = 30;
    let (mut site, folder) = Site::with_folder(platform().max_source_files(1000)).await;
    let url = database(&shared_server()).await;
    use_database(&mut site, &url);
    site.tables += "[upload]\nworkers = 2\n";
    slow(&site, 100);
    let hosts = three(&site, &folder).await;
    write_all(&folder, &files(400));
    let all_upload = || hosts.iter().all(|host| uploads(host) > 2);
    eventually(all_upload, || logs(&hosts)).await;
    let refusal = Fault::on("POST /storage/files/*/complete").status(429);
    let refusal = refusal.header("retry-after", &PAUSE.to_string());
    site.emulator.fault(refusal.times(1));
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let recorded = loop {
        assert!(Instant::now() < deadline, "{}", logs(&hosts));
        let sql = "SELECT since, until FROM pauses";
        let found: Option<(i64, i64)> = sqlx::query_as(sql)
            .fetch_optional(&mut connection)
            .await
            .unwrap();
        if let Some(found) = found {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let [since, until] =
        [recorded.0, recorded.1].map(|at| Timestamp::from_millisecond(at).unwrap());
    // They continue afterwards.
    let before: Vec<_> = hosts.iter().map(uploads).collect();
    let all_continue = || {
        let before = before.iter().zip(&hosts);
        Timestamp::now() > until
            && before
                .into_iter()
                .all(|(before, host)| uploads(host) > before + 2)
    };
    eventually(all_continue, || logs(&hosts)).await;
    let counted = counted(&site);
    let during = counted
        .iter()
        .filter(|request| (since..until).contains(&request.time));
    let last = during
        .map(|request| request.time.duration_since(since))
        .max();
    // What was drawn before is sent up to 2 s later, and arrives.
    let limit = SignedDuration::from_secs(2 + 4);
    assert!(
        last.is_none_or(|last| last < limit),
        "{last:?}\n{}",
        logs(&hosts)
    );
    stop(hosts).await;
}
