//! Files that a daemon of this machine synchronizes already: it takes them now, so that no file has two owners.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::matching;
use crate::config::{ReadOnlyConfig, Watch};
use crate::control::{self, Answer, Command, Request};
use crate::ledger::{self, FileReport, JobState, Ledger};
use crate::names::QuotedPath;

use super::targets::Targets;

/// Pause between two reads of its ledger.
const LOOK: Duration = Duration::from_millis(200);

/// Why it cannot take them.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "{} belongs to watch {watch:?}, but its daemon is not running",
        QuotedPath(path)
    )]
    NotRunning { path: PathBuf, watch: String },
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => {
                Some("start the service, or run `itwin-syncd run --once`".to_owned())
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
    ready: ledger::Ready,
}

/// What the daemon has of a file: the report, and whether that is about the version that is pushed.
pub(super) type Found = (Option<FileReport>, bool);

/// Moves the targets that a watch of this configuration synchronizes into the same iModel out of the list.
pub(super) fn take(config: &ReadOnlyConfig, targets: &mut Targets) -> Vec<Taken> {
    let mut taken = Vec::new();
    for (pushed, targets) in &mut targets.groups {
        targets.retain(|target| {
            let full = pushed.path.join(&target.path);
            let Some((watch, path)) = owner(config, &full, pushed) else {
                return true;
            };
            taken.push(Taken {
                full,
                watch: watch.name.clone(),
                path,
                ready: target.ready.clone(),
            });
            false
        });
    }
    targets.groups.retain(|(_, targets)| !targets.is_empty());
    taken
}

fn owner<'c>(
    config: &'c ReadOnlyConfig,
    full: &std::path::Path,
    pushed: &Watch,
) -> Option<(&'c Watch, PathBuf)> {
    let (watch, path) = matching::place(full, &config.watches)?;
    (watch.imodel_id == pushed.imodel_id && watch.scope.selects(&path)).then_some((watch, path))
}

/// Has the daemon scan their folders now.
pub(super) async fn request(config: &ReadOnlyConfig, taken: &[Taken]) -> Result<(), Error> {
    let mut watches: Vec<String> = taken.iter().map(|one| one.watch.clone()).collect();
    watches.sort();
    watches.dedup();
    let request = Request::Execute(Command::Rescan { watches });
    let answer = control::ask(&config.state.path, &request).await?;
    match (answer, taken.first()) {
        (None, Some(one)) => Err(Error::NotRunning {
            path: one.full.clone(),
            watch: one.watch.clone(),
        }),
        (Some(Answer::Refused { why }), _) => Err(control::Error::Refused(why).into()),
        _ => Ok(()),
    }
}

/// Waits until the daemon has a result for each file, or has requested its run if `until_run`.
pub(super) async fn follow(ledger: &Ledger, taken: &[Taken], until_run: bool) -> Result<(), Error> {
    loop {
        let mut is_done = true;
        for (file, is_current) in found(ledger, taken).await? {
            is_done &= is_current && file.is_some_and(|file| is_over(&file, until_run));
        }
        if is_done {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What its ledger has of each file.
pub(super) async fn found(ledger: &Ledger, taken: &[Taken]) -> Result<Vec<Found>, Error> {
    let mut all = Vec::with_capacity(taken.len());
    for one in taken {
        all.push(current(ledger, &one.watch, &one.path, &one.ready, false).await?);
    }
    Ok(all)
}

/// What a ledger has of a file of a watch. `exact`: also its connector type has to be the one of the push.
pub(super) async fn current(
    ledger: &Ledger,
    watch: &str,
    path: &std::path::Path,
    ready: &ledger::Ready,
    exact: bool,
) -> Result<Found, ledger::Error> {
    let known = ledger.known_by_name(watch, path).await?;
    let is_current = known.is_some_and(|known| {
        known.fingerprint == Some(ready.fingerprint)
            && (!exact || known.connector == ready.connector)
    });
    Ok((ledger.file_at(watch, path).await?, is_current))
}

/// Whether nothing more comes of a file by itself.
pub(super) fn is_over(file: &FileReport, until_run: bool) -> bool {
    match file.job {
        None => file.outcome.is_some(),
        Some(JobState::Failed) => true,
        Some(JobState::Running) => until_run,
        Some(JobState::Due | JobState::Uploading | JobState::Stored) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Error, Error::hint, {
            Error::NotRunning { .. } => Error::NotRunning { path: "/srv/a.ifc".into(), watch: "north".to_owned() },
            Error::Control(_) => Error::Control(control::Error::Refused("the ledger is busy".to_owned())),
            Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
        }));
    }
}
