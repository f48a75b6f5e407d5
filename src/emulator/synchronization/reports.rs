//! Diagnostic reports of tasks: their list, and their content behind signed addresses.
//!
//! Source: developer.bentley.com/apis/synchronization/operations/get-diagnostic-reports/ and the public viewer of such
//! reports, github iTwin/synchronization-report-react

use serde_json::{Value, json};
use uuid::Uuid;

use crate::emulator::access::check_imodel;
use crate::emulator::addresses::read_address;
use crate::emulator::model::{Blob, Content, Covered, Part, Run, State};
use crate::emulator::reply::{self, Refusal, Reply, invalid, refuse};
use crate::emulator::request::ApiRequest;
use crate::emulator::runs;

/// The documented code.
const INVALID: &str = "InvalidBadgersRequest";

/// Handles `GET /synchronization/reports`.
pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let imodel_id = request.query("imodelId").unwrap_or_default();
    if Uuid::parse_str(imodel_id).is_err() {
        return Err(invalid(INVALID, "imodelId", "The value is not a UUID."));
    }
    let run_id = request.query("runId").filter(|id| !id.is_empty());
    let run_id = run_id.ok_or_else(|| invalid(INVALID, "runId", "The value is missing."))?;
    check_imodel(request, state, imodel_id, "imodels_webview")?;
    let run = state.runs.get(run_id);
    let run = run.filter(|run| run.imodel_id.eq_ignore_ascii_case(imodel_id));
    let run = run.filter(|run| runs::has_ended(run, request.now)).cloned();
    let mut reports = Vec::new();
    for covered in run.iter().flat_map(|run| &run.covered) {
        let task_id = runs::task_id(run_id, &covered.storage_file_id);
        let is_wanted = request
            .query("taskId")
            .is_none_or(|wanted| wanted == task_id);
        let Some(run) = run.as_ref().filter(|_| is_wanted && covered.has_task) else {
            continue;
        };
        let content = report(state, run, covered).to_string();
        let address = publish(request, state, &task_id, &content)
            .map_err(|error| refuse(500, "InternalServerError", error.to_string()))?;
        reports.push(json!({
            "id": task_id, "imodelId": run.imodel_id, "runId": run_id, "taskId": task_id, "sasUri": address,
            "createdTimeStamp": format!("{:.7}", runs::end(run)),
        }));
    }
    Ok(reply::json(200, &json!({ "reports": reports })))
}

/// Stores a report as a blob that can be read without a token; returns its address.
fn publish(
    request: &ApiRequest<'_>,
    state: &mut State,
    task_id: &str,
    content: &str,
) -> std::io::Result<String> {
    let blob = format!("report-{task_id}");
    if !state.blobs.contains_key(&blob) {
        std::fs::write(request.shared.store.part(&blob), content)?;
        let size = content.len() as u64;
        let part = Part {
            name: blob.clone(),
            size,
        };
        let content = Content {
            id: blob.clone(),
            size,
            parts: vec![(None, part)],
        };
        let blob = blob.clone();
        state.blobs.insert(
            blob,
            Blob {
                content: Some(content),
                ..Blob::default()
            },
        );
    }
    Ok(read_address(request, state, &blob))
}

fn report(state: &State, run: &Run, covered: &Covered) -> Value {
    let file = state.files.get(&covered.storage_file_id);
    let name = file.map_or("", |file| &file.display_name);
    let path = file.map_or("", |file| &file.path);
    let counts = covered.report.clone().unwrap_or_default();
    let issue = |level: &str, at: u64, message: &str| {
        json!({
            "file": { "identifier": covered.storage_file_id, "path": path },
            "auditrecords": [{ "auditinfo": {
                "issueid": format!("{level}-{at}"), "level": level, "category": "Emulated", "type": "Emulated",
                "message": message, "fileName": name,
            }}],
        })
    };
    let text = covered
        .error
        .as_ref()
        .and_then(|error| error["message"].as_str());
    let text = text.unwrap_or(&counts.message);
    let mut records = Vec::new();
    for (level, count) in [
        ("Error", counts.total_errors_count),
        ("Warning", counts.total_warnings_count),
        ("Info", counts.total_other_issues_count),
    ] {
        // A count in a fault can be any number.
        records.extend((1..=count.min(100)).map(|at| issue(level, at, text)));
    }
    json!({
        "context": {
            "reportType": "Synchronization", "jobid": run.id, "imodelid": run.imodel_id,
            "timestamp": format!("{:.7}", runs::end(run)),
        },
        "sourceFilesInfo": {
            "fileName": name, "fileExists": covered.version > 0, "bimFileExists": true,
            "Files": [{
                "fileId": covered.storage_file_id, "fileName": name, "path": path, "fileExists": covered.version > 0,
                "bimFileExists": true, "state": covered.result, "failureReason": covered.error.as_ref().map(|_| text),
            }],
        },
        "filerecords": records,
        "elementRecords": [],
    })
}
