//! Sets of files, such as a shapefile: a master, which is a source file, and its companions, which are stored only.
//!
//! A run must read a set as a whole. So no run is recorded for a master while a companion has an open job
//! (`set_open!`), no verdict of a run applies to it meanwhile, and each new content of a companion counts as new content
//! of its masters: they get the generation at which it was completed, and wait for another run. All of that happens in
//! the transaction that changes the companion, so it survives a kill at any point. Which parts a set lacks is decided
//! by the synchronizer, from [`WaitingSet`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;
use std::os::unix::ffi::OsStringExt as _;

use super::clock::due;
use super::history::{Step, note};
use super::row::join;
use super::transitions::insert_stored_job;
use super::{
    Absence, ConnectionId, Error, FailureKind, FileId, JobState, Ledger, Tx, millis, timestamp,
};

/// SQL: a companion in the set of the file `f` has an open job in one of the listed states.
macro_rules! set_open {
    ($states:literal) => {
        concat!(
            "(f.set_stem IS NOT NULL AND EXISTS (SELECT 1 FROM files c JOIN jobs cj \
             ON cj.file_id = c.id WHERE c.watch_id = f.watch_id AND c.dir = f.dir \
             AND c.set_stem = f.set_stem AND c.connector IS NULL AND cj.state IN (",
            $states,
            ")))"
        )
    };
}

pub(super) use set_open;

/// A master that waits for a run, with its set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingSet {
    /// The master.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path of the master, relative to the root.
    pub path: PathBuf,
    /// When a file of the set was completed in storage last.
    pub changed_at: Timestamp,
    /// The companions in the folder.
    pub companions: Vec<SetPart>,
}

/// A companion in a [`WaitingSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPart {
    /// Its name.
    pub name: OsString,
    /// The state of its open job, if it has one.
    pub job: Option<JobState>,
    /// Why that job failed, if it did.
    pub reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct PartRow {
    master: FileId,
    watch: String,
    dir: Vec<u8>,
    master_name: Vec<u8>,
    master_stored_at: Option<i64>,
    name: Option<Vec<u8>>,
    stored_at: Option<i64>,
    stored_version: Option<i64>,
    absence: Option<Absence>,
    job: Option<JobState>,
    reason: Option<String>,
}

impl Ledger {
    /// The masters of a connection that are due for a run, with their companions.
    pub async fn waiting_sets(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<WaitingSet>, Error> {
        let rows: Vec<PartRow> = self
            .db
            .read("list the sets that wait for a run", async |db| {
                sqlx::query_as(concat!(
                    "SELECT f.id AS master, w.name AS watch, f.dir, f.name AS master_name, \
                     f.stored_at AS master_stored_at, c.name, c.stored_at, c.stored_version, \
                     c.absence, cj.state AS job, cj.reason FROM jobs j JOIN files f \
                     ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id LEFT JOIN files c \
                     ON c.watch_id = f.watch_id AND c.dir = f.dir AND c.set_stem = f.set_stem \
                     AND c.connector IS NULL LEFT JOIN jobs cj ON cj.file_id = c.id \
                     WHERE j.state = 'stored' AND f.set_stem IS NOT NULL \
                     AND f.connector IS NOT NULL AND w.connection_id = $1 AND w.configured = 1 \
                     AND ",
                    due!("$2"),
                    " ORDER BY w.name, f.dir, f.name, c.name"
                ))
                .bind(connection.0)
                .bind(millis(now))
                .fetch_all(db)
                .await
            })
            .await?;
        let mut sets: BTreeMap<FileId, WaitingSet> = BTreeMap::new();
        for row in rows {
            let set = sets.entry(row.master).or_insert_with(|| WaitingSet {
                file: row.master,
                watch: row.watch,
                path: join(row.dir, row.master_name),
                changed_at: timestamp(row.master_stored_at.unwrap_or(0)),
                companions: Vec::new(),
            });
            let is_absent = matches!(row.absence, Some(Absence::Gone | Absence::Deselected));
            // A companion that was never stored and has no job vanished before it was read.
            let is_there = row.stored_version.is_some() || row.job.is_some();
            if let Some(name) = row.name.filter(|_| is_there && !is_absent) {
                let stored_at = timestamp(row.stored_at.unwrap_or(0));
                set.changed_at = set.changed_at.max(stored_at);
                set.companions.push(SetPart {
                    name: OsString::from_vec(name),
                    job: row.job,
                    reason: row.reason,
                });
            }
        }
        Ok(sets.into_values().collect())
    }
}

/// A companion has new content in storage, completed at `generation`: its masters have to be run with it.
pub(super) async fn renew_masters(
    tx: &mut Tx,
    companion: i64,
    generation: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let masters: Vec<(i64, i64)> = sqlx::query_as(
        "UPDATE files SET stored_generation = $2, processed = 0, outcome = NULL, \
         outcome_at = NULL WHERE connector IS NOT NULL AND stored_version IS NOT NULL \
         AND stored_generation < $2 AND COALESCE(absence, 'missing') = 'missing' \
         AND (watch_id, dir, set_stem) = (SELECT watch_id, dir, set_stem FROM files WHERE id = $1) \
         RETURNING id, version",
    )
    .bind(companion)
    .bind(generation)
    .fetch_all(&mut **tx)
    .await?;
    for (master, version) in masters {
        insert_stored_job(tx, master, now).await?;
        // A newer version of the master on its way leads to a run as well.
        sqlx::query(
            "UPDATE jobs SET state = 'stored', run_id = NULL, due_at = $2, pause = 0, \
             attempts = 0, run_attempts = 0, failing_since = NULL, kind = NULL, \
             previous_reason = NULL, reason = NULL, hint = NULL, reported = NULL \
             WHERE file_id = $1 AND (state IN ('stored', 'running') OR (state = 'failed' \
             AND COALESCE(kind, '') IN ($3, $4, $5)))",
        )
        .bind(master)
        .bind(millis(now))
        .bind(FailureKind::Incomplete)
        .bind(FailureKind::Run)
        .bind(FailureKind::NotProcessed)
        .execute(&mut **tx)
        .await?;
        note(tx, master, version, Step::CompanionChanged, None, now).await?;
    }
    Ok(())
}

/// A companion appeared or went away: masters that wait for their set, or failed because of it, are judged again.
pub(super) async fn judge_masters_again(
    tx: &mut Tx,
    companion: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0 \
         WHERE state IN ('stored', 'failed') AND kind = $3 AND file_id IN (SELECT m.id \
         FROM files m JOIN files c ON m.watch_id = c.watch_id AND m.dir = c.dir \
         AND m.set_stem = c.set_stem WHERE c.id = $1 AND c.connector IS NULL \
         AND m.connector IS NOT NULL)",
    )
    .bind(companion)
    .bind(millis(now))
    .bind(FailureKind::Incomplete)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Records the set of a known file. Companions that were stored before the master was known as one count as new
/// content of it.
pub(super) async fn link_to_set(
    tx: &mut Tx,
    file: i64,
    set_stem: Option<&[u8]>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE files SET set_stem = $2 WHERE id = $1")
        .bind(file)
        .bind(set_stem)
        .execute(&mut **tx)
        .await?;
    let newest: Option<(i64, i64)> = sqlx::query_as(
        "SELECT c.id, c.stored_generation FROM files f JOIN files c ON c.watch_id = f.watch_id \
         AND c.dir = f.dir AND c.set_stem = f.set_stem WHERE f.id = $1 AND c.connector IS NULL \
         AND c.stored_version IS NOT NULL ORDER BY c.stored_generation DESC LIMIT 1",
    )
    .bind(file)
    .fetch_optional(&mut **tx)
    .await?;
    match newest {
        Some((companion, generation)) => renew_masters(tx, companion, generation, now).await,
        None => Ok(()),
    }
}
