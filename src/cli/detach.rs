//! `itwin-syncd detach`: removes what a watch left in the iModel that it went into before its `imodel_id` was changed.
//!
//! Only source files are removed; storage files stay. It touches nothing in the iModel that the watch goes into now.

use clap::Args;
use serde::Serialize;

use super::created_imodels;
use super::removal::{self, Mapped, Remover};
use super::{
    ConfigArgument, EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, json, operate, print_config_errors,
    print_error, print_line, service_unit,
};
use crate::config::{Config, Watch};
use crate::ids::ImodelId;
use crate::itwin;
use crate::ledger::{self, FormerSourceFile, Ledger, Removed};
use crate::names::QuotedPath;
use crate::service;
use crate::shell;
use crate::state_directory;
use crate::text::plural;

/// Files that are listed one by one.
const LINES_MAX: usize = 50;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The watch, by name
    watch: String,
    /// The iModel that the watch went into before
    #[arg(long, value_name = "ID")]
    imodel: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Show what would be done, without doing it
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Print one JSON object for programs, instead of lines; needs --yes or --dry-run
    #[arg(long)]
    json: bool,
}

/// What was detached, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Detached {
    version: u32,
    watch: String,
    imodel_id: String,
    /// Nothing was removed, because of `--dry-run`.
    dry_run: bool,
    files: Vec<DetachedFile>,
}

/// A file whose source file was removed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DetachedFile {
    /// Relative to the folder of its watch.
    path: String,
    storage_file_id: String,
    source_file_id: String,
}

fn view(arguments: &Arguments, imodel_id: &ImodelId, files: &[FormerSourceFile]) -> Detached {
    let view = |file: &FormerSourceFile| DetachedFile {
        path: file.path.to_string_lossy().into_owned(),
        storage_file_id: file.storage_file_id.to_string(),
        source_file_id: file.source_file_id.clone(),
    };
    Detached {
        version: json::VERSION,
        watch: arguments.watch.clone(),
        imodel_id: imodel_id.to_string(),
        dry_run: arguments.dry_run,
        files: files.iter().map(view).collect(),
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("watch {watch:?} goes into iModel {}: nothing was removed", imodel_id.as_str())]
    InUse { watch: String, imodel_id: ImodelId },
    #[error("watch {watch:?} has left no source file in iModel {}", imodel_id.as_str())]
    Nothing { watch: String, imodel_id: ImodelId },
    #[error("cannot set up the client for the iTwin Platform")]
    Client(#[from] itwin::Error),
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
            Self::InUse { .. } => {
                Some("set another imodel_id for the watch, and restart the daemon first".to_owned())
            }
            Self::Nothing { .. } => Some(format!(
                "`{}` shows what stays in which iModel, once the daemon was restarted after the change",
                shell::command(["status"])
            )),
            Self::Client(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Directory(error) => Some(error.hint()),
            Self::Confirm(error) => error.hint(watches),
            Self::Removal(error) => error.hint(watches),
        }
    }
}

pub(super) async fn detach(arguments: &Arguments) -> u8 {
    let mut config = match service_unit::load(&arguments.config.config) {
        Ok(config) => config,
        Err(errors) => {
            print_config_errors(&errors);
            return EXIT_CONFIG;
        }
    };
    match detach_with(arguments, &mut config).await {
        Ok(()) => EXIT_GOOD,
        Err(error) => {
            let hint = error.hint(&config.watches);
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn detach_with(arguments: &Arguments, config: &mut Config) -> Result<(), Error> {
    state_directory::act_as_owner(&config.state.path)?;
    config.know_imodels(&created_imodels::known(&config.state.path).await);
    let watch = &arguments.watch;
    let imodel_id = ImodelId::from(arguments.imodel.to_lowercase());
    let goes_there = |one: &Watch| one.name == *watch && one.imodel_id == imodel_id;
    if config.watches.iter().any(goes_there) {
        return Err(Error::InUse {
            watch: watch.clone(),
            imodel_id,
        });
    }
    let ledger = Ledger::read(&config.state.path).await?;
    let former = ledger.former_source_files(watch, &imodel_id).await?;
    if former.is_empty() {
        return Err(Error::Nothing {
            watch: watch.clone(),
            imodel_id,
        });
    }
    let report: fn(&str) = if arguments.json { |_| () } else { print_line };
    for file in former.iter().take(LINES_MAX) {
        report(&format!("{watch}: {}", QuotedPath(&file.path)));
    }
    let more = former.len().saturating_sub(LINES_MAX);
    if more > 0 {
        report(&format!("… and {more} more"));
    }
    let files = plural(former.len() as u64, "source file", "source files");
    let imodel = imodel_id.as_str();
    let whole = || print_line(&json::text(&view(arguments, &imodel_id, &former)));
    if arguments.dry_run {
        report(&format!("would remove {files} from iModel {imodel}"));
        if arguments.json {
            whole();
        }
        return Ok(());
    }
    if arguments.json && !arguments.yes {
        return Err(operate::Error::NoTerminal.into());
    }
    if !arguments.yes && !operate::confirmed(&format!("Remove {files} from iModel {imodel}?"))? {
        print_line("nothing was removed");
        return Ok(());
    }
    remove(config, &imodel_id, &former, report).await?;
    report(&format!("removed {files} from iModel {imodel}"));
    if arguments.json {
        whole();
    }
    Ok(())
}

async fn remove(
    config: &Config,
    imodel_id: &ImodelId,
    former: &[FormerSourceFile],
    report: fn(&str),
) -> Result<(), Error> {
    let client = service::client(config, None)?;
    let (state, pause) = (config.state.path.clone(), config.sync.poll_interval);
    let mut remover = Remover::new(&client, state, pause, report).await?;
    for file in former {
        let mapped = Mapped {
            imodel_id: imodel_id.clone(),
            connection: file.connection.clone(),
            source_file_id: file.source_file_id.clone(),
        };
        let path = file.path.to_string_lossy();
        remover
            .remove_source_file(
                &mapped,
                Removed::FormerSourceFile,
                &file.storage_file_id,
                &path,
            )
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let (watch, imodel_id) = ("north".to_owned(), "c0ffee00-1234-4abc-8def-0123456789ab");
        let hint = |error: &Error| error.hint(&[]);
        insta::assert_snapshot!(crate::text::render_variants!(Error, hint, {
            Error::InUse { .. } => Error::InUse { watch: watch.clone(), imodel_id: imodel_id.into() },
            Error::Nothing { .. } => Error::Nothing { watch: watch.clone(), imodel_id: imodel_id.into() },
            Error::Ledger(_) | Error::Client(_) => Error::Ledger(ledger::Error::Missing {
                path: "/var/lib/itwin-syncd".into(),
            }),
            Error::Directory(_) => Error::Directory(state_directory::Error::Writable {
                path: "/var/lib/itwin-syncd".into(),
                mode: 0o777,
            }),
            Error::Confirm(_) => Error::Confirm(operate::Error::NoTerminal),
            Error::Removal(_) => Error::Removal(removal::Error::RunActive(imodel_id.into())),
        }));
    }
}
