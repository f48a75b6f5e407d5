//! What the emulated platform holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::faults::Report;
use super::{runs, store};

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

impl State {
    /// Adds what must be there.
    pub(super) fn set_up(&mut self, itwins: &[Itwin], imodels: &[Imodel]) {
        if self.key.is_empty() {
            self.key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        }
        for itwin in itwins {
            if !self.itwins.contains_key(&itwin.id) {
                self.add_itwin(itwin.clone());
            }
        }
        for imodel in imodels {
            if !self.imodels.contains_key(&imodel.id) {
                self.imodels.insert(imodel.id.clone(), imodel.clone());
            }
        }
    }

    /// Adds an iTwin with the root folder of its storage.
    pub(super) fn add_itwin(&mut self, itwin: Itwin) {
        let root = Folder {
            id: root_id(&itwin.id),
            itwin_id: itwin.id.clone(),
            parent_id: None,
            display_name: itwin.display_name.clone(),
            description: None,
            path: String::new(),
            created_at: itwin.created_at,
            created_by: String::new(),
            modified_at: itwin.created_at,
            modified_by: String::new(),
            deleted: false,
        };
        self.folders.insert(root.id.clone(), root);
        self.itwins.insert(itwin.id.clone(), itwin);
    }

    /// Removes an iTwin with all it holds.
    pub(super) fn remove_itwin(&mut self, id: &str) {
        self.itwins.remove(id);
        for list in self.favorites.values_mut().chain(self.recents.values_mut()) {
            list.retain(|listed| listed != id);
        }
        let imodels: Vec<String> = self
            .imodels
            .values()
            .filter(|imodel| imodel.itwin_id == id)
            .map(|imodel| imodel.id.clone())
            .collect();
        for imodel in imodels {
            self.remove_imodel(&imodel);
        }
        self.folders.retain(|_, folder| folder.itwin_id != id);
        self.files.retain(|_, file| file.itwin_id != id);
    }

    /// Removes an iModel with its connections and runs.
    pub(super) fn remove_imodel(&mut self, id: &str) {
        self.imodels.remove(id);
        self.connections
            .retain(|_, connection| connection.imodel_id != id);
        self.runs.retain(|_, run| run.imodel_id != id);
    }

    /// Gives iModels what the runs that ended by now brought them.
    pub(super) fn settle(&mut self, now: Timestamp) {
        let waiting = self.runs.values().filter(|run| !run.applied);
        let mut ended: Vec<(Timestamp, String)> = waiting
            .filter(|run| runs::has_ended(run, now))
            .map(|run| (runs::end(run), run.id.clone()))
            .collect();
        ended.sort();
        for (at, id) in ended {
            self.apply(&id, at);
        }
    }

    /// Gives an iModel what a run brought, and pushes a changeset if that is anything.
    fn apply(&mut self, run_id: &str, at: Timestamp) {
        let Some(run) = self.runs.get_mut(run_id) else {
            return;
        };
        run.applied = true;
        let Some(imodel) = self.imodels.get_mut(&run.imodel_id) else {
            return;
        };
        let mut changed = Vec::new();
        for covered in &run.covered {
            let is_read = matches!(covered.result.as_str(), "Success" | "PartialSuccess");
            if !covered.has_task || !is_read || covered.version == 0 {
                continue;
            }
            let id = &covered.storage_file_id;
            imodel.gcs_from.get_or_insert_with(|| id.clone());
            let mut contents = imodel.contents.iter_mut();
            match contents.find(|held| held.storage_file_id == *id) {
                Some(held) if held.version == covered.version => continue,
                Some(held) => held.version = covered.version,
                None => imodel.contents.push(ImodelContent {
                    storage_file_id: id.clone(),
                    version: covered.version,
                    sha256: String::new(),
                    mapped: true,
                }),
            }
            let name = self.files.get(id).map(|file| file.display_name.clone());
            changed.push(name.unwrap_or_else(|| id.clone()));
        }
        let held = imodel.contents.len();
        let removed = &run.removed;
        imodel
            .contents
            .retain(|held| !removed.contains(&held.storage_file_id));
        if changed.is_empty() && held == imodel.contents.len() {
            return;
        }
        let digest = store::hex(&Sha256::digest(run_id));
        let index = imodel.changesets.len() as u64 + 1;
        imodel.changesets.push(Changeset {
            id: digest.chars().take(40).collect(),
            index,
            description: format!("Synchronized {} file(s)", changed.len()),
            pushed_at: at,
            run_id: run_id.to_owned(),
            creator: run.creator.clone(),
            changed_files: changed,
        });
    }

    /// Storage files that an iModel holds something of, and no connection has any more.
    pub(super) fn unmapped(&self, imodel_id: &str) -> Vec<String> {
        let imodel = self.imodels.get(imodel_id);
        let contents = imodel.into_iter().flat_map(|imodel| &imodel.contents);
        contents
            .map(|held| &held.storage_file_id)
            .filter(|id| !self.is_mapped(imodel_id, id, ""))
            .cloned()
            .collect()
    }

    /// For others to see: runs and iModels as they stand, nothing secret.
    pub(super) fn at(&self, now: Timestamp) -> Self {
        let mut seen = self.clone();
        seen.settle(now);
        for imodel in seen.imodels.values_mut() {
            imodel.baseline = None;
            for held in &mut imodel.contents {
                let covered = seen.runs.values().flat_map(|run| &run.covered);
                let same = covered
                    .filter(|one| one.storage_file_id == held.storage_file_id)
                    .find(|one| one.version == held.version);
                held.sha256 = same.map(|one| one.sha256.clone()).unwrap_or_default();
                held.mapped = self.is_mapped(&imodel.id, &held.storage_file_id, "");
            }
        }
        seen.key.clear();
        seen.signing_key.clear();
        seen.blobs.clear();
        seen.retired.clear();
        for file in seen.files.values_mut() {
            (file.pending, file.blob) = (None, None);
            if let Some(completed) = &mut file.completed {
                completed.content = None;
            }
        }
        for run in seen.runs.values_mut() {
            (run.state, run.result) = runs::standing(run, now);
            for covered in &mut run.covered {
                covered.content = None;
            }
        }
        seen
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

    /// Whether a connection of the iModel holds the storage file, other than as the source file of this id.
    pub(super) fn is_mapped(&self, imodel_id: &str, storage_file_id: &str, except: &str) -> bool {
        self.connections
            .values()
            .filter(|connection| connection.imodel_id == imodel_id)
            .flat_map(|connection| &connection.source_files)
            .any(|file| file.storage_file_id == storage_file_id && file.id != except)
    }

    /// Content whose digest somebody will ask for.
    pub(super) fn undigested(&self) -> Vec<Content> {
        let completed = self
            .files
            .values()
            .filter_map(|file| file.completed.as_ref());
        let completed = completed.map(|one| (&one.sha256, &one.content));
        let covered = self.runs.values().flat_map(|run| &run.covered);
        let covered = covered.map(|one| (&one.sha256, &one.content));
        let wanted: BTreeSet<&String> = completed
            .chain(covered)
            .filter(|(sha256, _)| sha256.is_empty())
            .filter_map(|(_, content)| content.as_ref())
            .collect();
        let current = self.blobs.values().filter_map(|blob| blob.content.as_ref());
        current
            .chain(&self.retired)
            .filter(|content| wanted.contains(&content.id))
            .cloned()
            .collect()
    }

    /// Whether a piece on disk belongs to anything that counts.
    pub(super) fn is_used(&self, part: &str) -> bool {
        self.blobs.values().any(|blob| {
            let content = blob.content.iter().flat_map(|content| &content.parts);
            content
                .map(|(_, part)| part)
                .chain(blob.uncommitted.values())
                .any(|used| used.name == part)
        })
    }

    /// Writes a digest down wherever the content counts.
    pub(super) fn digested(&mut self, content: &str, sha256: &str) {
        let completed = self
            .files
            .values_mut()
            .filter_map(|file| file.completed.as_mut());
        for completed in completed.filter(|one| one.content.as_deref() == Some(content)) {
            sha256.clone_into(&mut completed.sha256);
        }
        let covered = self.runs.values_mut().flat_map(|run| &mut run.covered);
        for covered in covered.filter(|one| one.content.as_deref() == Some(content)) {
            sha256.clone_into(&mut covered.sha256);
        }
    }
}
