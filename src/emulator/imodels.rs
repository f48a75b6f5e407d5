//! iModels: what a client needs for its setup and to find the iTwin. Everything below one is in [`versions`].
//!
//! Source: developer.bentley.com/apis/imodels-v2/operations/ create-imodel, get-itwin-imodels, get-imodel-details

mod lookup;
mod versions;

use serde_json::{Value, json};
use uuid::Uuid;

use super::access;
use super::addresses::upload_address;
use super::model::{Blob, Imodel, State, member_id};
use super::reply::{
    self, Refusal, Reply, imodel_not_found, insufficient, invalid, itwin_not_found, refuse, unknown,
};
use super::request::{ApiRequest, text};
use super::switches::{CreateLimit, NewImodelList, NewImodelState};

use lookup::{INVALID, PAGES, description_of, imodel_in_path, name_of};

/// Reads after which a new iModel is initialized, with the switch for that.
const READS_LEFT: u32 = 3;

pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let path = request.path();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["imodels"]) => list(request, state),
        ("POST", ["imodels"]) => create(request, state),
        ("GET", ["imodels", _]) => {
            let imodel = imodel_in_path(request, state, "imodels_webview")?.clone();
            if let Some(kept) = state.imodels.get_mut(&imodel.id)
                && kept.reads_left > 0
            {
                kept.reads_left -= 1;
                kept.initialized = kept.reads_left == 0;
            }
            Ok(response(request, 200, &imodel, None))
        }
        ("PATCH", ["imodels", _]) => {
            let mut imodel = imodel_in_path(request, state, "imodels_manage")?.clone();
            let body = request.json(INVALID)?;
            if let Some(name) = name_of(&body)? {
                imodel.display_name = name;
            }
            if let Some(description) = description_of(&body)? {
                imodel.description = Some(description);
            }
            if !body["extent"].is_null() {
                imodel.extent = Some(body["extent"].clone());
            }
            if let Some(containers) = containers_of(&body)? {
                imodel.containers_enabled = containers;
            }
            let answer = response(request, 200, &imodel, None);
            state.imodels.insert(imodel.id.clone(), imodel);
            Ok(answer)
        }
        ("DELETE", ["imodels", _]) => {
            let id = imodel_in_path(request, state, "imodels_manage")?.id.clone();
            state.remove_imodel(&id);
            Ok(reply::empty(204))
        }
        ("POST", ["imodels", _, "complete"]) => complete(request, state),
        ("GET", ["imodels", _, "operations", "create"]) => {
            let imodel = imodel_in_path(request, state, "imodels_webview")?;
            let word = if imodel.initialized {
                "successful"
            } else if imodel.creation_failed {
                "failed"
            } else if imodel.reads_left > 0 {
                "scheduled"
            } else {
                "waitingForFile"
            };
            let details = json!({ "state": word, "clonedFrom": null, "forkedFrom": null });
            Ok(reply::json(200, &json!({ "createOperation": details })))
        }
        (_, ["imodels", _, rest @ ..]) => versions::handle(request, state, rest),
        _ => Err(unknown()),
    }
}

/// The enabled containers: bits for schema synchronization, codes and views.
fn containers_of(body: &Value) -> Result<Option<u64>, Refusal> {
    match &body["containersEnabled"] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|bits| *bits < 8) {
            Some(bits) => Ok(Some(bits)),
            None => Err(invalid(
                INVALID,
                "containersEnabled",
                "The value must be 0 to 7.",
            )),
        },
    }
}

/// What a new iModel is created from.
enum Origin {
    Empty,
    /// Content that is uploaded and completed first.
    Baseline,
}

/// The creation mode in a body. Not all names for empty iModels are documented: whatever starts with `empty` counts as
/// one.
fn origin_of(body: &Value, state: &State) -> Result<Origin, Refusal> {
    let mode = text(body, "creationMode", INVALID)?;
    let has_baseline = body["baselineFile"].is_object();
    match mode.map(str::to_ascii_lowercase).as_deref() {
        Some("frombaseline") if has_baseline => Ok(Origin::Baseline),
        None if has_baseline => Ok(Origin::Baseline),
        Some("frombaseline") => Err(invalid(INVALID, "baselineFile", "The value is missing.")),
        Some("fromimodelversion") => {
            let template = body["template"]["iModelId"].as_str().unwrap_or_default();
            if state.imodels.contains_key(&template.to_ascii_lowercase()) {
                Ok(Origin::Empty)
            } else {
                Err(imodel_not_found())
            }
        }
        None => Ok(Origin::Empty),
        Some(mode) if mode.starts_with("empty") => Ok(Origin::Empty),
        Some(_) => Err(invalid(INVALID, "creationMode", "The value is unknown.")),
    }
}

fn create(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let body = request.json(INVALID)?;
    let display_name =
        name_of(&body)?.ok_or_else(|| invalid(INVALID, "name", "The value is missing."))?;
    let itwin_id = text(&body, "iTwinId", INVALID)?.unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "The value is not a UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    may_use_itwin(request, state, &itwin_id, "imodels_manage")?;
    let mut others = state
        .imodels
        .values_mut()
        .filter(|imodel| imodel.itwin_id == itwin_id);
    if let Some(other) = others.find(|imodel| imodel.display_name == display_name) {
        if request.switches.new_imodel_list == NewImodelList::Lagging {
            other.unlisted = false;
        }
        return Err(refuse(
            409,
            "iModelExists",
            "iModel already exists within the iTwin with the same name.",
        ));
    }
    check_create_limit(request, state, &itwin_id)?;
    let description = description_of(&body)?;
    let containers = containers_of(&body)?;
    let from_baseline = matches!(origin_of(&body, state)?, Origin::Baseline);
    let mut imodel = Imodel::new(
        &Uuid::new_v4().to_string(),
        &itwin_id,
        &display_name,
        request.now,
    );
    imodel.description = description;
    imodel.extent = Some(body["extent"].clone()).filter(|extent| !extent.is_null());
    imodel.creator.clone_from(&request.client_id);
    imodel.initialized = !from_baseline;
    if !from_baseline {
        match request.switches.new_imodel {
            NewImodelState::Initialized => {}
            NewImodelState::Later => {
                imodel.initialized = false;
                imodel.reads_left = READS_LEFT;
            }
            NewImodelState::Failed => {
                imodel.initialized = false;
                imodel.creation_failed = true;
            }
        }
    }
    imodel.unlisted = request.switches.new_imodel_list != NewImodelList::Current;
    imodel.containers_enabled = containers.unwrap_or(imodel.containers_enabled);
    let upload = from_baseline.then(|| {
        let blob = Uuid::new_v4().simple().to_string();
        let href = upload_address(request, state, &blob);
        state.blobs.insert(blob.clone(), Blob::default());
        imodel.baseline = Some(blob);
        href
    });
    let answer = response(request, 201, &imodel, upload);
    state.imodels.insert(imodel.id.clone(), imodel);
    Ok(answer)
}

/// Refuses another new iModel of an iTwin within a minute, if they are limited.
fn check_create_limit(
    request: &ApiRequest<'_>,
    state: &State,
    itwin_id: &str,
) -> Result<(), Refusal> {
    let is_new = |imodel: &&Imodel| {
        let age = request.now.duration_since(imodel.created_at);
        imodel.itwin_id == itwin_id && !imodel.creator.is_empty() && age.as_secs() < 60
    };
    let created = state.imodels.values().filter(is_new).count();
    if request.switches.create_limit == CreateLimit::Five && created >= 5 {
        let what = "The client sent more requests than allowed.";
        return Err(refuse(429, "RateLimitExceeded", what));
    }
    Ok(())
}

/// Confirms that the baseline was uploaded.
fn complete(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let imodel = imodel_in_path(request, state, "imodels_manage")?;
    let blob = imodel
        .baseline
        .as_ref()
        .and_then(|blob| state.blobs.get(blob));
    let size = blob
        .and_then(|blob| blob.content.as_ref())
        .map(|content| content.size);
    let Some(size) = size else {
        return Err(invalid(INVALID, "baselineFile", "No content was uploaded."));
    };
    let id = imodel.id.clone();
    if let Some(imodel) = state.imodels.get_mut(&id) {
        imodel.initialized = true;
    }
    let file = json!({
        "id": id, "displayName": format!("{id}.bim"), "fileSize": size, "state": "initializationScheduled",
    });
    Ok(reply::json(200, &json!({ "baselineFile": file })))
}

fn may_use_itwin(
    request: &ApiRequest<'_>,
    state: &State,
    itwin_id: &str,
    permission: access::Permission,
) -> Result<(), Refusal> {
    let Some(itwin) = state.itwins.get(itwin_id) else {
        return Err(itwin_not_found());
    };
    if access::has(request, itwin, permission) {
        Ok(())
    } else {
        Err(insufficient())
    }
}

fn list(request: &ApiRequest<'_>, state: &State) -> Result<Reply, Refusal> {
    let itwin_id = request.query("iTwinId").unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "The value is not a UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    may_use_itwin(request, state, &itwin_id, "imodels_webview")?;
    let initialized = match request.query("state") {
        None => None,
        Some("initialized") => Some(true),
        Some("notInitialized") => Some(false),
        Some(_) => return Err(invalid(INVALID, "state", "The value is unknown.")),
    };
    let mut found: Vec<&Imodel> = state
        .imodels
        .values()
        .filter(|imodel| imodel.itwin_id == itwin_id && !imodel.unlisted)
        .filter(|imodel| initialized.is_none_or(|wanted| imodel.initialized == wanted))
        .filter(|imodel| {
            let name = request.query("displayName").or(request.query("name"));
            name.is_none_or(|name| imodel.display_name == name)
        })
        .filter(|imodel| {
            request.query("$search").is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                let description = imodel.description.as_deref().unwrap_or_default();
                imodel.display_name.to_lowercase().contains(&wanted)
                    || description.to_lowercase().contains(&wanted)
            })
        })
        .collect();
    let order = request.query("$orderBy").unwrap_or("createdDateTime");
    let (by, direction) = order.split_once(' ').unwrap_or((order, "asc"));
    if !["name", "displayName", "createdDateTime"].contains(&by) {
        return Err(invalid(INVALID, "$orderBy", "The value is unknown."));
    }
    if by == "createdDateTime" {
        found.sort_by_key(|imodel| (imodel.created_at, &imodel.id));
    } else {
        found.sort_by_key(|imodel| (&imodel.display_name, &imodel.id));
    }
    if direction == "desc" {
        found.reverse();
    }
    let (page, links) = request.page(found, &PAGES)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|imodel| {
            if request.wants_representation() {
                imodel_json(request, imodel, None)
            } else {
                json!({ "id": imodel.id, "displayName": imodel.display_name, "dataCenterLocation": "East US" })
            }
        })
        .collect();
    Ok(reply::json(
        200,
        &json!({ "iModels": items, "_links": links }),
    ))
}

fn response(
    request: &ApiRequest<'_>,
    status: u16,
    imodel: &Imodel,
    upload: Option<String>,
) -> Reply {
    reply::json(
        status,
        &json!({ "iModel": imodel_json(request, imodel, upload) }),
    )
}

fn imodel_json(request: &ApiRequest<'_>, imodel: &Imodel, upload: Option<String>) -> Value {
    let api = &request.shared.api_url;
    let (id, creator) = (&imodel.id, member_id(&imodel.creator));
    let pushed = imodel
        .changesets
        .last()
        .map(|last| format!("{:.7}", last.pushed_at));
    let complete = upload
        .as_ref()
        .map(|_| json!({ "href": format!("{api}/imodels/{id}/complete") }));
    json!({
        "id": id, "displayName": imodel.display_name, "name": imodel.display_name,
        "description": imodel.description, "state": if imodel.initialized { "initialized" } else { "notInitialized" },
        "createdDateTime": format!("{:.7}", imodel.created_at),
        "lastChangesetPushDateTime": pushed, "iTwinId": imodel.itwin_id, "dataCenterLocation": "East US",
        "isSecured": false, "extent": imodel.extent, "containersEnabled": imodel.containers_enabled,
        "_links": {
            "creator": { "href": format!("{api}/imodels/{id}/users/{creator}") },
            "changesets": { "href": format!("{api}/imodels/{id}/changesets") },
            "namedVersions": { "href": format!("{api}/imodels/{id}/namedversions") },
            "upload": upload.map(|href| json!({ "href": href })), "complete": complete,
        },
    })
}
