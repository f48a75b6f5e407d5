//! Signed addresses: ours, and those of a running Azurite, by Azure's rules for a service SAS.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/create-service-sas, create-account-sas

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// The protocol version that addresses name.
pub(super) const VERSION: &str = "2019-07-07";

/// HMAC with SHA-256.
pub(super) fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The signature of one of our addresses: whoever changes its blob, its end or its permissions loses it.
pub(super) fn sign(key: &str, blob: &str, expiry: &str, permissions: &str) -> String {
    let text = format!("{blob}\n{expiry}\n{permissions}");
    BASE64_STANDARD.encode(mac(key.as_bytes(), &text))
}

/// One of our addresses.
pub(super) fn address(
    blob_url: &str,
    key: &str,
    blob: &str,
    expiry: Timestamp,
    permissions: &str,
) -> String {
    let expiry = format!("{expiry:.3}");
    let signature = sign(key, blob, &expiry, permissions);
    let query = query(&[
        ("sv", VERSION),
        ("sr", "b"),
        ("sp", permissions),
        ("se", &expiry),
        ("sig", &signature),
    ]);
    format!("{blob_url}/emulated/{blob}?{query}")
}

/// The query of a service SAS for one blob.
pub(super) fn service(key: &[u8], resource: &str, expiry: Timestamp, permissions: &str) -> String {
    let expiry = format!("{expiry:.0}");
    // Start, identifier, addresses, protocol, snapshot and the five response headers are left open.
    let text =
        format!("{permissions}\n\n{expiry}\n/blob{resource}\n\n\n\n{VERSION}\nb\n\n\n\n\n\n");
    let signature = BASE64_STANDARD.encode(mac(key, &text));
    query(&[
        ("sv", VERSION),
        ("sr", "b"),
        ("sp", permissions),
        ("se", &expiry),
        ("sig", &signature),
    ])
}

/// The query of an account SAS for everything that has to do with blobs.
pub(super) fn account(key: &[u8], account: &str, expiry: Timestamp) -> String {
    let (permissions, services, kinds) = ("rwdlac", "b", "sco");
    let expiry = format!("{expiry:.0}");
    let text =
        format!("{account}\n{permissions}\n{services}\n{kinds}\n\n{expiry}\n\n\n{VERSION}\n");
    let signature = BASE64_STANDARD.encode(mac(key, &text));
    query(&[
        ("sv", VERSION),
        ("ss", services),
        ("srt", kinds),
        ("sp", permissions),
        ("se", &expiry),
        ("sig", &signature),
    ])
}

fn query(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect::<Vec<_>>()
        .join("&")
}
