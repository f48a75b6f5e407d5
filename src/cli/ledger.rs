//! `itwin-syncd ledger copy` and `ledger reactivate`: the ledger moves between SQLite and PostgreSQL.
//!
//! The server, its password and its certificate are those of the configuration: none of them is on the command line,
//! where other users could read it.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, ArgMatches, Args, FromArgMatches, Subcommand, value_parser};

use super::operate::{self, confirmed};
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, chain, print_config_errors, print_error,
    print_line, print_to_stderr, service_unit,
};
use crate::config::ReadOnlyConfig;
use crate::ledger::{self, CopiedTable, CopyDirection, CopyError, Ledger, TableDigest};
use crate::ledger_location::{LedgerLocation, Server};
use crate::state_directory;

/// How much of a digest is shown.
const DIGEST_SHOWN: usize = 16;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy the ledger between SQLite in a state directory and the PostgreSQL database of `state.url`
    ///
    /// Stop the service on all hosts first. The copy is one transaction into an empty target; it has everything, with
    /// the history, and is compared with the original before the end. Then the ledger continues in the copy, and the
    /// original stays but is not used any more; copying back makes it valid again. After an interruption, run the same
    /// command again.
    ///
    /// Exit codes: 0 copied; 1 failed, nothing was copied unless the output says so; 78 invalid configuration.
    Copy(Copy),
    /// Use a ledger again that was copied elsewhere, because the copy is lost
    ///
    /// What happened since the copy is not in it. If the copy is still used, files are uploaded twice.
    ///
    /// Exit codes: 0 the ledger is valid; 1 failed; 78 invalid configuration.
    Reactivate(Reactivate),
}

#[derive(Debug, Args)]
pub(super) struct Copy {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(flatten)]
    way: Way,
}

/// Exactly one of `--from` and `--to`: a struct of two options would allow none.
#[derive(Debug)]
struct Way {
    direction: CopyDirection,
    directory: PathBuf,
}

impl Args for Way {
    fn augment_args(command: clap::Command) -> clap::Command {
        let option = |name, help| {
            let option = Arg::new(name).long(name).value_name("DIRECTORY");
            option.value_parser(value_parser!(PathBuf)).help(help)
        };
        command
            .arg(option(
                "from",
                "Copy the ledger of this state directory to the database of state.url",
            ))
            .arg(option(
                "to",
                "Copy the ledger in the database of state.url to this state directory",
            ))
            .group(
                ArgGroup::new("direction")
                    .required(true)
                    .args(["from", "to"]),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Way {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let ways = [
            ("from", CopyDirection::ToServer),
            ("to", CopyDirection::ToDirectory),
        ];
        let named = ways.into_iter().find_map(|(name, direction)| {
            let directory = matches.get_one::<PathBuf>(name)?.clone();
            Some(Self {
                direction,
                directory,
            })
        });
        named.ok_or_else(|| clap::Error::new(ErrorKind::MissingRequiredArgument))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Reactivate {
    #[command(flatten)]
    config: ConfigArgument,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the configuration names no database")]
    NoServer,
    #[error("cannot find {0:?}")]
    Path(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("cannot ask for confirmation: standard input is not a terminal")]
    NoTerminal,
}

impl Error {
    fn hint(&self) -> Option<String> {
        use ledger::Error::{InUse, Missing, ServerInUse};
        const STOP: &str = "stop the service on all hosts, then run the command again";
        let hint = match self {
            Self::NoServer => {
                "set state.url, and state.password_file and state.ca_file as the server needs them"
            }
            Self::Path(..) => "name the state directory by its full path",
            Self::Directory(error) => return Some(error.hint()),
            Self::Ledger(InUse { .. } | ServerInUse { .. })
            | Self::Copy(CopyError::Ledger(InUse { .. } | ServerInUse { .. })) => STOP,
            Self::Copy(CopyError::Ledger(Missing { .. })) => {
                "name the state directory that has the file ledger.db"
            }
            Self::Ledger(error) | Self::Copy(CopyError::Ledger(error)) => return error.hint(),
            Self::Copy(CopyError::Occupied { is_server, .. }) => {
                if *is_server {
                    "create an empty database, and name it in state.url"
                } else {
                    "name a directory without ledger.db, or move ledger.db and the files beside it out of this one"
                }
            }
            Self::Copy(CopyError::Tables { .. }) => {
                "remove the tables that are not itwin-syncd's, or name an empty database in state.url"
            }
            Self::Copy(CopyError::Differs(_)) => {
                "nothing was copied: the ledger continues where it is. Run the command again, and report it if that fails as well"
            }
            Self::NoTerminal => "add --yes to skip the confirmation",
        };
        Some(hint.to_owned())
    }
}

pub(super) async fn ledger(command: &Command) -> u8 {
    let file = match command {
        Command::Copy(arguments) => &arguments.config.config,
        Command::Reactivate(arguments) => &arguments.config.config,
    };
    let config = match service_unit::load_read_only(file) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    let done = match command {
        Command::Copy(arguments) => copy(arguments, &config).await,
        Command::Reactivate(arguments) => reactivate(arguments, &config).await,
    };
    match done {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            if let Error::Copy(CopyError::Differs(tables)) = &error {
                show(tables);
            }
            print_error(&error, error.hint());
            EXIT_FAILED
        }
    }
}

async fn copy(arguments: &Copy, config: &ReadOnlyConfig) -> Result<(), Error> {
    let server = config.state.path.server.as_ref().ok_or(Error::NoServer)?;
    let Way {
        direction,
        directory: named,
    } = &arguments.way;
    let direction = *direction;
    let directory =
        &std::path::absolute(named).map_err(|error| Error::Path(named.clone(), error))?;
    let owned: &Path = if directory.exists() {
        directory
    } else {
        &config.state.path
    };
    service_unit::act_as_owner(&arguments.config.config, owned)?;
    if let Some(tables) = ledger::copy(directory, server, direction).await? {
        show(&tables);
    } else {
        print_line("the ledger was copied before: only the last step was left");
    }
    print_line(&next(direction, directory, server, config));
    Ok(())
}

/// Where the ledger is now, and what to do.
fn next(
    direction: CopyDirection,
    directory: &Path,
    server: &Server,
    config: &ReadOnlyConfig,
) -> String {
    let shown = directory.display();
    match direction {
        CopyDirection::ToServer => format!(
            "the ledger is in the database {server} now; that in {shown} is not used any more\n\
             next: start the service"
        ),
        CopyDirection::ToDirectory => {
            let path = if directory == &*config.state.path {
                String::new()
            } else {
                format!(", set state.path to {shown}")
            };
            format!(
                "the ledger is in {shown} now; that in the database {server} is not used any more\n\
                 next: remove state.url, state.password_file and state.ca_file from the configuration{path}, and start the service"
            )
        }
    }
}

/// Prints what was read and what was written.
fn show(tables: &[CopiedTable]) {
    let short = |of: &TableDigest| of.digest.get(..DIGEST_SHOWN).unwrap_or_default().to_owned();
    let line = |name: &str, rows: [&str; 2], digests: [&str; 2]| {
        let [source, target] = rows;
        let [of_source, of_target] = digests;
        format!("{name:<20} {source:>10} {target:>10}  {of_source:<DIGEST_SHOWN$}  {of_target}")
    };
    let heads = ["digest", "digest of the copy"];
    print_line(line("table", ["rows", "copied"], heads).trim_end());
    let total = CopiedTable::total(tables);
    for table in tables.iter().chain([&total]) {
        let rows = [table.source.rows.to_string(), table.target.rows.to_string()];
        let digests = [short(&table.source), short(&table.target)];
        let mark = if table.source == table.target {
            ""
        } else {
            "  differs"
        };
        let [of_source, of_target] = &digests;
        let [source, target] = &rows;
        let text = line(&table.name, [source, target], [of_source, of_target]);
        print_line(&format!("{text}{mark}"));
    }
}

async fn reactivate(arguments: &Reactivate, config: &ReadOnlyConfig) -> Result<(), Error> {
    let location: &LedgerLocation = &config.state.path;
    service_unit::act_as_owner(&arguments.config.config, location)?;
    match Ledger::read(location).await {
        Ok(_) => {
            print_line("nothing to do: the ledger is valid");
            return Ok(());
        }
        Err(error @ (ledger::Error::Moved { .. } | ledger::Error::Unfinished { .. })) => {
            print_to_stderr(&chain(&error));
        }
        Err(error) => return Err(error.into()),
    }
    let question =
        "Is the other one lost? If both are used, files are uploaded twice. Use this one again?";
    if !arguments.yes && !confirmed(question).map_err(|_: operate::Error| Error::NoTerminal)? {
        print_line("nothing was changed");
        return Ok(());
    }
    Ledger::reactivate(location).await?;
    print_line("the ledger is valid again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let directory = || PathBuf::from("/var/lib/itwin-syncd");
        let ledger = || ledger::Error::InUse {
            path: directory(),
            pid: Some("812".to_owned()),
        };
        let occupied = |place: &str, is_server| {
            let place = place.to_owned();
            Error::Copy(CopyError::Occupied { place, is_server })
        };
        let database = "the database db.example.com:5432/itwin_syncd";
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::NoServer => Error::NoServer,
            Error::Path(..) => Error::Path(directory(), std::io::ErrorKind::NotFound.into()),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: directory(),
                mode: 0o777,
            }),
            Error::Copy(_) => Error::Copy(CopyError::Ledger(ledger())),
            Error::Copy(_) => Error::Copy(CopyError::Ledger(ledger::Error::Missing { path: directory() })),
            Error::Copy(_) => occupied(database, true),
            Error::Copy(_) => occupied("/var/lib/itwin-syncd on host cad1", false),
            Error::Copy(_) => Error::Copy(CopyError::Tables { place: database.to_owned() }),
            Error::Copy(_) => Error::Copy(CopyError::Differs(Vec::new())),
            Error::Ledger(_) => Error::Ledger(ledger()),
            Error::NoTerminal => Error::NoTerminal,
        }));
    }
}
