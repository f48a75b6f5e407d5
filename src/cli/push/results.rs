//! Reads the results of a push: from its own ledger, and from that of a daemon for the files that it has taken.

use jiff::Timestamp;

use super::daemon;
use super::report::{self, Connection, FileResult, Report, Seen};
use super::settings::WATCH;
use super::targets::{FoundGroup, Target, Targets};
use crate::config::{ReadOnlyConfig, Watch};
use crate::ledger::{self, ConnectionRecord, FileReport, Ledger};
use crate::ledger_location::LedgerLocation;

/// Adds what the ledger of the push has. `done` are the results of the groups whose pass has ended.
pub(super) async fn add_own(
    report: &mut Report,
    state: &LedgerLocation,
    targets: &Targets,
    (done, began): (Vec<Vec<FileResult>>, Timestamp),
) -> Result<(), daemon::Error> {
    let ledger = match Ledger::read(state).await {
        Ok(ledger) => Some(ledger),
        // The time was over before there was one.
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let rest = targets.groups.iter().skip(done.len());
    report.files = done.into_iter().flatten().collect();
    for group in rest {
        report
            .files
            .extend(own_results(ledger.as_ref(), group, began).await?);
    }
    if let (Some(ledger), Some(group)) = (&ledger, targets.groups.first()) {
        report.connection = connection(ledger, &group.watch).await?;
        report.itwin = itwin(ledger, report).await?;
    }
    Ok(())
}

/// Adds what the ledger of the daemon has.
pub(super) async fn add_taken(
    report: &mut Report,
    config: &ReadOnlyConfig,
    taken: &[daemon::Taken],
    began: Timestamp,
) -> Result<(), daemon::Error> {
    let ledger = Ledger::read(&config.state.path).await?;
    let found = daemon::found(&ledger, taken).await?;
    for (one, (file, seen)) in taken.iter().zip(found) {
        let watch = Some(one.watch.as_str());
        let result = FileResult::new(one.full.clone(), file.as_ref(), seen, began, watch);
        report.files.push(result);
    }
    let mut watches = config.watches.iter();
    let watch = watches.find(|watch| taken.iter().any(|one| one.watch == watch.name));
    if let (None, Some(watch)) = (&report.connection, watch) {
        report.connection = connection(&ledger, watch).await?;
    }
    if report.itwin.is_none() {
        report.itwin = itwin(&ledger, report).await?;
    }
    Ok(())
}

async fn itwin(ledger: &Ledger, report: &Report) -> Result<Option<String>, ledger::Error> {
    let imodel = ledger.imodel(&report.imodel).await?;
    Ok(imodel.map(|imodel| imodel.itwin_id))
}

/// What the ledger of the push has of a file. With another connector type, it is another version.
pub(super) async fn own(
    ledger: &Ledger,
    target: &Target,
) -> Result<(Option<FileReport>, Seen), ledger::Error> {
    let known = ledger.known_by_name(WATCH, &target.path).await?;
    let known = known.filter(|known| known.connector == target.connector);
    let version = known.and_then(|known| known.fingerprint);
    let file = ledger.file_at(WATCH, &target.path).await?;
    Ok((file, report::seen(&target.full, version).await))
}

/// The results of the files of a group, as the ledger of the push has them.
pub(super) async fn own_results(
    ledger: Option<&Ledger>,
    group: &FoundGroup,
    began: Timestamp,
) -> Result<Vec<FileResult>, ledger::Error> {
    let mut results = Vec::with_capacity(group.files.len());
    for target in &group.files {
        let (file, seen) = match ledger {
            Some(ledger) => own(ledger, target).await?,
            None => (None, Seen::Changed),
        };
        results.push(FileResult::new(
            target.full.clone(),
            file.as_ref(),
            seen,
            began,
            None,
        ));
    }
    Ok(results)
}

/// Whether the connection was compared with the platform since; without one, there is nothing to compare.
pub(super) async fn is_checked(
    ledger: &Ledger,
    watch: &Watch,
    since: Timestamp,
) -> Result<bool, ledger::Error> {
    let ours = record(ledger, watch).await?;
    Ok(ours.is_none_or(|one| one.platform_id.is_none() || one.checked_at >= since))
}

async fn record(ledger: &Ledger, watch: &Watch) -> Result<Option<ConnectionRecord>, ledger::Error> {
    let all = ledger.connections(&watch.imodel_id).await?;
    Ok(all
        .into_iter()
        .find(|one| one.name == watch.connection.as_str()))
}

async fn connection(ledger: &Ledger, watch: &Watch) -> Result<Option<Connection>, ledger::Error> {
    let ours = record(ledger, watch).await?;
    Ok(ours.map(|one| Connection {
        name: one.name,
        id: one.platform_id,
    }))
}
