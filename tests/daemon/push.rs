//! `push`: files and folders into an iModel once, with the real program and without a configuration file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, Emulator, RunFault};
use serde_json::Value;
use tokio::process::Command;

use crate::other_client::{OtherClient, shared_platform};
use crate::support::{
    Finished, SECRET, Site, assert_in_imodel, eventually, platform, program, write,
};

/// The path in storage of a file that is pushed.
fn stored(path: &str) -> String {
    format!("itwin-syncd push/{DEFAULT_IMODEL_ID}/{path}")
}

/// A platform, and a folder with the files and the state of pushes.
struct Push {
    dir: tempfile::TempDir,
    emulator: Emulator,
}

impl Push {
    async fn new(builder: Builder) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            emulator: builder.start().await.unwrap(),
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The command, in the folder of the files.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        command
            .arg("push")
            .args(words)
            .args(["--imodel", DEFAULT_IMODEL_ID])
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("ITWIN_SYNCD_CLIENT_ID", "service-test")
            .env("ITWIN_SYNCD_CLIENT_SECRET", SECRET)
            .env("ITWIN_SYNCD_API_URL", self.emulator.api_url())
            .env("ITWIN_SYNCD_ISSUER_URL", self.emulator.issuer_url());
        command
    }

    async fn run(&self, words: &[&str]) -> Finished {
        let output = self.command(words).output();
        let output = tokio::time::timeout(Duration::from_secs(60), output).await;
        Finished::from(output.expect("the push should end").unwrap())
    }

    /// The JSON object that it prints, and its exit code.
    async fn json(&self, words: &[&str]) -> (Value, i32) {
        let done = self.run(&[words, &["--json"]].concat()).await;
        let parsed = serde_json::from_str(&done.out);
        (
            parsed.unwrap_or_else(|_| panic!("{done:?}")),
            done.code.unwrap(),
        )
    }

    fn write(&self, path: &str, content: &str) {
        write(&self.path(path), content);
    }

    /// How often bytes of any file arrived, and how many runs there were.
    fn work(&self) -> (u32, usize) {
        let state = self.emulator.state();
        let uploads = state.files.values().map(|file| file.completions).sum();
        (uploads, state.runs.len())
    }

    fn in_imodel(&self, files: &[(&str, &str)]) {
        let files = files
            .iter()
            .map(|(path, content)| (stored(path), (*content).to_owned()))
            .collect();
        assert_in_imodel(&self.emulator.state(), &files);
    }
}

#[tokio::test]
async fn a_push_of_files_and_folders_again_sends_only_what_changed() {
    let push = Push::new(platform()).await;
    push.write("site/a.ifc", "a");
    push.write("site/in/b.ifc", "b");
    push.write("c.dgn", "c");
    let (result, code) = push.json(&["site", "c.dgn"]).await;
    assert_eq!(code, 0, "{result:#}");
    push.in_imodel(&[("a.ifc", "a"), ("in/b.ifc", "b"), ("c.dgn", "c")]);
    assert_eq!(result["ok"], true);
    assert_eq!(result["imodel"], DEFAULT_IMODEL_ID);
    let state = push.emulator.state();
    let connection = state.connections.values().next().unwrap();
    assert_eq!(result["connection"]["name"], "itwin-syncd push");
    assert_eq!(result["connection"]["id"], connection.id);
    assert_eq!(result["itwin"], state.imodels[DEFAULT_IMODEL_ID].itwin_id);
    for file in result["files"].as_array().unwrap() {
        let id = file["storage_file_id"].as_str().unwrap();
        let source = connection
            .source_files
            .iter()
            .find(|source| source.storage_file_id == id);
        assert_eq!(file["source_file_id"], source.unwrap().id, "{file:#}");
        assert_eq!(file["result"], "synchronized", "{file:#}");
        assert!(state.runs.contains_key(file["run"].as_str().unwrap()));
    }

    let before = push.work();
    let (again, code) = push.json(&["site", "c.dgn"]).await;
    assert_eq!((code, push.work()), (0, before), "{again:#}");
    for file in again["files"].as_array().unwrap() {
        assert_eq!(file["result"], "unchanged", "{again:#}");
    }

    push.write("site/a.ifc", "changed");
    let done = push.run(&["site/a.ifc"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("1 synchronized"), "{done:?}");
    push.in_imodel(&[("a.ifc", "changed"), ("in/b.ifc", "b"), ("c.dgn", "c")]);
    assert_eq!(push.work(), (before.0 + 1, before.1 + 1));
}

#[tokio::test]
async fn an_unchanged_file_is_compared_with_the_platform() {
    let push = Push::new(shared_platform()).await;
    push.write("a.ifc", "a");
    push.write("r.pdf", "r");
    let words = ["a.ifc", "--reference", "r.pdf"];
    assert_eq!(push.run(&words).await.code, Some(0));
    let id = |name: &str| {
        let state = push.emulator.state();
        let mut files = state.files.values();
        files
            .find(|file| file.path == stored(name) && !file.deleted)
            .unwrap()
            .id
            .clone()
    };
    let other = OtherClient::signs_in(&push.emulator).await;

    // The source file was removed, then both storage files.
    let before = id("a.ifc");
    assert!(other.unmaps(&before).await);
    let done = push.run(&words).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let mapped = || {
        let state = push.emulator.state();
        let sources = state.connections.values().flat_map(|one| &one.source_files);
        sources
            .map(|source| source.storage_file_id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(mapped(), std::slice::from_ref(&before));
    for name in ["a.ifc", "r.pdf"] {
        assert!(other.deletes_the_storage_file(&id(name)).await);
    }
    let done = push.run(&words).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_ne!(id("a.ifc"), before);
    assert_eq!(mapped(), [id("a.ifc")]);
    id("r.pdf");

    let mut command = push.command(&words);
    command.env("ITWIN_SYNCD_CLIENT_SECRET", "wrong/secret/of/push");
    let done = Finished::from(command.output().await.unwrap());
    assert_eq!(done.code, Some(1), "{done:?}");
}

#[tokio::test]
async fn a_file_from_another_folder_updates_the_storage_file_of_its_name() {
    let push = Push::new(platform()).await;
    push.write("build 1/a.ifc", "one");
    push.write("build 1/b.ifc", "b");
    push.write("build 2/a.ifc", "two");
    assert_eq!(push.run(&["build 1"]).await.code, Some(0));
    assert_eq!(push.run(&["build 2/a.ifc"]).await.code, Some(0));
    push.in_imodel(&[("a.ifc", "two"), ("b.ifc", "b")]);
    let before = push.work();
    assert_eq!(push.run(&["build 1/b.ifc"]).await.code, Some(0));
    assert_eq!(push.work(), before, "the same content");
}

#[tokio::test]
async fn references_and_companions_are_stored_and_are_no_source_files() {
    let push = Push::new(platform()).await;
    push.write("a.ifc", "a");
    push.write("survey.dgn", "reference");
    for part in ["shp", "shx", "dbf", "prj"] {
        push.write(&format!("lots.{part}"), part);
    }
    let (result, code) = push
        .json(&["a.ifc", "lots.shp", "--reference", "survey.dgn"])
        .await;
    assert_eq!(code, 0, "{result:#}");
    let state = push.emulator.state();
    assert_eq!(state.files.len(), 6, "{result:#}");
    let connection = state.connections.values().next().unwrap();
    assert_eq!(connection.source_files.len(), 2);
    let files = result["files"].as_array().unwrap();
    let of = |name: &str| {
        let found = files
            .iter()
            .find(|file| file["path"].as_str().unwrap().ends_with(name));
        found.unwrap()["result"].clone()
    };
    assert_eq!(of("survey.dgn"), "uploaded");
    assert_eq!(of("lots.dbf"), "uploaded");
    assert_eq!(of("lots.shp"), "synchronized");
}

#[tokio::test]
async fn what_cannot_be_pushed_is_refused_before_any_request() {
    let push = Push::new(platform()).await;
    push.write("a.ifc", "a");
    push.write("other/a.ifc", "other");
    push.write("odd.xyz", "odd");
    push.write("~$lock.docx", "lock");
    push.write("nothing/readme.xyz", "nothing");
    std::fs::write(push.path("empty.ifc"), "").unwrap();
    std::os::unix::fs::symlink("a.ifc", push.path("link.ifc")).unwrap();
    for (words, expected) in [
        (&["missing.ifc"][..], "no such file or folder"),
        (&["odd.xyz"], "no connector for its extension"),
        (&["a.ifc", "odd.xyz"], "--connector xyz=MSTN"),
        (&["~$lock.docx"], "ignored"),
        (&["empty.ifc"], "is empty"),
        (&["link.ifc"], "is not a regular file"),
        (&["nothing"], "no design file in"),
        (&["a.ifc", "other/a.ifc"], "the same place in storage"),
        (&["a.ifc", "--connector", "MTSN"], "did you mean \"MSTN\""),
        (&["a.ifc", "--storage-folder", "a//b"], "--storage-folder: "),
        (&["a.ifc", "--timeout", "soon"], "expected a time"),
        (&["a.ifc", "--unknown"], "unexpected argument"),
        (&[], "required arguments"),
    ] {
        let done = push.run(words).await;
        assert_eq!(done.code, Some(78), "{words:?}: {done:?}");
        assert!(done.err.contains(expected), "{words:?}: {done:?}");
    }
    let mut command = push.command(&["a.ifc"]);
    command.env_remove("ITWIN_SYNCD_CLIENT_ID");
    let done = Finished::from(command.output().await.unwrap());
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(
        done.err.contains("ITWIN_SYNCD_CLIENT_ID is not set"),
        "{done:?}"
    );
    assert_eq!(push.emulator.requests().len(), 0);

    let help = push.run(&["--help"]).await;
    assert_eq!(help.code, Some(0), "{help:?}");
}

#[tokio::test]
async fn connector_types_may_be_set_for_an_extension_or_for_all() {
    for (option, expected) in [
        ("dgn=CIVIL", ["CIVIL", "IFC"]),
        (".dgn=OPENROADS", ["OPENROADS", "IFC"]),
    ] {
        let push = Push::new(platform()).await;
        push.write("a.dgn", "a");
        push.write("b.ifc", "b");
        let option = option.replace("OPENROADS", "custom:OPENROADS");
        let (result, _) = push
            .json(&["a.dgn", "b.ifc", "--no-wait", "--connector", &option])
            .await;
        let files = result["files"].as_array().unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|file| file["connector"].as_str().unwrap())
            .collect();
        assert_eq!(found, expected, "{result:#}");
    }
    let push = Push::new(platform()).await;
    push.write("a.dgn", "a");
    let (result, code) = push.json(&["a.dgn", "--connector", "CIVIL"]).await;
    assert_eq!(
        (code, &result["files"][0]["connector"]),
        (0, &"CIVIL".into()),
        "{result:#}"
    );
}

#[tokio::test]
async fn a_failed_file_has_its_reason_and_is_tried_again_by_the_next_push() {
    let push = Push::new(platform()).await;
    push.write("a.ifc", "a");
    push.emulator.fail_run(RunFault {
        imodel_id: DEFAULT_IMODEL_ID.to_owned(),
        result: Some("Error".to_owned()),
        ..RunFault::default()
    });
    // Of its own accord it tries again after longer pauses than a test has.
    let config = format!(
        "[itwin]\napi_url = {:?}\nissuer_url = {:?}\nclient_id = \"service-test\"\n[state]\npath = \"/unused\"\n\
         [retry]\nfirst_delay = \"200ms\"\nmax_delay = \"1s\"\n\
         [[watch]]\nname = \"other\"\npath = \"/nowhere\"\nimodel_id = \"{DEFAULT_IMODEL_ID}\"\n",
        push.emulator.api_url(),
        push.emulator.issuer_url(),
    );
    push.write("config.toml", &config);
    let words = ["a.ifc", "--config", "config.toml"];
    let (result, code) = push.json(&words).await;
    assert_eq!(code, 1, "{result:#}");
    let file = &result["files"][0];
    assert_eq!(file["result"], "failed", "{result:#}");
    assert!(
        file["reason"]
            .as_str()
            .unwrap()
            .contains("ended with Error"),
        "{result:#}"
    );
    assert!(file["hint"].is_string(), "{result:#}");
    assert_eq!(result["ok"], false);
    push.emulator.clear_faults();
    let done = push.run(&words).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    push.in_imodel(&[("a.ifc", "a")]);
    assert_eq!(push.work().0, 1);
}

#[tokio::test]
async fn with_no_wait_it_ends_when_the_run_is_requested_and_a_push_again_has_its_result() {
    let push = Push::new(platform().run_duration(Duration::from_secs(3))).await;
    push.write("a.ifc", "a");
    let (result, code) = push.json(&["a.ifc", "--no-wait"]).await;
    assert_eq!(
        (code, &result["files"][0]["result"]),
        (0, &"run_requested".into()),
        "{result:#}"
    );
    let (result, code) = push.json(&["a.ifc"]).await;
    assert_eq!(
        (code, &result["files"][0]["result"]),
        (0, &"synchronized".into()),
        "{result:#}"
    );
    assert_eq!(push.work(), (1, 1));
}

#[tokio::test]
async fn a_push_whose_time_is_over_says_so_and_continues_when_it_is_repeated() {
    let push = Push::new(platform().run_duration(Duration::from_secs(6))).await;
    push.write("a.ifc", "a");
    let (result, code) = push.json(&["a.ifc", "--timeout", "3s"]).await;
    assert_eq!(code, 2, "{result:#}");
    assert_eq!(result["timed_out"], true);
    let done = push.run(&["a.ifc"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(push.work(), (1, 1));
}

#[tokio::test]
async fn an_interrupted_or_killed_push_continues_without_a_second_storage_file_or_run() {
    for signal in ["INT", "KILL"] {
        let push = Push::new(platform()).await;
        for name in ["a", "b", "c"] {
            push.write(&format!("site/{name}.ifc"), name);
        }
        for stage in 1..=4 {
            let mut child = push.command(&["site"]).spawn().unwrap();
            let pid = child.id().unwrap().to_string();
            let requests = push.emulator.requests().len();
            eventually(
                || push.emulator.requests().len() > requests + stage * 3 || is_gone(&pid),
                || format!("{:#?}", push.emulator.requests()),
            )
            .await;
            let killed = std::process::Command::new("kill")
                .args([&format!("-{signal}"), &pid])
                .status();
            killed.unwrap();
            child.wait().await.unwrap();
        }
        let done = push.run(&["site"]).await;
        assert_eq!(done.code, Some(0), "{signal}: {done:?}");
        push.in_imodel(&[("a.ifc", "a"), ("b.ifc", "b"), ("c.ifc", "c")]);
        assert!(push.work().1 <= 2, "{signal}: {} runs", push.work().1);
    }
}

fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // A process that has ended but was not waited for is a zombie.
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn an_interrupted_push_says_how_to_continue() {
    let push = Push::new(platform().run_duration(Duration::from_secs(30))).await;
    push.write("a.ifc", "a");
    let child = push.command(&["a.ifc"]).spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    eventually(
        || push.work().1 == 1,
        || format!("{:#?}", push.emulator.requests()),
    )
    .await;
    std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .unwrap();
    let done = Finished::from(child.wait_with_output().await.unwrap());
    assert_eq!(done.code, Some(130), "{done:?}");
    assert!(done.err.contains("run the same command again"), "{done:?}");
}

#[tokio::test]
async fn a_second_push_at_the_same_time_is_refused() {
    let push = Push::new(platform().run_duration(Duration::from_secs(12))).await;
    push.write("a.ifc", "a");
    push.write("b.ifc", "b");
    let first = push.command(&["a.ifc"]).spawn().unwrap();
    eventually(|| push.work().1 == 1, || "no run".to_owned()).await;
    let done = push.run(&["b.ifc"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("another push"), "{done:?}");
    let first = Finished::from(first.wait_with_output().await.unwrap());
    assert_eq!(first.code, Some(0), "{first:?}");
}

#[tokio::test]
async fn files_that_a_daemon_watches_are_synchronized_by_that_daemon() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    // Without the push, nothing would be scanned for an hour.
    "settle = \"300ms\"\npoll_interval = \"1h\"\n".clone_into(&mut site.top);
    write(&folder.join("a.ifc"), "a");
    let file = folder.join("a.ifc");
    let words = [
        "push",
        file.to_str().unwrap(),
        "--imodel",
        DEFAULT_IMODEL_ID,
        "--json",
    ];
    let done = site.run(&words).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("its daemon is not running"), "{done:?}");

    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    write(&file, "changed");
    let done = site.run(&words).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let result: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(result["files"][0]["result"], "synchronized", "{result:#}");
    assert_eq!(result["files"][0]["watch"], "north", "{result:#}");
    let files = [("a.ifc".to_owned(), "changed".to_owned())].into();
    assert_in_imodel(&site.emulator.state(), &files);
    daemon.stop().await;
}

#[tokio::test]
async fn of_one_folder_the_daemon_takes_its_files_and_the_push_the_others() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, "exclude = [\"b.ifc\"]");
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let folder = folder.to_str().unwrap();
    let words = ["push", folder, "--imodel", DEFAULT_IMODEL_ID, "--json"];
    let done = site.run(&words).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let result: Value = serde_json::from_str(&done.out).unwrap();
    let watches: Vec<_> = result["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| &file["watch"])
        .collect();
    assert_eq!(watches, [&Value::Null, &"north".into()], "{result:#}");
    let state = site.emulator.state();
    assert_eq!(state.files.len(), 2);
    for file in state.files.values() {
        assert_eq!(file.completions, 1, "{file:#?}");
    }
    for connection in state.connections.values() {
        assert_eq!(connection.source_files.len(), 1, "{connection:#?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_push_does_not_replace_files_of_a_daemon_and_does_not_wait_for_a_paused_watch() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let other = site.path("other/a.ifc");
    write(&other, "other");
    let words = |path| {
        let place = ["--storage-folder", ""];
        [&["push", path, "--imodel", DEFAULT_IMODEL_ID][..], &place].concat()
    };
    let done = site.run(&words(other.to_str().unwrap())).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("would replace"), "{done:?}");
    assert!(done.err.contains("--storage-folder"), "{done:?}");

    site.run(&["pause", "north"]).await;
    let own = folder.join("a.ifc");
    write(&own, "changed");
    let done = site.run(&words(own.to_str().unwrap())).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("it is paused"), "{done:?}");
    assert!(done.err.contains("itwin-syncd resume north"), "{done:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_pushed_arrives_in_its_last_version() {
    let push = Push::new(platform().run_duration(Duration::from_secs(3))).await;
    push.write("a.ifc", "one");
    let child = push.command(&["a.ifc", "--json"]).spawn().unwrap();
    eventually(|| push.work().1 == 1, || "no run".to_owned()).await;
    push.write("a.ifc", "two");
    let done = Finished::from(child.wait_with_output().await.unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    push.in_imodel(&[("a.ifc", "two")]);
}

#[tokio::test]
async fn a_file_that_is_deleted_while_it_is_pushed_fails() {
    for words in [&["a.ifc", "b.ifc"][..], &["a.ifc", "b.ifc", "--no-wait"]] {
        let push = Push::new(platform()).await;
        push.write("a.ifc", "a");
        push.write("b.ifc", "b");
        let child = push.command(words).spawn().unwrap();
        eventually(
            || !push.emulator.requests().is_empty(),
            || "no request".to_owned(),
        )
        .await;
        std::fs::remove_file(push.path("a.ifc")).unwrap();
        let done = Finished::from(child.wait_with_output().await.unwrap());
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(
            done.out.contains("it was deleted while it was pushed"),
            "{done:?}"
        );
    }
}

#[tokio::test]
async fn the_end_is_the_same_as_that_of_a_daemon() {
    let files = [("a.ifc", "a"), ("in/b.dgn", "b")];
    let push = Push::new(platform()).await;
    let (site, folder) = Site::with_folder(platform()).await;
    for (path, content) in files {
        push.write(&format!("site/{path}"), content);
        write(&folder.join(path), content);
    }
    assert_eq!(push.run(&["site"]).await.code, Some(0));
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    let seen = |emulator: &Emulator| {
        let state = emulator.state();
        let mut all: Vec<_> = state
            .connections
            .values()
            .flat_map(|connection| &connection.source_files)
            .map(|source| {
                let file = &state.files[&source.storage_file_id];
                let completed = file.completed.as_ref().unwrap();
                (
                    file.path.replace(&stored(""), ""),
                    source.connector_type.clone(),
                    completed.sha256.clone(),
                )
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(seen(&push.emulator), seen(&site.emulator));
}
