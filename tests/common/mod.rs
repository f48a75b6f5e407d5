//! Third-party programs that tests start: Azurite, installed by `tests/all`, and Chromium.

pub mod browser;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The folder in which `tests/all` installs them.
pub fn tools() -> PathBuf {
    let folder = std::env::var_os("TEST_TOOLS").expect("run this test with tests/all");
    PathBuf::from(folder)
}

/// An Azurite on a free port; it ends with this.
pub struct Azurite {
    _child: Child,
    _folder: tempfile::TempDir,
    pub url: String,
}

impl Azurite {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(tools().join("node_modules/.bin/azurite-blob"))
            .args([
                "--blobPort",
                "0",
                "--skipApiVersionCheck",
                "--disableTelemetry",
                "--location",
            ])
            .arg(folder.path())
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(at) = line.find("http://").filter(|_| line.contains("success")) {
                    return line.split_at(at).1.trim().to_owned();
                }
            }
            panic!("Azurite ended");
        };
        let url = tokio::time::timeout(Duration::from_secs(60), listening).await;
        let url = url.expect("Azurite should start");
        // Drains its log: a full pipe would block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            _child: child,
            _folder: folder,
            url,
        }
    }
}
