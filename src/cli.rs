//! The command line: parses arguments, calls the other modules and prints results. Decides nothing about files or jobs.

mod alert;
mod changes;
mod check;
mod configuration;
mod connectors;
mod created_imodels;
mod demo;
mod detach;
mod emulator;
mod explain;
mod generate;
mod healthcheck;
mod init;
mod json;
mod ledger;
mod login;
mod matching;
mod operate;
mod orphans;
mod plan;
mod push;
mod references;
mod removal;
mod run;
#[cfg(test)]
mod schema;
mod service_unit;
mod status;
mod tally;
mod unfinished_file;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::error_chain::chain;
use crate::{shell, telemetry, version};

/// Success.
const EXIT_GOOD: u8 = 0;
/// Something failed; the output says what.
const EXIT_FAILED: u8 = 1;
/// The configuration is invalid: a restart does not help. Source: `EX_CONFIG` of sysexits(3)
const EXIT_CONFIG: u8 = 78;

/// Environment variable with the default of `--config`.
const CONFIG_VARIABLE: &str = "ITWIN_SYNCD_CONFIG";

/// The default of `--config`.
const DEFAULT_CONFIG: &str = "/etc/itwin-syncd/config.toml";

/// Text for all commands, at the end of the help and the man page.
const MORE: &str = "\
Files: the configuration is that of --config, else of the environment variable ITWIN_SYNCD_CONFIG, else \
/etc/itwin-syncd/config.toml; /usr/share/itwin-syncd/config.example.toml has every \
key with its default. The ledger is in /var/lib/itwin-syncd, unless state.path is set.

Signals for `run`: SIGTERM and SIGINT stop it, SIGHUP reloads the configuration.

Exit codes: 0 success, 1 failure, 2 invalid arguments, 78 invalid configuration.";

/// Watches folders of design files and synchronizes them into Bentley iModels
///
/// Try it without an account: `itwin-syncd demo` starts an emulator of the iTwin Platform, saves three design files
/// into a folder and shows how they reach an iModel.
#[derive(Debug, Parser)]
#[command(name = "itwin-syncd", version = version::FULL, max_term_width = 110, after_long_help = MORE)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the configured folders and synchronize new and changed files
    ///
    /// Runs until SIGTERM or SIGINT: then it starts no new work, waits at most `shutdown_grace` for running uploads,
    /// and continues the rest at the next start. A second signal exits immediately. SIGHUP reloads the configuration:
    /// watches, limits, schedules and the log level change without a restart; a file with errors changes nothing.
    ///
    /// Exit codes: 0 stopped by a signal, or everything synchronized (--once); 1 failed; 78 invalid configuration.
    Run(run::Arguments),
    /// Write a configuration: asks for the account, the iModel and the folder, and checks each answer at once
    ///
    /// Signs in, lists the iTwins and iModels to choose from, tests the permissions, and writes the configuration and
    /// the file with the client secret. As root it offers to install and start the service; otherwise it prints the
    /// commands. Before the end it writes nothing. Never replaces a file without `--force`. With `--config
    /// /etc/itwin-syncd/NAME/config.toml` it sets up the service `itwin-syncd@NAME`, beside the others.
    ///
    /// The options answer questions in advance. The client secret comes from a prompt, from `--client-secret-file`,
    /// from the environment variable `ITWIN_SYNCD_CLIENT_SECRET`, or from a file `client-secret` beside the
    /// configuration.
    ///
    /// Exit codes: 0 written; 1 failed, nothing was written unless the output says so; 130 interrupted.
    Init(Box<init::Arguments>),
    /// Sign in as a user, for a configuration with `itwin.sign_in = "user"`
    ///
    /// Opens a browser, waits for it to return to the redirect address on this machine, and stores the sign-in in the
    /// state directory. Then, if the platform may not act for the user yet, opens the page on which the user allows
    /// that. A running daemon continues its work by itself.
    ///
    /// Exit codes: 0 signed in; 1 failed; 78 invalid configuration.
    Login(login::Login),
    /// Sign out: delete the sign-in of the user, and revoke it on the platform
    ///
    /// All work waits until a user signs in again.
    ///
    /// Exit codes: 0 nobody is signed in any more; 1 failed; 78 invalid configuration.
    Logout(login::Logout),
    /// Check configuration, folders, network, account, iModels and storage
    ///
    /// Prints one line per check, with a hint for each failure. Connects to the platform step by step, and names the
    /// proxy, host or certificate issuer at which the connection fails. Changes nothing. With sudo, it has the user and
    /// the credentials of the service, as its systemd unit says, and sees what the service sees.
    ///
    /// Exit codes: 0 all checks passed; 1 a check failed; 78 invalid configuration.
    Check(check::Arguments),
    /// Show the status of all watches, failed files and work in progress; or the history of files
    ///
    /// Reads the ledger, and asks the daemon for its current work if it is running.
    ///
    /// With an invalid configuration it shows the errors, and then the status: that of the running daemon, which
    /// continues with the configuration that it read before, or as far as the file can be read.
    ///
    /// Exit codes: 0 nothing needs attention; 1 something does (see the first line), one of the files failed, cannot be
    /// opened or is unknown, or the status cannot be read; 78 invalid configuration.
    Status(status::Arguments),
    /// Explain why a path is or is not synchronized
    ///
    /// Shows the rule that applies, the state of the file, and what it is waiting for. Works without the daemon.
    ///
    /// Exit codes: 0 every path is selected; 1 at least one is not, or its file does not exist or cannot be read; 78
    /// invalid configuration.
    Explain(explain::Arguments),
    /// List the connector types: which file extensions each reads
    ///
    /// A type that reads none without configuration is set in `connectors` of a watch, for an extension or a glob.
    /// `explain PATH` shows the type of a file, and the rule that chose it.
    Connectors(connectors::Arguments),
    /// Retry failed files, and files that wait for a later attempt, now
    Retry(operate::Retry),
    /// Delete files from the ledger, such as failed files that no longer exist
    ///
    /// Changes nothing on the platform: storage files, source files and synchronized content stay. The next scan finds
    /// a file that still exists in its folder as a new file.
    Forget(operate::Forget),
    /// Bring files back that are gone from their folder and were, or would be, taken out of the iModel
    ///
    /// For watches with `on_delete`. Restores the storage file from the recycle bin, which keeps it for 30 days, and
    /// synchronizes it again. The file is not put back into its folder: download it from iTwin Storage. It is not taken
    /// out of the iModel again until it has been in the folder and is deleted once more.
    ///
    /// A file that is back in its folder needs no command.
    Restore(operate::Restore),
    /// Scan folders now instead of at the next interval
    Rescan(operate::Watches),
    /// Start no new work of watches until they are resumed
    ///
    /// The pause survives restarts. Changes are still recorded, and wait. Running uploads and runs finish.
    Pause(operate::Watches),
    /// Resume watches that are paused or suspended
    ///
    /// Watches are suspended by the bulk change guard and after rejected credentials. If deleted files wait for
    /// approval, they are taken out of the iModel.
    Resume(operate::Watches),
    /// Synchronize what waits now, despite windows and the batch window
    ///
    /// Uploads the files that wait for their window, and requests a run for everything that is uploaded. A bandwidth
    /// limit stays in effect, also one of zero. Files that are still being written, paused watches and files that wait
    /// for a later attempt are not affected.
    Sync(operate::Watches),
    /// Ask the running daemon whether it works, for containers
    ///
    /// Prints one line. Healthy: the daemon answers, its ledger accepts a change, and its upload queue moves. Failed
    /// files, unavailable folders and an unreachable platform are not its concern, because a restart would not help:
    /// see `status`.
    ///
    /// Exit codes: 0 healthy; 1 not healthy, or no daemon is running.
    Healthcheck(healthcheck::Arguments),
    /// Test alerts
    #[command(subcommand)]
    Alert(alert::Command),
    /// Bring files and folders into an iModel once, without a configuration file
    ///
    /// Uploads the files to iTwin Storage, synchronizes them, and prints the result of each. A file is stored under its
    /// name, the files of a folder under their paths in it; pushing them again updates them, and sends only what has
    /// changed. After an interruption, the same command continues. Files that a daemon on this machine watches for this
    /// iModel are synchronized by that daemon.
    ///
    /// The account is that of `ITWIN_SYNCD_CLIENT_ID` and `ITWIN_SYNCD_CLIENT_SECRET`, or of `--config`.
    ///
    /// Exit codes: 0 all files are synchronized or stored; 1 a file failed; 2 the time of `--timeout` is over; 78
    /// invalid arguments or configuration, nothing was sent.
    Push(push::Arguments),
    /// List what our connections and storage folders have that no local file stands for, and clean it up
    ///
    /// Scans every folder, and compares it with the storage folders of the watches and with their connections: files
    /// that are gone and kept, files of removed watches, what a lost ledger left. Works beside a running daemon, and
    /// without it. Never touches other connections and folders; what other clients created in ours only if it is named.
    ///
    /// Whether elements leave the iModel when a source file is removed is up to the platform, at the earliest with the
    /// next run.
    ///
    /// Exit codes: 0 success; 1 a folder cannot be scanned completely, or something failed; 78 invalid configuration.
    Orphans(orphans::Arguments),
    /// Take the source files of a watch out of the iModel that it went into before
    ///
    /// Removes only source files, and only while no run of that iModel is active. Storage files stay. `status` shows
    /// which iModels still have files of a watch.
    Detach(detach::Arguments),
    /// Copy the ledger between SQLite and PostgreSQL
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Run an emulator of the iTwin Platform, to try everything without an account
    ///
    /// Prints the URLs and the credentials for the configuration.
    Emulator(Box<emulator::Arguments>),
    /// Show the whole process with an embedded emulator: three files from a temporary folder into an iModel
    ///
    /// Needs no account and no configuration, and leaves nothing behind.
    Demo(demo::Arguments),
    /// Write man pages and shell completions to a folder, for packages
    #[command(hide = true)]
    Generate(generate::Arguments),
}

/// The option `--config`.
#[derive(Debug, Args)]
struct ConfigArgument {
    /// The configuration file; `config.example.toml` shows every key
    #[arg(
        long,
        value_name = "FILE",
        env = CONFIG_VARIABLE,
        hide_env_values = true,
        default_value = DEFAULT_CONFIG
    )]
    config: PathBuf,
}

impl Cli {
    /// Parses the arguments of the process. With invalid ones, or for the help, it prints text and exits.
    #[must_use]
    pub fn from_arguments() -> Self {
        let parsed = Self::command().try_get_matches().and_then(|matches| {
            if let Some(config) = config_of(&matches)
                && config != Path::new(DEFAULT_CONFIG)
            {
                shell::name_config(config);
            }
            Self::from_arg_matches(&matches)
        });
        parsed.unwrap_or_else(|error| {
            // A failure that is printed nowhere cannot be reported either.
            error.print().ok();
            let is_push = std::env::args_os()
                .nth(1)
                .is_some_and(|word| word == "push");
            let code = match error.exit_code() {
                // Of a push, 2 means that its time is over.
                2 if is_push => i32::from(EXIT_CONFIG),
                code => code,
            };
            std::process::exit(code)
        })
    }

    /// Executes the command and returns the exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                print_error(&error, None);
                return EXIT_FAILED.into();
            }
        };
        let code = runtime.block_on(async {
            match self.command {
                Command::Run(arguments) => Box::pin(run::run(&arguments)).await,
                Command::Init(arguments) => init::init(&arguments).await,
                Command::Login(arguments) => login::login(&arguments).await,
                Command::Logout(arguments) => login::logout(&arguments).await,
                Command::Check(arguments) => check::check(&arguments).await,
                Command::Status(arguments) => status::status(&arguments).await,
                Command::Explain(arguments) => explain::explain(&arguments).await,
                Command::Connectors(arguments) => connectors::connectors(&arguments),
                Command::Retry(arguments) => operate::retry(&arguments).await,
                Command::Forget(arguments) => operate::forget(&arguments).await,
                Command::Restore(arguments) => operate::restore(&arguments).await,
                Command::Rescan(arguments) => {
                    operate::watches(operate::Verb::Rescan, &arguments).await
                }
                Command::Pause(arguments) => {
                    operate::watches(operate::Verb::Pause, &arguments).await
                }
                Command::Resume(arguments) => {
                    operate::watches(operate::Verb::Resume, &arguments).await
                }
                Command::Sync(arguments) => operate::watches(operate::Verb::Sync, &arguments).await,
                Command::Healthcheck(arguments) => healthcheck::healthcheck(&arguments).await,
                Command::Push(arguments) => push::push(&arguments).await,
                Command::Alert(command) => alert::alert(&command).await,
                Command::Orphans(arguments) => orphans::orphans(&arguments).await,
                Command::Detach(arguments) => detach::detach(&arguments).await,
                Command::Ledger(command) => ledger::ledger(&command).await,
                Command::Emulator(arguments) => emulator::emulator(&arguments).await,
                Command::Demo(arguments) => demo::demo(&arguments).await,
                Command::Generate(arguments) => generate::generate(&arguments),
            }
        });
        // A call on a hanging share must not delay the exit.
        runtime.shutdown_background();
        code.into()
    }
}

/// The configuration file of a command, or of a command below it.
fn config_of(matches: &ArgMatches) -> Option<&Path> {
    let own = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let below = || matches.subcommand().and_then(|(_, below)| config_of(below));
    own.map(PathBuf::as_path).or_else(below)
}

/// Prints an error with its causes and a hint on standard error.
fn print_error(error: &dyn std::error::Error, hint: Option<String>) {
    print_to_stderr(&format!("error: {}", chain(error)));
    if let Some(hint) = hint {
        print_to_stderr(&format!("  hint: {hint}"));
    }
}

/// Prints all errors of a configuration on standard error.
fn print_config_errors(errors: &crate::config::ConfigErrors) {
    print_to_stderr(&errors.to_string());
}

/// Prints to standard error, with the error level when that is the journal. If nobody can read it any more, such as
/// after the end of the terminal, nothing is printed.
fn print_to_stderr(text: &str) {
    let level = if telemetry::stderr_is_journal() {
        "<3>"
    } else {
        ""
    };
    for line in text.lines() {
        writeln!(io::stderr().lock(), "{level}{line}").ok();
    }
}

/// Prints a line of a command's output. If its reader has closed the pipe, such as `head`, the command ends.
fn print_line(text: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        let is_closed = error.kind() == io::ErrorKind::BrokenPipe;
        std::process::exit(i32::from(if is_closed { EXIT_GOOD } else { EXIT_FAILED }));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn help() {
        let mut cli = Cli::command().term_width(110);
        cli.build();
        insta::assert_snapshot!("help", cli.render_long_help());
        for command in cli
            .get_subcommands_mut()
            .filter(|one| one.get_name() != "help")
        {
            let name = format!("help_{}", command.get_name());
            insta::assert_snapshot!(name, command.render_long_help());
        }
    }
}
