//! Bytes to the addresses that storage hands out. Such an address is a secret, and never sees the platform's token.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, header};
use tokio::time::Instant;
use url::{Host, Url};

use super::Client;
use super::error::{Answer, Error, From, Kind, harmless};
use super::http::{self, Gates, Reply};
use crate::retry;

/// A body of which no byte moves for this long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// After its last byte a body is answered within this time.
const ANSWER: Duration = Duration::from_secs(120);

/// A block goes out in pieces of this size, so that it can be seen to move.
const PIECE: usize = 64 * 1024;

/// What a block id may keep in a query; base64 has `+`, `/` and `=`, which it may not.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// An address to upload to. Whoever has it may write: it shows only its host.
#[derive(Clone)]
pub struct UploadUrl(Url);

/// What storage says it received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// MD5 of the content, if told.
    pub md5: Option<[u8; 16]>,
}

impl UploadUrl {
    /// None when it is no address, or would send the content without TLS to another machine.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let here = match url.host()? {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        };
        (url.scheme() == "https" || url.scheme() == "http" && here).then_some(Self(url))
    }

    /// The address with more in its query; what is there already is signed and stays as it is.
    fn with(&self, more: &str) -> Url {
        let mut url = self.0.clone();
        let query = url
            .query()
            .map_or_else(|| more.to_owned(), |query| format!("{query}&{more}"));
        url.set_query(Some(&query));
        url
    }
}

impl fmt::Debug for UploadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadUrl({}/…)", self.0.authority())
    }
}

#[derive(Debug)]
pub(super) struct Blobs {
    http: reqwest::Client,
    gates: Arc<Gates>,
}

impl Blobs {
    pub(super) fn new(gates: Arc<Gates>) -> Result<Self, Error> {
        // One socket per body: many bodies over one HTTP/2 connection would share its window.
        let http = http::builder()
            .http1_only()
            .build()
            .map_err(|error| http::setup(&error))?;
        Ok(Self { http, gates })
    }

    async fn put(
        &self,
        operation: &'static str,
        url: Url,
        headers: &[(&'static str, String)],
        len: u64,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Reply, Error> {
        let moved = Moved::new(len);
        let seen = moved.clone();
        let body = body.inspect(move |piece| seen.note(piece.as_ref().map_or(0, Bytes::len)));
        let mut request = self
            .http
            .put(url.clone())
            .header(header::CONTENT_LENGTH, len);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let host = self.gates.of(&url);
        let sent = http::exchange(
            operation,
            &host,
            &url,
            request.body(Body::wrap_stream(body)),
        );
        let reply = tokio::select! {
            reply = sent => reply?,
            () = moved.stalled() => {
                let host = url.authority().to_owned();
                return Err(Error::new(operation, Kind::Unreachable { host, cause: "no byte moved for too long".to_owned(), sent: true }));
            }
        };
        if reply.status.is_success() {
            Ok(reply)
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
            let host = url.0.authority().to_owned();
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
        let request = self.blobs.http.get(url.0.clone()).send();
        let stalled = || unreachable("no byte moved for too long".to_owned());
        let answer = tokio::time::timeout(ANSWER, request)
            .await
            .map_err(|_| stalled())?;
        self.blobs
            .gates
            .of(&url.0)
            .count(answer.as_ref().ok().map(reqwest::Response::status));
        let answer = answer.map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(unreachable(format!("status {}", answer.status())));
        }
        let mut pieces = answer.bytes_stream();
        loop {
            let next = tokio::time::timeout(IDLE, pieces.next()).await;
            match next.map_err(|_| stalled())? {
                Some(piece) => each(&piece.map_err(|error| failed(&error))?),
                None => return Ok(()),
            }
        }
    }

    /// Sends the whole content in one request of `len` bytes; replaces what was sent before.
    ///
    /// # Errors
    /// The address is not good any more, the body broke off, or the host is not reachable.
    pub async fn put_blob(
        &self,
        url: &UploadUrl,
        len: u64,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Receipt, Error> {
        let headers = [
            ("x-ms-blob-type", "BlockBlob".to_owned()),
            ("content-type", OCTETS.to_owned()),
        ];
        let reply = self
            .blobs
            .put("upload", url.0.clone(), &headers, len, body)
            .await?;
        let md5 = http::text_header(&reply.headers, "content-md5")
            .and_then(|text| BASE64_STANDARD.decode(text).ok())
            .and_then(|md5| md5.try_into().ok());
        Ok(Receipt { md5 })
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
        md5: [u8; 16],
    ) -> Result<(), Error> {
        let url = url.with(&format!(
            "comp=block&blockid={}",
            utf8_percent_encode(id, IN_QUERY)
        ));
        let headers = [("content-md5", BASE64_STANDARD.encode(md5))];
        let len = block.len() as u64;
        retry::in_place(
            || {
                self.blobs.put(
                    "upload block",
                    url.clone(),
                    &headers,
                    len,
                    pieces(block.clone()),
                )
            },
            |error: &Error| error.passing(true),
        )
        .await
        .map(drop)
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
        let len = xml.len() as u64;
        retry::in_place(
            || {
                self.blobs.put(
                    "commit blocks",
                    url.clone(),
                    &headers,
                    len,
                    pieces(xml.clone()),
                )
            },
            |error: &Error| error.passing(true),
        )
        .await
        .map(drop)
    }
}

const OCTETS: &str = "application/octet-stream";

fn pieces(bytes: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold(bytes, |mut rest| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok(piece), rest))
    })
}

fn refusal(operation: &'static str, host: &http::Host, reply: &Reply) -> Error {
    let text = reply.text();
    let code = http::text_header(&reply.headers, "x-ms-error-code")
        .map(str::to_owned)
        .or_else(|| element(&text, "Code"));
    let answer = Answer {
        from: From::Blob,
        status: reply.status.as_u16(),
        code: code.map(|code| harmless(&code, "")),
        message: harmless(&element(&text, "Message").unwrap_or_default(), ""),
        request_id: http::text_header(&reply.headers, "x-ms-request-id").map(|id| harmless(id, "")),
        floor: http::hold(host, reply.status, &reply.headers),
        permission: None,
    };
    Error::new(operation, Kind::Answer(Box::new(answer)))
}

/// The text of an element of Azure's small error document, which proxies may replace by anything.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>"))
        .map(|(text, _)| text.to_owned())
}

/// When a body last moved.
#[derive(Debug, Clone)]
struct Moved(Arc<Mutex<(u64, Instant)>>);

impl Moved {
    fn new(len: u64) -> Self {
        Self(Arc::new(Mutex::new((len, Instant::now()))))
    }

    fn note(&self, bytes: usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0.saturating_sub(bytes as u64), Instant::now());
    }

    /// Waits until the body stands still for too long.
    async fn stalled(&self) {
        loop {
            let (left, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let until = at + if left == 0 { ANSWER } else { IDLE };
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
        let moved = Moved::new(10);
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
