//! What went wrong with a request, whether it may pass, and what a person can do about it.

use std::time::Duration;

use reqwest::StatusCode;

use crate::retry::Class;

/// A request that did not do what it was for.
///
/// Its text tells the operation and the platform's own words; never a token, a secret or the query of an address.
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
    #[error("{host} cannot be reached: {cause}")]
    Unreachable {
        host: String,
        cause: String,
        sent: bool,
    },
    #[error("{host} asked for a pause of {} s more", left.as_secs())]
    Held { host: String, left: Duration },
    #[error("{0}")]
    Answer(Box<Answer>),
    #[error("the answer ({status}) is not understood: {what}")]
    Unreadable { status: u16, what: String },
    #[error("the answer ({status}) is too large: {what}")]
    TooLarge { status: u16, what: String },
    #[error("answered by something between here and {host}: {status}, {what}")]
    Foreign {
        host: String,
        status: StatusCode,
        what: String,
        floor: Option<Duration>,
    },
    #[error("the identity provider names a token endpoint elsewhere, at {address:?}")]
    ForeignEndpoint { address: String },
}

/// An answer that says no.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) from: From,
    pub(super) status: u16,
    /// The machine word of the platform's envelope, of OAuth's, or of Azure's.
    pub(super) code: Option<String>,
    /// For people: message and details.
    pub(super) message: String,
    /// The id under which the operator of the service finds the request.
    pub(super) request_id: Option<String>,
    pub(super) floor: Option<Duration>,
    /// What a person can do about a 403.
    pub(super) permission: Option<String>,
}

/// Who answered, and what a refusal of the request is about.
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
            // An id that we remembered and that is gone: its owner forgets it and looks again.
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

    fn answer(&self) -> Option<&Answer> {
        match &self.kind {
            Kind::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    /// What the failure means for what comes next.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.kind {
            Kind::Answer(answer) => answer.class(),
            Kind::ForeignEndpoint { .. } => Class::Credentials,
            Kind::Held { left, .. } => Class::Transient { floor: Some(*left) },
            // The platform itself said nothing.
            Kind::Foreign { floor, .. } => Class::Transient { floor: *floor },
            Kind::Setup(_)
            | Kind::Unreachable { .. }
            | Kind::Unreadable { .. }
            | Kind::TooLarge { .. } => Class::Transient { floor: None },
        }
    }

    /// The shortest pause before another try that was asked for.
    #[must_use]
    pub fn floor(&self) -> Option<Duration> {
        match self.class() {
            Class::Transient { floor } => floor,
            _ => None,
        }
    }

    /// What a person can do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.kind {
            Kind::Answer(answer) => answer_hint(answer),
            Kind::ForeignEndpoint { .. } => Some("correct itwin.issuer_url".to_owned()),
            Kind::Foreign { host, status, .. } if !status.is_server_error() => Some(format!(
                "ask the network's administrator to let requests to {host} pass the proxy or firewall unchanged; if the address has moved, correct it in [itwin]"
            )),
            Kind::Unreachable { .. } => Some(
                "`itwin-syncd check` goes the way step by step and tells where it ends; proxy and company certificates are set in [network]"
                    .to_owned(),
            ),
            Kind::Setup(_) => {
                Some("install the system's CA certificates (package ca-certificates), and see whether network.ca_file holds usable ones".to_owned())
            }
            Kind::Held { .. } | Kind::Unreadable { .. } | Kind::TooLarge { .. } | Kind::Foreign { .. } => None,
        }
    }

    /// Whether the request may have been carried out although no answer says so.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        match &self.kind {
            Kind::Unreachable { sent, .. } => *sent,
            Kind::Answer(answer) => matches!(answer.status, 408 | 500..),
            // Whoever answers may have passed the request on.
            Kind::Unreadable { .. } | Kind::TooLarge { .. } | Kind::Foreign { .. } => true,
            Kind::Setup(_) | Kind::Held { .. } | Kind::ForeignEndpoint { .. } => false,
        }
    }

    /// Whether the thing that was asked for is not there. The platform says so by a code; a 404 without one comes from
    /// something on the way, and one for an unknown address says nothing either.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.status == 404
                && answer.from != From::Blob
                && answer.code.is_some()
                && !answer.has_code(&["ResourceNotFound"])
        })
    }

    /// The HTTP status, if there was an answer that says no.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// The machine word of the answer.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.answer().and_then(|answer| answer.code.as_deref())
    }

    /// Whether an upload address is no longer, or not yet, good for anything: a new one may be.
    #[must_use]
    pub fn upload_url_refused(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.from == From::Blob
                && (matches!(answer.status, 403 | 404 | 409)
                    || answer.has_code(&["InvalidBlobOrBlock", "InvalidBlockList"]))
        })
    }

    /// Whether storage of another making than Azure's knows no CRC64. MD5 is known to all of them.
    #[must_use]
    pub fn checksum_unknown(&self) -> bool {
        self.answer().is_some_and(|answer| {
            answer.from == From::Blob
                && answer.has_code(&["FeatureNotSupported", "UnsupportedHeader"])
        })
    }

    /// Whether the same request may well succeed in a moment; the pause that was asked for, if any.
    pub(super) fn passing(&self, repeatable: bool) -> Option<Option<Duration>> {
        let passing = match &self.kind {
            Kind::Unreachable { sent, .. } => repeatable || !sent,
            // A rate limit strikes before anything is done.
            Kind::Answer(answer) => {
                let spoiled =
                    answer.from == From::Blob && answer.has_code(&["Md5Mismatch", "Crc64Mismatch"]);
                let hopeless = self.checksum_unknown();
                answer.status == 429
                    || repeatable && !hopeless && (spoiled || matches!(answer.status, 408 | 500..))
            }
            Kind::Unreadable { .. } => repeatable,
            // A page that refuses something does not change its mind in a moment.
            Kind::Foreign { status, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS
                    || repeatable && (status.is_server_error() || status.is_success())
            }
            // It would be as large, or as endless, again.
            Kind::TooLarge { .. }
            | Kind::Setup(_)
            | Kind::Held { .. }
            | Kind::ForeignEndpoint { .. } => false,
        };
        passing.then(|| self.floor())
    }

    /// Whether a new token may help.
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
            "see whether the service application is still registered, and itwin.issuer_url is the one of itwin.api_url"
        }
        (From::Blob, 403) => {
            "see whether a firewall or a policy of the storage account refuses this machine"
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_answer_has_the_class_that_the_contract_gives_it() {
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
    fn only_a_missing_thing_is_not_found_not_a_missing_address() {
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
    fn only_what_did_nothing_is_repeated_in_place_when_it_makes_something_new() {
        assert!(answer(From::Content, 429, "").passing(false).is_some());
        assert!(answer(From::Content, 503, "").passing(false).is_none());
        assert!(answer(From::Content, 503, "").passing(true).is_some());
        assert!(answer(From::Content, 409, "").passing(true).is_none());
    }
}
