//! The `emulator` command: client secret, addresses, rejected arguments, comparison with a recording.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Starts it; returns what it prints until it is ready.
async fn started(arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"))
        .arg("emulator")
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            printed += &line;
            printed.push('\n');
            let is_open = arguments.iter().any(|one| one.starts_with("0.0.0.0"));
            let last = if is_open {
                "--public-host"
            } else {
                "To see what arrived"
            };
            if line.contains(last) {
                return;
            }
        }
        panic!("the emulator ended");
    };
    tokio::time::timeout(Duration::from_secs(60), reading)
        .await
        .expect("the emulator should start");
    // It ends when nobody reads what it prints after that.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, printed)
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let rest = text.split_once(before).unwrap().1;
    rest.split_once(after).unwrap().0
}

async fn signs_in(api: &str, secret: &str) -> bool {
    let form = [
        ("grant_type", "client_credentials"),
        ("scope", "itwin-platform"),
        ("client_id", "service-emulator"),
        ("client_secret", secret),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(format!("{api}/connect/token")).form(&form).send();
    answer.await.unwrap().status() == 200
}

#[tokio::test]
async fn the_client_secret_is_random_kept_with_the_data_or_given() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    let mut secrets = Vec::new();
    for arguments in [
        &["--listen", "127.0.0.1:0"][..],
        &["--listen", "127.0.0.1:0"],
        &["--listen", "127.0.0.1:0", "--data", folder],
        &["--listen", "127.0.0.1:0", "--data", folder],
    ] {
        let (mut child, printed) = started(arguments).await;
        let api = between(&printed, "at ", ", blob storage");
        let secret = between(&printed, "ITWIN_SYNCD_CLIENT_SECRET=", " ").to_owned();
        assert!(signs_in(api, &secret).await, "{printed}");
        assert!(!signs_in(api, "emulator-secret").await, "{printed}");
        secrets.push(secret);
        child.kill().await.unwrap();
    }
    assert_ne!(secrets[0], secrets[1]);
    assert_ne!(secrets[1], secrets[2]);
    assert_eq!(secrets[2], secrets[3]);
    let kept = std::fs::metadata(data.path().join("client-secret")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&kept.permissions());
    assert_eq!(mode & 0o777, 0o600);

    let fixed = [
        "--listen",
        "127.0.0.1:0",
        "--client",
        "service-emulator:mine",
    ];
    let (_child, printed) = started(&fixed).await;
    assert!(signs_in(between(&printed, "at ", ", blob storage"), "mine").await);
}

#[tokio::test]
async fn listening_beyond_the_loopback_address_prints_a_warning_and_uses_the_public_host() {
    let (_child, printed) = started(&["--listen", "0.0.0.0:0", "--public-host", "localhost"]).await;
    assert!(
        printed.contains("WARNING: listening on 0.0.0.0"),
        "{printed}"
    );
    let api = between(&printed, "at ", ", blob storage");
    assert!(api.starts_with("http://localhost:"), "{printed}");
    let discovery = format!("{api}/.well-known/openid-configuration");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let discovery = http.get(discovery).send().await.unwrap().text().await;
    assert!(discovery.unwrap().contains(&format!("{api}/connect/token")));
}

#[tokio::test]
async fn compare_prints_the_differences_and_sets_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.har");
    let url = "https://api.bentley.com/storage/files/missing";
    let entry = |code: &str| {
        let error = format!("{{\"error\":{{\"code\":{code:?},\"message\":\"gone\"}}}}");
        serde_json::json!({ "log": { "entries": [{
            "request": {
                "method": "GET", "url": url, "bodySize": 0,
                "headers": [{ "name": "Authorization", "value": "Bearer secret-of-the-user" }],
            },
            "response": {
                "status": 404, "headers": [],
                "content": { "mimeType": "application/json", "text": error },
            },
        }] } })
    };
    for (code, exit, expected) in [
        (
            "FileNotFound",
            0,
            "1 exchanges compared, 0 skipped: 0 differences",
        ),
        (
            "ItemNotFound",
            1,
            "the platform's code is ItemNotFound, the emulator's FileNotFound",
        ),
    ] {
        std::fs::write(&path, entry(code).to_string()).unwrap();
        let ran = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"))
            .args(["emulator", "--compare"])
            .arg(&path)
            .output()
            .await
            .unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert_eq!(ran.status.code(), Some(exit), "{printed}");
        assert!(printed.contains(expected), "{printed}");
        assert!(!printed.contains("secret-of-the-user"), "{printed}");
    }
}

#[tokio::test]
async fn invalid_arguments_are_rejected_with_the_accepted_values() {
    for (arguments, expected) in [
        (
            ["--listen", "127.0.0.1:65535"],
            "no port left for the blob storage, which listens on the next one: use 65534 or lower",
        ),
        (
            ["--fault", r#"{"file":"a.ifc","result":"Fine"}"#],
            "unknown result \"Fine\": expected Success, PartialSuccess, Error, Skipped, Cancelled, TimedOut",
        ),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"))
            .arg("emulator")
            .args(arguments)
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success(), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
