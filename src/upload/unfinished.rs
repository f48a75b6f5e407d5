//! Uploads in blocks that are not finished, so that the next attempt, or the next process, sends only what storage does
//! not have yet.
//!
//! Each is a small file below `state.path` that only its owner may read, and not a row of the ledger: it holds the upload
//! address, which is a secret, though for an hour only. Losing one costs the bytes that were sent.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::itwin::UploadUrl;
use crate::ledger::UploadJob;

/// Storage forgets blocks after a week; addresses end long before.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Where they are kept.
#[derive(Debug)]
pub(super) struct Unfinished {
    folder: PathBuf,
}

/// How an upload in blocks can go on.
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
    storage_file_id: String,
    block_size: u64,
    generation: [u8; 12],
    url: String,
}

impl Unfinished {
    /// Keeps them in `folder`, which is made when it is needed; forgets what is too old to be of use.
    pub(super) fn new(folder: PathBuf) -> Self {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let now = SystemTime::now();
            if modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > KEPT)) {
                remove(&entry.path());
            }
        }
        Self { folder }
    }

    /// How the upload of this version of the file went on so far, if it was in blocks of this size.
    pub(super) fn find(&self, job: &UploadJob, block_size: u64) -> Option<Progress> {
        let text = fs::read(self.path(job)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let same = record.version == job.version
            && record.block_size == block_size
            && job.storage_file_id.as_ref() == Some(&record.storage_file_id);
        let url = UploadUrl::parse(&record.url)?;
        same.then_some(Progress {
            url,
            generation: record.generation,
        })
    }

    /// Writes down how it can go on. A failure costs a later attempt its start only.
    pub(super) fn keep(&self, job: &UploadJob, block_size: u64, progress: &Progress) {
        if let Err(error) = self.write(job, block_size, progress) {
            debug!(%error, "the start of an upload could not be written down");
        }
    }

    fn write(&self, job: &UploadJob, block_size: u64, progress: &Progress) -> io::Result<()> {
        let record = Record {
            version: job.version,
            storage_file_id: job.storage_file_id.clone().unwrap_or_default(),
            block_size,
            generation: progress.generation,
            url: progress.url.expose().to_owned(),
        };
        fs::create_dir_all(&self.folder)?;
        let path = self.path(job);
        let unfinished = path.with_extension("new");
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        fs::rename(unfinished, path)
    }

    /// The upload has come to an end.
    pub(super) fn forget(&self, job: &UploadJob) {
        remove(&self.path(job));
    }

    fn path(&self, job: &UploadJob) -> PathBuf {
        self.folder.join(job.file.to_string())
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!(%error, "the record of an upload could not be removed");
        }
        _ => {}
    }
}
