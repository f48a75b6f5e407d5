//! A configuration file that got an error while the daemon runs: the daemon is not affected, and commands reach it.

use crate::support::{Site, platform, write};

/// A text without quotes.
const ERROR: &str = "settle = 5s\n";

#[tokio::test]
async fn commands_reach_the_running_daemon_despite_an_error_in_the_file() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    daemon.says("synchronized").await;
    daemon.says("it is empty").await;
    let good = std::mem::replace(&mut site.top, ERROR.to_owned());
    let empty = folder.join("empty.ifc");
    let empty = empty.to_str().unwrap();
    for (arguments, code, text) in [
        (&["pause", "north"][..], 0, "north: paused"),
        (&["status"], 78, "watch \"north\""),
        (&["status", "empty.ifc"], 78, "it is empty"),
        (&["resume"], 0, "north: resumed"),
        (&["rescan"], 0, "north: scan started"),
        (&["sync"], 0, "what waits is synchronized now"),
        (&["explain", empty], 0, "state: failed"),
        (&["retry", "--failed"], 0, "retrying 1 file"),
        (
            &["forget", "house.ifc", "--dry-run"],
            0,
            "would forget 1 file",
        ),
        (&["restore", "house.ifc"], 0, "nothing to restore"),
        (&["healthcheck"], 0, "healthy"),
    ] {
        let done = site.run(arguments).await;
        assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
        assert!(done.out.contains(text), "{arguments:?}: {done:?}");
        if arguments != ["healthcheck"] {
            assert!(done.err.contains("config.toml line 1"), "{done:?}");
            assert!(done.err.contains("the running daemon"), "{done:?}");
        }
    }
    // The watch of the daemon, not that of the file.
    site.replace_in_watches("name = \"north\"", "name = \"other\"\nunknown = 1");
    site.top = good;
    let paused = site.run(&["pause"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    assert!(paused.out.contains("north: paused"), "{paused:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_with_another_file_gets_no_command() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    let is_found = async { while site.run(&["healthcheck"]).await.code != Some(0) {} };
    let found = tokio::time::timeout(crate::support::PATIENCE, is_found);
    found.await.unwrap();
    let mut command = crate::support::program();
    command
        .args(["pause", "--config"])
        .arg(site.path("confg.toml"))
        .env("STATE_DIRECTORY", site.path("state"));
    let done = crate::support::Finished::from(command.output().await.unwrap());
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(
        done.err.contains("has another configuration file"),
        "{done:?}"
    );
    assert!(!site.run(&["status"]).await.out.contains("paused"));
    daemon.stop().await;
}

#[tokio::test]
async fn without_a_daemon_an_error_in_the_file_is_78_in_every_command() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    site.run(&["run", "--once"]).await;
    for top in [ERROR, "settle = \"5\"\n", "unknown = 1\n"] {
        site.top = top.to_owned();
        for arguments in [
            &["run"][..],
            &["run", "--once"],
            &["run", "--once", "--json"],
            &["run", "--dry-run"],
            &["check"],
            &["check", "--offline"],
            &["status"],
            &["status", "--json"],
            &["explain", "x.ifc"],
            &["retry", "--failed"],
            &["forget", "x.ifc"],
            &["restore", "x.ifc"],
            &["rescan"],
            &["pause"],
            &["resume"],
            &["sync"],
            &["orphans"],
            &[
                "detach",
                "north",
                "--imodel",
                "c0ffee00-1234-4abc-8def-0123456789ab",
            ],
            &["alert", "test", "ops"],
        ] {
            let done = site.run(arguments).await;
            assert_eq!(done.code, Some(78), "{arguments:?}: {done:?}");
            let said = format!("{}{}", done.out, done.err);
            assert!(
                said.contains("config.toml line 1"),
                "{arguments:?}: {done:?}"
            );
        }
    }
}
