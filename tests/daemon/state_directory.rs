//! The directory of the ledger: what others have put there, what the umask would do to it, and who else uses it.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::{Site, eventually, platform, write};

const NOBODY: u32 = 65_534;

/// A folder with files that a planted link leads to.
struct Victims(PathBuf);

impl Victims {
    fn new(site: &Site) -> Self {
        let folder = site.path("victims");
        write(&folder.join("file"), "precious");
        let old = File::options()
            .write(true)
            .open(folder.join("file"))
            .unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(10 * 24 * 3600))
            .unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("file")
    }

    fn missing(&self) -> PathBuf {
        self.0.join("missing")
    }

    fn assert_untouched(&self, way: &str) {
        let left = std::fs::read_dir(&self.0).unwrap().count();
        assert_eq!(left, 1, "{way}: a file was made or removed");
        assert_eq!(std::fs::read(self.file()).unwrap(), b"precious", "{way}");
        let mode = self.file().metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o644, "{way}");
    }
}

fn private(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn links_in_the_state_directory_change_nothing_elsewhere() {
    for name in ["lock", "ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        for dangling in [false, true] {
            let (site, _folder) = Site::with_folder(platform()).await;
            let victims = Victims::new(&site);
            std::fs::set_permissions(victims.file(), Permissions::from_mode(0o644)).unwrap();
            private(&site.path("state"));
            let target = if dangling {
                victims.missing()
            } else {
                victims.file()
            };
            symlink(target, site.path("state").join(name)).unwrap();
            let refused = site.run(&["run", "--once"]).await;
            victims.assert_untouched(name);
            assert_eq!(refused.code, Some(1), "{name}: {refused:?}");
            assert!(
                refused
                    .err
                    .contains("is a symbolic link, not a regular file")
                    && refused.err.contains("hint=")
                    && refused.err.contains("then remove "),
                "{name}: {refused:?}"
            );
            std::fs::remove_file(site.path("state").join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_link_in_place_of_a_folder_or_the_socket_changes_nothing_elsewhere() {
    for name in ["unfinished", "control.sock"] {
        let (site, folder) = Site::with_folder(platform()).await;
        let victims = Victims::new(&site);
        std::fs::set_permissions(victims.file(), Permissions::from_mode(0o644)).unwrap();
        private(&site.path("state"));
        symlink(&victims.0, site.path("state").join(name)).unwrap();
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        victims.assert_untouched(name);
    }
}

#[tokio::test]
async fn a_state_directory_that_others_can_write_to_is_refused_with_what_to_do() {
    let (site, _folder) = Site::with_folder(platform()).await;
    private(&site.path("state"));
    std::fs::set_permissions(site.path("state"), Permissions::from_mode(0o777)).unwrap();
    let refused = site.run(&["run", "--once"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("chmod go-w"), "{refused:?}");
    assert_eq!(std::fs::read_dir(site.path("state")).unwrap().count(), 0);
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.out.contains("chmod go-w"), "{check:?}");
    // What the hint says ends it.
    std::fs::set_permissions(site.path("state"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn root_starts_nothing_in_a_state_directory_of_another_user() {
    let (site, _folder) = Site::with_folder(platform()).await;
    private(&site.path("state"));
    chown(site.path("state"), Some(NOBODY), None).unwrap();
    let refused = site.run(&["run", "--once"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("belongs to the user") && refused.err.contains("sudo -u"),
        "{refused:?}"
    );
    assert_eq!(std::fs::read_dir(site.path("state")).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn a_command_run_by_root_acts_as_the_owner_of_the_state() {
    let (site, folder) = Site::with_folder(platform()).await;
    // The owner must be able to reach it.
    std::fs::set_permissions(site.path(""), Permissions::from_mode(0o755)).unwrap();
    write(&folder.join("house.ifc"), "house");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    let state = site.path("state");
    chown(&state, Some(NOBODY), None).unwrap();
    for entry in std::fs::read_dir(&state).unwrap() {
        chown(entry.unwrap().path(), Some(NOBODY), None).unwrap();
    }
    let paused = site.run(&["pause"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    let house = folder.join("house.ifc");
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["status", "house.ifc"],
        &["explain", house.to_str().unwrap()],
        &["retry", "--failed"],
        &["check"],
    ] {
        let output = site.run(command).await;
        assert!(!output.err.contains("error"), "{command:?}: {output:?}");
    }
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.metadata().unwrap().uid(), NOBODY, "{path:?}");
    }
    // What its owner has planted there leads nowhere that the owner could not go.
    let secret = site.path("secret");
    write(&secret, "precious");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    for name in ["lock", "ledger.db-wal", "ledger.db-shm"] {
        drop(std::fs::remove_file(state.join(name)));
        std::fs::hard_link(&secret, state.join(name)).unwrap();
        let refused = site.run(&["resume"]).await;
        assert_eq!(refused.code, Some(1), "{name}: {refused:?}");
        assert_eq!(std::fs::read(&secret).unwrap(), b"precious", "{name}");
        std::fs::remove_file(state.join(name)).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs strace: run tests/all"]
async fn the_state_directory_and_the_socket_are_private_from_the_first_moment_whatever_the_umask() {
    for umask in ["000", "077"] {
        let (site, _folder) = Site::with_folder(platform()).await;
        let trace = site.path("trace");
        let shell = format!("umask {umask}; exec \"$@\"");
        let daemon = site.start_under(&[
            "strace",
            // The program is the child, not the tracer: it gets the signals.
            "-D",
            "-f",
            "-q",
            "-o",
            trace.to_str().unwrap(),
            "-e",
            "trace=bind,chmod,fchmod,fchmodat",
            "sh",
            "-c",
            &shell,
            "sh",
        ]);
        daemon.says("scan finished").await;
        let socket = site.path("state/control.sock");
        // Its mode is only ever widened.
        let is_open = || {
            let found = socket.metadata();
            found.is_ok_and(|found| found.mode() & 0o777 == 0o660)
        };
        eventually(is_open, || daemon.log()).await;
        let mode = |name: &str| site.path(name).metadata().unwrap().mode() & 0o777;
        assert_eq!(mode("state"), 0o700, "umask {umask}");
        assert_eq!(mode("state/lock"), 0o600, "umask {umask}");
        assert_eq!(mode("state/ledger.db"), 0o600, "umask {umask}");
        let pid = daemon.pid().to_string();
        daemon.stop().await;
        // The tracer ends after the program, and writes what it has not written yet.
        let calls = || std::fs::read_to_string(&trace).unwrap();
        let is_end = |line: &str| line.starts_with(&pid) && line.ends_with("exited with 0 +++");
        eventually(|| calls().lines().any(is_end), calls).await;
        let calls = calls();
        let (_, after) = calls
            .split_once("control.sock")
            .unwrap_or_else(|| panic!("the socket was not bound: {calls}"));
        // From the widest umask on the mode is only ever widened, as far as the umask has narrowed it.
        let narrowed = after.contains("chmod");
        assert_eq!(narrowed, umask == "077", "umask {umask}: {calls}");
    }
}

#[tokio::test]
async fn a_start_waits_a_moment_for_the_lock() {
    let (site, _folder) = Site::with_folder(platform()).await;
    private(&site.path("state"));
    let lock = File::create(site.path("state/lock")).unwrap();
    lock.lock().unwrap();
    let daemon = site.start();
    daemon.says("waiting for another itwin-syncd").await;
    lock.unlock().unwrap();
    daemon.says("scan finished").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_starting_daemon_and_a_command_do_not_block_each_other() {
    let (site, _folder) = Site::with_folder(platform()).await;
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    for round in 0..12 {
        let verb = ["pause", "resume"][round % 2];
        let daemon = site.start();
        let done = site.run(&[verb]).await;
        assert_eq!(done.code, Some(0), "{done:?}\n{}", daemon.log());
        daemon.says("scan finished").await;
        let (status, log) = daemon.stop().await;
        assert!(status.success(), "{log}");
    }
}

#[tokio::test]
async fn the_first_line_and_exit_code_of_status_show_the_worst_problem() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let first = |out: &str| out.lines().next().unwrap_or_default().to_owned();
    let output = site.run(&["status"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(
        first(&output.out),
        "OK: nothing needs attention; 1 file synchronized"
    );
    daemon.stop().await;
    let output = site.run(&["status"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(
        first(&output.out),
        "ATTENTION: daemon not running; 1 file synchronized"
    );
    let output = site.run(&["status", "--json"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(
        json["summary"],
        "ATTENTION: daemon not running; 1 file synchronized"
    );
}
