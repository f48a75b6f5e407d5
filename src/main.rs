//! The itwin-syncd program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use itwin_syncd::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
