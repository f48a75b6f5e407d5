//! The itwin-syncd program: arguments in, exit code out.

use std::process::ExitCode;

use itwin_syncd::cli::Cli;

fn main() -> ExitCode {
    Cli::from_arguments().run()
}
