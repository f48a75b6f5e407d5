//! Which settling files belong together, such as a shapefile and its companions: they are handed over together, once
//! each of them is complete, so that no part of a set that is still being written is missing in a run. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The sets of the files that are settling.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// Key of the set of each file that belongs to one.
    key_of: HashMap<PathBuf, PathBuf>,
    members: HashMap<PathBuf, HashMap<PathBuf, Member>>,
}

/// How far a file of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    /// It changes, rests, or cannot be read.
    Settling,
    /// It has rested, and waits for the others.
    Complete,
}

impl Sets {
    /// A file that settles belongs to the set `key`.
    pub(super) fn join(&mut self, path: &Path, key: PathBuf) {
        if self.key_of.get(path) == Some(&key) {
            return;
        }
        self.leave(path);
        let members = self.members.entry(key.clone()).or_default();
        members.insert(path.to_owned(), Member::Settling);
        self.key_of.insert(path.to_owned(), key);
    }

    /// Whether the file belongs to a set.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.key_of.contains_key(path)
    }

    /// A file does not settle any more.
    pub(super) fn leave(&mut self, path: &Path) {
        let Some(key) = self.key_of.remove(path) else {
            return;
        };
        if let Some(members) = self.members.get_mut(&key) {
            members.remove(path);
            if members.is_empty() {
                self.members.remove(&key);
            }
        }
    }

    pub(super) fn mark(&mut self, path: &Path, member: Member) {
        let members = self
            .key_of
            .get(path)
            .and_then(|key| self.members.get_mut(key));
        if let Some(known) = members.and_then(|members| members.get_mut(path)) {
            *known = member;
        }
    }

    /// Whether another file of the set is not complete.
    pub(super) fn is_awaited(&self, path: &Path) -> bool {
        self.others(path)
            .any(|(_, member)| member == Member::Settling)
    }

    /// Whether the file is complete and waits for another one of its set.
    pub(super) fn waits(&self, path: &Path) -> bool {
        let members = self.key_of.get(path).and_then(|key| self.members.get(key));
        let member = members.and_then(|members| members.get(path));
        member == Some(&Member::Complete) && self.is_awaited(path)
    }

    /// The other files of the set.
    pub(super) fn others(&self, path: &Path) -> impl Iterator<Item = (&Path, Member)> {
        let members = self.key_of.get(path).and_then(|key| self.members.get(key));
        members
            .into_iter()
            .flatten()
            .filter(move |(other, _)| other.as_path() != path)
            .map(|(other, member)| (other.as_path(), *member))
    }
}
