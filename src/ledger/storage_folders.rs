//! Where the files of an iModel go in storage: its iTwin, its root folder and the folders below, as last seen.

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

impl Ledger {
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
                sql::query("DELETE FROM folders WHERE root_folder_id = $1")
                    .bind(root_folder_id)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }
}
