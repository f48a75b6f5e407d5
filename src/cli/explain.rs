//! `itwin-syncd explain`: would this path be taken, and why or why not.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;

use super::status::moment;
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, complain, complain_of_config, matching,
};
use crate::config::{Offline, Watch};
use crate::control::{self, Answer, Request};
use crate::ledger::{FileReport, Fingerprint, JobState, Known, Ledger, WatchReport};
use crate::names::{self, Shown};
use crate::rooted_fs::{self, Kind, Root};
use crate::runtime_status::Now;
use crate::selection::Verdict;
use crate::state_directory;
use crate::status_view;
use crate::watch::Unfinished;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files by their path; they need not be there. Write -- before a name that begins with "-".
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(super) async fn explain(arguments: &Arguments) -> u8 {
    let config = match Offline::load(&arguments.config.config) {
        Ok(config) => config,
        Err(mistakes) => {
            complain_of_config(&mistakes);
            return EXIT_CONFIG;
        }
    };
    // Before the rights are given up: the owner of the state may not be able to read every folder.
    let places: Vec<_> = arguments
        .paths
        .iter()
        .map(|path| {
            let place = matching::place(path, &config.watches)?;
            let on_disk = disk(place.0, &place.1);
            Some((place, on_disk))
        })
        .collect();
    if let Err(error) = state_directory::act_as_owner(&config.state.path) {
        complain(&error, Some(error.hint()));
        return EXIT_FAILED;
    }
    let known = Knowledge::gather(&config).await;
    let mut all_taken = true;
    for (path, place) in arguments.paths.iter().zip(places) {
        let told = one(place, &config, &known).await;
        all_taken &= told.taken;
        say(&format!("{}: {}", Shown(path), told.answer));
        for line in told.lines {
            say(&format!("  {line}"));
        }
    }
    if all_taken { EXIT_GOOD } else { EXIT_FAILED }
}

/// What was found out about a path.
struct Told {
    taken: bool,
    /// Yes or no, in words.
    answer: String,
    /// Why.
    lines: Vec<String>,
}

impl Told {
    fn no(answer: &str, line: String) -> Self {
        Self {
            taken: false,
            answer: format!("not taken: {answer}"),
            lines: vec![line],
        }
    }
}

/// What ledger and daemon know, as far as they are there.
struct Knowledge {
    ledger: Option<Ledger>,
    watches: Vec<WatchReport>,
    daemon: Option<Now>,
}

impl Knowledge {
    async fn gather(config: &Offline) -> Self {
        let state = &config.state.path;
        let ledger = Ledger::read(state).await.ok();
        let watches = match &ledger {
            Some(ledger) => ledger.watch_reports(crate::clock::now()).await.ok(),
            None => None,
        };
        let daemon = match control::ask(state, &Request::Now).await {
            Ok(Some(Answer::Now(now))) => Some(*now),
            _ => None,
        };
        Self {
            ledger,
            watches: watches.unwrap_or_default(),
            daemon,
        }
    }

    async fn file(&self, watch: &str, path: &Path) -> Option<FileReport> {
        self.ledger.as_ref()?.file_at(watch, path).await.ok()?
    }

    fn watch(&self, name: &str) -> Option<&WatchReport> {
        self.watches.iter().find(|report| report.name == name)
    }
}

async fn one(
    place: Option<((&Watch, PathBuf), OnDisk)>,
    config: &Offline,
    known: &Knowledge,
) -> Told {
    let Some(((watch, below), on_disk)) = place else {
        let folders: Vec<String> = config
            .watches
            .iter()
            .map(|watch| format!("{} ({})", watch.path.display(), watch.name))
            .collect();
        return Told::no(
            "it is in no watched folder",
            format!("watched are: {}", folders.join(", ")),
        );
    };
    let inside = below
        .parent()
        .is_some_and(|dir| !dir.as_os_str().is_empty());
    let in_watch = format!("watch {:?}, folder {}", watch.name, watch.path.display());
    if below.as_os_str().is_empty() {
        return Told::no("it is the watched folder itself", in_watch);
    }
    if inside && !watch.recursive {
        return Told::no(
            "it is in a folder below, and the watch has recursive = false",
            in_watch,
        );
    }
    let (answer, rule) = match watch.selection.decide(&below) {
        Verdict::Ignored(reason) => {
            let mut told = Told::no(&format!("ignored, {reason}"), in_watch);
            told.lines.push(match reason {
                crate::selection::Reason::DotFolder => format!(
                    "to do: rename the folder, or name it in include of the watch {:?}, as in include = [\"*\", \".name/**\"]",
                    watch.name
                ),
                crate::selection::Reason::BuiltIn { .. } => {
                    "to do: save it under another name; the built-in list cannot be changed"
                        .to_owned()
                }
                _ => format!(
                    "to do: change include or exclude of the watch {:?}",
                    watch.name
                ),
            });
            return told;
        }
        Verdict::NoConnector => {
            let mut told = Told::no("no connector is known for its extension", in_watch);
            told.lines.push(
                "to do: name one in connectors of the watch, or the file in upload_only to only store it".to_owned(),
            );
            return told;
        }
        Verdict::UploadOnly { glob } => (
            "taken: uploaded to storage, not synchronized".to_owned(),
            format!("upload_only has {glob:?}"),
        ),
        Verdict::Source { connector, why } => (
            "taken: uploaded and synchronized".to_owned(),
            format!("connector {}: {why}", connector.as_str()),
        ),
    };
    let mut told = Told {
        taken: true,
        answer,
        lines: vec![format!("{in_watch} → iModel {}", watch.imodel_id), rule],
    };
    if let Err(error) = names::storage_path(&below) {
        told.taken = false;
        "taken, but it will fail".clone_into(&mut told.answer);
        told.lines
            .push(format!("{error}; to do: rename the file or folder"));
    }
    match &on_disk {
        OnDisk::File(fingerprint) if fingerprint.size == 0 => {
            told.lines
                .push("on disk: it is empty, and will fail until it has content".to_owned());
        }
        OnDisk::File(fingerprint) => told.lines.push(format!(
            "on disk: {}, changed {}",
            bytesize::ByteSize(fingerprint.size).display().iec(),
            moment(
                Timestamp::from_nanosecond(i128::from(fingerprint.mtime_ns)).unwrap_or_default()
            )
        )),
        OnDisk::Other(what) => {
            told.taken = false;
            "not taken now: ".clone_into(&mut told.answer);
            told.answer.push_str(what);
            told.lines.push(format!("on disk: {what}"));
        }
    }
    state(&mut told, watch, &below, &on_disk, config, known).await;
    told
}

/// What is there.
enum OnDisk {
    File(Fingerprint),
    Other(String),
}

fn disk(watch: &Watch, below: &Path) -> OnDisk {
    let looked = Root::open(&watch.path).and_then(|root| match root.kind(below)? {
        Kind::Regular => Ok(OnDisk::File(rooted_fs::fingerprint(root.file(below)?)?)),
        Kind::Folder => Ok(OnDisk::Other("it is a folder".to_owned())),
        Kind::Other => Ok(OnDisk::Other(
            "it is a link or no regular file, and such are never taken".to_owned(),
        )),
    });
    looked.unwrap_or_else(|error| {
        OnDisk::Other(if rooted_fs::is_gone(&error) {
            "there is no such file at the moment".to_owned()
        } else {
            format!("it cannot be opened now: {error}")
        })
    })
}

/// Where it stands, and what it waits for.
async fn state(
    told: &mut Told,
    watch: &Watch,
    below: &Path,
    on_disk: &OnDisk,
    config: &Offline,
    known: &Knowledge,
) {
    let file = known.file(&watch.name, below).await;
    let file = file.as_ref();
    if let Some(file) = file {
        let at = file
            .result_time()
            .map(|at| format!(", {}", moment(at)))
            .unwrap_or_default();
        told.lines
            .push(format!("state: {}{at}", status_view::word(file)));
        if let Some(reason) = &file.reason {
            told.lines.push(format!("why: {reason}"));
        }
        if let Some(hint) = &file.hint {
            told.lines.push(format!("to do: {hint}"));
        }
    } else {
        told.lines
            .push("state: not handed over for upload yet".to_owned());
    }
    let unfinished = unfinished(config, watch, below).await;
    if let Some(waits) = waits_for(watch, below, on_disk, unfinished.as_ref(), known).await {
        told.lines.push(format!("waits for: {waits}"));
    }
    let report = known.watch(&watch.name);
    let blocked = report.and_then(|report| report.blocked.as_ref());
    match (file, blocked) {
        (Some(file), Some(run)) if file.job == Some(JobState::Stored) => {
            told.lines.push(format!(
                "waits for: the end of run {} of connection {:?}, active since {}",
                run.run,
                run.connection,
                moment(run.since)
            ));
        }
        _ => {
            if let Some(next) = file.and_then(next_step) {
                told.lines.push(format!("waits for: {next}"));
            }
        }
    }
    let held = report
        .filter(|report| report.configured)
        .and_then(|report| report.held.as_ref());
    if let Some((_, reason)) = held {
        told.lines.push(format!("the watch is held: {reason}"));
    }
    if let Some(report) = report.filter(|report| report.note.is_some()) {
        told.lines.push(format!(
            "its folder is {}: {}",
            status_view::root_word(report.root),
            report.note.as_deref().unwrap_or_default()
        ));
    }
}

/// What brings a file on that nothing is wrong with.
fn next_step(file: &FileReport) -> Option<&'static str> {
    match file.job.filter(|_| file.reason.is_none())? {
        JobState::Due => Some("a free upload worker (upload.workers)"),
        JobState::Stored => Some(
            "a run of its iModel: files gather for it (sync.batch_window), and a run under way comes first",
        ),
        JobState::Running => Some("the end of the run, and the connector's word on this file"),
        JobState::Uploading | JobState::Failed => None,
    }
}

async fn unfinished(config: &Offline, watch: &Watch, below: &Path) -> Option<Unfinished> {
    use std::os::unix::ffi::OsStrExt as _;
    let request = Request::Unfinished {
        watch: watch.name.clone(),
        path: below.as_os_str().as_bytes().to_owned(),
    };
    match control::ask(&config.state.path, &request).await {
        Ok(Some(Answer::Unfinished { file })) => file,
        _ => None,
    }
}

async fn waits_for(
    watch: &Watch,
    below: &Path,
    on_disk: &OnDisk,
    unfinished: Option<&Unfinished>,
    known: &Knowledge,
) -> Option<String> {
    if let Some(file) = unfinished {
        let settle = watch.patience.settle;
        return Some(if file.busy {
            "the program that has it open; it is looked at again until it can be read".to_owned()
        } else {
            format!(
                "its end of being written: unchanged for {:.0} s of {:.0} s",
                std::time::Duration::from_millis(file.unchanged_ms).as_secs_f64(),
                settle.as_secs_f64()
            )
        });
    }
    let OnDisk::File(fingerprint) = on_disk else {
        return None;
    };
    let last: Option<Known> = match &known.ledger {
        Some(ledger) => ledger
            .known_by_name(&watch.name, below)
            .await
            .ok()
            .flatten(),
        None => None,
    };
    if last.is_some_and(|last| last.fingerprint == Some(*fingerprint)) {
        return None;
    }
    Some(match &known.daemon {
        None => "the daemon: none is running".to_owned(),
        Some(now) => match now.roots.get(&watch.name).and_then(|root| root.next_scan) {
            Some(at) => format!(
                "the daemon to notice its newest version: at once by an event, or by the scan {}",
                moment(at)
            ),
            None => "the daemon to notice its newest version".to_owned(),
        },
    })
}

#[allow(clippy::print_stdout, reason = "the answer is what the command is for")]
fn say(text: &str) {
    println!("{text}");
}
