//! Stored times when the clock is wrong, or was.
//!
//! A time that was set by a clock that was ahead must not hold anything up. So each stored time has the moment at which
//! it was set beside it. If that moment has not come yet, the time is void and what waits for it is due. While the
//! service runs it notices a jump and moves all stored times by it, so that each pause keeps its length.

use jiff::{SignedDuration, Timestamp};

use super::{Error, Ledger, millis};

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

/// SQL: the watch `w` is not held at the time of a parameter.
macro_rules! free {
    ($now:literal) => {
        concat!(
            "(w.held_until <= ",
            $now,
            " OR w.held_since > ",
            $now,
            " + 5000)"
        )
    };
}

pub(super) use {due, free};

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
const FOLLOW: [&str; 6] = [
    "UPDATE jobs SET due_at = due_at + $1, enqueued_at = enqueued_at + $1, failing_since = failing_since + $1, \
     stage_at = CASE WHEN stage_at > 0 THEN stage_at + $1 ELSE stage_at END",
    "UPDATE watches SET held_until = held_until + $1, held_since = held_since + $1 WHERE held_since > 0",
    "UPDATE watches SET paused_at = paused_at + $1 WHERE paused_at IS NOT NULL",
    "UPDATE pauses SET until = until + $1, since = since + $1 WHERE since > 0",
    "UPDATE connections SET moved_at = CASE WHEN moved_at > 0 THEN moved_at + $1 ELSE moved_at END, \
     checked_at = CASE WHEN checked_at > 0 THEN checked_at + $1 ELSE checked_at END",
    "UPDATE runs SET requested_at = requested_at + $1 WHERE phase <> 'ended'",
];

/// What a start corrects: times that were taken from a clock that was ahead of `$1` by more than [`SLACK`] (`$2`).
const CORRECT: [&str; 6] = [
    "UPDATE jobs SET due_at = $1, pause = 0 WHERE due_at - pause > $2",
    "UPDATE jobs SET enqueued_at = $1 WHERE enqueued_at > $2",
    "UPDATE jobs SET stage_at = $1 WHERE stage_at > $2",
    "UPDATE jobs SET failing_since = $1 WHERE failing_since > $2",
    "UPDATE watches SET held_until = 0, held_since = 0, held_reason = NULL WHERE held_since > $2",
    "UPDATE connections SET moved_at = $1 WHERE moved_at > $2",
];

impl Ledger {
    /// The clock has jumped by `jump`: everything that is planned moves with it.
    pub async fn follow_clock(&self, jump: SignedDuration) -> Result<(), Error> {
        let jump = i64::try_from(jump.as_millis()).unwrap_or(0);
        self.db
            .write("move its times with the clock", async |tx| {
                for sql in FOLLOW {
                    sqlx::query(sql).bind(jump).execute(&mut **tx).await?;
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
                    corrected += sqlx::query(sql)
                        .bind(millis(now))
                        .bind(millis(now).saturating_add(SLACK))
                        .execute(&mut **tx)
                        .await?
                        .rows_affected();
                }
                Ok(corrected)
            })
            .await
    }
}
