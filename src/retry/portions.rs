//! Portions of a rate limit that several hosts share.
//!
//! A host draws what it needs for a moment, and the portion expires soon. [`portion`] decides how large it is, or how
//! long to wait, from what all hosts have drawn. [`Shared`] draws for one host and hands the requests out. A host that
//! sends nothing draws nothing; what a host does not use is lost.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::{RequestLimits, Spread, SpreadLog};

/// For how long a portion is usable after it was drawn: so long after a pause began, no host sends anything.
const USABLE: Duration = Duration::from_secs(2);

/// A portion is what a host needs for so long.
const AHEAD: Duration = Duration::from_millis(500);

/// A host that waits asks again after this time at the latest: limits change, and hosts request pauses.
const LOOK: Duration = Duration::from_secs(5);

/// A portion is at most this part of a limit, so that little is lost with one that expires.
const PART: usize = 100;

/// What is drawn in this many seconds stays within the limit of a minute: a request is sent up to [`USABLE`] after it
/// was drawn.
pub(crate) const MINUTE: i64 = 60 + 2;

/// The same for an hour.
pub(crate) const HOUR: i64 = 60 * 60 + 2;

/// Where the hosts draw their portions.
pub trait Portions: Send + Sync {
    /// Draws a portion. Waits while that is impossible.
    fn draw<'a>(&'a self, order: Order<'a>) -> Pin<Box<dyn Future<Output = Drawing> + Send + 'a>>;
}

/// What a host wants to draw.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The host of the platform that the requests are for.
    pub host: &'a str,
    /// Number of requests; at least 1.
    pub wanted: usize,
    /// The limits of this host.
    pub limits: RequestLimits,
}

/// What a host gets.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The requests.
    pub portion: Portion,
    /// Not later than the time at which they were counted.
    pub at: Instant,
    /// The pauses that hosts of the platform have requested, and what is left of each.
    pub pauses: Vec<(String, Duration)>,
}

/// A number of requests, or a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Requests that may be sent.
    pub count: usize,
    /// If there are none: how long to wait.
    pub wait: Duration,
    /// Why to wait, if it is the limit of the hour.
    pub spread: Option<Spread>,
}

/// What all hosts have drawn, by a clock that they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Now, in milliseconds.
    pub(crate) now: i64,
    /// Number of requests by the second in which they were drawn, the oldest first: those of the last [`MINUTE`].
    pub(crate) minute: Vec<(i64, usize)>,
    /// The same for the last [`HOUR`], if a limit needs it.
    pub(crate) hour: Option<DrawnInHour>,
}

/// What was drawn in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrawnInHour {
    /// Number of requests.
    pub(crate) count: usize,
    /// The second of the first of them.
    pub(crate) first: i64,
    /// When the last of them was drawn, in milliseconds.
    pub(crate) last: i64,
}

/// How many of the wanted requests may be sent. Pure.
pub(crate) fn portion(wanted: usize, limits: RequestLimits, drawn: &Drawn) -> Portion {
    let of_minute = of_minute(limits.per_minute, drawn);
    let of_hour = match (limits.per_hour, drawn.hour) {
        (Some(most), Some(hour)) => of_hour(most, hour, drawn.now),
        (Some(most), None) => Ok(most.div_ceil(2)),
        (None, _) => Ok(usize::MAX),
    };
    let left = |at: i64| Duration::from_millis(at.saturating_sub(drawn.now).max(1).unsigned_abs());
    let spread = match (of_hour, drawn.hour) {
        (Err(_), Some(hour)) => Some(Spread {
            used: hour.count,
            rest: left(end(hour.first, HOUR)),
        }),
        _ => None,
    };
    match (of_minute, of_hour) {
        (Ok(minute), Ok(hour)) => {
            let most = limits
                .per_hour
                .map_or(limits.per_minute, |hour| hour.min(limits.per_minute));
            let count = wanted.min((most / PART).max(1)).min(minute).min(hour);
            Portion {
                count,
                wait: Duration::ZERO,
                spread,
            }
        }
        (minute, hour) => Portion {
            count: 0,
            wait: left(minute.err().max(hour.err()).unwrap_or(drawn.now)),
            spread,
        },
    }
}

/// When what was drawn in a second does not count any more, in milliseconds.
fn end(second: i64, window: i64) -> i64 {
    second
        .saturating_add(window)
        .saturating_add(1)
        .saturating_mul(1000)
}

/// How many more the limit of the minute allows, or when it allows any.
fn of_minute(most: usize, drawn: &Drawn) -> Result<usize, i64> {
    let mut used: usize = drawn.minute.iter().map(|(_, count)| count).sum();
    if used < most {
        return Ok(most - used);
    }
    let mut at = drawn.now;
    for (second, count) in &drawn.minute {
        used -= count;
        at = end(*second, MINUTE);
        if used < most {
            break;
        }
    }
    Err(at)
}

/// The same for the hour: half at once, the rest spread over the time until the first is an hour old.
fn of_hour(most: usize, hour: DrawnInHour, now: i64) -> Result<usize, i64> {
    let half = most.div_ceil(2);
    if hour.count < half {
        return Ok(half - hour.count);
    }
    let until = end(hour.first, HOUR);
    let left = most.saturating_sub(hour.count);
    let Some(each) = i64::try_from(left)
        .ok()
        .and_then(|left| until.saturating_sub(now).checked_div(left))
    else {
        return Err(until);
    };
    let each = each.max(1);
    match now.saturating_sub(hour.last) / each {
        ..=0 => Err(hour.last.saturating_add(each)),
        due => Ok(usize::try_from(due).unwrap_or(usize::MAX).min(left)),
    }
}

/// The requests of this host, of a limit that it shares with others.
pub(super) struct Shared {
    /// The host of the platform.
    host: String,
    source: Arc<dyn Portions>,
    /// Whoever has it draws for all that wait.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    limits: RequestLimits,
    /// What is left of the last portion.
    left: usize,
    usable_until: Instant,
    /// Requests that wait.
    waiting: usize,
    /// When the last requests were sent.
    sent: VecDeque<Instant>,
    log: SpreadLog,
}

impl Shared {
    pub(super) fn new(limits: RequestLimits, host: String, source: Arc<dyn Portions>) -> Self {
        Self {
            host,
            source,
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                limits,
                left: 0,
                usable_until: Instant::now(),
                waiting: 0,
                sent: VecDeque::new(),
                log: SpreadLog::default(),
            }),
        }
    }

    pub(super) fn set(&self, limits: RequestLimits) {
        self.state().limits = limits;
    }

    pub(super) async fn take(&self) {
        let _waiting = Waiting::new(self);
        loop {
            if self.state().use_one(Instant::now()) {
                return;
            }
            let _turn = self.turn.lock().await;
            let (wanted, limits) = {
                let mut state = self.state();
                let now = Instant::now();
                // Whoever had the turn before has drawn for this one as well.
                if state.use_one(now) {
                    return;
                }
                (state.need(now), state.limits)
            };
            let order = Order {
                host: &self.host,
                wanted,
                limits,
            };
            let drawing = self.source.draw(order).await;
            let wait = self.state().receive(&drawing);
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LOOK)).await;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Uses one request of the portion, if there is one.
    fn use_one(&mut self, now: Instant) -> bool {
        if self.left == 0 || now >= self.usable_until {
            return false;
        }
        self.left -= 1;
        self.forget_sent(now);
        self.sent.push_back(now);
        true
    }

    fn need(&mut self, now: Instant) -> usize {
        self.forget_sent(now);
        self.waiting.max(self.sent.len())
    }

    fn forget_sent(&mut self, now: Instant) {
        while let Some(first) = self.sent.front()
            && now.duration_since(*first) >= AHEAD
        {
            self.sent.pop_front();
        }
    }

    /// Takes a portion over, in place of what is left of the last one. Returns how long to wait before the next.
    fn receive(&mut self, drawing: &Drawing) -> Duration {
        self.left = drawing.portion.count;
        self.usable_until = drawing.at + USABLE;
        if let Some(spread) = drawing.portion.spread {
            self.log.note(spread, Instant::now());
        }
        drawing.portion.wait
    }
}

/// A request that waits.
struct Waiting<'b>(&'b Shared);

impl<'b> Waiting<'b> {
    fn new(budget: &'b Shared) -> Self {
        budget.state().waiting += 1;
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
