//! Requests that no good client sends: each is answered, none is a fault of the emulator, none leaves its folder.

use std::collections::BTreeSet;
use std::path::Path;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Emulator};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::support::Platform;

/// A piece of a path: words of the API, ids of things that are there, and nonsense.
fn segment(ids: Vec<String>) -> impl Strategy<Value = String> {
    let words = [
        "storage",
        "folders",
        "files",
        "list",
        "search",
        "updateContent",
        "complete",
        "download",
        "recyclebin",
        "restore",
        "synchronization",
        "imodels",
        "storageConnections",
        "connections",
        "sourceFiles",
        "run",
        "runs",
        "authorizationInformation",
        "itwins",
        "connect",
        "token",
        "authorize",
        "introspect",
        ".well-known",
        "openid-configuration",
        "revocation",
        "endsession",
        "consent",
        "accesscontrol",
        "members",
        "owners",
        "roles",
        "permissions",
        "users",
        "me",
        "favorites",
        "recents",
        "account",
        "changesets",
        "namedversions",
        "operations",
        "create",
        "configurations",
        "reports",
        "move",
        "unlock",
        "emulated",
        "_emulator",
        "state",
        "switches",
        "faults",
        "lock",
        "..",
        "%2e%2e",
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%ff",
        "",
    ];
    prop_oneof![
        4 => prop::sample::select(words.map(str::to_owned).to_vec()),
        3 => prop::sample::select(ids),
        1 => "[a-zA-Z0-9_%~.-]{0,40}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("../../../../tmp/evil.dgn".to_owned()),
        Just("MSTN".to_owned()),
        Just(DEFAULT_IMODEL_ID.to_owned()),
        any::<String>(),
        "x{0,300}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = prop::sample::select(vec![
            "displayName",
            "description",
            "iModelId",
            "iTwinId",
            "sourceFiles",
            "storageFileId",
            "connectorType",
            "authenticationType",
            "name",
            "class",
            "subClass",
            "number",
            "extent",
            "route",
            "effect",
            "parentFolderId",
            "fileIds",
            "changesetId",
            "creationMode",
            "baselineFile",
            "containersEnabled",
            "members",
            "email",
            "roleIds",
            "permissions",
            "settings",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names, inner), 0..5).prop_map(|pairs| {
                Value::Object(
                    pairs
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

fn everything_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path.display().to_string());
        }
    }
    found
}

#[test]
fn random_requests_at_every_route_never_cause_a_server_error() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("a/b/data");
    std::fs::create_dir_all(&data).unwrap();
    let platform = runtime.block_on(Platform::start(Emulator::builder().data_dir(data)));
    let (file, url, connection) = runtime.block_on(async {
        let top = platform.get(&format!("/storage?iTwinId={DEFAULT_ITWIN_ID}")).await.ok(200);
        let root = top["_links"]["folder"]["href"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let file = platform.upload(&root, "a.dgn", b"x").await;
        let (_, url) = platform.create(&root, "b.dgn").await;
        let body = json!({ "iModelId": DEFAULT_IMODEL_ID, "sourceFiles": [{ "storageFileId": file, "connectorType": "MSTN" }] });
        let made = platform.post("/synchronization/imodels/storageConnections", body).await.ok(201);
        (file, url, made["connection"]["id"].as_str().unwrap().to_owned())
    });
    let root = everything_outside(outer.path());
    let ids = vec![
        file,
        connection,
        DEFAULT_ITWIN_ID.to_owned(),
        DEFAULT_IMODEL_ID.to_owned(),
    ];
    let request = (
        prop::sample::select(vec![
            "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND",
        ]),
        prop::collection::vec(segment(ids), 0..7),
        prop_oneof![
            Just(String::new()),
            "[a-zA-Z$=&%0-9-]{0,60}",
            Just(format!("iTwinId={DEFAULT_ITWIN_ID}&$top=0")),
            Just("$skip=18446744073709551615&$top=18446744073709551615".to_owned())
        ],
        prop_oneof![
            value().prop_map(|value| value.to_string()),
            any::<String>(),
            Just(String::new())
        ],
        any::<bool>(),
    );
    let mut runner = TestRunner::new(Config {
        cases: 3000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&request, |(method, path, query, body, to_blobs)| {
            let base = if to_blobs {
                platform.emulator.blob_url()
            } else {
                platform.emulator.api_url()
            };
            let address = if to_blobs && path.len() == 2 {
                format!("{url}&{query}")
            } else {
                format!("{base}/{}?{query}", path.join("/"))
            };
            // What is no address at all cannot be sent.
            let Ok(address) = url::Url::parse(&address) else {
                return Ok(());
            };
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let sent = platform
                .http
                .request(method.clone(), address.clone())
                .header(
                    "authorization",
                    if to_blobs {
                        String::new()
                    } else {
                        format!("Bearer {}", platform.token)
                    },
                )
                .header("x-ms-blob-type", "BlockBlob")
                .body(body);
            let sent = if to_blobs {
                sent
            } else {
                sent.header("accept", "*/*")
            };
            let answer = runtime.block_on(sent.send());
            let answer = answer
                .map_err(|error| TestCaseError::fail(format!("{method} {address}: {error}")))?;
            prop_assert!(
                answer.status().as_u16() < 500,
                "{method} {address}: {}",
                answer.status()
            );
            Ok(())
        })
        .unwrap();
    assert_eq!(
        everything_outside(outer.path()),
        root,
        "something was written outside the data folder"
    );
    assert!(!Path::new("/tmp/evil.dgn").exists());
}

/// Everything but the data folder's content.
fn everything_outside(outer: &Path) -> BTreeSet<String> {
    let data = outer.join("a/b/data/").display().to_string();
    everything_below(outer)
        .into_iter()
        .filter(|path| !path.starts_with(&data))
        .collect()
}
