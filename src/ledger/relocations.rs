//! Storage files that get another name or folder because the configuration of their watch changed.
//!
//! The record of a file says that its storage file has to follow; `upload` executes it in a job of the file. Files that
//! are in a run, or wait for one, get that job afterwards. Those that are gone get it when they are back.

use jiff::Timestamp;

use super::{Relocation, Tx, count_value, millis, sql};

/// SQL: gives files `f` that meet a condition on `$1`, and whose storage file has to follow, a job for that at `$2`,
/// unless they have one. Nothing can be done for a file that is not there.
macro_rules! queue {
    ($which:literal) => {
        concat!(
            "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at) \
             SELECT id, watch_id, 'due', version, $2, $2 FROM files f WHERE ",
            $which,
            " AND f.relocation IS NOT NULL AND f.storage_file_id IS NOT NULL AND f.known = 1 \
             AND COALESCE(f.absence, 'missing') = 'missing' AND NOT EXISTS (SELECT 1 FROM jobs j \
             WHERE j.file_id = f.id)"
        )
    };
}

/// The storage files of a watch have to move to its storage folder.
pub(super) async fn relocate_all(
    tx: &mut Tx,
    watch_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET relocation = COALESCE(relocation, $2) WHERE watch_id = $1 \
         AND storage_file_id IS NOT NULL",
    )
    .bind(watch_id)
    .bind(Relocation::Intended)
    .execute(tx)
    .await?;
    sql::query(
        "UPDATE jobs SET state = 'due', enqueued_at = $2, due_at = $2, pause = 0, attempts = 0, \
         run_attempts = 0, failing_since = NULL, kind = NULL, previous_reason = NULL, \
         reason = NULL, hint = NULL, reported = NULL, run_id = NULL WHERE watch_id = $1 AND state = 'failed' \
         AND EXISTS (SELECT 1 FROM files f WHERE f.id = file_id AND f.relocation IS NOT NULL)",
    )
    .bind(watch_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    sql::query(queue!("f.watch_id = $1"))
        .bind(watch_id)
        .bind(millis(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// The job of a file has ended: its storage file follows now, if it still has to.
pub(super) async fn relocate_next(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(queue!("f.id = $1"))
        .bind(file_id)
        .bind(millis(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// Files of a watch that are in storage.
pub(super) async fn count_stored(tx: &mut Tx, watch_id: i64) -> Result<u64, sqlx::Error> {
    let count: i64 = sql::query_scalar(
        "SELECT COUNT(*) FROM files WHERE watch_id = $1 AND storage_file_id IS NOT NULL",
    )
    .bind(watch_id)
    .fetch_one(tx)
    .await?;
    Ok(count_value(count))
}

/// Files of a watch whose storage files move with its storage folder: those that are gone stay until they are back.
pub(super) async fn count_moving(tx: &mut Tx, watch_id: i64) -> Result<u64, sqlx::Error> {
    let count: i64 = sql::query_scalar(
        "SELECT COUNT(*) FROM files WHERE watch_id = $1 AND storage_file_id IS NOT NULL \
         AND COALESCE(absence, 'missing') = 'missing'",
    )
    .bind(watch_id)
    .fetch_one(tx)
    .await?;
    Ok(count_value(count))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    /// The watch with another storage folder.
    fn elsewhere() -> WatchSpec {
        WatchSpec {
            storage_folder: "North".to_owned(),
            ..spec("north")
        }
    }

    #[tokio::test]
    async fn each_file_in_storage_moves_with_its_next_job_or_one_of_its_own() {
        let f = Fixture::new().await;
        f.synchronized("done.dgn").await;
        let run = f.running("running.dgn").await;
        f.stored("stored.dgn").await;
        f.hand_over("new.dgn", 1, 2).await;
        let registered = f.register(&elsewhere(), 5).await;
        let change = WatchChange::StorageFolder {
            from: String::new(),
            to: "North".to_owned(),
            files: 3,
        };
        assert_eq!(registered.changes, [change]);
        let states = async || {
            let mut states = Vec::new();
            for path in ["done.dgn", "running.dgn", "stored.dgn", "new.dgn"] {
                states.push(f.file(path).await.job);
            }
            states
        };
        let [due, stored, running] = [JobState::Due, JobState::Stored, JobState::Running].map(Some);
        assert_eq!(states().await, [due, running, stored, due]);
        f.finish_run(run, Verdict::Synchronized(None), 6).await;
        assert_eq!(states().await, [due, due, stored, due]);
        let mut relocations = Vec::new();
        while let Some(job) = f.claim(7).await {
            relocations.push((job.path.clone(), job.relocation.is_some()));
            if job.relocation.is_some() {
                let stamp = StorageStamp::default();
                f.ledger.record_relocation_sent(&job, false).await.unwrap();
                let done = f.ledger.finish_relocation(&job, &stamp, None, at(8));
                done.await.unwrap();
                f.ledger.finish_unchanged(&job, at(8)).await.unwrap();
            }
        }
        relocations.sort();
        let expected = [
            ("done.dgn", true),
            ("new.dgn", false),
            ("running.dgn", true),
        ];
        assert_eq!(
            relocations,
            expected.map(|(path, moves)| (PathBuf::from(path), moves))
        );
        assert_eq!(f.file("done.dgn").await.outcome, Some(Outcome::Unchanged));
    }

    #[tokio::test]
    async fn more_moves_than_the_bulk_change_limit_suspend_the_watch() {
        let f = Fixture::new().await;
        for path in ["a.dgn", "b.dgn", "c.dgn"] {
            f.synchronized(path).await;
        }
        let mut limited = elsewhere();
        limited.bulk_change_limits.changed_files = 2;
        let change = f.register(&limited, 5).await.bulk_change.unwrap();
        assert_eq!((change.files, change.moves, change.limit), (3, 3, 2));
        assert!(f.claim(6).await.is_none());
        // Nothing more to do, and still suspended.
        assert_eq!(f.register(&limited, 7).await.changes, []);
        assert!(f.claim(8).await.is_none());
        let north = ["north".to_owned()];
        let resumed = f.ledger.resume_watches(&north, at(9));
        assert_eq!(resumed.await.unwrap(), 1);
        assert!(f.claim(10).await.is_some());
    }
}
