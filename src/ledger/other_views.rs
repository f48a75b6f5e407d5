//! Times of files as another host, mount or file system shows them.
//!
//! After a take-over, or when a share is mounted in another way, all files may have another change time, and another
//! precision of the modification time. A file is the known one without a look into it if its size is the same, its
//! modification time is the same as far as both sides are precise, and its change time is not later than the known
//! one: no program can set that, so whoever has written into the file since has made it later, even if size and
//! modification time are as before. If it is later, the content is compared.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use super::absence::AT_ONCE;
use super::scan_digests::forget_listing;
use super::{Error, Fingerprint, Ledger, WatchId, count_column, sql};

/// Steps in which file systems and protocols count time, in nanoseconds: FAT; ext3 and older protocols; some file
/// systems in user space; SMB.
const PRECISIONS: [i64; 5] = [2_000_000_000, 1_000_000_000, 1_000_000, 1_000, 100];

/// The coarsest of them.
pub(super) const COARSEST: Duration = Duration::from_secs(2);

/// How a file that is found differs from the known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    None,
    /// It was not changed, but its times are shown otherwise.
    View,
    /// Its status was changed, and perhaps its content.
    Touched,
    /// It is another version.
    Version,
}

impl Fingerprint {
    /// How `found` differs from this one. `settle`: a change is at least this far away.
    #[must_use]
    pub fn compare(self, found: Self, settle: Duration) -> Difference {
        if self == found {
            return Difference::None;
        }
        let most = settle.as_nanos();
        if self.size != found.size || !is_same_time(self.mtime_ns, found.mtime_ns, most) {
            Difference::Version
        } else if found.ctime_ns <= self.ctime_ns
            || is_same_time(self.ctime_ns, found.ctime_ns, most)
        {
            Difference::View
        } else {
            Difference::Touched
        }
    }
}

/// Whether two times are the same one, as far as both are precise. A difference of `most` nanoseconds is one.
fn is_same_time(one: i64, other: i64, most: u128) -> bool {
    let apart = u128::from(one.abs_diff(other));
    let precision = precision(one).max(precision(other));
    apart == 0 || apart < u128::from(precision).min(most)
}

/// How precise a time is at most, in nanoseconds.
fn precision(time: i64) -> u64 {
    let fits = |step: &&i64| time % **step == 0;
    let step = PRECISIONS.iter().find(fits).copied().unwrap_or(1);
    step.unsigned_abs()
}

/// Files that one statement changes.
const FILES: usize = 32;

/// Files of a watch, `$1`, in a folder, `$2`: name, size and times of each.
static RECORD: LazyLock<String> = LazyLock::new(|| {
    let files = || (0..FILES).map(|at| 3 + 4 * at);
    let column = |name: &str, offset: usize| {
        let cases = files().map(|at| format!("WHEN ${at} THEN ${} ", at + offset));
        let cases: String = cases.collect();
        format!("CASE name {cases}ELSE {name} END")
    };
    let names: Vec<String> = files().map(|at| format!("${at}")).collect();
    format!(
        "UPDATE files SET mtime_ns = {}, ctime_ns = {} WHERE watch_id = $1 AND dir = $2 AND known = 1 \
         AND name IN ({}) AND size = {}",
        column("mtime_ns", 2),
        column("ctime_ns", 3),
        names.join(", "),
        column("size", 1),
    )
});

impl Ledger {
    /// Records the times that are seen now of known files of a folder. The files are no new versions.
    pub async fn record_times(
        &self,
        watch: WatchId,
        dir: &Path,
        files: &[(OsString, Fingerprint)],
    ) -> Result<(), Error> {
        let dir = dir.as_os_str().as_bytes();
        for chunk in files.chunks(AT_ONCE) {
            self.db
                .write("record how files are seen", async |tx| {
                    for files in chunk.chunks(FILES) {
                        let Some(last) = files.last() else {
                            continue;
                        };
                        let mut update = sql::query(RECORD.as_str()).bind(watch).bind(dir);
                        for at in 0..FILES {
                            let (name, print) = files.get(at).unwrap_or(last);
                            update = update
                                .bind(name.as_bytes())
                                .bind(count_column(print.size))
                                .bind(print.mtime_ns)
                                .bind(print.ctime_ns);
                        }
                        update.execute(tx).await?;
                    }
                    forget_listing(tx, watch.0, dir).await
                })
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, print};
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    /// A time with all digits.
    const EXACT: i64 = 1_700_000_001 * SECOND + 234_567_891;

    /// The same, in steps of this many nanoseconds.
    fn cut(time: i64, step: i64) -> i64 {
        time - time % step
    }

    #[test]
    fn a_file_is_known_in_another_view_unless_it_may_have_changed() {
        use Difference::{None, Touched, Version, View};
        let settle = Duration::from_secs(10);
        let known = Fingerprint {
            size: 10,
            mtime_ns: EXACT,
            ctime_ns: EXACT + 5 * SECOND,
        };
        let with = |size, mtime_ns, ctime_ns| Fingerprint {
            size,
            mtime_ns,
            ctime_ns,
        };
        let (mtime, ctime) = (known.mtime_ns, known.ctime_ns);
        let later = ctime + 60 * SECOND;
        for (why, found, expected) in [
            ("the same view", known, None),
            ("an earlier change time", with(10, mtime, mtime), View),
            (
                "in steps of 100 ns",
                with(10, cut(mtime, 100), cut(ctime, 100)),
                View,
            ),
            (
                "in ms",
                with(10, cut(mtime, 1_000_000), cut(ctime, 1_000_000)),
                View,
            ),
            (
                "in s",
                with(10, cut(mtime, SECOND), cut(ctime, SECOND)),
                View,
            ),
            (
                "in steps of 2 s",
                with(10, cut(mtime, 2 * SECOND), cut(ctime, 2 * SECOND)),
                View,
            ),
            (
                "rounded up to 2 s",
                with(10, cut(mtime, 2 * SECOND) + 2 * SECOND, ctime),
                View,
            ),
            (
                "content of the same size, its modification time set back",
                with(10, mtime, later),
                Touched,
            ),
            (
                "the same where times are in s",
                with(10, cut(mtime, SECOND), cut(later, SECOND)),
                Touched,
            ),
            (
                "another mode, a second later",
                with(10, mtime, ctime + SECOND),
                Touched,
            ),
            (
                "written 1.5 s later",
                with(10, mtime + SECOND * 3 / 2, ctime + SECOND * 3 / 2),
                Version,
            ),
            (
                "an exact modification time that is another one",
                with(10, mtime + 1, ctime),
                Version,
            ),
            (
                "an older file",
                with(10, mtime - 60 * SECOND, ctime),
                Version,
            ),
            ("another size", with(11, mtime, ctime), Version),
        ] {
            assert_eq!(known.compare(found, settle), expected, "{why}: {found:?}");
            // The host that sees it coarsely may be the first one.
            let turned = match expected {
                None | Version => expected,
                // Compared by content if in doubt, never lost.
                View | Touched => continue,
            };
            assert_eq!(found.compare(known, settle), turned, "{why}: {found:?}");
        }
        let coarse = with(10, cut(mtime, 2 * SECOND), cut(ctime, 2 * SECOND));
        assert_eq!(coarse.compare(known, settle), View);
        // A file settles faster than that: this may be a change.
        assert_eq!(coarse.compare(known, Duration::from_millis(200)), Version);
    }

    #[test]
    fn a_time_is_as_precise_as_its_last_digit() {
        for (time, expected) in [
            (EXACT, 1),
            (cut(EXACT, 100), 100),
            (cut(EXACT, 1_000), 1_000),
            (cut(EXACT, 1_000_000), 1_000_000),
            (cut(EXACT, SECOND), 1_000_000_000),
            (cut(EXACT, 2 * SECOND), 2_000_000_000),
            (0, 2_000_000_000),
            (-SECOND, 1_000_000_000),
        ] {
            assert_eq!(precision(time), expected, "{time}");
        }
    }

    #[tokio::test]
    async fn times_are_recorded_of_just_these_files_and_open_no_job() {
        let f = Fixture::new().await;
        let names: Vec<OsString> = (0..FILES + 3).map(|n| format!("{n}.dgn").into()).collect();
        for name in &names {
            f.hand_over(name.to_str().unwrap(), 1, 0).await;
        }
        let seen = Fingerprint {
            ctime_ns: 77,
            ..print(1)
        };
        let (other, changed) = names.split_first().unwrap();
        let mut files: Vec<_> = changed.iter().map(|name| (name.clone(), seen)).collect();
        // Its size is another one by now.
        let outdated = Fingerprint {
            size: 99,
            ..print(1)
        };
        files[0].1 = outdated;
        let before = f.claim(1).await.unwrap();
        let record = f.ledger.record_times(f.watch, Path::new(""), &files);
        record.await.unwrap();
        for (name, known) in f.ledger.known_in(f.watch, Path::new("")).await.unwrap() {
            let is_left = name == *other || name == changed[0];
            let expected = if is_left { print(1) } else { seen };
            assert_eq!(known.fingerprint, Some(expected), "{name:?}");
        }
        // Neither a new version nor a new job.
        assert_eq!(before.version, 1);
        f.store(&before, 1, 2).await;
        let mut claimed = 1;
        while let Some(job) = f.claim(3).await {
            assert_eq!(job.version, 1);
            claimed += 1;
        }
        assert_eq!(claimed, names.len());
    }
}
