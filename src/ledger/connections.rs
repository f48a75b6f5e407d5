//! What a synchronizer needs before a run: the iModel's folders and connections, and how many files wait for a run.

use jiff::Timestamp;

use super::clock::{due, free};
use super::watches::RETIRED;
use super::{During as _, Error, Ledger, bytes_value, millis, timestamp};

/// The ledger's id of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) i64);

/// What is known of an iModel for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImodelRecord {
    /// The iTwin that it belongs to.
    pub itwin_id: String,
    /// The root folder of that iTwin's storage.
    pub root_folder_id: String,
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
    /// Files whose turn for a run has come.
    pub waiting: u64,
    /// When the first of them came.
    pub first: Option<Timestamp>,
    /// When the last of them came.
    pub last: Option<Timestamp>,
    /// Whether a file of the iModel is being uploaded or could be at once.
    pub in_hand: bool,
    /// When the next file becomes due for a run that is not due yet.
    pub next_due: Option<Timestamp>,
}

impl Ledger {
    /// What is known of an iModel.
    pub async fn imodel(&self, imodel_id: &str) -> Result<Option<ImodelRecord>, Error> {
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT itwin_id, root_folder_id FROM imodels WHERE id = $1")
                .bind(imodel_id)
                .fetch_optional(&self.reads)
                .await
                .during("look up an iModel")?;
        Ok(row.map(|(itwin_id, root_folder_id)| ImodelRecord {
            itwin_id,
            root_folder_id,
        }))
    }

    /// Keeps what is known of an iModel.
    pub async fn remember_imodel(
        &self,
        imodel_id: &str,
        record: &ImodelRecord,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO imodels (id, itwin_id, root_folder_id) VALUES ($1, $2, $3) \
             ON CONFLICT (id) DO UPDATE SET itwin_id = excluded.itwin_id, root_folder_id = excluded.root_folder_id",
        )
        .bind(imodel_id)
        .bind(&record.itwin_id)
        .bind(&record.root_folder_id)
        .execute(&self.pool)
        .await
        .during("remember an iModel")?;
        Ok(())
    }

    /// The storage folder at `path` below a root folder, if it is known.
    pub async fn folder(&self, root_folder_id: &str, path: &str) -> Result<Option<String>, Error> {
        sqlx::query_scalar("SELECT folder_id FROM folders WHERE root_folder_id = $1 AND path = $2")
            .bind(root_folder_id)
            .bind(path)
            .fetch_optional(&self.reads)
            .await
            .during("look up a storage folder")
    }

    /// Keeps the id of a storage folder.
    pub async fn remember_folder(
        &self,
        root_folder_id: &str,
        path: &str,
        folder_id: &str,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO folders (root_folder_id, path, folder_id) VALUES ($1, $2, $3) \
             ON CONFLICT (root_folder_id, path) DO UPDATE SET folder_id = excluded.folder_id",
        )
        .bind(root_folder_id)
        .bind(path)
        .bind(folder_id)
        .execute(&self.pool)
        .await
        .during("remember a storage folder")?;
        Ok(())
    }

    /// Forgets all folders below a root folder, because one of them turned out to be gone.
    pub async fn forget_folders(&self, root_folder_id: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM folders WHERE root_folder_id = $1")
            .bind(root_folder_id)
            .execute(&self.pool)
            .await
            .during("forget storage folders")?;
        Ok(())
    }

    /// The connections of an iModel that watches use.
    pub async fn connections(&self, imodel_id: &str) -> Result<Vec<ConnectionRecord>, Error> {
        let rows: Vec<(i64, String, Option<String>, bool, i64, i64)> = sqlx::query_as(
            "SELECT id, name, platform_id, generation > covered, moved_at, checked_at FROM connections c \
             WHERE imodel_id = $1 \
             AND EXISTS (SELECT 1 FROM watches w WHERE w.connection_id = c.id AND w.held_until < $2) ORDER BY id",
        )
        .bind(imodel_id)
        .bind(millis(RETIRED))
        .fetch_all(&self.reads)
        .await
        .during("list the connections of an iModel")?;
        Ok(rows
            .into_iter()
            .map(
                |(id, name, platform_id, moved_on, moved_at, checked_at)| ConnectionRecord {
                    id: ConnectionId(id),
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
        const ACTION: &str = "record a connection";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("UPDATE connections SET platform_id = $2 WHERE id = $1")
            .bind(connection.0)
            .bind(platform_id)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        if platform_id.is_none() {
            sqlx::query(
                "UPDATE files SET connection_id = NULL, source_file_id = NULL, mapped_connector = NULL \
                 WHERE connection_id = $1",
            )
            .bind(connection.0)
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        }
        self.commit(tx, ACTION).await
    }

    /// What waits for a run of this iModel.
    pub async fn backlog(&self, imodel_id: &str, now: Timestamp) -> Result<Backlog, Error> {
        #[derive(sqlx::FromRow)]
        struct Row {
            waiting: i64,
            first: Option<i64>,
            last: Option<i64>,
            next_due: Option<i64>,
            in_hand: bool,
        }
        // Asked after every upload, so it must not look at all that is still to be uploaded.
        let row: Row = sqlx::query_as(concat!(
            "SELECT COUNT(CASE WHEN ",
            due!("$2"),
            " THEN 1 END) AS waiting, MIN(CASE WHEN ",
            due!("$2"),
            " THEN j.due_at END) AS first, MAX(CASE WHEN ",
            due!("$2"),
            " THEN j.due_at END) AS last, \
             MIN(CASE WHEN j.due_at > $2 THEN j.due_at END) AS next_due, \
             (EXISTS (SELECT 1 FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                 WHERE j.state = 'uploading' AND w.imodel_id = $1) \
              OR EXISTS (SELECT 1 FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                 WHERE j.state = 'due' AND j.due_at <= $2 AND w.imodel_id = $1 AND ",
            free!("$2"),
            ")) AS in_hand \
             FROM jobs j JOIN files f ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
             WHERE j.state = 'stored' AND w.imodel_id = $1",
        ))
        .bind(imodel_id)
        .bind(millis(now))
        .fetch_one(&self.reads)
        .await
        .during("look at the backlog of an iModel")?;
        Ok(Backlog {
            waiting: bytes_value(row.waiting),
            first: row.first.map(timestamp),
            last: row.last.map(timestamp),
            in_hand: row.in_hand,
            next_due: row.next_due.map(timestamp),
        })
    }

    /// Whether the connection holds any source file of ours, so that a run of it makes sense.
    pub async fn holds_source_files(&self, connection: ConnectionId) -> Result<bool, Error> {
        let one: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM files WHERE connection_id = $1 AND source_file_id IS NOT NULL LIMIT 1",
        )
        .bind(connection.0)
        .fetch_optional(&self.reads)
        .await
        .during("look for source files")?;
        Ok(one.is_some())
    }

    /// Records that the source files of a connection were compared with the platform's.
    pub async fn record_check(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query("UPDATE connections SET checked_at = $2 WHERE id = $1")
            .bind(connection.0)
            .bind(millis(now))
            .execute(&self.pool)
            .await
            .during("record a check of a connection")?;
        Ok(())
    }
}
