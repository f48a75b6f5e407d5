//! `itwin-syncd retry`, `forget`, `rescan`, `pause` and `resume`: what an operator has the daemon do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, chain, complain, complain_of_config,
    matching,
};
use crate::config::Offline;
use crate::control::{self, Act, Answer, Desk, Request};
use crate::ledger::{self, FileReport, JobState, Ledger, Lists};
use crate::names::Shown;
use crate::state_directory;

/// Files that are named one by one.
const LINES_MAX: usize = 50;

/// The same as a number of rows.
const LINES_MAX_ROWS: u32 = 50;

/// A daemon that starts has the ledger's lock, and opens its socket within this time unless its ledger is large.
const STARTING: Duration = Duration::from_secs(30);

/// Between two looks for that socket.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Retry {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files or folders by their path or name, or globs such as '*.dwg' on paths relative to their watch. Write -- before a
    /// name that begins with "-".
    #[arg(value_name = "FILE", required_unless_present = "failed")]
    files: Vec<PathBuf>,
    /// Every file that failed; with FILE only those of them.
    #[arg(long)]
    failed: bool,
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files or folders by their path, or globs such as '*.dwg' on paths relative to their watch.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only show what would be done.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Watches {
    #[command(flatten)]
    config: ConfigArgument,
    /// Watches by their name, or globs of names. Without any: all of them. Write -- before a name that begins with "-".
    #[arg(value_name = "WATCH")]
    names: Vec<String>,
    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// What is done to watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Rescan,
    Pause,
    Resume,
}

/// What keeps an act from being done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Select(#[from] matching::Error),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error("not confirmed: standard input is no terminal")]
    NoTerminal,
}

impl Error {
    fn hint(&self, config: &Offline) -> Option<String> {
        match self {
            Self::NoTerminal => Some("add --yes".to_owned()),
            Self::Select(error) => error.hint(&config.watches),
            Self::Control(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Directory(error) => Some(error.hint()),
        }
    }
}

/// How an act reached its end.
enum Reached {
    /// The running daemon did it.
    Daemon(u64),
    /// It stands in the ledger for the next start.
    Ledger(u64),
}

pub(super) async fn retry(arguments: &Retry) -> u8 {
    let config = match load(&arguments.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(retry_with(arguments, &config).await, &config)
}

async fn retry_with(arguments: &Retry, config: &Offline) -> Result<(), Error> {
    let state = &config.state.path;
    // Before the rights are given up: the owner of the state may not be able to reach every folder.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    if meanings.is_empty() {
        return retry_failed(arguments, &ledger, state).await;
    }
    let chosen = matching::files(&meanings, &ledger).await?;
    let (again, rest): (Vec<&FileReport>, Vec<&FileReport>) =
        chosen.iter().partition(|file| can_be_tried(file));
    let again: Vec<&FileReport> = again
        .into_iter()
        .filter(|file| !arguments.failed || file.job == Some(JobState::Failed))
        .collect();
    if !arguments.failed {
        list(&rest, |file| {
            let word = crate::status_view::word(file);
            format!("{} {word}: nothing to try again", shown(file))
        });
    }
    list(&again, |file| {
        let reason = file.reason.as_deref().unwrap_or_default();
        format!("{} was: {reason}", shown(file))
    });
    let word = files_word(again.len() as u64);
    if arguments.dry_run {
        say(&format!("{word} would be tried again"));
        return Ok(());
    }
    if again.is_empty() {
        if arguments.failed {
            say("nothing failed");
        }
        return Ok(());
    }
    let files = again.iter().map(|file| file.id.to_string()).collect();
    tried_again(&reach(state, Act::Retry { files }).await?);
    Ok(())
}

/// Tries every failed file again, however many there are.
async fn retry_failed(arguments: &Retry, ledger: &Ledger, state: &Path) -> Result<(), Error> {
    let lists = Lists {
        files: LINES_MAX_ROWS,
        results: 0,
        runs: 0,
    };
    let overview = ledger.overview(lists, crate::clock::now()).await?;
    let all: u64 = overview
        .watches
        .iter()
        .map(|watch| watch.counts.failed)
        .sum();
    for file in overview.failed.iter().take(LINES_MAX) {
        let reason = file.reason.as_deref().unwrap_or_default();
        say(&format!("{} was: {reason}", shown(file)));
    }
    let more = all.saturating_sub(LINES_MAX as u64);
    if more > 0 {
        say(&format!("… and {more} more"));
    }
    if arguments.dry_run {
        say(&format!("{} would be tried again", files_word(all)));
    } else if all == 0 {
        say("nothing failed");
    } else {
        tried_again(&reach(state, Act::RetryFailed).await?);
    }
    Ok(())
}

fn tried_again(reached: &Reached) {
    say(&match reached {
        Reached::Daemon(count) => format!("{} tried again now", files_word(*count)),
        Reached::Ledger(count) => format!(
            "{} tried again at the next start: no daemon is running",
            files_word(*count)
        ),
    });
}

pub(super) async fn forget(arguments: &Forget) -> u8 {
    let config = match load(&arguments.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(forget_with(arguments, &config).await, &config)
}

async fn forget_with(arguments: &Forget, config: &Offline) -> Result<(), Error> {
    let state = &config.state.path;
    // Before the rights are given up, as for `retry`.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let chosen = matching::files(&meanings, &ledger).await?;
    let (at_work, chosen): (Vec<&FileReport>, Vec<&FileReport>) = chosen
        .iter()
        .partition(|file| matches!(file.job, Some(JobState::Uploading | JobState::Running)));
    list(&at_work, |file| {
        format!(
            "{} {}: not forgotten while it is worked on",
            shown(file),
            crate::status_view::word(file)
        )
    });
    list(&chosen, |file| {
        let stays = match &file.storage_file_id {
            Some(id) => format!(
                "storage file {id} stays on the platform, as does what was synchronized of it"
            ),
            None => "nothing of it is on the platform".to_owned(),
        };
        let back = if is_there(file, config) {
            "; it is still in the folder, so the next scan finds it as a new file"
        } else {
            ""
        };
        format!("{}: {stays}{back}", shown(file))
    });
    let word = files_word(chosen.len() as u64);
    if arguments.dry_run {
        say(&format!("{word} would be forgotten"));
        return Ok(());
    }
    if chosen.is_empty() {
        say("nothing to forget");
        return Ok(());
    }
    if !arguments.yes && !confirmed(&format!("Forget {word}?"))? {
        say("nothing was forgotten");
        return Ok(());
    }
    let files = chosen.iter().map(|file| file.id.to_string()).collect();
    let (Reached::Daemon(count) | Reached::Ledger(count)) =
        reach(state, Act::Forget { files }).await?;
    say(&format!("{} forgotten", files_word(count)));
    Ok(())
}

/// Whether the file is in its folder, and selected.
fn is_there(file: &FileReport, config: &Offline) -> bool {
    let watch = config.watches.iter().find(|watch| watch.name == file.watch);
    watch.is_some_and(|watch| {
        let selected = watch.selection.decide(&file.path).connector().is_some();
        selected && watch.path.join(&file.path).symlink_metadata().is_ok()
    })
}

/// Asks on the terminal.
fn confirmed(question: &str) -> Result<bool, Error> {
    use std::io::{BufRead as _, IsTerminal as _, Write as _};
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::NoTerminal);
    }
    let mut output = std::io::stderr();
    let asked = write!(output, "{question} [y/N] ").and_then(|()| output.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| input.lock().read_line(&mut answer));
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Says a line for each file, unless they are many.
fn list(files: &[&FileReport], told: impl Fn(&FileReport) -> String) {
    for file in files.iter().take(LINES_MAX) {
        say(&told(file));
    }
    let more = files.len().saturating_sub(LINES_MAX);
    if more > 0 {
        say(&format!("… and {more} more"));
    }
}

/// Whether asking for it changes anything.
fn can_be_tried(file: &FileReport) -> bool {
    match file.job {
        Some(JobState::Failed) => true,
        Some(JobState::Due | JobState::Stored) => file.reason.is_some(),
        Some(JobState::Uploading | JobState::Running) | None => false,
    }
}

pub(super) async fn watches(verb: Verb, arguments: &Watches) -> u8 {
    let config = match load(&arguments.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(watches_with(verb, arguments, &config).await, &config)
}

async fn watches_with(verb: Verb, arguments: &Watches, config: &Offline) -> Result<(), Error> {
    let watches = matching::watches(&arguments.names, &config.watches)?;
    let names = watches.join(", ");
    let (word, done) = match verb {
        Verb::Rescan => ("scanned", "is being scanned"),
        Verb::Pause => (
            "paused",
            "is paused; changes are noticed and wait, what is under way is finished",
        ),
        Verb::Resume => ("resumed", "is resumed"),
    };
    if arguments.dry_run {
        say(&format!("would be {word}: {names}"));
        return Ok(());
    }
    let act = match verb {
        Verb::Rescan => Act::Rescan { watches },
        Verb::Pause => Act::Pause { watches },
        Verb::Resume => Act::Resume { watches },
    };
    say(&match (verb, reach(&config.state.path, act).await?) {
        (Verb::Rescan, Reached::Ledger(_)) => {
            "no daemon is running; a start scans every folder anyway".to_owned()
        }
        (_, Reached::Daemon(0) | Reached::Ledger(0)) => {
            format!("nothing to do: {names} {}", already(verb))
        }
        (_, Reached::Daemon(_)) => format!("{names}: {done}"),
        (_, Reached::Ledger(_)) => {
            format!("{names}: {word} from the next start on, as no daemon is running")
        }
    });
    Ok(())
}

fn already(verb: Verb) -> &'static str {
    match verb {
        Verb::Rescan => "is not watched by the running daemon",
        Verb::Pause => "is paused already",
        Verb::Resume => "is held by nothing",
    }
}

/// Has the daemon do it, or, when there is none, writes it into the ledger.
async fn reach(state: &Path, act: Act) -> Result<Reached, Error> {
    state_directory::act_as_owner(state)?;
    let deadline = Instant::now() + STARTING;
    loop {
        if let Some(answer) = control::ask(state, &Request::Do(act.clone())).await? {
            return Ok(match answer {
                Answer::Done { count } => Reached::Daemon(count),
                _ => Reached::Daemon(0),
            });
        }
        // Only a ledger that is there: an act is no reason to begin one.
        Ledger::read(state).await?;
        match Ledger::open_within(state, Duration::ZERO).await {
            Ok(ledger) => {
                let count = Desk::without_daemon(ledger.clone()).carry_out(&act).await;
                ledger.close().await;
                return Ok(Reached::Ledger(count?));
            }
            // A daemon starts or ends, or another command is at work.
            Err(ledger::Error::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn load(path: &Path) -> Result<Offline, u8> {
    Offline::load(path).map_err(|mistakes| {
        complain_of_config(&mistakes);
        EXIT_CONFIG
    })
}

fn finish(done: Result<(), Error>, config: &Offline) -> u8 {
    match done {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            tracing::debug!(error = chain(&error), "not done");
            let hint = error.hint(config);
            complain(&error, hint);
            EXIT_FAILED
        }
    }
}

fn shown(file: &FileReport) -> String {
    format!("{}: {}", file.watch, Shown(&file.path))
}

fn files_word(count: u64) -> String {
    if count == 1 {
        "1 file".to_owned()
    } else {
        format!("{count} files")
    }
}

#[allow(clippy::print_stdout, reason = "the answer is what the command is for")]
fn say(text: &str) {
    println!("{text}");
}
