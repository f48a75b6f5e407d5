//! Synchronization: connections, the source files they hold, and runs. States and results stay the platform's words.

use std::fmt;

use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use url::Url;

use super::http::{self, Call, Item};
use super::said::{id, maybe_name, maybe_text, name, text};
use super::storage::{id_after, time};
use super::{Client, Error};

const ROLE: &str =
    "a role with the permissions imodels_webview, imodels_read, imodels_write and imodels_manage";

/// A storage connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Connection {
    /// Opaque.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Its name; not unique.
    #[serde(default, deserialize_with = "maybe_name")]
    pub display_name: Option<String>,
    #[serde(default)]
    authentication_type: Option<String>,
}

impl Connection {
    /// Whether its runs work with the service application's own credentials. Unsaid means no.
    #[must_use]
    pub fn authenticates_as_service(&self) -> bool {
        self.authentication_type
            .as_ref()
            .is_some_and(|word| word.eq_ignore_ascii_case("Service"))
    }
}

/// A connection to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewConnection<'a> {
    /// The iModel that it feeds.
    pub imodel_id: &'a str,
    /// Its name.
    pub display_name: &'a str,
    /// Storage file id and connector type of each source file; at least one.
    pub source_files: &'a [(&'a str, &'a str)],
}

/// A storage file's place in a connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourceFile {
    /// UUID of the mapping, not of the storage file.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// The storage file.
    #[serde(default, deserialize_with = "name")]
    pub storage_file_id: String,
    /// The connector that reads it.
    #[serde(default, deserialize_with = "maybe_text")]
    pub connector_type: Option<String>,
}

/// What the platform says to a request for a run.
#[derive(Debug, Clone)]
pub enum RunAnswer {
    /// A run was started.
    Started {
        /// Its id.
        run_id: String,
    },
    /// Nothing was started: a run of the same iModel is active, of whatever connection.
    Active(Option<ActiveRun>),
    /// Nothing was started: somebody asked at the same moment.
    Contended,
}

/// The run that is in the way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActiveRun {
    /// Its id.
    pub run_id: String,
    /// Its connection.
    pub connection_id: String,
    /// Whether that is a manifest connection.
    pub manifest: bool,
}

/// One execution of a connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Run {
    /// Opaque.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// When it started, by the platform's clock.
    #[serde(rename = "startDateTime", default, deserialize_with = "time")]
    pub started: Option<Timestamp>,
    /// The platform's word; see [`Run::is_final`].
    #[serde(default, deserialize_with = "text")]
    pub state: String,
    /// The platform's word.
    #[serde(default, deserialize_with = "text")]
    pub result: String,
    /// What is wrong with the run as a whole.
    #[serde(default, deserialize_with = "trouble")]
    pub error: Option<RunError>,
    /// One per connector type.
    #[serde(default, deserialize_with = "items")]
    pub jobs: Vec<RunJob>,
}

impl Run {
    /// Whether it has ended. An unknown state is none.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.state.eq_ignore_ascii_case("Completed")
    }
}

/// What is wrong with a run as a whole.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunError {
    #[serde(default, deserialize_with = "maybe_text")]
    error_key: Option<String>,
    #[serde(default, deserialize_with = "maybe_text")]
    description: Option<String>,
}

impl RunError {
    /// Whether the owner of the connection would have to sign in, which a service application never does.
    #[must_use]
    pub fn wants_a_user(&self) -> bool {
        self.error_key
            .as_deref()
            .is_some_and(|key| key.eq_ignore_ascii_case("UserNotAuthenticated"))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> = [&self.error_key, &self.description]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        f.write_str(&parts.join(": "))
    }
}

/// The part of a run that one connector does.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunJob {
    /// The connector.
    #[serde(default, deserialize_with = "text")]
    pub connector_type: String,
    /// One per file.
    #[serde(default, deserialize_with = "items")]
    pub tasks: Vec<RunTask>,
}

/// The part of a run that concerns one file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunTask {
    /// The storage file.
    #[serde(default, deserialize_with = "maybe_name")]
    pub storage_file_id: Option<String>,
    /// The platform's word. It decides; an error may be there in spite of success.
    #[serde(default, deserialize_with = "text")]
    pub result: String,
    /// What the connector complains about.
    #[serde(default, deserialize_with = "complaint")]
    pub error: Option<TaskError>,
    /// The connector's report.
    #[serde(rename = "details", default, deserialize_with = "report")]
    pub report: TaskReport,
}

/// What a connector reports of a file that it read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct TaskReport {
    /// What it suggests to do.
    pub suggested_action: Option<String>,
    /// A summary.
    pub message: Option<String>,
    /// Errors.
    #[serde(rename = "totalErrorsCount", deserialize_with = "count")]
    pub errors: u64,
    /// Warnings.
    #[serde(rename = "totalWarningsCount", deserialize_with = "count")]
    pub warnings: u64,
    /// Issues of other kinds.
    #[serde(rename = "totalOtherIssuesCount", deserialize_with = "count")]
    pub others: u64,
}

/// What a connector complains about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TaskError {
    /// Whether the user can mend it, if told.
    #[serde(default)]
    pub can_user_fix: Option<bool>,
    /// Where it is explained.
    #[serde(default, deserialize_with = "maybe_text")]
    pub kb_article_link: Option<String>,
    #[serde(default, deserialize_with = "maybe_text")]
    error_code: Option<String>,
    #[serde(default, deserialize_with = "maybe_text")]
    message: Option<String>,
    #[serde(default, deserialize_with = "maybe_text")]
    description: Option<String>,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.description.as_deref().or(self.message.as_deref());
        let parts: Vec<&str> = [self.error_code.as_deref(), told]
            .into_iter()
            .flatten()
            .collect();
        f.write_str(&parts.join(": "))
    }
}

impl Item for Connection {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        self.id.len() + self.display_name.as_ref().map_or(0, String::len)
    }
}

impl Item for SourceFile {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        let connector = self.connector_type.as_ref().map_or(0, String::len);
        self.id.len() + self.storage_file_id.len() + connector
    }
}

impl Item for Run {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        let tasks = self.jobs.iter().map(|job| job.tasks.len()).sum::<usize>();
        // Words have a length that is no longer than this.
        self.id.len() + self.jobs.len() * 256 + tasks * 1024
    }
}

impl Client {
    /// The storage connections of an iModel.
    ///
    /// # Errors
    /// Not to be seen, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connections/
    pub async fn connections(&self, imodel_id: &str) -> Result<Vec<Connection>, Error> {
        let mut url = self.connections_url(&[]);
        url.query_pairs_mut().append_pair("imodelId", imodel_id);
        let call = Call::repeatable("list connections", Method::GET, url, ROLE);
        self.api.list(call, "connections").await
    }

    /// Makes a connection that works with the service application's own credentials; never repeated by itself.
    ///
    /// # Errors
    /// A file is mapped in the iModel already, something is refused, not allowed, or not reachable.
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
            "authenticationType": "Service",
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

    /// Makes the runs of a connection work with the service application's own credentials.
    ///
    /// # Errors
    /// The connection is gone, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/update-storage-connection/
    pub async fn set_service_authentication(&self, connection: &Connection) -> Result<(), Error> {
        let url = self.connections_url(&[&connection.id]);
        let body =
            json!({ "displayName": connection.display_name, "authenticationType": "Service" });
        self.api
            .send(&Call::repeatable("update connection", Method::PUT, url, ROLE).json(body))
            .await
            .map(drop)
    }

    /// A connection, with how its runs authenticate.
    ///
    /// # Errors
    /// The connection is gone, not to be seen, or not reachable.
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

    /// Removes a mapping from a connection. One that is not there any more counts as removed.
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
    /// The connection is gone, not to be seen, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-sourcefiles/
    pub async fn source_files(&self, connection_id: &str) -> Result<Vec<SourceFile>, Error> {
        let url = self.connections_url(&[connection_id, "sourceFiles"]);
        let call = Call::repeatable("list source files", Method::GET, url, ROLE);
        self.api.list(call, "sourceFiles").await
    }

    /// Maps a storage file into a connection; never repeated by itself.
    ///
    /// # Errors
    /// The file is mapped in the iModel already (409), or gone, refused, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/add-storage-connection-sourcefile/
    pub async fn add_source_file(
        &self,
        connection_id: &str,
        storage_file_id: &str,
        connector: &str,
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

    /// Changes the connector type of a mapping.
    ///
    /// # Errors
    /// The mapping is gone, refused, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/update-storage-connection-sourcefile/
    pub async fn update_source_file(
        &self,
        connection_id: &str,
        source_file_id: &str,
        storage_file_id: &str,
        connector: &str,
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

    /// Asks for a run; never repeated by itself.
    ///
    /// # Errors
    /// The connection is gone, refused, not allowed, or not reachable. No run id in a good answer is an error too,
    /// of the kind that may have taken effect.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/run-storage-connection/
    pub async fn run(&self, connection_id: &str) -> Result<RunAnswer, Error> {
        let url = self.connections_url(&[connection_id, "run"]);
        let call = Call::creating("run", url, ROLE).redirects();
        let reply = match self.api.send(&call).await {
            Err(error) if error.status() == Some(409) => return Ok(RunAnswer::Contended),
            reply => reply?,
        };
        let href = http::text_header(&reply.headers, "location");
        let location = href.and_then(|href| located(self.api.base(), href));
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

    /// The runs of a connection, in no order that could be relied on.
    ///
    /// # Errors
    /// The connection is gone, not to be seen, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-runs/
    pub async fn runs(&self, connection_id: &str) -> Result<Vec<Run>, Error> {
        let url = self.connections_url(&[connection_id, "runs"]);
        self.api
            .list(
                Call::repeatable("list runs", Method::GET, url, ROLE),
                "runs",
            )
            .await
    }

    /// How a run stands.
    ///
    /// # Errors
    /// The run or its connection is gone, not to be seen, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
    pub async fn run_state(&self, connection_id: &str, run_id: &str) -> Result<Run, Error> {
        #[derive(Deserialize)]
        struct Body {
            run: Run,
        }
        let url = self.connections_url(&[connection_id, "runs", run_id]);
        let reply = self
            .api
            .send(&Call::repeatable("get run", Method::GET, url, ROLE))
            .await?;
        Ok(reply.json::<Body>()?.run)
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

fn mapping(storage_file_id: &str, connector: &str) -> serde_json::Value {
    json!({ "storageFileId": storage_file_id, "connectorType": connector })
}

/// The run that a `Location` points at.
fn located(base: &Url, href: &str) -> Option<ActiveRun> {
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

fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The error of a task. One of another shape than expected must not make the run unreadable: its text is kept.
fn complaint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TaskError>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.map(|value| {
        let text = maybe_text(&value).unwrap_or_default();
        serde_json::from_value(value).unwrap_or(TaskError {
            can_user_fix: None,
            kb_article_link: None,
            error_code: None,
            message: text,
            description: None,
        })
    }))
}

/// The same for the error of a run.
fn trouble<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RunError>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.map(|value| {
        let text = maybe_text(&value).unwrap_or_default();
        serde_json::from_value(value).unwrap_or(RunError {
            error_key: None,
            description: text,
        })
    }))
}

/// The report in the details of a task. One that cannot be read counts as none: the result decides.
fn report<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TaskReport, D::Error> {
    let mut details = Option::<serde_json::Value>::deserialize(deserializer)?.unwrap_or_default();
    let report = details
        .get_mut("synchronizationReport")
        .map(serde_json::Value::take)
        .unwrap_or_default();
    let mut report: TaskReport = serde_json::from_value(report).unwrap_or_default();
    for text in [&mut report.suggested_action, &mut report.message] {
        *text = text
            .take()
            .map(|text| super::said::words(&text))
            .filter(|text| !text.is_empty());
    }
    Ok(report)
}

/// A count, or 0 for anything else.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| value.as_u64()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_location_tells_the_run_and_whose_it_is() {
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
            let found = located(&base, href).unwrap();
            assert_eq!(
                (
                    found.run_id.as_str(),
                    found.connection_id.as_str(),
                    found.manifest
                ),
                (run, connection, manifest)
            );
        }
        assert!(located(&base, "/synchronization/elsewhere").is_none());
    }

    #[test]
    fn an_error_of_another_shape_does_not_make_a_run_unreadable() {
        let run: Run = serde_json::from_str(
            r#"{"id":"r","state":"Completed","result":"Error","error":"no licence","jobs":[{"tasks":[
                {"storageFileId":"s","result":"Error","error":"no project","details":7},
                {"storageFileId":"t","result":"Error","error":{"message":3}}]}]}"#,
        )
        .unwrap();
        assert_eq!(run.error.unwrap().to_string(), "no licence");
        let tasks = &run.jobs[0].tasks;
        assert_eq!(tasks[0].error.as_ref().unwrap().to_string(), "no project");
        assert_eq!(tasks[1].error.as_ref().unwrap().to_string(), "");
    }

    #[test]
    fn a_run_is_readable_with_nulls_unknown_words_and_large_exit_codes() {
        let run: Run = serde_json::from_str(
            r#"{"id":"r","state":"Hibernating","result":null,"startDateTime":null,"jobs":[{"connectorType":"NEW","tasks":[
                {"storageFileId":"s","result":"Success","details":{"synchronizationReport":{"suggestedAction":"open it","totalErrorsCount":2,"totalWarningsCount":null}},
                 "error":{"errorCode":"TAE","message":"m","bridgeExitCode":4294967295,"canUserFix":true}}]},{"tasks":null}]}"#,
        )
        .unwrap();
        assert!(!run.is_final());
        let task = &run.jobs[0].tasks[0];
        assert_eq!(task.report.suggested_action.as_deref(), Some("open it"));
        assert_eq!((task.report.errors, task.report.warnings), (2, 0));
        assert_eq!(task.error.as_ref().unwrap().to_string(), "TAE: m");
        assert_eq!(task.error.as_ref().unwrap().can_user_fix, Some(true));
        let minimal: Run =
            serde_json::from_str(r#"{"id":"r","state":"Completed","result":"Error"}"#).unwrap();
        assert!(minimal.is_final() && minimal.jobs.is_empty());
    }
}
