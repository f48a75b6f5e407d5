//! What all operations on iModels share: the iModel in the path, names and descriptions in bodies, paging.

use serde_json::Value;
use uuid::Uuid;

use crate::emulator::access;
use crate::emulator::model::{Imodel, State};
use crate::emulator::paging::{Next, Pages};
use crate::emulator::reply::{Refusal, imodel_not_found, invalid};
use crate::emulator::request::{ApiRequest, text};

/// Default page size.
const PAGE: usize = 100;

pub(super) const INVALID: &str = "InvalidiModelsRequest";

/// Maximum length of a name or description, in characters.
const TEXT_MAX: usize = 255;

/// Paging of lists of iModels and of their content.
///
/// Whether the platform's links have `$skip` or `$continuationToken` is not documented: here it is the one in the
/// request.
pub(super) const PAGES: Pages = Pages {
    default: PAGE,
    cap: None,
    next: Next::WhileMore,
    has_tokens: true,
    code: INVALID,
};

/// The iModel in the path, if the caller has the permission.
pub(super) fn imodel_in_path<'s>(
    request: &ApiRequest<'_>,
    state: &'s State,
    permission: access::Permission,
) -> Result<&'s Imodel, Refusal> {
    let id = request.segment(1);
    if Uuid::parse_str(id).is_err() {
        return Err(invalid(INVALID, "iModelId", "The value is not a UUID."));
    }
    access::check_imodel(request, state, id, permission)?;
    state
        .imodels
        .get(&id.to_ascii_lowercase())
        .ok_or_else(imodel_not_found)
}

/// The name in a body, in its new or its old property.
pub(super) fn name_of(body: &Value) -> Result<Option<String>, Refusal> {
    let name = match text(body, "displayName", INVALID)? {
        Some(name) => Some(name),
        None => text(body, "name", INVALID)?,
    };
    if name.is_some_and(|name| name.is_empty() || name.chars().count() > TEXT_MAX) {
        return Err(invalid(
            INVALID,
            "name",
            "The name must have 1 to 255 characters.",
        ));
    }
    Ok(name.map(str::to_owned))
}

pub(super) fn description_of(body: &Value) -> Result<Option<String>, Refusal> {
    let description = text(body, "description", INVALID)?;
    if description.is_some_and(|text| text.chars().count() > TEXT_MAX) {
        let what = "The text must have at most 255 characters.";
        return Err(invalid(INVALID, "description", what));
    }
    Ok(description.map(str::to_owned))
}
