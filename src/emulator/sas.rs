//! Signed addresses: our own, and those of Azurite by Azure's rules for a service SAS.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/create-service-sas, create-account-sas

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::encoding::percent;

/// The protocol version in addresses.
pub(super) const VERSION: &str = "2019-07-07";

/// HMAC with SHA-256.
pub(super) fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// What an address permits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant<'a> {
    /// The name in the address.
    pub(super) blob: &'a str,
    /// Letters such as `rw`.
    pub(super) permissions: &'a str,
    /// The `Content-Disposition` of downloads; empty for none.
    pub(super) disposition: &'a str,
}

/// The `Content-Disposition` of a file with this name.
pub(super) fn attachment(name: &str) -> String {
    format!("attachment; filename=\"{name}\"")
}

/// The signature of one of our addresses, over blob, expiry, permissions and disposition.
pub(super) fn sign(key: &str, grant: Grant<'_>, expiry: &str) -> String {
    let Grant {
        blob,
        permissions,
        disposition,
    } = grant;
    let text = format!("{blob}\n{expiry}\n{permissions}\n{disposition}");
    BASE64_STANDARD.encode(mac(key.as_bytes(), &text))
}

/// One of our addresses.
pub(super) fn address(blob_url: &str, key: &str, grant: Grant<'_>, expiry: Timestamp) -> String {
    let expiry = format!("{expiry:.3}");
    let signature = sign(key, grant, &expiry);
    let query = query(&[
        ("sv", VERSION),
        ("se", &expiry),
        ("sr", "b"),
        ("sp", grant.permissions),
        ("rscd", grant.disposition),
        ("sig", &signature),
    ]);
    format!("{blob_url}/emulated/{}?{query}", grant.blob)
}

/// The query of a service SAS for one blob.
pub(super) fn service(key: &[u8], resource: &str, grant: Grant<'_>, expiry: Timestamp) -> String {
    let expiry = format!("{expiry:.0}");
    let Grant {
        permissions,
        disposition,
        ..
    } = grant;
    // Start, identifier, IP range, protocol, snapshot and the other four response headers are empty.
    let text = format!(
        "{permissions}\n\n{expiry}\n/blob{resource}\n\n\n\n{VERSION}\nb\n\n\n{disposition}\n\n\n"
    );
    let signature = BASE64_STANDARD.encode(mac(key, &text));
    query(&[
        ("sv", VERSION),
        ("se", &expiry),
        ("sr", "b"),
        ("sp", permissions),
        ("rscd", disposition),
        ("sig", &signature),
    ])
}

/// The query of an account SAS with all blob permissions.
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
    pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", percent(value)))
        .collect::<Vec<_>>()
        .join("&")
}
