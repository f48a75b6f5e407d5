//! The access token: requested with client credentials, cached, renewed early, by one task at a time.
//!
//! Source: developer.bentley.com/apis/overview/authorization/service-app/; errors: RFC 6749, section 5.2.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Deserializer};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};
use url::Url;

use super::Settings;
use super::client_secret::CurrentSecret;
use super::error::{Answer, Error, From, Kind, Repeat};
use super::hosts::Hosts;
use super::limits::Limit;
use super::reply::Reply;
use super::transport::{HttpClients, execute, pause_host};
use super::untrusted_text::sanitize;
use super::urls::{below, without_secrets};
use crate::retry;
use crate::secret::{ClientSecret, Secret};

/// A token is renewed this long before it expires, or after three quarters of a short lifetime.
const RENEW_EARLY: Duration = Duration::from_secs(300);

/// Lifetime of a token without `expires_in`.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Upper bound of a token's lifetime.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Lower bound of a token's lifetime.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

const OPERATION: &str = "get token";

const DISCOVER: &str = "discover token endpoint";

#[derive(Debug)]
pub(super) struct Tokens {
    http: HttpClients,
    settings: Settings,
    secret: CurrentSecret,
    hosts: Arc<Hosts>,
    /// Locked during a token request: all other tasks wait for its result.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoint: Option<Url>,
    token: Option<Token>,
}

#[derive(Debug)]
struct Token {
    text: Secret,
    renew_at: Instant,
    ends_at: Instant,
}

impl Tokens {
    pub(super) fn new(http: HttpClients, settings: Settings, hosts: Arc<Hosts>) -> Self {
        Self {
            http,
            secret: CurrentSecret::new(settings.client_secret.clone()),
            settings,
            hosts,
            state: Mutex::default(),
        }
    }

    /// A token that is valid for some time.
    pub(super) async fn get(&self) -> Result<Secret, Error> {
        let mut state = self.state.lock().await;
        if let Some(token) = state
            .token
            .as_ref()
            .filter(|token| Instant::now() < token.renew_at)
        {
            return Ok(token.text.clone());
        }
        let refused = match self.ask(&mut state).await {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        match &mut state.token {
            Some(token) if Instant::now() < token.ends_at => {
                debug!(error = %refused, "cannot renew the token early; the current one is still valid");
                token.renew_at = (Instant::now() + Duration::from_secs(30)).min(token.ends_at);
                Ok(token.text.clone())
            }
            _ => Err(refused),
        }
    }

    /// A token other than `stale`, which the platform rejected.
    pub(super) async fn renew(&self, stale: &Secret) -> Result<Secret, Error> {
        let mut state = self.state.lock().await;
        match &state.token {
            Some(token) if token.text != *stale => Ok(token.text.clone()),
            _ => {
                state.token = None;
                self.ask(&mut state).await
            }
        }
    }

    /// Replaces the client secret, for the next token.
    pub(super) fn set_client_secret(&self, secret: ClientSecret) {
        self.secret.set(secret);
    }

    /// The e-mail address under which the service application is a member of an iTwin.
    pub(super) fn service_user(&self) -> String {
        format!("{}@apps.imsoidc.bentley.com", self.settings.client_id)
    }

    async fn ask(&self, state: &mut State) -> Result<Secret, Error> {
        let endpoint = match &state.endpoint {
            Some(known) => known.clone(),
            None => match self.discover().await? {
                Some(found) => state.endpoint.insert(found).clone(),
                None => below(&self.settings.issuer_url, &["connect", "token"]),
            },
        };
        let secret = self.secret.get();
        let token = match self.ask_with(&endpoint, &secret).await {
            Err(error) if error.is_refused_client() && self.secret.replace(&secret).await => {
                self.ask_with(&endpoint, &self.secret.get()).await?
            }
            asked => asked?,
        };
        let text = token.text.clone();
        state.token = Some(token);
        Ok(text)
    }

    async fn ask_with(&self, endpoint: &Url, secret: &Secret) -> Result<Token, Error> {
        // Safe to repeat: it returns another token.
        retry::in_place(
            || self.ask_once(endpoint, secret),
            |error: &Error| error.retry_in_place(Repeat::Safe),
        )
        .await
    }

    async fn ask_once(&self, endpoint: &Url, secret: &Secret) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            #[serde(default, deserialize_with = "lifetime")]
            expires_in: Option<Duration>,
        }
        let asked_at = Instant::now();
        let host = self.hosts.of(endpoint);
        let request = self
            .http
            .to(&host)
            .post(endpoint.clone())
            .header("accept", "application/json")
            .form(&[
                ("grant_type", "client_credentials"),
                ("client_id", &self.settings.client_id),
                ("client_secret", secret.expose()),
                ("scope", &self.settings.scope),
            ]);
        let reply = execute(OPERATION, &host, request, Limit::Answer).await?;
        if !reply.status.is_success() {
            let floor = pause_host(&host, reply.status, &reply.headers);
            return Err(Self::refusal(&reply, floor));
        }
        // Not the parser's message: it can quote the token.
        let granted = match reply.json::<Granted>() {
            Ok(granted) if !granted.access_token.is_empty() => granted,
            _ if reply.json::<serde::de::IgnoredAny>().is_err() => return Err(reply.foreign(None)),
            _ => return Err(reply.unreadable("no access token")),
        };
        let lifetime = granted.expires_in.unwrap_or(LIFETIME);
        debug!(lifetime = lifetime.as_secs(), "token received");
        Ok(Token {
            text: Secret::new(granted.access_token),
            renew_at: asked_at + lifetime - RENEW_EARLY.min(lifetime / 4),
            ends_at: asked_at + lifetime,
        })
    }

    fn refusal(reply: &Reply, floor: Option<Duration>) -> Error {
        #[derive(Deserialize)]
        struct Refused {
            error: String,
            error_description: Option<String>,
        }
        let (code, message) = match reply.json() {
            Ok(Refused {
                error,
                error_description,
            }) => (Some(error), error_description.unwrap_or_default()),
            Err(_) if reply.is_empty() && reply.status == StatusCode::UNAUTHORIZED => {
                (None, String::new())
            }
            // OAuth errors are JSON with an error code: RFC 6749, section 5.2.
            Err(_) => return reply.foreign(floor),
        };
        let answer = Answer {
            from: From::Identity,
            status: reply.status.as_u16(),
            code: code.map(|code| sanitize(&code)),
            message: sanitize(&message),
            request_id: None,
            floor,
            permission: None,
        };
        Error::new(OPERATION, Kind::Answer(Box::new(answer)))
    }

    /// The token endpoint in the discovery document; None if there is no document now.
    async fn discover(&self) -> Result<Option<Url>, Error> {
        #[derive(Deserialize)]
        struct Discovery {
            token_endpoint: String,
        }
        let issuer = &self.settings.issuer_url;
        let url = below(issuer, &[".well-known", "openid-configuration"]);
        let host = self.hosts.of(&url);
        let request = self
            .http
            .to(&host)
            .get(url.clone())
            .header("accept", "application/json");
        let reply = match execute(DISCOVER, &host, request, Limit::Answer).await {
            Ok(reply) if reply.status.is_success() => reply,
            Ok(reply) => {
                warn!(
                    status = reply.status.as_u16(),
                    "discovery failed; using the default token endpoint"
                );
                return Ok(None);
            }
            Err(error) => {
                debug!(%error, "discovery failed; using the default token endpoint");
                return Ok(None);
            }
        };
        let named = reply
            .json()
            .ok()
            .and_then(|Discovery { token_endpoint }| Url::parse(&token_endpoint).ok());
        let Some(token_endpoint) = named else {
            return Ok(None);
        };
        // The secret is sent only to the configured host and port, and without a user name.
        if token_endpoint.origin() != issuer.origin()
            || !token_endpoint.username().is_empty()
            || token_endpoint.password().is_some()
        {
            let address = without_secrets(token_endpoint.as_str());
            return Err(Error::new(OPERATION, Kind::ForeignEndpoint { address }));
        }
        Ok(Some(token_endpoint))
    }
}

/// Seconds, as a number or as text; None if they are neither. Any number is clamped to a usable lifetime.
fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let seconds = match &value {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let seconds = seconds.filter(|seconds| seconds.is_finite());
    Ok(seconds.map(|seconds| {
        let seconds = seconds.clamp(LIFETIME_MIN.as_secs_f64(), LIFETIME_MAX.as_secs_f64());
        Duration::from_secs_f64(seconds)
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn any_lifetime_is_clamped_to_a_usable_one() {
        for (text, seconds) in [
            ("3600", Some(3600.0)),
            ("3599.5", Some(3599.5)),
            ("\"3600\"", Some(3600.0)),
            ("18446744073709551615", Some(86400.0)),
            ("1e300", Some(86400.0)),
            ("-5", Some(1.0)),
            ("0", Some(1.0)),
            ("\"soon\"", None),
            ("\"NaN\"", None),
            ("null", None),
            ("[]", None),
        ] {
            let mut json = serde_json::Deserializer::from_str(text);
            let life = lifetime(&mut json).unwrap();
            assert_eq!(life.map(|life| life.as_secs_f64()), seconds, "{text}");
        }
    }
}
