//! Reading content, or a range of it.

use std::io;

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::request::{BlobError, BlobRequest, refused};
use crate::emulator::reply::{self, Reply};

impl BlobRequest<'_> {
    /// The content, or the requested range of it.
    pub(super) async fn content(&self, head: bool) -> Result<Reply, BlobError> {
        let content = {
            let state = self.shared.state();
            let blob = state.blobs.get(self.blob);
            blob.and_then(|blob| blob.content.clone())
        };
        let Some(content) = content else {
            return refused(404, "BlobNotFound", "The blob does not exist.");
        };
        let range = self.header("x-ms-range").or(self.header("range"));
        let (from, to) = match range.and_then(|range| byte_range(range, content.size)) {
            Some(byte_range) => byte_range,
            None if range.is_some() => {
                return refused(416, "InvalidRange", "The range cannot be satisfied.");
            }
            None => (0, content.size),
        };
        let tag = format!("\"0x{}\"", content.id);
        let length = (to - from).to_string();
        let bounds = format!("bytes {from}-{}/{}", to.saturating_sub(1), content.size);
        let mut headers = vec![
            ("content-length", length.as_str()),
            ("content-type", "application/octet-stream"),
            ("accept-ranges", "bytes"),
            ("x-ms-blob-type", "BlockBlob"),
            ("etag", &tag),
        ];
        if range.is_some() {
            headers.push(("content-range", &bounds));
        }
        if !self.part("rscd").is_empty() {
            headers.push(("content-disposition", self.part("rscd")));
        }
        if head {
            return Ok(reply::with(200, &headers, ""));
        }
        let mut chunks = Vec::new();
        let mut start = 0;
        for (_, part) in content.parts {
            let end = start + part.size;
            if start < to && end > from {
                let mut file = File::open(self.shared.store.part(&part.name)).await?;
                let skipped = from.saturating_sub(start);
                file.seek(io::SeekFrom::Start(skipped)).await?;
                chunks.push(file.take(to.min(end) - start - skipped));
            }
            start = end;
        }
        let body = futures_util::stream::iter(chunks)
            .flat_map(tokio_util::io::ReaderStream::new)
            .map(|chunk| chunk.map(Frame::data));
        let status = if range.is_some() { 206 } else { 200 };
        Ok(reply::streamed(
            status,
            &headers,
            StreamBody::new(body).boxed_unsync(),
        ))
    }
}

/// Start and end of a range in content of this size.
fn byte_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let to = if to.is_empty() {
        size
    } else {
        to.parse::<u64>().ok()?.checked_add(1)?.min(size)
    };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_within_the_content() {
        for (range, expected) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=5-", Some((5, 10))),
            ("bytes=5-50", Some((5, 10))),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(byte_range(range, 10), expected, "{range}");
        }
    }
}
