//! The connections of the page and their limits.
//!
//! Anyone who reaches the port can open connections and leave them idle. So there is a budget of descriptors, in total
//! and per peer, that leaves most of the process's limit to the work; a deadline for the head of a request, which also
//! applies to idle connections; and one for a client that does not read its response.

use std::collections::HashMap;
use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Connections at the same time, if the process may have enough descriptors.
const CONNECTIONS_MAX: usize = 128;

/// The page uses at most this fraction of the process's descriptors: 1 / `PART`.
const PART: u64 = 8;

/// One peer uses at most this fraction of the connections: 1 / `PEER_PART`.
const PEER_PART: usize = 2;

/// Time limit for the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(15);

/// The longest head of a request, in bytes: hyper's smallest limit is half of that.
const HEAD_MAX: usize = 16 * 1024;

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// A client that reads no byte of its response for this long is disconnected.
const STALL: Duration = Duration::from_secs(30);

/// Minimum time between log lines that others can provoke.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Counters of the page itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Connections that were closed at once because there were too many.
    pub(super) refused: AtomicU64,
    /// Wrong tokens.
    pub(super) wrong_tokens: AtomicU64,
}

/// Limits log lines that others can provoke, and counts the suppressed ones.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Whether to log now, and how many lines were suppressed since the last one.
    pub(super) fn may(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_PAUSE)
        {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Connections that are open.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; it is given back when this is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let of_peer = taken.get(&peer).copied().unwrap_or(0);
        if all >= self.most || of_peer >= self.most.div_ceil(PEER_PART) {
            return None;
        }
        taken.insert(peer, of_peer + 1);
        Some(Place {
            places: Arc::clone(self),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = (self.places.taken.lock()).unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Connections that the page may have with this limit of descriptors; None: unlimited.
fn budget(descriptors: Option<u64>) -> usize {
    let part = descriptors.map_or(u64::MAX, |all| all / PART);
    usize::try_from(part).map_or(CONNECTIONS_MAX, |part| part.clamp(2, CONNECTIONS_MAX))
}

/// Serves until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let places = Arc::new(Places {
        most: budget(limit),
        taken: Mutex::default(),
    });
    let mut quiet = LogLimit::default();
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                if let Some(suppressed) = quiet.may(Instant::now()) {
                    warn!(%error, suppressed, "cannot accept a connection to the page: retrying in 1 s");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Some(place) = places.take(peer) else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(suppressed) = quiet.may(Instant::now()) {
                warn!(
                    %peer, limit = places.most, suppressed,
                    "too many connections to the page: closed a new one"
                );
            }
            continue;
        };
        let router = router.clone().layer(Extension(Peer(peer)));
        open.spawn(async move {
            if let Err(error) = connection(stream, router).await {
                debug!(%peer, %error, "connection to the page failed");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(
            TokioIo::new(StallGuard::new(stream)),
            TowerToHyperService::new(router),
        )
        .await
}

/// A socket that fails when the peer reads nothing for too long.
#[derive(Debug)]
struct StallGuard<S> {
    socket: S,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    fn new(socket: S) -> Self {
        Self {
            socket,
            stalled: None,
        }
    }

    /// What to answer to an attempt to write: after the deadline, that it failed.
    fn within<T>(
        &mut self,
        wrote: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let deadline = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.within(wrote, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.within(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.within(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn the_page_uses_a_small_part_of_the_descriptors() {
        assert_eq!(budget(None), CONNECTIONS_MAX);
        assert_eq!(budget(Some(1_000_000)), CONNECTIONS_MAX);
        assert_eq!(budget(Some(1024)), 128);
        assert_eq!(budget(Some(256)), 32);
        assert_eq!(budget(Some(0)), 2);
    }

    #[test]
    fn one_peer_leaves_connections_to_others_and_releases_its_own() {
        let places = Arc::new(Places {
            most: 4,
            taken: Mutex::default(),
        });
        let peer = |last| IpAddr::from([192, 0, 2, last]);
        let mut taken: Vec<_> = (0..2).map(|_| places.take(peer(1)).unwrap()).collect();
        assert!(places.take(peer(1)).is_none());
        taken.push(places.take(peer(2)).unwrap());
        taken.push(places.take(peer(3)).unwrap());
        assert!(places.take(peer(4)).is_none());
        taken.pop();
        assert!(places.take(peer(4)).is_some());
        taken.clear();
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_is_disconnected_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = StallGuard::new(near);
        let slow = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..64 {
                tokio::time::sleep(STALL / 2).await;
                far.read_exact(&mut byte).await.unwrap();
            }
            far
        });
        near.write_all(&[7; 80]).await.unwrap();
        let _still_open = slow.await.unwrap();
        let error = near.write_all(&[7; 80]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_flood_is_logged_once_per_pause_with_the_number_of_suppressed_lines() {
        let start = Instant::now();
        let mut quiet = LogLimit::default();
        assert_eq!(quiet.may(start), Some(0));
        for _ in 0..9 {
            assert_eq!(quiet.may(start), None);
        }
        assert_eq!(quiet.may(start + LOG_PAUSE), Some(9));
    }
}
