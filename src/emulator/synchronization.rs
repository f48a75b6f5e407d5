//! Synchronization: routes its operations to connections, source files, runs, settings and reports.

mod configurations;
mod connections;
mod reports;
mod run_requests;
mod shapes;
mod source_files;

use serde_json::json;

use super::lock::lock;
use super::model::State;
use super::reply::{self, Refusal, Reply, invalid, refuse, unknown};
use super::request::ApiRequest;
use super::switches::Limit;

use connections::{
    connection, create_connection, delete_connection, list_connections, update_connection,
};
use run_requests::{list_runs, run};
use shapes::{one_connection, run_json};
use source_files::{add_source_file, list_source_files, one_source_file};

/// Items on a page.
const PAGE: usize = 1000;

const INVALID: &str = "InvalidStorageConnectionRequest";

pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let path = request.path();
    match path.as_slice() {
        ["synchronization", "reports"] if request.method == "GET" => {
            return reports::handle(request, state);
        }
        ["synchronization", "configurations", _, _] => {
            return configurations::handle(request, state);
        }
        _ => {}
    }
    let ["synchronization", "imodels", path @ ..] = path.as_slice() else {
        return Err(unknown());
    };
    match (request.method.as_str(), path) {
        ("GET", ["connections", "authorizationinformation"]) => authorization(request, state),
        ("GET", ["storageconnections" | "connections"]) => list_connections(request, state),
        ("POST", ["storageconnections"]) => create_connection(request, state),
        (_, ["storageconnections", _, rest @ ..]) => {
            let connection = connection(request, state)?;
            match (request.method.as_str(), rest) {
                ("GET", []) => Ok(one_connection(request, state, 200, &connection)),
                ("PUT", []) => update_connection(request, state, connection),
                ("DELETE", []) => delete_connection(request, state, &connection),
                ("GET", ["sourcefiles"]) => list_source_files(request, state, connection),
                ("POST", ["sourcefiles"]) => add_source_file(request, state, &connection),
                (_, ["sourcefiles", _]) => one_source_file(request, state, connection),
                ("POST", ["run"]) => run(request, state, &connection),
                ("GET", ["runs"]) => list_runs(request, state, &connection),
                ("GET", ["runs", _]) => {
                    let run = state.runs.get(request.segment(5));
                    let run = run.filter(|run| run.connection_id == connection.id);
                    let run = run.ok_or_else(|| {
                        refuse(404, "RunNotFound", "Requested run is not available.")
                    })?;
                    Ok(reply::json(200, &json!({ "run": run_json(run, request) })))
                }
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

/// Whether the caller has consented to connections acting on their behalf, and the consent page.
fn authorization(request: &ApiRequest<'_>, state: &State) -> Result<Reply, Refusal> {
    let code = "InvalidAuthorizationInformationRequest";
    let redirect = request
        .query("redirectUrl")
        .and_then(|text| url::Url::parse(text).ok());
    let redirect =
        redirect.ok_or_else(|| invalid(code, "redirectUrl", "The value is not a URL."))?;
    if !["http", "https"].contains(&redirect.scheme()) {
        return Err(invalid(code, "redirectUrl", "The value is not a URL."));
    }
    let ticket = lock(&request.shared.tokens).consent_page(&request.client_id, redirect.as_str());
    let page = format!("{}/connect/consent?ticket={ticket}", request.shared.api_url);
    let lifetime = request.shared.options.owner_token_lifetime;
    let authorized = state.is_authorized(&request.client_id, lifetime, request.now);
    Ok(reply::json(
        200,
        &json!({ "authorizationInformation": {
            "isUserAuthorized": authorized, "_links": { "authorizationUrl": { "href": page } },
        }}),
    ))
}

fn limit(request: &ApiRequest<'_>, code: &'static str, message: &str) -> Refusal {
    match request.switches.limit {
        Limit::Unprocessable => refuse(422, code, message),
        Limit::Conflict => refuse(409, "LimitExceeded", message),
        Limit::Forbidden => refuse(403, "LimitExceeded", message),
    }
}
