//! Shares that behave as shares do: changes without events, errors on opening, other inodes after a remount,
//! and no answer at all. A FUSE file system of our own plays them; it needs root and /dev/fuse.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, Request,
};
use tokio::time::Instant;

use crate::support::{Site, assert_in_imodel, eventually, platform, sha256, write};
use crate::systemd::Supervisor;

/// What the other side of the share has.
#[derive(Debug, Default)]
struct Remote {
    /// By name: content, when it was written.
    files: BTreeMap<String, (Vec<u8>, SystemTime)>,
    /// Added to all inodes.
    inodes_from: u64,
    /// Nothing is answered any more.
    hangs: bool,
    /// After this many opens that succeed…
    good_opens: u32,
    /// …this many fail, with this error.
    failing_opens: (u32, i32),
    /// Listed, but asking what it is fails with this error.
    unseen: Option<(String, i32)>,
    /// Of this file only: opening it, or else reading it, fails with EIO.
    broken: Option<(String, Breaks)>,
    /// Which requests for content are not answered, though all else is.
    hanging: Option<Hangs>,
    /// How often the folder was listed from its start.
    listings: u32,
    /// What waits for an answer.
    unanswered: Vec<Unanswered>,
    /// A file of which no handle is open is listed with size 0, as some servers do until its writer closes it.
    lists_no_sizes: bool,
    /// Open handles by inode.
    open: BTreeMap<u64, u32>,
    /// Times are cut to this.
    clock_tick: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaks {
    AtOpen,
    AtRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangs {
    Opens,
    Reads,
}

#[derive(Debug)]
enum Unanswered {
    Read(ReplyData),
    Open(ReplyOpen),
}

#[derive(Debug, Clone, Default)]
pub struct Share(Arc<(Mutex<Remote>, Condvar)>);

impl Share {
    fn remote(&self) -> MutexGuard<'_, Remote> {
        self.0.0.lock().unwrap()
    }

    /// Waits for as long as the share hangs.
    fn answering(&self) -> MutexGuard<'_, Remote> {
        let (_, answers) = &*self.0;
        answers
            .wait_while(self.remote(), |remote| remote.hangs)
            .unwrap()
    }

    pub fn put(&self, name: &str, content: &str) {
        self.put_at(name, content, SystemTime::now());
    }

    /// Writes a file by a clock of its own.
    fn put_at(&self, name: &str, content: &str, time: SystemTime) {
        let mut remote = self.remote();
        let time = match remote.clock_tick {
            Some(tick) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
                UNIX_EPOCH + Duration::from_secs(since - since % tick.as_secs())
            }
            None => time,
        };
        let entry = (content.as_bytes().to_vec(), time);
        remote.files.insert(name.to_owned(), entry);
    }

    pub fn mount(&self, at: &Path) -> BackgroundSession {
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("share".to_owned())];
        fuser::spawn_mount(self.clone(), at, &config).expect("mounting needs root and /dev/fuse")
    }
}

/// While it lives, nothing is answered; a test that fails must not hang as well.
pub struct Hanging(Share);

impl Hanging {
    fn of(share: &Share) -> Self {
        share.remote().hangs = true;
        Self(share.clone())
    }

    fn reads_of(share: &Share) -> Self {
        share.remote().hanging = Some(Hangs::Reads);
        Self(share.clone())
    }

    pub fn opens_of(share: &Share) -> Self {
        share.remote().hanging = Some(Hangs::Opens);
        Self(share.clone())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let mut remote = self.0.remote();
        remote.hangs = false;
        remote.hanging = None;
        for reply in remote.unanswered.drain(..) {
            match reply {
                Unanswered::Read(reply) => reply.error(Errno::EIO),
                Unanswered::Open(reply) => reply.error(Errno::EIO),
            }
        }
        drop(remote);
        self.0.0.1.notify_all();
    }
}

impl Remote {
    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        let (kind, size, time) = if inode == 1 {
            (FileType::Directory, 0, UNIX_EPOCH)
        } else {
            let at = usize::try_from(inode.checked_sub(self.inodes_from + 2)?).unwrap();
            let (content, time) = self.files.values().nth(at)?;
            let shown = !self.lists_no_sizes || self.open.contains_key(&inode);
            let size = if shown { content.len() as u64 } else { 0 };
            (FileType::RegularFile, size, *time)
        };
        Some(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 512,
        })
    }

    fn breaks(&self, inode: u64, when: Breaks) -> bool {
        let broken = self.broken.as_ref().filter(|broken| broken.1 == when);
        broken.and_then(|(name, _)| self.inode(name)) == Some(inode)
    }

    fn inode(&self, name: &str) -> Option<u64> {
        let at = self.files.keys().position(|known| known == name)?;
        Some(self.inodes_from + 2 + at as u64)
    }
}

impl Filesystem for Share {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let remote = self.answering();
        if let Some((unseen, errno)) = &remote.unseen
            && name == unseen.as_str()
        {
            return reply.error(Errno::from_i32(*errno));
        }
        let inode = name.to_str().and_then(|name| remote.inode(name));
        match inode.and_then(|inode| remote.attributes(inode)) {
            Some(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.answering().attributes(inode.into()) {
            Some(attributes) => reply.attr(&Duration::ZERO, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut remote = self.answering();
        if remote.breaks(inode.into(), Breaks::AtOpen) {
            return reply.error(Errno::EIO);
        }
        if remote.hanging == Some(Hangs::Opens) {
            return remote.unanswered.push(Unanswered::Open(reply));
        }
        if remote.good_opens == 0 && remote.failing_opens.0 > 0 {
            remote.failing_opens.0 -= 1;
            reply.error(Errno::from_i32(remote.failing_opens.1));
        } else {
            remote.good_opens = remote.good_opens.saturating_sub(1);
            *remote.open.entry(inode.into()).or_default() += 1;
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
        }
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut remote = self.remote();
        let inode = u64::from(inode);
        if let Some(handles) = remote.open.get_mut(&inode) {
            *handles -= 1;
            if *handles == 0 {
                remote.open.remove(&inode);
            }
        }
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut remote = self.answering();
        if remote.breaks(inode.into(), Breaks::AtRead) {
            return reply.error(Errno::EIO);
        }
        if remote.hanging == Some(Hangs::Reads) {
            remote.unanswered.push(Unanswered::Read(reply));
            return;
        }
        let at = u64::from(inode).checked_sub(remote.inodes_from + 2);
        let file = at.and_then(|at| remote.files.values().nth(usize::try_from(at).unwrap()));
        match file {
            Some((content, _)) => {
                let from = usize::try_from(offset).unwrap().min(content.len());
                let to = (from + size as usize).min(content.len());
                reply.data(&content[from..to]);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut remote = self.answering();
        remote.listings += u32::from(offset == 0);
        let names = [".", ".."]
            .into_iter()
            .chain(remote.files.keys().map(String::as_str));
        for (at, name) in names.enumerate().skip(usize::try_from(offset).unwrap()) {
            let (inode, kind) = match remote.inode(name) {
                Some(inode) => (inode, FileType::RegularFile),
                None => (1, FileType::Directory),
            };
            if reply.add(INodeNo(inode), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn expected(share: &Share) -> BTreeMap<String, String> {
    let remote = share.remote();
    let files = remote.files.iter();
    files
        .map(|(name, (content, _))| (name.clone(), String::from_utf8(content.clone()).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn changes_on_a_share_without_events_are_found_by_the_next_poll() {
    let (site, folder) = Site::with_folder(platform()).await;
    let share = Share::default();
    share.put("a.ifc", "first");
    let mounted = share.mount(&folder);
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    share.put("a.ifc", "other");
    share.put("b.ifc", "new");
    let found = || {
        site.emulator
            .state()
            .files
            .values()
            .map(|file| file.completions)
            .sum::<u32>()
            == 3
    };
    eventually(found, || daemon.log()).await;
    site.synchronized(2, &daemon).await;
    let printed = site.run(&["status"]).await.out;
    assert!(printed.contains("folder  polled"), "{printed}");

    // Other inodes, as after a remount: the same files, and nothing is sent.
    share.remote().inodes_from = 1_000_000;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(found());
    assert_in_imodel(&site.emulator.state(), &expected(&share));
    daemon.stop().await;
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_file_that_cannot_be_opened_for_a_while_is_retried() {
    // EBUSY, EACCES, EIO; from the first probe on, and after the two that find it complete, so when it would be
    // uploaded.
    let cases = [(16, 0), (13, 0), (5, 0), (16, 2), (13, 2), (5, 2)];
    let cases = cases.map(|(errno, good)| async move {
        let (mut site, folder) = Site::with_folder(platform()).await;
        // No poll finds it once more.
        site.top = site.top.replace("\"1s\"", "\"1h\"");
        let share = Share::default();
        share.put("busy.ifc", "content");
        share.remote().good_opens = good;
        share.remote().failing_opens = (3, errno);
        let mounted = share.mount(&folder);
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        assert_eq!(share.remote().failing_opens.0, 0);
        let (_, log) = daemon.stop().await;
        let waited = if good == 0 {
            "trying again until it can be read"
        } else {
            "not uploaded yet; trying again"
        };
        assert!(log.contains(waited), "{log}");
        let failed = log.contains("ERROR") || log.contains("upload failed");
        assert!(!failed, "{log}");
        drop(mounted);
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn an_entry_whose_lstat_fails_is_reported_and_uploaded_once_it_works() {
    let (site, folder) = Site::with_folder(platform()).await;
    let share = Share::default();
    share.put("a.ifc", "fine");
    share.put("b.ifc", "not seen at first");
    let mounted = share.mount(&folder);
    for errno in [5, 116, 13] {
        share.remote().unseen = Some(("b.ifc".to_owned(), errno));
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.says("b.ifc\\\": cannot be read: ").await;
        let printed = site.run(&["status"]).await.out;
        assert!(!printed.contains("OK:"), "{printed}");
        assert!(printed.contains("degraded"), "{printed}");
        assert!(printed.contains("b.ifc\": cannot be read: "), "{printed}");
        daemon.stop().await;
    }
    let daemon = site.start();
    share.remote().unseen = None;
    site.synchronized(2, &daemon).await;
    daemon.says("folder is scanned at intervals").await;
    daemon.stop().await;
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn run_once_ends_although_a_file_cannot_be_read_and_says_so() {
    for (when, says) in [
        (Breaks::AtOpen, "only partly readable"),
        (Breaks::AtRead, "pending files: 1"),
    ] {
        let (site, folder) = Site::with_folder(platform()).await;
        let share = Share::default();
        share.put("a.ifc", "fine");
        share.put("b.ifc", "broken");
        share.remote().broken = Some(("b.ifc".to_owned(), when));
        let mounted = share.mount(&folder);
        let pass = site.run(&["run", "--once"]).await;
        assert_eq!(pass.code, Some(1), "{pass:?}");
        assert!(pass.out.contains("1 synchronized"), "{pass:?}");
        assert!(pass.out.contains(says), "{pass:?}");
        if when == Breaks::AtOpen {
            assert!(
                pass.out
                    .contains("b.ifc\": cannot be opened: Input/output error"),
                "{pass:?}"
            );
        }
        share.remote().broken = None;
        let pass = site.run(&["run", "--once"]).await;
        assert_eq!(pass.code, Some(0), "{pass:?}");
        assert_in_imodel(&site.emulator.state(), &expected(&share));
        drop(mounted);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_share_that_is_mounted_below_a_watched_folder_is_seen_at_once_and_polled() {
    let (site, folder) = Site::with_folder(platform()).await;
    let below = folder.join("deep/share");
    std::fs::create_dir_all(&below).unwrap();
    write(&folder.join("local.ifc"), "local");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    // The next scan of the whole folder comes in an hour.
    let share = Share::default();
    share.put("a.ifc", "first");
    let mounted = share.mount(&below);
    site.synchronized(2, &daemon).await;
    daemon.says("folder is scanned at intervals").await;
    for number in 0..3 {
        share.put("a.ifc", &number.to_string());
        write(&folder.join(format!("{number}.ifc")), "local");
        let current = || {
            let stored = site.emulator.state();
            let mut files = stored
                .files
                .values()
                .filter(|file| file.path == "deep/share/a.ifc");
            files.any(|file| {
                let completed = file.completed.as_ref();
                completed.is_some_and(|one| one.sha256 == sha256(number.to_string().as_bytes()))
            })
        };
        eventually(current, || daemon.log()).await;
        site.synchronized(number + 3, &daemon).await;
    }
    let printed = site.run(&["status"]).await.out;
    assert!(
        printed.contains("deep/share") && printed.contains("polled"),
        "{printed}"
    );
    let scans = daemon.log().matches("scan finished").count();
    drop(mounted);
    // It is gone, and what is in its place is watched.
    daemon.says("folder is fully watched again").await;
    write(&below.join("under.ifc"), "what was below the mount");
    site.synchronized(6, &daemon).await;
    assert!(
        scans <= 4,
        "the whole folder was scanned {scans} times:\n{}",
        daemon.log()
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_hung_share_delays_no_other_folder_and_no_stop() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += "shutdown_grace = \"2s\"\n";
    let other = site.watch(
        "south",
        itwin_syncd::emulator::DEFAULT_IMODEL_ID,
        "storage_folder = \"south\"",
    );
    // Watches of one iModel must not share a place in storage.
    site.replace_in_watches(
        "name = \"north\"",
        "storage_folder = \"north\"\nname = \"north\"",
    );
    let share = Share::default();
    share.put("a.ifc", "first");
    let mounted = share.mount(&folder);
    let systemd = Supervisor::new(&site);
    let daemon = systemd.start(&site);
    site.synchronized(1, &daemon).await;
    share.put("b.ifc", "second");
    let hanging = Hanging::of(&share);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for number in 0..5 {
        write(&other.join(format!("{number}.ifc")), &number.to_string());
    }
    site.synchronized(6, &daemon).await;
    daemon.says("the share has not answered for").await;
    systemd
        .hears("STATUS=1 of 2 folders ok, \"north\" unavailable", &daemon)
        .await;
    // A restart would not mend the share.
    systemd.forget();
    systemd.hears("WATCHDOG=1", &daemon).await;
    let began = Instant::now();
    daemon.signal("TERM");
    daemon.says(" stopped ").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // The kernel keeps a process whose thread waits for such a share; the next one must not wait for that.
    let next = site.start();
    write(&other.join("5.ifc"), "5");
    site.synchronized(7, &next).await;
    drop(hanging);
    assert!(daemon.ended().await.0.success());
    site.synchronized(8, &next).await;
    next.stop().await;
    drop(mounted);
}

/// Threads of a process that read files for uploads, and all its descriptors.
#[cfg(feature = "failpoints")]
fn footprint(pid: u32) -> (usize, usize) {
    let entries = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap();
    let reads =
        entries("task").filter_map(|task| std::fs::read(task.ok()?.path().join("comm")).ok());
    (
        reads.filter(|name| name == b"read\n").count(),
        entries("fd").count(),
    )
}

/// A site with an empty share and, beside it, a local folder; uploads have little to work with.
#[cfg(feature = "failpoints")]
async fn beside_a_share() -> (Site, Share, BackgroundSession, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let other = site.watch(
        "south",
        itwin_syncd::emulator::DEFAULT_IMODEL_ID,
        "storage_folder = \"south\"",
    );
    site.replace_in_watches(
        "name = \"north\"",
        "storage_folder = \"north\"\nname = \"north\"",
    );
    site.tables += "[upload]\nworkers = 3\nblock_size = \"64KiB\"\nmemory = \"256KiB\"\n";
    let share = Share::default();
    let mounted = share.mount(&folder);
    (site, share, mounted, other)
}

/// Keeps the local folder busy for many times as long as a share is waited for, and counts threads and descriptors.
#[cfg(feature = "failpoints")]
async fn others_continue_beside_a_share_that_hangs(hang: fn(&Share) -> Hanging) {
    let (site, share, mounted, other) = beside_a_share().await;
    // A share is waited for 3 s instead of 60, and an upload keeps its slot and buffer 250 ms instead of 5 s.
    let daemon = site.start_with(&[("ITWIN_SYNCD_SHARE_HASTE", "20")]);
    daemon.says("watch started").await;
    // All of its files are taken before it hangs, so that it is the uploads that wait for it.
    let paused = site.run(&["pause", "north"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    for number in 0..10 {
        let content = number.to_string().repeat(100_000);
        share.put(&format!("{number}.ifc"), &content);
    }
    let deadline = Instant::now() + crate::support::PATIENCE;
    while site.status().await.len() < 10 {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hanging = hang(&share);
    let resumed = site.run(&["resume", "north"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    daemon.says("its share does not answer").await;
    let pid = daemon.pid();
    let mut footprints = Vec::new();
    let began = Instant::now();
    let mut written = 0;
    while written <= 10 || began.elapsed() < Duration::from_secs(24) {
        let asked = Instant::now();
        write(&other.join(format!("{written}.ifc")), &written.to_string());
        written += 1;
        loop {
            let files = site.status().await;
            let here = files.iter().filter(|(name, file)| {
                name.starts_with("south/")
                    && file["state"] == "done"
                    && file["result"] == "synchronized"
            });
            if here.count() == written {
                break;
            }
            // Whoever waited for the share would do so for ever.
            assert!(
                asked.elapsed() < crate::support::PATIENCE,
                "file {written} waits behind the share that hangs: {files:#?}\n{}",
                daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        footprints.push(footprint(pid));
    }
    let printed = site.run(&["status"]).await.out;
    assert!(printed.contains("the share has not answered"), "{printed}");
    let descriptors = footprints[0].1;
    // Threads that are stuck, and one for each upload at a time, which rests before it ends.
    let reads_max = 4 + 3;
    assert!(
        footprints
            .iter()
            .all(|(reads, files)| *reads <= reads_max && *files <= descriptors + 8),
        "threads and descriptors grow: {footprints:?}"
    );
    // Without work, only those are left that are stuck.
    let rested = || footprint(pid).0 <= 4;
    eventually(rested, || format!("{:?}", footprint(pid))).await;
    drop(hanging);
    site.synchronized(written + 10, &daemon).await;
    daemon.says("the share answers again").await;
    daemon.stop().await;
    drop(mounted);
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn reads_that_never_return_delay_no_other_folder() {
    others_continue_beside_a_share_that_hangs(Hanging::reads_of).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn opens_that_never_return_delay_no_other_folder() {
    others_continue_beside_a_share_that_hangs(Hanging::opens_of).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_share_that_is_listed_but_opens_no_file_stays_unavailable_until_it_does() {
    let (site, folder) = Site::with_folder(platform()).await;
    let share = Share::default();
    share.put("a.ifc", "content");
    let mounted = share.mount(&folder);
    let hanging = Hanging::opens_of(&share);
    let daemon = site.start_with(&[("ITWIN_SYNCD_SHARE_HASTE", "20")]);
    daemon.says("folder is unavailable").await;
    let listings = || share.remote().listings;
    let listed_before = listings();
    eventually(|| listings() > listed_before + 4, || daemon.log()).await;
    let printed = site.run(&["status"]).await.out;
    assert!(
        printed.contains("the share lists the folder, but"),
        "{printed}"
    );
    assert!(!printed.contains("OK:"), "{printed}");
    let log = daemon.log();
    // First that it does not answer, then that it is listed.
    assert!(log.matches("folder is unavailable").count() <= 2, "{log}");
    assert!(log.matches("folder is scanned").count() <= 1, "{log}");
    drop(hanging);
    daemon.says("the share answers again").await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_ledger_on_a_network_file_system_is_refused() {
    let (site, _) = Site::with_folder(platform()).await;
    let state = site.path("state");
    std::fs::create_dir(&state).unwrap();
    let mounted = Share::default().mount(&state);
    let refused = site.run(&["run"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("network file system"), "{refused:?}");
    assert!(
        refused.err.contains("put state.path on a local disk"),
        "{refused:?}"
    );
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn sizes_are_taken_from_the_open_file_not_from_the_listing() {
    let (site, folder) = Site::with_folder(platform()).await;
    let share = Share::default();
    share.remote().lists_no_sizes = true;
    share.put("a.ifc", "the whole content");
    let mounted = share.mount(&folder);
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    // Some polls later there is still nothing new in it.
    share.put("b.ifc", "another one");
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    assert_in_imodel(&site.emulator.state(), &expected(&share));
    assert_eq!(site.stored("a.ifc").completions, 1);
    drop(mounted);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and /dev/fuse: run tests/all"]
async fn a_server_whose_clock_is_wrong_or_coarse_costs_no_change() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    // Longer than the tick of the server's clock.
    site.top = site.top.replace("300ms", "3s");
    let share = Share::default();
    share.remote().clock_tick = Some(Duration::from_secs(2));
    let mounted = share.mount(&folder);
    let hours = Duration::from_secs(2 * 3600);
    share.put_at("ahead.ifc", "one", SystemTime::now() + hours);
    share.put_at("behind.ifc", "one", SystemTime::now() - hours);
    share.put("coarse.ifc", "one");
    share.put_at("set-back.ifc", "one", SystemTime::now() + hours);
    let daemon = site.start();
    site.synchronized(4, &daemon).await;
    // All of one size; the second save of each comes within the same tick as the first.
    for content in ["two", "six"] {
        share.put_at("ahead.ifc", content, SystemTime::now() + hours);
        share.put_at("behind.ifc", content, SystemTime::now() - hours);
        share.put("coarse.ifc", content);
        share.put_at("set-back.ifc", content, SystemTime::now() - hours);
    }
    let current = || {
        let names = ["ahead.ifc", "behind.ifc", "coarse.ifc", "set-back.ifc"];
        let stored = names.map(|name| site.stored(name).completed.unwrap().sha256);
        stored.iter().all(|sha| *sha == sha256(b"six"))
    };
    eventually(current, || daemon.log()).await;
    site.synchronized(4, &daemon).await;
    daemon.stop().await;
    assert_in_imodel(&site.emulator.state(), &expected(&share));
    drop(mounted);
}
