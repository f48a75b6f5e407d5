//! iTwin Storage: routes its operations to folders, files, content and the recycle bin.

mod content;
mod items;
mod listing;
mod lookup;
mod names;
mod recycle_bin;
mod relocate;
mod shapes;

use super::model::State;
use super::reply::{self, Refusal, Reply, invalid, refuse, unknown};
use super::request::ApiRequest;

pub(super) use content::read_from_azurite;

use content::{complete, download, update_content};
use items::{create_file, create_folder, lock_files, update_file, update_folder};
use listing::{Found, list, top_level};
use lookup::{file, folder};
use shapes::{one_file, one_folder};

const INVALID: &str = "InvalidStorageRequest";

pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let path = request.path();
    let id = request.segment(2);
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["storage"]) => top_level(request, state),
        ("GET", ["storage", "folders", _]) => {
            let folder = folder(request, state, id)?;
            Ok(one_folder(request, 200, folder))
        }
        ("GET", ["storage", "folders", _, "list"]) => {
            list(request, state, id, "items", |found| found.folders().files())
        }
        ("GET", ["storage", "folders", _, "files"]) => {
            list(request, state, id, "files", Found::files)
        }
        ("GET", ["storage", "folders", _, "folders"]) => {
            list(request, state, id, "folders", Found::folders)
        }
        ("GET", ["storage", "folders", _, "search"]) => {
            let wanted = request.query("name").unwrap_or_default().to_lowercase();
            if wanted.is_empty() {
                return Err(invalid(INVALID, "name", "The value is missing."));
            }
            list(request, state, id, "items", |found| {
                found.folders().files().named(&wanted)
            })
        }
        ("POST", ["storage", "folders", _, "folders"]) => create_folder(request, state, id),
        ("POST", ["storage", "folders", _, "files"]) => create_file(request, state, id),
        ("PATCH", ["storage", "folders", _]) => update_folder(request, state, id),
        ("DELETE", ["storage", "folders", _]) => {
            if folder(request, state, id)?.parent_id.is_none() {
                return Err(refuse(422, INVALID, "The root folder cannot be deleted."));
            }
            if let Some(folder) = state.folders.get_mut(id) {
                folder.deleted = true;
            }
            Ok(reply::empty(204))
        }
        ("GET", ["storage", "files", _]) => Ok(one_file(request, file(request, state, id)?)),
        ("PATCH", ["storage", "files", _]) => update_file(request, state, id),
        ("DELETE", ["storage", "files", _]) => {
            file(request, state, id)?;
            if let Some(file) = state.files.get_mut(id) {
                file.deleted = true;
            }
            Ok(reply::empty(204))
        }
        ("POST", ["storage", "files", _, "updatecontent"]) => update_content(request, state, id),
        ("POST", ["storage", "files", _, "complete"]) => complete(request, state, id),
        ("GET", ["storage", "files", _, "download"]) => download(request, state, id),
        ("POST", ["storage", "files" | "folders", _, "move"]) => {
            relocate::handle(request, state, id)
        }
        ("POST", ["storage", "folders", _, "lock"]) => lock_files(request, state, id, true),
        ("POST", ["storage", "folders", _, "unlock"]) => lock_files(request, state, id, false),
        (_, ["storage", "recyclebin", rest @ ..]) => recycle_bin::handle(request, state, rest),
        _ => Err(unknown()),
    }
}
