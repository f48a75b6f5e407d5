//! How far an active run has got, from the platform's report of it. Pure.

use std::path::PathBuf;

use crate::ids::StorageFileId;
use crate::itwin::Run;
use crate::ledger::RunProgress;

/// How many files in a task are named.
const NAMED: usize = 3;

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    phase: Option<String>,
    jobs: u64,
    jobs_done: u64,
    tasks: u64,
    tasks_done: u64,
    /// Storage files in a task now, the first few.
    pub(super) current: Vec<StorageFileId>,
}

impl Progress {
    pub(super) fn of(run: &Run) -> Self {
        let mut progress = Self {
            phase: run.phase.clone(),
            ..Self::default()
        };
        for job in &run.jobs {
            progress.jobs += 1;
            progress.jobs_done += u64::from(is(job.state.as_deref(), "Completed"));
            for task in &job.tasks {
                progress.tasks += 1;
                progress.tasks_done += u64::from(is(task.state.as_deref(), "Completed"));
                let file = task.storage_file_id.as_ref();
                let current = &mut progress.current;
                if let Some(file) = file.filter(|_| is(task.state.as_deref(), "Executing"))
                    && current.len() < NAMED
                    && !current.contains(file)
                {
                    current.push(file.clone());
                }
            }
        }
        progress
    }

    /// The same for the ledger, with the paths of the files in a task.
    pub(super) fn recorded(&self, current: &[PathBuf]) -> RunProgress {
        let current = current
            .iter()
            .map(|path| path.to_string_lossy().into_owned());
        RunProgress {
            phase: self.phase.clone(),
            jobs: self.jobs,
            jobs_done: self.jobs_done,
            tasks: self.tasks,
            tasks_done: self.tasks_done,
            current: current.collect(),
        }
    }
}

/// Whether a job or task is in this state.
fn is(state: Option<&str>, word: &str) -> bool {
    state.is_some_and(|state| state.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn of(run: &str) -> (Option<String>, [u64; 4], Vec<String>) {
        let progress = Progress::of(&serde_json::from_str(run).unwrap());
        let counts = [
            progress.jobs_done,
            progress.jobs,
            progress.tasks_done,
            progress.tasks,
        ];
        let current = progress.current.iter().map(ToString::to_string);
        (progress.phase, counts, current.collect())
    }

    #[test]
    fn jobs_and_tasks_count_by_their_state() {
        for (run, phase, counts, current) in [
            (r#"{"id":"r"}"#, None, [0, 0, 0, 0], vec![]),
            (
                r#"{"id":"r","phase":"Preprocessor","jobs":[{"state":"NotStarted","tasks":null}]}"#,
                Some("Preprocessor"),
                [0, 1, 0, 0],
                vec![],
            ),
            (
                r#"{"id":"r","phase":"MasterFile","jobs":[
                    {"state":"completed","tasks":[{"storageFileId":"a","state":"Completed"}]},
                    {"state":"Executing","tasks":[{"storageFileId":"b","state":"executing"},
                        {"storageFileId":"b","state":"Executing"},{"storageFileId":"c","state":"Levitating"},
                        {"storageFileId":"d","state":7},{"state":"Executing"}]}]}"#,
                Some("MasterFile"),
                [1, 2, 1, 6],
                vec!["b"],
            ),
            (
                r#"{"id":"r","phase":"a\nb","jobs":[{"tasks":[
                    {"storageFileId":"a","state":"Executing"},{"storageFileId":"b","state":"Executing"},
                    {"storageFileId":"c","state":"Executing"},{"storageFileId":"d","state":"Executing"}]}]}"#,
                Some("a b"),
                [0, 1, 0, 4],
                vec!["a", "b", "c"],
            ),
        ] {
            let current = current.into_iter().map(str::to_owned).collect();
            assert_eq!(
                of(run),
                (phase.map(str::to_owned), counts, current),
                "{run}"
            );
        }
    }
}
