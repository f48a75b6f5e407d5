//! `ledger copy`: a ledger moves between SQLite and PostgreSQL, and the daemon continues as if nothing had happened.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use super::{Server, database, files, shared_server, write_all};
use crate::ledger::SmallDisk;
use crate::support::{Finished, Site, assert_in_imodel, eventually, platform, write};

/// Where a copy can be killed.
pub const POINTS: [&str; 4] = [
    "rows copied",
    "copy complete",
    "copy committed",
    "original marked",
];

/// A site with files that are synchronized, its daemon stopped; and a database.
struct Moving {
    site: Site,
    files: BTreeMap<String, String>,
    url: String,
    /// The configuration without the database.
    tables: String,
}

const COUNT: usize = 12;

impl Moving {
    async fn new() -> Self {
        Self::to(&shared_server()).await
    }

    async fn to(server: &str) -> Self {
        let (site, folder) = Site::with_folder(platform()).await;
        let files = files(COUNT);
        write_all(&folder, &files);
        let daemon = site.start();
        site.synchronized(COUNT, &daemon).await;
        daemon.stop().await;
        let tables = site.tables.clone();
        let url = database(server).await;
        let mut moving = Self {
            site,
            files,
            url,
            tables,
        };
        moving.use_server();
        moving
    }

    fn use_server(&mut self) {
        self.site.tables = format!("url = {:?}\n{}", self.url, self.tables);
    }

    fn use_directory(&mut self) {
        self.site.tables.clone_from(&self.tables);
    }

    async fn copy(&self, option: &str) -> Finished {
        self.copy_with(option, &[]).await
    }

    async fn copy_with(&self, option: &str, environment: &[(&str, &str)]) -> Finished {
        let directory = self.site.path("state");
        let words = ["ledger", "copy", option, directory.to_str().unwrap()];
        let mut command = self.site.command(&words);
        command.envs(environment.iter().copied());
        Finished::from(command.output().await.unwrap())
    }

    fn sent(&self) -> (usize, usize, usize) {
        let state = self.site.emulator.state();
        let puts = self.site.emulator.requests().into_iter();
        let puts = puts.filter(|request| request.method == "PUT" && request.origin == "blob");
        (puts.count(), state.runs.len(), state.files.len())
    }

    /// A start with the ledger as it is now: nothing is sent. Then a changed file becomes new content of its storage
    /// file, and has its whole history.
    async fn assert_continues(&mut self, content: &str) {
        let (puts, runs, stored) = self.sent();
        let daemon = self.site.start();
        daemon.says("scan finished").await;
        self.site.synchronized(COUNT, &daemon).await;
        let log = daemon.log();
        assert!(!log.contains("resume") && !log.contains("WARN"), "{log}");
        assert_eq!(self.sent(), (puts, runs, stored), "{log}");
        let path = "0/plan 0.dgn";
        let before = self.site.stored(path);
        write(&self.site.path("north").join(path), content);
        self.files.insert(path.to_owned(), content.to_owned());
        eventually(|| self.site.holds(&self.files), || daemon.log()).await;
        self.site.synchronized(COUNT, &daemon).await;
        let (status, log) = daemon.stop().await;
        assert!(status.success(), "{log}");
        let after = self.site.stored(path);
        assert_eq!(after.id, before.id);
        assert_eq!(after.completions, before.completions + 1);
        assert_eq!(self.sent(), (puts + 1, runs + 1, stored), "{log}");
        assert_in_imodel(&self.site.emulator.state(), &self.files);
        let shown = self.site.run(&["status", path]).await;
        let synchronized = shown.out.matches("after it was queued").count();
        assert_eq!(synchronized, after.completions as usize, "{shown:?}");
    }

    /// Neither the daemon nor a command uses the ledger of this configuration.
    async fn assert_refuses(&self, texts: &[&str]) {
        for words in [
            &["run", "--once"][..],
            &["retry", "--failed"],
            &["pause", "north"],
            &["status"],
            &["check"],
        ] {
            let refused = self.site.run(words).await;
            assert_eq!(refused.code, Some(1), "{words:?}: {refused:?}");
            let printed = format!("{}{}", refused.out, refused.err);
            for text in texts {
                assert!(printed.contains(text), "{words:?}: {text:?}: {refused:?}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_daemon_continues_on_the_server_and_back_in_sqlite_without_an_upload_or_a_run() {
    let mut moving = Moving::new().await;
    let copied = moving.copy("--from").await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let line = |start: &str| {
        let found = copied.out.lines().find(|line| line.starts_with(start));
        let words = found.unwrap_or_else(|| panic!("{copied:?}"));
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        words
    };
    let files = line("files");
    assert_eq!(files[1..3], ["12", "12"]);
    for line in [files, line("total")] {
        assert_eq!((&line[1], &line[3]), (&line[2], &line[4]));
    }
    assert!(copied.out.contains("next: start the service"), "{copied:?}");
    moving.assert_continues("on the server").await;

    moving.use_directory();
    let server = moving.url.split_once('@').unwrap().1.to_owned();
    let hint = moving.site.hinted("ledger reactivate");
    moving
        .assert_refuses(&[
            "is not used any more: it was copied to the database",
            &server,
            "set state.url to that database",
            &hint,
        ])
        .await;

    moving.use_server();
    let back = moving.copy("--to").await;
    assert_eq!(back.code, Some(0), "{back:?}");
    assert!(back.out.contains("next: remove state.url"), "{back:?}");
    let state = moving.site.path("state");
    moving
        .assert_refuses(&[
            "is not used any more: it was copied to",
            state.to_str().unwrap(),
            "run the service on that host, without state.url",
        ])
        .await;
    moving.use_directory();
    moving.assert_continues("in SQLite again").await;

    moving.use_server();
    let again = moving.copy("--from").await;
    assert_eq!(again.code, Some(0), "{again:?}");
    moving.assert_continues("on the server again").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_copy_that_is_killed_anywhere_is_repeated_and_loses_nothing() {
    for (option, point, is_complete) in [
        ("--from", "rows copied", false),
        ("--from", "copy complete", false),
        ("--from", "copy committed", false),
        ("--from", "original marked", true),
        ("--to", "rows copied", false),
        ("--to", "copy committed", false),
        ("--to", "original marked", true),
    ] {
        let mut moving = Moving::new().await;
        if option == "--to" {
            let copied = moving.copy("--from").await;
            assert_eq!(copied.code, Some(0), "{copied:?}");
        }
        let killed = moving
            .copy_with(option, &[("ITWIN_SYNCD_FAILPOINT", point)])
            .await;
        assert_eq!(killed.code, None, "{point}: {killed:?}");
        let to_server = option == "--from";
        let use_side = |moving: &mut Moving, server: bool| {
            if server {
                moving.use_server();
            } else {
                moving.use_directory();
            }
        };
        // The original works as before, unless the copy is complete; the copy does not.
        use_side(&mut moving, !to_server);
        let original = moving.site.run(&["status"]).await;
        let is_shown = original.out.contains("12 files synchronized");
        assert_eq!(is_shown, !is_complete, "{point}: {original:?}");
        use_side(&mut moving, to_server);
        let copy = moving.site.run(&["status"]).await;
        assert!(
            !copy.out.contains("files synchronized"),
            "{point}: {copy:?}"
        );
        if point == "copy committed" || is_complete {
            assert!(copy.err.contains("is not finished"), "{copy:?}");
        }
        if !is_complete {
            use_side(&mut moving, !to_server);
            moving.assert_continues("after the kill").await;
        }
        moving.use_server();
        let copied = moving.copy(option).await;
        assert_eq!(copied.code, Some(0), "{point}: {copied:?}");
        assert_eq!(
            copied.out.contains("only the last step was left"),
            is_complete
        );
        use_side(&mut moving, to_server);
        moving.assert_continues("after the copy").await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_copy_is_refused_while_a_daemon_uses_either_side() {
    let mut moving = Moving::new().await;
    moving.use_directory();
    let daemon = moving.site.start();
    daemon.says("scan finished").await;
    moving.use_server();
    let refused = moving.copy("--from").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("already uses")
            && refused.err.contains("hint: stop the service on all hosts"),
        "{refused:?}"
    );
    daemon.stop().await;
    // On another host.
    let daemon = moving.site.start_on("two", &[]);
    daemon.says("scan finished").await;
    for option in ["--from", "--to"] {
        let refused = moving.copy(option).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused
                .err
                .contains("is in use by another itwin-syncd: host")
                && refused.err.contains("hint: stop the service on all hosts"),
            "{refused:?}"
        );
    }
    daemon.stop().await;
    let refused = moving.copy("--from").await;
    assert!(
        refused.err.contains("there is a ledger in the database")
            && refused.err.contains("hint: create an empty database"),
        "{refused:?}"
    );
    moving.use_directory();
    moving.assert_continues("as before").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_server_that_fails_during_a_copy_is_named_and_the_original_works() {
    let server = Server::start().await;
    let mut moving = Moving::to(&server.url).await;
    for option in ["--from", "--to"] {
        let slow = [("ITWIN_SYNCD_SLOWPOINT", "rows copied")];
        let stop = async {
            // The first page is written, the second one is not yet.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            server.control(&["-m", "immediate", "stop"]).await;
        };
        let (failed, ()) = tokio::join!(moving.copy_with(option, &slow), stop);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(
            failed.err.contains("ledger in the database") && failed.err.contains("hint: "),
            "{failed:?}"
        );
        // Still away.
        let refused = moving.copy(option).await;
        assert!(
            refused.code == Some(1) && refused.err.contains("hint: check that the server runs"),
            "{refused:?}"
        );
        server.start_again().await;
        let copied = moving.copy(option).await;
        assert_eq!(copied.code, Some(0), "{copied:?}");
        if option == "--from" {
            moving.assert_continues("on the server").await;
        }
    }
    moving.use_directory();
    moving.assert_continues("in SQLite").await;
    server.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn wrong_arguments_of_a_copy_are_explained() {
    let mut moving = Moving::new().await;
    let run = async |moving: &Moving, words: &[&str]| {
        let done = moving.site.run(words).await;
        assert_ne!(done.code, Some(0), "{done:?}");
        done.err
    };
    let none = moving.site.path("none");
    let none = none.to_str().unwrap();
    let printed = run(&moving, &["ledger", "copy", "--from", none]).await;
    assert!(
        printed.contains("no ledger in")
            && printed.contains("hint: name the state directory that has the file ledger.db"),
        "{printed}"
    );
    let printed = run(&moving, &["ledger", "copy"]).await;
    assert!(
        printed.contains("--from <DIRECTORY>|--to <DIRECTORY>"),
        "{printed}"
    );
    let printed = run(&moving, &["ledger", "copy", "--to", none]).await;
    assert!(
        printed.contains("there is no ledger in the database"),
        "{printed}"
    );
    moving.use_directory();
    let printed = run(&moving, &["ledger", "copy", "--from", none]).await;
    assert!(printed.contains("hint: set state.url"), "{printed}");

    // A directory that others may write to.
    moving.use_server();
    let open = moving.site.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let printed = run(&moving, &["ledger", "copy", "--to", open.to_str().unwrap()]).await;
    assert!(printed.contains("other users can write to"), "{printed}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_ledger_whose_copy_is_lost_is_used_again_after_a_confirmation() {
    let mut moving = Moving::new().await;
    let copied = moving.copy("--from").await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    moving.use_directory();
    let asked = moving.site.run(&["ledger", "reactivate"]).await;
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(
        asked.err.contains("was copied to the database") && asked.err.contains("--yes"),
        "{asked:?}"
    );
    let done = moving.site.run(&["ledger", "reactivate", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    moving.assert_continues("after all").await;
    let done = moving.site.run(&["ledger", "reactivate"]).await;
    assert!(
        done.code == Some(0) && done.out.contains("nothing to do"),
        "{done:?}"
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL and root: run tests/all"]
async fn a_full_disk_during_a_copy_is_named_and_the_original_works() {
    let mut moving = Moving::new().await;
    let copied = moving.copy("--from").await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let target = moving.site.path("small");
    let disk = SmallDisk::mount(&target);
    disk.fill();
    let words = ["ledger", "copy", "--to", target.to_str().unwrap()];
    let failed = moving.site.run(&words).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("free space on the disk"), "{failed:?}");
    moving.assert_continues("on the server").await;
    disk.make_room();
    let copied = moving.site.run(&words).await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    assert!(copied.out.contains("set state.path to"), "{copied:?}");
    drop(disk);
}
