//! Sets of files, such as a shapefile: a main file, which is a source file, and its companions, which are stored only.
//!
//! A run must read a set as a whole. So no run is recorded for a main file while a companion has an open job
//! (`set_open!`), no verdict of a run applies to it meanwhile, and each new content of a companion counts as new
//! content of its main files: they get the generation at which it was completed, and wait for another run. All of that
//! happens in the transaction that changes the companion, so it survives a kill at any point. Which parts a set lacks
//! is decided by the synchronizer, from [`WaitingSet`].

use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;
use std::os::unix::ffi::OsStringExt as _;

use super::clock::due;
use super::history::{Step, note};
use super::row::join;
use super::stored_job::insert_stored_job;
use super::{
    Absence, ConnectionId, Error, FailureKind, FileId, JobState, Ledger, Tx, millis, sql, timestamp,
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

/// SQL: what the platform said of the companion of the file `f` that was completed last.
macro_rules! newest_companion {
    () => {
        "CASE WHEN f.set_stem IS NOT NULL THEN (SELECT c.stored_modified FROM files c \
         WHERE c.watch_id = f.watch_id AND c.dir = f.dir AND c.set_stem = f.set_stem \
         AND c.connector IS NULL AND c.stored_version IS NOT NULL \
         ORDER BY c.stored_generation DESC LIMIT 1) END"
    };
}

pub(super) use {newest_companion, set_open};

/// A main file that waits for a run, with its set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingSet {
    /// The main file.
    pub file: FileId,
    /// The name of its watch.
    pub watch: String,
    /// Path of the main file, relative to the root.
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

sql::row! {
    struct CompanionRow {
        name: Vec<u8>,
        stored_version: Option<i64>,
        absence: Option<Absence>,
        job: Option<JobState>,
        reason: Option<String>,
    }
}

sql::row! {
    struct MainFileRow {
        id: FileId,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        changed_at: Option<i64>,
    }
}

impl Ledger {
    /// The main files of a connection that are due for a run, with their companions.
    pub async fn waiting_sets(
        &self,
        connection: ConnectionId,
        now: Timestamp,
    ) -> Result<Vec<WaitingSet>, Error> {
        let main_files: Vec<MainFileRow> = self
            .db
            .read("list the sets that wait for a run", async |db| {
                sql::query_as(concat!(
                    "SELECT f.id, w.name AS watch, f.dir, f.name, (SELECT MAX(s.stored_at) \
                     FROM files s WHERE s.watch_id = f.watch_id AND s.dir = f.dir \
                     AND s.set_stem = f.set_stem) AS changed_at FROM jobs j JOIN files f \
                     ON f.id = j.file_id JOIN watches w ON w.id = f.watch_id \
                     WHERE j.state = 'stored' AND f.set_stem IS NOT NULL \
                     AND f.target_connection_id = $1 AND w.configured = 1 \
                     AND ",
                    due!("$2"),
                    " ORDER BY w.name, f.dir, f.name"
                ))
                .bind(connection.0)
                .bind(millis(now))
                .fetch_all(db)
                .await
            })
            .await?;
        let mut sets = Vec::with_capacity(main_files.len());
        for main_file in main_files {
            sets.push(WaitingSet {
                file: main_file.id,
                watch: main_file.watch,
                path: join(main_file.dir, main_file.name),
                changed_at: timestamp(main_file.changed_at.unwrap_or(0)),
                companions: self.companions(main_file.id).await?,
            });
        }
        Ok(sets)
    }

    /// The companions of a main file that are in its folder, by name.
    pub async fn companions(&self, main_file: FileId) -> Result<Vec<SetPart>, Error> {
        let rows: Vec<CompanionRow> = self
            .db
            .read("list the companions of a file", async |db| {
                sql::query_as(
                    "SELECT c.name, c.stored_version, c.absence, j.state AS job, j.reason \
                     FROM files f JOIN files c ON c.watch_id = f.watch_id AND c.dir = f.dir \
                     AND c.set_stem = f.set_stem LEFT JOIN jobs j ON j.file_id = c.id \
                     WHERE f.id = $1 AND f.connector IS NOT NULL AND c.connector IS NULL \
                     ORDER BY c.name",
                )
                .bind(main_file.0)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows.into_iter().filter_map(part).collect())
    }
}

/// A companion that is in the folder. One that was never stored and has no job vanished before it was read. One that
/// the last scan did not find counts as missing at once: programs delete a set before they write it again.
fn part(row: CompanionRow) -> Option<SetPart> {
    let is_there = row.stored_version.is_some() || row.job.is_some();
    (is_there && row.absence.is_none()).then(|| SetPart {
        name: OsString::from_vec(row.name),
        job: row.job,
        reason: row.reason,
    })
}

/// A companion has new content in storage, completed at `generation`: its main files have to be run with it.
pub(super) async fn renew_main_files(
    tx: &mut Tx,
    companion: i64,
    generation: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let main_files: Vec<(i64, i64)> = sql::query_as(
        "UPDATE files SET stored_generation = $2, processed = 0, outcome = NULL, \
         outcome_at = NULL WHERE connector IS NOT NULL AND stored_version IS NOT NULL \
         AND stored_generation < $2 AND COALESCE(absence, 'missing') = 'missing' \
         AND (watch_id, dir, set_stem) = (SELECT watch_id, dir, set_stem FROM files WHERE id = $1) \
         RETURNING id, version",
    )
    .bind(companion)
    .bind(generation)
    .fetch_all(tx)
    .await?;
    for (main_file, version) in main_files {
        insert_stored_job(tx, main_file, now).await?;
        // A newer version of the main file on its way leads to a run as well.
        sql::query(
            "UPDATE jobs SET state = 'stored', run_id = NULL, due_at = $2, pause = 0, \
             attempts = 0, run_attempts = 0, failing_since = NULL, kind = NULL, \
             previous_reason = NULL, reason = NULL, hint = NULL, reported = NULL \
             WHERE file_id = $1 AND (state IN ('stored', 'running') OR (state = 'failed' \
             AND COALESCE(kind, '') IN ($3, $4, $5)))",
        )
        .bind(main_file)
        .bind(millis(now))
        .bind(FailureKind::Incomplete)
        .bind(FailureKind::Run)
        .bind(FailureKind::NotProcessed)
        .execute(tx)
        .await?;
        note(tx, main_file, version, Step::CompanionChanged, None, now).await?;
    }
    Ok(())
}

/// A companion appeared or went away: main files that wait for their set, or failed because of it, are judged again.
pub(super) async fn judge_main_files_again(
    tx: &mut Tx,
    companion: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "UPDATE jobs SET state = 'stored', due_at = $2, pause = 0 \
         WHERE state IN ('stored', 'failed') AND kind = $3 AND file_id IN (SELECT m.id \
         FROM files m JOIN files c ON m.watch_id = c.watch_id AND m.dir = c.dir \
         AND m.set_stem = c.set_stem WHERE c.id = $1 AND c.connector IS NULL \
         AND m.connector IS NOT NULL)",
    )
    .bind(companion)
    .bind(millis(now))
    .bind(FailureKind::Incomplete)
    .execute(tx)
    .await?;
    Ok(())
}

/// Records the set of a known file. Companions that were stored before the main file was known as one count as new
/// content of it.
pub(super) async fn link_to_set(
    tx: &mut Tx,
    file: i64,
    set_stem: Option<&[u8]>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query("UPDATE files SET set_stem = $2 WHERE id = $1")
        .bind(file)
        .bind(set_stem)
        .execute(tx)
        .await?;
    let newest: Option<(i64, i64)> = sql::query_as(
        "SELECT c.id, c.stored_generation FROM files f JOIN files c ON c.watch_id = f.watch_id \
         AND c.dir = f.dir AND c.set_stem = f.set_stem WHERE f.id = $1 AND c.connector IS NULL \
         AND c.stored_version IS NOT NULL ORDER BY c.stored_generation DESC LIMIT 1",
    )
    .bind(file)
    .fetch_optional(tx)
    .await?;
    match newest {
        Some((companion, generation)) => renew_main_files(tx, companion, generation, now).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use crate::connector_type::ConnectorType;

    /// A file of the set `lots`; a `.shp` is its main file.
    fn part(path: &str, n: i64) -> Ready {
        Ready {
            connector: path
                .ends_with(".shp")
                .then(|| ConnectorType::new("GEOSPATIAL")),
            set_stem: Some(b"lots".to_vec()),
            ..ready(path, n)
        }
    }

    async fn hand_over(f: &Fixture, parts: &[Ready], second: i64) {
        f.ledger
            .hand_over(f.watch, parts, at(second))
            .await
            .unwrap();
    }

    /// Uploads every due file.
    async fn upload(f: &Fixture, content: u8, second: i64) {
        while let Some(job) = f.claim(second).await {
            f.store(&job, content, second).await;
        }
    }

    /// A set in the iModel at second 3.
    async fn synchronized() -> Fixture {
        let f = Fixture::new().await;
        hand_over(&f, &[part("lots.shp", 1), part("lots.dbf", 1)], 0).await;
        upload(&f, 1, 1).await;
        let run = f.begin_run(2).await;
        let reports = f.finish_run(run, Verdict::Synchronized(None), 3).await;
        assert_eq!(reports.len(), 1);
        f
    }

    async fn outcome(f: &Fixture) -> (Option<JobState>, Option<Outcome>) {
        let file = f.file("lots.shp").await;
        (file.job, file.outcome)
    }

    const DONE: (Option<JobState>, Option<Outcome>) = (None, Some(Outcome::Synchronized));

    #[tokio::test]
    async fn a_main_file_awaits_its_run_only_when_every_companion_is_stored() {
        let f = Fixture::new().await;
        hand_over(&f, &[part("lots.shp", 1), part("lots.dbf", 1)], 0).await;
        let main_file = f.claim(0).await.unwrap();
        let companion = f.claim(0).await.unwrap();
        let (main_file, companion) = if main_file.connector.is_some() {
            (main_file, companion)
        } else {
            (companion, main_file)
        };
        f.store(&main_file, 1, 1).await;
        assert_eq!(f.batch(1).await, []);
        let backlog = f.ledger.backlog(&"imodel".into(), at(1)).await.unwrap();
        assert_eq!((backlog.waiting, backlog.partial), (0, Partial::None));
        let run = f.begin_run(1).await;
        assert_eq!(f.ledger.run_size(run).await.unwrap(), 0);
        f.ledger.abandon_run(run, at(1)).await.unwrap();
        f.store(&companion, 1, 2).await;
        assert_eq!(f.batch(2).await.len(), 1);
        // The run is requested for the main file, not for the companion alone.
        assert_eq!(f.connection().await.moved_on, None);
    }

    #[tokio::test]
    async fn a_changed_companion_makes_its_main_file_wait_for_another_run() {
        let f = synchronized().await;
        assert_eq!(outcome(&f).await, DONE);
        hand_over(&f, &[part("lots.dbf", 2)], 4).await;
        assert_eq!(outcome(&f).await, DONE, "storage has the old one");
        upload(&f, 2, 5).await;
        assert_eq!(outcome(&f).await.0, Some(JobState::Stored));
        assert_eq!(f.connection().await.moved_on, None);
        let f = f.restart().await;
        let run = f.begin_run(6).await;
        f.finish_run(run, Verdict::Synchronized(None), 7).await;
        assert_eq!(outcome(&f).await, DONE);
    }

    #[tokio::test]
    async fn a_run_says_nothing_of_a_set_that_changes_meanwhile() {
        for stored_meanwhile in [false, true] {
            let f = synchronized().await;
            hand_over(&f, &[part("lots.shp", 2)], 4).await;
            upload(&f, 2, 5).await;
            let run = f.begin_run(6).await;
            hand_over(&f, &[part("lots.dbf", 2)], 7).await;
            if stored_meanwhile {
                upload(&f, 2, 8).await;
            }
            f.finish_run(run, Verdict::Synchronized(None), 9).await;
            assert_eq!(outcome(&f).await.0, Some(JobState::Stored));
            upload(&f, 2, 10).await;
            assert_eq!(f.batch(10).await.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_run_waits_for_a_mapped_set_of_which_storage_has_only_a_part() {
        let f = synchronized().await;
        let partial = async |second| {
            let backlog = f.ledger.backlog(&"imodel".into(), at(second)).await;
            backlog.unwrap().partial
        };
        hand_over(&f, &[part("lots.dbf", 2), part("lots.shp", 2)], 4).await;
        assert_eq!(partial(4).await, Partial::None, "storage has the old set");
        let first = f.claim(5).await.unwrap();
        f.store(&first, 2, 5).await;
        assert_eq!(partial(5).await, Partial::Uploading);
        let second = f.claim(6).await.unwrap();
        assert_eq!(partial(6).await, Partial::Uploading);
        let refusal = refusal(Again::At(at(20)));
        f.ledger.put_off(&second, &refusal, at(7)).await.unwrap();
        assert_eq!(partial(7).await, Partial::PutOff);
        let second = f.claim(20).await.unwrap();
        f.store(&second, 2, 21).await;
        assert_eq!(partial(21).await, Partial::None);
        assert_eq!(f.batch(21).await.len(), 1);
    }

    #[tokio::test]
    async fn a_main_file_that_failed_for_its_set_is_judged_again_when_a_companion_comes_or_goes() {
        let f = synchronized().await;
        let incomplete = || Refusal {
            kind: FailureKind::Incomplete,
            ..refusal(Again::Never)
        };
        let fail = async |second| {
            let file = f.file("lots.shp").await.id;
            let refusals = [(file, incomplete())];
            f.ledger
                .put_off_stored(&refusals, at(second))
                .await
                .unwrap();
            assert_eq!(outcome(&f).await.0, Some(JobState::Failed));
        };
        fail(4).await;
        hand_over(&f, &[part("lots.shx", 1)], 5).await;
        upload(&f, 3, 6).await;
        assert_eq!(f.batch(6).await.len(), 1);

        fail(7).await;
        let gone = [(std::ffi::OsString::from("lots.dbf"), Absence::Missing)];
        for second in [10, 20] {
            f.ledger
                .record_absent(f.watch, Path::new(""), &gone, at(second), at(second))
                .await
                .unwrap();
        }
        assert_eq!(f.batch(20).await.len(), 1);
        let connection = f.connection().await.id;
        let sets = f.ledger.waiting_sets(connection, at(20)).await.unwrap();
        assert_eq!(sets.len(), 1);
        let names: Vec<_> = sets[0].companions.iter().map(|part| &part.name).collect();
        assert_eq!(names, ["lots.shx"]);
    }

    #[tokio::test]
    async fn a_main_file_that_was_known_before_sets_were_is_linked_to_its_companions() {
        let f = Fixture::new().await;
        let unlinked = Ready {
            set_stem: None,
            ..part("lots.shp", 1)
        };
        hand_over(&f, &[unlinked], 0).await;
        upload(&f, 1, 1).await;
        let run = f.begin_run(2).await;
        f.finish_run(run, Verdict::Synchronized(None), 3).await;
        hand_over(&f, &[part("lots.dbf", 1)], 4).await;
        upload(&f, 1, 5).await;
        assert_eq!(outcome(&f).await, DONE);
        hand_over(&f, &[part("lots.shp", 1)], 6).await;
        assert_eq!(outcome(&f).await.0, Some(JobState::Stored));
    }
}
