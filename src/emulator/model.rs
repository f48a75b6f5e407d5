//! What the emulated platform holds.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::runs;

/// All that the platform holds. Maps are by id.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// iTwins, by id: their names.
    pub itwins: BTreeMap<String, String>,
    /// iModels.
    pub imodels: BTreeMap<String, Imodel>,
    /// Storage folders, the root folders among them.
    pub folders: BTreeMap<String, Folder>,
    /// Storage files.
    pub files: BTreeMap<String, File>,
    /// Storage connections.
    pub connections: BTreeMap<String, Connection>,
    /// Runs.
    pub runs: BTreeMap<String, Run>,
    /// Tokens handed out.
    pub tokens_issued: u64,
    /// Signs upload addresses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// Content that has arrived, by blob.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) blobs: BTreeMap<String, Blob>,
}

/// An iModel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Imodel {
    /// UUID.
    pub id: String,
    /// Its iTwin.
    pub itwin_id: String,
    /// Its name.
    pub display_name: String,
}

/// A storage folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Folder {
    /// Opaque.
    pub id: String,
    /// Its iTwin.
    pub itwin_id: String,
    /// None: a root folder.
    pub parent_id: Option<String>,
    /// Its name.
    pub display_name: String,
    /// Names from the root folder's children down, with slashes.
    pub path: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A storage file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct File {
    /// Opaque.
    pub id: String,
    /// Its iTwin.
    pub itwin_id: String,
    /// The folder it lies in.
    pub parent_folder_id: String,
    /// Its name.
    pub display_name: String,
    /// Names from the root folder's children down, with slashes.
    pub path: String,
    /// Free text from its creation.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The content that counts.
    pub completed: Option<Completed>,
    /// How often an upload was completed.
    pub completions: u32,
    /// How often content arrived whole.
    pub blob_writes: u32,
    /// In the recycle bin.
    pub deleted: bool,
    /// Where the next content goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending_blob: Option<String>,
    /// Where the content that counts is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<String>,
}

/// Content that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Completed {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Counted from 1, with every completed upload.
    pub version: u32,
    /// When it was completed.
    pub completed_at: Timestamp,
}

/// Content that has arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) file_id: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// A storage connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Connection {
    /// Opaque.
    pub id: String,
    /// Its iModel.
    pub imodel_id: String,
    /// Its name; not unique.
    pub display_name: Option<String>,
    /// `User` or `Service`.
    pub authentication_type: String,
    /// The files that it holds.
    pub source_files: Vec<SourceFile>,
}

/// A storage file's place in a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SourceFile {
    /// UUID.
    pub id: String,
    /// The storage file.
    pub storage_file_id: String,
    /// The connector that reads it.
    pub connector_type: String,
}

/// One execution of a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Run {
    /// Opaque.
    pub id: String,
    /// Its connection; not listed when it is somebody else's.
    pub connection_id: String,
    /// Its iModel.
    pub imodel_id: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// How long it takes, in milliseconds.
    pub duration_ms: u64,
    /// Its state as of now.
    pub state: String,
    /// Its result as of now.
    pub result: String,
    /// The contents that were complete when it was asked for, with what becomes of them.
    pub covered: Vec<Covered>,
    /// How it ends.
    pub(super) verdict: String,
    /// What is wrong with it as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<serde_json::Value>,
}

/// A source file in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Covered {
    /// The storage file.
    pub storage_file_id: String,
    /// Which of its contents; 0 for none.
    pub version: u32,
    /// SHA-256 of that content; empty for none.
    pub sha256: String,
    /// The connector that reads it.
    pub connector_type: String,
    /// How its task ends.
    pub result: String,
    /// What the connector complains about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<serde_json::Value>,
}

/// An id as storage makes them: 43 characters, the iTwin and the item.
pub(super) fn storage_id(itwin_id: &str, item: Uuid) -> String {
    let itwin = Uuid::parse_str(itwin_id).unwrap_or_default();
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&itwin.to_bytes_le());
    bytes[16..].copy_from_slice(&item.to_bytes_le());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The root folder's id: the iTwin twice.
pub(super) fn root_id(itwin_id: &str) -> String {
    storage_id(itwin_id, Uuid::parse_str(itwin_id).unwrap_or_default())
}

impl State {
    /// Adds what must be there.
    pub(super) fn set_up(&mut self, itwins: &[(String, String)], imodels: &[Imodel]) {
        if self.key.is_empty() {
            self.key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        }
        for (id, name) in itwins {
            self.itwins.insert(id.clone(), name.clone());
            let root = Folder {
                id: root_id(id),
                itwin_id: id.clone(),
                parent_id: None,
                display_name: name.clone(),
                path: String::new(),
                created_at: Timestamp::now(),
            };
            self.folders.entry(root.id.clone()).or_insert(root);
        }
        for imodel in imodels {
            self.imodels.insert(imodel.id.clone(), imodel.clone());
        }
    }

    /// For others to see: runs as they stand, nothing secret.
    pub(super) fn at(&self, now: Timestamp) -> Self {
        let mut seen = self.clone();
        seen.key.clear();
        seen.blobs.clear();
        for run in seen.runs.values_mut() {
            (run.state, run.result) = runs::standing(run, now);
        }
        seen
    }

    /// The run of an iModel that has not ended.
    pub(super) fn active_run(&self, imodel_id: &str, now: Timestamp) -> Option<&Run> {
        self.runs
            .values()
            .find(|run| run.imodel_id == imodel_id && !runs::has_ended(run, now))
    }

    pub(super) fn start_foreign_run(
        &mut self,
        imodel_id: &str,
        duration: Duration,
        now: Timestamp,
    ) -> String {
        let run = runs::begin(
            storage_id("", Uuid::new_v4()),
            imodel_id.to_owned(),
            duration,
            now,
            Vec::new(),
        );
        let id = run.id.clone();
        self.runs.insert(id.clone(), run);
        id
    }

    /// How many source files the connections of an iModel hold.
    pub(super) fn source_files_of(&self, imodel_id: &str) -> usize {
        let connections = self
            .connections
            .values()
            .filter(|connection| connection.imodel_id == imodel_id);
        connections
            .map(|connection| connection.source_files.len())
            .sum()
    }

    /// Whether a connection of the iModel holds the storage file.
    pub(super) fn is_mapped(&self, imodel_id: &str, storage_file_id: &str) -> bool {
        self.connections
            .values()
            .filter(|connection| connection.imodel_id == imodel_id)
            .flat_map(|connection| &connection.source_files)
            .any(|file| file.storage_file_id == storage_file_id)
    }
}
