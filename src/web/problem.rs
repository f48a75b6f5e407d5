//! Errors of the HTTP API: a status, what is wrong, and what to do about it, as JSON.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::Serialize;
use tracing::warn;

use crate::ledger;

/// Why a request to the API failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: Option<String>,
    pub(super) header: Option<Box<(HeaderName, HeaderValue)>>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    hint: Option<&'a str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            hint: None,
            header: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same for a route that answers in plain text.
    pub(super) fn into_text(self) -> Response {
        let hint = self.hint.map(|hint| format!("hint: {hint}\n"));
        let text = format!("{}\n{}", self.error, hint.unwrap_or_default());
        let header = self.header.map(|header| *header);
        (self.status, AppendHeaders(header), text).into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(Body {
            error: &self.error,
            hint: self.hint.as_deref(),
        });
        let header = self.header.map(|header| *header);
        (self.status, AppendHeaders(header), body).into_response()
    }
}

impl From<ledger::Error> for Problem {
    fn from(error: ledger::Error) -> Self {
        warn!(%error, "cannot answer a request to the page");
        let hint = error.hint().unwrap_or_else(|| {
            "repeat the request; if it fails again, check the disk of state.path".to_owned()
        });
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).hint(hint)
    }
}

/// What is wrong with the body of a request, without the words of the framework.
impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        let (error, hint) = match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (
                "the body is not declared as JSON",
                "send the header Content-Type: application/json",
            ),
            StatusCode::BAD_REQUEST => ("the body is not JSON", "correct its syntax"),
            _ => (
                "the body has an unknown field, or a value of the wrong type",
                "compare it with /api/v1/openapi.json",
            ),
        };
        Self::new(status, error).hint(hint)
    }
}
