//! The progress of a run and of a batch of files, and estimates of the time that is left. Pure.
//!
//! An estimate has a basis or is missing: the rate of the uploads at this moment, and the time that runs of the iModel
//! usually take. What waits for something else than its turn has none.

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{RunProgress, RunSummary};
use crate::text::{plural, span_of};

/// How far an active run has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RunProgressView {
    /// The platform's word.
    pub(crate) phase: Option<String>,
    pub(crate) jobs: u64,
    pub(crate) jobs_done: u64,
    pub(crate) tasks: u64,
    pub(crate) tasks_done: u64,
    /// Files that are in a task now, a few of them.
    pub(crate) current: Vec<String>,
    /// Phase and counts as text; without names, which are untrusted.
    pub(crate) text: String,
}

/// All files that wait for an upload or a run or are in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BatchView {
    pub(crate) files: u64,
    /// Files that are in storage already and wait for a run or are in one.
    pub(crate) uploaded: u64,
    /// Bytes to upload; null if unknown.
    pub(crate) bytes_left: Option<u64>,
    /// Estimate of the uploads; null without a basis.
    pub(crate) upload_seconds_left: Option<u64>,
    /// Estimate of the active runs; null without a basis.
    pub(crate) run_seconds_left: Option<u64>,
    /// All of it as text.
    pub(crate) text: String,
}

/// What the estimate of a batch is made from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Batch {
    /// Files that wait for their upload or are in it.
    pub(super) to_upload: u64,
    /// Files in storage that wait for a run or are in one.
    pub(super) uploaded: u64,
    /// Bytes of the former that are not sent yet; None if unknown, or if some wait for something else than their turn.
    pub(super) bytes_left: Option<u64>,
    /// The present rate of all uploads.
    pub(super) bytes_per_second: u64,
    /// What is left of the longest active run.
    pub(super) run_seconds_left: Option<u64>,
}

impl Batch {
    /// None without files.
    pub(super) fn view(self) -> Option<BatchView> {
        let files = self.to_upload + self.uploaded;
        if files == 0 {
            return None;
        }
        let upload_seconds_left = match (self.to_upload, self.bytes_left) {
            (0, _) | (_, None | Some(0)) => None,
            (_, Some(bytes)) => bytes
                .checked_div(self.bytes_per_second)
                .map(|seconds| seconds.max(1)),
        };
        let mut text = match self.uploaded {
            0 => format!("{} to upload", plural(files, "file", "files")),
            uploaded => format!("{uploaded} of {} uploaded", plural(files, "file", "files")),
        };
        if let Some(seconds) = upload_seconds_left {
            text += &format!(", about {} left", span_of(seconds));
        }
        if let Some(seconds) = self.run_seconds_left {
            text += &format!("; the run should end in about {}", span_of(seconds));
        }
        Some(BatchView {
            files,
            uploaded: self.uploaded,
            bytes_left: self.bytes_left,
            upload_seconds_left,
            run_seconds_left: self.run_seconds_left,
            text,
        })
    }
}

/// The progress of a run; None once it has ended.
pub(super) fn progress(run: &RunSummary) -> Option<RunProgressView> {
    let progress = run.progress.as_ref().filter(|_| run.ended_at.is_none())?;
    Some(RunProgressView {
        phase: progress.phase.clone(),
        jobs: progress.jobs,
        jobs_done: progress.jobs_done,
        tasks: progress.tasks,
        tasks_done: progress.tasks_done,
        current: progress.current.clone(),
        text: text(progress),
    })
}

fn text(progress: &RunProgress) -> String {
    let mut parts: Vec<String> = progress.phase.iter().cloned().collect();
    if progress.jobs > 0 {
        parts.push(format!(
            "{} of {} and {} of {} done",
            progress.jobs_done,
            plural(progress.jobs, "job", "jobs"),
            progress.tasks_done,
            plural(progress.tasks, "task", "tasks")
        ));
    }
    if parts.is_empty() {
        parts.push("not planned yet".to_owned());
    }
    parts.join(", ")
}

/// How long an active run has taken so far; None once it has ended.
pub(super) fn elapsed(run: &RunSummary, now: Timestamp) -> Option<u64> {
    let elapsed = now.duration_since(run.requested_at).as_secs().max(0);
    run.ended_at.is_none().then_some(elapsed.unsigned_abs())
}

/// How long an active run will take, if it takes as long as usual. None if it has ended, if that is not known, and if
/// it takes longer.
pub(super) fn seconds_left(run: &RunSummary, now: Timestamp) -> Option<u64> {
    let usual = run.usual?.as_secs();
    usual
        .checked_sub(elapsed(run, now)?)
        .filter(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_estimate_of_a_batch_needs_a_basis() {
        let mib = 1 << 20;
        for (to_upload, uploaded, bytes_left, rate, run, text, seconds) in [
            (0, 0, Some(0), 0, None, None, None),
            (
                13,
                27,
                Some(180 * mib),
                mib,
                None,
                Some("27 of 40 files uploaded, about 3 min left"),
                Some(180),
            ),
            (
                13,
                27,
                Some(180 * mib),
                0,
                None,
                Some("27 of 40 files uploaded"),
                None,
            ),
            (
                13,
                27,
                None,
                mib,
                None,
                Some("27 of 40 files uploaded"),
                None,
            ),
            (
                13,
                0,
                Some(mib),
                mib,
                None,
                Some("13 files to upload, about 1 s left"),
                Some(1),
            ),
            (
                1,
                0,
                Some(5),
                mib,
                None,
                Some("1 file to upload, about 1 s left"),
                Some(1),
            ),
            (
                0,
                40,
                Some(0),
                0,
                Some(125),
                Some("40 of 40 files uploaded; the run should end in about 2 min"),
                None,
            ),
            (0, 1, Some(0), 0, None, Some("1 of 1 file uploaded"), None),
            (
                2,
                1,
                Some(10 * mib),
                mib,
                Some(7),
                Some("1 of 3 files uploaded, about 10 s left; the run should end in about 7 s"),
                Some(10),
            ),
        ] {
            let batch = Batch {
                to_upload,
                uploaded,
                bytes_left,
                bytes_per_second: rate,
                run_seconds_left: run,
            };
            let view = batch.view();
            assert_eq!(
                view.as_ref().map(|view| view.text.as_str()),
                text,
                "{batch:?}"
            );
            assert_eq!(
                view.and_then(|view| view.upload_seconds_left),
                seconds,
                "{batch:?}"
            );
        }
    }

    #[test]
    fn what_is_left_of_a_run_is_its_usual_duration_without_what_has_passed() {
        for (usual, passed, ended, left) in [
            (Some(300), 60, false, Some(240)),
            (Some(300), 300, false, None),
            (Some(300), 301, false, None),
            (None, 60, false, None),
            (Some(300), 60, true, None),
            (Some(300), -60, false, Some(300)),
        ] {
            let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
            let run = RunSummary {
                id: None,
                requested_at: at(0),
                ended_at: ended.then(|| at(50)),
                state: None,
                result: None,
                overdue: false,
                progress: None,
                usual: usual.map(Duration::from_secs),
            };
            assert_eq!(seconds_left(&run, at(passed)), left, "{usual:?} {passed}");
        }
    }

    #[test]
    fn progress_is_phase_and_counts() {
        for (phase, counts, expected) in [
            (None, [0, 0, 0, 0], "not planned yet"),
            (Some("Preprocessor"), [0, 0, 0, 0], "Preprocessor"),
            (
                Some("MasterFile"),
                [0, 1, 12, 40],
                "MasterFile, 0 of 1 job and 12 of 40 tasks done",
            ),
            (None, [1, 2, 1, 1], "1 of 2 jobs and 1 of 1 task done"),
        ] {
            let [jobs_done, jobs, tasks_done, tasks] = counts;
            let progress = RunProgress {
                phase: phase.map(str::to_owned),
                jobs,
                jobs_done,
                tasks,
                tasks_done,
                current: Vec::new(),
            };
            assert_eq!(text(&progress), expected);
        }
    }
}
