//! What a failed attempt means for its job: try again when, or fail.
//!
//! Pure: from the class of the error, the attempts so far and the time, to the refusal that goes into the ledger.
//! The second of the two retry layers; the first, a few quick tries of what is safe to repeat, is in the client.

use std::time::Duration;

use jiff::Timestamp;

use crate::ledger::{Again, Refusal};
use crate::retry::{Class, Policy};

/// A failure, as the room that saw it describes it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
}

/// The attempts of a job so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    /// The attempt that failed, counted from 1.
    pub(crate) attempt: u32,
    /// When the unbroken row of failures began, if not with this one.
    pub(crate) failing_since: Option<Timestamp>,
}

/// Decides what comes after a failure.
pub(crate) fn refusal(
    failure: Failure,
    history: History,
    policy: &Policy,
    give_up: Duration,
    now: Timestamp,
) -> Refusal {
    let Failure {
        class,
        reason,
        hint,
    } = failure;
    let (word, again) = match class {
        Class::Busy => (
            "busy",
            Again::BusyUntil(after(now, policy.delay(history.attempt, None))),
        ),
        Class::Transient { floor } => {
            let next = after(now, policy.delay(history.attempt, floor));
            let since = history.failing_since.unwrap_or(now);
            if now.duration_since(since).unsigned_abs() >= give_up {
                ("gave_up", Again::Never)
            } else {
                ("transient", Again::At(next))
            }
        }
        // Somebody has to mend these, elsewhere: that needs no restart of ours to be noticed.
        Class::Credentials => ("credentials", Again::FailedUntil(after(now, policy.max))),
        Class::RefusedForAll => (
            "refused_for_all",
            Again::FailedUntil(after(now, policy.max)),
        ),
        Class::RefusedForContent => ("refused", Again::Never),
    };
    Refusal {
        class: word,
        reason,
        hint,
        again,
    }
}

/// `now` plus a pause; a pause beyond the end of time counts as none.
pub(crate) fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(now)
}

/// A time for people: local, without fractions.
pub(crate) fn clock_time(at: Timestamp) -> String {
    at.to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}
