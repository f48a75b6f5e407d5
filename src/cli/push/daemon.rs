//! Files that a daemon of this machine synchronizes already: it takes them now, so that no file has two owners.
//!
//! Input: the configuration of the daemon. Output: requests to its control socket, and what its ledger has of the
//! files. It never writes that ledger.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{Seen, seen};
use super::targets::Targets;
use crate::cli::{matching, print_to_stderr};
use crate::config::{ReadOnlyConfig, Watch};
use crate::control::{self, Answer, Command, Request};
use crate::ledger::{self, FileReport, Inactive, JobState, Ledger};
use crate::names::QuotedPath;
use crate::shell;
use crate::status_view;

/// Shortest pause between two reads of a ledger.
const LOOK: Duration = Duration::from_millis(200);

/// What each file adds to it, so that many files do not keep a processor busy.
const LOOK_PER_FILE: Duration = Duration::from_millis(2);

/// Pause between two reads of a ledger about this many files; at most a few seconds.
pub(super) fn pause(files: usize) -> Duration {
    let files = u32::try_from(files).unwrap_or(u32::MAX).min(1000);
    LOOK + LOOK_PER_FILE * files
}

/// Why it cannot take them.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "{} belongs to watch {watch:?}, but its daemon is not running",
        QuotedPath(path)
    )]
    NotRunning { path: PathBuf, watch: String },
    #[error(
        "{} belongs to watch {watch:?}, which is not active: {why}",
        QuotedPath(path)
    )]
    Inactive {
        path: PathBuf,
        watch: String,
        why: String,
    },
    #[error(
        "{} would replace {other:?} of watch {watch:?} in storage",
        QuotedPath(path)
    )]
    SamePlace {
        path: PathBuf,
        other: PathBuf,
        watch: String,
    },
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => Some(format!(
                "start the service, or run `{}`",
                shell::command(["run", "--once"])
            )),
            Self::Inactive { watch, .. } => {
                Some(format!("run `{}`", shell::command(["resume", watch])))
            }
            Self::SamePlace { .. } => {
                Some("push it into a folder of its own with --storage-folder".to_owned())
            }
            Self::Control(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
        }
    }
}

/// A file that the daemon takes.
#[derive(Debug)]
pub(super) struct Taken {
    /// On disk.
    pub(super) full: PathBuf,
    /// The watch, and the path in it.
    pub(super) watch: String,
    path: PathBuf,
}

/// Moves the targets that a watch of this configuration synchronizes into the same iModel out of the list.
pub(super) fn take(config: &ReadOnlyConfig, targets: &mut Targets) -> Vec<Taken> {
    let mut taken = Vec::new();
    for group in &mut targets.groups {
        let pushed = group.watch.clone();
        group.retain(|target| {
            let Some((watch, path)) = owner(config, &target.full, &pushed) else {
                return true;
            };
            taken.push(Taken {
                full: target.full.clone(),
                watch: watch.name.clone(),
                path,
            });
            false
        });
    }
    targets.groups.retain(|group| !group.files.is_empty());
    taken
}

fn owner<'c>(
    config: &'c ReadOnlyConfig,
    full: &Path,
    pushed: &Watch,
) -> Option<(&'c Watch, PathBuf)> {
    let (watch, path) = matching::place(full, &config.watches)?;
    // The folder may go into several iModels.
    let mut all = std::iter::once(watch).chain(matching::followers(&watch.name, &config.watches));
    let watch = all.find(|watch| watch.imodel_id == pushed.imodel_id)?;
    watch.scope.selects(&path).then_some((watch, path))
}

/// Refuses targets whose place in storage is that of another file which the daemon synchronizes.
pub(super) async fn check_places(config: &ReadOnlyConfig, targets: &Targets) -> Result<(), Error> {
    let Some(pushed) = targets.groups.first().map(|group| &group.watch) else {
        return Ok(());
    };
    let near: Vec<&Watch> = config
        .watches
        .iter()
        .filter(|watch| watch.imodel_id == pushed.imodel_id && watch.storage_overlaps(pushed))
        .collect();
    if near.is_empty() {
        return Ok(());
    }
    // Whoever may not read the ledger of the daemon cannot ask.
    let Ok(ledger) = Ledger::read(&config.state.path).await else {
        return Ok(());
    };
    for target in targets.groups.iter().flat_map(|group| &group.files) {
        let place: PathBuf = pushed.storage_folder.iter().collect();
        let place = place.join(&target.path);
        for watch in &near {
            let folder: PathBuf = watch.storage_folder.iter().collect();
            let Ok(path) = place.strip_prefix(folder) else {
                continue;
            };
            let file = ledger.file_at(&watch.name, path).await?;
            if file.is_some_and(|file| file.storage_file_id.is_some()) {
                return Err(Error::SamePlace {
                    path: target.full.clone(),
                    other: watch.path.join(path),
                    watch: watch.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Has the daemon scan their folders now.
pub(super) async fn request(config: &ReadOnlyConfig, taken: &[Taken]) -> Result<(), Error> {
    let rescan = Command::Rescan {
        watches: watches(taken),
    };
    if !execute(config, rescan).await?
        && let Some(one) = taken.first()
    {
        return Err(Error::NotRunning {
            path: one.full.clone(),
            watch: one.watch.clone(),
        });
    }
    Ok(())
}

fn watches(taken: &[Taken]) -> Vec<String> {
    let mut watches: Vec<String> = taken.iter().map(|one| one.watch.clone()).collect();
    watches.sort();
    watches.dedup();
    watches
}

/// Whether a daemon has executed it.
async fn execute(config: &ReadOnlyConfig, command: Command) -> Result<bool, Error> {
    match control::ask(&config.state.path, &Request::Execute(command)).await? {
        None => Ok(false),
        Some(Answer::Refused { why }) => Err(control::Error::Refused(why).into()),
        Some(_) => Ok(true),
    }
}

/// Waits until the daemon has a result for each file, or has requested its run if `until` says so. Prints what the
/// files wait for.
pub(super) async fn follow(
    config: &ReadOnlyConfig,
    taken: &[Taken],
    until: Awaited,
) -> Result<(), Error> {
    let ledger = Ledger::read(&config.state.path).await?;
    let mut is_asked = false;
    let mut shown: HashMap<&Path, String> = HashMap::new();
    loop {
        let found = found(&ledger, taken).await?;
        if found
            .iter()
            .all(|(file, seen)| is_over(file.as_ref(), *seen, until))
        {
            return Ok(());
        }
        check_active(&ledger, taken).await?;
        let is_known = found.iter().all(|(_, seen)| *seen != Seen::Changed);
        if is_known && !is_asked {
            is_asked = true;
            let sync = Command::Sync {
                watches: watches(taken),
            };
            execute(config, sync).await?;
        }
        for (one, (file, _)) in taken.iter().zip(&found) {
            let Some(file) = file else { continue };
            let word = status_view::word(file);
            let text = match &file.reason {
                Some(reason) => format!("{}: {word}: {reason}", QuotedPath(&one.full)),
                None => format!("{}: {word}", QuotedPath(&one.full)),
            };
            if shown.get(one.full.as_path()) != Some(&text) {
                print_to_stderr(&text);
                shown.insert(&one.full, text);
            }
        }
        tokio::time::sleep(pause(taken.len())).await;
    }
}

/// Fails if a watch does nothing until someone resumes it.
async fn check_active(ledger: &Ledger, taken: &[Taken]) -> Result<(), Error> {
    for watch in ledger.watch_reports(crate::clock::now()).await? {
        let Some(one) = taken.iter().find(|one| one.watch == watch.name) else {
            continue;
        };
        let why = match watch.inactive {
            Some(Inactive::Paused { .. }) => "it is paused".to_owned(),
            Some(Inactive::Suspended(change)) => change.what(),
            _ => continue,
        };
        return Err(Error::Inactive {
            path: one.full.clone(),
            watch: watch.name,
            why,
        });
    }
    Ok(())
}

/// What its ledger has of each file.
pub(super) async fn found(
    ledger: &Ledger,
    taken: &[Taken],
) -> Result<Vec<(Option<FileReport>, Seen)>, Error> {
    let mut all = Vec::with_capacity(taken.len());
    for one in taken {
        let known = ledger.known_by_name(&one.watch, &one.path).await?;
        let version = known.and_then(|known| known.fingerprint);
        let file = ledger.file_at(&one.watch, &one.path).await?;
        all.push((file, seen(&one.full, version).await));
    }
    Ok(all)
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Result,
    RunRequested,
}

/// Whether nothing more comes of a file by itself.
pub(super) fn is_over(file: Option<&FileReport>, seen: Seen, until: Awaited) -> bool {
    match (seen, file) {
        (Seen::Gone, _) => true,
        (Seen::Changed, _) | (_, None) => false,
        (Seen::Current, Some(file)) => match file.job {
            None => file.outcome.is_some(),
            Some(JobState::Failed) => true,
            Some(JobState::Running) => until == Awaited::RunRequested,
            // A failure that is tried again later is not waited for.
            Some(JobState::Due | JobState::Stored) => {
                until == Awaited::RunRequested && file.reason.is_some()
            }
            Some(JobState::Uploading) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::NotRunning { .. } => Error::NotRunning { path: "/srv/a.ifc".into(), watch: "north".to_owned() },
            Error::Inactive { .. } => Error::Inactive { path: "/srv/a.ifc".into(), watch: "north".to_owned(), why: "it is paused".to_owned() },
            Error::SamePlace { .. } => Error::SamePlace { path: "/home/me/a.ifc".into(), other: "/srv/a.ifc".into(), watch: "north".to_owned() },
            Error::Control(_) => Error::Control(control::Error::Refused("the ledger is busy".to_owned())),
            Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
        }));
    }
}
