//! The runtime status: uploads in progress, folders, and counters since the start.
//!
//! Modules report through handles of the [`StatusTracker`] while they work; [`RuntimeStatus`] is the record that
//! status, page and metrics show beside the ledger. Nothing here survives the process, and no work depends on it.
//!
//! Longer than most files because it has a handle for each kind of report.

mod histogram;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use histogram::Histogram;

use crate::version;
use crate::watch::{Order, Progress, Unfinished};

/// The rate of an upload is averaged over about this time: bytes are counted per block, and slow lines send few.
const RATE_WINDOW: Duration = Duration::from_secs(8);

/// Unfinished files that [`RuntimeStatus`] lists per folder.
const UNFINISHED_SHOWN: usize = 20;

/// Time limit for the task of a watch to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Collects the runtime status. Cheap to clone; all clones share one record.
#[derive(Debug, Clone)]
pub struct StatusTracker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Timestamp,
    next: AtomicU64,
    uploads: Mutex<BTreeMap<u64, Arc<Sending>>>,
    roots: Mutex<BTreeMap<String, Root>>,
    bytes_sent: AtomicU64,
    retries: AtomicU64,
    upload_seconds: Mutex<Histogram>,
    outage: OnceLock<OutageProbe>,
    ledger_outage: Mutex<Option<LedgerOutageProbe>>,
    undelivered: Mutex<BTreeMap<String, Undelivered>>,
    page_problem: Mutex<Option<PageProblem>>,
    standby: Mutex<Option<Standby>>,
}

/// Reads whether the platform is unreachable.
struct OutageProbe(Box<dyn Fn() -> Option<Outage> + Send + Sync>);

impl std::fmt::Debug for OutageProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OutageProbe")
    }
}

/// Reads why the service waits for the database of its ledger.
struct LedgerOutageProbe(Box<dyn Fn() -> Option<LedgerOutage> + Send + Sync>);

impl std::fmt::Debug for LedgerOutageProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LedgerOutageProbe")
    }
}

#[derive(Debug, Clone)]
struct Root {
    progress: watch::Receiver<Progress>,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
struct Sending {
    watch: String,
    path: PathBuf,
    bytes: u64,
    sent: AtomicU64,
    since: Timestamp,
    rate: Mutex<Rate>,
}

/// Recent bytes per second.
#[derive(Debug)]
struct Rate {
    marks: [(Instant, u64); 2],
}

/// An upload in progress; it is removed from the record when this is dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    live: StatusTracker,
    key: u64,
    sending: Arc<Sending>,
    began: Instant,
}

/// The runtime status at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// The process id.
    pub pid: u32,
    /// When it started.
    pub since: Timestamp,
    /// The version of the program.
    pub version: String,
    /// Uploads in progress.
    pub uploads: Vec<UploadStatus>,
    /// The watched folders, by the name of their watch.
    pub roots: BTreeMap<String, RootStatus>,
    /// The platform cannot be reached.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// The database of the ledger cannot be used.
    #[serde(default)]
    pub ledger_outage: Option<LedgerOutage>,
    /// Alerts and hooks whose messages are not delivered.
    #[serde(default)]
    pub undelivered: Vec<Undelivered>,
    /// The page is configured and cannot be served.
    #[serde(default)]
    pub page_problem: Option<PageProblem>,
    /// Another host is active.
    #[serde(default)]
    pub standby: Option<Standby>,
}

/// Another host is active, and this one waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Standby {
    /// The name of the active host.
    pub active: String,
    /// Since when it is active.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Whether it uploads as well.
    #[serde(default)]
    pub uploads: bool,
    /// Watches that this host has otherwise, by name.
    pub different_watches: Vec<String>,
}

impl Standby {
    /// As one line.
    pub(crate) fn text(&self) -> String {
        let since = self.since.strftime("%F %TZ");
        let mut text = format!("standby; active: {} since {since}", self.active);
        if self.uploads {
            text.push_str("; uploads as well");
        }
        if !self.different_watches.is_empty() {
            text.push_str("; watches of this host differ: ");
            text.push_str(&self.different_watches.join(", "));
        }
        text
    }
}

/// The page cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PageProblem {
    /// When the first attempt failed.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
}

/// An alert or hook whose message could not be delivered several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Undelivered {
    /// What it is called, such as `hook "build-server"`.
    pub receiver: String,
    /// When the first attempt failed.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
}

/// All requests to the platform fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outage {
    /// When the first of these requests failed.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
}

/// The service waits for the database of its ledger: the server is away, or its disk is full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LedgerOutage {
    /// Since when.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Why the last attempt failed.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

/// An upload in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UploadStatus {
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root; odd bytes are replaced.
    pub path: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Recent bytes per second.
    pub rate: u64,
    /// When it began.
    pub since: Timestamp,
}

/// A watched folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootStatus {
    /// A full scan is running.
    pub scanning: bool,
    /// When the next full scan begins.
    pub next_scan: Option<Timestamp>,
    /// Files that the last full scan ignored: no design files, or excluded.
    pub ignored: Option<u64>,
    /// Number of files that are still being written.
    pub settling: u64,
    /// Number of files that could not be opened for so long that it is a problem.
    #[serde(default)]
    pub unreadable: u64,
    /// Some of them.
    pub unfinished: Vec<Unfinished>,
}

impl StatusTracker {
    /// An empty record that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            began: crate::clock::now(),
            next: AtomicU64::new(0),
            uploads: Mutex::default(),
            roots: Mutex::default(),
            bytes_sent: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            upload_seconds: Mutex::new(Histogram::new(&[
                0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0,
            ])),
            outage: OnceLock::new(),
            ledger_outage: Mutex::default(),
            undelivered: Mutex::default(),
            page_problem: Mutex::default(),
            standby: Mutex::default(),
        }))
    }

    /// A message of this alert or hook could not be delivered.
    pub fn not_delivered(&self, receiver: &str, reason: String) {
        let mut all = held(&self.0.undelivered);
        let since = all
            .get(receiver)
            .map_or_else(crate::clock::now, |before| before.since);
        let receiver = receiver.to_owned();
        let failing = Undelivered {
            receiver: receiver.clone(),
            since,
            reason,
        };
        all.insert(receiver, failing);
    }

    /// A message of this alert or hook was delivered.
    pub fn delivered(&self, receiver: &str) {
        held(&self.0.undelivered).remove(receiver);
    }

    /// Alerts and hooks whose messages are not delivered.
    #[must_use]
    pub fn undelivered(&self) -> Vec<Undelivered> {
        held(&self.0.undelivered).values().cloned().collect()
    }

    /// The page cannot be served.
    pub fn page_is_not_served(&self, reason: String) {
        let mut problem = held(&self.0.page_problem);
        let since = problem
            .as_ref()
            .map_or_else(crate::clock::now, |before| before.since);
        *problem = Some(PageProblem { since, reason });
    }

    /// Whether another host is active, and which.
    pub fn set_standby(&self, standby: Option<Standby>) {
        *held(&self.0.standby) = standby;
    }

    /// The same.
    #[must_use]
    pub fn standby(&self) -> Option<Standby> {
        held(&self.0.standby).clone()
    }

    /// Why the page is not served.
    #[must_use]
    pub fn page_problem(&self) -> Option<PageProblem> {
        held(&self.0.page_problem).clone()
    }

    /// The page is served.
    pub fn page_is_served(&self) {
        *held(&self.0.page_problem) = None;
    }

    /// Sets how to read whether the platform is unreachable. Only the first call has an effect.
    pub fn read_outage_by(&self, read: impl Fn() -> Option<Outage> + Send + Sync + 'static) {
        let _set_before = self.0.outage.set(OutageProbe(Box::new(read)));
    }

    /// Sets how to read why the service waits for the database of its ledger.
    pub fn read_ledger_outage_by(
        &self,
        read: impl Fn() -> Option<LedgerOutage> + Send + Sync + 'static,
    ) {
        *held(&self.0.ledger_outage) = Some(LedgerOutageProbe(Box::new(read)));
    }

    /// Why the service waits for the database of its ledger.
    #[must_use]
    pub fn ledger_outage(&self) -> Option<LedgerOutage> {
        let probe = held(&self.0.ledger_outage);
        probe.as_ref().and_then(|probe| (probe.0)())
    }

    /// Adds a watched folder, replacing one of the same watch.
    pub fn watch_root(
        &self,
        watch: &str,
        progress: watch::Receiver<Progress>,
        orders: mpsc::Sender<Order>,
    ) {
        held(&self.0.roots).insert(watch.to_owned(), Root { progress, orders });
    }

    /// Begins an upload of `bytes`; `attempt` counts from 1.
    pub(crate) fn upload(&self, watch: &str, path: &Path, bytes: u64, attempt: u32) -> Upload {
        if attempt > 1 {
            self.0.retries.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        let sending = Arc::new(Sending {
            watch: watch.to_owned(),
            path: path.to_owned(),
            bytes,
            sent: AtomicU64::new(0),
            since: crate::clock::now(),
            rate: Mutex::new(Rate {
                marks: [(now, 0); 2],
            }),
        });
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        held(&self.0.uploads).insert(key, Arc::clone(&sending));
        Upload {
            live: self.clone(),
            key,
            sending,
            began: now,
        }
    }

    /// Requests scans of the folders of these watches. Returns the number of requests.
    #[must_use]
    pub fn rescan(&self, watches: &[String]) -> u64 {
        let asked = held(&self.0.roots)
            .iter()
            .filter(|(name, _)| watches.contains(name))
            // A full channel holds an order to scan already.
            .filter(|(_, root)| {
                !matches!(
                    root.orders.try_send(Order::Scan),
                    Err(mpsc::error::TrySendError::Closed(_))
                )
            })
            .count();
        asked as u64
    }

    /// The state of a file that is still being written; None when it is not.
    pub async fn unfinished(&self, watch: &str, path: &Path) -> Option<Unfinished> {
        let root = held(&self.0.roots).get(watch).cloned()?;
        root.unfinished(Some(path.to_owned())).await.pop()
    }

    /// Files that could not be opened for so long that it is a problem, by watch.
    pub(crate) fn unreadable_files(&self) -> Vec<(String, u64)> {
        let roots = held(&self.0.roots);
        let files = roots
            .iter()
            .map(|(name, root)| (name.clone(), root.progress.borrow().unreadable));
        files.collect()
    }

    /// How long uploads took.
    pub(crate) fn upload_seconds(&self) -> Histogram {
        held(&self.0.upload_seconds).clone()
    }

    /// Bytes that were sent.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent.load(Ordering::Relaxed)
    }

    /// Uploads that were not a job's first attempt.
    pub(crate) fn retries(&self) -> u64 {
        self.0.retries.load(Ordering::Relaxed)
    }

    /// Since when the process works.
    pub(crate) fn began(&self) -> Timestamp {
        self.0.began
    }

    /// The current status.
    pub async fn now(&self) -> RuntimeStatus {
        let mut roots = held(&self.0.roots).clone();
        // The task of a watch may have ended.
        roots.retain(|_, root| !root.orders.is_closed());
        let mut shown = BTreeMap::new();
        for (name, root) in roots {
            let progress = root.progress.borrow().clone();
            let unfinished = if progress.settling > 0 {
                root.unfinished(None).await
            } else {
                Vec::new()
            };
            let root = RootStatus {
                scanning: progress.scanning,
                next_scan: progress.next_scan,
                ignored: progress.ignored,
                settling: (progress.settling as u64).saturating_sub(progress.unreadable),
                unreadable: progress.unreadable,
                unfinished,
            };
            shown.insert(name, root);
        }
        RuntimeStatus {
            pid: std::process::id(),
            since: self.0.began,
            version: version::FULL.to_owned(),
            uploads: held(&self.0.uploads)
                .values()
                .map(|sending| sending.now(Instant::now()))
                .collect(),
            roots: shown,
            outage: self.0.outage.get().and_then(|probe| (probe.0)()),
            ledger_outage: self.ledger_outage(),
            undelivered: self.undelivered(),
            page_problem: held(&self.0.page_problem).clone(),
            standby: self.standby(),
        }
    }
}

impl Default for StatusTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Root {
    async fn unfinished(&self, path: Option<PathBuf>) -> Vec<Unfinished> {
        let (answer, response) = oneshot::channel();
        let order = Order::Unfinished {
            path,
            most: UNFINISHED_SHOWN,
            answer,
        };
        if self.orders.try_send(order).is_err() {
            return Vec::new();
        }
        match tokio::time::timeout(ANSWER, response).await {
            Ok(Ok(unfinished)) => unfinished,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

impl Sending {
    fn now(&self, now: Instant) -> UploadStatus {
        let sent = self.sent.load(Ordering::Relaxed).min(self.bytes);
        UploadStatus {
            watch: self.watch.clone(),
            path: self.path.to_string_lossy().into_owned(),
            bytes: self.bytes,
            sent,
            rate: held(&self.rate).at(now, sent),
            since: self.since,
        }
    }
}

impl Rate {
    /// Between two marks, of which the older is one to two windows back.
    fn at(&mut self, now: Instant, sent: u64) -> u64 {
        let [old, new] = self.marks;
        // An upload that starts over counts anew.
        if sent < old.1 || sent < new.1 {
            self.marks = [(now, sent); 2];
            return 0;
        }
        if now.saturating_duration_since(new.0) >= RATE_WINDOW {
            self.marks = [new, (now, sent)];
        }
        let seconds = now.saturating_duration_since(old.0).as_secs_f64();
        if seconds <= 0.0 {
            return 0;
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an approximate rate"
        )]
        {
            ((sent - old.1) as f64 / seconds) as u64
        }
    }
}

impl Upload {
    /// More bytes were sent.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sending.sent.fetch_add(bytes, Ordering::Relaxed);
        self.live.0.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that need not be sent: storage has them already.
    pub(crate) fn held(&self, bytes: u64) {
        self.sending.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that storage has, of this upload.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.sending.sent.load(Ordering::Relaxed)
    }

    /// The upload starts over.
    pub(crate) fn again(&self) {
        self.sending.sent.store(0, Ordering::Relaxed);
    }

    /// All bytes arrived.
    pub(crate) fn done(self) {
        held(&self.live.0.upload_seconds).add(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        held(&self.live.0.uploads).remove(&self.key);
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_is_listed_until_it_is_dropped_and_starts_over_at_zero() {
        let live = StatusTracker::new();
        let upload = live.upload("north", Path::new("a.dgn"), 100, 2);
        upload.sent(60);
        upload.again();
        upload.held(10);
        upload.sent(30);
        let now = live.now().await;
        let [shown] = &now.uploads[..] else {
            panic!("{now:?}")
        };
        assert_eq!((shown.bytes, shown.sent), (100, 40));
        upload.done();
        assert!(live.now().await.uploads.is_empty());
        assert_eq!((live.bytes_sent(), live.retries()), (90, 1));
        assert_eq!(live.upload_seconds().count, 1);
    }

    #[test]
    fn a_rate_is_averaged_over_the_last_seconds() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut rate = Rate {
            marks: [(start, 0); 2],
        };
        assert_eq!(rate.at(second(0), 0), 0);
        assert_eq!(rate.at(second(2), 200), 100);
        assert_eq!(rate.at(second(4), 400), 100);
        // From here it stands still.
        assert_eq!(rate.at(second(8), 400), 50);
        assert_eq!(rate.at(second(16), 400), 25);
        assert_eq!(rate.at(second(20), 400), 0);
        assert_eq!(rate.at(second(24), 100), 0, "it starts over");
    }
}
