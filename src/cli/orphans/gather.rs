//! Collects what `orphans` decides by: the local files of all watches, what the ledger knows, our storage folders and
//! our connections. Reads only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::decide::{KnownFile, LocalFile, Origin, Orphan, orphan};
use super::storage::{Lister, StoredFile};
use super::{Entry, Error};
use crate::cli::removal::Mapped;
use crate::config::Config;
use crate::connection_name::ConnectionName;
use crate::ids::{ImodelId, StorageFileId};
use crate::itwin::{Client, SourceFile};
use crate::ledger::{Absence, FileReport, JobState, Ledger, RootState, id_of_place};
use crate::names;
use crate::upload::creator;
use crate::watch;

/// Storage files that are looked up one by one at most.
const LOOKUPS_MAX: usize = 5_000;

/// A path in storage: the root folder, and the key of the path below.
type PlaceKey = (String, [u8; 16]);

/// What the local folders and the ledger have.
pub(super) struct Local {
    /// Selected local files by watch, with the storage file that the ledger has for each.
    files: Vec<(usize, Vec<String>, String, Option<StorageFileId>)>,
    /// Local files of which it is not known yet whether they are renamed ones.
    pub(super) unsettled: u64,
    known: HashMap<String, (FileReport, KnownFile)>,
}

/// Scans every watch. An error if one of them cannot be scanned completely.
pub(super) async fn local(config: &Config, ledger: Option<&Ledger>) -> Result<Local, Error> {
    let now = crate::clock::now();
    let (reports, watches) = match ledger {
        Some(ledger) => {
            let snapshot = ledger.snapshot(now).await?;
            (snapshot.files, snapshot.watches)
        }
        None => (Vec::new(), Vec::new()),
    };
    let mut local = Local {
        files: Vec::new(),
        unsettled: 0,
        known: HashMap::new(),
    };
    let by_path: HashMap<(&str, &std::path::Path), &FileReport> = reports
        .iter()
        .map(|file| ((file.watch.as_str(), file.path.as_path()), file))
        .collect();
    for (at, watch) in config.watches.iter().enumerate() {
        let unhealthy = |why: String| Error::Folder {
            watch: watch.name.clone(),
            why,
        };
        let mut found = Vec::new();
        let survey = watch::survey(watch, |file| found.push(file)).await;
        let survey = survey.map_err(|error| unhealthy(format!("unavailable: {error}")))?;
        if let Some(problem) = survey.problems.first() {
            return Err(unhealthy(format!("only partly readable: {problem}")));
        }
        if found.is_empty() {
            return Err(unhealthy("there is no file in it".to_owned()));
        }
        let report = watches.iter().find(|report| report.name == watch.name);
        if let Some(report) = report
            && report.root == RootState::Unavailable
        {
            let note = report.note.clone();
            return Err(unhealthy(note.unwrap_or_else(|| "unavailable".to_owned())));
        }
        let mut there = HashSet::new();
        for file in found {
            let report = by_path.get(&(watch.name.as_str(), file.path.as_path()));
            local.unsettled += u64::from(report.is_none_or(|report| is_unsettled(report)));
            if let Ok((folders, name)) = names::storage_path(&file.path) {
                let id = report.and_then(|report| report.storage_file_id.clone());
                local.files.push((at, folders, name, id));
            }
            there.insert(file.path);
        }
        let of_watch = reports.iter().filter(|file| file.watch == watch.name);
        let vanished = of_watch.filter(|file| {
            let is_confirmed =
                matches!(file.absence, Some((Absence::Gone | Absence::Deselected, _)));
            !is_confirmed && !there.contains(&file.path)
        });
        local.unsettled += vanished.count() as u64;
    }
    let configured: HashSet<&str> = config.watches.iter().map(|one| one.name.as_str()).collect();
    for file in &reports {
        if let Some(id) = &file.storage_file_id {
            // One that was removed from the configuration is used until the daemon has read that.
            let is_used = watches
                .iter()
                .any(|one| one.configured && one.name == file.watch);
            let is_configured = is_used || configured.contains(file.watch.as_str());
            let is_spatial_root = config.imodels.iter().any(|imodel| {
                let root = imodel.spatial_root.as_ref();
                root.is_some_and(|root| root.watch == file.watch && root.path == file.path)
            });
            let known = KnownFile::new(file, is_configured, is_spatial_root);
            local
                .known
                .insert(id.as_str().to_owned(), (file.clone(), known));
        }
    }
    Ok(local)
}

/// Whether a file waits for its first upload: it may turn out to be a renamed one.
fn is_unsettled(report: &FileReport) -> bool {
    report.storage_file_id.is_none()
        && report.reason.is_none()
        && matches!(report.job, Some(JobState::Due | JobState::Uploading))
}

/// What a watch stores where.
struct Place {
    imodel_id: ImodelId,
    storage_folder: String,
}

/// Compares our storage folders and connections with the local files.
pub(super) async fn orphans(
    config: &Config,
    client: &Client,
    ledger: Option<&Ledger>,
    local: &Local,
) -> Result<Vec<Entry>, Error> {
    let (places, connections) = used(config, ledger).await?;
    let mut roots: BTreeMap<ImodelId, String> = BTreeMap::new();
    let mut lister = Lister::new(client);
    let mut imodel_of_root: HashMap<String, ImodelId> = HashMap::new();
    for place in &places {
        if !roots.contains_key(&place.imodel_id) {
            let imodel = match client.imodel(&place.imodel_id).await {
                Ok(imodel) => imodel,
                // Of a watch that is not configured any more.
                Err(error) if error.status() == Some(404) => continue,
                Err(error) => return Err(error.into()),
            };
            let root = client.root_folder(&imodel.itwin_id).await?;
            roots.insert(place.imodel_id.clone(), root);
        }
        if let Some(root) = roots.get(&place.imodel_id) {
            lister.list(root, &place.storage_folder).await?;
            let imodel_id = place.imodel_id.clone();
            imodel_of_root.entry(root.clone()).or_insert(imodel_id);
        }
    }
    let mut stored = lister.files;
    let mut sources: HashMap<String, Vec<Mapped>> = HashMap::new();
    for imodel_id in roots.keys() {
        for (connection, source) in source_files(client, imodel_id, &connections).await? {
            let id = source.storage_file_id.as_str().to_owned();
            sources.entry(id).or_default().push(Mapped {
                imodel_id: imodel_id.clone(),
                connection,
                source_file_id: source.id,
            });
        }
    }
    let by_place = by_place(config, local, &roots);
    let known = match ledger {
        Some(ledger) => ledger.id().await?,
        None => None,
    };
    // Without a ledger, the one that was here before may be lost.
    let own = known.or_else(|| id_of_place(&config.state.path));
    let mut lookups = 0;
    let known_gone = local.known.iter().filter_map(|(id, (_, known))| {
        let gone = orphan(Some(known), LocalFile::None, Origin::Ours);
        gone.map(|_| id.clone())
    });
    let mut ids: BTreeSet<String> = stored.keys().cloned().collect();
    ids.extend(sources.keys().cloned());
    ids.extend(known_gone);
    let mut entries = Vec::new();
    for id in ids {
        let report = local.known.get(&id);
        if report
            .is_some_and(|(_, known)| orphan(Some(known), LocalFile::None, Origin::Ours).is_none())
        {
            continue;
        }
        let mapped = sources.remove(&id).unwrap_or_default();
        let file = stored.remove(&id);
        let local_file = file
            .as_ref()
            .map_or(LocalFile::None, |file| local_file(file, &by_place));
        if report.is_none() && local_file == LocalFile::WithoutStorageFile {
            continue;
        }
        let (file, origin) = match file {
            Some(file) if report.is_some() => (Some(file), Origin::Ours),
            Some(file) => {
                let origin = origin(client, &file, own.as_deref(), &mut lookups).await?;
                (Some(file), origin)
            }
            None => {
                look_up(&mut lookups)?;
                match client.file(&id.clone().into()).await {
                    Ok(file) => (
                        Some(StoredFile { file, place: None }),
                        Origin::OutsideOurFolders,
                    ),
                    Err(error) if error.is_not_found() && mapped.is_empty() => continue,
                    Err(error) if error.is_not_found() => (None, Origin::Deleted),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let known = report.map(|(_, known)| known);
        let Some(why) = orphan(known, local_file, origin) else {
            continue;
        };
        let imodel_id = mapped.first().map(|one| one.imodel_id.clone());
        let place = file.as_ref().and_then(|file| file.place.as_ref());
        let imodel_id = imodel_id
            .or_else(|| imodel_of_root.get(&place?.root_folder_id).cloned())
            .unwrap_or_default();
        entries.push(entry(id, imodel_id, report, file, mapped, why));
    }
    entries.sort_by(|one, other| (&one.path, &one.id).cmp(&(&other.path, &other.id)));
    Ok(entries)
}

fn entry(
    id: String,
    imodel_id: ImodelId,
    report: Option<&(FileReport, KnownFile)>,
    file: Option<StoredFile>,
    mapped: Vec<Mapped>,
    why: Orphan,
) -> Entry {
    let exists = file.is_some();
    let path = match (&file, report) {
        (Some(file), _) if file.place.is_some() => file.path(),
        (_, Some((report, _))) => report.path.to_string_lossy().into_owned(),
        (Some(file), None) => file.path(),
        (None, None) => id.clone(),
    };
    Entry {
        id: id.into(),
        imodel_id,
        path,
        size: file.as_ref().and_then(|file| file.file.size),
        modified: file.and_then(|file| file.file.modified),
        watch: report.map(|(report, _)| report.watch.clone()),
        exists,
        mapped,
        why,
        done: Vec::new(),
    }
}

/// The places and the names of connections that watches use, or used.
async fn used(
    config: &Config,
    ledger: Option<&Ledger>,
) -> Result<(Vec<Place>, HashMap<ImodelId, Connections>), Error> {
    let mut places = Vec::new();
    let mut connections: HashMap<ImodelId, Connections> = HashMap::new();
    for watch in &config.watches {
        places.push(Place {
            imodel_id: watch.imodel_id.clone(),
            storage_folder: watch.storage_folder.join("/"),
        });
        let used = connections.entry(watch.imodel_id.clone()).or_default();
        used.names.push(watch.connection.clone());
    }
    if let Some(ledger) = ledger {
        for place in ledger.storage_places().await? {
            connections.entry(place.imodel_id.clone()).or_default();
            places.push(Place {
                imodel_id: place.imodel_id,
                storage_folder: place.storage_folder,
            });
        }
        for connection in ledger.used_connections().await? {
            if let Some(used) = connections.get_mut(&connection.imodel_id) {
                match connection.platform_id {
                    Some(id) => {
                        used.ids.insert(id);
                    }
                    None => used.names.push(connection.name.into()),
                }
            }
        }
    }
    Ok((places, connections))
}

/// The connections of an iModel that are ours: by id where the ledger knows it, else by name.
#[derive(Debug, Default)]
struct Connections {
    ids: BTreeSet<String>,
    names: Vec<ConnectionName>,
}

/// The source files of our connections of an iModel, with the id of their connection.
async fn source_files(
    client: &Client,
    imodel_id: &ImodelId,
    connections: &HashMap<ImodelId, Connections>,
) -> Result<Vec<(String, SourceFile)>, Error> {
    let Some(ours) = connections.get(imodel_id) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for connection in client.connections(imodel_id).await? {
        let name = connection.display_name.as_ref();
        let is_named = name.is_some_and(|name| ours.names.iter().any(|ours| ours.fits(name)));
        if !ours.ids.contains(&connection.id) && !is_named {
            continue;
        }
        for source in client.source_files(&connection.id).await? {
            found.push((connection.id.clone(), source));
        }
    }
    Ok(found)
}

/// The local files by their path in storage: whether each has a storage file.
fn by_place(
    config: &Config,
    local: &Local,
    roots: &BTreeMap<ImodelId, String>,
) -> HashMap<PlaceKey, LocalFile> {
    let mut by_place = HashMap::new();
    for (watch, folders, name, id) in &local.files {
        let Some(watch) = config.watches.get(*watch) else {
            continue;
        };
        let Some(root) = roots.get(&watch.imodel_id) else {
            continue;
        };
        let folders: Vec<String> = watch
            .storage_folder
            .iter()
            .chain(folders)
            .cloned()
            .collect();
        let has = match id {
            Some(_) => LocalFile::WithAnother,
            None => LocalFile::WithoutStorageFile,
        };
        let key = (root.clone(), names::path_key(&folders, name));
        // Of two local files that differ in case only, one may still need the storage file.
        let known = by_place.entry(key).or_insert(has);
        if has == LocalFile::WithoutStorageFile {
            *known = has;
        }
    }
    by_place
}

fn local_file(file: &StoredFile, by_place: &HashMap<PlaceKey, LocalFile>) -> LocalFile {
    let Some(place) = &file.place else {
        return LocalFile::None;
    };
    let key = names::path_key(&place.folders, &file.file.display_name);
    let key = (place.root_folder_id.clone(), key);
    by_place.get(&key).copied().unwrap_or(LocalFile::None)
}

/// Who created a storage file in one of our folders. Lists may leave its description out.
async fn origin(
    client: &Client,
    file: &StoredFile,
    own: Option<&str>,
    lookups: &mut usize,
) -> Result<Origin, Error> {
    let described = match &file.file.description {
        Some(description) => Some(description.clone()),
        None => {
            look_up(lookups)?;
            match client.file(&file.file.id).await {
                Ok(file) => file.description,
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error.into()),
            }
        }
    };
    Ok(match described.as_deref().and_then(creator) {
        Some(Some(ledger)) if own != Some(ledger) => Origin::OtherLedger,
        Some(_) => Origin::Ours,
        None => Origin::Others,
    })
}

fn look_up(lookups: &mut usize) -> Result<(), Error> {
    *lookups += 1;
    if *lookups > LOOKUPS_MAX {
        return Err(Error::StorageTooLarge {
            what: "files that no watched file uses",
            max: LOOKUPS_MAX,
        });
    }
    Ok(())
}
