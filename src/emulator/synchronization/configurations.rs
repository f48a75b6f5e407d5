//! Connector settings for an iTwin, an iModel or a connection; the narrower scope overrides the wider one.
//!
//! Source: developer.bentley.com/apis/synchronization/operations/ get-itwin-configuration,
//! create-connection-configuration

use serde_json::{Map, Value, json};

use crate::emulator::access;
use crate::emulator::model::State;
use crate::emulator::reply::{
    self, Refusal, Reply, imodel_not_found, insufficient, invalid, itwin_not_found, refuse, unknown,
};
use crate::emulator::request::ApiRequest;

const INVALID: &str = "InvalidConfigurationRequest";

/// Settings with their defaults.
const DEFAULTS: [(&str, bool); 10] = [
    ("convertDgnHyperModelingSections", true),
    ("convertDgnTerrainModels", false),
    ("enableFileNamePolicy", false),
    ("enableSheetsAndDrawings", false),
    ("ignoreDgnAttachments", false),
    ("processReferenceFiles", true),
    ("skipRvtReprojection", false),
    ("squashIntermediateRevisions", false),
    ("updateProjectExtents", true),
    ("uploadDgnRealityData", false),
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
            state.configurations.insert(scope, settings(request)?);
            Ok(shown(request, state, status, &scopes))
        }
        "PATCH" => {
            let mut known = known.ok_or_else(missing)?;
            known.extend(settings(request)?);
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
fn settings(request: &ApiRequest<'_>) -> Result<Map<String, Value>, Refusal> {
    let body = request.json(INVALID)?;
    let settings = if body["settings"].is_object() {
        &body["settings"]
    } else {
        &body
    };
    let settings = settings.as_object().cloned().unwrap_or_default();
    for (name, value) in &settings {
        if !DEFAULTS.iter().any(|(known, _)| known == name) {
            let detail = format!("The setting {name} is unknown.");
            return Err(refuse(422, INVALID, detail));
        }
        if !value.is_boolean() {
            return Err(invalid(
                INVALID,
                "settings",
                "A setting must be true or false.",
            ));
        }
    }
    Ok(settings)
}

fn shown(request: &ApiRequest<'_>, state: &State, status: u16, scopes: &[String]) -> Reply {
    let defaults = DEFAULTS
        .iter()
        .map(|(name, on)| ((*name).to_owned(), json!(on)));
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
