//! iModels: as much as a client needs to set itself up and to find the iTwin.

use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{Ask, Next, text, unknown};
use super::model::{Imodel, State, member_id};
use super::reply::{self, Refusal, Reply, invalid, refuse};

/// Items on a page.
const PAGE: usize = 1000;

const INVALID: &str = "InvalidiModelsRequest";

pub(super) fn answer(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    match (ask.method.as_str(), words.as_slice()) {
        ("GET", ["imodels"]) => list(ask, state),
        ("POST", ["imodels"]) => create(ask, state),
        ("GET", ["imodels", _]) => Ok(one(ask, 200, known(ask, state)?)),
        ("PATCH", ["imodels", _]) => {
            let mut imodel = known(ask, state)?.clone();
            let body = ask.json(INVALID)?;
            if let Some(name) = name_of(&body)? {
                imodel.display_name = name;
            }
            if let Some(description) = text(&body, "description", INVALID)? {
                imodel.description = Some(description.to_owned());
            }
            if !body["extent"].is_null() {
                imodel.extent = Some(body["extent"].clone());
            }
            let answer = one(ask, 200, &imodel);
            state.imodels.insert(imodel.id.clone(), imodel);
            Ok(answer)
        }
        ("DELETE", ["imodels", _]) => {
            let id = known(ask, state)?.id.clone();
            state.remove_imodel(&id);
            Ok(reply::empty(204))
        }
        _ => Err(unknown()),
    }
}

fn not_found() -> Refusal {
    refuse(404, "iModelNotFound", "Requested iModel is not available.")
}

fn known<'s>(ask: &Ask<'_>, state: &'s State) -> Result<&'s Imodel, Refusal> {
    let id = ask.segment(1);
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iModelId", "It is no UUID."));
    }
    ask.may_use_imodel(id)?;
    state
        .imodels
        .get(&id.to_ascii_lowercase())
        .ok_or_else(not_found)
}

/// The name in a body, under its new or its old property.
fn name_of(body: &Value) -> Result<Option<String>, Refusal> {
    let name = match text(body, "displayName", INVALID)? {
        Some(name) => Some(name),
        None => text(body, "name", INVALID)?,
    };
    if name.is_some_and(|name| name.is_empty() || name.chars().count() > 255) {
        return Err(invalid(
            INVALID,
            "name",
            "It must have 1 to 255 characters.",
        ));
    }
    Ok(name.map(str::to_owned))
}

fn create(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let body = ask.json(INVALID)?;
    let display_name = name_of(&body)?.ok_or_else(|| invalid(INVALID, "name", "It is missing."))?;
    let itwin_id = text(&body, "iTwinId", INVALID)?.unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is no UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    if !state.itwins.contains_key(&itwin_id) {
        return Err(refuse(
            404,
            "iTwinNotFound",
            "Requested iTwin is not available.",
        ));
    }
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
    let imodel = Imodel {
        id: Uuid::new_v4().to_string(),
        itwin_id,
        display_name,
        description: text(&body, "description", INVALID)?.map(str::to_owned),
        extent: Some(body["extent"].clone()).filter(|extent| !extent.is_null()),
        created_at: ask.now,
    };
    let answer = one(ask, 201, &imodel);
    state.imodels.insert(imodel.id.clone(), imodel);
    Ok(answer)
}

fn list(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    let itwin_id = ask.query("iTwinId").unwrap_or_default();
    if Uuid::parse_str(itwin_id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is no UUID."));
    }
    let itwin_id = itwin_id.to_ascii_lowercase();
    if !state.itwins.contains_key(&itwin_id) {
        return Err(refuse(
            404,
            "iTwinNotFound",
            "Requested iTwin is not available.",
        ));
    }
    let mut found: Vec<&Imodel> = state
        .imodels
        .values()
        .filter(|imodel| imodel.itwin_id == itwin_id)
        .filter(|imodel| {
            let name = ask.query("displayName").or(ask.query("name"));
            name.is_none_or(|name| imodel.display_name == name)
        })
        .filter(|imodel| {
            ask.query("$search").is_none_or(|wanted| {
                let description = imodel.description.as_deref().unwrap_or_default();
                imodel.display_name.contains(wanted) || description.contains(wanted)
            })
        })
        .collect();
    let order = ask.query("$orderBy").unwrap_or("createdDateTime");
    let (by, direction) = order.split_once(' ').unwrap_or((order, "asc"));
    if by == "displayName" || by == "name" {
        found.sort_by_key(|imodel| &imodel.display_name);
    } else {
        found.sort_by_key(|imodel| imodel.created_at);
    }
    if direction == "desc" {
        found.reverse();
    }
    let (page, links) = ask.page(found, PAGE, Next::WhileMore, INVALID)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|imodel| {
            if ask.wants_representation() {
                shown(ask, imodel)
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

fn one(ask: &Ask<'_>, status: u16, imodel: &Imodel) -> Reply {
    reply::json(status, &json!({ "iModel": shown(ask, imodel) }))
}

fn shown(ask: &Ask<'_>, imodel: &Imodel) -> Value {
    let api = &ask.shared.api_url;
    let (id, creator) = (&imodel.id, member_id(&ask.client_id));
    json!({
        "id": id, "displayName": imodel.display_name, "name": imodel.display_name,
        "description": imodel.description, "state": "initialized", "createdDateTime": format!("{:.7}", imodel.created_at),
        "lastChangesetPushDateTime": null, "iTwinId": imodel.itwin_id, "dataCenterLocation": "East US",
        "isSecured": false, "extent": imodel.extent, "containersEnabled": 1,
        "_links": {
            "creator": { "href": format!("{api}/imodels/{id}/users/{creator}") },
            "changesets": { "href": format!("{api}/imodels/{id}/changesets") },
            "namedVersions": { "href": format!("{api}/imodels/{id}/namedversions") },
            "upload": null, "complete": null,
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
        }
    }
}
