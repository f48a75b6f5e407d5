//! Signed addresses of blobs, as the API returns them: in our own blob storage, or in Azurite.

use jiff::{SignedDuration, Timestamp};

use super::model::State;
use super::request::ApiRequest;
use super::sas::{self, Grant};

pub(super) fn expiry(request: &ApiRequest<'_>) -> Timestamp {
    let lifetime = SignedDuration::try_from(request.address_lifetime).unwrap_or_default();
    request.now.saturating_add(lifetime).unwrap_or(request.now)
}

/// The address of a blob, at our own storage or at Azurite.
pub(super) fn address(
    request: &ApiRequest<'_>,
    state: &State,
    grant: Grant<'_>,
    expiry: Timestamp,
) -> String {
    match &request.shared.azurite {
        Some(azurite) => azurite.address(grant, expiry),
        None => sas::address(&request.shared.blob_url, &state.key, grant, expiry),
    }
}

/// A writable address for content that does not belong to a storage file.
pub(super) fn upload_address(request: &ApiRequest<'_>, state: &State, blob: &str) -> String {
    own_address(request, state, blob, "rw")
}

/// A readable address for such content.
pub(super) fn read_address(request: &ApiRequest<'_>, state: &State, blob: &str) -> String {
    own_address(request, state, blob, "r")
}

fn own_address(request: &ApiRequest<'_>, state: &State, blob: &str, permissions: &str) -> String {
    let grant = Grant {
        blob,
        permissions,
        disposition: "",
    };
    sas::address(&request.shared.blob_url, &state.key, grant, expiry(request))
}
