//! The command line: turns words into calls, prints what they answer, and decides nothing about files or jobs.

mod check;
mod demo;
mod emulator;
mod explain;
mod generate;
mod matching;
mod operate;
mod plan;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error_chain::chain;
use crate::telemetry;

/// Everything went well.
const EXIT_GOOD: u8 = 0;
/// Something failed; the output says what.
const EXIT_FAILED: u8 = 1;
/// The configuration is wrong, which no restart mends. Source: `EX_CONFIG` of sysexits(3)
const EXIT_CONFIG: u8 = 78;

/// What belongs to no command alone; the man page ends with it.
const MORE: &str = "\
Files: /etc/itwin-syncd/config.toml is read by default; /usr/share/itwin-syncd/config.example.toml has every key with \
its default. The ledger is in /var/lib/itwin-syncd, or where state.path says.

Signals to `run`: SIGTERM and SIGINT ask it to stop, SIGHUP to read the configuration again.

Exit codes: 0 as asked, 1 something failed, 78 the configuration is wrong.";

/// Watches folders of design files and synchronizes them into Bentley iModels.
///
/// Try it without an account: `itwin-syncd demo` starts an emulator of the iTwin Platform, saves three design files
/// into a folder and shows them on their way into an iModel.
#[derive(Debug, Parser)]
#[command(name = "itwin-syncd", version, max_term_width = 110, after_long_help = MORE)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the configured folders and synchronize what is new or changed.
    ///
    /// Runs until SIGTERM or SIGINT: then it takes no new work, lets uploads in hand finish for at most
    /// `shutdown_grace`, and leaves the rest to the next start. A second signal ends it at once. SIGHUP reads the
    /// configuration again: watches, limits, schedules and the log level change while work goes on, and a file with
    /// mistakes changes nothing.
    ///
    /// Exit codes: 0 stopped as asked, or all synchronized (--once); 1 something failed; 78 the configuration is wrong.
    Run(run::Arguments),
    /// Check configuration, folders, network, account, iModels and storage, line by line, and say how to mend what is wrong.
    ///
    /// Goes the way to the platform step by step, and names the proxy, the host or the issuer of a certificate at which
    /// it ends. Changes nothing. Exit codes: 0 all is well, 1 something is not.
    Check(ConfigArgument),
    /// Show how every watch stands, what failed and why, what is under way; or the whole story of single files.
    ///
    /// Reads the ledger, whether the daemon runs or not, and asks the daemon for its work at this moment.
    ///
    /// Exit codes: 0 nothing needs attention; 1 something does (the first line says what), or there is no answer.
    Status(status::Arguments),
    /// Say of a path whether it would be taken, by which rule, where it stands and what it waits for.
    ///
    /// Works without the daemon. Exit codes: 0 every path is taken, 1 one is not.
    Explain(explain::Arguments),
    /// Try files again at once that failed, or that wait for a later attempt.
    Retry(operate::Retry),
    /// Delete all that is known of files, such as failures of files that no longer exist.
    ///
    /// Nothing changes on the platform: storage files, source files and what was synchronized stay there. A file that is
    /// still in its folder is found again by the next scan, as a new file.
    Forget(operate::Forget),
    /// Scan folders now instead of at the next interval.
    Rescan(operate::Watches),
    /// Take no new work from watches, over restarts too, until they are resumed.
    ///
    /// Changes are still noticed, and wait. Uploads and runs under way are finished.
    Pause(operate::Watches),
    /// Let watches go on that are paused, held by the brake, or held after refused credentials.
    Resume(operate::Watches),
    /// Serve a stand-in of the iTwin Platform, to try everything on without an account.
    ///
    /// Prints the addresses and the credentials to put into a configuration.
    Emulator(Box<emulator::Arguments>),
    /// Show the whole way on an embedded emulator: three files from a temporary folder into an iModel.
    ///
    /// Needs nothing and leaves nothing behind.
    Demo(demo::Arguments),
    /// Write man pages and completions of this program into a folder, for packages.
    #[command(hide = true)]
    Generate(generate::Arguments),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration file; `config.example.toml` shows every key.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/itwin-syncd/config.toml"
    )]
    config: PathBuf,
}

impl Cli {
    /// Does what the command line says, and returns the exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&error, None);
                return EXIT_FAILED.into();
            }
        };
        let code = runtime.block_on(async {
            match self.command {
                Command::Run(arguments) => run::run(&arguments).await,
                Command::Check(arguments) => check::check(&arguments.config).await,
                Command::Status(arguments) => status::status(&arguments).await,
                Command::Explain(arguments) => explain::explain(&arguments).await,
                Command::Retry(arguments) => operate::retry(&arguments).await,
                Command::Forget(arguments) => operate::forget(&arguments).await,
                Command::Rescan(arguments) => {
                    operate::watches(operate::Verb::Rescan, &arguments).await
                }
                Command::Pause(arguments) => {
                    operate::watches(operate::Verb::Pause, &arguments).await
                }
                Command::Resume(arguments) => {
                    operate::watches(operate::Verb::Resume, &arguments).await
                }
                Command::Emulator(arguments) => emulator::emulator(&arguments).await,
                Command::Demo(arguments) => demo::demo(&arguments).await,
                Command::Generate(arguments) => generate::generate(&arguments),
            }
        });
        // A call on a share that hangs must not hold up the end.
        runtime.shutdown_background();
        code.into()
    }
}

/// Prints an error with its causes on standard error, and what to do about it.
fn complain(error: &dyn std::error::Error, hint: Option<String>) {
    tell(&format!("error: {}", chain(error)));
    if let Some(hint) = hint {
        tell(&format!("  hint: {hint}"));
    }
}

/// Prints all mistakes of a configuration.
fn complain_of_config(mistakes: &crate::config::Mistakes) {
    tell(&mistakes.to_string());
}

/// Says on standard error what is wrong; the journal is told that it is.
#[allow(
    clippy::print_stderr,
    reason = "this is the program's voice before and beside the log"
)]
fn tell(text: &str) {
    let level = if telemetry::stderr_is_journal() {
        "<3>"
    } else {
        ""
    };
    for line in text.lines() {
        eprintln!("{level}{line}");
    }
}
