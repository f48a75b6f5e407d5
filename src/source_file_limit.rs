//! How many source files an iModel has, and how many the platform accepts. Pure.
//!
//! Input: counts, of watched folders (`check`) or of storage and the platform (the synchronizer). Output: whether they
//! fit and what to do, in texts that `check`, `run --dry-run`, `status` and the page share.

use serde::Serialize;

use crate::text::plural;

/// Source files of an iModel, over all its connections.
/// Source: bentleysystems.service-now.com, article KB0098316
pub(crate) const MAX: u64 = 250;

/// Above this number a warning is due, before files fail.
const NEAR: u64 = 200;

/// What to do about too many source files.
pub(crate) const ADVICE: &str =
    "list the master files in masters of the watch; every other file is stored as a reference";

/// The source files of an iModel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SourceFiles {
    /// Of the watched folders.
    pub watched: u64,
    /// Others that the platform has: of other clients, or of files that are gone.
    pub others: u64,
}

/// Whether source files fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Fits,
    Near,
    Over,
}

impl SourceFiles {
    /// `watched` files of folders, for which the platform has `ours` in connections that watches use, and `foreign` in
    /// connections of others.
    pub(crate) fn of_folders(watched: u64, ours: u64, foreign: u64) -> Self {
        Self {
            watched,
            others: foreign.saturating_add(ours.saturating_sub(watched)),
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.watched.saturating_add(self.others)
    }

    pub(crate) fn load(self) -> Load {
        match self.total() {
            total if total > MAX => Load::Over,
            total if total > NEAR => Load::Near,
            _ => Load::Fits,
        }
    }

    /// The count, and the limit if it matters.
    pub(crate) fn text(self) -> String {
        let mut text = plural(self.total(), "source file", "source files");
        if self.others > 0 {
            text += &format!(" ({} of them not of watched files)", self.others);
        }
        match self.load() {
            Load::Fits => {}
            Load::Near => text += &format!(", of {MAX} that an iModel accepts"),
            Load::Over => text += &format!(" needed, but an iModel accepts {MAX}"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_files_are_compared_with_the_limit() {
        for (watched, ours, foreign, load, expected) in [
            (0, 0, 0, Load::Fits, "0 source files"),
            (1, 0, 0, Load::Fits, "1 source file"),
            // What is not uploaded yet counts too.
            (200, 3, 0, Load::Fits, "200 source files"),
            (
                201,
                201,
                0,
                Load::Near,
                "201 source files, of 250 that an iModel accepts",
            ),
            (
                240,
                240,
                10,
                Load::Near,
                "250 source files (10 of them not of watched files), of 250 that an iModel accepts",
            ),
            (
                300,
                0,
                0,
                Load::Over,
                "300 source files needed, but an iModel accepts 250",
            ),
            // Two are gone from the folders, and still mapped.
            (
                3,
                5,
                247,
                Load::Over,
                "252 source files (249 of them not of watched files) needed, but an iModel accepts 250",
            ),
        ] {
            let found = SourceFiles::of_folders(watched, ours, foreign);
            assert_eq!(found.text(), expected);
            assert_eq!(found.load(), load, "{found:?}");
        }
    }
}
