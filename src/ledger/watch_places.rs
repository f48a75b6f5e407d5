//! Where the files of each configured watch are: their folder, and their iModel with its iTwin.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::{Error, Ledger, sql};
use crate::ids::ImodelId;

/// Where the files of a watch are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPlace {
    /// The name of the watch.
    pub watch: String,
    /// Its folder, if it was recorded.
    pub folder: Option<PathBuf>,
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// The iTwin of its iModel, once the platform was asked.
    pub itwin_id: Option<String>,
}

impl Ledger {
    /// The places of all configured watches, by name.
    pub async fn watch_places(&self) -> Result<Vec<WatchPlace>, Error> {
        type Row = (String, Option<Vec<u8>>, ImodelId, Option<String>);
        let rows: Vec<Row> = self
            .db
            .read("report its watches", async |db| {
                sql::query_as(
                    "SELECT w.name, w.path, w.imodel_id, i.itwin_id FROM watches w \
                     LEFT JOIN imodels i ON i.id = w.imodel_id WHERE w.configured = 1 \
                     ORDER BY w.name",
                )
                .fetch_all(db)
                .await
            })
            .await?;
        let places = rows.into_iter();
        let places = places.map(|(watch, folder, imodel_id, itwin_id)| WatchPlace {
            watch,
            folder: folder.map(|bytes| OsString::from_vec(bytes).into()),
            imodel_id,
            itwin_id,
        });
        Ok(places.collect())
    }
}
