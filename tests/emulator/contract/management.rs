//! iTwins and iModels.

use std::sync::Arc;

use itwin_syncd::emulator::DEFAULT_ITWIN_ID;
use serde_json::{Value, json};

use super::{FORBIDDEN_IMODEL, NOBODY, platform};
use crate::support::{Platform, Seen};

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
    for query in ["status=Active&includeInactive=true", "$top=1001", "$top=0"] {
        platform
            .get(&format!("/itwins?{query}"))
            .await
            .is(422, "InvalidiTwinsRequest");
    }
    personal_lists(&platform, &id).await;
    platform.delete(&format!("/itwins/{id}")).await.ok(204);
    platform
        .delete(&format!("/itwins/{id}"))
        .await
        .is(404, "iTwinNotFound");
}

/// Favorites, recently used iTwins, and the account.
async fn personal_lists(platform: &Platform, id: &str) {
    let names = async |path: &str| {
        let listed = platform.get(path).await.ok(200)["iTwins"].clone();
        let ids = listed.as_array().unwrap().iter();
        ids.map(|itwin| itwin["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for list in ["favorites", "recents"] {
        let all = format!("/itwins/{list}");
        assert_eq!(names(&all).await, Vec::<String>::new());
        for id in [DEFAULT_ITWIN_ID, id, DEFAULT_ITWIN_ID] {
            platform
                .post(&format!("{all}/{id}"), Value::Null)
                .await
                .ok(204);
        }
        // The one that was added last comes first.
        assert_eq!(names(&all).await, [DEFAULT_ITWIN_ID, id]);
        assert_eq!(
            names(&format!("{all}?subClass=Asset,Portfolio")).await,
            [id]
        );
        platform
            .get(&format!("{all}?subClass=Castle"))
            .await
            .is(422, "InvalidiTwinsRequest");
        platform
            .post(&format!("{all}/{NOBODY}"), Value::Null)
            .await
            .is(404, "iTwinNotFound");
        platform
            .post(&format!("{all}/nonsense"), Value::Null)
            .await
            .is(422, "InvalidiTwinsRequest");
    }
    let one = format!("/itwins/favorites/{id}");
    platform.delete(&one).await.ok(204);
    assert_eq!(names("/itwins/favorites").await, [DEFAULT_ITWIN_ID]);
    platform
        .delete(&format!("/itwins/favorites/{NOBODY}"))
        .await
        .is(404, "iTwinNotFound");
    platform
        .delete("/itwins/favorites/nonsense")
        .await
        .is(422, "InvalidiTwinsRequest");
    for number in 0..30 {
        let body =
            json!({ "displayName": format!("n{number}"), "class": "Thing", "subClass": "Asset" });
        let made = platform.post("/itwins", body).await.ok(201)["iTwin"]["id"].clone();
        let path = format!("/itwins/recents/{}", made.as_str().unwrap());
        platform.post(&path, Value::Null).await.ok(204);
    }
    assert_eq!(names("/itwins/recents").await.len(), 25);
    let account = platform.get("/itwins/myprimaryaccount").await.ok(200)["iTwin"].clone();
    assert_eq!(account["subClass"], "Account");
    let of = |id: &str| format!("/itwins/{id}/account");
    assert_eq!(platform.get(&of(id)).await.ok(200)["iTwin"], account);
    platform.get(&of(NOBODY)).await.is(404, "iTwinNotFound");
    platform
        .get(&of("nonsense"))
        .await
        .is(422, "InvalidiTwinsRequest");
}

/// All items of a list, by the links that the answers give.
async fn followed(platform: &Platform, first: &str, field: &str) -> Vec<String> {
    let mut next = Some(first.to_owned());
    let mut found = Vec::new();
    while let Some(path) = next {
        let page = platform.get(&path).await.ok(200);
        for item in page[field].as_array().unwrap() {
            found.push(item["displayName"].as_str().unwrap().to_owned());
        }
        let href = page["_links"]["next"]["href"].as_str();
        next = href.map(|href| {
            let path = href.strip_prefix(platform.emulator.api_url()).unwrap();
            path.to_owned()
        });
        assert!(found.len() < 100, "{first} does not end");
    }
    found
}

#[tokio::test]
async fn following_next_links_returns_every_item_once_in_the_requested_order() {
    let platform = Platform::start(itwin_syncd::emulator::Emulator::builder()).await;
    let names = ["Alpha", "Beta", "Gamma", "Delta", "Epsilon"];
    for name in names {
        let body = json!({ "displayName": format!("{name} iTwin"), "class": "Thing", "subClass": "Asset" });
        platform.post("/itwins", body).await.ok(201);
        let body = json!({ "name": format!("{name} iModel"), "iTwinId": DEFAULT_ITWIN_ID });
        platform.post("/imodels", body).await.ok(201);
    }
    let sorted = |kind: &str| {
        let mut names = names.map(|name| format!("{name} {kind}")).to_vec();
        names.sort();
        names.reverse();
        names
    };
    for order in ["$orderBy=displayName%20desc", "$orderby=displayName+desc"] {
        let itwins = format!("/itwins?{order}&$top=2&subclass=Asset&$search=itwin");
        assert_eq!(
            followed(&platform, &itwins, "iTwins").await,
            sorted("iTwin")
        );
        for paging in ["$top=2", "$top=2&$continuationToken="] {
            let imodels = format!(
                "/imodels?itwinid={DEFAULT_ITWIN_ID}&$search=MODEL&{}&{paging}&state=initialized&name=",
                order.replace("displayName", "name")
            );
            let imodels = imodels.trim_end_matches("&name=").to_owned();
            let found = followed(&platform, &imodels, "iModels").await;
            let found: Vec<String> = found
                .into_iter()
                .filter(|name| name != "Emulated iModel")
                .collect();
            assert_eq!(found, sorted("iModel"), "{imodels}");
        }
    }
    let page = platform
        .get("/itwins?$TOP=2&SUBCLASS=Asset&$orderBy=displayName%20desc&$search=A%20i")
        .await
        .ok(200);
    let href = page["_links"]["next"]["href"].as_str().unwrap();
    let expected =
        "/itwins?subClass=Asset&$orderBy=displayName%20desc&$search=A%20i&$skip=2&$top=2";
    assert!(href.ends_with(expected), "{href}");
    // A bare media type is served like a missing one.
    for accept in ["application/json", "*/*"] {
        platform
            .ask_with("GET", "/itwins", Value::Null, &[("accept", accept)])
            .await
            .ok(200);
    }
}

/// The ways to create an iModel, and what a body may say.
async fn creation(platform: &Platform) {
    let with = |name: &str, more: Value| {
        let mut body = json!({ "name": name, "iTwinId": DEFAULT_ITWIN_ID });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let create = async |body: Value| platform.post("/imodels", body).await;
    for wrong in [
        json!({ "description": "x".repeat(256) }),
        json!({ "containersEnabled": 8 }),
        json!({ "containersEnabled": "one" }),
        json!({ "creationMode": "levitated" }),
        json!({ "creationMode": "fromBaseline" }),
    ] {
        create(with("X", wrong))
            .await
            .is(422, "InvalidiModelsRequest");
    }
    let template =
        json!({ "creationMode": "fromiModelVersion", "template": { "iModelId": NOBODY } });
    create(with("X", template)).await.is(404, "iModelNotFound");
    let more =
        json!({ "creationMode": "empty", "containersEnabled": 3, "description": "x".repeat(255) });
    let made = create(with("Empty", more)).await.ok(201)["iModel"].clone();
    assert_eq!(
        (&made["containersEnabled"], &made["state"]),
        (&json!(3), &json!("initialized"))
    );
    let one = format!("/imodels/{}", made["id"].as_str().unwrap());
    let operation = platform.get(&format!("{one}/operations/create")).await;
    assert_eq!(operation.ok(200)["createOperation"]["state"], "successful");
    let patch = async |body: Value| platform.ask("PATCH", &one, body).await;
    patch(json!({ "description": "x".repeat(256) }))
        .await
        .is(422, "InvalidiModelsRequest");
    assert_eq!(
        patch(json!({ "containersEnabled": 0 })).await.ok(200)["iModel"]["containersEnabled"],
        0
    );

    let more = json!({ "creationMode": "fromBaseline", "baselineFile": { "size": 4 } });
    let made = create(with("Baseline", more)).await.ok(201)["iModel"].clone();
    assert_eq!(made["state"], "notInitialized");
    let listed = async |state: &str| {
        let path = format!("/imodels?iTwinId={DEFAULT_ITWIN_ID}&state={state}");
        platform.get(&path).await.ok(200)["iModels"].to_string()
    };
    assert!(listed("notInitialized").await.contains("Baseline"));
    assert!(!listed("initialized").await.contains("Baseline"));
    let complete = made["_links"]["complete"]["href"].as_str().unwrap();
    let complete = complete.strip_prefix(platform.emulator.api_url()).unwrap();
    platform
        .post(complete, Value::Null)
        .await
        .is(422, "InvalidiModelsRequest");
    platform
        .put(made["_links"]["upload"]["href"].as_str().unwrap(), b"base")
        .await;
    let completed = platform.post(complete, Value::Null).await.ok(200);
    assert_eq!(completed["baselineFile"]["fileSize"], 4);
    assert!(listed("initialized").await.contains("Baseline"));
    platform
        .post(&format!("/imodels/{NOBODY}/complete"), Value::Null)
        .await
        .is(404, "iModelNotFound");
}

/// New iModels that are initialized later or not at all, that lists do not have, or that are limited in number.
async fn new_imodels(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let new = async |name: &str| {
        let body = json!({ "name": name, "iTwinId": DEFAULT_ITWIN_ID });
        platform.post("/imodels", body).await
    };
    let listed = async |name: &str| {
        let path = format!("/imodels?iTwinId={DEFAULT_ITWIN_ID}&name={name}");
        let found = platform.get(&path).await.ok(200);
        found["iModels"].as_array().unwrap().len()
    };
    for (word, state, operation) in [
        ("later", "initialized", "successful"),
        ("failed", "notInitialized", "failed"),
    ] {
        platform.switch("new-imodel", word);
        let made = new(word).await.ok(201)["iModel"].clone();
        assert_eq!(made["state"], "notInitialized");
        let path = format!("/imodels/{}", made["id"].as_str().unwrap());
        for _ in 0..3 {
            let read = platform.get(&path).await.ok(200);
            assert_eq!(read["iModel"]["state"], "notInitialized");
        }
        let read = platform.get(&path).await.ok(200);
        assert_eq!(read["iModel"]["state"], state);
        let created = platform.get(&format!("{path}/operations/create")).await;
        assert_eq!(created.ok(200)["createOperation"]["state"], operation);
    }
    for (word, later) in [("lagging", 1), ("absent", 0)] {
        platform.switch("new-imodel-list", word);
        new(word).await.ok(201);
        assert_eq!(listed(word).await, 0);
        new(word).await.is(409, "iModelExists");
        assert_eq!(listed(word).await, later);
    }
    platform.switch("create-limit", "five");
    new("fifth").await.ok(201);
    new("sixth").await.is(429, "RateLimitExceeded");
    platform.switches_off();
}

pub async fn imodels(seen: &Arc<Seen>) {
    new_imodels(seen).await;
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
    for wrong in [
        "state=odd",
        "$orderBy=size",
        "$top=1001",
        "$continuationToken=odd",
    ] {
        platform
            .get(&of(&format!("&{wrong}")))
            .await
            .is(422, "InvalidiModelsRequest");
    }
    creation(&platform).await;
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
