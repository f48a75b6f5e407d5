//! The systemd service: whether it is installed, and the installation of what this program contains of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use super::Error;
use crate::cli::print_line;

const UNIT: &str = include_str!("../../../systemd/itwin-syncd.service");
const TEMPLATE: &str = include_str!("../../../systemd/itwin-syncd@.service");
const USER: &str = include_str!("../../../systemd/itwin-syncd.sysusers");
const EXAMPLE: &str = include_str!("../../../config.example.toml");
const HOME: &str = include_str!("../../../systemd/examples/home.conf");
const NO_SECRET: &str = include_str!("../../../systemd/examples/sign-in.conf");

/// Whether systemd runs on this machine.
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Installs program, unit and user, as `systemd/install` does.
pub(super) fn install() -> Result<(), Error> {
    let program = std::env::current_exe().map_err(|source| Error::Write {
        path: "/usr/bin/itwin-syncd".into(),
        source,
    })?;
    copy(&program, Path::new("/"))?;
    run(&["systemd-sysusers", "itwin-syncd.conf"])?;
    run(&["systemctl", "daemon-reload"])
}

/// Lets the service of this name expect a client secret or, for a user, none.
pub(super) fn load_secret(name: &str, has_secret: bool) -> Result<(), Error> {
    let path = format!("/etc/systemd/system/{name}.service.d/sign-in.conf");
    let path = Path::new(&path);
    if !has_secret {
        put(path, 0o644, |draft| fs::write(draft, NO_SECRET))?;
    } else if fs::read_to_string(path).is_ok_and(|text| says_no_more(&text)) {
        // Of an earlier sign-in of a user.
        fs::remove_file(path).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })?;
        print_line(&format!("  removed {}", path.display()));
    } else {
        return Ok(());
    }
    run(&["systemctl", "daemon-reload"])
}

/// Whether a drop-in only drops the credentials.
fn says_no_more(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.all(|line| {
        line.is_empty()
            || line.starts_with(['#', ';'])
            || matches!(line, "[Service]" | "LoadCredential=")
    })
}

/// Starts the service of this name with each boot, and now; again if it runs with another configuration.
pub(super) fn start(name: &str) -> Result<(), Error> {
    run(&["systemctl", "enable", name])?;
    run(&["systemctl", "restart", name])
}

/// Writes the files below `root`.
fn copy(program: &Path, root: &Path) -> Result<(), Error> {
    let binary = root.join("usr/bin/itwin-syncd");
    // A package installs the program without the unit only if someone has deleted the unit.
    if fs::canonicalize(&binary).ok() != fs::canonicalize(program).ok() {
        put(&binary, 0o755, |draft| fs::copy(program, draft).map(drop))?;
    }
    for (path, text) in [
        ("etc/systemd/system/itwin-syncd.service", UNIT),
        ("etc/systemd/system/itwin-syncd@.service", TEMPLATE),
        ("etc/sysusers.d/itwin-syncd.conf", USER),
        ("usr/share/itwin-syncd/config.example.toml", EXAMPLE),
        ("usr/share/itwin-syncd/examples/home.conf", HOME),
    ] {
        put(&root.join(path), 0o644, |draft| fs::write(draft, text))?;
    }
    Ok(())
}

/// Writes a file that appears whole. A running program cannot be written to, but replaced.
fn put(path: &Path, mode: u32, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .and_then(|()| tempfile::NamedTempFile::new_in(folder))
        .and_then(|draft| {
            write(draft.path())?;
            fs::set_permissions(draft.path(), fs::Permissions::from_mode(mode))?;
            draft.persist(path).map_err(|error| error.error)
        })
        .map(|_| print_line(&format!("  installed {}", path.display())))
        .map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
}

fn run(words: &[&str]) -> Result<(), Error> {
    let command = words.join(" ");
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Command {
            command,
            source: io::Error::other(status.to_string()),
        }),
        Err(source) => Err(Error::Command { command, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_with_settings_of_its_own_stays() {
        assert!(says_no_more(NO_SECRET));
        assert!(!says_no_more(&format!(
            "{NO_SECRET}LoadCredential=web-token:/etc/itwin-syncd/web-token\n"
        )));
        assert!(!says_no_more(&format!("{NO_SECRET}User=sync\n")));
    }

    #[test]
    fn program_unit_and_user_are_installed_with_their_modes() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("built");
        fs::write(&program, "program").unwrap();
        // The second time replaces what is there.
        for _ in 0..2 {
            copy(&program, root.path()).unwrap();
        }
        for (path, mode, text) in [
            ("usr/bin/itwin-syncd", 0o755, "program"),
            ("etc/systemd/system/itwin-syncd.service", 0o644, UNIT),
            ("etc/systemd/system/itwin-syncd@.service", 0o644, TEMPLATE),
            ("etc/sysusers.d/itwin-syncd.conf", 0o644, USER),
        ] {
            let path = root.path().join(path);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let found = path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{path:?}");
        }
    }
}
