//! `itwin-syncd status`

mod text;
mod watching;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, complain, complain_of_config, select,
};
use crate::config::Offline;
use crate::control::{self, Answer, Request};
use crate::ledger::{self, Ledger, Lists, Snapshot};
use crate::live::Now;
use crate::view::{self, DaemonView, FileView, RunView, StoryView, UploadView, View, WatchView};

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
    Select(#[from] select::Error),
    #[error("more than {STORIES_MAX} files fit; name fewer")]
    TooMany,
    #[error("cannot write the report")]
    Write(#[from] std::io::Error),
}

impl Error {
    fn hint(&self, config: &Offline) -> Option<String> {
        match self {
            Self::Ledger(error) => error.hint(),
            Self::Select(error) => Some(error.hint(&config.watches)),
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
        watching::watch(&config).await
    } else {
        tell(arguments, &config).await
    };
    match told {
        Ok(()) => EXIT_GOOD,
        // Whoever reads has seen enough.
        Err(Error::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(&config);
            complain(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn tell(arguments: &Arguments, config: &Offline) -> Result<(), Error> {
    let ledger = Ledger::read(&config.state.path).await?;
    let now = crate::clock::now();
    if !arguments.files.is_empty() {
        let stories = stories(&arguments.files, config, &ledger).await?;
        return print(&if arguments.json {
            json_text(&JsonStories {
                version: VERSION,
                files: &stories,
            })
        } else {
            text::stories(&stories)
        });
    }
    let (daemon, unreachable) = daemon(config).await;
    if arguments.json {
        let snapshot = ledger.snapshot(now).await?;
        let runs = ledger.overview(Lists { runs: 100, ..LISTS }, now).await?;
        let runs = View::new(&runs, None).runs;
        return print(&json(&snapshot, daemon.as_ref(), runs));
    }
    let overview = ledger.overview(LISTS, now).await?;
    let view = View::new(&overview, daemon.as_ref());
    print(&text::report(&view, unreachable.as_deref(), now))
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
    words: &[PathBuf],
    config: &Offline,
    ledger: &Ledger,
) -> Result<Vec<StoryView>, Error> {
    let all = ledger.snapshot(crate::clock::now()).await?.files;
    let files = select::files(words, &config.watches, &all)?;
    if files.len() > STORIES_MAX {
        return Err(Error::TooMany);
    }
    let mut stories = Vec::with_capacity(files.len());
    for file in files {
        stories.extend(ledger.story(file.id).await?.as_ref().map(view::story_view));
    }
    Ok(stories)
}

fn print(report: &str) -> Result<(), Error> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", report.trim_end())?;
    Ok(())
}

/// Rises when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// The JSON form.
#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    daemon: Option<DaemonView>,
    watches: Vec<WatchView>,
    uploads: Vec<UploadView>,
    files: &'a [FileView],
    runs: Vec<RunView>,
}

/// The JSON form of stories.
#[derive(Serialize)]
struct JsonStories<'a> {
    version: u32,
    files: &'a [StoryView],
}

fn json(snapshot: &Snapshot, daemon: Option<&Now>, runs: Vec<RunView>) -> String {
    let files: Vec<FileView> = snapshot.files.iter().map(view::file_view).collect();
    json_text(&Json {
        version: VERSION,
        daemon: daemon.map(view::daemon),
        watches: snapshot
            .watches
            .iter()
            .map(|watch| view::watch_view(watch, daemon))
            .collect(),
        uploads: daemon.map(view::uploads).unwrap_or_default(),
        files: &files,
        runs,
    })
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
