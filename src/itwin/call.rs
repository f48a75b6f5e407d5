//! A call of the API before it is sent.

use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::error::{From, Repeat};
use super::limits::Limit;
use super::reply::Redirects;

/// API version of storage and synchronization.
pub(super) const V1: &str = "application/vnd.bentley.itwin-platform.v1+json";

/// API version of iModels.
pub(super) const V2: &str = "application/vnd.bentley.itwin-platform.v2+json";

/// A request before it is sent.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'static str,
    pub(super) body: Option<Value>,
    pub(super) about: From,
    pub(super) repeat: Repeat,
    /// Whether the `Location` of a redirect is the result of the call.
    pub(super) redirects: Redirects,
    pub(super) limit: Limit,
    /// Whether items of a list come with a few of their fields only.
    pub(super) minimal: bool,
    /// The role that the call requires, for the hint of a 403.
    pub(super) permission: &'static str,
}

impl Call {
    /// A request that is safe to repeat.
    pub(super) fn repeatable(
        operation: &'static str,
        method: Method,
        url: Url,
        permission: &'static str,
    ) -> Self {
        Self {
            operation,
            method,
            url,
            accept: V1,
            body: None,
            about: From::Target,
            repeat: Repeat::Safe,
            redirects: Redirects::Unexpected,
            limit: Limit::Answer,
            minimal: false,
            permission,
        }
    }

    /// A request that creates something each time it is sent.
    pub(super) fn creating(operation: &'static str, url: Url, permission: &'static str) -> Self {
        Self {
            repeat: Repeat::CreatesAnother,
            ..Self::repeatable(operation, Method::POST, url, permission)
        }
    }

    pub(super) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// Expects a redirect as the response.
    pub(super) fn redirects(self) -> Self {
        Self {
            redirects: Redirects::Expected,
            ..self
        }
    }

    pub(super) fn json(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    /// Marks the request as being about one file, for the retry class of an error.
    pub(super) fn about_a_file(self) -> Self {
        Self {
            about: From::Content,
            ..self
        }
    }
}
