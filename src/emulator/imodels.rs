//! iModels: as much as a client needs to set itself up and to find the iTwin; what lies below one is in [`versions`].
//!
//! Source: developer.bentley.com/apis/imodels-v2/operations/ create-imodel, get-itwin-imodels, get-imodel-details

use serde_json::{Value, json};
use uuid::Uuid;

use super::access;
use super::api::{Ask, Next, Pages, insufficient, text, unknown};
use super::model::{Blob, Imodel, State, member_id};
use super::reply::{self, Refusal, Reply, invalid, refuse};
use super::{storage, versions};

/// Items on a page that nobody asked a size for.
pub(super) const PAGE: usize = 100;

pub(super) const INVALID: &str = "InvalidiModelsRequest";

/// The longest name or description, in characters.
const TEXT_MAX: usize = 255;

/// How lists of iModels and of what they hold are paged.
///
/// Which of `$skip` and `$continuationToken` the links of the platform carry is not documented: here it is the one that the request carried.
pub(super) const PAGES: Pages = Pages {
    default: PAGE,
    cap: None,
    next: Next::WhileMore,
    has_tokens: true,
    code: INVALID,
};

pub(super) fn answer(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    match (ask.method.as_str(), words.as_slice()) {
        ("GET", ["imodels"]) => list(ask, state),
        ("POST", ["imodels"]) => create(ask, state),
        ("GET", ["imodels", _]) => Ok(one(ask, 200, known(ask, state, "imodels_webview")?, None)),
        ("PATCH", ["imodels", _]) => {
            let mut imodel = known(ask, state, "imodels_manage")?.clone();
            let body = ask.json(INVALID)?;
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
            let answer = one(ask, 200, &imodel, None);
            state.imodels.insert(imodel.id.clone(), imodel);
            Ok(answer)
        }
        ("DELETE", ["imodels", _]) => {
            let id = known(ask, state, "imodels_manage")?.id.clone();
            state.remove_imodel(&id);
            Ok(reply::empty(204))
        }
        ("POST", ["imodels", _, "complete"]) => complete(ask, state),
        ("GET", ["imodels", _, "operations", "create"]) => {
            let imodel = known(ask, state, "imodels_webview")?;
            let word = if imodel.initialized {
                "successful"
            } else {
                "waitingForFile"
            };
            let details = json!({ "state": word, "clonedFrom": null, "forkedFrom": null });
            Ok(reply::json(200, &json!({ "createOperation": details })))
        }
        (_, ["imodels", _, rest @ ..]) => versions::answer(ask, state, rest),
        _ => Err(unknown()),
    }
}

pub(super) fn not_found() -> Refusal {
    refuse(404, "iModelNotFound", "Requested iModel is not available.")
}

/// The iModel that the path names, for a caller who has the permission.
pub(super) fn known<'s>(
    ask: &Ask<'_>,
    state: &'s State,
    permission: access::Permission,
) -> Result<&'s Imodel, Refusal> {
    let id = ask.segment(1);
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iModelId", "It is not a UUID."));
    }
    ask.may_use_imodel(state, id, permission)?;
    state
        .imodels
        .get(&id.to_ascii_lowercase())
        .ok_or_else(not_found)
}

/// The name in a body, under its new or its old property.
pub(super) fn name_of(body: &Value) -> Result<Option<String>, Refusal> {
    let name = match text(body, "displayName", INVALID)? {
        Some(name) => Some(name),
        None => text(body, "name", INVALID)?,
    };
    if name.is_some_and(|name| name.is_empty() || name.chars().count() > TEXT_MAX) {
        return Err(invalid(
            INVALID,
            "name",
            "It must have 1 to 255 characters.",
        ));
    }
    Ok(name.map(str::to_owned))
}

pub(super) fn description_of(body: &Value) -> Result<Option<String>, Refusal> {
    let description = text(body, "description", INVALID)?;
    if description.is_some_and(|text| text.chars().count() > TEXT_MAX) {
        let what = "It must have at most 255 characters.";
        return Err(invalid(INVALID, "description", what));
    }
    Ok(description.map(str::to_owned))
}

/// Which containers are enabled: bits for schema synchronization, codes and views.
fn containers_of(body: &Value) -> Result<Option<u64>, Refusal> {
    match &body["containersEnabled"] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|bits| *bits < 8) {
            Some(bits) => Ok(Some(bits)),
            None => Err(invalid(INVALID, "containersEnabled", "It must be 0 to 7.")),
        },
    }
}

/// How an iModel begins.
enum Beginning {
    Empty,
    /// From content that is uploaded and completed first.
    Baseline,
}

/// The mode that a body names. The words for empty iModels are not all known: whatever begins with `empty` is one.
fn beginning(body: &Value, state: &State) -> Result<Beginning, Refusal> {
    let mode = text(body, "creationMode", INVALID)?;
    let has_baseline = body["baselineFile"].is_object();
    match mode.map(str::to_ascii_lowercase).as_deref() {
        Some("frombaseline") if has_baseline => Ok(Beginning::Baseline),
        None if has_baseline => Ok(Beginning::Baseline),
        Some("frombaseline") => Err(invalid(INVALID, "baselineFile", "It is missing.")),
        Some("fromimodelversion") => {
            let template = body["template"]["iModelId"].as_str().unwrap_or_default();
            if state.imodels.contains_key(&template.to_ascii_lowercase()) {
                Ok(Beginning::Empty)
            } else {
                Err(not_found())
            }
        }
        None => Ok(Beginning::Empty),
        Some(mode) if mode.starts_with("empty") => Ok(Beginning::Empty),
        Some(_) => Err(invalid(INVALID, "creationMode", "It is unknown.")),
    }
}

fn create(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let body = ask.json(INVALID)?;
    let display_name = name_of(&body)?.ok_or_else(|| invalid(INVALID, "name", "It is missing."))?;
    let itwin_id = text(&body, "iTwinId", INVALID)?.unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is not a UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    may_use_itwin(ask, state, &itwin_id, "imodels_manage")?;
    let mut others = state
        .imodels
        .values()
        .filter(|imodel| imodel.itwin_id == itwin_id);
    if others.any(|imodel| imodel.display_name == display_name) {
        return Err(refuse(
            409,
            "iModelExists",
            "iModel already exists within the iTwin with the same name.",
        ));
    }
    let description = description_of(&body)?;
    let containers = containers_of(&body)?;
    let from_baseline = matches!(beginning(&body, state)?, Beginning::Baseline);
    let mut imodel = Imodel::new(
        &Uuid::new_v4().to_string(),
        &itwin_id,
        &display_name,
        ask.now,
    );
    imodel.description = description;
    imodel.extent = Some(body["extent"].clone()).filter(|extent| !extent.is_null());
    imodel.creator.clone_from(&ask.client_id);
    imodel.initialized = !from_baseline;
    imodel.containers_enabled = containers.unwrap_or(imodel.containers_enabled);
    let upload = from_baseline.then(|| {
        let blob = Uuid::new_v4().simple().to_string();
        let href = storage::upload_address(ask, state, &blob);
        state.blobs.insert(blob.clone(), Blob::default());
        imodel.baseline = Some(blob);
        href
    });
    let answer = one(ask, 201, &imodel, upload);
    state.imodels.insert(imodel.id.clone(), imodel);
    Ok(answer)
}

/// Confirms that the baseline was uploaded.
fn complete(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let imodel = known(ask, state, "imodels_manage")?;
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
    ask: &Ask<'_>,
    state: &State,
    itwin_id: &str,
    permission: access::Permission,
) -> Result<(), Refusal> {
    let Some(itwin) = state.itwins.get(itwin_id) else {
        return Err(refuse(
            404,
            "iTwinNotFound",
            "Requested iTwin is not available.",
        ));
    };
    if access::has(ask, itwin, permission) {
        Ok(())
    } else {
        Err(insufficient())
    }
}

fn list(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    let itwin_id = ask.query("iTwinId").unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is not a UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    may_use_itwin(ask, state, &itwin_id, "imodels_webview")?;
    let initialized = match ask.query("state") {
        None => None,
        Some("initialized") => Some(true),
        Some("notInitialized") => Some(false),
        Some(_) => return Err(invalid(INVALID, "state", "It is unknown.")),
    };
    let mut found: Vec<&Imodel> = state
        .imodels
        .values()
        .filter(|imodel| imodel.itwin_id == itwin_id)
        .filter(|imodel| initialized.is_none_or(|wanted| imodel.initialized == wanted))
        .filter(|imodel| {
            let name = ask.query("displayName").or(ask.query("name"));
            name.is_none_or(|name| imodel.display_name == name)
        })
        .filter(|imodel| {
            ask.query("$search").is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                let description = imodel.description.as_deref().unwrap_or_default();
                imodel.display_name.to_lowercase().contains(&wanted)
                    || description.to_lowercase().contains(&wanted)
            })
        })
        .collect();
    let order = ask.query("$orderBy").unwrap_or("createdDateTime");
    let (by, direction) = order.split_once(' ').unwrap_or((order, "asc"));
    if !["name", "displayName", "createdDateTime"].contains(&by) {
        return Err(invalid(INVALID, "$orderBy", "It is unknown."));
    }
    if by == "createdDateTime" {
        found.sort_by_key(|imodel| (imodel.created_at, &imodel.id));
    } else {
        found.sort_by_key(|imodel| (&imodel.display_name, &imodel.id));
    }
    if direction == "desc" {
        found.reverse();
    }
    let (page, links) = ask.page(found, &PAGES)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|imodel| {
            if ask.wants_representation() {
                shown(ask, imodel, None)
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

fn one(ask: &Ask<'_>, status: u16, imodel: &Imodel, upload: Option<String>) -> Reply {
    reply::json(status, &json!({ "iModel": shown(ask, imodel, upload) }))
}

fn shown(ask: &Ask<'_>, imodel: &Imodel, upload: Option<String>) -> Value {
    let api = &ask.shared.api_url;
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

impl Imodel {
    /// An iModel as it is set up beforehand.
    pub(super) fn new(id: &str, itwin_id: &str, name: &str, now: jiff::Timestamp) -> Self {
        Self {
            id: id.to_ascii_lowercase(),
            itwin_id: itwin_id.to_ascii_lowercase(),
            display_name: name.to_owned(),
            description: None,
            extent: None,
            created_at: now,
            creator: String::new(),
            initialized: true,
            containers_enabled: 1,
            changesets: Vec::new(),
            named_versions: Vec::new(),
            contents: Vec::new(),
            gcs_from: None,
            baseline: None,
        }
    }
}
