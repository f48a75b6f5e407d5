//! The address to which the browser returns after a sign-in. Pure.
//!
//! Source: RFC 6749, sections 4.1.2 and 10.12

use url::Url;

use super::untrusted_text::sanitize;
use crate::secret::Secret;

/// The longest such address, in bytes.
pub(crate) const RETURNED_MAX: usize = 16 * 1024;

/// Why an address is not the end of a sign-in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// No URL, or that of another page.
    #[error("not the address that the browser returned to, which begins with {redirect}")]
    OtherAddress {
        /// Where the browser returns to.
        redirect: String,
    },
    /// Of another sign-in, or made up.
    #[error("the address belongs to another sign-in")]
    OtherSignIn,
    /// The identity provider did not sign the user in.
    #[error("the identity provider refused the sign-in: {reason}")]
    Refused {
        /// Its code and description.
        reason: String,
    },
    /// Neither a code nor an error.
    #[error("the address has no code")]
    NoCode,
}

impl CallbackError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::OtherAddress { .. } | Self::NoCode => {
                "copy the whole address from the browser after signing in, although the page cannot be shown".to_owned()
            }
            Self::OtherSignIn => "open the address that was printed last, and sign in there".to_owned(),
            Self::Refused { .. } => "check that itwin.client_id is a native application with this redirect address and with itwin.scope, and that the user may use it".to_owned(),
        }
    }
}

/// The code in the address, if it ends the sign-in that has this state.
pub(super) fn code(
    returned: &str,
    redirect: &Url,
    state: &Secret,
) -> Result<Secret, CallbackError> {
    let other = || CallbackError::OtherAddress {
        redirect: redirect.as_str().to_owned(),
    };
    let returned = returned.trim();
    if returned.len() > RETURNED_MAX {
        return Err(other());
    }
    let returned = Url::parse(returned).map_err(|_| other())?;
    if returned.origin() != redirect.origin() || returned.path() != redirect.path() {
        return Err(other());
    }
    let value = |name: &str| {
        let mut pairs = returned.query_pairs().filter(|(key, _)| key == name);
        // Given twice it is nobody's.
        pairs
            .next()
            .filter(|_| pairs.next().is_none())
            .map(|(_, value)| value.into_owned())
    };
    // Before anything else: what has another state is not an answer to us.
    if value("state").is_none_or(|found| found != state.expose()) {
        return Err(CallbackError::OtherSignIn);
    }
    if let Some(error) = value("error") {
        let reason = match value("error_description") {
            Some(description) => format!("{error}: {description}"),
            None => error,
        };
        return Err(CallbackError::Refused {
            reason: sanitize(&reason),
        });
    }
    let code = value("code").filter(|code| !code.is_empty());
    code.map(Secret::new).ok_or(CallbackError::NoCode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_with_the_state_of_the_sign_in_ends_it() {
        let redirect = Url::parse("http://localhost:3301/signin-callback").unwrap();
        let state = Secret::new("s1");
        let refused = |reason: &str| CallbackError::Refused {
            reason: reason.to_owned(),
        };
        let other = || CallbackError::OtherAddress {
            redirect: redirect.as_str().to_owned(),
        };
        let at = "http://localhost:3301/signin-callback";
        for (returned, expected) in [
            (format!("{at}?code=c%2B1&state=s1"), Ok("c+1")),
            (format!("  {at}?state=s1&iss=x&code=c#x \n"), Ok("c")),
            (
                format!("{at}?code=c&state=s2"),
                Err(CallbackError::OtherSignIn),
            ),
            (format!("{at}?code=c"), Err(CallbackError::OtherSignIn)),
            (
                format!("{at}?code=c&state=s1&state=s1"),
                Err(CallbackError::OtherSignIn),
            ),
            (
                format!("{at}?error=access_denied"),
                Err(CallbackError::OtherSignIn),
            ),
            (
                format!("{at}?error=access_denied&error_description=no%0Away&state=s1&code=c"),
                Err(refused("access_denied: no way")),
            ),
            (
                format!("{at}?error=login_required&state=s1"),
                Err(refused("login_required")),
            ),
            (format!("{at}?state=s1"), Err(CallbackError::NoCode)),
            (format!("{at}?state=s1&code="), Err(CallbackError::NoCode)),
            (
                format!("{at}?state=s1&code=a&code=b"),
                Err(CallbackError::NoCode),
            ),
            (
                "http://localhost:3302/signin-callback?code=c&state=s1".to_owned(),
                Err(other()),
            ),
            (
                "http://localhost:3301/other?code=c&state=s1".to_owned(),
                Err(other()),
            ),
            (
                "https://evil.example/signin-callback?code=c&state=s1".to_owned(),
                Err(other()),
            ),
            ("code=c&state=s1".to_owned(), Err(other())),
            (String::new(), Err(other())),
            (
                format!("{at}?state=s1&code={}", "c".repeat(RETURNED_MAX)),
                Err(other()),
            ),
        ] {
            let found = code(&returned, &redirect, &state);
            let found = found.as_ref().map(Secret::expose);
            assert_eq!(found, expected.as_ref().copied(), "{returned}");
        }
    }

    #[test]
    fn messages() {
        insta::assert_snapshot!(
            crate::text::render_variants!(CallbackError, |error| Some(error.hint()), {
                CallbackError::OtherAddress { .. } => CallbackError::OtherAddress {
                    redirect: "http://localhost:3301/signin-callback".to_owned(),
                },
                CallbackError::OtherSignIn => CallbackError::OtherSignIn,
                CallbackError::Refused { .. } => CallbackError::Refused {
                    reason: "access_denied: the user canceled".to_owned(),
                },
                CallbackError::NoCode => CallbackError::NoCode,
            })
        );
    }
}
