//! Creating, renaming and locking files and folders.

use std::collections::BTreeSet;

use serde_json::json;
use uuid::Uuid;

use super::INVALID;
use super::content::links;
use super::lookup::{file, folder, no_file, no_folder};
use super::names::{INVALID_FILE, INVALID_FOLDER, checked_names, is_same_name, name_taken};
use super::shapes::{file_json, one_file, one_folder};
use crate::emulator::model::{File, Folder, State, storage_id};
use crate::emulator::reply::{self, Refusal, Reply, invalid};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::{DuplicateFile, DuplicateFolder, RecycledName};

pub(super) fn create_folder(
    request: &ApiRequest<'_>,
    state: &mut State,
    parent_id: &str,
) -> Result<Reply, Refusal> {
    let parent = folder(request, state, parent_id)?.clone();
    let (name, description) = checked_names(request, INVALID_FOLDER)?;
    let display_name =
        name.ok_or_else(|| invalid(INVALID_FOLDER, "displayName", "The value is missing."))?;
    let taken = state.folders.values().any(|folder| {
        folder.parent_id.as_ref() == Some(&parent.id)
            && !folder.deleted
            && is_same_name(request, &folder.display_name, &display_name)
    });
    match request.switches.duplicate_folder {
        DuplicateFolder::Conflict if taken => return Err(name_taken()),
        DuplicateFolder::Refused if taken => {
            return Err(invalid(
                INVALID_FOLDER,
                "displayName",
                "The name is already in use.",
            ));
        }
        _ => {}
    }
    let folder = Folder {
        id: storage_id(&parent.itwin_id, Uuid::new_v4()),
        path: parent.path_of(&display_name),
        itwin_id: parent.itwin_id,
        parent_id: Some(parent.id),
        display_name,
        description,
        created_at: request.now,
        created_by: request.client_id.clone(),
        modified_at: request.now,
        modified_by: request.client_id.clone(),
        deleted: false,
    };
    let answer = one_folder(request, 201, &folder);
    state.folders.insert(folder.id.clone(), folder);
    Ok(answer)
}

pub(super) fn update_folder(
    request: &ApiRequest<'_>,
    state: &mut State,
    id: &str,
) -> Result<Reply, Refusal> {
    let mut folder = folder(request, state, id)?.clone();
    let (name, description) = checked_names(request, INVALID_FOLDER)?;
    folder.display_name = name.unwrap_or(folder.display_name);
    folder.description = description.or(folder.description);
    folder.modified_at = request.now;
    folder.modified_by.clone_from(&request.client_id);
    state.folders.insert(folder.id.clone(), folder);
    renew_paths(state, id);
    Ok(one_folder(
        request,
        200,
        state.folders.get(id).ok_or_else(no_folder)?,
    ))
}

/// Updates the paths of everything in a folder.
pub(super) fn renew_paths(state: &mut State, id: &str) {
    let mut waiting = vec![id.to_owned()];
    while let Some(id) = waiting.pop() {
        let Some(folder) = state.folders.get(&id).cloned() else {
            continue;
        };
        let parent = folder
            .parent_id
            .as_ref()
            .and_then(|parent| state.folders.get(parent));
        let path = parent.map_or_else(String::new, |parent| parent.path_of(&folder.display_name));
        let folder = Folder { path, ..folder };
        for file in state
            .files
            .values_mut()
            .filter(|file| file.parent_folder_id == id)
        {
            file.path = folder.path_of(&file.display_name);
        }
        let children = state
            .folders
            .values()
            .filter(|child| child.parent_id.as_ref() == Some(&id));
        waiting.extend(children.map(|child| child.id.clone()));
        state.folders.insert(id, folder);
    }
}

pub(super) fn create_file(
    request: &ApiRequest<'_>,
    state: &mut State,
    parent_id: &str,
) -> Result<Reply, Refusal> {
    let parent = folder(request, state, parent_id)?.clone();
    let (name, description) = checked_names(request, INVALID_FILE)?;
    let name = name.ok_or_else(|| invalid(INVALID_FILE, "displayName", "The value is missing."))?;
    let display_name = free_name(request, state, &parent, name)?;
    let id = storage_id(&parent.itwin_id, Uuid::new_v4());
    let file = File {
        id: id.clone(),
        path: parent.path_of(&display_name),
        itwin_id: parent.itwin_id,
        parent_folder_id: parent.id,
        display_name,
        description,
        created_at: request.now,
        created_by: request.client_id.clone(),
        modified_at: request.now,
        modified_by: request.client_id.clone(),
        completed: None,
        completions: 0,
        blob_writes: 0,
        deleted: false,
        locked: false,
        pending: None,
        blob: None,
    };
    state.files.insert(id.clone(), file);
    let blob = Uuid::new_v4().simple().to_string();
    Ok(links(request, state, &id, blob))
}

/// The name of a new file. Names are not unique: a second file of the same name is another file, unless a switch says
/// otherwise.
fn free_name(
    request: &ApiRequest<'_>,
    state: &State,
    parent: &Folder,
    name: String,
) -> Result<String, Refusal> {
    let mut taken = BTreeSet::new();
    for file in state.files.values() {
        if file.parent_folder_id == parent.id && is_same_name(request, &file.display_name, &name) {
            taken.insert(file.deleted);
        }
    }
    if taken.contains(&true) && request.switches.recycled_name == RecycledName::Conflict {
        return Err(name_taken());
    }
    if !taken.contains(&false) {
        return Ok(name);
    }
    match request.switches.duplicate_file {
        DuplicateFile::Twin => Ok(name),
        DuplicateFile::Renamed => Ok(match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem} (1).{extension}"),
            None => format!("{name} (1)"),
        }),
        DuplicateFile::Conflict => Err(name_taken()),
        DuplicateFile::Refused => Err(invalid(
            INVALID_FILE,
            "displayName",
            "The name is already in use.",
        )),
    }
}

pub(super) fn update_file(
    request: &ApiRequest<'_>,
    state: &mut State,
    id: &str,
) -> Result<Reply, Refusal> {
    let mut file = file(request, state, id)?.clone();
    let (name, description) = checked_names(request, INVALID_FILE)?;
    if let Some(name) = name {
        if let Some(parent) = state.folders.get(&file.parent_folder_id) {
            file.path = parent.path_of(&name);
        }
        file.display_name = name;
    }
    file.description = description.or(file.description);
    file.modified_at = request.now;
    file.modified_by.clone_from(&request.client_id);
    let answer = one_file(request, &file);
    state.files.insert(file.id.clone(), file);
    Ok(answer)
}

/// Locks or unlocks files; all must be in the folder.
///
/// Source: developer.bentley.com/apis/storage/operations/lock-files-in-folder/, unlock-files-in-folder/
pub(super) fn lock_files(
    request: &ApiRequest<'_>,
    state: &mut State,
    folder_id: &str,
    lock: bool,
) -> Result<Reply, Refusal> {
    folder(request, state, folder_id)?;
    let body = request.json(INVALID)?;
    let ids = body["fileIds"].as_array();
    let ids = ids.ok_or_else(|| invalid(INVALID, "fileIds", "The value is missing."))?;
    let mut files = Vec::new();
    for id in ids {
        let file = file(request, state, id.as_str().unwrap_or_default())?;
        if file.parent_folder_id != folder_id || !lock && !file.locked {
            return Err(no_file());
        }
        files.push(file.id.clone());
    }
    let mut items = Vec::new();
    for id in files {
        if let Some(file) = state.files.get_mut(&id) {
            file.locked = lock;
            items.push(file_json(request, file));
        }
    }
    Ok(reply::json(200, &json!({ "files": items })))
}
