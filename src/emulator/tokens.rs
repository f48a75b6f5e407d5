//! Tokens, codes and consent pages that were issued, in memory only.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// Lifetime of a consent page.
const CONSENT_LIFETIME: Duration = Duration::from_secs(600);

/// Maximum number of open consent pages.
const CONSENTS_MAX: usize = 1000;

/// Everything that was issued and is not expired or revoked.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Access tokens.
    pub(super) access: HashMap<String, Access>,
    /// Client ids by refresh token.
    pub(super) refresh: HashMap<String, String>,
    /// Authorization codes.
    pub(super) codes: HashMap<String, Code>,
    /// Consent pages by ticket.
    pub(super) consents: HashMap<String, Consent>,
}

/// An access token.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) client_id: String,
    pub(super) scope: String,
    /// Seconds since 1970.
    pub(super) issued_at: i64,
    pub(super) expires_at: i64,
    pub(super) ends_at: Instant,
}

#[derive(Debug)]
pub(super) struct Code {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) scope: String,
    pub(super) nonce: Option<String>,
    pub(super) ends_at: Instant,
}

#[derive(Debug)]
pub(super) struct Consent {
    pub(super) client_id: String,
    pub(super) redirect_url: String,
    pub(super) ends_at: Instant,
}

impl Tokens {
    pub(super) fn revoke_all(&mut self) {
        self.access.clear();
    }

    /// Revokes all tokens, refresh tokens too: every user has to sign in again.
    pub(super) fn sign_out(&mut self) {
        self.access.clear();
        self.refresh.clear();
    }

    pub(super) fn access(&self, token: &str) -> Option<&Access> {
        let access = self.access.get(token)?;
        (access.ends_at > Instant::now()).then_some(access)
    }

    /// Creates a consent page for this user and returns its random ticket.
    pub(super) fn consent_page(&mut self, client_id: &str, redirect_url: &str) -> String {
        let now = Instant::now();
        self.consents.retain(|_, consent| consent.ends_at > now);
        if self.consents.len() >= CONSENTS_MAX {
            self.consents.clear();
        }
        let ticket = random_id();
        let consent = Consent {
            client_id: client_id.to_owned(),
            redirect_url: redirect_url.to_owned(),
            ends_at: now + CONSENT_LIFETIME,
        };
        self.consents.insert(ticket.clone(), consent);
        ticket
    }
}

pub(super) fn random_id() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
