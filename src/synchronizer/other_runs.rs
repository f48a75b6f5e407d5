//! Other runs of a connection than the one that is followed: the one whose request got no answer, and what others have
//! processed.
//!
//! The list of a connection has the runs of years, and each run has a task for each file: single runs are read, and few
//! of them.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::{SyncError, Synchronizer, outcome};
use crate::itwin::{self, ListedRun, Run};
use crate::ledger::{ConnectionFile, FileId, OpenRun};

/// Clocks that were compared over a network agree to this much.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(2);

/// How many of the last runs of a connection are read again to find what they processed.
const OWN_RUNS: usize = 5;

/// How many runs that the ledger does not have are read, each with its tasks, to find one that was requested, or what
/// they processed.
const UNKNOWN_RUNS: usize = 20;

impl Synchronizer {
    /// A run of the connection that can only be the one whose request failed: not known yet, and started
    /// after the request, by the platform's clock.
    pub(super) async fn find_run(
        &self,
        connection: &str,
        open: &OpenRun,
    ) -> Result<Option<String>, SyncError> {
        let requested = open.requested_there.unwrap_or(open.requested_at);
        let earliest = requested.saturating_sub(CLOCKS_AGREE).unwrap_or(requested);
        // If it is not among those that are read, another request does no harm.
        let known = self.ledger.known_runs(open.connection).await?;
        let mut first: Option<(Timestamp, String)> = None;
        for id in self.unknown_runs(connection, &known).await? {
            let run = self.run_if_it_exists(connection, &id).await?;
            let started = run.and_then(|run| run.started);
            let Some(started) = started.filter(|started| *started >= earliest) else {
                continue;
            };
            if first.as_ref().is_none_or(|(other, _)| started < *other) {
                first = Some((started, id));
            }
        }
        Ok(first.map(|(_, id)| id))
    }

    /// Ids of runs of the connection that are not in `known`, at most [`UNKNOWN_RUNS`]: unfinished ones first.
    async fn unknown_runs(
        &self,
        connection: &str,
        known: &[String],
    ) -> Result<Vec<String>, itwin::Error> {
        let known: HashSet<&String> = known.iter().collect();
        let mut listed = self.client.runs(connection).await?;
        listed.retain(|run| !known.contains(&run.id));
        listed.sort_by_key(ListedRun::is_final);
        listed.truncate(UNKNOWN_RUNS);
        Ok(listed.into_iter().map(|run| run.id).collect())
    }

    /// One run. It may be large: no caller keeps several.
    async fn run_if_it_exists(
        &self,
        connection: &str,
        id: &str,
    ) -> Result<Option<Run>, itwin::Error> {
        match self.client.run_state(connection, id).await {
            Ok(run) => Ok(Some(run)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Files without a task in this run whose content another run has processed: one that another client started in
    /// between, or one of ours before something else about the file was corrected.
    pub(super) async fn processed_elsewhere(
        &self,
        connection: &str,
        open: &OpenRun,
        run: &Run,
        files: &[ConnectionFile],
        in_run: &HashSet<FileId>,
    ) -> Result<HashSet<FileId>, SyncError> {
        let silent: Vec<&ConnectionFile> = files
            .iter()
            .filter(|file| in_run.contains(&file.file) && !file.stored.processed)
            .filter(|file| !outcome::has_task(run, file))
            .collect();
        if silent.is_empty() {
            return Ok(HashSet::new());
        }
        let mut processed = HashSet::new();
        let known = self.ledger.known_runs(open.connection).await?;
        let own = known.iter().filter(|id| **id != run.id).take(OWN_RUNS);
        let mut others: Vec<String> = own.cloned().collect();
        others.extend(self.unknown_runs(connection, &known).await?);
        for id in others {
            if processed.len() == silent.len() {
                break;
            }
            let other = self.run_if_it_exists(connection, &id).await?;
            let Some(other) = other.filter(Run::is_final) else {
                continue;
            };
            processed.extend(
                silent
                    .iter()
                    .filter(|file| began_after_upload(&other, file))
                    .filter(|file| outcome::succeeded(&other, file))
                    .map(|file| file.file),
            );
        }
        Ok(processed)
    }
}

/// Whether a run began after the content of the file and of its companions was completed, by the platform's clock.
fn began_after_upload(run: &Run, file: &ConnectionFile) -> bool {
    let began_after = |completed: &String| {
        let completed = completed.parse::<Timestamp>().ok();
        completed
            .zip(run.started)
            .is_some_and(|(completed, started)| started > completed)
    };
    let stored = &file.stored;
    stored.stamp.modified.as_ref().is_some_and(began_after)
        && stored.companions_modified.as_ref().is_none_or(began_after)
}
