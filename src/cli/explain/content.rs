//! What `explain` says about the content of a file: whether its connector will read it, and what the file refers to.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::references::{Looker, limits};
use crate::config::Watch;
use crate::selection::Verdict;

/// How long a file is read for its references.
const TIME: Duration = Duration::from_secs(10);

/// References that are listed.
const LISTED: usize = 20;

/// Why the platform may not read the file with its connector, and what to do.
pub(super) fn doubts(verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(guess) = verdict.guess() {
        lines.push(format!("hint: {}", guess.hint()));
    }
    if let Verdict::Source { connector, .. } = verdict
        && let Some(retirement) = connector.retirement()
    {
        lines.push(format!("warning: {connector} {retirement}"));
        lines.push(
            "hint: exclude such files, or name another type in connectors of the watch".to_owned(),
        );
    }
    lines
}

/// The references of a file, and those that the platform will not find. Nothing if its format has none that are read.
pub(super) fn references(watch: &Watch, below: &Path) -> Vec<String> {
    let looked = Looker::open(watch).and_then(|looker| {
        looker
            .look(below, limits(Instant::now() + TIME))
            .transpose()
    });
    let looked = match looked {
        Ok(Some(looked)) => looked,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![format!("references: not read: {error}")],
    };
    let count = looked.count;
    let mut line = match looked.dangling.len() {
        _ if looked.count == 0 => "references: none".to_owned(),
        0 => format!("references: {count}, all uploaded by this watch"),
        dangling => format!("references: {count}, {dangling} not uploaded by this watch"),
    };
    if let Some(why) = looked.incomplete {
        line = format!("{line}; there may be more: {why}");
    }
    let mut lines = vec![line];
    let mut hints = Vec::new();
    for dangling in looked.dangling.iter().take(LISTED) {
        lines.push(format!("warning: it {}", dangling.text()));
        let hint = format!("hint: {}", dangling.hint());
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    if looked.dangling.len() > LISTED {
        lines.push(format!("and {} more", looked.dangling.len() - LISTED));
    }
    lines.extend(hints);
    lines
}
