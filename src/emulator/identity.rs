//! The identity provider: discovery, tokens for service applications and for users, introspection and revocation.

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

use super::access;
use super::api::{Ask, unknown};
use super::guard::may_redirect;
use super::lock;
use super::model::member_id;
use super::reply::{self, Refusal, Reply, refuse};
use super::switches::RefreshToken;

/// The scope that there is.
const SCOPE: &str = "itwin-platform";

/// How long a page for consent waits for the user.
const CONSENT_LIFETIME: Duration = Duration::from_secs(600);

/// The most pages for consent that wait.
const CONSENTS_MAX: usize = 1000;

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
    /// Tokens that are good.
    access: HashMap<String, Access>,
    /// Refresh tokens that are good: their clients.
    refresh: HashMap<String, String>,
    /// Codes that wait to be exchanged.
    codes: HashMap<String, Code>,
    /// Pages on which a user lets connections act: whose, and where the browser goes then.
    consents: HashMap<String, Consent>,
}

/// A token that was handed out.
#[derive(Debug, Clone)]
struct Access {
    client_id: String,
    scope: String,
    /// Seconds since 1970.
    issued_at: i64,
    expires_at: i64,
    ends_at: Instant,
}

#[derive(Debug)]
struct Code {
    client_id: String,
    redirect_uri: String,
    challenge: String,
    scope: String,
    nonce: Option<String>,
    ends_at: Instant,
}

#[derive(Debug)]
struct Consent {
    client_id: String,
    redirect_url: String,
    ends_at: Instant,
}

/// What an exchange gives.
struct Granted {
    client_id: String,
    scope: String,
    refresh_token: Option<String>,
    /// Wanted by a user who asked for `openid`, with the nonce.
    id_token: Option<Option<String>>,
}

impl Tokens {
    pub(super) fn revoke_all(&mut self) {
        self.access.clear();
    }

    fn access(&self, token: &str) -> Option<&Access> {
        let access = self.access.get(token)?;
        (access.ends_at > Instant::now()).then_some(access)
    }

    /// A page where this user lets connections act; only who asked for it knows its address.
    pub(super) fn consent_page(&mut self, client_id: &str, redirect_url: &str) -> String {
        let now = Instant::now();
        self.consents.retain(|_, consent| consent.ends_at > now);
        if self.consents.len() >= CONSENTS_MAX {
            self.consents.clear();
        }
        let ticket = random();
        let consent = Consent {
            client_id: client_id.to_owned(),
            redirect_url: redirect_url.to_owned(),
            ends_at: now + CONSENT_LIFETIME,
        };
        self.consents.insert(ticket.clone(), consent);
        ticket
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
    let access = tokens.access(token);
    access
        .map(|access| access.client_id.clone())
        .ok_or_else(|| {
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
        ("GET", [".well-known", "jwks"]) => reply::json(200, &ask.shared.signer.key_set()),
        ("GET", ["connect", "authorize"]) => code(ask),
        ("POST", ["connect", "token"]) => match grant(ask) {
            Ok(granted) => token(ask, granted),
            Err((status, error)) => denied(status, error),
        },
        ("POST", ["connect", "introspect"]) => introspect(ask),
        ("POST", ["connect", "revocation"]) => revoke(ask),
        ("GET", ["connect", "endsession"]) => end_session(ask),
        ("GET", ["connect", "consent"]) => consent(ask),
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
            "revocation_endpoint": format!("{issuer}/connect/revocation"),
            "end_session_endpoint": format!("{issuer}/connect/endsession"),
            "jwks_uri": format!("{issuer}/.well-known/jwks"),
            "scopes_supported": [SCOPE, "openid", "profile", "email", "organization", "offline_access"],
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
    let issued_at = ask.now.as_second();
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let access = Access {
        client_id: granted.client_id.clone(),
        scope: granted.scope.clone(),
        issued_at,
        expires_at: issued_at.saturating_add(seconds),
        ends_at: Instant::now() + lifetime,
    };
    let signed = |claims| ask.shared.signer.token(&claims);
    let Some(token) = signed(access_claims(ask, &access)) else {
        return denied(500, "server_error");
    };
    ask.shared.state().tokens_issued += 1;
    let mut body = json!({
        "access_token": token, "expires_in": lifetime.as_secs(), "token_type": "Bearer", "scope": granted.scope,
    });
    if let Some(nonce) = &granted.id_token {
        body["id_token"] = signed(id_claims(ask, &access, nonce.as_deref())).into();
    }
    let mut tokens = lock(&ask.shared.tokens);
    let now = Instant::now();
    tokens.access.retain(|_, access| access.ends_at > now);
    tokens.access.insert(token, access);
    if let Some(refresh) = granted.refresh_token {
        tokens.refresh.insert(refresh.clone(), granted.client_id);
        body["refresh_token"] = refresh.into();
    }
    reply::json(200, &body)
}

/// What an access token says; clients look into it, although it is opaque to them.
fn access_claims(ask: &Ask<'_>, access: &Access) -> Value {
    let issuer = &ask.shared.api_url;
    let scopes: Vec<&str> = access.scope.split(' ').collect();
    let mut claims = json!({
        "iss": issuer, "aud": [format!("{issuer}/resources"), "bentley-api-management"],
        "client_id": access.client_id, "iat": access.issued_at, "nbf": access.issued_at, "exp": access.expires_at,
        "scope": scopes, "jti": Uuid::new_v4().simple().to_string(),
    });
    if is_native(ask, &access.client_id) {
        claims["sub"] = member_id(&access.client_id).into();
        claims["email"] = access::email(ask.shared, &access.client_id).into();
    }
    claims
}

/// What an id token says of the user.
fn id_claims(ask: &Ask<'_>, access: &Access, nonce: Option<&str>) -> Value {
    let name = ask.shared.display_name(&access.client_id);
    json!({
        "iss": ask.shared.api_url, "aud": access.client_id, "sub": member_id(&access.client_id), "name": name,
        "email": access::email(ask.shared, &access.client_id), "iat": access.issued_at, "exp": access.expires_at,
        "nonce": nonce,
    })
}

fn is_native(ask: &Ask<'_>, client_id: &str) -> bool {
    ask.shared
        .options
        .native_clients
        .iter()
        .any(|id| id == client_id)
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
                id_token: None,
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
            let has = |scope: &str| code.scope.split(' ').any(|word| word == scope);
            Ok(Granted {
                client_id: code.client_id,
                refresh_token: has("offline_access").then(random),
                id_token: has("openid").then_some(code.nonce),
                scope: code.scope,
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
                id_token: None,
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

/// The user agrees at once: the browser is sent back with a code, to this machine or to a registered address.
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
    } else if !may_redirect(&ask.shared.options.redirects, &field("redirect_uri")) {
        return denied(400, "invalid_request");
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
                scope: known_scopes(&scope),
                nonce: ask.query("nonce").map(str::to_owned),
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

/// Those of the wanted scopes that there are.
fn known_scopes(wanted: &str) -> String {
    let known = |word: &&str| *word == SCOPE || PERSONAL.contains(word);
    wanted
        .split(' ')
        .filter(known)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Source: RFC 7662
fn introspect(ask: &Ask<'_>) -> Reply {
    let form = form(ask);
    if let Err((status, error)) = service(ask, &form) {
        return denied(status, error);
    }
    let token = form.get("token").map(String::as_str).unwrap_or_default();
    let access = lock(&ask.shared.tokens).access(token).cloned();
    match access {
        Some(access) => {
            let mut body = access_claims(ask, &access);
            body["active"] = true.into();
            body["token_type"] = "Bearer".into();
            body["scope"] = access.scope.into();
            reply::json(200, &body)
        }
        None => reply::json(200, &json!({ "active": false })),
    }
}

/// Ends a token; one that is not known is as good as ended.
///
/// Source: RFC 7009
fn revoke(ask: &Ask<'_>) -> Reply {
    let form = form(ask);
    let native = form.get("client_id").filter(|id| is_native(ask, id));
    let client = match native {
        Some(id) => Ok(id.clone()),
        None => service(ask, &form),
    };
    let client = match client {
        Ok(client) => client,
        Err((status, error)) => return denied(status, error),
    };
    let Some(token) = form.get("token") else {
        return denied(400, "invalid_request");
    };
    let mut tokens = lock(&ask.shared.tokens);
    if tokens
        .access
        .get(token)
        .is_some_and(|access| access.client_id == client)
    {
        tokens.access.remove(token);
    }
    if tokens.refresh.get(token) == Some(&client) {
        tokens.refresh.remove(token);
    }
    reply::empty(200)
}

/// Signs a user out, and sends the browser back if it came with an address.
///
/// Source: openid.net/specs/openid-connect-rpinitiated-1_0.html
fn end_session(ask: &Ask<'_>) -> Reply {
    let Some(to) = ask.query("post_logout_redirect_uri") else {
        let plain = [("content-type", "text/plain; charset=utf-8")];
        return reply::with(200, &plain, "You are signed out.\n");
    };
    let back = Url::parse(to).ok();
    let back = back.filter(|_| may_redirect(&ask.shared.options.redirects, to));
    let Some(mut back) = back else {
        return denied(400, "invalid_request");
    };
    if let Some(state) = ask.query("state") {
        back.query_pairs_mut().append_pair("state", state);
    }
    reply::with(302, &[("location", back.as_str())], "")
}

/// The user lets connections act, at an address that was given to an application of that user, once.
fn consent(ask: &Ask<'_>) -> Reply {
    let ticket = ask.query("ticket").unwrap_or_default();
    let consent = lock(&ask.shared.tokens).consents.remove(ticket);
    match consent.filter(|consent| consent.ends_at > Instant::now()) {
        Some(consent) => {
            let mut state = ask.shared.state();
            state.authorized_users.push(consent.client_id);
            reply::with(302, &[("location", &consent.redirect_url)], "")
        }
        None => denied(400, "invalid_request"),
    }
}
