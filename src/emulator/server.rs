//! The two origins: accepts connections, applies faults, hands requests to the API or the blob storage, records them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::body::{self, discard};
use super::faults::{AppliedFault, Effect};
use super::guard::{self, Guard};
use super::lock::lock;
use super::recorder::Exchange;
use super::reply::{self, Reply, refuse};
use super::shared::{RequestRecord, Shared};
use super::{api, blob, control};

/// The origin that received a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    Api,
    Blob,
}

/// Accepts connections until `stop`.
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
        // Most likely out of file descriptors, which is temporary.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        drop(stream.set_nodelay(true));
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| handle(&shared, origin, request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // Clients disconnect at any time, and a fault can close the connection.
            drop(served);
        });
    }
}

/// Handles and records a request; an error closes the connection.
async fn handle(
    shared: &Arc<Shared>,
    origin: Origin,
    request: Request<Incoming>,
) -> io::Result<Reply> {
    let time = Timestamp::now();
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    let guard = &shared.guard;
    if let Err(refused) = guard.check_host(request.uri(), request.headers()) {
        return Ok(refused.into_reply());
    }
    if origin == Origin::Api && path.to_ascii_lowercase().starts_with("/_emulator/") {
        return match Guard::check_control(request.headers()) {
            Ok(()) => Ok(control::handle(shared, request).await),
            Err(refused) => Ok(refused.into_reply()),
        };
    }
    if guard::is_preflight(request.method(), request.headers()) {
        return Ok(guard::preflight(guard, request.headers()));
    }
    let page = guard.allowed_origin(request.headers());
    let query = without_signature(request.uri().query().unwrap_or_default());
    let correlation_id = request
        .headers()
        .get("x-correlation-id")
        .and_then(|value| value.to_str().ok())
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let bytes = request
        .headers()
        .get("content-length")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let applied = lock(&shared.faults).for_request(&method, &path);
    let recorded = shared.recorder.as_ref().map(|_| {
        let base = match origin {
            Origin::Api => &shared.api_url,
            Origin::Blob => &shared.blob_url,
        };
        let url = format!("{base}{}", request.uri());
        (url, request.headers().clone())
    });
    let mut body = Bytes::new();
    let mut result = respond(shared, origin, request, &applied, time, &mut body).await;
    if let (Some(recorder), Some((url, request_headers))) = (&shared.recorder, recorded) {
        let (reply, response_headers, response_body) = readable_parts(result, &applied).await;
        let status = reply.as_ref().map_or(0, |reply| reply.status().as_u16());
        recorder.write(&Exchange {
            began: time,
            method: &method,
            url,
            request_headers: &request_headers,
            request_body: &body,
            request_size: bytes,
            status,
            response_headers,
            response_body: &response_body,
        });
        result = reply;
    }
    let (origin_name, id_header) = match origin {
        Origin::Api => ("api", "x-correlation-id"),
        Origin::Blob => ("blob", "x-ms-request-id"),
    };
    lock(&shared.requests).push(RequestRecord {
        time,
        origin: origin_name,
        method,
        path,
        query,
        status: result.as_ref().map_or(0, |reply| reply.status().as_u16()),
        correlation_id: correlation_id.clone(),
        bytes,
    });
    let mut reply = result?;
    if let Ok(value) = correlation_id.parse() {
        reply.headers_mut().insert(id_header, value);
    }
    guard::readable(&mut reply, page);
    Ok(reply)
}

/// A response with its headers, and its body if that is text and sent in full.
async fn readable_parts(
    result: io::Result<Reply>,
    applied: &AppliedFault,
) -> (io::Result<Reply>, HeaderMap, Bytes) {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return (Err(error), HeaderMap::new(), Bytes::new()),
    };
    let headers = reply.headers().clone();
    let kind = headers.get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_text = kind.contains("json") || kind.contains("xml");
    let is_whole = applied.bytes_per_second.is_none() && applied.effect != Some(Effect::CutAnswer);
    if !is_text || !is_whole {
        return (Ok(reply), headers, Bytes::new());
    }
    let (parts, body) = reply.into_parts();
    match body.collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let reply = Reply::from_parts(parts, body::full(body.clone()));
            (Ok(reply), headers, body)
        }
        Err(error) => (Err(error), headers, Bytes::new()),
    }
}

/// The response, with the faults that apply. The body of an API request is copied to `body`.
async fn respond(
    shared: &Shared,
    origin: Origin,
    request: Request<Incoming>,
    applied: &AppliedFault,
    time: Timestamp,
    body: &mut Bytes,
) -> io::Result<Reply> {
    if !applied.latency.is_zero() {
        tokio::time::sleep(applied.latency).await;
    }
    if applied.revoke_tokens {
        lock(&shared.tokens).revoke_all();
    }
    let kept_from_effect = matches!(
        applied.effect,
        Some(
            Effect::Status {
                after_effect: false,
                ..
            } | Effect::Reset {
                after_effect: false
            }
        )
    );
    let mut reply = if kept_from_effect {
        discard(request.into_body()).await;
        reply::empty(500)
    } else if let Some(refused) = over_quota(shared, origin, time) {
        discard(request.into_body()).await;
        refused
    } else {
        match origin {
            Origin::Api => api::handle(shared, request, applied, body).await?,
            Origin::Blob => blob::handle(shared, request, applied).await?,
        }
    };
    match &applied.effect {
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
            reply = reply::with(*status, &headers, body.clone());
        }
        Some(Effect::Reset { .. }) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Effect::CutAnswer) => reply = body::cut(reply).await,
        _ => {}
    }
    if let Some(bytes_per_second) = applied.bytes_per_second {
        reply = body::slow(reply, bytes_per_second).await;
    }
    Ok(reply)
}

/// The response to a request over the rate limit.
fn over_quota(shared: &Shared, origin: Origin, time: Timestamp) -> Option<Reply> {
    let max = shared.options.requests_per_minute?;
    if origin != Origin::Api {
        return None;
    }
    let wait = lock(&shared.quota).take(max, time).err()?;
    let mut reply = refuse(429, "RateLimitExceeded", "Too many requests.").into_reply();
    for (name, value) in [
        ("retry-after", wait.to_string()),
        ("itwinplatform-ratelimited-tier", "Emulated".to_owned()),
    ] {
        if let Ok(value) = value.parse() {
            reply.headers_mut().insert(name, value);
        }
    }
    Some(reply)
}

/// A query without its signature.
fn without_signature(query: &str) -> String {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.to_ascii_lowercase().starts_with("sig="));
    pairs.collect::<Vec<_>>().join("&")
}
