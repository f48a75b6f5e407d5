//! Failures by their reason, as the reports show them.
//!
//! Input: groups of the ledger. Output: values for JSON, and the reason without the words that every reason begins
//! with.

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::{FailureGroup, FailureGroups, FailureKind, FileReport};
use crate::text::plural;

/// Files that failed, or wait for another attempt, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FailureGroupView {
    /// For `retry --group`.
    pub(crate) key: String,
    /// The kind of failure, as in a file.
    pub(crate) failure: &'static str,
    /// Number of files and reason, as text.
    pub(crate) text: String,
    /// The reason, with "…" for what differs between its files.
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
    /// All its files.
    pub(crate) files: u64,
    /// Those of them that failed.
    pub(crate) failed: u64,
    /// Those that wait for another attempt by themselves.
    pub(crate) retrying: u64,
    /// Names of watches, up to 20.
    pub(crate) watches: Vec<String>,
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) since: Option<Timestamp>,
    /// Of the file that is tried next; null: none before it changes, or on `retry`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) next_attempt: Option<Timestamp>,
    /// Up to 3 files.
    pub(crate) examples: Vec<ExampleView>,
}

/// A file of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ExampleView {
    pub(crate) id: String,
    pub(crate) watch: String,
    pub(crate) path: String,
}

/// The groups, and how many more there are.
pub(super) fn views(groups: &FailureGroups) -> (Vec<FailureGroupView>, u64) {
    let views: Vec<_> = groups.largest.iter().map(view).collect();
    let more = groups.all.saturating_sub(views.len() as u64);
    (views, more)
}

/// One group.
pub(crate) fn view(group: &FailureGroup) -> FailureGroupView {
    let files = group.failed + group.retrying;
    // One file has nothing in common with others.
    let only = group.examples.first().filter(|_| files == 1);
    let reason = only.and_then(|file| file.reason.as_ref());
    let reason = reason.unwrap_or(&group.reason).clone();
    FailureGroupView {
        key: group.key.clone(),
        failure: FailureKind::as_str(group.kind),
        text: format!("{}: {}", plural(files, "file", "files"), short(&reason)),
        reason,
        hint: match only {
            Some(file) => file.hint.clone(),
            None => group.hint.clone(),
        },
        files,
        failed: group.failed,
        retrying: group.retrying,
        watches: group.watches.clone(),
        since: group.since,
        next_attempt: group.next_attempt,
        examples: group.examples.iter().map(example).collect(),
    }
}

fn example(file: &FileReport) -> ExampleView {
    ExampleView {
        id: file.id.to_string(),
        watch: file.watch.clone(),
        path: file.path.to_string_lossy().into_owned(),
    }
}

/// The reason without "cannot upload "…": ", which the list of files says as well.
fn short(reason: &str) -> &str {
    ["cannot upload ", "cannot synchronize "]
        .iter()
        .find_map(|verb| reason.strip_prefix(verb)?.strip_prefix('"'))
        .and_then(|rest| rest.split_once("\": "))
        .map_or(reason, |(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_without_the_name_of_its_file() {
        for (reason, shorter) in [
            (
                "cannot synchronize \"…\": the iModel is full",
                "the iModel is full",
            ),
            ("cannot upload \"a b.dgn\": it is empty", "it is empty"),
            ("cannot upload it", "cannot upload it"),
            ("it is \"x\": y", "it is \"x\": y"),
        ] {
            assert_eq!(short(reason), shorter);
        }
    }
}
