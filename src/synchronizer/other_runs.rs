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
        let unknown = self.unknown_runs(connection, &known).await?;
        let started = unknown
            .into_iter()
            .filter(|run| run.started.is_some_and(|started| started >= earliest));
        let first = started.min_by_key(|run| run.started);
        Ok(first.map(|run| run.id))
    }

    /// Runs of the connection that are not among those that the ledger has, at most [`UNKNOWN_RUNS`], first those that
    /// have not ended.
    async fn unknown_runs(
        &self,
        connection: &str,
        known: &[String],
    ) -> Result<Vec<Run>, itwin::Error> {
        let known: HashSet<&String> = known.iter().collect();
        let mut listed = self.client.runs(connection).await?;
        listed.retain(|run| !known.contains(&run.id));
        listed.sort_by_key(ListedRun::is_final);
        listed.truncate(UNKNOWN_RUNS);
        let ids = listed.iter().map(|run| &run.id);
        self.read_runs(connection, ids).await
    }

    /// The runs with these ids, as far as they exist.
    async fn read_runs<'i>(
        &self,
        connection: &str,
        ids: impl Iterator<Item = &'i String>,
    ) -> Result<Vec<Run>, itwin::Error> {
        let mut runs = Vec::new();
        for id in ids {
            match self.client.run_state(connection, id).await {
                Ok(run) => runs.push(run),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(runs)
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
        let mut others = self.unknown_runs(connection, &known).await?;
        let own = known.iter().filter(|id| **id != run.id).take(OWN_RUNS);
        others.extend(self.read_runs(connection, own).await?);
        for other in others.iter().filter(|other| other.is_final()) {
            processed.extend(
                silent
                    .iter()
                    .filter(|file| began_after_upload(other, file))
                    .filter(|file| outcome::succeeded(other, file))
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
