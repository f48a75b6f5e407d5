//! Files and folders as JSON.

use serde_json::{Value, json};

use crate::emulator::encoding::timestamp;
use crate::emulator::model::{File, Folder, member_id};
use crate::emulator::reply::{self, Reply};
use crate::emulator::request::ApiRequest;

pub(super) fn one_folder(request: &ApiRequest<'_>, status: u16, folder: &Folder) -> Reply {
    reply::json(status, &json!({ "folder": folder_json(request, folder) }))
}

pub(super) fn folder_json(request: &ApiRequest<'_>, folder: &Folder) -> Value {
    let parent = folder.parent_id.as_ref().unwrap_or(&folder.id);
    json!({
        "id": folder.id, "type": "folder", "displayName": folder.display_name, "description": folder.description,
        "path": folder.path, "lastModifiedByDisplayName": request.shared.display_name(&folder.modified_by),
        "parentFolderId": parent,
        "createdDateTime": timestamp(folder.created_at), "lastModifiedDateTime": timestamp(folder.modified_at),
        "_links": item_links(request, &folder.itwin_id, (&folder.created_by, &folder.modified_by), parent),
    })
}

pub(super) fn one_file(request: &ApiRequest<'_>, file: &File) -> Reply {
    reply::json(200, &json!({ "file": file_json(request, file) }))
}

pub(super) fn file_json(request: &ApiRequest<'_>, file: &File) -> Value {
    let size = file
        .completed
        .as_ref()
        .map_or(0, |completed| completed.size);
    json!({
        "id": file.id, "type": "file", "displayName": file.display_name, "description": file.description,
        "path": file.path, "size": size, "isFileLocked": file.locked,
        "lastModifiedByDisplayName": request.shared.display_name(&file.modified_by),
        "createdDateTime": timestamp(file.created_at), "lastModifiedDateTime": timestamp(file.modified_at),
        "parentFolderId": file.parent_folder_id,
        "_links": item_links(request, &file.itwin_id, (&file.created_by, &file.modified_by), &file.parent_folder_id),
    })
}

/// Links to the creator, the last editor and the folder of an item.
fn item_links(
    request: &ApiRequest<'_>,
    itwin_id: &str,
    (created_by, modified_by): (&str, &str),
    parent: &str,
) -> Value {
    let api = &request.shared.api_url;
    let member = |client: &str| {
        let member = member_id(client);
        json!({ "href": format!("{api}/accesscontrol/itwins/{itwin_id}/members/users/{member}") })
    };
    json!({
        "createdBy": member(created_by), "lastModifiedBy": member(modified_by),
        "parentFolder": { "href": format!("{api}/storage/folders/{parent}") },
    })
}
