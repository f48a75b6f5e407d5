//! iTwins: what a client needs for its setup.

use serde_json::{Value, json};
use uuid::Uuid;

use super::access;
use super::model::{ACCOUNT, Itwin, State, member_id};
use super::paging::Pages;
use super::reply::{self, Refusal, Reply, invalid, itwin_not_found, refuse, unknown};
use super::request::{ApiRequest, text};

/// Default page size.
const PAGE: usize = 100;

/// Maximum number of recently used iTwins.
///
/// Source: developer.bentley.com/apis/itwins/operations/get-my-recently-used-itwins/
const RECENTS_MAX: usize = 25;

const INVALID: &str = "InvalidiTwinsRequest";

/// Classes with their subclasses.
const CLASSES: [(&str, &[&str]); 3] = [
    ("Account", &["Account"]),
    ("Thing", &["Asset", "Portfolio"]),
    ("Endeavor", &["Project", "Program", "WorkPackage"]),
];

/// Properties that can filter a list.
const FILTERS: [&str; 6] = [
    "displayName",
    "number",
    "type",
    "status",
    "parentId",
    "iTwinAccountId",
];

pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let path = request.path();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["itwins"]) => list(request, state.itwins.values().collect()),
        ("POST", ["itwins"]) => create(request, state),
        ("GET", ["itwins", "myprimaryaccount"]) => Ok(account()),
        ("GET", ["itwins", "favorites" | "recents"]) => {
            let lists = if path[1] == "favorites" {
                &state.favorites
            } else {
                &state.recents
            };
            let ids = lists.get(&request.client_id).into_iter().flatten();
            list(request, ids.filter_map(|id| state.itwins.get(id)).collect())
        }
        ("POST", ["itwins", kind @ ("favorites" | "recents"), _])
        | ("DELETE", ["itwins", kind @ "favorites", _]) => {
            let id = itwin_in_path(request, state, 2)?.id.clone();
            let lists = if *kind == "favorites" {
                &mut state.favorites
            } else {
                &mut state.recents
            };
            let list = lists.entry(request.client_id.clone()).or_default();
            list.retain(|listed| *listed != id);
            if request.method == "POST" {
                list.insert(0, id);
            }
            if *kind == "recents" {
                list.truncate(RECENTS_MAX);
            }
            Ok(reply::empty(204))
        }
        ("GET", ["itwins", _, "account"]) => {
            itwin_in_path(request, state, 1)?;
            Ok(account())
        }
        ("GET", ["itwins", _]) => Ok(response(200, itwin_in_path(request, state, 1)?)),
        ("PATCH", ["itwins", _]) => {
            let changes = checked_properties(request, false)?;
            let mut itwin = itwin_in_path(request, state, 1)?.clone();
            for (name, value) in changes {
                match (name.as_str(), value.as_str()) {
                    ("displayName", Some(name)) => name.clone_into(&mut itwin.display_name),
                    _ => drop(itwin.properties.insert(name, value)),
                }
            }
            let answer = response(200, &itwin);
            state.itwins.insert(itwin.id.clone(), itwin);
            Ok(answer)
        }
        ("DELETE", ["itwins", _]) => {
            let id = itwin_in_path(request, state, 1)?.id.clone();
            state.remove_itwin(&id);
            Ok(reply::empty(204))
        }
        _ => Err(unknown()),
    }
}

/// The account that all iTwins belong to.
///
/// Source: developer.bentley.com/apis/itwins/operations/get-my-primary-account/
fn account() -> Reply {
    let account = json!({
        "id": ACCOUNT, "class": "Account", "subClass": "Account", "type": null,
        "number": "Emulated organization", "displayName": "Emulated organization",
    });
    reply::json(200, &json!({ "iTwin": account }))
}

/// The iTwin in a segment of the path; 404 for a caller who is not a member.
fn itwin_in_path<'s>(
    request: &ApiRequest<'_>,
    state: &'s State,
    at: usize,
) -> Result<&'s Itwin, Refusal> {
    let id = request.segment(at);
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "The value is not a UUID."));
    }
    state
        .itwins
        .get(&id.to_ascii_lowercase())
        .filter(|itwin| access::is_member(request, itwin))
        .ok_or_else(itwin_not_found)
}

/// The checked properties of a body; `whole` requires those that every iTwin has.
fn checked_properties(
    request: &ApiRequest<'_>,
    whole: bool,
) -> Result<serde_json::Map<String, Value>, Refusal> {
    let body = request.json(INVALID)?;
    for name in ["displayName", "class", "subClass"] {
        if text(&body, name, INVALID)?.is_none_or(str::is_empty) && (whole || !body[name].is_null())
        {
            return Err(invalid(INVALID, name, "The value is missing."));
        }
    }
    for name in ["number", "type", "status", "parentId", "dataCenterLocation"] {
        text(&body, name, INVALID)?;
    }
    let name = body["displayName"].as_str().unwrap_or_default();
    if name.chars().count() > 255 {
        return Err(invalid(
            INVALID,
            "displayName",
            "The name must have at most 255 characters.",
        ));
    }
    let (class, sub_class) = (body["class"].as_str(), body["subClass"].as_str());
    if let (Some(class), Some(sub_class)) = (class, sub_class) {
        let fits = CLASSES
            .iter()
            .any(|(known, subs)| *known == class && subs.contains(&sub_class));
        if !fits {
            return Err(invalid(
                INVALID,
                "subClass",
                "The subclass does not belong to the class.",
            ));
        }
    }
    match body {
        Value::Object(properties) => Ok(properties),
        _ => Err(invalid(INVALID, "body", "The body is not an object.")),
    }
}

fn create(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let mut properties = checked_properties(request, true)?;
    let display_name = properties.remove("displayName");
    let display_name = display_name
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or_default();
    let id = Uuid::new_v4().to_string();
    for (name, value) in [
        ("number", json!(id)),
        ("status", json!("Active")),
        ("parentId", json!(ACCOUNT)),
        ("iTwinAccountId", json!(ACCOUNT)),
        ("dataCenterLocation", json!("East US")),
        ("createdBy", json!(member_id(&request.client_id))),
    ] {
        properties.entry(name).or_insert(value);
    }
    let taken = state
        .itwins
        .values()
        .any(|itwin| itwin.properties.get("number") == properties.get("number"));
    if taken {
        return Err(refuse(
            409,
            "iTwinExists",
            "iTwin already exists within this account with the same number.",
        ));
    }
    let mut itwin = Itwin {
        id,
        display_name: display_name.to_owned(),
        created_at: request.now,
        properties,
        members: Vec::new(),
        roles: Vec::new(),
    };
    access::add_owner(request.shared, &mut itwin, &request.client_id);
    let answer = response(201, &itwin);
    state.add_itwin(itwin);
    Ok(answer)
}

/// A page of these iTwins; favorites and recents keep their order unless the request has another.
fn list(request: &ApiRequest<'_>, itwins: Vec<&Itwin>) -> Result<Reply, Refusal> {
    let classes = request.query("subClass").map(|wanted| wanted.split(','));
    let classes: Vec<&str> = classes.into_iter().flatten().map(str::trim).collect();
    let is_known = |class: &&str| CLASSES.iter().any(|(_, subs)| subs.contains(class));
    if !classes.iter().all(is_known) {
        return Err(invalid(INVALID, "subClass", "The value is unknown."));
    }
    let (status, inactive) = (request.query("status"), request.query("includeInactive"));
    if status.is_some() && inactive.is_some() {
        let what = "The parameter cannot be combined with status.";
        return Err(invalid(INVALID, "includeInactive", what));
    }
    let inactive = inactive == Some("true") || status.is_some();
    let mut found: Vec<Value> = itwins
        .into_iter()
        .filter(|itwin| access::is_member(request, itwin))
        .map(itwin_json)
        .filter(|itwin| inactive || itwin["status"] == "Active")
        .filter(|itwin| {
            classes.is_empty()
                || itwin["subClass"]
                    .as_str()
                    .is_some_and(|class| classes.contains(&class))
        })
        .filter(|itwin| {
            FILTERS.iter().all(|name| {
                request
                    .query(name)
                    .is_none_or(|wanted| itwin[*name] == wanted)
            })
        })
        .filter(|itwin| {
            request.query("$search").is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                let has = |name: &str| {
                    itwin[name]
                        .as_str()
                        .is_some_and(|text| text.to_lowercase().contains(&wanted))
                };
                has("displayName") || has("number")
            })
        })
        .collect();
    let order = request.query("$orderBy");
    let is_personal = request.path_lower.len() > 1;
    if order.is_some() || !is_personal {
        let order = order.unwrap_or("createdDateTime");
        let (by, direction) = order.split_once(' ').unwrap_or((order, "asc"));
        let key = |itwin: &Value| (itwin[by].to_string(), itwin["id"].to_string());
        found.sort_by_key(key);
        if direction == "desc" {
            found.reverse();
        }
    }
    let (page, links) = request.page(found, &Pages::while_more(PAGE, INVALID))?;
    Ok(reply::json(
        200,
        &json!({ "iTwins": page, "_links": links }),
    ))
}

fn response(status: u16, itwin: &Itwin) -> Reply {
    reply::json(status, &json!({ "iTwin": itwin_json(itwin) }))
}

fn itwin_json(itwin: &Itwin) -> Value {
    let mut shown = Value::Object(itwin.properties.clone());
    shown["id"] = json!(itwin.id);
    shown["displayName"] = json!(itwin.display_name);
    shown["createdDateTime"] = json!(format!("{:.7}", itwin.created_at));
    shown
}
