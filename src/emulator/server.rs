//! The two origins: accepts, lets faults strike, hands over to the room's parts, records.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use uuid::Uuid;

use super::faults::Effect;
use super::reply::{self, Body, Refusal, Reply, refuse};
use super::{Shared, blob, control, identity, lock, storage, synchronization};

/// A body of a request to the API is at most this long.
const API_BODY_MAX: usize = 1024 * 1024;

/// Which of the two listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    Api,
    Blob,
}

/// A request that was answered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RequestRecord {
    /// When it arrived.
    pub time: Timestamp,
    /// `api` or `blob`.
    pub origin: &'static str,
    /// HTTP method.
    pub method: String,
    /// Path, as it was sent.
    pub path: String,
    /// Query, without a signature.
    pub query: String,
    /// Status of the answer; 0 when the connection was closed instead.
    pub status: u16,
    /// The id that the answer carried.
    pub correlation_id: String,
}

/// A request to the API, taken apart.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) shared: &'a Shared,
    pub(super) method: &'a Method,
    /// Decoded segments as they were sent.
    pub(super) segments: Vec<String>,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Bytes,
    pub(super) now: Timestamp,
}

impl Ask<'_> {
    /// The body as JSON.
    pub(super) fn json(&self, code: &'static str) -> Result<serde_json::Value, Refusal> {
        if self.body.is_empty() {
            return Err(refuse(
                422,
                "MissingRequestBody",
                "The request needs a body.",
            ));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| refuse(422, code, format!("The body is no JSON: {error}.")))
    }

    /// Whether full items are wanted in lists.
    pub(super) fn wants_representation(&self) -> bool {
        self.header("prefer")
            .is_some_and(|prefer| prefer.eq_ignore_ascii_case("return=representation"))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A page of a list, with links.
    pub(super) fn page<T>(
        &self,
        items: Vec<T>,
        max: usize,
    ) -> Result<(Vec<T>, serde_json::Value), Refusal> {
        let number = |name: &str, default: usize| match self.query.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                refuse(
                    422,
                    "InvalidStorageRequest",
                    format!("{name} is no number."),
                )
            }),
        };
        let top = number("$top", max)?.clamp(1, max);
        let skip = number("$skip", 0)?;
        let page = items.into_iter().skip(skip).take(top).collect();
        let link = |skip: usize| {
            let path: Vec<&str> = self.segments.iter().map(String::as_str).collect();
            let href = format!(
                "{}/{}?$skip={skip}&$top={top}",
                self.shared.api_url,
                path.join("/")
            );
            serde_json::json!({ "href": href })
        };
        // The platform names a next page even behind the last one.
        let links = serde_json::json!({
            "self": link(skip), "prev": link(skip.saturating_sub(top)), "next": link(skip + top),
        });
        Ok((page, links))
    }
}

/// Accepts until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    origin: Origin,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        // Out of descriptors, most likely: that passes.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        drop(stream.set_nodelay(true));
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&shared, origin, request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // The other side may go whenever it likes, and a fault may close the connection.
            drop(served);
        });
    }
}

/// An error closes the connection.
async fn answer(shared: &Shared, origin: Origin, request: Request<Incoming>) -> io::Result<Reply> {
    let time = Timestamp::now();
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    if origin == Origin::Api && path.to_ascii_lowercase().starts_with("/_emulator/") {
        return Ok(control::answer(shared, request).await);
    }
    let query = harmless(request.uri().query().unwrap_or_default());
    let correlation_id = request
        .headers()
        .get("x-correlation-id")
        .and_then(|value| value.to_str().ok())
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let strike = lock(&shared.faults).strike(&method, &path);
    if !strike.latency.is_zero() {
        tokio::time::sleep(strike.latency).await;
    }
    let carried_out = !matches!(
        strike.effect,
        Some(
            Effect::Status {
                after_effect: false,
                ..
            } | Effect::Reset {
                after_effect: false
            }
        )
    );
    let mut reply = if carried_out {
        match origin {
            Origin::Api => api(shared, request).await?,
            Origin::Blob => blob::answer(shared, request).await?,
        }
    } else {
        discard(request.into_body()).await;
        reply::empty(500)
    };
    let mut closed = false;
    match strike.effect {
        Some(Effect::Status {
            status,
            body,
            headers,
            ..
        }) => {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            reply = reply::with(status, &headers, body);
        }
        Some(Effect::Reset { .. }) => closed = true,
        Some(Effect::Latency { .. }) | None => {}
    }
    if let Ok(value) = correlation_id.parse() {
        let name = if origin == Origin::Api {
            "x-correlation-id"
        } else {
            "x-ms-request-id"
        };
        reply.headers_mut().insert(name, value);
    }
    let status = if closed { 0 } else { reply.status().as_u16() };
    let origin = if origin == Origin::Api { "api" } else { "blob" };
    lock(&shared.requests).push(RequestRecord {
        time,
        origin,
        method,
        path,
        query,
        status,
        correlation_id,
    });
    if closed {
        Err(io::ErrorKind::ConnectionReset.into())
    } else {
        Ok(reply)
    }
}

async fn api(shared: &Shared, request: Request<Incoming>) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, API_BODY_MAX)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let segments: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        .into_owned()
        .collect();
    let ask = Ask {
        shared,
        method: &parts.method,
        segments,
        query,
        headers: &parts.headers,
        body,
        now: Timestamp::now(),
    };
    let reply = route(&ask).unwrap_or_else(Refusal::into_reply);
    if !matches!(*ask.method, Method::GET) {
        shared.store.changed();
    }
    Ok(reply)
}

fn route(ask: &Ask<'_>) -> Result<Reply, Refusal> {
    let words: Vec<String> = ask
        .segments
        .iter()
        .map(|segment| segment.to_ascii_lowercase())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let [".well-known", "openid-configuration"] | ["connect", "token"] = words.as_slice() {
        return Ok(identity::answer(ask, &words));
    }
    identity::authorize(ask)?;
    let version = if words.first() == Some(&"imodels") {
        "v2"
    } else {
        "v1"
    };
    if ask.header("accept")
        != Some(&format!(
            "application/vnd.bentley.itwin-platform.{version}+json"
        ))
    {
        return Err(unknown());
    }
    match words.as_slice() {
        ["imodels", _] if *ask.method == Method::GET => imodel(ask),
        ["storage", ..] => storage::answer(ask, &words),
        ["synchronization", "imodels", rest @ ..] => synchronization::answer(ask, rest),
        _ => Err(unknown()),
    }
}

fn imodel(ask: &Ask<'_>) -> Result<Reply, Refusal> {
    let id = ask.segments.get(1).map(String::as_str).unwrap_or_default();
    if Uuid::parse_str(id).is_err() {
        return Err(refuse(422, "InvalidiModelsRequest", "Invalid request.")
            .about("iModelId", "It is no UUID."));
    }
    ask.may_use_imodel(id)?;
    let state = ask.shared.state();
    let imodel = state
        .imodels
        .get(id)
        .ok_or_else(|| refuse(404, "iModelNotFound", "Requested iModel is not available."))?;
    let body = serde_json::json!({ "iModel": {
        "id": imodel.id, "displayName": imodel.display_name, "name": imodel.display_name, "description": null,
        "state": "initialized", "createdDateTime": "2024-10-17T13:44:55.5370000Z", "lastChangesetPushDateTime": null,
        "iTwinId": imodel.itwin_id, "dataCenterLocation": "East US", "isSecured": false, "extent": null,
        "containersEnabled": 1, "_links": { "upload": null, "complete": null },
    }});
    Ok(reply::json(200, &body))
}

impl Ask<'_> {
    pub(super) fn may_use_imodel(&self, id: &str) -> Result<(), Refusal> {
        if self
            .shared
            .options
            .forbidden_imodels
            .iter()
            .any(|forbidden| forbidden == id)
        {
            let message = "The user has insufficient permissions for the requested operation.";
            return Err(refuse(403, "InsufficientPermissions", message));
        }
        Ok(())
    }
}

/// An address, a method or an Accept header that the platform does not know.
pub(super) fn unknown() -> Refusal {
    refuse(
        404,
        "ResourceNotFound",
        "Requested resource is not available. Check the URL and the Accept header.",
    )
}

/// Reads a body to its end, so that whoever sends it gets to read the answer.
pub(super) async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// A query without what makes it a secret.
fn harmless(query: &str) -> String {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.to_ascii_lowercase().starts_with("sig="));
    pairs.collect::<Vec<_>>().join("&")
}

/// A body that comes from a stream.
pub(super) fn streamed(body: Body, headers: &[(&str, String)]) -> Reply {
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body).unwrap_or_else(|_| reply::empty(500))
}
