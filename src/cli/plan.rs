//! `itwin-syncd run --dry-run`: what a start would do.

mod deletions;
mod output;
mod renames;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::changes::{Announcement, Announcements, announcements};
use super::tally::Tally;
use super::{EXIT_FAILED, EXIT_GOOD, print_error};
use crate::config::{Config, Watch};
use crate::ids::ImodelId;
use crate::ledger::{self, FileReport, JobState, Known, Ledger, Outcome, Ready};
use crate::names;
use crate::source_file_limit::{ADVICE, Load, SourceFiles};
use crate::status_view;
use crate::watch::{self, Survey};
use deletions::Gone;
use output::Output;
#[cfg(test)]
pub(super) use output::Plan;
use renames::Renames;

/// Scans every folder, compares it with the ledger and prints the differences; writes and sends nothing.
pub(super) async fn show(config: &Config, json: bool) -> u8 {
    let mut output = Output::new(json);
    let shown = show_all(config, &mut output).await;
    if let Ok(ok) = shown {
        output.end(ok);
    }
    match shown {
        Ok(true) => EXIT_GOOD,
        Ok(false) => EXIT_FAILED,
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn show_all(config: &Config, output: &mut Output) -> Result<bool, ledger::Error> {
    let ledger = match Ledger::read(&config.state.path).await {
        Ok(ledger) => Some(ledger),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error),
    };
    let reports = match &ledger {
        Some(ledger) => ledger.snapshot(crate::clock::now()).await?.files,
        None => Vec::new(),
    };
    let announcements = match &ledger {
        Some(ledger) => announcements(config, ledger).await?,
        None => Announcements::default(),
    };
    let mut good = true;
    let mut tallies: BTreeMap<&ImodelId, Tally> = BTreeMap::new();
    let mut surveyed = Vec::with_capacity(config.watches.len());
    for (at, watch) in config.watches.iter().enumerate() {
        let known = match (&ledger, announcements.known_as(at)) {
            (Some(ledger), Some(name)) => Some(KnownWatch { ledger, name }),
            _ => None,
        };
        let mut files = Vec::new();
        let survey = watch::survey(watch, |file| files.push(file)).await;
        files.sort_by(|one: &Ready, other| one.path.cmp(&other.path));
        surveyed.push(Surveyed {
            watch,
            known,
            is_unknown: config
                .unknown_imodels()
                .any(|new| new.key() == watch.imodel_id),
            found: survey.map(|survey| (files, survey)),
        });
    }
    let renames = Renames::find(&surveyed, &reports).await?;
    for one in &surveyed {
        let tally = tallies.entry(&one.watch.imodel_id).or_default();
        let max_deletes = config.bulk_change.max_deletes;
        let lines = announcements.of(&one.watch.name);
        good &= show_watch(one, &reports, &renames, max_deletes, lines, (tally, output)).await?;
    }
    let is_configured = |name: &str| config.watches.iter().any(|watch| watch.name == name);
    let others = announcements.lines.iter();
    for line in others.filter(|line| !is_configured(&line.watch)) {
        output.other_note(&line.text, line.hint.as_deref());
    }
    for (imodel_id, tally) in &tallies {
        good &= show_source_files(imodel_id, tally, ledger.as_ref(), output).await?;
    }
    Ok(good)
}

/// Prints how many source files an iModel will have. What the platform has is as of the last comparison.
async fn show_source_files(
    imodel_id: &ImodelId,
    tally: &Tally,
    ledger: Option<&Ledger>,
    output: &mut Output,
) -> Result<bool, ledger::Error> {
    let known = match ledger {
        Some(ledger) => ledger.source_files(imodel_id).await?,
        None => None,
    };
    let found = SourceFiles {
        watched: tally.source_files,
        others: known.map_or(0, |known| known.others),
    };
    let hint = (found.load() != Load::Fits).then_some(ADVICE);
    output.imodel(imodel_id, found.text(), hint);
    Ok(found.load() != Load::Over)
}

/// A watch as the ledger knows it.
#[derive(Clone, Copy)]
struct KnownWatch<'a> {
    ledger: &'a Ledger,
    name: &'a str,
}

/// A watch, and what its folder holds.
struct Surveyed<'a> {
    watch: &'a Watch,
    known: Option<KnownWatch<'a>>,
    /// The id of its iModel is not known.
    is_unknown: bool,
    found: std::io::Result<(Vec<Ready>, Survey)>,
}

async fn show_watch(
    surveyed: &Surveyed<'_>,
    reports: &[FileReport],
    renames: &Renames,
    max_deletes: u64,
    announcements: impl Iterator<Item = &Announcement>,
    (tally, output): (&mut Tally, &mut Output),
) -> Result<bool, ledger::Error> {
    let (watch, known_watch) = (surveyed.watch, surveyed.known);
    output.watch(watch);
    if surveyed.is_unknown {
        output.note(
            "this iModel will be used if the iTwin has it, or else created",
            None,
        );
    }
    for line in announcements {
        output.note(&line.text, line.hint.as_deref());
    }
    let (files, survey) = match &surveyed.found {
        Ok(found) => found,
        Err(error) => {
            output.unavailable(&error.to_string());
            return Ok(false);
        }
    };
    let reports: HashMap<&PathBuf, &FileReport> = reports
        .iter()
        .filter(|file| known_watch.is_some_and(|known| known.name == file.watch))
        .map(|file| (&file.path, file))
        .collect();
    let mut good = survey.problems.is_empty();
    for problem in &survey.problems {
        output.unreadable(problem);
    }
    let (mut planned, mut bytes, mut rest) = (0_u64, 0_u64, 0_u64);
    for file in files {
        tally.add(&file.path, file.connector.as_ref());
    }
    let name = known_watch.map_or(watch.name.as_str(), |known| known.name);
    let gone = Gone::find(watch, survey, files, &reports, renames.origins(name));
    for file in files {
        let known: Option<Known> = match known_watch {
            Some(known) => known.ledger.known_by_name(known.name, &file.path).await?,
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
                (Some(JobState::Due | JobState::Uploading), _) if report.moves => ("moved", false),
                (Some(JobState::Due | JobState::Uploading), _) => ("pending", true),
                (Some(JobState::Stored | JobState::Running), _) => ("stored", false),
            },
            (false, Some(_)) => ("changed", true),
            (_, None) => ("new", true),
        };
        let origin = renames.of(name, &file.path);
        let (word, sent) = match origin {
            Some(_) => ("renamed", false),
            None => (word, sent),
        };
        let leader = watch.follows.as_ref().map(|leader| leader.watch.as_str());
        let what = plan_of(
            file,
            report.copied(),
            word,
            sent,
            origin.map(|origin| origin.text(name)),
            leader,
        );
        let sent = sent && leader.is_none();
        good &= !what.starts_with("will fail");
        planned += 1;
        if sent {
            bytes += file.fingerprint.size;
        }
        output.file(word, &file.path, Some(file.fingerprint.size), &what);
    }
    output.counts(planned, bytes, rest, survey.ignored);
    gone.show(watch, max_deletes, output);
    Ok(good)
}

/// What will happen to a file.
fn plan_of(
    file: &Ready,
    report: Option<&FileReport>,
    word: &str,
    sent: bool,
    origin: Option<String>,
    leader: Option<&str>,
) -> String {
    match (names::storage_path(&file.path), &file.connector) {
        _ if file.fingerprint.size == 0 => "will fail: the file is empty".to_owned(),
        (Err(error), _) => format!("will fail: {error}"),
        (Ok(_), _) if let Some(origin) = origin => match leader {
            Some(_) => format!("keep the storage file of {origin}"),
            None => format!("rename the storage file of {origin}"),
        },
        (Ok(_), _) if word == "moved" => "rename or move its storage file".to_owned(),
        (Ok(_), _) if word == "failed before" => report
            .and_then(|report| report.reason.clone())
            .unwrap_or_default(),
        (Ok(_), Some(connector)) if sent => match leader {
            Some(leader) => {
                format!("uploaded by watch {leader:?}; synchronize with {connector}")
            }
            None => format!("upload, then synchronize with {connector}"),
        },
        (Ok(_), Some(connector)) => format!("synchronize with {connector}"),
        (Ok(_), None) => match leader {
            Some(leader) => format!("uploaded by watch {leader:?}"),
            None => "upload only".to_owned(),
        },
    }
}
