//! Hosts that see a share differently, see another folder under its path, or lose it.
//!
//! Each host has a mount namespace in which a folder of its own covers that of the watch.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use itwin_syncd::emulator::DEFAULT_IMODEL_ID;

use super::differences::copy;
use super::uploads::UPLOADS;
use super::{ACTIVE, STANDBY, site};
use crate::fuse::{Hanging, Share};
use crate::postgres::{files, write_all};
use crate::support::{Daemon, PATIENCE, Site, eventually, write};

/// As [`super::QUICK`], for `env`.
const QUICK: &str = "ITWIN_SYNCD_LEASE_HASTE=5";

/// Says that the folder is not the known one.
const OTHER: &str = "this is not the folder in which files were found";

/// What every host needs that shows other times of a file: time for them to be told apart, and a guard that notices.
fn settle_slowly(site: &mut Site) {
    site.top = site.top.replace("settle = \"300ms\"", "settle = \"2s\"");
    site.tables += "[bulk_change]\nmax_files = 5\n[upload]\nworkers = 16\n";
}

/// Files that are stored only, as many as there may be.
fn store_only(site: &mut Site) {
    site.add_to_watches("upload_only = [\"**\"]\n");
}

/// Starts a host for which `view` is the folder of the watch.
fn start(site: &Site, host: &str, folder: &Path, view: &Path) -> Daemon {
    let script = format!("mount --bind {view:?} {folder:?} && exec \"$0\" \"$@\"");
    site.start_on_under(host, &["env", QUICK, "unshare", "-rm", "sh", "-c", &script])
}

/// Two views of the same files. In the one of the first host, modification times have all digits and change times are
/// later; in the other one they are in steps of `step`.
fn views(site: &Site, files: &BTreeMap<String, String>, step: Duration) -> (PathBuf, PathBuf) {
    let (one, two) = (site.path("view of one"), site.path("view of two"));
    write_all(&two, files);
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let set = |view: &Path, time: SystemTime| {
        for path in files.keys() {
            let file = File::options().write(true).open(view.join(path)).unwrap();
            file.set_modified(time).unwrap();
        }
    };
    set(
        &two,
        written
            + if step < Duration::from_secs(1) {
                Duration::from_nanos(1_234_567_800)
            } else {
                Duration::ZERO
            },
    );
    copy(&two, &one);
    set(&one, written + Duration::from_nanos(1_234_567_891));
    (one, two)
}

/// Requests that changed something on the platform, but for tokens.
fn changes(site: &Site) -> Vec<String> {
    let requests = site.emulator.requests().into_iter();
    let changes = requests.filter(|one| one.method != "GET" && !one.path.contains("token"));
    changes
        .map(|one| format!("{} {}", one.method, one.path))
        .collect()
}

/// Waits for the summary of a host.
async fn shows(site: &Site, host: &str, text: &str, daemon: &Daemon) -> String {
    let deadline = tokio::time::Instant::now() + 4 * PATIENCE;
    loop {
        let shown = site.run_on(host, &["status"]).await;
        if shown.out.contains(text) {
            return shown.out;
        }
        let log = daemon.log();
        let end: Vec<&str> = log.lines().rev().take(40).collect();
        assert!(
            tokio::time::Instant::now() < deadline,
            "{}\n{end:#?}",
            shown.out,
        );
        daemon.logs_more().await;
    }
}

/// How many files the guard has to let through, and nothing else is said of them.
fn assert_quiet(daemon: &Daemon) {
    let log = daemon.log();
    for word in ["watch suspended", "upload failed", "folder is unavailable"] {
        assert!(!log.contains(word), "{log}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn files_that_another_host_sees_with_other_times_are_neither_read_nor_uploaded() {
    let count = std::env::var("VIEW_FILES").map_or(300, |files| files.parse().unwrap());
    let all_uploaded = format!("{count} uploaded only, 0 waiting, 0 in progress");
    for (step, is_killed) in [
        (Duration::from_secs(2), false),
        (Duration::from_nanos(100), true),
    ] {
        let (mut site, folder) = site().await;
        settle_slowly(&mut site);
        store_only(&mut site);
        let files = files(count);
        let (one, two) = views(&site, &files, step);
        let active = start(&site, "one", &folder, &one);
        shows(&site, "one", &all_uploaded, &active).await;
        let standby = start(&site, "two", &folder, &two);
        standby.says(STANDBY).await;
        let before = changes(&site);
        if is_killed {
            active.kill().await;
        } else {
            active.stop().await;
        }
        standby.says(ACTIVE).await;
        standby
            .says(&format!(
                "scan finished watch=\"north\" files={count} changed=0 "
            ))
            .await;
        shows(&site, "two", &all_uploaded, &standby).await;
        assert_eq!(changes(&site), before, "{step:?}");
        assert_quiet(&standby);
        // From then on, these times are the known ones.
        write(&two.join("0/plan 0.dgn"), "CONTENT 0");
        let uploaded = || changes(&site).len() > before.len();
        eventually(uploaded, || standby.log()).await;
        standby.stop().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn what_may_have_changed_during_a_take_over_is_compared_by_content() {
    let (mut site, folder) = site().await;
    settle_slowly(&mut site);
    store_only(&mut site);
    let mut files = files(40);
    let (one, two) = views(&site, &files, Duration::from_secs(2));
    let active = start(&site, "one", &folder, &one);
    shows(
        &site,
        "one",
        "40 uploaded only, 0 waiting, 0 in progress",
        &active,
    )
    .await;
    active.stop().await;
    // The content of one file changes, and its size and modification time are as before.
    let changed = two.join("1/plan 1.dgn");
    let modified = std::fs::metadata(&changed).unwrap().modified().unwrap();
    write(&changed, "CONTENT 1");
    let file = File::options().write(true).open(&changed).unwrap();
    file.set_modified(modified).unwrap();
    files.insert("1/plan 1.dgn".to_owned(), "CONTENT 1".to_owned());
    let before = site.requests("POST", "/complete").len();
    let other = start(&site, "two", &folder, &two);
    other
        .says("scan finished watch=\"north\" files=40 changed=1 ")
        .await;
    eventually(|| site.holds(&files), || other.log()).await;
    assert_eq!(site.requests("POST", "/complete").len(), before + 1);
    assert_quiet(&other);
    other.stop().await;
    // Where all change times are later, each file is read once, and none is uploaded.
    write(&one.join("1/plan 1.dgn"), "CONTENT 1");
    let file = File::options().write(true).open(one.join("1/plan 1.dgn"));
    file.unwrap().set_modified(modified).unwrap();
    let before = changes(&site);
    let back = start(&site, "one", &folder, &one);
    back.says("scan finished watch=\"north\" files=40 changed=40 ")
        .await;
    shows(&site, "one", "OK: nothing needs attention", &back).await;
    eventually(|| site.holds(&files), || back.log()).await;
    assert_eq!(changes(&site), before);
    assert_quiet(&back);
    back.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_sees_another_folder_takes_nothing_from_it_until_the_operator_accepts_it() {
    for is_empty in [false, true] {
        let (mut site, folder) = site().await;
        store_only(&mut site);
        let files = files(12);
        let (one, two) = (site.path("share"), site.path("disk"));
        write_all(&one, &files);
        std::fs::create_dir(&two).unwrap();
        if !is_empty {
            write(&two.join("0/plan 0.dgn"), "an older copy");
            write(&two.join("private.txt"), "private");
        }
        let active = start(&site, "one", &folder, &one);
        shows(
            &site,
            "one",
            "12 uploaded only, 0 waiting, 0 in progress",
            &active,
        )
        .await;
        let standby = start(&site, "two", &folder, &two);
        standby.says(UPLOADS).await;
        let before = changes(&site);
        active.stop().await;
        standby.says("folder is unavailable").await;
        // What is saved there now is not taken either.
        write(&two.join("later.txt"), "later");
        let shown = shows(&site, "two", OTHER, &standby).await;
        assert!(shown.contains("of 12 known files are in it"), "{shown}");
        assert!(shown.contains("/disk on "), "{shown}");
        assert!(shown.contains("resume north"), "{shown}");
        assert!(
            shown.contains("12 uploaded only, 0 waiting, 0 in progress"),
            "{shown}"
        );
        // The host that sees the share becomes active.
        let back = start(&site, "one", &folder, &one);
        back.says(STANDBY).await;
        ends_for_another(standby).await;
        back.says(ACTIVE).await;
        back.says("scan finished watch=\"north\" files=12 changed=0 ")
            .await;
        shows(&site, "one", "OK: nothing needs attention", &back).await;
        assert_eq!(changes(&site), before);
        back.stop().await;
        // The files have moved there.
        let other = start(&site, "two", &folder, &two);
        other.says("folder is unavailable").await;
        let resumed = site.run_on("two", &["resume", "north"]).await;
        assert_eq!(resumed.code, Some(0), "{resumed:?}");
        let stored = || {
            let state = site.emulator.state();
            state.files.values().any(|file| file.path == "later.txt")
        };
        eventually(stored, || other.log()).await;
        other.stop().await;
    }
}

/// The folder of a watch is not mounted any more on a host.
fn unmount(host: &Daemon, folder: &Path) {
    let done = std::process::Command::new("nsenter")
        .args(["--preserve-credentials", "-U", "-m", "-t"])
        .arg(host.pid().to_string())
        .args(["umount", "-l"])
        .arg(folder)
        .status();
    assert!(done.unwrap().success());
}

/// An active host ends, because another one sees more.
async fn ends_for_another(host: Daemon) {
    let (status, log) = host.ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("sees them: it becomes active"), "{log}");
    assert!(log.contains("it is standby after its restart"), "{log}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_becomes_active_that_sees_a_share_which_the_active_one_has_lost() {
    let (mut site, folder) = site().await;
    store_only(&mut site);
    let mut files = files(8);
    let share = site.path("share");
    write_all(&share, &files);
    let active = start(&site, "one", &folder, &share);
    let all = "8 uploaded only, 0 waiting, 0 in progress";
    shows(&site, "one", all, &active).await;
    let standby = start(&site, "two", &folder, &share);
    standby.says(UPLOADS).await;
    unmount(&active, &folder);
    active.says("folder is unavailable").await;
    write(&share.join("later.txt"), "later");
    files.insert("later.txt".to_owned(), "later".to_owned());
    ends_for_another(active).await;
    standby.says(ACTIVE).await;
    eventually(|| site.holds(&files), || standby.log()).await;
    shows(&site, "two", "OK: nothing needs attention", &standby).await;
    assert_eq!(site.emulator.state().files.len(), files.len());
    // It does not see the share yet, and so leaves the other host as it is.
    let back = site.start_on_under("one", &["env", QUICK]);
    back.says(UPLOADS).await;
    write(&share.join("last.txt"), "last");
    files.insert("last.txt".to_owned(), "last".to_owned());
    eventually(|| site.holds(&files), || standby.log()).await;
    back.stop().await;
    let (status, log) = standby.stop().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_host_that_alone_sees_another_folder_stays_active_and_says_how_to_let_go() {
    let (mut site, folder) = site().await;
    site.add_to_watches("storage_folder = \"North\"\n");
    let own = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"\n");
    write(&own.join("a.dgn"), "a");
    let share = site.path("share");
    write(&share.join("b.dgn"), "b");
    let active = start(&site, "one", &folder, &share);
    shows(&site, "one", "2 files synchronized", &active).await;
    // What the second host has under the path of the other watch is another folder.
    let disk = site.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount --bind {share:?} {folder:?} && mount --bind {disk:?} {own:?} && exec \"$0\" \"$@\"",
    );
    let standby = ["env", QUICK, "unshare", "-rm", "sh", "-c", &script];
    let standby = site.start_on_under("two", &standby);
    standby.says(UPLOADS).await;
    unmount(&active, &folder);
    active.says("folder is unavailable").await;
    let hint = "takes over by itself; to let one take over all the same, run `systemctl stop itwin-syncd` on ";
    for host in ["one", "two"] {
        shows(&site, host, hint, &active).await;
    }
    // It works for its own folder.
    write(&own.join("c.dgn"), "c");
    shows(&site, "one", "3 files synchronized", &active).await;
    let (status, log) = active.stop().await;
    assert!(status.success(), "{log}");
    standby.says(ACTIVE).await;
    write(&share.join("d.dgn"), "d");
    shows(&site, "two", "4 files synchronized", &standby).await;
    standby.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL, root and /dev/fuse"]
async fn a_host_whose_share_opens_no_file_leaves_it_to_no_host_that_sees_as_little() {
    let (site, folder) = site().await;
    let share = Share::default();
    share.put("a.dgn", "first");
    let mounted = share.mount(&folder);
    let hasty = [super::QUICK, ("ITWIN_SYNCD_SHARE_HASTE", "20")];
    let active = site.start_on("one", &hasty);
    shows(&site, "one", "1 file synchronized", &active).await;
    let standby = site.start_on("two", &hasty);
    standby.says(UPLOADS).await;
    let hanging = Hanging::opens_of(&share);
    share.put("b.dgn", "second");
    shows(&site, "one", "the share lists the folder, but", &active).await;
    // Twice as long as another host would have to see more.
    tokio::time::sleep(Duration::from_secs(2 * 60 / 5)).await;
    assert!(!standby.log().contains(ACTIVE), "{}", active.log());
    drop(hanging);
    shows(&site, "one", "2 files synchronized", &active).await;
    standby.stop().await;
    active.stop().await;
    drop(mounted);
}
