//! What of a root belongs to a watch: its selection, together with how deep the watch reads.
//!
//! Scan, event filter, upload, configuration check and `explain` all ask here, so they cannot disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Reason, Selection, Verdict};

/// How deep a watch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The root and all folders below it.
    All,
    /// The files in the root itself (`recursive = false`).
    TopOnly,
}

/// The files of a root that a watch takes. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    selection: Selection,
    depth: Depth,
    /// If there is a list, no other file is taken.
    listed: Option<Arc<Listed>>,
}

/// What a listed file is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// What the selection decides.
    Selected,
    /// To be stored only.
    UploadOnly,
}

/// Files by path relative to the root.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    files: BTreeMap<PathBuf, Listing>,
    /// The folders that contain them.
    folders: BTreeSet<PathBuf>,
}

impl Scope {
    /// The files that `selection` takes, down to `depth`.
    #[must_use]
    pub fn new(selection: Selection, depth: Depth) -> Self {
        Self {
            selection,
            depth,
            listed: None,
        }
    }

    /// Only these files of it.
    #[must_use]
    pub fn limited_to(self, files: BTreeMap<PathBuf, Listing>) -> Self {
        let folders = files.keys().flat_map(|file| file.ancestors().skip(1));
        let folders = folders.map(Path::to_owned).collect();
        Self {
            listed: Some(Arc::new(Listed { files, folders })),
            ..self
        }
    }

    /// What the file at `rel` is to the watch, and why. `rel` is relative to the root, without `.` and `..`.
    #[must_use]
    pub fn decide(&self, rel: &Path) -> Verdict {
        if self.is_too_deep(rel) {
            return Verdict::Ignored(Reason::NotRecursive);
        }
        self.unless_unlisted(rel, || self.selection.decide(rel))
    }

    fn unless_unlisted(&self, rel: &Path, decide: impl FnOnce() -> Verdict) -> Verdict {
        let Some(listed) = &self.listed else {
            return decide();
        };
        match listed.files.get(rel) {
            None => Verdict::Ignored(Reason::NotListed),
            Some(Listing::Selected) => decide(),
            Some(Listing::UploadOnly) => Verdict::UploadOnly {
                glob: rel.to_string_lossy().into_owned(),
            },
        }
    }

    /// The same for a file whose folders were all entered, which saves checking them again.
    #[must_use]
    pub fn decide_entered(&self, rel: &Path) -> Verdict {
        self.unless_unlisted(rel, || self.selection.decide_entered(rel))
    }

    /// The stem that the files of a set share: see [`Selection::set_stem`].
    #[must_use]
    pub fn set_stem(&self, rel: &Path, verdict: &Verdict) -> Option<Vec<u8>> {
        self.selection.set_stem(rel, verdict)
    }

    /// Whether `masters` is set.
    #[must_use]
    pub fn has_masters(&self) -> bool {
        self.selection.has_masters()
    }

    /// Whether the watch takes the file at `rel`.
    #[must_use]
    pub fn selects(&self, rel: &Path) -> bool {
        self.decide(rel).connector().is_some()
    }

    /// Whether the watch reads the folder at `rel_dir`, given that it reads the one above. The root is an empty path.
    #[must_use]
    pub fn enters(&self, rel_dir: &Path) -> bool {
        rel_dir.as_os_str().is_empty()
            || (self.depth == Depth::All
                && match &self.listed {
                    // Whoever lists a file in an ignored folder means it.
                    Some(listed) => listed.folders.contains(rel_dir),
                    None => self.selection.prunes(rel_dir).is_none(),
                })
    }

    /// Whether a change at `rel` can matter: it may be a file that is taken or a folder that is entered.
    #[must_use]
    pub fn may_concern(&self, rel: &Path) -> bool {
        if self.is_too_deep(rel) {
            return false;
        }
        let pruned = rel
            .ancestors()
            .any(|part| !part.as_os_str().is_empty() && self.selection.prunes(part).is_some());
        !pruned || self.selects(rel)
    }

    fn is_too_deep(&self, rel: &Path) -> bool {
        let in_subfolder = rel.parent().is_some_and(|dir| !dir.as_os_str().is_empty());
        in_subfolder && self.depth == Depth::TopOnly
    }
}

impl Default for Scope {
    /// All folders, with the default [`Selection`].
    fn default() -> Self {
        Self::new(Selection::default(), Depth::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::Rules;

    #[test]
    fn depth_and_selection_decide_together() {
        let rules = Rules {
            exclude: vec!["old/".to_owned(), "named.ifc/".to_owned()],
            ..Rules::default()
        };
        let selection = Selection::new(&rules).unwrap();
        let (all, top) = (Depth::All, Depth::TopOnly);
        for (depth, path, selects, enters, concerns) in [
            (all, "a.ifc", true, true, true),
            (all, "plans/a.ifc", true, true, true),
            (all, "plans", false, true, true),
            (all, "old", false, false, false),
            (all, "old/a.ifc", false, false, false),
            (all, "old/new", false, false, false),
            // Only as a folder it is excluded.
            (all, "named.ifc", true, false, true),
            (all, "", false, true, true),
            (top, "a.ifc", true, false, true),
            (top, "plans/a.ifc", false, false, false),
            (top, "plans", false, false, true),
            (top, "", false, true, true),
        ] {
            let scope = Scope::new(selection.clone(), depth);
            let rel = Path::new(path);
            assert_eq!(scope.selects(rel), selects, "selects {depth:?} {path}");
            assert_eq!(scope.enters(rel), enters, "enters {depth:?} {path}");
            assert_eq!(
                scope.may_concern(rel),
                concerns,
                "may_concern {depth:?} {path}"
            );
        }
        let top = Scope::new(selection, top);
        assert_eq!(
            top.decide(Path::new("plans/a.ifc")),
            Verdict::Ignored(Reason::NotRecursive)
        );
    }
}
