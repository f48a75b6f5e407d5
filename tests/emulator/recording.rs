//! Exchanges that are written down for others, and compared with what the emulator answers.

use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_CLIENT_SECRET, Emulator, Switches, compare};
use serde_json::{Value, json};

use super::contract::connections::{CONNECTIONS, connected, mapped};
use super::contract::runs::ended;
use super::support::{Platform, links};

/// The whole workflow, with a mistake in it.
async fn workflow(platform: &Platform) {
    let top = format!(
        "/storage?iTwinId={}",
        itwin_syncd::emulator::DEFAULT_ITWIN_ID
    );
    let top = platform.get(&top).await.ok(200);
    let root = top["_links"]["folder"]["href"].as_str().unwrap();
    let root = root.rsplit('/').next().unwrap().to_owned();
    let imodel = itwin_syncd::emulator::DEFAULT_IMODEL_ID;
    platform.get(&format!("/imodels/{imodel}")).await.ok(200);
    let file = platform.upload(&root, "a.ifc", b"ISO-10303-21;").await;
    let update = format!("/storage/files/{file}/updateContent");
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    platform.put(&url, b"ISO-10303-21; again").await;
    platform.complete(&file).await.ok(200);
    platform
        .get("/storage/files/missing")
        .await
        .is(404, "FileNotFound");
    let id = connected(platform, &[mapped(&file, "IFC")]).await;
    let started = platform
        .post(&format!("{CONNECTIONS}/{id}/run"), Value::Null)
        .await;
    ended(platform, started.header("location")).await;
}

#[tokio::test]
async fn a_recording_is_always_complete_and_has_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exchanges.har");
    let builder = Emulator::builder()
        .record(path.clone())
        .run_duration(Duration::from_millis(50));
    let platform = Platform::start(builder).await;
    let read = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let har: Value = serde_json::from_str(&text).expect("the recording should be JSON");
        (text, har["log"]["entries"].as_array().unwrap().clone())
    };
    assert_eq!(read().1.len(), 1, "signing in");
    workflow(&platform).await;
    let (text, entries) = read();
    for secret in [DEFAULT_CLIENT_SECRET, &platform.token, "eyJhbGciOi"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("sig=REDACTED"));
    let upload = entries
        .iter()
        .find(|entry| entry["request"]["method"] == "PUT")
        .unwrap();
    assert_eq!(upload["request"]["bodySize"], 13);
    assert!(
        upload["request"]["postData"].is_null(),
        "content is not recorded"
    );
    let run = entries
        .iter()
        .find(|entry| entry["request"]["url"].as_str().unwrap().ends_with("/run"))
        .unwrap();
    assert_eq!(run["response"]["status"], 202);
    assert!(
        run["response"]["redirectURL"]
            .as_str()
            .unwrap()
            .contains("/runs/")
    );
    let made = entries
        .iter()
        .find(|entry| {
            entry["request"]["url"]
                .as_str()
                .unwrap()
                .ends_with("/files")
        })
        .unwrap();
    let body: Value =
        serde_json::from_str(made["request"]["postData"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(body["displayName"], "a.ifc");
}

#[tokio::test]
async fn comparing_a_recording_lists_each_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exchanges.har");
    let builder = || Emulator::builder().run_duration(Duration::from_millis(50));
    let platform = Platform::start(builder().record(path.clone())).await;
    workflow(&platform).await;
    platform.emulator.stop().await;
    let same = compare(builder(), &path).await.unwrap();
    assert!(same.differences.is_empty(), "{same:#?}");
    assert!(same.compared >= 13, "{same:?}");

    // The recording of a platform that differs in status, code, media type, header and body.
    let text = std::fs::read_to_string(&path).unwrap();
    let mut har: Value = serde_json::from_str(&text).unwrap();
    for entry in har["log"]["entries"].as_array_mut().unwrap() {
        let url = entry["request"]["url"].as_str().unwrap().to_owned();
        let response = &mut entry["response"];
        let mut body: Value =
            serde_json::from_str(response["content"]["text"].as_str().unwrap()).unwrap_or_default();
        if url.ends_with("/missing") {
            body["error"]["code"] = json!("ItemNotFound");
        } else if url.contains("/imodels/") && !url.contains("/synchronization/") {
            body["iModel"]["region"] = json!("North");
            body["iModel"]["containersEnabled"] = json!("one");
            body["iModel"].as_object_mut().unwrap().remove("isSecured");
            response["content"]["mimeType"] = json!("application/problem+json");
        } else if url.ends_with("/run") {
            response["headers"] = json!([]);
        } else if url.contains("/storage?") {
            response["status"] = json!(403);
            body = json!({ "error": { "code": "InsufficientPermissions" } });
        }
        if !body.is_null() {
            response["content"]["text"] = json!(body.to_string());
        }
    }
    std::fs::write(&path, har.to_string()).unwrap();
    let other = compare(builder(), &path).await.unwrap();
    let expected = [
        "GET /imodels/{id}: iModel.containersEnabled is text on the platform, a number in the emulator",
        "GET /imodels/{id}: the emulator lacks iModel.region",
        "GET /imodels/{id}: the platform lacks iModel.isSecured",
        "GET /imodels/{id}: the platform's media type is application/problem+json, the emulator's application/json",
        "GET /storage/files/missing: with 404 the platform's code is ItemNotFound, the emulator's FileNotFound",
        "GET /storage: the platform returned 403 InsufficientPermissions, the emulator 200",
        // Nothing tells then which of the runs is which.
        "GET /synchronization/imodels/storageConnections/{id}/runs/{id}: the platform returned 200, the emulator 404 RunNotFound",
        "POST /synchronization/imodels/storageConnections/{id}/run: the platform's answer has no Location, the emulator's has",
    ];
    let found: Vec<&str> = other.differences.iter().map(String::as_str).collect();
    assert_eq!(found, expected, "{found:#?}");

    // A switch that leans as that platform does takes a difference away.
    let mut switches = Switches::default();
    switches.set("media-type", "vendor").unwrap();
    let leaning = compare(builder().switches(switches), &path).await.unwrap();
    assert_ne!(leaning.differences, other.differences);

    std::fs::write(&path, "{}").unwrap();
    let error = compare(builder(), &path).await.unwrap_err().to_string();
    assert!(error.contains("is not a HAR file"), "{error}");
}
