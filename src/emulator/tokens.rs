//! Tokens, codes and consent pages that were issued, in memory only.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How long a page for consent waits for the user.
const CONSENT_LIFETIME: Duration = Duration::from_secs(600);

/// The most pages for consent that wait.
const CONSENTS_MAX: usize = 1000;

/// What has been handed out.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Tokens that are good.
    pub(super) access: HashMap<String, Access>,
    /// Refresh tokens that are good: their clients.
    pub(super) refresh: HashMap<String, String>,
    /// Codes that wait to be exchanged.
    pub(super) codes: HashMap<String, Code>,
    /// Pages on which a user lets connections act: whose, and where the browser goes then.
    pub(super) consents: HashMap<String, Consent>,
}

/// A token that was handed out.
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

    pub(super) fn access(&self, token: &str) -> Option<&Access> {
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

pub(super) fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
