//! The directory that `state.path` names: whether it can be trusted, and access to what is in it.
//!
//! Anyone who owns the directory, or may write to it, can put links into it that make the service, or root, change and
//! delete files elsewhere. So it is checked before anything in it is touched: it must belong to the user of this
//! process or to root, no one else may write to it, and it must not be a symbolic link. After that only this user can
//! put anything there, and what is in it is opened relative to the open directory, without following links.
//!
//! Longer than most files because its tests make every kind of bad directory.
//!
//! Root is above all checks of the kernel, so a command that root runs becomes the owner of the directory first
//! ([`act_as_owner`]): whatever the owner has prepared there, root does nothing that the owner could not do.
//!
//! Longer than most files because the trust in the directory and the rights of the process belong together.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::permission::{self, user_name};

/// Only its owner may use it.
const PRIVATE: Mode = Mode::RWXU;

/// The group `nogroup` on every Linux: without rights of its own.
const NO_GROUP: u32 = 65_534;

/// With less than this, in bytes, the ledger cannot be written: its write-ahead log alone grows to this size.
const FULL: u64 = 4 * 1024 * 1024;

/// Why the directory is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is a symbolic link.
    #[error("the state directory {path:?} is a symbolic link")]
    Link {
        /// The directory.
        path: PathBuf,
        /// Where the link leads to.
        target: Option<PathBuf>,
    },
    /// It belongs to another user.
    #[error("the state directory {path:?} belongs to the user {owner}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The name of its owner, or the number.
        owner: String,
    },
    /// This user may not use it.
    #[error("no permission to use {path:?}")]
    Denied {
        /// The path that cannot be used.
        path: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// Others may write to it.
    #[error("other users can write to the state directory {path:?} (mode {mode:o})")]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file in it is something else.
    #[error("{path:?} is {what}, not a regular file")]
    Entry {
        /// The path of the file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The operating system refused.
    #[error("cannot use {path:?}")]
    Io {
        /// The path that cannot be used.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl Error {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Link { target, .. } => target.as_ref().map_or_else(
                || "set state.path to the directory itself".to_owned(),
                |target| {
                    format!(
                        "set state.path to the directory itself: {}",
                        target.display()
                    )
                },
            ),
            Self::Foreign { owner, .. } => format!(
                "run this command as that user, for example with `sudo -u {owner}`, or choose another state.path"
            ),
            Self::Denied { advice, .. } => {
                format!("{advice}; the service itself needs a state.path of its user")
            }
            Self::Writable { path, .. } => format!(
                "check what is in it, then run `chmod go-w {}`",
                path.display()
            ),
            Self::Entry { path, .. } => format!(
                "itwin-syncd never creates it: find out what did, then remove {}",
                path.display()
            ),
            Self::Io { path, .. } => format!(
                "give the service's user write access to {}, in its own directory",
                path.display()
            ),
        }
    }
}

/// A state directory that was checked. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    handle: Arc<OwnedFd>,
}

impl StateDirectory {
    /// Makes the directory if it is missing, with mode 0700 whatever the umask is. It is not checked yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make(path: &Path) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let path = without_slash(path);
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(io)?;
        }
        match rustix::fs::mkdir(&path, PRIVATE) {
            // The umask can only have taken rights away from the owner.
            Ok(()) => rustix::fs::chmod(&path, PRIVATE).map_err(|error| io(error.into())),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(io(error.into())),
        }
    }

    /// Opens the directory and checks it.
    ///
    /// # Errors
    /// When it is missing (`Io` with `NotFound`) or cannot be trusted.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (handle, found) = open(path)?;
        let (owner, mode) = (found.st_uid, found.st_mode & 0o7777);
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(Error::Foreign {
                path: path.to_owned(),
                owner: user_name(owner),
            });
        }
        if mode & 0o022 != 0 {
            return Err(Error::Writable {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(Self {
            path: without_slash(path),
            handle: Arc::new(handle),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it, for messages and for those who cannot open it relative to the directory.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file in it with these flags, which must not be followed elsewhere; a new one is for its owner only.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be opened.
    pub(crate) fn file(&self, name: &str, flags: OFlags) -> Result<File, Error> {
        // Not blocking: a pipe without a writer would never be opened.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR);
        let file = match opened {
            Ok(file) => File::from(file),
            Err(error) => {
                self.check_file(name)?;
                return Err(self.io(name, error));
            }
        };
        let found = rustix::fs::fstat(&file).map_err(|error| self.io(name, error))?;
        self.check_kind(name, found.st_mode)?;
        Ok(file)
    }

    /// Checks that this user may read a file.
    ///
    /// # Errors
    /// When the user may not. The file is not opened: closing it would release the locks that SQLite has on it.
    pub(crate) fn check_readable(&self, name: &str) -> Result<(), Error> {
        rustix::fs::accessat(&self.handle, name, Access::READ_OK, AtFlags::EACCESS)
            .map_err(|error| self.io(name, error))
    }

    /// Checks a file that another process opens by its path; whether it is there.
    ///
    /// # Errors
    /// When it is a link or no regular file.
    pub(crate) fn check_file(&self, name: &str) -> Result<bool, Error> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => self.check_kind(name, found.st_mode).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.io(name, error)),
        }
    }

    /// Removes a socket that a process has left behind. Anything else of that name stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove_socket(&self, name: &str) -> io::Result<()> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Socket => {
                Ok(rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())?)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file. Whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, Error> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.io(name, error)),
        }
    }

    /// Gives a file another name; one that has it already is replaced.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        rustix::fs::renameat(&self.handle, from, &self.handle, to)
            .map_err(|error| self.io(from, error))
    }

    /// Returns when new names in the directory survive a power cut.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::fsync(&self.handle).map_err(|error| Error::Io {
            path: self.path.clone(),
            source: error.into(),
        })
    }

    /// The permission bits of what has this name.
    ///
    /// # Errors
    /// When there is nothing of this name.
    pub(crate) fn mode_of(&self, name: &str) -> io::Result<Mode> {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Mode::from_raw_mode(found.st_mode))
    }

    /// Sets the permission bits of what this process has made.
    ///
    /// # Errors
    /// When they cannot be set.
    pub(crate) fn set_mode(&self, name: &str, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::chmodat(
            &self.handle,
            name,
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Moves files into a new folder in the directory; those that are missing are left out.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub(crate) fn move_into(&self, folder: &str, names: &[&str]) -> Result<PathBuf, Error> {
        match rustix::fs::mkdirat(&self.handle, folder, PRIVATE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.io(folder, error)),
        }
        let inner =
            open_folder(&self.handle, Path::new(folder)).map_err(|error| self.io(folder, error))?;
        for name in names {
            match rustix::fs::renameat(&self.handle, *name, &inner, *name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.io(name, error)),
            }
        }
        Ok(self.path_of(folder))
    }

    fn check_kind(&self, name: &str, mode: u32) -> Result<(), Error> {
        let what = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => return Ok(()),
            FileType::Symlink => "a symbolic link",
            FileType::Directory => "a folder",
            _ => "a device, pipe or socket",
        };
        Err(Error::Entry {
            path: self.path_of(name),
            what,
        })
    }

    fn io(&self, name: &str, error: Errno) -> Error {
        refusal(&self.path_of(name), error)
    }
}

impl AsFd for StateDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Opens a folder relative to another one; a link is an error.
///
/// # Errors
/// When it is missing, a link or no folder.
pub(crate) fn open_folder(within: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(within, path, flags, Mode::empty())
}

/// Makes this process act as the owner of the state directory if root runs it; for all its threads, and for good.
///
/// Nothing changes for any other user, for a directory of root's, or where there is none.
///
/// # Errors
/// When the directory is a link, or the user cannot be changed.
pub(crate) fn act_as_owner(path: &Path) -> Result<(), Error> {
    let Some(owner) = other_owner(path)? else {
        return Ok(());
    };
    // Not the directory's group: its owner may have given it one that it is not a member of.
    let group = match User::from_uid(owner) {
        Ok(Some(user)) => user.gid,
        Ok(None) | Err(_) => Gid::from_raw(NO_GROUP),
    };
    nix::unistd::setgroups(&[])
        .and_then(|()| nix::unistd::setresgid(group, group, group))
        .and_then(|()| nix::unistd::setresuid(owner, owner, owner))
        .map_err(|error| Error::Io {
            path: path.to_owned(),
            source: error.into(),
        })
}

/// Makes this process act as a user with its groups and further ones, for all its threads and for good.
///
/// # Errors
/// When there is no such user or group, or the user cannot be changed: this process is not root's.
pub(crate) fn act_as(user: &str, further_groups: &[String]) -> io::Result<()> {
    let found = self::user(user)?;
    let name = CString::new(found.name.as_str())?;
    let mut groups = nix::unistd::getgrouplist(&name, found.gid)?;
    for name in further_groups {
        let group = match name.parse() {
            Ok(id) => Some(Gid::from_raw(id)),
            Err(_) => Group::from_name(name)?.map(|group| group.gid),
        };
        groups.push(group.ok_or_else(|| io::Error::other(format!("no group {name:?}")))?);
    }
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setresgid(found.gid, found.gid, found.gid)?;
    nix::unistd::setresuid(found.uid, found.uid, found.uid)?;
    Ok(())
}

/// The user with this name or number.
///
/// # Errors
/// When there is none, or it cannot be found out.
pub(crate) fn user(name: &str) -> io::Result<User> {
    let found = match name.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id))?,
        Err(_) => User::from_name(name)?,
    };
    found.ok_or_else(|| io::Error::other(format!("no user {name:?}")))
}

/// How the service would get its state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usable {
    /// It is there, and this user can write to it.
    Writable,
    /// It is missing, and this user can make it.
    CanBeMade,
    /// It is missing, and only root can make it, as systemd does for the service.
    MadeByOthers,
}

/// Whether this user can use the state directory. Changes nothing.
///
/// # Errors
/// When it is there and cannot be used.
pub(crate) fn usable(path: &Path) -> Result<Usable, Error> {
    let may_write = |path: &Path| {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(rustix::fs::CWD, path, access, AtFlags::EACCESS)
    };
    match StateDirectory::open(path) {
        Ok(_) => may_write(path)
            .map(|()| Usable::Writable)
            .map_err(|error| refusal(path, error)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let above = path.ancestors().find(|above| above.is_dir());
            Ok(match above.map(may_write) {
                Some(Ok(())) => Usable::CanBeMade,
                Some(Err(_)) | None => Usable::MadeByOthers,
            })
        }
        Err(error) => Err(error),
    }
}

/// The user that root would act as for a state directory: its owner.
///
/// # Errors
/// When the directory is a link.
pub(crate) fn other_owner(path: &Path) -> Result<Option<Uid>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match open(path) {
        Ok((_, found)) => Ok((found.st_uid != 0).then(|| Uid::from_raw(found.st_uid))),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many bytes are left for the ledger, if that is too little for it to be written.
pub(crate) fn full(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    (left < FULL).then_some(left)
}

fn open(path: &Path) -> Result<(OwnedFd, rustix::fs::Stat), Error> {
    // With a slash at its end a link would be followed.
    let short = without_slash(path);
    let opened = open_folder(rustix::fs::CWD, &short)
        .and_then(|handle| Ok((rustix::fs::fstat(&handle)?, handle)));
    match opened {
        Ok((found, handle)) => Ok((handle, found)),
        Err(_) if short.is_symlink() => Err(Error::Link {
            path: path.to_owned(),
            target: short.canonicalize().ok(),
        }),
        Err(error) => Err(refusal(path, error)),
    }
}

fn refusal(path: &Path, error: Errno) -> Error {
    if error == Errno::ACCESS {
        return Error::Denied {
            path: path.to_owned(),
            advice: permission::advice(path),
        };
    }
    Error::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

fn without_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn messages() {
        let path = || PathBuf::from("/var/lib/itwin-syncd");
        insta::assert_snapshot!(
            crate::text::render_variants!(Error, |error| Some(error.hint()), {
                Error::Link { .. } => Error::Link { path: path(), target: None },
                Error::Link { .. } => Error::Link { path: path(), target: Some("/srv/state".into()) },
                Error::Foreign { .. } => Error::Foreign { path: path(), owner: "nobody".to_owned() },
                Error::Denied { .. } => Error::Denied {
                    path: path(),
                    advice: "run the command with sudo".to_owned(),
                },
                Error::Writable { .. } => Error::Writable { path: path(), mode: 0o777 },
                Error::Entry { .. } => Error::Entry {
                    path: path().join("lock"),
                    what: "a symbolic link",
                },
                Error::Io { .. } => Error::Io {
                    path: path(),
                    source: io::ErrorKind::PermissionDenied.into(),
                },
            })
        );
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_state_directory_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("above/state");
        StateDirectory::make(&path).unwrap();
        StateDirectory::make(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_or_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        StateDirectory::make(&path).unwrap();
        for bits in [0o777, 0o1777, 0o770, 0o702] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            let error = StateDirectory::open(&path).unwrap_err();
            assert!(
                matches!(&error, Error::Writable { mode, .. } if *mode == bits),
                "{error:?}"
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        StateDirectory::open(&path).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        for spelled in [link.clone(), link.join("")] {
            let error = StateDirectory::open(&spelled).unwrap_err();
            assert!(matches!(error, Error::Link { .. }), "{error:?}");
            assert!(error.hint().contains("/state"), "{}", error.hint());
        }
    }

    #[test]
    fn a_file_in_it_that_is_a_link_a_pipe_or_a_folder_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("state");
        StateDirectory::make(&path).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        symlink(&victim, path.join("link")).unwrap();
        symlink(dir.path().join("missing"), path.join("dangling")).unwrap();
        std::fs::create_dir(path.join("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("pipe"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            let opened = state.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC);
            assert!(
                matches!(opened, Err(Error::Entry { .. })),
                "{name}: {opened:?}"
            );
            assert!(state.check_file(name).is_err(), "{name}");
        }
        assert!(!dir.path().join("missing").exists());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        state.file("new", OFlags::RDWR | OFlags::CREATE).unwrap();
        assert_eq!(mode(&path.join("new")), 0o600);
        assert!(state.check_file("new").unwrap());
        assert!(!state.check_file("other").unwrap());
    }
}
