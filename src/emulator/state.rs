//! Changes and queries of the whole state: setup, removal, the effects of runs, and which content is still in use.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::encoding::hex;
use super::model::{
    Changeset, Content, Folder, Imodel, ImodelContent, Itwin, State, root_id, storage_id,
};
use super::runs;

impl State {
    /// Records the consent of a user.
    pub(super) fn authorize(&mut self, client_id: &str, now: Timestamp) {
        if !self.authorized_users.iter().any(|user| user == client_id) {
            self.authorized_users.push(client_id.to_owned());
        }
        self.authorized_at.insert(client_id.to_owned(), now);
    }

    /// Ends the consent of every user, as the platform does after about 30 days.
    pub(super) fn end_consents(&mut self) {
        self.authorized_users.clear();
        self.authorized_at.clear();
    }

    /// Whether connections may act for a user. `lifetime`: for how long after the last consent; None: without end.
    pub(super) fn is_authorized(
        &self,
        client_id: &str,
        lifetime: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        let since = self.authorized_at.get(client_id);
        let lapsed = lifetime.zip(since).is_some_and(|(lifetime, since)| {
            since.checked_add(lifetime).is_ok_and(|end| end <= now)
        });
        !lapsed && self.authorized_users.iter().any(|user| user == client_id)
    }

    /// Adds the configured iTwins and iModels that are missing.
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

    /// Removes an iTwin with everything in it.
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

    /// Applies all runs that have ended by now to their iModels.
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

    /// Applies a run to its iModel, and pushes a changeset if it changes anything.
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
            match contents.find(|content| content.storage_file_id == *id) {
                Some(content) if content.version == covered.version => continue,
                Some(content) => content.version = covered.version,
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
        let content = imodel.contents.len();
        let removed = &run.removed;
        imodel
            .contents
            .retain(|content| !removed.contains(&content.storage_file_id));
        if changed.is_empty() && content == imodel.contents.len() {
            return;
        }
        let digest = hex(&Sha256::digest(run_id));
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

    /// Storage files with content in an iModel that no connection maps any more.
    pub(super) fn unmapped(&self, imodel_id: &str) -> Vec<String> {
        let imodel = self.imodels.get(imodel_id);
        let contents = imodel.into_iter().flat_map(|imodel| &imodel.contents);
        contents
            .map(|content| &content.storage_file_id)
            .filter(|id| !self.is_mapped(imodel_id, id, ""))
            .cloned()
            .collect()
    }

    /// A copy to show: runs and iModels as of this time, without secrets.
    pub(super) fn as_of(&self, now: Timestamp) -> Self {
        let mut seen = self.clone();
        seen.settle(now);
        for imodel in seen.imodels.values_mut() {
            imodel.baseline = None;
            for content in &mut imodel.contents {
                let covered = seen.runs.values().flat_map(|run| &run.covered);
                let same = covered
                    .filter(|one| one.storage_file_id == content.storage_file_id)
                    .find(|one| one.version == content.version);
                content.sha256 = same.map(|one| one.sha256.clone()).unwrap_or_default();
                content.mapped = self.is_mapped(&imodel.id, &content.storage_file_id, "");
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
            (run.state, run.result) = runs::status(run, now);
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
        let run = runs::new_run(
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

    /// Number of source files in all connections of an iModel.
    pub(super) fn source_files_of(&self, imodel_id: &str) -> usize {
        let connections = self
            .connections
            .values()
            .filter(|connection| connection.imodel_id == imodel_id);
        connections
            .map(|connection| connection.source_files.len())
            .sum()
    }

    /// Whether a connection of the iModel has a source file for the storage file, except the one with this id.
    pub(super) fn is_mapped(&self, imodel_id: &str, storage_file_id: &str, except: &str) -> bool {
        self.connections
            .values()
            .filter(|connection| connection.imodel_id == imodel_id)
            .flat_map(|connection| &connection.source_files)
            .any(|file| file.storage_file_id == storage_file_id && file.id != except)
    }

    /// Content whose digest is missing somewhere.
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

    /// Whether a part on disk is in use.
    pub(super) fn is_used(&self, part: &str) -> bool {
        self.blobs.values().any(|blob| {
            let content = blob.content.iter().flat_map(|content| &content.parts);
            content
                .map(|(_, part)| part)
                .chain(blob.uncommitted.values())
                .any(|used| used.name == part)
        })
    }

    /// Stores a digest wherever its content is referred to.
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

    /// Removes a blob; its content is deleted from disk later.
    pub(super) fn drop_blob(&mut self, blob: &str) {
        let Some(blob) = self.blobs.remove(blob) else {
            return;
        };
        self.retired.extend(blob.content);
        if !blob.uncommitted.is_empty() {
            let parts = blob
                .uncommitted
                .into_iter()
                .map(|(id, part)| (Some(id), part));
            self.retired.push(Content {
                id: Uuid::new_v4().to_string(),
                size: 0,
                parts: parts.collect(),
            });
        }
    }
}
