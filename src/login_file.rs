//! The sign-in of a user, in the file `login` of the state directory: the refresh token, which application it belongs
//! to, and when the user signed in.
//!
//! A refresh token works once: who uses it gets the next one. So the daemon and commands take turns ([`Locked`]), and
//! the next token is on disk before anything is done with what it came with. The file is for its owner only, is
//! replaced as a whole, and what replaces it has its space on disk before the token is used. The token never reaches
//! text.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::failpoint::failpoint;
use crate::secret::Secret;
use crate::shell;
use crate::state_directory::{self, StateDirectory};

/// The name of the file.
const NAME: &str = "login";

/// What replaces it.
const NEXT: &str = "login.next";

/// Held by who uses the refresh token. Never removed.
const LOCK: &str = "login.lock";

/// More than any sign-in needs, in bytes.
const SIZE_MAX: usize = 64 * 1024;

/// The longest refresh token, in bytes.
pub(crate) const TOKEN_MAX: usize = 16 * 1024;

/// The form of the file.
const VERSION: u32 = 1;

/// A user who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The identity provider.
    pub issuer: String,
    /// The application.
    pub client_id: String,
    /// Works once.
    pub refresh_token: Secret,
    /// When the user signed in.
    pub signed_in_at: Timestamp,
    /// Name and e-mail address, if the platform has told them.
    pub user: Option<String>,
    /// When the user last allowed connections to act on their behalf.
    pub authorized_at: Option<Timestamp>,
}

/// [`Login`] in the file.
#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    issuer: String,
    client_id: String,
    refresh_token: String,
    signed_in_at: Timestamp,
    user: Option<String>,
    authorized_at: Option<Timestamp>,
}

/// Why the sign-in cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory or a file in it.
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    /// Others can read it.
    #[error("other users can read the sign-in {path:?} (mode {mode:o})")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its content is something else.
    #[error("the sign-in {path:?} is damaged, or was written by a newer version")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Directory(error) => error.hint(),
            Self::Readable { path, .. } => format!(
                "if nobody else has read it, run `chmod 600 {}`; else run `{}` and `{}`",
                shell::word(&path.to_string_lossy()),
                shell::command(["logout"]),
                shell::command(["login"])
            ),
            Self::Damaged { .. } => format!("run `{}`", shell::command(["login"])),
        }
    }
}

/// Tells apart what was in the file at different times.
pub type Stamp = (u64, i64, i64, u64);

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    state: PathBuf,
}

/// The file while no other process uses it. Cheap to clone; the last one ends the turn.
#[derive(Debug, Clone)]
pub struct Locked {
    directory: StateDirectory,
    _lock: Arc<File>,
}

impl LoginFile {
    /// The file in this state directory, which need not exist.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }

    /// What is in the file; None if nobody is signed in.
    ///
    /// # Errors
    /// When it cannot be read or trusted.
    pub fn read(&self) -> Result<Option<Login>, Error> {
        match StateDirectory::open(&self.state) {
            Ok(directory) => read(&directory),
            Err(state_directory::Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Changes whenever the content changes; None if there is no file.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::symlink_metadata(self.state.join(NAME)).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    }

    /// Takes the turn, and makes the state directory if it is missing. None: another process has it.
    ///
    /// # Errors
    /// When the directory or the lock cannot be used.
    pub fn try_lock(&self) -> Result<Option<Locked>, Error> {
        StateDirectory::make(&self.state)?;
        let directory = StateDirectory::open(&self.state)?;
        let lock = directory.file(LOCK, OFlags::RDWR | OFlags::CREATE)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Locked {
                directory,
                _lock: Arc::new(lock),
            })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(io_error(&directory, LOCK, error.into())),
        }
    }
}

impl Locked {
    /// As [`LoginFile::read`].
    ///
    /// # Errors
    /// When it cannot be read or trusted.
    pub fn read(&self) -> Result<Option<Login>, Error> {
        read(&self.directory)
    }

    /// Makes sure that [`Reserved::replace`] has space on disk. Before a refresh token is used: the next one would be
    /// lost.
    ///
    /// # Errors
    /// When there is no space.
    pub fn reserve(&self) -> Result<Reserved, Error> {
        self.directory.remove(NEXT)?;
        let file = self
            .directory
            .file(NEXT, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        let reserve = || {
            file.write_all_at(&vec![b' '; SIZE_MAX], 0)?;
            file.sync_all()
        };
        reserve().map_err(|error| io_error(&self.directory, NEXT, error))?;
        Ok(Reserved {
            locked: self.clone(),
            file,
        })
    }

    /// Removes the file. Whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<bool, Error> {
        self.directory.remove(NEXT)?;
        let removed = self.directory.remove(NAME)?;
        self.directory.sync()?;
        Ok(removed)
    }
}

/// Space on disk for the next content of the file.
#[derive(Debug)]
pub struct Reserved {
    locked: Locked,
    file: File,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // After a replacement there is nothing; what cannot be removed is removed by the next one.
        self.locked.directory.remove(NEXT).ok();
    }
}

impl Reserved {
    /// Replaces the file. After that a crash or a power cut changes nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(mut self, login: &Login) -> Result<(), Error> {
        let directory = &self.locked.directory;
        let content = Content {
            version: VERSION,
            issuer: login.issuer.clone(),
            client_id: login.client_id.clone(),
            refresh_token: login.refresh_token.expose().to_owned(),
            signed_in_at: login.signed_in_at,
            user: login.user.clone(),
            authorized_at: login.authorized_at,
        };
        let mut write = || {
            let mut text = serde_json::to_vec_pretty(&content)?;
            text.push(b'\n');
            self.file.rewind()?;
            self.file.write_all(&text)?;
            self.file.set_len(text.len() as u64)?;
            self.file.sync_all()
        };
        write().map_err(|error| io_error(directory, NEXT, error))?;
        failpoint("sign-in written");
        directory.rename(NEXT, NAME)?;
        directory.sync()?;
        Ok(())
    }
}

fn io_error(directory: &StateDirectory, name: &str, source: io::Error) -> Error {
    Error::Directory(state_directory::Error::Io {
        path: directory.path_of(name),
        source,
    })
}

fn read(directory: &StateDirectory) -> Result<Option<Login>, Error> {
    if !directory.check_file(NAME)? {
        return Ok(None);
    }
    let file = directory.file(NAME, OFlags::RDONLY)?;
    let path = || directory.path_of(NAME);
    let unreadable = |error| io_error(directory, NAME, error);
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Readable { path: path(), mode });
    }
    let mut text = Vec::new();
    file.take(SIZE_MAX as u64)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    // Not the parser's message: it can quote the token.
    let content = serde_json::from_slice::<Content>(&text).ok();
    let content =
        content.filter(|content| content.version == VERSION && !content.refresh_token.is_empty());
    let content = content.ok_or_else(|| Error::Damaged { path: path() })?;
    Ok(Some(Login {
        issuer: content.issuer,
        client_id: content.client_id,
        refresh_token: Secret::new(content.refresh_token),
        signed_in_at: content.signed_in_at,
        user: content.user,
        authorized_at: content.authorized_at,
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn login(token: &str) -> Login {
        Login {
            issuer: "https://ims.bentley.com/".to_owned(),
            client_id: "native-x".to_owned(),
            refresh_token: Secret::new(token),
            signed_in_at: Timestamp::UNIX_EPOCH,
            user: Some("Ada (ada@example.com)".to_owned()),
            authorized_at: None,
        }
    }

    fn store(file: &LoginFile, login: &Login) {
        let locked = file.try_lock().unwrap().unwrap();
        locked.reserve().unwrap().replace(login).unwrap();
    }

    #[test]
    fn messages() {
        let path = || PathBuf::from("/var/lib/itwin-syncd/login");
        insta::assert_snapshot!(
            crate::text::render_variants!(Error, |error| Some(error.hint()), {
                Error::Directory(_) => Error::Directory(state_directory::Error::Io {
                    path: path(),
                    source: io::ErrorKind::StorageFull.into(),
                }),
                Error::Readable { .. } => Error::Readable { path: path(), mode: 0o640 },
                Error::Damaged { .. } => Error::Damaged { path: path() },
            })
        );
    }

    #[test]
    fn it_is_for_its_owner_only_and_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let file = LoginFile::new(&state);
        assert_eq!(file.read().unwrap(), None);
        assert_eq!(file.stamp(), None);
        let mut stamps = Vec::new();
        for token in ["tiger-1-in-the-tank", "tiger-2-in-the-tank"] {
            store(&file, &login(token));
            assert_eq!(file.read().unwrap(), Some(login(token)));
            let mode = state.join(NAME).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            stamps.push(file.stamp());
            assert!(!state.join(NEXT).exists());
        }
        assert_ne!(stamps[0], stamps[1]);
        let locked = file.try_lock().unwrap().unwrap();
        assert!(locked.remove().unwrap());
        assert!(!locked.remove().unwrap());
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn one_process_at_a_time_has_the_turn() {
        let dir = tempfile::tempdir().unwrap();
        let file = LoginFile::new(dir.path());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let first = file.try_lock().unwrap();
        assert!(file.try_lock().unwrap().is_none());
        drop(first);
        assert!(file.try_lock().unwrap().is_some());
    }

    #[test]
    fn one_that_others_can_read_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let file = LoginFile::new(&state);
        store(&file, &login("tiger-in-the-tank"));
        let path = state.join(NAME);
        for bits in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            let error = file.read().unwrap_err();
            assert!(
                matches!(&error, Error::Readable { mode, .. } if *mode == bits),
                "{error:?}"
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let newer = whole.replace("\"version\": 1", "\"version\": 2");
        for text in ["", "{}", whole.get(..whole.len() / 2).unwrap(), &newer] {
            std::fs::write(&path, text).unwrap();
            let error = file.read().unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
            assert!(!format!("{error:?} {error}").contains("tiger"), "{error:?}");
        }
        // What a crash has left behind does not stop the next sign-in.
        std::fs::write(state.join(NEXT), "half").unwrap();
        store(&file, &login("tiger-in-the-tank"));
        assert!(file.read().unwrap().is_some());
    }
}
