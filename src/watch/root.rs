//! The task of one root: takes hints, probes and listings together and hands over what is finished.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc as async_mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::absence::{self, Listed};
use super::events::{self, Hint, Hints};
use super::probe::{self, Probe};
use super::problems::{self, Problems};
use super::scan::{self, Listing, Plan, Report, Summary};
use super::settle::{Settling, Step};
use super::skip_log::SkipLog;
use super::{Order, Progress, ReadySink};
use crate::config::Watch;
use crate::failpoint::{failpoint, share_deadline};
use crate::ledger::{
    self, Absence, Absent, Changes, Fingerprint, Ledger, ListingPart, Ready, RootState, WatchId,
};
use crate::rooted_fs::Identity;
use crate::selection::ConnectorType;

/// Paths in one request to the looking thread: enough to be efficient, few enough to hand over in between.
const PROBES_MAX: usize = 256;

/// A share that has not answered for this long is reported as hanging.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// With more files in hand, or more bytes of their paths, no more listings are taken: the scan waits.
const IN_HAND_MAX: usize = 250_000;
const IN_HAND_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Files that cannot be read and are looked at again and again; the others are left to the next scan.
const BUSY_FILES_MAX: usize = 10_000;

/// A root of which a part could not be read is scanned again after so many poll intervals.
const UNREAD_POLLS: u32 = 10;

/// How often the root is checked for being there at all, and for being the same one.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// What the ledger knows of a file.
#[derive(Debug)]
pub(super) struct KnownFile {
    fingerprint: Option<Fingerprint>,
    connector: Option<String>,
    pub(super) absence: Option<Absence>,
}

/// What the ledger knows of the files of a folder, and since which change.
type KnownFiles = (Changes, HashMap<OsString, KnownFile>);

pub(super) struct Task {
    watch: Watch,
    id: WatchId,
    out: ReadySink,
    progress: watch::Sender<Progress>,
    settling: Settling,
    /// Paths that wait for their first look, oldest first; `queued` holds the same ones.
    dirty: VecDeque<PathBuf>,
    queued: HashSet<PathBuf>,
    /// Bytes of all paths in `dirty`.
    dirty_bytes: usize,
    /// How many files could not be read, by the reason, since all could be.
    unreadable: Problems,
    probes: mpsc::Sender<probe::Request>,
    /// When the request was sent that the looking thread has not answered yet.
    asked: Option<Instant>,
    scans: mpsc::Sender<scan::Request>,
    scan: ScanState,
    root: RootView,
    /// Wanted files of the scan under way that turned out to be new or changed.
    changed: usize,
    skip_log: Arc<SkipLog>,
    /// Of the folder whose listing comes now, once a part of it had to be compared: a large one comes in several.
    known: Option<KnownFiles>,
    /// Parts of the folder that held nothing new. They are kept once all its files were compared: after a kill in
    /// between, the next scan must compare them again.
    unchanged_parts: Vec<(u32, [u8; 32], Changes)>,
    /// What the scan under way has listed.
    listed: Listed,
    /// What it did not find.
    absent: Absent,
    /// Files are missing, and the scan that confirms it is still to come.
    unconfirmed: bool,
}

#[derive(Debug)]
struct ScanState {
    /// When the scan under way was asked for.
    since: Option<Instant>,
    /// Another one is wanted after it.
    again: bool,
    next: Instant,
    /// `next` for people.
    next_at: Option<Timestamp>,
    /// When the last one was over.
    ended: Instant,
    /// Scans of single folders under way.
    folders: usize,
    /// Parts that tell no events and are scanned by themselves, and when that comes next.
    polled: Vec<PathBuf>,
    next_poll: Instant,
    pulse: Arc<scan::Pulse>,
    /// How far the scans were when they were looked at last, and since when they have been there.
    seen: (u64, Instant),
}

/// How the root was found last.
#[derive(Debug)]
struct RootView {
    identity: Option<Identity>,
    state: RootState,
    note: Option<String>,
    /// What `note` says without numbers and examples, to tell when it says something new.
    kinds: Vec<String>,
    hanging: bool,
    /// A scan does not get on.
    scan_hangs: bool,
    check: Instant,
    scanned: bool,
    /// Files that the last scan left alone.
    ignored: Option<u64>,
    /// Of the last scan, and of scans of single folders since.
    problems: Problems,
}

enum Event {
    Hint(Hint),
    Probed(probe::ProbeReply),
    Report(Report),
    Order(Order),
    Timer,
}

/// Runs one root until `stop`.
pub(super) async fn run(
    watch: Watch,
    id: WatchId,
    out: ReadySink,
    progress: watch::Sender<Progress>,
    mut orders: async_mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Result<(), super::Error> {
    let thread = |source| super::Error::Thread {
        watch: watch.name.clone(),
        source,
    };
    let (hint_sender, mut hints) = events::channel();
    let (answers, mut seen) = async_mpsc::channel(1);
    let (reports, mut reported) = async_mpsc::channel(4);
    let skip_log = Arc::new(SkipLog::new(&watch.name));
    let pulse = Arc::<scan::Pulse>::default();
    let plan = Plan {
        root: watch.path.clone(),
        scope: watch.scope.clone(),
        skip_log: Arc::clone(&skip_log),
        pulse: Arc::clone(&pulse),
    };
    let probes = probe::spawn(&watch.name, watch.path.clone(), answers).map_err(thread)?;
    let watches = out.events.of_root(&watch.path, hint_sender);
    let scans = scan::spawn(&watch.name, plan, Some(watches), reports).map_err(thread)?;
    let now = Instant::now();
    let mut task = Task {
        settling: Settling::new(watch.settle_policy),
        dirty: VecDeque::new(),
        queued: HashSet::new(),
        dirty_bytes: 0,
        unreadable: Problems::default(),
        probes,
        asked: None,
        scans,
        scan: ScanState {
            since: None,
            again: false,
            next: now,
            next_at: None,
            ended: now,
            folders: 0,
            polled: Vec::new(),
            next_poll: now,
            pulse,
            seen: (0, now),
        },
        root: RootView {
            identity: None,
            state: RootState::Ok,
            note: None,
            kinds: Vec::new(),
            hanging: false,
            scan_hangs: false,
            check: now + CHECK_INTERVAL,
            scanned: false,
            ignored: None,
            problems: Problems::default(),
        },
        changed: 0,
        skip_log,
        known: None,
        unchanged_parts: Vec::new(),
        listed: Listed::default(),
        absent: Absent::default(),
        unconfirmed: false,
        watch,
        id,
        out,
        progress,
    };
    loop {
        task.dispatch();
        let wake = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            seen = seen.recv() => Event::Probed(seen.ok_or_else(|| task.ended("probe"))?),
            report = reported.recv(), if task.has_capacity() => Event::Report(report.ok_or_else(|| task.ended("scan"))?),
            Some(order) = orders.recv() => Event::Order(order),
            hint = hints.next() => Event::Hint(hint),
            () = tokio::time::sleep_until(task.next_timer().into()) => Event::Timer,
        };
        task.handle(wake, &mut hints).await?;
    }
}

impl Task {
    async fn handle(&mut self, wake: Event, hints: &mut Hints) -> Result<(), super::Error> {
        match wake {
            Event::Hint(Hint::Everything) => self.scan_soon(Instant::now()),
            Event::Hint(Hint::WatcherDied) => {
                warn!(
                    watch = %self.watch.name,
                    "the thread that receives file events ended by itself; the folder is scanned, and watched anew"
                );
                // Should it end again and again, the folder is polled instead.
                self.scan_soon(self.scan.ended + self.watch.poll_interval);
            }
            Event::Hint(Hint::Path(path)) => {
                self.hint(path);
                while let Some(path) = hints.try_next() {
                    self.hint(path);
                }
            }
            Event::Probed(seen) => self.on_probe(seen).await?,
            Event::Report(Report::Listing(listing)) => self.on_listing(listing).await?,
            Event::Report(Report::FolderDone(problems)) => {
                self.scan.folders = self.scan.folders.saturating_sub(1);
                self.on_folder_problems(&problems).await?;
                if self.absent.missing > 0 {
                    self.scan_soon(Instant::now() + self.watch.settle_policy.settle);
                }
            }
            Event::Report(Report::Done(summary)) => self.on_scan_done(summary).await?,
            Event::Order(Order::Scan) => self.scan_soon(Instant::now()),
            Event::Order(Order::Unfinished { path, most, answer }) => {
                // Whoever asked may have gone.
                let _gone = answer.send(self.settling.unfinished(
                    path.as_deref(),
                    most,
                    Instant::now(),
                ));
            }
            Event::Timer => self.check_for_hang().await?,
        }
        self.check_scan_for_hang().await
    }

    /// Sends off what can be asked now, and tells how far things are.
    fn dispatch(&mut self) {
        let now = Instant::now();
        if self.scan.since.is_none()
            && now >= self.scan.next
            && self.scans.send(scan::Request::All).is_ok()
        {
            self.scan.since = Some(now);
            self.scan.again = false;
            self.changed = 0;
            self.listed.begin_scan();
        }
        if self.polls() && now >= self.scan.next_poll {
            self.scan.next_poll = now + self.watch.poll_interval;
            for folder in &self.scan.polled {
                if self
                    .scans
                    .send(scan::Request::Folder(folder.clone()))
                    .is_ok()
                {
                    self.scan.folders += 1;
                }
            }
        }
        if self.asked.is_none() {
            let mut paths = self.settling.take_due(now, PROBES_MAX);
            while paths.len() < PROBES_MAX {
                let Some(path) = self.dirty.pop_front() else {
                    break;
                };
                self.queued.remove(&path);
                self.dirty_bytes -= path.as_os_str().len();
                paths.push(path);
            }
            let check = now >= self.root.check;
            if (check || !paths.is_empty()) && self.probes.send(paths).is_ok() {
                self.asked = Some(now);
                self.root.check = now + CHECK_INTERVAL;
            }
        }
        let progress = Progress {
            at_rest: self.root.scanned
                && self.scan.since.is_none()
                && self.scan.folders == 0
                && self.dirty.is_empty()
                && (self.settling.is_empty() || self.settling.is_stuck())
                && !self.unconfirmed
                && self.asked.is_none(),
            settling: self.settling.len(),
            scanning: self.scan.since.is_some(),
            next_scan: self.scan.next_at,
            ignored: self.root.ignored,
            left_out: self.left_out(),
            problem: (self.root.state == RootState::Unavailable)
                .then(|| self.root.note.clone())
                .flatten(),
        };
        self.progress.send_if_modified(|last| {
            let changed_paths = *last != progress;
            *last = progress;
            changed_paths
        });
    }

    /// What of the root cannot be read, in words.
    fn left_out(&self) -> Option<String> {
        let scanned = Some(&self.root.problems).filter(|problems| !problems.none_unread());
        let opened = Some(&self.unreadable).filter(|_| self.settling.busy_count() > 0);
        let lines: Vec<String> = scanned
            .into_iter()
            .chain(opened)
            .flat_map(|problems| problems.lines(&self.watch.path))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn next_timer(&self) -> Instant {
        let mut next = self.root.check;
        match self.asked {
            Some(asked) => next = next.max(asked + share_deadline(ANSWER_MAX)),
            None => next = self.settling.next_probe().map_or(next, |at| at.min(next)),
        }
        if self.scan.since.is_none() {
            next = next.min(self.scan.next);
        }
        if self.polls() {
            next = next.min(self.scan.next_poll);
        }
        next.max(Instant::now())
    }

    /// Whether parts of the root are scanned by themselves, and no other scan is under way.
    fn polls(&self) -> bool {
        !self.scan.polled.is_empty() && self.scan.since.is_none() && self.scan.folders == 0
    }

    /// Scans as soon as it is `earliest`.
    fn scan_soon(&mut self, earliest: Instant) {
        self.scan.again = self.scan.since.is_some();
        self.scan.next = self.scan.next.min(earliest.max(Instant::now()));
    }

    fn ended(&self, thread: &'static str) -> super::Error {
        super::Error::Ended {
            watch: self.watch.name.clone(),
            thread,
        }
    }

    fn hint(&mut self, path: PathBuf) {
        if self.settling.touch(&path, Instant::now()) || self.skipped(&path) {
            return;
        }
        if self.has_capacity() {
            self.enqueue(path);
        } else {
            // The scan finds it when there is less in hand.
            self.scan_soon(Instant::now());
        }
    }

    /// Whether there is little enough in hand to take more.
    fn has_capacity(&self) -> bool {
        self.dirty.len() + self.settling.len() < IN_HAND_MAX
            && self.dirty_bytes + self.settling.bytes() < IN_HAND_BYTES_MAX
    }

    /// Whether the path can be neither a wanted file nor a folder to enter.
    fn skipped(&self, path: &Path) -> bool {
        scan::too_long(path).is_some() || !self.watch.scope.may_concern(path)
    }

    fn enqueue(&mut self, path: PathBuf) {
        if self.queued.insert(path.clone()) {
            self.dirty_bytes += path.as_os_str().len();
            self.dirty.push_back(path);
        }
    }

    /// The connector for a path: None if it is not wanted, Some(None) if it is stored only.
    fn wanted(&self, path: &Path) -> Option<Option<String>> {
        let verdict = self.watch.scope.decide(path);
        self.skip_log.mention(path, &verdict);
        let connector = verdict.connector()?;
        Some(connector.map(|connector| connector.to_string()))
    }

    async fn on_listing(&mut self, listing: Listing) -> Result<(), super::Error> {
        let ledger = &self.out.ledger;
        let digest = listing.digest();
        let part = ListingPart {
            watch: self.id,
            dir: &listing.dir,
            part: listing.part,
            digest: &digest,
        };
        if listing.part == 0 {
            self.known = None;
            self.unchanged_parts.clear();
            self.listed.begin_folder();
        }
        let (unchanged, changes) = ledger.is_old_news(&part).await?;
        let names = listing
            .files
            .iter()
            .filter_map(|file| file.path.file_name());
        self.listed.take_part(names, !unchanged);
        if unchanged {
            return self.end_folder(&listing).await;
        }
        let (changes, known) = match &self.known {
            Some(known) => known,
            None => {
                let files = known_files(ledger, self.id, &listing.dir).await?;
                self.known.insert((changes, files))
            }
        };
        let (mut changed_paths, mut found) = (Vec::new(), Vec::new());
        for file in &listing.files {
            let name = file.path.file_name().unwrap_or_default();
            match known.get(name) {
                Some(known)
                    if known.fingerprint == Some(file.fingerprint)
                        && known.connector.as_deref()
                            == file.connector.as_ref().map(ConnectorType::as_str) =>
                {
                    if known.absence == Some(Absence::Missing) {
                        found.push(name.to_owned());
                    }
                }
                _ => changed_paths.push(file.path.clone()),
            }
        }
        if changed_paths.is_empty() {
            self.unchanged_parts.push((listing.part, digest, *changes));
        }
        if !found.is_empty() {
            ledger.record_found(self.id, &listing.dir, &found).await?;
        }
        for path in changed_paths {
            if !self.settling.touch(&path, Instant::now()) {
                self.changed += 1;
                self.enqueue(path);
            }
        }
        self.end_folder(&listing).await
    }

    /// Once a folder was listed to its end: which of its known files are not there any more?
    async fn end_folder(&mut self, listing: &Listing) -> Result<(), super::Error> {
        if !listing.last || !self.listed.end_folder(&listing.dir) {
            return Ok(());
        }
        let files = match self.known.take() {
            Some((_, files)) => files,
            None => known_files(&self.out.ledger, self.id, &listing.dir).await?,
        };
        let absent = self.listed.unlisted(&self.watch, &listing.dir, &files);
        if absent.is_empty() {
            for (part, digest, changes) in std::mem::take(&mut self.unchanged_parts) {
                let part = ListingPart {
                    watch: self.id,
                    dir: &listing.dir,
                    part,
                    digest: &digest,
                };
                self.out.ledger.keep_listing(&part, changes).await?;
            }
            return Ok(());
        }
        failpoint("files about to be missing");
        self.record_absent(&listing.dir, &absent).await
    }

    async fn record_absent(
        &mut self,
        dir: &Path,
        files: &[(OsString, Absence)],
    ) -> Result<(), super::Error> {
        if files.is_empty() {
            return Ok(());
        }
        let now = crate::clock::now();
        let settled = now
            .checked_sub(self.watch.settle_policy.settle)
            .unwrap_or(now);
        self.absent += self
            .out
            .ledger
            .record_absent(self.id, dir, files, settled, now)
            .await?;
        Ok(())
    }

    /// Once the whole root was scanned: which known folders were not there?
    async fn end_scan(&mut self, summary: &Summary) -> Result<(), super::Error> {
        self.unconfirmed = false;
        let Ok(identity) = &summary.root else {
            return Ok(());
        };
        let identity = identity.to_string();
        let before = self.out.ledger.root_identity(self.id).await?;
        if summary.files > 0 {
            if before.as_deref() != Some(&identity) {
                self.out
                    .ledger
                    .record_root_identity(self.id, &identity)
                    .await?;
            }
        } else if before.is_some_and(|before| before != identity) {
            // An empty folder that is not the one in which files were found: an unmounted share, not a deletion.
            return Ok(());
        }
        let known = self.out.ledger.known_folders(self.id).await?;
        for dir in self.listed.unlisted_folders(known, &summary.problems) {
            let files = known_files(&self.out.ledger, self.id, &dir).await?;
            let absent = absence::absent(&self.watch, &dir, files.iter());
            self.record_absent(&dir, &absent).await?;
        }
        let Absent {
            gone,
            deselected,
            missing,
        } = std::mem::take(&mut self.absent);
        if gone > 0 || deselected > 0 {
            info!(watch = %self.watch.name, gone, deselected, "known files are gone from the folder or no longer selected");
        }
        self.unconfirmed = missing > 0;
        if self.unconfirmed {
            debug!(watch = %self.watch.name, missing, "files were not found; scanning again to confirm");
        }
        Ok(())
    }

    async fn on_probe(&mut self, seen: probe::ProbeReply) -> Result<(), super::Error> {
        self.asked = None;
        self.answered(&seen.root).await?;
        let mut ready = Vec::new();
        for (path, probe) in seen.paths {
            match probe {
                Probe::File(look) => {
                    let Some(connector) = self.wanted(&path) else {
                        self.settling.forget(&path);
                        continue;
                    };
                    let known = self.out.ledger.known(self.id, &path).await?;
                    if known.is_some_and(|known| {
                        known.fingerprint == Some(look.fingerprint) && known.connector == connector
                    }) {
                        self.settling.forget(&path);
                    } else if self.settling.observe(&path, look) == Step::Ready {
                        ready.push(Ready {
                            path,
                            fingerprint: look.fingerprint,
                            connector,
                        });
                    }
                }
                Probe::Folder => {
                    self.settling.forget(&path);
                    if self.watch.scope.enters(&path)
                        && self.scans.send(scan::Request::Folder(path)).is_ok()
                    {
                        self.scan.folders += 1;
                    }
                }
                Probe::Other | Probe::Gone => {
                    self.settling.forget(&path);
                    let known = self.out.ledger.known(self.id, &path).await?;
                    if known.is_some_and(|known| known.absence.is_none()) {
                        // An event proves nothing; a scan does. Programs that save by rename must not cause many.
                        let settled = Instant::now() + self.watch.settle_policy.settle;
                        self.scan_soon(settled.max(self.scan.ended + self.watch.poll_interval));
                    }
                }
                Probe::Busy(error) => {
                    if self.wanted(&path).is_some() {
                        self.on_busy(&path, &error);
                    }
                }
            }
        }
        if self.settling.busy_count() == 0 {
            self.unreadable = Problems::default();
        }
        if !ready.is_empty() {
            for file in &ready {
                debug!(watch = %self.watch.name, path = ?file.path, bytes = file.fingerprint.size, "file is finished");
            }
            failpoint("file is finished");
            let handed = self
                .out
                .ledger
                .hand_over(self.id, &ready, crate::clock::now())
                .await?;
            if let Some(braked) = handed.braked {
                braked.tell(&self.watch.name);
            }
            failpoint("file handed over");
            self.out.wake.notify_one();
        }
        Ok(())
    }

    /// A file that cannot be read now is looked at again. The log gets a line for the first of a kind, the 10th, the
    /// 100th, and so on.
    fn on_busy(&mut self, path: &Path, error: &io::Error) {
        if !self.settling.busy(path, Instant::now()) {
            return;
        }
        if self.settling.busy_count() > BUSY_FILES_MAX
            || self.settling.bytes() > IN_HAND_BYTES_MAX / 2
        {
            self.settling.forget(path);
        }
        let count = self
            .unreadable
            .add(&format!("cannot be opened: {error}"), path);
        if 10_u64.pow(count.ilog10()) == count {
            warn!(
                watch = %self.watch.name, path = problems::shown(path), files = count, %error,
                "cannot open the file now; looking again until it can be read"
            );
        }
    }

    /// What is wrong with a folder that was scanned by itself: noted when it is something new.
    async fn on_folder_problems(&mut self, problems: &Problems) -> Result<(), super::Error> {
        let known = &self.root.kinds;
        if problems.kinds().iter().all(|kind| known.contains(kind))
            || self.root.state == RootState::Unavailable
        {
            return Ok(());
        }
        self.root.problems.extend(problems);
        self.scan_soon(Instant::now() + self.watch.poll_interval * UNREAD_POLLS);
        let (state, note) = problems_health(&self.root.problems, &self.watch.path);
        self.show(state, note, self.root.problems.kinds(), None)
            .await
    }

    async fn on_scan_done(&mut self, summary: Summary) -> Result<(), super::Error> {
        self.scan.since = None;
        self.scan.ended = Instant::now();
        self.root.scanned = true;
        self.root.hanging = false;
        let polled = summary.remote || !summary.watched;
        let next = match (&summary.root, polled) {
            (Ok(_), false) if summary.problems.may_pass() => {
                let soon = self.watch.poll_interval * UNREAD_POLLS;
                jittered(soon.min(self.watch.rescan_interval))
            }
            (Ok(_), false) => jittered(self.watch.rescan_interval),
            _ => self.watch.poll_interval,
        };
        self.end_scan(&summary).await?;
        let next = if self.unconfirmed {
            next.min(self.watch.settle_policy.settle + Duration::from_millis(1))
        } else {
            next
        };
        self.scan.next = if self.scan.again {
            Instant::now()
        } else {
            Instant::now() + next
        };
        self.scan.next_at = crate::clock::now()
            .checked_add(self.scan.next.saturating_duration_since(Instant::now()))
            .ok();
        self.scan.again = false;
        self.scan.polled.clone_from(&summary.remote_folders);
        self.scan.next_poll = Instant::now() + self.watch.poll_interval;
        self.root.ignored = summary.root.is_ok().then_some(summary.ignored);
        self.root.identity = summary.root.as_ref().ok().copied();
        let ok = summary.root.is_ok();
        let (state, note) = root_health(&summary, &self.watch.path);
        let kinds = summary.problems.kinds();
        self.root.scan_hangs = false;
        let complete = ok && summary.problems.none_unread();
        if ok {
            let message = "scan finished";
            let (files, changed) = (summary.files, self.changed);
            let seconds = summary.took.as_secs_f64();
            // A polled root is scanned all day long: only what it finds is worth a line.
            if polled && changed == 0 && self.root.state == state {
                debug!(watch = %self.watch.name, files, changed, seconds, "{message}");
            } else {
                info!(watch = %self.watch.name, files, changed, complete, seconds, "{message}");
            }
        }
        self.root.problems = summary.problems;
        self.show(state, note, kinds, ok.then(crate::clock::now))
            .await
    }

    /// Notices a root that went away, came back or was replaced, between scans.
    async fn answered(&mut self, root: &io::Result<Identity>) -> Result<(), super::Error> {
        if self.root.hanging {
            self.root.hanging = false;
            info!(watch = %self.watch.name, "the share answers again");
            self.scan_soon(Instant::now());
        }
        match root {
            Ok(identity) if self.root.identity != Some(*identity) && self.root.scanned => {
                if self.scan.since.is_none() {
                    self.scan_soon(Instant::now());
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.root.identity = None;
                let note = error.to_string();
                self.show(RootState::Unavailable, Some(note.clone()), vec![note], None)
                    .await
            }
        }
    }

    async fn check_for_hang(&mut self) -> Result<(), super::Error> {
        let waiting = self
            .asked
            .is_some_and(|asked| asked.elapsed() >= share_deadline(ANSWER_MAX));
        if waiting {
            self.root.check = Instant::now() + CHECK_INTERVAL;
            self.root.hanging = true;
            let note = format!("the share has not answered for {} s", ANSWER_MAX.as_secs());
            self.show(RootState::Unavailable, Some(note.clone()), vec![note], None)
                .await?;
        }
        Ok(())
    }

    /// Notices a scan that waits for the share, although probes at single files are answered.
    async fn check_scan_for_hang(&mut self) -> Result<(), super::Error> {
        let now = Instant::now();
        let walks = self.scan.since.is_some() || self.scan.folders > 0;
        let steps = self.scan.pulse.steps().filter(|_| walks);
        if steps != Some(self.scan.seen.0) {
            self.scan.seen = (steps.unwrap_or(u64::MAX), now);
            return Ok(());
        }
        if self.root.scan_hangs || now - self.scan.seen.1 < share_deadline(ANSWER_MAX) {
            return Ok(());
        }
        self.root.scan_hangs = true;
        let seconds = ANSWER_MAX.as_secs();
        let note = format!("the share has not answered for {seconds} s while it was scanned");
        self.show(RootState::Unavailable, Some(note.clone()), vec![note], None)
            .await
    }

    /// Records the state of the root, and logs it when it is changed_paths.
    async fn show(
        &mut self,
        state: RootState,
        note: Option<String>,
        kinds: Vec<String>,
        scanned: Option<Timestamp>,
    ) -> Result<(), super::Error> {
        let changed_paths = (state, &note) != (self.root.state, &self.root.note);
        if (state, &kinds) != (self.root.state, &self.root.kinds) {
            let (watch, root) = (&self.watch.name, &self.watch.path);
            let reason = note.as_deref().unwrap_or_default();
            match state {
                RootState::Ok => info!(%watch, ?root, "the folder is watched again"),
                RootState::Polled => {
                    info!(%watch, ?root, reason, "the folder is scanned at intervals");
                }
                RootState::Degraded => {
                    warn!(%watch, ?root, reason, "the folder is only partly watched");
                }
                RootState::Unavailable => {
                    warn!(%watch, ?root, reason, "the folder cannot be reached; known files are kept, looking again");
                }
            }
        }
        if changed_paths || scanned.is_some() {
            self.out
                .ledger
                .record_root(self.id, state, note.as_deref(), scanned)
                .await?;
            self.root.state = state;
            self.root.note = note;
            self.root.kinds = kinds;
        }
        Ok(())
    }
}

async fn known_files(
    ledger: &Ledger,
    watch: WatchId,
    dir: &Path,
) -> Result<HashMap<OsString, KnownFile>, ledger::Error> {
    let files = ledger.known_in(watch, dir).await?.into_iter();
    let files = files.map(|known| {
        let file = KnownFile {
            fingerprint: known.fingerprint,
            connector: known.connector,
            absence: known.absence,
        };
        (known.name, file)
    });
    Ok(files.collect())
}

/// What the end of a scan says about the root.
fn root_health(summary: &Summary, root: &Path) -> (RootState, Option<String>) {
    if let Err(error) = &summary.root {
        return (RootState::Unavailable, Some(error.to_string()));
    }
    if summary.problems.is_empty() && summary.remote {
        return (
            RootState::Polled,
            Some("changes on this file system raise no events".to_owned()),
        );
    }
    if let ([first, others @ ..], true) = (&summary.remote_folders[..], summary.problems.is_empty())
    {
        let folder = problems::shown(first);
        let note = match others.len() {
            0 => format!(
                "{folder} is on a file system that raises no events, and is scanned at intervals"
            ),
            more => format!(
                "{folder} and {more} more folders are on file systems that raise no events, and are scanned at intervals"
            ),
        };
        return (RootState::Polled, Some(note));
    }
    problems_health(&summary.problems, root)
}

fn problems_health(problems: &Problems, root: &Path) -> (RootState, Option<String>) {
    if problems.is_empty() {
        return (RootState::Ok, None);
    }
    (RootState::Degraded, Some(problems.lines(root).join("; ")))
}

/// Between 0.75 and 1.25 times the interval, so that many roots do not scan in step.
fn jittered(interval: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    interval.mul_f64(0.75 + 0.5 * f64::from(nanos) / 1e9)
}
