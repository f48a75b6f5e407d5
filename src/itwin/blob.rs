//! Sends content to the addresses that storage issues, and reads it back. Such an address is a secret, and never gets
//! the platform's token.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list, get-block-list

mod stream;
mod upload_url;
mod xml;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, header};
use url::Url;

use super::Client;
use super::body::{self, Body as Read};
use super::error::{Answer, Error, From, Kind, Repeat, root_cause};
use super::headers::text_header;
use super::hosts::{Host, Hosts};
use super::limits::Limit;
use super::network::Route;
use super::reply::Reply;
use super::transport::{HttpClients, execute, pause_host};
use super::untrusted_text::sanitize;
use crate::bandwidth::BandwidthLimiter;
use crate::ids::StorageFileId;
use crate::retry;

pub use stream::Speed;
pub use upload_url::{Checksum, UploadUrl};

use stream::{ANSWER, Progress, chunks};
use xml::{element, elements};

/// Characters of a block id that need no escape in a query; base64 also has `+`, `/` and `=`.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

const OCTETS: &str = "application/octet-stream";

/// Maximum length of a block id: 64 bytes in base64.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCK_ID_MAX: usize = 88;

/// Maximum number of blocks of a blob: 50,000 committed and 100,000 uncommitted.
/// Source: learn.microsoft.com/rest/api/storageservices/put-block
const BLOCKS_LISTED: usize = 150_000;

#[derive(Debug)]
pub(super) struct Blobs {
    http: HttpClients,
    hosts: Arc<Hosts>,
    /// A body without progress for this long is aborted.
    idle: Duration,
    pub(super) limiter: Arc<BandwidthLimiter>,
}

impl Blobs {
    pub(super) fn new(
        route: &Route,
        hosts: Arc<Hosts>,
        limiter: BandwidthLimiter,
    ) -> Result<Self, Error> {
        // One socket per body: several bodies on one HTTP/2 connection would share its flow control window.
        let http = HttpClients::new(|| Ok(route.builder()?.http1_only()))?;
        let idle = route.network.idle_timeout;
        Ok(Self {
            http,
            hosts,
            idle,
            limiter: Arc::new(limiter),
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
        let host = self.hosts.of(&url);
        // Before the time for its progress begins.
        if let Some(lease) = host.lease() {
            lease.valid().await;
        }
        let progress = Progress::new(len, self.idle);
        let seen = progress.clone();
        let body = chunks(body, Arc::clone(&self.limiter), speed)
            .inspect(move |chunk| seen.note(chunk.as_ref().map_or(0, Bytes::len)));
        let mut request = self
            .http
            .to(&host)
            .put(url)
            .header(header::CONTENT_LENGTH, len);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::wrap_stream(body));
        let sent = execute(operation, &host, request, Limit::Answer);
        let reply = tokio::select! {
            reply = sent => reply?,
            () = progress.stalled() => {
                let host = host.label.clone();
                return Err(Error::new(operation, Kind::Unreachable { host, cause: "transfer stalled".to_owned(), sent: true }));
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
    /// Reads the content of a file in chunks.
    ///
    /// # Errors
    /// The file has no content, is not readable, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/download-file/
    pub async fn download(
        &self,
        file_id: &StorageFileId,
        mut each: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Error> {
        const OPERATION: &str = "download";
        let url = self.content_address(file_id).await?;
        let unreachable = |cause: String| {
            let host = self.blobs.hosts.of(&url.url).label.clone();
            Error::new(
                OPERATION,
                Kind::Unreachable {
                    host,
                    cause,
                    sent: true,
                },
            )
        };
        let failed = |error: &reqwest::Error| unreachable(root_cause(error));
        let host = self.blobs.hosts.of(&url.url);
        let request = self.blobs.http.to(&host).get(url.url.clone()).send();
        let stalled = || unreachable("transfer stalled".to_owned());
        let answer = tokio::time::timeout(ANSWER, request)
            .await
            .map_err(|_| stalled())?;
        host.count(answer.as_ref().ok().map(reqwest::Response::status));
        let answer = answer.map_err(|error| failed(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let reply = |body| Reply::new(OPERATION, host.label.clone(), status, headers, body);
        if !status.is_success() {
            let read = tokio::time::timeout(ANSWER, body::read(answer, Limit::Answer)).await;
            let body = read.ok().and_then(Result::ok).map(|(body, _)| body);
            let reply = reply(body.unwrap_or(Read::Small(Vec::new())));
            return Err(refusal(OPERATION, &host, &reply));
        }
        let reply = reply(Read::Small(Vec::new()));
        if !is_of_storage(&reply) {
            return Err(reply.foreign(None));
        }
        let mut chunks = answer.bytes_stream();
        loop {
            let next = tokio::time::timeout(self.blobs.idle, chunks.next()).await;
            match next.map_err(|_| stalled())? {
                Some(chunk) => each(&chunk.map_err(|error| failed(&error))?),
                None => return Ok(()),
            }
        }
    }

    /// Sends the whole content in one request, replacing earlier content. Safe to repeat.
    ///
    /// # Errors
    /// The address has expired, the bytes arrived corrupted, or the host is not reachable.
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

    /// Sends one block. Safe to repeat: a block with the same id replaces the earlier one.
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

    /// The ids of all blocks of a blob, committed or not, that start with `prefix`.
    ///
    /// # Errors
    /// As for [`Client::put_blob`]; or the address does not permit reading.
    pub async fn blocks(&self, url: &UploadUrl, prefix: &str) -> Result<HashSet<String>, Error> {
        const OPERATION: &str = "list blocks";
        let url = url.with("comp=blocklist&blocklisttype=all");
        let host = self.blobs.hosts.of(&url);
        let request = self.blobs.http.to(&host).get(url).timeout(ANSWER);
        let reply = execute(OPERATION, &host, request, Limit::List).await?;
        match reply.status.as_u16() {
            200 if is_of_storage(&reply) => Ok(elements(&reply.text(), "Name")
                .filter(|id| id.starts_with(prefix) && id.len() <= BLOCK_ID_MAX)
                .take(BLOCKS_LISTED)
                .map(str::to_owned)
                .collect()),
            // Nothing was sent there yet.
            404 if is_of_storage(&reply) => Ok(HashSet::new()),
            _ => Err(refusal(OPERATION, &host, &reply)),
        }
    }

    /// Commits these blocks, in this order, as the content. Safe to repeat.
    ///
    /// # Errors
    /// As for [`Client::put_blob`]; or a block is missing.
    pub async fn put_block_list(&self, url: &UploadUrl, ids: &[String]) -> Result<(), Error> {
        let mut xml = String::from(r#"<?xml version="1.0" encoding="utf-8"?><BlockList>"#);
        for id in ids {
            // `Latest` also finds blocks that are already committed, as after a lost response.
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
            |error: &Error| error.retry_in_place(Repeat::Safe),
        )
        .await
    }
}

/// Whether storage itself responded: all its responses have an `x-ms-` header.
///
/// Source: learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes (`x-ms-request-id`)
fn is_of_storage(reply: &Reply) -> bool {
    reply
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-ms-"))
}

fn refusal(operation: &'static str, host: &Host, reply: &Reply) -> Error {
    let floor = pause_host(host, reply.status, &reply.headers);
    if !is_of_storage(reply) || reply.status.is_redirection() {
        return reply.foreign(floor);
    }
    let text = reply.text();
    let code = text_header(&reply.headers, "x-ms-error-code")
        .map(str::to_owned)
        .or_else(|| element(&text, "Code"));
    let answer = Answer {
        from: From::Blob,
        status: reply.status.as_u16(),
        code: code.map(|code| sanitize(&code)),
        message: sanitize(&element(&text, "Message").unwrap_or_default()),
        request_id: text_header(&reply.headers, "x-ms-request-id").map(sanitize),
        floor,
        permission: None,
    };
    Error::new(operation, Kind::Answer(Box::new(answer)))
}
