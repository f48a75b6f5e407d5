//! The configuration of commands that read the ledger or ask the daemon.
//!
//! Input: the path of the file. When the file has errors, the daemon that runs with it is asked for the configuration
//! that it works with: a typing error must not keep an operator from pausing it. Errors are printed in any case.

use std::io;
use std::path::Path;

use super::{EXIT_CONFIG, print_config_errors, print_error, print_to_stderr, service_unit};
use crate::config::{self, ConfigErrors, ReadOnlyConfig};
use crate::control::{self, Answer, Request};

/// A configuration to work with.
pub(super) struct Found {
    pub(super) config: ReadOnlyConfig,
    /// The file has errors, and this is what the daemon works with.
    pub(super) has_errors: bool,
}

/// Reads the file, or else asks the daemon that runs with it. None: the file has errors, and no such daemon runs.
pub(super) async fn find(path: &Path) -> Option<Found> {
    match ReadOnlyConfig::load(path) {
        Ok(config) => Some(Found {
            config,
            has_errors: false,
        }),
        Err(errors) => {
            print_config_errors(&errors);
            let config = of_daemon(path).await?;
            print_to_stderr(
                "note: using the configuration that the running daemon read before; it is not affected by the errors",
            );
            Some(Found {
                config,
                has_errors: true,
            })
        }
    }
}

/// The same for a command that needs one; with the exit code if there is none.
pub(super) async fn get(path: &Path) -> Result<ReadOnlyConfig, u8> {
    let found = find(path).await.ok_or(EXIT_CONFIG)?;
    Ok(found.config)
}

/// The configuration of a daemon beside which a command works that has one of its own. None: there is no such file.
///
/// # Errors
/// The file has errors, and the daemon cannot be asked: what it watches is not known. Root does not ask, because it
/// would have to become the daemon's user.
pub(super) async fn beside(path: &Path) -> Result<Option<ReadOnlyConfig>, ConfigErrors> {
    match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            print_to_stderr(&format!(
                "note: cannot read {}: {error}: files that its daemon watches are not recognized",
                path.display()
            ));
            return Ok(None);
        }
        Ok(_) => {}
    }
    match ReadOnlyConfig::load(path) {
        Ok(config) => Ok(Some(config)),
        Err(errors) if rustix::process::geteuid().is_root() => Err(errors),
        Err(errors) => of_daemon(path).await.map(Some).ok_or(errors),
    }
}

/// What the daemon with this file works with.
async fn of_daemon(path: &Path) -> Option<ReadOnlyConfig> {
    let state = config::state_path(path);
    // Nothing that the owner has put there may lead root elsewhere.
    if let Err(error) = service_unit::act_as_owner(path, &state) {
        print_error(&error, Some(error.hint()));
        return None;
    }
    let (file, text) = match control::ask(&state, &Request::Configuration).await {
        Ok(Some(Answer::Configuration { file, text })) => (control::path_of(file), text),
        // A daemon of an earlier version does not know the question.
        Ok(_) | Err(control::Error::Refused(_)) => return None,
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            return None;
        }
    };
    if !is_same(path, &file) {
        print_to_stderr(&format!(
            "note: the daemon with the ledger in {} has another configuration file: {}",
            state.display(),
            file.display()
        ));
        return None;
    }
    ReadOnlyConfig::of_daemon(&text, &file, &state).ok()
}

/// Whether both paths lead to one file, which may be missing by now.
fn is_same(one: &Path, other: &Path) -> bool {
    let full = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.canonicalize().unwrap_or(path)
    };
    full(one) == full(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_recognized_by_any_of_its_paths() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("config.toml"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let missing = dir.path().join("missing.toml");
        for (one, other, same) in [
            (&file, &file, true),
            (&link, &file, true),
            (&missing, &missing, true),
            (&missing, &file, false),
        ] {
            assert_eq!(is_same(one, other), same, "{one:?} {other:?}");
        }
    }
}
