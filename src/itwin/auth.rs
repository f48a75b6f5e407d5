//! The access token: requested for a service application or a user, cached, renewed early, by one task at a time.
//!
//! Source: developer.bentley.com/apis/overview/authorization/service-app/ and
//! developer.bentley.com/apis/overview/authorization/native-spa/

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::debug;
use url::Url;

use super::client_secret::CurrentSecret;
use super::discovery::Endpoints;
use super::error::{Error, Repeat};
use super::granted::{Granted, OPERATION, Token};
use super::hosts::Hosts;
use super::transport::HttpClients;
use super::user_grant::UserGrant;
use super::{Credentials, Settings, SignedOut};
use crate::retry;
use crate::secret::{ClientSecret, Secret};

#[derive(Debug)]
pub(super) struct Tokens {
    http: HttpClients,
    issuer: Url,
    client_id: String,
    scope: String,
    grant: Grant,
    hosts: Arc<Hosts>,
    /// Locked during a token request: all other tasks wait for its result.
    state: Mutex<State>,
    /// Why there is no token, if that is because no user is signed in.
    signed_out: watch::Sender<Option<SignedOut>>,
}

/// How tokens are requested.
#[derive(Debug)]
enum Grant {
    Service(CurrentSecret),
    User(UserGrant),
}

#[derive(Debug, Default)]
struct State {
    endpoints: Option<Endpoints>,
    token: Option<Token>,
}

impl Tokens {
    pub(super) fn new(http: HttpClients, settings: Settings, hosts: Arc<Hosts>) -> Self {
        let grant = match settings.credentials {
            Credentials::Service(secret) => Grant::Service(CurrentSecret::new(secret)),
            Credentials::User(file) => Grant::User(UserGrant::new(
                file,
                &settings.issuer_url,
                &settings.client_id,
                &settings.scope,
            )),
        };
        Self {
            http,
            issuer: settings.issuer_url,
            client_id: settings.client_id,
            scope: settings.scope,
            grant,
            hosts,
            state: Mutex::default(),
            signed_out: watch::Sender::new(None),
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
            Some(token) if Instant::now() < token.ends_at && !refused.is_signed_out() => {
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

    /// Uses this token, with which a user has just signed in.
    pub(super) async fn use_token(&self, token: Token) {
        self.state.lock().await.token = Some(token);
        self.note(None);
    }

    /// Uses no token of before: another user has signed in, or nobody is any more.
    pub(super) async fn forget(&self) {
        self.state.lock().await.token = None;
    }

    /// Replaces the client secret, for the next token.
    pub(super) fn set_client_secret(&self, new: ClientSecret) {
        if let Grant::Service(secret) = &self.grant {
            secret.set(new);
        }
    }

    /// The sign-in of the user; None for a service application.
    pub(super) fn user(&self) -> Option<&UserGrant> {
        match &self.grant {
            Grant::User(user) => Some(user),
            Grant::Service(_) => None,
        }
    }

    pub(super) fn signed_out(&self) -> watch::Receiver<Option<SignedOut>> {
        self.signed_out.subscribe()
    }

    /// Who has to be a member of iTwins: the e-mail address of the service application, or the user.
    pub(super) fn member(&self) -> String {
        match &self.grant {
            Grant::Service(_) => format!("{}@apps.imsoidc.bentley.com", self.client_id),
            Grant::User(user) => user
                .name()
                .unwrap_or_else(|| "the signed-in user".to_owned()),
        }
    }

    /// The addresses of the identity provider.
    pub(super) async fn endpoints(&self) -> Result<Endpoints, Error> {
        let mut state = self.state.lock().await;
        self.known_endpoints(&mut state).await
    }

    pub(super) fn http(&self) -> (&HttpClients, &Hosts) {
        (&self.http, &self.hosts)
    }

    async fn known_endpoints(&self, state: &mut State) -> Result<Endpoints, Error> {
        if let Some(known) = &state.endpoints {
            return Ok(known.clone());
        }
        let found = Endpoints::discover(OPERATION, &self.issuer, &self.http, &self.hosts).await?;
        Ok(match found {
            Some(found) => state.endpoints.insert(found).clone(),
            None => Endpoints::usual(&self.issuer),
        })
    }

    async fn ask(&self, state: &mut State) -> Result<Secret, Error> {
        let asked = self.ask_for(state).await;
        let signed_out = asked.as_ref().err().and_then(Error::signed_out);
        match &asked {
            Ok(_) => self.note(None),
            Err(_) if signed_out.is_some() => self.note(signed_out.cloned()),
            // That says nothing about the sign-in.
            Err(_) => {}
        }
        let token = asked?;
        let text = token.text.clone();
        state.token = Some(token);
        Ok(text)
    }

    fn note(&self, signed_out: Option<SignedOut>) {
        self.signed_out.send_if_modified(|known| {
            let differs = *known != signed_out;
            *known = signed_out;
            differs
        });
    }

    async fn ask_for(&self, state: &mut State) -> Result<Token, Error> {
        match &self.grant {
            Grant::Service(current) => {
                let endpoint = self.known_endpoints(state).await?.token;
                let secret = current.get();
                match self.ask_with(&endpoint, &secret).await {
                    Err(error) if error.is_refused_client() && current.replace(&secret).await => {
                        self.ask_with(&endpoint, &current.get()).await
                    }
                    asked => asked,
                }
            }
            Grant::User(user) => {
                // Without a sign-in the platform is not asked for anything.
                user.check().await?;
                let endpoints = self.known_endpoints(state).await?;
                user.refresh(&endpoints, &self.http, &self.hosts).await
            }
        }
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
        let asked_at = Instant::now();
        let host = self.hosts.of(endpoint);
        let request = self
            .http
            .to(&host)
            .post(endpoint.clone())
            .header("accept", "application/json")
            .form(&[
                ("grant_type", "client_credentials"),
                ("client_id", &self.client_id),
                ("client_secret", secret.expose()),
                ("scope", &self.scope),
            ]);
        let token = Granted::ask(&host, request).await?.token(asked_at);
        let lifetime = token.ends_at.duration_since(asked_at);
        debug!(lifetime = lifetime.as_secs(), "token received");
        Ok(token)
    }
}
