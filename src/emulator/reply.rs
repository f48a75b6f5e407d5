//! Responses in the platform's forms: JSON, its error envelope, Azure's XML.

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Body, full};

pub(super) use super::body::Reply;

/// The media type of JSON.
pub(super) const JSON: &str = "application/json; charset=utf-8";

/// An error response in the platform's envelope.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    message: String,
    /// Target property and message of the detail.
    detail: Option<(Option<&'static str>, &'static str)>,
}

pub(super) fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        code,
        message: message.into(),
        detail: None,
    }
}

/// A missing or invalid property.
pub(super) fn invalid(code: &'static str, target: &'static str, what: &'static str) -> Refusal {
    refuse(422, code, "Invalid request.").about(Some(target), what)
}

impl Refusal {
    pub(super) fn about(self, target: Option<&'static str>, what: &'static str) -> Self {
        Self {
            detail: Some((target, what)),
            ..self
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some((target, what)) = self.detail {
            let mut detail = json!({ "code": "InvalidValue", "message": what });
            if let Some(target) = target {
                detail["target"] = target.into();
            }
            error["details"] = json!([detail]);
        }
        json(self.status, &json!({ "error": error }))
    }
}

pub(super) fn insufficient() -> Refusal {
    refuse(
        403,
        "InsufficientPermissions",
        "The user has insufficient permissions for the requested operation.",
    )
}

/// An unknown path, method or Accept header.
pub(super) fn unknown() -> Refusal {
    refuse(
        404,
        "ResourceNotFound",
        "Requested resource is not available. Check the URL and the Accept header.",
    )
}

pub(super) fn itwin_not_found() -> Refusal {
    refuse(404, "iTwinNotFound", "Requested iTwin is not available.")
}

pub(super) fn imodel_not_found() -> Refusal {
    refuse(404, "iModelNotFound", "Requested iModel is not available.")
}

/// A response without a body.
pub(super) fn empty(status: u16) -> Reply {
    with(status, &[], "")
}

pub(super) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    streamed(status, headers, full(body))
}

/// A response with a streamed body.
pub(super) fn streamed(status: u16, headers: &[(&str, &str)], body: Body) -> Reply {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap_or_default());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(body)
        .unwrap_or_else(|_| Response::new(full("")))
}

pub(super) fn json(status: u16, value: &Value) -> Reply {
    with(status, &[("content-type", JSON)], value.to_string())
}

/// An error of the blob storage.
pub(super) fn xml(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    with(
        status,
        &[
            ("content-type", "application/xml"),
            ("x-ms-error-code", code),
        ],
        body,
    )
}
