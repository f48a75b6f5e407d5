//! The `[[imodel]]` tables: what concerns an iModel rather than one of its watches.
//!
//! Input: the tables and the watches. Output: [`Imodel`]s, the windows of runs and uploads, and the settings of
//! connections. Every error has the line of its key. It touches no folder: whether a watch selects a path is decided
//! from the path alone.

use std::path::{Component, Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Report, Section};
use super::named_versions::named_version;
use super::new_imodels::new_imodel;
use super::platform_settings::{self, ConnectionSettings};
use super::schedule::{self, RunSchedules, Schedule};
use super::sections::KEYS;
use super::values::{self, InvalidValue};
use super::watches::Placed;
use super::{Imodel, SpatialRoot};
use crate::connection_name::ConnectionName;
use crate::ids::ImodelId;
use crate::selection::Verdict;
use crate::shell;

/// How a spatial root is written.
const EXAMPLE: &str = "write spatial_root = { watch = \"north\", path = \"Site/GCS.dgn\" }";

/// Reads every table, and reports the errors of each.
pub(super) fn read<'d>(
    tables: &[&'d Spanned<DeValue<'d>>],
    watches: &mut [Placed],
    report: &mut Report,
) -> (Vec<Imodel>, RunSchedules) {
    let mut imodels: Vec<Imodel> = Vec::new();
    let mut schedules = of_watches(watches, report);
    for table in tables {
        let mut section = Section::one_of(table, "imodel", KEYS, report);
        let create = section.read("create", new_imodel);
        let key = if section.has("create") {
            "create"
        } else {
            "id"
        };
        let id = match &create {
            Some(new) => Some(new.key()),
            None if section.has("create") => None,
            None => {
                let hint = "add the id of the iModel, the same as imodel_id of its watches";
                section
                    .require("id", hint, values::uuid)
                    .map(ImodelId::from)
            }
        };
        if section.has("create") && section.has("id") {
            let bad = InvalidValue::new("id is set as well", "remove one of the two keys");
            section.add("create", bad);
        }
        let root = section.read("spatial_root", spatial_root);
        let windows = schedule::read(&mut section);
        let version = section.read("named_version", named_version);
        let settings = platform_settings::read(&mut section);
        let Some(id) = id else { continue };
        let imodel = Imodel {
            create,
            spatial_root: root.map(|root| of_follower(root, &id, watches)),
            id,
            named_version: version.flatten(),
            settings,
        };
        if let Some(bad) = mistake(&imodel, &imodels, watches) {
            section.add(key, bad);
        } else if let Some(bad) = imodel
            .spatial_root
            .as_ref()
            .and_then(|root| root_mistake(&imodel, root, watches))
        {
            section.add("spatial_root", bad);
        }
        if let Some(run) = windows.run {
            match schedules.get(&imodel.id) {
                Some(other) if *other != run => section.add("run_window", another_window()),
                _ => {
                    schedules.insert(imodel.id.clone(), run);
                }
            }
        }
        for placed in watches.iter_mut() {
            if placed.watch.imodel_id == imodel.id
                && placed.watch.upload_schedule.is_none()
                && placed.watch.follows.is_none()
            {
                placed.watch.upload_schedule.clone_from(&windows.upload);
            }
        }
        imodels.push(imodel);
    }
    (imodels, schedules)
}

/// The windows of runs that watches have. One run covers the files of all watches of its iModel, so they must agree.
fn of_watches(watches: &[Placed], report: &mut Report) -> RunSchedules {
    let mut schedules = RunSchedules::new();
    for placed in watches {
        let Some(run) = &placed.schedules.run else {
            continue;
        };
        match schedules.get(&placed.watch.imodel_id) {
            Some(other) if other != run => {
                report.add(placed.schedules.at_run.clone(), another_window());
            }
            _ => {
                schedules.insert(placed.watch.imodel_id.clone(), Schedule::clone(run));
            }
        }
    }
    schedules
}

/// The settings of connections. Watches of one connection must agree; it is enough if one of them has the table.
pub(super) fn connection_settings(
    watches: &[Placed],
    report: &mut Report,
) -> Vec<ConnectionSettings> {
    let mut found: Vec<(ConnectionSettings, &Placed)> = Vec::new();
    for placed in watches {
        let Some(wanted) = &placed.settings else {
            continue;
        };
        let watch = &placed.watch;
        let mut earlier = found.iter().filter(|(other, _)| {
            other.imodel_id == watch.imodel_id && is_shared(&other.connection, &watch.connection)
        });
        if let Some((_, by)) = earlier.find(|(other, _)| !wanted.is_same(&other.settings)) {
            let line = by.at_settings.line;
            let line = line.map_or_else(String::new, |line| format!(" (line {line})"));
            let bad = InvalidValue::new(
                format!(
                    "not the same as the settings of watch {:?}{line}, which has the same connection {:?}",
                    by.watch.name,
                    by.watch.connection.as_str()
                ),
                "write the settings of a connection in one of its watches, or give each watch a connection of its own",
            );
            report.add(placed.at_settings.clone(), bad);
        } else {
            let settings = ConnectionSettings {
                imodel_id: watch.imodel_id.clone(),
                connection: watch.connection.clone(),
                settings: wanted.clone(),
            };
            found.push((settings, placed));
        }
    }
    found.into_iter().map(|(settings, _)| settings).collect()
}

/// Whether a connection can have both names.
fn is_shared(one: &ConnectionName, other: &ConnectionName) -> bool {
    one == other || one.fits(other.as_str()) || other.fits(one.as_str())
}

fn another_window() -> InvalidValue {
    InvalidValue::new(
        "differs from the run_window or window_stale of another watch of this iModel",
        "a run covers the files of all watches of its iModel: set both keys once, in its [[imodel]] table",
    )
}

fn spatial_root(value: &DeValue<'_>) -> Result<SpatialRoot, InvalidValue> {
    let bad = |what: &str| InvalidValue::new(what, EXAMPLE);
    let table = value
        .as_table()
        .ok_or_else(|| bad("expected a table with watch and path"))?;
    let text = |key: &str| {
        let found = table.iter().find(|(name, _)| name.get_ref() == key);
        let text = found.and_then(|(_, value)| value.get_ref().as_str());
        text.map(str::to_owned)
            .ok_or_else(|| bad(&format!("has no {key}, or one that is not a string")))
    };
    if let Some((key, _)) = table
        .iter()
        .find(|(key, _)| !["watch", "path"].contains(&key.get_ref().as_ref()))
    {
        return Err(bad(&format!("unknown key {:?}", key.get_ref())));
    }
    let path = PathBuf::from(text("path")?);
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !is_plain {
        return Err(bad("path must be relative to the folder of the watch"));
    }
    Ok(SpatialRoot {
        watch: text("watch")?,
        path,
    })
}

/// A table with several iModels is several watches: the one of this iModel is meant.
fn of_follower(mut root: SpatialRoot, imodel_id: &ImodelId, watches: &[Placed]) -> SpatialRoot {
    let follower = watches.iter().map(|placed| &placed.watch).find(|watch| {
        let leader = watch.follows.as_ref();
        watch.imodel_id == *imodel_id && leader.is_some_and(|leader| leader.watch == root.watch)
    });
    if let Some(follower) = follower {
        root.watch.clone_from(&follower.name);
    }
    root
}

fn mistake(imodel: &Imodel, earlier: &[Imodel], watches: &[Placed]) -> Option<InvalidValue> {
    if let Some(new) = &imodel.create {
        let name = |other: &Imodel| other.create.as_ref().map(|other| other.name.clone());
        if earlier
            .iter()
            .any(|other| name(other).as_ref() == Some(&new.name))
        {
            return Some(InvalidValue::new(
                format!(
                    "there is another [[imodel]] table with the name {:?}",
                    new.name
                ),
                "give each iModel that is created another name: watches refer to it by this name",
            ));
        }
        let used = |placed: &Placed| placed.watch.imodel_id == imodel.id;
        return (!watches.iter().any(used)).then(|| {
            let hint = format!(
                "add imodel = {:?} to a [[watch]], or remove the table",
                new.name
            );
            InvalidValue::new(format!("no watch has imodel = {:?}", new.name), hint)
        });
    }
    if earlier.iter().any(|other| other.id == imodel.id) {
        return Some(InvalidValue::new(
            "there is another [[imodel]] table with this id",
            "merge both tables",
        ));
    }
    let used = watches
        .iter()
        .any(|placed| placed.watch.imodel_id == imodel.id);
    (!used).then(|| {
        InvalidValue::new(
            "no watch has this imodel_id",
            "add a [[watch]] for this iModel, correct the id, or remove the table",
        )
    })
}

fn root_mistake(imodel: &Imodel, root: &SpatialRoot, watches: &[Placed]) -> Option<InvalidValue> {
    let of_imodel = watches
        .iter()
        .map(|placed| &placed.watch)
        .filter(|watch| watch.imodel_id == imodel.id);
    let names: Vec<String> = of_imodel
        .clone()
        .map(|watch| format!("{:?}", watch.name))
        .collect();
    let Some(watch) = of_imodel.clone().find(|watch| watch.name == root.watch) else {
        return Some(InvalidValue::new(
            format!("no watch of this iModel has the name {:?}", root.watch),
            format!("watches of this iModel: {}", names.join(", ")),
        ));
    };
    let why = not_a_source_file(&watch.scope.decide(&root.path))?;
    Some(InvalidValue::new(
        format!(
            "{} is no source file of watch {:?}: {why}",
            shown(&root.path),
            root.watch
        ),
        format!(
            "name a file that the watch synchronizes; `{}` shows how it treats a path",
            shell::command(["explain", "PATH"])
        ),
    ))
}

fn shown(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// Why a file does not become a source file.
fn not_a_source_file(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Source { .. } => None,
        Verdict::Ignored(reason) => Some(format!("ignored, {reason}")),
        Verdict::NoConnector => Some("no connector for its extension".to_owned()),
        Verdict::UploadOnly { glob } => Some(format!("upload_only has {glob:?}")),
        Verdict::Reference => Some("no glob of masters matches".to_owned()),
        Verdict::Companion(companion) => Some(format!("companion of {companion}")),
    }
}
