//! What file systems and programs do to a folder that is watched. The full scan comes once an hour here: what is found
//! is found by what the daemon sees at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;

use crate::support::{Daemon, Site, assert_in_imodel, eventually, platform, sha256, write};

/// A site that takes as many files as a test has.
async fn roomy() -> (Site, PathBuf) {
    Site::with_folder(platform().max_source_files(100_000)).await
}

/// Waits until just these files are in the iModel.
async fn arrive(site: &Site, daemon: &Daemon, files: &BTreeMap<String, String>) {
    let all = || {
        let state = site.emulator.state();
        let completed = state.files.values().filter(|file| file.completed.is_some());
        completed.count() == files.len()
    };
    eventually(all, || daemon.log().lines().rev().take(20).collect()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        let known = site.status().await;
        // A file that was away and is back as it was ends as unchanged.
        let good = |file: &&serde_json::Value| {
            file["state"] == "done"
                && (file["result"] == "synchronized" || file["result"] == "unchanged")
        };
        if known.len() == files.len() && known.values().filter(good).count() == files.len() {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{known:#?}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
    assert_in_imodel(&site.emulator.state(), files);
}

fn save(folder: &Path, files: &mut BTreeMap<String, String>, path: &str, content: &str) {
    write(&folder.join(path), content);
    files.insert(path.to_owned(), content.to_owned());
}

#[tokio::test]
async fn folders_created_and_filled_at_once_are_seen_completely() {
    let (site, folder) = roomy().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    // By hand: TREE_ROUNDS=1000.
    let rounds: usize = std::env::var("TREE_ROUNDS").map_or(250, |rounds| rounds.parse().unwrap());
    let made = rounds * 7 / 10;
    let mut files = BTreeMap::new();
    for round in 0..made {
        save(
            &folder,
            &mut files,
            &format!("{round}/a/b/deep.ifc"),
            &round.to_string(),
        );
    }
    // Trees that are moved in and copied in.
    for round in made..rounds {
        let outside = site.path("outside");
        let tree = format!("{round}/x/y");
        write(&outside.join(&tree).join("moved.ifc"), &round.to_string());
        let (from, to) = (
            outside.join(round.to_string()),
            folder.join(round.to_string()),
        );
        if round % 2 == 0 {
            std::fs::rename(from, to).unwrap();
        } else {
            let copied = Command::new("cp").arg("-r").args([from, to]).status();
            assert!(copied.unwrap().success());
        }
        files.insert(format!("{tree}/moved.ifc"), round.to_string());
    }
    arrive(&site, &daemon, &files).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_overflowing_queue_of_events_costs_no_file() {
    let (site, folder) = roomy().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    daemon.signal("STOP");
    let mut files = BTreeMap::new();
    // More than the 16384 events that the kernel keeps; the files that count come last.
    for number in 0..20_000 {
        std::fs::write(folder.join(format!("{number}.txt")), "x").unwrap();
    }
    for number in 0..100 {
        save(
            &folder,
            &mut files,
            &format!("{number}.ifc"),
            &number.to_string(),
        );
    }
    daemon.signal("CONT");
    arrive(&site, &daemon, &files).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_root_that_is_recreated_or_renamed_back_is_watched_again() {
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "a/first.ifc", "first");
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;

    std::fs::remove_dir_all(&folder).unwrap();
    daemon.says("folder is unavailable").await;
    std::fs::create_dir(&folder).unwrap();
    save(&folder, &mut files, "b/second.ifc", "second");
    arrive(&site, &daemon, &files).await;
    assert_eq!(
        site.stored("a/first.ifc").completions,
        1,
        "a folder that is gone deletes nothing"
    );

    let elsewhere = site.path("elsewhere");
    std::fs::rename(&folder, &elsewhere).unwrap();
    std::fs::create_dir(&folder).unwrap();
    save(&folder, &mut files, "c/third.ifc", "third");
    arrive(&site, &daemon, &files).await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&elsewhere, &folder).unwrap();
    save(&folder, &mut files, "d/fourth.ifc", "fourth");
    arrive(&site, &daemon, &files).await;
    let writes: u32 = site
        .emulator
        .state()
        .files
        .values()
        .map(|file| file.blob_writes)
        .sum();
    assert_eq!(writes, 4, "nothing is sent twice");
    daemon.stop().await;
}

#[tokio::test]
async fn a_preallocated_slow_copy_with_an_old_mtime_is_uploaded_complete() {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let (site, folder) = roomy().await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    let path = folder.join("copied.ifc");
    let content = "0123456789".repeat(2000);
    let mut file = std::fs::File::create(&path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, piece) in content.as_bytes().chunks(2000).enumerate() {
        tokio::time::sleep(Duration::from_millis(150)).await;
        file.seek(SeekFrom::Start(at as u64 * 2000)).unwrap();
        file.write_all(piece).unwrap();
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_400_000_000);
    file.set_modified(long_ago).unwrap();
    drop(file);
    let files = BTreeMap::from([("copied.ifc".to_owned(), content)]);
    arrive(&site, &daemon, &files).await;
    let stored = site.stored("copied.ifc");
    assert_eq!((stored.blob_writes, stored.completions), (1, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn symlinks_pipes_and_loops_are_neither_followed_nor_opened() {
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "good.ifc", "good");
    write(&site.path("outside/secret.ifc"), "secret");
    std::os::unix::fs::symlink(site.path("outside"), folder.join("out")).unwrap();
    std::os::unix::fs::symlink(".", folder.join("circle")).unwrap();
    std::os::unix::fs::symlink(site.path("outside/secret.ifc"), folder.join("link.ifc")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(folder.join("pipe.ifc"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.ifc")).unwrap();
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;
    save(&folder, &mut files, "later.ifc", "later");
    arrive(&site, &daemon, &files).await;
    daemon.stop().await;
}

#[tokio::test]
async fn any_number_of_watches_takes_one_inotify_instance_and_no_threads_at_rest() {
    let mut site = Site::new(platform().max_source_files(100_000)).await;
    // Nothing is found by a scan.
    site.top = site
        .top
        .replace("poll_interval = \"1s\"", "poll_interval = \"1h\"");
    let mut folders = Vec::new();
    for number in 0..40 {
        let keys = format!("storage_folder = \"{number}\"");
        let imodel = itwin_syncd::emulator::DEFAULT_IMODEL_ID;
        let folder = site.watch(&format!("w{number}"), imodel, &keys);
        std::fs::create_dir(folder.join("below")).unwrap();
        folders.push(folder);
    }
    let daemon = site.start();
    let scanned = || daemon.log().matches("scan finished").count() == folders.len();
    eventually(scanned, || daemon.log()).await;
    for folder in &folders {
        write(&folder.join("a.ifc"), "a");
        write(&folder.join("below/b.ifc"), "b");
        write(&folder.join("new/folder/c.ifc"), "c");
    }
    site.synchronized(3 * folders.len(), &daemon).await;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let instances = descriptors
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.as_os_str() == "anon_inode:inotify")
        .count();
    assert_eq!(instances, 1);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        tasks.count()
    };
    eventually(
        || threads() < folders.len() / 2,
        || format!("{} threads\n{}", threads(), daemon.log()),
    )
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn names_with_glob_characters_work_in_every_command() {
    let (mut site, folder) = roomy().await;
    let imodel = itwin_syncd::emulator::DEFAULT_IMODEL_ID;
    site.watch("-south", imodel, "storage_folder = \"south\"");
    site.replace_in_watches(
        "name = \"north\"",
        "storage_folder = \"north\"\nname = \"north\"",
    );
    let names = [
        "!x.ifc",
        r"a\b.ifc",
        "-x.ifc",
        "[x.ifc",
        "{a,b}.ifc",
        "x[1].ifc",
    ];
    for name in names {
        write(&folder.join("plans").join(name), name);
    }
    write(
        &folder.join("plans/x1.ifc"),
        "what the last one would be as a glob",
    );
    let daemon = site.start();
    let settled = async || {
        let files = site.status().await;
        let done = files
            .values()
            .filter(|file| file["state"] == "done")
            .count();
        (files.len(), done) == (7, 6) && files.values().any(|file| file["state"] == "failed")
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !settled().await {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for name in names {
        let shown = format!("plans/{name}").replace('\\', r"\\");
        let path = folder.join("plans").join(name);
        for words in [
            vec!["status", "--", name],
            vec!["status", path.to_str().unwrap()],
            vec!["explain", "--", path.to_str().unwrap()],
            vec!["retry", "--", name],
            vec!["retry", path.to_str().unwrap()],
        ] {
            let output = site.run(&words).await;
            let what = format!("{words:?}: {output:?}");
            assert!(
                !output.err.contains("glob") && !output.err.contains("unexpected"),
                "{what}"
            );
            match words[0] {
                "status" => {
                    assert!(output.out.contains(&shown), "{what}");
                    assert!(!output.out.contains("x1.ifc"), "{what}");
                }
                "explain" => assert!(output.out.contains("connector IFC"), "{what}"),
                _ => assert!(!output.err.contains("no known file"), "{what}"),
            }
        }
    }
    for verb in ["pause", "resume", "rescan"] {
        let output = site.run(&[verb, "--", "-south"]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.out.contains("north"), "{output:?}");
    }
    daemon.stop().await;
}

/// Folders within folders, with names of this length, and files in the last one.
fn deep_tree(root: &Path, depth: usize, length: usize, files: usize) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let name = "d".repeat(length);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&folder, &name, Mode::RWXU).unwrap();
        folder = openat(&folder, &name, flags, Mode::empty()).unwrap();
    }
    for number in 0..files {
        let name = format!("{number}.ifc");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = openat(&folder, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::write(file, b"deep").unwrap();
    }
}

#[tokio::test]
async fn folders_deeper_than_any_path_cost_one_log_line_and_little_memory() {
    let (site, folder) = roomy().await;
    deep_tree(&folder, 800, 250, 500);
    deep_tree(&folder, 70, 5, 500);
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "beside.ifc", "ordinary");
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;
    daemon.says("folder is degraded").await;
    // Events and later scans change nothing.
    site.run(&["rescan"]).await;
    save(&folder, &mut files, "later.ifc", "ordinary");
    arrive(&site, &daemon, &files).await;
    let output = site.run(&["status"]).await.out;
    assert!(output.contains("degraded"), "{output}");
    assert!(output.contains("path longer than 2048 bytes"), "{output}");
    assert!(output.contains("nested deeper than 64 levels"), "{output}");
    assert!(output.len() < 4_000, "{output}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 96 * 1024, "{peak} KiB");
    let (_, log) = daemon.stop().await;
    assert!(log.len() < 20_000, "{} bytes of log", log.len());
    let ledger = std::fs::metadata(site.path("state/ledger.db"))
        .unwrap()
        .len();
    assert!(ledger < 1_000_000, "{ledger}");
}

/// How a program saves; the steps are apart by chance.
async fn saves(program: usize, folder: &Path, name: &str, content: &str, random: &mut Rng) {
    let at = |name: &str| folder.join(name);
    let exists = at(name).exists();
    let stem = name.split('.').next().unwrap();
    let mut pause = async || tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
    match program {
        // AutoCAD: a temporary file, the old one becomes the backup, the new one takes its name.
        0 => {
            let (new, backup) = (at(&format!("{stem}.ac$")), at(&format!("{stem}.bak")));
            std::fs::write(&new, content).unwrap();
            pause().await;
            if exists {
                drop(std::fs::remove_file(&backup));
                std::fs::rename(at(name), &backup).unwrap();
                pause().await;
            }
            std::fs::rename(new, at(name)).unwrap();
        }
        // Excel: a temporary file without extension; the old one is moved away and deleted.
        1 => {
            let (new, old) = (at(&format!("{stem}A1B2C300")), at(&format!("{stem}.tmp")));
            std::fs::write(&new, content).unwrap();
            pause().await;
            if exists {
                std::fs::rename(at(name), &old).unwrap();
                pause().await;
            }
            std::fs::rename(new, at(name)).unwrap();
            pause().await;
            drop(std::fs::remove_file(old));
        }
        // WinSCP: a part that grows, then the name.
        2 => {
            use std::io::Write as _;
            let part = at(&format!("{name}.filepart"));
            let mut file = std::fs::File::create(&part).unwrap();
            for piece in content.as_bytes().chunks(content.len() / 3 + 1) {
                file.write_all(piece).unwrap();
                pause().await;
            }
            std::fs::rename(part, at(name)).unwrap();
        }
        // A hard link beside, then the old name is gone, then it is back.
        _ => {
            let new = at(&format!("{stem}.new.tmp"));
            std::fs::write(&new, content).unwrap();
            pause().await;
            drop(std::fs::remove_file(at(name)));
            pause().await;
            std::fs::hard_link(&new, at(name)).unwrap();
            std::fs::remove_file(new).unwrap();
        }
    }
}

#[tokio::test]
async fn saves_of_every_program_arrive_once_each_and_nothing_else_does() {
    let rounds: usize = std::env::var("SAVE_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let (mut site, folder) = roomy().await;
    site.top += "upload_interval = \"0s\"\n";
    let daemon = site.start();
    daemon.says("scan finished").await;
    let mut random = Rng::with_seed(11);
    let mut files = BTreeMap::new();
    for round in 1..=rounds {
        for number in 0..120 {
            let (program, name) = (number % 4, format!("{number}.dwg"));
            let content = format!("save {round} of {number} ").repeat(50);
            saves(program, &folder, &name, &content, &mut random).await;
            files.insert(name, content);
        }
        let current = || {
            let state = site.emulator.state();
            files.iter().all(|(path, content)| {
                let wanted = sha256(content.as_bytes());
                let mut completed = state.files.values().filter(|file| file.path == *path);
                completed.any(|file| {
                    file.completed
                        .as_ref()
                        .is_some_and(|one| one.sha256 == wanted)
                })
            })
        };
        eventually(current, || daemon.log()).await;
    }
    arrive(&site, &daemon, &files).await;
    let state = site.emulator.state();
    for file in state.files.values() {
        let uploads = usize::try_from(file.completions).unwrap();
        assert_eq!(uploads, rounds, "{}", file.path);
        assert!(file.display_name.ends_with(".dwg"), "{}", file.path);
    }
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs user namespaces: run tests/all"]
async fn when_the_inotify_limit_is_reached_scans_cover_the_rest_and_status_says_so() {
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    for number in 0..50 {
        save(
            &folder,
            &mut files,
            &format!("{number}/a.ifc"),
            &number.to_string(),
        );
    }
    let limit = "echo 20 > /proc/sys/user/max_inotify_watches && exec \"$@\"";
    let daemon = site.start_under(&["unshare", "-Ur", "sh", "-c", limit, "sh"]);
    arrive(&site, &daemon, &files).await;
    for number in 0..50 {
        save(
            &folder,
            &mut files,
            &format!("{number}/b.ifc"),
            &number.to_string(),
        );
    }
    arrive(&site, &daemon, &files).await;
    let output = site.run(&["status"]).await.out;
    assert!(output.contains("degraded"), "{output}");
    let (_, log) = daemon.stop().await;
    assert!(log.contains("folder is degraded"), "{log}");
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn an_empty_mount_point_does_not_count_as_deleted_files() {
    let (site, folder) = roomy().await;
    let mount = |arguments: &[&str]| {
        let done = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&folder)
            .status();
        assert!(done.unwrap().success(), "{arguments:?}");
    };
    let share = site.path("share");
    std::fs::create_dir(&share).unwrap();
    let mut files = BTreeMap::new();
    save(&share, &mut files, "a/first.ifc", "first");
    let bind = ["mount", "--bind", share.to_str().unwrap()];
    mount(&bind);
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;
    mount(&["umount", "-l"]);
    site.shows("mount the share", &daemon).await;
    save(&share, &mut files, "a/second.ifc", "second");
    mount(&bind);
    arrive(&site, &daemon, &files).await;
    let writes: u32 = site
        .emulator
        .state()
        .files
        .values()
        .map(|file| file.blob_writes)
        .sum();
    daemon.stop().await;
    mount(&["umount", "-l"]);
    assert_eq!(writes, 2, "nothing is sent twice");
}

#[tokio::test]
async fn an_empty_folder_in_place_of_the_watched_one_is_reported_until_one_of_them_has_a_file() {
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "a/first.ifc", "first");
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;
    let aside = site.path("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    site.shows("mount the share", &daemon).await;
    // Also at the start.
    daemon.stop().await;
    let once = site.run(&["run", "--once"]).await;
    assert!(
        once.code == Some(1) && once.out.contains("mount the share"),
        "{once:?}"
    );
    let daemon = site.start();
    site.shows("mount the share", &daemon).await;
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    site.shows("OK: nothing needs attention", &daemon).await;
    // A file in the other folder says that it is meant.
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    site.shows("mount the share", &daemon).await;
    std::fs::write(folder.join("second.ifc"), "second").unwrap();
    site.shows("1 synchronized, 1 gone", &daemon).await;
    // Empty again, but the same folder: its file was deleted.
    std::fs::remove_file(folder.join("second.ifc")).unwrap();
    site.shows("0 synchronized, 2 gone", &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs python3: run tests/all"]
async fn a_write_through_a_memory_map_is_found_while_the_map_is_still_open() {
    let (mut site, folder) = roomy().await;
    site.top += "rescan_interval = \"2s\"\n";
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "house.ifc", "one");
    let daemon = site.start();
    arrive(&site, &daemon, &files).await;
    // No event reports such a write before the map is closed, which is when its input ends.
    let program = "import mmap, sys\nfile = open(sys.argv[1], 'r+b')\nmap = mmap.mmap(file.fileno(), 0)\n\
                   map[0:3] = b'two'\nsys.stdin.read()";
    let mut writer = Command::new("python3")
        .args(["-c", program])
        .arg(folder.join("house.ifc"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let current = || site.stored("house.ifc").completed.unwrap().sha256 == sha256(b"two");
    eventually(current, || daemon.log()).await;
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn an_unreadable_folder_is_reported_and_delays_no_other() {
    use std::os::unix::fs::PermissionsExt as _;
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "closed/hidden.ifc", "hidden");
    let hidden = files.remove("closed/hidden.ifc");
    for name in ["a/a.ifc", "z/z.ifc"] {
        save(&folder, &mut files, name, name);
    }
    let close = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join("closed"), mode).unwrap();
    };
    close(0);
    // Root may read everything, unless it gives that up.
    let daemon = site.start_under(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    arrive(&site, &daemon, &files).await;
    let output = site.run(&["status"]).await.out;
    assert!(
        output.contains("degraded") && output.contains("closed"),
        "{output}"
    );
    save(&folder, &mut files, "z/later.ifc", "later");
    arrive(&site, &daemon, &files).await;
    close(0o755);
    files.insert("closed/hidden.ifc".to_owned(), hidden.unwrap());
    arrive(&site, &daemon, &files).await;
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn an_unreadable_file_is_reported_until_it_can_be_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let (site, folder) = roomy().await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "secret.ifc", "secret");
    let secret = files.remove("secret.ifc").unwrap();
    save(&folder, &mut files, "house.ifc", "house");
    let allow = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join("secret.ifc"), mode).unwrap();
    };
    allow(0);
    let daemon = site.start_under(&[
        "env",
        "ITWIN_SYNCD_SHARE_HASTE=60",
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
    ]);
    arrive(&site, &daemon, &files).await;
    daemon.says("folder is degraded").await;
    let reason = "cannot be opened: Permission denied (os error 13)";
    let status = site.run(&["status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    for text in [
        "ATTENTION: 1 file cannot be opened",
        reason,
        "secret.ifc",
        "hint: grant the user",
    ] {
        assert!(status.out.contains(text), "{text}: {status:?}");
    }
    let json = site.run(&["status", "--json"]).await.out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let watch = &json["watches"][0];
    assert_eq!(watch["root"], "degraded", "{watch}");
    assert_eq!(watch["files"]["unreadable"], 1, "{watch}");
    assert_eq!(watch["unfinished"][0]["reason"], reason, "{watch}");
    let path = folder.join("secret.ifc");
    for command in ["status", "explain"] {
        let output = site.run(&[command, path.to_str().unwrap()]).await;
        assert!(output.out.contains(reason), "{output:?}");
        assert!(output.out.contains("grant the user"), "{output:?}");
    }
    allow(0o644);
    files.insert("secret.ifc".to_owned(), secret);
    arrive(&site, &daemon, &files).await;
    daemon.says("folder is fully watched again").await;
    let status = site.run(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_watcher_that_dies_silently_is_detected_and_replaced() {
    let (site, folder) = roomy().await;
    let daemon = site.start_with(&[("ITWIN_SYNCD_PANICPOINT", "event")]);
    daemon.says("scan finished").await;
    let mut files = BTreeMap::new();
    save(&folder, &mut files, "one.ifc", "its event kills the thread");
    daemon.says("ended unexpectedly").await;
    arrive(&site, &daemon, &files).await;
    // No scan is due for an hour: this one is found by its event.
    save(&folder, &mut files, "two.ifc", "two");
    arrive(&site, &daemon, &files).await;
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_dead_watch_thread_stops_the_daemon_and_the_next_start_continues() {
    for (point, file) in [("probe", "house.ifc"), ("scan", "new/house.ifc")] {
        let (site, folder) = roomy().await;
        let daemon = site.start_with(&[("ITWIN_SYNCD_PANICPOINT", point)]);
        daemon.says("scan finished").await;
        let mut files = BTreeMap::new();
        save(&folder, &mut files, file, "house");
        let (status, log) = daemon.ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        let output = format!(
            "the thread {point:?} of watch {:?} ended unexpectedly",
            "north"
        );
        assert!(log.replace('\\', "").contains(&output), "{log}");
        let daemon = site.start();
        arrive(&site, &daemon, &files).await;
        daemon.stop().await;
    }
}
