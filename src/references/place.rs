//! Where a reference leads below a root.
//!
//! References are mostly written on Windows: with backslashes, as an absolute path of another machine, and in any case.
//! Input: the path of the file that refers, the reference, and the names in a folder of the root. It reads no disk.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Longest path that is resolved, in parts.
const PARTS_MAX: usize = 64;

/// Where a reference leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Located {
    /// To this file or folder of the root.
    At(PathBuf),
    /// To nothing: neither to its path nor to a file of its name beside the file that refers.
    Missing,
    /// To a host, not to a file.
    Remote,
}

/// Finds a reference of the file `from`. `names` gives the names in a folder, none if there is no such folder; all
/// paths are relative to the root.
///
/// A relative path starts at the folder of `from`. Of an absolute path each end is tried from the root, the longest
/// first: the root may be any of its folders, mounted here. Last comes the name alone, beside `from`.
pub(crate) fn locate(
    from: &Path,
    written: &str,
    names: &mut impl FnMut(&Path) -> Vec<OsString>,
) -> Located {
    if written.contains("://") {
        return Located::Remote;
    }
    let folder = from.parent().unwrap_or(Path::new(""));
    let is_separator = |character| matches!(character, '/' | '\\');
    let without_drive = written
        .get(2..)
        .filter(|_| written.as_bytes().get(1) == Some(&b':'));
    let absolute = without_drive.is_some() || written.starts_with(is_separator);
    let parts: Vec<&str> = without_drive
        .unwrap_or(written)
        .split(is_separator)
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let Some(name) = parts.last().filter(|_| parts.len() <= PARTS_MAX) else {
        return Located::Missing;
    };
    let mut candidates = Vec::new();
    if absolute {
        candidates.extend(
            (0..parts.len()).map(|skipped| below(Path::new(""), parts.iter().skip(skipped))),
        );
    } else {
        candidates.push(below(folder, parts.iter()));
    }
    candidates.push(below(folder, [name].into_iter()));
    let found = candidates
        .into_iter()
        .flatten()
        .find_map(|path| in_any_case(&path, names));
    found.map_or(Located::Missing, Located::At)
}

/// A path below the root; None if it leads out of it.
fn below<'p>(folder: &Path, parts: impl Iterator<Item = &'p &'p str>) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in parts {
        if *part == ".." {
            if !path.pop() {
                return None;
            }
        } else {
            path.push(part);
        }
    }
    Some(path)
}

/// The path as it is spelled on the disk.
fn in_any_case(path: &Path, names: &mut impl FnMut(&Path) -> Vec<OsString>) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path {
        let listed = names(&found);
        let same = listed.iter().find(|name| *name == part);
        let alike = || listed.iter().find(|name| folded(name) == folded(part));
        found.push(same.or_else(alike)?);
    }
    (!found.as_os_str().is_empty()).then_some(found)
}

fn folded(name: &OsStr) -> String {
    name.to_string_lossy().to_lowercase()
}
