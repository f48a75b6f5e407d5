//! A response, and whether it comes from the platform: proxies, firewalls and login pages respond too.
//!
//! In: status, headers and body. Out: typed values, or an [`Error`] that says what the response is instead.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::de::{DeserializeOwned, DeserializeSeed as _};

use super::body::Body;
use super::envelope::envelope;
use super::error::{Error, Kind};
use super::headers::text_header;
use super::limits::{DEPTH_MAX, is_too_deep};
use super::page::{Page, PageSeed};
use super::untrusted_text::sanitize;
use super::urls::without_secrets;

/// Whether a redirect can be the platform's own response to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    Unexpected,
    /// Its `Location` is the result of the call.
    Expected,
}

/// A response.
#[derive(Debug)]
pub(super) struct Reply {
    operation: &'static str,
    /// The host for messages.
    host: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
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

    /// The body without byte order mark and surrounding whitespace.
    fn bytes(&self) -> &[u8] {
        self.body
            .strip_prefix("\u{feff}".as_bytes())
            .unwrap_or(&self.body)
            .trim_ascii()
    }

    /// Size of the body in bytes.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// Decodes the body. Strings are not sanitized unless their type does that; see [`super::untrusted_text`].
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
            return Err(self.unreadable(&format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let mut json = serde_json::Deserializer::from_slice(body);
        read(&mut json)
            .and_then(|value| json.end().map(|()| value))
            .map_err(|error| self.unreadable(&error.to_string()))
    }

    /// Decodes a page of a list whose items are in `field`.
    pub(super) fn page<T: DeserializeOwned>(&self, field: &str) -> Result<Page<T>, Error> {
        let seed = PageSeed {
            field,
            items: std::marker::PhantomData,
        };
        let (items, more) = self.deserialize(|json| seed.deserialize(json))?;
        let items = items.ok_or_else(|| self.unreadable(&format!("missing {field:?}")))?;
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
                // The parser's message can quote the body.
                what: sanitize(what),
            },
        )
    }

    pub(super) fn too_large(&self, what: String) -> Error {
        let status = self.status.as_u16();
        Error::new(self.operation, Kind::TooLarge { status, what })
    }

    /// The error for a response that does not come from the platform.
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

    /// Describes the response, to help find out what sent it.
    fn describe(&self) -> String {
        if self.status.is_redirection()
            && let Some(location) = text_header(&self.headers, "location")
        {
            return format!("redirect to {}", without_secrets(location));
        }
        let text = self.text();
        if self.is_empty() {
            return "empty body".to_owned();
        }
        if is_html(&text) {
            return match title(&text) {
                Some(title) => format!("web page {title:?}"),
                None => "web page".to_owned(),
            };
        }
        let kind = text_header(&self.headers, "content-type").unwrap_or("no media type");
        let kind = sanitize(kind);
        if let Some(coding) = text_header(&self.headers, "content-encoding") {
            return format!("{kind}, encoded as {:?}", sanitize(coding));
        }
        let odd = text.chars().take(1000).filter(|c| is_odd(*c)).count();
        if odd > 0 {
            return format!("{} bytes of binary data ({kind})", self.len());
        }
        format!("{:?} ({kind})", sanitize(&text))
    }

    /// Code and message of the platform's error envelope.
    pub(super) fn envelope(&self) -> (Option<String>, String) {
        envelope(self.bytes()).unwrap_or_default()
    }

    fn starts_like_json(&self) -> bool {
        matches!(self.bytes().first(), Some(b'{' | b'['))
    }
}

/// Whether the platform itself sent a response to an API call.
///
/// A success is JSON or empty; a redirect is expected; an error has the platform's envelope, or at least the
/// correlation id of all its responses. An empty 401 or 429 is accepted as well: the reaction to it does no harm.
pub(super) fn is_of_the_platform(reply: &Reply, redirects: Redirects) -> bool {
    match reply.status.as_u16() {
        200..=299 => reply.is_empty() || reply.starts_like_json(),
        302 | 303 => redirects == Redirects::Expected && !is_html(&reply.text()),
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

/// The title of a web page, which often names the product that sent it.
fn title(page: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let tag = lower.find("<title")?;
    let start = tag + lower.get(tag..)?.find('>')? + 1;
    let end = start + lower.get(start..)?.find("</title")?;
    Some(sanitize(page.get(start..end)?)).filter(|title| !title.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

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
    fn a_response_of_a_proxy_is_described() {
        const HTML: (&str, &str) = ("content-type", "text/html");
        for (status, headers, body, shown) in [
            (
                400,
                vec![HTML],
                "<html><title>Squid\n says no</title></html>",
                "400 Bad Request, web page \"Squid says no\"",
            ),
            (
                413,
                vec![HTML],
                "<HTML>too big",
                "413 Payload Too Large, web page",
            ),
            (
                422,
                vec![],
                r#"{"blocked":true}"#,
                "422 Unprocessable Entity, \"{\\\"blocked\\\":true}\" (no media type)",
            ),
            (200, vec![HTML], "<!DOCTYPE html>login", "200 OK, web page"),
            (403, vec![], "", "403 Forbidden, empty body"),
            (
                302,
                vec![("location", "https://me:pw@login.example/x?token=1")],
                "",
                "302 Found, redirect to https://login.example/x",
            ),
            (
                502,
                vec![("content-type", "text/plain")],
                "\u{1}\u{2}",
                "502 Bad Gateway, 2 bytes of binary data (text/plain)",
            ),
        ] {
            let reply = reply(status, &headers, body);
            assert!(
                !is_of_the_platform(&reply, Redirects::Unexpected),
                "{shown}"
            );
            let error = reply.foreign(None);
            assert_eq!(
                error.to_string(),
                format!("test: response from a proxy or firewall instead of h: {shown}")
            );
            assert_eq!(
                error.class(),
                crate::retry::Class::Transient { floor: None }
            );
        }
    }

    #[test]
    fn a_response_of_the_platform_is_recognized() {
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
                is_of_the_platform(&reply(status, &headers, body), Redirects::Unexpected),
                "{status} {body}"
            );
        }
        assert!(is_of_the_platform(
            &reply(303, &[("location", "/x")], ""),
            Redirects::Expected
        ));
        assert!(!is_of_the_platform(
            &reply(303, &[("location", "/x")], ""),
            Redirects::Unexpected
        ));
    }
}
