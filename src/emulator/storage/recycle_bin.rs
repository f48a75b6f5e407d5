//! The recycle bin of storage: list, restore, delete permanently.

use serde_json::{Value, json};

use super::listing::pages;
use super::lookup::{allowed, itwin_of, no_file, no_folder};
use super::shapes::{file_json, folder_json};
use crate::emulator::model::State;
use crate::emulator::reply::{self, Refusal, Reply, unknown};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::RestoredTime;

/// Handles everything below `storage/recyclebin`.
pub(super) fn handle(
    request: &ApiRequest<'_>,
    state: &mut State,
    path: &[&str],
) -> Result<Reply, Refusal> {
    match (request.method.as_str(), path) {
        ("GET", []) => list(request, state),
        ("POST", [kind @ ("files" | "folders"), _, "restore"]) => restore(request, state, kind),
        ("DELETE", [kind @ ("files" | "folders"), _]) => purge(request, state, kind),
        _ => Err(unknown()),
    }
}

fn list(request: &ApiRequest<'_>, state: &State) -> Result<Reply, Refusal> {
    let itwin_id = itwin_of(request, state)?;
    let folders = state
        .folders
        .values()
        .filter(|folder| folder.deleted && folder.itwin_id == itwin_id);
    let files = state
        .files
        .values()
        .filter(|file| file.deleted && file.itwin_id == itwin_id);
    let items: Vec<Value> = folders
        .map(|folder| folder_json(request, folder))
        .chain(files.map(|file| file_json(request, file)))
        .collect();
    let (page, links) = request.page(items, &pages(request))?;
    Ok(reply::json(200, &json!({ "items": page, "_links": links })))
}

/// The id of an item in the recycle bin, if the caller has access.
fn recycled(request: &ApiRequest<'_>, state: &State, kind: &str) -> Result<String, Refusal> {
    let id = request.segment(3);
    let (itwin_id, missing): (_, fn() -> Refusal) = if kind == "files" {
        let file = state.files.get(id).filter(|file| file.deleted);
        (file.map(|file| &file.itwin_id), no_file)
    } else {
        let folder = state.folders.get(id).filter(|folder| folder.deleted);
        (folder.map(|folder| &folder.itwin_id), no_folder)
    };
    allowed(request, state, itwin_id.ok_or_else(missing)?, missing)?;
    Ok(id.to_owned())
}

fn restore(request: &ApiRequest<'_>, state: &mut State, kind: &str) -> Result<Reply, Refusal> {
    let id = recycled(request, state, kind)?;
    if let Some(file) = state.files.get_mut(&id) {
        file.deleted = false;
        if request.switches.restored_time == RestoredTime::Changed {
            file.modified_at = request.now;
            file.modified_by.clone_from(&request.client_id);
        }
    }
    if let Some(folder) = state.folders.get_mut(&id) {
        folder.deleted = false;
    }
    Ok(reply::empty(204))
}

fn purge(request: &ApiRequest<'_>, state: &mut State, kind: &str) -> Result<Reply, Refusal> {
    let mut waiting = vec![recycled(request, state, kind)?];
    while let Some(id) = waiting.pop() {
        state.folders.remove(&id);
        let within = state
            .folders
            .values()
            .filter(|folder| folder.parent_id.as_ref() == Some(&id));
        waiting.extend(within.map(|folder| folder.id.clone()));
        let gone: Vec<String> = state
            .files
            .values()
            .filter(|file| file.id == id || file.parent_folder_id == id)
            .map(|file| file.id.clone())
            .collect();
        for id in gone {
            let Some(file) = state.files.remove(&id) else {
                continue;
            };
            for blob in file
                .blob
                .into_iter()
                .chain(file.pending.map(|pending| pending.blob))
            {
                state.drop_blob(&blob);
            }
        }
    }
    Ok(reply::empty(204))
}
