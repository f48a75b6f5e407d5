//! What containers, scripts and orchestration rely on: the environment, the log on standard error, secrets as they are
//! mounted, the health check, and an address that is not free yet.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{Finished, SECRET, Site, platform, program, write};

async fn ended(mut command: Command) -> Finished {
    Finished::from(command.stdin(Stdio::null()).output().await.unwrap())
}

#[tokio::test]
async fn the_environment_names_the_configuration_unless_an_option_does() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let config = site.config();
    let missing = site.path("missing.toml");
    for (option, variable, found) in [
        (None, Some(&config), true),
        (None, Some(&missing), false),
        (Some(&config), Some(&missing), true),
        (Some(&missing), Some(&config), false),
    ] {
        let mut command = program();
        command.args(["run", "--dry-run"]);
        command.env("ITWIN_SYNCD_CLIENT_SECRET", SECRET);
        if let Some(option) = option {
            command.arg("--config").arg(option);
        }
        if let Some(variable) = variable {
            command.env("ITWIN_SYNCD_CONFIG", variable);
        }
        let shown = ended(command).await;
        assert_eq!(shown.code, Some(if found { 0 } else { 78 }), "{shown:?}");
        assert_eq!(shown.err.contains("missing.toml"), !found, "{shown:?}");
    }
}

#[tokio::test]
async fn the_log_has_prefixes_for_the_journal_only_and_is_json_on_request() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    let tables = site.tables.clone();
    let plain = site.run(&["run", "--once"]).await;
    assert_eq!(plain.code, Some(0), "{plain:?}");
    assert!(plain.err.contains(" INFO "), "{plain:?}");
    assert!(
        !plain.err.lines().any(|line| line.starts_with('<')),
        "{plain:?}"
    );

    site.tables = format!("{tables}[log]\nformat = \"journal\"\n");
    let journal = site.run(&["run", "--once"]).await;
    assert!(
        journal.err.lines().all(|line| line.starts_with("<6>")),
        "{journal:?}"
    );

    site.tables = format!("{tables}[log]\nformat = \"json\"\n");
    write(&folder.join("house.ifc"), "a new house");
    write(&folder.join("\u{202e}tower.ifc"), "tower");
    let json = site.run(&["run", "--once"]).await;
    assert_eq!(json.code, Some(0), "{json:?}");
    let lines: Vec<Value> = json
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let paths: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["path"].as_str())
        .collect();
    assert!(paths.contains(&"house.ifc"), "{paths:?}");
    assert!(paths.contains(&"\\u{202e}tower.ifc"), "{paths:?}");
    assert!(!json.err.contains('\u{202e}'), "{json:?}");
    assert!(!json.err.contains("\"hint\":\"\""), "{json:?}");
}

#[tokio::test]
async fn the_health_check_follows_the_daemon_and_not_its_configuration() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let before = site.run(&["healthcheck"]).await;
    assert_eq!(before.code, Some(1), "{before:?}");
    assert!(
        before.out.starts_with("unhealthy: no daemon is running"),
        "{before:?}"
    );

    let daemon = site.start();
    daemon.says("scan finished").await;
    let running = site.run(&["healthcheck"]).await;
    assert_eq!(
        (running.code, running.out.as_str()),
        (Some(0), "healthy\n"),
        "{running:?}"
    );

    // The daemon keeps its previous configuration.
    let top = std::mem::replace(&mut site.top, "settle = \"5\"\n".to_owned());
    let with_errors = site.run(&["healthcheck"]).await;
    assert_eq!(with_errors.code, Some(0), "{with_errors:?}");
    site.top = top;

    daemon.signal("STOP");
    let stopped = site.run(&["healthcheck", "--timeout", "500ms"]).await;
    daemon.signal("CONT");
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    assert_eq!(
        stopped.out,
        "unhealthy: the daemon did not answer within 500ms\n"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn the_page_waits_for_an_address_that_is_in_use() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    site.tables += &format!("[web]\nlisten = \"{address}\"\n");
    let daemon = site.start();
    daemon.says("cannot serve the web page").await;
    site.shows("page not available, first failed attempt", &daemon)
        .await;
    let shown = site.run(&["status"]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(
        shown.out.contains(&format!("cannot listen on {address}")),
        "{shown:?}"
    );
    drop(taken);
    daemon.says("serving the web page").await;
    let shown = site.run(&["status"]).await;
    assert!(!shown.out.contains("page not available"), "{shown:?}");
    let (_, log) = daemon.stop().await;
    assert_eq!(log.matches("cannot serve the web page").count(), 1, "{log}");
}

#[tokio::test]
async fn secrets_come_from_credentials_of_systemd_and_files_of_the_own_group() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let credentials = site.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let token = "5f0c2d9a7b1e4863";
    // As systemd shows them in some versions.
    for (name, text) in [("web-token", token), ("hook", "http://localhost:9/alert")] {
        let path = credentials.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    let secret = site.path("client-secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    site.secret = String::new();
    site.itwin = format!("client_secret_file = {secret:?}\n");
    site.tables += "[web]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"$CREDENTIALS_DIRECTORY/web-token\"\n\
                    [[alert]]\nname = \"chat\"\nurl = \"file:$CREDENTIALS_DIRECTORY/hook\"\n";
    mode(0o644);
    let environment = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    let (status, refused) = site.start_with(&environment).ended().await;
    assert_eq!(status.code(), Some(78), "{refused}");
    assert!(
        refused.contains("is accessible to every user of this machine (mode 644)"),
        "{refused}"
    );
    assert!(
        refused.contains(&format!("run `chmod 600 {secret:?}`")),
        "{refused}"
    );
    // The group of the files that this process creates is its own.
    mode(0o440);
    let daemon = site.start_with(&environment);
    daemon.says("serving the web page").await;
    let log = daemon.log();
    let (_, address) = log
        .split_once("serving the web page address=\"")
        .unwrap_or_else(|| panic!("{log}"));
    let address = address.split('"').next().unwrap();
    assert!(address.starts_with("http://"), "{address}");
    let asked = async |authorization: Option<&str>| {
        let client = reqwest::Client::new();
        let mut request = client.get(format!("{address}api/v1/status"));
        if let Some(token) = authorization {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(asked(None).await, 401);
    assert_eq!(asked(Some(token)).await, 200);
    daemon.says("scan finished").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_program_prints_the_secret_again_when_the_platform_refuses_it() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let vault = site.path("vault");
    let script = site.path("print secret");
    std::fs::write(
        &script,
        format!("#!/bin/sh\necho run >>{vault:?}.runs\ncat {vault:?}\n"),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(&vault, "outdated-hV3nQ8\n").unwrap();
    // The key decides, whatever the environment has.
    site.secret = "from-the-environment".to_owned();
    site.itwin = format!("client_secret_command = [{script:?}]\n");
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon
        .says("itwin.client_secret_command prints the same one")
        .await;
    std::fs::write(&vault, format!("{SECRET}\n")).unwrap();
    daemon
        .says("itwin.client_secret_command printed a new one")
        .await;
    site.synchronized(1, &daemon).await;
    let runs = std::fs::read_to_string(site.path("vault.runs")).unwrap();
    let log = daemon.log();
    assert!(runs.lines().count() < 10, "{runs}\n{log}");
    assert!(!log.contains("hV3nQ8"), "{log}");

    // A reload runs it too, and a program that fails changes nothing.
    std::fs::write(
        &script,
        "#!/bin/sh\necho 'no such \u{202e}key' >&2\nexit 2\n",
    )
    .unwrap();
    daemon.signal("HUP");
    daemon.says("reload rejected").await;
    let log = daemon.log();
    assert!(
        log.contains("failed (exit status 2): no such \\u{202e}key"),
        "{log}"
    );
    let (status, _) = daemon.stop().await;
    assert!(status.success());
    let refused = site.run(&["check"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused.out.contains("itwin.client_secret_command"),
        "{refused:?}"
    );
}
