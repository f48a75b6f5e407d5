//! Turns the kernel's file events into hints for the roots. The only module that uses notify.
//!
//! A hint says "check this path again" and nothing else, so nothing is lost when one is: a full channel, an overflow of
//! the kernel's queue or an event without a path ask for a scan of the whole root. Every folder is watched by itself,
//! not recursively: the scan sets each watch just before it lists the folder, so nothing falls between.
//!
//! All roots share one inotify instance, as a user may only have a few (`fs.inotify.max_user_instances`, usually 128).
//! The kernel gives an instance one watch for each folder, by whatever path it was set, so a folder that two roots
//! reach has one entry here with both of them.

mod closed;
mod hints;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tracing::warn;

use super::mounts;
use crate::failpoint::panicpoint;
use crate::rooted_fs::Identity;
use closed::ClosedFiles;
pub(super) use hints::{Hint, Hints, Sender, channel};

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
    closed: ClosedFiles,
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

/// Lives in notify's thread and reports its end. Notify does not, and without it a panicked thread would look like a
/// folder in which nothing changes.
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
            let mut table = shared.table();
            table.closed.clear();
            table.broadcast(|| Hint::WatcherDied);
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
    #[error("limit of inotify watches reached; raise fs.inotify.max_user_watches")]
    Limit,
    #[error("limit of inotify instances reached; raise fs.inotify.max_user_instances: {0}")]
    NoInstance(String),
    #[error("folder was deleted")]
    Gone,
    #[error("cannot set an inotify watch: {0}")]
    Other(String),
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
            warn!(%error, "cannot follow mounts; a mount below a watched folder is noticed by the next scan");
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

    /// Watches the folder `rel` (empty for the root). Watching it twice is harmless, and restores a watch that was
    /// lost.
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

    fn dispatch(&mut self, event: notify::Result<Event>) {
        let Some(event) = complete(event) else {
            self.closed.clear();
            return self.broadcast(|| Hint::Everything);
        };
        let arrived = self.closed.observe(event.kind, &event.paths);
        if !is_change(event.kind) {
            return;
        }
        for path in &event.paths {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                for (root, folder) in self.users(parent) {
                    let file = folder.join(name);
                    root.sender.send(if arrived == Some(path) {
                        Hint::Arrived(file)
                    } else {
                        Hint::Path(file)
                    });
                }
            }
            // Of the folder itself: moved, deleted or unmounted.
            for (root, folder) in self.users(path) {
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

/// None if the event does not say what it is about, as after an overflow of the kernel's queue.
fn complete(event: notify::Result<Event>) -> Option<Event> {
    event.ok().filter(|event| !event.need_rescan())
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
mod tests;
