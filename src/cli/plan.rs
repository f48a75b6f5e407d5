//! `itwin-syncd run --dry-run`: what a start would do.

mod deletions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::tally::Tally;
use super::{EXIT_FAILED, EXIT_GOOD, print_error, print_line};
use crate::config::{Config, OnRename, Watch};
use crate::ids::ImodelId;
use crate::ledger::{self, FileReport, JobState, Known, Ledger, Outcome, Ready};
use crate::names::{self, QuotedPath};
use crate::rooted_fs::RootDir;
use crate::source_file_limit::{ADVICE, Load, SourceFiles};
use crate::status_view;
use crate::upload;
use crate::watch;
use deletions::Gone;

/// Scans every folder, compares it with the ledger and prints the differences; writes and sends nothing.
pub(super) async fn show(config: &Config) -> u8 {
    match show_all(config).await {
        Ok(true) => EXIT_GOOD,
        Ok(false) => EXIT_FAILED,
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn show_all(config: &Config) -> Result<bool, ledger::Error> {
    let ledger = match Ledger::read(&config.state.path).await {
        Ok(ledger) => Some(ledger),
        Err(ledger::Error::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    let reports = match &ledger {
        Some(ledger) => ledger.snapshot(crate::clock::now()).await?.files,
        None => Vec::new(),
    };
    let mut good = true;
    let mut tallies: BTreeMap<&ImodelId, Tally> = BTreeMap::new();
    for watch in &config.watches {
        let tally = tallies.entry(&watch.imodel_id).or_default();
        let max_deletes = config.bulk_change.max_deletes;
        good &= show_watch(watch, ledger.as_ref(), &reports, max_deletes, tally).await?;
    }
    for (imodel_id, tally) in &tallies {
        good &= show_source_files(imodel_id, tally, ledger.as_ref()).await?;
    }
    Ok(good)
}

/// Prints how many source files an iModel will have. What the platform has is as of the last comparison.
async fn show_source_files(
    imodel_id: &ImodelId,
    tally: &Tally,
    ledger: Option<&Ledger>,
) -> Result<bool, ledger::Error> {
    let known = match ledger {
        Some(ledger) => ledger.source_files(imodel_id).await?,
        None => None,
    };
    let found = SourceFiles {
        watched: tally.source_files,
        others: known.map_or(0, |known| known.others),
    };
    print_line(&format!("iModel {imodel_id}: {}", found.text()));
    if found.load() != Load::Fits {
        print_line(&format!("  hint: {ADVICE}"));
    }
    Ok(found.load() != Load::Over)
}

async fn show_watch(
    watch: &Watch,
    ledger: Option<&Ledger>,
    reports: &[FileReport],
    max_deletes: u64,
    tally: &mut Tally,
) -> Result<bool, ledger::Error> {
    print_line(&format!(
        "watch {:?}, {} → iModel {}",
        watch.name,
        watch.path.display(),
        watch.imodel_id
    ));
    let mut files = Vec::new();
    let survey = match watch::survey(watch, |file| files.push(file)).await {
        Ok(survey) => survey,
        Err(error) => {
            print_line(&format!("  folder unavailable: {error}"));
            return Ok(false);
        }
    };
    let reports: HashMap<&PathBuf, &FileReport> = reports
        .iter()
        .filter(|file| file.watch == watch.name)
        .map(|file| (&file.path, file))
        .collect();
    let mut good = survey.problems.is_empty();
    for problem in &survey.problems {
        print_line(&format!("  unreadable: {problem}"));
    }
    let (mut planned, mut bytes, mut rest) = (0_u64, 0_u64, 0_u64);
    for file in &files {
        tally.add(&file.path, file.connector.as_ref());
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let mut renamed = match ledger {
        Some(ledger) => renames(watch, ledger, &files, &reports).await?,
        None => HashMap::new(),
    };
    let gone = Gone::find(watch, &survey, &files, &reports, &renamed);
    for file in files {
        let known: Option<Known> = match ledger {
            Some(ledger) => ledger.known_by_name(&watch.name, &file.path).await?,
            None => None,
        };
        let report = reports.get(&file.path);
        let as_known = known
            .as_ref()
            .is_some_and(|known| known.is_version(file.fingerprint, file.connector.as_ref()));
        let (word, sent) = match (as_known, report) {
            (true, Some(report)) => match (report.job, report.outcome) {
                (None, Some(Outcome::Failed) | None) => (status_view::word(report), false),
                (None, Some(_)) => {
                    rest += 1;
                    continue;
                }
                (Some(JobState::Failed), _) => ("failed before", false),
                (Some(JobState::Due | JobState::Uploading), _) => ("pending", true),
                (Some(JobState::Stored | JobState::Running), _) => ("stored", false),
            },
            (false, Some(_)) => ("changed", true),
            (_, None) => ("new", true),
        };
        let origin = renamed.remove(&file.path);
        let (word, sent) = match origin {
            Some(_) => ("renamed", false),
            None => (word, sent),
        };
        let what = match (names::storage_path(&file.path), &file.connector) {
            _ if file.fingerprint.size == 0 => "will fail: the file is empty".to_owned(),
            (Err(error), _) => format!("will fail: {error}"),
            (Ok(_), _) if let Some(origin) = &origin => {
                format!("rename the storage file of {}", QuotedPath(origin))
            }
            (Ok(_), _) if word == "failed before" => report
                .and_then(|report| report.reason.clone())
                .unwrap_or_default(),
            (Ok(_), Some(connector)) if sent => {
                format!("upload, then synchronize with {connector}")
            }
            (Ok(_), Some(connector)) => format!("synchronize with {connector}"),
            (Ok(_), None) => "upload only".to_owned(),
        };
        good &= !what.starts_with("will fail");
        planned += 1;
        if sent {
            bytes += file.fingerprint.size;
        }
        print_line(&format!(
            "  {word:<13} {}  {}  {what}",
            QuotedPath(&file.path),
            ByteSize(file.fingerprint.size).display().iec()
        ));
    }
    print_line(&format!(
        "  {planned} to process, up to {} to upload; {rest} unchanged, {} ignored",
        ByteSize(bytes).display().iec(),
        survey.ignored
    ));
    gone.show(watch, max_deletes);
    Ok(good)
}

/// New files that are known ones under a new name, with the path that each had before. Reads only files whose size is
/// that of a known file that is gone.
async fn renames(
    watch: &Watch,
    ledger: &Ledger,
    files: &[Ready],
    reports: &HashMap<&PathBuf, &FileReport>,
) -> Result<HashMap<PathBuf, PathBuf>, ledger::Error> {
    let mut renamed = HashMap::new();
    if watch.on_rename == OnRename::UploadAgain {
        return Ok(renamed);
    }
    let there: HashSet<&PathBuf> = files.iter().map(|file| &file.path).collect();
    let mut taken = HashSet::new();
    let now = crate::clock::now();
    let since = now.checked_sub(upload::RENAME_WINDOW).unwrap_or(now);
    for file in files {
        if reports.contains_key(&file.path) || file.fingerprint.size == 0 {
            continue;
        }
        let bytes = file.fingerprint.size;
        let mut gone = ledger.stored_with_size(&watch.name, bytes, since).await?;
        gone.retain(|(path, _)| !there.contains(path) && !taken.contains(path));
        if gone.is_empty() {
            continue;
        }
        let (root, path) = (watch.path.clone(), file.path.clone());
        let hashed = tokio::task::spawn_blocking(move || digest(&root, &path)).await;
        // A file that cannot be read now is shown as new.
        let Ok(Ok(digest)) = hashed else { continue };
        gone.retain(|(_, stored)| *stored == digest);
        let paths: Vec<&Path> = gone.iter().map(|(path, _)| path.as_path()).collect();
        if let Some((origin, _)) =
            upload::most_similar(&file.path, &paths).and_then(|at| gone.get(at))
        {
            taken.insert(origin.clone());
            renamed.insert(file.path.clone(), origin.clone());
        }
    }
    Ok(renamed)
}

fn digest(root: &Path, path: &Path) -> std::io::Result<[u8; 32]> {
    let file = RootDir::open(root)?.file(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(*hasher.finalize().as_bytes())
}
