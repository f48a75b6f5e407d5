//! The JSON Schema of what commands print: generated from the types, and compared with `docs/output-schema.json`.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

use super::{
    alert, check, connectors, detach, explain, healthcheck, json, operate, orphans, plan, push,
    run, status,
};

/// A command, and the schema of its object.
fn commands(generator: &mut SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
    vec![
        ("status --json", generator.subschema_for::<status::Whole>()),
        (
            "status FILE --json",
            generator.subschema_for::<status::JsonHistories<'_>>(),
        ),
        (
            "run --once --json",
            generator.subschema_for::<run::Whole<'_>>(),
        ),
        (
            "run --dry-run --json",
            generator.subschema_for::<plan::Plan>(),
        ),
        ("check --json", generator.subschema_for::<check::Checks>()),
        (
            "explain PATH --json",
            generator.subschema_for::<explain::Explained>(),
        ),
        (
            "connectors --json",
            generator.subschema_for::<connectors::List>(),
        ),
        (
            "retry, forget, restore, rescan, pause, resume, sync --json",
            generator.subschema_for::<operate::Executed>(),
        ),
        ("push --json", generator.subschema_for::<push::Whole<'_>>()),
        (
            "orphans --json",
            generator.subschema_for::<orphans::Orphans>(),
        ),
        (
            "detach --json",
            generator.subschema_for::<detach::Detached>(),
        ),
        (
            "healthcheck --json",
            generator.subschema_for::<healthcheck::Health>(),
        ),
        (
            "alert test --json",
            generator.subschema_for::<alert::Delivery>(),
        ),
    ]
}

fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let any_of: Vec<Value> = commands(&mut generator)
        .into_iter()
        .map(|(command, schema)| {
            let mut one = schema.to_value();
            one["title"] = json!(command);
            one
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "JSON output of itwin-syncd",
        "description": format!(
            "Version {}. The version increases when a field changes its meaning or is removed; new fields may be added at \
             any time. docs/status.md explains the fields.",
            json::VERSION
        ),
        "anyOf": any_of,
        "$defs": generator.take_definitions(true),
    })
}

#[test]
fn the_documented_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/output-schema.json");
    let generated = format!("{:#}\n", schema());
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(path, &generated).unwrap();
    }
    let documented = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        documented, generated,
        "run this test with INSTA_UPDATE=always, and review the difference"
    );
}
