//! Which connector type reads a file, by its extension, unless the watch configures another.
//!
//! Gives the extensions of a file name, longest first, and the table from extension to type.
//!
//! Facts: the extensions of the synchronization samples and of iTwin/itwin-cli (`extension-to-connector-mappings.ts`,
//! 2025), the most generic type where several fit (`dgn` is also read by CIVIL, OBD and PROSTRUCTURES, `dwg` by
//! AUTOPLANT, CIVIL3D and MSTN), and the "supported formats" page of developer.bentley.com/apis/synchronization.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::Why;
use crate::connector_type::ConnectorType;

/// The built-in table.
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
