//! The token: asked for with the client's credentials, kept, renewed early, by one task at a time.
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
use super::answer::{self, Limit, Reply};
use super::error::{Answer, Error, From, Kind};
use super::http::{self, Gates, Http};
use super::said::words;
use crate::retry;
use crate::secret::Secret;

/// A token is renewed so long before its end, or after three quarters of a short life.
const RENEW_EARLY: Duration = Duration::from_secs(300);

/// The life of a token that does not tell.
const LIFETIME: Duration = Duration::from_secs(3600);

/// No token is kept for longer, whatever is said.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Nor asked for again sooner.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

const OPERATION: &str = "get token";

const DISCOVER: &str = "discover token endpoint";

#[derive(Debug)]
pub(super) struct Tokens {
    http: Http,
    settings: Settings,
    gates: Arc<Gates>,
    /// Locked while a token is asked for, so that everybody else waits for that one.
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
    pub(super) fn new(http: Http, settings: Settings, gates: Arc<Gates>) -> Self {
        Self {
            http,
            settings,
            gates,
            state: Mutex::default(),
        }
    }

    /// A token that is good for some time.
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
                debug!(error = %refused, "the token could not be renewed early; the old one is still good");
                token.renew_at = (Instant::now() + Duration::from_secs(30)).min(token.ends_at);
                Ok(token.text.clone())
            }
            _ => Err(refused),
        }
    }

    /// A token other than `stale`, which the platform refused.
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

    /// The user as which a service application is a member of an iTwin.
    pub(super) fn service_user(&self) -> String {
        format!("{}@apps.imsoidc.bentley.com", self.settings.client_id)
    }

    async fn ask(&self, state: &mut State) -> Result<Secret, Error> {
        let endpoint = match &state.endpoint {
            Some(known) => known.clone(),
            None => match self.discover().await? {
                Some(found) => state.endpoint.insert(found).clone(),
                None => http::below(&self.settings.issuer_url, &["connect", "token"]),
            },
        };
        // Repeating it does no harm: it is another token.
        let token = retry::in_place(
            || self.ask_once(&endpoint),
            |error: &Error| error.passing(true),
        )
        .await?;
        let text = token.text.clone();
        state.token = Some(token);
        Ok(text)
    }

    async fn ask_once(&self, endpoint: &Url) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            #[serde(default, deserialize_with = "lifetime")]
            expires_in: Option<Duration>,
        }
        let asked_at = Instant::now();
        let host = self.gates.of(endpoint);
        let request = self
            .http
            .to(&host)
            .post(endpoint.clone())
            .header("accept", "application/json")
            .form(&[
                ("grant_type", "client_credentials"),
                ("client_id", &self.settings.client_id),
                ("client_secret", self.settings.client_secret.expose()),
                ("scope", &self.settings.scope),
            ]);
        let reply = http::exchange(OPERATION, &host, request, Limit::Answer).await?;
        if !reply.status.is_success() {
            let floor = http::hold(&host, reply.status, &reply.headers);
            return Err(Self::refusal(&reply, floor));
        }
        // Not the parser's own words: they may quote the token.
        let granted = match reply.json::<Granted>() {
            Ok(granted) if !granted.access_token.is_empty() => granted,
            _ if reply.json::<serde::de::IgnoredAny>().is_err() => return Err(reply.foreign(None)),
            _ => return Err(reply.unreadable("it holds no access token")),
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
            // OAuth's errors are JSON with a word for the error: RFC 6749, section 5.2.
            Err(_) => return reply.foreign(floor),
        };
        let answer = Answer {
            from: From::Identity,
            status: reply.status.as_u16(),
            code: code.map(|code| words(&code)),
            message: words(&message),
            request_id: None,
            floor,
            permission: None,
        };
        Error::new(OPERATION, Kind::Answer(Box::new(answer)))
    }

    /// The token endpoint that the identity provider names; none if it names none right now.
    async fn discover(&self) -> Result<Option<Url>, Error> {
        #[derive(Deserialize)]
        struct Discovery {
            token_endpoint: String,
        }
        let issuer = &self.settings.issuer_url;
        let url = http::below(issuer, &[".well-known", "openid-configuration"]);
        let host = self.gates.of(&url);
        let request = self
            .http
            .to(&host)
            .get(url.clone())
            .header("accept", "application/json");
        let reply = match http::exchange(DISCOVER, &host, request, Limit::Answer).await {
            Ok(reply) if reply.status.is_success() => reply,
            Ok(reply) => {
                warn!(
                    status = reply.status.as_u16(),
                    "the identity provider does not tell its token endpoint; using the usual one"
                );
                return Ok(None);
            }
            Err(error) => {
                debug!(%error, "the identity provider does not tell its token endpoint; using the usual one");
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
        // The secret goes to the host that was configured, and nowhere else: not to another port of it either, nor with a user name.
        if token_endpoint.origin() != issuer.origin()
            || !token_endpoint.username().is_empty()
            || token_endpoint.password().is_some()
        {
            let address = answer::target(token_endpoint.as_str());
            return Err(Error::new(OPERATION, Kind::ForeignEndpoint { address }));
        }
        Ok(Some(token_endpoint))
    }
}

/// Seconds, as a number or as text; nothing where they are no time. A life without an end, or with none at all, is no reason to fail.
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
    fn any_lifetime_is_one_that_can_be_used() {
        for (told, seconds) in [
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
            let mut json = serde_json::Deserializer::from_str(told);
            let life = lifetime(&mut json).unwrap();
            assert_eq!(life.map(|life| life.as_secs_f64()), seconds, "{told}");
        }
    }
}
