//! What came of each file of a push: the result, the output and the exit code. Decisions are pure; [`seen`] reads the
//! disk.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{EXIT_FAILED, EXIT_GOOD, json, print_line};
use crate::ids::{ImodelId, StorageFileId};
use crate::ledger::{FileReport, Fingerprint, JobState, Outcome};
use crate::names::QuotedPath;
use crate::rooted_fs;

/// Exit code: not everything was done within `--timeout`.
pub(super) const EXIT_TIMEOUT: u8 = 2;

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is left that more time would change.
    Done,
    /// Every run is requested; nobody waits for its end.
    RunRequested,
    /// The time of `--timeout` is over.
    TimedOut,
}

/// How the file on disk compares with the version that a ledger knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Current,
    /// The ledger knows another version, or none.
    Changed,
    /// It does not exist any more.
    Gone,
}

/// Compares the file on disk with the version that a ledger knows.
pub(super) async fn seen(path: &Path, known: Option<Fingerprint>) -> Seen {
    let path = path.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        // A pipe in its place would block whoever opens it.
        if !path.symlink_metadata()?.is_file() {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        rooted_fs::fingerprint(std::fs::File::open(path)?)
    });
    match found.await {
        Ok(Ok(found)) if known == Some(found) => Seen::Current,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Seen::Gone,
        _ => Seen::Changed,
    }
}

/// The result of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Synchronized,
    SynchronizedWithIssues,
    /// Storage and the iModel have this content from before.
    Unchanged,
    /// It is in storage, and not a source file.
    Uploaded,
    /// A run that reads it was requested.
    RunRequested,
    Pending,
    Failed,
}

impl Verdict {
    /// From what the ledger knows of the file. `began`: when the push did; what is older, is unchanged.
    pub(super) fn of(file: Option<&FileReport>, seen: Seen, began: Timestamp) -> Self {
        let file = match (seen, file) {
            (Seen::Gone, _) => return Self::Failed,
            (Seen::Changed, _) | (_, None) => return Self::Pending,
            (Seen::Current, Some(file)) => file,
        };
        match (file.job, &file.connector, file.stored_outcome, file.outcome) {
            (Some(JobState::Failed), ..) => Self::Failed,
            (Some(JobState::Running), ..) => Self::RunRequested,
            (Some(_), ..) => Self::Pending,
            (None, ..) if file.storage_file_id.is_none() => Self::Failed,
            (None, _, _, Some(Outcome::Unchanged)) => Self::Unchanged,
            (None, _, Some(stored), _)
                if is_good(stored) && file.outcome_at.is_some_and(|at| at < began) =>
            {
                Self::Unchanged
            }
            (None, None, ..) => Self::Uploaded,
            (None, _, Some(Outcome::Synchronized), _) => Self::Synchronized,
            (None, _, Some(Outcome::SynchronizedWithIssues), _) => Self::SynchronizedWithIssues,
            (None, ..) => Self::Failed,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::SynchronizedWithIssues => "synchronized with issues",
            Self::Unchanged => "unchanged",
            Self::Uploaded => "uploaded",
            Self::RunRequested => "run requested",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

fn is_good(stored: Outcome) -> bool {
    matches!(
        stored,
        Outcome::Synchronized | Outcome::SynchronizedWithIssues | Outcome::Uploaded
    )
}

/// A file with its result.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "PushedFile"))]
pub(super) struct FileResult {
    #[serde(serialize_with = "lossy")]
    pub(super) path: PathBuf,
    pub(super) result: Verdict,
    pub(super) connector: Option<String>,
    pub(super) storage_file_id: Option<StorageFileId>,
    pub(super) source_file_id: Option<String>,
    pub(super) bytes: Option<u64>,
    /// The platform's id of the last run that it was in.
    pub(super) run: Option<String>,
    /// The watch of the daemon that synchronizes it instead of this push.
    pub(super) watch: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) hint: Option<String>,
}

fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl FileResult {
    /// From what the ledger knows of the file at `path` on disk. `watch`: that of the daemon.
    pub(super) fn new(
        path: PathBuf,
        file: Option<&FileReport>,
        seen: Seen,
        began: Timestamp,
        watch: Option<&str>,
    ) -> Self {
        let (reason, hint) = match seen {
            Seen::Current => (
                file.and_then(|file| file.reason.clone()),
                file.and_then(|file| file.hint.clone()),
            ),
            Seen::Changed if file.is_none() => (None, None),
            Seen::Changed => (
                Some("its latest change is not uploaded yet".to_owned()),
                Some("run the same command again to continue".to_owned()),
            ),
            Seen::Gone => (
                Some("it was deleted while it was pushed".to_owned()),
                Some("push the other files without it".to_owned()),
            ),
        };
        Self {
            path,
            result: Verdict::of(file, seen, began),
            connector: file.and_then(|file| Some(file.connector.as_ref()?.to_string())),
            storage_file_id: file.and_then(|file| file.storage_file_id.clone()),
            source_file_id: file.and_then(|file| file.source_file_id.clone()),
            bytes: file.and_then(|file| file.bytes),
            run: file.and_then(|file| file.run.clone()),
            watch: watch.map(ToOwned::to_owned),
            reason,
            hint,
        }
    }
}

/// A storage connection.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Connection {
    pub(super) name: String,
    /// The platform's id, once it exists there.
    pub(super) id: Option<String>,
}

/// The whole result.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) imodel: ImodelId,
    pub(super) itwin: Option<String>,
    pub(super) connection: Option<Connection>,
    pub(super) files: Vec<FileResult>,
    pub(super) end: End,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Push"))]
pub(in crate::cli) struct Whole<'r> {
    version: u32,
    ok: bool,
    timed_out: bool,
    imodel: &'r ImodelId,
    itwin: Option<&'r str>,
    connection: Option<&'r Connection>,
    /// The last run.
    run: Option<&'r str>,
    files: &'r [FileResult],
}

impl Report {
    pub(super) fn exit_code(&self) -> u8 {
        let results: Vec<Verdict> = self.files.iter().map(|file| file.result).collect();
        exit_code(&results, self.end)
    }

    pub(super) fn print_json(&self) {
        let mut runs = self
            .files
            .iter()
            .rev()
            .filter_map(|file| file.run.as_deref());
        print_line(&json::text(&Whole {
            version: json::VERSION,
            ok: self.exit_code() == EXIT_GOOD,
            timed_out: self.end == End::TimedOut,
            imodel: &self.imodel,
            itwin: self.itwin.as_deref(),
            connection: self.connection.as_ref(),
            run: runs.next(),
            files: &self.files,
        }));
    }

    pub(super) fn print_text(&self) {
        for line in self.lines() {
            print_line(&line);
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for file in &self.files {
            let mut line = format!("{:<13} {}", file.result.word(), QuotedPath(&file.path));
            if let Some(connector) = &file.connector {
                line += &format!(" ({connector})");
            }
            if let Some(watch) = &file.watch {
                line += &format!(", by watch {watch:?}");
            }
            if let Some(reason) = &file.reason {
                line += &format!(": {reason}");
            }
            lines.push(line);
            if let Some(hint) = &file.hint {
                lines.push(format!("  hint: {hint}"));
            }
        }
        let all = [
            Verdict::Synchronized,
            Verdict::SynchronizedWithIssues,
            Verdict::Unchanged,
            Verdict::Uploaded,
            Verdict::RunRequested,
            Verdict::Pending,
            Verdict::Failed,
        ];
        let counts: Vec<String> = all
            .into_iter()
            .filter_map(|verdict| {
                let count = self
                    .files
                    .iter()
                    .filter(|file| file.result == verdict)
                    .count();
                (count > 0).then(|| format!("{count} {}", verdict.word()))
            })
            .collect();
        lines.push(counts.join(", "));
        match self.end {
            End::TimedOut => {
                lines.push("not done in time; run the same command again to continue".to_owned());
            }
            End::RunRequested if self.exit_code() == EXIT_GOOD => {
                lines.push("run the same command again to see the result of the run".to_owned());
            }
            End::RunRequested | End::Done => {}
        }
        lines
    }
}

fn exit_code(results: &[Verdict], end: End) -> u8 {
    let is_left = |result: Verdict| match result {
        Verdict::RunRequested => end != End::RunRequested,
        Verdict::Pending => true,
        _ => false,
    };
    if results.contains(&Verdict::Failed) {
        EXIT_FAILED
    } else if !results.iter().copied().any(is_left) {
        EXIT_GOOD
    } else if end == End::TimedOut {
        EXIT_TIMEOUT
    } else {
        EXIT_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_worst_file() {
        use Verdict::{Failed, Pending, RunRequested, Synchronized, Unchanged, Uploaded};
        for (results, end, expected) in [
            (&[Synchronized, Unchanged, Uploaded][..], End::Done, 0),
            (&[Synchronized, Failed], End::Done, 1),
            (&[Synchronized, Pending], End::Done, 1),
            (&[RunRequested], End::Done, 1),
            (&[RunRequested, Unchanged], End::RunRequested, 0),
            (&[RunRequested, Pending], End::RunRequested, 1),
            (&[Synchronized, Pending], End::TimedOut, 2),
            (&[Synchronized, RunRequested], End::TimedOut, 2),
            (&[Failed, Pending], End::TimedOut, 1),
            (&[Synchronized], End::TimedOut, 0),
        ] {
            assert_eq!(exit_code(results, end), expected, "{results:?} {end:?}");
        }
    }

    #[test]
    fn output() {
        let file = |path: &str, result, reason: Option<&str>| FileResult {
            path: path.into(),
            result,
            connector: Some("IFC".to_owned()),
            storage_file_id: Some("storage".into()),
            source_file_id: None,
            bytes: Some(7),
            run: Some("run".to_owned()),
            watch: None,
            reason: reason.map(ToOwned::to_owned),
            hint: reason.map(|_| "what to do".to_owned()),
        };
        let report = |end, result, reason| Report {
            imodel: "imodel".into(),
            itwin: Some("itwin".to_owned()),
            connection: None,
            files: vec![
                file("/srv/a.ifc", Verdict::Synchronized, None),
                file("/srv/b.ifc", result, reason),
            ],
            end,
        };
        let texts = [
            report(End::Done, Verdict::Failed, Some("why it failed")).lines(),
            report(End::RunRequested, Verdict::RunRequested, None).lines(),
            report(End::TimedOut, Verdict::Pending, None).lines(),
        ];
        insta::assert_snapshot!(texts.map(|lines| lines.join("\n")).join("\n\n"));
    }
}
