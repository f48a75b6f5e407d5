//! `itwin-syncd explain`: whether a path is synchronized, and why.
//!
//! Longer than most files because everything that a file can wait for has its text here, with the test of the output.

mod content;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;

use super::status::{moment, upcoming};
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, matching, print_config_errors,
    print_error, print_line, unfinished_file,
};
use crate::config::{self, OnDelete, ReadOnlyConfig, Watch};
use crate::control::{self, Answer, Request};
use crate::ledger::{
    Absence, FileReport, Fingerprint, Inactive, JobState, Known, Ledger, Outcome, SetPart,
    WatchReport,
};
use crate::names::{self, QuotedPath};
use crate::rooted_fs::{self, Kind, RootDir};
use crate::runtime_status::RuntimeStatus;
use crate::selection::{self, Reason, Verdict};
use crate::state_directory;
use crate::status_view::{self, WaitView};
use crate::watch::Unfinished;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Files by path; they need not exist; write -- before a name that starts with "-"
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(super) async fn explain(arguments: &Arguments) -> u8 {
    let config = match ReadOnlyConfig::load(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
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
    if let Err(error) = state_directory::act_as_owner(&config.state.path) {
        print_error(&error, Some(error.hint()));
        return EXIT_FAILED;
    }
    let known = Knowledge::gather(&config).await;
    let mut all_taken = true;
    for (path, place) in arguments.paths.iter().zip(places) {
        let explanation = one(place, &config, &known).await;
        all_taken &= explanation.taken;
        print_line(&format!("{}: {}", QuotedPath(path), explanation.answer));
        for line in explanation.lines {
            print_line(&format!("  {line}"));
        }
    }
    if all_taken { EXIT_GOOD } else { EXIT_FAILED }
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
    watches: Vec<WatchReport>,
    daemon: Option<RuntimeStatus>,
}

impl Knowledge {
    async fn gather(config: &ReadOnlyConfig) -> Self {
        let state = &config.state.path;
        let ledger = Ledger::read(state).await.ok();
        let watches = match &ledger {
            Some(ledger) => ledger.watch_reports(crate::clock::now()).await.ok(),
            None => None,
        };
        let daemon = match control::ask(state, &Request::Status).await {
            Ok(Some(Answer::Status(now))) => Some(*now),
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

/// The window that a file waits for.
fn window_wait(file: &FileReport, report: Option<&WatchReport>) -> Option<WaitView> {
    let stage = match file.job? {
        JobState::Due => "upload",
        JobState::Stored => "run",
        JobState::Uploading | JobState::Running | JobState::Failed => return None,
    };
    let waits = status_view::waits(report?, crate::clock::now());
    waits.into_iter().find(|wait| wait.stage == stage)
}

fn is_spatial_root(config: &ReadOnlyConfig, watch: &Watch, below: &Path) -> bool {
    config
        .imodels
        .iter()
        .filter(|imodel| imodel.id == watch.imodel_id)
        .filter_map(|imodel| imodel.spatial_root.as_ref())
        .any(|root| root.watch == watch.name && root.path == below)
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
    let in_watch = format!("watch {:?}, folder {}", watch.name, watch.path.display());
    if below.as_os_str().is_empty() {
        return Explanation::no("this is the watched folder itself", in_watch);
    }
    let (answer, rule) = match watch.scope.decide(&below) {
        Verdict::Ignored(reason @ Reason::NotRecursive) => {
            return Explanation::no(&reason.to_string(), in_watch);
        }
        Verdict::Ignored(reason) => {
            let mut explanation = Explanation::no(&format!("ignored, {reason}"), in_watch);
            explanation.lines.push(match reason {
                Reason::DotFolder => format!(
                    "hint: rename the folder, or add it to include of watch {:?}, as in include = [\"*\", \".name/**\"]",
                    watch.name
                ),
                Reason::BuiltIn { .. } => {
                    "hint: save it under another name; the built-in list cannot be changed"
                        .to_owned()
                }
                _ => format!(
                    "hint: change include or exclude of watch {:?}",
                    watch.name
                ),
            });
            return explanation;
        }
        Verdict::NoConnector => {
            let mut explanation = Explanation::no("no connector for its extension", in_watch);
            explanation.lines.push(
                "hint: set one in connectors of the watch, or add the file to upload_only"
                    .to_owned(),
            );
            return explanation;
        }
        Verdict::UploadOnly { glob } => (
            "selected for upload only".to_owned(),
            format!("matches upload_only {glob:?}"),
        ),
        Verdict::Reference => (
            "selected for upload only".to_owned(),
            "reference: masters is set and no glob matches".to_owned(),
        ),
        Verdict::Companion(companion) => (
            "selected for upload only".to_owned(),
            format!(
                "companion of {}",
                QuotedPath(Path::new(&companion.to_string()))
            ),
        ),
        Verdict::Source {
            master: None,
            connector,
            why,
        } => (
            "selected for synchronization".to_owned(),
            format!("connector {}: {why}", connector.as_str()),
        ),
        Verdict::Source {
            master: Some(glob),
            connector,
            why,
        } => (
            "selected for synchronization".to_owned(),
            format!(
                "master: matches masters {glob:?}; connector {}: {why}",
                connector.as_str()
            ),
        ),
    };
    let mut explanation = Explanation {
        taken: true,
        answer,
        lines: vec![format!("{in_watch} → iModel {}", watch.imodel_id), rule],
    };
    if is_spatial_root(config, watch, &below) {
        let line =
            "spatial root of the iModel: synchronized first and alone, while the iModel is empty";
        explanation.lines.push(line.to_owned());
    }
    if let Verdict::Source { connector, .. } = watch.scope.decide(&below)
        && watch.connection.is_per_type()
    {
        let line = format!("connection {:?}", watch.connection.of(&connector));
        explanation.lines.push(line);
    }
    let mut imodels = config.imodels.iter();
    let imodel = imodels.find(|imodel| imodel.id == watch.imodel_id);
    if let Some(version) = imodel.and_then(|imodel| imodel.named_version.as_ref()) {
        let line = format!("named version of the iModel: {}", version.when_text());
        explanation.lines.push(line);
    }
    let of_watch = config
        .connection_settings
        .iter()
        .find(|one| one.imodel_id == watch.imodel_id && one.connection == watch.connection);
    for (what, settings) in [
        ("iModel", imodel.and_then(|imodel| imodel.settings.as_ref())),
        ("connection", of_watch.map(|one| &one.settings)),
    ] {
        if let Some(settings) = settings {
            let line = format!("settings of the {what}: {}", settings.text());
            explanation.lines.push(line);
        }
    }
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
        OnDisk::Other(what) => {
            explanation.taken = false;
            "not synchronized now: ".clone_into(&mut explanation.answer);
            explanation.answer.push_str(what);
        }
    }
    if matches!(on_disk, OnDisk::File(_)) {
        explanation.lines.extend(content::references(watch, &below));
    }
    state(&mut explanation, watch, &below, &on_disk, config, known).await;
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
    Other(String),
}

fn disk(watch: &Watch, below: &Path) -> OnDisk {
    let looked = RootDir::open(&watch.path).and_then(|root| match root.kind(below)? {
        Kind::Regular => Ok(OnDisk::File(rooted_fs::fingerprint(root.file(below)?)?)),
        Kind::Folder => Ok(OnDisk::Other("this is a folder".to_owned())),
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

/// Adds the last result of the file.
fn last_result(explanation: &mut Explanation, file: Option<&FileReport>) {
    if let Some(file) = file {
        let at = file
            .result_time()
            .map(|at| format!(", {}", moment(at)))
            .unwrap_or_default();
        explanation
            .lines
            .push(format!("state: {}{at}", status_view::word(file)));
        if let Some(reason) = &file.reason {
            explanation.lines.push(format!("reason: {reason}"));
        }
        if let Some(hint) = &file.hint {
            explanation.lines.push(format!("hint: {hint}"));
        }
        if let Some(at) = file.next_attempt.filter(|_| file.reason.is_some()) {
            let attempt = file.attempts + 1;
            let at = upcoming(at, crate::clock::now());
            let next = format!("next attempt: {at} (attempt {attempt})");
            explanation.lines.push(next);
        }
    } else {
        explanation
            .lines
            .push("state: not queued for upload yet".to_owned());
    }
}

/// What happens to a deleted file, by the configuration.
fn on_delete(watch: &Watch) -> String {
    let after = config::show_duration(&watch.delete_after);
    match watch.on_delete {
        OnDelete::Keep => "deleted files stay on the platform: on_delete = \"keep\"".to_owned(),
        OnDelete::Unmap => format!(
            "removed from the connection after being gone for {after}: on_delete = \"unmap\""
        ),
        OnDelete::Remove => format!(
            "removed from the connection and from storage after being gone for {after}: on_delete = \"remove\""
        ),
    }
}

/// Adds the state of the file, and what it waits for.
async fn state(
    explanation: &mut Explanation,
    watch: &Watch,
    below: &Path,
    on_disk: &OnDisk,
    config: &ReadOnlyConfig,
    known: &Knowledge,
) {
    let file = known.file(&watch.name, below).await;
    let file = file.as_ref();
    last_result(explanation, file);
    if file.is_some_and(|file| matches!(file.absence, Some((Absence::Gone, _)))) {
        explanation.lines.push(on_delete(watch));
    }
    let set = known.companions(file).await;
    if !set.is_empty() {
        let names: Vec<String> = set.iter().map(companion).collect();
        explanation
            .lines
            .push(format!("companions: {}", names.join(", ")));
        let present = set.iter().map(|part| part.name.as_os_str());
        let name = below.file_name().unwrap_or_default();
        if let Some(lacking) = selection::lacking_projection(name, present) {
            let quoted = |name: &OsString| QuotedPath(name.as_ref()).to_string();
            let names: Vec<String> = lacking.names.iter().map(quoted).collect();
            explanation.lines.push(format!(
                "note: {} is missing: the coordinate system of the {} is unknown to the connector",
                names.join(" and "),
                lacking.format
            ));
        }
    }
    let unfinished = unfinished_file::ask(&config.state.path, &watch.name, below).await;
    if let Some(waits) = waits_for(watch, below, on_disk, unfinished.as_ref(), known).await {
        explanation.lines.push(format!("waiting for: {waits}"));
    }
    if let Some(hint) = unfinished.and_then(|file| file.hint) {
        explanation.lines.push(format!("hint: {hint}"));
    }
    let report = known.watch(&watch.name);
    let suspended = report
        .filter(|report| report.configured)
        .and_then(|report| Some((report.inactive.as_ref()?, &report.name)));
    let blocked = report.and_then(|report| report.blocked.as_ref());
    let waits = report.and_then(|report| report.spatial_root.as_ref());
    match (file, blocked) {
        (Some(file), Some(run)) if file.job == Some(JobState::Stored) => {
            explanation.lines.push(format!(
                "waiting for: run {} of connection {:?}, first seen active {}",
                run.run,
                run.connection,
                moment(run.since)
            ));
        }
        (Some(file), None)
            if file.job == Some(JobState::Stored)
                && waits.is_some_and(|wait| Path::new(&wait.path) != below) =>
        {
            if let Some(wait) = waits {
                explanation.lines.push(wait.text());
                let hint = wait.hint(&watch.name);
                explanation
                    .lines
                    .extend(hint.map(|hint| format!("hint: {hint}")));
            }
        }
        (Some(file), None) if window_wait(file, report).is_some() => {
            let wait = window_wait(file, report);
            explanation.lines.extend(
                wait.map(|wait| {
                    format!("waiting for: {}_window, {}", wait.stage, moment(wait.until))
                }),
            );
        }
        // Nothing else starts before the watch is resumed.
        _ if suspended.is_some() => {}
        _ => {
            let on_its_way = set.iter().find(|part| part.job.is_some());
            let stored = file.is_some_and(|file| file.job == Some(JobState::Stored));
            if let Some(part) = on_its_way.filter(|_| stored) {
                let name = QuotedPath(part.name.as_ref());
                explanation
                    .lines
                    .push(format!("waiting for: the upload of its companion {name}"));
            } else if let Some(next) = file.and_then(next_step) {
                explanation.lines.push(format!("waiting for: {next}"));
            }
        }
    }
    if let Some((inactive, name)) = suspended {
        let state = match inactive {
            Inactive::Paused { .. } => "paused",
            Inactive::AwaitsImodel { .. } => "waits for its iModel",
            Inactive::Suspended(_) | Inactive::BackingOff { .. } => "suspended",
        };
        let reason = inactive.reason(name);
        explanation.lines.push(format!("watch {state}: {reason}"));
    }
    if let Some(report) = report.filter(|report| report.note.is_some()) {
        explanation.lines.push(format!(
            "folder {}: {}",
            status_view::root_word(report.root),
            report.note.as_deref().unwrap_or_default()
        ));
    }
}

/// A companion with its state, if it is not stored.
fn companion(part: &SetPart) -> String {
    let name = QuotedPath(part.name.as_ref());
    match part.job {
        None => name.to_string(),
        Some(JobState::Failed) => format!("{name} (failed)"),
        Some(_) => format!("{name} (pending)"),
    }
}

/// What a pending file without a failure waits for.
fn next_step(file: &FileReport) -> Option<&'static str> {
    match file.job.filter(|_| file.reason.is_none())? {
        JobState::Due => Some("a free upload worker (upload.workers)"),
        JobState::Stored => Some("the next run of its iModel (sync.batch_window)"),
        JobState::Running => Some("the run of its iModel to finish"),
        JobState::Uploading | JobState::Failed => None,
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
        let settle = watch.settle_policy.settle;
        return Some(if let Some(reason) = &file.reason {
            let since = moment(unfinished_file::since(file));
            format!("the file to become readable: it {reason} (first seen {since})")
        } else {
            format!(
                "the file to settle: unchanged for {:.0} s of {:.0} s",
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
    let verdict = watch.scope.decide(below);
    let connector = verdict.connector()?;
    if last.is_some_and(|last| last.is_version(*fingerprint, connector.as_ref())) {
        return None;
    }
    Some(match &known.daemon {
        None => "the daemon, which is not running".to_owned(),
        Some(now) => match now.roots.get(&watch.name).and_then(|root| root.next_scan) {
            Some(at) => format!(
                "the daemon to detect the newest version, by an event or by the next scan {}",
                moment(at)
            ),
            None => "the daemon to detect the newest version".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Environment;
    use crate::connection_name::ConnectionName;
    use crate::ledger::WatchSpec;

    const WATCH: &str = "[[watch]]\nname = \"north\"\npath = \"$/north\"\nimodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n\
                         exclude = [\"/Archive/\"]\nupload_only = [\"/References/\"]\n!\n[state]\npath = \"$/state\"\n[itwin]\nclient_id = \"one\"\n";

    /// The explanations of these paths in a watch, as they are printed.
    async fn explained(root: &Path, paths: &[&str]) -> String {
        explained_with(root, "", paths).await
    }

    /// The same with more keys of the watch.
    async fn explained_with(root: &Path, keys: &str, paths: &[&str]) -> String {
        let root = root.to_str().unwrap();
        let text = WATCH.replace('$', root).replace('!', keys);
        let config = ReadOnlyConfig::parse(&text, "config.toml", &Environment::default()).unwrap();
        let known = Knowledge::gather(&config).await;
        let mut shown = String::new();
        for path in paths {
            let path = Path::new(root).join(path);
            let place = matching::place(&path, &config.watches);
            let place = place.map(|place| {
                let on_disk = disk(place.0, &place.1);
                (place, on_disk)
            });
            let explanation = one(place, &config, &known).await;
            shown += &format!("{}: {}\n", QuotedPath(&path), explanation.answer);
            for line in explanation.lines {
                shown += &format!("  {line}\n");
            }
        }
        shown.replace(root, "$")
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["north/Archive", "north/References", "north/.hidden"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in [
            "deck.dgn",
            "References/site.dgn",
            "a:b.ifc",
            "Archive/old.ifc",
            "lots.shp",
            "lots.dbf",
        ] {
            fs::write(folder.path().join("north").join(name), "content").unwrap();
        }
        fs::write(folder.path().join("north/empty.ifc"), "").unwrap();
        std::os::unix::fs::symlink("deck.dgn", folder.path().join("north/link.dgn")).unwrap();
        folder
    }

    #[tokio::test]
    async fn paths_without_a_ledger() {
        let folder = folder();
        let text = explained(
            folder.path(),
            &[
                "north/deck.dgn",
                "north/References/site.dgn",
                "north/empty.ifc",
                "north/absent.ifc",
                "north/a:b.ifc",
                "north/lots.dbf",
                "north/link.dgn",
                "north/Archive/old.ifc",
                "north/.hidden/deck.dgn",
                "north/plan.dwl",
                "north/notes.txt",
                "north",
                "elsewhere.dgn",
            ],
        )
        .await;
        insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
            insta::assert_snapshot!(text);
        });
    }

    #[tokio::test]
    async fn masters_and_references() {
        let folder = folder();
        let paths = [
            "north/deck.dgn",
            "north/References/site.dgn",
            "north/absent.ifc",
        ];
        let text = explained_with(folder.path(), "masters = [\"deck*\"]", &paths).await;
        insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
            insta::assert_snapshot!(text);
        });
    }

    #[tokio::test]
    async fn a_connection_for_each_connector_type() {
        let folder = folder();
        let paths = ["north/deck.dgn", "north/References/site.dgn"];
        let keys = "connection = \"ours {connector}\"";
        let text = explained_with(folder.path(), keys, &paths).await;
        insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
            insta::assert_snapshot!(text);
        });
    }

    #[tokio::test]
    async fn a_file_of_a_paused_watch() {
        let folder = folder();
        let ledger = Ledger::open(&folder.path().join("state")).await.unwrap();
        let now = crate::clock::now();
        let spec = WatchSpec {
            name: "north".to_owned(),
            follows: None,
            formerly: None,
            path: folder.path().to_owned(),
            imodel_wait: None,
            imodel_id: "c0ffee00-1234-4abc-8def-0123456789ab".into(),
            storage_folder: String::new(),
            connection: ConnectionName::from("itwin-syncd".to_owned()),
            withdrawal: crate::ledger::WithdrawalPolicy::default(),
            bulk_change_limits: crate::ledger::BulkChangeLimits {
                changed_files: 1000,
                new_files: 1000,
            },
        };
        ledger.register_watches(&[spec], now).await.unwrap();
        ledger
            .pause_watches(&["north".to_owned()], now)
            .await
            .unwrap();
        let text = explained(folder.path(), &["north/deck.dgn"]).await;
        insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
            insta::assert_snapshot!(text);
        });
    }
}
