//! What a user or a test asks the emulator itself, below `/_emulator`: no token, no record. Pages of other origins were refused before.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use url::form_urlencoded;

use super::faults::AnyFault;
use super::reply::{self, Reply};
use super::{Shared, lock};

/// A fault is at most this long.
const BODY_MAX: usize = 16 * 1024 * 1024;

pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_ascii_lowercase();
    let method = request.method().to_string();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = Limited::new(request.into_body(), BODY_MAX).collect().await else {
        return refused("the body is too long, or ended early");
    };
    match (method.as_str(), path.trim_end_matches('/')) {
        ("GET", "/_emulator/state") => {
            shared.digest_all().await;
            json_of(&shared.state().at(Timestamp::now()))
        }
        ("GET", "/_emulator/requests") => json_of(&*lock(&shared.requests)),
        ("POST", "/_emulator/faults") => match serde_json::from_slice::<AnyFault>(&body.to_bytes())
        {
            Ok(fault) => {
                lock(&shared.faults).add(fault);
                reply::empty(204)
            }
            Err(_) => refused(
                "not a fault: it needs route and effect, or file and result, or imodelId; see docs/emulator.md",
            ),
        },
        ("DELETE", "/_emulator/faults") => {
            lock(&shared.faults).clear();
            reply::empty(204)
        }
        ("GET", "/_emulator/switches") => json_of(&*lock(&shared.switches)),
        ("POST", "/_emulator/switches") => {
            let mut switches = *lock(&shared.switches);
            for (name, word) in form_urlencoded::parse(query.as_bytes()) {
                if let Err(error) = switches.set(&name, &word) {
                    return refused(&error.to_string());
                }
            }
            *lock(&shared.switches) = switches;
            json_of(&switches)
        }
        ("POST", "/_emulator/reset") => {
            shared.reset();
            reply::empty(204)
        }
        ("POST", "/_emulator/lock") => lock_file(shared, &query),
        _ => reply::json(
            404,
            &json!({ "error": "there are GET state, requests and switches; POST faults, switches, lock and reset; DELETE faults" }),
        ),
    }
}

/// Locks a file as a person can, or unlocks it.
fn lock_file(shared: &Shared, query: &str) -> Reply {
    let (mut id, mut locked) = (String::new(), true);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "file" => id = value.into_owned(),
            "locked" => locked = value != "false",
            _ => {}
        }
    }
    match shared.state().files.get_mut(&id) {
        Some(file) => {
            file.locked = locked;
            reply::empty(204)
        }
        None => refused("there is no such file; it needs ?file=ID, and &locked=false to unlock"),
    }
}

fn refused(why: &str) -> Reply {
    reply::json(422, &json!({ "error": why }))
}

fn json_of(value: &impl Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(text) => reply::with(200, &[("content-type", reply::JSON)], text),
        Err(error) => reply::json(500, &json!({ "error": error.to_string() })),
    }
}
