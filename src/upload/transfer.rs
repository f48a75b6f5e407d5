//! The bytes on their way: one request for a small file, blocks in parallel for a large one.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use md5::{Digest as _, Md5};

use super::Shared;
use super::source::Source;
use super::steps::Trouble;
use crate::config;
use crate::itwin::{self, UploadLinks, UploadUrl};
use crate::ledger::Content;
use crate::live::Upload;

/// How much of a file is read and sent at once in a single request.
pub(super) const PIECE: usize = 256 * 1024;

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
    BLOCK_MAX
        .max(limits.block_size)
        .saturating_mul(BLOCKS_MAX)
        .max(limits.single_put_max)
}

/// The block size for a file: the configured one, doubled until the blocks are few enough.
fn block_size(configured: u64, bytes: u64) -> u64 {
    let mut size = configured;
    while size < BLOCK_MAX && bytes.div_ceil(size) > BLOCKS_MAX {
        size = (size * 2).min(BLOCK_MAX);
    }
    size
}

/// Sends the whole file and returns what was sent, once it is certain that the file did not change meanwhile.
/// Nothing counts in storage before *complete*, so an upload that is broken off leaves the old content.
pub(super) async fn send(
    shared: &Shared,
    source: &Source,
    links: UploadLinks,
    progress: &Upload,
) -> Result<Content, Trouble> {
    let bytes = source.fingerprint().size;
    let file_id = links.file_id;
    let mut url = links.upload_url;
    let mut renewals = 0;
    let mut resent = 0;
    loop {
        let sent = if bytes <= shared.limits.single_put_max {
            whole(shared, source, &url, progress).await
        } else {
            in_blocks(shared, source, &url, progress).await
        };
        match sent {
            Ok(()) => return Ok(source.finish().await?.content),
            Err(Trouble::Platform(error))
                if error.upload_url_refused() && renewals < RENEWALS_MAX =>
            {
                renewals += 1;
                tracing::debug!(%error, "upload address refused; asking for a new one");
                url = shared.client.update_content(&file_id).await?.upload_url;
            }
            Err(Trouble::Corrupted) if resent < RENEWALS_MAX => resent += 1,
            Err(trouble) => return Err(trouble),
        }
        source.rewind().await?;
        progress.again();
    }
}

/// One request. Storage answers with the MD5 of what it received, so the file is read once and still checked.
async fn whole(
    shared: &Shared,
    source: &Source,
    url: &UploadUrl,
    progress: &Upload,
) -> Result<(), Trouble> {
    let bytes = source.fingerprint().size;
    let meter = progress.meter();
    let body = source
        .stream(PIECE)
        .inspect_ok(move |piece| meter(piece.len()));
    let receipt = match shared.client.put_blob(url, bytes, body).await {
        Ok(receipt) => receipt,
        Err(error) => return Err(source.failure().map_or_else(|| error.into(), Trouble::from)),
    };
    let sent = source.finish().await?.md5;
    if receipt.md5.is_some_and(|received| received != sent) {
        return Err(Trouble::Corrupted);
    }
    Ok(())
}

/// Blocks, several on their way at once, each with its MD5; then the list that makes them the content.
async fn in_blocks(
    shared: &Shared,
    source: &Source,
    url: &UploadUrl,
    progress: &Upload,
) -> Result<(), Trouble> {
    let size = block_size(shared.limits.block_size, source.fingerprint().size);
    let upload = uuid::Uuid::new_v4();
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    // A block larger than the configured one takes as many permits as it is worth.
    let permits = u32::try_from(size.div_ceil(shared.limits.block_size)).unwrap_or(u32::MAX);
    // The next block is read while others are on the wire, as far as there is room in memory.
    let read = || async move {
        let permit = shared.block_permits(permits).await;
        source
            .next(len)
            .await
            .map(|block| block.map(|block| (permit, block)))
    };
    let mut ids = Vec::new();
    let mut on_their_way = FuturesUnordered::new();
    let mut reading = Box::pin(read());
    let mut ended = false;
    while !ended || !on_their_way.is_empty() {
        let room = !ended && on_their_way.len() < BLOCKS_IN_FLIGHT;
        tokio::select! {
            Some(sent) = on_their_way.next(), if !on_their_way.is_empty() => {
                let sent: Result<(), itwin::Error> = sent;
                sent?;
            }
            next = &mut reading, if room => {
                let Some((permit, block)) = next? else {
                    ended = true;
                    continue;
                };
                let id = block_id(upload, ids.len());
                ids.push(id.clone());
                let len = block.len() as u64;
                on_their_way.push(async move {
                    let sent = put_block(shared, url, &id, block).await;
                    drop(permit);
                    progress.sent(len);
                    sent
                });
                reading = Box::pin(read());
            }
        }
    }
    // Nothing is visible before the list: a file that changed must not get that far.
    source.finish().await?;
    Ok(shared.client.put_block_list(url, &ids).await?)
}

async fn put_block(
    shared: &Shared,
    url: &UploadUrl,
    id: &str,
    block: Bytes,
) -> Result<(), itwin::Error> {
    let hashed = block.clone();
    let md5 = tokio::task::spawn_blocking(move || <[u8; 16]>::from(Md5::digest(&hashed))).await;
    match md5 {
        Ok(md5) => shared.client.put_block(url, id, block, md5).await,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Ids of one width, as Azure wants them: the upload they belong to, and their place in it.
fn block_id(upload: uuid::Uuid, index: usize) -> String {
    let mut id = [0; 24];
    id[..16].copy_from_slice(upload.as_bytes());
    id[16..].copy_from_slice(&(index as u64).to_be_bytes());
    BASE64_STANDARD.encode(id)
}

impl Shared {
    async fn block_permits(&self, permits: u32) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let all = u32::try_from(self.limits.memory / self.limits.block_size)
            .unwrap_or(u32::MAX)
            .max(1);
        self.blocks.acquire_many(permits.min(all)).await.ok()
    }
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
    fn block_ids_are_of_one_width_in_order_and_differ_between_uploads() {
        let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let ids: Vec<_> = [0, 1, 255, 256, 49_999]
            .into_iter()
            .map(|n| block_id(one, n))
            .collect();
        assert!(
            ids.iter()
                .all(|id| id.len() == 32 && BASE64_STANDARD.decode(id).unwrap().len() == 24)
        );
        assert!(
            ids.windows(2)
                .all(|pair| BASE64_STANDARD.decode(&pair[0]) != BASE64_STANDARD.decode(&pair[1]))
        );
        assert_ne!(block_id(one, 7), block_id(two, 7));
    }
}
