//! iTwin Storage: folders, files, the recycle bin, and the addresses for content.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::access::{self, Permission};
use super::api::{Arrived, Ask, Pages, insufficient, text, unknown};
use super::model::{
    Blob, Completed, Content, File, Folder, Pending, State, member_id, root_id, storage_id,
};
use super::reply::{self, Refusal, Reply, invalid, refuse};
use super::sas::{Grant, attachment};
use super::switches::{
    CompleteAgain, CompleteEmpty, CompleteExpired, CompleteWithoutContent, DuplicateFile,
    DuplicateFolder, IncompleteFiles, ItwinUnknown, ListedDescription, LockedFile, NameCase,
    NameError, RecycledName, SasPermissions, StorageForbidden, UpdateBlob, UpdateIncomplete,
};
use super::{recycle_bin, relocate, sas};

pub(super) const INVALID: &str = "InvalidStorageRequest";
const INVALID_FILE: &str = "InvalidCreateFileRequest";
const INVALID_FOLDER: &str = "InvalidCreateFolderRequest";

/// Characters that a name must not have.
const FORBIDDEN: &[char] = &['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// Kinds of files that storage takes for harmful.
const HARMFUL: &[&str] = &[
    ".exe", ".dll", ".bat", ".cmd", ".com", ".msi", ".ps1", ".vbs",
];

pub(super) fn answer(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    let id = ask.segment(2);
    match (ask.method.as_str(), words.as_slice()) {
        ("GET", ["storage"]) => top_level(ask, state),
        ("GET", ["storage", "folders", _]) => {
            let folder = folder(ask, state, id)?;
            Ok(one_folder(ask, 200, folder))
        }
        ("GET", ["storage", "folders", _, "list"]) => {
            list(ask, state, id, "items", |found| found.folders().files())
        }
        ("GET", ["storage", "folders", _, "files"]) => list(ask, state, id, "files", Found::files),
        ("GET", ["storage", "folders", _, "folders"]) => {
            list(ask, state, id, "folders", Found::folders)
        }
        ("GET", ["storage", "folders", _, "search"]) => {
            let wanted = ask.query("name").unwrap_or_default().to_lowercase();
            if wanted.is_empty() {
                return Err(invalid(INVALID, "name", "It is missing."));
            }
            list(ask, state, id, "items", |found| {
                found.folders().files().named(&wanted)
            })
        }
        ("POST", ["storage", "folders", _, "folders"]) => create_folder(ask, state, id),
        ("POST", ["storage", "folders", _, "files"]) => create_file(ask, state, id),
        ("PATCH", ["storage", "folders", _]) => update_folder(ask, state, id),
        ("DELETE", ["storage", "folders", _]) => {
            if folder(ask, state, id)?.parent_id.is_none() {
                return Err(refuse(422, INVALID, "The root folder cannot be deleted."));
            }
            if let Some(folder) = state.folders.get_mut(id) {
                folder.deleted = true;
            }
            Ok(reply::empty(204))
        }
        ("GET", ["storage", "files", _]) => Ok(one_file(ask, file(ask, state, id)?)),
        ("PATCH", ["storage", "files", _]) => update_file(ask, state, id),
        ("DELETE", ["storage", "files", _]) => {
            file(ask, state, id)?;
            if let Some(file) = state.files.get_mut(id) {
                file.deleted = true;
            }
            Ok(reply::empty(204))
        }
        ("POST", ["storage", "files", _, "updatecontent"]) => update_content(ask, state, id),
        ("POST", ["storage", "files", _, "complete"]) => complete(ask, state, id),
        ("GET", ["storage", "files", _, "download"]) => {
            let file = file(ask, state, id)?;
            let blob = file.blob.as_ref();
            let blob =
                blob.ok_or_else(|| refuse(404, "FileNotFound", "The file has no content."))?;
            let disposition = attachment(&file.display_name);
            let grant = Grant {
                blob,
                permissions: "r",
                disposition: &disposition,
            };
            let href = address(ask, state, grant, expiry(ask));
            Ok(reply::with(302, &[("location", &href)], ""))
        }
        ("POST", ["storage", "files" | "folders", _, "move"]) => relocate::answer(ask, state, id),
        ("POST", ["storage", "folders", _, "lock"]) => lock_files(ask, state, id, true),
        ("POST", ["storage", "folders", _, "unlock"]) => lock_files(ask, state, id, false),
        (_, ["storage", "recyclebin", rest @ ..]) => recycle_bin::answer(ask, state, rest),
        _ => Err(unknown()),
    }
}

/// What another storage has of a file that is being completed.
pub(super) async fn arrived_elsewhere(ask: &Ask<'_>) -> Option<Arrived> {
    let azurite = ask.shared.azurite.as_ref()?;
    if ask.method != "POST" || ask.words.last().is_none_or(|word| word != "complete") {
        return None;
    }
    let blob = {
        let state = ask.shared.state();
        state
            .files
            .get(ask.segment(2))?
            .pending
            .as_ref()?
            .blob
            .clone()
    };
    azurite.read(&blob).await
}

pub(super) fn no_file() -> Refusal {
    refuse(404, "FileNotFound", "Requested file is not available.")
}

pub(super) fn no_folder() -> Refusal {
    refuse(404, "FolderNotFound", "Requested folder is not available.")
}

/// Fails, in one of the ways there are, when the caller has no permission on the storage of an iTwin.
pub(super) fn allowed(
    ask: &Ask<'_>,
    state: &State,
    itwin_id: &str,
    missing: fn() -> Refusal,
) -> Result<(), Refusal> {
    let forbidden = &ask.shared.options.forbidden_storage;
    let is_forbidden = forbidden.iter().any(|forbidden| forbidden == itwin_id);
    let itwin = state.itwins.get(itwin_id);
    let has = itwin.is_some_and(|itwin| access::has(ask, itwin, needed(ask)));
    if has && !is_forbidden {
        return Ok(());
    }
    Err(match ask.switches.storage_forbidden {
        StorageForbidden::Forbidden => insufficient(),
        StorageForbidden::NotFound => missing(),
        StorageForbidden::Unauthorized => refuse(401, "Unauthorized", "Access is denied."),
    })
}

/// The permission that a request needs.
///
/// Source: the "Authorization" part of each operation below developer.bentley.com/apis/storage/operations/
fn needed(ask: &Ask<'_>) -> Permission {
    let is_bin = ask.words.get(1).is_some_and(|word| word == "recyclebin");
    match ask.method.as_str() {
        "GET" => "storage_read",
        "DELETE" => "storage_delete",
        _ if is_bin => "storage_delete",
        _ => "storage_write",
    }
}

/// Whether a folder and all above it are there.
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

pub(super) fn folder<'s>(ask: &Ask<'_>, state: &'s State, id: &str) -> Result<&'s Folder, Refusal> {
    let folder = state
        .folders
        .get(id)
        .filter(|folder| is_live(state, &folder.id));
    let folder = folder.ok_or_else(no_folder)?;
    allowed(ask, state, &folder.itwin_id, no_folder)?;
    Ok(folder)
}

pub(super) fn file<'s>(ask: &Ask<'_>, state: &'s State, id: &str) -> Result<&'s File, Refusal> {
    let hidden = ask.switches.incomplete_files == IncompleteFiles::Hidden && ask.method == "GET";
    let file = state
        .files
        .get(id)
        .filter(|file| !file.deleted && is_live(state, &file.parent_folder_id))
        .filter(|file| file.completed.is_some() || !hidden)
        .ok_or_else(no_file)?;
    allowed(ask, state, &file.itwin_id, no_file)?;
    Ok(file)
}

/// The iTwin that a query names.
pub(super) fn itwin_of(ask: &Ask<'_>, state: &State) -> Result<String, Refusal> {
    let id = ask.query("iTwinId").or(ask.query("projectId"));
    let id = id.ok_or_else(|| invalid(INVALID, "iTwinId", "It is missing."))?;
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is not a UUID."));
    }
    let id = id.to_ascii_lowercase();
    if !state.itwins.contains_key(&id) {
        return Err(match ask.switches.itwin_unknown {
            ItwinUnknown::NotFound => {
                refuse(404, "iTwinNotFound", "Requested iTwin is not available.")
            }
            ItwinUnknown::Invalid => invalid(INVALID, "iTwinId", "It is not a known iTwin."),
            ItwinUnknown::Forbidden => insufficient(),
        });
    }
    allowed(ask, state, &id, || {
        refuse(404, "iTwinNotFound", "Requested iTwin is not available.")
    })?;
    Ok(id)
}

fn top_level(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    let root = root_id(&itwin_of(ask, state)?);
    let found = Found::in_folder(ask, state, folder(ask, state, &root)?);
    let (page, mut links) = found.folders().files().page()?;
    links["folder"] = json!({ "href": format!("{}/storage/folders/{root}", ask.shared.api_url) });
    Ok(reply::json(200, &json!({ "items": page, "_links": links })))
}

/// How lists of storage are paged.
pub(super) fn pages(ask: &Ask<'_>) -> Pages {
    Pages {
        cap: ask.shared.options.page_size,
        ..Pages::always(100, INVALID)
    }
}

/// Items that were found in a folder.
struct Found<'a> {
    ask: &'a Ask<'a>,
    state: &'a State,
    parent: &'a Folder,
    items: Vec<Value>,
}

impl<'a> Found<'a> {
    fn in_folder(ask: &'a Ask<'_>, state: &'a State, parent: &'a Folder) -> Self {
        Self {
            ask,
            state,
            parent,
            items: Vec::new(),
        }
    }

    fn folders(mut self) -> Self {
        let mut folders: Vec<&Folder> = self
            .state
            .folders
            .values()
            .filter(|folder| folder.parent_id.as_ref() == Some(&self.parent.id) && !folder.deleted)
            .collect();
        folders.sort_by_key(|folder| (folder.created_at, &folder.id));
        let shown = folders
            .into_iter()
            .map(|folder| folder_json(self.ask, folder));
        self.items.extend(shown);
        self
    }

    fn files(mut self) -> Self {
        let incomplete = self.ask.switches.incomplete_files == IncompleteFiles::Listed;
        let mut files: Vec<&File> = self
            .state
            .files
            .values()
            .filter(|file| file.parent_folder_id == self.parent.id && !file.deleted)
            .filter(|file| incomplete || file.completed.is_some())
            .collect();
        files.sort_by_key(|file| (file.created_at, &file.id));
        let shown = files.into_iter().map(|file| file_json(self.ask, file));
        self.items.extend(shown);
        self
    }

    /// Only those whose name has these words, in which `*` stands for anything.
    fn named(mut self, wanted: &str) -> Self {
        self.items.retain(|item| {
            let name = item["displayName"]
                .as_str()
                .unwrap_or_default()
                .to_lowercase();
            let mut rest = name.as_str();
            wanted.split('*').all(|word| match rest.split_once(word) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        });
        self
    }

    fn page(mut self) -> Result<(Vec<Value>, Value), Refusal> {
        if self.ask.switches.listed_description == ListedDescription::Absent {
            for item in self.items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("description");
            }
        }
        self.ask.page(self.items, &pages(self.ask))
    }
}

fn list<'a>(
    ask: &'a Ask<'_>,
    state: &'a State,
    id: &str,
    field: &str,
    fill: impl FnOnce(Found<'a>) -> Found<'a>,
) -> Result<Reply, Refusal> {
    let found = Found::in_folder(ask, state, folder(ask, state, id)?);
    let (page, links) = fill(found).page()?;
    Ok(reply::json(200, &json!({ field: page, "_links": links })))
}

/// Name and description from a body, checked.
fn named(ask: &Ask<'_>, code: &'static str) -> Result<(Option<String>, Option<String>), Refusal> {
    let body = ask.json(code)?;
    let wrong = |what| match ask.switches.name_error {
        NameError::Documented => invalid(code, "displayName", what),
        NameError::Observed => refuse(422, INVALID, "Invalid request.").about(None, what),
    };
    let name = text(&body, "displayName", code)?;
    if let Some(name) = name {
        if name.is_empty() || name.encode_utf16().count() > 255 {
            return Err(wrong("It must have 1 to 255 characters."));
        }
        let dots = name == "." || name == "..";
        if dots || name.contains(FORBIDDEN) || name.chars().any(char::is_control) {
            return Err(wrong("It has invalid characters."));
        }
        let lower = name.to_ascii_lowercase();
        if code == INVALID_FILE && HARMFUL.iter().any(|extension| lower.ends_with(extension)) {
            return Err(wrong("This kind of file is not allowed."));
        }
    }
    let description = text(&body, "description", code)?;
    Ok((name.map(str::to_owned), description.map(str::to_owned)))
}

pub(super) fn is_same_name(ask: &Ask<'_>, one: &str, other: &str) -> bool {
    match ask.switches.name_case {
        NameCase::Sensitive => one == other,
        NameCase::Insensitive => one.to_lowercase() == other.to_lowercase(),
    }
}

pub(super) fn name_taken() -> Refusal {
    refuse(409, "Conflict", "An item of this name is there already.")
}

fn create_folder(ask: &Ask<'_>, state: &mut State, parent_id: &str) -> Result<Reply, Refusal> {
    let parent = folder(ask, state, parent_id)?.clone();
    let (name, description) = named(ask, INVALID_FOLDER)?;
    let display_name =
        name.ok_or_else(|| invalid(INVALID_FOLDER, "displayName", "It is missing."))?;
    let taken = state.folders.values().any(|folder| {
        folder.parent_id.as_ref() == Some(&parent.id)
            && !folder.deleted
            && is_same_name(ask, &folder.display_name, &display_name)
    });
    match ask.switches.duplicate_folder {
        DuplicateFolder::Conflict if taken => return Err(name_taken()),
        DuplicateFolder::Refused if taken => {
            return Err(invalid(INVALID_FOLDER, "displayName", "It is taken."));
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
        created_at: ask.now,
        created_by: ask.client_id.clone(),
        modified_at: ask.now,
        modified_by: ask.client_id.clone(),
        deleted: false,
    };
    let answer = one_folder(ask, 201, &folder);
    state.folders.insert(folder.id.clone(), folder);
    Ok(answer)
}

fn update_folder(ask: &Ask<'_>, state: &mut State, id: &str) -> Result<Reply, Refusal> {
    let mut folder = folder(ask, state, id)?.clone();
    let (name, description) = named(ask, INVALID_FOLDER)?;
    folder.display_name = name.unwrap_or(folder.display_name);
    folder.description = description.or(folder.description);
    folder.modified_at = ask.now;
    folder.modified_by.clone_from(&ask.client_id);
    state.folders.insert(folder.id.clone(), folder);
    renew_paths(state, id);
    Ok(one_folder(
        ask,
        200,
        state.folders.get(id).ok_or_else(no_folder)?,
    ))
}

/// Paths follow the names above them.
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

fn create_file(ask: &Ask<'_>, state: &mut State, parent_id: &str) -> Result<Reply, Refusal> {
    let parent = folder(ask, state, parent_id)?.clone();
    let (name, description) = named(ask, INVALID_FILE)?;
    let name = name.ok_or_else(|| invalid(INVALID_FILE, "displayName", "It is missing."))?;
    let display_name = free_name(ask, state, &parent, name)?;
    let id = storage_id(&parent.itwin_id, Uuid::new_v4());
    let file = File {
        id: id.clone(),
        path: parent.path_of(&display_name),
        itwin_id: parent.itwin_id,
        parent_folder_id: parent.id,
        display_name,
        description,
        created_at: ask.now,
        created_by: ask.client_id.clone(),
        modified_at: ask.now,
        modified_by: ask.client_id.clone(),
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
    Ok(links(ask, state, &id, blob))
}

/// A name is no key: a second file of the same name is a file of its own, unless a switch says otherwise.
fn free_name(
    ask: &Ask<'_>,
    state: &State,
    parent: &Folder,
    name: String,
) -> Result<String, Refusal> {
    let mut taken = BTreeSet::new();
    for file in state.files.values() {
        if file.parent_folder_id == parent.id && is_same_name(ask, &file.display_name, &name) {
            taken.insert(file.deleted);
        }
    }
    if taken.contains(&true) && ask.switches.recycled_name == RecycledName::Conflict {
        return Err(name_taken());
    }
    if !taken.contains(&false) {
        return Ok(name);
    }
    match ask.switches.duplicate_file {
        DuplicateFile::Twin => Ok(name),
        DuplicateFile::Renamed => Ok(match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem} (1).{extension}"),
            None => format!("{name} (1)"),
        }),
        DuplicateFile::Conflict => Err(name_taken()),
        DuplicateFile::Refused => Err(invalid(INVALID_FILE, "displayName", "It is taken.")),
    }
}

fn update_file(ask: &Ask<'_>, state: &mut State, id: &str) -> Result<Reply, Refusal> {
    let mut file = file(ask, state, id)?.clone();
    let (name, description) = named(ask, INVALID_FILE)?;
    if let Some(name) = name {
        if let Some(parent) = state.folders.get(&file.parent_folder_id) {
            file.path = parent.path_of(&name);
        }
        file.display_name = name;
    }
    file.description = description.or(file.description);
    file.modified_at = ask.now;
    file.modified_by.clone_from(&ask.client_id);
    let answer = one_file(ask, &file);
    state.files.insert(file.id.clone(), file);
    Ok(answer)
}

fn update_content(ask: &Ask<'_>, state: &mut State, id: &str) -> Result<Reply, Refusal> {
    let file = file(ask, state, id)?;
    if file.completed.is_none() {
        match ask.switches.update_incomplete {
            UpdateIncomplete::Taken => {}
            UpdateIncomplete::Conflict => {
                return Err(refuse(409, "Conflict", "The file was never completed."));
            }
            UpdateIncomplete::NotFound => return Err(no_file()),
        }
    }
    if file.locked {
        match ask.switches.locked_file {
            LockedFile::Conflict => return Err(refuse(409, "FileLocked", "The file is locked.")),
            LockedFile::Forbidden => return Err(insufficient()),
            LockedFile::Taken => {}
        }
    }
    let before = file
        .pending
        .as_ref()
        .map(|pending| &pending.blob)
        .or(file.blob.as_ref());
    let blob = match (ask.switches.update_blob, before) {
        (UpdateBlob::Same, Some(blob)) => blob.clone(),
        _ => Uuid::new_v4().simple().to_string(),
    };
    Ok(links(ask, state, id, blob))
}

fn expiry(ask: &Ask<'_>) -> Timestamp {
    let lifetime = SignedDuration::try_from(ask.address_lifetime).unwrap_or_default();
    ask.now.saturating_add(lifetime).unwrap_or(ask.now)
}

/// The address of a blob, at our own storage or at Azurite.
fn address(ask: &Ask<'_>, state: &State, grant: Grant<'_>, expiry: Timestamp) -> String {
    match &ask.shared.azurite {
        Some(azurite) => azurite.address(grant, expiry),
        None => sas::address(&ask.shared.blob_url, &state.key, grant, expiry),
    }
}

/// Locks files of a folder, or unlocks them; all must be in it.
///
/// Source: developer.bentley.com/apis/storage/operations/lock-files-in-folder/, unlock-files-in-folder/
fn lock_files(
    ask: &Ask<'_>,
    state: &mut State,
    folder_id: &str,
    lock: bool,
) -> Result<Reply, Refusal> {
    folder(ask, state, folder_id)?;
    let body = ask.json(INVALID)?;
    let ids = body["fileIds"].as_array();
    let ids = ids.ok_or_else(|| invalid(INVALID, "fileIds", "It is missing."))?;
    let mut files = Vec::new();
    for id in ids {
        let file = file(ask, state, id.as_str().unwrap_or_default())?;
        if file.parent_folder_id != folder_id || !lock && !file.locked {
            return Err(no_file());
        }
        files.push(file.id.clone());
    }
    let mut items = Vec::new();
    for id in files {
        if let Some(file) = state.files.get_mut(&id) {
            file.locked = lock;
            items.push(file_json(ask, file));
        }
    }
    Ok(reply::json(200, &json!({ "files": items })))
}

/// An address to write content to that is no file of storage.
pub(super) fn upload_address(ask: &Ask<'_>, state: &State, blob: &str) -> String {
    own_address(ask, state, blob, "rw")
}

/// An address to read such content from.
pub(super) fn read_address(ask: &Ask<'_>, state: &State, blob: &str) -> String {
    own_address(ask, state, blob, "r")
}

fn own_address(ask: &Ask<'_>, state: &State, blob: &str, permissions: &str) -> String {
    let grant = Grant {
        blob,
        permissions,
        disposition: "",
    };
    sas::address(&ask.shared.blob_url, &state.key, grant, expiry(ask))
}

/// Addresses for the next content of a file.
fn links(ask: &Ask<'_>, state: &mut State, file_id: &str, blob: String) -> Reply {
    let expires_at = expiry(ask);
    let permissions = match ask.switches.sas_permissions {
        SasPermissions::ReadWrite => "rw",
        SasPermissions::Write => "w",
    };
    let name = state.files.get(file_id).map(|file| &file.display_name);
    let disposition = name.map(|name| attachment(name)).unwrap_or_default();
    let grant = Grant {
        blob: &blob,
        permissions,
        disposition: &disposition,
    };
    let upload = address(ask, state, grant, expires_at);
    let kept = state.blobs.entry(blob.clone()).or_insert_with(|| Blob {
        file_id: file_id.to_owned(),
        ..Blob::default()
    });
    kept.is_new = false;
    if let Some(file) = state.files.get_mut(file_id) {
        let before = file.pending.replace(Pending { blob, expires_at });
        let current = file.blob.clone();
        if let Some(before) = before
            && file
                .pending
                .as_ref()
                .is_none_or(|pending| pending.blob != before.blob)
            && Some(&before.blob) != current.as_ref()
        {
            drop_blob(state, &before.blob);
        }
    }
    let api = &ask.shared.api_url;
    let body = json!({ "_links": {
        "uploadUrl": { "href": upload },
        "completeUrl": { "href": format!("{api}/storage/files/{file_id}/complete") },
    }});
    reply::json(202, &body)
}

/// Forgets a blob; what it held is removed from disk soon.
pub(super) fn drop_blob(state: &mut State, blob: &str) {
    let Some(blob) = state.blobs.remove(blob) else {
        return;
    };
    state.retired.extend(blob.content);
    if !blob.uncommitted.is_empty() {
        let parts = blob
            .uncommitted
            .into_iter()
            .map(|(id, part)| (Some(id), part));
        state.retired.push(Content {
            id: Uuid::new_v4().to_string(),
            size: 0,
            parts: parts.collect(),
        });
    }
}

fn complete(ask: &Ask<'_>, state: &mut State, id: &str) -> Result<Reply, Refusal> {
    if !ask.body.is_empty() {
        return Err(refuse(422, INVALID, "The request must not have a body."));
    }
    let Some(pending) = file(ask, state, id)?.pending.clone() else {
        return match ask.switches.complete_again {
            CompleteAgain::Taken => Ok(one_file(ask, file(ask, state, id)?)),
            CompleteAgain::Conflict => Err(refuse(409, "Conflict", "It was completed already.")),
            CompleteAgain::Refused => Err(refuse(422, INVALID, "It was completed already.")),
        };
    };
    if pending.expires_at <= ask.now && ask.switches.complete_expired == CompleteExpired::Refused {
        return Err(refuse(422, INVALID, "The upload address has expired."));
    }
    take_from_elsewhere(ask, state, &pending.blob);
    let blob = state.blobs.get(&pending.blob);
    let content = blob
        .filter(|blob| blob.is_new)
        .and_then(|blob| blob.content.clone());
    let (size, content_id) = match content {
        Some(content) => (content.size, Some(content.id)),
        None if ask.switches.complete_without_content == CompleteWithoutContent::Taken => (0, None),
        None => return Err(refuse(422, INVALID, "No content was uploaded.")),
    };
    if size == 0 && ask.switches.complete_empty == CompleteEmpty::Refused {
        return Err(refuse(422, INVALID, "The content is empty."));
    }
    let superseded = {
        let file = state.files.get_mut(id).ok_or_else(no_file)?;
        file.completions += 1;
        // Content that counted as soon as it was written is no further version.
        let before = file.completed.as_ref().map_or(0, |completed| {
            let counts = content_id.is_some() && completed.content == content_id;
            completed.version - u32::from(counts)
        });
        // The first completion leaves the time of the creation, as it was seen once on the platform.
        if file.completions > 1 {
            file.modified_at = ask.now;
            file.modified_by.clone_from(&ask.client_id);
        }
        file.completed = Some(Completed {
            size,
            sha256: ask
                .arrived
                .as_ref()
                .map(|arrived| arrived.sha256.clone())
                .unwrap_or_default(),
            version: before + 1,
            completed_at: ask.now,
            content: content_id,
        });
        file.pending = None;
        file.blob
            .replace(pending.blob.clone())
            .filter(|before| *before != pending.blob)
    };
    if let Some(blob) = superseded {
        drop_blob(state, &blob);
    }
    Ok(one_file(ask, file(ask, state, id)?))
}

/// Notes content that arrived at Azurite, if it is newer than what is known of it.
fn take_from_elsewhere(ask: &Ask<'_>, state: &mut State, blob: &str) {
    let (Some(arrived), Some(blob)) = (&ask.arrived, state.blobs.get_mut(blob)) else {
        return;
    };
    if blob
        .content
        .as_ref()
        .is_none_or(|content| content.id != arrived.tag)
    {
        blob.content = Some(Content {
            id: arrived.tag.clone(),
            size: arrived.size,
            parts: Vec::new(),
        });
        blob.is_new = true;
    }
}

fn time(at: Timestamp) -> String {
    format!("{at:.7}")
}

/// Who made and changed an item of an iTwin, and where it lies.
fn item_links(
    ask: &Ask<'_>,
    itwin_id: &str,
    (created_by, modified_by): (&str, &str),
    parent: &str,
) -> Value {
    let api = &ask.shared.api_url;
    let member = |client: &str| {
        let member = member_id(client);
        json!({ "href": format!("{api}/accesscontrol/itwins/{itwin_id}/members/users/{member}") })
    };
    json!({
        "createdBy": member(created_by), "lastModifiedBy": member(modified_by),
        "parentFolder": { "href": format!("{api}/storage/folders/{parent}") },
    })
}

pub(super) fn one_folder(ask: &Ask<'_>, status: u16, folder: &Folder) -> Reply {
    reply::json(status, &json!({ "folder": folder_json(ask, folder) }))
}

pub(super) fn folder_json(ask: &Ask<'_>, folder: &Folder) -> Value {
    let parent = folder.parent_id.as_ref().unwrap_or(&folder.id);
    json!({
        "id": folder.id, "type": "folder", "displayName": folder.display_name, "description": folder.description,
        "path": folder.path, "lastModifiedByDisplayName": ask.shared.display_name(&folder.modified_by),
        "parentFolderId": parent,
        "createdDateTime": time(folder.created_at), "lastModifiedDateTime": time(folder.modified_at),
        "_links": item_links(ask, &folder.itwin_id, (&folder.created_by, &folder.modified_by), parent),
    })
}

pub(super) fn one_file(ask: &Ask<'_>, file: &File) -> Reply {
    reply::json(200, &json!({ "file": file_json(ask, file) }))
}

pub(super) fn file_json(ask: &Ask<'_>, file: &File) -> Value {
    let size = file
        .completed
        .as_ref()
        .map_or(0, |completed| completed.size);
    json!({
        "id": file.id, "type": "file", "displayName": file.display_name, "description": file.description,
        "path": file.path, "size": size, "isFileLocked": file.locked,
        "lastModifiedByDisplayName": ask.shared.display_name(&file.modified_by),
        "createdDateTime": time(file.created_at), "lastModifiedDateTime": time(file.modified_at),
        "parentFolderId": file.parent_folder_id,
        "_links": item_links(ask, &file.itwin_id, (&file.created_by, &file.modified_by), &file.parent_folder_id),
    })
}
