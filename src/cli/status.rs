//! `itwin-syncd status`

mod text;
mod watching;

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, complain, complain_of_config, matching,
};
use crate::config::Offline;
use crate::control::{self, Answer, Request};
use crate::ledger::{self, Ledger, Lists};
use crate::runtime_status::Now;
use crate::state_directory;
use crate::status_view::{
    self, Around, DaemonView, StoryView, UploadView, Verdict, View, WatchView,
};

pub(super) use text::moment;

/// Files of which a whole story is told at once.
const STORIES_MAX: usize = 50;

/// What the text form lists; the JSON form has all files.
const LISTS: Lists = Lists {
    files: 20,
    results: 10,
    runs: 1,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Tell the whole story of these files: each version, upload, run and result. Paths, names, or globs such as
    /// '*.dwg'. Write -- before a name that begins with "-".
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON object, for programs; docs/status.md tells of its fields.
    #[arg(long)]
    json: bool,
    /// Stay and show what happens, until Ctrl-C. Into a pipe or file: one line for each change.
    #[arg(long, conflicts_with_all = ["json", "files"])]
    watch: bool,
}

/// What keeps the command from its answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error(transparent)]
    Select(#[from] matching::Error),
    #[error("more than {STORIES_MAX} files fit; name fewer")]
    TooMany,
    #[error("cannot write the report")]
    Write(#[from] std::io::Error),
}

impl Error {
    fn hint(&self, config: &Offline) -> Option<String> {
        match self {
            Self::Ledger(_) if state_directory::full(&config.state.path).is_some() => {
                Some(format!(
                    "the disk of {} is full: free some space on it",
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
    let config = match Offline::load(&arguments.config.config) {
        Ok(config) => config,
        Err(mistakes) => {
            complain_of_config(&mistakes);
            return EXIT_CONFIG;
        }
    };
    let told = if arguments.watch {
        watching::watch(&config).await.map(|()| true)
    } else {
        tell(arguments, &config).await
    };
    match told {
        Ok(true) => EXIT_GOOD,
        Ok(false) => EXIT_FAILED,
        // The reader has closed the pipe.
        Err(Error::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(&config);
            complain(&error, hint);
            EXIT_FAILED
        }
    }
}

/// Prints the report, or the stories of files. Whether nothing in it needs attention.
async fn tell(arguments: &Arguments, config: &Offline) -> Result<bool, Error> {
    let state = &config.state.path;
    // Before the rights are given up: the owner of the state may not be able to reach every folder.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let now = crate::clock::now();
    if !arguments.files.is_empty() {
        let stories = stories(&meanings, &ledger).await?;
        print(&if arguments.json {
            json_text(&JsonStories {
                version: VERSION,
                files: &stories,
            })
        } else {
            text::stories(&stories)
        })?;
        return Ok(true);
    }
    let (daemon, unreachable) = daemon(config).await;
    let around = Around {
        unreachable,
        disk_full: state_directory::full(state),
    };
    if arguments.json {
        let lists = Lists {
            files: 0,
            results: 0,
            runs: 100,
        };
        let overview = ledger.overview(lists, now).await?;
        let view = View::new(&overview, daemon.as_ref());
        let verdict = status_view::verdict(&view, &around);
        let well = verdict.well;
        print_json(view, verdict, matching::Pages::new(&ledger, now).await?).await?;
        return Ok(well);
    }
    let overview = ledger.overview(LISTS, now).await?;
    let view = View::new(&overview, daemon.as_ref());
    print(&text::report(&view, &around, now))?;
    Ok(status_view::verdict(&view, &around).well)
}

/// What the daemon says, or why it says nothing although it is there.
async fn daemon(config: &Offline) -> (Option<Now>, Option<String>) {
    match control::ask(&config.state.path, &Request::Now).await {
        Ok(Some(Answer::Now(now))) => (Some(*now), None),
        Ok(_) => (None, None),
        Err(error) => (None, Some(super::chain(&error))),
    }
}

async fn stories(
    words: &[(&Path, matching::Meaning<'_>)],
    ledger: &Ledger,
) -> Result<Vec<StoryView>, Error> {
    let files = matching::files(words, ledger).await?;
    if files.len() > STORIES_MAX {
        return Err(Error::TooMany);
    }
    let mut stories = Vec::with_capacity(files.len());
    for file in files {
        stories.extend(
            ledger
                .story(file.id)
                .await?
                .as_ref()
                .map(status_view::story_view),
        );
    }
    Ok(stories)
}

fn print(report: &str) -> Result<(), Error> {
    writeln!(std::io::stdout(), "{}", report.trim_end())?;
    Ok(())
}

/// Rises when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// The JSON form without its lists of files and runs.
#[derive(Serialize)]
struct JsonHead {
    version: u32,
    well: bool,
    verdict: String,
    daemon: Option<DaemonView>,
    watches: Vec<WatchView>,
    uploads: Vec<UploadView>,
}

/// The JSON form of stories.
#[derive(Serialize)]
struct JsonStories<'a> {
    version: u32,
    files: &'a [StoryView],
}

/// Prints the JSON form. The files are written page by page, so that they are never all in memory.
async fn print_json(
    view: View,
    verdict: Verdict,
    mut pages: matching::Pages<'_>,
) -> Result<(), Error> {
    let head = json_text(&JsonHead {
        version: VERSION,
        well: verdict.well,
        verdict: verdict.text,
        daemon: view.daemon,
        watches: view.watches,
        uploads: view.uploads,
    });
    let mut out = BufWriter::new(std::io::stdout());
    // Its last brace comes at the end.
    let head = head.strip_suffix("\n}").unwrap_or(&head);
    write!(out, "{head},\n  \"files\": [")?;
    let mut separator = "";
    while let Some(page) = pages.next().await? {
        for file in &page {
            let file = indented(&json_text(&status_view::file_view(file)), "\n    ");
            write!(out, "{separator}\n    {file}")?;
            separator = ",";
        }
    }
    let end = if separator.is_empty() { "" } else { "\n  " };
    let runs = indented(&json_text(&view.runs), "\n  ");
    writeln!(out, "{end}],\n  \"runs\": {runs}\n}}")?;
    Ok(out.flush()?)
}

/// A value in its place in another one. A text in JSON has no line breaks of its own.
fn indented(json: &str, line_break: &str) -> String {
    json.replace('\n', line_break)
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
