//! The folder, file or iTwin that a request names, and whether the caller has access to it.

use uuid::Uuid;

use super::INVALID;
use crate::emulator::access::{self, Permission};
use crate::emulator::model::{File, Folder, State};
use crate::emulator::reply::{Refusal, insufficient, invalid, itwin_not_found, refuse};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::{IncompleteFiles, ItwinUnknown, StorageForbidden};

pub(super) fn no_file() -> Refusal {
    refuse(404, "FileNotFound", "Requested file is not available.")
}

pub(super) fn no_folder() -> Refusal {
    refuse(404, "FolderNotFound", "Requested folder is not available.")
}

/// Fails when the caller has no permission on the storage of an iTwin, with the status of the switch.
pub(super) fn allowed(
    request: &ApiRequest<'_>,
    state: &State,
    itwin_id: &str,
    missing: fn() -> Refusal,
) -> Result<(), Refusal> {
    let forbidden = &request.shared.options.forbidden_storage;
    let is_forbidden = forbidden.iter().any(|forbidden| forbidden == itwin_id);
    let itwin = state.itwins.get(itwin_id);
    let has = itwin.is_some_and(|itwin| access::has(request, itwin, needed(request)));
    if has && !is_forbidden {
        return Ok(());
    }
    Err(match request.switches.storage_forbidden {
        StorageForbidden::Forbidden => insufficient(),
        StorageForbidden::NotFound => missing(),
        StorageForbidden::Unauthorized => refuse(401, "Unauthorized", "Access is denied."),
    })
}

/// The permission that a request needs.
///
/// Source: the "Authorization" part of each operation below developer.bentley.com/apis/storage/operations/
fn needed(request: &ApiRequest<'_>) -> Permission {
    let is_bin = request
        .path_lower
        .get(1)
        .is_some_and(|word| word == "recyclebin");
    match request.method.as_str() {
        "GET" => "storage_read",
        "DELETE" => "storage_delete",
        _ if is_bin => "storage_delete",
        _ => "storage_write",
    }
}

/// Whether a folder and its ancestors exist outside the recycle bin.
fn is_live(state: &State, id: &str) -> bool {
    let mut next = Some(id);
    while let Some(id) = next {
        match state.folders.get(id).filter(|folder| !folder.deleted) {
            Some(folder) => next = folder.parent_id.as_deref(),
            None => return false,
        }
    }
    true
}

pub(super) fn folder<'s>(
    request: &ApiRequest<'_>,
    state: &'s State,
    id: &str,
) -> Result<&'s Folder, Refusal> {
    let folder = state
        .folders
        .get(id)
        .filter(|folder| is_live(state, &folder.id));
    let folder = folder.ok_or_else(no_folder)?;
    allowed(request, state, &folder.itwin_id, no_folder)?;
    Ok(folder)
}

pub(super) fn file<'s>(
    request: &ApiRequest<'_>,
    state: &'s State,
    id: &str,
) -> Result<&'s File, Refusal> {
    let hidden =
        request.switches.incomplete_files == IncompleteFiles::Hidden && request.method == "GET";
    let file = state
        .files
        .get(id)
        .filter(|file| !file.deleted && is_live(state, &file.parent_folder_id))
        .filter(|file| file.completed.is_some() || !hidden)
        .ok_or_else(no_file)?;
    allowed(request, state, &file.itwin_id, no_file)?;
    Ok(file)
}

/// The iTwin in the query.
pub(super) fn itwin_of(request: &ApiRequest<'_>, state: &State) -> Result<String, Refusal> {
    let id = request.query("iTwinId").or(request.query("projectId"));
    let id = id.ok_or_else(|| invalid(INVALID, "iTwinId", "The value is missing."))?;
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "The value is not a UUID."));
    }
    let id = id.to_ascii_lowercase();
    if !state.itwins.contains_key(&id) {
        return Err(match request.switches.itwin_unknown {
            ItwinUnknown::NotFound => itwin_not_found(),
            ItwinUnknown::Invalid => invalid(INVALID, "iTwinId", "The iTwin is unknown."),
            ItwinUnknown::Forbidden => insufficient(),
        });
    }
    allowed(request, state, &id, itwin_not_found)?;
    Ok(id)
}
