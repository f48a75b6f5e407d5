//! iModels that the configuration names instead of giving their id: which id each has, and what keeps the files of its
//! watches from being uploaded until it is there.
//!
//! The id is recorded before anything else uses it.

use std::collections::BTreeMap;

use super::{Error, Ledger, sql};
use crate::ids::ImodelId;

sql::row! {
    /// What is known of an iModel that was created or found by its name.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CreatedImodel {
        /// The platform's id.
        pub imodel_id: ImodelId,
        /// It was initialized.
        pub ready: bool,
    }
}

impl Ledger {
    /// The id of each iModel that is ready, by the key that the configuration has for it.
    pub async fn created_imodels(&self) -> Result<BTreeMap<ImodelId, ImodelId>, Error> {
        let rows: Vec<(ImodelId, ImodelId)> = self
            .db
            .read("look up created iModels", async |db| {
                sql::query_as("SELECT imodel_key, imodel_id FROM created_imodels WHERE ready = 1")
                    .fetch_all(db)
                    .await
            })
            .await?;
        Ok(rows.into_iter().collect())
    }

    /// What is known of one iModel.
    pub async fn created_imodel(&self, key: &ImodelId) -> Result<Option<CreatedImodel>, Error> {
        self.db
            .read("look up a created iModel", async |db| {
                sql::query_as(
                    "SELECT imodel_id, ready <> 0 AS ready FROM created_imodels \
                     WHERE imodel_key = $1",
                )
                .bind(key)
                .fetch_optional(db)
                .await
            })
            .await
    }

    /// Records the id of an iModel.
    pub async fn record_created_imodel(
        &self,
        key: &ImodelId,
        created: &CreatedImodel,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a created iModel", async |tx| {
                sql::query(
                    "INSERT INTO created_imodels (imodel_key, imodel_id, ready) \
                     VALUES ($1, $2, $3) ON CONFLICT (imodel_key) DO UPDATE \
                     SET imodel_id = excluded.imodel_id, ready = excluded.ready",
                )
                .bind(key)
                .bind(&created.imodel_id)
                .bind(i64::from(created.ready))
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }

    /// Claims no job of the watches of an iModel, by its key or id, for this reason; with None, claims them again.
    pub async fn wait_for_imodel(
        &self,
        imodel_id: &ImodelId,
        wait: Option<(&str, Option<&str>)>,
    ) -> Result<(), Error> {
        self.db
            .write("record what an iModel waits for", async |tx| {
                sql::query(
                    "UPDATE watches SET imodel_wait = $2, imodel_hint = $3 WHERE imodel_id = $1 \
                     AND configured = 1",
                )
                .bind(imodel_id)
                .bind(wait.map(|(reason, _)| reason))
                .bind(wait.and_then(|(_, hint)| hint))
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }
}
