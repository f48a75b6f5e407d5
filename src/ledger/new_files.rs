//! Records new files, many with a few statements: a first scan hands over a whole tree, and each statement costs more
//! than its rows.

use std::fmt::Write as _;
use std::sync::LazyLock;

use jiff::Timestamp;

use super::row::split;
use super::state::Step;
use super::{Ready, Tx, WatchId, count_column, millis, sql};

/// How many files one statement records.
pub(super) const NEW_FILES: usize = 64;

/// What came of it.
pub(super) struct NewFiles {
    /// How many files are recorded now. The others were known before, and are as they were.
    pub(super) files: usize,
    /// One of them may be a known file under a new name.
    pub(super) suspect_rename: bool,
}

const COLUMNS: usize = 9;

/// A row for each file; `$1` is the watch.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let mut sql = String::from(
        "INSERT INTO files (watch_id, version, id, dir, name, size, mtime_ns, ctime_ns, connector, set_stem, \
         target_connection_id) VALUES ",
    );
    for row in 0..NEW_FILES {
        sql.push_str(if row == 0 { "($1, 1" } else { ", ($1, 1" });
        for column in 0..COLUMNS {
            // Writing to a text does not fail.
            let _written = write!(sql, ", ${}", 2 + row * COLUMNS + column);
        }
        sql.push(')');
    }
    sql.push_str(" ON CONFLICT (watch_id, dir, name) DO NOTHING");
    sql
});

/// Records those of exactly [`NEW_FILES`] files that are new, each with its job and the first step of its history. The
/// connections of all connector types are recorded already.
pub(super) async fn insert_new_files(
    tx: &mut Tx,
    watch: WatchId,
    files: &[Ready],
    now: Timestamp,
) -> Result<NewFiles, sqlx::Error> {
    let targets: Vec<(String, i64)> =
        sql::query_as("SELECT connector, connection_id FROM watch_connections WHERE watch_id = $1")
            .bind(watch)
            .fetch_all(tx)
            .await?;
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let first = tx.new_numbers(count).await?;
    let mut insert = sql::query(INSERT.as_str()).bind(watch);
    for (id, file) in (first..).zip(files) {
        let (dir, name) = split(&file.path);
        let target = file.connector.as_ref().and_then(|connector| {
            let is_target = |of: &str| of.is_empty() || of == connector.as_str();
            targets
                .iter()
                .find(|(of, _)| is_target(of))
                .map(|(_, id)| *id)
        });
        insert = insert
            .bind(id)
            .bind(dir)
            .bind(name)
            .bind(count_column(file.fingerprint.size))
            .bind(file.fingerprint.mtime_ns)
            .bind(file.fingerprint.ctime_ns)
            .bind(&file.connector)
            .bind(&file.set_stem)
            .bind(target);
    }
    let new = insert.execute(tx).await?;
    if new == 0 {
        return Ok(NewFiles {
            files: 0,
            suspect_rename: false,
        });
    }
    // No other file has an id as great as these.
    sql::query(
        "INSERT INTO jobs (file_id, watch_id, state, version, enqueued_at, due_at) SELECT id, watch_id, 'due', version, \
         $2, $2 FROM files WHERE id >= $1",
    )
    .bind(first)
    .bind(millis(now))
    .execute(tx)
    .await?;
    sql::query(
        "INSERT INTO steps (id, file_id, version, at, step) SELECT id + $2, id, version, $3, $4 FROM files WHERE id >= $1",
    )
    .bind(first)
    .bind(tx.new_ids(count, now) - first)
    .bind(millis(now))
    .bind(Step::Seen.as_str())
    .execute(tx)
    .await?;
    let suspect_rename = sql::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM files f WHERE f.id >= $2 AND EXISTS (SELECT 1 FROM files o WHERE o.watch_id = $1 \
         AND o.stored_size = f.size AND o.storage_file_id IS NOT NULL AND o.absence IS NULL))",
    )
    .bind(watch)
    .bind(first)
    .fetch_one(tx)
    .await?;
    Ok(NewFiles {
        files: usize::try_from(new).unwrap_or(NEW_FILES),
        suspect_rename,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use super::*;
    use crate::connector_type::ConnectorType;

    sql::row! {
        /// All that a hand-over records of a file, but ids.
        #[derive(Debug, PartialEq, Eq)]
        struct Recorded {
            dir: Vec<u8>,
            name: Vec<u8>,
            size: i64,
            mtime_ns: i64,
            ctime_ns: i64,
            connector: Option<String>,
            version: i64,
            set_stem: Option<Vec<u8>>,
            target: Option<String>,
            state: Option<String>,
            job_version: Option<i64>,
            enqueued_at: Option<i64>,
            due_at: Option<i64>,
            has_watch: Option<bool>,
            steps: i64,
        }
    }

    async fn recorded(f: &Fixture) -> Vec<Recorded> {
        let mut connection = f.ledger.db.connection().await;
        assert_counts_are_right(&mut connection).await;
        sql::query_as(
            "SELECT f.dir, f.name, f.size, f.mtime_ns, f.ctime_ns, f.connector, f.version, f.set_stem, c.name AS target, \
             j.state, j.version AS job_version, j.enqueued_at, j.due_at, j.watch_id = f.watch_id AS has_watch, \
             (SELECT COUNT(*) FROM steps s WHERE s.file_id = f.id AND s.step = 'seen' AND s.version = f.version \
             AND s.note IS NULL) AS steps FROM files f LEFT JOIN jobs j ON j.file_id = f.id \
             LEFT JOIN connections c ON c.id = f.target_connection_id ORDER BY f.dir, f.name",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap()
    }

    /// Files of every kind, in several folders.
    fn files() -> Vec<Ready> {
        let number = i64::try_from(2 * NEW_FILES + 10).unwrap();
        let file = |n: i64| Ready {
            path: format!("{}/{n}.dgn", n % 3).into(),
            fingerprint: Fingerprint {
                size: n.unsigned_abs(),
                ..print(n)
            },
            connector: (n % 4 != 0)
                .then(|| ConnectorType::new(if n % 5 == 0 { "IFC" } else { "MSTN" })),
            set_stem: (n % 7 == 0).then(|| b"stem".to_vec()),
        };
        (0..number).map(file).collect()
    }

    async fn fixture(name: &str) -> Fixture {
        let f = Fixture::new().await;
        let mut spec = spec("north");
        spec.connection = crate::connection_name::ConnectionName::from(name.to_owned());
        f.register(&spec, 0).await;
        f
    }

    #[tokio::test]
    async fn many_files_are_recorded_just_as_one_by_one() {
        for (name, known) in [
            ("one", 0),
            ("itwin-syncd {connector}", 0),
            ("itwin-syncd {connector}", 70),
            ("one", NEW_FILES),
        ] {
            let (mut files, together, single) = (files(), fixture(name).await, fixture(name).await);
            for f in [&together, &single] {
                for file in &files[..known] {
                    let file = std::slice::from_ref(file);
                    f.ledger.hand_over(f.watch, file, at(0)).await.unwrap();
                }
            }
            if known > 0 {
                files[3].fingerprint = print(1000);
            }
            let mut changed = 0;
            for file in &files {
                let file = std::slice::from_ref(file);
                let one = single.ledger.hand_over(single.watch, file, at(1)).await;
                changed += one.unwrap().changed;
            }
            let all = together
                .ledger
                .hand_over(together.watch, &files, at(1))
                .await;
            assert_eq!(all.unwrap().changed, changed, "{name} {known}");
            assert_eq!(changed, files.len() - known + usize::from(known > 0));
            assert_eq!(
                recorded(&together).await,
                recorded(&single).await,
                "{name} {known}"
            );
            let again = together
                .ledger
                .hand_over(together.watch, &files, at(2))
                .await;
            assert_eq!(again.unwrap().changed, 0, "{name} {known}");
        }
    }

    #[tokio::test]
    async fn one_of_many_that_may_be_a_renamed_file_is_noticed() {
        let f = Fixture::new().await;
        let named = |n: usize, size| Ready {
            fingerprint: Fingerprint { size, ..print(1) },
            ..ready(&format!("{n}.dgn"), 1)
        };
        let suspects = async |sizes: u64, from: usize| {
            let files: Vec<_> = (from..from + NEW_FILES).map(|n| named(n, sizes)).collect();
            f.ledger
                .hand_over(f.watch, &files, at(1))
                .await
                .unwrap()
                .suspects_rename
        };
        assert!(!suspects(10, 0).await, "storage has no file");
        // Of the size that `print` says.
        f.stored("stored.dgn").await;
        assert!(!suspects(11, 100).await);
        assert!(suspects(10, 200).await);
    }
}
