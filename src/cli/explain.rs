//! `itwin-syncd explain`: whether a path is synchronized, and why.
//!
//! Input: the configuration, the folders, and what ledger and daemon know. Output: an answer for each path, its rule,
//! the state of the file and what it waits for; for a folder how many files are in which state, and what is ignored by
//! which rule. It changes nothing.

mod content;
mod folder;
mod rule;
mod state;

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::status::moment;
use super::{
    ConfigArgument, EXIT_FAILED, EXIT_GOOD, chain, configuration, json, matching, print_error,
    print_line, service_unit,
};
use crate::config::{ReadOnlyConfig, Watch};
use crate::control::{self, Answer, Request};
use crate::ledger::{self, FileReport, Fingerprint, Ledger, Outcome, SetPart, WatchReport};
use crate::names::{self, QuotedPath};
use crate::rooted_fs::{self, Kind, RootDir};
use crate::runtime_status::RuntimeStatus;
use crate::shell;
use crate::state_directory;
use crate::status_view::{self, FileView};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files by path, which need not exist, or folders: these list what is ignored, and by which rule; write -- before
    /// a name that starts with "-"
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
}

/// All explanations, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Explained {
    version: u32,
    /// Every path is selected.
    ok: bool,
    paths: Vec<ExplainedPath>,
}

/// The explanation of a path, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ExplainedPath {
    /// As it was given.
    path: String,
    /// Whether it is synchronized or stored.
    selected: bool,
    /// The watch that it belongs to.
    watch: Option<String>,
    /// The answer as text.
    answer: String,
    /// Why, its state, and what it waits for, as text.
    lines: Vec<String>,
    /// What the ledger knows of the file.
    file: Option<FileView>,
}

pub(super) async fn explain(arguments: &Arguments) -> u8 {
    let config = match configuration::get(&arguments.config.config).await {
        Ok(config) => config,
        Err(code) => return code,
    };
    // Before dropping privileges: the owner of the state may not be able to read every folder.
    let places: Vec<_> = arguments
        .paths
        .iter()
        .map(|path| {
            let place = matching::place(path, &config.watches)?;
            let on_disk = disk(place.0, &place.1);
            Some((place, on_disk))
        })
        .collect();
    // Without permission to use it, `Knowledge` says so.
    if let Err(error) = service_unit::act_as_owner(&arguments.config.config, &config.state.path)
        && !matches!(error, state_directory::Error::Denied { .. })
    {
        print_error(&error, Some(error.hint()));
        return EXIT_FAILED;
    }
    let known = Knowledge::gather(&config).await;
    let mut explained = Explained {
        version: json::VERSION,
        ok: true,
        paths: Vec::new(),
    };
    for (path, place) in arguments.paths.iter().zip(places) {
        let at = place
            .as_ref()
            .map(|((watch, below), _)| (watch.name.clone(), below.clone()));
        let explanation = one(place, &config, &known).await;
        explained.ok &= explanation.taken;
        if arguments.json {
            let file = match &at {
                Some((watch, below)) => known.file(watch, below).await,
                None => None,
            };
            explained.paths.push(ExplainedPath {
                path: path.to_string_lossy().into_owned(),
                selected: explanation.taken,
                watch: at.map(|(watch, _)| watch),
                answer: explanation.answer,
                lines: explanation.lines,
                file: file.as_ref().map(status_view::file_view),
            });
            continue;
        }
        print_line(&format!("{}: {}", QuotedPath(path), explanation.answer));
        for line in explanation.lines {
            print_line(&format!("  {line}"));
        }
    }
    if arguments.json {
        print_line(&json::text(&explained));
    }
    if explained.ok { EXIT_GOOD } else { EXIT_FAILED }
}

/// The explanation of a path.
struct Explanation {
    taken: bool,
    /// The answer in one line.
    answer: String,
    /// Why.
    lines: Vec<String>,
}

impl Explanation {
    fn no(answer: &str, line: String) -> Self {
        Self {
            taken: false,
            answer: format!("not selected: {answer}"),
            lines: vec![line],
        }
    }
}

/// What ledger and daemon know, as far as they are available.
struct Knowledge {
    ledger: Option<Ledger>,
    /// Why there is no ledger to read.
    no_ledger: String,
    watches: Vec<WatchReport>,
    daemon: Option<RuntimeStatus>,
    /// Why a daemon could not be asked.
    no_daemon: Option<String>,
}

impl Knowledge {
    async fn gather(config: &ReadOnlyConfig) -> Self {
        let state = &config.state.path;
        let (ledger, no_ledger) = match Ledger::read(state).await {
            Ok(ledger) => (Some(ledger), String::new()),
            Err(error) => (None, why_unknown(&error)),
        };
        let watches = match &ledger {
            Some(ledger) => ledger.watch_reports(crate::clock::now()).await.ok(),
            None => None,
        };
        let (daemon, no_daemon) = match control::ask(state, &Request::Status).await {
            Ok(Some(Answer::Status(now))) => (Some(*now), None),
            Ok(_) => (None, None),
            Err(error) => (None, Some(chain(&error))),
        };
        Self {
            ledger,
            no_ledger,
            watches: watches.unwrap_or_default(),
            daemon,
            no_daemon,
        }
    }

    async fn file(&self, watch: &str, path: &Path) -> Option<FileReport> {
        self.ledger.as_ref()?.file_at(watch, path).await.ok()?
    }

    async fn companions(&self, file: Option<&FileReport>) -> Vec<SetPart> {
        match (&self.ledger, file) {
            (Some(ledger), Some(file)) => ledger.companions(file.id).await.unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn watch(&self, name: &str) -> Option<&WatchReport> {
        self.watches.iter().find(|report| report.name == name)
    }
}

/// Why nothing is known of the state of files.
fn why_unknown(error: &ledger::Error) -> String {
    if error.is_missing() {
        return format!(
            "no ledger yet; the first `{}` creates it",
            shell::command(["run"])
        );
    }
    let hint = error
        .hint()
        .map_or_else(String::new, |hint| format!("; {hint}"));
    format!("not known: {}{hint}", chain(error))
}

async fn one(
    place: Option<((&Watch, PathBuf), OnDisk)>,
    config: &ReadOnlyConfig,
    known: &Knowledge,
) -> Explanation {
    let Some(((watch, below), on_disk)) = place else {
        let folders: Vec<String> = config
            .watches
            .iter()
            .map(|watch| format!("{} ({})", watch.path.display(), watch.name))
            .collect();
        return Explanation::no(
            "not in a watched folder",
            format!("watched folders: {}", folders.join(", ")),
        );
    };
    let in_watch = in_watch(watch);
    if let OnDisk::Folder(survey) = &on_disk {
        return folder::explanation(watch, &below, survey, known).await;
    }
    let (answer, rule) = match rule::answer(watch, &below) {
        Ok(answer) => answer,
        Err(ignored) => return ignored,
    };
    let mut explanation = Explanation {
        taken: true,
        answer,
        lines: vec![format!("{in_watch} → iModel {}", watch.imodel_id), rule],
    };
    explanation
        .lines
        .extend(rule::settings(watch, &below, config));
    explanation
        .lines
        .extend(content::doubts(&watch.scope.decide(&below)));
    if let Err(error) = names::storage_path(&below) {
        explanation.taken = false;
        "will fail".clone_into(&mut explanation.answer);
        explanation.lines.push(format!("reason: {error}"));
    }
    match &on_disk {
        OnDisk::File(fingerprint) if fingerprint.size == 0 => {
            "will fail: the file is empty".clone_into(&mut explanation.answer);
            explanation
                .lines
                .push("on disk: 0 B; the upload succeeds when the file has content".to_owned());
        }
        OnDisk::File(fingerprint) => explanation.lines.push(format!(
            "on disk: {}, modified {}",
            bytesize::ByteSize(fingerprint.size).display().iec(),
            moment(
                Timestamp::from_nanosecond(i128::from(fingerprint.mtime_ns)).unwrap_or_default()
            )
        )),
        OnDisk::Folder(_) => {}
        OnDisk::Other(what) => {
            explanation.taken = false;
            "not synchronized now: ".clone_into(&mut explanation.answer);
            explanation.answer.push_str(what);
        }
    }
    if matches!(on_disk, OnDisk::File(_)) {
        explanation.lines.extend(content::references(watch, &below));
    }
    state::state(&mut explanation, watch, &below, &on_disk, config, known).await;
    let further = further_imodels(watch, &below, config, known).await;
    explanation.lines.extend(further);
    explanation
}

/// For a watch with several iModels: what each of them has of the file.
async fn further_imodels(
    watch: &Watch,
    below: &Path,
    config: &ReadOnlyConfig,
    known: &Knowledge,
) -> Vec<String> {
    let followers: Vec<&Watch> = matching::followers(&watch.name, &config.watches).collect();
    if followers.is_empty() {
        return Vec::new();
    }
    let mut synchronized = 0;
    let mut lines = Vec::new();
    for (at, one) in std::iter::once(watch).chain(followers).enumerate() {
        let file = known.file(&one.name, below).await;
        let is_done = file.as_ref().is_some_and(|file| {
            file.job.is_none()
                && matches!(
                    file.stored_outcome,
                    Some(Outcome::Synchronized | Outcome::SynchronizedWithIssues)
                )
        });
        synchronized += usize::from(is_done);
        if at > 0 {
            let word = file.as_ref().map_or("not known yet", status_view::word);
            let reason = file.as_ref().and_then(|file| file.reason.as_ref());
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            lines.push(format!("in iModel {}: {word}{reason}", one.imodel_id));
        }
    }
    let count = lines.len() + 1;
    lines.push(format!("synchronized in {synchronized} of {count} iModels"));
    lines
}

/// What is at the path.
enum OnDisk {
    File(Fingerprint),
    Folder(folder::Survey),
    Other(String),
}

fn disk(watch: &Watch, below: &Path) -> OnDisk {
    let looked = RootDir::open(&watch.path).and_then(|root| match kind(&root, below)? {
        Kind::Regular => Ok(OnDisk::File(rooted_fs::fingerprint(root.file(below)?)?)),
        Kind::Folder => Ok(OnDisk::Folder(folder::survey(watch, &root, below))),
        Kind::Other => Ok(OnDisk::Other(
            "this is a link or special file, which is never synchronized".to_owned(),
        )),
    });
    looked.unwrap_or_else(|error| {
        OnDisk::Other(if rooted_fs::is_gone(&error) {
            "the file does not exist".to_owned()
        } else {
            format!("cannot open the file: {error}")
        })
    })
}

/// What the path is; the empty path is the root itself.
fn kind(root: &RootDir, below: &Path) -> std::io::Result<Kind> {
    if below.as_os_str().is_empty() {
        return Ok(Kind::Folder);
    }
    root.kind(below)
}

/// The watch of a path.
fn in_watch(watch: &Watch) -> String {
    format!("watch {:?}, folder {}", watch.name, watch.path.display())
}

#[cfg(test)]
mod tests;
