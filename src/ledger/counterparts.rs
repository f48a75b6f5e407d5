//! The links between a file and its counterpart in a watch that follows the watch of the file, see `followers`.
//!
//! Output: the state of the other one's job, in the same transaction as the change that it follows from.

use jiff::Timestamp;

use super::stored_job::insert_stored_job;
use super::{Tx, millis, sql};

/// SQL: the file `f` of the watch `w` has taken over content that its counterpart has replaced since, or is about to
/// replace.
macro_rules! is_replaced {
    () => {
        "(w.follows IS NOT NULL AND NOT EXISTS (SELECT 1 FROM files p WHERE p.watch_id = w.follows \
         AND p.storage_file_id = f.storage_file_id AND p.stored_digest IS NOT DISTINCT FROM f.stored_digest \
         AND p.stored_modified IS NOT DISTINCT FROM f.stored_modified AND p.unverified = 0 AND p.send_again = 0 \
         AND p.relocation IS NULL AND NOT EXISTS (SELECT 1 FROM jobs q WHERE q.file_id = p.id \
         AND (q.state = 'uploading' OR q.stage <> 'planned'))))"
    };
}

pub(super) use is_replaced;

/// Makes the jobs due that wait for this file, whose content is in storage.
pub(super) async fn wake_followers(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE jobs SET due_at = $2, reason = NULL WHERE state = 'due' AND due_at IS NULL \
         AND file_id IN (SELECT f.id FROM files p JOIN watches w ON w.follows = p.watch_id \
         JOIN files f ON f.watch_id = w.id AND f.dir = p.dir AND f.name = p.name \
         WHERE p.id = $1)",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes every job due that waits for another watch: which one follows which may have changed.
pub(super) async fn wake_all(tx: &mut Tx, now: Timestamp) -> Result<(), sqlx::Error> {
    sql::query("UPDATE jobs SET due_at = $1, reason = NULL WHERE state = 'due' AND due_at IS NULL")
        .bind(millis(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// A run may have read other content than the file has taken over: the job of the file follows its counterpart again,
/// whatever the run made of it.
pub(super) async fn follow_again(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    insert_stored_job(tx, file_id, now).await?;
    sql::query("UPDATE files SET processed = 0, outcome = NULL, outcome_at = NULL WHERE id = $1")
        .bind(file_id)
        .execute(tx)
        .await?;
    sql::query(
        "UPDATE jobs SET state = 'due', due_at = $2, pause = 0, run_id = NULL, kind = NULL, \
         reason = NULL, hint = NULL WHERE file_id = $1 AND state IN ('stored', 'running', 'failed')",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// The file that uploads the content of this one, if its watch follows another one.
pub(super) async fn leader(tx: &mut Tx, file_id: i64) -> Result<Option<i64>, sqlx::Error> {
    sql::query_scalar(
        "SELECT p.id FROM files f JOIN watches w ON w.id = f.watch_id JOIN files p \
         ON p.watch_id = w.follows AND p.storage_file_id = f.storage_file_id WHERE f.id = $1",
    )
    .bind(file_id)
    .fetch_optional(tx)
    .await
}
