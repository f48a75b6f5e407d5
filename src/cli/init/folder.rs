//! The folder to watch: whether it can be used, by the user of the service too. Changes nothing.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::SERVICE_USER;
use crate::cli::service_unit::Service;
use crate::shell;

/// A share that takes longer for an answer does not respond.
const PATIENCE: Duration = Duration::from_secs(10);

/// Folders that the unit hides from the service.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0:?} is a path of Windows")]
    Windows(String),
    #[error("{0:?} does not exist")]
    Missing(PathBuf),
    #[error("{0:?} is not a folder")]
    File(PathBuf),
    #[error("{path:?} cannot be read")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0:?} does not respond")]
    Silent(PathBuf),
    #[error("the service's user {SERVICE_USER} cannot read {0:?}")]
    ServiceUser(PathBuf),
    #[error("the service does not see folders below {below}")]
    Hidden {
        below: &'static str,
        unit: &'static str,
    },
}

impl Problem {
    /// What to do about it.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Windows(_) => {
                "mount the share on this machine (docs/shares.md), and enter the folder that it is mounted to, such as \
                 /mnt/projects"
                    .to_owned()
            }
            Self::Missing(path) => format!(
                "correct the path, mount the share (docs/shares.md), or create the folder: mkdir -p {}",
                shell::word(&path.to_string_lossy())
            ),
            Self::File(path) => format!(
                "enter the folder that contains it: {}",
                path.parent().unwrap_or(path).display()
            ),
            Self::Unreadable { path, .. } => format!(
                "give this user read access, or run the command with sudo; see `ls -ld {}`",
                shell::word(&path.to_string_lossy())
            ),
            Self::Silent(_) => "check the file server and the mount, then try again".to_owned(),
            Self::ServiceUser(path) => format!(
                "run `setfacl -m u:{SERVICE_USER}:rx {0}`, or add the user to the group of the folder: `usermod -aG GROUP \
                 {SERVICE_USER}`; for mounted shares see docs/shares.md",
                shell::word(&path.to_string_lossy())
            ),
            Self::Hidden { unit, .. } => format!(
                "after this command: install -D -m 644 /usr/share/itwin-syncd/examples/home.conf \
                 /etc/systemd/system/{unit}.d/home.conf && systemctl daemon-reload"
            ),
        }
    }

    /// Whether the service could use the folder after all, for example as a member of another group.
    pub(super) fn is_of_the_service(&self) -> bool {
        matches!(self, Self::ServiceUser(_) | Self::Hidden { .. })
    }
}

/// The path as it is written to the configuration.
pub(super) fn absolute(written: &str) -> Result<PathBuf, Problem> {
    let bytes = written.as_bytes();
    let has_drive = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.get(1) == Some(&b':')
        && matches!(bytes.get(2), None | Some(b'\\' | b'/'));
    if has_drive || written.starts_with("\\\\") {
        return Err(Problem::Windows(written.to_owned()));
    }
    let written = match (written.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(below), Some(home)) => Path::new(&home).join(below),
        _ => PathBuf::from(written),
    };
    std::path::absolute(&written).map_err(|source| Problem::Unreadable {
        path: written,
        source,
    })
}

/// Whether this user can list the folder.
pub(super) async fn check(path: &Path) -> Result<(), Problem> {
    let owned = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || look(&owned));
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(Problem::Silent(path.to_owned())),
    }
}

fn look(path: &Path) -> Result<(), Problem> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Problem::Missing(path.to_owned()),
        _ => Problem::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Err(Problem::File(path.to_owned()));
    }
    std::fs::read_dir(path).map(drop).map_err(unreadable)
}

/// Whether the service can read the folder, as far as root can find out.
pub(super) async fn check_for_service(path: &Path, service: &Service) -> Result<(), Problem> {
    let root = Path::new("/");
    if let Some(below) = HIDDEN.into_iter().find(|hidden| path.starts_with(hidden))
        && service.hides_home(root)
    {
        let unit = service.file();
        return Err(Problem::Hidden { below, unit });
    }
    let groups = service.groups(root);
    let has_user = User::from_name(SERVICE_USER).is_ok_and(|user| user.is_some());
    if !Uid::effective().is_root() || !has_user {
        return Ok(());
    }
    let ancestors: Vec<&Path> = path.ancestors().collect();
    for one in ancestors.into_iter().rev() {
        if !is_allowed(one, "-x", &groups).await {
            return Err(Problem::ServiceUser(one.to_owned()));
        }
    }
    if is_allowed(path, "-r", &groups).await {
        Ok(())
    } else {
        Err(Problem::ServiceUser(path.to_owned()))
    }
}

/// Whether `test` says yes as the user of the service, with its own groups or with those of the unit. What cannot be
/// tested counts as allowed: `check` tests it later.
async fn is_allowed(path: &Path, test: &str, groups: &[String]) -> bool {
    runs_well(path, test, &[]).await || !groups.is_empty() && runs_well(path, test, groups).await
}

async fn runs_well(path: &Path, test: &str, groups: &[String]) -> bool {
    let mut command = tokio::process::Command::new("runuser");
    command
        .args(["-u", SERVICE_USER])
        .args(groups.iter().flat_map(|group| ["-G", group.as_str()]))
        .args(["--", "test", test])
        .arg(path)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    match tokio::time::timeout(PATIENCE, command.status()).await {
        Ok(Ok(status)) => status.code() != Some(1),
        Ok(Err(_)) | Err(_) => true,
    }
}

/// A name of the watch from that of its folder.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(OsStr::new("designs"));
    let name: String = name
        .to_string_lossy()
        .chars()
        .map(|letter| match letter {
            letter if letter.is_ascii_alphanumeric() || "._- ".contains(letter) => letter,
            _ => '-',
        })
        .take(64)
        .collect();
    let name = name.trim().trim_matches('-');
    if name.is_empty() { "designs" } else { name }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_watch_is_that_of_its_folder_as_far_as_it_may_be() {
        for (path, expected) in [
            ("/srv/projects/north", "north"),
            ("/srv/North Bridge 2", "North Bridge 2"),
            ("/srv/Brücke", "Br-cke"),
            ("/srv/日本", "designs"),
            ("/", "designs"),
        ] {
            assert_eq!(name_of(Path::new(path)), expected, "{path}");
        }
        assert_eq!(name_of(Path::new(&"a".repeat(300))).len(), 64);
    }

    #[test]
    fn paths_of_windows_are_recognized() {
        for path in ["C:\\designs", "d:/designs", "\\\\server\\share", "C:"] {
            assert!(matches!(absolute(path), Err(Problem::Windows(_))), "{path}");
        }
        assert_eq!(absolute("/srv/a:b").unwrap(), Path::new("/srv/a:b"));
    }
}
