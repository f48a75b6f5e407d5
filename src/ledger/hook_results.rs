//! Results and named versions for hooks: each has a number that rises, so one number says what was sent already.

use jiff::Timestamp;

use super::row::join;
use super::{Error, Ledger, Outcome, count_value, sql, timestamp};
use crate::connector_type::ConnectorType;
use crate::ids::ImodelId;

/// A result, with everything that is known of its file.
#[derive(Debug, Clone)]
pub struct HookResult {
    /// Rises from result to result.
    pub number: i64,
    /// The name of the watch.
    pub watch: String,
    /// Path relative to the root; odd bytes are replaced.
    pub path: String,
    /// The outcome.
    pub outcome: Outcome,
    /// When it was written.
    pub at: Timestamp,
    /// From hand-over to outcome, in milliseconds.
    pub millis: u64,
    /// Bytes in storage.
    pub bytes: u64,
    /// The connector type, if it has one.
    pub connector: Option<ConnectorType>,
    /// The iModel of the watch.
    pub imodel_id: ImodelId,
    /// Its iTwin, once known.
    pub itwin_id: Option<String>,
    /// The storage file.
    pub storage_file_id: Option<String>,
    /// The source file, as it is now.
    pub source_file_id: Option<String>,
    /// The connection, as it is now.
    pub connection_id: Option<String>,
    /// The run that it is a result of.
    pub run: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A named version that was created.
#[derive(Debug, Clone)]
pub struct CreatedVersion {
    /// Rises from version to version.
    pub number: i64,
    /// The iModel.
    pub imodel_id: ImodelId,
    /// Its iTwin, once known.
    pub itwin_id: Option<String>,
    /// The watches of the iModel.
    pub watches: Vec<String>,
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
    /// The platform's id.
    pub id: String,
    /// The changeset that it names.
    pub changeset_id: String,
    /// The last run whose files it is about.
    pub run: Option<String>,
    /// How many files those are.
    pub files: u64,
    /// When it was created.
    pub at: Timestamp,
}

sql::row! {
    struct VersionRow {
        id: i64,
        imodel_id: ImodelId,
        itwin_id: Option<String>,
        name: String,
        description: String,
        version_id: String,
        changeset_id: String,
        run: Option<String>,
        files: i64,
        at: i64,
    }
}

sql::row! {
    struct Row {
        id: i64,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        outcome: Outcome,
        at: i64,
        millis: i64,
        bytes: i64,
        connector: Option<ConnectorType>,
        imodel_id: ImodelId,
        itwin_id: Option<String>,
        storage_file_id: Option<String>,
        source_file_id: Option<String>,
        connection_id: Option<String>,
        run: Option<String>,
        reason: Option<String>,
        hint: Option<String>,
    }
}

impl Ledger {
    /// The results after the one with this number, oldest first.
    pub async fn hook_results(&self, after: i64, limit: u32) -> Result<Vec<HookResult>, Error> {
        let rows: Vec<Row> = self
            .db
            .read("read results for hooks", async |db| {
                sql::query_as(
                    "SELECT r.id, w.name AS watch, f.dir, f.name, r.outcome, r.at, r.millis, \
                     r.bytes, r.connector, w.imodel_id, i.itwin_id, r.storage_file_id, \
                     f.source_file_id, c.platform_id AS connection_id, r.run, r.reason, r.hint \
                     FROM results r JOIN files f ON f.id = r.file_id \
                     JOIN watches w ON w.id = f.watch_id \
                     LEFT JOIN imodels i ON i.id = w.imodel_id \
                     LEFT JOIN connections c ON c.id = f.connection_id \
                     WHERE r.id > $1 ORDER BY r.id LIMIT $2",
                )
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(db)
                .await
            })
            .await?;
        let results = rows.into_iter().map(|row| HookResult {
            number: row.id,
            watch: row.watch,
            path: join(row.dir, row.name).to_string_lossy().into_owned(),
            outcome: row.outcome,
            at: timestamp(row.at),
            millis: count_value(row.millis),
            bytes: count_value(row.bytes),
            connector: row.connector,
            imodel_id: row.imodel_id,
            itwin_id: row.itwin_id,
            storage_file_id: row.storage_file_id,
            source_file_id: row.source_file_id,
            connection_id: row.connection_id,
            run: row.run,
            reason: row.reason,
            hint: row.hint,
        });
        Ok(results.collect())
    }

    /// The named version that was created after the one with this number.
    pub async fn created_version(&self, after: i64) -> Result<Option<CreatedVersion>, Error> {
        self.db
            .read("read named versions for hooks", async |db| {
                let row: Option<VersionRow> = sql::query_as(
                    "SELECT v.id, v.imodel_id, i.itwin_id, v.name, v.description, v.version_id, \
                     v.changeset_id, v.run, v.files, v.at FROM created_versions v \
                     LEFT JOIN imodels i ON i.id = v.imodel_id WHERE v.id > $1 ORDER BY v.id LIMIT 1",
                )
                .bind(after)
                .fetch_optional(db)
                .await?;
                let Some(row) = row else { return Ok(None) };
                let watches = sql::query_scalar(
                    "SELECT name FROM watches WHERE imodel_id = $1 AND configured = 1 ORDER BY name",
                )
                .bind(&row.imodel_id)
                .fetch_all(db)
                .await?;
                Ok(Some(CreatedVersion {
                    number: row.id,
                    imodel_id: row.imodel_id,
                    itwin_id: row.itwin_id,
                    watches,
                    name: row.name,
                    description: row.description,
                    id: row.version_id,
                    changeset_id: row.changeset_id,
                    run: row.run,
                    files: count_value(row.files),
                    at: timestamp(row.at),
                }))
            })
            .await
    }

    /// The number of the last named version; 0 if there is none.
    pub async fn last_created_version(&self) -> Result<i64, Error> {
        self.db
            .read("look up the last named version", async |db| {
                sql::query_scalar("SELECT COALESCE(MAX(id), 0) FROM created_versions")
                    .fetch_one(db)
                    .await
            })
            .await
    }

    /// What a hook has sent, as it was kept last.
    pub async fn hook_memo(&self, name: &str) -> Result<Option<String>, Error> {
        self.alert_memo(&format!("hook:{name}")).await
    }

    /// Keeps what a hook has sent; survives a power cut.
    pub async fn keep_hook_memo(&self, name: &str, memo: &str) -> Result<(), Error> {
        let name = format!("hook:{name}");
        self.db
            .write_durably("record what a hook has sent", async |tx| {
                sql::query(
                    "INSERT INTO alerts (name, memo) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE \
                     SET memo = excluded.memo",
                )
                .bind(name)
                .bind(memo)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}
