//! The blob storage: receives content at signed addresses by Azure's rules, straight to disk.
//!
//! Source: learn.microsoft.com/rest/api/storageservices/ put-blob, put-block, put-block-list, get-block-list

mod blocks;
mod download;
mod put;
mod receive;
mod request;

use std::collections::HashMap;
use std::io;

use hyper::body::Incoming;
use hyper::{Method, Request};
use url::form_urlencoded;

use super::body::discard;
use super::faults::AppliedFault;
use super::reply::{self, Reply};
use super::shared::Shared;

use request::{BlobError, BlobRequest, INCOMPLETE, refused};

const MIB: u64 = 1024 * 1024;

/// Handles a request; an error closes the connection, as when the body was cut off.
pub(super) async fn handle(
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
    let request = BlobRequest {
        shared,
        headers: &parts.headers,
        query: &query,
        blob: blob.unwrap_or_default(),
        applied,
    };
    if let Err(BlobError(status, code, message)) = request.check(&parts.method) {
        discard(body).await;
        return Ok(reply::xml(status, code, &message));
    }
    let comp = query.get("comp").map(String::as_str);
    let done = match (&parts.method, comp) {
        (&Method::PUT, None) => request.blob(body).await,
        (&Method::PUT, Some("block")) => request.block(body).await,
        (&Method::PUT, Some("blocklist")) => request.block_list(body).await,
        (&Method::GET, Some("blocklist")) => request.list_blocks(),
        (&Method::GET | &Method::HEAD, None) => request.content(parts.method == Method::HEAD).await,
        _ => {
            discard(body).await;
            refused(400, "InvalidQueryParameterValue", "Unknown operation.")
        }
    };
    match done {
        Ok(mut reply) => {
            if let Ok(version) = request.version().parse() {
                reply.headers_mut().insert("x-ms-version", version);
            }
            Ok(reply)
        }
        Err(BlobError(_, INCOMPLETE, message)) => Err(io::Error::other(message)),
        Err(BlobError(status, code, message)) => Ok(reply::xml(status, code, &message)),
    }
}
