//! The identity provider: discovery, tokens for service applications, and what they are good for.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::time::Instant;
use url::form_urlencoded;
use uuid::Uuid;

use super::lock;
use super::reply::{self, Refusal, Reply, refuse};
use super::server::{Ask, unknown};

/// Scopes that can be asked for.
const SCOPE: &str = "itwin-platform";

/// Tokens that are good, with their ends.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<String, Instant>);

impl Tokens {
    fn issue(&mut self, lifetime: Duration) -> String {
        let now = Instant::now();
        self.0.retain(|_, end| *end > now);
        let token = format!(
            "emulated.{}{}",
            Uuid::new_v4().simple(),
            Uuid::new_v4().simple()
        );
        self.0.insert(token.clone(), now + lifetime);
        token
    }

    fn is_good(&self, token: &str) -> bool {
        self.0.get(token).is_some_and(|end| *end > Instant::now())
    }

    pub(super) fn revoke_all(&mut self) {
        self.0.clear();
    }
}

/// Lets a request to the API pass if it has a good token.
pub(super) fn authorize(ask: &Ask<'_>) -> Result<(), Refusal> {
    let Some(header) = ask.header("authorization") else {
        return Err(refuse(
            401,
            "HeaderNotFound",
            "Header Authorization was not found in the request.",
        ));
    };
    let Some(token) = header.strip_prefix("Bearer ") else {
        return Err(refuse(
            401,
            "InvalidAuthorizationScheme",
            "The authorization scheme is not supported.",
        ));
    };
    if lock(&ask.shared.tokens).is_good(token) {
        Ok(())
    } else {
        Err(refuse(
            401,
            "Unauthorized",
            "The token is not valid, or not any more.",
        ))
    }
}

pub(super) fn answer(ask: &Ask<'_>, words: &[&str]) -> Reply {
    let api = &ask.shared.api_url;
    match (ask.method, words) {
        (&Method::GET, [".well-known", ..]) => reply::json(
            200,
            &json!({
                "issuer": api,
                "authorization_endpoint": format!("{api}/connect/authorize"),
                "token_endpoint": format!("{api}/connect/token"),
                "jwks_uri": format!("{api}/.well-known/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }),
        ),
        (&Method::POST, ["connect", "token"]) => match grant(ask) {
            Ok(token) => {
                ask.shared.state().tokens_issued += 1;
                let lifetime = ask.shared.options.token_lifetime.as_secs();
                let body = json!({ "access_token": token, "expires_in": lifetime, "token_type": "Bearer", "scope": SCOPE });
                reply::json(200, &body)
            }
            Err(error) => reply::json(400, &json!({ "error": error })),
        },
        _ => unknown().into_reply(),
    }
}

fn grant(ask: &Ask<'_>) -> Result<String, &'static str> {
    let form: HashMap<String, String> = form_urlencoded::parse(&ask.body).into_owned().collect();
    let field = |name: &str| form.get(name).cloned();
    if field("grant_type").ok_or("invalid_request")? != "client_credentials" {
        return Err("unsupported_grant_type");
    }
    let client = match ask
        .header("authorization")
        .and_then(|header| header.strip_prefix("Basic "))
    {
        Some(basic) => decode_basic(basic).ok_or("invalid_request")?,
        None => (
            field("client_id").ok_or("invalid_request")?,
            field("client_secret").ok_or("invalid_request")?,
        ),
    };
    if !ask.shared.options.clients.contains(&client) {
        return Err("invalid_client");
    }
    if field("scope").is_none_or(|scope| scope.split(' ').any(|word| word != SCOPE)) {
        return Err("invalid_scope");
    }
    Ok(lock(&ask.shared.tokens).issue(ask.shared.options.token_lifetime))
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
