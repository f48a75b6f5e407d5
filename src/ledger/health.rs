//! What the service needs to know of the ledger all the time: how things stand, in a line, and that it moves.

use jiff::Timestamp;

use super::watches::RETIRED;
use super::{Error, Ledger, RootState, Summary, millis, timestamp};

/// The health of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Configured watches by name, and how their roots were found last.
    pub roots: Vec<(String, RootState)>,
    /// The open jobs.
    pub jobs: Summary,
    /// The end of the last run that has ended, and the platform's word for its result.
    pub last_run: Option<(Timestamp, Option<String>)>,
}

impl Ledger {
    /// The health of the service; jobs whose next attempt is due before `soon` are pending.
    pub async fn health(&self, soon: Timestamp) -> Result<Health, Error> {
        const ACTION: &str = "be read for the status line";
        let roots: Vec<(String, RootState)> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(
                    "SELECT name, root_state FROM watches WHERE held_until < $1 ORDER BY name",
                )
                .bind(millis(RETIRED))
                .fetch_all(db)
                .await
            })
            .await?;
        let last_run: Option<(i64, Option<String>)> = self
            .db
            .read(ACTION, async |db| {
                sqlx::query_as(
            "SELECT ended_at, result FROM runs WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1",
        )
        .fetch_optional(db).await
            })
            .await?;
        Ok(Health {
            roots,
            jobs: self.summary(soon).await?,
            last_run: last_run.map(|(ended_at, result)| (timestamp(ended_at), result)),
        })
    }

    /// Comes back when the ledger takes changes: begins one that changes nothing, and takes it back.
    pub async fn prove_alive(&self) -> Result<(), Error> {
        self.db.check_writable("accept a change").await
    }
}
