//! What happened within a span of time: how many results of each kind and how many runs, with their durations.
//!
//! Rows are found by their ids, which begin with the time of their creation, so a short span reads few rows.

use jiff::Timestamp;

use super::row::first_id;
use super::{Error, Ledger, Outcome, count_value, sql};

/// The results and runs of a span of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// How many results of each kind there are.
    pub results: Vec<(Outcome, u64)>,
    /// From detection to result, of files that were uploaded or synchronized.
    pub files: Option<Durations>,
    /// Runs that were requested and have ended.
    pub runs: u64,
    /// Those of them without the result Success.
    pub unsuccessful_runs: u64,
    /// From request to end.
    pub run_durations: Option<Durations>,
}

/// Durations in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durations {
    /// Their average.
    pub average: u64,
    /// The longest.
    pub longest: u64,
}

fn durations(average: Option<i64>, longest: Option<i64>) -> Option<Durations> {
    Some(Durations {
        average: count_value(average?),
        longest: count_value(longest?),
    })
}

/// Results that say how long the work on a file took; the others end before it.
const WORKED: [Outcome; 3] = [
    Outcome::Synchronized,
    Outcome::SynchronizedWithIssues,
    Outcome::Uploaded,
];

impl Ledger {
    /// What was written from `from` on and before `until`.
    pub async fn activity(&self, from: Timestamp, until: Timestamp) -> Result<Activity, Error> {
        type Results = Vec<(Outcome, i64, i64, i64)>;
        type Runs = (i64, i64, Option<i64>, Option<i64>);
        let (rows, runs): (Results, Runs) = self
            .db
            .read_at_once("report results and runs", async |tx| {
                let rows = sql::query_as(
                    "SELECT outcome, COUNT(*), CAST(SUM(millis) AS BIGINT), MAX(millis) FROM results \
                     WHERE id >= $1 AND id < $2 GROUP BY outcome ORDER BY outcome",
                )
                .bind(first_id(from))
                .bind(first_id(until))
                .fetch_all(tx)
                .await?;
                let runs = sql::query_as(
                    "SELECT COUNT(*), COUNT(CASE WHEN lower(COALESCE(result, '')) <> 'success' \
                     THEN 1 END), CAST(AVG(took) AS BIGINT), MAX(took) FROM (SELECT result, \
                     CASE WHEN ended_at > requested_at THEN ended_at - requested_at ELSE 0 END \
                     AS took FROM runs WHERE id >= $1 AND id < $2 AND ended_at IS NOT NULL) AS ended",
                )
                .bind(first_id(from))
                .bind(first_id(until))
                .fetch_one(tx)
                .await?;
                Ok((rows, runs))
            })
            .await?;
        let worked = rows.iter().filter(|row| WORKED.contains(&row.0));
        let (count, sum, longest) = worked.fold((0, 0_i64, None), |(count, sum, longest), row| {
            let (_, more, millis, most) = row;
            (
                count + more,
                sum.saturating_add(*millis),
                longest.max(Some(*most)),
            )
        });
        let (ended, unsuccessful, average, most) = runs;
        Ok(Activity {
            files: durations(sum.checked_div(count), longest),
            results: rows
                .into_iter()
                .map(|(outcome, count, ..)| (outcome, count_value(count)))
                .collect(),
            runs: count_value(ended),
            unsuccessful_runs: count_value(unsuccessful),
            run_durations: durations(average, most),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use super::Activity;

    #[tokio::test]
    async fn results_count_in_the_span_in_which_they_were_written() {
        let f = Fixture::new().await;
        // Ids rise within the process, so this is later than anything that another test writes.
        let at = |second| at(1_000_000_000 + second);
        for (name, begin) in [("a.dgn", 0), ("b.dgn", 100), ("c.dgn", 200)] {
            f.hand_over(name, 1, 1_000_000_000 + begin).await;
            let job = f.claim(1_000_000_000 + begin).await.unwrap();
            f.ledger
                .put_off(&job, &refusal(Again::Never), at(begin + 5))
                .await
                .unwrap();
        }
        let activity = f.ledger.activity(at(100), at(200)).await.unwrap();
        let one_failed = Activity {
            results: vec![(Outcome::Failed, 1)],
            ..Activity::default()
        };
        assert_eq!(activity, one_failed);
        let activity = f.ledger.activity(at(300), at(400)).await.unwrap();
        assert_eq!(activity, Activity::default());
    }
}
