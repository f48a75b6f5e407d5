//! Connector types, and which of them reads a file when nothing else is said.
//!
//! In comes a file name, out go its extensions, longest first, and the table from extension to type. The platform may
//! learn new types any day, so a type is an open string and nothing here refuses one.
//!
//! Facts: the extensions of the synchronization samples and of iTwin/itwin-cli (`extension-to-connector-mappings.ts`,
//! 2025), the most generic type where several fit (`dgn` is also read by CIVIL, OBD and PROSTRUCTURES, `dwg` by
//! AUTOPLANT, CIVIL3D and MSTN), and the "supported formats" page of developer.bentley.com/apis/synchronization.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;

use super::Why;

/// The platform's name of the program that reads a kind of design file, such as `DWG`. Any string: an unknown one is
/// the platform's to refuse.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    /// Types that the platform once had and has retired; older dictionaries still name them. A connection that asks for
    /// one is likely refused (422).
    ///
    /// Source: removed from iTwin/itwin-cli as unsupported in May 2025.
    pub const RETIRED: [&'static str; 5] = [
        "AVEVADIAGRAMS",
        "AVEVAPID",
        "INTELLIPID",
        "PSEXCEL",
        "SHELLEDWCSV",
    ];

    /// Takes any type, as written.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The type as the platform writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of [`ConnectorType::RETIRED`].
    #[must_use]
    pub fn is_retired(&self) -> bool {
        Self::RETIRED.contains(&self.as_str())
    }

    /// Whether it is one of [`ConnectorType::CURRENT`] or [`ConnectorType::RETIRED`]. An unknown type may be new, or a
    /// typing error.
    #[must_use]
    pub fn is_known(&self) -> bool {
        Self::CURRENT.contains(&self.as_str()) || self.is_retired()
    }
}

impl fmt::Display for ConnectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The table that holds when a watch says nothing.
pub(super) fn table() -> BTreeMap<String, (ConnectorType, Why)> {
    TABLE
        .iter()
        .flat_map(|(connector, extensions)| {
            let connector = ConnectorType::new(connector);
            extensions.iter().map(move |&extension| {
                (
                    extension.to_owned(),
                    (connector.clone(), Why::Table(extension.to_owned())),
                )
            })
        })
        .collect()
}

/// The extensions of a file name, lower-cased: the two-part one first, when there is one. Empty when there is none, or
/// none in UTF-8.
pub(super) fn extensions(name: &OsStr) -> impl Iterator<Item = String> {
    // Only the extension must be UTF-8; the name before it may be anything.
    let mut parts = name.as_encoded_bytes().rsplitn(3, |&byte| byte == b'.');
    let last = parts.next().and_then(|part| str::from_utf8(part).ok());
    let before = parts.next();
    let has_stem = parts.next().is_some_and(|stem| !stem.is_empty());
    // ".dgn" is a hidden file without extension.
    let is_hidden = before.is_none_or(|before| before.is_empty() && !has_stem);
    let last = last.filter(|last| !last.is_empty() && !is_hidden);
    let two_part = last.zip(before).and_then(|(last, before)| {
        let before = str::from_utf8(before).ok()?;
        (has_stem && !before.is_empty()).then(|| format!("{before}.{last}"))
    });
    let one_part = last.map(str::to_owned);
    two_part
        .into_iter()
        .chain(one_part)
        .map(|extension| extension.to_lowercase())
}

/// Type, and the extensions it reads by default.
static TABLE: [(&str, &[&str]); 13] = [
    ("DWG", &["dwg", "dxf"]),
    (
        "MSTN",
        &[
            "dgn", "i.dgn", "land.xml", "3dm", "3ds", "skp", "fbx", "obj", "dae", "hln", "igs",
            "jt", "sat", "stl", "stp", "x_t",
        ],
    ),
    ("IFC", &["ifc"]),
    ("REVIT", &["rvt"]),
    ("NWD", &["nwc", "nwd"]),
    ("GEOSPATIAL", &["shp", "geojson", "kml", "geodb"]),
    ("OPENTOWER", &["xml", "otxml"]),
    ("SPPID", &["zip", "pid"]),
    ("SPXREVIEW", &["vue"]),
    // Retired by the platform, kept because the customer's dictionary has them: the platform's refusal says so, file by
    // file.
    ("AVEVADIAGRAMS", &["vsd"]),
    ("INTELLIPID", &["json"]),
    ("PSEXCEL", &["xls", "xlsx"]),
    ("SHELLEDWCSV", &["csv"]),
];
