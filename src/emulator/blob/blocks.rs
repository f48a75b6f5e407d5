//! Blocks: put one, put a list of them together, list them.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crc64fast_nvme::Digest as Crc64;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use md5::{Digest as _, Md5};
use quick_xml::events::Event;

use super::MIB;
use super::put::created;
use super::request::{BlobError, BlobRequest, INCOMPLETE, LARGE_SINCE, refused};
use crate::emulator::body::discard;
use crate::emulator::model::Part;
use crate::emulator::reply::{self, Reply};

/// Maximum number of blocks in a list.
const BLOCKS_MAX: usize = 50_000;

/// Maximum number of uncommitted blocks.
const UNCOMMITTED_MAX: usize = 100_000;

impl BlobRequest<'_> {
    pub(super) async fn block(&self, body: Incoming) -> Result<Reply, BlobError> {
        let id = self.part("blockid").to_owned();
        let length = match BASE64_STANDARD.decode(&id) {
            Ok(decoded) if (1..=64).contains(&decoded.len()) => id.len(),
            _ => {
                discard(body).await;
                return refused(
                    400,
                    "InvalidQueryParameterValue",
                    "The block id is not base64 of 1 to 64 bytes.",
                );
            }
        };
        let waiting = {
            let state = self.shared.state();
            let blob = state.blobs.get(self.blob);
            blob.map(|blob| {
                let other = blob.uncommitted.keys().next().map(String::len);
                (blob.uncommitted.len(), other)
            })
        };
        let problem = match waiting {
            Some((_, Some(other))) if other != length => Some(BlobError(
                400,
                "InvalidBlobOrBlock",
                "The block id is not as long as those of the other blocks.".to_owned(),
            )),
            Some((count, _)) if count >= UNCOMMITTED_MAX => Some(BlobError(
                409,
                "BlockCountExceedsLimit",
                "There are too many blocks.".to_owned(),
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            discard(body).await;
            return Err(problem);
        }
        let max = if self.version() < LARGE_SINCE {
            100
        } else {
            4000
        };
        let received = self.receive(body, max * MIB, false).await?;
        let name = received.part.name.clone();
        let before = {
            let mut state = self.shared.state();
            match state.blobs.get_mut(self.blob) {
                Some(blob) => blob
                    .uncommitted
                    .insert(id, received.part)
                    .map(|part| part.name),
                None => Some(name),
            }
        };
        if let Some(before) = before {
            self.delete_part(&before).await;
        }
        self.shared.store.changed();
        let md5 = received.md5.map(|md5| BASE64_STANDARD.encode(md5));
        Ok(created(md5.as_deref(), Some(received.crc64)))
    }

    pub(super) async fn block_list(&self, body: Incoming) -> Result<Reply, BlobError> {
        let checksums = self.checksums();
        let Ok(body) = Limited::new(body, 16 * 1024 * 1024).collect().await else {
            return refused(400, INCOMPLETE, "the body was cut off");
        };
        let (body, checksums) = (body.to_bytes(), checksums?);
        if checksums
            .md5
            .is_some_and(|md5| md5 != <[u8; 16]>::from(Md5::digest(&body)))
        {
            return refused(400, "Md5Mismatch", "The MD5 value does not match the body.");
        }
        let mut crc64 = Crc64::new();
        crc64.write(&body);
        if checksums
            .crc64
            .is_some_and(|checksums| checksums != crc64.sum64().to_le_bytes())
        {
            return refused(
                400,
                "Crc64Mismatch",
                "The CRC64 value does not match the body.",
            );
        }
        let Some(ids) = parse_block_list(&body) else {
            return refused(
                400,
                "InvalidXmlDocument",
                "The block list is not XML of the expected form.",
            );
        };
        if ids.len() > BLOCKS_MAX {
            return refused(400, "BlockListTooLong", "There are too many blocks.");
        }
        let parts = {
            let state = self.shared.state();
            let blob = state.blobs.get(self.blob);
            let committed: HashMap<&str, &Part> = blob
                .and_then(|blob| blob.content.as_ref())
                .map(|content| &content.parts)
                .into_iter()
                .flatten()
                .filter_map(|(id, part)| Some((id.as_deref()?, part)))
                .collect();
            let uncommitted = blob.map(|blob| &blob.uncommitted);
            let found = |kind: &BlockSource, id: &str| {
                let old = || committed.get(id).copied();
                let new = || uncommitted.and_then(|blocks| blocks.get(id));
                match kind {
                    BlockSource::Committed => old(),
                    BlockSource::Uncommitted => new(),
                    BlockSource::Latest => new().or_else(old),
                }
            };
            let parts: Option<Vec<_>> = ids
                .iter()
                .map(|(kind, id)| Some((Some(id.clone()), found(kind, id)?.clone())))
                .collect();
            parts
        };
        let Some(parts) = parts else {
            return refused(400, "InvalidBlockList", "A block of the list is missing.");
        };
        self.replace(parts);
        Ok(created(None, None))
    }

    pub(super) fn list_blocks(&self) -> Result<Reply, BlobError> {
        let state = self.shared.state();
        let blob = state.blobs.get(self.blob);
        let blob = blob.filter(|blob| blob.content.is_some() || !blob.uncommitted.is_empty());
        let Some(blob) = blob else {
            return refused(404, "BlobNotFound", "The blob has no content.");
        };
        let block = |id: &str, part: &Part| {
            format!("<Block><Name>{id}</Name><Size>{}</Size></Block>", part.size)
        };
        let content = blob.content.iter().flat_map(|content| &content.parts);
        let committed: String = content
            .filter_map(|(id, part)| Some(block(id.as_deref()?, part)))
            .collect();
        let blocks = blob.uncommitted.iter();
        let uncommitted: String = blocks.map(|(id, part)| block(id, part)).collect();
        let committed = format!("<CommittedBlocks>{committed}</CommittedBlocks>");
        let uncommitted = format!("<UncommittedBlocks>{uncommitted}</UncommittedBlocks>");
        let lists = match self.query.get("blocklisttype").map(String::as_str) {
            None | Some("committed") => committed,
            Some("uncommitted") => uncommitted,
            Some("all") => committed + &uncommitted,
            Some(_) => {
                return refused(
                    400,
                    "InvalidQueryParameterValue",
                    "blocklisttype is unknown.",
                );
            }
        };
        Ok(reply::with(
            200,
            &[("content-type", "application/xml")],
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{lists}</BlockList>"),
        ))
    }
}

/// Where a block in a block list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockSource {
    Committed,
    Uncommitted,
    Latest,
}

/// The blocks of a block list, in order; None if the XML is not a block list.
fn parse_block_list(xml: &[u8]) -> Option<Vec<(BlockSource, String)>> {
    let text = std::str::from_utf8(xml).ok()?;
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut ids = Vec::new();
    let mut kind = None;
    let (mut depth, mut seen_root) = (0, false);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) if depth == 0 && start.name().as_ref() == "BlockList" => {
                seen_root = true;
                depth = 1;
            }
            Event::Start(start) if depth == 1 => {
                kind = Some(match start.name().as_ref() {
                    "Committed" => BlockSource::Committed,
                    "Uncommitted" => BlockSource::Uncommitted,
                    "Latest" => BlockSource::Latest,
                    _ => return None,
                });
                depth = 2;
            }
            Event::Text(text) if depth == 2 => ids.push((kind?, text.trim().to_owned())),
            Event::Empty(empty) if depth == 0 && empty.name().as_ref() == "BlockList" => {
                seen_root = true;
            }
            Event::End(_) => depth -= 1,
            Event::Start(_) | Event::Empty(_) => return None,
            Event::Eof => return (seen_root && depth == 0).then_some(ids),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_list_is_read_in_its_order_and_nothing_else_is_one() {
        let xml = b"<?xml version=\"1.0\"?><BlockList><Latest>YQ==</Latest><Uncommitted>Yg==</Uncommitted></BlockList>";
        assert_eq!(
            parse_block_list(xml),
            Some(vec![
                (BlockSource::Latest, "YQ==".to_owned()),
                (BlockSource::Uncommitted, "Yg==".to_owned())
            ])
        );
        assert_eq!(parse_block_list(b"<BlockList></BlockList>"), Some(vec![]));
        assert_eq!(parse_block_list(b"<BlockList />"), Some(vec![]));
        assert_eq!(
            parse_block_list(b"<BlockList><Newest>YQ==</Newest></BlockList>"),
            None
        );
        assert_eq!(
            parse_block_list(b"<BlockList><Latest>YQ==</BlockList>"),
            None
        );
        assert_eq!(parse_block_list(b"<BlockList><Latest>YQ=="), None);
        assert_eq!(parse_block_list(b"hello"), None);
    }
}
