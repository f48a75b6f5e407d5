//! The bytes of one file, read on a thread of their own and hashed on the way.
//!
//! Pulled, not pushed: the one who sends asks for the next block when there is room for it, and brings the memory for it.
//! The handle stays open from the first look to the last, and the fingerprint is
//! compared before and after on that handle.
//! Nobody waits for the bytes of a file that is only hashed, so that is done on several threads.
//!
//! A share may answer late or never. The thread reads into a small piece of memory of its own, so that the asker can take
//! the buffer of a block back at any time: it does so when nothing was read for [`STALL`], and gives its upload slot back
//! as well. When nothing was read for [`ANSWER_MAX`] it gives up; the thread stays behind, and `slots` counts it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
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

/// How long the share may take for the next few bytes. Generous: a slow share is not a dead one.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// An open file.
#[derive(Debug)]
pub(super) struct Source<'s> {
    commands: mpsc::Sender<Command>,
    fingerprint: Fingerprint,
    thread: ReadThread<'s>,
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

impl<'s> Source<'s> {
    /// Opens the file at `path` beneath `root`, for the upload that has `slot`.
    pub(super) async fn open(slot: &'s Slot, root: &Path, path: &Path) -> Result<Self, Error> {
        let (guard, key) = slot.thread(path).map_err(|_stuck| Error::Stuck)?;
        let (commands, inbox) = mpsc::channel();
        let (opened, answer) = oneshot::channel();
        let thread = ReadThread {
            slot,
            path: path.to_owned(),
            key,
            progress: Arc::default(),
        };
        let progress = Arc::clone(&thread.progress);
        let (root, path) = (root.to_owned(), path.to_owned());
        std::thread::Builder::new()
            .name("read".to_owned())
            .spawn(move || {
                // Counted until the file is closed, too: that also asks the share.
                let _guard = guard;
                match Reader::open(root, path, progress) {
                    Ok(mut reader) => {
                        if opened.send(Ok(Some(reader.fingerprint))).is_ok() {
                            reader.serve(&inbox);
                        }
                    }
                    // Nobody waits any more when the deadline has passed.
                    Err(error) => drop(opened.send(Err(error))),
                }
            })
            .map_err(|error| Error::Unreadable(Arc::new(error)))?;
        let fingerprint = thread.await_answer(answer, None).await?;
        Ok(Self {
            commands,
            fingerprint: fingerprint.ok_or(Error::Hangs)?,
            thread,
        })
    }

    /// The fingerprint as the file was opened.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The next `len` bytes, in a buffer from `pool`. There must be as many left.
    pub(super) async fn next(&self, pool: &Pool, len: usize) -> Result<Block, Error> {
        let mut patient = false;
        loop {
            let slot = self.thread.slot;
            let watch = (!slot.is_alone()).then_some(slot.watch());
            let buffer = Arc::new(Mutex::new(Some(pool.take(watch, len).await)));
            let loan = Loan(Arc::clone(&buffer));
            let (sender, answer) = oneshot::channel();
            self.send(Command::Next {
                buffer,
                len,
                answer: sender,
            })?;
            // A share that is slow all the time must not be read from for ever without getting anywhere.
            let taken_back = (!patient).then_some(&loan);
            if let Some(block) = self.thread.await_answer(answer, taken_back).await? {
                return Ok(block);
            }
            patient = true;
        }
    }

    /// Tells what the whole file holds, without giving it out.
    pub(super) async fn hash(&self) -> Result<Content, Error> {
        self.rewind().await?;
        while self.ask(|answer| Command::HashOnly { answer }).await? > 0 {}
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

impl ReadThread<'_> {
    /// Waits for an answer for as long as the share makes progress. A share that makes none for a moment costs the upload
    /// its slot, and the buffer that the thread fills, until it does.
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
    /// What was hashed in their stead when nobody wanted the bytes.
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

    /// Reads up to the size that the file had when it was opened, never beyond: what a writer appends is another version.
    /// If the buffer is taken away meanwhile, it is as if nothing had been read.
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

    /// Hashes some of what is left, and tells how much is left then.
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
        // A file that was replaced by another one is unchanged on our handle; the name tells.
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
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::ledger::WatchId;
    use crate::upload::slots::Slots;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Gone => Error::Gone,
            Error::Changed => Error::Changed,
            Error::Unreadable(_) => Error::Unreadable(Arc::new(io::ErrorKind::PermissionDenied.into())),
            Error::Hangs => Error::Hangs,
            Error::Stuck => Error::Stuck,
        }));
    }

    fn slot() -> Slot {
        Slots::default().take(WatchId::for_test(1), false)
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.dgn"), content).unwrap();
        (dir, PathBuf::from("a.dgn"))
    }

    /// Reads the rest, in blocks of `len` bytes.
    async fn read_all(source: &Source<'_>, len: usize, mut left: usize) -> Vec<u8> {
        let pool = Pool::new(4_000_000, 100_000);
        let mut all = Vec::new();
        while left > 0 {
            let block = source.next(&pool, len.min(left)).await.unwrap();
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
        let slot = slot();
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, path) = file(&bytes);
        for len in [1000, 4096, 399_999, 400_000] {
            let source = Source::open(&slot, dir.path(), &path).await.unwrap();
            assert_eq!(read_all(&source, len, bytes.len()).await, bytes);
            let content = source.finish().await.unwrap();
            assert_eq!(content.bytes, 400_000);
            assert_eq!(content.digest, *blake3::hash(&bytes).as_bytes());
            assert_eq!(source.hash().await.unwrap(), content);
        }
    }

    #[tokio::test]
    async fn a_rewind_begins_the_hash_anew() {
        let slot = slot();
        let (dir, path) = file(b"0123456789");
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
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
        let slot = slot();
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
            let source = Source::open(&slot, dir.path(), &path).await.unwrap();
            read_all(&source, 100, 10).await;
            change(&dir.path().join(&path));
            assert!(matches!(source.finish().await, Err(Error::Changed)));
        }
    }

    #[tokio::test]
    async fn a_file_cut_short_has_changed() {
        let slot = slot();
        let (dir, path) = file(b"0123456789");
        let source = Source::open(&slot, dir.path(), &path).await.unwrap();
        std::fs::write(dir.path().join(&path), "012").unwrap();
        let pool = Pool::new(100, 100);
        assert!(matches!(source.next(&pool, 10).await, Err(Error::Changed)));
        assert!(matches!(source.hash().await, Err(Error::Changed)));
    }

    fn asked(slot: &Slot) -> ReadThread<'_> {
        let (_guard, key) = slot.thread(Path::new("a.dgn")).unwrap();
        ReadThread {
            slot,
            path: PathBuf::from("a.dgn"),
            key,
            progress: Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_does_not_answer_is_waited_for_until_the_deadline_only() {
        let slot = slot();
        let (_thread, answer) = oneshot::channel::<Answer<()>>();
        let waited =
            tokio::time::timeout(2 * ANSWER_MAX, asked(&slot).await_answer(answer, None)).await;
        assert!(matches!(waited, Ok(Err(Error::Hangs))), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_is_slow_is_waited_for_as_long_as_it_answers() {
        let slot = slot();
        let asked = asked(&slot);
        let (thread, answer) = oneshot::channel::<Answer<()>>();
        let progress = Arc::clone(&asked.progress);
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(ANSWER_MAX / 2).await;
                progress.fetch_add(1, Ordering::Relaxed);
            }
            drop(thread.send(Ok(Some(()))));
        });
        let waited = asked.await_answer(answer, None).await;
        assert!(matches!(waited, Ok(Some(()))), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_that_does_not_answer_keeps_neither_buffer_nor_slot() {
        let slots = Slots::default();
        let slot = slots.take(WatchId::for_test(1), true);
        let pool = Pool::new(100, 100);
        let buffer = Arc::new(Mutex::new(Some(pool.take(None, 100).await)));
        let loan = Loan(Arc::clone(&buffer));
        let asked = asked(&slot);
        let (thread, answer) = oneshot::channel::<Answer<()>>();
        let others = async {
            tokio::time::sleep(STALL * 2).await;
            assert_eq!(slots.busy().all, 0);
            let room = tokio::time::timeout(STALL, pool.take(None, 100)).await;
            assert!(room.is_ok(), "the buffer is not given back");
            drop(thread.send(Ok(None)));
        };
        let (waited, ()) = tokio::join!(asked.await_answer(answer, Some(&loan)), others);
        assert!(matches!(waited, Ok(None)), "{waited:?}");
        assert_eq!(slots.busy().all, 1);
    }

    #[test]
    fn a_block_whose_buffer_was_taken_back_is_read_once_more() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, path) = file(&bytes);
        let mut reader = Reader::open(dir.path().to_owned(), path, Arc::default()).unwrap();
        let pool = Pool::new(1_000_000, 1_000_000);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let buffer = || Mutex::new(Some(runtime.block_on(pool.take(None, 200_000))));
        let first = reader.next(&buffer(), 200_000).unwrap().unwrap();
        assert!(reader.next(&Mutex::new(None), 200_000).unwrap().is_none());
        let second = reader.next(&buffer(), 200_000).unwrap().unwrap();
        let both = [first.bytes.as_ref(), second.bytes.as_ref()].concat();
        assert_eq!(both, bytes);
        let content = reader.finish().unwrap();
        assert_eq!(content.digest, *blake3::hash(&bytes).as_bytes());
    }

    #[tokio::test]
    async fn a_missing_file_is_gone() {
        let slot = slot();
        let (dir, _) = file(b"x");
        assert!(matches!(
            Source::open(&slot, dir.path(), Path::new("b.dgn")).await,
            Err(Error::Gone)
        ));
    }
}
