//! What `check` notes about the files of a watch: guessed connector types, and references that are not uploaded.
//!
//! Input: the selected files of a scan, one by one. Files that can have references are read when the scan is over,
//! until the time is up. Nothing here fails the check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Report;
use crate::cli::references::{Looker, limits};
use crate::config::Watch;
use crate::names::QuotedPath;
use crate::references::Format;
use crate::selection::Guess;
use crate::shell;
use crate::text::plural;

/// How long files of one watch are read for their references.
const TIME: Duration = Duration::from_secs(30);

/// References of one watch that are listed.
const LISTED: usize = 10;

/// Files of one watch that are read for their references.
const FILES_MAX: usize = 10_000;

/// Collects what `check` notes about the selected files of a watch.
pub(super) struct Content<'w> {
    watch: &'w Watch,
    /// By their text.
    guesses: BTreeMap<String, (Guess, u64)>,
    /// Files that can have references.
    files: Vec<PathBuf>,
    /// Files that could have references too, but were not read to their end.
    unread: u64,
}

impl<'w> Content<'w> {
    pub(super) fn new(watch: &'w Watch) -> Self {
        Self {
            watch,
            guesses: BTreeMap::new(),
            files: Vec::new(),
            unread: 0,
        }
    }

    /// Takes a selected file.
    pub(super) fn add(&mut self, file: &Path) {
        if let Some(guess) = self.watch.scope.decide(file).guess() {
            let key = guess.to_string();
            self.guesses.entry(key).or_insert((guess, 0)).1 += 1;
        }
        if Format::of(file).is_none() {
            return;
        }
        if self.files.len() < FILES_MAX {
            self.files.push(file.to_owned());
        } else {
            self.unread += 1;
        }
    }

    /// Reads files for their references, and prints the notes.
    pub(super) fn report(mut self, report: &mut Report) {
        let name = &self.watch.name;
        for (guess, count) in self.guesses.values() {
            let files = plural(*count, "file is", "files are");
            let connector = guess.connector();
            report.note(
                &format!("watch {name:?}: {files} sent to {connector}, {guess}"),
                &guess.hint(),
            );
        }
        let Ok(looker) = Looker::open(self.watch) else {
            return;
        };
        self.files.sort_unstable();
        let until = Instant::now() + TIME;
        let mut listed = 0;
        let mut more = 0_u64;
        for file in &self.files {
            let looked = match looker.look(file, limits(until)) {
                None => continue,
                Some(Ok(looked)) => looked,
                Some(Err(_)) => {
                    self.unread += 1;
                    continue;
                }
            };
            self.unread += u64::from(looked.incomplete.is_some());
            for one in &looked.dangling {
                if listed == LISTED {
                    more += 1;
                    continue;
                }
                listed += 1;
                report.note(
                    &format!("watch {name:?}: {} {}", QuotedPath(file), one.text()),
                    &one.hint(),
                );
            }
        }
        if more > 0 {
            let references = plural(more, "more reference is", "more references are");
            report.note(
                &format!("watch {name:?}: {references} not uploaded"),
                &format!(
                    "`{}` lists those of a file",
                    shell::command(["explain", "FILE"])
                ),
            );
        }
        if self.unread > 0 {
            let files = plural(self.unread, "file was", "files were");
            report.note(
                &format!("watch {name:?}: {files} not read to the end for references"),
                &format!("`{}` says why", shell::command(["explain", "FILE"])),
            );
        }
    }
}
