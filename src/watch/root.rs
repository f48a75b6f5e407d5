//! The task of one root: a loop that turns hints, probes and listings into files that are handed over.
//!
//! The decisions are in small parts of their own: `schedule` says when to scan, `settle` when a file is complete,
//! `probe_queue` which paths are probed next, `comparison` what a listing changes, `health` how the root is. This task
//! sends the requests, takes the answers and records the results. It never touches the share itself.

mod hints;
mod last_scan;
mod probes;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc as async_mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::comparison::{Comparison, ScannedRoot};
use super::events::{self, Hint, Hints};
use super::health::{self, Change, Finding, Health, StallDetector};
use super::probe::ProbeReply;
use super::probe_queue::ProbeQueue;
use super::problems::Problems;
use super::scan::{self, Listing, Report, Summary};
use super::schedule::{Confirmation, Intervals, ScanResult, Schedule, UNREAD_POLLS};
use super::settle::Settling;
use super::skip_log::SkipLog;
use super::threads::{CHECK_INTERVAL, Threads};
use super::unreadable::Unreadable;
use super::{Order, Progress, ReadySink};
use crate::config::Watch;
use crate::failpoint::share_deadline;
use crate::ledger::{RootState, WatchId};
use crate::rooted_fs::Identity;
use last_scan::LastScan;

/// Paths in one request to the probe thread: enough to be efficient, few enough to hand over in between.
const PROBES_MAX: usize = 256;

/// A share that has not answered for this long is reported as hanging.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// With more files in memory, or more bytes of their paths, the scan waits. A file takes about 250 bytes until it is
/// handed over; the number is just below a size at which the tables double.
const FILES_MAX: usize = 110_000;
const BYTES_MAX: usize = 16 * 1024 * 1024;

struct Task {
    watch: Watch,
    id: WatchId,
    out: ReadySink,
    progress: watch::Sender<Progress>,
    schedule: Schedule,
    settling: Settling,
    queue: ProbeQueue,
    comparison: Comparison,
    health: Health,
    stall: StallDetector,
    threads: Threads,
    last_scan: LastScan,
    unreadable: Unreadable,
    /// Something that is no known file is gone since the last scan began: perhaps a folder of known files.
    folder_may_be_gone: bool,
    /// How many files could not be opened, by the reason, since all could be.
    unreadable_counts: Problems,
    /// Of `unreadable`: how many are a problem.
    lasting_files: u64,
    skip_log: Arc<SkipLog>,
}

enum Event {
    Hint(Hint),
    Probed(ProbeReply),
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
    let (hint_sender, mut hints) = events::channel();
    let (answers, mut probed) = async_mpsc::channel(1);
    let (reports, mut reported) = async_mpsc::channel(4);
    let skip_log = Arc::new(SkipLog::new(&watch.name));
    let threads = Threads::new(&watch, &out, &skip_log, answers, reports, hint_sender);
    let now = Instant::now();
    let mut task = Task {
        schedule: Schedule::new(Intervals::of(&watch), now),
        settling: Settling::new(watch.settle_policy),
        queue: ProbeQueue::default(),
        comparison: Comparison::new(&watch, id, &out.ledger),
        health: Health::default(),
        stall: StallDetector::new(now),
        threads,
        last_scan: LastScan::default(),
        unreadable: Unreadable::new(
            watch.settle_policy.settle,
            rustix::process::geteuid().as_raw(),
        ),
        folder_may_be_gone: false,
        unreadable_counts: Problems::default(),
        lasting_files: 0,
        skip_log,
        watch,
        id,
        out,
        progress,
    };
    loop {
        task.dispatch();
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            reply = probed.recv() => Event::Probed(reply.ok_or_else(|| task.ended("probe"))?),
            report = reported.recv(), if task.has_capacity() => Event::Report(report.ok_or_else(|| task.ended("scan"))?),
            Some(order) = orders.recv() => Event::Order(order),
            hint = hints.next() => Event::Hint(hint),
            () = tokio::time::sleep_until(task.next_timer().into()) => Event::Timer,
        };
        task.handle(event, &mut hints).await?;
    }
}

/// The loop: requests out, answers in.
impl Task {
    /// Sends the requests that are due, and publishes the progress.
    fn dispatch(&mut self) {
        let now = Instant::now();
        self.threads.start_waiting();
        if self.schedule.is_scan_due(now) {
            self.threads.scan(scan::Request::All);
            self.schedule.scan_started();
            self.folder_may_be_gone = false;
            self.last_scan.changed = 0;
            self.comparison.begin_scan();
        }
        for folder in self.schedule.folders_to_poll(now) {
            self.scan_folder(folder);
        }
        if self.threads.probe_sent.is_none() {
            let mut paths = self.settling.take_due(now, PROBES_MAX);
            self.queue.fill(&mut paths, PROBES_MAX);
            self.threads.probe(paths, now);
        }
        let progress = self.progress();
        self.progress.send_if_modified(|last| {
            let changed = *last != progress;
            *last = progress;
            changed
        });
    }

    fn next_timer(&self) -> Instant {
        let check = self.threads.next_check;
        let probe = match self.threads.probe_sent {
            Some(sent) => check.max(sent + share_deadline(ANSWER_MAX)),
            None => self.settling.next_probe().map_or(check, |at| at.min(check)),
        };
        let next = self.schedule.next_timer().map_or(probe, |at| at.min(probe));
        next.max(Instant::now())
    }

    async fn handle(&mut self, event: Event, hints: &mut Hints) -> Result<(), super::Error> {
        match event {
            Event::Hint(hint) => {
                self.on_hint(hint);
                self.on_hints(hints);
            }
            Event::Probed(reply) => {
                // What came before the answer counts before it.
                self.on_hints(hints);
                self.on_probe(reply).await?;
            }
            Event::Report(Report::Begun(share)) => self.comparison.begin_walk(share).await?,
            Event::Report(Report::Listing(listing)) => self.on_listing(&listing).await?,
            Event::Report(Report::FolderDone(problems)) => self.on_folder_done(&problems).await?,
            Event::Report(Report::Done(summary)) => self.on_scan_done(summary).await?,
            Event::Order(order) => self.on_order(order),
            Event::Timer => self.check_for_hang().await?,
        }
        self.check_for_stalled_scan().await
    }

    fn ended(&self, thread: &'static str) -> super::Error {
        super::Error::Ended {
            watch: self.watch.name.clone(),
            thread,
        }
    }

    fn request_scan(&mut self, earliest: Instant) {
        self.schedule.request_scan(earliest, Instant::now());
    }

    fn scan_folder(&mut self, folder: PathBuf) {
        self.threads.scan(scan::Request::Folder(folder));
        self.schedule.folder_scan_started();
    }

    fn progress(&self) -> Progress {
        Progress {
            at_rest: self.schedule.has_scanned()
                && !self.schedule.is_walking()
                && self.queue.is_empty()
                && (self.settling.is_empty() || self.settling.is_stuck())
                && self.comparison.confirmation() == Confirmation::NotNeeded
                && self.threads.probe_sent.is_none(),
            settling: self.settling.len(),
            unreadable: self.lasting_files,
            scanning: self.schedule.is_scanning(),
            next_scan: self.schedule.next_at(),
            ignored: self.last_scan.ignored,
            left_out: self.unread_parts(),
            problem: self.health.problem(),
        }
    }

    /// Which parts of the root cannot be read, and why.
    fn unread_parts(&self) -> Option<String> {
        let scanned = Some(&self.last_scan.problems).filter(|problems| !problems.none_unread());
        let unopened = Some(&self.unreadable_counts).filter(|_| !self.unreadable.is_empty());
        let lines: Vec<String> = scanned
            .into_iter()
            .chain(unopened)
            .flat_map(|problems| problems.lines(&self.watch.path))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// Scans.
impl Task {
    async fn on_listing(&mut self, listing: &Listing) -> Result<(), super::Error> {
        for path in self.comparison.compare(listing).await? {
            if !self.settling.touch(&path, Instant::now()) {
                self.last_scan.changed += 1;
                self.queue.push(&path);
            }
        }
        Ok(())
    }

    async fn on_folder_done(&mut self, problems: &Problems) -> Result<(), super::Error> {
        self.schedule.folder_scan_finished();
        let reachable = self.health.state() != RootState::Unavailable;
        if reachable && !self.health.knows(problems) {
            self.last_scan.problems.extend(problems);
            self.request_scan(Instant::now() + self.watch.poll_interval * UNREAD_POLLS);
            let finding = Finding::of_problems(&self.last_scan.problems, &self.watch.path);
            self.record(finding, None).await?;
        }
        if self.comparison.has_missing() {
            self.request_scan(Instant::now() + self.watch.settle_policy.settle);
        }
        Ok(())
    }

    async fn on_scan_done(&mut self, summary: Summary) -> Result<(), super::Error> {
        let scanned = self.comparison.end_scan(&summary).await?;
        let is_other = matches!(
            scanned,
            ScannedRoot::EmptyReplacement | ScannedRoot::Other { .. }
        );
        let result = match &summary.root {
            Ok(_) if is_other => ScanResult::Polled,
            Ok(_) if summary.remote || !summary.watched => ScanResult::Polled,
            Ok(_) if summary.problems.may_pass() => ScanResult::PartlyUnread,
            Ok(_) => ScanResult::Watched,
            Err(_) => ScanResult::Polled,
        };
        self.schedule.scan_finished(
            result,
            self.comparison.confirmation(),
            summary.remote_folders.clone(),
            fastrand::f64(),
            Instant::now(),
        );
        self.stall.reset();
        self.health.set_identity(&summary.root);
        if scanned == ScannedRoot::Proven {
            self.request_scan(Instant::now());
            return Ok(());
        }
        let finding = match scanned {
            ScannedRoot::Watched | ScannedRoot::Proven => {
                let listed = Finding::of_scan(&summary, &self.watch.path);
                if self.health.hanging {
                    listed.without_answer_to_probes(ANSWER_MAX)
                } else {
                    listed
                }
            }
            ScannedRoot::EmptyReplacement => Finding::empty_replacement(),
            ScannedRoot::Other {
                before,
                now,
                overlap,
            } => Finding::other_folder(&self.watch.name, &before, &now, overlap),
        };
        let reached = finding.state != RootState::Unavailable;
        if reached {
            self.log_scan(&summary, result, &finding);
        }
        self.last_scan.ignored = reached.then_some(summary.ignored);
        self.last_scan.problems = summary.problems;
        self.last_scan.watched = summary.root.is_ok() && summary.watched && !summary.remote;
        self.last_scan.remote_folders = summary.remote_folders;
        if reached && self.last_scan.problems.none_unread() && self.has_capacity() {
            let unfinished = (self.queue.len() + self.settling.len()) as u64;
            let now = crate::clock::now();
            self.out
                .ledger
                .guard_new_files(self.id, unfinished, now)
                .await?;
        }
        self.record(finding, reached.then(crate::clock::now)).await
    }

    fn log_scan(&self, summary: &Summary, result: ScanResult, finding: &Finding) {
        let message = "scan finished";
        let (files, changed) = (summary.files, self.last_scan.changed);
        let complete = summary.problems.none_unread();
        let seconds = summary.took.as_secs_f64();
        // A polled root is scanned all day long: only what it finds is worth a line.
        let routine =
            result == ScanResult::Polled && changed == 0 && self.health.state() == finding.state;
        if routine {
            debug!(watch = %self.watch.name, files, changed, complete, seconds, "{message}");
        } else {
            info!(watch = %self.watch.name, files, changed, complete, seconds, "{message}");
        }
    }
}

/// The root itself.
impl Task {
    /// Notices, between scans, a root that went away, came back or was replaced.
    async fn on_root_probe(&mut self, root: &io::Result<Identity>) -> Result<(), super::Error> {
        if std::mem::take(&mut self.health.hanging) {
            info!(watch = %self.watch.name, "the share answers again");
            self.request_scan(Instant::now());
        }
        match root {
            Ok(identity) => {
                let replaced = self.health.is_replaced_by(*identity);
                if replaced && self.schedule.has_scanned() && !self.schedule.is_scanning() {
                    self.request_scan(Instant::now());
                }
                Ok(())
            }
            Err(error) => {
                self.health.set_identity(root);
                self.record(Finding::unavailable(error.to_string()), None)
                    .await
            }
        }
    }

    async fn check_for_hang(&mut self) -> Result<(), super::Error> {
        let sent = self.threads.probe_sent;
        if sent.is_none_or(|sent| sent.elapsed() < share_deadline(ANSWER_MAX)) {
            return Ok(());
        }
        self.threads.next_check = Instant::now() + CHECK_INTERVAL;
        if std::mem::replace(&mut self.health.hanging, true) {
            // A scan may have listed the folder since.
            return Ok(());
        }
        self.record(Finding::no_answer(ANSWER_MAX, ""), None).await
    }

    /// Notices a scan that waits for the share although probes are answered.
    async fn check_for_stalled_scan(&mut self) -> Result<(), super::Error> {
        let steps = self.threads.pulse.steps();
        let steps = steps.filter(|_| self.schedule.is_walking());
        let limit = share_deadline(ANSWER_MAX);
        if !self.stall.observe(steps, Instant::now(), limit) {
            return Ok(());
        }
        self.record(Finding::no_answer(ANSWER_MAX, " during a scan"), None)
            .await
    }

    /// Records the state of the root, and logs it when it is new. `scanned`: when a full scan has just ended.
    async fn record(
        &mut self,
        finding: Finding,
        scanned: Option<Timestamp>,
    ) -> Result<(), super::Error> {
        self.health.set_scanned(finding);
        self.record_health(scanned).await
    }

    /// Records what the last scan said together with the files that cannot be opened.
    async fn record_health(&mut self, scanned: Option<Timestamp>) -> Result<(), super::Error> {
        let lasting = self.unreadable.lasting(Instant::now());
        self.lasting_files = lasting.files;
        let root = &self.watch.path;
        let mut finding = self.health.scanned().with_unreadable(&lasting, root);
        if finding.state == RootState::Unavailable && self.out.ledger.has_other_hosts().await? {
            let system = rustix::system::uname();
            finding = finding.with_other_hosts(&system.nodename().to_string_lossy());
        }
        let change = self.health.compare(&finding);
        if change == Change::Kind {
            health::log(&self.watch, &finding);
        }
        if change != Change::None || scanned.is_some() {
            let note = finding.note.as_deref();
            self.out
                .ledger
                .record_root(self.id, finding.state, note, scanned)
                .await?;
            self.health.set(finding);
        }
        Ok(())
    }
}
