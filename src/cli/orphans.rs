//! `itwin-syncd orphans`: what our connections and storage folders have that no local file stands for any more.
//!
//! Input: complete scans of all watches, the ledger, and what the platform has. It lists them; `--unmap` removes their
//! source files, `--remove` their storage files as well. It works beside a running daemon: before each removal, the
//! ledger and the local folder are read once more. It never touches other connections and other storage folders, and
//! what other clients created only if the operator names it.

mod decide;
mod gather;
mod storage;

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::created_imodels;
use super::removal::{self, Mapped, Remover};
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, json, operate, print_config_errors,
    print_error, print_line, service_unit,
};
use crate::config::{Config, Watch};
use crate::ids::{ImodelId, StorageFileId};
use crate::itwin;
use crate::ledger::{self, Ledger, Removed};
use crate::names::QuotedPath;
use crate::service;
use crate::state_directory;
use crate::text::plural;
use decide::Orphan;

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "one per option of the command line"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Only these, by path in storage or id of the storage file; necessary for what other clients created
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Remove their source files from the connections; the storage files stay
    #[arg(long)]
    unmap: bool,
    /// Remove their source files, and move the storage files to the recycle bin, which keeps them for 30 days
    #[arg(long, conflicts_with = "unmap")]
    remove: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What is done with what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    List,
    Unmap,
    Remove,
}

/// A storage file or source file that no local file stands for.
#[derive(Debug, Clone)]
struct Entry {
    id: StorageFileId,
    imodel_id: ImodelId,
    path: String,
    size: Option<u64>,
    modified: Option<String>,
    watch: Option<String>,
    /// The storage file exists.
    exists: bool,
    mapped: Vec<Mapped>,
    why: Orphan,
    done: Vec<&'static str>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("folder of watch {watch:?}: {why}")]
    Folder { watch: String, why: String },
    #[error("nothing was removed: {} not in storage yet", plural(*.0, "watched file is", "watched files are"))]
    Unsettled(u64),
    #[error("no orphan is called {0:?}")]
    NotFound(String),
    #[error("storage has more than {max} {what}")]
    StorageTooLarge { what: &'static str, max: usize },
    #[error("cannot read what the platform has")]
    Platform(#[from] itwin::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Directory(#[from] state_directory::Error),
    #[error(transparent)]
    Confirm(#[from] operate::Error),
    #[error(transparent)]
    Removal(#[from] removal::Error),
}

impl Error {
    fn hint(&self, watches: &[Watch]) -> Option<String> {
        match self {
            Self::Folder { .. } => Some(
                "make the folder of every watch available and readable: only complete scans show what is gone"
                    .to_owned(),
            ),
            Self::Unsettled(_) => Some(
                "one of them may be a renamed file: run the daemon, and repeat the command when no file waits"
                    .to_owned(),
            ),
            Self::NotFound(_) => {
                Some("`itwin-syncd orphans` lists them with their paths in storage".to_owned())
            }
            Self::StorageTooLarge { .. } => {
                Some("give each watch a storage_folder of its own".to_owned())
            }
            Self::Platform(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Directory(error) => Some(error.hint()),
            Self::Confirm(error) => error.hint(watches),
            Self::Removal(error) => error.hint(watches),
        }
    }
}

pub(super) async fn orphans(arguments: &Arguments) -> u8 {
    let mut config = match service_unit::load(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    match orphans_with(arguments, &mut config).await {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(&config.watches);
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn orphans_with(arguments: &Arguments, config: &mut Config) -> Result<(), Error> {
    state_directory::act_as_owner(&config.state.path)?;
    config.know_imodels(&created_imodels::known(&config.state.path).await);
    let ledger = match Ledger::read(&config.state.path).await {
        Ok(ledger) => Some(ledger),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let client = service::client(config, None)?;
    let local = gather::local(config, ledger.as_ref()).await?;
    let found = gather::orphans(config, &client, ledger.as_ref(), &local).await?;
    let mut entries = chosen(found, &arguments.files)?;
    let task = match (arguments.unmap, arguments.remove) {
        (false, false) => Task::List,
        (true, _) => Task::Unmap,
        (_, true) => Task::Remove,
    };
    if !arguments.json {
        for entry in &entries {
            print_line(&line(entry));
        }
        print_line(&summary(&entries));
    }
    let done = match task {
        Task::List => Ok(()),
        Task::Unmap | Task::Remove => {
            let platform = Platform {
                config,
                client: &client,
                ledger: ledger.as_ref(),
            };
            clean_up(arguments, task, &platform, &mut entries, local.unsettled).await
        }
    };
    if arguments.json {
        print_line(&json::text(&Orphans {
            version: json::VERSION,
            orphans: entries.iter().map(view).collect(),
        }));
    }
    done
}

/// What a clean-up works with.
struct Platform<'a> {
    config: &'a Config,
    client: &'a itwin::Client,
    /// None: there is no ledger yet.
    ledger: Option<&'a Ledger>,
}

/// Asks for confirmation, and removes the entries. `unsettled` files may turn out to be renamed ones.
async fn clean_up(
    arguments: &Arguments,
    task: Task,
    platform: &Platform<'_>,
    entries: &mut [Entry],
    unsettled: u64,
) -> Result<(), Error> {
    let report: fn(&str) = if arguments.json { |_| () } else { print_line };
    let is_named = !arguments.files.is_empty();
    let todo: Vec<usize> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_named || !entry.why.must_be_named())
        .filter(|(_, entry)| !entry.mapped.is_empty() || (task == Task::Remove && entry.exists))
        .map(|(at, _)| at)
        .collect();
    if todo.is_empty() {
        report("nothing to remove");
        return Ok(());
    }
    let Some(ledger) = platform.ledger.filter(|_| unsettled == 0) else {
        return Err(Error::Unsettled(unsettled));
    };
    if !arguments.yes && !operate::confirmed(&question(task, entries, &todo))? {
        report("nothing was removed");
        return Ok(());
    }
    act(platform, ledger, task, entries, &todo, report).await
}

/// The entries that the operator named, or all.
fn chosen(found: Vec<Entry>, names: &[String]) -> Result<Vec<Entry>, Error> {
    let is = |entry: &Entry, name: &String| entry.path == *name || entry.id.as_str() == name;
    for name in names {
        if !found.iter().any(|entry| is(entry, name)) {
            return Err(Error::NotFound(name.clone()));
        }
    }
    let all = found.into_iter();
    Ok(all
        .filter(|entry| names.is_empty() || names.iter().any(|name| is(entry, name)))
        .collect())
}

fn question(task: Task, entries: &[Entry], todo: &[usize]) -> String {
    let entries: Vec<&Entry> = todo.iter().filter_map(|at| entries.get(*at)).collect();
    let mapped: u64 = entries.iter().map(|one| one.mapped.len() as u64).sum();
    let sources = plural(mapped, "source file", "source files");
    let stored = entries.iter().filter(|one| one.exists).count() as u64;
    match task {
        Task::Remove => format!(
            "Remove {sources}, and move {} to the recycle bin?",
            plural(stored, "storage file", "storage files")
        ),
        Task::Unmap | Task::List => format!("Remove {sources}?"),
    }
}

/// Removes what the operator has confirmed; `report` prints a line for each.
async fn act(
    platform: &Platform<'_>,
    ledger: &Ledger,
    task: Task,
    entries: &mut [Entry],
    todo: &[usize],
    report: fn(&str),
) -> Result<(), Error> {
    let (config, client) = (platform.config, platform.client);
    let pause = config.sync.poll_interval;
    let mut remover = Remover::new(client, config.state.path.clone(), pause, report).await?;
    for at in todo {
        let Some(entry) = entries.get_mut(*at) else {
            continue;
        };
        if let Some(path) = is_back(config, ledger, entry).await? {
            report(&format!(
                "{}: kept, its local file is back",
                QuotedPath(&path)
            ));
            continue;
        }
        let path = entry.path.clone();
        for mapped in std::mem::take(&mut entry.mapped) {
            remover
                .remove_source_file(&mapped, Removed::SourceFile, &entry.id, &path)
                .await?;
            entry.done.push("source_file_removed");
        }
        if task == Task::Remove && entry.exists {
            // Its removal from the connection may have waited for a run.
            if let Some(path) = is_back(config, ledger, entry).await? {
                report(&format!(
                    "{}: storage file kept, its local file is back",
                    QuotedPath(&path)
                ));
                continue;
            }
            remover
                .remove_storage_file(&entry.imodel_id, &entry.id, &path)
                .await?;
            entry.done.push("storage_file_removed");
        }
    }
    Ok(())
}

/// The local file for which a storage file is needed after all, if there is one by now.
async fn is_back(
    config: &Config,
    ledger: &Ledger,
    entry: &Entry,
) -> Result<Option<PathBuf>, Error> {
    if let Some(path) = ledger.file_in_use(&entry.id).await? {
        return Ok(Some(path));
    }
    if entry.why == Orphan::Duplicate {
        return Ok(None);
    }
    for watch in &config.watches {
        let folder = watch.storage_folder.join("/");
        let path = match folder.as_str() {
            "" => Some(entry.path.as_str()),
            folder => entry
                .path
                .strip_prefix(folder)
                .and_then(|below| below.strip_prefix('/')),
        };
        if let Some(path) = path
            && watch.scope.selects(path.as_ref())
            && watch.path.join(path).symlink_metadata().is_ok()
        {
            return Ok(Some(path.into()));
        }
    }
    Ok(None)
}

fn line(entry: &Entry) -> String {
    let mapped = if entry.mapped.is_empty() {
        "not mapped".to_owned()
    } else {
        let imodels: Vec<&str> = entry
            .mapped
            .iter()
            .map(|one| one.imodel_id.as_str())
            .collect();
        format!("mapped in iModel {}", imodels.join(", "))
    };
    let size = entry.size.map_or_else(String::new, |size| {
        format!(", {}", ByteSize(size).display().iec())
    });
    let modified = entry.modified.as_ref();
    let modified = modified.map_or_else(String::new, |at| format!(", modified {at}"));
    format!(
        "{:?}: {}; {mapped}{size}{modified}, storage file {}",
        entry.path,
        entry.why.text(),
        entry.id.as_str()
    )
}

fn summary(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no orphans: a local file stands for everything in our connections and storage folders"
            .to_owned();
    }
    let mapped = entries
        .iter()
        .filter(|entry| !entry.mapped.is_empty())
        .count();
    let bytes = entries.iter().filter_map(|entry| entry.size).sum();
    format!(
        "{}, {mapped} of them mapped, {} in storage",
        plural(entries.len() as u64, "orphan", "orphans"),
        ByteSize(bytes).display().iec()
    )
}

/// What was found, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Orphans {
    version: u32,
    orphans: Vec<OrphanView>,
}

/// One of them.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OrphanView {
    storage_file_id: String,
    /// In storage.
    path: String,
    imodel_id: String,
    /// Whether it is a source file of a connection.
    mapped: bool,
    watch: Option<String>,
    size: Option<u64>,
    modified: Option<String>,
    /// Why no local file stands for it, for programs.
    state: &'static str,
    /// The same as text.
    text: String,
    since: Option<String>,
    /// It is only removed if its path or id is given.
    must_be_named: bool,
    /// What was removed: `source_file_removed`, `storage_file_removed`.
    done: Vec<&'static str>,
}

fn view(entry: &Entry) -> OrphanView {
    let since = match &entry.why {
        Orphan::Gone { since } | Orphan::Deselected { since } | Orphan::SpatialRoot { since } => {
            Some(since.to_string())
        }
        _ => None,
    };
    OrphanView {
        storage_file_id: entry.id.to_string(),
        path: entry.path.clone(),
        imodel_id: entry.imodel_id.to_string(),
        mapped: !entry.mapped.is_empty(),
        watch: entry.watch.clone(),
        size: entry.size,
        modified: entry.modified.clone(),
        state: entry.why.word(),
        text: entry.why.text(),
        since,
        must_be_named: entry.why.must_be_named(),
        done: entry.done.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let no_ledger = || ledger::Error::Missing {
            path: "/var/lib/itwin-syncd".into(),
        };
        let hint = |error: &Error| error.hint(&[]);
        insta::assert_snapshot!(crate::text::render_variants!(Error, hint, {
            Error::Folder { .. } => Error::Folder { watch: "north".to_owned(), why: "there is no file in it".to_owned() },
            Error::Unsettled(_) => Error::Unsettled(3),
            Error::NotFound(_) => Error::NotFound("North/a.dgn".to_owned()),
            Error::StorageTooLarge { .. } => Error::StorageTooLarge { what: "folders", max: 10_000 },
            Error::Ledger(_) => Error::Ledger(no_ledger()),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
            Error::Confirm(_) => Error::Confirm(operate::Error::NoTerminal),
            Error::Platform(_) | Error::Removal(_) => Error::Removal(removal::Error::RunActive(
                "c0ffee00-1234-4abc-8def-0123456789ab".into(),
            )),
        }));
    }
}
