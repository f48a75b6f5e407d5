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

/// The shortest quiet time before a run: the results of uploads that end together come in a row.
const SOON: Duration = Duration::from_secs(1);

/// `batch_window` divided by this is the shortest quiet time, if that is longer than [`SOON`].
const SHARE: u32 = 10;

/// A run of this many seconds is worth waiting one second for more files: what comes later waits for its end.
const WORTH: u32 = 20;

/// The latest run of the iModel that this process saw end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRun {
    /// How long ago it ended.
    pub(super) ended: Duration,
    /// From its request to its end.
    pub(super) took: Duration,
}

/// How long nothing must have come for a batch to be complete.
///
/// A single file in a quiet iModel waits for a moment only. Many files at once, or files that follow a run closely, are
/// probably part of a stream of which more comes: they wait for the whole `batch_window`.
fn quiet_time(
    backlog: &Backlog,
    first: Duration,
    last_run: Option<LastRun>,
    most: Duration,
) -> Duration {
    let soon = (most / SHARE).max(SOON).min(most);
    let Some(run) = last_run else {
        return by_count(soon, backlog.waiting).min(most);
    };
    let follows_run = run.ended.saturating_sub(first) < most * 2;
    if follows_run {
        return most;
    }
    by_count(soon, backlog.waiting)
        .max(run.took / WORTH)
        .min(most)
}

fn by_count(soon: Duration, files: u64) -> Duration {
    soon.saturating_mul(u32::try_from(files.max(1)).unwrap_or(u32::MAX))
}

/// Decides from the backlog of an iModel.
///
/// A batch is complete when nothing of the iModel is being uploaded and nothing came for the quiet time; but it
/// never waits longer than the batch maximum, so that a steady stream of files cannot keep it waiting for ever. Only a
/// set of which a part is being uploaded is waited for longer: the run would read one part of it new and one old.
pub(super) fn decide(
    backlog: &Backlog,
    now: Timestamp,
    sync: &config::Sync,
    last_run: Option<LastRun>,
) -> Batch {
    let (Some(first), Some(last)) = (backlog.first, backlog.last) else {
        return Batch::WaitFor(until_due(backlog, now));
    };
    let longest = sync.batch_max.saturating_sub(since(first, now));
    let window = quiet_time(backlog, since(first, now), last_run, sync.batch_window);
    let quiet = window.saturating_sub(since(last, now));
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
            let backlog = Backlog {
                waiting: 10,
                ..backlog
            };
            assert_eq!(
                decide(&backlog, at(now), &sync(), None),
                expected,
                "{backlog:?} at {now}"
            );
        }
    }

    #[test]
    fn a_file_alone_waits_for_a_moment_and_more_is_waited_for_under_load_or_if_runs_take_long() {
        let run = |ended, took| {
            Some(LastRun {
                ended: Duration::from_secs(ended),
                took: Duration::from_secs(took),
            })
        };
        for (waiting, first, last_run, window, expected) in [
            // A quiet iModel.
            (1, 0, None, 10_000, 1_000),
            (1, 0, run(60, 10), 10_000, 1_000),
            (0, 0, None, 10_000, 1_000),
            // Several files.
            (3, 0, None, 10_000, 3_000),
            (10, 0, None, 10_000, 10_000),
            (u64::MAX, 0, None, 10_000, 10_000),
            // The runs of this iModel take long.
            (1, 0, run(60, 100), 10_000, 5_000),
            (1, 0, run(60, 3600), 10_000, 10_000),
            (3, 0, run(60, 100), 10_000, 5_000),
            // It came during the last run, or soon after it.
            (1, 0, run(0, 10), 10_000, 10_000),
            (1, 0, run(19, 10), 10_000, 10_000),
            (1, 0, run(20, 10), 10_000, 1_000),
            (1, 60, run(75, 10), 10_000, 10_000),
            (1, 60, run(80, 10), 10_000, 1_000),
            (1, 60, run(5, 10), 10_000, 10_000),
            // Other windows than the default.
            (1, 0, None, 300, 300),
            (1, 0, None, 60_000, 6_000),
            (1, 0, None, 0, 0),
        ] {
            let backlog = Backlog {
                waiting,
                ..backlog(0, 0, false)
            };
            let found = quiet_time(
                &backlog,
                Duration::from_secs(first),
                last_run,
                Duration::from_millis(window),
            );
            assert_eq!(
                found,
                Duration::from_millis(expected),
                "{waiting} {first} {last_run:?} {window}"
            );
        }
    }

    /// When runs begin for files that come at these seconds, if each run takes that long.
    fn runs(files: &[i64], took: i64) -> Vec<i64> {
        let (mut runs, mut taken, mut last_run) = (Vec::new(), 0, None::<i64>);
        let mut free = 0;
        for now in 0..2000 {
            if now < free {
                continue;
            }
            let waiting = files[taken..].iter().take_while(|at| **at <= now).count();
            if waiting == 0 {
                continue;
            }
            let backlog = Backlog {
                waiting: waiting as u64,
                ..backlog(files[taken], files[taken + waiting - 1], false)
            };
            let ended = last_run.map(|ended| LastRun {
                ended: Duration::from_secs(u64::try_from(now - ended).unwrap()),
                took: Duration::from_secs(u64::try_from(took).unwrap()),
            });
            if decide(&backlog, at(now), &sync(), ended) == Batch::Ready {
                runs.push(now);
                taken += waiting;
                free = now + took;
                last_run = Some(free);
            }
        }
        assert_eq!(taken, files.len());
        runs
    }

    #[test]
    fn a_burst_ends_in_two_runs_however_fast_its_files_come_and_single_files_get_one_each() {
        for gap in 0..10 {
            for took in [1, 5, 30, 300] {
                let burst: Vec<i64> = (0..20).map(|number| number * gap).collect();
                let found = runs(&burst, took);
                assert!(
                    found.len() <= 2,
                    "every {gap} s, runs of {took} s: {found:?}"
                );
            }
        }
        assert_eq!(runs(&[0, 100, 200], 10), [1, 101, 201]);
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
                decide(&backlog, at(now), &sync(), None),
                expected,
                "{partial:?} at {now}"
            );
        }
    }

    #[test]
    fn without_waiting_files_the_synchronizer_sleeps_until_a_job_is_due() {
        let idle = Backlog::default();
        assert_eq!(
            decide(&idle, at(0), &sync(), None),
            Batch::WaitFor(Duration::MAX)
        );
        let later = Backlog {
            next_due: Some(at(40)),
            ..idle
        };
        assert_eq!(
            decide(&later, at(0), &sync(), None),
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
            (1, 1, false, Batch::WaitFor(Duration::from_secs(1))),
        ] {
            assert_eq!(
                decide(&backlog(first, last, in_hand), at(0), &sync(), None),
                expected,
                "{first} {last} {in_hand}"
            );
        }
    }
}
