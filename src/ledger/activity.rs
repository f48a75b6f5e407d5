//! What happened within a span of time: how many results of each kind and how many runs, with their durations.
//!
//! The id of a row begins with the time of its creation, or a later one: after the clock was set back, ids continue
//! from the highest. So rows before a time are left out by their ids, and the rest counts by its time.

use jiff::Timestamp;

use super::row::{first_id, millis};
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

sql::row! {
    struct ResultsRow {
        span: i64,
        outcome: Outcome,
        count: i64,
        sum: i64,
        longest: i64,
    }
}

sql::row! {
    struct RunsRow {
        span: i64,
        count: i64,
        unsuccessful: i64,
        average: Option<i64>,
        longest: Option<i64>,
    }
}

/// Which of the spans between these times a time column is in, from 0: an expression of SQL.
fn span_of(column: &str, bounds: &[Timestamp]) -> String {
    let ends = bounds.iter().skip(1).enumerate();
    let cases: Vec<String> = ends
        .map(|(span, end)| format!("WHEN {column} < {} THEN {span}", millis(*end)))
        .collect();
    format!("CASE {} END", cases.join(" "))
}

impl Ledger {
    /// What was written in each of the spans between these times, which rise: from one on and before the next.
    pub async fn activity(&self, bounds: &[Timestamp]) -> Result<Vec<Activity>, Error> {
        let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else {
            return Ok(Vec::new());
        };
        let results = format!(
            "SELECT CAST({} AS BIGINT) AS span, outcome, COUNT(*) AS count, CAST(SUM(millis) AS BIGINT) AS sum, MAX(millis) AS longest \
             FROM results WHERE id >= $1 AND at >= $2 AND at < $3 GROUP BY span, outcome ORDER BY span, outcome",
            span_of("at", bounds)
        );
        let runs = format!(
            "SELECT span, COUNT(*) AS count, COUNT(CASE WHEN lower(COALESCE(result, '')) <> 'success' THEN 1 END) \
             AS unsuccessful, CAST(AVG(took) AS BIGINT) AS average, MAX(took) AS longest FROM (SELECT CAST({} AS BIGINT) AS span, result, \
             CASE WHEN ended_at > requested_at THEN ended_at - requested_at ELSE 0 END AS took FROM runs \
             WHERE id >= $1 AND requested_at >= $2 AND requested_at < $3 AND ended_at IS NOT NULL) AS ended GROUP BY span",
            span_of("requested_at", bounds)
        );
        let (results, runs): (Vec<ResultsRow>, Vec<RunsRow>) = self
            .db
            .read_at_once("report results and runs", async |tx| {
                let results = sql::query_as(sqlx::AssertSqlSafe(results))
                    .bind(first_id(*first))
                    .bind(millis(*first))
                    .bind(millis(*last))
                    .fetch_all(tx)
                    .await?;
                let runs = sql::query_as(sqlx::AssertSqlSafe(runs))
                    .bind(first_id(*first))
                    .bind(millis(*first))
                    .bind(millis(*last))
                    .fetch_all(tx)
                    .await?;
                Ok((results, runs))
            })
            .await?;
        let spans = (0..).take(bounds.len() - 1);
        Ok(spans
            .map(|span: i64| {
                let results = results.iter().filter(|row| row.span == span);
                let runs = runs.iter().find(|row| row.span == span);
                of_span(results, runs)
            })
            .collect())
    }
}

fn of_span<'r>(results: impl Iterator<Item = &'r ResultsRow>, runs: Option<&RunsRow>) -> Activity {
    let mut activity = Activity::default();
    let (mut count, mut sum, mut longest) = (0_i64, 0_i64, None);
    for row in results {
        activity.results.push((row.outcome, count_value(row.count)));
        if WORKED.contains(&row.outcome) {
            count += row.count;
            sum = sum.saturating_add(row.sum);
            longest = longest.max(Some(row.longest));
        }
    }
    activity.files = durations(sum.checked_div(count), longest);
    if let Some(runs) = runs {
        activity.runs = count_value(runs.count);
        activity.unsuccessful_runs = count_value(runs.unsuccessful);
        activity.run_durations = durations(runs.average, runs.longest);
    }
    activity
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
        let bounds = [at(100), at(200), at(300), at(400)];
        let activity = f.ledger.activity(&bounds).await.unwrap();
        let one_failed = Activity {
            results: vec![(Outcome::Failed, 1)],
            ..Activity::default()
        };
        assert_eq!(
            activity,
            [one_failed.clone(), one_failed, Activity::default()]
        );
        assert_eq!(f.ledger.activity(&[]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn results_count_by_their_time_after_the_clock_was_ahead() {
        let f = Fixture::new().await;
        let fail = async |name: &str, second: i64| {
            f.hand_over(name, 1, second).await;
            let job = f.claim(second).await.unwrap();
            let refusal = refusal(Again::Never);
            f.ledger.put_off(&job, &refusal, at(second)).await.unwrap();
        };
        // A year ahead, and back: new ids continue from there.
        let (year, now) = (31_536_000, 2_000_000_000);
        fail("a.dgn", now + year).await;
        fail("b.dgn", now).await;
        let activity = f.ledger.activity(&[at(now), at(now + 60)]).await.unwrap();
        assert_eq!(activity[0].results, [(Outcome::Failed, 1)]);
    }
}
