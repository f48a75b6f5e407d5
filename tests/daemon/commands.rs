//! The other commands, as a user runs them.

use std::path::Path;

use crate::support::{Finished, SECRET, Site, platform, program, write};

async fn finished(arguments: &[&str]) -> Finished {
    Finished::from(program().args(arguments).output().await.unwrap())
}

#[tokio::test]
async fn the_demo_shows_three_files_and_succeeds() {
    let demo = finished(&["demo"]).await;
    assert_eq!(demo.code, Some(0), "{demo:?}");
    assert_eq!(
        demo.out.lines().last(),
        Some("3 synchronized, 0 failed"),
        "{demo:?}"
    );
    for name in ["bridge.dxf", "house.ifc", "site.geojson"] {
        let row = demo
            .out
            .lines()
            .rfind(|line| line.starts_with(name))
            .unwrap();
        assert_eq!(row.split_whitespace().count(), 6, "{row}");
    }
}

#[tokio::test]
async fn check_of_a_working_setup_passes_and_changes_nothing() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    // The iModel is empty: its coordinate system is still open.
    let others: Vec<_> = check
        .out
        .lines()
        .filter(|line| !line.starts_with("ok"))
        .collect();
    assert!(
        matches!(others[..], [note, _hint] if note.starts_with("note") && note.contains("coordinate system")),
        "{check:?}"
    );
    assert!(check.out.lines().count() >= 6, "{check:?}");
    let changing = site
        .emulator
        .requests()
        .into_iter()
        .filter(|request| request.method != "GET");
    let changing: Vec<_> = changing
        .filter(|request| request.path != "/connect/token")
        .collect();
    assert!(changing.is_empty(), "{changing:?}");
}

#[tokio::test]
async fn check_reports_each_problem_and_its_fix() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    site.secret = "lion".to_owned();
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    let wrong = check
        .out
        .lines()
        .find(|line| line.starts_with("FAILED"))
        .unwrap();
    assert!(wrong.contains("invalid_client"), "{check:?}");
    assert!(
        check.out.contains("hint:") && !check.out.contains("lion"),
        "{check:?}"
    );
}

#[tokio::test]
async fn a_command_in_a_message_works_when_it_is_pasted_into_a_shell() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    site.replace_in_watches("name = \"north\"", "name = \"North Bridge\"");
    let config = site.path("it's a copy.toml");
    std::fs::rename(site.config(), &config).unwrap();
    let run = async |words: &[&str]| {
        let mut command = program();
        command.args(words).arg("--config").arg(&config);
        command.env("ITWIN_SYNCD_CLIENT_SECRET", &site.secret);
        Finished::from(command.output().await.unwrap())
    };
    run(&["run", "--once"]).await;
    run(&["pause"]).await;
    let status = run(&["status"]).await;
    assert!(status.out.contains("paused"), "{status:?}");
    let hint = status.out.split("run `").nth(1).unwrap();
    let (hint, _) = hint.split_once('`').unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_itwin-syncd"))
        .parent()
        .unwrap();
    let path = std::env::join_paths([bin, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let mut shell = tokio::process::Command::new("sh");
    let resumed = shell.args(["-c", hint]).env("PATH", path).output().await;
    let resumed = Finished::from(resumed.unwrap());
    assert_eq!(resumed.code, Some(0), "{hint}: {resumed:?}");
    let status = run(&["status"]).await;
    assert!(!status.out.contains("paused"), "{status:?}");
}

#[tokio::test]
async fn status_shows_a_failure_with_reason_hint_and_next_attempt() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("good.ifc"), "good");
    write(&folder.join("empty.ifc"), "");
    site.run(&["run", "--once"]).await;
    let status = site.run(&["status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    for part in [
        "watch \"north\"",
        "FAILURES BY REASON",
        "1 file: it is empty",
        "hint:",
        "files:  north: \"empty.ifc\"",
        "next attempt when a file changes",
        "itwin-syncd retry --group ",
        "synchronized  north: \"good.ifc\"",
        "1 synchronized, 0 waiting, 0 in progress, 1 failed",
        "not running",
    ] {
        assert!(status.out.contains(part), "no {part}: {}", status.out);
    }
}

#[tokio::test]
async fn run_once_as_json_lists_the_files_of_that_pass_and_what_is_left() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("good.ifc"), "good");
    write(&folder.join("empty.ifc"), "");
    let pass = async || {
        let pass = site.run(&["run", "--once", "--json"]).await;
        let list: serde_json::Value = serde_json::from_str(&pass.out).unwrap();
        assert_eq!(pass.code, Some(i32::from(list["ok"] != true)));
        assert_eq!(list["version"], 1);
        assert_eq!(list["watches"][0]["name"], "north");
        assert_eq!(
            list["watches"][0]["imodel_id"],
            itwin_syncd::emulator::DEFAULT_IMODEL_ID
        );
        list
    };
    let results = |list: &serde_json::Value| -> Vec<String> {
        let files = list["files"].as_array().unwrap().iter();
        files
            .map(|file| format!("{} {}", file["path"], file["result"]))
            .collect()
    };
    let first = pass().await;
    assert_eq!(
        results(&first),
        [r#""empty.ifc" "failed""#, r#""good.ifc" "synchronized""#]
    );
    assert_eq!(first["ok"], false);
    let [empty, good] = [0, 1].map(|at| &first["files"][at]);
    assert!(empty["reason"].is_string() && empty["hint"].is_string());
    assert_eq!(good["connector"], "IFC");
    assert!(good["storage_file_id"].is_string() && good["run"].is_string());
    // What failed is left; what is synchronized was handled by another pass.
    assert_eq!(results(&pass().await), [r#""empty.ifc" "failed""#]);
    write(&folder.join("empty.ifc"), "not empty");
    let third = pass().await;
    assert_eq!(results(&third), [r#""empty.ifc" "synchronized""#]);
    assert_eq!(third["ok"], true);
    assert!(results(&pass().await).is_empty());
    assert_eq!(
        site.emulator
            .requests()
            .iter()
            .filter(|request| request.method == "PUT")
            .count(),
        2
    );
}

#[tokio::test]
async fn run_once_as_json_names_a_folder_that_cannot_be_reached() {
    let (site, folder) = Site::with_folder(platform()).await;
    std::fs::remove_dir(&folder).unwrap();
    let pass = site.run(&["run", "--once", "--json"]).await;
    assert_eq!(pass.code, Some(1), "{pass:?}");
    let list: serde_json::Value = serde_json::from_str(&pass.out).unwrap();
    assert_eq!(list["ok"], false);
    assert!(list["watches"][0]["unavailable"].is_string(), "{list:#}");
    assert!(list["watches"][0]["unreadable"].is_null(), "{list:#}");
    assert_eq!(list["files"], serde_json::json!([]));
}

#[tokio::test]
async fn all_config_errors_are_reported_at_once_with_file_line_and_fix() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch(
        "north",
        "not-an-id",
        "settel = \"5\"\nrescan_interval = \"5\"",
    );
    site.watch(
        "south",
        itwin_syncd::emulator::DEFAULT_IMODEL_ID,
        "include = [\"[\"]",
    );
    site.top += &format!("[log]\ndirectory = {:?}\n", folder.join("log"));
    let refused = site.run(&["run"]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for part in [
        "config.toml",
        "line",
        "imodel_id",
        "settel",
        "settle",
        "rescan_interval",
        "include",
        "log.directory",
    ] {
        assert!(refused.err.contains(part), "no {part}: {}", refused.err);
    }
    assert!(refused.err.matches("hint:").count() >= 5, "{}", refused.err);
    assert!(!site.path("state").exists());
}

#[tokio::test]
async fn no_secret_reaches_any_output() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += &format!(
        "[log]\nlevel = \"trace\"\ndirectory = {:?}\n",
        site.path("log")
    );
    site.emulator
        .fault(itwin_syncd::emulator::Fault::on("PUT *").reset().times(1));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let (_, mut printed) = daemon.stop().await;
    let mut files = 0;
    for entry in std::fs::read_dir(site.path("log")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["level"].is_string(), "{line}");
        }
        assert!(text.contains("file synchronized"), "{text}");
        printed += &text;
        files += 1;
    }
    assert_eq!(files, 1);
    printed += &format!("{:?}", site.run(&["status", "--json"]).await);
    let state = site.path("state");
    for entry in std::fs::read_dir(state).unwrap() {
        printed += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    for secret in [SECRET, "sesame", "sig=", "eyJ"] {
        assert!(!printed.contains(secret), "{secret} is in what was written");
    }
}

#[tokio::test]
async fn the_emulator_command_serves_prints_its_usage_and_keeps_its_state() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let data = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut child = program()
            .args(["emulator", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        let address = first
            .split_whitespace()
            .find(|word| word.starts_with("http://"))
            .unwrap();
        let address = address.trim_end_matches(',').to_owned();
        let state = reqwest::get(format!("{address}/_emulator/state"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["imodels"].as_object().unwrap().len(), 1, "{state}");
        assert_eq!(state["folders"].as_object().unwrap().len(), 1, "{state}");
        let pid = child.id().unwrap().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(child.wait().await.unwrap().success());
        assert!(data.path().join("state.json").exists());
    }
}

#[tokio::test]
async fn help_covers_every_command() {
    let help = finished(&["--help"]).await;
    for command in [
        "run", "check", "status", "explain", "retry", "rescan", "pause", "resume", "emulator",
        "demo",
    ] {
        assert!(help.out.contains(&format!("  {command} ")), "{}", help.out);
        let help = finished(&[command, "--help"]).await;
        assert!(
            help.code == Some(0) && help.out.contains("Usage:"),
            "{help:?}"
        );
    }
}

#[tokio::test]
async fn man_pages_and_completions_are_made_from_the_command_line_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let made = finished(&["generate", path.to_str().unwrap()]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    for (name, part) in [
        ("itwin-syncd.1", "itwin\\-syncd\\-check(1)"),
        ("itwin-syncd-run.1", "SIGHUP"),
        ("itwin-syncd.bash", "--once"),
        ("itwin-syncd.fish", "check"),
        ("_itwin-syncd", "status"),
    ] {
        let text = std::fs::read_to_string(path.join(name)).unwrap();
        assert!(text.contains(part), "no {part} in {name}: {text}");
    }
}

#[tokio::test]
async fn bash_completes_the_options_of_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let made = finished(&["generate", folder.path().to_str().unwrap()]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let script = std::fs::read_to_string(folder.path().join("itwin-syncd.bash")).unwrap();
    // The words on the line lead to one of these, which has to be a case with options.
    let commands: Vec<_> = script
        .lines()
        .filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"'))
        .filter(|command| !command.is_empty())
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let case = format!("{command})");
        assert!(
            script.lines().any(|line| line.trim() == case),
            "no case {case} in {script}"
        );
    }
}

#[tokio::test]
async fn a_command_whose_output_nobody_reads_any_more_ends_without_a_panic() {
    let (site, folder) = Site::with_folder(platform()).await;
    for number in 0..50 {
        write(&folder.join(format!("{number}.ifc")), "house");
    }
    for arguments in [
        &["run", "--dry-run"][..],
        &["check"],
        &["run", "--once"],
        &["run", "--once", "--json"],
        &["status"],
        &["orphans"],
    ] {
        let mut command = site.command(arguments);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    }
}

#[tokio::test]
async fn check_offline_reads_only_the_file_sends_nothing_and_creates_nothing() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    // Neither is needed.
    site.secret = String::new();
    site.itwin = "client_secret_file = \"/no/such/file\"\n".to_owned();
    let done = site.run(&["check", "--offline"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.starts_with("ok "), "{done:?}");
    site.add_to_watches("settle = 5s\n");
    let done = site.run(&["check", "--offline"]).await;
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(
        done.out.contains("put it in quotes: settle = \"5s\""),
        "{done:?}"
    );
    assert!(!site.path("state").exists());
    assert!(site.emulator.requests().is_empty());
}

#[tokio::test]
async fn the_list_of_connectors_is_the_same_as_json() {
    let mut command = program();
    command.args(["connectors", "--json"]);
    let printed = command.output().await.unwrap();
    let list: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let all = list["connectors"].as_array().unwrap();
    let dwg = all.iter().find(|one| one["type"] == "DWG").unwrap();
    assert_eq!(dwg["extensions"], serde_json::json!(["dwg", "dxf"]));
    assert_eq!(dwg["retired"], false);
    assert!(all.iter().any(|one| one["retired"] == true));
}
