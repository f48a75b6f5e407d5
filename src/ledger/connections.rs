//! The connections of an iModel, and how many files wait for a run.

use jiff::Timestamp;

use super::clock::{active, due};
use super::sets::set_open;
use super::target_connections::watches_of_connection;
use super::{ConnectionId, Error, Ledger, count_column, count_value, millis, sql, timestamp};
use crate::ids::ImodelId;
use crate::source_file_limit::SourceFiles;

/// SQL: a mapped master of the iModel `$1` has new content in its set that no run has read, while a job `p` of the same
/// set, for an upload or for a missing part, meets a condition.
macro_rules! partial {
    ($condition:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM jobs p JOIN files q ON q.id = p.file_id JOIN files m \
             ON m.watch_id = q.watch_id AND m.dir = q.dir AND m.set_stem = q.set_stem \
             JOIN watches w ON w.id = m.watch_id WHERE (p.state IN ('due', 'uploading') \
             OR (p.state = 'stored' AND p.kind = 'incomplete')) \
             AND q.set_stem IS NOT NULL AND w.imodel_id = $1 AND w.configured = 1 \
             AND m.source_file_id IS NOT NULL AND m.stored_version IS NOT NULL \
             AND m.outcome IS NULL AND ",
            $condition,
            ")"
        )
    };
}

/// A connection of an iModel that has watches.
#[derive(Debug, Clone)]
pub struct ConnectionRecord {
    /// The ledger's id.
    pub id: ConnectionId,
    /// Its display name.
    pub name: String,
    /// The platform's id, once it exists there.
    pub platform_id: Option<String>,
    /// When something was completed last that no run has covered, if there is such a thing.
    pub moved_on: Option<Timestamp>,
    /// When its source files were last compared with the platform's; the epoch if never.
    pub checked_at: Timestamp,
}

/// What waits for a run of one iModel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Files that are due for a run.
    pub waiting: u64,
    /// When the first of them came.
    pub first: Option<Timestamp>,
    /// When the last of them came.
    pub last: Option<Timestamp>,
    /// Whether a file of the iModel is being uploaded or could be at once.
    pub in_hand: bool,
    /// How far the sets are that a run would read, of which only a part is in storage.
    pub partial: Partial,
    /// When the next file becomes due for a run that is not due yet.
    pub next_due: Option<Timestamp>,
}

/// Sets in the connections of an iModel of which storage has new content of some files, but not of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partial {
    /// There are none.
    #[default]
    None,
    /// Of all of them, the other files wait for another attempt.
    PutOff,
    /// Of some of them, the other files are being uploaded or could be at once.
    Uploading,
}

impl Ledger {
    /// The connections of an iModel that watches use.
    pub async fn connections(&self, imodel_id: &ImodelId) -> Result<Vec<ConnectionRecord>, Error> {
        type Row = (ConnectionId, String, Option<String>, bool, i64, i64);
        let rows: Vec<Row> = self
            .db
            .read("list the connections of an iModel", async |db| {
                sql::query_as(concat!(
                    "SELECT id, name, platform_id, generation > covered, moved_at, checked_at \
                     FROM connections c WHERE imodel_id = $1 AND EXISTS (SELECT 1 FROM watches w \
                     WHERE w.configured = 1 AND w.id IN ",
                    watches_of_connection!("c.id"),
                    ") ORDER BY id",
                ))
                .bind(imodel_id)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(
                |(id, name, platform_id, moved_on, moved_at, checked_at)| ConnectionRecord {
                    id,
                    name,
                    platform_id,
                    moved_on: moved_on.then(|| timestamp(moved_at)),
                    checked_at: timestamp(checked_at),
                },
            )
            .collect())
    }

    /// Keeps the platform's id of a connection, or forgets a connection that is gone together with its mappings.
    pub async fn set_connection(
        &self,
        connection: ConnectionId,
        platform_id: Option<&str>,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a connection", async |tx| {
                sql::query("UPDATE connections SET platform_id = $2 WHERE id = $1")
                    .bind(connection.0)
                    .bind(platform_id)
                    .execute(tx)
                    .await?;
                if platform_id.is_none() {
                    sql::query(
                        "UPDATE files SET connection_id = NULL, source_file_id = NULL, \
                         mapped_connector = NULL WHERE connection_id = $1",
                    )
                    .bind(connection.0)
                    .execute(tx)
                    .await?;
                }
                Ok(())
            })
            .await
    }

    /// What waits for a run of this iModel.
    pub async fn backlog(&self, imodel_id: &ImodelId, now: Timestamp) -> Result<Backlog, Error> {
        sql::row! {
            struct Row {
                waiting: i64,
                first: Option<i64>,
                last: Option<i64>,
                next_due: Option<i64>,
                in_hand: bool,
                partial: bool,
                partial_uploading: bool,
            }
        }
        // Called after every upload, so it must not read all jobs that wait for theirs.
        let row: Row = self
            .db
            .read("read the backlog of an iModel", async |db| {
                sql::query_as(concat!(
                    "SELECT COUNT(CASE WHEN ",
                    due!("$2"),
                    " THEN 1 END) AS waiting, MIN(CASE WHEN ",
                    due!("$2"),
                    " THEN j.due_at END) AS first, MAX(CASE WHEN ",
                    due!("$2"),
                    " THEN j.due_at END) AS last, MIN(CASE WHEN j.due_at > $2 THEN j.due_at \
                     END) AS next_due, (EXISTS (SELECT 1 FROM jobs j JOIN files f \
                     ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                     WHERE j.state = 'uploading' AND w.imodel_id = $1) OR EXISTS (SELECT 1 \
                     FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w \
                     ON w.id = f.watch_id WHERE j.state = 'due' AND j.due_at <= $2 \
                     AND w.imodel_id = $1 AND ",
                    active!("$2"),
                    ")) AS in_hand, ",
                    partial!("1 = 1"),
                    " AS partial, ",
                    partial!("p.reason IS NULL"),
                    " AS partial_uploading FROM jobs j JOIN files f ON f.id = j.file_id \
                     JOIN watches w ON w.id = f.watch_id WHERE j.state = 'stored' \
                     AND w.imodel_id = $1 AND NOT ",
                    // It is judged when the job of a companion failed.
                    set_open!("'due', 'uploading'"),
                ))
                .bind(imodel_id)
                .bind(millis(now))
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(Backlog {
            waiting: count_value(row.waiting),
            first: row.first.map(timestamp),
            last: row.last.map(timestamp),
            in_hand: row.in_hand,
            next_due: row.next_due.map(timestamp),
            partial: match (row.partial, row.partial_uploading) {
                (_, true) => Partial::Uploading,
                (true, false) => Partial::PutOff,
                (false, false) => Partial::None,
            },
        })
    }

    /// Whether the connection has any source file of ours, so that a run of it makes sense.
    pub async fn holds_source_files(&self, connection: ConnectionId) -> Result<bool, Error> {
        let any: bool = self
            .db
            .read("look for source files", async |db| {
                sql::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM files WHERE connection_id = $1 \
             AND source_file_id IS NOT NULL)",
                )
                .bind(connection.0)
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(any)
    }

    /// Requests a comparison of the connections of an iModel with the platform at the next opportunity. A check in
    /// progress, which may have read the files before, does not end it.
    pub async fn request_check(&self, imodel_id: &ImodelId) -> Result<(), Error> {
        self.db
            .write("request a check of connections", async |tx| {
                sql::query(
                    "UPDATE connections SET checked_at = CASE WHEN checked_at > 0 THEN 0 \
                     ELSE checked_at - 1 END WHERE imodel_id = $1",
                )
                .bind(imodel_id)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Records that the source files of a connection were compared with the platform's, and how many there are. If
    /// another check was requested since `connection` was read, that remains due.
    pub async fn record_check(
        &self,
        connection: &ConnectionRecord,
        found: SourceFiles,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("record a check of a connection", async |tx| {
                sql::query(
                    "UPDATE connections SET checked_at = CASE WHEN checked_at = $5 THEN $2 \
                     ELSE checked_at END, source_files = $3, other_source_files = $4 \
                     WHERE id = $1",
                )
                .bind(connection.id)
                .bind(millis(now))
                .bind(count_column(found.watched))
                .bind(count_column(found.others))
                .bind(millis(connection.checked_at))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Records that a part of a connection other than its source files was compared with the platform's. If another
    /// check was requested since `connection` was read, that remains due.
    pub async fn record_turn(
        &self,
        connection: &ConnectionRecord,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("record a check of a part of a connection", async |tx| {
                sql::query(
                    "UPDATE connections SET checked_at = $2 WHERE id = $1 AND checked_at = $3",
                )
                .bind(connection.id)
                .bind(millis(now))
                .bind(millis(connection.checked_at))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Records how many source files an iModel has in connections that no watch uses.
    pub async fn record_foreign_source_files(
        &self,
        imodel_id: &ImodelId,
        count: u64,
    ) -> Result<(), Error> {
        self.db
            .write("record the source files of others", async |tx| {
                sql::query(
                    "INSERT INTO imodel_facts (imodel_id, foreign_source_files) VALUES ($1, $2) \
                     ON CONFLICT (imodel_id) DO UPDATE \
                     SET foreign_source_files = excluded.foreign_source_files",
                )
                .bind(imodel_id)
                .bind(count_column(count))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// The source files of an iModel as they were last compared with the platform; None if that never happened.
    pub async fn source_files(&self, imodel_id: &ImodelId) -> Result<Option<SourceFiles>, Error> {
        let sql = format!("SELECT {SOURCE_FILES} FROM (SELECT $1 AS imodel_id) w");
        let (watched, others): (Option<i64>, Option<i64>) = self
            .db
            .read("count the source files of an iModel", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(imodel_id)
                    .fetch_one(db)
                    .await
            })
            .await?;
        Ok(source_files(watched, others))
    }
}

/// SQL: the connection `c` exists on the platform, and a watch uses it. Others are counted with those of other clients.
macro_rules! is_in_use {
    () => {
        concat!(
            "c.platform_id IS NOT NULL AND EXISTS (SELECT 1 FROM watches u WHERE u.configured = 1 \
             AND u.id IN ",
            watches_of_connection!("c.id"),
            ")"
        )
    };
}

/// Columns: the source files of the iModel `w.imodel_id`, those of watched files and others.
pub(super) const SOURCE_FILES: &str = concat!(
    "(SELECT CAST(SUM(c.source_files) AS BIGINT) FROM connections c WHERE c.imodel_id = w.imodel_id AND ",
    is_in_use!(),
    ") AS source_files, (SELECT CAST(SUM(c.other_source_files) AS BIGINT) FROM connections c \
     WHERE c.imodel_id = w.imodel_id AND ",
    is_in_use!(),
    ") + COALESCE((SELECT foreign_source_files FROM imodel_facts i \
     WHERE i.imodel_id = w.imodel_id), 0) AS other_source_files"
);

/// From the columns of [`SOURCE_FILES`].
pub(super) fn source_files(watched: Option<i64>, others: Option<i64>) -> Option<SourceFiles> {
    Some(SourceFiles {
        watched: count_value(watched?),
        others: count_value(others.unwrap_or(0)),
    })
}
