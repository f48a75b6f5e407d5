//! An answer: read up to a limit, and judged before anything believes it. Proxies, firewalls and login pages answer too.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

use super::error::{Error, Kind};
use super::http::text_header;
use super::said::words;

/// How much of an answer is read, by its kind. Compressed ones count as they are after inflating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// A token, or one thing of the platform.
    Answer,
    /// A page of a list, or the blocks of a blob.
    List,
}

/// An answer that refuses something is read so far, in bytes; the rest is discarded with its connection.
const REFUSAL_MAX: usize = 64 * 1024;

/// JSON that nests deeper is not of the platform.
const DEPTH_MAX: usize = 64;

/// Items of one page: more than are ever asked for, in case that is ignored.
const ITEMS_MAX: usize = 10_000;

impl Limit {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Answer => 1024 * 1024,
            Self::List => 16 * 1024 * 1024,
        }
    }
}

/// A body up to this size has memory of its own, in bytes.
const SMALL: usize = 1024 * 1024;

/// What larger ones are read into, one after the other: so they cost this memory once, however many hosts send them.
static LARGE: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(Arc::default);

/// The bytes of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Small(Vec<u8>),
    Large(OwnedMutexGuard<Vec<u8>>),
}

impl Body {
    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

/// Reads the body; false: there was more of it.
pub(super) async fn read(
    mut response: reqwest::Response,
    limit: Limit,
) -> Result<(Body, bool), reqwest::Error> {
    let limit = if response.status().as_u16() < 300 {
        limit.bytes()
    } else {
        REFUSAL_MAX
    };
    let mut body = Body::Small(Vec::new());
    while let Some(piece) = response.chunk().await? {
        let left = limit - body.len();
        let fitting = piece.get(..left.min(piece.len())).unwrap_or_default();
        if body.len() + fitting.len() > SMALL && matches!(body, Body::Small(_)) {
            let mut large = Arc::clone(&LARGE).lock_owned().await;
            large.clear();
            large.extend_from_slice(&body);
            body = Body::Large(large);
        }
        body.bytes().extend_from_slice(fitting);
        if piece.len() > left {
            return Ok((body, false));
        }
    }
    Ok((body, true))
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    operation: &'static str,
    /// The host for messages.
    host: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
}

/// A page of a list.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Whether there may be another one.
    pub(super) more: bool,
}

impl Reply {
    pub(super) fn new(
        operation: &'static str,
        host: String,
        status: StatusCode,
        headers: HeaderMap,
        body: Body,
    ) -> Self {
        Self {
            operation,
            host,
            status,
            headers,
            body,
        }
    }

    /// The body, without a byte order mark.
    fn bytes(&self) -> &[u8] {
        self.body
            .strip_prefix("\u{feff}".as_bytes())
            .unwrap_or(&self.body)
            .trim_ascii()
    }

    /// Bytes that arrived.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// Only what is said about a string by its own type keeps it from carrying secrets; see [`super::said`].
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.deserialize(|json| T::deserialize(json))
    }

    fn deserialize<'a, T>(
        &'a self,
        read: impl FnOnce(
            &mut serde_json::Deserializer<serde_json::de::SliceRead<'a>>,
        ) -> Result<T, serde_json::Error>,
    ) -> Result<T, Error> {
        let body = self.bytes();
        if is_too_deep(body) {
            return Err(self.unreadable(&format!("it nests deeper than {DEPTH_MAX} levels")));
        }
        let mut json = serde_json::Deserializer::from_slice(body);
        read(&mut json)
            .and_then(|value| json.end().map(|()| value))
            .map_err(|error| self.unreadable(&error.to_string()))
    }

    /// A page of a list, whose items are in `field`. Everything else is read over.
    pub(super) fn page<T: DeserializeOwned>(&self, field: &str) -> Result<Page<T>, Error> {
        let seed = PageSeed {
            field,
            items: std::marker::PhantomData,
        };
        let (items, more) = self.deserialize(|json| seed.deserialize(json))?;
        let items = items.ok_or_else(|| self.unreadable(&format!("no {field:?}")))?;
        Ok(Page { items, more })
    }

    /// The body as text.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn unreadable(&self, what: &str) -> Error {
        Error::new(
            self.operation,
            Kind::Unreadable {
                status: self.status.as_u16(),
                // A parser quotes what it stumbled over.
                what: words(what),
            },
        )
    }

    pub(super) fn too_large(&self, what: String) -> Error {
        let status = self.status.as_u16();
        Error::new(self.operation, Kind::TooLarge { status, what })
    }

    /// The failure that this answer is when it is of somebody on the way.
    pub(super) fn foreign(&self, floor: Option<Duration>) -> Error {
        Error::new(
            self.operation,
            Kind::Foreign {
                host: self.host.clone(),
                status: self.status,
                what: self.describe(),
                floor,
            },
        )
    }

    /// What the answer is, for somebody who looks for its author.
    fn describe(&self) -> String {
        if self.status.is_redirection()
            && let Some(location) = text_header(&self.headers, "location")
        {
            return format!("a redirect to {}", target(location));
        }
        let text = self.text();
        if self.is_empty() {
            return "an empty answer".to_owned();
        }
        if is_html(&text) {
            return match title(&text) {
                Some(title) => format!("a web page, {title:?}"),
                None => "a web page".to_owned(),
            };
        }
        let kind = text_header(&self.headers, "content-type").unwrap_or("no media type");
        let kind = words(kind);
        if let Some(coding) = text_header(&self.headers, "content-encoding") {
            return format!("{kind}, encoded as {:?}", words(coding));
        }
        let odd = text.chars().take(1000).filter(|c| is_odd(*c)).count();
        if odd > 0 {
            return format!("{} bytes that are no text ({kind})", self.len());
        }
        format!("{:?} ({kind})", words(&text))
    }

    /// Code and message of the platform's error envelope.
    pub(super) fn envelope(&self) -> (Option<String>, String) {
        envelope(self.bytes()).unwrap_or_default()
    }

    fn starts_like_json(&self) -> bool {
        matches!(self.bytes().first(), Some(b'{' | b'['))
    }
}

/// Whether an answer to a call of the API is the platform's own.
///
/// A success is JSON or nothing; a redirect is asked for; a refusal has the platform's envelope, or at least the id that the platform puts
/// on each of its answers. A bare 401 or 429 is believed: what follows from it is harmless.
pub(super) fn is_of_the_platform(reply: &Reply, redirects: bool) -> bool {
    match reply.status.as_u16() {
        200..=299 => reply.is_empty() || reply.starts_like_json(),
        302 | 303 => redirects && !is_html(&reply.text()),
        401 | 408 | 409 | 429 | 500.. if reply.is_empty() => true,
        400.. if reply.is_empty() => reply.headers.contains_key("x-correlation-id"),
        400.. => envelope(reply.bytes()).is_some(),
        _ => false,
    }
}

fn is_odd(character: char) -> bool {
    character == char::REPLACEMENT_CHARACTER || character.is_control() && !character.is_whitespace()
}

fn is_html(text: &str) -> bool {
    let head: String = text
        .chars()
        .take(512)
        .collect::<String>()
        .to_ascii_lowercase();
    head.contains("<html") || head.contains("<!doctype html")
}

/// The title of a web page, which often names its author.
fn title(page: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let start = tag + lower.get(tag..)?.find('>')? + 1;
    let end = start + lower.get(start..)?.find("</title")?;
    Some(words(page.get(start..end)?)).filter(|title| !title.is_empty())
}

/// Where a redirect leads: no user part, no query.
pub(super) fn target(location: &str) -> String {
    match Url::parse(location) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Fails for addresses that have no host, and those have no user either.
            url.set_username("").ok();
            url.set_password(None).ok();
            words(url.as_str())
        }
        Err(_) => words(location.split(['?', '#']).next().unwrap_or_default()),
    }
}

/// Whether JSON nests too deep. Nesting costs nobody but us: a parser's stack, or a byte for each level.
fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// Reads a page without a copy of what is not of use.
struct PageSeed<'a, T> {
    field: &'a str,
    items: std::marker::PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for PageSeed<'_, T> {
    type Value = (Option<Vec<T>>, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for PageSeed<'_, T> {
    type Value = (Option<Vec<T>>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Links {
            next: Option<IgnoredAny>,
        }
        let (mut items, mut more) = (None, true);
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                items = map.next_value::<Option<Items<T>>>()?.map(|items| items.0);
            } else if key == "_links" {
                let links = map.next_value::<Option<Links>>()?;
                more = links.is_none_or(|links| links.next.is_some());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((items, more))
    }
}

/// The items of a page, which are not without number.
struct Items<T>(Vec<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sequence<T>(std::marker::PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Sequence<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Items<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == ITEMS_MAX {
                        return Err(serde::de::Error::custom(format_args!(
                            "a page has more than {ITEMS_MAX} items"
                        )));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Sequence(std::marker::PhantomData))
    }
}

/// Code and message of the platform's error envelope, or of the flat one of its gateway.
fn envelope(body: &[u8]) -> Option<(Option<String>, String)> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        code: Option<String>,
        message: Option<String>,
        target: Option<String>,
        details: Option<Vec<Body>>,
    }
    #[derive(Deserialize)]
    struct Flat {
        message: String,
    }
    if is_too_deep(body) {
        return None;
    }
    if let Ok(Envelope { error }) = serde_json::from_slice(body) {
        let details = error.details.unwrap_or_default();
        // An application that the platform does not know is told apart by a detail only.
        let unknown_client = details
            .iter()
            .any(|detail| detail.code.as_deref() == Some("UnknownClient"));
        let code = if unknown_client {
            Some("UnknownClient".to_owned())
        } else {
            error.code
        };
        let mut message = error.message.unwrap_or_default();
        for detail in &details {
            let what = detail
                .message
                .as_deref()
                .or(detail.code.as_deref())
                .unwrap_or_default();
            let target = detail
                .target
                .as_deref()
                .map(|target| format!("{target}: "))
                .unwrap_or_default();
            message.push_str(&format!("; {target}{what}"));
        }
        if let Some(target) = error.target.filter(|target| !target.is_empty()) {
            message.push_str(&format!(" ({target})"));
        }
        return Some((code, message));
    }
    let flat = serde_json::from_slice(body).ok();
    flat.map(|Flat { message }| (None, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_error_is_read_from_the_envelope_or_from_a_flat_message() {
        for (body, code, message) in [
            (
                r#"{"error":{"code":"InvalidStorageRequest","message":"bad","target":null,
                   "details":[{"code":"InvalidValue","message":"name","target":"displayName"}]}}"#,
                Some("InvalidStorageRequest"),
                "bad; displayName: name",
            ),
            (
                r#"{"error":{"code":"Unauthorized","details":[{"code":"UnknownClient","message":"x"}]}}"#,
                Some("UnknownClient"),
                "; x",
            ),
            (
                r#"{"error":{"code":null,"message":null,"details":null}}"#,
                None,
                "",
            ),
            (r#"{"message":"no"}"#, None, "no"),
        ] {
            assert_eq!(
                envelope(body.as_bytes()),
                Some((code.map(str::to_owned), message.to_owned())),
                "{body}"
            );
        }
        for body in [
            "<html>busy</html>",
            "",
            "{}",
            r#"{"detail":"blocked"}"#,
            "[1]",
        ] {
            assert_eq!(envelope(body.as_bytes()), None, "{body}");
        }
    }

    fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Reply {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        Reply::new(
            "test",
            "h".to_owned(),
            status,
            map,
            Body::Small(body.as_bytes().to_vec()),
        )
    }

    #[test]
    fn an_answer_of_somebody_on_the_way_is_named_by_what_it_is() {
        const HTML: (&str, &str) = ("content-type", "text/html");
        for (status, headers, body, shown) in [
            (
                400,
                vec![HTML],
                "<html><title>Squid\n says no</title></html>",
                "400 Bad Request, a web page, \"Squid says no\"",
            ),
            (
                413,
                vec![HTML],
                "<HTML>too big",
                "413 Payload Too Large, a web page",
            ),
            (
                422,
                vec![],
                r#"{"blocked":true}"#,
                "422 Unprocessable Entity, \"{\\\"blocked\\\":true}\" (no media type)",
            ),
            (
                200,
                vec![HTML],
                "<!DOCTYPE html>login",
                "200 OK, a web page",
            ),
            (403, vec![], "", "403 Forbidden, an empty answer"),
            (
                302,
                vec![("location", "https://me:pw@login.example/x?token=1")],
                "",
                "302 Found, a redirect to https://login.example/x",
            ),
            (
                502,
                vec![("content-type", "text/plain")],
                "\u{1}\u{2}",
                "502 Bad Gateway, 2 bytes that are no text (text/plain)",
            ),
        ] {
            let reply = reply(status, &headers, body);
            assert!(!is_of_the_platform(&reply, false), "{shown}");
            let error = reply.foreign(None);
            assert_eq!(
                error.to_string(),
                format!("test: answered by something between here and h: {shown}")
            );
            assert_eq!(
                error.class(),
                crate::retry::Class::Transient { floor: None }
            );
        }
    }

    #[test]
    fn an_answer_of_the_platform_is_believed() {
        let id = ("x-correlation-id", "7");
        for (status, headers, body) in [
            (200, vec![], r#"{"file":{}}"#),
            (202, vec![], ""),
            (422, vec![], r#"{"error":{"code":"X"}}"#),
            (401, vec![], r#"{"message":"no"}"#),
            (401, vec![], ""),
            (413, vec![id], ""),
            (503, vec![], ""),
        ] {
            assert!(
                is_of_the_platform(&reply(status, &headers, body), false),
                "{status} {body}"
            );
        }
        assert!(is_of_the_platform(
            &reply(303, &[("location", "/x")], ""),
            true
        ));
        assert!(!is_of_the_platform(
            &reply(303, &[("location", "/x")], ""),
            false
        ));
    }

    #[test]
    fn nesting_has_a_limit_and_brackets_in_texts_do_not_count() {
        assert!(is_too_deep("[".repeat(DEPTH_MAX + 1).as_bytes()));
        assert!(!is_too_deep("[]".repeat(DEPTH_MAX + 1).as_bytes()));
        let text = format!(r#"["{}\"{}"]"#, "[".repeat(100), "{".repeat(100));
        assert!(!is_too_deep(text.as_bytes()));
    }
}
