//! Upload windows of hosts that share a ledger.

use std::time::Duration;

use itwin_syncd::emulator::Fault;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::{ACTIVE, QUICK, STANDBY, all_in_imodel};
use crate::postgres::{database, files, shared_server, use_database, write_all};
use crate::support::{PATIENCE, Site, eventually, platform};
use crate::windows::Clock;

/// Uploads at a time of each host.
const WORKERS: usize = 2;

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_starts_no_upload_in_a_closed_window_while_no_host_is_active() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let url = database(&shared_server()).await;
    use_database(&mut site, &url);
    site.add_to_watches("upload_window = [\"06:00-18:00\"]\n");
    site.tables += &format!("[upload]\nworkers = {WORKERS}\n");
    let clock = Clock::new(&site);
    clock.set(12);
    let [time, zone] = clock.environment();
    let environment = [QUICK, time, zone];
    let active = site.start_on("one", &environment);
    active.says("scan finished").await;
    let standby = site.start_on("two", &environment);
    standby.says(STANDBY).await;
    let content = Fault::on("PUT /emulated/*").latency(Duration::from_millis(200));
    site.emulator.fault(content);
    let files = files(80);
    write_all(&folder, &files);
    let uploads = |log: String| log.matches(" INFO uploaded watch=").count();
    eventually(|| uploads(standby.log()) >= 2, || standby.log()).await;
    active.kill().await;

    // The window closes, by the clock of the cluster.
    clock.set(20);
    let mut ledger = PgConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE cluster SET clock_ahead = $1")
        .bind(clock.ahead() * 1000)
        .execute(&mut ledger)
        .await
        .unwrap();
    // The standby reads that clock whenever it renews its row; the second time, it has used the first answer.
    let mut renewals = std::collections::BTreeSet::new();
    let deadline = std::time::Instant::now() + PATIENCE;
    while renewals.len() < 3 && !standby.log().contains(ACTIVE) {
        let until: Option<i64> = sqlx::query_scalar("SELECT until FROM nodes")
            .fetch_optional(&mut ledger)
            .await
            .unwrap();
        renewals.extend(until);
        assert!(std::time::Instant::now() < deadline, "{}", standby.log());
    }
    let completed = || site.requests("POST", "/complete").len();
    let before = completed();
    standby.says(ACTIVE).await;
    standby.says("uploads wait").await;
    assert!(
        completed() <= before + WORKERS,
        "{before} {}\n{}",
        completed(),
        standby.log()
    );
    assert!(completed() < files.len(), "{}", standby.log());
    let asked = site.run_on("two", &["sync", "north"]).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    all_in_imodel(&site, "two", &standby, &files).await;
    standby.stop().await;
}
