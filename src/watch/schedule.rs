//! When the scans of a root begin. Pure: every call is given the time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::Watch;

/// A root with unreadable parts is scanned again after this many poll intervals.
pub(super) const UNREAD_POLLS: u32 = 10;

/// Pauses between scans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    /// Of a root that raises events.
    rescan: Duration,
    /// Of a root, or a part of it, that raises none.
    poll: Duration,
    /// Before a scan that confirms that files are missing.
    settle: Duration,
}

impl Intervals {
    pub(super) fn of(watch: &Watch) -> Self {
        Self {
            rescan: watch.rescan_interval,
            poll: watch.poll_interval,
            settle: watch.settle_policy.settle,
        }
    }
}

/// What a finished scan says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanResult {
    /// Every change raises an event from now on.
    Watched,
    /// The same, but parts that could not be read may be readable soon.
    PartlyUnread,
    /// The root raises no events, or could not be scanned.
    Polled,
}

/// Whether files that were not found need another scan to confirm it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    Needed,
    NotNeeded,
}

/// The pause after a scan. `jitter` is in 0.0..1.0; it spreads the scans of many roots over a quarter of the interval,
/// and never makes a pause longer than configured.
fn pause(
    result: ScanResult,
    confirmation: Confirmation,
    times: Intervals,
    jitter: f64,
) -> Duration {
    let jittered = |interval: Duration| interval.mul_f64(1.0 - 0.25 * jitter);
    let pause = match result {
        ScanResult::Watched => jittered(times.rescan),
        ScanResult::PartlyUnread => jittered(times.rescan.min(times.poll * UNREAD_POLLS)),
        ScanResult::Polled => times.poll,
    };
    match confirmation {
        Confirmation::Needed => pause.min(times.settle + Duration::from_millis(1)),
        Confirmation::NotNeeded => pause,
    }
}

/// The full scans of one root, and the scans of single folders between them.
#[derive(Debug)]
pub(super) struct Schedule {
    times: Intervals,
    /// A full scan is running.
    scanning: bool,
    /// Another one is wanted as soon as it ends.
    again: bool,
    next: Instant,
    /// `next` as it was planned at the end of the last scan, for status.
    next_at: Option<Timestamp>,
    /// When the last full scan ended; at first, when the watch began.
    ended: Instant,
    finished_once: bool,
    /// Scans of single folders that are running.
    folder_scans: usize,
    /// Folders that raise no events in a root that does.
    polled: Vec<PathBuf>,
    next_poll: Instant,
}

impl Schedule {
    /// The first scan is due at once.
    pub(super) fn new(times: Intervals, now: Instant) -> Self {
        Self {
            times,
            scanning: false,
            again: false,
            next: now,
            next_at: None,
            ended: now,
            finished_once: false,
            folder_scans: 0,
            polled: Vec::new(),
            next_poll: now,
        }
    }

    pub(super) fn is_scan_due(&self, now: Instant) -> bool {
        !self.scanning && now >= self.next
    }

    pub(super) fn scan_started(&mut self) {
        self.scanning = true;
        self.again = false;
    }

    /// Folders to scan by themselves now.
    pub(super) fn folders_to_poll(&mut self, now: Instant) -> Vec<PathBuf> {
        if !self.is_polling() || now < self.next_poll {
            return Vec::new();
        }
        self.next_poll = now + self.times.poll;
        self.polled.clone()
    }

    pub(super) fn folder_scan_started(&mut self) {
        self.folder_scans += 1;
    }

    pub(super) fn folder_scan_finished(&mut self) {
        self.folder_scans = self.folder_scans.saturating_sub(1);
    }

    /// Requests a full scan at `earliest`, or after the running one.
    pub(super) fn request_scan(&mut self, earliest: Instant, now: Instant) {
        self.again = self.scanning;
        self.next = self.next.min(earliest.max(now));
    }

    /// Requests a full scan, but not sooner than a poll interval after the last one.
    pub(super) fn request_scan_later(&mut self, earliest: Instant, now: Instant) {
        self.request_scan(earliest.max(self.ended + self.times.poll), now);
    }

    /// The end of a full scan plans the next one.
    pub(super) fn scan_finished(
        &mut self,
        result: ScanResult,
        confirmation: Confirmation,
        polled: Vec<PathBuf>,
        jitter: f64,
        now: Instant,
    ) {
        let pause = if self.again {
            Duration::ZERO
        } else {
            pause(result, confirmation, self.times, jitter)
        };
        self.scanning = false;
        self.again = false;
        self.finished_once = true;
        self.ended = now;
        self.next = now + pause;
        self.next_at = crate::clock::now().checked_add(pause).ok();
        self.polled = polled;
        self.next_poll = now + self.times.poll;
    }

    /// When something is due next. None: only the end of a scan changes that.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let scan = (!self.scanning).then_some(self.next);
        let poll = self.is_polling().then_some(self.next_poll);
        scan.into_iter().chain(poll).min()
    }

    pub(super) fn is_scanning(&self) -> bool {
        self.scanning
    }

    /// Whether a scan of the root or of a folder is running.
    pub(super) fn is_walking(&self) -> bool {
        self.scanning || self.folder_scans > 0
    }

    /// Whether the root was scanned to its end at least once.
    pub(super) fn has_scanned(&self) -> bool {
        self.finished_once
    }

    /// When the next full scan begins, for status.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.next_at
    }

    fn is_polling(&self) -> bool {
        !self.polled.is_empty() && !self.is_walking()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Intervals = Intervals {
        rescan: Duration::from_secs(3600),
        poll: Duration::from_secs(60),
        settle: Duration::from_secs(10),
    };

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn the_pause_follows_from_what_the_scan_found() {
        use Confirmation::{Needed, NotNeeded};
        use ScanResult::{PartlyUnread, Polled, Watched};
        let confirm = second(10) + Duration::from_millis(1);
        for (result, confirmation, jitter, expected) in [
            (Watched, NotNeeded, 0.0, second(3600)),
            (Watched, NotNeeded, 1.0, second(2700)),
            (PartlyUnread, NotNeeded, 0.0, second(600)),
            (Polled, NotNeeded, 0.0, second(60)),
            (Watched, Needed, 0.5, confirm),
            (Polled, Needed, 0.5, confirm),
        ] {
            let found = pause(result, confirmation, TIMES, jitter);
            assert_eq!(found, expected, "{result:?} {confirmation:?} {jitter}");
        }
    }

    #[test]
    fn a_scan_that_is_requested_while_one_runs_begins_after_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(TIMES, start);
        assert!(schedule.is_scan_due(start));
        schedule.scan_started();
        schedule.request_scan(start, start);
        assert!(!schedule.is_scan_due(start + second(9)), "one at a time");
        assert_eq!(schedule.next_timer(), None);
        let finish = |schedule: &mut Schedule, now| {
            let (result, confirmation) = (ScanResult::Watched, Confirmation::NotNeeded);
            schedule.scan_finished(result, confirmation, Vec::new(), 0.0, now);
        };
        finish(&mut schedule, start + second(9));
        assert!(schedule.is_scan_due(start + second(9)));
        schedule.scan_started();
        finish(&mut schedule, start + second(20));
        assert!(!schedule.is_scan_due(start + second(3619)));
        assert!(schedule.is_scan_due(start + second(3620)));
        // An event asks for one sooner, though not at once after the last.
        schedule.request_scan_later(start + second(21), start + second(21));
        assert_eq!(schedule.next_timer(), Some(start + second(80)));
        schedule.request_scan(start + second(30), start + second(21));
        assert_eq!(schedule.next_timer(), Some(start + second(30)));
    }

    #[test]
    fn folders_without_events_are_scanned_at_the_poll_interval_when_nothing_else_runs() {
        let start = Instant::now();
        let mut schedule = Schedule::new(TIMES, start);
        schedule.scan_started();
        let folders = vec![PathBuf::from("share")];
        let (result, confirmation) = (ScanResult::Watched, Confirmation::NotNeeded);
        schedule.scan_finished(result, confirmation, folders.clone(), 0.5, start);
        assert_eq!(schedule.next_timer(), Some(start + second(60)));
        assert!(schedule.folders_to_poll(start + second(59)).is_empty());
        assert_eq!(schedule.folders_to_poll(start + second(60)), folders);
        schedule.folder_scan_started();
        assert!(schedule.is_walking() && !schedule.is_scanning());
        assert!(schedule.folders_to_poll(start + second(120)).is_empty());
        schedule.folder_scan_finished();
        assert_eq!(schedule.folders_to_poll(start + second(120)), folders);
    }
}
