//! What a failed attempt means for its job: try again when, or fail.
//!
//! Pure: from the class of the error, the attempts so far and the time, to the refusal that goes into the ledger.
//! The second of the two retry layers; the first, a few quick tries of what is safe to repeat, is in the client.

use std::time::Duration;

use jiff::Timestamp;

use crate::ledger::{Again, FailureKind, Refusal};
use crate::retry::{Class, Policy};

/// A failure, as the stage that saw it describes it.
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
    /// When the first of the failures in a row happened, if not this one.
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
    let (kind, again) = match class {
        Class::Busy => (
            FailureKind::Busy,
            Again::BusyUntil(after(now, policy.delay(history.attempt, None))),
        ),
        Class::Transient { floor } => {
            let next = after(now, policy.delay(history.attempt, floor));
            let since = history.failing_since.unwrap_or(now);
            let failing = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            // The clock alone ends no file: it may have jumped. As many attempts as fit into that time must have
            // failed.
            if failing >= give_up && policy.pauses(history.attempt) >= give_up / 2 {
                (FailureKind::GaveUp, Again::Never)
            } else {
                (FailureKind::Transient, Again::At(next))
            }
        }
        // These are fixed elsewhere: the next attempt notices it without a restart.
        Class::Credentials => (
            FailureKind::Credentials,
            Again::FailedUntil(after(now, policy.max)),
        ),
        // Nothing starts until the user has acted; then it continues without a further pause.
        Class::AwaitsUser => (
            FailureKind::Credentials,
            Again::At(after(now, policy.delay(1, None))),
        ),
        Class::RefusedForAll => (
            FailureKind::Blocked,
            Again::FailedUntil(after(now, policy.max)),
        ),
        Class::RefusedForContent => (FailureKind::Refused, Again::Never),
    };
    Refusal {
        kind,
        reason,
        hint,
        again,
    }
}

/// When a file whose storage file someone else has changed or deleted is uploaded again: at once the first time, and
/// later the more often it happened since the local file changed, so that two programs do not overwrite each other
/// without a pause.
pub(crate) fn after_foreign_change(before: u32, policy: &Policy, now: Timestamp) -> Timestamp {
    match before {
        0 => now,
        before => after(now, policy.delay(before, None)),
    }
}

/// `now` plus a pause; a pause beyond the end of time counts as none.
pub(crate) fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(now)
}

/// A time for display: local, without fractions.
pub(crate) fn clock_time(at: Timestamp) -> String {
    at.to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;
    use crate::retry::{self, Budget, RequestLimits};

    #[test]
    fn only_time_and_attempts_together_give_a_file_up() {
        let policy = Policy {
            first: Duration::from_secs(5),
            max: Duration::from_mins(15),
        };
        let day = 86_400;
        // 3 days take about 290 attempts.
        for (failed_for, attempt, gives_up) in [
            (3 * day, 300, true),
            (4 * day, 160, true),
            (3 * day - 1, 300, false),
            // The clock jumped ahead.
            (10 * day, 3, false),
            (400 * day, 100, false),
            // It was set back.
            (-10 * day, 300, false),
        ] {
            let failure = Failure {
                class: Class::Transient { floor: None },
                reason: String::new(),
                hint: None,
            };
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            let history = History {
                attempt,
                failing_since: Some(now - jiff::SignedDuration::from_secs(failed_for)),
            };
            let refusal = refusal(failure, history, &policy, Duration::from_hours(72), now);
            assert_eq!(
                refusal.again == Again::Never,
                gives_up,
                "{failed_for} s, attempt {attempt}"
            );
        }
    }

    const FILES: u32 = 1000;
    const WORKERS: usize = 4;
    const PER_MINUTE: usize = 500;
    const OUTAGE: Duration = Duration::from_hours(1);

    /// Jobs by their time, with the attempts so far.
    type Queue = Mutex<BTreeSet<(Timestamp, u32, u32)>>;

    struct Outage {
        began: Instant,
        queue: Queue,
        budget: Budget,
        policy: Policy,
        requests: Mutex<Vec<Instant>>,
        done: Mutex<Vec<Instant>>,
    }

    impl Outage {
        fn now(&self) -> Timestamp {
            after(Timestamp::UNIX_EPOCH, self.began.elapsed())
        }

        async fn request(&self) -> Result<(), ()> {
            self.budget.take().await;
            self.requests.lock().unwrap().push(Instant::now());
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.began.elapsed() < OUTAGE {
                Err(())
            } else {
                Ok(())
            }
        }

        async fn work(&self) {
            loop {
                let now = self.now();
                let claimed = {
                    let mut queue = self.queue.lock().unwrap();
                    let first = queue.first().copied();
                    first.filter(|(due, ..)| *due <= now).inspect(|job| {
                        queue.remove(job);
                    })
                };
                let Some((_, job, attempts)) = claimed else {
                    if self.done.lock().unwrap().len() == FILES as usize {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                };
                if retry::in_place(
                    || self.request(),
                    |()| retry::InPlace::Retry { floor: None },
                )
                .await
                .is_ok()
                {
                    self.done.lock().unwrap().push(Instant::now());
                    continue;
                }
                let failure = Failure {
                    class: Class::Transient { floor: None },
                    reason: String::new(),
                    hint: None,
                };
                let history = History {
                    attempt: attempts + 1,
                    failing_since: Some(Timestamp::UNIX_EPOCH),
                };
                let days = Duration::from_hours(72);
                let refusal = refusal(failure, history, &self.policy, days, self.now());
                let Again::At(next) = refusal.again else {
                    unreachable!("an hour is no reason to give up");
                };
                self.queue.lock().unwrap().insert((next, job, attempts + 1));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_service_and_a_thousand_files_end_without_a_stampede() {
        let outage = Arc::new(Outage {
            began: Instant::now(),
            queue: Mutex::new(
                (0..FILES)
                    .map(|job| (Timestamp::UNIX_EPOCH, job, 0))
                    .collect(),
            ),
            budget: Budget::new(RequestLimits::per_minute(PER_MINUTE)),
            policy: Policy {
                first: Duration::from_secs(5),
                max: Duration::from_mins(15),
            },
            requests: Mutex::default(),
            done: Mutex::default(),
        });
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let outage = Arc::clone(&outage);
                tokio::spawn(async move { outage.work().await })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        let requests = outage.requests.lock().unwrap();
        for (first, later) in requests.iter().zip(requests.iter().skip(PER_MINUTE)) {
            assert!(later.duration_since(*first) >= Duration::from_mins(1));
        }
        let last = outage.done.lock().unwrap().iter().max().copied().unwrap();
        let recovery = last.duration_since(outage.began + OUTAGE);
        assert!(recovery <= Duration::from_mins(25), "{recovery:?}");
        // Each file asks a dozen times in the hour, thrice each time.
        let during = requests
            .iter()
            .filter(|at| at.duration_since(outage.began) < OUTAGE);
        let during = during.count();
        assert!(
            during < FILES as usize * 60,
            "{during} requests for nothing"
        );
        // By then each file asks every quarter of an hour; at a steady pace they would use up the whole limit.
        let quarter = Duration::from_mins(15);
        let at_last = requests.iter().filter(|at| {
            let since = at.duration_since(outage.began);
            since < OUTAGE && since + quarter >= OUTAGE
        });
        let at_last = at_last.count();
        assert!(
            at_last < PER_MINUTE * 15 * 4 / 5,
            "{at_last} requests in the last quarter of an hour"
        );
    }
}
