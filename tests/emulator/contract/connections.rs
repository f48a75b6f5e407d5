//! Connections and their source files.

use std::sync::Arc;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID};
use serde_json::{Value, json};

use super::{FORBIDDEN_IMODEL, NOBODY, platform, root};
use crate::support::{Platform, Seen, V1};

pub const CONNECTIONS: &str = "/synchronization/imodels/storageConnections";

pub fn mapped(file: &str, connector: &str) -> Value {
    json!({ "storageFileId": file, "connectorType": connector })
}

pub fn connection_of(files: &[Value]) -> Value {
    json!({ "iModelId": DEFAULT_IMODEL_ID, "displayName": "ours", "authenticationType": "Service", "sourceFiles": files })
}

pub async fn connected(platform: &Platform, files: &[Value]) -> String {
    let made = platform
        .post(CONNECTIONS, connection_of(files))
        .await
        .ok(201);
    made["connection"]["id"].as_str().unwrap().to_owned()
}

pub async fn connections(seen: &Arc<Seen>) {
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
        let output = platform
            .post(CONNECTIONS, body.clone())
            .await
            .is(422, "InvalidStorageConnectionRequest");
        assert_eq!(output["error"]["details"][0]["target"], "connectorType");
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

pub async fn one_connection(platform: &Platform, id: &str, made: &Value) {
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

pub async fn source_files(seen: &Arc<Seen>) {
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
