//! Limits of requests, and what is said when the rest of an hour is spread.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

/// How many requests may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// In any minute; at least 1.
    pub per_minute: usize,
    /// In any hour; at least 1. None: no limit.
    pub per_hour: Option<usize>,
}

impl RequestLimits {
    /// A limit for each minute only.
    #[must_use]
    pub fn per_minute(count: usize) -> Self {
        Self {
            per_minute: count,
            per_hour: None,
        }
    }
}

/// Requests are spread over the rest of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Requests of the hour so far.
    pub used: usize,
    /// Until the first of them is an hour old.
    pub rest: Duration,
}

/// Says once per hour that requests are slower now.
#[derive(Debug, Default)]
pub(super) struct SpreadLog {
    /// Requests are spread until then, which was logged.
    until: Option<Instant>,
}

impl SpreadLog {
    pub(super) fn note(&mut self, spread: Spread, now: Instant) {
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        self.until = Some(now + spread.rest);
        let minutes = spread.rest.as_secs().div_ceil(60);
        info!(
            requests = spread.used,
            "half of itwin.requests_per_hour is used: spreading the other half over the next {minutes} min"
        );
    }
}
