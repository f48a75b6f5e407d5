//! `itwin-syncd status`: the state of the service, lists of files, histories of files.
//!
//! Input: the ledger and the runtime status of the daemon. Output: text or JSON, and an exit code. It changes nothing.

mod histories;
mod json_form;
mod text;
mod times;
mod unfinished;
mod watching;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;

use super::configuration::{self, Found};
use super::{ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, matching, print_error};
use crate::config::ReadOnlyConfig;
use crate::control::{self, Answer, Request};
use crate::ledger::{self, FileFilter, FileList, FileReport, FoundFiles, JobState, Ledger, Lists};
use crate::runtime_status::RuntimeStatus;
use crate::state_directory;
use crate::status_view::{self, StatusView, Summary, Surroundings};

#[cfg(test)]
pub(super) use histories::JsonHistories;
#[cfg(test)]
pub(super) use json_form::Whole;
pub(super) use text::run_progress;
pub(super) use times::{moment, upcoming};

/// Exit codes of `--exit-code`, as those of `systemctl status`.
const EXIT_NOT_RUNNING: u8 = 3;
const EXIT_UNKNOWN: u8 = 4;

/// Files in a list, without `--limit`.
const LISTED: u32 = 20;

/// What the text form lists.
const LISTS: Lists = Lists {
    files: 10,
    groups: 10,
    results: 5,
    runs: 1,
};

/// What the JSON form lists, without the files of `--all`.
const JSON_LISTS: Lists = Lists {
    files: 1000,
    groups: 100,
    results: 0,
    runs: 100,
};

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "options of the command line")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Show only these watches, by name; or show the history of these files: each version, upload, run and result;
    /// paths, names, or globs such as '*.dwg'; write ./ before a file with the name of a watch, and -- before a name
    /// that starts with "-"
    #[arg(value_name = "WATCH|FILE")]
    words: Vec<PathBuf>,
    /// Print one JSON object for programs; docs/status.md documents its fields
    #[arg(long)]
    json: bool,
    /// List files that failed
    #[arg(long)]
    failed: bool,
    /// List files whose path or reason contains this text
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// List every file, not only those that failed, wait or are in progress; with --failed or --search every one of
    /// those
    #[arg(long, conflicts_with_all = ["limit", "offset"])]
    all: bool,
    /// List at most this number of files [default: 20, with --json 1000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
    /// Begin the list after this number of files
    #[arg(long, value_name = "COUNT")]
    offset: Option<u64>,
    /// Keep the status up to date until Ctrl-C, with keys to scroll; into a pipe or file: one line for each change
    #[arg(long, conflicts_with_all = ["json", "failed", "search", "all", "limit", "offset"])]
    watch: bool,
    /// Exit with 3 if the daemon is not running, 4 if the status cannot be determined
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
}

impl Arguments {
    /// Whether files are listed instead of the work in progress.
    fn lists_files(&self) -> bool {
        self.failed
            || self.all
            || self.search.is_some()
            || self.limit.is_some()
            || self.offset.is_some()
    }

    fn search(&self, watches: Vec<String>) -> Search {
        Search {
            failed: self.failed,
            filter: FileFilter {
                watches,
                text: self.search.clone(),
            },
        }
    }
}

/// Which files to list.
#[derive(Debug, Clone, Default)]
struct Search {
    /// Only those that failed.
    failed: bool,
    filter: FileFilter,
}

impl Search {
    fn fits(&self, file: &FileReport) -> bool {
        (!self.failed || file.job == Some(JobState::Failed)) && self.filter.fits_report(file)
    }

    /// The files after the first `offset`, at most `limit`, and how many there are.
    async fn find(&self, ledger: &Ledger, offset: u64, limit: u32) -> Result<FoundFiles, Error> {
        if self.failed {
            let list = FileList::Failed;
            return Ok(ledger
                .find_files(&list, &self.filter, offset, limit)
                .await?);
        }
        let mut found = FoundFiles::default();
        let mut pages = matching::Pages::new(ledger, crate::clock::now()).await?;
        while let Some(page) = pages.next().await? {
            for file in page.into_iter().filter(|file| self.fits(file)) {
                if found.all >= offset && found.files.len() < limit as usize {
                    found.files.push(file);
                }
                found.all += 1;
            }
        }
        Ok(found)
    }
}

/// What the status is, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// Nothing needs attention.
    Good,
    /// Something does.
    Attention,
    /// There is no daemon.
    NotRunning,
    /// It is not known whether the daemon works.
    Unknown,
}

impl Finding {
    fn of(ok: bool, view: &StatusView, surroundings: &Surroundings) -> Self {
        if surroundings.unreachable.is_some() {
            Self::Unknown
        } else if view.daemon.is_none() {
            Self::NotRunning
        } else if ok {
            Self::Good
        } else {
            Self::Attention
        }
    }

    fn of_files(ok: bool) -> Self {
        if ok { Self::Good } else { Self::Attention }
    }

    fn exit_code(self, arguments: &Arguments) -> u8 {
        match self {
            Self::Good => EXIT_GOOD,
            Self::NotRunning if arguments.exit_code => EXIT_NOT_RUNNING,
            Self::Unknown if arguments.exit_code => EXIT_UNKNOWN,
            Self::Attention | Self::NotRunning | Self::Unknown => EXIT_FAILED,
        }
    }
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
    #[error("more than {} files match: narrow the selection", histories::FILES_MAX)]
    TooMany,
    #[error(
        "--failed, --search, --all, --limit and --offset list the files of watches, but {0:?} is no watch"
    )]
    NotAWatch(PathBuf),
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
            Self::NotAWatch(_) => {
                let names = config.watches.iter();
                let names: Vec<_> = names.map(|watch| watch.name.as_str()).collect();
                Some(format!("configured watches: {}", names.join(", ")))
            }
            Self::TooMany | Self::Write(_) => None,
        }
    }
}

pub(super) async fn status(arguments: &Arguments) -> u8 {
    let path = &arguments.config.config;
    let found = match configuration::find(path).await {
        Some(found) => found,
        // No daemon: the status as far as the file can be read.
        None => match ReadOnlyConfig::load_despite_errors(path) {
            Some(config) => Found {
                config,
                has_errors: true,
            },
            None => return EXIT_CONFIG,
        },
    };
    let config = &found.config;
    let shown = if arguments.watch {
        let watched = watching::watch(config, &arguments.words).await;
        watched.map(|()| Finding::Good)
    } else {
        show(arguments, config).await
    };
    let code = match shown {
        Ok(finding) => finding.exit_code(arguments),
        // The reader has closed the pipe.
        Err(Error::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(config);
            print_error(&error, hint);
            Finding::Unknown.exit_code(arguments)
        }
    };
    if found.has_errors { EXIT_CONFIG } else { code }
}

/// The names of the watches that the words name; None if they are not all names of watches.
fn named_watches(words: &[PathBuf], config: &ReadOnlyConfig) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for word in words {
        let word = word.to_str()?;
        let of_word = matching::named(word, &config.watches);
        if of_word.is_empty() {
            return None;
        }
        names.extend(of_word);
    }
    names.sort();
    names.dedup();
    Some(names)
}

/// Prints the report, or the histories of files.
async fn show(arguments: &Arguments, config: &ReadOnlyConfig) -> Result<Finding, Error> {
    let state = &config.state.path;
    // Before dropping privileges: the owner of the state may not be able to reach every folder.
    let meanings = matching::meanings(&arguments.words, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let Some(watches) = named_watches(&arguments.words, config) else {
        if arguments.lists_files() {
            let is_watch = |word: &Path| named_watches(&[word.to_owned()], config).is_some();
            let word = arguments.words.iter().find(|word| !is_watch(word));
            return Err(Error::NotAWatch(word.cloned().unwrap_or_default()));
        }
        let ok = histories::show(&meanings, &ledger, config, arguments.json).await?;
        return Ok(Finding::of_files(ok));
    };
    let lists = if arguments.json { JSON_LISTS } else { LISTS };
    let report = Report::read(config, &ledger, &watches, lists).await?;
    let finding = report.finding();
    let search = arguments.search(watches);
    let list = if !arguments.lists_files() {
        List::InProgress
    } else if arguments.all {
        List::Every(matching::Pages::new(&ledger, report.now).await?, search)
    } else {
        let limit = arguments.limit.unwrap_or(if arguments.json {
            JSON_LISTS.files
        } else {
            LISTED
        });
        let offset = arguments.offset.unwrap_or(0);
        let found = search.find(&ledger, offset, limit).await?;
        List::Page(found, offset)
    };
    if arguments.json {
        json_form::print(report, list).await?;
    } else {
        print_text(&report, list, arguments).await?;
    }
    Ok(finding)
}

/// The files that a report lists.
enum List<'l> {
    /// Those that failed, wait or are in progress.
    InProgress,
    /// A part of what was searched, after this number of files.
    Page(FoundFiles, u64),
    /// All that is searched.
    Every(matching::Pages<'l>, Search),
}

/// What ledger and daemon know at a moment.
struct Report {
    view: StatusView,
    surroundings: Surroundings,
    now: Timestamp,
}

impl Report {
    /// Reads it, of the watches with these names; with no names of all.
    async fn read(
        config: &ReadOnlyConfig,
        ledger: &Ledger,
        watches: &[String],
        lists: Lists,
    ) -> Result<Self, Error> {
        let (mut daemon, unreachable) = daemon(config).await;
        if let Some(daemon) = daemon.as_mut().filter(|_| !watches.is_empty()) {
            let uploads = &mut daemon.uploads;
            uploads.retain(|upload| watches.contains(&upload.watch));
        }
        let surroundings = Surroundings {
            unreachable,
            disk_full: state_directory::full(&config.state.path),
        };
        let now = crate::clock::now();
        let overview = ledger.overview_of(watches, lists, now).await?;
        let view = StatusView::new(&overview, daemon.as_ref());
        Ok(Self {
            view,
            surroundings,
            now,
        })
    }

    fn summary(&self) -> Summary {
        status_view::summary(&self.view, &self.surroundings)
    }

    fn finding(&self) -> Finding {
        Finding::of(self.summary().ok, &self.view, &self.surroundings)
    }
}

async fn print_text(report: &Report, list: List<'_>, arguments: &Arguments) -> Result<(), Error> {
    let Report {
        view,
        surroundings,
        now,
    } = report;
    let (found, offset) = match list {
        List::InProgress => return print(&text::report(view, surroundings, *now)),
        List::Page(found, offset) => (found, offset),
        List::Every(mut pages, search) => {
            print(&text::head_of_list(view, surroundings, *now, &search))?;
            while let Some(page) = pages.next().await? {
                let files = page.iter().filter(|file| search.fits(file));
                let files: Vec<_> = files.map(status_view::file_view).collect();
                if !files.is_empty() {
                    print(&text::files(&files, &view.uploads, *now))?;
                }
            }
            return Ok(());
        }
    };
    let search = arguments.search(Vec::new());
    print(&text::head_of_list(view, surroundings, *now, &search))?;
    let files: Vec<_> = found.files.iter().map(status_view::file_view).collect();
    print(&text::page(&files, found.all, offset, &view.uploads, *now))
}

/// The runtime status of the daemon, or why a running daemon does not respond.
async fn daemon(config: &ReadOnlyConfig) -> (Option<RuntimeStatus>, Option<String>) {
    match control::ask(&config.state.path, &Request::Status).await {
        Ok(Some(Answer::Status(now))) => (Some(*now), None),
        Ok(_) => (None, None),
        Err(error) => (None, Some(super::chain(&error))),
    }
}

fn print(report: &str) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{}", report.trim_end())?;
    Ok(())
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
            Error::NotAWatch(_) => Error::NotAWatch("nroth".into()),
            Error::Write(_) => Error::Write(std::io::ErrorKind::StorageFull.into()),
        }));
    }
}
