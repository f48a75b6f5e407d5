//! What the service needs to know of the ledger all the time: the state of its jobs, and that it accepts changes.

use jiff::Timestamp;

use super::clock::{active, due};
use super::{Error, Ledger, RootState, count_value, millis, sql, timestamp};

/// The health of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Configured watches by name, and how their roots were found last.
    pub roots: Vec<(String, RootState)>,
    /// The open jobs.
    pub jobs: Summary,
    /// The end of the last run that has ended, and the platform's word for its result.
    pub last_run: Option<(Timestamp, Option<String>)>,
    /// Why nothing is uploaded or synchronized until a user signs in.
    pub sign_in_wait: Option<String>,
}

/// Sums over open jobs and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Jobs that are being worked on or will be within `soon`.
    pub pending: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs whose next attempt is later than that.
    pub later: u64,
}

impl Ledger {
    /// The health of the service; jobs whose next attempt is due before `soon` are pending.
    pub async fn health(&self, soon: Timestamp) -> Result<Health, Error> {
        const ACTION: &str = "be read for the status line";
        let roots: Vec<(String, RootState)> = self
            .db
            .read(ACTION, async |db| {
                sql::query_as(
                    "SELECT name, root_state FROM watches WHERE configured = 1 ORDER BY name",
                )
                .fetch_all(db)
                .await
            })
            .await?;
        let last_run: Option<(i64, Option<String>)> =
            self.db
                .read(ACTION, async |db| {
                    sql::query_as(
            "SELECT ended_at, result FROM runs WHERE ended_at IS NOT NULL ORDER BY id DESC \
             LIMIT 1",
        )
        .fetch_optional(db).await
                })
                .await?;
        let sign_in_wait = self
            .db
            .read(ACTION, async |db| {
                sql::query_scalar("SELECT reason FROM sign_in_wait LIMIT 1")
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(Health {
            roots,
            jobs: self.summary(soon).await?,
            last_run: last_run.map(|(ended_at, result)| (timestamp(ended_at), result)),
            sign_in_wait,
        })
    }

    /// Counts the open jobs of configured watches; those whose next attempt is due before `soon` are pending.
    pub async fn summary(&self, soon: Timestamp) -> Result<Summary, Error> {
        // The kept counts have all but the jobs that are not due yet, which an index finds.
        let (open, failed, inactive, not_due): (i64, i64, i64, i64) = self
            .db
            .read("count its jobs", async |db| {
                sql::query_as(concat!(
                    "SELECT CAST(COALESCE(SUM(CASE WHEN c.job <> 'failed' THEN c.files END), 0) AS BIGINT), \
                     CAST(COALESCE(SUM(CASE WHEN c.job = 'failed' THEN c.files END), 0) AS BIGINT), \
                     CAST(COALESCE(SUM(CASE WHEN c.job IN ('due', 'stored') AND NOT (",
                    active!("$1"),
                    ") THEN c.files END), 0) AS BIGINT), (SELECT COUNT(*) FROM watches w JOIN jobs j \
                     ON j.watch_id = w.id WHERE j.state IN ('due', 'stored') AND j.due_at > $1 AND NOT ",
                    due!("$1"),
                    " AND ",
                    active!("$1"),
                    ") FROM counts c JOIN watches w ON w.id = c.watch_id WHERE w.configured = 1 \
                     AND c.job <> ''",
                ))
                .bind(millis(soon))
                .fetch_one(db)
                .await
            })
            .await?;
        let later = inactive + not_due;
        let pending = open - later;
        Ok(Summary {
            pending: count_value(pending),
            failed: count_value(failed),
            later: count_value(later),
        })
    }

    /// Comes back when the ledger takes changes: begins one that changes nothing, and takes it back.
    pub async fn prove_alive(&self) -> Result<(), Error> {
        self.db.check_writable("accept a change").await
    }
}
