//! Clients that we did not write, against the emulator.

use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Emulator};
use tokio::process::Command;

use super::common::{Azurite, tools};

async fn foreign_clients(emulator: &Emulator) {
    let script = tools().join("foreign.mjs");
    let (api, issuer) = (emulator.api_url(), emulator.issuer_url());
    let ran = Command::new("node")
        .arg(script)
        .args([api, issuer, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET])
        .output()
        .await
        .unwrap();
    let printed =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(
        ran.status.success() && printed.contains("all good"),
        "{printed}"
    );
}

#[tokio::test]
#[ignore = "needs Node.js: run tests/all"]
async fn clients_of_bentley_and_microsoft_upload_and_synchronize() {
    let builder = Emulator::builder().run_duration(Duration::from_millis(300));
    foreign_clients(&builder.start().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs Azurite: run tests/all"]
async fn clients_of_bentley_and_microsoft_work_with_azurite() {
    let azurite = Azurite::start().await;
    let builder = Emulator::builder().run_duration(Duration::from_millis(300));
    foreign_clients(&builder.azurite(&azurite.url).start().await.unwrap()).await;
}

/// The code of a language in a part of the documentation.
fn example(heading: &str, language: &str) -> String {
    let text = include_str!("../../docs/emulator.md");
    let part = text.split(&format!("\n### {heading}\n")).nth(1).unwrap();
    let fence = format!("```{language}\n");
    let code = part.split(&fence).nth(1).unwrap();
    code.split("```").next().unwrap().to_owned()
}

/// Runs an example against an emulator of its own; returns what it prints and the sizes of the files there are then.
async fn ran(program: &str, option: &str, code: &str) -> (String, Vec<u64>) {
    let emulator = Emulator::builder()
        .run_duration(Duration::from_millis(300))
        .file_check(true)
        .start()
        .await
        .unwrap();
    let code = code.replace("http://127.0.0.1:8190", emulator.api_url());
    let ran = Command::new(program)
        .args([option, &code])
        .output()
        .await
        .unwrap();
    let printed =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{printed}");
    let state = emulator.state();
    let sizes = state.files.values();
    let sizes = sizes.map(|file| file.completed.as_ref().unwrap().size);
    (printed, sizes.collect())
}

#[tokio::test]
#[ignore = "needs curl and jq: run tests/all"]
async fn the_curl_example_in_the_documentation_works() {
    let (printed, sizes) = ran("bash", "-euc", &example("curl", "sh")).await;
    assert_eq!(
        printed.matches("\"result\": \"Success\"").count(),
        2,
        "{printed}"
    );
    assert_eq!(sizes, [13]);
}

#[tokio::test]
#[ignore = "needs Node.js: run tests/all"]
async fn the_javascript_example_works() {
    let code = example("JavaScript", "js");
    let code = format!("(async () => {{ {code} }})()");
    let (printed, sizes) = ran("node", "-e", &code).await;
    assert_eq!(
        (printed.trim(), sizes.as_slice()),
        ("house.ifc 13", &[13][..])
    );
}

#[tokio::test]
#[ignore = "needs Python: run tests/all"]
async fn the_python_example_works() {
    let (printed, sizes) = ran("python3", "-c", &example("Python", "python")).await;
    assert_eq!(
        (printed.trim(), sizes.as_slice()),
        ("house.ifc 13", &[13][..])
    );
}
