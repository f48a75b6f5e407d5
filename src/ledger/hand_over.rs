//! Handing over finished files: each gets one open job for its newest version.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jiff::Timestamp;

use super::bulk_change::{Arrived, guard};
use super::history::{Step, note};
use super::known_files::KnownRow;
use super::new_files::{NEW_FILES, NewFiles, insert_new_files};
use super::other_views::COARSEST;
use super::row::split;
use super::scan_digests::forget_listing;
use super::sets::link_to_set;
use super::state::on_new_version;
use super::target_connections::{add_connections, set_target, target_connection};
use super::withdrawals::end_withdrawal;
use super::{
    BulkChange, Difference, Error, Fingerprint, JobState, Known, Ledger, Tx, WatchId, count_column,
    millis, sql,
};
use crate::connector_type::ConnectorType;

/// A finished file, ready to become a job.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Path relative to the root.
    pub path: PathBuf,
    /// As seen unchanged for the settle time.
    pub fingerprint: Fingerprint,
    /// The connector type, or None to store the file only.
    pub connector: Option<ConnectorType>,
    /// The stem of the set that it belongs to, if it belongs to one.
    pub set_stem: Option<Vec<u8>>,
}

/// What came of handing files over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Files that were new or changed.
    pub changed: usize,
    /// A new file may be a known one under a new name, which no scan has found to be missing yet.
    pub suspects_rename: bool,
    /// The bulk change guard suspended the watch.
    pub bulk_change: Option<BulkChange>,
}

impl Ledger {
    /// Hands finished files over: each has exactly one open job for its newest version afterwards.
    ///
    /// A version that was handed over before changes nothing, so handing over twice is harmless. When too many files
    /// change or arrive at once, the watch is suspended: a folder that was lost and is back, a clock that jumped, or a
    /// copied tree must not upload everything without the operator's approval.
    pub async fn hand_over(
        &self,
        watch: WatchId,
        files: &[Ready],
        now: Timestamp,
    ) -> Result<HandedOver, Error> {
        self.db
            .write("take over finished files", async |tx| {
                let mut changes = Changes::default();
                let connectors = files.iter().filter_map(|file| file.connector.as_ref());
                add_connections(tx, watch.0, &connectors.collect(), now).await?;
                let some = files.chunks_exact(NEW_FILES);
                let rest = some.remainder();
                for files in some {
                    let new = insert_new_files(tx, watch, files, now).await?;
                    changes.add_new(&new, files);
                    if new.files < NEW_FILES {
                        hand_over_each(tx, watch, files, &mut changes, now).await?;
                    }
                }
                hand_over_each(tx, watch, rest, &mut changes, now).await?;
                for dir in &changes.folders {
                    forget_listing(tx, watch.0, dir).await?;
                }
                let Changes {
                    new,
                    known,
                    suspects_rename,
                    ..
                } = changes;
                let changed = new + known;
                let bulk_change = match changed {
                    0 => None,
                    _ => {
                        let arrived = Arrived {
                            new: count_column(new as u64),
                            known: known > 0,
                        };
                        guard(tx, watch.0, arrived, now).await?
                    }
                };
                Ok(HandedOver {
                    changed,
                    suspects_rename,
                    bulk_change,
                })
            })
            .await
    }
}

/// What a hand-over changes.
#[derive(Default)]
struct Changes<'f> {
    /// New files.
    new: usize,
    /// Known files that changed.
    known: usize,
    suspects_rename: bool,
    /// Where the files are.
    folders: BTreeSet<&'f [u8]>,
}

impl<'f> Changes<'f> {
    fn add_new(&mut self, new: &NewFiles, files: &'f [Ready]) {
        self.new += new.files;
        self.suspects_rename |= new.suspect_rename;
        if new.files > 0 {
            self.folders
                .extend(files.iter().map(|file| split(&file.path).0));
        }
    }
}

/// Hands files over one by one.
async fn hand_over_each<'f>(
    tx: &mut Tx,
    watch: WatchId,
    files: &'f [Ready],
    changes: &mut Changes<'f>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    for file in files {
        match hand_over_one(tx, watch, file, now).await? {
            Taken::Unchanged => continue,
            Taken::Changed => changes.known += 1,
            Taken::New => changes.new += 1,
        }
        changes.suspects_rename |= has_origin(tx, watch, file).await?;
        changes.folders.insert(split(&file.path).0);
    }
    Ok(())
}

/// What a file is for the ledger.
enum Taken {
    Unchanged,
    Changed,
    New,
}

sql::row! {
    struct HandedOverRow {
        id: i64,
        version: i64,
        known: KnownRow = ..,
    }
}

async fn hand_over_one(
    tx: &mut Tx,
    watch: WatchId,
    file: &Ready,
    now: Timestamp,
) -> Result<Taken, sqlx::Error> {
    let (dir, name) = split(&file.path);
    let print = file.fingerprint;
    let known: Option<HandedOverRow> = sql::query_as(
        "SELECT id, version, name, known, size, mtime_ns, ctime_ns, connector, absence, set_stem \
         FROM files WHERE watch_id = $1 AND dir = $2 AND name = $3",
    )
    .bind(watch.0)
    .bind(dir)
    .bind(name)
    .fetch_optional(tx)
    .await?;
    let (id, version, taken) = match known {
        Some(row) => {
            let known = Known::from(row.known);
            if known.set_stem != file.set_stem {
                link_to_set(tx, row.id, file.set_stem.as_deref(), now).await?;
            }
            if known.is_version(print, file.connector.as_ref()) {
                return Ok(Taken::Unchanged);
            }
            let (id, version) = (row.id, row.version.saturating_add(1));
            sql::query(
                "UPDATE files SET known = 1, size = $2, mtime_ns = $3, ctime_ns = $4, \
                 connector = $5, version = $6, overwrites = 0, absence = NULL, \
                 absent_since = NULL WHERE id = $1",
            )
            .bind(id)
            .bind(count_column(print.size))
            .bind(print.mtime_ns)
            .bind(print.ctime_ns)
            .bind(&file.connector)
            .bind(version)
            .execute(tx)
            .await?;
            if known.connector != file.connector {
                set_target(tx, id).await?;
            }
            open_job(tx, id, version, now).await?;
            let is_touched = known.connector == file.connector
                && known
                    .fingerprint
                    .is_some_and(|known| known.compare(print, COARSEST) != Difference::Version);
            mark_touched(tx, id, is_touched, row.version).await?;
            if file.connector.is_none() {
                check_connection_soon(tx, id).await?;
            }
            (id, version, Taken::Changed)
        }
        None => {
            let id = tx.new_numbers(1).await?;
            sql::query(concat!(
                "INSERT INTO files (id, watch_id, dir, name, size, mtime_ns, ctime_ns, \
                 connector, version, set_stem, target_connection_id) VALUES ($1, $2, $3, $4, \
                 $5, $6, $7, $8, 1, $9, ",
                target_connection!("$2", "$8"),
                ")",
            ))
            .bind(id)
            .bind(watch.0)
            .bind(dir)
            .bind(name)
            .bind(count_column(print.size))
            .bind(print.mtime_ns)
            .bind(print.ctime_ns)
            .bind(&file.connector)
            .bind(&file.set_stem)
            .execute(tx)
            .await?;
            insert_job(tx, id, 1, now).await?;
            (id, 1, Taken::New)
        }
    };
    note(tx, id, version, Step::Seen, None, now).await?;
    Ok(taken)
}

/// Whether a file that is not in storage has the size of another one that is, and that no scan has missed.
async fn has_origin(tx: &mut Tx, watch: WatchId, file: &Ready) -> Result<bool, sqlx::Error> {
    let (dir, name) = split(&file.path);
    sql::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM files o WHERE o.watch_id = $1 AND o.stored_size = $2 \
         AND o.storage_file_id IS NOT NULL AND o.absence IS NULL) AND EXISTS (SELECT 1 \
         FROM files f WHERE f.watch_id = $1 AND f.dir = $3 AND f.name = $4 \
         AND f.storage_file_id IS NULL)",
    )
    .bind(watch)
    .bind(count_column(file.fingerprint.size))
    .bind(dir)
    .bind(name)
    .fetch_one(tx)
    .await
}

/// If the file still has a source file, the connection is checked at the next opportunity: a reference has none. Every
/// request has a value of its own, so that a check in progress, which may have read the files before, does not end it.
pub(super) async fn check_connection_soon(tx: &mut Tx, file_id: i64) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE connections SET checked_at = CASE WHEN checked_at > 0 THEN 0 \
         ELSE checked_at - 1 END WHERE id = (SELECT connection_id FROM files \
         WHERE id = $1 AND source_file_id IS NOT NULL)",
    )
    .bind(file_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives the file, which is in its folder, its one open job. The stage of an interrupted upload stays: it shows what
/// may have been sent.
pub(super) async fn open_job(
    tx: &mut Tx,
    file_id: i64,
    version: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    end_withdrawal(tx, file_id).await?;
    let state: Option<JobState> = sql::query_scalar("SELECT state FROM jobs WHERE file_id = $1")
        .bind(file_id)
        .fetch_optional(tx)
        .await?;
    let Some(state) = state else {
        return insert_job(tx, file_id, version, now).await;
    };
    if on_new_version(state) == JobState::Due {
        sql::query(
            "UPDATE jobs SET state = 'due', version = $2, enqueued_at = $3, due_at = $3, \
             pause = 0, attempts = 0, run_attempts = 0, failing_since = NULL, run_id = NULL, \
             kind = NULL, previous_reason = NULL, reason = NULL, hint = NULL, reported = NULL \
             WHERE file_id = $1",
        )
        .bind(file_id)
        .bind(version)
        .bind(millis(now))
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// Whether only times differ from those of what is in storage. `before`: the version before this one.
async fn mark_touched(
    tx: &mut Tx,
    file_id: i64,
    is_touched: bool,
    before: i64,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE jobs SET touched = CASE WHEN $2 AND (touched = 1 OR EXISTS (SELECT 1 FROM files f \
         WHERE f.id = $1 AND f.stored_version = $3)) THEN 1 ELSE 0 END WHERE file_id = $1",
    )
    .bind(file_id)
    .bind(is_touched)
    .bind(before)
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_job(
    tx: &mut Tx,
    file_id: i64,
    version: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at) SELECT id, \
         watch_id, 'due', $2, $3, $3 FROM files WHERE id = $1",
    )
    .bind(file_id)
    .bind(version)
    .bind(millis(now))
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn handing_over_what_is_known_makes_no_job() {
        let f = Fixture::new().await;
        f.stored("a.dgn").await;
        assert_eq!(f.hand_over("a.dgn", 1, 2).await, 0);
        assert_eq!(f.file("a.dgn").await.job, Some(JobState::Stored));
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_uploaded_gets_one_further_job() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 0).await;
        let job = f.claim(1).await.unwrap();
        f.hand_over("a.dgn", 2, 2).await;
        f.hand_over("a.dgn", 3, 3).await;
        assert!(
            f.claim(3).await.is_none(),
            "the upload in hand keeps its claim"
        );
        assert_eq!(f.store(&job, 1, 4).await, UploadResult::DueAgain);
        let job = f.claim(5).await.unwrap();
        assert_eq!((job.version, job.fingerprint), (3, Some(print(3))));
        assert_eq!(f.store(&job, 2, 6).await, UploadResult::AwaitsRun);
        assert!(f.claim(7).await.is_none());
    }

    #[tokio::test]
    async fn names_are_bytes() {
        use std::os::unix::ffi::OsStrExt as _;
        let f = Fixture::new().await;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"d\xFF/a\xFE\n.dgn"));
        let odd = Ready {
            path: path.to_owned(),
            ..ready("x", 1)
        };
        f.ledger.hand_over(f.watch, &[odd], at(0)).await.unwrap();
        assert_eq!(f.claim(0).await.unwrap().path, path);
        let known = f
            .ledger
            .known_in(f.watch, path.parent().unwrap())
            .await
            .unwrap();
        assert_eq!(known[0].0, path.file_name().unwrap());
    }
}
