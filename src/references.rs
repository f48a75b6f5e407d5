//! The files that a design file refers to, read from the file itself.
//!
//! Input: the content of a file. Output: its references as they are written there, and where below a root they should
//! be. `explain` and `check` list the ones that are missing; the daemon never reads a file for its references.
//!
//! Content is untrusted. It is read once, in order, and the reading stops at its [`Limits`]; a line is kept up to a
//! maximum length. What is not understood ends the reading without an error. No reference is ever opened or followed.
//!
//! Formats that are not read: dwg and dgn are binary and have no public specification, and the readers that exist load
//! the whole drawing into memory; in ifc, rvt and land.xml there are no references, or none that the platform resolves.

mod dxf;
mod lines;
mod obj;
mod place;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use lines::Lines;
pub(crate) use place::{Located, locate};

/// A format whose references can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Drawing interchange file, as text.
    Dxf,
    /// Wavefront object.
    Obj,
}

/// Where to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes to read.
    pub(crate) bytes: u64,
    /// References to return.
    pub(crate) references: usize,
    /// When to stop.
    pub(crate) until: Instant,
}

/// A reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// What it is, such as "drawing".
    pub(crate) what: &'static str,
    /// The path as written in the file.
    pub(crate) written: String,
}

/// The references of a file, without duplicates, and why there are no more.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of the file.
    pub(crate) references: Vec<Reference>,
    /// How the reading ended.
    pub(crate) end: End,
}

/// How the reading of a file ended.
#[derive(Debug, Default)]
pub(crate) enum End {
    /// At the end of the file.
    #[default]
    Complete,
    /// At one of the [`Limits`].
    Limit,
    /// The content is not of its format, for the reason given.
    Unknown(&'static str),
    /// The file could not be read on.
    Failed(io::Error),
}

impl Format {
    /// The format of a file, by its extension.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(OsStr::to_str)?;
        if extension.eq_ignore_ascii_case("dxf") {
            Some(Self::Dxf)
        } else if extension.eq_ignore_ascii_case("obj") {
            Some(Self::Obj)
        } else {
            None
        }
    }
}

/// Reads the references of a file from its beginning.
pub(crate) fn read(format: Format, content: impl Read, limits: Limits) -> Found {
    let mut found = Found::default();
    let mut lines = Lines::new(content, limits);
    let end = match format {
        Format::Dxf => dxf::read(&mut lines, &mut found, limits),
        Format::Obj => obj::read(&mut lines, &mut found, limits),
    };
    found.end = end.unwrap_or_else(End::Failed);
    found
}

impl Found {
    /// Adds a reference, unless it is known already.
    fn add(&mut self, what: &'static str, written: &[u8]) {
        let reference = Reference {
            what,
            written: text(written),
        };
        if !reference.written.is_empty() && !self.references.contains(&reference) {
            self.references.push(reference);
        }
    }
}

/// Text of a design file: UTF-8, or one of the code pages that it may declare instead; of those, what is not ASCII
/// cannot be compared with names on the disk anyway.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests;
