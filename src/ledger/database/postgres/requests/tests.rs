//! Several processes that draw.
//!
//! They need `ITWIN_SYNCD_TEST_POSTGRES`, which `tests/postgres/with-server` sets.

use sqlx::Connection as _;

use super::super::tests::{admin, named};
use super::*;
use crate::ledger::fixture::*;
use crate::retry::Portions as _;

const HOST: &str = "api.example.com";

fn order(wanted: usize, limits: RequestLimits) -> Order<'static> {
    Order {
        host: HOST,
        wanted,
        limits,
    }
}

fn limits(per_minute: usize, per_hour: Option<usize>) -> RequestLimits {
    RequestLimits {
        per_minute,
        per_hour,
    }
}

/// Another process with the same ledger.
fn process(f: &Fixture) -> SharedRequests {
    let mut shared = f.ledger.db.shared_requests().unwrap();
    shared.0.requests = Arc::default();
    shared
}

async fn connection(f: &Fixture) -> PgConnection {
    let url = location(f.dir.path()).await.server.unwrap().url;
    PgConnection::connect(url.as_str()).await.unwrap()
}

async fn execute(f: &Fixture, sql: &'static str) {
    let mut connection = connection(f).await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

/// Number of requests by second.
async fn drawn(f: &Fixture) -> Vec<(i64, i64)> {
    let sql = "SELECT second, count FROM drawn_requests WHERE host = $1 ORDER BY second";
    let drawn = sqlx::query_as(sql).bind(HOST);
    drawn.fetch_all(&mut connection(f).await).await.unwrap()
}

async fn sum(f: &Fixture) -> i64 {
    drawn(f).await.iter().map(|(_, count)| count).sum()
}

/// All that was drawn is older by this number of seconds.
async fn pass(f: &Fixture, seconds: i64) {
    // The seconds move one after the other: none takes the place of another.
    let sql = "WITH old AS (DELETE FROM drawn_requests RETURNING *) INSERT INTO drawn_requests \
               SELECT host, second - $1, count, last_at - $1 * 1000, per_minute, per_hour FROM old";
    let moved = sqlx::query(sql).bind(seconds);
    moved.execute(&mut connection(f).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn many_who_draw_at_once_get_no_more_than_the_limit_in_any_minute() {
    const LIMIT: usize = 150;
    let f = Fixture::new().await;
    let mut running = Vec::new();
    for _ in 0..5 {
        let process = process(&f);
        for _ in 0..4 {
            let process = process.clone();
            running.push(tokio::spawn(async move {
                let mut got = 0;
                loop {
                    let drawing = process.draw(order(3, limits(LIMIT, None))).await;
                    if drawing.portion.count == 0 {
                        assert!(!drawing.portion.wait.is_zero());
                        return got;
                    }
                    got += drawing.portion.count;
                }
            }));
        }
    }
    let mut got = 0;
    for one in running {
        got += one.await.unwrap();
    }
    assert_eq!(integer(got), sum(&f).await);
    assert!(got >= LIMIT, "{got}");
    let drawn = drawn(&f).await;
    for (first, _) in &drawn {
        let minute = drawn
            .iter()
            .filter(|(second, _)| (*first..=*first + MINUTE).contains(second));
        let count: i64 = minute.map(|(_, count)| count).sum();
        assert!(count <= integer(LIMIT), "{drawn:?}");
    }
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn what_was_drawn_counts_for_a_minute_and_two_seconds() {
    let f = Fixture::new().await;
    let (one, other) = (process(&f), process(&f));
    let limits = limits(3, None);
    for _ in 0..3 {
        assert_eq!(one.draw(order(9, limits)).await.portion.count, 1);
    }
    let refused = other.draw(order(1, limits)).await.portion;
    assert_eq!(refused.count, 0);
    assert!(refused.wait <= Duration::from_secs(63), "{refused:?}");
    // A host that is none of this.
    let elsewhere = Order {
        host: "other.example.com",
        ..order(1, limits)
    };
    assert_eq!(other.draw(elsewhere).await.portion.count, 1);
    pass(&f, MINUTE + 1).await;
    assert_eq!(other.draw(order(1, limits)).await.portion.count, 1);
    // Rows stay for an hour, and are deleted then.
    assert!(drawn(&f).await.len() > 1);
    pass(&f, HOUR + 1).await;
    other.draw(order(1, limits)).await;
    assert_eq!(drawn(&f).await.len(), 1);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn half_of_an_hour_is_drawn_at_once_and_the_rest_is_spread() {
    let f = Fixture::new().await;
    let (one, other) = (process(&f), process(&f));
    let limits = limits(1000, Some(10));
    for _ in 0..5 {
        assert_eq!(one.draw(order(9, limits)).await.portion.count, 1);
    }
    let refused = other.draw(order(1, limits)).await.portion;
    assert_eq!(refused.count, 0);
    assert_eq!(refused.spread.map(|spread| spread.used), Some(5));
    // One in 12 min.
    assert!(refused.wait > Duration::from_mins(11), "{refused:?}");
    assert!(
        refused.wait <= Duration::from_secs(60 * 12 + 1),
        "{refused:?}"
    );
    pass(&f, 60 * 12).await;
    assert_eq!(other.draw(order(1, limits)).await.portion.count, 1);
    assert_eq!(one.draw(order(1, limits)).await.portion.count, 0);
    pass(&f, HOUR).await;
    assert_eq!(one.draw(order(1, limits)).await.portion.count, 1);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn the_smallest_limits_of_those_that_want_requests_count_for_all() {
    let f = Fixture::new().await;
    let (small, great) = (process(&f), process(&f));
    let (few, many) = (limits(2, Some(4)), limits(900, None));
    for _ in 0..3 {
        great.draw(order(1, many)).await;
    }
    assert_eq!(great.draw(order(9, many)).await.portion.count, 9);
    // It gets none, and the others none from then on.
    assert_eq!(small.draw(order(1, few)).await.portion.count, 0);
    assert_eq!(great.draw(order(1, many)).await.portion.count, 0);
    // Until it has not wanted any for a minute.
    pass(&f, MINUTE + 1).await;
    assert_eq!(great.draw(order(9, many)).await.portion.count, 9);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn a_pause_comes_with_the_next_portion_and_a_later_one_does_not_shorten_it() {
    let f = Fixture::new().await;
    let (one, other) = (process(&f), process(&f));
    let limits = limits(100, None);
    assert!(other.draw(order(1, limits)).await.pauses.is_empty());
    let seconds = Duration::from_secs;
    let pause = |host: &str, rest| [(host.to_owned(), seconds(rest))];
    one.pause(&pause(HOST, 600)).await.unwrap();
    other.pause(&pause(HOST, 20)).await.unwrap();
    other.pause(&pause("blobs.example.com", 300)).await.unwrap();
    let pauses = other.draw(order(1, limits)).await.pauses;
    let [(first, rest), (second, longer)] = &pauses[..] else {
        panic!("{pauses:?}");
    };
    assert_eq!(
        (first.as_str(), second.as_str()),
        (HOST, "blobs.example.com")
    );
    assert!((seconds(540)..=seconds(600)).contains(rest), "{rest:?}");
    assert!((seconds(240)..=seconds(300)).contains(longer), "{longer:?}");
    let known = f.ledger.pauses(at(0)).await.unwrap();
    assert_eq!(known.len(), 2, "{known:?}");
    // What is over is forgotten.
    execute(
        &f,
        "UPDATE pauses SET until = until - 700000, since = since - 700000",
    )
    .await;
    assert!(one.draw(order(1, limits)).await.pauses.is_empty());
    one.pause(&[]).await.unwrap();
    assert!(f.ledger.pauses(at(0)).await.unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn after_the_servers_clock_was_set_back_requests_and_pauses_last_no_longer() {
    let f = Fixture::new().await;
    let process = process(&f);
    let limits = limits(2, None);
    process.draw(order(1, limits)).await;
    process
        .pause(&[(HOST.to_owned(), Duration::from_secs(20))])
        .await
        .unwrap();
    // As if its clock had been ahead by a day.
    pass(&f, -86_400).await;
    execute(
        &f,
        "UPDATE pauses SET until = until + 86400000, since = since + 86400000",
    )
    .await;
    let drawing = process.draw(order(1, limits)).await;
    assert_eq!(drawing.portion.count, 1);
    assert!(
        drawing.pauses[0].1 <= Duration::from_secs(20),
        "{drawing:?}"
    );
    let refused = process.draw(order(1, limits)).await.portion;
    assert_eq!(refused.count, 0);
    assert!(refused.wait <= Duration::from_secs(63), "{refused:?}");
    assert_eq!(sum(&f).await, 2);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn nobody_who_draws_waits_for_who_writes_or_draws_for_another_host() {
    let f = Fixture::new().await;
    let process = process(&f);
    let mut connection = connection(&f).await;
    let mut tx = connection.begin().await.unwrap();
    sqlx::query("SELECT begin_write()")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(LOCK)
        .bind("other.example.com")
        .execute(&mut *tx)
        .await
        .unwrap();
    let drawing = process.draw(order(1, limits(10, None))).await;
    assert_eq!(drawing.portion.count, 1);
    // For the same host it does.
    sqlx::query(LOCK)
        .bind(HOST)
        .execute(&mut *tx)
        .await
        .unwrap();
    let waiting = process.draw(order(1, limits(10, None)));
    let waited = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert!(waited.is_err());
    tx.rollback().await.unwrap();
    let drawing = process.draw(order(1, limits(10, None))).await;
    assert_eq!(drawing.portion.count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs a PostgreSQL server"]
async fn whatever_connection_is_lost_nobody_gets_more_than_was_counted() {
    const NAME: &str = "a test that loses connections that draw";
    let f = Fixture::new().await;
    let server = named(&location(f.dir.path()).await, NAME);
    let process = Database::of(&server, None).unwrap().shared_requests();
    let mut admin = admin().await;
    let mut got = 0;
    for _ in 0..30 {
        let drawing = {
            let process = process.clone();
            tokio::spawn(async move { process.draw(order(1, limits(1_000_000, None))).await })
        };
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3000))).await;
        let sql =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        let lost = sqlx::query(sql).bind(NAME).execute(&mut admin);
        lost.await.unwrap();
        got += drawing.await.unwrap().portion.count;
    }
    assert_eq!(got, 30);
    assert!(sum(&f).await >= 30);
}
