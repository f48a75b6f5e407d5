//! `itwin-syncd healthcheck`: whether the daemon works, for containers and scripts.
//!
//! Input: the configuration, for the state directory only, and the answer of the daemon over its control socket.
//! Output: one line, and the exit code 0 or 1. It reads no secret and no folder, and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{ConfigArgument, EXIT_FAILED, EXIT_GOOD, chain, json, print_line, push};
use crate::config;
use crate::control::{self, Answer, Request};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The daemon has to answer within this time, such as 5s
    #[arg(long, value_name = "TIME", value_parser = push::time, default_value = "5s")]
    timeout: Duration,
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
}

/// Whether the daemon is healthy, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Health {
    version: u32,
    ok: bool,
    /// Why it is not healthy.
    reason: Option<String>,
    hint: Option<String>,
}

/// Why the daemon does not count as healthy.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("no daemon is running with the ledger in {0:?}")]
    NotRunning(PathBuf),
    #[error(
        "cannot read the configuration {file:?}, and no daemon is running with the usual ledger in {state:?}"
    )]
    Unreadable {
        file: PathBuf,
        state: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the daemon did not answer within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Unreachable(#[from] control::Error),
    #[error("{0}")]
    NotWorking(String),
    #[error("the daemon answered another question: its version differs from this command")]
    Unexpected,
}

impl Problem {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable(error) => error.hint(),
            Self::Unreadable { .. } => {
                Some("name the daemon's file with --config or ITWIN_SYNCD_CONFIG".to_owned())
            }
            _ => None,
        }
    }
}

pub(super) async fn healthcheck(arguments: &Arguments) -> u8 {
    // A file with errors does not stop a running daemon, so it does not count here.
    let state = config::state_path(&arguments.config.config);
    let asked = tokio::time::timeout(arguments.timeout, ask(&state)).await;
    let problem = asked.unwrap_or(Err(Problem::Late(arguments.timeout))).err();
    let problem = problem.map(|problem| with_file(problem, &arguments.config.config));
    print_line(&match &problem {
        _ if arguments.json => json::text(&Health {
            version: json::VERSION,
            ok: problem.is_none(),
            reason: problem.as_ref().map(|problem| chain(problem)),
            hint: problem.as_ref().and_then(Problem::hint),
        }),
        None => "healthy".to_owned(),
        Some(problem) => line(problem),
    });
    match problem {
        None => EXIT_GOOD,
        Some(_) => EXIT_FAILED,
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

/// Without its file, the daemon may have another ledger than the usual one.
fn with_file(problem: Problem, file: &Path) -> Problem {
    match (problem, std::fs::File::open(file)) {
        (Problem::NotRunning(state), Err(source)) => Problem::Unreadable {
            file: file.to_owned(),
            state,
            source,
        },
        (problem, _) => problem,
    }
}

fn line(problem: &Problem) -> String {
    let hint = problem
        .hint()
        .map(|hint| format!("; {hint}"))
        .unwrap_or_default();
    format!("unhealthy: {}{hint}", chain(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let unreachable = control::Error::Socket {
            path: "/nonexistent/itwin-syncd/control.sock".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let all = [
            Problem::NotRunning("/var/lib/itwin-syncd".into()),
            Problem::Unreadable {
                file: "/etc/itwin-syncd/config.toml".into(),
                state: "/var/lib/itwin-syncd".into(),
                source: std::io::ErrorKind::NotFound.into(),
            },
            Problem::Late(Duration::from_secs(5)),
            Problem::Unreachable(unreachable),
            Problem::NotWorking("the upload queue is stalled".to_owned()),
            Problem::Unexpected,
        ];
        insta::assert_snapshot!(all.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
}
