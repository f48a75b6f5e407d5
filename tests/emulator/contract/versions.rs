//! Changesets, named versions, contents, reports and settings: what runs leave behind in an iModel.

use std::sync::Arc;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID};
use serde_json::{Value, json};

use super::connections::{CONNECTIONS, connected, mapped};
use super::runs::ended;
use super::{NOBODY, platform, root};
use crate::support::{Platform, Seen, V2, links, sha256};

async fn run(platform: &Platform, connection: &str) -> Value {
    let path = format!("{CONNECTIONS}/{connection}/run");
    let started = platform.post(&path, Value::Null).await;
    assert_eq!(started.status, 202);
    ended(platform, started.header("location")).await
}

async fn change(platform: &Platform, file: &str, content: &[u8]) {
    let path = format!("/storage/files/{file}/updateContent");
    let (_, url) = links(&platform.post(&path, Value::Null).await.ok(202));
    platform.put(&url, content).await;
    platform.complete(file).await.ok(200);
}

pub async fn versions(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let of = |rest: &str| format!("/imodels/{DEFAULT_IMODEL_ID}/{rest}");
    let full = [("accept", V2), ("prefer", "return=representation")];
    let none = platform.get(&of("changesets")).await.ok(200);
    assert_eq!(none["changesets"], json!([]));
    let first = platform.upload(&root, "a.ifc", b"one").await;
    let second = platform.upload(&root, "b.dgn", b"two").await;
    let bad = platform.upload(&root, "c.zip", b"three").await;
    let files = [mapped(&first, "IFC"), mapped(&second, "MSTN")];
    let id = connected(&platform, &files).await;
    let report = run(&platform, &id).await;
    assert_eq!(report["result"], "Success");
    run(&platform, &id).await;
    let imodel = || platform.emulator.state().imodels[DEFAULT_IMODEL_ID].clone();
    assert_eq!(
        imodel().changesets.len(),
        1,
        "a run without new content pushes nothing"
    );
    assert_eq!(imodel().gcs_from.as_ref(), Some(&first));
    change(&platform, &second, b"two more").await;
    let third = run(&platform, &id).await;
    let contents = imodel().contents;
    let held: Vec<_> = contents
        .iter()
        .map(|held| (held.version, held.sha256.clone(), held.mapped))
        .collect();
    assert_eq!(
        held,
        [(1, sha256(b"one"), true), (2, sha256(b"two more"), true)]
    );
    assert_eq!(imodel().gcs_from.as_ref(), Some(&first));

    let shown = platform
        .ask_with("GET", &of("changesets"), Value::Null, &full)
        .await
        .ok(200);
    let changesets = shown["changesets"].as_array().unwrap().clone();
    assert_eq!(changesets.len(), 2);
    let latest = &changesets[1];
    assert_eq!(
        (&latest["index"], &latest["parentId"]),
        (&json!(2), &changesets[0]["id"])
    );
    assert_eq!(latest["id"].as_str().unwrap().len(), 40);
    assert_eq!(
        latest["synchronizationInfo"]["changedFiles"],
        json!(["b.dgn"])
    );
    assert_eq!(latest["synchronizationInfo"]["taskId"], third["id"]);
    let newest = platform
        .get(&of("changesets?$top=1&$orderBy=index%20desc"))
        .await
        .ok(200);
    assert_eq!(newest["changesets"][0]["id"], latest["id"]);
    assert!(
        newest["_links"]["next"]["href"]
            .as_str()
            .unwrap()
            .contains("$orderBy=index%20desc&$skip=1&$top=1")
    );
    for (query, count) in [("afterIndex=1", 1), ("lastIndex=1", 1), ("afterIndex=2", 0)] {
        let found = platform
            .get(&of(&format!("changesets?{query}")))
            .await
            .ok(200);
        assert_eq!(
            found["changesets"].as_array().unwrap().len(),
            count,
            "{query}"
        );
    }
    for wrong in ["afterIndex=x", "$orderBy=size", "$top=0"] {
        platform
            .get(&of(&format!("changesets?{wrong}")))
            .await
            .is(422, "InvalidiModelsRequest");
    }
    let by_index = platform.get(&of("changesets/2")).await.ok(200);
    let by_id = platform
        .get(&of(&format!(
            "changesets/{}",
            latest["id"].as_str().unwrap()
        )))
        .await
        .ok(200);
    assert_eq!(by_index, by_id);
    platform
        .get(&of("changesets/3"))
        .await
        .is(404, "ChangesetNotFound");
    let details = platform.get(&format!("/imodels/{DEFAULT_IMODEL_ID}")).await;
    assert_eq!(
        details.ok(200)["iModel"]["lastChangesetPushDateTime"],
        latest["pushDateTime"]
    );

    named(&platform, &changesets).await;
    users(&platform, &changesets[0]).await;
    removed(&platform, &id, &first, &bad).await;
}

async fn named(platform: &Platform, changesets: &[Value]) {
    let of = |rest: &str| format!("/imodels/{DEFAULT_IMODEL_ID}/{rest}");
    let name = async |body: Value| platform.post(&of("namedversions"), body).await;
    let latest = &changesets[1]["id"];
    let body = json!({ "name": "Monday", "description": "first", "changesetId": latest });
    let made = name(body).await.ok(201)["namedVersion"].clone();
    assert_eq!(
        (
            &made["displayName"],
            &made["changesetIndex"],
            &made["state"]
        ),
        (&json!("Monday"), &json!(2), &json!("visible"))
    );
    name(json!({ "name": "Tuesday", "changesetId": latest }))
        .await
        .is(409, "NamedVersionOnChangesetExists");
    name(json!({ "name": "Monday", "changesetId": changesets[0]["id"] }))
        .await
        .is(409, "NamedVersionExists");
    name(json!({ "name": "Tuesday", "changesetId": "missing" }))
        .await
        .is(404, "ChangesetNotFound");
    for wrong in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": "x".repeat(256) }),
        json!({ "name": "X", "description": "x".repeat(256) }),
    ] {
        name(wrong).await.is(422, "InvalidiModelsRequest");
    }
    // Without a changeset it is the baseline that gets the name.
    let baseline = name(json!({ "name": "Beginning" })).await.ok(201)["namedVersion"].clone();
    assert_eq!(
        (&baseline["changesetId"], &baseline["changesetIndex"]),
        (&Value::Null, &json!(0))
    );
    for (query, names) in [
        ("", vec!["Monday", "Beginning"]),
        (
            "?$orderBy=changesetIndex%20asc",
            vec!["Beginning", "Monday"],
        ),
        ("?$orderBy=name%20desc", vec!["Monday", "Beginning"]),
        ("?name=Monday", vec!["Monday"]),
        ("?$search=FIRST", vec!["Monday"]),
    ] {
        let listed = platform
            .get(&of(&format!("namedversions{query}")))
            .await
            .ok(200);
        let found: Vec<&str> = listed["namedVersions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|version| version["displayName"].as_str().unwrap())
            .collect();
        assert_eq!(found, names, "{query}");
    }
    platform
        .get(&of("namedversions?$orderBy=size"))
        .await
        .is(422, "InvalidiModelsRequest");
    let one = of(&format!("namedversions/{}", made["id"].as_str().unwrap()));
    assert_eq!(platform.get(&one).await.ok(200)["namedVersion"], made);
    let patch = async |path: &str, body: Value| platform.ask("PATCH", path, body).await;
    let hidden = patch(
        &one,
        json!({ "name": "Wednesday", "description": "later", "state": "hidden" }),
    )
    .await
    .ok(200)["namedVersion"]
        .clone();
    assert_eq!(
        (&hidden["name"], &hidden["state"]),
        (&json!("Wednesday"), &json!("hidden"))
    );
    patch(&one, json!({ "name": "Beginning" }))
        .await
        .is(409, "NamedVersionExists");
    patch(&one, json!({ "state": "blurred" }))
        .await
        .is(422, "InvalidiModelsRequest");
    let missing = of("namedversions/missing");
    platform.get(&missing).await.is(404, "NamedVersionNotFound");
    patch(&missing, json!({}))
        .await
        .is(404, "NamedVersionNotFound");
    // One on the first changeset is linked from it.
    name(json!({ "name": "Monday", "changesetId": changesets[0]["id"] }))
        .await
        .ok(201);
    let linked = platform.get(&of("changesets/1")).await.ok(200);
    assert!(
        linked["changeset"]["_links"]["namedVersion"]["href"].is_string(),
        "{linked}"
    );
}

async fn users(platform: &Platform, changeset: &Value) {
    let of = |rest: &str| format!("/imodels/{DEFAULT_IMODEL_ID}/{rest}");
    let listed = platform.get(&of("users")).await.ok(200);
    assert!(!listed["users"].as_array().unwrap().is_empty());
    platform
        .get(&of("users?$top=x"))
        .await
        .is(422, "InvalidiModelsRequest");
    let creator = changeset["creatorId"].as_str().unwrap();
    let user = platform.get(&of(&format!("users/{creator}"))).await.ok(200)["user"].clone();
    assert_eq!(
        (&user["id"], &user["statistics"]["pushedChangesetsCount"]),
        (&json!(creator), &json!(2))
    );
    platform
        .get(&of("users/missing"))
        .await
        .is(404, "UserNotFound");
    for rest in [
        "changesets",
        "changesets/1",
        "namedversions",
        "namedversions/x",
        "users",
        "users/x",
        "operations/create",
    ] {
        for (id, code, status) in [
            (NOBODY, "iModelNotFound", 404),
            ("x", "InvalidiModelsRequest", 422),
        ] {
            platform
                .get(&format!("/imodels/{id}/{rest}"))
                .await
                .is(status, code);
        }
    }
}

/// What becomes of elements whose source file or connection is deleted, and the reports and settings of a connection.
async fn removed(platform: &Platform, id: &str, first: &str, bad: &str) {
    let contents = || {
        platform.emulator.state().imodels[DEFAULT_IMODEL_ID]
            .contents
            .iter()
            .map(|held| (held.storage_file_id.clone(), held.mapped))
            .collect::<Vec<_>>()
    };
    let sources = format!("{CONNECTIONS}/{id}/sourceFiles");
    let listed = platform.get(&sources).await.ok(200)["sourceFiles"].clone();
    let source = listed[0]["id"].as_str().unwrap();
    platform
        .delete(&format!("{sources}/{source}"))
        .await
        .ok(204);
    assert_eq!(contents()[0], (first.to_owned(), false));
    run(platform, id).await;
    assert_eq!(contents().len(), 2, "kept");
    platform.switch("removed-source-file", "elements-deleted");
    run(platform, id).await;
    platform.switch("removed-source-file", "elements-deleted");
    assert_eq!(contents().len(), 1);
    let added = platform.post(&sources, mapped(bad, "MSTN")).await;
    added.ok(201);
    let report = run(platform, id).await;
    platform.switches_off();

    let reports = async |query: &str| {
        platform
            .get(&format!("/synchronization/reports?{query}"))
            .await
    };
    let run_id = report["id"].as_str().unwrap();
    let all = format!("imodelId={DEFAULT_IMODEL_ID}&runId={run_id}");
    let listed = reports(&all).await.ok(200)["reports"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let task = report["jobs"][0]["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["storageFileId"] == bad)
        .unwrap()
        .clone();
    let one = format!("{all}&taskId={}", task["id"].as_str().unwrap());
    let one = reports(&one).await.ok(200)["reports"].clone();
    assert_eq!(one.as_array().unwrap().len(), 1);
    let content = platform
        .blob("GET", one[0]["sasUri"].as_str().unwrap(), b"", &[])
        .await;
    let content = content.ok(200);
    assert_eq!(content["sourceFilesInfo"]["fileName"], "c.zip");
    assert_eq!(
        content["filerecords"][0]["auditrecords"][0]["auditinfo"]["level"],
        "Error"
    );
    for wrong in [
        "",
        "imodelId=x&runId=y",
        &format!("imodelId={DEFAULT_IMODEL_ID}"),
    ] {
        reports(wrong).await.is(422, "InvalidBadgersRequest");
    }

    settings(platform, id).await;
    platform.switch("removed-source-file", "elements-deleted");
    platform
        .delete(&format!("{CONNECTIONS}/{id}"))
        .await
        .ok(204);
    assert_eq!(contents(), [], "gone with the connection");
    platform.switches_off();
}

async fn settings(platform: &Platform, id: &str) {
    let scopes = [
        ("itwins", DEFAULT_ITWIN_ID, "iTwinNotFound"),
        ("imodels", DEFAULT_IMODEL_ID, "iModelNotFound"),
        ("connections", id, "StorageConnectionNotFound"),
    ];
    let of = |kind: &str, id: &str| format!("/synchronization/configurations/{kind}/{id}");
    let drawings = |on: bool| json!({ "settings": { "enableSheetsAndDrawings": on } });
    let ask = async |method: &str, path: &str, body: Value| platform.ask(method, path, body).await;
    for (kind, id, missing) in scopes {
        let path = of(kind, id);
        for (method, body) in [
            ("GET", Value::Null),
            ("PATCH", drawings(true)),
            ("DELETE", Value::Null),
        ] {
            ask(method, &path, body)
                .await
                .is(404, "ConfigurationNotFound");
        }
        let unknown = of(kind, NOBODY);
        ask("POST", &unknown, drawings(true)).await.is(404, missing);
        let made = ask("POST", &path, drawings(true)).await.ok(201)["configuration"].clone();
        assert_eq!(made["scopeId"], id);
        assert_eq!(made["resolvedSettings"]["enableSheetsAndDrawings"], true);
        assert_eq!(made["resolvedSettings"]["skipRvtReprojection"], false);
        ask("POST", &path, drawings(true)).await.ok(200);
        for method in ["POST", "PATCH"] {
            for wrong in [
                json!({ "settings": { "levitate": true } }),
                json!({ "settings": { "enableSheetsAndDrawings": "yes" } }),
            ] {
                ask(method, &path, wrong)
                    .await
                    .is(422, "InvalidConfigurationRequest");
            }
        }
    }
    // Some settings are numbers, and some exist in one scope only.
    let distance = |value: Value| json!({ "overrideRvtReprojectionDistance": value });
    let imodel = of("imodels", DEFAULT_IMODEL_ID);
    let set = ask("PATCH", &imodel, distance(json!(500))).await.ok(200);
    assert_eq!(
        set["configuration"]["settings"]["overrideRvtReprojectionDistance"],
        500
    );
    for (path, wrong) in [(&imodel, json!(true)), (&of("connections", id), json!(500))] {
        ask("PATCH", path, distance(wrong))
            .await
            .is(422, "InvalidConfigurationRequest");
    }
    platform.switch("unknown-setting", "ignored");
    let levitate = json!({ "levitate": true, "clampZExtent": true });
    let set = ask("PATCH", &imodel, levitate).await.ok(200)["configuration"].clone();
    assert_eq!(set["settings"]["clampZExtent"], true);
    assert_eq!(set["settings"]["levitate"], Value::Null);
    platform.switches_off();
    // The narrower scope outweighs the wider one.
    let narrow = of("connections", id);
    ask("PATCH", &narrow, drawings(false)).await.ok(200);
    let shown = ask("GET", &narrow, Value::Null).await.ok(200)["configuration"].clone();
    assert_eq!(shown["resolvedSettings"]["enableSheetsAndDrawings"], false);
    for (kind, id, _) in scopes {
        ask("GET", &of(kind, id), Value::Null).await.ok(200);
        ask("PATCH", &of(kind, id), drawings(true)).await.ok(200);
        ask("DELETE", &of(kind, id), Value::Null).await.ok(204);
    }
}
