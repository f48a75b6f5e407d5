//! What keeps the jobs of a watch from being claimed: a pause by the operator, the bulk change guard, or a cause that
//! concerns the whole watch and passes.

use jiff::Timestamp;

use super::{Error, Ledger, WatchId, millis};

/// A hold without end: the watch is not configured any more.
pub(super) const RETIRED: Timestamp = Timestamp::MAX;

/// A hold until a person ends it; the watch is configured, so its jobs count as open.
pub(super) const BRAKED: Timestamp = Timestamp::constant(253_402_200_000, 0);

/// A hold until the person who paused the watch ends it.
pub(super) const PAUSED: Timestamp = Timestamp::constant(253_402_203_600, 0);

/// What status says of a paused watch.
pub(super) const PAUSE_REASON: &str = "a person paused it; `itwin-syncd resume` lets it go on";

impl Ledger {
    /// Keeps all jobs of a watch from being claimed until `until`, for a cause that concerns the whole watch.
    /// A longer hold stays as it is.
    pub async fn hold_watch(
        &self,
        watch: WatchId,
        until: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("hold a watch", async |tx| {
                sqlx::query(
                    "UPDATE watches SET held_until = $2, held_reason = $3, held_since = $4 \
             WHERE id = $1 AND (held_until < $2 OR held_since > $4 + 5000)",
                )
                .bind(watch.0)
                .bind(millis(until))
                .bind(reason)
                .bind(millis(now))
                .execute(&mut **tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Ends a hold that [`Ledger::hold_watch`] began for this reason, unless the watch is held for another one by now.
    pub async fn end_hold(&self, watch: WatchId, reason: &str) -> Result<(), Error> {
        self.db.write("end the hold of a watch", async |tx| { sqlx::query(
            "UPDATE watches SET held_until = 0, held_since = 0, held_reason = NULL WHERE id = $1 AND held_reason = $2",
        )
        .bind(watch.0)
        .bind(reason)
        .execute(&mut **tx).await }).await?;
        Ok(())
    }

    /// Holds watches until [`Ledger::resume_watches`]: none of their jobs is claimed, over restarts too. What is in hand
    /// goes on to its end. Returns how many were not paused before; unknown names count for nothing.
    pub async fn pause_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        self.db.write_durably("pause watches", async |tx| {
        let mut paused = 0;
        for name in names {
            paused += sqlx::query(
                "UPDATE watches SET paused_at = $2, held_until = $3, held_since = 0, held_reason = $4 \
                 WHERE name = $1 AND paused_at IS NULL AND held_until < $5",
            )
            .bind(name)
            .bind(millis(now))
            .bind(millis(PAUSED))
            .bind(PAUSE_REASON)
            .bind(millis(RETIRED))
            .execute(&mut **tx)
            .await?
            .rows_affected();
        }
        Ok(paused)
        }).await
    }

    /// Lets watches go on, whatever held them: a pause, the brake (so many files are agreed to then), or a pause
    /// after refused credentials. Returns how many were held.
    pub async fn resume_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        self.db.write_durably("let watches go on", async |tx| {
        let mut resumed = 0;
        for name in names {
            resumed += sqlx::query(
                "UPDATE watches SET paused_at = NULL, agreed = CASE WHEN braked > 0 THEN braked ELSE agreed END, \
                 braked = 0, held_until = 0, held_since = 0, held_reason = NULL \
                 WHERE name = $1 AND held_until > $2 AND held_until < $3",
            )
            .bind(name)
            .bind(millis(now))
            .bind(millis(RETIRED))
            .execute(&mut **tx)
            .await?
            .rows_affected();
        }
        Ok(resumed)
        }).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_held_watch_holds_up_no_other() {
        let f = Fixture::new().await;
        let ids = f
            .ledger
            .register_watches(&[spec("north"), spec("south")], at(0))
            .await
            .unwrap();
        f.ledger
            .hand_over(ids[0].0, &[ready("n.dgn", 1)], at(0))
            .await
            .unwrap();
        f.ledger
            .hand_over(ids[1].0, &[ready("s.dgn", 1)], at(1))
            .await
            .unwrap();
        f.ledger
            .hold_watch(ids[0].0, at(100), "hangs", at(1))
            .await
            .unwrap();
        assert_eq!(f.claim(2).await.unwrap().path, Path::new("s.dgn"));
        assert!(f.claim(99).await.is_none());
        assert_eq!(
            f.ledger.next_upload_due(at(2)).await.unwrap(),
            Some(at(100))
        );
        assert_eq!(f.claim(100).await.unwrap().path, Path::new("n.dgn"));
    }
}
