//! Answers in the platform's shapes: JSON, its error envelope, Azure's XML.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Reply = Response<Body>;

/// The media type of JSON.
pub(super) const JSON: &str = "application/json; charset=utf-8";

/// A request that is refused, in the words of the platform's envelope.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    message: String,
    /// What is wrong with which property, if that is said.
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

/// A property that is missing or wrong.
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

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Reply {
    with(status, &[], "")
}

pub(super) fn with(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    streamed(status, headers, full(body))
}

/// An answer whose body comes from a stream.
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

/// The same answer, whose body breaks off in the middle.
pub(super) async fn cut(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    let whole = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    parts.headers.insert("content-length", whole.len().into());
    let half = whole.slice(..whole.len() / 2);
    // What is at hand is written while the rest is waited for.
    let end = futures_util::stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let pieces = futures_util::stream::iter([Ok(Frame::data(half))]).chain(end);
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// The same answer, whose body comes no faster than this.
pub(super) async fn slow(reply: Reply, bytes_per_second: u64) -> Reply {
    let (parts, body) = reply.into_parts();
    let whole = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let pieces: Vec<Bytes> = whole.chunks(1024).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause(piece.len(), bytes_per_second)).await;
        Ok(Frame::data(piece))
    });
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// How long so many bytes take.
pub(super) fn pause(bytes: usize, bytes_per_second: u64) -> Duration {
    let micros = (bytes as u64).saturating_mul(1_000_000) / bytes_per_second.max(1);
    Duration::from_micros(micros)
}
