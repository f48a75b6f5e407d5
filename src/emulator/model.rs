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

/// All that the platform holds. Maps are by id.
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
    /// Tokens handed out.
    pub tokens_issued: u64,
    /// Users who let connections of theirs act for them.
    pub authorized_users: Vec<String>,
    /// Settings of the connectors, by scope such as `imodels/ID`.
    #[serde(default)]
    pub configurations: BTreeMap<String, serde_json::Map<String, Value>>,
    /// The favorite iTwins of each client.
    #[serde(default)]
    pub favorites: BTreeMap<String, Vec<String>>,
    /// The iTwins that each client used recently, the latest first.
    #[serde(default)]
    pub recents: BTreeMap<String, Vec<String>>,
    /// Signs upload addresses and tokens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// Signs tokens: PKCS #8 in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) signing_key: String,
    /// Where content goes to, by the name in the upload address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) blobs: BTreeMap<String, Blob>,
    /// Content that counts no longer, until it is removed from disk.
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
    /// When it was made.
    pub created_at: Timestamp,
    /// All other properties, as they were sent.
    pub properties: serde_json::Map<String, Value>,
    /// Who works on it, and with which roles.
    #[serde(default)]
    pub members: Vec<Member>,
    /// The roles there are.
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
    /// The roles that the user has.
    pub role_ids: Vec<String>,
    /// Whether the user may do everything.
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
    /// Where on earth it is, as it was sent.
    pub extent: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The client that created it; empty when it was set up beforehand.
    #[serde(default)]
    pub creator: String,
    /// Whether it can be used; one from a baseline cannot before that is completed.
    #[serde(default = "always")]
    pub initialized: bool,
    /// Bits for schema synchronization, codes and views.
    #[serde(default)]
    pub containers_enabled: u64,
    /// What was pushed, by index from 1.
    #[serde(default)]
    pub changesets: Vec<Changeset>,
    /// Named versions in the order of their creation.
    #[serde(default)]
    pub named_versions: Vec<NamedVersion>,
    /// What runs brought in, by storage file.
    #[serde(default)]
    pub contents: Vec<ImodelContent>,
    /// The storage file whose coordinate system is that of the iModel for good: the first one that was synchronized.
    #[serde(default)]
    pub gcs_from: Option<String>,
    /// Where the baseline goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<String>,
}

/// What one run changed in an iModel.
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
    /// When the run ended.
    pub pushed_at: Timestamp,
    /// The run.
    pub run_id: String,
    /// Whose connection ran.
    pub creator: String,
    /// Names of the storage files that brought something new.
    pub changed_files: Vec<String>,
}

/// A name for a changeset, or for the baseline.
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
    /// When it was created.
    pub created_at: Timestamp,
    /// `visible` or `hidden`.
    pub state: String,
    /// The client that created it.
    pub creator: String,
}

/// What an iModel holds of a storage file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImodelContent {
    /// The storage file.
    pub storage_file_id: String,
    /// Which of its contents.
    pub version: u32,
    /// SHA-256 of that content.
    pub sha256: String,
    /// Whether a connection of the iModel has a source file for it now.
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
    /// Names from the root folder's children down, with slashes.
    pub path: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The client that created it; empty for a root folder.
    #[serde(default)]
    pub created_by: String,
    /// When it was changed.
    pub modified_at: Timestamp,
    /// The client that changed it last.
    #[serde(default)]
    pub modified_by: String,
    /// In the recycle bin.
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
    /// The folder it lies in.
    pub parent_folder_id: String,
    /// Its name.
    pub display_name: String,
    /// Names from the root folder's children down, with slashes.
    pub path: String,
    /// Free text.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The client that created it.
    #[serde(default)]
    pub created_by: String,
    /// When its content, name or description was last changed; the first content does not count as a change.
    pub modified_at: Timestamp,
    /// The client that changed it last.
    #[serde(default)]
    pub modified_by: String,
    /// The content that counts.
    pub completed: Option<Completed>,
    /// How often an upload was completed.
    pub completions: u32,
    /// How often content arrived whole.
    pub blob_writes: u32,
    /// In the recycle bin.
    pub deleted: bool,
    /// Somebody keeps it from being changed.
    pub locked: bool,
    /// Where the next content goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Pending>,
    /// Where the content that counts is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<String>,
}

/// An upload that was not completed yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Where its content goes.
    pub(super) blob: String,
    /// Until when the address is good.
    pub(super) expires_at: Timestamp,
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
    /// What it consists of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
}

/// Where content goes to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Blob {
    /// The storage file it belongs to.
    pub(super) file_id: String,
    /// The content, once it has arrived whole.
    pub(super) content: Option<Content>,
    /// Whether it arrived since the address was given.
    pub(super) is_new: bool,
    /// Blocks that are in no content yet, by id.
    pub(super) uncommitted: BTreeMap<String, Part>,
}

/// Content that has arrived whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Content {
    /// Names it, for its digest.
    pub(super) id: String,
    /// Bytes.
    pub(super) size: u64,
    /// Its pieces in their order, with their block ids if it came in blocks.
    pub(super) parts: Vec<(Option<String>, Part)>,
}

/// A piece of content: one file on disk.
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
    /// Whose it is, for `User`.
    pub owner: String,
    /// When it was made.
    pub created_at: Timestamp,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    /// Storage files whose elements it removes, as they have no source file any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<String>,
    /// Whose connection runs.
    #[serde(default)]
    pub(super) creator: String,
    /// Whether the iModel has what it brought.
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
    /// Which of its contents; 0 for none.
    pub version: u32,
    /// SHA-256 of that content; empty for none.
    pub sha256: String,
    /// What that content consists of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    /// The connector that reads it.
    pub connector_type: String,
    /// Whether the run has a task for it; without one the run says nothing about the file.
    #[serde(default = "always")]
    pub has_task: bool,
    /// How its task ends.
    pub result: String,
    /// What the connector complains about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    /// What the task reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<Report>,
}

fn always() -> bool {
    true
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

/// The member id of whoever uses a client.
pub(super) fn member_id(client_id: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(client_id).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(id).to_string()
}

/// The account that iTwins without a parent belong to.
pub(super) const ACCOUNT: &str = "99999999-8888-4777-8666-555555555555";

impl Itwin {
    /// An iTwin as it is set up beforehand.
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
    /// An iModel as it is set up beforehand.
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
    /// The path of something in this folder.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }
}
