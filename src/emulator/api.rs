//! The API's origin: takes requests apart, checks what all of them have in common, and hands each to its part.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::faults::Strike;
use super::model::State;
use super::reply::{self, Refusal, Reply, invalid, refuse};
use super::switches::{AcceptMissing, MediaType, OversizedPage, Switches};
use super::{Shared, identity, imodels, itwins, lock, storage, synchronization};

/// A body of a request is at most this long.
const BODY_MAX: usize = 1024 * 1024;

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) shared: &'a Shared,
    pub(super) method: String,
    /// Segments of the path in lower case.
    pub(super) words: Vec<String>,
    /// Segments of the path, decoded.
    pub(super) segments: Vec<String>,
    /// By name in lower case.
    query: HashMap<String, String>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Bytes,
    pub(super) now: Timestamp,
    pub(super) switches: Switches,
    /// How long an upload address that is handed out is good.
    pub(super) address_lifetime: Duration,
    /// Content that arrived elsewhere for the file that is being completed: bytes, digest, tag.
    pub(super) arrived: Option<Arrived>,
    /// Who asks.
    pub(super) client_id: String,
}

/// What another storage says of a blob.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) tag: String,
}

/// Which pages of a list name a next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// All, even the last.
    Always,
    /// Those that have one.
    WhileMore,
}

impl Ask<'_> {
    /// A segment of the path as it was sent, decoded.
    pub(super) fn segment(&self, at: usize) -> &str {
        self.segments
            .get(at)
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// The value of a query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .get(&name.to_ascii_lowercase())
            .map(String::as_str)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as a JSON object.
    pub(super) fn json(&self, code: &'static str) -> Result<Value, Refusal> {
        if self.body.is_empty() {
            return Err(refuse(
                422,
                "MissingRequestBody",
                "The request needs a body.",
            ));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(Value::Object(object)),
            Ok(_) => Err(refuse(422, code, "The body is no JSON object.")),
            Err(error) => Err(refuse(422, code, format!("The body is no JSON: {error}."))),
        }
    }

    /// Whether full items are wanted in lists.
    pub(super) fn wants_representation(&self) -> bool {
        self.header("prefer")
            .is_some_and(|prefer| prefer.eq_ignore_ascii_case("return=representation"))
    }

    /// A page of a list, with links.
    pub(super) fn page<T>(
        &self,
        items: Vec<T>,
        max: usize,
        next: Next,
        code: &'static str,
    ) -> Result<(Vec<T>, Value), Refusal> {
        let number = |name: &'static str, default: usize| match self.query(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| invalid(code, name, "It is no number.")),
        };
        let (top, skip) = (number("$top", max)?, number("$skip", 0)?);
        if top == 0 || top > max && self.switches.oversized_page == OversizedPage::Refused {
            return Err(invalid(code, "$top", "It is out of range."));
        }
        let top = top.min(max);
        let more = items.len() > skip.saturating_add(top);
        let page = items.into_iter().skip(skip).take(top).collect();
        let mut others = form_urlencoded::Serializer::new(String::new());
        for (name, value) in self.query.iter().filter(|(name, _)| !name.starts_with('$')) {
            others.append_pair(name, value);
        }
        let others = others.finish();
        let link = |skip: usize| {
            let path = self.segments.join("/");
            let and = if others.is_empty() { "" } else { "&" };
            let href = format!(
                "{}/{path}?{others}{and}$skip={skip}&$top={top}",
                self.shared.api_url
            );
            json!({ "href": href })
        };
        let mut links = json!({ "self": link(skip), "prev": link(skip.saturating_sub(top)) });
        if more || next == Next::Always {
            links["next"] = link(skip.saturating_add(top));
        }
        Ok((page, links))
    }

    /// Fails when the caller has no permission on an iModel.
    pub(super) fn may_use_imodel(&self, id: &str) -> Result<(), Refusal> {
        let forbidden = &self.shared.options.forbidden_imodels;
        if forbidden.iter().any(|forbidden| forbidden == id) {
            return Err(insufficient());
        }
        Ok(())
    }
}

pub(super) fn insufficient() -> Refusal {
    refuse(
        403,
        "InsufficientPermissions",
        "The user has insufficient permissions for the requested operation.",
    )
}

/// An address, a method or an Accept header that the platform does not know.
pub(super) fn unknown() -> Refusal {
    refuse(
        404,
        "ResourceNotFound",
        "Requested resource is not available. Check the URL and the Accept header.",
    )
}

/// A property of a body that is text, or is not there.
pub(super) fn text<'b>(
    body: &'b Value,
    name: &'static str,
    code: &'static str,
) -> Result<Option<&'b str>, Refusal> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(invalid(code, name, "It is no text.")),
    }
}

/// Answers a request; an error closes the connection.
pub(super) async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    strike: &Strike,
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
    let segments = segments(parts.uri.path());
    let words: Vec<String> = segments
        .iter()
        .flatten()
        .map(|segment| segment.to_ascii_lowercase())
        .collect();
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned()))
        .collect();
    let lifetime = shared.options.sas_lifetime;
    let mut ask = Ask {
        shared,
        method: parts.method.to_string(),
        words,
        segments: segments.clone().unwrap_or_default(),
        query,
        headers: &parts.headers,
        body,
        now: Timestamp::now(),
        switches: *lock(&shared.switches),
        address_lifetime: strike.address_lifetime.unwrap_or(lifetime),
        arrived: None,
        client_id: String::new(),
    };
    if segments.is_none() {
        return Ok(unknown().into_reply());
    }
    ask.arrived = storage::arrived_elsewhere(&ask).await;
    let mut reply = route(&mut ask).unwrap_or_else(Refusal::into_reply);
    let json = Some(&HeaderValue::from_static(reply::JSON));
    if ask.switches.media_type == MediaType::Vendor && reply.headers().get("content-type") == json {
        let kind = format!("{}; charset=utf-8", vendor_type(&ask));
        if let Ok(kind) = kind.parse() {
            reply.headers_mut().insert("content-type", kind);
        }
    }
    if ask.method != "GET" {
        shared.store.changed();
    }
    Ok(reply)
}

/// The decoded segments of a path. None if one is empty (but the last may be), or is no text.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    path.strip_suffix('/')
        .unwrap_or(path)
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8().ok())
        .map(|segment| segment.filter(|text| !text.is_empty()).map(Into::into))
        .collect()
}

fn vendor_type(ask: &Ask<'_>) -> String {
    let version = match ask.words.first().map(String::as_str) {
        Some("imodels") => "v2",
        _ => "v1",
    };
    format!("application/vnd.bentley.itwin-platform.{version}+json")
}

/// Whether the `Accept` header names the version that there is, or leaves it open where that is served.
fn is_acceptable(ask: &Ask<'_>) -> bool {
    let open = ask.switches.accept_missing == AcceptMissing::Served;
    let Some(accept) = ask.header("accept") else {
        return open;
    };
    let is_download = ask.words.last().is_some_and(|word| word == "download");
    let known = vendor_type(ask);
    accept.split(',').any(|one| {
        let kind = one.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case(&known)
            || open && kind == "*/*"
            || is_download
                && kind
                    .eq_ignore_ascii_case("application/vnd.bentley.itwin-platform.v1+octet-stream")
    })
}

fn route(ask: &mut Ask<'_>) -> Result<Reply, Refusal> {
    if let Some(reply) = identity::answer(ask) {
        return Ok(reply);
    }
    ask.client_id = identity::authorize(ask)?;
    if !is_acceptable(ask) {
        return Err(unknown());
    }
    let ask = &*ask;
    let mut state = ask.shared.state();
    let state: &mut State = &mut state;
    match ask.words.first().map(String::as_str) {
        Some("itwins") => itwins::answer(ask, state),
        Some("imodels") => imodels::answer(ask, state),
        Some("storage") => storage::answer(ask, state),
        Some("synchronization") => synchronization::answer(ask, state),
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
