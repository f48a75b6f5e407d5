//! What a start would do to files that are gone from their folder.
//!
//! In: what the ledger knows of a watch, and what its folder holds. Out: lines of text. It does not read when a file
//! was missed first; the delay is named instead.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::output::Output;
use crate::config::{self, OnDelete, Watch};
use crate::ledger::{Deletions, FileReport, Ready, Withdrawal};
use crate::shell;
use crate::text::plural;
use crate::watch::Survey;

/// The files of a watch that are gone.
pub(super) struct Gone<'r> {
    files: Vec<&'r FileReport>,
    /// How many are there.
    present: u64,
    listing: Listing,
}

/// How far the folder of a watch was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Whole,
    Partial,
}

/// Whether something is left to do for a file that is gone.
fn is_left(on_delete: OnDelete, file: &FileReport) -> bool {
    match (on_delete, file.withdrawal) {
        (OnDelete::Keep, _) | (_, Some(Withdrawal::Restoring | Withdrawal::Restored)) => false,
        (OnDelete::Unmap, done) => {
            file.connector.is_some() && done.is_none_or(|done| done == Withdrawal::Unmapping)
        }
        (OnDelete::Remove, done) => done != Some(Withdrawal::Deleted),
    }
}

impl<'r> Gone<'r> {
    /// Files that storage has, that the watch selects, and that are not in the folder: neither under their name nor,
    /// as the origins of renamed files, under another one.
    pub(super) fn find<'o>(
        watch: &Watch,
        survey: &Survey,
        files: &[Ready],
        reports: &HashMap<&PathBuf, &'r FileReport>,
        origins: impl Iterator<Item = &'o PathBuf>,
    ) -> Self {
        let there: HashSet<&PathBuf> = files.iter().map(|file| &file.path).collect();
        let origins: HashSet<&PathBuf> = origins.collect();
        let mut gone: Vec<&FileReport> = reports
            .values()
            .copied()
            .filter(|file| file.storage_file_id.is_some() && watch.scope.selects(&file.path))
            .filter(|file| !there.contains(&file.path) && !origins.contains(&file.path))
            .collect();
        gone.sort_by(|one, other| one.path.cmp(&other.path));
        Self {
            files: gone,
            present: files.len() as u64,
            listing: if survey.problems.is_empty() {
                Listing::Whole
            } else {
                Listing::Partial
            },
        }
    }

    /// Prints what happens to these files.
    pub(super) fn show(&self, watch: &Watch, max_deletes: u64, output: &mut Output) {
        if self.listing == Listing::Partial {
            if !self.files.is_empty() && watch.on_delete != OnDelete::Keep {
                output.note(
                    "nothing is removed from the platform while parts of the folder cannot be read",
                    None,
                );
            }
            return;
        }
        let (left, kept): (Vec<&FileReport>, Vec<&FileReport>) = self
            .files
            .iter()
            .partition(|file| is_left(watch.on_delete, file));
        for file in &left {
            let connection = file
                .connector
                .as_ref()
                .map(|connector| watch.connection.of(connector));
            let what = match (watch.on_delete, connection) {
                (OnDelete::Remove, Some(connection)) => {
                    format!("unmap from connection {connection:?}, run, delete its storage file")
                }
                (OnDelete::Keep | OnDelete::Unmap, Some(connection)) => {
                    format!("unmap from connection {connection:?}")
                }
                (_, None) => "delete its storage file".to_owned(),
            };
            output.file("gone", &file.path, None, &what);
        }
        if !kept.is_empty() {
            let files = plural(kept.len() as u64, "file is", "files are");
            let text = format!("{files} gone; nothing changes on the platform");
            output.note(&text, None);
        }
        if left.is_empty() {
            return;
        }
        let count = left.len() as u64;
        let files = plural(count, "file", "files");
        let then = match watch.on_delete {
            OnDelete::Remove => " and deleted from storage",
            OnDelete::Keep | OnDelete::Unmap => "",
        };
        let connections = if watch.connection.is_per_type() {
            "the connections of their types".to_owned()
        } else {
            format!("connection {:?}", watch.connection.as_str())
        };
        let after = config::show_duration(&watch.delete_after);
        let text = format!(
            "{files} will be unmapped from {connections}{then} after being gone for {after}; whether elements leave \
             the iModel is up to the platform"
        );
        output.note(&text, None);
        let (allowed, _) = Deletions::allowed(max_deletes, self.present, count);
        if count > allowed {
            let text = format!(
                "too many at once (limit {allowed}): they wait for `{}`",
                shell::command(["resume", &watch.name])
            );
            output.note(&text, None);
        }
    }
}
