//! Several processes that claim and write.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets.

use std::path::Path;
use std::time::Duration;

use sqlx::Connection as _;

use super::super::tests::{admin, generation, named, raise_generation};
use crate::ledger::fixture::*;
use crate::ledger::*;

/// The state directory of another process, with its lock file.
fn other_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lock"), "").unwrap();
    dir
}

async fn join_as(f: &Fixture, dir: &Path, name: &str) -> Ledger {
    let server = named(&location(f.dir.path()).await, name);
    let location = LedgerLocation::on(server, dir);
    loop {
        // The active process publishes its clock first.
        if let Some(ledger) = Ledger::join(&location).await.unwrap() {
            return ledger;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn join(f: &Fixture, dir: &tempfile::TempDir) -> Ledger {
    join_as(f, dir.path(), "a process beside").await
}

async fn claim(f: &Fixture, ledger: &Ledger) -> Option<UploadJob> {
    let claimed = ledger.claim_upload_beside(f.watch, "settings of north", &[], None, at(1));
    claimed.await.unwrap()
}

/// What the active process does with one that is dead.
async fn fence(f: &Fixture) {
    let url = location(f.dir.path()).await.server.unwrap().url;
    let mut connection = sqlx::PgConnection::connect(url.as_str()).await.unwrap();
    let (holder, id): (String, String) =
        sqlx::query_as("SELECT lease.holder, nodes.id FROM lease, nodes")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    let other = super::Holder {
        id: "another".to_owned(),
        host: String::new(),
        life: String::new(),
    };
    let active = super::Holder {
        id: holder,
        ..other.clone()
    };
    assert!(!super::fence(&mut connection, &active, &id).await.unwrap());
    loop {
        // The process may renew it in between.
        let over = sqlx::raw_sql("UPDATE nodes SET until = 0");
        over.execute(&mut connection).await.unwrap();
        // Only the active one does.
        assert!(!super::fence(&mut connection, &other, &id).await.unwrap());
        if super::fence(&mut connection, &active, &id).await.unwrap() {
            return;
        }
    }
}

async fn open_jobs(f: &Fixture) -> u64 {
    let mut jobs = 0;
    while f.claim(2).await.is_some() {
        jobs += 1;
    }
    jobs
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_process_without_its_row_writes_nothing_and_its_jobs_are_due() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    for name in ["a.dgn", "b.dgn", "c.dgn"] {
        f.hand_over(name, 1, 0).await;
    }
    let job = claim(&f, &beside).await.unwrap();
    assert!(claim(&f, &beside).await.is_some());
    let sent = beside.record_create_sent(&job, "marker", at(1));
    sent.await.unwrap();
    assert_eq!(open_jobs(&f).await, 1);
    fence(&f).await;
    let id = "late".into();
    let late = beside.record_storage_file(&job, &id, at(3));
    assert!(matches!(late.await, Err(Error::TakenOver)));
    assert!(!beside.lease().unwrap().is_valid());
    // At the stage that they had reached.
    let again = f.claim(4).await.unwrap();
    assert_eq!(again.marker.as_deref(), Some("marker"));
    assert_eq!(again.storage_file_id, None);
    assert_eq!(open_jobs(&f).await, 1);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_new_active_process_takes_nothing_from_those_that_live() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    f.hand_over("b.dgn", 1, 0).await;
    let job = claim(&f, &beside).await.unwrap();
    f.claim(1).await.unwrap();
    let f = f.restart().await;
    assert_eq!(open_jobs(&f).await, 1);
    let other = Fixture {
        dir: tempfile::tempdir().unwrap(),
        ledger: beside,
        watch: f.watch,
    };
    assert_eq!(other.store(&job, 1, 3).await, UploadResult::AwaitsRun);
    other.ledger.close().await;
    assert_eq!(f.batch(4).await.len(), 1);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn the_next_process_on_the_same_host_gives_back_what_the_last_one_had() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let dead = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    let job = claim(&f, &dead).await.unwrap();
    let next = join(&f, &dir).await;
    assert!(matches!(dead.unclaim(&job).await, Err(Error::TakenOver)));
    assert_eq!(claim(&f, &next).await.unwrap().file, job.file);
    next.close().await;
    assert_eq!(f.claim(2).await.unwrap().file, job.file);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_process_claims_only_with_the_settings_of_the_active_one_and_no_file_that_it_leaves() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    let other = beside.claim_upload_beside(f.watch, "other settings", &[], None, at(1));
    assert!(other.await.unwrap().is_none());
    let file = f.file("a.dgn").await.id;
    let except = [file];
    let left = beside.claim_upload_beside(f.watch, "settings of north", &except, None, at(1));
    assert!(left.await.unwrap().is_none());
    let job = claim(&f, &beside).await.unwrap();
    assert_eq!(job.file, file);
    // Nobody else can give it back.
    f.ledger.unclaim(&job).await.unwrap();
    assert!(f.claim(1).await.is_none());
    beside.unclaim(&job).await.unwrap();
    assert!(f.claim(1).await.is_some());
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn others_leave_before_watches_change() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    let changing = f.ledger.dismiss_others();
    let leaving = async {
        beside.dismissed().await;
        assert!(claim(&f, &beside).await.is_none());
        beside.close().await;
    };
    let (changed, ()) = tokio::join!(changing, leaving);
    changed.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn a_lost_answer_is_found_although_another_process_writes_meanwhile() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let name = format!("lost {}", std::process::id());
    let beside = join_as(&f, dir.path(), &name).await;
    let before = generation(&f.ledger).await;
    let killer = tokio::spawn(async move {
        let (mut admin, mut killed) = (admin().await, 0);
        while killed < 40 {
            let gone: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = $1",
            )
            .bind(&name)
            .fetch_one(&mut admin)
            .await
            .unwrap();
            killed += gone;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..30))).await;
        }
    });
    let write = async |ledger: &Ledger| {
        let mut raised = 0;
        while !killer.is_finished() {
            raise_generation(ledger).await;
            raised += 1;
        }
        raised
    };
    let (one, two) = tokio::join!(write(&f.ledger), write(&beside));
    killer.await.unwrap();
    assert_eq!(generation(&f.ledger).await, before + one + two);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn of_several_processes_one_creates_a_folder() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    let hold =
        async |ledger: &Ledger, place: u8| ledger.hold_folder("root", &[place; 16]).await.unwrap();
    let is_new = FolderHold::Taken { in_doubt: false };
    // It is created.
    assert_eq!(hold(&beside, 1).await, is_new);
    assert_eq!(hold(&f.ledger, 1).await, FolderHold::Busy);
    let created = beside.remember_created_folder("root", "a", &[1; 16], "id");
    created.await.unwrap();
    let known = FolderHold::Known("id".to_owned());
    assert_eq!(hold(&f.ledger, 1).await, known);
    // It is refused.
    assert_eq!(hold(&beside, 2).await, is_new);
    beside.leave_folder("root", &[2; 16], false).await.unwrap();
    assert_eq!(hold(&f.ledger, 2).await, is_new);
    // Whoever creates it dies: storage may not list it yet.
    assert_eq!(hold(&beside, 3).await, is_new);
    fence(&f).await;
    assert_eq!(hold(&f.ledger, 3).await, FolderHold::Busy);
    let aged = f.ledger.db.write("age", async |tx| {
        sql::query("UPDATE created_folders SET left_at = 0")
            .execute(tx)
            .await
    });
    aged.await.unwrap();
    let in_doubt = FolderHold::Taken { in_doubt: true };
    assert_eq!(hold(&f.ledger, 3).await, in_doubt);
    // All are forgotten but those that are being created.
    f.ledger.forget_folders("root").await.unwrap();
    assert_eq!(hold(&f.ledger, 1).await, is_new);
    assert_eq!(hold(&f.ledger, 3).await, in_doubt);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_process_knows_that_another_one_has_forgotten_files_and_reports_name_both() {
    let f = Fixture::new().await;
    let dir = other_directory();
    let beside = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    let before = beside.times_forgotten().await.unwrap();
    let file = f.file("a.dgn").await.id;
    f.ledger.forget_files(&[file]).await.unwrap();
    assert!(beside.times_forgotten().await.unwrap() > before);
    f.hand_over("b.dgn", 1, 0).await;
    claim(&f, &beside).await.unwrap();
    let lists = Lists {
        files: 1,
        groups: 1,
        results: 1,
        runs: 1,
    };
    let nodes = f.ledger.overview(lists, at(1)).await.unwrap().nodes;
    let shown: Vec<_> = nodes
        .iter()
        .map(|node| (node.active, node.responds, node.uploads))
        .collect();
    assert_eq!(shown, [(true, true, 0), (false, true, 1)]);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_copy_begins_when_all_others_have_left_and_none_joins_it() {
    let f = Fixture::new().await;
    let (dir, copying) = (other_directory(), other_directory());
    let beside = join(&f, &dir).await;
    f.hand_over("a.dgn", 1, 0).await;
    claim(&f, &beside).await.unwrap();
    let server = location(f.dir.path()).await.server.unwrap();
    let lock = std::fs::metadata(copying.path().join("lock")).unwrap();
    let alone = || super::super::Database::open_alone(&server, &lock, Duration::from_millis(300));
    let Fixture {
        dir: home, ledger, ..
    } = f;
    ledger.close().await;
    assert!(matches!(alone().await, Err(Error::ServerInUse { .. })));
    tokio::time::timeout(Duration::from_secs(60), beside.dismissed())
        .await
        .unwrap();
    beside.close().await;
    let copy = alone().await.unwrap();
    let joins = LedgerLocation::on(named(&location(home.path()).await, "late"), dir.path());
    assert!(Ledger::join(&joins).await.unwrap().is_none());
    copy.close().await;
    let ledger = Ledger::open(&location(home.path()).await).await.unwrap();
    let claimed = ledger.claim_upload(None, at(2)).await.unwrap();
    assert_eq!(claimed.unwrap().path, Path::new("a.dgn"));
}
