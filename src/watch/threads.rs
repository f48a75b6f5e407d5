//! The two threads of a root that touch its share: what they are asked, and since when an answer is awaited.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc as async_mpsc;

use super::events;
use super::probe::{self, ProbeReply};
use super::scan::{self, Plan, Report};
use super::skip_log::SkipLog;
use super::{Error, ReadySink};
use crate::config::Watch;

/// How often the root is checked for being there, and for being the same directory.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// The threads. They end when this is dropped, or later if the share hangs.
pub(super) struct Threads {
    probes: mpsc::Sender<probe::Request>,
    /// When the request was sent that the probe thread has not answered yet.
    pub(super) probe_sent: Option<Instant>,
    /// When the root is checked next, if nothing else is probed before.
    pub(super) next_check: Instant,
    scans: mpsc::Sender<scan::Request>,
    pub(super) pulse: Arc<scan::Pulse>,
}

impl Threads {
    pub(super) fn start(
        watch: &Watch,
        out: &ReadySink,
        skip_log: &Arc<SkipLog>,
        answers: async_mpsc::Sender<ProbeReply>,
        reports: async_mpsc::Sender<Report>,
        hints: events::Sender,
    ) -> Result<Self, Error> {
        let error = |source| Error::Thread {
            watch: watch.name.clone(),
            source,
        };
        let pulse = Arc::<scan::Pulse>::default();
        let plan = Plan {
            root: watch.path.clone(),
            scope: watch.scope.clone(),
            skip_log: Arc::clone(skip_log),
            pulse: Arc::clone(&pulse),
        };
        let probes = probe::spawn(&watch.name, watch.path.clone(), answers).map_err(error)?;
        let watches = out.events.of_root(&watch.path, hints);
        let scans = scan::spawn(&watch.name, plan, Some(watches), reports).map_err(error)?;
        Ok(Self {
            probes,
            probe_sent: None,
            next_check: Instant::now() + CHECK_INTERVAL,
            scans,
            pulse,
        })
    }

    /// Sends paths to probe; the root itself is checked with them. Nothing is sent while an answer is awaited.
    pub(super) fn probe(&mut self, paths: Vec<PathBuf>, now: Instant) {
        let check = now >= self.next_check;
        if (check || !paths.is_empty()) && self.probes.send(paths).is_ok() {
            self.probe_sent = Some(now);
            self.next_check = now + CHECK_INTERVAL;
        }
    }

    pub(super) fn scan(&self, request: scan::Request) -> bool {
        self.scans.send(request).is_ok()
    }
}
