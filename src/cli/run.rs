//! `itwin-syncd run`

mod list;
pub(super) mod progress;

use clap::{ArgGroup, Args};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::created_imodels;
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, chain, plan, print_config_errors,
    print_error, print_line, service_unit,
};
use crate::config::{Config, Watch};
use crate::ledger::Ledger;
use crate::ledger_location::LedgerLocation;
use crate::service::{self, Pass, Reloads, Until, signals};
use crate::shell;
use crate::{telemetry, version};
#[cfg(test)]
pub(super) use list::Whole;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("way").args(["once", "dry_run"])))]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Scan once, process everything that is pending, print a summary and exit
    ///
    /// Exit code 0 if everything is synchronized, 1 if a file failed or a folder or file could not be read.
    #[arg(long)]
    once: bool,
    /// Print one JSON object for programs, instead of the summary: with --once each file that the pass handled or left
    /// open, with --dry-run each file with something to do
    #[arg(long, requires = "way")]
    json: bool,
    /// Show what would be uploaded and synchronized, without changing anything
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(arguments: &Arguments) -> u8 {
    let path = &arguments.config.config;
    // A dry run sees what the service would see.
    let loaded = if arguments.dry_run {
        service_unit::load(path)
    } else {
        Config::load(path)
    };
    let mut config = match loaded {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    if arguments.dry_run {
        config.know_imodels(&created_imodels::known(&config.state.path).await);
        return plan::show(&config, arguments.json).await;
    }
    let telemetry = match telemetry::start(&config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            return EXIT_FAILED;
        }
    };
    info!(
        version = version::FULL,
        config = ?arguments.config.config,
        ledger = config.state.path.shown(),
        "starting"
    );
    let stop = CancellationToken::new();
    if let Err(error) = signals::handle(stop.clone()) {
        print_error(&error, None);
        return EXIT_FAILED;
    }
    let until = if arguments.once {
        Until::Done
    } else {
        Until::Stopped
    };
    let reloads = match until {
        Until::Done => None,
        Until::Stopped => {
            match Reloads::on_hangup(arguments.config.config.clone(), telemetry.levels()) {
                Ok(reloads) => Some(reloads),
                Err(error) => {
                    print_error(&error, None);
                    return EXIT_FAILED;
                }
            }
        }
    };
    let shown = CancellationToken::new();
    let bars = telemetry.bars().filter(|_| until == Until::Done);
    let display = bars.map(|bars| {
        let state = config.state.path.clone();
        tokio::spawn(progress::show(bars, state, shown.clone()))
    });
    let listed = arguments
        .json
        .then(|| (config.watches.clone(), config.state.path.clone()));
    let ended = Box::pin(service::run(config, until, stop, reloads)).await;
    shown.cancel();
    if let Some(display) = display {
        // Without a display, a panic of it changes nothing.
        display.await.ok();
    }
    let code = match &ended {
        Ok(pass) if until == Until::Done => {
            let written = match &listed {
                Some((watches, state)) => print_list(pass, watches, state).await,
                None => {
                    print_summary(pass);
                    true
                }
            };
            if pass.is_good() && written {
                EXIT_GOOD
            } else {
                EXIT_FAILED
            }
        }
        Ok(_) => EXIT_GOOD,
        Err(failed) => {
            // An empty field is left out.
            let hint = failed.hint();
            if failed.is_in_use() {
                error!(error = chain(failed), hint, "cannot start");
            } else {
                error!(error = chain(failed), hint, "service failed");
            }
            EXIT_FAILED
        }
    };
    drop(telemetry);
    code
}

/// Prints what the pass did as JSON. Whether it was written, or nobody reads it.
async fn print_list(pass: &Pass, watches: &[Watch], state: &LedgerLocation) -> bool {
    let written = async {
        let ledger = Ledger::read(state).await?;
        list::write(pass, watches, &ledger).await
    };
    match written.await {
        Ok(()) => true,
        Err(error) if error.is_closed_pipe() => true,
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            false
        }
    }
}

fn print_summary(pass: &Pass) {
    let results: Vec<String> = pass
        .results
        .iter()
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    let results = if results.is_empty() {
        "nothing new".to_owned()
    } else {
        results.join(", ")
    };
    print_line(&results);
    if pass.open.failed > 0 {
        print_line(&format!(
            "failed files: {}; run `{}` for the reasons",
            pass.open.failed,
            shell::command(["status"])
        ));
    }
    let left = pass.open.pending + pass.open.later;
    if left > 0 {
        print_line(&format!(
            "pending files: {left}; the next run continues with them"
        ));
    }
    for (watch, reason) in &pass.unreachable {
        print_line(&format!("watch {watch:?}: folder unavailable: {reason}"));
    }
    for (watch, reason) in &pass.awaiting {
        print_line(&format!("watch {watch:?}: waits: {reason}"));
    }
    for (watch, what) in &pass.left_out {
        print_line(&format!("watch {watch:?}: only partly readable: {what}"));
    }
}
