//! Files that exist but cannot be opened: why, since when, and from when on that is a problem of the watch. Pure.
//!
//! A file that another program has open is normal and stays unmentioned for long; a refused permission does not end by
//! itself. Every file that stays unreadable is reported in the end.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Unfinished;
use super::problems::Problems;
use crate::failpoint::share_deadline;

/// After the settle time and this one, a file that cannot be opened is a problem.
const REFUSED_MAX: Duration = Duration::from_secs(60);

/// A file that another program has open is a problem after this time.
const IN_USE_MAX: Duration = Duration::from_secs(3600);

/// The files of one root that cannot be opened now.
#[derive(Debug)]
pub(super) struct Unreadable {
    settle: Duration,
    /// The user id of the process, for hints.
    user: u32,
    files: HashMap<PathBuf, Failure>,
}

#[derive(Debug)]
struct Failure {
    since: Instant,
    cause: Cause,
    reason: String,
}

/// What keeps a file from being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Permission,
    /// Another program has it open.
    InUse,
    Other,
}

/// The files that have been unreadable for too long.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lasting {
    pub(super) files: u64,
    pub(super) problems: Problems,
    pub(super) hints: Vec<String>,
}

impl Unreadable {
    pub(super) fn new(settle: Duration, user: u32) -> Self {
        Self {
            settle,
            user,
            files: HashMap::new(),
        }
    }

    /// The file could not be opened.
    pub(super) fn add(&mut self, path: &Path, error: &io::Error, now: Instant) {
        let (cause, reason) = (Cause::of(error), format!("cannot be opened: {error}"));
        if let Some(known) = self.files.get_mut(path) {
            known.cause = cause;
            known.reason = reason;
        } else {
            let failure = Failure {
                since: now,
                cause,
                reason,
            };
            self.files.insert(path.to_owned(), failure);
        }
    }

    /// The file could be opened, or is gone.
    pub(super) fn remove(&mut self, path: &Path) {
        self.files.remove(path);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Those that are a problem by now.
    pub(super) fn lasting(&self, now: Instant) -> Lasting {
        let mut lasting: Vec<_> = self
            .files
            .iter()
            .filter(|(_, failure)| self.is_lasting(failure, now))
            .collect();
        // The same example each time: another one would be a change.
        lasting.sort_by_key(|(path, failure)| (failure.since, *path));
        let mut problems = Problems::default();
        let mut causes = Vec::new();
        for (path, failure) in &lasting {
            problems.add(&failure.reason, path);
            if !causes.contains(&failure.cause) {
                causes.push(failure.cause);
            }
        }
        causes.sort_unstable();
        Lasting {
            files: lasting.len() as u64,
            problems,
            hints: causes
                .into_iter()
                .filter_map(|cause| cause.hint(self.user))
                .collect(),
        }
    }

    fn is_lasting(&self, failure: &Failure, now: Instant) -> bool {
        let quiet = match failure.cause {
            Cause::InUse => share_deadline(IN_USE_MAX),
            Cause::Permission | Cause::Other => self.settle + share_deadline(REFUSED_MAX),
        };
        now.saturating_duration_since(failure.since) >= quiet
    }

    /// One file, for status.
    pub(super) fn shown(&self, path: &Path, now: Instant) -> Option<Unfinished> {
        let failure = self.files.get(path)?;
        let waited = now.saturating_duration_since(failure.since);
        Some(Unfinished {
            path: path.to_string_lossy().into_owned(),
            busy: true,
            reason: Some(failure.reason.clone()),
            hint: failure.cause.hint(self.user),
            unreadable_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            unchanged_ms: 0,
            next_look_ms: 0,
        })
    }

    /// Some of them, those first that are a problem by now.
    pub(super) fn some_shown(&self, most: usize, now: Instant) -> Vec<Unfinished> {
        let (lasting, others): (Vec<_>, Vec<_>) = self
            .files
            .iter()
            .partition(|(_, failure)| self.is_lasting(failure, now));
        let paths = lasting.into_iter().chain(others).take(most);
        paths
            .filter_map(|(path, _)| self.shown(path, now))
            .collect()
    }
}

impl Cause {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::ACCESS | Errno::PERM) => Self::Permission,
            // What CIFS makes of a sharing violation, and of a lock.
            Some(Errno::BUSY | Errno::AGAIN | Errno::TXTBSY) => Self::InUse,
            _ => Self::Other,
        }
    }

    fn hint(self, user: u32) -> Option<String> {
        match self {
            Self::Permission => Some(format!(
                "grant the user of the service (uid {user}) read permission on the file and its folders"
            )),
            Self::InUse => Some("close the file in the program that has it open".to_owned()),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(15);

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn a_refused_permission_is_a_problem_soon_and_an_open_file_late() {
        let start = Instant::now();
        for (errno, quiet_seconds, hint) in [
            (Errno::ACCESS, 75, "grant the user of the service (uid 999)"),
            (Errno::PERM, 75, "grant the user of the service (uid 999)"),
            (Errno::IO, 75, ""),
            (Errno::BUSY, 3600, "close the file"),
            (Errno::AGAIN, 3600, "close the file"),
            (Errno::TXTBSY, 3600, "close the file"),
        ] {
            let mut unreadable = Unreadable::new(SETTLE, 999);
            unreadable.add(Path::new("a.dgn"), &error(errno), start);
            let quiet = start + Duration::from_secs(quiet_seconds);
            // Another attempt does not start the time again.
            unreadable.add(Path::new("a.dgn"), &error(errno), quiet);
            let before = start + Duration::from_secs(quiet_seconds - 1);
            assert_eq!(unreadable.lasting(before), Lasting::default(), "{errno}");
            let lasting = unreadable.lasting(quiet);
            assert_eq!(lasting.files, 1, "{errno}");
            assert!(lasting.hints.concat().starts_with(hint), "{lasting:?}");
            unreadable.remove(Path::new("a.dgn"));
            assert_eq!(unreadable.lasting(quiet), Lasting::default());
        }
    }

    #[test]
    fn any_number_of_files_is_a_count_with_the_first_as_example() {
        let start = Instant::now();
        let mut unreadable = Unreadable::new(SETTLE, 999);
        for number in (0..1000).rev() {
            let path = format!("{number:04}.dgn");
            unreadable.add(Path::new(&path), &error(Errno::ACCESS), start);
        }
        let later = start + Duration::from_secs(600);
        let lasting = unreadable.lasting(later);
        assert_eq!(
            lasting.problems.lines(Path::new("/srv")),
            [
                "1000 times cannot be opened: Permission denied (os error 13), first at \"/srv/0000.dgn\""
            ]
        );
        assert_eq!(unreadable.some_shown(20, later).len(), 20);
    }
}
