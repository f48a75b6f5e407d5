//! The body of a request that changes something, which checks the lease when the connection is about to send it.
//!
//! Between a check before a request and its first byte on the wire, a request waits for a connection and for the task
//! that writes to it; a machine may stand still meanwhile. The connection asks the body for its length directly before
//! it writes the head, and for each piece directly before it writes that. Without a valid lease, the body announces
//! more than there is and then fails, so that what leaves is never a whole request: not even one that has no content.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::header;

use crate::failpoint::stoppoint;
use crate::lease::Lease;

/// Makes the body of the request check the lease.
pub(super) fn guard(request: &mut reqwest::Request, lease: Lease, operation: &'static str) {
    let inner = request.body_mut().take().unwrap_or_default();
    let announced = request.headers_mut().remove(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    let body = GuardedBody {
        length: announced.or_else(|| inner.size_hint().exact()),
        inner,
        lease,
        operation,
    };
    *request.body_mut() = Some(reqwest::Body::wrap(body));
}

struct GuardedBody {
    inner: reqwest::Body,
    /// None: known at its end only.
    length: Option<u64>,
    lease: Lease,
    operation: &'static str,
}

impl GuardedBody {
    fn may_leave(&self) -> bool {
        stoppoint(self.operation);
        self.lease.is_valid()
    }
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if !self.may_leave() {
            return Poll::Ready(Some(Err(ENDED.into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // Then it would not be asked any more.
        false
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) if self.may_leave() => SizeHint::with_exact(length),
            Some(length) => SizeHint::with_exact(length.saturating_add(1)),
            None => SizeHint::default(),
        }
    }
}

/// Why a request was not sent, or only in part.
pub(super) const ENDED: &str = "the lease of this host ended meanwhile";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::lease::boot_time;

    /// What a server gets of a request with this body, whose lease ends when the connection takes the request over.
    async fn received(body: Option<&'static str>, is_valid: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            let mut part = [0; 1024];
            loop {
                let count = socket.read(&mut part).unwrap_or(0);
                got.extend_from_slice(&part[..count]);
                let text = String::from_utf8_lossy(&got).to_lowercase();
                let whole = text.split_once("\r\n\r\n").is_some_and(|(head, rest)| {
                    let length = head
                        .lines()
                        .find_map(|l| l.strip_prefix("content-length: "));
                    length.unwrap().parse::<usize>().unwrap() == rest.len()
                });
                if count == 0 || whole {
                    socket
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .ok();
                    return if whole { text } else { String::new() };
                }
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.post(url);
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut request = request.build().unwrap();
        let until = if is_valid { 60_000 } else { -1 };
        guard(&mut request, Lease::until(boot_time() + until), "test");
        assert_eq!(client.execute(request).await.is_ok(), is_valid);
        drop(client);
        server.join().unwrap()
    }

    #[tokio::test]
    async fn no_whole_request_leaves_after_the_end_of_the_lease() {
        for body in [None, Some(""), Some("content")] {
            let whole = received(body, true).await;
            let length = format!("content-length: {}\r\n", body.unwrap_or_default().len());
            assert!(whole.contains(&length), "{whole}");
            assert!(whole.ends_with(body.unwrap_or_default()), "{whole}");
            assert_eq!(received(body, false).await, "", "{body:?}");
        }
    }
}
