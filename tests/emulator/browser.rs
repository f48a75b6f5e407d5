//! A real browser without a screen.

use std::process::Stdio;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The driver asks for any free port of IPv4 and then for the same one of IPv6: another program may have that, and
/// the driver ends.
async fn start_driver() -> (Child, u16) {
    let mut told = String::new();
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
            told += &line;
        }
    }
    panic!("chromedriver does not start: {told}");
}

/// Chromium, and the program that drives it.
pub struct Browser {
    pub page: Client,
    _driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it; `more` are command line options beside the usual ones.
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

    /// What an asynchronous function with this body returns in the page, or the text of its error.
    pub async fn run(&self, body: &str) -> serde_json::Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; (async () => {{ {body} }})().then(done, error => done(String(error)))"
        );
        self.page.execute_async(&script, Vec::new()).await.unwrap()
    }
}
