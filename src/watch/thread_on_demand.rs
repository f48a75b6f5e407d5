//! A thread that lives only while it has requests to serve, one after another: roots at rest have none.
//!
//! In: requests, in their order. Each one is served once; a new thread is started for one that comes when there is
//! none. A thread that hangs, or cannot be started, keeps its requests, and those of no other. What serves the requests
//! is dropped when it panics or asks for that; senders in it tell whoever waits for answers.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Serves one request. [`ControlFlow::Break`]: nobody waits for answers any more.
type Serve<R> = Box<dyn FnMut(R) -> ControlFlow<()> + Send>;

/// The requests, and the thread if there is one.
pub(super) struct ThreadOnDemand<R: Send + 'static> {
    name: String,
    shared: Arc<Mutex<Shared<R>>>,
}

struct Shared<R> {
    inbox: VecDeque<R>,
    state: State<R>,
}

enum State<R> {
    /// No thread.
    Idle(Serve<R>),
    /// A thread was started, and has not taken its task yet.
    Starting(Serve<R>),
    Working,
    /// Nothing is served any more.
    Ended,
}

impl<R: Send + 'static> ThreadOnDemand<R> {
    /// `name` is that of the thread.
    pub(super) fn new(
        name: String,
        serve: impl FnMut(R) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        let shared = Shared {
            inbox: VecDeque::new(),
            state: State::Idle(Box::new(serve)),
        };
        Self {
            name,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// No thread can be started at the moment. The request waits for the next [`Self::start`].
    pub(super) fn send(&self, request: R) -> io::Result<()> {
        lock(&self.shared).inbox.push_back(request);
        self.start()
    }

    /// Starts a thread if requests wait for one.
    ///
    /// # Errors
    /// No thread can be started at the moment.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut shared = lock(&self.shared);
        if shared.inbox.is_empty() {
            return Ok(());
        }
        shared.state = match std::mem::replace(&mut shared.state, State::Ended) {
            State::Idle(serve) => State::Starting(serve),
            other => {
                shared.state = other;
                return Ok(());
            }
        };
        drop(shared);
        let served = Arc::clone(&self.shared);
        let started = std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || run(&served));
        started.map(drop).inspect_err(|_| {
            let mut shared = lock(&self.shared);
            if let State::Starting(serve) = std::mem::replace(&mut shared.state, State::Ended) {
                shared.state = State::Idle(serve);
            }
        })
    }
}

/// Requests that nobody waits for are not served.
impl<R: Send + 'static> Drop for ThreadOnDemand<R> {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.inbox.clear();
        // A thread that works finds no more requests, and ends with what it has.
        let state = std::mem::replace(&mut shared.state, State::Ended);
        drop(shared);
        if let State::Idle(serve) | State::Starting(serve) = state {
            // What it has may touch the share.
            let ending = std::thread::Builder::new().name(self.name.clone());
            let _ended_here_if_none_starts = ending.spawn(move || drop(serve));
        }
    }
}

fn run<R>(shared: &Mutex<Shared<R>>) {
    let mut guard = lock(shared);
    let mut serve = match std::mem::replace(&mut guard.state, State::Working) {
        State::Starting(serve) => serve,
        other => {
            guard.state = other;
            return;
        }
    };
    drop(guard);
    loop {
        let mut guard = lock(shared);
        let Some(request) = guard.inbox.pop_front() else {
            if matches!(guard.state, State::Working) {
                guard.state = State::Idle(serve);
            }
            return;
        };
        drop(guard);
        if serve(request).is_break() {
            lock(shared).state = State::Ended;
            return;
        }
    }
}

fn lock<R>(shared: &Mutex<Shared<R>>) -> MutexGuard<'_, Shared<R>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// How many threads of this process have the name.
    fn threads(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|found| found.trim_end() == name)
            .count()
    }

    fn until(what: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !what() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
    }

    #[test]
    fn requests_are_served_in_their_order_by_threads_that_end() {
        let (answers, answered) = mpsc::channel();
        let mut count = 0;
        let worker = ThreadOnDemand::new("demand one".to_owned(), move |request: u32| {
            count += 1;
            answers.send((request, count)).unwrap();
            ControlFlow::Continue(())
        });
        for round in 0..3 {
            for number in 0..100 {
                worker.send(round * 100 + number).unwrap();
            }
            for number in 0..100 {
                let expected = round * 100 + number;
                let answer = answered.recv_timeout(PATIENCE).unwrap();
                assert_eq!(answer, (expected, expected + 1));
            }
            until(|| threads("demand one") == 0);
        }
    }

    #[test]
    fn a_thread_that_hangs_keeps_its_requests_and_no_other() {
        let (release, held) = mpsc::channel::<()>();
        let (answers, answered) = mpsc::channel();
        let hung = ThreadOnDemand::new("demand hung".to_owned(), move |_: u32| {
            let _released = held.recv();
            ControlFlow::Continue(())
        });
        let other = ThreadOnDemand::new("demand other".to_owned(), move |request: u32| {
            answers.send(request).unwrap();
            ControlFlow::Continue(())
        });
        for number in 0..10 {
            hung.send(number).unwrap();
        }
        until(|| threads("demand hung") == 1);
        other.send(7).unwrap();
        assert_eq!(answered.recv_timeout(PATIENCE), Ok(7));
        assert_eq!(threads("demand hung"), 1);
        drop(hung);
        drop(release);
        until(|| threads("demand hung") == 0);
    }

    #[test]
    fn whoever_waits_for_answers_learns_of_a_panic_and_of_an_end() {
        for panics in [true, false] {
            let (answers, answered) = mpsc::channel::<()>();
            let worker = ThreadOnDemand::new("demand end".to_owned(), move |(): ()| {
                let _kept = &answers;
                assert!(!panics);
                ControlFlow::Break(())
            });
            worker.send(()).unwrap();
            let ended = answered.recv_timeout(PATIENCE);
            assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected));
            worker.send(()).unwrap();
        }
    }
}
