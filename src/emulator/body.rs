//! Bodies of requests and responses: read to the end, sent whole, cut off or throttled.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Response;
use hyper::body::{Frame, Incoming};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Reply = Response<Body>;

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Reads a body to its end: many clients read the response only after they have sent everything.
pub(super) async fn discard(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// The same response with the second half of its body missing.
pub(super) async fn cut(reply: Reply) -> Reply {
    let (mut parts, body) = reply.into_parts();
    let whole = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    parts.headers.insert("content-length", whole.len().into());
    let half = whole.slice(..whole.len() / 2);
    // The pause flushes the first half.
    let end = futures_util::stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::ErrorKind::ConnectionReset.into())
    });
    let pieces = futures_util::stream::iter([Ok(Frame::data(half))]).chain(end);
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// The same response with a throttled body.
pub(super) async fn slow(reply: Reply, bytes_per_second: u64) -> Reply {
    let (parts, body) = reply.into_parts();
    let whole = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let pieces: Vec<Bytes> = whole.chunks(1024).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause(piece.len(), bytes_per_second)).await;
        Ok(Frame::data(piece))
    });
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// How long this number of bytes takes.
pub(super) fn pause(bytes: usize, bytes_per_second: u64) -> Duration {
    let micros = (bytes as u64).saturating_mul(1_000_000) / bytes_per_second.max(1);
    Duration::from_micros(micros)
}
