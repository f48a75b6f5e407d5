//! The demo on a machine that others use too.

use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Lines of its output until one has this text.
async fn until(
    lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    text: &str,
) -> String {
    let mut printed = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            printed += &line;
            printed.push('\n');
            if line.contains(text) {
                return;
            }
        }
        panic!("the demo ended");
    };
    tokio::time::timeout(Duration::from_secs(90), reading)
        .await
        .unwrap_or_else(|_| panic!("{text} does not appear"));
    printed
}

#[tokio::test]
async fn the_demo_escapes_names_and_uses_a_secret_of_its_own() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"))
        .args(["demo", "--stay"])
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let printed = until(&mut lines, "Ctrl-C to stop").await;
    let after = |text: &str| {
        let line = printed.lines().find_map(|line| line.split_once(text));
        line.unwrap().1.to_owned()
    };
    let (api, folder) = (after("emulated iTwin Platform at "), after("watching "));

    let form = [
        ("grant_type", "client_credentials"),
        ("scope", "itwin-platform"),
        ("client_id", itwin_syncd::emulator::DEFAULT_CLIENT_ID),
        (
            "client_secret",
            itwin_syncd::emulator::DEFAULT_CLIENT_SECRET,
        ),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let denied = http
        .post(format!("{api}/connect/token"))
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(denied.status(), 400, "anybody gets a token");

    let names: [&[u8]; 3] = [
        b"esc\x1b[31mred.ifc",
        "turned\u{202e}cfi.ifc".as_bytes(),
        b"odd\xff.ifc",
    ];
    for name in names {
        let path = std::path::Path::new(&folder).join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(path, "ISO-10303-21;").unwrap();
    }
    let last = std::path::Path::new(&folder).join("zz-last.ifc");
    std::fs::write(last, "ISO-10303-21;").unwrap();
    let mut printed = String::new();
    for part in ["red.ifc", "cfi.ifc", "odd", "zz-last.ifc"] {
        if !printed.contains(part) {
            printed += &until(&mut lines, part).await;
        }
    }
    assert!(
        !printed.contains('\u{1b}') && !printed.contains('\u{202e}'),
        "{printed:?}"
    );
    assert!(printed.contains("\\u{1b}[31mred.ifc"), "{printed}");
    let id = demo.id().unwrap().to_string();
    let ended = std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status();
    assert!(ended.unwrap().success());
    assert!(demo.wait().await.unwrap().success());
}

#[cfg(feature = "failpoints")]
mod several_hosts;
