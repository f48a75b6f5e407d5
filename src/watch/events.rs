//! The kernel's events, made into hints for the roots. The only place that knows notify.
//!
//! A hint says "look here again" and nothing else, so nothing is lost when one is: a full channel, an overflow of the
//! kernel's queue or an event without a path ask for a scan of the whole root. Every folder is watched by itself,
//! not recursively: the scan sets each watch just before it lists the folder, so nothing falls between.
//!
//! All roots share one inotify instance, as a user may only have a few (`fs.inotify.max_user_instances`, usually 128).
//! The kernel gives an instance one watch for each folder, by whatever path it was set, so a folder that two roots reach
//! has one entry here with both of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use super::mounts;
use crate::failpoint::panicpoint;
use crate::rooted_fs::Identity;

/// Hints that may wait to be taken; beyond that the root is scanned instead.
const CHANNEL: usize = 8192;

/// The file events of this process. Clones share one inotify instance.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held while watches are set and removed; the thread that hands events over never takes it.
    watcher: Mutex<Option<Watcher>>,
    table: Mutex<Table>,
}

/// Who is watched for whom.
#[derive(Debug, Default)]
struct Table {
    roots: HashMap<u64, Root>,
    next: u64,
    folders: HashMap<Identity, Vec<User>>,
    paths: HashMap<Arc<Path>, Identity>,
    follows_mounts: bool,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Without symbolic links, as mount points are named.
    real: Option<PathBuf>,
    sender: Sender,
}

/// A root that has a folder watched.
#[derive(Debug, Clone)]
struct User {
    root: u64,
    /// The scan of the root that asked for it last.
    scan: u64,
    path: Arc<Path>,
}

/// The folders of one root that are watched. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Watches {
    events: Events,
    id: u64,
    root: PathBuf,
    scan: u64,
}

#[derive(Debug)]
struct Watcher {
    /// None only while this is dropped.
    notify: Option<RecommendedWatcher>,
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
    watcher_died: AtomicBool,
    wake: Notify,
}

/// A hint: look at this path (relative to the root), or at everything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    Path(PathBuf),
    Everything,
    /// No event comes any more before a scan has set new watches.
    WatcherDied,
}

/// Lives in notify's thread, and tells of its end: notify does not, and a thread that panicked looks like a folder in
/// which nothing happens.
struct DeathNotice {
    shared: Weak<Shared>,
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

impl Drop for DeathNotice {
    fn drop(&mut self) {
        self.link.dead.store(true, Ordering::Release);
        if !self.link.dismissed.load(Ordering::Acquire)
            && let Some(shared) = self.shared.upgrade()
        {
            shared.table().broadcast(|| Hint::WatcherDied);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.link.dismissed.store(true, Ordering::Release);
        if self.link.dead.load(Ordering::Acquire) {
            // Notify would panic on its dead thread. What it keeps is little.
            std::mem::forget(self.notify.take());
        }
    }
}

/// Why a folder is not watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the limit of inotify watches is reached (fs.inotify.max_user_watches)")]
    Limit,
    #[error("the limit of inotify instances is reached (fs.inotify.max_user_instances): {0}")]
    NoInstance(String),
    #[error("the folder is gone")]
    Gone,
    #[error("no inotify watch could be set: {0}")]
    Other(String),
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
            if self.overflow.watcher_died.swap(false, Ordering::AcqRel) {
                return Hint::WatcherDied;
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
            Hint::WatcherDied => &self.overflow.watcher_died,
        };
        if !flag.swap(true, Ordering::AcqRel) {
            self.overflow.wake.notify_one();
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watcher(&self) -> MutexGuard<'_, Option<Watcher>> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Begins to take events for `root`; no folder of it is watched yet.
    pub(super) fn of_root(&self, root: &Path, sender: Sender) -> Watches {
        let mut table = self.0.table();
        table.next += 1;
        let id = table.next;
        let taken = Root {
            path: root.to_owned(),
            real: None,
            sender,
        };
        table.roots.insert(id, taken);
        let follows = std::mem::replace(&mut table.follows_mounts, true);
        drop(table);
        if !follows {
            self.follow_mounts();
        }
        Watches {
            events: self.clone(),
            id,
            root: root.to_owned(),
            scan: 0,
        }
    }

    fn follow_mounts(&self) {
        let shared = Arc::downgrade(&self.0);
        let followed = mounts::follow(move |points| match shared.upgrade() {
            Some(shared) => {
                shared.table().on_mounts_changed(points);
                true
            }
            None => false,
        });
        if let Err(error) = followed {
            warn!(%error, "mounts below watched folders are noticed only by the next scan");
        }
    }

    /// The watcher, made anew if its thread has ended.
    fn watcher<'w>(
        &self,
        watcher: &'w mut Option<Watcher>,
    ) -> Result<&'w mut RecommendedWatcher, Error> {
        if watcher
            .as_ref()
            .is_some_and(|one| one.link.dead.load(Ordering::Acquire))
        {
            *watcher = None;
        }
        let made = match watcher.take() {
            Some(known) => known,
            None => self.new_watcher()?,
        };
        let gone = || Error::Other("no event comes any more".to_owned());
        watcher.insert(made).notify.as_mut().ok_or_else(gone)
    }

    fn new_watcher(&self) -> Result<Watcher, Error> {
        let link = Arc::new(Link::default());
        let notice = DeathNotice {
            shared: Arc::downgrade(&self.0),
            link: Arc::clone(&link),
        };
        let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
            panicpoint("event");
            if let Some(shared) = notice.shared.upgrade() {
                shared.table().dispatch(event);
            }
        });
        let notify = notify.map_err(|error| Error::NoInstance(reason(&error)))?;
        Ok(Watcher {
            notify: Some(notify),
            link,
        })
    }
}

impl Watches {
    /// A scan of the whole root begins.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.scan += 1;
        let real = self.root.canonicalize().ok();
        if let Some(root) = self.events.0.table().roots.get_mut(&self.id) {
            root.real = real;
        }
        let mut watcher = self.events.0.watcher();
        self.events.watcher(&mut watcher).map(|_| ())
    }

    /// Watches the folder `rel` (empty for the root). Watching it twice is harmless, and mends a watch that was lost.
    pub(super) fn watch(&self, rel: &Path, folder: Identity) -> Result<(), Error> {
        // Joining an empty path would add a slash, and events would not carry it.
        let path: Arc<Path> = if rel.as_os_str().is_empty() {
            self.root.as_path().into()
        } else {
            self.root.join(rel).into()
        };
        let shared = &self.events.0;
        let mut watcher = shared.watcher();
        let watcher = self.events.watcher(&mut watcher)?;
        // Before the watch is set: its first event may come at once.
        let replaced = shared.table().add(self.id, self.scan, &path, folder);
        if let Some(replaced) = replaced {
            replaced.settle(watcher);
        }
        watcher
            .watch(&path, RecursiveMode::NonRecursive)
            .map_err(|error| match error.kind {
                ErrorKind::MaxFilesWatch => Error::Limit,
                ErrorKind::PathNotFound => Error::Gone,
                ErrorKind::Io(ref cause) if crate::rooted_fs::is_gone(cause) => Error::Gone,
                _ => Error::Other(reason(&error)),
            })
    }

    /// The scan is over: folders that it did not come to are watched no longer.
    pub(super) fn end(&mut self) {
        self.forget(self.scan);
    }

    /// No folder is watched any longer.
    pub(super) fn clear(&mut self) {
        self.forget(u64::MAX);
    }

    /// Forgets folders that no scan from this one on has asked for.
    fn forget(&self, scan: u64) {
        let shared = &self.events.0;
        let mut watcher = shared.watcher();
        let left = shared.table().leave(self.id, scan);
        let Ok(watcher) = self.events.watcher(&mut watcher) else {
            return;
        };
        for one in left {
            one.settle(watcher);
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.clear();
        self.events.0.table().roots.remove(&self.id);
    }
}

/// A path that a folder is not reached by any more.
struct Left {
    path: Arc<Path>,
    /// Another path of the same folder, which is still watched.
    other: Option<Arc<Path>>,
}

impl Left {
    /// Makes the kernel's watches fit. What fails here is gone already.
    fn settle(self, watcher: &mut RecommendedWatcher) {
        let _gone = match self.other {
            // The watch stays, and its events come with the other path.
            Some(other) => watcher.watch(&other, RecursiveMode::NonRecursive),
            None => watcher.unwatch(&self.path),
        };
    }
}

impl Table {
    /// Notes that a root watches the folder at `path`. Returns what to do about another folder that was there before.
    fn add(&mut self, root: u64, scan: u64, path: &Arc<Path>, folder: Identity) -> Option<Left> {
        let before = self.paths.insert(Arc::clone(path), folder);
        let (mut moved, mut left) = (Vec::new(), None);
        if let Some(before) = before.filter(|before| *before != folder)
            && let Entry::Occupied(mut users) = self.folders.entry(before)
        {
            // Everybody who came by this path means the new folder.
            moved.extend(users.get_mut().extract_if(.., |user| user.path == *path));
            left = Some(Left {
                path: Arc::clone(path),
                other: users.get().first().map(|user| Arc::clone(&user.path)),
            });
            if users.get().is_empty() {
                users.remove();
            }
        }
        let users = self.folders.entry(folder).or_default();
        users.append(&mut moved);
        let known = users
            .iter_mut()
            .find(|user| user.root == root && user.path == *path);
        match known {
            Some(user) => user.scan = scan,
            None => users.push(User {
                root,
                scan,
                path: Arc::clone(path),
            }),
        }
        left
    }

    /// Forgets the folders of a root that no scan from this one on has asked for.
    fn leave(&mut self, root: u64, scan: u64) -> Vec<Left> {
        let mut left = Vec::new();
        let paths = &mut self.paths;
        self.folders.retain(|folder, users| {
            let gone: Vec<User> = users
                .extract_if(.., |user| user.root == root && user.scan < scan)
                .collect();
            for user in gone {
                if users.iter().any(|other| other.path == user.path) {
                    continue;
                }
                if paths.get(&user.path) == Some(folder) {
                    paths.remove(&user.path);
                }
                left.push(Left {
                    path: user.path,
                    other: users.first().map(|other| Arc::clone(&other.path)),
                });
            }
            !users.is_empty()
        });
        left
    }

    fn dispatch(&self, event: notify::Result<Event>) {
        let Some(paths) = paths_of(event) else {
            return self.broadcast(|| Hint::Everything);
        };
        for path in paths {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                for (root, folder) in self.users(parent) {
                    root.sender.send(Hint::Path(folder.join(name)));
                }
            }
            // Of the folder itself: moved, deleted or unmounted.
            for (root, folder) in self.users(&path) {
                let is_root = folder.as_os_str().is_empty();
                root.sender.send(if is_root {
                    Hint::Everything
                } else {
                    Hint::Path(folder.to_owned())
                });
            }
        }
    }

    /// The roots that have the folder at `path` watched, and what they call it.
    fn users(&self, path: &Path) -> impl Iterator<Item = (&Root, &Path)> {
        let folder = self.paths.get(path);
        let users = folder.and_then(|folder| self.folders.get(folder));
        users.into_iter().flatten().filter_map(|user| {
            let root = self.roots.get(&user.root)?;
            Some((root, user.path.strip_prefix(&root.path).ok()?))
        })
    }

    fn broadcast(&self, hint: impl Fn() -> Hint) {
        for root in self.roots.values() {
            root.sender.send(hint());
        }
    }

    /// Something was mounted or unmounted at these places.
    fn on_mounts_changed(&self, points: &[PathBuf]) {
        for root in self.roots.values() {
            let real = root.real.as_ref().unwrap_or(&root.path);
            let concerned = |point: &PathBuf| point.starts_with(real) || real.starts_with(point);
            if points.iter().any(concerned) {
                root.sender.send(Hint::Everything);
            }
        }
    }
}

/// The operating system's reason, without the paths that notify adds: problems are counted by their kind.
fn reason(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::Io(cause) => cause.to_string(),
        _ => notify::Error::new(match &error.kind {
            ErrorKind::Generic(text) => ErrorKind::Generic(text.clone()),
            ErrorKind::WatchNotFound => ErrorKind::WatchNotFound,
            ErrorKind::MaxFilesWatch => ErrorKind::MaxFilesWatch,
            _ => ErrorKind::PathNotFound,
        })
        .to_string(),
    }
}

/// The paths that an event is about; None if it does not say, as after an overflow of the kernel's queue. The flag for
/// lost events is looked at first: such an event has no path.
fn paths_of(event: notify::Result<Event>) -> Option<Vec<PathBuf>> {
    let event = event.ok()?;
    if event.need_rescan() {
        return None;
    }
    if !is_change(event.kind) {
        return Some(Vec::new());
    }
    Some(event.paths)
}

/// Our own reading raises events as well; they must not feed back.
fn is_change(kind: EventKind) -> bool {
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

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, |_| None, {
            Error::Limit => Error::Limit,
            Error::NoInstance(_) => Error::NoInstance("too many open files".to_owned()),
            Error::Gone => Error::Gone,
            Error::Other(_) => Error::Other("permission denied".to_owned()),
        }));
    }

    fn path(text: &str) -> Hint {
        Hint::Path(PathBuf::from(text))
    }

    /// The identity of any folder, by its number.
    fn folder(number: u64) -> Identity {
        Identity::for_test(number)
    }

    impl Events {
        fn table(&self) -> MutexGuard<'_, Table> {
            self.0.table()
        }
    }

    impl Hints {
        fn all(&mut self) -> Vec<Hint> {
            let everything = self.overflow.happened.swap(false, Ordering::AcqRel);
            let everything = everything.then_some(Hint::Everything);
            let paths = std::iter::from_fn(|| self.paths.try_recv().ok());
            let mut paths: Vec<Hint> = paths.map(Hint::Path).collect();
            paths.extend(everything);
            paths
        }
    }

    /// A root, what it watches by number, and where its hints arrive.
    fn root(events: &Events, path: &str, folders: &[(&str, u64)]) -> (Watches, Hints) {
        let (sender, hints) = channel();
        let watches = events.of_root(Path::new(path), sender);
        for (name, number) in folders {
            let path: Arc<Path> = Path::new(path).join(name).into();
            let path: Arc<Path> = path.components().collect::<PathBuf>().into();
            let left = events.table().add(watches.id, 1, &path, folder(*number));
            assert!(left.is_none());
        }
        (watches, hints)
    }

    #[tokio::test]
    async fn every_kind_of_change_is_a_hint_and_no_kind_of_reading_is() {
        let events = Events::default();
        let (_watches, mut hints) = root(&events, "/root", &[("", 1), ("b", 2)]);
        let mut check = |kind, name: &str, expected: Vec<Hint>| {
            let event = Event::new(kind).add_path(PathBuf::from("/root").join(name));
            events.table().dispatch(Ok(event));
            assert_eq!(hints.all(), expected);
        };
        check(
            EventKind::Create(CreateKind::File),
            "a.dgn",
            vec![path("a.dgn")],
        );
        check(
            EventKind::Modify(ModifyKind::Any),
            "b/a.dgn",
            vec![path("b/a.dgn")],
        );
        check(
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            "a.dgn",
            vec![path("a.dgn")],
        );
        check(
            EventKind::Remove(RemoveKind::File),
            "a.dgn",
            vec![path("a.dgn")],
        );
        let close = |mode| EventKind::Access(AccessKind::Close(mode));
        check(close(AccessMode::Write), "a.dgn", vec![path("a.dgn")]);
        check(close(AccessMode::Read), "a.dgn", vec![]);
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        check(open, "a.dgn", vec![]);
    }

    #[tokio::test]
    async fn lost_events_errors_and_events_of_the_root_ask_for_a_scan() {
        let events = Events::default();
        let (_watches, mut hints) = root(&events, "/root", &[("", 1)]);
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        let gone = Event::new(EventKind::Remove(RemoveKind::Folder)).add_path("/root".into());
        for event in [Ok(lost), Err(notify::Error::generic("failed")), Ok(gone)] {
            events.table().dispatch(event);
            assert_eq!(hints.all(), [Hint::Everything]);
        }
    }

    #[tokio::test]
    async fn a_folder_that_two_roots_reach_gives_hints_to_both_by_their_own_paths() {
        let events = Events::default();
        let (north, mut to_north) = root(&events, "/north", &[("", 1), ("plans", 2)]);
        let (_bound, mut to_bound) = root(&events, "/bound", &[("", 2)]);
        // The kernel names the folder by the path that it was watched by last.
        let create = EventKind::Create(CreateKind::File);
        for folder in ["/bound", "/north/plans"] {
            let event = Event::new(create).add_path(Path::new(folder).join("a.dgn"));
            events.table().dispatch(Ok(event));
            assert_eq!(to_north.all(), [path("plans/a.dgn")]);
            assert_eq!(to_bound.all(), [path("a.dgn")]);
        }
        // One of them goes: the other one keeps the watch.
        let left = events.table().leave(north.id, 2);
        let others: Vec<_> = left
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.other.is_some()))
            .collect();
        assert_eq!(others.len(), 2);
        assert!(others.contains(&("/north", false)) && others.contains(&("/north/plans", true)));
        let event = Event::new(create).add_path("/bound/b.dgn".into());
        events.table().dispatch(Ok(event));
        assert_eq!(
            (to_north.all(), to_bound.all()),
            (vec![], vec![path("b.dgn")])
        );
    }

    #[tokio::test]
    async fn a_folder_that_was_replaced_is_watched_in_place_of_the_old_one() {
        let events = Events::default();
        let (watches, mut hints) = root(&events, "/root", &[("", 1), ("plans", 2)]);
        let plans: Arc<Path> = Path::new("/root/plans").into();
        let left = events
            .table()
            .add(watches.id, 2, &plans, folder(3))
            .unwrap();
        assert!(left.path == plans && left.other.is_none());
        let event = Event::new(EventKind::Any).add_path("/root/plans/a.dgn".into());
        events.table().dispatch(Ok(event));
        assert_eq!(hints.all(), [path("plans/a.dgn")]);
        // The scan that found it did not come to the root, say.
        let left = events.table().leave(watches.id, 2);
        assert_eq!(left.len(), 1);
        assert_eq!(events.table().paths.len(), 1);
    }

    #[tokio::test]
    async fn a_mount_concerns_the_roots_that_it_is_below_or_above() {
        let events = Events::default();
        let (_a, mut a) = root(&events, "/srv/a", &[]);
        let (_b, mut b) = root(&events, "/srv/b", &[]);
        let table = events.table();
        table.on_mounts_changed(&["/srv/a/deep/share".into()]);
        assert_eq!((a.all(), b.all()), (vec![Hint::Everything], vec![]));
        table.on_mounts_changed(&["/srv".into(), "/elsewhere".into()]);
        assert_eq!((a.all().len(), b.all().len()), (1, 1));
        table.on_mounts_changed(&["/srv/ab".into(), "/srv/b2/c".into()]);
        assert_eq!((a.all(), b.all()), (vec![], vec![]));
        drop(table);
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
