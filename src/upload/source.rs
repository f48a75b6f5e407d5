//! The bytes of one file, read on a thread of their own and hashed on the way.
//!
//! Pulled, not pushed: the one who sends asks for the next block when there is room for it, and brings the memory for it.
//! The handle stays open from the first look to the last, and the fingerprint is
//! compared before and after on that handle. A share that hangs keeps the thread; the asker goes on after a deadline.
//! Nobody waits for the bytes of a file that is only hashed, so that is done on several threads.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use super::hash::{self, Pieces};
use super::pool::Buffer;
use crate::ledger::{Content, Fingerprint};
use crate::share::{self, Root};

/// How long the share may take for one piece. Generous: a slow share is not a dead one.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// An open file.
#[derive(Debug)]
pub(super) struct Source {
    commands: mpsc::Sender<Command>,
    fingerprint: Fingerprint,
}

/// The next bytes of a file, and their checksum as Azure takes it (CRC-64/NVME).
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Buffer,
    pub(super) crc64: u64,
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
        buffer: Buffer,
        answer: oneshot::Sender<Result<Block, Error>>,
    },
    Skim {
        answer: oneshot::Sender<Result<u64, Error>>,
    },
    Rewind {
        answer: oneshot::Sender<Result<(), Error>>,
    },
    Finish {
        answer: oneshot::Sender<Result<Content, Error>>,
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
        })
    }

    /// The fingerprint as the file was opened.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Fills `buffer` with the next bytes. There must be as many left.
    pub(super) async fn next(&self, buffer: Buffer) -> Result<Block, Error> {
        self.ask(|answer| Command::Next { buffer, answer }).await
    }

    /// Tells what the whole file holds, without giving it out.
    pub(super) async fn hash(&self) -> Result<Content, Error> {
        self.rewind().await?;
        while self.ask(|answer| Command::Skim { answer }).await? > 0 {}
        self.finish().await
    }

    /// Goes back to the first byte, and forgets what was hashed.
    pub(super) async fn rewind(&self) -> Result<(), Error> {
        self.ask(|answer| Command::Rewind { answer }).await
    }

    /// What was read, if all of it was and the file is still the one that was opened.
    pub(super) async fn finish(&self) -> Result<Content, Error> {
        self.ask(|answer| Command::Finish { answer }).await
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
    /// What was hashed in their stead when nobody wanted the bytes.
    pieces: Pieces,
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
            pieces: Pieces::default(),
        })
    }

    fn serve(&mut self, inbox: &mpsc::Receiver<Command>) {
        for command in inbox {
            // An asker that went away needs no answer.
            match command {
                Command::Next { buffer, answer } => drop(answer.send(self.next(buffer))),
                Command::Skim { answer } => drop(answer.send(self.skim())),
                Command::Rewind { answer } => drop(answer.send(self.rewind())),
                Command::Finish { answer } => drop(answer.send(self.finish())),
            }
        }
    }

    /// Reads up to the size that the file had when it was opened, never beyond: what a writer appends is another version.
    fn next(&mut self, mut buffer: Buffer) -> Result<Block, Error> {
        let mut crc64 = crc64fast_nvme::Digest::new();
        for slice in buffer.as_mut().chunks_mut(hash::SLICE) {
            self.read(slice)?;
            crc64.write(slice);
        }
        Ok(Block {
            bytes: buffer,
            crc64: crc64.sum64(),
        })
    }

    /// Hashes some of what is left, and tells how much is left then.
    fn skim(&mut self) -> Result<u64, Error> {
        let at = self.fingerprint.size - self.left;
        self.left -= self
            .pieces
            .add(&self.file, at, self.left)
            .map_err(Error::from_read)?;
        Ok(self.left)
    }

    fn read(&mut self, slice: &mut [u8]) -> Result<(), Error> {
        let len = slice.len() as u64;
        if len > self.left {
            return Err(Error::Changed);
        }
        self.file.read_exact(slice).map_err(Error::from_read)?;
        self.left -= len;
        self.blake3.update(slice);
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.file.rewind().map_err(Error::from_io)?;
        self.left = self.fingerprint.size;
        self.blake3.reset();
        self.pieces = Pieces::default();
        Ok(())
    }

    fn finish(&mut self) -> Result<Content, Error> {
        let same = |file: &File| Ok(share::fingerprint(file)? == self.fingerprint);
        let on_handle = same(&self.file).map_err(Error::from_io)?;
        // A file that was replaced by another one is unchanged on our handle; the name tells.
        let at_path = Root::open(&self.root)
            .and_then(|root| same(&root.file(&self.path)?))
            .unwrap_or(false);
        if self.left > 0 || !on_handle || !at_path {
            return Err(Error::Changed);
        }
        let digest = self.pieces.finish();
        Ok(Content {
            digest: *digest.unwrap_or_else(|| self.blake3.finalize()).as_bytes(),
            bytes: self.fingerprint.size,
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

    /// A file that ends before its size has changed.
    fn from_read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Changed,
            _ => Self::from_io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::upload::pool::Pool;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.dgn"), content).unwrap();
        (dir, PathBuf::from("a.dgn"))
    }

    /// Reads the rest, in blocks of `len` bytes.
    async fn read_all(source: &Source, len: usize, mut left: usize) -> Vec<u8> {
        let pool = Pool::new(4_000_000, 100_000);
        let mut all = Vec::new();
        while left > 0 {
            let buffer = pool.take(len.min(left)).await;
            let block = source.next(buffer).await.unwrap();
            let bytes = block.bytes.as_ref();
            let mut crc64 = crc64fast_nvme::Digest::new();
            crc64.write(bytes);
            assert_eq!(block.crc64, crc64.sum64());
            left -= bytes.len();
            all.extend_from_slice(bytes);
        }
        all
    }

    #[tokio::test]
    async fn blocks_make_the_whole_file_and_its_hash_however_they_are_cut() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, path) = file(&bytes);
        for len in [1000, 4096, 399_999, 400_000] {
            let source = Source::open(dir.path(), &path).await.unwrap();
            assert_eq!(read_all(&source, len, bytes.len()).await, bytes);
            let content = source.finish().await.unwrap();
            assert_eq!(content.bytes, 400_000);
            assert_eq!(content.digest, *blake3::hash(&bytes).as_bytes());
            assert_eq!(source.hash().await.unwrap(), content);
        }
    }

    #[tokio::test]
    async fn a_rewind_begins_the_hash_anew() {
        let (dir, path) = file(b"0123456789");
        let source = Source::open(dir.path(), &path).await.unwrap();
        read_all(&source, 4, 4).await;
        source.rewind().await.unwrap();
        assert_eq!(read_all(&source, 3, 10).await, b"0123456789");
        assert_eq!(
            source.finish().await.unwrap().digest,
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
            read_all(&source, 100, 10).await;
            change(&dir.path().join(&path));
            assert!(matches!(source.finish().await, Err(Error::Changed)));
        }
    }

    #[tokio::test]
    async fn a_file_cut_short_has_changed() {
        let (dir, path) = file(b"0123456789");
        let source = Source::open(dir.path(), &path).await.unwrap();
        std::fs::write(dir.path().join(&path), "012").unwrap();
        let buffer = Pool::new(100, 100).take(10).await;
        assert!(matches!(source.next(buffer).await, Err(Error::Changed)));
        assert!(matches!(source.hash().await, Err(Error::Changed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_does_not_answer_is_waited_for_until_the_deadline_only() {
        let (_thread, answer) = oneshot::channel::<Result<(), Error>>();
        let waited = tokio::time::timeout(2 * ANSWER_MAX, within_deadline(answer)).await;
        assert!(matches!(waited, Ok(Err(Error::Hangs))), "{waited:?}");
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
