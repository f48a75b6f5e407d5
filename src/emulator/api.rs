//! The API's origin: takes requests apart, checks what all of them have in common, and hands each to its part.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::access::Permission;
use super::faults::AppliedFault;
use super::model::State;
use super::reply::{self, Refusal, Reply, invalid, refuse};
use super::switches::{AcceptMissing, MediaType, OversizedPage, Switches};
use super::{Shared, access, identity, imodels, itwins, lock, storage, synchronization};

/// A body of a request is at most this long.
const BODY_MAX: usize = 1024 * 1024;

/// The most items that a page can be asked for.
///
/// Source: the published definitions of Storage and iModels.
const PAGE_MAX: usize = 1000;

/// Query parameters as the documentation writes them; clients may write them in any case.
const PARAMETERS: [&str; 25] = [
    "$filter",
    "$orderBy",
    "$search",
    "$select",
    "afterIndex",
    "changesetId",
    "displayName",
    "iTwinAccountId",
    "iTwinId",
    "imodelId",
    "includeInactive",
    "lastIndex",
    "name",
    "number",
    "parentId",
    "projectId",
    "redirectUrl",
    "runId",
    "state",
    "status",
    "subClass",
    "taskId",
    "type",
    "versionId",
    "x-correlation-id",
];

/// How a list is paged.
#[derive(Debug)]
pub(super) struct Pages {
    /// Items on a page that nobody asked a size for.
    pub(super) default: usize,
    /// No page has more items, whatever is asked for.
    pub(super) cap: Option<usize>,
    /// Which pages name a next one.
    pub(super) next: Next,
    /// Whether `$continuationToken` is understood.
    pub(super) has_tokens: bool,
    /// The code of a refusal.
    pub(super) code: &'static str,
}

impl Pages {
    /// Pages of a list that names a next page even behind the last one.
    pub(super) fn always(default: usize, code: &'static str) -> Self {
        Self {
            default,
            cap: None,
            next: Next::Always,
            has_tokens: false,
            code,
        }
    }

    /// Pages of a list whose last page names no next one.
    pub(super) fn while_more(default: usize, code: &'static str) -> Self {
        Self {
            next: Next::WhileMore,
            ..Self::always(default, code)
        }
    }
}

/// A parameter's name in the documented case.
fn documented(name: &str) -> &str {
    let mut known = PARAMETERS.iter();
    known
        .find(|known| known.eq_ignore_ascii_case(name))
        .unwrap_or(&name)
}

/// Text for an address: everything encoded but what never needs to be.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An opaque token for a place in a list.
fn token(skip: usize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("skip {skip}"))
}

/// The place in a list that a token stands for; the empty one stands for its beginning.
fn continuation(token: &str, code: &'static str) -> Result<usize, Refusal> {
    if token.is_empty() {
        return Ok(0);
    }
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let skip = text.and_then(|text| text.strip_prefix("skip ")?.parse().ok());
    skip.ok_or_else(|| invalid(code, "$continuationToken", "The token is unknown."))
}

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) shared: &'a Shared,
    pub(super) method: String,
    /// Segments of the path in lower case.
    pub(super) words: Vec<String>,
    /// Segments of the path, decoded.
    pub(super) segments: Vec<String>,
    /// Names in lower case, in the order they were sent.
    query: Vec<(String, String)>,
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
        let mut pairs = self.query.iter();
        pairs
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
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
            Ok(_) => Err(refuse(422, code, "The body is not a JSON object.")),
            Err(error) => Err(refuse(422, code, format!("The body is not JSON: {error}."))),
        }
    }

    /// Whether full items are wanted in lists.
    pub(super) fn wants_representation(&self) -> bool {
        self.header("prefer")
            .is_some_and(|prefer| prefer.eq_ignore_ascii_case("return=representation"))
    }

    /// A page of a list, with links that keep whatever was asked for.
    pub(super) fn page<T>(&self, items: Vec<T>, pages: &Pages) -> Result<(Vec<T>, Value), Refusal> {
        let code = pages.code;
        let number = |name: &'static str, default: usize| match self.query(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| invalid(code, name, "The value must be a number.")),
        };
        let continued = match self.query("$continuationToken") {
            Some(token) if pages.has_tokens => Some(continuation(token, code)?),
            _ => None,
        };
        let (top, skip) = (number("$top", pages.default)?, number("$skip", 0)?);
        let is_oversized = top > PAGE_MAX;
        if top == 0 || is_oversized && self.switches.oversized_page == OversizedPage::Refused {
            let what = "The page size must be between 1 and 1000.";
            return Err(invalid(code, "$top", what));
        }
        let skip = continued.unwrap_or(skip);
        let top = top.min(PAGE_MAX).min(pages.cap.unwrap_or(PAGE_MAX));
        let more = items.len() > skip.saturating_add(top);
        let page = items.into_iter().skip(skip).take(top).collect();
        let link = |skip: usize| {
            let mut pairs: Vec<String> = Vec::new();
            for (name, value) in &self.query {
                if !["$skip", "$top", "$continuationtoken"].contains(&name.as_str()) {
                    pairs.push(format!("{}={}", documented(name), encoded(value)));
                }
            }
            pairs.push(match continued {
                Some(_) => format!("$continuationToken={}", token(skip)),
                None => format!("$skip={skip}"),
            });
            pairs.push(format!("$top={top}"));
            let path = self.segments.iter().map(|segment| encoded(segment));
            let path = path.collect::<Vec<_>>().join("/");
            json!({ "href": format!("{}/{path}?{}", self.shared.api_url, pairs.join("&")) })
        };
        let mut links = json!({ "self": link(skip), "prev": link(skip.saturating_sub(top)) });
        if more || pages.next == Next::Always {
            links["next"] = link(skip.saturating_add(top));
        }
        Ok((page, links))
    }

    /// Fails when the caller lacks a permission on an iModel; one that is not there is another matter.
    pub(super) fn may_use_imodel(
        &self,
        state: &State,
        id: &str,
        permission: Permission,
    ) -> Result<(), Refusal> {
        let forbidden = &self.shared.options.forbidden_imodels;
        let imodel = state.imodels.get(&id.to_ascii_lowercase());
        let itwin = imodel.and_then(|imodel| state.itwins.get(&imodel.itwin_id));
        if forbidden.iter().any(|forbidden| forbidden == id)
            || itwin.is_some_and(|itwin| !access::has(self, itwin, permission))
        {
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
        _ => Err(invalid(code, name, "It is not text.")),
    }
}

/// Answers a request; an error closes the connection. `seen` gets its body.
pub(super) async fn answer(
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
        address_lifetime: applied.address_lifetime.unwrap_or(lifetime),
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
        Some("imodels" | "accesscontrol") => "v2",
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
            // The documentation asks for the vendor type and says nothing of a general one: it is served as if the header were missing.
            // Source: developer.bentley.com/apis/overview/lifecycle/
            || open && ["*/*", "application/*", "application/json"].contains(&kind)
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
    state.settle(ask.now);
    match ask.words.first().map(String::as_str) {
        Some("accesscontrol") => access::answer(ask, state),
        Some("itwins") => itwins::answer(ask, state),
        Some("imodels") => imodels::answer(ask, state),
        Some("storage") => storage::answer(ask, state),
        Some("synchronization") => synchronization::answer(ask, state),
        Some("users") => access::me(ask),
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
