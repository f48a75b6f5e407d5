//! `itwin-syncd status`

mod text;
mod times;
mod watching;

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, json, matching, print_config_errors,
    print_error, unfinished_file,
};
use crate::config::ReadOnlyConfig;
use crate::control::{self, Answer, Request};
use crate::ledger::{self, FileReport, JobState, Ledger, Lists};
use crate::runtime_status::{Outage, PageProblem, RuntimeStatus, Undelivered};
use crate::state_directory;
use crate::status_view::{
    self, BatchView, DaemonView, HistoryView, StatusView, Summary, Surroundings, UnfinishedView,
    UploadView, WatchView,
};
use crate::watch::Unfinished;

pub(super) use text::run_progress;
pub(super) use times::{moment, upcoming};

/// Files whose histories are shown at once.
const HISTORIES_MAX: usize = 50;

/// What the text form lists.
const LISTS: Lists = Lists {
    files: 20,
    results: 10,
    runs: 1,
};

/// What the JSON form lists, without the files of `--all`.
const JSON_LISTS: Lists = Lists {
    files: 1000,
    results: 0,
    runs: 100,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Show the history of these files: each version, upload, run and result; paths, names, or globs such as '*.dwg';
    /// write -- before a name that starts with "-"
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object for programs; docs/status.md documents its fields
    #[arg(long)]
    json: bool,
    /// List every file in the JSON object, not only those that failed, wait or are in progress (up to 1000 each)
    #[arg(long, requires = "json", conflicts_with = "files")]
    all: bool,
    /// Keep the status up to date until Ctrl-C; into a pipe or file: one line for each change
    #[arg(long, conflicts_with_all = ["json", "files"])]
    watch: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error(transparent)]
    Select(#[from] matching::Error),
    #[error("more than {HISTORIES_MAX} files match: narrow the selection")]
    TooMany,
    #[error("cannot write the report")]
    Write(#[from] std::io::Error),
}

impl Error {
    fn hint(&self, config: &ReadOnlyConfig) -> Option<String> {
        match self {
            Self::Ledger(_) if state_directory::full(&config.state.path).is_some() => {
                Some(format!(
                    "the disk of {} is full: free up space",
                    config.state.path.display()
                ))
            }
            Self::Ledger(error) => error.hint(),
            Self::Directory(error) => Some(error.hint()),
            Self::Select(error) => error.hint(&config.watches),
            Self::TooMany | Self::Write(_) => None,
        }
    }
}

pub(super) async fn status(arguments: &Arguments) -> u8 {
    let config = match ReadOnlyConfig::load(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return match ReadOnlyConfig::load_despite_errors(&arguments.config.config) {
                Some(config) => despite_errors(arguments, &config).await,
                None => EXIT_CONFIG,
            };
        }
    };
    let shown = if arguments.watch {
        watching::watch(&config).await.map(|()| true)
    } else {
        show(arguments, &config).await
    };
    match shown {
        Ok(true) => EXIT_GOOD,
        Ok(false) => EXIT_FAILED,
        // The reader has closed the pipe.
        Err(Error::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(&config);
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

/// Shows the status although the configuration has errors: a running daemon keeps the previous one.
async fn despite_errors(arguments: &Arguments, config: &ReadOnlyConfig) -> u8 {
    if !arguments.watch
        && let Err(error) = show(arguments, config).await
    {
        let hint = error.hint(config);
        print_error(&error, hint);
    }
    EXIT_CONFIG
}

/// Prints the report, or the histories of files. Whether nothing in it needs attention.
async fn show(arguments: &Arguments, config: &ReadOnlyConfig) -> Result<bool, Error> {
    let state = &config.state.path;
    // Before dropping privileges: the owner of the state may not be able to reach every folder.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let now = crate::clock::now();
    if !arguments.files.is_empty() {
        return show_files(arguments, &meanings, &ledger, config).await;
    }
    let (daemon, unreachable) = daemon(config).await;
    let surroundings = Surroundings {
        unreachable,
        disk_full: state_directory::full(state),
    };
    if arguments.json {
        let lists = Lists {
            files: if arguments.all { 0 } else { JSON_LISTS.files },
            ..JSON_LISTS
        };
        let overview = ledger.overview(lists, now).await?;
        let view = StatusView::new(&overview, daemon.as_ref());
        let summary = status_view::summary(&view, &surroundings);
        let ok = summary.ok;
        let pages = if arguments.all {
            Some(matching::Pages::new(&ledger, now).await?)
        } else {
            None
        };
        print_json(view, summary, pages).await?;
        return Ok(ok);
    }
    let overview = ledger.overview(LISTS, now).await?;
    let view = StatusView::new(&overview, daemon.as_ref());
    print(&text::report(&view, &surroundings, now))?;
    Ok(status_view::summary(&view, &surroundings).ok)
}

/// The runtime status of the daemon, or why a running daemon does not respond.
async fn daemon(config: &ReadOnlyConfig) -> (Option<RuntimeStatus>, Option<String>) {
    match control::ask(&config.state.path, &Request::Status).await {
        Ok(Some(Answer::Status(now))) => (Some(*now), None),
        Ok(_) => (None, None),
        Err(error) => (None, Some(super::chain(&error))),
    }
}

/// Prints the histories of files. Whether all are known and none needs attention.
async fn show_files(
    arguments: &Arguments,
    words: &[(&Path, matching::Meaning<'_>)],
    ledger: &Ledger,
    config: &ReadOnlyConfig,
) -> Result<bool, Error> {
    let selection = matching::select(words, ledger).await?;
    if selection.files.len() > HISTORIES_MAX {
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
    if arguments.json {
        print(&json::text(&JsonHistories {
            version: VERSION,
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

fn print(report: &str) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{}", report.trim_end())?;
    Ok(())
}

/// Incremented when a field changes its meaning or is removed.
const VERSION: u32 = 1;

/// The JSON form without its lists of files and runs.
#[derive(Serialize)]
struct JsonHead {
    version: u32,
    ok: bool,
    summary: String,
    daemon: Option<DaemonView>,
    platform_outage: Option<Outage>,
    undelivered: Vec<Undelivered>,
    page_problem: Option<PageProblem>,
    watches: Vec<WatchView>,
    uploads: Vec<UploadView>,
    batch: Option<BatchView>,
}

/// The JSON form of histories.
#[derive(Serialize)]
struct JsonHistories<'a> {
    version: u32,
    files: &'a [HistoryView],
    unfinished: &'a [UnfinishedFile],
}

/// A file that is not in the ledger yet, because it is being written or cannot be opened.
#[derive(Debug, Clone, Serialize)]
struct UnfinishedFile {
    watch: String,
    #[serde(flatten)]
    view: UnfinishedView,
    /// Since when it cannot be opened.
    unreadable_since: Option<Timestamp>,
}

impl UnfinishedFile {
    fn new(watch: &str, file: &Unfinished) -> Self {
        Self {
            watch: watch.to_owned(),
            view: status_view::unfinished_view(file),
            unreadable_since: file.busy.then(|| unfinished_file::since(file)),
        }
    }
}

/// Prints the JSON form: with `pages` every file, else those of the view. The pages are written one by one, so that
/// the files are never all in memory.
async fn print_json(
    view: StatusView,
    summary: Summary,
    pages: Option<matching::Pages<'_>>,
) -> Result<(), Error> {
    let head = JsonHead {
        version: VERSION,
        ok: summary.ok,
        summary: summary.text,
        daemon: view.daemon,
        platform_outage: view.platform_outage,
        undelivered: view.undelivered,
        page_problem: view.page_problem,
        watches: view.watches,
        uploads: view.uploads,
        batch: view.batch,
    };
    let mut files = json::Files::begin(BufWriter::new(std::io::stdout()), &head)?;
    match pages {
        Some(mut pages) => {
            while let Some(page) = pages.next().await? {
                for file in &page {
                    files.add(&status_view::file_view(file))?;
                }
            }
        }
        None => {
            for file in view.failed.iter().chain(&view.open) {
                files.add(file)?;
            }
        }
    }
    let mut out = files.end()?;
    let runs = json::indented(&json::text(&view.runs), "\n  ");
    writeln!(out, ",\n  \"runs\": {runs}\n}}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
            Error::Select(_) => Error::Select(matching::Error::NoWatch("south".to_owned())),
            Error::TooMany => Error::TooMany,
            Error::Write(_) => Error::Write(std::io::ErrorKind::StorageFull.into()),
        }));
    }
}
