//! Stored times when the clock is wrong, or was.
//!
//! A time that was set by a clock that was ahead must not delay anything. So each stored time has the moment at which
//! it was set beside it. If that moment has not come yet, the time is void and what waits for it is due. While the
//! service runs it notices a jump and moves all stored times by it, so that each pause keeps its length.

use jiff::{SignedDuration, Timestamp};

use super::{Error, Ledger, millis, sql};

/// Two readings of a steady clock, by two tasks, may be in the wrong order by this much, in milliseconds.
pub(super) const SLACK: i64 = 5000;

/// SQL: the job `j` is due at the time of a parameter.
macro_rules! due {
    ($now:literal) => {
        concat!(
            "(j.due_at <= ",
            $now,
            " OR j.due_at - j.pause > ",
            $now,
            " + 5000)"
        )
    };
}

/// SQL: jobs of the watch `w` may be claimed at the time of a parameter, if its window is open.
macro_rules! not_suspended {
    ($now:literal) => {
        concat!(
            "w.configured = 1 AND w.paused_at IS NULL AND w.bulk_change_files = 0 \
             AND w.imodel_wait IS NULL AND w.other_ledger IS NULL AND NOT EXISTS (SELECT 1 FROM sign_in_wait) \
             AND (w.backoff_until <= ",
            $now,
            " OR w.backoff_since > ",
            $now,
            " + 5000)"
        )
    };
}

/// SQL: jobs of the watch `w` may be claimed at the time of a parameter.
macro_rules! active {
    ($now:literal) => {
        concat!(
            "w.uploads_wait_until = 0 AND ",
            $crate::ledger::clock::not_suspended!($now)
        )
    };
}

pub(super) use {active, due, not_suspended};

/// The pause before a time, in milliseconds.
pub(super) fn pause(now: Timestamp, until: Timestamp) -> i64 {
    millis(until).saturating_sub(millis(now)).max(0)
}

/// Whether a time has come, or is void because it was set `pause` milliseconds before it by a clock that was ahead.
pub(super) fn has_come(at: i64, pause: i64, now: Timestamp) -> bool {
    at <= millis(now) || is_ahead(at.saturating_sub(pause), now)
}

/// Whether a moment that is past cannot have been taken from a clock that agrees with `now`.
pub(super) fn is_ahead(taken: i64, now: Timestamp) -> bool {
    taken > millis(now).saturating_add(SLACK)
}

/// What the service does when the clock has jumped by `$1` milliseconds.
const FOLLOW: [&str; 10] = [
    "UPDATE jobs SET due_at = due_at + $1, enqueued_at = enqueued_at + $1, \
     failing_since = failing_since + $1, stage_at = CASE WHEN stage_at > 0 THEN stage_at + $1 \
     ELSE stage_at END",
    "UPDATE watches SET backoff_until = backoff_until + $1, backoff_since = backoff_since + $1 \
     WHERE backoff_since > 0",
    "UPDATE watches SET takes_over_since = takes_over_since + $1 WHERE takes_over_since > 0",
    "UPDATE watches SET paused_at = paused_at + $1 WHERE paused_at IS NOT NULL",
    "UPDATE watches SET sync_requested_at = sync_requested_at + $1 \
     WHERE sync_requested_at IS NOT NULL",
    "UPDATE connections SET moved_at = CASE WHEN moved_at > 0 THEN moved_at + $1 ELSE moved_at \
     END, checked_at = CASE WHEN checked_at > 0 THEN checked_at + $1 ELSE checked_at END",
    "UPDATE runs SET requested_at = requested_at + $1 WHERE phase <> 'ended'",
    "UPDATE named_version_files SET at = at + $1",
    "UPDATE files SET absent_since = absent_since + $1, withdrawal_due = CASE \
     WHEN withdrawal_due > 0 THEN withdrawal_due + $1 ELSE 0 END WHERE absence IS NOT NULL",
    "UPDATE watches SET scanned_at = scanned_at + $1, new_files_since = new_files_since + $1",
];

/// The same for pauses, unless their times are those of a server.
const PAUSES_FOLLOW: &str =
    "UPDATE pauses SET until = until + $1, since = since + $1 WHERE since > 0";

/// What a start corrects: times that were taken from a clock that was ahead of `$1` by more than [`SLACK`] (`$2`).
const CORRECT: [&str; 8] = [
    "UPDATE jobs SET due_at = $1, pause = 0 WHERE due_at - pause > $2",
    "UPDATE jobs SET enqueued_at = $1 WHERE enqueued_at > $2",
    "UPDATE jobs SET stage_at = $1 WHERE stage_at > $2",
    "UPDATE jobs SET failing_since = $1 WHERE failing_since > $2",
    "UPDATE watches SET backoff_until = 0, backoff_since = 0, backoff_reason = NULL \
     WHERE backoff_since > $2",
    "UPDATE connections SET moved_at = $1 WHERE moved_at > $2",
    "UPDATE watches SET sync_requested_at = $1 WHERE sync_requested_at > $2",
    "UPDATE named_version_files SET at = $1 WHERE at > $2",
];

impl Ledger {
    /// The clock has jumped by `jump`: everything that is planned moves with it.
    pub async fn follow_clock(&self, jump: SignedDuration) -> Result<(), Error> {
        let jump = i64::try_from(jump.as_millis()).unwrap_or(0);
        self.db
            .write("move its times with the clock", async |tx| {
                for sql in FOLLOW {
                    sql::query(sql).bind(jump).execute(tx).await?;
                }
                if !tx.is_shared() {
                    sql::query(PAUSES_FOLLOW).bind(jump).execute(tx).await?;
                }
                Ok(())
            })
            .await
    }

    /// Corrects what a clock that was ahead has left, and returns how many rows that were.
    pub async fn correct_times(&self, now: Timestamp) -> Result<u64, Error> {
        self.db
            .write("correct times that are ahead of the clock", async |tx| {
                let mut corrected = 0;
                for sql in CORRECT {
                    corrected += sql::query(sql)
                        .bind(millis(now))
                        .bind(millis(now).saturating_add(SLACK))
                        .execute(tx)
                        .await?;
                }
                Ok(corrected)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::fixture::*;
    use super::super::*;

    /// The clock of a job that was put off by `at(0)` plus a minute, or the like, then jumps.
    const JUMPS: [i64; 6] = [-400 * 86_400, -86_400, -3_600, -90, 86_400, 400 * 86_400];

    fn transient(again: Again) -> Refusal {
        Refusal {
            kind: FailureKind::Transient,
            reason: "no answer".to_owned(),
            hint: None,
            again,
        }
    }

    #[tokio::test]
    async fn whatever_the_clock_was_no_upload_waits_longer_than_its_own_pause() {
        for again in [
            Again::At(at(60)),
            Again::BusyUntil(at(60)),
            Again::FailedUntil(at(60)),
        ] {
            for jump in JUMPS {
                let f = Fixture::new().await;
                f.hand_over("a.dgn", 1, 0).await;
                let job = f.claim(0).await.unwrap();
                f.ledger
                    .put_off(&job, &transient(again), at(0))
                    .await
                    .unwrap();
                assert!(f.claim(59).await.is_none(), "{again:?}");
                // The jump was not noticed.
                let claimed = f.claim(jump + 60).await;
                assert!(claimed.is_some(), "{again:?}, the clock jumped by {jump} s");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_was_handed_over_or_stored_before_the_clock_was_set_back_does_not_wait() {
        for jump in JUMPS {
            let f = Fixture::new().await;
            f.hand_over("a.dgn", 1, 0).await;
            let job = f.claim(jump).await.unwrap();
            f.store(&job, 1, 0).await;
            let now = at(jump);
            let backlog = f.ledger.backlog(&"imodel".into(), now).await.unwrap();
            assert_eq!(backlog.waiting, 1, "{jump}");
            assert_eq!(f.batch(jump).await.len(), 1, "{jump}");
            let summary = f.ledger.summary(now).await.unwrap();
            assert_eq!((summary.pending, summary.later), (1, 0), "{jump}");
            let run = f.begin_run(jump).await;
            assert_eq!(f.ledger.run_size(run).await.unwrap(), 1, "{jump}");
        }
    }

    #[tokio::test]
    async fn whatever_the_clock_was_a_watch_backs_off_no_longer_than_was_meant_but_a_pause_stays() {
        for jump in JUMPS {
            let f = Fixture::new().await;
            f.hand_over("a.dgn", 1, 0).await;
            let backoff = f.ledger.back_off_watch(f.watch, at(60), "hangs", at(0));
            backoff.await.unwrap();
            assert!(f.claim(59).await.is_none());
            let job = f.claim(jump + 60).await;
            f.ledger.unclaim(&job.unwrap()).await.unwrap();
            // A backoff by the present clock replaces the void one.
            let backoff = f
                .ledger
                .back_off_watch(f.watch, at(jump + 20), "hangs", at(jump));
            backoff.await.unwrap();
            if jump < 0 {
                assert!(f.claim(jump + 10).await.is_none(), "{jump}");
            }
            let names = ["north".to_owned()];
            f.ledger.pause_watches(&names, at(0)).await.unwrap();
            assert!(f.claim(jump).await.is_none(), "{jump}: it is paused");
        }
    }

    #[tokio::test]
    async fn a_jump_that_is_noticed_moves_every_pause_with_it() {
        for jump in JUMPS {
            let f = Fixture::new().await;
            f.hand_over("a.dgn", 1, 0).await;
            f.hand_over("b.dgn", 1, 0).await;
            let job = f.claim(0).await.unwrap();
            let again = transient(Again::At(at(60)));
            f.ledger.put_off(&job, &again, at(0)).await.unwrap();
            let backoff = f.ledger.back_off_watch(f.watch, at(30), "hangs", at(0));
            backoff.await.unwrap();
            let moved = SignedDuration::from_secs(jump);
            f.ledger.follow_clock(moved).await.unwrap();
            assert!(f.claim(jump + 29).await.is_none(), "{jump}");
            assert_eq!(f.claim(jump + 30).await.unwrap().path, Path::new("b.dgn"));
            assert!(f.claim(jump + 59).await.is_none(), "{jump}");
            let job = f.claim(jump + 60).await.unwrap();
            assert_eq!(job.failing_since, Some(at(jump)));
        }
    }

    #[tokio::test]
    async fn what_a_clock_that_was_ahead_has_left_is_corrected_once() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        let again = transient(Again::At(at(60)));
        f.ledger.put_off(&job, &again, at(0)).await.unwrap();
        assert_eq!(f.ledger.correct_times(at(30)).await.unwrap(), 0);
        let now = at(-86_400);
        assert!(f.ledger.correct_times(now).await.unwrap() > 0);
        assert_eq!(f.ledger.correct_times(now).await.unwrap(), 0);
        let job = f.claim(-86_400).await.unwrap();
        assert_eq!(job.failing_since, Some(now));
    }

    #[tokio::test]
    async fn the_search_for_times_that_are_ahead_of_the_clock_reads_no_other_job() {
        let f = Fixture::on_sqlite().await;
        let plan: Vec<(i64, i64, i64, String)> = sql::query_as(
            "EXPLAIN QUERY PLAN SELECT j.file_id, j.due_at FROM jobs j \
         JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
         WHERE j.due_at - j.pause > 1 + 5000 AND COALESCE(j.state, '') IN ('due', 'failed') \
         AND w.configured = 1 AND w.paused_at IS NULL AND w.bulk_change_files = 0 \
         AND (w.backoff_until <= 1 OR w.backoff_since > 1 + 5000) AND f.size <= 10 LIMIT 1",
        )
        .fetch_all(&mut f.ledger.db.connection().await)
        .await
        .unwrap();
        let plan: Vec<String> = plan.into_iter().map(|row| row.3).collect();
        assert!(plan[0].contains("USING INDEX jobs_set"), "{plan:#?}");
        assert!(plan.iter().all(|step| !step.contains("SCAN")), "{plan:#?}");
    }
}
