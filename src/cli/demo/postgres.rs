//! A PostgreSQL server for one demo: its programs are those of this machine, its data is temporary.
//!
//! It refuses to run as root, so it runs as another user then. It listens on this machine only, where others may reach
//! it: its password is random.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use uuid::Uuid;

use super::{any_address, private_file, tail};

/// Where packages have a folder for each version, and the folder of the programs below that.
const FOLDERS: [(&str, &str); 2] = [("/usr/lib/postgresql", "bin"), ("/usr", "bin")];

/// The user of the database.
const USER: &str = "demo";

/// It is up, or down, after this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often that is checked.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("PostgreSQL is not installed: there is no initdb")]
    Missing,
    #[error("PostgreSQL does not run as root, and this system has no user postgres or nobody")]
    NoUser,
    #[error("cannot start PostgreSQL")]
    Io(#[from] std::io::Error),
    #[error("PostgreSQL does not start: {0}")]
    Failed(String),
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Missing => "install it, such as with: apt install postgresql",
            Self::NoUser => "run the demo as another user than root",
            Self::Io(_) | Self::Failed(_) => return None,
        };
        Some(hint.to_owned())
    }
}

pub(super) struct Server {
    process: Child,
    _folder: TempDir,
    address: SocketAddr,
    password: String,
}

/// A user and its group.
type User = (u32, u32);

impl Server {
    /// Creates a database and starts a server for it.
    pub(super) async fn start() -> Result<Self, Error> {
        let programs = programs().ok_or(Error::Missing)?;
        let user = if geteuid().is_root() {
            Some(unprivileged_user().ok_or(Error::NoUser)?)
        } else {
            None
        };
        let folder = tempfile::Builder::new()
            .prefix("itwin-syncd-demo-postgres-")
            .tempdir()?;
        let password = Uuid::new_v4().simple().to_string();
        let password_file = folder.path().join("password");
        private_file(&password_file, &password)?;
        if let Some((user, group)) = user {
            for path in [folder.path(), &password_file] {
                chown(path, Some(user), Some(group))?;
            }
        }
        let data = folder.path().join("data");
        let created = command(&programs.join("initdb"), user, folder.path())
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--auth", "scram-sha-256", "--username", USER])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .output()
            .await?;
        if !created.status.success() {
            let said = String::from_utf8_lossy(&created.stderr);
            return Err(Error::Failed(said.trim().to_owned()));
        }
        let address = any_address()?;
        let log = folder.path().join("log");
        let process = command(&programs.join("postgres"), user, folder.path())
            .arg("-D")
            .arg(&data)
            .arg("-p")
            .arg(address.port().to_string())
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let mut server = Self {
            process,
            _folder: folder,
            address,
            password,
        };
        match server.is_up().await {
            Ok(true) => Ok(server),
            Ok(false) => {
                let said = tail(&log);
                server.stop().await;
                Err(Error::Failed(said))
            }
            Err(error) => {
                server.stop().await;
                Err(error.into())
            }
        }
    }

    /// Waits until it accepts connections. False: it does not.
    async fn is_up(&mut self) -> std::io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.process.try_wait()?.is_some() {
                return Ok(false);
            }
            if TcpStream::connect(self.address).await.is_ok() {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(false)
    }

    /// For `state.url`.
    pub(super) fn url(&self) -> String {
        format!("postgres://{USER}@{}/postgres", self.address)
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Ends it with all its connections. What it wrote is deleted.
    pub(super) async fn stop(mut self) {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            // An immediate shutdown: its own processes end as well.
            kill_process(id, Signal::QUIT).ok();
        }
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        if ended.is_err() {
            self.process.kill().await.ok();
        }
    }
}

/// A program that runs as this user, and that Ctrl-C in the terminal does not reach: the demo ends it.
fn command(program: &Path, user: Option<User>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// The folder of the newest server on this machine.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut in_path = std::env::split_paths(&path);
    in_path
        .find(|folder| has_server(folder))
        .or_else(|| newest(&FOLDERS.map(|(folder, below)| (Path::new(folder), below))))
}

fn has_server(folder: &Path) -> bool {
    let exists = |name| folder.join(name).is_file();
    exists("initdb") && exists("postgres")
}

/// The folder of the newest server below these: `15/bin` or `pgsql-15/bin`.
fn newest(folders: &[(&Path, &str)]) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (folder, below) in folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let version = name.strip_prefix("pgsql-").unwrap_or(&name);
            let programs = entry.path().join(below);
            if let Ok(version) = version.parse()
                && has_server(&programs)
            {
                found.push((version, programs));
            }
        }
    }
    found.into_iter().max().map(|(_, folder)| folder)
}

/// Who runs the server if root starts the demo.
fn unprivileged_user() -> Option<User> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| user_of(&users, name))
}

/// A user in the text of `/etc/passwd`. Pure.
fn user_of(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let user = fields.nth(1)?.parse().ok()?;
        Some((user, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_server_is_found_and_none_without_its_programs() {
        let place = tempfile::tempdir().unwrap();
        let folders = [(place.path(), "bin")];
        assert_eq!(newest(&folders), None);
        for (version, programs) in [
            ("9", &["initdb", "postgres"][..]),
            ("pgsql-15", &["initdb", "postgres"]),
            ("17", &["initdb"]),
            ("common", &["initdb", "postgres"]),
        ] {
            let folder = place.path().join(version).join("bin");
            std::fs::create_dir_all(&folder).unwrap();
            for program in programs {
                std::fs::write(folder.join(program), "").unwrap();
            }
        }
        assert_eq!(newest(&folders), Some(place.path().join("pgsql-15/bin")));
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\nnobody2:x:7:8::/:/bin/sh\n\
                     nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";
        assert_eq!(user_of(users, "nobody"), Some((65534, 65533)));
        assert_eq!(user_of(users, "postgres"), None);
    }
}
