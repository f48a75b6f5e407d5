//! Removes source files and storage files from the platform, for `orphans` and `detach`.
//!
//! Source files are removed only while no run of their iModel is active. Everything that was removed is recorded by the
//! daemon, or in the ledger when there is none, before the next request is sent. Content of a watched file is never
//! lost: a storage file that a local file needs after all is uploaded again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::operate::{self, record_removals};
use crate::config::Watch;
use crate::ids::{ImodelId, StorageFileId};
use crate::itwin::{self, Client};
use crate::ledger::{Removal, Removed};
use crate::ledger_location::LedgerLocation;

/// How long a command waits until no run of an iModel is active.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("a run of iModel {} is active: nothing more was removed", .0.as_str())]
    RunActive(ImodelId),
    #[error("cannot remove files from the platform")]
    Platform(#[from] itwin::Error),
    #[error("cannot record what was removed")]
    Record(#[from] operate::Error),
}

impl Error {
    pub(super) fn hint(&self, watches: &[Watch]) -> Option<String> {
        match self {
            Self::RunActive(_) => Some("repeat the command when the run has ended".to_owned()),
            Self::Platform(error) => error.hint(),
            Self::Record(error) => error.hint(watches),
        }
    }
}

/// A source file to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) imodel_id: ImodelId,
    /// The platform's id of its connection.
    pub(super) connection: String,
    pub(super) source_file_id: String,
}

/// Removes files from the platform, one after the other.
pub(super) struct Remover<'a> {
    client: &'a Client,
    state: LedgerLocation,
    poll_interval: Duration,
    report: fn(&str),
    /// The connections of each iModel.
    connections: HashMap<ImodelId, Vec<String>>,
}

impl<'a> Remover<'a> {
    /// Fails if nothing could be recorded. `report` prints a line about the progress.
    pub(super) async fn new(
        client: &'a Client,
        state: LedgerLocation,
        poll_interval: Duration,
        report: fn(&str),
    ) -> Result<Self, Error> {
        record_removals(&state, &[]).await?;
        Ok(Self {
            client,
            state,
            poll_interval,
            report,
            connections: HashMap::new(),
        })
    }

    /// Removes a source file, once no run of its iModel is active.
    pub(super) async fn remove_source_file(
        &mut self,
        mapped: &Mapped,
        what: Removed,
        storage_file_id: &StorageFileId,
        path: &str,
    ) -> Result<(), Error> {
        self.await_idle(&mapped.imodel_id).await?;
        let (connection, source_file) = (&mapped.connection, &mapped.source_file_id);
        self.client
            .remove_source_file(connection, source_file)
            .await?;
        let imodel = mapped.imodel_id.as_str();
        self.record(Removal {
            what,
            imodel_id: mapped.imodel_id.clone(),
            storage_file_id: storage_file_id.clone(),
            source_file_id: Some(source_file.clone()),
            path: path.to_owned(),
        })
        .await?;
        (self.report)(&format!(
            "{path:?}: source file removed from iModel {imodel}"
        ));
        Ok(())
    }

    /// Moves a storage file to the recycle bin.
    pub(super) async fn remove_storage_file(
        &self,
        imodel_id: &ImodelId,
        storage_file_id: &StorageFileId,
        path: &str,
    ) -> Result<(), Error> {
        self.client.delete_file(storage_file_id).await?;
        self.record(Removal {
            what: Removed::StorageFile,
            imodel_id: imodel_id.clone(),
            storage_file_id: storage_file_id.clone(),
            source_file_id: None,
            path: path.to_owned(),
        })
        .await?;
        (self.report)(&format!("{path:?}: storage file moved to the recycle bin"));
        Ok(())
    }

    async fn record(&self, removal: Removal) -> Result<(), Error> {
        Ok(record_removals(&self.state, &[removal]).await?)
    }

    /// Waits until no run of the iModel is active, as far as its storage connections show.
    async fn await_idle(&mut self, imodel_id: &ImodelId) -> Result<(), Error> {
        if !self.connections.contains_key(imodel_id) {
            let found = self.client.connections(imodel_id).await?;
            let ids = found.into_iter().map(|one| one.id).collect();
            self.connections.insert(imodel_id.clone(), ids);
        }
        let connections = self.connections.get(imodel_id).into_iter().flatten();
        let connections: Vec<&String> = connections.collect();
        let deadline = Instant::now() + RUN_MAX;
        let mut waits = false;
        loop {
            let mut is_active = false;
            for connection in &connections {
                let runs = self.client.runs(connection).await?;
                is_active |= runs.iter().any(|run| !run.is_final());
            }
            if !is_active {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::RunActive(imodel_id.clone()));
            }
            if !waits {
                waits = true;
                (self.report)(&format!(
                    "waiting for the active run of iModel {}",
                    imodel_id.as_str()
                ));
            }
            tokio::time::sleep(self.poll_interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let no_ledger = || crate::ledger::Error::Missing {
            path: "/var/lib/itwin-syncd".into(),
        };
        let hint = |error: &Error| error.hint(&[]);
        insta::assert_snapshot!(crate::text::render_variants!(Error, hint, {
            Error::RunActive(_) | Error::Platform(_) => {
                Error::RunActive("c0ffee00-1234-4abc-8def-0123456789ab".into())
            },
            Error::Record(_) => Error::Record(operate::Error::Ledger(no_ledger())),
        }));
    }
}
