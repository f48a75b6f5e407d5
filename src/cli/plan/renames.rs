//! Which new files are known ones under a new name, for `run --dry-run`, by the rules of the daemon.
//!
//! In: what each folder holds, and what the ledger knows of the watches of an iModel. Out: the path that each of these
//! files had before. Reads only files whose size is that of a known file that is gone.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Surveyed;
use crate::config::OnRename;
use crate::ledger::{self, FileReport};
use crate::names::QuotedPath;
use crate::rooted_fs::RootDir;
use crate::upload;

/// The path that a file had before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// The name of its watch in the ledger.
    pub(super) watch: String,
    pub(super) path: PathBuf,
}

impl Origin {
    /// As part of a sentence about a file of this watch.
    pub(super) fn text(&self, watch: &str) -> String {
        let path = QuotedPath(&self.path);
        if self.watch == watch {
            path.to_string()
        } else {
            format!("{path} of watch {:?}", self.watch)
        }
    }
}

/// The origins of renamed files, by watch in the ledger and new path.
#[derive(Debug, Default)]
pub(super) struct Renames(HashMap<Origin, Origin>);

impl Renames {
    /// What the file at this path of a watch was called before.
    pub(super) fn of(&self, watch: &str, path: &Path) -> Option<&Origin> {
        let key = Origin {
            watch: watch.to_owned(),
            path: path.to_owned(),
        };
        self.0.get(&key)
    }

    /// The paths of a watch whose files have another name now.
    pub(super) fn origins<'r>(&'r self, watch: &'r str) -> impl Iterator<Item = &'r PathBuf> {
        let origins = self.0.values().filter(move |origin| origin.watch == watch);
        origins.map(|origin| &origin.path)
    }

    /// Looks for renamed files in all folders that can be read.
    pub(super) async fn find(
        surveyed: &[Surveyed<'_>],
        reports: &[FileReport],
    ) -> Result<Self, ledger::Error> {
        let known: HashSet<(&str, &Path)> = reports
            .iter()
            .map(|file| (file.watch.as_str(), file.path.as_path()))
            .collect();
        let mut there: HashMap<&str, HashSet<&Path>> = HashMap::new();
        for one in surveyed {
            if let (Some(known), Ok((files, _))) = (one.known, &one.found) {
                let paths = files.iter().map(|file| file.path.as_path());
                there.insert(known.name, paths.collect());
            }
        }
        let mut renames = Self::default();
        let mut taken: HashSet<Origin> = HashSet::new();
        let now = crate::clock::now();
        let since = now.checked_sub(upload::RENAME_WINDOW).unwrap_or(now);
        for one in surveyed {
            let (Some(watch), Ok((files, _))) = (one.known, &one.found) else {
                continue;
            };
            if one.watch.on_rename == OnRename::UploadAgain {
                continue;
            }
            for file in files {
                let (bytes, path) = (file.fingerprint.size, file.path.as_path());
                if known.contains(&(watch.name, path)) || bytes == 0 {
                    continue;
                }
                let stored = watch
                    .ledger
                    .stored_with_size(watch.name, bytes, since)
                    .await?;
                let mut gone: Vec<(Origin, Vec<u8>)> = stored
                    .into_iter()
                    .map(|(watch, path, digest)| (Origin { watch, path }, digest))
                    .filter(|(origin, _)| {
                        let there = there.get(origin.watch.as_str());
                        there.is_some_and(|there| !there.contains(origin.path.as_path()))
                            && !taken.contains(origin)
                    })
                    .collect();
                if gone.is_empty() {
                    continue;
                }
                let (root, relative) = (one.watch.path.clone(), file.path.clone());
                let hashed = tokio::task::spawn_blocking(move || digest(&root, &relative)).await;
                // A file that cannot be read now is shown as new.
                let Ok(Ok(digest)) = hashed else { continue };
                gone.retain(|(_, stored)| *stored == digest);
                let paths: Vec<&Path> = gone.iter().map(|(one, _)| one.path.as_path()).collect();
                let Some(at) = upload::most_similar(path, &paths) else {
                    continue;
                };
                let (origin, _) = gone.swap_remove(at);
                taken.insert(origin.clone());
                let renamed = Origin {
                    watch: watch.name.to_owned(),
                    path: path.to_owned(),
                };
                renames.0.insert(renamed, origin);
            }
        }
        Ok(renames)
    }
}

fn digest(root: &Path, path: &Path) -> std::io::Result<[u8; 32]> {
    let file = RootDir::open(root)?.file(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(*hasher.finalize().as_bytes())
}
