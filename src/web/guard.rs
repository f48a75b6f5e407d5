//! Access control: pure decisions on the head of a request.
//!
//! Other web pages can use a browser that has access to this one. Against DNS rebinding, the Host header must be a
//! known name; against cross-site requests, changes must come from the page itself, or from a script with a bearer
//! token: a browser never sends one for another page. Without a valid token only the health checks are answered, and
//! the files of the page, which ask for the token and contain nothing.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::problem::Problem;
use crate::config;

/// Headers of every response.
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

/// The files of the page, and what monitoring asks for.
const PUBLIC: [&str; 10] = [
    "/",
    "/app.js",
    "/api.js",
    "/files.js",
    "/dom.js",
    "/chart.js",
    "/stream.js",
    "/style.css",
    "/healthz",
    "/readyz",
];

#[derive(Debug)]
pub(super) struct Guard {
    /// BLAKE3 of the token: hashes compare in constant time.
    token: Option<blake3::Hash>,
    hosts: Vec<String>,
}

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no Host header of ours; the one it has.
    Host(Option<String>),
    /// It comes from another page.
    Origin,
    /// It has no token.
    NoToken,
    /// It has a wrong token.
    WrongToken,
    /// Its peer has sent wrong tokens and has to wait this long.
    Later(Duration),
}

impl Refusal {
    /// The answer. `is_api`: to a script of the page or of others, for which a browser must not ask for a password.
    pub(super) fn into_problem(self, is_api: bool) -> Problem {
        match self {
            Self::Host(host) => {
                let error = match &host {
                    Some(host) => {
                        format!("unknown Host header {host:?}: add the name to web.hosts")
                    }
                    None => "the request must have exactly one Host header".to_owned(),
                };
                let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, error);
                match host {
                    Some(_) => problem.hint(
                        "or use the IP address of the machine; a reload of the service does not apply web.hosts, \
                         a restart does",
                    ),
                    None => problem,
                }
            }
            Self::Origin => Problem::new(
                StatusCode::FORBIDDEN,
                "cross-origin request rejected: only the page itself may send it",
            )
            .hint(
                "scripts send the token of web.token_file as Authorization: Bearer TOKEN; without web.token_file they \
                 send Origin: http://HOST:PORT of the page",
            ),
            Self::NoToken | Self::WrongToken => {
                let error = match self {
                    Self::NoToken => "the token is missing",
                    _ => "the token is wrong",
                };
                let mut problem = Problem::new(StatusCode::UNAUTHORIZED, error).hint(
                    "the token is in web.token_file; scripts send it as Authorization: Bearer TOKEN, browsers open \
                     the page with #token=TOKEN or ask for it",
                );
                let challenge = if is_api {
                    "Bearer realm=\"itwin-syncd\""
                } else {
                    "Basic realm=\"itwin-syncd\", charset=\"UTF-8\""
                };
                let challenge = HeaderValue::from_static(challenge);
                problem.header = Some(Box::new((header::WWW_AUTHENTICATE, challenge)));
                problem
            }
            Self::Later(wait) => {
                // A header holds whole seconds; the last part of one counts.
                let seconds = wait.as_secs() + 1;
                let error = format!("too many wrong tokens; try again in {seconds} s");
                let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, error);
                problem.header = Some(Box::new((header::RETRY_AFTER, HeaderValue::from(seconds))));
                problem
            }
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
        // With two headers, another program may use the other one.
        let host = only(headers, &header::HOST)
            .ok()
            .flatten()
            .ok_or(Refusal::Host(None))?;
        if !self.is_ours(host) {
            return Err(Refusal::Host(Some(host.to_owned())));
        }
        if self.wants_token(uri) {
            self.check_token(headers)?;
        }
        let origin = only(headers, &header::ORIGIN).map_err(|Several| Refusal::Origin)?;
        let changes = method != Method::GET && method != Method::HEAD;
        if changes && !self.is_script(origin, headers) && !same_origin(host, origin, headers) {
            return Err(Refusal::Origin);
        }
        Ok(())
    }

    /// Whether a request has a token that would be checked.
    pub(super) fn has_token(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        self.wants_token(uri) && headers.contains_key(header::AUTHORIZATION)
    }

    fn wants_token(&self, uri: &Uri) -> bool {
        self.token.is_some() && !PUBLIC.contains(&uri.path())
    }

    /// Whether a request with a checked token comes from no browser. Browsers add no bearer token by themselves, and
    /// to requests with one an origin.
    fn is_script(&self, origin: Option<&str>, headers: &HeaderMap) -> bool {
        let bearer = only(headers, &header::AUTHORIZATION).ok().flatten();
        let bearer = bearer.and_then(|value| value.split_once(' '));
        self.token.is_some()
            && bearer.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            && origin.is_none()
            && !headers.contains_key("sec-fetch-site")
    }

    /// IP addresses are safe: DNS can redirect only names.
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

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = only(headers, &header::AUTHORIZATION).map_err(|Several| Refusal::WrongToken)?;
        let given = given.ok_or(Refusal::NoToken)?;
        let given = given_token(given).ok_or(Refusal::WrongToken)?;
        if Some(blake3::hash(&given)) == self.token {
            Ok(())
        } else {
            Err(Refusal::WrongToken)
        }
    }
}

/// The token in the value of an Authorization header.
fn given_token(value: &str) -> Option<Vec<u8>> {
    let (scheme, given) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(given.as_bytes().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(given).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded.get(colon + 1..)?.to_owned())
}

/// Browsers send the origin of such a request; one without it is rejected.
fn same_origin(host: &str, origin: Option<&str>, headers: &HeaderMap) -> bool {
    let header = |name| only(headers, &HeaderName::from_static(name));
    let (Ok(from), Ok(forwarded)) = (header("sec-fetch-site"), header("x-forwarded-proto")) else {
        return false;
    };
    // Set by a TLS proxy in front of the page. Other pages cannot make a browser send this header.
    let scheme = forwarded.unwrap_or("http");
    from.is_none_or(|from| from == "same-origin")
        && origin
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(of_page, authority)| {
                of_page.eq_ignore_ascii_case(scheme) && authority.eq_ignore_ascii_case(host)
            })
}

/// A header occurs more than once, or is not text.
struct Several;

/// The value of a header that may occur only once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Several> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Several),
        (Some(_), Some(_)) => Err(Several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[tokio::test]
    async fn messages() {
        let refusals = [
            Refusal::Host(Some("evil.example".to_owned())),
            Refusal::Host(None),
            Refusal::Origin,
            Refusal::NoToken,
            Refusal::WrongToken,
            Refusal::Later(Duration::from_secs(7)),
        ];
        let mut text = String::new();
        for refusal in refusals {
            // A new variant needs a line above.
            match refusal {
                Refusal::Host(_)
                | Refusal::Origin
                | Refusal::NoToken
                | Refusal::WrongToken
                | Refusal::Later(_) => {}
            }
            let response = refusal.into_problem(false).into_text();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), 1000)
                .await
                .unwrap();
            text += &format!("{status}: {}", String::from_utf8_lossy(&body));
        }
        insta::assert_snapshot!(text);
    }

    fn ask(
        guard: &Guard,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
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
    fn unknown_host_headers_are_rejected() {
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
            assert_eq!(refused, Err(Refusal::Host(Some(host.to_owned()))), "{host}");
        }
        assert_eq!(
            ask(&guard, &Method::GET, "/", &[]),
            Err(Refusal::Host(None))
        );
        for twice in [["localhost", "localhost"], ["localhost", "evil.example"]] {
            let headers = twice.map(|host| ("host", host));
            assert_eq!(
                ask(&guard, &Method::GET, "/", &headers),
                Err(Refusal::Host(None)),
                "{twice:?}"
            );
        }
    }

    #[test]
    fn cross_origin_changes_are_rejected() {
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
        // Behind a proxy with TLS.
        assert_eq!(
            post(&[
                ("host", "cad.example"),
                ("origin", "https://cad.example"),
                ("x-forwarded-proto", "https")
            ]),
            Ok(())
        );
        for headers in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://localhost:8000")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "https://localhost:8291")],
            &[
                host,
                ("origin", "http://localhost:8291"),
                ("origin", "http://localhost:8291"),
            ],
            &[
                host,
                ("origin", "http://localhost:8291"),
                ("origin", "http://evil.example"),
            ],
            &[
                host,
                ("origin", "http://localhost:8291"),
                ("x-forwarded-proto", "https"),
            ],
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
    fn a_script_with_a_bearer_token_needs_no_origin() {
        let with_token = guard(Some("tiger:lion"));
        let host = ("host", "localhost:8291");
        let bearer = ("authorization", "Bearer tiger:lion");
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me:tiger:lion"));
        let basic = ("authorization", basic.as_str());
        let post = |guard: &Guard, headers: &[(&str, &str)]| {
            ask(guard, &Method::POST, "/api/v1/retry", headers)
        };
        assert_eq!(post(&with_token, &[host, bearer]), Ok(()));
        let own = ("origin", "http://localhost:8291");
        assert_eq!(post(&with_token, &[host, bearer, own]), Ok(()));
        // A browser sends a password that it knows with requests of other pages as well.
        assert_eq!(post(&with_token, &[host, basic]), Err(Refusal::Origin));
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-origin"),
        ] {
            let refused = post(&with_token, &[host, bearer, foreign]);
            assert_eq!(refused, Err(Refusal::Origin), "{foreign:?}");
        }
        // Without a token to check, anything may be sent as one.
        assert_eq!(post(&guard(None), &[host, bearer]), Err(Refusal::Origin));
    }

    #[test]
    fn with_a_token_only_health_checks_and_the_files_of_the_page_work_without_it() {
        let guard = guard(Some("tiger:lion"));
        let get = |path: &str, given: Option<&str>| {
            let mut headers = vec![("host", "localhost")];
            headers.extend(given.map(|given| ("authorization", given)));
            ask(&guard, &Method::GET, path, &headers)
        };
        assert_eq!(get("/healthz", None), Ok(()));
        assert_eq!(get("/readyz", None), Ok(()));
        for (path, ..) in super::super::assets() {
            assert_eq!(get(path, None), Ok(()), "{path}");
        }
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me:tiger:lion"));
        assert_eq!(get("/api/v1/status", Some(&basic)), Ok(()));
        assert_eq!(get("/metrics", Some("Bearer tiger:lion")), Ok(()));
        for path in ["/metrics", "/api/v1/status", "/x", "/app.js/"] {
            assert_eq!(get(path, None), Err(Refusal::NoToken), "{path}");
        }
        let twice = [
            ("host", "localhost"),
            ("authorization", "Bearer tiger:lion"),
            ("authorization", "Bearer tiger:lion"),
        ];
        let refused = ask(&guard, &Method::GET, "/metrics", &twice);
        assert_eq!(refused, Err(Refusal::WrongToken));
        for given in [
            Some("Bearer tiger"),
            Some("Bearer "),
            Some("Basic !"),
            Some("tiger:lion"),
        ] {
            for path in ["/metrics", "/api/v1/status"] {
                assert_eq!(get(path, given), Err(Refusal::WrongToken), "{given:?}");
            }
        }
    }
}
