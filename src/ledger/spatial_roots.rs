//! The spatial root of an iModel: the file that an empty iModel gets first and alone.
//!
//! That the wait for it is over is recorded for good: the coordinate system of an iModel is defined once. What other
//! files wait for is recorded for reports only.

use std::path::Path;

use jiff::Timestamp;

use super::connection_files::{CONNECTION_FILE, ConnectionFileRow};
use super::row::split;
use super::{
    ConnectionFile, ConnectionId, Error, Ledger, SpatialRootEnd, SpatialRootState, Tx, sql,
};
use crate::ids::ImodelId;
use crate::shell;

/// What the files of an iModel wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpatialRootWait {
    /// The spatial root, relative to its watch; odd bytes are replaced.
    pub path: String,
    /// Its state.
    pub state: SpatialRootState,
}

impl SpatialRootWait {
    /// As one sentence.
    #[must_use]
    pub fn text(&self) -> String {
        let path = &self.path;
        match self.state {
            SpatialRootState::Pending => format!("waits for the spatial root {path:?}"),
            SpatialRootState::Missing => {
                format!("waits for the spatial root {path:?}, which is not in the folder")
            }
            SpatialRootState::Failed => {
                format!("waits for the spatial root {path:?}, which failed")
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self, watch: &str) -> Option<String> {
        let first = match self.state {
            SpatialRootState::Pending => return None,
            SpatialRootState::Missing => "save the file",
            SpatialRootState::Failed => "correct the file",
        };
        Some(format!(
            "{first}, or run `{}` to synchronize the other files without it",
            shell::command(["resume", watch])
        ))
    }
}

impl Ledger {
    /// Why no file of the iModel waits for a spatial root any more; None if one may have to.
    pub async fn spatial_root_end(
        &self,
        imodel_id: &ImodelId,
    ) -> Result<Option<SpatialRootEnd>, Error> {
        let end: Option<Option<SpatialRootEnd>> = self
            .db
            .read("look up the spatial root of an iModel", async |db| {
                sql::query_scalar("SELECT root_end FROM imodel_facts WHERE imodel_id = $1")
                    .bind(imodel_id)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(end.flatten())
    }

    /// No file of the iModel waits for a spatial root any more.
    pub async fn end_spatial_root(
        &self,
        imodel_id: &ImodelId,
        end: SpatialRootEnd,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record the spatial root of an iModel", async |tx| {
                sql::query(
                    "INSERT INTO imodel_facts (imodel_id, root_end) VALUES ($1, $2) \
                     ON CONFLICT (imodel_id) DO UPDATE SET root_end = excluded.root_end, \
                     root_path = NULL, root_state = NULL",
                )
                .bind(imodel_id)
                .bind(end)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Records what the files of an iModel wait for, or that they wait for no spatial root.
    pub async fn record_spatial_root(
        &self,
        imodel_id: &ImodelId,
        wait: Option<&SpatialRootWait>,
    ) -> Result<(), Error> {
        self.db
            .write("record what an iModel waits for", async |tx| {
                sql::query(
                    "INSERT INTO imodel_facts (imodel_id, root_path, root_state) \
                     VALUES ($1, $2, $3) ON CONFLICT (imodel_id) DO UPDATE \
                     SET root_path = excluded.root_path, root_state = excluded.root_state",
                )
                .bind(imodel_id)
                .bind(wait.map(|wait| &wait.path))
                .bind(wait.map(|wait| wait.state))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// A file of a watch that is a source file, or becomes one, whatever its state, and the connection that it belongs
    /// in.
    pub async fn source_file_at(
        &self,
        watch: &str,
        path: &Path,
        now: Timestamp,
    ) -> Result<Option<(ConnectionId, ConnectionFile)>, Error> {
        let (dir, name) = split(path);
        let sql = format!(
            "{CONNECTION_FILE} WHERE w.name = $1 AND w.configured = 1 AND f.dir = $2 \
             AND f.name = $3 AND f.target_connection_id IS NOT NULL"
        );
        let row: Option<ConnectionFileRow> = self
            .db
            .read("look up a file of a connection", async |db| {
                sql::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(watch)
                    .bind(dir)
                    .bind(name)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(row.map(|row| (row.connection(), row.into_file(now))))
    }
}

/// Lets the files of the iModels of a watch go without their spatial root, if that is missing or has failed. Whether
/// any waited.
pub(super) async fn release_spatial_root(tx: &mut Tx, watch: &str) -> Result<bool, sqlx::Error> {
    let released = sql::query(
        "UPDATE imodel_facts SET root_end = $2, root_path = NULL, root_state = NULL \
         WHERE root_end IS NULL AND root_state IN ($3, $4) AND imodel_id IN \
         (SELECT imodel_id FROM watches WHERE name = $1 AND configured = 1)",
    )
    .bind(watch)
    .bind(SpatialRootEnd::Released)
    .bind(SpatialRootState::Missing)
    .bind(SpatialRootState::Failed)
    .execute(tx)
    .await?;
    Ok(released > 0)
}
