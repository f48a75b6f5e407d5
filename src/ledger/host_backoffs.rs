//! Backoffs that hosts asked for with `Retry-After`: they outlast a restart, and count for all processes that share the
//! ledger.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::clock::SLACK;
use super::database::SERVER_TIME;
use super::{Error, Ledger, millis, sql};

impl Ledger {
    /// Hosts that get no requests, and until when: no longer than each asked for, whatever the clock was then.
    pub async fn pauses(&self, now: Timestamp) -> Result<Vec<(String, Timestamp)>, Error> {
        // Processes that share the ledger use its server's clock.
        let time = if self.is_shared() {
            SERVER_TIME.to_owned()
        } else {
            millis(now).to_string()
        };
        let sql = format!(
            "SELECT host, until - CASE WHEN since > t.now + {SLACK} THEN since ELSE t.now END \
             FROM pauses, (SELECT {time} AS now) AS t"
        );
        let rows: Vec<(String, i64)> = self
            .db
            .read("look up the pauses of hosts", async move |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(db).await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(host, rest)| {
                let until = now.checked_add(SignedDuration::from_millis(rest));
                (host, until.unwrap_or(now))
            })
            .collect())
    }

    /// Replaces what is known of pauses; those that other processes have recorded remain.
    pub async fn record_pauses(
        &self,
        pauses: &[(String, Timestamp)],
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(shared) = self.db.shared_requests() {
            let rest = |until: Timestamp| Duration::try_from(until.duration_since(now)).ok();
            let pauses = pauses.iter();
            let pauses: Vec<_> = pauses
                .filter_map(|(host, until)| Some((host.clone(), rest(*until)?)))
                .collect();
            return shared.pause(&pauses).await;
        }
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
        // The server's clock has not changed.
        if f.ledger.is_shared() {
            let pauses = f.ledger.pauses(at(10)).await.unwrap();
            assert!(at(10) < pauses[0].1 && pauses[0].1 <= at(70), "{pauses:?}");
            return;
        }
        for (now, until) in [(10, 60), (100, 60), (-86_400, -86_400 + 60)] {
            let pauses = f.ledger.pauses(at(now)).await.unwrap();
            assert_eq!(pauses, [("host".to_owned(), at(until))], "at {now}");
        }
    }
}
