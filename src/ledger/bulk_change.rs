//! The bulk change guard: suspends a watch when too many files that storage knows are due at once.

use tracing::error;

use super::holds::{BRAKED, PAUSE_REASON, PAUSED};
use super::{Tx, count_column, millis};

/// A watch is held from now on, because so many files are due at once that storage knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    files: u64,
}

impl BulkChange {
    /// Tells a person, who has to decide.
    pub fn tell(self, watch: &str) {
        let files = self.files;
        error!(
            watch,
            files,
            hint = "look at some of them; if that is right, let it go on with `itwin-syncd resume`",
            "so many files that storage has already are to be uploaded anew at once; the watch is held"
        );
    }
}

/// Sets the limit of a watch, and lets it go on unless it was held for more files than that.
pub(super) async fn set_brake(tx: &mut Tx, id: i64, limit: u64) -> Result<(), sqlx::Error> {
    let limit = count_column(limit);
    sqlx::query(
        "UPDATE watches SET brake = $2, braked = CASE WHEN braked > $2 AND braked > agreed THEN braked ELSE 0 END \
         WHERE id = $1",
    )
    .bind(id)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    let (braked, paused_at): (i64, Option<i64>) =
        sqlx::query_as("SELECT braked, paused_at FROM watches WHERE id = $1")
            .bind(id)
            .fetch_one(&mut **tx)
            .await?;
    let (until, reason) = match u64::try_from(braked) {
        _ if paused_at.is_some() => (millis(PAUSED), Some(PAUSE_REASON.to_owned())),
        Ok(files) if files > 0 => (millis(BRAKED), Some(brake_reason(files))),
        _ => (0, None),
    };
    sqlx::query(
        "UPDATE watches SET held_until = $2, held_since = 0, held_reason = $3 WHERE id = $1",
    )
    .bind(id)
    .bind(until)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Holds a watch when more of its files than its limit are due that storage knows.
pub(super) async fn brake(tx: &mut Tx, id: i64) -> Result<Option<BulkChange>, sqlx::Error> {
    let (limit, agreed, braked, due): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT w.brake, w.agreed, w.braked, (SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id \
            WHERE f.watch_id = w.id AND j.state = 'due' AND f.stored_version IS NOT NULL) \
         FROM watches w WHERE w.id = $1",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?;
    if due <= limit && agreed > 0 {
        // What was agreed to has been done.
        sqlx::query("UPDATE watches SET agreed = 0 WHERE id = $1")
            .bind(id)
            .execute(&mut **tx)
            .await?;
    }
    if due <= limit.max(agreed) || braked >= due {
        return Ok(None);
    }
    let files = u64::try_from(due).unwrap_or(0);
    sqlx::query(
        "UPDATE watches SET braked = $2, held_until = CASE WHEN paused_at IS NULL THEN $3 ELSE held_until END, \
         held_since = 0, held_reason = CASE WHEN paused_at IS NULL THEN $4 ELSE held_reason END WHERE id = $1",
    )
        .bind(id)
        .bind(due)
        .bind(millis(BRAKED))
        .bind(brake_reason(files))
        .execute(&mut **tx)
        .await?;
    Ok((braked == 0).then_some(BulkChange { files }))
}

fn brake_reason(files: u64) -> String {
    format!(
        "{files} files that storage has already are to be uploaded anew at once; if that is right, let it go on with \
         `itwin-syncd resume`, or set bulk_change.max_files = {files} and start again"
    )
}
