//! The name of the storage connection of a watch, which may contain a placeholder for the connector type.
//!
//! With the placeholder, each connector type has a connection of its own. Pure: it knows no connection.

use std::fmt;

use crate::connector_type::ConnectorType;

/// Stands for the connector type of a file.
const PLACEHOLDER: &str = "{connector}";

/// The longest name with a placeholder, with the longest connector type in its place, in characters.
const LENGTH_MAX: usize = 255;

/// A name of connections as configured, such as `itwin-syncd` or `itwin-syncd {connector}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionName(String);

/// Why a name cannot be used. `Display` is the rest of a sentence that starts with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It has a placeholder that does not exist.
    #[error("has the unknown placeholder {0:?}")]
    UnknownPlaceholder(String),
    /// It has a brace that is no part of a placeholder.
    #[error("has a brace without a placeholder")]
    Brace,
    /// It is too long with a long connector type.
    #[error(
        "may get more than 255 characters: a connector type has up to {}",
        ConnectorType::NAME_MAX
    )]
    TooLong,
}

impl InvalidName {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownPlaceholder(found) if is_near(found) => {
                format!("did you mean {PLACEHOLDER:?}?")
            }
            Self::UnknownPlaceholder(_) | Self::Brace => {
                format!("the only placeholder is {PLACEHOLDER:?}, the connector type of a file")
            }
            Self::TooLong => "shorten it".to_owned(),
        }
    }
}

/// Whether it is probably a typing error of the placeholder.
fn is_near(found: &str) -> bool {
    let found: String = found
        .to_lowercase()
        .chars()
        .take(PLACEHOLDER.len() + 4)
        .collect();
    found.contains("type") || strsim::damerau_levenshtein(&found, PLACEHOLDER) <= 4
}

impl ConnectionName {
    /// A name as written in the configuration.
    ///
    /// # Errors
    /// It has an unknown placeholder, or is too long for a connector type.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = Self(text.to_owned());
        let rest = text.replace(PLACEHOLDER, "");
        if let Some((_, after)) = rest.split_once('{') {
            return Err(match after.split_once('}') {
                Some((found, _)) => InvalidName::UnknownPlaceholder(format!("{{{found}}}")),
                None => InvalidName::Brace,
            });
        }
        if rest.contains('}') {
            return Err(InvalidName::Brace);
        }
        let placeholders = text.matches(PLACEHOLDER).count();
        let longest = placeholders.saturating_mul(ConnectorType::NAME_MAX);
        if name.is_per_type() && rest.chars().count().saturating_add(longest) > LENGTH_MAX {
            return Err(InvalidName::TooLong);
        }
        Ok(name)
    }

    /// As configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether each connector type has a connection of its own.
    #[must_use]
    pub fn is_per_type(&self) -> bool {
        self.0.contains(PLACEHOLDER)
    }

    /// The name of the connection for files of a connector type.
    #[must_use]
    pub fn of(&self, connector: &ConnectorType) -> String {
        self.0.replace(PLACEHOLDER, connector.as_str())
    }

    /// Whether a connection of this display name is the one of some connector type. A name that consists of the
    /// placeholder alone fits only types that this version knows: else every connection could be ours.
    #[must_use]
    pub fn fits(&self, display_name: &str) -> bool {
        let Some((before, _)) = self.0.split_once(PLACEHOLDER) else {
            return self.0 == display_name;
        };
        let is_anything = self.0.replace(PLACEHOLDER, "").trim().is_empty();
        let Some(rest) = display_name.strip_prefix(before) else {
            return false;
        };
        (1..=ConnectorType::NAME_MAX)
            .filter_map(|length| rest.get(..length))
            .map(ConnectorType::new)
            .filter(|connector| {
                connector.is_well_formed() && (connector.is_known() || !is_anything)
            })
            .any(|connector| self.of(&connector) == display_name)
    }
}

impl From<String> for ConnectionName {
    /// A name as the ledger has it.
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_placeholder_but_the_connector_type_and_room_for_it() {
        let near = "did you mean \"{connector}\"?";
        let only = "the only placeholder is \"{connector}\", the connector type of a file";
        let (fits, long) = ("x".repeat(191), "x".repeat(192));
        let (fits, long) = (
            format!("{fits}{{connector}}"),
            format!("{long}{{connector}}"),
        );
        for (text, expected) in [
            ("itwin-syncd", None),
            ("itwin-syncd {connector}", None),
            ("{connector}", None),
            ("{connector} by {connector}", None),
            (&fits, None),
            (&long, Some("shorten it")),
            // A name without a placeholder is the platform's to reject.
            (&"x".repeat(300), None),
            ("itwin-syncd {conector}", Some(near)),
            ("itwin-syncd {Connector}", Some(near)),
            ("itwin-syncd {connection}", Some(near)),
            ("itwin-syncd {type}", Some(near)),
            ("itwin-syncd {watch}", Some(only)),
            ("itwin-syncd {}", Some(only)),
            ("itwin-syncd {connector", Some(only)),
            ("itwin-syncd connector}", Some(only)),
            ("itwin-syncd {{connector}}", Some(only)),
        ] {
            let parsed = ConnectionName::parse(text);
            let hint = parsed.err().map(|invalid| invalid.hint());
            assert_eq!(hint.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_connection_is_one_of_a_name_if_a_connector_type_makes_it_that() {
        for (name, display_name, expected) in [
            ("ours", "ours", true),
            ("ours", "ours DWG", false),
            ("ours {connector}", "ours DWG", true),
            ("ours {connector}", "ours NEW-1", true),
            ("ours {connector}", "ours", false),
            ("ours {connector}", "ours ", false),
            ("ours {connector}", "ours DWG 2", false),
            ("ours {connector}", "theirs DWG", false),
            ("ours {connector}", "ours {connector}", false),
            ("{connector} ours", "DWG ours", true),
            ("{connector} of {connector}", "DWG of DWG", true),
            ("{connector} of {connector}", "DWG of IFC", false),
            ("{connector}", "DWG", true),
            ("{connector}", "Survey", false),
            ("ours {connector}", "ours é", false),
        ] {
            let name = ConnectionName::parse(name).unwrap();
            assert_eq!(name.fits(display_name), expected, "{name} {display_name:?}");
        }
    }
}
