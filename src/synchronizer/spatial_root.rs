//! The spatial root: an empty iModel gets one file first and alone, because the first file with a coordinate system
//! defines that of the iModel for good.
//!
//! Input: the configuration, the ledger's record of that file, and whether the iModel has changesets. Output: whether
//! other files may be mapped and run. The end of the wait is recorded in the ledger and never taken back: the file is
//! synchronized, the iModel was not empty, or the operator resumed without it.

use std::time::Instant;

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::Synchronizer;
use crate::config::SpatialRoot;
use crate::ledger::{
    self, Backlog, ConnectionFile, ConnectionId, FileId, JobState, Outcome, SpatialRootEnd,
    SpatialRootState, SpatialRootWait,
};
use crate::names::QuotedPath;

/// Which files of an iModel may be mapped and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Every file.
    All,
    /// The spatial root alone.
    Only {
        connection: ConnectionId,
        file: FileId,
    },
}

/// Whether a run can be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// For these files.
    Open(Extent),
    /// Not yet: the spatial root is not in storage.
    Closed,
}

impl Extent {
    pub(super) fn has_connection(self, id: ConnectionId) -> bool {
        match self {
            Self::All => true,
            Self::Only { connection, .. } => connection == id,
        }
    }

    pub(super) fn has_file(self, file: &ConnectionFile) -> bool {
        match self {
            Self::All => true,
            Self::Only { file: only, .. } => only == file.file,
        }
    }
}

/// The state of the spatial root; None once it is in the iModel. Pure.
fn state(file: Option<&ConnectionFile>) -> Option<SpatialRootState> {
    let Some(file) = file else {
        return Some(SpatialRootState::Missing);
    };
    let synchronized = matches!(
        file.outcome,
        Some(Outcome::Synchronized | Outcome::SynchronizedWithIssues)
    );
    if synchronized || file.stored.processed {
        return None;
    }
    match file.job.map(|job| job.state) {
        Some(JobState::Failed) => Some(SpatialRootState::Failed),
        None if file.absent => Some(SpatialRootState::Missing),
        _ => Some(SpatialRootState::Pending),
    }
}

impl Synchronizer {
    /// Decides whether files wait for the spatial root.
    pub(super) async fn gate(
        &mut self,
        backlog: &Backlog,
        now: Timestamp,
    ) -> Result<Gate, ledger::Error> {
        let Some(root) = self
            .settings
            .borrow()
            .spatial_roots
            .get(&self.imodel_id)
            .cloned()
        else {
            return self.open_gate().await;
        };
        let end = self.ledger.spatial_root_end(&self.imodel_id).await?;
        if end.is_some() {
            return self.open_gate().await;
        }
        let found = self
            .ledger
            .source_file_at(&root.watch, &root.path, now)
            .await?;
        let path = QuotedPath(&root.path);
        let Some(state) = state(found.as_ref().map(|(_, file)| file)) else {
            info!(imodel = %self.imodel_id, %path, "spatial root synchronized; other files follow");
            return self.end_wait(SpatialRootEnd::Synchronized).await;
        };
        let due = found.as_ref().filter(|(_, file)| file.awaits_run());
        let others = backlog.waiting.saturating_sub(u64::from(due.is_some()));
        if due.is_none() && others == 0 {
            return Ok(Gate::Closed);
        }
        let asked = self.found_empty.map(|at| at.elapsed());
        if due.is_some() || asked.is_none_or(|since| since >= self.check_interval) {
            match self.client.has_changesets(&self.imodel_id).await {
                Ok(true) => {
                    info!(imodel = %self.imodel_id, %path, "the iModel has changesets already: spatial_root has no effect");
                    return self.end_wait(SpatialRootEnd::Changesets).await;
                }
                Ok(false) => self.found_empty = Some(Instant::now()),
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    let pause = self.policy.delay(self.failures, error.floor());
                    self.not_before = Instant::now() + pause;
                    warn!(
                        imodel = %self.imodel_id, %error, hint = error.hint(),
                        "cannot read whether the iModel has changesets; trying again"
                    );
                    return Ok(Gate::Closed);
                }
            }
        }
        if others > 0 {
            self.record_wait(&root, state).await?;
        }
        Ok(match due {
            Some((connection, file)) => Gate::Open(Extent::Only {
                connection: *connection,
                file: file.file,
            }),
            None => Gate::Closed,
        })
    }

    async fn open_gate(&mut self) -> Result<Gate, ledger::Error> {
        if self.root_wait != Some(None) {
            self.root_wait = Some(None);
            self.ledger
                .record_spatial_root(&self.imodel_id, None)
                .await?;
        }
        Ok(Gate::Open(Extent::All))
    }

    async fn end_wait(&mut self, end: SpatialRootEnd) -> Result<Gate, ledger::Error> {
        self.ledger.end_spatial_root(&self.imodel_id, end).await?;
        self.root_wait = Some(None);
        Ok(Gate::Open(Extent::All))
    }

    /// Shows what files wait for, once per state.
    async fn record_wait(
        &mut self,
        root: &SpatialRoot,
        state: SpatialRootState,
    ) -> Result<(), ledger::Error> {
        let wait = SpatialRootWait {
            path: root.path.to_string_lossy().into_owned(),
            state,
        };
        if self.root_wait.as_ref() == Some(&Some(wait.clone())) {
            return Ok(());
        }
        self.ledger
            .record_spatial_root(&self.imodel_id, Some(&wait))
            .await?;
        let (imodel, hint) = (&self.imodel_id, wait.hint(&root.watch));
        match state {
            SpatialRootState::Pending => info!(%imodel, "{}", wait.text()),
            SpatialRootState::Missing => warn!(%imodel, hint, "{}", wait.text()),
            SpatialRootState::Failed => error!(%imodel, hint, "{}", wait.text()),
        }
        self.root_wait = Some(Some(wait));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector_type::ConnectorType;
    use crate::ledger::{OpenJob, StoredState};

    #[test]
    fn the_spatial_root_is_done_once_its_content_is_in_the_imodel() {
        let missing = Some(SpatialRootState::Missing);
        let pending = Some(SpatialRootState::Pending);
        let failed = Some(SpatialRootState::Failed);
        assert_eq!(state(None), missing);
        for (job, outcome, processed, absent, expected) in [
            (Some(JobState::Due), None, false, false, pending),
            (Some(JobState::Stored), None, false, false, pending),
            (Some(JobState::Running), None, false, false, pending),
            (Some(JobState::Running), None, false, true, pending),
            (Some(JobState::Failed), None, false, false, failed),
            (None, None, false, false, pending),
            (None, None, false, true, missing),
            (None, Some(Outcome::Synchronized), true, false, None),
            (
                None,
                Some(Outcome::SynchronizedWithIssues),
                true,
                false,
                None,
            ),
            // A newer version waits; the first one has defined the coordinate system.
            (
                Some(JobState::Due),
                Some(Outcome::Synchronized),
                true,
                false,
                None,
            ),
            (
                Some(JobState::Failed),
                Some(Outcome::Failed),
                false,
                false,
                failed,
            ),
        ] {
            let job = job.map(|state| OpenJob {
                state,
                awaits_run: false,
                kind: None,
                run_attempts: 0,
                attempts: 0,
                failing_since: None,
            });
            let file = ConnectionFile {
                file: FileId::default(),
                watch: "north".to_owned(),
                path: "GCS.dgn".into(),
                storage_file_id: "f".into(),
                connector: ConnectorType::new("MSTN"),
                source_file_id: None,
                mapped_connector: None,
                job,
                stored: StoredState {
                    processed,
                    ..StoredState::default()
                },
                outcome,
                absent,
                withdrawal: None,
            };
            assert_eq!(state(Some(&file)), expected, "{job:?} {outcome:?} {absent}");
        }
    }
}
