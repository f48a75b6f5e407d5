//! A parsed request to the blob storage, and its authorization by the signature in the address.

use std::collections::HashMap;
use std::io;

use hyper::Method;
use hyper::header::HeaderMap;
use jiff::Timestamp;

use crate::emulator::faults::AppliedFault;
use crate::emulator::sas::{self, Grant, sign};
use crate::emulator::shared::Shared;

/// The protocol version from which the larger limits apply.
pub(super) const LARGE_SINCE: &str = "2019-12-12";

/// An error of the blob storage: status, code, message.
pub(super) struct BlobError(pub(super) u16, pub(super) &'static str, pub(super) String);

pub(super) fn refused<T>(
    status: u16,
    code: &'static str,
    message: impl Into<String>,
) -> Result<T, BlobError> {
    Err(BlobError(status, code, message.into()))
}

/// The code of a body that was cut off; the connection is closed.
pub(super) const INCOMPLETE: &str = "IncompleteBody";

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        Self(500, "InternalError", error.to_string())
    }
}

/// A parsed request.
pub(super) struct BlobRequest<'a> {
    pub(super) shared: &'a Shared,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a HashMap<String, String>,
    /// The name in the address.
    pub(super) blob: &'a str,
    pub(super) applied: &'a AppliedFault,
}

impl BlobRequest<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn part(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The protocol version: that of the header, else that of the address.
    pub(super) fn version(&self) -> &str {
        self.header("x-ms-version").unwrap_or(self.part("sv"))
    }

    pub(super) fn check(&self, method: &Method) -> Result<(), BlobError> {
        if self.headers.contains_key("authorization") {
            return refused(
                400,
                "InvalidAuthenticationInfo",
                "The request has both a signature and an Authorization header.",
            );
        }
        let (expiry, permissions) = (self.part("se"), self.part("sp"));
        let key = self.shared.state().key.clone();
        let grant = Grant {
            blob: self.blob,
            permissions,
            disposition: self.part("rscd"),
        };
        if self.blob.is_empty()
            || sign(&key, grant, expiry) != self.part("sig")
            || self.part("sv") != sas::VERSION
        {
            return refused(403, "AuthenticationFailed", "The signature does not match.");
        }
        if expiry
            .parse::<Timestamp>()
            .is_ok_and(|end| end <= Timestamp::now())
        {
            return refused(403, "AuthenticationFailed", "The signature has expired.");
        }
        let needed = if *method == Method::PUT { 'w' } else { 'r' };
        if !permissions.contains(needed) {
            return refused(
                403,
                "AuthorizationPermissionMismatch",
                "The address does not permit this.",
            );
        }
        if *method == Method::PUT && self.length().is_none() {
            return refused(
                411,
                "MissingContentLengthHeader",
                "Content-Length is missing.",
            );
        }
        Ok(())
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}
