//! Whether the folder of a watch is the one that the ledger knows, and how its files are compared. Pure.
//!
//! With a ledger that several hosts share, the active one may be another than before, and it may see another folder
//! under the same path: its own disk instead of the share, or another share. If the folder is in another place, a scan
//! compares and records nothing; only if most of the known files are in it, as they are known or newer, it is that
//! folder.

use std::time::Duration;

use crate::ledger::{Difference, Fingerprint};

/// How a scan compares files with the known ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// By all of their times.
    SameView,
    /// Another host or mount may show other times of them.
    OtherView,
    /// Only to find out whether it is the known folder.
    Unproven,
}

impl Trust {
    /// For a scan of the folder at `now`, if that is known; files were found at `before`. `is_shared`: the ledger
    /// belongs to several hosts. `is_first`: no scan of this process has ended.
    pub(super) fn of_scan(
        is_shared: bool,
        is_first: bool,
        before: Option<&str>,
        now: Option<&str>,
    ) -> Self {
        let is_elsewhere = before.is_some() && now.is_some() && before != now;
        match (is_shared, is_elsewhere) {
            (true, true) => Self::Unproven,
            (true, false) if is_first => Self::OtherView,
            (false, true) => Self::OtherView,
            (_, false) => Self::SameView,
        }
    }
}

/// What a scan has found of the known files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Overlap {
    /// Files that are known.
    pub(super) known: u64,
    /// Those that are there, as they are known or newer.
    pub(super) found: u64,
}

impl Overlap {
    /// Whether a file that is found may be the known one. An older one under its name is none: it is that of a copy.
    pub(super) fn is_same_file(known: Fingerprint, found: Fingerprint, settle: Duration) -> bool {
        known.compare(found, settle) != Difference::Version || found.mtime_ns > known.mtime_ns
    }

    /// Whether it is the folder in which they were found: nobody deletes more than half of the files just
    /// while another host takes over.
    pub(super) fn proves_folder(self) -> bool {
        self.found.saturating_mul(2) >= self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_another_place_has_to_prove_itself_where_hosts_take_over() {
        use Trust::{OtherView, SameView, Unproven};
        let (a, b) = (Some("nfs nas:/a"), Some("ext4 /dev/sda1 on cad2"));
        for (is_shared, is_first, before, now, expected) in [
            (true, true, a, b, Unproven),
            (true, false, a, b, Unproven),
            (true, true, a, a, OtherView),
            (true, false, a, a, SameView),
            // A new watch, or a ledger from before shares were recorded.
            (true, true, None, b, OtherView),
            // A kernel that does not say where it is.
            (true, true, a, None, OtherView),
            (true, false, a, None, SameView),
            (false, true, a, b, OtherView),
            (false, false, a, b, OtherView),
            (false, true, a, a, SameView),
            (false, true, None, a, SameView),
        ] {
            assert_eq!(
                Trust::of_scan(is_shared, is_first, before, now),
                expected,
                "{is_shared} {is_first} {before:?} {now:?}"
            );
        }
    }

    #[test]
    fn an_older_file_under_a_known_name_is_that_of_a_copy() {
        let print = |size, mtime_ns, ctime_ns| Fingerprint {
            size,
            mtime_ns,
            ctime_ns,
        };
        let known = print(10, 5_000_000_001, 5_000_000_001);
        for (found, expected) in [
            (known, true),
            (print(10, 5_000_000_001, 9_000_000_001), true),
            (print(10, 5_000_000_000, 5_000_000_000), true),
            (print(11, 9_000_000_001, 9_000_000_001), true),
            (print(11, 1_000_000_001, 9_000_000_001), false),
            (print(10, 1_000_000_001, 1_000_000_001), false),
        ] {
            let settle = Duration::from_secs(10);
            assert_eq!(
                Overlap::is_same_file(known, found, settle),
                expected,
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_folder_is_the_known_one_if_most_known_files_are_in_it() {
        for (known, found, expected) in [
            (0, 0, true),
            (1, 0, false),
            (1, 1, true),
            (5000, 0, false),
            (5000, 2499, false),
            (5000, 2500, true),
            (5000, 5000, true),
        ] {
            assert_eq!(
                Overlap { known, found }.proves_folder(),
                expected,
                "{known} {found}"
            );
        }
    }
}
