//! Checks at intervals, even without anything to run, that the platform still holds what it should.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::warn;

use super::spatial_root::Extent;
use super::{IDLE_MAX, SyncError, Synchronizer};
use crate::ledger::{self, ConnectionFile, ConnectionRecord};
use crate::next_attempt;
use crate::retry::Class;
use crate::stored_content::Content;

impl Synchronizer {
    /// No run starts for this long: checks the state of the platform if that is due.
    pub(super) async fn rest(
        &mut self,
        connections: &[ConnectionRecord],
        pause: Duration,
        now: Timestamp,
    ) -> Result<Duration, ledger::Error> {
        self.unblock().await?;
        let next_check = self.check_if_due(connections, now).await?;
        if next_check.is_zero() {
            return Ok(Duration::ZERO);
        }
        self.at_rest = true;
        Ok(pause.min(next_check).min(IDLE_MAX))
    }

    /// Checks the connections whose turn has come, and returns how long the next one has. Zero: a check found
    /// something to do.
    pub(super) async fn check_if_due(
        &mut self,
        connections: &[ConnectionRecord],
        now: Timestamp,
    ) -> Result<Duration, ledger::Error> {
        let backoff = self
            .check_not_before
            .saturating_duration_since(Instant::now());
        let mut next = self.check_interval;
        for connection in connections {
            // A connection that was never made holds nothing, but source files may have to move there.
            if connection.platform_id.is_none()
                && self.ledger.displaced(connection.id).await?.is_empty()
            {
                continue;
            }
            let left = until_check(connection.checked_at, now, self.check_interval).max(backoff);
            if !left.is_zero() {
                next = next.min(left);
                continue;
            }
            match self.check(connection).await {
                Ok(found) => {
                    self.claim_refused(None).await?;
                    self.check_failures = 0;
                    if found {
                        next = Duration::ZERO;
                    }
                }
                Err(SyncError::Ledger(error)) => return Err(error),
                Err(SyncError::Platform(error)) => {
                    if error.class() == Class::AwaitsUser {
                        self.claim_refused(Some(&error)).await?;
                    }
                    self.check_failures = self.check_failures.saturating_add(1);
                    let pause = self.policy.delay(self.check_failures, error.floor());
                    self.check_not_before = Instant::now() + pause;
                    next = next.min(pause);
                    warn!(
                        imodel = %self.imodel_id, connection = connection.name, %error,
                        hint = error.hint(),
                        "cannot check the connection; trying again"
                    );
                    break;
                }
            }
        }
        Ok(next)
    }

    /// Counts the source files in connections of others: they share the limit of the iModel.
    async fn count_foreign(&self) -> Result<(), SyncError> {
        let ours = self.ledger.connections(&self.imodel_id).await?;
        let ours: HashSet<String> = ours
            .into_iter()
            .filter_map(|connection| connection.platform_id)
            .collect();
        let mut count = 0;
        for connection in self.client.connections(&self.imodel_id).await? {
            if !ours.contains(&connection.id) {
                count += self.client.source_files(&connection.id).await?.len() as u64;
            }
        }
        self.ledger
            .record_foreign_source_files(&self.imodel_id, count)
            .await?;
        Ok(())
    }

    /// Corrects the connection, and compares what storage holds of all its files. True: something has to be uploaded
    /// or run.
    async fn check(&mut self, connection: &ConnectionRecord) -> Result<bool, SyncError> {
        self.reconcile(connection, Extent::All).await?;
        self.count_foreign().await?;
        let now = crate::clock::now();
        let files = self.ledger.connection_files(connection.id, now).await?;
        let at_rest: Vec<&ConnectionFile> = files
            .iter()
            .filter(|file| file.job.is_none() && !file.absent)
            .collect();
        let mut found = files.iter().any(ConnectionFile::awaits_run);
        let contents = self.contents(&at_rest).await?;
        for file in at_rest {
            let content = contents.get(&file.file);
            let due = next_attempt::after_foreign_change(file.stored.overwrites, &self.policy, now);
            match content {
                Some(Content::Missing) => self.ledger.upload_again(file, due, now).await?,
                Some(Content::Changed { .. }) => {
                    self.ledger.compare_again(file, due, now).await?;
                }
                Some(Content::Ours) | None => continue,
            }
            super::report_foreign_change(file, content);
            found = true;
        }
        if found {
            self.uploads.notify_one();
        }
        Ok(found)
    }
}

/// How long until a connection is checked again; a check in the future means that the clock was set back.
fn until_check(checked_at: Timestamp, now: Timestamp, interval: Duration) -> Duration {
    match Duration::try_from(now.duration_since(checked_at)) {
        Ok(since) => interval.saturating_sub(since),
        Err(_) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_checked_once_in_the_interval_whatever_the_clock_does() {
        let at = |second: i64| Timestamp::from_second(10_000 + second).unwrap();
        let hour = Duration::from_secs(3600);
        for (checked, now, left) in [
            (at(0), at(0), 3600),
            (at(0), at(600), 3000),
            (at(0), at(3600), 0),
            (at(0), at(9000), 0),
            (at(500), at(0), 0),
            (Timestamp::UNIX_EPOCH, at(0), 0),
        ] {
            let found = until_check(checked, now, hour);
            assert_eq!(found, Duration::from_secs(left), "{checked} {now}");
        }
    }
}
