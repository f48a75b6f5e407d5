//! How failures are classed, how long to wait after them, and when a host wants to be left alone.
//!
//! In comes the number of the attempt and what the answer said about waiting; out goes a pause. The only room that
//! names the `backoff` crate. It never repeats anything itself except in [`in_place`], the quick layer of two: the
//! other is the job's next attempt, which the ledger keeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tries in place, the first one included.
const QUICK_TRIES: u32 = 3;

/// The first pause between tries in place; the next ones double.
const QUICK_PAUSE: Duration = Duration::from_millis(300);

const MINUTE: Duration = Duration::from_secs(60);

/// A host that wants a longer pause than this is not waited for in place: the ledger does that.
const WAIT_IN_PLACE: Duration = Duration::from_secs(10);

/// A pause that a host may ask for; anything longer is taken as this.
const FLOOR_MAX: Duration = Duration::from_secs(15 * 60);

/// The pause after a rate limit that names none.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(30);

/// What a failure means for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The local file is not to be had right now; that is no fault.
    Busy,
    /// Likely to pass by itself.
    Transient {
        /// The shortest pause that was asked for.
        floor: Option<Duration>,
    },
    /// Nobody gets anything before the credentials are right.
    Credentials,
    /// This content, name or connector is not taken; the same request fails in the same way.
    RefusedForContent,
    /// Something outside the file must be put right, such as a permission.
    RefusedForAll,
}

/// The pauses between attempts: doubling, with jitter, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// About the pause after the first attempt.
    pub first: Duration,
    /// No pause is longer, unless a host asks for it.
    pub max: Duration,
}

impl Policy {
    /// About how long the pauses before `attempt`, counted from 1, were together.
    #[must_use]
    pub fn pauses(&self, attempt: u32) -> Duration {
        let (mut all, mut pause) = (Duration::ZERO, self.first.max(Duration::from_millis(1)));
        for before in 1..attempt {
            if pause >= self.max {
                return all.saturating_add(self.max.saturating_mul(attempt - before));
            }
            all = all.saturating_add(pause);
            pause = pause.saturating_mul(2);
        }
        all
    }

    /// The pause after `attempt`, counted from 1; never shorter than `floor`.
    ///
    /// Jittered by half in both directions, so that many jobs that failed together don't come back together.
    #[must_use]
    pub fn delay(&self, attempt: u32, floor: Option<Duration>) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(31));
        let interval = self.first.saturating_mul(doubled).min(self.max);
        let mut backoff = ExponentialBackoff {
            current_interval: interval,
            initial_interval: interval,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let pause = backoff.next_backoff().unwrap_or(interval).min(self.max);
        pause.max(floor.unwrap_or_default())
    }
}

/// Tries something that is safe to repeat, a few times, seconds apart at most.
///
/// `transient` tells of an error whether it may pass, and the pause that was asked for.
///
/// # Errors
/// The last error, once it is not transient, the tries are used up, or the pause asked for is too long to wait here.
pub(crate) async fn in_place<T, E, F>(
    mut attempt: impl FnMut() -> F,
    transient: impl Fn(&E) -> Option<Option<Duration>>,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let quick = Policy {
        first: QUICK_PAUSE,
        max: WAIT_IN_PLACE,
    };
    let mut tries = 1;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(floor) = transient(&error) else {
            return Err(error);
        };
        let pause = quick.delay(tries, floor);
        if tries == QUICK_TRIES || pause > WAIT_IN_PLACE {
            return Err(error);
        }
        tries += 1;
        tokio::time::sleep(pause).await;
    }
}

/// Holds every request to a host back once the host asked for a pause.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    opens: Mutex<Option<Instant>>,
    /// Told of every pause that is asked for.
    news: Arc<Notify>,
}

impl Gate {
    /// A gate that is open; `news` is told of every pause.
    pub(crate) fn new(news: Arc<Notify>) -> Self {
        Self {
            opens: Mutex::default(),
            news,
        }
    }

    /// How long it stays closed.
    pub(crate) fn left(&self) -> Duration {
        self.lock()
            .map(|opens| opens.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    /// Closes the gate for `pause` from now, unless it is closed for longer already.
    pub(crate) fn hold(&self, pause: Duration) {
        let opens = Instant::now() + pause.min(FLOOR_MAX);
        let mut guard = self.lock();
        *guard = Some(guard.map_or(opens, |before| before.max(opens)));
        drop(guard);
        self.news.notify_one();
    }

    /// Waits until the gate is open, if that is soon.
    ///
    /// # Errors
    /// How long it stays closed, when that is too long to wait here.
    pub(crate) async fn pass(&self) -> Result<(), Duration> {
        loop {
            let left = self.left();
            if left.is_zero() {
                return Ok(());
            }
            if left > WAIT_IN_PLACE {
                return Err(left);
            }
            tokio::time::sleep(left).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps requests inside a limit of so many in any minute, counted over the whole process.
#[derive(Debug)]
pub(crate) struct Budget {
    per_minute: AtomicUsize,
    /// When the requests of the last minute were sent.
    sent: Mutex<VecDeque<Instant>>,
}

impl Budget {
    pub(crate) fn new(per_minute: usize) -> Self {
        Self {
            per_minute: AtomicUsize::new(per_minute),
            sent: Mutex::default(),
        }
    }

    /// Another limit from now on; requests of the last minute count.
    pub(crate) fn set(&self, per_minute: usize) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Waits until one more request fits in, and counts it.
    pub(crate) async fn take(&self) {
        loop {
            let pause = {
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                reserve(
                    &mut sent,
                    self.per_minute.load(Ordering::Relaxed),
                    Instant::now(),
                )
            };
            if pause.is_zero() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Counts a request that is sent now, or tells how long to wait before it may be asked for again.
fn reserve(sent: &mut VecDeque<Instant>, per_minute: usize, now: Instant) -> Duration {
    while sent
        .front()
        .is_some_and(|first| now.duration_since(*first) >= MINUTE)
    {
        sent.pop_front();
    }
    match sent.front() {
        Some(first) if sent.len() >= per_minute => (*first + MINUTE).duration_since(now),
        _ => {
            sent.push_back(now);
            Duration::ZERO
        }
    }
}

/// The pause that an answer asks for.
///
/// `header` is a `Retry-After`: seconds, or a date; `rate_limited` says that the status was 429, which means a pause
/// even when none is named. Source: RFC 9110, section 10.2.3.
pub(crate) fn asked_pause(
    header: Option<&str>,
    rate_limited: bool,
    now: Timestamp,
) -> Option<Duration> {
    let named = header.and_then(|text| {
        let text = text.trim();
        text.parse().map(Duration::from_secs).ok().or_else(|| {
            let at = jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(text)
                .ok()?;
            Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        })
    });
    named
        .or_else(|| rate_limited.then_some(RATE_LIMIT_PAUSE))
        .map(|pause| pause.min(FLOOR_MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_requests_than_the_limit() {
        let budget = Budget::new(100);
        let mut sent = Vec::new();
        for number in 0..1000_u64 {
            // As they come after an outage: many at once, and again after a while.
            if number % 170 == 0 {
                tokio::time::sleep(Duration::from_secs(number % 50)).await;
            }
            budget.take().await;
            sent.push(Instant::now());
        }
        for (first, later) in sent.iter().zip(sent.iter().skip(100)) {
            assert!(later.duration_since(*first) >= MINUTE);
        }
        let all = sent.last().unwrap().duration_since(sent[0]);
        assert!(all <= MINUTE * 12, "no slower than the limit: {all:?}");
    }

    proptest! {
        #[test]
        fn a_pause_stays_between_its_floor_and_the_limit(attempt in 0_u32..200, floor in proptest::option::of(0_u64..2000)) {
            let policy = Policy { first: SECOND, max: 300 * SECOND };
            let floor = floor.map(Duration::from_secs);
            let pause = policy.delay(attempt, floor);
            prop_assert!(pause >= floor.unwrap_or_default());
            prop_assert!(pause >= SECOND / 2);
            prop_assert!(pause <= policy.max.max(floor.unwrap_or_default()));
        }
    }

    #[test]
    fn pauses_double_and_differ() {
        let policy = Policy {
            first: 8 * SECOND,
            max: 3600 * SECOND,
        };
        let third: Vec<_> = (0..50).map(|_| policy.delay(3, None)).collect();
        assert!(
            third
                .iter()
                .all(|pause| (16 * SECOND..=48 * SECOND).contains(pause)),
            "{third:?}"
        );
        assert!(third.iter().any(|pause| pause != &third[0]));
    }

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_date() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (header, rate_limited, expected) in [
            (Some("7"), false, Some(7)),
            (Some(" 7 "), true, Some(7)),
            (Some("Sun, 01 Mar 2026 12:00:20 GMT"), false, Some(20)),
            (Some("Sun, 01 Mar 2026 11:00:00 GMT"), false, Some(0)),
            (Some("86400"), true, Some(900)),
            (Some("soon"), true, Some(30)),
            (Some("soon"), false, None),
            (None, true, Some(30)),
            (None, false, None),
        ] {
            let pause = asked_pause(header, rate_limited, now);
            assert_eq!(
                pause,
                expected.map(Duration::from_secs),
                "{header:?}, rate limited: {rate_limited}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_is_waited_for_only_if_it_opens_soon() {
        let gate = Gate::default();
        assert_eq!(gate.pass().await, Ok(()));
        gate.hold(5 * SECOND);
        gate.hold(SECOND);
        let began = Instant::now();
        assert_eq!(gate.pass().await, Ok(()));
        assert!(began.elapsed() >= 5 * SECOND);
        gate.hold(60 * SECOND);
        assert!(gate.pass().await.unwrap_err() > 59 * SECOND);
    }

    async fn tries(errors: u32, floor: Option<Duration>, transient: bool) -> (Result<(), ()>, u32) {
        let made = Cell::new(0);
        let result = in_place(
            || {
                made.set(made.get() + 1);
                std::future::ready(if made.get() > errors { Ok(()) } else { Err(()) })
            },
            |()| transient.then_some(floor),
        )
        .await;
        (result, made.get())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_a_few_times_and_the_rest_once() {
        assert_eq!(tries(2, None, true).await, (Ok(()), 3));
        assert_eq!(tries(9, None, true).await, (Err(()), 3));
        assert_eq!(tries(1, Some(5 * SECOND), true).await, (Ok(()), 2));
        assert_eq!(tries(1, Some(11 * SECOND), true).await, (Err(()), 1));
        assert_eq!(tries(1, None, false).await, (Err(()), 1));
    }
}
