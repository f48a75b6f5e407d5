//! Points between two steps at which a test can kill the process. Without the feature `failpoints` there are none.

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
