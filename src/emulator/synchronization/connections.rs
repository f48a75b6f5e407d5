//! Storage connections: list, create, update, delete; which one a request names.

use serde_json::{Value, json};
use uuid::Uuid;

use super::shapes::{connection_json, one_connection};
use super::source_files::{mapped_already, mapping, no_source_file};
use super::{INVALID, PAGE, limit};
use crate::emulator::access::{Permission, check_imodel};
use crate::emulator::model::{Connection, SourceFile, State, storage_id};
use crate::emulator::paging::Pages;
use crate::emulator::reply::{self, Refusal, Reply, imodel_not_found, invalid, refuse};
use crate::emulator::request::{ApiRequest, text};
use crate::emulator::runs;
use crate::emulator::switches::{
    ChangedOwner, DeleteInRun, EmptyConnection, OmittedAuthentication, RemovedSourceFile,
};

/// The connection in the path.
pub(super) fn connection(request: &ApiRequest<'_>, state: &State) -> Result<Connection, Refusal> {
    let connection = state.connections.get(request.segment(3));
    // Operations on one source file have one code, whatever is missing.
    let lists = request.path_lower.len() == 5 && request.method == "GET";
    let names_file = request
        .path_lower
        .get(4)
        .is_some_and(|word| word == "sourcefiles")
        && !lists;
    let missing = if names_file {
        no_source_file
    } else {
        no_connection
    };
    let connection = connection.ok_or_else(missing)?;
    check_imodel(request, state, &connection.imodel_id, needed(request))?;
    Ok(connection.clone())
}

/// The permission that a request needs: not documented, derived from the descriptions of the iModel permissions.
fn needed(request: &ApiRequest<'_>) -> Permission {
    let is_connection = request.path_lower.len() == 4;
    match request.method.as_str() {
        "GET" => "imodels_webview",
        "DELETE" if is_connection => "imodels_manage",
        _ => "imodels_write",
    }
}

fn no_connection() -> Refusal {
    refuse(
        404,
        "StorageConnectionNotFound",
        "Requested storage connection is not available.",
    )
}

pub(super) fn list_connections(request: &ApiRequest<'_>, state: &State) -> Result<Reply, Refusal> {
    let imodel_id = request.query("imodelId").unwrap_or_default();
    if Uuid::parse_str(imodel_id).is_err() {
        return Err(invalid(INVALID, "imodelId", "The value is not a UUID."));
    }
    check_imodel(request, state, imodel_id, needed(request))?;
    let imodel_id = imodel_id.to_ascii_lowercase();
    if !state.imodels.contains_key(&imodel_id) {
        return Err(imodel_not_found());
    }
    let mut connections: Vec<&Connection> = state
        .connections
        .values()
        .filter(|connection| connection.imodel_id == imodel_id)
        .collect();
    connections.sort_by_key(|connection| (connection.created_at, &connection.id));
    let (page, links) = request.page(connections, &Pages::always(PAGE, INVALID))?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|connection| {
            if request.wants_representation() {
                connection_json(request, state, connection)
            } else {
                json!({ "id": connection.id, "displayName": connection.display_name })
            }
        })
        .collect();
    Ok(reply::json(
        200,
        &json!({ "connections": items, "_links": links }),
    ))
}

/// The authentication type in a body.
fn authentication(body: &Value) -> Result<Option<&'static str>, Refusal> {
    match text(body, "authenticationType", INVALID)? {
        None => Ok(None),
        Some("User") => Ok(Some("User")),
        Some("Service") => Ok(Some("Service")),
        Some(_) => Err(invalid(
            INVALID,
            "authenticationType",
            "The value is unknown.",
        )),
    }
}

pub(super) fn create_connection(
    request: &ApiRequest<'_>,
    state: &mut State,
) -> Result<Reply, Refusal> {
    let body = request.json(INVALID)?;
    let imodel_id = text(&body, "iModelId", INVALID)?.unwrap_or_default();
    if Uuid::parse_str(imodel_id).is_err() {
        return Err(invalid(INVALID, "iModelId", "The value is not a UUID."));
    }
    check_imodel(request, state, imodel_id, needed(request))?;
    let imodel_id = imodel_id.to_ascii_lowercase();
    if !state.imodels.contains_key(&imodel_id) {
        return Err(imodel_not_found());
    }
    let wanted = body["sourceFiles"].as_array();
    let wanted = wanted.ok_or_else(|| invalid(INVALID, "sourceFiles", "The value is missing."))?;
    if wanted.is_empty() && request.switches.empty_connection == EmptyConnection::Refused {
        return Err(invalid(INVALID, "sourceFiles", "The list is empty."));
    }
    let mut source_files: Vec<SourceFile> = Vec::new();
    for file in wanted {
        let file = mapping(request, state, file, INVALID)?;
        let twice = source_files
            .iter()
            .any(|other| other.storage_file_id == file.storage_file_id);
        if twice || state.is_mapped(&imodel_id, &file.storage_file_id, "") {
            return Err(mapped_already());
        }
        source_files.push(file);
    }
    let options = &request.shared.options;
    let connections = state
        .connections
        .values()
        .filter(|connection| connection.imodel_id == imodel_id)
        .count();
    if connections >= options.max_connections {
        return Err(limit(
            request,
            INVALID,
            "The iModel has too many connections.",
        ));
    }
    if state.source_files_of(&imodel_id) + source_files.len() > options.max_source_files {
        return Err(limit(
            request,
            INVALID,
            "The iModel has too many source files.",
        ));
    }
    let connection = Connection {
        id: storage_id("", Uuid::new_v4()),
        imodel_id,
        display_name: text(&body, "displayName", INVALID)?.map(str::to_owned),
        authentication_type: authentication(&body)?.unwrap_or("User").to_owned(),
        owner: request.client_id.clone(),
        created_at: request.now,
        source_files,
    };
    let answer = one_connection(request, state, 201, &connection);
    state.connections.insert(connection.id.clone(), connection);
    Ok(answer)
}

pub(super) fn update_connection(
    request: &ApiRequest<'_>,
    state: &mut State,
    mut connection: Connection,
) -> Result<Reply, Refusal> {
    let body = request.json(INVALID)?;
    if let Some(name) = text(&body, "displayName", INVALID)? {
        connection.display_name = Some(name.to_owned());
    }
    match authentication(&body)? {
        Some(kind) => {
            if kind == "User" && request.switches.changed_owner == ChangedOwner::Caller {
                connection.owner.clone_from(&request.client_id);
            }
            kind.clone_into(&mut connection.authentication_type);
        }
        None if request.switches.omitted_authentication == OmittedAuthentication::Reset => {
            "User".clone_into(&mut connection.authentication_type);
        }
        None => {}
    }
    let answer = one_connection(request, state, 200, &connection);
    state.connections.insert(connection.id.clone(), connection);
    Ok(answer)
}

pub(super) fn delete_connection(
    request: &ApiRequest<'_>,
    state: &mut State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    let mut runs = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection.id);
    let running = runs.any(|run| !runs::has_ended(run, request.now));
    if running && request.switches.delete_in_run == DeleteInRun::Conflict {
        return Err(refuse(
            409,
            "ConnectionAlreadyInUse",
            "The connection has an active run.",
        ));
    }
    state.connections.remove(&connection.id);
    if request.switches.removed_source_file == RemovedSourceFile::ElementsDeleted {
        let removed = state.unmapped(&connection.imodel_id);
        if let Some(imodel) = state.imodels.get_mut(&connection.imodel_id) {
            imodel
                .contents
                .retain(|content| !removed.contains(&content.storage_file_id));
        }
    }
    Ok(reply::empty(204))
}
