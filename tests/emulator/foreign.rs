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
    let told =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && told.contains("all good"), "{told}");
}

#[tokio::test]
#[ignore = "needs Node.js: run tests/all"]
async fn clients_of_bentley_and_microsoft_set_up_upload_and_synchronize() {
    let builder = Emulator::builder().run_duration(Duration::from_millis(300));
    foreign_clients(&builder.start().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs Azurite: run tests/all"]
async fn clients_of_bentley_and_microsoft_do_the_same_with_azurite() {
    let azurite = Azurite::start().await;
    let builder = Emulator::builder().run_duration(Duration::from_millis(300));
    foreign_clients(&builder.azurite(&azurite.url).start().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs curl and jq: run tests/all"]
async fn the_walk_by_hand_in_the_readme_ends_well() {
    let readme = include_str!("../../README.md");
    let walk = readme.split("The whole workflow by hand:").nth(1).unwrap();
    let walk = walk
        .split("```")
        .nth(1)
        .unwrap()
        .strip_prefix("sh")
        .unwrap();
    let emulator = Emulator::builder()
        .run_duration(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    let walk = walk.replace("http://127.0.0.1:8290", emulator.api_url());
    let ran = Command::new("bash")
        .args(["-euc", &walk])
        .output()
        .await
        .unwrap();
    let told =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}");
    assert_eq!(told.matches("\"result\": \"Success\"").count(), 2, "{told}");
    assert_eq!(
        emulator
            .state()
            .files
            .values()
            .next()
            .unwrap()
            .completed
            .as_ref()
            .unwrap()
            .size,
        13
    );
}
