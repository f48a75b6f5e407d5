//! The control routes below `/_emulator`: state, recorded requests, faults, switches.
//!
//! In: requests of users and tests, without a token; [`super::guard`] has rejected pages of other origins. Out: JSON.
//! They are not part of the emulated platform and appear in no list of requests.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use url::form_urlencoded;

use super::faults::AnyFault;
use super::lock::lock;
use super::reply::{self, Reply};
use super::shared::Shared;

/// Maximum length of a fault, in bytes.
const BODY_MAX: usize = 16 * 1024 * 1024;

pub(super) async fn handle(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_ascii_lowercase();
    let method = request.method().to_string();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = Limited::new(request.into_body(), BODY_MAX).collect().await else {
        return rejected("the request body is too long or was cut off");
    };
    match (method.as_str(), path.trim_end_matches('/')) {
        ("GET", "/_emulator/state") => {
            shared.digest_all().await;
            json_of(&shared.state().as_of(Timestamp::now()))
        }
        ("GET", "/_emulator/requests") => json_of(&*lock(&shared.requests)),
        ("POST", "/_emulator/faults") => match AnyFault::from_json(&body.to_bytes()) {
            Ok(fault) => {
                lock(&shared.faults).add(fault);
                reply::empty(204)
            }
            Err(error) => rejected(&error.to_string()),
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
                    return rejected(&error.to_string());
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
        ("POST", "/_emulator/end-consents") => {
            shared.state().end_consents();
            reply::empty(204)
        }
        ("POST", "/_emulator/sign-out") => {
            lock(&shared.tokens).sign_out();
            reply::empty(204)
        }
        _ => reply::json(
            404,
            &json!({ "error": "unknown route: use GET state, GET requests, GET or POST switches, POST or DELETE faults, POST lock, POST sign-out, POST end-consents or POST reset" }),
        ),
    }
}

/// Locks or unlocks a storage file, as users of the platform can.
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
        None => rejected(&format!(
            "unknown storage file {id:?}: use lock?file=ID, with &locked=false to unlock"
        )),
    }
}

fn rejected(why: &str) -> Reply {
    reply::json(400, &json!({ "error": why }))
}

fn json_of(value: &impl Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(text) => reply::with(200, &[("content-type", reply::JSON)], text),
        Err(error) => reply::json(500, &json!({ "error": error.to_string() })),
    }
}
