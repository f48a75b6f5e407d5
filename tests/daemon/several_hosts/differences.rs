//! Hosts that differ: in configuration, clock, version, rights, and in what they see of a share.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use itwin_syncd::emulator::Fault;

use super::{ACTIVE, QUICK, QUICKER, STANDBY, all_in_imodel, assert_once, pair, site};
use crate::postgres::{files, write_all};
use crate::support::{Site, eventually, write};

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_whose_watches_differ_from_those_of_the_active_one_is_refused() {
    let (mut site, folder) = site().await;
    write(&folder.join("a.ifc"), "a");
    let active = site.start_on("one", &[]);
    active.says("scan finished").await;
    site.add_to_watches("storage_folder = \"elsewhere\"\n");
    let (status, log) = site.start_on("two", &[]).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("the watches of this host differ from those of the active host"),
        "{log}"
    );
    assert!(log.contains(": north"), "{log}");
    assert!(
        log.contains("give all hosts the same [[watch]] sections"),
        "{log}"
    );
    active.stop().await;
    // Nobody is active: it is a change of the configuration.
    let alone = site.start_on("two", &[]);
    alone.says("scan finished").await;
    alone.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_standby_is_reloaded_and_takes_over_with_what_it_read() {
    let (mut site, folder) = site().await;
    let plain = site.watches.clone();
    site.add_to_watches("storage_folder = \"first\"\n");
    write(&folder.join("a.ifc"), "a");
    let (active, standby) = pair(&site, &[]).await;
    let stored = |folder: &str| BTreeMap::from([(format!("{folder}/a.ifc"), "a".to_owned())]);
    all_in_imodel(&site, "one", &active, &stored("first")).await;
    let configure = async |site: &mut Site, key: &str| {
        site.watches = format!("{plain}{key}\n");
        // Writes the file.
        site.run_on("two", &["status"]).await;
        standby.signal("HUP");
    };
    configure(&mut site, "mistake = 1").await;
    standby.says("reload rejected").await;
    configure(&mut site, "storage_folder = \"second\"").await;
    standby
        .says("configuration reloaded: it applies when this host becomes active")
        .await;
    // The active host may be reloaded as well in a moment.
    standby
        .says("watches of this host differ from those of the active one")
        .await;
    let shown = site.run_on("two", &["status"]).await;
    assert!(
        shown.out.contains("watches of this host differ: north"),
        "{shown:?}"
    );
    active.stop().await;
    standby.says(ACTIVE).await;
    let moved = || {
        site.emulator
            .state()
            .files
            .values()
            .any(|file| file.path == "second/a.ifc")
    };
    eventually(moved, || standby.log()).await;
    assert_eq!(site.emulator.state().files.len(), 1);
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn clocks_that_are_hours_apart_neither_hasten_nor_delay_a_take_over() {
    for (ahead, behind) in [(3600, -3600), (-3600, 3600)] {
        let (site, folder) = site().await;
        let clock = |name: &str, seconds: i64| {
            let path = site.path(&format!("clock of {name}"));
            std::fs::write(&path, seconds.to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (one, two) = (clock("one", ahead), clock("two", behind));
        let mut files = files(4);
        write_all(&folder, &files);
        let active = site.start_on("one", &[QUICK, ("ITWIN_SYNCD_CLOCK", &one)]);
        active.says("scan finished").await;
        let standby = site.start_on("two", &[QUICK, ("ITWIN_SYNCD_CLOCK", &two)]);
        standby.says(STANDBY).await;
        all_in_imodel(&site, "one", &active, &files).await;
        // An attempt that the first host schedules by its clock.
        site.emulator
            .fault(Fault::on("POST /storage/folders/*/files").status(503));
        files.insert("failing.dgn".to_owned(), "failing".to_owned());
        write(&folder.join("failing.dgn"), "failing");
        active.says("upload failed; trying again").await;
        let killed = Instant::now();
        active.kill().await;
        site.emulator.clear_faults();
        standby.says(ACTIVE).await;
        let took = killed.elapsed();
        assert!(took > Duration::from_secs(6), "{took:?}");
        all_in_imodel(&site, "two", &standby, &files).await;
        standby.stop().await;
    }
}

/// A connection to the database of the site, as the owner of the server.
pub(super) async fn owner(site: &Site) -> sqlx::PgConnection {
    use sqlx::Connection as _;
    let (_, name) = site.tables.split_once("url = \"").unwrap();
    let (url, _) = name.split_once('"').unwrap();
    let (_, place) = url.rsplit_once('@').unwrap();
    let url = format!("postgres://postgres@{place}");
    sqlx::PgConnection::connect(&url).await.unwrap()
}

/// Executes SQL in the database of the site, as the owner of the server.
pub(super) async fn sql(site: &Site, words: &[&str]) {
    let mut connection = owner(site).await;
    for word in words {
        let query = sqlx::raw_sql(sqlx::AssertSqlSafe((*word).to_owned()));
        query.execute(&mut connection).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn hosts_are_upgraded_one_after_the_other() {
    let (site, folder) = site().await;
    let files = files(4);
    write_all(&folder, &files);
    let active = site.start_on("one", &[]);
    active.says("scan finished").await;
    all_in_imodel(&site, "one", &active, &files).await;
    // The version of the active host is newer.
    let newer = "INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, \
                 execution_time FROM _sqlx_migrations LIMIT 1";
    sql(&site, &[newer]).await;
    let (status, log) = site.start_on("two", &[]).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("was written by a newer itwin-syncd"), "{log}");
    // It is older.
    let older = [
        "DELETE FROM _sqlx_migrations WHERE version = 9999",
        "CREATE TABLE kept AS TABLE _sqlx_migrations",
        "DELETE FROM _sqlx_migrations",
    ];
    sql(&site, &older).await;
    let standby = site.start_on("two", &[]);
    standby.says("standby: cannot read the ledger").await;
    standby.says(STANDBY).await;
    let before = site.emulator.requests().len();
    write(&folder.join("later.dgn"), "later");
    let uploaded = || site.emulator.requests().len() > before;
    eventually(uploaded, || active.log()).await;
    // Only whoever is active migrates: this fails if a row is there.
    let migrates = "ALTER TABLE kept ADD UNIQUE (version); INSERT INTO kept TABLE _sqlx_migrations; \
                    INSERT INTO _sqlx_migrations TABLE kept";
    sql(&site, &[migrates]).await;
    active.stop().await;
    standby.says(ACTIVE).await;
    let files = files
        .into_iter()
        .chain([("later.dgn".to_owned(), "later".to_owned())])
        .collect();
    all_in_imodel(&site, "two", &standby, &files).await;
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_role_that_may_not_write_the_lease_is_refused() {
    let (mut site, folder) = site().await;
    write(&folder.join("a.ifc"), "a");
    let active = site.start_on("one", &[]);
    active.says("scan finished").await;
    let role = format!("reader_{}", std::process::id());
    let rights =
        format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}");
    sql(&site, &[&rights]).await;
    let (start, rest) = site.tables.split_once("postgres://").unwrap();
    let (_, place) = rest.split_once('@').unwrap();
    site.tables = format!("{start}postgres://{role}@{place}");
    let before = site.emulator.requests().len();
    let (status, log) = site.start_on("two", &[]).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("gives the tables of the ledger to another user"),
        "{log}"
    );
    assert!(
        log.contains("let the user in state.url own the database"),
        "{log}"
    );
    assert_eq!(site.emulator.requests().len(), before);
    active.stop().await;
}

/// Copies a folder, with the times of its files that can be set.
pub(super) fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_sees_other_inodes_and_change_times_uploads_nothing_again() {
    let (mut site, folder) = site().await;
    site.tables += "[bulk_change]\nmax_files = 5\n";
    let files = files(20);
    write_all(&folder, &files);
    let (active, standby) = pair(&site, &[]).await;
    all_in_imodel(&site, "one", &active, &files).await;
    let before = site.requests("POST", "/complete").len();
    standby.kill().await;
    active.stop().await;
    let other_view = site.path("other view");
    copy(&folder, &other_view);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&other_view, &folder).unwrap();
    let standby = site.start_on("two", &[QUICKER]);
    standby.says("scan finished").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = site.run_on("two", &["status"]).await;
        if shown
            .out
            .starts_with("OK: nothing needs attention; 20 files synchronized")
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{}\n{}",
            shown.out,
            standby.log()
        );
        standby.logs_more().await;
    }
    assert_once(&site, &files);
    assert_eq!(site.requests("POST", "/complete").len(), before);
    let log = standby.log();
    assert!(!log.contains("watch suspended"), "{log}");
    standby.stop().await;
}
