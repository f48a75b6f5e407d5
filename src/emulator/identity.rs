//! The identity provider: discovery, tokens for service applications and for users, introspection and revocation.

mod grants;

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::time::Instant;
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::access;
use super::guard::may_redirect;
use super::lock::lock;
use super::model::member_id;
use super::reply::{self, Refusal, Reply, refuse, unknown};
use super::request::ApiRequest;
use super::tokens::Access;

use grants::{Granted, authenticate_service, grant, issue_code};

/// The one current scope.
const SCOPE: &str = "itwin-platform";

/// An OAuth 2 error code.
type OauthError = &'static str;

/// Checks the access token of an API request; returns its client id.
pub(super) fn authorize(request: &ApiRequest<'_>) -> Result<String, Refusal> {
    let Some(header) = request.header("authorization") else {
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
    let tokens = lock(&request.shared.tokens);
    let access = tokens.access(token);
    access
        .map(|access| access.client_id.clone())
        .ok_or_else(|| refuse(401, "Unauthorized", "The token is invalid or has expired."))
}

/// Handles a request to the identity provider; None if it is not one.
pub(super) fn handle(request: &ApiRequest<'_>) -> Option<Reply> {
    let path = request.path();
    let answered = match (request.method.as_str(), path.as_slice()) {
        ("GET", [".well-known", "openid-configuration"]) => discovery(request),
        ("GET", [".well-known", "jwks"]) => reply::json(200, &request.shared.signer.key_set()),
        ("GET", ["connect", "authorize"]) => issue_code(request),
        ("POST", ["connect", "token"]) => match grant(request) {
            Ok(granted) => token(request, granted),
            Err((status, error)) => denied(status, error),
        },
        ("POST", ["connect", "introspect"]) => introspect(request),
        ("POST", ["connect", "revocation"]) => revoke(request),
        ("GET", ["connect", "endsession"]) => end_session(request),
        ("GET", ["connect", "consent"]) => consent(request),
        (_, [".well-known" | "connect", ..]) => unknown().into_reply(),
        _ => return None,
    };
    Some(answered)
}

fn discovery(request: &ApiRequest<'_>) -> Reply {
    let issuer = &request.shared.api_url;
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

fn denied(status: u16, error: OauthError) -> Reply {
    let mut reply = reply::json(status, &json!({ "error": error }));
    if status == 401 {
        let basic = hyper::header::HeaderValue::from_static("Basic realm=\"emulated\"");
        reply.headers_mut().insert("www-authenticate", basic);
    }
    reply
}

fn token(request: &ApiRequest<'_>, granted: Granted) -> Reply {
    let lifetime = request.shared.options.token_lifetime;
    let issued_at = request.now.as_second();
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let access = Access {
        client_id: granted.client_id.clone(),
        scope: granted.scope.clone(),
        issued_at,
        expires_at: issued_at.saturating_add(seconds),
        ends_at: Instant::now() + lifetime,
    };
    let signed = |claims| request.shared.signer.token(&claims);
    let Some(token) = signed(access_claims(request, &access)) else {
        return denied(500, "server_error");
    };
    request.shared.state().tokens_issued += 1;
    let mut body = json!({
        "access_token": token, "expires_in": lifetime.as_secs(), "token_type": "Bearer", "scope": granted.scope,
    });
    if let Some(nonce) = &granted.id_token {
        body["id_token"] = signed(id_claims(request, &access, nonce.as_deref())).into();
    }
    let mut tokens = lock(&request.shared.tokens);
    let now = Instant::now();
    tokens.access.retain(|_, access| access.ends_at > now);
    tokens.access.insert(token, access);
    if let Some(refresh) = granted.refresh_token {
        tokens.refresh.insert(refresh.clone(), granted.client_id);
        body["refresh_token"] = refresh.into();
    }
    reply::json(200, &body)
}

/// The claims of an access token. Some clients read them, although the token is opaque.
fn access_claims(request: &ApiRequest<'_>, access: &Access) -> Value {
    let issuer = &request.shared.api_url;
    let scopes: Vec<&str> = access.scope.split(' ').collect();
    let mut claims = json!({
        "iss": issuer, "aud": [format!("{issuer}/resources"), "bentley-api-management"],
        "client_id": access.client_id, "iat": access.issued_at, "nbf": access.issued_at, "exp": access.expires_at,
        "scope": scopes, "jti": Uuid::new_v4().simple().to_string(),
    });
    if is_native(request, &access.client_id) {
        claims["sub"] = member_id(&access.client_id).into();
        claims["email"] = access::email(request.shared, &access.client_id).into();
    }
    claims
}

/// The claims of an id token.
fn id_claims(request: &ApiRequest<'_>, access: &Access, nonce: Option<&str>) -> Value {
    let name = request.shared.display_name(&access.client_id);
    json!({
        "iss": request.shared.api_url, "aud": access.client_id, "sub": member_id(&access.client_id), "name": name,
        "email": access::email(request.shared, &access.client_id), "iat": access.issued_at, "exp": access.expires_at,
        "nonce": nonce,
    })
}

fn is_native(request: &ApiRequest<'_>, client_id: &str) -> bool {
    request
        .shared
        .options
        .native_clients
        .iter()
        .any(|id| id == client_id)
}

fn form(request: &ApiRequest<'_>) -> HashMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().collect()
}

/// Source: RFC 7662
fn introspect(request: &ApiRequest<'_>) -> Reply {
    let form = form(request);
    if let Err((status, error)) = authenticate_service(request, &form) {
        return denied(status, error);
    }
    let token = form.get("token").map(String::as_str).unwrap_or_default();
    let access = lock(&request.shared.tokens).access(token).cloned();
    match access {
        Some(access) => {
            let mut body = access_claims(request, &access);
            body["active"] = true.into();
            body["token_type"] = "Bearer".into();
            body["scope"] = access.scope.into();
            reply::json(200, &body)
        }
        None => reply::json(200, &json!({ "active": false })),
    }
}

/// Revokes a token; an unknown one counts as revoked.
///
/// Source: RFC 7009
fn revoke(request: &ApiRequest<'_>) -> Reply {
    let form = form(request);
    let native = form.get("client_id").filter(|id| is_native(request, id));
    let client = match native {
        Some(id) => Ok(id.clone()),
        None => authenticate_service(request, &form),
    };
    let client = match client {
        Ok(client) => client,
        Err((status, error)) => return denied(status, error),
    };
    let Some(token) = form.get("token") else {
        return denied(400, "invalid_request");
    };
    let mut tokens = lock(&request.shared.tokens);
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

/// Signs a user out, and redirects the browser to the given address, if any.
///
/// Source: openid.net/specs/openid-connect-rpinitiated-1_0.html
fn end_session(request: &ApiRequest<'_>) -> Reply {
    let Some(to) = request.query("post_logout_redirect_uri") else {
        let plain = [("content-type", "text/plain; charset=utf-8")];
        return reply::with(200, &plain, "You are signed out.\n");
    };
    let back = Url::parse(to).ok();
    let back = back.filter(|_| may_redirect(&request.shared.options.redirects, to));
    let Some(mut back) = back else {
        return denied(400, "invalid_request");
    };
    if let Some(state) = request.query("state") {
        back.query_pairs_mut().append_pair("state", state);
    }
    reply::with(302, &[("location", back.as_str())], "")
}

/// Records the user's consent; each ticket works once.
fn consent(request: &ApiRequest<'_>) -> Reply {
    let ticket = request.query("ticket").unwrap_or_default();
    let consent = lock(&request.shared.tokens).consents.remove(ticket);
    match consent.filter(|consent| consent.ends_at > Instant::now()) {
        Some(consent) => {
            let mut state = request.shared.state();
            state.authorize(&consent.client_id, request.now);
            reply::with(302, &[("location", &consent.redirect_url)], "")
        }
        None => denied(400, "invalid_request"),
    }
}
