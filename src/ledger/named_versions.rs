//! Named versions of an iModel: what was synchronized since the last one, the one that is about to be created, and what
//! became of it.
//!
//! Files are recorded in the transaction that ends their run, and only while the configuration requests named versions.
//! Name and changeset are recorded before the request, so that a start after a kill finds the version by its name.

use jiff::Timestamp;

use super::row::join;
use super::{
    Error, Ledger, RunId, RunReport, Tx, Verdict, count_column, count_value, millis, sql, timestamp,
};
use crate::ids::ImodelId;
use crate::text::plural;

/// Paths that are read for a name or a description: more do not fit into either.
const PATHS_MAX: i64 = 100;

/// Where the named versions of an iModel stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    /// What was synchronized since the last one.
    pub unnamed: Option<Unnamed>,
    /// The one whose creation was begun.
    pub intent: Option<VersionIntent>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// What was refused for good.
    pub refused: Option<String>,
}

/// What was synchronized since the last named version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    /// The first file of it.
    pub since: Timestamp,
    /// The last run that synchronized a file of it.
    pub run_id: RunId,
    /// The same, by the platform's id.
    pub run: String,
    /// That run left files that were not synchronized.
    pub partial: bool,
}

/// The files that a named version is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionFiles {
    /// How many.
    pub count: u64,
    /// The names of their watches.
    pub watches: Vec<String>,
    /// The first ones in order of path; odd bytes are replaced.
    pub paths: Vec<String>,
}

/// A named version before it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionIntent {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The changeset that it names.
    pub changeset_id: String,
    /// The last run whose files it is about.
    pub run_id: RunId,
    /// How many files those are.
    pub files: u64,
}

/// How an attempt to create a named version failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamingFailure {
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The operator has to act.
    pub severe: bool,
    /// What was refused for good; None if it is tried again.
    pub refused: Option<String>,
}

/// The named versions of an iModel, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVersionReport {
    /// The last one: its name, when it was created, and how many files had been synchronized.
    pub last: Option<(String, Timestamp, u64)>,
    /// Why the last attempt created none although it did not fail.
    pub note: Option<String>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The operator has to act.
    pub severe: bool,
}

impl NamedVersionReport {
    /// As one line.
    #[must_use]
    pub fn text(&self) -> String {
        let last = self.last.as_ref().map(|(name, _, files)| {
            format!(
                "named version {name:?}, {}",
                plural(*files, "file", "files")
            )
        });
        let last = last.unwrap_or_else(|| "no named version yet".to_owned());
        match (&self.reason, &self.note) {
            (Some(reason), _) => format!("{last}; {reason}"),
            (None, Some(note)) => format!("{last}; {note}"),
            (None, None) => last,
        }
    }
}

/// SQL: the columns of a [`NamedVersionRow`] in `named_versions v`.
pub(super) const NAMED_VERSION: &str = "v.imodel_id IS NOT NULL AS versions_wanted, \
     v.name AS version_name, v.named_at AS version_at, v.files AS version_files, \
     v.note AS version_note, v.reason AS version_reason, v.hint AS version_hint, \
     COALESCE(v.severe, 0) <> 0 AS version_severe";

sql::row! {
    /// The named versions of an iModel, as read for a report.
    pub(super) struct NamedVersionRow {
        versions_wanted: bool,
        version_name: Option<String>,
        version_at: Option<i64>,
        version_files: Option<i64>,
        version_note: Option<String>,
        version_reason: Option<String>,
        version_hint: Option<String>,
        version_severe: bool,
    }
}

impl NamedVersionRow {
    /// None if none are requested.
    pub(super) fn into_report(self) -> Option<NamedVersionReport> {
        self.versions_wanted.then(|| NamedVersionReport {
            last: self.version_name.zip(self.version_at).map(|(name, at)| {
                let files = count_value(self.version_files.unwrap_or_default());
                (name, timestamp(at), files)
            }),
            note: self.version_note,
            reason: self.version_reason,
            hint: self.version_hint,
            severe: self.version_severe,
        })
    }
}

sql::row! {
    struct NamingRow {
        run_id: RunId,
        run: Option<String>,
        partial: bool,
        since: Option<i64>,
        intent_name: Option<String>,
        intent_description: Option<String>,
        intent_changeset: Option<String>,
        intent_run_id: Option<RunId>,
        intent_files: Option<i64>,
        reason: Option<String>,
        refused: Option<String>,
    }
}

impl Ledger {
    /// Whether the configuration requests named versions of an iModel. If not, what was not named yet is forgotten.
    pub async fn want_named_versions(&self, imodel: &ImodelId, wanted: bool) -> Result<(), Error> {
        self.db
            .write("record whether named versions are requested", async |tx| {
                if wanted {
                    sql::query(
                        "INSERT INTO named_versions (imodel_id) VALUES ($1) \
                         ON CONFLICT (imodel_id) DO NOTHING",
                    )
                    .bind(imodel)
                    .execute(tx)
                    .await?;
                    return Ok(());
                }
                for sql in [
                    "DELETE FROM named_version_files WHERE imodel_id = $1",
                    "DELETE FROM named_versions WHERE imodel_id = $1",
                ] {
                    sql::query(sql).bind(imodel).execute(tx).await?;
                }
                Ok(())
            })
            .await
    }

    /// Where the named versions of an iModel stand.
    pub async fn naming(&self, imodel: &ImodelId) -> Result<Naming, Error> {
        let row: Option<NamingRow> = self
            .db
            .read("look up the named versions of an iModel", async |db| {
                sql::query_as(
                    "SELECT run_id, run, partial <> 0 AS partial, (SELECT MIN(at) \
                     FROM named_version_files f WHERE f.imodel_id = v.imodel_id) AS since, \
                     intent_name, intent_description, intent_changeset, intent_run_id, \
                     intent_files, reason, refused FROM named_versions v WHERE imodel_id = $1",
                )
                .bind(imodel)
                .fetch_optional(db)
                .await
            })
            .await?;
        let Some(row) = row else {
            return Ok(Naming::default());
        };
        let intent = match (row.intent_name, row.intent_changeset, row.intent_run_id) {
            (Some(name), Some(changeset_id), Some(run_id)) => Some(VersionIntent {
                name,
                description: row.intent_description.unwrap_or_default(),
                changeset_id,
                run_id,
                files: count_value(row.intent_files.unwrap_or_default()),
            }),
            _ => None,
        };
        Ok(Naming {
            unnamed: row.since.map(|since| Unnamed {
                since: timestamp(since),
                run_id: row.run_id,
                run: row.run.unwrap_or_default(),
                partial: row.partial,
            }),
            intent,
            reason: row.reason,
            refused: row.refused,
        })
    }

    /// The files that were synchronized since the last named version.
    pub async fn unnamed_files(&self, imodel: &ImodelId) -> Result<VersionFiles, Error> {
        self.db
            .read_at_once("list the files of a named version", async |tx| {
                let count: i64 = sql::query_scalar(
                    "SELECT COUNT(*) FROM named_version_files v JOIN files f ON f.id = v.file_id \
                     WHERE v.imodel_id = $1",
                )
                .bind(imodel)
                .fetch_one(tx)
                .await?;
                let watches: Vec<String> = sql::query_scalar(
                    "SELECT DISTINCT w.name FROM named_version_files v JOIN files f \
                     ON f.id = v.file_id JOIN watches w ON w.id = f.watch_id \
                     WHERE v.imodel_id = $1 ORDER BY w.name",
                )
                .bind(imodel)
                .fetch_all(tx)
                .await?;
                let paths: Vec<(Vec<u8>, Vec<u8>)> = sql::query_as(
                    "SELECT f.dir, f.name FROM named_version_files v JOIN files f \
                     ON f.id = v.file_id WHERE v.imodel_id = $1 ORDER BY f.dir, f.name LIMIT $2",
                )
                .bind(imodel)
                .bind(PATHS_MAX)
                .fetch_all(tx)
                .await?;
                let paths = paths.into_iter().map(|(dir, name)| join(dir, name));
                Ok(VersionFiles {
                    count: count_value(count),
                    watches,
                    paths: paths
                        .map(|path| path.to_string_lossy().into_owned())
                        .collect(),
                })
            })
            .await
    }

    /// A named version is about to be created, or, with None, is not.
    pub async fn intend_named_version(
        &self,
        imodel: &ImodelId,
        intent: Option<&VersionIntent>,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a named version to create", async |tx| {
                sql::query(
                    "UPDATE named_versions SET intent_name = $2, intent_description = $3, \
                     intent_changeset = $4, intent_run_id = $5, intent_files = $6 \
                     WHERE imodel_id = $1",
                )
                .bind(imodel)
                .bind(intent.map(|intent| &intent.name))
                .bind(intent.map(|intent| &intent.description))
                .bind(intent.map(|intent| &intent.changeset_id))
                .bind(intent.map(|intent| intent.run_id.0))
                .bind(intent.map(|intent| count_column(intent.files)))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// The intended named version exists.
    pub async fn record_named_version(
        &self,
        imodel: &ImodelId,
        intent: &VersionIntent,
        version_id: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("record a named version", async |tx| {
                sql::query(
                    "UPDATE named_versions SET name = $2, version_id = $3, named_at = $4, \
                     files = $5 WHERE imodel_id = $1",
                )
                .bind(imodel)
                .bind(&intent.name)
                .bind(version_id)
                .bind(millis(now))
                .bind(count_column(intent.files))
                .execute(tx)
                .await?;
                sql::query(
                    "INSERT INTO created_versions (id, imodel_id, name, description, version_id, \
                     changeset_id, run, files, at) VALUES ($1, $2, $3, $4, $5, $6, \
                     (SELECT run FROM named_versions WHERE imodel_id = $2 AND run_id = $7), $8, $9)",
                )
                .bind(tx.new_id(now))
                .bind(imodel)
                .bind(&intent.name)
                .bind(&intent.description)
                .bind(version_id)
                .bind(&intent.changeset_id)
                .bind(intent.run_id)
                .bind(count_column(intent.files))
                .bind(millis(now))
                .execute(tx)
                .await?;
                end_naming(tx, imodel, intent.run_id, None).await
            })
            .await
    }

    /// There is nothing to name in what was synchronized up to this run; `note` says why.
    pub async fn skip_named_version(
        &self,
        imodel: &ImodelId,
        up_to: RunId,
        note: &str,
    ) -> Result<(), Error> {
        self.db
            .write("record that there is nothing to name", async |tx| {
                end_naming(tx, imodel, up_to, Some(note)).await
            })
            .await
    }

    /// An attempt failed.
    pub async fn fail_named_version(
        &self,
        imodel: &ImodelId,
        failure: &NamingFailure,
    ) -> Result<(), Error> {
        self.db
            .write("record why a named version failed", async |tx| {
                sql::query(
                    "UPDATE named_versions SET reason = $2, hint = $3, severe = $4, refused = $5, \
                     note = NULL WHERE imodel_id = $1",
                )
                .bind(imodel)
                .bind(&failure.reason)
                .bind(&failure.hint)
                .bind(i64::from(failure.severe))
                .bind(&failure.refused)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

async fn end_naming(
    tx: &mut Tx,
    imodel: &ImodelId,
    up_to: RunId,
    note: Option<&str>,
) -> Result<(), sqlx::Error> {
    sql::query("DELETE FROM named_version_files WHERE imodel_id = $1 AND run_id <= $2")
        .bind(imodel)
        .bind(up_to.0)
        .execute(tx)
        .await?;
    sql::query(
        "UPDATE named_versions SET intent_name = NULL, intent_description = NULL, \
         intent_changeset = NULL, intent_run_id = NULL, intent_files = NULL, note = $2, \
         reason = NULL, hint = NULL, severe = 0, refused = NULL WHERE imodel_id = $1",
    )
    .bind(imodel)
    .bind(note)
    .execute(tx)
    .await?;
    Ok(())
}

/// Adds the files that a run has synchronized to what is not named yet, if named versions are requested.
pub(super) async fn note_synchronized(
    tx: &mut Tx,
    run: RunId,
    reports: &[RunReport],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let imodel: Option<ImodelId> = sql::query_scalar(
        "SELECT v.imodel_id FROM runs r JOIN connections c ON c.id = r.connection_id \
         JOIN named_versions v ON v.imodel_id = c.imodel_id WHERE r.id = $1",
    )
    .bind(run.0)
    .fetch_optional(tx)
    .await?;
    let Some(imodel) = imodel else { return Ok(()) };
    let done = |report: &&RunReport| matches!(report.verdict, Verdict::Synchronized(_));
    if !reports.iter().any(|report| done(&report)) {
        return Ok(());
    }
    for report in reports.iter().filter(done) {
        sql::query(
            "INSERT INTO named_version_files (imodel_id, file_id, run_id, at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (imodel_id, file_id) DO UPDATE \
             SET run_id = excluded.run_id",
        )
        .bind(&imodel)
        .bind(report.file.0)
        .bind(run.0)
        .bind(millis(now))
        .execute(tx)
        .await?;
    }
    sql::query(
        "UPDATE named_versions SET run_id = $2, run = (SELECT platform_id FROM runs \
         WHERE id = $2), partial = $3 WHERE imodel_id = $1",
    )
    .bind(&imodel)
    .bind(run.0)
    .bind(i64::from(!reports.iter().all(|report| done(&report))))
    .execute(tx)
    .await?;
    Ok(())
}
