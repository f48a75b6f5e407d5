//! What a configuration is read with, beside its file: the environment of the process, and the mode of the command.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::secret::Secret;

/// Environment variable with the client secret.
pub const CLIENT_SECRET_VARIABLE: &str = "ITWIN_SYNCD_CLIENT_SECRET";

/// The part of the process's environment that a configuration depends on.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`: the folder that systemd made for the ledger.
    pub state_directory: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: systemd's folder of secrets; the file `itwin-client-secret` in it is ours.
    pub credentials_directory: Option<PathBuf>,
    /// systemd's credentials of the service by their names, if root has read them for it.
    pub credentials: BTreeMap<String, Secret>,
    /// `$ITWIN_SYNCD_CLIENT_SECRET`.
    pub client_secret: Option<Secret>,
}

/// The state directory of the service `itwin-syncd@NAME`, whose configuration is `/etc/itwin-syncd/NAME/config.toml`.
fn of_instance(config_file: &Path) -> Option<PathBuf> {
    let folder = config_file
        .strip_prefix("/etc/itwin-syncd")
        .ok()
        .filter(|rest| rest.ends_with("config.toml"))?
        .parent()?;
    let mut names = folder.iter();
    let name = names.next().filter(|_| names.next().is_none())?;
    let mut path = OsString::from("/var/lib/itwin-syncd-");
    path.push(name);
    Some(path.into())
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
            credentials: BTreeMap::new(),
            client_secret: variable(CLIENT_SECRET_VARIABLE)
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

    /// The environment of this process, for this file: commands for the service `itwin-syncd@NAME` find its ledger
    /// by the name, because only the service gets `$STATE_DIRECTORY` from systemd.
    #[must_use]
    pub fn for_file(config_file: &Path) -> Self {
        let mut environment = Self::of_process();
        environment.state_directory = environment
            .state_directory
            .or_else(|| of_instance(config_file));
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_an_instance_names_its_state_directory() {
        for (file, state) in [
            ("/etc/itwin-syncd/config.toml", None),
            (
                "/etc/itwin-syncd/plant/config.toml",
                Some("/var/lib/itwin-syncd-plant"),
            ),
            ("/etc/itwin-syncd/plant/other.toml", None),
            ("/etc/itwin-syncd/a/b/config.toml", None),
            ("/srv/plant/config.toml", None),
            ("config.toml", None),
        ] {
            let found = of_instance(Path::new(file));
            assert_eq!(found.as_deref(), state.map(Path::new), "{file}");
        }
    }
}
