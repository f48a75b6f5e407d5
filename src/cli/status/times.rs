//! Times and spans as status shows them.

use std::time::Duration;

use jiff::Timestamp;

use crate::next_attempt::clock_time;
use crate::text::span_of;

/// Older times are shown as a date.
const RECENT: u64 = 36 * 3600;

/// A time relative to now, such as "5 min ago".
pub(in crate::cli) fn moment(at: Timestamp) -> String {
    moment_at(at, crate::clock::now())
}

pub(super) fn moment_at(at: Timestamp, now: Timestamp) -> String {
    let away = now.duration_since(at);
    let seconds = away.unsigned_abs().as_secs();
    if seconds >= RECENT {
        return clock_time(at);
    }
    match (away.is_negative(), seconds) {
        (_, 0..2) => "just now".to_owned(),
        (true, _) => format!("in {}", span_of(seconds)),
        (false, _) => format!("{} ago", span_of(seconds)),
    }
}

/// A scheduled time relative to now, such as "in 5 min"; "now" when it is due.
pub(in crate::cli) fn upcoming(at: Timestamp, now: Timestamp) -> String {
    if at.duration_since(now).as_secs() < 2 {
        "now".to_owned()
    } else {
        moment_at(at, now)
    }
}

pub(super) fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    span_of(Duration::try_from_secs_f64(seconds).map_or(0, |span| span.as_secs()))
}
