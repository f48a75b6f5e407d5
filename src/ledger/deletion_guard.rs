//! The guard for deletions: suspends the withdrawal of files of a watch when too many are gone at once.
//!
//! A folder that was emptied, replaced or moved away looks like a deletion of every file. The operator decides with
//! `itwin-syncd resume` whether they are taken out of the iModel; the approval ends once they are. Files that come back
//! are not counted any more. Uploads are not affected.

use tracing::error;

use super::{DeletionCause, Error, Ledger, count_column, count_value, sql};
use crate::ids::ImodelId;
use crate::shell;
use crate::text::plural;

/// Of this many files one may always be gone: 10 %.
const ONE_IN: u64 = 10;

/// Files whose withdrawal waits for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletions {
    /// Files that are gone.
    pub files: u64,
    /// How many would be withdrawn without being asked.
    pub limit: u64,
    /// Why they are not.
    pub cause: DeletionCause,
}

impl Deletions {
    /// What happened.
    #[must_use]
    pub fn reason(self) -> String {
        let files = plural(self.files, "file is", "files are");
        match self.cause {
            DeletionCause::Bulk => format!("{files} gone at once (limit {})", self.limit),
            DeletionCause::Empty => format!("{files} gone, and none is left"),
            DeletionCause::Replaced => {
                format!("{files} gone since the folder was replaced by another one")
            }
        }
    }

    /// What to do about it, for the watch of this name.
    #[must_use]
    pub fn hint(watch: &str) -> String {
        format!(
            "put back what was deleted by mistake, or run `{}` to take the deleted files out of the iModel",
            shell::command(["resume", watch])
        )
    }

    /// How many of `gone` files may be withdrawn at once beside `present` ones, and why not more. `limit` is the
    /// configured number.
    #[must_use]
    pub fn allowed(limit: u64, present: u64, gone: u64) -> (u64, DeletionCause) {
        if present == 0 {
            return (0, DeletionCause::Empty);
        }
        let tenth = present.saturating_add(gone) / ONE_IN;
        (limit.min(tenth.max(1)), DeletionCause::Bulk)
    }

    fn log(self, watch: &str) {
        error!(
            watch,
            files = self.files,
            limit = self.limit,
            reason = self.reason(),
            hint = Self::hint(watch),
            "deleted files stay in the iModel until the operator decides"
        );
    }
}

/// What the guard knows of a watch.
#[derive(Debug, Clone, Copy)]
struct Guarded {
    /// How many may be gone at once.
    limit: u64,
    /// How many the operator has approved; 0 for none.
    approved: u64,
    /// How many there were when the withdrawal was suspended; 0 when it is not.
    suspended_for: u64,
    /// Gone, and not yet withdrawn.
    gone: u64,
    /// In the folder.
    present: u64,
    /// The folder was replaced, and files are gone since.
    replaced: bool,
    /// Files were not found in the replaced folder, which the next scan confirms.
    is_unconfirmed: bool,
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Nothing,
    /// What was approved is done, or all files are back.
    End,
    Suspend(Deletions),
}

fn decide(watch: Guarded) -> Decision {
    let (limit, cause) = if watch.replaced && watch.present > 0 {
        (0, DeletionCause::Replaced)
    } else {
        Deletions::allowed(watch.limit, watch.present, watch.gone)
    };
    let is_idle = watch.approved == 0 && watch.suspended_for == 0 && !watch.replaced;
    match watch.gone {
        0 if is_idle || watch.is_unconfirmed => Decision::Nothing,
        0 => Decision::End,
        gone if gone <= limit && watch.suspended_for == 0 => match watch.approved {
            0 => Decision::Nothing,
            _ => Decision::End,
        },
        gone if gone <= watch.approved || gone <= watch.suspended_for => Decision::Nothing,
        gone => Decision::Suspend(Deletions {
            files: gone,
            limit,
            cause,
        }),
    }
}

/// SQL: the file `f` of the watch `w`, which is gone, has no other name: no new file of its size, in any watch of the
/// iModel, waits for its upload, which finds out whether it was renamed.
macro_rules! is_not_renamed {
    () => {
        "NOT EXISTS (SELECT 1 FROM files n JOIN jobs nj ON nj.file_id = n.id \
         JOIN watches o ON o.id = n.watch_id WHERE n.storage_file_id IS NULL \
         AND n.size = f.stored_size AND o.imodel_id = w.imodel_id AND o.configured = 1 \
         AND nj.state IN ('due', 'uploading'))"
    };
}

pub(super) use is_not_renamed;

/// SQL: the storage file of the file `f` belongs to its watch `w`, and neither to one that `w` follows nor to an iModel
/// from which the source files of the watch were not detached.
macro_rules! owns_storage {
    () => {
        "((w.follows IS NULL OR NOT EXISTS (SELECT 1 FROM files p WHERE p.watch_id = w.follows \
         AND p.storage_file_id = f.storage_file_id)) AND NOT EXISTS (SELECT 1 \
         FROM former_source_files s WHERE s.storage_file_id = f.storage_file_id))"
    };
}

pub(super) use owns_storage;

/// SQL: files `f` of the watch `w` that are gone and not yet withdrawn.
macro_rules! withdrawable {
    () => {
        concat!(
            "f.watch_id = w.id AND f.absence = 'gone' AND f.withdrawal IS NULL \
             AND f.storage_file_id IS NOT NULL AND ((w.on_delete = 'remove' AND ",
            owns_storage!(),
            ") OR f.source_file_id IS NOT NULL) AND ",
            is_not_renamed!()
        )
    };
}

pub(super) use withdrawable;

sql::row! {
    struct GuardedRow {
        id: i64,
        name: String,
        deletion_limit: i64,
        deletions_approved: i64,
        deletions_suspended: i64,
        root_replaced: bool,
        is_unconfirmed: bool,
        withdraws: bool,
        gone: i64,
        present: i64,
    }
}

impl Ledger {
    /// Suspends the withdrawal of files of the watches of an iModel of which too many are gone, and ends suspensions
    /// and approvals without a cause. Returns how many watches withdraw files at all.
    pub async fn guard_deletions(&self, imodel_id: &ImodelId) -> Result<usize, Error> {
        let rows: Vec<GuardedRow> = self
            .db
            .read("count the deleted files", async |db| {
                sql::query_as(concat!(
                    "SELECT w.id, w.name, w.deletion_limit, w.deletions_approved, \
                     w.deletions_suspended, w.root_replaced <> 0 AS root_replaced, \
                     w.root_replaced <> 0 AND EXISTS (SELECT 1 FROM files f \
                     WHERE f.watch_id = w.id AND f.absence = 'missing') AS is_unconfirmed, \
                     w.on_delete <> 'keep' AS withdraws, \
                     CASE WHEN w.on_delete = 'keep' THEN 0 ELSE (SELECT COUNT(*) FROM files f \
                     WHERE ",
                    withdrawable!(),
                    ") END AS gone, (SELECT CAST(COALESCE(SUM(c.files), 0) AS BIGINT) FROM counts c \
                     WHERE c.watch_id = w.id AND c.absent = 0 AND c.vanished = 0) AS present \
                     FROM watches w WHERE w.imodel_id = $1 AND w.configured = 1"
                ))
                .bind(imodel_id)
                .fetch_all(db)
                .await
            })
            .await?;
        let withdrawing = rows.iter().filter(|row| row.withdraws).count();
        for row in rows {
            let found = Guarded {
                limit: count_value(row.deletion_limit),
                approved: count_value(row.deletions_approved),
                suspended_for: count_value(row.deletions_suspended),
                gone: count_value(row.gone),
                present: count_value(row.present),
                replaced: row.root_replaced,
                is_unconfirmed: row.is_unconfirmed,
            };
            match decide(found) {
                Decision::Nothing => {}
                Decision::End => self.end_guard(row.id).await?,
                Decision::Suspend(deletions) => {
                    self.suspend_deletions(row.id, deletions).await?;
                    if found.suspended_for == 0 {
                        deletions.log(&row.name);
                    }
                }
            }
        }
        Ok(withdrawing)
    }

    async fn end_guard(&self, watch: i64) -> Result<(), Error> {
        self.db
            .write("end the suspension of deletions", async |tx| {
                sql::query(
                    "UPDATE watches SET deletions_suspended = 0, deletions_approved = 0, \
                     deletions_cause = NULL, root_replaced = 0 WHERE id = $1",
                )
                .bind(watch)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    async fn suspend_deletions(&self, watch: i64, deletions: Deletions) -> Result<(), Error> {
        self.db
            .write_durably("suspend deletions", async |tx| {
                sql::query(
                    "UPDATE watches SET deletions_suspended = $2, deletions_allowed = $3, \
                     deletions_cause = $4 WHERE id = $1",
                )
                .bind(watch)
                .bind(count_column(deletions.files))
                .bind(count_column(deletions.limit))
                .bind(deletions.cause)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::fixture::*;
    use super::super::*;
    use super::*;

    /// The check of the synchronizer may fall between the scan that misses a file and the one that confirms it.
    #[tokio::test]
    async fn the_guard_of_a_replaced_folder_does_not_end_before_missing_files_are_confirmed() {
        let f = Fixture::new().await;
        let mut spec = spec("north");
        spec.withdrawal = WithdrawalPolicy {
            on_delete: OnDelete::Remove,
            after: Duration::from_secs(1),
            limit: 20,
        };
        f.register(&spec, 0).await;
        for path in ["a.dgn", "b.dgn"] {
            f.synchronized(path).await;
        }
        for second in [4, 5] {
            let names = [("a.dgn".into(), Absence::Missing)];
            let absent =
                f.ledger
                    .record_absent(f.watch, Path::new(""), &names, at(second), at(second));
            absent.await.unwrap();
            if second == 4 {
                let found = RootIdentity::Incomplete;
                let record = f.ledger.record_root_identity(f.watch, "other", found);
                record.await.unwrap();
            }
            f.ledger.guard_deletions(&"imodel".into()).await.unwrap();
        }
        let watch = f.ledger.watch_reports(at(5)).await.unwrap().remove(0);
        let deletions = watch.deletions.suspended.unwrap();
        assert_eq!(
            (deletions.files, deletions.cause),
            (1, DeletionCause::Replaced)
        );
    }

    #[test]
    fn a_withdrawal_is_suspended_above_the_limit_or_a_tenth_of_the_files_until_it_is_approved() {
        use DeletionCause::{Bulk, Empty, Replaced};
        let suspend = |files, limit, cause| {
            Decision::Suspend(Deletions {
                files,
                limit,
                cause,
            })
        };
        let (nothing, end) = (Decision::Nothing, Decision::End);
        // Gone, present, suspended for, approved.
        for (gone, present, suspended_for, approved, replaced, expected) in [
            (0, 1000, 0, 0, false, nothing),
            (20, 1000, 0, 0, false, nothing),
            (21, 1000, 0, 0, false, suspend(21, 20, Bulk)),
            // A tenth of 50 files, and one of a few.
            (6, 44, 0, 0, false, suspend(6, 5, Bulk)),
            (1, 2, 0, 0, false, nothing),
            (1, 0, 0, 0, false, suspend(1, 0, Empty)),
            (1, 1000, 0, 0, true, suspend(1, 0, Replaced)),
            // It is suspended already; the number rises, falls, and all files come back.
            (21, 1000, 21, 0, false, nothing),
            (22, 1000, 21, 0, false, suspend(22, 20, Bulk)),
            (1, 1000, 21, 0, false, nothing),
            (0, 1000, 21, 0, false, end),
            // Approved, exceeded, done.
            (40, 1000, 0, 40, true, nothing),
            (41, 1000, 0, 40, false, suspend(41, 20, Bulk)),
            (20, 1000, 0, 40, false, end),
            (0, 1000, 0, 0, true, end),
        ] {
            let watch = Guarded {
                limit: 20,
                approved,
                suspended_for,
                gone,
                present,
                replaced,
                is_unconfirmed: false,
            };
            assert_eq!(decide(watch), expected, "{watch:?}");
        }
        let just_replaced = Guarded {
            limit: 20,
            approved: 0,
            suspended_for: 0,
            gone: 0,
            present: 1000,
            replaced: true,
            is_unconfirmed: true,
        };
        assert_eq!(decide(just_replaced), nothing);
    }
}
