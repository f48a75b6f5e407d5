//! `itwin-syncd retry`, `forget`, `restore`, `rescan`, `pause`, `resume` and `sync`: commands to the daemon.
//!
//! Longer than most files because the commands share their errors, and how they reach the daemon.

mod output;
mod restore;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};

use super::{ConfigArgument, EXIT_FAILED, EXIT_GOOD, chain, configuration, matching, print_error};
use crate::config::{ReadOnlyConfig, Watch};
use crate::control::{self, Answer, Command, Operator, Request};
use crate::ledger::{self, FileReport, JobState, Ledger, Lists, Removal};
use crate::ledger_location::LedgerLocation;
use crate::names::QuotedPath;
use crate::shell;
use crate::state_directory;
use crate::status_view;
use crate::text::plural;
#[cfg(test)]
pub(super) use output::Executed;
use output::Output;
pub(super) use restore::{Restore, restore};

/// Files that are listed one by one.
const LINES_MAX: usize = 50;

/// The same as a number of rows.
const LINES_MAX_ROWS: u32 = 50;

/// A daemon that starts has the ledger's lock, and opens its socket within this time unless its ledger is large.
const STARTING: Duration = Duration::from_secs(30);

/// Pause between two attempts to connect to that socket.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["files", "failed", "group"])))]
pub(super) struct Retry {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files or folders by path or name, or globs such as '*.dwg' on paths relative to their watch; write -- before a
    /// name that starts with "-"
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Every failed file; with FILE only the failed ones among them
    #[arg(long)]
    failed: bool,
    /// Every file that failed, or waits for another attempt, for one reason: its key is in the output of `status`
    #[arg(long, value_name = "KEY", conflicts_with_all = ["files", "failed"])]
    group: Option<String>,
    /// Show what would be done, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object for programs, instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files or folders by path, or globs such as '*.dwg' on paths relative to their watch
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Show what would be done, without doing it
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Print one JSON object for programs, instead of lines; needs --yes or --dry-run
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Watches {
    #[command(flatten)]
    config: ConfigArgument,
    /// Watches by name, or globs of names; default: all watches; write -- before a name that starts with "-"
    #[arg(value_name = "WATCH")]
    names: Vec<String>,
    /// Show what would be done, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object for programs, instead of lines
    #[arg(long)]
    json: bool,
}

/// What is done to watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Rescan,
    Pause,
    Resume,
    Sync,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Select(#[from] matching::Error),
    #[error("nothing was forgotten")]
    NotForgotten(#[source] matching::Error),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error("no failures have the group {0:?}")]
    NoGroup(String),
    #[error("cannot ask for confirmation: standard input is not a terminal")]
    NoTerminal,
}

impl Error {
    pub(super) fn hint(&self, watches: &[Watch]) -> Option<String> {
        match self {
            Self::NoGroup(_) => Some(format!(
                "run `{}` for the groups and their keys; a group ends with its last failure",
                shell::command(["status"])
            )),
            Self::NoTerminal => Some("add --yes to skip the confirmation".to_owned()),
            Self::Select(error) | Self::NotForgotten(error) => error.hint(watches),
            Self::Control(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Directory(error) => Some(error.hint()),
        }
    }
}

/// Where a command was executed.
enum Reached {
    /// By the running daemon.
    Daemon(u64),
    /// In the ledger, effective at the next start.
    Ledger(u64),
}

pub(super) async fn retry(arguments: &Retry) -> u8 {
    let config = match configuration::get(&arguments.config.config).await {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(retry_with(arguments, &config).await, &config)
}

async fn retry_with(arguments: &Retry, config: &ReadOnlyConfig) -> Result<(), Error> {
    let mut output = Output::new("retry", arguments.json, arguments.dry_run);
    let state = &config.state.path;
    // Before dropping privileges: the owner of the state may not be able to reach every folder.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    if let Some(key) = &arguments.group {
        return retry_group(key, output, &ledger, state, arguments.dry_run).await;
    }
    if meanings.is_empty() {
        return retry_failed(output, &ledger, state, arguments.dry_run).await;
    }
    let chosen = matching::files(&meanings, &ledger).await?;
    let (again, rest): (Vec<&FileReport>, Vec<&FileReport>) =
        chosen.iter().partition(|file| can_be_tried(file));
    let again: Vec<&FileReport> = again
        .into_iter()
        .filter(|file| !arguments.failed || file.job == Some(JobState::Failed))
        .collect();
    if !arguments.failed {
        output.skipped(&rest, |file| {
            format!(" {}: nothing to retry", status_view::word(file))
        });
    }
    output.files(&again, failed);
    let count = again.len() as u64;
    if arguments.dry_run {
        output.would(count, &format!("would retry {}", files_word(count)));
        return Ok(());
    }
    if again.is_empty() {
        output.end(if arguments.failed {
            "no failed files"
        } else {
            "nothing to retry"
        });
        return Ok(());
    }
    let files = again.iter().map(|file| file.id.to_string()).collect();
    tried_again(output, &reach(state, Command::Retry { files }).await?);
    Ok(())
}

/// What is listed of a file that is tried again, after its name.
fn failed(file: &FileReport) -> String {
    let reason = file.reason.as_deref().unwrap_or_default();
    format!(" failed: {reason}")
}

/// Retries every failed file, however many there are.
async fn retry_failed(
    mut output: Output,
    ledger: &Ledger,
    state: &LedgerLocation,
    dry_run: bool,
) -> Result<(), Error> {
    let lists = Lists {
        files: LINES_MAX_ROWS,
        groups: 0,
        results: 0,
        runs: 0,
    };
    let overview = ledger.overview(lists, crate::clock::now()).await?;
    let all: u64 = overview
        .watches
        .iter()
        .map(|watch| watch.counts.failed)
        .sum();
    let listed: Vec<&FileReport> = overview.failed.iter().take(LINES_MAX).collect();
    output.files(&listed, failed);
    output.more(all.saturating_sub(LINES_MAX as u64));
    if dry_run {
        output.would(all, &format!("would retry {}", files_word(all)));
    } else if all == 0 {
        output.end("no failed files");
    } else {
        tried_again(output, &reach(state, Command::RetryFailed).await?);
    }
    Ok(())
}

/// Retries every file of a group of failures.
async fn retry_group(
    key: &str,
    output: Output,
    ledger: &Ledger,
    state: &LedgerLocation,
    dry_run: bool,
) -> Result<(), Error> {
    let Some(group) = ledger.failure_group(key).await? else {
        return Err(Error::NoGroup(key.to_owned()));
    };
    let group = status_view::failure_group(&group);
    output.line(&group.text);
    if dry_run {
        let count = group.files;
        output.would(count, &format!("would retry {}", files_word(count)));
        return Ok(());
    }
    let group = key.to_owned();
    tried_again(output, &reach(state, Command::RetryGroup { group }).await?);
    Ok(())
}

fn tried_again(output: Output, reached: &Reached) {
    let line = match reached {
        Reached::Daemon(count) => format!("retrying {}", files_word(*count)),
        Reached::Ledger(count) => format!(
            "{} will be retried when the daemon starts: it is not running",
            files_word(*count)
        ),
    };
    output.done(reached, &line);
}

pub(super) async fn forget(arguments: &Forget) -> u8 {
    let config = match configuration::get(&arguments.config.config).await {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(forget_with(arguments, &config).await, &config)
}

async fn forget_with(arguments: &Forget, config: &ReadOnlyConfig) -> Result<(), Error> {
    let mut output = Output::new("forget", arguments.json, arguments.dry_run);
    let state = &config.state.path;
    // Before dropping privileges, as for `retry`.
    let meanings = matching::meanings(&arguments.files, &config.watches);
    state_directory::act_as_owner(state)?;
    let ledger = Ledger::read(state).await?;
    let chosen = matching::files(&meanings, &ledger)
        .await
        .map_err(Error::NotForgotten)?;
    let (at_work, chosen): (Vec<&FileReport>, Vec<&FileReport>) = chosen
        .iter()
        .partition(|file| matches!(file.job, Some(JobState::Uploading | JobState::Running)));
    output.skipped(&at_work, |file| {
        format!(
            " {}: cannot be forgotten while in progress",
            status_view::word(file)
        )
    });
    output.files(&chosen, |file| {
        let stays = match &file.storage_file_id {
            Some(id) => {
                format!("storage file {id} and what was synchronized of it stay on the platform")
            }
            None => "not on the platform".to_owned(),
        };
        let back = if is_there(file, config) {
            "; still in the folder: the next scan finds it as a new file"
        } else {
            ""
        };
        format!(": {stays}{back}")
    });
    let word = files_word(chosen.len() as u64);
    if arguments.dry_run {
        output.would(chosen.len() as u64, &format!("would forget {word}"));
        return Ok(());
    }
    if chosen.is_empty() {
        output.end("nothing to forget");
        return Ok(());
    }
    if arguments.json && !arguments.yes {
        return Err(Error::NoTerminal);
    }
    if !arguments.yes && !confirmed(&format!("Forget {word}?"))? {
        output.end("nothing was forgotten");
        return Ok(());
    }
    let files = chosen.iter().map(|file| file.id.to_string()).collect();
    let reached = reach(state, Command::Forget { files }).await?;
    let (Reached::Daemon(count) | Reached::Ledger(count)) = &reached;
    let line = format!("forgot {}", files_word(*count));
    output.done(&reached, &line);
    Ok(())
}

/// Whether the file is in its folder, and selected.
fn is_there(file: &FileReport, config: &ReadOnlyConfig) -> bool {
    let watch = config.watches.iter().find(|watch| watch.name == file.watch);
    watch.is_some_and(|watch| {
        let selected = watch.scope.selects(&file.path);
        selected && watch.path.join(&file.path).symlink_metadata().is_ok()
    })
}

/// Asks for confirmation on the terminal.
pub(super) fn confirmed(question: &str) -> Result<bool, Error> {
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

/// Whether a retry changes anything.
fn can_be_tried(file: &FileReport) -> bool {
    match file.job {
        Some(JobState::Failed) => true,
        Some(JobState::Due | JobState::Stored) => file.reason.is_some(),
        Some(JobState::Uploading | JobState::Running) | None => false,
    }
}

pub(super) async fn watches(verb: Verb, arguments: &Watches) -> u8 {
    let config = match configuration::get(&arguments.config.config).await {
        Ok(config) => config,
        Err(code) => return code,
    };
    finish(watches_with(verb, arguments, &config).await, &config)
}

async fn watches_with(
    verb: Verb,
    arguments: &Watches,
    config: &ReadOnlyConfig,
) -> Result<(), Error> {
    let watches = matching::watches(&arguments.names, &config.watches)?;
    let names = watches.join(", ");
    let (word, done) = match verb {
        Verb::Rescan => ("rescan", "scan started"),
        Verb::Pause => (
            "pause",
            "paused; changes are recorded and wait, running uploads and runs finish",
        ),
        Verb::Resume => ("resume", "resumed"),
        Verb::Sync => ("sync", "what waits is synchronized now"),
    };
    let mut output = Output::new(word, arguments.json, arguments.dry_run);
    output.watches(&watches);
    if arguments.dry_run {
        output.would(watches.len() as u64, &format!("would {word} {names}"));
        return Ok(());
    }
    let command = match verb {
        Verb::Rescan => Command::Rescan { watches },
        Verb::Pause => Command::Pause { watches },
        Verb::Resume => Command::Resume { watches },
        Verb::Sync => Command::Sync { watches },
    };
    let reached = reach(&config.state.path, command).await?;
    let line = match (verb, &reached) {
        (Verb::Rescan, Reached::Ledger(_)) => {
            "the daemon is not running: it scans every folder when it starts".to_owned()
        }
        (_, Reached::Daemon(0) | Reached::Ledger(0)) => {
            format!("nothing to do: {names}: {}", already(verb))
        }
        (_, Reached::Daemon(_)) => format!("{names}: {done}"),
        (_, Reached::Ledger(_)) => {
            format!("{names}: {done}, effective when the daemon starts: it is not running")
        }
    };
    output.done(&reached, &line);
    Ok(())
}

fn already(verb: Verb) -> &'static str {
    match verb {
        Verb::Rescan => "not watched by the running daemon",
        Verb::Pause => "already paused",
        Verb::Resume => "not paused or suspended",
        Verb::Sync => "not known to the daemon",
    }
}

/// Sends the command to the daemon, or applies it to the ledger when there is none.
async fn reach(state: &LedgerLocation, command: Command) -> Result<Reached, Error> {
    state_directory::act_as_owner(state)?;
    reach_with(
        state,
        &Request::Execute(command.clone()),
        async |operator| operator.execute(&command).await,
    )
    .await
}

/// Has the daemon record what was removed from the platform, or records it in the ledger when there is none.
pub(super) async fn record_removals(
    state: &LedgerLocation,
    removals: &[Removal],
) -> Result<(), Error> {
    let request = Request::RecordRemovals {
        removals: removals.to_vec(),
    };
    reach_with(state, &request, async |operator| {
        operator.record_removals(removals).await
    })
    .await
    .map(drop)
}

/// Sends the request to the daemon, or executes it by itself when there is none.
async fn reach_with(
    state: &LedgerLocation,
    request: &Request,
    execute: impl AsyncFn(&Operator) -> Result<u64, ledger::Error>,
) -> Result<Reached, Error> {
    let deadline = Instant::now() + STARTING;
    loop {
        if let Some(answer) = control::ask(state, request).await? {
            return Ok(match answer {
                Answer::Done { count } => Reached::Daemon(count),
                _ => Reached::Daemon(0),
            });
        }
        // Only an existing ledger: a command must not create one.
        Ledger::read(state).await?;
        match Ledger::open_within(state, Duration::ZERO).await {
            Ok(ledger) => {
                let count = execute(&Operator::without_daemon(ledger.clone())).await;
                ledger.close().await;
                return Ok(Reached::Ledger(count?));
            }
            // A daemon starts or ends, or another command is running.
            Err(ledger::Error::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn finish(done: Result<(), Error>, config: &ReadOnlyConfig) -> u8 {
    match done {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            tracing::debug!(error = chain(&error), "command failed");
            let hint = error.hint(&config.watches);
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

fn shown(file: &FileReport) -> String {
    format!("{}: {}", file.watch, QuotedPath(&file.path))
}

fn files_word(count: u64) -> String {
    plural(count, "file", "files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let no_watch = || matching::Error::NoWatch("south".to_owned());
        let no_ledger = || ledger::Error::Missing {
            path: "/var/lib/itwin-syncd".into(),
        };
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Select(_) => Error::Select(no_watch()),
            Error::NotForgotten(_) => Error::NotForgotten(no_watch()),
            Error::Control(_) => Error::Control(control::Error::Refused("the ledger is busy".to_owned())),
            Error::Ledger(_) => Error::Ledger(no_ledger()),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
            Error::NoGroup(_) => Error::NoGroup("0f3a".to_owned()),
            Error::NoTerminal => Error::NoTerminal,
        }));
    }
}
