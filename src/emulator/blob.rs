//! The blob storage: takes content at signed addresses by Azure's rules, straight to disk.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list, get-block-list

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc64fast_nvme::Digest as Crc64;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use quick_xml::events::Event;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use url::form_urlencoded;
use uuid::Uuid;

use super::Shared;
use super::faults::{AppliedFault, Effect};
use super::model::{Content, Part};
use super::reply::{self, Reply};
use super::sas::{self, Grant, sign};
use super::server::discard;

const MIB: u64 = 1024 * 1024;

/// The protocol version from which the larger limits hold.
const LARGE_SINCE: &str = "2019-12-12";

/// Pieces of a body that may wait to be written.
const PIECES_WAITING: usize = 4;

/// The most blocks in a list.
const BLOCKS_MAX: usize = 50_000;

/// The most blocks that wait to be listed.
const WAITING_MAX: usize = 100_000;

/// An error of the blob storage: status, code, message.
struct Refused(u16, &'static str, String);

fn refused<T>(status: u16, code: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, code, message.into()))
}

/// The code of a body that ended early; the connection is closed then.
const INCOMPLETE: &str = "IncompleteBody";

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self(500, "InternalError", error.to_string())
    }
}

/// A request, taken apart.
struct Put<'a> {
    shared: &'a Shared,
    headers: &'a HeaderMap,
    query: &'a HashMap<String, String>,
    /// The name in the address.
    blob: &'a str,
    applied: &'a AppliedFault,
}

/// Checks on a body.
#[derive(Default)]
struct Wanted {
    md5: Option<[u8; 16]>,
    crc64: Option<[u8; 8]>,
}

/// What arrived of a body.
struct Arrived {
    part: Part,
    md5: Option<[u8; 16]>,
    crc64: [u8; 8],
}

/// Answers a request; an error closes the connection, as when the body was cut short.
pub(super) async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    applied: &AppliedFault,
) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let query: HashMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let blob = parts.uri.path().strip_prefix("/emulated/");
    let put = Put {
        shared,
        headers: &parts.headers,
        query: &query,
        blob: blob.unwrap_or_default(),
        applied,
    };
    if let Err(Refused(status, code, message)) = put.check(&parts.method) {
        discard(body).await;
        return Ok(reply::xml(status, code, &message));
    }
    let comp = query.get("comp").map(String::as_str);
    let done = match (&parts.method, comp) {
        (&Method::PUT, None) => put.blob(body).await,
        (&Method::PUT, Some("block")) => put.block(body).await,
        (&Method::PUT, Some("blocklist")) => put.block_list(body).await,
        (&Method::GET, Some("blocklist")) => put.list_blocks(),
        (&Method::GET | &Method::HEAD, None) => put.content(parts.method == Method::HEAD).await,
        _ => {
            discard(body).await;
            refused(
                400,
                "InvalidQueryParameterValue",
                "The operation is not known.",
            )
        }
    };
    match done {
        Ok(mut reply) => {
            if let Ok(version) = put.version().parse() {
                reply.headers_mut().insert("x-ms-version", version);
            }
            Ok(reply)
        }
        Err(Refused(_, INCOMPLETE, message)) => Err(io::Error::other(message)),
        Err(Refused(status, code, message)) => Ok(reply::xml(status, code, &message)),
    }
}

impl Put<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn part(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The protocol version in force: the request's own, else that of the address.
    fn version(&self) -> &str {
        self.header("x-ms-version").unwrap_or(self.part("sv"))
    }

    fn check(&self, method: &Method) -> Result<(), Refused> {
        if self.headers.contains_key("authorization") {
            return refused(
                400,
                "InvalidAuthenticationInfo",
                "There is a signature and an Authorization header.",
            );
        }
        let (expiry, permissions) = (self.part("se"), self.part("sp"));
        let key = self.shared.state().key.clone();
        let grant = Grant {
            blob: self.blob,
            permissions,
            disposition: self.part("rscd"),
        };
        if self.blob.is_empty()
            || sign(&key, grant, expiry) != self.part("sig")
            || self.part("sv") != sas::VERSION
        {
            return refused(403, "AuthenticationFailed", "The signature does not match.");
        }
        if expiry
            .parse::<Timestamp>()
            .is_ok_and(|end| end <= Timestamp::now())
        {
            return refused(403, "AuthenticationFailed", "The signature has expired.");
        }
        let needed = if *method == Method::PUT { 'w' } else { 'r' };
        if !permissions.contains(needed) {
            return refused(
                403,
                "AuthorizationPermissionMismatch",
                "The address does not permit this.",
            );
        }
        if *method == Method::PUT && self.length().is_none() {
            return refused(
                411,
                "MissingContentLengthHeader",
                "Content-Length is missing.",
            );
        }
        Ok(())
    }

    fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The checks that the headers ask for.
    fn wanted(&self) -> Result<Wanted, Refused> {
        let decoded = |name: &str| self.header(name).map(|text| BASE64_STANDARD.decode(text));
        let (md5, crc64) = (decoded("content-md5"), decoded("x-ms-content-crc64"));
        if md5.is_some() && crc64.is_some() {
            return refused(
                400,
                "BothCrc64AndMd5HeaderPresent",
                "Only one of the two checksums may be sent.",
            );
        }
        let mut wanted = Wanted::default();
        if let Some(md5) = md5 {
            match md5.ok().and_then(|md5| md5.try_into().ok()) {
                Some(md5) => wanted.md5 = Some(md5),
                None => return refused(400, "InvalidMd5", "The header is not an MD5 value."),
            }
        }
        if let Some(crc64) = crc64 {
            match crc64.ok().and_then(|crc64| crc64.try_into().ok()) {
                Some(crc64) => wanted.crc64 = Some(crc64),
                None => {
                    return refused(
                        400,
                        "InvalidHeaderValue",
                        "The header is not a CRC64 value.",
                    );
                }
            }
        }
        Ok(wanted)
    }

    /// Writes a body to a file of its own; a body that ends early or is not what was announced leaves nothing.
    async fn receive(&self, body: Incoming, max: u64, with_md5: bool) -> Result<Arrived, Refused> {
        let length = self.length().unwrap_or(0);
        let wanted = match self.wanted() {
            Ok(wanted) if length <= max => wanted,
            // Nobody waits for all of that.
            Ok(_) => return refused(413, "RequestBodyTooLarge", "The body is too large."),
            Err(refused) => {
                discard(body).await;
                return Err(refused);
            }
        };
        let name = Uuid::new_v4().simple().to_string();
        let received = self
            .write_down(body, &name, with_md5 || wanted.md5.is_some())
            .await;
        let mismatch = match received {
            Ok(arrived) if arrived.part.size != length => {
                Refused(400, INCOMPLETE, "the body ended early".to_owned())
            }
            Ok(arrived) if wanted.md5.is_some() && wanted.md5 != arrived.md5 => Refused(
                400,
                "Md5Mismatch",
                "The MD5 value does not match the body.".to_owned(),
            ),
            Ok(arrived) if wanted.crc64.is_some_and(|crc64| crc64 != arrived.crc64) => Refused(
                400,
                "Crc64Mismatch",
                "The CRC64 value does not match the body.".to_owned(),
            ),
            Ok(arrived) => return Ok(arrived),
            Err(refused) => refused,
        };
        self.throw_away(&name).await;
        Err(mismatch)
    }

    async fn throw_away(&self, part: &str) {
        // It may not be there at all.
        drop(tokio::fs::remove_file(self.shared.store.part(part)).await);
    }

    /// Takes the body from the network while a thread checks and writes what has come.
    async fn write_down(
        &self,
        body: Incoming,
        name: &str,
        with_md5: bool,
    ) -> Result<Arrived, Refused> {
        let (pieces, waiting) = mpsc::channel(PIECES_WAITING);
        let path = self.shared.store.part(name);
        let writer = tokio::task::spawn_blocking(move || write(&path, waiting, with_md5));
        let cut_after = match self.applied.effect {
            Some(Effect::CutBody { after }) => after,
            _ => u64::MAX,
        };
        let mut size = 0;
        let mut data = body.into_data_stream();
        let mut ended_early = None;
        while let Some(piece) = data.next().await {
            let Ok(piece) = piece else {
                ended_early = Some("the body ended early");
                break;
            };
            let length = piece.len();
            size += length as u64;
            if size > cut_after {
                ended_early = Some("cut on demand");
                break;
            }
            // A writer that is gone tells why below.
            if pieces.send(piece).await.is_err() {
                break;
            }
            if let Some(bytes_per_second) = self.applied.bytes_per_second {
                tokio::time::sleep(reply::pause(length, bytes_per_second)).await;
            }
        }
        drop(pieces);
        let (md5, crc64) = writer.await.map_err(io::Error::other)??;
        match ended_early {
            Some(why) => refused(400, INCOMPLETE, why),
            None => Ok(Arrived {
                part: Part {
                    name: name.to_owned(),
                    size,
                },
                md5,
                crc64,
            }),
        }
    }

    /// Puts new content in the place of what was there; false if nobody waits for it any more.
    fn replace(&self, parts: Vec<(Option<String>, Part)>) -> bool {
        let mut state = self.shared.state();
        let state = &mut *state;
        let Some(blob) = state.blobs.get_mut(self.blob) else {
            return false;
        };
        let content = Content {
            id: Uuid::new_v4().simple().to_string(),
            size: parts.iter().map(|(_, part)| part.size).sum(),
            parts,
        };
        let unlisted = std::mem::take(&mut blob.uncommitted);
        let (id, size) = (content.id.clone(), content.size);
        state.retired.extend(blob.content.replace(content));
        blob.is_new = true;
        if !unlisted.is_empty() {
            state.retired.push(Content {
                id: Uuid::new_v4().simple().to_string(),
                size: 0,
                parts: unlisted
                    .into_iter()
                    .map(|(id, part)| (Some(id), part))
                    .collect(),
            });
        }
        if let Some(file) = state.files.get_mut(&blob.file_id) {
            file.blob_writes += 1;
            // Where new content goes to the blob of the old one, nothing else is left to show.
            if file.blob.as_deref() == Some(self.blob)
                && let Some(completed) = &mut file.completed
            {
                completed.size = size;
                completed.sha256.clear();
                completed.version += 1;
                completed.content = Some(id);
            }
        }
        self.shared.store.changed();
        true
    }

    async fn blob(&self, body: Incoming) -> Result<Reply, Refused> {
        match self.header("x-ms-blob-type") {
            Some("BlockBlob") => {}
            Some(_) => {
                discard(body).await;
                return refused(400, "InvalidHeaderValue", "Only block blobs are taken.");
            }
            None => {
                discard(body).await;
                return refused(400, "MissingRequiredHeader", "x-ms-blob-type is missing.");
            }
        }
        let max = if self.version() < LARGE_SINCE {
            256
        } else {
            5000
        };
        let whole = self.header("x-ms-blob-content-md5").map(str::to_owned);
        let arrived = self.receive(body, max * MIB, true).await?;
        let md5 = arrived.md5.map(|md5| BASE64_STANDARD.encode(md5));
        if whole.is_some() && whole != md5 {
            self.throw_away(&arrived.part.name).await;
            return refused(400, "Md5Mismatch", "The MD5 value does not match the body.");
        }
        let name = arrived.part.name.clone();
        if !self.replace(vec![(None, arrived.part)]) {
            self.throw_away(&name).await;
        }
        Ok(created(md5.as_deref(), Some(arrived.crc64)))
    }

    async fn block(&self, body: Incoming) -> Result<Reply, Refused> {
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
        let trouble = match waiting {
            Some((_, Some(other))) if other != length => Some(Refused(
                400,
                "InvalidBlobOrBlock",
                "The block id is not as long as those of the other blocks.".to_owned(),
            )),
            Some((count, _)) if count >= WAITING_MAX => Some(Refused(
                409,
                "BlockCountExceedsLimit",
                "There are too many blocks.".to_owned(),
            )),
            _ => None,
        };
        if let Some(trouble) = trouble {
            discard(body).await;
            return Err(trouble);
        }
        let max = if self.version() < LARGE_SINCE {
            100
        } else {
            4000
        };
        let arrived = self.receive(body, max * MIB, false).await?;
        let name = arrived.part.name.clone();
        let before = {
            let mut state = self.shared.state();
            match state.blobs.get_mut(self.blob) {
                Some(blob) => blob
                    .uncommitted
                    .insert(id, arrived.part)
                    .map(|part| part.name),
                None => Some(name),
            }
        };
        if let Some(before) = before {
            self.throw_away(&before).await;
        }
        self.shared.store.changed();
        let md5 = arrived.md5.map(|md5| BASE64_STANDARD.encode(md5));
        Ok(created(md5.as_deref(), Some(arrived.crc64)))
    }

    async fn block_list(&self, body: Incoming) -> Result<Reply, Refused> {
        let wanted = self.wanted();
        let Ok(body) = Limited::new(body, 16 * 1024 * 1024).collect().await else {
            return refused(400, INCOMPLETE, "the body ended early");
        };
        let (body, wanted) = (body.to_bytes(), wanted?);
        if wanted
            .md5
            .is_some_and(|md5| md5 != <[u8; 16]>::from(Md5::digest(&body)))
        {
            return refused(400, "Md5Mismatch", "The MD5 value does not match the body.");
        }
        let mut crc64 = Crc64::new();
        crc64.write(&body);
        if wanted
            .crc64
            .is_some_and(|wanted| wanted != crc64.sum64().to_le_bytes())
        {
            return refused(
                400,
                "Crc64Mismatch",
                "The CRC64 value does not match the body.",
            );
        }
        let Some(ids) = listed(&body) else {
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
            let found = |kind: &Kind, id: &str| {
                let old = || committed.get(id).copied();
                let new = || uncommitted.and_then(|blocks| blocks.get(id));
                match kind {
                    Kind::Committed => old(),
                    Kind::Uncommitted => new(),
                    Kind::Latest => new().or_else(old),
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

    fn list_blocks(&self) -> Result<Reply, Refused> {
        let state = self.shared.state();
        let blob = state.blobs.get(self.blob);
        let blob = blob.filter(|blob| blob.content.is_some() || !blob.uncommitted.is_empty());
        let Some(blob) = blob else {
            return refused(404, "BlobNotFound", "Nothing was put to this blob.");
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

    /// The content, or the part of it that a range asks for.
    async fn content(&self, head: bool) -> Result<Reply, Refused> {
        let content = {
            let state = self.shared.state();
            let blob = state.blobs.get(self.blob);
            blob.and_then(|blob| blob.content.clone())
        };
        let Some(content) = content else {
            return refused(404, "BlobNotFound", "There is no such blob.");
        };
        let range = self.header("x-ms-range").or(self.header("range"));
        let (from, to) = match range.and_then(|range| span(range, content.size)) {
            Some(span) => span,
            None if range.is_some() => {
                return refused(416, "InvalidRange", "There is no such range.");
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
        let mut pieces = Vec::new();
        let mut start = 0;
        for (_, part) in content.parts {
            let end = start + part.size;
            if start < to && end > from {
                let mut file = File::open(self.shared.store.part(&part.name)).await?;
                let skipped = from.saturating_sub(start);
                file.seek(io::SeekFrom::Start(skipped)).await?;
                pieces.push(file.take(to.min(end) - start - skipped));
            }
            start = end;
        }
        let body = futures_util::stream::iter(pieces)
            .flat_map(tokio_util::io::ReaderStream::new)
            .map(|piece| piece.map(Frame::data));
        let status = if range.is_some() { 206 } else { 200 };
        Ok(reply::streamed(
            status,
            &headers,
            StreamBody::new(body).boxed_unsync(),
        ))
    }
}

/// Writes pieces to a file and returns their MD5, if that is wanted, and their CRC64.
fn write(
    path: &Path,
    mut pieces: mpsc::Receiver<Bytes>,
    with_md5: bool,
) -> io::Result<(Option<[u8; 16]>, [u8; 8])> {
    let mut file = std::fs::File::create(path)?;
    let (mut md5, mut crc64) = (with_md5.then(Md5::new), Crc64::new());
    while let Some(piece) = pieces.blocking_recv() {
        if let Some(md5) = &mut md5 {
            md5.update(&piece);
        }
        crc64.write(&piece);
        file.write_all(&piece)?;
    }
    let md5 = md5.map(|md5| md5.finalize().into());
    Ok((md5, crc64.sum64().to_le_bytes()))
}

fn created(md5: Option<&str>, crc64: Option<[u8; 8]>) -> Reply {
    let etag = format!("\"0x{}\"", Uuid::new_v4().simple());
    let crc64 = crc64.map(|crc64| BASE64_STANDARD.encode(crc64));
    let mut headers = vec![("etag", etag.as_str())];
    headers.extend(md5.map(|md5| ("content-md5", md5)));
    headers.extend(crc64.as_deref().map(|crc64| ("x-ms-content-crc64", crc64)));
    reply::with(201, &headers, "")
}

/// Begin and end of a range in content of this size.
fn span(range: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let to = if to.is_empty() {
        size
    } else {
        to.parse::<u64>().ok()?.checked_add(1)?.min(size)
    };
    (from < to).then_some((from, to))
}

/// Where a listed block is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Committed,
    Uncommitted,
    Latest,
}

/// The blocks of a block list, in its order.
fn listed(xml: &[u8]) -> Option<Vec<(Kind, String)>> {
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
                    "Committed" => Kind::Committed,
                    "Uncommitted" => Kind::Uncommitted,
                    "Latest" => Kind::Latest,
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
            listed(xml),
            Some(vec![
                (Kind::Latest, "YQ==".to_owned()),
                (Kind::Uncommitted, "Yg==".to_owned())
            ])
        );
        assert_eq!(listed(b"<BlockList></BlockList>"), Some(vec![]));
        assert_eq!(listed(b"<BlockList />"), Some(vec![]));
        assert_eq!(
            listed(b"<BlockList><Newest>YQ==</Newest></BlockList>"),
            None
        );
        assert_eq!(listed(b"<BlockList><Latest>YQ==</BlockList>"), None);
        assert_eq!(listed(b"<BlockList><Latest>YQ=="), None);
        assert_eq!(listed(b"hello"), None);
    }

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
            assert_eq!(span(range, 10), expected, "{range}");
        }
    }
}
