//! Reads one file on a thread that does nothing else meanwhile, and hashes it on the way.
//!
//! The sender pulls: it asks for the next block when it has memory for it. The handle stays open for the whole upload,
//! and the fingerprint is compared before and after on that handle. A file that is only hashed is read by several
//! threads. A small file is read as a whole when it is opened, because each request to the thread costs more than that.
//!
//! A share may answer late or never. The thread reads into a small buffer of its own, so the sender can take the large
//! one back at any time: it does so, and gives its upload slot back, when nothing was read for [`STALL`]. When nothing
//! was read for [`ANSWER_MAX`] it gives up. The thread stays behind, and `slots` counts it.
//!
//! Longer than most files because both ends of the conversation with the thread are here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::hash::{self, TreeHasher};
use super::pool::{Buffer, Pool};
use super::slots::{STALL, Slot, ThreadKey};
use crate::failpoint::share_deadline;
use crate::ledger::{Content, Fingerprint};
use crate::rooted_fs::{self, RootDir};

/// How long the share may take for the next few bytes. Generous: a slow share still works.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A file up to this size, in bytes, is read when it is opened.
const SMALL: u64 = hash::SLICE as u64;

/// An open file.
#[derive(Debug)]
pub(super) struct Source<'s> {
    fingerprint: Fingerprint,
    state: State<'s>,
}

#[derive(Debug)]
enum State<'s> {
    /// All of it, or why it could not be read. It is closed.
    Read {
        slot: &'s Slot,
        whole: Result<Whole, Error>,
        /// How much of it was taken.
        taken: AtomicUsize,
    },
    Open(OpenFile<'s>),
}

/// A file whose thread waits for commands.
#[derive(Debug)]
struct OpenFile<'s> {
    commands: mpsc::Sender<Command>,
    thread: ReadThread<'s>,
}

/// What a small file held.
#[derive(Debug)]
struct Whole {
    bytes: Vec<u8>,
    content: Content,
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
    #[error("it was deleted")]
    Gone,
    #[error("it changed while it was being read")]
    Changed,
    #[error("it cannot be read: {0}")]
    Unreadable(Arc<io::Error>),
    #[error("the share has not answered for {} s", ANSWER_MAX.as_secs())]
    Hangs,
    #[error("the share has not answered earlier reads")]
    Stuck,
}

/// What a command came to, or that the buffer was taken back meanwhile; then the command was not done.
type Answer<T> = Result<Option<T>, Error>;

#[derive(Debug)]
enum Command {
    Next {
        buffer: Arc<Mutex<Option<Buffer>>>,
        len: usize,
        answer: oneshot::Sender<Answer<Block>>,
    },
    HashOnly {
        answer: oneshot::Sender<Answer<u64>>,
    },
    Rewind {
        answer: oneshot::Sender<Answer<()>>,
    },
    Finish {
        answer: oneshot::Sender<Answer<Content>>,
    },
}

/// A buffer that the thread fills. It goes back to the pool with this, whatever the thread does.
struct Loan(Arc<Mutex<Option<Buffer>>>);

impl Loan {
    fn take_back(&self) {
        let buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(buffer);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The thread of a file as the asker knows it.
#[derive(Debug)]
struct ReadThread<'s> {
    slot: &'s Slot,
    path: PathBuf,
    key: ThreadKey,
    /// Rises whenever the share has answered.
    progress: Arc<AtomicU64>,
}

/// Which of these files beneath `root` are not there, for the upload that has `slot`: one request for all of them, and
/// none is read.
pub(super) async fn gone(
    slot: &Slot,
    root: &Path,
    paths: Vec<PathBuf>,
) -> Result<Vec<bool>, Error> {
    let Some(first) = paths.first() else {
        return Ok(Vec::new());
    };
    let root = root.to_owned();
    let look = ReadThread::run(slot, &first.clone(), move |progress, answer| {
        let root = RootDir::open(&root);
        let is_gone = |path: &PathBuf| {
            progress.fetch_add(1, Ordering::Relaxed);
            let opened = match &root {
                Ok(root) => root.file(path).map(drop),
                Err(error) => return rooted_fs::is_gone(error),
            };
            opened.is_err_and(|error| rooted_fs::is_gone(&error))
        };
        let gone = paths.iter().map(is_gone).collect();
        drop(answer.send(Ok(Some(gone))));
    });
    let (thread, answer) = look?;
    thread.await_answer(answer, None).await?.ok_or(Error::Hangs)
}

impl<'s> Source<'s> {
    /// Opens the file at `path` beneath `root`, for the upload that has `slot`.
    pub(super) async fn open(slot: &'s Slot, root: &Path, path: &Path) -> Result<Self, Error> {
        let (commands, inbox) = mpsc::channel();
        let (root, rel) = (root.to_owned(), path.to_owned());
        let opening = ReadThread::run(slot, path, move |progress, opened| {
            match Reader::open(root, rel, progress) {
                Ok(mut reader) if reader.fingerprint.size <= SMALL => {
                    let (fingerprint, whole) = (reader.fingerprint, reader.whole());
                    drop(reader);
                    drop(opened.send(Ok(Some((fingerprint, Some(whole))))));
                }
                Ok(mut reader) => {
                    if opened.send(Ok(Some((reader.fingerprint, None)))).is_ok() {
                        reader.serve(&inbox);
                    }
                }
                // After the deadline, the receiver is gone.
                Err(error) => drop(opened.send(Err(error))),
            }
        });
        let (thread, answer) = opening?;
        let opened = thread.await_answer(answer, None).await?;
        let (fingerprint, whole) = opened.ok_or(Error::Hangs)?;
        let state = match whole {
            Some(whole) => State::Read {
                slot,
                whole,
                taken: AtomicUsize::new(0),
            },
            None => State::Open(OpenFile { commands, thread }),
        };
        Ok(Self { fingerprint, state })
    }

    /// The fingerprint as the file was opened.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The next `len` bytes, in a buffer from `pool`. There must be as many left.
    pub(super) async fn next(&self, pool: &Pool, len: usize) -> Result<Block, Error> {
        let take = async |slot: &Slot| {
            let watch = (!slot.is_alone()).then_some(slot.watch());
            pool.take(watch, len).await
        };
        let file = match &self.state {
            State::Open(file) => file,
            State::Read { slot, whole, taken } => {
                let whole = whole.as_ref().map_err(Clone::clone)?;
                let at = taken.load(Ordering::Relaxed);
                let piece = whole.bytes.get(at..at.saturating_add(len));
                let piece = piece.ok_or(Error::Changed)?;
                let mut bytes = take(slot).await;
                bytes.as_mut().copy_from_slice(piece);
                taken.store(at + len, Ordering::Relaxed);
                let mut crc64 = crc64fast_nvme::Digest::new();
                crc64.write(piece);
                let crc64 = crc64.sum64();
                return Ok(Block { bytes, crc64 });
            }
        };
        let mut patient = false;
        loop {
            let buffer = Arc::new(Mutex::new(Some(take(file.thread.slot).await)));
            let loan = Loan(Arc::clone(&buffer));
            let (sender, answer) = oneshot::channel();
            file.send(Command::Next {
                buffer,
                len,
                answer: sender,
            })?;
            // A share that is slow all the time must not be read from for ever without getting anywhere.
            let taken_back = (!patient).then_some(&loan);
            if let Some(block) = file.thread.await_answer(answer, taken_back).await? {
                return Ok(block);
            }
            patient = true;
        }
    }

    /// Hashes the whole file without returning its bytes.
    pub(super) async fn hash(&self) -> Result<Content, Error> {
        self.rewind().await?;
        match &self.state {
            State::Open(file) => {
                while file.ask(|answer| Command::HashOnly { answer }).await? > 0 {}
            }
            State::Read { whole, taken, .. } => {
                let bytes = whole.as_ref().map_or(0, |whole| whole.bytes.len());
                taken.store(bytes, Ordering::Relaxed);
            }
        }
        self.finish().await
    }

    /// Goes back to the first byte, and forgets what was hashed.
    pub(super) async fn rewind(&self) -> Result<(), Error> {
        match &self.state {
            State::Open(file) => file.ask(|answer| Command::Rewind { answer }).await,
            State::Read { taken, .. } => {
                taken.store(0, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// What was read, if all of it was and the file is still the one that was opened.
    pub(super) async fn finish(&self) -> Result<Content, Error> {
        match &self.state {
            State::Open(file) => file.ask(|answer| Command::Finish { answer }).await,
            State::Read { whole, taken, .. } => {
                let whole = whole.as_ref().map_err(Clone::clone)?;
                if taken.load(Ordering::Relaxed) < whole.bytes.len() {
                    return Err(Error::Changed);
                }
                Ok(whole.content.clone())
            }
        }
    }
}

impl OpenFile<'_> {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Answer<T>>) -> Command,
    ) -> Result<T, Error> {
        let (sender, answer) = oneshot::channel();
        self.send(command(sender))?;
        let done = self.thread.await_answer(answer, None).await?;
        done.ok_or(Error::Hangs)
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_gone| Error::Hangs)
    }
}

impl<'s> ReadThread<'s> {
    /// Does `work` for the file at `path`, which may block for as long as the share likes: with what rises whenever the
    /// share has answered, and what takes the answer.
    fn run<T: Send + 'static>(
        slot: &'s Slot,
        path: &Path,
        work: impl FnOnce(Arc<AtomicU64>, oneshot::Sender<Answer<T>>) + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<Answer<T>>), Error> {
        let (guard, key) = slot.thread(path).map_err(|_stuck| Error::Stuck)?;
        let (sender, answer) = oneshot::channel();
        let thread = Self {
            slot,
            path: path.to_owned(),
            key,
            progress: Arc::default(),
        };
        let progress = Arc::clone(&thread.progress);
        let started = slot.reading_threads().run(move || {
            // Counted until the file is closed, too: that also asks the share.
            let _guard = guard;
            work(progress, sender);
        });
        started.map_err(|error| Error::Unreadable(Arc::new(error)))?;
        Ok((thread, answer))
    }

    /// Waits for an answer for as long as the share makes progress. A share that makes none for a moment costs the
    /// upload its slot, and the buffer that the thread fills, until it does.
    async fn await_answer<T>(
        &self,
        mut answer: oneshot::Receiver<Answer<T>>,
        loan: Option<&Loan>,
    ) -> Answer<T> {
        let (stall, answer_max) = (share_deadline(STALL), share_deadline(ANSWER_MAX));
        let mut seen = self.progress.load(Ordering::Relaxed);
        let mut since = Instant::now();
        let mut lent = None;
        loop {
            let patience = if lent.is_none() { stall } else { answer_max };
            let deadline = (since + patience).min(Instant::now() + stall);
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_ended)) => return Err(Error::Hangs),
                Err(_) => {}
            }
            let now = self.progress.load(Ordering::Relaxed);
            if now != seen {
                seen = now;
                since = Instant::now();
                lent = None;
            } else if since.elapsed() >= answer_max {
                self.slot.abandon(self.key);
                return Err(Error::Hangs);
            } else if lent.is_none() && since.elapsed() >= stall {
                if let Some(loan) = loan {
                    loan.take_back();
                }
                lent = Some(self.slot.lend(&self.path));
            }
        }
    }
}

struct Reader {
    root: PathBuf,
    path: PathBuf,
    file: File,
    fingerprint: Fingerprint,
    left: u64,
    blake3: blake3::Hasher,
    /// Used instead when the bytes are only hashed.
    tree: TreeHasher,
    slice: Vec<u8>,
    progress: Arc<AtomicU64>,
}

impl Reader {
    fn open(root: PathBuf, path: PathBuf, progress: Arc<AtomicU64>) -> Result<Self, Error> {
        let file = RootDir::open(&root)
            .and_then(|root| root.file(&path))
            .map_err(Error::from_io)?;
        let fingerprint = rooted_fs::fingerprint(&file).map_err(Error::from_io)?;
        Ok(Self {
            root,
            path,
            file,
            fingerprint,
            left: fingerprint.size,
            blake3: blake3::Hasher::new(),
            tree: TreeHasher::default(),
            slice: Vec::new(),
            progress,
        })
    }

    fn serve(&mut self, inbox: &mpsc::Receiver<Command>) {
        for command in inbox {
            // An asker that went away needs no answer.
            match command {
                Command::Next {
                    buffer,
                    len,
                    answer,
                } => drop(answer.send(self.next(&buffer, len))),
                Command::HashOnly { answer } => drop(answer.send(self.hash_only().map(Some))),
                Command::Rewind { answer } => {
                    self.rewind();
                    drop(answer.send(Ok(Some(()))));
                }
                Command::Finish { answer } => drop(answer.send(self.finish().map(Some))),
            }
        }
    }

    /// All of a small file.
    fn whole(&mut self) -> Result<Whole, Error> {
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(Error::from_read)?;
        self.progress.fetch_add(1, Ordering::Relaxed);
        self.left = 0;
        self.blake3.update(&bytes);
        let content = self.finish()?;
        Ok(Whole { bytes, content })
    }

    /// Reads up to the size that the file had when it was opened, never beyond: what a writer appends is another
    /// version. If the buffer is taken away meanwhile, it is as if nothing had been read.
    fn next(&mut self, buffer: &Mutex<Option<Buffer>>, len: usize) -> Answer<Block> {
        let buffer = || buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if len as u64 > self.left {
            return Err(Error::Changed);
        }
        let before = (self.left, self.blake3.clone());
        let mut crc64 = crc64fast_nvme::Digest::new();
        let mut done = 0;
        self.slice.resize(hash::SLICE, 0);
        while done < len {
            let end = len.min(done + hash::SLICE);
            let slice = self.slice.get_mut(..end - done).unwrap_or_default();
            let at = self.fingerprint.size - self.left;
            self.file
                .read_exact_at(slice, at)
                .map_err(Error::from_read)?;
            self.progress.fetch_add(1, Ordering::Relaxed);
            self.left -= slice.len() as u64;
            self.blake3.update(slice);
            crc64.write(slice);
            match buffer()
                .as_mut()
                .and_then(|buffer| buffer.as_mut().get_mut(done..end))
            {
                Some(place) => place.copy_from_slice(slice),
                None => break,
            }
            done = end;
        }
        let Some(bytes) = buffer().take().filter(|_| done == len) else {
            (self.left, self.blake3) = before;
            return Ok(None);
        };
        Ok(Some(Block {
            bytes,
            crc64: crc64.sum64(),
        }))
    }

    /// Hashes a part of the rest. Returns the bytes left after it.
    fn hash_only(&mut self) -> Result<u64, Error> {
        let at = self.fingerprint.size - self.left;
        self.left -= self
            .tree
            .add(&self.file, at, self.left, &self.progress)
            .map_err(Error::from_read)?;
        Ok(self.left)
    }

    fn rewind(&mut self) {
        self.left = self.fingerprint.size;
        self.blake3.reset();
        self.tree = TreeHasher::default();
    }

    fn finish(&mut self) -> Result<Content, Error> {
        let same = |file: &File| Ok(rooted_fs::fingerprint(file)? == self.fingerprint);
        let on_handle = same(&self.file).map_err(Error::from_io)?;
        // A file that was replaced by another one is unchanged on our handle; the name shows it.
        let at_path = RootDir::open(&self.root)
            .and_then(|root| same(&root.file(&self.path)?))
            .unwrap_or(false);
        if self.left > 0 || !on_handle || !at_path {
            return Err(Error::Changed);
        }
        let digest = self.tree.finish();
        Ok(Content {
            digest: *digest.unwrap_or_else(|| self.blake3.finalize()).as_bytes(),
            bytes: self.fingerprint.size,
        })
    }
}

impl Error {
    fn from_io(error: io::Error) -> Self {
        if rooted_fs::is_gone(&error) {
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
mod tests;
