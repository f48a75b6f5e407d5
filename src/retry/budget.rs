//! The rate limit: requests in any minute and any hour, over the whole process, or over all hosts that share a ledger.
//!
//! Counts requests and says how long the next one waits; or draws what it may send, from what all hosts have in common
//! (`portions`). What a crash of a single host loses is the count: after a restart the platform may answer 429 and
//! request a pause instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::{RequestLimits, Spread, SpreadLog};
use super::portions::{Portions, Shared};

const MINUTE: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Keeps requests within their limits.
#[derive(Debug)]
pub(crate) struct Budget(Source);

#[derive(Debug)]
enum Source {
    Own(Mutex<Sent>),
    Shared(Shared),
}

#[derive(Debug)]
struct Sent {
    limits: RequestLimits,
    /// When each request of the last minute was sent, or of the last hour if that is limited too.
    at: VecDeque<Instant>,
    log: SpreadLog,
}

impl Budget {
    pub(crate) fn new(limits: RequestLimits) -> Self {
        Self(Source::Own(Mutex::new(Sent {
            limits,
            at: VecDeque::new(),
            log: SpreadLog::default(),
        })))
    }

    /// A budget for requests to a host of the platform, which is drawn in portions.
    pub(crate) fn shared(limits: RequestLimits, host: String, portions: Arc<dyn Portions>) -> Self {
        Self(Source::Shared(Shared::new(limits, host, portions)))
    }

    /// Sets the limits; the requests that were counted so far count on.
    pub(crate) fn set(&self, limits: RequestLimits) {
        match &self.0 {
            Source::Own(sent) => {
                sent.lock().unwrap_or_else(PoisonError::into_inner).limits = limits;
            }
            Source::Shared(shared) => shared.set(limits),
        }
    }

    /// Waits until one more request is within the limits, and counts it.
    pub(crate) async fn take(&self) {
        let sent = match &self.0 {
            Source::Own(sent) => sent,
            Source::Shared(shared) => return shared.take().await,
        };
        loop {
            let pause = {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                sent.reserve(Instant::now())
            };
            if pause.is_zero() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

impl Sent {
    /// Counts a request that is sent now, or returns how long to wait before the next try.
    fn reserve(&mut self, now: Instant) -> Duration {
        let RequestLimits {
            per_minute,
            per_hour,
        } = self.limits;
        let window = if per_hour.is_some() { HOUR } else { MINUTE };
        while let Some(first) = self.at.front()
            && now.duration_since(*first) >= window
        {
            self.at.pop_front();
        }
        let of_minute = self.pause_of_minute(per_minute, now);
        let of_hour = per_hour.map_or(Duration::ZERO, |most| self.pause_of_hour(most, now));
        if !of_hour.is_zero() {
            let first = self.at.front().copied().unwrap_or(now);
            let spread = Spread {
                used: self.at.len(),
                rest: (first + HOUR).saturating_duration_since(now),
            };
            self.log.note(spread, now);
        }
        let pause = of_minute.max(of_hour);
        if pause.is_zero() {
            self.at.push_back(now);
        }
        pause
    }

    fn pause_of_minute(&self, per_minute: usize, now: Instant) -> Duration {
        let Some(before) = self.at.len().checked_sub(per_minute) else {
            return Duration::ZERO;
        };
        // The last `per_minute` requests begin with this one.
        self.at.get(before).map_or(MINUTE, |first| {
            (*first + MINUTE).saturating_duration_since(now)
        })
    }

    /// The first half of an hour's requests is sent at once. The rest is spread over the time until the first of them
    /// is an hour old: so runs are still followed, and files still uploaded, at the pace that is left.
    fn pause_of_hour(&self, per_hour: usize, now: Instant) -> Duration {
        let (Some(first), Some(last)) = (self.at.front(), self.at.back()) else {
            return Duration::ZERO;
        };
        let until = (*first + HOUR).saturating_duration_since(now);
        let used = self.at.len();
        if used >= per_hour {
            return until;
        }
        if used < per_hour.div_ceil(2) {
            return Duration::ZERO;
        }
        let left = u32::try_from(per_hour - used).unwrap_or(u32::MAX);
        (*last + until / left).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(per_minute: usize, per_hour: Option<usize>) -> RequestLimits {
        RequestLimits {
            per_minute,
            per_hour,
        }
    }

    /// As after an outage: many at once, and again later. Returns when each was sent.
    async fn bursts(budget: &Budget, count: u64) -> Vec<Instant> {
        let mut sent = Vec::new();
        for number in 0..count {
            if number % 170 == 0 {
                tokio::time::sleep(Duration::from_secs(number % 50)).await;
            }
            budget.take().await;
            sent.push(Instant::now());
        }
        sent
    }

    fn assert_within(sent: &[Instant], most: usize, window: Duration) {
        for (first, later) in sent.iter().zip(sent.iter().skip(most)) {
            assert!(later.duration_since(*first) >= window);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_requests_than_the_limit() {
        let sent = bursts(&Budget::new(limits(100, None)), 1000).await;
        assert_within(&sent, 100, MINUTE);
        let all = sent.last().unwrap().duration_since(sent[0]);
        assert!(all <= MINUTE * 12, "no slower than the limit: {all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_minute_nor_an_hour_has_more_requests_than_its_limit() {
        let sent = bursts(&Budget::new(limits(450, Some(4500))), 20_000).await;
        assert_within(&sent, 450, MINUTE);
        assert_within(&sent, 4500, HOUR);
        let all = sent.last().unwrap().duration_since(sent[0]);
        assert!(all <= HOUR * 5, "no slower than the limit: {all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_never_uses_up_the_hour_so_requests_continue_at_a_slower_pace() {
        let budget = Budget::new(limits(450, Some(4500)));
        let began = Instant::now();
        let mut sent = Vec::new();
        for _ in 0..9000 {
            budget.take().await;
            sent.push(Instant::now());
        }
        // Half of the hour's requests as fast as the minute allows.
        assert!(sent[2249].duration_since(began) < 6 * MINUTE);
        let longest = sent
            .windows(2)
            .map(|two| two[1].duration_since(two[0]))
            .max()
            .unwrap();
        assert!(longest <= MINUTE, "{longest:?} without a request");
        // After a quiet hour the next burst is as fast again.
        tokio::time::sleep(HOUR).await;
        let began = Instant::now();
        bursts(&budget, 450).await;
        assert!(began.elapsed() < 2 * MINUTE + 50 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_limits_still_let_requests_pass() {
        for (minute, hour) in [(1, Some(1)), (1, Some(2)), (1_000, Some(1)), (5, Some(3))] {
            let sent = bursts(&Budget::new(limits(minute, hour)), 12).await;
            assert_within(&sent, minute, MINUTE);
            assert_within(&sent, hour.unwrap(), HOUR);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changed_limits_apply_to_the_next_request() {
        let budget = Budget::new(limits(1, Some(1)));
        budget.take().await;
        budget.set(limits(10, None));
        let began = Instant::now();
        budget.take().await;
        assert!(began.elapsed().is_zero());
        budget.set(limits(10, Some(2)));
        budget.take().await;
        assert!(began.elapsed() + SECOND >= HOUR);
    }
}
