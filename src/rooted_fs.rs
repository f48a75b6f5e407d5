//! File calls on a watched root: the one way in which watch and upload touch a share.
//!
//! Every path is resolved beneath the root without following a symbolic link, so nothing outside the root is ever
//! read. Files are opened without blocking, and only regular files are handed out: a FIFO named `*.dgn` hangs
//! nobody. Every call here may block for as long as the share likes; callers own the thread they do it on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::ledger::Fingerprint;

/// An opened root directory.
#[derive(Debug)]
pub(crate) struct RootDir {
    fd: OwnedFd,
}

/// What distinguishes one root directory from another one at the same path, such as an empty mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of a directory that is open.
    pub(crate) fn of(directory: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test(inode: u64) -> Self {
        Self { device: 0, inode }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// What a path beneath the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Folder,
    /// A link, FIFO, socket or device: nothing that is ever read.
    Other,
}

impl RootDir {
    /// Opens the root. The root itself may be reached over a link; nothing beneath it may.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// The identity of the directory that is open.
    pub(crate) fn identity(&self) -> io::Result<Identity> {
        Identity::of(&self.fd)
    }

    /// Opens a folder for listing; the empty path is the root itself.
    pub(crate) fn folder(&self, rel: &Path) -> io::Result<OwnedFd> {
        self.resolve(rel, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// What `rel` is, without opening it for reading.
    pub(crate) fn kind(&self, rel: &Path) -> io::Result<Kind> {
        let fd = self.resolve(rel, OFlags::PATH)?;
        Ok(kind(&rustix::fs::fstat(fd)?))
    }

    /// Opens a regular file for reading.
    ///
    /// Fails with `InvalidInput` when it is anything else.
    pub(crate) fn file(&self, rel: &Path) -> io::Result<File> {
        let fd = self.resolve(rel, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if kind(&rustix::fs::fstat(&fd)?) != Kind::Regular {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(File::from(fd))
    }

    /// Goes down step by step. `openat2` would do it in one, but systemd's `RestrictSUIDSGID=` forbids it.
    fn resolve(&self, rel: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let mut steps = rel.components().peekable();
        let mut folder: Option<OwnedFd> = None;
        while let Some(step) = steps.next() {
            let Component::Normal(name) = step else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let flags = if steps.peek().is_some() {
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
            } else {
                flags
            };
            let from = folder.as_ref().unwrap_or(&self.fd);
            let step = rustix::fs::openat(from, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            folder = Some(step);
        }
        match folder {
            Some(found) => Ok(found),
            None => Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?),
        }
    }
}

/// Whether an error says that nothing of ours is at the path: a part of it may also have become a file or a link.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let link_in_path = Some(rustix::io::Errno::LOOP.raw_os_error());
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == link_in_path
}

/// The kind of a file system object.
pub(crate) fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::Regular,
        FileType::Directory => Kind::Folder,
        _ => Kind::Other,
    }
}

/// The fingerprint of an open file, asked of the handle itself: listings of network shares may be stale.
pub(crate) fn fingerprint(file: impl AsFd) -> io::Result<Fingerprint> {
    Ok(fingerprint_of(&rustix::fs::fstat(file)?))
}

/// The fingerprint in a stat record.
pub(crate) fn fingerprint_of(stat: &Stat) -> Fingerprint {
    Fingerprint {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// Times beyond what fits (the year 2262) saturate: they only have to differ when the file differs.
fn nanos(seconds: i64, nanos: impl TryInto<i64>) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanos.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_not_followed_anywhere_beneath_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret.dgn"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("folder")).unwrap();
        symlink(
            outside.path().join("secret.dgn"),
            dir.path().join("link.dgn"),
        )
        .unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        assert!(root.file(Path::new("folder/secret.dgn")).is_err());
        assert!(root.file(Path::new("link.dgn")).is_err());
        assert!(root.file(Path::new("../secret.dgn")).is_err());
        assert!(root.file(Path::new("/etc/passwd")).is_err());
        assert!(is_gone(
            &root.file(Path::new("folder/secret.dgn")).unwrap_err()
        ));
        assert!(is_gone(&root.folder(Path::new("folder")).unwrap_err()));
        assert_eq!(root.kind(Path::new("link.dgn")).unwrap(), Kind::Other);
    }

    #[test]
    fn a_fifo_is_refused_at_once_instead_of_hanging_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe.dgn");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        assert_eq!(root.kind(Path::new("pipe.dgn")).unwrap(), Kind::Other);
        assert_eq!(
            root.file(Path::new("pipe.dgn")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_fingerprint_tells_a_rewrite_of_equal_size_with_the_old_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dgn");
        std::fs::write(&path, "one").unwrap();
        let before = fingerprint(File::open(&path).unwrap()).unwrap();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        // Some file systems keep times only as fine as the kernel's tick: write until the change shows.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let after = loop {
            assert!(
                std::time::Instant::now() < deadline,
                "the change never shows"
            );
            std::fs::write(&path, "two").unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
            let now = fingerprint(File::open(&path).unwrap()).unwrap();
            if now.ctime_ns != before.ctime_ns {
                break now;
            }
        };
        assert_eq!((after.size, after.mtime_ns), (before.size, before.mtime_ns));
        assert_ne!(after, before);
    }
}
