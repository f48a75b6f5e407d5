//! Headless Chromium, driven through `chromedriver`.

use std::process::Stdio;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Starts the driver. It binds a free IPv4 port and then the same IPv6 port, and exits if that is in use: hence the
/// retries.
async fn start_driver() -> (Child, u16) {
    let mut output = String::new();
    for _ in 0..10 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver should be installed");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(port) = line.split("successfully on port ").nth(1) {
                return (driver, port.trim_end_matches('.').parse().unwrap());
            }
            output += &line;
        }
    }
    panic!("chromedriver does not start: {output}");
}

/// A browser with a profile of its own; both end with this.
pub struct Browser {
    pub page: Client,
    _driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it with these options beside the common ones.
    pub async fn start(more: &[&str]) -> Self {
        let (driver, port) = start_driver().await;
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let mut arguments = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &folder,
        ];
        arguments.extend(more);
        let capabilities = serde_json::json!({"goog:chromeOptions": {"args": arguments}});
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("Chromium should start");
        Self {
            page,
            _driver: driver,
            _profile: profile,
        }
    }
}
