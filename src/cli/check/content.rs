//! What `check` notes about the files of a watch: guessed connector types, and references that are not uploaded.
//!
//! Input: the selected files. It reads files that can have references until its time is over. It finds nothing that must
//! fail the check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Report;
use crate::cli::references::{Dangling, Looker, limits};
use crate::config::Watch;
use crate::names::QuotedPath;
use crate::selection::Guess;
use crate::text::plural;

/// How long files of one watch are read for their references.
const TIME: Duration = Duration::from_secs(30);

/// References of one watch that are listed.
const LISTED: usize = 10;

/// Prints the notes on a watch that selects these files.
pub(super) fn notes(watch: &Watch, files: &[PathBuf]) {
    guesses(watch, files.iter().map(AsRef::as_ref));
    references(watch, files.iter().map(AsRef::as_ref));
}

fn guesses<'f>(watch: &Watch, files: impl Iterator<Item = &'f Path>) {
    let mut counts: BTreeMap<String, (Guess, u64)> = BTreeMap::new();
    for file in files {
        if let Some(guess) = watch.scope.decide(file).guess() {
            counts.entry(guess.to_string()).or_insert((guess, 0)).1 += 1;
        }
    }
    for (guess, count) in counts.into_values() {
        let files = plural(count, "file is", "files are");
        let (name, connector) = (&watch.name, guess.connector());
        Report::note(
            &format!("watch {name:?}: {files} sent to {connector}, {guess}"),
            &guess.hint(),
        );
    }
}

fn references<'f>(watch: &Watch, files: impl Iterator<Item = &'f Path>) {
    let Ok(looker) = Looker::open(watch) else {
        return;
    };
    let until = Instant::now() + TIME;
    let (mut dangling, mut unread): (Vec<(&Path, Dangling)>, u64) = (Vec::new(), 0);
    for file in files {
        match looker.look(file, limits(until)) {
            None => {}
            Some(Ok(looked)) => {
                unread += u64::from(looked.incomplete.is_some());
                dangling.extend(looked.dangling.into_iter().map(|one| (file, one)));
            }
            Some(Err(_)) => unread += 1,
        }
    }
    let name = &watch.name;
    for (file, one) in dangling.iter().take(LISTED) {
        Report::note(
            &format!("watch {name:?}: {} {}", QuotedPath(file), one.text()),
            &one.hint(),
        );
    }
    if dangling.len() > LISTED {
        let more = plural((dangling.len() - LISTED) as u64, "reference", "references");
        Report::note(
            &format!("watch {name:?}: {more} more are not uploaded"),
            "itwin-syncd explain FILE lists those of a file",
        );
    }
    if unread > 0 {
        let files = plural(unread, "file was", "files were");
        Report::note(
            &format!("watch {name:?}: {files} not read to the end for references"),
            "itwin-syncd explain FILE says why",
        );
    }
}
