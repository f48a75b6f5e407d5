//! A share that shows a local folder as it is, but reports no changes: a root on it is polled. An inode belongs to a
//! path, so a renamed file gets another one. A FUSE file system of our own; it needs root and /dev/fuse.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, Request,
};

#[derive(Debug)]
struct Share {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The paths of the inodes from 2 on, relative to the folder.
    paths: Vec<PathBuf>,
    inodes: HashMap<PathBuf, u64>,
    open: HashMap<u64, File>,
    opened: u64,
}

/// Shows `folder` at `at`, until the session is dropped.
pub fn mount(folder: &Path, at: &Path) -> BackgroundSession {
    let mut config = fuser::Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("share".to_owned())];
    let share = Share {
        folder: folder.to_owned(),
        state: Mutex::default(),
    };
    fuser::spawn_mount(share, at, &config).expect("mounting needs root and /dev/fuse")
}

impl Share {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn at(&self, inode: INodeNo) -> PathBuf {
        self.folder.join(self.state().path(inode))
    }
}

impl State {
    fn path(&self, inode: INodeNo) -> PathBuf {
        let at = u64::from(inode).checked_sub(2);
        let path = at.and_then(|at| self.paths.get(usize::try_from(at).unwrap()));
        path.cloned().unwrap_or_default()
    }

    fn inode(&mut self, path: PathBuf) -> u64 {
        if let Some(known) = self.inodes.get(&path) {
            return *known;
        }
        self.paths.push(path.clone());
        let inode = self.paths.len() as u64 + 1;
        self.inodes.insert(path, inode);
        inode
    }
}

fn attributes(inode: u64, found: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        let seconds = u64::try_from(seconds).unwrap();
        UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanoseconds).unwrap())
    };
    let modified = time(found.mtime(), found.mtime_nsec());
    FileAttr {
        ino: INodeNo(inode),
        size: found.len(),
        blocks: found.blocks(),
        atime: modified,
        mtime: modified,
        ctime: time(found.ctime(), found.ctime_nsec()),
        crtime: modified,
        kind: if found.is_dir() {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

impl Filesystem for Share {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.state().path(parent).join(name);
        match self.folder.join(&path).metadata() {
            Ok(found) => {
                let inode = self.state().inode(path);
                let attributes = attributes(inode, &found);
                reply.entry(&Duration::ZERO, &attributes, Generation(0));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.at(inode).metadata() {
            Ok(found) => reply.attr(&Duration::ZERO, &attributes(inode.into(), &found)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match File::open(self.at(inode)) {
            Ok(file) => {
                let mut state = self.state();
                state.opened += 1;
                let handle = state.opened;
                state.open.insert(handle, file);
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().open.remove(&handle.into());
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let mut content = vec![0; size as usize];
        let file = state.open.get(&u64::from(handle));
        match file.map(|file| file.read_at(&mut content, offset)) {
            Some(Ok(read)) => reply.data(&content[..read]),
            Some(Err(error)) => reply.error(error.into()),
            None => reply.error(Errno::EBADF),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let path = self.state().path(inode);
        let listed = match std::fs::read_dir(self.folder.join(&path)) {
            Ok(listed) => listed,
            Err(error) => return reply.error(error.into()),
        };
        let mut entries = vec![
            (1, FileType::Directory, ".".into()),
            (1, FileType::Directory, "..".into()),
        ];
        for entry in listed.flatten() {
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => FileType::Directory,
                _ => FileType::RegularFile,
            };
            let inode = self.state().inode(path.join(entry.file_name()));
            entries.push((inode, kind, entry.file_name()));
        }
        let entries = entries.into_iter().enumerate();
        for (at, (inode, kind, name)) in entries.skip(usize::try_from(offset).unwrap()) {
            if reply.add(INodeNo(inode), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
