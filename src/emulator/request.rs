//! A parsed request to the API, as every operation reads it.
//!
//! In: method, path, query, headers, body, and the time, switches and caller of this request. It never changes state.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;

use super::azurite::AzuriteBlob;
use super::reply::{Refusal, invalid, refuse};
use super::shared::Shared;
use super::switches::Switches;

/// A parsed request.
#[derive(Debug)]
pub(super) struct ApiRequest<'a> {
    pub(super) shared: &'a Shared,
    pub(super) method: String,
    /// Segments of the path in lower case.
    pub(super) path_lower: Vec<String>,
    /// Segments of the path, decoded.
    pub(super) segments: Vec<String>,
    /// Names in lower case, in the order of the request.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Bytes,
    pub(super) now: Timestamp,
    pub(super) switches: Switches,
    /// Lifetime of the upload address in the response.
    pub(super) address_lifetime: Duration,
    /// The blob in Azurite of the file that is being completed.
    pub(super) azurite_blob: Option<AzuriteBlob>,
    /// The caller.
    pub(super) client_id: String,
}

impl ApiRequest<'_> {
    /// The segments of the path in lower case, to match routes.
    pub(super) fn path(&self) -> Vec<&str> {
        self.path_lower.iter().map(String::as_str).collect()
    }

    /// A segment of the path, decoded, in its original case.
    pub(super) fn segment(&self, at: usize) -> &str {
        self.segments
            .get(at)
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// The value of a query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.iter();
        pairs
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as a JSON object.
    pub(super) fn json(&self, code: &'static str) -> Result<Value, Refusal> {
        if self.body.is_empty() {
            return Err(refuse(
                422,
                "MissingRequestBody",
                "The request needs a body.",
            ));
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(Value::Object(object)),
            Ok(_) => Err(refuse(422, code, "The body is not a JSON object.")),
            Err(error) => Err(refuse(422, code, format!("The body is not JSON: {error}."))),
        }
    }

    /// Whether full items are requested in lists.
    pub(super) fn wants_representation(&self) -> bool {
        self.header("prefer")
            .is_some_and(|prefer| prefer.eq_ignore_ascii_case("return=representation"))
    }
}

/// An optional text property of a body.
pub(super) fn text<'b>(
    body: &'b Value,
    name: &'static str,
    code: &'static str,
) -> Result<Option<&'b str>, Refusal> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(invalid(code, name, "The value must be a string.")),
    }
}
