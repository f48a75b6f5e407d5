//! The version of this program. Commit and date come from `build.rs`; nothing is looked up at run time.

/// The number of the release, such as `0.1.0`.
pub(crate) const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// Commit and date, such as `1c845e6 2026-11-27`; empty if the build did not know them.
pub(crate) const ORIGIN: &str = env!("ITWIN_SYNCD_ORIGIN");

/// Number, commit and date, such as `0.1.0 (1c845e6 2026-11-27)`.
pub(crate) const FULL: &str = if ORIGIN.is_empty() {
    NUMBER
} else {
    concat!(
        env!("CARGO_PKG_VERSION"),
        " (",
        env!("ITWIN_SYNCD_ORIGIN"),
        ")"
    )
};
