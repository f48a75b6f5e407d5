//! The addresses of the identity provider.
//!
//! Source: openid.net/specs/openid-connect-discovery-1_0.html

use serde::Deserialize;
use tracing::{debug, warn};
use url::Url;

use super::error::{Error, Kind};
use super::hosts::Hosts;
use super::limits::Limit;
use super::transport::{HttpClients, execute};
use super::urls::{below, without_secrets};

const DISCOVER: &str = "discover token endpoint";

/// Addresses of the identity provider.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    /// Issues tokens. On the host and port of the configuration.
    pub(super) token: Url,
    /// Where users sign in.
    pub(super) authorize: Url,
    /// Takes tokens back, if there is such an address; on the same host and port.
    pub(super) revoke: Option<Url>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "token_endpoint")]
    token: String,
    #[serde(rename = "authorization_endpoint", default)]
    authorize: Option<String>,
    #[serde(rename = "revocation_endpoint", default)]
    revoke: Option<String>,
}

impl Endpoints {
    /// Those of an identity provider without a discovery document.
    pub(super) fn usual(issuer: &Url) -> Self {
        Self {
            token: below(issuer, &["connect", "token"]),
            authorize: below(issuer, &["connect", "authorize"]),
            revoke: None,
        }
    }

    /// Those in the discovery document; None if there is no document now.
    pub(super) async fn discover(
        operation: &'static str,
        issuer: &Url,
        http: &HttpClients,
        hosts: &Hosts,
    ) -> Result<Option<Self>, Error> {
        let url = below(issuer, &[".well-known", "openid-configuration"]);
        let host = hosts.of(&url);
        let request = http
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
        let Ok(document) = reply.json::<Document>() else {
            return Ok(None);
        };
        let Ok(token) = Url::parse(&document.token) else {
            return Ok(None);
        };
        // Secrets are sent only to the configured host and port, and without a user name.
        if !is_of(issuer, &token) {
            let address = without_secrets(token.as_str());
            return Err(Error::new(operation, Kind::ForeignEndpoint { address }));
        }
        let usual = Self::usual(issuer);
        let named = |text: Option<String>| text.and_then(|text| Url::parse(&text).ok());
        let found = Self {
            token,
            // It gets no secret, and the browser shows where it is.
            authorize: named(document.authorize)
                .filter(|url| url.scheme() == "https" || is_of(issuer, url))
                .unwrap_or(usual.authorize),
            revoke: named(document.revoke).filter(|url| is_of(issuer, url)),
        };
        Ok(Some(found))
    }
}

fn is_of(issuer: &Url, url: &Url) -> bool {
    url.origin() == issuer.origin() && url.username().is_empty() && url.password().is_none()
}
