//! The key `create` of an `[[imodel]]` table: an iModel that the service creates if the iTwin has none of that name.
//!
//! Input: the value of the key. Output: a [`NewImodel`]. Its id takes the place of its key once it is known. Pure.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::values::{self, InvalidValue};
use super::{Config, Imodel};
use crate::ids::ImodelId;

/// How it is written.
const EXAMPLE: &str = "write create = { itwin_id = \"…\", name = \"Plant\" }";

/// How an extent is written.
const EXTENT: &str = "write extent = { south_west = { latitude = 46.1, longitude = 7.1 }, \
                      north_east = { latitude = 46.3, longitude = 7.4 } }";

/// Source: developer.bentley.com/apis/imodels-v2/operations/create-imodel/
const NAME_MAX: usize = 255;

/// An iModel that is created if its iTwin has none of that name.
#[derive(Debug, Clone, PartialEq)]
pub struct NewImodel {
    /// UUID in lower case with hyphens.
    pub itwin_id: String,
    /// 1 to 255 characters; watches refer to it by this name.
    pub name: String,
    /// The area that it covers.
    pub extent: Option<Extent>,
}

/// An area between two corners.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// Its latitude is not above that of `north_east`.
    pub south_west: Position,
    /// Its longitude is below that of `south_west` if the area crosses the date line.
    pub north_east: Position,
}

/// A position on the earth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Degrees, -90 to 90.
    pub latitude: f64,
    /// Degrees, -180 to 180.
    pub longitude: f64,
}

impl NewImodel {
    /// What identifies it until its id is known: its iTwin and its name, as text for messages. Never an id of the
    /// platform.
    #[must_use]
    pub fn key(&self) -> ImodelId {
        key(&self.itwin_id, &self.name)
    }
}

impl Imodel {
    /// What to create, while its id is not known.
    #[must_use]
    pub fn unknown(&self) -> Option<&NewImodel> {
        self.create.as_ref().filter(|new| new.key() == self.id)
    }
}

/// Ids of created iModels, by [`NewImodel::key`].
pub type KnownImodels = BTreeMap<ImodelId, ImodelId>;

impl Config {
    /// Uses the ids of iModels that were created.
    pub fn know_imodels(&mut self, known: &KnownImodels) {
        let ids = self.watches.iter_mut().map(|watch| &mut watch.imodel_id);
        let ids = ids.chain(self.imodels.iter_mut().map(|imodel| &mut imodel.id));
        let settings = self.connection_settings.iter_mut();
        for id in ids.chain(settings.map(|settings| &mut settings.imodel_id)) {
            if let Some(known) = known.get(id) {
                id.clone_from(known);
            }
        }
        for (key, id) in known {
            if let Some(schedule) = self.run_schedules.remove(key) {
                self.run_schedules.entry(id.clone()).or_insert(schedule);
            }
        }
    }

    /// What has to be created for a watch, and has no id yet.
    pub fn unknown_imodels(&self) -> impl Iterator<Item = &NewImodel> {
        let unknown = self.imodels.iter().filter_map(Imodel::unknown);
        unknown.filter(|new| {
            let key = new.key();
            self.watches.iter().any(|watch| watch.imodel_id == key)
        })
    }

    /// Whether the configuration names this iModel instead of having its id.
    #[must_use]
    pub fn is_created(&self, imodel_id: &ImodelId) -> bool {
        let mut imodels = self.imodels.iter();
        imodels.any(|imodel| imodel.id == *imodel_id && imodel.create.is_some())
    }
}

fn key(itwin_id: &str, name: &str) -> ImodelId {
    format!("{name:?} in iTwin {itwin_id}").into()
}

/// The keys of the iModels that tables create, by name; also of tables with errors, which are reported elsewhere.
pub(super) fn keys_by_name(tables: &[&Spanned<DeValue<'_>>]) -> BTreeMap<String, ImodelId> {
    let keys = tables.iter().filter_map(|table| {
        let create = table.get_ref().get("create")?.get_ref();
        let name = create.get("name")?.get_ref().as_str()?.to_owned();
        let itwin_id = create.get("itwin_id").map(Spanned::get_ref);
        let itwin_id = itwin_id.and_then(|id| values::uuid(id).ok());
        let key = key(&itwin_id.unwrap_or_default(), &name);
        Some((name, key))
    });
    keys.collect()
}

/// Reads the key.
pub(super) fn new_imodel(value: &DeValue<'_>) -> Result<NewImodel, InvalidValue> {
    known_keys(value, "create", &["itwin_id", "name", "extent"], EXAMPLE)?;
    let itwin_id = values::uuid(member(value, "create", "itwin_id", EXAMPLE)?)
        .map_err(|bad| InvalidValue::new(format!("itwin_id: {}", bad.what), ITWIN_ID))?;
    let name = values::line(member(value, "create", "name", EXAMPLE)?)
        .map_err(|bad| InvalidValue::new(format!("name: {}", bad.what), EXAMPLE))?;
    let length = name.chars().count();
    if length > NAME_MAX {
        return Err(InvalidValue::new(
            format!("name: it has {length} characters"),
            format!("write a name of at most {NAME_MAX} characters"),
        ));
    }
    let extent = value
        .get("extent")
        .map(|extent| read_extent(extent.get_ref()));
    Ok(NewImodel {
        itwin_id,
        name,
        extent: extent.transpose()?,
    })
}

/// What a wrong id of an iTwin needs.
const ITWIN_ID: &str =
    "copy the id of the iTwin from its page: 32 hexadecimal digits in five groups";

fn read_extent(value: &DeValue<'_>) -> Result<Extent, InvalidValue> {
    known_keys(value, "extent", &["south_west", "north_east"], EXTENT)?;
    let corner = |key| {
        let corner = member(value, "extent", key, EXTENT)?;
        known_keys(corner, key, &["latitude", "longitude"], EXTENT)?;
        let degrees = |what, most| degrees(member(corner, key, what, EXTENT)?, what, most);
        Ok(Position {
            latitude: degrees("latitude", 90.0)?,
            longitude: degrees("longitude", 180.0)?,
        })
    };
    let extent = Extent {
        south_west: corner("south_west")?,
        north_east: corner("north_east")?,
    };
    if extent.south_west.latitude > extent.north_east.latitude {
        return Err(InvalidValue::new(
            "extent: south_west is north of north_east",
            "exchange the two latitudes",
        ));
    }
    Ok(extent)
}

fn degrees(value: &DeValue<'_>, what: &str, most: f64) -> Result<f64, InvalidValue> {
    let number = match value {
        DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        _ => None,
    };
    number
        .filter(|number| (-most..=most).contains(number))
        .ok_or_else(|| {
            InvalidValue::new(
                format!("extent: invalid {what}"),
                format!("write a number of degrees from -{most} to {most}"),
            )
        })
}

fn member<'v>(
    value: &'v DeValue<'v>,
    table: &str,
    key: &str,
    hint: &str,
) -> Result<&'v DeValue<'v>, InvalidValue> {
    value
        .get(key)
        .map(Spanned::get_ref)
        .ok_or_else(|| InvalidValue::new(format!("{table} has no {key}"), hint))
}

fn known_keys(
    value: &DeValue<'_>,
    table: &str,
    known: &[&str],
    hint: &str,
) -> Result<(), InvalidValue> {
    let Some(keys) = value.as_table() else {
        let what = format!("{table} is not a table");
        return Err(InvalidValue::new(what, hint));
    };
    match keys
        .keys()
        .find(|key| !known.contains(&key.get_ref().as_ref()))
    {
        Some(key) => Err(InvalidValue::new(
            format!("unknown key {:?} in {table}", key.get_ref()),
            hint,
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITWIN: &str = "9a1f4e4c-54b7-4a3e-8d4e-0123456789ab";

    fn read(create: &str) -> Result<NewImodel, String> {
        let text = format!("create = {create}");
        let table = toml::de::DeTable::parse(&text).unwrap();
        let read = new_imodel(table.get_ref()["create"].get_ref());
        read.map_err(|bad| format!("{}; {}", bad.what, bad.hint.unwrap_or_default()))
    }

    #[test]
    fn bounds_of_name_and_extent_are_checked() {
        let of = |rest: &str| format!("{{ itwin_id = \"{ITWIN}\", {rest} }}");
        let extent = |numbers: [&str; 4]| {
            let [south, west, north, east] = numbers;
            of(&format!(
                "name = \"Plant\", extent = {{ south_west = {{ latitude = {south}, longitude = {west} }}, \
                 north_east = {{ latitude = {north}, longitude = {east} }} }}"
            ))
        };
        let long = "ä".repeat(255);
        for (create, expected) in [
            (of("name = \"Plant\""), ""),
            (of(&format!("name = \"{long}\"")), ""),
            (of(&format!("name = \"{long}x\"")), "256 characters"),
            (of("name = \"\""), "name: must not be empty"),
            (of("name = 7"), "name: expected a string"),
            (of("title = \"Plant\""), "unknown key \"title\""),
            (
                format!("{{ itwin_id = \"{ITWIN}\" }}"),
                "create has no name",
            ),
            ("{ name = \"Plant\" }".to_owned(), "create has no itwin_id"),
            (
                "{ itwin_id = \"x\", name = \"Plant\" }".to_owned(),
                "itwin_id: invalid UUID",
            ),
            ("true".to_owned(), "create is not a table"),
            (extent(["46", "7.1", "46.3", "7.4"]), ""),
            (extent(["-90", "-180", "90.0", "180"]), ""),
            // Over the date line.
            (extent(["-18", "177", "-16", "-178"]), ""),
            (
                extent(["46", "7", "45", "8"]),
                "south_west is north of north_east",
            ),
            (extent(["90.1", "7", "91", "8"]), "invalid latitude"),
            (extent(["46", "-181", "47", "8"]), "invalid longitude"),
            (extent(["nan", "7", "47", "8"]), "invalid latitude"),
            (extent(["\"46\"", "7", "47", "8"]), "invalid latitude"),
            (
                of("name = \"Plant\", extent = { south_west = 1 }"),
                "south_west is not a table",
            ),
            (
                of("name = \"Plant\", extent = {}"),
                "extent has no south_west",
            ),
        ] {
            match read(&create) {
                Ok(_) => assert_eq!(expected, "", "{create}"),
                Err(found) => assert!(
                    !expected.is_empty() && found.contains(expected),
                    "{create}: {found}"
                ),
            }
        }
    }
}
