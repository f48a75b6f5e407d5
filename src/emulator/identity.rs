//! The identity provider: discovery, tokens for service applications and for people, and what they are good for.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::api::{Ask, unknown};
use super::lock;
use super::reply::{self, Refusal, Reply, refuse};
use super::switches::RefreshToken;

/// The scope that there is.
const SCOPE: &str = "itwin-platform";

/// Scopes of people, which a service application must not ask for.
const PERSONAL: [&str; 5] = [
    "openid",
    "profile",
    "email",
    "organization",
    "offline_access",
];

/// How long a code waits to be exchanged.
const CODE_LIFETIME: Duration = Duration::from_secs(60);

/// Why no token is given, in the words of OAuth 2.
type Denied = &'static str;

/// What has been handed out.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Tokens that are good: their clients and their ends.
    access: HashMap<String, (String, Instant)>,
    /// Refresh tokens that are good: their clients.
    refresh: HashMap<String, String>,
    /// Codes that wait to be exchanged.
    codes: HashMap<String, Code>,
}

#[derive(Debug)]
struct Code {
    client_id: String,
    redirect_uri: String,
    challenge: String,
    offline: bool,
    ends_at: Instant,
}

/// What an exchange gives.
struct Granted {
    client_id: String,
    scope: String,
    refresh_token: Option<String>,
}

impl Tokens {
    pub(super) fn revoke_all(&mut self) {
        self.access.clear();
    }

    fn client_of(&self, token: &str) -> Option<&str> {
        let (client, end) = self.access.get(token)?;
        (*end > Instant::now()).then_some(client)
    }
}

/// Lets a request to the API pass if it has a good token; returns whose.
pub(super) fn authorize(ask: &Ask<'_>) -> Result<String, Refusal> {
    let Some(header) = ask.header("authorization") else {
        return Err(refuse(
            401,
            "HeaderNotFound",
            "Header Authorization was not found in the request.",
        ));
    };
    let token = match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => {
            return Err(refuse(
                401,
                "InvalidAuthorizationScheme",
                "The authorization scheme is not supported.",
            ));
        }
    };
    let tokens = lock(&ask.shared.tokens);
    tokens.client_of(token).map(str::to_owned).ok_or_else(|| {
        refuse(
            401,
            "Unauthorized",
            "The token is not valid, or not any more.",
        )
    })
}

/// Answers what belongs to the identity provider.
pub(super) fn answer(ask: &Ask<'_>) -> Option<Reply> {
    let words: Vec<&str> = ask.words.iter().map(String::as_str).collect();
    let answered = match (ask.method.as_str(), words.as_slice()) {
        ("GET", [".well-known", "openid-configuration"]) => discovery(ask),
        ("GET", [".well-known", "jwks"]) => reply::json(200, &json!({ "keys": [] })),
        ("GET", ["connect", "authorize"]) => code(ask),
        ("POST", ["connect", "token"]) => match grant(ask) {
            Ok(granted) => token(ask, granted),
            Err((status, error)) => denied(status, error),
        },
        ("POST", ["connect", "introspect"]) => introspect(ask),
        (_, [".well-known" | "connect", ..]) => unknown().into_reply(),
        _ => return None,
    };
    Some(answered)
}

fn discovery(ask: &Ask<'_>) -> Reply {
    let issuer = &ask.shared.api_url;
    reply::json(
        200,
        &json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/connect/authorize"),
            "token_endpoint": format!("{issuer}/connect/token"),
            "introspection_endpoint": format!("{issuer}/connect/introspect"),
            "jwks_uri": format!("{issuer}/.well-known/jwks"),
            "scopes_supported": [SCOPE, "offline_access"],
            "grant_types_supported": ["client_credentials", "authorization_code", "refresh_token"],
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }),
    )
}

fn denied(status: u16, error: Denied) -> Reply {
    let mut reply = reply::json(status, &json!({ "error": error }));
    if status == 401 {
        let basic = hyper::header::HeaderValue::from_static("Basic realm=\"emulated\"");
        reply.headers_mut().insert("www-authenticate", basic);
    }
    reply
}

fn token(ask: &Ask<'_>, granted: Granted) -> Reply {
    let lifetime = ask.shared.options.token_lifetime;
    let token = {
        let mut state = ask.shared.state();
        state.tokens_issued += 1;
        jwt(ask, &state.key, &granted, lifetime)
    };
    let mut tokens = lock(&ask.shared.tokens);
    let now = Instant::now();
    tokens.access.retain(|_, (_, end)| *end > now);
    tokens
        .access
        .insert(token.clone(), (granted.client_id.clone(), now + lifetime));
    let mut body = json!({
        "access_token": token, "expires_in": lifetime.as_secs(), "token_type": "Bearer", "scope": granted.scope,
    });
    if let Some(refresh) = granted.refresh_token {
        tokens.refresh.insert(refresh.clone(), granted.client_id);
        body["refresh_token"] = refresh.into();
    }
    reply::json(200, &body)
}

/// A token in the form of a JWT; clients look into it, although it is opaque.
fn jwt(ask: &Ask<'_>, key: &str, granted: &Granted, lifetime: Duration) -> String {
    let now = ask.now.as_second();
    let ends = now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
    let encoded = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encoded(json!({ "alg": "HS256", "typ": "JWT" }));
    let scopes: Vec<&str> = granted.scope.split(' ').collect();
    let claims = encoded(json!({
        "iss": ask.shared.api_url, "client_id": granted.client_id, "iat": now, "nbf": now, "exp": ends,
        "scope": scopes, "jti": Uuid::new_v4().simple().to_string(),
    }));
    let signed = format!("{header}.{claims}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(super::sas::mac(key.as_bytes(), &signed));
    format!("{signed}.{signature}")
}

fn form(ask: &Ask<'_>) -> HashMap<String, String> {
    form_urlencoded::parse(&ask.body).into_owned().collect()
}

fn grant(ask: &Ask<'_>) -> Result<Granted, (u16, Denied)> {
    let form = form(ask);
    let field = |name: &str| form.get(name).map(String::as_str);
    let needed = |name: &str| field(name).ok_or((400, "invalid_request"));
    match needed("grant_type")? {
        "client_credentials" => {
            let client_id = service(ask, &form)?;
            let scope = field("scope").unwrap_or_default();
            if !is_granted(scope) {
                return Err((400, "invalid_scope"));
            }
            Ok(Granted {
                client_id,
                scope: scope.to_owned(),
                refresh_token: None,
            })
        }
        "authorization_code" => {
            let code = lock(&ask.shared.tokens).codes.remove(needed("code")?);
            let code = code.ok_or((400, "invalid_grant"))?;
            let verifier = needed("code_verifier")?;
            let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
            if code.ends_at <= Instant::now()
                || code.challenge != challenge
                || code.redirect_uri != needed("redirect_uri")?
                || code.client_id != needed("client_id")?
            {
                return Err((400, "invalid_grant"));
            }
            Ok(Granted {
                client_id: code.client_id,
                scope: SCOPE.to_owned(),
                refresh_token: code.offline.then(random),
            })
        }
        "refresh_token" => {
            let known = needed("refresh_token")?;
            let mut tokens = lock(&ask.shared.tokens);
            let client_id = tokens.refresh.get(known).cloned();
            let client_id = client_id.ok_or((400, "invalid_grant"))?;
            if client_id != needed("client_id")? {
                return Err((400, "invalid_grant"));
            }
            let refresh_token = match ask.switches.refresh_token {
                RefreshToken::Rotated => {
                    tokens.refresh.remove(known);
                    Some(random())
                }
                RefreshToken::Kept => None,
            };
            Ok(Granted {
                client_id,
                scope: SCOPE.to_owned(),
                refresh_token,
            })
        }
        _ => Err((400, "unsupported_grant_type")),
    }
}

/// The service application that asks, by header or by form; 401 answers a header.
fn service(ask: &Ask<'_>, form: &HashMap<String, String>) -> Result<String, (u16, Denied)> {
    let (client, status) = match ask.header("authorization") {
        Some(header) => {
            let basic = header.split_once(' ').and_then(|(scheme, encoded)| {
                scheme
                    .eq_ignore_ascii_case("basic")
                    .then(|| decode_basic(encoded.trim()))?
            });
            (basic.ok_or((401, "invalid_client"))?, 401)
        }
        None => {
            let needed = |name: &str| form.get(name).cloned().ok_or((400, "invalid_request"));
            ((needed("client_id")?, needed("client_secret")?), 400)
        }
    };
    if ask.shared.options.native_clients.contains(&client.0) {
        return Err((400, "unauthorized_client"));
    }
    if !ask.shared.options.clients.contains(&client) {
        return Err((status, "invalid_client"));
    }
    Ok(client.0)
}

/// Whether a service application may ask for these scopes: the one of today, or older ones such as `storage:read`.
fn is_granted(scope: &str) -> bool {
    !scope.is_empty()
        && scope
            .split(' ')
            .all(|word| word == SCOPE || word.contains(':') && !PERSONAL.contains(&word))
}

/// Id and secret, each form-encoded before they were joined.
fn decode_basic(basic: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64_STANDARD.decode(basic).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let decoded = |part: &str| {
        percent_decode_str(&part.replace('+', " "))
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .ok()
    };
    Some((decoded(id)?, decoded(secret)?))
}

fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The person agrees at once: the browser is sent back with a code.
fn code(ask: &Ask<'_>) -> Reply {
    let field = |name: &str| ask.query(name).unwrap_or_default().to_owned();
    let Ok(mut back) = Url::parse(&field("redirect_uri")) else {
        return denied(400, "invalid_request");
    };
    let scope = field("scope");
    let error = if !ask
        .shared
        .options
        .native_clients
        .contains(&field("client_id"))
    {
        return denied(400, "unauthorized_client");
    } else if field("response_type") != "code" {
        Some("unsupported_response_type")
    } else if field("code_challenge_method") != "S256" || field("code_challenge").is_empty() {
        Some("invalid_request")
    } else if !scope.split(' ').any(|word| word == SCOPE) {
        Some("invalid_scope")
    } else {
        None
    };
    let (name, value) = match error {
        Some(error) => ("error", error.to_owned()),
        None => {
            let code = random();
            let waiting = Code {
                client_id: field("client_id"),
                redirect_uri: field("redirect_uri"),
                challenge: field("code_challenge"),
                offline: scope.split(' ').any(|word| word == "offline_access"),
                ends_at: Instant::now() + CODE_LIFETIME,
            };
            lock(&ask.shared.tokens).codes.insert(code.clone(), waiting);
            ("code", code)
        }
    };
    back.query_pairs_mut().append_pair(name, &value);
    if let Some(state) = ask.query("state") {
        back.query_pairs_mut().append_pair("state", state);
    }
    reply::with(302, &[("location", back.as_str())], "")
}

fn introspect(ask: &Ask<'_>) -> Reply {
    let form = form(ask);
    if let Err((status, error)) = service(ask, &form) {
        return denied(status, error);
    }
    let token = form.get("token").map(String::as_str).unwrap_or_default();
    match lock(&ask.shared.tokens).client_of(token) {
        Some(client_id) => {
            let body = json!({ "active": true, "client_id": client_id, "scope": SCOPE, "iss": ask.shared.api_url });
            reply::json(200, &body)
        }
        None => reply::json(200, &json!({ "active": false })),
    }
}
