//! Points at which a test can make something go wrong. Without the feature `failpoints` there are none.

/// Ends the process at once, as a kill would, if `ITWIN_SYNCD_FAILPOINT` names this point.
#[cfg(feature = "failpoints")]
pub(crate) fn failpoint(name: &str) {
    if std::env::var("ITWIN_SYNCD_FAILPOINT").is_ok_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn failpoint(_name: &str) {}

/// Panics, the first time only, if `ITWIN_SYNCD_PANICPOINT` names this point: a thread dies, the process continues.
#[cfg(feature = "failpoints")]
#[allow(clippy::panic, reason = "a test asked for it")]
pub(crate) fn panicpoint(name: &str) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static PANICKED: AtomicBool = AtomicBool::new(false);
    if std::env::var("ITWIN_SYNCD_PANICPOINT").is_ok_and(|wanted| wanted == name)
        && !PANICKED.swap(true, Ordering::Relaxed)
    {
        panic!("a test wanted this: {name}");
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn panicpoint(_name: &str) {}

/// Stops for two seconds if `ITWIN_SYNCD_SLOWPOINT` names this point: what else happens meanwhile, happens in between.
#[cfg(feature = "failpoints")]
pub(crate) async fn slowpoint(name: &str) {
    if std::env::var("ITWIN_SYNCD_SLOWPOINT").is_ok_and(|wanted| wanted == name) {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
#[allow(clippy::unused_async, reason = "as it is with the feature")]
pub(crate) async fn slowpoint(_name: &str) {}

/// How long to wait for a share: `usual`, or a part of it if `ITWIN_SYNCD_SHARE_HASTE` is a number to divide it by.
#[cfg(feature = "failpoints")]
pub(crate) fn share_deadline(usual: std::time::Duration) -> std::time::Duration {
    let haste = std::env::var("ITWIN_SYNCD_SHARE_HASTE").ok();
    let haste = haste.and_then(|text| text.parse().ok());
    usual / haste.filter(|haste| *haste > 0).unwrap_or(1)
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn share_deadline(usual: std::time::Duration) -> std::time::Duration {
    usual
}

/// What distinguishes this machine from others, in place of its id and its name, if `ITWIN_SYNCD_MACHINE` says that:
/// tests also run where machines have no id.
#[cfg(feature = "failpoints")]
pub(crate) fn machine() -> Option<String> {
    std::env::var("ITWIN_SYNCD_MACHINE").ok()
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn machine() -> Option<String> {
    None
}

/// A time of the lease of the active host, or of a claim: `usual`, or a part of it if `ITWIN_SYNCD_LEASE_HASTE` is a
/// number to divide it by.
#[cfg(feature = "failpoints")]
pub(crate) fn lease_time(usual: std::time::Duration) -> std::time::Duration {
    let haste = std::env::var("ITWIN_SYNCD_LEASE_HASTE").ok();
    let haste = haste.and_then(|text| text.parse().ok());
    usual / haste.filter(|haste| *haste > 0).unwrap_or(1)
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn lease_time(usual: std::time::Duration) -> std::time::Duration {
    usual
}

/// Stops the process, the first time only, as a machine that stands still, if `ITWIN_SYNCD_STOPPOINT` names this point.
/// Returns after it was continued.
#[cfg(feature = "failpoints")]
pub(crate) fn stoppoint(name: &str) {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};
    static STOPPED: AtomicBool = AtomicBool::new(false);
    if std::env::var("ITWIN_SYNCD_STOPPOINT").is_ok_and(|wanted| wanted == name)
        && !STOPPED.swap(true, Ordering::Relaxed)
    {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)
            .ok();
        // Another thread may get the signal, and this one runs for a moment.
        let began = Instant::now();
        let mut last = began;
        while last.elapsed() < Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5) {
            last = Instant::now();
            std::thread::yield_now();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn stoppoint(_name: &str) {}

/// Keeps a copy of the ledger whose write-ahead log this is, if `ITWIN_SYNCD_POWER_CUT` is set: it is on the disk now.
/// A test that puts the last copy back after a kill takes away what a power cut would have taken.
#[cfg(feature = "failpoints")]
pub(crate) fn on_disk(log: &std::path::Path) -> std::io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COPIES: AtomicU64 = AtomicU64::new(0);
    if std::env::var_os("ITWIN_SYNCD_POWER_CUT").is_none() {
        return Ok(());
    }
    let copies = log.with_file_name("on-disk");
    let number = COPIES.fetch_add(1, Ordering::Relaxed);
    // Under its number only when it is whole: the kill may come any time.
    let unfinished = copies.join("unfinished");
    std::fs::create_dir_all(&unfinished)?;
    for name in ["ledger.db-wal", "ledger.db"] {
        std::fs::copy(log.with_file_name(name), unfinished.join(name))?;
    }
    std::fs::rename(unfinished, copies.join(number.to_string()))
}

#[cfg(not(feature = "failpoints"))]
#[inline]
#[allow(clippy::unnecessary_wraps, reason = "as it is with the feature")]
pub(crate) fn on_disk(_log: &std::path::Path) -> std::io::Result<()> {
    Ok(())
}
