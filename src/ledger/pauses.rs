//! Pauses that hosts asked for: a restart must not forget them.

use jiff::Timestamp;

use super::{During as _, Error, Ledger, millis, timestamp};

impl Ledger {
    /// Hosts that are to be left alone, and until when.
    pub async fn pauses(&self) -> Result<Vec<(String, Timestamp)>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as("SELECT host, until FROM pauses")
            .fetch_all(&self.reads)
            .await
            .during("look up the pauses of hosts")?;
        Ok(rows
            .into_iter()
            .map(|(host, until)| (host, timestamp(until)))
            .collect())
    }

    /// Replaces what is known of pauses.
    pub async fn record_pauses(&self, pauses: &[(String, Timestamp)]) -> Result<(), Error> {
        const ACTION: &str = "record the pauses of hosts";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("DELETE FROM pauses")
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        for (host, until) in pauses {
            sqlx::query("INSERT INTO pauses (host, until) VALUES ($1, $2)")
                .bind(host)
                .bind(millis(*until))
                .execute(&mut *tx)
                .await
                .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }
}
