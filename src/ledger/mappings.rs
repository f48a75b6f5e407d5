//! Source files: how the connection of the iModel knows our files.
//!
//! The mapping columns repeat what was read from the platform before the last run. They decide nothing by themselves:
//! they are read again before every run.
use jiff::Timestamp;

use super::failures::refuse;
use super::history::{Step, note};
use super::stored_job::insert_stored_job;
use super::{ConnectionId, Error, FailureKind, FileId, JobState, Ledger, Refusal, Tx, millis, sql};
use crate::connector_type::ConnectorType;

/// A mapping that was made or corrected on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The file.
    pub file: FileId,
    /// The id of the source file.
    pub source_file_id: String,
    /// The connector type.
    pub connector: ConnectorType,
    /// Which connector read the content last.
    pub last_reader: LastReader,
}

/// Which connector read the content of a file last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastReader {
    /// That of the mapping, or none.
    Same,
    /// Possibly another one.
    Other,
}

impl Ledger {
    /// Records source files of a connection that were made or corrected.
    ///
    /// Their files wait for a run afterwards, unless a newer version is on its way anyway.
    pub async fn record_mappings(
        &self,
        connection: ConnectionId,
        mappings: &[Mapping],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record source files", async |tx| {
                for mapping in mappings {
                    record_mapping(tx, connection, mapping, now).await?;
                }
                if !mappings.is_empty() {
                    sql::query(
                "UPDATE connections SET generation = generation + 1, moved_at = $2 WHERE id = $1",
            )
            .bind(connection.0)
            .bind(millis(now))
            .execute(tx)
            .await?;
                }
                Ok(())
            })
            .await
    }

    /// Source files of these files are about to be changed: until [`Ledger::record_mappings`] their connector is
    /// unknown, so that a change whose record is lost still leads to a run.
    pub async fn expect_mappings(&self, files: &[FileId]) -> Result<(), Error> {
        self.db
            .write_durably(
                "record that source files are about to be changed",
                async |tx| {
                    for file in files {
                        sql::query("UPDATE files SET mapped_connector = NULL WHERE id = $1")
                            .bind(file.0)
                            .execute(tx)
                            .await?;
                    }
                    Ok(())
                },
            )
            .await
    }

    /// Files could not get a run, each for its own reason: they wait for another attempt, or fail.
    ///
    /// A file that has no job gets one, unless a newer version of it is on its way.
    pub async fn put_off_stored(
        &self,
        refusals: &[(FileId, Refusal)],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("put files off that wait for a run", async |tx| {
                for (file, refusal) in refusals {
                    if await_run(tx, file.0, now).await? {
                        refuse(tx, file.0, JobState::Stored, refusal, now).await?;
                        end_if_absent(tx, file.0).await?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Source files of a connection whose storage file is gone and whose local file is gone too: nothing will ever
    /// be read through them.
    pub async fn dead_mappings(&self, connection: ConnectionId) -> Result<Vec<String>, Error> {
        self.db
            .read("look for source files without a storage file", async |db| {
                sql::query_scalar(
                    "SELECT source_file_id FROM files WHERE connection_id = $1 \
             AND source_file_id IS NOT NULL AND storage_file_id IS NULL AND absence IN ('gone', \
             'deselected')",
                )
                .bind(connection.0)
                .fetch_all(db)
                .await
            })
            .await
    }

    /// A dead mapping was removed from the connection.
    pub async fn forget_mapping(&self, source_file_id: &str) -> Result<(), Error> {
        self.db
            .write("forget a source file", async |tx| {
                sql::query(
                    "UPDATE files SET connection_id = NULL, source_file_id = NULL, \
             mapped_connector = NULL WHERE source_file_id = $1 AND storage_file_id IS NULL",
                )
                .bind(source_file_id)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

async fn record_mapping(
    tx: &mut Tx,
    connection: ConnectionId,
    mapping: &Mapping,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    type Before = (i64, bool, Option<JobState>, Option<FailureKind>);
    let before: Option<Before> = sql::query_as(
        "SELECT f.version, (f.source_file_id IS NOT NULL OR f.processed <> 0) AS was_mapped, j.state, j.kind \
         FROM files f LEFT JOIN jobs j ON j.file_id = f.id WHERE f.id = $1",
    )
    .bind(mapping.file)
    .fetch_optional(tx)
    .await?;
    let Some((version, was_mapped, state, kind)) = before else {
        return Ok(());
    };
    // Another connector has not read the content yet.
    sql::query(
        "UPDATE files SET connection_id = $2, source_file_id = $3, mapped_connector = $4, \
         processed = CASE WHEN $5 THEN 0 ELSE processed END, \
         withdrawal = NULLIF(withdrawal, 'unmapping') WHERE id = $1",
    )
    .bind(mapping.file.0)
    .bind(connection.0)
    .bind(&mapping.source_file_id)
    .bind(&mapping.connector)
    .bind(mapping.last_reader == LastReader::Other)
    .execute(tx)
    .await?;
    await_run_of(tx, mapping.file.0, state.map(|state| (state, kind)), now).await?;
    if was_mapped {
        note(tx, mapping.file.0, version, Step::Remapped, None, now).await?;
    }
    Ok(())
}

/// Makes a file wait for a run. False: a newer version of it is on its way, it is in a run, or it has become a
/// reference, which no run reads.
pub(super) async fn await_run(
    tx: &mut Tx,
    file_id: i64,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let job: Option<(JobState, Option<FailureKind>)> =
        sql::query_as("SELECT state, kind FROM jobs WHERE file_id = $1")
            .bind(file_id)
            .fetch_optional(tx)
            .await?;
    await_run_of(tx, file_id, job, now).await
}

/// The same for a file with this job.
async fn await_run_of(
    tx: &mut Tx,
    file_id: i64,
    job: Option<(JobState, Option<FailureKind>)>,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let Some((state, kind)) = job else {
        let is_reference: bool =
            sql::query_scalar("SELECT connector IS NULL FROM files WHERE id = $1")
                .bind(file_id)
                .fetch_one(tx)
                .await?;
        if is_reference {
            return Ok(false);
        }
        insert_stored_job(tx, file_id, now).await?;
        sql::query("UPDATE files SET outcome = NULL, outcome_at = NULL WHERE id = $1")
            .bind(file_id)
            .execute(tx)
            .await?;
        return Ok(true);
    };
    match state {
        JobState::Stored => Ok(true),
        JobState::Failed if kind.is_some_and(FailureKind::is_ended_by_a_run) => {
            sql::query(
                "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0, kind = NULL, \
                 reason = NULL, hint = NULL WHERE file_id = $1",
            )
            .bind(file_id)
            .bind(millis(now))
            .execute(tx)
            .await?;
            Ok(true)
        }
        JobState::Due | JobState::Uploading | JobState::Running | JobState::Failed => Ok(false),
    }
}

/// Ends the wait of a file that was just refused, if its local file is gone: no failure outlives its file.
async fn end_if_absent(tx: &mut Tx, file: i64) -> Result<(), sqlx::Error> {
    sql::query(
        "DELETE FROM jobs WHERE file_id = $1 AND EXISTS (SELECT 1 FROM files WHERE id = $1 \
         AND absence IN ('gone', 'deselected') AND withdrawal IS DISTINCT FROM 'restored')",
    )
    .bind(file)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_file_that_is_gone_still_awaits_its_run_until_its_mapping_is_refused() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let gone = [(std::ffi::OsString::from("a.dgn"), Absence::Missing)];
        for second in [10, 20] {
            f.ledger
                .record_absent(f.watch, Path::new(""), &gone, at(second), at(second))
                .await
                .unwrap();
        }
        let waiting = f.batch(21).await;
        assert!(waiting[0].absent);
        let refusals = [(waiting[0].file, refusal(Again::At(at(30))))];
        f.ledger.put_off_stored(&refusals, at(22)).await.unwrap();
        assert_eq!(f.batch(40).await, []);
        assert_eq!(f.ledger.summary(at(40)).await.unwrap(), Summary::default());
    }

    #[tokio::test]
    async fn a_source_file_of_a_file_that_became_a_reference_meanwhile_leaves_no_wait_for_a_run() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let wanted = f.batch(3).await;
        f.ledger
            .hand_over(f.watch, &[reference("a.dgn", 1)], at(4))
            .await
            .unwrap();
        let job = f.claim(5).await.unwrap();
        f.ledger.finish_unchanged(&job, at(6)).await.unwrap();

        let late = Mapping {
            file: wanted[0].file,
            source_file_id: "source file".to_owned(),
            connector: wanted[0].connector.clone(),
            last_reader: LastReader::Same,
        };
        let connection = f.connection().await.id;
        f.ledger
            .record_mappings(connection, &[late], at(7))
            .await
            .unwrap();
        assert_eq!(f.batch(8).await, []);
        assert_eq!(f.ledger.summary(at(8)).await.unwrap(), Summary::default());
        assert_eq!(f.file("a.dgn").await.outcome, Some(Outcome::Unchanged));
    }
}
