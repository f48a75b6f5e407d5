//! Withdraws files that are gone from their folder, as far as their watch says so, and brings them back for the
//! operator.
//!
//! First the source file is removed (`surplus`), while no run of the iModel is active. For `on_delete = "remove"` a run
//! follows, so that the platform can take the elements away, and then the storage file goes to the recycle bin. Which
//! files are due is decided by the ledger; the spatial root of an iModel never is. Each request is recorded before it
//! is sent and may be repeated. A storage file that another client has changed is not deleted.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, error, info, warn};

use super::connection::Read;
use super::spatial_root::Extent;
use super::{IDLE_MAX, SyncError, Synchronizer};
use crate::failpoint::failpoint;
use crate::itwin::{self, Run};
use crate::ledger::{self, ConnectionRecord, FileId, Surplus, Withdrawn};
use crate::names::QuotedPath;
use crate::next_attempt;
use crate::stored_content::{self, Content, compare};

/// Pause between two looks for deleted files, also while some wait for a scan that confirms it.
const LOOK_GAP: Duration = Duration::from_secs(5);

/// What came of one look for deleted files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// Something was done, and more may follow.
    Done,
    /// Nothing before this pause.
    Wait(Duration),
}

/// Whether files may be withdrawn; they may be restored at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Withdrawals {
    Allowed,
    /// They wait for the window of runs.
    Wait,
}

/// With more runs of a connection that are not over, one of them counts as active without being read.
const UNFINISHED_RUNS: usize = 20;

impl Synchronizer {
    /// Withdraws and restores what is due. Returns the pause before the next look; zero when something was done.
    pub(super) async fn withdraw(
        &mut self,
        connections: &[ConnectionRecord],
        now: Timestamp,
    ) -> Result<Duration, ledger::Error> {
        let left = self
            .withdraw_not_before
            .saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(left);
        }
        let idle = match self.ledger.guard_deletions(&self.imodel_id).await? {
            0 => IDLE_MAX,
            _ => LOOK_GAP,
        };
        let pause = match self.withdraw_once(connections, now).await {
            Ok(looked) => {
                self.withdrawal_failures = 0;
                match looked {
                    Looked::Done => return Ok(Duration::ZERO),
                    Looked::Wait(pause) => pause.min(idle),
                }
            }
            Err(SyncError::Ledger(error)) => return Err(error),
            Err(SyncError::Platform(error)) => {
                self.withdrawal_failures = self.withdrawal_failures.saturating_add(1);
                let pause = self.policy.delay(self.withdrawal_failures, error.floor());
                warn!(
                    imodel = %self.imodel_id, %error, hint = error.hint(),
                    "cannot remove or restore deleted files; trying again"
                );
                pause
            }
        };
        let pause = pause.max(LOOK_GAP);
        self.withdraw_not_before = Instant::now() + pause;
        Ok(pause)
    }

    async fn withdraw_once(
        &mut self,
        connections: &[ConnectionRecord],
        now: Timestamp,
    ) -> Result<Looked, SyncError> {
        let mut done = self.restore_asked(now).await?;
        let next = match self.withdrawals {
            Withdrawals::Allowed => self.ledger.next_withdrawal(&self.imodel_id).await?,
            Withdrawals::Wait => None,
        };
        let Some(next) = next else {
            return Ok(if done {
                Looked::Done
            } else {
                Looked::Wait(IDLE_MAX)
            });
        };
        if let Ok(left) = Duration::try_from(next.duration_since(now))
            && !left.is_zero()
            && !done
        {
            return Ok(Looked::Wait(left));
        }
        let mut pause = LOOK_GAP;
        for connection in connections {
            let due = self.gone_source_files(connection, now).await?;
            if due.is_empty() {
                continue;
            }
            if connection.platform_id.is_some() {
                self.reconcile(connection, Extent::All, Read::Everything)
                    .await?;
            } else {
                for gone in self.begin_unmapping(connection).await? {
                    self.ledger.record_unmapped(&gone, now).await?;
                }
            }
            let left = self.gone_source_files(connection, now).await?;
            if left.len() == due.len() {
                // Another run is active.
                pause = self.sync.poll_max;
            } else {
                done = true;
            }
        }
        self.ledger
            .run_without_withdrawn(&self.imodel_id, now)
            .await?;
        done |= self.delete_storage_files(now).await?;
        Ok(if done {
            Looked::Done
        } else {
            Looked::Wait(pause)
        })
    }

    /// Source files of deleted files that are due, without the spatial root.
    async fn gone_source_files(
        &self,
        connection: &ConnectionRecord,
        now: Timestamp,
    ) -> Result<Vec<Surplus>, ledger::Error> {
        let mut gone = self.ledger.gone_source_files(connection.id, now).await?;
        if !gone.is_empty() {
            let root = self.settings.borrow();
            let root = root.spatial_roots.get(&self.imodel_id);
            gone.retain(|file| {
                root.is_none_or(|root| root.watch != file.watch || root.path != file.path)
            });
        }
        Ok(gone)
    }

    /// Source files of deleted files that are removed now, which is recorded. None while a run of the iModel is active,
    /// or has to wait for its window.
    pub(super) async fn begin_unmapping(
        &self,
        connection: &ConnectionRecord,
    ) -> Result<Vec<Surplus>, SyncError> {
        if self.withdrawals == Withdrawals::Wait {
            return Ok(Vec::new());
        }
        self.ledger.guard_deletions(&self.imodel_id).await?;
        let mut gone = self
            .gone_source_files(connection, crate::clock::now())
            .await?;
        if gone.is_empty() {
            return Ok(gone);
        }
        if self.has_active_run().await? {
            debug!(imodel = %self.imodel_id, files = gone.len(), "source files of deleted files are removed after the active run");
            return Ok(Vec::new());
        }
        let ids: Vec<FileId> = gone.iter().map(|file| file.file).collect();
        let begun = self.ledger.begin_unmapping(&ids).await?;
        failpoint("unmapping recorded");
        gone.retain(|file| begun.contains(&file.file));
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|file| file.elsewhere.is_some());
        for file in elsewhere {
            self.unmap_elsewhere(&file).await?;
        }
        Ok(here)
    }

    /// Removes the source file of a deleted file from a connection that the file does not belong in any more.
    async fn unmap_elsewhere(&self, gone: &Surplus) -> Result<(), SyncError> {
        let Some(mapped) = &gone.elsewhere else {
            return Ok(());
        };
        let path = QuotedPath(&gone.path);
        let (connection, source_file) = (&mapped.connection, &mapped.source_file_id);
        if let Err(error) = self
            .client
            .remove_source_file(connection, source_file)
            .await
        {
            let what = format!("cannot remove {path} from the iModel");
            return self
                .refused_withdrawal(&gone.watch, gone.file, &what, error)
                .await;
        }
        self.ledger
            .record_unmapped(gone, crate::clock::now())
            .await?;
        info!(
            watch = gone.watch, %path, connection,
            "source file removed from a former connection: the file is gone from the folder"
        );
        Ok(())
    }

    /// Whether any client runs a connection of the iModel. A run that takes too long does not count.
    async fn has_active_run(&self) -> Result<bool, itwin::Error> {
        let now = self.client.platform_time();
        for connection in self.client.connections(&self.imodel_id).await? {
            let mut runs = self.client.runs(&connection.id).await?;
            runs.retain(|run| !run.is_final());
            if runs.len() > UNFINISHED_RUNS {
                return Ok(true);
            }
            for listed in runs {
                match self.client.run_state(&connection.id, &listed.id).await {
                    Ok(run) if is_active(&run, now, self.sync.run_deadline) => return Ok(true),
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }

    /// Moves storage files to the recycle bin whose turn it is. Whether that were any.
    async fn delete_storage_files(&self, now: Timestamp) -> Result<bool, SyncError> {
        let mut done = false;
        for file in self.ledger.deletable(&self.imodel_id, now).await? {
            let what = format!(
                "cannot delete the storage file of {}",
                QuotedPath(&file.path)
            );
            match self.delete_storage_file(&file).await {
                Ok(deleted) => done |= deleted,
                Err(SyncError::Platform(error)) => {
                    self.refused_withdrawal(&file.watch, file.file, &what, error)
                        .await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn delete_storage_file(&self, file: &Withdrawn) -> Result<bool, SyncError> {
        let id = &file.storage_file_id;
        let seen = match self.client.file(id).await {
            Ok(seen) => Some(seen),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        if let (Some(seen), Some(bytes)) = (&seen, file.bytes)
            && let Content::Changed { by, at } = compare(bytes, &file.stamp, seen)
        {
            let reason = format!(
                "storage file of {} kept: another client changed it ({}, {})",
                QuotedPath(&file.path),
                by.as_deref().unwrap_or("unknown"),
                at.as_deref().unwrap_or("unknown time"),
            );
            let hint = "check it in the iTwin portal, and delete it there if it is not needed";
            self.report_refused(&file.watch, file.file, &reason, Some(hint))
                .await?;
            return Ok(false);
        }
        if !self.ledger.begin_deleting(file.file).await? {
            return Ok(false);
        }
        failpoint("deletion recorded");
        if seen.is_some() {
            self.client.delete_file(id).await?;
            failpoint("storage file deleted");
        }
        if !self
            .ledger
            .record_deleted(file.file, crate::clock::now())
            .await?
        {
            // It is back, and its upload found the storage file before this request deleted it.
            self.client.restore_file(id).await?;
            return Ok(true);
        }
        failpoint("deletion finished");
        info!(
            watch = file.watch, path = %QuotedPath(&file.path), storage_file = id.as_str(),
            "storage file moved to the recycle bin, which keeps it for 30 days: the file is gone from the folder"
        );
        Ok(true)
    }

    /// Restores storage files that the operator wants back. Whether that were any.
    async fn restore_asked(&self, now: Timestamp) -> Result<bool, SyncError> {
        let mut done = false;
        for file in self.ledger.restorable(&self.imodel_id, now).await? {
            let path = QuotedPath(&file.path);
            let what = format!("cannot restore {path}");
            match self.restore_storage_file(&file).await {
                Ok(()) => {
                    info!(watch = file.watch, %path, storage_file = file.storage_file_id.as_str(), "storage file restored");
                    done = true;
                }
                Err(SyncError::Platform(error)) if error.is_not_found() => {
                    let reason = format!("{what}: it is not in the recycle bin of iTwin Storage");
                    error!(watch = file.watch, %path, reason, "deleted file is lost in storage");
                    self.ledger
                        .record_not_restored(file.file, &reason, crate::clock::now())
                        .await?;
                    done = true;
                }
                Err(SyncError::Platform(error)) => {
                    self.refused_withdrawal(&file.watch, file.file, &what, error)
                        .await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn restore_storage_file(&self, file: &Withdrawn) -> Result<(), SyncError> {
        self.client.restore_file(&file.storage_file_id).await?;
        failpoint("storage file restored");
        // Restoring may change its time, by which changes by others are found.
        let seen = self.client.file(&file.storage_file_id).await?;
        let stamp = stored_content::stamp(&seen);
        self.ledger
            .record_restored(file.file, &stamp, crate::clock::now())
            .await?;
        failpoint("restoring finished");
        Ok(())
    }

    /// The platform refused to withdraw or to restore one file: that is recorded, and the others continue. Any other
    /// error concerns all of them.
    pub(super) async fn refused_withdrawal(
        &self,
        watch: &str,
        file: FileId,
        what: &str,
        error: itwin::Error,
    ) -> Result<(), SyncError> {
        if !matches!(error.status(), Some(400 | 403 | 404 | 409 | 422)) {
            return Err(error.into());
        }
        let reason = format!("{what}: {error}");
        let hint = error.hint();
        self.report_refused(watch, file, &reason, hint.as_deref())
            .await
    }

    async fn report_refused(
        &self,
        watch: &str,
        file: FileId,
        reason: &str,
        hint: Option<&str>,
    ) -> Result<(), SyncError> {
        let now = crate::clock::now();
        let due = next_attempt::after(now, self.policy.max);
        let is_new = self
            .ledger
            .refuse_withdrawal(file, reason, hint, due, now)
            .await?;
        if is_new {
            let next = next_attempt::clock_time(due);
            error!(
                watch,
                reason, hint, next, "deleted file is not removed or restored; trying again"
            );
        }
        Ok(())
    }
}

/// Whether a run has begun and not ended; one that began too long ago is not waited for.
fn is_active(run: &Run, now: Timestamp, deadline: Duration) -> bool {
    let is_recent = run.started.is_none_or(|started| {
        Duration::try_from(now.duration_since(started)).is_ok_and(|lasts| lasts <= deadline)
    });
    !run.state.is_empty() && !run.is_final() && is_recent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_active_until_it_ends_or_takes_too_long() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        for (run, expected) in [
            (serde_json::json!({ "state": "Executing" }), true),
            (serde_json::json!({ "state": "Completed" }), false),
            (serde_json::json!({}), false),
            (
                serde_json::json!({ "state": "Executing", "startDateTime": "2026-11-26T11:30:00Z" }),
                true,
            ),
            (
                serde_json::json!({ "state": "NotStarted", "startDateTime": "2026-11-25T11:30:00Z" }),
                false,
            ),
        ] {
            let mut run = run;
            run["id"] = "r".into();
            let run: Run = serde_json::from_value(run).unwrap();
            let found = is_active(&run, now, Duration::from_secs(3600));
            assert_eq!(found, expected, "{run:?}");
        }
    }
}
