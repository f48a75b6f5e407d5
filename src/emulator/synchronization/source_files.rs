//! Source files of a connection: which storage file is read by which connector.

use serde_json::{Value, json};
use uuid::Uuid;

use super::shapes::source_file_json;
use super::{PAGE, limit};
use crate::emulator::model::{Connection, SourceFile, State};
use crate::emulator::paging::Pages;
use crate::emulator::reply::{self, Refusal, Reply, invalid, refuse, unknown};
use crate::emulator::request::{ApiRequest, text};
use crate::emulator::switches::{RetiredConnector, UnknownConnector};

const INVALID_FILE: &str = "InvalidStorageConnectionSourceFileRequest";

/// Connector types of the platform.
const CONNECTORS: [&str; 14] = [
    "AUTOPLANT",
    "CIVIL",
    "CIVIL3D",
    "DWG",
    "GEOSPATIAL",
    "IFC",
    "MSTN",
    "NWD",
    "OBD",
    "OPENTOWER",
    "PROSTRUCTURES",
    "REVIT",
    "SPPID",
    "SPXREVIEW",
];

/// Retired connector types.
const RETIRED: [&str; 5] = [
    "AVEVADIAGRAMS",
    "AVEVAPID",
    "INTELLIPID",
    "PSEXCEL",
    "SHELLEDWCSV",
];

pub(super) fn no_source_file() -> Refusal {
    refuse(
        404,
        "StorageConnectionSourceFileNotFound",
        "Requested source file is not available.",
    )
}

/// The checked storage file and connector type in a body.
pub(super) fn mapping(
    request: &ApiRequest<'_>,
    state: &State,
    body: &Value,
    code: &'static str,
) -> Result<SourceFile, Refusal> {
    let needed = |name: &'static str| {
        let value = text(body, name, code)?.filter(|value| !value.is_empty());
        value.ok_or_else(|| invalid(code, name, "The value is missing."))
    };
    let (storage_file_id, connector_type) = (needed("storageFileId")?, needed("connectorType")?);
    let switches = &request.switches;
    let taken = if CONNECTORS.contains(&connector_type) {
        true
    } else if RETIRED.contains(&connector_type) {
        switches.retired_connector == RetiredConnector::Taken
    } else {
        switches.unknown_connector == UnknownConnector::Taken
    };
    let refused = &request.shared.options.refused_connectors;
    if !taken || refused.iter().any(|refused| refused == connector_type) {
        return Err(invalid(
            code,
            "connectorType",
            "The connector type is not supported.",
        ));
    }
    if state
        .files
        .get(storage_file_id)
        .is_none_or(|file| file.deleted)
    {
        return Err(refuse(
            404,
            "StorageConnectionSourceFileNotFound",
            "Requested file is not available.",
        ));
    }
    Ok(SourceFile {
        id: Uuid::new_v4().to_string(),
        storage_file_id: storage_file_id.to_owned(),
        connector_type: connector_type.to_owned(),
    })
}

pub(super) fn mapped_already() -> Refusal {
    refuse(
        409,
        "FileMappingToTheIModelExists",
        "The file is already mapped to the iModel.",
    )
}

pub(super) fn list_source_files(
    request: &ApiRequest<'_>,
    state: &State,
    connection: Connection,
) -> Result<Reply, Refusal> {
    let (page, links) =
        request.page(connection.source_files, &Pages::always(PAGE, INVALID_FILE))?;
    let items: Vec<Value> = page
        .iter()
        .map(|file| source_file_json(state, file, request.wants_representation()))
        .collect();
    Ok(reply::json(
        200,
        &json!({ "sourceFiles": items, "_links": links }),
    ))
}

pub(super) fn add_source_file(
    request: &ApiRequest<'_>,
    state: &mut State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    let file = mapping(request, state, &request.json(INVALID_FILE)?, INVALID_FILE)?;
    if state.is_mapped(&connection.imodel_id, &file.storage_file_id, "") {
        return Err(mapped_already());
    }
    if state.source_files_of(&connection.imodel_id) >= request.shared.options.max_source_files {
        let message = "The iModel has too many source files.";
        return Err(limit(request, INVALID_FILE, message));
    }
    let shown = source_file_json(state, &file, true);
    if let Some(connection) = state.connections.get_mut(&connection.id) {
        connection.source_files.push(file);
    }
    Ok(reply::json(201, &json!({ "sourceFile": shown })))
}

pub(super) fn one_source_file(
    request: &ApiRequest<'_>,
    state: &mut State,
    mut connection: Connection,
) -> Result<Reply, Refusal> {
    let id = request.segment(5);
    let at = connection
        .source_files
        .iter()
        .position(|file| file.id == id);
    let at = at.ok_or_else(no_source_file)?;
    match request.method.as_str() {
        "GET" => {
            let shown = source_file_json(state, &connection.source_files[at], true);
            Ok(reply::json(200, &json!({ "sourceFile": shown })))
        }
        "PUT" => {
            let mut file = mapping(request, state, &request.json(INVALID_FILE)?, INVALID_FILE)?;
            if state.is_mapped(&connection.imodel_id, &file.storage_file_id, id) {
                return Err(mapped_already());
            }
            id.clone_into(&mut file.id);
            let shown = source_file_json(state, &file, true);
            connection.source_files[at] = file;
            state.connections.insert(connection.id.clone(), connection);
            Ok(reply::json(200, &json!({ "sourceFile": shown })))
        }
        "DELETE" => {
            connection.source_files.remove(at);
            state.connections.insert(connection.id.clone(), connection);
            Ok(reply::empty(204))
        }
        _ => Err(unknown()),
    }
}
