//! Storage files that others deleted or changed: their content is uploaded, or compared, again.

use jiff::Timestamp;

use super::checkpoints::forget_storage_file;
use super::clock::pause;
use super::counterparts::{is_replaced, leader};
use super::history::{Step, note};
use super::stored_job::insert_stored_job;
use super::{ConnectionFile, Error, Ledger, Relocation, Tx, millis, sql};

impl Ledger {
    /// The storage file is gone: its content has to be uploaded again. The source file is kept, to be pointed at the
    /// new storage file.
    ///
    /// Not before `due`, so that a client that deletes it repeatedly does not keep us busy.
    pub async fn upload_again(
        &self,
        file: &ConnectionFile,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("send a file back to the upload", async |tx| {
                if is_current(tx, file).await? {
                    lost_in_storage(tx, file.file.0, due, now).await?;
                }
                Ok(())
            })
            .await
    }

    /// Someone else changed the storage file: its content is compared, and uploaded again if it differs.
    ///
    /// Not before `due`, so that two programs that overwrite each other do not do it without a pause.
    pub async fn compare_again(
        &self,
        file: &ConnectionFile,
        due: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("send a file back to be compared", async |tx| {
                if is_current(tx, file).await? {
                    overwritten_in_storage(tx, file.file.0, due, now).await?;
                }
                Ok(())
            })
            .await
    }
}

/// Whether what is known of the storage file is still what was compared: an upload may have replaced its content
/// meanwhile, or a new name of the local file may have changed its time.
async fn is_current(tx: &mut Tx, file: &ConnectionFile) -> Result<bool, sqlx::Error> {
    type Row = (
        Option<String>,
        i64,
        Option<String>,
        Option<Relocation>,
        bool,
    );
    let current: Option<Row> = sql::query_as(concat!(
        "SELECT f.storage_file_id, f.stored_generation, f.stored_modified, f.relocation, ",
        is_replaced!(),
        " FROM files f JOIN watches w ON w.id = f.watch_id WHERE f.id = $1",
    ))
    .bind(file.file.0)
    .fetch_optional(tx)
    .await?;
    Ok(
        current.is_some_and(|(id, generation, modified, relocation, is_replaced)| {
            !is_replaced
                && id.as_deref() == Some(&file.storage_file_id)
                && generation == file.stored.generation
                && modified == file.stored.stamp.modified
                && relocation.is_none()
        }),
    )
}

/// See [`Ledger::upload_again`].
pub(super) async fn lost_in_storage(
    tx: &mut Tx,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let leader = leader(tx, file_id).await?;
    for file_id in [Some(file_id), leader].into_iter().flatten() {
        lost(tx, file_id, due, now).await?;
    }
    Ok(())
}

async fn lost(
    tx: &mut Tx,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    forget_storage_file(tx, file_id).await?;
    sql::query("UPDATE files SET overwrites = overwrites + 1 WHERE id = $1")
        .bind(file_id)
        .execute(tx)
        .await?;
    upload_job(tx, file_id, Step::LostInStorage, due, now).await
}

/// See [`Ledger::compare_again`].
pub(super) async fn overwritten_in_storage(
    tx: &mut Tx,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let leader = leader(tx, file_id).await?;
    for file_id in [Some(file_id), leader].into_iter().flatten() {
        overwritten(tx, file_id, due, now).await?;
    }
    Ok(())
}

async fn overwritten(
    tx: &mut Tx,
    file_id: i64,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE files SET unverified = 1, overwrites = overwrites + 1, processed = 0, \
         outcome = NULL, outcome_at = NULL WHERE id = $1",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    upload_job(tx, file_id, Step::Overwritten, due, now).await
}

/// A run of a follower has left out what storage has: the file is uploaded again.
pub(super) async fn send_again(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query("UPDATE files SET send_again = 1 WHERE id = $1")
        .bind(file_id)
        .execute(tx)
        .await?;
    upload_job(tx, file_id, Step::NotJudged, now, now).await
}

/// Makes the file due for the upload stage, whatever its job was about. A claimed job stays as it is: its worker
/// checks the storage file itself.
async fn upload_job(
    tx: &mut Tx,
    file_id: i64,
    step: Step,
    due: Timestamp,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    insert_stored_job(tx, file_id, now).await?;
    sql::query(
        "UPDATE jobs SET state = 'due', due_at = $2, pause = $3, run_id = NULL, kind = NULL, \
         reason = NULL, hint = NULL WHERE file_id = $1 AND state IN ('stored', 'running', \
         'failed')",
    )
    .bind(file_id)
    .bind(millis(due))
    .bind(pause(now, due))
    .execute(tx)
    .await?;
    let version: i64 = sql::query_scalar("SELECT version FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .fetch_one(tx)
        .await?;
    note(tx, file_id, version, step, None, now).await
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_file_that_is_gone_from_storage_is_uploaded_as_a_new_one() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let stored = f.batch(2).await.remove(0);
        f.ledger.upload_again(&stored, at(2), at(2)).await.unwrap();
        let job = f.claim(2).await.unwrap();
        assert_eq!((job.storage_file_id, job.stored), (None, None));
    }

    #[tokio::test]
    async fn a_synchronized_file_that_is_uploaded_again_is_found_by_its_watch() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let stored = f.batch(2).await.remove(0);
        let run = f.begin_run(2).await;
        f.finish_run(run, Verdict::Synchronized(None), 3).await;
        f.ledger.upload_again(&stored, at(4), at(4)).await.unwrap();
        let due = f.ledger.due_watches(at(4)).await.unwrap();
        assert_eq!(due, [(f.watch, at(4))]);
        let job = f.ledger.claim_upload_of(f.watch, None, at(4)).await;
        assert_eq!(job.unwrap().unwrap().path, Path::new("a.dgn"));
    }

    #[tokio::test]
    async fn what_was_seen_in_storage_before_a_newer_upload_changes_nothing_after_it() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let before = f.batch(2).await.remove(0);
        f.hand_over("a.dgn", 2, 3).await;
        let job = f.claim(4).await.unwrap();
        f.store(&job, 2, 5).await;
        f.ledger.upload_again(&before, at(6), at(6)).await.unwrap();
        f.ledger.compare_again(&before, at(6), at(6)).await.unwrap();
        let file = f.file("a.dgn").await;
        assert_eq!(file.job, Some(JobState::Stored));
        assert!(file.storage_file_id.is_some());
        // Nor does the end of a run that was judged by it.
        let run = f.begin_run(7).await;
        let old = FileOutcome {
            file: before.file,
            storage_file_id: before.storage_file_id,
            stored_generation: before.stored.generation,
            verdict: Verdict::Synchronized(None),
        };
        let reports = f
            .ledger
            .finish_run(run, "Completed", "Success", &[old], at(8))
            .await
            .unwrap();
        assert!(reports.is_empty());
        assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
    }
}
