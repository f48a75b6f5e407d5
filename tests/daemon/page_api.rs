//! The HTTP API of the page, as scripts use it, compared with its specification.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::page::{PATIENCE, TOKEN, address, site, status};
use crate::support::{Daemon, Site, write};

const SPECIFICATION: &str = include_str!("../../docs/openapi.json");

/// A page with a token, two files that fail for one reason, and one that is synchronized.
async fn failing_site() -> (Site, Daemon, String) {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut site, folder) = site().await;
    let token = site.path("token");
    write(&token, TOKEN);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.tables += &format!("token_file = {token:?}\n");
    for (name, content) in [("house.ifc", "house"), ("a.ifc", ""), ("b.ifc", "")] {
        write(&folder.join(name), content);
    }
    let daemon = site.start();
    let address = address(&daemon).await;
    (site, daemon, address)
}

/// What is wrong with a value, compared with a schema of the specification.
fn mismatch(specification: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    let inner =
        |schema: &Value, value: &Value, place: &str| mismatch(specification, schema, value, place);
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').unwrap();
        return inner(specification.pointer(pointer).unwrap(), value, place);
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().find_map(|one| inner(one, value, place));
    }
    if let Some(any) = schema["oneOf"].as_array() {
        let wrong: Vec<_> = any.iter().map(|one| inner(one, value, place)).collect();
        return wrong
            .iter()
            .all(Option::is_some)
            .then(|| format!("{wrong:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{place}: a schema without a type: {schema}"),
    };
    let fits = kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number");
    if !fits {
        return Some(format!("{place} is {kind}, not {kinds:?}"));
    }
    if let Some(values) = value.as_array() {
        return values
            .iter()
            .find_map(|one| inner(&schema["items"], one, place));
    }
    let fields = value.as_object()?;
    let known = schema["properties"].as_object()?;
    let required = schema["required"].as_array().into_iter().flatten();
    let missing = required
        .filter_map(Value::as_str)
        .find(|name| !fields.contains_key(*name));
    if let Some(name) = missing {
        return Some(format!("{place}.{name} is missing"));
    }
    fields
        .iter()
        .find_map(|(name, value)| match known.get(name) {
            Some(schema) => inner(schema, value, &format!("{place}.{name}")),
            None => Some(format!("{place}.{name} is not documented")),
        })
}

struct Api<'a> {
    address: &'a str,
    specification: Value,
    /// Operations that were used.
    used: BTreeSet<(String, String)>,
}

impl Api<'_> {
    /// Sends a request, checks the answer against the operation's documentation, and returns it.
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        url: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let http = reqwest::Client::new();
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let mut request = http
            .request(
                verb,
                format!("{}{}", self.address, url.trim_start_matches('/')),
            )
            .bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let answered: Value = answer.json().await.unwrap();
        self.used.insert((method.to_owned(), path.to_owned()));
        let responses = &self.specification["paths"][path][method]["responses"];
        let response = &responses[&status.to_string()];
        let response = match response["$ref"].as_str() {
            Some(name) => self
                .specification
                .pointer(name.strip_prefix('#').unwrap())
                .unwrap(),
            None => response,
        };
        let schema = &response["content"]["application/json"]["schema"];
        assert!(
            schema.is_object(),
            "{method} {path}: {status} is not documented"
        );
        let wrong = mismatch(&self.specification, schema, &answered, url);
        assert_eq!(wrong, None, "{method} {url}: {answered:#}");
        (status, answered)
    }

    async fn get(&mut self, path: &str, url: &str) -> (u16, Value) {
        self.ask("get", path, url, None).await
    }

    async fn post(&mut self, path: &str, body: Value) -> (u16, Value) {
        self.ask("post", path, path, Some(body)).await
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one request per route")]
async fn the_api_answers_as_its_specification_says() {
    let (site, daemon, address) = failing_site().await;
    let mut api = Api {
        address: &address,
        specification: serde_json::from_str(SPECIFICATION).unwrap(),
        used: BTreeSet::new(),
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let state = loop {
        let (code, state) = api.get("/api/v1/status", "/api/v1/status").await;
        assert_eq!(code, 200);
        let files = &state["watches"][0]["files"];
        let named = state["places"][0]["imodel_name"].is_string();
        if files["failed"] == 2 && files["synchronized"] == 1 && named {
            break state;
        }
        assert!(tokio::time::Instant::now() < deadline, "{state:#}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(state["ok"], false, "{state:#}");
    let place = &state["places"][0];
    assert_eq!(place["imodel_name"], "Emulated iModel");
    assert_eq!(place["folder"], site.path("north").to_str().unwrap());
    assert_eq!(
        place["portal_url"],
        Value::Null,
        "the emulator has no portal"
    );
    let group = &state["failure_groups"][0];
    assert_eq!(
        (&group["failed"], &group["text"]),
        (&json!(2), &json!("2 files: it is empty"))
    );

    let list = "/api/v1/files";
    let (_, first) = api.get(list, "/api/v1/files?state=failed&limit=1").await;
    assert_eq!(first["files"].as_array().unwrap().len(), 1, "{first:#}");
    let next = first["next"].as_str().unwrap();
    let (_, second) = api
        .get(list, &format!("{list}?state=failed&limit=1&after={next}"))
        .await;
    assert_ne!(first["files"][0]["path"], second["files"][0]["path"]);
    assert_eq!(second["next"], Value::Null, "{second:#}");
    let key = group["key"].as_str().unwrap();
    let (_, of_group) = api.get(list, &format!("{list}?group={key}")).await;
    assert_eq!(
        of_group["files"].as_array().unwrap().len(),
        2,
        "{of_group:#}"
    );
    let (_, found) = api
        .get(list, &format!("{list}?search=HOUSE&watch=north"))
        .await;
    assert_eq!(found["files"][0]["path"], "house.ifc", "{found:#}");
    let (_, open) = api.get(list, &format!("{list}?state=open")).await;
    assert_eq!(open["files"], json!([]));
    let id = found["files"][0]["id"].as_str().unwrap();
    let (_, file) = api.get("/api/v1/files/{id}", &format!("{list}/{id}")).await;
    assert!(file["history"].as_array().unwrap().len() >= 3, "{file:#}");
    let (_, history) = api.get("/api/v1/history", "/api/v1/history?days=2").await;
    let days = history["days"].as_array().unwrap();
    assert_eq!(days.len(), 2);
    assert_eq!(days[1]["results"]["failed"], 2, "{history:#}");
    assert_eq!(days[1]["runs"], 1, "{history:#}");
    let (_, document) = api
        .get("/api/v1/openapi.json", "/api/v1/openapi.json")
        .await;
    assert_eq!(document, api.specification);

    for path in ["rescan", "pause", "resume", "sync"] {
        let path = format!("/api/v1/{path}");
        let (code, done) = api.post(&path, json!({"watches": ["north"]})).await;
        assert_eq!((code, &done["count"]), (200, &json!(1)), "{path}");
        let (code, refused) = api.post(&path, json!({"watches": ["nroth"]})).await;
        assert_eq!(code, 404, "{path}");
        assert_eq!(refused["error"], "unknown watch \"nroth\"");
        assert_eq!(refused["hint"], "the watches are \"north\"");
        assert_eq!(api.post(&path, json!({"watches": []})).await.0, 400);
    }
    let retry = "/api/v1/retry";
    for body in [
        json!({}),
        json!({"files": ["x"]}),
        json!({"group": key, "all_failed": true}),
    ] {
        assert_eq!(api.post(retry, body.clone()).await.0, 400, "{body}");
    }
    assert_eq!(api.post(retry, json!({"everything": true})).await.0, 422);
    for bad in [
        "limit=0",
        "limit=201",
        "state=x",
        "after=x",
        "sate=failed",
        "group=x&state=all",
    ] {
        assert_eq!(
            api.get(list, &format!("{list}?{bad}")).await.0,
            400,
            "{bad}"
        );
    }
    assert_eq!(
        api.get("/api/v1/history", "/api/v1/history?days=91")
            .await
            .0,
        400
    );
    assert_eq!(
        api.get("/api/v1/files/{id}", "/api/v1/files/1").await.0,
        404
    );
    assert_eq!(
        api.post(retry, json!({"all_failed": true})).await.1["count"],
        2
    );

    // Every operation was used but the stream, which other tests use.
    let paths = api.specification["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(move |method| (method.clone(), path.clone()))
    });
    let all: BTreeSet<_> = all.filter(|(_, path)| path != "/api/v1/events").collect();
    assert_eq!(all, api.used);
    daemon.stop().await;
}

#[tokio::test]
async fn a_script_with_a_bearer_token_retries_a_group_and_learns_what_it_did_wrong() {
    let (site, daemon, address) = failing_site().await;
    let http = reqwest::Client::new();
    let state = async || -> Value {
        let request = http
            .get(format!("{address}api/v1/status"))
            .bearer_auth(TOKEN);
        request.send().await.unwrap().json().await.unwrap()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let key = loop {
        let state = state().await;
        if state["failure_groups"][0]["failed"] == 2 {
            break state["failure_groups"][0]["key"]
                .as_str()
                .unwrap()
                .to_owned();
        }
        assert!(tokio::time::Instant::now() < deadline, "{state:#}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let post = || {
        http.post(format!("{address}api/v1/retry"))
            .json(&json!({"group": key}))
    };
    let evil = post()
        .bearer_auth(TOKEN)
        .header("origin", "http://evil.example");
    assert_eq!(status(evil).await, 403);
    assert_eq!(status(post().basic_auth("me", Some(TOKEN))).await, 403);
    let retried = post().bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(retried.json::<Value>().await.unwrap(), json!({"count": 2}));

    // Errors are JSON, and browsers ask for no password: the page does.
    for (request, code) in [
        (http.get(format!("{address}api/v1/status")), 401),
        (
            http.get(format!("{address}api/v1/status?token={TOKEN}")),
            401,
        ),
        (
            http.get(format!("{address}api/v2/status"))
                .bearer_auth(TOKEN),
            404,
        ),
        (
            http.put(format!("{address}api/v1/retry"))
                .bearer_auth(TOKEN),
            405,
        ),
        (
            post().bearer_auth(TOKEN).header("host", "evil.example"),
            421,
        ),
        (
            http.post(format!("{address}api/v1/retry"))
                .bearer_auth(TOKEN)
                .body("{}"),
            415,
        ),
        // The client reads why, although it had not sent all when the limit was reached.
        (post().bearer_auth(TOKEN).body(vec![b' '; 3 << 20]), 413),
        (post().bearer_auth(TOKEN).body("{"), 400),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), code);
        if let Some(challenge) = answer.headers().get("www-authenticate") {
            assert!(challenge.to_str().unwrap().starts_with("Bearer "));
        }
        let problem: Value = answer.json().await.unwrap();
        assert!(
            problem["error"].is_string() && problem["hint"].is_string(),
            "{code} {problem}"
        );
    }
    let (_, log) = daemon.stop().await;
    assert!(!log.contains(TOKEN), "{log}");
    drop(site);
}
