//! Retries that the operator asks for.
use jiff::Timestamp;

use super::failure_groups::files_in_group;
use super::history::{Step, note};
use super::transitions::make_due;
use super::{Error, FileId, JobState, Ledger, Tx, millis, sql};

/// Jobs that are put into one transaction, so that many of them do not delay other transactions.
const AT_ONCE: usize = 500;

/// Which jobs to try again at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requeue {
    /// Those of these files that failed or wait for a later attempt.
    Files(Vec<FileId>),
    /// All that failed.
    Failed,
    /// Those of this group of failures that failed or wait for a later attempt.
    Group(String),
}

impl Ledger {
    /// Makes jobs due now, with a fresh count of attempts, and ends the backoff of their watches. What is
    /// in progress, and files without a job, stay as they are. Returns how many jobs that concerned.
    pub async fn requeue(&self, which: &Requeue, now: Timestamp) -> Result<u64, Error> {
        const ACTION: &str = "make jobs due again";
        let found: Vec<FileId>;
        let files = match which {
            Requeue::Files(files) => files,
            Requeue::Failed | Requeue::Group(_) => {
                let ids: Vec<i64> = self
                    .db
                    .read(ACTION, async |db| match which {
                        Requeue::Group(key) => files_in_group(db, key).await,
                        _ => {
                            sql::query_scalar("SELECT file_id FROM jobs WHERE state = 'failed'")
                                .fetch_all(db)
                                .await
                        }
                    })
                    .await?;
                found = ids.into_iter().map(FileId).collect();
                &found
            }
        };
        let mut concerned = 0;
        for chunk in files.chunks(AT_ONCE) {
            concerned += self
                .db
                .write_durably(ACTION, async |tx| {
                    let mut concerned = 0;
                    for file in chunk {
                        if requeue_one(tx, *file, now).await? {
                            concerned += 1;
                        }
                    }
                    Ok(concerned)
                })
                .await?;
        }
        Ok(concerned)
    }
}

impl Ledger {
    /// Gives stored-only files without a job one that compares them with storage. Source files are compared with their
    /// connection.
    pub async fn compare_stored_only(&self, files: &[FileId], now: Timestamp) -> Result<(), Error> {
        for chunk in files.chunks(AT_ONCE) {
            self.db
                .write("compare files with storage", async |tx| {
                    for file in chunk {
                        sql::query(
                            "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, \
                             due_at) SELECT id, watch_id, 'due', version, $2, $2 FROM files \
                             WHERE id = $1 AND connector IS NULL AND storage_file_id IS NOT NULL \
                             ON CONFLICT (file_id) DO NOTHING",
                        )
                        .bind(file)
                        .bind(millis(now))
                        .execute(tx)
                        .await?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }
}

async fn requeue_one(tx: &mut Tx, file: FileId, now: Timestamp) -> Result<bool, sqlx::Error> {
    let job: Option<(JobState, i64)> = sql::query_as(
        "SELECT state, version FROM jobs WHERE file_id = $1 AND (state = 'failed' \
         OR (state IN ('due', 'stored') AND reason IS NOT NULL))",
    )
    .bind(file.0)
    .fetch_optional(tx)
    .await?;
    let Some((state, version)) = job else {
        return Ok(false);
    };
    if state == JobState::Stored {
        sql::query(
            "UPDATE jobs SET due_at = $2, pause = 0, attempts = 0, failing_since = NULL, \
             kind = NULL, previous_reason = NULL, reason = NULL, hint = NULL, reported = NULL \
             WHERE file_id = $1",
        )
        .bind(file.0)
        .bind(millis(now))
        .execute(tx)
        .await?;
    } else {
        make_due(tx, file.0, now).await?;
    }
    // A pause and the bulk change guard stay: those end with `resume`.
    sql::query(
        "UPDATE watches SET backoff_until = 0, backoff_since = 0, backoff_reason = NULL \
         WHERE id = (SELECT watch_id FROM files WHERE id = $1)",
    )
    .bind(file.0)
    .execute(tx)
    .await?;
    note(tx, file.0, version, Step::Asked, None, now).await?;
    Ok(true)
}
