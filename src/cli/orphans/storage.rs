//! Lists the storage folders of watches, with all folders below, within limits.

use std::collections::{HashMap, HashSet};

use super::Error;
use crate::itwin::{self, Client};

/// Folders that are listed at most.
const FOLDERS_MAX: usize = 10_000;

/// Files that are kept in memory at most.
const FILES_MAX: usize = 200_000;

/// Depth below a storage folder: deeper folders count as a loop.
const DEPTH_MAX: usize = 64;

/// A file in storage, and where it is.
#[derive(Debug, Clone)]
pub(super) struct StoredFile {
    pub(super) file: itwin::File,
    /// The folders from the root folder of the iTwin, and the name; None outside of our folders.
    pub(super) place: Option<StoredPlace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredPlace {
    pub(super) root_folder_id: String,
    pub(super) folders: Vec<String>,
}

impl StoredFile {
    /// The path in storage; only the name of a file outside of our folders.
    pub(super) fn path(&self) -> String {
        let folders = self.place.as_ref().map(|place| place.folders.as_slice());
        let mut parts: Vec<&str> = folders
            .unwrap_or_default()
            .iter()
            .map(String::as_str)
            .collect();
        parts.push(&self.file.display_name);
        parts.join("/")
    }
}

/// The storage files by their id.
pub(super) type StoredFiles = HashMap<String, StoredFile>;

/// Lists folders, each only once.
pub(super) struct Lister<'a> {
    client: &'a Client,
    listed: HashSet<String>,
    pub(super) files: StoredFiles,
}

impl<'a> Lister<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            client,
            listed: HashSet::new(),
            files: StoredFiles::new(),
        }
    }

    /// Lists a storage folder, as segments joined by `/`, and everything below. One that does not exist is empty.
    pub(super) async fn list(&mut self, root: &str, storage_folder: &str) -> Result<(), Error> {
        let segments = storage_folder.split('/').filter(|part| !part.is_empty());
        let mut found = vec![root.to_owned()];
        let mut path = Vec::new();
        for segment in segments {
            let mut below = Vec::new();
            for folder in found {
                let folders = self.folders(&folder).await?;
                let named = folders.into_iter().filter(|one| one.1 == segment);
                below.extend(named.map(|(id, _)| id));
            }
            found = below;
            path.push(segment.to_owned());
        }
        let mut waiting: Vec<(String, Vec<String>)> =
            found.into_iter().map(|id| (id, path.clone())).collect();
        while let Some((folder, folders)) = waiting.pop() {
            if folders.len() > path.len() + DEPTH_MAX || self.listed.len() > FOLDERS_MAX {
                return Err(Error::StorageTooLarge {
                    what: "folders",
                    max: FOLDERS_MAX,
                });
            }
            if !self.listed.insert(folder.clone()) {
                continue;
            }
            let files = match self.client.files(&folder).await {
                Ok(files) => files,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if self.files.len() + files.len() > FILES_MAX {
                return Err(Error::StorageTooLarge {
                    what: "files",
                    max: FILES_MAX,
                });
            }
            for file in files {
                let place = StoredPlace {
                    root_folder_id: root.to_owned(),
                    folders: folders.clone(),
                };
                let stored = StoredFile {
                    place: Some(place),
                    file,
                };
                let id = stored.file.id.as_str().to_owned();
                self.files.insert(id, stored);
            }
            for (id, name) in self.folders(&folder).await? {
                let mut folders = folders.clone();
                folders.push(name);
                waiting.push((id, folders));
            }
        }
        Ok(())
    }

    /// Id and name of the folders in a folder.
    async fn folders(&self, folder: &str) -> Result<Vec<(String, String)>, Error> {
        match self.client.folders(folder).await {
            Ok(folders) => Ok(folders
                .into_iter()
                .map(|folder| (folder.id, folder.display_name))
                .collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}
