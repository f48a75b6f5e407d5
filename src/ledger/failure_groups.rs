//! Failures by their reason: how many files failed or wait for another attempt for one cause.
//!
//! Each failure is put into a group in the transaction that records it ([`failure_pattern`]
//! decides which). A report reads one index, and only a few files of each group. A job that is tried again stays in its
//! group, so that this begins with its first failure; but it is not counted while it has no failure.

use std::path::Path;

use jiff::Timestamp;

use super::database::Connection;
use super::failing_jobs::fails;
use super::file_reports::files_of_group;
use super::row::join;

use super::{
    Error, FailureKind, FileReport, Ledger, Tx, count_value, failure_pattern, sql, timestamp,
};

/// Files that are shown of a group.
const EXAMPLES: u32 = 3;

/// Watches that are named of a group.
const WATCHES: i64 = 20;

/// Failures of earlier versions that are grouped in one transaction.
const AT_ONCE: i64 = 500;

/// Files that failed, or wait for another attempt, for one reason.
#[derive(Debug, Clone)]
pub struct FailureGroup {
    /// Its key: the same as long as the reason is.
    pub key: String,
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// The reason, with "…" for what differs between its files.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How many files failed.
    pub failed: u64,
    /// How many wait for another attempt.
    pub retrying: u64,
    /// Names of the watches that its files are in, the first ones by name.
    pub watches: Vec<String>,
    /// When the first of these failures was.
    pub since: Option<Timestamp>,
    /// When the first of its files is tried again.
    pub next_attempt: Option<Timestamp>,
    /// A few of its files.
    pub examples: Vec<FileReport>,
}

/// The largest groups.
#[derive(Debug, Clone, Default)]
pub struct FailureGroups {
    /// Those with most files first.
    pub largest: Vec<FailureGroup>,
    /// How many groups there are.
    pub all: u64,
}

sql::row! {
    struct GroupRow {
        key: String,
        kind: FailureKind,
        files: i64,
        failed: i64,
        since: Option<i64>,
        next_attempt: Option<i64>,
        reason: Option<String>,
        hint: Option<String>,
        all_groups: i64,
    }
}

/// A failure that is put into its group.
pub(super) struct GroupedFailure<'a> {
    pub(super) kind: FailureKind,
    pub(super) reason: &'a str,
    pub(super) hint: Option<&'a str>,
    /// The path of its file.
    pub(super) path: &'a Path,
    pub(super) at: i64,
}

sql::row! {
    /// What is known of a group.
    #[derive(PartialEq, Eq)]
    struct Known {
        reason: String,
        hint: Option<String>,
        since: i64,
    }
}

/// Puts a failure into its group. The caller records it in the job.
pub(super) async fn group(
    tx: &mut Tx,
    file_id: i64,
    failure: &GroupedFailure<'_>,
) -> Result<(), sqlx::Error> {
    let path = failure.path;
    let key = failure_pattern::key(failure.kind, failure.reason, path);
    let known: Option<Known> = sql::query_as(
        "SELECT reason, hint, since FROM failure_groups WHERE id = $1 AND EXISTS \
         (SELECT 1 FROM jobs j WHERE j.failure_group = $1)",
    )
    .bind(&key)
    .fetch_optional(tx)
    .await?;
    sql::query("UPDATE jobs SET failure_group = $2 WHERE file_id = $1")
        .bind(file_id)
        .bind(&key)
        .execute(tx)
        .await?;
    let new = Known {
        reason: failure_pattern::without_name(failure.reason, path),
        hint: failure
            .hint
            .map(|hint| failure_pattern::without_name(hint, path)),
        since: failure.at,
    };
    let now = match &known {
        Some(known) => Known {
            reason: failure_pattern::common(&known.reason, &new.reason).unwrap_or(new.reason),
            hint: match (&known.hint, new.hint) {
                (Some(known), Some(hint)) => {
                    Some(failure_pattern::common(known, &hint).unwrap_or(hint))
                }
                (known, hint) => hint.or_else(|| known.clone()),
            },
            since: known.since.min(new.since),
        },
        None => new,
    };
    if known.as_ref() == Some(&now) {
        return Ok(());
    }
    sql::query(
        "INSERT INTO failure_groups (id, reason, hint, since) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, hint = excluded.hint, \
         since = excluded.since",
    )
    .bind(&key)
    .bind(&now.reason)
    .bind(&now.hint)
    .bind(now.since)
    .execute(tx)
    .await?;
    Ok(())
}

/// The largest groups, at most `limit`, with the files that satisfy a condition on the job `j`.
pub(super) async fn failure_groups(
    tx: &mut Tx,
    condition: &str,
    limit: u32,
) -> Result<FailureGroups, sqlx::Error> {
    if limit == 0 {
        return Ok(FailureGroups::default());
    }
    read(tx, None, condition, limit).await
}

/// The group with this key, or else the largest ones.
async fn read(
    tx: &mut Tx,
    key: Option<&str>,
    condition: &str,
    limit: u32,
) -> Result<FailureGroups, sqlx::Error> {
    let rows: Vec<GroupRow> = sql::query_as(sqlx::AssertSqlSafe(format!(concat!(
        "SELECT g.*, f.reason, f.hint, f.since, (SELECT j.kind FROM jobs j WHERE j.failure_group = g.key AND ",
        fails!(),
        " LIMIT 1) AS kind FROM (SELECT j.failure_group AS key, COUNT(*) AS files, \
         COUNT(CASE WHEN j.state = 'failed' THEN 1 END) AS failed, \
         MIN(j.due_at) AS next_attempt, \
         COUNT(*) OVER () AS all_groups FROM jobs j WHERE j.failure_group IS NOT NULL \
         AND ($2 IS NULL OR j.failure_group = $2) AND ",
        fails!(),
        " {condition} GROUP BY j.failure_group ORDER BY failed DESC, files DESC, j.failure_group LIMIT $1) g \
         LEFT JOIN failure_groups f ON f.id = g.key ORDER BY g.failed DESC, g.files DESC, g.key",
    ), condition = condition)))
    .bind(i64::from(limit))
    .bind(key)
    .fetch_all(tx)
    .await?;
    let all = rows.first().map_or(0, |row| count_value(row.all_groups));
    let mut largest = Vec::with_capacity(rows.len());
    for row in rows {
        let watches: Vec<String> = sql::query_scalar(sqlx::AssertSqlSafe(format!(
            concat!(
                "SELECT w.name FROM watches w WHERE EXISTS (SELECT 1 FROM jobs j \
             WHERE j.failure_group = $1 AND j.watch_id = w.id AND ",
                fails!(),
                " {condition}) ORDER BY w.name LIMIT $2"
            ),
            condition = condition
        )))
        .bind(&row.key)
        .bind(WATCHES)
        .fetch_all(tx)
        .await?;
        let examples = files_of_group(tx, &row.key, condition, EXAMPLES).await?;
        let (files, failed) = (count_value(row.files), count_value(row.failed));
        largest.push(FailureGroup {
            key: row.key,
            kind: row.kind,
            reason: row.reason.unwrap_or_default(),
            hint: row.hint,
            failed,
            retrying: files.saturating_sub(failed),
            watches,
            since: row.since.map(timestamp),
            next_attempt: row.next_attempt.map(timestamp),
            examples,
        });
    }
    Ok(FailureGroups { largest, all })
}

sql::row! {
    /// A failure that an earlier version recorded.
    struct EarlierRow {
        file_id: i64,
        dir: Vec<u8>,
        name: Vec<u8>,
        kind: FailureKind,
        reason: String,
        hint: Option<String>,
        since: i64,
    }
}

impl Ledger {
    /// The group with this key; None if no failure is in it.
    pub async fn failure_group(&self, key: &str) -> Result<Option<FailureGroup>, Error> {
        let mut groups = self
            .db
            .read_at_once("report a group of failures", async |tx| {
                read(tx, Some(key), "", 1).await
            })
            .await?;
        Ok(groups.largest.pop())
    }

    /// Puts failures into groups that an earlier version recorded.
    pub(super) async fn group_earlier_failures(&self) -> Result<(), Error> {
        loop {
            let left = self
                .db
                .write("group failures", async |tx| {
                    let rows: Vec<EarlierRow> = sql::query_as(concat!(
                        "SELECT j.file_id, f.dir, f.name, j.kind, j.reason, j.hint, \
                         COALESCE(j.failing_since, j.enqueued_at) AS since FROM jobs j \
                         CROSS JOIN files f WHERE f.id = j.file_id AND j.failure_group IS NULL AND ",
                        fails!(),
                        " LIMIT $1"
                    ))
                    .bind(AT_ONCE)
                    .fetch_all(tx)
                    .await?;
                    let count = rows.len();
                    for row in rows {
                        let path = join(row.dir, row.name);
                        let failure = GroupedFailure {
                            kind: row.kind,
                            reason: &row.reason,
                            hint: row.hint.as_deref(),
                            path: &path,
                            at: row.since,
                        };
                        group(tx, row.file_id, &failure).await?;
                    }
                    Ok(count)
                })
                .await?;
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Deletes what is known of groups without a failure.
    pub(super) async fn forget_empty_groups(&self) -> Result<(), Error> {
        self.db
            .write("delete empty groups of failures", async |tx| {
                sql::query(
                    "DELETE FROM failure_groups WHERE NOT EXISTS (SELECT 1 FROM jobs j \
                     WHERE j.failure_group = failure_groups.id)",
                )
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

/// The files of a group.
pub(super) async fn files_in_group(
    db: &mut Connection,
    key: &str,
) -> Result<Vec<i64>, sqlx::Error> {
    sql::query_scalar(concat!(
        "SELECT j.file_id FROM jobs j WHERE j.failure_group = $1 AND ",
        fails!()
    ))
    .bind(key)
    .fetch_all(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    const NONE: Lists = Lists {
        files: 0,
        groups: 10,
        results: 0,
        runs: 0,
    };

    async fn fails(f: &Fixture, path: &str, reason: &str, again: Again, second: i64) {
        f.hand_over(path, second, second).await;
        let job = f.claim(second).await.unwrap();
        let refusal = Refusal {
            reason: reason.to_owned(),
            ..refusal(again)
        };
        f.ledger.put_off(&job, &refusal, at(second)).await.unwrap();
    }

    async fn groups(f: &Fixture) -> Vec<(String, u64, u64)> {
        let overview = f.ledger.overview(NONE, at(0)).await.unwrap();
        let groups = overview.failure_groups.largest.into_iter();
        groups
            .map(|group| (group.reason, group.failed, group.retrying))
            .collect()
    }

    #[tokio::test]
    async fn failures_for_one_reason_are_one_group_until_they_are_over() {
        let f = Fixture::new().await;
        fails(
            &f,
            "a.dgn",
            "\"a.dgn\" has 300 bytes, at most 7",
            Again::Never,
            1,
        )
        .await;
        let one = ("\"…\" has 300 bytes, at most 7".to_owned(), 1, 0);
        assert_eq!(groups(&f).await, std::slice::from_ref(&one));
        fails(
            &f,
            "b.dgn",
            "\"b.dgn\" has 40 bytes, at most 7",
            Again::Never,
            2,
        )
        .await;
        fails(&f, "c.dgn", "\"c.dgn\" is empty", Again::At(at(90)), 3).await;
        let many = "\"…\" has … bytes, at most 7".to_owned();
        let empty = ("\"…\" is empty".to_owned(), 0, 1);
        assert_eq!(groups(&f).await, [(many.clone(), 2, 0), empty.clone()]);
        let overview = f.ledger.overview(NONE, at(0)).await.unwrap();
        let group = &overview.failure_groups.largest[0];
        assert_eq!((group.since, group.next_attempt), (Some(at(1)), None));
        assert_eq!(group.watches, ["north"]);
        assert_eq!(group.examples.len(), 2);
        assert_eq!(overview.failure_groups.all, 2);
        // An attempt that has begun is no failure.
        let attempt = f.claim(90).await.unwrap();
        assert_eq!(groups(&f).await, [(many, 2, 0)]);
        let all = Requeue::Group(group.key.clone());
        assert_eq!(f.ledger.requeue(&all, at(91)).await.unwrap(), 2);
        assert_eq!(groups(&f).await, []);
        f.ledger.finish_vanished(&attempt, at(91)).await.unwrap();
        // What is known of a group begins anew when it was empty.
        while let Some(job) = f.claim(91).await {
            f.ledger.finish_vanished(&job, at(92)).await.unwrap();
        }
        let reason = "\"d.dgn\" has 300 bytes, at most 7";
        fails(&f, "d.dgn", reason, Again::Never, 100).await;
        assert_eq!(groups(&f).await, [one]);
        f.ledger.forget_history(at(0)).await.unwrap();
        let count = "SELECT COUNT(*) FROM failure_groups";
        let read = f.ledger.db.read("count", async |db| {
            sql::query_scalar(count).fetch_one(db).await
        });
        let known: i64 = read.await.unwrap();
        assert_eq!(known, 1);
    }

    #[tokio::test]
    async fn failures_of_an_earlier_version_are_grouped_at_the_start() {
        let f = Fixture::new().await;
        fails(&f, "a.dgn", "\"a.dgn\" is empty", Again::Never, 1).await;
        for sql in [
            "UPDATE jobs SET failure_group = NULL",
            "DELETE FROM failure_groups",
        ] {
            let run = f
                .ledger
                .db
                .write("forget", async |tx| sql::query(sql).execute(tx).await);
            run.await.unwrap();
        }
        assert_eq!(groups(&f).await, []);
        let f = f.restart().await;
        assert_eq!(groups(&f).await, [("\"…\" is empty".to_owned(), 1, 0)]);
    }
}
