//! The references of design files, for `explain` and `check`: which of them a watch does not upload.
//!
//! Reads files of a watch, within limits; the daemon never does this.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::Watch;
use crate::names::QuotedPath;
use crate::references::{self, End, Format, Limits, Located, Reference};
use crate::rooted_fs::RootDir;
use crate::selection::Verdict;
use crate::shell;

/// Names of a folder that are compared; of a folder with more, only these.
const NAMES_MAX: usize = 100_000;

/// Folders whose names are kept.
const FOLDERS_MAX: usize = 1_000;

/// A reference that the platform will not find.
#[derive(Debug)]
pub(super) struct Dangling {
    reference: Reference,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Missing,
    /// It is on the disk, but this watch does not upload it, for the reason given.
    NotUploaded(PathBuf, String),
}

/// What was found in one file.
#[derive(Debug)]
pub(super) struct Looked {
    /// References in the file, without duplicates.
    pub(super) count: usize,
    /// Those that the platform will not find.
    pub(super) dangling: Vec<Dangling>,
    /// Why there may be more, as the rest of a sentence.
    pub(super) incomplete: Option<String>,
}

/// An opened watch, with the names of its folders.
#[derive(Debug)]
pub(super) struct Looker<'w> {
    watch: &'w Watch,
    root: RootDir,
    names: RefCell<HashMap<PathBuf, Vec<OsString>>>,
}

impl<'w> Looker<'w> {
    pub(super) fn open(watch: &'w Watch) -> io::Result<Self> {
        Ok(Self {
            watch,
            root: RootDir::open(&watch.path)?,
            names: RefCell::default(),
        })
    }

    /// Reads the references of a file; None if its format has none that can be read.
    pub(super) fn look(&self, below: &Path, limits: Limits) -> Option<io::Result<Looked>> {
        let format = Format::of(below)?;
        let file = match self.root.file(below) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let found = references::read(format, file, limits);
        let incomplete = match found.end {
            End::Complete => None,
            End::Limit => Some("only the beginning was read".to_owned()),
            End::Unknown(why) => Some(why.to_owned()),
            End::Failed(error) => return Some(Err(error)),
        };
        let count = found.references.len();
        let dangling = found
            .references
            .into_iter()
            .filter_map(|reference| {
                let why = self.why_dangling(below, &reference)?;
                Some(Dangling { reference, why })
            })
            .collect();
        Some(Ok(Looked {
            count,
            dangling,
            incomplete,
        }))
    }

    fn why_dangling(&self, from: &Path, reference: &Reference) -> Option<Why> {
        let mut names = |folder: &Path| self.names(folder);
        let path = match references::locate(from, &reference.written, &mut names) {
            Located::At(path) => path,
            Located::Missing => return Some(Why::Missing),
            Located::Remote => return None,
        };
        let why = match self.watch.scope.decide(&path) {
            Verdict::Ignored(reason) => reason.to_string(),
            Verdict::NoConnector => "no connector for its extension".to_owned(),
            _ => return None,
        };
        Some(Why::NotUploaded(path, why))
    }

    /// The names in a folder; none if it cannot be listed.
    fn names(&self, folder: &Path) -> Vec<OsString> {
        if let Some(known) = self.names.borrow().get(folder) {
            return known.clone();
        }
        let listed = self.list(folder).unwrap_or_default();
        let mut names = self.names.borrow_mut();
        if names.len() < FOLDERS_MAX {
            names.insert(folder.to_owned(), listed.clone());
        }
        listed
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.root.folder(folder)?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
            if names.len() == NAMES_MAX {
                break;
            }
        }
        Ok(names)
    }
}

impl Dangling {
    /// What is wrong with it, as the rest of a sentence that begins with the file that refers.
    pub(super) fn text(&self) -> String {
        let Reference { what, written } = &self.reference;
        let name = written.rsplit(['/', '\\']).next().unwrap_or(written);
        let place = if name == written {
            String::new()
        } else {
            format!(" ({})", quoted(written))
        };
        let what = format!("refers to {what} {}{place}", quoted(name));
        match &self.why {
            Why::Missing => format!("{what}, which is not in this folder"),
            Why::NotUploaded(path, why) => {
                format!("{what}, but {} is not uploaded: {why}", QuotedPath(path))
            }
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> String {
        match &self.why {
            Why::Missing => "save it in the watched folder, at the path by which it is referred to or beside this file"
                .to_owned(),
            Why::NotUploaded(path, _) => format!(
                "if the connector needs it, add \"*.{}\" to upload_only, or change include or exclude; \
                 `{}` names the rule",
                path.extension().unwrap_or_default().display(),
                shell::command(["explain", "FILE"])
            ),
        }
    }
}

/// A path of a design file in quotes, with its single backslashes; what is invisible is escaped.
fn quoted(written: &str) -> String {
    format!("{written:?}").replace("\\\\", "\\")
}

/// The limits for one file that may be read until `until`.
pub(super) fn limits(until: Instant) -> Limits {
    Limits {
        bytes: 1 << 30,
        references: 1_000,
        until,
    }
}
