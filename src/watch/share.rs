//! Where the folder of a watch is: which share of which server, or which disk of which host.
//!
//! Two hosts that mount one share have the same text for it, whatever the mount point is called. A file system whose
//! source names no server belongs to its host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, StatxFlags};
use tokio::sync::mpsc;

use super::mounts::{MOUNTS, unescaped};
use super::thread_on_demand::ThreadOnDemand;
use crate::config::Watch;
use crate::rooted_fs::RootDir;

/// Looks where a folder is, on a thread of its own: its share may not answer.
pub struct ShareLook {
    requests: ThreadOnDemand<()>,
    answers: mpsc::Receiver<Option<String>>,
    /// An answer is awaited.
    is_asked: bool,
}

impl ShareLook {
    /// For the folder of a watch.
    #[must_use]
    pub fn new(watch: &Watch) -> Self {
        let (answer, answers) = mpsc::channel(1);
        let path = watch.path.clone();
        let requests = ThreadOnDemand::new(format!("share {}", watch.name), move |()| {
            let found = readable_share(&path).ok().flatten();
            match answer.blocking_send(found) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        Self {
            requests,
            answers,
            is_asked: false,
        }
    }

    /// Where the folder is; None if it cannot be read within `patience`.
    pub async fn look(&mut self, patience: Duration) -> Option<String> {
        if !self.is_asked {
            self.requests.send(()).ok()?;
            self.is_asked = true;
        }
        let answer = tokio::time::timeout(patience, self.answers.recv())
            .await
            .ok()?;
        self.is_asked = false;
        answer.flatten()
    }
}

/// Where a folder is that can be listed.
fn readable_share(path: &Path) -> io::Result<Option<String>> {
    let folder = RootDir::open(path)?.folder(Path::new(""))?;
    let share = share_of(&folder)?;
    if let Some(first) = Dir::new(folder)?.read() {
        first?;
    }
    Ok(share)
}

/// What a line of `mountinfo` says of the place of a mount.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    /// The folder of the file system that is mounted.
    folder: PathBuf,
    point: PathBuf,
    kind: String,
    source: String,
}

/// Where an open folder is. None: the kernel does not say so.
pub(super) fn share_of(folder: impl AsFd) -> io::Result<Option<String>> {
    let folder = folder.as_fd();
    let found = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if !StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
        return Ok(None);
    }
    // Asks the kernel, not the share.
    let path = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    let mounts = std::fs::read(MOUNTS)?;
    let mut mounts = mounts.split(|byte| *byte == b'\n');
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    Ok(mounts
        .find_map(|line| mounted(line, found.stx_mnt_id))
        .map(|mounted| text(&mounted, &path, &host)))
}

/// The line of the mount with this id.
fn mounted(line: &[u8], id: u64) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let number = std::str::from_utf8(fields.first()?).ok()?;
    if number.parse() != Ok(id) {
        return None;
    }
    // Any number of fields precede the separator.
    let end = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let path = |at: usize| {
        Some(PathBuf::from(OsString::from_vec(unescaped(
            fields.get(at)?,
        ))))
    };
    let word = |at: usize| {
        let bytes = unescaped(fields.get(at)?);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    Some(Mounted {
        folder: path(3)?,
        point: path(4)?,
        kind: word(end + 1)?,
        source: word(end + 2)?,
    })
}

/// Of the folder at `path` on `host`. Pure.
fn text(mounted: &Mounted, path: &Path, host: &str) -> String {
    let kind = match mounted.kind.as_str() {
        "nfs" | "nfs4" => "nfs",
        "cifs" | "smb3" => "cifs",
        other => other,
    };
    let mut source = without_credentials(mounted.source.trim_end_matches('/'));
    if kind == "cifs" {
        // As Windows compares them.
        source = source.to_lowercase();
    }
    let names_server = source.contains(':') || source.starts_with("//");
    let below = match path.strip_prefix(&mounted.point) {
        // Joined, an empty path would add a slash.
        Ok(below) if !below.as_os_str().is_empty() => mounted.folder.join(below),
        _ => mounted.folder.clone(),
    };
    let below = match below.as_os_str().as_bytes() {
        [b'/'] | [] => String::new(),
        bytes => format!(", folder {}", OsStr::from_bytes(bytes).to_string_lossy()),
    };
    let on = if names_server {
        String::new()
    } else {
        format!(" on {host}")
    };
    let text = format!("{kind} {source}{below}{on}");
    text.chars().flat_map(shown).collect()
}

/// Some file systems have a user and a password in the address that is their source.
fn without_credentials(source: &str) -> String {
    match source.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => source.to_owned(),
    }
}

/// Characters that would change the line of a log are escaped.
fn shown(char: char) -> Vec<char> {
    if char.is_control() {
        char.escape_default().collect()
    } else {
        vec![char]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str, path: &str, host: &str) -> String {
        text(
            &mounted(line.as_bytes(), 36).unwrap(),
            Path::new(path),
            host,
        )
    }

    #[test]
    fn a_share_is_the_same_on_every_host_and_a_disk_is_not() {
        for (line, path, expected) in [
            (
                "36 25 0:45 / /mnt/nas rw shared:1 - nfs4 nas:/export rw,vers=4.2",
                "/mnt/nas/projects",
                "nfs nas:/export, folder /projects",
            ),
            (
                "36 25 0:99 / /srv/a\\040b rw - cifs //NAS/Projects/ rw,username=u",
                "/srv/a b",
                "cifs //nas/projects",
            ),
            // A part of it, mounted elsewhere with --bind.
            (
                "36 25 0:45 /projects /srv/projects rw - nfs nas:/export rw",
                "/srv/projects",
                "nfs nas:/export, folder /projects",
            ),
            (
                "36 25 0:50 / /mnt rw - fuse.sshfs user@nas:/data rw",
                "/mnt",
                "fuse.sshfs user@nas:/data",
            ),
            (
                "36 25 0:50 / /mnt rw - fuse https://me:secret@cloud.example.com/dav/a@b rw",
                "/mnt",
                "fuse https://cloud.example.com/dav/a@b",
            ),
            (
                "36 25 8:1 / / rw shared:1 master:2 - ext4 /dev/sda1 rw",
                "/srv/projects",
                "ext4 /dev/sda1, folder /srv/projects on HOST",
            ),
            (
                "36 25 0:31 / /srv rw - tmpfs tmpfs rw",
                "/srv",
                "tmpfs tmpfs on HOST",
            ),
        ] {
            for host in ["cad1", "cad2"] {
                let expected = expected.replace("HOST", host);
                assert_eq!(of(line, path, host), expected);
            }
        }
        for odd in [
            "",
            "37 1 0:1 / / rw - ext4 x",
            "36 25 0:1 / /",
            "36 1 0:1 / / rw shared:1",
        ] {
            assert_eq!(mounted(odd.as_bytes(), 36), None, "{odd}");
        }
    }

    #[test]
    fn folders_of_this_host_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let share = |path: &Path| {
            std::fs::create_dir(path).unwrap();
            share_of(std::fs::File::open(path).unwrap())
                .unwrap()
                .unwrap()
        };
        let (one, other) = (share(&one), share(&other));
        assert!(one.contains("/one"), "{one}");
        assert_ne!(one, other);
    }
}
