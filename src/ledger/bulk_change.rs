//! The bulk change guard: suspends a watch when too many files that storage knows are due at once.
//!
//! A restored backup, a clock that jumped or a copied tree looks like a change of every file. The operator decides with
//! `itwin-syncd resume` whether that many files are uploaded; the approval ends once they are.

use tracing::error;

use super::{Tx, count_column, count_value};

/// The guard suspended a watch: too many known files changed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    /// Known files that are due.
    pub files: u64,
    /// Those of them that only get another name or folder in storage.
    pub moves: u64,
    /// How many may be due.
    pub limit: u64,
}

impl BulkChange {
    /// Logs it, for the operator, who has to decide.
    pub fn log(self, watch: &str) {
        let Self {
            files,
            moves,
            limit,
        } = self;
        error!(
            watch,
            files,
            moves = (moves > 0).then_some(moves),
            limit,
            hint = format!(
                "check some of the files, then run `itwin-syncd resume {watch}` to {}",
                self.action()
            ),
            "watch suspended: too many known files changed at once"
        );
    }

    /// What happened to the files.
    #[must_use]
    pub fn what(self) -> String {
        let Self {
            files,
            moves,
            limit,
        } = self;
        let known = if moves == files {
            format!("{files} known files are to be renamed or moved in storage at once")
        } else if moves > 0 {
            format!(
                "{files} known files changed at once, {moves} of them only in name, folder or storage folder"
            )
        } else {
            format!("{files} known files changed at once")
        };
        format!("{known} (limit {limit})")
    }

    /// What `resume` does with them.
    #[must_use]
    pub fn action(self) -> &'static str {
        if self.moves == self.files {
            "rename or move them; nothing is uploaded"
        } else {
            "upload or rename them"
        }
    }
}

/// What the guard knows of a watch.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Guarded {
    /// Known files that may be due at once.
    #[sqlx(rename = "bulk_change_limit")]
    limit: i64,
    /// How many the operator has approved; 0 for none.
    #[sqlx(rename = "bulk_change_approved")]
    approved: i64,
    /// How many there were when the watch was suspended; 0 when it is not.
    #[sqlx(rename = "bulk_change_files")]
    suspended_for: i64,
    /// Known files that are due now.
    due: i64,
    /// Those of them with content that storage has.
    moves: i64,
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Nothing,
    /// What was approved is done.
    EndApproval,
    Suspend,
}

fn decide(watch: Guarded) -> Decision {
    if watch.due <= watch.limit {
        return match watch.approved {
            0 => Decision::Nothing,
            _ => Decision::EndApproval,
        };
    }
    if watch.due <= watch.approved || watch.due <= watch.suspended_for {
        Decision::Nothing
    } else {
        Decision::Suspend
    }
}

/// Sets the limit of a watch. Ends its suspension when no more files than that, or than approved, caused it.
pub(super) async fn set_limit(tx: &mut Tx, watch_id: i64, limit: u64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE watches SET bulk_change_limit = $2, bulk_change_files = CASE \
         WHEN bulk_change_files > $2 AND bulk_change_files > bulk_change_approved \
         THEN bulk_change_files ELSE 0 END WHERE id = $1",
    )
    .bind(watch_id)
    .bind(count_column(limit))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Suspends a watch when more of its files than its limit are due that storage knows. Some: from now on.
pub(super) async fn guard(tx: &mut Tx, watch_id: i64) -> Result<Option<BulkChange>, sqlx::Error> {
    let watch: Guarded = sqlx::query_as(
        "SELECT w.bulk_change_limit, w.bulk_change_approved, w.bulk_change_files, \
         (SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id WHERE f.watch_id = w.id \
         AND j.state = 'due' AND (f.stored_version IS NOT NULL OR f.adopted = 1)) AS due, \
         (SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id WHERE f.watch_id = w.id \
         AND j.state = 'due' AND f.relocation IS NOT NULL AND f.stored_version = f.version) \
         AS moves FROM watches w WHERE w.id = $1",
    )
    .bind(watch_id)
    .fetch_one(&mut **tx)
    .await?;
    match decide(watch) {
        Decision::Nothing => Ok(None),
        Decision::EndApproval => {
            sqlx::query("UPDATE watches SET bulk_change_approved = 0 WHERE id = $1")
                .bind(watch_id)
                .execute(&mut **tx)
                .await?;
            Ok(None)
        }
        Decision::Suspend => {
            sqlx::query(
                "UPDATE watches SET bulk_change_files = $2, bulk_change_moves = $3 WHERE id = $1",
            )
            .bind(watch_id)
            .bind(watch.due)
            .bind(watch.moves)
            .execute(&mut **tx)
            .await?;
            let change = BulkChange {
                files: count_value(watch.due),
                moves: count_value(watch.moves),
                limit: count_value(watch.limit),
            };
            // More files than before: it is suspended already.
            Ok((watch.suspended_for == 0).then_some(change))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_suspended_above_its_limit_unless_the_operator_has_approved_that_many() {
        for (limit, approved, suspended_for, due, expected) in [
            (10, 0, 0, 10, Decision::Nothing),
            (10, 0, 0, 11, Decision::Suspend),
            // It is suspended already, and the number rises.
            (10, 0, 11, 11, Decision::Nothing),
            (10, 0, 11, 12, Decision::Suspend),
            (10, 40, 0, 40, Decision::Nothing),
            (10, 40, 0, 41, Decision::Suspend),
            (10, 40, 0, 10, Decision::EndApproval),
        ] {
            let watch = Guarded {
                limit,
                approved,
                suspended_for,
                due,
                moves: 0,
            };
            assert_eq!(decide(watch), expected, "{watch:?}");
        }
    }
}
