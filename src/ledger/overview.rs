//! Reports of the whole ledger at one moment.
//!
//! Callers that read repeatedly open a second ledger for reading ([`Ledger::read`]), so that they delay no other work.

use jiff::Timestamp;

use super::failure_groups::failure_groups;
use super::file_reports::{all_files, files_of_jobs};
use super::nodes::nodes;
use super::results::latest_results;
use super::run_entries::latest_runs;
use super::watch_reports::counted_watches;
use super::{
    Error, FailureGroups, FileReport, Ledger, NodeReport, ResultReport, RunEntry, Tx, WatchReport,
    sql, timestamp,
};

/// The ledger at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every watch that was ever configured, by name.
    pub watches: Vec<WatchReport>,
    /// Every file, by watch and path.
    pub files: Vec<FileReport>,
}

/// How many rows of each list an [`Overview`] has at most.
#[derive(Debug, Clone, Copy)]
pub struct Lists {
    /// Files that failed, and files in progress.
    pub files: u32,
    /// Groups of failures.
    pub groups: u32,
    /// Results.
    pub results: u32,
    /// Runs.
    pub runs: u32,
}

/// The ledger at one moment, without the files that rest.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Every watch, by name.
    pub watches: Vec<WatchReport>,
    /// Failures by their reason.
    pub failure_groups: FailureGroups,
    /// Files that failed, the latest first.
    pub failed: Vec<FileReport>,
    /// Files that wait or are in progress, the furthest first.
    pub open: Vec<FileReport>,
    /// The latest results, newest first.
    pub results: Vec<ResultReport>,
    /// The latest runs, newest first.
    pub runs: Vec<RunEntry>,
    /// When the file that has waited longest was handed over.
    pub oldest: Option<Timestamp>,
    /// When a file was synchronized last.
    pub last_success: Option<Timestamp>,
    /// The hosts that share the ledger, the active one first; none if there can be only one.
    pub nodes: Vec<NodeReport>,
}

impl Ledger {
    /// The state of everything, as of `now`.
    pub async fn snapshot(&self, now: Timestamp) -> Result<Snapshot, Error> {
        self.db
            .read_at_once("report its state", async |tx| {
                let watches = counted_watches(tx, now).await?;
                Ok(Snapshot {
                    watches,
                    files: all_files(tx).await?,
                })
            })
            .await
    }

    /// The state of everything that does not rest, as of `now`.
    pub async fn overview(&self, lists: Lists, now: Timestamp) -> Result<Overview, Error> {
        self.overview_of(&[], lists, now).await
    }

    /// The same of these watches; with no names of all.
    pub async fn overview_of(
        &self,
        names: &[String],
        lists: Lists,
        now: Timestamp,
    ) -> Result<Overview, Error> {
        self.db
            .read_at_once("report its state", async |tx| {
                let mut watches = counted_watches(tx, now).await?;
                watches.retain(|watch| names.is_empty() || names.contains(&watch.name));
                let of_watches = of_watches(tx, names).await?;
                let last_success: Option<i64> = sql::query_scalar("SELECT at FROM last_success")
                    .fetch_optional(tx)
                    .await?;
                let failure_groups = failure_groups(tx, &of_watches, lists.groups).await?;
                let failed = files_of_jobs(
                    tx,
                    &format!("AND j.state = 'failed' {of_watches} ORDER BY j.failing_since DESC, j.file_id"),
                    lists.files,
                )
                .await?;
                // One state after the other, each by its index.
                let mut open = Vec::new();
                for state in ["uploading", "running", "stored", "due"] {
                    let left = lists
                        .files
                        .saturating_sub(u32::try_from(open.len()).unwrap_or(u32::MAX));
                    if left > 0 {
                        let rest = format!("AND j.state = '{state}' {of_watches} ORDER BY j.due_at, j.file_id");
                        open.extend(files_of_jobs(tx, &rest, left).await?);
                    }
                }
                let mut results = latest_results(tx, lists.results).await?;
                results.retain(|result| names.is_empty() || names.contains(&result.watch));
                let runs = latest_runs(tx, lists.runs).await?;
                let oldest: Option<i64> = sql::query_scalar(
                    "SELECT j.enqueued_at FROM jobs j CROSS JOIN files f CROSS JOIN watches w \
                     WHERE f.id = j.file_id AND w.id = f.watch_id AND j.state <> 'failed' \
                     AND w.configured = 1 ORDER BY j.enqueued_at LIMIT 1",
                )
                .fetch_optional(tx)
                .await?;
                Ok(Overview {
                    watches,
                    failure_groups,
                    failed,
                    open,
                    results,
                    runs,
                    oldest: oldest.map(timestamp),
                    last_success: last_success.map(timestamp),
                    nodes: nodes(tx).await?,
                })
            })
            .await
    }
}
/// A condition on the job `j`: it belongs to one of these watches. Nothing if there are no names.
async fn of_watches(tx: &mut Tx, names: &[String]) -> Result<String, sqlx::Error> {
    if names.is_empty() {
        return Ok(String::new());
    }
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let id: Option<i64> = sql::query_scalar("SELECT id FROM watches WHERE name = $1")
            .bind(name)
            .fetch_optional(tx)
            .await?;
        ids.extend(id.map(|id| id.to_string()));
    }
    Ok(format!("AND j.watch_id IN ({})", ids.join(", ")))
}
