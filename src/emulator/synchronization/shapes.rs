//! Connections, source files and runs as JSON.

use serde_json::{Value, json};

use crate::emulator::encoding::timestamp;
use crate::emulator::model::{Connection, Covered, Run, SourceFile, State};
use crate::emulator::reply::{self, Reply};
use crate::emulator::request::ApiRequest;
use crate::emulator::runs;
use crate::emulator::switches::LastRun;

pub(super) fn one_connection(
    request: &ApiRequest<'_>,
    state: &State,
    status: u16,
    connection: &Connection,
) -> Reply {
    let shown = connection_json(request, state, connection);
    reply::json(status, &json!({ "connection": shown }))
}

pub(super) fn connection_json(
    request: &ApiRequest<'_>,
    state: &State,
    connection: &Connection,
) -> Value {
    let api = &request.shared.api_url;
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
    if request.switches.last_run == LastRun::Lagging {
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

pub(super) fn source_file_json(state: &State, file: &SourceFile, representation: bool) -> Value {
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

/// A file's task in a run; it has a result once it has ended.
fn task_json(run: &Run, file: &Covered, progress: &runs::Progress) -> Value {
    let ended = progress.state == "Completed";
    let mut task = json!({
        "id": runs::task_id(&run.id, &file.storage_file_id), "storageFileId": file.storage_file_id,
        "startDateTime": progress.started_at.map(timestamp), "endDateTime": progress.ended_at.map(timestamp),
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

/// A run with a job for each connector type and a task for each file.
pub(super) fn run_json(run: &Run, request: &ApiRequest<'_>) -> Value {
    let (state, result) = runs::status(run, request.now);
    let phase = runs::phase(run, request.now);
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
            of_job.push((file, runs::progress(run, at, count, request.now)));
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
            "startDateTime": started.map(timestamp), "endDateTime": last.filter(|_| ended).map(timestamp), "state": job_state,
            "result": if ended { runs::verdict(&results) } else { "Undetermined".to_owned() }, "tasks": tasks,
        }));
    }
    let ended = state == "Completed";
    let mut shown = json!({
        "id": run.id, "connectionId": run.connection_id, "startDateTime": timestamp(run.requested_at),
        "endDateTime": ended.then(|| timestamp(runs::end(run))), "state": state, "result": result, "jobs": jobs,
    });
    if let Some(phase) = phase {
        shown["phase"] = json!(phase);
    }
    if let (Some(error), true) = (&run.error, ended) {
        shown["error"] = error.clone();
    }
    shown
}
