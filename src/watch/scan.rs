//! Walks a root, or a part of it, on a thread of its own, and reports folder by folder what is there.
//!
//! For each folder: set its inotify watch, then list it, so that whatever appears is either in the listing or told
//! by an event. The size and times of a listing only say *what to look at*; whether a file is finished is judged on
//! the opened file. The thread may hang for as long as its share does; nobody joins it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType};
use tokio::sync::mpsc as async_mpsc;

use super::Survey;
use super::events::{self, Events};
use super::left_alone::LeftAlone;
use crate::causes::chain;
use crate::config::Watch;
use crate::failpoint::panicpoint;
use crate::filesystem;
use crate::ledger::{Fingerprint, Ready};
use crate::selection::{ConnectorType, Selection};
use crate::share::{self, Identity, Kind, Root};

/// The most entries that one report holds, so that a folder with a million files is not one of them.
const LISTING_MAX: usize = 4096;

/// Folders that could not be listed are named up to this number.
const UNREAD_MAX: usize = 1000;

/// What to walk.
#[derive(Debug)]
pub(super) enum Request {
    /// The whole root, with a new set of inotify watches.
    All,
    /// One folder and what is below it.
    Folder(PathBuf),
}

/// What the walk tells.
#[derive(Debug)]
pub(super) enum Report {
    /// Files of one folder that the watch may want.
    Listing(Listing),
    /// The walk of [`Request::All`] is over.
    Done(Summary),
    /// The walk of a [`Request::Folder`] is over.
    FolderDone,
}

/// Wanted files of one folder; a large folder comes in several of these.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) dir: PathBuf,
    pub(super) files: Vec<Listed>,
    /// Which part of the folder it is, in this walk; from 0.
    pub(super) part: u32,
    /// The folder was listed to its end with it. None of a folder whose listing broke off is the last one.
    pub(super) last: bool,
}

/// A wanted file.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) fingerprint: Fingerprint,
    /// None: it is stored only.
    pub(super) connector: Option<ConnectorType>,
}

impl Listing {
    /// Of all by which a file is known.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut all = Vec::new();
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default().as_bytes();
            let connector = file.connector.as_ref().map(ConnectorType::as_str);
            let print = &file.fingerprint;
            all.extend((name.len() as u64).to_le_bytes());
            all.extend(name);
            all.extend(print.size.to_le_bytes());
            all.extend(print.mtime_ns.to_le_bytes());
            all.extend(print.ctime_ns.to_le_bytes());
            all.extend(
                connector
                    .map_or(u64::MAX, |name| name.len() as u64)
                    .to_le_bytes(),
            );
            all.extend(connector.unwrap_or_default().as_bytes());
        }
        // A folder that ends here may have gone on once.
        all.push(u8::from(self.last));
        *blake3::hash(&all).as_bytes()
    }
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
    /// Whether a part of it is on a file system that tells no events.
    pub(super) remote: bool,
    /// Whether every folder is watched by inotify.
    pub(super) watched: bool,
    /// Folders that could not be read or watched, with the reason; the first few, and how many in all.
    pub(super) problems: Vec<String>,
    pub(super) problem_count: u64,
    /// Folders that could not be listed to their end: nothing is known of what they hold. None: there were too many.
    pub(super) unread: Option<Vec<PathBuf>>,
}

/// How to walk.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) root: PathBuf,
    pub(super) recursive: bool,
    pub(super) selection: Selection,
    pub(super) left_alone: Arc<LeftAlone>,
}

/// Starts the thread. It ends when the returned sender or the receiver of `reports` is dropped.
pub(super) fn spawn(
    name: &str,
    plan: Plan,
    hints: events::Sender,
    reports: async_mpsc::Sender<Report>,
) -> io::Result<mpsc::Sender<Request>> {
    let (requests, inbox) = mpsc::channel();
    std::thread::Builder::new()
        .name(format!("scan {name}"))
        .spawn(move || {
            let mut scanner = Scanner {
                plan,
                hints,
                reports,
                events: None,
                found: Found::default(),
            };
            for request in inbox {
                let told = match request {
                    Request::All => scanner.all(),
                    Request::Folder(folder) => scanner.folder(folder),
                };
                if told.is_err() {
                    return;
                }
            }
        })?;
    Ok(requests)
}

/// One walk whose listings are gathered.
pub(super) async fn survey(watch: &Watch) -> io::Result<Survey> {
    let plan = Plan {
        root: watch.path.clone(),
        recursive: watch.recursive,
        selection: watch.selection.clone(),
        left_alone: Arc::new(LeftAlone::new(&watch.name)),
    };
    let (hints, _unheard) = events::channel();
    let (reports, mut reported) = async_mpsc::channel(16);
    let requests = spawn(&watch.name, plan, hints, reports)?;
    let gone = || io::Error::other("the scan ended by itself");
    requests.send(Request::All).map_err(|_| gone())?;
    let mut survey = Survey::default();
    loop {
        match reported.recv().await.ok_or_else(gone)? {
            Report::Listing(listing) => {
                survey
                    .files
                    .extend(listing.files.into_iter().map(|file| Ready {
                        path: file.path,
                        fingerprint: file.fingerprint,
                        connector: file.connector.map(|connector| connector.to_string()),
                    }));
            }
            Report::FolderDone => {}
            Report::Done(summary) => {
                summary.root?;
                survey.ignored = summary.ignored;
                survey.problems = summary.problems;
                return Ok(survey);
            }
        }
    }
}

struct Scanner {
    plan: Plan,
    hints: events::Sender,
    reports: async_mpsc::Sender<Report>,
    events: Option<Events>,
    found: Found,
}

#[derive(Default)]
struct Found {
    files: u64,
    ignored: u64,
    remote: bool,
    unwatched: bool,
    problems: Vec<String>,
    problem_count: u64,
    unread: Vec<PathBuf>,
}

/// Nobody listens any more.
struct Stopped;

impl Scanner {
    fn all(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        self.found = Found::default();
        let root = self.walk_root()?;
        let found = std::mem::take(&mut self.found);
        self.tell(Report::Done(Summary {
            files: found.files,
            ignored: found.ignored,
            took: began.elapsed(),
            root,
            remote: found.remote,
            watched: self.events.is_some() && !found.unwatched,
            problems: found.problems,
            problem_count: found.problem_count,
            unread: (found.unread.len() <= UNREAD_MAX).then_some(found.unread),
        }))
    }

    /// Walks the whole root. A root that is replaced in the middle (unmounted, say) makes the walk count for nothing.
    fn walk_root(&mut self) -> Result<io::Result<Identity>, Stopped> {
        let opened = Root::open(&self.plan.root).and_then(|root| Ok((root.identity()?, root)));
        let (before, root) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        self.found.remote = root
            .folder(Path::new(""))
            .and_then(filesystem::is_remote)
            .unwrap_or(true);
        // New watches each time: those of a root that was replaced, or that were lost, are mended by the way.
        self.events = None;
        if !self.found.remote {
            match Events::new(&self.plan.root, self.hints.clone()) {
                Ok(events) => self.events = Some(events),
                Err(error) => self.problem(Path::new(""), &chain(&error)),
            }
        }
        self.walk(&root, PathBuf::new())?;
        let after = Root::open(&self.plan.root).and_then(|root| root.identity());
        Ok(match after {
            Ok(after) if after == before => Ok(after),
            Ok(_) => Err(io::Error::other(
                "it was replaced by another folder during the scan",
            )),
            Err(error) => Err(error),
        })
    }

    fn folder(&mut self, folder: PathBuf) -> Result<(), Stopped> {
        panicpoint("scan");
        if let Ok(root) = Root::open(&self.plan.root) {
            self.walk(&root, folder)?;
        }
        self.tell(Report::FolderDone)
    }

    fn walk(&mut self, root: &Root, start: PathBuf) -> Result<(), Stopped> {
        let mut stack = vec![start];
        while let Some(dir) = stack.pop() {
            if let Err(error) = self.list(root, &dir, &mut stack)? {
                // A folder that is gone by now is no problem: its removal is an event, or the next scan's business.
                if error.kind() != io::ErrorKind::NotFound || dir.as_os_str().is_empty() {
                    self.problem(&dir, &error.to_string());
                    if self.found.unread.len() <= UNREAD_MAX {
                        self.found.unread.push(dir);
                    }
                }
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        root: &Root,
        dir: &Path,
        stack: &mut Vec<PathBuf>,
    ) -> Result<io::Result<()>, Stopped> {
        let opened = root.folder(dir).and_then(|fd| {
            let remote = self.found.remote || filesystem::is_remote(&fd)?;
            Ok((remote, fd))
        });
        let (remote, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        self.found.remote |= remote;
        self.watch(dir);
        let mut entries = match Dir::new(fd) {
            Ok(entries) => entries,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut files = Vec::new();
        let mut part = 0;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error.into())),
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = dir.join(name);
            let ask = || {
                let fd = entries.fd().ok()?;
                rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok()
            };
            // By name and type before any further call; some file systems do not tell the type.
            let (kind, stat) = match entry.file_type() {
                FileType::Directory => (Kind::Folder, None),
                FileType::RegularFile => (Kind::Regular, None),
                FileType::Unknown => match ask() {
                    Some(stat) => (share::kind(&stat), Some(stat)),
                    None => continue,
                },
                _ => continue,
            };
            match kind {
                Kind::Folder if self.enters(&path) => stack.push(path),
                Kind::Regular => {
                    let verdict = self.plan.selection.decide_entered(&path);
                    self.plan.left_alone.mention(&path, &verdict);
                    let Some(connector) = verdict.connector() else {
                        self.found.ignored += 1;
                        continue;
                    };
                    let stat = stat.or_else(ask);
                    let Some(stat) = stat.filter(|stat| share::kind(stat) == Kind::Regular) else {
                        continue;
                    };
                    self.found.files += 1;
                    files.push(Listed {
                        path,
                        fingerprint: share::fingerprint_of(&stat),
                        connector,
                    });
                }
                Kind::Folder | Kind::Other => {}
            }
            if files.len() == LISTING_MAX {
                self.tell_listing(dir, std::mem::take(&mut files), part, false)?;
                part += 1;
            }
        }
        if part > 0 || !files.is_empty() {
            self.tell_listing(dir, files, part, true)?;
        }
        Ok(Ok(()))
    }

    fn tell_listing(
        &self,
        dir: &Path,
        files: Vec<Listed>,
        part: u32,
        last: bool,
    ) -> Result<(), Stopped> {
        self.tell(Report::Listing(Listing {
            dir: dir.to_owned(),
            files,
            part,
            last,
        }))
    }

    fn enters(&self, path: &Path) -> bool {
        self.plan.recursive && self.plan.selection.prunes(path).is_none()
    }

    fn watch(&mut self, dir: &Path) {
        let Some(events) = self.events.as_mut() else {
            return;
        };
        match events.watch(dir) {
            Ok(()) | Err(events::Error::Gone) => {}
            Err(error) => {
                self.found.unwatched = true;
                self.problem(dir, &chain(&error));
            }
        }
    }

    fn problem(&mut self, dir: &Path, what: &str) {
        self.found.problem_count += 1;
        if self.found.problems.len() < 5 {
            self.found
                .problems
                .push(format!("{:?}: {what}", self.plan.root.join(dir)));
        }
    }

    fn tell(&self, report: Report) -> Result<(), Stopped> {
        self.reports.blocking_send(report).map_err(|_| Stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::watch::events::{Hint, Hints};

    /// A walk that has begun to list a folder and waits for somebody to take what it found.
    struct Halted {
        dir: tempfile::TempDir,
        root: PathBuf,
        reports: async_mpsc::Receiver<Report>,
        hints: Hints,
        _requests: mpsc::Sender<Request>,
    }

    impl Halted {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            // One listing is taken, one fits into the channel, and the next is held up before the folder is at its end.
            for number in 0..LISTING_MAX * 4 {
                File::create(root.join(format!("{number}.ifc"))).unwrap();
            }
            let (sender, hints) = events::channel();
            let (reporter, reports) = async_mpsc::channel(1);
            let plan = Plan {
                root: root.clone(),
                recursive: true,
                selection: Selection::default(),
                left_alone: Arc::new(LeftAlone::new("north")),
            };
            let requests = spawn("north", plan, sender, reporter).unwrap();
            requests.send(Request::All).unwrap();
            Self {
                dir,
                root,
                reports,
                hints,
                _requests: requests,
            }
        }

        async fn first_listing(&mut self) -> Listing {
            match self.reports.recv().await {
                Some(Report::Listing(listing)) => listing,
                other => panic!("{other:?}"),
            }
        }

        async fn summary(&mut self) -> Summary {
            loop {
                if let Report::Done(summary) = self.reports.recv().await.unwrap() {
                    return summary;
                }
            }
        }
    }

    #[tokio::test]
    async fn what_changes_while_its_folder_is_listed_is_told_by_an_event() {
        let mut walk = Halted::new();
        let listed = walk.first_listing().await.files.remove(0).path;
        fs::write(walk.root.join(&listed), "changed after it was listed").unwrap();
        walk.summary().await;
        let hint = tokio::time::timeout(Duration::from_secs(10), walk.hints.next()).await;
        assert_eq!(hint.ok(), Some(Hint::Path(listed)));
    }

    #[tokio::test]
    async fn a_walk_of_a_root_that_is_replaced_meanwhile_counts_for_nothing() {
        let mut walk = Halted::new();
        walk.first_listing().await;
        fs::rename(&walk.root, walk.dir.path().join("away")).unwrap();
        fs::create_dir(&walk.root).unwrap();
        let told = walk.summary().await.root.unwrap_err().to_string();
        assert!(told.contains("replaced"), "{told}");
    }

    /// One file with this name, this size and these times, and this connector.
    fn listing(path: &str, numbers: [i64; 3], connector: Option<&str>) -> Listing {
        let [size, mtime_ns, ctime_ns] = numbers;
        let file = Listed {
            path: PathBuf::from(path),
            fingerprint: Fingerprint {
                size: size.unsigned_abs(),
                mtime_ns,
                ctime_ns,
            },
            connector: connector.map(ConnectorType::new),
        };
        Listing {
            dir: PathBuf::from("plans"),
            files: vec![file],
            part: 0,
            last: true,
        }
    }

    #[test]
    fn a_digest_tells_any_change_of_what_a_file_is_known_by() {
        let digests: Vec<_> = [
            listing("plans/a.dgn", [1, 2, 3], Some("MSTN")),
            listing("plans/b.dgn", [1, 2, 3], Some("MSTN")),
            listing("plans/a.dgn", [0, 2, 3], Some("MSTN")),
            listing("plans/a.dgn", [1, 0, 3], Some("MSTN")),
            listing("plans/a.dgn", [1, 2, 0], Some("MSTN")),
            listing("plans/a.dgn", [1, 2, 3], Some("DWG")),
            listing("plans/a.dgn", [1, 2, 3], Some("CIVI")),
            listing("plans/a.dgn", [1, 2, 3], Some("")),
            listing("plans/a.dgn", [1, 2, 3], None),
        ]
        .iter()
        .map(Listing::digest)
        .collect();
        let different: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
        let again = listing("plans/a.dgn", [1, 2, 3], Some("MSTN"));
        assert_eq!(again.digest(), digests[0]);
        let two = Listing {
            files: again
                .files
                .into_iter()
                .chain(listing("plans/b.dgn", [1, 2, 3], None).files)
                .collect(),
            dir: again.dir,
            part: 0,
            last: true,
        };
        assert!(!digests.contains(&two.digest()));
    }
}
