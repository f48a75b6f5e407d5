//! Source files that stay in an iModel after the `imodel_id` of their watch was changed.
//!
//! Nothing of them is changed on the platform: the operator decides whether they are taken out.

use std::path::PathBuf;

use jiff::Timestamp;

use super::row::join;
use super::watch_changes::detach;
use super::{Error, Ledger, Tx, count_value, millis, sql};
use crate::ids::{ImodelId, StorageFileId};
use crate::text::plural;

/// A source file that stayed in the iModel that its watch went to before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerSourceFile {
    /// The path that the file had, relative to the root of its watch.
    pub path: PathBuf,
    /// Its storage file.
    pub storage_file_id: StorageFileId,
    /// The source file.
    pub source_file_id: String,
    /// The platform's id of its connection.
    pub connection: String,
}

/// How many source files of a watch stayed in an iModel that it went to before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerImodel {
    /// The name of the watch.
    pub watch: String,
    /// The iModel.
    pub imodel_id: ImodelId,
    /// The source files.
    pub files: u64,
}

impl FormerImodel {
    /// What stays where.
    #[must_use]
    pub fn text(&self) -> String {
        let files = plural(self.files, "file stays", "files stay");
        format!("{files} in iModel {}, its iModel before", self.imodel_id)
    }

    /// How to take it out.
    #[must_use]
    pub fn hint(&self) -> String {
        detach(&self.watch, &self.imodel_id)
    }
}

impl Ledger {
    /// The source files that a watch, by its name, left in an iModel, by path.
    pub async fn former_source_files(
        &self,
        watch: &str,
        imodel_id: &ImodelId,
    ) -> Result<Vec<FormerSourceFile>, Error> {
        type Row = (Vec<u8>, Vec<u8>, StorageFileId, String, String);
        let rows: Vec<Row> = self
            .db
            .read("list source files in a former iModel", async |db| {
                sql::query_as(
                    "SELECT s.dir, s.name, s.storage_file_id, s.source_file_id, c.platform_id FROM former_source_files s JOIN watches w \
                     ON w.id = s.watch_id JOIN connections c ON c.id = s.connection_id \
                     WHERE w.name = $1 AND c.imodel_id = $2 AND c.platform_id IS NOT NULL \
                     ORDER BY s.dir, s.name",
                )
                .bind(watch)
                .bind(imodel_id)
                .fetch_all(db)
                .await
            })
            .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(
                |(dir, name, storage_file_id, source_file_id, connection)| FormerSourceFile {
                    path: join(dir, name),
                    storage_file_id,
                    source_file_id,
                    connection,
                },
            )
            .collect())
    }

    /// A source file that stayed in a former iModel was taken out of it.
    pub async fn forget_former_source_file(&self, source_file_id: &str) -> Result<(), Error> {
        self.db
            .write("forget a source file in a former iModel", async |tx| {
                sql::query("DELETE FROM former_source_files WHERE source_file_id = $1")
                    .bind(source_file_id)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }
}

/// The iModels in which source files stayed when the `imodel_id` of their watch was changed.
pub(super) async fn former_imodels(tx: &mut Tx) -> Result<Vec<FormerImodel>, sqlx::Error> {
    let rows: Vec<(String, ImodelId, i64)> = sql::query_as(
        "SELECT w.name, c.imodel_id, COUNT(*) FROM former_source_files s JOIN watches w \
         ON w.id = s.watch_id JOIN connections c ON c.id = s.connection_id \
         GROUP BY w.name, c.imodel_id ORDER BY 1, 2",
    )
    .fetch_all(tx)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(watch, imodel_id, files)| FormerImodel {
            watch,
            imodel_id,
            files: count_value(files),
        })
        .collect())
}

/// Keeps the source files of a watch that ends as those of another one, which has the same storage files.
pub(super) async fn pass_on_former(
    tx: &mut Tx,
    from: i64,
    to: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    keep_former(tx, from, now).await?;
    sql::query("UPDATE former_source_files SET watch_id = $2 WHERE watch_id = $1")
        .bind(from)
        .bind(to)
        .execute(tx)
        .await?;
    Ok(())
}

/// Keeps the source files of a watch, which are about to be forgotten.
pub(super) async fn keep_former(
    tx: &mut Tx,
    watch_id: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "INSERT INTO former_source_files (connection_id, source_file_id, storage_file_id, \
         watch_id, dir, name, since) SELECT connection_id, source_file_id, storage_file_id, \
         watch_id, dir, name, $2 FROM files WHERE watch_id = $1 AND connection_id IS NOT NULL \
         AND source_file_id IS NOT NULL AND storage_file_id IS NOT NULL ON CONFLICT DO NOTHING",
    )
    .bind(watch_id)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// The watch goes into this iModel: its source files there are found again.
pub(super) async fn drop_former(
    tx: &mut Tx,
    watch_id: i64,
    imodel_id: &ImodelId,
) -> Result<(), sqlx::Error> {
    sql::query(
        "DELETE FROM former_source_files WHERE watch_id = $1 AND connection_id IN (SELECT id \
         FROM connections WHERE imodel_id = $2)",
    )
    .bind(watch_id)
    .bind(imodel_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Files of a watch that have a source file.
pub(super) async fn count_mapped(tx: &mut Tx, watch_id: i64) -> Result<u64, sqlx::Error> {
    let count: i64 = sql::query_scalar(
        "SELECT COUNT(*) FROM files WHERE watch_id = $1 AND source_file_id IS NOT NULL",
    )
    .bind(watch_id)
    .fetch_one(tx)
    .await?;
    Ok(count_value(count))
}
