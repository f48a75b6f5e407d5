//! Who may have access to a secret file, and the command that corrects it. Pure, but for [`Access::of`] and
//! [`Process::this`].
//!
//! Its owner, and members of its group if the service is one of them: secrets that Docker and Kubernetes mount belong
//! to root, and are read by their group. Nobody else, and no group may write.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::values::quoted;

/// Permissions of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    mode: u32,
    owner: u32,
    group: u32,
    mount: Mount,
}

/// Whether permissions below a mount point can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mount {
    Writable,
    ReadOnly,
}

/// Who reads it.
#[derive(Debug)]
pub(super) struct Process {
    user: u32,
    group: u32,
    others: Vec<u32>,
}

impl Access {
    /// The permissions of a file of which `about` was read.
    pub(super) fn of(path: &Path, about: &Metadata) -> Self {
        let is_fixed = rustix::fs::statvfs(path)
            .is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        Self {
            mode: about.mode() & 0o777,
            owner: about.uid(),
            group: about.gid(),
            mount: if is_fixed {
                Mount::ReadOnly
            } else {
                Mount::Writable
            },
        }
    }
}

impl Process {
    /// This process.
    pub(super) fn this() -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            others: rustix::process::getgroups()
                .unwrap_or_default()
                .into_iter()
                .map(rustix::process::Gid::as_raw)
                .collect(),
        }
    }

    fn is_in(&self, group: u32) -> bool {
        self.group == group || self.others.contains(&group)
    }
}

/// Opens a secret file.
///
/// # Errors
/// What is wrong, and the command that corrects it.
pub(super) fn open(path: &Path, about: &Metadata) -> Result<File, (String, String)> {
    let (access, process) = (Access::of(path, about), Process::this());
    match File::open(path) {
        Ok(file) => match excess(access, &process) {
            None => Ok(file),
            Some(who) => Err((
                format!(
                    "{} is accessible to {who} (mode {:o})",
                    quoted(path),
                    access.mode
                ),
                remedy(path, access, &process),
            )),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err((
            format!("cannot read {}: {error}", quoted(path)),
            remedy(path, access, &process),
        )),
        Err(error) => Err((
            format!("cannot read the file: {error}"),
            "set it to the path of a file that the service's user can read".to_owned(),
        )),
    }
}

/// Who has access to a file and should not.
fn excess(access: Access, process: &Process) -> Option<String> {
    if access.mode & 0o007 != 0 {
        Some("every user of this machine".to_owned())
    } else if access.mode & 0o070 != 0 && !process.is_in(access.group) {
        Some(format!(
            "the group {}, which the service is not a member of",
            access.group
        ))
    } else if access.mode & 0o030 != 0 {
        Some(format!("the group {} for more than reading", access.group))
    } else {
        None
    }
}

/// The command after which the service can read the file, and nobody else but its group.
fn remedy(path: &Path, access: Access, process: &Process) -> String {
    let path = quoted(path);
    let group = process.group;
    if access.mount == Mount::ReadOnly {
        return format!(
            "give the mounted secret the mode 0440 and the group {group}: in Kubernetes defaultMode: 0440 of the \
             volume and fsGroup: {group} of the pod, in Docker mode: 0440 and gid: \"{group}\" of the secret; or run \
             `chgrp {group}` and `chmod 440` for the file that is mounted at {path}"
        );
    }
    if process.user == 0 || access.owner == process.user {
        format!("run `chmod 600 {path}`")
    } else if process.is_in(access.group) {
        format!("run `chmod 640 {path}` as its owner or root")
    } else {
        format!("run `chgrp {group} {path} && chmod 640 {path}` as root")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: u32 = 986;

    fn service() -> Process {
        Process {
            user: SERVICE,
            group: SERVICE,
            others: vec![2000],
        }
    }

    fn file(mode: u32, owner: u32, group: u32) -> Access {
        Access {
            mode,
            owner,
            group,
            mount: Mount::Writable,
        }
    }

    #[test]
    fn the_owner_and_a_group_of_the_service_may_read_nobody_else() {
        let root = Process {
            user: 0,
            group: 0,
            others: Vec::new(),
        };
        let mut table = String::new();
        for (mode, owner, group, process) in [
            (0o600, SERVICE, SERVICE, service()),
            (0o400, SERVICE, 0, service()),
            // As Kubernetes mounts it with fsGroup, for the main group and for a supplementary one.
            (0o440, 0, SERVICE, service()),
            (0o640, 0, 2000, service()),
            (0o640, SERVICE, 100, service()),
            (0o440, 0, 100, service()),
            (0o660, 0, SERVICE, service()),
            (0o644, SERVICE, SERVICE, service()),
            (0o644, 0, 0, service()),
            (0o604, 0, 2000, service()),
            (0o444, 0, 0, root),
        ] {
            let access = file(mode, owner, group);
            table += &format!("{mode:o} {owner}:{group} for {}: ", process.user);
            table += &match excess(access, &process) {
                None => "accepted".to_owned(),
                Some(who) => format!(
                    "accessible to {who}; {}",
                    remedy(Path::new("/etc/s"), access, &process)
                ),
            };
            table += "\n";
        }
        let mounted = Access {
            mount: Mount::ReadOnly,
            ..file(0o644, 0, 0)
        };
        table += &remedy(Path::new("/run/secrets/s"), mounted, &service());
        insta::assert_snapshot!(table);
    }
}
