//! The watches that the ledger knows, by name, and holds on them.

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};
use tracing::error;

use super::scan_digests::forget_listings;
use super::{During as _, Error, Ledger, RootState, bytes_column, millis, new_id};

/// A hold without end: the watch is not configured any more.
pub(super) const RETIRED: Timestamp = Timestamp::MAX;

/// A hold until a person ends it; the watch is configured, so its jobs count as open.
const BRAKED: Timestamp = Timestamp::constant(253_402_200_000, 0);

/// A hold until the person who paused the watch ends it.
const PAUSED: Timestamp = Timestamp::constant(253_402_203_600, 0);

/// The ledger's id of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub(super) i64);

#[cfg(test)]
impl WatchId {
    /// Any id, for tests that have no ledger.
    pub(crate) fn for_test(id: i64) -> Self {
        Self(id)
    }
}

/// The ledger's id of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(test, derive(Default))]
pub struct FileId(pub(super) i64);

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for FileId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A watch as the configuration has it.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    /// Its name, which identifies its files.
    pub name: String,
    /// The iModel that its files go into.
    pub imodel_id: String,
    /// The folder in storage, as segments joined by `/`; empty for the root folder.
    pub storage_folder: String,
    /// The display name of the connection that holds its files in the iModel.
    pub connection: String,
    /// So many files that storage knows may be due at once.
    pub brake: u64,
}

impl Ledger {
    /// Makes the ledger know just these watches, and returns their ids in the same order.
    ///
    /// When the iModel or the storage folder of a known watch has changed, all that is known of its files in the
    /// cloud belongs to the old place: it is forgotten, and every file of the watch is new to the next scan. The
    /// second value tells how many files that concerns. Watches that are not named any more keep their files, but
    /// none of their jobs is claimed until they are named again.
    pub async fn register_watches(
        &self,
        specs: &[WatchSpec],
        now: Timestamp,
    ) -> Result<Vec<(WatchId, u64)>, Error> {
        const ACTION: &str = "register the watches";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        sqlx::query("UPDATE watches SET held_until = $1, held_since = 0, held_reason = 'not in the configuration'")
            .bind(millis(RETIRED))
            .execute(&mut *tx)
            .await
            .during(ACTION)?;
        let mut registered = Vec::with_capacity(specs.len());
        for spec in specs {
            registered.push(register(&mut tx, spec, now).await.during(ACTION)?);
        }
        self.commit(tx, ACTION).await?;
        Ok(registered)
    }

    /// Keeps all jobs of a watch from being claimed until `until`, for a cause that concerns the whole watch.
    /// A longer hold stays as it is.
    pub async fn hold_watch(
        &self,
        watch: WatchId,
        until: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE watches SET held_until = $2, held_reason = $3, held_since = $4 \
             WHERE id = $1 AND (held_until < $2 OR held_since > $4 + 5000)",
        )
        .bind(watch.0)
        .bind(millis(until))
        .bind(reason)
        .bind(millis(now))
        .execute(&self.pool)
        .await
        .during("hold a watch")?;
        Ok(())
    }

    /// Ends a hold that [`Ledger::hold_watch`] began for this reason, unless the watch is held for another one by now.
    pub async fn end_hold(&self, watch: WatchId, reason: &str) -> Result<(), Error> {
        sqlx::query(
            "UPDATE watches SET held_until = 0, held_since = 0, held_reason = NULL WHERE id = $1 AND held_reason = $2",
        )
        .bind(watch.0)
        .bind(reason)
        .execute(&self.pool)
        .await
        .during("end the hold of a watch")?;
        Ok(())
    }

    /// Holds watches until [`Ledger::resume_watches`]: none of their jobs is claimed, over restarts too. What is in hand
    /// goes on to its end. Returns how many were not paused before; unknown names count for nothing.
    pub async fn pause_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        const ACTION: &str = "pause watches";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let mut paused = 0;
        for name in names {
            paused += sqlx::query(
                "UPDATE watches SET paused_at = $2, held_until = $3, held_since = 0, held_reason = $4 \
                 WHERE name = $1 AND paused_at IS NULL AND held_until < $5",
            )
            .bind(name)
            .bind(millis(now))
            .bind(millis(PAUSED))
            .bind(PAUSE_REASON)
            .bind(millis(RETIRED))
            .execute(&mut *tx)
            .await
            .during(ACTION)?
            .rows_affected();
        }
        self.commit(tx, ACTION).await?;
        Ok(paused)
    }

    /// Lets watches go on, whatever held them: a pause, the brake (so many files are agreed to then), or a pause
    /// after refused credentials. Returns how many were held.
    pub async fn resume_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        const ACTION: &str = "let watches go on";
        let mut tx = self.pool.begin().await.during(ACTION)?;
        let mut resumed = 0;
        for name in names {
            resumed += sqlx::query(
                "UPDATE watches SET paused_at = NULL, agreed = CASE WHEN braked > 0 THEN braked ELSE agreed END, \
                 braked = 0, held_until = 0, held_since = 0, held_reason = NULL \
                 WHERE name = $1 AND held_until > $2 AND held_until < $3",
            )
            .bind(name)
            .bind(millis(now))
            .bind(millis(RETIRED))
            .execute(&mut *tx)
            .await
            .during(ACTION)?
            .rows_affected();
        }
        self.commit(tx, ACTION).await?;
        Ok(resumed)
    }

    /// Records how the root of a watch was found, for status. `scanned` is the end of a complete scan, if there was one.
    pub async fn record_root(
        &self,
        watch: WatchId,
        state: RootState,
        note: Option<&str>,
        scanned: Option<Timestamp>,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE watches SET root_state = $2, root_note = $3, scanned_at = COALESCE($4, scanned_at) WHERE id = $1",
        )
        .bind(watch.0)
        .bind(state.as_str())
        .bind(note)
        .bind(scanned.map(millis))
        .execute(&self.pool)
        .await
        .during("record the state of a root")?;
        Ok(())
    }
}

impl Ledger {
    /// The identity of the root in which files of a watch were found last, in the watch room's words.
    pub async fn root_identity(&self, watch: WatchId) -> Result<Option<String>, Error> {
        sqlx::query_scalar("SELECT root_identity FROM watches WHERE id = $1")
            .bind(watch.0)
            .fetch_one(&self.reads)
            .await
            .during("look up the identity of a root")
    }

    /// Records the identity of a root in which files were found.
    pub async fn record_root_identity(&self, watch: WatchId, identity: &str) -> Result<(), Error> {
        sqlx::query("UPDATE watches SET root_identity = $2 WHERE id = $1")
            .bind(watch.0)
            .bind(identity)
            .execute(&self.pool)
            .await
            .during("record the identity of a root")?;
        Ok(())
    }
}

async fn register(
    tx: &mut Transaction<'_, Sqlite>,
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
            "INSERT INTO watches (id, name, imodel_id, storage_folder, connection_id) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id)
        .bind(&spec.name)
        .bind(&spec.imodel_id)
        .bind(&spec.storage_folder)
        .bind(connection_id)
        .execute(&mut **tx)
        .await?;
        set_brake(tx, id, spec.brake).await?;
        return Ok((WatchId(id), 0));
    };
    sqlx::query(
        "UPDATE watches SET imodel_id = $2, storage_folder = $3, connection_id = $4 WHERE id = $1",
    )
    .bind(id)
    .bind(&spec.imodel_id)
    .bind(&spec.storage_folder)
    .bind(connection_id)
    .execute(&mut **tx)
    .await?;
    set_brake(tx, id, spec.brake).await?;
    let moved = imodel_id != spec.imodel_id || storage_folder != spec.storage_folder;
    let forgotten = if moved {
        forget_cloud_side(tx, id).await?
    } else {
        0
    };
    Ok((WatchId(id), forgotten))
}

/// Sets the limit of a watch, and lets it go on unless it was held for more files than that.
async fn set_brake(
    tx: &mut Transaction<'_, Sqlite>,
    id: i64,
    limit: u64,
) -> Result<(), sqlx::Error> {
    let limit = bytes_column(limit);
    sqlx::query(
        "UPDATE watches SET brake = $2, braked = CASE WHEN braked > $2 AND braked > agreed THEN braked ELSE 0 END \
         WHERE id = $1",
    )
    .bind(id)
    .bind(limit)
    .execute(&mut **tx)
    .await?;
    let (braked, paused_at): (i64, Option<i64>) =
        sqlx::query_as("SELECT braked, paused_at FROM watches WHERE id = $1")
            .bind(id)
            .fetch_one(&mut **tx)
            .await?;
    let (until, reason) = match u64::try_from(braked) {
        _ if paused_at.is_some() => (millis(PAUSED), Some(PAUSE_REASON.to_owned())),
        Ok(files) if files > 0 => (millis(BRAKED), Some(brake_reason(files))),
        _ => (0, None),
    };
    sqlx::query(
        "UPDATE watches SET held_until = $2, held_since = 0, held_reason = $3 WHERE id = $1",
    )
    .bind(id)
    .bind(until)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A watch is held from now on, because so many files are due at once that storage knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkChange {
    files: u64,
}

impl BulkChange {
    /// Tells a person, who has to decide.
    pub fn tell(self, watch: &str) {
        let files = self.files;
        error!(
            watch,
            files,
            hint = "look at some of them; if that is right, let it go on with `itwin-syncd resume`",
            "so many files that storage has already are to be uploaded anew at once; the watch is held"
        );
    }
}

/// Holds a watch when more of its files than its limit are due that storage knows.
pub(super) async fn brake(
    tx: &mut Transaction<'_, Sqlite>,
    id: i64,
) -> Result<Option<BulkChange>, sqlx::Error> {
    let (limit, agreed, braked, due): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT w.brake, w.agreed, w.braked, (SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id \
            WHERE f.watch_id = w.id AND j.state = 'due' AND f.stored_version IS NOT NULL) \
         FROM watches w WHERE w.id = $1",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?;
    if due <= limit && agreed > 0 {
        // What was agreed to has been done.
        sqlx::query("UPDATE watches SET agreed = 0 WHERE id = $1")
            .bind(id)
            .execute(&mut **tx)
            .await?;
    }
    if due <= limit.max(agreed) || braked >= due {
        return Ok(None);
    }
    let files = u64::try_from(due).unwrap_or(0);
    sqlx::query(
        "UPDATE watches SET braked = $2, held_until = CASE WHEN paused_at IS NULL THEN $3 ELSE held_until END, \
         held_since = 0, held_reason = CASE WHEN paused_at IS NULL THEN $4 ELSE held_reason END WHERE id = $1",
    )
        .bind(id)
        .bind(due)
        .bind(millis(BRAKED))
        .bind(brake_reason(files))
        .execute(&mut **tx)
        .await?;
    Ok((braked == 0).then_some(BulkChange { files }))
}

/// What status says of a paused watch.
const PAUSE_REASON: &str = "a person paused it; `itwin-syncd resume` lets it go on";

fn brake_reason(files: u64) -> String {
    format!(
        "{files} files that storage has already are to be uploaded anew at once; if that is right, let it go on with \
         `itwin-syncd resume`, or write files = {files} in the table [brake] and start again"
    )
}

async fn forget_cloud_side(
    tx: &mut Transaction<'_, Sqlite>,
    watch_id: i64,
) -> Result<u64, sqlx::Error> {
    // A size below zero equals no file, so the next scan hands every file over as new.
    let forgotten = sqlx::query(
        "UPDATE files SET storage_file_id = NULL, stored_version = NULL, stored_digest = NULL, stored_size = NULL, \
         stored_at = NULL, stored_modified = NULL, stored_modified_by = NULL, storage_folder_id = NULL, processed = 0, \
         unverified = 0, send_again = 0, connection_id = NULL, source_file_id = NULL, mapped_connector = NULL, outcome = NULL, \
         outcome_at = NULL, size = -1 WHERE watch_id = $1",
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

async fn connection_row(
    tx: &mut Transaction<'_, Sqlite>,
    spec: &WatchSpec,
    now: Timestamp,
) -> Result<i64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO connections (id, imodel_id, name) VALUES ($1, $2, $3) ON CONFLICT (imodel_id, name) DO NOTHING",
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
