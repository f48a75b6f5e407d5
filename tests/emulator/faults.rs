//! Injected faults and the control routes; what survives a restart.

use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_ITWIN_ID, Effect, Emulator, Fault};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::Platform;

const WHOLE: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

fn top() -> String {
    format!("/storage?iTwinId={DEFAULT_ITWIN_ID}")
}

impl Platform {
    /// Sets a fault by HTTP.
    async fn inject(&self, fault: Value) {
        let answer = self.post_fault(&fault).await;
        assert_eq!(answer.status(), 204, "{fault}");
    }

    async fn post_fault(&self, fault: &Value) -> reqwest::Response {
        let url = format!("{}/_emulator/faults", self.emulator.api_url());
        self.http.post(url).json(fault).send().await.unwrap()
    }

    async fn root(&self) -> String {
        let top = self.get(&top()).await.ok(200);
        let href = top["_links"]["folder"]["href"].as_str().unwrap();
        href.rsplit('/').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn an_injected_status_has_body_and_headers_before_or_after_the_effect() {
    let platform = Platform::start(Emulator::builder()).await;
    let root = platform.root().await;
    let files = format!("/storage/folders/{root}/files");
    let route = "POST /storage/folders/*/FILES";
    for after_effect in [false, true] {
        let effect = json!({
            "kind": "status", "status": 503, "body": "<html>", "headers": [["Retry-After", "7"]], "afterEffect": after_effect,
        });
        platform
            .inject(json!({ "route": route, "count": 1, "effect": effect }))
            .await;
        let before = platform.emulator.state().files.len();
        let answer = platform
            .post(&files, json!({ "displayName": "a.dgn" }))
            .await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "7"));
        assert_eq!(answer.body, b"<html>");
        let made = platform.emulator.state().files.len() - before;
        assert_eq!(made, usize::from(after_effect));
        platform
            .post(&files, json!({ "displayName": "a.dgn" }))
            .await
            .ok(202);
    }
}

#[tokio::test]
async fn an_invalid_fault_is_rejected_with_the_key_or_value_and_the_accepted_ones() {
    let platform = Platform::start(Emulator::builder()).await;
    for (fault, expected) in [
        (
            json!({ "route": "PUT *", "effect": { "kind": "status", "status": 9999 } }),
            "invalid fault: invalid status 9999: expected 200 to 599",
        ),
        (
            json!({ "route": "PUT *", "cuont": 1, "effect": { "kind": "reset" } }),
            "invalid fault: unknown field `cuont`, expected one of `route`, `skip`, `count`, `effect`",
        ),
    ] {
        let answer = platform.post_fault(&fault).await;
        assert_eq!(answer.status(), 400, "{fault}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"], expected);
    }
    platform.get(&top()).await.ok(200);
}

#[tokio::test]
async fn a_connection_closes_before_or_after_the_effect_or_within_a_body() {
    let platform = Platform::start(Emulator::builder()).await;
    let root = platform.root().await;
    let (_, url) = platform.create(&root, "a.dgn").await;
    let put = |size: usize| {
        let request = platform.http.put(&url).header(WHOLE.0, WHOLE.1);
        request.body(vec![7; size]).send()
    };
    let arrived = || {
        platform
            .emulator
            .state()
            .files
            .values()
            .map(|file| file.blob_writes)
            .sum::<u32>()
    };
    for (effect, writes) in [
        (
            Effect::Reset {
                after_effect: false,
            },
            0,
        ),
        (Effect::CutBody { after: 100_000 }, 0),
        (Effect::Reset { after_effect: true }, 1),
    ] {
        let fault = Fault::on("PUT *").effect(effect.clone()).times(1);
        platform.emulator.fault(fault);
        assert!(put(1_000_000).await.is_err(), "{effect:?}");
        assert_eq!(arrived(), writes, "{effect:?}");
    }
    assert_eq!(
        platform
            .emulator
            .requests()
            .iter()
            .filter(|request| request.status == 0)
            .count(),
        3
    );
    platform.emulator.fault(
        Fault::on("GET /storage*")
            .effect(Effect::CutAnswer)
            .times(1),
    );
    let url = format!("{}{}", platform.emulator.api_url(), top());
    let request = platform.http.get(url).bearer_auth(&platform.token).send();
    let answer = request.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "half an answer");
    assert_eq!(put(10).await.unwrap().status(), 201);
}

#[tokio::test]
async fn latency_and_throttling_delay_requests() {
    let platform = Platform::start(Emulator::builder().seed(3)).await;
    let root = platform.root().await;
    let (_, url) = platform.create(&root, "a.dgn").await;
    platform.inject(json!({ "route": "GET *", "count": 1, "effect": { "kind": "latency", "ms": 150, "jitterMs": 20 } })).await;
    let began = Instant::now();
    platform.get(&top()).await.ok(200);
    assert!(began.elapsed() >= Duration::from_millis(150));
    platform.inject(json!({ "route": "* *", "count": 2, "effect": { "kind": "slow", "bytesPerSecond": 5000 } })).await;
    let began = Instant::now();
    platform.get(&top()).await.ok(200);
    platform.put(&url, &[7; 1000]).await;
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_fault_revokes_tokens_or_expires_an_upload_address() {
    let mut platform = Platform::start(Emulator::builder()).await;
    let root = platform.root().await;
    platform
        .inject(json!({ "route": "POST */files", "effect": { "kind": "expireAddress", "ms": 0 } }))
        .await;
    let (file, url) = platform.create(&root, "a.dgn").await;
    platform
        .blob("PUT", &url, b"x", &[WHOLE])
        .await
        .is(403, "AuthenticationFailed");
    let renewed = platform
        .post(&format!("/storage/files/{file}/updateContent"), Value::Null)
        .await
        .ok(202);
    platform
        .put(
            renewed["_links"]["uploadUrl"]["href"].as_str().unwrap(),
            b"x",
        )
        .await;
    platform
        .inject(
            json!({ "route": "POST */complete", "count": 1, "effect": { "kind": "revokeTokens" } }),
        )
        .await;
    platform.complete(&file).await.is(401, "Unauthorized");
    platform.sign_in().await;
    platform.complete(&file).await.ok(200);
}

#[tokio::test]
async fn control_routes_need_no_token() {
    let platform = Platform::start(Emulator::builder()).await;
    let root = platform.root().await;
    platform.upload(&root, "a.dgn", b"content").await;
    let at = |path: &str| format!("{}/_emulator/{path}", platform.emulator.api_url());
    let get = async |path: &str| -> Value {
        platform
            .http
            .get(at(path))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    };
    let state = get("state").await;
    let file = state["files"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(
        (&file["path"], &file["completed"]["size"]),
        (&json!("a.dgn"), &json!(7))
    );
    assert_eq!(
        file["completed"]["sha256"],
        super::support::sha256(b"content")
    );
    for secret in ["key", "sig=", "pending", "blobs"] {
        assert!(
            !state.to_string().contains(&format!("\"{secret}")),
            "{secret} is shown"
        );
    }
    let requests = get("requests").await;
    let output: Vec<String> = requests
        .as_array()
        .unwrap()
        .iter()
        .map(|request| {
            let word = |name: &str| request[name].as_str().unwrap().to_owned();
            format!(
                "{} {} {}",
                word("origin"),
                word("method"),
                request["status"]
            )
        })
        .collect();
    assert_eq!(
        output,
        [
            "api POST 200",
            "api GET 200",
            "api POST 202",
            "blob PUT 201",
            "api POST 200"
        ]
    );
    assert!(!requests.to_string().contains("sig="));

    assert_eq!(get("switches").await["run-scope"], "imodel");
    let set = async |path: &str| {
        platform
            .http
            .post(at(path))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(
        set("switches?run-scope=connection&location=relative").await,
        200
    );
    assert_eq!(get("switches").await["location"], "relative");
    assert_eq!(set("switches?run-scope=moon").await, 400);
    assert_eq!(set("faults").await, 400);
    assert_eq!(set("reset").await, 204);
    assert_eq!(get("state").await["files"], json!({}));
    assert_eq!(get("requests").await, json!([]));
    assert_eq!(
        platform
            .http
            .get(at("nothing"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn many_emulators_run_at_once_on_their_own_ports() {
    let starting = (0..50).map(|_| Platform::start(Emulator::builder()));
    let platforms = futures_util::future::join_all(starting).await;
    for platform in &platforms {
        platform.get(&top()).await.ok(200);
    }
    let mut addresses: Vec<&str> = platforms.iter().map(|one| one.emulator.api_url()).collect();
    addresses.dedup();
    assert_eq!(addresses.len(), 50);
}

#[tokio::test]
async fn state_survives_a_restart_and_an_unknown_format_is_rejected() {
    let data = tempfile::tempdir().unwrap();
    let builder = || Emulator::builder().data_dir(data.path().to_owned());
    let platform = Platform::start(builder()).await;
    let root = platform.root().await;
    let file = platform.upload(&root, "a.dgn", b"kept").await;
    let (half, url) = platform.create(&root, "b.dgn").await;
    let block = format!("{url}&comp=block&blockid=MDAx");
    platform.blob("PUT", &block, b"half", &[]).await.ok(201);
    platform.emulator.stop().await;

    let platform = Platform::start(builder()).await;
    let state = platform.emulator.state();
    assert_eq!(
        state.files[&file].completed.as_ref().unwrap().sha256,
        super::support::sha256(b"kept")
    );
    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    assert_eq!(
        platform
            .blob("GET", download.header("location"), b"", &[])
            .await
            .body,
        b"kept"
    );
    let port = |url: &str| url.split('/').nth(2).unwrap().to_owned();
    let list =
        format!("{url}&comp=blocklist").replace(&port(&url), &port(platform.emulator.blob_url()));
    platform
        .blob(
            "PUT",
            &list,
            b"<BlockList><Latest>MDAx</Latest></BlockList>",
            &[],
        )
        .await
        .ok(201);
    platform.complete(&half).await.ok(200);
    platform.emulator.stop().await;

    std::fs::write(data.path().join("state.json"), "{\"version\":1}").unwrap();
    let error = builder().start().await.unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("format 1 is not supported")
    );
}

#[tokio::test]
async fn replaced_content_is_deleted_from_disk() {
    let data = tempfile::tempdir().unwrap();
    let platform = Platform::start(Emulator::builder().data_dir(data.path().to_owned())).await;
    let root = platform.root().await;
    let file = platform.upload(&root, "a.dgn", b"0").await;
    for round in 1..5 {
        let path = format!("/storage/files/{file}/updateContent");
        let (_, url) = super::support::links(&platform.post(&path, Value::Null).await.ok(202));
        platform.put(&url, round.to_string().as_bytes()).await;
        platform.put(&url, round.to_string().as_bytes()).await;
        platform.complete(&file).await.ok(200);
    }
    let parts = || {
        std::fs::read_dir(data.path().join("content"))
            .unwrap()
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while parts() > 1 {
        assert!(Instant::now() < deadline, "{} parts", parts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let completed = platform.emulator.state().files[&file]
        .completed
        .clone()
        .unwrap();
    assert_eq!(
        (completed.version, completed.sha256),
        (5, super::support::sha256(b"4"))
    );
}
