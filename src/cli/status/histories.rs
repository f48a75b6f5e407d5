//! `status FILE`: the histories of files.

use std::path::Path;

use serde::Serialize;

use super::unfinished::UnfinishedFile;
use super::{Error, print, text};
use crate::cli::{json, matching, print_error, unfinished_file};
use crate::config::ReadOnlyConfig;
use crate::ledger::{FileReport, JobState, Ledger};
use crate::status_view::{self, HistoryView};

/// Files whose histories are shown at once.
pub(super) const FILES_MAX: usize = 50;

/// Prints the histories of files. Whether all are known and none needs attention.
pub(super) async fn show(
    words: &[(&Path, matching::Meaning<'_>)],
    ledger: &Ledger,
    config: &ReadOnlyConfig,
    as_json: bool,
) -> Result<bool, Error> {
    let selection = matching::select(words, ledger).await?;
    if selection.files.len() > FILES_MAX {
        return Err(Error::TooMany);
    }
    let failed = |file: &FileReport| file.job == Some(JobState::Failed);
    let mut ok = !selection.files.iter().any(failed);
    let histories = histories(&selection.files, ledger).await?;
    let mut unfinished = Vec::new();
    let mut unknown = Vec::new();
    for (position, error) in selection.unmatched {
        // A new file is not in the ledger before it is complete.
        let place = words.get(position).and_then(|(_, meaning)| meaning.place());
        let file = match place {
            Some((watch, path)) => unfinished_file::ask(&config.state.path, watch, path)
                .await
                .map(|file| UnfinishedFile::new(watch, &file)),
            None => None,
        };
        match file {
            Some(file) => unfinished.push(file),
            None => unknown.push(Error::Select(error)),
        }
    }
    ok &= unknown.is_empty() && !unfinished.iter().any(|file| file.view.busy);
    if as_json {
        print(&json::text(&JsonHistories {
            version: json::VERSION,
            files: &histories,
            unfinished: &unfinished,
        }))?;
    } else if !histories.is_empty() || !unfinished.is_empty() {
        print(&text::histories(
            &histories,
            &unfinished,
            crate::clock::now(),
        ))?;
    }
    for error in unknown {
        let hint = error.hint(config);
        print_error(&error, hint);
    }
    Ok(ok)
}

async fn histories(files: &[FileReport], ledger: &Ledger) -> Result<Vec<HistoryView>, Error> {
    let mut histories = Vec::with_capacity(files.len());
    for file in files {
        histories.extend(
            ledger
                .file_history(file.id)
                .await?
                .as_ref()
                .map(status_view::history_view),
        );
    }
    Ok(histories)
}

/// The JSON form of histories.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Histories"))]
pub(in crate::cli) struct JsonHistories<'a> {
    version: u32,
    files: &'a [HistoryView],
    unfinished: &'a [UnfinishedFile],
}
