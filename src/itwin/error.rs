//! Why a request failed, whether to retry it, and what to do about it.
//!
//! Longer than most files because its tests are one table of answers with their class, text and hint.

use std::time::Duration;

use reqwest::StatusCode;

use super::SignedOut;
use super::untrusted_text::sanitize;
use crate::error_chain::chain;
use crate::login_file;
use crate::retry::{Class, InPlace};
use crate::shell;

/// A failed request.
///
/// Its text has the operation and the platform's message; never a token, a secret or the query of an upload address.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {kind}")]
pub struct Error {
    operation: &'static str,
    kind: Kind,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Kind {
    #[error("cannot set up TLS: {0}")]
    Setup(String),
    #[error("cannot reach {host}: {cause}")]
    Unreachable {
        host: String,
        cause: String,
        sent: bool,
    },
    #[error("waiting for {host}: it requested a pause, {} s left", left.as_secs())]
    Held { host: String, left: Duration },
    #[error("{0}")]
    Answer(Box<Answer>),
    #[error("unexpected response ({status}): {what}")]
    Unreadable { status: u16, what: String },
    #[error("response too large ({status}): {what}")]
    TooLarge { status: u16, what: String },
    #[error("response from a proxy or firewall instead of {host}: {status}, {what}")]
    Foreign {
        host: String,
        status: StatusCode,
        what: String,
        floor: Option<Duration>,
    },
    #[error("the token endpoint of the identity provider is on another host: {address:?}")]
    ForeignEndpoint { address: String },
    #[error("{0}")]
    SignedOut(SignedOut),
    #[error("cannot use the sign-in: {}", chain(.0))]
    LoginFile(login_file::Error),
    #[error(
        "connection {name:?} is that of a service application, and its runs would not act for the signed-in user"
    )]
    ServiceConnection { name: String },
    #[error("another itwin-syncd process has been renewing the sign-in for two minutes")]
    Turn,
    #[error("the identity provider granted no refresh token")]
    NoRefreshToken,
}

/// What happens when a request is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The same as when it is sent once.
    Safe,
    /// Something new is created each time.
    CreatesAnother,
}

/// An error response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) from: From,
    pub(super) status: u16,
    /// Error code of the platform, of OAuth, or of Azure.
    pub(super) code: Option<String>,
    /// Message and details.
    pub(super) message: String,
    /// The id of the request in the logs of the service.
    pub(super) request_id: Option<String>,
    pub(super) floor: Option<Duration>,
    /// Hint for a 403.
    pub(super) permission: Option<String>,
}

/// Which service responded, and what the request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Identity,
    /// A request about the iModel, the folder or the connection as a whole.
    Target,
    /// A request about one file: its name, its content or its connector.
    Content,
    Blob,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request id {id})")?;
        }
        Ok(())
    }
}

impl Answer {
    fn has_code(&self, words: &[&str]) -> bool {
        self.code
            .as_ref()
            .is_some_and(|code| words.iter().any(|word| code.eq_ignore_ascii_case(word)))
    }

    fn class(&self) -> Class {
        let transient = Class::Transient { floor: self.floor };
        match (self.from, self.status) {
            (_, 408 | 429 | 500..) => transient,
            (From::Identity, _) | (From::Target | From::Content, 401) => Class::Credentials,
            (From::Blob, 400)
                if self.has_code(&[
                    "Md5Mismatch",
                    "Crc64Mismatch",
                    "InvalidBlobOrBlock",
                    "InvalidBlockList",
                ]) =>
            {
                transient
            }
            (From::Blob, 404 | 409) => transient,
            (From::Content | From::Blob, 400 | 413 | 422) => Class::RefusedForContent,
            // A stored id that no longer exists: the caller forgets it and searches again.
            (_, 404)
                if !self.has_code(&["ResourceNotFound", "iModelNotFound", "iTwinNotFound"]) =>
            {
                transient
            }
            (_, 409) => transient,
            _ => Class::RefusedForAll,
        }
    }
}

impl Error {
    pub(super) fn new(operation: &'static str, kind: Kind) -> Self {
        Self { operation, kind }
    }

    /// The HTTP client cannot be built.
    pub(super) fn setup(error: &reqwest::Error) -> Self {
        Self::new("HTTP client", Kind::Setup(root_cause(error)))
    }

    fn answer(&self) -> Option<&Answer> {
        match &self.kind {
            Kind::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// The retry class of the failure.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.kind {
            Kind::Answer(answer) => answer.class(),
            Kind::ForeignEndpoint { .. } | Kind::NoRefreshToken => Class::Credentials,
            Kind::SignedOut(_) | Kind::ServiceConnection { .. } => Class::AwaitsUser,
            Kind::Held { left, .. } => Class::Transient { floor: Some(*left) },
            // Not a response of the platform.
            Kind::Foreign { floor, .. } => Class::Transient { floor: *floor },
            Kind::Setup(_)
            | Kind::Unreachable { .. }
            | Kind::Unreadable { .. }
            | Kind::LoginFile(_)
            | Kind::Turn
            | Kind::TooLarge { .. } => Class::Transient { floor: None },
        }
    }

    /// The requested minimum pause before the next attempt.
    #[must_use]
    pub fn floor(&self) -> Option<Duration> {
        match self.class() {
            Class::Transient { floor } => floor,
            _ => None,
        }
    }

    /// What to do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.kind {
            Kind::Answer(answer) => answer_hint(answer),
            Kind::ForeignEndpoint { .. } => Some("correct itwin.issuer_url".to_owned()),
            Kind::SignedOut(why) => Some(why.hint()),
            Kind::LoginFile(error) => Some(error.hint()),
            Kind::Turn => Some(
                "end the itwin-syncd command that hangs; the file login.lock in the state directory is held by it".to_owned(),
            ),
            Kind::ServiceConnection { .. } => Some(
                "set itwin.takeover = true to let it act for the user from now on, or another name in sync.connection".to_owned(),
            ),
            Kind::NoRefreshToken => Some(
                "allow the native application the scope offline_access at developer.bentley.com/my-apps".to_owned(),
            ),
            Kind::Foreign { host, status, .. } if !status.is_server_error() => Some(format!(
                "ask the network administrator to let requests to {host} pass the proxy or firewall unmodified; if the service has moved, correct its URL in [itwin]"
            )),
            Kind::Unreachable { .. } => Some(format!(
                "run `{}` to find the failing step; set proxy and company certificates in [network]",
                shell::command(["check"])
            )),
            Kind::Setup(_) => {
                Some("install the package ca-certificates, and check that network.ca_file contains valid certificates".to_owned())
            }
            Kind::Held { .. } | Kind::Unreadable { .. } | Kind::TooLarge { .. } | Kind::Foreign { .. } => None,
        }
    }

    /// Whether the request can have taken effect although no response confirms it.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        match &self.kind {
            Kind::Unreachable { sent, .. } => *sent,
            Kind::Answer(answer) => matches!(answer.status, 408 | 500..),
            // A proxy that responds can still have forwarded the request.
            Kind::Unreadable { .. } | Kind::TooLarge { .. } | Kind::Foreign { .. } => true,
            Kind::Setup(_)
            | Kind::Held { .. }
            | Kind::ForeignEndpoint { .. }
            | Kind::SignedOut(_)
            | Kind::LoginFile(_)
            | Kind::Turn
            | Kind::ServiceConnection { .. }
            | Kind::NoRefreshToken => false,
        }
    }

    /// Whether the requested object does not exist. The platform's 404 has a code; one without a code comes from
    /// a proxy, and one for an unknown URL says nothing about the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.status == 404
                && answer.from != From::Blob
                && answer.code.is_some()
                && !answer.has_code(&["ResourceNotFound"])
        })
    }

    /// Whether the identity provider refuses the client id or its secret. Source: RFC 6749, section 5.2
    pub(super) fn is_refused_client(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.from == From::Identity
                && (answer.has_code(&["invalid_client"]) || answer.status == 401)
        })
    }

    /// Why there is no token, if that is because a user has to sign in.
    #[must_use]
    pub fn signed_out(&self) -> Option<&SignedOut> {
        match &self.kind {
            Kind::SignedOut(why) => Some(why),
            _ => None,
        }
    }

    pub(super) fn is_signed_out(&self) -> bool {
        self.signed_out().is_some()
    }

    /// The HTTP status of an error response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// The error code of the response.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.answer().and_then(|answer| answer.code.as_deref())
    }

    /// Whether the upload address was rejected; a new one can work.
    #[must_use]
    pub fn upload_url_refused(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.from == From::Blob
                && (matches!(answer.status, 403 | 404 | 409)
                    || answer.has_code(&["InvalidBlobOrBlock", "InvalidBlockList"]))
        })
    }

    /// Whether a storage other than Azure's does not support CRC64. All of them support MD5.
    #[must_use]
    pub fn checksum_unknown(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.from == From::Blob
                && answer.has_code(&["FeatureNotSupported", "UnsupportedHeader"])
        })
    }

    /// Whether to repeat the request at once: it can succeed in a moment, and repeating it is safe.
    pub(super) fn retry_in_place(&self, repeat: Repeat) -> InPlace {
        let is_safe = repeat == Repeat::Safe;
        let is_retryable = match &self.kind {
            Kind::Unreachable { sent, .. } => is_safe || !sent,
            // A rate limit applies before the request has any effect.
            Kind::Answer(answer) => {
                let spoiled =
                    answer.from == From::Blob && answer.has_code(&["Md5Mismatch", "Crc64Mismatch"]);
                let hopeless = self.checksum_unknown();
                answer.status == 429
                    || is_safe && !hopeless && (spoiled || matches!(answer.status, 408 | 500..))
            }
            Kind::Unreadable { .. } => is_safe,
            // An error page of a proxy does not change within seconds.
            Kind::Foreign { status, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS
                    || is_safe && (status.is_server_error() || status.is_success())
            }
            // The next response would be as large.
            Kind::TooLarge { .. }
            | Kind::Setup(_)
            | Kind::Held { .. }
            | Kind::SignedOut(_)
            | Kind::LoginFile(_)
            | Kind::Turn
            | Kind::ServiceConnection { .. }
            | Kind::NoRefreshToken
            | Kind::ForeignEndpoint { .. } => false,
        };
        if is_retryable {
            InPlace::Retry {
                floor: self.floor(),
            }
        } else {
            InPlace::GiveUp
        }
    }

    /// Whether a new token can help.
    pub(super) fn token_refused(&self) -> bool {
        self.answer().is_some_and(|answer| {
            let hopeless = [
                "RequiredScopeMissing",
                "HeaderNotFound",
                "InvalidAuthorizationScheme",
                "UnknownClient",
            ];
            answer.status == 401 && answer.from != From::Identity && !answer.has_code(&hopeless)
        })
    }
}

fn answer_hint(answer: &Answer) -> Option<String> {
    let hint = match (answer.from, answer.status) {
        (_, 408 | 429 | 500..) => return None,
        (From::Identity, _) if answer.has_code(&["invalid_scope"]) => {
            "assign the scope to the service application, or correct itwin.scope"
        }
        (From::Identity, _) => {
            "check itwin.client_id and the client secret; the application must be of the type Service"
        }
        (From::Target | From::Content, 401) if answer.has_code(&["RequiredScopeMissing"]) => {
            "assign the scope to the service application, or correct itwin.scope"
        }
        (From::Target | From::Content, 401) => {
            "check that the service application is still registered and that itwin.issuer_url belongs to itwin.api_url"
        }
        (From::Blob, 403) => {
            "check whether a firewall or a storage account policy blocks this machine"
        }
        (_, 403) => return answer.permission.clone(),
        (_, 404) if answer.has_code(&["ResourceNotFound"]) => "correct itwin.api_url",
        (_, 404) if answer.has_code(&["iModelNotFound"]) => {
            return Some(match &answer.permission {
                Some(permission) => format!("correct imodel_id; if it is right, {permission}"),
                None => "correct imodel_id".to_owned(),
            });
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The innermost cause of an HTTP error, without the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut text = if error.is_timeout() {
        "timed out".to_owned()
    } else {
        String::new()
    };
    while let Some(source) = cause.source() {
        cause = source;
        if !error.is_timeout() {
            text = cause.to_string();
        }
    }
    if text.is_empty() {
        "cannot send the request".to_owned()
    } else {
        sanitize(&text)
    }
}

/// The error of a request to a platform that cannot be reached.
#[cfg(test)]
pub(crate) fn unreachable_platform() -> Error {
    Error {
        operation: "create file",
        kind: Kind::Unreachable {
            host: "api.bentley.com".to_owned(),
            cause: "connection refused".to_owned(),
            sent: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_failed_requests() {
        let host = || "api.bentley.com".to_owned();
        let foreign = |status| Kind::Foreign {
            host: host(),
            status,
            what: "\"Blocked by Example Gateway\"".to_owned(),
            floor: None,
        };
        let error = |kind| Error {
            operation: "create file",
            kind,
        };
        let shown = |kind| {
            let error = error(kind);
            let hint = error.hint().map(|hint| format!("  hint: {hint}\n"));
            format!("{error}\n{}", hint.unwrap_or_default())
        };
        let mut text = String::new();
        for kind in [
            Kind::Setup("invalid certificate".to_owned()),
            Kind::Unreachable {
                host: host(),
                cause: "connection refused".to_owned(),
                sent: false,
            },
            Kind::Held {
                host: host(),
                left: Duration::from_secs(40),
            },
            Kind::Unreadable {
                status: 200,
                what: "no access token".to_owned(),
            },
            Kind::TooLarge {
                status: 200,
                what: "more than 1 MiB".to_owned(),
            },
            foreign(StatusCode::FORBIDDEN),
            foreign(StatusCode::BAD_GATEWAY),
            Kind::ForeignEndpoint {
                address: "https://evil.example".to_owned(),
            },
            Kind::SignedOut(SignedOut::Nobody),
            Kind::SignedOut(SignedOut::Ended {
                user: "Ada (ada@example.com)".to_owned(),
            }),
            Kind::SignedOut(SignedOut::OtherApplication {
                client_id: "native-x".to_owned(),
            }),
            Kind::LoginFile(login_file::Error::Damaged {
                path: "/var/lib/itwin-syncd/login".into(),
            }),
            Kind::Turn,
            Kind::ServiceConnection {
                name: "itwin-syncd".to_owned(),
            },
            Kind::NoRefreshToken,
        ] {
            // A new variant needs an entry above; answers of the platform have tests of their own.
            match kind {
                Kind::Setup(_)
                | Kind::Unreachable { .. }
                | Kind::Held { .. }
                | Kind::Answer(_)
                | Kind::Unreadable { .. }
                | Kind::TooLarge { .. }
                | Kind::Foreign { .. }
                | Kind::SignedOut(_)
                | Kind::LoginFile(_)
                | Kind::Turn
                | Kind::ServiceConnection { .. }
                | Kind::NoRefreshToken
                | Kind::ForeignEndpoint { .. } => {}
            }
            text += &shown(kind);
        }
        insta::assert_snapshot!(text);
    }

    fn answer(from: From, status: u16, code: &str) -> Error {
        let code = (!code.is_empty()).then(|| code.to_owned());
        let floor = Some(Duration::from_secs(7)).filter(|_| status == 429);
        let permission = Some("give it a role".to_owned());
        let answer = Answer {
            from,
            status,
            code,
            message: "m".to_owned(),
            request_id: None,
            floor,
            permission,
        };
        Error::new("test", Kind::Answer(Box::new(answer)))
    }

    #[test]
    fn every_error_response_has_its_retry_class() {
        let transient = Class::Transient { floor: None };
        for (from, status, code, expected) in [
            (From::Identity, 400, "invalid_client", Class::Credentials),
            (From::Identity, 401, "", Class::Credentials),
            (From::Identity, 503, "", transient),
            (From::Target, 401, "Unauthorized", Class::Credentials),
            (
                From::Target,
                403,
                "InsufficientPermissions",
                Class::RefusedForAll,
            ),
            (From::Target, 404, "iModelNotFound", Class::RefusedForAll),
            (From::Target, 404, "ResourceNotFound", Class::RefusedForAll),
            (From::Target, 404, "FolderNotFound", transient),
            (
                From::Target,
                422,
                "InvalidiModelsRequest",
                Class::RefusedForAll,
            ),
            (
                From::Content,
                422,
                "InvalidCreateFileRequest",
                Class::RefusedForContent,
            ),
            (From::Content, 409, "FileMapped", transient),
            (
                From::Content,
                429,
                "RateLimitExceeded",
                Class::Transient {
                    floor: Some(Duration::from_secs(7)),
                },
            ),
            (From::Content, 500, "", transient),
            (From::Target, 301, "", Class::RefusedForAll),
            (From::Blob, 400, "Md5Mismatch", transient),
            (
                From::Blob,
                400,
                "InvalidHeaderValue",
                Class::RefusedForContent,
            ),
            (
                From::Blob,
                403,
                "AuthenticationFailed",
                Class::RefusedForAll,
            ),
            (From::Blob, 404, "ContainerNotFound", transient),
            (
                From::Blob,
                413,
                "RequestBodyTooLarge",
                Class::RefusedForContent,
            ),
            (From::Blob, 503, "ServerBusy", transient),
        ] {
            assert_eq!(
                answer(from, status, code).class(),
                expected,
                "{from:?} {status} {code}"
            );
        }
    }

    #[test]
    fn an_unknown_url_is_not_a_missing_object() {
        assert!(answer(From::Target, 404, "FileNotFound").is_not_found());
        assert!(!answer(From::Target, 404, "resourcenotfound").is_not_found());
        assert!(!answer(From::Blob, 404, "BlobNotFound").is_not_found());
    }

    #[test]
    fn a_lost_answer_may_have_taken_effect_and_a_refusal_has_not() {
        let lost = |sent| {
            Error::new(
                "test",
                Kind::Unreachable {
                    host: "h".to_owned(),
                    cause: "reset".to_owned(),
                    sent,
                },
            )
        };
        assert!(lost(true).may_have_taken_effect());
        assert!(!lost(false).may_have_taken_effect());
        assert!(answer(From::Content, 502, "").may_have_taken_effect());
        assert!(!answer(From::Content, 429, "").may_have_taken_effect());
        assert!(!answer(From::Content, 422, "").may_have_taken_effect());
    }

    #[test]
    fn a_creating_request_is_repeated_only_if_it_had_no_effect() {
        for (status, repeat, expected) in [
            (429, Repeat::CreatesAnother, true),
            (503, Repeat::CreatesAnother, false),
            (503, Repeat::Safe, true),
            (409, Repeat::Safe, false),
        ] {
            let verdict = answer(From::Content, status, "").retry_in_place(repeat);
            let is_retried = verdict != InPlace::GiveUp;
            assert_eq!(is_retried, expected, "{status} {repeat:?}");
        }
    }
}
