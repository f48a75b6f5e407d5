//! The state of a root: what a scan or a probe says about it, and when that is worth a line in the log. Pure.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::problems::{self, Problems};
use super::scan::Summary;
use super::trust::Overlap;
use super::unreadable::Lasting;
use crate::config::Watch;
use crate::ledger::RootState;
use crate::rooted_fs::Identity;
use crate::shell;

/// What was found out about a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) state: RootState,
    /// Why it is not `Ok`, for status.
    pub(super) note: Option<String>,
    /// `note` without counts and examples: those are no change worth a line.
    kinds: Vec<String>,
    /// It is unavailable although it can be listed: other hosts do not see more.
    is_listed: bool,
}

impl Finding {
    /// The root cannot be reached.
    pub(super) fn unavailable(note: String) -> Self {
        Self {
            state: RootState::Unavailable,
            kinds: vec![note.clone()],
            note: Some(note),
            is_listed: false,
        }
    }

    /// The root is empty, and another folder than the one in which files were found.
    pub(super) fn empty_replacement() -> Self {
        Self::unavailable(
            "the folder is empty, and it is not the one in which files were found: mount the share, or put a file into the folder"
                .to_owned(),
        )
    }

    /// The folder is in another place than the one in which files were found, and has hardly any of them.
    pub(super) fn other_folder(watch: &str, before: &str, now: &str, overlap: Overlap) -> Self {
        let Overlap { known, found } = overlap;
        let kind = format!(
            "this is not the folder in which files were found: that is {before}, this is {now}; mount the same share on \
             all hosts, or run `{}` if the files have moved to this one",
            shell::command(["resume", watch])
        );
        Self {
            state: RootState::Unavailable,
            note: Some(format!("{found} of {known} known files are in it; {kind}")),
            kinds: vec![kind],
            is_listed: false,
        }
    }

    /// The share has not answered for this long.
    pub(super) fn no_answer(waited: Duration, during: &str) -> Self {
        let seconds = waited.as_secs();
        Self::unavailable(format!(
            "the share has not answered for {seconds} s{during}"
        ))
    }

    /// The same of a folder that was listed, although the share has not answered for this long when a file was opened.
    pub(super) fn without_answer_to_probes(self, waited: Duration) -> Self {
        if self.state == RootState::Unavailable {
            return self;
        }
        let unavailable = Self::unavailable(format!(
            "the share lists the folder, but has not answered for {} s when a file was opened; new and changed files \
             wait until it does",
            waited.as_secs()
        ));
        Self {
            is_listed: true,
            ..unavailable
        }
    }

    /// The same on `host`, beside which other hosts are ready to take over.
    pub(super) fn with_other_hosts(mut self, host: &str) -> Self {
        if let Some(note) = self.note.as_mut().filter(|_| !self.is_listed) {
            note.push_str("; another host that sees it, and all other folders that ");
            note.push_str(host);
            note.push_str(" sees, takes over by itself; to let one take over all the same, run ");
            note.push_str("`systemctl stop itwin-syncd` on ");
            note.push_str(host);
        }
        self
    }

    /// What the end of a full scan says.
    pub(super) fn of_scan(summary: &Summary, root: &Path) -> Self {
        if let Err(error) = &summary.root {
            return Self::unavailable(error.to_string());
        }
        if !summary.problems.is_empty() {
            return Self::of_problems(&summary.problems, root);
        }
        let polled = |note: String| Self {
            state: RootState::Polled,
            note: Some(note),
            kinds: Vec::new(),
            is_listed: false,
        };
        if summary.remote {
            return polled("this file system reports no changes".to_owned());
        }
        let Some((first, others)) = summary.remote_folders.split_first() else {
            return Self::of_problems(&summary.problems, root);
        };
        let folder = problems::shown(first);
        polled(match others.len() {
            0 => format!(
                "the file system of {folder} reports no changes; it is scanned at intervals"
            ),
            more => format!(
                "the file systems of {folder} and {more} more folders report no changes; they are scanned at intervals"
            ),
        })
    }

    /// This finding of a scan together with the files that could not be opened for long.
    pub(super) fn with_unreadable(&self, lasting: &Lasting, root: &Path) -> Self {
        if self.state == RootState::Unavailable || lasting.files == 0 {
            return self.clone();
        }
        let scanned = self
            .note
            .clone()
            .filter(|_| self.state == RootState::Degraded);
        let hints = lasting.hints.iter().map(|hint| format!("hint: {hint}"));
        let lines = lasting.problems.lines(root);
        let note: Vec<String> = scanned.into_iter().chain(lines).chain(hints).collect();
        let kinds = self.kinds.iter().cloned();
        Self {
            state: RootState::Degraded,
            note: Some(note.join("; ")),
            kinds: kinds.chain(lasting.problems.kinds()).collect(),
            is_listed: false,
        }
    }

    /// What these problems say, if the root itself can be reached.
    pub(super) fn of_problems(problems: &Problems, root: &Path) -> Self {
        if problems.is_empty() {
            return Self {
                state: RootState::Ok,
                note: None,
                kinds: Vec::new(),
                is_listed: false,
            };
        }
        Self {
            state: RootState::Degraded,
            note: Some(problems.lines(root).join("; ")),
            kinds: problems.kinds(),
            is_listed: false,
        }
    }
}

/// What is new in a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// Only counts or examples.
    Details,
    /// The state, or a kind of problem.
    Kind,
}

/// How the root was found last.
#[derive(Debug)]
pub(super) struct Health {
    /// What was recorded.
    last: Finding,
    /// What the last scan or probe said, without files that cannot be opened.
    scanned: Finding,
    identity: Option<Identity>,
    /// A probe waits for the share.
    pub(super) hanging: bool,
}

impl Default for Health {
    fn default() -> Self {
        let ok = Finding {
            state: RootState::Ok,
            note: None,
            kinds: Vec::new(),
            is_listed: false,
        };
        Self {
            last: ok.clone(),
            scanned: ok,
            identity: None,
            hanging: false,
        }
    }
}

impl Health {
    pub(super) fn state(&self) -> RootState {
        self.last.state
    }

    /// Why the root cannot be reached, if it cannot.
    pub(super) fn problem(&self) -> Option<String> {
        let note = &self.last.note;
        note.clone()
            .filter(|_| self.last.state == RootState::Unavailable)
    }

    /// Whether all kinds of these problems are known.
    pub(super) fn knows(&self, problems: &Problems) -> bool {
        let kinds = problems.kinds();
        kinds.iter().all(|kind| self.last.kinds.contains(kind))
    }

    pub(super) fn compare(&self, finding: &Finding) -> Change {
        let last = &self.last;
        if (finding.state, &finding.kinds) != (last.state, &last.kinds) {
            Change::Kind
        } else if finding.note != last.note {
            Change::Details
        } else {
            Change::None
        }
    }

    pub(super) fn set(&mut self, finding: Finding) {
        self.last = finding;
    }

    /// What the last scan or probe said of the root.
    pub(super) fn scanned(&self) -> &Finding {
        &self.scanned
    }

    pub(super) fn set_scanned(&mut self, finding: Finding) {
        self.scanned = finding;
    }

    /// The directory that the last full scan walked.
    pub(super) fn set_identity(&mut self, root: &io::Result<Identity>) {
        self.identity = root.as_ref().ok().copied();
    }

    /// Whether another directory was walked by the last scan, or none.
    pub(super) fn is_replaced_by(&self, identity: Identity) -> bool {
        self.identity != Some(identity)
    }
}

/// Logs a finding that is new.
pub(super) fn log(watch: &Watch, finding: &Finding) {
    let (watch, root) = (&watch.name, &watch.path);
    let reason = finding.note.as_deref().unwrap_or_default();
    match finding.state {
        RootState::Ok => info!(%watch, ?root, "folder is fully watched again"),
        RootState::Polled => info!(%watch, ?root, reason, "folder is scanned at intervals"),
        RootState::Degraded => warn!(%watch, ?root, reason, "folder is degraded"),
        RootState::Unavailable => warn!(
            %watch, ?root, reason,
            "folder is unavailable; known files are kept, and it is tried again at every poll_interval"
        ),
    }
}

/// Notices a scan that waits for the share although probes are answered.
#[derive(Debug)]
pub(super) struct StallDetector {
    /// The scan's step counter when it changed last, and when that was.
    steps: u64,
    since: Instant,
    reported: bool,
}

impl StallDetector {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            steps: 0,
            since: now,
            reported: false,
        }
    }

    /// Whether a stall has to be reported now: once until [`Self::reset`]. `steps`: None when no scan waits for the
    /// share.
    pub(super) fn observe(&mut self, steps: Option<u64>, now: Instant, limit: Duration) -> bool {
        if steps != Some(self.steps) {
            self.steps = steps.unwrap_or(u64::MAX);
            self.since = now;
            return false;
        }
        let stalled = !self.reported && now.duration_since(self.since) >= limit;
        self.reported |= stalled;
        stalled
    }

    /// A scan came to its end.
    pub(super) fn reset(&mut self) {
        self.reported = false;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn summary(change: impl Fn(&mut Summary)) -> Summary {
        let mut summary = Summary {
            files: 1,
            ignored: 0,
            took: Duration::ZERO,
            root: Ok(Identity::for_test(1)),
            remote: false,
            remote_folders: Vec::new(),
            watched: true,
            problems: Problems::default(),
        };
        change(&mut summary);
        summary
    }

    #[test]
    fn a_folder_that_is_listed_but_opens_no_file_is_unavailable_and_no_host_sees_more() {
        let root = Path::new("/srv");
        let of = |summary: &Summary| {
            let listed = Finding::of_scan(summary, root);
            listed.without_answer_to_probes(Duration::from_secs(30))
        };
        let polled = of(&summary(|one| one.remote = true)).with_other_hosts("cad1");
        assert_eq!(polled.state, RootState::Unavailable);
        let note = polled.note.unwrap();
        assert!(note.contains("not answered for 30 s"), "{note}");
        assert!(!note.contains("cad1"), "{note}");
        let gone = of(&summary(|one| one.root = Err(io::Error::other("gone"))));
        assert_eq!(gone, Finding::unavailable("gone".to_owned()));
        let note = gone.with_other_hosts("cad1").note.unwrap();
        assert!(
            note.contains("systemctl stop itwin-syncd` on cad1"),
            "{note}"
        );
    }

    #[test]
    fn a_scan_says_how_the_root_is() {
        let folders = |count: usize| vec![PathBuf::from("share"); count];
        for (summary, state, note) in [
            (summary(|_| ()), RootState::Ok, ""),
            (
                summary(|one| one.root = Err(io::Error::other("gone"))),
                RootState::Unavailable,
                "gone",
            ),
            (
                summary(|one| one.remote = true),
                RootState::Polled,
                "this file system reports no changes",
            ),
            (
                summary(|one| one.remote_folders = folders(1)),
                RootState::Polled,
                "the file system of \"share\" reports",
            ),
            (
                summary(|one| one.remote_folders = folders(3)),
                RootState::Polled,
                "\"share\" and 2 more folders report",
            ),
            (
                summary(|one| {
                    one.remote = true;
                    one.problems.add("EACCES", Path::new("a"));
                }),
                RootState::Degraded,
                "\"/srv/a\": EACCES",
            ),
        ] {
            let finding = Finding::of_scan(&summary, Path::new("/srv"));
            assert_eq!(finding.state, state, "{summary:?}");
            assert!(finding.note.unwrap_or_default().contains(note), "{note}");
        }
    }

    #[test]
    fn only_new_states_and_kinds_are_logged() {
        let with = |kinds: &[&str]| {
            let mut problems = Problems::default();
            for kind in kinds {
                problems.add(kind, Path::new("a"));
            }
            Finding::of_problems(&problems, Path::new("/srv"))
        };
        let mut health = Health::default();
        assert_eq!(health.compare(&with(&[])), Change::None);
        assert_eq!(health.compare(&with(&["EIO"])), Change::Kind);
        health.set(with(&["EIO"]));
        assert_eq!(health.compare(&with(&["EIO"])), Change::None);
        assert_eq!(health.compare(&with(&["EIO", "EIO"])), Change::Details);
        assert_eq!(health.compare(&with(&["EACCES"])), Change::Kind);
        assert_eq!(health.problem(), None);
        health.set(Finding::unavailable("gone".to_owned()));
        assert_eq!(health.problem().as_deref(), Some("gone"));
    }

    #[test]
    fn a_scan_that_makes_no_step_for_long_is_reported_once() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let limit = Duration::from_secs(30);
        let mut stall = StallDetector::new(start);
        for (steps, second, reported) in [
            (Some(1), 0, false),
            (Some(1), 29, false),
            (Some(2), 30, false),
            (Some(2), 59, false),
            (Some(2), 60, true),
            (Some(2), 90, false),
            (None, 91, false),
            (None, 200, false),
        ] {
            assert_eq!(
                stall.observe(steps, at(second), limit),
                reported,
                "{second}"
            );
        }
        stall.reset();
        assert!(!stall.observe(Some(3), at(200), limit));
        assert!(stall.observe(Some(3), at(230), limit));
    }
}
