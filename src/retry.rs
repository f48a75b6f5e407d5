//! Retry: classes of failures, backoff, and pauses that hosts request. The rate limit is in `budget`, and in
//! `portions` for hosts that share it.
//!
//! In: the number of the attempt and the requested pause. Out: the pause before the next attempt. The only module that
//! uses the `backoff` crate. It repeats nothing itself except in [`in_place`], the fast one of two layers: the other is
//! the job's next attempt, which the ledger stores.

mod budget;
mod limits;
mod portions;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use budget::Budget;
pub use limits::{RequestLimits, Spread};
pub use portions::{Drawing, Order, Portion, Portions};
pub(crate) use portions::{Drawn, DrawnInHour, HOUR, MINUTE, portion};

/// Number of tries in place, including the first.
const QUICK_TRIES: u32 = 3;

/// The first pause between tries in place; the next ones double.
const QUICK_PAUSE: Duration = Duration::from_millis(300);

/// Maximum pause in place; a longer one is left to the ledger.
const WAIT_IN_PLACE: Duration = Duration::from_secs(10);

/// Maximum pause that a host can request; a longer one is shortened to this.
const FLOOR_MAX: Duration = Duration::from_secs(15 * 60);

/// The pause after a 429 without `Retry-After`.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(30);

/// What a failure means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The local file cannot be read at the moment; not a failure.
    Busy,
    /// Likely to be temporary.
    Transient {
        /// The requested minimum pause.
        floor: Option<Duration>,
    },
    /// The credentials are wrong; every request fails.
    Credentials,
    /// Nothing is wrong with the file: the user of the account has to act first.
    AwaitsUser,
    /// This content, name or connector is rejected; the same request fails again.
    RefusedForContent,
    /// Something outside the file must be fixed, such as a permission.
    RefusedForAll,
}

/// Exponential backoff: doubling pauses with jitter, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Approximate pause after the first attempt.
    pub first: Duration,
    /// Maximum pause, unless a host requests a longer one.
    pub max: Duration,
}

impl Policy {
    /// Approximate sum of the pauses before `attempt`, counted from 1.
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
    /// Jittered by up to half in both directions, to spread jobs that failed together.
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

/// Whether to try again after an error, without giving the job back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InPlace {
    GiveUp,
    /// After a pause that is not shorter than `floor`.
    Retry {
        floor: Option<Duration>,
    },
}

/// Tries an operation a few times, seconds apart at most; `verdict` decides after each error.
///
/// # Errors
/// The last error, once it is not retryable, the tries are used up, or the requested pause is too long to wait here.
pub(crate) async fn in_place<T, E, F>(
    mut attempt: impl FnMut() -> F,
    verdict: impl Fn(&E) -> InPlace,
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
        let InPlace::Retry { floor } = verdict(&error) else {
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

/// Delays all requests to a host after it requested a pause.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    opens: Mutex<Option<Instant>>,
    /// Notified at every requested pause.
    closed: Arc<Notify>,
}

impl Gate {
    /// An open gate; `closed` is notified at every pause.
    pub(crate) fn new(closed: Arc<Notify>) -> Self {
        Self {
            opens: Mutex::default(),
            closed,
        }
    }

    /// How long it stays closed.
    pub(crate) fn remaining(&self) -> Duration {
        self.lock()
            .map(|opens| opens.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }

    /// Closes the gate for `pause` from now, unless it is already closed for longer.
    pub(crate) fn close(&self, pause: Duration) {
        self.keep_closed(pause);
        self.closed.notify_one();
    }

    /// The same for a pause that is known already: nobody is notified.
    pub(crate) fn keep_closed(&self, pause: Duration) {
        let opens = Instant::now() + pause.min(FLOOR_MAX);
        let mut guard = self.lock();
        *guard = Some(guard.map_or(opens, |before| before.max(opens)));
    }

    /// Waits until the gate opens, if that is soon.
    ///
    /// # Errors
    /// How long it stays closed, if that is too long to wait here.
    pub(crate) async fn wait(&self) -> Result<(), Duration> {
        loop {
            let left = self.remaining();
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

/// The pause that a response requests.
///
/// `header` is a `Retry-After`: seconds, or a date; `rate_limited` means that the status was 429, which requires a
/// pause even without the header. Source: RFC 9110, section 10.2.3.
pub(crate) fn parse_retry_after(
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
    fn retry_after_is_read_as_seconds_or_as_a_date() {
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
            let pause = parse_retry_after(header, rate_limited, now);
            assert_eq!(
                pause,
                expected.map(Duration::from_secs),
                "{header:?}, rate limited: {rate_limited}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_delays_only_if_it_opens_soon() {
        let gate = Gate::default();
        assert_eq!(gate.wait().await, Ok(()));
        gate.close(5 * SECOND);
        gate.close(SECOND);
        let began = Instant::now();
        assert_eq!(gate.wait().await, Ok(()));
        assert!(began.elapsed() >= 5 * SECOND);
        gate.close(60 * SECOND);
        assert!(gate.wait().await.unwrap_err() > 59 * SECOND);
    }

    async fn tries(errors: u32, floor: Option<Duration>, transient: bool) -> (Result<(), ()>, u32) {
        let made = Cell::new(0);
        let result = in_place(
            || {
                made.set(made.get() + 1);
                std::future::ready(if made.get() > errors { Ok(()) } else { Err(()) })
            },
            |()| {
                if transient {
                    InPlace::Retry { floor }
                } else {
                    InPlace::GiveUp
                }
            },
        )
        .await;
        (result, made.get())
    }

    #[tokio::test(start_paused = true)]
    async fn retryable_errors_are_tried_a_few_times_and_others_once() {
        assert_eq!(tries(2, None, true).await, (Ok(()), 3));
        assert_eq!(tries(9, None, true).await, (Err(()), 3));
        assert_eq!(tries(1, Some(5 * SECOND), true).await, (Ok(()), 2));
        assert_eq!(tries(1, Some(11 * SECOND), true).await, (Err(()), 1));
        assert_eq!(tries(1, None, false).await, (Err(()), 1));
    }
}
