//! Walks a root, or a part of it, on a thread of its own that ends with the walk, and reports its files folder by
//! folder.
//!
//! For each folder: set its inotify watch, then list it, so that whatever appears is either in the listing or reported
//! by an event. The size and times of a listing only say *what to probe*; whether a file is complete is decided on
//! the opened file. The thread may hang for as long as its share does; it is never joined.

mod listing;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType};
use tokio::sync::mpsc as async_mpsc;

use super::Survey;
use super::events::{self, Watches};
use super::problems::Problems;
use super::share::share_of;
use super::skip_log::SkipLog;
use super::thread_on_demand::ThreadOnDemand;
use crate::config::Watch;
use crate::failpoint::panicpoint;
use crate::filesystem;
use crate::ledger::Ready;
use crate::rooted_fs::{self, Identity, Kind, RootDir};
use crate::selection::Scope;
pub(super) use listing::{Listed, Listing};
use waiting::Waiting;
pub(super) use waiting::too_long;

/// The most entries that one report holds, so that a folder with a million files is not one of them.
const LISTING_MAX: usize = 4096;

/// The same in bytes of paths.
const LISTING_BYTES_MAX: usize = 1024 * 1024;

/// Parts of a root on remote file systems that are scanned by themselves; with more of them the whole root is.
const REMOTE_MAX: usize = 64;

/// What to walk.
#[derive(Debug)]
pub(super) enum Request {
    /// The whole root, with a new set of inotify watches.
    All,
    /// One folder and what is below it.
    Folder(PathBuf),
}

/// What the walk reports.
#[derive(Debug)]
pub(super) enum Report {
    /// The walk of [`Request::All`] begins, in a folder that is there, if that is known.
    Begun(Option<String>),
    /// Files of one folder that the watch may want.
    Listing(Listing),
    /// The walk of [`Request::All`] is over.
    Done(Summary),
    /// The walk of a [`Request::Folder`] is over.
    FolderDone(Problems),
}

/// What a walk of the whole root found.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) files: u64,
    /// Files that are not wanted.
    pub(super) ignored: u64,
    pub(super) took: Duration,
    /// The root as it was before and after, or why it could not be walked.
    pub(super) root: io::Result<Identity>,
    /// Whether the root, or too many parts of it, are on a file system that reports no events.
    pub(super) remote: bool,
    /// The topmost folders that are on such a file system, if it is not all of the root.
    pub(super) remote_folders: Vec<PathBuf>,
    /// Whether every folder is watched by inotify.
    pub(super) watched: bool,
    /// What could not be read, watched or accepted.
    pub(super) problems: Problems,
}

/// Shows from outside of the thread whether it gets on.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    steps: AtomicU64,
    /// It waits until its report is received.
    reporting: AtomicBool,
}

impl Pulse {
    /// A number that changes while the walk gets on. None: it does not wait for the share.
    pub(super) fn steps(&self) -> Option<u64> {
        let reporting = self.reporting.load(Ordering::Relaxed);
        (!reporting).then(|| self.steps.load(Ordering::Relaxed))
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// How to walk.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) root: PathBuf,
    pub(super) scope: Scope,
    pub(super) skip_log: Arc<SkipLog>,
    pub(super) pulse: Arc<Pulse>,
}

/// What scans as requested, as long as `reports` has a receiver.
pub(super) fn scanner(
    name: &str,
    plan: Plan,
    watches: Option<Watches>,
    reports: async_mpsc::Sender<Report>,
) -> ThreadOnDemand<Request> {
    let mut scanner = Scanner {
        plan,
        watches,
        inotify_off: true,
        reports,
        found: Found::default(),
    };
    ThreadOnDemand::new(format!("scan {name}"), move |request| {
        let reported = match request {
            Request::All => scanner.all(),
            Request::Folder(folder) => scanner.folder(&folder),
        };
        match reported {
            Ok(()) => ControlFlow::Continue(()),
            Err(Stopped) => ControlFlow::Break(()),
        }
    })
}

/// One walk; each selected file is passed to `each`.
pub(super) async fn survey(watch: &Watch, mut each: impl FnMut(Ready)) -> io::Result<Survey> {
    let plan = Plan {
        root: watch.path.clone(),
        scope: watch.scope.clone(),
        skip_log: Arc::new(SkipLog::new(&watch.name)),
        pulse: Arc::default(),
    };
    let (reports, mut reported) = async_mpsc::channel(16);
    let gone = || io::Error::other("the scan ended unexpectedly");
    let requests = scanner(&watch.name, plan, None, reports);
    requests.send(Request::All)?;
    loop {
        match reported.recv().await.ok_or_else(gone)? {
            Report::Listing(listing) => {
                listing.files.iter().map(Ready::from).for_each(&mut each);
            }
            Report::Begun(_) | Report::FolderDone(_) => {}
            Report::Done(summary) => {
                summary.root?;
                return Ok(Survey {
                    ignored: summary.ignored,
                    problems: summary.problems.lines(&watch.path),
                });
            }
        }
    }
}

struct Scanner {
    plan: Plan,
    /// None: changes are not watched.
    watches: Option<Watches>,
    /// No folder can be watched, or none needs to be.
    inotify_off: bool,
    reports: async_mpsc::Sender<Report>,
    found: Found,
}

#[derive(Default)]
struct Found {
    files: u64,
    ignored: u64,
    remote: bool,
    remote_folders: Vec<PathBuf>,
    unwatched: bool,
    problems: Problems,
}

impl Found {
    /// Notes a folder on a file system that reports no events.
    fn note_remote(&mut self, dir: &Path) {
        let known = |top: &PathBuf| dir.starts_with(top);
        if self.remote || self.remote_folders.iter().any(known) {
            return;
        }
        if self.remote_folders.len() < REMOTE_MAX {
            self.remote_folders.push(dir.to_owned());
        } else {
            self.remote = true;
        }
    }
}

/// The receiver is gone.
struct Stopped;

impl Scanner {
    fn all(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        self.found = Found::default();
        let root = self.walk_root()?;
        let found = std::mem::take(&mut self.found);
        self.report(Report::Done(Summary {
            files: found.files,
            ignored: found.ignored,
            took: began.elapsed(),
            root,
            remote: found.remote,
            watched: !self.inotify_off && !found.unwatched,
            remote_folders: found.remote_folders,
            problems: found.problems,
        }))
    }

    /// Walks the whole root. A root that is replaced in the middle (unmounted, say) makes the walk count for nothing.
    fn walk_root(&mut self) -> Result<io::Result<Identity>, Stopped> {
        let opened = RootDir::open(&self.plan.root).and_then(|root| Ok((root.identity()?, root)));
        let (before, root) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let folder = root.folder(Path::new(""));
        let share = folder
            .as_ref()
            .ok()
            .and_then(|fd| share_of(fd).ok().flatten());
        self.report(Report::Begun(share))?;
        self.found.remote = folder.and_then(filesystem::is_remote).unwrap_or(true);
        // Every folder is watched anew: watches of a root that was replaced, or that were lost, are restored by that.
        self.inotify_off = true;
        if let Some(watches) = &mut self.watches {
            if self.found.remote {
                watches.clear();
            } else {
                match watches.begin() {
                    Ok(()) => self.inotify_off = false,
                    Err(error) => {
                        self.found.problems.add(&error.to_string(), Path::new(""));
                    }
                }
            }
        }
        self.walk(&root, Path::new(""))?;
        if let Some(watches) = &mut self.watches {
            watches.end();
        }
        let after = RootDir::open(&self.plan.root).and_then(|root| root.identity());
        Ok(match after {
            Ok(after) if after == before => Ok(after),
            Ok(_) => Err(io::Error::other(
                "it was replaced by another folder during the scan",
            )),
            Err(error) => Err(error),
        })
    }

    fn folder(&mut self, folder: &Path) -> Result<(), Stopped> {
        panicpoint("scan");
        self.found = Found::default();
        if let Ok(root) = RootDir::open(&self.plan.root) {
            self.walk(&root, folder)?;
        }
        let found = std::mem::take(&mut self.found);
        self.report(Report::FolderDone(found.problems))
    }

    fn walk(&mut self, root: &RootDir, start: &Path) -> Result<(), Stopped> {
        let mut waiting = Waiting::new(start.to_owned());
        self.list_in(root, start, &mut waiting)?;
        while let Some(dir) = waiting.next().map(Path::to_owned) {
            self.list_in(root, &dir, &mut waiting)?;
        }
        Ok(())
    }

    fn list_in(
        &mut self,
        root: &RootDir,
        dir: &Path,
        waiting: &mut Waiting,
    ) -> Result<(), Stopped> {
        self.plan.pulse.step();
        if let Some(why) = too_long(dir) {
            self.found.problems.refuse(&why, dir);
        } else if let Err(error) = self.list(root, dir, waiting)? {
            // A folder that is gone by now is no problem: its removal is an event, or the next scan's business.
            if error.kind() != io::ErrorKind::NotFound || dir.as_os_str().is_empty() {
                let why = error.to_string();
                self.found.problems.add_unread(&why, dir);
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        root: &RootDir,
        dir: &Path,
        waiting: &mut Waiting,
    ) -> Result<io::Result<()>, Stopped> {
        let opened = root.folder(dir).and_then(|fd| {
            let remote = self.found.remote || filesystem::is_remote(&fd)?;
            Ok((remote, Identity::of(&fd)?, fd))
        });
        let (remote, identity, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if remote {
            self.found.note_remote(dir);
        } else {
            self.watch(dir, identity);
        }
        let mut entries = match Dir::new(fd) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut files = Vec::new();
        let (mut part, mut bytes) = (0, 0);
        // All of it could be read, and nothing was refused.
        let mut whole = true;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error.into())),
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.plan.pulse.step();
            let path = dir.join(name);
            let ask = || {
                let fd = entries.fd()?;
                rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            };
            // By name and type before any further call; some file systems do not report the type.
            let (kind, stat) = match entry.file_type() {
                FileType::Directory => (Kind::Folder, None),
                FileType::RegularFile => (Kind::Regular, None),
                FileType::Unknown => match ask() {
                    Ok(stat) => (rooted_fs::kind(&stat), Some(stat)),
                    Err(error) => {
                        whole &= self.unseen(&error.into(), &path, dir);
                        continue;
                    }
                },
                _ => continue,
            };
            match kind {
                Kind::Folder if self.enters(&path) => {
                    let why = too_long(&path).or_else(|| {
                        let full = "folder with too many subfolders is not read completely; split it or exclude some";
                        (!waiting.push(name)).then(|| full.to_owned())
                    });
                    if let Some(why) = why {
                        self.found.problems.refuse(&why, &path);
                    }
                }
                Kind::Regular => {
                    let verdict = self.plan.scope.decide_entered(&path);
                    self.plan.skip_log.mention(&path, &verdict);
                    let set_stem = self.plan.scope.set_stem(&path, &verdict);
                    let Some(connector) = verdict.connector() else {
                        self.found.ignored += 1;
                        continue;
                    };
                    if let Some(why) = too_long(&path) {
                        self.found.problems.refuse_in(&why, &path, dir);
                        whole = false;
                        continue;
                    }
                    let stat = match stat.map_or_else(ask, Ok) {
                        Ok(stat) => stat,
                        Err(error) => {
                            whole &= self.unseen(&error.into(), &path, dir);
                            continue;
                        }
                    };
                    if rooted_fs::kind(&stat) != Kind::Regular {
                        continue;
                    }
                    self.found.files += 1;
                    bytes += path.as_os_str().len();
                    files.push(Listed {
                        path,
                        fingerprint: rooted_fs::fingerprint_of(&stat),
                        connector,
                        set_stem,
                    });
                }
                Kind::Folder | Kind::Other => {}
            }
            if files.len() == LISTING_MAX || bytes >= LISTING_BYTES_MAX {
                self.report_listing(dir, std::mem::take(&mut files), part, false)?;
                (part, bytes) = (part + 1, 0);
            }
        }
        if part > 0 || !files.is_empty() {
            self.report_listing(dir, files, part, whole)?;
        }
        Ok(Ok(()))
    }

    fn report_listing(
        &self,
        dir: &Path,
        files: Vec<Listed>,
        part: u32,
        last: bool,
    ) -> Result<(), Stopped> {
        self.report(Report::Listing(Listing {
            dir: dir.to_owned(),
            files,
            part,
            last,
        }))
    }

    fn enters(&self, path: &Path) -> bool {
        self.plan.scope.enters(path)
    }

    fn watch(&mut self, dir: &Path, folder: Identity) {
        let Some(watches) = self.watches.as_ref().filter(|_| !self.inotify_off) else {
            return;
        };
        match watches.watch(dir, folder) {
            Ok(()) | Err(events::Error::Gone) => {}
            Err(error) => {
                self.found.unwatched = true;
                self.found.problems.add(&error.to_string(), dir);
            }
        }
    }

    /// An entry that is listed, but cannot be read. Returns whether it is gone by now, which is no problem.
    fn unseen(&mut self, error: &io::Error, path: &Path, dir: &Path) -> bool {
        if rooted_fs::is_gone(error) {
            return true;
        }
        let why = format!("cannot be read: {error}");
        self.found.problems.add_partly_read(&why, path, dir);
        false
    }

    fn report(&self, report: Report) -> Result<(), Stopped> {
        let pulse = &self.plan.pulse;
        pulse.reporting.store(true, Ordering::Relaxed);
        let reported = self.reports.blocking_send(report).map_err(|_| Stopped);
        pulse.step();
        pulse.reporting.store(false, Ordering::Relaxed);
        reported
    }
}

#[cfg(test)]
mod tests;
