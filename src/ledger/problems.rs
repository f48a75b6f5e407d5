//! What alerts are about: files with a failure that is not over, and what was already sent.

use std::path::PathBuf;

use jiff::Timestamp;

use super::row::join;
use super::watch_reports::watches;
use super::{Error, FailureKind, FileId, Ledger, WatchReport, count_value, sql};

/// A file that failed.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The file.
    pub file: FileId,
    /// Its newest version.
    pub version: i64,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// Why it failed.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind of failure it is; None for a file that is synchronized with issues.
    pub kind: Option<FailureKind>,
}

sql::row! {
    struct ProblemRow {
        id: FileId,
        version: i64,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        reason: String,
        hint: Option<String>,
        kind: Option<FailureKind>,
        failed: bool,
    }
}

impl ProblemRow {
    fn into_problem(self) -> Problem {
        // While it is tried again the kind is not known; it has failed nevertheless.
        Problem {
            kind: self
                .failed
                .then(|| self.kind.unwrap_or(FailureKind::Transient)),
            file: self.id,
            version: self.version,
            watch: self.watch,
            path: join(self.dir, self.name),
            reason: self.reason,
            hint: self.hint,
        }
    }
}

impl Ledger {
    /// Watches of the configuration without their counts, files whose failure was written down and that have not got
    /// over it, even while they are tried again, and how many such files there are in all.
    pub async fn problems(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<(Vec<WatchReport>, Vec<Problem>, u64), Error> {
        self.db
            .read_at_once("report failed files", async |tx| {
                let watches = watches(tx, now).await?.into_iter();
                let watches = watches
                    .map(|(_, watch)| watch)
                    .filter(|watch| watch.configured);
                let mut rows: Vec<ProblemRow> = sql::query_as(
                    "SELECT f.id AS id, f.version, w.name AS watch, f.dir, f.name, \
                     j.reported AS reason, j.hint, j.kind, 1 AS failed FROM jobs j CROSS \
                     JOIN files f CROSS JOIN watches w WHERE f.id = j.file_id \
                     AND w.id = f.watch_id AND j.reported IS NOT NULL AND w.configured = 1 \
                     ORDER BY j.failing_since, j.file_id LIMIT $1",
                )
                .bind(i64::from(limit))
                .fetch_all(tx)
                .await?;
                let left = limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
                // The word is in the text of the query because the index is for this word.
                let with_issues: Vec<ProblemRow> = sql::query_as(
                    "SELECT f.id, f.version, w.name AS watch, f.dir, f.name, COALESCE(r.reason, \
             '') AS reason, r.hint, NULL AS kind, 0 AS failed FROM files f CROSS JOIN watches w \
             LEFT JOIN results r ON r.id = (SELECT MAX(id) FROM results WHERE file_id = f.id \
             AND outcome = 'synchronized_with_issues') WHERE w.id = f.watch_id \
             AND f.outcome = 'synchronized_with_issues' AND f.absence IS NULL \
             AND w.configured = 1 AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.file_id = f.id) \
             ORDER BY f.outcome_at, f.id LIMIT $1",
                )
                .bind(i64::from(left))
                .fetch_all(tx)
                .await?;
                rows.extend(with_issues);
                let all: i64 = sql::query_scalar(
            "SELECT CAST(COALESCE(SUM(c.files), 0) AS BIGINT) FROM counts c JOIN watches w ON w.id = c.watch_id \
             WHERE c.reported = 1 AND w.configured = 1",
        )
        .fetch_one(tx)
        .await?;
                let problems = rows.into_iter().map(ProblemRow::into_problem).collect();
                Ok((watches.collect(), problems, count_value(all)))
            })
            .await
    }

    /// What an alert has kept.
    pub async fn alert_memo(&self, name: &str) -> Result<Option<String>, Error> {
        self.db
            .read("look up a sent alert", async |db| {
                sql::query_scalar("SELECT memo FROM alerts WHERE name = $1")
                    .bind(name)
                    .fetch_optional(db)
                    .await
            })
            .await
    }

    /// Keeps something for an alert.
    pub async fn keep_alert_memo(&self, name: &str, memo: &str) -> Result<(), Error> {
        self.db
            .write("record a sent alert", async |tx| {
                sql::query(
                    "INSERT INTO alerts (name, memo) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE \
             SET memo = excluded.memo",
                )
                .bind(name)
                .bind(memo)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}
