//! Which requests are accepted: checks of Host and Origin headers, and CORS.
//!
//! The emulator listens on this machine, where a browser can run pages from anywhere. A page whose host name resolves
//! to this machine (DNS rebinding) is recognized by its Host header. The routes below `/_emulator` reject pages of
//! every other origin; the emulated platform accepts pages of the configured origins, as the real one does for
//! registered applications.

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri, header};
use serde_json::json;
use url::{Host, Url};

use super::reply::{self, Reply};

/// Response headers that a page can read.
///
/// Source:
/// learn.microsoft.com/rest/api/storageservices/cross-origin-resource-sharing--cors--support-for-the-azure-storage-services
const EXPOSED: &str = "location, retry-after, etag, content-md5, content-range, x-correlation-id, x-ms-request-id, x-ms-version, \
                       x-ms-error-code, x-ms-content-crc64";

/// How long a browser can cache the answer to a preflight, in seconds.
const REMEMBERED: &str = "3600";

/// The accepted hosts and origins.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    /// Accepted host names beside `localhost` and IP addresses.
    pub(super) hosts: Vec<String>,
    /// Whether to accept every name without a dot: an attacker cannot control what it resolves to.
    pub(super) short_hosts: bool,
    /// Accepted origins beside those on this machine, such as `https://app.example.com`.
    pub(super) origins: Vec<String>,
}

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Host,
    Origin,
}

impl Refused {
    pub(super) fn into_reply(self) -> Reply {
        let (status, why) = match self {
            Self::Host => (
                421,
                "unknown Host header: start the emulator with --host NAME to accept it",
            ),
            Self::Origin => (
                403,
                "cross-origin request to /_emulator rejected: use a program or the address bar",
            ),
        };
        reply::json(status, &json!({ "error": why }))
    }
}

impl Guard {
    /// Checks that the Host header is a name of this emulator.
    pub(super) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        let mut named = headers.get_all(header::HOST).iter();
        let (first, second) = (named.next(), named.next());
        if second.is_some() {
            return Err(Refused::Host);
        }
        let header = match first.map(|host| host.to_str()) {
            Some(Ok(host)) => Some(host),
            Some(Err(_)) => return Err(Refused::Host),
            None => None,
        };
        let authority = uri.authority().map(hyper::http::uri::Authority::as_str);
        // Every browser sends one of them.
        let ours = [header, authority]
            .into_iter()
            .flatten()
            .all(|name| self.is_ours(name));
        if ours { Ok(()) } else { Err(Refused::Host) }
    }

    fn is_ours(&self, authority: &str) -> bool {
        let Ok(url) = Url::parse(&format!("http://{authority}/")) else {
            return false;
        };
        let is_plain = url.username().is_empty() && url.password().is_none();
        is_plain
            && match url.host() {
                Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
                Some(Host::Domain(name)) => {
                    is_localhost(name)
                        || self.short_hosts && !name.contains('.')
                        || self
                            .hosts
                            .iter()
                            .any(|host| host.eq_ignore_ascii_case(name))
                }
                None => false,
            }
    }

    /// Checks that a request to the control routes comes from a program, from the address bar, or from the same origin.
    pub(super) fn check_control(headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name: &HeaderName| {
            let values: Vec<Option<&str>> = headers
                .get_all(name)
                .iter()
                .map(|value| value.to_str().ok())
                .collect();
            values
        };
        let host = text(&header::HOST);
        let own = host
            .first()
            .copied()
            .flatten()
            .map(|host| format!("http://{host}"));
        let is_own = match text(&header::ORIGIN).as_slice() {
            [] => true,
            [Some(origin)] => own.is_some_and(|own| own.eq_ignore_ascii_case(origin)),
            _ => false,
        };
        let site = text(&HeaderName::from_static("sec-fetch-site"));
        let is_near = site
            .iter()
            .all(|site| matches!(site, Some("same-origin" | "none")));
        if is_own && is_near {
            Ok(())
        } else {
            Err(Refused::Origin)
        }
    }

    /// The origin of the requesting page, if it can read the response.
    pub(super) fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut named = headers.get_all(header::ORIGIN).iter();
        let (value, None) = (named.next()?, named.next()) else {
            return None;
        };
        let origin = value.to_str().ok()?;
        let listed = self.origins.iter().any(|listed| listed == origin);
        (listed || is_local(origin)).then(|| value.clone())
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a URL is on this machine, with any port.
fn is_loopback(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme())
        && match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            Some(Host::Domain(name)) => is_localhost(name),
            None => false,
        }
}

/// Whether an origin is on this machine.
fn is_local(origin: &str) -> bool {
    Url::parse(origin)
        .is_ok_and(|url| is_loopback(&url) && url.origin().ascii_serialization() == origin)
}

/// Whether a redirect after sign-in or sign-out is allowed: to this machine, or to a registered address.
pub(super) fn may_redirect(registered: &[String], to: &str) -> bool {
    registered.iter().any(|known| known == to)
        || Url::parse(to).is_ok_and(|url| {
            is_loopback(&url) && url.username().is_empty() && url.password().is_none()
        })
}

/// Whether a request is a CORS preflight.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The response to a preflight.
pub(super) fn preflight(guard: &Guard, headers: &HeaderMap) -> Reply {
    let Some(origin) = guard.allowed_origin(headers) else {
        return reply::json(
            403,
            &json!({ "error": "origin not allowed: start the emulator with --origin URL" }),
        );
    };
    let mut reply = reply::empty(204);
    let asked = |name: &HeaderName| headers.get(name).cloned();
    let answers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin)),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            asked(&header::ACCESS_CONTROL_REQUEST_METHOD),
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked(&header::ACCESS_CONTROL_REQUEST_HEADERS),
        ),
        (
            header::ACCESS_CONTROL_MAX_AGE,
            Some(HeaderValue::from_static(REMEMBERED)),
        ),
        (
            HeaderName::from_static("access-control-allow-private-network"),
            asked(&HeaderName::from_static(
                "access-control-request-private-network",
            )),
        ),
        (header::VARY, Some(HeaderValue::from_static("origin"))),
    ];
    for (name, value) in answers {
        if let Some(value) = value {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

/// Adds the CORS headers to a response.
pub(super) fn readable(reply: &mut Reply, origin: Option<HeaderValue>) {
    let headers = reply.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static(EXPOSED);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let mut guard = Guard {
            hosts: vec!["itwin.test".to_owned()],
            ..Guard::default()
        };
        for (host, expected) in [
            ("127.0.0.1:8290", true),
            ("[::1]:8290", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("app.localhost:8290", true),
            ("itwin.test:8290", true),
            ("10.0.0.5:8290", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:8290", false),
            ("user@localhost", false),
            ("emulator:8290", false),
            ("", false),
            ("a/b", false),
        ] {
            let uri = Uri::from_static("/storage");
            let checked = guard.check_host(&uri, &headers(&[("host", host)]));
            assert_eq!(checked.is_ok(), expected, "{host}");
        }
        let uri = Uri::from_static("/storage");
        let twice = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert_eq!(guard.check_host(&uri, &twice), Err(Refused::Host));
        let elsewhere = Uri::from_static("http://evil.example/storage");
        let local = headers(&[("host", "localhost")]);
        assert_eq!(guard.check_host(&elsewhere, &local), Err(Refused::Host));
        guard.short_hosts = true;
        let short = headers(&[("host", "emulator:8290")]);
        assert_eq!(guard.check_host(&uri, &short), Ok(()));
    }

    #[test]
    fn the_emulators_own_routes_take_nothing_from_other_pages() {
        let host = ("host", "127.0.0.1:8290");
        for (pairs, expected) in [
            (vec![host], true),
            (vec![host, ("origin", "http://127.0.0.1:8290")], true),
            (vec![host, ("origin", "https://127.0.0.1:8290")], false),
            (vec![host, ("origin", "http://127.0.0.1:3000")], false),
            (vec![host, ("origin", "http://localhost:8290")], false),
            (vec![host, ("origin", "https://evil.example")], false),
            (vec![host, ("origin", "null")], false),
            (
                vec![
                    host,
                    ("origin", "http://127.0.0.1:8290"),
                    ("origin", "https://evil.example"),
                ],
                false,
            ),
            (vec![host, ("sec-fetch-site", "none")], true),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
        ] {
            let checked = Guard::check_control(&headers(&pairs));
            assert_eq!(checked.is_ok(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn pages_of_this_machine_and_listed_ones_may_read_answers() {
        let guard = Guard {
            origins: vec!["https://app.example.com".to_owned()],
            ..Guard::default()
        };
        for (origin, expected) in [
            ("http://localhost:3000", true),
            ("https://localhost", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:5173", true),
            ("https://app.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com.evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://localhost:3000/", false),
            ("null", false),
            ("file://", false),
        ] {
            let allowed = guard.allowed_origin(&headers(&[("origin", origin)]));
            assert_eq!(allowed.is_some(), expected, "{origin}");
        }
        let twice = headers(&[
            ("origin", "http://localhost:1"),
            ("origin", "https://evil.example"),
        ]);
        assert_eq!(guard.allowed_origin(&twice), None);
    }

    #[test]
    fn a_browser_is_sent_to_this_machine_or_to_registered_addresses_only() {
        let registered = ["https://app.example.com/back".to_owned()];
        for (to, expected) in [
            ("http://localhost:3301/signin-callback", true),
            ("http://127.0.0.1:1/", true),
            ("https://app.example.com/back", true),
            ("https://app.example.com/back?x", false),
            ("https://evil.example/", false),
            ("http://localhost@evil.example/", false),
            ("javascript:alert(1)", false),
            ("nonsense", false),
        ] {
            assert_eq!(may_redirect(&registered, to), expected, "{to}");
        }
    }
}
