//! A ledger that is lost or damaged costs a look at everything, never a file and never a second upload.

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID};

use crate::support::{Site, assert_in_imodel, eventually, platform, write};

const SECOND_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";

/// A site with files that are synchronized, its daemon stopped or killed.
async fn synchronized_site(in_order: bool) -> (Site, BTreeMap<String, String>) {
    let builder = platform()
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "One")
        .imodel(SECOND_IMODEL, DEFAULT_ITWIN_ID, "Two");
    let (site, folder) = Site::with_folder(builder).await;
    let mut files = BTreeMap::new();
    for number in 0..40 {
        let path = format!("{}/{number}.ifc", number % 3);
        let content = format!("content of {number}");
        write(&folder.join(&path), &content);
        files.insert(path, content);
    }
    let daemon = site.start();
    site.synchronized(files.len(), &daemon).await;
    if in_order {
        daemon.stop().await;
    } else {
        daemon.kill().await;
    }
    (site, files)
}

/// Starts once more and sees that everything is known again without a byte being sent.
async fn is_known_again(site: &Site, files: &BTreeMap<String, String>) -> String {
    let sent = site.requests("PUT", "").len();
    let daemon = site.start();
    daemon.says("scan finished").await;
    site.synchronized(files.len(), &daemon).await;
    let (_, log) = daemon.stop().await;
    let blobs = site.emulator.requests();
    let puts = blobs
        .iter()
        .filter(|request| request.method == "PUT" && request.origin == "blob");
    assert_eq!(puts.count(), files.len(), "nothing is sent again");
    assert!(site.requests("PUT", "").len() >= sent);
    assert_in_imodel(&site.emulator.state(), files);
    log
}

fn garble(path: &Path, at: u64) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[0x5A; 6000]).unwrap();
}

#[tokio::test]
async fn a_ledger_that_was_deleted_is_rebuilt_from_folders_and_storage() {
    let (site, files) = synchronized_site(true).await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    is_known_again(&site, &files).await;
}

#[tokio::test]
async fn a_ledger_that_is_not_a_database_is_moved_aside_and_rebuilt() {
    let (site, files) = synchronized_site(true).await;
    garble(&site.path("state/ledger.db"), 0);
    let log = is_known_again(&site, &files).await;
    assert!(log.contains("ledger damaged: moved it aside"), "{log}");
    let aside = std::fs::read_dir(site.path("state")).unwrap();
    let aside = aside.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("damaged-")
    });
    assert_eq!(aside.count(), 1);
}

#[tokio::test]
async fn a_ledger_damaged_in_a_crash_is_detected_at_start() {
    for truncated in [false, true] {
        let (site, files) = synchronized_site(false).await;
        // What is in the log would mend the damage.
        drop(std::fs::remove_file(site.path("state/ledger.db-wal")));
        let database = site.path("state/ledger.db");
        let size = std::fs::metadata(&database).unwrap().len();
        if truncated {
            let file = std::fs::File::options()
                .write(true)
                .open(&database)
                .unwrap();
            file.set_len(size / 2).unwrap();
        } else {
            garble(&database, size / 2);
        }
        is_known_again(&site, &files).await;
    }
}

#[tokio::test]
async fn a_file_that_changed_while_the_ledger_was_lost_is_uploaded_and_the_others_are_not() {
    let (site, mut files) = synchronized_site(true).await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    // Equal size: only the content tells.
    write(&site.path("north/1/1.ifc"), "CONTENT of 1");
    files.insert("1/1.ifc".to_owned(), "CONTENT of 1".to_owned());
    let daemon = site.start();
    let changed = || site.stored("1/1.ifc").completions == 2;
    eventually(changed, || daemon.log()).await;
    site.synchronized(files.len(), &daemon).await;
    daemon.stop().await;
    let blobs = site.emulator.requests();
    let puts = blobs
        .iter()
        .filter(|request| request.method == "PUT" && request.origin == "blob");
    assert_eq!(puts.count(), files.len() + 1);
    assert_in_imodel(&site.emulator.state(), &files);
}

/// Uploads so far.
fn uploads(site: &Site) -> usize {
    let requests = site.emulator.requests();
    let puts = requests
        .iter()
        .filter(|request| request.method == "PUT" && request.origin == "blob");
    puts.count()
}

#[tokio::test]
async fn the_bulk_change_guard_sees_what_changed_while_the_ledger_was_lost() {
    let (mut site, mut files) = synchronized_site(true).await;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    site.tables += "[bulk_change]\nmax_files = 10\n";
    for (path, content) in files.iter_mut().take(20) {
        *content = content.to_uppercase();
        write(&site.path("north").join(path), content);
    }
    let before = uploads(&site);
    let daemon = site.start();
    daemon.says("watch suspended").await;
    daemon.stop().await;
    assert_eq!(uploads(&site), before);
    // Those that did not change were found in storage before that, or are when the watch continues.
    site.tables = site.tables.replace("files = 10", "files = 40");
    let daemon = site.start();
    eventually(|| uploads(&site) == before + 20, || daemon.log()).await;
    site.synchronized(files.len(), &daemon).await;
    daemon.stop().await;
    assert_in_imodel(&site.emulator.state(), &files);
}

#[tokio::test]
async fn more_changed_files_at_once_than_the_limit_suspend_their_watch_until_it_is_resumed() {
    let (mut site, mut files) = synchronized_site(true).await;
    let quiet = site.watch("south", SECOND_IMODEL, "storage_folder = \"south\"");
    site.tables += "[bulk_change]\nmax_files = 10\n";
    for (path, content) in &mut files {
        *content = content.to_uppercase();
        write(&site.path("north").join(path), content);
    }
    let before = uploads(&site);
    for _ in 0..2 {
        let daemon = site.start();
        // Another watch continues.
        write(&quiet.join(format!("{}.ifc", uploads(&site))), "new");
        let others = uploads(&site);
        eventually(|| uploads(&site) > others, || daemon.log()).await;
        daemon.stop().await;
        assert!(uploads(&site) - before <= 12, "{}", uploads(&site) - before);
    }
    let output = site.run(&["status"]).await.out;
    // Some of them may have been uploaded before all were complete.
    assert!(
        output.contains("known files changed at once (limit 10)"),
        "{output}"
    );
    site.tables = site.tables.replace("files = 10", "files = 40");
    let daemon = site.start();
    eventually(|| uploads(&site) >= before + 42, || daemon.log()).await;
    site.synchronized(42, &daemon).await;
    daemon.stop().await;
}

/// A small file system of its own for the ledger; it goes with this.
pub(super) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    pub(super) fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at.to_owned())
    }

    /// Writes until nothing fits any more.
    pub(super) fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub(super) fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(unmounted.unwrap().success());
    }
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn a_full_disk_stops_the_daemon_with_a_hint_and_loses_nothing() {
    let (site, folder) = Site::with_folder(platform()).await;
    let disk = SmallDisk::mount(&site.path("state"));
    disk.fill();
    let refused = site.run(&["run"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("free space on the disk"),
        "{refused:?}"
    );
    disk.make_room();
    let mut files = BTreeMap::new();
    let daemon = site.start();
    daemon.says("scan finished").await;
    disk.fill();
    for number in 0..100 {
        let (path, content) = (format!("{number}.ifc"), number.to_string());
        write(&folder.join(&path), &content);
        files.insert(path, content);
    }
    let (status, log) = daemon.ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("free space on the disk"), "{log}");
    let output = site.run(&["status"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output
            .out
            .starts_with("ATTENTION: disk of the state directory full, daemon not running",)
            || output.err.contains("is full: free up space"),
        "{output:?}"
    );
    disk.make_room();
    let daemon = site.start();
    site.synchronized(files.len(), &daemon).await;
    daemon.stop().await;
    assert_in_imodel(&site.emulator.state(), &files);
}

#[tokio::test]
#[ignore = "needs strace: run tests/all"]
async fn a_write_error_of_the_disk_stops_the_daemon_and_leaves_a_sound_ledger() {
    // Counted for each thread by itself.
    for (failing, from) in [("fsync,fdatasync", 3), ("pwrite64", 60)] {
        let (site, folder) = Site::with_folder(platform()).await;
        let mut files = BTreeMap::new();
        for number in 0..20 {
            let (path, content) = (format!("{number}.ifc"), number.to_string());
            write(&folder.join(&path), &content);
            files.insert(path, content);
        }
        let inject = format!("inject={failing}:error=EIO:when={from}+");
        let trace = format!("trace={failing}");
        let daemon = site.start_under(&[
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ]);
        let (status, log) = daemon.ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("ledger: cannot"), "{log}");
        let daemon = site.start();
        site.synchronized(files.len(), &daemon).await;
        let (_, log) = daemon.stop().await;
        assert!(!log.contains("moved aside"), "{log}");
        assert_in_imodel(&site.emulator.state(), &files);
    }
}
