//! Limits, outages and expired addresses pass without any action of an operator.

use std::time::Duration;

use futures_util::StreamExt as _;
use itwin_syncd::emulator::{Effect, Fault};

use crate::support::{Site, assert_in_imodel, eventually, platform, sha256, write};

fn answer(route: &str, count: u32, status: u16, headers: &[(&str, &str)]) -> Fault {
    let fault = Fault::on(route).status(status).times(count);
    headers
        .iter()
        .fold(fault, |fault, (name, value)| fault.header(name, value))
}

#[tokio::test]
async fn a_rate_limit_pauses_every_request_to_the_host_as_long_as_it_asks() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator.fault(answer(
        "POST /storage/folders/*/files",
        1,
        429,
        &[("retry-after", "2")],
    ));
    // More than are done with before the pause begins.
    for index in 0..40 {
        write(&folder.join(format!("{index}.ifc")), &index.to_string());
    }
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let requests = site.emulator.requests();
    let struck = requests
        .iter()
        .find(|request| request.status == 429)
        .unwrap()
        .time;
    let pause = Duration::from_millis(1900);
    // What was on its way already arrived at about the same moment.
    let under_way = Duration::from_millis(300);
    for request in requests.iter().filter(|request| request.origin == "api") {
        let after = Duration::try_from(request.time.duration_since(struck)).unwrap_or_default();
        assert!(
            after < under_way || after >= pause,
            "{after:?} after the limit: {request:?}"
        );
    }
}

#[tokio::test]
async fn a_retry_after_of_a_host_survives_a_kill() {
    let (site, folder) = Site::with_folder(platform()).await;
    let asked = [("retry-after", "4")];
    site.emulator
        .fault(answer("POST /storage/folders/*/files", 1, 429, &asked));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    let struck = || {
        let requests = site.emulator.requests();
        requests.into_iter().find(|request| request.status == 429)
    };
    eventually(|| struck().is_some(), || daemon.log()).await;
    let state = site.path("state");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    while itwin_syncd::ledger::Ledger::read(&state)
        .await
        .unwrap()
        .pauses(jiff::Timestamp::now())
        .await
        .unwrap()
        .is_empty()
    {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.kill().await;
    let (struck, before) = (struck().unwrap().time, site.emulator.requests().len());
    // Another file, which was never refused.
    write(&folder.join("other.ifc"), "other");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    let again = site.emulator.requests();
    let first = again
        .iter()
        .skip(before)
        .find(|request| request.origin == "api" && !request.path.contains("connect"));
    let pause = first.unwrap().time.duration_since(struck);
    assert!(
        pause >= jiff::SignedDuration::from_millis(3900),
        "{pause:?}: {again:#?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn no_kind_of_outage_leaves_a_trace_in_storage() {
    let faults = [
        answer("POST /storage/folders/*/files", 1, 500, &[]),
        answer("POST /storage/files/*/complete", 4, 503, &[]),
        answer("PUT *", 1, 503, &[("x-ms-error-code", "ServerBusy")]),
        answer(
            "PUT *",
            1,
            403,
            &[("x-ms-error-code", "AuthenticationFailed")],
        ),
        answer("PUT *", 1, 400, &[("x-ms-error-code", "Md5Mismatch")]),
        answer("POST */run", 1, 409, &[]),
        answer("POST */run", 1, 502, &[]),
        answer("POST */storageConnections", 1, 500, &[]),
        answer("GET */runs/*", 4, 504, &[]),
        answer("POST /connect/token", 2, 503, &[]),
        answer("GET /.well-known/*", 1, 404, &[]),
        answer("GET /storage/*", 1, 401, &[]),
    ];
    let cases = faults.map(|fault| async move {
        let (site, folder) = Site::with_folder(platform()).await;
        site.emulator.fault(fault.clone());
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let (status, log) = daemon.stop().await;
        assert!(status.success(), "{fault:?}: {log}");
        let stored = site.stored("house.ifc");
        assert_eq!(
            stored.completed.unwrap().sha256,
            sha256(b"house"),
            "{fault:?}"
        );
        assert_eq!(site.emulator.state().connections.len(), 1, "{fault:?}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn after_an_outage_many_queued_files_arrive_once_and_within_the_limit() {
    const PER_MINUTE: usize = 200;
    let (mut site, folder) = Site::with_folder(platform().max_source_files(1000)).await;
    site.itwin = format!("requests_per_minute = {PER_MINUTE}\n");
    site.emulator.fault(Fault::on("*").status(503));
    let mut files = std::collections::BTreeMap::new();
    for number in 0..100 {
        let (path, content) = (format!("{number}.ifc"), number.to_string());
        write(&folder.join(&path), &content);
        files.insert(path, content);
    }
    // Two lives of the daemon see nothing but the outage.
    for seen in [10, 20] {
        let daemon = site.start();
        let refused = || site.emulator.requests().len() >= seen;
        eventually(refused, || daemon.log()).await;
        daemon.kill().await;
    }
    site.emulator.clear_faults();
    // Each life counts anew, and does not count requests to the identity server.
    let started = jiff::Timestamp::now();
    let daemon = site.start();
    site.synchronized(files.len(), &daemon).await;
    daemon.stop().await;
    assert_in_imodel(&site.emulator.state(), &files);
    let requests = site.emulator.requests();
    let api: Vec<_> = requests
        .iter()
        .filter(|request| request.origin == "api" && request.time >= started)
        .filter(|request| {
            !request.path.starts_with("/.well-known") && !request.path.starts_with("/connect")
        })
        .collect();
    assert!(api.len() > PER_MINUTE, "{} requests", api.len());
    let minute = jiff::SignedDuration::from_secs(59);
    for (first, later) in api.iter().zip(api.iter().skip(PER_MINUTE)) {
        assert!(later.time.duration_since(first.time) >= minute);
    }
}

#[tokio::test]
async fn half_of_an_hours_requests_are_sent_at_once_and_the_rest_is_spread() {
    const PER_HOUR: usize = 60;
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.itwin = format!("requests_per_hour = {PER_HOUR}\n");
    for number in 0..20 {
        write(&folder.join(format!("{number}.ifc")), "content");
    }
    let daemon = site.start();
    let spread = || {
        daemon
            .log()
            .contains("half of itwin.requests_per_hour is used")
    };
    eventually(spread, || daemon.log()).await;
    let requests = site.emulator.requests();
    let api: Vec<_> = requests
        .iter()
        .map(|request| format!("{} {}", request.method, request.path))
        // Neither blobs nor tokens count.
        .filter(|line| line.contains(" /imodels/") || line.contains(" /storage/"))
        .collect();
    // The next one is sent two minutes later.
    assert_eq!(api.len(), PER_HOUR / 2, "{api:#?}");
    daemon.stop().await;
    assert!(
        site.emulator
            .requests()
            .iter()
            .all(|request| request.status != 429)
    );
}

/// Each step of the workflow, as a route.
const STEPS: [&str; 14] = [
    "GET /.well-known/*",
    "POST /connect/token",
    "GET /imodels/*",
    "GET /storage/",
    "GET /storage/folders/*/files",
    "POST /storage/folders/*/files",
    "PUT /emulated/*",
    "POST /storage/files/*/complete",
    "POST /storage/files/*/updateContent",
    "GET /synchronization/imodels/storageConnections",
    "POST /synchronization/imodels/storageConnections",
    "GET */sourceFiles",
    "POST */run",
    "GET */runs/*",
];

/// What can happen to a request.
fn effects() -> Vec<Effect> {
    let status = |status, body: &str, after_effect| Effect::Status {
        status,
        body: body.to_owned(),
        headers: Vec::new(),
        after_effect,
    };
    let mut effects: Vec<_> = [400, 401, 403, 404, 408, 409, 413, 422, 500, 503]
        .into_iter()
        .map(|code| status(code, "", false))
        .collect();
    effects.extend([
        status(200, "{\"anything\": []}", false),
        status(200, "<html>", true),
        status(502, "<html>", true),
        status(429, "", false),
        Effect::Reset {
            after_effect: false,
        },
        Effect::Reset { after_effect: true },
        Effect::CutBody { after: 1 },
        Effect::CutAnswer,
        Effect::Slow {
            bytes_per_second: 2000,
        },
        Effect::RevokeTokens,
        Effect::ExpireAddress { ms: 0 },
        Effect::Latency {
            ms: 500,
            jitter_ms: 0,
        },
    ]);
    // A limit that names no pause means half a minute.
    for effect in &mut effects {
        if let Effect::Status {
            status: 429,
            headers,
            ..
        } = effect
        {
            headers.push(("retry-after".to_owned(), "1".to_owned()));
        }
    }
    effects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_request_of_any_step_the_last_content_arrives_once() {
    let cases = STEPS.iter().flat_map(|step| {
        effects().into_iter().map(move |effect| async move {
            let (site, folder) =
                Site::with_folder(platform().run_duration(Duration::from_millis(50))).await;
            let fault = Fault::on(*step).effect(effect).times(2);
            write(&folder.join("house.ifc"), "zero");
            let is_update = step.ends_with("updateContent");
            if !is_update {
                site.emulator.fault(fault.clone());
            }
            let daemon = site.start();
            if is_update {
                site.synchronized(1, &daemon).await;
                site.emulator.fault(fault.clone());
                write(&folder.join("house.ifc"), "one");
            }
            let began = site.emulator.requests().len();
            // As far as it comes: refused for good, or synchronized in spite of it.
            let patience = tokio::time::Instant::now() + Duration::from_secs(60);
            loop {
                let status = site.status().await;
                let file = status.get("north/house.ifc");
                let output = |key: &str| file.map(|file| file[key].clone()).unwrap_or_default();
                let arrived = output("result") == "synchronized" && output("state") == "done";
                let asked = site.emulator.requests().len() > began || !is_update;
                if asked && (arrived || output("state") == "failed") {
                    break;
                }
                assert!(
                    tokio::time::Instant::now() < patience,
                    "{fault:?}: {status:#?}\n{}",
                    daemon.log()
                );
                daemon.logs_more().await;
            }
            if let Effect::Status { status, .. } = fault.effect {
                let struck = site.emulator.requests();
                let struck = struck.iter().any(|request| request.status == status);
                assert!(struck, "{fault:?} struck nothing");
            }
            site.emulator.clear_faults();
            write(&folder.join("house.ifc"), "two, longer");
            let arrived = || {
                let files = site.emulator.state().files;
                let mut completed = files.values().filter_map(|file| file.completed.as_ref());
                completed.any(|content| content.sha256 == sha256(b"two, longer"))
            };
            eventually(arrived, || format!("{fault:?}: {}", daemon.log())).await;
            site.synchronized(1, &daemon).await;
            let (status, log) = daemon.stop().await;
            assert!(
                status.success() && !log.contains("panicked"),
                "{fault:?}: {log}"
            );
            let files = [("house.ifc".to_owned(), "two, longer".to_owned())];
            let mut state = site.emulator.state();
            // A file that was created and never given content is nothing to anybody.
            state.files.retain(|_, file| file.completed.is_some());
            assert_in_imodel(&state, &files.into());
        })
    });
    let cases: Vec<()> = futures_util::stream::iter(cases)
        .buffer_unordered(24)
        .collect()
        .await;
    assert_eq!(cases.len(), STEPS.len() * effects().len());
}

#[tokio::test]
async fn the_configured_number_of_requests_in_a_minute_is_never_exceeded() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.itwin = "requests_per_minute = 20\n".to_owned();
    site.top += "shutdown_grace = \"1s\"\n";
    for number in 0..30 {
        write(&folder.join(format!("{number}.ifc")), &number.to_string());
    }
    let daemon = site.start();
    let api = || {
        let requests = site.emulator.requests();
        let api = requests.iter().filter(|request| request.origin == "api");
        // Tokens come from another service.
        api.filter(|request| {
            !request.path.contains("connect") && !request.path.contains("well-known")
        })
        .count()
    };
    eventually(|| api() == 20, || daemon.log()).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(api(), 20);
    let (status, _) = daemon.stop().await;
    assert!(status.success(), "it ends in time although it waits");
}

#[tokio::test]
async fn a_token_is_requested_once_and_renewed_before_it_expires() {
    let (site, folder) = Site::with_folder(platform().token_lifetime(Duration::from_secs(4))).await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    assert_eq!(site.emulator.state().tokens_issued, 1);
    let first = site.requests("POST", "/connect/token")[0].time;
    // Until the token is about to end.
    let ending =
        || jiff::Timestamp::now().duration_since(first) > jiff::SignedDuration::from_millis(3100);
    eventually(ending, String::new).await;
    write(&folder.join("c.ifc"), "c");
    site.synchronized(3, &daemon).await;
    assert!(site.emulator.state().tokens_issued >= 2);
    let refused: Vec<_> = site
        .emulator
        .requests()
        .into_iter()
        .filter(|request| request.status == 401)
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_upload_address_that_expired_is_renewed_for_the_same_file() {
    let (site, folder) = Site::with_folder(platform()).await;
    let expired = [("x-ms-error-code", "AuthenticationFailed")];
    site.emulator.fault(answer("PUT *", 2, 403, &expired));
    write(&folder.join("house.ifc"), "house");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    assert_eq!(site.requests("POST", "/updateContent").len(), 2);
    assert_eq!(site.requests("POST", "/files").len(), 1);
    site.stored("house.ifc");
}

/// A token for requests of the test's own.
async fn token(site: &Site) -> String {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "service-test"),
        ("client_secret", crate::support::SECRET),
        ("scope", "itwin-platform"),
    ];
    let answer = reqwest::Client::new()
        .post(format!("{}/connect/token", site.emulator.api_url()))
        .form(&form)
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn of_two_storage_folders_of_one_name_the_oldest_is_used_by_every_daemon() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("first.ifc"), "first");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let root = site.stored("first.ifc").parent_folder_id;
    let token = token(&site).await;
    let mut twins = Vec::new();
    for _ in 0..2 {
        let made = reqwest::Client::new()
            .post(format!(
                "{}/storage/folders/{root}/folders",
                site.emulator.api_url()
            ))
            .bearer_auth(&token)
            .header("accept", "application/vnd.bentley.itwin-platform.v1+json")
            .json(&serde_json::json!({ "displayName": "inner" }))
            .send()
            .await
            .unwrap();
        let made: serde_json::Value = made.json().await.unwrap();
        twins.push(made["folder"]["id"].as_str().unwrap().to_owned());
    }
    write(&folder.join("inner/second.ifc"), "second");
    for lives in 0..2 {
        let daemon = site.start();
        site.synchronized(2, &daemon).await;
        daemon.stop().await;
        assert_eq!(
            site.stored("inner/second.ifc").parent_folder_id,
            twins[0],
            "{lives}"
        );
        // The next one knows nothing.
        std::fs::remove_dir_all(site.path("state")).unwrap();
    }
}

#[tokio::test]
async fn of_two_storage_files_of_one_name_the_oldest_is_used_by_every_daemon() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("first.ifc"), "first");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let root = site.stored("first.ifc").parent_folder_id;
    let (api, token) = (reqwest::Client::new(), token(&site).await);
    let post = |url: String| {
        api.post(url)
            .bearer_auth(&token)
            .header("accept", "application/vnd.bentley.itwin-platform.v1+json")
    };
    let mut twins = Vec::new();
    for _ in 0..2 {
        let made = post(format!(
            "{}/storage/folders/{root}/files",
            site.emulator.api_url()
        ))
        .json(&serde_json::json!({ "displayName": "house.ifc" }))
        .send()
        .await
        .unwrap();
        let made: serde_json::Value = made.json().await.unwrap();
        let link = |name: &str| made["_links"][name]["href"].as_str().unwrap().to_owned();
        let sent = api
            .put(link("uploadUrl"))
            .header("x-ms-blob-type", "BlockBlob")
            .body("another client's")
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 201);
        let completed = post(link("completeUrl")).header("content-length", 0);
        let completed: serde_json::Value = completed.send().await.unwrap().json().await.unwrap();
        twins.push(completed["file"]["id"].as_str().unwrap().to_owned());
    }
    write(&folder.join("house.ifc"), "house");
    for lives in 0..2 {
        let daemon = site.start();
        site.synchronized(2, &daemon).await;
        daemon.stop().await;
        let files = site.emulator.state().files;
        let content = |id: &String| files[id].completed.as_ref().unwrap().sha256.clone();
        assert_eq!(content(&twins[0]), sha256(b"house"), "{lives}");
        assert_eq!(content(&twins[1]), sha256(b"another client's"), "{lives}");
        // The next one knows nothing.
        std::fs::remove_dir_all(site.path("state")).unwrap();
    }
}

#[tokio::test]
async fn an_earlier_run_of_another_client_is_not_taken_for_the_lost_one() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("first.ifc"), "first");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let connections = site.emulator.state().connections;
    let connection = connections.into_keys().next().unwrap();
    let started = reqwest::Client::new()
        .post(format!(
            "{}/synchronization/imodels/storageConnections/{connection}/run",
            site.emulator.api_url()
        ))
        .bearer_auth(token(&site).await)
        .header("accept", "application/vnd.bentley.itwin-platform.v1+json")
        .header("content-length", 0)
        .send()
        .await
        .unwrap();
    assert_eq!(started.status(), 202);
    // Longer than clocks may differ, and than the run takes.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    site.emulator
        .fault(Fault::on("POST */run").reset().times(1));
    write(&folder.join("second.ifc"), "second");
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    let files = [("first.ifc", "first"), ("second.ifc", "second")];
    let files = files.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_in_imodel(&site.emulator.state(), &files.into());
}

#[tokio::test]
async fn what_was_deleted_on_the_platform_is_created_again() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let first = site.stored("house.ifc").id;
    let (api, token) = (reqwest::Client::new(), token(&site).await);
    let base = site.emulator.api_url();
    let connection = site
        .emulator
        .state()
        .connections
        .into_keys()
        .next()
        .unwrap();
    for path in [
        format!("storage/files/{first}"),
        format!("synchronization/imodels/storageConnections/{connection}"),
    ] {
        let deleted = api
            .delete(format!("{base}/{path}"))
            .bearer_auth(&token)
            .header("accept", "application/vnd.bentley.itwin-platform.v1+json")
            .send()
            .await
            .unwrap();
        assert_eq!(deleted.status(), 204);
    }
    write(&folder.join("house.ifc"), "house, changed");
    let again = || {
        let files = site.emulator.state().files;
        files
            .values()
            .any(|file| !file.deleted && file.completed.is_some())
    };
    eventually(again, || daemon.log()).await;
    let mapped = || {
        let id = site.stored("house.ifc").id;
        let connections = site.emulator.state().connections;
        connections.values().any(|one| {
            one.source_files
                .iter()
                .any(|file| file.storage_file_id == id)
        })
    };
    eventually(mapped, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_deleted_between_its_upload_and_its_run_is_uploaded_again() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    // Time enough to delete it.
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"3s\"");
    let token = token(&site).await;
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    let stored = || {
        let files = site.emulator.state().files;
        files.into_values().find(|file| file.completed.is_some())
    };
    eventually(|| stored().is_some(), || daemon.log()).await;
    let first = stored().unwrap().id;
    let deleted = reqwest::Client::new()
        .delete(format!("{}/storage/files/{first}", site.emulator.api_url()))
        .bearer_auth(&token)
        .header("accept", "application/vnd.bentley.itwin-platform.v1+json")
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), 204);
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    assert_ne!(site.stored("house.ifc").id, first);
    let files = [("house.ifc".to_owned(), "house".to_owned())];
    assert_in_imodel(&site.emulator.state(), &files.into());
}

#[tokio::test]
async fn a_size_in_storage_that_differs_from_what_was_sent_does_not_count() {
    let (site, folder) = Site::with_folder(platform()).await;
    site.emulator.fault(
        Fault::on("POST /storage/files/*/complete")
            .status(200)
            .body(r#"{"file": {"id": "f", "size": 1}}"#)
            .after_effect()
            .times(1),
    );
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let (_, log) = daemon.stop().await;
    assert!(
        log.contains("storage reports 1 bytes, but 5 bytes were sent"),
        "{log}"
    );
    assert_eq!(site.stored("house.ifc").completions, 2);
}

#[tokio::test]
async fn a_refused_complete_of_equal_size_does_not_count() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    site.emulator
        .fault(answer("POST /storage/files/*/complete", 1, 422, &[]));
    write(&folder.join("house.ifc"), "two");
    let current = || site.stored("house.ifc").completed.unwrap().sha256 == sha256(b"two");
    eventually(current, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn content_that_was_sent_but_not_completed_is_not_taken_for_what_storage_held_before() {
    let mut switches = itwin_syncd::emulator::Switches::default();
    switches.update_blob = itwin_syncd::emulator::UpdateBlob::Same;
    let (site, folder) = Site::with_folder(platform().switches(switches)).await;
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    // The bytes arrive, and nobody tells the daemon.
    site.emulator
        .fault(Fault::on("PUT *").reset().after_effect());
    write(&folder.join("house.ifc"), "two");
    let sent = || site.stored("house.ifc").blob_writes >= 2;
    eventually(sent, || daemon.log()).await;
    daemon.kill().await;
    site.emulator.clear_faults();
    // As it was when it was synchronized; but storage has lost that by now.
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    let again = || site.stored("house.ifc").completions == 2;
    eventually(again, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    assert_eq!(
        site.stored("house.ifc").completed.unwrap().sha256,
        sha256(b"one")
    );
    daemon.stop().await;
}
