//! Requesting and listing runs; one active run per iModel.

use serde_json::{Value, json};

use super::shapes::run_json;
use super::{INVALID, PAGE};
use crate::emulator::lock::lock;
use crate::emulator::model::{Connection, File, Run, State};
use crate::emulator::paging::Pages;
use crate::emulator::reply::{self, Refusal, Reply, invalid, refuse};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::{
    EmptyRun, Location, RemovedSourceFile, RunBody, RunScope, SimultaneousRun,
};
use crate::emulator::{file_check, runs};

/// How long a run request counts as being processed, for the switch `simultaneous-run`.
const PROCESSING: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

pub(super) fn run(
    request: &ApiRequest<'_>,
    state: &mut State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    if connection.source_files.is_empty() && request.switches.empty_run == EmptyRun::Refused {
        let what = "The connection has no source files.";
        return Err(invalid(INVALID, "sourceFiles", what));
    }
    let active = state.runs.values().find(|run| {
        let same = match request.switches.run_scope {
            RunScope::Imodel => run.imodel_id == connection.imodel_id,
            RunScope::Connection => run.connection_id == connection.id,
        };
        same && !runs::has_ended(run, request.now)
    });
    if let Some(active) = active {
        let is_processed = request.switches.simultaneous_run == SimultaneousRun::SeeOther
            || request.now.duration_since(active.requested_at) > PROCESSING;
        if !is_processed {
            // The code is from an older definition.
            return Err(refuse(
                409,
                "IModelAlreadyProcessingRequest",
                "A run request is already being processed.",
            ));
        }
        let location = location(request, active);
        return Ok(if request.switches.location == Location::Absent {
            run_response(request, 303, &[])
        } else {
            run_response(request, 303, &[("location", &location)])
        });
    }
    let mut faults = lock(&request.shared.faults);
    let duration = request.shared.options.run_duration;
    let mismatch = |file: &File| format_mismatch(request, state, file);
    let mut run = runs::for_connection(
        state,
        connection,
        duration,
        &request.switches,
        mismatch,
        &mut faults,
        request.now,
    );
    let lifetime = request.shared.options.owner_token_lifetime;
    if connection.authentication_type != "Service"
        && !state.is_authorized(&connection.owner, lifetime, request.now)
    {
        runs::refuse_owner(&mut run);
    }
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
    if request.switches.removed_source_file == RemovedSourceFile::ElementsDeleted {
        run.removed = state.unmapped(&connection.imodel_id);
    }
    let location = location(request, &run);
    if !fault.lost {
        state.runs.insert(run.id.clone(), run);
    }
    Ok(run_response(request, 202, &[("location", &location)]))
}

/// The format that the first bytes of a file do not match, if the check is enabled.
fn format_mismatch(request: &ApiRequest<'_>, state: &State, file: &File) -> Option<&'static str> {
    if !request.shared.options.file_check {
        return None;
    }
    let blob = file.blob.as_ref().and_then(|blob| state.blobs.get(blob))?;
    let content = blob.content.as_ref()?;
    let head = request.shared.store.head(content, file_check::LENGTH);
    // Content in Azurite is not checked.
    if head.is_empty() && content.size > 0 {
        return None;
    }
    file_check::mismatch(&file.display_name, &head)
}

/// A response to *run*, with or without a body.
fn run_response(request: &ApiRequest<'_>, status: u16, headers: &[(&str, &str)]) -> Reply {
    match request.switches.run_body {
        RunBody::Empty => reply::with(status, headers, ""),
        RunBody::Json => {
            let json = [headers, &[("content-type", reply::JSON)]].concat();
            reply::with(status, &json, "{}")
        }
    }
}

fn location(request: &ApiRequest<'_>, run: &Run) -> String {
    let host = match request.switches.location {
        Location::Relative => "",
        Location::Absolute | Location::Absent => &request.shared.api_url,
    };
    format!(
        "{host}/synchronization/imodels/storageConnections/{}/runs/{}",
        run.connection_id, run.id
    )
}

pub(super) fn list_runs(
    request: &ApiRequest<'_>,
    state: &State,
    connection: &Connection,
) -> Result<Reply, Refusal> {
    let runs: Vec<&Run> = state
        .runs
        .values()
        .filter(|run| run.connection_id == connection.id)
        .collect();
    let (page, links) = request.page(runs, &Pages::always(PAGE, INVALID))?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|run| {
            if request.wants_representation() {
                return run_json(run, request);
            }
            let (state, result) = runs::status(run, request.now);
            json!({ "id": run.id, "state": state, "result": result })
        })
        .collect();
    Ok(reply::json(200, &json!({ "runs": items, "_links": links })))
}
