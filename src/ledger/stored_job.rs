//! Jobs that wait for a run without an upload.

use jiff::Timestamp;

use super::{Tx, millis, sql};

/// Gives a file whose content is in storage a job that waits for a run, unless it has a job.
pub(super) async fn insert_stored_job(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at) SELECT id, \
         watch_id, 'stored', version, $2, $2 FROM files WHERE id = $1 ON CONFLICT (file_id) \
         DO NOTHING",
    )
    .bind(file_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}
