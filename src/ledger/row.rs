//! What the rows of all tables have in common: ids, times and numbers of bytes, as the database keeps them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Gives out row ids: milliseconds in the upper bits, so that ids follow the order of creation, and a count below.
struct Ids {
    last: AtomicI64,
}

impl Ids {
    /// The first of `count` ids that follow each other.
    fn next(&self, count: u32, now: Timestamp) -> i64 {
        let floor = first_id(now);
        let next = |last: i64| floor.max(last + 1);
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last) + i64::from(count) - 1)
            });
        // The closure always returns Some, so both arms have the value before the update.
        let (Ok(last) | Err(last)) = last;
        next(last)
    }

    fn continue_after(&self, id: i64) {
        self.last.fetch_max(id, Ordering::Relaxed);
    }
}

/// One for the process, as one process at a time writes the ledger.
static IDS: Ids = Ids {
    last: AtomicI64::new(0),
};

/// The first of `count` new row ids that follow each other, all greater than all before them.
pub(super) fn new_ids(count: u32, now: Timestamp) -> i64 {
    IDS.next(count, now)
}

/// The smallest id that a row gets at this time.
pub(super) fn first_id(at: Timestamp) -> i64 {
    at.as_millisecond() << 20
}

/// Makes all new ids greater than `id`, even when the clock was set back or the previous process wrote within the same
/// millisecond: readers rely on their order.
pub(super) fn continue_ids_after(id: i64) {
    IDS.continue_after(id);
}

/// The column for a time: milliseconds since the epoch.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// The time in a column. A number that is no time counts as the epoch.
pub(super) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The column for a number of bytes, files or rows.
pub(super) fn count_column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The number of bytes, files or rows in a column. A negative one counts as 0.
pub(super) fn count_value(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// The folder and the name of a relative path, as the ledger's bytes.
pub(super) fn split(path: &Path) -> (&[u8], &[u8]) {
    let dir = path
        .parent()
        .map_or(&b""[..], |dir| dir.as_os_str().as_bytes());
    let name = path.file_name().map_or(&b""[..], |name| name.as_bytes());
    (dir, name)
}

/// The relative path of a folder and a name.
pub(super) fn join(dir: Vec<u8>, name: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(dir)).join(OsString::from_vec(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    use super::super::fixture::*;

    #[test]
    fn ids_rise_even_if_the_clock_does_not() {
        let first = new_ids(3, at(100));
        let later = new_ids(1, at(100));
        let earlier_clock = new_ids(1, at(100) - SignedDuration::from_hours(1));
        assert!(first + 2 < later && later < earlier_clock);
    }

    #[test]
    fn two_processes_in_one_millisecond_never_give_out_the_same_id() {
        let fresh = || Ids {
            last: AtomicI64::new(0),
        };
        let (first, second) = (fresh(), fresh());
        let of_first: Vec<i64> = (0..3).map(|_| first.next(1, at(100))).collect();
        // What a start does with the greatest id in the ledger.
        second.continue_after(of_first[2]);
        for now in [at(100), at(99)] {
            let next = second.next(1, now);
            assert!(next > of_first[2], "{next} after {of_first:?}");
        }
    }
}
