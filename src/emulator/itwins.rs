//! iTwins: as much as a client needs to set itself up.

use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{Ask, Next, text, unknown};
use super::model::{Itwin, State, member_id};
use super::reply::{self, Refusal, Reply, invalid, refuse};

/// Items on a page.
const PAGE: usize = 1000;

const INVALID: &str = "InvalidiTwinsRequest";

/// The account that iTwins without a parent belong to.
const ACCOUNT: &str = "99999999-8888-4777-8666-555555555555";

/// Classes with their subclasses.
const CLASSES: [(&str, &[&str]); 3] = [
    ("Account", &["Account"]),
    ("Thing", &["Asset", "Portfolio"]),
    ("Endeavor", &["Project", "Program", "WorkPackage"]),
];

/// Properties that a list can be narrowed down by.
const FILTERS: [&str; 6] = [
    "displayName",
    "number",
    "type",
    "status",
    "parentId",
    "subClass",
];

pub(super) fn answer(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    match (ask.method.as_str(), words.as_slice()) {
        ("GET", ["itwins"]) => list(ask, state),
        ("POST", ["itwins"]) => create(ask, state),
        ("GET", ["itwins", _]) => Ok(one(200, known(ask, state)?)),
        ("PATCH", ["itwins", _]) => {
            let changes = checked(ask, false)?;
            let mut itwin = known(ask, state)?.clone();
            for (name, value) in changes {
                match (name.as_str(), value.as_str()) {
                    ("displayName", Some(name)) => name.clone_into(&mut itwin.display_name),
                    _ => drop(itwin.properties.insert(name, value)),
                }
            }
            let answer = one(200, &itwin);
            state.itwins.insert(itwin.id.clone(), itwin);
            Ok(answer)
        }
        ("DELETE", ["itwins", _]) => {
            let id = known(ask, state)?.id.clone();
            state.remove_itwin(&id);
            Ok(reply::empty(204))
        }
        _ => Err(unknown()),
    }
}

fn known<'s>(ask: &Ask<'_>, state: &'s State) -> Result<&'s Itwin, Refusal> {
    let id = ask.segment(1);
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iTwinId", "It is no UUID."));
    }
    state
        .itwins
        .get(&id.to_ascii_lowercase())
        .ok_or_else(|| refuse(404, "iTwinNotFound", "Requested iTwin is not available."))
}

/// The properties of a body; `whole` demands those that every iTwin has.
fn checked(ask: &Ask<'_>, whole: bool) -> Result<serde_json::Map<String, Value>, Refusal> {
    let body = ask.json(INVALID)?;
    for name in ["displayName", "class", "subClass"] {
        if text(&body, name, INVALID)?.is_none_or(str::is_empty) && (whole || !body[name].is_null())
        {
            return Err(invalid(INVALID, name, "It is missing."));
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
            "It has more than 255 characters.",
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
                "It does not go with the class.",
            ));
        }
    }
    match body {
        Value::Object(properties) => Ok(properties),
        _ => Err(invalid(INVALID, "body", "It is no object.")),
    }
}

fn create(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let mut properties = checked(ask, true)?;
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
        ("createdBy", json!(member_id(&ask.client_id))),
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
    let itwin = Itwin {
        id,
        display_name: display_name.to_owned(),
        created_at: ask.now,
        properties,
    };
    let answer = one(201, &itwin);
    state.add_itwin(itwin);
    Ok(answer)
}

fn list(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    if let Some(wanted) = ask.query("subClass")
        && !CLASSES.iter().any(|(_, subs)| subs.contains(&wanted))
    {
        return Err(invalid(INVALID, "subClass", "It is unknown."));
    }
    let inactive = ask.query("includeInactive") == Some("true") || ask.query("status").is_some();
    let mut found: Vec<Value> = state
        .itwins
        .values()
        .map(shown)
        .filter(|itwin| inactive || itwin["status"] == "Active")
        .filter(|itwin| {
            ask.query("iTwinAccountId")
                .is_none_or(|account| itwin["iTwinAccountId"] == account)
        })
        .filter(|itwin| {
            FILTERS
                .iter()
                .all(|name| ask.query(name).is_none_or(|wanted| itwin[*name] == wanted))
        })
        .filter(|itwin| {
            ask.query("$search").is_none_or(|wanted| {
                let has = |name: &str| {
                    itwin[name]
                        .as_str()
                        .is_some_and(|text| text.contains(wanted))
                };
                has("displayName") || has("number")
            })
        })
        .collect();
    found.sort_by_key(|itwin| itwin["createdDateTime"].to_string());
    let (page, links) = ask.page(found, PAGE, Next::WhileMore, INVALID)?;
    Ok(reply::json(
        200,
        &json!({ "iTwins": page, "_links": links }),
    ))
}

fn one(status: u16, itwin: &Itwin) -> Reply {
    reply::json(status, &json!({ "iTwin": shown(itwin) }))
}

fn shown(itwin: &Itwin) -> Value {
    let mut shown = Value::Object(itwin.properties.clone());
    shown["id"] = json!(itwin.id);
    shown["displayName"] = json!(itwin.display_name);
    shown["createdDateTime"] = json!(format!("{:.7}", itwin.created_at));
    shown
}

impl Itwin {
    /// An iTwin as it is set up beforehand.
    pub(super) fn new(id: &str, name: &str, now: jiff::Timestamp) -> Self {
        let properties = json!({
            "class": "Endeavor", "subClass": "Project", "number": id, "status": "Active", "parentId": ACCOUNT,
            "iTwinAccountId": ACCOUNT, "dataCenterLocation": "East US",
        });
        Self {
            id: id.to_ascii_lowercase(),
            display_name: name.to_owned(),
            created_at: now,
            properties: properties.as_object().cloned().unwrap_or_default(),
        }
    }
}
