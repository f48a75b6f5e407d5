//! The JSON of every command: it has the documented schema, no field beyond it, and no character of a file name that a
//! terminal interprets.

use serde_json::{Value, json};

use crate::support::{Finished, Site, platform, write};

const SCHEMA: &str = include_str!("../../docs/output-schema.json");

/// A name that would clear the screen and reverse what follows.
const HOSTILE: &str = "evil\u{202e}cfi.\u{1b}[2J\u{9b}31m.ifc";

/// Compares a value with a schema of this document, as far as its keywords go; a field that is not documented counts as
/// well.
fn compare(at: &str, value: &Value, schema: &Value, definitions: &Value, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        return compare(at, value, &definitions[name], definitions, found);
    }
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let fits = |choice: &Value| {
            let mut wrong = Vec::new();
            compare(at, value, choice, definitions, &mut wrong);
            wrong.is_empty()
        };
        if !choices.iter().any(fits) {
            found.push(format!("{at}: {value} is none of {choices:?}"));
        }
        return;
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let is = match value {
        Value::Null => &["null"][..],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => &["integer", "number"],
        Value::String(_) => &["string"],
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    };
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    if types != [Value::Null] && !types.iter().any(|one| is.iter().any(|is| one == is)) {
        found.push(format!("{at}: {value} is no {types:?}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        compare(
            &format!("{at}/{index}"),
            item,
            &schema["items"],
            definitions,
            found,
        );
    }
    let Some(object) = value.as_object() else {
        return;
    };
    let fields = schema["properties"].as_object();
    for required in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(required.as_str().unwrap()) {
            found.push(format!("{at}: {required} is missing"));
        }
    }
    for (name, value) in object {
        match fields.and_then(|fields| fields.get(name)) {
            Some(field) => compare(&format!("{at}/{name}"), value, field, definitions, found),
            None => found.push(format!("{at}: {name} is not documented")),
        }
    }
}

/// The object that a command printed, which has its documented schema.
fn object(title: &str, printed: &Finished) -> Value {
    let value: Value =
        serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{title}: {printed:?}"));
    let document: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut all = document["anyOf"].as_array().unwrap().iter();
    let schema = all.find(|one| one["title"] == title);
    let schema = schema.unwrap_or_else(|| panic!("{title} is not documented"));
    let mut found = Vec::new();
    compare("", &value, schema, &document["$defs"], &mut found);
    assert!(found.is_empty(), "{title}: {found:#?}\n{value:#}");
    assert_eq!(value["version"], 1, "{title}");
    value
}

#[test]
fn what_is_not_documented_is_found() {
    let document: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = &document["$defs"]["Health"];
    let good = json!({ "version": 1, "ok": true, "reason": null, "hint": null });
    let check = |value: &Value| {
        let mut found = Vec::new();
        compare("", value, schema, &document["$defs"], &mut found);
        found
    };
    assert!(check(&good).is_empty(), "{:?}", check(&good));
    for (name, value) in [
        ("ok", json!("yes")),
        ("version", json!(null)),
        ("more", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[name] = value;
        assert_eq!(check(&bad).len(), 1, "{name}");
    }
    let missing = json!({ "version": 1, "ok": true, "reason": null });
    assert_eq!(check(&missing).len(), 1);
}

fn assert_visible(what: &str, printed: &Finished) {
    for text in [&printed.out, &printed.err] {
        let raw = text.chars().find(|letter| {
            (letter.is_control() && *letter != '\n') || ('\u{202a}'..='\u{202e}').contains(letter)
        });
        assert_eq!(raw, None, "{what}: {printed:?}");
    }
}

#[tokio::test]
async fn every_command_prints_the_documented_json_and_no_raw_characters_of_names() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    write(&folder.join(HOSTILE), "evil");
    write(&folder.join(format!("{HOSTILE}.tmp")), "ignored");
    let hostile = folder.join(HOSTILE);
    let hostile = hostile.to_str().unwrap();
    let both = async |site: &Site, title: &str, arguments: &[&str]| {
        let text = site.run(arguments).await;
        assert_visible(title, &text);
        let printed = site.run(&[arguments, &["--json"]].concat()).await;
        assert_visible(title, &printed);
        assert_eq!(printed.code, text.code, "{title}: {printed:?} {text:?}");
        object(title, &printed)
    };
    let plan = both(&site, "run --dry-run --json", &["run", "--dry-run"]).await;
    assert_eq!(plan["watches"][0]["files"].as_array().unwrap().len(), 3);
    assert_eq!(plan["ok"], false);
    let pass = site.run(&["run", "--once", "--json"]).await;
    assert_eq!(object("run --once --json", &pass)["ok"], false);
    both(&site, "check --json", &["check"]).await;
    let offline = both(&site, "check --json", &["check", "--offline"]).await;
    assert_eq!(offline["checks"].as_array().unwrap().len(), 1);
    both(&site, "orphans --json", &["orphans"]).await;

    let mut daemon = site.start();
    daemon.says("scan finished").await;
    let status = both(&site, "status --json", &["status"]).await;
    assert_eq!(status["watches"].as_array().unwrap().len(), 1);
    both(&site, "status --json", &["status", "--failed"]).await;
    both(&site, "status --json", &["status", "--all"]).await;
    both(&site, "status FILE --json", &["status", "house.ifc"]).await;
    both(&site, "status FILE --json", &["status", hostile]).await;
    let explained = both(&site, "explain PATH --json", &["explain", hostile]).await;
    assert_eq!(explained["paths"][0]["path"], hostile);
    both(
        &site,
        "explain PATH --json",
        &["explain", folder.to_str().unwrap()],
    )
    .await;
    let healthy = both(&site, "healthcheck --json", &["healthcheck"]).await;
    assert_eq!(healthy["ok"], true);
    let executed = "retry, forget, restore, rescan, pause, resume, sync --json";
    for (arguments, count) in [
        (&["retry", "--failed", "--dry-run"][..], 2),
        (&["retry", "house.ifc"], 0),
        (&["forget", hostile, "--dry-run"], 1),
        (&["restore", "house.ifc"], 0),
        (&["rescan"], 1),
        (&["sync"], 1),
        (&["pause", "--dry-run"], 1),
    ] {
        let done = both(&site, executed, arguments).await;
        assert_eq!(done["count"], count, "{arguments:?}: {done:#}");
    }
    let paused = site.run(&["pause", "--json"]).await;
    let paused = object(executed, &paused);
    assert_eq!(
        (&paused["by"], &paused["count"]),
        (&json!("daemon"), &json!(1))
    );
    let resumed = site.run(&["resume", "--json"]).await;
    assert_eq!(object(executed, &resumed)["watches"], json!(["north"]));
    daemon.signal("TERM");
    assert!(daemon.ends_within(std::time::Duration::from_secs(60)).await);

    let unhealthy = both(&site, "healthcheck --json", &["healthcheck"]).await;
    assert_eq!(unhealthy["ok"], false);
    let unsent = both(&site, "alert test --json", &["alert", "test", "team"]).await;
    assert_eq!(unsent["ok"], false);
    assert_eq!(unsent["alert"], "team");
    site.top = "settle = 5s\n".to_owned();
    let invalid = both(&site, "check --json", &["check"]).await;
    assert_eq!(invalid["ok"], false);
    let connectors = crate::support::program()
        .args(["connectors", "--json"])
        .output();
    object(
        "connectors --json",
        &Finished::from(connectors.await.unwrap()),
    );
}

#[tokio::test]
async fn push_and_orphans_print_the_documented_json() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("tower.ifc"), "tower");
    site.run(&["run", "--once"]).await;
    std::fs::remove_file(folder.join("tower.ifc")).unwrap();
    site.run(&["run", "--once"]).await;
    let listed = object("orphans --json", &site.run(&["orphans", "--json"]).await);
    assert_eq!(listed["orphans"].as_array().unwrap().len(), 1, "{listed:#}");
    site.add_to_watches("exclude = [\"x\"]\n");
    write(&site.path("pushed/a.ifc"), "pushed");
    let pushed = site.path("pushed/a.ifc");
    let imodel = itwin_syncd::emulator::DEFAULT_IMODEL_ID;
    let mut command = site.command(&[
        "push",
        pushed.to_str().unwrap(),
        "--imodel",
        imodel,
        "--json",
    ]);
    command.env("XDG_STATE_HOME", site.path("home"));
    let printed = Finished::from(command.output().await.unwrap());
    object("push --json", &printed);
}
