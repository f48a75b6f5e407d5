//! What the service needs to know of the ledger all the time: how things stand, in a line, and that it moves.

use jiff::Timestamp;

use super::watches::RETIRED;
use super::{During as _, Error, Ledger, RootState, Summary, millis, timestamp};

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Configured watches by name, and how their roots were found last.
    pub roots: Vec<(String, RootState)>,
    /// The open jobs.
    pub jobs: Summary,
    /// The end of the last run that has ended, and the platform's word for its result.
    pub last_run: Option<(Timestamp, Option<String>)>,
}

impl Ledger {
    /// How things stand; jobs whose next attempt is due before `soon` are pending.
    pub async fn standing(&self, soon: Timestamp) -> Result<Standing, Error> {
        const ACTION: &str = "be read for the status line";
        let roots: Vec<(String, String)> = sqlx::query_as(
            "SELECT name, root_state FROM watches WHERE held_until < $1 ORDER BY name",
        )
        .bind(millis(RETIRED))
        .fetch_all(&self.reads)
        .await
        .during(ACTION)?;
        let roots = roots
            .into_iter()
            .map(|(name, word)| Ok((name, RootState::try_from(word)?)))
            .collect::<Result<_, super::state::UnknownWord>>()
            .map_err(|error| Error::Database {
                action: ACTION,
                source: Box::new(error),
            })?;
        let last_run: Option<(i64, Option<String>)> = sqlx::query_as(
            "SELECT ended_at, result FROM runs WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1",
        )
        .fetch_optional(&self.reads)
        .await
        .during(ACTION)?;
        Ok(Standing {
            roots,
            jobs: self.summary(soon).await?,
            last_run: last_run.map(|(ended_at, result)| (timestamp(ended_at), result)),
        })
    }

    /// Comes back when the ledger takes changes: begins one that changes nothing, and takes it back.
    pub async fn prove_alive(&self) -> Result<(), Error> {
        const ACTION: &str = "take a change";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        // No row, but the lock of a writer.
        sqlx::query("UPDATE watches SET name = name WHERE id IS NULL")
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        tx.rollback().await.during(ACTION)
    }
}
