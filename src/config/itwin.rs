//! `[itwin]`: the platform, and the account to use it with: a service application, or a user who signs in.
//!
//! Input: the section and the environment. Output: an [`Itwin`] with the secret of the service application, if it is
//! one. A user's sign-in is not looked for here: it is in the state directory, and may be missing.

use std::path::Path;

use toml::de::DeValue;
use url::Url;

use super::document::Section;
use super::environment::Mode;
use super::values::{self, InvalidValue};
use super::{Account, Environment, Itwin, UserAccount, credentials};
use crate::itwin::{RequestLimits, is_loopback};
use crate::secret::ClientSecret;

/// The first address that Bentley's own tools use.
const REDIRECT: &str = "http://localhost:3301/signin-callback";

/// More ports than anyone registers.
const REDIRECTS_MAX: usize = 16;

/// Who uses the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignIn {
    Service,
    User,
}

/// `None` when something required is missing, which has been reported then, or when the secret is not wanted.
pub(super) fn read(
    section: &mut Section<'_>,
    state: &Path,
    environment: &Environment,
    mode: Mode,
) -> Option<Itwin> {
    let api_url = section
        .read("api_url", values::url)
        .or_else(|| Url::parse("https://api.bentley.com").ok());
    let issuer_url = section
        .read("issuer_url", values::url)
        .or_else(|| Url::parse("https://ims.bentley.com").ok());
    let scope = section
        .read("scope", values::line)
        .unwrap_or_else(|| "itwin-platform".to_owned());
    let limits = RequestLimits {
        per_minute: section
            .read("requests_per_minute", values::count(1..=1_000_000))
            .unwrap_or(4500),
        per_hour: section.read("requests_per_hour", values::count(1..=1_000_000)),
    };
    let client_id = section.require(
        "client_id",
        "register a service application at developer.bentley.com/my-apps and add its client id",
        |value| match value.as_str() {
            Some("") => Err(InvalidValue::new(
                "must not be empty",
                "set it to the client id of a service application from developer.bentley.com/my-apps",
            )),
            _ => values::line(value),
        },
    );
    let sign_in = section.read("sign_in", sign_in);
    let is_user = sign_in == Some(SignIn::User);
    let redirect_urls = section.read("redirect_urls", redirect_urls);
    let takeover = section.read("takeover", values::flag);
    let needless: &[&str] = if is_user {
        &["client_secret_file", "client_secret_command"]
    } else {
        &["redirect_urls", "takeover"]
    };
    for key in needless {
        if !section.has(key) {
            continue;
        }
        let (what, hint) = if is_user {
            (
                "a user has no client secret: sign_in is \"user\"",
                "remove it, or set sign_in = \"service\" and the client id of a service application",
            )
        } else {
            (
                "has no effect for a service application",
                "remove it, or set sign_in = \"user\" and the client id of a native application",
            )
        };
        section.add(key, InvalidValue::new(what, hint));
    }
    if sign_in.is_none() && section.has("sign_in") {
        return None;
    }
    let account = if is_user {
        Account::User(UserAccount {
            redirect_urls: redirect_urls
                .unwrap_or_else(|| Url::parse(REDIRECT).into_iter().collect()),
            takeover: takeover.unwrap_or(false),
            state: state.to_owned(),
        })
    } else {
        Account::Service(client_secret(section, environment, mode)?)
    };
    if mode == Mode::Inspect {
        return None;
    }
    Some(Itwin {
        api_url: api_url?,
        issuer_url: issuer_url?,
        client_id: client_id?,
        account,
        scope,
        limits,
    })
}

/// The secret of a service application.
fn client_secret(
    section: &mut Section<'_>,
    environment: &Environment,
    mode: Mode,
) -> Option<ClientSecret> {
    let file = section.read("client_secret_file", credentials::path);
    let command = section.read("client_secret_command", credentials::command);
    let has_file = section.has("client_secret_file");
    let has_command = section.has("client_secret_command");
    let is_unusable = file.is_none() && has_file || command.is_none() && has_command;
    if has_file && has_command {
        section.add(
            "client_secret_command",
            InvalidValue::new(
                "client_secret_file is set as well",
                "remove one of the two keys: the secret has one source",
            ),
        );
        return None;
    }
    if mode == Mode::Inspect || is_unusable {
        return None;
    }
    let (found, key) = match &command {
        Some(command) => (credentials::print(command), "client_secret_command"),
        None => (
            credentials::find(file.as_deref(), environment),
            "client_secret_file",
        ),
    };
    let text = found.map_err(|bad| section.add(key, bad)).ok()?;
    Some(ClientSecret { text, command })
}

fn sign_in(value: &DeValue<'_>) -> Result<SignIn, InvalidValue> {
    let known = || "write \"service\" for a service application, or \"user\" for a user who signs in with `itwin-syncd login`";
    match values::text(value)?.as_str() {
        "service" => Ok(SignIn::Service),
        "user" => Ok(SignIn::User),
        other => Err(InvalidValue::new(
            format!("unknown value {other:?}"),
            known(),
        )),
    }
}

/// Addresses at which this machine receives the end of a sign-in.
fn redirect_urls(value: &DeValue<'_>) -> Result<Vec<Url>, InvalidValue> {
    let texts = values::list(value)?;
    if texts.is_empty() || texts.len() > REDIRECTS_MAX {
        return Err(InvalidValue::new(
            format!(
                "expected 1 to {REDIRECTS_MAX} addresses, found {}",
                texts.len()
            ),
            format!("write [\"{REDIRECT}\"], as registered for the native application"),
        ));
    }
    let mut urls = Vec::new();
    for text in texts {
        let url = Url::parse(&text).ok().filter(|url| {
            // The identity provider compares the text.
            url.as_str() == text
                && url.scheme() == "http"
                && is_loopback(url)
                && url.port().is_some_and(|port| port != 0)
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        urls.push(url.ok_or_else(|| {
            InvalidValue::new(
                "not an http address with a port of this machine",
                format!(
                    "write it as registered for the native application, such as \"{REDIRECT}\""
                ),
            )
        })?);
    }
    Ok(urls)
}
