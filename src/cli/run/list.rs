//! `itwin-syncd run --once --json`: what the pass did, as one JSON object.
//!
//! Reads the ledger after the pass, page by page, and writes the files that the pass handled or left open to standard
//! output. It changes nothing.

use std::io::{BufWriter, Write};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{json, matching};
use crate::config::Watch;
use crate::ids::ImodelId;
use crate::ledger::{self, JobState, Ledger};
use crate::service::Pass;
use crate::status_view;
#[cfg(test)]
use crate::status_view::FileView;

/// Why the list could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("cannot write the list of files")]
    Write(#[from] std::io::Error),
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => error.hint(),
            Self::Write(_) => None,
        }
    }

    /// Whether the reader has closed the pipe, such as `head`.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// The object without its files.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Head<'a> {
    version: u32,
    ok: bool,
    watches: Vec<WatchResult<'a>>,
}

/// A watch, and what the pass could not read of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WatchResult<'a> {
    name: &'a str,
    imodel_id: &'a ImodelId,
    /// Why its folder cannot be reached.
    unavailable: Option<&'a str>,
    /// What in it could not be read.
    unreadable: Option<&'a str>,
    /// Why its iModel is not there.
    awaits_imodel: Option<&'a str>,
}

/// The whole object, for its schema.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Pass")]
#[allow(dead_code, reason = "only its schema is of interest")]
pub(in crate::cli) struct Whole<'a> {
    #[schemars(flatten)]
    head: Head<'a>,
    files: Vec<FileView>,
}

/// Writes the object to standard output.
pub(super) async fn write(pass: &Pass, watches: &[Watch], ledger: &Ledger) -> Result<(), Error> {
    let known = ledger.created_imodels().await?;
    let head = Head {
        version: json::VERSION,
        ok: pass.is_good(),
        watches: watches
            .iter()
            .map(|watch| WatchResult {
                name: &watch.name,
                imodel_id: known.get(&watch.imodel_id).unwrap_or(&watch.imodel_id),
                unavailable: of(&pass.unreachable, &watch.name),
                unreadable: of(&pass.left_out, &watch.name),
                awaits_imodel: of(&pass.awaiting, &watch.name),
            })
            .collect(),
    };
    let mut files = json::Files::begin(BufWriter::new(std::io::stdout()), &head)?;
    let mut pages = matching::Pages::new(ledger, crate::clock::now()).await?;
    while let Some(page) = pages.next().await? {
        for file in &page {
            if is_listed(file.job, file.outcome_at, pass.began) {
                files.add(&status_view::file_view(file))?;
            }
        }
    }
    let mut out = files.end()?;
    writeln!(out, "\n}}")?;
    Ok(out.flush()?)
}

fn of<'a>(troubles: &'a [(String, String)], watch: &str) -> Option<&'a str> {
    let trouble = troubles.iter().find(|(name, _)| name == watch);
    trouble.map(|(_, reason)| reason.as_str())
}

/// Whether the pass that began then handled a file with this job and this time of its last result, or left something
/// to do for it.
fn is_listed(job: Option<JobState>, result_at: Option<Timestamp>, began: Timestamp) -> bool {
    job.is_some() || result_at.is_some_and(|at| at >= began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_the_pass_handled_or_left_open_are_listed() {
        let [before, began, after] =
            [1, 2, 3].map(|second| Timestamp::from_second(second).unwrap());
        for (job, result_at, listed) in [
            (None, None, false),
            (None, Some(before), false),
            (None, Some(began), true),
            (None, Some(after), true),
            (Some(JobState::Due), None, true),
            (Some(JobState::Stored), Some(before), true),
            (Some(JobState::Failed), Some(before), true),
        ] {
            assert_eq!(
                is_listed(job, result_at, began),
                listed,
                "{job:?} {result_at:?}"
            );
        }
    }

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
            Error::Write(_) => Error::Write(std::io::ErrorKind::StorageFull.into()),
        }));
    }
}
