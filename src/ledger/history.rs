//! The history of one file: each version that was seen, what happened to it, and what became of it.
//!
//! The steps before a result are written within the transaction that takes them; those that almost every version has,
//! its hand-over and its upload, become part of its result. Results and runs have tables of their own.
//! [`Ledger::file_history`] merges them by time.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

pub(super) use super::state::Step;
use super::{Error, FileId, FileReport, Ledger, Outcome, RunEvent, Tx, millis, sql, timestamp};

/// All that is kept of a file.
#[derive(Debug, Clone)]
pub struct FileHistory {
    /// Its state now.
    pub file: FileReport,
    /// What happened, oldest first.
    pub entries: Vec<HistoryEntry>,
}

/// An event in the history of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryEvent {
    /// Something before a result.
    Step(Step),
    /// A version got its result.
    Result(Outcome),
    /// A run with the file began or ended.
    Run(RunEvent),
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// The version of the file, counted from 1; None for what happened to a run.
    pub version: Option<u64>,
    /// The event.
    pub what: HistoryEvent,
    /// The reason, or the platform's word for a run's result.
    pub note: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The platform's id of the run.
    pub run: Option<String>,
    /// Bytes in storage.
    pub bytes: Option<u64>,
    /// From hand-over to outcome, in milliseconds.
    pub millis: Option<u64>,
}

impl HistoryEvent {
    /// The event as a word, for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Step(step) => step.as_str(),
            Self::Result(outcome) => outcome.as_str(),
            Self::Run(event) => event.as_str(),
        }
    }
}

impl Serialize for HistoryEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Adds a step to the history of a file.
pub(super) async fn note(
    tx: &mut Tx,
    file_id: i64,
    version: i64,
    step: Step,
    note: Option<&str>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "INSERT INTO steps (id, file_id, version, at, step, note) VALUES ($1, $2, $3, $4, $5, \
         $6)",
    )
    .bind(tx.new_id(now))
    .bind(file_id)
    .bind(version)
    .bind(millis(now))
    .bind(step.as_str())
    .bind(note)
    .execute(tx)
    .await?;
    Ok(())
}

sql::row! {
    struct LineRow {
        at: i64,
        version: Option<i64>,
        step: Option<Step>,
        outcome: Option<Outcome>,
        run_event: Option<RunEvent>,
        note: Option<String>,
        hint: Option<String>,
        run: Option<String>,
        bytes: Option<i64>,
        millis: Option<i64>,
    }
}

impl Ledger {
    /// The history of a file as far as it is kept; None when there is no such file.
    pub async fn file_history(&self, file: FileId) -> Result<Option<FileHistory>, Error> {
        let Some(report) = self.file_report(file).await? else {
            return Ok(None);
        };
        // The id breaks ties, as rows that belong to one moment were written in their order.
        let rows: Vec<LineRow> = self
            .db
            .read("read the history of a file", async |db| {
                sql::query_as(
            "SELECT at, version, step, NULL AS outcome, NULL AS run_event, note, NULL AS hint, NULL AS run, NULL AS bytes, \
             NULL AS millis, id FROM steps WHERE file_id = $1 \
             UNION ALL SELECT at, version, NULL, outcome, NULL, reason, hint, run, bytes, millis, id \
             FROM results WHERE file_id = $1 \
             UNION ALL SELECT at - millis, version, 'seen', NULL, NULL, NULL, NULL, NULL, NULL, NULL, id - 2 \
             FROM results WHERE file_id = $1 AND seen = 1 \
             UNION ALL SELECT at - uploaded_millis, version, 'uploaded', NULL, NULL, NULL, NULL, NULL, NULL, NULL, id - 1 \
             FROM results WHERE file_id = $1 AND uploaded_millis IS NOT NULL \
             UNION ALL SELECT r.requested_at, NULL, NULL, NULL, 'run_requested', NULL, NULL, r.platform_id, NULL, NULL, r.id \
             FROM runs r WHERE r.id = (SELECT run_id FROM jobs WHERE file_id = $1) \
             OR (r.platform_id IS NOT NULL AND r.id IN (SELECT run_id FROM results WHERE file_id = $1)) \
             UNION ALL SELECT r.ended_at, NULL, NULL, NULL, 'run_ended', r.result, NULL, r.platform_id, NULL, NULL, r.id + 1 \
             FROM runs r WHERE r.ended_at IS NOT NULL AND r.platform_id IS NOT NULL \
             AND r.id IN (SELECT run_id FROM results WHERE file_id = $1) ORDER BY 1, 11",
        )
        .bind(file.0)
        .fetch_all(db).await
            })
            .await?;
        let number = |column: i64| u64::try_from(column).unwrap_or(0);
        let entries = rows.into_iter().filter_map(|row| {
            let step = row.step.map(HistoryEvent::Step);
            let result = row.outcome.map(HistoryEvent::Result);
            let run = row.run_event.map(HistoryEvent::Run);
            Some(HistoryEntry {
                at: timestamp(row.at),
                version: row.version.map(number),
                what: step.or(result).or(run)?,
                note: row.note,
                hint: row.hint,
                run: row.run,
                bytes: row.bytes.map(number),
                millis: row.millis.map(number),
            })
        });
        Ok(Some(FileHistory {
            file: report,
            entries: entries.collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use crate::connector_type::ConnectorType;

    impl Fixture {
        async fn history(&self) -> Vec<&'static str> {
            let file = self.file("a.dgn").await.id;
            let history = self.ledger.file_history(file).await.unwrap().unwrap();
            let entries = history.entries.into_iter();
            entries.map(|entry| entry.what.as_str()).collect()
        }
    }

    #[tokio::test]
    async fn a_run_that_was_lost_is_in_the_history_of_its_files() {
        let f = Fixture::new().await;
        let run = f.running("a.dgn").await;
        f.ledger.record_run(run, "run-1").await.unwrap();
        f.ledger.abandon_run(run, at(3)).await.unwrap();
        assert_eq!(f.history().await, ["seen", "uploaded", "run_lost"]);
        let file = f.file("a.dgn").await.id;
        let history = f.ledger.file_history(file).await.unwrap().unwrap();
        assert_eq!(history.entries[2].note.as_deref(), Some("run-1"));
    }

    #[tokio::test]
    async fn a_run_that_ended_without_a_result_is_in_the_history_of_its_files() {
        let f = Fixture::new().await;
        let run = f.running("a.dgn").await;
        let ended = f.ledger.finish_run(run, "Completed", "Error", &[], at(3));
        assert!(ended.await.unwrap().is_empty());
        assert_eq!(f.history().await, ["seen", "uploaded", "not_judged"]);
    }

    #[tokio::test]
    async fn a_corrected_source_file_is_in_the_history_but_not_a_new_one() {
        let f = Fixture::new().await;
        f.synchronized("a.dgn").await;
        assert_eq!(f.history().await, ["seen", "uploaded", "synchronized"]);
        let mapping = Mapping {
            file: f.file("a.dgn").await.id,
            source_file_id: "another source".to_owned(),
            connector: ConnectorType::new("MSTN"),
            last_reader: LastReader::Same,
        };
        let connection = f.connection().await.id;
        let recorded = f
            .ledger
            .record_mappings(connection, &[mapping], at(4))
            .await;
        recorded.unwrap();
        assert_eq!(f.history().await.last(), Some(&"remapped"));
    }

    #[tokio::test]
    async fn only_what_was_sent_again_counts_as_uploaded_again() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let file = f.batch(2).await.remove(0);
        f.ledger.compare_again(&file, at(3), at(3)).await.unwrap();
        let job = f.claim(4).await.unwrap();
        f.ledger.finish_unchanged(&job, at(4)).await.unwrap();
        let compared = ["seen", "uploaded", "overwritten", "same_content"];
        assert_eq!(f.history().await, compared);

        let file = f.batch(5).await.remove(0);
        f.ledger.upload_again(&file, at(5), at(5)).await.unwrap();
        let job = f.claim(6).await.unwrap();
        f.store(&job, 1, 6).await;
        let sent = ["lost_in_storage", "uploaded"];
        assert_eq!(f.history().await[4..], sent);
    }

    #[tokio::test]
    async fn content_that_was_found_in_storage_was_not_uploaded() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(1).await.unwrap();
        let found = StoredContent {
            version: 1,
            content: content(1),
        };
        let stamp = StorageStamp::default();
        let ended = f.ledger.finish_same_content(&job, &found, &stamp, at(2));
        assert_eq!(ended.await.unwrap(), UploadResult::AwaitsRun);
        assert_eq!(f.history().await, ["seen", "same_content"]);
    }
}
