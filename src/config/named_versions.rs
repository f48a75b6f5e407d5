//! The key `named_version` of an `[[imodel]]` table.
//!
//! Input: the value of the key. Output: a [`NamedVersion`] whose placeholders are all known, or None for "off".

use toml::de::DeValue;

use super::values::InvalidValue;
use super::{NamedVersion, NamedVersionTime};

/// The longest name or description that the platform accepts, in characters.
const LENGTH_MAX: usize = 255;

/// How it is written.
const EXAMPLE: &str =
    "write named_version = { when = \"each\", name = \"{date} {time}\" }, or when = \"23:00\"";

/// The keys of the table.
const KEYS: [&str; 4] = ["when", "name", "description", "when_partial"];

pub(super) fn named_version(value: &DeValue<'_>) -> Result<Option<NamedVersion>, InvalidValue> {
    let bad = |what: &str| InvalidValue::new(what, EXAMPLE);
    let table = value
        .as_table()
        .ok_or_else(|| bad("expected a table with when, name and description"))?;
    if let Some((key, _)) = table
        .iter()
        .find(|(key, _)| !KEYS.contains(&key.get_ref().as_ref()))
    {
        return Err(bad(&format!("unknown key {:?}", key.get_ref())));
    }
    let text = |key: &str| match table.get(key).map(|value| value.get_ref().as_str()) {
        None => Ok(None),
        Some(Some(text)) => Ok(Some(text.to_owned())),
        Some(None) => Err(bad(&format!("{key} is not a string"))),
    };
    let when_partial = match table
        .get("when_partial")
        .map(|value| value.get_ref().as_bool())
    {
        None => false,
        Some(Some(flag)) => flag,
        Some(None) => return Err(bad("when_partial is neither true nor false")),
    };
    let name = text("name")?.unwrap_or_else(|| "{date} {time}".to_owned());
    let description = text("description")?.unwrap_or_else(|| "{files}".to_owned());
    if name.trim().is_empty() {
        return Err(bad("name is empty"));
    }
    for (key, text) in [("name", &name), ("description", &description)] {
        template(key, text)?;
    }
    let when = match text("when")?.ok_or_else(|| bad("has no when"))?.as_str() {
        "off" => return Ok(None),
        "each" => NamedVersionTime::EachRun,
        time => {
            let time = jiff::civil::Time::strptime("%H:%M", time).map_err(|_| {
                bad(&format!(
                    "when is neither \"each\" nor \"off\" nor a time of day: {time:?}"
                ))
            })?;
            NamedVersionTime::DailyAt(time)
        }
    };
    if when_partial && when != NamedVersionTime::EachRun {
        return Err(InvalidValue::new(
            "when_partial has no effect at a time of day",
            "remove when_partial, or write when = \"each\"",
        ));
    }
    Ok(Some(NamedVersion {
        when,
        name,
        description,
        when_partial,
    }))
}

/// Checks the length and the placeholders of a name or a description.
fn template(key: &str, text: &str) -> Result<(), InvalidValue> {
    let known = NamedVersion::PLACEHOLDERS.map(|name| format!("{{{name}}}"));
    let hint = format!("placeholders: {}", known.join(", "));
    if text.chars().count() > LENGTH_MAX {
        return Err(InvalidValue::new(
            format!("{key} has more than {LENGTH_MAX} characters"),
            "shorten it",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidValue::new(
            format!("{key} has a line break or another control character"),
            "remove it",
        ));
    }
    let rest = known
        .iter()
        .fold(text.to_owned(), |rest, name| rest.replace(name, ""));
    if rest.contains(['{', '}']) {
        return Err(InvalidValue::new(
            format!("{key} has an unknown placeholder: {text:?}"),
            hint,
        ));
    }
    Ok(())
}
