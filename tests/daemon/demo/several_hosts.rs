//! The demo of several hosts. It starts a PostgreSQL server of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::until;
use crate::support::{Finished, eventually};

/// Leases of a fifth, so that a host takes over after 9 s.
const QUICK: (&str, &str) = ("ITWIN_SYNCD_LEASE_HASTE", "5");

/// For everything that the demo leaves.
fn place() -> TempDir {
    let place = TempDir::new().unwrap();
    // The server has a user of its own.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), mode).unwrap();
    place
}

fn command(place: &TempDir, nodes: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"));
    command
        .args(["demo", "--nodes", nodes])
        .env("TMPDIR", place.path())
        .env("NO_COLOR", "1")
        .envs([QUICK])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Processes that name this folder in their command.
fn processes(place: &TempDir) -> Vec<String> {
    let folder = place.path().to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    commands
        .filter(|command| command.contains(folder))
        .collect()
}

async fn assert_nothing_left(place: &TempDir) {
    let running = || format!("{:?}", processes(place));
    eventually(|| processes(place).is_empty(), running).await;
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn two_of_three_nodes_are_killed_and_no_file_is_missing_or_doubled() {
    let place = place();
    let demo = Finished::from(command(&place, "3").output().await.unwrap());
    assert_eq!(demo.code, Some(0), "{demo:?}");
    let total = "90 dropped, 90 in storage, 90 covered by a run, 0 missing, 0 doubled, 0 failed, ";
    let last = demo.out.lines().last().unwrap_or_default();
    assert!(last.starts_with(total), "{demo:?}");
    let row = |name: &str| {
        let mut lines = demo.out.lines();
        lines.rfind(|line| line.starts_with(name)).unwrap()
    };
    let uploaded = ["node1", "node2", "node3"].map(|name| {
        let count = row(name).split_whitespace().last().unwrap();
        count.parse::<u64>().unwrap()
    });
    assert_eq!(uploaded.iter().sum::<u64>(), 90, "{demo:?}");
    assert!(uploaded.iter().all(|count| *count > 0), "{demo:?}");
    assert!(row("node1").contains("SIGKILL after"), "{demo:?}");
    assert!(row("node3").contains("started again"), "{demo:?}");
    let successors = ["node2", "node3"].into_iter();
    let successors = successors.filter(|name| row(name).contains("then active"));
    assert_eq!(successors.count(), 1, "{demo:?}");
    assert_nothing_left(&place).await;
}

fn signal(demo: &Child, name: &str) {
    let id = demo.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &id])
        .status();
    assert!(sent.unwrap().success());
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_demo_that_is_stopped_in_mid_work_leaves_nothing() {
    for (name, text) in [
        ("INT", "SIGKILL for node2"),
        ("TERM", "saving 90 files"),
        ("HUP", "active: node1"),
    ] {
        let place = place();
        let mut demo = command(&place, "2").spawn().unwrap();
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        until(&mut lines, text).await;
        signal(&demo, name);
        // Nobody must wait because its output is not read.
        let rest = async { while let Ok(Some(_)) = lines.next_line().await {} };
        rest.await;
        let ended = demo.wait().await.unwrap();
        assert_eq!(ended.code(), Some(1), "{name}");
        assert_nothing_left(&place).await;
    }
}
