//! Content of files: upload addresses, completion, download.
//!
//! State changes only on completion, except where a switch says that written content counts at once.

use serde_json::json;
use uuid::Uuid;

use super::INVALID;
use super::lookup::{file, no_file};
use super::shapes::one_file;
use crate::emulator::addresses::{address, expiry};
use crate::emulator::azurite::AzuriteBlob;
use crate::emulator::model::{Blob, Completed, Content, Pending, State};
use crate::emulator::reply::{self, Refusal, Reply, insufficient, refuse};
use crate::emulator::request::ApiRequest;
use crate::emulator::sas::{Grant, attachment};
use crate::emulator::switches::{
    CompleteAgain, CompleteEmpty, CompleteExpired, CompleteWithoutContent, LockedFile,
    SasPermissions, UpdateBlob, UpdateIncomplete,
};

pub(super) fn update_content(
    request: &ApiRequest<'_>,
    state: &mut State,
    id: &str,
) -> Result<Reply, Refusal> {
    let file = file(request, state, id)?;
    if file.completed.is_none() {
        match request.switches.update_incomplete {
            UpdateIncomplete::Taken => {}
            UpdateIncomplete::Conflict => {
                return Err(refuse(409, "Conflict", "The file was never completed."));
            }
            UpdateIncomplete::NotFound => return Err(no_file()),
        }
    }
    if file.locked {
        match request.switches.locked_file {
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
    let blob = match (request.switches.update_blob, before) {
        (UpdateBlob::Same, Some(blob)) => blob.clone(),
        _ => Uuid::new_v4().simple().to_string(),
    };
    Ok(links(request, state, id, blob))
}

/// A new upload address for a file, and the address that completes it.
pub(super) fn links(
    request: &ApiRequest<'_>,
    state: &mut State,
    file_id: &str,
    blob: String,
) -> Reply {
    let expires_at = expiry(request);
    let permissions = match request.switches.sas_permissions {
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
    let upload = address(request, state, grant, expires_at);
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
            state.drop_blob(&before.blob);
        }
    }
    let api = &request.shared.api_url;
    let body = json!({ "_links": {
        "uploadUrl": { "href": upload },
        "completeUrl": { "href": format!("{api}/storage/files/{file_id}/complete") },
    }});
    reply::json(202, &body)
}

/// The blob in Azurite of the file that this request completes.
pub(in crate::emulator) async fn read_from_azurite(
    request: &ApiRequest<'_>,
) -> Option<AzuriteBlob> {
    let azurite = request.shared.azurite.as_ref()?;
    if request.method != "POST"
        || request
            .path_lower
            .last()
            .is_none_or(|word| word != "complete")
    {
        return None;
    }
    let blob = {
        let state = request.shared.state();
        state
            .files
            .get(request.segment(2))?
            .pending
            .as_ref()?
            .blob
            .clone()
    };
    azurite.read(&blob).await
}

pub(super) fn complete(
    request: &ApiRequest<'_>,
    state: &mut State,
    id: &str,
) -> Result<Reply, Refusal> {
    if !request.body.is_empty() {
        return Err(refuse(422, INVALID, "The request must not have a body."));
    }
    let Some(pending) = file(request, state, id)?.pending.clone() else {
        return match request.switches.complete_again {
            CompleteAgain::Taken => Ok(one_file(request, file(request, state, id)?)),
            CompleteAgain::Conflict => {
                Err(refuse(409, "Conflict", "The upload was already completed."))
            }
            CompleteAgain::Refused => {
                Err(refuse(422, INVALID, "The upload was already completed."))
            }
        };
    };
    if pending.expires_at <= request.now
        && request.switches.complete_expired == CompleteExpired::Refused
    {
        return Err(refuse(422, INVALID, "The upload address has expired."));
    }
    store_azurite_blob(request, state, &pending.blob);
    let blob = state.blobs.get(&pending.blob);
    let content = blob
        .filter(|blob| blob.is_new)
        .and_then(|blob| blob.content.clone());
    let (size, content_id) = match content {
        Some(content) => (content.size, Some(content.id)),
        None if request.switches.complete_without_content == CompleteWithoutContent::Taken => {
            (0, None)
        }
        None => return Err(refuse(422, INVALID, "No content was uploaded.")),
    };
    if size == 0 && request.switches.complete_empty == CompleteEmpty::Refused {
        return Err(refuse(422, INVALID, "The content is empty."));
    }
    let superseded = {
        let file = state.files.get_mut(id).ok_or_else(no_file)?;
        file.completions += 1;
        // Content that was visible as soon as it was written is not another version.
        let before = file.completed.as_ref().map_or(0, |completed| {
            let counts = content_id.is_some() && completed.content == content_id;
            completed.version - u32::from(counts)
        });
        // The first completion keeps the creation time, as observed on the platform.
        if file.completions > 1 {
            file.modified_at = request.now;
            file.modified_by.clone_from(&request.client_id);
        }
        file.completed = Some(Completed {
            size,
            sha256: request
                .azurite_blob
                .as_ref()
                .map(|azurite_blob| azurite_blob.sha256.clone())
                .unwrap_or_default(),
            version: before + 1,
            completed_at: request.now,
            completed_by: request.client_id.clone(),
            content: content_id,
        });
        file.pending = None;
        file.blob
            .replace(pending.blob.clone())
            .filter(|before| *before != pending.blob)
    };
    if let Some(blob) = superseded {
        state.drop_blob(&blob);
    }
    Ok(one_file(request, file(request, state, id)?))
}

/// Stores the content of a blob in Azurite, if it has changed.
fn store_azurite_blob(request: &ApiRequest<'_>, state: &mut State, blob: &str) {
    let (Some(azurite_blob), Some(blob)) = (&request.azurite_blob, state.blobs.get_mut(blob))
    else {
        return;
    };
    if blob
        .content
        .as_ref()
        .is_none_or(|content| content.id != azurite_blob.tag)
    {
        blob.content = Some(Content {
            id: azurite_blob.tag.clone(),
            size: azurite_blob.size,
            parts: Vec::new(),
        });
        blob.is_new = true;
    }
}

/// Redirects to a signed address of the completed content.
pub(super) fn download(
    request: &ApiRequest<'_>,
    state: &State,
    id: &str,
) -> Result<Reply, Refusal> {
    let file = file(request, state, id)?;
    let blob = file.blob.as_ref();
    let blob = blob.ok_or_else(|| refuse(404, "FileNotFound", "The file has no content."))?;
    let disposition = attachment(&file.display_name);
    let grant = Grant {
        blob,
        permissions: "r",
        disposition: &disposition,
    };
    let href = address(request, state, grant, expiry(request));
    Ok(reply::with(302, &[("location", &href)], ""))
}
