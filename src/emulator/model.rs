//! What the emulated platform contains: the types of the state file and of `GET /_emulator/state`, and their ids.
//!
//! Longer than most files because it is one list of plain types, without decisions.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::faults::Report;

/// Everything on the platform. Maps are by id.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// iTwins.
    pub itwins: BTreeMap<String, Itwin>,
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
    /// Number of tokens issued.
    pub tokens_issued: u64,
    /// Users who consented to connections acting on their behalf.
    pub authorized_users: Vec<String>,
    /// When each of them consented last.
    #[serde(default)]
    pub authorized_at: BTreeMap<String, Timestamp>,
    /// Connector settings by scope, such as `imodels/ID`.
    #[serde(default)]
    pub configurations: BTreeMap<String, serde_json::Map<String, Value>>,
    /// The favorite iTwins of each client.
    #[serde(default)]
    pub favorites: BTreeMap<String, Vec<String>>,
    /// The recently used iTwins of each client, the latest first.
    #[serde(default)]
    pub recents: BTreeMap<String, Vec<String>>,
    /// Signs upload addresses and tokens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// Signs tokens: PKCS #8 in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) signing_key: String,
    /// Blobs by the name in the upload address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) blobs: BTreeMap<String, Blob>,
    /// Replaced content that is still on disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) retired: Vec<Content>,
}

/// An iTwin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Itwin {
    /// UUID.
    pub id: String,
    /// Its name.
    pub display_name: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// All other properties, as they were sent.
    pub properties: serde_json::Map<String, Value>,
    /// Its members.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Its roles.
    #[serde(default)]
    pub roles: Vec<Role>,
}

/// A member of an iTwin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Member {
    /// The user's e-mail address.
    pub email: String,
    /// The user's roles.
    pub role_ids: Vec<String>,
    /// Whether the user has all permissions.
    pub owner: bool,
}

/// A role in an iTwin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Role {
    /// UUID.
    pub id: String,
    /// Its name.
    pub display_name: String,
    /// Free text.
    pub description: String,
    /// Such as `storage_write`.
    pub permissions: Vec<String>,
}

/// An iModel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Imodel {
    /// UUID.
    pub id: String,
    /// Its iTwin.
    pub itwin_id: String,
    /// Its name.
    pub display_name: String,
    /// Free text.
    pub description: Option<String>,
    /// Its geographic extent, as it was sent.
    pub extent: Option<Value>,
    /// Creation time.
    pub created_at: Timestamp,
    /// The client that created it; empty for a configured iModel.
    #[serde(default)]
    pub creator: String,
    /// Whether it can be used; one from a baseline only after that is completed.
    #[serde(default = "always")]
    pub initialized: bool,
    /// Reads after which an empty one is initialized.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) reads_left: u32,
    /// Its creation has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) creation_failed: bool,
    /// It is not in lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unlisted: bool,
    /// Bits for schema synchronization, codes and views.
    #[serde(default)]
    pub containers_enabled: u64,
    /// Pushed changesets, by index from 1.
    #[serde(default)]
    pub changesets: Vec<Changeset>,
    /// Named versions in order of creation.
    #[serde(default)]
    pub named_versions: Vec<NamedVersion>,
    /// Content from runs, by storage file.
    #[serde(default)]
    pub contents: Vec<ImodelContent>,
    /// The storage file that set the coordinate system: the first one that was synchronized.
    #[serde(default)]
    pub gcs_from: Option<String>,
    /// The blob of the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<String>,
}

/// The changes of one run in an iModel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Changeset {
    /// 40 hexadecimal digits.
    pub id: String,
    /// Counted from 1.
    pub index: u64,
    /// Free text.
    pub description: String,
    /// End of the run.
    pub pushed_at: Timestamp,
    /// The run.
    pub run_id: String,
    /// The owner of the connection.
    pub creator: String,
    /// Names of the storage files with new content.
    pub changed_files: Vec<String>,
}

/// A named changeset, or the named baseline.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NamedVersion {
    /// UUID.
    pub id: String,
    /// Unique in the iModel.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// None: the baseline.
    pub changeset_id: Option<String>,
    /// 0: the baseline.
    pub changeset_index: u64,
    /// Creation time.
    pub created_at: Timestamp,
    /// `visible` or `hidden`.
    pub state: String,
    /// The client that created it.
    pub creator: String,
}

/// The content of a storage file in an iModel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImodelContent {
    /// The storage file.
    pub storage_file_id: String,
    /// Version of its content.
    pub version: u32,
    /// SHA-256 of that content.
    pub sha256: String,
    /// Whether a connection of the iModel has a source file for it.
    pub mapped: bool,
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
    /// Free text.
    pub description: Option<String>,
    /// Names below the root folder, separated by slashes.
    pub path: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// The client that created it; empty for a root folder.
    #[serde(default)]
    pub created_by: String,
    /// Last change.
    pub modified_at: Timestamp,
    /// The client of the last change.
    #[serde(default)]
    pub modified_by: String,
    /// Whether it is in the recycle bin.
    pub deleted: bool,
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
    /// Its folder.
    pub parent_folder_id: String,
    /// Its name.
    pub display_name: String,
    /// Names below the root folder, separated by slashes.
    pub path: String,
    /// Free text.
    pub description: Option<String>,
    /// Creation time.
    pub created_at: Timestamp,
    /// The client that created it.
    #[serde(default)]
    pub created_by: String,
    /// Last change of content, name or description; the first content is not a change.
    pub modified_at: Timestamp,
    /// The client of the last change.
    #[serde(default)]
    pub modified_by: String,
    /// The completed content.
    pub completed: Option<Completed>,
    /// Number of completed uploads.
    pub completions: u32,
    /// Number of times that content was uploaded in full.
    pub blob_writes: u32,
    /// Whether it is in the recycle bin.
    pub deleted: bool,
    /// Whether a user has locked it.
    pub locked: bool,
    /// The upload that is not completed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Pending>,
    /// The blob of the completed content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<String>,
}

/// An upload that is not completed yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Its blob.
    pub(super) blob: String,
    /// Expiry of the upload address.
    pub(super) expires_at: Timestamp,
}

/// Completed content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Completed {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Counted from 1 with each completed upload.
    pub version: u32,
    /// Time of completion.
    pub completed_at: Timestamp,
    /// The client that completed it.
    #[serde(default)]
    pub completed_by: String,
    /// Id of the content on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
}

/// The target of an upload address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Blob {
    /// The storage file it belongs to.
    pub(super) file_id: String,
    /// The content, once it was uploaded in full.
    pub(super) content: Option<Content>,
    /// Whether it was uploaded since the address was issued.
    pub(super) is_new: bool,
    /// Uncommitted blocks by id.
    pub(super) uncommitted: BTreeMap<String, Part>,
}

/// Content that was uploaded in full.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Content {
    /// Identifies it, for its digest.
    pub(super) id: String,
    /// Bytes.
    pub(super) size: u64,
    /// Its parts in order, with block ids if it was uploaded in blocks.
    pub(super) parts: Vec<(Option<String>, Part)>,
}

/// A part of content: one file on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) size: u64,
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
    /// The client that created it.
    pub owner: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// Its source files.
    pub source_files: Vec<SourceFile>,
}

/// A storage file in a connection.
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
    /// Its connection; unlisted for a run of another application.
    pub connection_id: String,
    /// Its iModel.
    pub imodel_id: String,
    /// Time of the request.
    pub requested_at: Timestamp,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Current state.
    pub state: String,
    /// Current result.
    pub result: String,
    /// The file versions that were complete at the request, with their results.
    pub covered: Vec<Covered>,
    /// Final result.
    pub(super) verdict: String,
    /// Error of the run as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    /// Storage files without a source file, whose elements the run deletes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<String>,
    /// The owner of the connection.
    #[serde(default)]
    pub(super) creator: String,
    /// Whether the iModel has its changes.
    #[serde(default)]
    pub(super) applied: bool,
}

/// A source file in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Covered {
    /// The storage file.
    pub storage_file_id: String,
    /// Its source file in the connection.
    #[serde(default)]
    pub source_file_id: String,
    /// Version of its content; 0 for none.
    pub version: u32,
    /// SHA-256 of that content; empty for none.
    pub sha256: String,
    /// Id of that content on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    /// The connector that reads it.
    pub connector_type: String,
    /// Whether the run has a task for it; without one the run reports nothing about the file.
    #[serde(default = "always")]
    pub has_task: bool,
    /// Final result of its task.
    pub result: String,
    /// Error of its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    /// Report of its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<Report>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn always() -> bool {
    true
}

/// An id in the form of storage: 43 characters, the iTwin and the item.
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

/// The member id of a client.
pub(super) fn member_id(client_id: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(client_id).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(id).to_string()
}

/// The account that iTwins without a parent belong to.
pub(super) const ACCOUNT: &str = "99999999-8888-4777-8666-555555555555";

impl Itwin {
    /// A configured iTwin.
    pub(super) fn new(id: &str, name: &str, now: jiff::Timestamp) -> Self {
        let properties = json!({
            "class": "Endeavor", "subClass": "Project", "number": id, "status": "Active", "parentId": ACCOUNT,
            "iTwinAccountId": ACCOUNT, "dataCenterLocation": "East US",
        });
        Self {
            id: id.to_ascii_lowercase(),
            display_name: name.to_owned(),
            created_at: now,
            properties: properties.as_object().cloned().unwrap_or_default(),
            members: Vec::new(),
            roles: Vec::new(),
        }
    }
}

impl Imodel {
    /// A configured iModel.
    pub(super) fn new(id: &str, itwin_id: &str, name: &str, now: jiff::Timestamp) -> Self {
        Self {
            id: id.to_ascii_lowercase(),
            itwin_id: itwin_id.to_ascii_lowercase(),
            display_name: name.to_owned(),
            description: None,
            extent: None,
            created_at: now,
            creator: String::new(),
            initialized: true,
            reads_left: 0,
            creation_failed: false,
            unlisted: false,
            containers_enabled: 1,
            changesets: Vec::new(),
            named_versions: Vec::new(),
            contents: Vec::new(),
            gcs_from: None,
            baseline: None,
        }
    }
}

impl Folder {
    /// The path of an item in this folder.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }
}
