//! Why nobody is signed in.

use crate::shell;

/// Why there is no token: a user has to sign in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedOut {
    /// There is no sign-in.
    #[error("no user is signed in")]
    Nobody,
    /// The refresh token is not accepted any more.
    #[error(
        "the sign-in of {user} has ended: it has expired, was revoked, or was used by another copy"
    )]
    Ended {
        /// Name or e-mail address.
        user: String,
    },
    /// The configuration was changed since.
    #[error("the sign-in is for another application, with the client id {client_id:?}")]
    OtherApplication {
        /// Of the application that the user has signed in to.
        client_id: String,
    },
    /// The file cannot be used.
    #[error("{reason}")]
    Unusable {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: String,
    },
}

impl SignedOut {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Nobody | Self::Ended { .. } => {
                format!(
                    "run `{}`; work continues without a restart",
                    shell::command(["login"])
                )
            }
            Self::OtherApplication { .. } => {
                format!(
                    "run `{}`, or correct itwin.client_id and itwin.issuer_url",
                    shell::command(["login"])
                )
            }
            Self::Unusable { hint, .. } => hint.clone(),
        }
    }
}
