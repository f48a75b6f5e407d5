//! What the token endpoint answers.
//!
//! Source: RFC 6749, section 5

use std::time::Duration;

use reqwest::StatusCode;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use super::error::{Answer, Error, From, Kind};
use super::hosts::Host;
use super::limits::Limit;
use super::reply::Reply;
use super::transport::{execute, pause_host};
use super::untrusted_text::sanitize;
use crate::secret::Secret;

/// A token is renewed this long before it expires, or after three quarters of a short lifetime.
const RENEW_EARLY: Duration = Duration::from_secs(300);

/// Lifetime of a token without `expires_in`.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Upper bound of a token's lifetime.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Lower bound of a token's lifetime.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// The name of the request, for messages.
pub(super) const OPERATION: &str = "get token";

/// Tokens that were granted.
pub(super) struct Granted {
    pub(super) access_token: Secret,
    pub(super) lifetime: Duration,
    /// For a user only.
    pub(super) refresh_token: Option<Secret>,
}

/// An access token.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) text: Secret,
    pub(super) renew_at: Instant,
    pub(super) ends_at: Instant,
}

#[derive(Deserialize)]
struct Body {
    access_token: String,
    #[serde(default, deserialize_with = "lifetime")]
    expires_in: Option<Duration>,
    #[serde(default)]
    refresh_token: Option<String>,
}

impl Granted {
    /// Sends a request for tokens, once.
    pub(super) async fn ask(host: &Host, request: reqwest::RequestBuilder) -> Result<Self, Error> {
        let reply = execute(OPERATION, host, request, Limit::Answer).await?;
        if !reply.status.is_success() {
            let floor = pause_host(host, reply.status, &reply.headers);
            return Err(refusal(&reply, floor));
        }
        // Not the parser's message: it can quote the token.
        let body = match reply.json::<Body>() {
            Ok(body) if !body.access_token.is_empty() => body,
            _ if reply.json::<serde::de::IgnoredAny>().is_err() => return Err(reply.foreign(None)),
            _ => return Err(reply.unreadable("no access token")),
        };
        Ok(Self {
            access_token: Secret::new(body.access_token),
            lifetime: body.expires_in.unwrap_or(LIFETIME),
            refresh_token: body
                .refresh_token
                .filter(|token| !token.is_empty())
                .map(Secret::new),
        })
    }

    /// The access token, by the time at which it was asked for.
    pub(super) fn token(&self, asked_at: Instant) -> Token {
        let lifetime = self.lifetime;
        Token {
            text: self.access_token.clone(),
            renew_at: asked_at + lifetime - RENEW_EARLY.min(lifetime / 4),
            ends_at: asked_at + lifetime,
        }
    }
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
