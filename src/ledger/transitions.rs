//! What follows after an upload attempt: the next state of the job, or its end with a result.
use jiff::Timestamp;

use super::counterparts::wake_followers;
use super::failures::refuse;
use super::history::{Step, note};
use super::relocations::relocate_next;
use super::results::{NewResult, insert_result};
use super::row::split;
use super::scan_digests::forget_listing;
use super::sets::{judge_main_files_again, renew_main_files};
use super::state::{InImodel, after_upload};
use super::{
    Absence, Again, Error, JobState, Ledger, Outcome, Refusal, StorageStamp, StoredContent, Tx,
    UploadJob, UploadResult, count_column, millis, sql,
};
use crate::connector_type::ConnectorType;

sql::row! {
    /// A file whose content is in storage.
    struct StoredRow {
        version: i64,
        connector: Option<ConnectorType>,
        mapped_connector: Option<ConnectorType>,
        outcome: Option<Outcome>,
        set_stem: Option<Vec<u8>>,
        /// Files of another watch may wait for it.
        is_followed: bool,
    }
}

impl StoredRow {
    /// Whether it belongs to another file, which has to be run with it.
    fn is_companion(&self) -> bool {
        self.connector.is_none() && self.set_stem.is_some()
    }
}

impl Ledger {
    /// The content was uploaded and is complete in storage, which described the file as `stamp` says: hands the job on
    /// and raises the generation of its connection.
    pub async fn finish_stored(
        &self,
        job: &UploadJob,
        stored: &StoredContent,
        stamp: &StorageStamp,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        self.finish_in_storage(job, stored, stamp, Step::Uploaded, now)
            .await
    }

    /// The same for content that storage had already, so that no byte was sent.
    pub async fn finish_same_content(
        &self,
        job: &UploadJob,
        stored: &StoredContent,
        stamp: &StorageStamp,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        self.finish_in_storage(job, stored, stamp, Step::SameContent, now)
            .await
    }

    async fn finish_in_storage(
        &self,
        job: &UploadJob,
        stored: &StoredContent,
        stamp: &StorageStamp,
        step: Step,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        self.db
            .write("record a completed upload", async |tx| {
                in_storage(tx, job, stored, stamp, step, now).await
            })
            .await
    }

    /// Storage has the content of the file already: no upload, and no run unless one is still owed.
    pub async fn finish_unchanged(
        &self,
        job: &UploadJob,
        now: Timestamp,
    ) -> Result<UploadResult, Error> {
        self.db
            .write("record an unchanged file", async |tx| {
                unchanged(tx, job, now).await
            })
            .await
    }

    /// The file is not there any more. Its job goes; whatever appears under its name later counts as new.
    pub async fn finish_vanished(&self, job: &UploadJob, now: Timestamp) -> Result<(), Error> {
        self.db
            .write("record a deleted file", async |tx| {
                let newest: i64 = newest_version(tx, job.file.0).await?;
                sql::query(
                    "UPDATE files SET known = 0, size = 0, absence = COALESCE(absence, $3), \
                     absent_since = COALESCE(absent_since, $4) WHERE id = $1 AND version = $2",
                )
                .bind(job.file.0)
                .bind(job.version)
                .bind(Absence::Missing)
                .bind(millis(now))
                .execute(tx)
                .await?;
                forget_listing(tx, job.watch.0, split(&job.path).0).await?;
                if newest == job.version {
                    judge_main_files_again(tx, job.file.0, now).await?;
                    insert_result(tx, job.file.0, Outcome::Vanished, NewResult::default(), now)
                        .await?;
                    delete_job(tx, job.file.0).await?;
                } else {
                    make_due(tx, job.file.0, now).await?;
                }
                Ok(())
            })
            .await
    }

    /// The attempt did not succeed. A file that has changed meanwhile is due at once instead of failed.
    pub async fn put_off(
        &self,
        job: &UploadJob,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("reschedule a job", async |tx| {
                let newest = newest_version(tx, job.file.0).await?;
                if newest > job.version
                    && matches!(refusal.again, Again::FailedUntil(_) | Again::Never)
                {
                    make_due(tx, job.file.0, now).await?;
                } else {
                    refuse(tx, job.file.0, JobState::Due, refusal, now).await?;
                }
                Ok(())
            })
            .await
    }
}

/// See [`Ledger::finish_stored`].
pub(super) async fn in_storage(
    tx: &mut Tx,
    job: &UploadJob,
    stored: &StoredContent,
    stamp: &StorageStamp,
    step: Step,
    now: Timestamp,
) -> Result<UploadResult, sqlx::Error> {
    let generation = next_generation(tx, job, now).await?;
    let file: StoredRow = sql::query_as(
        "UPDATE files SET adopted = 0, stored_version = $2, stored_digest = $3, \
         stored_size = $4, stored_at = $5, stored_generation = $6, \
         stored_modified = $7, stored_modified_by = $8, storage_folder_id = $9, \
         storage_file_id = COALESCE($10, storage_file_id), processed = 0, \
         unverified = 0, send_again = 0, outcome = NULL, outcome_at = NULL \
         WHERE id = $1 RETURNING version, connector, mapped_connector, outcome, set_stem, \
         EXISTS (SELECT 1 FROM watches w WHERE w.follows = files.watch_id) AS is_followed",
    )
    .bind(job.file.0)
    .bind(stored.version)
    .bind(&stored.content.digest[..])
    .bind(count_column(stored.content.bytes))
    .bind(millis(now))
    .bind(generation)
    .bind(&stamp.modified)
    .bind(&stamp.modified_by)
    .bind(&stamp.folder_id)
    .bind(&job.storage_file_id)
    .fetch_one(tx)
    .await?;
    note(tx, job.file.0, stored.version, step, None, now).await?;
    let result = hand_on(tx, job, stored.version, &file, Outcome::Uploaded, now).await?;
    if file.is_companion() {
        renew_main_files(tx, job.file.0, generation, now).await?;
    }
    Ok(result)
}

/// See [`Ledger::finish_unchanged`].
pub(super) async fn unchanged(
    tx: &mut Tx,
    job: &UploadJob,
    now: Timestamp,
) -> Result<UploadResult, sqlx::Error> {
    let file: StoredRow = sql::query_as(
        "UPDATE files SET adopted = 0, stored_version = $2 WHERE id = $1 \
         RETURNING version, connector, mapped_connector, outcome, set_stem, \
         EXISTS (SELECT 1 FROM watches w WHERE w.follows = files.watch_id) AS is_followed",
    )
    .bind(job.file.0)
    .bind(job.version)
    .fetch_one(tx)
    .await?;
    let is_renamed: bool = sql::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM steps WHERE file_id = $1 AND version = $2 \
         AND step = $3)",
    )
    .bind(job.file.0)
    .bind(job.version)
    .bind(Step::Renamed.as_str())
    .fetch_one(tx)
    .await?;
    let outcome = if is_renamed {
        Outcome::Renamed
    } else {
        Outcome::Unchanged
    };
    let result = hand_on(tx, job, job.version, &file, outcome, now).await?;
    if file.is_companion() {
        judge_main_files_again(tx, job.file.0, now).await?;
    }
    // The other results record it themselves, or have nothing to record yet.
    if result == UploadResult::AwaitsRun {
        note(tx, job.file.0, job.version, Step::SameContent, None, now).await?;
    }
    Ok(result)
}

/// Raises the generation of the connection that the file belongs in, because its content is complete in storage. A file
/// that is stored only belongs to all connections of its watch, which get the same generation.
///
/// A file that refers to nothing of ours but its set leads to a run by the job of its master. Any other stored-only
/// file may be referred to by every source file, so the connections are run for it even without a job.
async fn next_generation(tx: &mut Tx, job: &UploadJob, now: Timestamp) -> Result<i64, sqlx::Error> {
    // By far the most frequent case.
    let raised = sql::query_scalar(
        "UPDATE connections SET generation = generation + 1, moved_at = $2, covered = CASE \
         WHEN covered = generation AND (SELECT f.set_stem IS NOT NULL FROM files f WHERE f.id = $1) \
         THEN generation + 1 ELSE covered END \
         WHERE id = (SELECT f.target_connection_id FROM files f WHERE f.id = $1) RETURNING generation",
    )
    .bind(job.file.0)
    .bind(millis(now))
    .fetch_optional(tx)
    .await?;
    if let Some(generation) = raised {
        return Ok(generation);
    }
    let is_in_set: bool = sql::query_scalar("SELECT set_stem IS NOT NULL FROM files WHERE id = $1")
        .bind(job.file.0)
        .fetch_one(tx)
        .await?;
    let connections: Vec<i64> =
        sql::query_scalar("SELECT connection_id FROM watch_connections WHERE watch_id = $1")
            .bind(job.watch.0)
            .fetch_all(tx)
            .await?;
    let mut next = 0;
    for connection in &connections {
        let generation: i64 = sql::query_scalar("SELECT generation FROM connections WHERE id = $1")
            .bind(connection)
            .fetch_one(tx)
            .await?;
        next = next.max(generation.saturating_add(1));
    }
    for connection in connections {
        sql::query(
            "UPDATE connections SET generation = $2, moved_at = $3, covered = CASE \
             WHEN covered = generation AND $4 THEN $2 ELSE covered END WHERE id = $1",
        )
        .bind(connection)
        .bind(next)
        .bind(millis(now))
        .bind(is_in_set)
        .execute(tx)
        .await?;
    }
    Ok(next)
}

/// Moves a job whose version `stored` is in storage to what follows; `done` is the outcome if nothing is owed.
async fn hand_on(
    tx: &mut Tx,
    job: &UploadJob,
    stored: i64,
    file: &StoredRow,
    done: Outcome,
    now: Timestamp,
) -> Result<UploadResult, sqlx::Error> {
    let synchronized = matches!(
        file.outcome,
        Some(Outcome::Synchronized | Outcome::SynchronizedWithIssues)
    ) && file.mapped_connector == file.connector;
    let in_imodel = match (&file.connector, synchronized) {
        (None, _) => InImodel::NotWanted,
        (Some(_), true) => InImodel::Synchronized,
        (Some(_), false) => InImodel::RunOwed,
    };
    let result = after_upload(stored, file.version, in_imodel);
    match result {
        UploadResult::DueAgain => {
            make_due(tx, job.file.0, now).await?;
            // What storage has is certain.
            sql::query("UPDATE jobs SET stage = 'planned' WHERE file_id = $1")
                .bind(job.file.0)
                .execute(tx)
                .await?;
        }
        UploadResult::AwaitsRun => {
            sql::query(
                "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0, attempts = 0, \
                 run_attempts = CASE WHEN $3 THEN run_attempts ELSE 0 END, failing_since = NULL, \
                 stage = 'planned', content_version = NULL, content_digest = NULL, \
                 content_size = NULL, kind = NULL, previous_reason = NULL, reason = NULL, \
                 hint = NULL WHERE file_id = $1",
            )
            .bind(job.file.0)
            .bind(millis(now))
            // The runs that left it out still count: otherwise it would be sent again without end.
            .bind(job.send_again)
            .execute(tx)
            .await?;
        }
        UploadResult::Done => {
            if file.connector.is_none() {
                sql::query("UPDATE files SET outcome = 'uploaded', outcome_at = $2 WHERE id = $1")
                    .bind(job.file.0)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
            }
            insert_result(tx, job.file.0, done, NewResult::default(), now).await?;
            delete_job(tx, job.file.0).await?;
            relocate_next(tx, job.file.0, now).await?;
        }
    }
    if file.is_followed && result != UploadResult::DueAgain {
        wake_followers(tx, job.file.0, now).await?;
    }
    Ok(result)
}

pub(super) async fn make_due(tx: &mut Tx, file_id: i64, now: Timestamp) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE jobs SET state = 'due', due_at = $2, pause = 0, enqueued_at = $2, attempts = 0, \
         run_attempts = 0, failing_since = NULL, stage = CASE WHEN stage = 'blob_written' \
         THEN 'links_received' ELSE stage END, content_version = NULL, content_digest = NULL, \
         content_size = NULL, run_id = NULL, kind = NULL, previous_reason = NULL, reason = NULL, \
         hint = NULL, reported = NULL WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}

async fn newest_version(tx: &mut Tx, file_id: i64) -> Result<i64, sqlx::Error> {
    sql::query_scalar("SELECT version FROM files WHERE id = $1")
        .bind(file_id)
        .fetch_one(tx)
        .await
}

pub(super) async fn delete_job(tx: &mut Tx, file_id: i64) -> Result<(), sqlx::Error> {
    sql::query("DELETE FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use crate::connector_type::ConnectorType;

    #[tokio::test]
    async fn the_same_content_again_is_done_without_a_run() {
        let f = Fixture::new().await;
        f.synchronized("a.dgn").await;
        f.hand_over("a.dgn", 2, 4).await;
        let job = f.claim(5).await.unwrap();
        assert_eq!(
            job.stored.as_ref().map(|stored| stored.content.clone()),
            Some(content(1))
        );
        assert_eq!(
            f.ledger.finish_unchanged(&job, at(6)).await.unwrap(),
            UploadResult::Done
        );
        assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Unchanged));
    }

    #[tokio::test]
    async fn the_same_content_with_a_run_still_owed_awaits_it() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        f.hand_over("a.dgn", 2, 2).await;
        let job = f.claim(3).await.unwrap();
        assert_eq!(
            f.ledger.finish_unchanged(&job, at(4)).await.unwrap(),
            UploadResult::AwaitsRun
        );
    }

    #[tokio::test]
    async fn another_connector_for_the_same_content_is_owed_a_run() {
        let f = Fixture::new().await;
        f.synchronized("a.dgn").await;
        let civil = Ready {
            connector: Some(ConnectorType::new("CIVIL")),
            ..ready("a.dgn", 1)
        };
        assert_eq!(
            f.ledger
                .hand_over(f.watch, &[civil], at(4))
                .await
                .unwrap()
                .changed,
            1
        );
        let job = f.claim(5).await.unwrap();
        assert_eq!(
            f.ledger.finish_unchanged(&job, at(6)).await.unwrap(),
            UploadResult::AwaitsRun
        );
        let batch = f.batch(7).await;
        assert_eq!(
            (
                batch[0].source_file_id.as_deref(),
                &batch[0].mapped_connector
            ),
            (Some("source a.dgn"), &Some(ConnectorType::new("MSTN")))
        );
        assert_eq!(batch[0].connector, ConnectorType::new("CIVIL"));
    }

    #[tokio::test]
    async fn reference_files_are_done_with_the_upload_and_move_their_connection_on() {
        let f = Fixture::new().await;
        f.ledger
            .hand_over(f.watch, &[reference("a.pdf", 1)], at(0))
            .await
            .unwrap();
        let job = f.claim(0).await.unwrap();
        assert_eq!(f.store(&job, 1, 1).await, UploadResult::Done);
        assert_eq!(f.file("a.pdf").await.outcome, Some(Outcome::Uploaded));
        assert_eq!(f.connection().await.moved_on, Some(at(1)));
        assert!(
            !f.ledger
                .holds_source_files(f.connection().await.id)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_failure_of_an_old_version_does_not_fail_the_new_one() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        f.hand_over("a.dgn", 2, 1).await;
        f.ledger
            .put_off(&job, &refusal(Again::Never), at(2))
            .await
            .unwrap();
        assert_eq!(f.claim(2).await.unwrap().version, 2);
    }

    #[tokio::test]
    async fn a_file_that_vanished_counts_as_new_when_it_is_back() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(0).await.unwrap();
        f.ledger.finish_vanished(&job, at(1)).await.unwrap();
        assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Vanished));
        assert_eq!(
            f.ledger
                .known(f.watch, Path::new("a.dgn"))
                .await
                .unwrap()
                .unwrap()
                .fingerprint,
            None
        );
        assert_eq!(f.hand_over("a.dgn", 1, 2).await, 1);
        assert!(f.claim(2).await.is_some());
    }
}
