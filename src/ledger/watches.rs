//! The watches of the configuration.
//!
//! What is known of a watch stays when its name, its folder or its storage folder changes: `watch_identity` decides
//! which known watch it is. When its iModel changes, all that is known of its files on the platform is forgotten,
//! except for the source files that stay in the old iModel.

use std::collections::HashSet;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::bulk_change::{Arrived, BulkChangeLimits, guard, set_limits};
use super::forget::forget_cloud_side;
use super::former_source_files::{count_mapped, drop_former, former_imodels, keep_former};
use super::relocations::{count_moving, count_stored, relocate_all};
use super::target_connections::{connection_row, set_connections_of_watch};
use super::watch_changes::WatchChange;
use super::watch_followers::{Follower, follow, leave_imodels};
use super::watch_identity::{Recognized, WatchIdentity, recognize};
use super::{
    BulkChange, Error, FormerImodel, Ledger, OnDelete, Tx, WatchId, count_column, millis, sql,
};
use crate::connection_name::ConnectionName;
use crate::ids::ImodelId;

/// A watch as the configuration has it.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// Its name.
    pub name: String,
    /// A name that it had before.
    pub formerly: Option<String>,
    /// Its folder.
    pub path: PathBuf,
    /// The iModel that its files go into.
    pub imodel_id: ImodelId,
    /// Why no job of it is claimed before its iModel is there; None: it is.
    pub imodel_wait: Option<String>,
    /// The folder in storage, as segments joined by `/`; empty for the root folder.
    pub storage_folder: String,
    /// The display name of the connection of its files in the iModel, or of those of its connector types.
    pub connection: ConnectionName,
    /// How many files may change or arrive at once.
    pub bulk_change_limits: BulkChangeLimits,
    /// What happens to files that are gone.
    pub withdrawal: WithdrawalPolicy,
    /// The name of the watch of the same folder that uploads the files, if it does so for this one.
    pub follows: Option<String>,
    /// A digest of all settings: another process uploads for the watch only with the same.
    pub settings: String,
}

/// What happens on the platform to files that are gone from their folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WithdrawalPolicy {
    /// What.
    pub on_delete: OnDelete,
    /// How long they have to be gone before that.
    pub after: Duration,
    /// How many may be gone at once.
    pub limit: u64,
}

/// A configured watch in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub id: WatchId,
    /// What was different.
    pub changes: Vec<WatchChange>,
    /// The bulk change guard suspended it.
    pub bulk_change: Option<BulkChange>,
}

/// A configured watch, and what registering it would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWatch {
    /// The name of the watch in the ledger; None if it is new.
    pub known_as: Option<String>,
    /// What is different.
    pub changes: Vec<WatchChange>,
}

/// What registering the configured watches would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWatches {
    /// The configured watches, in their order.
    pub watches: Vec<PlannedWatch>,
    /// Watches that the configuration no longer has, by name.
    pub removed: Vec<(String, WatchChange)>,
    /// Source files that stayed in iModels because of earlier changes.
    pub former_imodels: Vec<FormerImodel>,
}

sql::row! {
    /// A watch of the ledger.
    struct KnownRow {
        id: i64,
        name: String,
        path: Option<Vec<u8>>,
        imodel_id: ImodelId,
        storage_folder: String,
        configured: bool,
        has_files: bool,
        /// The id of the iModel that it waited for; None: it waited for none, or for one that is not there yet.
        created_id: Option<ImodelId>,
    }
}

impl KnownRow {
    /// Whether only the id of its iModel was not known before.
    fn has_waited_for(&self, imodel_id: &ImodelId) -> bool {
        self.created_id.as_ref() == Some(imodel_id)
    }
}

impl Ledger {
    /// Makes the ledger know just these watches, and returns them in the same order.
    ///
    /// A known watch keeps its files under another name, with another folder or another storage folder. When its
    /// iModel has changed, all that is known of its files on the platform is forgotten, and every file is new to the
    /// next scan. Watches that are not configured any more keep their files, but none of their jobs is claimed until
    /// they are configured again.
    pub async fn register_watches(
        &self,
        specs: &[WatchSpec],
        now: Timestamp,
    ) -> Result<Vec<Registered>, Error> {
        self.db
            .write_durably("register the watches", async |tx| {
                sql::query(
                    "UPDATE watches SET configured = 0, backoff_until = 0, backoff_since = 0, \
                     backoff_reason = NULL",
                )
                .execute(tx)
                .await?;
                // The credentials may have been corrected since.
                sql::query("UPDATE jobs SET due_at = $1, pause = 0 WHERE kind = 'credentials' AND due_at > $1")
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                let known = known_watches(tx).await?;
                let found = found(&known, specs);
                rename(tx, &known, specs, &found).await?;
                let mut registered = Vec::with_capacity(specs.len());
                for (spec, found) in specs.iter().zip(found) {
                    registered.push(register(tx, spec, &known, found, now).await?);
                }
                let followers = specs.iter().filter_map(|spec| {
                    Some(Follower {
                        name: &spec.name,
                        leader: spec.follows.as_deref()?,
                        imodel_id: &spec.imodel_id,
                    })
                });
                follow(tx, followers, now).await?;
                leave_imodels(tx, now).await?;
                Ok(registered)
            })
            .await
    }

    /// What [`Ledger::register_watches`] would change. Writes nothing.
    pub async fn planned_watches(&self, specs: &[WatchSpec]) -> Result<PlannedWatches, Error> {
        self.db
            .read_at_once("compare the watches", async |tx| {
                let known = known_watches(tx).await?;
                let found = found(&known, specs);
                let mut removed = Vec::new();
                for (at, one) in known.iter().enumerate() {
                    if !one.configured || !one.has_files || found.contains(&Recognized::As(at)) {
                        continue;
                    }
                    let imodel_id = one.imodel_id.clone();
                    removed.push(match specs.iter().find(|spec| one.shares_storage(spec)) {
                        Some(spec) => {
                            let mapped = count_mapped(tx, one.id).await?;
                            let change = WatchChange::LeavesImodel { imodel_id, mapped };
                            (spec.name.clone(), change)
                        }
                        None => {
                            let files = count_stored(tx, one.id).await?;
                            let change = WatchChange::Removed { imodel_id, files };
                            (one.name.clone(), change)
                        }
                    });
                }
                let mut watches = Vec::with_capacity(specs.len());
                for (spec, found) in specs.iter().zip(found) {
                    watches.push(PlannedWatch {
                        changes: changes(tx, spec, &known, &found).await?,
                        known_as: match found {
                            Recognized::As(at) => known.get(at).map(|one| one.name.clone()),
                            Recognized::New | Recognized::Ambiguous(_) => None,
                        },
                    });
                }
                Ok(PlannedWatches {
                    watches,
                    removed,
                    former_imodels: former_imodels(tx).await?,
                })
            })
            .await
    }
}

impl KnownRow {
    /// Whether a configured watch, which is another one, uploads to the same storage folder: it has one iModel less.
    fn shares_storage(&self, spec: &WatchSpec) -> bool {
        spec.follows.is_none()
            && self.path.as_deref() == Some(spec.path.as_os_str().as_bytes())
            && self.storage_folder == spec.storage_folder
    }
}

async fn known_watches(tx: &mut Tx) -> Result<Vec<KnownRow>, sqlx::Error> {
    sql::query_as(
        "SELECT id, name, path, imodel_id, storage_folder, configured <> 0 AS configured, \
         EXISTS (SELECT 1 FROM files WHERE watch_id = watches.id) AS has_files, (SELECT c.imodel_id \
         FROM created_imodels c WHERE c.imodel_key = watches.imodel_id) AS created_id FROM watches \
         ORDER BY name",
    )
    .fetch_all(tx)
    .await
}

/// Which known watch each configured one is.
fn found(known: &[KnownRow], specs: &[WatchSpec]) -> Vec<Recognized> {
    let known: Vec<WatchIdentity<'_>> = known
        .iter()
        .map(|row| WatchIdentity {
            name: &row.name,
            path: row.path.as_deref().map(path),
            imodel_id: &row.imodel_id,
            storage_folder: &row.storage_folder,
            formerly: None,
            has_files: row.has_files,
        })
        .collect();
    let specs: Vec<WatchIdentity<'_>> = specs.iter().map(WatchSpec::identity).collect();
    recognize(&known, &specs)
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

impl WatchSpec {
    /// By what it is recognized.
    #[must_use]
    pub fn identity(&self) -> WatchIdentity<'_> {
        WatchIdentity {
            name: &self.name,
            path: Some(&self.path),
            imodel_id: &self.imodel_id,
            storage_folder: &self.storage_folder,
            formerly: self.formerly.as_deref(),
            has_files: true,
        }
    }
}

/// Gives known watches the names that the configuration has for them. A watch that is not configured any more, and
/// whose name now belongs to another one, gets a name that no configuration can have.
async fn rename(
    tx: &mut Tx,
    known: &[KnownRow],
    specs: &[WatchSpec],
    found: &[Recognized],
) -> Result<(), sqlx::Error> {
    let mut names: HashSet<String> = known.iter().map(|row| row.name.clone()).collect();
    let mut renamed = Vec::new();
    for (at, row) in known.iter().enumerate() {
        let spec = found.iter().position(|found| *found == Recognized::As(at));
        let name = match spec.and_then(|spec| specs.get(spec)) {
            Some(spec) if spec.name == row.name => continue,
            Some(spec) => spec.name.clone(),
            None if specs.iter().any(|spec| spec.name == row.name) => {
                let mut name = format!("{} (former)", row.name);
                while !names.insert(name.clone()) {
                    name.push('\'');
                }
                name
            }
            None => continue,
        };
        renamed.push((row.id, name));
    }
    // Names are unique, and some may be passed on from watch to watch.
    for (id, _) in &renamed {
        sql::query("UPDATE watches SET name = 'watch (' || id || ')' WHERE id = $1")
            .bind(id)
            .execute(tx)
            .await?;
    }
    for (id, name) in &renamed {
        sql::query("UPDATE watches SET name = $2 WHERE id = $1")
            .bind(id)
            .bind(name)
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// What differs between a configured watch and the known one that it is.
async fn changes(
    tx: &mut Tx,
    spec: &WatchSpec,
    known: &[KnownRow],
    found: &Recognized,
) -> Result<Vec<WatchChange>, sqlx::Error> {
    let at = match found {
        Recognized::As(at) => *at,
        Recognized::New => return Ok(Vec::new()),
        Recognized::Ambiguous(candidates) => {
            let candidates = candidates.iter().filter_map(|at| known.get(*at));
            return Ok(vec![WatchChange::Ambiguous {
                candidates: candidates.map(|row| row.name.clone()).collect(),
            }]);
        }
    };
    let Some(row) = known.get(at) else {
        return Ok(Vec::new());
    };
    let mut changes = Vec::new();
    let has_moved = row
        .path
        .as_deref()
        .is_some_and(|from| path(from) != spec.path);
    let has_other_folder = row.storage_folder != spec.storage_folder;
    if row.name != spec.name || has_moved || has_other_folder {
        let files = count_stored(tx, row.id).await?;
        if row.name != spec.name {
            let from = row.name.clone();
            changes.push(WatchChange::Renamed { from, files });
        }
        if let Some(from) = row.path.clone().filter(|_| has_moved) {
            let from = PathBuf::from(std::ffi::OsString::from_vec(from));
            changes.push(WatchChange::Moved { from, files });
        }
        if has_other_folder && row.imodel_id == spec.imodel_id {
            changes.push(WatchChange::StorageFolder {
                from: row.storage_folder.clone(),
                to: spec.storage_folder.clone(),
                files: count_moving(tx, row.id).await?,
            });
        }
    }
    if row.imodel_id != spec.imodel_id && !row.has_waited_for(&spec.imodel_id) {
        changes.push(WatchChange::Imodel {
            from: row.imodel_id.clone(),
            mapped: count_mapped(tx, row.id).await?,
        });
    }
    Ok(changes)
}

async fn register(
    tx: &mut Tx,
    spec: &WatchSpec,
    known: &[KnownRow],
    found: Recognized,
    now: Timestamp,
) -> Result<Registered, sqlx::Error> {
    let changes = changes(tx, spec, known, &found).await?;
    let known = match found {
        Recognized::As(at) => known.get(at),
        Recognized::New | Recognized::Ambiguous(_) => None,
    };
    let id = match known {
        Some(row) => row.id,
        None => {
            let id = tx.new_numbers(1).await?;
            let named = connection_row(tx, &spec.imodel_id, spec.connection.as_str()).await?;
            sql::query(
                "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES \
                 ($1, $2, $3, $4, $5)",
            )
            .bind(id)
            .bind(&spec.name)
            .bind(&spec.imodel_id)
            .bind(&spec.storage_folder)
            .bind(named)
            .execute(tx)
            .await?;
            id
        }
    };
    let changes_imodel = |change: &WatchChange| matches!(change, WatchChange::Imodel { .. });
    let changes_folder = |change: &WatchChange| matches!(change, WatchChange::StorageFolder { .. });
    if changes.iter().any(changes_imodel) {
        keep_former(tx, id, now).await?;
        forget_cloud_side(tx, id).await?;
    }
    // Who has the claim on the storage folder of before does not matter any more.
    sql::query(
        "UPDATE watches SET other_ledger = NULL, other_host = NULL, takes_over = NULL, \
         rival_host = NULL WHERE id = $1 AND (imodel_id <> $2 OR storage_folder <> $3)",
    )
    .bind(id)
    .bind(&spec.imodel_id)
    .bind(&spec.storage_folder)
    .execute(&mut *tx)
    .await?;
    sql::query(
        "UPDATE watches SET configured = 1, imodel_id = $2, storage_folder = $3, settings = $6, \
         path = $4, share = CASE WHEN path = $4 THEN share ELSE NULL END, \
         imodel_wait = CASE WHEN $5 IS NULL THEN NULL ELSE COALESCE(imodel_wait, $5) END, \
         imodel_hint = CASE WHEN $5 IS NULL THEN NULL ELSE imodel_hint END WHERE id = $1",
    )
    .bind(id)
    .bind(&spec.imodel_id)
    .bind(&spec.storage_folder)
    .bind(spec.path.as_os_str().as_bytes())
    .bind(&spec.imodel_wait)
    .bind(&spec.settings)
    .execute(tx)
    .await?;
    set_connections_of_watch(tx, id, &spec.imodel_id, &spec.connection, now).await?;
    drop_former(tx, id, &spec.imodel_id).await?;
    set_limits(tx, id, spec.bulk_change_limits).await?;
    set_policy(tx, id, spec.withdrawal).await?;
    let mut bulk_change = None;
    // The storage files of a watch that follows another one move with those of that watch.
    if changes.iter().any(changes_folder) && spec.follows.is_none() {
        relocate_all(tx, id, now).await?;
        bulk_change = guard(tx, id, Arrived::NONE, now).await?;
    }
    Ok(Registered {
        id: WatchId(id),
        changes,
        bulk_change,
    })
}

async fn set_policy(
    tx: &mut Tx,
    watch_id: i64,
    policy: WithdrawalPolicy,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE watches SET on_delete = $2, delete_after = $3, deletion_limit = $4 WHERE id = $1",
    )
    .bind(watch_id)
    .bind(policy.on_delete)
    .bind(i64::try_from(policy.after.as_millis()).unwrap_or(i64::MAX / 4))
    .bind(count_column(policy.limit))
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
