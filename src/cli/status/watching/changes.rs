//! `status --watch` without a terminal: a line for each change of a file.

use std::collections::HashMap;
use std::path::Path;

use super::PAUSE;
use crate::cli::status::Error;
use crate::ledger::{Ledger, Lists, Outcome};
use crate::names::QuotedPath;
use crate::next_attempt::clock_time;
use crate::status_view;

/// Files whose changes are printed.
const CHANGES: Lists = Lists {
    files: 1000,
    groups: 0,
    results: 200,
    runs: 1,
};

/// One line for each change of a file.
pub(super) async fn print(ledger: &Ledger, watches: &[String]) -> Result<(), Error> {
    let mut known: HashMap<String, (&'static str, Option<String>)> = HashMap::new();
    // Results before the start of this command are not shown.
    let mut last = ledger.last_result().await?;
    loop {
        let overview = ledger
            .overview_of(watches, CHANGES, crate::clock::now())
            .await?;
        for file in overview.open.iter().chain(&overview.failed) {
            let state = (status_view::word(file), file.reason.clone());
            if known.get(&file.id.to_string()) != Some(&state) {
                let reason = file
                    .reason
                    .as_ref()
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                print_change(&file.watch, &file.path, &format!("{}{reason}", state.0))?;
                known.insert(file.id.to_string(), state);
            }
        }
        for result in ledger.results_after(last, CHANGES.results).await? {
            last = result.id;
            if !(watches.is_empty() || watches.contains(&result.watch)) {
                continue;
            }
            // Failures are printed as states above.
            if result.outcome != Outcome::Failed {
                print_change(&result.watch, &result.path, result.outcome.as_str())?;
                known.remove(&result.file.to_string());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn print_change(watch: &str, path: &Path, what: &str) -> Result<(), Error> {
    let now = clock_time(crate::clock::now());
    super::super::print(&format!("{now} {watch}: {} {what}", QuotedPath(path)))
}
