//! An address that storage issues for content. It is a secret: only its host is shown.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use url::Url;

use crate::itwin::urls::{authority, is_loopback};
use crate::secret::Secret;

/// The first protocol version with CRC64.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const CRC64_SINCE: &str = "2019-02-02";

/// An upload address. Everyone who has it can write, so only its host is shown.
#[derive(Clone)]
pub struct UploadUrl {
    pub(super) url: Url,
    /// Its signature, registered as a secret as long as the address is in use.
    _signature: Secret,
}

/// The checksum of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME, cheap to compute. Only if [`UploadUrl::takes_crc64`].
    Crc64(u64),
    /// MD5.
    Md5([u8; 16]),
}

impl Checksum {
    pub(super) fn header(self) -> (&'static str, String) {
        match self {
            Self::Crc64(crc64) => (
                "x-ms-content-crc64",
                BASE64_STANDARD.encode(crc64.to_le_bytes()),
            ),
            Self::Md5(md5) => ("content-md5", BASE64_STANDARD.encode(md5)),
        }
    }
}

impl UploadUrl {
    /// None if it is not a URL, or would send content to another machine without TLS.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        url.host()?;
        if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
            return None;
        }
        let signature = url
            .query_pairs()
            .find(|(name, _)| name.eq_ignore_ascii_case("sig"))
            .map(|(_, signature)| signature.into_owned());
        let signature = signature.unwrap_or_else(|| url.query().unwrap_or_default().to_owned());
        Some(Self {
            _signature: Secret::new(signature),
            url,
        })
    }

    /// Whether content is sent as securely as requests to `base`: without TLS only if the platform is on this machine.
    pub(in crate::itwin) fn is_as_safe_as(&self, base: &Url) -> bool {
        self.url.scheme() == "https" || base.scheme() == "http"
    }

    /// When it expires, by the platform's clock, if known.
    ///
    /// Source: learn.microsoft.com/rest/api/storageservices/create-service-sas (field `se`)
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        let (_, end) = self.url.query_pairs().find(|(name, _)| name == "se")?;
        end.parse().ok()
    }

    /// The whole address, a secret.
    pub(crate) fn expose(&self) -> &str {
        self.url.as_str()
    }

    /// Whether both are addresses of the same blob: then blocks sent to one exist for the other.
    #[must_use]
    pub fn is_same_blob(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin() && self.url.path() == other.url.path()
    }

    /// Whether the protocol version of the address supports CRC64.
    #[must_use]
    pub fn takes_crc64(&self) -> bool {
        self.url
            .query_pairs()
            .any(|(name, version)| name == "sv" && *version >= *CRC64_SINCE)
    }

    /// The address with more query parameters; the existing ones are signed and stay unchanged.
    pub(super) fn with(&self, more: &str) -> Url {
        let mut url = self.url.clone();
        let query = url
            .query()
            .map_or_else(|| more.to_owned(), |query| format!("{query}&{more}"));
        url.set_query(Some(&query));
        url
    }
}

impl fmt::Debug for UploadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadUrl({}/…)", authority(&self.url))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_upload_address_keeps_its_query_and_hides_it() {
        let url = UploadUrl::parse("https://blob.example/a/b?sv=1&sig=a%2Bb%3D").unwrap();
        assert_eq!(
            url.with("comp=blocklist").as_str(),
            "https://blob.example/a/b?sv=1&sig=a%2Bb%3D&comp=blocklist"
        );
        assert_eq!(format!("{url:?}"), "UploadUrl(blob.example/…)");
    }

    #[test]
    fn content_is_sent_to_another_machine_only_with_tls() {
        for (text, good) in [
            ("https://blob.example/x?sig=1", true),
            ("http://blob.example/x?sig=1", false),
            ("http://127.0.0.1:4/x", true),
            ("http://[::1]:4/x", true),
            ("http://localhost:4/x", true),
            ("ftp://localhost/x", false),
            ("x", false),
        ] {
            assert_eq!(UploadUrl::parse(text).is_some(), good, "{text}");
        }
    }
}
