//! Decides when a batch of files is complete and a run is requested. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::config;
use crate::ledger::{Backlog, Partial};

/// Two readings of the clock, by two tasks, may be in the wrong order by this much.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(5);

/// Whether a batch is complete.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// Request a run for what waits.
    Ready,
    /// Look again after this time.
    WaitFor(Duration),
}

/// Decides from the backlog of an iModel.
///
/// A batch is complete when nothing of the iModel is being uploaded and nothing came for the batch window; but it
/// never waits longer than the batch maximum, so that a steady stream of files cannot keep it waiting for ever. Only a
/// set of which a part is being uploaded is waited for longer: the run would read one part of it new and one old.
pub(super) fn decide(backlog: &Backlog, now: Timestamp, sync: &config::Sync) -> Batch {
    let (Some(first), Some(last)) = (backlog.first, backlog.last) else {
        return Batch::WaitFor(until_due(backlog, now));
    };
    let longest = sync.batch_max.saturating_sub(since(first, now));
    let quiet = sync.batch_window.saturating_sub(since(last, now));
    let ready = match backlog.partial {
        Partial::None => longest.is_zero() || (quiet.is_zero() && !backlog.in_hand),
        Partial::PutOff => longest.is_zero(),
        Partial::Uploading => false,
    };
    if ready {
        return Batch::Ready;
    }
    // While uploads are in hand, each of them ends with a wake-up; this is only the net below it.
    let wait = if quiet.is_zero() {
        sync.batch_window
    } else {
        quiet
    };
    let longest = if longest.is_zero() {
        sync.batch_window
    } else {
        longest
    };
    Batch::WaitFor(wait.min(longest).max(Duration::from_millis(10)))
}

/// How long until another file becomes due for a run.
pub(super) fn until_due(backlog: &Backlog, now: Timestamp) -> Duration {
    backlog
        .next_due
        .map_or(Duration::MAX, |at| between(now, at))
}

/// Adds reference files, the last of which was completed at `at`, to the backlog.
pub(super) fn with_references(backlog: Backlog, at: Timestamp) -> Backlog {
    Backlog {
        first: Some(backlog.first.map_or(at, |first| first.min(at))),
        last: Some(backlog.last.map_or(at, |last| last.max(at))),
        ..backlog
    }
}

/// How long ago a file came. A time ahead of `now` was taken from a clock that was ahead: it is unknown how long ago
/// that was, and it must not delay the batch.
fn since(came: Timestamp, now: Timestamp) -> Duration {
    if came.duration_since(now) > CLOCKS_AGREE {
        return Duration::MAX;
    }
    between(came, now)
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync() -> config::Sync {
        config::Sync {
            connection: "c".to_owned().into(),
            batch_window: Duration::from_secs(10),
            batch_max: Duration::from_secs(300),
            poll_interval: Duration::from_secs(10),
            poll_max: Duration::from_secs(60),
            run_deadline: Duration::from_secs(3600),
            remap: true,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn backlog(first: i64, last: i64, in_hand: bool) -> Backlog {
        Backlog {
            waiting: 1,
            first: Some(at(first)),
            last: Some(at(last)),
            in_hand,
            partial: Partial::None,
            next_due: None,
        }
    }

    #[test]
    fn a_batch_is_ready_after_a_quiet_window_or_at_its_maximum() {
        let wait = |seconds| Batch::WaitFor(Duration::from_secs(seconds));
        for (backlog, now, expected) in [
            (backlog(0, 0, false), 3, wait(7)),
            (backlog(0, 0, false), 10, Batch::Ready),
            (backlog(0, 8, false), 10, wait(8)),
            (backlog(0, 0, true), 60, wait(10)),
            (backlog(0, 295, false), 299, wait(1)),
            (backlog(0, 299, true), 300, Batch::Ready),
        ] {
            assert_eq!(
                decide(&backlog, at(now), &sync()),
                expected,
                "{backlog:?} at {now}"
            );
        }
    }

    #[test]
    fn a_run_waits_for_a_set_of_which_a_part_is_being_uploaded() {
        let wait = |seconds| Batch::WaitFor(Duration::from_secs(seconds));
        for (partial, now, expected) in [
            (Partial::None, 10, Batch::Ready),
            (Partial::PutOff, 10, wait(10)),
            (Partial::PutOff, 300, Batch::Ready),
            (Partial::Uploading, 10, wait(10)),
            (Partial::Uploading, 300, wait(10)),
            (Partial::Uploading, 9000, wait(10)),
        ] {
            let backlog = Backlog {
                partial,
                ..backlog(0, 0, false)
            };
            assert_eq!(
                decide(&backlog, at(now), &sync()),
                expected,
                "{partial:?} at {now}"
            );
        }
    }

    #[test]
    fn without_waiting_files_the_synchronizer_sleeps_until_a_job_is_due() {
        let idle = Backlog::default();
        assert_eq!(decide(&idle, at(0), &sync()), Batch::WaitFor(Duration::MAX));
        let later = Backlog {
            next_due: Some(at(40)),
            ..idle
        };
        assert_eq!(
            decide(&later, at(0), &sync()),
            Batch::WaitFor(Duration::from_secs(40))
        );
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_batch() {
        for (first, last, in_hand, expected) in [
            (5000, 5000, false, Batch::Ready),
            (5000, 5000, true, Batch::Ready),
            (-1, 5000, false, Batch::Ready),
            // As by two tasks that read the clock one after the other.
            (1, 1, false, Batch::WaitFor(Duration::from_secs(10))),
        ] {
            assert_eq!(
                decide(&backlog(first, last, in_hand), at(0), &sync()),
                expected,
                "{first} {last} {in_hand}"
            );
        }
    }
}
