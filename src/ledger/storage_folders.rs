//! Where the files of an iModel go in storage: its iTwin, its root folder and the folders below, as last seen.

use super::database::SERVER_TIME as NOW;
use super::{Error, Ledger, sql};
use crate::ids::ImodelId;

/// What is known of an iModel for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImodelRecord {
    /// The iTwin that it belongs to.
    pub itwin_id: String,
    /// The root folder of that iTwin's storage.
    pub root_folder_id: String,
}

/// Whether this process may create a storage folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderHold {
    /// It is there, with this id.
    Known(String),
    /// It may. `in_doubt`: another attempt may have created the folder.
    Taken {
        /// See above.
        in_doubt: bool,
    },
    /// Another process does, or storage may not list yet what that one did.
    Busy,
}

/// After a *create folder* without an answer, storage may take this long to list the folder, in milliseconds.
const LISTED_AFTER: i64 = 10_000;

impl Ledger {
    /// Keeps other processes from creating the folder at `place` below a root folder. The caller looks for it, creates
    /// it if need be, and then calls [`Ledger::remember_created_folder`] or [`Ledger::leave_folder`].
    pub async fn hold_folder(
        &self,
        root_folder_id: &str,
        place: &[u8; 16],
    ) -> Result<FolderHold, Error> {
        type Row = (Option<String>, Option<String>, bool);
        if !self.is_shared() {
            return Ok(FolderHold::Taken { in_doubt: false });
        }
        let this = self.db.node().unwrap_or_default();
        self.db
            .write("reserve a storage folder", async |tx| {
                let is_new = sql::query(
                    "INSERT INTO created_folders (root_folder_id, place, node) VALUES ($1, $2, $3) \
                     ON CONFLICT DO NOTHING",
                )
                .bind(root_folder_id)
                .bind(&place[..])
                .bind(this)
                .execute(tx)
                .await?;
                if is_new == 1 {
                    return Ok(FolderHold::Taken { in_doubt: false });
                }
                let sql = format!(
                    "SELECT node, folder_id, {NOW} - left_at >= $3 FROM created_folders \
                     WHERE root_folder_id = $1 AND place = $2"
                );
                let row: Row = sql::query_as(sqlx::AssertSqlSafe(sql))
                    .bind(root_folder_id)
                    .bind(&place[..])
                    .bind(LISTED_AFTER)
                    .fetch_one(tx)
                    .await?;
                match row {
                    (_, Some(id), _) => return Ok(FolderHold::Known(id)),
                    (Some(node), None, _) if node != this => return Ok(FolderHold::Busy),
                    (None, None, false) => return Ok(FolderHold::Busy),
                    (_, None, _) => {}
                }
                sql::query(
                    "UPDATE created_folders SET node = $3 WHERE root_folder_id = $1 AND place = $2",
                )
                .bind(root_folder_id)
                .bind(&place[..])
                .bind(this)
                .execute(tx)
                .await?;
                Ok(FolderHold::Taken { in_doubt: true })
            })
            .await
    }

    /// Keeps the id of a storage folder that this process has reserved.
    pub async fn remember_created_folder(
        &self,
        root_folder_id: &str,
        path: &str,
        place: &[u8; 16],
        folder_id: &str,
    ) -> Result<(), Error> {
        self.remember_folder(root_folder_id, path, folder_id)
            .await?;
        if !self.is_shared() {
            return Ok(());
        }
        self.db
            .write("record that a storage folder is there", async |tx| {
                sql::query(
                    "UPDATE created_folders SET node = NULL, folder_id = $3 \
                     WHERE root_folder_id = $1 AND place = $2",
                )
                .bind(root_folder_id)
                .bind(&place[..])
                .bind(folder_id)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// This process does not create the folder any more. `in_doubt`: it may have.
    pub async fn leave_folder(
        &self,
        root_folder_id: &str,
        place: &[u8; 16],
        in_doubt: bool,
    ) -> Result<(), Error> {
        if !self.is_shared() {
            return Ok(());
        }
        let change = if in_doubt {
            format!("UPDATE created_folders SET node = NULL, left_at = {NOW}")
        } else {
            "DELETE FROM created_folders".to_owned()
        };
        let sql =
            format!("{change} WHERE root_folder_id = $1 AND place = $2 AND folder_id IS NULL");
        self.db
            .write("release a storage folder", async |tx| {
                sql::query(sqlx::AssertSqlSafe(sql.clone()))
                    .bind(root_folder_id)
                    .bind(&place[..])
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// What is known of an iModel.
    pub async fn imodel(&self, imodel_id: &ImodelId) -> Result<Option<ImodelRecord>, Error> {
        let row: Option<(String, String)> = self
            .db
            .read("look up an iModel", async |db| {
                sql::query_as("SELECT itwin_id, root_folder_id FROM imodels WHERE id = $1")
                    .bind(imodel_id)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(row.map(|(itwin_id, root_folder_id)| ImodelRecord {
            itwin_id,
            root_folder_id,
        }))
    }

    /// Keeps what is known of an iModel.
    pub async fn remember_imodel(
        &self,
        imodel_id: &ImodelId,
        record: &ImodelRecord,
    ) -> Result<(), Error> {
        self.db
            .write("remember an iModel", async |tx| {
                sql::query(
                    "INSERT INTO imodels (id, itwin_id, root_folder_id) VALUES ($1, $2, $3) \
                     ON CONFLICT (id) DO UPDATE SET itwin_id = excluded.itwin_id, \
                     root_folder_id = excluded.root_folder_id",
                )
                .bind(imodel_id)
                .bind(&record.itwin_id)
                .bind(&record.root_folder_id)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// The storage folder at `path` below a root folder, if it is known.
    pub async fn folder(&self, root_folder_id: &str, path: &str) -> Result<Option<String>, Error> {
        self.db
            .read("look up a storage folder", async |db| {
                sql::query_scalar(
                    "SELECT folder_id FROM folders WHERE root_folder_id = $1 AND path = $2",
                )
                .bind(root_folder_id)
                .bind(path)
                .fetch_optional(db)
                .await
            })
            .await
    }

    /// Keeps the id of a storage folder.
    pub async fn remember_folder(
        &self,
        root_folder_id: &str,
        path: &str,
        folder_id: &str,
    ) -> Result<(), Error> {
        self.db
            .write("remember a storage folder", async |tx| {
                sql::query(
                    "INSERT INTO folders (root_folder_id, path, folder_id) VALUES ($1, $2, $3) \
                     ON CONFLICT (root_folder_id, path) DO UPDATE \
                     SET folder_id = excluded.folder_id",
                )
                .bind(root_folder_id)
                .bind(path)
                .bind(folder_id)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Forgets all folders below a root folder, because one of them turned out to be gone.
    pub async fn forget_folders(&self, root_folder_id: &str) -> Result<(), Error> {
        self.db
            .write("forget storage folders", async |tx| {
                if tx.is_shared() {
                    // Not those that a process is creating.
                    sql::query(
                        "DELETE FROM created_folders WHERE root_folder_id = $1 \
                         AND folder_id IS NOT NULL",
                    )
                    .bind(root_folder_id)
                    .execute(tx)
                    .await?;
                }
                sql::query("DELETE FROM folders WHERE root_folder_id = $1")
                    .bind(root_folder_id)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }
}
