//! Threads that read files, each for one upload after another: a thread costs more than a small file.
//!
//! In: what a thread does, which may block for as long as a share likes. It begins at once: on a thread that has
//! nothing to do, else on a new one. A thread without work for [`LINGER`] ends, so a pool at rest has none.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// How long a thread waits for further work.
const LINGER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

type Work = Box<dyn FnOnce() + Send>;

/// The threads. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadingThreads(Arc<Mutex<Idle>>);

/// Threads that have nothing to do, the one that has worked last at the end.
#[derive(Debug, Default)]
struct Idle {
    threads: Vec<(u64, mpsc::Sender<Work>)>,
    next: u64,
}

impl ReadingThreads {
    /// Does `work` on a thread.
    ///
    /// # Errors
    /// No thread can be started at the moment.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work: Work = Box::new(work);
        loop {
            let idle = self.idle().threads.pop();
            let Some((_, inbox)) = idle else { break };
            match inbox.send(work) {
                Ok(()) => return Ok(()),
                // It ended by a panic.
                Err(mpsc::SendError(unsent)) => work = unsent,
            }
        }
        let threads = self.clone();
        let started = std::thread::Builder::new().name("read".to_owned());
        started.spawn(move || threads.serve(work)).map(drop)
    }

    fn serve(&self, first: Work) {
        let (sender, inbox) = mpsc::channel();
        let mut work = first;
        loop {
            work();
            let key = self.rest(&sender);
            work = match inbox.recv_timeout(LINGER) {
                Ok(next) => next,
                Err(_) if self.leave(key) => return,
                // It was taken a moment ago: work is on its way.
                Err(_) => match inbox.recv() {
                    Ok(next) => next,
                    Err(mpsc::RecvError) => return,
                },
            };
        }
    }

    fn rest(&self, inbox: &mpsc::Sender<Work>) -> u64 {
        let mut idle = self.idle();
        idle.next += 1;
        let key = idle.next;
        idle.threads.push((key, inbox.clone()));
        key
    }

    /// Whether the thread was still without work.
    fn leave(&self, key: u64) -> bool {
        let mut idle = self.idle();
        let before = idle.threads.len();
        idle.threads.retain(|(other, _)| *other != key);
        idle.threads.len() < before
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn thread_of(threads: &ReadingThreads) -> ThreadId {
        let (sender, ran) = mpsc::channel();
        let work = move || sender.send(std::thread::current().id()).unwrap();
        threads.run(work).unwrap();
        let id = ran.recv_timeout(PATIENCE).unwrap();
        // It rests a moment after it has answered.
        while threads.idle().threads.is_empty() {
            std::thread::yield_now();
        }
        id
    }

    #[test]
    fn a_thread_serves_one_file_after_another_and_ends_without_work() {
        let threads = ReadingThreads::default();
        let first = thread_of(&threads);
        for _ in 0..50 {
            assert_eq!(thread_of(&threads), first);
        }
        let began = std::time::Instant::now();
        while !threads.idle().threads.is_empty() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        assert_ne!(thread_of(&threads), first);
    }

    #[test]
    fn work_waits_for_no_thread_that_hangs_or_has_panicked() {
        let threads = ReadingThreads::default();
        let (release, held) = mpsc::channel::<()>();
        let hang = move || assert!(held.recv().is_err());
        threads.run(hang).unwrap();
        threads.run(|| panic!("as a bug would")).unwrap();
        let one = thread_of(&threads);
        assert_eq!(thread_of(&threads), one);
        drop(release);
    }
}
