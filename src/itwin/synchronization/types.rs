//! Connections, source files and runs as the platform returns them. States and results stay the platform's own words.
//!
//! A field of an unexpected type does not make the rest unreadable.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::connector_type::ConnectorType;
use crate::ids::StorageFileId;
use crate::itwin::list::Item;
use crate::itwin::untrusted_text::{id, maybe_name, maybe_text, name, sanitize, text, time};

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

/// For whom the runs of a connection act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// The service application itself.
    Service,
    /// The user who owns the connection.
    User,
}

impl Authentication {
    pub(in crate::itwin) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::User => "User",
        }
    }
}

/// Whether a user may take over a connection of a service application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// What to do about a connection before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::itwin) enum Claim {
    Keep,
    Set,
    Refuse,
}

/// Decides that. A service application has no one to ask: a connection that has its name is its own.
pub(in crate::itwin) fn claim(
    ours: Authentication,
    found: Option<Authentication>,
    takeover: Takeover,
) -> Claim {
    match (ours, found) {
        (Authentication::Service, Some(Authentication::Service)) => Claim::Keep,
        (Authentication::Service, _) => Claim::Set,
        // One that is not told may be a user's: a run shows it.
        (Authentication::User, Some(Authentication::User) | None) => Claim::Keep,
        (Authentication::User, Some(Authentication::Service)) => match takeover {
            Takeover::Yes => Claim::Set,
            Takeover::No => Claim::Refuse,
        },
    }
}

impl Connection {
    /// For whom its runs act; None if unknown.
    #[must_use]
    pub fn authentication(&self) -> Option<Authentication> {
        let word = self.authentication_type.as_ref()?;
        [Authentication::Service, Authentication::User]
            .into_iter()
            .find(|known| word.eq_ignore_ascii_case(known.as_str()))
    }
}

/// A connection to create.
#[derive(Debug, Clone, Copy)]
pub struct NewConnection<'a> {
    /// Its iModel.
    pub imodel_id: &'a str,
    /// Its name.
    pub display_name: &'a str,
    /// Storage file id and connector type of each source file; at least one.
    pub source_files: &'a [(&'a StorageFileId, &'a ConnectorType)],
}

/// A storage file in a connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourceFile {
    /// UUID of the mapping, not of the storage file.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// The storage file.
    #[serde(default, deserialize_with = "name")]
    pub storage_file_id: StorageFileId,
    /// The connector that reads it.
    #[serde(default, deserialize_with = "maybe_text")]
    pub connector_type: Option<ConnectorType>,
}

/// The platform's response to a run request.
#[derive(Debug, Clone)]
pub enum RunAnswer {
    /// A run was started.
    Started {
        /// Its id.
        run_id: String,
    },
    /// Nothing was started: a run of the same iModel is active, possibly of another connection.
    Active(Option<ActiveRun>),
    /// Nothing was started: another request arrived at the same moment.
    Contended,
}

/// The active run of another request.
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
    /// Start, by the platform's clock.
    #[serde(rename = "startDateTime", default, deserialize_with = "time")]
    pub started: Option<Timestamp>,
    /// The platform's state; see [`Run::is_final`].
    #[serde(default, deserialize_with = "text")]
    pub state: String,
    /// The platform's result.
    #[serde(default, deserialize_with = "text")]
    pub result: String,
    /// The platform's word for what it is doing; None before the run is planned.
    #[serde(default, deserialize_with = "maybe_word")]
    pub phase: Option<String>,
    /// The error of the run as a whole.
    #[serde(default, deserialize_with = "run_error")]
    pub error: Option<RunError>,
    /// One per connector type.
    #[serde(default, deserialize_with = "items")]
    pub jobs: Vec<RunJob>,
}

impl Run {
    /// Whether it has ended. False for an unknown state.
    #[must_use]
    pub fn is_final(&self) -> bool {
        is_final(&self.state)
    }
}

/// A run as a list names it: without its tasks, of which it may have hundreds, in each of the runs of years.
#[derive(Debug, Clone, Deserialize)]
pub struct ListedRun {
    /// Opaque.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// The platform's state; see [`ListedRun::is_final`].
    #[serde(default, deserialize_with = "text")]
    pub state: String,
}

impl ListedRun {
    /// Whether it has ended. False for an unknown state.
    #[must_use]
    pub fn is_final(&self) -> bool {
        is_final(&self.state)
    }
}

fn is_final(state: &str) -> bool {
    state.eq_ignore_ascii_case("Completed")
}

/// The error of a run as a whole.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunError {
    #[serde(default, deserialize_with = "maybe_text")]
    error_key: Option<String>,
    #[serde(default, deserialize_with = "maybe_text")]
    description: Option<String>,
}

impl RunError {
    /// Whether the platform has no valid authorization of the connection's owner.
    #[must_use]
    pub fn owner_is_not_authenticated(&self) -> bool {
        self.error_key
            .as_ref()
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

/// The part of a run for one connector.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunJob {
    /// The connector; None if the platform names none.
    #[serde(default, deserialize_with = "maybe_text")]
    pub connector_type: Option<ConnectorType>,
    /// The platform's state, in the words of a run's; None if unknown.
    #[serde(default, deserialize_with = "maybe_word")]
    pub state: Option<String>,
    /// One per file.
    #[serde(default, deserialize_with = "items")]
    pub tasks: Vec<RunTask>,
}

/// The part of a run for one file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunTask {
    /// The storage file.
    #[serde(default, deserialize_with = "maybe_name")]
    pub storage_file_id: Option<StorageFileId>,
    /// The platform's state, in the words of a run's; None if unknown.
    #[serde(default, deserialize_with = "maybe_word")]
    pub state: Option<String>,
    /// The platform's result. It decides: an error can be present in spite of success.
    #[serde(default, deserialize_with = "text")]
    pub result: String,
    /// The connector's error.
    #[serde(default, deserialize_with = "task_error")]
    pub error: Option<TaskError>,
    /// The connector's report.
    #[serde(rename = "details", default, deserialize_with = "report")]
    pub report: TaskReport,
}

/// A connector's report about a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct TaskReport {
    /// The suggested action.
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
    /// Whether the user can fix it, if known.
    #[serde(default)]
    pub can_user_fix: Option<bool>,
    /// URL of an explanation.
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
        let text = self.description.as_deref().or(self.message.as_deref());
        let parts: Vec<&str> = [self.error_code.as_deref(), text]
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
        let connector = self
            .connector_type
            .as_ref()
            .map_or("", ConnectorType::as_str);
        self.id.len() + self.storage_file_id.len() + connector.len()
    }
}

impl Item for ListedRun {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        self.id.len() + self.state.len()
    }
}

fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A word that only reports show. One of an unexpected type counts as missing.
fn maybe_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| maybe_text(&value).unwrap_or_default()))
}

/// The error of a task. One of an unexpected type is kept as text.
fn task_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TaskError>, D::Error> {
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

/// The error of a run, likewise.
fn run_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RunError>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.map(|value| {
        let text = maybe_text(&value).unwrap_or_default();
        serde_json::from_value(value).unwrap_or(RunError {
            error_key: None,
            description: text,
        })
    }))
}

/// The report in the details of a task. One that cannot be decoded counts as empty: the result decides.
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
            .map(|text| sanitize(&text))
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
    fn a_connection_of_a_service_application_is_taken_over_only_if_that_is_allowed() {
        use Authentication::{Service, User};
        for (ours, found, takeover, expected) in [
            (Service, Some(Service), Takeover::No, Claim::Keep),
            (Service, Some(User), Takeover::No, Claim::Set),
            (Service, None, Takeover::No, Claim::Set),
            (User, Some(User), Takeover::No, Claim::Keep),
            (User, Some(User), Takeover::Yes, Claim::Keep),
            (User, None, Takeover::Yes, Claim::Keep),
            (User, Some(Service), Takeover::No, Claim::Refuse),
            (User, Some(Service), Takeover::Yes, Claim::Set),
        ] {
            assert_eq!(
                claim(ours, found, takeover),
                expected,
                "{ours:?} {found:?} {takeover:?}"
            );
        }
    }

    #[test]
    fn an_error_of_an_unexpected_type_does_not_make_a_run_unreadable() {
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
