//! What a person or a test asks the emulator itself, below `/_emulator`: no token, no record.

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::faults::{Fault, Faults, TaskFault};
use super::reply::{self, Reply};
use super::{Shared, lock};

/// A fault of either kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyFault {
    Request(Fault),
    Task(TaskFault),
}

pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_ascii_lowercase();
    let method = request.method().to_string();
    match (method.as_str(), path.trim_end_matches('/')) {
        ("GET", "/_emulator/state") => {
            let state = shared.state().at(Timestamp::now());
            json_of(&state)
        }
        ("GET", "/_emulator/requests") => json_of(&*lock(&shared.requests)),
        ("POST", "/_emulator/faults") => {
            let body = request
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            match serde_json::from_slice(&body) {
                Ok(AnyFault::Request(fault)) => lock(&shared.faults).add(fault),
                Ok(AnyFault::Task(fault)) => lock(&shared.faults).add_task(fault),
                Err(error) => return reply::json(422, &json!({ "error": error.to_string() })),
            }
            reply::empty(204)
        }
        ("DELETE", "/_emulator/faults") => {
            *lock(&shared.faults) = Faults::default();
            reply::empty(204)
        }
        ("POST", "/_emulator/reset") => {
            {
                let mut state = shared.state();
                state.files.clear();
                state.folders.retain(|_, folder| folder.parent_id.is_none());
                state.connections.clear();
                state.runs.clear();
                state.blobs.clear();
            }
            lock(&shared.requests).clear();
            *lock(&shared.faults) = Faults::default();
            lock(&shared.tokens).revoke_all();
            shared.store.changed();
            reply::empty(204)
        }
        _ => reply::json(
            404,
            &json!({ "error": "known are state, requests, faults and reset" }),
        ),
    }
}

fn json_of(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(text) => reply::with(200, &[("content-type", "application/json")], text),
        Err(error) => reply::json(500, &json!({ "error": error.to_string() })),
    }
}
