//! The rate limit of the API: a number of requests per minute.

use jiff::{Timestamp, Unit};

/// Requests of the current minute.
#[derive(Debug, Default)]
pub(super) struct Quota {
    began: Timestamp,
    used: u32,
}

impl Quota {
    /// Counts a request; the seconds until the next minute when `max` is exceeded.
    pub(super) fn take(&mut self, max: u32, now: Timestamp) -> Result<(), i64> {
        let age = now.duration_since(self.began).as_secs();
        if !(0..60).contains(&age) {
            *self = Self {
                began: now.round(Unit::Second).unwrap_or(now),
                used: 0,
            };
        }
        self.used += 1;
        if self.used <= max {
            return Ok(());
        }
        Err(60 - now.duration_since(self.began).as_secs().clamp(0, 59))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_the_limit_waits_for_the_next_minute() {
        let at = |seconds| Timestamp::from_second(1_000_000 + i64::from(seconds)).unwrap();
        let mut quota = Quota::default();
        assert_eq!(quota.take(2, at(0)), Ok(()));
        assert_eq!(quota.take(2, at(10)), Ok(()));
        assert_eq!(quota.take(2, at(20)), Err(40));
        assert_eq!(quota.take(2, at(60)), Ok(()));
    }
}
