//! The watches of the configuration, by name, and how their roots were found.

use std::time::Duration;

use jiff::Timestamp;

use super::bulk_change::{BulkChangeLimits, set_limits};
use super::scan_digests::forget_listings;
use super::{Error, Ledger, OnDelete, RootState, Tx, WatchId, count_column, millis, new_id};
use crate::ids::ImodelId;

/// A watch as the configuration has it.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// Its name, which identifies its files.
    pub name: String,
    /// The iModel that its files go into.
    pub imodel_id: ImodelId,
    /// The folder in storage, as segments joined by `/`; empty for the root folder.
    pub storage_folder: String,
    /// The display name of the connection of its files in the iModel.
    pub connection: String,
    /// How many files may change or arrive at once.
    pub bulk_change_limits: BulkChangeLimits,
    /// What happens to files that are gone.
    pub withdrawal: WithdrawalPolicy,
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

/// The root in which files of a watch were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootIdentity {
    /// It is another one than before, but no known file is missing in it; or there was none before.
    Complete,
    /// It is another one than before, and known files are missing in it.
    Incomplete,
}

impl Ledger {
    /// Makes the ledger know just these watches, and returns their ids in the same order.
    ///
    /// When the iModel or the storage folder of a known watch has changed, all that is known of its files in the
    /// cloud belongs to the old place: it is forgotten, and every file of the watch is new to the next scan. The
    /// second value is the number of those files. Watches that are not named any more keep their files, but
    /// none of their jobs is claimed until they are named again.
    pub async fn register_watches(
        &self,
        specs: &[WatchSpec],
        now: Timestamp,
    ) -> Result<Vec<(WatchId, u64)>, Error> {
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
                let mut registered = Vec::with_capacity(specs.len());
                for spec in specs {
                    registered.push(register(tx, spec, now).await?);
                }
                Ok(registered)
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
    pub async fn record_root_identity(
        &self,
        watch: WatchId,
        identity: &str,
        found: RootIdentity,
    ) -> Result<(), Error> {
        self.db
            .write("record the identity of a root", async |tx| {
                sqlx::query("UPDATE watches SET root_identity = $2, root_replaced = MAX(root_replaced, $3) WHERE id = $1")
                    .bind(watch.0)
                    .bind(identity)
                    .bind(i64::from(found == RootIdentity::Incomplete))
                    .execute(&mut **tx)
                    .await
            })
            .await?;
        Ok(())
    }
}

async fn register(
    tx: &mut Tx,
    spec: &WatchSpec,
    now: Timestamp,
) -> Result<(WatchId, u64), sqlx::Error> {
    let connection_id = connection_row(tx, spec, now).await?;
    let known: Option<(i64, String, String)> =
        sqlx::query_as("SELECT id, imodel_id, storage_folder FROM watches WHERE name = $1")
            .bind(&spec.name)
            .fetch_optional(&mut **tx)
            .await?;
    let Some((id, imodel_id, storage_folder)) = known else {
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
        set_limits(tx, id, spec.bulk_change_limits).await?;
        set_policy(tx, id, spec.withdrawal).await?;
        return Ok((WatchId(id), 0));
    };
    sqlx::query(
        "UPDATE watches SET configured = 1, imodel_id = $2, storage_folder = $3, \
         connection_id = $4 WHERE id = $1",
    )
    .bind(id)
    .bind(&spec.imodel_id)
    .bind(&spec.storage_folder)
    .bind(connection_id)
    .execute(&mut **tx)
    .await?;
    set_limits(tx, id, spec.bulk_change_limits).await?;
    set_policy(tx, id, spec.withdrawal).await?;
    let moved = *imodel_id != *spec.imodel_id || storage_folder != spec.storage_folder;
    let forgotten = if moved {
        forget_cloud_side(tx, id).await?
    } else {
        0
    };
    Ok((WatchId(id), forgotten))
}

async fn set_policy(
    tx: &mut Tx,
    watch_id: i64,
    policy: WithdrawalPolicy,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE watches SET on_delete = $2, delete_after = $3, deletion_limit = $4 WHERE id = $1",
    )
    .bind(watch_id)
    .bind(policy.on_delete)
    .bind(i64::try_from(policy.after.as_millis()).unwrap_or(i64::MAX / 4))
    .bind(count_column(policy.limit))
    .execute(&mut **tx)
    .await?;
    Ok(())
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

async fn forget_cloud_side(tx: &mut Tx, watch_id: i64) -> Result<u64, sqlx::Error> {
    // The next scan hands every file over as new.
    let forgotten = sqlx::query(
        "UPDATE files SET storage_file_id = NULL, stored_version = NULL, stored_digest = NULL, \
         stored_size = NULL, stored_at = NULL, stored_modified = NULL, \
         stored_modified_by = NULL, storage_folder_id = NULL, processed = 0, unverified = 0, \
         send_again = 0, relocation = NULL, withdrawal = NULL, withdrawal_reason = NULL, \
         withdrawal_hint = NULL, withdrawal_due = 0, connection_id = NULL, source_file_id = NULL, mapped_connector = NULL, \
         outcome = NULL, outcome_at = NULL, known = 0, size = 0, adopted = 0 WHERE watch_id = $1",
    )
    .bind(watch_id)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    forget_listings(tx, watch_id).await?;
    sqlx::query("DELETE FROM jobs WHERE file_id IN (SELECT id FROM files WHERE watch_id = $1)")
        .bind(watch_id)
        .execute(&mut **tx)
        .await?;
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn jobs_of_a_watch_that_is_not_configured_rest_until_it_is_again() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        f.ledger
            .register_watches(&[spec("south")], at(0))
            .await
            .unwrap();
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
    async fn a_watch_that_moves_to_another_imodel_begins_anew() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        let elsewhere = WatchSpec {
            imodel_id: "other".into(),
            ..spec("north")
        };
        let registered = f
            .ledger
            .register_watches(&[elsewhere], at(2))
            .await
            .unwrap();
        assert_eq!(registered, vec![(f.watch, 1)]);
        let file = f.file("a.dgn").await;
        assert_eq!((file.job, file.storage_file_id), (None, None));
        assert_eq!(f.hand_over("a.dgn", 1, 3).await, 1);
    }
}
