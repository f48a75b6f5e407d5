//! iTwins and iModels.

use std::sync::Arc;

use itwin_syncd::emulator::DEFAULT_ITWIN_ID;
use serde_json::{Value, json};

use super::{FORBIDDEN_IMODEL, NOBODY, platform};
use crate::support::Seen;

pub async fn itwins(seen: &Arc<Seen>) {
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

pub async fn imodels(seen: &Arc<Seen>) {
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
