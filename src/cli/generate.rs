//! `itwin-syncd generate`: man pages and shell completions for packages.

mod manual;

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, EXIT_FAILED, EXIT_GOOD, print_error};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The output folder, created if necessary
    directory: PathBuf,
}

pub(super) fn generate(arguments: &Arguments) -> u8 {
    match write(&arguments.directory) {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            print_error(&error, None);
            EXIT_FAILED
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    // Sets the names of the subcommands' pages.
    command.build();
    clap_mangen::generate_to(command.clone(), directory)?;
    fs::write(directory.join(manual::FILE), manual::page())?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, env!("CARGO_PKG_NAME"), directory)?;
    }
    Ok(())
}
