//! What is wrong with a configuration, in words for the person who wrote it.
//!
//! In come single mistakes from every part of the room, out goes the list in the order of the file. A mistake names a key and quotes a value only where the
//! value cannot be the client secret.

use std::fmt;

/// Every mistake of a configuration, in the order of the file. `Display` prints all of them, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// One mistake: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The config file, as it was named to us.
    pub file: String,
    /// Line in that file, from 1; `None` for what is missing altogether.
    pub line: Option<usize>,
    /// Column in that line, in bytes from 1, where the file is no TOML; nothing else needs one.
    pub column: Option<usize>,
    /// The watch it concerns: its name in quotes, or its number in the file when it has no usable name.
    pub watch: Option<String>,
    /// The key it concerns, such as `upload.workers`; for a watch without a prefix.
    pub key: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to write instead, or what else to do.
    pub hint: Option<String>,
}

impl Mistakes {
    pub(super) fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        Self(mistakes)
    }

    /// The mistakes one by one; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        if let Some(watch) = &self.watch {
            write!(f, ", watch {watch}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", {key}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
