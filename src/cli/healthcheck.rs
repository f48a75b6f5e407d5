//! `itwin-syncd healthcheck`: whether the daemon works, for containers and scripts.
//!
//! Input: the configuration, for the state directory only, and the answer of the daemon over its control socket.
//! Output: one line, and the exit code 0 or 1. It reads no secret and no folder, and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{ConfigArgument, EXIT_FAILED, EXIT_GOOD, chain, print_line, push};
use crate::config::{Environment, ReadOnlyConfig};
use crate::control::{self, Answer, Request};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The daemon has to answer within this time, such as 5s
    #[arg(long, value_name = "TIME", value_parser = push::time, default_value = "5s")]
    timeout: Duration,
}

/// Why the daemon does not count as healthy.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("no daemon is running with the ledger in {0:?}")]
    NotRunning(PathBuf),
    #[error("the daemon did not answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Unreachable(#[from] control::Error),
    #[error("{0}")]
    NotWorking(String),
    #[error("the daemon answered another question: its version differs from this command")]
    Unexpected,
}

pub(super) async fn healthcheck(arguments: &Arguments) -> u8 {
    let state = state_path(&arguments.config.config);
    let asked = tokio::time::timeout(arguments.timeout, ask(&state)).await;
    match asked.unwrap_or(Err(Problem::Late(arguments.timeout))) {
        Ok(()) => {
            print_line("healthy");
            EXIT_GOOD
        }
        Err(problem) => {
            print_line(&line(&problem));
            EXIT_FAILED
        }
    }
}

/// Where the daemon has its socket. A file with errors does not stop a running daemon, so it does not count here: as
/// far as it cannot be read, the directory is the default.
fn state_path(config: &Path) -> PathBuf {
    match ReadOnlyConfig::load_despite_errors(config) {
        Some(config) => config.state.path.to_path_buf(),
        None => Environment::of_process().default_state_path(),
    }
}

async fn ask(state: &Path) -> Result<(), Problem> {
    match control::ask(state, &Request::Health).await? {
        Some(Answer::Health { problem: None }) => Ok(()),
        Some(Answer::Health {
            problem: Some(problem),
        }) => Err(Problem::NotWorking(problem)),
        Some(_) => Err(Problem::Unexpected),
        None => Err(Problem::NotRunning(state.to_owned())),
    }
}

fn line(problem: &Problem) -> String {
    let hint = match problem {
        Problem::Unreachable(error) => error.hint(),
        _ => None,
    };
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("unhealthy: {}{hint}", chain(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let unreachable = control::Error::Socket {
            path: "/var/lib/itwin-syncd/control.sock".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let all = [
            Problem::NotRunning("/var/lib/itwin-syncd".into()),
            Problem::Late(Duration::from_secs(5)),
            Problem::Unreachable(unreachable),
            Problem::NotWorking("the upload queue is stalled".to_owned()),
            Problem::Unexpected,
        ];
        insta::assert_snapshot!(all.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
}
