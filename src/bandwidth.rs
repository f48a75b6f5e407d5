//! Limits the rate at which content is sent: by the time of day, for the whole process.
//!
//! A sender acquires each chunk before it sends it. The limit is read again for every chunk, so each period begins and
//! ends on its minute, also in nights when the clocks change. A limit of zero is a pause: no upload and no block
//! begins, and those in progress end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use crate::local_time::next_at;

/// Waiting senders notice a changed limit within this time.
const RECHECK: Duration = Duration::from_secs(1);

/// A delay of up to this is made up for.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The largest chunk.
const CHUNK_MAX: u64 = 256 * 1024;

/// The smallest chunk; below it the overhead dominates.
const CHUNK_MIN: u64 = 4 * 1024;

/// A limit for a part of every day, by the clock of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// It begins then.
    pub from: Time,
    /// It ends then; the next day, if this is not later than `from`.
    pub to: Time,
    /// Bytes in a second; 0 is a pause.
    pub limit: u64,
}

impl Period {
    fn holds(&self, time: Time) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&time)
        } else {
            time >= self.from || time < self.to
        }
    }
}

/// The smallest limit of the periods that hold at a time of day, without pauses. None: no limit.
fn limit_at(periods: &[Period], time: Time) -> Option<u64> {
    let holds = periods.iter().filter(|period| period.holds(time));
    holds.map(|one| one.limit).filter(|limit| *limit > 0).min()
}

/// When the pause ends in which uploads are at this time; None if they are in none.
pub(crate) fn pause_end(periods: &[Period], now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let mut end = None;
    // One pause may begin before another ends; each ends at most once a day.
    for _ in 0..=periods.len() {
        let at = end.unwrap_or(now);
        let time = time_of_day(at, zone.clone());
        let pauses = periods
            .iter()
            .filter(|one| one.limit == 0 && one.holds(time));
        let Some(next) = pauses.filter_map(|one| next_at(one.to, at, zone)).max() else {
            break;
        };
        end = Some(next);
    }
    end
}

fn time_of_day(at: Timestamp, zone: TimeZone) -> Time {
    at.to_zoned_datetime(zone).time()
}

/// Delays senders so that they stay within the limit of the hour.
#[derive(Debug)]
pub(crate) struct BandwidthLimiter {
    periods: Mutex<Vec<Period>>,
    clock: fn() -> Time,
    /// When the next piece may go. Whoever waits holds it, so that pieces go in the order they came.
    next: tokio::sync::Mutex<Instant>,
}

impl BandwidthLimiter {
    pub(crate) fn new(periods: Vec<Period>) -> Self {
        Self::by_clock(periods, || {
            time_of_day(crate::clock::now(), TimeZone::system())
        })
    }

    fn by_clock(periods: Vec<Period>, clock: fn() -> Time) -> Self {
        Self {
            periods: Mutex::new(periods),
            clock,
            next: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    /// Other limits from now on.
    pub(crate) fn set(&self, periods: Vec<Period>) {
        *self.periods.lock().unwrap_or_else(PoisonError::into_inner) = periods;
    }

    /// The best size of a piece, in bytes: small enough that a slow limit is kept evenly.
    pub(crate) fn chunk_size(&self) -> usize {
        let size = self
            .limit()
            .map_or(CHUNK_MAX, |limit| (limit / 20).clamp(CHUNK_MIN, CHUNK_MAX));
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    /// Waits until this many bytes may be sent.
    pub(crate) async fn acquire(&self, bytes: usize) {
        if self.limit().is_none() {
            return;
        }
        let mut next = self.next.lock().await;
        while let Some(limit) = self.limit() {
            let now = Instant::now();
            if now >= *next {
                let nanos = (bytes as u64).saturating_mul(1_000_000_000) / limit;
                let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
                *next = (*next).max(earliest) + Duration::from_nanos(nanos);
                return;
            }
            tokio::time::sleep_until((now + RECHECK).min(*next)).await;
        }
    }

    /// The limit at this time, in bytes a second. None: there is none.
    pub(crate) fn limit(&self) -> Option<u64> {
        let periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock is not free of cost.
        if periods.is_empty() {
            return None;
        }
        limit_at(&periods, (self.clock)())
    }

    /// Whether nothing may begin at this time.
    pub(crate) fn is_paused(&self) -> bool {
        let periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        if periods.iter().all(|period| period.limit > 0) {
            return false;
        }
        let time = (self.clock)();
        periods.iter().any(|one| one.limit == 0 && one.holds(time))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::Cell;

    use super::*;
    use jiff::civil::{date, time};

    const MIB: u64 = 1024 * 1024;

    fn period(from: (i8, i8), to: (i8, i8), limit: u64) -> Period {
        Period {
            from: time(from.0, from.1, 0, 0),
            to: time(to.0, to.1, 0, 0),
            limit,
        }
    }

    #[test]
    fn the_smallest_limit_of_the_hour_holds_also_over_midnight() {
        let periods = [
            period((7, 0), (19, 0), 2),
            period((22, 30), (6, 0), 5),
            period((12, 0), (13, 0), 1),
        ];
        for (at, expected) in [
            ((6, 59), None),
            ((7, 0), Some(2)),
            ((12, 30), Some(1)),
            ((18, 59), Some(2)),
            ((19, 0), None),
            ((22, 30), Some(5)),
            ((0, 0), Some(5)),
            ((5, 59), Some(5)),
            ((6, 0), None),
        ] {
            assert_eq!(
                limit_at(&periods, time(at.0, at.1, 0, 0)),
                expected,
                "{at:?}"
            );
        }
    }

    #[test]
    fn a_pause_ends_when_no_pause_follows_it() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let periods = [
            period((7, 0), (12, 0), 0),
            period((11, 0), (19, 0), 0),
            period((20, 0), (22, 0), 5),
            period((23, 0), (1, 0), 0),
        ];
        for (at, end) in [
            ("2026-11-26T06:59+01", None),
            ("2026-11-26T07:00+01", Some("2026-11-26T19:00+01")),
            ("2026-11-26T18:59+01", Some("2026-11-26T19:00+01")),
            ("2026-11-26T19:00+01", None),
            ("2026-11-26T21:00+01", None),
            ("2026-11-26T23:30+01", Some("2026-11-27T01:00+01")),
        ] {
            let now = at.parse().unwrap();
            let end = end.map(|end| end.parse().unwrap());
            assert_eq!(pause_end(&periods, now, &zone), end, "{at}");
        }
        assert_eq!(limit_at(&periods, time(8, 0, 0, 0)), None);
        assert_eq!(limit_at(&periods, time(21, 0, 0, 0)), Some(5));
    }

    thread_local! {
        /// The night that is played, and when it began.
        static NIGHT: Cell<Option<(Timestamp, Instant)>> = const { Cell::new(None) };
    }

    /// The time of day in Berlin, as the paused clock moves on.
    fn berlin() -> Time {
        let (began, at) = NIGHT.get().unwrap();
        let now = began + at.elapsed();
        time_of_day(now, TimeZone::get("Europe/Berlin").unwrap())
    }

    /// Bytes that go within the `hours` after 22:00 of the evening before, of a stream that never ends.
    async fn sent_in_night(evening: jiff::civil::Date, periods: Vec<Period>, hours: u64) -> u64 {
        let began = evening
            .at(22, 0, 0, 0)
            .in_tz("Europe/Berlin")
            .unwrap()
            .timestamp();
        NIGHT.set(Some((began, Instant::now())));
        let limiter = BandwidthLimiter::by_clock(periods, berlin);
        let end = Instant::now() + Duration::from_secs(hours * 3600);
        let mut sent = 0;
        while Instant::now() < end {
            limiter.acquire(64 * 1024).await;
            sent += 64 * 1024;
            if limiter.limit().is_none() {
                // Where there is no limit nothing is counted.
                sent -= 64 * 1024;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn a_night_in_which_clocks_change_has_as_many_limited_hours_as_it_has() {
        // From one to four o'clock: three hours, but two when clocks go forward and four when they go back.
        let limited = vec![period((1, 0), (4, 0), 100 * 1024)];
        for (evening, hours) in [
            (date(2026, 3, 27), 3),
            (date(2026, 3, 28), 2),
            (date(2026, 10, 24), 4),
        ] {
            let sent = sent_in_night(evening, limited.clone(), 9).await;
            let expected = hours * 3600 * 100 * 1024;
            assert!(
                sent.abs_diff(expected) < expected / 100,
                "{evening}: {sent} of {expected}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_seconds_have_what_the_limit_allows_whoever_sends() {
        for limit in [50 * 1024, 2 * MIB, 100 * MIB] {
            let limiter = std::sync::Arc::new(BandwidthLimiter::by_clock(
                vec![period((0, 0), (0, 0), limit)],
                || time(9, 0, 0, 0),
            ));
            let end = Instant::now() + Duration::from_secs(10);
            let senders = (0..8).map(|_| {
                let limiter = std::sync::Arc::clone(&limiter);
                tokio::spawn(async move {
                    let mut sent = 0;
                    loop {
                        let piece = limiter.chunk_size();
                        limiter.acquire(piece).await;
                        if Instant::now() >= end {
                            return sent;
                        }
                        sent += piece as u64;
                    }
                })
            });
            let mut sent = 0;
            for sender in senders.collect::<Vec<_>>() {
                sent += sender.await.unwrap();
            }
            let expected = limit * 10;
            assert!(
                sent.abs_diff(expected) <= expected / 20,
                "{limit}: {sent} of {expected}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_upload_continues_when_the_limit_is_lifted() {
        let limiter = std::sync::Arc::new(BandwidthLimiter::by_clock(
            vec![period((0, 0), (0, 0), 1)],
            || time(9, 0, 0, 0),
        ));
        limiter.acquire(1_000_000).await;
        let waiting = tokio::spawn({
            let limiter = std::sync::Arc::clone(&limiter);
            async move { limiter.acquire(1).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        limiter.set(Vec::new());
        tokio::time::timeout(Duration::from_secs(2), waiting)
            .await
            .unwrap()
            .unwrap();
    }
}
