//! Calls of Synchronization: connections, their source files, and runs.

mod configurations;
mod types;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::call::Call;
use super::error::Kind;
use super::headers::text_header;
use super::limits::Limit;
use super::urls::id_after;
use super::{Client, Error};
use crate::connector_type::ConnectorType;
use crate::ids::{ImodelId, StorageFileId};

pub use configurations::SettingsScope;
pub use types::{
    ActiveRun, Authentication, Connection, ListedRun, NewConnection, Run, RunAnswer, RunError,
    RunJob, RunTask, SourceFile, Takeover, TaskError,
};
use types::{Claim, claim};

const ROLE: &str =
    "a role with the permissions imodels_webview, imodels_read, imodels_write and imodels_manage";

impl Client {
    /// The storage connections of an iModel.
    ///
    /// # Errors
    /// Not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connections/
    pub async fn connections(&self, imodel_id: &ImodelId) -> Result<Vec<Connection>, Error> {
        let mut url = self.connections_url(&[]);
        url.query_pairs_mut().append_pair("imodelId", imodel_id);
        let call = Call::repeatable("list connections", Method::GET, url, ROLE);
        self.api.list(call, "connections").await
    }

    /// Creates a connection that acts for the account of this client; never repeated automatically.
    ///
    /// # Errors
    /// A file is already mapped in the iModel, something is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/create-storage-connection/
    pub async fn create_connection(&self, new: &NewConnection<'_>) -> Result<Connection, Error> {
        let files: Vec<_> = new
            .source_files
            .iter()
            .map(|(id, connector)| mapping(id, connector))
            .collect();
        let body = json!({
            "iModelId": new.imodel_id,
            "displayName": new.display_name,
            "authenticationType": self.authentication().as_str(),
            "sourceFiles": files,
        });
        let call = Call::creating("create connection", self.connections_url(&[]), ROLE)
            .json(body)
            .about_a_file();
        Ok(self
            .api
            .send(&call)
            .await?
            .json::<ConnectionBody>()?
            .connection)
    }

    /// Lets a connection act for the account of this client. Whether it did not before.
    ///
    /// # Errors
    /// It is that of a service application, the client's account is a user, and it may not be taken over; the
    /// connection does not exist, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/update-storage-connection/
    pub async fn claim_connection(
        &self,
        connection: &Connection,
        takeover: Takeover,
    ) -> Result<bool, Error> {
        match claim(self.authentication(), connection.authentication(), takeover) {
            Claim::Keep => return Ok(false),
            Claim::Refuse => {
                let name = connection.display_name.clone().unwrap_or_default();
                return Err(Error::new(
                    "use connection",
                    Kind::ServiceConnection { name },
                ));
            }
            Claim::Set => {}
        }
        let url = self.connections_url(&[&connection.id]);
        let body = json!({
            "displayName": connection.display_name,
            "authenticationType": self.authentication().as_str(),
        });
        self.api
            .send(&Call::repeatable("update connection", Method::PUT, url, ROLE).json(body))
            .await?;
        Ok(true)
    }

    /// A connection with its authentication type.
    ///
    /// # Errors
    /// The connection does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection/
    pub async fn connection(&self, connection_id: &str) -> Result<Connection, Error> {
        let url = self.connections_url(&[connection_id]);
        let call = Call::repeatable("get connection", Method::GET, url, ROLE);
        Ok(self
            .api
            .send(&call)
            .await?
            .json::<ConnectionBody>()?
            .connection)
    }

    /// Removes a source file from a connection. A missing one counts as removed.
    ///
    /// # Errors
    /// Not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/remove-storage-connection-sourcefile/
    pub async fn remove_source_file(
        &self,
        connection_id: &str,
        source_file_id: &str,
    ) -> Result<(), Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles", source_file_id]);
        let call = Call::repeatable("remove source file", Method::DELETE, url, ROLE);
        match self.api.send(&call).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// The source files of a connection.
    ///
    /// # Errors
    /// The connection does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-sourcefiles/
    pub async fn source_files(&self, connection_id: &str) -> Result<Vec<SourceFile>, Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles"]);
        let call = Call::repeatable("list source files", Method::GET, url, ROLE);
        self.api.list(call, "sourceFiles").await
    }

    /// Reads the source files of a connection until `is_last` says that one is the last that is needed.
    ///
    /// # Errors
    /// The connection does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-sourcefiles/
    pub async fn source_files_until(
        &self,
        connection_id: &str,
        is_last: impl FnMut(&SourceFile) -> bool,
    ) -> Result<(), Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles"]);
        let call = Call::repeatable("list source files", Method::GET, url, ROLE);
        let read = self.api.list_until(call, "sourceFiles", is_last).await?;
        drop(read);
        Ok(())
    }

    /// Adds a storage file to a connection; never repeated automatically.
    ///
    /// # Errors
    /// The file is already mapped in the iModel (409), does not exist, is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/add-storage-connection-sourcefile/
    pub async fn add_source_file(
        &self,
        connection_id: &str,
        storage_file_id: &StorageFileId,
        connector: &ConnectorType,
    ) -> Result<SourceFile, Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles"]);
        let call =
            Call::creating("add source file", url, ROLE).json(mapping(storage_file_id, connector));
        Ok(self
            .api
            .send(&call.about_a_file())
            .await?
            .json::<SourceFileBody>()?
            .source_file)
    }

    /// Changes the connector type of a source file.
    ///
    /// # Errors
    /// The source file does not exist, is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/update-storage-connection-sourcefile/
    pub async fn update_source_file(
        &self,
        connection_id: &str,
        source_file_id: &str,
        storage_file_id: &StorageFileId,
        connector: &ConnectorType,
    ) -> Result<(), Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles", source_file_id]);
        let call = Call::repeatable("update source file", Method::PUT, url, ROLE);
        self.api
            .send(
                &call
                    .json(mapping(storage_file_id, connector))
                    .about_a_file(),
            )
            .await
            .map(drop)
    }

    /// Requests a run; never repeated automatically.
    ///
    /// # Errors
    /// The connection does not exist, is rejected, not allowed, or not reachable. A success without a run id is an
    /// error too, of the kind that can have taken effect.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/run-storage-connection/
    pub async fn run(&self, connection_id: &str) -> Result<RunAnswer, Error> {
        let url = self.connections_url(&[connection_id, "run"]);
        let call = Call::creating("run", url, ROLE).redirects();
        let reply = match self.api.send(&call).await {
            Err(error) if error.status() == Some(409) => return Ok(RunAnswer::Contended),
            reply => reply?,
        };
        let href = text_header(&reply.headers, "location");
        let location = href.and_then(|href| active_run(self.api.base(), href));
        if reply.status.is_redirection() && href.is_some() && location.is_none() {
            return Err(reply.foreign(None));
        }
        match (reply.status, location) {
            (StatusCode::SEE_OTHER, active) => Ok(RunAnswer::Active(active)),
            (status, Some(run)) if status.is_success() => {
                Ok(RunAnswer::Started { run_id: run.run_id })
            }
            _ => Err(reply.unreadable("no run id")),
        }
    }

    /// All runs of a connection, in no particular order: ids and states. What else a list could have of each run are
    /// hundreds of tasks, so that the list of some months would be too large.
    ///
    /// # Errors
    /// The connection does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-runs/
    pub async fn runs(&self, connection_id: &str) -> Result<Vec<ListedRun>, Error> {
        let url = self.connections_url(&[connection_id, "runs"]);
        let call = Call {
            minimal: true,
            ..Call::repeatable("list runs", Method::GET, url, ROLE)
        };
        self.api.list(call, "runs").await
    }

    /// The current state of a run.
    ///
    /// # Errors
    /// The run or its connection does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
    pub async fn run_state(&self, connection_id: &str, run_id: &str) -> Result<Run, Error> {
        #[derive(Deserialize)]
        struct Body {
            run: Run,
        }
        let url = self.connections_url(&[connection_id, "runs", run_id]);
        // It has every task of the run.
        let call = Call {
            limit: Limit::List,
            ..Call::repeatable("get run", Method::GET, url, ROLE)
        };
        Ok(self.api.send(&call).await?.json::<Body>()?.run)
    }

    fn connections_url(&self, below: &[&str]) -> Url {
        let mut segments = vec!["synchronization", "imodels", "storageConnections"];
        segments.extend(below);
        self.api.url(&segments)
    }
}

#[derive(Deserialize)]
struct ConnectionBody {
    connection: Connection,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceFileBody {
    source_file: SourceFile,
}

fn mapping(storage_file_id: &StorageFileId, connector: &ConnectorType) -> serde_json::Value {
    json!({ "storageFileId": storage_file_id, "connectorType": connector })
}

/// The run in a `Location`.
fn active_run(base: &Url, href: &str) -> Option<ActiveRun> {
    let (run_id, _) = id_after(base, href, "runs")?;
    let storage = id_after(base, href, "storageConnections");
    let manifest = storage.is_none();
    let (connection_id, _) = storage.or_else(|| id_after(base, href, "manifestConnections"))?;
    Some(ActiveRun {
        run_id,
        connection_id,
        manifest,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_location_has_the_run_and_its_connection() {
        let base = Url::parse("https://api.example").unwrap();
        for (href, run, connection, manifest) in [
            (
                "https://api.example/synchronization/imodels/storageConnections/c1/runs/r1",
                "r1",
                "c1",
                false,
            ),
            (
                "/synchronization/imodels/storageconnections/c1/Runs/r1",
                "r1",
                "c1",
                false,
            ),
            (
                "https://api.example/synchronization/imodels/manifestConnections/c2/runs/r2",
                "r2",
                "c2",
                true,
            ),
        ] {
            let found = active_run(&base, href).unwrap();
            assert_eq!(
                (
                    found.run_id.as_str(),
                    found.connection_id.as_str(),
                    found.manifest
                ),
                (run, connection, manifest)
            );
        }
        assert!(active_run(&base, "/synchronization/elsewhere").is_none());
    }
}
