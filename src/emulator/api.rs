//! The API's origin: parses requests, checks what all operations have in common, and routes each to its service.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::faults::AppliedFault;
use super::lock::lock;
use super::model::State;
use super::reply::{self, Refusal, Reply, refuse, unknown};
use super::request::ApiRequest;
use super::shared::Shared;
use super::switches::{AcceptMissing, MediaType};
use super::{access, identity, imodels, itwins, storage, synchronization};

/// Maximum length of a request body, in bytes.
const BODY_MAX: usize = 1024 * 1024;

/// Handles a request; an error closes the connection. The request body is copied to `seen`.
pub(super) async fn handle(
    shared: &Shared,
    request: Request<Incoming>,
    applied: &AppliedFault,
    seen: &mut Bytes,
) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let refusal = refuse(413, "RequestTooLarge", "The body is too large.");
            return Ok(refusal.into_reply());
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    *seen = body.clone();
    let segments = segments(parts.uri.path());
    let path_lower: Vec<String> = segments
        .iter()
        .flatten()
        .map(|segment| segment.to_ascii_lowercase())
        .collect();
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
        .collect();
    let lifetime = shared.options.sas_lifetime;
    let mut request = ApiRequest {
        shared,
        method: parts.method.to_string(),
        path_lower,
        segments: segments.clone().unwrap_or_default(),
        query,
        headers: &parts.headers,
        body,
        now: Timestamp::now(),
        switches: *lock(&shared.switches),
        address_lifetime: applied.address_lifetime.unwrap_or(lifetime),
        azurite_blob: None,
        client_id: String::new(),
    };
    if segments.is_none() {
        return Ok(unknown().into_reply());
    }
    request.azurite_blob = storage::read_from_azurite(&request).await;
    let mut reply = route(&mut request).unwrap_or_else(Refusal::into_reply);
    let json = Some(&HeaderValue::from_static(reply::JSON));
    if request.switches.media_type == MediaType::Vendor
        && reply.headers().get("content-type") == json
    {
        let kind = format!("{}; charset=utf-8", vendor_type(&request));
        if let Ok(kind) = kind.parse() {
            reply.headers_mut().insert("content-type", kind);
        }
    }
    if request.method != "GET" {
        shared.store.changed();
    }
    Ok(reply)
}

/// The decoded segments of a path. None if a segment other than the last is empty, or is not UTF-8.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8().ok())
        .map(|segment| segment.filter(|text| !text.is_empty()).map(Into::into))
        .collect()
}

fn vendor_type(request: &ApiRequest<'_>) -> String {
    let version = match request.path_lower.first().map(String::as_str) {
        Some("imodels" | "accesscontrol") => "v2",
        _ => "v1",
    };
    format!("application/vnd.bentley.itwin-platform.{version}+json")
}

/// Whether the `Accept` header names the current version, or none where the switch permits that.
fn is_acceptable(request: &ApiRequest<'_>) -> bool {
    let open = request.switches.accept_missing == AcceptMissing::Served;
    let Some(accept) = request.header("accept") else {
        return open;
    };
    let is_download = request
        .path_lower
        .last()
        .is_some_and(|word| word == "download");
    let known = vendor_type(request);
    accept.split(',').any(|one| {
        let kind = one.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case(&known)
            // The documentation requires the vendor type and does not mention a general one: it is treated like a
            // missing header.
            // Source: developer.bentley.com/apis/overview/lifecycle/
            || open && ["*/*", "application/*", "application/json"].contains(&kind)
            || is_download
                && kind
                    .eq_ignore_ascii_case("application/vnd.bentley.itwin-platform.v1+octet-stream")
    })
}

fn route(request: &mut ApiRequest<'_>) -> Result<Reply, Refusal> {
    if let Some(reply) = identity::handle(request) {
        return Ok(reply);
    }
    request.client_id = identity::authorize(request)?;
    if !is_acceptable(request) {
        return Err(unknown());
    }
    let request = &*request;
    let mut state = request.shared.state();
    let state: &mut State = &mut state;
    state.settle(request.now);
    match request.path_lower.first().map(String::as_str) {
        Some("accesscontrol") => access::handle(request, state),
        Some("itwins") => itwins::handle(request, state),
        Some("imodels") => imodels::handle(request, state),
        Some("storage") => storage::handle(request, state),
        Some("synchronization") => synchronization::handle(request, state),
        Some("users") => access::me(request),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_no_empty_segments_but_may_end_in_a_slash() {
        let text = |path| segments(path).map(|segments| segments.join("|"));
        for (path, expected) in [
            ("/storage/", Some("storage")),
            ("/storage/files/a%2Fb", Some("storage|files|a/b")),
            ("/storage//files", None),
            ("//storage", None),
            ("/storage/%FF", None),
            ("/", None),
        ] {
            assert_eq!(text(path).as_deref(), expected, "{path}");
        }
    }
}
