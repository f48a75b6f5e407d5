//! Every cell of the table in the emulator's documentation: each operation is brought to answer with each of its
//! statuses, and each switch is set to each of its words. At the end the table and what was seen must be the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use itwin_syncd::emulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID,
    DEFAULT_NATIVE_CLIENT_ID, Emulator, RunFault, Switches, TaskFault,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::support::{Platform, Seen, V1, base64, encoded, links, sha256};

const FORBIDDEN_ITWIN: &str = "22222222-2222-4333-8444-555555555555";
const FORBIDDEN_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const NOBODY: &str = "33333333-2222-4333-8444-555555555555";

#[tokio::test]
async fn every_cell_of_the_contract_is_seen_and_every_switch_was_set_to_every_word() {
    let seen = Arc::new(Seen::default());
    identity(&seen).await;
    what_all_operations_have_in_common(&seen).await;
    itwins(&seen).await;
    imodels(&seen).await;
    folders(&seen).await;
    files(&seen).await;
    uploads(&seen).await;
    recycle_bin(&seen).await;
    blobs(&seen).await;
    connections(&seen).await;
    source_files(&seen).await;
    runs(&seen).await;

    let cells = seen.cells.lock().unwrap().clone();
    let (table, switches) = table();
    let missing: Vec<_> = table.difference(&cells).collect();
    assert!(
        missing.is_empty(),
        "in the table, but not seen: {missing:#?}"
    );
    let extra: Vec<_> = cells.difference(&table).collect();
    assert!(extra.is_empty(), "seen, but not in the table: {extra:#?}");
    let set = seen.switches.lock().unwrap().clone();
    for (name, words) in Switches::ALL {
        assert!(switches.contains(*name), "{name} is not in the table");
        for word in words.iter().skip(1) {
            assert!(
                set.contains(&format!("{name}={word}")),
                "{name}={word} was never set"
            );
        }
    }
}

/// The table in the module's documentation: operations with their statuses, and the switches it names.
fn table() -> (BTreeSet<(String, u16)>, BTreeSet<String>) {
    let source = include_str!("../../src/emulator.rs");
    let (mut cells, mut switches) = (BTreeSet::new(), BTreeSet::new());
    for row in source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
    {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let operation = columns[0].trim_end_matches('`');
        for status in columns[1].split_whitespace() {
            cells.insert((operation.to_owned(), status.parse().unwrap()));
        }
        switches.extend(columns[2].split(", ").map(str::to_owned));
    }
    (cells, switches)
}

async fn platform(seen: &Arc<Seen>) -> Platform {
    let builder = Emulator::builder()
        .itwin(DEFAULT_ITWIN_ID, "Ours")
        .itwin(FORBIDDEN_ITWIN, "Theirs")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Ours")
        .imodel(FORBIDDEN_IMODEL, FORBIDDEN_ITWIN, "Theirs")
        .forbidden_imodel(FORBIDDEN_IMODEL)
        .forbidden_storage(FORBIDDEN_ITWIN)
        .run_duration(Duration::from_millis(200))
        .max_connections(4)
        .max_source_files(5)
        .page_size(3);
    Platform::seeing(builder, Arc::clone(seen)).await
}

async fn root(platform: &Platform) -> String {
    let top = platform
        .get(&format!("/storage/?iTwinId={DEFAULT_ITWIN_ID}"))
        .await
        .ok(200);
    let href = top["_links"]["folder"]["href"].as_str().unwrap();
    href.rsplit('/').next().unwrap().to_owned()
}

async fn identity(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let discovery = platform
        .get("/.well-known/openid-configuration")
        .await
        .ok(200);
    let issuer = platform.emulator.issuer_url();
    assert_eq!(discovery["issuer"], issuer);
    assert_eq!(
        discovery["token_endpoint"],
        format!("{issuer}/connect/token")
    );
    platform.get("/.well-known/jwks").await.ok(200);

    let service = [
        ("grant_type", "client_credentials"),
        ("client_id", DEFAULT_CLIENT_ID),
        ("client_secret", DEFAULT_CLIENT_SECRET),
        ("scope", "itwin-platform"),
    ];
    let granted = platform.form("/connect/token", &service).await.ok(200);
    assert_eq!(granted["expires_in"], 3600);
    assert_eq!(granted["token_type"], "Bearer");
    assert!(granted["refresh_token"].is_null());
    let token = granted["access_token"].as_str().unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["scope"], json!(["itwin-platform"]));
    assert!(claims["exp"].as_i64().unwrap() > claims["iat"].as_i64().unwrap());

    let with = |name: &'static str, value: &'static str| {
        let mut form = service;
        form.iter_mut()
            .filter(|field| field.0 == name)
            .for_each(|field| field.1 = value);
        form
    };
    for (form, error) in [
        (with("client_secret", "wrong"), "invalid_client"),
        (with("client_id", "nobody"), "invalid_client"),
        (
            with("client_id", DEFAULT_NATIVE_CLIENT_ID),
            "unauthorized_client",
        ),
        (with("scope", "openid itwin-platform"), "invalid_scope"),
        (with("scope", ""), "invalid_scope"),
        (with("grant_type", "password"), "unsupported_grant_type"),
    ] {
        platform.form("/connect/token", &form).await.is(400, error);
    }
    platform
        .form("/connect/token", &service[1..])
        .await
        .is(400, "invalid_request");
    let older = with("scope", "storage:read storage:modify");
    platform.form("/connect/token", &older).await.ok(200);

    let basic = |id: &str, secret: &str| {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")))
    };
    let ask_with_basic = async |header: String| {
        let form = "grant_type=client_credentials&scope=itwin-platform";
        let headers = [("authorization", header.as_str())];
        let url = format!("{issuer}/connect/token");
        let request = platform
            .http
            .post(url)
            .header("authorization", headers[0].1);
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        request.send().await.unwrap()
    };
    let encoded_id = encoded(DEFAULT_CLIENT_ID);
    assert_eq!(
        ask_with_basic(basic(&encoded_id, DEFAULT_CLIENT_SECRET))
            .await
            .status(),
        200
    );
    let denied = ask_with_basic(basic(&encoded_id, "wrong")).await;
    assert_eq!(denied.status(), 401);
    assert!(denied.headers().contains_key("www-authenticate"));
    seen.cells
        .lock()
        .unwrap()
        .insert(("POST /connect/token".to_owned(), 401));

    people(&platform).await;

    let introspect = |token: &str| {
        let fields = [
            ("client_id", DEFAULT_CLIENT_ID),
            ("client_secret", DEFAULT_CLIENT_SECRET),
        ];
        let mut form: Vec<(String, String)> = fields
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        form.push(("token".to_owned(), token.to_owned()));
        form
    };
    for (token, active) in [(token, true), ("stale", false)] {
        let form = introspect(token);
        let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let told = platform.form("/connect/introspect", &form).await.ok(200);
        assert_eq!(told["active"], active);
    }
    platform
        .form("/connect/introspect", &[("token", token)])
        .await
        .is(400, "invalid_request");
}

/// Signing in as a person: a code, its exchange, and refresh tokens that rotate.
async fn people(platform: &Platform) {
    let verifier = "a-verifier-of-at-least-forty-three-characters-in-all";
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    let redirect = "http://localhost:3301/signin-callback";
    let authorize = |client: &str, kind: &str, method: &str| {
        format!(
            "/connect/authorize?response_type={kind}&client_id={client}&redirect_uri={}&state=s1\
             &scope=itwin-platform+offline_access&code_challenge={challenge}&code_challenge_method={method}",
            encoded(redirect)
        )
    };
    let native = DEFAULT_NATIVE_CLIENT_ID;
    let sent_back = async |path: String| {
        let answer = platform.get(&path).await;
        assert_eq!(answer.status, 302);
        let location = url::Url::parse(answer.header("location")).unwrap();
        assert!(location.as_str().starts_with(redirect));
        location
            .query_pairs()
            .into_owned()
            .collect::<std::collections::HashMap<_, _>>()
    };
    platform
        .get(&authorize("nobody", "code", "S256"))
        .await
        .is(400, "unauthorized_client");
    platform
        .get("/connect/authorize?redirect_uri=nonsense")
        .await
        .is(400, "invalid_request");
    assert_eq!(
        sent_back(authorize(native, "token", "S256")).await["error"],
        "unsupported_response_type"
    );
    assert_eq!(
        sent_back(authorize(native, "code", "plain")).await["error"],
        "invalid_request"
    );
    let back = sent_back(authorize(native, "code", "S256")).await;
    assert_eq!(back["state"], "s1");

    let exchange = |code: &str, verifier: &str| {
        [
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", redirect.to_owned()),
            ("client_id", native.to_owned()),
            ("code_verifier", verifier.to_owned()),
        ]
    };
    let form = async |fields: &[(&str, String)]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (*a, b.as_str())).collect();
        platform.form("/connect/token", &fields).await
    };
    let granted = form(&exchange(&back["code"], verifier)).await.ok(200);
    form(&exchange(&back["code"], verifier))
        .await
        .is(400, "invalid_grant");
    let other = sent_back(authorize(native, "code", "S256")).await;
    form(&exchange(&other["code"], "another verifier"))
        .await
        .is(400, "invalid_grant");

    let refresh = |token: &Value, client: &str| {
        [
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", token.as_str().unwrap().to_owned()),
            ("client_id", client.to_owned()),
        ]
    };
    let first = &granted["refresh_token"];
    form(&refresh(first, "nobody"))
        .await
        .is(400, "invalid_grant");
    let renewed = form(&refresh(first, native)).await.ok(200);
    form(&refresh(first, native)).await.is(400, "invalid_grant");
    let second = &renewed["refresh_token"];
    assert_ne!(first, second);
    platform.switch("refresh-token", "kept");
    for _ in 0..2 {
        let renewed = form(&refresh(second, native)).await.ok(200);
        assert!(renewed["refresh_token"].is_null());
    }
    platform.switches_off();
}

async fn what_all_operations_have_in_common(seen: &Arc<Seen>) {
    let mut platform = platform(seen).await;
    let top = format!("/storage?iTwinId={DEFAULT_ITWIN_ID}");
    let bare = |headers: &'static [(&'static str, &'static str)]| {
        let url = format!("{}{top}", platform.emulator.api_url());
        let mut request = platform.http.get(url).header("accept", V1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap();
            (
                status,
                body["error"]["code"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        }
    };
    let is = |code: &str| (401, code.to_owned());
    assert_eq!(bare(&[]).await, is("HeaderNotFound"));
    assert_eq!(
        bare(&[("authorization", "Basic abc")]).await,
        is("InvalidAuthorizationScheme")
    );
    assert_eq!(
        bare(&[("authorization", "Bearer stale")]).await,
        is("Unauthorized")
    );

    let told = platform
        .ask_with(
            "GET",
            &top,
            Value::Null,
            &[("accept", V1), ("x-correlation-id", "abc-1")],
        )
        .await;
    assert_eq!(told.header("x-correlation-id"), "abc-1");
    assert_eq!(
        told.header("content-type"),
        "application/json; charset=utf-8"
    );
    told.ok(200);
    assert_eq!(
        platform.get(&top).await.header("x-correlation-id").len(),
        36
    );

    let accepting = async |accept: &str| {
        platform
            .ask_with("GET", &top, Value::Null, &[("accept", accept)])
            .await
    };
    for accept in [
        "application/vnd.bentley.itwin-platform.v9+json",
        "application/json",
        "text/html",
    ] {
        accepting(accept).await.is(404, "ResourceNotFound");
    }
    accepting("*/*").await.ok(200);
    accepting("application/json, */*").await.ok(200);
    platform.switch("accept-missing", "not-found");
    accepting("*/*").await.is(404, "ResourceNotFound");
    platform.switch("media-type", "vendor");
    assert_eq!(
        platform.get(&top).await.header("content-type"),
        format!("{V1}; charset=utf-8")
    );
    platform.switches_off();

    for path in [
        "/nothing",
        "//storage",
        "/storage//folders",
        "/storage/..%2f",
        "/",
        "/_emulator",
    ] {
        platform.get(path).await.is(404, "ResourceNotFound");
    }
    platform
        .ask("PUT", &top, json!({}))
        .await
        .is(404, "ResourceNotFound");
    platform
        .get(&top.to_uppercase().replace("ITWINID", "iTwinId"))
        .await
        .ok(200);
    let long = "x".repeat(2 * 1024 * 1024);
    platform
        .post("/itwins", Value::String(long))
        .await
        .is(413, "RequestTooLarge");

    let limited =
        Platform::seeing(Emulator::builder().requests_per_minute(3), Arc::clone(seen)).await;
    for _ in 0..2 {
        limited.get(&top).await.ok(200);
    }
    let refused = limited.get(&top).await;
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert!(!refused.header("itwinplatform-ratelimited-tier").is_empty());
    refused.is(429, "RateLimitExceeded");

    let short = Emulator::builder().token_lifetime(Duration::from_millis(150));
    platform = Platform::seeing(short, Arc::clone(seen)).await;
    platform.get(&top).await.ok(200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    platform.get(&top).await.is(401, "Unauthorized");
    platform.sign_in().await;
    platform.get(&top).await.ok(200);
}

async fn itwins(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let new = json!({ "displayName": "Bridge", "class": "Thing", "subClass": "Asset", "number": "b-1", "type": "T" });
    let made = platform.post("/itwins", new.clone()).await.ok(201)["iTwin"].clone();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made["displayName"], "Bridge");
    assert_eq!(made["status"], "Active");
    platform.post("/itwins", new).await.is(409, "iTwinExists");
    for wrong in [
        json!({ "class": "Thing", "subClass": "Asset" }),
        json!({ "displayName": "X", "class": "Thing", "subClass": "Project" }),
        json!({ "displayName": 5, "class": "Thing", "subClass": "Asset" }),
        json!({ "displayName": "x".repeat(256), "class": "Thing", "subClass": "Asset" }),
        json!("no JSON"),
        json!([]),
    ] {
        platform
            .post("/itwins", wrong)
            .await
            .is(422, "InvaliditwinsRequest".replace("itw", "iTw").as_str());
    }
    platform
        .post("/itwins", Value::Null)
        .await
        .is(422, "MissingRequestBody");
    assert_eq!(
        platform.get(&format!("/itwins/{id}")).await.ok(200)["iTwin"],
        made
    );
    platform
        .get(&format!("/itwins/{NOBODY}"))
        .await
        .is(404, "iTwinNotFound");
    platform
        .get("/itwins/nonsense")
        .await
        .is(422, "InvalidiTwinsRequest");

    let child = json!({ "displayName": "Child", "class": "Thing", "subClass": "Asset", "parentId": id, "status": "Inactive" });
    platform.post("/itwins", child).await.ok(201);
    for (query, expected) in [
        ("", 3),
        ("?includeInactive=true", 4),
        ("?subClass=Asset", 1),
        ("?number=b-1&type=T", 1),
        ("?$search=Brid", 1),
        (format!("?parentId={id}&status=Inactive").as_str(), 1),
        (format!("?iTwinAccountId={NOBODY}").as_str(), 0),
        ("?includeInactive=true&$top=2&$skip=1", 2),
    ] {
        let listed = platform.get(&format!("/itwins/{query}")).await.ok(200);
        assert_eq!(
            listed["iTwins"].as_array().unwrap().len(),
            expected,
            "{query}"
        );
    }
    platform
        .get("/itwins?subClass=Castle")
        .await
        .is(422, "InvalidiTwinsRequest");
    let renamed = platform
        .ask(
            "PATCH",
            &format!("/itwins/{id}"),
            json!({ "displayName": "Dam" }),
        )
        .await;
    assert_eq!(renamed.ok(200)["iTwin"]["displayName"], "Dam");
    platform
        .ask(
            "PATCH",
            &format!("/itwins/{id}"),
            json!({ "displayName": "" }),
        )
        .await
        .is(422, "InvalidiTwinsRequest");
    platform
        .ask(
            "PATCH",
            &format!("/itwins/{NOBODY}"),
            json!({ "displayName": "Dam" }),
        )
        .await
        .is(404, "iTwinNotFound");
    platform.delete(&format!("/itwins/{id}")).await.ok(204);
    platform
        .delete(&format!("/itwins/{id}"))
        .await
        .is(404, "iTwinNotFound");
}

async fn imodels(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let extent = json!({ "southWest": { "latitude": 1.5, "longitude": 2.5 }, "northEast": { "latitude": 3.5, "longitude": 4.5 } });
    let new = json!({ "name": "Deck", "iTwinId": DEFAULT_ITWIN_ID, "description": "of the bridge", "extent": extent });
    let made = platform.post("/imodels", new.clone()).await.ok(201)["iModel"].clone();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&made["name"], &made["state"]),
        (&json!("Deck"), &json!("initialized"))
    );
    assert_eq!(made["extent"], extent);
    platform.post("/imodels", new).await.is(409, "iModelExists");
    platform
        .post("/imodels", json!({ "name": "X", "iTwinId": NOBODY }))
        .await
        .is(404, "iTwinNotFound");
    platform
        .post("/imodels", json!({ "iTwinId": DEFAULT_ITWIN_ID }))
        .await
        .is(422, "InvalidiModelsRequest");
    platform
        .post("/imodels", json!({ "name": "X", "iTwinId": "y" }))
        .await
        .is(422, "InvalidiModelsRequest");

    assert_eq!(
        platform.get(&format!("/imodels/{id}")).await.ok(200)["iModel"],
        made
    );
    platform
        .get(&format!("/imodels/{NOBODY}"))
        .await
        .is(404, "iModelNotFound");
    platform
        .get("/imodels/nonsense")
        .await
        .is(422, "InvalidiModelsRequest");
    platform
        .get(&format!("/imodels/{FORBIDDEN_IMODEL}"))
        .await
        .is(403, "InsufficientPermissions");

    let of = |rest: &str| format!("/imodels/?iTwinId={DEFAULT_ITWIN_ID}{rest}");
    let listed = platform.get(&of("&$top=1")).await.ok(200);
    assert_eq!(listed["iModels"].as_array().unwrap().len(), 1);
    assert!(listed["iModels"][0]["iTwinId"].is_null(), "minimal");
    assert!(listed["_links"]["next"].is_object());
    let rest = platform.get(&of("&$skip=1")).await.ok(200);
    assert!(
        rest["_links"]["next"].is_null(),
        "the last page of iModels names no next one"
    );
    let full = platform
        .ask_with(
            "GET",
            &of("&name=Deck"),
            Value::Null,
            &[("prefer", "return=representation")],
        )
        .await;
    assert_eq!(full.ok(200)["iModels"], json!([made]));
    for (query, first) in [
        ("&$orderBy=name%20asc", "Deck"),
        ("&$orderBy=name%20desc", "Ours"),
        ("&$search=bridge", "Deck"),
    ] {
        let listed = platform.get(&of(query)).await.ok(200);
        assert_eq!(listed["iModels"][0]["displayName"], first, "{query}");
    }
    platform
        .get("/imodels")
        .await
        .is(422, "InvalidiModelsRequest");
    platform
        .get(&format!("/imodels?iTwinId={NOBODY}"))
        .await
        .is(404, "iTwinNotFound");

    let patch =
        async |id: &str, body: Value| platform.ask("PATCH", &format!("/imodels/{id}"), body).await;
    let changed = patch(
        &id,
        json!({ "name": "Tower", "description": "new", "extent": extent }),
    )
    .await
    .ok(200);
    assert_eq!(changed["iModel"]["displayName"], "Tower");
    patch(&id, json!({ "name": "" }))
        .await
        .is(422, "InvalidiModelsRequest");
    patch(NOBODY, json!({ "name": "X" }))
        .await
        .is(404, "iModelNotFound");
    patch(FORBIDDEN_IMODEL, json!({ "name": "X" }))
        .await
        .is(403, "InsufficientPermissions");
    platform
        .delete(&format!("/imodels/{FORBIDDEN_IMODEL}"))
        .await
        .is(403, "InsufficientPermissions");
    platform.delete(&format!("/imodels/{id}")).await.ok(204);
    platform
        .delete(&format!("/imodels/{id}"))
        .await
        .is(404, "iModelNotFound");
}

async fn folders(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    assert_eq!(root.len(), 43);
    let top = |itwin: &str| format!("/storage?iTwinId={itwin}");
    platform
        .get("/storage")
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .get(&top("nonsense"))
        .await
        .is(422, "InvalidStorageRequest");
    platform.get(&top(NOBODY)).await.is(404, "iTwinNotFound");
    platform.switch("itwin-unknown", "422");
    platform
        .get(&top(NOBODY))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switch("itwin-unknown", "403");
    platform
        .get(&top(NOBODY))
        .await
        .is(403, "InsufficientPermissions");
    platform.switches_off();
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(403, "InsufficientPermissions");
    platform.switch("storage-forbidden", "404");
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(404, "iTwinNotFound");
    platform.switch("storage-forbidden", "401");
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(401, "Unauthorized");
    platform.switches_off();

    let folders = |parent: &str| format!("/storage/folders/{parent}/folders");
    let made = platform
        .post(
            &folders(&root),
            json!({ "displayName": "Bridge", "description": "all of it" }),
        )
        .await
        .ok(201);
    let folder = made["folder"].clone();
    let id = folder["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&folder["type"], &folder["parentFolderId"]),
        (&json!("folder"), &json!(root))
    );
    assert_eq!(
        (&folder["path"], &folder["description"]),
        (&json!("Bridge"), &json!("all of it"))
    );
    let inner = platform
        .post(&folders(&id), json!({ "displayName": "Deck" }))
        .await
        .ok(201);
    assert_eq!(inner["folder"]["path"], "Bridge/Deck");
    platform
        .post(&folders("missing"), json!({ "displayName": "X" }))
        .await
        .is(404, "FolderNotFound");
    for wrong in [
        "", "a/b", "a\\b", "a:b", "a*", "a?", "\"", "<", ">", "|", "\u{7}", "..",
    ] {
        let refused = platform
            .post(&folders(&root), json!({ "displayName": wrong }))
            .await;
        let told = refused.is(422, "InvalidCreateFolderRequest");
        assert_eq!(told["error"]["details"][0]["target"], "displayName");
    }
    let long = json!({ "displayName": "x".repeat(256) });
    platform
        .post(&folders(&root), long)
        .await
        .is(422, "InvalidCreateFolderRequest");
    let twin = json!({ "displayName": "Bridge" });
    let second = platform.post(&folders(&root), twin.clone()).await.ok(201);
    platform.switch("duplicate-folder", "conflict");
    platform
        .post(&folders(&root), twin.clone())
        .await
        .is(409, "Conflict");
    platform
        .post(&folders(&root), json!({ "displayName": "BRIDGE" }))
        .await
        .ok(201);
    platform.switch("duplicate-folder", "refused");
    platform
        .post(&folders(&root), twin)
        .await
        .is(422, "InvalidCreateFolderRequest");
    platform.switches_off();

    assert_eq!(
        platform
            .get(&format!("/storage/folders/{id}"))
            .await
            .ok(200)["folder"],
        folder
    );
    platform
        .get("/storage/folders/missing")
        .await
        .is(404, "FolderNotFound");
    let listed = platform
        .get(&format!("/storage/folders/{root}/folders"))
        .await
        .ok(200);
    assert_eq!(listed["folders"].as_array().unwrap().len(), 3);
    assert!(
        listed["_links"]["next"]["href"].is_string(),
        "storage names a next page even behind the last"
    );
    let paths = ["list", "files", "folders", "search?name=deck"];
    for path in paths {
        platform
            .get(&format!("/storage/folders/missing/{path}"))
            .await
            .is(404, "FolderNotFound");
        let and = if path.contains('?') { '&' } else { '?' };
        platform
            .get(&format!("/storage/folders/{root}/{path}{and}$top=x"))
            .await
            .is(422, "InvalidStorageRequest");
        platform
            .get(&format!("/storage/folders/{root}/{path}{and}$skip=99"))
            .await
            .ok(200);
    }
    platform
        .get(&format!("/storage/folders/{root}/search"))
        .await
        .is(422, "InvalidStorageRequest");
    let found = platform
        .get(&format!("/storage/folders/{id}/search?name=de*k"))
        .await
        .ok(200);
    assert_eq!(found["items"][0]["displayName"], "Deck");
    platform
        .get(&format!("/storage/folders/{root}/folders?$top=5"))
        .await
        .ok(200);
    platform.switch("oversized-page", "refused");
    platform
        .get(&format!("/storage/folders/{root}/folders?$top=5"))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    let patch = async |id: &str, body: Value| {
        platform
            .ask("PATCH", &format!("/storage/folders/{id}"), body)
            .await
    };
    let renamed = patch(&id, json!({ "displayName": "Dam" })).await.ok(200);
    assert_eq!(renamed["folder"]["path"], "Dam");
    let inner_id = inner["folder"]["id"].as_str().unwrap();
    assert_eq!(
        platform
            .get(&format!("/storage/folders/{inner_id}"))
            .await
            .ok(200)["folder"]["path"],
        "Dam/Deck"
    );
    patch(&id, json!({ "displayName": "a/b" }))
        .await
        .is(422, "InvalidCreateFolderRequest");
    patch("missing", json!({ "displayName": "X" }))
        .await
        .is(404, "FolderNotFound");

    platform
        .delete(&format!("/storage/folders/{root}"))
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .delete(&format!("/storage/folders/{id}"))
        .await
        .ok(204);
    platform
        .delete(&format!("/storage/folders/{id}"))
        .await
        .is(404, "FolderNotFound");
    platform
        .get(&format!("/storage/folders/{inner_id}"))
        .await
        .is(404, "FolderNotFound");
    drop(second);
}

async fn files(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let files = format!("/storage/folders/{root}/files");
    let named = |name: &str| json!({ "displayName": name });
    platform
        .post("/storage/folders/missing/files", named("a.dgn"))
        .await
        .is(404, "FolderNotFound");
    platform
        .post(&files, json!({}))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, json!({ "displayName": 5 }))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, named("virus.exe"))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, named(&"é".repeat(256)))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform.switch("name-error", "observed");
    let told = platform
        .post(&files, named("./a/b.dgn"))
        .await
        .is(422, "InvalidStorageRequest");
    assert!(told["error"]["details"][0]["target"].is_null());
    platform.switches_off();

    let file = platform.upload(&root, "a.dgn", b"one").await;
    let second = platform.upload(&root, "a.dgn", b"two").await;
    assert_ne!(file, second);
    platform.switch("duplicate-file", "renamed");
    let (third, _) = platform.create(&root, "a.dgn").await;
    assert_eq!(
        platform
            .get(&format!("/storage/files/{third}"))
            .await
            .ok(200)["file"]["displayName"],
        "a (1).dgn"
    );
    platform.switch("duplicate-file", "conflict");
    platform
        .post(&files, named("a.dgn"))
        .await
        .is(409, "Conflict");
    platform.switch("duplicate-file", "refused");
    platform
        .post(&files, named("a.dgn"))
        .await
        .is(422, "InvalidCreateFileRequest");
    let mut both = Switches::default();
    both.set("duplicate-file", "conflict").unwrap();
    platform.emulator.set_switches(both);
    let (other_case, _) = links(&platform.post(&files, named("A.DGN")).await.ok(202));
    both.set("name-case", "insensitive").unwrap();
    platform.emulator.set_switches(both);
    platform
        .post(&files, named("A.Dgn"))
        .await
        .is(409, "Conflict");
    seen.switches
        .lock()
        .unwrap()
        .insert("name-case=insensitive".to_owned());
    platform.switches_off();

    let shown = platform
        .get(&format!("/storage/files/{file}"))
        .await
        .ok(200)["file"]
        .clone();
    assert_eq!(
        (&shown["type"], &shown["size"]),
        (&json!("file"), &json!(3))
    );
    assert_eq!(
        (&shown["description"], &shown["path"]),
        (&json!("marked"), &json!("a.dgn"))
    );
    assert_eq!(
        (&shown["parentFolderId"], &shown["isFileLocked"]),
        (&json!(root), &json!(false))
    );
    assert_eq!(
        shown["createdDateTime"].as_str().unwrap().len(),
        "2024-10-17T13:44:55.5370000Z".len()
    );
    platform
        .get("/storage/files/missing")
        .await
        .is(404, "FileNotFound");

    let listed = async |path: &str| {
        let mut found = Vec::new();
        for page in 0.. {
            let answer = platform
                .get(&format!("{path}?%24skip={}", page * 3))
                .await
                .ok(200);
            let items = answer["files"]
                .as_array()
                .or(answer["items"].as_array())
                .unwrap()
                .clone();
            assert!(answer["_links"]["next"].is_object());
            if items.is_empty() {
                return found;
            }
            found.extend(items);
        }
        found
    };
    assert_eq!(listed(&files).await.len(), 4);
    assert_eq!(
        listed(&format!("/storage/folders/{root}/list")).await.len(),
        4
    );
    platform.switch("incomplete-files", "unlisted");
    assert_eq!(listed(&files).await.len(), 2);
    platform
        .get(&format!("/storage/files/{other_case}"))
        .await
        .ok(200);
    platform.switch("incomplete-files", "hidden");
    assert_eq!(listed(&files).await.len(), 2);
    platform
        .get(&format!("/storage/files/{other_case}"))
        .await
        .is(404, "FileNotFound");
    platform.switch("listed-description", "absent");
    assert!(listed(&files).await[0]["description"].is_null());
    platform.switches_off();
    assert_eq!(listed(&files).await[0]["description"], "marked");

    let patch = async |id: &str, body: Value| {
        platform
            .ask("PATCH", &format!("/storage/files/{id}"), body)
            .await
    };
    let changed = patch(&file, json!({ "displayName": "b", "description": "new" }))
        .await
        .ok(200);
    assert_eq!(
        (
            &changed["file"]["displayName"],
            &changed["file"]["description"]
        ),
        (&json!("b"), &json!("new"))
    );
    patch(&file, json!({ "displayName": "" }))
        .await
        .is(422, "InvalidCreateFileRequest");
    patch("missing", json!({ "displayName": "b" }))
        .await
        .is(404, "FileNotFound");

    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    assert_eq!(download.status, 302);
    let content = platform
        .blob("GET", download.header("location"), b"", &[])
        .await;
    assert_eq!(content.body, b"one");
    let read_only = platform
        .blob(
            "PUT",
            download.header("location"),
            b"x",
            &[("x-ms-blob-type", "BlockBlob")],
        )
        .await;
    read_only.is(403, "AuthorizationPermissionMismatch");
    platform
        .get(&format!("/storage/files/{third}/download"))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&format!("/storage/files/{second}"))
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{second}"))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&format!("/storage/files/{second}"))
        .await
        .is(404, "FileNotFound");
}

async fn uploads(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let update = |file: &str| format!("/storage/files/{file}/updateContent");
    platform.complete("missing").await.is(404, "FileNotFound");
    platform
        .post(&update("missing"), Value::Null)
        .await
        .is(404, "FileNotFound");

    let (file, url) = platform.create(&root, "a.dgn").await;
    assert!(url.starts_with(platform.emulator.blob_url()));
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .post(&format!("/storage/files/{file}/complete"), json!({}))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switch("update-incomplete", "conflict");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(409, "Conflict");
    platform.switch("update-incomplete", "not-found");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(404, "FileNotFound");
    platform.switches_off();
    let (same, url) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    assert_eq!(same, file);
    platform.put(&url, b"first").await;
    let completed = platform.complete(&file).await.ok(200);
    assert_eq!(
        (&completed["file"]["size"], &completed["file"]["id"]),
        (&json!(5), &json!(file))
    );
    platform.complete(&file).await.ok(200);
    platform.switch("complete-again", "conflict");
    platform.complete(&file).await.is(409, "Conflict");
    platform.switch("complete-again", "refused");
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    // New content counts when it is completed, not before.
    let (_, url) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    platform.put(&url, b"second").await;
    let of = |file: &str| {
        platform.emulator.state().files[file]
            .completed
            .clone()
            .unwrap()
    };
    assert_eq!((of(&file).sha256, of(&file).version), (sha256(b"first"), 1));
    platform.complete(&file).await.ok(200);
    assert_eq!(
        (of(&file).sha256, of(&file).version),
        (sha256(b"second"), 2)
    );
    platform.switch("update-blob", "same");
    let path = |url: &str| url.split('?').next().unwrap().to_owned();
    let (_, again) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    assert_eq!(path(&again), path(&url));
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.put(&again, b"third!").await;
    platform.complete(&file).await.ok(200);
    assert_eq!(
        (of(&file).sha256, of(&file).version),
        (sha256(b"third!"), 3)
    );
    platform.switches_off();

    platform.switch("complete-without-content", "taken");
    let (bare, _) = platform.create(&root, "bare.dgn").await;
    assert_eq!(platform.complete(&bare).await.ok(200)["file"]["size"], 0);
    platform.switches_off();
    let empty = platform.upload(&root, "empty.dgn", b"").await;
    assert_eq!(of(&empty).size, 0);
    platform.switch("complete-empty", "refused");
    let (empty, url) = platform.create(&root, "empty.dgn").await;
    platform.put(&url, b"").await;
    platform
        .complete(&empty)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    let lock = format!("{}/_emulator/lock?file={file}", platform.emulator.api_url());
    assert_eq!(
        platform.http.post(&lock).send().await.unwrap().status(),
        204
    );
    assert_eq!(
        platform
            .get(&format!("/storage/files/{file}"))
            .await
            .ok(200)["file"]["isFileLocked"],
        true
    );
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(409, "FileLocked");
    platform.switch("locked-file", "forbidden");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(403, "InsufficientPermissions");
    platform.switch("locked-file", "taken");
    platform.post(&update(&file), Value::Null).await.ok(202);
    platform.switches_off();
    assert_eq!(
        platform
            .http
            .post(format!("{lock}&locked=false"))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    platform.post(&update(&file), Value::Null).await.ok(202);

    let short = Emulator::builder().sas_lifetime(Duration::from_millis(200));
    let platform = Platform::seeing(short, Arc::clone(seen)).await;
    let (file, url) = platform.create(&root, "late.dgn").await;
    platform.put(&url, b"in time").await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    platform
        .blob("PUT", &url, b"late", &[("x-ms-blob-type", "BlockBlob")])
        .await
        .is(403, "AuthenticationFailed");
    platform.switch("complete-expired", "refused");
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();
    platform.complete(&file).await.ok(200);
}

async fn recycle_bin(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let bin = format!("/storage/recyclebin?iTwinId={DEFAULT_ITWIN_ID}");
    let file = platform.upload(&root, "a.dgn", b"one").await;
    let folder = platform
        .post(
            &format!("/storage/folders/{root}/folders"),
            json!({ "displayName": "F" }),
        )
        .await
        .ok(201);
    let folder = folder["folder"]["id"].as_str().unwrap().to_owned();
    let inner = platform.upload(&folder, "b.dgn", b"two").await;
    assert_eq!(platform.get(&bin).await.ok(200)["items"], json!([]));
    platform
        .get("/storage/recyclebin")
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .get(&format!("/storage/recyclebin?iTwinId={NOBODY}"))
        .await
        .is(404, "iTwinNotFound");
    platform
        .get(&format!("/storage/recyclebin?iTwinId={FORBIDDEN_ITWIN}"))
        .await
        .is(403, "InsufficientPermissions");
    let restore = |kind: &str, id: &str| format!("/storage/recyclebin/{kind}/{id}/restore");
    let purge = |kind: &str, id: &str| format!("/storage/recyclebin/{kind}/{id}");

    platform
        .delete(&format!("/storage/files/{file}"))
        .await
        .ok(204);
    platform
        .delete(&format!("/storage/folders/{folder}"))
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{inner}"))
        .await
        .is(404, "FileNotFound");
    assert_eq!(
        platform.get(&bin).await.ok(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    platform.switch("recycled-name", "conflict");
    platform
        .post(
            &format!("/storage/folders/{root}/files"),
            json!({ "displayName": "a.dgn" }),
        )
        .await
        .is(409, "Conflict");
    platform.switches_off();
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .ok(204);
    platform
        .post(&restore("folders", &folder), Value::Null)
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{file}"))
        .await
        .ok(200);
    platform
        .get(&format!("/storage/files/{inner}"))
        .await
        .ok(200);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .is(404, "FileNotFound");
    platform
        .post(&restore("folders", &folder), Value::Null)
        .await
        .is(404, "FolderNotFound");
    platform
        .delete(&purge("files", &file))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&purge("folders", &folder))
        .await
        .is(404, "FolderNotFound");
    platform
        .delete(&format!("/storage/files/{file}"))
        .await
        .ok(204);
    platform.delete(&purge("files", &file)).await.ok(204);
    platform
        .delete(&format!("/storage/folders/{folder}"))
        .await
        .ok(204);
    platform.delete(&purge("folders", &folder)).await.ok(204);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .is(404, "FileNotFound");
    assert_eq!(platform.emulator.state().files.len(), 0);
}

async fn blobs(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let (file, url) = platform.create(&root, "a.dgn").await;
    let whole = ("x-ms-blob-type", "BlockBlob");
    let put = async |headers: &[(&str, &str)]| platform.blob("PUT", &url, b"hello", headers).await;
    put(&[]).await.is(400, "MissingRequiredHeader");
    put(&[("x-ms-blob-type", "PageBlob")])
        .await
        .is(400, "InvalidHeaderValue");
    put(&[whole, ("authorization", "Bearer x")])
        .await
        .is(400, "InvalidAuthenticationInfo");
    put(&[whole, ("content-md5", "nonsense")])
        .await
        .is(400, "InvalidMd5");
    put(&[whole, ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])
        .await
        .is(400, "Md5Mismatch");
    put(&[whole, ("x-ms-content-crc64", "AAAAAAAAAAA=")])
        .await
        .is(400, "Crc64Mismatch");
    put(&[whole, ("x-ms-content-crc64", "AA==")])
        .await
        .is(400, "InvalidHeaderValue");
    let both = [
        whole,
        ("x-ms-content-crc64", "AAAAAAAAAAA="),
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    put(&both).await.is(400, "BothCrc64AndMd5HeaderPresent");
    put(&[whole, ("x-ms-blob-content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])
        .await
        .is(400, "Md5Mismatch");
    let chunked = platform.http.put(&url).header(whole.0, whole.1);
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("hello")]);
    let refused = chunked
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused.headers()["x-ms-error-code"],
        "MissingContentLengthHeader"
    );
    seen.cells
        .lock()
        .unwrap()
        .insert(("PUT /emulated/{id}".to_owned(), refused.status().as_u16()));
    platform
        .blob("GET", &url, b"", &[])
        .await
        .is(404, "BlobNotFound");
    platform
        .blob("GET", &format!("{url}&comp=blocklist"), b"", &[])
        .await
        .is(404, "BlobNotFound");

    let md5 = base64(&md5::Md5::digest(b"hello"));
    // The check value of this CRC for the text "hello", least significant byte first.
    let mut crc64 = crc64fast_nvme::Digest::new();
    crc64.write(b"hello");
    let crc64 = base64(&crc64.sum64().to_le_bytes());
    let stored = put(&[whole, ("content-md5", &md5)]).await;
    assert_eq!(
        (stored.status, stored.header("content-md5")),
        (201, md5.as_str())
    );
    assert_eq!(stored.header("x-ms-version"), "2019-07-07");
    assert_eq!(
        put(&[whole, ("x-ms-content-crc64", &crc64)])
            .await
            .header("x-ms-content-crc64"),
        crc64
    );
    let head = platform.blob("HEAD", &url, b"", &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    let part = platform
        .blob("GET", &url, b"", &[("range", "bytes=1-3")])
        .await;
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, b"ell".as_slice())
    );
    assert_eq!(part.header("content-range"), "bytes 1-3/5");
    platform
        .blob("GET", &url, b"", &[("range", "bytes=9-")])
        .await
        .is(416, "InvalidRange");
    for other in [
        url.replace("sp=rw", "sp=rwd"),
        url.replace("sig=", "sig=A"),
        url.replacen("emulated/", "emulated/0", 1),
        url.replace("/emulated/", "/elsewhere/"),
        url.split('?').next().unwrap().to_owned(),
    ] {
        let refused = platform.blob("PUT", &other, b"x", &[whole]).await;
        assert_eq!(refused.header("content-type"), "application/xml");
        assert!(
            String::from_utf8_lossy(&refused.body).contains("<Code>AuthenticationFailed</Code>")
        );
        assert_eq!(refused.status, 403);
    }
    seen.cells
        .lock()
        .unwrap()
        .retain(|(operation, _)| !operation.starts_with("PUT /{id}"));
    platform
        .blob("PUT", &format!("{url}&comp=lease"), b"x", &[whole])
        .await
        .is(400, "InvalidQueryParameterValue");

    blocks(&platform, &url).await;
    platform.complete(&file).await.ok(200);
    assert_eq!(
        platform.emulator.state().files[&file]
            .completed
            .as_ref()
            .unwrap()
            .sha256,
        sha256(b"b2b1")
    );

    platform.switch("sas-permissions", "w");
    let (_, url) = platform.create(&root, "b.dgn").await;
    platform
        .blob("GET", &format!("{url}&comp=blocklist"), b"", &[])
        .await
        .is(403, "AuthorizationPermissionMismatch");
    platform.put(&url, b"written").await;
    platform.switches_off();
    limits(&url, seen).await;
}

async fn blocks(platform: &Platform, url: &str) {
    let block = |id: &str| {
        format!(
            "{url}&comp=block&blockid={}",
            encoded(&base64(id.as_bytes()))
        )
    };
    let list = format!("{url}&comp=blocklist");
    let put = async |url: &str, body: &[u8], headers: &[(&str, &str)]| {
        platform.blob("PUT", url, body, headers).await
    };
    let commit = async |inner: &str| {
        let xml =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{inner}</BlockList>");
        put(&list, xml.as_bytes(), &[]).await
    };
    let latest = |id: &str| format!("<Latest>{}</Latest>", base64(id.as_bytes()));
    put(&format!("{url}&comp=block&blockid=%21"), b"x", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    put(&block(&"x".repeat(65)), b"x", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    for (id, content) in [
        ("001", "b1"),
        ("002", "old"),
        ("003", "never listed"),
        ("002", "b2"),
    ] {
        let stored = put(&block(id), content.as_bytes(), &[]).await;
        assert_eq!(stored.status, 201);
        assert!(!stored.header("x-ms-content-crc64").is_empty());
    }
    put(&block("0004"), b"x", &[])
        .await
        .is(400, "InvalidBlobOrBlock");
    put(
        &block("004"),
        b"x",
        &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")],
    )
    .await
    .is(400, "Md5Mismatch");
    let told = platform
        .blob("GET", &format!("{list}&blocklisttype=all"), b"", &[])
        .await;
    let told = String::from_utf8(told.body).unwrap();
    assert!(
        told.contains("<CommittedBlocks></CommittedBlocks>"),
        "{told}"
    );
    assert!(
        told.contains(&format!("<Name>{}</Name><Size>2</Size>", base64(b"002"))),
        "{told}"
    );
    platform
        .blob("GET", &format!("{list}&blocklisttype=some"), b"", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    put(&list, b"no list", &[])
        .await
        .is(400, "InvalidXmlDocument");
    commit(&latest("004")).await.is(400, "InvalidBlockList");
    let committed = format!("<Committed>{}</Committed>", base64(b"001"));
    commit(&committed).await.is(400, "InvalidBlockList");
    put(
        &list,
        b"<BlockList/>",
        &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")],
    )
    .await
    .is(400, "Md5Mismatch");
    let both = latest("002") + &latest("001");
    commit(&both).await.ok(201);
    // Once more, as after an answer that was lost; only with `Latest`.
    commit(&both).await.ok(201);
    commit(&format!("<Uncommitted>{}</Uncommitted>", base64(b"001")))
        .await
        .is(400, "InvalidBlockList");
    let told = platform.blob("GET", &list, b"", &[]).await;
    let told = String::from_utf8(told.body).unwrap();
    assert_eq!(told.matches("<Block>").count(), 2, "{told}");
    let told = platform
        .blob(
            "GET",
            &format!("{list}&blocklisttype=uncommitted"),
            b"",
            &[],
        )
        .await;
    assert!(
        !String::from_utf8(told.body).unwrap().contains("<Block>"),
        "the third block was dropped"
    );
    assert_eq!(platform.blob("GET", url, b"", &[]).await.body, b"b2b1");
}

/// Bodies that are too large are refused by their announced length; none of their bytes have to be sent.
async fn limits(url: &str, seen: &Arc<Seen>) {
    const MIB: u64 = 1024 * 1024;
    let block = format!("{url}&comp=block&blockid=MDAx");
    for (target, version, length, status) in [
        (url, "2019-07-07", 256 * MIB + 1, 413),
        (url, "2021-12-02", 5000 * MIB + 1, 413),
        (&block, "2019-07-07", 100 * MIB + 1, 413),
        (&block, "2021-12-02", 4000 * MIB + 1, 413),
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let target = url::Url::parse(target).unwrap();
        let address = format!("{}:{}", target.host_str().unwrap(), target.port().unwrap());
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT {}?{} HTTP/1.1\r\nhost: x\r\nx-ms-blob-type: BlockBlob\r\nx-ms-version: {version}\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n",
            target.path(),
            target.query().unwrap()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{version} {length}: {answer}"
        );
        assert!(answer.contains("RequestBodyTooLarge"), "{answer}");
    }
    for operation in ["PUT /emulated/{id}", "PUT /emulated/{id}?comp=block"] {
        seen.cells
            .lock()
            .unwrap()
            .insert((operation.to_owned(), 413));
    }
}

const CONNECTIONS: &str = "/synchronization/imodels/storageConnections";

fn mapped(file: &str, connector: &str) -> Value {
    json!({ "storageFileId": file, "connectorType": connector })
}

fn connection_of(files: &[Value]) -> Value {
    json!({ "iModelId": DEFAULT_IMODEL_ID, "displayName": "ours", "authenticationType": "Service", "sourceFiles": files })
}

async fn connected(platform: &Platform, files: &[Value]) -> String {
    let made = platform
        .post(CONNECTIONS, connection_of(files))
        .await
        .ok(201);
    made["connection"]["id"].as_str().unwrap().to_owned()
}

async fn connections(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let dgn = platform.upload(&root, "a.dgn", b"one").await;
    let zip = platform.upload(&root, "b.zip", b"two").await;
    let body = connection_of(&[mapped(&dgn, "MSTN"), mapped(&zip, "SPPID")]);
    let made = platform.post(CONNECTIONS, body.clone()).await.ok(201)["connection"].clone();
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 43);
    assert_eq!(
        (&made["iModelId"], &made["iTwinId"]),
        (&json!(DEFAULT_IMODEL_ID), &json!(DEFAULT_ITWIN_ID))
    );
    assert_eq!(
        (&made["displayName"], &made["authenticationType"]),
        (&json!("ours"), &json!("Service"))
    );
    assert!(made["_links"]["lastRun"].is_null());
    platform
        .post(CONNECTIONS, body)
        .await
        .is(409, "FileMappingToTheIModelExists");

    let free = platform.upload(&root, "c.ifc", b"three").await;
    let with = |name: &str, value: Value| {
        let mut body = connection_of(&[mapped(&free, "IFC")]);
        body[name] = value;
        body
    };
    platform
        .post(CONNECTIONS, with("iModelId", json!(FORBIDDEN_IMODEL)))
        .await
        .is(403, "InsufficientPermissions");
    platform
        .post(CONNECTIONS, with("iModelId", json!(NOBODY)))
        .await
        .is(404, "iModelNotFound");
    platform
        .post(
            CONNECTIONS,
            with("sourceFiles", json!([mapped("missing", "IFC")])),
        )
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    platform
        .post(
            CONNECTIONS,
            with(
                "sourceFiles",
                json!([mapped(&free, "IFC"), mapped(&free, "IFC")]),
            ),
        )
        .await
        .is(409, "FileMappingToTheIModelExists");
    for wrong in [
        with("iModelId", Value::Null),
        with("sourceFiles", Value::Null),
        with("sourceFiles", json!([])),
        with("sourceFiles", json!([{ "storageFileId": free }])),
        with("sourceFiles", json!([{ "connectorType": "IFC" }])),
        with("sourceFiles", json!([5])),
        with("authenticationType", json!("Robot")),
        with("displayName", json!(5)),
    ] {
        platform
            .post(CONNECTIONS, wrong)
            .await
            .is(422, "InvalidStorageConnectionRequest");
    }
    platform
        .post(CONNECTIONS, Value::Null)
        .await
        .is(422, "MissingRequestBody");
    for (switch, connector) in [
        ("retired-connector", "PSEXCEL"),
        ("unknown-connector", "LEVITATION"),
    ] {
        let body = with("sourceFiles", json!([mapped(&free, connector)]));
        platform.switch(switch, "refused");
        let told = platform
            .post(CONNECTIONS, body.clone())
            .await
            .is(422, "InvalidStorageConnectionRequest");
        assert_eq!(told["error"]["details"][0]["target"], "connectorType");
        platform.switches_off();
        let taken = platform.post(CONNECTIONS, body).await.ok(201);
        platform
            .delete(&format!(
                "{CONNECTIONS}/{}",
                taken["connection"]["id"].as_str().unwrap()
            ))
            .await
            .ok(204);
    }
    platform.switch("empty-connection", "taken");
    platform
        .post(CONNECTIONS, with("sourceFiles", json!([])))
        .await
        .ok(201);
    platform.switches_off();

    // Without the property the service takes `User`, and names may repeat.
    let user = platform
        .post(CONNECTIONS, with("authenticationType", Value::Null))
        .await
        .ok(201);
    assert_eq!(user["connection"]["authenticationType"], "User");
    let all = format!("{CONNECTIONS}?imodelId={DEFAULT_IMODEL_ID}");
    let listed = platform.get(&all).await.ok(200);
    assert_eq!(listed["connections"].as_array().unwrap().len(), 3);
    assert!(listed["connections"][0]["iModelId"].is_null(), "minimal");
    let second = platform.get(&format!("{all}&$skip=1&$top=1")).await.ok(200);
    assert_eq!(second["connections"][0], listed["connections"][1]);
    let full = platform
        .ask_with(
            "GET",
            &all,
            Value::Null,
            &[("accept", V1), ("prefer", "return=representation")],
        )
        .await;
    assert_eq!(
        full.ok(200)["connections"][0]["authenticationType"],
        "Service"
    );
    for path in [CONNECTIONS, "/synchronization/imodels/connections"] {
        platform
            .get(&format!("{path}?imodelId={DEFAULT_IMODEL_ID}"))
            .await
            .ok(200);
        platform
            .get(path)
            .await
            .is(422, "InvalidStorageConnectionRequest");
        platform
            .get(&format!("{path}?imodelId={NOBODY}"))
            .await
            .is(404, "iModelNotFound");
        platform
            .get(&format!("{path}?imodelId={FORBIDDEN_IMODEL}"))
            .await
            .is(403, "InsufficientPermissions");
    }
    let more = platform.upload(&root, "d.ifc", b"four").await;
    let fourth = connected(&platform, &[mapped(&more, "IFC")]).await;
    let last = platform.upload(&root, "e.ifc", b"five").await;
    let fifth = connection_of(&[mapped(&last, "IFC")]);
    platform
        .post(CONNECTIONS, fifth.clone())
        .await
        .is(422, "InvalidStorageConnectionRequest");
    platform.switch("limit", "409");
    platform
        .post(CONNECTIONS, fifth.clone())
        .await
        .is(409, "LimitExceeded");
    platform.switch("limit", "403");
    platform
        .post(CONNECTIONS, fifth)
        .await
        .is(403, "LimitExceeded");
    platform.switches_off();
    platform
        .delete(&format!("{CONNECTIONS}/{fourth}"))
        .await
        .ok(204);

    one_connection(&platform, &id, &made).await;
}

async fn one_connection(platform: &Platform, id: &str, made: &Value) {
    let one = format!("{CONNECTIONS}/{id}");
    let missing = format!("{CONNECTIONS}/missing");
    assert_eq!(
        platform
            .get(&one.to_lowercase().replace(&id.to_lowercase(), id))
            .await
            .ok(200)["connection"],
        *made
    );
    platform
        .get(&missing)
        .await
        .is(404, "StorageConnectionNotFound");
    let put = async |path: &str, body: Value| platform.ask("PUT", path, body).await;
    let renamed =
        put(&one, json!({ "displayName": "renamed" })).await.ok(200)["connection"].clone();
    assert_eq!(
        (&renamed["displayName"], &renamed["authenticationType"]),
        (&json!("renamed"), &json!("Service"))
    );
    platform.switch("omitted-authentication", "reset");
    let reset = put(&one, json!({ "displayName": "renamed" })).await.ok(200);
    assert_eq!(reset["connection"]["authenticationType"], "User");
    platform.switches_off();
    put(&one, json!({ "authenticationType": "Service" }))
        .await
        .ok(200);
    put(&one, json!({ "authenticationType": 5 }))
        .await
        .is(422, "InvalidStorageConnectionRequest");
    put(&missing, json!({}))
        .await
        .is(404, "StorageConnectionNotFound");
    platform
        .post(&format!("{one}/run"), Value::Null)
        .await
        .ok(202);
    platform.switch("delete-in-run", "conflict");
    platform
        .delete(&one)
        .await
        .is(409, "ConnectionAlreadyInUse");
    platform.switches_off();
    platform.delete(&one).await.ok(204);
    platform
        .delete(&one)
        .await
        .is(404, "StorageConnectionNotFound");
}

async fn source_files(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let mut files = Vec::new();
    for number in 0..6 {
        files.push(platform.upload(&root, &format!("{number}.ifc"), b"x").await);
    }
    let first = connected(&platform, &[mapped(&files[0], "IFC")]).await;
    let second = connected(&platform, &[mapped(&files[1], "IFC")]).await;
    let of = |connection: &str| format!("{CONNECTIONS}/{connection}/sourceFiles");
    let add = async |body: Value| platform.post(&of(&first), body).await;
    let added = add(mapped(&files[2], "MSTN")).await.ok(201)["sourceFile"].clone();
    assert_eq!(
        added["connectorType"], "MSTN",
        "the connector is not checked against the file"
    );
    assert_eq!(added["lastKnownFileName"], "2.ifc");
    add(mapped(&files[2], "IFC"))
        .await
        .is(409, "FileMappingToTheIModelExists");
    add(mapped(&files[1], "IFC"))
        .await
        .is(409, "FileMappingToTheIModelExists");
    add(mapped("missing", "IFC"))
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    add(json!({ "storageFileId": files[3] }))
        .await
        .is(422, "InvalidStorageConnectionSourceFileRequest");
    add(Value::Null).await.is(422, "MissingRequestBody");
    platform
        .post(&of("missing"), mapped(&files[3], "IFC"))
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    add(mapped(&files[3], "IFC")).await.ok(201);
    add(mapped(&files[4], "IFC")).await.ok(201);
    add(mapped(&files[5], "IFC"))
        .await
        .is(422, "InvalidStorageConnectionSourceFileRequest");
    platform.switch("limit", "403");
    add(mapped(&files[5], "IFC")).await.is(403, "LimitExceeded");
    platform.switches_off();

    let listed = platform.get(&of(&first)).await.ok(200);
    assert_eq!(listed["sourceFiles"].as_array().unwrap().len(), 4);
    assert!(
        listed["sourceFiles"][0]["connectorType"].is_null(),
        "minimal"
    );
    let full = [("accept", V1), ("prefer", "return=representation")];
    let full = platform
        .ask_with("GET", &of(&first), Value::Null, &full)
        .await
        .ok(200);
    assert_eq!(full["sourceFiles"][1], added);
    platform
        .get(&format!("{}?$top=none", of(&first)))
        .await
        .is(422, "InvalidStorageConnectionSourceFileRequest");
    platform
        .get(&of("missing"))
        .await
        .is(404, "StorageConnectionNotFound");

    let one = format!("{}/{}", of(&first), added["id"].as_str().unwrap());
    let missing = format!("{}/missing", of(&first));
    assert_eq!(platform.get(&one).await.ok(200)["sourceFile"], added);
    platform
        .get(&missing)
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    let put = async |path: &str, body: Value| platform.ask("PUT", path, body).await;
    let changed = put(&one, mapped(&files[5], "IFC")).await.ok(200)["sourceFile"].clone();
    assert_eq!(
        (&changed["id"], &changed["storageFileId"]),
        (&added["id"], &json!(files[5]))
    );
    put(&one, mapped(&files[5], "DWG")).await.ok(200);
    put(&one, mapped(&files[1], "IFC"))
        .await
        .is(409, "FileMappingToTheIModelExists");
    put(&one, json!({}))
        .await
        .is(422, "InvalidStorageConnectionSourceFileRequest");
    put(&missing, mapped(&files[2], "IFC"))
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    platform.delete(&one).await.ok(204);
    platform
        .delete(&one)
        .await
        .is(404, "StorageConnectionSourceFileNotFound");
    add(mapped(&files[5], "SPPID")).await.ok(201);
    // A connection that is deleted frees its files.
    platform
        .delete(&format!("{CONNECTIONS}/{second}"))
        .await
        .ok(204);
    connected(&platform, &[mapped(&files[1], "IFC")]).await;
}

async fn ended(platform: &Platform, location: &str) -> Value {
    let path = location
        .strip_prefix(platform.emulator.api_url())
        .unwrap_or(location)
        .to_owned();
    for _ in 0..500 {
        let run = platform.get(&path).await.ok(200)["run"].clone();
        if run["state"] == "Completed" {
            return run;
        }
        assert_eq!(run["result"], "Undetermined");
        assert!(run["endDateTime"].is_null());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the run does not end");
}

async fn runs(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let good = platform.upload(&root, "good.ifc", b"x").await;
    let wrong = platform.upload(&root, "wrong.zip", b"x").await;
    let empty = platform.upload(&root, "empty.ifc", b"").await;
    let id = connected(
        &platform,
        &[
            mapped(&good, "IFC"),
            mapped(&wrong, "MSTN"),
            mapped(&empty, "IFC"),
        ],
    )
    .await;
    let run_of = |id: &str| format!("{CONNECTIONS}/{id}/run");
    let run = async |id: &str| platform.post(&run_of(id), Value::Null).await;
    let started = run(&id).await;
    let location = started.header("location").to_owned();
    assert!(location.starts_with(platform.emulator.api_url()));
    assert_eq!(
        (started.header("content-type"), started.body.len()),
        ("", 0)
    );
    started.ok(202);
    let again = run(&id).await;
    assert_eq!(
        (again.status, again.header("location")),
        (303, location.as_str())
    );
    run("missing").await.is(404, "StorageConnectionNotFound");

    // Another connection of the iModel gets the same answer.
    let other_file = platform.upload(&root, "other.ifc", b"x").await;
    let other = connected(&platform, &[mapped(&other_file, "IFC")]).await;
    assert_eq!(run(&other).await.header("location"), location);
    platform.switch("location", "absent");
    assert_eq!(run(&other).await.header("location"), "");
    platform.switch("run-scope", "connection");
    let beside = run(&other).await;
    assert_eq!(beside.status, 202);
    platform.switches_off();
    ended(&platform, beside.header("location")).await;

    let report = ended(&platform, &location).await;
    assert_eq!(report["result"], "PartialSuccess");
    let jobs = report["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2, "one job for each connector type");
    let tasks: Vec<&Value> = jobs
        .iter()
        .flat_map(|job| job["tasks"].as_array().unwrap())
        .collect();
    let task = |file: &str| {
        *tasks
            .iter()
            .find(|task| task["storageFileId"] == file)
            .unwrap()
    };
    assert_eq!(task(&good)["result"], "Success");
    for bad in [&wrong, &empty] {
        assert_eq!(task(bad)["result"], "Error");
        assert_eq!(task(bad)["error"]["bridgeExitCode"], 4_294_967_295_u64);
    }
    let last = async || {
        platform.get(&format!("{CONNECTIONS}/{id}")).await.ok(200)["connection"]["_links"]["lastRun"].clone()
    };
    assert_eq!(last().await["href"], location);
    platform.switch("last-run", "lagging");
    assert!(last().await.is_null());
    platform.switch("location", "relative");
    let relative = run(&id).await;
    assert!(relative.header("location").starts_with("/synchronization/"));
    platform.switches_off();
    ended(&platform, relative.header("location")).await;
    platform.switch("run-body", "json");
    let with_body = run(&id).await;
    assert_eq!(
        (with_body.status, with_body.body.as_slice()),
        (202, b"{}".as_slice())
    );
    platform.switches_off();
    ended(&platform, with_body.header("location")).await;

    let list = format!("{CONNECTIONS}/{id}/runs");
    let listed = platform.get(&list).await.ok(200);
    assert_eq!(listed["runs"].as_array().unwrap().len(), 3);
    assert!(listed["runs"][0]["jobs"].is_null(), "minimal");
    platform
        .get(&format!("{list}?$skip=x"))
        .await
        .is(422, "InvalidStorageConnectionRequest");
    platform
        .get(&format!("{CONNECTIONS}/missing/runs"))
        .await
        .is(404, "StorageConnectionNotFound");
    platform
        .get(&format!("{list}/missing"))
        .await
        .is(404, "RunNotFound");
    on_demand(&platform, &id, &good).await;
    of_people(&platform, &root).await;
}

/// Results that a person asks for.
async fn on_demand(platform: &Platform, id: &str, good: &str) {
    let run = async || {
        let started = platform
            .post(&format!("{CONNECTIONS}/{id}/run"), Value::Null)
            .await;
        ended(platform, started.header("location")).await
    };
    for (result, error) in [
        ("Skipped", None),
        ("TimedOut", None),
        ("Levitated", None),
        (
            "Success",
            Some(json!({ "errorCode": "TAE_BRG_1000", "bridgeExitCode": 4_294_967_295_u64 })),
        ),
    ] {
        platform.emulator.fail_task(TaskFault {
            file: good.to_owned(),
            result: result.to_owned(),
            error: error.clone(),
            count: Some(1),
        });
        let report = run().await;
        let tasks = report["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|job| job["tasks"].as_array().unwrap());
        let task = tasks
            .into_iter()
            .find(|task| task["storageFileId"] == good)
            .unwrap()
            .clone();
        assert_eq!(task["result"], result);
        assert_eq!(task["error"], error.unwrap_or_default());
    }
    let whole = |result: Option<&str>, lost: bool| RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        result: result.map(str::to_owned),
        error: Some(json!({ "errorKey": "Something", "description": "went wrong" })),
        duration_ms: Some(50),
        lost,
        count: Some(1),
    };
    platform.emulator.fail_run(whole(Some("Cancelled"), false));
    let report = run().await;
    assert_eq!(
        (&report["result"], &report["error"]["errorKey"]),
        (&json!("Cancelled"), &json!("Something"))
    );
    platform.emulator.fail_run(whole(None, true));
    let lost = platform
        .post(&format!("{CONNECTIONS}/{id}/run"), Value::Null)
        .await;
    let path = lost
        .header("location")
        .strip_prefix(platform.emulator.api_url())
        .unwrap()
        .to_owned();
    platform.get(&path).await.is(404, "RunNotFound");
}

/// A connection of the type `User` runs only for a user who has let it.
async fn of_people(platform: &Platform, root: &str) {
    let file = platform.upload(root, "person.ifc", b"x").await;
    let mut body = connection_of(&[mapped(&file, "IFC")]);
    body["authenticationType"] = json!("User");
    let made = platform.post(CONNECTIONS, body).await.ok(201);
    let id = made["connection"]["id"].as_str().unwrap();
    let run = async || {
        let started = platform
            .post(&format!("{CONNECTIONS}/{id}/run"), Value::Null)
            .await;
        ended(platform, started.header("location")).await
    };
    let refused = run().await;
    assert_eq!(
        (&refused["result"], &refused["error"]["errorKey"]),
        (&json!("Error"), &json!("UserNotAuthenticated"))
    );
    let information = "/synchronization/imodels/connections/authorizationInformation";
    platform
        .get(information)
        .await
        .is(422, "InvalidAuthorizationInformationRequest");
    let information = format!(
        "{information}?redirectUrl={}",
        encoded("http://localhost:3301/callback")
    );
    let told = platform.get(&information).await.ok(200)["authorizationInformation"].clone();
    assert_eq!(told["isUserAuthorized"], false);
    let page = told["_links"]["authorizationUrl"]["href"].as_str().unwrap();
    let back = platform.http.get(page).send().await.unwrap();
    assert_eq!(
        (back.status().as_u16(), &back.headers()["location"]),
        (302, &"http://localhost:3301/callback".parse().unwrap())
    );
    assert_eq!(
        platform.get(&information).await.ok(200)["authorizationInformation"]["isUserAuthorized"],
        true
    );
    assert_eq!(run().await["result"], "Success");
}
