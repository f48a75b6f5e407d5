//! Deletes old history, so that the ledger does not grow without end.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::{Error, Ledger, millis, sql};

const ACTION: &str = "delete old history";

/// Rows that one query reads.
const BATCH: i64 = 2000;

/// Results of which one query reads the runs: few enough that no other reader waits for it noticeably.
const RESULTS_AT_ONCE: i64 = 20_000;

/// Rows that go in one transaction: few enough that no other waits for it noticeably.
const AT_ONCE: usize = 200;

/// A pause after each transaction, for others.
const PAUSE: Duration = Duration::from_millis(20);

/// A table whose old rows go, and which of them stay all the same.
struct Old {
    /// Rows by key, after `$2` and `$3`, with whether they are to go; `$1` is the time before which they are old, `$4`
    /// a limit. A key is an id after another number: the file, or 0.
    select: &'static str,
    /// Deletes the row with this key.
    delete: &'static str,
}

/// The last result of a file and the steps to its newest version stay: they are what status says of the file.
const OLD: &[Old] = &[
    Old {
        select: "SELECT s.file_id, s.id, s.at < (SELECT COALESCE(MAX(r.at), 0) FROM results r \
               WHERE r.file_id = s.file_id) AND s.version < (SELECT f.version FROM files f \
               WHERE f.id = s.file_id) AS goes FROM steps s WHERE s.at < $1 AND (s.file_id, s.id) > ($2, $3) \
               ORDER BY s.file_id, s.id LIMIT $4",
        delete: "DELETE FROM steps WHERE file_id = $1 AND id = $2",
    },
    Old {
        select: "SELECT CAST(0 AS BIGINT), r.id, r.id < (SELECT MAX(n.id) FROM results n \
               WHERE n.file_id = r.file_id) AS goes FROM results r WHERE r.at < $1 AND $2 = 0 AND r.id > $3 \
               ORDER BY r.id LIMIT $4",
        delete: "DELETE FROM kept_results WHERE $1 = 0 AND id = $2",
    },
    Old {
        select: "SELECT CAST(0 AS BIGINT), id, at < $1 AS goes FROM created_versions WHERE at < $1 AND $2 = 0 AND id > $3 \
               ORDER BY id LIMIT $4",
        delete: "DELETE FROM created_versions WHERE $1 = 0 AND id = $2",
    },
];

/// Old runs, after `$2`, with whether they may go unless a result names them: `$1` and the limit as in [`Old`]. The
/// last run of a connection stays, and so do runs that are not over. No later result names a run that may go: only the
/// end of a run, and its jobs, record results of it.
const OLD_RUNS: &str = "SELECT r.id, r.phase = 'ended' AND r.id < (SELECT MAX(n.id) FROM runs n \
     WHERE n.connection_id = r.connection_id) AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.run_id = r.id) \
     AS goes FROM runs r WHERE r.requested_at < $1 AND r.id > $2 ORDER BY r.id LIMIT $3";

impl Ledger {
    /// Deletes history from before `before`, a little at a time, and returns how many rows went.
    pub async fn forget_history(&self, before: Timestamp) -> Result<u64, Error> {
        let mut gone = 0;
        for old in OLD {
            let mut last = (0_i64, 0_i64);
            loop {
                let rows: Vec<(i64, i64, bool)> = self
                    .db
                    .read(ACTION, async |db| {
                        sql::query_as(old.select)
                            .bind(millis(before))
                            .bind(last.0)
                            .bind(last.1)
                            .bind(BATCH)
                            .fetch_all(db)
                            .await
                    })
                    .await?;
                let Some((of, id, _)) = rows.last() else {
                    break;
                };
                last = (*of, *id);
                let goes: Vec<(i64, i64)> = rows
                    .iter()
                    .filter_map(|(of, id, goes)| goes.then_some((*of, *id)))
                    .collect();
                for chunk in goes.chunks(AT_ONCE) {
                    gone += self
                        .db
                        .write(ACTION, async |tx| {
                            let mut gone = 0;
                            for (of, id) in chunk {
                                gone += sql::query(old.delete)
                                    .bind(*of)
                                    .bind(*id)
                                    .execute(tx)
                                    .await?;
                            }
                            Ok(gone)
                        })
                        .await?;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        gone += self.forget_runs(before).await?;
        self.forget_empty_groups().await?;
        Ok(gone)
    }

    /// Deletes runs that no result names.
    async fn forget_runs(&self, before: Timestamp) -> Result<u64, Error> {
        let mut runs = self.old_runs(before).await?;
        self.retain_without_results(&mut runs).await?;
        let runs: Vec<i64> = runs.into_iter().collect();
        let mut gone = 0;
        for chunk in runs.chunks(AT_ONCE) {
            gone += self
                .db
                .write(ACTION, async |tx| {
                    let mut gone = 0;
                    for id in chunk {
                        gone += sql::query("DELETE FROM runs WHERE id = $1")
                            .bind(*id)
                            .execute(tx)
                            .await?;
                    }
                    Ok(gone)
                })
                .await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(gone)
    }

    /// The runs from before `before` that may go unless a result names them.
    async fn old_runs(&self, before: Timestamp) -> Result<BTreeSet<i64>, Error> {
        let mut old = BTreeSet::new();
        let mut last = 0_i64;
        loop {
            let rows: Vec<(i64, bool)> = self
                .db
                .read(ACTION, async |db| {
                    sql::query_as(OLD_RUNS)
                        .bind(millis(before))
                        .bind(last)
                        .bind(BATCH)
                        .fetch_all(db)
                        .await
                })
                .await?;
            let Some((id, _)) = rows.last() else {
                return Ok(old);
            };
            last = *id;
            old.extend(rows.iter().filter_map(|(id, goes)| goes.then_some(*id)));
        }
    }

    /// Removes from `runs` those that a result names. There is no index for it, which would make each result larger:
    /// all results since the first of these runs are read, once, in parts.
    async fn retain_without_results(&self, runs: &mut BTreeSet<i64>) -> Result<(), Error> {
        // Ids rise: the results of a run have greater ones.
        let mut from = runs.first().copied().unwrap_or(0);
        while !runs.is_empty() {
            let to: Option<i64> = self
                .db
                .read(ACTION, async |db| {
                    sql::query_scalar(
                        "SELECT MAX(id) FROM (SELECT id FROM kept_results WHERE id > $1 \
                         ORDER BY id LIMIT $2) AS part",
                    )
                    .bind(from)
                    .bind(RESULTS_AT_ONCE)
                    .fetch_one(db)
                    .await
                })
                .await?;
            let Some(to) = to else {
                return Ok(());
            };
            let named: Vec<i64> = self
                .db
                .read(ACTION, async |db| {
                    sql::query_scalar(
                        "SELECT DISTINCT run_id FROM kept_results WHERE id > $1 AND id <= $2 \
                         AND run_id IS NOT NULL",
                    )
                    .bind(from)
                    .bind(to)
                    .fetch_all(db)
                    .await
                })
                .await?;
            for run in named {
                runs.remove(&run);
            }
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn old_history_goes_but_what_became_of_each_file_last_stays() {
        let fixture = Fixture::new().await;
        for version in 1..=4 {
            let now = 1000 * version;
            fixture.hand_over("a.dgn", version, now).await;
            let job = fixture.claim(now).await.unwrap();
            fixture.ledger.finish_vanished(&job, at(now)).await.unwrap();
        }
        let reader = Ledger::read(location(fixture.dir.path()).await)
            .await
            .unwrap();
        let file = reader.snapshot(at(5000)).await.unwrap().files.remove(0).id;
        let lines = async || {
            let history = reader.file_history(file).await.unwrap().unwrap();
            history
                .entries
                .iter()
                .map(|line| line.at)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines().await.len(), 8);
        let gone = fixture.ledger.forget_history(at(3000)).await;
        assert_eq!(gone.unwrap(), 2, "two results, with the steps before them");
        assert_eq!(lines().await, [at(3000), at(3000), at(4000), at(4000)]);
        fixture.ledger.forget_history(at(9000)).await.unwrap();
        assert_eq!(lines().await, [at(4000), at(4000)], "the last of the file");
    }

    #[tokio::test]
    async fn a_run_stays_as_long_as_a_result_names_it() {
        let f = Fixture::new().await;
        for path in ["a.dgn", "b.dgn", "c.dgn"] {
            f.synchronized(path).await;
        }
        let runs = async || {
            f.ledger.forget_history(at(9000)).await.unwrap();
            let read = f.ledger.db.read("count", async |db| {
                let count = sql::query_scalar("SELECT COUNT(*) FROM runs");
                count.fetch_one(db).await
            });
            let runs: i64 = read.await.unwrap();
            runs
        };
        assert_eq!(runs().await, 3, "each is that of the last result of a file");
        f.hand_over("a.dgn", 2, 10).await;
        let job = f.claim(10).await.unwrap();
        f.ledger.finish_vanished(&job, at(10)).await.unwrap();
        assert_eq!(runs().await, 2, "no result names that of a.dgn any more");
    }
}
