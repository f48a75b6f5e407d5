//! Moving files and folders of storage to another folder.
//!
//! Source: developer.bentley.com/apis/storage/operations/move-file/, move-folder/

use super::INVALID;
use super::items::renew_paths;
use super::lookup::{file, folder, no_folder};
use super::names::{is_same_name, name_taken};
use super::shapes::{one_file, one_folder};
use crate::emulator::model::State;
use crate::emulator::reply::{Refusal, Reply, invalid};
use crate::emulator::request::{ApiRequest, text};
use crate::emulator::switches::MoveNameTaken;

/// Handles `POST /storage/files/{id}/move` and `POST /storage/folders/{id}/move`.
pub(super) fn handle(
    request: &ApiRequest<'_>,
    state: &mut State,
    id: &str,
) -> Result<Reply, Refusal> {
    let is_file = request
        .path_lower
        .get(1)
        .is_some_and(|word| word == "files");
    let (itwin_id, name) = if is_file {
        let file = file(request, state, id)?;
        (file.itwin_id.clone(), file.display_name.clone())
    } else {
        let folder = folder(request, state, id)?;
        if folder.parent_id.is_none() {
            return Err(invalid(
                INVALID,
                "folderId",
                "The root folder cannot be moved.",
            ));
        }
        (folder.itwin_id.clone(), folder.display_name.clone())
    };
    let body = request.json(INVALID)?;
    let target = text(&body, "parentFolderId", INVALID)?
        .ok_or_else(|| invalid(INVALID, "parentFolderId", "The value is missing."))?;
    let target = folder(request, state, target)?.clone();
    if target.itwin_id != itwin_id {
        let what = "The folder belongs to another iTwin.";
        return Err(invalid(INVALID, "parentFolderId", what));
    }
    if !is_file && is_within(state, &target.id, id) {
        let what = "A folder cannot be moved into itself.";
        return Err(invalid(INVALID, "parentFolderId", what));
    }
    let is_taken = if is_file {
        state.files.values().any(|other| {
            other.id != id
                && other.parent_folder_id == target.id
                && !other.deleted
                && is_same_name(request, &other.display_name, &name)
        })
    } else {
        state.folders.values().any(|other| {
            other.id != id
                && other.parent_id.as_ref() == Some(&target.id)
                && !other.deleted
                && is_same_name(request, &other.display_name, &name)
        })
    };
    match request.switches.move_name_taken {
        MoveNameTaken::Conflict if is_taken => return Err(name_taken()),
        MoveNameTaken::Refused if is_taken => {
            return Err(invalid(
                INVALID,
                "displayName",
                "The name is already in use.",
            ));
        }
        _ => {}
    }
    if let Some(file) = state.files.get_mut(id) {
        file.path = target.path_of(&file.display_name);
        file.parent_folder_id = target.id;
        file.modified_at = request.now;
        file.modified_by.clone_from(&request.client_id);
        return Ok(one_file(request, file));
    }
    if let Some(folder) = state.folders.get_mut(id) {
        folder.parent_id = Some(target.id);
        folder.modified_at = request.now;
        folder.modified_by.clone_from(&request.client_id);
    }
    renew_paths(state, id);
    let moved = state.folders.get(id).ok_or_else(no_folder)?;
    Ok(one_folder(request, 200, moved))
}

/// Whether a folder is another one or is inside it.
fn is_within(state: &State, id: &str, other: &str) -> bool {
    let mut next = Some(id);
    while let Some(id) = next {
        if id == other {
            return true;
        }
        let folder = state.folders.get(id);
        next = folder.and_then(|folder| folder.parent_id.as_deref());
    }
    false
}
