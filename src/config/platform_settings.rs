//! The tables `[watch.settings]` and `[imodel.settings]`: settings of the platform, passed through by name.
//!
//! Input: one table. Output: [`PlatformSettings`] with the names that the platform uses. It knows no setting: the
//! platform adds and removes them. The number of keys, their length and the kind of their values are checked.

use serde_json::Value;
use toml::de::DeValue;

use super::document::Section;
use super::values::{InvalidValue, kind};
use crate::connection_name::ConnectionName;
use crate::ids::ImodelId;

/// The key of the table.
pub(super) const KEY: &str = "settings";

/// Settings in a table.
const SETTINGS_MAX: usize = 50;

/// Characters in the name of a setting.
const NAME_MAX: usize = 64;

/// Settings of an iModel or a connection on the platform, in the order of the file; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformSettings(pub Vec<PlatformSetting>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformSetting {
    /// As written in the file.
    pub key: String,
    /// As the platform names it; unique.
    pub name: String,
    /// A boolean or a number.
    pub value: serde_json::Value,
    /// Where it is in the file.
    pub line: Option<usize>,
}

/// The settings of connections on the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Their iModel.
    pub imodel_id: ImodelId,
    /// Their name, or that of those of all connector types.
    pub connection: ConnectionName,
    /// Their settings.
    pub settings: PlatformSettings,
}

impl ConnectionSettings {
    /// Those of a connection, by its display name.
    #[must_use]
    pub fn find<'s>(
        all: &'s [Self],
        imodel_id: &ImodelId,
        display_name: &str,
    ) -> Option<&'s PlatformSettings> {
        let fits = |one: &&Self| one.imodel_id == *imodel_id && one.connection.fits(display_name);
        all.iter().find(fits).map(|one| &one.settings)
    }
}

impl PlatformSettings {
    /// What of these settings differs from those of the platform.
    #[must_use]
    pub fn differing(&self, there: &serde_json::Map<String, Value>) -> Vec<&PlatformSetting> {
        let differs = |one: &&PlatformSetting| {
            let found = there.get(&one.name);
            !found.is_some_and(|found| is_equal(found, &one.value))
        };
        self.0.iter().filter(differs).collect()
    }

    /// As the platform writes them.
    #[must_use]
    pub fn text(&self) -> String {
        let all: Vec<String> = self.0.iter().map(PlatformSetting::text).collect();
        all.join(", ")
    }

    /// Whether both set the same; where they are written does not matter.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let of = |all: &Self| {
            let pairs = all.0.iter();
            pairs
                .map(|one| (one.name.clone(), one.value.clone()))
                .collect::<serde_json::Map<_, _>>()
        };
        self.differing(&of(other)).is_empty() && other.differing(&of(self)).is_empty()
    }
}

impl PlatformSetting {
    /// As the platform writes it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} = {}", self.name, self.value)
    }

    /// The key as written, with its line.
    #[must_use]
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{} (line {line})", self.key),
            None => self.key.clone(),
        }
    }
}

/// Whether two values mean the same: a service may write 2 as 2.0.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        #[expect(clippy::float_cmp, reason = "both were written as decimal numbers")]
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// Reads the table, if there is one, and reports every error in it.
pub(super) fn read(section: &mut Section<'_>) -> Option<PlatformSettings> {
    let entries = section.entries(
        KEY,
        "write settings = { enable_sheets_and_drawings = true }",
    )?;
    if entries.len() > SETTINGS_MAX {
        let bad = InvalidValue::new(
            format!(
                "has {} settings; at most {SETTINGS_MAX} are possible",
                entries.len()
            ),
            "remove some of them",
        );
        section.add(KEY, bad);
        return None;
    }
    let mut settings: Vec<PlatformSetting> = Vec::new();
    for (key, line, value) in entries {
        match setting(key, line, value, &settings) {
            Ok(one) => settings.push(one),
            Err(bad) => section.add_at_entry(KEY, key, bad),
        }
    }
    (!settings.is_empty()).then_some(PlatformSettings(settings))
}

fn setting(
    key: &str,
    line: Option<usize>,
    value: &DeValue<'_>,
    earlier: &[PlatformSetting],
) -> Result<PlatformSetting, InvalidValue> {
    let shown: String = key.chars().take(NAME_MAX).collect();
    let is_plain = key.starts_with(|first: char| first.is_ascii_lowercase())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_plain || key.len() > NAME_MAX {
        return Err(InvalidValue::new(
            format!("{shown:?} is not the name of a setting"),
            format!(
                "write at most {NAME_MAX} letters, digits and underscores, such as enable_sheets_and_drawings"
            ),
        ));
    }
    let name = camel_case(key);
    if let Some(other) = earlier.iter().find(|other| other.name == name) {
        return Err(InvalidValue::new(
            format!("{key} and {} are the same setting", other.place()),
            "remove one of them",
        ));
    }
    let number = "write a number such as 2, without quotes";
    let value = match value {
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(Value::from)
            .map_err(|_| InvalidValue::new(format!("{key}: {integer} is out of range"), number))?,
        DeValue::Float(float) => float
            .as_str()
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| InvalidValue::new(format!("{key}: {float} is not a number"), number))?,
        DeValue::String(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            return Err(InvalidValue::new(
                format!(
                    "{key}: expected true, false or a number, found {}",
                    kind(value)
                ),
                "write true or false, or a number, without quotes",
            ));
        }
    };
    Ok(PlatformSetting {
        key: key.to_owned(),
        name,
        value,
        line,
    })
}

/// `enable_sheets_and_drawings` as `enableSheetsAndDrawings`; a name without underscores stays as it is.
fn camel_case(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        if c == '_' {
            upper = true;
        } else {
            name.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn names_become_those_of_the_platform() {
        for (key, name) in [
            ("enable_sheets_and_drawings", "enableSheetsAndDrawings"),
            ("enableSheetsAndDrawings", "enableSheetsAndDrawings"),
            ("clamp_z_extent", "clampZExtent"),
            ("enable_c3d_graphs_in_2d_model", "enableC3dGraphsIn2dModel"),
            (
                "override_rvt_reprojection_distance",
                "overrideRvtReprojectionDistance",
            ),
            ("lod", "lod"),
        ] {
            assert_eq!(camel_case(key), name);
        }
    }

    #[test]
    fn a_setting_differs_unless_the_platform_has_its_very_value() {
        let wanted = |value: Value| {
            PlatformSettings(vec![PlatformSetting {
                key: "a_b".to_owned(),
                name: "aB".to_owned(),
                value,
                line: None,
            }])
        };
        for (there, value, differs) in [
            (json!({}), json!(true), true),
            (json!({}), json!(false), true),
            (json!({ "aB": true }), json!(true), false),
            (json!({ "aB": true, "other": false }), json!(true), false),
            (json!({ "aB": false }), json!(true), true),
            (json!({ "ab": true }), json!(true), true),
            (json!({ "aB": null }), json!(false), true),
            (json!({ "aB": "true" }), json!(true), true),
            (json!({ "aB": 2 }), json!(2), false),
            (json!({ "aB": 2.0 }), json!(2), false),
            (json!({ "aB": 1 }), json!(true), true),
            (json!({ "aB": [true] }), json!(true), true),
        ] {
            let found = wanted(value.clone());
            let found = found.differing(there.as_object().unwrap());
            assert_eq!(!found.is_empty(), differs, "{there} {value}");
        }
    }
}
