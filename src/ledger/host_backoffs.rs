//! Pauses that hosts asked for: a restart must not forget them.

use jiff::Timestamp;

use super::clock::{is_ahead, pause};
use super::{During as _, Error, Ledger, millis, timestamp};

impl Ledger {
    /// Hosts that are to be left alone, and until when: no longer than each asked for, whatever the clock was then.
    pub async fn pauses(&self, now: Timestamp) -> Result<Vec<(String, Timestamp)>, Error> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as("SELECT host, until, since FROM pauses")
            .fetch_all(&self.reads)
            .await
            .during("look up the pauses of hosts")?;
        Ok(rows
            .into_iter()
            .map(|(host, until, since)| {
                let until = if is_ahead(since, now) {
                    millis(now).saturating_add(pause(timestamp(since), timestamp(until)))
                } else {
                    until
                };
                (host, timestamp(until))
            })
            .collect())
    }

    /// Replaces what is known of pauses.
    pub async fn record_pauses(
        &self,
        pauses: &[(String, Timestamp)],
        now: Timestamp,
    ) -> Result<(), Error> {
        const ACTION: &str = "record the pauses of hosts";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("DELETE FROM pauses")
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        for (host, until) in pauses {
            sqlx::query("INSERT INTO pauses (host, until, since) VALUES ($1, $2, $3)")
                .bind(host)
                .bind(millis(*until))
                .bind(millis(now))
                .execute(&mut *tx)
                .await
                .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }
}
