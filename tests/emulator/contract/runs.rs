//! Runs, their results, and connections of users.

use std::sync::Arc;
use std::time::Duration;

use itwin_syncd::emulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, Emulator, RunFault, TaskFault,
};
use serde_json::{Value, json};

use super::connections::{CONNECTIONS, connected, connection_of, mapped};
use super::{platform, root};
use crate::support::{Platform, Seen, encoded};

pub async fn ended(platform: &Platform, location: &str) -> Value {
    let path = location
        .strip_prefix(platform.emulator.api_url())
        .unwrap_or(location)
        .to_owned();
    for _ in 0..500 {
        let run = platform.get(&path).await.ok(200)["run"].clone();
        if run["state"] == "Completed" {
            return run;
        }
        let tasks = run["jobs"].as_array().unwrap().iter();
        let tasks = tasks.flat_map(|job| job["tasks"].as_array().unwrap());
        for task in tasks {
            let ended = task["state"] == "Completed";
            assert_eq!(ended, task["result"] != "Undetermined", "{task}");
            assert_eq!(ended, !task["endDateTime"].is_null(), "{task}");
        }
        assert_eq!(run["result"], "Undetermined");
        assert!(run["endDateTime"].is_null());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the run does not end");
}

/// A file with another extension of a format that MSTN reads.
async fn undocumented_extension(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let step = platform.upload(&root, "shaft.step", b"x").await;
    let id = connected(&platform, &[mapped(&step, "MSTN")]).await;
    for (word, expected) in [("read", "Success"), ("failed", "Error")] {
        platform.switch("undocumented-extension", word);
        let path = format!("{CONNECTIONS}/{id}/run");
        let started = platform.post(&path, Value::Null).await;
        let report = ended(&platform, started.header("location")).await;
        assert_eq!(report["jobs"][0]["tasks"][0]["result"], expected, "{word}");
    }
}

pub async fn runs(seen: &Arc<Seen>) {
    undocumented_extension(seen).await;
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
    platform.emulator.fail_run(RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(1500),
        count: Some(1),
        ..RunFault::default()
    });
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

    platform.switch("unchanged-task", "absent");
    let silent = run(&id).await;
    let silent = ended(&platform, silent.header("location")).await;
    let named = silent["jobs"].to_string();
    assert!(!named.contains(&good) && named.contains(&wrong), "{named}");
    platform.switches_off();

    // A request within a second of another one may be refused.
    platform.switch("simultaneous-run", "conflict");
    // Long enough for a busy machine.
    platform.emulator.fail_run(RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(900),
        count: Some(1),
        ..RunFault::default()
    });
    let first = run(&id).await;
    assert_eq!(first.status, 202);
    run(&id).await.is(409, "IModelAlreadyProcessingRequest");
    platform.switches_off();
    ended(&platform, first.header("location")).await;
    without_source_files(&platform, &root).await;
    shapefiles(&platform, &root).await;

    let list = format!("{CONNECTIONS}/{id}/runs");
    let listed = platform.get(&list).await.ok(200);
    assert_eq!(listed["runs"].as_array().unwrap().len(), 5);
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

async fn without_source_files(platform: &Platform, root: &str) {
    let file = platform.upload(root, "lone.ifc", b"x").await;
    let id = connected(platform, &[mapped(&file, "IFC")]).await;
    let sources = format!("{CONNECTIONS}/{id}/sourceFiles");
    let listed = platform.get(&sources).await.ok(200);
    let source = listed["sourceFiles"][0]["id"].as_str().unwrap();
    platform
        .delete(&format!("{sources}/{source}"))
        .await
        .ok(204);
    let path = format!("{CONNECTIONS}/{id}/run");
    platform.switch("empty-run", "refused");
    platform
        .post(&path, Value::Null)
        .await
        .is(422, "InvalidStorageConnectionRequest");
    platform.switches_off();
    let started = platform.post(&path, Value::Null).await;
    let report = ended(platform, started.header("location")).await;
    assert_eq!(
        (&report["result"], &report["jobs"]),
        (&json!("Success"), &json!([]))
    );
    platform
        .delete(&format!("{CONNECTIONS}/{id}"))
        .await
        .ok(204);
}

/// A shapefile is read if `.dbf` and `.shx` are complete in its folder, in either case.
async fn shapefiles(platform: &Platform, root: &str) {
    let header = [0, 0, 0x27, 0x0A];
    let lots = platform.upload(root, "lots.shp", &header).await;
    let id = connected(platform, &[mapped(&lots, "GEOSPATIAL")]).await;
    let path = format!("{CONNECTIONS}/{id}/run");
    let result = async || {
        let started = platform.post(&path, Value::Null).await;
        let report = ended(platform, started.header("location")).await;
        let task = &report["jobs"][0]["tasks"][0];
        let error = &task["error"]["message"];
        (task["result"].clone(), error.as_str().map(str::to_owned))
    };
    let lacks = |name: &str| (json!("Error"), Some(format!("{name} not found")));
    assert_eq!(result().await, lacks("lots.dbf"));
    platform.switch("geospatial-companions", "ignored");
    assert_eq!(result().await, (json!("Success"), None));
    platform.switches_off();
    platform.upload(root, "LOTS.DBF", b"x").await;
    assert_eq!(result().await, lacks("lots.shx"));
    platform.upload(root, "lots.shx", b"x").await;
    assert_eq!(result().await, (json!("Success"), None));
    platform
        .delete(&format!("{CONNECTIONS}/{id}"))
        .await
        .ok(204);
}

/// Results on request.
pub async fn on_demand(platform: &Platform, id: &str, good: &str) {
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
            report: None,
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
pub async fn of_people(platform: &Platform, root: &str) {
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
    let output = platform.get(&information).await.ok(200)["authorizationInformation"].clone();
    assert_eq!(output["isUserAuthorized"], false);
    let page = output["_links"]["authorizationUrl"]["href"]
        .as_str()
        .unwrap();
    let page = page.strip_prefix(platform.emulator.api_url()).unwrap();
    let back = platform.get(page).await;
    assert_eq!(
        (back.status, back.header("location")),
        (302, "http://localhost:3301/callback")
    );
    platform.get(page).await.is(400, "invalid_request");
    assert_eq!(
        platform.get(&information).await.ok(200)["authorizationInformation"]["isUserAuthorized"],
        true
    );
    assert_eq!(run().await["result"], "Success");
    // As after 30 days.
    let url = format!("{}/_emulator/end-consents", platform.emulator.api_url());
    let answer = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(run().await["error"]["errorKey"], "UserNotAuthenticated");
    let output = platform.get(&information).await.ok(200);
    let page = output["authorizationInformation"]["_links"]["authorizationUrl"]["href"].clone();
    let page = page.as_str().unwrap();
    let page = page.strip_prefix(platform.emulator.api_url()).unwrap();
    platform.get(page).await;
    assert_eq!(run().await["result"], "Success");
    platform.switch("changed-owner", "creator");
    let one = format!("{CONNECTIONS}/{id}");
    platform
        .ask("PUT", &one, json!({ "authenticationType": "User" }))
        .await
        .ok(200);
    assert_eq!(run().await["result"], "Success");
    platform.switches_off();
}

#[tokio::test]
async fn a_consent_ends_with_its_lifetime() {
    let lifetime = Duration::from_secs(1);
    let builder = Emulator::builder().client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET);
    let platform = Platform::start(builder.owner_token_lifetime(lifetime)).await;
    let information = format!(
        "/synchronization/imodels/connections/authorizationInformation?redirectUrl={}",
        encoded("http://localhost:3301/callback")
    );
    let asked =
        async || platform.get(&information).await.ok(200)["authorizationInformation"].clone();
    let first = asked().await;
    let page = first["_links"]["authorizationUrl"]["href"]
        .as_str()
        .unwrap();
    let page = page.strip_prefix(platform.emulator.api_url()).unwrap();
    platform.get(page).await;
    let began = std::time::Instant::now();
    while asked().await["isUserAuthorized"] == true {
        assert!(began.elapsed().as_secs() < 60, "the consent does not end");
    }
    assert!(platform.emulator.state().authorized_users.len() == 1);
}

#[tokio::test]
async fn a_renamed_text_file_fails_the_file_check() {
    for (check, expected) in [(true, "Error"), (false, "Success")] {
        let builder = itwin_syncd::emulator::Emulator::builder()
            .run_duration(Duration::from_millis(50))
            .file_check(check);
        let platform = Platform::start(builder).await;
        let root = root(&platform).await;
        let text = platform.upload(&root, "text.dwg", b"a text file").await;
        // In blocks, of which the first is shorter than what is inspected.
        let (real, url) = platform.create(&root, "real.dwg").await;
        let ids = ["YQ==", "Yg=="];
        for (id, content) in ids.iter().zip([&b"AC"[..], b"1032 and more"]) {
            let url = format!("{url}&comp=block&blockid={}", encoded(id));
            assert_eq!(platform.blob("PUT", &url, content, &[]).await.status, 201);
        }
        let list = "<BlockList><Latest>YQ==</Latest><Latest>Yg==</Latest></BlockList>";
        let list_url = format!("{url}&comp=blocklist");
        let listed = platform.blob("PUT", &list_url, list.as_bytes(), &[]).await;
        assert_eq!(listed.status, 201);
        platform.complete(&real).await.ok(200);
        let files = [mapped(&text, "DWG"), mapped(&real, "DWG")];
        let id = connected(&platform, &files).await;
        let path = format!("{CONNECTIONS}/{id}/run");
        let started = platform.post(&path, Value::Null).await;
        let report = ended(&platform, started.header("location")).await;
        let tasks = report["jobs"][0]["tasks"].as_array().unwrap();
        let of = |file: &str| {
            tasks
                .iter()
                .find(|task| task["storageFileId"] == file)
                .unwrap()
        };
        assert_eq!(of(&text)["result"], expected);
        assert_eq!(of(&real)["result"], "Success");
        if check {
            let message = of(&text)["error"]["message"].as_str().unwrap();
            assert_eq!(
                message,
                "text.dwg is not a DWG file: its first bytes do not match"
            );
        }
    }
}
