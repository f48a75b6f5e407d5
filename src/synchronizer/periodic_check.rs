//! Checks at intervals, even without anything to run, that the platform still holds what it should.
//!
//! The first check of a process, and one that something asked for, reads everything. Later ones take turns, so that an
//! iModel in which nothing happens costs about one request per interval. So do those after a run: the same was read for
//! it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::warn;

use super::connection::Read;
use super::spatial_root::Extent;
use super::{IDLE_MAX, SyncError, Synchronizer, reconcile};
use crate::itwin::SourceFile;
use crate::ledger::{self, ConnectionFile, ConnectionRecord};
use crate::next_attempt;
use crate::retry::Class;
use crate::stored_content::Content;

/// What a check reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Everything,
    /// Whether the connection has all its source files.
    SourceFiles,
    /// The connection, and all that it has.
    Connection,
    /// What storage has of the files.
    Storage,
    /// The source files of other connections of the iModel.
    OtherConnections,
    /// Nothing, because the part before took more than one request: a list ends with a page without new items.
    Nothing,
}

/// The turns of checks, after one of everything or a run. Source files are what other clients change most easily.
/// Other connections come soon, because no run reads them.
const TURNS: [Part; 12] = [
    Part::SourceFiles,
    Part::OtherConnections,
    Part::Nothing,
    Part::SourceFiles,
    Part::Connection,
    Part::Nothing,
    Part::Nothing,
    Part::SourceFiles,
    Part::Storage,
    Part::Nothing,
    Part::SourceFiles,
    Part::SourceFiles,
];

/// Decides what the next check of a connection reads. `turn` is None if this process has neither checked nor run it
/// yet.
fn part(turn: Option<usize>, asked: bool, is_first_of_imodel: bool) -> Part {
    match turn.map(|turn| TURNS[turn % TURNS.len()]) {
        None => Part::Everything,
        Some(_) if asked => Part::Everything,
        // They are those of the iModel: one connection asks for all.
        Some(Part::OtherConnections) if !is_first_of_imodel => Part::SourceFiles,
        Some(part) => part,
    }
}

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
        let first = connections.iter().find(|one| one.platform_id.is_some());
        let first = first.map(|connection| connection.id);
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
            let turn = self.check_turns.get(&connection.id).copied();
            let asked = connection.checked_at <= Timestamp::UNIX_EPOCH;
            let part = part(turn, asked, first == Some(connection.id));
            match self.check(connection, part).await {
                Ok(found) => {
                    if matches!(part, Part::Everything | Part::Connection) {
                        self.claim_refused(None).await?;
                    }
                    self.check_failures = 0;
                    let next_turn = match part {
                        Part::Everything => 0,
                        _ => turn.map_or(0, |turn| turn + 1),
                    };
                    self.check_turns.insert(connection.id, next_turn);
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

    /// Checks a part of what the platform has, and corrects it. True: something has to be uploaded or run.
    async fn check(
        &mut self,
        connection: &ConnectionRecord,
        part: Part,
    ) -> Result<bool, SyncError> {
        match part {
            Part::Everything => {
                self.reconcile(connection, Extent::All, Read::Everything)
                    .await?;
                self.count_foreign().await?;
                self.check_contents(connection).await
            }
            Part::SourceFiles => {
                if self.has_source_files(connection).await? {
                    self.record_turn(connection).await?;
                } else {
                    self.reconcile(connection, Extent::All, Read::SourceFiles)
                        .await?;
                }
                self.awaits_run(connection).await
            }
            Part::Connection => {
                self.reconcile(connection, Extent::All, Read::Everything)
                    .await?;
                self.awaits_run(connection).await
            }
            Part::Storage => {
                let found = self.check_contents(connection).await?;
                self.record_turn(connection).await?;
                Ok(found)
            }
            Part::OtherConnections => {
                self.count_foreign().await?;
                self.record_turn(connection).await?;
                Ok(false)
            }
            Part::Nothing => {
                self.record_turn(connection).await?;
                Ok(false)
            }
        }
    }

    /// Whether the connection has every source file that it should have, as far as the ledger knows.
    async fn has_source_files(&self, connection: &ConnectionRecord) -> Result<bool, SyncError> {
        let now = crate::clock::now();
        let files = self.ledger.connection_files(connection.id, now).await?;
        let (Some(id), Some(mut expected)) = (&connection.platform_id, reconcile::expected(&files))
        else {
            return Ok(false);
        };
        if expected.is_empty() {
            return Ok(true);
        }
        let is_last = |there: &SourceFile| reconcile::confirm(&mut expected, there);
        match self.client.source_files_until(id, is_last).await {
            Ok(()) => Ok(expected.is_empty()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn record_turn(&self, connection: &ConnectionRecord) -> Result<(), SyncError> {
        let now = crate::clock::now();
        Ok(self.ledger.record_turn(connection, now).await?)
    }

    async fn awaits_run(&self, connection: &ConnectionRecord) -> Result<bool, SyncError> {
        let now = crate::clock::now();
        let files = self.ledger.connection_files(connection.id, now).await?;
        Ok(files.iter().any(ConnectionFile::awaits_run))
    }

    /// Compares what storage holds of all files of the connection with what was completed.
    async fn check_contents(&self, connection: &ConnectionRecord) -> Result<bool, SyncError> {
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
    fn a_check_reads_everything_at_first_and_when_asked_else_one_part_in_turn() {
        for (turn, asked, is_first, expected) in [
            (None, false, true, Part::Everything),
            (None, true, false, Part::Everything),
            (Some(0), true, true, Part::Everything),
            (Some(0), false, true, Part::SourceFiles),
            (Some(8), false, false, Part::Storage),
            (Some(1), false, true, Part::OtherConnections),
            (Some(1), false, false, Part::SourceFiles),
            (Some(12), false, true, Part::SourceFiles),
        ] {
            let found = part(turn, asked, is_first);
            assert_eq!(found, expected, "{turn:?} {asked} {is_first}");
        }
        for part in [
            Part::SourceFiles,
            Part::Connection,
            Part::Storage,
            Part::OtherConnections,
        ] {
            assert!(TURNS.contains(&part), "{part:?} never has a turn");
        }
    }

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
