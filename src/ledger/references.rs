//! Files that are stored for others to refer to.
//!
//! A reference has no source file, so no task of a run names it. When a run has read changed references, the histories
//! of the files that may refer to them say so: which file refers to which is not known, so these are all source files
//! of the watch. Companions are no references: only the masters of their set refer to them (`sets`). Names and entries
//! are limited per run.
//!
//! A file that was a source file before has one in the connection until the synchronizer removes it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::history::{Step, note};
use super::mappings::await_run;
use super::row::join;
use super::target_connections::{connections_of_watch, watches_of_connection};
use super::withdrawals::record_gone_unmapped;
use super::{ConnectionId, Error, FailureKind, FileId, Ledger, RunId, Tx, millis, sql};
use crate::ids::StorageFileId;

/// A history names at most this many references per run.
const NAMES_MAX: usize = 5;

/// At most this many histories of a watch are written per run; the platform accepts 250 source files per iModel.
const HISTORIES_MAX: i64 = 250;

/// A file that has a source file in a connection, but should have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surplus {
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// Its storage file.
    pub storage_file_id: StorageFileId,
    /// Why it should have none.
    pub cause: SurplusCause,
    /// Where its source file is, if that is another connection than the one that the file belongs in.
    pub elsewhere: Option<MappedElsewhere>,
}

/// A source file in another connection than the one that its file belongs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedElsewhere {
    /// The platform's id of that connection.
    pub connection: String,
    /// The source file there.
    pub source_file_id: String,
}

/// Why a file should have no source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurplusCause {
    /// The configuration makes it a reference.
    Reference,
    /// It is gone from its folder, and its watch says so.
    Gone,
}

/// The first changed references of a watch, and how many there are.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    names: Vec<PathBuf>,
    count: usize,
}

impl Changed {
    /// As an entry of a history names them.
    fn text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|path| shown(path)).collect();
        let more = self.count.saturating_sub(self.names.len());
        if more == 0 {
            return names.join(", ");
        }
        format!("{} and {more} more", names.join(", "))
    }
}

/// A path in quotes; odd bytes and control characters are replaced or escaped.
fn shown(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// A file whose source file is in another connection than the one that the file belongs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displaced {
    /// The file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path relative to the root.
    pub path: PathBuf,
    /// The platform's id of the other connection; None if it does not exist any more.
    pub connection: Option<String>,
    /// The source file there.
    pub source_file_id: String,
}

impl Ledger {
    /// The references of a connection that still have a source file.
    pub async fn demoted(&self, connection: ConnectionId) -> Result<Vec<Surplus>, Error> {
        type Row = (FileId, String, Vec<u8>, Vec<u8>, StorageFileId);
        let rows: Vec<Row> = self
            .db
            .read("list the references with a source file", async |db| {
                sql::query_as(
                    "SELECT f.id, w.name, f.dir, f.name, f.storage_file_id FROM files f \
                     JOIN watches w ON w.id = f.watch_id WHERE f.connection_id = $1 \
                     AND f.connector IS NULL AND f.source_file_id IS NOT NULL \
                     AND f.storage_file_id IS NOT NULL AND w.configured = 1 \
                     ORDER BY w.name, f.dir, f.name",
                )
                .bind(connection.0)
                .fetch_all(db)
                .await
            })
            .await?;
        let demoted = rows
            .into_iter()
            .map(|(file, watch, dir, name, storage_file_id)| Surplus {
                file,
                watch,
                path: join(dir, name),
                storage_file_id,
                cause: SurplusCause::Reference,
                elsewhere: None,
            });
        Ok(demoted.collect())
    }

    /// Files of a connection that failed because something outside them had to change are tried now: there is room for
    /// more source files.
    pub async fn retry_blocked(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write(
                "retry files that had no place in a connection",
                async |tx| {
                    sql::query(
                        "UPDATE jobs SET due_at = $2, pause = 0 WHERE state = 'failed' \
                     AND kind = $3 AND due_at > $2 AND EXISTS (SELECT 1 FROM files f \
                     WHERE f.id = jobs.file_id AND f.target_connection_id = $1)",
                    )
                    .bind(connection.0)
                    .bind(millis(now))
                    .bind(FailureKind::Blocked)
                    .execute(tx)
                    .await
                },
            )
            .await?;
        Ok(())
    }

    /// Files that belong in a connection, but have a source file in another one of the same iModel. Files that are gone
    /// stay where they are. A reference belongs in none; if its watch no longer uses the connection that has its source
    /// file, it counts for the first connection of the watch.
    pub async fn displaced(&self, connection: ConnectionId) -> Result<Vec<Displaced>, Error> {
        type Row = (FileId, String, Vec<u8>, Vec<u8>, Option<String>, String);
        let rows: Vec<Row> = self
            .db
            .read("list source files in other connections", async |db| {
                sql::query_as(concat!(
                    "SELECT f.id, w.name, f.dir, f.name, o.platform_id, f.source_file_id \
                     FROM connections c JOIN connections o ON o.imodel_id = c.imodel_id \
                     AND o.id <> c.id JOIN files f ON f.connection_id = o.id JOIN watches w \
                     ON w.id = f.watch_id WHERE c.id = $1 AND w.configured = 1 \
                     AND f.source_file_id IS NOT NULL \
                     AND COALESCE(f.absence, 'missing') = 'missing' \
                     AND (f.target_connection_id = $1 OR (f.target_connection_id IS NULL \
                     AND $1 = (SELECT MIN(id) FROM connections WHERE id IN ",
                    connections_of_watch!("w.id"),
                    ") AND o.id NOT IN ",
                    connections_of_watch!("w.id"),
                    ")) ORDER BY w.name, f.dir, f.name",
                ))
                .bind(connection)
                .fetch_all(db)
                .await
            })
            .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(
                |(file, watch, dir, name, connection, source_file_id)| Displaced {
                    file,
                    watch,
                    path: join(dir, name),
                    connection,
                    source_file_id,
                },
            )
            .collect())
    }

    /// The source file of a file is no longer in the connection that it was in: it waits for a run of its own one.
    pub async fn record_displaced_removed(
        &self,
        file: FileId,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("record a removed source file", async |tx| {
                let (version, has_connector): (i64, bool) = sql::query_as(
                    "UPDATE files SET connection_id = NULL, source_file_id = NULL, \
                     mapped_connector = NULL, processed = 0 WHERE id = $1 \
                     RETURNING version, connector IS NOT NULL",
                )
                .bind(file)
                .fetch_one(tx)
                .await?;
                if has_connector {
                    await_run(tx, file.0, now).await?;
                }
                note(tx, file.0, version, Step::Displaced, None, now).await
            })
            .await
    }

    /// The source file of a file that should have none is no longer in the connection.
    pub async fn record_unmapped(&self, surplus: &Surplus, now: Timestamp) -> Result<(), Error> {
        let file = surplus.file;
        self.db
            .write("record a removed source file", async |tx| {
                if surplus.cause == SurplusCause::Gone {
                    return record_gone_unmapped(tx, file, now).await;
                }
                let version: Option<i64> = sql::query_scalar(
                    "UPDATE files SET connection_id = NULL, source_file_id = NULL, \
                     mapped_connector = NULL, processed = 0 WHERE id = $1 AND connector IS NULL \
                     AND source_file_id IS NOT NULL RETURNING version",
                )
                .bind(file)
                .fetch_optional(tx)
                .await?;
                if let Some(version) = version {
                    note(tx, file.0, version, Step::Unmapped, None, now).await?;
                }
                Ok(())
            })
            .await
    }
}

/// Notes in the histories of source files which references of their watches this run has read for the first time. To be
/// called before the run's generation counts as covered, and before its results are recorded.
pub(super) async fn note_changed(
    tx: &mut Tx,
    run: RunId,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (connection, covered, generation): (i64, i64, i64) = sql::query_as(
        "SELECT c.id, c.covered, r.generation FROM runs r JOIN connections c \
         ON c.id = r.connection_id WHERE r.id = $1",
    )
    .bind(run.0)
    .fetch_one(tx)
    .await?;
    let watches: Vec<i64> = sql::query_scalar(concat!(
        "SELECT id FROM watches WHERE configured = 1 AND id IN ",
        watches_of_connection!("$1"),
        " ORDER BY id",
    ))
    .bind(connection)
    .fetch_all(tx)
    .await?;
    for watch in watches {
        let changed = changed(tx, watch, covered, generation).await?;
        if changed.count == 0 {
            continue;
        }
        // A file that no run has read yet has not been read again.
        let readers: Vec<(i64, i64)> = sql::query_as(
            "SELECT id, version FROM files WHERE watch_id = $1 AND target_connection_id = $2 \
             AND storage_file_id IS NOT NULL AND processed <> 0 AND absence IS NULL \
             ORDER BY id LIMIT $3",
        )
        .bind(watch)
        .bind(connection)
        .bind(HISTORIES_MAX)
        .fetch_all(tx)
        .await?;
        let text = changed.text();
        for (file, version) in readers {
            note(tx, file, version, Step::ReferenceChanged, Some(&text), now).await?;
        }
    }
    Ok(())
}

async fn changed(
    tx: &mut Tx,
    watch: i64,
    covered: i64,
    generation: i64,
) -> Result<Changed, sqlx::Error> {
    let count: i64 = sql::query_scalar(
        "SELECT COUNT(*) FROM files WHERE watch_id = $1 AND connector IS NULL \
         AND set_stem IS NULL AND stored_generation > $2 AND stored_generation <= $3",
    )
    .bind(watch)
    .bind(covered)
    .bind(generation)
    .fetch_one(tx)
    .await?;
    let names: Vec<(Vec<u8>, Vec<u8>)> = sql::query_as(
        "SELECT dir, name FROM files WHERE watch_id = $1 AND connector IS NULL \
         AND set_stem IS NULL AND stored_generation > $2 AND stored_generation <= $3 ORDER BY dir, name LIMIT $4",
    )
    .bind(watch)
    .bind(covered)
    .bind(generation)
    .bind(i64::try_from(NAMES_MAX).unwrap_or(i64::MAX))
    .fetch_all(tx)
    .await?;
    let names = names
        .into_iter()
        .map(|(dir, name)| join(dir, name))
        .collect();
    Ok(Changed {
        names,
        count: usize::try_from(count).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use super::*;

    #[test]
    fn only_some_names_are_shown() {
        for (names, count, expected) in [
            (vec!["Refs/ref.dgn"], 1, "\"Refs/ref.dgn\""),
            (vec!["a.dgn", "b\n.dgn"], 2, "\"a.dgn\", \"b\\n.dgn\""),
            (vec!["a.dgn", "b.dgn"], 9, "\"a.dgn\", \"b.dgn\" and 7 more"),
        ] {
            let names = names.into_iter().map(Into::into).collect();
            assert_eq!(Changed { names, count }.text(), expected);
        }
    }

    #[tokio::test]
    async fn a_changed_reference_is_in_the_history_of_the_masters_that_were_read_before() {
        let f = Fixture::new().await;
        f.synchronized("a.dgn").await;
        let reference = |fingerprint| Ready {
            connector: None,
            ..ready("ref.dgn", fingerprint)
        };
        for second in [10, 20] {
            let handed = [reference(second)];
            f.ledger
                .hand_over(f.watch, &handed, at(second))
                .await
                .unwrap();
            let job = f.claim(second).await.unwrap();
            assert_eq!(f.store(&job, 1, second + 1).await, UploadResult::Done);
            let run = f.begin_run(second + 2).await;
            f.ledger
                .finish_run(run, "Completed", "Success", &[], at(second + 3))
                .await
                .unwrap();
        }
        // Nothing has changed since.
        let run = f.begin_run(30).await;
        f.ledger
            .finish_run(run, "Completed", "Success", &[], at(31))
            .await
            .unwrap();
        let history = |file| f.ledger.file_history(file);
        let file = f.file("a.dgn").await.id;
        let entries = history(file).await.unwrap().unwrap().entries.into_iter();
        let noted: Vec<_> = entries
            .filter(|entry| entry.what == HistoryEvent::Step(Step::ReferenceChanged))
            .map(|entry| entry.note.unwrap())
            .collect();
        assert_eq!(noted, ["\"ref.dgn\"", "\"ref.dgn\""]);
    }
}
