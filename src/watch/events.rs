//! The kernel's events of one root, made into hints. The only place that knows notify.
//!
//! A hint says "look here again" and nothing else, so nothing is lost when one is: a full channel, an overflow of the
//! kernel's queue or an event without a path ask for a scan of the whole root. Every folder is watched by itself,
//! not recursively: the scan sets each watch just before it lists the folder, so nothing falls between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use crate::failpoint::panicpoint;

/// Hints that may wait to be taken; beyond that the root is scanned instead.
const CHANNEL: usize = 8192;

/// The inotify watches of one root. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Events {
    root: PathBuf,
    /// None only while this is dropped.
    watcher: Option<RecommendedWatcher>,
    link: Arc<Link>,
}

/// Where the hints of one root arrive.
#[derive(Debug)]
pub(super) struct Hints {
    paths: mpsc::Receiver<PathBuf>,
    overflow: Arc<Overflow>,
}

/// Gives [`Hints`] their hints.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    paths: mpsc::Sender<PathBuf>,
    overflow: Arc<Overflow>,
}

#[derive(Debug, Default)]
struct Overflow {
    happened: AtomicBool,
    /// The thread that hands events over ended by itself.
    deaf: AtomicBool,
    wake: Notify,
}

/// A hint: look at this path (relative to the root), or at everything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    Path(PathBuf),
    Everything,
    /// No event comes any more before a scan has set new watches.
    Deaf,
}

/// Lives in notify's thread, and tells of its end: notify does not, and a thread that panicked looks like a folder in
/// which nothing happens.
struct Alive {
    sender: Sender,
    link: Arc<Link>,
}

/// What both ends of a watcher know of each other.
#[derive(Debug, Default)]
struct Link {
    /// The end of the thread is our own doing.
    dismissed: AtomicBool,
    /// The thread has ended.
    dead: AtomicBool,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.link.dead.store(true, Ordering::Release);
        if !self.link.dismissed.load(Ordering::Acquire) {
            self.sender.send(Hint::Deaf);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.link.dismissed.store(true, Ordering::Release);
        if self.link.dead.load(Ordering::Acquire) {
            // Notify would panic on its dead thread. What it keeps is little.
            std::mem::forget(self.watcher.take());
        }
    }
}

/// Why a folder is not watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the limit of inotify watches is reached (fs.inotify.max_user_watches)")]
    Limit,
    #[error("the folder is gone")]
    Gone,
    #[error("no event comes any more")]
    Deaf,
    #[error("no inotify watch could be set")]
    Other(#[source] notify::Error),
}

pub(super) fn channel() -> (Sender, Hints) {
    let (sender, paths) = mpsc::channel(CHANNEL);
    let overflow = Arc::new(Overflow::default());
    (
        Sender {
            paths: sender,
            overflow: Arc::clone(&overflow),
        },
        Hints { paths, overflow },
    )
}

impl Hints {
    /// The next hint. Never ends; may be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> Hint {
        loop {
            if self.overflow.deaf.swap(false, Ordering::AcqRel) {
                return Hint::Deaf;
            }
            if self.overflow.happened.swap(false, Ordering::AcqRel) {
                return Hint::Everything;
            }
            tokio::select! {
                () = self.overflow.wake.notified() => {}
                Some(path) = self.paths.recv() => return Hint::Path(path),
            }
        }
    }

    /// A hint that waits already.
    pub(super) fn try_next(&mut self) -> Option<PathBuf> {
        self.paths.try_recv().ok()
    }
}

impl Sender {
    fn send(&self, hint: Hint) {
        let flag = match hint {
            Hint::Path(path) => match self.paths.try_send(path) {
                Err(TrySendError::Full(_)) => &self.overflow.happened,
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            },
            Hint::Everything => &self.overflow.happened,
            Hint::Deaf => &self.overflow.deaf,
        };
        if !flag.swap(true, Ordering::AcqRel) {
            self.overflow.wake.notify_one();
        }
    }
}

impl Events {
    /// Prepares to watch folders of `root`; none is watched yet.
    pub(super) fn new(root: &Path, sender: Sender) -> Result<Self, Error> {
        let base = root.to_owned();
        let link = Arc::new(Link::default());
        let alive = Alive {
            sender,
            link: Arc::clone(&link),
        };
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            panicpoint("event");
            for hint in hints(&base, event) {
                alive.sender.send(hint);
            }
        })
        .map_err(Error::Other)?;
        Ok(Self {
            root: root.to_owned(),
            watcher: Some(watcher),
            link,
        })
    }

    /// Watches the folder `rel` (empty for the root). Watching it twice is harmless, and mends a watch that was lost.
    pub(super) fn watch(&mut self, rel: &Path) -> Result<(), Error> {
        // Joining an empty path would add a slash, and events would not carry it.
        let folder = if rel.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(rel)
        };
        let watcher = self
            .watcher
            .as_mut()
            .filter(|_| !self.link.dead.load(Ordering::Acquire))
            .ok_or(Error::Deaf)?;
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .map_err(|error| match error.kind {
                ErrorKind::MaxFilesWatch => Error::Limit,
                ErrorKind::PathNotFound => Error::Gone,
                ErrorKind::Io(ref cause) if crate::share::is_gone(cause) => Error::Gone,
                _ => Error::Other(error),
            })
    }
}

/// The hints in an event. The flag for lost events is looked at first: such an event has no path.
fn hints(root: &Path, event: notify::Result<Event>) -> Vec<Hint> {
    let Ok(event) = event else {
        return vec![Hint::Everything];
    };
    if event.need_rescan() {
        return vec![Hint::Everything];
    }
    if !tells_of_a_change(event.kind) {
        return Vec::new();
    }
    event
        .paths
        .into_iter()
        .map(|path| match path.strip_prefix(root) {
            // The root itself was moved, deleted or unmounted.
            Ok(rel) if rel.as_os_str().is_empty() => Hint::Everything,
            Ok(rel) => Hint::Path(rel.to_owned()),
            Err(_) => Hint::Everything,
        })
        .collect()
}

/// Our own reading raises events as well; they must not feed back.
fn tells_of_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    fn path(text: &str) -> Hint {
        Hint::Path(PathBuf::from(text))
    }

    #[test]
    fn every_kind_of_change_is_a_hint_and_no_kind_of_reading_is() {
        let event =
            |kind, path: &str| Ok(Event::new(kind).add_path(PathBuf::from("/root").join(path)));
        let check =
            |event, expected: Vec<Hint>| assert_eq!(hints(Path::new("/root"), event), expected);
        check(
            event(EventKind::Create(CreateKind::File), "a.dgn"),
            vec![path("a.dgn")],
        );
        check(
            event(EventKind::Modify(ModifyKind::Any), "b/a.dgn"),
            vec![path("b/a.dgn")],
        );
        check(
            event(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "a.dgn"),
            vec![path("a.dgn")],
        );
        check(
            event(EventKind::Remove(RemoveKind::File), "a.dgn"),
            vec![path("a.dgn")],
        );
        check(
            event(
                EventKind::Access(AccessKind::Close(AccessMode::Write)),
                "a.dgn",
            ),
            vec![path("a.dgn")],
        );
        check(
            event(
                EventKind::Access(AccessKind::Close(AccessMode::Read)),
                "a.dgn",
            ),
            vec![],
        );
        check(
            event(
                EventKind::Access(AccessKind::Open(AccessMode::Any)),
                "a.dgn",
            ),
            vec![],
        );
    }

    #[test]
    fn lost_events_errors_and_events_of_the_root_ask_for_a_scan() {
        let root = Path::new("/root");
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(hints(root, Ok(lost)), vec![Hint::Everything]);
        assert_eq!(
            hints(root, Err(notify::Error::generic("read failed"))),
            vec![Hint::Everything]
        );
        let gone = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path("/root".into());
        assert_eq!(hints(root, Ok(gone)), vec![Hint::Everything]);
    }

    #[tokio::test]
    async fn a_full_channel_becomes_one_hint_for_everything() {
        let (sender, mut hints) = channel();
        for n in 0..CHANNEL + 10 {
            sender.send(path(&n.to_string()));
        }
        assert_eq!(hints.next().await, Hint::Everything);
        assert_eq!(hints.next().await, path("0"));
    }
}
