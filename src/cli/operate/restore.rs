//! `itwin-syncd restore`: brings back files that are gone from their folder.

use std::path::PathBuf;

use clap::Args;

use super::{Error, Output, Reached, files_word, finish, reach};
use crate::cli::{ConfigArgument, configuration, matching};
use crate::config::ReadOnlyConfig;
use crate::control::Command;
use crate::ledger::{Absence, FileReport, Ledger, Withdrawal};
use crate::shell;
use crate::state_directory;
use crate::status_view;

#[derive(Debug, Args)]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files or folders by path, or globs such as '*.dwg' on paths relative to their watch
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Show what would be done, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object for programs, instead of lines
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) async fn restore(arguments: &Restore) -> u8 {
    let config = match configuration::get(&arguments.config.config).await {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(restore_with(arguments, &config).await, &config)
}

async fn restore_with(arguments: &Restore, config: &ReadOnlyConfig) -> Result<(), Error> {
    let mut output = Output::new("restore", arguments.json, arguments.dry_run);
    let state = &config.state.path;
    // Before dropping privileges, as for `retry`.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let chosen = matching::files(&meanings, &ledger).await?;
    let (lost, rest): (Vec<&FileReport>, Vec<&FileReport>) =
        chosen.iter().partition(|file| can_be_restored(file));
    output.skipped(&rest, |file| {
        format!(" {}: nothing to restore", status_view::word(file))
    });
    output.files(&lost, |file| {
        let how = match file.withdrawal {
            Some(Withdrawal::Deleting | Withdrawal::Deleted) => {
                "restore its storage file from the recycle bin, and map it again"
            }
            Some(Withdrawal::Unmapping | Withdrawal::Unmapped) => "map its storage file again",
            _ => "keep it in the iModel",
        };
        format!(" {}: {how}", status_view::word(file))
    });
    let word = files_word(lost.len() as u64);
    if arguments.dry_run {
        output.would(lost.len() as u64, &format!("would restore {word}"));
        return Ok(());
    }
    if lost.is_empty() {
        output.end("nothing to restore");
        return Ok(());
    }
    let files = lost.iter().map(|file| file.id.to_string()).collect();
    let reached = reach(state, Command::Restore { files }).await?;
    let line = match &reached {
        Reached::Daemon(count) => format!(
            "restoring {}; `{}` shows the result",
            files_word(*count),
            shell::command(["status", "FILE"])
        ),
        Reached::Ledger(count) => format!(
            "{} will be restored when the daemon starts: it is not running",
            files_word(*count)
        ),
    };
    output.done(&reached, &line);
    Ok(())
}

/// Whether the file is gone from its folder, and was or may be taken out of the iModel.
fn can_be_restored(file: &FileReport) -> bool {
    let is_gone = matches!(file.absence, Some((Absence::Gone, _)));
    let is_restored = matches!(
        file.withdrawal,
        Some(Withdrawal::Restoring | Withdrawal::Restored)
    );
    is_gone && !is_restored && file.storage_file_id.is_some()
}
