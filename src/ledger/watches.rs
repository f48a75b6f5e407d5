//! The watches of the configuration, and how their roots were found.
//!
//! What is known of a watch stays when its name, its folder or its storage folder changes: `watch_identity` decides
//! which known watch it is. When its iModel changes, all that is known of its files on the platform is forgotten, except
//! for the source files that stay in the old iModel.

use std::collections::HashSet;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::bulk_change::{BulkChangeLimits, guard, set_limits};
use super::former_source_files::{count_mapped, drop_former, former_imodels, keep_former};
use super::relocations::{count_stored, relocate_all};
use super::scan_digests::forget_listings;
use super::watch_changes::WatchChange;
use super::watch_identity::{Recognized, WatchIdentity, recognize};
use super::{BulkChange, Error, FormerImodel, Ledger, RootState, Tx, WatchId, millis, new_id};
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
    /// The folder in storage, as segments joined by `/`; empty for the root folder.
    pub storage_folder: String,
    /// The display name of the connection of its files in the iModel.
    pub connection: String,
    /// How many files may change or arrive at once.
    pub bulk_change_limits: BulkChangeLimits,
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

/// A watch of the ledger.
#[derive(sqlx::FromRow)]
struct KnownRow {
    id: i64,
    name: String,
    path: Option<Vec<u8>>,
    imodel_id: ImodelId,
    storage_folder: String,
    configured: bool,
    has_files: bool,
}

impl Ledger {
    /// Makes the ledger know just these watches, and returns them in the same order.
    ///
    /// A known watch keeps its files under another name, with another folder or another storage folder. When its iModel
    /// has changed, all that is known of its files on the platform is forgotten, and every file is new to the next scan.
    /// Watches that are not configured any more keep their files, but none of their jobs is claimed until they are
    /// configured again.
    pub async fn register_watches(
        &self,
        specs: &[WatchSpec],
        now: Timestamp,
    ) -> Result<Vec<Registered>, Error> {
        self.db
            .write_durably("register the watches", async |tx| {
                sqlx::query(
                    "UPDATE watches SET configured = 0, backoff_until = 0, backoff_since = 0, \
                     backoff_reason = NULL",
                )
                .execute(&mut **tx)
                .await?;
                // The credentials may have been corrected since.
                sqlx::query("UPDATE jobs SET due_at = $1, pause = 0 WHERE kind = 'credentials' AND due_at > $1")
                    .bind(millis(now))
                    .execute(&mut **tx)
                    .await?;
                let known = known_watches(tx).await?;
                let found = found(&known, specs);
                rename(tx, &known, specs, &found).await?;
                let mut registered = Vec::with_capacity(specs.len());
                for (spec, found) in specs.iter().zip(found) {
                    registered.push(register(tx, spec, &known, found, now).await?);
                }
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
                    if one.configured && one.has_files && !found.contains(&Recognized::As(at)) {
                        let change = WatchChange::Removed {
                            imodel_id: one.imodel_id.clone(),
                            files: count_stored(tx, one.id).await?,
                        };
                        removed.push((one.name.clone(), change));
                    }
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

    /// Records how the root of a watch was found, for status. `scanned` is the end of a complete scan, if there was
    /// one.
    pub async fn record_root(
        &self,
        watch: WatchId,
        state: RootState,
        note: Option<&str>,
        scanned: Option<Timestamp>,
    ) -> Result<(), Error> {
        self.db
            .write("record the state of a root", async |tx| {
                sqlx::query(
                    "UPDATE watches SET root_state = $2, root_note = $3, \
                     scanned_at = COALESCE($4, scanned_at) WHERE id = $1",
                )
                .bind(watch.0)
                .bind(state)
                .bind(note)
                .bind(scanned.map(millis))
                .execute(&mut **tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// The identity of the root in which files of a watch were found last, in the watch's notation.
    pub async fn root_identity(&self, watch: WatchId) -> Result<Option<String>, Error> {
        self.db
            .read("look up the identity of a root", async |db| {
                sqlx::query_scalar("SELECT root_identity FROM watches WHERE id = $1")
                    .bind(watch.0)
                    .fetch_one(db)
                    .await
            })
            .await
    }

    /// Records the identity of a root in which files were found.
    pub async fn record_root_identity(&self, watch: WatchId, identity: &str) -> Result<(), Error> {
        self.db
            .write("record the identity of a root", async |tx| {
                sqlx::query("UPDATE watches SET root_identity = $2 WHERE id = $1")
                    .bind(watch.0)
                    .bind(identity)
                    .execute(&mut **tx)
                    .await
            })
            .await?;
        Ok(())
    }
}

async fn known_watches(tx: &mut Tx) -> Result<Vec<KnownRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, path, imodel_id, storage_folder, configured <> 0 AS configured, \
         EXISTS (SELECT 1 FROM files WHERE watch_id = watches.id) AS has_files FROM watches \
         ORDER BY name",
    )
    .fetch_all(&mut **tx)
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

/// Gives known watches the names that the configuration has for them. A watch that is not configured any more, and whose
/// name now belongs to another one, gets a name that no configuration can have.
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
        sqlx::query("UPDATE watches SET name = 'watch (' || id || ')' WHERE id = $1")
            .bind(id)
            .execute(&mut **tx)
            .await?;
    }
    for (id, name) in &renamed {
        sqlx::query("UPDATE watches SET name = $2 WHERE id = $1")
            .bind(id)
            .bind(name)
            .execute(&mut **tx)
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
                files,
            });
        }
    }
    if row.imodel_id != spec.imodel_id {
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
    let connection_id = connection_row(tx, spec, now).await?;
    let changes = changes(tx, spec, known, &found).await?;
    let known = match found {
        Recognized::As(at) => known.get(at),
        Recognized::New | Recognized::Ambiguous(_) => None,
    };
    let id = match known {
        Some(row) => row.id,
        None => {
            let id = new_id(now);
            sqlx::query(
                "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES \
                 ($1, $2, $3, $4, $5)",
            )
            .bind(id)
            .bind(&spec.name)
            .bind(&spec.imodel_id)
            .bind(&spec.storage_folder)
            .bind(connection_id)
            .execute(&mut **tx)
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
    sqlx::query(
        "UPDATE watches SET configured = 1, imodel_id = $2, storage_folder = $3, \
         connection_id = $4, path = $5 WHERE id = $1",
    )
    .bind(id)
    .bind(&spec.imodel_id)
    .bind(&spec.storage_folder)
    .bind(connection_id)
    .bind(spec.path.as_os_str().as_bytes())
    .execute(&mut **tx)
    .await?;
    drop_former(tx, id, &spec.imodel_id).await?;
    set_limits(tx, id, spec.bulk_change_limits).await?;
    let mut bulk_change = None;
    if changes.iter().any(changes_folder) {
        relocate_all(tx, id, now).await?;
        bulk_change = guard(tx, id, 0, now).await?;
    }
    Ok(Registered {
        id: WatchId(id),
        changes,
        bulk_change,
    })
}

async fn connection_row(tx: &mut Tx, spec: &WatchSpec, now: Timestamp) -> Result<i64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO connections (id, imodel_id, name) VALUES ($1, $2, $3) ON CONFLICT \
         (imodel_id, name) DO NOTHING",
    )
    .bind(new_id(now))
    .bind(&spec.imodel_id)
    .bind(&spec.connection)
    .execute(&mut **tx)
    .await?;
    sqlx::query_scalar("SELECT id FROM connections WHERE imodel_id = $1 AND name = $2")
        .bind(&spec.imodel_id)
        .bind(&spec.connection)
        .fetch_one(&mut **tx)
        .await
}

async fn forget_cloud_side(tx: &mut Tx, watch_id: i64) -> Result<(), sqlx::Error> {
    // The next scan hands every file over as new.
    sqlx::query(
        "UPDATE files SET storage_file_id = NULL, stored_version = NULL, stored_digest = NULL, \
         stored_size = NULL, stored_at = NULL, stored_modified = NULL, \
         stored_modified_by = NULL, storage_folder_id = NULL, processed = 0, unverified = 0, \
         send_again = 0, relocation = NULL, connection_id = NULL, source_file_id = NULL, mapped_connector = NULL, \
         outcome = NULL, outcome_at = NULL, known = 0, size = 0, adopted = 0 WHERE watch_id = $1",
    )
    .bind(watch_id)
    .execute(&mut **tx)
    .await?;
    forget_listings(tx, watch_id).await?;
    sqlx::query("DELETE FROM jobs WHERE file_id IN (SELECT id FROM files WHERE watch_id = $1)")
        .bind(watch_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixture::*;
    use super::super::*;
    use crate::ids::ImodelId;

    #[tokio::test]
    async fn jobs_of_a_watch_that_is_not_configured_rest_until_it_is_again() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let south = WatchSpec {
            storage_folder: "South".to_owned(),
            ..spec("south")
        };
        f.register(&south, 0).await;
        assert!(f.claim(1).await.is_none());
        assert_eq!(f.ledger.summary(at(1)).await.unwrap(), Summary::default());
        f.ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap();
        assert!(f.claim(1).await.is_some());
    }

    #[tokio::test]
    async fn a_start_tries_files_again_that_failed_because_of_credentials() {
        let f = Fixture::new().await;
        for (path, kind) in [
            ("a.dgn", FailureKind::Credentials),
            ("b.dgn", FailureKind::Transient),
        ] {
            f.hand_over(path, 1, 0).await;
            let job = f.claim(0).await.unwrap();
            let failed = Refusal {
                kind,
                ..refusal(Again::FailedUntil(at(900)))
            };
            f.ledger.put_off(&job, &failed, at(1)).await.unwrap();
        }
        assert!(f.claim(2).await.is_none());
        f.ledger
            .register_watches(&[spec("north")], at(2))
            .await
            .unwrap();
        assert_eq!(f.claim(2).await.unwrap().path, Path::new("a.dgn"));
        assert!(f.claim(2).await.is_none());
    }

    #[tokio::test]
    async fn names_are_swapped_and_passed_on_with_their_files() {
        let f = Fixture::new().await;
        let in_folder = |name: &str, folder: &str| WatchSpec {
            path: format!("/srv/{folder}").into(),
            storage_folder: folder.to_owned(),
            ..spec(name)
        };
        let register = async |specs: &[WatchSpec]| {
            let registered = f.ledger.register_watches(specs, at(1)).await.unwrap();
            registered.iter().map(|one| one.id).collect::<Vec<_>>()
        };
        let first = register(&[in_folder("a", "1"), in_folder("b", "2")]).await;
        for watch in &first {
            let files = [ready("x.dgn", 1)];
            f.ledger.hand_over(*watch, &files, at(1)).await.unwrap();
        }
        let swapped = register(&[in_folder("b", "1"), in_folder("a", "2")]).await;
        assert_eq!(swapped, first);
        let passed_on = register(&[in_folder("a", "1"), in_folder("c", "2")]).await;
        assert_eq!(passed_on, first);
        // The other one is not configured any more, but keeps its files.
        let one = register(&[in_folder("c", "1")]).await;
        assert_eq!(one, first[..1]);
        let names = f.ledger.watch_reports(at(1)).await.unwrap();
        let names: Vec<&str> = names.iter().map(|watch| watch.name.as_str()).collect();
        assert_eq!(names, ["c", "c (former)", "north"]);
        let back = register(&[in_folder("c", "1"), in_folder("d", "2")]).await;
        assert_eq!(back, first);
    }

    #[tokio::test]
    async fn source_files_in_a_former_imodel_stay_known_until_the_watch_goes_back() {
        let f = Fixture::new().await;
        f.synchronized("a.dgn").await;
        f.ledger
            .set_connection(f.connection().await.id, Some("platform"))
            .await
            .unwrap();
        let elsewhere = WatchSpec {
            imodel_id: "other".into(),
            ..spec("north")
        };
        let specs = [elsewhere.clone()];
        let planned = f.ledger.planned_watches(&specs).await.unwrap();
        let change = WatchChange::Imodel {
            from: "imodel".into(),
            mapped: 1,
        };
        assert_eq!(planned.watches[0].changes, [change]);
        f.register(&elsewhere, 4).await;
        let before = ImodelId::from("imodel");
        let former = f.ledger.former_source_files("north", &before);
        let former = former.await.unwrap();
        assert_eq!(former.len(), 1);
        assert_eq!(former[0].path, Path::new("a.dgn"));
        assert_eq!(former[0].source_file_id, "source a.dgn");
        assert_eq!(former[0].connection, "platform");
        let reports = f.ledger.watch_reports(at(5)).await.unwrap();
        assert_eq!(reports[0].former_imodels[0].files, 1);
        f.register(&spec("north"), 6).await;
        let reports = f.ledger.watch_reports(at(7)).await.unwrap();
        assert_eq!(reports[0].former_imodels, []);
    }

    #[tokio::test]
    async fn a_watch_that_moves_to_another_imodel_begins_anew() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let elsewhere = WatchSpec {
            imodel_id: "other".into(),
            ..spec("north")
        };
        let registered = f.register(&elsewhere, 2).await;
        let change = WatchChange::Imodel {
            from: "imodel".into(),
            mapped: 0,
        };
        assert_eq!(registered.id, f.watch);
        assert_eq!(registered.changes, [change]);
        let file = f.file("a.dgn").await;
        assert_eq!((file.job, file.storage_file_id), (None, None));
        assert_eq!(f.hand_over("a.dgn", 1, 3).await, 1);
    }
}
