//! The blob storage: takes content at signed addresses by Azure's rules, straight to disk.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list, get-block-list

use std::collections::HashMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use quick_xml::events::Event;
use sha2::Sha256;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::form_urlencoded;
use uuid::Uuid;

use super::Shared;
use super::model::Blob;
use super::reply::{self, Reply};
use super::server::{discard, streamed};
use super::storage::sign;

const MIB: u64 = 1024 * 1024;

/// The largest content in one request, by the version that the addresses name.
const BLOB_MAX: u64 = 256 * MIB;

/// The largest block, by the same version.
const BLOCK_MAX: u64 = 100 * MIB;

/// The most blocks in a list.
const BLOCKS_MAX: usize = 50_000;

/// An error of the blob storage: status, code, message.
struct Refused(u16, &'static str, String);

fn refused<T>(status: u16, code: &'static str, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, code, message.into()))
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self(500, "InternalError", error.to_string())
    }
}

/// What arrived of a body.
struct Arrived {
    size: u64,
    md5: [u8; 16],
    sha256: String,
}

/// Answers a request; an error closes the connection, as when the body was cut short.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> io::Result<Reply> {
    let (parts, body) = request.into_parts();
    let query: HashMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let blob = parts
        .uri
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let comp = query.get("comp").map(String::as_str);
    let write = parts.method == Method::PUT;
    if let Err(Refused(status, code, message)) = check(shared, &parts.headers, &query, &blob, write)
    {
        discard(body).await;
        return Ok(reply::xml(status, code, &message));
    }
    let done = match (&parts.method, comp) {
        (&Method::PUT, None) => put_blob(shared, &parts.headers, &blob, body).await,
        (&Method::PUT, Some("block")) => {
            put_block(shared, &parts.headers, &query, &blob, body).await
        }
        (&Method::PUT, Some("blocklist")) => put_block_list(shared, &blob, body).await,
        (&Method::GET, Some("blocklist")) => block_list(shared, &blob).await,
        (&Method::GET, None) => get_blob(shared, &blob).await,
        _ => refused(
            400,
            "InvalidQueryParameterValue",
            "The operation is not known.",
        ),
    };
    match done {
        Ok(reply) => Ok(reply),
        Err(Refused(_, "IncompleteBody", message)) => Err(io::Error::other(message)),
        Err(Refused(status, code, message)) => Ok(reply::xml(status, code, &message)),
    }
}

fn check(
    shared: &Shared,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
    blob: &str,
    write: bool,
) -> Result<(), Refused> {
    if headers.contains_key("authorization") {
        return refused(
            400,
            "InvalidAuthenticationInfo",
            "There is a signature and an Authorization header.",
        );
    }
    let part = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let (expiry, permissions) = (part("se"), part("sp"));
    let key = shared.state().key.clone();
    if sign(&key, blob, expiry, permissions) != part("sig") {
        return refused(403, "AuthenticationFailed", "The signature does not match.");
    }
    if expiry
        .parse::<Timestamp>()
        .is_ok_and(|end| end <= Timestamp::now())
    {
        return refused(403, "AuthenticationFailed", "The signature has expired.");
    }
    if write && !permissions.contains('w') {
        return refused(
            403,
            "AuthorizationPermissionMismatch",
            "The address is not for writing.",
        );
    }
    if write && !headers.contains_key("content-length") {
        return refused(
            411,
            "MissingContentLengthHeader",
            "Content-Length is missing.",
        );
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> u64 {
    headers
        .get("content-length")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// Writes a body to a file of its own; a body that ends early leaves nothing.
async fn receive(
    headers: &HeaderMap,
    body: Incoming,
    max: u64,
    path: &Path,
) -> Result<Arrived, Refused> {
    if length(headers) > max {
        discard(body).await;
        return refused(413, "RequestBodyTooLarge", "The body is too large.");
    }
    let unfinished = path.with_extension(format!("{}.part", Uuid::new_v4().simple()));
    let received = write_down(body, &unfinished).await;
    let arrived = match received {
        Ok(arrived) if arrived.size == length(headers) => arrived,
        Ok(_) | Err(Refused(_, "IncompleteBody", _)) => {
            tokio::fs::remove_file(&unfinished).await?;
            return refused(400, "IncompleteBody", "The body ended early.");
        }
        Err(error) => return Err(error),
    };
    let wanted = headers
        .get("content-md5")
        .map(|value| BASE64_STANDARD.decode(value.as_bytes()));
    let mismatch = match wanted {
        Some(Ok(md5)) if md5.len() == 16 => (md5 != arrived.md5).then_some("Md5Mismatch"),
        Some(_) => Some("InvalidMd5"),
        None => None,
    };
    if let Some(code) = mismatch {
        tokio::fs::remove_file(&unfinished).await?;
        return refused(400, code, "The MD5 value does not match the body.");
    }
    tokio::fs::rename(&unfinished, path).await?;
    Ok(arrived)
}

async fn write_down(body: Incoming, path: &Path) -> Result<Arrived, Refused> {
    let mut file = File::create(path).await?;
    let (mut md5, mut sha256, mut size) = (Md5::new(), Sha256::new(), 0);
    let mut data = body.into_data_stream();
    while let Some(piece) = data.next().await {
        let Ok(piece) = piece else {
            return refused(400, "IncompleteBody", "The body ended early.");
        };
        md5.update(&piece);
        sha256.update(&piece);
        size += piece.len() as u64;
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    Ok(Arrived {
        size,
        md5: md5.finalize().into(),
        sha256: hex(&sha256.finalize()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Content has arrived whole.
fn written(shared: &Shared, blob: &str, size: u64, sha256: String) {
    let mut state = shared.state();
    let file = state
        .files
        .values_mut()
        .find(|file| file.pending_blob.as_deref() == Some(blob));
    let file_id = file.map(|file| {
        file.blob_writes += 1;
        file.id.clone()
    });
    // Of a file whose address was renewed meanwhile nothing is kept.
    if let Some(file_id) = file_id {
        state.blobs.insert(
            blob.to_owned(),
            Blob {
                file_id,
                size,
                sha256,
            },
        );
    }
    drop(state);
    shared.store.changed();
}

fn created(md5: Option<[u8; 16]>) -> Reply {
    let etag = format!("\"0x{}\"", Uuid::new_v4().simple());
    let mut headers = vec![("etag", etag), ("x-ms-version", "2019-07-07".to_owned())];
    if let Some(md5) = md5 {
        headers.push(("content-md5", BASE64_STANDARD.encode(md5)));
    }
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    reply::with(201, &headers, "")
}

async fn put_blob(
    shared: &Shared,
    headers: &HeaderMap,
    blob: &str,
    body: Incoming,
) -> Result<Reply, Refused> {
    let kind = headers
        .get("x-ms-blob-type")
        .and_then(|value| value.to_str().ok());
    if kind != Some("BlockBlob") {
        discard(body).await;
        return refused(400, "MissingRequiredHeader", "x-ms-blob-type is missing.");
    }
    let arrived = receive(headers, body, BLOB_MAX, &shared.store.blob(blob)).await?;
    written(shared, blob, arrived.size, arrived.sha256);
    Ok(created(Some(arrived.md5)))
}

/// The folder of the blocks of a blob; each is named by its id, in letters that a file name may have.
fn blocks(shared: &Shared, blob: &str) -> std::path::PathBuf {
    shared.store.blob(&format!("{blob}.blocks"))
}

async fn put_block(
    shared: &Shared,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
    blob: &str,
    body: Incoming,
) -> Result<Reply, Refused> {
    let id = query.get("blockid").map(|id| BASE64_STANDARD.decode(id));
    let id = match id {
        Some(Ok(id)) if (1..=64).contains(&id.len()) => BASE64_URL_SAFE_NO_PAD.encode(id),
        _ => {
            discard(body).await;
            return refused(
                400,
                "InvalidQueryParameterValue",
                "The block id is no base64 of 1 to 64 bytes.",
            );
        }
    };
    let folder = blocks(shared, blob);
    tokio::fs::create_dir_all(&folder).await?;
    let mut others = tokio::fs::read_dir(&folder).await?;
    while let Some(other) = others.next_entry().await? {
        let name = other.file_name();
        let finished = Path::new(&name)
            .extension()
            .is_none_or(|extension| extension != "part");
        if finished && name.len() != id.len() {
            discard(body).await;
            return refused(
                400,
                "InvalidBlobOrBlock",
                "The block id is not as long as those of the other blocks.",
            );
        }
        if finished {
            break;
        }
    }
    let arrived = receive(headers, body, BLOCK_MAX, &folder.join(id)).await?;
    Ok(created(Some(arrived.md5)))
}

async fn put_block_list(shared: &Shared, blob: &str, body: Incoming) -> Result<Reply, Refused> {
    let Ok(body) = http_body_util::Limited::new(body, 16 * 1024 * 1024)
        .collect()
        .await
    else {
        return refused(400, "IncompleteBody", "The body ended early.");
    };
    let Some(ids) = listed(&body.to_bytes()) else {
        return refused(
            400,
            "InvalidXmlDocument",
            "The block list is no XML of the expected form.",
        );
    };
    if ids.len() > BLOCKS_MAX {
        return refused(400, "BlockListTooLong", "There are too many blocks.");
    }
    let folder = blocks(shared, blob);
    let path = shared.store.blob(blob);
    let committed = !tokio::fs::try_exists(&folder).await? && tokio::fs::try_exists(&path).await?;
    if committed {
        // The same list once more, after an answer that was lost.
        return Ok(created(None));
    }
    let unfinished = path.with_extension(format!("{}.part", Uuid::new_v4().simple()));
    let mut whole = File::create(&unfinished).await?;
    let (mut sha256, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 * 1024];
    for id in ids {
        let name = BASE64_STANDARD
            .decode(&id)
            .map(|id| BASE64_URL_SAFE_NO_PAD.encode(id))
            .unwrap_or_default();
        let Ok(mut block) = File::open(folder.join(&name)).await else {
            tokio::fs::remove_file(&unfinished).await?;
            return refused(400, "InvalidBlockList", "A block of the list is missing.");
        };
        loop {
            let read = block.read(&mut piece).await?;
            let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else {
                break;
            };
            sha256.update(read);
            size += read.len() as u64;
            whole.write_all(read).await?;
        }
    }
    whole.flush().await?;
    tokio::fs::rename(&unfinished, &path).await?;
    tokio::fs::remove_dir_all(&folder).await?;
    written(shared, blob, size, hex(&sha256.finalize()));
    Ok(created(None))
}

/// The ids of a block list, in its order.
fn listed(xml: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(xml).ok()?;
    let mut reader = quick_xml::Reader::from_str(text);
    let mut ids = Vec::new();
    let mut depth = 0;
    let mut seen_root = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) if depth == 0 && start.name().as_ref() == "BlockList" => {
                seen_root = true;
                depth = 1;
            }
            Event::Start(start)
                if depth == 1
                    && matches!(
                        start.name().as_ref(),
                        "Latest" | "Committed" | "Uncommitted"
                    ) =>
            {
                depth = 2;
            }
            Event::Text(text) if depth == 2 => ids.push(text.trim().to_owned()),
            Event::End(_) => depth -= 1,
            Event::Start(_) | Event::Empty(_) => return None,
            Event::Eof => return seen_root.then_some(ids),
            _ => {}
        }
    }
}

async fn block_list(shared: &Shared, blob: &str) -> Result<Reply, Refused> {
    let Ok(mut entries) = tokio::fs::read_dir(blocks(shared, blob)).await else {
        return refused(404, "BlobNotFound", "Nothing was put to this blob.");
    };
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks/><UncommittedBlocks>",
    );
    while let Some(entry) = entries.next_entry().await? {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| BASE64_URL_SAFE_NO_PAD.decode(name).ok());
        if let Some(id) = id {
            let size = entry.metadata().await?.len();
            xml.push_str(&format!(
                "<Block><Name>{}</Name><Size>{size}</Size></Block>",
                BASE64_STANDARD.encode(id)
            ));
        }
    }
    xml.push_str("</UncommittedBlocks></BlockList>");
    Ok(reply::with(
        200,
        &[("content-type", "application/xml")],
        xml,
    ))
}

async fn get_blob(shared: &Shared, blob: &str) -> Result<Reply, Refused> {
    let Ok(file) = File::open(shared.store.blob(blob)).await else {
        return refused(404, "BlobNotFound", "There is no such blob.");
    };
    let size = file.metadata().await?.len();
    let pieces = tokio_util::io::ReaderStream::new(file).map(|piece| piece.map(Frame::data));
    let headers = [
        ("content-length", size.to_string()),
        ("content-type", "application/octet-stream".to_owned()),
    ];
    Ok(streamed(
        http_body_util::BodyExt::boxed(StreamBody::new(pieces)),
        &headers,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_list_is_read_in_its_order_and_nothing_else_is_one() {
        let xml = b"<?xml version=\"1.0\"?><BlockList><Latest>YQ==</Latest><Uncommitted>Yg==</Uncommitted></BlockList>";
        assert_eq!(
            listed(xml),
            Some(vec!["YQ==".to_owned(), "Yg==".to_owned()])
        );
        assert_eq!(listed(b"<BlockList></BlockList>"), Some(vec![]));
        assert_eq!(
            listed(b"<BlockList><Newest>YQ==</Newest></BlockList>"),
            None
        );
        assert_eq!(listed(b"<BlockList><Latest>YQ==</BlockList>"), None);
        assert_eq!(listed(b"hello"), None);
    }
}
