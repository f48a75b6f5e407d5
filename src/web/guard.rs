//! Who may ask: pure decisions on the head of a request.
//!
//! A browser that may see the page is a weapon in the hands of every other page. Against that: the Host must be one of
//! ours (a name that somebody else points to this machine is refused), and what changes something must come from the page
//! itself. Without a valid token nothing is told but whether the service lives.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config;

/// On every answer.
pub(super) const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

#[derive(Debug)]
pub(super) struct Guard {
    /// BLAKE3 of the token: hashes compare in constant time.
    token: Option<blake3::Hash>,
    hosts: Vec<String>,
}

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It calls us by a name that is not ours.
    Host,
    /// It comes from another page.
    Origin,
    /// It brings no token, or a wrong one.
    Token,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "not called by a name of this page; names other than localhost belong into web.hosts\n",
            )
                .into_response(),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "only this page itself may ask for that\n",
            )
                .into_response(),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, "Basic realm=\"itwin-syncd\", charset=\"UTF-8\"")],
                "the token is asked for as a password\n",
            )
                .into_response(),
        }
    }
}

impl Guard {
    pub(super) fn new(config: &config::Web) -> Self {
        Self {
            token: config
                .token
                .as_ref()
                .map(|token| blake3::hash(token.expose().as_bytes())),
            hosts: config.hosts.clone(),
        }
    }

    pub(super) fn admits(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let host = text(headers, &header::HOST).ok_or(Refusal::Host)?;
        if !self.is_ours(host) {
            return Err(Refusal::Host);
        }
        let health = ["/healthz", "/readyz"].contains(&uri.path());
        if !health && !self.knows_token(headers) {
            return Err(Refusal::Token);
        }
        if method != Method::GET && method != Method::HEAD && !same_origin(host, headers) {
            return Err(Refusal::Origin);
        }
        Ok(())
    }

    /// An address cannot be pointed elsewhere by a name server; a name can.
    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<axum::http::uri::Authority>() else {
            return false;
        };
        let name = authority.host().trim_matches(['[', ']']);
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
    }

    fn knows_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let Some((scheme, given)) =
            text(headers, &header::AUTHORIZATION).and_then(|given| given.split_once(' '))
        else {
            return false;
        };
        let given = if scheme.eq_ignore_ascii_case("bearer") {
            given.as_bytes().to_owned()
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = BASE64_STANDARD.decode(given).unwrap_or_default();
            match decoded.iter().position(|byte| *byte == b':') {
                Some(colon) => decoded.get(colon + 1..).unwrap_or_default().to_owned(),
                None => return false,
            }
        } else {
            return false;
        };
        blake3::hash(&given) == *token
    }
}

/// Browsers tell where such a request comes from; who does not tell is refused.
fn same_origin(host: &str, headers: &HeaderMap) -> bool {
    let from = text(headers, &HeaderName::from_static("sec-fetch-site"));
    let origin = text(headers, &header::ORIGIN).and_then(|origin| origin.split_once("://"));
    from.is_none_or(|from| from == "same-origin")
        && origin.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn ask(
        guard: &Guard,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        guard.admits(method, &path.parse().unwrap(), &map)
    }

    fn guard(token: Option<&str>) -> Guard {
        Guard::new(&config::Web {
            listen: None,
            token: token.map(Secret::new),
            hosts: vec!["cad.example".to_owned()],
        })
    }

    #[test]
    fn names_that_are_not_ours_are_refused() {
        let guard = guard(None);
        for host in [
            "localhost:8291",
            "127.0.0.1:8291",
            "[::1]:8291",
            "CAD.example",
            "192.0.2.7",
        ] {
            assert_eq!(
                ask(&guard, &Method::GET, "/", &[("host", host)]),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "evil.example:8291",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@b/c",
            "",
        ] {
            let refused = ask(&guard, &Method::GET, "/", &[("host", host)]);
            assert_eq!(refused, Err(Refusal::Host), "{host}");
        }
        assert_eq!(ask(&guard, &Method::GET, "/", &[]), Err(Refusal::Host));
    }

    #[test]
    fn only_the_page_itself_changes_anything() {
        let guard = guard(None);
        let host = ("host", "localhost:8291");
        let post = |headers: &[(&str, &str)]| ask(&guard, &Method::POST, "/api/act", headers);
        assert_eq!(post(&[host, ("origin", "http://localhost:8291")]), Ok(()));
        assert_eq!(
            post(&[
                host,
                ("origin", "http://localhost:8291"),
                ("sec-fetch-site", "same-origin")
            ]),
            Ok(())
        );
        for headers in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://localhost:8000")],
            &[host, ("origin", "https://evil.example")],
            &[
                host,
                ("origin", "http://localhost:8291"),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            assert_eq!(post(headers), Err(Refusal::Origin), "{headers:?}");
        }
    }

    #[test]
    fn with_a_token_nothing_is_told_without_it_but_whether_the_service_lives() {
        let guard = guard(Some("tiger:lion"));
        let get = |path: &str, given: Option<&str>| {
            let mut headers = vec![("host", "localhost")];
            headers.extend(given.map(|given| ("authorization", given)));
            ask(&guard, &Method::GET, path, &headers)
        };
        assert_eq!(get("/healthz", None), Ok(()));
        assert_eq!(get("/readyz", None), Ok(()));
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me:tiger:lion"));
        assert_eq!(get("/", Some(&basic)), Ok(()));
        assert_eq!(get("/metrics", Some("Bearer tiger:lion")), Ok(()));
        for given in [
            None,
            Some("Bearer tiger"),
            Some("Bearer "),
            Some("Basic !"),
            Some("tiger:lion"),
        ] {
            for path in ["/", "/metrics", "/api/state", "/app.js"] {
                assert_eq!(get(path, given), Err(Refusal::Token), "{given:?}");
            }
        }
    }
}
