//! `itwin-syncd push`: brings files and folders into an iModel once, without a configuration file.
//!
//! It is a pass of the service over a watch that takes just these files, with a ledger of its own: what is interrupted
//! continues when the same command is run again, and nothing is uploaded twice. Everything that can be checked without
//! the platform is checked before the first request.

mod daemon;
mod report;
mod results;
mod settings;
mod targets;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::run::progress;
use super::{
    CONFIG_VARIABLE, EXIT_CONFIG, EXIT_FAILED, configuration, print_error, print_to_stderr,
};
use crate::config::Config;
use crate::control::{Command, Operator};
use crate::ids::ImodelId;
use crate::ledger::{self, Ledger};
use crate::ledger_location::LedgerLocation;
use crate::service::{self, Pass, Until};
use crate::telemetry;
use daemon::Awaited;
#[cfg(test)]
pub(super) use report::Whole;
use report::{End, FileResult, Report, Verdict};
use results::{add_own, add_taken, is_checked, own, own_results};
use settings::WATCH;
use targets::{Target, Targets};

/// Exit code after SIGINT, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// Exit code after SIGTERM.
const EXIT_TERMINATED: u8 = 143;

/// The configuration of the daemon on this machine, if there is one.
const DAEMON_CONFIG: &str = "/etc/itwin-syncd/config.toml";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Design files, and folders with design files; write -- before a name that starts with "-"
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Id of the iModel
    #[arg(long, value_name = "ID")]
    imodel: String,
    /// Connector type of every file (CIVIL) or of an extension (dgn=CIVIL); may be repeated
    #[arg(long = "connector", value_name = "[EXT=]TYPE")]
    connectors: Vec<String>,
    /// A file that other files refer to: it is stored, and is no source file; may be repeated
    #[arg(long = "reference", value_name = "FILE")]
    references: Vec<PathBuf>,
    /// Folder in iTwin Storage for the files, "" is the root; default: "itwin-syncd push/" and the id of the iModel
    #[arg(long, value_name = "FOLDER")]
    storage_folder: Option<String>,
    /// Name of the storage connection
    #[arg(long, value_name = "NAME", default_value = settings::CONNECTION)]
    connection: String,
    /// End when the run is requested, without waiting for its result
    #[arg(long)]
    no_wait: bool,
    /// Print one JSON object with the result of each file, instead of text; docs/push.md documents its fields
    #[arg(long)]
    json: bool,
    /// Give up after this time, such as 90s, 30m or 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// A configuration file of which the account and the tables network, upload and retry are used
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true)]
    config: Option<PathBuf>,
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "expected a time such as 30m")?;
    match Duration::try_from(span) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("expected a time above zero".to_owned()),
    }
}

/// Why a push did not get as far as its files.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Settings(#[from] settings::Error),
    #[error(transparent)]
    Targets(#[from] targets::Error),
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    #[error(transparent)]
    Service(#[from] service::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("another push into this iModel and storage folder is running")]
    Busy,
    #[error("cannot use {path:?}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the platform or a folder could not be used: {0}")]
    Unavailable(String),
    #[error("interrupted")]
    Interrupted(u8),
}

impl Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Settings(error) => error.hint(),
            Self::Targets(error) => Some(error.hint()),
            Self::Daemon(error) => error.hint(),
            Self::Service(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Busy => Some("wait for it, or use another --storage-folder".to_owned()),
            Self::Io { .. } => Some("check its permissions".to_owned()),
            Self::Unavailable(_) | Self::Interrupted(_) => {
                Some("run the same command again to continue".to_owned())
            }
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Targets(_) => EXIT_CONFIG,
            Self::Interrupted(code) => *code,
            _ => EXIT_FAILED,
        }
    }
}

pub(super) async fn push(arguments: &Arguments) -> u8 {
    match Box::pin(run(arguments)).await {
        Ok(report) => {
            if arguments.json {
                report.print_json();
            } else {
                report.print_text();
            }
            report.exit_code()
        }
        Err(Error::Settings(settings::Error::Config(errors))) => {
            super::print_config_errors(&errors);
            EXIT_CONFIG
        }
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            error.exit_code()
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Report, Error> {
    let began = crate::clock::now();
    let selection = settings::selection(&arguments.connectors)?;
    let (config, watch) = settings::config(arguments)?;
    let (paths, references) = (&arguments.paths, &arguments.references);
    let mut targets = Targets::find(paths, references, &selection, &watch).await?;
    let path = arguments.config.as_deref();
    let daemon = configuration::beside(path.unwrap_or(Path::new(DAEMON_CONFIG)))
        .await
        .map_err(settings::Error::Config)?;
    let mut taken = Vec::new();
    if let Some(daemon) = &daemon {
        taken = daemon::take(daemon, &mut targets);
        daemon::check_places(daemon, &targets).await?;
    }
    let daemon = daemon.filter(|_| !taken.is_empty());
    let (until, end) = if arguments.no_wait {
        (Awaited::RunRequested, End::RunRequested)
    } else {
        (Awaited::Result, End::Done)
    };
    // A pass for another folder takes the files of the earlier ones for deleted: each has its results read first.
    let results = Mutex::new(Vec::new());
    let work = async {
        if let Some(daemon) = &daemon {
            daemon::request(daemon, &taken).await?;
            print_to_stderr(&format!(
                "the daemon synchronizes {} of the files, because it watches them",
                taken.len()
            ));
        }
        Box::pin(passes(&config, &targets, (until, began), &results)).await?;
        if let Some(daemon) = &daemon {
            daemon::follow(daemon, &taken, until).await?;
        }
        Ok::<(), Error>(())
    };
    let late = async {
        match arguments.timeout {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        done = work => {
            done?;
            end
        }
        () = late => End::TimedOut,
        code = interrupted() => return Err(Error::Interrupted(code)),
    };
    let mut report = Report {
        imodel: watch.imodel_id.clone(),
        itwin: None,
        connection: None,
        files: Vec::new(),
        end,
    };
    if !targets.groups.is_empty() {
        let done = results.into_inner().unwrap_or_default();
        add_own(&mut report, &config.state.path, &targets, (done, began)).await?;
    }
    if let Some(daemon) = daemon {
        add_taken(&mut report, &daemon, &taken, began).await?;
    }
    Ok(report)
}

/// The exit code of the first signal that asks to stop. Nothing has to be finished: the ledger has every step.
async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = signal(SignalKind::interrupt())
        .ok()
        .zip(signal(SignalKind::terminate()).ok());
    let Some((mut interrupt, mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => EXIT_INTERRUPTED,
        _ = terminate.recv() => EXIT_TERMINATED,
    }
}

/// One pass for each group of files: their names in storage are relative to different folders. Adds the results of each
/// to `results`.
async fn passes(
    config: &Config,
    targets: &Targets,
    (until, began): (Awaited, Timestamp),
    results: &Mutex<Vec<Vec<FileResult>>>,
) -> Result<(), Error> {
    if targets.groups.is_empty() {
        return Ok(());
    }
    let state = &config.state.path;
    settings::make_parent(state).map_err(|source| Error::Io {
        path: state.to_path_buf(),
        source,
    })?;
    let telemetry = telemetry::start(&config.log);
    let shown = CancellationToken::new();
    let bars = telemetry.as_ref().ok().and_then(telemetry::Telemetry::bars);
    let display = bars.map(|bars| tokio::spawn(progress::show(bars, state.clone(), shown.clone())));
    let guard = shown.drop_guard();
    for group in &targets.groups {
        let (watch, files) = (&group.watch, &group.files);
        take_up(state, files, &watch.imodel_id).await?;
        let mut config = config.clone();
        config.watches = vec![watch.clone()];
        let stop = CancellationToken::new();
        let requested = async {
            if until == Awaited::RunRequested {
                run_requested(state, files).await?;
                stop.cancel();
            }
            std::future::pending::<Result<Pass, Error>>().await
        };
        let pass = tokio::select! {
            ended = service::run(config, Until::Done, stop.clone(), None) => ended.map_err(in_use)?,
            failed = requested => failed?,
        };
        let trouble = pass.unreachable.into_iter().chain(pass.left_out).next();
        if let Some((_, what)) = trouble {
            return Err(Error::Unavailable(what));
        }
        let ledger = Ledger::read(state).await?;
        let found = own_results(Some(&ledger), group, began).await?;
        let is_unchanged = |file: &FileResult| file.result == Verdict::Unchanged;
        if found.iter().any(is_unchanged) && !is_checked(&ledger, watch, began).await? {
            let what = "the storage connection could not be compared with the platform";
            return Err(Error::Unavailable(what.to_owned()));
        }
        if let Ok(mut results) = results.lock() {
            results.push(found);
        }
    }
    drop(guard);
    if let Some(display) = display {
        // Without a display, a panic of it changes nothing.
        display.await.ok();
    }
    Ok(())
}

fn in_use(error: service::Error) -> Error {
    if error.is_in_use() {
        Error::Busy
    } else {
        error.into()
    }
}

/// Whoever pushes a file again wants it to be there: what an earlier push left is tried again, and what it brought is
/// compared with storage and connection.
async fn take_up(
    state: &LedgerLocation,
    files: &[Target],
    imodel_id: &ImodelId,
) -> Result<(), Error> {
    let ledger = match Ledger::open(state).await {
        Ok(ledger) => ledger,
        Err(ledger::Error::InUse { .. }) => return Err(Error::Busy),
        Err(error) => return Err(error.into()),
    };
    let mut known = Vec::new();
    for target in files {
        if let Some(file) = ledger.file_at(WATCH, &target.path).await? {
            known.push(file.id);
        }
    }
    ledger.request_check(imodel_id).await?;
    let now = crate::clock::now();
    ledger.compare_stored_only(&known, now).await?;
    let known = known.iter().map(ToString::to_string).collect();
    let operator = Operator::without_daemon(ledger.clone());
    for command in [
        Command::Retry { files: known },
        Command::Resume {
            watches: vec![WATCH.to_owned()],
        },
    ] {
        operator.execute(&command).await?;
    }
    ledger.close().await;
    Ok(())
}

/// Waits until each file is in a run, or needs none.
async fn run_requested(state: &LedgerLocation, files: &[Target]) -> Result<(), Error> {
    loop {
        tokio::time::sleep(daemon::pause(files.len())).await;
        let Ok(ledger) = Ledger::read(state).await else {
            continue;
        };
        let mut is_done = true;
        for target in files {
            let (file, seen) = own(&ledger, target).await?;
            is_done &= daemon::is_over(file.as_ref(), seen, Awaited::RunRequested);
        }
        if is_done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_are_above_zero() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("30m", Some(1800)),
            ("1h 30m", Some(5400)),
            ("0s", None),
            ("-5m", None),
            ("5", None),
            ("soon", None),
        ] {
            let seconds = time(text).ok().map(|time| time.as_secs());
            assert_eq!(seconds, expected, "{text}");
        }
    }

    #[test]
    fn messages() {
        let missing = || ledger::Error::Missing {
            path: "/var/lib/itwin-syncd".into(),
        };
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Settings(_) => Error::Settings(settings::Error::NoAccount),
            Error::Targets(_) => Error::Targets(targets::Error::TooMany),
            Error::Daemon(_) => Error::Daemon(missing().into()),
            Error::Service(_) => Error::Service(missing().into()),
            Error::Ledger(_) => Error::Ledger(missing()),
            Error::Busy => Error::Busy,
            Error::Io { .. } => Error::Io { path: "/home/me/.local/state".into(), source: std::io::ErrorKind::PermissionDenied.into() },
            Error::Unavailable(_) => Error::Unavailable("no such folder".to_owned()),
            Error::Interrupted(_) => Error::Interrupted(130),
        }));
    }
}
