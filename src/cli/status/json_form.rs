//! `status --json`: the report as one object.

use std::io::{BufWriter, Write as _};

use serde::Serialize;

use super::{Error, List, Report};
use crate::cli::json;
use crate::ledger::NodeReport;
use crate::runtime_status::{LedgerOutage, Outage, PageProblem, Standby, Undelivered};
use crate::status_view::{self, BatchView, DaemonView, FailureGroupView, UploadView, WatchView};
#[cfg(test)]
use crate::status_view::{FileView, RunView};

/// The JSON form without its lists of files and runs.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonHead {
    version: u32,
    ok: bool,
    summary: String,
    daemon: Option<DaemonView>,
    platform_outage: Option<Outage>,
    ledger_outage: Option<LedgerOutage>,
    undelivered: Vec<Undelivered>,
    page_problem: Option<PageProblem>,
    standby: Option<Standby>,
    nodes: Vec<NodeReport>,
    watches: Vec<WatchView>,
    uploads: Vec<UploadView>,
    batch: Option<BatchView>,
    failure_groups: Vec<FailureGroupView>,
    more_failure_groups: u64,
    /// Files that were searched, on all pages.
    files_found: Option<u64>,
}

/// The whole object, for its schema.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Status")]
#[allow(dead_code, reason = "only its schema is of interest")]
pub(in crate::cli) struct Whole {
    #[schemars(flatten)]
    head: JsonHead,
    files: Vec<FileView>,
    runs: Vec<RunView>,
}

/// Prints the JSON form. All files of a search are read and written page by page, so that they are never all in memory.
pub(super) async fn print(report: Report, list: List<'_>) -> Result<(), Error> {
    let summary = report.summary();
    let view = report.view;
    let head = JsonHead {
        version: json::VERSION,
        ok: summary.ok,
        summary: summary.text,
        daemon: view.daemon,
        platform_outage: view.platform_outage,
        ledger_outage: view.ledger_outage,
        undelivered: view.undelivered,
        page_problem: view.page_problem,
        standby: view.standby,
        nodes: view.nodes,
        watches: view.watches,
        uploads: view.uploads,
        batch: view.batch,
        failure_groups: view.failure_groups,
        more_failure_groups: view.more_failure_groups,
        files_found: match &list {
            List::Page(found, _) => Some(found.all),
            List::InProgress | List::Every(..) => None,
        },
    };
    let mut files = json::Files::begin(BufWriter::new(std::io::stdout()), &head)?;
    match list {
        List::InProgress => {
            for file in view.failed.iter().chain(&view.open) {
                files.add(file)?;
            }
        }
        List::Page(found, _) => {
            for file in &found.files {
                files.add(&status_view::file_view(file))?;
            }
        }
        List::Every(mut pages, search) => {
            while let Some(page) = pages.next().await? {
                for file in page.iter().filter(|file| search.fits(file)) {
                    files.add(&status_view::file_view(file))?;
                }
            }
        }
    }
    let mut out = files.end()?;
    let runs = json::indented(&json::text(&view.runs), "\n  ");
    writeln!(out, ",\n  \"runs\": {runs}\n}}")?;
    Ok(out.flush()?)
}
