//! The story of one file: each version that was seen, what happened to it on its way, and what became of it.

use jiff::Timestamp;

use super::{Error, FileId, FileReport, Ledger, Tx, millis, new_id, timestamp};

/// Something that happens to a version on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was finished being written, and handed over.
    Seen,
    /// Its content is complete in storage.
    Uploaded,
    /// An attempt did not succeed; there will be another.
    PutOff,
    /// A person asked for another attempt.
    Asked,
    /// Its storage file was deleted or changed by somebody else, so it is compared or uploaded again.
    Overwritten,
    /// It is gone from the folder.
    Gone,
    /// The configuration no longer selects it.
    Deselected,
}

/// All that is kept of a file.
#[derive(Debug, Clone)]
pub struct FileHistory {
    /// How it stands now.
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
    /// `seen`, `uploaded`, `put_off`, `asked`, `run_requested`, `run_ended`, or the word of an outcome.
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
    fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Uploaded => "uploaded",
            Self::PutOff => "put_off",
            Self::Asked => "asked",
            Self::Overwritten => "overwritten",
            Self::Gone => "gone",
            Self::Deselected => "deselected",
        }
    }
}

/// Writes down a step.
pub(super) async fn note(
    tx: &mut Tx,
    file_id: i64,
    version: i64,
    step: Step,
    note: Option<&str>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO steps (id, file_id, version, at, step, note) VALUES ($1, $2, $3, $4, $5, $6)",
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
    /// The story of a file as far as it is kept; None when there is no such file.
    pub async fn file_history(&self, file: FileId) -> Result<Option<FileHistory>, Error> {
        let Some(report) = self.file_report(file).await? else {
            return Ok(None);
        };
        // The id breaks ties, as rows that belong to one moment were written in their order.
        let rows: Vec<LineRow> = self.db.read("tell the story of a file", async |db| { sqlx::query_as(
            "SELECT at, version, step AS what, note, NULL AS hint, NULL AS run, NULL AS bytes, NULL AS millis, id \
             FROM steps WHERE file_id = $1 \
             UNION ALL \
             SELECT at, version, outcome, reason, hint, run, bytes, millis, id FROM results WHERE file_id = $1 \
             UNION ALL \
             SELECT r.requested_at, NULL, 'run_requested', NULL, NULL, r.platform_id, NULL, NULL, r.id \
             FROM runs r WHERE r.id = (SELECT run_id FROM jobs WHERE file_id = $1) \
                OR r.platform_id IN (SELECT run FROM results WHERE file_id = $1) \
             UNION ALL \
             SELECT r.ended_at, NULL, 'run_ended', r.result, NULL, r.platform_id, NULL, NULL, r.id + 1 \
             FROM runs r WHERE r.ended_at IS NOT NULL AND r.platform_id IN (SELECT run FROM results WHERE file_id = $1) \
             ORDER BY 1, 9",
        )
        .bind(file.0)
        .fetch_all(db).await }).await?;
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
