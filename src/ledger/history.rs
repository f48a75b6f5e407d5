//! The history of one file: each version that was seen, what happened to it, and what became of it.
//!
//! The steps before a result are written within the transaction that takes them; results and runs have tables of their
//! own. [`Ledger::file_history`] merges them by time.

use jiff::Timestamp;

use super::{Error, FileId, FileReport, Ledger, Tx, millis, new_id, timestamp};

/// Something that happens to a version before its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was handed over.
    Seen,
    /// Its bytes were sent, and are complete in storage.
    Uploaded,
    /// Storage has this content already, so no byte was sent.
    SameContent,
    /// An attempt failed, and there will be another.
    PutOff,
    /// The operator asked for another attempt.
    Asked,
    /// Its storage file was changed by someone else, so its content is compared.
    Overwritten,
    /// Its storage file was deleted by someone else, so it is uploaded again.
    LostInStorage,
    /// Its source file in the connection was missing or different, and was corrected.
    Remapped,
    /// The run that it was in does not exist: it waits for another one.
    RunLost,
    /// The run that it was in ended without a result for it: it waits for another one.
    NotJudged,
    /// It has a new path.
    Renamed,
    /// Its storage file has the new name and folder.
    Relocated,
    /// Storage did not accept its new name or folder.
    NameKept,
    /// It is gone from the folder.
    Gone,
    /// The configuration no longer selects it.
    Deselected,
}

/// All that is kept of a file.
#[derive(Debug, Clone)]
pub struct FileHistory {
    /// Its state now.
    pub file: FileReport,
    /// What happened, oldest first.
    pub entries: Vec<HistoryEntry>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// The version of the file, counted from 1; None for what happened to a run.
    pub version: Option<u64>,
    /// A step (`seen`, `uploaded`, `same_content`, …), `run_requested`, `run_ended`, or the word of an outcome.
    pub what: String,
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

impl Step {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Uploaded => "uploaded",
            Self::PutOff => "put_off",
            Self::Asked => "asked",
            Self::SameContent => "same_content",
            Self::Overwritten => "overwritten",
            Self::LostInStorage => "lost_in_storage",
            Self::Remapped => "remapped",
            Self::RunLost => "run_lost",
            Self::NotJudged => "not_judged",
            Self::Renamed => "renamed",
            Self::Relocated => "relocated",
            Self::NameKept => "name_kept",
            Self::Gone => "gone",
            Self::Deselected => "deselected",
        }
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
    sqlx::query(
        "INSERT INTO steps (id, file_id, version, at, step, note) VALUES ($1, $2, $3, $4, $5, \
         $6)",
    )
    .bind(new_id(now))
    .bind(file_id)
    .bind(version)
    .bind(millis(now))
    .bind(step.as_str())
    .bind(note)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct LineRow {
    at: i64,
    version: Option<i64>,
    what: String,
    note: Option<String>,
    hint: Option<String>,
    run: Option<String>,
    bytes: Option<i64>,
    millis: Option<i64>,
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
                sqlx::query_as(
            "SELECT at, version, step AS what, note, NULL AS hint, NULL AS run, NULL AS bytes, \
             NULL AS millis, id FROM steps WHERE file_id = $1 UNION ALL SELECT at, version, \
             outcome, reason, hint, run, bytes, millis, id FROM results WHERE file_id = $1 \
             UNION ALL SELECT r.requested_at, NULL, 'run_requested', NULL, NULL, r.platform_id, \
             NULL, NULL, r.id FROM runs r WHERE r.id = (SELECT run_id FROM jobs \
             WHERE file_id = $1) OR r.platform_id IN (SELECT run FROM results \
             WHERE file_id = $1) UNION ALL SELECT r.ended_at, NULL, 'run_ended', r.result, NULL, \
             r.platform_id, NULL, NULL, r.id + 1 FROM runs r WHERE r.ended_at IS NOT NULL \
             AND r.platform_id IN (SELECT run FROM results WHERE file_id = $1) ORDER BY 1, 9",
        )
        .bind(file.0)
        .fetch_all(db).await
            })
            .await?;
        let number = |column: i64| u64::try_from(column).unwrap_or(0);
        let entries = rows.into_iter().map(|row| HistoryEntry {
            at: timestamp(row.at),
            version: row.version.map(number),
            what: row.what,
            note: row.note,
            hint: row.hint,
            run: row.run,
            bytes: row.bytes.map(number),
            millis: row.millis.map(number),
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
        async fn history(&self) -> Vec<String> {
            let file = self.file("a.dgn").await.id;
            let history = self.ledger.file_history(file).await.unwrap().unwrap();
            let entries = history.entries.into_iter();
            entries.map(|entry| entry.what).collect()
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
            renewed: true,
            other_connector: false,
        };
        let connection = f.connection().await.id;
        let recorded = f
            .ledger
            .record_mappings(connection, &[mapping], at(4))
            .await;
        recorded.unwrap();
        assert_eq!(f.history().await.last().unwrap(), "remapped");
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
