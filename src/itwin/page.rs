//! A page of a list, decoded item by item, without a copy of everything else in it.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::limits::ITEMS_MAX;

/// A page of a list.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Whether there can be another page.
    pub(super) more: bool,
}

/// Decodes a page and skips everything but its items.
pub(super) struct PageSeed<'a, T> {
    pub(super) field: &'a str,
    pub(super) items: std::marker::PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for PageSeed<'_, T> {
    type Value = (Option<Vec<T>>, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for PageSeed<'_, T> {
    type Value = (Option<Vec<T>>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Links {
            next: Option<IgnoredAny>,
        }
        let (mut items, mut more) = (None, true);
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                items = map.next_value::<Option<Items<T>>>()?.map(|items| items.0);
            } else if key == "_links" {
                let links = map.next_value::<Option<Links>>()?;
                more = links.is_none_or(|links| links.next.is_some());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((items, more))
    }
}

/// The items of a page, limited in number.
struct Items<T>(Vec<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sequence<T>(std::marker::PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Sequence<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Items<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = sequence.next_element()? {
                    if items.len() == ITEMS_MAX {
                        return Err(serde::de::Error::custom(format_args!(
                            "a page has more than {ITEMS_MAX} items"
                        )));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Sequence(std::marker::PhantomData))
    }
}
