//! Connector settings for an iTwin, an iModel or a connection; the narrower scope overrides the wider one.
//!
//! Source: developer.bentley.com/apis/synchronization/operations/ get-itwin-configuration,
//! create-imodel-configuration, create-connection-configuration.

use serde_json::{Map, Value, json};

use crate::emulator::access;
use crate::emulator::model::State;
use crate::emulator::reply::{
    self, Refusal, Reply, imodel_not_found, insufficient, itwin_not_found, refuse, unknown,
};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::UnknownSetting;

const INVALID: &str = "InvalidConfigurationRequest";

/// Where a setting can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Anywhere,
    Imodel,
    Connection,
}

/// The default of a setting; its value has the same type.
enum Default {
    Flag(bool),
    Number(u64),
}

/// Settings, where each can be set, and their defaults.
const SETTINGS: [(&str, Scope, Default); 17] = [
    ("clampZExtent", Scope::Imodel, Default::Flag(false)),
    (
        "convertDgnHyperModelingSections",
        Scope::Anywhere,
        Default::Flag(true),
    ),
    (
        "convertDgnTerrainModels",
        Scope::Anywhere,
        Default::Flag(false),
    ),
    (
        "enableC3dGraphsIn2dModel",
        Scope::Connection,
        Default::Flag(false),
    ),
    (
        "enableFileNamePolicy",
        Scope::Anywhere,
        Default::Flag(false),
    ),
    ("enableSheetIndex", Scope::Connection, Default::Flag(false)),
    (
        "enableSheetsAndDrawings",
        Scope::Anywhere,
        Default::Flag(false),
    ),
    (
        "filterBySheetIndex",
        Scope::Connection,
        Default::Flag(false),
    ),
    (
        "ignoreDgnAttachments",
        Scope::Anywhere,
        Default::Flag(false),
    ),
    ("ignoreIfcGlobalIds", Scope::Imodel, Default::Flag(false)),
    (
        "overrideRvtReprojectionDistance",
        Scope::Imodel,
        Default::Number(0),
    ),
    (
        "processReferenceFiles",
        Scope::Anywhere,
        Default::Flag(true),
    ),
    (
        "reclassifyDgnElements",
        Scope::Connection,
        Default::Flag(false),
    ),
    ("skipRvtReprojection", Scope::Anywhere, Default::Flag(false)),
    (
        "squashIntermediateRevisions",
        Scope::Anywhere,
        Default::Flag(false),
    ),
    ("updateProjectExtents", Scope::Anywhere, Default::Flag(true)),
    (
        "uploadDgnRealityData",
        Scope::Anywhere,
        Default::Flag(false),
    ),
];

/// Handles `/synchronization/configurations/{itwins|imodels|connections}/{id}`.
pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let kind = request.path_lower.get(2).cloned().unwrap_or_default();
    let scopes = scopes(request, state, &kind)?;
    let scope = scopes.last().cloned().unwrap_or_default();
    let missing = || {
        let message = "Requested Configuration is not available.";
        refuse(404, "ConfigurationNotFound", message)
    };
    let known = state.configurations.get(&scope).cloned();
    match request.method.as_str() {
        "GET" => {
            known.ok_or_else(missing)?;
            Ok(shown(request, state, 200, &scopes))
        }
        "POST" => {
            let status = if known.is_some() { 200 } else { 201 };
            state
                .configurations
                .insert(scope, settings(request, &kind)?);
            Ok(shown(request, state, status, &scopes))
        }
        "PATCH" => {
            let mut known = known.ok_or_else(missing)?;
            known.extend(settings(request, &kind)?);
            state.configurations.insert(scope, known);
            Ok(shown(request, state, 200, &scopes))
        }
        "DELETE" => {
            known.ok_or_else(missing)?;
            state.configurations.remove(&scope);
            Ok(reply::empty(204))
        }
        _ => Err(unknown()),
    }
}

/// The scopes that apply to the one in the path, from the widest to itself.
fn scopes(request: &ApiRequest<'_>, state: &State, kind: &str) -> Result<Vec<String>, Refusal> {
    let id = request.segment(3);
    let connection = match kind {
        "itwins" | "imodels" => None,
        "connections" => Some(state.connections.get(id).ok_or_else(|| {
            let message = "Requested storage connection is not available.";
            refuse(404, "StorageConnectionNotFound", message)
        })?),
        _ => return Err(unknown()),
    };
    let imodel_id = match connection {
        Some(connection) => Some(connection.imodel_id.clone()),
        None => (kind == "imodels").then(|| id.to_ascii_lowercase()),
    };
    let imodel = match &imodel_id {
        Some(id) => Some(state.imodels.get(id).ok_or_else(imodel_not_found)?),
        None => None,
    };
    let itwin_id = imodel.map_or_else(|| id.to_ascii_lowercase(), |imodel| imodel.itwin_id.clone());
    let itwin = state.itwins.get(&itwin_id).ok_or_else(itwin_not_found)?;
    let permission = if request.method == "GET" {
        "imodels_webview"
    } else {
        "imodels_manage"
    };
    if !access::has(request, itwin, permission) {
        return Err(insufficient());
    }
    let mut scopes = vec![format!("itwins/{itwin_id}")];
    scopes.extend(imodel_id.map(|id| format!("imodels/{id}")));
    scopes.extend(connection.map(|connection| format!("connections/{}", connection.id)));
    Ok(scopes)
}

/// The checked settings in a body.
fn settings(request: &ApiRequest<'_>, kind: &str) -> Result<Map<String, Value>, Refusal> {
    let body = request.json(INVALID)?;
    let settings = if body["settings"].is_object() {
        &body["settings"]
    } else {
        &body
    };
    let mut settings = settings.as_object().cloned().unwrap_or_default();
    let known = |name: &str| {
        let found = SETTINGS.iter().find(|(known, _, _)| *known == name);
        found.filter(|(_, scope, _)| match scope {
            Scope::Anywhere => true,
            Scope::Imodel => kind == "imodels",
            Scope::Connection => kind == "connections",
        })
    };
    if request.switches.unknown_setting == UnknownSetting::Ignored {
        settings.retain(|name, _| known(name).is_some());
    }
    for (name, value) in &settings {
        let Some((_, _, default)) = known(name) else {
            let detail = format!("The setting {name} is unknown.");
            return Err(refuse(422, INVALID, detail));
        };
        let (fits, expected) = match default {
            Default::Flag(_) => (value.is_boolean(), "true or false"),
            Default::Number(_) => (value.is_u64(), "a whole number"),
        };
        if !fits {
            let detail = format!("The setting {name} must be {expected}.");
            return Err(refuse(422, INVALID, detail));
        }
    }
    Ok(settings)
}

fn shown(request: &ApiRequest<'_>, state: &State, status: u16, scopes: &[String]) -> Reply {
    let defaults = SETTINGS.iter().map(|(name, _, default)| {
        let value = match default {
            Default::Flag(on) => json!(on),
            Default::Number(number) => json!(number),
        };
        ((*name).to_owned(), value)
    });
    let mut resolved: Map<String, Value> = defaults.collect();
    let mut own = Map::new();
    for scope in scopes {
        own = state.configurations.get(scope).cloned().unwrap_or_default();
        resolved.extend(own.clone());
    }
    let configuration = json!({
        "scopeId": request.segment(3), "settings": own, "resolvedSettings": resolved,
    });
    reply::json(status, &json!({ "configuration": configuration }))
}
