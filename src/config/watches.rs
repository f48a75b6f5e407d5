//! The `[[watch]]` tables, each by itself and compared with the others.
//!
//! Input: the tables and the defaults from the top of the file. Output: [`Placed`] watches, with their lines for
//! `folders`. A watch with an error is returned as well, with empty values: all watches are checked in one pass. It
//! touches no folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Place, Report, Section, in_file_order};
use super::platform_settings::{self, PlatformSettings};
use super::schedule;
use super::sections::{DAY, KEYS, SECOND, Times};
use super::values::{self, InvalidValue};
use super::{Followed, OnDelete, OnRename, Sync, Watch};
use crate::ids::ImodelId;
use crate::selection::{BadRule, Depth, Rules, Scope, Selection};

/// A watch, and where its keys are in the file.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) watch: Watch,
    pub(super) at_path: Place,
    at_name: Place,
    at_formerly: Place,
    at_storage_folder: Place,
    pub(super) schedules: schedule::Placed,
    /// Those of its connection.
    pub(super) settings: Option<PlatformSettings>,
    pub(super) at_settings: Place,
}

/// Reads every watch, and reports the errors of each and of each pair.
pub(super) fn read<'d>(
    tables: &[&'d Spanned<DeValue<'d>>],
    times: Times,
    sync: &Sync,
    created: &BTreeMap<String, ImodelId>,
    report: &mut Report,
) -> Vec<Placed> {
    let placed: Vec<Placed> = tables
        .iter()
        .enumerate()
        .flat_map(|(index, table)| one(table, index + 1, times, (sync, created), report))
        .collect();
    for (index, later) in placed.iter().enumerate() {
        for earlier in placed.iter().take(index) {
            compare(earlier, later, report);
            compare_former_names(earlier, later, report);
        }
        check_former_name(later, &placed, report);
    }
    placed
}

fn one<'d>(
    table: &'d Spanned<DeValue<'d>>,
    number: usize,
    times: Times,
    (sync, created): (&Sync, &BTreeMap<String, ImodelId>),
    report: &'d mut Report,
) -> Vec<Placed> {
    let name = table
        .get_ref()
        .get("name")
        .and_then(|name| values::watch_name(name.get_ref()).ok());
    let shown = name.map_or_else(|| number.to_string(), |name| format!("{name:?}"));
    let mut section = Section::one(table, shown, KEYS, report);

    let times = times.read(&mut section);
    let schedules = schedule::read(&mut section);
    let settings = platform_settings::read(&mut section);
    let selection = selection(&mut section);
    let depth = match section.read("recursive", values::flag) {
        Some(false) => Depth::TopOnly,
        Some(true) | None => Depth::All,
    };
    let imodel_ids: Vec<ImodelId>;
    let watch = Watch {
        name: section
            .require(
                "name",
                "add a short name for logs and status, such as name = \"north\"",
                values::watch_name,
            )
            .unwrap_or_default(),
        formerly: section.read("formerly", values::watch_name),
        path: section
            .require(
                "path",
                "add the folder to watch, such as path = \"/srv/projects/north\"",
                values::absolute,
            )
            .unwrap_or_default(),
        imodel_id: {
            imodel_ids = imodel_ids_of(&mut section, created);
            imodel_ids.first().cloned().unwrap_or_default()
        },
        follows: None,
        settle_policy: times.settle_policy(),
        rescan_interval: times.rescan_interval,
        poll_interval: times.poll_interval,
        storage_folder: section
            .read("storage_folder", values::storage_folder)
            .unwrap_or_default(),
        is_exclusive: true,
        on_rename: section.read("rename", on_rename).unwrap_or_default(),
        on_delete: section.read("on_delete", on_delete).unwrap_or_default(),
        delete_after: section
            .read("delete_after", values::duration(SECOND..=365 * DAY))
            .unwrap_or(DAY),
        connection: section
            .read("connection", values::connection_name)
            .unwrap_or_else(|| sync.connection.clone()),
        upload_schedule: schedules.upload.clone(),
        scope: Scope::new(selection, depth),
    };
    let first = Placed {
        watch,
        at_path: section.place("path"),
        at_name: section.place("name"),
        at_formerly: section.place("formerly"),
        at_storage_folder: section.place("storage_folder"),
        schedules,
        settings,
        at_settings: section.place(platform_settings::KEY),
    };
    per_imodel(first, &imodel_ids)
}

/// One watch for each iModel of a table. The first one has the name in the table and uploads the files; the others have
/// its name with the beginning of their iModel's id, and follow it.
fn per_imodel(first: Placed, imodel_ids: &[ImodelId]) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(imodel_ids.len());
    for imodel_id in imodel_ids.iter().skip(1) {
        let mut one = first.clone();
        let suffix = distinct_start(imodel_id, imodel_ids);
        let name = |of: &str| format!("{of}@{suffix}");
        one.watch.follows = Some(Followed {
            watch: first.watch.name.clone(),
            imodel_id: first.watch.imodel_id.clone(),
        });
        one.watch.name = name(&first.watch.name);
        one.watch.formerly = first.watch.formerly.as_deref().map(name);
        one.watch.imodel_id = imodel_id.clone();
        // It uploads nothing, unless its iModel is in another iTwin.
        one.watch.upload_schedule = None;
        one.schedules.upload = None;
        placed.push(one);
    }
    placed.insert(0, first);
    placed
}

/// The beginning of an id that no other one has, of 8 characters at least.
fn distinct_start<'i>(id: &'i ImodelId, all: &[ImodelId]) -> &'i str {
    let id = id.as_str();
    let is_distinct = |start: &str| {
        let same = all.iter().filter(|other| other.as_str().starts_with(start));
        same.count() < 2
    };
    (8..id.len())
        .filter_map(|length| id.get(..length))
        .find(|start| is_distinct(start))
        .unwrap_or(id)
}

/// The ids of the iModels, or the key of one that is created.
fn imodel_ids_of(section: &mut Section<'_>, created: &BTreeMap<String, ImodelId>) -> Vec<ImodelId> {
    if !section.has("imodel") {
        let hint = "add the id of the iModel that receives the files";
        let ids = section.require("imodel_id", hint, values::uuids);
        return ids.into_iter().flatten().map(ImodelId::from).collect();
    }
    if section.has("imodel_id") {
        section.add(
            "imodel",
            InvalidValue::new("imodel_id is set as well", "remove one of the two keys"),
        );
        return Vec::new();
    }
    let found = section.read("imodel", |value| {
        let name = values::text(value)?;
        created.get(&name).cloned().ok_or_else(|| {
            let names: Vec<String> = created.keys().map(|name| format!("{name:?}")).collect();
            let hint = if names.is_empty() {
                "set imodel_id to the id of the iModel, or add an [[imodel]] table with \
                 create = { itwin_id = \"…\", name = \"…\" }"
                    .to_owned()
            } else {
                format!("names in [[imodel]] tables: {}", names.join(", "))
            };
            let what = format!("no [[imodel]] table creates an iModel with the name {name:?}");
            InvalidValue::new(what, hint)
        })
    });
    found.into_iter().collect()
}

fn on_rename(value: &DeValue<'_>) -> Result<OnRename, InvalidValue> {
    match value.as_str() {
        Some("follow") => Ok(OnRename::Follow),
        Some("new") => Ok(OnRename::UploadAgain),
        _ => Err(InvalidValue::new(
            "expected \"follow\" or \"new\"",
            "write \"follow\" to rename the storage file too, or \"new\" to upload the file again under its new name",
        )),
    }
}

fn on_delete(value: &DeValue<'_>) -> Result<OnDelete, InvalidValue> {
    const WORDS: [(&str, OnDelete); 3] = [
        ("keep", OnDelete::Keep),
        ("unmap", OnDelete::Unmap),
        ("remove", OnDelete::Remove),
    ];
    let text = value.as_str().unwrap_or_default();
    if let Some((_, known)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(*known);
    }
    let short: String = text.chars().take(20).collect();
    let nearest = WORDS
        .iter()
        .map(|(word, _)| {
            (
                strsim::damerau_levenshtein(&short.to_lowercase(), word),
                word,
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let hint = match nearest {
        Some((_, word)) => format!("did you mean {word:?}?"),
        None => "write \"unmap\" to remove a deleted file from the connection, \"remove\" to delete its storage file as \
                 well, or \"keep\" to do neither"
            .to_owned(),
    };
    Err(InvalidValue::new(
        "expected \"keep\", \"unmap\" or \"remove\"",
        hint,
    ))
}

fn selection(section: &mut Section<'_>) -> Selection {
    let mut rules = Rules {
        include: section.read("include", values::list).unwrap_or_default(),
        exclude: section.read("exclude", values::list).unwrap_or_default(),
        masters: section.read("masters", values::globs).unwrap_or_default(),
        upload_only: section
            .read("upload_only", values::list)
            .unwrap_or_default(),
        companions: section.read("companions", companions).unwrap_or_default(),
        ..Rules::default()
    };
    let connectors = section.read("connectors", connectors).unwrap_or_default();
    (rules.connectors_by_glob, rules.connectors_by_extension) =
        connectors.into_iter().partition(|(key, _)| is_glob(key));

    Selection::new(&rules).unwrap_or_else(|errors| {
        for BadRule {
            list,
            rule,
            why,
            hint,
        } in errors
        {
            section.add_at_entry(
                &list.to_string(),
                &rule,
                InvalidValue::new(format!("{rule:?} {why}"), hint),
            );
        }
        Selection::default()
    })
}

fn connectors(value: &DeValue<'_>) -> Result<Vec<(String, String)>, InvalidValue> {
    let bad = || {
        InvalidValue::new(
            "expected a table of connector types",
            "write connectors = { dgn = \"CIVIL\", \"Piping/**/*.dwg\" = \"AUTOPLANT\" }",
        )
    };
    in_file_order(value.as_table().ok_or_else(bad)?)
        .into_iter()
        .map(|(key, value)| Ok((key.to_owned(), value.as_str().ok_or_else(bad)?.to_owned())))
        .collect()
}

fn companions(value: &DeValue<'_>) -> Result<Vec<(String, Vec<String>)>, InvalidValue> {
    let bad = || {
        InvalidValue::new(
            "expected a table of extensions",
            "write companions = { tif = [\"tfw\", \"tif.aux.xml\"] }",
        )
    };
    in_file_order(value.as_table().ok_or_else(bad)?)
        .into_iter()
        .map(|(key, value)| Ok((key.to_owned(), values::list(value).map_err(|_| bad())?)))
        .collect()
}

/// Whether a key of `connectors` is a glob; otherwise it is an extension.
fn is_glob(key: &str) -> bool {
    key.contains(['*', '?', '[', '{', '/', '\\', '!'])
}

fn compare(earlier: &Placed, later: &Placed, report: &mut Report) {
    if earlier.watch.is_same_table(&later.watch) {
        return;
    }
    let line = |place: &Place| {
        place
            .line
            .map_or_else(String::new, |line| format!(" (line {line})"))
    };
    let (one, other) = (&earlier.watch, &later.watch);

    if !other.name.is_empty() && one.name.eq_ignore_ascii_case(&other.name) {
        let what = format!(
            "duplicate watch name {:?}{}",
            other.name,
            line(&earlier.at_name)
        );
        report.add(
            later.at_name.clone(),
            InvalidValue::new(
                what,
                "give each watch a unique name; names that differ only in case are the same",
            ),
        );
    }
    if !other.imodel_id.is_empty()
        && one.imodel_id == other.imodel_id
        && one.storage_overlaps(other)
    {
        let what = format!(
            "{:?} overlaps {:?} of watch {:?}{}: files with the same name would overwrite each other",
            other.storage_folder.join("/"),
            one.storage_folder.join("/"),
            one.name,
            line(&earlier.at_storage_folder),
        );
        let hint = format!(
            "give both watches a storage_folder of their own, such as {:?} and {:?}",
            one.name, other.name
        );
        report.add(
            later.at_storage_folder.clone(),
            InvalidValue::new(what, hint),
        );
    }
}

/// A former name is that of one watch.
fn compare_former_names(earlier: &Placed, later: &Placed, report: &mut Report) {
    if earlier.watch.is_same_table(&later.watch) {
        return;
    }
    let (Some(one), Some(other)) = (&earlier.watch.formerly, &later.watch.formerly) else {
        return;
    };
    if one.eq_ignore_ascii_case(other) {
        report.add(
            later.at_formerly.clone(),
            InvalidValue::new(
                format!("watch {:?} has the same former name", earlier.watch.name),
                "write it in the watch that keeps the files, and remove it from the other",
            ),
        );
    }
}

/// A former name is one that no watch has any more.
fn check_former_name(watch: &Placed, all: &[Placed], report: &mut Report) {
    let Some(formerly) = &watch.watch.formerly else {
        return;
    };
    let is_same = |name: &str| name.eq_ignore_ascii_case(formerly);
    if let Some(other) = all.iter().find(|other| is_same(&other.watch.name)) {
        report.add(
            watch.at_formerly.clone(),
            InvalidValue::new(
                format!("{:?} is the name of a watch in this file", other.watch.name),
                "write the name that the watch had before, or remove formerly",
            ),
        );
    }
}

/// The path that stands for "none" in a watch with an error.
pub(super) fn has_path(watch: &Watch) -> bool {
    watch.path != PathBuf::new()
}
