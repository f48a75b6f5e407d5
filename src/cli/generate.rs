//! `itwin-syncd generate`: man pages and shell completions for packages.

mod manual;

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, EXIT_FAILED, EXIT_GOOD, print_error};
use crate::version;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The output folder, created if necessary
    directory: PathBuf,
}

pub(super) fn generate(arguments: &Arguments) -> u8 {
    match write(&arguments.directory) {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            let text = format!("cannot write to {:?}: {error}", arguments.directory);
            print_error(&io::Error::new(error.kind(), text), None);
            EXIT_FAILED
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    // Sets the names of the subcommands' pages.
    command.build();
    man_pages(&command, directory)?;
    fs::write(directory.join(manual::FILE), manual::page())?;
    // Completions would offer hidden commands too.
    let mut offered = Command::new(env!("CARGO_PKG_NAME"))
        .disable_help_subcommand(true)
        .version(version::FULL)
        .subcommands(visible(&Cli::command()).cloned());
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let file =
            clap_complete::generate_to(shell, &mut offered, env!("CARGO_PKG_NAME"), directory)?;
        if shell == Shell::Bash {
            // clap_complete escapes the hyphen in our name in two ways, so nothing would be completed after a command:
            // https://github.com/clap-rs/clap/issues/6421
            let script = fs::read_to_string(&file)?;
            fs::write(
                &file,
                script.replace("itwin__subcmd__syncd", "itwin__syncd"),
            )?;
        }
    }
    Ok(())
}

/// The page of a command, and those of the commands below it.
fn man_pages(command: &Command, directory: &Path) -> io::Result<()> {
    for below in visible(command) {
        man_pages(below, directory)?;
    }
    clap_mangen::Man::new(command.clone())
        .source(format!("itwin-syncd {}", version::NUMBER))
        .generate_to(directory)?;
    Ok(())
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|one| !one.is_hide_set())
}
