//! The connector types of the platform: what reads a format there.
//!
//! The platform can add types at any time, so any text is a type, and an unknown one is the platform's to reject.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};

/// The platform's name of what reads a format, such as `DWG`. Cloning is cheap.
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

impl<DB: Database> Type<DB> for ConnectorType
where
    String: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        String::type_info()
    }

    fn compatible(info: &DB::TypeInfo) -> bool {
        String::compatible(info)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for ConnectorType
where
    String: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.to_string().encode_by_ref(buffer)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for ConnectorType
where
    String: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        String::decode(value).map(Self::from)
    }
}
