//! The progress of a run, and how long runs of its iModel usually take: for reports, nothing depends on it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::row::join;
use super::{ConnectionId, Error, Ledger, RunId, Tx, count_value, sql};
use crate::ids::StorageFileId;

/// How many runs the usual duration is taken from.
const RUNS: u32 = 10;

/// How far a run has got, by the platform's report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProgress {
    /// The platform's word for its phase.
    pub phase: Option<String>,
    /// Its jobs, one per connector type.
    pub jobs: u64,
    /// Jobs that have ended.
    pub jobs_done: u64,
    /// Its tasks, one per file.
    pub tasks: u64,
    /// Tasks that have ended.
    pub tasks_done: u64,
    /// Files that are in a task now, a few of them: paths relative to their watch.
    pub current: Vec<String>,
}

impl Ledger {
    /// Records the last state and progress that were seen of a run, for status.
    pub async fn note_run_state(
        &self,
        run: RunId,
        state: &str,
        progress: &RunProgress,
    ) -> Result<(), Error> {
        let progress = serde_json::to_string(progress).ok();
        self.db
            .write("note the state of a run", async |tx| {
                sql::query("UPDATE runs SET state = $2, progress = $3 WHERE id = $1")
                    .bind(run.0)
                    .bind(state)
                    .bind(progress)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// The paths of files of a connection, in the order of their storage files. Unknown ones are left out.
    pub async fn paths_of(
        &self,
        connection: ConnectionId,
        storage_files: &[StorageFileId],
    ) -> Result<Vec<PathBuf>, Error> {
        self.db
            .read("look up the files of a run", async |db| {
                let mut paths = Vec::new();
                for storage_file in storage_files {
                    let found: Option<(Vec<u8>, Vec<u8>)> = sql::query_as(
                        "SELECT dir, name FROM files WHERE target_connection_id = $1 \
                         AND storage_file_id = $2",
                    )
                    .bind(connection)
                    .bind(storage_file)
                    .fetch_optional(db)
                    .await?;
                    paths.extend(found.map(|(dir, name)| join(dir, name)));
                }
                Ok(paths)
            })
            .await
    }
}

/// A progress as it was recorded; None if there is none or it is unreadable.
pub(super) fn recorded(progress: Option<&str>) -> Option<RunProgress> {
    serde_json::from_str(progress?).ok()
}

/// A recorded number of milliseconds.
pub(super) fn duration(millis: i64) -> Duration {
    Duration::from_millis(count_value(millis))
}

/// How long runs of the iModel of a connection usually take, in milliseconds: the median of the last ones that ended.
pub(super) async fn usual_ms(
    tx: &mut Tx,
    connection: ConnectionId,
) -> Result<Option<i64>, sqlx::Error> {
    let durations: Vec<i64> = sql::query_scalar(
        "SELECT r.ended_at - r.requested_at FROM runs r JOIN connections c \
         ON c.id = r.connection_id WHERE c.imodel_id = (SELECT imodel_id FROM connections \
         WHERE id = $1) AND r.phase = 'ended' AND r.ended_at >= r.requested_at \
         ORDER BY r.id DESC LIMIT $2",
    )
    .bind(connection)
    .bind(i64::from(RUNS))
    .fetch_all(tx)
    .await?;
    Ok(median(durations))
}

/// The middle one, or the mean of the two in the middle; None without any.
fn median(mut durations: Vec<i64>) -> Option<i64> {
    durations.sort_unstable();
    let upper = *durations.get(durations.len() / 2)?;
    if durations.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *durations.get(durations.len() / 2 - 1)?;
    Some(lower + (upper - lower) / 2)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use super::*;

    #[test]
    fn the_usual_duration_is_the_median() {
        for (durations, expected) in [
            (vec![], None),
            (vec![7], Some(7)),
            (vec![9, 1], Some(5)),
            (vec![60, 1, 3000], Some(60)),
            (vec![4, 1, 3, 2], Some(2)),
        ] {
            assert_eq!(median(durations.clone()), expected, "{durations:?}");
        }
    }

    async fn last_run(f: &Fixture) -> RunSummary {
        let watches = f.ledger.watch_reports(at(0)).await.unwrap();
        watches[0].last_run.clone().unwrap()
    }

    #[tokio::test]
    async fn a_run_has_its_progress_and_the_usual_duration_of_the_last_ten() {
        let f = Fixture::new().await;
        // Twelve runs of 1 to 12 s, of which the first two do not count.
        for length in 1..=12 {
            let began = i64::from(length) * 100;
            let run = f.begin_run(began).await;
            let first = last_run(&f).await;
            assert_eq!(first.usual.is_some(), length > 1, "{length}");
            f.finish_run(run, Verdict::Synchronized(None), began + i64::from(length))
                .await;
        }
        let run = f.begin_run(2000).await;
        let progress = RunProgress {
            phase: Some("MasterFile".to_owned()),
            jobs: 2,
            tasks: 3,
            tasks_done: 1,
            current: vec!["a b.dgn".to_owned()],
            ..RunProgress::default()
        };
        f.ledger
            .note_run_state(run, "Executing", &progress)
            .await
            .unwrap();
        let last = last_run(&f).await;
        assert_eq!(last.usual, Some(Duration::from_millis(7500)));
        assert_eq!(last.progress, Some(progress));
        assert_eq!(last.state.as_deref(), Some("Executing"));
    }

    #[tokio::test]
    async fn current_files_have_the_paths_of_their_watch() {
        let f = Fixture::new().await;
        f.running("a/b c.dgn").await;
        let connection = f.connection().await.id;
        let files = f.ledger.connection_files(connection, at(3)).await.unwrap();
        let known = files[0].storage_file_id.clone();
        let paths = f
            .ledger
            .paths_of(connection, &["unknown".to_owned().into(), known])
            .await
            .unwrap();
        assert_eq!(paths, [PathBuf::from("a/b c.dgn")]);
    }
}
