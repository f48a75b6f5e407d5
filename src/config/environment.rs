//! What a configuration is read with, beside its file: the environment of the process, and the mode of the command.

use std::env;
use std::path::PathBuf;

use crate::secret::Secret;

/// Environment variable with the client secret.
pub(super) const SECRET_VARIABLE: &str = "ITWIN_SYNCD_CLIENT_SECRET";

/// The part of the process's environment that a configuration depends on.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`: the folder that systemd made for the ledger.
    pub state_directory: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: systemd's folder of secrets; the file `itwin-client-secret` in it is ours.
    pub credentials_directory: Option<PathBuf>,
    /// `$ITWIN_SYNCD_CLIENT_SECRET`.
    pub client_secret: Option<Secret>,
}

/// What a configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// For `run` and `check`: secrets are read and required.
    Daemon,
    /// For commands that only read the ledger: secrets are not read.
    Inspect,
}

impl Environment {
    /// The environment of this process. Variables that are set but empty count as not set.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            // systemd separates several folders by colons; the first is the one that the unit names first.
            state_directory: variable("STATE_DIRECTORY")
                .and_then(|all| env::split_paths(&all).next()),
            credentials_directory: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            client_secret: variable(SECRET_VARIABLE)
                .map(|secret| Secret::new(secret.to_string_lossy())),
        }
    }

    /// The folder of the ledger unless `state.path` is set.
    #[must_use]
    pub fn default_state_path(&self) -> PathBuf {
        self.state_directory
            .clone()
            .unwrap_or_else(|| "/var/lib/itwin-syncd".into())
    }
}
