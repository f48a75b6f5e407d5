//! Synchronization: connections, source files, runs; one active run per iModel.

use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::lock;
use super::model::{Connection, Run, SourceFile, State, storage_id};
use super::reply::{self, Refusal, Reply, refuse};
use super::runs;
use super::server::{Ask, unknown};

/// Items on a page.
const PAGE: usize = 1000;

pub(super) fn answer(ask: &Ask<'_>, words: &[&str]) -> Result<Reply, Refusal> {
    let method = ask.method.as_str();
    // Segments behind `synchronization/imodels/storageConnections`.
    let id = ask.segments.get(3).map(String::as_str).unwrap_or_default();
    let part = ask.segments.get(5).map(String::as_str).unwrap_or_default();
    match (method, words) {
        ("GET", ["connections", "authorizationinformation"]) => {
            let body = json!({ "authorizationInformation": { "isUserAuthorized": false } });
            Ok(reply::json(200, &body))
        }
        ("GET", ["storageconnections" | "connections"]) => list_connections(ask),
        ("POST", ["storageconnections"]) => create_connection(ask),
        (_, ["storageconnections", _, ..]) => {
            let connection = connection(ask, id)?;
            match (method, words.get(2..).unwrap_or_default()) {
                ("GET", []) => Ok(reply::json(
                    200,
                    &json!({ "connection": connection_json(ask, &connection) }),
                )),
                ("PUT", []) => update_connection(ask, &connection),
                ("DELETE", []) => {
                    ask.shared.state().connections.remove(id);
                    Ok(reply::empty(204))
                }
                ("GET", ["sourcefiles"]) => {
                    let representation = ask.wants_representation();
                    let (page, links) = ask.page(connection.source_files, PAGE)?;
                    let items: Vec<Value> = page
                        .iter()
                        .map(|file| source_file_json(file, representation))
                        .collect();
                    Ok(reply::json(
                        200,
                        &json!({ "sourceFiles": items, "_links": links }),
                    ))
                }
                ("POST", ["sourcefiles"]) => add_source_file(ask, &connection),
                (_, ["sourcefiles", _]) => one_source_file(ask, connection, part),
                ("POST", ["run"]) => Ok(run(ask, &connection)),
                ("GET", ["runs"]) => list_runs(ask, id),
                ("GET", ["runs", _]) => {
                    let state = ask.shared.state();
                    let run = state.runs.get(part).filter(|run| run.connection_id == id);
                    let run = run.ok_or_else(|| {
                        refuse(404, "RunNotFound", "Requested run is not available.")
                    })?;
                    Ok(reply::json(200, &json!({ "run": run_json(run, ask) })))
                }
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

fn connection(ask: &Ask<'_>, id: &str) -> Result<Connection, Refusal> {
    let state = ask.shared.state();
    let connection = state.connections.get(id).cloned();
    drop(state);
    let connection = connection.ok_or_else(|| {
        refuse(
            404,
            "StorageConnectionNotFound",
            "Requested storage connection is not available.",
        )
    })?;
    ask.may_use_imodel(&connection.imodel_id)?;
    Ok(connection)
}

fn list_connections(ask: &Ask<'_>) -> Result<Reply, Refusal> {
    let invalid = || {
        refuse(422, "InvalidStorageConnectionRequest", "Invalid request.")
            .about("imodelId", "It is missing.")
    };
    let imodel_id = ask.query.get("imodelId").ok_or_else(invalid)?;
    ask.may_use_imodel(imodel_id)?;
    let state = ask.shared.state();
    let connections: Vec<&Connection> = state
        .connections
        .values()
        .filter(|connection| connection.imodel_id == *imodel_id)
        .collect();
    let (page, links) = ask.page(connections, PAGE)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|connection| {
            if ask.wants_representation() {
                connection_json(ask, connection)
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

/// Storage file and connector type from a body, checked.
fn mapping(
    ask: &Ask<'_>,
    state: &State,
    body: &Value,
    code: &'static str,
) -> Result<SourceFile, Refusal> {
    let text = |field: &'static str| {
        let invalid = || refuse(422, code, "Invalid request.").about(field, "It is missing.");
        body[field].as_str().map(str::to_owned).ok_or_else(invalid)
    };
    let storage_file_id = text("storageFileId")?;
    let connector_type = text("connectorType")?;
    if ask
        .shared
        .options
        .refused_connectors
        .contains(&connector_type)
    {
        return Err(
            refuse(422, code, "Invalid request.").about("connectorType", "It is not supported.")
        );
    }
    if state
        .files
        .get(&storage_file_id)
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
        storage_file_id,
        connector_type,
    })
}

fn mapped_already() -> Refusal {
    refuse(
        409,
        "FileMappingToTheIModelExists",
        "The file is already mapped to the iModel.",
    )
}

fn create_connection(ask: &Ask<'_>) -> Result<Reply, Refusal> {
    let code = "InvalidStorageConnectionRequest";
    let body = ask.json(code)?;
    let imodel_id = body["iModelId"].as_str().unwrap_or_default().to_owned();
    ask.may_use_imodel(&imodel_id)?;
    let mut state = ask.shared.state();
    if !state.imodels.contains_key(&imodel_id) {
        return Err(refuse(
            404,
            "iModelNotFound",
            "Requested iModel is not available.",
        ));
    }
    let wanted = body["sourceFiles"]
        .as_array()
        .filter(|files| !files.is_empty());
    let wanted = wanted.ok_or_else(|| {
        refuse(422, code, "Invalid request.").about("sourceFiles", "It is missing.")
    })?;
    let mut source_files: Vec<SourceFile> = Vec::new();
    for file in wanted {
        let file = mapping(ask, &state, file, code)?;
        let twice = source_files
            .iter()
            .any(|other| other.storage_file_id == file.storage_file_id);
        if twice || state.is_mapped(&imodel_id, &file.storage_file_id) {
            return Err(mapped_already());
        }
        source_files.push(file);
    }
    let options = &ask.shared.options;
    let connections = state
        .connections
        .values()
        .filter(|connection| connection.imodel_id == imodel_id)
        .count();
    if connections >= options.max_connections {
        return Err(refuse(422, code, "The iModel has too many connections."));
    }
    if state.source_files_of(&imodel_id) + source_files.len() > options.max_source_files {
        return Err(refuse(422, code, "The iModel has too many source files."));
    }
    let authentication_type = match body["authenticationType"].as_str() {
        Some("Service") => "Service",
        None | Some("User") => "User",
        Some(_) => {
            return Err(
                refuse(422, code, "Invalid request.").about("authenticationType", "It is unknown.")
            );
        }
    };
    let connection = Connection {
        id: storage_id("", Uuid::new_v4()),
        imodel_id,
        display_name: body["displayName"].as_str().map(str::to_owned),
        authentication_type: authentication_type.to_owned(),
        source_files,
    };
    state
        .connections
        .insert(connection.id.clone(), connection.clone());
    drop(state);
    Ok(reply::json(
        201,
        &json!({ "connection": connection_json(ask, &connection) }),
    ))
}

fn update_connection(ask: &Ask<'_>, connection: &Connection) -> Result<Reply, Refusal> {
    let body = ask.json("InvalidStorageConnectionRequest")?;
    let mut updated = connection.clone();
    if let Some(name) = body["displayName"].as_str() {
        updated.display_name = Some(name.to_owned());
    }
    if let Some(kind) = body["authenticationType"].as_str() {
        kind.clone_into(&mut updated.authentication_type);
    }
    ask.shared
        .state()
        .connections
        .insert(updated.id.clone(), updated.clone());
    Ok(reply::json(
        200,
        &json!({ "connection": connection_json(ask, &updated) }),
    ))
}

fn add_source_file(ask: &Ask<'_>, connection: &Connection) -> Result<Reply, Refusal> {
    let code = "InvalidStorageConnectionSourceFileRequest";
    let body = ask.json(code)?;
    let mut state = ask.shared.state();
    let file = mapping(ask, &state, &body, code)?;
    if state.is_mapped(&connection.imodel_id, &file.storage_file_id) {
        return Err(mapped_already());
    }
    if state.source_files_of(&connection.imodel_id) >= ask.shared.options.max_source_files {
        return Err(refuse(422, code, "The iModel has too many source files."));
    }
    if let Some(connection) = state.connections.get_mut(&connection.id) {
        connection.source_files.push(file.clone());
    }
    Ok(reply::json(
        201,
        &json!({ "sourceFile": source_file_json(&file, true) }),
    ))
}

fn one_source_file(ask: &Ask<'_>, mut connection: Connection, id: &str) -> Result<Reply, Refusal> {
    let at = connection
        .source_files
        .iter()
        .position(|file| file.id == id);
    let missing = || {
        refuse(
            404,
            "StorageConnectionSourceFileNotFound",
            "Requested source file is not available.",
        )
    };
    let at = at.ok_or_else(missing)?;
    let answer = match *ask.method {
        Method::GET => reply::json(
            200,
            &json!({ "sourceFile": source_file_json(&connection.source_files[at], true) }),
        ),
        Method::PUT => {
            let code = "InvalidStorageConnectionSourceFileRequest";
            let mut file = mapping(ask, &ask.shared.state(), &ask.json(code)?, code)?;
            id.clone_into(&mut file.id);
            let answer = json!({ "sourceFile": source_file_json(&file, true) });
            connection.source_files[at] = file;
            reply::json(200, &answer)
        }
        Method::DELETE => {
            connection.source_files.remove(at);
            reply::empty(204)
        }
        _ => return Err(unknown()),
    };
    ask.shared
        .state()
        .connections
        .insert(connection.id.clone(), connection);
    Ok(answer)
}

fn run(ask: &Ask<'_>, connection: &Connection) -> Reply {
    let mut state = ask.shared.state();
    if let Some(active) = state.active_run(&connection.imodel_id, ask.now) {
        return reply::with(303, &[("location", &location(ask, active))], "");
    }
    let duration = ask.shared.options.run_duration;
    let run = runs::of_connection(
        &state,
        connection,
        duration,
        &mut lock(&ask.shared.faults),
        ask.now,
    );
    let answer = reply::with(202, &[("location", &location(ask, &run))], "");
    state.runs.insert(run.id.clone(), run);
    answer
}

fn location(ask: &Ask<'_>, run: &Run) -> String {
    let api = &ask.shared.api_url;
    format!(
        "{api}/synchronization/imodels/storageConnections/{}/runs/{}",
        run.connection_id, run.id
    )
}

fn list_runs(ask: &Ask<'_>, connection_id: &str) -> Result<Reply, Refusal> {
    let state = ask.shared.state();
    let runs: Vec<&Run> = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection_id)
        .collect();
    let (page, links) = ask.page(runs, PAGE)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|run| {
            if ask.wants_representation() {
                return run_json(run, ask);
            }
            let (state, result) = runs::standing(run, ask.now);
            json!({ "id": run.id, "state": state, "result": result })
        })
        .collect();
    Ok(reply::json(200, &json!({ "runs": items, "_links": links })))
}

fn connection_json(ask: &Ask<'_>, connection: &Connection) -> Value {
    let api = &ask.shared.api_url;
    let imodel = &connection.imodel_id;
    let mut links = json!({ "iModel": { "href": format!("{api}/imodels/{imodel}") } });
    let state = ask.shared.state.try_lock();
    let last = state.ok().and_then(|state| {
        let runs = state
            .runs
            .values()
            .filter(|run| run.connection_id == connection.id);
        runs.max_by_key(|run| run.requested_at)
            .map(|run| location(ask, run))
    });
    if let Some(href) = last {
        links["lastRun"] = json!({ "href": href });
    }
    json!({
        "id": connection.id, "displayName": connection.display_name, "iModelId": imodel,
        "authenticationType": connection.authentication_type, "_links": links,
    })
}

fn source_file_json(file: &SourceFile, representation: bool) -> Value {
    let mut shown = json!({ "id": file.id, "storageFileId": file.storage_file_id });
    if representation {
        shown["connectorType"] = json!(file.connector_type);
    }
    shown
}

fn run_json(run: &Run, ask: &Ask<'_>) -> Value {
    let (state, result) = runs::standing(run, ask.now);
    let ended = state == "Completed";
    let started = format!("{:.7}", run.requested_at);
    let end = run.requested_at + std::time::Duration::from_millis(run.duration_ms);
    let end = ended.then(|| format!("{end:.7}"));
    let mut connectors: Vec<&str> = run
        .covered
        .iter()
        .map(|file| file.connector_type.as_str())
        .collect();
    connectors.sort_unstable();
    connectors.dedup();
    let jobs: Vec<Value> = connectors
        .into_iter()
        .map(|connector| {
            let files: Vec<_> = run.covered.iter().filter(|file| file.connector_type == connector).collect();
            let worst = files.iter().find(|file| file.result != "Success").map_or("Success", |file| &file.result);
            let tasks: Vec<Value> = files
                .iter()
                .map(|file| {
                    let result = if ended { &file.result } else { "Undetermined" };
                    let mut task = json!({
                        "id": format!("{}-{}", run.id, file.storage_file_id), "storageFileId": file.storage_file_id,
                        "startDateTime": started, "endDateTime": end, "retryAttempts": 0,
                        "state": state, "result": result,
                    });
                    if let (Some(error), true) = (&file.error, ended) {
                        task["error"] = error.clone();
                        task["details"] = json!({ "synchronizationReport": {
                            "suggestedAction": "Open the file in the program that made it and save it again.",
                            "totalErrorsCount": 1, "totalWarningsCount": 0, "totalOtherIssuesCount": 0,
                        }});
                    }
                    task
                })
                .collect();
            json!({
                "id": format!("{}-{connector}", run.id), "connectorType": connector, "startDateTime": started,
                "endDateTime": end, "state": state, "result": if ended { worst } else { "Undetermined" }, "tasks": tasks,
            })
        })
        .collect();
    let mut shown = json!({
        "id": run.id, "connectionId": run.connection_id, "startDateTime": started, "endDateTime": end,
        "phase": "MasterFile", "state": state, "result": result, "jobs": jobs,
    });
    if let (Some(error), true) = (&run.error, ended) {
        shown["error"] = error.clone();
    }
    shown
}
