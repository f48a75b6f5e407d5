#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use super::*;
use crate::retry::Budget;

const SECOND: Duration = Duration::from_secs(1);
const A_MINUTE: Duration = Duration::from_secs(60);
const AN_HOUR: Duration = Duration::from_secs(60 * 60);

fn limits(per_minute: usize, per_hour: Option<usize>) -> RequestLimits {
    RequestLimits {
        per_minute,
        per_hour,
    }
}

#[test]
fn a_portion_is_what_is_wanted_but_a_small_part_of_the_limit_and_what_is_left() {
    // At 1000.5 s.
    let drawn = |minute: &[(i64, usize)]| Drawn {
        now: 1_000_500,
        minute: minute.to_vec(),
        hour: None,
    };
    for (wanted, per_minute, minute, count, wait) in [
        (1, 4500, &[][..], 1, 0),
        (30, 4500, &[], 30, 0),
        (300, 4500, &[], 45, 0),
        // Never less than one.
        (300, 20, &[], 1, 0),
        (300, 1, &[], 1, 0),
        (300, 4500, &[(999, 4480)], 20, 0),
        (300, 4500, &[(940, 4000), (999, 499)], 1, 0),
        // The second 940 has ended when 63 seconds have passed since its begin.
        (300, 4500, &[(940, 4000), (999, 500)], 0, 2500),
        (1, 1, &[(1000, 1)], 0, 62_500),
        // The limit was higher: what is over has to end as well.
        (1, 10, &[(940, 1), (950, 1), (960, 10)], 0, 22_500),
        (1, 10, &[(940, 1), (950, 2), (960, 9)], 0, 12_500),
    ] {
        let portion = portion(wanted, limits(per_minute, None), &drawn(minute));
        let expected = (count, Duration::from_millis(wait));
        assert_eq!((portion.count, portion.wait), expected, "{minute:?}");
        assert_eq!(portion.spread, None);
    }
}

#[test]
fn the_first_half_of_an_hour_is_drawn_at_once_and_the_rest_is_spread() {
    // At 10000 s. What was drawn in the second 8397 counts until 12000 s.
    let now = 10_000_000;
    let hour = |count, last| {
        Some(DrawnInHour {
            count,
            first: 8397,
            last,
        })
    };
    for (wanted, hour, count, wait) in [
        (30, None, 10, 0),
        (30, hour(100, now), 10, 0),
        (30, hour(498, now), 2, 0),
        // 500 in 2000 s: one each 4 s.
        (30, hour(500, now), 0, 4000),
        (30, hour(500, now - 3999), 0, 1),
        (30, hour(500, now - 4000), 1, 0),
        (30, hour(500, now - 12_500), 3, 0),
        (2, hour(500, now - 12_500), 2, 0),
        (30, hour(999, now - 1_000_000), 0, 1_000_000),
        (30, hour(1000, now - 1_000_000), 0, 2_000_000),
        (30, hour(2000, now - 1_000_000), 0, 2_000_000),
    ] {
        let drawn = Drawn {
            now,
            minute: Vec::new(),
            hour,
        };
        let portion = portion(wanted, limits(4500, Some(1000)), &drawn);
        let expected = (count, Duration::from_millis(wait));
        assert_eq!((portion.count, portion.wait), expected, "{hour:?}");
        let spread = hour.filter(|_| count == 0).map(|hour| Spread {
            used: hour.count,
            rest: Duration::from_secs(2000),
        });
        assert_eq!(portion.spread, spread, "{hour:?}");
    }
}

/// What hosts have in common, without a database.
struct Pool {
    began: Instant,
    /// Number and last time by second.
    drawn: Mutex<BTreeMap<i64, (usize, i64)>>,
    drawings: Mutex<usize>,
}

impl Pool {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            drawn: Mutex::default(),
            drawings: Mutex::default(),
        })
    }

    fn draw_now(&self, order: Order<'_>) -> Portion {
        let mut drawn = self.drawn.lock().unwrap();
        let now = i64::try_from(self.began.elapsed().as_millis()).unwrap() + 1_000_000_000;
        let second = now / 1000;
        let minute = drawn.range(second - MINUTE..);
        let hour: Vec<_> = drawn.range(second - HOUR..).collect();
        let portion = portion(
            order.wanted,
            order.limits,
            &Drawn {
                now,
                minute: minute
                    .map(|(second, (count, _))| (*second, *count))
                    .collect(),
                hour: hour.first().map(|(first, _)| DrawnInHour {
                    count: hour.iter().map(|(_, (count, _))| count).sum(),
                    first: **first,
                    last: hour.last().unwrap().1.1,
                }),
            },
        );
        if portion.count > 0 {
            let counted = drawn.entry(second).or_default();
            *counted = (counted.0 + portion.count, now);
        }
        *self.drawings.lock().unwrap() += 1;
        portion
    }
}

impl Portions for Pool {
    fn draw<'a>(&'a self, order: Order<'a>) -> Pin<Box<dyn Future<Output = Drawing> + Send + 'a>> {
        Box::pin(async move {
            // The way to a database and back.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
            let at = Instant::now();
            let portion = self.draw_now(order);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
            Drawing {
                portion,
                at,
                pauses: Vec::new(),
            }
        })
    }
}

fn host(pool: &Arc<Pool>, limits: RequestLimits) -> Arc<Budget> {
    let portions: Arc<dyn Portions> = Arc::clone(pool) as _;
    Arc::new(Budget::shared(limits, "host".to_owned(), portions))
}

/// Hosts with several workers each, which send until the time is over. Returns when each request was sent, by host.
async fn send(
    limits: RequestLimits,
    hosts: usize,
    workers: usize,
    time: Duration,
) -> Vec<Vec<Instant>> {
    let pool = Pool::new();
    let until = Instant::now() + time;
    let mut running = Vec::new();
    for number in 0..hosts {
        let budget = host(&pool, limits);
        for _ in 0..workers {
            let budget = Arc::clone(&budget);
            running.push(tokio::spawn(async move {
                let mut sent = Vec::new();
                loop {
                    budget.take().await;
                    if Instant::now() > until {
                        return (number, sent);
                    }
                    sent.push(Instant::now());
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(10..200))).await;
                }
            }));
        }
    }
    let mut by_host = vec![Vec::new(); hosts];
    for worker in running {
        let (number, sent) = worker.await.unwrap();
        by_host[number].extend(sent);
    }
    by_host
}

fn all(by_host: &[Vec<Instant>]) -> Vec<Instant> {
    let mut all: Vec<Instant> = by_host.iter().flatten().copied().collect();
    all.sort();
    all
}

fn assert_within(sent: &[Instant], most: usize, window: Duration) {
    for (first, later) in sent.iter().zip(sent.iter().skip(most)) {
        let passed = later.duration_since(*first);
        assert!(passed >= window, "{most} in {passed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_minute_of_three_hosts_together_has_more_requests_than_the_limit_and_most_of_it_is_used()
{
    for (per_minute, workers) in [(60, 3), (120, 4), (450, 8), (4500, 30)] {
        let by_host = send(limits(per_minute, None), 3, workers, 10 * A_MINUTE).await;
        let sent = all(&by_host);
        assert_within(&sent, per_minute, A_MINUTE);
        assert!(
            sent.len() >= per_minute * 10 * 9 / 10,
            "{} of {per_minute} per minute",
            sent.len()
        );
        for sent in by_host {
            assert!(sent.len() >= per_minute, "{} by one", sent.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_hour_of_three_hosts_together_has_more_requests_than_the_limit_and_requests_continue() {
    let by_host = send(limits(450, Some(4500)), 3, 4, 3 * AN_HOUR).await;
    let sent = all(&by_host);
    assert_within(&sent, 450, A_MINUTE);
    assert_within(&sent, 4500, AN_HOUR);
    assert!(sent.len() >= 4500 * 3 * 8 / 10, "{}", sent.len());
    // Half of the hour's requests as fast as the minute allows.
    assert!(sent[2249].duration_since(sent[0]) < 6 * A_MINUTE);
    let longest = sent
        .windows(2)
        .map(|two| two[1].duration_since(two[0]))
        .max();
    assert!(
        longest.unwrap() <= A_MINUTE + 5 * SECOND,
        "{longest:?} without a request"
    );
}

#[tokio::test(start_paused = true)]
async fn the_smallest_limits_of_several_hosts_still_let_requests_pass() {
    for (minute, hour) in [(1, Some(1)), (1, Some(2)), (1_000, Some(1)), (5, Some(3))] {
        let sent = all(&send(limits(minute, hour), 2, 2, 4 * AN_HOUR).await);
        assert_within(&sent, minute, A_MINUTE);
        assert_within(&sent, hour.unwrap(), AN_HOUR);
        assert!(sent.len() >= 3, "{}", sent.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_portion_expires_and_a_host_without_requests_draws_none() {
    let pool = Pool::new();
    let budget = host(&pool, limits(4500, None));
    let drawings = || *pool.drawings.lock().unwrap();
    // Several that wait at a time are drawn for together, and drawn for once.
    futures_util::future::join_all((0..10).map(|_| budget.take())).await;
    assert!(drawings() <= 2, "{}", drawings());
    let before = drawings();
    // As much as was used lately.
    budget.take().await;
    budget.take().await;
    assert_eq!(drawings(), before + 1);
    tokio::time::sleep(USABLE).await;
    budget.take().await;
    assert_eq!(drawings(), before + 2);
    tokio::time::sleep(AN_HOUR).await;
    assert_eq!(drawings(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn requests_that_end_while_they_wait_are_not_drawn_for_and_block_nobody() {
    let pool = Pool::new();
    let budget = host(&pool, limits(1, None));
    budget.take().await;
    let take = || tokio::time::timeout(SECOND, budget.take());
    let impatient = (0..5).map(|_| take());
    let ended = futures_util::future::join_all(impatient).await;
    assert!(ended.iter().all(Result::is_err));
    let began = Instant::now();
    budget.take().await;
    assert!(
        began.elapsed() <= A_MINUTE + 5 * SECOND,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        pool.drawn
            .lock()
            .unwrap()
            .values()
            .map(|(count, _)| count)
            .sum::<usize>(),
        2
    );
}
