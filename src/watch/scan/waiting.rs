//! The folders that a walk still has to read, and the limits of what it reads at all.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Folders nested deeper below the root are not read. Only failing programs create them, and each costs as many calls
/// as it is deep.
pub(super) const DEPTH_MAX: usize = 64;

/// Longer paths below the root are not read, in bytes: half of what other programs can open at all.
pub(super) const PATH_MAX: usize = 2048;

/// Names of folders that may wait to be read, in bytes with what it takes to keep them.
const WAITING_MAX: usize = 64 * 1024 * 1024;

/// Folders that wait to be read, deepest first. Only the names are kept, as paths are long where folders are deep.
#[derive(Default)]
pub(super) struct Waiting {
    /// The path of the folder that is read, and its length at each depth.
    path: PathBuf,
    lengths: Vec<usize>,
    /// Names, with the depth that they are at.
    names: Vec<(usize, OsString)>,
    pub(super) bytes: usize,
}

impl Waiting {
    pub(super) fn new(start: PathBuf) -> Self {
        Self {
            path: start,
            ..Self::default()
        }
    }

    /// Takes in a folder in the one that is read. Returns whether there was space for it.
    pub(super) fn push(&mut self, name: &OsStr) -> bool {
        let bytes = name.len() + size_of::<(usize, OsString)>();
        if self.bytes + bytes > WAITING_MAX {
            return false;
        }
        self.bytes += bytes;
        self.names.push((self.lengths.len(), name.to_owned()));
        true
    }

    /// Goes to the next folder.
    pub(super) fn next(&mut self) -> Option<&Path> {
        let (depth, name) = self.names.pop()?;
        self.bytes -= name.len() + size_of::<(usize, OsString)>();
        while self.lengths.len() > depth {
            if let Some(length) = self.lengths.pop() {
                let mut path = std::mem::take(&mut self.path).into_os_string().into_vec();
                path.truncate(length);
                self.path = OsString::from_vec(path).into();
            }
        }
        self.lengths.push(self.path.as_os_str().len());
        self.path.push(name);
        Some(&self.path)
    }
}

/// Why a path is not read, however it got there; None if it may be.
pub(in crate::watch) fn too_long(path: &Path) -> Option<String> {
    if path.as_os_str().len() > PATH_MAX {
        return Some(format!(
            "path longer than {PATH_MAX} bytes is not read; shorten it or exclude the folder"
        ));
    }
    let deep = path.components().nth(DEPTH_MAX).is_some();
    deep.then(|| {
        format!(
            "folder nested deeper than {DEPTH_MAX} levels is not read; move it up or exclude it"
        )
    })
}
