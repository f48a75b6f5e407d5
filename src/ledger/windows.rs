//! What waits for a time of day: uploads of a watch, and runs of an iModel. And the requests of the operator to
//! synchronize now, which overrule that.
//!
//! Which times these are is decided elsewhere; here is what no claim passes (`active!`), and what reports show.

use jiff::{SignedDuration, Timestamp};

use super::clock::{due, not_suspended};
use super::deletion_guard::{is_not_renamed, owns_storage, withdrawable};
use super::withdrawals::may_be_withdrawn;
use super::{Error, Ledger, WatchId, millis, sql, timestamp};
use crate::ids::ImodelId;

/// A watch, as far as the time of its uploads is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchWindow {
    /// The watch.
    pub watch: WatchId,
    /// What its uploads wait for.
    pub wait: Option<WindowWait>,
    /// The operator wants its files to be synchronized now.
    pub sync_requested: bool,
    /// Since when its first job is due.
    pub oldest_due: Option<Timestamp>,
}

/// How long a request to synchronize lasts at most for the sake of deletions that do not get done.
const DELETIONS_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// What uploads or runs wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowWait {
    /// When they may start.
    pub until: Timestamp,
    /// A file has waited for too long.
    pub overdue: bool,
}

impl Ledger {
    /// Every configured watch, as far as the time of its uploads is concerned.
    pub async fn upload_windows(&self, now: Timestamp) -> Result<Vec<WatchWindow>, Error> {
        type Row = (WatchId, i64, bool, bool, Option<i64>);
        let rows: Vec<Row> = self
            .db
            .read("look for watches that wait for their window", async |db| {
                sql::query_as(
                    "SELECT id, uploads_wait_until, uploads_wait_overdue <> 0, \
                     sync_requested_at IS NOT NULL, (SELECT MIN(due_at) FROM jobs j \
                     WHERE j.watch_id = watches.id AND j.state = 'due') FROM watches \
                     WHERE configured = 1",
                )
                .fetch_all(db)
                .await
            })
            .await?;
        let windows =
            rows.into_iter().map(
                |(watch, until, overdue, sync_requested, oldest)| WatchWindow {
                    watch,
                    wait: (until != 0).then(|| WindowWait {
                        until: timestamp(until),
                        overdue,
                    }),
                    sync_requested,
                    oldest_due: oldest.map(timestamp).filter(|oldest| *oldest <= now),
                },
            );
        Ok(windows.collect())
    }

    /// Records what the uploads of a watch wait for.
    pub async fn record_upload_wait(
        &self,
        watch: WatchId,
        wait: Option<WindowWait>,
    ) -> Result<(), Error> {
        self.db
            .write("record what uploads wait for", async |tx| {
                sql::query(
                    "UPDATE watches SET uploads_wait_until = $2, uploads_wait_overdue = $3 \
                     WHERE id = $1",
                )
                .bind(watch)
                .bind(wait.map_or(0, |wait| millis(wait.until)))
                .bind(i64::from(wait.is_some_and(|wait| wait.overdue)))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Records what runs of an iModel wait for. Returns whether that is something else than before.
    pub async fn record_run_wait(
        &self,
        imodel_id: &ImodelId,
        wait: Option<WindowWait>,
    ) -> Result<bool, Error> {
        let until = wait.map_or(0, |wait| millis(wait.until));
        let overdue = i64::from(wait.is_some_and(|wait| wait.overdue));
        self.db
            .write("record what runs wait for", async |tx| {
                let changed = sql::query(
                    "INSERT INTO imodel_facts (imodel_id, run_waits_until, run_wait_overdue) \
                     VALUES ($1, $2, $3) ON CONFLICT (imodel_id) DO UPDATE \
                     SET run_waits_until = excluded.run_waits_until, \
                     run_wait_overdue = excluded.run_wait_overdue \
                     WHERE imodel_facts.run_waits_until <> excluded.run_waits_until \
                     OR imodel_facts.run_wait_overdue <> excluded.run_wait_overdue",
                )
                .bind(imodel_id)
                .bind(until)
                .bind(overdue)
                .execute(tx)
                .await?;
                Ok(changed > 0)
            })
            .await
    }

    /// Synchronizes what waits in these watches now, whatever the windows. Returns how many of them are known.
    pub async fn request_sync(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        self.db
            .write_durably("request a synchronization", async |tx| {
                let mut requested = 0;
                for name in names {
                    requested += sql::query(
                        "UPDATE watches SET sync_requested_at = CASE WHEN EXISTS (SELECT 1 FROM jobs \
                         WHERE watch_id = watches.id AND enqueued_at > $2) \
                         THEN (SELECT MAX(enqueued_at) FROM jobs WHERE watch_id = watches.id) \
                         ELSE $2 END WHERE name = $1 AND configured = 1",
                    )
                    .bind(name)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                }
                Ok(requested)
            })
            .await
    }

    /// Whether the operator wants files of an iModel to be synchronized now. A request ends here, once everything is
    /// done that waited when it was made and that does not wait for something else: a backoff, `resume`. Deleted files
    /// that are due are part of it.
    ///
    /// `references_since`: reference files wait for a run of their own since then.
    pub async fn sync_requested(
        &self,
        imodel_id: &ImodelId,
        references_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let requested: bool = self
            .db
            .read("look for requests to synchronize", async |db| {
                sql::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM watches WHERE imodel_id = $1 \
                     AND sync_requested_at IS NOT NULL)",
                )
                .bind(imodel_id)
                .fetch_one(db)
                .await
            })
            .await?;
        if !requested {
            return Ok(false);
        }
        self.db
            .write("end requests to synchronize", async |tx| {
                sql::query(concat!(
                    "UPDATE watches AS w SET sync_requested_at = NULL WHERE imodel_id = $1 \
                     AND sync_requested_at IS NOT NULL \
                     AND ($3 IS NULL OR $3 > sync_requested_at) AND NOT EXISTS (SELECT 1 \
                     FROM jobs j WHERE j.watch_id = w.id AND j.enqueued_at <= \
                     w.sync_requested_at AND (j.state IN ('uploading', 'running') \
                     OR (j.state IN ('due', 'stored') AND ",
                    due!("$2"),
                    // The window of uploads is overruled.
                    " AND ",
                    not_suspended!("$2"),
                    "))) AND NOT (w.sync_requested_at > $4 AND EXISTS (SELECT 1 FROM files f \
                     WHERE f.watch_id = w.id AND w.on_delete <> 'keep' AND ((",
                    withdrawable!(),
                    ") OR f.withdrawal IN ('unmapping', 'deleting') \
                     OR (f.withdrawal = 'unmapped' AND w.on_delete = 'remove')) AND ",
                    may_be_withdrawn!(),
                    "))",
                ))
                .bind(imodel_id)
                .bind(millis(now))
                .bind(references_since.map(millis))
                .bind(millis(now - DELETIONS_WAIT))
                .execute(tx)
                .await?;
                let left: bool = sql::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM watches WHERE imodel_id = $1 \
                     AND sync_requested_at IS NOT NULL)",
                )
                .bind(imodel_id)
                .fetch_one(tx)
                .await?;
                Ok(left)
            })
            .await
    }
}
