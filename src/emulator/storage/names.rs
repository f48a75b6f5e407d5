//! Names of files and folders: which are valid, which are equal.

use super::INVALID;
use crate::emulator::reply::{Refusal, invalid, refuse};
use crate::emulator::request::{ApiRequest, text};
use crate::emulator::switches::{NameCase, NameError};

pub(super) const INVALID_FILE: &str = "InvalidCreateFileRequest";
pub(super) const INVALID_FOLDER: &str = "InvalidCreateFolderRequest";

/// Characters that are not allowed in names.
const FORBIDDEN: &[char] = &['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// Extensions that storage rejects as harmful.
const HARMFUL: &[&str] = &[
    ".exe", ".dll", ".bat", ".cmd", ".com", ".msi", ".ps1", ".vbs",
];

/// The checked name and description in a body.
pub(super) fn checked_names(
    request: &ApiRequest<'_>,
    code: &'static str,
) -> Result<(Option<String>, Option<String>), Refusal> {
    let body = request.json(code)?;
    let wrong = |what| match request.switches.name_error {
        NameError::Documented => invalid(code, "displayName", what),
        NameError::Observed => refuse(422, INVALID, "Invalid request.").about(None, what),
    };
    let name = text(&body, "displayName", code)?;
    if let Some(name) = name {
        if name.is_empty() || name.encode_utf16().count() > 255 {
            return Err(wrong("The name must have 1 to 255 characters."));
        }
        let dots = name == "." || name == "..";
        if dots || name.contains(FORBIDDEN) || name.chars().any(char::is_control) {
            return Err(wrong("The name has invalid characters."));
        }
        let lower = name.to_ascii_lowercase();
        if code == INVALID_FILE && HARMFUL.iter().any(|extension| lower.ends_with(extension)) {
            return Err(wrong("This kind of file is not allowed."));
        }
    }
    let description = text(&body, "description", code)?;
    Ok((name.map(str::to_owned), description.map(str::to_owned)))
}

pub(super) fn is_same_name(request: &ApiRequest<'_>, one: &str, other: &str) -> bool {
    match request.switches.name_case {
        NameCase::Sensitive => one == other,
        NameCase::Insensitive => one.to_lowercase() == other.to_lowercase(),
    }
}

pub(super) fn name_taken() -> Refusal {
    refuse(409, "Conflict", "An item with this name exists.")
}
