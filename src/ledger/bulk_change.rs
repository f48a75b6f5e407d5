//! The bulk change guard: suspends a watch when too many files change or arrive at once.
//!
//! A restored backup, a clock that jumped or a copied tree looks like a change of every file, or like very many new
//! ones. The operator decides with `itwin-syncd resume` whether that many files are uploaded; the approval ends once
//! they are. New files count only when they arrive within an hour, and not while a watch has its first files: those of
//! a new watch are expected, however many they are. Files of which only the change time differs, or the precision
//! of times, do not count: another host or file system has other ones. Each of them is compared with storage all the
//! same.

use jiff::{SignedDuration, Timestamp};
use tracing::error;

use super::{
    BulkChangeKind, Error, Ledger, Tx, WatchId, count_column, count_value, millis, sql, timestamp,
};

use crate::shell;

/// New files that were handed over within this time count as arrived at once.
const NEW_FILES_WINDOW: SignedDuration = SignedDuration::from_hours(1);

/// How many files of a watch may change or arrive at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChangeLimits {
    /// Files that storage knows and that are due.
    pub changed_files: u64,
    /// Files that storage does not know and that arrived within an hour.
    pub new_files: u64,
}

/// The guard suspended a watch: too many files changed or arrived at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    /// Whether they changed or are new.
    pub kind: BulkChangeKind,
    /// How many files.
    pub files: u64,
    /// Those of them that only get another name or folder in storage.
    pub moves: u64,
    /// How many are accepted.
    pub limit: u64,
}

impl BulkChange {
    /// Logs it, for the operator, who has to decide.
    pub fn log(self, watch: &str) {
        let Self {
            kind,
            files,
            moves,
            limit,
        } = self;
        let moves = (moves > 0).then_some(moves);
        let hint = format!(
            "check some of the files, then run `{}` to {}",
            shell::command(["resume", watch]),
            self.action()
        );
        match kind {
            BulkChangeKind::Changed => error!(
                watch,
                files, moves, limit, hint, "watch suspended: too many known files changed at once"
            ),
            BulkChangeKind::New => error!(
                watch,
                files, limit, hint, "watch suspended: too many new files within an hour"
            ),
        }
    }

    /// What happened to the files.
    #[must_use]
    pub fn what(self) -> String {
        let Self {
            kind,
            files,
            moves,
            limit,
        } = self;
        let what = match kind {
            BulkChangeKind::New => "new files arrived within an hour".to_owned(),
            BulkChangeKind::Changed if moves == 0 => "known files changed at once".to_owned(),
            BulkChangeKind::Changed if moves == files => {
                "known files must be renamed or moved in storage at once".to_owned()
            }
            BulkChangeKind::Changed => format!(
                "known files changed at once, {moves} of them only in name, folder or storage folder"
            ),
        };
        format!("{files} {what} (limit {limit})")
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

sql::row! {
    /// What the guard knows of a watch.
    #[derive(Debug, Clone, Copy)]
    struct Guarded {
        /// Known files that may be due at once.
        limit: i64 = "bulk_change_limit",
        /// How many the operator has approved; 0 for none.
        approved: i64 = "bulk_change_approved",
        /// How many there were when the watch was suspended; 0 when it is not.
        suspended_for: i64 = "bulk_change_files",
        /// What it was suspended for.
        kind: BulkChangeKind = "bulk_change_kind",
        /// Known files that are due now.
        due: i64,
        /// Those of them with content that storage has.
        moves: i64,
        /// New files that may arrive within the window.
        new_files_limit: i64,
        /// Since when they are counted, in milliseconds; None: any number is expected.
        new_files_since: Option<i64>,
        /// How many have arrived since.
        new_files: i64,
    }
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Nothing,
    /// What was approved is done.
    EndApproval,
    Suspend(BulkChangeKind),
}

fn decide(watch: Guarded) -> Decision {
    let reported = |kind| match watch.suspended_for {
        0 => 0,
        files if watch.kind == kind => files,
        // It is suspended for something else: changes are more important to know of.
        _ if kind == BulkChangeKind::Changed => 0,
        _ => i64::MAX,
    };
    let approved = watch.approved.max(reported(BulkChangeKind::Changed));
    if watch.due > watch.limit && watch.due > approved {
        return Decision::Suspend(BulkChangeKind::Changed);
    }
    let new = watch.new_files;
    if new > watch.new_files_limit && new > reported(BulkChangeKind::New) {
        return Decision::Suspend(BulkChangeKind::New);
    }
    if watch.due <= watch.limit && watch.approved > 0 {
        return Decision::EndApproval;
    }
    Decision::Nothing
}

/// When the count of new files began and what it is, after `arrived` more. A suspension keeps it from starting again.
fn count_new(watch: Guarded, arrived: i64, now: Timestamp) -> Option<(i64, i64)> {
    let since = watch.new_files_since?;
    let age = now.duration_since(timestamp(since));
    let lasts = (SignedDuration::ZERO..NEW_FILES_WINDOW).contains(&age);
    Some(if lasts || watch.suspended_for > 0 {
        (since, watch.new_files.saturating_add(arrived))
    } else {
        (millis(now), arrived)
    })
}

/// Sets the limits of a watch. Ends its suspension when no more files than that, or than approved, caused it.
pub(super) async fn set_limits(
    tx: &mut Tx,
    watch_id: i64,
    limits: BulkChangeLimits,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE watches SET bulk_change_limit = $2, new_files_limit = $3, bulk_change_files = CASE \
         WHEN bulk_change_kind = $4 AND bulk_change_files > $3 THEN bulk_change_files \
         WHEN bulk_change_kind <> $4 AND bulk_change_files > $2 \
         AND bulk_change_files > bulk_change_approved THEN bulk_change_files ELSE 0 END \
         WHERE id = $1",
    )
    .bind(watch_id)
    .bind(count_column(limits.changed_files))
    .bind(count_column(limits.new_files))
    .bind(BulkChangeKind::New)
    .execute(tx)
    .await?;
    Ok(())
}

/// What happened to the files of a watch since the last call of the guard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    /// How many are new; below zero for files that turned out to be known ones.
    pub(super) new: i64,
    /// Whether files may be due that storage knows. Those are counted one by one, so not for each of a million new
    /// files.
    pub(super) known: bool,
}

impl Arrived {
    /// No file is new, but known ones may be due.
    pub(super) const NONE: Self = Self {
        new: 0,
        known: true,
    };

    /// A new file turned out to be a known one.
    pub(super) const KNOWN_AFTER_ALL: Self = Self {
        new: -1,
        known: true,
    };
}

/// Suspends a watch when more of its files than its limits are due that storage knows, or have arrived. Some: suspended
/// from now on.
pub(super) async fn guard(
    tx: &mut Tx,
    watch_id: i64,
    arrived: Arrived,
    now: Timestamp,
) -> Result<Option<BulkChange>, sqlx::Error> {
    let mut watch: Guarded = sql::query_as(
        "SELECT w.bulk_change_limit, w.bulk_change_approved, w.bulk_change_files, \
         w.bulk_change_kind, w.new_files_limit, w.new_files_since, w.new_files, \
         CASE WHEN $2 OR w.bulk_change_approved > 0 THEN (SELECT COUNT(*) FROM jobs j JOIN files f \
         ON f.id = j.file_id WHERE f.watch_id = w.id AND j.watch_id = w.id AND j.state = 'due' \
         AND j.touched = 0 AND (f.stored_version IS NOT NULL OR f.adopted = 1)) ELSE 0 END AS due, \
         CASE WHEN $2 OR w.bulk_change_approved > 0 THEN (SELECT COUNT(*) FROM jobs j JOIN files f \
         ON f.id = j.file_id WHERE f.watch_id = w.id AND j.watch_id = w.id AND j.state = 'due' \
         AND f.relocation IS NOT NULL AND f.stored_version = f.version) ELSE 0 END AS moves \
         FROM watches w WHERE w.id = $1",
    )
    .bind(watch_id)
    .bind(arrived.known)
    .fetch_one(tx)
    .await?;
    if arrived.new != 0
        && let Some((since, new)) = count_new(watch, arrived.new, now)
    {
        watch.new_files = new.max(0);
        sql::query("UPDATE watches SET new_files_since = $2, new_files = $3 WHERE id = $1")
            .bind(watch_id)
            .bind(since)
            .bind(watch.new_files)
            .execute(tx)
            .await?;
    }
    match decide(watch) {
        Decision::Nothing => Ok(None),
        Decision::EndApproval => {
            sql::query("UPDATE watches SET bulk_change_approved = 0 WHERE id = $1")
                .bind(watch_id)
                .execute(tx)
                .await?;
            Ok(None)
        }
        Decision::Suspend(kind) => suspend(tx, watch_id, watch, kind).await,
    }
}

async fn suspend(
    tx: &mut Tx,
    watch_id: i64,
    watch: Guarded,
    kind: BulkChangeKind,
) -> Result<Option<BulkChange>, sqlx::Error> {
    let (files, limit) = match kind {
        BulkChangeKind::Changed => (watch.due, watch.limit),
        BulkChangeKind::New => (watch.new_files, watch.new_files_limit),
    };
    let moves = match kind {
        BulkChangeKind::Changed => watch.moves,
        BulkChangeKind::New => 0,
    };
    sql::query(
        "UPDATE watches SET bulk_change_files = $2, bulk_change_kind = $3, \
         bulk_change_moves = $4 WHERE id = $1",
    )
    .bind(watch_id)
    .bind(files)
    .bind(kind)
    .bind(moves)
    .execute(tx)
    .await?;
    let change = BulkChange {
        kind,
        files: count_value(files),
        moves: count_value(moves),
        limit: count_value(limit),
    };
    // More files than before: it is suspended already.
    Ok((watch.suspended_for == 0).then_some(change))
}

impl Ledger {
    /// Counts new files of a watch from now on, if its first ones are in storage, and the operator's approval of more
    /// is used up: no more than the limit are due or, as `unfinished`, not handed over yet. To call after a complete
    /// scan.
    pub async fn guard_new_files(
        &self,
        watch: WatchId,
        unfinished: u64,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("guard against too many new files", async |tx| {
                let limit: Option<i64> = sql::query_scalar(
                    "SELECT new_files_limit FROM watches w WHERE id = $1 \
                     AND new_files_since IS NULL AND bulk_change_files = 0 AND EXISTS \
                     (SELECT 1 FROM files f WHERE f.watch_id = w.id \
                     AND f.storage_file_id IS NOT NULL AND f.stored_version IS NOT NULL)",
                )
                .bind(watch)
                .fetch_optional(tx)
                .await?;
                let Some(limit) = limit else { return Ok(()) };
                let due: i64 = sql::query_scalar(
                    "SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id \
                     WHERE j.watch_id = $1 AND j.state = 'due' AND f.stored_version IS NULL \
                     AND f.adopted = 0",
                )
                .bind(watch)
                .fetch_one(tx)
                .await?;
                if due.saturating_add(count_column(unfinished)) <= limit {
                    sql::query(
                        "UPDATE watches SET new_files_since = $2, new_files = 0 WHERE id = $1",
                    )
                    .bind(watch)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                }
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    const UNTOUCHED: Guarded = Guarded {
        limit: 10,
        approved: 0,
        suspended_for: 0,
        kind: BulkChangeKind::Changed,
        due: 0,
        new_files_limit: 10,
        new_files_since: Some(0),
        new_files: 0,
        moves: 0,
    };

    #[test]
    fn a_watch_is_suspended_above_its_limit_unless_the_operator_has_approved_that_many() {
        use BulkChangeKind::{Changed, New};
        use Decision::{EndApproval, Nothing, Suspend};
        for (approved, kind, suspended_for, due, expected) in [
            (0, Changed, 0, 10, Nothing),
            (0, Changed, 0, 11, Suspend(Changed)),
            // It is suspended already, and the number rises.
            (0, Changed, 11, 11, Nothing),
            (0, Changed, 11, 12, Suspend(Changed)),
            // It is suspended for new files.
            (0, New, 40, 11, Suspend(Changed)),
            (40, Changed, 0, 40, Nothing),
            (40, Changed, 0, 41, Suspend(Changed)),
            (40, Changed, 0, 10, EndApproval),
        ] {
            let watch = Guarded {
                approved,
                suspended_for,
                kind,
                due,
                ..UNTOUCHED
            };
            assert_eq!(decide(watch), expected, "{watch:?}");
        }
    }

    #[test]
    fn too_many_new_files_suspend_a_watch_that_is_not_suspended_for_changes() {
        use BulkChangeKind::{Changed, New};
        use Decision::{Nothing, Suspend};
        for (kind, suspended_for, new_files, expected) in [
            (Changed, 0, 10, Nothing),
            (Changed, 0, 11, Suspend(New)),
            (New, 0, 11, Suspend(New)),
            (New, 11, 11, Nothing),
            (New, 11, 12, Suspend(New)),
            (Changed, 11, 12, Nothing),
        ] {
            let watch = Guarded {
                suspended_for,
                kind,
                new_files,
                ..UNTOUCHED
            };
            assert_eq!(decide(watch), expected, "{watch:?}");
        }
    }

    #[test]
    fn new_files_are_counted_for_an_hour_and_over_a_suspension() {
        let hour = 3_600_000;
        for (suspended_for, since, now, expected) in [
            (0, None, 5, None),
            (0, Some(5), hour, Some((5, 9))),
            (0, Some(5), hour + 5, Some((hour + 5, 2))),
            // The clock was set back.
            (0, Some(5), 4, Some((4, 2))),
            (7, Some(5), hour * 2, Some((5, 9))),
        ] {
            let watch = Guarded {
                suspended_for,
                new_files_since: since,
                new_files: 7,
                ..UNTOUCHED
            };
            assert_eq!(count_new(watch, 2, timestamp(now)), expected, "{watch:?}");
        }
    }

    /// A ledger whose limit is 3 new files, with one file in storage.
    async fn small() -> Fixture {
        let f = Fixture::new().await;
        let mut spec = spec("north");
        spec.bulk_change_limits.new_files = 3;
        f.ledger.register_watches(&[spec], at(0)).await.unwrap();
        f.stored("first.dgn").await;
        f
    }

    async fn arrive(f: &Fixture, names: std::ops::Range<u8>, second: i64) -> Option<u64> {
        let files: Vec<_> = names.map(|n| ready(&format!("{n}.dgn"), 1)).collect();
        let handed_over = f.ledger.hand_over(f.watch, &files, at(second)).await;
        let change = handed_over.unwrap().bulk_change?;
        assert_eq!(change.kind, BulkChangeKind::New);
        Some(change.files)
    }

    #[tokio::test]
    async fn the_first_files_of_a_watch_do_not_suspend_it() {
        let f = small().await;
        assert_eq!(arrive(&f, 0..9, 100).await, None);
        // They are still due.
        f.ledger.guard_new_files(f.watch, 0, at(200)).await.unwrap();
        assert_eq!(arrive(&f, 10..19, 300).await, None);
    }

    #[tokio::test]
    async fn files_that_are_still_written_belong_to_the_first_ones() {
        let f = small().await;
        f.ledger.guard_new_files(f.watch, 4, at(200)).await.unwrap();
        assert_eq!(arrive(&f, 0..4, 300).await, None);
    }

    #[tokio::test]
    async fn later_new_files_suspend_a_watch_when_they_arrive_within_an_hour() {
        let f = small().await;
        f.ledger.guard_new_files(f.watch, 0, at(200)).await.unwrap();
        // The platform is away: nothing of this is uploaded.
        assert_eq!(arrive(&f, 0..3, 300).await, None);
        assert_eq!(arrive(&f, 3..6, 300 + 3600).await, None);
        assert_eq!(arrive(&f, 6..7, 300 + 3700).await, Some(4));
        assert_eq!(arrive(&f, 7..8, 300 + 3800).await, None, "it is suspended");
        let north = ["north".to_owned()];
        let resumed = f.ledger.resume_watches(&north, at(4200)).await;
        assert_eq!(resumed.unwrap(), 1);
        assert_eq!(
            arrive(&f, 8..20, 4300).await,
            None,
            "more of what was approved"
        );
        f.ledger
            .guard_new_files(f.watch, 0, at(4400))
            .await
            .unwrap();
        assert_eq!(arrive(&f, 20..30, 4500).await, None, "20 files are due");
    }
}
