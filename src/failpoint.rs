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

/// Panics, the first time only, if `ITWIN_SYNCD_PANICPOINT` names this point: a thread dies, the process goes on.
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
