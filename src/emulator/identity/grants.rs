//! The three grants: client credentials, authorization code, refresh token; and the page that issues codes.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::Url;

use super::{OauthError, SCOPE, denied, form};
use crate::emulator::guard::may_redirect;
use crate::emulator::lock::lock;
use crate::emulator::reply::{self, Reply};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::RefreshToken;
use crate::emulator::tokens::{Code, random_id};

/// Scopes for users, which a service application must not request.
const PERSONAL: [&str; 5] = [
    "openid",
    "profile",
    "email",
    "organization",
    "offline_access",
];

/// Lifetime of an authorization code.
const CODE_LIFETIME: Duration = Duration::from_secs(60);

/// A successful grant.
pub(super) struct Granted {
    pub(super) client_id: String,
    pub(super) scope: String,
    pub(super) refresh_token: Option<String>,
    /// Present if the scope has `openid`: the nonce, if there is one.
    pub(super) id_token: Option<Option<String>>,
}

pub(super) fn grant(request: &ApiRequest<'_>) -> Result<Granted, (u16, OauthError)> {
    let form = form(request);
    let field = |name: &str| form.get(name).map(String::as_str);
    let needed = |name: &str| field(name).ok_or((400, "invalid_request"));
    match needed("grant_type")? {
        "client_credentials" => {
            let client_id = authenticate_service(request, &form)?;
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
            let code = lock(&request.shared.tokens).codes.remove(needed("code")?);
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
                refresh_token: has("offline_access").then(random_id),
                id_token: has("openid").then_some(code.nonce),
                scope: code.scope,
            })
        }
        "refresh_token" => {
            let known = needed("refresh_token")?;
            let mut tokens = lock(&request.shared.tokens);
            let client_id = tokens.refresh.get(known).cloned();
            let client_id = client_id.ok_or((400, "invalid_grant"))?;
            if client_id != needed("client_id")? {
                return Err((400, "invalid_grant"));
            }
            let refresh_token = match request.switches.refresh_token {
                RefreshToken::Rotated => {
                    tokens.refresh.remove(known);
                    Some(random_id())
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

/// Authenticates a service application by header or form; a wrong header gets 401, a wrong form 400.
pub(super) fn authenticate_service(
    request: &ApiRequest<'_>,
    form: &HashMap<String, String>,
) -> Result<String, (u16, OauthError)> {
    let (client, status) = match request.header("authorization") {
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
    if request.shared.options.native_clients.contains(&client.0) {
        return Err((400, "unauthorized_client"));
    }
    if !request.shared.options.clients.contains(&client) {
        return Err((status, "invalid_client"));
    }
    Ok(client.0)
}

/// Whether a service application can request these scopes: the current one, or older ones such as `storage:read`.
fn is_granted(scope: &str) -> bool {
    !scope.is_empty()
        && scope
            .split(' ')
            .all(|word| word == SCOPE || word.contains(':') && !PERSONAL.contains(&word))
}

/// Id and secret of a Basic header, each form-encoded.
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

/// Signs the user in without a prompt: redirects the browser with a code, to this machine or to a registered address.
pub(super) fn issue_code(request: &ApiRequest<'_>) -> Reply {
    let field = |name: &str| request.query(name).unwrap_or_default().to_owned();
    let Ok(mut back) = Url::parse(&field("redirect_uri")) else {
        return denied(400, "invalid_request");
    };
    let scope = field("scope");
    let error = if !request
        .shared
        .options
        .native_clients
        .contains(&field("client_id"))
    {
        return denied(400, "unauthorized_client");
    } else if !may_redirect(&request.shared.options.redirects, &field("redirect_uri")) {
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
            let code = random_id();
            let waiting = Code {
                client_id: field("client_id"),
                redirect_uri: field("redirect_uri"),
                challenge: field("code_challenge"),
                scope: known_scopes(&scope),
                nonce: request.query("nonce").map(str::to_owned),
                ends_at: Instant::now() + CODE_LIFETIME,
            };
            lock(&request.shared.tokens)
                .codes
                .insert(code.clone(), waiting);
            ("code", code)
        }
    };
    back.query_pairs_mut().append_pair(name, &value);
    if let Some(state) = request.query("state") {
        back.query_pairs_mut().append_pair("state", state);
    }
    reply::with(302, &[("location", back.as_str())], "")
}

/// The requested scopes that are known.
fn known_scopes(wanted: &str) -> String {
    let known = |word: &&str| *word == SCOPE || PERSONAL.contains(word);
    wanted
        .split(' ')
        .filter(known)
        .collect::<Vec<_>>()
        .join(" ")
}
