//! The bytes of one file, read on a thread of their own and hashed on the way.
//!
//! Pulled, not pushed: the one who sends asks for the next piece when there is room for it, so memory is what the
//! asker holds and nothing more. The handle stays open from the first look to the last, and the fingerprint is
//! compared before and after on that handle. A share that hangs keeps the thread; the asker goes on after a deadline.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use md5::{Digest as _, Md5};
use tokio::sync::oneshot;

use crate::ledger::{Content, Fingerprint};
use crate::share::{self, Root};

/// How long the share may take for one piece. Generous: a slow share is not a dead one.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// An open file. Clones read on from the same place.
#[derive(Debug, Clone)]
pub(super) struct Source {
    commands: mpsc::Sender<Command>,
    fingerprint: Fingerprint,
    failure: Arc<Mutex<Option<Error>>>,
}

/// What was read, from the first byte to the last.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) content: Content,
    pub(super) md5: [u8; 16],
}

/// Why a file cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Error {
    #[error("it is gone")]
    Gone,
    #[error("it changed while it was read")]
    Changed,
    #[error("it cannot be read now: {0}")]
    Unreadable(Arc<io::Error>),
    #[error("the share has not answered for {} s", ANSWER_MAX.as_secs())]
    Hangs,
}

#[derive(Debug)]
enum Command {
    Next {
        len: usize,
        answer: oneshot::Sender<Result<Option<Bytes>, Error>>,
    },
    Rewind {
        answer: oneshot::Sender<Result<(), Error>>,
    },
    Finish {
        answer: oneshot::Sender<Result<Read, Error>>,
    },
}

impl Source {
    /// Opens the file at `path` beneath `root`.
    pub(super) async fn open(root: &Path, path: &Path) -> Result<Self, Error> {
        let (commands, inbox) = mpsc::channel();
        let (opened, answer) = oneshot::channel();
        let (root, path) = (root.to_owned(), path.to_owned());
        std::thread::Builder::new()
            .name("read".to_owned())
            .spawn(move || match Reader::open(root, path) {
                Ok(mut reader) => {
                    if opened.send(Ok(reader.fingerprint)).is_ok() {
                        reader.serve(&inbox);
                    }
                }
                // Nobody waits any more when the deadline has passed.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|error| Error::Unreadable(Arc::new(error)))?;
        let fingerprint = within_deadline(answer).await?;
        Ok(Self {
            commands,
            fingerprint,
            failure: Arc::default(),
        })
    }

    /// The fingerprint as the file was opened.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The next piece, of `len` bytes unless the file ends; None at the end.
    pub(super) async fn next(&self, len: usize) -> Result<Option<Bytes>, Error> {
        self.ask(|answer| Command::Next { len, answer }).await
    }

    /// Goes back to the first byte, and forgets what was hashed.
    pub(super) async fn rewind(&self) -> Result<(), Error> {
        self.ask(|answer| Command::Rewind { answer }).await
    }

    /// What was read, if all of it was and the file is still the one that was opened.
    pub(super) async fn finish(&self) -> Result<Read, Error> {
        self.ask(|answer| Command::Finish { answer }).await
    }

    /// The rest of the file as a stream of pieces. An error in it is kept, so that whoever sends the stream can tell
    /// trouble with the file from trouble with the network.
    pub(super) fn stream(
        &self,
        len: usize,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        futures_util::stream::unfold(self.clone(), move |source| async move {
            match source.next(len).await {
                Ok(Some(bytes)) => Some((Ok(bytes), source)),
                Ok(None) => None,
                Err(error) => {
                    let told = io::Error::other(error.clone());
                    *source
                        .failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Some((Err(told), source))
                }
            }
        })
    }

    /// The error that ended a stream, if one did.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        // A thread that is gone drops the other end, which the wait below reports.
        if self.commands.send(command(sender)).is_err() {
            return Err(Error::Hangs);
        }
        within_deadline(answer).await
    }
}

async fn within_deadline<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err(Error::Hangs),
    }
}

struct Reader {
    root: PathBuf,
    path: PathBuf,
    file: File,
    fingerprint: Fingerprint,
    left: u64,
    blake3: blake3::Hasher,
    md5: Md5,
}

impl Reader {
    fn open(root: PathBuf, path: PathBuf) -> Result<Self, Error> {
        let file = Root::open(&root)
            .and_then(|root| root.file(&path))
            .map_err(Error::from_io)?;
        let fingerprint = share::fingerprint(&file).map_err(Error::from_io)?;
        Ok(Self {
            root,
            path,
            file,
            fingerprint,
            left: fingerprint.size,
            blake3: blake3::Hasher::new(),
            md5: Md5::new(),
        })
    }

    fn serve(&mut self, inbox: &mpsc::Receiver<Command>) {
        for command in inbox {
            // An asker that went away needs no answer.
            match command {
                Command::Next { len, answer } => drop(answer.send(self.next(len))),
                Command::Rewind { answer } => drop(answer.send(self.rewind())),
                Command::Finish { answer } => drop(answer.send(self.finish())),
            }
        }
    }

    /// Reads up to the size that the file had when it was opened, never beyond: what a writer appends is another version.
    fn next(&mut self, len: usize) -> Result<Option<Bytes>, Error> {
        let want = u64::try_from(len).unwrap_or(u64::MAX).min(self.left);
        if want == 0 {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(usize::try_from(want).unwrap_or(len));
        let got = (&mut self.file)
            .take(want)
            .read_to_end(&mut piece)
            .map_err(Error::from_io)?;
        if got as u64 != want {
            return Err(Error::Changed);
        }
        self.left -= want;
        self.blake3.update(&piece);
        self.md5.update(&piece);
        Ok(Some(Bytes::from(piece)))
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.file.rewind().map_err(Error::from_io)?;
        self.left = self.fingerprint.size;
        self.blake3.reset();
        self.md5 = Md5::new();
        Ok(())
    }

    fn finish(&mut self) -> Result<Read, Error> {
        let same = |file: &File| Ok(share::fingerprint(file)? == self.fingerprint);
        let on_handle = same(&self.file).map_err(Error::from_io)?;
        // A file that was replaced by another one is unchanged on our handle; the name tells.
        let at_path = Root::open(&self.root)
            .and_then(|root| same(&root.file(&self.path)?))
            .unwrap_or(false);
        if self.left > 0 || !on_handle || !at_path {
            return Err(Error::Changed);
        }
        Ok(Read {
            content: Content {
                digest: *self.blake3.finalize().as_bytes(),
                bytes: self.fingerprint.size,
            },
            md5: self.md5.clone().finalize().into(),
        })
    }
}

impl Error {
    fn from_io(error: io::Error) -> Self {
        if share::is_gone(&error) {
            Self::Gone
        } else {
            Self::Unreadable(Arc::new(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.dgn"), content).unwrap();
        (dir, PathBuf::from("a.dgn"))
    }

    async fn read_all(source: &Source, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = source.next(len).await.unwrap() {
            assert!(piece.len() <= len);
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn pieces_make_the_whole_file_and_its_hashes_however_they_are_cut() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, path) = file(&bytes);
        for len in [1000, 4096, 399_999, 400_000, 1_000_000] {
            let source = Source::open(dir.path(), &path).await.unwrap();
            assert_eq!(read_all(&source, len).await, bytes);
            let read = source.finish().await.unwrap();
            assert_eq!(read.content.bytes, 400_000);
            assert_eq!(read.content.digest, *blake3::hash(&bytes).as_bytes());
            assert_eq!(read.md5, <[u8; 16]>::from(Md5::digest(&bytes)));
        }
    }

    #[tokio::test]
    async fn a_rewind_begins_the_hashes_anew() {
        let (dir, path) = file(b"0123456789");
        let source = Source::open(dir.path(), &path).await.unwrap();
        source.next(4).await.unwrap();
        source.rewind().await.unwrap();
        assert_eq!(read_all(&source, 3).await, b"0123456789");
        assert_eq!(
            source.finish().await.unwrap().content.digest,
            *blake3::hash(b"0123456789").as_bytes()
        );
    }

    #[tokio::test]
    async fn a_file_that_changed_while_it_was_read_is_told_apart() {
        let changes: [fn(&Path); 4] = [
            |path| {
                File::options()
                    .append(true)
                    .open(path)
                    .unwrap()
                    .write_all(b"more")
                    .unwrap();
            },
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(3)
                    .unwrap();
            },
            |path| {
                std::fs::write(path.with_extension("new"), "0123456789").unwrap();
                std::fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| std::fs::remove_file(path).unwrap(),
        ];
        for change in changes {
            let (dir, path) = file(b"0123456789");
            let source = Source::open(dir.path(), &path).await.unwrap();
            source.next(100).await.unwrap();
            change(&dir.path().join(&path));
            assert!(matches!(source.finish().await, Err(Error::Changed)));
        }
    }

    #[tokio::test]
    async fn a_file_cut_short_ends_a_stream_with_an_error_that_is_kept() {
        use futures_util::StreamExt as _;
        let (dir, path) = file(b"0123456789");
        let source = Source::open(dir.path(), &path).await.unwrap();
        std::fs::write(dir.path().join(&path), "012").unwrap();
        let mut stream = std::pin::pin!(source.stream(4));
        assert!(stream.next().await.unwrap().is_err());
        assert!(matches!(source.failure(), Some(Error::Changed)));
    }

    #[tokio::test]
    async fn a_missing_file_is_gone() {
        let (dir, _) = file(b"x");
        assert!(matches!(
            Source::open(dir.path(), Path::new("b.dgn")).await,
            Err(Error::Gone)
        ));
    }
}
