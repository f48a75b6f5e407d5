//! Keeps the state of interrupted uploads in blocks, so that the next attempt or process sends only the missing blocks.
//!
//! Each upload has a small file below `state.path` that only its owner may read. It is not in the ledger because it
//! contains the upload URL, which is a secret for as long as it is valid (an hour). Losing the file costs the bytes
//! that were sent. The folder and its files are opened without following links.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::ids::StorageFileId;
use crate::itwin::UploadUrl;
use crate::ledger::UploadJob;
use crate::state_directory::open_folder;

/// Storage forgets blocks after a week; addresses end long before.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The longest record, in bytes: a few times the longest upload address.
const RECORD_MAX: u64 = 64 * 1024;

/// Where they are kept.
#[derive(Debug)]
pub(super) struct Unfinished {
    folder: PathBuf,
    /// Other hosts may continue an upload meanwhile.
    is_shared: bool,
}

/// How an upload in blocks can be resumed.
#[derive(Clone)]
pub(super) struct Progress {
    /// The address that took the blocks so far.
    pub(super) url: UploadUrl,
    /// Begins the ids of its blocks.
    pub(super) generation: [u8; 12],
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: i64,
    storage_file_id: StorageFileId,
    block_size: u64,
    generation: [u8; 12],
    url: String,
    /// When the address was received, in milliseconds: later if another host has continued.
    #[serde(default)]
    since: i64,
}

impl Unfinished {
    /// Keeps them in `folder`, which is made when it is needed; forgets what is too old to be of use.
    pub(super) fn new(folder: PathBuf, is_shared: bool) -> Self {
        let unfinished = Self { folder, is_shared };
        if let Err(error) = unfinished.forget_old()
            && error.kind() != io::ErrorKind::NotFound
        {
            debug!(%error, "cannot remove the records of old uploads");
        }
        unfinished
    }

    fn forget_old(&self) -> io::Result<()> {
        let folder = self.open()?;
        let now = Duration::try_from(crate::clock::now().as_duration()).unwrap_or_default();
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_owned();
            let found = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let changed = Duration::from_secs(u64::try_from(found.st_mtime).unwrap_or(0));
            let is_folder = [&b"."[..], b".."].contains(&name.to_bytes());
            if !is_folder && now.saturating_sub(changed) > KEPT {
                remove(rustix::fs::unlinkat(&folder, &name, AtFlags::empty()));
            }
        }
        Ok(())
    }

    fn open(&self) -> io::Result<OwnedFd> {
        Ok(open_folder(CWD, &self.folder)?)
    }

    /// How the upload of this version of the file went on so far, if it was in blocks of this size.
    pub(super) fn find(&self, job: &UploadJob, block_size: u64) -> Option<Progress> {
        let record = self.read(job).ok()?;
        let same = record.version == job.version
            && record.block_size == block_size
            && job.storage_file_id.as_ref() == Some(&record.storage_file_id)
            && (!self.is_shared || record.since == job.stage.1.as_millisecond());
        let url = UploadUrl::parse(&record.url)?;
        same.then_some(Progress {
            url,
            generation: record.generation,
        })
    }

    fn read(&self, job: &UploadJob) -> io::Result<Record> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = job.file.to_string();
        let file = rustix::fs::openat(self.open()?, name, flags, Mode::empty())?;
        let mut text = Vec::new();
        File::from(file).take(RECORD_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes down how it can be resumed. A failure only makes a later attempt start from zero.
    pub(super) fn keep(&self, job: &UploadJob, block_size: u64, progress: &Progress) {
        if let Err(error) = self.write(job, block_size, progress) {
            debug!(%error, "cannot record an upload in progress");
        }
    }

    fn write(&self, job: &UploadJob, block_size: u64, progress: &Progress) -> io::Result<()> {
        let record = Record {
            version: job.version,
            storage_file_id: job.storage_file_id.clone().unwrap_or_default(),
            block_size,
            generation: progress.generation,
            url: progress.url.expose().to_owned(),
            since: job.stage.1.as_millisecond(),
        };
        match rustix::fs::mkdir(&self.folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = self.open()?;
        let name = job.file.to_string();
        let new = format!("{name}.new");
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &new, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(&serde_json::to_vec(&record)?)?;
        Ok(rustix::fs::renameat(&folder, &new, &folder, &name)?)
    }

    /// The upload has ended.
    pub(super) fn forget(&self, job: &UploadJob) {
        if let Ok(folder) = self.open() {
            let name = job.file.to_string();
            remove(rustix::fs::unlinkat(&folder, name, AtFlags::empty()));
        }
    }
}

fn remove(removed: Result<(), Errno>) {
    match removed {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => debug!(%error, "cannot remove the record of an upload"),
    }
}
