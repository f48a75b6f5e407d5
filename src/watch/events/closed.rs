//! Files that nobody writes any more, as far as events tell: whoever wrote one has closed it, and nothing has changed
//! it since.
//!
//! Many programs save into a new file, close it, and give it its name at the end. Whoever writes on after the rename
//! has not closed the file before.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};

/// More files are forgotten: they settle like any other.
const FILES_MAX: usize = 4096;

/// Closed files by their path.
#[derive(Debug, Default)]
pub(super) struct ClosedFiles(HashSet<PathBuf>);

impl ClosedFiles {
    /// Takes in an event. Returns the path at which a closed file has arrived.
    pub(super) fn observe<'e>(
        &mut self,
        kind: EventKind,
        paths: &'e [PathBuf],
    ) -> Option<&'e Path> {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.insert(paths.first()?),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                let [from, to] = paths else { return None };
                let is_closed = self.0.remove(from);
                self.0.remove(to);
                if is_closed {
                    self.insert(to);
                    return Some(to);
                }
            }
            // Reading, and times or rights that are set after the content. A rename is known only with both paths.
            EventKind::Access(_)
            | EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Name(RenameMode::From)) => {}
            _ => {
                for path in paths {
                    self.0.remove(path);
                }
            }
        }
        None
    }

    /// Events were lost: any file may have changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn insert(&mut self, path: &Path) {
        if self.0.len() >= FILES_MAX {
            self.0.clear();
        }
        self.0.insert(path.to_owned());
    }
}
