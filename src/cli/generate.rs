//! `itwin-syncd generate`: what packages hold beside the program, made from the command line's own words.

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, EXIT_FAILED, EXIT_GOOD, print_error};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder, made if need be: man pages go into it, completions under the names that shells look for.
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
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, env!("CARGO_PKG_NAME"), directory)?;
    }
    Ok(())
}
