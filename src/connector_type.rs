//! The connector types of the platform: what reads a format there.
//!
//! The platform can add types at any time, so a type is any text, and an unknown one is the platform's to reject. Only
//! the configuration is stricter: [`ConnectorType::parse`] accepts a type that is not listed here only with the prefix
//! `custom:`, because an unknown type is most often a typing error.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The platform's name of what reads a format, such as `DWG`. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(transparent))]
pub struct ConnectorType(Arc<str>);

impl ConnectorType {
    /// Types that the platform lists today.
    pub const CURRENT: [&'static str; 14] = [
        "AUTOPLANT",
        "CIVIL",
        "CIVIL3D",
        "DWG",
        "GEOSPATIAL",
        "IFC",
        "MSTN",
        "NWD",
        "OBD",
        "OPENTOWER",
        "PROSTRUCTURES",
        "REVIT",
        "SPPID",
        "SPXREVIEW",
    ];

    /// Types that the platform had once and retired; older dictionaries still name them. It is likely to reject a
    /// source file with one of them (422).
    ///
    /// Source: removed from iTwin/itwin-cli as unsupported in May 2025.
    pub const RETIRED: [&'static str; 5] = [
        "AVEVADIAGRAMS",
        "AVEVAPID",
        "INTELLIPID",
        "PSEXCEL",
        "SHELLEDWCSV",
    ];

    /// The longest name of a type in bytes; the longest known one has 13.
    pub const NAME_MAX: usize = 64;

    /// A type as written in the configuration.
    ///
    /// # Errors
    /// It is neither listed here nor a well-formed name after `custom:`.
    pub fn parse(text: &str) -> Result<Self, InvalidType> {
        if let Some(name) = text.strip_prefix(CUSTOM) {
            return if is_name(name) {
                Ok(Self::new(name))
            } else {
                Err(InvalidType::Malformed)
            };
        }
        let known = Self::new(text);
        if known.is_known() {
            return Ok(known);
        }
        if text.trim().is_empty() {
            return Err(InvalidType::Empty);
        }
        Err(InvalidType::Unknown {
            name: text.to_owned(),
            nearest: nearest(text),
        })
    }

    /// Any type, exactly as the platform writes it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The type as the platform writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it reads, in a few words; None for a type that is not listed here.
    ///
    /// Source: developer.bentley.com/apis/synchronization/supported-formats
    #[must_use]
    pub fn reads(&self) -> Option<&'static str> {
        Some(match self.as_str() {
            "AUTOPLANT" => "AutoPLANT drawings (dwg)",
            "CIVIL" => "OpenRoads, OpenRail and OpenSite designs (dgn)",
            "CIVIL3D" => "Autodesk Civil 3D drawings (dwg)",
            "DWG" => "AutoCAD drawings",
            "GEOSPATIAL" => "maps: shapefiles, GeoJSON, KML",
            "IFC" => "IFC building models",
            "MSTN" => "MicroStation designs, and formats that MicroStation imports",
            "NWD" => "Navisworks models",
            "OBD" => "OpenBuildings Designer models (dgn)",
            "OPENTOWER" => "OpenTower Designer towers",
            "PROSTRUCTURES" => "ProStructures models (dgn)",
            "REVIT" => "Revit models",
            "SPPID" => "exports of Smart P&ID",
            "SPXREVIEW" => "SmartPlant Review models",
            "AVEVADIAGRAMS" => "AVEVA Diagrams",
            "AVEVAPID" => "AVEVA P&ID drawings",
            "INTELLIPID" => "Intelli P&ID diagrams",
            "PSEXCEL" => "Excel tables",
            "SHELLEDWCSV" => "CSV tables",
            _ => return None,
        })
    }

    /// Whether it is one of [`ConnectorType::RETIRED`].
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retirement().is_some()
    }

    /// Why the platform is likely to reject the type, as the rest of a sentence that starts with it; None if it is not
    /// retired.
    #[must_use]
    pub fn retirement(&self) -> Option<&'static str> {
        Self::RETIRED.contains(&self.as_str()).then_some(
            "is retired: Bentley's client removed it as no longer supported in May 2025, and the platform may reject it",
        )
    }

    /// Whether it is a name of letters, digits, `_` and `-`.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        is_name(&self.0)
    }

    /// Whether it is one of [`ConnectorType::CURRENT`] or [`ConnectorType::RETIRED`]. An unknown type may be new, or a
    /// typing error.
    #[must_use]
    pub fn is_known(&self) -> bool {
        Self::CURRENT.contains(&self.as_str()) || self.is_retired()
    }
}

/// Written before a type in the configuration that this version does not list.
const CUSTOM: &str = "custom:";

/// Why a type in the configuration cannot be used. `Display` is the rest of a sentence that starts with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidType {
    /// Nothing is written.
    #[error("has no connector type")]
    Empty,
    /// What follows `custom:` cannot be a type.
    #[error("has a connector type that is not a name of letters, digits, \"_\" and \"-\"")]
    Malformed,
    /// It is not listed.
    #[error("has the unknown connector type {name:?}")]
    Unknown {
        /// The type as written.
        name: String,
        /// The listed type that looks most like it, if any does.
        nearest: Option<&'static str>,
    },
}

impl InvalidType {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty => {
                "write a type such as \"CIVIL\"; to leave such files alone, add them to exclude"
                    .to_owned()
            }
            Self::Malformed => {
                "write it as the platform does, such as \"custom:NEWTYPE\"".to_owned()
            }
            Self::Unknown { name, nearest } => {
                let known = match nearest {
                    Some(nearest) => format!("did you mean {nearest:?}?"),
                    None => format!(
                        "known types: {}; `itwin-syncd connectors` says what each reads.",
                        ConnectorType::CURRENT.join(", ")
                    ),
                };
                if !is_name(name) || nearest.is_some_and(|one| one.eq_ignore_ascii_case(name)) {
                    return known.trim_end_matches('.').to_owned();
                }
                format!("{known} If the type is newer than this version: \"{CUSTOM}{name}\"")
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=ConnectorType::NAME_MAX).contains(&name.len()) && name.bytes().all(may)
}

/// The listed type that is written almost like `text`, in any case. A retired one only if nothing but the case differs.
fn nearest(text: &str) -> Option<&'static str> {
    let wanted: String = text
        .trim()
        .to_uppercase()
        .chars()
        .take(ConnectorType::NAME_MAX)
        .collect();
    let same = ConnectorType::RETIRED
        .into_iter()
        .find(|name| *name == wanted);
    same.or_else(|| {
        let distance = |name: &'static str| (strsim::damerau_levenshtein(&wanted, name), name);
        let (distance, nearest) = ConnectorType::CURRENT.into_iter().map(distance).min()?;
        (distance <= nearest.len() / 3).then_some(nearest)
    })
}

impl From<String> for ConnectorType {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ConnectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ConnectorType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_type_says_what_it_reads() {
        for name in ConnectorType::CURRENT.iter().chain(&ConnectorType::RETIRED) {
            assert!(ConnectorType::new(name).reads().is_some(), "{name}");
        }
        assert_eq!(ConnectorType::new("NEWTYPE").reads(), None);
    }

    #[test]
    fn the_configuration_takes_listed_types_and_others_only_with_the_prefix() {
        let long = format!("custom:{}", "X".repeat(65));
        for (text, expected) in [
            ("CIVIL3D", "CIVIL3D"),
            ("PSEXCEL", "PSEXCEL"),
            ("custom:NEWTYPE", "NEWTYPE"),
            // A later version may list a type that was new before.
            ("custom:DWG", "DWG"),
            ("dwg", "did you mean \"DWG\"?"),
            ("Psexcel", "did you mean \"PSEXCEL\"?"),
            (" MSTN ", "did you mean \"MSTN\"?"),
            (
                "CIVL",
                "did you mean \"CIVIL\"? If the type is newer than this version: \"custom:CIVL\"",
            ),
            ("GEOSPATAIL", "did you mean \"GEOSPATIAL\"? If the type …"),
            ("MICROSTATION", "known types: AUTOPLANT, …"),
            ("no such type", "known types: AUTOPLANT, …"),
            ("Custom:NEWTYPE", "known types: AUTOPLANT, …"),
            ("", "write a type such as …"),
            (" ", "write a type such as …"),
            ("custom:", "write it as the platform does, …"),
            ("custom: X", "write it as the platform does, …"),
            ("custom:a/b", "write it as the platform does, …"),
            (long.as_str(), "write it as the platform does, …"),
        ] {
            let parsed = match ConnectorType::parse(text) {
                Ok(parsed) => parsed.to_string(),
                Err(invalid) => invalid.hint(),
            };
            let begin = expected.strip_suffix('…');
            assert!(
                begin.map_or(parsed == expected, |begin| parsed.starts_with(begin)),
                "{text:?}: {parsed}"
            );
        }
        let endless = "A".repeat(1_000_000);
        assert!(ConnectorType::parse(&endless).is_err());
    }
}
