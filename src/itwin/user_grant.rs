//! The sign-in of a user: authorization code with PKCE, and the refresh token that follows it.
//!
//! In: the sign-in in the state directory. Out: access tokens. The crate `oauth2` builds the requests; they go the same
//! way as all others. A refresh token works once, so processes take turns, and the next token is stored before the
//! access token that came with it is used. After a kill between the answer and that, the user has to sign in again. A
//! refresh token that was refused is not sent a second time.
//!
//! Source: developer.bentley.com/apis/overview/authorization/native-spa/; RFC 6749, RFC 7636, RFC 7009, RFC 8252

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use oauth2::basic::{BasicClient, BasicTokenResponse};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, CsrfToken, EndpointNotSet, EndpointSet,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, Scope, TokenUrl,
};
use tokio::time::Instant;
use tracing::debug;
use url::Url;

use super::SignedOut;
use super::callback::{self, CallbackError};
use super::discovery::Endpoints;
use super::error::{Error, Kind, Repeat};
use super::granted::{OPERATION, Token};
use super::hosts::Hosts;
use super::limits::Limit;
use super::oauth_transport::{OauthTransport, failure, granted};
use super::transport::{HttpClients, execute};
use crate::failpoint::failpoint;
use crate::login_file::{self, Locked, Login, LoginFile, TOKEN_MAX};
use crate::retry;
use crate::secret::Secret;

/// Requests a refresh token.
const OFFLINE: &str = "offline_access";

/// How long to wait for another process that renews the sign-in: longer than its requests may take.
const TURN_MAX: Duration = Duration::from_secs(120);

/// Between two looks whether it is done.
const TURN_LOOK: Duration = Duration::from_millis(50);

/// A client of the crate `oauth2` with both addresses.
type Oauth = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A sign-in that was begun: the user opens the address, and the browser returns to the redirect address.
#[derive(Debug)]
pub struct PendingSignIn {
    address: Url,
    redirect: Url,
    state: Secret,
    verifier: Secret,
}

impl PendingSignIn {
    /// Where the user signs in.
    #[must_use]
    pub fn address(&self) -> &Url {
        &self.address
    }

    /// Where the browser returns to.
    #[must_use]
    pub fn redirect(&self) -> &Url {
        &self.redirect
    }

    /// The code in the address to which the browser returned.
    ///
    /// # Errors
    /// When the address is not the end of this sign-in, or the user was refused.
    pub fn code(&self, returned: &str) -> Result<Secret, CallbackError> {
        callback::code(returned, &self.redirect, &self.state)
    }
}

/// What signing out did.
#[derive(Debug)]
pub enum SignOut {
    /// Nobody was signed in.
    Nobody,
    /// The refresh token is deleted, and the platform does not accept it any more.
    Revoked,
    /// The refresh token is deleted; the platform may accept a copy of it.
    Deleted(Option<Error>),
}

#[derive(Debug)]
pub(super) struct UserGrant {
    file: LoginFile,
    issuer: String,
    client_id: String,
    scope: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// A refresh token that was refused.
    refused: Option<Secret>,
    /// The user at the last look.
    user: Option<String>,
}

impl UserGrant {
    pub(super) fn new(file: LoginFile, issuer: &Url, client_id: &str, scope: &str) -> Self {
        let words: Vec<&str> = scope.split_whitespace().collect();
        let scope = if words.contains(&OFFLINE) {
            words.join(" ")
        } else {
            format!("{} {OFFLINE}", words.join(" "))
        };
        Self {
            file,
            issuer: issuer.as_str().to_owned(),
            client_id: client_id.to_owned(),
            scope,
            known: Mutex::default(),
        }
    }

    pub(super) fn file(&self) -> &LoginFile {
        &self.file
    }

    /// Name or e-mail address of the user, if it is known.
    pub(super) fn name(&self) -> Option<String> {
        self.known().user.clone()
    }

    /// When the user last allowed connections to act for them, or signed in.
    pub(super) async fn authorized_since(&self) -> Result<Option<Timestamp>, Error> {
        let file = self.file.clone();
        let read = blocking(move || file.read()).await.map_err(unusable)?;
        Ok(read.map(|login| login.authorized_at.unwrap_or(login.signed_in_at)))
    }

    /// Whether there is a sign-in to use. Sends nothing.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let file = self.file.clone();
        let read = blocking(move || file.read()).await;
        self.usable(read).map(drop)
    }

    /// Gets an access token with the refresh token, and stores the next one.
    pub(super) async fn refresh(
        &self,
        endpoints: &Endpoints,
        http: &HttpClients,
        hosts: &Hosts,
    ) -> Result<Token, Error> {
        let locked = self.lock().await?;
        let read = {
            let locked = locked.clone();
            blocking(move || locked.read()).await
        };
        let login = self.usable(read)?;
        let reserved = {
            let locked = locked.clone();
            blocking(move || locked.reserve()).await.map_err(unusable)?
        };
        failpoint("sign-in about to be renewed");
        let oauth = self.oauth(endpoints);
        let sent = RefreshToken::new(login.refresh_token.expose().to_owned());
        let asked_at = Instant::now();
        let transport = OauthTransport::new(http, hosts);
        // Safe to repeat: if an answer was lost, the token in it is lost in any case.
        let answer = retry::in_place(
            || exchange(&oauth, &sent, &transport),
            |error: &Error| error.retry_in_place(Repeat::Safe),
        );
        let answer = match answer.await {
            Err(error) if error.code().is_some_and(|code| code == "invalid_grant") => {
                debug!(%error, "the refresh token was refused");
                self.known().refused = Some(login.refresh_token.clone());
                return Err(signed_out(self.ended()));
            }
            answered => answered?,
        };
        failpoint("sign-in renewed");
        let granted = granted(&answer);
        // The identity provider may keep the token.
        if let Some(next) = granted
            .refresh_token
            .clone()
            .filter(|next| *next != login.refresh_token)
        {
            let next = Login {
                refresh_token: checked(next)?,
                ..login
            };
            blocking(move || reserved.replace(&next))
                .await
                .map_err(unusable)?;
            failpoint("sign-in stored");
        } else {
            drop(reserved);
        }
        drop(locked);
        let token = granted.token(asked_at);
        debug!(
            lifetime = granted.lifetime.as_secs(),
            "token received for the signed-in user"
        );
        Ok(token)
    }

    /// Begins a sign-in that returns to this address.
    pub(super) fn begin(&self, endpoints: &Endpoints, redirect: &Url) -> PendingSignIn {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let oauth = self.oauth(endpoints);
        let request = oauth
            .authorize_url(CsrfToken::new_random)
            .set_redirect_uri(Cow::Owned(RedirectUrl::from_url(redirect.clone())))
            .set_pkce_challenge(challenge)
            .add_scopes(
                self.scope
                    .split(' ')
                    .map(|word| Scope::new(word.to_owned())),
            );
        let (address, state) = request.url();
        PendingSignIn {
            address,
            redirect: redirect.clone(),
            state: Secret::new(state.into_secret()),
            verifier: Secret::new(verifier.into_secret()),
        }
    }

    /// Ends a sign-in: exchanges the code, and stores the refresh token.
    pub(super) async fn complete(
        &self,
        pending: &PendingSignIn,
        code: &Secret,
        endpoints: &Endpoints,
        http: &HttpClients,
        hosts: &Hosts,
    ) -> Result<Token, Error> {
        let locked = self.lock().await?;
        let reserved = {
            let locked = locked.clone();
            blocking(move || locked.reserve()).await.map_err(unusable)?
        };
        let oauth = self.oauth(endpoints);
        let asked_at = Instant::now();
        let transport = OauthTransport::new(http, hosts);
        // Not repeated: a code works once.
        let answer = oauth
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_redirect_uri(Cow::Owned(RedirectUrl::from_url(pending.redirect.clone())))
            .set_pkce_verifier(PkceCodeVerifier::new(pending.verifier.expose().to_owned()))
            .request_async(&transport)
            .await
            .map_err(failure)?;
        let granted = granted(&answer);
        let Some(refresh_token) = granted.refresh_token.clone() else {
            return Err(Error::new(OPERATION, Kind::NoRefreshToken));
        };
        let login = Login {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            refresh_token: checked(refresh_token)?,
            signed_in_at: crate::clock::now(),
            user: None,
            authorized_at: None,
        };
        blocking(move || reserved.replace(&login))
            .await
            .map_err(unusable)?;
        drop(locked);
        Ok(granted.token(asked_at))
    }

    /// Changes what is stored beside the token, if a user is signed in.
    pub(super) async fn note(&self, change: impl FnOnce(&mut Login)) -> Result<(), Error> {
        let locked = self.lock().await?;
        let worker = locked.clone();
        let read = blocking(move || worker.read()).await.map_err(unusable)?;
        let Some(mut login) = read else {
            return Ok(());
        };
        change(&mut login);
        self.known().user.clone_from(&login.user);
        let worker = locked.clone();
        blocking(move || worker.reserve()?.replace(&login))
            .await
            .map_err(unusable)?;
        drop(locked);
        Ok(())
    }

    /// Deletes the sign-in, then asks the platform not to accept it any more.
    pub(super) async fn sign_out(
        &self,
        endpoints: Result<Endpoints, Error>,
        http: &HttpClients,
        hosts: &Hosts,
    ) -> Result<SignOut, Error> {
        let locked = self.lock().await?;
        let worker = locked.clone();
        let (read, removed) = blocking(move || {
            // One that cannot be read is deleted as well.
            let read = worker.read();
            worker.remove().map(|removed| (read, removed))
        })
        .await
        .map_err(unusable)?;
        drop(locked);
        if !removed {
            return Ok(SignOut::Nobody);
        }
        let Ok(Some(login)) = read else {
            return Ok(SignOut::Deleted(None));
        };
        if !self.is_ours(&login) {
            return Ok(SignOut::Deleted(None));
        }
        let revoke = match endpoints {
            Ok(Endpoints {
                revoke: Some(url), ..
            }) => url,
            Ok(_) => return Ok(SignOut::Deleted(None)),
            Err(error) => return Ok(SignOut::Deleted(Some(error))),
        };
        let host = hosts.of(&revoke);
        let request = http.to(&host).post(revoke).form(&[
            ("token", login.refresh_token.expose()),
            ("token_type_hint", "refresh_token"),
            ("client_id", &self.client_id),
        ]);
        Ok(
            match execute("revoke the sign-in", &host, request, Limit::Answer).await {
                Ok(reply) if reply.status.is_success() => SignOut::Revoked,
                Ok(reply) => {
                    let status = reply.status.as_u16();
                    SignOut::Deleted(Some(reply.unreadable(&format!("status {status}"))))
                }
                Err(error) => SignOut::Deleted(Some(error)),
            },
        )
    }

    /// The sign-in that was read, if it can be used.
    fn usable(&self, read: Result<Option<Login>, login_file::Error>) -> Result<Login, Error> {
        let login = match read {
            Ok(Some(login)) => login,
            Ok(None) => return Err(signed_out(SignedOut::Nobody)),
            Err(error @ login_file::Error::Directory(_)) => return Err(unusable(error)),
            Err(error) => {
                return Err(signed_out(SignedOut::Unusable {
                    reason: error.to_string(),
                    hint: error.hint(),
                }));
            }
        };
        if !self.is_ours(&login) {
            return Err(signed_out(SignedOut::OtherApplication {
                client_id: login.client_id,
            }));
        }
        let mut known = self.known();
        known.user.clone_from(&login.user);
        let is_refused = known.refused.as_ref() == Some(&login.refresh_token);
        drop(known);
        if is_refused {
            return Err(signed_out(self.ended()));
        }
        Ok(login)
    }

    fn ended(&self) -> SignedOut {
        SignedOut::Ended {
            user: self.name().unwrap_or_else(|| "the user".to_owned()),
        }
    }

    fn is_ours(&self, login: &Login) -> bool {
        login.client_id == self.client_id && login.issuer == self.issuer
    }

    /// Waits for the turn.
    async fn lock(&self) -> Result<Locked, Error> {
        let late = Instant::now() + TURN_MAX;
        loop {
            let file = self.file.clone();
            match blocking(move || file.try_lock()).await.map_err(unusable)? {
                Some(locked) => return Ok(locked),
                None if Instant::now() >= late => return Err(Error::new(OPERATION, Kind::Turn)),
                None => tokio::time::sleep(TURN_LOOK).await,
            }
        }
    }

    fn oauth(&self, endpoints: &Endpoints) -> Oauth {
        BasicClient::new(ClientId::new(self.client_id.clone()))
            .set_auth_type(AuthType::RequestBody)
            .set_auth_uri(AuthUrl::from_url(endpoints.authorize.clone()))
            .set_token_uri(TokenUrl::from_url(endpoints.token.clone()))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn exchange(
    oauth: &Oauth,
    refresh: &RefreshToken,
    transport: &OauthTransport<'_>,
) -> Result<BasicTokenResponse, Error> {
    let request = oauth.exchange_refresh_token(refresh);
    request.request_async(transport).await.map_err(failure)
}

fn checked(token: Secret) -> Result<Secret, Error> {
    if token.expose().len() > TOKEN_MAX {
        let what = format!("a refresh token of more than {TOKEN_MAX} bytes");
        return Err(Error::new(OPERATION, Kind::TooLarge { status: 200, what }));
    }
    Ok(token)
}

fn signed_out(why: SignedOut) -> Error {
    Error::new(OPERATION, Kind::SignedOut(why))
}

fn unusable(error: login_file::Error) -> Error {
    Error::new(OPERATION, Kind::LoginFile(error))
}

/// Works with the file on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
