//! Answers in the platform's shapes: JSON with its media type, its error envelope, Azure's XML.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

pub(super) type Body = BoxBody<Bytes, io::Error>;
pub(super) type Reply = Response<Body>;

/// A request that is refused, in the words of the platform's envelope.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
    /// What is wrong with which property.
    detail: Option<(&'static str, &'static str)>,
}

pub(super) fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        code,
        message: message.into(),
        detail: None,
    }
}

impl Refusal {
    pub(super) fn about(self, target: &'static str, what: &'static str) -> Self {
        Self {
            detail: Some((target, what)),
            ..self
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        let details: Vec<Value> = self
            .detail
            .iter()
            .map(|(target, what)| json!({ "code": "InvalidValue", "message": what, "target": target }))
            .collect();
        let mut error = json!({ "code": self.code, "message": self.message });
        if !details.is_empty() {
            error["details"] = details.into();
        }
        json(self.status, &json!({ "error": error }))
    }
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Reply {
    with(status, &[], "")
}

pub(super) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap_or_default());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(full(body))
        .unwrap_or_else(|_| Response::new(full("")))
}

pub(super) fn json(status: u16, value: &Value) -> Reply {
    let headers = [(
        "content-type",
        "application/vnd.bentley.itwin-platform.v1+json; charset=utf-8",
    )];
    with(status, &headers, value.to_string())
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
