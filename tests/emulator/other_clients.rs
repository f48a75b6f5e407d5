//! What other users and applications do to the same iModel, by plain HTTP: every step that a client has to notice.

use std::time::Duration;

use itwin_syncd::emulator::{
    Builder, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID,
    Emulator, Report, RunFault, Switches, TaskFault,
};
use serde_json::{Value, json};

use super::contract::connections::{CONNECTIONS, connected, connection_of, mapped};
use super::contract::runs::ended;
use super::support::{Platform, V1, links, sha256};

const OTHER: (&str, &str) = ("service-other", "other-secret");

const FULL: [(&str, &str); 2] = [("accept", V1), ("prefer", "return=representation")];

fn two_clients() -> Builder {
    Emulator::builder()
        .client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
        .client(OTHER.0, OTHER.1)
        .display_name(OTHER.0, "Other Office")
        .run_duration(Duration::from_millis(100))
}

async fn root(platform: &Platform) -> String {
    let top = platform
        .get(&format!("/storage?iTwinId={DEFAULT_ITWIN_ID}"))
        .await
        .ok(200);
    let href = top["_links"]["folder"]["href"].as_str().unwrap();
    href.rsplit('/').next().unwrap().to_owned()
}

async fn file(platform: &Platform, id: &str) -> Value {
    let shown = platform.get(&format!("/storage/files/{id}")).await;
    shown.ok(200)["file"].clone()
}

async fn run(platform: &Platform, connection: &str) -> Value {
    let path = format!("{CONNECTIONS}/{connection}/run");
    let started = platform.post(&path, Value::Null).await;
    assert_eq!(started.status, 202);
    ended(platform, started.header("location")).await
}

fn tasks(run: &Value) -> Vec<Value> {
    let jobs = run["jobs"].as_array().unwrap();
    jobs.iter()
        .flat_map(|job| job["tasks"].as_array().unwrap().clone())
        .collect()
}

#[tokio::test]
async fn content_of_another_client_has_its_author_and_time() {
    let mut platform = Platform::start(two_clients()).await;
    let root = root(&platform).await;
    let id = platform.upload(&root, "a.ifc", b"ours").await;
    let ours = file(&platform, &id).await;
    assert_eq!(ours["lastModifiedByDisplayName"], DEFAULT_CLIENT_ID);
    assert_eq!(ours["lastModifiedDateTime"], ours["createdDateTime"]);
    let again = file(&platform, &id).await;
    assert_eq!(again, ours, "reading changes nothing");

    platform.sign_in_as(OTHER).await;
    let update = format!("/storage/files/{id}/updateContent");
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    platform.put(&url, b"theirs").await;
    platform.complete(&id).await.ok(200);
    let theirs = file(&platform, &id).await;
    assert_eq!(theirs["lastModifiedByDisplayName"], "Other Office");
    assert!(theirs["lastModifiedDateTime"].as_str() > ours["lastModifiedDateTime"].as_str());
    assert_eq!(theirs["createdDateTime"], ours["createdDateTime"]);
    let links = &theirs["_links"];
    assert_eq!(links["createdBy"], ours["_links"]["createdBy"]);
    assert_ne!(links["createdBy"], links["lastModifiedBy"]);
    let listed = format!("/storage/folders/{root}/files");
    let listed = platform.get(&listed).await.ok(200);
    assert_eq!(listed["files"][0], theirs);
    let state = platform.emulator.state();
    let held = state.files[&id].completed.as_ref().unwrap();
    assert_eq!((held.version, &held.sha256), (2, &sha256(b"theirs")));
}

#[tokio::test]
async fn changes_by_other_clients_can_be_made_over_http() {
    let mut platform = Platform::start(two_clients()).await;
    let root = root(&platform).await;
    let id = platform.upload(&root, "a.ifc", b"ours").await;
    let spare = platform.upload(&root, "b.ifc", b"spare").await;
    let ours = connected(&platform, &[mapped(&id, "IFC")]).await;

    platform.sign_in_as(OTHER).await;
    // A source file gets another connector and another storage file, and is removed.
    let sources = format!("{CONNECTIONS}/{ours}/sourceFiles");
    let listed = platform.ask_with("GET", &sources, Value::Null, &FULL).await;
    let source = listed.ok(200)["sourceFiles"][0].clone();
    let source = format!("{sources}/{}", source["id"].as_str().unwrap());
    let put = async |body| platform.ask("PUT", &source, body).await.ok(200)["sourceFile"].clone();
    assert_eq!(put(mapped(&id, "DWG")).await["connectorType"], "DWG");
    assert_eq!(put(mapped(&spare, "IFC")).await["storageFileId"], spare);
    platform.delete(&source).await.ok(204);
    assert_eq!(
        platform.get(&sources).await.ok(200)["sourceFiles"],
        json!([])
    );

    // A connection is renamed, changed to `User`, and deleted; another one of any name takes its file.
    let one = format!("{CONNECTIONS}/{ours}");
    let body = json!({ "displayName": "taken over", "authenticationType": "User" });
    let changed = platform.ask("PUT", &one, body).await.ok(200)["connection"].clone();
    assert_eq!(
        (&changed["displayName"], &changed["authenticationType"]),
        (&json!("taken over"), &json!("User"))
    );
    platform.delete(&one).await.ok(204);
    platform
        .get(&one)
        .await
        .is(404, "StorageConnectionNotFound");
    let mut body = connection_of(&[mapped(&id, "IFC")]);
    body["displayName"] = json!("of \u{202e} any name");
    let theirs = platform.post(CONNECTIONS, body).await.ok(201)["connection"].clone();
    assert_eq!(theirs["displayName"], "of \u{202e} any name");

    // A run of that connection that lasts, as ours sees it.
    platform.emulator.fail_run(RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        duration_ms: Some(400),
        count: Some(1),
        ..RunFault::default()
    });
    let theirs = theirs["id"].as_str().unwrap();
    let path = format!("{CONNECTIONS}/{theirs}/run");
    let started = platform.post(&path, Value::Null).await;
    platform
        .sign_in_as((DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET))
        .await;
    let other = connected(&platform, &[mapped(&spare, "IFC")]).await;
    let path = format!("{CONNECTIONS}/{other}/run");
    let refused = platform.post(&path, Value::Null).await;
    assert_eq!(
        (refused.status, refused.header("location")),
        (303, started.header("location"))
    );
    ended(&platform, started.header("location")).await;
    let state = platform.emulator.state();
    let covered = &state.runs.values().next().unwrap().covered;
    assert_eq!(
        (&covered[0].storage_file_id, &covered[0].sha256),
        (&id, &sha256(b"ours"))
    );

    // A storage file that is deleted fails the next run that has it.
    platform
        .delete(&format!("/storage/files/{spare}"))
        .await
        .ok(204);
    let report = run(&platform, &other).await;
    assert_eq!(report["result"], "Error");
}

#[tokio::test]
async fn a_file_without_new_content_has_a_task_or_none() {
    let platform = Platform::start(two_clients()).await;
    let root = root(&platform).await;
    let changing = platform.upload(&root, "a.ifc", b"one").await;
    let resting = platform.upload(&root, "b.ifc", b"two").await;
    let failing = platform.upload(&root, "c.zip", b"three").await;
    let files = [&changing, &resting, &failing].map(|id| mapped(id, "IFC"));
    let id = connected(&platform, &files).await;
    assert_eq!(tasks(&run(&platform, &id).await).len(), 3);
    assert_eq!(tasks(&run(&platform, &id).await).len(), 3, "the default");

    let mut absent = Switches::default();
    absent.set("unchanged-task", "absent").unwrap();
    platform.emulator.set_switches(absent);
    let names = |run: &Value| {
        let tasks = tasks(run);
        let ids = tasks.iter().map(|task| task["storageFileId"].clone());
        ids.collect::<Vec<_>>()
    };
    let second = run(&platform, &id).await;
    assert_eq!(
        names(&second),
        [json!(failing)],
        "a file that failed is read again"
    );
    assert_eq!(second["result"], "Error");
    let update = format!("/storage/files/{changing}/updateContent");
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    platform.put(&url, b"one more").await;
    platform.complete(&changing).await.ok(200);
    let third = run(&platform, &id).await;
    assert_eq!(names(&third), [json!(changing), json!(failing)]);
    let state = platform.emulator.state();
    let covered = &state.runs[third["id"].as_str().unwrap()].covered;
    let has_task: Vec<bool> = covered.iter().map(|file| file.has_task).collect();
    assert_eq!(has_task, [true, false, true]);

    // Mapped again, it is read again; a fault gives it a task anyway.
    platform.emulator.fail_task(TaskFault {
        file: "b.ifc".to_owned(),
        result: "Error".to_owned(),
        count: Some(1),
        ..TaskFault::default()
    });
    assert!(names(&run(&platform, &id).await).contains(&json!(resting)));
    let sources = format!("{CONNECTIONS}/{id}/sourceFiles");
    let listed = platform.get(&sources).await.ok(200)["sourceFiles"].clone();
    let one = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["storageFileId"] == resting);
    let one = one.unwrap()["id"].as_str().unwrap();
    platform.delete(&format!("{sources}/{one}")).await.ok(204);
    platform
        .post(&sources, mapped(&resting, "IFC"))
        .await
        .ok(201);
    assert!(names(&run(&platform, &id).await).contains(&json!(resting)));
    assert!(!names(&run(&platform, &id).await).contains(&json!(resting)));
}

#[tokio::test]
async fn a_task_report_has_counts_and_a_suggested_action() {
    let platform = Platform::start(two_clients()).await;
    let root = root(&platform).await;
    let file = platform.upload(&root, "a.ifc", b"one").await;
    let id = connected(&platform, &[mapped(&file, "IFC")]).await;
    let report = async |result: &str, report: Option<Report>| {
        platform.emulator.fail_task(TaskFault {
            file: file.clone(),
            result: result.to_owned(),
            report,
            count: Some(1),
            ..TaskFault::default()
        });
        let task = tasks(&run(&platform, &id).await)[0].clone();
        assert_eq!(task["result"], result);
        task["details"]["synchronizationReport"].clone()
    };
    let given = Report {
        suggested_action: "Attach the missing reference.".to_owned(),
        message: "Some elements were left out.".to_owned(),
        total_errors_count: 2,
        total_warnings_count: 3,
        total_other_issues_count: 5,
    };
    let shown = json!({
        "suggestedAction": "Attach the missing reference.", "message": "Some elements were left out.",
        "totalErrorsCount": 2, "totalWarningsCount": 3, "totalOtherIssuesCount": 5,
    });
    for result in ["PartialSuccess", "Success", "Error"] {
        assert_eq!(report(result, Some(given.clone())).await, shown, "{result}");
    }
    let usual = report("PartialSuccess", None).await;
    assert_eq!(
        (&usual["totalErrorsCount"], &usual["totalWarningsCount"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(report("Success", None).await, Value::Null);
}
