//! Differences in the shape of two JSON values: missing properties and other types. Values are not compared.

use std::collections::BTreeMap;

use serde_json::Value;

/// Differences in shape between a response of the platform and one of the emulator.
pub(super) fn shape_differences(theirs: &Value, ours: &Value) -> Vec<String> {
    let (mut there, mut here) = (BTreeMap::new(), BTreeMap::new());
    shape(theirs, "", &mut there);
    shape(ours, "", &mut here);
    let mut differences = Vec::new();
    for (path, kind) in &there {
        match here.get(path) {
            None if is_known_below(&here, path) => {
                differences.push(format!("the emulator lacks {path}"));
            }
            Some(other) if other != kind && *other != "null" && *kind != "null" => {
                differences.push(format!(
                    "{path} is {kind} on the platform, {other} in the emulator"
                ));
            }
            _ => {}
        }
    }
    let missing = here.keys().filter(|path| !there.contains_key(*path));
    let missing = missing.filter(|path| is_known_below(&there, path));
    differences.extend(missing.map(|path| format!("the platform lacks {path}")));
    differences
}

/// Paths of all properties with the types of their values; all items of a list share one path.
fn shape(json: &Value, path: &str, found: &mut BTreeMap<String, &'static str>) {
    let kind = match json {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    found.entry(path.to_owned()).or_insert(kind);
    match json {
        Value::Array(items) => {
            for item in items {
                shape(item, &format!("{path}[]"), found);
            }
        }
        Value::Object(properties) => {
            for (name, value) in properties {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                shape(value, &path, found);
            }
        }
        _ => {}
    }
}

/// Whether the parent of a property is present: an empty list or null says nothing about its content.
fn is_known_below(shape: &BTreeMap<String, &'static str>, path: &str) -> bool {
    let parent = match path.rsplit_once('.') {
        Some((parent, _)) => parent,
        None => "",
    };
    if path.ends_with("[]") {
        return false;
    }
    shape.get(parent) == Some(&"an object")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shape_is_known_as_far_as_there_is_something() {
        let mut found = BTreeMap::new();
        shape(
            &json!({ "a": [{ "b": 1 }], "c": [], "d": null }),
            "",
            &mut found,
        );
        let paths: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(paths, ["", "a", "a[]", "a[].b", "c", "d"]);
        for (path, expected) in [
            ("e", true),
            ("a[].x", true),
            ("c[].x", false),
            ("d.x", false),
            ("a[]", false),
        ] {
            assert_eq!(is_known_below(&found, path), expected, "{path}");
        }
    }
}
