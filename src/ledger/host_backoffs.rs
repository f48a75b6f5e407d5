//! Backoffs that hosts asked for with `Retry-After`: they outlast a restart.

use jiff::Timestamp;

use super::clock::{is_ahead, pause};
use super::{Error, Ledger, millis, sql, timestamp};

impl Ledger {
    /// Hosts that get no requests, and until when: no longer than each asked for, whatever the clock was then.
    pub async fn pauses(&self, now: Timestamp) -> Result<Vec<(String, Timestamp)>, Error> {
        let rows: Vec<(String, i64, i64)> = self
            .db
            .read("look up the pauses of hosts", async |db| {
                sql::query_as("SELECT host, until, since FROM pauses")
                    .fetch_all(db)
                    .await
            })
            .await?;
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
        self.db
            .write_durably("record the pauses of hosts", async |tx| {
                sql::query("DELETE FROM pauses").execute(tx).await?;
                for (host, until) in pauses {
                    sql::query("INSERT INTO pauses (host, until, since) VALUES ($1, $2, $3)")
                        .bind(host)
                        .bind(millis(*until))
                        .bind(millis(now))
                        .execute(tx)
                        .await?;
                }
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;

    #[tokio::test]
    async fn a_host_backs_off_no_longer_than_it_asked_for() {
        let f = Fixture::new().await;
        let pause = ("host".to_owned(), at(60));
        f.ledger.record_pauses(&[pause], at(0)).await.unwrap();
        for (now, until) in [(10, 60), (100, 60), (-86_400, -86_400 + 60)] {
            let pauses = f.ledger.pauses(at(now)).await.unwrap();
            assert_eq!(pauses, [("host".to_owned(), at(until))], "at {now}");
        }
    }
}
