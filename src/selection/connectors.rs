//! Which connector type reads a file, by its extension, unless the watch configures another.
//!
//! Gives the extensions of a file name, longest first, and the table from extension to type. Where several types read
//! an extension, the table has the most general one: `dgn` is also read by CIVIL, OBD and PROSTRUCTURES, `dwg` by
//! AUTOPLANT, CIVIL3D and MSTN.
//!
//! Sources: `extension-to-connector-mappings.ts` of iTwin/itwin-cli (2025), the synchronization samples of the platform
//! for `pid`, `xml` and the retired types, and developer.bentley.com/apis/synchronization/supported-formats. Not in
//! the table, because no source names a connector that reads them: kmz (the Geospatial connector reads it unpacked, as
//! kml), gdb (a folder), gpkg, gml, las, laz, e57, gltf, glb, x_b, sab, ifczip.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;

use super::Why;
use crate::connector_type::ConnectorType;

/// A connector type that the table gives an extension although such a file may well be something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guess {
    extension: &'static str,
    connector: &'static str,
    reason: &'static str,
}

impl Guess {
    /// The connector type.
    #[must_use]
    pub fn connector(self) -> &'static str {
        self.connector
    }

    /// How to change or confirm it.
    #[must_use]
    pub fn hint(self) -> String {
        let Self {
            extension,
            connector,
            ..
        } = self;
        format!(
            "if these are such files, confirm it with connectors = {{ {extension} = {connector:?} }} in the watch; if \
             not, name another type there, or exclude = [\"*.{extension}\"]"
        )
    }
}

impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a guess for {:?}: {}", self.extension, self.reason)
    }
}

/// Every extension of the built-in table with its connector type, in the order of the documentation.
pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
    let extensions = TABLE
        .iter()
        .flat_map(|(connector, extensions)| extensions.iter().map(move |one| (*one, *connector)));
    extensions.chain(
        GUESSES
            .iter()
            .map(|guess| (guess.extension, guess.connector)),
    )
}

/// The built-in table.
pub(super) fn table() -> BTreeMap<String, (ConnectorType, Why)> {
    let guess = |extension| GUESSES.iter().find(|guess| guess.extension == extension);
    built_in()
        .map(|(extension, connector)| {
            let why = match guess(extension) {
                Some(guess) => Why::Guess(*guess),
                None => Why::Table(extension.to_owned()),
            };
            (extension.to_owned(), (ConnectorType::new(connector), why))
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

/// Type, and the extensions that it reads by default.
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
    ("OPENTOWER", &["otxml"]),
    ("SPPID", &["pid"]),
    ("SPXREVIEW", &["vue"]),
    // Retired by the platform, kept because the customer's dictionary has them: the platform's rejection is reported
    // file by file.
    ("AVEVADIAGRAMS", &["vsd"]),
    ("INTELLIPID", &["json"]),
    ("PSEXCEL", &["xls", "xlsx"]),
    ("SHELLEDWCSV", &["csv"]),
];

/// Extensions whose files may well be something else than what the type reads.
static GUESSES: [Guess; 4] = [
    Guess {
        extension: "zip",
        connector: "SPPID",
        reason: "any archive can have this extension, and SPPID reads exports of Smart P&ID only",
    },
    Guess {
        extension: "xml",
        connector: "OPENTOWER",
        reason: "any XML file can have this extension, and OPENTOWER reads towers of OpenTower Designer only",
    },
    Guess {
        extension: "step",
        connector: "MSTN",
        reason: "the platform documents stp, the other extension of this format, but not this one",
    },
    Guess {
        extension: "iges",
        connector: "MSTN",
        reason: "the platform documents igs, the other extension of this format, but not this one",
    },
];
