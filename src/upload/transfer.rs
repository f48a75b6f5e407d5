//! The bytes on their way: one request for what fits into one block, several blocks in parallel for what is larger.
//!
//! A block's id tells the upload that it belongs to, its checksum and its place, so storage's own list of blocks tells
//! which of them need not be sent again.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use md5::{Digest as _, Md5};
use tracing::{debug, info};

use super::Shared;
use super::source::{self, Block, Source};
use super::steps::Trouble;
use super::unfinished::Progress;
use crate::config;
use crate::itwin::{self, Checksum, UploadUrl};
use crate::ledger::{Content, UploadJob};
use crate::live::Upload;
use crate::names::Shown;

/// Azure commits at most this many blocks to a blob.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block-list
const BLOCKS_MAX: u64 = 50_000;

/// The largest block that every version of the protocol takes.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCK_MAX: u64 = 100 * 1024 * 1024;

/// Blocks of one file that are on their way at once.
const BLOCKS_IN_FLIGHT: usize = 4;

/// An upload address is renewed this often without the upload getting anywhere.
const RENEWALS_MAX: u32 = 3;

/// The largest file that can be stored with these limits.
pub(super) fn size_limit(limits: &config::Upload) -> u64 {
    BLOCK_MAX.max(limits.block_size).saturating_mul(BLOCKS_MAX)
}

/// The block size for a file: the configured one, doubled until the blocks are few enough.
pub(super) fn block_size(configured: u64, bytes: u64) -> u64 {
    let mut size = configured;
    while size < BLOCK_MAX && bytes.div_ceil(size) > BLOCKS_MAX {
        size = (size * 2).min(BLOCK_MAX);
    }
    size
}

/// Where the bytes go.
pub(super) struct Way {
    /// The storage file.
    pub(super) file_id: String,
    /// Its address.
    pub(super) url: UploadUrl,
    /// An earlier attempt sent blocks there, whose ids begin with this.
    pub(super) generation: Option<[u8; 12]>,
}

/// Sends the whole file and returns what was sent, once it is certain that the file did not change meanwhile.
/// Nothing counts in storage before *complete*, so an upload that is broken off leaves the old content.
pub(super) async fn send(
    shared: &Shared,
    job: &UploadJob,
    source: &Source<'_>,
    way: Way,
    progress: &Upload,
) -> Result<Content, Trouble> {
    let bytes = source.fingerprint().size;
    let block_size = block_size(shared.limits.block_size, bytes);
    let in_one = bytes <= shared.limits.block_size;
    let mut url = way.url;
    let (mut generation, mut resumes) = match way.generation {
        Some(known) => (known, true),
        None => (new_generation(), false),
    };
    let mut renewals = 0;
    loop {
        let sent = if in_one {
            whole(shared, source, &url, progress).await
        } else {
            let way = Progress {
                url: url.clone(),
                generation,
            };
            shared.unfinished.keep(job, block_size, &way);
            in_blocks(shared, job, source, &way, block_size, resumes, progress).await
        };
        match sent {
            Ok(content) => {
                shared.unfinished.forget(job);
                return Ok(content);
            }
            Err(Trouble::Platform(error))
                if error.upload_url_refused() && renewals < RENEWALS_MAX =>
            {
                renewals += 1;
                debug!(%error, "upload address refused; asking for a new one");
                let renewed = shared.client.update_content(&way.file_id).await?.upload_url;
                resumes = renewed.is_same_blob(&url);
                if !resumes {
                    generation = new_generation();
                }
                url = renewed;
            }
            Err(Trouble::Platform(error))
                if error.checksum_unknown() && shared.crc64.swap(false, Ordering::Relaxed) =>
            {
                debug!(%error, "storage takes no CRC64; sending MD5 from now on");
            }
            Err(trouble) => return Err(trouble),
        }
        source.rewind().await?;
        progress.again();
    }
}

fn new_generation() -> [u8; 12] {
    let mut generation = [0; 12];
    generation.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..12]);
    generation
}

/// One request.
async fn whole(
    shared: &Shared,
    source: &Source<'_>,
    url: &UploadUrl,
    progress: &Upload,
) -> Result<Content, Trouble> {
    let len = usize::try_from(source.fingerprint().size).unwrap_or(usize::MAX);
    let block = source.next(&shared.pool, len).await?;
    let content = source.finish().await?;
    let (bytes, checksum) = checked(shared, block, url).await;
    shared.client.put_blob(url, bytes, checksum).await?;
    progress.sent(content.bytes);
    Ok(content)
}

/// Blocks, several on their way at once; then the list that makes them the content.
async fn in_blocks(
    shared: &Shared,
    job: &UploadJob,
    source: &Source<'_>,
    way: &Progress,
    block_size: u64,
    resumes: bool,
    progress: &Upload,
) -> Result<Content, Trouble> {
    let held = if resumes {
        held(shared, &way.url).await?
    } else {
        HashSet::new()
    };
    let read = |len: u64| async move {
        // The next block is read while others are on the wire, as far as there is room in memory.
        let len = usize::try_from(len.min(block_size)).unwrap_or(usize::MAX);
        source.next(&shared.pool, len).await
    };
    let mut left = source.fingerprint().size;
    let (mut ids, mut skipped) = (Vec::new(), 0_u64);
    let mut on_their_way = FuturesUnordered::new();
    let mut reading = Box::pin(read(left));
    while left > 0 || !on_their_way.is_empty() {
        let room = left > 0 && on_their_way.len() < BLOCKS_IN_FLIGHT;
        tokio::select! {
            Some(sent) = on_their_way.next(), if !on_their_way.is_empty() => {
                let sent: Result<(), itwin::Error> = sent;
                sent?;
            }
            block = &mut reading, if room => {
                let block: Result<Block, source::Error> = block;
                let block = block?;
                let len = block.bytes.as_ref().len() as u64;
                left -= len;
                let id = block_id(way.generation, block.crc64, ids.len());
                if held.contains(&id) {
                    skipped += len;
                    progress.held(len);
                } else {
                    let id = id.clone();
                    on_their_way.push(async move {
                        let (bytes, checksum) = checked(shared, block, &way.url).await;
                        shared.client.put_block(&way.url, &id, bytes, checksum).await?;
                        progress.sent(len);
                        Ok(())
                    });
                }
                ids.push(id);
                if left > 0 {
                    reading = Box::pin(read(left));
                }
            }
        }
    }
    if skipped > 0 {
        info!(path = %Shown(&job.path), bytes = skipped, "an interrupted upload went on; storage had so much of it");
    }
    // Nothing is visible before the list: a file that changed must not get that far.
    let content = source.finish().await?;
    shared.client.put_block_list(&way.url, &ids).await?;
    Ok(content)
}

/// The blocks that storage has already. An address that allows no reading costs their sending again.
async fn held(shared: &Shared, url: &UploadUrl) -> Result<HashSet<String>, Trouble> {
    match shared.client.blocks(url).await {
        Ok(ids) => Ok(ids.into_iter().collect()),
        Err(error) if error.code() == Some("AuthorizationPermissionMismatch") => Ok(HashSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// The bytes of a block, and the best checksum that the address takes.
async fn checked(shared: &Shared, block: Block, url: &UploadUrl) -> (Bytes, Checksum) {
    let bytes = Bytes::from_owner(block.bytes);
    if url.takes_crc64() && shared.crc64.load(Ordering::Relaxed) {
        return (bytes, Checksum::Crc64(block.crc64));
    }
    let hashed = bytes.clone();
    match tokio::task::spawn_blocking(move || Md5::digest(&hashed).into()).await {
        Ok(md5) => (bytes, Checksum::Md5(md5)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Ids of one width, as Azure wants them: the upload they belong to, what they hold, and their place in it.
fn block_id(generation: [u8; 12], crc64: u64, index: usize) -> String {
    let mut id = [0; 24];
    id[..12].copy_from_slice(&generation);
    id[12..20].copy_from_slice(&crc64.to_be_bytes());
    id[20..].copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
    BASE64_STANDARD.encode(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn blocks_double_until_they_are_few_enough() {
        for (bytes, expected) in [
            (65 * MIB, 8 * MIB),
            (50_000 * 8 * MIB, 8 * MIB),
            (50_000 * 8 * MIB + 1, 16 * MIB),
            (50_000 * 64 * MIB + 1, 100 * MIB),
            (50_000 * 100 * MIB, 100 * MIB),
        ] {
            assert_eq!(block_size(8 * MIB, bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn block_ids_are_of_one_width_and_differ_by_upload_content_and_place() {
        let (one, two) = (new_generation(), new_generation());
        let ids = [
            block_id(one, 7, 0),
            block_id(two, 7, 0),
            block_id(one, 8, 0),
            block_id(one, 7, 1),
            block_id(one, 7, 49_999),
        ];
        assert!(ids.iter().all(|id| id.len() == 32));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}
