//! Reads what storage holds of many files.
//!
//! A run reads the current content of a storage file, whoever wrote it. So before a run counts for a file, and at
//! intervals, the storage file is compared with what was recorded when our content was completed.

use std::collections::HashMap;

use super::Synchronizer;
use crate::itwin;
use crate::ledger::{ConnectionFile, FileId};
use crate::stored_content::{Content, compare};

/// From this many files in one folder on, one list is cheaper than one request per file.
const LIST_FROM: usize = 3;

impl Synchronizer {
    /// Reads the storage file of each of these files: one request for each folder, or for each file where a folder
    /// holds few of them.
    pub(super) async fn contents(
        &self,
        files: &[&ConnectionFile],
    ) -> Result<HashMap<FileId, Content>, itwin::Error> {
        let mut by_folder: HashMap<Option<&str>, Vec<&ConnectionFile>> = HashMap::new();
        for file in files {
            let folder = file.stored.stamp.folder_id.as_deref();
            by_folder.entry(folder).or_default().push(file);
        }
        let mut contents = HashMap::with_capacity(files.len());
        for (folder, files) in by_folder {
            let listed = match folder.filter(|_| files.len() >= LIST_FROM) {
                Some(folder) => match self.client.files(folder).await {
                    Ok(listed) => listed,
                    // The files may have been moved; each says for itself.
                    Err(error) if error.is_not_found() => Vec::new(),
                    Err(error) => return Err(error),
                },
                None => Vec::new(),
            };
            let listed: HashMap<&str, &itwin::File> =
                listed.iter().map(|file| (file.id.as_str(), file)).collect();
            for file in files {
                let content = match listed.get(file.storage_file_id.as_str()) {
                    Some(seen) => compare(file.stored.bytes, &file.stored.stamp, seen),
                    None => match self.client.file(&file.storage_file_id).await {
                        Ok(seen) => compare(file.stored.bytes, &file.stored.stamp, &seen),
                        Err(error) if error.is_not_found() => Content::Missing,
                        Err(error) => return Err(error),
                    },
                };
                contents.insert(file.file, content);
            }
        }
        Ok(contents)
    }
}
