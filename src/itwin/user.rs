//! The user who is signed in: signing in and out, and whether connections may act for them.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde::Deserialize;
use tokio::sync::watch;
use url::Url;

use super::call::Call;
use super::untrusted_text::maybe_text;
use super::{Authentication, Client, Error, PendingSignIn, SignOut, SignedOut};
use crate::login_file::LoginFile;
use crate::secret::Secret;
use crate::shell;

/// The platform ends a consent about this long after the user was last there.
///
/// Source: communities.bentley.com, article 51355
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long before that it is announced.
const ANNOUNCED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether connections may act for a user.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// They may.
    pub is_authorized: bool,
    /// Where the user allows it, or does so again; None if the platform names no usable address.
    pub page: Option<Url>,
    /// When the user allowed it last, or signed in.
    pub since: Option<Timestamp>,
}

/// Something to say about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationNote {
    /// What is missing, or soon will be.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

impl Authorization {
    /// What to say about it now, to whoever knows the user by this name. Pure.
    #[must_use]
    pub fn note(&self, user: &str, now: Timestamp) -> Option<AuthorizationNote> {
        let hint = format!(
            "run `{}`; work continues without a restart",
            shell::command(["login", "--connector"])
        );
        if !self.is_authorized {
            return Some(AuthorizationNote {
                reason: format!("runs may not act for {user}: the platform needs their consent"),
                hint,
            });
        }
        let end = self.since?.checked_add(LIFETIME).ok()?;
        let left = end.duration_since(now);
        if left > SignedDuration::try_from(ANNOUNCED).ok()? {
            return None;
        }
        let day = end
            .to_zoned_datetime(TimeZone::system())
            .strftime("%Y-%m-%d");
        let reason = if left > SignedDuration::ZERO {
            format!(
                "runs may act for {user} until about {day}: the platform ends a consent after 30 days"
            )
        } else {
            format!(
                "runs may act for {user} no longer at any time: the consent is older than 30 days, since {day}"
            )
        };
        Some(AuthorizationNote { reason, hint })
    }
}

impl Client {
    /// For whom connections of this client act.
    #[must_use]
    pub fn authentication(&self) -> Authentication {
        match self.api.tokens().user() {
            Some(_) => Authentication::User,
            None => Authentication::Service,
        }
    }

    /// The file with the sign-in of the user; None for a service application.
    #[must_use]
    pub fn login_file(&self) -> Option<&LoginFile> {
        Some(self.api.tokens().user()?.file())
    }

    /// Why there is no token, if that is because a user has to sign in, as far as it is known.
    #[must_use]
    pub fn signed_out(&self) -> watch::Receiver<Option<SignedOut>> {
        self.api.tokens().signed_out()
    }

    /// Uses no token of before: another user has signed in, or nobody is any more.
    pub async fn forget_token(&self) {
        self.api.tokens().forget().await;
    }

    /// Begins the sign-in of a user, whose browser returns to `redirect`. None for a service application.
    ///
    /// # Errors
    /// When the identity provider has an address on another host.
    pub async fn begin_sign_in(&self, redirect: &Url) -> Result<Option<PendingSignIn>, Error> {
        let tokens = self.api.tokens();
        let Some(user) = tokens.user() else {
            return Ok(None);
        };
        let endpoints = tokens.endpoints().await?;
        Ok(Some(user.begin(&endpoints, redirect)))
    }

    /// Ends a sign-in with the code that the browser brought, stores it, and returns name and e-mail address of the
    /// user, if the platform tells them.
    ///
    /// # Errors
    /// When the code is refused, the identity provider is not reachable, or the sign-in cannot be stored.
    pub async fn complete_sign_in(
        &self,
        pending: &PendingSignIn,
        code: &Secret,
    ) -> Result<Option<String>, Error> {
        let tokens = self.api.tokens();
        let Some(user) = tokens.user() else {
            return Ok(None);
        };
        let endpoints = tokens.endpoints().await?;
        let (http, hosts) = tokens.http();
        let token = user
            .complete(pending, code, &endpoints, http, hosts)
            .await?;
        tokens.use_token(token).await;
        let name = self.user_name().await?;
        user.note(|login| login.user.clone_from(&name)).await?;
        Ok(name)
    }

    /// Deletes the sign-in of the user.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub async fn sign_out(&self) -> Result<SignOut, Error> {
        let tokens = self.api.tokens();
        let Some(user) = tokens.user() else {
            return Ok(SignOut::Nobody);
        };
        let endpoints = tokens.endpoints().await;
        let (http, hosts) = tokens.http();
        let done = user.sign_out(endpoints, http, hosts).await?;
        tokens.forget().await;
        Ok(done)
    }

    /// Name and e-mail address of the user, such as `Ada Lovelace (ada@example.com)`; None if the platform tells none.
    ///
    /// # Errors
    /// When nobody is signed in, or the platform is not reachable.
    ///
    /// Source: developer.bentley.com/apis/users/operations/get-me/
    pub async fn user_name(&self) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Body {
            user: User,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct User {
            #[serde(default, deserialize_with = "maybe_text")]
            display_name: Option<String>,
            #[serde(default, deserialize_with = "maybe_text")]
            email: Option<String>,
        }
        let url = self.api.url(&["users", "me"]);
        let call = Call::repeatable("get user", Method::GET, url, "access to the Users API");
        let user = match self.api.send(&call).await {
            Ok(reply) => reply.json::<Body>()?.user,
            // The name is for messages only.
            Err(error) if matches!(error.status(), Some(403 | 404)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let filled = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Ok(match (filled(user.display_name), filled(user.email)) {
            (Some(name), Some(email)) if name != email => Some(format!("{name} ({email})")),
            (name, email) => email.or(name),
        })
    }

    /// Records that the user has allowed connections to act for them.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn note_authorized(&self) -> Result<(), Error> {
        match self.api.tokens().user() {
            Some(user) => {
                let now = crate::clock::now();
                user.note(|login| login.authorized_at = Some(now)).await
            }
            None => Ok(()),
        }
    }

    /// Whether connections may act for the user, whose browser returns to `redirect` from the page for that.
    ///
    /// # Errors
    /// When nobody is signed in, the address is refused, or the platform is not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-authorization-information/
    pub async fn authorization(&self, redirect: &Url) -> Result<Authorization, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            authorization_information: Information,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Information {
            #[serde(default)]
            is_user_authorized: Option<bool>,
            #[serde(default, rename = "_links")]
            links: Option<Links>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Links {
            #[serde(default)]
            authorization_url: Option<Link>,
        }
        #[derive(Deserialize)]
        struct Link {
            #[serde(default)]
            href: Option<String>,
        }
        let mut url = self.api.url(&[
            "synchronization",
            "imodels",
            "connections",
            "authorizationInformation",
        ]);
        url.query_pairs_mut()
            .append_pair("redirectUrl", redirect.as_str());
        let call = Call::repeatable(
            "get authorization information",
            Method::GET,
            url,
            "access to the Synchronization API",
        );
        let body = self.api.send(&call).await?.json::<Body>()?;
        let found = body.authorization_information;
        let href = found.links.and_then(|links| links.authorization_url?.href);
        let page = href.and_then(|href| Url::parse(&href).ok());
        let since = match self.api.tokens().user() {
            Some(user) => user.authorized_since().await?,
            None => None,
        };
        let is_plain = |url: &Url| url.scheme() == "https" || super::is_loopback(url);
        Ok(Authorization {
            // Absent counts as no.
            is_authorized: found.is_user_authorized == Some(true),
            page: page.filter(is_plain),
            since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_consent_is_announced_a_week_before() {
        let since = Timestamp::from_second(1_800_000_000).unwrap();
        let day = SignedDuration::from_hours(24);
        for (is_authorized, days, said) in [
            (true, 0, None),
            (true, 22, None),
            (true, 24, Some("until about")),
            (true, 29, Some("until about")),
            (true, 31, Some("no longer at any time")),
            (true, -5, None),
            (false, 0, Some("may not act for Ada")),
            (false, 40, Some("may not act for Ada")),
        ] {
            let authorization = Authorization {
                is_authorized,
                page: None,
                since: Some(since),
            };
            let note = authorization.note("Ada", since + day * days);
            let found = note.map(|note| note.reason);
            assert_eq!(found.is_some(), said.is_some(), "{days} {found:?}");
            if let (Some(found), Some(said)) = (found, said) {
                assert!(found.contains(said), "{days} {found}");
            }
        }
        let unknown = Authorization {
            is_authorized: true,
            page: None,
            since: None,
        };
        assert_eq!(unknown.note("Ada", since), None);
    }
}
