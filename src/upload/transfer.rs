//! Sends the bytes: in one request if they fit into one block, else in several blocks in parallel.
//!
//! A block's id contains the upload that it belongs to, its checksum and its position, so storage's own list of blocks
//! shows which of them need not be sent again.

mod address;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use md5::{Digest as _, Md5};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Shared;
use super::error::{TooSlow, UploadError};
use super::source::{self, Block, Source};
use super::unfinished::Progress;
use crate::config;
use crate::ids::StorageFileId;
use crate::itwin::{self, Checksum, Speed, UploadLinks, UploadUrl};
use crate::ledger::{Content, UploadJob};
use crate::names::QuotedPath;
use crate::runtime_status::Upload;
use address::{Address, Course, fits, needs_another};

/// Azure commits at most this many blocks to a blob.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block-list
const BLOCKS_MAX: u64 = 50_000;

/// The largest block that every version of the protocol takes.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCK_MAX: u64 = 100 * 1024 * 1024;

/// Blocks of one file that are on their way at once.
const BLOCKS_IN_FLIGHT: usize = 4;

/// A refused upload address is replaced this often in one attempt.
const RENEWALS_MAX: u32 = 3;

/// How often a block that waits for the end of a pause of all uploads is considered again.
const PAUSE_OVER: Duration = Duration::from_secs(1);

/// The pause before an address that could not be renewed is asked for again.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// The largest file that can be stored with these limits.
pub(super) fn size_limit(limits: &config::Upload) -> u64 {
    BLOCK_MAX.max(limits.block_size).saturating_mul(BLOCKS_MAX)
}

/// The block size for a file that is sent in blocks: the configured one, or as much as memory has for each of those in
/// flight, doubled until the blocks are few enough.
pub(super) fn block_size(limits: &config::Upload, bytes: u64) -> u64 {
    let each = limits.memory / BLOCKS_IN_FLIGHT as u64;
    let mut size = limits.block_size.min(each.max(1));
    while size < BLOCK_MAX && bytes.div_ceil(size) > BLOCKS_MAX {
        size = (size * 2).min(BLOCK_MAX);
    }
    size
}

/// Where the bytes go.
pub(super) struct UploadTarget {
    /// The storage file.
    pub(super) file_id: StorageFileId,
    /// Its address.
    pub(super) url: UploadUrl,
    /// An earlier attempt sent blocks there, whose ids begin with this.
    pub(super) generation: Option<[u8; 12]>,
}

impl From<UploadLinks> for UploadTarget {
    fn from(links: UploadLinks) -> Self {
        Self {
            file_id: links.file_id,
            url: links.upload_url,
            generation: None,
        }
    }
}

/// Sends the whole file and returns what was sent, once it is certain that the file did not change meanwhile.
/// Nothing counts in storage before *complete*, so an upload that is broken off leaves the old content.
///
/// An upload that takes longer than its address lives continues at a renewed one, which is requested before the old one
/// expires. Where the renewed one names another blob, the whole file must arrive within one life: then it is sent
/// without the rate limit.
pub(super) async fn send(
    shared: &Shared,
    job: &UploadJob,
    source: &Source<'_>,
    way: UploadTarget,
    progress: &Upload,
) -> Result<Content, UploadError> {
    let bytes = source.fingerprint().size;
    let block_size = block_size(&shared.limits, bytes);
    let in_one = bytes <= shared.limits.block_size;
    let mut address = Address::new(shared, way.url);
    let (mut generation, mut resumes) = match way.generation {
        Some(known) => (known, true),
        None => (new_generation(), false),
    };
    if !resumes && !fits(bytes, shared.client.rate_limit(), address.life) {
        choose(shared, job, &way.file_id, in_one, &mut address).await?;
    }
    let mut renewals = 0;
    loop {
        let sent = if in_one {
            whole(shared, source, &address, progress).await
        } else {
            let upload = Blocks {
                shared,
                job,
                source,
                file_id: &way.file_id,
                generation,
                block_size,
                progress,
            };
            upload.send(&mut address, resumes).await
        };
        match sent {
            Ok(content) => {
                shared.unfinished.forget(job);
                return Ok(content);
            }
            Err(Interrupted::Moved(url)) => {
                address.start_over(shared, url);
                (generation, resumes) = (new_generation(), false);
                say_unlimited(shared, job);
            }
            Err(Interrupted::UploadError(UploadError::Platform(error)))
                if error.upload_url_refused() =>
            {
                let ended = address.has_ended();
                if ended && address.renewable == Some(false) {
                    return Err(too_slow(bytes, progress, &address).into());
                }
                if renewals == RENEWALS_MAX {
                    return Err(error.into());
                }
                renewals += 1;
                debug!(%error, "upload URL refused; requesting a new one");
                let renewed = shared.client.update_content(&way.file_id).await?.upload_url;
                resumes = renewed.is_same_blob(&address.url);
                if resumes {
                    address.take(shared, renewed);
                } else if ended {
                    address.start_over(shared, renewed);
                    say_unlimited(shared, job);
                } else {
                    address.take(shared, renewed);
                }
                if !resumes {
                    generation = new_generation();
                }
            }
            Err(Interrupted::UploadError(UploadError::Platform(error)))
                if error.checksum_unknown() && shared.crc64.swap(false, Ordering::Relaxed) =>
            {
                debug!(%error, "storage does not accept CRC64; sending MD5 from now on");
            }
            Err(Interrupted::UploadError(trouble)) => return Err(trouble),
        }
        source.rewind().await?;
        progress.again();
    }
}

/// Before a file that the rate limit would hold back for longer than its address lives: sees what a renewed address
/// leads to, because that decides whether the limit can be kept.
async fn choose(
    shared: &Shared,
    job: &UploadJob,
    file_id: &StorageFileId,
    in_one: bool,
    address: &mut Address,
) -> Result<(), UploadError> {
    if !in_one {
        match shared.client.update_content(file_id).await {
            Ok(links) if links.upload_url.is_same_blob(&address.url) => {
                address.renewable = Some(true);
                address.take(shared, links.upload_url);
                return Ok(());
            }
            Ok(links) => address.take(shared, links.upload_url),
            // Before the first *complete* there may be no second address.
            Err(error) if error.status().is_some_and(|status| status < 500) => {
                debug!(%error, "cannot renew the upload URL");
            }
            Err(error) => return Err(error.into()),
        }
    }
    address.renewable = Some(false);
    address.speed = Speed::Full;
    say_unlimited(shared, job);
    Ok(())
}

fn say_unlimited(shared: &Shared, job: &UploadJob) {
    if shared.client.rate_limit().is_some() {
        warn!(
            path = %QuotedPath(&job.path),
            "sending without the bandwidth limit: at the limit the upload URL would expire first, and a new URL starts from zero"
        );
    }
}

fn too_slow(bytes: u64, progress: &Upload, address: &Address) -> TooSlow {
    let life = address.life.unwrap_or_default().as_secs().max(1);
    TooSlow {
        bytes,
        sent: progress.bytes_sent().min(bytes),
        took: address.since.elapsed(),
        needed: bytes.div_ceil(life),
    }
}

/// Why an upload to one address stopped.
enum Interrupted {
    /// The renewed address names another blob.
    Moved(UploadUrl),
    UploadError(UploadError),
}

impl<E: Into<UploadError>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::UploadError(error.into())
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
    address: &Address,
    progress: &Upload,
) -> Result<Content, Interrupted> {
    let len = usize::try_from(source.fingerprint().size).unwrap_or(usize::MAX);
    let block = source.next(&shared.pool, len).await?;
    let content = source.finish().await?;
    let (bytes, checksum) = checked(shared, block, &address.url).await;
    shared
        .client
        .put_blob(&address.url, bytes, checksum, address.speed)
        .await?;
    progress.sent(content.bytes);
    Ok(content)
}

/// Blocks, several on their way at once; then the list that makes them the content.
struct Blocks<'a> {
    shared: &'a Shared,
    job: &'a UploadJob,
    source: &'a Source<'a>,
    file_id: &'a StorageFileId,
    generation: [u8; 12],
    block_size: u64,
    progress: &'a Upload,
}

impl Blocks<'_> {
    async fn send(&self, address: &mut Address, resumes: bool) -> Result<Content, Interrupted> {
        let Self {
            shared,
            source,
            progress,
            block_size,
            ..
        } = *self;
        self.keep(address);
        let held = if resumes {
            blocks_in_storage(shared, &address.url, self.generation).await?
        } else {
            HashSet::new()
        };
        let read = |len: u64| async move {
            // The next block is read while others are on the wire, as far as there is memory for it.
            let len = usize::try_from(len.min(block_size)).unwrap_or(usize::MAX);
            source.next(&shared.pool, len).await
        };
        let began = Instant::now();
        let mut left = source.fingerprint().size;
        let (mut ids, mut skipped, mut sent) = (Vec::new(), 0_u64, 0_u64);
        let mut on_their_way = FuturesUnordered::new();
        let mut reading = Box::pin(read(left));
        let mut renewing = None;
        let mut not_before = began;
        while left > 0 || !on_their_way.is_empty() {
            let paused = address.speed == Speed::Limited && shared.client.is_paused();
            if renewing.is_none()
                && left > 0
                && !paused
                && Instant::now() >= not_before
                && let Some(life) = address.life
                && needs_another(Course {
                    life,
                    elapsed: address.since.elapsed(),
                    // At the pace since the beginning, however many addresses ago that is.
                    sent: rate(sent, began.elapsed(), address.since.elapsed()),
                    left,
                    renewable: address.renewable,
                })
            {
                renewing = Some(Box::pin(shared.client.update_content(self.file_id)));
            }
            let free =
                left > 0 && on_their_way.len() < BLOCKS_IN_FLIGHT && renewing.is_none() && !paused;
            tokio::select! {
                Some(arrived) = on_their_way.next(), if !on_their_way.is_empty() => {
                    let arrived: Result<u64, itwin::Error> = arrived;
                    sent += arrived?;
                }
                renewed = async { renewing.as_mut()?.await.into() }, if renewing.is_some() => {
                    renewing = None;
                    let renewed: Option<Result<UploadLinks, itwin::Error>> = renewed;
                    if let Some(renewed) = renewed {
                        not_before = Instant::now() + self.renewed(address, renewed)?;
                    }
                }
                () = tokio::time::sleep(PAUSE_OVER), if paused => {}
                block = &mut reading, if free => {
                    let block: Result<Block, source::Error> = block;
                    let block = block?;
                    let len = block.bytes.as_ref().len() as u64;
                    left -= len;
                    let id = block_id(self.generation, block.crc64, ids.len());
                    if held.contains(&id) {
                        skipped += len;
                        progress.held(len);
                    } else {
                        let (id, url, speed) = (id.clone(), address.url.clone(), address.speed);
                        on_their_way.push(async move {
                            let (bytes, checksum) = checked(shared, block, &url).await;
                            shared.client.put_block(&url, &id, bytes, checksum, speed).await?;
                            progress.sent(len);
                            Ok(len)
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
            info!(path = %QuotedPath(&self.job.path), bytes = skipped, "resuming an interrupted upload; storage already has these bytes");
        }
        // Nothing is visible before the list: a file that changed must not get that far.
        let content = source.finish().await?;
        shared.client.put_block_list(&address.url, &ids).await?;
        Ok(content)
    }

    /// Continues at the renewed address, if it leads to the same blob; returns the pause before the next try.
    fn renewed(
        &self,
        address: &mut Address,
        renewed: Result<UploadLinks, itwin::Error>,
    ) -> Result<Duration, Interrupted> {
        match renewed {
            Ok(links) if links.upload_url.is_same_blob(&address.url) => {
                debug!(path = %QuotedPath(&self.job.path), "upload address renewed before its end");
                address.take(self.shared, links.upload_url);
                address.renewable = Some(true);
                self.keep(address);
                Ok(Duration::ZERO)
            }
            Ok(links) => Err(Interrupted::Moved(links.upload_url)),
            Err(error) if error.status().is_some_and(|status| status < 500) => {
                debug!(%error, "cannot renew the upload URL");
                address.renewable = Some(false);
                address.speed = Speed::Full;
                say_unlimited(self.shared, self.job);
                Ok(Duration::ZERO)
            }
            Err(error) => {
                debug!(%error, "the upload address is not renewed yet");
                Ok(RENEW_AGAIN)
            }
        }
    }

    /// Writes down where the blocks are.
    fn keep(&self, address: &Address) {
        let progress = Progress {
            url: address.url.clone(),
            generation: self.generation,
        };
        self.shared
            .unfinished
            .keep(self.job, self.block_size, &progress);
    }
}

/// What was sent in all, as a part for `recent` of the time that it took.
fn rate(sent: u64, took: Duration, recent: Duration) -> u64 {
    let (took, recent) = (took.as_millis().max(1), recent.as_millis());
    u64::try_from(u128::from(sent) * recent / took).unwrap_or(u64::MAX)
}

/// The blocks of this upload that storage has already. An address that allows no reading costs their sending again.
async fn blocks_in_storage(
    shared: &Shared,
    url: &UploadUrl,
    generation: [u8; 12],
) -> Result<HashSet<String>, UploadError> {
    // Twelve bytes are sixteen letters: every id of the upload begins with them.
    let prefix = BASE64_STANDARD.encode(generation);
    match shared.client.blocks(url, &prefix).await {
        Ok(ids) => Ok(ids),
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
mod tests;
