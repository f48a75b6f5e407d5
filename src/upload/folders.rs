//! Finds the storage folder of a file, creates it when it is missing, and knows which files it held before.
//!
//! Folder ids are kept in the ledger, so a new file costs no request. A folder's files are listed once per process,
//! before the first file is created in it. Its subfolders are listed when one is missing, at most once a minute. An id
//! that the platform refuses is looked up again.
//!
//! Several processes with one ledger create files in a folder. What another one has created belongs to a file of the
//! ledger, or to a job at a stage for which the folder is listed anew. Each folder is created by one of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use super::error::UploadError;
use crate::config::Watch;
use crate::failpoint::failpoint;
use crate::ids::{ImodelId, StorageFileId};
use crate::itwin::{self, Client, Folder};
use crate::ledger::{FolderHold, ImodelRecord, Ledger};
use crate::names;

/// How long a list of subfolders is used: another client may create one at any time.
const LISTING_HOLDS: Duration = Duration::from_secs(60);

/// How often a process looks whether another one has created a folder.
const HOLD_LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Folders {
    client: Client,
    ledger: Ledger,
    /// What the ledger has of each iModel, for every upload needs it.
    imodels: std::sync::Mutex<HashMap<ImodelId, Imodel>>,
    /// Held while the ledger or the platform is asked about an iModel, so that workers that start together ask once.
    asking: std::sync::Mutex<HashMap<ImodelId, Arc<Mutex<()>>>>,
    /// Which watch uploads to (root folder, path).
    owners: std::sync::Mutex<HashMap<(String, String), String>>,
    /// Only one task at a time looks for or creates folders: two would create the same one twice.
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
enum Imodel {
    Known(ImodelRecord),
    /// The platform refused its root folder: the ledger's record may be wrong.
    Doubtful,
}

/// A storage file of a listed folder that no file of the ledger owns.
#[derive(Debug, Clone)]
pub(super) struct Untracked {
    pub(super) id: StorageFileId,
    pub(super) name: String,
}

/// Untracked files by their name with case folded, oldest first.
type UntrackedByName = HashMap<[u8; 16], Vec<Untracked>>;

#[derive(Debug, Default)]
struct State {
    /// Of each listed folder.
    untracked: HashMap<String, UntrackedByName>,
    /// How often files had been forgotten by then.
    forgotten: u64,
    /// Folders in a listed folder: when it was listed, name to folder id.
    children: HashMap<String, (Instant, HashMap<String, String>)>,
}

/// Whether a list of a folder from before may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    Cached,
    Fresh,
}

/// A folder in storage.
#[derive(Debug, Clone)]
pub(super) struct Place {
    imodel: ImodelId,
    pub(super) root_folder_id: String,
    pub(super) folder_id: String,
}

impl Folders {
    pub(super) fn new(client: Client, ledger: Ledger) -> Self {
        Self {
            client,
            ledger,
            imodels: std::sync::Mutex::default(),
            asking: std::sync::Mutex::default(),
            owners: std::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Forgets which watch stores where: the configuration has changed.
    pub(super) fn forget_owners(&self) {
        self.owners().clear();
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder for files of `watch` in the folders `below` its own, made if it is not there.
    pub(super) async fn place(
        &self,
        watch: &Watch,
        below: &[String],
    ) -> Result<Place, UploadError> {
        loop {
            if let Some(place) = self.place_unless_held(watch, below).await? {
                return Ok(place);
            }
            tokio::time::sleep(HOLD_LOOK).await;
        }
    }

    /// None: another process is about to create a folder of it.
    async fn place_unless_held(
        &self,
        watch: &Watch,
        below: &[String],
    ) -> Result<Option<Place>, UploadError> {
        let record = self.imodel(&watch.imodel_id).await?;
        let root_folder_id = record.root_folder_id;
        let owner = self
            .owners()
            .entry((root_folder_id.clone(), watch.storage_folder.join("/")))
            .or_insert_with(|| watch.name.clone())
            .clone();
        if owner != watch.name {
            return Err(UploadError::SharedFolder { other: owner });
        }
        let mut state = self.state.lock().await;
        let mut folder_id = root_folder_id.clone();
        let mut path = String::new();
        let segments: Vec<String> = watch.storage_folder.iter().chain(below).cloned().collect();
        for (above, segment) in segments.iter().enumerate() {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(segment);
            folder_id = match self.ledger.folder(&root_folder_id, &path).await? {
                Some(known) => known,
                None => {
                    let key = names::path_key(segments.get(..above).unwrap_or_default(), segment);
                    let held = self.ledger.hold_folder(&root_folder_id, &key).await?;
                    let made = match held {
                        FolderHold::Busy => return Ok(None),
                        FolderHold::Known(id) => Ok(id),
                        FolderHold::Taken { in_doubt } => {
                            let parent = (folder_id.as_str(), in_doubt);
                            self.find_or_create(&mut state, parent, segment).await
                        }
                    };
                    if let Err(error) = &made {
                        let in_doubt = match error {
                            UploadError::Platform(error) => error.may_have_taken_effect(),
                            _ => true,
                        };
                        self.ledger
                            .leave_folder(&root_folder_id, &key, in_doubt)
                            .await?;
                    }
                    let found = match made {
                        // The folder above is gone, although the ledger knows it.
                        Err(UploadError::Platform(error))
                            if error.is_not_found() && folder_id != root_folder_id =>
                        {
                            state.untracked.clear();
                            state.children.clear();
                            self.ledger.forget_folders(&root_folder_id).await?;
                            return Err(UploadError::FolderGone(error));
                        }
                        Err(UploadError::Platform(error)) => {
                            if folder_id == root_folder_id {
                                self.root_refused(&watch.imodel_id, &error);
                            }
                            return Err(error.into());
                        }
                        found => found?,
                    };
                    self.ledger
                        .remember_created_folder(&root_folder_id, &path, &key, &found)
                        .await?;
                    found
                }
            };
        }
        Ok(Some(Place {
            imodel: watch.imodel_id.clone(),
            root_folder_id,
            folder_id,
        }))
    }

    /// Whether two iModels belong to one iTwin, and so have the same storage.
    pub(super) async fn share_storage(
        &self,
        one: &ImodelId,
        other: &ImodelId,
    ) -> Result<bool, UploadError> {
        let one = self.imodel(one).await?.root_folder_id;
        Ok(one == self.imodel(other).await?.root_folder_id)
    }

    /// Storage files named `name` in a folder that no file of the ledger owns, oldest first. If there are none, those
    /// whose name differs in case only: storage may treat them as the same.
    ///
    /// [`Listing::Fresh`] where an earlier list cannot be trusted: a *create file* may have been executed without an
    /// answer, or another client may have deleted what was listed.
    pub(super) async fn untracked(
        &self,
        place: &Place,
        name: &str,
        listing: Listing,
    ) -> Result<Vec<Untracked>, UploadError> {
        let folder_id = &place.folder_id;
        let mut state = self.state.lock().await;
        // A forgotten file's storage file is untracked from now on, although it was created after the folder was
        // listed.
        let forgotten = self.ledger.times_forgotten().await?;
        if state.forgotten != forgotten {
            state.forgotten = forgotten;
            state.untracked.clear();
        }
        if listing == Listing::Fresh || !state.untracked.contains_key(folder_id) {
            let listed = match self.list(folder_id).await {
                Err(UploadError::Platform(error)) => {
                    self.refused_in(place, &error);
                    return Err(error.into());
                }
                listed => listed?,
            };
            state.untracked.insert(folder_id.clone(), listed);
        }
        let named = state
            .untracked
            .get(folder_id)
            .and_then(|files| files.get(&names::path_key(&[], name)));
        let (mut exact, mut similar) = (Vec::new(), Vec::new());
        for file in named.into_iter().flatten() {
            if self.ledger.owns_storage_file(&file.id).await?.is_none() {
                let fit = if file.name == name {
                    &mut exact
                } else {
                    &mut similar
                };
                fit.push(file.clone());
            }
        }
        Ok(if exact.is_empty() { similar } else { exact })
    }

    /// The folders of this name in a folder as they are now, oldest first.
    pub(super) async fn named(
        &self,
        place: &Place,
        name: &str,
    ) -> Result<Vec<Folder>, UploadError> {
        let mut state = self.state.lock().await;
        let listed = self.list_children(&mut state, &place.folder_id).await;
        drop(state);
        match listed {
            Ok(mut folders) => {
                folders.retain(|folder| folder.display_name == name);
                Ok(folders)
            }
            Err(error) => {
                self.refused_in(place, &error);
                if error.is_not_found() && place.folder_id != place.root_folder_id {
                    self.forget(place).await?;
                    return Err(UploadError::FolderGone(error));
                }
                Err(error.into())
            }
        }
    }

    /// Forgets which files storage has: another ledger may have created some.
    pub(super) async fn forget_files(&self) {
        self.state.lock().await.untracked.clear();
    }

    /// The platform refused a request in this folder. If it is a root folder, its id is looked up again.
    pub(super) fn refused_in(&self, place: &Place, error: &itwin::Error) {
        if place.folder_id == place.root_folder_id {
            self.root_refused(&place.imodel, error);
        }
    }

    fn root_refused(&self, imodel_id: &ImodelId, error: &itwin::Error) {
        if matches!(error.status(), Some(403 | 404)) {
            debug!(imodel = imodel_id.as_str(), %error, "root folder refused; looking up its id again at the next attempt");
            self.imodels()
                .insert(imodel_id.to_owned(), Imodel::Doubtful);
        }
    }

    fn imodels(&self) -> MutexGuard<'_, HashMap<ImodelId, Imodel>> {
        self.imodels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A known folder is gone: everything known below its root is looked up again.
    pub(super) async fn forget(&self, place: &Place) -> Result<(), UploadError> {
        let mut state = self.state.lock().await;
        state.untracked.clear();
        state.children.clear();
        drop(state);
        Ok(self.ledger.forget_folders(&place.root_folder_id).await?)
    }

    async fn imodel(&self, imodel_id: &ImodelId) -> Result<ImodelRecord, UploadError> {
        if let Some(Imodel::Known(record)) = self.imodels().get(imodel_id) {
            return Ok(record.clone());
        }
        let asking = self.asking(imodel_id);
        let _asking = asking.lock().await;
        let known = self.imodels().get(imodel_id).cloned();
        let record = match known {
            Some(Imodel::Known(record)) => return Ok(record),
            Some(Imodel::Doubtful) => self.look_up_imodel(imodel_id).await?,
            None => match self.ledger.imodel(imodel_id).await? {
                Some(record) => record,
                None => self.look_up_imodel(imodel_id).await?,
            },
        };
        self.imodels()
            .insert(imodel_id.to_owned(), Imodel::Known(record.clone()));
        Ok(record)
    }

    fn asking(&self, imodel_id: &ImodelId) -> Arc<Mutex<()>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(asking.entry(imodel_id.clone()).or_default())
    }

    /// Reads iTwin and root folder from the platform.
    async fn look_up_imodel(&self, imodel_id: &ImodelId) -> Result<ImodelRecord, UploadError> {
        let imodel = self.client.imodel(imodel_id).await?;
        if !imodel.initialized() {
            return Err(UploadError::NotInitialized {
                imodel: imodel_id.clone().to_string(),
                state: imodel.state,
            });
        }
        let root_folder_id = self.client.root_folder(&imodel.itwin_id).await?;
        let record = ImodelRecord {
            itwin_id: imodel.itwin_id,
            root_folder_id,
        };
        self.ledger.remember_imodel(imodel_id, &record).await?;
        Ok(record)
    }

    /// `in_doubt`: another process may have created it a while ago.
    async fn find_or_create(
        &self,
        state: &mut State,
        (parent, in_doubt): (&str, bool),
        name: &str,
    ) -> Result<String, UploadError> {
        let listed = state.children.get(parent);
        if in_doubt || listed.is_none_or(|(at, _)| at.elapsed() > LISTING_HOLDS) {
            self.list_children(state, parent).await?;
        }
        if let Some(id) = child(state, parent, name) {
            return Ok(id);
        }
        match self.client.create_folder(parent, name, None).await {
            Ok(folder) => {
                failpoint("folder created");
                info!(folder = name, "storage folder created");
                // It is new, so there is nothing in it.
                state.untracked.insert(folder.id.clone(), HashMap::new());
                let nothing = (Instant::now(), HashMap::new());
                state.children.insert(folder.id.clone(), nothing);
                if let Some((_, children)) = state.children.get_mut(parent) {
                    children.insert(name.to_owned(), folder.id.clone());
                }
                Ok(folder.id)
            }
            // It may exist after all: another client was faster, or the answer was lost.
            Err(error)
                if error.may_have_taken_effect() || matches!(error.status(), Some(409 | 422)) =>
            {
                self.list_children(state, parent).await?;
                child(state, parent, name).ok_or_else(|| UploadError::Platform(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lists the subfolders of a folder. Of several with one name the oldest is used, so every client uses the same.
    async fn list_children(
        &self,
        state: &mut State,
        parent: &str,
    ) -> Result<Vec<Folder>, itwin::Error> {
        let mut folders = self.client.folders(parent).await?;
        folders.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let mut children = HashMap::with_capacity(folders.len());
        for folder in &folders {
            match children.entry(folder.display_name.clone()) {
                Entry::Occupied(older) => warn!(
                    folder = older.key(),
                    "storage has several folders with this name; using the oldest"
                ),
                Entry::Vacant(free) => drop(free.insert(folder.id.clone())),
            }
        }
        let listed = (Instant::now(), children);
        state.children.insert(parent.to_owned(), listed);
        Ok(folders)
    }

    /// The untracked files of a folder.
    async fn list(&self, folder_id: &str) -> Result<UntrackedByName, UploadError> {
        let mut files = self.client.files(folder_id).await?;
        debug!(folder_id, files = files.len(), "storage folder listed");
        files.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let mut named = UntrackedByName::new();
        for file in files {
            if self.ledger.owns_storage_file(&file.id).await?.is_none() {
                let untracked = Untracked {
                    id: file.id,
                    name: file.display_name,
                };
                named
                    .entry(names::path_key(&[], &untracked.name))
                    .or_default()
                    .push(untracked);
            }
        }
        Ok(named)
    }
}

/// The folder of this name, or else one whose name differs in case only: storage may treat them as the same.
fn child(state: &State, parent: &str, name: &str) -> Option<String> {
    let children = &state.children.get(parent)?.1;
    if let Some(id) = children.get(name) {
        return Some(id.clone());
    }
    let place = names::path_key(&[], name);
    let mut others: Vec<_> = children
        .iter()
        .filter(|(other, _)| names::path_key(&[], other) == place)
        .collect();
    others.sort();
    others.first().map(|(_, id)| (*id).clone())
}
