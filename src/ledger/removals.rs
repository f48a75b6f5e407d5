//! What the operator removed from the platform: source files and storage files that no local file stands for.
//!
//! The commands send the requests; this records what came of them, in the history of the file if the ledger knows it.
//! A file whose local file is there again by then is left as it is: the platform is read before its next run.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::checkpoints::forget_storage_file;
use super::history::{Step, note};
use super::row::join;
use super::{Error, Ledger, Tx, Withdrawal, sql};
use crate::ids::{ImodelId, StorageFileId};

/// A place in storage that a watch uses, or used when it was configured last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePlace {
    /// The name of the watch.
    pub watch: String,
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// The folder in storage, as segments joined by `/`; empty for the root folder.
    pub storage_folder: String,
    /// Whether the watch is still configured.
    pub configured: bool,
}

/// A connection that the daemon created or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedConnection {
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// Its display name.
    pub name: String,
    /// The platform's id, if it is known.
    pub platform_id: Option<String>,
}

/// What was removed from the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    /// A source file of an iModel that its watch goes into.
    SourceFile,
    /// A source file of an iModel that its watch went into before.
    FormerSourceFile,
    /// A storage file, which is in the recycle bin now.
    StorageFile,
}

/// Something that the operator removed from the platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// What it was.
    pub what: Removed,
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// The storage file.
    pub storage_file_id: StorageFileId,
    /// The source file; None for a storage file.
    pub source_file_id: Option<String>,
    /// The path in storage, or the path of the local file that it belonged to.
    pub path: String,
}

impl Ledger {
    /// Where watches store, or stored, their files.
    pub async fn storage_places(&self) -> Result<Vec<StoragePlace>, Error> {
        type Row = (String, ImodelId, String, bool);
        let rows: Vec<Row> = self
            .db
            .read("list the storage folders of all watches", async |db| {
                sql::query_as(
                    "SELECT name, imodel_id, storage_folder, configured <> 0 FROM watches \
                     ORDER BY name",
                )
                .fetch_all(db)
                .await
            })
            .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(
                |(watch, imodel_id, storage_folder, configured)| StoragePlace {
                    watch,
                    imodel_id,
                    storage_folder,
                    configured,
                },
            )
            .collect())
    }

    /// The connections that watches use, or used before.
    pub async fn used_connections(&self) -> Result<Vec<UsedConnection>, Error> {
        let rows: Vec<(ImodelId, String, Option<String>)> = self
            .db
            .read("list all connections", async |db| {
                sql::query_as("SELECT imodel_id, name, platform_id FROM connections ORDER BY id")
                    .fetch_all(db)
                    .await
            })
            .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|(imodel_id, name, platform_id)| UsedConnection {
                imodel_id,
                name,
                platform_id,
            })
            .collect())
    }

    /// The file that a storage file belongs to, if its local file is not gone. Read before the storage file is removed.
    pub async fn file_in_use(
        &self,
        storage_file_id: &StorageFileId,
    ) -> Result<Option<PathBuf>, Error> {
        let row: Option<(Vec<u8>, Vec<u8>)> = self
            .db
            .read("look up the file of a storage file", async |db| {
                sql::query_as(
                    "SELECT f.dir, f.name FROM files f JOIN watches w ON w.id = f.watch_id \
                     WHERE f.storage_file_id = $1 AND w.configured = 1 AND (f.absence IS NULL \
                     OR f.absence = 'missing' OR EXISTS (SELECT 1 FROM jobs j \
                     WHERE j.file_id = f.id))",
                )
                .bind(storage_file_id)
                .fetch_optional(db)
                .await
            })
            .await?;
        Ok(row.map(|(dir, name)| join(dir, name)))
    }

    /// Records what the operator removed from the platform. Returns whether the ledger knew it.
    pub async fn record_removal(&self, removal: &Removal, now: Timestamp) -> Result<bool, Error> {
        self.db
            .write_durably(
                "record what was removed from the platform",
                async |tx| match removal.what {
                    Removed::FormerSourceFile => former_removed(tx, removal, now).await,
                    Removed::SourceFile | Removed::StorageFile => removed(tx, removal, now).await,
                },
            )
            .await
    }
}

async fn removed(tx: &mut Tx, removal: &Removal, now: Timestamp) -> Result<bool, sqlx::Error> {
    // With several iModels, several watches know the storage file: a source file is that of one of them.
    let known: Vec<(i64, i64, bool)> = sql::query_as(
        "SELECT f.id, f.version, w.configured <> 0 AND COALESCE(f.absence, '') = 'gone' \
         FROM files f JOIN watches w ON w.id = f.watch_id \
         WHERE f.storage_file_id = $1 AND ($2 OR w.imodel_id = $3) AND (w.configured = 0 \
         OR f.absence IN ('gone', 'deselected')) AND NOT EXISTS (SELECT 1 FROM jobs j \
         WHERE j.file_id = f.id AND j.state IN ('uploading', 'running'))",
    )
    .bind(&removal.storage_file_id)
    .bind(removal.what == Removed::StorageFile)
    .bind(&removal.imodel_id)
    .fetch_all(tx)
    .await?;
    for file in &known {
        removed_of(tx, removal, *file, now).await?;
    }
    Ok(!known.is_empty())
}

async fn removed_of(
    tx: &mut Tx,
    removal: &Removal,
    (file, version, can_return): (i64, i64, bool),
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // As if the service had withdrawn it, so that it can be restored.
    let withdrawal = match removal.what {
        Removed::StorageFile => Withdrawal::Deleted,
        Removed::SourceFile | Removed::FormerSourceFile => Withdrawal::Unmapped,
    };
    if can_return {
        sql::query(
            "UPDATE files SET withdrawal = $2, withdrawal_reason = NULL, withdrawal_hint = NULL, \
             withdrawal_due = 0, outcome = NULL, outcome_at = NULL, withdrawal_generation = 1 + \
             COALESCE((SELECT c.generation FROM connections c \
             WHERE c.id = files.target_connection_id), 0) WHERE id = $1",
        )
        .bind(file)
        .bind(withdrawal)
        .execute(tx)
        .await?;
    }
    let step = match removal.what {
        Removed::StorageFile => {
            if !can_return {
                forget_storage_file(tx, file).await?;
            }
            Step::StorageFileRemoved
        }
        Removed::SourceFile | Removed::FormerSourceFile => {
            sql::query(
                "UPDATE files SET connection_id = NULL, source_file_id = NULL, \
                 mapped_connector = NULL, processed = 0 WHERE id = $1",
            )
            .bind(file)
            .execute(tx)
            .await?;
            Step::SourceFileRemoved
        }
    };
    let text = match removal.what {
        Removed::StorageFile => format!("storage file {}", removal.storage_file_id.as_str()),
        Removed::SourceFile | Removed::FormerSourceFile => {
            format!("iModel {}", removal.imodel_id.as_str())
        }
    };
    note(tx, file, version, step, Some(&text), now).await
}

async fn former_removed(
    tx: &mut Tx,
    removal: &Removal,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let former: Option<(i64, Vec<u8>, Vec<u8>)> = sql::query_as(
        "DELETE FROM former_source_files WHERE source_file_id = $1 AND storage_file_id = $2 \
         AND connection_id IN (SELECT id FROM connections WHERE imodel_id = $3) \
         RETURNING watch_id, dir, name",
    )
    .bind(&removal.source_file_id)
    .bind(&removal.storage_file_id)
    .bind(&removal.imodel_id)
    .fetch_optional(tx)
    .await?;
    let Some((watch, dir, name)) = former else {
        return Ok(false);
    };
    let file: Option<(i64, i64)> = sql::query_as(
        "SELECT id, version FROM files WHERE watch_id = $1 AND dir = $2 AND name = $3",
    )
    .bind(watch)
    .bind(dir)
    .bind(name)
    .fetch_optional(tx)
    .await?;
    if let Some((file, version)) = file {
        let text = format!("iModel {}", removal.imodel_id.as_str());
        note(tx, file, version, Step::SourceFileRemoved, Some(&text), now).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixture::*;
    use super::super::*;

    fn removal(what: Removed, file: &FileReport) -> Removal {
        Removal {
            what,
            imodel_id: "imodel".into(),
            storage_file_id: file.storage_file_id.clone().unwrap(),
            source_file_id: None,
            path: "a.dgn".to_owned(),
        }
    }

    async fn gone(f: &Fixture, path: &str) -> FileReport {
        f.stored(path).await;
        let run = f.begin_run(2).await;
        f.finish_run(run, Verdict::Synchronized(None), 3).await;
        for second in [4, 5] {
            let names = [(path.into(), Absence::Missing)];
            let absent =
                f.ledger
                    .record_absent(f.watch, Path::new(""), &names, at(second), at(second));
            absent.await.unwrap();
        }
        f.file(path).await
    }

    #[tokio::test]
    async fn what_the_operator_removed_is_in_the_history_of_a_gone_file() {
        let f = Fixture::new().await;
        let file = gone(&f, "a.dgn").await;
        let storage_file = file.storage_file_id.clone().unwrap();
        assert_eq!(f.ledger.file_in_use(&storage_file).await.unwrap(), None);
        for what in [Removed::SourceFile, Removed::StorageFile] {
            let removal = removal(what, &file);
            assert!(f.ledger.record_removal(&removal, at(6)).await.unwrap());
        }
        let removed = f.file("a.dgn").await;
        assert_eq!(removed.withdrawal, Some(Withdrawal::Deleted));
        assert_eq!(removed.storage_file_id, Some(storage_file));
        let history = f.ledger.file_history(file.id).await.unwrap().unwrap();
        let steps: Vec<&str> = history
            .entries
            .iter()
            .map(|one| one.what.as_str())
            .collect();
        assert!(
            steps.ends_with(&["source_file_removed", "storage_file_removed"]),
            "{steps:?}"
        );
        // It returns: its upload begins with the recycle bin.
        assert_eq!(f.hand_over("a.dgn", 9, 7).await, 1);
        let job = f.claim(8).await.unwrap();
        assert_eq!(job.withdrawal, Some(Withdrawal::Deleted));
    }

    #[tokio::test]
    async fn a_file_that_is_in_its_folder_is_in_use_and_nothing_is_recorded_of_it() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let file = f.file("a.dgn").await;
        let storage_file = file.storage_file_id.clone().unwrap();
        let used = f.ledger.file_in_use(&storage_file).await.unwrap();
        assert_eq!(used.as_deref(), Some(Path::new("a.dgn")));
        let removal = removal(Removed::StorageFile, &file);
        assert!(!f.ledger.record_removal(&removal, at(6)).await.unwrap());
        assert!(f.file("a.dgn").await.storage_file_id.is_some());
    }
}
