//! Bytes to the addresses that storage hands out. Such an address is a secret, and never sees the platform's token.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list, get-block-list

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, header};
use tokio::time::Instant;
use url::{Host, Url};

use super::Client;
use super::answer::{self, Body as Read, Limit, Reply};
use super::error::{Answer, Error, From, Kind};
use super::http::{self, Door, Gates, Http};
use super::network::Route;
use super::said::words;
use crate::bandwidth::Pace;
use crate::retry;
use crate::secret::Secret;

/// After its last byte a body is answered within this time.
const ANSWER: Duration = Duration::from_secs(120);

/// The first version of the protocol that checks a CRC64.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const CRC64_SINCE: &str = "2019-02-02";

/// What a block id may keep in a query; base64 has `+`, `/` and `=`, which it may not.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// An address to upload to. Whoever has it may write: it shows only its host.
#[derive(Clone)]
pub struct UploadUrl {
    url: Url,
    /// What is secret about it; held so that it is known as long as the address is in use.
    _signature: Secret,
}

/// How fast content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// Within the configured limit.
    Limited,
    /// As fast as the network takes it, because it would arrive never otherwise.
    Full,
}

/// What storage checks the bytes of a request against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME: costs next to nothing. Only if [`UploadUrl::takes_crc64`].
    Crc64(u64),
    /// MD5.
    Md5([u8; 16]),
}

impl Checksum {
    fn header(self) -> (&'static str, String) {
        match self {
            Self::Crc64(crc64) => (
                "x-ms-content-crc64",
                BASE64_STANDARD.encode(crc64.to_le_bytes()),
            ),
            Self::Md5(md5) => ("content-md5", BASE64_STANDARD.encode(md5)),
        }
    }
}

impl UploadUrl {
    /// None when it is no address, or would send the content without TLS to another machine.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let here = match url.host()? {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return None;
        }
        let signature = url
            .query_pairs()
            .find(|(name, _)| name.eq_ignore_ascii_case("sig"))
            .map(|(_, signature)| signature.into_owned());
        let signature = signature.unwrap_or_else(|| url.query().unwrap_or_default().to_owned());
        Some(Self {
            _signature: Secret::new(signature),
            url,
        })
    }

    /// Whether content is as safe on its way there as on the way to `base`: one without TLS is for a platform on this machine only.
    pub(super) fn is_as_safe_as(&self, base: &Url) -> bool {
        self.url.scheme() == "https" || base.scheme() == "http"
    }

    /// When it ends, by the platform's clock, if it says so.
    ///
    /// Source: learn.microsoft.com/rest/api/storageservices/create-service-sas (field `se`)
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        let (_, end) = self.url.query_pairs().find(|(name, _)| name == "se")?;
        end.parse().ok()
    }

    /// The whole address, which is a secret.
    pub(crate) fn expose(&self) -> &str {
        self.url.as_str()
    }

    /// Whether both lead to the same blob, however they are signed: then the blocks that one took are there for the other.
    #[must_use]
    pub fn is_same_blob(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin() && self.url.path() == other.url.path()
    }

    /// Whether the version of the protocol that the address is signed for checks a CRC64.
    #[must_use]
    pub fn takes_crc64(&self) -> bool {
        self.url
            .query_pairs()
            .any(|(name, version)| name == "sv" && *version >= *CRC64_SINCE)
    }

    /// The address with more in its query; what is there already is signed and stays as it is.
    fn with(&self, more: &str) -> Url {
        let mut url = self.url.clone();
        let query = url
            .query()
            .map_or_else(|| more.to_owned(), |query| format!("{query}&{more}"));
        url.set_query(Some(&query));
        url
    }
}

impl fmt::Debug for UploadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadUrl({}/…)", http::authority(&self.url))
    }
}

#[derive(Debug)]
pub(super) struct Blobs {
    http: Http,
    gates: Arc<Gates>,
    /// A body of which no byte moves for this long is given up.
    idle: Duration,
    pub(super) pace: Arc<Pace>,
}

impl Blobs {
    pub(super) fn new(route: &Route, gates: Arc<Gates>, pace: Pace) -> Result<Self, Error> {
        // One socket per body: many bodies over one HTTP/2 connection would share its window.
        let http = Http::new(|| Ok(route.builder()?.http1_only()))?;
        let idle = route.network.idle_timeout;
        Ok(Self {
            http,
            gates,
            idle,
            pace: Arc::new(pace),
        })
    }

    async fn put(
        &self,
        operation: &'static str,
        url: Url,
        headers: &[(&'static str, String)],
        body: Bytes,
        speed: Speed,
    ) -> Result<(), Error> {
        let len = body.len() as u64;
        let moved = Moved::new(len, self.idle);
        let seen = moved.clone();
        let body = pieces(body, Arc::clone(&self.pace), speed)
            .inspect(move |piece| seen.note(piece.as_ref().map_or(0, Bytes::len)));
        let host = self.gates.of(&url);
        let mut request = self
            .http
            .to(&host)
            .put(url)
            .header(header::CONTENT_LENGTH, len);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::wrap_stream(body));
        let sent = http::exchange(operation, &host, request, Limit::Answer);
        let reply = tokio::select! {
            reply = sent => reply?,
            () = moved.stalled() => {
                let host = host.host.clone();
                return Err(Error::new(operation, Kind::Unreachable { host, cause: "no byte moved for too long".to_owned(), sent: true }));
            }
        };
        if is_of_storage(&reply) && reply.status.is_success() {
            Ok(())
        } else {
            Err(refusal(operation, &host, &reply))
        }
    }
}

impl Client {
    /// Reads the content of a file, in pieces.
    ///
    /// # Errors
    /// The file has no content, may not be read, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/download-file/
    pub async fn download(
        &self,
        file_id: &str,
        mut each: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Error> {
        const OPERATION: &str = "download";
        let url = self.content_address(file_id).await?;
        let unreachable = |cause: String| {
            let host = self.blobs.gates.of(&url.url).host.clone();
            Error::new(
                OPERATION,
                Kind::Unreachable {
                    host,
                    cause,
                    sent: true,
                },
            )
        };
        let failed = |error: &reqwest::Error| unreachable(http::innermost(error));
        let host = self.blobs.gates.of(&url.url);
        let request = self.blobs.http.to(&host).get(url.url.clone()).send();
        let stalled = || unreachable("no byte moved for too long".to_owned());
        let answer = tokio::time::timeout(ANSWER, request)
            .await
            .map_err(|_| stalled())?;
        host.count(answer.as_ref().ok().map(reqwest::Response::status));
        let answer = answer.map_err(|error| failed(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let reply = |body| Reply::new(OPERATION, host.host.clone(), status, headers, body);
        if !status.is_success() {
            let read = tokio::time::timeout(ANSWER, answer::read(answer, Limit::Answer)).await;
            let body = read.ok().and_then(Result::ok).map(|(body, _)| body);
            let reply = reply(body.unwrap_or(Read::Small(Vec::new())));
            return Err(refusal(OPERATION, &host, &reply));
        }
        let reply = reply(Read::Small(Vec::new()));
        if !is_of_storage(&reply) {
            return Err(reply.foreign(None));
        }
        let mut pieces = answer.bytes_stream();
        loop {
            let next = tokio::time::timeout(self.blobs.idle, pieces.next()).await;
            match next.map_err(|_| stalled())? {
                Some(piece) => each(&piece.map_err(|error| failed(&error))?),
                None => return Ok(()),
            }
        }
    }

    /// Sends the whole content in one request; replaces what was sent before.
    ///
    /// # Errors
    /// The address is not good any more, the bytes arrived spoiled, or the host is not reachable.
    pub async fn put_blob(
        &self,
        url: &UploadUrl,
        content: Bytes,
        checksum: Checksum,
        speed: Speed,
    ) -> Result<(), Error> {
        let headers = [
            ("x-ms-blob-type", "BlockBlob".to_owned()),
            ("content-type", OCTETS.to_owned()),
            checksum.header(),
        ];
        self.send("upload", &url.url, &headers, content, speed)
            .await
    }

    /// Sends one block; sent again under the same id it replaces itself.
    ///
    /// # Errors
    /// As for [`Client::put_blob`].
    pub async fn put_block(
        &self,
        url: &UploadUrl,
        id: &str,
        block: Bytes,
        checksum: Checksum,
        speed: Speed,
    ) -> Result<(), Error> {
        let url = url.with(&format!(
            "comp=block&blockid={}",
            utf8_percent_encode(id, IN_QUERY)
        ));
        self.send("upload block", &url, &[checksum.header()], block, speed)
            .await
    }

    /// The ids, among those that begin with `prefix`, of the blocks that storage has of a blob, in the list that makes them its content or not.
    ///
    /// # Errors
    /// As for [`Client::put_blob`]; or the address does not allow to read.
    pub async fn blocks(&self, url: &UploadUrl, prefix: &str) -> Result<HashSet<String>, Error> {
        const OPERATION: &str = "list blocks";
        let url = url.with("comp=blocklist&blocklisttype=all");
        let host = self.blobs.gates.of(&url);
        let request = self.blobs.http.to(&host).get(url).timeout(ANSWER);
        let reply = http::exchange(OPERATION, &host, request, Limit::List).await?;
        match reply.status.as_u16() {
            200 if is_of_storage(&reply) => Ok(elements(&reply.text(), "Name")
                .filter(|id| id.starts_with(prefix) && id.len() <= BLOCK_ID_MAX)
                .take(BLOCKS_LISTED)
                .map(str::to_owned)
                .collect()),
            // Nothing was ever sent there.
            404 if is_of_storage(&reply) => Ok(HashSet::new()),
            _ => Err(refusal(OPERATION, &host, &reply)),
        }
    }

    /// Makes the blocks, in this order, the content.
    ///
    /// # Errors
    /// As for [`Client::put_blob`]; or a block is missing.
    pub async fn put_block_list(&self, url: &UploadUrl, ids: &[String]) -> Result<(), Error> {
        let mut xml = String::from(r#"<?xml version="1.0" encoding="utf-8"?><BlockList>"#);
        for id in ids {
            // The latest, wherever it is: a repeat after a lost answer finds them committed.
            xml.push_str("<Latest>");
            xml.push_str(id);
            xml.push_str("</Latest>");
        }
        xml.push_str("</BlockList>");
        let xml = Bytes::from(xml);
        let url = url.with("comp=blocklist");
        let headers = [
            ("content-type", "application/xml".to_owned()),
            ("x-ms-blob-content-type", OCTETS.to_owned()),
        ];
        self.send("commit blocks", &url, &headers, xml, Speed::Full)
            .await
    }

    async fn send(
        &self,
        operation: &'static str,
        url: &Url,
        headers: &[(&'static str, String)],
        body: Bytes,
        speed: Speed,
    ) -> Result<(), Error> {
        retry::in_place(
            || {
                self.blobs
                    .put(operation, url.clone(), headers, body.clone(), speed)
            },
            |error: &Error| error.passing(true),
        )
        .await
    }
}

const OCTETS: &str = "application/octet-stream";

/// Letters of a block's id: 64 bytes in base64.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCK_ID_MAX: usize = 88;

/// A blob has at most 50,000 blocks in its content and 100,000 beside it.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCKS_LISTED: usize = 150_000;

/// The bytes in pieces, so that they can be seen to move, no faster than they may go.
fn pieces(
    bytes: Bytes,
    pace: Arc<Pace>,
    speed: Speed,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold((bytes, pace), move |(mut rest, pace)| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(pace.piece()));
        if speed == Speed::Limited {
            pace.take(piece.len()).await;
        }
        Some((Ok(piece), (rest, pace)))
    })
}

/// Whether storage itself answered: each of its answers has a header of its own kind.
///
/// Source: learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes (`x-ms-request-id`)
fn is_of_storage(reply: &Reply) -> bool {
    reply
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-ms-"))
}

fn refusal(operation: &'static str, host: &Door, reply: &Reply) -> Error {
    let floor = http::hold(host, reply.status, &reply.headers);
    if !is_of_storage(reply) || reply.status.is_redirection() {
        return reply.foreign(floor);
    }
    let text = reply.text();
    let code = http::text_header(&reply.headers, "x-ms-error-code")
        .map(str::to_owned)
        .or_else(|| element(&text, "Code"));
    let answer = Answer {
        from: From::Blob,
        status: reply.status.as_u16(),
        code: code.map(|code| words(&code)),
        message: words(&element(&text, "Message").unwrap_or_default()),
        request_id: http::text_header(&reply.headers, "x-ms-request-id").map(words),
        floor,
        permission: None,
    };
    Error::new(operation, Kind::Answer(Box::new(answer)))
}

/// The text of the first element of this name in Azure's small documents, which proxies may replace by anything.
fn element(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(str::to_owned)
}

/// The texts of all elements of this name that contain no other, found one after the other.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (text, after) = after.split_once(&end)?;
        rest = after;
        Some(text)
    })
}

/// When a body last moved.
#[derive(Debug, Clone)]
struct Moved {
    /// Bytes left, and when one moved last.
    state: Arc<Mutex<(u64, Instant)>>,
    idle: Duration,
}

impl Moved {
    fn new(len: u64, idle: Duration) -> Self {
        Self {
            state: Arc::new(Mutex::new((len, Instant::now()))),
            idle,
        }
    }

    fn note(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0.saturating_sub(bytes as u64), Instant::now());
    }

    /// Waits until the body stands still for too long.
    async fn stalled(&self) {
        loop {
            let (left, at) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let until = at + if left == 0 { ANSWER } else { self.idle };
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_upload_address_keeps_its_query_and_shows_none_of_it() {
        let url = UploadUrl::parse("https://blob.example/a/b?sv=1&sig=a%2Bb%3D").unwrap();
        assert_eq!(
            url.with("comp=blocklist").as_str(),
            "https://blob.example/a/b?sv=1&sig=a%2Bb%3D&comp=blocklist"
        );
        assert_eq!(format!("{url:?}"), "UploadUrl(blob.example/…)");
    }

    #[test]
    fn content_goes_to_another_machine_with_tls_only() {
        for (text, good) in [
            ("https://blob.example/x?sig=1", true),
            ("http://blob.example/x?sig=1", false),
            ("http://127.0.0.1:4/x", true),
            ("http://[::1]:4/x", true),
            ("http://localhost:4/x", true),
            ("ftp://localhost/x", false),
            ("x", false),
        ] {
            assert_eq!(UploadUrl::parse(text).is_some(), good, "{text}");
        }
    }

    #[test]
    fn the_code_of_an_error_document_is_found_behind_a_byte_order_mark() {
        let xml = "\u{feff}<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>x</Message></Error>";
        assert_eq!(element(xml, "Code").as_deref(), Some("ServerBusy"));
        assert_eq!(element("<html>", "Code"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_given_up_when_it_stands_still_not_when_it_is_slow() {
        const IDLE: Duration = Duration::from_secs(60);
        let moved = Moved::new(10, IDLE);
        let began = Instant::now();
        let mover = moved.clone();
        let (slow, ()) = tokio::join!(
            async {
                moved.stalled().await;
                began.elapsed()
            },
            async {
                for _ in 0..5 {
                    tokio::time::sleep(IDLE / 2).await;
                    mover.note(1);
                }
            }
        );
        assert!(slow >= IDLE * 7 / 2, "{slow:?}");
    }
}
