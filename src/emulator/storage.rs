//! iTwin Storage: folders, files, and the addresses for their content.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::Method;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use super::model::{Completed, File, Folder, State, root_id, storage_id};
use super::reply::{self, Refusal, Reply, refuse};
use super::server::{Ask, unknown};

/// Items on a page.
const PAGE: usize = 100;

/// Characters that a name must not have.
const FORBIDDEN: &[char] = &['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// Kinds of files that storage takes for harmful.
const HARMFUL: &[&str] = &[
    ".exe", ".dll", ".bat", ".cmd", ".com", ".msi", ".ps1", ".vbs",
];

pub(super) fn answer(ask: &Ask<'_>, words: &[&str]) -> Result<Reply, Refusal> {
    let get = *ask.method == Method::GET;
    let post = *ask.method == Method::POST;
    let id = ask.segments.get(2).map(String::as_str).unwrap_or_default();
    match words {
        ["storage"] if get => top_level(ask),
        ["storage", "folders", _] if get => with_folder(ask, id, |_, folder| {
            Ok(reply::json(
                200,
                &json!({ "folder": folder_json(ask, folder) }),
            ))
        }),
        ["storage", "folders", _, "list"] if get => list(ask, id, "items", |folder, items| {
            items.folders(folder);
            items.files(folder);
        }),
        ["storage", "folders", _, "files"] if get => {
            list(ask, id, "files", |folder, items| items.files(folder))
        }
        ["storage", "folders", _, "folders"] if get => {
            list(ask, id, "folders", |folder, items| items.folders(folder))
        }
        ["storage", "folders", _, "folders"] if post => create_folder(ask, id),
        ["storage", "folders", _, "files"] if post => create_file(ask, id),
        ["storage", "files", _] if get => {
            let state = ask.shared.state();
            let file = known_file(&state, ask, id)?;
            Ok(reply::json(200, &json!({ "file": file_json(ask, file) })))
        }
        ["storage", "files", _] if *ask.method == Method::DELETE => {
            let mut state = ask.shared.state();
            known_file(&state, ask, id)?;
            if let Some(file) = state.files.get_mut(id) {
                file.deleted = true;
            }
            Ok(reply::empty(204))
        }
        ["storage", "files", _, "updatecontent"] if post => update_content(ask, id),
        ["storage", "files", _, "complete"] if post => complete(ask, id),
        ["storage", "files", _, "download"] if get => {
            let state = ask.shared.state();
            let blob = known_file(&state, ask, id)?.blob.clone();
            let blob =
                blob.ok_or_else(|| refuse(404, "FileNotFound", "The file has no content."))?;
            let href = sas(ask, &state.key, &blob, "r");
            Ok(reply::with(302, &[("location", &href)], ""))
        }
        _ => Err(unknown()),
    }
}

fn allowed(ask: &Ask<'_>, itwin_id: &str) -> Result<(), Refusal> {
    if ask
        .shared
        .options
        .forbidden_storage
        .iter()
        .any(|forbidden| forbidden == itwin_id)
    {
        return Err(refuse(
            403,
            "InsufficientPermissions",
            "The user has insufficient permissions for the requested operation.",
        ));
    }
    Ok(())
}

fn with_folder(
    ask: &Ask<'_>,
    id: &str,
    answer: impl FnOnce(&State, &Folder) -> Result<Reply, Refusal>,
) -> Result<Reply, Refusal> {
    let state = ask.shared.state();
    let folder = state
        .folders
        .get(id)
        .ok_or_else(|| refuse(404, "FolderNotFound", "Requested folder is not available."))?;
    allowed(ask, &folder.itwin_id)?;
    answer(&state, folder)
}

fn known_file<'s>(state: &'s State, ask: &Ask<'_>, id: &str) -> Result<&'s File, Refusal> {
    let file = state.files.get(id).filter(|file| !file.deleted);
    let file =
        file.ok_or_else(|| refuse(404, "FileNotFound", "Requested file is not available."))?;
    allowed(ask, &file.itwin_id)?;
    Ok(file)
}

fn top_level(ask: &Ask<'_>) -> Result<Reply, Refusal> {
    let invalid = || {
        refuse(422, "InvalidStorageRequest", "Invalid request.")
            .about("iTwinId", "It is no known iTwin.")
    };
    let itwin_id = ask.query.get("iTwinId").ok_or_else(invalid)?;
    let root = root_id(itwin_id);
    with_folder(ask, &root, |state, folder| {
        let mut items = Items {
            ask,
            state,
            found: Vec::new(),
        };
        items.folders(folder);
        items.files(folder);
        let (page, mut links) = ask.page(items.found, PAGE)?;
        links["folder"] =
            json!({ "href": format!("{}/storage/folders/{root}", ask.shared.api_url) });
        Ok(reply::json(200, &json!({ "items": page, "_links": links })))
    })
}

struct Items<'a> {
    ask: &'a Ask<'a>,
    state: &'a State,
    found: Vec<Value>,
}

impl Items<'_> {
    fn folders(&mut self, parent: &Folder) {
        let folders = self
            .state
            .folders
            .values()
            .filter(|folder| folder.parent_id.as_ref() == Some(&parent.id));
        self.found
            .extend(folders.map(|folder| folder_json(self.ask, folder)));
    }

    fn files(&mut self, parent: &Folder) {
        let files = self
            .state
            .files
            .values()
            .filter(|file| file.parent_folder_id == parent.id && !file.deleted);
        self.found
            .extend(files.map(|file| file_json(self.ask, file)));
    }
}

fn list(
    ask: &Ask<'_>,
    id: &str,
    field: &str,
    fill: impl FnOnce(&Folder, &mut Items<'_>),
) -> Result<Reply, Refusal> {
    with_folder(ask, id, |state, folder| {
        let mut items = Items {
            ask,
            state,
            found: Vec::new(),
        };
        fill(folder, &mut items);
        let (page, links) = ask.page(items.found, PAGE)?;
        Ok(reply::json(200, &json!({ field: page, "_links": links })))
    })
}

/// Name and description from the body of a create request.
fn named(ask: &Ask<'_>, code: &'static str) -> Result<(String, Option<String>), Refusal> {
    let body = ask.json(code)?;
    let invalid = |what| refuse(422, code, "Invalid request.").about("displayName", what);
    let name = body["displayName"]
        .as_str()
        .ok_or_else(|| invalid("It is missing."))?;
    if name.is_empty() || name.encode_utf16().count() > 255 {
        return Err(invalid("It must have 1 to 255 characters."));
    }
    if name.contains(FORBIDDEN) || name.chars().any(char::is_control) {
        return Err(invalid("It has invalid characters."));
    }
    let description = body["description"].as_str().map(str::to_owned);
    Ok((name.to_owned(), description))
}

fn path_in(parent: &Folder, name: &str) -> String {
    if parent.path.is_empty() {
        name.to_owned()
    } else {
        format!("{}/{name}", parent.path)
    }
}

fn create_folder(ask: &Ask<'_>, parent_id: &str) -> Result<Reply, Refusal> {
    let parent = owned_folder(ask, parent_id)?;
    let (display_name, _) = named(ask, "InvalidCreateFolderRequest")?;
    let folder = Folder {
        id: storage_id(&parent.itwin_id, Uuid::new_v4()),
        path: path_in(&parent, &display_name),
        itwin_id: parent.itwin_id,
        parent_id: Some(parent.id),
        display_name,
        created_at: ask.now,
    };
    let body = json!({ "folder": folder_json(ask, &folder) });
    ask.shared.state().folders.insert(folder.id.clone(), folder);
    Ok(reply::json(201, &body))
}

fn owned_folder(ask: &Ask<'_>, id: &str) -> Result<Folder, Refusal> {
    let state = ask.shared.state();
    let folder = state
        .folders
        .get(id)
        .ok_or_else(|| refuse(404, "FolderNotFound", "Requested folder is not available."))?;
    allowed(ask, &folder.itwin_id)?;
    Ok(folder.clone())
}

fn create_file(ask: &Ask<'_>, parent_id: &str) -> Result<Reply, Refusal> {
    let code = "InvalidCreateFileRequest";
    let parent = owned_folder(ask, parent_id)?;
    let (display_name, description) = named(ask, code)?;
    let lower = display_name.to_ascii_lowercase();
    if HARMFUL.iter().any(|extension| lower.ends_with(extension)) {
        return Err(refuse(422, code, "Invalid request.")
            .about("displayName", "This kind of file is not allowed."));
    }
    let id = storage_id(&parent.itwin_id, Uuid::new_v4());
    let blob = Uuid::new_v4().simple().to_string();
    // A name is no key: a second file of the same name is a file of its own.
    let file = File {
        id: id.clone(),
        path: path_in(&parent, &display_name),
        itwin_id: parent.itwin_id,
        parent_folder_id: parent.id,
        display_name,
        description,
        created_at: ask.now,
        completed: None,
        completions: 0,
        blob_writes: 0,
        deleted: false,
        pending_blob: Some(blob.clone()),
        blob: None,
    };
    let mut state = ask.shared.state();
    state.files.insert(id.clone(), file);
    Ok(links(ask, &state.key, &id, &blob))
}

fn update_content(ask: &Ask<'_>, id: &str) -> Result<Reply, Refusal> {
    let mut state = ask.shared.state();
    known_file(&state, ask, id)?;
    let blob = Uuid::new_v4().simple().to_string();
    let file = state.files.get_mut(id).ok_or_else(unknown)?;
    file.pending_blob = Some(blob.clone());
    Ok(links(ask, &state.key, id, &blob))
}

fn links(ask: &Ask<'_>, key: &str, file_id: &str, blob: &str) -> Reply {
    let api = &ask.shared.api_url;
    let body = json!({ "_links": {
        "uploadUrl": { "href": sas(ask, key, blob, "rw") },
        "completeUrl": { "href": format!("{api}/storage/files/{file_id}/complete") },
    }});
    reply::json(202, &body)
}

fn complete(ask: &Ask<'_>, id: &str) -> Result<Reply, Refusal> {
    if !ask.body.is_empty() {
        return Err(refuse(
            422,
            "InvalidStorageRequest",
            "The request must not have a body.",
        ));
    }
    let mut state = ask.shared.state();
    let pending = known_file(&state, ask, id)?.pending_blob.clone();
    if let Some(blob) = pending {
        let Some(content) = state.blobs.get(&blob).cloned() else {
            return Err(refuse(
                422,
                "InvalidStorageRequest",
                "No content was uploaded.",
            ));
        };
        let file = state.files.get_mut(id).ok_or_else(unknown)?;
        file.completions += 1;
        let version = file
            .completed
            .as_ref()
            .map_or(1, |completed| completed.version + 1);
        file.completed = Some(Completed {
            size: content.size,
            sha256: content.sha256,
            version,
            completed_at: ask.now,
        });
        file.blob = Some(blob);
        file.pending_blob = None;
    }
    let file = known_file(&state, ask, id)?;
    Ok(reply::json(200, &json!({ "file": file_json(ask, file) })))
}

fn time(at: Timestamp) -> String {
    format!("{at:.7}")
}

fn folder_json(ask: &Ask<'_>, folder: &Folder) -> Value {
    let parent = folder.parent_id.as_ref().unwrap_or(&folder.id);
    json!({
        "id": folder.id, "type": "folder", "displayName": folder.display_name, "description": null,
        "path": folder.path, "lastModifiedByDisplayName": "emulated", "parentFolderId": parent,
        "createdDateTime": time(folder.created_at), "lastModifiedDateTime": time(folder.created_at),
        "_links": { "parentFolder": { "href": format!("{}/storage/folders/{parent}", ask.shared.api_url) } },
    })
}

fn file_json(ask: &Ask<'_>, file: &File) -> Value {
    let size = file
        .completed
        .as_ref()
        .map_or(0, |completed| completed.size);
    json!({
        "id": file.id, "type": "file", "displayName": file.display_name, "description": file.description,
        "path": file.path, "size": size, "isFileLocked": false, "lastModifiedByDisplayName": "emulated",
        "createdDateTime": time(file.created_at), "lastModifiedDateTime": time(file.created_at),
        "parentFolderId": file.parent_folder_id,
        "_links": { "parentFolder": { "href": format!("{}/storage/folders/{}", ask.shared.api_url, file.parent_folder_id) } },
    })
}

/// A pre-signed address of a blob.
fn sas(ask: &Ask<'_>, key: &str, blob: &str, permissions: &str) -> String {
    let lifetime =
        jiff::SignedDuration::try_from(ask.shared.options.sas_lifetime).unwrap_or_default();
    let expiry = ask.now.saturating_add(lifetime).unwrap_or(ask.now);
    let expiry = format!("{expiry:.3}");
    let signature = sign(key, blob, &expiry, permissions);
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!(
        "{}/emulated/{blob}?sv=2019-07-07&sr=b&sp={permissions}&se={}&sig={}",
        ask.shared.blob_url,
        encoded(&expiry),
        encoded(&signature)
    )
}

/// The signature of an address: whoever changes its blob, its end or its permissions loses it.
pub(super) fn sign(key: &str, blob: &str, expiry: &str, permissions: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        return String::new();
    };
    mac.update(format!("{blob}\n{expiry}\n{permissions}").as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
