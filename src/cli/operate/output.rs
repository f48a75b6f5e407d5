//! What a command says: lines, or one JSON object at its end.

use serde::Serialize;

use super::{LINES_MAX, Reached, shown};
use crate::cli::{json, print_line};
use crate::ledger::FileReport;

/// Prints lines at once, or collects an object.
pub(super) struct Output {
    is_json: bool,
    executed: Executed,
}

/// What a command did, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Executed {
    version: u32,
    /// Its name.
    command: &'static str,
    /// Nothing was changed, because of `--dry-run`.
    dry_run: bool,
    /// Null: nothing was to do, or it was a dry run.
    by: Option<By>,
    /// Number of files or watches that it changed, or would change.
    count: u64,
    /// The watches that were named, or all.
    watches: Vec<String>,
    /// The files that it applies to; of `--failed` the first 50, of `--group` none.
    files: Vec<NamedFile>,
    /// Files that were named, and that it does not apply to.
    skipped: Vec<NamedFile>,
}

/// Who executed a command.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum By {
    /// The running daemon.
    Daemon,
    /// No daemon is running: it takes effect when it starts.
    Ledger,
}

/// A file that a command applies to, or not.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NamedFile {
    watch: String,
    /// Relative to the folder of its watch.
    path: String,
    /// Its state, and what happens to it.
    text: String,
}

impl Output {
    pub(super) fn new(command: &'static str, is_json: bool, dry_run: bool) -> Self {
        Self {
            is_json,
            executed: Executed {
                version: json::VERSION,
                command,
                dry_run,
                by: None,
                count: 0,
                watches: Vec::new(),
                files: Vec::new(),
                skipped: Vec::new(),
            },
        }
    }

    /// Prints a line, unless JSON is asked for.
    pub(super) fn line(&self, text: &str) {
        if !self.is_json {
            print_line(text);
        }
    }

    /// The files that the command applies to. `text` continues after the name of the file.
    pub(super) fn files(&mut self, files: &[&FileReport], text: impl Fn(&FileReport) -> String) {
        self.list(files, &text);
        if self.is_json {
            let named = files.iter().map(|file| named(file, &text(file)));
            self.executed.files.extend(named);
        }
    }

    /// Files that it does not apply to.
    pub(super) fn skipped(&mut self, files: &[&FileReport], text: impl Fn(&FileReport) -> String) {
        self.list(files, &text);
        if self.is_json {
            let named = files.iter().map(|file| named(file, &text(file)));
            self.executed.skipped.extend(named);
        }
    }

    /// Prints a line for each file, up to a limit.
    fn list(&self, files: &[&FileReport], text: &impl Fn(&FileReport) -> String) {
        for file in files.iter().take(LINES_MAX) {
            self.line(&format!("{}{}", shown(file), text(file)));
        }
        self.more(files.len().saturating_sub(LINES_MAX) as u64);
    }

    /// Says how many files are not listed.
    pub(super) fn more(&self, more: u64) {
        if more > 0 {
            self.line(&format!("… and {more} more"));
        }
    }

    pub(super) fn watches(&mut self, watches: &[String]) {
        self.executed.watches = watches.to_vec();
    }

    /// The end of a dry run: how many it would change.
    pub(super) fn would(mut self, count: u64, line: &str) {
        self.executed.count = count;
        self.end(line);
    }

    /// The end of a command that was executed.
    pub(super) fn done(mut self, reached: &Reached, line: &str) {
        let (by, count) = match reached {
            Reached::Daemon(count) => (By::Daemon, *count),
            Reached::Ledger(count) => (By::Ledger, *count),
        };
        (self.executed.by, self.executed.count) = (Some(by), count);
        self.end(line);
    }

    /// The end, with the last line.
    pub(super) fn end(self, line: &str) {
        print_line(&if self.is_json {
            json::text(&self.executed)
        } else {
            line.to_owned()
        });
    }
}

fn named(file: &FileReport, text: &str) -> NamedFile {
    NamedFile {
        watch: file.watch.clone(),
        path: file.path.to_string_lossy().into_owned(),
        text: text.trim_start_matches([':', ' ']).to_owned(),
    }
}
