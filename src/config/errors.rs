//! The errors of a configuration, in the order of the file. An error names a key and quotes a value or a line
//! only where it cannot be a secret.

use std::fmt;

/// Every error of a configuration, in the order of the file. `Display` prints all of them, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One error: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The config file, as given on the command line.
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
    /// The line with a caret below the column, where the file is no TOML and the line has no secret.
    pub excerpt: Option<String>,
    /// What to write instead.
    pub hint: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self(errors)
    }

    /// The errors one by one; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
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
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
