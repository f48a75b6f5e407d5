//! Synchronization: connections, source files, runs; one active run per iModel.

use serde_json::{Value, json};
use uuid::Uuid;

use super::access::Permission;
use super::api::{Ask, Pages, text, unknown};
use super::model::{Connection, Covered, File, Run, SourceFile, State, storage_id};
use super::reply::{self, Refusal, Reply, invalid, refuse};
use super::switches::{
    DeleteInRun, EmptyConnection, EmptyRun, LastRun, Limit, Location, OmittedAuthentication,
    RemovedSourceFile, RetiredConnector, RunBody, RunScope, SimultaneousRun, UnknownConnector,
};
use super::{configurations, lock, look, reports, runs};

/// Items on a page.
const PAGE: usize = 1000;

/// How long a request for a run is being processed, for the switch `simultaneous-run`.
const PROCESSING: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

const INVALID: &str = "InvalidStorageConnectionRequest";
const INVALID_FILE: &str = "InvalidStorageConnectionSourceFileRequest";

/// Connector types that the platform has.
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

/// Connector types that the platform once had.
const RETIRED: [&str; 5] = [
    "AVEVADIAGRAMS",
    "AVEVAPID",
    "INTELLIPID",
    "PSEXCEL",
    "SHELLEDWCSV",
];

pub(super) fn answer(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["synchronization", "reports"] if ask.method == "GET" => {
            return reports::answer(ask, state);
        }
        ["synchronization", "configurations", _, _] => return configurations::answer(ask, state),
        _ => {}
    }
    let ["synchronization", "imodels", words @ ..] = words.as_slice() else {
        return Err(unknown());
    };
    match (ask.method.as_str(), words) {
        ("GET", ["connections", "authorizationinformation"]) => authorization(ask, state),
        ("GET", ["storageconnections" | "connections"]) => list_connections(ask, state),
        ("POST", ["storageconnections"]) => create_connection(ask, state),
        (_, ["storageconnections", _, rest @ ..]) => {
            let connection = connection(ask, state)?;
            match (ask.method.as_str(), rest) {
                ("GET", []) => Ok(one_connection(ask, state, 200, &connection)),
                ("PUT", []) => update_connection(ask, state, connection),
                ("DELETE", []) => delete_connection(ask, state, &connection),
                ("GET", ["sourcefiles"]) => list_source_files(ask, state, connection),
                ("POST", ["sourcefiles"]) => add_source_file(ask, state, &connection),
                (_, ["sourcefiles", _]) => one_source_file(ask, state, connection),
                ("POST", ["run"]) => run(ask, state, &connection),
                ("GET", ["runs"]) => list_runs(ask, state, &connection),
                ("GET", ["runs", _]) => {
                    let run = state.runs.get(ask.segment(5));
                    let run = run.filter(|run| run.connection_id == connection.id);
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

/// Whether the caller lets connections act on his behalf, and the page where he can allow it.
fn authorization(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    let code = "InvalidAuthorizationInformationRequest";
    let redirect = ask
        .query("redirectUrl")
        .and_then(|text| url::Url::parse(text).ok());
    let redirect = redirect.ok_or_else(|| invalid(code, "redirectUrl", "It is not a URL."))?;
    if !["http", "https"].contains(&redirect.scheme()) {
        return Err(invalid(code, "redirectUrl", "It is not a URL."));
    }
    let ticket = lock(&ask.shared.tokens).consent_page(&ask.client_id, redirect.as_str());
    let page = format!("{}/connect/consent?ticket={ticket}", ask.shared.api_url);
    let authorized = state.authorized_users.contains(&ask.client_id);
    Ok(reply::json(
        200,
        &json!({ "authorizationInformation": {
            "isUserAuthorized": authorized, "_links": { "authorizationUrl": { "href": page } },
        }}),
    ))
}

/// The permission that a request needs: the documentation does not say; these follow from the texts of the iModel permissions.
fn needed(ask: &Ask<'_>) -> Permission {
    let is_connection = ask.words.len() == 4;
    match ask.method.as_str() {
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

fn no_source_file() -> Refusal {
    refuse(
        404,
        "StorageConnectionSourceFileNotFound",
        "Requested source file is not available.",
    )
}

/// The connection that the path names.
fn connection(ask: &Ask<'_>, state: &State) -> Result<Connection, Refusal> {
    let connection = state.connections.get(ask.segment(3));
    // Operations on one source file have one code for whatever is missing.
    let lists = ask.words.len() == 5 && ask.method == "GET";
    let names_file = ask.words.get(4).is_some_and(|word| word == "sourcefiles") && !lists;
    let missing = if names_file {
        no_source_file
    } else {
        no_connection
    };
    let connection = connection.ok_or_else(missing)?;
    ask.may_use_imodel(state, &connection.imodel_id, needed(ask))?;
    Ok(connection.clone())
}

fn list_connections(ask: &Ask<'_>, state: &State) -> Result<Reply, Refusal> {
    let imodel_id = ask.query("imodelId").unwrap_or_default();
    if Uuid::parse_str(imodel_id).is_err() {
        return Err(invalid(INVALID, "imodelId", "It is not a UUID."));
    }
    ask.may_use_imodel(state, imodel_id, needed(ask))?;
    let imodel_id = imodel_id.to_ascii_lowercase();
    if !state.imodels.contains_key(&imodel_id) {
        return Err(refuse(
            404,
            "iModelNotFound",
            "Requested iModel is not available.",
        ));
    }
    let mut connections: Vec<&Connection> = state
        .connections
        .values()
        .filter(|connection| connection.imodel_id == imodel_id)
        .collect();
    connections.sort_by_key(|connection| (connection.created_at, &connection.id));
    let (page, links) = ask.page(connections, &Pages::always(PAGE, INVALID))?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|connection| {
            if ask.wants_representation() {
                connection_json(ask, state, connection)
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
    let needed = |name: &'static str| {
        let value = text(body, name, code)?.filter(|value| !value.is_empty());
        value.ok_or_else(|| invalid(code, name, "It is missing."))
    };
    let (storage_file_id, connector_type) = (needed("storageFileId")?, needed("connectorType")?);
    let switches = &ask.switches;
    let taken = if CONNECTORS.contains(&connector_type) {
        true
    } else if RETIRED.contains(&connector_type) {
        switches.retired_connector == RetiredConnector::Taken
    } else {
        switches.unknown_connector == UnknownConnector::Taken
    };
    let refused = &ask.shared.options.refused_connectors;
    if !taken || refused.iter().any(|refused| refused == connector_type) {
        return Err(invalid(code, "connectorType", "It is not supported."));
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

fn mapped_already() -> Refusal {
    refuse(
        409,
        "FileMappingToTheIModelExists",
        "The file is already mapped to the iModel.",
    )
}

fn limit(ask: &Ask<'_>, code: &'static str, message: &str) -> Refusal {
    match ask.switches.limit {
        Limit::Unprocessable => refuse(422, code, message),
        Limit::Conflict => refuse(409, "LimitExceeded", message),
        Limit::Forbidden => refuse(403, "LimitExceeded", message),
    }
}

/// `User` unless said otherwise.
fn authentication(body: &Value) -> Result<Option<&'static str>, Refusal> {
    match text(body, "authenticationType", INVALID)? {
        None => Ok(None),
        Some("User") => Ok(Some("User")),
        Some("Service") => Ok(Some("Service")),
        Some(_) => Err(invalid(INVALID, "authenticationType", "It is unknown.")),
    }
}

fn create_connection(ask: &Ask<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let body = ask.json(INVALID)?;
    let imodel_id = text(&body, "iModelId", INVALID)?.unwrap_or_default();
    if Uuid::parse_str(imodel_id).is_err() {
        return Err(invalid(INVALID, "iModelId", "It is not a UUID."));
    }
    ask.may_use_imodel(state, imodel_id, needed(ask))?;
    let imodel_id = imodel_id.to_ascii_lowercase();
    if !state.imodels.contains_key(&imodel_id) {
        return Err(refuse(
            404,
            "iModelNotFound",
            "Requested iModel is not available.",
        ));
    }
    let wanted = body["sourceFiles"].as_array();
    let wanted = wanted.ok_or_else(|| invalid(INVALID, "sourceFiles", "It is missing."))?;
    if wanted.is_empty() && ask.switches.empty_connection == EmptyConnection::Refused {
        return Err(invalid(INVALID, "sourceFiles", "It is empty."));
    }
    let mut source_files: Vec<SourceFile> = Vec::new();
    for file in wanted {
        let file = mapping(ask, state, file, INVALID)?;
        let twice = source_files
            .iter()
            .any(|other| other.storage_file_id == file.storage_file_id);
        if twice || state.is_mapped(&imodel_id, &file.storage_file_id, "") {
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
        return Err(limit(ask, INVALID, "The iModel has too many connections."));
    }
    if state.source_files_of(&imodel_id) + source_files.len() > options.max_source_files {
        return Err(limit(ask, INVALID, "The iModel has too many source files."));
    }
    let connection = Connection {
        id: storage_id("", Uuid::new_v4()),
        imodel_id,
        display_name: text(&body, "displayName", INVALID)?.map(str::to_owned),
        authentication_type: authentication(&body)?.unwrap_or("User").to_owned(),
        owner: ask.client_id.clone(),
        created_at: ask.now,
        source_files,
    };
    let answer = one_connection(ask, state, 201, &connection);
    state.connections.insert(connection.id.clone(), connection);
    Ok(answer)
}

fn update_connection(
    ask: &Ask<'_>,
    state: &mut State,
    mut connection: Connection,
) -> Result<Reply, Refusal> {
    let body = ask.json(INVALID)?;
    if let Some(name) = text(&body, "displayName", INVALID)? {
        connection.display_name = Some(name.to_owned());
    }
    match authentication(&body)? {
        Some(kind) => kind.clone_into(&mut connection.authentication_type),
        None if ask.switches.omitted_authentication == OmittedAuthentication::Reset => {
            "User".clone_into(&mut connection.authentication_type);
        }
        None => {}
    }
    let answer = one_connection(ask, state, 200, &connection);
    state.connections.insert(connection.id.clone(), connection);
    Ok(answer)
}

fn delete_connection(
    ask: &Ask<'_>,
    state: &mut State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    let mut runs = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection.id);
    let running = runs.any(|run| !runs::has_ended(run, ask.now));
    if running && ask.switches.delete_in_run == DeleteInRun::Conflict {
        return Err(refuse(
            409,
            "ConnectionAlreadyInUse",
            "The connection runs.",
        ));
    }
    state.connections.remove(&connection.id);
    if ask.switches.removed_source_file == RemovedSourceFile::ElementsDeleted {
        let removed = state.unmapped(&connection.imodel_id);
        if let Some(imodel) = state.imodels.get_mut(&connection.imodel_id) {
            imodel
                .contents
                .retain(|held| !removed.contains(&held.storage_file_id));
        }
    }
    Ok(reply::empty(204))
}

fn list_source_files(
    ask: &Ask<'_>,
    state: &State,
    connection: Connection,
) -> Result<Reply, Refusal> {
    let (page, links) = ask.page(connection.source_files, &Pages::always(PAGE, INVALID_FILE))?;
    let items: Vec<Value> = page
        .iter()
        .map(|file| source_file_json(state, file, ask.wants_representation()))
        .collect();
    Ok(reply::json(
        200,
        &json!({ "sourceFiles": items, "_links": links }),
    ))
}

fn add_source_file(
    ask: &Ask<'_>,
    state: &mut State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    let file = mapping(ask, state, &ask.json(INVALID_FILE)?, INVALID_FILE)?;
    if state.is_mapped(&connection.imodel_id, &file.storage_file_id, "") {
        return Err(mapped_already());
    }
    if state.source_files_of(&connection.imodel_id) >= ask.shared.options.max_source_files {
        let message = "The iModel has too many source files.";
        return Err(limit(ask, INVALID_FILE, message));
    }
    let shown = source_file_json(state, &file, true);
    if let Some(connection) = state.connections.get_mut(&connection.id) {
        connection.source_files.push(file);
    }
    Ok(reply::json(201, &json!({ "sourceFile": shown })))
}

fn one_source_file(
    ask: &Ask<'_>,
    state: &mut State,
    mut connection: Connection,
) -> Result<Reply, Refusal> {
    let id = ask.segment(5);
    let at = connection
        .source_files
        .iter()
        .position(|file| file.id == id);
    let at = at.ok_or_else(no_source_file)?;
    match ask.method.as_str() {
        "GET" => {
            let shown = source_file_json(state, &connection.source_files[at], true);
            Ok(reply::json(200, &json!({ "sourceFile": shown })))
        }
        "PUT" => {
            let mut file = mapping(ask, state, &ask.json(INVALID_FILE)?, INVALID_FILE)?;
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

fn run(ask: &Ask<'_>, state: &mut State, connection: &Connection) -> Result<Reply, Refusal> {
    if connection.source_files.is_empty() && ask.switches.empty_run == EmptyRun::Refused {
        let what = "The connection has no source files.";
        return Err(invalid(INVALID, "sourceFiles", what));
    }
    let active = state.runs.values().find(|run| {
        let same = match ask.switches.run_scope {
            RunScope::Imodel => run.imodel_id == connection.imodel_id,
            RunScope::Connection => run.connection_id == connection.id,
        };
        same && !runs::has_ended(run, ask.now)
    });
    if let Some(active) = active {
        let is_processed = ask.switches.simultaneous_run == SimultaneousRun::SeeOther
            || ask.now.duration_since(active.requested_at) > PROCESSING;
        if !is_processed {
            // The code is the one of an older definition.
            return Err(refuse(
                409,
                "IModelAlreadyProcessingRequest",
                "A run request is already being processed.",
            ));
        }
        let location = location(ask, active);
        return Ok(if ask.switches.location == Location::Absent {
            answered(ask, 303, &[])
        } else {
            answered(ask, 303, &[("location", &location)])
        });
    }
    let mut faults = lock(&ask.shared.faults);
    let duration = ask.shared.options.run_duration;
    let unchanged = ask.switches.unchanged_task;
    let look = |file: &File| looked_at(ask, state, file);
    let mut run = runs::of_connection(
        state,
        connection,
        duration,
        unchanged,
        look,
        &mut faults,
        ask.now,
    );
    let fault = faults.for_run(&connection.imodel_id).unwrap_or_default();
    drop(faults);
    if let Some(ms) = fault.duration_ms {
        run.duration_ms = ms;
    }
    if let Some(result) = &fault.result {
        result.clone_into(&mut run.verdict);
        for covered in &mut run.covered {
            result.clone_into(&mut covered.result);
        }
    }
    run.error = fault.error.or(run.error);
    if ask.switches.removed_source_file == RemovedSourceFile::ElementsDeleted {
        run.removed = state.unmapped(&connection.imodel_id);
    }
    let location = location(ask, &run);
    if !fault.lost {
        state.runs.insert(run.id.clone(), run);
    }
    Ok(answered(ask, 202, &[("location", &location)]))
}

/// What a file should be and is not, by its first bytes, unless nobody wants to know.
fn looked_at(ask: &Ask<'_>, state: &State, file: &File) -> Option<&'static str> {
    if !ask.shared.options.file_check {
        return None;
    }
    let blob = file.blob.as_ref().and_then(|blob| state.blobs.get(blob))?;
    let content = blob.content.as_ref()?;
    let head = ask.shared.store.head(content, look::LENGTH);
    // Content that is kept elsewhere is not looked at.
    if head.is_empty() && content.size > 0 {
        return None;
    }
    look::mismatch(&file.display_name, &head)
}

/// An answer to *run*, with a body or without.
fn answered(ask: &Ask<'_>, status: u16, headers: &[(&str, &str)]) -> Reply {
    match ask.switches.run_body {
        RunBody::Empty => reply::with(status, headers, ""),
        RunBody::Json => {
            let json = [headers, &[("content-type", reply::JSON)]].concat();
            reply::with(status, &json, "{}")
        }
    }
}

fn location(ask: &Ask<'_>, run: &Run) -> String {
    let host = match ask.switches.location {
        Location::Relative => "",
        Location::Absolute | Location::Absent => &ask.shared.api_url,
    };
    format!(
        "{host}/synchronization/imodels/storageConnections/{}/runs/{}",
        run.connection_id, run.id
    )
}

fn list_runs(ask: &Ask<'_>, state: &State, connection: &Connection) -> Result<Reply, Refusal> {
    let runs: Vec<&Run> = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection.id)
        .collect();
    let (page, links) = ask.page(runs, &Pages::always(PAGE, INVALID))?;
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

fn one_connection(ask: &Ask<'_>, state: &State, status: u16, connection: &Connection) -> Reply {
    let shown = connection_json(ask, state, connection);
    reply::json(status, &json!({ "connection": shown }))
}

fn connection_json(ask: &Ask<'_>, state: &State, connection: &Connection) -> Value {
    let api = &ask.shared.api_url;
    let imodel = &connection.imodel_id;
    let itwin = state
        .imodels
        .get(imodel)
        .map(|imodel| imodel.itwin_id.clone());
    let itwin = itwin.unwrap_or_default();
    let mut links = json!({
        "iModel": { "href": format!("{api}/imodels/{imodel}") },
        "iTwin": { "href": format!("{api}/itwins/{itwin}") },
    });
    let runs = state.runs.values();
    let mut runs: Vec<&Run> = runs
        .filter(|run| run.connection_id == connection.id)
        .collect();
    runs.sort_by_key(|run| run.requested_at);
    if ask.switches.last_run == LastRun::Lagging {
        runs.pop();
    }
    if let Some(run) = runs.last() {
        let id = &connection.id;
        let path = format!(
            "synchronization/imodels/storageConnections/{id}/runs/{}",
            run.id
        );
        links["lastRun"] = json!({ "href": format!("{api}/{path}") });
    }
    json!({
        "id": connection.id, "displayName": connection.display_name, "iModelId": imodel, "iTwinId": itwin,
        "authenticationType": connection.authentication_type, "_links": links,
    })
}

fn source_file_json(state: &State, file: &SourceFile, representation: bool) -> Value {
    let mut shown = json!({ "id": file.id, "storageFileId": file.storage_file_id });
    if representation {
        shown["connectorType"] = json!(file.connector_type);
        let name = state
            .files
            .get(&file.storage_file_id)
            .map(|file| &file.display_name);
        shown["lastKnownFileName"] = json!(name);
    }
    shown
}

/// A file's task while its run goes its way: tasks end one after the other, and tell their result then.
fn task_json(run: &Run, file: &Covered, progress: &runs::Progress) -> Value {
    let ended = progress.state == "Completed";
    let mut task = json!({
        "id": runs::task_id(&run.id, &file.storage_file_id), "storageFileId": file.storage_file_id,
        "startDateTime": progress.started_at.map(time), "endDateTime": progress.ended_at.map(time),
        "retryAttempts": 0, "state": progress.state,
        "result": if ended { &file.result } else { "Undetermined" },
    });
    if let (Some(error), true) = (&file.error, ended) {
        task["error"] = error.clone();
    }
    if let (Some(report), true) = (&file.report, ended) {
        task["details"] = json!({ "synchronizationReport": report });
    }
    task
}

fn time(at: jiff::Timestamp) -> String {
    format!("{at:.7}")
}

/// A run as it stands: a job for each connector type, in it a task for each file.
fn run_json(run: &Run, ask: &Ask<'_>) -> Value {
    let (state, result) = runs::standing(run, ask.now);
    let phase = runs::phase(run, ask.now);
    let planned = run.covered.iter().filter(|file| file.has_task);
    let mut files: Vec<&Covered> = planned.filter(|_| phase.is_some()).collect();
    files.sort_by_key(|file| &file.connector_type);
    let count = files.len();
    let mut tasks = files.into_iter().enumerate().peekable();
    let mut jobs = Vec::new();
    while let Some((_, first)) = tasks.peek() {
        let connector = first.connector_type.clone();
        let mut of_job = Vec::new();
        while let Some((at, file)) = tasks.next_if(|(_, file)| file.connector_type == connector) {
            of_job.push((file, runs::progress(run, at, count, ask.now)));
        }
        let states: Vec<&str> = of_job.iter().map(|(_, task)| task.state).collect();
        let job_state = if states.iter().all(|state| *state == "Completed") {
            "Completed"
        } else if states.iter().all(|state| *state == "NotStarted") {
            "NotStarted"
        } else {
            "Executing"
        };
        let results: Vec<&str> = of_job
            .iter()
            .map(|(file, _)| file.result.as_str())
            .collect();
        let ended = job_state == "Completed";
        let last = of_job.last().and_then(|(_, task)| task.ended_at);
        let started = of_job.first().and_then(|(_, task)| task.started_at);
        let tasks: Vec<Value> = of_job
            .iter()
            .map(|(file, progress)| task_json(run, file, progress))
            .collect();
        jobs.push(json!({
            "id": format!("{}-{connector}", run.id), "connectorType": connector,
            "startDateTime": started.map(time), "endDateTime": last.filter(|_| ended).map(time), "state": job_state,
            "result": if ended { runs::verdict(&results) } else { "Undetermined".to_owned() }, "tasks": tasks,
        }));
    }
    let ended = state == "Completed";
    let mut shown = json!({
        "id": run.id, "connectionId": run.connection_id, "startDateTime": time(run.requested_at),
        "endDateTime": ended.then(|| time(runs::end(run))), "state": state, "result": result, "jobs": jobs,
    });
    if let Some(phase) = phase {
        shown["phase"] = json!(phase);
    }
    if let (Some(error), true) = (&run.error, ended) {
        shown["error"] = error.clone();
    }
    shown
}
