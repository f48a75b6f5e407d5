//! What `explain` says about a folder: how many of its files are selected and in which state, and which files and
//! folders are ignored, by which rule.
//!
//! The folder is read as a scan reads it, without following links, up to a number of files and for a limited time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType};

use super::{Explanation, Knowledge, in_watch};
use crate::config::Watch;
use crate::names::QuotedPath;
use crate::rooted_fs::{Kind, RootDir};
use crate::selection::Verdict;
use crate::status_view;
use crate::text::plural;

/// Files and folders that are read.
const ENTRIES_MAX: u64 = 500_000;

/// How long they are read.
const TIME: Duration = Duration::from_secs(20);

/// Rules that are listed, and names for each of them.
const RULES: usize = 20;
const NAMES: usize = 10;

/// Files that one query reads.
const PAGE: u32 = 1000;

/// What is in a folder.
#[derive(Default)]
pub(super) struct Survey {
    /// Files that become source files.
    sources: u64,
    /// Files that are only stored.
    stored: u64,
    /// By the rule that ignores them.
    ignored: BTreeMap<String, Ignored>,
    /// Folders that could not be read.
    unread: Vec<String>,
    /// Why not all of it was read.
    incomplete: Option<&'static str>,
}

/// Files and folders that one rule ignores.
#[derive(Default)]
struct Ignored {
    files: u64,
    folders: u64,
    /// Some of them.
    names: Vec<PathBuf>,
}

impl Survey {
    fn ignored_files(&self) -> u64 {
        self.ignored.values().map(|ignored| ignored.files).sum()
    }

    fn ignore(&mut self, rule: String, path: PathBuf, kind: Kind) {
        let ignored = self.ignored.entry(rule).or_default();
        match kind {
            Kind::Folder => ignored.folders += 1,
            Kind::Regular | Kind::Other => ignored.files += 1,
        }
        if ignored.names.len() < NAMES {
            ignored.names.push(path);
        }
    }
}

/// Reads a folder of a watch.
pub(super) fn survey(watch: &Watch, root: &RootDir, below: &Path) -> Survey {
    let mut survey = Survey::default();
    let deadline = Instant::now() + TIME;
    let mut read = 0;
    let mut waiting = vec![below.to_owned()];
    while let Some(dir) = waiting.pop() {
        let opened = root.folder(&dir).and_then(|fd| Ok(Dir::new(fd)?));
        let listing = match opened {
            Ok(listing) => listing,
            Err(error) => {
                survey.unread.push(format!("{}: {error}", QuotedPath(&dir)));
                continue;
            }
        };
        for entry in listing {
            let Ok(entry) = entry else {
                survey
                    .unread
                    .push(format!("{}: not read to its end", QuotedPath(&dir)));
                break;
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            read += 1;
            if read > ENTRIES_MAX || Instant::now() > deadline {
                survey.incomplete = Some(if read > ENTRIES_MAX {
                    "it has more than 500,000 files"
                } else {
                    "it takes longer than 20 s"
                });
                return survey;
            }
            let path = dir.join(name_of(name));
            let kind = match entry.file_type() {
                FileType::Directory => Kind::Folder,
                FileType::RegularFile => Kind::Regular,
                FileType::Unknown => root.kind(&path).unwrap_or(Kind::Other),
                _ => Kind::Other,
            };
            match kind {
                Kind::Folder => match not_entered(watch, &path) {
                    Some(rule) => survey.ignore(rule, path, kind),
                    None => waiting.push(path),
                },
                Kind::Regular => match watch.scope.decide_entered(&path) {
                    Verdict::Source { .. } => survey.sources += 1,
                    Verdict::UploadOnly { .. } | Verdict::Reference | Verdict::Companion(_) => {
                        survey.stored += 1;
                    }
                    Verdict::NoConnector => survey.ignore(NO_CONNECTOR.to_owned(), path, kind),
                    Verdict::Ignored(reason) => survey.ignore(reason.to_string(), path, kind),
                },
                Kind::Other => survey.ignore("link or special file".to_owned(), path, kind),
            }
        }
    }
    survey
}

const NO_CONNECTOR: &str = "no connector for its extension";

fn name_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Why a folder is not entered; None if it is.
fn not_entered(watch: &Watch, folder: &Path) -> Option<String> {
    if watch.scope.enters(folder) {
        return None;
    }
    Some(match watch.scope.decide(&folder.join("file")) {
        Verdict::Ignored(reason) => reason.to_string(),
        _ => "no file in it can be selected".to_owned(),
    })
}

/// The explanation of a folder.
pub(super) async fn explanation(
    watch: &Watch,
    below: &Path,
    survey: &Survey,
    known: &Knowledge,
) -> Explanation {
    let ancestors = below
        .ancestors()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(rule) = ancestors
        .filter_map(|folder| not_entered(watch, folder))
        .last()
    {
        return Explanation::no(&format!("ignored, {rule}"), in_watch(watch));
    }
    let selected = survey.sources + survey.stored;
    let mut lines = vec![
        format!("{} → iModel {}", in_watch(watch), watch.imodel_id),
        format!(
            "on disk: {} for synchronization, {} for upload only, {} ignored",
            plural(survey.sources, "file", "files"),
            survey.stored,
            survey.ignored_files()
        ),
    ];
    if let Some(why) = survey.incomplete {
        lines.push(format!("note: the folder is not counted to its end: {why}"));
    }
    let unread = survey.unread.iter().take(NAMES);
    lines.extend(unread.map(|folder| format!("warning: cannot read {folder}")));
    lines.extend(states(watch, below, known).await);
    let mut rules: Vec<_> = survey.ignored.iter().collect();
    rules.sort_by_key(|(_, ignored)| std::cmp::Reverse(ignored.files + ignored.folders));
    for (rule, ignored) in rules.iter().take(RULES) {
        lines.extend(ignored_text(rule, ignored));
    }
    if rules.len() > RULES {
        lines.push(format!("ignored by {} more rules", rules.len() - RULES));
    }
    Explanation {
        taken: true,
        answer: format!(
            "folder with {}",
            plural(selected, "selected file", "selected files")
        ),
        lines,
    }
}

fn ignored_text(rule: &str, ignored: &Ignored) -> Vec<String> {
    let mut what = Vec::new();
    if ignored.files > 0 {
        what.push(plural(ignored.files, "file", "files"));
    }
    if ignored.folders > 0 {
        let folders = plural(ignored.folders, "folder", "folders");
        what.push(format!("{folders} with all files in it"));
    }
    let mut lines = vec![format!("ignored, {rule}: {}", what.join(" and "))];
    let names = ignored.names.iter();
    lines.extend(names.map(|path| format!("  {}", QuotedPath(path))));
    let more = (ignored.files + ignored.folders).saturating_sub(ignored.names.len() as u64);
    if more > 0 {
        lines.push(format!("  … and {more} more"));
    }
    lines
}

/// How many known files in the folder are in which state.
async fn states(watch: &Watch, below: &Path, known: &Knowledge) -> Vec<String> {
    let Some(ledger) = &known.ledger else {
        return vec![format!("state: {}", known.no_ledger)];
    };
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    let mut after: Option<PathBuf> = None;
    loop {
        let page = match ledger.files_page(&watch.name, after.as_deref(), PAGE).await {
            Ok(page) => page,
            Err(error) => return vec![format!("state: cannot be read: {error}")],
        };
        let Some(last) = page.last() else { break };
        after = Some(last.path.clone());
        for file in page.iter().filter(|file| file.path.starts_with(below)) {
            *states.entry(status_view::word(file)).or_default() += 1;
        }
    }
    let mut states: Vec<_> = states.into_iter().collect();
    states.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let states: Vec<String> = states
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let text = if states.is_empty() {
        "no file known yet".to_owned()
    } else {
        states.join(", ")
    };
    vec![format!("state: {text}")]
}
