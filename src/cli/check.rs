//! `itwin-syncd check`: tests everything that the service depends on, one line each.
//!
//! Longer than most files because it has a function for each check.

mod account;
mod claims;
mod content;
mod report;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use clap::Args;
use jiff::tz::TimeZone;

use super::changes::announcements;
use super::created_imodels::{self, Plan};
use super::tally::Tally;
use super::{ConfigArgument, chain, service_unit};
use crate::config::{
    Config, ConfigErrors, NewImodel, ReadOnlyConfig, Schedule, SpatialRoot, Watch,
};
use crate::connection_name::ConnectionName;
use crate::filesystem;
use crate::ids::ImodelId;
use crate::itwin::{Client, Connection};
use crate::ledger::Ledger;
use crate::local_time::{self, Opening};
use crate::names::QuotedPath;
use crate::permission;
use crate::rooted_fs;
use crate::service;
use crate::source_file_limit::{ADVICE, Load, SourceFiles};
use crate::state_directory::{self, Usable};
use crate::text::plural;
use crate::watch;
use content::Content;
#[cfg(test)]
pub(super) use report::Checks;
pub(super) use report::Report;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Check only the configuration file: no requests, no secrets, nothing is created; for CI, Ansible and reloads
    #[arg(long)]
    offline: bool,
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn check(arguments: &Arguments) -> u8 {
    let path = &arguments.config.config;
    let mut report = Report::with_json(arguments.json);
    if arguments.offline {
        return offline(path, report);
    }
    let mut config = match service_unit::load(path) {
        Ok(config) => config,
        Err(errors) => return invalid(path, &errors, report),
    };
    report.ok(&format!(
        "configuration {path:?}: {}",
        plural(config.watches.len() as u64, "watch", "watches")
    ));
    state(&mut report, &config.state.path);
    let is_usable = database(&mut report, &config).await;
    config.know_imodels(&created_imodels::known(&config.state.path).await);
    windows(&mut report, &config);
    if is_usable {
        changes(&mut report, &config).await;
    }
    let mut tallies = BTreeMap::new();
    for watch in &config.watches {
        if folder(&mut report, watch) {
            let tally = files(&mut report, watch).await;
            let all: &mut u64 = tallies.entry(watch.imodel_id.clone()).or_default();
            *all += tally.source_files;
        }
    }
    match service::client(&config, None) {
        Ok(client) if network(&mut report, &config, &client).await => {
            platform(&mut report, &config, &client, &tallies).await;
        }
        Ok(_) => {}
        Err(error) => report.refused("client for the iTwin Platform", &error),
    }
    report.finish()
}

/// Checks only the file.
fn offline(path: &Path, mut report: Report) -> u8 {
    match ReadOnlyConfig::load_with_folders(path) {
        Ok(config) => {
            report.ok(&format!(
                "configuration {path:?}: {}; not checked: secrets, network, account, iModels",
                plural(config.watches.len() as u64, "watch", "watches")
            ));
            report.finish()
        }
        Err(errors) => invalid(path, &errors, report),
    }
}

fn invalid(path: &Path, errors: &ConfigErrors, mut report: Report) -> u8 {
    let count = plural(errors.iter().count() as u64, "error", "errors");
    report.wrong(&format!("configuration {path:?}: {count}\n{errors}"), None);
    report.finish_invalid()
}

/// When runs and uploads may start.
fn windows(report: &mut Report, config: &Config) {
    let (now, zone) = (crate::clock::now(), TimeZone::system());
    let mut show = |what: &str, schedule: &Schedule| {
        let state = match schedule.windows.at(now, &zone) {
            Opening::Open => "open now".to_owned(),
            Opening::ClosedUntil(until) => {
                format!("closed until {}", local_time::label(until, now, &zone))
            }
        };
        report.ok(&format!("{what}: {}; {state}", schedule.windows.text()));
    };
    for (imodel_id, schedule) in &config.run_schedules {
        show(&format!("iModel {imodel_id}, run_window"), schedule);
    }
    for watch in &config.watches {
        if let Some(schedule) = &watch.upload_schedule {
            show(&format!("watch {:?}, upload_window", watch.name), schedule);
        }
    }
}

fn state(report: &mut Report, path: &Path) {
    let name = format!("state directory {path:?}");
    let user = rustix::process::geteuid();
    let user = permission::user_name(user.as_raw());
    match state_directory::usable(path) {
        Err(error) => report.wrong(&format!("{name}: {}", chain(&error)), Some(&error.hint())),
        Ok(Usable::CanBeMade) => report.ok(&format!("{name}: will be made by the first start")),
        Ok(Usable::MadeByOthers) => report.note(
            &format!("{name}: missing, and the user {user} cannot make it"),
            "systemd makes it at the start of the service, as its unit says; make it if the service runs without systemd",
        ),
        Ok(Usable::Writable) => match state_directory::full(path) {
            Some(left) => report.wrong(
                &format!("{name}: the disk is full ({left} bytes left)"),
                Some("free up space on the disk"),
            ),
            None => report.ok(&format!("{name}: writable for the user {user}")),
        },
    }
}

/// Whether the ledger's database can be used, if it is on a server.
async fn database(report: &mut Report, config: &Config) -> bool {
    let Some(server) = &config.state.path.server else {
        return true;
    };
    match Ledger::check_server(server).await {
        Ok(()) => {
            report.ok(&format!("database {server} of the ledger: usable"));
            true
        }
        Err(error) => {
            let hint = error.hint();
            report.wrong(&format!("ledger: {}", chain(&error)), hint.as_deref());
            false
        }
    }
}

/// What a start with this configuration will do with files that are known already.
async fn changes(report: &mut Report, config: &Config) {
    let announced = match Ledger::read(&config.state.path).await {
        Ok(ledger) => announcements(config, &ledger).await,
        // There was no start yet, or the next one converts the ledger.
        Err(error) if error.is_missing() || error.is_older() => return,
        Err(error) => Err(error),
    };
    match announced {
        Ok(announced) => {
            for line in &announced.lines {
                match &line.hint {
                    Some(hint) => report.note(&line.text, hint),
                    None => report.ok(&line.text),
                }
            }
        }
        Err(error) => {
            let hint = error.hint();
            report.wrong(&format!("ledger: {}", chain(&error)), hint.as_deref());
        }
    }
}

/// Whether the folder of a watch is readable.
fn folder(report: &mut Report, watch: &Watch) -> bool {
    let name = format!("watch {:?}, folder {:?}", watch.name, watch.path);
    let looked = rooted_fs::RootDir::open(&watch.path)
        .and_then(|root| root.folder(Path::new("")))
        .and_then(|folder| filesystem::is_remote(&folder));
    match &looked {
        Ok(false) => report.ok(&format!("{name}: readable, changes are detected by events")),
        Ok(true) => {
            report.ok(&format!(
                "{name}: readable, scanned every {:?} because its file system reports no changes",
                watch.poll_interval
            ));
        }
        Err(error) => {
            report.wrong(
                &format!("{name}: {error}"),
                Some("mount the share, or give the service's user read access"),
            );
            return false;
        }
    }
    true
}

/// Lists the files that a watch selects, and counts them.
async fn files(report: &mut Report, watch: &Watch) -> Tally {
    let name = format!("watch {:?}", watch.name);
    let mut tally = Tally::default();
    let mut content = Content::new(watch);
    let counted = watch::survey(watch, |file| {
        tally.add(&file.path, file.connector.as_ref());
        content.add(&file.path);
    });
    if let Err(error) = counted.await {
        report.wrong(
            &format!("{name}: its files cannot be counted: {error}"),
            None,
        );
        return tally;
    }
    let none_matches = tally.source_files == 0 && tally.references > 0;
    if none_matches && watch.scope.has_masters() {
        report.wrong(
            &format!("{name}: {}: no file matches masters", tally.text()),
            Some("correct the globs of masters; without a master no file is synchronized"),
        );
    } else {
        report.ok(&format!("{name}: {}", tally.text()));
    }
    for line in tally.retired() {
        report.note(
            &format!("{name}: {line}"),
            "exclude these files, or set another connector type in connectors",
        );
    }
    content.report(report);
    tally
}

/// Connects to both hosts of the platform; whether both are reachable.
pub(super) async fn network(report: &mut Report, config: &Config, client: &Client) -> bool {
    let (issuer, api) = (&config.itwin.issuer_url, &config.itwin.api_url);
    let mut reached = true;
    for (index, url) in [issuer, api].into_iter().enumerate() {
        if index == 1 && url.origin() == issuer.origin() {
            continue;
        }
        let host = url.origin().ascii_serialization();
        match client.probe(url).await {
            Ok(way) => {
                let mut line = match way.proxy {
                    Some(proxy) => format!("{host}: reachable through proxy {proxy}"),
                    None => format!("{host}: reachable without a proxy"),
                };
                if let Some(issuer) = way.issuer {
                    line = format!("{line}, certificate issued by {issuer}");
                }
                report.ok(&line);
            }
            Err(broken) => {
                report.wrong(
                    &format!("connection to {host}: {}", chain(&broken)),
                    Some(broken.hint()),
                );
                reached = false;
            }
        }
    }
    reached
}

/// The names of the connections of an iModel that the configuration uses.
fn connections_used<'c>(config: &'c Config, imodel_id: &ImodelId) -> Vec<&'c ConnectionName> {
    let watches = config.watches.iter();
    let watches = watches.filter(|watch| watch.imodel_id == *imodel_id);
    watches.map(|watch| &watch.connection).collect()
}

/// Compares the source files of an iModel with what it accepts. `watched` are those in folders.
async fn source_files(
    report: &mut Report,
    config: &Config,
    client: &Client,
    imodel_id: &ImodelId,
    connections: &[Connection],
    watched: u64,
) {
    let name = format!("iModel {imodel_id}");
    let used = connections_used(config, imodel_id);
    let (mut ours, mut foreign) = (0, 0);
    for connection in connections {
        let is_ours = connection
            .display_name
            .as_deref()
            .is_some_and(|name| used.iter().any(|used| used.fits(name)));
        let count = match client.source_files(&connection.id).await {
            Ok(files) => files.len() as u64,
            Err(error) => {
                report.refused(
                    &format!("{name}: source files of {}", connection.id),
                    &error,
                );
                return;
            }
        };
        *(if is_ours { &mut ours } else { &mut foreign }) += count;
    }
    let found = SourceFiles::of_folders(watched, ours, foreign);
    let line = format!("{name}: {}", found.text());
    match found.load() {
        Load::Fits => report.ok(&line),
        Load::Near => report.note(&line, ADVICE),
        Load::Over => report.wrong(&line, Some(ADVICE)),
    }
}

/// What defines, or has defined, the coordinate system of an iModel.
async fn spatial_root(report: &mut Report, config: &Config, client: &Client, imodel_id: &ImodelId) {
    let name = format!("iModel {imodel_id}");
    let is_empty = match client.has_changesets(imodel_id).await {
        Ok(has_changesets) => !has_changesets,
        Err(error) => {
            report.refused(&format!("{name}: changesets"), &error);
            return;
        }
    };
    let mut imodels = config.imodels.iter();
    let root = imodels
        .find(|imodel| imodel.id == *imodel_id)
        .and_then(|imodel| imodel.spatial_root.as_ref());
    match root {
        Some(_) if !is_empty => report.note(
            &format!("{name}: it has changesets already: spatial_root has no effect"),
            "remove spatial_root; the coordinate system of an iModel is defined once",
        ),
        Some(root) if is_missing(config, root).await => report.note(
            &format!(
                "{name}: empty; its spatial root {} is not in the folder of watch {:?}, and all \
                 other files wait for it",
                QuotedPath(&root.path),
                root.watch
            ),
            "save the file, or correct spatial_root",
        ),
        Some(root) => report.ok(&format!(
            "{name}: empty; gets {} of watch {:?} first and alone",
            QuotedPath(&root.path),
            root.watch
        )),
        None if is_empty => report.note(
            &format!(
                "{name}: empty; the first file with a coordinate system, in order of path, defines that of the iModel"
            ),
            "set spatial_root in an [[imodel]] table to choose this file",
        ),
        None => {}
    }
}

/// When named versions of an iModel are created.
fn named_version(report: &mut Report, config: &Config, imodel_id: &ImodelId) {
    let mut imodels = config.imodels.iter();
    let imodel = imodels.find(|imodel| imodel.id == *imodel_id);
    if let Some(version) = imodel.and_then(|imodel| imodel.named_version.as_ref()) {
        report.ok(&format!(
            "iModel {imodel_id}: gets a named version {}, {:?}",
            version.when_text(),
            version.name
        ));
    }
}

/// Whether the folder can be read and does not contain the file.
async fn is_missing(config: &Config, root: &SpatialRoot) -> bool {
    let mut watches = config.watches.iter();
    let Some(watch) = watches.find(|watch| watch.name == root.watch) else {
        return false;
    };
    let found = tokio::fs::symlink_metadata(watch.path.join(&root.path)).await;
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        && tokio::fs::read_dir(&watch.path).await.is_ok()
}

/// What a start will do about an iModel that the configuration names.
async fn new_imodel(report: &mut Report, client: &Client, new: &NewImodel) {
    let name = format!("iModel {}", new.key());
    match created_imodels::plan(client, new).await {
        Ok(Plan::Create) => report.ok(&format!("{name}: will be created")),
        Ok(Plan::Use(id)) => report.ok(&format!("{name}: exists, will be used (id {id})")),
        Ok(Plan::Ambiguous(ids)) => report.wrong(
            &format!(
                "{name}: the iTwin has several iModels with this name: {}",
                ids.join(", ")
            ),
            Some("set imodel_id to one of these ids instead of imodel"),
        ),
        Err(error) => report.refused(&name, &error),
    }
}

pub(super) async fn platform(
    report: &mut Report,
    config: &Config,
    client: &Client,
    watched: &BTreeMap<ImodelId, u64>,
) {
    if !account::token(report, config, client).await {
        return;
    }
    settings::preview(report, config);
    let mut itwins: BTreeMap<String, Vec<&Watch>> = BTreeMap::new();
    let unknown: BTreeSet<ImodelId> = config.unknown_imodels().map(NewImodel::key).collect();
    for new in config.unknown_imodels() {
        new_imodel(report, client, new).await;
        let key = new.key();
        let watches = config.watches.iter().filter(|watch| watch.imodel_id == key);
        itwins
            .entry(new.itwin_id.clone())
            .or_default()
            .extend(watches);
    }
    for imodel_id in config
        .watches
        .iter()
        .map(|watch| &watch.imodel_id)
        .filter(|id| !unknown.contains(*id))
        .collect::<BTreeSet<_>>()
    {
        match client.imodel(imodel_id).await {
            Ok(imodel) if imodel.initialized() => {
                report.ok(&format!(
                    "iModel {imodel_id} ({:?}) in iTwin {}",
                    imodel.display_name, imodel.itwin_id
                ));
                let watches = config
                    .watches
                    .iter()
                    .filter(|watch| watch.imodel_id == *imodel_id);
                itwins.entry(imodel.itwin_id).or_default().extend(watches);
            }
            Ok(imodel) => {
                let hint = "wait until it is created, or check it in the iTwin portal";
                report.wrong(
                    &format!("iModel {imodel_id}: not ready (state {:?})", imodel.state),
                    Some(hint),
                );
            }
            Err(error) if error.is_not_found() && config.is_created(imodel_id) => report.wrong(
                &format!("iModel {imodel_id}: {}", chain(&error)),
                Some(
                    "it was created or found by its name, and no other one is created in its place: set another \
                     name in create, or imodel_id instead of imodel",
                ),
            ),
            Err(error) => report.refused(&format!("iModel {imodel_id}"), &error),
        }
        match client.connections(imodel_id).await {
            Ok(connections) => {
                report.ok(&format!(
                    "synchronization of iModel {imodel_id}: accessible"
                ));
                account::connections(
                    report,
                    config,
                    &connections_used(config, imodel_id),
                    &connections,
                );
                let watched = watched.get(imodel_id).copied().unwrap_or_default();
                source_files(report, config, client, imodel_id, &connections, watched).await;
                spatial_root(report, config, client, imodel_id).await;
                named_version(report, config, imodel_id);
                settings::settings(report, config, client, imodel_id, &connections).await;
            }
            Err(error) => report.refused(&format!("synchronization of iModel {imodel_id}"), &error),
        }
    }
    let own = claims::own_ledger(config).await;
    for (itwin_id, watches) in itwins {
        match client.root_folder(&itwin_id).await {
            Ok(root) => {
                report.ok(&format!("storage of iTwin {itwin_id}: readable"));
                for watch in watches.iter().filter(|one| one.follows.is_none()) {
                    claims::claim(report, client, &root, watch, own.as_deref()).await;
                }
            }
            Err(error) => report.refused(&format!("storage of iTwin {itwin_id}"), &error),
        }
        for (index, one) in watches.iter().enumerate() {
            for other in watches
                .iter()
                .skip(index + 1)
                .filter(|other| one.storage_overlaps(other))
            {
                report.wrong(
                    &format!(
                        "watches {:?} and {:?} use the same storage folder of iTwin {itwin_id}",
                        one.name, other.name
                    ),
                    Some("give each of them its own storage_folder"),
                );
            }
        }
    }
}
