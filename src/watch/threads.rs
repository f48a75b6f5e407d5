//! The two threads of a root that touch its share, while there is something to do: what they are asked, and since when
//! an answer is awaited.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as async_mpsc;
use tracing::warn;

use super::ReadySink;
use super::events;
use super::probe::{self, ProbeReply};
use super::scan::{self, Plan, Report};
use super::skip_log::SkipLog;
use super::thread_on_demand::ThreadOnDemand;
use crate::config::Watch;

/// How often the root is checked for being there, and for being the same directory.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// How often it is logged that no thread can be started.
const REPORT_GAP: Duration = Duration::from_secs(60);

/// The threads. They end when they have nothing to do, or later if the share hangs.
pub(super) struct Threads {
    watch: String,
    /// When it was logged last that a thread cannot be started.
    reported: Option<Instant>,
    probes: ThreadOnDemand<probe::Request>,
    /// When the request was sent that the probe thread has not answered yet.
    pub(super) probe_sent: Option<Instant>,
    /// When the root is checked next, if nothing else is probed before.
    pub(super) next_check: Instant,
    scans: ThreadOnDemand<scan::Request>,
    pub(super) pulse: Arc<scan::Pulse>,
}

impl Threads {
    pub(super) fn new(
        watch: &Watch,
        out: &ReadySink,
        skip_log: &Arc<SkipLog>,
        answers: async_mpsc::Sender<ProbeReply>,
        reports: async_mpsc::Sender<Report>,
        hints: events::Sender,
    ) -> Self {
        let pulse = Arc::<scan::Pulse>::default();
        let plan = Plan {
            root: watch.path.clone(),
            scope: watch.scope.clone(),
            skip_log: Arc::clone(skip_log),
            pulse: Arc::clone(&pulse),
        };
        let watches = out.events.of_root(&watch.path, hints);
        Self {
            watch: watch.name.clone(),
            probes: probe::prober(&watch.name, watch.path.clone(), answers),
            reported: None,
            probe_sent: None,
            next_check: Instant::now() + CHECK_INTERVAL,
            scans: scan::scanner(&watch.name, plan, Some(watches), reports),
            pulse,
        }
    }

    /// Sends paths to probe; the root itself is checked with them. Nothing is sent while an answer is awaited.
    pub(super) fn probe(&mut self, paths: Vec<PathBuf>, now: Instant) {
        let check = now >= self.next_check;
        if check || !paths.is_empty() {
            let started = self.probes.send(paths);
            self.report(started);
            self.probe_sent = Some(now);
            self.next_check = now + CHECK_INTERVAL;
        }
    }

    pub(super) fn scan(&mut self, request: scan::Request) {
        let started = self.scans.send(request);
        self.report(started);
    }

    /// Starts threads that could not be started before.
    pub(super) fn start_waiting(&mut self) {
        let started = self.probes.start().and(self.scans.start());
        self.report(started);
    }

    fn report(&mut self, started: io::Result<()>) {
        let is_quiet = self.reported.is_some_and(|at| at.elapsed() < REPORT_GAP);
        if let Err(error) = started
            && !is_quiet
        {
            self.reported = Some(Instant::now());
            warn!(
                watch = %self.watch, %error,
                hint = "raise the limit of threads of the service (TasksMax in its unit)",
                "cannot start a thread to read the folder; trying again"
            );
        }
    }
}
