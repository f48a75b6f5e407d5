//! Failed attempts: when the job is tried again, and what is recorded of the failure.
use jiff::Timestamp;

use super::clock::pause;
use super::failure_groups::{GroupedFailure, group};
use super::history::{Step, note};
use super::results::{NewResult, insert_result};
use super::row::join;
use super::{FailureKind, JobState, Outcome, RunId, Tx, millis, sql};

/// Why an attempt did not succeed and what comes next.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What failed and why, in one sentence.
    pub reason: String,
    /// What the reader can do, when there is something specific.
    pub hint: Option<String>,
    /// When to try again.
    pub again: Again,
}

/// When a job that was refused is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The file cannot be read now; not an attempt that counts.
    BusyUntil(Timestamp),
    /// At this time, as the next attempt.
    At(Timestamp),
    /// It counts as failed, but is tried again at this time in case the cause was fixed elsewhere.
    FailedUntil(Timestamp),
    /// Not before the file or the configuration changes, or the operator asks for it.
    Never,
}

sql::row! {
    /// A job before its failure.
    #[derive(Default)]
    struct Before {
        version: i64,
        reason: Option<String>,
        run: Option<RunId>,
        dir: Vec<u8>,
        name: Vec<u8>,
    }
}

/// Writes a refusal into a job. `waiting` is the state in which it waits for another attempt.
pub(super) async fn refuse(
    tx: &mut Tx,
    file_id: i64,
    waiting: JobState,
    refusal: &Refusal,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (state, due_at, counts) = match refusal.again {
        Again::BusyUntil(at) => (waiting, Some(at), 0),
        Again::At(at) => (waiting, Some(at), 1),
        Again::FailedUntil(at) => (JobState::Failed, Some(at), 1),
        Again::Never => (JobState::Failed, None, 1),
    };
    let before: Option<Before> = sql::query_as(
        "SELECT j.version, COALESCE(j.reason, j.previous_reason) AS reason, \
         j.run_id AS run, f.dir, f.name FROM jobs j JOIN files f ON f.id = j.file_id \
         WHERE j.file_id = $1",
    )
    .bind(file_id)
    .fetch_optional(tx)
    .await?;
    let Before {
        version,
        reason: last_reason,
        run,
        dir,
        name,
    } = before.unwrap_or_default();
    sql::query(
        "UPDATE jobs SET state = $2, due_at = $3, attempts = attempts + $4, run_id = NULL, \
         failing_since = CASE WHEN $4 = 0 THEN failing_since ELSE COALESCE(failing_since, $5) \
         END, kind = $6, reason = $7, hint = $8, pause = $9 WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(state)
    .bind(due_at.map(millis))
    .bind(counts)
    .bind(millis(now))
    .bind(refusal.kind)
    .bind(&refusal.reason)
    .bind(&refusal.hint)
    .bind(due_at.map_or(0, |at| pause(now, at)))
    .execute(tx)
    .await?;
    let failure = GroupedFailure {
        kind: refusal.kind,
        reason: &refusal.reason,
        hint: refusal.hint.as_deref(),
        path: &join(dir, name),
        at: millis(now),
    };
    group(tx, file_id, &failure).await?;
    if state == JobState::Failed {
        report_failure(tx, file_id, waiting, refusal, run, now).await?;
    } else if last_reason.as_ref() != Some(&refusal.reason) {
        note(
            tx,
            file_id,
            version,
            Step::PutOff,
            Some(&refusal.reason),
            now,
        )
        .await?;
    }
    Ok(())
}

/// Writes a failure into the history, once for each reason.
async fn report_failure(
    tx: &mut Tx,
    file_id: i64,
    waiting: JobState,
    refusal: &Refusal,
    run: Option<RunId>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if waiting == JobState::Stored {
        sql::query("UPDATE files SET outcome = 'failed', outcome_at = $2 WHERE id = $1")
            .bind(file_id)
            .bind(millis(now))
            .execute(tx)
            .await?;
    }
    let is_new_reason = sql::query(
        "UPDATE jobs SET reported = $2 WHERE file_id = $1 AND (reported IS NULL \
         OR reported <> $2)",
    )
    .bind(file_id)
    .bind(&refusal.reason)
    .execute(tx)
    .await?
        > 0;
    if is_new_reason {
        let result = NewResult {
            run,
            reason: Some(&refusal.reason),
            hint: refusal.hint.as_deref(),
            issues: None,
        };
        insert_result(tx, file_id, Outcome::Failed, result, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_job_that_was_put_off_is_claimed_at_its_time_also_after_a_restart() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        f.ledger
            .put_off(&job, &refusal(Again::At(at(60))), at(1))
            .await
            .unwrap();
        let f = f.restart().await;
        assert!(f.claim(59).await.is_none());
        assert_eq!(f.ledger.next_upload_due(at(1)).await.unwrap(), Some(at(60)));
        let job = f.claim(60).await.unwrap();
        assert_eq!((job.attempt, job.failing_since), (2, Some(at(1))));
    }

    #[tokio::test]
    async fn looking_again_at_a_busy_file_is_no_attempt() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        for second in 0..5 {
            let job = f.claim(second).await.unwrap();
            assert_eq!((job.attempt, job.failing_since), (1, None));
            f.ledger
                .put_off(&job, &refusal(Again::BusyUntil(at(second + 1))), at(second))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_final_failure_stays_until_the_file_changes() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        f.ledger
            .put_off(&job, &refusal(Again::Never), at(1))
            .await
            .unwrap();
        let f = f.restart().await;
        assert!(f.claim(1_000_000).await.is_none());
        let file = f.file("a.dgn").await;
        assert_eq!(
            (file.job, file.outcome, file.reason.as_deref()),
            (Some(JobState::Failed), Some(Outcome::Failed), Some("no"))
        );
        f.hand_over("a.dgn", 2, 5).await;
        assert_eq!(f.claim(5).await.unwrap().attempt, 1);
    }

    #[tokio::test]
    async fn a_start_tries_again_what_the_operator_may_have_corrected_and_a_command_that_opens_the_ledger_does_not()
     {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        let blocked = Refusal {
            kind: FailureKind::Blocked,
            ..refusal(Again::FailedUntil(at(1000)))
        };
        f.ledger.put_off(&job, &blocked, at(1)).await.unwrap();
        let f = f.restart().await;
        assert_eq!(f.file("a.dgn").await.job, Some(JobState::Failed));
        assert!(f.claim(2).await.is_none());
        f.ledger.retry_corrected().await.unwrap();
        assert!(f.claim(2).await.is_some());
    }

    #[tokio::test]
    async fn a_failure_that_is_tried_slowly_is_reported_once_for_each_reason() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        for (second, reason) in [(0, "no access"), (10, "no access"), (20, "not found")] {
            let job = f.claim(second).await.unwrap();
            let refusal = Refusal {
                reason: reason.to_owned(),
                ..refusal(Again::FailedUntil(at(second + 10)))
            };
            f.ledger.put_off(&job, &refusal, at(second)).await.unwrap();
        }
        assert_eq!(
            f.ledger.results_since(at(0)).await.unwrap(),
            vec![(Outcome::Failed, 2)]
        );
    }
}
